//! A fleet whose Redis, network or replicas fail: each row of the tables in which the design of the fleet names what may go wrong, on real
//! servers and real processes, under load.
//!
//! In each row no request fails, none is held up by Redis for longer than `shared.timeout`, and what DevRev refused and what was left
//! unused of its windows stays within the bound of that row. `bad day |` begins the lines that say so.
//!
//! Nothing here depends on how fast the machine is: a row goes on when something has come to pass, and never because time has passed. A
//! row's trouble ends only when every replica has given more answers, so a request that waited for Redis would wait for ever.
//!
//! A clock of Redis that jumps is not here: a real server has the machine's. The simulation in `policy/fleet` has it.

mod devrev;
mod evening;
mod failover;
mod gateway;
mod load;
mod lost;
mod network;
mod refused;
mod replicas;
mod switch;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::Signal;
use tokio::sync::watch;

use self::{
    devrev::{DevRev, Quota},
    evening::{Bounds, Evening},
    gateway::Gateway,
    load::{CALLERS, Call, Load},
};
use crate::{
    redis::{Server, until},
    rig::{KEY, hash},
};

/// `shared.timeout`: more than a busy machine takes for an exchange.
const TIMEOUT: Duration = Duration::from_millis(500);

/// How much longer than [`TIMEOUT`] a request may take on a busy machine. A request that waits for Redis to come back takes for ever.
const BUSY: Duration = Duration::from_secs(8);

/// The callers want more than this, so each window is used up: first come, first served at its beginning, then in turns.
const TIGHT: Quota = Quota {
    limit: 40,
    window: 2,
};

/// Nobody ever waits.
const PLENTY: Quota = Quota {
    limit: 1_000_000,
    window: 600,
};

/// Of an outage nothing is promised but that what others leave shrinks as headers show it. If more than this of a window were left, that
/// would be no sharing.
const OF_AN_OUTAGE: u64 = TIGHT.limit / 2;

/// Answers of each replica after which a row goes on: in scarcity some seconds' worth.
const SOME: usize = 8;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn url(server: &Server) -> String {
    format!("redis://{}", server.address())
}

/// A fleet under load.
struct Day {
    row: &'static str,
    quota: Quota,
    devrev: DevRev,
    replicas: Vec<Replica>,
    load: Load,
}

struct Replica {
    gateway: Gateway,
    given_up: watch::Sender<bool>,
}

impl Day {
    /// A replica for each URL, under load. Does not wait until they share.
    async fn begin(row: &'static str, quota: Quota, urls: &[&str]) -> Day {
        let mut day = Day::quiet(row, quota, urls).await;
        for (number, replica) in day.replicas.iter().enumerate() {
            let address = replica.gateway.proxy;
            day.load.begin(number, address, &replica.given_up);
        }
        day
    }

    /// Without load.
    async fn quiet(row: &'static str, quota: Quota, urls: &[&str]) -> Day {
        let devrev = DevRev::start(quota).await;
        let configuration = format!(
            "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
             [upstream]\nurl = \"http://{}\"\nattempt_timeout = \"10s\"\n[tokens.main]\nenv = \"DEVREV_TOKEN\"\n\
             [callers.billing]\nkey_sha256 = \"{}\"\nrate = \"10000/s\"\nburst = 10000\n\
             [shared]\nredis = {{ env = \"REDIS_URL\" }}\ntimeout = \"{}ms\"\n[log]\nformat = \"json\"\n",
            devrev.address,
            hash(KEY),
            TIMEOUT.as_millis()
        );
        let mut day = Day {
            row,
            quota,
            devrev,
            replicas: Vec::new(),
            load: Load::new(),
        };
        for url in urls {
            let gateway = Gateway::start(&configuration, url).await;
            let given_up = watch::Sender::new(false);
            day.replicas.push(Replica { gateway, given_up });
        }
        day
    }

    /// Three replicas that share a server.
    async fn of_three(row: &'static str, quota: Quota, url: &str) -> Day {
        let day = Day::begin(row, quota, &[url; 3]).await;
        day.shares().await;
        day.goes_on().await;
        day
    }

    /// One replica that is connected and has had no request yet.
    async fn idle(row: &'static str, url: &str) -> Day {
        let day = Day::quiet(row, PLENTY, &[url]).await;
        let gateway = &day.replicas[0].gateway;
        until(&format!("{row}: connected"), || async {
            let up = gateway.metric("revgate_shared_up").await;
            (up == 1.0).then_some(()).ok_or(format!("up {up}"))
        })
        .await;
        day
    }

