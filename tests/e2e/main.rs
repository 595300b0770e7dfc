//! The whole gateway over real sockets, in front of DevRev's double.

mod circuit;
mod hostile;
mod http;
mod keys;
mod process;
mod quota;
mod reload;
mod rig;
mod scenarios;
mod token;
mod waiting;
mod wire;
