//! Checks the figures of each scenario, in virtual time, against the aims for sharing the quota.

#![allow(
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test binary has no outside, and runs in real time"
)]

mod simulation;

use std::time::Duration;

use simulation::{Route, Scenario, figures::Figures, simulate, table};

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

/// Otherwise figures could not be compared across changes.
#[test]
fn the_same_seed_gives_the_same_figures() {
    for route in Route::ALL {
        let run = || simulate(Scenario::Outside, route, SEED);
        assert_eq!(run(), run(), "{route:?}");
    }
}
