//! Servers on their bad days. Whatever happens, calls end, say why, and succeed again afterwards.

use super::*;
use crate::fleet::redis_rig::{Data, Options, Server};

/// It is down for a reason, and after the remedy up, and takes writes.
async fn until_it_works_again(redis: &Redis) {
    let key = key(&format!("{:x}", random::id64()));
    let working = async {
        loop {
            until_up(redis).await;
            if let Ok(Exchanged::Written { .. }) =
                redis.exchange(&key, Some(write(None, b"x"))).await
            {
                return;
            }
        }
    };
    within("it works again", working).await;
}

async fn started(options: Options, timeout: Duration) -> (Server, Redis) {
    let server = Server::with(options).await;
    let redis = redis(&format!("redis://{}", server.address()), timeout);
    until_up(&redis).await;
    (server, redis)
}

#[tokio::test]
async fn a_server_that_is_not_there_yet() {
    let mut server = Server::start().await;
    server.kill();
    let redis = redis(&format!("redis://{}", server.address()), AMPLE);
    let failure = until_down(&redis).await;
    assert_eq!(failure.fault, Fault::Down);
    let failure = read(&redis, &key("main")).await.unwrap_err();
    assert_eq!(failure.fault, Fault::Down);
    assert!(failure.reason.contains("refused"), "{failure}");
    server.restart(Data::Lost).await;
    until_it_works_again(&redis).await;
}

#[tokio::test]
async fn a_server_that_is_killed_and_has_lost_everything() {
    let (mut server, redis) = started(Options::new(), AMPLE).await;
    let key = key("main");
    put(&redis, &key, write(None, b"x")).await.unwrap();
    server.kill();
    let failure = until_down(&redis).await;
    assert_eq!(failure.fault, Fault::Broken, "{failure}");
    server.restart(Data::Lost).await;
    until_it_works_again(&redis).await;
    assert!(read(&redis, &key).await.unwrap().current.is_none());
}

#[tokio::test]
async fn a_server_that_is_frozen() {
    let (server, redis) = started(Options::new(), SHORT).await;
    let key = key("main");
    server.freeze();
    for _ in 0..3 {
        let failure = read(&redis, &key).await.unwrap_err();
        assert_eq!(failure.fault, Fault::TimedOut);
    }
    // From now on nobody waits for it.
    let failure = read(&redis, &key).await.unwrap_err();
    assert_eq!(failure.fault, Fault::Down);
    assert!(matches!(&*redis.link().borrow(), Link::Down(down) if down.fault == Fault::TimedOut));
    server.thaw();
    until_it_works_again(&redis).await;
}

#[tokio::test]
async fn a_hiccup_is_no_outage() {
    let (server, redis) = started(Options::new(), SHORT).await;
    let key = key("main");
    for _ in 0..3 {
        server.freeze();
        for _ in 0..2 {
            let failure = read(&redis, &key).await.unwrap_err();
            assert_eq!(failure.fault, Fault::TimedOut);
        }
        server.thaw();
        // The late answers go to nobody, and this one to the one who asked. A machine that is busy may need more than one turn.
        let answered = within("an answer", async {
            loop {
                match read(&redis, &key).await {
                    Ok(found) => break found,
                    Err(failure) => assert_eq!(failure.fault, Fault::TimedOut, "{failure}"),
                }
            }
        });
        assert!(answered.await.current.is_none());
    }
    assert!(matches!(&*redis.link().borrow(), Link::Up));
}

#[tokio::test]
async fn a_server_that_pauses_its_clients_or_sleeps() {
    let (server, redis) = started(Options::new().line("enable-debug-command yes"), SHORT).await;
    let key = key("main");
    for pause in [["CLIENT", "PAUSE", "1000"], ["DEBUG", "SLEEP", "1"]] {
        let pausing = async {
            server.call(&pause).await;
        };
        let (_, failure) = tokio::join!(pausing, until_it_fails(&redis, &key));
        assert_eq!(failure.fault, Fault::TimedOut, "{pause:?}: {failure}");
        until_it_works_again(&redis).await;
    }
}

