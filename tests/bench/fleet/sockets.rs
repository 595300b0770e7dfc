//! The same callers in real time: gateways on real connections, a real Redis, and the simulator with a small quota.

use std::{net::SocketAddr, time::Duration};

use hyper::client::conn::http1::SendRequest;
use revgate::{
    body::Body,
    config::{self, Config},
    serve::Gateway,
    simulator::{self, Simulator},
};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{HEADINGS, cells, load::Load, process};
use crate::{
    describe,
    redis::Server,
    simulation::{
        CALLERS, Scenario, Settings, TOKEN,
        client::drive,
        demand::Demand,
        figures::Observed,
        file,
        fleet::{Exchanges, FleetFigures, Placing, placed},
        table,
    },
    sockets::{self, SETTINGS, connect, devrev, target},
};

const GATEWAYS: [usize; 3] = [1, 3, 10];

/// Of the rows about time: so much that nobody waits.
const PLENTY: Settings = Settings {
    limit: 9000,
    window: Duration::from_secs(60),
    windows: 1,
    pool: 1,
    max_wait: Duration::from_secs(60),
};

/// One request to the fleet and one to the process beside it.
const EVERY: Duration = Duration::from_millis(22);
const MEASURED: Duration = Duration::from_secs(30);

/// Leases are there after it.
const SETTLED: Duration = Duration::from_secs(5);

pub fn print(seed: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        shared_fairly(seed).await;
        added_time().await;
    });
}

async fn shared_fairly(seed: u64) {
    println!(
        "A fleet in real time, over real connections with a real Redis. steady: {}\n",
        describe(&SETTINGS, seed)
    );
    let demand = Demand::draw(Scenario::Steady, &SETTINGS, seed);
    let mut headings = HEADINGS.map(str::to_owned).to_vec();
    headings.extend(["exchanges / s", "failed", "Redis, CPU %"].map(str::to_owned));
    let mut rows = vec![headings];
    let alone = sockets::through_revgate(&demand).await;
    let mut row = cells("steady", "alone", &alone, None);
    row.extend(["-", "-", "-"].map(str::to_owned));
    rows.push(row);
    for gateways in GATEWAYS {
        let (figures, load) = steady(&demand, gateways).await;
        let mut row = cells(
            "steady",
            &gateways.to_string(),
            &figures.figures,
            Some(&figures),
        );
        // When a request was sent is not known to the millisecond.
        row[8..10].fill("-".to_owned());
        row.extend([
            format!("{:.0}", load.exchanges),
            figures.exchanges.failed.to_string(),
            load.cpu(),
        ]);
        rows.push(row);
    }
    println!("{}", table::render(&rows, 2));
}

async fn steady(demand: &Demand, count: usize) -> (FleetFigures, Load) {
    let server = Server::start().await;
    let (devrev, start) = devrev().await;
    let gateways = start_gateways(&SETTINGS, &devrev, &server, count);
    let targets = gateways.iter().map(address).map(target).collect();
    let before = Load::of(&server).await;
    let requests = drive(placed(targets, Placing::Spread), demand, &SETTINGS, start);
    let requests = requests.await;
    let load = Load::of(&server).await.since(&before);
    let arrivals: Vec<_> = devrev.received().iter().map(sockets::arrival).collect();
    let observed = Observed {
        settings: &SETTINGS,
        requests: &requests,
        arrivals: &arrivals,
    };
    let figures = FleetFigures {
        figures: observed.figures(false),
        exchanges: exchanges(&gateways).await,
        requests: arrivals.iter().filter(|arrival| arrival.accepted).count(),
        asked: 0,
        asked_first: 0,
    };
    drain(gateways).await;
    (figures, load)
}

/// What `GET /status` of all says since their start.
async fn exchanges(gateways: &[Gateway]) -> Exchanges {
    let mut sum = Exchanges::default();
    for gateway in gateways {
        let status = process::admin(gateway.admin_address(), "/status").await;
        let counts = status["shared"]["exchanges"].as_object().cloned();
        for (result, count) in counts.expect("counts") {
            let count = count.as_u64().expect("a number");
            match &*result {
                "ok" => sum.ok += count,
                "conflict" => sum.conflicts += count,
                _ => sum.failed += count,
            }
        }
    }
    sum
}

