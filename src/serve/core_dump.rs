//! Forbids core files, and access to this process's memory by other processes of its user. Both would reveal the tokens.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use crate::event::Event;

/// A sandbox may forbid these calls. revgate serves all the same and logs a warning.
pub(super) fn forbid() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let limited = setrlimit(Resource::Core, none);
    // The limit alone does not hold where cores are piped to a program (core(5)).
    let result = limited.and(set_dumpable_behavior(DumpableBehavior::NotDumpable));
    if let Err(error) = result {
        tracing::warn!(event = Event::CoreFilesPossible.label(), %error, "core files could not be forbidden; a core file would hold the tokens");
    }
}
