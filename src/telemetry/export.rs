//! Sends finished spans to an OTLP/HTTP receiver, from a thread of its own: serving never waits for it. Everything is
//! bounded: the spans that wait, an export's size and time, how often it is tried, and the last one when the gateway stops.

use std::{io, sync::Arc, thread::JoinHandle, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};
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
    runtime::ThreadRuntime,
    upstream::{OwnListeners, connector::Connector},
};

pub struct Options {
    /// The receiver's base URL; `/v1/traces` is added.
    pub url: Uri,
    /// `None` for plain `http://`.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    pub headers: HeaderMap,
    pub timeout: Duration,
    /// Of new traces, the share that is exported.
    pub sample: f64,
    pub origin: Origin,
}

/// Spans that wait, some half a KiB each; OpenTelemetry's own default.
const ROOM: usize = 2048;
/// In one export; OpenTelemetry's own default, some 200 KiB.
const BATCH: usize = 512;
/// Between exports that are not full: a trace is there while one still thinks of it.
const INTERVAL: Duration = Duration::from_secs(1);
/// The first included. What a receiver refuses longer is older than it is useful.
const TRIES: u32 = 4;
/// Before the second try; doubled for each further one.
const PAUSE: Duration = Duration::from_secs(1);
/// A longer demand of the receiver's is cut to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// For what is left when the gateway stops: with `drain.timeout` it stays under the 30 s that Kubernetes gives.
const LAST: Duration = Duration::from_secs(3);
/// Of a receiver's answer.
const MAX_ANSWER: usize = 64 * 1024;
/// What the thread is called.
const THREAD: &str = "traces";

