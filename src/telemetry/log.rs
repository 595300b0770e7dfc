//! The log, on standard error: one JSON object a line, or text on a terminal. A thread of its own writes it, from a queue that drops
//! what does not fit.

mod line;
pub(crate) mod queue;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use std::sync::{Arc, OnceLock};

use tracing::{
    Event, Level, Metadata, Subscriber, level_filters::LevelFilter, subscriber::Interest,
};
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use self::queue::Queue;
use super::client_lines::{Due, SharedLimit, sum_up};
use crate::{
    config::{LogFormat, log_directives as directives_of},
    event,
    lock::Lock,
};

/// The target of access lines, so that their level can be set separately.
pub(crate) const ACCESS: &str = "revgate::access";

/// Crates that handle raw headers. Below INFO they log header values and frames, and with them keys and tokens, so they stay at INFO
/// whatever level is set. What they warn of is a client's or DevRev's doing, and no operator can act on it. So a level says nothing about
/// them unless it is below INFO; a directive that names one does.
const CAPPED: [&str; 5] = ["h2", "hyper", "hyper_util", "rustls", "tokio_rustls"];

static INSTALLED: OnceLock<Installed> = OnceLock::new();

/// The log of the process.
struct Installed {
    level: LevelHandle,
    queue: Queue,
    libraries: Arc<LibraryLines>,
    /// Ends the thread that writes. Taken by [`flush`].
    writer: Lock<Option<WorkerGuard>>,
}

/// Changes what is logged while the process runs.
#[derive(Clone, Debug)]
pub struct LevelHandle {
    filter: reload::Handle<EnvFilter, Registry>,
    directives: Arc<Lock<String>>,
}

impl LevelHandle {
    /// Sets a level, or directives of `EnvFilter`. Invalid ones change nothing.
    /// `by` says who changes them.
    pub fn set(&self, directives: &str, by: &str) -> Result<(), String> {
        let filter = filter_of(directives)?;
        let to = directives.trim();
        // Held across the reload, so that `get` always returns the directives in force.
        let mut current = self.directives.lock();
        let from = std::mem::replace(&mut *current, to.to_owned());
        let log = || {
            tracing::info!(
                event = event::Event::LogLevelChanged.label(),
                from,
                to,
                by,
                "the log level is {to} now; it was {from}"
            );
        };
        // The line is written at the more verbose of both levels. It tells why there are no more lines, or that there will be more.
        let before = tracing::enabled!(Level::INFO);
        if before && from != to {
            log();
        }
        if let Err(error) = self.filter.reload(filter) {
            *current = from;
            return Err(error.to_string());
        }
        if !before && from != to {
            log();
        }
        Ok(())
    }

    /// The directives in force.
    pub fn get(&self) -> String {
        self.directives.lock().clone()
    }
}

/// Starts the log. A second call in one process (tests) only changes the level of the first.
pub fn init(level: &str, format: LogFormat) -> anyhow::Result<LevelHandle> {
    start(level, format, false)
}

/// As [`init`], of a process with several gateways: a line of JSON has the span that says of which it is. Text has it always.
pub(crate) fn init_with_spans(level: &str, format: LogFormat) -> anyhow::Result<LevelHandle> {
    start(level, format, true)
}

fn start(level: &str, format: LogFormat, spans: bool) -> anyhow::Result<LevelHandle> {
    let filter = filter_of(level).map_err(anyhow::Error::msg)?;
    if let Some(installed) = INSTALLED.get() {
        installed
            .level
            .set(level, "a second start")
            .map_err(anyhow::Error::msg)?;
        return Ok(installed.level.clone());
    }
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let handle = LevelHandle {
        filter: handle,
        directives: Arc::new(Lock::new(level.trim().to_owned())),
    };
    let (queue, writer) = Queue::start(std::io::stderr(), json);
    let libraries = Arc::<LibraryLines>::default();
    let base = tracing_subscriber::registry().with(filter);
    let set = if json {
        let lines = json_lines().with_current_span(spans);
        let lines = lines.with_writer(queue.clone());
        base.with(lines.with_filter(libraries.clone().filter()))
            .try_init()
    } else {
        let lines = fmt::layer()
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(queue.clone());
        base.with(lines.with_filter(libraries.clone().filter()))
            .try_init()
    };
    // Another subscriber may be installed already, such as a test's. It stays, and `set` of this handle returns an error.
    if set.is_ok() {
        let _ = INSTALLED.set(Installed {
            level: handle.clone(),
            queue,
            libraries,
            writer: Lock::new(Some(writer)),
        });
    }
    Ok(handle)
}

