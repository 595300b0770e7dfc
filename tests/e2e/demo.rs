//! `revgate demo` as a person has it: a process, what it prints, and a page with something to show.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::{http::exchange, rig};

struct Demo {
    child: Child,
    said: String,
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Demo {
    fn start(arguments: &[&str]) -> Demo {
        let mut child = Command::new(env!("CARGO_BIN_EXE_revgate"))
            .arg("demo")
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let stdout = child.stdout.take().expect("piped");
        let said = announced(BufReader::new(stdout));
        Demo { child, said }
    }

    /// The address behind this word at the beginning of a line.
    fn address(&self, word: &str) -> SocketAddr {
        let line = self.said.lines().find_map(|line| line.strip_prefix(word));
        let line = line.unwrap_or_else(|| panic!("no {word}: {}", self.said));
        let address = line
            .trim()
            .trim_start_matches("http://")
            .trim_end_matches('/');
        address.parse().expect("an address")
    }

    async fn admin(&self, path: &str) -> Value {
        rig::admin(self.address("status page"), "GET", path, "")
            .await
            .json()
    }

    fn terminate(&mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        let kill = Command::new("kill").arg(pid).status();
        assert!(kill.expect("kill runs").success());
        self.child.wait().expect("ends").code()
    }
}

/// What it prints until it serves.
fn announced(mut stdout: BufReader<ChildStdout>) -> String {
    let mut said = String::new();
    while !said.contains("Ctrl-C") {
        assert!(
            stdout.read_line(&mut said).expect("reads") > 0,
            "ended: {said}"
        );
    }
    // The rest of the pipe stays open, so that a further line would not break the program.
    std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
    said
}

/// A curl line, as the bytes of its request.
fn curl(line: &str) -> (SocketAddr, Vec<u8>) {
    let mut quoted = line.split('\'').skip(1).step_by(2).collect::<Vec<_>>();
    let method = match line.split_once("-X ") {
        Some((_, rest)) => rest.split_whitespace().next().expect("a method"),
        None => "POST",
    };
    let url = line
        .split_whitespace()
        .find(|word| word.starts_with("http://"))
        .expect("a URL");
    let (address, path) = url
        .trim_start_matches("http://")
        .split_once('/')
        .expect("a path");
    let body = quoted.pop().unwrap_or_default();
    let mut bytes = format!(
        "{method} /{path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n",
        body.len()
    );
    for field in quoted {
        bytes += &format!("{field}\r\n");
    }
    (
        address.parse().expect("an address"),
        (bytes + "\r\n" + body).into(),
    )
}

#[tokio::test]
async fn its_curl_lines_work_and_sigterm_ends_it_with_zero() {
    let mut demo = Demo::start(&["--load", "off"]);
    let lines: Vec<String> = demo
        .said
        .lines()
        .map(|line| line.trim().to_owned())
        .collect();
    let lines: Vec<&str> = lines
        .iter()
        .map(String::as_str)
        .filter(|line| line.starts_with("curl -i"))
        .collect();
    assert_eq!(lines.len(), 4, "{}", demo.said);
    for line in &lines {
        let (address, bytes) = curl(line);
        assert_eq!(address, demo.address("revgate"));
        let answer = exchange(address, bytes).await;
        assert_eq!(answer.status, 200, "{line}: {}", answer.text());
    }
    let devrev = demo.address("simulator");
    let asked = "GET /_requests?contains=REV-AbCdEfGh HTTP/1.1\r\nHost: d\r\n\r\n";
    let received = exchange(devrev, asked).await.json();
    assert_eq!(received.as_array().map(Vec::len), Some(1), "{received}");
    assert_eq!(
        received[0]["body"],
        r#"{"id":"REVU-131","rev_org":"REV-AbCdEfGh"}"#
    );
    let callers = demo.admin("/callers").await;
    let requests = |name: &str| callers[name]["requests"].as_u64();
    assert_eq!(
        [requests("billing"), requests("support"), requests("sync")],
        [Some(2), Some(1), Some(1)]
    );
    assert_eq!(demo.terminate(), Some(0));
}

/// The gateways of a fleet, as its text names them: for callers and for operators.
fn gateways(said: &str) -> Vec<(SocketAddr, SocketAddr)> {
    let rows = said.lines().filter(|line| line.starts_with("revgate "));
    let rows = rows.map(|row| {
        let mut urls = row.split_whitespace().skip(2).map(|url| {
            let address = url.trim_start_matches("http://").trim_end_matches('/');
            address.parse().expect("an address")
        });
        let mut next = || urls.next().expect("two URLs");
        (next(), next())
    });
    rows.collect()
}

/// What a gateway of a fleet says of the group.
async fn quota(admin: SocketAddr) -> Value {
    rig::admin(admin, "GET", "/quota", "").await.json()["main"].take()
}

/// Waits until all of them say this of the group.
async fn all_say(gateways: &[(SocketAddr, SocketAddr)], what: impl Fn(&Value) -> bool) {
    for (_, admin) in gateways {
        let said = async {
            while !what(&quota(*admin).await) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(60), said).await;
        assert!(in_time.is_ok(), "{}", quota(*admin).await);
    }
}

#[tokio::test]
async fn its_replicas_have_one_quota_and_one_pause() {
    const ROUNDS: usize = 8;
    let mut demo = Demo::start(&["--replicas", "3", "--load", "off"]);
    let gateways = gateways(&demo.said);
    assert_eq!(gateways.len(), 3, "{}", demo.said);
    let lines = demo.said.lines().map(str::trim);
    let lines = lines.filter(|line| line.starts_with("curl"));
    let lines: Vec<String> = lines.map(str::to_owned).collect();
    let line = |part: &str| {
        let line = lines.iter().find(|line| line.contains(part));
        line.unwrap_or_else(|| panic!("no {part}: {}", demo.said))
    };

    // Each caller's line goes to another gateway.
    let calls = ["works.get", "rev-users.get", "accounts.list"].map(|part| curl(line(part)));
    let proxies = gateways.iter().map(|(proxy, _)| *proxy);
    let lines = calls.clone().into_iter().zip(proxies.clone());
    let lines = lines.map(|((address, bytes), proxy)| {
        assert_eq!(address, proxy);
        (address, bytes)
    });
    // Then one caller calls all of them in turn.
    let everywhere = proxies.clone().map(|proxy| (proxy, calls[0].1.clone()));
    let everywhere = (0..ROUNDS).flat_map(|_| everywhere.clone());
    let mut left = 0;
    for (address, bytes) in lines.chain(everywhere) {
        let answer = exchange(address, bytes).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let told = answer.header("x-ratelimit-remaining").expect("is told");
        left = told.parse().expect("a number");
    }
    let devrev = demo.address("simulator");
    let requests = "GET /_requests HTTP/1.1\r\nHost: d\r\n\r\n";
    let received = exchange(devrev, requests).await.json();
    assert_eq!(received.as_array().map(Vec::len), Some(3 + 3 * ROUNDS));
    // More, if the window has ended meanwhile.
    assert!(left >= 600 - (3 + 3 * ROUNDS), "{left}");
    all_say(&gateways, |main| main["fleet"]["replicas"] == 3).await;
    for (_, admin) in &gateways {
        let main = quota(*admin).await;
        // None takes the others for strangers.
        assert_eq!(main["external"], 0, "{main}");
        let shared = rig::admin(*admin, "GET", "/status", "").await.json()["shared"].take();
        assert_eq!(
            (&shared["register"], &shared["state"]),
            (&"memory".into(), &"up".into())
        );
        let config = rig::admin(*admin, "GET", "/config", "").await.json();
        assert_eq!(config["shared"]["register"], "memory", "{config}");
    }

    let (address, bytes) = curl(line("-X PUT"));
    assert_eq!(exchange(address, bytes).await.status, 200);
    let (address, bytes) = calls[2].clone();
    // Longer than it may wait.
    assert_eq!(exchange(address, bytes).await.status, 429);
    all_say(&gateways, |main| !main["paused_until"].is_null()).await;
    let (address, bytes) = curl(line("-X POST"));
    assert_eq!(address, gateways[1].1);
    assert_eq!(exchange(address, bytes).await.status, 200);
    all_say(&gateways, |main| main["paused_until"].is_null()).await;
    for proxy in proxies {
        let answer = exchange(proxy, calls[0].1.clone()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(demo.terminate(), Some(0));
}

/// With its load, and the batch job on one gateway alone.
#[tokio::test]
async fn all_replicas_of_its_load_are_used() {
    let mut demo = Demo::start(&["--replicas", "3", "--load", "heavy"]);
    let gateways = gateways(&demo.said);
    all_say(&gateways, |main| {
        main["fleet"]["replicas"] == 3 && main["limit"] == 600
    })
    .await;
    let batch = async {
        let sync = async |admin| {
            let callers = rig::admin(admin, "GET", "/callers", "").await.json();
            callers["sync"]["requests"].as_u64()
        };
        while sync(gateways[2].1).await.is_none_or(|count| count == 0) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(
            (sync(gateways[0].1).await, sync(gateways[1].1).await),
            (Some(0), Some(0))
        );
    };
    let in_time = tokio::time::timeout(Duration::from_secs(60), batch).await;
    assert!(in_time.is_ok(), "{}", quota(gateways[2].1).await);
    assert_eq!(demo.terminate(), Some(0));
}

#[tokio::test]
async fn its_load_shows_every_caller_its_limits_and_deprecated_fields() {
    let mut demo = Demo::start(&["--load", "heavy"]);
    let mut second = Demo::start(&["--load", "off"]);
    // The ports are in use, by the first one or by another process.
    assert!(
        second.said.contains("in use by another process"),
        "{}",
        second.said
    );
    for word in ["revgate", "status page", "simulator"] {
        assert_ne!(demo.address(word), second.address(word));
    }
    assert_eq!(second.terminate(), Some(0));

    let shown = async {
        loop {
            let callers = demo.admin("/callers").await;
            let asked = ["billing", "support", "sync"]
                .iter()
                .all(|name| callers[name]["requests"].as_u64() > Some(0));
            let limited = callers["support"]["refused_by_code"]["caller_rate_limited"].as_u64();
            let deprecated = demo.admin("/deprecations").await;
            let old = deprecated.as_array().is_some_and(|rows| {
                !rows.is_empty() && rows.iter().all(|row| row["caller"] == "support")
            });
            let quota = demo.admin("/quota").await;
            let known = quota["main"]["limit"].as_u64().is_some();
            if asked && limited > Some(0) && old && known {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(60), shown).await;
    assert!(in_time.is_ok(), "{}", demo.admin("/callers").await);
    assert_eq!(demo.terminate(), Some(0));
}

/// Its batch calls may wait a minute, and a drain half of that.
#[tokio::test]
async fn a_drain_waits_for_none_of_its_calls() {
    let mut demo = Demo::start(&["--load", "heavy", "--seed", "2"]);
    let short = async {
        while demo.admin("/quota").await["main"]["waiting"].as_u64() < Some(3) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(120), short).await;
    assert!(in_time.is_ok(), "{}", demo.admin("/quota").await);
    let ended = tokio::task::spawn_blocking(move || demo.terminate());
    let ended = tokio::time::timeout(Duration::from_secs(20), ended).await;
    assert_eq!(ended.expect("soon").expect("ends"), Some(0));
}
