//! The running program: its log, signals and exit status.

use std::{
    io::{BufRead, BufReader, Read},
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::{
    http::{Client, exchange, get, request},
    rig::{self, KEY, OTHER_KEY, TOKEN, hash},
    token::DevRev,
};

const FIRST: &str = "devrev-token-first";
const SECOND: &str = "devrev-token-second";

pub struct Process {
    pub child: Child,
    /// `None` once it is closed.
    stderr: Option<BufReader<std::process::ChildStderr>>,
    pub seen: String,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    pub fn start(arguments: &[&str], level: &str) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_revgate"));
        command.args(arguments);
        Process::spawn(command, level)
    }

    /// Under limits of the shell's, such as `ulimit -n 64`.
    pub fn limited(limits: &str, arguments: &[&str], level: &str) -> Process {
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("{limits} && exec \"$@\""), "sh"])
            .arg(env!("CARGO_BIN_EXE_revgate"))
            .args(arguments);
        Process::spawn(command, level)
    }

    /// As a service manager starts it: with two sockets, by these names, and with the address to which it reports. The shell puts them
    /// where they belong, and the program has its process id.
    pub fn managed(
        [first, second]: [OwnedFd; 2],
        names: &str,
        notify: &Path,
        arguments: &[&str],
    ) -> Process {
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                "exec 3<&0 4<&1 0</dev/null 1>/dev/null; export LISTEN_PID=$$; exec \"$@\"",
                "sh",
            ])
            .arg(env!("CARGO_BIN_EXE_revgate"))
            .args(arguments)
            .env("LISTEN_FDS", "2")
            .env("LISTEN_FDNAMES", names)
            .env("NOTIFY_SOCKET", notify)
            .env("WATCHDOG_USEC", "300000")
            .stdin(first)
            .stdout(second);
        Process::spawn_with(command, "info")
    }

    fn spawn(mut command: Command, level: &str) -> Process {
        command.stdout(Stdio::null());
        Process::spawn_with(command, level)
    }

    fn spawn_with(mut command: Command, level: &str) -> Process {
        let mut child = command
            .env("DEVREV_TOKEN", TOKEN)
            .env("REVGATE__LOG__LEVEL", level)
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        Process {
            child,
            stderr: Some(stderr),
            seen: String::new(),
        }
    }

    fn stderr(&mut self) -> &mut BufReader<std::process::ChildStderr> {
        self.stderr.as_mut().expect("open")
    }

    /// Reads no more of its log.
    pub fn close(&mut self) {
        self.stderr = None;
    }

    /// The next log line for which `meant` is true.
    pub fn line(&mut self, meant: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        loop {
            let mut line = String::new();
            assert!(
                self.stderr().read_line(&mut line).expect("reads") > 0,
                "ended: {}",
                self.seen
            );
            self.seen += &line;
            let value = serde_json::from_str(&line).expect("one JSON object a line");
            if meant(&value) {
                return value;
            }
        }
    }

    /// The bound address in this listener's log line.
    pub fn bound(&mut self, listener: &str) -> std::net::SocketAddr {
        let line =
            self.line(|value| value["message"] == "listening" && value["listener"] == listener);
        assert_eq!(line["level"], "INFO");
        let address = line["address"].as_str().expect("an address");
        address.parse().expect("an address")
    }

    /// The next line with this message.
    pub fn says(&mut self, message: &str) -> serde_json::Value {
        self.line(|value| value["message"] == message)
    }

    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status()
            .expect("kill runs");
        assert!(status.success());
    }

    pub fn end(&mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.stderr().read_to_string(&mut rest).expect("reads");
        let status = self.child.wait().expect("ends");
        (status.code(), format!("{}{rest}", self.seen))
    }
}

