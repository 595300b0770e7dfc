//! Logs and metrics.
pub mod log;
pub mod metrics;
pub mod quota;
pub mod tally;
