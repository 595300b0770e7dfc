//! The register on a real Redis or Valkey.

pub(crate) mod answer;
pub(crate) mod connection;
pub(crate) mod facts;
mod meter;
pub(crate) mod script;
pub(crate) mod trial;

// Below the configuration, which reads it too.
pub use crate::policy::redis_address as address;
