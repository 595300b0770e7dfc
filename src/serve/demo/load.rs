//! The demo's own clients: three services that call the gateway as real ones would, over real connections.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    net::TcpStream,
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

use super::traffic::{CURSOR, Call, ID, Service, Session, Traffic};

/// Sessions of one service at once, each with a connection. When all are busy, the next one waits: the load is bounded whatever the
/// gateway does. The job of the batch service is one more than it runs at once, and rushes fit.
const SESSIONS: usize = 8;
/// Above the longest wait of a caller, so that it is the gateway that refuses.
const CALL: Duration = Duration::from_secs(90);
/// After a session that could not connect, so that a gateway that has gone is not asked in a loop.
const RECONNECT: Duration = Duration::from_secs(1);
/// No answer of the simulator's to these calls is as large.
const ANSWER: usize = 1024 * 1024;

/// Runs the load on these gateways until SIGTERM or SIGINT, when its calls are given up: a drain waits for none of them.
///
/// # Errors
/// When a signal handler cannot be installed.
pub(super) fn start(proxies: &[SocketAddr], seed: u64, speed: f64) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut services = JoinSet::new();
    for service in Service::ALL {
        let traffic = Traffic::new(service, seed, speed);
        services.spawn(serve(service, proxies.to_vec(), traffic));
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        drop(services);
    });
    Ok(())
}

/// One service. Dropping it ends its sessions.
async fn serve(service: Service, proxies: Vec<SocketAddr>, traffic: Traffic) -> Infallible {
    let places = Arc::new(Semaphore::new(SESSIONS));
    let mut sessions = JoinSet::new();
    for (number, session) in traffic.enumerate() {
        let proxy = proxies[service.replica(number, proxies.len())];
        tokio::time::sleep(session.after).await;
        // It is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            break;
        };
        while sessions.try_join_next().is_some() {}
        sessions.spawn(async move {
            let _place = place;
            if run(service, proxy, session).await.is_err() {
                tokio::time::sleep(RECONNECT).await;
            }
        });
    }
    std::future::pending().await
}

/// The calls of a session. An answer that is an error ends it only if the next call needs what it would have named.
async fn run(service: Service, proxy: SocketAddr, session: Session) -> anyhow::Result<()> {
    let stream = TcpStream::connect(proxy).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the sender.
    tokio::spawn(connection);
    let (mut id, mut cursor) = (None, None);
    for call in session.calls {
        tokio::time::sleep(call.pause).await;
        let Some(body) = filled(&call.body, id.as_deref(), cursor.as_deref()) else {
            return Ok(());
        };
        let creates = call.target.ends_with(".create");
        let lists = call.target.contains(".list");
        let answer = send(&mut sender, service, &call, body).await?;
        if creates && id.is_none() {
            id = created(&answer);
        }
        if lists {
            cursor = answer["next_cursor"].as_str().map(str::to_owned);
        }
    }
    Ok(())
}

/// The body with what earlier answers named; `None` if it was not named.
fn filled(body: &str, id: Option<&str>, cursor: Option<&str>) -> Option<String> {
    let mut body = body.to_owned();
    for (mark, value) in [(ID, id), (CURSOR, cursor)] {
        if body.contains(mark) {
            body = body.replace(mark, value?);
        }
    }
    Some(body)
}

/// The id of the one object in an answer.
fn created(answer: &Value) -> Option<String> {
    let object = answer.as_object()?.values().next()?;
    object["id"].as_str().map(str::to_owned)
}

async fn send(
    sender: &mut SendRequest<Full<Bytes>>,
    service: Service,
    call: &Call,
    body: String,
) -> anyhow::Result<Value> {
    let request = Request::builder()
        .method(&call.method)
        .uri(&call.target)
        .header(header::HOST, "api.devrev.ai")
        .header(header::AUTHORIZATION, format!("Bearer {}", service.key()))
        .header(header::USER_AGENT, "revgate-demo")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(body))?;
    let exchange = async {
        sender.ready().await?;
        let answer = sender.send_request(request).await?;
        let body = Limited::new(answer.into_body(), ANSWER).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
        Ok(serde_json::from_slice(&body).unwrap_or_default())
    };
    timeout(CALL, exchange).await.context("no answer in time")?
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_call_gets_what_earlier_answers_named() {
        let id = created(&json!({"work": {"id": "TKT-7", "type": "ticket"}}));
        assert_eq!(id.as_deref(), Some("TKT-7"));
        assert_eq!(created(&json!({"type": "forbidden"})), None);
        let body = r#"{"id":"$id"}"#;
        assert_eq!(
            filled(body, id.as_deref(), None).unwrap(),
            r#"{"id":"TKT-7"}"#
        );
        assert_eq!(filled(body, None, None), None);
        assert_eq!(filled("{}", None, None).unwrap(), "{}");
        let page = filled(r#"{"cursor":"$cursor"}"#, None, Some("c"));
        assert_eq!(page.unwrap(), r#"{"cursor":"c"}"#);
    }
}
