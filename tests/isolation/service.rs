//! Caller b: a service that makes ordinary calls and must not notice what others do.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::client::{Call, Client, Protocol};

pub const KEY: &str = "key-of-caller-b";

/// A call that has no answer by then has failed. Shorter than every timeout that could free what a holds.
pub const PATIENCE: Duration = Duration::from_secs(8);

/// Calls at the same time. The last one connects anew each time, since a place to connect is shared too.
const LANES: usize = 4;

/// Between two calls of a lane: often enough for a 99th percentile, and little enough for several gateways at once on two cores.
const PAUSE: Duration = Duration::from_millis(50);

/// How b proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    Key,
    /// A good token that the gateway has not seen, for each call.
    NewTokens,
}

/// Calls that ended in one phase.
#[derive(Debug, Default)]
pub struct Outcome {
    /// When each call ended, and how long it took.
    times: Vec<(Instant, Duration)>,
    failures: BTreeMap<String, usize>,
}

impl Outcome {
    pub fn calls(&self) -> usize {
        self.times.len()
    }

    pub fn failed(&self) -> usize {
        self.failures.values().sum()
    }

    /// What failed calls got, and how often.
    pub fn failures(&self) -> String {
        let each = self.failures.iter();
        let each = each.map(|(what, count)| format!("{count} × {what}"));
        each.collect::<Vec<_>>().join(", ")
    }

    /// Of all calls.
    pub fn p99(&self) -> Duration {
        p99(self.times.iter().map(|(_, took)| *took).collect())
    }

    /// Of the calls that ended between these.
    pub fn p99_between(&self, start: Instant, end: Instant) -> Duration {
        let within = self
            .times
            .iter()
            .filter(|(at, _)| (start..=end).contains(at));
        p99(within.map(|(_, took)| *took).collect())
    }
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    let rank = (times.len() * 99).div_ceil(100);
    times
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

pub struct Service {
    stop: Arc<AtomicBool>,
    outcome: Arc<Mutex<Outcome>>,
    lanes: JoinSet<()>,
}

impl Service {
    /// Must be called on the runtime that is to run it.
    pub fn start(address: SocketAddr, protocol: Protocol, credential: Credential) -> Service {
        let (stop, outcome) = (Arc::default(), Arc::default());
        let mut lanes = JoinSet::new();
        let number = Arc::new(AtomicU64::new(0));
        for lane in 0..LANES {
            let lane = Lane {
                address,
                protocol,
                credential,
                fresh: lane + 1 == LANES,
                number: number.clone(),
            };
            lanes.spawn(lane.run(Arc::clone(&stop), Arc::clone(&outcome)));
        }
        Service {
            stop,
            outcome,
            lanes,
        }
    }

    /// The calls that have ended since the last time this was called.
    pub fn take(&self) -> Outcome {
        std::mem::take(&mut *self.outcome.lock().expect("not poisoned"))
    }

    /// Waits until so many calls have ended since [`Service::take`].
    pub async fn has_made(&self, calls: usize) {
        while self.outcome.lock().expect("not poisoned").calls() < calls {
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends after the calls in progress, and closes its connections.
    pub async fn stop(mut self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.lanes.join_next().await {
            ended.expect("a lane ends");
        }
        self.take()
    }
}

struct Lane {
    address: SocketAddr,
    protocol: Protocol,
    credential: Credential,
    fresh: bool,
    number: Arc<AtomicU64>,
}

impl Lane {
    async fn run(self, stop: Arc<AtomicBool>, outcome: Arc<Mutex<Outcome>>) {
        let mut kept = None;
        while !stop.load(Ordering::Relaxed) {
            let call = self.next();
            let start = Instant::now();
            let result = timeout(PATIENCE, self.make(&mut kept, &call)).await;
            let result = result.unwrap_or_else(|_| Err(format!("nothing for {PATIENCE:?}")));
            if result.is_err() || self.fresh {
                kept = None;
            }
            {
                let mut outcome = outcome.lock().expect("not poisoned");
                outcome.times.push((Instant::now(), start.elapsed()));
                if let Err(what) = result {
                    *outcome.failures.entry(what).or_default() += 1;
                }
            }
            sleep(PAUSE).await;
        }
    }

    fn next(&self) -> Call {
        let credential = match self.credential {
            Credential::Key => KEY.to_owned(),
            Credential::NewTokens => {
                let number = self.number.fetch_add(1, Ordering::Relaxed);
                let claims = format!("{{\"sub\":\"b\",\"jti\":\"{number}\"}}");
                format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
            }
        };
        Call::new("POST", "/works.get", Some(&credential)).body(r#"{"id":"TKT-1"}"#)
    }

    async fn make(&self, kept: &mut Option<Client>, call: &Call) -> Result<(), String> {
        let client = match kept {
            Some(client) => client,
            None => {
                let client = Client::connect(self.address, self.protocol).await;
                kept.insert(client.map_err(|_| "no connection".to_owned())?)
            }
        };
        let answer = client.call(call).await;
        let answer = answer.map_err(|_| "a lost connection".to_owned())?;
        let body = String::from_utf8_lossy(&answer.body);
        match answer.status == 200 && body.contains(r#""display_id":"TKT-1""#) {
            true => Ok(()),
            false => Err(answer.said()),
        }
    }
}
