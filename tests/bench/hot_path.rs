//! The cost of the quota layer per request while quota is plentiful: heap allocations and time. Compares a service that
//! answers at once with the same service behind the layer.

use std::{
    future::{Future, Ready, ready},
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use revgate::{
    body::Body,
    error::Error,
    layer::quota::{Quota, QuotaParams},
    plan::QuotaPlan,
    policy::{
        access::Access,
        fair::{Priority, Share},
        ledger::LedgerRules,
        operation::Operation,
    },
    record::Record,
    state::{Clock, draining::Draining, quota::Groups},
    types::{Caller, Deadline, QuotaRules},
};
use tower::{Service, service_fn};

/// Calls per batch. Their requests are made beforehand, so that only the calls are measured.
const BATCH: usize = 1000;
const BATCHES: usize = 101;

/// The cost of one call, including any inner service.
#[derive(Clone, Copy)]
pub struct Cost {
    pub allocations: f64,
    pub nanoseconds: f64,
}

pub struct Costs {
    pub inner: Cost,
    pub with_quota: Cost,
}

pub fn costs() -> Costs {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    // The layer reads tokio's clock; nothing here waits for it.
    let _entered = runtime.enter();
    let (_drain, draining) = Draining::new();
    // Shared, so that the clone of the service that the layer makes for each call allocates nothing.
    let headers = Arc::new(plenty());
    let inner = service_fn(move |_: Request<Body>| answer((*headers).clone()));
    let params = params(draining);
    Costs {
        inner: cost(&mut inner.clone()),
        with_quota: cost(&mut Quota::new(inner, params)),
    }
}

fn params(draining: Draining) -> Arc<QuotaParams> {
    let rules = QuotaRules {
        ledger: LedgerRules {
            spread_above: 0.5,
            reserve: 0.0,
            max_retry_after: Duration::from_secs(600),
        },
        max_waiting: 1024,
    };
    let quota = QuotaPlan {
        rules,
        groups: [("main".into(), Vec::new())].into(),
    };
    Arc::new(QuotaParams {
        groups: Arc::new(Groups::new(Arc::new(quota), Clock::start())),
        rules,
        draining,
        metrics: Arc::default(),
        tally: Arc::default(),
    })
}

/// A request with the extensions that the quota layer reads.
fn request(caller: &Arc<Caller>) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.method_mut() = Method::POST;
    let extensions = request.extensions_mut();
    extensions.insert(caller.clone());
    extensions.insert(Record::default());
    extensions.insert(Operation::from_path("/rev-users.link"));
    extensions.insert(Deadline(tokio::time::Instant::now() + caller.max_wait));
    request
}

fn caller() -> Arc<Caller> {
    Arc::new(Caller {
        name: "billing".into(),
        token: Some("main".into()),
        group: "main".into(),
        share: Share {
            caller: "billing".into(),
            weight: 1,
            priority: Priority::Interactive,
        },
        access: Access::new(&["*".into()], &[]),
        max_wait: Duration::from_secs(30),
        enforce: true,
    })
}

/// A quota that the batches cannot exhaust.
fn plenty() -> HeaderMap {
    let now = SystemTime::now();
    let reset = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() + 300;
    let mut headers = HeaderMap::new();
    headers.insert("x-ratelimit-limit", HeaderValue::from(1_000_000_000));
    headers.insert("x-ratelimit-remaining", HeaderValue::from(999_000_000));
    headers.insert("x-ratelimit-reset", HeaderValue::from(reset));
    let date = httpdate::fmt_http_date(now);
    headers.insert(header::DATE, date.parse().expect("a date"));
    headers
}

fn answer(headers: HeaderMap) -> Ready<Result<Response<Body>, Error>> {
    let mut response = Response::new(Body::empty());
    *response.headers_mut() = headers;
    ready(Ok(response))
}

fn cost<S>(service: &mut S) -> Cost
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error>,
{
    let caller = caller();
    let batch = || (0..BATCH).map(|_| request(&caller)).collect::<Vec<_>>();
    // The first calls allocate what lasts: labels of metrics, the group.
    calls(service, batch());
    let requests = batch();
    let allocated = allocation_counter::measure(|| calls(service, requests));
    let mut times: Vec<Duration> = (0..BATCHES)
        .map(|_| {
            let requests = batch();
            let start = Instant::now();
            calls(service, requests);
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    Cost {
        allocations: allocated.count_total as f64 / BATCH as f64,
        nanoseconds: times[BATCHES / 2].as_nanos() as f64 / BATCH as f64,
    }
}

fn calls<S>(service: &mut S, requests: Vec<Request<Body>>)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error>,
{
    let mut context = Context::from_waker(Waker::noop());
    for request in requests {
        let ready = service.poll_ready(&mut context);
        assert!(ready.is_ready(), "a layer's readiness only delegates");
        let future = pin!(service.call(request));
        let Poll::Ready(result) = future.poll(&mut context) else {
            panic!("nothing waits while quota is plentiful");
        };
        result.expect("an answer");
    }
}
