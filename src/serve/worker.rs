//! Worker threads. Each has its own runtime, descriptor of the listening socket, and upstream connections.

use std::{sync::Arc, thread::JoinHandle};

use anyhow::Context;
use arc_swap::{ArcSwap, Guard};

use super::inbound::{connection::ConnectionSettings, intake, listener::Listener};
use crate::{
    plan::Plan,
    runtime::{ThreadRuntime, spawn_thread},
    stack::{self, Stack},
    state::State,
    upstream::{self, Upstream},
};

/// The plan and the stack in use. A request takes them once and keeps them to its end.
pub(super) struct Serving {
    pub plan: Arc<Plan>,
    pub stack: Stack,
}

/// Holds a worker's [`Serving`]. A reload replaces it as a whole; each request reads it once.
#[derive(Clone)]
pub(super) struct Published(pub(super) Arc<ArcSwap<Serving>>);

impl Published {
    pub(super) fn load(&self) -> Guard<Arc<Serving>> {
        self.0.load()
    }
}

/// The part of a worker that a reload uses.
pub(crate) struct WorkerHandle {
    published: Published,
    upstream: Upstream,
}

impl WorkerHandle {
    /// Serves new requests with this plan; requests in flight keep theirs. `state` must have been reconciled with `plan`.
    pub(crate) fn publish(&self, plan: &Arc<Plan>, state: &State) {
        let upstream = self.upstream.within(plan.upstream);
        let lanes = upstream.lanes();
        self.published.0.store(Arc::new(Serving {
            stack: stack::build(plan, state, upstream, Some(lanes)),
            plan: plan.clone(),
        }));
    }

    #[cfg(test)]
    pub(super) fn serving(&self) -> Arc<Serving> {
        self.published.0.load_full()
    }
}

/// A worker before its thread starts. Everything that can fail is done by then.
pub(super) struct Worker {
    runtime: ThreadRuntime,
    listener: Listener,
    published: Published,
    settings: Arc<ConnectionSettings>,
}

impl Worker {
    /// # Errors
    /// When the runtime cannot be made.
    pub(super) fn new(
        listener: Listener,
        plan: &Arc<Plan>,
        state: &State,
        options: upstream::Options,
        settings: Arc<ConnectionSettings>,
    ) -> anyhow::Result<(Worker, WorkerHandle)> {
        let runtime = ThreadRuntime::new().context("a worker's runtime could not be made")?;
        let upstream = {
            // This runtime drives the upstream connections.
            let _inside = runtime.enter();
            Upstream::new(options, plan.upstream)
        };
        let published = Published(Arc::new(ArcSwap::from_pointee(Serving {
            stack: stack::build(plan, state, upstream.clone(), Some(upstream.lanes())),
            plan: plan.clone(),
        })));
        let handle = WorkerHandle {
            published: published.clone(),
            upstream,
        };
        let worker = Worker {
            runtime,
            listener,
            published,
            settings,
        };
        Ok((worker, handle))
    }

    pub(super) fn handle(&self) -> &tokio::runtime::Handle {
        self.runtime.handle()
    }

    pub(super) fn spawn(self, number: usize) -> std::io::Result<JoinHandle<()>> {
        let Worker {
            runtime,
            listener,
            published,
            settings,
        } = self;
        let serve = move || runtime.block_on(intake::serve(listener, published, settings));
        spawn_thread(format!("worker-{number}"), serve)
    }
}
