//! Simulates four callers on one quota in virtual time: behind revgate, and directly at a model of DevRev.
//!
//! All randomness comes from the seed, tokio's clock is paused and advances only when every task is idle, and everything runs on
//! one thread. So the same seed gives the same figures.

pub mod client;
pub mod demand;
pub mod figures;
pub mod fleet;
pub mod model;
pub mod table;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use revgate::{
    config::{self, Config},
    plan::Plan,
    stack,
    state::{State, draining::Draining},
};
use tokio::time::Instant;
use tower::{ServiceExt, util::BoxCloneService};

use self::{
    client::{Target, drive},
    demand::Demand,
    figures::{Figures, Observed},
    model::Model,
};

pub struct Caller {
    pub name: &'static str,
    pub weight: f64,
    pub batch: bool,
}

pub const CALLERS: [Caller; 4] = [
    Caller::new("a", 1.0, false),
    Caller::new("b", 1.0, false),
    Caller::new("c", 2.0, false),
    Caller::new("batch", 1.0, true),
];

/// Index in `CALLERS` of the caller that is late in `Scenario::Late`.
pub const C: usize = 2;

/// The DevRev token. The direct callers all use it; revgate's callers do not know it.
pub const TOKEN: &str = "devrev-token";

impl Caller {
    const fn new(name: &'static str, weight: f64, batch: bool) -> Self {
        Caller {
            name,
            weight,
            batch,
        }
    }

    pub fn key(&self) -> String {
        format!("{}-key", self.name)
    }
}

pub struct Settings {
    /// Units in a window.
    pub limit: u64,
    pub window: Duration,
    /// How many are simulated. The first, in which revgate learns the quota, is not measured.
    pub windows: u32,
    /// Upper bound of a caller's requests in flight. The caller drops what exceeds it, so that demand above the quota does not
    /// accumulate.
    pub pool: usize,
    /// How long a caller's request may wait.
    pub max_wait: Duration,
}

impl Settings {
    /// DevRev's values.
    pub const DEVREV: Settings = Settings {
        limit: 1000,
        window: Duration::from_secs(300),
        windows: 4,
        pool: 200,
        max_wait: Duration::from_secs(300),
    };

    /// Short windows, and callers that wait as long as they do by default.
    pub const SHORT: Settings = Settings {
        limit: 600,
        window: Duration::from_secs(60),
        windows: 8,
        pool: 200,
        max_wait: Duration::from_secs(30),
    };

    /// How long the callers send. A window opens with its first unit, which may come a second after the end of the one before,
    /// because DevRev reports that end in whole seconds. The last window must be complete.
    pub fn span(&self) -> Duration {
        self.window * self.windows + Duration::from_secs(4).max(self.window / 10)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Every caller demands more than its share, at a steady rate and not in proportion to the shares.
    Steady,
    /// The same, in bursts of a tenth of the quota at random times.
    Bursty,
    /// The others demand all units; `c` arrives only in the middle of each window.
    Late,
    /// `a` demands ten times as much as each of the others.
    Greedy,
    /// As `Steady`, and traffic outside revgate takes a twentieth of each window.
    Outside,
    /// Interactive callers demand nine tenths of the quota, and the batch caller as much again.
    Backlog,
    /// As `Steady`, but all together demand three tenths of the quota, so nobody waits. Of a fleet.
    Plenty,
}

impl Scenario {
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Steady => "steady",
            Scenario::Bursty => "bursty",
            Scenario::Late => "late",
            Scenario::Greedy => "greedy",
            Scenario::Outside => "outside",
            Scenario::Backlog => "backlog",
            Scenario::Plenty => "plenty",
        }
    }

    pub fn settings(self) -> &'static Settings {
        match self {
            Scenario::Backlog => &Settings::SHORT,
            _ => &Settings::DEVREV,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Through the whole stack, with the model in place of the socket.
    Revgate,
    /// Each caller by itself, directly at the model.
    Direct,
}

impl Route {
    pub const ALL: [Route; 2] = [Route::Revgate, Route::Direct];

    pub fn name(self) -> &'static str {
        match self {
            Route::Revgate => "revgate",
            Route::Direct => "direct",
        }
    }
}

/// Simulates one scenario. Demand and latency are the same for both routes.
pub fn simulate(scenario: Scenario, route: Route, seed: u64) -> Figures {
    simulate_with(scenario, scenario.settings(), route, seed)
}

/// As [`simulate`], with another quota.
pub fn simulate_with(
    scenario: Scenario,
    settings: &'static Settings,
    route: Route,
    seed: u64,
) -> Figures {
    // The retry layer and the client draw their jitter from here.
    fastrand::seed(seed);
    let demand = Demand::draw(scenario, settings, seed);
    let (requests, arrivals) = paused().block_on(async {
        let start = Instant::now();
        let model = Model::new(settings, start, seed);
        let (drain, draining) = Draining::new();
        let target = match route {
            Route::Revgate => revgate(settings, draining, model.clone()),
            Route::Direct => {
                let model = model.clone();
                BoxCloneService::new(model.map_err(|error| unreachable!("always answers: {error}")))
            }
        };
        let outside = tokio::spawn(take_outside(demand.outside.clone(), start, model.clone()));
        let requests = drive(target, &demand, settings, start).await;
        outside.abort();
        drop(drain);
        (requests, model.arrivals())
    });
    let observed = Observed {
        settings,
        requests: &requests,
        arrivals: &arrivals,
    };
    observed.figures(scenario == Scenario::Late)
}

/// A runtime whose clock stands still while any task can run.
fn paused() -> tokio::runtime::Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build();
    runtime.expect("a runtime")
}

fn revgate(settings: &Settings, draining: Draining, model: Model) -> Target {
    let config = configuration(settings, "api.devrev.ai");
    let plan = Plan::of(&config).expect("its token fits a header");
    let state = State::new(&plan, draining, tokio::runtime::Handle::current());
    let state = state.expect("randomness");
    BoxCloneService::new(stack::build(&plan, &state, model, None))
}

/// Traffic with the same token that bypasses revgate.
async fn take_outside(times: Vec<Duration>, start: Instant, model: Model) {
    for at in times {
        tokio::time::sleep_until(start + at).await;
        model.take_outside();
    }
}

/// Configures the four callers. Their own rates never limit them. Where the quota is short they wait up to one window: with less,
/// requests that arrive after it is spent would only be refused, and the sharing could not be observed.
pub fn configuration(settings: &Settings, upstream: &str) -> Config {
    let env = BTreeMap::from([("DEVREV_TOKEN".to_owned(), TOKEN.to_owned())]);
    config::from_toml(&file(settings, upstream), &env)
        .unwrap_or_else(|problems| panic!("{problems}"))
}

/// The same as a file.
pub fn file(settings: &Settings, upstream: &str) -> String {
    let mut text = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [upstream]\nurl = \"http://{upstream}\"\n[tokens.main]\nenv = \"DEVREV_TOKEN\"\n\
         [log]\naccess = \"none\"\n"
    );
    for caller in &CALLERS {
        let hash = digest(&SHA256, caller.key().as_bytes())
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>();
        let priority = if caller.batch { "batch" } else { "interactive" };
        text += &format!(
            "[callers.{}]\nkey_sha256 = \"{hash}\"\nrate = \"10000/s\"\nburst = 10000\n\
             weight = {}\npriority = \"{priority}\"\nmax_wait = \"{}s\"\n",
            caller.name,
            caller.weight,
            settings.max_wait.as_secs(),
        );
    }
    text
}

/// State that the tasks of one run share.
pub type Shared<T> = Arc<Mutex<T>>;

pub fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
