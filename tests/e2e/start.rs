//! A start with many connections, when nothing is known yet of DevRev's quota.

use std::{sync::atomic::Ordering, time::Duration};

use futures_util::future::join_all;
use revgate::{
    serve::Gateway,
    simulator::{self, Options},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    double::{Double, Http1},
    http::{Answer, Client, get, request},
    rig::{KEY, TOKEN, file, start},
};

const CONNECTIONS: usize = 1000;

/// All connections are one caller's, and their requests hold places until their answers are written. A caller gets seven eighths.
const LISTEN: &str = "[listen]\nmax_connections = 4096\n";
const PLACES: &str = "[limits]\nmax_in_flight = 4096\n";

/// A gateway for so many.
fn large_gateway(upstream: &str, listen: &str) -> Gateway {
    let text = file(upstream, PLACES)
        .replacen("[listen]\n", &format!("{LISTEN}{listen}\n"), 1)
        .replace("\"2s\"", "\"60s\"");
    start(&text, &[("DEVREV_TOKEN", TOKEN)])
}

/// Both ends of all connections are in this process.
fn raise_descriptors() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("the soft limit is raised");
}

/// The answers to one call on each of so many connections, which are all sent before any is read.
async fn burst(address: std::net::SocketAddr, wait: u32) -> Vec<Answer> {
    let clients = (0..CONNECTIONS).map(|_| Client::connect(address));
    let mut clients = join_all(clients).await;
    let wait = format!("wait={wait}");
    let headers = [("Authorization", KEY), ("Prefer", wait.as_str())];
    let call = request("GET", "/works.list", &headers, "");
    join_all(clients.iter_mut().map(|client| client.send(&call))).await;
    let answers = clients.iter_mut().map(Client::answer);
    let answers = join_all(answers).await;
    answers
        .into_iter()
        .map(|answer| answer.expect("an answer"))
        .collect()
}

#[tokio::test]
async fn a_thousand_connections_at_a_start_cause_a_handful_of_429s() {
    raise_descriptors();
    for workers in [1, 2] {
        let options = Options {
            limit: 1000,
            window: Duration::from_secs(300),
            ..Options::default()
        };
        let devrev = simulator::start(options).await.expect("starts");
        let workers = format!("workers = {workers}");
        let gateway = large_gateway(&devrev.addr().to_string(), &workers);
        // Others have nearly spent the window.
        let mut outside = Client::connect(devrev.addr()).await;
        let bearer = format!("Bearer {TOKEN}");
        for _ in 0..900 {
            outside.send(get("/works.list", &bearer)).await;
            assert_eq!(outside.answer().await.expect("an answer").status, 200);
        }
        let answers = burst(gateway.address().expect("TCP"), 4).await;
        let (mut served, mut refused) = (0, 0);
        for answer in &answers {
            if answer.status == 200 {
                served += 1;
                continue;
            }
            assert_eq!(answer.code(), "quota_exhausted", "{answer:?}");
            // The units that are left are a few seconds apart, up to the reset, and some wait for the window after that.
            let after = answer.header("retry-after").expect("a time");
            let after: u64 = after.parse().expect("seconds");
            assert!((1..=602).contains(&after), "{after}");
            refused += 1;
        }
        assert!(served >= 1, "{served} served, {refused} refused");
        let times = answers.iter().filter_map(|answer| {
            let after: u64 = answer.header("retry-after")?.parse().ok()?;
            Some(after)
        });
        let longest = times.max().expect("some were refused");
        assert!(longest >= 60, "a true time is minutes for most: {longest}");
        let received = devrev.received();
        let throttled = received.iter().filter(|one| one.status == Some(429));
        let throttled = throttled.count();
        assert!(throttled <= 5, "{throttled} of {}", received.len());
        assert_eq!(received.len() - 900, served, "{workers}");
    }
}

#[tokio::test]
async fn an_upstream_that_reports_no_window_holds_nobody_after_the_first_call() {
    raise_descriptors();
    let double = Double::start(|_, stream, requests| async move {
        let mut connection = Http1::accept(stream);
        while connection.request().await.is_some() {
            // While the first answer takes its time, at most few others come.
            if requests.fetch_add(1, Ordering::SeqCst) == 0 {
                tokio::time::sleep(Duration::from_millis(200)).await;
                let others = requests.load(Ordering::SeqCst) - 1;
                assert!(others < CONNECTIONS / 2, "{others}");
            }
            connection.answer(&[]).await;
        }
    })
    .await;
    let gateway = large_gateway(&double.address.to_string(), "");
    let answers = burst(gateway.address().expect("TCP"), 30).await;
    let bad = answers.iter().find(|answer| answer.status != 200);
    assert!(bad.is_none(), "{bad:?}");
    assert_eq!(double.requests(), CONNECTIONS);
    gateway.drain().await;
}

#[tokio::test]
async fn a_first_attempt_that_never_ends_holds_the_others_for_a_moment() {
    let double = Double::start(|_, stream, requests| async move {
        let mut connection = Http1::accept(stream);
        while connection.request().await.is_some() {
            if requests.fetch_add(1, Ordering::SeqCst) == 0 {
                std::future::pending::<()>().await;
            }
            connection.answer(&[]).await;
        }
    })
    .await;
    let gateway = large_gateway(&double.address.to_string(), "");
    let address = gateway.address().expect("TCP");
    let mut first = Client::connect(address).await;
    first.send(get("/works.list", KEY)).await;
    while double.requests() == 0 {
        tokio::task::yield_now().await;
    }
    let others = (0..20).map(|_| async {
        let mut client = Client::connect(address).await;
        client.send(get("/works.list", KEY)).await;
        client.answer().await.expect("an answer").status
    });
    assert_eq!(join_all(others).await, [200; 20]);
}
