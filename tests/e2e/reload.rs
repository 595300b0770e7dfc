//! A changed file becomes what is served, or changes nothing.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use revgate::{
    config,
    serve::Gateway,
    simulator::{self, Options, Simulator},
};
use serde_json::Value;

use crate::{
    http::{Answer, Client, request},
    rig::{KEY, OTHER_KEY, hash, header, plan, status},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway that was started from a file, and the folder of that file.
struct Rig {
    devrev: Simulator,
    gateway: Gateway,
    folder: tempfile::TempDir,
    file: PathBuf,
}

impl Rig {
    async fn new(extra: &str) -> Rig {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("revgate.toml");
        Rig::at(folder, file, extra).await
    }

    async fn at(folder: tempfile::TempDir, file: PathBuf, extra: &str) -> Rig {
        let devrev = simulator::start(Options {
            limit: 10_000_000,
            ..Options::default()
        })
        .await
        .expect("the simulator starts");
        std::fs::write(folder.path().join("token"), "token-one").expect("written");
        let text = text(&devrev, folder.path(), extra);
        std::fs::write(&file, text).expect("written");
        let config = config::load(&file).unwrap_or_else(|problems| panic!("{problems}"));
        let gateway = Gateway::watching(file.clone(), config, None).expect("starts");
        Rig {
            devrev,
            gateway,
            folder,
            file,
        }
    }

    fn text(&self, extra: &str) -> String {
        text(&self.devrev, self.folder.path(), extra)
    }

    /// Puts a new file in the old one's place at once, as editors and deployments do.
    fn write(&self, name: &str, text: &str) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, text).expect("written");
        std::fs::rename(new, self.folder.path().join(name)).expect("renamed");
    }

    async fn call(&self, key: &str) -> Answer {
        let mut client = Client::connect(self.gateway.address().expect("TCP")).await;
        let bytes = request("GET", "/dev-users.self", &[("Authorization", key)], "");
        client.send(bytes).await;
        client.answer().await.expect("an answer")
    }

    async fn admin(&self, method: &str, path: &str, body: &str) -> Answer {
        let mut client = Client::connect(self.gateway.admin_address()).await;
        let bytes = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        client.send(bytes).await;
        client.answer().await.expect("an answer")
    }

    async fn reload(&self) -> Answer {
        self.admin("POST", "/reload", "").await
    }

    /// Waits until the gateway has looked at its file by itself.
    async fn until_reloaded(&self, result: &str, so: impl Fn(&Value) -> bool) {
        let ends = tokio::time::Instant::now() + PATIENCE;
        loop {
            let status = self.admin("GET", "/status", "").await.json();
            let reload = &status["reload"];
            if reload["result"] == result && so(reload) {
                return;
            }
            assert!(tokio::time::Instant::now() < ends, "{reload}");
            tokio::task::yield_now().await;
        }
    }
}

fn text(devrev: &Simulator, folder: &Path, extra: &str) -> String {
    format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [upstream]\nurl = \"http://{}\"\n[tokens.main]\nfile = \"{}\"\n\
         [callers.billing]\nkey_sha256 = \"{}\"\nrate = \"100000/s\"\nburst = 100000\n\
         [callers.reports]\nkey_sha256 = \"{}\"\nrate = \"1/h\"\nburst = 2\n{extra}\n",
        devrev.addr(),
        folder.join("token").display(),
        hash(KEY),
        hash(OTHER_KEY),
    )
}

