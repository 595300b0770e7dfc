//! No caller is another's problem: whatever is shared and bounded, one caller misuses it, or a client whom nobody knows, and another
//! caller must not notice.
//!
//! Each row of the table is a bounded thing and a way to misuse it. It is run over HTTP/1.1 and HTTP/2 at both ends, and with two
//! workers. Caller b makes ordinary calls, first alone and then during the misuse. All of them must succeed, they must not be held up, the
//! process must stay within its memory and its log, and in the end nothing may be left.
//!
//! `cargo test --test isolation` runs all rows, and the name of a row runs that one. With `-- --nocapture` each row shows its figures.

#![allow(
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test binary has no outside, and runs in real time"
)]

mod bounds;
mod client;
mod gateway;
mod harness;
mod misuse;
mod service;

use std::time::Duration;

use revgate::simulator::{Drip, Fault, FaultPlan, Rule, Status, TextDuration};

use client::{Call, Protocol::Http1, Protocol::Http2};
use harness::{Log, Row};
use misuse::{
    KEY, answers, calls, connections, floods, slowhttptest,
    stream::Reading,
    uploads::{self, STREAMED},
};
use service::Credential;

/// Declares the rows, each with a test of its name. Rows behind `needs` need a program that not every machine has.
macro_rules! rows {
    ($($(#[doc = $doc:literal])+ $([needs $program:literal])? $name:ident = $row:expr;)+) => {
        /// All rows, for [`bounds`].
        const ROWS: &[(&str, &Row)] = &[$((stringify!($name), &$name::ROW)),+];

        $(mod $name {
            use super::*;

            $(#[doc = $doc])+
            pub const ROW: Row = $row;

            #[test]
            $(#[ignore = $program])?
            fn is_not_noticed() {
                harness::run(stringify!($name), &ROW);
            }
        })+
    };
}

/// What upstream does with all calls of one operation.
fn on(operation: &str, fault: Fault) -> FaultPlan {
    FaultPlan::none().with(Rule::new(operation, fault))
}

fn status(code: u16, retry_after: Option<u64>) -> Fault {
    let mut status = Status::new(code);
    status.retry_after = retry_after;
    Fault::Status(status)
}

fn delay(milliseconds: u64) -> Fault {
    Fault::Delay(TextDuration(Duration::from_millis(milliseconds)))
}

/// Connections that flood together: b waits for a turn of each, so that long turns show.
const FLOODS: usize = 16;

const NO_PAUSE: Duration = Duration::ZERO;

rows! {
    // Connections to upstream.

    /// Uploads too large to be kept for a retry, half sent.
    half_sent_uploads = Row {
        bounds: &["upstream.max_connections", "limits.max_body", "retry.max_replay_body", "limits.stall_timeout"],
        misuse: |scene| Box::pin(uploads::stopped(scene, 64, 1 << 20, STREAMED)),
        stays: true,
        ..Row::DEFAULT
    };
    /// The same without a declared length.
    half_sent_chunked_uploads = Row {
        bounds: &["upstream.max_connections"],
        misuse: |scene| Box::pin(uploads::stopped(scene, 64, None, STREAMED)),
        ..Row::DEFAULT
    };
    /// Uploads that go on, a byte at a time.
    trickled_uploads = Row {
        bounds: &["upstream.max_connections", "limits.min_rate"],
        misuse: |scene| Box::pin(uploads::trickled(scene, 64, 1 << 20, STREAMED)),
        stays: true,
        ..Row::DEFAULT
    };
    /// Small answers that find no window. Over HTTP/1.1 the kernel takes them.
    unread_small_answers = Row {
        bounds: &["upstream.max_connections"],
        callers: &[Http2],
        misuse: |scene| Box::pin(answers::asked(scene, 64, 20_000, Reading::Nothing)),
        stays: true,
        ..Row::DEFAULT
    };
    /// More than a connection's window, on the one connection to upstream.
    one_unread_answer = Row {
        bounds: &["upstream.max_connections"],
        callers: &[Http2],
        upstreams: &[Http2],
        misuse: |scene| Box::pin(answers::asked(scene, 1, 200_000, Reading::Nothing)),
        ..Row::DEFAULT
    };
    /// Larger than all buffers on the way.
    unread_large_answers = Row {
        bounds: &["upstream.max_connections"],
        misuse: |scene| Box::pin(answers::asked(scene, 64, 16_000_000, Reading::Nothing)),
        stays: true,
        ..Row::DEFAULT
    };
    /// Large answers that are read a byte a second.
    answers_read_slowly = Row {
        bounds: &["upstream.max_connections"],
        misuse: |scene| Box::pin(answers::asked(scene, 64, 16_000_000, Reading::Slow(1))),
        stays: true,
        busy: true,
        ..Row::DEFAULT
    };
    /// One operation whose answers come a byte a second.
    trickling_upstream = Row {
        bounds: &["upstream.max_connections"],
        upstream: || on("works.list", Fault::Drip(Drip {
            bytes: 1,
            pause: TextDuration(Duration::from_secs(1)),
        })),
        misuse: |scene| Box::pin(calls::of(scene, "GET", "works.list", 100, NO_PAUSE)),
        ..Row::DEFAULT
    };
    /// One operation that never answers.
    hanging_upstream = Row {
        bounds: &["upstream.max_connections", "upstream.attempt_timeout"],
        upstream: || on("works.list", Fault::Hang),
        misuse: |scene| Box::pin(calls::of(scene, "GET", "works.list", 100, NO_PAUSE)),
        ..Row::DEFAULT
    };
    /// Clients that leave before their answers, so that connections to upstream break.
    abandoned_calls = Row {
        bounds: &["upstream.max_connections", "upstream.connect_timeout"],
        upstream: || on("works.list", delay(500)),
        misuse: |scene| Box::pin(calls::abandoned(scene, 4)),
        ..Row::DEFAULT
    };
    /// A queue for two connections.
    batch_calls_on_two_connections = Row {
        bounds: &["upstream.max_connections"],
        config: "upstream.max_connections = 2\n\
                 callers.a = { priority = \"batch\", rate = \"1000/s\", burst = 1000 }\n\
                 callers.b.weight = 10",
        upstreams: &[Http1],
        upstream: || on("works.list", delay(200)),
        misuse: |scene| Box::pin(calls::of(scene, "GET", "works.list", 100, NO_PAUSE)),
        ..Row::DEFAULT
    };

    // Places in flight.

    /// Heads with a small body that never comes.
    heads_without_bodies = Row {
        bounds: &["limits.max_in_flight"],
        config: "limits.max_in_flight = 100",
        misuse: |scene| Box::pin(uploads::heads_at_a_rate(scene, 120, 100)),
        lasts: Duration::from_secs(1),
        stays: true,
        ..Row::DEFAULT
    };
    /// Small bodies but for their last byte.
    small_bodies_one_byte_short = Row {
        bounds: &["limits.max_in_flight", "retry.max_replay_body", "limits.max_buffered"],
        config: "limits.max_in_flight = 100\ncallers.a = { rate = \"1000/s\", burst = 1000 }",
        misuse: |scene| Box::pin(uploads::stopped(scene, 200, 64 << 10, (64 << 10) - 1)),
        ..Row::DEFAULT
    };
    /// Calls that wait for the quota of another group.
    waiting_calls = Row {
        bounds: &["limits.max_in_flight", "quota.max_waiting"],
        config: "limits.max_in_flight = 100\nretry.max_attempts = 1\ntokens.other.env = \"OTHER_TOKEN\"\ncallers.b.token = \"other\"\n\
                 callers.a = { rate = \"1000/s\", burst = 1000 }",
        upstream: || on("works.list", status(429, Some(20))),
        misuse: |scene| Box::pin(calls::into_a_pause(scene, "works.list", 150)),
        ..Row::DEFAULT
    };
    /// The room for those that wait is full of a's calls.
    full_waiting_room = Row {
        bounds: &["quota.max_waiting"],
        config: "quota.max_waiting = 50\nretry.max_attempts = 1\ntokens.other.env = \"OTHER_TOKEN\"\ncallers.b.token = \"other\"\n\
                 callers.a = { rate = \"1000/s\", burst = 1000 }",
        upstream: || on("works.list", status(429, Some(20))),
        misuse: |scene| Box::pin(calls::into_a_pause(scene, "works.list", 100)),
        ..Row::DEFAULT
    };

    // The circuit.

    /// Uploads that stop, and so reach the timeout of an attempt.
    stopped_uploads_and_the_circuit = Row {
        bounds: &["upstream.circuit.failures", "upstream.circuit.within", "upstream.circuit.open", "upstream.attempt_timeout"],
        config: "upstream.attempt_timeout = \"1s\"",
        misuse: |scene| Box::pin(uploads::stopped(scene, 40, 1 << 20, STREAMED)),
        ..Row::DEFAULT
    };
    /// Bodies of a declared length that never end.
    endless_uploads_and_the_circuit = Row {
        bounds: &["upstream.circuit.failures", "upstream.circuit.within", "upstream.circuit.open"],
        config: "upstream.attempt_timeout = \"1s\"",
        misuse: |scene| Box::pin(uploads::trickled(scene, 40, 1 << 20, STREAMED)),
        ..Row::DEFAULT
    };
    /// One operation that fails.
    one_operation_answers_500 = Row {
        bounds: &["upstream.circuit.failures", "upstream.circuit.within", "upstream.circuit.open"],
        upstream: || on("works.create", status(500, None)),
        misuse: |scene| Box::pin(calls::of(scene, "POST", "works.create", 40, NO_PAUSE)),
        ..Row::DEFAULT
    };
    /// One operation that does not answer within the timeout of an attempt.
    one_operation_is_slow = Row {
        bounds: &["upstream.circuit.failures", "upstream.attempt_timeout"],
        config: "upstream.attempt_timeout = \"1s\"",
        upstream: || on("works.create", Fault::Hang),
        misuse: |scene| Box::pin(calls::of(scene, "POST", "works.create", 40, NO_PAUSE)),
        ..Row::DEFAULT
    };
    /// One operation on which upstream breaks the connection. Over HTTP/2 that would break b's calls as well.
    one_operation_breaks_its_connection = Row {
        bounds: &["upstream.circuit.failures"],
        upstreams: &[Http1],
        upstream: || on("works.create", Fault::Reset),
        misuse: |scene| Box::pin(calls::of(scene, "POST", "works.create", 40, NO_PAUSE)),
        ..Row::DEFAULT
    };

    // The token's health.

    /// One operation that the token may not use.
    one_operation_answers_401 = Row {
        bounds: &[],
        upstream: || on("works.create", status(401, None)),
        misuse: |scene| Box::pin(calls::of(scene, "POST", "works.create", 4, Duration::from_millis(50))),
        ..Row::DEFAULT
    };
    /// A probe that never ends.
    endless_upload_as_the_probe = Row {
        bounds: &[],
        upstream: || on("works.delete", status(401, None)),
        misuse: |scene| Box::pin(uploads::stopped_as_probes(scene)),
        ..Row::DEFAULT
    };

    // The quota group.

    /// What carries no token is refused for long.
    callback_answers_429 = Row {
        bounds: &["retry.max_retry_after"],
        upstream: || on("keyrings.authorize", status(429, Some(300))),
        misuse: |scene| Box::pin(calls::of(scene, "GET", "keyrings.authorize", 4, Duration::from_millis(50))),
        ..Row::DEFAULT
    };
    /// What carries no token says that the quota is spent.
    callback_says_that_nothing_remains = Row {
        bounds: &[],
        upstream: || on("keyrings.authorize", Fault::Status(spent())),
        misuse: |scene| Box::pin(calls::of(scene, "GET", "keyrings.authorize", 4, Duration::from_millis(50))),
        ..Row::DEFAULT
    };
    /// One operation that is away for a time.
    one_operation_answers_503_with_a_time = Row {
        bounds: &["retry.max_retry_after"],
        upstream: || on("works.create", status(503, Some(300))),
        misuse: |scene| Box::pin(calls::of(scene, "POST", "works.create", 4, Duration::from_millis(50))),
        ..Row::DEFAULT
    };
    /// One operation that is refused without a time.
    one_operation_answers_429_without_a_time = Row {
        bounds: &["retry.backoff.min", "retry.backoff.max"],
        upstream: || on("works.create", status(429, None)),
        misuse: |scene| Box::pin(calls::of(scene, "POST", "works.create", 40, NO_PAUSE)),
        ..Row::DEFAULT
    };

    // Retries.

    /// Reads that always fail, while a twentieth of b's fails once.
    failing_reads_use_up_the_retries = Row {
        bounds: &["retry.budget", "retry.max_attempts", "retry.backoff.min", "retry.backoff.max"],
        upstream: || {
            // A rule sees what those before it let through.
            let each_twentieth = (1..200).map(|n| Rule::new("works.get", status(500, None)).skip(19 * n).times(1));
            each_twentieth.fold(on("works.list", status(500, None)), FaultPlan::with)
        },
        config: "upstream.circuit.failures = 1000000",
        misuse: |scene| Box::pin(calls::of(scene, "GET", "works.list", 40, NO_PAUSE)),
        // A line for each call that failed.
        logged: 4096,
        busy: true,
        ..Row::DEFAULT
    };

    // The time of a worker.

    /// Bodies that cost the most to rewrite.
    costly_rewrites = Row {
        bounds: &["limits.max_rewrite_body", "listen.workers"],
        misuse: |scene| {
            let members = |mut all: Vec<String>, reversed: bool| {
                if reversed {
                    all.reverse();
                }
                format!("{{{}}}", all.join(","))
            };
            let all: Vec<String> = (0..47_000).map(|number| format!("\"{number:05x}\":1")).collect();
            let body = format!(r#"{{"user_don":{},"id":{}}}"#, members(all.clone(), false), members(all, true));
            let body = bytes::Bytes::from(body);
            assert!(body.len() < 1 << 20 && body.len() > 900_000);
            Box::pin(calls::repeated(scene, 8, NO_PAUSE, move |_| {
                Call::new("POST", "/rev-users.link", Some(KEY)).body(body.clone())
            }))
        },
        ..BUSY
    };
    /// Bodies as large as they may be, as fast as they go.
    large_uploads = Row {
        bounds: &["limits.max_body"],
        misuse: |scene| Box::pin(calls::repeated(scene, 16, NO_PAUSE, |_| {
            Call::new("POST", "/works.create", Some(KEY)).body(vec![b' '; 16 << 20])
        })),
        ..BUSY
    };
    /// Calls without a key.
    calls_without_a_key = Row {
        bounds: &[],
        misuse: |scene| Box::pin(calls::of_strangers(scene, 16, None)),
        met: "revgate_auth_failures_total",
        ..BUSY
    };
    /// Calls with a wrong key, above its own rate.
    calls_with_a_wrong_key = Row {
        bounds: &[],
        misuse: |scene| Box::pin(calls::of_strangers(scene, 16, Some("a-wrong-key"))),
        met: "revgate_auth_failures_total",
        ..BUSY
    };
    /// Calls above a's own rate.
    calls_above_the_rate = Row {
        bounds: &[],
        misuse: |scene| Box::pin(calls::as_fast_as_they_go(scene, "works.list", 16)),
        ..BUSY
    };

    // Memory.

    /// Bodies to be rewritten, all but the last byte, of the greatest length that is streamed otherwise.
    large_rewrites_one_byte_short = Row {
        bounds: &["limits.max_rewrite_body", "limits.max_body"],
        misuse: |scene| Box::pin(uploads::rewritten(scene, 38, 16 << 20, (16 << 20) - 1)),
        ..BUSY
    };
    /// The same of the greatest length that is rewritten.
    rewrites_one_byte_short = Row {
        bounds: &["limits.max_rewrite_body"],
        misuse: |scene| Box::pin(uploads::rewritten(scene, 90, 1 << 20, (1 << 20) - 1)),
        stays: true,
        ..BUSY
    };
    /// Heads of clients without a key, all but their end.
    unfinished_heads = Row {
        bounds: &["limits.max_header_bytes", "limits.max_headers", "listen.header_timeout"],
        misuse: |scene| Box::pin(connections::unfinished_heads(scene, 700, 60_000)),
        met: "",
        ..BUSY
    };
    /// Refused calls with tracing on, and a receiver that hangs.
    traces_to_a_receiver_that_hangs = Row {
        bounds: &["trace.timeout", "trace.sample"],
        config: "trace.otlp = \"http://{receiver}\"\ntrace.sample = 1",
        misuse: |scene| Box::pin(calls::of_strangers(scene, 16, None)),
        met: "revgate_auth_failures_total",
        ..BUSY
    };
    /// Requests without end, and none of their answers is read.
    answers_never_read = Row {
        bounds: &["limits.max_in_flight"],
        misuse: |scene| Box::pin(connections::never_read(scene, 48, Some(KEY))),
        ..BUSY
    };
    /// The same without a key.
    refusals_never_read = Row {
        bounds: &[],
        misuse: |scene| Box::pin(connections::never_read(scene, 48, None)),
        met: "revgate_auth_failures_total",
        ..BUSY
    };

    // The log.

    /// A log that nobody reads, while clients without a key fill it.
    unread_log = Row {
        bounds: &[],
        log: Log::Unread,
        config: "log.access = \"all\"",
        misuse: |scene| Box::pin(calls::of_strangers(scene, 16, None)),
        met: "revgate_auth_failures_total",
        ..BUSY
    };

    // Connections of clients.

    /// Connections on which nothing comes.
    silent_connections = Row {
        bounds: &["listen.max_connections", "listen.header_timeout"],
        config: "listen.max_connections = 64",
        misuse: |scene| Box::pin(connections::silent(scene, 100)),
        met: "",
        stays: true,
        ..Row::DEFAULT
    };
    /// The same, again as soon as the gateway ends one.
    silent_connections_again_and_again = Row {
        bounds: &["listen.max_connections"],
        config: "listen.max_connections = 64",
        misuse: |scene| Box::pin(connections::silent_again_and_again(scene, 100)),
        met: "",
        ..Row::DEFAULT
    };
    /// Connections of one caller with a key, which keeps them.
    idle_connections_of_one_caller = Row {
        bounds: &["listen.max_connections", "listen.idle_timeout"],
        config: "listen.max_connections = 64",
        misuse: |scene| Box::pin(calls::on_connections_that_stay(scene, 100)),
        ..Row::DEFAULT
    };
    /// Refusals that find no window.
    refusals_without_a_window = Row {
        bounds: &["listen.max_connections"],
        config: "listen.max_connections = 64",
        callers: &[Http2],
        misuse: |scene| Box::pin(connections::without_a_window(scene, 100)),
        met: "revgate_auth_failures_total",
        stays: true,
        ..Row::DEFAULT
    };

    /// Connections that end as soon as they are there.
    connections_opened_and_closed = Row {
        bounds: &["listen.max_connections"],
        misuse: |scene| Box::pin(connections::opened_and_closed(scene, 8)),
        met: "",
        ..BUSY
    };

    /// As before, and fewer: workers that leave connections to each other take them all the same.
    connections_opened_and_closed_between_workers = Row {
        bounds: &["listen.max_connections"],
        misuse: |scene| Box::pin(connections::opened_and_closed(scene, 16)),
        callers: &[Http1],
        met: "",
        ..Row::DEFAULT
    };

    // Floods of frames.

    /// Streams that are reset at once, with a key.
    rapid_reset = Row {
        bounds: &["limits.max_in_flight"],
        callers: &[Http2],
        upstream: || on("works.list", delay(100)),
        misuse: |scene| Box::pin(floods::of(scene, FLOODS, |n| floods::opened_and_reset(n, Some(KEY)))),
        met: "",
        ..BUSY
    };
    /// The same without a key.
    rapid_reset_without_a_key = Row {
        bounds: &["limits.max_in_flight"],
        callers: &[Http2],
        misuse: |scene| Box::pin(floods::of(scene, FLOODS, |n| floods::opened_and_reset(n, None))),
        met: "",
        ..BUSY
    };
    /// Streams that are reset once upstream works for them. Over HTTP/1.1 the connections end.
    calls_given_up = Row {
        bounds: &["upstream.max_connections", "limits.max_in_flight"],
        upstream: || on("works.list", delay(500)),
        misuse: |scene| Box::pin(uploads::given_up(scene, 40, Duration::from_millis(100))),
        ..Row::DEFAULT
    };
    /// A head that never ends.
    continuation_flood = Row {
        bounds: &["limits.max_header_bytes", "limits.max_headers"],
        callers: &[Http2],
        misuse: |scene| Box::pin(floods::of(scene, FLOODS, floods::endless_head)),
        met: "",
        ..BUSY
    };
    /// Small heads that unpack to large ones.
    heads_that_unpack = Row {
        bounds: &["limits.max_header_bytes", "limits.max_headers"],
        callers: &[Http2],
        misuse: |scene| Box::pin(floods::of(scene, FLOODS, floods::unpacking_head)),
        met: "",
        ..BUSY
    };
    /// Pings, which must be answered.
    ping_flood = Row {
        bounds: &[],
        callers: &[Http2],
        misuse: |scene| Box::pin(floods::of(scene, FLOODS, |_| floods::Frame::ping().bytes())),
        met: "",
        ..BUSY
    };
    /// Settings, which must be acknowledged.
    settings_flood = Row {
        bounds: &[],
        callers: &[Http2],
        misuse: |scene| Box::pin(floods::of(scene, FLOODS, |n| floods::Frame::settings(n).bytes())),
        met: "",
        ..BUSY
    };
    /// Updates of a window.
    window_flood = Row {
        bounds: &[],
        callers: &[Http2],
        misuse: |scene| Box::pin(floods::of(scene, FLOODS, |_| floods::Frame::window_update(0, 1).bytes())),
        met: "",
        ..BUSY
    };
    /// Data frames without data.
    empty_data_flood = Row {
        bounds: &[],
        callers: &[Http2],
        misuse: |scene| Box::pin(floods::of(scene, FLOODS, |n| floods::empty_data(n, Some(KEY)))),
        ..BUSY
    };

    // Questions about unknown tokens.

    /// Tokens that DevRev refuses, while each of b's is good and new.
    made_up_tokens = Row {
        bounds: &[],
        config: "auth.mode = \"validate\"\ndefaults = { rate = \"10000/s\", burst = 10000 }",
        upstream: || on("auth-tokens.info", delay(50)),
        credential: Credential::NewTokens,
        misuse: |scene| Box::pin(calls::with_made_up_tokens(scene, 200)),
        met: "revgate_auth_failures_total",
        ..Row::DEFAULT
    };

    // Other people's attacks.

    /// Heads that never end.
    [needs "slowhttptest, which tests/run.sh installs"] slow_heads = Row {
        bounds: &["listen.header_timeout"],
        misuse: |scene| Box::pin(slowhttptest::attack(scene, "-H -x 24")),
        met: "",
        ..SLOW
    };
    /// Bodies that never end.
    [needs "slowhttptest, which tests/run.sh installs"] slow_bodies = Row {
        bounds: &["upstream.max_connections"],
        misuse: |scene| Box::pin(slowhttptest::attack(scene, "-B -s 100000 -x 24")),
        ..SLOW
    };
    /// Answers that are read a few bytes at a time.
    [needs "slowhttptest, which tests/run.sh installs"] slow_reads = Row {
        bounds: &["upstream.max_connections"],
        misuse: |scene| Box::pin(slowhttptest::attack(scene, "-X -w 10 -y 20 -n 1 -z 32 -k 3")),
        ..SLOW
    };
    /// Many ranges of one answer.
    [needs "slowhttptest, which tests/run.sh installs"] ranges = Row {
        bounds: &["limits.max_header_bytes"],
        misuse: |scene| Box::pin(slowhttptest::attack(scene, "-R -a 5 -b 3000")),
        met: "",
        ..SLOW
    };
}

/// The misuse keeps the machine busy, so that it shows soon, and how upstream is reached makes no difference to it.
const BUSY: Row = Row {
    upstreams: &[Http1],
    lasts: Duration::from_millis(1200),
    busy: true,
    ..Row::DEFAULT
};

/// slowhttptest has no key, so that without one it is caller a.
const SLOW: Row = Row {
    config: "callers.a.anonymous = true",
    callers: &[Http1],
    lasts: Duration::from_secs(5),
    ..BUSY
};

/// The window is spent.
fn spent() -> Status {
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .expect("after 1970");
    let mut status = Status::new(200);
    status.headers = [
        ("x-ratelimit-limit", "1000".to_owned()),
        ("x-ratelimit-remaining", "0".to_owned()),
        ("x-ratelimit-reset", (now.as_secs() + 300).to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    status
}
