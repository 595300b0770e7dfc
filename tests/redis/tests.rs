//! The harness does what it says.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{Authority, Client, Cluster, Data, Mode, Options, Proxy, Server, Value, Watched};

/// In which no answer comes from what is silent.
const SILENCE: Duration = Duration::from_millis(200);

fn ok() -> Value {
    Value::Text("OK".to_owned())
}

#[tokio::test]
async fn a_server_keeps_its_data_if_it_shall_and_its_port() {
    let mut server = Server::with(Options::new().durable()).await;
    let address = server.address();
    assert_eq!(server.call(&["SET", "a", "b"]).await, ok());
    server.restart(Data::Kept).await;
    assert_eq!(server.address(), address);
    assert_eq!(server.call(&["GET", "a"]).await.text(), "b");
    server.restart(Data::Lost).await;
    assert_eq!(server.call(&["GET", "a"]).await, Value::Nil);
    server.kill();
    assert!(Client::tcp(address).await.is_err());
}

#[tokio::test]
async fn a_frozen_server_answers_once_it_is_thawed() {
    let server = Server::start().await;
    let mut client = server.client().await.expect("connected");
    server.freeze();
    let mut answer = Box::pin(client.call(&["PING"]));
    assert!(timeout(SILENCE, &mut answer).await.is_err());
    server.thaw();
    assert_eq!(answer.await.expect("answered").text(), "PONG");
}

#[tokio::test]
async fn users_may_what_the_options_say() {
    let options = Options::new()
        .line("user default off")
        .line("user fleet on >word ~own:* +get");
    let server = Server::with(options).await;
    let mut client = Client::tcp(server.address()).await.expect("connected");
    let refused = client.call(&["GET", "own:a"]).await.expect("answered");
    assert!(refused.text().contains("NOAUTH"), "{refused}");
    assert_eq!(client.call(&["AUTH", "fleet", "word"]).await.unwrap(), ok());
    assert_eq!(client.call(&["GET", "own:a"]).await.unwrap(), Value::Nil);
    let refused = client.call(&["SET", "own:a", "b"]).await.expect("answered");
    assert!(refused.text().contains("NOPERM"), "{refused}");
}

#[tokio::test]
async fn a_server_with_tls_takes_no_plain_connection() {
    let authority = Arc::new(Authority::new());
    let server = Server::with(Options::new().tls(&authority)).await;
    let mut client = Client::tcp(server.address()).await.expect("connected");
    client.call(&["PING"]).await.expect_err("no TLS");
    assert_eq!(server.call(&["PING"]).await.text(), "PONG");
}

#[tokio::test]
async fn a_proxy_treats_connections_as_told() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.address()).await;
    let mut client = Client::tcp(proxy.address()).await.expect("connected");
    assert_eq!(client.call(&["PING"]).await.unwrap().text(), "PONG");
    proxy.set(Mode::Say(b"+INSTEAD\r\n".to_vec()));
    assert_eq!(client.call(&["PING"]).await.unwrap().text(), "INSTEAD");
    proxy.set(Mode::HalfThenCut);
    client.call(&["PING"]).await.expect_err("half an answer");

    proxy.set(Mode::Pass);
    let mut client = Client::tcp(proxy.address()).await.expect("connected");
    assert_eq!(client.call(&["PING"]).await.unwrap().text(), "PONG");
    proxy.set(Mode::LoseAnswers);
    let set = client.call(&["SET", "a", "lost"]);
    assert!(timeout(SILENCE, set).await.is_err());
    assert_eq!(server.call(&["GET", "a"]).await.text(), "lost");
    proxy.cut();
    client.next().await.expect_err("cut");

    proxy.set(Mode::Swallow);
    let mut client = Client::tcp(proxy.address()).await.expect("connected");
    let set = client.call(&["SET", "a", "swallowed"]);
    assert!(timeout(SILENCE, set).await.is_err());
    assert_eq!(server.call(&["GET", "a"]).await.text(), "lost");
    proxy.set(Mode::Refuse);
    let mut client = Client::tcp(proxy.address()).await.expect("connected");
    client.call(&["PING"]).await.expect_err("refused");
    assert_eq!(proxy.taken(), 4);
}

#[tokio::test]
async fn sentinels_replace_a_primary() {
    let mut watched = Watched::start(3).await;
    assert_eq!(watched.primary_seen_by(0).await, Some(0));
    watched.servers[0].call(&["SET", "a", "b"]).await;
    watched.fail_over_to(1).await;
    assert_eq!(watched.servers[1].call(&["SET", "a", "c"]).await, ok());
    watched.servers[0].until_it_follows().await;
    watched.servers[1].kill();
    watched.until_primary(0).await;
    assert_eq!(watched.servers[0].call(&["SET", "a", "d"]).await, ok());
}

#[tokio::test]
async fn a_cluster_moves_a_slot() {
    let cluster = Cluster::start().await;
    let key = cluster.key_of(0).await;
    let slot = cluster.slot(&key).await;
    cluster.nodes[0].call(&["SET", &key, "a"]).await;
    let elsewhere = cluster.nodes[1].try_call(&["GET", &key]).await.unwrap();
    assert!(elsewhere.text().contains("MOVED"), "{elsewhere}");

    cluster.begin_move(slot, 0, 1).await;
    assert_eq!(cluster.nodes[0].call(&["GET", &key]).await.text(), "a");
    cluster.move_keys(slot, 0, 1).await;
    let asked = cluster.nodes[0].try_call(&["GET", &key]).await.unwrap();
    assert!(asked.text().contains("ASK"), "{asked}");
    cluster.end_move(slot, 0, 1).await;
    assert_eq!(cluster.nodes[1].call(&["GET", &key]).await.text(), "a");
    assert_eq!(cluster.owner_seen_by(0, &key).await, Some(1));
}

#[tokio::test]
async fn a_cluster_replaces_a_primary() {
    let mut cluster = Cluster::with_replicas().await;
    cluster.fail_over_to(3).await;
    cluster.until_ok().await;
    cluster.nodes[1].kill();
    cluster.until_primary(4).await;
    cluster.until_ok().await;
}
