//! A client that sends exactly the given bytes and reads one answer.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Longer than any answer takes, so that a hang fails the test.
pub const TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The body ended as its framing says.
    pub whole: bool,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The code of an answer made by revgate.
    pub fn code(&self) -> String {
        let detail = self.json()["detail"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        detail.split(':').next().unwrap_or_default().to_owned()
    }
}

/// Over TCP, or over a given stream.
pub struct Client<S = TcpStream>(pub S, pub Vec<u8>);

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        Client::over(TcpStream::connect(address).await.expect("connects"))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub fn over(stream: S) -> Self {
        Client(stream, Vec::new())
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.0.write_all(bytes.as_ref()).await.expect("writes");
        self
    }

    /// Reads more bytes into the buffer. False at the end of the stream.
    pub async fn more(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        let read = timeout(TIMEOUT, self.0.read(&mut chunk))
            .await
            .expect("an answer in time")
            .unwrap_or(0);
        self.1.extend_from_slice(&chunk[..read]);
        read > 0
    }

    /// What comes up to and with this text; `None` if the connection ends before.
    pub async fn until(&mut self, end: &str) -> Option<String> {
        loop {
            let found = self.1.windows(end.len()).position(|w| w == end.as_bytes());
            if let Some(at) = found {
                let text = self.1.drain(..at + end.len()).collect();
                return String::from_utf8(text).ok();
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// All that comes until the connection ends.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.1)
    }

    pub async fn head(&mut self) -> Option<(u16, Vec<(String, String)>)> {
        loop {
            if let Some(end) = self.1.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.1[..end]).into_owned();
                self.1.drain(..end + 4);
                let mut lines = head.split("\r\n");
                let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
                if status == 100 {
                    continue;
                }
                let headers = lines.filter_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    Some((name.to_ascii_lowercase(), value.trim().to_owned()))
                });
                return Some((status, headers.collect()));
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// One whole answer; `None` when the connection ended without one.
    pub async fn answer(&mut self) -> Option<Answer> {
        let (status, headers) = self.head().await?;
        let find = |name: &str| {
            headers
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v.clone())
        };
        let mut body = Vec::new();
        let whole = if find("transfer-encoding").is_some() {
            self.chunked(&mut body).await
        } else if let Some(length) = find("content-length") {
            let length: usize = length.parse().expect("a length");
            while self.1.len() < length && self.more().await {}
            let have = self.1.len().min(length);
            body.extend(self.1.drain(..have));
            have == length
        } else {
            true
        };
        Some(Answer {
            status,
            headers,
            body,
            whole,
        })
    }

    /// One chunk of a chunked body; `None` at its end, or if the connection breaks.
    pub async fn chunk(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(line) = self.1.windows(2).position(|w| w == b"\r\n") {
                let size =
                    usize::from_str_radix(std::str::from_utf8(&self.1[..line]).ok()?.trim(), 16)
                        .ok()?;
                if self.1.len() >= line + 2 + size + 2 {
                    let chunk = self.1[line + 2..line + 2 + size].to_vec();
                    self.1.drain(..line + 2 + size + 2);
                    return Some(chunk);
                }
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Reads and drops `length` bytes of a body; fewer if the connection breaks.
    pub async fn discard(&mut self, length: usize) -> usize {
        let mut read = self.1.len();
        self.1.clear();
        while read < length && self.more().await {
            read += self.1.len();
            self.1.clear();
        }
        read
    }

    async fn chunked(&mut self, body: &mut Vec<u8>) -> bool {
        while let Some(chunk) = self.chunk().await {
            if chunk.is_empty() {
                return true;
            }
            body.extend(chunk);
        }
        false
    }
}

/// Sends bytes on a connection of their own, and reads the answer.
pub async fn exchange(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Answer {
    let mut client = Client::connect(address).await;
    client.send(bytes).await;
    client.answer().await.expect("an answer")
}

/// The bytes of a GET with this credential.
pub fn get(target: &str, credential: &str) -> Vec<u8> {
    request("GET", target, &[("Authorization", credential)], "")
}

/// A request's bytes.
pub fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        text += &format!("Content-Length: {}\r\n", body.len());
    }
    text += "\r\n";
    text += body;
    text.into_bytes()
}
