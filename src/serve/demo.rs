//! `revgate demo`: the DevRev simulator and a gateway in front of it, on loopback, without any set-up.

use std::collections::BTreeMap;

use anyhow::Context;

use super::{Gateway, descriptors, signals::Signals};
use crate::{
    config,
    event::Event,
    hash::{hex, sha256},
    runtime::ThreadRuntime,
    simulator,
    telemetry::log,
};

const KEY: &str = "demo-key";

/// Serves until a signal ends it. `announce` gets the text for the person who started it.
///
/// # Errors
/// When no port can be bound.
pub fn demo(announce: impl Fn(&str) -> std::io::Result<()>) -> anyhow::Result<()> {
    let level = log::init("info", config::LogFormat::Auto)?;
    log::log_panics();
    descriptors::raise();
    let runtime = ThreadRuntime::new()?;
    runtime.block_on(async {
        let signals = Signals::install()?;
        let devrev = simulator::start(simulator::Options::default()).await.context("the simulator could not start")?;
        tracing::info!(event = Event::Listening.label(), listener = "mock", address = %devrev.addr(), "listening");
        let text = format!(
            r#"
[listen]
address = "127.0.0.1:0"
[admin]
address = "127.0.0.1:0"
[upstream]
url = "http://{}"
[tokens.main]
env = "DEVREV_TOKEN"
[callers.demo]
key_sha256 = "{}"
[log]
access = "all"
"#,
            devrev.addr(),
            hex(&sha256(KEY.as_bytes())),
        );
        let env = BTreeMap::from([("DEVREV_TOKEN".to_owned(), "demo-devrev-token".to_owned())]);
        let config = config::from_toml(&text, &env)?;
        let gateway = Gateway::start(config, Some(level))?;
        let proxy = gateway.address().context("the demo listens on TCP")?;
        announce(&format!(
            "revgate      http://{proxy}\nstatus page  http://{}/\nsimulator    http://{}\n\n\
             Link a rev user with the deprecated field names, without a DevRev token:\n\n  \
             curl -i http://{proxy}/rev-users.link -H 'Authorization: Bearer {KEY}' -H 'Content-Type: application/json' \
             -d '{{\"user_don\":\"REVU-131\",\"rev_org_don\":\"REV-AbCdEfGh\"}}'\n\n\
             and see what DevRev received:\n\n  curl http://{}/_requests\n",
            gateway.admin_address(),
            devrev.addr(),
            devrev.addr(),
        ))
        .context("standard output cannot be written")?;
        signals.run_until_shutdown(gateway).await
    })
}