/// The filter of a level, or of directives.
fn filter_of(directives: &str) -> Result<EnvFilter, String> {
    directives_of(directives)?;
    let words = directives.split(',').map(str::trim);
    let mut levels = words.filter_map(|word| word.parse::<LevelFilter>().ok());
    // EnvFilter's own level is ERROR.
    let level = levels.next_back().unwrap_or(LevelFilter::ERROR);
    let quiet: String = match level {
        LevelFilter::OFF | LevelFilter::DEBUG | LevelFilter::TRACE => String::new(),
        _ => CAPPED.map(|name| format!("{name}=error,")).concat(),
    };
    // Of two for the same target the later one holds.
    directives_of(&format!("{quiet}{directives}"))
}

/// The start of a text that somebody else decides, of so many bytes at most.
pub(crate) fn short(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// From now on panics go to the log. The standard library writes them to standard error itself, and would wait for a reader that has
/// stopped.
pub(crate) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
        tracing::error!(
            event = event::Event::Panicked.label(),
            thread = std::thread::current().name(),
            location = panic.location().map(tracing::field::display),
            backtrace = backtrace.map(tracing::field::display),
            "panicked: {}",
            panic.payload_as_str().unwrap_or("no text")
        );
    }));
}

/// Writes the text through the log's queue, since standard error itself may block. False if there is no log.
pub(crate) fn try_write(text: &str) -> bool {
    let Some(installed) = INSTALLED.get() else {
        return false;
    };
    installed.queue.clone().push(format!("{text}\n").as_bytes());
    true
}

/// Ends the log. Waits until what is queued is written, but no longer than a second.
pub(crate) fn flush() {
    if let Some(installed) = INSTALLED.get() {
        let mut writer = installed.writer.lock();
        drop(writer.take());
    }
}

/// Lines of the process's log that were dropped.
pub(crate) fn dropped_lines() -> u64 {
    INSTALLED
        .get()
        .map_or(0, |installed| installed.queue.dropped())
}

/// Logs how many lines of which libraries were left out.
pub(super) fn log_library_summaries(which: Due) {
    if let Some(installed) = INSTALLED.get() {
        installed.libraries.log_summaries(which);
    }
}

type Json<S> = fmt::Layer<S, fmt::format::JsonFields, fmt::format::Format<fmt::format::Json>>;

fn json_lines<S>() -> Json<S>
where
    S: Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
}

