//! Keeps one connection: opens it, throws it away when it is of no use, and opens another.
//!
//! The redis crate has a connection manager. It keeps a connection that has stopped answering, and one to a server that has become a
//! replica; and its waits are outside the bound of a call.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use redis::{Cmd, Value, cmd};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    answer::CallError,
    connection::{Connection, Target},
    pushed, script,
};
use crate::{
    fleet::{
        hints::{Changes, Hints},
        names::Names,
        register::{Exchanged, Failure, Fault, Hint, Key, Link, Tag, Write},
    },
    lock::Lock,
    random,
};

/// For all of an attempt to connect: a lost SYN is sent again after a second.
const OPENING: Duration = Duration::from_secs(2);

/// Between attempts to connect: short enough that a failover costs little, long enough that three hundred replicas do not keep a server from
/// coming up.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// So many calls in a row without an answer in time, and the server is held to be gone: one may be a hiccup.
const TIMEOUTS: u32 = 3;

/// Silence after which a connection is tried, so that an idle replica hears of a server that hangs, and misses few hints. Three hundred
/// idle replicas make twenty calls a second of it.
const IDLE: Duration = Duration::from_secs(15);

/// Channels of one command. With more, its confirmations would hold up exchanges.
const CHANNELS: usize = 256;

/// How long what a probe writes is kept.
const PROBE_KEPT: Duration = Duration::from_secs(1);

/// Where to connect next.
pub(crate) trait Route: Send + Sync {
    /// Each attempt asks. It is within the bound of the attempt.
    fn next(&self) -> BoxFuture<'_, Result<Target, Failure>>;
}

impl Route for Target {
    fn next(&self) -> BoxFuture<'_, Result<Target, Failure>> {
        Box::pin(std::future::ready(Ok(self.clone())))
    }
}

/// How a connection is kept.
#[derive(Clone)]
pub(crate) struct Rules {
    /// Of each call.
    pub timeout: Duration,
    /// The key that is written before a connection counts as usable.
    pub probe: Probe,
}

/// Gives a key of its own that the server takes. There is none at a node of a cluster that has no slots, or too few to find one: there
/// the login alone counts.
pub(crate) type Probe = Arc<dyn Fn() -> Option<Key> + Send + Sync>;

/// For a server that takes all keys.
pub(super) fn any_key(names: Names) -> Probe {
    Arc::new(move || Some(names.of_probe(random::id64())))
}

/// A connection that is kept. It ends when this is dropped.
pub(crate) struct Supervised {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    route: Box<dyn Route>,
    rules: Rules,
    open: Lock<Option<Arc<Open>>>,
    link: watch::Sender<Link>,
    hints: Arc<Hints>,
}

/// A connection that has shown that it is of use.
struct Open {
    connection: Connection,
    /// In a row.
    timeouts: AtomicU32,
    last_answer: Lock<Instant>,
    given_up: watch::Sender<Option<Failure>>,
}

impl Open {
    async fn given_up(&self) -> Failure {
        let mut given_up = self.given_up.subscribe();
        let failure = given_up.wait_for(Option::is_some).await;
        let failure = failure.ok().and_then(|failure| failure.clone());
        failure.unwrap_or_else(broke)
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.open.lock().take();
    }
}

impl Supervised {
    /// Begins to connect. Needs a runtime, on which it lives.
    pub(super) fn start(route: Box<dyn Route>, rules: Rules, hints: Arc<Hints>) -> Supervised {
        let shared = Arc::new(Shared {
            route,
            rules,
            open: Lock::default(),
            link: watch::Sender::new(Link::Unknown),
            hints,
        });
        let task = tokio::spawn(supervise(shared.clone()));
        Supervised { shared, task }
    }

    pub(super) fn link(&self) -> watch::Receiver<Link> {
        self.shared.link.subscribe()
    }

    /// An exchange that ends within the timeout, or at once while there is no connection.
    pub(super) async fn exchange(
        &self,
        key: &Key,
        write: Option<&Write>,
        asking: bool,
    ) -> Result<Exchanged, CallError> {
        let open = self.open()?;
        self.shared.exchange(&open, key, write, asking).await
    }

