//! The same through each way to Redis, with more workers, with callers' own tokens; and nothing of it without `[shared]`.

use std::{path::Path, sync::Arc};

use futures_util::future::join_all;
use revgate::simulator;

use super::{ALPHA, BETA, Fleet, TIMEOUT, all_served, replica, window};
use crate::{
    http::{exchange, request},
    introspect::token,
    process::Process,
    redis::{Authority, Cluster, MASTER, Options, Server, Watched},
    rig,
};

/// More than a window holds, in a fleet of three.
async fn shares(fleet: &Fleet) {
    assert_eq!(fleet.call(0, ALPHA, 5).await.status, 200);
    tokio::join!(fleet.serves(ALPHA, 30, 30), fleet.serves(BETA, 30, 30));
    fleet.assert_sent_once(61);
    for replica in 0..fleet.gateways.len() {
        let quota = fleet.quota(replica).await;
        assert_eq!(quota["fleet"]["replicas"], fleet.gateways.len(), "{quota}");
    }
    fleet.assert_well().await;
}

#[tokio::test]
async fn through_tls() {
    let authority = Arc::new(Authority::new());
    let redis = Server::with(Options::new().tls(&authority)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let roots = folder.path().join("ca.pem");
    std::fs::write(&roots, &authority.certificate).expect("written");
    let shared = format!("roots = {{ file = \"{}\" }}", roots.display());
    let url = format!("rediss://{}", redis.address());
    shares(&Fleet::at(&url, &shared, 3, "", window(40, 3)).await).await;
}

#[tokio::test]
async fn through_sentinels() {
    let watched = Watched::start(3).await;
    let url = format!("redis+sentinel://{}/{MASTER}", watched.addresses());
    shares(&Fleet::at(&url, "", 3, "", window(40, 3)).await).await;
}

#[tokio::test]
async fn through_a_cluster() {
    let cluster = Cluster::start().await;
    let nodes: Vec<String> = cluster.nodes.iter().map(Server::address).collect();
    let url = format!("redis+cluster://{}", nodes.join(","));
    shares(&Fleet::at(&url, "", 3, "", window(40, 3)).await).await;
}

#[tokio::test]
async fn with_two_workers_each() {
    let redis = Server::start().await;
    let url = format!("redis://{}", redis.address());
    let devrev = simulator::start(window(40, 3)).await.expect("starts");
    let text = super::file(&devrev.addr().to_string(), "", "").replacen(
        "[listen]\n",
        "[listen]\nworkers = 2\n",
        1,
    );
    let gateways = (0..3).map(|_| replica(&text, &url)).collect();
    let fleet = Fleet {
        devrev,
        gateways,
        redis: Some(redis),
    };
    shares(&fleet).await;
}

#[tokio::test]
async fn callers_with_tokens_of_their_own_have_a_quota_each() {
    let redis = Server::start().await;
    let url = format!("redis://{}", redis.address());
    let devrev = simulator::start(window(40, 3)).await.expect("starts");
    let text = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[upstream]\nurl = \"http://{}\"\n\
         [auth]\nmode = \"validate\"\nintrospect = false\n[defaults]\nrate = \"10000/s\"\nburst = 10000\n\
         [shared]\nredis = {{ env = \"REDIS_URL\" }}\ntimeout = \"{TIMEOUT}\"\nname_key = {{ env = \"NAME_KEY\" }}\n",
        devrev.addr(),
    );
    let env = [
        ("REDIS_URL", url.as_str()),
        (
            "NAME_KEY",
            "5f0c8c1be2a97d4463f1aa90b7e2d58806c4e1f39ab27d5e",
        ),
    ];
    let gateways = (0..2).map(|_| rig::start(&text, &env)).collect();
    let fleet = Fleet {
        devrev,
        gateways,
        redis: Some(redis),
    };
    let tokens = [token("ada", 1), token("bob", 2)];
    let call = |replica: usize, token: &str| {
        let bearer = format!("Bearer {token}");
        let address = fleet.address(replica);
        async move {
            let headers = [("Authorization", bearer.as_str()), ("Prefer", "wait=30")];
            exchange(address, request("GET", "/works.list", &headers, "")).await
        }
    };
    for token in &tokens {
        assert_eq!(call(0, token).await.status, 200);
    }
    let calls = (0..120).map(|n| call(n % 2, &tokens[n / 2 % 2]));
    all_served(&join_all(calls).await);
    fleet.assert_sent_once(122);
    // No name in Redis tells a token.
    let server = fleet.redis.as_ref().expect("a server");
    let keys = server.call(&["KEYS", "*"]).await;
    assert_eq!(keys.items().len(), 2, "{keys}");
    for key in keys.items() {
        let value = server.call(&["DUMP", &key.text()]).await.text();
        for token in &tokens {
            assert!(
                !key.text().contains(token) && !value.contains(&**token),
                "{key}"
            );
        }
    }
}

/// The threads of a process that runs with this configuration, and its metrics.
async fn threads_and_metrics(folder: &Path, text: &str) -> (Vec<String>, String) {
    let path = folder.join("revgate.toml");
    std::fs::write(&path, text).expect("written");
    let mut process = Process::start(&["run", "-c", path.to_str().expect("text")], "info");
    let (admin, address) = (process.bound("admin"), process.bound("proxy"));
    let answer = super::call(address, ALPHA, "/works.list", 5).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let metrics = rig::admin(admin, "GET", "/metrics", "").await.text();
    let tasks = std::fs::read_dir(format!("/proc/{}/task", process.child.id()));
    let names = tasks.expect("Linux").filter_map(|task| {
        let name = std::fs::read_to_string(task.ok()?.path().join("comm")).ok()?;
        Some(name.trim().to_owned())
    });
    (names.collect(), metrics)
}

#[tokio::test]
async fn without_shared_there_is_nothing_of_it() {
    let redis = Server::start().await;
    let devrev = simulator::start(window(40, 300)).await.expect("starts");
    let folder = tempfile::tempdir().expect("a folder");
    let url = folder.path().join("redis");
    std::fs::write(&url, format!("redis://{}", redis.address())).expect("written");
    let shared = super::file(&devrev.addr().to_string(), "", "").replace(
        "{ env = \"REDIS_URL\" }",
        &format!("{{ file = \"{}\" }}", url.display()),
    );
    let start = shared.find("[shared]").expect("the section");
    let end = shared.find("[defaults]").expect("the next one");
    let alone = format!("{}{}", &shared[..start], &shared[end..]);

    let (threads, metrics) = threads_and_metrics(folder.path(), &alone).await;
    assert!(!threads.contains(&"fleet".to_owned()), "{threads:?}");
    assert!(!metrics.contains("revgate_shared"), "{metrics}");
    assert_eq!(redis.call(&["DBSIZE"]).await.text(), "0");

    let (threads, metrics) = threads_and_metrics(folder.path(), &shared).await;
    assert!(threads.contains(&"fleet".to_owned()), "{threads:?}");
    assert!(metrics.contains("revgate_shared_up 1"), "{metrics}");
    // Beside the one by which a connection is tried, which is gone in a moment.
    let keys = redis.call(&["KEYS", "revgate:v[0-9]:{*"]).await;
    assert_eq!(keys.items().len(), 1, "{keys}");
}
