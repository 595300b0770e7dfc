//! Rules on trial: with `enforce = false` revgate lets pass what it would refuse, and reports it.

use crate::{
    http::{exchange, request},
    process::Process,
    rig::{KEY, OTHER_KEY, Rig, TOKEN, hash},
};

async fn get(rig: &Rig, key: &str, target: &str) -> u16 {
    let answer = rig
        .send(request("GET", target, &[("Authorization", key)], ""))
        .await;
    match answer.header("via") {
        // The simulator knows few operations. What counts here is that it got the request.
        Some(_) => 200,
        None => answer.status,
    }
}

async fn metrics(rig: &Rig) -> String {
    String::from_utf8(rig.admin("/metrics").await.body).expect("text")
}

#[tokio::test]
async fn rate_allow_and_deny_let_pass_and_count() {
    // These lines belong to the rig's last caller, whose burst is two.
    let rig = Rig::new("allow = [\"dev-users.*\"]\nenforce = false").await;
    // One is against its allow list, one against the defaults' deny, and then two over the rate as well.
    for target in ["/works.list", "/auth-tokens.create", "/works.list"] {
        assert_eq!(get(&rig, OTHER_KEY, target).await, 200, "{target}");
    }
    assert_eq!(get(&rig, OTHER_KEY, "/dev-users.self").await, 200);
    // The rules of the other caller are enforced.
    assert_eq!(get(&rig, KEY, "/auth-tokens.create").await, 403);
    assert_eq!(rig.devrev.received().len(), 4);
    let text = metrics(&rig).await;
    for line in [
        "revgate_would_refuse_total{caller=\"reports\",code=\"forbidden\"} 3",
        "revgate_would_refuse_total{caller=\"reports\",code=\"caller_rate_limited\"} 2",
        "revgate_refused_total{caller=\"billing\",code=\"forbidden\"} 1",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(!text.contains("revgate_refused_total{caller=\"reports\""));
    let callers = rig.admin("/callers").await.json();
    assert_eq!(callers["reports"]["would_refuse"], 4, "{callers}");
    assert_eq!(callers["reports"]["refused"], 0, "{callers}");
    assert_eq!(callers["billing"]["would_refuse"], 0, "{callers}");
}

#[tokio::test]
async fn the_defaults_can_be_tried_as_a_whole() {
    let rig = Rig::new("[defaults]\nenforce = false").await;
    assert_eq!(get(&rig, KEY, "/auth-tokens.create").await, 200);
    let line = "revgate_would_refuse_total{caller=\"billing\",code=\"forbidden\"} 1";
    assert!(metrics(&rig).await.contains(line));
    // Only rate, allow and deny can be on trial. An unknown credential is refused.
    assert_eq!(get(&rig, "a-wrong-key", "/works.list").await, 401);
}

#[tokio::test]
async fn what_would_be_refused_is_logged() {
    let mut mock = Process::start(&["mock", "--listen", "127.0.0.1:0"], "info");
    let devrev = mock.bound("mock");
    let file = tempfile::NamedTempFile::new().expect("a file");
    // log.access is "refused" by default.
    let toml = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[upstream]\nurl = \"http://{devrev}\"\n\
         [tokens.main]\nenv = \"DEVREV_TOKEN\"\n[callers.billing]\nkey_sha256 = \"{}\"\nenforce = false\n\
         deny = [\"works.delete\"]\nrate = \"1/min\"\nburst = 2\n",
        hash(KEY),
    );
    std::fs::write(file.path(), toml).expect("written");
    let path = file.path().to_str().expect("a path");
    let mut gateway = Process::start(&["run", "-c", path], "info");
    let address = gateway.bound("proxy");
    for target in ["/works.delete", "/works.list", "/works.get"] {
        let answer = exchange(
            address,
            request("POST", target, &[("Authorization", KEY)], "{}"),
        )
        .await;
        assert_eq!(answer.header("via"), Some("1.1 revgate"), "{answer:?}");
    }
    gateway.terminate();
    let (code, log) = gateway.end();
    assert_eq!(code, Some(0), "{log}");
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .filter(|line: &serde_json::Value| line["message"] == "request")
        .collect();
    let logged: Vec<_> = lines
        .iter()
        .map(|line| (line["operation"].as_str(), line["would_refuse"].as_str()))
        .collect();
    assert_eq!(
        logged,
        [
            (Some("works.delete"), Some("forbidden")),
            (Some("works.get"), Some("caller_rate_limited")),
        ]
    );
    assert!(lines.iter().all(|line| line["source"] == "upstream"));
    assert!(!log.contains(TOKEN));
}
