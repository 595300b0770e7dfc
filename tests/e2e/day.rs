//! The transcript of a day, `deploy/A-DAY.md`: a gateway as a process of its own, in front of the simulator, has a bad day, and the document
//! shows what its log says; `fleet` has the one of a replica that shares its quota. `REVGATE_BLESS=1` writes the log's lines into the document.

mod fleet;

use std::{
    fmt::Write,
    net::SocketAddr,
    ops::Range,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use revgate::simulator::{FaultPlan, Simulator};
use serde_json::{Map, Value};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::{
    http::{Answer, exchange, get},
    process::Process,
    rig::{self, KEY, OTHER_KEY, hash, plan, status},
};

const DOCUMENT: &str = "deploy/A-DAY.md";
/// Where the document's second day begins.
const FLEET: &str = "# A fleet's day in the log\n";
const PATIENCE: Duration = Duration::from_secs(60);

/// The way to DevRev, which can be interrupted.
struct Road {
    address: SocketAddr,
    open: Arc<watch::Sender<bool>>,
    travellers: watch::Receiver<usize>,
}

impl Road {
    async fn to(devrev: SocketAddr) -> Road {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (open, is_open) = watch::channel(true);
        let (counting, travellers) = watch::channel(0);
        let counting = Arc::new(counting);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (is_open, counting) = (is_open.clone(), counting.clone());
                if !*is_open.borrow() {
                    tokio::spawn(leave(stream));
                    continue;
                }
                counting.send_modify(|count| *count += 1);
                tokio::spawn(async move {
                    travel(stream, devrev, is_open).await;
                    counting.send_modify(|count| *count -= 1);
                });
            }
        });
        Road {
            address,
            open: Arc::new(open),
            travellers,
        }
    }

    /// Returns when the gateway has closed its connections.
    async fn close(&mut self) {
        self.open.send_replace(false);
        let gone = self.travellers.wait_for(|count| *count == 0);
        let gone = tokio::time::timeout(PATIENCE, gone).await;
        gone.expect("the gateway notices")
            .expect("the road is there");
    }

    fn open(&self) {
        self.open.send_replace(true);
    }
}

/// Carries bytes both ways until the road is closed, and then waits until the gateway has left.
async fn travel(mut gateway: TcpStream, devrev: SocketAddr, mut is_open: watch::Receiver<bool>) {
    let mut devrev = TcpStream::connect(devrev).await.expect("DevRev is there");
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut gateway, &mut devrev) => return,
        _ = is_open.wait_for(|open| !open) => {}
    }
    leave(gateway).await;
}

/// Ends a connection in an orderly way, so that the gateway sees the same each time.
async fn leave(mut gateway: TcpStream) {
    let _ = gateway.shutdown().await;
    let mut rest = Vec::new();
    let _ = gateway.read_to_end(&mut rest).await;
}

struct Day {
    folder: tempfile::TempDir,
    devrev: Simulator,
    road: Road,
    process: Process,
    proxy: SocketAddr,
    admin: SocketAddr,
    /// How much of the log earlier passages have.
    told: usize,
    passages: Vec<(&'static str, Vec<String>)>,
}

impl Day {
    async fn begin() -> Day {
        let folder = tempfile::tempdir().expect("a folder");
        Day::begin_in(folder, "").await
    }

    /// With more in the file, which may name files in this folder.
    async fn begin_in(folder: tempfile::TempDir, more: &str) -> Day {
        let devrev = rig::simulator().await;
        let road = Road::to(devrev.addr()).await;
        write(&folder.path().join("token"), "the-first-token");
        write(
            &folder.path().join("revgate.toml"),
            &file(folder.path(), road.address, more),
        );
        let path = folder.path().join("revgate.toml");
        let path = path.to_str().expect("text");
        let mut process = Process::start(&["run", "-c", path], "info");
        let admin = process.bound("admin");
        let proxy = process.bound("proxy");
        let mut day = Day {
            folder,
            devrev,
            road,
            process,
            proxy,
            admin,
            told: 0,
            passages: Vec::new(),
        };
        day.until("started");
        day
    }

    /// Reads the log up to the next line with this event.
    fn until(&mut self, event: &str) -> Value {
        self.process.line(|line| line["event"] == event)
    }

    /// Reads the log up to the next access line.
    fn until_request(&mut self) -> Value {
        self.process.line(|line| line["message"] == "request")
    }

    /// What has been read of the log since the last passage is told under this heading.
    fn passage(&mut self, heading: &'static str) {
        let seen = self.process.seen[self.told..].to_owned();
        self.told = self.process.seen.len();
        let mut lines: Vec<String> = Vec::new();
        for line in seen.lines() {
            let line: Value = serde_json::from_str(line).expect("JSON");
            let Some(shown) = self.shown(&line) else {
                continue;
            };
            if lines.last() != Some(&shown) {
                lines.push(shown);
            }
        }
        self.passages.push((heading, lines));
    }

