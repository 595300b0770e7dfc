//! Whether the threads that serve take their turns. A thread that hangs answers nobody, and nothing else in the process would notice.

use std::time::Duration;

use tokio::{
    runtime::Handle,
    task::JoinHandle,
    time::{Instant, timeout_at},
};

/// The threads that run a runtime, by name.
#[derive(Default)]
pub(super) struct Threads(Vec<Thread>);

struct Thread {
    name: String,
    runtime: Handle,
    /// Ends with the thread's next turn.
    asked: Option<JoinHandle<()>>,
}

impl Threads {
    pub(super) fn add(&mut self, name: String, runtime: Handle) {
        self.0.push(Thread {
            name,
            runtime,
            asked: None,
        });
    }

    /// Asks each thread for a turn and waits so long for it. Gives the names of those that have not taken one. None is asked again before
    /// it has. A thread whose runtime has ended, as a worker's does in a drain, does not hang.
    pub(super) async fn hanging(&mut self, within: Duration) -> Vec<&str> {
        for thread in &mut self.0 {
            thread
                .asked
                .get_or_insert_with(|| thread.runtime.spawn(async {}));
        }
        let end = Instant::now() + within;
        let mut hanging = Vec::new();
        for thread in &mut self.0 {
            let Some(asked) = &mut thread.asked else {
                continue;
            };
            match timeout_at(end, asked).await {
                Ok(_) => thread.asked = None,
                Err(_) => hanging.push(&*thread.name),
            }
        }
        hanging
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::runtime::ThreadRuntime;

    const SOON: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_thread_that_hangs_is_noticed_and_one_that_has_ended_does_not_hang() {
        let (mut threads, mut stops, mut joins) = (Threads::default(), Vec::new(), Vec::new());
        for name in ["one", "two"] {
            let runtime = ThreadRuntime::new().unwrap();
            threads.add(name.into(), runtime.handle().clone());
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            stops.push(stop);
            joins.push(std::thread::spawn(move || {
                let _ = runtime.block_on(stopped);
            }));
        }
        let own = ThreadRuntime::new().unwrap();
        assert!(own.block_on(threads.hanging(LONG)).is_empty());
        let (release, held) = mpsc::channel::<()>();
        threads.0[1].runtime.spawn(async move { held.recv() });
        for _ in 0..3 {
            assert_eq!(own.block_on(threads.hanging(SOON)), ["two"]);
        }
        release.send(()).unwrap();
        assert!(own.block_on(threads.hanging(LONG)).is_empty());
        drop(stops);
        joins.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(own.block_on(threads.hanging(LONG)).is_empty());
    }
}