/// Bounds the lines of the crates that speak with clients, by their targets: a client can cause some with every frame that it sends.
#[derive(Default)]
struct LibraryLines(SharedLimit<&'static str>);

impl LibraryLines {
    fn filter(self: Arc<Self>) -> LineFilter {
        LineFilter(self)
    }

    fn try_pass(&self, target: &'static str) -> bool {
        self.0.try_pass(target, None)
    }

    fn log_summaries(&self, which: Due) {
        for summary in self.0.take_summaries(which) {
            let library = summary.kind.unwrap_or("various");
            sum_up!(
                warn,
                summary,
                event::Event::MoreLines,
                [library = library],
                "more lines of a library"
            );
        }
    }
}

/// A filter and no directives, because an operator's directive for a deeper module would override them.
struct LineFilter(Arc<LibraryLines>);

impl<S: Subscriber> Filter<S> for LineFilter {
    fn enabled(&self, meta: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        harmless(meta)
    }

    fn callsite_enabled(&self, meta: &'static Metadata<'static>) -> Interest {
        if !harmless(meta) {
            Interest::never()
        } else if is_capped(meta.target()) {
            // tracing-subscriber expects a call of `enabled` before an `event_enabled` that says no.
            Interest::sometimes()
        } else {
            Interest::always()
        }
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let target = event.metadata().target();
        !is_capped(target) || self.0.try_pass(target)
    }
}

fn harmless(meta: &Metadata<'_>) -> bool {
    *meta.level() <= Level::INFO || !is_capped(meta.target())
}

fn is_capped(target: &str) -> bool {
    CAPPED.contains(&target.split("::").next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::captured::Captured;

    #[test]
    fn lines_are_flat_and_wire_crates_are_capped() {
        let captured = Captured::default();
        let lines = json_lines()
            .with_writer(captured.clone())
            .with_filter(Arc::<LibraryLines>::default().filter());
        let subscriber = tracing_subscriber::registry()
            .with(directives_of("trace,h2::proto=trace").unwrap())
            .with(lines);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(listener = "proxy", address = %"127.0.0.1:1", "listening");
            tracing::trace!(target: "h2::proto", "authorization: secret");
            tracing::debug!(target: "hyper_util::client", "secret");
        });
        let text = captured.text();
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["message"], "listening");
        assert_eq!(line["listener"], "proxy");
        assert_eq!(line["address"], "127.0.0.1:1");
        assert!(line["timestamp"].is_string() && line["target"].is_string());
    }

    #[test]
    fn a_library_is_heard_only_if_an_operator_asks_for_it() {
        for (directives, want) in [
            ("info", "revgate error"),
            ("warn", "revgate error"),
            ("revgate=info", "revgate error"),
            ("off", ""),
            ("error", "error"),
            ("info,h2=warn", "revgate warn error"),
            ("h2::proto=warn,info", "revgate warn error"),
            ("debug", "revgate warn error"),
            ("revgate=debug,trace", "revgate warn error"),
        ] {
            let captured = Captured::default();
            let subscriber = tracing_subscriber::registry()
                .with(filter_of(directives).unwrap())
                .with(json_lines().with_writer(captured.clone()));
            tracing::subscriber::with_default(subscriber, || {
                tracing::warn!(target: "revgate::serve", "revgate");
                tracing::warn!(target: "h2::proto::ping_pong", "warn");
                tracing::error!(target: "h2::proto::ping_pong", "error");
            });
            let text = captured.text();
            let lines = text.lines().map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                line["message"].as_str().unwrap_or_default().to_owned()
            });
            let messages: Vec<_> = lines.collect();
            assert_eq!(messages.join(" "), want, "{directives}");
        }
        assert!(filter_of("loud").is_err() && filter_of("").is_err());
    }

    #[test]
    fn a_frequent_line_of_a_library_is_bounded_and_summed_up() {
        let captured = Captured::default();
        let libraries = Arc::<LibraryLines>::default();
        let lines = json_lines()
            .with_writer(captured.clone())
            .with_filter(libraries.clone().filter());
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..1000 {
                tracing::warn!(target: "h2::proto::ping_pong", "PING");
            }
            tracing::warn!("of revgate");
            libraries.log_summaries(Due::AtTheEnd);
        });
        let text = captured.text();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        let lines: Vec<serde_json::Value> = lines.collect();
        let of_library = lines.iter().filter(|line| line["message"] == "PING");
        let of_library = of_library.count();
        // The second may change meanwhile.
        assert!((16..100).contains(&of_library), "{of_library}");
        let summary = &lines[of_library + 1];
        assert_eq!(summary["library"], "h2::proto::ping_pong");
        assert_eq!(summary["lines"], 1000 - of_library);
        assert_eq!(lines.len(), of_library + 2);
    }

    #[test]
    fn starts_twice_and_refuses_a_bad_level() {
        init("info", LogFormat::Json).unwrap();
        let handle = init("warn", LogFormat::Json).unwrap();
        assert_eq!(handle.get(), "warn");
        handle.set("revgate=debug,info", "a test").unwrap();
        for bad in [
            "loud",
            "",
            "info,loud",
            "revgate=loud",
            "debug debug",
            "info,[x",
        ] {
            let why = handle.set(bad, "a test").unwrap_err();
            assert!(
                why.contains("level") || why.contains("directives"),
                "{bad}: {why}"
            );
        }
        assert_eq!(handle.get(), "revgate=debug,info");
    }
}
