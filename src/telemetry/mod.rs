//! Logs, metrics and traces.
#[cfg(test)]
pub(crate) mod captured;
pub mod client_lines;
pub(crate) mod export;
mod history;
pub mod labels;
pub mod log;
pub mod metrics;
pub(crate) mod otlp;
mod process;
pub mod quota;
pub mod shared;
pub(crate) mod tally;
pub(crate) mod trace;
