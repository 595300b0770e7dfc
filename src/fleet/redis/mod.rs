//! The register on a real Redis or Valkey.

pub use crate::policy::redis_address as address;
