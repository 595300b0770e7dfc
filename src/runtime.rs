//! The runtime of one thread.

use std::{future::Future, io};

use tokio::runtime::{Builder, EnterGuard, Handle, Runtime};

/// A current-thread runtime that may be dropped anywhere, also within another runtime, where tokio's own would panic. Its unfinished
/// tasks end with it.
#[derive(Debug)]
pub struct ThreadRuntime(Option<Runtime>);

impl ThreadRuntime {
    /// # Errors
    /// When the system refuses what the runtime needs.
    pub fn new() -> io::Result<ThreadRuntime> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(ThreadRuntime(Some(runtime)))
    }

    /// For spawning tasks on it from elsewhere.
    pub fn handle(&self) -> &Handle {
        self.runtime().handle()
    }

    /// What is made under the guard belongs to this runtime.
    pub fn enter(&self) -> EnterGuard<'_> {
        self.runtime().enter()
    }

    /// Runs `future` and every task of the runtime on this thread, until the future is done.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime().block_on(future)
    }

    fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("only drop takes it")
    }
}

impl Drop for ThreadRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Blocking work, such as a reload or a name look-up, may still run; waiting for it would hold up the exit.
            runtime.shutdown_background();
        }
    }
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
