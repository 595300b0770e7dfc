//! Hundreds of sidecars on one Redis: what they cost while they are idle, and how many may wait at once.
//!
//! The sidecars are states and stacks in this process, each with a connection of its own to Redis and a driver of its own. What a process
//! adds to them is weighed on two real ones.

use std::time::Duration;

use http::{Request, header};
use revgate::{
    body::Body,
    fleet::{names::Names, redis},
    policy::redis_address,
    state::{State, draining::Draining},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tower::ServiceExt;

use super::{
    load::Load,
    process::{Process, SHARED, resident_kib},
};
use crate::{
    redis::Server,
    simulation::{
        CALLERS, Settings,
        client::Target,
        file,
        fleet::{Exchanges, gateway},
        model::Model,
        table,
    },
};

/// Quota enough.
const PLENTY: Settings = Settings {
    limit: 100_000,
    window: Duration::from_secs(300),
    windows: 1,
    pool: 1,
    max_wait: Duration::from_secs(30),
};

/// So little that everybody waits.
const SCARCE: Settings = Settings {
    limit: 200,
    window: Duration::from_secs(10),
    windows: 1,
    pool: 1,
    max_wait: Duration::from_secs(300),
};

const SIDECARS: usize = 300;

/// Raised until a twentieth of the exchanges fails.
const WAITING: [usize; 6] = [10, 30, 100, 300, 600, 1000];

/// Before it is measured.
const SETTLED: Duration = Duration::from_secs(15);
const MEASURED: Duration = Duration::from_secs(15);

/// As `shared.timeout` by default.
const TIMEOUT: Duration = Duration::from_millis(50);

pub fn print(seed: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        weighed().await;
        idle(seed).await;
        waiting(seed).await;
    });
}

/// What `[shared]` adds to a process.
async fn weighed() {
    let server = Server::start().await;
    let url = format!("redis://{}", server.address());
    let text = file(&PLENTY, "127.0.0.1:1");
    let lone = Process::start(&text, &url);
    let shared = Process::start(&(text + SHARED), &url);
    sleep(Duration::from_secs(2)).await;
    println!(
        "Resident memory of an idle process: {} KiB without [shared], {} KiB with it.\n",
        lone.resident_kib(),
        shared.resident_kib()
    );
}

struct Fleet {
    server: Server,
    sidecars: Vec<(State, Target)>,
    _drain: revgate::state::draining::Drain,
}

impl Fleet {
    async fn start(settings: &'static Settings, count: usize, seed: u64) -> Fleet {
        let server = Server::start().await;
        let model = Model::new(settings, Instant::now(), seed);
        let (drain, draining) = Draining::new();
        let endpoint = format!("redis://{}", server.address());
        let endpoint = redis_address::parse(&endpoint).expect("a URL");
        let sidecars = (0..count).map(|_| {
            let names = Names::new("bench", None);
            let register = redis::start(endpoint.clone(), None, names, TIMEOUT);
            gateway(settings, draining.clone(), register, model.clone())
        });
        let sidecars = sidecars.collect();
        Fleet {
            server,
            sidecars,
            _drain: drain,
        }
    }

    fn exchanges(&self) -> Exchanges {
        Exchanges::of(self.sidecars.iter().map(|(state, _)| state))
    }

    /// What happens in this time.
    async fn measure(&self, time: Duration) -> (Load, Exchanges) {
        let (load, exchanges) = (Load::of(&self.server).await, self.exchanges());
        sleep(time).await;
        let load = Load::of(&self.server).await.since(&load);
        (load, self.exchanges().since(exchanges))
    }
}

async fn send(target: Target, caller: usize) {
    let request = Request::get("/dev-users.self")
        .header(header::HOST, "api.devrev.ai")
        .header(
            header::AUTHORIZATION,
            format!("Bearer {}", CALLERS[caller].key()),
        )
        .body(Body::empty())
        .expect("a request");
    let _ = target.oneshot(request).await;
}

