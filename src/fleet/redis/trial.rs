//! Tries whether a Redis is of use: whether it can be reached, what it is, what our user may, and how long an exchange takes. For
//! `revgate check --connect`. The calls are those of a replica, on a key of its own.

mod way;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use redis::{Cmd, PushInfo, PushKind, Value, cmd};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use self::way::Way;
use super::{
    address::{Address, Kind},
    answer::CallError,
    connection::{Connection, OnPush, Target},
    facts::{Memory, Server, text},
    script,
};
use crate::{
    fleet::{
        names::Names,
        register::{Exchanged, Failure, Fault, Key, Tag, Write},
    },
    plan::SharedPlan,
    random, wall_clock,
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

const HINT: &[u8] = b"check";

/// What was found out.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) server: Server,
    /// The addresses that cannot be used, though another can.
    pub(crate) unusable: Vec<(Address, Unusable)>,
    /// Of each exchange, the shortest first.
    pub(crate) times: Vec<Duration>,
    /// Whether a hint was heard.
    pub(crate) heard: bool,
    pub(crate) clock: Offset,
    pub(crate) memory: Memory,
    /// Rights that the user lacks and that need not be, and what comes of it.
    pub(crate) lacks: Vec<(&'static str, &'static str)>,
}

/// Why it is of no use.
#[derive(Clone, Debug)]
pub(crate) struct Unusable {
    pub(crate) failure: Failure,
    /// What to do, if more is known than the failure tells.
    pub(crate) advice: Option<String>,
}

impl From<Failure> for Unusable {
    fn from(failure: Failure) -> Unusable {
        Unusable {
            failure,
            advice: None,
        }
    }
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
pub(crate) async fn try_out(plan: &SharedPlan) -> Result<Trial, Unusable> {
    let key = Names::new(&plan.prefix, None).of_probe(random::id64());
    let (mut line, unusable) = Way::of(plan)?.find(&key).await?;
    if !line.server.is_primary() {
        return Err(Failure::new(Fault::NotWritable, "it is a replica").into());
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
    line.unsubscribe(&key).await.map_err(failure)?;
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
    let lacks = line.lacks(&plan.endpoint.kind).await?;
    // It goes at once, instead of after its time.
    let at_once = Duration::from_millis(1);
    line.write(&key, Some(over), at_once, b"").await?;
    Ok(Trial {
        server: line.server,
        unusable,
        times,
        heard,
        clock,
        memory,
        lacks,
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
    server: Server,
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
        let connection = Connection::open(&target, CONNECT, on_push).await?;
        let hello = bounded(connection.call(cmd("HELLO").arg(3))).await;
        Ok(Line {
            server: Server::of(&hello.map_err(failure)?),
            connection,
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

    async fn unsubscribe(&self, key: &Key) -> Result<(), CallError> {
        bounded(self.connection.unsubscribe(key)).await
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

    /// What a replica does without if the user may not.
    async fn lacks(&self, kind: &Kind) -> Result<Vec<(&'static str, &'static str)>, Failure> {
        let mut lacks = Vec::new();
        if is_refused(bounded(self.connection.set_name()).await)? {
            lacks.push((
                "+client|setname",
                "CLIENT LIST does not name the connections of revgate",
            ));
        }
        let behind_sentinel = matches!(kind, Kind::Sentinel { .. });
        if behind_sentinel && is_refused(self.call(&cmd("ROLE")).await)? {
            lacks.push((
                "+role",
                "a server that is no primary any more is noticed at the first write",
            ));
        }
        Ok(lacks)
    }
}

fn is_refused(answer: Result<Value, CallError>) -> Result<bool, Failure> {
    match answer {
        Ok(_) => Ok(false),
        Err(CallError::Refusal(_)) => Ok(true),
        Err(error) => Err(failure(error)),
    }
}

fn not_kept() -> Failure {
    Failure::new(
        Fault::Refused,
        "it does not keep what is written, though nobody else knows the key",
    )
}
