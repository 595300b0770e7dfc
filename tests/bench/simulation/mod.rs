//! Four callers on one quota, played through in virtual time: behind revgate, and straight at DevRev's double.
//!
//! Everything that chance decides is drawn from the seed, tokio's clock is stopped and moved on only when nobody
//! has anything to do, and one thread does it all: the same seed gives the same figures.

pub mod client;
pub mod demand;
pub mod figures;
pub mod model;
pub mod table;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use revgate::{
    config::{self, Config},
    plan::Plan,
    stack,
    state::{State, draining::Draining},
};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tower::{ServiceExt, util::BoxCloneService};

use self::{
    client::{Door, drive},
    demand::Demand,
    figures::{Arrival, Figures, Observed},
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

/// Its place in `CALLERS`: the one that comes late in `Scenario::Late`.
pub const C: usize = 2;

/// DevRev's token; the direct callers all hold it, revgate's callers do not know it.
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
    /// How many are played; the first, in which revgate has to learn the quota, is not measured.
    pub windows: u32,
    /// Requests that one caller has under way at most. What arrives beyond it is turned away at the caller's own
    /// door, so that demand above the quota does not pile up without end.
    pub pool: usize,
}

impl Settings {
    /// As DevRev has it.
    pub const DEVREV: Settings = Settings {
        limit: 1000,
        window: Duration::from_secs(300),
        windows: 4,
        pool: 200,
    };

    /// How long the callers go on. A window opens with its first unit, which may come a second after the one before has
    /// ended, for DevRev names that time in whole seconds; the last must still be seen whole.
    pub fn span(&self) -> Duration {
        self.window * self.windows + Duration::from_secs(4).max(self.window / 10)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Everybody wants more than their share, evenly, and not in proportion to it.
    Steady,
    /// The same, in bursts of a tenth of the quota at random times.
    Bursty,
    /// The others take all they can get; `c` comes only in the middle of each window.
    Late,
    /// `a` wants ten times what each of the others does.
    Greedy,
    /// As `Steady`, and a twentieth of each window is taken by someone who does not come through revgate.
    Outside,
}

impl Scenario {
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Steady => "steady",
            Scenario::Bursty => "bursty",
            Scenario::Late => "late",
            Scenario::Greedy => "greedy",
            Scenario::Outside => "outside",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Through the whole stack, with the model in place of the socket.
    Revgate,
    /// Each caller for itself.
    Direct,
}

impl Way {
    pub const ALL: [Way; 2] = [Way::Revgate, Way::Direct];

    pub fn name(self) -> &'static str {
        match self {
            Way::Revgate => "revgate",
            Way::Direct => "direct",
        }
    }
}

/// Plays one scenario. Demand and latency are the same for both ways.
pub fn simulate(scenario: Scenario, way: Way, seed: u64) -> Figures {
    // The retry layer and the client draw their jitter from here.
    fastrand::seed(seed);
    let settings = &Settings::DEVREV;
    let demand = Demand::draw(scenario, settings, seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let (requests, arrivals) = runtime.block_on(async {
        let start = Instant::now();
        let model = Model::new(settings, start, seed);
        let (drain, draining) = Draining::new();
        let door = match way {
            Way::Revgate => revgate(settings, draining, model.clone()),
            Way::Direct => BoxCloneService::new(
                model
                    .clone()
                    .map_err(|error| unreachable!("the model always answers: {error}")),
            ),
        };
        let outside = tokio::spawn(take_outside(demand.outside.clone(), start, model.clone()));
        let requests = drive(door, &demand, settings, start).await;
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

fn revgate(settings: &Settings, draining: Draining, model: Model) -> Door {
    let config = configuration(settings, "api.devrev.ai");
    let plan = Plan::of(&config).expect("its token fits a header");
    let state = State::new(&plan, draining, tokio::runtime::Handle::current());
    let state = state.expect("randomness");
    BoxCloneService::new(stack::build(&plan, &state, model))
}

/// Someone who holds the token and does not come through revgate.
async fn take_outside(times: Vec<Duration>, start: Instant, model: Model) {
    for at in times {
        tokio::time::sleep_until(start + at).await;
        model.take_outside();
    }
}

/// The four callers. Their own rates are out of the way, and their patience is one window: with less, a request
/// that comes when the quota is spent could only be refused, and it is the sharing that is looked at here.
pub fn configuration(settings: &Settings, upstream: &str) -> Config {
    let mut text = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [upstream]\nurl = \"http://{upstream}\"\n[tokens.main]\nenv = \"DEVREV_TOKEN\"\n\
         [log]\naccess = \"none\"\n"
    );
    for caller in &CALLERS {
        let hash = Sha256::digest(caller.key())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>();
        let priority = if caller.batch { "batch" } else { "interactive" };
        text += &format!(
            "[callers.{}]\nkey_sha256 = \"{hash}\"\nrate = \"10000/s\"\nburst = 10000\n\
             weight = {}\npriority = \"{priority}\"\nmax_wait = \"{}s\"\n",
            caller.name,
            caller.weight,
            settings.window.as_secs(),
        );
    }
    let env = BTreeMap::from([("DEVREV_TOKEN".to_owned(), TOKEN.to_owned())]);
    config::from_toml(&text, &env).unwrap_or_else(|problems| panic!("{problems}"))
}

/// What the tasks of one run write together.
pub type Shelf<T> = Arc<Mutex<T>>;

pub fn open<T>(shelf: &Mutex<T>) -> MutexGuard<'_, T> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What arrived at DevRev's double.
pub type Arrivals = Vec<Arrival>;
