//! Runs a row: b alone, then b while a misuses something, and then what is left.

use std::{
    fmt::{self, Display, Formatter, Write},
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use revgate::simulator::{self, FaultPlan, Simulator};
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    time::{Instant, sleep, timeout},
};

use crate::{
    client::Protocol,
    gateway::{CpuTime, Gateway, Held},
    misuse::{self, Scene},
    service::{self, Credential, Outcome, Service},
};

/// How long b is alone.
const ALONE: Duration = Duration::from_millis(600);

/// How many calls b makes alone at least.
const CALLS_ALONE: usize = 8;

/// Most of b's time during a misuse, as a multiple of its time alone. Alone is b before the misuse, and a witness during it: calls like
/// b's through a gateway that nobody misuses. The witness has the same machine at the same time, so it tells a busy machine from a
/// gateway that holds b up.
const SLOWER: u32 = 2;

/// What counts as not held up, however fast b was alone: with a few hundred calls, the 99th percentile is that of two or three of
/// them, and one that meets a busy moment of the machine is no finding. The gateway is built without optimization. What the rows are about
/// lasts for seconds, or until a timeout.
const NOISE: Duration = Duration::from_secs(1);

/// On a busy machine a thread that is ready gets no core, and everything that it does takes so many times as long. What b may wait is
/// stretched as much, but no further than this, or a row would say nothing. On a machine without other work it is hardly above 1.
const MOST_STRETCH: f64 = 12.0;

/// Within this time a misuse is under way.
const UNDER_WAY: Duration = Duration::from_secs(20);

/// Within this time nothing may be left of a misuse that has ended, or that nothing moves any more. The longest timeout that the rows leave
/// at its default is 30 s, and a request that waits for as long for a connection begins when the first of the others have ended.
const GONE: Duration = Duration::from_secs(80);

/// One bounded thing, and a way to misuse it.
pub struct Row {
    /// The keys of the configuration that bound it.
    pub bounds: &'static [&'static str],
    /// Keys beyond those that every row has, as TOML with dotted keys. `{receiver}` is the address of a receiver that never answers.
    pub config: &'static str,
    /// What upstream does.
    pub upstream: fn() -> FaultPlan,
    pub misuse: fn(Scene) -> Misuse,
    pub credential: Credential,
    pub log: Log,
    /// The protocols of callers and of upstream for which the row says something.
    pub callers: &'static [Protocol],
    pub upstreams: &'static [Protocol],
    /// How long b is watched once the misuse is under way, and before that as well.
    pub lasts: Duration,
    /// Most memory that the process may ever have had, in MiB.
    pub memory: u64,
    /// Most that it may have logged, in KiB.
    pub logged: u64,
    /// The series by which the gateway shows that it met the misuse. Empty if it counts nothing of the kind.
    pub met: &'static str,
    /// The misuse keeps the machine busy, so no other gateway is measured at the same time.
    pub busy: bool,
    /// What is held must be free again though a stays and lets go of nothing.
    pub stays: bool,
}

pub type Misuse = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What happens to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    Read,
    /// Its reader has stopped.
    Unread,
}

impl Row {
    pub const DEFAULT: Row = Row {
        bounds: &[],
        config: "",
        upstream: FaultPlan::none,
        misuse: |_| Box::pin(async {}),
        credential: Credential::Key,
        log: Log::Read,
        callers: Protocol::BOTH,
        upstreams: Protocol::BOTH,
        lasts: Duration::from_secs(2),
        // Half of the smallest limit in deploy/.
        memory: 128,
        logged: 1024,
        met: r#"revgate_requests_total{caller="a""#,
        busy: false,
        stays: false,
    };

    fn ways(&self) -> Vec<Way> {
        let mut ways = Vec::new();
        for &caller in self.callers {
            for &upstream in self.upstreams {
                ways.push(Way {
                    caller,
                    upstream,
                    workers: 1,
                });
            }
        }
        // More workers deal out the same things, so one pair of protocols shows whether they deal them out together. Where the misuse
        // keeps the machine busy, two cores have no room for a second worker.
        let first = ways.first().copied().filter(|_| !self.busy);
        ways.extend(first.map(|way| Way { workers: 2, ..way }));
        ways
    }
}

/// The protocols at both ends, and the number of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    pub caller: Protocol,
    pub upstream: Protocol,
    pub workers: usize,
}

