//! What fuzzing (`tests/fuzz`) reaches beyond the public modules. No other build has it.

pub use crate::{
    fleet::redis::fuzzing::texts,
    serve::fuzzing::{Followed, Follower, Gateway},
    upstream::fuzzing::{connect_with, frames},
};
