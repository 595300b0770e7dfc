//! Against real servers.

mod attempts;
mod days;
mod exchange;
mod hints;
mod lines;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    Redis,
    address::{self, Endpoint},
    connection::Target,
};
use crate::{
    fleet::{
        names::Names,
        register::{Exchanged, Failure, Fault, Found, Key, Link, Register, Tag, Write},
    },
    random,
};

/// Of an exchange that is to succeed, on a machine that is busy with other tests too.
const AMPLE: Duration = Duration::from_secs(2);

/// Of an exchange that is to fail.
const SHORT: Duration = Duration::from_millis(100);

/// For what comes at last. That it ends is what is shown.
const PATIENCE: Duration = Duration::from_secs(60);

const PREFIX: &str = "revgate";

fn endpoint(text: &str) -> Endpoint {
    address::parse(text).unwrap_or_else(|problem| panic!("{text}: {problem}"))
}

fn redis(text: &str, timeout: Duration) -> Redis {
    redis_with(text, timeout, None)
}

fn redis_with(text: &str, timeout: Duration, tls: Option<Arc<rustls::ClientConfig>>) -> Redis {
    let endpoint = endpoint(text);
    let target = Target::at(&endpoint, endpoint.addresses[0].clone(), tls.as_ref());
    Redis::start(Box::new(target), Names::new(PREFIX, None), timeout)
}

/// A key that no other test uses on the same server.
fn key(name: &str) -> Key {
    Names::new(PREFIX, None).of_group(name)
}

fn write(over: Option<Tag>, value: &[u8]) -> Write {
    Write {
        over,
        tag: Tag(random::id64()),
        value: Bytes::copy_from_slice(value),
        keep: Duration::from_secs(100),
        hint: Bytes::new(),
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, future).await;
    done.unwrap_or_else(|_| panic!("{what} took longer than {PATIENCE:?}"))
}

async fn until_up(redis: &Redis) {
    let mut link = redis.link();
    let up = link.wait_for(|link| matches!(link, Link::Up));
    within("up", up).await.unwrap();
}

/// Why it is down, once it is.
async fn until_down(redis: &Redis) -> Failure {
    let mut link = redis.link();
    let down = link.wait_for(|link| matches!(link, Link::Down(_)));
    match &*within("down", down).await.unwrap() {
        Link::Down(failure) => failure.clone(),
        Link::Unknown | Link::Up => unreachable!("waited for"),
    }
}

async fn read(redis: &Redis, key: &Key) -> Result<Found, Failure> {
    match redis.exchange(key, None).await? {
        Exchanged::Found(found) => Ok(found),
        Exchanged::Written { .. } => panic!("a mere read has written"),
    }
}

async fn put(redis: &Redis, key: &Key, write: Write) -> Result<Exchanged, Failure> {
    within("an exchange", redis.exchange(key, Some(write))).await
}

/// Exchanges until one fails, and returns its failure.
async fn until_it_fails(redis: &Redis, key: &Key) -> Failure {
    let failing = async {
        loop {
            if let Err(failure) = redis.exchange(key, Some(write(None, b"x"))).await {
                return failure;
            }
            tokio::task::yield_now().await;
        }
    };
    within("a failure", failing).await
}

/// Exchanges until the register is held to be down, and returns the reason.
async fn until_given_up(redis: &Redis, key: &Key) -> Failure {
    let giving_up = async {
        loop {
            if let Err(failure) = redis.exchange(key, Some(write(None, b"x"))).await
                && let Link::Down(reason) = &*redis.link().borrow()
            {
                assert!(!matches!(failure.fault, Fault::Down) || !failure.reason.is_empty());
                return reason.clone();
            }
            tokio::task::yield_now().await;
        }
    };
    within("giving up", giving_up).await
}