/// The running exporter. Dropped, it sends what is left and ends.
pub struct Exporter {
    spans: Arc<Spans>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Exporter {
    /// Where spans are put.
    pub fn spans(&self) -> Arc<Spans> {
        self.spans.clone()
    }

    /// Sends what is left, within a bound.
    pub async fn finish(mut self) {
        self.stop.cancel();
        let Some(thread) = self.thread.take() else {
            return;
        };
        let ended = tokio::task::spawn_blocking(move || drop(thread.join()));
        let _ = timeout(LAST + Duration::from_secs(1), ended).await;
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// # Errors
/// When there can be no further thread.
pub fn start(options: Options, metrics: Arc<Metrics>) -> io::Result<Exporter> {
    let (spans, queue) = Spans::new(options.sample, ROOM, metrics.clone());
    // So that the series is there before anything is lost.
    metrics.spans_dropped(SpanDrop::QueueFull, 0);
    metrics.spans_dropped(SpanDrop::ExportFailed, 0);
    let runtime = ThreadRuntime::new()?;
    let stop = CancellationToken::new();
    let until = stop.clone();
    let thread = std::thread::Builder::new()
        .name(THREAD.into())
        .spawn(move || {
            let bound = LAST.min(options.timeout);
            let last = async {
                until.cancelled().await;
                sleep(bound).await;
            };
            runtime.block_on(async {
                let mut sender = Sender::new(options, metrics, until.clone());
                tokio::select! {
                    () = sender.run(queue) => {}
                    () = last => tracing::warn!("spans were left when the gateway stopped"),
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
    /// The last export failed, and that has been said.
    failing: bool,
}

/// Why an export did not succeed.
enum Failure {
    /// Another try may; after this time, where the receiver named one.
    Passing(BoxError, Option<Duration>),
    Lasting(BoxError),
}

impl Sender {
    fn new(options: Options, metrics: Arc<Metrics>, stop: CancellationToken) -> Self {
        Sender {
            target: target(&options.url),
            // The time of the whole export ends it before its own does.
            connector: Connector::new(&options.url, options.tls.clone(), OwnListeners::default()),
            options,
            metrics,
            stop,
            connection: None,
            failing: false,
        }
    }

    async fn run(&mut self, mut queue: mpsc::Receiver<Span>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let until = Instant::now() + INTERVAL;
            let stop = self.stop.clone();
            let stopping = tokio::select! {
                () = stop.cancelled() => true,
                () = fill(&mut queue, &mut batch, until) => false,
            };
            if stopping {
                break;
            }
            self.export(&mut batch).await;
        }
        // Nothing more is put in: what is there goes, in as many exports as it takes.
        queue.close();
        while queue.recv_many(&mut batch, BATCH).await > 0 || !batch.is_empty() {
            self.export(&mut batch).await;
        }
    }

    /// One export at a time; meanwhile spans wait in the queue, or are dropped there.
    async fn export(&mut self, batch: &mut Vec<Span>) {
        if batch.is_empty() {
            return;
        }
        let message = otlp::request(&self.options.origin, batch).encode_to_vec();
        let (message, spans) = (Bytes::from(message), batch.len() as u64);
        batch.clear();
        let mut pause = PAUSE;
        for number in 1..=TRIES {
            let sent = timeout(self.options.timeout, self.send(message.clone())).await;
            let sent = sent.unwrap_or_else(|_elapsed| {
                self.connection = None;
                let cause = "no answer within trace.timeout".into();
                Err(Failure::Passing(cause, None))
            });
            let (cause, after) = match sent {
                Ok(rejected) => return self.succeeded(rejected),
                Err(Failure::Passing(cause, after)) if number < TRIES => (cause, after),
                Err(Failure::Passing(cause, _) | Failure::Lasting(cause)) => {
                    return self.failed(&cause, spans);
                }
            };
            tracing::debug!(%cause, "an export of spans is tried again");
            // Full jitter, so that replicas do not come back together.
            let wait = after.unwrap_or(pause.mul_f64(fastrand::f64()));
            tokio::select! {
                () = sleep(wait.min(LONGEST_PAUSE)) => {}
                () = self.stop.cancelled() => return self.failed(&cause, spans),
            }
            pause *= 2;
        }
    }

    fn succeeded(&mut self, rejected: u64) {
        if rejected > 0 {
            tracing::debug!(rejected, "the receiver did not take every span");
            self.metrics.spans_dropped(SpanDrop::Rejected, rejected);
        }
        if std::mem::take(&mut self.failing) {
            tracing::info!("spans are exported again");
        }
    }

    fn failed(&mut self, cause: &BoxError, spans: u64) {
        self.metrics.spans_dropped(SpanDrop::ExportFailed, spans);
        // Said once, not every second while the receiver is away.
        if std::mem::replace(&mut self.failing, true) {
            tracing::debug!(%cause, spans, "spans could not be exported");
        } else {
            tracing::warn!(%cause, spans, "spans could not be exported; this is said once until they can");
        }
    }

    /// How many spans the receiver did not want.
    async fn send(&mut self, message: Bytes) -> Result<u64, Failure> {
        let lost = |cause: BoxError| Failure::Passing(cause, None);
        let mut connection = match self.kept().await {
            Some(connection) => connection,
            None => self.connect().await.map_err(lost)?,
        };
        let mut request = Request::post(self.target.path());
        if let Some(headers) = request.headers_mut() {
            headers.extend(self.options.headers.clone());
            headers.insert(header::CONTENT_TYPE, PROTOBUF);
            if let Some(host) = self.target.authority() {
                let host = HeaderValue::try_from(host.as_str());
                headers.insert(header::HOST, host.map_err(|e| Failure::Lasting(e.into()))?);
            }
        }
        let request = request
            .body(Full::new(message))
            .map_err(|e| Failure::Lasting(e.into()))?;
        let response = connection
            .send_request(request)
            .await
            .map_err(|e| lost(e.into()))?;
        let (head, body) = response.into_parts();
        let answer = Limited::new(body, MAX_ANSWER)
            .collect()
            .await
            .map_err(|e| {
                if head.status.is_success() {
                    Failure::Lasting(e)
                } else {
                    lost(e)
                }
            })?;
        self.connection = Some(connection);
        judge(head.status, &head.headers, &answer.to_bytes())
    }

    /// The connection of the last export, unless the receiver has closed it since.
    async fn kept(&mut self) -> Option<SendRequest<Full<Bytes>>> {
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

/// Until the batch is full, or it is time.
async fn fill(queue: &mut mpsc::Receiver<Span>, batch: &mut Vec<Span>, until: Instant) {
    let full = async {
        while batch.len() < BATCH {
            let room = BATCH - batch.len();
            if queue.recv_many(batch, room).await == 0 {
                // Every sender is gone; what is left to do is to stop.
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
fn judge(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<u64, Failure> {
    if status.is_success() {
        // An answer that cannot be read has still taken everything.
        let answer = otlp::Response::decode(body).unwrap_or_default();
        let rejected = answer.partial_success.map_or(0, |p| p.rejected_spans);
        return Ok(u64::try_from(rejected).unwrap_or(0));
    }
    let cause = format!("the receiver answered {}", status.as_u16()).into();
    match status.as_u16() {
        429 | 502 | 503 | 504 => {
            let after = headers.get(header::RETRY_AFTER);
            let seconds = after.and_then(|value| value.to_str().ok()?.parse().ok());
            Err(Failure::Passing(cause, seconds.map(Duration::from_secs)))
        }
        _ => Err(Failure::Lasting(cause)),
    }
}