impl Display for Way {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let number = |protocol| match protocol {
            Protocol::Http1 => 1,
            Protocol::Http2 => 2,
        };
        let (caller, upstream) = (number(self.caller), number(self.upstream));
        write!(f, "{caller}→{upstream} ×{}", self.workers)
    }
}

/// One gateway is measured at a time, or those of one row.
static MEASURED: Mutex<()> = Mutex::new(());

pub fn run(name: &str, row: &Row) {
    let found = watch(name, row);
    let failed = found.iter().filter(|found| !found.faults.is_empty());
    let failed: String = failed.map(|found| format!("\n{name} {found}")).collect();
    assert!(failed.is_empty(), "{failed}");
}

/// Runs a row on all its ways.
fn watch(name: &str, row: &Row) -> Vec<Found> {
    let ways = row.ways();
    let measured = MEASURED.lock().unwrap_or_else(PoisonError::into_inner);
    let witness = Witness::start();
    let seen: Vec<Seen> = match row.busy {
        true => ways.iter().map(|&way| Seen::of(row, way)).collect(),
        false => std::thread::scope(|scope| {
            let each = ways
                .iter()
                .map(|&way| scope.spawn(move || Seen::of(row, way)));
            let each: Vec<_> = each.collect();
            each.into_iter()
                .map(|thread| thread.join().expect("a way is watched"))
                .collect()
        }),
    };
    let witnessed = witness.end();
    drop(measured);
    // Nothing is measured any more, so they wait together.
    let found: Vec<Found> = std::thread::scope(|scope| {
        let witnessed = &witnessed;
        let each = seen
            .into_iter()
            .map(|seen| scope.spawn(move || seen.end(row, witnessed)));
        let each: Vec<_> = each.collect();
        each.into_iter()
            .map(|thread| thread.join().expect("a way ends"))
            .collect()
    });
    for found in &found {
        eprintln!("{name} {found}");
    }
    found
}

/// A row on one way, after the measurement and before its end.
struct Seen {
    way: Way,
    gateway: Gateway,
    /// Of b and upstream, and of a: neither may delay the other.
    runtimes: [Option<Runtime>; 2],
    before: Held,
    alone: Outcome,
    during: Outcome,
    /// The time of the misuse.
    between: (Instant, Instant),
    /// What the busiest worker had of it, and what b and upstream had.
    cpu: [CpuTime; 2],
    took_hold: bool,
    misuse: tokio::task::JoinHandle<()>,
}

/// The result of a row on one way.
struct Found {
    way: Way,
    figures: String,
    faults: Vec<String>,
}

impl Display for Found {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.way, self.figures)?;
        for fault in &self.faults {
            write!(f, "\n    {fault}")?;
        }
        Ok(())
    }
}

/// Tells the threads of b and upstream of one gateway from those of another one.
static QUIET: AtomicUsize = AtomicUsize::new(0);

/// With a thread of this name.
fn runtime(name: &str) -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name(name)
        .enable_all()
        .build()
        .expect("a runtime")
}

impl Drop for Seen {
    fn drop(&mut self) {
        for runtime in &mut self.runtimes {
            if let Some(runtime) = runtime.take() {
                runtime.shutdown_background();
            }
        }
    }
}

impl Seen {
    fn of(row: &Row, way: Way) -> Seen {
        let quiet_name = format!("quiet-{}-", QUIET.fetch_add(1, Ordering::Relaxed));
        let (quiet, rogue) = (runtime(&quiet_name), runtime("rogue"));
        let (devrev, receiver) =
            quiet.block_on(async { (upstream((row.upstream)()).await, silent_receiver().await) });
        let config = configuration(row, way, devrev.addr(), receiver);
        let gateway = Gateway::start(&config, row.log);
        let before = gateway.held();
        let took_hold = Arc::new(AtomicBool::new(false));
        let scene = Scene {
            proxy: gateway.proxy,
            protocol: way.caller,
            took_hold: took_hold.clone(),
        };
        let (alone, during, between, cpu, misuse) = quiet.block_on(async {
            let b = Service::start(gateway.proxy, way.caller, row.credential);
            // The first calls open connections.
            sleep(ALONE / 4).await;
            b.take();
            sleep(ALONE).await;
            // On a busy machine that is time for less.
            let _ = timeout(UNDER_WAY, b.has_made(CALLS_ALONE)).await;
            let alone = b.take();
            let start = Instant::now();
            let cpu = || [gateway.workers(), CpuTime::of("self", &quiet_name)];
            let before = cpu();
            let misuse = rogue.spawn((row.misuse)(scene));
            // Setting up may take a while on a busy machine. b calls all the time.
            let _ = timeout(UNDER_WAY, async {
                while !took_hold.load(Ordering::Relaxed) && !misuse.is_finished() {
                    sleep(Duration::from_millis(10)).await;
                }
            })
            .await;
            sleep(row.lasts).await;
            // a stays until b's last call has ended.
            let during = b.stop().await;
            let after = cpu();
            let cpu = [0, 1].map(|of| busiest(&before[of], &after[of]));
            (alone, during, (start, Instant::now()), cpu, misuse)
        });
        // Dropping the simulator ends it, and it must outlive the gateway.
        quiet.spawn(async move {
            std::future::pending::<()>().await;
            drop(devrev);
        });
        Seen {
            way,
            gateway,
            runtimes: [Some(quiet), Some(rogue)],
            before,
            alone,
            during,
            between,
            cpu,
            took_hold: took_hold.load(Ordering::Relaxed),
            misuse,
        }
    }

