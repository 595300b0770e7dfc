//! `revgate demo`: the DevRev simulator and a gateway in front of it, on loopback, without any set-up; and three services that call it.

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

use self::traffic::Service;
use super::{Gateway, descriptors, signals::Signals};
use crate::{
    bind, config,
    event::Event,
    hash::{hex, sha256},
    runtime::ThreadRuntime,
    simulator::{self, Fault, FaultPlan, Rule, Simulator, Status, TextDuration},
    telemetry::log,
};

/// As in the examples and the defaults, so that what is written there can be tried here.
const PROXY: u16 = 8080;
const ADMIN: u16 = 9901;
const MOCK: u16 = 8081;

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
    let level = log::init("info", config::LogFormat::Auto)?;
    log::log_panics();
    descriptors::raise();
    let runtime = ThreadRuntime::new()?;
    runtime.block_on(async {
        let signals = Signals::install()?;
        let devrev = devrev().await.context("the simulator could not start")?;
        tracing::info!(event = Event::Listening.label(), listener = "mock", address = %devrev.addr(), "listening");
        let env = BTreeMap::from([("DEVREV_TOKEN".to_owned(), "demo-devrev-token".to_owned())]);
        let gateway = |ports: [u16; 2]| {
            let text = configuration(ports, devrev.addr(), options.load);
            Gateway::start(config::from_toml(&text, &env)?, Some(level.clone()))
        };
        let usual = [PROXY, ADMIN].map(|port| if is_free(port) { port } else { 0 });
        // Another process may have taken one of them since.
        let gateway = gateway(usual).or_else(|_| gateway([0, 0]))?;
        let proxy = gateway.address().context("the demo listens on TCP")?;
        announce(&text(
            proxy,
            gateway.admin_address(),
            devrev.addr(),
            options.load,
        ))
        .context("standard output cannot be written")?;
        if let Some(speed) = options.load.speed() {
            load::start(proxy, options.seed, speed)?;
        }
        signals.run_until_shutdown(gateway).await
    })
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

/// What the person who started it reads first.
fn text(proxy: SocketAddr, admin: SocketAddr, devrev: SocketAddr, load: Load) -> String {
    let mut text = format!(
        "revgate      http://{proxy}\nstatus page  http://{admin}/\nsimulator    http://{devrev}\n"
    );
    let usual = [(PROXY, proxy), (ADMIN, admin), (MOCK, devrev)];
    let taken = usual.iter().filter(|(port, bound)| bound.port() != *port);
    let taken: Vec<_> = taken.map(|(port, _)| port.to_string()).collect();
    if !taken.is_empty() {
        let (ports, is) = (
            taken.join(" and "),
            if taken.len() == 1 { "is" } else { "are" },
        );
        let _ = writeln!(
            text,
            "\n{ports} {is} in use by another process, so these are other ports."
        );
    }
    let _ = write!(
        text,
        "\nLink a rev user with the deprecated field names, without a DevRev token:\n\n  \
         curl -i http://{proxy}/rev-users.link -H 'Authorization: Bearer {}' -H 'Content-Type: application/json' \
         -d '{{\"user_don\":\"REVU-131\",\"rev_org_don\":\"REV-AbCdEfGh\"}}'\n\n\
         and see what DevRev received:\n\n  curl 'http://{devrev}/_requests?contains=REV-AbCdEfGh'\n\n\
         Three callers share the token and its quota of {LIMIT} calls a minute:\n",
        Service::Billing.key(),
    );
    for service in Service::ALL {
        let (name, about, key) = (service.name(), service.about(), service.key());
        let example = service.example();
        let _ = write!(
            text,
            "\n  {name}: {about}\n  curl -i -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' http://{proxy}/{example}\n"
        );
    }
    let about = match load {
        Load::Off => "None of them calls by itself; --load mild lets them",
        Load::Mild => {
            "They call by themselves, so that the status page has something to show; --load heavy is more than the quota \
             allows, --load off is nothing"
        }
        Load::Heavy => {
            "They call by themselves, more than the quota allows; --load mild is less, --load off nothing"
        }
    };
    let _ = writeln!(text, "\n{about}. Ctrl-C ends it.");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_a_line_for_every_caller_and_names_ports_in_use() {
        let [proxy, admin, devrev] = [PROXY, ADMIN, MOCK].map(loopback);
        let usual = text(proxy, admin, devrev, Load::Mild);
        let lines: Vec<_> = usual.lines().map(str::trim).collect();
        for service in Service::ALL {
            let key = format!("Bearer {}", service.key());
            assert!(
                lines
                    .iter()
                    .any(|line| line.starts_with("curl -i") && line.contains(&key)),
                "{usual}"
            );
        }
        assert!(!usual.contains("in use"), "{usual}");
        let other = text(loopback(1), admin, devrev, Load::Off);
        assert!(other.contains("\n8080 is in use"), "{other}");
        let other = text(loopback(1), loopback(2), loopback(3), Load::Heavy);
        assert!(
            other.contains("\n8080 and 9901 and 8081 are in use"),
            "{other}"
        );
    }

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
