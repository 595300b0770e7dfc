//! The DevRev simulator: answers, quota and errors as DevRev's, on loopback, and faults as planned.

mod answers;
mod asked;
mod control;
mod families;
mod faults;
mod fields;
mod ids;
mod objects;
mod operations;
mod pages;
mod plan;
mod request_log;
mod seed;
mod store;
mod users;
mod view;
mod window;
mod wire;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tracing::info;

pub use plan::{Drip, Fault, FaultPlan, PlanError, Rule, Status, TextDuration};
pub use request_log::Received;
pub use window::{Charge, Windows};

use answers::{Answer, Content};
use faults::Body;
use operations::Call;
use request_log::RequestLog;
use store::Store;

use crate::{bind, event::Event, runtime::ThreadRuntime, wall_clock};

/// How much of a request's body is kept. The rest is read and dropped.
const BODY_KEPT: usize = 1024 * 1024;

#[derive(Debug, Clone)]
pub struct Options {
    pub listen: SocketAddr,
    /// Units in each user's window.
    pub limit: u64,
    pub window: Duration,
    pub plan: FaultPlan,
    /// Begins without objects, beside the user of its tokens.
    pub empty: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            limit: 1000,
            window: Duration::from_secs(300),
            plan: FaultPlan::none(),
            empty: false,
        }
    }
}

/// Shared by all connections.
#[derive(Debug)]
struct SimulatorState {
    windows: Mutex<Windows>,
    store: Mutex<Store>,
    /// The store began without objects.
    empty: bool,
    progress: Mutex<plan::Progress>,
    requests: Mutex<RequestLog>,
    /// Tokens that are refused since [`Simulator::revoke`].
    revoked: Mutex<HashSet<Vec<u8>>>,
}

/// A running simulator; dropping it ends its listener and its connections.
#[derive(Debug)]
pub struct Simulator {
    addr: SocketAddr,
    state: Arc<SimulatorState>,
    accepting: JoinHandle<()>,
}

impl Simulator {
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn received(&self) -> Vec<Received> {
        lock(&self.state.requests).all()
    }

    /// Refuses this token from now on.
    pub fn revoke(&self, token: &str) {
        lock(&self.state.revoked).insert(token.into());
    }

    /// Replaces the plan. The counts of its rules start at zero.
    pub fn set_plan(&self, plan: FaultPlan) {
        *lock(&self.state.progress) = plan::Progress::new(plan);
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

#[expect(
    clippy::unused_async,
    reason = "so that it can only be called on a runtime"
)]
pub async fn start(options: Options) -> io::Result<Simulator> {
    let listener = TcpListener::from_std(bind::tcp(options.listen)?)?;
    let addr = listener.local_addr()?;
    let state = Arc::new(SimulatorState {
        store: Mutex::new(first_objects(options.empty)),
        empty: options.empty,
        windows: Mutex::new(Windows::new(options.limit, options.window)),
        progress: Mutex::new(plan::Progress::new(options.plan)),
        requests: Mutex::new(RequestLog::new()),
        revoked: Mutex::default(),
    });
    let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
    Ok(Simulator {
        addr,
        state,
        accepting,
    })
}

/// Serves until SIGINT or SIGTERM.
pub fn run(options: Options) -> anyhow::Result<()> {
    ThreadRuntime::new()?.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let listen = options.listen;
        let cannot = || format!("--listen {listen} cannot be bound");
        let simulator = start(options).await.with_context(cannot)?;
        info!(event = Event::Listening.label(), listener = "mock", address = %simulator.addr(), "listening");
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    })
}

async fn accept(listener: TcpListener, state: Arc<SimulatorState>) {
    // Aborts the connections when the simulator is dropped.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(wire::serve(stream, Arc::clone(&state)));
                }
                // Probably out of file descriptors; an immediate retry would spin.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

fn first_objects(empty: bool) -> Store {
    let mut store = Store::default();
    seed::own_user(&mut store);
    if !empty {
        seed::objects(&mut store);
    }
    store
}

