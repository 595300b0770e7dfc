//! The least that speaks to a server: RESP2, one command at a time. Tests stay independent of the client that they test.

use std::{fmt, path::Path, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpStream, ToSocketAddrs, UnixStream},
    time::timeout,
};

/// Longer than any pause that a test asks of a server.
const ANSWER: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Nil,
    Integer(i64),
    Text(String),
    Bytes(Vec<u8>),
    Error(String),
    Array(Vec<Value>),
}

impl Value {
    /// As text, whatever it is. For comparisons and messages.
    pub(crate) fn text(&self) -> String {
        self.to_string()
    }

    pub(crate) fn items(&self) -> &[Value] {
        match self {
            Value::Array(items) => items,
            _ => &[],
        }
    }

    /// The value after this name, in a list of names and values.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        let items = self.items();
        let at = items
            .iter()
            .step_by(2)
            .position(|item| item.text() == name)?;
        items.get(at * 2 + 1).map(Value::text)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Nil => f.write_str("(nil)"),
            Value::Integer(number) => number.fmt(f),
            Value::Text(text) => f.write_str(text),
            Value::Bytes(bytes) => f.write_str(&String::from_utf8_lossy(bytes)),
            Value::Error(text) => write!(f, "error: {text}"),
            Value::Array(items) => {
                let items: Vec<String> = items.iter().map(Value::text).collect();
                write!(f, "[{}]", items.join(", "))
            }
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

pub(crate) struct Client {
    stream: BufReader<Box<dyn Stream>>,
}

impl Client {
    pub(crate) async fn tcp(address: impl ToSocketAddrs) -> std::io::Result<Client> {
        Ok(Client::over(TcpStream::connect(address).await?))
    }

    pub(crate) async fn unix(path: &Path) -> std::io::Result<Client> {
        Ok(Client::over(UnixStream::connect(path).await?))
    }

    fn over(stream: impl Stream + 'static) -> Client {
        Client {
            stream: BufReader::new(Box::new(stream)),
        }
    }

    /// Sends a command, and gives what the server says, also an error. Fails when the connection ends, or when nothing comes for long.
    pub(crate) async fn call<A: AsRef<[u8]>>(&mut self, command: &[A]) -> std::io::Result<Value> {
        let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
        for part in command {
            let part = part.as_ref();
            bytes.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
            bytes.extend_from_slice(part);
            bytes.extend_from_slice(b"\r\n");
        }
        let exchange = async {
            self.stream.write_all(&bytes).await?;
            self.read().await
        };
        timeout(ANSWER, exchange).await?
    }

    /// What the server says next, for a connection that listens.
    pub(crate) async fn next(&mut self) -> std::io::Result<Value> {
        timeout(ANSWER, self.read()).await?
    }

    async fn read(&mut self) -> std::io::Result<Value> {
        let mut line = String::new();
        self.stream.read_line(&mut line).await?;
        if !line.ends_with("\r\n") {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let (kind, rest) = line.trim_end().split_at(1);
        let number = || rest.parse::<i64>().map_err(std::io::Error::other);
        Ok(match kind {
            "+" => Value::Text(rest.to_owned()),
            "-" => Value::Error(rest.to_owned()),
            ":" => Value::Integer(number()?),
            "$" => match usize::try_from(number()?) {
                Err(_) => Value::Nil,
                Ok(length) => {
                    let mut bytes = vec![0; length + 2];
                    self.stream.read_exact(&mut bytes).await?;
                    bytes.truncate(length);
                    Value::Bytes(bytes)
                }
            },
            "*" => match usize::try_from(number()?) {
                Err(_) => Value::Nil,
                Ok(length) => {
                    let mut items = Vec::new();
                    for _ in 0..length {
                        items.push(Box::pin(self.read()).await?);
                    }
                    Value::Array(items)
                }
            },
            _ => return Err(std::io::Error::other(format!("no RESP2: {line:?}"))),
        })
    }
}
