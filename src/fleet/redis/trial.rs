//! Tries whether a Redis is of use: whether it can be reached, what it is, what our user may, and how long an exchange takes. For
//! `revgate check --connect`. The calls are those of a replica, on a key of its own.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use redis::{Cmd, PushInfo, PushKind, Value, cmd};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::{
    address::{Address, Credentials, Endpoint, Kind},
    answer::CallError,
    cluster::slots::Redirect,
    connection::{Connection, OnPush, Target},
    facts::{Memory, Server, text},
    script,
    sentinel::Sentinels,
};
use crate::{
    fleet::{
        names::Names,
        register::{Exchanged, Failure, Fault, Key, Tag, Write},
    },
    plan::SharedPlan,
    random,
    upstream::tls,
    wall_clock,
};

/// Exchanges that are timed.
pub(crate) const SAMPLES: usize = 50;

/// For all of them, so that a slow server does not make the check endless.
const SAMPLING: Duration = Duration::from_secs(10);

/// For each call: the longest that `shared.timeout` may be, so that what takes longer than it is seen with its time.
const CALL: Duration = Duration::from_secs(1);

/// To one server, as to DevRev by default.
const CONNECT: Duration = Duration::from_secs(3);

/// Bytes of a value, about those of a group with some replicas.
const VALUE: usize = 4096;

/// The key is gone after this, even if the check is ended before it is done.
const KEEP: Duration = Duration::from_secs(10);

/// What is published on a channel of its own is one hint, and the confirmation that it is listened to.
const PUSHES: usize = 8;

/// From node to node until the one that has the key: one step if the nodes agree.
const HOPS: usize = 3;

const HINT: &[u8] = b"check";

/// What was found out.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) server: Server,
    /// The addresses that cannot be used, though another can.
    pub(crate) unusable: Vec<(Address, Failure)>,
    /// Of each exchange, the shortest first.
    pub(crate) times: Vec<Duration>,
    /// Whether a hint was heard.
    pub(crate) heard: bool,
    pub(crate) clock: Offset,
    pub(crate) memory: Memory,
}

/// How far the server's clock is from ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offset {
    pub(crate) by: Duration,
    pub(crate) is_ahead: bool,
    /// How exactly it is known: half a round trip.
    pub(crate) within: Duration,
}

impl Offset {
    /// `theirs` was told at some time of the `took` that began at `ours`.
    fn of(ours: Duration, took: Duration, theirs: Duration) -> Offset {
        let middle = ours + took / 2;
        Offset {
            by: theirs.abs_diff(middle),
            is_ahead: theirs > middle,
            within: took / 2,
        }
    }
}

/// Tries the Redis of a plan.
///
/// # Errors
/// When it is of no use, with what failed.
pub(crate) async fn try_out(plan: &SharedPlan) -> Result<Trial, Failure> {
    let key = Names::new(&plan.prefix, None).of_probe(random::id64());
    let (mut line, unusable) = Way::of(plan)?.find(&key).await?;
    let hello = line.call(cmd("HELLO").arg(3)).await.map_err(failure)?;
    let server = Server::of(&hello);
    if let Some(unfit) = server.unfit(&plan.endpoint.kind) {
        return Err(unfit);
    }
    if matches!(plan.endpoint.kind, Kind::Cluster) {
        // The rights to follow slots that move.
        for command in [cmd("CLUSTER").arg("SLOTS"), &mut cmd("ASKING")] {
            line.call(command).await.map_err(failure)?;
        }
    }
    line.subscribe(&key).await.map_err(failure)?;
    // Not timed: the server may have to learn the script first.
    let (_, mut over) = line.write(&key, None, KEEP, HINT).await?;
    let heard = line.hears(&key).await;
    line.reads(&key, over).await?;
    // A server that knows the script already has not been asked for this right, and may lose the script.
    let eval = line.call(cmd("EVAL").arg("return 1").arg(0)).await;
    eval.map_err(failure)?;
    let (mut times, mut clock) = (Vec::with_capacity(SAMPLES), Offset::default());
    let begun = Instant::now();
    while times.len() < SAMPLES && begun.elapsed() < SAMPLING {
        let (ours, sent) = (wall_clock::since_epoch(), Instant::now());
        let (theirs, tag) = line.write(&key, Some(over), KEEP, b"").await?;
        let took = sent.elapsed();
        over = tag;
        if times.iter().all(|other| took < *other) {
            clock = Offset::of(ours, took, theirs);
        }
        times.push(took);
    }
    times.sort_unstable();
    let memory = line.memory().await?;
    // It goes at once, instead of after its time.
    let at_once = Duration::from_millis(1);
    line.write(&key, Some(over), at_once, b"").await?;
    Ok(Trial {
        server,
        unusable,
        times,
        heard,
        clock,
        memory,
    })
}

/// For each call its own bound, which is not `shared.timeout`.
fn failure(error: CallError) -> Failure {
    match error {
        CallError::TimedOut => Failure::new(
            Fault::TimedOut,
            format!("no answer within {} s", CALL.as_secs()),
        ),
        error => error.failure(),
    }
}

/// An open connection, and what comes on it by itself.
struct Line {
    target: Target,
    connection: Connection,
    pushes: mpsc::Receiver<PushInfo>,
}

async fn bounded<T>(call: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
    let done = timeout(CALL, call).await;
    done.unwrap_or(Err(CallError::TimedOut))
}

impl Line {
    async fn open(target: Target) -> Result<Line, Failure> {
        let (sender, pushes) = mpsc::channel(PUSHES);
        // One that finds no room was not expected.
        let on_push: OnPush = Arc::new(move |push| drop(sender.try_send(push)));
        Ok(Line {
            connection: Connection::open(&target, CONNECT, on_push).await?,
            target,
            pushes,
        })
    }

