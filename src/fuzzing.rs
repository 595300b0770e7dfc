//! What fuzzing (`tests/fuzz`) reaches beyond the public modules. No other build has it.

pub use crate::{
    serve::fuzzing::{Followed, Follower, Gateway},
    upstream::fuzzing::{connect_with, frames},
};