    /// A line as the document shows it: without what differs each time.
    fn shown(&self, line: &Value) -> Option<String> {
        let message = line["message"].as_str().expect("a message");
        let event = line["event"].as_str().unwrap_or_default();
        // Whether these come depends on the machine, or on how fast it is.
        if line["level"] == "DEBUG"
            || message.contains("still")
            || ["core_files_possible", "descriptors_not_raised"].contains(&event)
        {
            return None;
        }
        let mut text = format!(
            "{:5} {}",
            line["level"].as_str().expect("a level"),
            without_times(&self.placed(message))
        );
        for (name, value) in line.as_object().expect("an object") {
            let value = match (name.as_str(), value) {
                ("timestamp" | "level" | "message" | "target" | "peer" | "trace_id", _) => continue,
                // Of an access line, what an operator looks at first.
                (
                    "bytes_in" | "bytes_out" | "method" | "source" | "complete" | "would_refuse",
                    _,
                ) => {
                    continue;
                }
                ("wait_ms" | "upstream_ms" | "duration_ms" | "in_flight", _) => continue,
                (
                    "request_id" | "after_seconds" | "since_seconds" | "until" | "refused_seconds",
                    _,
                ) => "…".to_owned(),
                ("version", _) => "…".to_owned(),
                (_, Value::String(text)) if text.is_empty() => continue,
                (_, Value::String(text)) => self.placed(text),
                (_, value) => value.to_string(),
            };
            let quote = if value.contains(' ') { "\"" } else { "" };
            let _ = write!(text, " {name}={quote}{value}{quote}");
        }
        Some(text)
    }

    /// With the places of a real installation.
    fn placed(&self, text: &str) -> String {
        let folder = self.folder.path().display().to_string();
        [
            (folder.as_str(), "/etc/revgate"),
            (&self.proxy.to_string(), "127.0.0.1:8080"),
            (&self.admin.to_string(), "127.0.0.1:9901"),
            (
                &format!("http://{}", self.road.address),
                "https://api.devrev.ai",
            ),
            (env!("CARGO_PKG_VERSION"), "…"),
        ]
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    }

    async fn call(&self, key: &str) -> Answer {
        let call = exchange(self.proxy, get("/works.list", key));
        tokio::time::timeout(PATIENCE, call)
            .await
            .expect("an answer")
    }

    fn write(&self, more: &str) {
        let text = file(self.folder.path(), self.road.address, more);
        write(&self.folder.path().join("revgate.toml"), &text);
    }

