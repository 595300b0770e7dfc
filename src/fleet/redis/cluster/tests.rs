//! Over a real cluster.

use tokio::{net::TcpListener, time::sleep};

use super::*;
use crate::{
    fleet::{
        redis::{
            address::parse,
            script,
            written::{HINT, put, until_written, until_written_to},
        },
        redis_rig::{self, Authority, Data, Fake, Mode, Options, Proxy, Server, report, until},
    },
    types::Roots,
    upstream::tls::plain_config,
};

/// Generous: what is tested is what comes of an exchange, and that it ends.
const WITHIN: Duration = Duration::from_secs(1);

fn names() -> Names {
    Names::new("revgate", None)
}

/// As the text of `shared.redis` says it.
fn register_at(text: &str, tls: Option<&Arc<rustls::ClientConfig>>) -> Cluster {
    let endpoint = parse(text).expect("an endpoint");
    let tls = tls.cloned();
    let server = super::Server { endpoint, tls };
    Cluster::start(server, names(), WITHIN)
}

fn register(rig: &redis_rig::Cluster) -> Cluster {
    register_at(&format!("redis+cluster://{}", rig.addresses()), None)
}

/// The name of a group whose slot this node has.
async fn key_of(rig: &redis_rig::Cluster, node: usize) -> Key {
    for number in 0.. {
        let key = names().of_group(&number.to_string());
        if rig.owner(&key).await == node {
            return key;
        }
    }
    unreachable!("one of the first is there")
}

