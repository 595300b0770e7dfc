//! Steady load: a few callers on each replica, each of which sends its next request a moment after the answer to the last.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::lock;
use crate::{
    http::{Client, get},
    rig::KEY,
};

/// Requests that are in flight at most on each replica: one on a connection that is kept, one on a connection of its own.
pub const CALLERS: u64 = 2;

/// From an answer to the next request.
const PAUSE: Duration = Duration::from_millis(20);

/// Longer than any turn takes.
const PATIENCE: Duration = Duration::from_secs(15);

/// What became of a request.
#[derive(Clone, Debug)]
pub struct Call {
    pub replica: usize,
    /// 0 if there was no answer, or not in time.
    pub status: u16,
    pub told: String,
    pub took: Duration,
}

pub struct Load {
    stop: watch::Sender<bool>,
    calls: Arc<Mutex<Vec<Call>>>,
    tasks: JoinSet<()>,
}

impl Load {
    pub fn new() -> Load {
        Load {
            stop: watch::Sender::new(false),
            calls: Arc::default(),
            tasks: JoinSet::new(),
        }
    }

    /// Begins on this replica. What `given_up` becomes once it is killed: then its callers end.
    pub fn begin(&mut self, replica: usize, address: SocketAddr, given_up: &watch::Sender<bool>) {
        for keeps in [true, false] {
            let (calls, stop) = (self.calls.clone(), self.stop.subscribe());
            let given_up = given_up.subscribe();
            self.tasks.spawn(async move {
                let mut kept = None;
                while !*stop.borrow() && !*given_up.borrow() {
                    let call = call(replica, address, &mut kept).await;
                    if *given_up.borrow() {
                        return;
                    }
                    if !keeps {
                        kept = None;
                    }
                    lock(&calls).push(call);
                    sleep(PAUSE).await;
                }
            });
        }
    }

    /// One more request, beside the load.
    pub async fn one(&self, replica: usize, address: SocketAddr) -> Call {
        let call = call(replica, address, &mut None).await;
        lock(&self.calls).push(call.clone());
        call
    }

    /// Up to now.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.calls).clone()
    }

    /// How many good answers this replica has given.
    pub fn good(&self, replica: usize) -> usize {
        let calls = lock(&self.calls);
        let good = |call: &&Call| call.replica == replica && call.status == 200;
        calls.iter().filter(good).count()
    }

    /// Waits until all requests have their answers.
    pub async fn end(mut self) -> Vec<Call> {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no caller panics");
        }
        self.calls()
    }
}

async fn call(replica: usize, address: SocketAddr, kept: &mut Option<Client>) -> Call {
    let begun = Instant::now();
    let answer = async {
        let client = match kept {
            Some(client) => client,
            None => kept.insert(Client::over(TcpStream::connect(address).await.ok()?)),
        };
        client
            .send(get("/works.list", &format!("Bearer {KEY}")))
            .await;
        client.answer().await
    };
    let answer = timeout(PATIENCE, answer).await.ok().flatten();
    let answer = answer.filter(|answer| answer.whole);
    if answer.is_none() {
        *kept = None;
    }
    Call {
        replica,
        status: answer.as_ref().map_or(0, |answer| answer.status),
        told: answer.map_or_else(String::new, |answer| answer.text()),
        took: begun.elapsed(),
    }
}
