//! What the replicas of a fleet agree on, so that together they obey what one process obeys.

pub mod tokens;
