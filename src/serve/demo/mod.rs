//! `revgate demo`: the DevRev simulator and a gateway in front of it, or a fleet of them, on loopback, without any set-up; and three services
//! that call them.

mod announce;
mod load;
mod traffic;

use std::{
    collections::BTreeMap,
    fmt::Write,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::Context;
use clap::ValueEnum;
use futures_util::future::join_all;
use tracing::{Instrument, Span, error_span};

use self::{
    announce::{At, Demo},
    traffic::Service,
};
use super::{Gateway, descriptors, signals::Signals, start::Start};
use crate::{
    bind, config,
    event::Event,
    fleet::{here::Place, replica::Replica},
    hash::{hex, sha256},
    runtime::ThreadRuntime,
    simulator::{self, Fault, FaultPlan, Rule, Simulator, Status, TextDuration},
    state::Clock,
    telemetry::log::{self, LevelHandle},
    wall_clock,
};

/// As in the examples and the defaults, so that what is written there can be tried here. Each further gateway of a fleet has ports that are
/// higher by [`STEP`].
const PROXY: u16 = 8080;
const ADMIN: u16 = 9901;
const MOCK: u16 = 8081;
const STEP: u16 = 10;

/// For an exchange of a fleet, as `shared.timeout` by default.
const EXCHANGE: Duration = Duration::from_millis(50);

/// A window that ends while one looks at it. The mild load takes about half of it.
const LIMIT: u64 = 600;
const WINDOW: Duration = Duration::from_secs(60);

/// How much the demo's services call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Load {
    /// Nothing: only your own calls.
    Off,
    /// About half of the quota, with a job that takes the rest for a while.
    Mild,
    /// More than the quota allows, so that calls wait and batch calls wait longest.
    Heavy,
}

impl Load {
    fn speed(self) -> Option<f64> {
        match self {
            Load::Off => None,
            Load::Mild => Some(1.0),
            Load::Heavy => Some(4.0),
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct DemoOptions {
    pub load: Load,
    /// The same seed gives the same calls.
    pub seed: u64,
    /// Gateways that share the quota.
    pub replicas: u8,
}

/// A gateway, and the span of its log lines, which tells it from the others of a fleet.
struct Running {
    gateway: Gateway,
    span: Span,
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Service::Billing => "billing",
            Service::Support => "support",
            Service::Sync => "sync",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Service::Billing => "demo-key",
            Service::Support => "demo-support-key",
            Service::Sync => "demo-sync-key",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Service::Billing => "people wait for it: interactive, twice the share of the others",
            Service::Support => "limited to 2 calls a second, 5 at once; uses deprecated fields",
            Service::Sync => "a batch job: it gets what the others leave, and may wait a minute",
        }
    }

    /// Its settings in the configuration.
    fn settings(self) -> &'static str {
        match self {
            Service::Billing => "rate = \"50/s\"\nburst = 100\nweight = 2\n",
            Service::Support => "rate = \"2/s\"\nburst = 5\n",
            Service::Sync => {
                "rate = \"50/s\"\nburst = 100\npriority = \"batch\"\nmax_wait = \"1m\"\n"
            }
        }
    }

    /// The rest of a curl line.
    fn example(self) -> &'static str {
        match self {
            Service::Billing => "works.get -d '{\"id\":\"TKT-1\"}'",
            Service::Support => "rev-users.get -d '{\"id\":\"REVU-1\"}'",
            Service::Sync => "accounts.list -d '{\"limit\":2}'",
        }
    }
}