    /// What the server says to another command than the script, as with [`Supervised::exchange`].
    pub(super) async fn ask(&self, question: &Cmd) -> Result<Value, CallError> {
        let open = self.open()?;
        self.shared.ask(&open, question).await
    }

    fn open(&self) -> Result<Arc<Open>, CallError> {
        let open = self.shared.open.lock().clone();
        open.ok_or_else(|| {
            CallError::Down(match &*self.shared.link.borrow() {
                Link::Down(failure) => failure.reason.clone(),
                Link::Unknown | Link::Up => "not connected yet".into(),
            })
        })
    }

    /// Gives up the connection that there is, and connects again.
    pub(super) fn give_up(&self, failure: Failure) {
        let open = self.shared.open.lock().clone();
        if let Some(open) = open {
            self.shared.give_up(&open, failure);
        }
    }
}

/// Whether a connection is of no use to any key after this.
fn is_of_no_use(error: &CallError) -> bool {
    match error {
        CallError::TimedOut | CallError::Down(_) => false,
        CallError::Broken(_) => true,
        CallError::Refusal(_) => !error.concerns_one_key() && !error.is_redirection(),
    }
}

impl Shared {
    async fn exchange(
        &self,
        open: &Arc<Open>,
        key: &Key,
        write: Option<&Write>,
        asking: bool,
    ) -> Result<Exchanged, CallError> {
        let exchanging = script::exchange(&open.connection, key, write, asking);
        self.bounded(open, exchanging).await
    }

    async fn ask(&self, open: &Arc<Open>, question: &Cmd) -> Result<Value, CallError> {
        let asking = async {
            match open.connection.call(question).await {
                // It concerns this question, and no exchange.
                Err(CallError::Refusal(refusal)) => Ok(Err(refusal)),
                other => other.map(Ok),
            }
        };
        let asked = self.bounded(open, asking).await?;
        asked.map_err(CallError::Refusal)
    }

    /// Ends a call in time, and notes what comes of it.
    async fn bounded<T>(
        &self,
        open: &Arc<Open>,
        call: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let result = match timeout(self.rules.timeout, call).await {
            Ok(result) => result,
            Err(_elapsed) => Err(CallError::TimedOut),
        };
        match &result {
            Err(CallError::TimedOut) => {
                if open.timeouts.fetch_add(1, SeqCst) + 1 >= TIMEOUTS {
                    let reason = format!("{TIMEOUTS} exchanges in a row had no answer in time");
                    self.give_up(open, Failure::new(Fault::TimedOut, reason));
                }
            }
            other => {
                open.timeouts.store(0, SeqCst);
                *open.last_answer.lock() = Instant::now();
                if let Err(error) = other
                    && is_of_no_use(error)
                {
                    self.give_up(open, error.failure());
                }
            }
        }
        result
    }

    fn give_up(&self, open: &Arc<Open>, failure: Failure) {
        {
            let mut current = self.open.lock();
            if !current
                .as_ref()
                .is_some_and(|current| Arc::ptr_eq(current, open))
            {
                return;
            }
            *current = None;
            // Under the lock, so that whoever finds no connection finds the reason.
            self.link.send_replace(Link::Down(failure.clone()));
        }
        open.given_up.send_replace(Some(failure));
    }

    /// Up to the point where the connection has shown that it is of use.
    async fn connect(&self) -> Result<Arc<Open>, Failure> {
        let opening = async {
            let target = self.route.next().await?;
            let connection = Connection::open(&target, OPENING, pushed::to(&self.hints)).await?;
            let named = |error: CallError| {
                let Failure { fault, reason } = error.failure();
                Failure::new(fault, format!("{target}: {reason}"))
            };
            self.probe(&connection).await.map_err(named)?;
            subscribe(&connection, &self.hints.all())
                .await
                .map_err(named)?;
            Ok(Arc::new(Open {
                connection,
                timeouts: AtomicU32::new(0),
                last_answer: Lock::new(Instant::now()),
                given_up: watch::Sender::new(None),
            }))
        };
        match timeout(OPENING, opening).await {
            Ok(result) => result,
            Err(_elapsed) => {
                let reason = format!("connecting took longer than {} s", OPENING.as_secs());
                Err(Failure::new(Fault::TimedOut, reason))
            }
        }
    }

