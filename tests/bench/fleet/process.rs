//! Gateways that are processes of their own, because they are killed, stopped, or weighed.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::mpsc,
};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::simulation::TOKEN;

/// What a file needs beside, to be one of a fleet's.
pub const SHARED: &str = "[shared]\nredis = { env = \"REDIS_URL\" }\n";

pub struct Process {
    child: Child,
    pub address: SocketAddr,
    _folder: TempDir,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Process {
    /// With this file; it listens when this returns.
    pub fn start(file: &str, redis: &str) -> Process {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("revgate.toml");
        fs::write(&path, file).expect("written");
        let mut child = Command::new(env!("CARGO_BIN_EXE_revgate"))
            .args(["run", "-c"])
            .arg(path)
            .env("DEVREV_TOKEN", TOKEN)
            .env("REDIS_URL", redis)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let log = BufReader::new(child.stderr.take().expect("piped"));
        let (sender, receiver) = mpsc::channel();
        // Reads to the end, so that the log never stands still.
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
                if line["message"] == "listening" && line["listener"] == "proxy" {
                    let address = line["address"].as_str().map(str::parse);
                    let _ = sender.send(address.expect("named").expect("an address"));
                }
            }
        });
        Process {
            child,
            address: receiver.recv().expect("it listens"),
            _folder: folder,
        }
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signalled");
    }

    pub fn resident_kib(&self) -> u64 {
        resident_kib(&self.child.id().to_string())
    }
}

/// Of a process, or of `self`.
pub fn resident_kib(process: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.expect("its size").parse().expect("a number")
}

/// One call on a connection of its own: the status; `None` if the connection failed.
pub async fn call(address: SocketAddr, key: &str) -> Option<u16> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
    let connection = tokio::spawn(connection);
    let request = Request::get("/dev-users.self")
        .header(header::HOST, "api.devrev.ai")
        .header(header::AUTHORIZATION, format!("Bearer {key}"))
        .body(Empty::<Bytes>::new())
        .expect("a request");
    let (head, body) = sender.send_request(request).await.ok()?.into_parts();
    body.collect().await.ok()?;
    connection.abort();
    Some(head.status.as_u16())
}

/// A JSON document of the admin listener.
pub async fn admin(address: SocketAddr, path: &str) -> serde_json::Value {
    let stream = TcpStream::connect(address).await.expect("connects");
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
    let connection = tokio::spawn(connection);
    let request = Request::get(path)
        .header(header::HOST, address.to_string())
        .body(Empty::<Bytes>::new())
        .expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    let body = answer.into_body().collect().await.expect("whole");
    connection.abort();
    serde_json::from_slice(&body.to_bytes()).expect("JSON")
}
