//! `GET /status`, from which the status page is drawn.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use revgate::simulator;
use serde_json::{Value, json};

use crate::{
    http::{exchange, request},
    rig::{self, KEY, OTHER_KEY, Rig, hash, plan, status},
};

async fn call(rig: &Rig, key: &str) -> u16 {
    let headers = [("Authorization", key), ("Content-Type", "application/json")];
    rig.send(request("POST", "/works.list", &headers, "{}"))
        .await
        .status
}

fn sum(status: &Value, key: &str) -> u64 {
    let points = status["traffic"]["points"].as_array().expect("points");
    points
        .iter()
        .map(|point| point[key].as_u64().expect("a count"))
        .sum()
}

/// Each form in its own syntax, with the same samples.
#[tokio::test]
async fn metrics_come_in_the_form_that_is_asked_for() {
    let rig = Rig::new("").await;
    assert_eq!(call(&rig, KEY).await, 200);
    let scrape = async |accept: &str| {
        let bytes = request("GET", "/metrics", &[("Accept", accept)], "");
        let answer = exchange(rig.gateway.admin_address(), bytes).await;
        assert_eq!(
            (answer.status, answer.header("vary")),
            (200, Some("Accept"))
        );
        let kind = answer.header("content-type").expect("a type").to_owned();
        (kind, String::from_utf8(answer.body).expect("text"))
    };
    let (kind, text) = scrape("*/*").await;
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    let (kind, open) = scrape("application/openmetrics-text; version=1.0.0").await;
    assert_eq!(
        kind,
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    assert!(text.contains("# TYPE revgate_requests_total counter\n") && !text.contains("# EOF"));
    assert!(open.contains("# TYPE revgate_requests counter\n") && open.ends_with("# EOF\n"));
    let series = |text: &str| -> Vec<String> {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let names = samples.map(|line| line.rsplit_once(' ').expect("a value").0.to_owned());
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        names
    };
    assert_eq!(series(&text), series(&open));
}

#[tokio::test]
async fn status_shows_traffic_limits_and_shares() {
    let options = simulator::Options {
        plan: plan("works.list", status(429, Some(1)), 1),
        ..simulator::Options::default()
    };
    let rig = Rig::with("", options).await;
    for _ in 0..6 {
        assert_eq!(call(&rig, KEY).await, 200);
    }
    for want in [200, 200, 429] {
        assert_eq!(call(&rig, OTHER_KEY).await, want);
    }
    assert_eq!(call(&rig, "nobody").await, 401);

    let status = rig.admin("/status").await.json();
    let counts = ["requests", "failed", "refused", "throttled"].map(|key| sum(&status, key));
    assert_eq!(counts, [10, 0, 2, 1]);
    // History begins with the process.
    let points = status["traffic"]["points"].as_array().map(Vec::len);
    assert!((1..180).contains(&points.expect("points")), "{points:?}");
    let reports = &status["callers"]["reports"];
    for (key, want) in [
        ("rate", json!("1/min")),
        ("burst", json!(2)),
        ("remaining", json!(0)),
        ("group", json!("main")),
        ("weight", json!(1)),
        ("priority", json!("interactive")),
        ("requests", json!(3)),
        ("refused", json!(1)),
        ("refused_by_code", json!({ "caller_rate_limited": 1 })),
        ("would_refuse", json!(0)),
        ("waiting", json!(0)),
        ("deprecated", json!(0)),
        // Two of nine attempts; one of them was a retry.
        ("share", json!(2.0 / 9.0)),
    ] {
        assert_eq!(reports[key], want, "{key}");
    }
    let other = &status["callers"]["other"]["refused_by_code"];
    assert_eq!(*other, json!({ "unauthenticated": 1 }));
    assert_eq!(status["quota"]["main"]["throttled"], 1);
    assert_eq!(status["upstream"]["circuit"]["state"], "closed");
    assert_eq!(status["reload"]["at"], Value::Null);
    assert!(status["now"].as_f64() >= status["started_at"].as_f64());
    // Reading the status uses none of the limit.
    assert_eq!(
        rig.admin("/callers").await.json()["reports"]["remaining"],
        0
    );
}

#[tokio::test]
async fn what_would_be_refused_is_counted_for_its_caller() {
    let rig = Rig::new("[defaults]\nenforce = false\ndeny = [\"works.*\"]\n").await;
    for _ in 0..3 {
        assert_eq!(call(&rig, OTHER_KEY).await, 200);
    }
    let reports = rig.admin("/callers").await.json()["reports"].take();
    assert_eq!(
        reports["would_refuse_by_code"],
        json!({ "caller_rate_limited": 1, "forbidden": 3 })
    );
    // Three requests; one counts under both codes.
    assert_eq!(
        (&reports["refused"], &reports["would_refuse"]),
        (&json!(0), &json!(3))
    );
}

#[tokio::test]
async fn a_tokens_expiry_is_shown_and_never_its_value() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("now");
    let expires = now.as_secs() + 3600;
    let claims = URL_SAFE_NO_PAD.encode(format!("{{\"exp\":{expires}}}"));
    let token = format!("e30.{claims}.c2lnbmF0dXJl");
    let text = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [tokens.dated]\nenv = \"DATED\"\nquota_group = \"shared\"\n[tokens.opaque]\nenv = \"OPAQUE\"\n\
         [callers.billing]\nkey_sha256 = \"{}\"\ntoken = \"dated\"\n",
        hash(KEY),
    );
    let env = [("DATED", token.as_str()), ("OPAQUE", "an-opaque-token")];
    let gateway = rig::start(&text, &env);
    let ask = async |path: &str| rig::admin(gateway.admin_address(), "GET", path, "").await;
    let status = ask("/status").await;
    assert_eq!(
        status.json()["tokens"],
        json!({
            "dated": { "quota_group": "shared", "expires_at": expires as f64, "state": "expires_soon", "refused": false, "next_probe_in_seconds": null },
            "opaque": { "quota_group": "opaque", "expires_at": null, "state": "unknown", "refused": false, "next_probe_in_seconds": null },
        })
    );
    assert!(!format!("{status:?}").contains("c2lnbmF0dXJl"));
    let metrics = ask("/metrics").await.text();
    let line = metrics
        .lines()
        .find(|line| line.starts_with("revgate_token_expiry_timestamp_seconds{token=\"dated\"}"));
    let shown = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    assert_eq!(shown, Some(expires as f64));
}
