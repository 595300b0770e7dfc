//! DevRev, as far as quotas go: answers at once, and counts each unit of each window exactly.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::lock;

/// What DevRev allows. Windows begin when the seconds since the epoch are a multiple of their length, so that their reported ends are exact.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    pub limit: u64,
    /// Seconds.
    pub window: u64,
}

/// Of one window.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    pub used: u64,
    /// Answered with 429.
    pub refused: u64,
    /// Something that was due in this window came late: the machine is so busy that nothing can be said of units that are left.
    pub is_disturbed: bool,
}

/// A machine that is busy with nothing else is never so late.
const LATE: Duration = Duration::from_millis(40);
const BEAT: Duration = Duration::from_millis(10);

/// Windows by their number, which grows by one.
pub type Windows = BTreeMap<u64, Spent>;

pub struct DevRev {
    pub address: SocketAddr,
    windows: Arc<Mutex<Windows>>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for DevRev {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl DevRev {
    pub async fn start(quota: Quota) -> DevRev {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let windows = Arc::new(Mutex::new(Windows::new()));
        let counted = windows.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, quota, counted.clone()));
            }
        });
        let disturbed = watch(quota, windows.clone());
        DevRev {
            address,
            windows,
            tasks: [accepting, tokio::spawn(disturbed)],
        }
    }

    /// Up to now.
    pub fn windows(&self) -> Windows {
        lock(&self.windows).clone()
    }
}

/// Notes windows in which the machine was late.
async fn watch(quota: Quota, windows: Arc<Mutex<Windows>>) {
    loop {
        let (begun, number) = (Instant::now(), quota.number());
        sleep(BEAT).await;
        if begun.elapsed() > BEAT + LATE {
            let mut windows = lock(&windows);
            for number in number..=quota.number() {
                windows.entry(number).or_default().is_disturbed = true;
            }
        }
    }
}

impl Quota {
    /// Seconds since the epoch.
    fn now() -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.expect("after the epoch").as_secs()
    }

    /// Of the window now.
    fn number(self) -> u64 {
        Quota::now() / self.window
    }
}

/// Requests without bodies.
async fn serve(mut stream: TcpStream, quota: Quota, windows: Arc<Mutex<Windows>>) {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        while let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            bytes.drain(..end + 4);
            let answer = charge(quota, &mut lock(&windows));
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
        match stream.read(&mut chunk).await {
            Ok(length @ 1..) => bytes.extend_from_slice(&chunk[..length]),
            _ => return,
        }
    }
}

fn charge(quota: Quota, windows: &mut Windows) -> String {
    let Quota { limit, window } = quota;
    let (now, number) = (Quota::now(), quota.number());
    let spent = windows.entry(number).or_default();
    let reset = (number + 1) * window;
    let (status, more) = if spent.used < limit {
        spent.used += 1;
        ("200 OK", String::new())
    } else {
        spent.refused += 1;
        let after = format!("Retry-After: {}\r\n", reset - now);
        ("429 Too Many Requests", after)
    };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: 2\r\nX-Ratelimit-Limit: {limit}\r\n\
         X-Ratelimit-Remaining: {}\r\nX-Ratelimit-Reset: {reset}\r\n{more}\r\n{{}}",
        limit - spent.used
    )
}
