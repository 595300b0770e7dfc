//! Days on which something breaks under load: requests that fail, units that are spent too many, units that nobody uses.
//!
//! Three gateways, each a process, and callers that want more than there is. No client tries again, so each answer that is none counts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use revgate::simulator::{self, Simulator};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::process::{Process, SHARED, call};
use crate::{
    redis::{Data, MASTER, Mode, Options, Proxy, Server, Watched},
    simulation::{CALLERS, Settings, file, table},
};

const QUOTA: Settings = Settings {
    limit: 60,
    window: Duration::from_secs(6),
    windows: 5,
    pool: 1,
    // As by default.
    max_wait: Duration::from_secs(30),
};

const GATEWAYS: usize = 3;

/// A request of each interactive caller to each gateway: 12 a second, where 10 are served. Batch would only be refused.
const EVERY: Duration = Duration::from_millis(750);

/// In the middle of the second window, and in the middle of the third.
const BREAKS: Duration = Duration::from_secs(9);
const MENDED: Duration = Duration::from_secs(15);
const ENDS: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Day {
    Good,
    RedisKilled,
    RedisStopped,
    Flushed,
    Failover,
    GatewayKilled,
    GatewayStopped,
    CutOff,
}

const DAYS: [(Day, &str, &str, &str); 8] = [
    (Day::Good, "a good day", "0", "1: a dealt unit for 50 ms"),
    (
        Day::RedisKilled,
        "kill -9 of Redis, back empty after 6 s",
        "8: 3 and one in flight in each of two windows",
        "30: what others leave",
    ),
    (
        Day::RedisStopped,
        "SIGSTOP of Redis for 6 s",
        "8: 3 and one in flight in each of two windows",
        "30: what others leave",
    ),
    (
        Day::Flushed,
        "FLUSHALL",
        "0: all leases are stated again",
        "5: half of 1 s",
    ),
    (
        Day::Failover,
        "failover by Sentinel, primary killed",
        "8: as if Redis were lost",
        "30: the same",
    ),
    (
        Day::GatewayKilled,
        "kill -9 of a gateway",
        "1: its own in flight",
        "10: its lease",
    ),
    (
        Day::GatewayStopped,
        "SIGSTOP of a gateway for 6 s",
        "1: its own in flight",
        "10: its lease",
    ),
    (
        Day::CutOff,
        "one gateway cut off from Redis for 6 s",
        "4: 1 and its own in flight in each of two windows",
        "10: its lease",
    ),
];

pub fn print(_: u64) {
    println!(
        "Bad days: {GATEWAYS} gateways, {} units in {} s, of which a fifth more is wanted. What breaks does so after {} s and ends after {} s.\n",
        QUOTA.limit,
        QUOTA.window.as_secs(),
        BREAKS.as_secs(),
        MENDED.as_secs()
    );
    let headings = [
        "day",
        "requests",
        "failed",
        "lost with their gateway",
        "longest wait s",
        "spent too many",
        "at most",
        "unused by window",
        "at most",
    ];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    for (day, name, overspent, unused) in DAYS {
        let seen = runtime.block_on(lived(day));
        rows.push(vec![
            name.to_owned(),
            seen.calls.len().to_string(),
            seen.failed().to_string(),
            seen.lost().to_string(),
            format!("{:.2}", seen.longest().as_secs_f64()),
            seen.overspent.to_string(),
            overspent.to_owned(),
            seen.unused.join(" "),
            unused.to_owned(),
        ]);
    }
    println!("{}", table::render(&rows, 1));
}

struct Call {
    status: Option<u16>,
    took: Duration,
    /// To the gateway that was killed.
    lost: bool,
}

struct Seen {
    calls: Vec<Call>,
    overspent: usize,
    unused: Vec<String>,
}

impl Seen {
    fn failed(&self) -> usize {
        let calls = self.calls.iter();
        calls
            .filter(|call| call.status != Some(200) && !call.lost)
            .count()
    }

    fn lost(&self) -> usize {
        let calls = self.calls.iter();
        calls
            .filter(|call| call.status != Some(200) && call.lost)
            .count()
    }

    fn longest(&self) -> Duration {
        let times = self.calls.iter().map(|call| call.took);
        times.max().unwrap_or_default()
    }
}

