//! A gateway that may open few files.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Command,
};

use revgate::simulator::Simulator;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    http::{Client, TIMEOUT, exchange, get},
    process::Process,
    rig::{self, KEY, OTHER_KEY, TOKEN, header},
};

struct Rig {
    devrev: Simulator,
    folder: tempfile::TempDir,
}

impl Rig {
    async fn new() -> Rig {
        Rig {
            devrev: rig::simulator().await,
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file with so many workers, a token in a file, and what makes all threads run that a gateway may have.
    fn file(&self, workers: usize) -> String {
        std::fs::write(self.path("token"), "token-one").expect("written");
        // Or `check` warns of it.
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(self.path("token"), private).expect("set");
        let text = rig::file(
            &self.devrev.addr().to_string(),
            "[trace]\notlp = \"http://127.0.0.1:1\"\n",
        );
        let listen = "[listen]\naddress = \"127.0.0.1:0\"\n";
        let text = text.replace(listen, &format!("{listen}workers = {workers}\n"));
        let token = format!("file = \"{}\"", self.path("token").display());
        let text = text.replace("env = \"DEVREV_TOKEN\"", &token);
        let text = text.replace(
            "rate = \"1/min\"\nburst = 2",
            "rate = \"1000/s\"\nburst = 1000",
        );
        let file = self.path("revgate.toml");
        std::fs::write(&file, text).expect("written");
        file.to_str().expect("a path").to_owned()
    }
}

fn run(limits: &str, file: &str) -> Process {
    Process::limited(limits, &["run", "-c", file], "info")
}

/// The value of one of the process's metrics.
async fn metric(admin: SocketAddr, name: &str) -> usize {
    let text = rig::admin(admin, "GET", "/metrics", "").await.text();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.unwrap_or_else(|| panic!("no {name}")).trim();
    value.parse().expect("a number")
}

#[tokio::test]
async fn callers_that_take_all_they_can_leave_enough_for_the_rest() {
    for workers in [1, 2] {
        let rig = Rig::new().await;
        let file = rig.file(workers);
        let mut gateway = run("ulimit -n 64", &file);
        let (admin, address) = (gateway.bound("admin"), gateway.bound("proxy"));
        for key in ["listen.max_connections", "upstream.max_connections"] {
            let warning = gateway.line(|line| line["key"] == key);
            assert_eq!(warning["level"], "WARN");
            let message = warning["message"].as_str().expect("text");
            for part in ["the limit is 64", "ulimit -n", "LimitNOFILE"] {
                assert!(message.contains(part), "{message}");
            }
        }
        let silent: Vec<_> = (0..200)
            .map(|_| TcpStream::connect(address).expect("connects"))
            .collect();
        let idle: Vec<_> = (0..40)
            .map(|_| TcpStream::connect(admin).expect("connects"))
            .collect();
        // More calls at once than there are connections to DevRev. While strangers hold all other places, one caller has an eighth less
        // than it could take, so eight would be too many.
        let mut calls = JoinSet::new();
        for _ in 0..5 {
            calls.spawn(exchange(address, get("/dev-users.self", KEY)));
        }
        while let Some(answer) = calls.join_next().await {
            let answer = answer.expect("no panic");
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        let probe = exchange(admin, b"GET /readyz HTTP/1.0\r\n\r\n").await;
        assert_eq!(probe.status, 200, "{}", probe.text());
        // By POST, and by itself.
        let reload = rig::admin(admin, "POST", "/reload", "").await;
        assert_eq!(reload.status, 200, "{}", reload.text());
        let restart = reload.json()["restart_needed"].to_string();
        assert_eq!(restart, "[]", "what was lowered has not changed");
        std::fs::write(rig.path("token"), "token-two").expect("written");
        let begun = Instant::now();
        loop {
            let answer = exchange(address, get("/dev-users.self", OTHER_KEY)).await;
            assert_eq!(answer.status, 200);
            let received = rig.devrev.received();
            let last = received.last().expect("a request");
            if header(last, "authorization") == Some("Bearer token-two") {
                break;
            }
            assert!(begun.elapsed() < TIMEOUT, "the new token is not in use");
        }
        let open = metric(admin, "process_open_fds ").await;
        assert!(open < 64, "{open} are open");
        drop((silent, idle));
        gateway.terminate();
        let (code, log) = gateway.end();
        assert_eq!(code, Some(0), "{log}");
        for fault in ["Too many open files", "cannot accept", "not be accepted"] {
            assert!(!log.contains(fault), "{log}");
        }
    }
}

#[tokio::test]
async fn the_soft_limit_is_raised_to_the_hard_one() {
    let rig = Rig::new().await;
    let file = rig.file(1);
    let mut gateway = run("ulimit -n 4000 && ulimit -Sn 30", &file);
    let admin = gateway.bound("admin");
    assert_eq!(metric(admin, "process_max_fds ").await, 4000);
    gateway.terminate();
    let (code, log) = gateway.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("open files"), "{log}");
}

#[tokio::test]
async fn with_too_few_it_does_not_start_and_says_how_many_it_needs() {
    let rig = Rig::new().await;
    let file = rig.file(2);
    let mut least = None;
    for limit in [10, 16, 32, 51] {
        let (code, log) = run(&format!("ulimit -n {limit}"), &file).end();
        assert_eq!(code, Some(1), "{limit}: {log}");
        assert!(!log.contains("panicked"), "{log}");
        let says = format!("the limit on open files is {limit}, and revgate needs ");
        let (_, rest) = log.split_once(&says).unwrap_or_else(|| panic!("{log}"));
        let number = rest.split(' ').next().expect("a number");
        least = Some(number.parse::<u32>().expect("a number"));
    }
    // And with so many it works.
    let limit = format!("ulimit -n {}", least.expect("known"));
    let mut gateway = run(&limit, &file);
    let (admin, address) = (gateway.bound("admin"), gateway.bound("proxy"));
    for _ in 0..3 {
        let mut client = Client::connect(address).await;
        client.send(get("/dev-users.self", KEY)).await;
        assert_eq!(client.answer().await.expect("an answer").status, 200);
    }
    let reload = rig::admin(admin, "POST", "/reload", "").await;
    assert_eq!(reload.status, 200, "{}", reload.text());
}

#[tokio::test]
async fn what_is_open_at_rest_is_what_is_kept_for_it() {
    use revgate::policy::descriptors::{AT_REST, PER_WORKER};
    let rig = Rig::new().await;
    // Also with sockets that the process is given, and with somebody to report to.
    for (workers, is_managed) in [(1, false), (3, false), (3, true)] {
        let file = rig.file(workers);
        let mut gateway = if is_managed {
            let listen = || TcpListener::bind("127.0.0.1:0").expect("binds").into();
            let arguments = ["run", "-c", &file];
            Process::managed(
                [listen(), listen()],
                "proxy:admin",
                &rig.path("none"),
                &arguments,
            )
        } else {
            run("true", &file)
        };
        let admin = gateway.bound("admin");
        gateway.bound("proxy");
        // The scrape has a connection and reads two files of /proc, and a worker has yet to accept a connection.
        let open = metric(admin, "process_open_fds ").await;
        let expected = AT_REST + workers * PER_WORKER;
        assert!(open <= expected + 3, "{open} are open, not {expected}");
        assert!(
            open + workers + 3 >= expected,
            "{open} are open, not {expected}"
        );
    }
}

#[tokio::test]
async fn check_warns_of_a_limit_that_is_too_low() {
    let rig = Rig::new().await;
    let file = rig.file(1);
    for (limit, says) in [
        (64, "warning: listen.max_connections: is 1024"),
        (64, "warning: upstream.max_connections: is 64"),
        (16, "warning: the limit on open files is 16"),
        (4000, ""),
    ] {
        let script = format!("ulimit -n {limit} && exec \"$@\"");
        let output = Command::new("sh")
            .args(["-c", &script, "sh", env!("CARGO_BIN_EXE_revgate")])
            .args(["check", "-c", &file])
            .env("DEVREV_TOKEN", TOKEN)
            .output()
            .expect("runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.contains(says), "{said}");
        assert_eq!(said.is_empty(), says.is_empty(), "{said}");
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(shown.contains("max_connections = 1024"), "{shown}");
    }
}