    async fn call(&self, command: &Cmd) -> Result<Value, CallError> {
        bounded(self.connection.call(command)).await
    }

    async fn subscribe(&self, key: &Key) -> Result<(), CallError> {
        bounded(self.connection.subscribe(&[&**key])).await
    }

    async fn exchange(&self, key: &Key, write: Option<&Write>) -> Result<Exchanged, CallError> {
        bounded(script::exchange(&self.connection, key, write, false)).await
    }

    /// The server's time, and the tag of what was written.
    async fn write(
        &self,
        key: &Key,
        over: Option<Tag>,
        keep: Duration,
        hint: &'static [u8],
    ) -> Result<(Duration, Tag), Failure> {
        let tag = Tag(random::id64());
        let write = Write {
            over,
            tag,
            value: Bytes::from_static(&[b'x'; VALUE]),
            keep,
            hint: Bytes::from_static(hint),
        };
        match self.exchange(key, Some(&write)).await.map_err(failure)? {
            Exchanged::Written { now } => Ok((now, tag)),
            Exchanged::Found(_) => Err(not_kept()),
        }
    }

    /// That what was written is there.
    async fn reads(&self, key: &Key, tag: Tag) -> Result<(), Failure> {
        match self.exchange(key, None).await.map_err(failure)? {
            Exchanged::Found(found) => match found.current {
                Some((there, value)) if there == tag && value.len() == VALUE => Ok(()),
                _ => Err(not_kept()),
            },
            Exchanged::Written { .. } => Err(not_kept()),
        }
    }

    /// Whether the hint comes on this channel.
    async fn hears(&mut self, key: &Key) -> bool {
        let hint = async {
            while let Some(push) = self.pushes.recv().await {
                let is_it = push.kind == PushKind::Message
                    && push.data.first().and_then(text) == Some(key)
                    && push.data.get(1).and_then(text).map(str::as_bytes) == Some(HINT);
                if is_it {
                    return true;
                }
            }
            false
        };
        timeout(CALL, hint).await.unwrap_or(false)
    }

    async fn memory(&self) -> Result<Memory, Failure> {
        match self.call(cmd("INFO").arg("memory")).await {
            Ok(info) => Ok(Memory::of(text(&info).unwrap_or(""))),
            Err(CallError::Refusal(_)) => Ok(Memory::Unknown("the user may not run INFO")),
            Err(error) => Err(failure(error)),
        }
    }
}

fn not_kept() -> Failure {
    Failure::new(
        Fault::Refused,
        "it does not keep what is written, though nobody else knows the key",
    )
}

/// How the server is found that has the key.
struct Way<'a> {
    endpoint: &'a Endpoint,
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl Way<'_> {
    fn of(plan: &SharedPlan) -> Result<Way<'_>, Failure> {
        let config = plan.endpoint.tls.then(|| tls::plain_config(&plan.roots));
        let config = config.transpose().map_err(|error| {
            Failure::new(Fault::Down, format!("shared.roots cannot be used: {error}"))
        })?;
        Ok(Way {
            endpoint: &plan.endpoint,
            tls: config.map(Arc::new),
        })
    }

    /// Also the addresses that cannot be used.
    async fn find(&self, key: &Key) -> Result<(Line, Vec<(Address, Failure)>), Failure> {
        let (mut found, mut unusable) = (None, Vec::new());
        for address in &self.endpoint.addresses {
            let tried = match &self.endpoint.kind {
                Kind::Single => self.server(address.clone()).await,
                Kind::Cluster => self.node(address.clone(), key).await,
                Kind::Sentinel {
                    master,
                    credentials,
                } => self.primary(address, master, credentials).await,
            };
            match tried {
                Ok(line) => drop(found.get_or_insert(line)),
                Err(failure) => unusable.push((address.clone(), failure)),
            }
        }
        match (found, unusable.first()) {
            (Some(line), _) => Ok((line, unusable)),
            (None, Some((_, failure))) => Err(failure.clone()),
            (None, None) => Err(Failure::new(Fault::Down, "there is no address")),
        }
    }

    fn target(&self, address: Address) -> Target {
        Target {
            address,
            tls: self.tls.clone(),
            database: self.endpoint.database,
            credentials: self.endpoint.credentials.clone(),
        }
    }

    async fn server(&self, address: Address) -> Result<Line, Failure> {
        Line::open(self.target(address)).await
    }

    /// The node that has the key, from this one on.
    async fn node(&self, address: Address, key: &Key) -> Result<Line, Failure> {
        let mut line = self.server(address).await?;
        for _ in 0..HOPS {
            let Err(error) = line.exchange(key, None).await else {
                return Ok(line);
            };
            let redirect = match &error {
                CallError::Refusal(refusal) => Redirect::of(refusal, &line.target.address),
                _ => None,
            };
            let Some(Redirect::Moved(_, owner)) = redirect else {
                return Err(failure(error));
            };
            line = self.server(owner).await?;
        }
        Err(Failure::new(
            Fault::NotWritable,
            "its nodes do not agree on who has the key",
        ))
    }

    /// The primary that this Sentinel names.
    async fn primary(
        &self,
        sentinel: &Address,
        master: &Arc<str>,
        credentials: &Option<Credentials>,
    ) -> Result<Line, Failure> {
        let sentinels = Sentinels {
            credentials: credentials.clone(),
            master: master.clone(),
            server: super::Server {
                endpoint: Endpoint {
                    addresses: vec![sentinel.clone()],
                    ..self.endpoint.clone()
                },
                tls: self.tls.clone(),
            },
        };
        Line::open(sentinels.find(CONNECT).await?).await
    }
}
