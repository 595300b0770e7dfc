use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tempfile::TempDir;

use super::*;
use crate::{
    plan::KeySource,
    runtime::ThreadRuntime,
    serve::{
        inbound::{connection::ConnectionSettings, listener},
        upstream_options,
        worker::Worker,
    },
    state::draining::Draining,
    upstream::OwnListeners,
};

/// Two workers that never run, and everything that a reload may change.
struct Rig {
    folder: TempDir,
    reloader: Reloader,
    _workers: Vec<Worker>,
    _background: ThreadRuntime,
}

/// `@` is the folder.
const FILE: &str = r#"
[listen]
address = "127.0.0.1:0"
workers = 2
tls = { cert = "@/cert.pem", key = "@/key.pem" }
[auth.jwt]
issuer = "i"
audience = "a"
jwks = { url = "http://127.0.0.1:9/keys" }
[tokens.main]
file = "@/main"
[tokens.second]
file = "@/second"
[callers.billing]
key = { file = "@/billing" }
token = "main"
[callers.reports]
jwt_subject = "reports"
token = "second"
"#;

impl Rig {
    fn new() -> Rig {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("main", "one"), ("second", "two"), ("billing", "key")] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        certify(&folder, 2100);
        let file = folder.path().join("revgate.toml");
        fs::write(&file, text(&folder, FILE)).unwrap();
        let config = config::load(&file).unwrap();
        let plan = Arc::new(Plan::of(&config).unwrap());
        let background = ThreadRuntime::new().unwrap();
        let draining = Draining::new().1;
        let state = Arc::new(State::new(&plan, draining, background.handle().clone()).unwrap());
        let settings = Arc::new(ConnectionSettings {
            header_timeout: config.listen.header_timeout,
            idle_timeout: config.listen.idle_timeout,
            drain_timeout: config.drain.timeout,
            told_of_field: false.into(),
            proxy_protocol: config.listen.proxy_protocol,
            proxies: config.listen.proxies(),
            connections: crate::state::connections::ConnectionTable::new(1),
            state: state.clone(),
        });
        let options = upstream_options(&config, 2, OwnListeners::default(), None).unwrap();
        let (listeners, _) = listener::bind(&config.listen, None).unwrap();
        let (workers, handles) = listeners
            .into_iter()
            .map(|listener| {
                let (options, settings) = (options.clone(), settings.clone());
                Worker::new(listener, &plan, &state, options, settings).unwrap()
            })
            .unzip();
        let current = Current { config, plan };
        Rig {
            folder,
            reloader: Reloader::new(Some(file), current, state, handles, None),
            _workers: workers,
            _background: background,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Everything that a reload may change: shared values by address, counts by value.
    fn everything(&self) -> BTreeMap<&'static str, String> {
        let Reloader { state, workers, .. } = &self.reloader;
        let at = |pointer: *const ()| format!("{pointer:?}");
        let current = self.reloader.current();
        let limiters = state.limiters.of_plan();
        let tokens = state.tokens.of_plan();
        let names = ["main", "second", "third"];
        let keys = match &current.plan.identities {
            crate::plan::Identities::Inject(methods) => methods.keys.keys().copied().collect(),
            crate::plan::Identities::Validate(_) => Vec::new(),
        };
        let serving = workers.iter().map(WorkerHandle::serving);
        let serving = serving.map(|serving| at(Arc::as_ptr(&serving).cast()));
        let token = |name: &str| {
            let token = tokens.get(name).map(|token| at(Arc::as_ptr(&token).cast()));
            (token, state.tokens.refused_for(name))
        };
        let metrics = state.metrics.encode();
        let metrics = metrics.lines().filter(|line| {
            // Metrics of reloads and of the process change anyway.
            !line.contains("config_reload")
                && !line.contains("config_last_reload")
                && !line.contains("process_")
        });
        let generation = state.handshakes.as_ref().map(|handshakes| {
            let generation = handshakes.current();
            let retired = generation.retired.is_cancelled();
            (at(Arc::as_ptr(&generation).cast()), retired)
        });
        let signing = state.signing_keys.current();
        BTreeMap::from([
            ("current", at(Arc::as_ptr(&current).cast())),
            ("serving", format!("{:?}", serving.collect::<Vec<_>>())),
            ("limiters", at(Arc::as_ptr(&limiters).cast())),
            ("tokens", format!("{:?}", names.map(token))),
            ("groups", state.groups.view().to_string()),
            ("keys", state.key_usage.view(&keys).to_string()),
            ("tracked", format!("{}", state.key_usage.tracked())),
            (
                "signing keys",
                format!("{:?}", signing.map(|keys| at(Arc::as_ptr(&keys).cast()))),
            ),
            ("handshakes", format!("{generation:?}")),
            (
                "circuit",
                format!("{:?}", state.circuit.view(&current.plan.circuit)),
            ),
            ("in flight", state.in_flight.used().to_string()),
            ("metrics", metrics.collect::<Vec<_>>().join("\n")),
        ])
    }
}

fn text(folder: &TempDir, text: &str) -> String {
    text.replace('@', folder.path().to_str().unwrap())
}

