//! The alerts: one list, which `/status` shows and `/readyz` has as warnings.

use std::time::{Duration, Instant};

use revgate::simulator::{self, FaultPlan, Rule};
use serde_json::{Value, json};

use crate::{
    http::request,
    rig::{self, OTHER_KEY, Rig, plan, status},
};

const TIMEOUT: Duration = Duration::from_secs(20);

async fn call(rig: &Rig, operation: &str, body: &str) -> u16 {
    rig.call("POST", operation, body).await.status
}

async fn with_plan(plan: FaultPlan, extra: &str) -> Rig {
    let options = simulator::Options {
        plan,
        ..simulator::Options::default()
    };
    Rig::with(extra, options).await
}

/// The alert of this name, whose line is also a warning of `/readyz`.
async fn alert(rig: &Rig, name: &str) -> Value {
    let status = rig.admin("/status").await.json();
    let alerts = status["alerts"].as_array().expect("alerts");
    let alert = alerts.iter().find(|alert| alert["name"] == name);
    let alert = alert.unwrap_or_else(|| panic!("no {name} in {status}"));
    let text = alert["text"].as_str().expect("a text");
    let ready = rig.admin("/readyz").await;
    assert_eq!(ready.status, 200, "an alert keeps no traffic away");
    let ready = ready.json();
    let warnings = ready["warnings"].as_array().expect("warnings");
    let says = |warning: &Value| warning.as_str().is_some_and(|line| line.starts_with(text));
    assert!(warnings.iter().any(says), "{text} in {warnings:?}");
    assert!(alert["since"].as_f64() <= status["now"].as_f64(), "{alert}");
    alert.clone()
}

async fn health(rig: &Rig) -> Value {
    rig.admin("/status").await.json()["health"].take()
}

async fn names(rig: &Rig) -> Vec<String> {
    let status = rig.admin("/status").await.json();
    let alerts = status["alerts"].as_array().expect("alerts").iter();
    let names = alerts.map(|alert| alert["name"].as_str().expect("a name").to_owned());
    names.collect()
}

#[tokio::test]
async fn nothing_needs_attention_at_first() {
    let rig = Rig::new("").await;
    assert_eq!(call(&rig, "/works.list", "{}").await, 200);
    assert!(names(&rig).await.is_empty());
    assert_eq!(health(&rig).await, "ready");
    let ready = rig.admin("/readyz").await;
    assert_eq!(ready.text(), "{\"ready\":true}\n");
}

#[tokio::test]
async fn a_pause_is_an_alert_until_it_ends_and_serious_if_callers_do_not_wait_as_long() {
    let pause = plan("works.list", status(429, Some(300)), 1);
    let rig = with_plan(pause, "[retry]\nmax_attempts = 1\n").await;
    assert_eq!(call(&rig, "/works.list", "{}").await, 429);
    let paused = alert(&rig, "paused").await;
    let text = "the quota of main is paused by DevRev";
    for (key, want) in [
        ("severity", json!("serious")),
        ("subject", json!("main")),
        ("text", json!(text)),
        ("link", json!("#quota")),
        ("next", json!("sent again")),
    ] {
        assert_eq!(paused[key], want, "{key}");
    }
    let time = paused["next_at"].as_f64().zip(paused["since"].as_f64());
    let left = time.map(|(end, since)| end - since).expect("times");
    assert!((250.0..=301.0).contains(&left), "{left}");
    assert_eq!(health(&rig).await, "troubled");
    // It goes on and began when it began.
    assert_eq!(alert(&rig, "paused").await["since"], paused["since"]);
    assert_eq!(rig.resume().await.status, 200);
    assert!(!names(&rig).await.contains(&"paused".to_owned()));
    assert_eq!(health(&rig).await, "ready");
}

#[tokio::test]
async fn a_short_pause_is_a_warning() {
    let pause = plan("works.list", status(429, Some(20)), 1);
    let rig = with_plan(pause, "[retry]\nmax_attempts = 1\n").await;
    assert_eq!(call(&rig, "/works.list", "{}").await, 429);
    assert_eq!(alert(&rig, "paused").await["severity"], "warning");
    assert_eq!(health(&rig).await, "ready");
}