    /// Runs the script, the second time within the bound of a call: the first time it may have to be compiled.
    async fn probe(&self, connection: &Connection) -> Result<(), CallError> {
        let Some(key) = (self.rules.probe)() else {
            return Ok(());
        };
        let write = Write {
            over: None,
            tag: Tag(random::id64()),
            value: Bytes::new(),
            keep: PROBE_KEPT,
            // Nobody listens to it; but whoever may not tell hints is to know it before one is lost.
            hint: Bytes::from_static(b"probe"),
        };
        script::exchange(connection, &key, None, false).await?;
        let in_time = script::exchange(connection, &key, Some(&write), false);
        match timeout(self.rules.timeout, in_time).await {
            Ok(result) => result.map(|_| ()),
            Err(_elapsed) => Err(CallError::TimedOut),
        }
    }

    /// Returns why the connection is of no use any more.
    async fn tend(&self, open: &Arc<Open>) -> Failure {
        loop {
            let idle_until = *open.last_answer.lock() + IDLE;
            tokio::select! {
                failure = open.given_up() => return failure,
                () = open.connection.ended() => return broke(),
                changes = self.hints.changes() => {
                    let telling = timeout(OPENING, self.tell(open, changes));
                    match telling.await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => return error.failure(),
                        Err(_elapsed) => return CallError::TimedOut.failure(),
                    }
                }
                () = tokio::time::sleep_until(idle_until) => self.try_idle(open).await,
            }
        }
    }

    /// Whatever comes of it is noted as with any exchange.
    async fn try_idle(&self, open: &Arc<Open>) {
        match (self.rules.probe)() {
            Some(key) => drop(self.exchange(open, &key, None, false).await),
            None => drop(self.ask(open, &sign_of_life()).await),
        }
    }

    async fn tell(&self, open: &Open, changes: Changes) -> Result<(), CallError> {
        for key in &changes.forget {
            open.connection.unsubscribe(key).await?;
        }
        subscribe(&open.connection, &changes.listen).await?;
        for key in changes.listen {
            // What came for it before is lost.
            self.hints.tell(Hint::Told(key, Bytes::new()));
        }
        Ok(())
    }
}

/// What any user may ask: HELLO needs no right, as PING does.
pub(super) fn sign_of_life() -> Cmd {
    cmd("HELLO")
}

fn broke() -> Failure {
    Failure::new(Fault::Broken, "the server closed the connection")
}

async fn subscribe(connection: &Connection, keys: &[Key]) -> Result<(), CallError> {
    for some in keys.chunks(CHANNELS) {
        let channels: Vec<&str> = some.iter().map(|key| &**key).collect();
        connection.subscribe(&channels).await?;
    }
    Ok(())
}

async fn supervise(shared: Arc<Shared>) {
    let keeping = async {
        let mut pause = FIRST_PAUSE;
        loop {
            match shared.connect().await {
                Ok(open) => {
                    let since = Instant::now();
                    *shared.open.lock() = Some(open.clone());
                    shared.link.send_replace(Link::Up);
                    shared.hints.miss();
                    let failure = shared.tend(&open).await;
                    shared.give_up(&open, failure);
                    // One that breaks again and again is as good as none.
                    if since.elapsed() >= LAST_PAUSE {
                        pause = FIRST_PAUSE;
                    }
                }
                Err(failure) => {
                    shared.link.send_replace(Link::Down(failure));
                }
            }
            sleep(pause.mul_f64(0.5 + random::jitter() / 2.0)).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    };
    tokio::join!(keeping, shared.hints.pay());
}
