//! Ways to misuse a gateway. Each is a future that goes on until it is dropped; then a has left.

pub mod answers;
pub mod calls;
pub mod connections;
pub mod floods;
pub mod slowhttptest;
pub mod stream;
pub mod uploads;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::client::Protocol;

/// The key of caller a.
pub const KEY: &str = "key-of-caller-a";

/// Where a misuse takes place.
#[derive(Clone)]
pub struct Scene {
    pub proxy: SocketAddr,
    pub protocol: Protocol,
    /// Whether the misuse is under way; a row fails otherwise, because it would show nothing.
    pub took_hold: Arc<AtomicBool>,
}

impl Scene {
    /// Everything is in place.
    pub fn took_hold(&self) {
        self.took_hold.store(true, Ordering::Relaxed);
    }

    /// Holds what there is until a is made to leave.
    pub async fn hold<T>(&self, held: T) {
        self.took_hold();
        std::future::pending::<()>().await;
        drop(held);
    }
}
