//! Configured DevRev tokens: how a refused one is paused and comes back, which caller uses which, and where none of them is sent.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use revgate::{config, serve::Gateway};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};

use crate::{
    http::{Answer, exchange, request},
    rig::{self, KEY, Rig, TOKEN, hash, header},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// An upstream that answers by the credential: 200 unless told otherwise.
#[derive(Clone, Default)]
pub struct DevRev(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    planned: HashMap<String, String>,
    /// Credential and target of each request.
    seen: Vec<(String, String)>,
}

impl DevRev {
    pub async fn start(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let state = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(state.clone().serve(stream));
            }
        });
        address
    }

    async fn serve(self, mut stream: TcpStream) {
        let mut bytes = Vec::new();
        loop {
            while !bytes.windows(4).any(|w| w == b"\r\n\r\n") {
                if matches!(stream.read_buf(&mut bytes).await, Ok(0) | Err(_)) {
                    return;
                }
            }
            let head = String::from_utf8_lossy(&bytes).into_owned();
            bytes.clear();
            let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let credential = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("authorization")
                    .then(|| value.trim_start_matches("Bearer ").to_owned())
            });
            let credential = credential.unwrap_or_default();
            let head = {
                let mut state = self.0.lock().expect("sound");
                state.seen.push((credential.clone(), target));
                state.planned.get(&credential).cloned()
            };
            let head = head.unwrap_or_else(|| "200 OK".to_owned());
            let answer = format!("HTTP/1.1 {head}\r\nContent-Length: 2\r\n\r\n{{}}");
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    /// Sets status line and header fields of the answers to requests with this credential.
    pub fn says(&self, credential: &str, head: &str) {
        let mut state = self.0.lock().expect("sound");
        state.planned.insert(credential.to_owned(), head.to_owned());
    }

    fn taken(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.0.lock().expect("sound").seen)
    }
}

/// A gateway with three tokens in files, two of one user, and a caller for each.
struct Three {
    devrev: DevRev,
    gateway: Gateway,
    folder: tempfile::TempDir,
}

const NAMES: [&str; 3] = ["one", "two", "third"];

impl Three {
    async fn new() -> Three {
        let devrev = DevRev::default();
        let folder = tempfile::tempdir().expect("a folder");
        let mut text = format!(
            "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
             [upstream]\nurl = \"http://{}\"\n[defaults]\nrate = \"100000/s\"\nburst = 100000\nmax_wait = \"5s\"\n",
            devrev.start().await
        );
        for name in NAMES {
            let file = folder.path().join(name);
            std::fs::write(&file, format!("value-of-{name}")).expect("written");
            let group = if name == "third" { "b" } else { "a" };
            text += &format!(
                "[tokens.{name}]\nfile = \"{}\"\nquota_group = \"{group}\"\n\
                 [callers.{name}]\ntoken = \"{name}\"\nkey_sha256 = \"{}\"\n",
                file.display(),
                hash(&format!("key-of-{name}")),
            );
        }
        let gateway = from_file(folder.path(), &text);
        Three {
            devrev,
            gateway,
            folder,
        }
    }

    async fn call(&self, name: &str) -> Answer {
        let key = format!("key-of-{name}");
        get(&self.gateway, "/works.list", &key).await
    }

    fn write(&self, name: &str, value: &str) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, value).expect("written");
        std::fs::rename(new, self.folder.path().join(name)).expect("renamed");
    }

    async fn admin(&self, method: &str, path: &str) -> Answer {
        admin(&self.gateway, method, path).await
    }
}

pub fn from_file(folder: &Path, text: &str) -> Gateway {
    let file = folder.join("revgate.toml");
    std::fs::write(&file, text).expect("written");
    rig::watching(&file)
}

pub async fn get(gateway: &Gateway, target: &str, key: &str) -> Answer {
    exchange(
        gateway.address().expect("TCP"),
        request("GET", target, &[("Authorization", key)], ""),
    )
    .await
}

pub async fn admin(gateway: &Gateway, method: &str, path: &str) -> Answer {
    rig::admin(gateway.admin_address(), method, path, "").await
}

fn is_unavailable(answer: &Answer) -> u64 {
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "token_unavailable"),
        "{answer:?}"
    );
    let seconds = answer.header("retry-after").expect("a time");
    seconds.parse().expect("whole seconds")
}

