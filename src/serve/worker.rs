//! One thread that serves: its own runtime, listening socket and upstream connections.

use std::{sync::Arc, thread::JoinHandle};

use anyhow::Context;
use arc_swap::{ArcSwap, Guard};

use super::inbound::{
    connection::{self, Settings},
    listener::Listener,
};
use crate::{
    plan::Plan,
    runtime::ThreadRuntime,
    stack::{self, Stack},
    state::State,
    upstream::{self, Upstream},
};

/// What a worker serves with. A request takes one and keeps it to its end.
pub struct Serving {
    pub plan: Arc<Plan>,
    pub stack: Stack,
}

/// Where a worker finds what it serves with: published as a whole when the configuration changes, read once a request.
#[derive(Clone)]
pub struct Published(Arc<ArcSwap<Serving>>);

impl Published {
    pub fn load(&self) -> Guard<Arc<Serving>> {
        self.0.load()
    }
}

/// A worker from outside.
pub struct Handle {
    published: Published,
    upstream: Upstream,
}

impl Handle {
    /// Requests that begin from now on see this plan; those under way end as they began. `state` must have been reconciled with
    /// `plan`.
    pub fn publish(&self, plan: &Arc<Plan>, state: &State) {
        let upstream = self.upstream.within(plan.upstream);
        self.published.0.store(Arc::new(Serving {
            stack: stack::build(plan, state, upstream),
            plan: plan.clone(),
        }));
    }

    /// What the worker serves with now.
    #[cfg(test)]
    pub fn serving(&self) -> Arc<Serving> {
        self.published.0.load_full()
    }
}

/// All that a worker needs, made before its thread, so that what can fail has failed by then.
pub struct Worker {
    runtime: ThreadRuntime,
    listener: Listener,
    published: Published,
    settings: Arc<Settings>,
}

impl Worker {
    /// # Errors
    /// When the runtime cannot be made.
    pub fn new(
        listener: Listener,
        plan: &Arc<Plan>,
        state: &State,
        options: upstream::Options,
        settings: Arc<Settings>,
    ) -> anyhow::Result<(Worker, Handle)> {
        let runtime = ThreadRuntime::new().context("a worker's runtime could not be made")?;
        let upstream = {
            // Its connections are driven by this runtime.
            let _inside = runtime.enter();
            Upstream::new(options, plan.upstream)
        };
        let published = Published(Arc::new(ArcSwap::from_pointee(Serving {
            stack: stack::build(plan, state, upstream.clone()),
            plan: plan.clone(),
        })));
        let handle = Handle {
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

    pub fn spawn(self, number: usize) -> std::io::Result<JoinHandle<()>> {
        let Worker {
            runtime,
            listener,
            published,
            settings,
        } = self;
        std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || runtime.block_on(connection::serve(listener, published, settings)))
    }
}
