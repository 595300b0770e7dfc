//! Protects an upstream that fails: while a circuit is open, the attempts that it concerns are refused at once.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::Service;

use super::{Either, attempt_end};
use crate::{
    body::{Body, InboundFault},
    error::Error,
    policy::{
        circuit::{CircuitRules, Origin, Pass},
        operation::Operation,
        retry::AttemptEnd,
    },
    state::circuit::UpstreamCircuit,
    types::{Caller, CallerToken, UnknownUser, other},
};

/// See the module.
#[derive(Clone)]
pub(crate) struct CircuitBreaker<S> {
    inner: S,
    circuit: Arc<UpstreamCircuit>,
    rules: CircuitRules,
}

impl<S> CircuitBreaker<S> {
    pub(crate) fn new(inner: S, circuit: Arc<UpstreamCircuit>, rules: CircuitRules) -> Self {
        CircuitBreaker {
            inner,
            circuit,
            rules,
        }
    }
}

impl<S> Service<Request<Body>> for CircuitBreaker<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error>,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = Either<Passed<S::Future>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let inbound = unread(&request);
        match self
            .circuit
            .try_pass(&origin(&request), inbound.is_some(), &self.rules)
        {
            Ok(pass) => {
                // Made before the call, so that a panic in it returns the pass too.
                let guard = PassGuard {
                    circuit: self.circuit.clone(),
                    rules: self.rules,
                    pass: Some(pass),
                };
                Either::inner(Passed {
                    inner: self.inner.call(request),
                    inbound,
                    guard,
                })
            }
            Err(retry_after) => Either::refused(Error::CircuitOpen { retry_after }),
        }
    }
}

/// Whose attempt it is. In mode "validate" a caller is a user of DevRev, whose group has its name. All clients whose
/// token is not known yet are one caller: otherwise made-up tokens would pass for many.
fn origin(request: &Request<Body>) -> Origin {
    let extensions = request.extensions();
    let caller = match extensions.get::<Arc<Caller>>() {
        Some(_) if extensions.get::<UnknownUser>().is_some() => Arc::from("unverified"),
        Some(caller) if extensions.get::<CallerToken>().is_some() => caller.group.clone(),
        Some(caller) => caller.name.clone(),
        None => other(),
    };
    Origin::new(caller, extensions.get::<Operation>())
}

/// A handle to the body, if some of it has not come from the caller yet.
fn unread(request: &Request<Body>) -> Option<InboundFault> {
    if request.body().is_read() {
        return None;
    }
    let inbound = request.extensions().get::<InboundFault>();
    let inbound = inbound.cloned().unwrap_or_default();
    Some(inbound).filter(|inbound| !inbound.ended())
}

/// Holds the pass of one attempt and returns it when dropped before the attempt has ended, as when the client disconnects.
struct PassGuard {
    circuit: Arc<UpstreamCircuit>,
    rules: CircuitRules,
    pass: Option<Pass>,
}

impl PassGuard {
    fn settle(&mut self, end: Option<AttemptEnd>, sent: bool) {
        if let Some(pass) = self.pass.take() {
            self.circuit.settle(pass, end, sent, &self.rules);
        }
    }
}

impl Drop for PassGuard {
    fn drop(&mut self) {
        if let Some(pass) = self.pass.take() {
            self.circuit.abandon(pass);
        }
    }
}

pin_project! {
    /// An attempt in flight; its end is reported to the circuit.
    pub struct Passed<F> {
        #[pin]
        inner: F,
        inbound: Option<InboundFault>,
        guard: PassGuard,
    }
}