#[tokio::test]
async fn a_refused_token_is_left_alone_until_it_changes() {
    let rig = Three::new().await;
    rig.devrev.says("value-of-one", "401 Unauthorized");
    assert_eq!(is_unavailable(&rig.call("one").await), 5);
    let sent = ["/works.list", "/auth-tokens.info"];
    let sent = sent.map(|target| ("value-of-one".to_owned(), target.to_owned()));
    assert_eq!(rig.devrev.taken(), sent, "the call and its confirmation");
    for _ in 0..20 {
        assert!((1..=5).contains(&is_unavailable(&rig.call("one").await)));
    }
    assert!(rig.devrev.taken().is_empty(), "DevRev is not asked");
    assert_eq!(rig.call("two").await.status, 200, "nor is its group held");

    let status = rig.admin("GET", "/status").await.json();
    assert_eq!(status["tokens"]["one"]["refused"], true, "{status}");
    assert_eq!(status["tokens"]["two"]["refused"], false);
    let asked = "/explain?request=GET%20/works.list&caller=one";
    let explained = rig.admin("GET", asked).await.json();
    let last = explained["steps"].as_array().and_then(|steps| steps.last());
    assert_eq!(last.expect("steps")["layer"], "gate", "{explained}");
    let ready = rig.admin("GET", "/readyz").await;
    assert_eq!(ready.status, 200);
    let warnings = ready.json()["warnings"].take();
    let warning = warnings[0].as_str().expect("a warning");
    assert!(
        warning.starts_with("token one is refused by DevRev, next probe in "),
        "{warning}"
    );
    let metrics = rig.admin("GET", "/metrics").await.text();
    assert!(metrics.contains("revgate_token_refused{token=\"one\"} 1\n"));

    // A change of another token does not affect this one.
    rig.write("two", "value-of-two-new");
    assert_eq!(
        rig.admin("POST", "/reload").await.json()["result"],
        "applied"
    );
    is_unavailable(&rig.call("one").await);
    rig.devrev.taken();
    rig.write("one", "value-of-one-new");
    assert_eq!(
        rig.admin("POST", "/reload").await.json()["result"],
        "applied"
    );
    assert_eq!(rig.call("one").await.status, 200);
    let seen = rig.devrev.taken();
    assert_eq!(seen[0].0, "value-of-one-new", "{seen:?}");
    let status = rig.admin("GET", "/status").await.json();
    assert_eq!(status["tokens"]["one"]["refused"], false);
}

#[tokio::test]
async fn a_probe_brings_a_token_back_by_itself() {
    let rig = Three::new().await;
    rig.devrev.says("value-of-one", "401 Unauthorized");
    let wait = is_unavailable(&rig.call("one").await);
    rig.devrev.says("value-of-one", "200 OK");
    rig.devrev.taken();
    let start = Instant::now();
    sleep(Duration::from_secs(wait)).await;
    assert_eq!(rig.call("one").await.status, 200, "the time was true");
    assert!(start.elapsed() < PATIENCE);
    assert_eq!(rig.call("one").await.status, 200);
    let seen: Vec<_> = rig.devrev.taken().into_iter().map(|call| call.1).collect();
    assert_eq!(seen, ["/auth-tokens.info", "/works.list", "/works.list"]);
}

#[tokio::test]
async fn the_same_value_written_anew_is_tried_at_once() {
    let rig = Three::new().await;
    rig.devrev.says("value-of-one", "401 Unauthorized");
    is_unavailable(&rig.call("one").await);
    rig.devrev.says("value-of-one", "200 OK");
    // The value is the same, so nothing else of the configuration changes.
    rig.write("one", "value-of-one");
    assert_eq!(
        rig.admin("POST", "/reload").await.json()["result"],
        "unchanged"
    );
    assert_eq!(rig.call("one").await.status, 200);
}