/// Serves until a signal ends it. `announce` gets the text for the person who started it.
///
/// # Errors
/// When no port can be bound.
pub fn demo(
    options: DemoOptions,
    announce: impl Fn(&str) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    let is_fleet = options.replicas > 1;
    let level = match is_fleet {
        true => log::init_with_spans("info", config::LogFormat::Auto)?,
        false => log::init("info", config::LogFormat::Auto)?,
    };
    log::log_panics();
    descriptors::raise();
    let runtime = ThreadRuntime::new()?;
    runtime.block_on(async {
        let mut signals = Signals::install()?;
        let devrev = devrev().await.context("the simulator could not start")?;
        tracing::info!(event = Event::Listening.label(), listener = "mock", address = %devrev.addr(), "listening");
        let place = is_fleet.then(|| Place::new(Clock::start(), wall_clock::since_epoch()));
        let gateways = (0..options.replicas).map(|number| {
            let span = match is_fleet {
                true => error_span!("replica", number = number + 1),
                false => Span::none(),
            };
            let start = || start(number, (devrev.addr(), options.load), place.as_ref(), &level);
            let gateway = span.in_scope(start)?;
            Ok(Running { gateway, span })
        });
        let gateways = gateways.collect::<anyhow::Result<Vec<_>>>()?;
        let places = gateways.iter().map(|Running { gateway, .. }| {
            let proxy = gateway.address().context("the demo listens on TCP")?;
            let admin = gateway.admin_address();
            Ok(At { proxy, admin })
        });
        let places = places.collect::<anyhow::Result<Vec<_>>>()?;
        let proxies: Vec<_> = places.iter().map(|at| at.proxy).collect();
        let said = Demo {
            gateways: places,
            devrev: devrev.addr(),
            load: options.load,
        };
        announce(&said.text()).context("standard output cannot be written")?;
        if let Some(speed) = options.load.speed() {
            load::start(&proxies, options.seed, speed)?;
        }
        signals.shutdown().await;
        let drains = gateways
            .into_iter()
            .map(|one| one.gateway.drain().instrument(one.span));
        tokio::select! {
            _ = join_all(drains) => Ok(()),
            () = signals.shutdown() => anyhow::bail!("ended at once by a second signal"),
        }
    })
}

/// A gateway on its usual ports, or on others.
fn start(
    number: u8,
    (devrev, load): (SocketAddr, Load),
    place: Option<&Place>,
    level: &LevelHandle,
) -> anyhow::Result<Gateway> {
    let env = BTreeMap::from([("DEVREV_TOKEN".to_owned(), "demo-devrev-token".to_owned())]);
    let gateway = |ports: [u16; 2]| {
        let text = configuration(ports, devrev, load);
        let replica = place.map(|place| Replica::here(place, EXCHANGE));
        let start = Start {
            level: Some(level.clone()),
            replica: replica.transpose()?,
            ..Start::default()
        };
        Gateway::launch(config::from_toml(&text, &env)?, start)
    };
    let usual = usual_ports(usize::from(number));
    let usual = usual.map(|port| if is_free(port) { port } else { 0 });
    // Another process may have taken one of them since.
    gateway(usual).or_else(|_| gateway([0, 0]))
}

/// For callers, and for operators.
fn usual_ports(number: usize) -> [u16; 2] {
    let further = STEP * u16::try_from(number).unwrap_or_default();
    [PROXY + further, ADMIN + further]
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn is_free(port: u16) -> bool {
    bind::tcp(loopback(port)).is_ok()
}

/// The simulator, with answers that take a while, as DevRev's do, and with few errors.
async fn devrev() -> std::io::Result<Simulator> {
    let delay = |ms| Fault::Delay(TextDuration(Duration::from_millis(ms)));
    let error = Fault::Status(Status::new(503));
    let plan = FaultPlan::none()
        .with(Rule::new("*", delay(25)))
        .with(Rule::new("works.list", delay(60)))
        .with(Rule::new("conversations.list", error).every(20));
    let options = |port| simulator::Options {
        listen: loopback(port),
        limit: LIMIT,
        window: WINDOW,
        plan: plan.clone(),
        ..simulator::Options::default()
    };
    match simulator::start(options(MOCK)).await {
        Ok(started) => Ok(started),
        Err(_) => simulator::start(options(0)).await,
    }
}

fn configuration([proxy, admin]: [u16; 2], devrev: SocketAddr, load: Load) -> String {
    // With load, a line for every request would hide the others.
    let access = if load == Load::Off { "all" } else { "refused" };
    let mut text = format!(
        r#"
[listen]
address = "{}"
[admin]
address = "{}"
[upstream]
url = "http://{devrev}"
[tokens.main]
env = "DEVREV_TOKEN"
[log]
access = "{access}"
"#,
        loopback(proxy),
        loopback(admin),
    );
    for service in Service::ALL {
        let (name, hash) = (service.name(), hex(&sha256(service.key().as_bytes())));
        let settings = service.settings();
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "[callers.{name}]\nkey_sha256 = \"{hash}\"\n{settings}"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_configuration_is_good_with_and_without_load() {
        let env = BTreeMap::from([("DEVREV_TOKEN".to_owned(), "t".to_owned())]);
        for load in Load::value_variants() {
            let text = configuration([0, 0], loopback(1), *load);
            let config = config::from_toml(&text, &env).unwrap_or_else(|e| panic!("{e}\n{text}"));
            assert_eq!(config.callers.len(), 3);
            assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        }
    }

    #[test]
    fn a_port_that_is_in_use_is_not_free() {
        let listener = bind::tcp(loopback(0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(!is_free(port));
    }
}
