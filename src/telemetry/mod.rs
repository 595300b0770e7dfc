//! Logs and metrics.
pub mod keys;
pub mod log;
pub mod metrics;
mod process;
pub mod quota;
pub mod tally;
