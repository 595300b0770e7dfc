//! The register on a real Redis or Valkey.

pub mod address;
pub(crate) mod answer;
pub(crate) mod connection;
mod meter;
pub(crate) mod script;