#[tokio::test]
async fn at_trace_level_no_secret_is_shown_anywhere_and_sigterm_ends_with_zero() {
    let mut mock = Process::start(&["mock", "--listen", "127.0.0.1:0"], "info");
    let devrev = mock.bound("mock");
    let refusing = DevRev::default();
    let file = tempfile::NamedTempFile::new().expect("a file");
    let token = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(token.path(), FIRST).expect("written");
    for dead in [FIRST, SECOND] {
        refusing.says(dead, "401 Unauthorized");
    }
    let toml = |url: &str| {
        format!(
            "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[upstream]\nurl = \"http://{url}\"\n\
             [tokens.main]\nenv = \"DEVREV_TOKEN\"\n[tokens.second]\nfile = \"{}\"\n\
             [callers.billing]\ntoken = \"main\"\nkey_sha256 = \"{}\"\n\
             [callers.reports]\ntoken = \"second\"\nkey_sha256 = \"{}\"\n[log]\naccess = \"all\"\n",
            token.path().display(),
            hash(KEY),
            hash(OTHER_KEY),
        )
    };
    std::fs::write(file.path(), toml(&devrev.to_string())).expect("written");
    let mut gateway = Process::start(
        &["run", "-c", file.path().to_str().expect("a path")],
        "trace",
    );
    let address = gateway.bound("proxy");
    let body = r#"{"user_don":"body-secret","rev_org_don":"REV-1"}"#;
    for key in [KEY, "a-wrong-key"] {
        let mut client = Client::connect(address).await;
        client
            .send(request(
                "POST",
                "/rev-users.link?query-secret=1",
                &[("Authorization", key)],
                body,
            ))
            .await;
        client.answer().await.expect("an answer");
    }
    gateway.terminate();
    let (code, first) = gateway.end();
    assert_eq!(code, Some(0), "{first}");
    // The same with a simulator that refuses a token, and then its replacement.
    let url = refusing.start().await;
    std::fs::write(file.path(), toml(&url.to_string())).expect("written");
    let path = file.path().to_str().expect("a path");
    let mut gateway = Process::start(&["run", "-c", path], "trace");
    let admin = gateway.bound("admin");
    let address = gateway.bound("proxy");
    let mut seen = String::new();
    for value in [FIRST, SECOND] {
        if value == SECOND {
            std::fs::write(token.path(), value).expect("written");
            gateway.signal("-HUP");
            gateway.says("configuration reloaded");
        }
        let answer = exchange(address, get("/works.list", OTHER_KEY)).await;
        assert_eq!(answer.code(), "token_unavailable");
        gateway.says(
            "DevRev refused the token, and a call of revgate's own confirmed it; callers get token_unavailable until a probe succeeds or \
             the token changes",
        );
        for path in [
            "/config", "/status", "/metrics", "/quota", "/callers", "/readyz", "/",
        ] {
            let answer = rig::admin(admin, "GET", path, "").await;
            seen += &answer.text();
        }
        seen += &answer.text();
    }
    gateway.terminate();
    let (code, second) = gateway.end();
    assert_eq!(code, Some(0), "{second}");
    assert!(seen.contains("\"refused\":true"), "{seen}");
    let log = format!("{first}{second}{seen}");
    assert!(
        log.contains("\"message\":\"request\"") && log.contains("\"message\":\"drained\""),
        "{log}"
    );
    for secret in [
        KEY,
        OTHER_KEY,
        TOKEN,
        FIRST,
        SECOND,
        "a-wrong-key",
        "body-secret",
        "query-secret",
    ] {
        assert!(!log.contains(secret), "the log shows {secret}");
    }
}

#[tokio::test]
async fn the_log_at_trace_level_shows_no_callers_token() {
    let mut mock = Process::start(&["mock", "--listen", "127.0.0.1:0"], "info");
    let devrev = mock.bound("mock");
    let file = tempfile::NamedTempFile::new().expect("a file");
    let toml = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[upstream]\nurl = \"http://{devrev}\"\n\
         [auth]\nmode = \"validate\"\n[log]\naccess = \"all\"\n",
    );
    std::fs::write(file.path(), toml).expect("written");
    let path = file.path().to_str().expect("a path");
    let mut gateway = Process::start(&["run", "-c", path], "trace");
    let address = gateway.bound("proxy");
    // `{}` and `{"refused":true}`.
    let tokens = [
        ("e30.e30.c2ln", 200),
        ("e30.eyJyZWZ1c2VkIjp0cnVlfQ.c2ln", 401),
    ];
    for (token, status) in tokens {
        let mut client = Client::connect(address).await;
        let headers = [("Authorization", token)];
        client
            .send(request("GET", "/works.list", &headers, ""))
            .await;
        assert_eq!(client.answer().await.expect("an answer").status, status);
    }
    gateway.terminate();
    let (code, log) = gateway.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("\"message\":\"request\""), "{log}");
    for (token, _) in tokens {
        assert!(!log.contains(token), "the log shows {token}");
    }
}