#[tokio::test]
async fn what_changed_holds_and_what_did_not_keeps_its_state() {
    let rig = Rig::new("").await;
    assert_eq!(rig.call(OTHER_KEY).await.status, 200);
    let text = rig
        .text("deny = [\"works.*\"]\n[limits]\nmax_body = \"1KiB\"\n")
        .replace(
            "rate = \"100000/s\"\nburst = 100000",
            "rate = \"1/h\"\nburst = 1",
        );
    rig.write("revgate.toml", &text);
    let answer = rig.reload().await;
    let report = answer.json();
    assert_eq!(
        (answer.status, &report["result"]),
        (200, &"applied".into()),
        "{report}"
    );
    let changed = report["changed"].to_string();
    for key in [
        "callers.billing.rate",
        "callers.reports.deny",
        "limits.max_body",
    ] {
        assert!(changed.contains(key), "{key} is missing in {changed}");
    }
    // Its limit changed: one request, and no more.
    assert_eq!(rig.call(KEY).await.status, 200);
    assert_eq!(rig.call(KEY).await.code(), "caller_rate_limited");
    // Its limit did not: of two it has had one.
    assert_eq!(rig.call(OTHER_KEY).await.status, 200);
    assert_eq!(rig.call(OTHER_KEY).await.code(), "caller_rate_limited");
    let metrics = rig.admin("GET", "/metrics", "").await;
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    let line = "revgate_config_reloads_total{result=\"applied\"} 1";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_says_why() {
    let rig = Rig::new("").await;
    let bad = rig.text("[quota]\nreserve = 7\nspraed_above = 1\n");
    rig.write("revgate.toml", &bad);
    let answer = rig.reload().await;
    let report = answer.json();
    assert_eq!((answer.status, &report["result"]), (409, &"refused".into()));
    let problems = report["problems"].as_array().expect("a list");
    let paths: Vec<_> = problems
        .iter()
        .map(|p| p["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths.len(), 2, "{report}");
    assert!(paths.contains(&"quota.reserve") && report.to_string().contains("spread_above"));
    assert_eq!(rig.call(KEY).await.status, 200);
    // Mended, it is taken up by itself.
    rig.write("revgate.toml", &rig.text("[quota]\nreserve = 0.5\n"));
    rig.until_reloaded("applied", |_| true).await;
    let config = rig.admin("GET", "/config", "").await.json();
    assert_eq!(config["quota"]["reserve"], 0.5);
}

#[tokio::test]
async fn a_key_that_needs_a_restart_is_named_and_the_rest_holds() {
    let rig = Rig::new("").await;
    let text = rig
        .text("[quota]\nreserve = 0.25\n")
        .replace("[listen]\n", "[listen]\nmax_connections = 7\n")
        .replace(
            "url = \"http://",
            "url = \"http://user-of-nobody.invalid\" #",
        );
    rig.write("revgate.toml", &text);
    let report = rig.reload().await.json();
    assert_eq!(report["result"], "applied", "{report}");
    assert_eq!(
        report["restart_needed"],
        serde_json::json!(["listen.max_connections", "upstream.url"])
    );
    let config = rig.admin("GET", "/config", "").await.json();
    assert_eq!(config["quota"]["reserve"], 0.25);
    assert_eq!(config["listen"]["max_connections"], 10000);
    assert_eq!(rig.call(KEY).await.status, 200, "the old upstream is asked");
}

#[tokio::test]
async fn a_caller_that_is_taken_out_is_known_no_more() {
    let rig = Rig::new("").await;
    assert_eq!(rig.call(OTHER_KEY).await.status, 200);
    let question = "/explain?request=GET%20/dev-users.self&caller=reports";
    assert_eq!(rig.admin("GET", question, "").await.status, 200);
    let text = rig
        .text("")
        .split("[callers.reports]")
        .next()
        .unwrap()
        .to_owned();
    rig.write("revgate.toml", &text);
    assert_eq!(rig.reload().await.status, 200);
    assert_eq!(rig.call(OTHER_KEY).await.code(), "unauthenticated");
    assert_eq!(rig.call(KEY).await.status, 200);
    assert_eq!(rig.admin("GET", question, "").await.status, 400);
}

/// As the kubelet writes a ConfigMap: files in a folder of their own, reached by a link that is swapped.
#[tokio::test]
async fn a_swapped_link_is_seen() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("..one")).expect("made");
    std::os::unix::fs::symlink("..one", at("..data")).expect("linked");
    std::os::unix::fs::symlink("..data/revgate.toml", at("revgate.toml")).expect("linked");
    let file = at("revgate.toml");
    let rig = Rig::at(folder, file, "").await;
    let at = |name: &str| rig.folder.path().join(name);
    std::fs::create_dir(at("..two")).expect("made");
    let text = rig.text("[quota]\nmax_waiting = 5\n");
    std::fs::write(at("..two/revgate.toml"), text).expect("written");
    std::os::unix::fs::symlink("..two", at("..tmp")).expect("linked");
    std::fs::rename(at("..tmp"), at("..data")).expect("swapped");
    rig.until_reloaded("applied", |reload| {
        reload["changed"] == serde_json::json!(["quota.max_waiting"])
    })
    .await;
    assert!(rig.file.exists());
}

#[tokio::test]
async fn a_new_token_is_used_from_the_next_attempt_on() {
    let rig = Rig::new("").await;
    rig.devrev
        .set_plan(plan("dev-users.self", status(429, Some(4)), 1));
    let (answer, ()) = tokio::join!(rig.call(KEY), async {
        while rig.devrev.received().is_empty() {
            tokio::task::yield_now().await;
        }
        rig.write("token", "token-two\n");
        rig.until_reloaded("applied", |reload| {
            reload["changed"] == serde_json::json!(["tokens.main"])
        })
        .await;
    });
    assert_eq!(answer.status, 200, "{answer:?}");
    let used: Vec<_> = rig.devrev.received();
    let used: Vec<_> = used.iter().map(|r| header(r, "authorization")).collect();
    assert_eq!(used, [Some("Bearer token-one"), Some("Bearer token-two")]);
    // An empty file is a mistake, and changes nothing.
    rig.write("token", "\n");
    rig.until_reloaded("refused", |reload| {
        reload["problems"][0]["path"] == "tokens.main.file"
    })
    .await;
    assert_eq!(rig.call(KEY).await.status, 200);
}

/// Reloads, token swaps and log levels under load: not one request fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_not_one_request_fails() {
    let rig = Rig::new("").await;
    let address = rig.gateway.address().expect("TCP");
    let (stop, served) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let (stop, served) = (stop.clone(), served.clone());
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                let bytes = request("GET", "/dev-users.self", &[("Authorization", KEY)], "");
                while !stop.load(Ordering::Relaxed) {
                    client.send(&bytes).await;
                    let answer = client.answer().await.expect("an answer");
                    assert_eq!(answer.status, 200, "{answer:?}");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for round in 0..20 {
        // Each round sees some traffic before, while and after things change.
        let before = served.load(Ordering::Relaxed);
        while served.load(Ordering::Relaxed) < before + 200 {
            tokio::task::yield_now().await;
        }
        rig.write("token", &format!("token-{round}"));
        let extra = format!("[retry]\nmax_attempts = {}\n", 2 + round % 3);
        rig.write("revgate.toml", &rig.text(&extra));
        assert_eq!(rig.reload().await.json()["result"], "applied");
        rig.write("revgate.toml", "not toml at all [");
        assert_eq!(rig.reload().await.status, 409);
        let level = rig.admin("POST", "/log-level", r#"{"level":"info"}"#).await;
        // A test's own log may be there already; then the level is not ours to set.
        assert!(matches!(level.status, 200 | 400), "{level:?}");
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no request failed");
    }
    // Of those above none need have begun after the last change; this one does.
    assert_eq!(rig.call(KEY).await.status, 200);
    let used = rig.devrev.received();
    let last = used.last().and_then(|r| header(r, "authorization"));
    assert_eq!(last, Some("Bearer token-19"));
}
