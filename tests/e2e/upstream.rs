//! The connections to DevRev: one set of rules for both protocols.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use revgate::serve::Gateway;
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::Notify, task::JoinSet};

use crate::{
    double::{Double, Http1, MAX_CONCURRENT_STREAMS, Peer, REFUSED_STREAM},
    http::{Answer, Client, exchange, get, request},
    rig::{self, KEY, TOKEN, hash},
    wire::terminate,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Protocol {
    Http1,
    Http2,
}
use Protocol::{Http1 as H1, Http2 as H2};

/// A gateway in front of this double, with these keys of `[upstream]`.
fn gateway(double: &Double, protocol: Protocol, upstream: &str, more: &str) -> Gateway {
    let http2 = match protocol {
        H1 => "never",
        H2 => "always",
    };
    let url = format!("http://{}", double.address);
    gateway_to(&url, &format!("http2 = \"{http2}\"\n{upstream}"), more)
}

/// As `gateway`, with TLS to the double.
async fn gateway_over_tls(
    double: &Double,
    protocol: Protocol,
    upstream: &str,
    more: &str,
) -> Gateway {
    let (port, roots) = match protocol {
        H1 => terminate(double.address, &[b"http/1.1"]).await,
        H2 => terminate(double.address, &[b"h2", b"http/1.1"]).await,
    };
    let roots = format!("roots = {{ file = {:?} }}\n{upstream}", roots.path());
    gateway_to(&format!("https://localhost:{port}"), &roots, more)
}

/// All ways to DevRev.
const WAYS: [(Protocol, bool); 4] = [(H1, false), (H2, false), (H1, true), (H2, true)];

async fn gateway_by(
    (protocol, tls): (Protocol, bool),
    double: &Double,
    upstream: &str,
    more: &str,
) -> Gateway {
    match tls {
        true => gateway_over_tls(double, protocol, upstream, more).await,
        false => gateway(double, protocol, upstream, more),
    }
}

fn gateway_to(url: &str, upstream: &str, more: &str) -> Gateway {
    let text = format!(
        "[admin]\naddress = \"127.0.0.1:0\"\n[tokens.main]\nenv = \"DEVREV_TOKEN\"\n\
         [callers.billing]\nkey_sha256 = \"{}\"\nrate = \"1000/s\"\nburst = 1000\n\
         [upstream]\nurl = \"{url}\"\n{upstream}\n[listen]\naddress = \"127.0.0.1:0\"\n{more}\n",
        hash(KEY),
    );
    rig::start(&text, &[("DEVREV_TOKEN", TOKEN)])
}

async fn call(gateway: &Gateway) -> Answer {
    exchange(gateway.address().expect("TCP"), get("/works.list", KEY)).await
}

async fn create(gateway: &Gateway) -> Answer {
    let request = request("POST", "/works.create", &[("Authorization", KEY)], "{}");
    exchange(gateway.address().expect("TCP"), request).await
}

/// So many calls at once, and their answers.
async fn calls(gateway: &Gateway, count: usize) -> Vec<Answer> {
    let address = gateway.address().expect("TCP");
    let mut all = JoinSet::new();
    for _ in 0..count {
        all.spawn(async move { exchange(address, get("/works.list", KEY)).await });
    }
    all.join_all().await
}

fn statuses(answers: &[Answer]) -> Vec<u16> {
    answers.iter().map(|answer| answer.status).collect()
}

const ONCE: &str = "[retry]\nmax_attempts = 1\n";

/// Answers each request at once.
async fn answering(protocol: Protocol) -> Double {
    Double::start(move |_, stream, requests| async move {
        match protocol {
            H1 => {
                let mut peer = Http1::accept(stream);
                while peer.request().await.is_some() {
                    requests.fetch_add(1, Ordering::SeqCst);
                    peer.answer(&[]).await;
                }
            }
            H2 => {
                let mut peer = Peer::accept(stream, &[]).await;
                while let Some(stream) = peer.request().await {
                    requests.fetch_add(1, Ordering::SeqCst);
                    peer.write.answer(stream).await;
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_connection_ends_when_it_was_idle_for_its_time() {
    for way in WAYS {
        let protocol = way.0;
        let double = answering(protocol).await;
        let gateway = gateway_by(way, &double, "idle_timeout = \"300ms\"", "").await;
        assert_eq!(call(&gateway).await.status, 200, "{protocol:?}");
        assert_eq!(call(&gateway).await.status, 200, "{protocol:?}");
        assert_eq!(double.opened(), 1, "{protocol:?}");
        double.ended(1).await;
        assert_eq!(call(&gateway).await.status, 200, "{protocol:?}");
        assert_eq!(double.opened(), 2, "{protocol:?}");
    }
}

/// It does not depend on the peer: one that has vanished sends nothing.
#[tokio::test]
async fn a_call_after_the_idle_timeout_goes_out_on_a_new_connection() {
    let double = Double::start(|number, stream, _| async move {
        match number {
            // Answers once, and then reads nothing any more.
            0 => {
                let mut peer = Peer::accept(stream, &[]).await;
                let stream = peer.request().await.expect("a request");
                peer.write.answer(stream).await;
                pending::<()>().await;
            }
            _ => {
                let mut peer = Peer::accept(stream, &[]).await;
                while let Some(stream) = peer.request().await {
                    peer.write.answer(stream).await;
                }
            }
        }
    })
    .await;
    let gateway = gateway(&double, H2, "idle_timeout = \"200ms\"", ONCE);
    assert_eq!(call(&gateway).await.status, 200);
    // The time itself is what is tested.
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(call(&gateway).await.status, 200);
    assert_eq!(double.opened(), 2);
}

#[tokio::test]
async fn a_connection_that_is_too_old_is_replaced_under_steady_traffic() {
    for way in WAYS {
        let protocol = way.0;
        let double = answering(protocol).await;
        let gateway = gateway_by(way, &double, "max_age = \"500ms\"", "").await;
        let begun = Instant::now();
        let mut calls = 0;
        while double.opened() < 3 {
            assert_eq!(call(&gateway).await.status, 200, "{protocol:?}");
            calls += 1;
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "{protocol:?}: {calls} calls"
            );
        }
        assert!(
            begun.elapsed() >= Duration::from_millis(800),
            "{protocol:?}"
        );
        assert!(calls > 10, "{protocol:?}: {calls}");
        double.ended(2).await;
    }
}

/// An old one ends with its last exchange, and not before.
#[tokio::test]
async fn an_answer_that_outlasts_its_connections_age_is_whole() {
    let go_on = Arc::new(Notify::new());
    let (waits, goes_on) = (go_on.clone(), go_on);
    let double = Double::start(move |number, stream, _| {
        let go_on = waits.clone();
        async move {
            let mut peer = Peer::accept(stream, &[]).await;
            while let Some(stream) = peer.request().await {
                if number > 0 {
                    peer.write.answer(stream).await;
                    continue;
                }
                let (write, go_on) = (peer.write.clone(), go_on.clone());
                tokio::spawn(async move {
                    write.head(stream, &[], false).await;
                    write.data(stream, b"{", false).await;
                    go_on.notified().await;
                    write.data(stream, b"}", true).await;
                });
            }
        }
    })
    .await;
    let gateway = gateway(&double, H2, "max_age = \"200ms\"", "");
    let mut client = Client::connect(gateway.address().expect("TCP")).await;
    client.send(get("/works.list", KEY)).await;
    let (status, _) = client.head().await.expect("a head");
    assert_eq!(status, 200);
    let begun = Instant::now();
    while double.opened() < 2 {
        tokio::task::yield_now().await;
        if begun.elapsed() > Duration::from_millis(250) {
            assert_eq!(call(&gateway).await.status, 200);
        }
    }
    goes_on.notify_one();
    while !String::from_utf8_lossy(&client.1).contains('}') {
        assert!(client.more().await, "the answer is cut");
    }
    double.ended(1).await;
}

/// The first connection answers nothing; others do.
#[tokio::test]
async fn a_connection_without_an_answer_in_time_takes_no_other_call() {
    let double = Double::start(|number, stream, requests| async move {
        let mut peer = Peer::accept(stream, &[]).await;
        while let Some(stream) = peer.request().await {
            requests.fetch_add(1, Ordering::SeqCst);
            if number > 0 {
                peer.write.answer(stream).await;
            }
        }
    })
    .await;
    let gateway = gateway(&double, H2, "attempt_timeout = \"300ms\"", ONCE);
    assert_eq!(call(&gateway).await.status, 504);
    double.ended(1).await;
    assert_eq!(call(&gateway).await.status, 200);
    assert_eq!((double.opened(), double.requests()), (2, 2));
}

/// One that has other exchanges stays, and is as good as any when DevRev has said something.
#[tokio::test]
async fn a_suspect_connection_is_used_again_once_something_has_come() {
    let go_on = Arc::new(Notify::new());
    let (waits, goes_on) = (go_on.clone(), go_on);
    let double = Double::start(move |number, stream, _| {
        let go_on = waits.clone();
        async move {
            let mut peer = Peer::accept(stream, &[]).await;
            while let Some(stream) = peer.request().await {
                match (number, stream) {
                    // A long answer.
                    (0, 1) => {
                        let (write, go_on) = (peer.write.clone(), go_on.clone());
                        write.head(stream, &[], false).await;
                        tokio::spawn(async move {
                            go_on.notified().await;
                            write.data(stream, b"more", false).await;
                        });
                    }
                    (0, 3) => {}
                    _ => {
                        let field = ("x-connection".into(), number.to_string());
                        peer.write.head(stream, &[field], true).await;
                    }
                }
            }
        }
    })
    .await;
    let gateway = gateway(&double, H2, "attempt_timeout = \"300ms\"", ONCE);
    let mut long = Client::connect(gateway.address().expect("TCP")).await;
    long.send(get("/works.list", KEY)).await;
    assert_eq!(long.head().await.expect("a head").0, 200);
    assert_eq!(call(&gateway).await.status, 504);
    let answer = call(&gateway).await;
    assert_eq!(answer.header("x-connection"), Some("1"), "{answer:?}");
    goes_on.notify_one();
    while !String::from_utf8_lossy(&long.1).contains("more") {
        assert!(long.more().await, "cut");
    }
    let answer = call(&gateway).await;
    assert_eq!(answer.header("x-connection"), Some("0"), "{answer:?}");
}

/// Refuses the first stream in this way, and answers the others.
async fn refusing(how: Refusal) -> Double {
    Double::start(move |number, stream, requests| async move {
        let mut peer = Peer::accept(stream, &[]).await;
        while let Some(stream) = peer.request().await {
            requests.fetch_add(1, Ordering::SeqCst);
            if number > 0 || stream > 1 {
                peer.write.answer(stream).await;
                continue;
            }
            match how {
                Refusal::Reset(code) => peer.write.reset(stream, code).await,
                Refusal::GoAway(last) => peer.write.go_away(last).await,
                Refusal::GoAwayAndClose(last) => {
                    peer.write.go_away(last).await;
                    return;
                }
            }
        }
    })
    .await
}

#[derive(Clone, Copy)]
enum Refusal {
    Reset(u32),
    /// With the last stream that was processed.
    GoAway(u32),
    GoAwayAndClose(u32),
}

#[tokio::test]
async fn what_devrev_surely_did_not_process_is_sent_again() {
    const INTERNAL_ERROR: u32 = 2;
    // How it is refused, the connections, and the status of a write and of a read.
    let cases = [
        (Refusal::Reset(REFUSED_STREAM), 1, 200, 200),
        (Refusal::GoAway(0), 2, 200, 200),
        (Refusal::GoAwayAndClose(0), 2, 200, 200),
        (Refusal::GoAwayAndClose(1), 1, 502, 200),
        (Refusal::Reset(INTERNAL_ERROR), 1, 502, 200),
    ];
    let cases = cases
        .into_iter()
        .flat_map(|case| [(case, false), (case, true)]);
    for (number, ((how, connections, write, read), tls)) in cases.enumerate() {
        let double = refusing(how).await;
        let begun = Instant::now();
        let slow = "[retry]\nbackoff = { min = \"10s\", max = \"10s\" }\n";
        let to_write = gateway_by((H2, tls), &double, "", slow).await;
        let answer = create(&to_write).await;
        assert_eq!(answer.status, write, "case {number}: {answer:?}");
        let sent = if write == 200 { 2 } else { 1 };
        assert_eq!(double.requests(), sent, "case {number}");
        assert_eq!(double.opened(), connections, "case {number}");
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "case {number}: not at once"
        );
        if write == 502 {
            assert_eq!(answer.code(), "upstream_broken", "case {number}");
        }
        drop(to_write);
        let double = refusing(how).await;
        let quick = "[retry]\nbackoff = { min = \"1ms\", max = \"2ms\" }\n";
        let to_read = gateway(&double, H2, "", quick);
        assert_eq!(call(&to_read).await.status, read, "case {number}");
    }
}

#[tokio::test]
async fn retries_of_what_was_not_processed_are_bounded() {
    let double = Double::start(|_, stream, requests| async move {
        let mut peer = Peer::accept(stream, &[]).await;
        while let Some(stream) = peer.request().await {
            requests.fetch_add(1, Ordering::SeqCst);
            peer.write.reset(stream, REFUSED_STREAM).await;
        }
    })
    .await;
    let quick = "[retry]\nbackoff = { min = \"1ms\", max = \"2ms\" }\n";
    let gateway = gateway(&double, H2, "", quick);
    let answer = create(&gateway).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (502, "upstream_broken")
    );
    assert_eq!(double.requests(), 4, "retry.max_attempts");
}

/// Answers each request after a while, and notes how many it had at most at once on a connection.
async fn slow(settings: &'static [(u16, u32)], most: Arc<AtomicUsize>, after: Duration) -> Double {
    Double::start(move |_, stream, requests| {
        let most = most.clone();
        async move {
            let mut peer = Peer::accept(stream, settings).await;
            let open = Arc::new(AtomicUsize::new(0));
            while let Some(stream) = peer.request().await {
                requests.fetch_add(1, Ordering::SeqCst);
                most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let (write, open) = (peer.write.clone(), open.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                    write.answer(stream).await;
                });
            }
        }
    })
    .await
}

#[tokio::test]
async fn calls_beyond_the_streams_that_devrev_allows_wait_in_turn() {
    for (workers, connections, tls) in [(1, 1, false), (1, 2, false), (2, 2, false), (1, 1, true)] {
        let most = Arc::new(AtomicUsize::new(0));
        let double = slow(
            &[(MAX_CONCURRENT_STREAMS, 2)],
            most.clone(),
            Duration::from_millis(500),
        )
        .await;
        let upstream = format!("attempt_timeout = \"1500ms\"\nmax_connections = {connections}");
        let more = format!("workers = {workers}\n{ONCE}");
        let gateway = gateway_by((H2, tls), &double, &upstream, &more).await;
        assert!(!has_waited(&gateway).await);
        for _ in 0..2 {
            let answers = calls(&gateway, 8).await;
            assert_eq!(statuses(&answers), [200; 8], "{answers:?}");
        }
        assert!(has_waited(&gateway).await);
        assert!(most.load(Ordering::SeqCst) <= 2, "{most:?}");
        assert!(double.opened() <= connections, "{}", double.opened());
        assert_eq!(double.requests(), 16);
    }
}

/// Whether a call has waited for a place.
async fn has_waited(gateway: &Gateway) -> bool {
    let metrics = rig::admin(gateway.admin_address(), "GET", "/metrics", "").await;
    metrics
        .text()
        .contains("revgate_wait_seconds_count{reason=\"connection\"}")
}

/// A stream is open until both its answer and its request have ended, so the place is taken as long.
#[tokio::test]
async fn an_answer_before_the_end_of_its_request_frees_no_place() {
    let most = Arc::new(AtomicUsize::new(0));
    let double = slow(
        &[(MAX_CONCURRENT_STREAMS, 1)],
        most,
        Duration::from_millis(150),
    )
    .await;
    let upstream = "max_connections = 1";
    let streamed = format!("{ONCE}max_replay_body = \"1KiB\"\n");
    let gateway = gateway(&double, H2, upstream, &streamed);
    let address = gateway.address().expect("TCP");
    let mut sender = client_of_http2(&gateway).await;
    let head = upload(&gateway, 4096);
    let (answer, mut sending) = sender.send_request(head, false).expect("sent");
    let body = bytes::Bytes::from(vec![b'b'; 4096]);
    sending.send_data(body.slice(..4000), false).expect("sent");
    assert_eq!(answer.await.expect("an answer").status(), 200);
    let mut other = Client::connect(address).await;
    other.send(get("/works.list", KEY)).await;
    let early = tokio::time::timeout(Duration::from_millis(600), other.more()).await;
    assert!(early.is_err(), "{:?}", String::from_utf8_lossy(&other.1));
    assert_eq!(double.requests(), 1);
    sending.send_data(body.slice(4000..), true).expect("sent");
    assert_eq!(other.answer().await.expect("an answer").status, 200);
    assert!(
        has_waited(&gateway).await,
        "it was sent, and no stream was free"
    );
}

/// The client's end of a connection of HTTP/2, over which the gateway reads on when a request is answered.
async fn client_of_http2(gateway: &Gateway) -> h2::client::SendRequest<bytes::Bytes> {
    let stream = TcpStream::connect(gateway.address().expect("TCP")).await;
    let handshake = h2::client::handshake(stream.expect("connects")).await;
    let (sender, connection) = handshake.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

/// The head of a call with a body of this size.
fn upload(gateway: &Gateway, size: u64) -> hyper::Request<()> {
    hyper::Request::post(format!(
        "http://{}/works.create",
        gateway.address().expect("TCP")
    ))
    .header("authorization", KEY)
    .header("content-length", size)
    .body(())
    .expect("a request")
}

/// DevRev answers, reads nothing more of the request, and does not reset its stream.
#[tokio::test]
async fn a_request_that_is_not_read_after_its_answer_keeps_no_place() {
    const SIZE: usize = 200_000;
    for (tls, caller_leaves, ends) in [
        (false, false, true),
        (false, true, true),
        (false, true, false),
        (true, false, true),
    ] {
        let double = Double::start(move |_, stream, requests| async move {
            let mut peer = Peer::accept(stream, &[(MAX_CONCURRENT_STREAMS, 1)]).await;
            while let Some(stream) = peer.request().await {
                let number = requests.fetch_add(1, Ordering::SeqCst);
                peer.write.head(stream, &[], ends || number > 0).await;
            }
        })
        .await;
        let upstream = "max_connections = 1\nattempt_timeout = \"300ms\"";
        let streamed = format!("{ONCE}max_replay_body = \"1KiB\"\n");
        let gateway = gateway_by((H2, tls), &double, upstream, &streamed).await;
        let mut sender = client_of_http2(&gateway).await;
        let head = upload(&gateway, SIZE as u64);
        let (answer, mut sending) = sender.send_request(head, false).expect("sent");
        let body = bytes::Bytes::from(vec![b'b'; SIZE]);
        sending.send_data(body, true).expect("sent");
        let answer = answer.await.expect("an answer");
        assert_eq!(answer.status(), 200);
        let caller = (sender, sending, answer);
        let caller = (!caller_leaves).then_some(caller);
        assert_eq!(call(&gateway).await.status, 200);
        assert_eq!(double.opened(), 2);
        double.ended(1).await;
        drop(caller);
    }
}

/// DevRev answers and reads on. Nobody waits for that any more.
#[tokio::test]
async fn an_upload_over_http1_ends_soon_after_its_answer() {
    let double = Double::start(move |_, stream, requests| async move {
        let mut devrev = Http1::accept(stream);
        if devrev.request().await.is_some() {
            requests.fetch_add(1, Ordering::SeqCst);
            devrev.answer(&[]).await;
            let _ = tokio::io::copy(&mut devrev.0, &mut tokio::io::sink()).await;
        }
    })
    .await;
    let gateway = gateway(&double, H1, "", ONCE);
    let mut sender = client_of_http2(&gateway).await;
    let head = upload(&gateway, 10_000_000);
    let (answer, mut sending) = sender.send_request(head, false).expect("sent");
    // Fast enough not to be ended for that.
    tokio::spawn(async move {
        let part = bytes::Bytes::from_static(&[b'b'; 4000]);
        while sending.send_data(part.clone(), false).is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    assert_eq!(answer.await.expect("an answer").status(), 200);
    double.ended(1).await;
}

/// What comes right behind the proxy's answer ends the connection before anything is sent on it.
#[tokio::test]
async fn a_connection_that_ends_unused_is_a_failed_connect() {
    let double = Double::start(|_, stream, _| async move {
        let mut proxy = Http1::accept(stream);
        if proxy.request().await.is_some() {
            let junk = b"HTTP/1.1 200 OK\r\n\r\nSSH-2.0-OpenSSH_9.6\r\n";
            let _ = proxy.0.write_all(junk).await;
            let _ = proxy.request().await;
        }
    })
    .await;
    let proxy = format!("proxy = \"http://{}\"", double.address);
    let gateway = gateway_to("http://devrev.example", &proxy, ONCE);
    assert_eq!(statuses(&calls(&gateway, 4).await), [502; 4]);
    assert!(double.opened() <= 8, "{} connects", double.opened());
}

#[tokio::test]
async fn when_all_streams_of_a_connection_are_taken_another_is_opened() {
    let most = Arc::new(AtomicUsize::new(0));
    let double = slow(
        &[(MAX_CONCURRENT_STREAMS, 2)],
        most.clone(),
        Duration::from_millis(150),
    )
    .await;
    let gateway = gateway(&double, H2, "", ONCE);
    assert_eq!(call(&gateway).await.status, 200);
    assert_eq!(statuses(&calls(&gateway, 8).await), [200; 8]);
    assert!((4..=5).contains(&double.opened()), "{}", double.opened());
    assert!(most.load(Ordering::SeqCst) <= 2);
}

#[tokio::test]
async fn a_limit_may_be_none_and_change_at_any_time() {
    let go_on = Arc::new(Notify::new());
    let (waits, goes_on) = (go_on.clone(), go_on);
    let double = Double::start(move |_, stream, requests| {
        let go_on = waits.clone();
        async move {
            let mut peer = Peer::accept(stream, &[(MAX_CONCURRENT_STREAMS, 0)]).await;
            let write = peer.write.clone();
            tokio::spawn(async move {
                for streams in [1, 0, 3] {
                    go_on.notified().await;
                    write.settings(&[(MAX_CONCURRENT_STREAMS, streams)]).await;
                }
            });
            while let Some(stream) = peer.request().await {
                requests.fetch_add(1, Ordering::SeqCst);
                peer.write.answer(stream).await;
            }
        }
    })
    .await;
    let upstream = "attempt_timeout = \"300ms\"\nmax_connections = 1";
    let gateway = gateway(
        &double,
        H2,
        upstream,
        &format!("{ONCE}[defaults]\nmax_wait = \"1s\"\n"),
    );
    // It is bounded by the caller's own wait.
    let refused = call(&gateway).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (503, "overloaded")
    );
    assert_eq!(double.requests(), 0);
    for (answered, streams) in [(true, 1), (false, 0), (true, 3)] {
        goes_on.notify_one();
        // The limit arrives at some time.
        let begun = Instant::now();
        loop {
            let answers = calls(&gateway, 2).await;
            let expected = if answered { 200 } else { 503 };
            if statuses(&answers) == [expected; 2] {
                break;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "{streams}: {answers:?}"
            );
        }
    }
    assert_eq!(double.opened(), 1);
}

#[tokio::test]
async fn a_burst_on_a_cold_gateway_shares_a_connection() {
    for workers in [1, 2] {
        let double = answering(H2).await;
        let gateway = gateway(&double, H2, "", &format!("workers = {workers}\n"));
        assert_eq!(statuses(&calls(&gateway, 8).await), [200; 8]);
        assert!(double.opened() <= workers, "{}", double.opened());
    }
    // Which protocol it is, ALPN tells.
    let double = answering(H2).await;
    let gateway = gateway_over_tls(&double, H2, "", "").await;
    assert_eq!(statuses(&calls(&gateway, 8).await), [200; 8]);
    assert_eq!(double.opened(), 1);
    let double = answering(H1).await;
    let gateway = gateway_over_tls(&double, H1, "", "").await;
    assert_eq!(statuses(&calls(&gateway, 8).await), [200; 8]);
}

#[tokio::test]
async fn calls_that_wait_for_a_connection_fail_together() {
    // Accepts TCP and says nothing: no TLS, no SETTINGS.
    for scheme in ["http", "https"] {
        let double = Double::start(|_, stream, _| async move {
            let _open = stream;
            pending::<()>().await;
        })
        .await;
        let url = format!("{scheme}://localhost:{}", double.address.port());
        let upstream =
            "http2 = \"always\"\nconnect_timeout = \"600ms\"\ncircuit = { failures = 6 }";
        let gateway = gateway_to(&url, upstream, ONCE);
        let begun = Instant::now();
        for answer in calls(&gateway, 8).await {
            let found = (answer.status, answer.code());
            assert_eq!(found, (502, "upstream_unreachable".to_owned()), "{scheme}");
        }
        let took = begun.elapsed();
        // The first call finds out for all whether there is a quota to share, and then the others go.
        assert!(took < Duration::from_millis(2400), "{scheme}: {took:?}");
        // One connection that cannot be opened is one failure, and does not stop all calls.
        let metrics = rig::admin(gateway.admin_address(), "GET", "/metrics", "").await;
        assert!(
            metrics.text().contains("revgate_circuit_open 0"),
            "{scheme}"
        );
    }
}

/// Such as a load balancer with nothing behind it.
#[tokio::test]
async fn a_peer_that_closes_every_connection_gets_few_of_them() {
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GOAWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (protocol, says) in [
        (H1, vec![]),
        (H2, vec![]),
        (H2, SETTINGS.to_vec()),
        (H2, [SETTINGS, GOAWAY].concat()),
    ] {
        let connections = Arc::new(AtomicUsize::new(0));
        let (count, bytes) = (connections.clone(), says.clone());
        let double = Double::start(move |_, mut stream, _| {
            count.fetch_add(1, Ordering::Relaxed);
            let bytes = bytes.clone();
            async move {
                let _ = stream.write_all(&bytes).await;
            }
        })
        .await;
        let gateway = gateway(&double, protocol, "", ONCE);
        for _ in 0..5 {
            let answer = exchange(gateway.address().expect("TCP"), get("/works.list", KEY)).await;
            assert_eq!(answer.status, 502, "{protocol:?} {says:?}");
        }
        let connections = connections.load(Ordering::Relaxed);
        assert!(connections <= 15, "{protocol:?} {says:?}: {connections}");
    }
}

#[tokio::test]
async fn one_slow_connect_holds_nobody_up() {
    let double = Double::start(|number, stream, _| async move {
        if number == 0 {
            let _silent = Peer::silent(stream).await;
            return pending().await;
        }
        let mut peer = Peer::accept(stream, &[]).await;
        while let Some(stream) = peer.request().await {
            peer.write.answer(stream).await;
        }
    })
    .await;
    let gateway = gateway(&double, H2, "connect_timeout = \"10s\"", ONCE);
    let begun = Instant::now();
    assert_eq!(statuses(&calls(&gateway, 8).await), [200; 8]);
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(double.opened(), 2);
}

/// DevRev closes each connection after one answer, and says so in the same moment.
#[tokio::test]
async fn a_connection_that_goes_away_takes_no_other_call() {
    let double = Double::start(|_, stream, requests| async move {
        let mut peer = Peer::accept(stream, &[]).await;
        while let Some(stream) = peer.request().await {
            requests.fetch_add(1, Ordering::SeqCst);
            peer.write.go_away(stream).await;
            peer.write.answer(stream).await;
        }
    })
    .await;
    let gateway = gateway(&double, H2, "", ONCE);
    for number in 1..=20 {
        assert_eq!(create(&gateway).await.status, 200);
        assert_eq!((double.requests(), double.opened()), (number, number));
    }
    double.ended(20).await;
}

/// They would take all of a worker's time, or of their connection of HTTP/2.
#[tokio::test]
async fn interim_answers_without_end_are_no_answer() {
    for protocol in [H1, H2] {
        let double = Double::start(move |number, stream, requests| async move {
            match protocol {
                H1 => {
                    let mut peer = Http1::accept(stream);
                    while peer.request().await.is_some() {
                        match requests.fetch_add(1, Ordering::SeqCst) {
                            0 => while peer.interim().await {},
                            _ => peer.answer(&[]).await,
                        }
                    }
                }
                H2 => {
                    let mut peer = Peer::accept(stream, &[]).await;
                    while let Some(stream) = peer.request().await {
                        requests.fetch_add(1, Ordering::SeqCst);
                        let write = peer.write.clone();
                        match (number, stream) {
                            (0, 1) => {
                                drop(tokio::spawn(async move { while write.interim(1).await {} }));
                            }
                            _ => write.answer(stream).await,
                        }
                    }
                }
            }
        })
        .await;
        let gateway = gateway(&double, protocol, "", "");
        let flooded = tokio::spawn({
            let address = gateway.address().expect("TCP");
            let create = request("POST", "/works.create", &[("Authorization", KEY)], "");
            async move { exchange(address, create).await }
        });
        while double.requests() == 0 {
            tokio::task::yield_now().await;
        }
        let begun = Instant::now();
        while !flooded.is_finished() {
            let asked = Instant::now();
            assert_eq!(call(&gateway).await.status, 200, "{protocol:?}");
            assert!(asked.elapsed() < Duration::from_secs(3), "{protocol:?}");
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{protocol:?}");
        let answer = flooded.await.expect("no panic");
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (502, "upstream_broken"),
            "{protocol:?}"
        );
    }
}

/// So many fields with values of this size.
fn fields(count: usize, size: usize) -> Vec<(String, String)> {
    (0..count)
        .map(|number| (format!("x-field-{number}"), "v".repeat(size)))
        .collect()
}

#[tokio::test]
async fn heads_of_answers_have_one_bound_in_both_protocols() {
    // Fields, the size of each, and whether the head is accepted.
    let cases = [
        (1, 20 << 10, true),
        (90, 600, true),
        (3, 20 << 10, true),
        (1, 66 << 10, false),
        (95, 700, false),
        (101, 1, false),
        (150, 1, false),
        (10, 14 << 10, false),
    ];
    for protocol in [H1, H2] {
        for (count, size, accepted) in cases {
            let double = Double::start(move |_, stream, _| async move {
                match protocol {
                    H1 => {
                        let mut peer = Http1::accept(stream);
                        while peer.request().await.is_some() {
                            peer.answer(&fields(count, size)).await;
                        }
                    }
                    H2 => {
                        let mut peer = Peer::accept(stream, &[]).await;
                        while let Some(stream) = peer.request().await {
                            match stream {
                                // A neighbour, whose answer goes on.
                                1 => {
                                    peer.write.head(stream, &[], false).await;
                                    peer.write.data(stream, b"first", false).await;
                                }
                                3 => {
                                    peer.write.head(stream, &fields(count, size), true).await;
                                    peer.write.data(1, b"last", true).await;
                                }
                                _ => peer.write.answer(stream).await,
                            }
                        }
                    }
                }
            })
            .await;
            let gateway = gateway(&double, protocol, "", ONCE);
            let what = format!("{protocol:?}: {count} fields of {size}");
            let mut neighbour = Client::connect(gateway.address().expect("TCP")).await;
            if protocol == H2 {
                neighbour.send(get("/works.list", KEY)).await;
                assert_eq!(neighbour.head().await.expect("a head").0, 200);
            }
            let answer = call(&gateway).await;
            match accepted {
                true => {
                    assert_eq!(answer.status, 200, "{what}");
                    assert_eq!(
                        answer.header("x-field-0").map(str::len),
                        Some(size),
                        "{what}"
                    );
                }
                false => assert_eq!(
                    (answer.status, answer.code()),
                    (502, "upstream_broken".to_owned()),
                    "{what}"
                ),
            }
            if protocol == H2 {
                while !String::from_utf8_lossy(&neighbour.1).contains("last") {
                    assert!(
                        neighbour.more().await,
                        "{what}: the neighbour's answer is cut"
                    );
                }
                assert_eq!(call(&gateway).await.status, 200, "{what}");
                assert_eq!(double.opened(), 1, "{what}");
            }
        }
    }
}
