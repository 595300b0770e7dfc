//! The service manager, such as systemd, to which the process says how it is (sd_notify). Without NOTIFY_SOCKET nothing is said.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::turning::Threads;
use crate::{
    event::Event,
    policy::{duration_words::duration_words, trouble::Trouble},
};

/// Messages that wait for a manager that does not read: those of some reloads, and of the drain. What does not fit is dropped.
const QUEUE: usize = 16;

/// In a drain the manager learns this often that it goes on.
pub(super) const DRAIN_TICK: Duration = Duration::from_secs(5);

/// And waits so much longer each time: several ticks, in case the machine is busy.
const DRAIN_EXTENSION: Duration = Duration::from_secs(20);

/// By default there is none.
#[derive(Default)]
pub(super) struct Manager {
    /// To a thread of its own, because sending blocks if the manager does not read.
    outbox: Option<Outbox>,
    /// After so long without a sign of life the manager ends the process.
    watchdog: Option<Duration>,
}

struct Outbox {
    queue: mpsc::SyncSender<Message>,
    /// Messages that the manager does not have yet.
    left: Arc<AtomicUsize>,
}

struct Message {
    states: Vec<NotifyState<'static>>,
    status: Option<String>,
}

impl Manager {
    /// # Errors
    /// When its thread cannot be started.
    pub(super) fn of_environment() -> io::Result<Manager> {
        let is_there = std::env::var_os("NOTIFY_SOCKET").is_some_and(|name| !name.is_empty());
        let outbox = is_there.then(start).transpose()?;
        let watchdog = sd_notify::watchdog_enabled().filter(|time| is_there && !time.is_zero());
        Ok(Manager { outbox, watchdog })
    }

