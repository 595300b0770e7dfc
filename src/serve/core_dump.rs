//! No core file of this process, and no look into its memory for others of its user: both would hold the tokens.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// A sandbox may forbid the asking; that is no reason not to serve.
pub fn forbid() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let limited = setrlimit(Resource::Core, none);
    // The limit alone does not hold where cores are piped to a program (core(5)).
    let result = limited.and(set_dumpable_behavior(DumpableBehavior::NotDumpable));
    if let Err(error) = result {
        tracing::warn!(%error, "core files could not be forbidden; one of this process would hold its tokens");
    }
}
