//! An issuer that publishes its keys on loopback, and counts the fetches.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

pub struct Issuer {
    pub address: SocketAddr,
    answer: Arc<Mutex<Vec<u8>>>,
    asked: Arc<AtomicUsize>,
    request: Arc<Mutex<String>>,
}

/// An answer's bytes.
pub fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n{body}").into_bytes()
}

impl Issuer {
    pub async fn new(key_set: &str) -> Issuer {
        Issuer::over(key_set, None).await
    }

    pub async fn over(key_set: &str, tls: Option<TlsAcceptor>) -> Issuer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let issuer = Issuer {
            address: listener.local_addr().expect("bound"),
            answer: Arc::default(),
            asked: Arc::default(),
            request: Arc::default(),
        };
        issuer.publish(key_set);
        let (answer, asked) = (issuer.answer.clone(), issuer.asked.clone());
        let request = issuer.request.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, asked) = (answer.clone(), asked.clone());
                let (request, tls) = (request.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, answer, asked, request).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, answer, asked, request).await;
                            }
                        }
                    }
                });
            }
        });
        issuer
    }

    pub fn publish(&self, key_set: &str) {
        self.say(answer(
            "200 OK",
            "Content-Type: application/json\r\n",
            key_set,
        ));
    }

    /// Answers with these bytes from now on; empty ones close the connection.
    pub fn say(&self, bytes: Vec<u8>) {
        *self.answer.lock().unwrap() = bytes;
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// The head of the last request.
    pub fn request(&self) -> String {
        self.request.lock().unwrap().clone()
    }
}

/// Slow, so that a gateway that does not share one fetch starts a second one.
const DELAY: Duration = Duration::from_millis(100);

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: Arc<Mutex<Vec<u8>>>,
    asked: Arc<AtomicUsize>,
    request: Arc<Mutex<String>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    *request.lock().unwrap() = String::from_utf8_lossy(&head).into_owned();
    tokio::time::sleep(DELAY).await;
    let bytes = answer.lock().unwrap().clone();
    let _ = stream.write_all(&bytes).await;
    let _ = stream.shutdown().await;
    asked.fetch_add(1, Ordering::SeqCst);
}
