//! The whole gateway over real sockets, in front of DevRev's double.

mod circuit;
mod hostile;
mod http;
mod process;
mod quota;
mod reload;
mod rig;
mod scenarios;
mod tls;
mod unix;
mod waiting;
mod wire;
