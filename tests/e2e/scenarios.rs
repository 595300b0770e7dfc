//! What callers and operators get when nothing fails.

use revgate::simulator::Fault;

use crate::{
    http::{Client, get, request},
    rig::{KEY, OTHER_KEY, Rig, TOKEN, header, plan},
};

const OLD: &str =
    r#"{"user_don":"don:identity:dvrv-us-1:devo/0:revo/6:revu/131","rev_org_don":"REV-AbCdEfGh"}"#;
const NEW: &str =
    r#"{"id":"don:identity:dvrv-us-1:devo/0:revo/6:revu/131","rev_org":"REV-AbCdEfGh"}"#;

#[tokio::test]
async fn links_a_rev_user_with_old_names() {
    let rig = Rig::new("").await;
    let answer = rig.call("POST", "/rev-users.link", OLD).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.json()["rev_user"]["id"].is_string());
    assert_eq!(answer.header("deprecation"), Some("@1743033600"));
    assert_eq!(answer.header("via"), Some("1.1 revgate"));
    assert!(answer.header("x-request-id").is_some());
    assert!(
        answer
            .header("ratelimit")
            .is_some_and(|v| v.starts_with("\"caller\";r=")),
        "{answer:?}"
    );
    assert!(
        answer
            .header("ratelimit-policy")
            .is_some_and(|v| v.starts_with("\"caller\";q=1000;w=")),
        "{answer:?}"
    );
    assert!(answer.header("x-ratelimit-limit").is_some());
    let sent = rig.last();
    assert_eq!(sent.body, NEW);
    assert_eq!(
        header(&sent, "authorization"),
        Some(format!("Bearer {TOKEN}").as_str())
    );
    assert_eq!(
        header(&sent, "content-length"),
        Some(NEW.len().to_string().as_str())
    );
}

