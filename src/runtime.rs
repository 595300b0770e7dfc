//! Single-threaded tokio runtimes.

use std::{
    future::Future,
    io,
    thread::{self, JoinHandle},
};

use tokio::runtime::{Builder, EnterGuard, Handle, Runtime};

/// A current-thread runtime that may be dropped anywhere. tokio's own panics if it is dropped within another runtime. Dropping it also
/// drops its tasks.
#[derive(Debug)]
pub(crate) struct ThreadRuntime(Option<Runtime>);

impl ThreadRuntime {
    /// # Errors
    /// When the system does not provide what the runtime needs.
    pub(crate) fn new() -> io::Result<ThreadRuntime> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(ThreadRuntime(Some(runtime)))
    }

    /// For spawning tasks on it from elsewhere.
    pub(crate) fn handle(&self) -> &Handle {
        self.runtime().handle()
    }

    /// Sockets, timers and tasks made under the guard belong to this runtime.
    pub(crate) fn enter(&self) -> EnterGuard<'_> {
        self.runtime().enter()
    }

    /// Runs `future` and every task of the runtime on this thread, until the future is done.
    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime().block_on(future)
    }

    fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("only drop takes it")
    }
}

impl Drop for ThreadRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Does not wait for blocking work, such as a reload or a name look-up, which would delay the exit.
            runtime.shutdown_background();
        }
    }
}

/// Starts a thread. Its log lines are in the span in which it is started, as those of the thread that starts it.
pub(crate) fn spawn_thread<T: Send + 'static>(
    name: String,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let span = tracing::Span::current();
    thread::Builder::new()
        .name(name)
        .spawn(move || span.in_scope(run))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_may_be_dropped_within_another() {
        let outer = ThreadRuntime::new().unwrap();
        outer.block_on(async { drop(ThreadRuntime::new().unwrap()) });
    }
}
