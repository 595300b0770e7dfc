//! Mode "validate": callers bring DevRev tokens of their own, and the gateway introspects them.

use std::{net::SocketAddr, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use revgate::{
    serve::Gateway,
    simulator::{self, Fault, FaultPlan, Rule, Simulator, Status, TextDuration},
};

use crate::{
    http::{Answer, exchange, request},
    rig::{self, plan, status},
};

const INFO: &str = "auth-tokens.info";

struct Rig {
    devrev: Simulator,
    gateway: Gateway,
}

/// `extra` is appended to `[auth]`.
fn gateway(upstream: SocketAddr, extra: &str, env: &[(&str, &str)]) -> Gateway {
    let text = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [upstream]\nurl = \"http://{upstream}\"\nattempt_timeout = \"3s\"\n\
         [defaults]\nrate = \"1000/s\"\nburst = 1000\nmax_wait = \"5s\"\n\
         [auth]\nmode = \"validate\"\n{extra}\n"
    );
    rig::start(&text, env)
}

impl Rig {
    async fn new(extra: &str) -> Rig {
        Rig::with(extra, FaultPlan::none()).await
    }

    async fn with(extra: &str, plan: FaultPlan) -> Rig {
        let options = simulator::Options {
            plan,
            ..simulator::Options::default()
        };
        let devrev = simulator::start(options).await.expect("the simulator");
        let gateway = gateway(devrev.addr(), extra, &[]);
        Rig { devrev, gateway }
    }

    async fn call(&self, token: &str) -> Answer {
        call(self.gateway.address().expect("TCP"), token, &[]).await
    }

    async fn admin(&self, path: &str) -> String {
        rig::admin(self.gateway.admin_address(), "GET", path, "")
            .await
            .text()
    }

    fn asked(&self, operation: &str) -> usize {
        let received = self.devrev.received();
        let path = format!("/{operation}");
        received.iter().filter(|r| r.target == path).count()
    }
}

async fn call(address: SocketAddr, token: &str, more: &[(&str, &str)]) -> Answer {
    let bearer = format!("Bearer {token}");
    let mut headers = vec![("Authorization", bearer.as_str())];
    headers.extend(more);
    exchange(address, request("GET", "/works.list", &headers, "")).await
}

