//! Checks the figures of each scenario, in virtual time, against the aims for sharing the quota.

#![allow(
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test binary has no outside, and runs in real time"
)]

mod simulation;

use std::time::Duration;

use simulation::{
    Route, Scenario, Settings,
    figures::Figures,
    fleet::{FleetFigures, Placing, Run, simulate_fleet},
    simulate, table,
};

const SEED: u64 = 1;

/// The aims; each applies to every scenario. Tighten them here.
const AIMS: &[Aim] = &[
    Aim {
        name: "the quota is used",
        holds: |_, figures| figures.utilisation >= 0.99,
    },
    Aim {
        name: "upstream refuses nothing that revgate could foresee",
        holds: |scenario, figures| figures.throttled <= unavoidable(scenario),
    },
    Aim {
        name: "callers that wait are served by weight",
        holds: |_, figures| figures.jain.is_some_and(|jain| jain >= 0.99),
    },
    Aim {
        name: "no interactive caller starves for long",
        holds: |_, figures| figures.starved <= Duration::from_secs(30),
    },
    Aim {
        name: "batch is served within a window",
        holds: |_, figures| figures.batch_starved <= Duration::from_secs(300),
    },
    Aim {
        name: "a late caller is served at once",
        holds: |_, figures| {
            figures
                .first_wait
                .is_none_or(|wait| wait <= Duration::from_secs(1))
        },
    },
];

struct Aim {
    name: &'static str,
    holds: fn(Scenario, &Figures) -> bool,
}

/// The aims of [`Scenario::Backlog`], beside the others.
const BACKLOG_AIMS: &[Aim] = &[
    Aim {
        name: "half of the interactive requests wait less than a second",
        holds: |_, figures| figures.wait.p50 < Duration::from_secs(1),
    },
    Aim {
        name: "nearly all of them wait for a few seconds at most",
        holds: |_, figures| figures.wait.p99 < Duration::from_secs(5),
    },
    Aim {
        name: "none of them is refused",
        holds: |_, figures| figures.given_up == 0,
    },
];

/// Outside traffic may take a window's last unit while a request is in flight, which cannot be foreseen. Once in each of three
/// windows.
fn unavoidable(scenario: Scenario) -> usize {
    match scenario {
        Scenario::Outside => 3,
        _ => 0,
    }
}

fn check(scenario: Scenario) {
    let figures = simulate(scenario, Route::Revgate, SEED);
    let row = table::row(scenario.name(), Route::Revgate.name(), &figures);
    let headings = table::HEADINGS.map(str::to_owned).to_vec();
    let shown = table::render(&[headings, row], 2);
    let own = match scenario {
        Scenario::Backlog => BACKLOG_AIMS,
        _ => &[],
    };
    let faults: Vec<_> = AIMS
        .iter()
        .chain(own)
        .filter(|aim| !(aim.holds)(scenario, &figures))
        .map(|aim| format!("not met: {}", aim.name))
        .collect();
    assert!(faults.is_empty(), "\n{}\n{shown}", faults.join("\n"));
}

#[test]
fn steady() {
    check(Scenario::Steady);
}

#[test]
fn bursty() {
    check(Scenario::Bursty);
}

#[test]
fn late() {
    check(Scenario::Late);
}

#[test]
fn greedy() {
    check(Scenario::Greedy);
}

#[test]
fn outside() {
    check(Scenario::Outside);
}

#[test]
fn backlog() {
    check(Scenario::Backlog);
}

/// The aims of a fleet whose quota is spent.
const FLEET_AIMS: &[FleetAim] = &[
    FleetAim {
        name: "the quota is used",
        holds: |figures| figures.figures.utilisation >= 0.98,
    },
    FleetAim {
        name: "upstream refuses nothing",
        holds: |figures| figures.figures.throttled == 0,
    },
    FleetAim {
        name: "callers that wait are served by weight, wherever they are",
        holds: |figures| figures.figures.jain.is_some_and(|jain| jain >= 0.98),
    },
];

/// And of one that has plenty.
const PLENTY_AIMS: &[FleetAim] = &[
    FleetAim {
        name: "upstream refuses nothing",
        holds: |figures| figures.figures.throttled == 0,
    },
    FleetAim {
        name: "one exchange suffices for more than twenty requests",
        holds: |figures| figures.exchanges_a_request() < 0.05,
    },
    FleetAim {
        name: "every request is served",
        holds: |figures| figures.figures.given_up + figures.figures.batch_given_up == 0,
    },
];

struct FleetAim {
    name: &'static str,
    holds: fn(&FleetFigures) -> bool,
}

/// Less of it, because what ten gateways exchange while all of them wait takes time.
const FLEET: Settings = Settings {
    limit: 100,
    window: Duration::from_secs(10),
    windows: 3,
    pool: 20,
    max_wait: Duration::from_secs(10),
};

const LARGE: Settings = Settings {
    limit: 9000,
    window: Duration::from_secs(60),
    windows: 3,
    pool: 120,
    max_wait: Duration::from_secs(10),
};

fn check_fleet(run: Run, aims: &[FleetAim]) -> FleetFigures {
    let figures = simulate_fleet(run);
    let missed = aims.iter().filter(|aim| !(aim.holds)(&figures));
    let missed: Vec<_> = missed.map(|aim| aim.name).collect();
    assert!(missed.is_empty(), "not met: {missed:?}\n{figures:#?}");
    figures
}

#[test]
fn a_fleet_is_fair_to_callers_whatever_their_gateways() {
    for (gateways, placing) in [
        (3, Placing::Spread),
        (3, Placing::Apart),
        (10, Placing::Spread),
    ] {
        let run = Run {
            scenario: Scenario::Steady,
            settings: &FLEET,
            placing,
            gateways,
            seed: SEED,
        };
        check_fleet(run, FLEET_AIMS);
    }
}

#[test]
fn a_fleet_in_plenty_hardly_exchanges() {
    for gateways in [1, 10] {
        let run = Run {
            scenario: Scenario::Plenty,
            settings: &LARGE,
            placing: Placing::Spread,
            gateways,
            seed: SEED,
        };
        let figures = check_fleet(run, PLENTY_AIMS);
        if gateways == 1 {
            assert_eq!(figures.asked, 0, "on its way a request asks nobody");
        }
    }
}

/// Otherwise figures could not be compared across changes.
#[test]
fn the_same_seed_gives_the_same_figures() {
    for route in Route::ALL {
        let run = || simulate(Scenario::Outside, route, SEED);
        assert_eq!(run(), run(), "{route:?}");
    }
}
