//! The register on a real Redis or Valkey.

pub mod address;