#[tokio::test]
async fn not_ready_when_no_token_is_left_and_the_reason_names_them() {
    let rig = Three::new().await;
    for name in NAMES {
        rig.devrev
            .says(&format!("value-of-{name}"), "401 Unauthorized");
        is_unavailable(&rig.call(name).await);
    }
    let answer = rig.admin("GET", "/readyz").await;
    let text = answer.json()["reasons"].to_string();
    assert_eq!(answer.status, 503, "{text}");
    for name in NAMES {
        assert!(text.contains(&format!("token {name} is refused")), "{text}");
    }
    assert!(!text.contains("value-of"), "{text}");
    // Without traffic there is no probe, so the gateway is ready again as soon as one may go.
    sleep(Duration::from_secs(5)).await;
    assert_eq!(rig.admin("GET", "/readyz").await.status, 200);
    for name in NAMES {
        assert_eq!(is_unavailable(&rig.call(name).await), 10);
    }
    assert_eq!(rig.admin("GET", "/readyz").await.status, 503);
    rig.write("two", "value-of-two-new");
    rig.admin("POST", "/reload").await;
    assert_eq!(rig.admin("GET", "/readyz").await.status, 200);
}

#[tokio::test]
async fn tokens_of_one_user_share_a_pause_and_another_user_does_not() {
    let rig = Three::new().await;
    let head = "429 Too Many Requests\r\nRetry-After: 30";
    rig.devrev.says("value-of-one", head);
    let answer = rig.call("one").await;
    assert_eq!(answer.status, 429);
    rig.devrev.taken();
    assert_eq!(rig.call("two").await.code(), "quota_exhausted");
    assert_eq!(rig.call("third").await.status, 200);
    let seen = rig.devrev.taken();
    assert_eq!(
        seen,
        [("value-of-third".to_owned(), "/works.list".to_owned())]
    );
    let quota = rig.admin("GET", "/quota").await.json();
    assert_eq!(quota["b"]["state"], "open", "{quota}");
    assert_ne!(quota["a"]["state"], "open", "{quota}");
}

#[tokio::test]
async fn in_mode_validate_a_401_is_the_callers_own() {
    let devrev = DevRev::default();
    let text = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[upstream]\nurl = \"http://{}\"\n\
         [auth]\nmode = \"validate\"\nintrospect = false\n",
        devrev.start().await
    );
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = from_file(folder.path(), &text);
    let own = "e30.e30.c2ln";
    devrev.says(own, "401 Unauthorized\r\nX-From: devrev");
    for _ in 0..3 {
        let answer = get(&gateway, "/works.list", own).await;
        assert_eq!(
            (answer.status, answer.header("x-from")),
            (401, Some("devrev"))
        );
    }
    assert_eq!(devrev.taken().len(), 3);
}

#[tokio::test]
async fn what_mints_or_revokes_tokens_is_denied_in_every_spelling() {
    let rig = Rig::new("").await;
    for target in [
        "/auth-tokens.create",
        "/auth-tokens.update",
        "/auth-tokens.delete",
        "/auth-tokens.self.delete",
        "/AUTH-TOKENS.CREATE",
        "/%61uth-tokens.create",
        "/%2561uth-tokens.create",
        "//auth-tokens.create",
        "/auth-tokens.create/",
        "/auth-tokens.create;v=1",
        "/auth-tokens.create%3Bv=1",
        "/auth-tokens.create?x=1",
        "/auth-tokens.create%3Fx",
        "/auth-tokens%2Ecreate",
        "/internal/auth-tokens.create",
        "/auth-tokens.create/x",
        "/internal%2Fauth-tokens.create",
        "http://api.devrev.ai/auth-tokens.create",
    ] {
        for method in ["POST", "GET"] {
            let answer = rig.call(method, target, "").await;
            assert_eq!(answer.status, 403, "{method} {target}: {answer:?}");
        }
    }
    for refused in ["/x/../auth-tokens.create", "/%2e%2e/auth-tokens.create"] {
        let answer = rig.call("POST", refused, "").await;
        assert_eq!(answer.code(), "bad_request", "{refused}");
    }
    assert!(rig.devrev.received().is_empty());
    // Operations that only read pass.
    let answer = rig.call("GET", "/auth-tokens.list", "").await;
    assert_ne!(answer.status, 403);
}

