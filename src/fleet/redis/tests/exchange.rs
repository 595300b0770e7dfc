//! Exchanges with a server that is well, and who may make them.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::*;
use crate::fleet::{
    redis::{connection::Connection, script::RIGHTS, supervisor::sign_of_life},
    redis_rig::{Authority, Options, Server, Value},
    register::MAX_VALUE,
};

#[tokio::test]
async fn a_value_is_replaced_if_it_is_the_expected_one() {
    let server = Server::start().await;
    let redis = redis(&format!("redis://{}", server.address()), AMPLE);
    until_up(&redis).await;
    let key = key("main");
    assert!(read(&redis, &key).await.unwrap().current.is_none());

    let bytes = [b"\x00\r\n\xff$-1".as_slice(), &[7; 20_000]].concat();
    let first = write(None, &bytes);
    let written = put(&redis, &key, first.clone()).await.unwrap();
    assert!(matches!(written, Exchanged::Written { .. }));
    let kept = server.call(&["PTTL", &*key]).await.text();
    let kept: u64 = kept.parse().unwrap();
    assert!((1..=100_000).contains(&kept), "{kept}");

    // Over nothing, and over another than is there: what is there comes back.
    for over in [None, Some(Tag(first.tag.0.wrapping_add(1)))] {
        let Exchanged::Found(found) = put(&redis, &key, write(over, b"late")).await.unwrap() else {
            panic!("written over another");
        };
        assert_eq!(found.current, Some((first.tag, first.value.clone())));
    }
    let second = write(Some(first.tag), b"");
    let written = put(&redis, &key, second.clone()).await.unwrap();
    assert!(matches!(written, Exchanged::Written { .. }));
    let found = read(&redis, &key).await.unwrap();
    assert_eq!(found.current, Some((second.tag, second.value)));
}

#[tokio::test]
async fn the_time_is_the_servers() {
    let server = Server::start().await;
    let redis = redis(&format!("redis://{}", server.address()), AMPLE);
    until_up(&redis).await;
    let time = async || {
        let Value::Array(parts) = server.call(&["TIME"]).await else {
            panic!("no time");
        };
        let parts: Vec<u64> = parts
            .iter()
            .map(|part| part.text().parse().unwrap())
            .collect();
        Duration::from_secs(parts[0]) + Duration::from_micros(parts[1])
    };
    let before = time().await;
    let read = read(&redis, &key("main")).await.unwrap().now;
    let written = match put(&redis, &key("main"), write(None, b"x")).await.unwrap() {
        Exchanged::Written { now } => now,
        Exchanged::Found(found) => panic!("{found:?}"),
    };
    assert!(before <= read && read <= written && written <= time().await);
}

