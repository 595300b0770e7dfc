//! Requests that are sent in part, and answers that are read in part, over both protocols.

use std::{io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use h2::{RecvStream, SendStream, client};
use http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::{JoinHandle, JoinSet},
    time::sleep,
};

use super::Scene;
use crate::client::Protocol;

/// The head of a request.
#[derive(Clone)]
pub struct Head {
    pub method: &'static str,
    pub target: String,
    pub credential: Option<String>,
    /// Of the body; `None` for a body without a declared length.
    pub length: Option<usize>,
}

impl Head {
    pub fn post(
        operation: &str,
        credential: Option<&str>,
        length: impl Into<Option<usize>>,
    ) -> Head {
        Head {
            method: "POST",
            target: format!("/{operation}"),
            credential: credential.map(str::to_owned),
            length: length.into(),
        }
    }

    pub fn get(target: &str, credential: Option<&str>) -> Head {
        Head {
            method: "GET",
            target: target.to_owned(),
            credential: credential.map(str::to_owned),
            length: Some(0),
        }
    }

    pub fn http1(&self) -> Vec<u8> {
        let mut text = format!(
            "{} {} HTTP/1.1\r\nHost: api.devrev.ai\r\nContent-Type: application/json\r\n",
            self.method, self.target
        );
        if let Some(credential) = &self.credential {
            text += &format!("Authorization: {credential}\r\n");
        }
        match self.length {
            Some(0) if self.method == "GET" => {}
            Some(length) => text += &format!("Content-Length: {length}\r\n"),
            None => text += "Transfer-Encoding: chunked\r\n",
        }
        text += "\r\n";
        text.into_bytes()
    }

    fn http2(&self) -> Request<()> {
        let mut request = Request::builder()
            .method(self.method)
            .uri(format!("http://api.devrev.ai{}", self.target))
            .header("content-type", "application/json");
        if let Some(credential) = &self.credential {
            request = request.header("authorization", credential);
        }
        if let Some(length) = self.length.filter(|length| *length > 0) {
            request = request.header("content-length", length);
        }
        request.body(()).expect("a request")
    }
}

/// How answers are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// As they come.
    All,
    /// Not at all: a small window, and nothing is taken from it. Over HTTP/2 the connection itself is served.
    Nothing,
    /// This many bytes each second.
    Slow(usize),
}

/// A connection that ends when this is dropped.
struct Kept(JoinHandle<()>);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How many streams share a connection, below what the gateway allows.
const STREAMS: usize = 100;

/// Connections on which a makes its calls.
pub struct Caller {
    address: SocketAddr,
    protocol: Protocol,
    reading: Reading,
    shared: Option<(client::SendRequest<Bytes>, usize)>,
    kept: Vec<Kept>,
}

/// A request whose body may go on.
pub struct Upload(Sender, Option<usize>);

enum Sender {
    Http1(
        tokio::net::tcp::OwnedWriteHalf,
        #[expect(dead_code, reason = "kept open")] Kept,
    ),
    Http2(
        SendStream<Bytes>,
        #[expect(dead_code, reason = "kept open")] JoinSet<()>,
    ),
}

impl Caller {
    pub fn new(scene: &Scene, reading: Reading) -> Caller {
        Caller {
            address: scene.proxy,
            protocol: scene.protocol,
            reading,
            shared: None,
            kept: Vec::new(),
        }
    }

    /// Sends a head, on a connection of its own or as one of some streams.
    pub async fn send(&mut self, head: &Head) -> io::Result<Upload> {
        let sender = match self.protocol {
            Protocol::Http1 => {
                let stream = connect(self.address, self.reading).await?;
                let (mut read, mut write) = stream.into_split();
                write.write_all(&head.http1()).await?;
                let reading = self.reading;
                let reader = tokio::spawn(async move {
                    let mut chunk = vec![0; 16 * 1024];
                    loop {
                        let most = match reading {
                            Reading::All => chunk.len(),
                            Reading::Slow(bytes) => {
                                sleep(Duration::from_secs(1)).await;
                                bytes
                            }
                            Reading::Nothing => std::future::pending().await,
                        };
                        let Ok(1..) = read.read(&mut chunk[..most]).await else {
                            return;
                        };
                    }
                });
                Sender::Http1(write, Kept(reader))
            }
            Protocol::Http2 => {
                let mut sender = self.shared().await?;
                let ends = head.length == Some(0);
                let sent = sender.send_request(head.http2(), ends);
                let (answer, body) = sent.map_err(io::Error::other)?;
                let (reading, mut reader) = (self.reading, JoinSet::new());
                reader.spawn(async move {
                    if let Ok(answer) = answer.await {
                        read(answer.into_body(), reading).await;
                    }
                });
                Sender::Http2(body, reader)
            }
        };
        Ok(Upload(sender, head.length))
    }

    async fn shared(&mut self) -> io::Result<client::SendRequest<Bytes>> {
        if let Some((sender, left)) = &mut self.shared
            && *left > 0
        {
            *left -= 1;
            return Ok(sender.clone());
        }
        let stream = TcpStream::connect(self.address).await?;
        let mut builder = client::Builder::new();
        match self.reading {
            Reading::All => builder.initial_window_size(1 << 20),
            Reading::Nothing | Reading::Slow(_) => builder.initial_window_size(1),
        };
        let (sender, connection) = builder.handshake(stream).await.map_err(io::Error::other)?;
        self.kept.push(Kept(tokio::spawn(async move {
            drop(connection.await);
        })));
        // From here on the gateway's own limits of streams are known.
        let sender = sender.ready().await.map_err(io::Error::other)?;
        self.shared = Some((sender.clone(), STREAMS - 1));
        Ok(sender)
    }
}

async fn connect(address: SocketAddr, reading: Reading) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if reading != Reading::All {
        socket.set_recv_buffer_size(4096)?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn read(mut body: RecvStream, reading: Reading) {
    loop {
        match reading {
            Reading::Nothing => std::future::pending().await,
            Reading::All => {
                let Some(Ok(bytes)) = body.data().await else {
                    return;
                };
                let _ = body.flow_control().release_capacity(bytes.len());
            }
            Reading::Slow(bytes) => {
                sleep(Duration::from_secs(1)).await;
                for _ in 0..bytes {
                    let Some(Ok(read)) = body.data().await else {
                        return;
                    };
                    let _ = body.flow_control().release_capacity(read.len());
                }
            }
        }
    }
}

impl Upload {
    /// Gives up this call alone.
    pub fn reset(self) {
        match self.0 {
            Sender::Http1(..) => {}
            Sender::Http2(mut stream, _) => stream.send_reset(h2::Reason::CANCEL),
        }
    }

    /// Sends a part of the body.
    pub async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        match &mut self.0 {
            Sender::Http1(write, _) => match self.1 {
                Some(_) => write.write_all(&bytes).await,
                None => {
                    let head = format!("{:x}\r\n", bytes.len()).into_bytes();
                    write
                        .write_all(&[&head[..], &bytes, b"\r\n"].concat())
                        .await
                }
            },
            Sender::Http2(stream, _) => stream.send_data(bytes, false).map_err(io::Error::other),
        }
    }
}
