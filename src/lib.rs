#![doc = include_str!("ARCHITECTURE.md")]

mod admin;
pub mod allocation;
mod bind;
pub mod body;
pub mod cli;
pub mod config;
pub mod error;
pub mod event;
pub mod fleet;
#[cfg(fuzzing)]
pub mod fuzzing;
mod hash;
mod healthcheck;
mod label;
pub mod layer;
mod lock;
mod output;
pub mod plan;
pub mod policy;
mod random;
pub mod record;
mod runtime;
pub mod serve;
pub mod simulator;
pub mod stack;
pub mod state;
mod tcp;
pub mod telemetry;
pub mod types;
mod upstream;
mod version;
mod wall_clock;
