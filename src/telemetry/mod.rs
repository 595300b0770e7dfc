//! Logs, metrics and traces.
pub mod export;
mod history;
pub mod labels;
pub mod log;
pub mod metrics;
pub mod otlp;
mod process;
pub mod quota;
pub mod tally;
pub mod trace;
