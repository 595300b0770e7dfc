use redis::{Value, parse_redis_value};
use tokio::time::Instant;

use super::*;
use crate::fleet::{
    names::Names,
    redis::{
        address::{Kind, parse},
        start,
        written::{put, until_written, until_written_to},
    },
    redis_rig::{
        Authority, Data, Fake, MASTER, Mode, Options, Proxy, Server, Watched, report, until,
    },
    register::Register,
};
use crate::{types::Roots, upstream::tls::plain_config};

/// Generous: what is tested is what is found, and that nothing waits longer.
const WITHIN: Duration = Duration::from_secs(1);

/// As the text of `shared.redis` says it.
fn sentinels(text: &str) -> Sentinels {
    let endpoint = parse(text).expect("an endpoint");
    let Kind::Sentinel {
        master,
        credentials,
    } = endpoint.kind.clone()
    else {
        panic!("{text}: not of Sentinels");
    };
    Sentinels {
        server: super::Server {
            endpoint,
            tls: None,
        },
        credentials,
        master,
    }
}

fn of(watched: &Watched) -> Sentinels {
    sentinels(&format!(
        "redis+sentinel://{}/{MASTER}",
        watched.addresses()
    ))
}

async fn found(sentinels: &Sentinels) -> Result<String, Failure> {
    let target = sentinels.find(WITHIN).await?;
    Ok(target.address.to_string())
}

/// A Sentinel that was cut off, and names this address for ever.
async fn stale(names: &str) -> Fake {
    let (host, port) = names.rsplit_once(':').expect("an address");
    let named = format!(
        "*2\r\n${}\r\n{host}\r\n${}\r\n{port}\r\n",
        host.len(),
        port.len()
    );
    Fake::start(&[("GET-MASTER", named)]).await
}

fn register(watched: &Watched) -> Arc<dyn Register> {
    let text = format!("redis+sentinel://{}/{MASTER}", watched.addresses());
    let endpoint = parse(&text).expect("an endpoint");
    start(endpoint, None, Names::new("revgate", None), WITHIN)
}