#[tokio::test]
async fn passes_new_names_and_every_other_call_byte_for_byte() {
    let rig = Rig::new("").await;
    let odd = "{ \"rev_org\" : \"REV-1\",\n\t\"big\":123456789012345678901234567890.10 , \"id\":\"REVU-1\" }";
    rig.call("POST", "/rev-users.link", odd).await;
    assert_eq!(rig.last().body, odd);
    let target =
        "/works.list?limit=2&owned_by=%22DEVU-1%22,%22DEVU-2%22&issue.rev_orgs=%22REV-1%22";
    let answer = rig.call("GET", target, "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(rig.last().target, target);
    // The same name is not deprecated in another operation.
    rig.call("POST", "/works.list", r#"{"rev_org_don":"x"}"#)
        .await;
    assert_eq!(rig.last().body, r#"{"rev_org_don":"x"}"#);
}

#[tokio::test]
async fn a_callers_credential_and_hops_are_not_forwarded() {
    let rig = Rig::new("").await;
    let bytes = request(
        "GET",
        "/dev-users.self",
        &[
            ("Authorization", KEY),
            ("Connection", "keep-alive, X-Hop, authorization"),
            ("X-Hop", "1"),
            ("X-Forwarded-For", "10.0.0.1"),
            ("Forwarded", "for=10.0.0.1"),
            ("X-Devrev-Version", "2024-01-24"),
            ("Prefer", "respond-async, wait=1"),
            ("X-Request-Id", "my-id-1"),
        ],
        "",
    );
    let answer = rig.send(bytes).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("x-request-id"), Some("my-id-1"));
    let sent = rig.last();
    for gone in ["x-hop", "x-forwarded-for", "forwarded", "connection"] {
        assert_eq!(header(&sent, gone), None, "{gone}");
    }
    assert_eq!(
        header(&sent, "authorization"),
        Some(format!("Bearer {TOKEN}").as_str())
    );
    assert_eq!(
        header(&sent, "host"),
        Some(rig.devrev.addr().to_string().as_str())
    );
    assert_eq!(header(&sent, "via"), Some("1.1 revgate"));
    assert_eq!(header(&sent, "prefer"), Some("respond-async"));
    assert_eq!(header(&sent, "x-devrev-version"), Some("2024-01-24"));
}

#[tokio::test]
async fn every_callers_own_rate_holds() {
    let rig = Rig::new("").await;
    let bytes = get("/dev-users.self", OTHER_KEY);
    assert_eq!(rig.send(&bytes).await.status, 200);
    assert_eq!(rig.send(&bytes).await.status, 200);
    let refused = rig.send(&bytes).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (429, "caller_rate_limited")
    );
    assert_eq!(refused.json()["type"], "too_many_requests");
    let seconds: u64 = refused
        .header("retry-after")
        .expect("a time")
        .parse()
        .expect("whole seconds");
    assert_eq!(refused.json()["retry_after"], seconds);
    assert!((1..=60).contains(&seconds), "{seconds}");
    assert!(
        refused
            .header("proxy-status")
            .is_some_and(|v| v.contains("details=\"caller_rate_limited\""))
    );
    // Other callers are not affected.
    assert_eq!(rig.call("GET", "/dev-users.self", "").await.status, 200);
    assert_eq!(rig.devrev.received().len(), 3);
}

#[tokio::test]
async fn streams_sse_as_it_comes() {
    let rig = Rig::new("").await;
    let mut client = Client::connect(rig.address).await;
    client
        .send(request(
            "POST",
            "/recommendations.chat.completions",
            &[("Authorization", KEY)],
            "{}",
        ))
        .await;
    let (status, headers) = client.head().await.expect("a head");
    assert_eq!(status, 200);
    assert!(
        headers
            .iter()
            .any(|(n, v)| n == "content-type" && v.starts_with("text/event-stream"))
    );
    let first = client.chunk().await.expect("a first event");
    assert!(!first.is_empty());
    let mut chunks = 1;
    while client.chunk().await.is_some_and(|chunk| !chunk.is_empty()) {
        chunks += 1;
    }
    assert!(chunks > 1, "events were gathered into one");
}

#[tokio::test]
async fn a_large_answer_comes_whole() {
    let rig = Rig::new("").await;
    let answer = rig.call("GET", "/_blob?bytes=20000000", "").await;
    assert!(
        answer.whole && answer.body.len() == 20_000_000,
        "{}",
        answer.body.len()
    );
}

#[tokio::test]
async fn an_answer_that_breaks_off_stays_incomplete() {
    let rig = Rig::new("").await;
    rig.devrev.set_plan(plan("works.list", Fault::Truncate, 1));
    let answer = rig.call("GET", "/works.list", "").await;
    assert!(!answer.whole, "{answer:?}");
}

#[tokio::test]
async fn admin_answers_and_counts() {
    let rig = Rig::new("").await;
    rig.call("POST", "/rev-users.link", OLD).await;
    for path in [
        "/healthz",
        "/livez",
        "/readyz",
        "/config",
        "/status",
        "/quota",
        "/callers",
        "/deprecations",
        "/",
    ] {
        assert_eq!(rig.admin(path).await.status, 200, "{path}");
    }
    let metrics = String::from_utf8(rig.admin("/metrics").await.body).expect("text");
    let line = "revgate_requests_total{caller=\"billing\",operation=\"rev-users.link\",status=\"200\",source=\"upstream\"} 1";
    assert!(metrics.contains(line), "{metrics}");
    assert!(metrics.contains("revgate_deprecated_total{caller=\"billing\",operation=\"rev-users.link\",field=\"user_don\"} 1"));
    assert!(metrics.contains("revgate_quota_limit{group=\"main\"} 1000"));
}

#[tokio::test]
async fn secrets_are_nowhere() {
    let rig = Rig::new("").await;
    rig.call("POST", "/rev-users.link", OLD).await;
    rig.send(get("/works.list", "Bearer a-wrong-key")).await;
    for path in [
        "/config",
        "/status",
        "/quota",
        "/callers",
        "/deprecations",
        "/metrics",
        "/",
        "/readyz",
    ] {
        let text = rig.admin(path).await.text();
        for secret in [KEY, OTHER_KEY, TOKEN, "a-wrong-key"] {
            assert!(!text.contains(secret), "{path} shows {secret}");
        }
    }
}

#[tokio::test]
async fn a_refusal_of_a_known_caller_shows_its_limit_and_uses_none_of_it() {
    let rig = Rig::new("").await;
    for _ in 0..3 {
        let answer = rig.call("POST", "/auth-tokens.create", "{}").await;
        assert_eq!(answer.code(), "forbidden", "{answer:?}");
        assert!(answer.header("ratelimit-policy").is_some(), "{answer:?}");
        assert_eq!(answer.header("ratelimit"), Some("\"caller\";r=1000;t=0"));
    }
}