#[tokio::test]
async fn no_write_of_twenty_is_lost() {
    const TASKS: u64 = 20;
    const EACH: u64 = 20;
    let server = Server::start().await;
    let redis = Arc::new(redis(&format!("redis://{}", server.address()), AMPLE));
    until_up(&redis).await;
    let key = key("main");
    let number = |value: &Bytes| u64::from_be_bytes(value[..].try_into().unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..TASKS {
        let (redis, key) = (redis.clone(), key.clone());
        tasks.spawn(async move {
            let mut current = read(&redis, &key).await.unwrap().current;
            for _ in 0..EACH {
                loop {
                    let next = current.as_ref().map_or(0, |(_, value)| number(value)) + 1;
                    let over = current.as_ref().map(|(tag, _)| *tag);
                    let write = write(over, &next.to_be_bytes());
                    let own = (write.tag, write.value.clone());
                    match put(&redis, &key, write).await.unwrap() {
                        Exchanged::Written { .. } => {
                            current = Some(own);
                            break;
                        }
                        Exchanged::Found(found) => current = found.current,
                    }
                }
            }
        });
    }
    within("all tasks", tasks.join_all()).await;
    let (_, value) = read(&redis, &key).await.unwrap().current.unwrap();
    assert_eq!(number(&value), TASKS * EACH);
}

#[tokio::test]
async fn scripts_and_data_may_be_flushed() {
    let server = Server::start().await;
    let redis = redis(&format!("redis://{}", server.address()), AMPLE);
    until_up(&redis).await;
    let key = key("main");
    let first = write(None, b"1");
    put(&redis, &key, first.clone()).await.unwrap();

    server.call(&["SCRIPT", "FLUSH"]).await;
    let second = write(Some(first.tag), b"2");
    let written = put(&redis, &key, second.clone()).await.unwrap();
    assert!(matches!(written, Exchanged::Written { .. }));

    server.call(&["FLUSHALL"]).await;
    let found = put(&redis, &key, write(Some(second.tag), b"3")).await;
    let Ok(Exchanged::Found(Found { current: None, .. })) = found else {
        panic!("{found:?}");
    };
    assert!(matches!(&*redis.link().borrow(), Link::Up));
}

#[tokio::test]
async fn what_others_keep_there_concerns_this_key_alone() {
    let server = Server::start().await;
    let redis = redis(&format!("redis://{}", server.address()), AMPLE);
    until_up(&redis).await;
    let key = key("main");
    let large = "0".repeat(MAX_VALUE + 17);
    for set in [
        vec!["SET", &key, &large],
        vec!["SET", &key, "foreign"],
        vec!["RPUSH", &key, "foreign"],
    ] {
        server.call(&["DEL", &*key]).await;
        server.call(&set).await;
        let failures = [
            put(&redis, &key, write(None, b"x")).await.err(),
            read(&redis, &key).await.err(),
        ];
        for failure in failures {
            assert_eq!(
                failure.map(|failure| failure.fault),
                Some(Fault::Refused),
                "{}",
                set[0]
            );
        }
    }
    let too_large = put(&redis, &key, write(None, large.as_bytes())).await;
    assert_eq!(too_large.unwrap_err().fault, Fault::Refused);

    // The largest may be written and read.
    server.call(&["DEL", &*key]).await;
    let largest = write(None, &large.as_bytes()[..MAX_VALUE]);
    put(&redis, &key, largest.clone()).await.unwrap();
    let found = read(&redis, &key).await.unwrap();
    assert_eq!(found.current, Some((largest.tag, largest.value)));
    assert!(matches!(&*redis.link().borrow(), Link::Up));
}

#[tokio::test]
async fn the_rights_that_are_written_down_suffice_and_each_is_needed() {
    let user = |rights: &str| {
        format!("user fleet on >s3cr3t ~{PREFIX}:* resetchannels &{PREFIX}:* {rights}")
    };
    let rights = format!("{RIGHTS} +select");
    let named = format!("{rights} +client|setname");
    let server = Server::with(Options::new().line(user(&named))).await;
    let text = format!("redis://fleet:s3cr3t@{}/1", server.address());
    let mut hinted = write(None, b"x");
    hinted.hint = Bytes::from_static(b"h");
    {
        let redis = redis(&text, AMPLE);
        redis.listen(&key("main"));
        until_up(&redis).await;
        let mut hints = redis.hints().unwrap();
        put(&redis, &key("main"), hinted.clone()).await.unwrap();
        put(&redis, &key("main"), write(Some(hinted.tag), b"y"))
            .await
            .unwrap();
        within("a hint", async { while !matches!(hints.recv().await, Some(super::super::Hint::Told(_, hint)) if &hint[..] == b"h") {} }).await;
        redis.forget(&key("main"));
        // Listening on shows that forgetting was allowed: it would have ended the connection.
        redis.listen(&key("other"));
        within("an empty hint", async { while !matches!(hints.recv().await, Some(super::super::Hint::Told(other, _)) if other == key("other")) {} }).await;
        let named = server.call(&["CLIENT", "LIST"]).await.text();
        assert!(named.contains("name=revgate"), "{named}");
    }
    for right in rights.split(' ') {
        // Forgetting is shown above.
        if right == "+unsubscribe" {
            continue;
        }
        server.call(&["FLUSHALL"]).await;
        server.call(&["SCRIPT", "FLUSH"]).await;
        let without: Vec<&str> = rights.split(' ').filter(|one| *one != right).collect();
        let mut command = vec!["ACL", "SETUSER", "fleet", "nocommands"];
        command.extend(without);
        server.call(&command).await;
        let redis = redis(&text, AMPLE);
        redis.listen(&key("main"));
        let failure = until_down(&redis).await;
        assert_eq!(failure.fault, Fault::Denied, "{right}: {failure}");
    }
    // An idle node is asked something all the same, and whoever may do nothing gets an answer.
    server
        .call(&["ACL", "SETUSER", "fleet", "nocommands"])
        .await;
    let endpoint = endpoint(text.trim_end_matches("/1"));
    let target = Target::at(&endpoint, endpoint.addresses[0].clone(), None);
    let answer = Connection::ask(&target, &sign_of_life(), AMPLE).await;
    assert!(answer.is_ok(), "{answer:?}");
}

#[tokio::test]
async fn whoever_may_not_log_in_is_told_so_without_the_password() {
    let server = Server::with(Options::new().line("requirepass right")).await;
    for text in [
        format!("redis://:s3cr3t@{}", server.address()),
        format!("redis://nobody:s3cr3t@{}", server.address()),
        format!("redis://{}", server.address()),
    ] {
        let redis = redis(&text, AMPLE);
        let failure = until_down(&redis).await;
        assert_eq!(failure.fault, Fault::Denied, "{text}: {failure}");
        assert!(!failure.reason.contains("s3cr3t"), "{failure}");
        assert!(failure.reason.contains(&server.address()), "{failure}");
        let failure = read(&redis, &key("main")).await.unwrap_err();
        assert_eq!(failure.fault, Fault::Down);
        assert!(!failure.reason.contains("s3cr3t"), "{failure}");
    }
    let redis = redis(&format!("redis://:right@{}", server.address()), AMPLE);
    until_up(&redis).await;
}

#[tokio::test]
async fn over_a_unix_socket_and_in_another_database() {
    let server = Server::start().await;
    let redis = redis(&format!("unix:{}?db=3", server.socket().display()), AMPLE);
    until_up(&redis).await;
    put(&redis, &key("main"), write(None, b"x")).await.unwrap();
    let spaces = server.call(&["INFO", "keyspace"]).await.text();
    assert!(
        spaces.contains("db3:") && !spaces.contains("db0:"),
        "{spaces}"
    );

    let endpoint = format!("redis://{}/99", server.address());
    let redis = self::redis(&endpoint, AMPLE);
    assert_eq!(until_down(&redis).await.fault, Fault::Refused);
}

fn trusting(authority: &Authority) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(authority.certificate.as_bytes());
    roots.add(certificate.unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

#[tokio::test]
async fn over_tls_by_the_authority_that_is_trusted() {
    let authority = Arc::new(Authority::new());
    let server = Server::with(Options::new().tls(&authority)).await;
    let (port, address) = (server.port(), server.address());
    for host in ["localhost", "127.0.0.1"] {
        let text = format!("rediss://{host}:{port}");
        let redis = redis_with(&text, AMPLE, Some(trusting(&authority)));
        until_up(&redis).await;
        put(&redis, &key(host), write(None, b"x")).await.unwrap();
    }
    let strangers = trusting(&Authority::new());
    let redis = redis_with(&format!("rediss://{address}"), AMPLE, Some(strangers));
    let failure = until_down(&redis).await;
    assert!(failure.reason.contains("certificate"), "{failure}");

    // Each side speaks TLS alone, or does not know it.
    let redis = self::redis(&format!("redis://{address}"), AMPLE);
    until_down(&redis).await;
    let plain = Server::start().await;
    let text = format!("rediss://{}", plain.address());
    let redis = redis_with(&text, AMPLE, Some(trusting(&authority)));
    until_down(&redis).await;
}