impl<F: Future<Output = Result<Response<Body>, Error>>> Future for Passed<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        let sent = this.inbound.as_ref().is_none_or(InboundFault::ended);
        this.guard.settle(attempt_end(&result), sent);
        Poll::Ready(result)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use bytes::Bytes;
    use http::StatusCode;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{
        policy::circuit::Status, state::Clock, telemetry::metrics::Metrics, types::RetryAfter,
    };

    const OPEN: Duration = Duration::from_secs(5);
    const RULES: CircuitRules = CircuitRules {
        failures: 2,
        within: Duration::from_secs(10),
        open: OPEN,
    };

    struct Rig {
        circuit: Arc<UpstreamCircuit>,
        metrics: Arc<Metrics>,
        sent: AtomicUsize,
    }

    impl Rig {
        fn new() -> Rig {
            let metrics = Arc::new(Metrics::new());
            let circuit = UpstreamCircuit::new(Clock::start(), metrics.clone(), Arc::default());
            Rig {
                circuit: Arc::new(circuit),
                metrics,
                sent: AtomicUsize::new(0),
            }
        }

        /// An attempt that ends immediately with `end`.
        async fn attempt(
            &self,
            end: impl Fn() -> Result<Response<Body>, Error>,
        ) -> Result<Response<Body>, Error> {
            self.send(Request::new(Body::empty()), end).await
        }

        async fn send(
            &self,
            request: Request<Body>,
            end: impl Fn() -> Result<Response<Body>, Error>,
        ) -> Result<Response<Body>, Error> {
            let inner = service_fn(|_| {
                self.sent.fetch_add(1, Ordering::Relaxed);
                std::future::ready(end())
            });
            let service = CircuitBreaker::new(inner, self.circuit.clone(), RULES);
            service.oneshot(request).await
        }

        async fn open(&self) {
            for _ in 0..2 {
                let _ = self.attempt(|| answer(503, None)).await;
            }
            assert_eq!(self.state(), Status::Open);
        }

        /// The state for this caller and operation. The metric must agree with that of the whole circuit.
        fn state(&self) -> Status {
            let whole = self.circuit.view(&RULES).state;
            let gauge = format!(
                "\nrevgate_circuit_open {}\n",
                u8::from(whole != Status::Closed)
            );
            assert!(self.metrics.encode().contains(&gauge), "{whole:?}");
            let origin = Origin::new(other(), None);
            self.circuit.view_for(&origin, &RULES).state
        }
    }

    type Outcome = Result<Response<Body>, Error>;

    /// A request whose body has not come from the caller yet.
    fn upload() -> Request<Body> {
        Request::new(Body::prefixed(Bytes::from_static(b"a"), Body::empty()))
    }

    fn answer(status: u16, retry_after: Option<Duration>) -> Result<Response<Body>, Error> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        if let Some(retry_after) = retry_after {
            response.extensions_mut().insert(RetryAfter(retry_after));
        }
        Ok(response)
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_circuit_refuses_with_the_true_time_and_sends_nothing() {
        let rig = Rig::new();
        rig.open().await;
        tokio::time::advance(Duration::from_secs(2)).await;
        match rig.attempt(|| answer(200, None)).await {
            Err(Error::CircuitOpen { retry_after }) => {
                assert_eq!(retry_after, Duration::from_secs(3));
            }
            other => panic!("{:?}", other.map(|response| response.status())),
        }
        assert_eq!(rig.sent.load(Ordering::Relaxed), 2);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(rig.state(), Status::HalfOpen);
        rig.attempt(|| answer(200, None)).await.expect("the probe");
        assert_eq!(rig.state(), Status::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn no_connection_a_lost_connection_and_a_timeout_open_it() {
        let ends: [fn() -> Error; 3] = [
            || Error::unreachable("refused"),
            || Error::broken("reset"),
            || Error::UpstreamTimeout,
        ];
        for end in ends {
            let rig = Rig::new();
            for _ in 0..2 {
                let _ = rig.attempt(|| Err(end())).await;
            }
            assert_eq!(rig.state(), Status::Open, "{:?}", end());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_evidence_neither_opens_nor_closes_it() {
        let retry_after = Duration::from_secs(1);
        let ends: [&dyn Fn() -> Result<Response<Body>, Error>; 9] = [
            &|| Err(Error::QuotaExhausted { retry_after }),
            &|| Err(Error::WaitingRoomFull { retry_after }),
            &|| Err(Error::Overloaded { retry_after }),
            &|| Err(Error::Draining { retry_after }),
            &|| Err(Error::TokenUnavailable { retry_after }),
            &|| Err(Error::BrokenBody),
            &|| Err(Error::BodyTooLarge { max_bytes: 1 }),
            &|| Err(Error::Internal),
            &|| answer(503, Some(retry_after)),
        ];
        for (number, end) in ends.into_iter().enumerate() {
            let rig = Rig::new();
            let _ = rig.attempt(|| answer(500, None)).await;
            for _ in 0..3 {
                let _ = rig.attempt(end).await;
            }
            assert_eq!(rig.state(), Status::Closed, "{number}");
            let _ = rig.attempt(|| answer(500, None)).await;
            assert_eq!(rig.state(), Status::Open, "{number} reset the count");
            tokio::time::advance(OPEN).await;
            let before = rig.sent.load(Ordering::Relaxed);
            for _ in 0..2 {
                let _ = rig.attempt(end).await;
            }
            assert_eq!(rig.state(), Status::HalfOpen, "{number}");
            let sent = rig.sent.load(Ordering::Relaxed) - before;
            assert_eq!(sent, 2, "{number}: each was a probe");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_disconnects_during_the_probe_returns_its_pass() {
        let rig = Rig::new();
        rig.open().await;
        tokio::time::advance(OPEN).await;
        let never =
            service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, Error>>());
        let hangs = CircuitBreaker::new(never, rig.circuit.clone(), RULES);
        let probe = tokio::spawn(hangs.oneshot(Request::new(Body::empty())));
        tokio::task::yield_now().await;
        let second = rig.attempt(|| answer(200, None)).await;
        assert!(matches!(second, Err(Error::CircuitOpen { retry_after }) if retry_after == OPEN));
        probe.abort();
        assert!(probe.await.is_err());
        rig.attempt(|| answer(200, None))
            .await
            .expect("the next probe");
        assert_eq!(rig.state(), Status::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_sent_as_a_whole_says_nothing() {
        let ends: [fn() -> Outcome; 3] = [
            || answer(500, None),
            || Err(Error::broken("reset")),
            || Err(Error::UpstreamTimeout),
        ];
        for end in ends {
            let rig = Rig::new();
            for _ in 0..3 {
                let _ = rig.send(upload(), end).await;
            }
            assert_eq!(rig.state(), Status::Closed, "{:?}", end().err());
        }
        // A success of such an attempt does not end the row either.
        let rig = Rig::new();
        let _ = rig.attempt(|| answer(500, None)).await;
        let _ = rig.send(upload(), || answer(200, None)).await;
        let _ = rig.attempt(|| answer(500, None)).await;
        assert_eq!(rig.state(), Status::Open);
        // That there is no connection is never the caller's doing.
        let rig = Rig::new();
        for _ in 0..2 {
            let _ = rig
                .send(upload(), || Err(Error::unreachable("refused")))
                .await;
        }
        assert_eq!(rig.circuit.view(&RULES).state, Status::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_does_not_move_holds_no_probe() {
        let rig = Rig::new();
        rig.open().await;
        tokio::time::advance(OPEN).await;
        let never =
            service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, Error>>());
        let hangs = CircuitBreaker::new(never, rig.circuit.clone(), RULES);
        let probe = tokio::spawn(hangs.oneshot(upload()));
        tokio::task::yield_now().await;
        let second = rig.send(upload(), || answer(200, None)).await;
        assert!(matches!(second, Err(Error::CircuitOpen { retry_after }) if retry_after == OPEN));
        rig.attempt(|| answer(200, None)).await.expect("the probe");
        assert_eq!(rig.state(), Status::Closed);
        probe.abort();
    }

    #[test]
    fn clients_with_a_token_that_is_not_known_are_one_caller() {
        let request = |group: &str, unverified: bool| {
            let mut request = Request::new(Body::empty());
            let mut caller = Caller::named("other");
            caller.group = group.into();
            let extensions = request.extensions_mut();
            extensions.insert(Arc::new(caller));
            extensions.insert(Operation::from_path("/auth-tokens.info"));
            extensions.insert(CallerToken {
                header: http::HeaderValue::from_static("Bearer a"),
                hash: [0; 32],
            });
            if unverified {
                extensions.insert(UnknownUser);
            }
            origin(&request)
        };
        assert_eq!(request("one", true), request("two", true));
        assert_ne!(request("one", false), request("two", false));
        assert_ne!(request("one", false), request("one", true));
    }
}