async fn lived(day: Day) -> Seen {
    let options = simulator::Options {
        limit: QUOTA.limit,
        window: QUOTA.window,
        ..simulator::Options::default()
    };
    let devrev = simulator::start(options).await.expect("a simulator");
    let text = file(&QUOTA, &devrev.addr().to_string()) + SHARED;
    match day {
        Day::Failover => {
            let mut watched = Watched::start(3).await;
            let url = format!("redis+sentinel://{}/{MASTER}", watched.addresses());
            let gateways = start(&text, &[&url, &url, &url]);
            let breaks = async |_: &mut Vec<Process>| {
                watched.servers[0].kill();
                watched.until_primary(1).await;
            };
            load(day, devrev, gateways, breaks).await
        }
        Day::CutOff => {
            let server = Server::start().await;
            let proxy = Proxy::to(server.address()).await;
            let direct = format!("redis://{}", server.address());
            let cut = format!("redis://{}", proxy.address());
            let gateways = start(&text, &[&direct, &direct, &cut]);
            let breaks = async |_: &mut Vec<Process>| {
                proxy.set(Mode::Swallow);
                sleep(MENDED - BREAKS).await;
                proxy.set(Mode::Pass);
                proxy.cut();
            };
            load(day, devrev, gateways, breaks).await
        }
        _ => {
            let mut server = Server::with(Options::new()).await;
            let url = format!("redis://{}", server.address());
            let gateways = start(&text, &[&url, &url, &url]);
            let breaks = async |gateways: &mut Vec<Process>| {
                break_something(day, &mut server, gateways).await;
            };
            load(day, devrev, gateways, breaks).await
        }
    }
}

async fn break_something(day: Day, server: &mut Server, gateways: &mut [Process]) {
    let lasts = MENDED - BREAKS;
    match day {
        Day::RedisKilled => {
            server.kill();
            sleep(lasts).await;
            server.restart(Data::Lost).await;
        }
        Day::RedisStopped => {
            server.freeze();
            sleep(lasts).await;
            server.thaw();
        }
        Day::Flushed => {
            server.call(&["FLUSHALL"]).await;
        }
        Day::GatewayKilled => gateways[GATEWAYS - 1].kill(),
        Day::GatewayStopped => {
            gateways[GATEWAYS - 1].freeze();
            sleep(lasts).await;
            gateways[GATEWAYS - 1].thaw();
        }
        Day::Good | Day::Failover | Day::CutOff => {}
    }
}

fn start(file: &str, urls: &[&str]) -> Vec<Process> {
    let start = |url: &&str| Process::start(file, url);
    urls.iter().map(start).collect()
}

/// Calls all gateways while this happens, except for one that does not run: a load balancer leaves it out.
async fn load<F: AsyncFnOnce(&mut Vec<Process>)>(
    day: Day,
    devrev: Simulator,
    mut gateways: Vec<Process>,
    breaks: F,
) -> Seen {
    let begun = Instant::now();
    let addresses: Vec<_> = gateways.iter().map(|gateway| gateway.address).collect();
    let stands_still = Arc::new(AtomicBool::new(false));
    let still = stands_still.clone();
    let calling = async {
        let mut calls = JoinSet::new();
        let mut round = 0;
        while begun.elapsed() < ENDS {
            for (number, address) in addresses.iter().copied().enumerate() {
                let is_last = number == GATEWAYS - 1;
                if is_last && still.load(Relaxed) {
                    continue;
                }
                for caller in CALLERS.iter().filter(|caller| !caller.batch) {
                    let lost = is_last && day == Day::GatewayKilled;
                    calls.spawn(async move {
                        let begun = Instant::now();
                        let status = call(address, &caller.key()).await;
                        let took = begun.elapsed();
                        Call { status, took, lost }
                    });
                }
            }
            round += 1;
            sleep_until(begun + EVERY * round).await;
        }
        calls.join_all().await
    };
    let breaking = async {
        sleep_until(begun + BREAKS).await;
        let of_gateway = matches!(day, Day::GatewayKilled | Day::GatewayStopped);
        stands_still.store(of_gateway, Relaxed);
        breaks(&mut gateways).await;
        stands_still.store(day == Day::GatewayKilled, Relaxed);
    };
    let (calls, ()) = tokio::join!(calling, breaking);
    let received = devrev.received();
    let accepted: Vec<_> = received
        .iter()
        .filter(|received| received.status == Some(200))
        .map(|received| Duration::from_millis(received.at_ms))
        .collect();
    Seen {
        calls,
        overspent: received
            .iter()
            .filter(|one| one.status == Some(429))
            .count(),
        unused: unused(&accepted),
    }
}

/// Of each window during which all wanted more than there was: not the first, in which the quota is learnt, and not those after the last call.
fn unused(accepted: &[Duration]) -> Vec<String> {
    let mut windows: Vec<(Duration, u64)> = Vec::new();
    for at in accepted {
        match windows.last_mut() {
            Some((begun, count)) if *at < *begun + QUOTA.window => *count += 1,
            _ => windows.push((*at, 1)),
        }
    }
    let full = windows.iter().skip(1);
    full.filter(|(begun, _)| *begun + QUOTA.window <= ENDS)
        .map(|(_, count)| QUOTA.limit.saturating_sub(*count).to_string())
        .collect()
}
