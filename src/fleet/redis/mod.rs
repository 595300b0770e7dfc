//! The register on a real Redis or Valkey.

pub(crate) mod answer;
pub(crate) mod connection;
mod meter;
pub(crate) mod script;

// Below the configuration, which reads it too.
pub use crate::policy::redis_address as address;