/// A token of this user; `number` makes it unique.
pub fn token(user: &str, number: u32) -> String {
    let claims = format!(r#"{{"sub":"{user}","jti":"{number}"}}"#);
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
}

fn bad_token(number: u32) -> String {
    let claims = format!(r#"{{"refused":true,"jti":"{number}"}}"#);
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
}

fn info(fault: Fault) -> FaultPlan {
    FaultPlan::none().with(Rule::new(INFO, fault))
}

#[tokio::test]
async fn a_good_token_is_introspected_once() {
    let rig = Rig::new("").await;
    for _ in 0..3 {
        assert_eq!(rig.call(&token("ada", 1)).await.status, 200);
    }
    assert_eq!(rig.asked(INFO), 1);
    assert_eq!(rig.asked("works.list"), 3);
    // A second token of the same user.
    assert_eq!(rig.call(&token("ada", 2)).await.status, 200);
    // Two introspections and four calls are booked to their user, and none of them is external.
    let quota: serde_json::Value = serde_json::from_str(&rig.admin("/quota").await).expect("JSON");
    let group = &quota["don:identity:dvrv-us-1:devo/0:devu/ada"];
    assert_eq!(group["remaining"], 994, "{quota}");
    assert_eq!(group["external"], 0, "{quota}");
    let groups = quota.as_object().expect("groups").len();
    assert_eq!(groups, 1, "{quota}");
}

#[tokio::test]
async fn a_bad_token_is_refused_and_introspected_once() {
    let rig = Rig::new("").await;
    for _ in 0..3 {
        let answer = rig.call(&bad_token(1)).await;
        assert_eq!(answer.status, 401);
        assert_eq!(answer.code(), "unauthenticated");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    assert_eq!((rig.asked(INFO), rig.asked("works.list")), (1, 0));
    // A malformed or expired token is not introspected.
    let ended = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(r#"{"exp":1000}"#));
    for token in ["nonsense", ended.as_str()] {
        assert_eq!(rig.call(token).await.status, 401);
    }
    assert_eq!(rig.asked(INFO), 1);
}

#[tokio::test]
async fn a_revoked_token_is_refused_when_its_time_is_over() {
    let rig = Rig::new("introspect_ttl = \"400ms\"").await;
    let token = token("ada", 1);
    assert_eq!(rig.call(&token).await.status, 200);
    rig.devrev.revoke(&token);
    tokio::time::sleep(Duration::from_millis(450)).await;
    let before = rig.asked("works.list");
    for _ in 0..2 {
        let answer = rig.call(&token).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (401, "unauthenticated")
        );
    }
    assert_eq!(rig.asked("works.list"), before, "it goes no further");
    assert_eq!(rig.asked(INFO), 2);
}

#[tokio::test]
async fn tokens_of_one_user_share_a_group_and_a_rate() {
    let rig = Rig::with(
        "[retry]\nmax_attempts = 1",
        plan("works.list", status(429, Some(60)), 1),
    )
    .await;
    assert_eq!(rig.call(&token("ada", 1)).await.status, 429);
    // The other token is introspected in a group of its own. Its calls run in the user's group, which is paused.
    let answer = rig.call(&token("ada", 2)).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (429, "quota_exhausted")
    );
    assert_eq!(rig.call(&token("bob", 3)).await.status, 200);
    assert_eq!(rig.asked("works.list"), 2);

    let rate = [
        ("REVGATE__DEFAULTS__RATE", "1/min"),
        ("REVGATE__DEFAULTS__BURST", "2"),
    ];
    let gateway = gateway(rig.devrev.addr(), "", &rate);
    let address = gateway.address().expect("TCP");
    assert_eq!(call(address, &token("eve", 1), &[]).await.status, 200);
    assert_eq!(call(address, &token("eve", 2), &[]).await.status, 200);
    let answer = call(address, &token("eve", 3), &[]).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (429, "caller_rate_limited")
    );
    assert_eq!(call(address, &token("bob", 4), &[]).await.status, 200);
}

#[tokio::test]
async fn a_known_token_is_let_through_while_devrev_cannot_be_asked() {
    for fault in [
        status(503, None),
        status(500, None),
        status(429, None),
        Fault::Hang,
        Fault::Reset,
    ] {
        let rig = Rig::new("introspect_ttl = \"200ms\"").await;
        let token = token("ada", 1);
        assert_eq!(rig.call(&token).await.status, 200);
        rig.devrev.set_plan(info(fault.clone()));
        tokio::time::sleep(Duration::from_millis(250)).await;
        for _ in 0..3 {
            assert_eq!(rig.call(&token).await.status, 200, "{fault:?}");
        }
        // Introspected again, but not with every request.
        assert_eq!(rig.asked("works.list"), 4, "{fault:?}");
        assert!(
            (2..=3).contains(&rig.asked(INFO)),
            "{fault:?}: {}",
            rig.asked(INFO)
        );
        let metrics = rig.admin("/metrics").await;
        assert!(
            metrics.contains("revgate_introspections_total{result=\"stale\"} 1"),
            "{metrics}"
        );
    }
}

#[tokio::test]
async fn an_unknown_token_gets_what_the_failure_means_and_never_a_401() {
    let cases = [
        (status(429, Some(60)), 429, "quota_exhausted", Some("60")),
        (status(503, Some(60)), 503, "token_unverified", Some("60")),
        (status(500, None), 503, "token_unverified", Some("5")),
        (status(404, None), 503, "token_unverified", Some("5")),
        (Fault::Hang, 504, "upstream_timeout", None),
        (Fault::Reset, 502, "upstream_broken", None),
    ];
    for (fault, status, code, retry_after) in cases {
        let rig = Rig::with("[retry]\nmax_attempts = 1", info(fault.clone())).await;
        let answer = rig.call(&token("ada", 1)).await;
        assert_eq!(answer.status, status, "{fault:?}");
        assert_eq!(answer.code(), code, "{fault:?}");
        assert_eq!(answer.header("retry-after"), retry_after, "{fault:?}");
        // The token is not cached as bad.
        rig.devrev.set_plan(FaultPlan::none());
        if retry_after != Some("60") {
            assert_eq!(rig.call(&token("ada", 1)).await.status, 200, "{fault:?}");
        }
    }
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = nobody.local_addr().expect("an address");
    drop(nobody);
    let gateway = gateway(address, "[retry]\nmax_attempts = 1", &[]);
    let answer = call(gateway.address().expect("TCP"), &token("ada", 1), &[]).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (502, "upstream_unreachable")
    );
}

