//! The whole gateway over real sockets, in front of DevRev's double.

mod hostile;
mod http;
mod rig;
mod scenarios;
mod waiting;