#[tokio::test]
async fn open_circuits_and_failures_are_alerts() {
    let fails = |operation: &str| Rule::new(operation, status(500, None)).times(9);
    let plan = FaultPlan::none()
        .with(fails("works.list"))
        .with(fails("tags.list"))
        .with(fails("parts.list"));
    let rules = "[callers.third]\nkey_sha256 = \"HASH\"\n[retry]\nmax_attempts = 1\n\
                 [upstream.circuit]\nfailures = 4\nwithin = \"60s\"\nopen = \"300s\"\n";
    let rig = with_plan(plan, &rules.replace("HASH", &rig::hash("third-key-0007"))).await;
    for _ in 0..4 {
        assert_eq!(call(&rig, "/works.list", "{}").await, 500);
    }
    let part = alert(&rig, "circuit_partly_open").await;
    assert_eq!(part["severity"], "warning");
    assert_eq!(part["text"], "failing and stopped: works.list of billing");
    assert_eq!(part["next"], "next probe");
    // Of other operations and callers too.
    for key in [OTHER_KEY, "third-key-0007"] {
        for operation in ["/tags.list", "/parts.list"] {
            let headers = [("Authorization", key), ("Content-Type", "application/json")];
            rig.send(request("POST", operation, &headers, "{}")).await;
        }
    }
    let open = alert(&rig, "circuit_open").await;
    let shown = ["severity", "link", "next"].map(|key| open[key].clone());
    assert_eq!(shown, ["serious", "#upstream", "next probe"]);
    assert_eq!(alert(&rig, "calls_fail").await["severity"], "serious");
    assert_eq!(health(&rig).await, "troubled");
}

