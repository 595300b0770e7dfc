//! The register on a real Redis or Valkey.

pub mod address;
mod announced;
pub(crate) mod answer;
mod cluster;
pub(crate) mod connection;
mod meter;
pub(crate) mod script;
pub(crate) mod sentinel;
