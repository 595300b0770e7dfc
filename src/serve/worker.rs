//! One thread that serves: its own runtime, listening socket and upstream connections.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use anyhow::Context;
use tokio::runtime::Runtime;

use super::{
    connection::{self, Settings},
    listener::Listener,
};
use crate::{
    config::Config,
    stack::{self, Shared, Stack},
    upstream::{self, Bounds, Upstream},
};

/// What a worker serves with: replaced as a whole when the configuration changes, read once a request.
pub struct Slot(Mutex<Serving>);

struct Serving {
    stack: Stack,
    limits: Limits,
}

/// What a connection must know of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub max_header_bytes: usize,
    pub max_headers: usize,
    pub max_body: u64,
}

impl Slot {
    fn serving(&self) -> MutexGuard<'_, Serving> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For one request: its stack, and the largest body it may have.
    pub fn stack(&self) -> (Stack, u64) {
        let serving = self.serving();
        (serving.stack.clone(), serving.limits.max_body)
    }

    pub fn limits(&self) -> Limits {
        self.serving().limits
    }
}

/// A worker from outside.
pub struct Handle {
    slot: Arc<Slot>,
    upstream: Upstream,
}

impl Handle {
    /// A stack of another configuration over the same connections.
    ///
    /// # Errors
    /// See [`stack::build`].
    pub fn build(&self, config: &Config, shared: &Shared) -> Result<Stack, http::Error> {
        stack::build(config, shared, self.upstream.with(bounds(config)))
    }

    /// Requests that begin from now on are served by it; those under way end as they began.
    pub fn replace(&self, stack: Stack, config: &Config) {
        let next = Serving {
            stack,
            limits: limits(config),
        };
        // The old one is dropped after the lock.
        let _old = std::mem::replace(&mut *self.slot.serving(), next);
    }
}

/// All that a worker needs, made before its thread, so that what can fail has failed by then.
pub struct Worker {
    runtime: Runtime,
    listener: Listener,
    slot: Arc<Slot>,
    settings: Arc<Settings>,
}

impl Worker {
    /// # Errors
    /// When the runtime or the stack cannot be made.
    pub fn new(
        listener: Listener,
        config: &Config,
        shared: &Shared,
        options: upstream::Options,
        settings: Arc<Settings>,
    ) -> anyhow::Result<(Worker, Handle)> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("a worker's runtime could not be made")?;
        let upstream = {
            // Its connections are driven by this runtime.
            let _inside = runtime.enter();
            Upstream::new(options, bounds(config))
        };
        let stack = stack::build(config, shared, upstream.clone())?;
        let slot = Arc::new(Slot(Mutex::new(Serving {
            stack,
            limits: limits(config),
        })));
        let handle = Handle {
            slot: slot.clone(),
            upstream,
        };
        let worker = Worker {
            runtime,
            listener,
            slot,
            settings,
        };
        Ok((worker, handle))
    }

    pub fn spawn(self, number: usize) -> std::io::Result<JoinHandle<()>> {
        let Worker {
            runtime,
            listener,
            slot,
            settings,
        } = self;
        std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || runtime.block_on(connection::serve(listener, slot, settings)))
    }
}

fn bounds(config: &Config) -> Bounds {
    Bounds {
        connect_timeout: config.upstream.connect_timeout,
        attempt_timeout: config.upstream.attempt_timeout,
        idle_timeout: config.upstream.idle_timeout,
        max_body: config.limits.max_body,
    }
}

fn limits(config: &Config) -> Limits {
    Limits {
        max_header_bytes: config.limits.max_header_bytes,
        max_headers: config.limits.max_headers,
        max_body: config.limits.max_body,
    }
}
