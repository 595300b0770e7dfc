//! A model of DevRev without a socket: the simulator's windows under tokio's paused clock, and answers with a latency.

use std::{
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, UNIX_EPOCH},
};

use fastrand::Rng;
use http::{HeaderValue, Request, Response, StatusCode, header};
use revgate::{
    body::Body,
    error::Error,
    layer::BoxFuture,
    simulator::{Charge, Windows},
};
use tokio::time::Instant;
use tower::Service;

use super::{Settings, Shared, TOKEN, client::NUMBER, figures::Arrival, lock};

/// The wall clock at the start of a simulation. Its fraction matters: DevRev rounds the reset up to whole seconds.
pub const EPOCH: Duration = Duration::new(1_800_000_000, 370_000_000);

const LATENCY: std::ops::RangeInclusive<u64> = 40..=120;

#[derive(Clone)]
pub struct Model(Shared<World>);

struct World {
    windows: Windows,
    start: Instant,
    latency: Rng,
    arrivals: Vec<Arrival>,
}

impl Model {
    pub fn new(settings: &Settings, start: Instant, seed: u64) -> Self {
        Model(Arc::new(Mutex::new(World {
            windows: Windows::new(settings.limit, settings.window),
            start,
            latency: Rng::with_seed(seed),
            arrivals: Vec::new(),
        })))
    }

    pub fn take_outside(&self) {
        lock(&self.0).arrived(None);
    }

    /// The attempts that arrived.
    pub fn arrivals(&self) -> Vec<Arrival> {
        std::mem::take(&mut lock(&self.0).arrivals)
    }
}

impl World {
    fn wall(&self) -> Duration {
        EPOCH + self.start.elapsed()
    }

    fn arrived(&mut self, request: Option<usize>) -> Charge {
        let charge = self.windows.charge(TOKEN.as_bytes(), self.wall());
        self.arrivals.push(Arrival {
            at: self.start.elapsed(),
            request,
            accepted: charge.retry_after.is_none(),
        });
        charge
    }
}

impl Service<Request<Body>> for Model {
    type Response = Response<Body>;
    type Error = Error;
    type Future = BoxFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    /// The unit is taken on arrival, whatever the latency of the answer.
    fn call(&mut self, request: Request<Body>) -> BoxFuture {
        let number = request.headers().get(NUMBER).and_then(number);
        let mut world = lock(&self.0);
        let charge = world.arrived(number);
        let latency = Duration::from_millis(world.latency.u64(LATENCY));
        drop(world);
        let shared = self.0.clone();
        Box::pin(async move {
            tokio::time::sleep(latency).await;
            let now = lock(&shared).wall();
            Ok(answer(charge, now))
        })
    }
}

fn number(value: &HeaderValue) -> Option<usize> {
    value.to_str().ok()?.parse().ok()
}

fn answer(charge: Charge, now: Duration) -> Response<Body> {
    let (status, body) = match charge.retry_after {
        None => (StatusCode::OK, serde_json::json!({"dev_user": {}})),
        Some(seconds) => {
            let body = serde_json::json!({
                "type": "too_many_requests",
                "message": "Too many requests, retry after the time given",
                "retry_after": seconds,
            });
            (StatusCode::TOO_MANY_REQUESTS, body)
        }
    };
    let mut response = Response::new(Body::full(body.to_string().into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let date = httpdate::fmt_http_date(UNIX_EPOCH + now);
    headers.insert(header::DATE, date.parse().expect("a date"));
    headers.insert("x-ratelimit-limit", charge.limit.into());
    headers.insert("x-ratelimit-remaining", charge.remaining.into());
    headers.insert("x-ratelimit-reset", charge.reset.into());
    if let Some(seconds) = charge.retry_after {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    response
}
