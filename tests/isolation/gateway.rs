//! The program as its users run it, and what it says of itself.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, ChildStderr, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::harness::Log;

pub struct Gateway {
    _file: tempfile::NamedTempFile,
    child: Child,
    pub proxy: SocketAddr,
    admin: SocketAddr,
    /// Bytes of the log that were read.
    logged: Arc<AtomicU64>,
    /// A log that nobody reads.
    _unread: Option<BufReader<ChildStderr>>,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the gateway holds at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub in_flight: u64,
    pub waiting: u64,
    pub connections: u64,
    pub descriptors: u64,
    pub threads: u64,
}

impl Gateway {
    pub fn start(config: &str, log: Log) -> Gateway {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), config).expect("written");
        let mut child = Command::new(env!("CARGO_BIN_EXE_revgate"))
            .args(["run", "-c"])
            .arg(file.path())
            .env("DEVREV_TOKEN", "devrev-token-a")
            .env("OTHER_TOKEN", "devrev-token-b")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
        let (mut proxy, mut admin, mut seen) = (None, None, String::new());
        while proxy.is_none() || admin.is_none() {
            let mut line = String::new();
            let read = stderr.read_line(&mut line).expect("reads");
            assert!(read > 0, "it does not start:\n{config}\n{seen}");
            seen += &line;
            let Ok(line) = serde_json::from_str::<serde_json::Value>(&line) else {
                continue;
            };
            let address = line["address"].as_str().and_then(|text| text.parse().ok());
            match line["listener"].as_str() {
                Some("proxy") => proxy = address,
                Some("admin") => admin = address,
                _ => {}
            }
        }
        let logged = Arc::new(AtomicU64::new(0));
        let unread = match log {
            Log::Unread => Some(stderr),
            Log::Read => {
                let logged = logged.clone();
                std::thread::spawn(move || drain(stderr, &logged));
                None
            }
        };
        Gateway {
            _file: file,
            child,
            proxy: proxy.expect("an address"),
            admin: admin.expect("an address"),
            logged,
            _unread: unread,
        }
    }

    pub fn logged(&self) -> u64 {
        self.logged.load(Ordering::Relaxed)
    }

    pub fn held(&self) -> Held {
        let metrics = self.metrics();
        let held = |name| sum(&metrics, name);
        Held {
            in_flight: held("revgate_in_flight"),
            waiting: held("revgate_quota_waiting"),
            connections: held("revgate_connections"),
            descriptors: held("process_open_fds"),
            threads: held("process_threads"),
        }
    }

    /// The sum of the series whose name and first labels are these.
    pub fn counted(&self, series: &str) -> u64 {
        sum(&self.metrics(), series)
    }

    /// With which codes revgate refused calls of a.
    pub fn refusals(&self) -> String {
        let metrics = self.metrics();
        let of_a = metrics
            .lines()
            .filter_map(|line| line.strip_prefix(r#"revgate_refused_total{caller="a",code=""#));
        let each = of_a.filter_map(|line| line.split_once("\"} "));
        let each = each.map(|(code, count)| format!("{count} × {code}"));
        each.collect::<Vec<_>>().join(", ")
    }

    fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(self.admin).expect("connects");
        let within = Some(Duration::from_secs(10));
        stream.set_read_timeout(within).expect("a timeout");
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("reads");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer
    }

    /// The most memory that the process has had, in MiB.
    pub fn peak(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        let kib: u64 = kib.and_then(|kib| kib.parse().ok()).expect("a number");
        kib / 1024
    }
}

/// The time of a thread so far (proc(5), `schedstat`).
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuTime {
    /// On a core.
    pub ran: Duration,
    /// Ready to run, while others had the cores.
    pub stood: Duration,
}

impl CpuTime {
    /// Of the threads whose names begin like this, in this process or in another one.
    pub fn of(process: &str, name: &str) -> Vec<CpuTime> {
        let tasks = std::fs::read_dir(format!("/proc/{process}/task"));
        let tasks = tasks.expect("a process").flatten();
        let of_task = |task: std::fs::DirEntry| {
            let read = |file| std::fs::read_to_string(task.path().join(file)).ok();
            read("comm").filter(|comm| comm.starts_with(name))?;
            let times = read("schedstat")?;
            let mut times = times.split_whitespace().map(|nanoseconds| {
                let nanoseconds = nanoseconds.parse().unwrap_or_default();
                Duration::from_nanos(nanoseconds)
            });
            let (ran, stood) = (times.next()?, times.next()?);
            Some(CpuTime { ran, stood })
        };
        tasks.filter_map(of_task).collect()
    }

    /// How many times as long everything took that the thread did.
    pub fn stretch(self) -> f64 {
        let ran = self.ran.as_secs_f64().max(0.001);
        (ran + self.stood.as_secs_f64()) / ran
    }
}

impl Gateway {
    /// Of each worker.
    pub fn workers(&self) -> Vec<CpuTime> {
        CpuTime::of(&self.child.id().to_string(), "worker-")
    }
}

fn drain(mut log: impl Read, logged: &AtomicU64) {
    let mut chunk = [0; 64 * 1024];
    while let Ok(read @ 1..) = log.read(&mut chunk) {
        logged.fetch_add(read as u64, Ordering::Relaxed);
    }
}

fn sum(metrics: &str, series: &str) -> u64 {
    let of_series = |line: &&str| {
        let rest = line.strip_prefix(series);
        rest.is_some_and(|rest| rest.starts_with([' ', '{', ',', '}']))
    };
    let values = metrics.lines().filter(of_series);
    let values = values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
    values.sum()
}
