#![doc = include_str!("ARCHITECTURE.md")]

pub mod admin;
pub mod body;
pub mod cli;
pub mod config;
pub mod error;
pub mod hash;
mod label;
pub mod layer;
pub mod plan;
pub mod policy;
pub mod record;
pub mod runtime;
pub mod serve;
pub mod simulator;
pub mod stack;
pub mod state;
pub mod telemetry;
pub mod types;
pub mod upstream;