#[tokio::test]
async fn a_short_throttling_of_the_introspection_is_waited_out() {
    let rig = Rig::with("", plan(INFO, status(429, Some(1)), 1)).await;
    assert_eq!(rig.call(&token("ada", 1)).await.status, 200);
    assert_eq!(rig.asked(INFO), 2);
    // A caller that does not wait gets the time of DevRev's answer.
    let rig = Rig::with("", plan(INFO, status(429, Some(3)), 1)).await;
    let address = rig.gateway.address().expect("TCP");
    let answer = call(address, &token("ada", 1), &[("Prefer", "wait=0")]).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (429, "quota_exhausted")
    );
    assert_eq!(answer.header("retry-after"), Some("3"));
}

#[tokio::test]
async fn many_requests_with_one_token_cause_one_introspection() {
    let rig = Rig::with(
        "",
        info(Fault::Delay(TextDuration(Duration::from_millis(300)))),
    )
    .await;
    let address = rig.gateway.address().expect("TCP");
    let token = token("ada", 1);
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let token = token.clone();
            tokio::spawn(async move { call(address, &token, &[]).await.status })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.expect("no panic"), 200);
    }
    assert_eq!((rig.asked(INFO), rig.asked("works.list")), (1, 50));
}

#[tokio::test]
async fn workers_share_the_cache() {
    let devrev = rig::simulator().await;
    let env = [("REVGATE__LISTEN__WORKERS", "3")];
    let gateway = gateway(devrev.addr(), "", &env);
    let address = gateway.address().expect("TCP");
    let calls: Vec<_> = (0..30)
        .map(|_| tokio::spawn(async move { call(address, &token("ada", 1), &[]).await.status }))
        .collect();
    for call in calls {
        assert_eq!(call.await.expect("no panic"), 200);
    }
    let received = devrev.received();
    let path = format!("/{INFO}");
    assert_eq!(received.iter().filter(|r| r.target == path).count(), 1);
}

