//! The replicas of a fleet, which share one quota through a register.
//!
//! `policy::fleet` decides what each may do. This module carries its values to the register and back, on a thread of its own: no worker
//! waits for a connection to it.

pub mod driver;
pub mod here;
mod hints;
pub mod names;
pub mod redis;
pub mod register;
pub(crate) mod replica;

/// Shared with the tests of `tests/`, which cannot see what this crate compiles for its own tests.
#[cfg(test)]
#[path = "../../tests/redis/mod.rs"]
pub(crate) mod redis_rig;
