//! Fetches a small document from a host other than DevRev, such as an issuer's keys. Sends no credential and follows no redirect.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{task::JoinSet, time::timeout};
use tower::BoxError;

use super::{
    OwnListeners, Proxy,
    connector::{Connected, Connector},
};

/// From the name look-up to the last byte. A slower answer is an error.
const WITHIN: Duration = Duration::from_secs(5);

const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// Enough for hundreds of keys. A larger answer is an error.
const MAX_BODY: usize = 1 << 20;

/// A document, and the `Cache-Control` with which it came.
pub(crate) struct Document {
    pub body: Bytes,
    pub cache_control: Option<String>,
}

/// # Errors
/// When the answer is not a complete 200.
pub(crate) async fn document(
    url: &Uri,
    tls: Option<Arc<rustls::ClientConfig>>,
    proxy: Option<Proxy>,
) -> Result<Document, BoxError> {
    timeout(WITHIN, get(url, tls, proxy))
        .await
        .unwrap_or_else(|_elapsed| Err("no whole answer within 5s".into()))
}

async fn get(
    url: &Uri,
    tls: Option<Arc<rustls::ClientConfig>>,
    proxy: Option<Proxy>,
) -> Result<Document, BoxError> {
    let connector = Connector::new(url, tls, OwnListeners::default(), proxy);
    let Connected { stream, .. } = connector.connect(CONNECT_WITHIN).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Dropped with this function, which ends the connection.
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    let host = url.authority().map_or("", |authority| authority.as_str());
    let request = Request::get(target)
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/json")
        .header(
            header::USER_AGENT,
            concat!("revgate/", env!("CARGO_PKG_VERSION")),
        )
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::OK {
        return Err(format!("status {}", response.status().as_u16()).into());
    }
    let cache_control = response.headers().get(header::CACHE_CONTROL);
    let cache_control = cache_control.and_then(|value| Some(value.to_str().ok()?.to_owned()));
    let body = Limited::new(response.into_body(), MAX_BODY);
    Ok(Document {
        body: body.collect().await?.to_bytes(),
        cache_control,
    })
}
