//! What is learnt of each quota group, and those who wait for it.
//!
//! `policy::ledger` says whether an attempt may go, `policy::fair` whose turn it is. Here is what they lack: time, locks, and
//! a room to wait in.

mod dealer;
mod group;
mod groups;
mod permit;
mod room;

pub use self::{
    group::{Asking, Group},
    groups::Groups,
    permit::Permit,
};
