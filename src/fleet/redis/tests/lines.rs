//! What lies between, and what is no Redis at all.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::fleet::redis_rig::{Mode, Proxy, Server};

async fn started(server: &Server, timeout: Duration) -> (Proxy, Redis) {
    let proxy = Proxy::to(server.address()).await;
    let redis = redis(&format!("redis://{}", proxy.address()), timeout);
    until_up(&redis).await;
    (proxy, redis)
}

async fn until_it_works_again(redis: &Redis) {
    let key = key(&format!("{:x}", random::id64()));
    within("it works again", async {
        while redis.exchange(&key, Some(write(None, b"x"))).await.is_err() {
            until_up(redis).await;
        }
    })
    .await;
}

#[tokio::test]
async fn lines_that_are_silent_or_slow() {
    let server = Server::start().await;
    for mode in [
        Mode::Swallow,
        Mode::LoseAnswers,
        Mode::HalfThenSilence,
        Mode::Delay(SHORT * 10),
    ] {
        let (proxy, redis) = started(&server, SHORT).await;
        proxy.set(mode.clone());
        let failure = within("a failure", read(&redis, &key("main")))
            .await
            .unwrap_err();
        assert_eq!(failure.fault, Fault::TimedOut, "{mode:?}");
        let failure = until_given_up(&redis, &key("main")).await;
        assert_eq!(failure.fault, Fault::TimedOut, "{mode:?}: {failure}");
        proxy.set(Mode::Pass);
        until_it_works_again(&redis).await;
    }
}

#[tokio::test]
async fn what_had_no_answer_may_have_been_written() {
    let server = Server::start().await;
    let (proxy, redis) = started(&server, SHORT).await;
    let direct = self::redis(&format!("redis://{}", server.address()), AMPLE);
    until_up(&direct).await;
    proxy.set(Mode::LoseAnswers);
    let lost = write(None, b"x");
    let failure = put(&redis, &key("main"), lost.clone()).await.unwrap_err();
    assert_eq!(failure.fault, Fault::TimedOut);
    // It was sent and is done, in order with what comes later: the server is asked until it has done so.
    let found = within("it is there", async {
        loop {
            if let Some(found) = read(&direct, &key("main")).await.unwrap().current {
                return found;
            }
        }
    });
    assert_eq!(found.await, (lost.tag, lost.value));
}

#[tokio::test]
async fn lines_that_break_and_answers_that_are_none() {
    let server = Server::start().await;
    let say = |text: &str| Mode::Say(text.as_bytes().to_vec());
    let endless = |text: &str| Mode::Endless(text.as_bytes().to_vec());
    for (mode, want) in [
        // What is seen first differs: half of an answer, or the end.
        (Mode::HalfThenCut, ""),
        (
            say("HTTP/1.1 400 Bad Request\r\n\r\n"),
            "no answer of Redis",
        ),
        (say("\0\0\0\0"), "no answer of Redis"),
        (say("$x\r\n"), "no answer of Redis"),
        (say("+OK\r\n"), "no answer of the script"),
        (say("*0\r\n"), "no answer of the script"),
        (say("%1\r\n+a\r\n:1\r\n"), "no answer of the script"),
        (endless("$9999999999\r\n"), "more than any answer"),
        (endless("$1000000000000000000\r\n"), "more than any answer"),
        (
            endless("*1000000000\r\n$4000000\r\n"),
            "more than any answer",
        ),
        (endless("+"), "more than any answer"),
    ] {
        let (proxy, redis) = started(&server, AMPLE).await;
        proxy.set(mode.clone());
        let failure = within("a failure", read(&redis, &key("main")))
            .await
            .unwrap_err();
        assert_eq!(failure.fault, Fault::Broken, "{mode:?}: {failure}");
        assert!(failure.reason.contains(want), "{mode:?}: {failure}");
        // Also while it connects anew, nothing else comes.
        until_down(&redis).await;
        proxy.set(Mode::Pass);
        proxy.cut();
        until_it_works_again(&redis).await;
    }
}

/// What the parser of the crate might trip over: depth, lengths below zero or beyond all memory, numbers that are none.
#[tokio::test]
async fn answers_that_are_made_to_harm() {
    let server = Server::start().await;
    let deep = |one: &str| one.repeat(10_000);
    for bytes in [
        deep("*1\r\n"),
        deep("%1\r\n"),
        deep("|1\r\n"),
        deep(">2\r\n"),
        "=-1\r\n".to_owned(),
        "!-5\r\n".to_owned(),
        "$-9223372036854775808\r\n".to_owned(),
        "%-1\r\n".to_owned(),
        "%4611686018427387904\r\n".to_owned(),
        "|9223372036854775807\r\n".to_owned(),
        "~9223372036854775807\r\n:1\r\n".to_owned(),
        ">9223372036854775807\r\n+message\r\n".to_owned(),
        "*99999999999999999999\r\n".to_owned(),
        ",nan\r\n".to_owned(),
        "(\r\n".to_owned(),
        ">0\r\n>1\r\n$7\r\nmessage\r\n>2\r\n+message\r\n:1\r\n".to_owned(),
    ] {
        // One of its own for each: a connection that breaks again and again is opened ever more slowly.
        let (proxy, redis) = started(&server, SHORT).await;
        proxy.set(Mode::Say(bytes.clone().into_bytes()));
        let failure = until_it_fails(&redis, &key("main")).await;
        assert!(
            matches!(failure.fault, Fault::Broken | Fault::TimedOut),
            "{bytes:.20}: {failure}"
        );
        proxy.set(Mode::Pass);
        proxy.cut();
        until_it_works_again(&redis).await;
    }
}

#[tokio::test]
async fn lines_that_are_cut_or_refused() {
    let server = Server::start().await;
    let (proxy, redis) = started(&server, AMPLE).await;
    proxy.set(Mode::Refuse);
    proxy.cut();
    let failure = until_down(&redis).await;
    assert_eq!(failure.fault, Fault::Broken, "{failure}");
    let failure = read(&redis, &key("main")).await.unwrap_err();
    assert_eq!(failure.fault, Fault::Down);
    proxy.set(Mode::Pass);
    until_it_works_again(&redis).await;
}

/// Answers whatever comes with the same, again and again.
async fn parrot(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut asked = vec![0; 4096];
                while let Ok(1..) = stream.read(&mut asked).await {
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_login_that_is_refused_does_not_tell_the_password() {
    for (answer, fault) in [
        (
            "-ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `u`, `s3cr3t`\r\n",
            Fault::Refused,
        ),
        (
            "-ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'u' 's3cr3t'\r\n",
            Fault::Refused,
        ),
        ("-s3cr3t\r\n", Fault::Refused),
        ("-LOADING s3cr3t\r\n", Fault::NotWritable),
        ("s3cr3t\r\n", Fault::Broken),
        ("+s3cr3t\r\n", Fault::Broken),
    ] {
        let redis = redis(&format!("redis://u:s3cr3t@{}", parrot(answer).await), AMPLE);
        let failure = until_down(&redis).await;
        assert_eq!(failure.fault, fault, "{answer}: {failure}");
        assert!(!failure.reason.contains("s3cr3t"), "{failure}");
    }
}