#[tokio::test]
async fn a_redirect_is_passed_back_and_nothing_goes_there() {
    let trap = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let there = trap.local_addr().expect("bound");
    let devrev = DevRev::default();
    let gateway = rig::gateway(&devrev.start().await.to_string(), "");
    for status in [
        "301 Moved",
        "302 Found",
        "303 See Other",
        "307 Temporary",
        "308 Permanent",
    ] {
        let head = format!("{status}\r\nLocation: http://{there}/works.list");
        devrev.says(TOKEN, &head);
        let answer = get(&gateway, "/works.list", KEY).await;
        assert_eq!(answer.status.to_string(), status[..3]);
        let location = answer.header("location").expect("passed back");
        assert_eq!(location, format!("http://{there}/works.list"));
    }
    assert_eq!(devrev.taken().len(), 5);
    let visit = timeout(Duration::from_millis(200), trap.accept()).await;
    assert!(visit.is_err(), "nobody came");
}

#[tokio::test]
async fn the_callback_and_another_host_get_no_token() {
    let rig = Rig::new("").await;
    for target in [
        "/keyrings.authorize?code=1",
        "/KEYRINGS.authorize/",
        "/keyrings%2Eauthorize",
    ] {
        rig.call("GET", target, "").await;
        assert_eq!(header(&rig.last(), "authorization"), None, "{target}");
    }
    // A request that names another host is sent to the configured one.
    let trap = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let there = trap.local_addr().expect("bound");
    let target = format!("http://{there}/works.list");
    let answer = rig
        .send(format!(
            "GET {target} HTTP/1.1\r\nHost: {there}\r\nAuthorization: {KEY}\r\n\r\n"
        ))
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        header(&rig.last(), "host"),
        Some(rig.devrev.addr().to_string().as_str())
    );
    let visit = timeout(Duration::from_millis(100), trap.accept()).await;
    assert!(visit.is_err(), "nobody came");
}

/// A port that nothing listens on.
async fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    listener.local_addr().expect("bound").port()
}

#[tokio::test]
async fn no_attempt_arrives_at_the_gateways_own_listeners() {
    let text = |listen: u16, admin: u16, url: &str| {
        format!(
            "[listen]\naddress = \"127.0.0.1:{listen}\"\n[admin]\naddress = \"127.0.0.1:{admin}\"\n[upstream]\nurl = \"{url}\"\n\
             [retry]\nmax_attempts = 1\n[tokens.main]\nenv = \"T\"\n[callers.billing]\nkey_sha256 = \"{}\"\n",
            hash(KEY)
        )
    };
    let env = [("T".to_owned(), TOKEN.to_owned())].into();
    // What the file shows is an error before anything starts.
    for (url, key) in [
        ("http://127.0.0.1:4711", "listen.address"),
        ("http://localhost:4711", "listen.address"),
        ("http://LOCALHOST.:4711", "listen.address"),
        ("https://[::ffff:127.0.0.1]:4711", "listen.address"),
        ("http://0.0.0.0:4712", "admin.address"),
    ] {
        let problems = config::from_toml(&text(4711, 4712, url), &env).unwrap_err();
        let problem = &problems.0[0];
        assert_eq!(
            (problems.0.len(), problem.path.as_str()),
            (1, "upstream.url")
        );
        assert!(problem.message.contains(key), "{problems}");
    }
    // What only a name look-up shows is an error on connect: `127.1` is such a name.
    for to_admin in [false, true] {
        let (port, other) = (free_port().await, free_port().await);
        let url = format!("http://127.1:{}", if to_admin { other } else { port });
        let config = config::from_toml(&text(port, other, &url), &env).expect("no literal");
        let gateway = Gateway::start(config, None).expect("starts");
        let answer = get(&gateway, "/works.list", KEY).await;
        assert_eq!(answer.code(), "upstream_unreachable", "{answer:?}");
        let metrics = admin(&gateway, "GET", "/metrics").await.text();
        let lines = metrics
            .lines()
            .filter(|line| line.starts_with("revgate_requests_total{"));
        assert_eq!(lines.count(), 1, "it did not come back in: {metrics}");
    }
}

#[tokio::test]
async fn a_request_that_runs_in_a_circle_is_refused() {
    let rig = Rig::new("").await;
    let send = |via: &'static str| {
        let headers = [("Authorization", KEY), ("Via", via)];
        rig.send(request("GET", "/works.list", &headers, ""))
    };
    let answer = send("1.1 proxy, 1.1 revgate").await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (400, "bad_request")
    );
    assert_eq!(send("1.1 proxy").await.status, 200);
    assert_eq!(rig.devrev.received().len(), 1);
}