    /// Waits until the circuit lets a probe pass.
    async fn half_open(&self) {
        let start = Instant::now();
        loop {
            let status = rig::admin(self.admin, "GET", "/status", "").await.json();
            match status["upstream"]["circuit"]["state"].as_str() {
                Some("half_open") => return,
                state => assert!(start.elapsed() < PATIENCE, "{state:?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn file(folder: &Path, devrev: SocketAddr, more: &str) -> String {
    format!(
        "[listen]\naddress = \"127.0.0.1:0\"\nmax_connections = 64\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [upstream]\nurl = \"http://{devrev}\"\nhttp2 = \"always\"\nmax_connections = 8\n\
         circuit = {{ failures = 3, within = \"60s\", open = \"3s\" }}\n\
         [retry]\nbackoff = {{ min = \"10ms\", max = \"100ms\" }}\n\
         [log]\nformat = \"json\"\n\
         [tokens.main]\nfile = \"{}\"\n\
         [callers.billing]\nkey_sha256 = \"{}\"\nmax_wait = \"30s\"\n\
         [callers.reports]\nkey_sha256 = \"{}\"\nrate = \"1/h\"\nburst = 2\n{more}",
        folder.join("token").display(),
        hash(KEY),
        hash(OTHER_KEY),
    )
}

/// Moves the text into the file's place, so that it is never half written.
fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).expect("written");
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).expect("set");
    std::fs::rename(new, path).expect("renamed");
}

/// Replaces the durations that were measured.
fn without_times(message: &str) -> String {
    let mut text = message.to_owned();
    for before in ["after ", "the first ", "refused for "] {
        let Some(at) = text.find(before).map(|at| at + before.len()) else {
            continue;
        };
        let words = text[at..].split(' ').collect::<Vec<_>>();
        let mut length = 0;
        for pair in words.chunks(2) {
            let unit = pair
                .last()
                .map_or("", |unit| unit.trim_end_matches([',', ';']));
            let number = pair[0].parse::<f64>().is_ok();
            if pair.len() < 2 || !number || !["ms", "s", "min", "h", "d"].contains(&unit) {
                break;
            }
            length += pair[0].len() + 1 + unit.len() + usize::from(length > 0);
            if pair[1] != unit {
                break;
            }
        }
        if length > 0 {
            text.replace_range(at..at + length, "…");
        }
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_log_of_a_day_is_that_of_the_document() {
    let mut day = Day::begin().await;
    day.passage("The start");

    assert_eq!(day.call(KEY).await.status, 200);
    assert_eq!(day.call("no-key-of-ours").await.status, 401);
    day.until_request();
    day.passage("First traffic");

    for number in 0..25 {
        let want = if number < 2 { 200 } else { 429 };
        assert_eq!(day.call(OTHER_KEY).await.status, want, "{number}");
    }
    let mut left_out = 0;
    while left_out < 3 {
        left_out += day.until("more_lines")["lines"].as_u64().expect("a number");
    }
    assert_eq!(left_out, 3);
    // On a slow machine they may be in two summaries.
    let one = Map::from_iter([("lines".to_owned(), Value::from(3))]);
    let mut seen = String::new();
    for line in day.process.seen[day.told..].lines() {
        let mut line: Value = serde_json::from_str(line).expect("JSON");
        if line["event"] == "more_lines" {
            line["message"] = "more refused requests of a caller: 3, the first 1 s ago".into();
            line.as_object_mut().expect("an object").extend(one.clone());
        }
        seen += &format!("{line}\n");
    }
    day.process.seen.replace_range(day.told.., &seen);
    day.passage("A caller in a loop");

    day.devrev
        .set_plan(plan("works.list", status(429, Some(1)), 2));
    assert_eq!(day.call(KEY).await.status, 200);
    day.until("quota_resumed");
    day.passage("DevRev throttles");

    day.road.close().await;
    assert_eq!(day.call(KEY).await.status, 503);
    day.until_request();
    day.passage("An outage");
    day.road.open();
    day.half_open().await;
    assert_eq!(day.call(KEY).await.status, 200);
    day.until("circuit_closed");
    day.passage("DevRev is back");

    day.devrev.set_plan(FaultPlan::none());
    day.devrev.revoke("the-first-token");
    assert_eq!(day.call(KEY).await.status, 503);
    day.until_request();
    day.passage("The token is revoked");
    write(&day.folder.path().join("token"), "the-second-token");
    day.until("config_reloaded");
    assert_eq!(day.call(KEY).await.status, 200);
    day.passage("A new token");

    day.write("weigth = 3\n");
    day.until("config_refused");
    day.passage("A mistake in the file");
    let key = hash("key-of-search-0003");
    day.write(&format!(
        "weight = 3\n[callers.search]\nkey_sha256 = \"{key}\"\n"
    ));
    day.until("config_accepted_again");
    day.passage("The file is mended");

    for level in ["warn", "info"] {
        let body = format!("{{\"level\":\"{level}\"}}");
        let answer = rig::admin(day.admin, "POST", "/log-level", &body).await;
        assert_eq!(answer.status, 200);
        day.until("log_level_changed");
    }
    day.passage("A quiet hour");

    day.process.terminate();
    day.until("drained");
    day.passage("The end of the day");
    let (code, _) = day.process.end();
    assert_eq!(code, Some(0));

    compare(&day.passages, |document| {
        0..document.find(FLEET).expect("a second day")
    });
}

/// Compares each passage with the block below its heading in this part of the document, or writes it there.
fn compare(passages: &[(&str, Vec<String>)], part: impl Fn(&str) -> Range<usize>) {
    // Both days may end at the same time.
    static WRITING: Mutex<()> = Mutex::new(());
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT);
    let whole = std::fs::read_to_string(&path).expect("the document is there");
    let part = part(&whole);
    let mut document = whole[part.clone()].to_owned();
    let headings = document.lines().filter(|line| line.starts_with("## "));
    let headings: Vec<_> = headings.map(|line| line[3..].to_owned()).collect();
    let told: Vec<_> = passages.iter().map(|(heading, _)| *heading).collect();
    assert_eq!(headings, told, "the passages of {DOCUMENT}");
    let bless = std::env::var_os("REVGATE_BLESS").is_some();
    for (heading, lines) in passages {
        const OPEN: &str = "```text\n";
        let at = document
            .find(&format!("## {heading}\n"))
            .expect("a heading");
        let start = at + document[at..].find(OPEN).expect("a block") + OPEN.len();
        let end = start + document[start..].find("```").expect("the block's end");
        let shown: String = lines.iter().map(|line| format!("{line}\n")).collect();
        if bless {
            document.replace_range(start..end, &shown);
        } else {
            assert_eq!(
                document[start..end],
                shown,
                "{DOCUMENT}: {heading}; write it anew with REVGATE_BLESS=1"
            );
        }
    }
    if bless {
        let (before, after) = (&whole[..part.start], &whole[part.end..]);
        std::fs::write(path, [before, &document, after].concat()).expect("written");
    }
}

#[test]
fn measured_times_are_left_out() {
    for (message, want) in [
        ("again, after 4 min 12 s; it", "again, after …; it"),
        (
            "closed for all calls, after 250 ms",
            "closed for all calls, after …",
        ),
        (
            "which DevRev refused for 1.2 s, has",
            "which DevRev refused for …, has",
        ),
        ("caller: 3, the first 1 s ago", "caller: 3, the first … ago"),
        (
            "again, after 1 s; failures: 3",
            "again, after …; failures: 3",
        ),
        ("is paused for 1 s", "is paused for 1 s"),
        ("after a pause", "after a pause"),
    ] {
        assert_eq!(without_times(message), want);
    }
}