    /// Waits until nothing is left, and judges.
    fn end(mut self, row: &Row, witnessed: &Outcome) -> Found {
        let witness = witnessed.p99_between(self.between.0, self.between.1);
        let mut faults = self.judge(row, witness);
        let quiet = self.runtimes[0].take().expect("a runtime");
        quiet.block_on(async {
            if row.stays
                && let Err(held) = self.free(|held| held.in_flight == 0).await
            {
                faults.push(format!("a stays, and after {GONE:?} it holds {held:?}"));
            }
            if self.misuse.is_finished() {
                let ended = (&mut self.misuse).await;
                if let Err(error) = ended {
                    faults.push(format!("the misuse itself failed: {error}"));
                }
            }
            self.misuse.abort();
            // A worker keeps its one HTTP/2 connection to upstream.
            let kept = match self.way.upstream {
                Protocol::Http1 => 0,
                Protocol::Http2 => self.way.workers as u64,
            };
            let before = self.before;
            let is_free = |held: Held| {
                (held.in_flight, held.waiting, held.connections) == (0, 0, 0)
                    && held.descriptors <= before.descriptors + kept
                    && held.threads <= before.threads
            };
            if let Err(held) = self.free(is_free).await {
                faults.push(format!(
                    "a has left, and after {GONE:?} there is {held:?}, before {before:?}"
                ));
            }
            if !row.met.is_empty() && self.gateway.counted(row.met) == 0 {
                faults.push(format!("the gateway counted no {}", row.met));
            }
        });
        self.runtimes[0] = Some(quiet);
        let (alone, during) = (self.alone.p99(), self.during.p99());
        let mut figures = format!(
            "{} of {} calls failed, p99 {during:.0?}, alone {alone:.0?}, witness {witness:.0?}, {} MiB, {} KiB of log, a core for {:.0?} and without one for {:.0?} of {:.1?}, stretched {:.1}",
            self.during.failed(),
            self.during.calls(),
            self.gateway.peak(),
            self.gateway.logged() / 1024,
            self.cpu[0].ran,
            self.cpu[0].stood,
            self.between.1 - self.between.0,
            self.stretch(),
        );
        if self.during.failed() > 0 {
            let _ = write!(figures, " ({})", self.during.failures());
        }
        let refusals = self.gateway.refusals();
        if !refusals.is_empty() {
            let _ = write!(figures, "; a got {refusals}");
        }
        Found {
            way: self.way,
            figures,
            faults,
        }
    }

    fn judge(&self, row: &Row, witness: Duration) -> Vec<String> {
        let mut faults = Vec::new();
        let mut fault = |is: bool, what: String| {
            if is {
                faults.push(what);
            }
        };
        fault(
            !self.took_hold,
            format!("the misuse was not under way within {UNDER_WAY:?}"),
        );
        fault(
            self.alone.failed() > 0,
            format!("b alone: {}", self.alone.failures()),
        );
        let least = self.alone.calls();
        fault(
            least < CALLS_ALONE,
            format!("only {least} calls alone within {UNDER_WAY:?}"),
        );
        fault(
            self.during.failed() > 0,
            format!("b's calls failed: {}", self.during.failures()),
        );
        let most = NOISE.max(self.alone.p99().max(witness) * SLOWER);
        let most = most.mul_f64(self.stretch());
        let p99 = self.during.p99();
        fault(
            p99 > most,
            format!("b's p99 is {p99:.0?}, at most {most:.0?}"),
        );
        let peak = self.gateway.peak();
        fault(
            peak > row.memory,
            format!("{peak} MiB, at most {}", row.memory),
        );
        let logged = self.gateway.logged() / 1024;
        fault(
            logged > row.logged,
            format!("{logged} KiB of log, at most {}", row.logged),
        );
        faults
    }