/// A certificate for the gateway that expires in this year.
fn certify(folder: &TempDir, year: i32) {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(year, 1, 1);
    let key = KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap();
    fs::write(folder.path().join("cert.pem"), cert.pem()).unwrap();
    fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
}

/// A file that changes something of everything that a reload can change.
fn other(folder: &TempDir) -> String {
    text(folder, FILE)
        .replace("/keys\"", "/other-keys\"")
        .replace("token = \"main\"", "token = \"main\"\nrate = \"7/s\"")
        .replace("[tokens.second]", "[tokens.third]")
        .replace("token = \"second\"", "token = \"third\"")
        + "[limits]\nmax_in_flight = 7\n[quota]\nreserve = 0.5\n"
}

#[test]
fn a_reload_that_fails_at_any_step_changes_nothing() {
    let rig = Rig::new();
    let file = rig.path("revgate.toml");
    let before = rig.everything();
    let refused = |why: &str| {
        let report = rig.reloader.reload(ReloadCause::Signal);
        assert_eq!(report.result, ReloadResult::Refused, "{why}: {report:?}");
        assert!(!report.problems.is_empty(), "{why}");
        assert_eq!(rig.everything(), before, "{why}");
    };
    let write = |text: &str| fs::write(&file, text).unwrap();

    fs::remove_file(&file).unwrap();
    refused("no file");
    fs::create_dir(&file).unwrap();
    refused("a folder in its place");
    fs::remove_dir(&file).unwrap();
    write(&(other(&rig.folder) + "["));
    refused("no TOML");
    write(&(other(&rig.folder) + "max_waitin = 1\n"));
    refused("an unknown key");
    fs::remove_file(rig.path("main")).unwrap();
    write(&other(&rig.folder));
    refused("a secret that is missing");
    fs::write(rig.path("main"), "three").unwrap();
    let validate = "[auth]\nmode = \"validate\"\nintrospect = false\n";
    write(validate);
    refused("a mode that needs a restart, and no caller until then");
    write(&other(&rig.folder));
    certify(&rig.folder, 2001);
    refused("a certificate that has expired");
    certify(&rig.folder, 2100);

    // A valid configuration of which no plan can be made.
    let mut config = config::load(&file).unwrap();
    let main = config.tokens.get_mut("main").unwrap();
    main.secret.value = "no\nheader".to_owned().into();
    let old = rig.reloader.current();
    let Problems(problems) = rig
        .reloader
        .apply(&old.config, config, ReloadCause::File)
        .unwrap_err();
    assert_eq!(problems[0].path, "tokens.main");
    assert_eq!(rig.everything(), before, "no plan");

    // The same file without a fault changes all of it, so the comparisons above mean something.
    let report = rig.reloader.reload(ReloadCause::Signal);
    assert_eq!(report.result, ReloadResult::Applied, "{report:?}");
    let after = rig.everything();
    for (what, before) in &before {
        let stays = matches!(*what, "circuit" | "in flight" | "keys" | "tracked");
        assert_eq!(*before == after[what], stays, "{what}: {before}");
    }
}

#[test]
fn what_stays_the_same_keeps_its_state() {
    let rig = Rig::new();
    let state = &rig.reloader.state;
    let of = |name: &str| state.limiters.of_plan().of_caller(name).cloned().unwrap();
    let token = |name: &str| state.tokens.of_plan().get(name).unwrap();
    let (billing, reports) = (of("billing"), of("reports"));
    billing.check();
    let (main, second) = (token("main"), token("second"));
    let old = state.tokens.of_plan();
    let keys = state.signing_keys.current().unwrap();
    let file = rig.path("revgate.toml");
    let text = fs::read_to_string(&file).unwrap();
    let text = text.replace("token = \"second\"", "token = \"main\"\nrate = \"7/s\"");
    fs::write(&file, text.replace("[tokens.second]", "[tokens.third]")).unwrap();
    let report = rig.reloader.reload(ReloadCause::Signal);
    assert_eq!(report.result, ReloadResult::Applied);
    assert_eq!(report.added, ["tokens.third"]);
    assert_eq!(report.removed, ["tokens.second"]);
    assert!(
        report.changed.contains(&"callers.reports.rate".to_owned()),
        "{report:?}"
    );
    assert!(Arc::ptr_eq(&billing, &of("billing")));
    assert!(!Arc::ptr_eq(&reports, &of("reports")), "another rate");
    assert!(Arc::ptr_eq(&main, &token("main")));
    assert!(Arc::ptr_eq(&keys, &state.signing_keys.current().unwrap()));
    // A request with the old plan still finds the removed token. A request with the new one does not.
    assert!(Arc::ptr_eq(&second, &old.get("second").unwrap()));
    assert!(state.tokens.of_plan().get("second").is_none());
    let source = |plan: &Plan| match &plan.identities {
        crate::plan::Identities::Inject(methods) => methods.signed.clone().unwrap().source,
        crate::plan::Identities::Validate(_) => panic!("mode inject"),
    };
    let current = rig.reloader.current();
    assert!(matches!(source(&current.plan), KeySource::Published { .. }));
}
