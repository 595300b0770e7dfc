//! Sends finished spans to an OTLP/HTTP receiver, on its own thread, so that no request waits for it. Everything is bounded: the
//! queue, the size, time and tries of an export, and the time of the last one at shutdown.

use std::{io, sync::Arc, thread::JoinHandle, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header, uri::Authority};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::BoxError;

use super::{
    labels::SpanDrop,
    metrics::Metrics,
    otlp::{self, Origin},
    trace::{Span, Spans},
};
use crate::{
    event::Event,
    policy::{
        duration_words::duration_words,
        trouble::{Sign, Trouble},
    },
    random,
    runtime::ThreadRuntime,
    upstream::{OwnListeners, connector::Connector},
};

pub(crate) struct Options {
    /// The receiver's base URL; `/v1/traces` is added.
    pub url: Uri,
    /// `None` for plain `http://`.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    pub headers: HeaderMap,
    pub timeout: Duration,
    /// The share of new traces that is exported.
    pub sample: f64,
    pub origin: Origin,
}

/// Spans in the queue, of at most `MAX_SPAN` bytes each. The default of OpenTelemetry's SDKs.
pub(crate) const MAX_QUEUED: usize = 2048;
/// Spans in one export, about 200 KiB on the wire. The default of OpenTelemetry's SDKs.
pub(crate) const MAX_BATCH: usize = 512;
/// Between exports that are not full. Short, so that a trace can be looked up right after its request.
const INTERVAL: Duration = Duration::from_secs(1);
/// Tries of one export, the first included. Then the spans are dropped, since newer ones are more useful.
const MAX_TRIES: u32 = 4;
/// The longest wait before the second try. It doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// A longer `Retry-After` of the receiver is cut to this.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// For the queued spans at shutdown. With `drain.timeout` it stays below the 30 s that Kubernetes allows.
const FINAL_EXPORT: Duration = Duration::from_secs(3);
/// Bytes of a receiver's answer.
const MAX_RESPONSE: usize = 64 * 1024;
/// The running exporter. On drop it sends what is queued and ends.
pub(crate) struct Exporter {
    spans: Arc<Spans>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Exporter {
    /// The queue of spans to export.
    pub(crate) fn spans(&self) -> Arc<Spans> {
        self.spans.clone()
    }

    /// Sends what is queued, within a bounded time.
    pub(crate) async fn finish(mut self) {
        self.stop.cancel();
        let Some(thread) = self.thread.take() else {
            return;
        };
        let finished = tokio::task::spawn_blocking(move || drop(thread.join()));
        let _ = timeout(FINAL_EXPORT + Duration::from_secs(1), finished).await;
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// # Errors
/// When the thread cannot be started.
pub(crate) fn start(options: Options, metrics: Arc<Metrics>) -> io::Result<Exporter> {
    let (spans, queue) = Spans::new(options.sample, MAX_QUEUED, metrics.clone());
    // So that the series exist before anything is dropped.
    metrics.spans_dropped(SpanDrop::QueueFull, 0);
    metrics.spans_dropped(SpanDrop::ExportFailed, 0);
    let runtime = ThreadRuntime::new()?;
    let stop = CancellationToken::new();
    let until = stop.clone();
    let thread = std::thread::Builder::new()
        .name("traces".into())
        .spawn(move || {
            let bound = FINAL_EXPORT.min(options.timeout);
            let last = async {
                until.cancelled().await;
                sleep(bound).await;
            };
            runtime.block_on(async {
                let mut sender = Sender::new(options, metrics, until.clone());
                tokio::select! {
                    () = sender.run(queue) => {}
                    () = last => tracing::warn!(event = Event::SpansLeft.label(), "spans were not exported before the gateway stopped"),
                }
            });
        })?;
    Ok(Exporter {
        spans: Arc::new(spans),
        stop,
        thread: Some(thread),
    })
}

struct Sender {
    options: Options,
    target: Uri,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    connector: Connector,
    connection: Option<SendRequest<Full<Bytes>>>,
    start: Instant,
    /// While exports fail.
    failing: Trouble,
}

/// Why an export did not succeed.
enum Failure {
    /// Another try may succeed; after this time, if the receiver named one.
    Transient(BoxError, Option<Duration>),
    Permanent(BoxError),
}

impl Sender {
    fn new(options: Options, metrics: Arc<Metrics>, stop: CancellationToken) -> Self {
        Sender {
            target: target(&options.url),
            // Connecting needs no bound of its own: the export's timeout includes it.
            connector: Connector::new(
                &options.url,
                options.tls.clone(),
                OwnListeners::default(),
                None,
            ),
            options,
            metrics,
            stop,
            connection: None,
            start: Instant::now(),
            failing: Trouble::default(),
        }
    }

    async fn run(&mut self, mut queue: mpsc::Receiver<Span>) {
        let mut batch = Vec::with_capacity(MAX_BATCH);
        loop {
            let until = Instant::now() + INTERVAL;
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = fill(&mut queue, &mut batch, until) => {}
            }
            self.export(&mut batch).await;
        }
        // The queue takes no more spans. Send the rest, in as many exports as needed.
        queue.close();
        while queue.recv_many(&mut batch, MAX_BATCH).await > 0 || !batch.is_empty() {
            self.export(&mut batch).await;
        }
    }

    /// Runs one export. Meanwhile spans wait in the queue, or are dropped if it is full.
    async fn export(&mut self, batch: &mut Vec<Span>) {
        if batch.is_empty() {
            return;
        }
        let message = otlp::request(&self.options.origin, batch).encode_to_vec();
        let (message, spans) = (Bytes::from(message), batch.len() as u64);
        batch.clear();
        let mut backoff = FIRST_BACKOFF;
        for number in 1..=MAX_TRIES {
            let sent = timeout(self.options.timeout, self.send(message.clone())).await;
            let sent = sent.unwrap_or_else(|_elapsed| {
                self.connection = None;
                let cause = "no answer within trace.timeout".into();
                Err(Failure::Transient(cause, None))
            });
            let (cause, after) = match sent {
                Ok(rejected) => return self.succeeded(rejected),
                Err(Failure::Transient(cause, after)) if number < MAX_TRIES => (cause, after),
                Err(Failure::Transient(cause, _) | Failure::Permanent(cause)) => {
                    return self.failed(&cause, spans);
                }
            };
            tracing::debug!(%cause, "an export of spans is retried");
            // Full jitter, so that replicas do not retry together.
            let wait = after.unwrap_or(backoff.mul_f64(random::jitter()));
            tokio::select! {
                () = sleep(wait.min(MAX_BACKOFF)) => {}
                () = self.stop.cancelled() => return self.failed(&cause, spans),
            }
            backoff *= 2;
        }
    }

    fn succeeded(&mut self, rejected: u64) {
        if rejected > 0 {
            tracing::debug!(rejected, "the receiver rejected spans");
            self.metrics.spans_dropped(SpanDrop::Rejected, rejected);
        }
        if let Some(over) = self.failing.end(self.start.elapsed()) {
            tracing::info!(
                event = Event::SpansExportedAgain.label(),
                after_seconds = over.lasted.as_secs_f64(),
                failures = over.signs,
                "spans are exported again, after {}; failures: {}",
                duration_words(over.lasted),
                over.signs
            );
        }
    }

    fn failed(&mut self, cause: &BoxError, spans: u64) {
        self.metrics.spans_dropped(SpanDrop::ExportFailed, spans);
        match self.failing.sign(self.start.elapsed()) {
            None => tracing::debug!(%cause, spans, "spans could not be exported"),
            Some(Sign::Begins) => tracing::warn!(
                event = Event::SpansFailing.label(),
                %cause,
                spans,
                "spans could not be exported, and are dropped until an export succeeds"
            ),
            Some(Sign::GoesOn { lasted, signs }) => tracing::warn!(
                event = Event::SpansFailing.label(),
                %cause,
                spans,
                failures = signs,
                since_seconds = lasted.as_secs_f64(),
                "spans still cannot be exported, for {}",
                duration_words(lasted)
            ),
        }
    }

    /// The number of spans that the receiver rejected.
    async fn send(&mut self, message: Bytes) -> Result<u64, Failure> {
        let lost = |cause: BoxError| Failure::Transient(cause, None);
        let mut connection = match self.open_connection().await {
            Some(connection) => connection,
            None => self.connect().await.map_err(lost)?,
        };
        let mut request = Request::post(self.target.path());
        if let Some(headers) = request.headers_mut() {
            headers.extend(self.options.headers.clone());
            headers.insert(header::CONTENT_TYPE, PROTOBUF);
            let host = self.target.authority().map(Authority::as_str);
            if let Some(Ok(host)) = host.map(HeaderValue::try_from) {
                headers.insert(header::HOST, host);
            }
        }
        let request = request
            .body(Full::new(message))
            .map_err(|e| Failure::Permanent(e.into()))?;
        let response = connection
            .send_request(request)
            .await
            .map_err(|e| lost(e.into()))?;
        let (head, body) = response.into_parts();
        let answer = Limited::new(body, MAX_RESPONSE)
            .collect()
            .await
            .map_err(|e| {
                if head.status.is_success() {
                    Failure::Permanent(e)
                } else {
                    lost(e)
                }
            })?;
        self.connection = Some(connection);
        interpret(head.status, &head.headers, &answer.to_bytes())
    }

    /// The connection of the last export, unless the receiver has closed it.
    async fn open_connection(&mut self) -> Option<SendRequest<Full<Bytes>>> {
        let mut connection = self.connection.take()?;
        connection.ready().await.ok().map(|()| connection)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, BoxError> {
        let stream = self.connector.connect(self.options.timeout).await?.stream;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection for spans ended");
            }
        });
        Ok(sender)
    }
}