#[tokio::test]
async fn when_the_leader_leaves_the_next_request_leads() {
    let rig = Rig::with(
        "",
        FaultPlan::none().with(Rule::new(INFO, Fault::Hang).times(1)),
    )
    .await;
    let address = rig.gateway.address().expect("TCP");
    let token = token("ada", 1);
    let first = tokio::spawn({
        let token = token.clone();
        async move { call(address, &token, &[]).await }
    });
    while rig.asked(INFO) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let second = tokio::spawn(async move { call(address, &token, &[]).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    first.abort();
    assert_eq!(second.await.expect("no panic").status, 200);
    assert_eq!(rig.asked(INFO), 2);
}

#[tokio::test]
async fn a_flood_of_unknown_tokens_leaves_a_known_one_served() {
    // Without this the failures would stop all introspections of tokens that are not known.
    let rig = Rig::new("[upstream.circuit]\nfailures = 10000").await;
    let known = token("ada", 1);
    assert_eq!(rig.call(&known).await.status, 200);
    let address = rig.gateway.address().expect("TCP");
    // Their introspections hang, and there are more of them than may wait.
    let start = std::time::Instant::now();
    rig.devrev.set_plan(info(Fault::Hang));
    let flood: Vec<_> = (0..200)
        .map(|number| {
            tokio::spawn(async move { call(address, &bad_token(number), &[]).await.status })
        })
        .collect();
    // As many as may be, beside that of the known token.
    let all = async {
        while rig.asked(INFO) < 17 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let all = tokio::time::timeout(Duration::from_secs(20), all).await;
    all.expect("introspections of the flood");
    // Each of the 16 places is free for another after three seconds, when its introspection is given up.
    let most = 1 + 16 * (1 + start.elapsed().as_secs() / 3);
    let asked = rig.asked(INFO);
    assert!(asked as u64 <= most, "{asked} asked at once");
    for _ in 0..5 {
        let at = std::time::Instant::now();
        assert_eq!(rig.call(&known).await.status, 200);
        // One that waited for an introspection would take three.
        assert!(at.elapsed() < Duration::from_secs(2), "{:?}", at.elapsed());
    }
    let mut refused = 0;
    for call in flood {
        let status = call.await.expect("no panic");
        assert!(
            matches!(status, 502..=504),
            "{status}: nobody said that it is bad"
        );
        refused += u32::from(status == 503);
    }
    assert!(refused >= 56, "{refused}");
    // After DevRev has recovered the token is still cached: no new introspection.
    rig.devrev.set_plan(FaultPlan::none());
    let asked = rig.asked(INFO);
    for number in 1000..1020 {
        rig.call(&bad_token(number)).await;
    }
    assert_eq!(rig.call(&known).await.status, 200);
    assert_eq!(rig.asked(INFO), asked + 20);
}

#[tokio::test]
async fn an_undocumented_answer_is_good_and_names_no_user() {
    let mut odd = Status::new(200);
    odd.body = Some("it works".into());
    let rig = Rig::with("", info(Fault::Status(odd))).await;
    for _ in 0..2 {
        assert_eq!(rig.call(&token("ada", 1)).await.status, 200);
    }
    assert_eq!(rig.asked(INFO), 1);
    let quota = rig.admin("/quota").await;
    assert!(!quota.contains("devu/ada"), "{quota}");
}

#[tokio::test]
async fn a_401_to_a_call_has_its_token_introspected_again() {
    for worker in ["1", "2"] {
        let devrev = rig::simulator().await;
        let gateway = gateway(devrev.addr(), "", &[("REVGATE__LISTEN__WORKERS", worker)]);
        let rig = Rig { devrev, gateway };
        let (revoked, other) = (token("ada", 1), token("bob", 2));
        for token in [&revoked, &other] {
            assert_eq!(rig.call(token).await.status, 200);
        }
        assert_eq!((rig.asked(INFO), rig.asked("works.list")), (2, 2));
        rig.devrev.revoke(&revoked);
        // Its result is valid for a minute, so the call goes to DevRev, whose own answer is passed on.
        let answer = rig.call(&revoked).await;
        assert_eq!((answer.status, answer.header("proxy-status")), (401, None));
        assert_eq!((rig.asked(INFO), rig.asked("works.list")), (2, 3));
        // From then on it goes no further, and DevRev is asked about it once.
        for _ in 0..3 {
            let answer = rig.call(&revoked).await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (401, "unauthenticated")
            );
        }
        assert_eq!((rig.asked(INFO), rig.asked("works.list")), (3, 3));
        assert_eq!(rig.call(&other).await.status, 200);
        assert_eq!(rig.asked(INFO), 3, "another token's result stays");
    }
}

#[tokio::test]
async fn a_401_at_the_head_of_a_stream_over_http2_counts_too() {
    let rig = Rig::new("").await;
    let token = token("ada", 1);
    assert_eq!(rig.call(&token).await.status, 200);
    let mut refusal = Status::new(401);
    refusal
        .headers
        .insert("content-type".to_owned(), "text/event-stream".to_owned());
    refusal.body = Some("data: no\n\n".into());
    rig.devrev
        .set_plan(plan("works.list", Fault::Status(refusal), 1));
    let stream = tokio::net::TcpStream::connect(rig.gateway.address().expect("TCP")).await;
    let io = hyper_util::rt::TokioIo::new(stream.expect("connects"));
    let executor = hyper_util::rt::TokioExecutor::new();
    let handshake = hyper::client::conn::http2::handshake(executor, io).await;
    let (mut sender, connection) = handshake.expect("HTTP/2");
    tokio::spawn(connection);
    let call = || {
        hyper::Request::get("http://gateway/works.list")
            .header("authorization", format!("Bearer {token}"))
            .body(http_body_util::Empty::<bytes::Bytes>::new())
            .expect("a request")
    };
    // Only its head is read.
    let refused = sender.send_request(call()).await.expect("an answer");
    assert_eq!((refused.status().as_u16(), rig.asked(INFO)), (401, 1));
    let answer = sender.send_request(call()).await.expect("an answer");
    assert_eq!((answer.status().as_u16(), rig.asked(INFO)), (200, 2));
}

#[tokio::test]
async fn an_operation_that_always_answers_401_causes_few_introspections() {
    let rig = Rig::new("").await;
    rig.devrev
        .set_plan(FaultPlan::none().with(Rule::new("works.list", status(401, None))));
    for _ in 0..60 {
        assert_eq!(rig.call(&token("ada", 1)).await.status, 401);
    }
    assert_eq!(rig.asked("works.list"), 60, "the token is good");
    assert_eq!(
        rig.asked(INFO),
        2,
        "the first 401 was doubted, the others were not"
    );
}

/// An answer of `auth-tokens.info` with this `expires_at`.
fn expiring(expires_at: &serde_json::Value) -> FaultPlan {
    let mut answer = Status::new(200);
    answer.body = Some(serde_json::json!({ "user_id": "ada", "expires_at": expires_at }));
    info(Fault::Status(answer))
}

#[tokio::test]
async fn the_expiry_that_devrev_names_ends_a_result() {
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = || now().expect("after 1970").as_secs_f64();
    let token = token("ada", 1);
    // In the past: the token is bad now.
    for past in [
        serde_json::json!("2001-09-09T01:46:40.000Z"),
        (now() - 1.0).into(),
    ] {
        let rig = Rig::with("", expiring(&past)).await;
        for _ in 0..2 {
            let answer = rig.call(&token).await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (401, "unauthenticated"),
                "{past}"
            );
        }
        assert_eq!((rig.asked(INFO), rig.asked("works.list")), (1, 0), "{past}");
    }
    // Later than the result is valid, or no time: it changes nothing.
    for other in [
        serde_json::json!("2099-01-01T00:00:00Z"),
        "soon".into(),
        0.into(),
        "0001-01-01T00:00:00Z".into(),
        (-7).into(),
        serde_json::Value::Null,
    ] {
        let rig = Rig::with("", expiring(&other)).await;
        for _ in 0..2 {
            assert_eq!(rig.call(&token).await.status, 200, "{other}");
        }
        assert_eq!(rig.asked(INFO), 1, "{other}");
    }
    // Earlier: the result ends with it, and is not used as a stale one.
    let rig = Rig::with("", expiring(&(now() + 1.0).into())).await;
    assert_eq!(rig.call(&token).await.status, 200);
    rig.devrev.set_plan(expiring(&(now() - 1.0).into()));
    let answered = std::time::Instant::now();
    while rig.call(&token).await.status == 200 {
        assert!(
            answered.elapsed() < Duration::from_secs(10),
            "it never ends"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(rig.asked(INFO), 2);
}

#[tokio::test]
async fn no_token_is_shown_anywhere() {
    let rig = Rig::new("").await;
    let (good, bad) = (token("ada", 1), bad_token(1));
    rig.call(&good).await;
    rig.call(&bad).await;
    for path in ["/config", "/status", "/quota", "/callers", "/metrics", "/"] {
        let text = rig.admin(path).await;
        for token in [&good, &bad] {
            assert!(!text.contains(token.as_str()), "{path}");
        }
    }
    let metrics = rig.admin("/metrics").await;
    for line in [
        "revgate_introspections_total{result=\"good\"} 1",
        "revgate_introspections_total{result=\"bad\"} 1",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
    assert!(
        !metrics.contains("devu/"),
        "a label without a bound: {metrics}"
    );
}