/// Nobody calls, so it stays due.
#[tokio::test]
async fn a_probe_that_is_due_is_no_longer_announced() {
    let plan = FaultPlan::none().with(Rule::new("works.list", status(500, None)));
    let rules = "[retry]\nmax_attempts = 1\n\
                 [upstream.circuit]\nfailures = 1\nwithin = \"60s\"\nopen = \"1s\"\n";
    let rig = with_plan(plan, rules).await;
    assert_eq!(call(&rig, "/works.list", "{}").await, 500);
    let warning = async || {
        let ready = rig.admin("/readyz").await.json();
        ready["warnings"][0].as_str().unwrap_or_default().to_owned()
    };
    let text = "failing and stopped: works.list of billing";
    let begin = Instant::now();
    while warning().await != format!("{text}, the next call is the probe") {
        assert!(begin.elapsed() < TIMEOUT, "{}", warning().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn deprecated_use_counts_calls_and_refused_ones_apart() {
    let rig = Rig::new("").await;
    let old = r#"{"user_don":"REVU-1","rev_org_don":"REV-1"}"#;
    for _ in 0..2 {
        assert_eq!(call(&rig, "/rev-users.link", old).await, 200);
    }
    let twice = r#"{"user_don":"a","id":"b"}"#;
    assert_eq!(call(&rig, "/rev-users.link", twice).await, 400);
    let headers = [("Authorization", "nobody")];
    rig.send(request("POST", "/rev-users.link", &headers, ""))
        .await;
    let status = rig.admin("/status").await.json();
    let calls = &status["deprecated_calls"];
    assert_eq!(calls.as_array().map(Vec::len), Some(2), "{calls}");
    for (key, want) in [
        ("caller", json!("billing")),
        ("operation", json!("rev-users.link")),
        ("operation_deprecated", json!(true)),
        ("calls", json!(2)),
        ("refused", json!(1)),
    ] {
        assert_eq!(calls[0][key], want, "{key}");
    }
    assert_eq!(calls[0]["fields"]["rev_org_don"], 2);
    assert_eq!(
        (&calls[1]["calls"], &calls[1]["refused"]),
        (&json!(0), &json!(1))
    );
    let billing = &status["callers"]["billing"];
    assert_eq!(
        (&billing["deprecated"], &billing["deprecated_refused"]),
        (&json!(2), &json!(1))
    );
    assert!(
        billing["deprecated_fields"].as_u64() >= Some(4),
        "{billing}"
    );
    let used = alert(&rig, "deprecated_use").await;
    // Whoever was only refused uses nothing.
    assert_eq!(used["text"], "deprecated use by billing");
    assert_eq!(used["severity"], "notice");
    assert_eq!(health(&rig).await, "ready");
}

/// Every second it is looked at what is left, also while nobody asks.
#[tokio::test]
async fn the_quota_is_shown_by_caller_and_over_time() {
    let rig = Rig::new("").await;
    let began = Instant::now();
    for _ in 0..5 {
        assert_eq!(call(&rig, "/works.list", "{}").await, 200);
    }
    let headers = [
        ("Authorization", OTHER_KEY),
        ("Content-Type", "application/json"),
    ];
    let other = rig
        .send(request("POST", "/works.list", &headers, "{}"))
        .await;
    assert_eq!(other.status, 200);
    let group = rig.admin("/quota").await.json()["main"].take();
    assert_eq!(
        group["used_by_caller"],
        json!({ "billing": 5, "reports": 1 }),
        "{group}"
    );
    let started = group["window_started_at"].as_f64();
    assert!(
        started.is_some() && started < group["reset"].as_f64(),
        "{group}"
    );
    let status = loop {
        let status = rig.admin("/status").await.json();
        let line = &status["traffic"]["quota"][0]["remaining"];
        let newest = line.as_array().and_then(|line| line.last());
        if newest.is_some_and(|newest| *newest == group["remaining"]) {
            break status;
        }
        assert!(began.elapsed() < TIMEOUT, "{status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let traffic = &status["traffic"];
    let points = traffic["points"].as_array().expect("points");
    assert!(points[0]["at"].as_u64() <= status["started_at"].as_u64());
    let requests = |caller: &Value| -> u64 {
        let counts = caller["requests"].as_array().expect("counts");
        assert_eq!(counts.len(), points.len());
        counts
            .iter()
            .map(|count| count.as_u64().expect("a count"))
            .sum()
    };
    let callers = traffic["callers"].as_array().expect("callers").iter();
    let callers: Vec<_> = callers
        .map(|one| (one["caller"].clone(), requests(one)))
        .collect();
    assert_eq!(callers, [(json!("billing"), 5), (json!("reports"), 1)]);
    let answers = &status["upstream"]["answers"];
    assert!(answers["p50_seconds"].as_f64() <= answers["p95_seconds"].as_f64());
    assert!(answers["p50_seconds"].is_number());
    assert_eq!(status["callers"]["billing"]["waits"]["p50_seconds"], 0.0);
}

#[tokio::test]
async fn waits_are_shown_by_caller() {
    let pause = plan("works.list", status(429, Some(1)), 1);
    let rig = with_plan(pause, "").await;
    assert_eq!(call(&rig, "/works.list", "{}").await, 200);
    let waits = rig.admin("/callers").await.json()["billing"]["waits"].take();
    let p95 = waits["p95_seconds"].as_f64().expect("a wait");
    assert!((0.7..20.0).contains(&p95), "{p95}");
    let idle = rig.admin("/callers").await.json()["reports"]["waits"].take();
    assert_eq!(idle, json!({ "p50_seconds": null, "p95_seconds": null }));
}

#[tokio::test]
async fn a_refused_reload_is_an_alert_until_the_file_is_good() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("revgate.toml");
    let devrev = rig::simulator().await;
    std::fs::write(folder.path().join("token"), "value").expect("written");
    let token = format!("file = \"{}\"", folder.path().join("token").display());
    let good = rig::file(&devrev.addr().to_string(), "").replace("env = \"DEVREV_TOKEN\"", &token);
    std::fs::write(&file, &good).expect("written");
    let gateway = rig::watching(&file);
    let admin = async |method, path| rig::admin(gateway.admin_address(), method, path, "").await;
    std::fs::write(&file, format!("{good}[nonsense]\n")).expect("written");
    let refused = admin("POST", "/reload").await;
    assert_eq!(refused.status, 409);
    assert!(refused.text().ends_with("}\n"));
    let status = admin("GET", "/status").await.json();
    let alert = &status["alerts"][0];
    let shown = ["name", "severity", "link"].map(|key| alert[key].clone());
    assert_eq!(shown, ["reload_refused", "serious", "#reload"]);
    assert_eq!(status["health"], "troubled");
    // Refused again, it is refused since the first time.
    assert_eq!(admin("POST", "/reload").await.status, 409);
    let again = admin("GET", "/status").await.json();
    assert_eq!(again["alerts"][0]["since"], alert["since"]);
    let needs_restart = good.replacen("[admin]", "[drain]\ntimeout = \"7s\"\n[admin]", 1);
    std::fs::write(&file, &needs_restart).expect("written");
    assert_eq!(admin("POST", "/reload").await.status, 200);
    let status = admin("GET", "/status").await.json();
    let names: Vec<_> = status["alerts"]
        .as_array()
        .expect("alerts")
        .iter()
        .map(|alert| alert["name"].clone())
        .collect();
    assert_eq!(names, ["restart_needed"]);
    assert_eq!(
        (&status["alerts"][0]["text"], &status["health"]),
        (
            &json!("changed in the file and used only after a restart: drain.timeout"),
            &json!("ready")
        )
    );
    // A refused file does not hide what waits for a restart.
    std::fs::write(&file, format!("{needs_restart}[nonsense]\n")).expect("written");
    assert_eq!(admin("POST", "/reload").await.status, 409);
    let status = admin("GET", "/status").await.json();
    let names = [0, 1].map(|n| status["alerts"][n]["name"].clone());
    assert_eq!(names, ["reload_refused", "restart_needed"]);
    assert_eq!(status["reload"]["restart_needed"], json!(["drain.timeout"]));
}
