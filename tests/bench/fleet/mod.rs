//! How well a fleet shares one quota, and what that costs: in virtual time here, and with a real Redis.

pub mod bad_days;
pub mod load;
pub mod many;
pub mod process;
pub mod sockets;

use std::time::Duration;

use crate::{
    describe,
    simulation::{
        Route, Scenario, Settings,
        figures::{Figures, Quantiles},
        fleet::{FleetFigures, Placing, Run, simulate_fleet},
        simulate_with, table,
    },
};

const HEADINGS: [&str; 13] = [
    "scenario",
    "gateways",
    "used %",
    "429s",
    "Jain",
    "a / b / c",
    "exchanges a request",
    "conflicts an exchange",
    "asked first",
    "of these in a new window",
    "wait p50 / p99 s",
    "batch p50 / p99 s",
    "given up / batch",
];

/// Of a fleet of so many gateways; none is one process without `[shared]`.
const GATEWAYS: [usize; 4] = [0, 1, 3, 10];

/// Short windows, so that ten gateways which all wait are simulated in a minute.
const SHORT: Settings = Settings {
    limit: 600,
    window: Duration::from_secs(60),
    windows: 4,
    pool: 200,
    max_wait: Duration::from_secs(60),
};

/// The largest quota that is known: 150 units a second.
const LARGE: Settings = Settings {
    limit: 9000,
    window: Duration::from_secs(60),
    windows: 3,
    pool: 200,
    max_wait: Duration::from_secs(60),
};

struct Part {
    name: &'static str,
    scenario: Scenario,
    settings: &'static Settings,
    placing: Placing,
}

const PARTS: [Part; 4] = [
    Part {
        name: "plenty, 3.3 units a second",
        scenario: Scenario::Plenty,
        settings: &Settings::DEVREV,
        placing: Placing::Spread,
    },
    Part {
        name: "plenty, 150 units a second",
        scenario: Scenario::Plenty,
        settings: &LARGE,
        placing: Placing::Spread,
    },
    Part {
        name: "steady",
        scenario: Scenario::Steady,
        settings: &SHORT,
        placing: Placing::Spread,
    },
    Part {
        name: "batch on another",
        scenario: Scenario::Backlog,
        settings: &SHORT,
        placing: Placing::Apart,
    },
];

pub fn simulated(seed: u64) {
    println!("A fleet in virtual time. A round trip to the register takes 1 to 3 ms.");
    for part in &PARTS {
        println!("{}: {}", part.name, describe(part.settings, seed));
    }
    println!();
    let mut rows = vec![HEADINGS.map(str::to_owned).to_vec()];
    for part in &PARTS {
        for gateways in GATEWAYS {
            rows.push(row(part, gateways, seed));
        }
    }
    println!("{}", table::render(&rows, 2));
}

fn row(part: &Part, gateways: usize, seed: u64) -> Vec<String> {
    if gateways == 0 {
        let figures = simulate_with(part.scenario, part.settings, Route::Revgate, seed);
        return cells(part.name, "alone", &figures, None);
    }
    let run = Run {
        scenario: part.scenario,
        settings: part.settings,
        placing: part.placing,
        gateways,
        seed,
    };
    let fleet = simulate_fleet(run);
    cells(
        part.name,
        &gateways.to_string(),
        &fleet.figures,
        Some(&fleet),
    )
}

fn cells(
    name: &str,
    gateways: &str,
    figures: &Figures,
    fleet: Option<&FleetFigures>,
) -> Vec<String> {
    let row = table::row(name, gateways, figures);
    let mut cells = row[..6].to_vec();
    let of_fleet = |show: &dyn Fn(&FleetFigures) -> String| fleet.map_or("-".to_owned(), show);
    cells.extend([
        of_fleet(&|fleet| format!("{:.3}", fleet.exchanges_a_request())),
        of_fleet(&|fleet| {
            let exchanges = fleet.exchanges;
            format!("{:.2}", exchanges.conflicts as f64 / exchanges.ok as f64)
        }),
        of_fleet(&|fleet| format!("{} of {}", fleet.asked, fleet.requests)),
        of_fleet(&|fleet| fleet.asked_first.to_string()),
        waits(figures.wait),
        waits(figures.batch_wait),
        format!("{} / {}", figures.given_up, figures.batch_given_up),
    ]);
    cells
}

/// To the millisecond, because that is what an exchange takes.
fn waits(of: Quantiles) -> String {
    format!("{:.3} / {:.3}", of.p50.as_secs_f64(), of.p99.as_secs_f64())
}