    fn say(&self, states: Vec<NotifyState<'static>>, status: Option<String>) {
        if let Some(Outbox { queue, left }) = &self.outbox {
            left.fetch_add(1, Ordering::Relaxed);
            if queue.try_send(Message { states, status }).is_err() {
                left.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Unless another message waits, which is as good a sign, and must not wait behind many of these.
    fn say_alive(&self) {
        let waits = |outbox: &Outbox| outbox.left.load(Ordering::Relaxed) > 0;
        if !self.outbox.as_ref().is_some_and(waits) {
            self.say(vec![NotifyState::Watchdog], None);
        }
    }

    /// The start, or a reload, is over.
    pub(super) fn ready(&self, status: String) {
        self.say(vec![NotifyState::Ready], Some(status));
    }

    /// The manager waits for [`Manager::ready`] then.
    pub(super) fn reloading(&self) {
        let now = NotifyState::monotonic_usec_now();
        let states = [NotifyState::Reloading].into_iter().chain(now);
        self.say(states.collect(), Some("reloading".into()));
    }

    pub(super) fn stopping(&self) {
        self.say(vec![NotifyState::Stopping], Some("draining".into()));
    }

    /// The drain goes on, longer than the unit allows if need be: it has a bound of its own.
    pub(super) fn drains(&self, status: String) {
        let micros = u32::try_from(DRAIN_EXTENSION.as_micros()).unwrap_or(u32::MAX);
        self.say(vec![NotifyState::ExtendTimeoutUsec(micros)], Some(status));
    }

    /// Says that the process works, as long as all `threads` take their turns. A manager that hears nothing starts the process anew.
    pub(super) async fn keep_watch(&self, mut threads: Threads) {
        let Some(period) = self.watchdog else {
            return std::future::pending().await;
        };
        let third = (period / 3).max(Duration::from_millis(1));
        let mut ticks = interval(third);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (start, mut hang) = (Instant::now(), Trouble::default());
        loop {
            ticks.tick().await;
            let hanging = threads.hanging(third).await;
            if hanging.is_empty() {
                self.say_alive();
                if let Some(over) = hang.end(start.elapsed()) {
                    tracing::info!(
                        event = Event::ThreadsTurn.label(),
                        after_seconds = over.lasted.as_secs_f64(),
                        "all threads take their turns again, after {}",
                        duration_words(over.lasted)
                    );
                }
            } else if hang.sign(start.elapsed()).is_some() {
                tracing::error!(
                    event = Event::ThreadsHang.label(),
                    threads = hanging.join(" "),
                    "threads have not taken a turn for {}; unless they do, the service manager ends the process",
                    duration_words(third)
                );
            }
        }
    }
}

fn start() -> io::Result<Outbox> {
    let (queue, inbox) = mpsc::sync_channel::<Message>(QUEUE);
    let left = Arc::new(AtomicUsize::new(0));
    let outbox = Outbox {
        queue,
        left: left.clone(),
    };
    let send = move || {
        let (start, mut silence) = (Instant::now(), Trouble::default());
        for Message { mut states, status } in inbox {
            // A line of its own: the manager would take a second one for another message.
            let status = status.map(|status| status.replace(['\n', '\r'], " "));
            states.extend(status.as_deref().map(NotifyState::Status));
            match sd_notify::notify(&states) {
                Ok(()) => {
                    if let Some(over) = silence.end(start.elapsed()) {
                        tracing::info!(
                            event = Event::ManagerReachable.label(),
                            after_seconds = over.lasted.as_secs_f64(),
                            "the service manager (NOTIFY_SOCKET) is reached again, after {}",
                            duration_words(over.lasted)
                        );
                    }
                }
                Err(error) => {
                    if silence.sign(start.elapsed()).is_some() {
                        tracing::warn!(event = Event::ManagerUnreachable.label(), %error, "the service manager (NOTIFY_SOCKET) cannot be reached");
                    }
                }
            }
            left.fetch_sub(1, Ordering::Relaxed);
        }
    };
    std::thread::Builder::new()
        .name("manager".into())
        .spawn(send)?;
    Ok(outbox)
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::runtime::ThreadRuntime;

    fn manager() -> (Manager, mpsc::Receiver<Message>) {
        let (queue, inbox) = mpsc::sync_channel(QUEUE);
        let left = Arc::default();
        let manager = Manager {
            outbox: Some(Outbox { queue, left }),
            watchdog: Some(Duration::from_millis(30)),
        };
        (manager, inbox)
    }

    /// While the manager does not read.
    #[test]
    fn signs_of_life_take_no_other_messages_place() {
        let (manager, inbox) = manager();
        for _ in 0..100 {
            manager.say_alive();
        }
        manager.stopping();
        manager.drains("draining".into());
        drop(manager);
        let told: Vec<_> = inbox.into_iter().map(|message| message.states).collect();
        let told: Vec<_> = told.concat().iter().map(ToString::to_string).collect();
        let extension = format!("EXTEND_TIMEOUT_USEC={}", DRAIN_EXTENSION.as_micros());
        assert_eq!(told, ["WATCHDOG=1", "STOPPING=1", &extension]);
    }

    /// The messages of a manager that watches a thread, and of one whose thread hangs.
    #[test]
    fn a_thread_that_hangs_ends_the_signs_of_life() {
        let own = ThreadRuntime::new().unwrap();
        for hangs in [false, true] {
            let (manager, inbox) = manager();
            let runtime = ThreadRuntime::new().unwrap();
            let mut threads = Threads::default();
            threads.add("worker-0".into(), runtime.handle().clone());
            let (release, held) = mpsc::channel::<()>();
            let thread = std::thread::spawn(move || {
                runtime.block_on(async {
                    if hangs {
                        let _ = held.recv();
                    }
                    tokio::task::spawn_blocking(move || held.recv()).await
                })
            });
            let watch = manager.keep_watch(threads);
            let seconds = if hangs { 1 } else { 20 };
            let told = async {
                while inbox.try_recv().is_err() {
                    tokio::task::yield_now().await;
                }
            };
            let told = own.block_on(async {
                let either = async {
                    tokio::select! { () = watch => {}, () = told => {} }
                };
                timeout(Duration::from_secs(seconds), either).await
            });
            assert_eq!(told.is_err(), hangs);
            drop(release);
            let _ = thread.join();
        }
    }
}