fn start_gateways(
    settings: &Settings,
    devrev: &Simulator,
    server: &Server,
    count: usize,
) -> Vec<Gateway> {
    let config = configuration(settings, devrev, Some(server));
    let start = |_| Gateway::start(config.clone(), None).expect("the gateway starts");
    (0..count).map(start).collect()
}

fn configuration(settings: &Settings, devrev: &Simulator, server: Option<&Server>) -> Config {
    let mut text = file(settings, &devrev.addr().to_string());
    let mut env = vec![("DEVREV_TOKEN".to_owned(), TOKEN.to_owned())];
    if let Some(server) = server {
        text += process::SHARED;
        let url = format!("redis://{}", server.address());
        env.push(("REDIS_URL".to_owned(), url));
    }
    config::from_toml(&text, &env.into_iter().collect())
        .unwrap_or_else(|problems| panic!("{problems}"))
}

fn address(gateway: &Gateway) -> SocketAddr {
    gateway.address().expect("TCP")
}

async fn drain(gateways: Vec<Gateway>) {
    for gateway in gateways {
        gateway.drain().await;
    }
}

async fn added_time() {
    println!(
        "Time of a request in plenty: one each {} ms to the fleet, its gateways in turn, and one to a process without [shared] beside it.\n",
        EVERY.as_millis()
    );
    let headings = [
        "gateways",
        "requests",
        "fleet p50 / p99 ms",
        "process p50 / p99 ms",
        "exchanges a request",
        "exchanges / s",
        "Redis, CPU %",
    ];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    for count in GATEWAYS {
        rows.push(paired(count).await);
    }
    println!("{}", table::render(&rows, 0));
}

async fn paired(count: usize) -> Vec<String> {
    let server = Server::start().await;
    let (for_fleet, for_process) = (simulator().await, simulator().await);
    let fleet = start_gateways(&PLENTY, &for_fleet, &server, count);
    let lone = configuration(&PLENTY, &for_process, None);
    let lone = Gateway::start(lone, None).expect("the gateway starts");
    let mut connections = Vec::new();
    for gateway in &fleet {
        connections.push(connect(address(gateway)).await);
    }
    let mut other = connect(address(&lone)).await;
    let (mut of_fleet, mut of_process) = (Vec::new(), Vec::new());
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let begun = Instant::now();
    let mut before = None;
    for number in 0.. {
        ticks.tick().await;
        if before.is_none() && begun.elapsed() > SETTLED {
            before = Some((Load::of(&server).await, exchanges(&fleet).await));
        }
        if begun.elapsed() > SETTLED + MEASURED {
            break;
        }
        let connection = &mut connections[number % count];
        // Which of the two is first changes, so that what the first one warms up favours none.
        let (in_fleet, alone) = if (number / count).is_multiple_of(2) {
            let in_fleet = timed(connection, number).await;
            (in_fleet, timed(&mut other, number).await)
        } else {
            let alone = timed(&mut other, number).await;
            (timed(connection, number).await, alone)
        };
        if before.is_some() {
            of_fleet.push(in_fleet);
            of_process.push(alone);
        }
    }
    let (load, exchanged) = before.expect("it settled");
    let load = Load::of(&server).await.since(&load);
    let exchanged = exchanges(&fleet).await.since(exchanged);
    drain(fleet).await;
    lone.drain().await;
    vec![
        count.to_string(),
        of_fleet.len().to_string(),
        milliseconds(&mut of_fleet.clone()),
        milliseconds(&mut of_process),
        format!("{:.3}", exchanged.ok as f64 / of_fleet.len() as f64),
        format!("{:.1}", load.exchanges),
        load.cpu(),
    ]
}

async fn timed(connection: &mut SendRequest<Body>, number: usize) -> Duration {
    let caller = &CALLERS[number % CALLERS.len()];
    let begun = Instant::now();
    let status = sockets::get(connection, &caller.key()).await;
    assert_eq!(status, 200);
    begun.elapsed()
}

fn milliseconds(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() as f64 * part) as usize).min(times.len() - 1)];
    let shown = |time: Duration| format!("{:.2}", time.as_secs_f64() * 1000.0);
    format!("{} / {}", shown(at(0.5)), shown(at(0.99)))
}

async fn simulator() -> Simulator {
    let options = simulator::Options {
        limit: PLENTY.limit,
        window: PLENTY.window,
        ..simulator::Options::default()
    };
    simulator::start(options).await.expect("a simulator")
}
