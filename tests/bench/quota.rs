//! Measures how well the quota is shared, and the cost of sharing it.
//!
//! `cargo bench --bench quota [-- [--seed N] [SECTION]...]`; without a section all but those that begin with `fleet-`, which need a
//! `redis-server` and take minutes. See `SECTIONS`.

#![allow(
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test binary has no outside, and runs in real time"
)]

mod fleet;
mod hot_path;
#[path = "../redis/mod.rs"]
mod redis;
mod simulation;
mod sockets;

use simulation::{Route, Scenario, Settings, simulate, table};

/// Prints one section, for a seed.
type Section = fn(u64);

const SECTIONS: [(&str, Section); 7] = [
    ("simulation", simulated),
    ("sockets", real),
    ("hot-path", cost),
    ("fleet", fleet::simulated),
    ("fleet-sockets", fleet::sockets::print),
    ("fleet-idle", fleet::many::print),
    ("fleet-bad-days", fleet::bad_days::print),
];

const SCENARIOS: [Scenario; 6] = [
    Scenario::Steady,
    Scenario::Bursty,
    Scenario::Late,
    Scenario::Greedy,
    Scenario::Outside,
    Scenario::Backlog,
];

fn main() {
    let mut seed = 1;
    let mut named = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // cargo passes it to every bench.
            "--bench" => {}
            "--seed" => match arguments.next().map(|seed| seed.parse()) {
                Some(Ok(number)) => seed = number,
                _ => refuse("--seed takes a number"),
            },
            name if SECTIONS.iter().any(|(section, _)| *section == name) => named.push(argument),
            other => refuse(&format!("{other} is neither an option nor a section")),
        }
    }
    for (name, section) in SECTIONS {
        let by_default = named.is_empty() && !name.starts_with("fleet-");
        if by_default || named.iter().any(|section| section == name) {
            section(seed);
        }
    }
}

fn refuse(why: &str) -> ! {
    let sections = SECTIONS.map(|(name, _)| name).join("] [");
    eprintln!("{why}; usage: [--seed N] [{sections}]");
    std::process::exit(2)
}

fn simulated(seed: u64) {
    println!("Virtual time. {}", describe(&Settings::DEVREV, seed));
    println!("backlog: {}\n", describe(&Settings::SHORT, seed));
    let mut rows = vec![table::HEADINGS.map(str::to_owned).to_vec()];
    for scenario in SCENARIOS {
        for route in Route::ALL {
            let figures = simulate(scenario, route, seed);
            rows.push(table::row(scenario.name(), route.name(), &figures));
        }
    }
    println!("{}", table::render(&rows, 2));
}

fn real(seed: u64) {
    println!(
        "Real time, real connections. {}\n",
        describe(&sockets::SETTINGS, seed)
    );
    let scenario = Scenario::Steady;
    let mut rows = vec![table::HEADINGS.map(str::to_owned).to_vec()];
    for (route, figures) in sockets::measure(scenario, seed) {
        rows.push(table::row(scenario.name(), route.name(), &figures));
    }
    println!("{}", table::render(&rows, 2));
}

fn describe(settings: &Settings, seed: u64) -> String {
    format!(
        "{} units in {} s; {} windows, the first not measured; at most {} requests in flight per caller; seed {seed}",
        settings.limit,
        settings.window.as_secs(),
        settings.windows,
        settings.pool
    )
}

fn cost(_seed: u64) {
    println!("The quota layer while quota is plentiful, per request.\n");
    let costs = hot_path::costs();
    let row = |name: &str, allocations: f64, nanoseconds: f64| {
        vec![
            name.to_owned(),
            format!("{allocations:.2}"),
            format!("{nanoseconds:.0}"),
        ]
    };
    let (inner, whole) = (costs.inner, costs.with_quota);
    let rows = [
        ["what", "allocations", "ns"].map(str::to_owned).to_vec(),
        row("service alone", inner.allocations, inner.nanoseconds),
        row("with quota around it", whole.allocations, whole.nanoseconds),
        row(
            "quota",
            whole.allocations - inner.allocations,
            whole.nanoseconds - inner.nanoseconds,
        ),
    ];
    println!("{}", table::render(&rows, 1));
}
