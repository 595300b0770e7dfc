//! The same callers in virtual time behind the gateways of a fleet, which share the quota through a register in memory.
//!
//! Each gateway has a state and a stack of its own. Their exchanges go over a line that takes time, so they are in each other's way as
//! with a real register.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use http::{Request, header};
use revgate::{
    body::Body,
    fleet::{
        driver::state_of,
        here::{Line, Place},
        names::Names,
        register::Register,
    },
    plan::Plan,
    stack,
    state::{Clock, State, draining::Draining},
    telemetry::labels::ExchangeResult,
};
use tokio::time::Instant;
use tower::{ServiceExt, service_fn, util::BoxCloneService};

use super::{
    CALLERS, Scenario, Settings,
    client::{NUMBER, Target, drive},
    configuration,
    demand::Demand,
    figures::{Arrival, Figures, Issued, Observed},
    model::{EPOCH, Model},
    paused,
};

/// As `shared.timeout` by default.
const TIMEOUT: Duration = Duration::from_millis(50);

/// Each way to the register. tokio's clock counts milliseconds, so a round trip takes one to three of them.
const DELAY: RangeInclusive<Duration> = Duration::from_micros(100)..=Duration::from_micros(1200);

/// Which caller sends its requests to which gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placing {
    /// `a` to one, `b` to all others, `c` and batch to all.
    Spread,
    /// Batch to the last, all others to the first.
    Apart,
}

impl Placing {
    /// The gateway for this request.
    pub fn gateway(self, caller: usize, number: usize, gateways: usize) -> usize {
        match (self, CALLERS[caller].name) {
            _ if gateways == 1 => 0,
            (Placing::Spread, "a") => 0,
            (Placing::Spread, "b") => 1 + number % (gateways - 1),
            (Placing::Spread, _) => number % gateways,
            (Placing::Apart, "batch") => gateways - 1,
            (Placing::Apart, _) => 0,
        }
    }
}

/// What is simulated.
#[derive(Clone, Copy)]
pub struct Run {
    pub scenario: Scenario,
    pub settings: &'static Settings,
    pub placing: Placing,
    pub gateways: usize,
    pub seed: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FleetFigures {
    pub figures: Figures,
    /// All below: since the end of the first window.
    pub exchanges: Exchanges,
    /// That were served.
    pub requests: usize,
    /// Of these, those that were not sent at once. In plenty they have waited for an exchange.
    pub asked: usize,
    /// Of these, those that came in the first second of a window, which nobody knew yet.
    pub asked_first: usize,
}

/// How many round trips to the register there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exchanges {
    pub ok: u64,
    /// Another gateway was faster, and the exchange was made again.
    pub conflicts: u64,
    pub failed: u64,
}

impl Exchanges {
    /// Of all these gateways since their start.
    pub fn of<'a>(states: impl IntoIterator<Item = &'a State>) -> Exchanges {
        let mut sum = Exchanges::default();
        let fleets = states.into_iter().filter_map(|state| state.fleet.as_ref());
        for (result, count) in fleets.flat_map(|fleet| fleet.exchanges()) {
            match result {
                ExchangeResult::Ok => sum.ok += count,
                ExchangeResult::Conflict => sum.conflicts += count,
                _ => sum.failed += count,
            }
        }
        sum
    }

    pub fn since(self, before: Exchanges) -> Exchanges {
        Exchanges {
            ok: self.ok - before.ok,
            conflicts: self.conflicts - before.conflicts,
            failed: self.failed - before.failed,
        }
    }
}

impl FleetFigures {
    /// Exchanges for each request that was served.
    pub fn exchanges_a_request(&self) -> f64 {
        self.exchanges.ok as f64 / self.requests as f64
    }
}

pub fn simulate_fleet(run: Run) -> FleetFigures {
    // Also the ids of replicas and of values are drawn from here.
    fastrand::seed(run.seed);
    let settings = run.settings;
    let demand = Demand::draw(run.scenario, settings, run.seed);
    paused().block_on(async {
        let start = Instant::now();
        let model = Model::new(settings, start, run.seed);
        let (drain, draining) = Draining::new();
        let place = Place::new(Clock::start(), EPOCH);
        let states: Vec<(State, Target)> = (0..run.gateways)
            .map(|number| {
                let here = place.join(TIMEOUT, run.seed + number as u64);
                here.set_line(Line {
                    delay: DELAY,
                    ..Line::default()
                });
                gateway(settings, draining.clone(), Arc::new(here), model.clone())
            })
            .collect();
        let targets = states.iter().map(|(_, target)| target.clone()).collect();
        let exchanges = || Exchanges::of(states.iter().map(|(state, _)| state));
        let first = async {
            tokio::time::sleep_until(start + settings.window).await;
            exchanges()
        };
        let target = placed(targets, run.placing);
        let (requests, before) = tokio::join!(drive(target, &demand, settings, start), first);
        let exchanges = exchanges().since(before);
        drop(drain);
        let arrivals = model.arrivals();
        let served = served(&requests, &arrivals, settings.window);
        let asked = served.iter().filter(|served| served.waited);
        let observed = Observed {
            settings,
            requests: &requests,
            arrivals: &arrivals,
        };
        FleetFigures {
            figures: observed.figures(false),
            exchanges,
            requests: served.len(),
            asked: asked.clone().count(),
            asked_first: asked.filter(|served| served.in_new_window).count(),
        }
    })
}

/// A gateway whose exchanges are made on the runtime of this thread.
pub fn gateway(
    settings: &Settings,
    draining: Draining,
    register: Arc<dyn Register>,
    model: Model,
) -> (State, Target) {
    let config = configuration(settings, "api.devrev.ai");
    let plan = Plan::of(&config).expect("its token fits a header");
    let register = (register, Names::new("bench", None));
    let state = state_of(&plan, draining, register, TIMEOUT).expect("randomness");
    let stack = stack::build(&plan, &state, model, None);
    (state, BoxCloneService::new(stack))
}

/// Sends each request to the gateway where its caller sends it.
pub fn placed(targets: Vec<Target>, placing: Placing) -> Target {
    let targets: Arc<[_]> = targets.into_iter().map(std::sync::Mutex::new).collect();
    BoxCloneService::new(service_fn(move |request: Request<Body>| {
        let number = request.headers().get(NUMBER).expect("a number");
        let number = number.to_str().expect("text").parse().expect("a number");
        let gateway = placing.gateway(caller(&request), number, targets.len());
        let target = super::lock(&targets[gateway]).clone();
        target.oneshot(request)
    }))
}

/// Index in `CALLERS` of the one whose key the request has.
fn caller(request: &Request<Body>) -> usize {
    let credential = &request.headers()[header::AUTHORIZATION];
    let mut callers = CALLERS.iter();
    let caller = callers.position(|caller| *credential == format!("Bearer {}", caller.key()));
    caller.expect("a caller")
}

struct Served {
    waited: bool,
    in_new_window: bool,
}

/// The requests that were served after the first window.
fn served(requests: &[Issued], arrivals: &[Arrival], window: Duration) -> Vec<Served> {
    let (mut begun, mut served) = (Duration::ZERO, Vec::new());
    for arrival in arrivals.iter().filter(|arrival| arrival.accepted) {
        let Some(request) = arrival.request.and_then(|number| requests.get(number)) else {
            continue;
        };
        if arrival.at >= begun + window {
            // The first unit after the end of a window opens another.
            begun = arrival.at;
        }
        if arrival.at >= window {
            served.push(Served {
                waited: arrival.at > request.at,
                in_new_window: arrival.at < begun + Duration::from_secs(1),
            });
        }
    }
    served
}
