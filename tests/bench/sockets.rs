//! The same callers in real time: real connections, a gateway, and the simulator with a small quota.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use revgate::{
    body::Body,
    serve::Gateway,
    simulator::{self, Received, Simulator},
};
use tokio::{net::TcpStream, time::Instant};
use tower::{ServiceExt, service_fn, util::BoxCloneService};

use crate::simulation::{
    Route, Scenario, Settings, TOKEN,
    client::{NUMBER, Target, drive},
    configuration,
    demand::Demand,
    figures::{Arrival, Figures, Observed},
    lock,
};

/// A window short enough for real time, in DevRev's proportions otherwise.
pub const SETTINGS: Settings = Settings {
    limit: 60,
    window: Duration::from_secs(6),
    windows: 4,
    pool: 12,
    max_wait: Duration::from_secs(6),
};

/// Both routes at once, each with a simulator of its own; together they send a few dozen requests per second.
pub fn measure(scenario: Scenario, seed: u64) -> [(Route, Figures); 2] {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let demand = Demand::draw(scenario, &SETTINGS, seed);
        let (revgate, direct) = tokio::join!(through_revgate(&demand), direct(&demand));
        [(Route::Revgate, revgate), (Route::Direct, direct)]
    })
}

pub async fn through_revgate(demand: &Demand) -> Figures {
    let (devrev, start) = devrev().await;
    let config = configuration(&SETTINGS, &devrev.addr().to_string());
    let gateway = Gateway::start(config, None).expect("the gateway starts");
    let figures = figures(
        target(gateway.address().expect("TCP")),
        demand,
        &devrev,
        start,
    );
    let figures = figures.await;
    gateway.drain().await;
    figures
}

async fn direct(demand: &Demand) -> Figures {
    let (devrev, start) = devrev().await;
    let target = target(devrev.addr());
    let target = target.map_request(|mut request: Request<Body>| {
        let token = HeaderValue::try_from(format!("Bearer {TOKEN}")).expect("a token");
        request.headers_mut().insert(header::AUTHORIZATION, token);
        request
    });
    figures(BoxCloneService::new(target), demand, &devrev, start).await
}

/// The simulator counts milliseconds from its start. The callers' start differs by less than one.
pub async fn devrev() -> (Simulator, Instant) {
    let options = simulator::Options {
        limit: SETTINGS.limit,
        window: SETTINGS.window,
        ..simulator::Options::default()
    };
    let simulator = simulator::start(options).await.expect("a simulator");
    (simulator, Instant::now())
}

async fn figures(target: Target, demand: &Demand, devrev: &Simulator, start: Instant) -> Figures {
    let requests = drive(target, demand, &SETTINGS, start).await;
    let arrivals: Vec<Arrival> = devrev.received().iter().map(arrival).collect();
    let observed = Observed {
        settings: &SETTINGS,
        requests: &requests,
        arrivals: &arrivals,
    };
    observed.figures(false)
}

pub fn arrival(received: &Received) -> Arrival {
    let mut headers = received.headers.iter();
    let number = headers.find(|(name, _)| name == NUMBER);
    Arrival {
        at: Duration::from_millis(received.at_ms),
        request: number.and_then(|(_, value)| value.parse().ok()),
        accepted: received.status == Some(200),
    }
}

type Idle = Arc<Mutex<Vec<SendRequest<Body>>>>;

/// A pool of connections, as many as there are requests in flight.
pub fn target(address: SocketAddr) -> Target {
    let idle = Idle::default();
    BoxCloneService::new(service_fn(move |request| {
        let idle = idle.clone();
        async move { Ok(send(address, &idle, request).await) }
    }))
}

async fn send(address: SocketAddr, idle: &Idle, request: Request<Body>) -> Response<Body> {
    let pooled = lock(idle).pop().filter(SendRequest::is_ready);
    let mut connection = match pooled {
        Some(connection) => connection,
        None => connect(address).await,
    };
    let answer = connection.send_request(request).await;
    let (head, body) = answer.expect("an answer").into_parts();
    let body = body.collect().await.expect("a whole answer").to_bytes();
    lock(idle).push(connection);
    Response::from_parts(head, Body::full(body))
}

pub async fn connect(address: SocketAddr) -> SendRequest<Body> {
    let stream = TcpStream::connect(address).await.expect("connects");
    let (connection, driver) = handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
    tokio::spawn(driver);
    connection
}

/// One call; its status.
pub async fn get(connection: &mut SendRequest<Body>, key: &str) -> u16 {
    let request = Request::get("/dev-users.self")
        .header(header::HOST, "api.devrev.ai")
        .header(header::AUTHORIZATION, format!("Bearer {key}"))
        .body(Body::empty())
        .expect("a request");
    let answer = connection.send_request(request).await.expect("an answer");
    let (head, body) = answer.into_parts();
    body.collect().await.expect("a whole answer");
    head.status.as_u16()
}
