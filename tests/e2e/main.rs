//! The whole gateway over real sockets, in front of DevRev's double.

mod circuit;
mod deprecations;
mod explain;
mod hostile;
mod http;
mod keys;
mod logs;
mod process;
mod quota;
mod reload;
mod rig;
mod scenarios;
mod status;
mod token;
mod traces;
mod trial;
mod waiting;
mod wire;