/// Ignores poisoning: no critical section leaves the data half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn handle(
    state: Arc<SimulatorState>,
    raw: wire::RawSender,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (head, incoming) = request.into_parts();
    let operation = head.uri.path().trim_matches('/').to_owned();
    let query = head.uri.query().unwrap_or_default();
    if control::is_control(&operation) {
        let (body, _) = read(incoming).await;
        let answer = control::answer(&state, &head.method, &operation, query, &body);
        return Ok(respond(answer));
    }
    let number = lock(&state.requests).arrived(&head);
    let token = token(&head.headers);
    let (delay, fault) = lock(&state.progress).next(head.method.as_str(), &operation, token);
    let (body, cut) = if matches!(fault, Some(Fault::EarlyAnswer)) {
        (Bytes::new(), false)
    } else {
        read(incoming).await
    };
    lock(&state.requests).body(number, &body);
    let mut answer = admit(&state, token, &operation).unwrap_or_else(|(quota, user)| {
        let call = Call {
            method: &head.method,
            operation: &operation,
            query,
            body: &body,
            cut,
            user: user.as_deref(),
            now: u64::try_from(wall_clock::since_epoch().as_millis()).unwrap_or(u64::MAX),
        };
        let mut answer = match &fault {
            // It is given in place of the operation, which is not done.
            Some(Fault::Status(status)) => Answer::from_plan(status),
            _ => operations::answer(&mut lock(&state.store), &call),
        };
        answer.headers.extend(quota);
        answer
    });
    if let Some(Fault::Status(status)) = &fault {
        let planned = Answer::from_plan(status);
        answer.status = planned.status;
        answer.content = planned.content;
        answer.headers.remove(header::RETRY_AFTER);
        answer.headers.extend(planned.headers);
    }
    // The delay comes after the charge: DevRev counts a request when it arrives.
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let http2 = head.version == Version::HTTP_2;
    let body = match &fault {
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Drip(drip)) => Some(faults::dripped(&answer.content, drip.bytes, drip.pause.0)),
        Some(Fault::Truncate | Fault::ResetMidBody) if http2 => {
            Some(faults::halved(&answer.content))
        }
        // On HTTP/2 this fault would also end the connection's other streams, so it is left out.
        Some(Fault::CloseAfter) if http2 => None,
        Some(fault) => {
            if let Some(raw_ending) = faults::raw_ending(fault, &answer) {
                if matches!(fault, Fault::CloseAfter | Fault::BothLengths) {
                    lock(&state.requests).answered(number, answer.status.as_u16());
                }
                // The channel is full if another stream has ended the connection already.
                let _ = raw.try_send(raw_ending);
                return std::future::pending().await;
            }
            None
        }
        None => None,
    };
    lock(&state.requests).answered(number, answer.status.as_u16());
    Ok(match body {
        Some(body) => finish(answer.status, answer.headers, body),
        None => respond(answer),
    })
}

/// The token of a request, with or without its scheme.
fn token(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let token = match value.split_at_checked(7) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => token,
        _ => value,
    };
    Some(token.trim_ascii()).filter(|token| !token.is_empty())
}

/// `Ok` is a refusal. `Err` admits the request: the quota headers of its answer, and the user if the token names one.
fn admit(
    state: &SimulatorState,
    token: Option<&[u8]>,
    operation: &str,
) -> Result<Answer, (HeaderMap, Option<String>)> {
    let Some(token) = token else {
        // An OAuth callback carries no token.
        if operation == "keyrings.authorize" {
            return Ok(Answer::json(StatusCode::OK, &serde_json::json!({})));
        }
        return Ok(answers::unauthenticated());
    };
    if users::is_refused(token) || lock(&state.revoked).contains(token) {
        return Ok(answers::unauthenticated());
    }
    let now = wall_clock::since_epoch();
    let user = users::user(token);
    let of = user.as_ref().map_or(token, |user| user.as_bytes());
    let charge = lock(&state.windows).charge(of, now);
    let mut quota = HeaderMap::new();
    quota.insert("x-ratelimit-limit", charge.limit.into());
    quota.insert("x-ratelimit-remaining", charge.remaining.into());
    quota.insert("x-ratelimit-reset", charge.reset.into());
    match charge.retry_after {
        Some(seconds) => {
            let mut refused = answers::too_many(seconds);
            refused.headers.extend(quota);
            Ok(refused)
        }
        None => Err((quota, user)),
    }
}

/// A body, and whether it was larger than what is kept.
async fn read(mut incoming: Incoming) -> (Bytes, bool) {
    let (mut kept, mut cut) = (Vec::new(), false);
    while let Some(Ok(frame)) = incoming.frame().await {
        if let Some(data) = frame.data_ref() {
            let left = BODY_KEPT - kept.len();
            cut |= data.len() > left;
            kept.extend_from_slice(&data[..data.len().min(left)]);
        }
    }
    (kept.into(), cut)
}

fn respond(answer: Answer) -> Response<Body> {
    let mut headers = answer.headers;
    if let Content::Blob(bytes) = answer.content {
        headers.insert(header::CONTENT_LENGTH, bytes.into());
    }
    finish(answer.status, headers, faults::intact(answer.content))
}

fn finish(status: StatusCode, headers: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