async fn until_up(register: &Cluster) {
    until("the register is up", || async {
        match &*register.link().borrow() {
            Link::Up => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

async fn until_fault(register: &Cluster, key: &Key, reason: &str) -> Failure {
    let last = Lock::new(None);
    until(reason, || async {
        match put(register, key).await {
            Err(failure) if failure.reason.contains(reason) => {
                *last.lock() = Some(failure);
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    last.lock().take().expect("a failure")
}

/// Writes until a hint comes, and gives what came.
async fn until_told(writer: &Cluster, hints: &mut mpsc::Receiver<Hint>, key: &Key) {
    let told = async {
        loop {
            match hints.recv().await {
                Some(Hint::Told(of, hint)) if of == *key && hint == HINT => return,
                Some(_) => {}
                None => panic!("no more hints"),
            }
        }
    };
    let writing = async {
        loop {
            until_written(writer, key).await;
            sleep(Duration::from_millis(20)).await;
        }
    };
    let done = async {
        tokio::select! {
            () = told => {}
            () = writing => {}
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(30), done);
    done.await.expect("a hint");
}

#[tokio::test]
async fn keys_and_hints_of_all_nodes() {
    let rig = redis_rig::Cluster::start().await;
    let (writer, listener) = (register(&rig), register(&rig));
    let mut hints = listener.hints().expect("taken once");
    let mut keys = Vec::new();
    for node in 0..3 {
        let key = key_of(&rig, node).await;
        listener.listen(&key);
        keys.push(key);
    }
    until_up(&listener).await;
    for key in &keys {
        until_told(&writer, &mut hints, key).await;
    }
    for (node, key) in keys.iter().enumerate() {
        let there = rig.nodes[node].call(&["GET", key]).await.text();
        assert!(there.ends_with("value"), "{there}");
    }
}

#[tokio::test]
async fn no_exchange_fails_while_its_slot_moves() {
    let rig = redis_rig::Cluster::start().await;
    let (writer, listener) = (register(&rig), register(&rig));
    let mut hints = listener.hints().expect("taken once");
    let key = key_of(&rig, 0).await;
    listener.listen(&key);
    until_told(&writer, &mut hints, &key).await;
    let slot = rig.slot(&key).await;
    let put = async || put(&writer, &key).await.expect("written");

    rig.begin_move(slot, 0, 1).await;
    put().await;
    rig.move_keys(slot, 0, 1).await;
    // ASK, also when the value is not there at all.
    put().await;
    let asked = rig.nodes[0]
        .try_call(&["GET", &key])
        .await
        .expect("answered");
    assert!(asked.text().contains("ASK"), "{asked}");
    rig.nodes[1].call(&["FLUSHALL"]).await;
    put().await;
    rig.end_move(slot, 0, 1).await;
    // MOVED.
    put().await;
    let there = rig.nodes[1].call(&["GET", &key]).await.text();
    assert!(there.ends_with("value"), "{there}");
    until_told(&writer, &mut hints, &key).await;

    rig.move_slot(slot, 1, 2).await;
    put().await;
    until_told(&writer, &mut hints, &key).await;
    until_up(&listener).await;
}

#[tokio::test]
async fn exchanges_go_on_after_failovers() {
    let mut rig = redis_rig::Cluster::with_replicas().await;
    let register = register(&rig);
    let key = key_of(&rig, 0).await;
    register.listen(&key);
    until_written(&register, &key).await;

    rig.fail_over_to(3).await;
    let took = until_written_to(&rig.nodes[3], &register, &key).await;
    report("cluster: written after CLUSTER FAILOVER", took);
    rig.until_ok().await;
    rig.nodes[0].until_it_follows().await;

    rig.nodes[3].kill();
    let killed = Instant::now();
    rig.until_primary(0).await;
    report("cluster: a new primary after kill -9", killed.elapsed());
    until_written_to(&rig.nodes[0], &register, &key).await;
    report("cluster: written after kill -9", killed.elapsed());
    until_up(&register).await;

    // The old one comes back, and becomes a replica.
    rig.restart(3, Data::Lost).await;
    rig.nodes[3].until_it_follows().await;
    until_written_to(&rig.nodes[0], &register, &key).await;

    rig.nodes[0].freeze();
    let frozen = Instant::now();
    rig.until_primary(3).await;
    report("cluster: a new primary after SIGSTOP", frozen.elapsed());
    until_written_to(&rig.nodes[3], &register, &key).await;
    report("cluster: written after SIGSTOP", frozen.elapsed());
    until_up(&register).await;
    // When it runs again it still holds itself for a primary, and the others tell it better.
    rig.nodes[0].thaw();
    rig.nodes[0].until_it_follows().await;
    until_written_to(&rig.nodes[3], &register, &key).await;
}

#[tokio::test]
async fn a_cluster_that_lacks_a_node_is_down_until_it_is_back() {
    let mut rig = redis_rig::Cluster::start().await;
    let register = register(&rig);
    let (here, gone) = (key_of(&rig, 0).await, key_of(&rig, 1).await);
    for key in [&here, &gone] {
        register.listen(key);
        until_written(&register, key).await;
    }
    rig.nodes[1].kill();
    // Its own keys at once, all others once the nodes hold it for dead.
    let failure = until_fault(&register, &gone, "").await;
    assert!(
        matches!(failure.fault, Fault::Broken | Fault::Down),
        "{failure}"
    );
    let failure = until_fault(&register, &here, "CLUSTERDOWN").await;
    assert!(
        matches!(failure.fault, Fault::NotWritable | Fault::Down),
        "{failure}"
    );
    assert!(matches!(&*register.link().borrow(), Link::Down(_)));
    rig.restart(1, Data::Lost).await;
    rig.until_ok().await;
    for key in [&here, &gone] {
        let took = until_written(&register, key).await;
        report("cluster: written after it was whole again", took);
    }
    until_up(&register).await;
}

#[tokio::test]
async fn one_seed_that_answers_is_enough() {
    let rig = redis_rig::Cluster::start().await;
    let frozen = Server::start().await;
    frozen.freeze();
    let seeds = format!(
        "redis+cluster://127.0.0.1:1,{},{}",
        frozen.address(),
        rig.nodes[2].address()
    );
    let register = register_at(&seeds, None);
    let key = key_of(&rig, 0).await;
    until_written(&register, &key).await;
}

/// As where nodes cannot know under which address they are reached.
#[tokio::test]
async fn nodes_that_announce_no_address_are_where_they_were_asked() {
    let options = Options::new().line("cluster-preferred-endpoint-type unknown-endpoint");
    let rig = redis_rig::Cluster::with(options, false).await;
    let register = register(&rig);
    let key = key_of(&rig, 0).await;
    until_written(&register, &key).await;
    rig.move_slot(rig.slot(&key).await, 0, 1).await;
    put(&register, &key).await.expect("MOVED is followed");
}

/// The bound of an exchange holds over all redirections.
#[tokio::test]
async fn an_exchange_that_is_sent_on_to_a_node_that_hangs_ends_in_time() {
    let rig = redis_rig::Cluster::start().await;
    let register = register(&rig);
    let key = key_of(&rig, 0).await;
    until_written(&register, &key).await;
    let slot = rig.slot(&key).await;
    rig.begin_move(slot, 0, 1).await;
    rig.move_keys(slot, 0, 1).await;
    rig.nodes[1].freeze();
    // Longer than the exchange, so that it is not the node's own doing when it ends.
    let exchanging = tokio::time::timeout(WITHIN * 5, register.exchange(&key, None));
    let failure = exchanging.await.expect("it ends").expect_err("no answer");
    assert_eq!(failure.fault, Fault::TimedOut, "{failure}");
}

/// A node that was cut off from the others takes no exchanges, still holds itself for the owner of slots, and answers first.
#[tokio::test]
async fn a_node_that_was_cut_off_holds_nobody() {
    let rig = redis_rig::Cluster::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("an address").port();
    let map = format!("*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:{port}\r\n");
    let down = "-CLUSTERDOWN The cluster is down\r\n".to_owned();
    let cut_off = Fake::on(listener, &[("SLOTS", map), ("EVAL", down)]);
    let slower = Proxy::to(rig.nodes[0].address()).await;
    slower.set(Mode::Delay(Duration::from_millis(100)));
    let text = format!("redis+cluster://{},{}", cut_off.address(), slower.address());
    let register = register_at(&text, None);
    let key = key_of(&rig, 1).await;
    register.listen(&key);
    let failure = until_fault(&register, &key, "CLUSTERDOWN").await;
    assert!(
        matches!(failure.fault, Fault::NotWritable | Fault::Down),
        "{failure}"
    );
    until_written_to(&rig.nodes[1], &register, &key).await;
    until_up(&register).await;
}

#[tokio::test]
async fn what_is_no_cluster_is_named() {
    let server = Server::start().await;
    let register = register_at(&format!("redis+cluster://{}", server.address()), None);
    let mut link = register.link();
    let down = link.wait_for(|link| matches!(link, Link::Down(_)));
    let Link::Down(failure) = down.await.expect("it lives").clone() else {
        unreachable!("it is down");
    };
    assert!(failure.reason.contains("CLUSTER SLOTS"), "{failure}");
    assert!(failure.reason.contains(&server.address()), "{failure}");
    let key = names().of_group("main");
    let exchanged = register.exchange(&key, None).await.expect_err("down");
    assert_eq!(exchanged.fault, Fault::Down);
}

/// The rights that are written down are enough, and so is TLS with an authority of one's own.
#[tokio::test]
async fn least_rights_over_tls() {
    let authority = Arc::new(Authority::new());
    let options = Options::new()
        .tls(&authority)
        .line("user default off")
        .line(format!(
            "user fleet on >word ~revgate:* &revgate:* {} {RIGHTS}",
            script::RIGHTS
        ));
    let rig = redis_rig::Cluster::with(options, false).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, &authority.certificate).expect("written");
    let tls = Arc::new(plain_config(&Roots::File(file)).expect("roots"));
    let seed = rig.nodes[0].address();
    let text = format!("rediss+cluster://fleet:word@{seed}");
    let (writer, listener) = (
        register_at(&text, Some(&tls)),
        register_at(&text, Some(&tls)),
    );
    let mut hints = listener.hints().expect("taken once");
    let key = key_of(&rig, 1).await;
    listener.listen(&key);
    until_told(&writer, &mut hints, &key).await;
    let slot = rig.slot(&key).await;
    rig.begin_move(slot, 1, 2).await;
    put(&writer, &key).await.expect("written");
}