async fn idle(seed: u64) {
    println!("{SIDECARS} sidecars, in one process.\n");
    let headings = [
        "sidecars are",
        "exchanges / s",
        "connections",
        "Redis, CPU %",
        "memory each KiB",
    ];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    let before = resident_kib("self");
    let fleet = Fleet::start(&PLENTY, SIDECARS, seed).await;
    sleep(Duration::from_secs(5)).await;
    let weight = (resident_kib("self").saturating_sub(before)) / SIDECARS as u64;
    let row = |name: &str, (load, _): (Load, Exchanges), weight: String| {
        vec![
            name.to_owned(),
            format!("{:.1}", load.exchanges),
            load.connections.to_string(),
            load.cpu(),
            weight,
        ]
    };
    rows.push(row(
        "fresh",
        fleet.measure(MEASURED).await,
        weight.to_string(),
    ));
    let rarely = async {
        // Each has a request in 30 s.
        for (_, target) in fleet.sidecars.iter().cycle() {
            tokio::spawn(send(target.clone(), 0));
            sleep(Duration::from_secs(30) / SIDECARS as u32).await;
        }
    };
    let seldom = async {
        sleep(Duration::from_secs(40)).await;
        fleet.measure(MEASURED).await
    };
    let seldom = tokio::select! {
        () = rarely => unreachable!("it goes on"),
        measured = seldom => measured,
    };
    rows.push(row("called once in 30 s each", seldom, "-".to_owned()));
    sleep(Duration::from_secs(100)).await;
    let weight = (resident_kib("self").saturating_sub(before)) / SIDECARS as u64;
    rows.push(row(
        "idle since 100 s",
        fleet.measure(MEASURED).await,
        weight.to_string(),
    ));
    println!("{}", table::render(&rows, 1));
}

async fn waiting(seed: u64) {
    println!(
        "Sidecars that all wait at once, two requests on each, for {} units in {} s. All of them are in one process, beside Redis on the same cores.\n",
        SCARCE.limit,
        SCARCE.window.as_secs()
    );
    let headings = [
        "sidecars",
        "exchanges / s",
        "conflicts an exchange",
        "failed %",
        "p50 / p99 ms",
        "value KiB",
        "Redis, CPU %",
        "sidecars, CPU %",
    ];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    for count in WAITING {
        let (row, failed) = all_wait(count, seed).await;
        rows.push(row);
        if failed > 0.05 {
            break;
        }
    }
    println!("{}", table::render(&rows, 0));
}

async fn all_wait(count: usize, seed: u64) -> (Vec<String>, f64) {
    let fleet = Fleet::start(&SCARCE, count, seed).await;
    sleep(Duration::from_secs(2)).await;
    let mut callers = JoinSet::new();
    for (number, (_, target)) in fleet.sidecars.iter().enumerate() {
        for caller in [number % 3, 3] {
            let target = target.clone();
            callers.spawn(async move {
                loop {
                    send(target.clone(), caller).await;
                }
            });
        }
    }
    sleep(SETTLED).await;
    let (load, exchanges) = fleet.measure(MEASURED).await;
    let key = Names::new("bench", None).of_group("main");
    let size = fleet.server.call(&["STRLEN", &*key]).await.text();
    let size: f64 = size.parse().expect("a number");
    let first = fleet.sidecars[0].0.fleet.clone().expect("a fleet");
    let shown = |part: f64| format!("{:.2}", first.percentile(part).unwrap_or_default() * 1000.0);
    let times = format!("{} / {}", shown(0.5), shown(0.99));
    callers.shutdown().await;
    let all = (exchanges.ok + exchanges.failed).max(1) as f64;
    let failed = exchanges.failed as f64 / all;
    let row = vec![
        count.to_string(),
        format!("{:.0}", exchanges.ok as f64 / MEASURED.as_secs_f64()),
        format!("{:.2}", exchanges.conflicts as f64 / all),
        format!("{:.2}", failed * 100.0),
        times,
        format!("{:.1}", size / 1024.0),
        load.cpu(),
        load.cpu_here(),
    ];
    (row, failed)
}
