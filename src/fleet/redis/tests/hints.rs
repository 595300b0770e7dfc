//! Hints between replicas.

use tokio::sync::mpsc;

use super::*;
use crate::fleet::{
    redis_rig::{Data, Proxy, Server},
    register::Hint,
};

async fn next(hints: &mut mpsc::Receiver<Hint>) -> String {
    match within("a hint", hints.recv()).await {
        Some(Hint::Told(key, hint)) => format!("{key} {}", String::from_utf8_lossy(&hint)),
        Some(Hint::Missed) => "missed".to_owned(),
        None => panic!("the register has gone"),
    }
}

fn told(name: &str, hint: &str) -> String {
    format!("{} {hint}", key(name))
}

/// Writes whatever is there.
async fn tell(redis: &Redis, name: &str, hint: &str) {
    let over = read(redis, &key(name)).await.unwrap().current;
    let mut write = write(over.map(|(tag, _)| tag), b"x");
    write.hint = Bytes::copy_from_slice(hint.as_bytes());
    let written = put(redis, &key(name), write).await.unwrap();
    assert!(matches!(written, Exchanged::Written { .. }));
}

#[tokio::test]
async fn a_hint_comes_with_what_is_written_to_those_who_listen() {
    let server = Server::start().await;
    let text = format!("redis://{}", server.address());
    let (writer, reader) = (redis(&text, AMPLE), redis(&text, AMPLE));
    reader.listen(&key("early"));
    let mut hints = reader.hints().unwrap();
    assert!(reader.hints().is_none());
    until_up(&writer).await;
    assert_eq!(next(&mut hints).await, "missed");

    tell(&writer, "early", "1").await;
    tell(&writer, "late", "2").await;
    assert_eq!(next(&mut hints).await, told("early", "1"));
    reader.listen(&key("late"));
    assert_eq!(next(&mut hints).await, told("late", ""));
    tell(&writer, "late", "3").await;
    assert_eq!(next(&mut hints).await, told("late", "3"));

    // What is refused is not told, and neither is a write without a hint.
    let mut late = write(None, b"x");
    late.hint = Bytes::from_static(b"4");
    let found = put(&writer, &key("late"), late).await.unwrap();
    assert!(matches!(found, Exchanged::Found(_)));
    tell(&writer, "late", "").await;

    reader.forget(&key("late"));
    reader.listen(&key("mark"));
    assert_eq!(next(&mut hints).await, told("mark", ""));
    tell(&writer, "late", "5").await;
    tell(&writer, "early", "6").await;
    assert_eq!(next(&mut hints).await, told("early", "6"));
}

#[tokio::test]
async fn a_new_connection_listens_again_and_says_that_hints_may_be_missed() {
    let mut server = Server::start().await;
    let proxy = Proxy::to(server.address()).await;
    let writer = redis(&format!("redis://{}", server.address()), AMPLE);
    let reader = redis(&format!("redis://{}", proxy.address()), AMPLE);
    let mut hints = reader.hints().unwrap();
    until_up(&reader).await;
    assert_eq!(next(&mut hints).await, "missed");
    reader.listen(&key("main"));
    assert_eq!(next(&mut hints).await, told("main", ""));

    proxy.cut();
    assert_eq!(next(&mut hints).await, "missed");
    until_up(&writer).await;
    tell(&writer, "main", "1").await;
    assert_eq!(next(&mut hints).await, told("main", "1"));

    server.restart(Data::Lost).await;
    assert_eq!(next(&mut hints).await, "missed");
    within("the writer", async {
        while read(&writer, &key("main")).await.is_err() {
            until_up(&writer).await;
        }
    })
    .await;
    tell(&writer, "main", "2").await;
    assert_eq!(next(&mut hints).await, told("main", "2"));
}