const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

/// Fills the batch until it is full, or until `until`.
async fn fill(queue: &mut mpsc::Receiver<Span>, batch: &mut Vec<Span>, until: Instant) {
    let full = async {
        while batch.len() < MAX_BATCH {
            let left = MAX_BATCH - batch.len();
            if queue.recv_many(batch, left).await == 0 {
                // All senders are dropped: wait to be stopped.
                std::future::pending::<()>().await;
            }
        }
    };
    let _ = tokio::time::timeout_at(until, full).await;
}

/// The base URL with the path that OTLP/HTTP gives to traces.
fn target(base: &Uri) -> Uri {
    let mut parts = base.clone().into_parts();
    let path = format!("{}/v1/traces", base.path().trim_end_matches('/'));
    parts.path_and_query = path.parse().ok();
    Uri::from_parts(parts).unwrap_or_default()
}

/// What a receiver's answer means (OTLP specification, "OTLP/HTTP Response").
fn interpret(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<u64, Failure> {
    if status.is_success() {
        // With a status of success, an unreadable answer counts as full success.
        let answer = otlp::Response::decode(body).unwrap_or_default();
        let rejected = answer.partial_success.map_or(0, |p| p.rejected_spans);
        return Ok(u64::try_from(rejected).unwrap_or(0));
    }
    let cause = format!("the receiver answered {}", status.as_u16()).into();
    match status.as_u16() {
        429 | 502 | 503 | 504 => {
            let after = headers.get(header::RETRY_AFTER);
            let seconds = after.and_then(|value| value.to_str().ok()?.parse().ok());
            Err(Failure::Transient(cause, seconds.map(Duration::from_secs)))
        }
        _ => Err(Failure::Permanent(cause)),
    }
}