    /// One request to the first replica.
    async fn asks(&self) -> Call {
        self.load.one(0, self.replicas[0].gateway.proxy).await
    }

    fn live(&self) -> impl Iterator<Item = (usize, &Replica)> {
        let replicas = self.replicas.iter().enumerate();
        replicas.filter(|(_, replica)| !*replica.given_up.borrow())
    }

    /// Waits until each replica has given some more answers.
    async fn goes_on(&self) {
        let live: Vec<usize> = self.live().map(|(number, _)| number).collect();
        self.goes_on_at(&live).await;
    }

    async fn goes_on_at(&self, replicas: &[usize]) {
        let wanted: Vec<_> = replicas
            .iter()
            .map(|number| (*number, self.load.good(*number) + SOME))
            .collect();
        until(&format!("{}: more answers", self.row), || async {
            let lacks = wanted
                .iter()
                .find(|(number, count)| self.load.good(*number) < *count);
            lacks.map_or(Ok(()), |(number, count)| {
                let good = self.load.good(*number);
                Err(format!("replica {number} has given {good} of {count}"))
            })
        })
        .await;
        for number in replicas {
            let (status, text) = self.replicas[*number].gateway.get("/readyz").await;
            assert_eq!(status, 200, "{}: {text}", self.row);
        }
    }

    /// Waits until this window and the next are over, so that those in which something happened have been seen to their ends.
    async fn until_windows_are_over(&self) {
        let last = |day: &Day| {
            day.devrev
                .windows()
                .last_key_value()
                .map(|(number, _)| *number)
        };
        let begun = last(self);
        until(&format!("{}: more windows", self.row), || async {
            let now = last(self);
            let over = now >= begun.map(|begun| begun + 2);
            over.then_some(()).ok_or(format!("{begun:?}, {now:?}"))
        })
        .await;
    }

    /// Waits until all replicas are in the fleet.
    async fn shares(&self) {
        for (number, _) in self.live() {
            self.shares_at(number).await;
        }
    }

    async fn shares_at(&self, number: usize) {
        let gateway = &self.replicas[number].gateway;
        until(
            &format!("{}: replica {number} shares", self.row),
            || async {
                let (up, sharing) = (
                    gateway.metric("revgate_shared_up").await,
                    gateway.sharing().await,
                );
                let is_in = ["plenty", "scarce"].contains(&&*sharing);
                let shares = up == 1.0 && is_in;
                shares.then_some(()).ok_or(format!("up {up}, {sharing}"))
            },
        )
        .await;
    }

    /// Waits until all replicas go alone.
    async fn alone(&self) {
        for (number, _) in self.live() {
            self.alone_at(number).await;
        }
    }

    async fn alone_at(&self, number: usize) {
        let gateway = &self.replicas[number].gateway;
        until(
            &format!("{}: replica {number} is alone", self.row),
            || async {
                let (up, sharing) = (
                    gateway.metric("revgate_shared_up").await,
                    gateway.sharing().await,
                );
                let (status, ready) = gateway.get("/readyz").await;
                assert_eq!(status, 200, "{}: {ready}", self.row);
                let is_out =
                    up == 0.0 && sharing == "alone" && ready.contains("\"shared\":\"down\"");
                is_out
                    .then_some(())
                    .ok_or(format!("up {up}, {sharing}, {ready}"))
            },
        )
        .await;
    }

    /// Without a word.
    fn kill(&mut self, number: usize) {
        let replica = &mut self.replicas[number];
        replica.given_up.send_replace(true);
        replica.gateway.kill();
    }

    fn freeze(&self, number: usize) {
        self.replicas[number].gateway.signal(Signal::STOP);
    }

    fn thaw(&self, number: usize) {
        self.replicas[number].gateway.signal(Signal::CONT);
    }

    /// The most that is in flight at once, and one for each replica that does not know better: what alone goes over in a window.
    fn in_flight_and_one_each(&self) -> u64 {
        let replicas = self.replicas.len() as u64;
        replicas * CALLERS + replicas
    }

    /// Ends the load, and judges the day. Windows that the load did not fill from end to end are left out of what is unused.
    async fn ends(self, bounds: Bounds) -> Evening {
        if self.quota.window == TIGHT.window {
            self.until_windows_are_over().await;
        }
        let Day {
            row,
            quota,
            devrev,
            replicas,
            load,
        } = self;
        let calls = load.end().await;
        let evening = Evening::new((row, quota), &calls, &devrev.windows(), &replicas).await;
        evening.report(&bounds);
        evening.judge(&bounds);
        evening
    }
}
