//! Logs and metrics.
mod history;
pub mod log;
pub mod metrics;
mod process;
pub mod quota;
pub mod tally;