#[test]
fn a_bad_file_ends_with_one_and_a_wrong_use_with_two() {
    let (code, log) = Process::start(&["run", "-c", "/nonexistent/revgate.toml"], "info").end();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("/nonexistent/revgate.toml"), "{log}");
    assert_eq!(Process::start(&["walk"], "info").end().0, Some(2));
}

#[test]
fn sighup_reloads_and_a_bad_file_is_in_the_log() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let text = |extra: &str| {
        format!(
            "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[tokens.main]\nenv = \"DEVREV_TOKEN\"\n\
             [callers.billing]\nkey_sha256 = \"{}\"\n{extra}",
            hash(KEY)
        )
    };
    std::fs::write(file.path(), text("")).expect("written");
    let path = file.path().to_str().expect("a path");
    let mut gateway = Process::start(&["run", "-c", path], "info");
    gateway.bound("proxy");
    std::fs::write(file.path(), text("weight = 5\n[drain]\ndelay = \"1ms\"\n")).expect("written");
    gateway.signal("-HUP");
    let said = gateway.says("configuration reloaded");
    assert_eq!(said["changed"], "callers.billing.weight drain.delay");
    std::fs::write(file.path(), text("weight = 0\n")).expect("written");
    gateway.signal("-HUP");
    let said = gateway.says("configuration refused");
    assert_eq!(
        (&said["level"], &said["key"]),
        (&"ERROR".into(), &"callers.billing.weight".into())
    );
    gateway.terminate();
    let (code, log) = gateway.end();
    assert_eq!(code, Some(0), "{log}");
}

/// The process's peak memory in KiB.
pub fn peak(process: &Process) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", process.child.id())).expect("a process");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .expect("a peak");
    line.split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("a number")
}

#[tokio::test]
async fn a_large_answer_to_a_slow_caller_costs_no_memory() {
    let mut mock = Process::start(&["mock", "--listen", "127.0.0.1:0"], "info");
    let devrev = mock.bound("mock");
    let file = tempfile::NamedTempFile::new().expect("a file");
    let toml = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[upstream]\nurl = \"http://{devrev}\"\n\
         [tokens.main]\nenv = \"DEVREV_TOKEN\"\n[callers.billing]\nkey_sha256 = \"{}\"\n",
        hash(KEY),
    );
    std::fs::write(file.path(), toml).expect("written");
    let mut gateway = Process::start(
        &["run", "-c", file.path().to_str().expect("a path")],
        "info",
    );
    let address = gateway.bound("proxy");
    let before = peak(&gateway);
    let mut client = Client::connect(address).await;
    client.send(get("/_blob?bytes=100000000", KEY)).await;
    let (status, _) = client.head().await.expect("a head");
    assert_eq!(status, 200);
    let read = client.discard(100_000_000).await;
    assert_eq!(read, 100_000_000);
    let grown = peak(&gateway) - before;
    assert!(grown < 16 * 1024, "{grown} KiB for an answer of 100 MB");
}

#[test]
fn no_core_file_would_hold_a_token() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let toml = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[tokens.main]\nenv = \"DEVREV_TOKEN\"\n\
         [callers.billing]\nkey_sha256 = \"{}\"\n",
        hash(KEY),
    );
    std::fs::write(file.path(), toml).expect("written");
    let path = file.path().to_str().expect("a path");
    let mut gateway = Process::start(&["run", "-c", path], "info");
    gateway.bound("proxy");
    let limits = format!("/proc/{}/limits", gateway.child.id());
    let limits = std::fs::read_to_string(limits).expect("a process");
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let words: Vec<_> = core.expect("a limit").split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"]);
}
