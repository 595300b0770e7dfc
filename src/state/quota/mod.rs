//! The quota groups: what is learnt about each, and the requests that wait for it.
//!
//! `policy::ledger` decides whether an attempt may be sent, `policy::fair` whose turn it is. This module adds the clock, the
//! locks and the waiting.

mod answers;
mod dispatcher;
mod fleet;
mod group;
mod groups;
mod judge;
mod permit;
mod story;
mod used;
mod wait_rules;
mod waiting_room;

pub use self::groups::Groups;
pub(crate) use self::{
    fleet::{Drive, Fleet},
    group::{Group, WaitRequest},
    permit::Permit,
};