#[tokio::test]
async fn a_server_that_becomes_a_replica() {
    let primary = Server::start().await;
    let (server, redis) = started(Options::new(), AMPLE).await;
    server.follow(&primary).await;
    let failure = until_given_up(&redis, &key("main")).await;
    assert!(
        matches!(failure.fault, Fault::NotWritable | Fault::Broken),
        "{failure}"
    );
    // A connection to a replica does not count, though the replica answers.
    let replica = self::redis(&format!("redis://{}", server.address()), AMPLE);
    let failure = until_down(&replica).await;
    assert_eq!(failure.fault, Fault::NotWritable, "{failure}");
    server.call(&["REPLICAOF", "NO", "ONE"]).await;
    until_it_works_again(&redis).await;
    until_it_works_again(&replica).await;
}

#[tokio::test]
async fn a_server_that_takes_no_writes() {
    let (server, redis) = started(Options::new(), AMPLE).await;
    for (setting, value, fault, remedy) in [
        ("maxmemory", "1", Fault::Refused, "0"),
        ("min-replicas-to-write", "1", Fault::NotWritable, "0"),
    ] {
        server.call(&["CONFIG", "SET", setting, value]).await;
        let failure = until_given_up(&redis, &key(setting)).await;
        assert_eq!(failure.fault, fault, "{setting}: {failure}");
        // What connects anew does not get further.
        let other = self::redis(&format!("redis://{}", server.address()), AMPLE);
        assert_eq!(until_down(&other).await.fault, fault, "{setting}");
        server.call(&["CONFIG", "SET", setting, remedy]).await;
        until_it_works_again(&redis).await;
    }
}

#[tokio::test]
async fn a_server_that_is_busy_with_a_script_of_someone_else() {
    let options = Options::new().line("busy-reply-threshold 50");
    let (server, redis) = started(options, AMPLE).await;
    let mut other = server.client().await.unwrap();
    let endless = async {
        let _ = other.call(&["EVAL", "while true do end", "0"]).await;
    };
    let trying = async {
        let failure = until_it_fails(&redis, &key("main")).await;
        assert_eq!(failure.fault, Fault::Refused, "{failure}");
        assert!(failure.reason.contains("BUSY"), "{failure}");
        server.call(&["SCRIPT", "KILL"]).await;
    };
    within("the script", async { tokio::join!(endless, trying) }).await;
    until_it_works_again(&redis).await;
}

#[tokio::test]
async fn a_user_who_loses_rights_or_is_gone() {
    let rights = format!("user fleet on >s3cr3t ~{PREFIX}:* resetchannels &{PREFIX}:* +@all");
    let server = Server::with(Options::new().line(rights)).await;
    let redis = redis(&format!("redis://fleet:s3cr3t@{}", server.address()), AMPLE);
    until_up(&redis).await;
    server.call(&["ACL", "SETUSER", "fleet", "-set"]).await;
    let failure = until_given_up(&redis, &key("main")).await;
    assert_eq!(failure.fault, Fault::Denied, "{failure}");
    server.call(&["ACL", "SETUSER", "fleet", "+set"]).await;
    until_it_works_again(&redis).await;

    server.call(&["ACL", "DELUSER", "fleet"]).await;
    let denied =
        |link: &Link| matches!(link, Link::Down(failure) if failure.fault == Fault::Denied);
    let mut link = redis.link();
    let denied = within("denied", link.wait_for(denied))
        .await
        .unwrap()
        .clone();
    assert!(!format!("{denied:?}").contains("s3cr3t"), "{denied:?}");
    server
        .call(&[
            "ACL",
            "SETUSER",
            "fleet",
            "on",
            ">s3cr3t",
            "~revgate:*",
            "resetchannels",
            "&revgate:*",
            "+@all",
        ])
        .await;
    until_it_works_again(&redis).await;
}

#[tokio::test]
async fn an_idle_replica_notices_a_frozen_server() {
    let (server, redis) = started(Options::new(), SHORT).await;
    server.freeze();
    assert_eq!(until_down(&redis).await.fault, Fault::TimedOut);
}

#[tokio::test]
async fn a_register_that_is_dropped_leaves_the_server() {
    let (server, redis) = started(Options::new(), AMPLE).await;
    let ours = async || {
        let clients = server.call(&["CLIENT", "LIST"]).await.text();
        clients.matches("name=revgate").count()
    };
    assert_eq!(ours().await, 1);
    drop(redis);
    within("it leaves", async { while ours().await > 0 {} }).await;
}
