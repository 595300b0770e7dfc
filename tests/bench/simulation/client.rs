//! An ordinary client, the same on both routes. It tries up to five times, honours a `Retry-After` in whole seconds, backs off
//! where there is none, and knows nothing about the other callers.

use std::{convert::Infallible, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use revgate::body::Body;
use tokio::{task::JoinSet, time::Instant};
use tower::{ServiceExt, util::BoxCloneService};

use super::{CALLERS, Settings, Shared, demand::Demand, figures::Issued, lock};

/// Where a request is sent: a stack, the model, or a socket.
pub type Target = BoxCloneService<Request<Body>, Response<Body>, Infallible>;

/// A header that revgate forwards. It identifies a request in the simulator's record.
pub const NUMBER: &str = "x-sim-request";

const ATTEMPTS: u32 = 5;
const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Sends the demanded requests until the time is over, then aborts those in flight.
pub async fn drive(
    target: Target,
    demand: &Demand,
    settings: &Settings,
    start: Instant,
) -> Vec<Issued> {
    let journal = Shared::<Vec<Issued>>::default();
    let mut callers = JoinSet::new();
    for (caller, times) in demand.callers.iter().enumerate() {
        let client = Client {
            caller,
            target: target.clone(),
            start,
            journal: journal.clone(),
        };
        callers.spawn(client.run(times.clone(), settings.pool));
    }
    tokio::time::sleep_until(start + settings.span()).await;
    // A caller that has ended by now has sent all its requests or panicked.
    while let Some(ended) = callers.try_join_next() {
        ended.expect("no panic");
    }
    callers.shutdown().await;
    std::mem::take(&mut *lock(&journal))
}

#[derive(Clone)]
struct Client {
    caller: usize,
    target: Target,
    start: Instant,
    journal: Shared<Vec<Issued>>,
}

impl Client {
    async fn run(self, times: Vec<Duration>, pool: usize) {
        let mut in_flight = JoinSet::new();
        for at in times {
            tokio::time::sleep_until(self.start + at).await;
            while let Some(ended) = in_flight.try_join_next() {
                ended.expect("no panic");
            }
            if in_flight.len() < pool {
                in_flight.spawn(self.clone().request());
            }
        }
        while let Some(ended) = in_flight.join_next().await {
            ended.expect("no panic");
        }
    }

    /// One request, until it is answered or given up.
    async fn request(mut self) {
        let number = {
            let mut journal = lock(&self.journal);
            journal.push(Issued {
                caller: self.caller,
                at: self.start.elapsed(),
                left: None,
            });
            journal.len() - 1
        };
        for attempt in 1..=ATTEMPTS {
            let response = self.attempt(number).await;
            let busy = matches!(
                response.status(),
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
            );
            if !busy || attempt == ATTEMPTS {
                break;
            }
            tokio::time::sleep(pause(&response, attempt)).await;
        }
        lock(&self.journal)[number].left = Some(self.start.elapsed());
    }

    async fn attempt(&mut self, number: usize) -> Response<()> {
        let credential = format!("Bearer {}", CALLERS[self.caller].key());
        let request = Request::get("/dev-users.self")
            .header(header::HOST, "api.devrev.ai")
            .header(header::AUTHORIZATION, credential)
            .header(NUMBER, number)
            .body(Body::empty())
            .expect("a request");
        let answer = self.target.clone().oneshot(request).await;
        let (head, body) = answer.unwrap_or_else(|never| match never {}).into_parts();
        body.collect().await.expect("a whole answer");
        Response::from_parts(head, ())
    }
}

fn pause(response: &Response<()>, attempt: u32) -> Duration {
    let seconds = |value: &HeaderValue| value.to_str().ok()?.parse().ok();
    match response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(seconds)
    {
        Some(seconds) => Duration::from_secs(seconds),
        // Full jitter.
        None => (BACKOFF_MIN * 2_u32.pow(attempt - 1))
            .min(BACKOFF_MAX)
            .mul_f64(fastrand::f64()),
    }
}