    /// By how much the machine made everything longer.
    fn stretch(&self) -> f64 {
        self.cpu
            .map(CpuTime::stretch)
            .into_iter()
            .fold(1.0, f64::max)
            .min(MOST_STRETCH)
    }

    /// Waits for a state. `Err` is what there is instead after [`GONE`].
    async fn free(&self, is_free: impl Fn(Held) -> bool) -> Result<(), Held> {
        let until = Instant::now() + GONE;
        loop {
            let held = self.gateway.held();
            if is_free(held) {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(held);
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// What the thread that ran most has had since.
fn busiest(before: &[CpuTime], after: &[CpuTime]) -> CpuTime {
    let each = before.iter().zip(after).map(|(before, after)| CpuTime {
        ran: after.ran - before.ran,
        stood: after.stood - before.stood,
    });
    each.max_by_key(|time| time.ran).unwrap_or_default()
}

/// Calls like b's through a gateway that nobody misuses.
struct Witness {
    runtime: Runtime,
    service: Service,
    _gateway: Gateway,
    _devrev: Simulator,
}

impl Witness {
    fn start() -> Witness {
        let runtime = runtime("witness");
        let (devrev, receiver) = runtime
            .block_on(async { (upstream(FaultPlan::none()).await, silent_receiver().await) });
        let way = Way {
            caller: Protocol::Http1,
            upstream: Protocol::Http1,
            workers: 1,
        };
        let config = configuration(&Row::DEFAULT, way, devrev.addr(), receiver);
        let gateway = Gateway::start(&config, Log::Read);
        let service =
            runtime.block_on(async { Service::start(gateway.proxy, way.caller, Credential::Key) });
        Witness {
            runtime,
            service,
            _gateway: gateway,
            _devrev: devrev,
        }
    }

    fn end(self) -> Outcome {
        let outcome = self.runtime.block_on(self.service.stop());
        self.runtime.shutdown_background();
        outcome
    }
}

async fn upstream(plan: FaultPlan) -> Simulator {
    let options = simulator::Options {
        limit: 1_000_000_000,
        plan,
        ..simulator::Options::default()
    };
    simulator::start(options).await.expect("upstream starts")
}

/// Accepts connections and reads nothing.
async fn silent_receiver() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let mut accepted = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            accepted.push(stream);
        }
    });
    address
}

fn hash(key: &str) -> String {
    let digest = digest(&SHA256, key.as_bytes());
    digest.as_ref().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Defaults, except for what tells a and b apart and what makes idle connections to upstream go soon, so that what is left can be counted.
fn configuration(row: &Row, way: Way, upstream: SocketAddr, receiver: SocketAddr) -> String {
    let http2 = match way.upstream {
        Protocol::Http1 => "never",
        Protocol::Http2 => "always",
    };
    let base = format!(
        "listen.address = \"127.0.0.1:0\"\nlisten.workers = {}\nadmin.address = \"127.0.0.1:0\"\n\
         upstream.url = \"http://{upstream}\"\nupstream.http2 = \"{http2}\"\nupstream.idle_timeout = \"1s\"\n",
        way.workers
    );
    let row_keys = row.config.replace("{receiver}", &receiver.to_string());
    let mut config: toml::Table = base.parse().expect("TOML");
    let row_keys: toml::Table = row_keys.parse().expect("TOML");
    if !row.config.contains("auth.mode") {
        let a = match row.config.contains("anonymous") {
            true => String::new(),
            false => format!("key_sha256 = \"{}\", ", hash(misuse::KEY)),
        };
        let callers = format!(
            "tokens.main.env = \"DEVREV_TOKEN\"\n\
             callers.a = {{ {a}token = \"main\", rate = \"50/s\", burst = 100 }}\n\
             callers.b = {{ token = \"main\", key_sha256 = \"{}\", rate = \"10000/s\", burst = 10000 }}\n",
            hash(service::KEY),
        );
        merge(&mut config, callers.parse().expect("TOML"));
    }
    merge(&mut config, row_keys);
    config.to_string()
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(into)), toml::Value::Table(from)) => merge(into, from),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}
