//! A client that makes whole calls, as services do.

use std::{io, net::SocketAddr};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, task::JoinHandle};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    pub const BOTH: &[Protocol] = &[Protocol::Http1, Protocol::Http2];
}

/// One call, with everything that a service says.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: &'static str,
    pub target: String,
    /// `None` for a client without a credential.
    pub credential: Option<String>,
    pub body: Bytes,
}

impl Call {
    pub fn new(method: &'static str, target: &str, credential: Option<&str>) -> Call {
        Call {
            method,
            target: target.to_owned(),
            credential: credential.map(str::to_owned),
            body: Bytes::new(),
        }
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Call {
        self.body = body.into();
        self
    }

    fn request(&self) -> Request<Full<Bytes>> {
        let mut request = Request::builder()
            .method(self.method)
            .uri(format!("http://api.devrev.ai{}", self.target))
            .header(header::HOST, "api.devrev.ai")
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(credential) = &self.credential {
            request = request.header(header::AUTHORIZATION, credential);
        }
        request
            .body(Full::new(self.body.clone()))
            .expect("a request")
    }
}

pub struct Answer {
    pub status: u16,
    pub body: Bytes,
}

impl Answer {
    /// Whether revgate made it.
    pub fn is_refusal(&self) -> bool {
        self.said().contains(' ')
    }

    /// The code of an answer made by revgate, else the status alone.
    pub fn said(&self) -> String {
        let detail = serde_json::from_slice::<serde_json::Value>(&self.body).ok();
        let detail = detail.and_then(|body| Some(body["detail"].as_str()?.to_owned()));
        let code = detail.as_deref().and_then(|text| text.split(':').next());
        match code {
            Some(code) => format!("{} {code}", self.status),
            None => self.status.to_string(),
        }
    }
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// A connection. It ends when this is dropped.
pub struct Client {
    sender: Sender,
    driver: JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Client {
    pub async fn connect(address: SocketAddr, protocol: Protocol) -> io::Result<Client> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        let (sender, driver) = match protocol {
            Protocol::Http1 => {
                let (sender, driver) = http1::handshake(io).await.map_err(io::Error::other)?;
                let driver = tokio::spawn(async move { drop(driver.await) });
                (Sender::Http1(sender), driver)
            }
            Protocol::Http2 => {
                let handshake = http2::handshake(TokioExecutor::new(), io).await;
                let (sender, driver) = handshake.map_err(io::Error::other)?;
                let driver = tokio::spawn(async move { drop(driver.await) });
                (Sender::Http2(sender), driver)
            }
        };
        Ok(Client { sender, driver })
    }

    pub async fn call(&mut self, call: &Call) -> Result<Answer, hyper::Error> {
        let mut request = call.request();
        let answer = match &mut self.sender {
            Sender::Http1(sender) => {
                *request.uri_mut() = call.target.parse().expect("a target");
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                request.headers_mut().remove(header::HOST);
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        Ok(Answer { status, body })
    }
}
