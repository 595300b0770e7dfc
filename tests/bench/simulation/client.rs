//! An ordinary client, the same on both ways: it tries up to five times, keeps to a `Retry-After` in whole seconds, backs off by
//! itself where there is none, and knows nothing of the other callers.

use std::{convert::Infallible, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use revgate::body::Body;
use tokio::{task::JoinSet, time::Instant};
use tower::{ServiceExt, util::BoxCloneService};

use super::{CALLERS, Settings, Shelf, demand::Demand, figures::Issued, open};

/// Where a request goes: a stack, the model, or a socket.
pub type Door = BoxCloneService<Request<Body>, Response<Body>, Infallible>;

/// Passes through revgate, and tells the double's record which request it is.
pub const NUMBER: &str = "x-sim-request";

const ATTEMPTS: u32 = 5;
const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Sends what is demanded, until the time is over. What is under way then is broken off.
pub async fn drive(
    door: Door,
    demand: &Demand,
    settings: &Settings,
    start: Instant,
) -> Vec<Issued> {
    let journal = Shelf::<Vec<Issued>>::default();
    let mut callers = JoinSet::new();
    for (caller, times) in demand.callers.iter().enumerate() {
        let client = Client {
            caller,
            door: door.clone(),
            start,
            journal: journal.clone(),
        };
        callers.spawn(client.run(times.clone(), settings.pool));
    }
    tokio::time::sleep_until(start + settings.span()).await;
    // One that has ended by now has either sent all it had, or panicked.
    while let Some(ended) = callers.try_join_next() {
        ended.expect("no panic");
    }
    callers.shutdown().await;
    std::mem::take(&mut *open(&journal))
}

#[derive(Clone)]
struct Client {
    caller: usize,
    door: Door,
    start: Instant,
    journal: Shelf<Vec<Issued>>,
}

impl Client {
    async fn run(self, times: Vec<Duration>, pool: usize) {
        let mut under_way = JoinSet::new();
        for at in times {
            tokio::time::sleep_until(self.start + at).await;
            while let Some(ended) = under_way.try_join_next() {
                ended.expect("no panic");
            }
            if under_way.len() < pool {
                under_way.spawn(self.clone().request());
            }
        }
        while let Some(ended) = under_way.join_next().await {
            ended.expect("no panic");
        }
    }

    /// One request, to its answer or until it is given up.
    async fn request(mut self) {
        let number = {
            let mut journal = open(&self.journal);
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
        open(&self.journal)[number].left = Some(self.start.elapsed());
    }

    async fn attempt(&mut self, number: usize) -> Response<()> {
        let credential = format!("Bearer {}", CALLERS[self.caller].key());
        let request = Request::get("/dev-users.self")
            .header(header::HOST, "api.devrev.ai")
            .header(header::AUTHORIZATION, credential)
            .header(NUMBER, number)
            .body(Body::empty())
            .expect("a request");
        let answer = self.door.clone().oneshot(request).await;
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