/// Writes go on after each kind of failover, and what takes them is the new primary.
#[tokio::test]
async fn exchanges_go_on_after_failovers() {
    let mut watched = Watched::start(3).await;
    let register = register(&watched);
    let key = Names::new("revgate", None).of_group("main");
    until_written(&*register, &key).await;

    watched.fail_over_to(1).await;
    let took = until_written_to(&watched.servers[1], &*register, &key).await;
    report("Sentinel: written after SENTINEL FAILOVER", took);

    watched.servers[0].until_it_follows().await;
    watched.servers[1].kill();
    let killed = Instant::now();
    watched.until_primary(0).await;
    report("Sentinel: a new primary after kill -9", killed.elapsed());
    until_written_to(&watched.servers[0], &*register, &key).await;
    report("Sentinel: written after kill -9", killed.elapsed());

    // The old one comes back, and becomes a replica.
    watched.servers[1].restart(Data::Lost).await;
    until("a replica", || async {
        match watched.servers[1].info("role").await.as_deref() {
            Some("slave") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    watched.servers[1].until_it_follows().await;
    until_written(&*register, &key).await;

    watched.servers[0].freeze();
    let frozen = Instant::now();
    watched.until_primary(1).await;
    report("Sentinel: a new primary after SIGSTOP", frozen.elapsed());
    until_written_to(&watched.servers[1], &*register, &key).await;
    report("Sentinel: written after SIGSTOP", frozen.elapsed());
    // When it runs again it still holds itself for a primary, and Sentinel tells it better.
    watched.servers[0].thaw();
    watched.servers[0].until_it_follows().await;
    until_written_to(&watched.servers[1], &*register, &key).await;
}

#[tokio::test]
async fn tls_to_sentinels_and_servers() {
    let authority = Arc::new(Authority::new());
    let options = Options::new().tls(&authority);
    let watched = Watched::with(options.clone(), options, 1).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, &authority.certificate).expect("written");
    let tls = Arc::new(plain_config(&Roots::File(file)).expect("roots"));
    let text = format!("rediss+sentinel://{}/{MASTER}", watched.addresses());
    let endpoint = parse(&text).expect("an endpoint");
    let names = Names::new("revgate", None);
    let key = names.of_group("main");
    let register = start(endpoint, Some(&tls), names, WITHIN);
    until_written_to(&watched.servers[0], &*register, &key).await;
}

/// Sentinel need not tell for a primary to be none any more: READONLY alone makes us ask again.
#[tokio::test]
async fn a_primary_that_turns_into_a_replica_is_left() {
    let watched = Watched::start(1).await;
    let register = register(&watched);
    let key = Names::new("revgate", None).of_group("main");
    until_written(&*register, &key).await;
    watched.sentinels[0].freeze();
    watched.servers[1].call(&["REPLICAOF", "NO", "ONE"]).await;
    watched.servers[0].follow(&watched.servers[1]).await;
    until("it is left", || async {
        match put(&*register, &key).await {
            Err(failure) => {
                let expected = [Fault::NotWritable, Fault::Broken, Fault::Down];
                assert!(expected.contains(&failure.fault), "{failure}");
                Ok(())
            }
            Ok(_) => Err("written".to_owned()),
        }
    })
    .await;
    watched.sentinels[0].thaw();
    let took = until_written_to(&watched.servers[1], &*register, &key).await;
    report("Sentinel: written after REPLICAOF by hand", took);
}

fn value(text: &str) -> Value {
    parse_redis_value(text.as_bytes()).expect("a value")
}

#[test]
fn what_a_sentinel_names() {
    for (answer, want) in [
        (
            "*2\r\n$8\r\n10.0.0.1\r\n$4\r\n6379\r\n",
            Some("10.0.0.1:6379"),
        ),
        ("*2\r\n$3\r\n::1\r\n$4\r\n6379\r\n", Some("[::1]:6379")),
        ("*2\r\n$0\r\n\r\n$4\r\n6379\r\n", None),
        ("*2\r\n$1\r\na\r\n$1\r\n0\r\n", None),
        ("*2\r\n$1\r\na\r\n$1\r\nx\r\n", None),
        ("*2\r\n$1\r\na\r\n:1\r\n", None),
        ("*1\r\n$1\r\na\r\n", None),
        ("*-1\r\n", None),
        ("+OK\r\n", None),
    ] {
        let address = named(&value(answer)).map(|address| address.to_string());
        assert_eq!(address.as_deref(), want, "{answer:?}");
    }
}

#[test]
fn roles() {
    for (role, want) in [
        ("*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n", true),
        ("*1\r\n$5\r\nslave\r\n", false),
        ("*1\r\n$8\r\nsentinel\r\n", false),
        ("*0\r\n", false),
        ("$6\r\nmaster\r\n", false),
    ] {
        assert_eq!(is_primary(&value(role)), want, "{role:?}");
    }
}

#[tokio::test]
async fn a_failover_is_followed() {
    let mut watched = Watched::start(3).await;
    let all = of(&watched);
    assert_eq!(found(&all).await.unwrap(), watched.servers[0].address());
    watched.fail_over_to(1).await;
    assert_eq!(found(&all).await.unwrap(), watched.servers[1].address());

    // The other one, which is a replica now, takes over when this one is killed, and none is found in between.
    watched.servers[0].until_it_follows().await;
    watched.servers[1].kill();
    let (begun, other) = (Instant::now(), watched.servers[0].address());
    until("the other server is found", || async {
        match found(&all).await {
            Ok(address) if address == other => Ok(()),
            Ok(address) => panic!("{address} is no primary"),
            Err(failure) => Err(failure.to_string()),
        }
    })
    .await;
    report("Sentinel: found after kill -9", begun.elapsed());
}

#[tokio::test]
async fn what_is_cut_off_names_an_old_primary_in_vain() {
    let watched = Watched::start(1).await;
    watched.fail_over_to(1).await;
    watched.servers[0].until_it_follows().await;
    let (old, new) = (watched.servers[0].address(), watched.servers[1].address());
    let nobody = Server::start().await;
    nobody.freeze();
    for named in [&old, "127.0.0.1:1", &nobody.address()] {
        let stale = stale(named).await;
        let both = format!(
            "redis+sentinel://{},{}/{MASTER}",
            stale.address(),
            watched.addresses()
        );
        assert_eq!(found(&sentinels(&both)).await.unwrap(), new, "{named}");
    }
    let stale = stale(&old).await;
    let alone = format!("redis+sentinel://{}/{MASTER}", stale.address());
    let failure = found(&sentinels(&alone)).await.expect_err("a replica");
    assert_eq!(failure.fault, Fault::NotWritable, "{failure}");
    assert!(failure.reason.contains("no primary"), "{failure}");
}

/// What most name comes first, also when both say that they are primaries: such as two sides of a network that was split.
#[tokio::test]
async fn most_sentinels_are_believed() {
    let (first, second) = (Server::start().await, Server::start().await);
    let mut all = vec![stale(&first.address()).await];
    for _ in 0..2 {
        all.push(stale(&second.address()).await);
    }
    let addresses: Vec<String> = all.iter().map(Fake::address).collect();
    let all = sentinels(&format!(
        "redis+sentinel://{}/{MASTER}",
        addresses.join(",")
    ));
    assert_eq!(found(&all).await.unwrap(), second.address());
}

#[tokio::test]
async fn a_sentinel_that_hangs_or_is_gone_holds_nobody() {
    let mut watched = Watched::start(3).await;
    watched.sentinels[0].freeze();
    watched.sentinels[1].kill();
    assert_eq!(
        found(&of(&watched)).await.unwrap(),
        watched.servers[0].address()
    );

    let proxy = Proxy::to(watched.sentinels[2].address()).await;
    let alone = sentinels(&format!("redis+sentinel://{}/{MASTER}", proxy.address()));
    assert_eq!(found(&alone).await.unwrap(), watched.servers[0].address());
    for (mode, fault) in [
        (Mode::Swallow, Fault::TimedOut),
        (Mode::Refuse, Fault::Broken),
        (
            Mode::Say(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
            Fault::Broken,
        ),
    ] {
        proxy.set(mode.clone());
        let failure = found(&alone).await.expect_err("no Sentinel");
        assert_eq!(failure.fault, fault, "{mode:?}: {failure}");
        assert!(failure.reason.contains(&proxy.address()), "{failure}");
    }
}

#[tokio::test]
async fn sentinels_have_users_of_their_own() {
    let server = Options::new()
        .line("user default off")
        .line("user fleet on >word ~* &* +@all");
    let sentinel = Options::new()
        .line("user default off")
        .line(format!("user asks on >other {RIGHT}"));
    let watched = Watched::with(server, sentinel, 1).await;
    let text = |user: &str, sentinel: &str| {
        let addresses = watched.addresses();
        sentinels(&format!(
            "redis+sentinel://{user}@{addresses}/{MASTER}?{sentinel}"
        ))
    };
    let good = "sentinel_user=asks&sentinel_password=other";
    let all = text("fleet:word", good);
    assert_eq!(found(&all).await.unwrap(), watched.servers[0].address());
    let wrong = "sentinel_user=asks&sentinel_password=s3cr3t";
    let failure = found(&text("fleet:word", wrong)).await;
    let failure = failure.expect_err("refused");
    assert_eq!(failure.fault, Fault::Denied, "{failure}");
    assert!(!failure.reason.contains("s3cr3t"), "{failure}");
    // A user of the server may lack the right to ask for its role, so the connection itself shows that this is none.
    let found = found(&text("fleet:s3cr3t", good)).await;
    assert_eq!(found.unwrap(), watched.servers[0].address());
    let other = sentinels(&format!(
        "redis+sentinel://fleet:word@{}/other?{good}",
        watched.addresses()
    ));
    let failure = other.find(WITHIN).await.err().expect("no such name");
    assert!(
        failure.reason.contains("no primary of this name"),
        "{failure}"
    );
}
