//! Explain says what happens: the same request goes to `revgate check --explain`, to the admin listener and to the gateway, and the
//! three must agree.

use std::process::{Command, Output};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::{
    http::{get, request},
    rig::{KEY, OTHER_KEY, Rig, TOKEN, file, hash, plan, status},
};

const TRIAL_KEY: &str = "trial-key-0004";
/// Added to the caller "reports", the last in the rig's file.
const EXTRA: &str = "deny = [\"works.delete\"]\n";

fn trial() -> String {
    format!(
        "{EXTRA}[callers.trial]\nkey_sha256 = \"{}\"\nallow = [\"dev-users.*\"]\nenforce = false\n\
         [[rewrite]]\noperations = [\"works.list\"]\nrename = {{ owner = \"owned_by\" }}\nmode = \"refuse\"\n",
        hash(TRIAL_KEY)
    )
}

struct Row {
    method: &'static str,
    target: &'static str,
    caller: Option<&'static str>,
    headers: &'static [(&'static str, &'static str)],
    body: Option<&'static str>,
    /// `None` if it is forwarded.
    code: Option<&'static str>,
}

const fn row(
    method: &'static str,
    target: &'static str,
    caller: &'static str,
    code: Option<&'static str>,
) -> Row {
    let caller = match caller.as_bytes() {
        b"" => None,
        _ => Some(caller),
    };
    Row {
        method,
        target,
        caller,
        headers: &[],
        body: None,
        code,
    }
}

const fn sent(target: &'static str, body: &'static str, code: Option<&'static str>) -> Row {
    Row {
        body: Some(body),
        ..row("POST", target, "billing", code)
    }
}

const DENIED: Option<&str> = Some("forbidden");
const BAD: Option<&str> = Some("bad_request");

const ROWS: &[Row] = &[
    row("GET", "/works.list?limit=2&a=%22x%22", "billing", None),
    row("POST", "/works.delete", "billing", None),
    row("POST", "/works.delete", "reports", DENIED),
    row("POST", "/auth-tokens.create", "billing", DENIED),
    row("POST", "/;/Auth-Tokens.Create", "billing", DENIED),
    row("POST", "/auth-tokens%252Ecreate;v=1/", "billing", DENIED),
    row(
        "POST",
        "/works.list%23/auth-tokens.create",
        "billing",
        DENIED,
    ),
    row("GET", "/works.list%00", "billing", BAD),
    row("GET", "/x%3f/keyrings.authorize", "billing", None),
    row("GET", "/works.list%3bx/y", "billing", None),
    row("POST", "/auth-tokens.create", "trial", None),
    row("GET", "/works.get", "trial", None),
    row("GET", "/internal/things.get", "billing", None),
    row("POST", "/other", "billing", None),
    row("GET", "/keyrings.authorize?code=1", "billing", None),
    row("GET", "/a/../works.list", "billing", BAD),
    row("GET", "/%2e%2e/works.list", "billing", BAD),
    row("TRACE", "/works.list", "billing", BAD),
    row("OPTIONS", "*", "billing", BAD),
    row("GET", "/works.list", "", Some("unauthenticated")),
    row("GET", "/rev-users.link", "billing", None),
    sent("/rev-users.link", r#"{"user_don":"a","rev_org":"b"}"#, None),
    sent("/rev-users.link", r#"{"user_don":"a","id":"a"}"#, None),
    sent(
        "/rev-users.link",
        r#"{"user_don":"a","id":"b"}"#,
        Some("field_conflict"),
    ),
    sent(
        "/rev-users.link",
        r#"{"id":"a","id":"a"}"#,
        Some("parse_error"),
    ),
    sent("/rev-users.link", "[]", Some("parse_error")),
    sent("/rev-users.link", "", Some("parse_error")),
    sent("/works.list", r#"{"owner":"x"}"#, Some("deprecated_field")),
    sent("/works.list", r#"{"owned_by":"x"}"#, None),
    Row {
        headers: &[("Content-Type", "text/plain")],
        ..sent("/rev-users.link", "[]", None)
    },
    Row {
        headers: &[("X-Devrev-Scope", "beta"), ("Host", "u@h")],
        ..row("GET", "/works.list", "billing", BAD)
    },
];

fn key(caller: &str) -> &'static str {
    match caller {
        "billing" => KEY,
        "reports" => OTHER_KEY,
        _ => TRIAL_KEY,
    }
}

impl Row {
    fn request(&self) -> String {
        format!("{} {}", self.method, self.target)
    }

    fn query(&self) -> String {
        let mut query = format!("/explain?request={}", encoded(&self.request()));
        for (name, value) in [("caller", self.caller), ("body", self.body)] {
            if let Some(value) = value {
                query += &format!("&{name}={}", encoded(value));
            }
        }
        for (name, value) in self.headers {
            query += &format!("&header={}", encoded(&format!("{name}: {value}")));
        }
        query
    }

    fn bytes(&self) -> Vec<u8> {
        let mut headers = self.headers.to_vec();
        headers.extend(self.caller.map(|caller| ("Authorization", key(caller))));
        let text = request(self.method, self.target, &headers, self.body.unwrap_or(""));
        let named = self.headers.iter().any(|(name, _)| *name == "Host");
        match named {
            true => String::from_utf8(text)
                .expect("text")
                .replacen("Host: localhost\r\n", "", 1)
                .into_bytes(),
            false => text,
        }
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// `revgate check --explain` with `arguments` after it.
fn check(file: &str, body: Option<&str>, arguments: &[&str]) -> Output {
    let (config, bytes) = (temporary(file), temporary(body.unwrap_or("")));
    let path = |file: &tempfile::NamedTempFile| file.path().to_str().expect("a path").to_owned();
    let mut command = Command::new(env!("CARGO_BIN_EXE_revgate"));
    command.args(["check", "-c", &path(&config), "--explain"]);
    command.args(arguments).env("DEVREV_TOKEN", TOKEN);
    if body.is_some() {
        command.args(["--body", &path(&bytes)]);
    }
    command.output().expect("runs")
}

fn temporary(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    file
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes)
        .unwrap_or_else(|e| panic!("{e}: {:?}", String::from_utf8_lossy(bytes)))
}

#[tokio::test]
async fn explained_is_what_happens() {
    let rig = Rig::new(&trial()).await;
    let text = file(&rig.devrev.addr().to_string(), &trial());
    for row in ROWS {
        let request = row.request();
        let fields: Vec<_> = row
            .headers
            .iter()
            .map(|(n, v)| format!("{n}: {v}"))
            .collect();
        let mut arguments = vec![request.as_str(), "--json"];
        arguments.extend(row.caller.iter().flat_map(|caller| ["--caller", caller]));
        arguments.extend(fields.iter().flat_map(|field| ["--header", field]));
        let explanation = check(&text, row.body, &arguments);
        let from_file = json(&explanation.stdout);
        let live = rig.admin(&row.query()).await;
        assert_eq!(live.status, 200, "{request}: {live:?}");
        let before = rig.devrev.received().len();
        let answer = rig.send(row.bytes()).await;
        let reached = rig.devrev.received().len() > before;
        assert_eq!(reached, row.code.is_none(), "{request}: {answer:?}");
        assert_eq!(
            explanation.status.code(),
            Some(i32::from(!reached)),
            "{request}"
        );
        for explained in [from_file, live.json()] {
            assert_eq!(explained["forwarded"], reached, "{request}: {explained}");
            if reached {
                assert_eq!(explained["code"], Value::Null, "{request}");
                let url = explained["steps"]
                    .as_array()
                    .and_then(|steps| steps.last()?["facts"]["url"].as_str())
                    .expect("a URL");
                assert!(url.ends_with(&rig.last().target), "{request}: {url}");
            } else {
                assert_eq!(
                    explained["code"].as_str(),
                    row.code,
                    "{request}: {explained}"
                );
                assert_eq!(explained["code"], answer.code(), "{request}: {answer:?}");
                assert_eq!(explained["status"], answer.status, "{request}");
            }
        }
    }
    // Refusals that `enforce = false` prevented are counted.
    let metrics = String::from_utf8(rig.admin("/metrics").await.body).expect("text");
    let line = "revgate_would_refuse_total{caller=\"trial\",code=\"forbidden\"} 2";
    assert!(metrics.contains(line), "{metrics}");
    let trial = rig
        .admin("/explain?request=GET+/works.get&caller=trial")
        .await
        .json();
    assert_eq!(trial["would_refuse"], serde_json::json!(["forbidden"]));
}

#[tokio::test]
async fn explain_shows_the_live_state_and_uses_none_of_it() {
    let rig = Rig::new("").await;
    let question = "/explain?request=GET%20/works.list&caller=reports";
    let step = |explained: &Value, layer: &str| {
        let steps = explained["steps"].as_array().expect("steps");
        let found = steps.iter().find(|step| step["layer"] == layer);
        found.cloned().unwrap_or(Value::Null)
    };
    let call = || rig.send(get("/works.list", OTHER_KEY));
    for left in [2, 1] {
        for _ in 0..3 {
            let explanation = rig.admin(question).await.json();
            assert_eq!(
                step(&explanation, "rate_limit")["facts"]["remaining"],
                left,
                "{explanation}"
            );
            assert_eq!(explanation["forwarded"], true);
        }
        assert_eq!(call().await.status, 200);
    }
    let explanation = rig.admin(question).await.json();
    let answer = call().await;
    assert_eq!(explanation["code"], answer.code(), "{explanation}");
    let seconds: u64 = answer
        .header("retry-after")
        .and_then(|s| s.parse().ok())
        .expect("a time");
    assert!(
        explanation["retry_after"]
            .as_u64()
            .expect("a time")
            .abs_diff(seconds)
            <= 1
    );
    assert_eq!(rig.devrev.received().len(), 2);

    // A pause longer than the caller's wait refuses it. Only a running gateway knows of it.
    rig.devrev
        .set_plan(plan("works.list", status(429, Some(120)), 1));
    rig.call("GET", "/works.list", "").await;
    let explanation = rig
        .admin("/explain?request=GET%20/works.list&caller=billing")
        .await
        .json();
    let quota = step(&explanation, "quota");
    assert_eq!(quota["facts"]["state"], "paused", "{explanation}");
    assert_eq!(explanation["code"], "quota_exhausted", "{explanation}");
    let answer = rig.call("GET", "/works.list", "").await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (429, "quota_exhausted")
    );
    assert_eq!(step(&explanation, "circuit")["facts"]["state"], "closed");
}

#[test]
fn what_check_prints_is_a_file_that_check_takes() {
    let print = |text: &str| {
        let file = temporary(text);
        let output = Command::new(env!("CARGO_BIN_EXE_revgate"))
            .args([
                "check",
                "--print",
                "-c",
                file.path().to_str().expect("a path"),
            ])
            .env("DEVREV_TOKEN", TOKEN)
            .output()
            .expect("runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let once = print(&file("127.0.0.1:1", &trial()));
    assert_eq!(print(&once), once);
    assert!(!once.contains(TOKEN), "{once}");
}

#[test]
fn a_page_of_another_site_is_explained_too() {
    let anonymous = "[tokens.main]\nenv = \"DEVREV_TOKEN\"\n[callers.app]\nanonymous = true\n";
    for header in ["Host: evil.example", "Origin: https://evil.example"] {
        let output = check(anonymous, None, &["POST /works.create", "--header", header]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{said}{output:?}");
        assert!(
            said.contains("refused by authenticate: 403 forbidden"),
            "{said}"
        );
    }
}

#[test]
fn callers_without_a_name_are_explained_too() {
    let anonymous = "[tokens.main]\nenv = \"DEVREV_TOKEN\"\n[callers.app]\nanonymous = true\n";
    let validate = "[auth]\nmode = \"validate\"\nintrospect = false\n";
    for (text, who, credential) in [
        (
            anonymous,
            "the caller app, by showing no credential",
            "the token main",
        ),
        (
            validate,
            "by a DevRev token of its own",
            "the caller's own token",
        ),
    ] {
        let output = check(text, None, &["GET /works.list"]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{said}{output:?}");
        assert!(said.contains(who) && said.contains(credential), "{said}");
    }
}

#[tokio::test]
async fn an_open_circuit_is_explained() {
    let rules = "[upstream.circuit]\nfailures = 2\nwithin = \"60s\"\nopen = \"300s\"\n";
    let rig = Rig::new(rules).await;
    rig.devrev
        .set_plan(plan("works.list", status(500, None), 9));
    while rig.call("GET", "/works.list", "").await.code() != "circuit_open" {}
    let question = "/explain?request=GET%20/works.list&caller=billing";
    let explanation = rig.admin(question).await.json();
    assert_eq!(explanation["code"], "circuit_open", "{explanation}");
    assert_eq!(explanation["status"], 503);
    assert!(
        explanation["retry_after"].as_u64() > Some(200),
        "{explanation}"
    );
}

#[tokio::test]
async fn an_invalid_query_says_what_is_wrong() {
    let text = file("127.0.0.1:1", "");
    for (arguments, want) in [
        (
            &["GET /works.list", "--caller", "biling"][..],
            "did you mean \"billing\"?",
        ),
        (
            &["GET /works.list", "--caller", "nobody"],
            "the file has billing, reports",
        ),
        (
            &["/works.list", "--caller", "billing"],
            "a method and a target",
        ),
        (&["GET /works.list", "--header", "x"], "Name: value"),
        (
            &["GET /works.list", "--header", "Authorization: x"],
            "instead of showing its key",
        ),
    ] {
        let output = check(&text, None, arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(want), "{said}");
        assert!(output.stdout.is_empty());
    }
    // Text for people. Neither text nor JSON shows a secret.
    let output = check(
        &text,
        Some("{}"),
        &["POST /works.list", "--caller", "billing"],
    );
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.ends_with("\nforwarded\n") && said.contains("the token main"),
        "{said}"
    );
    assert!(!said.contains(TOKEN) && !said.contains(&hash(KEY)));
    // A file that does not load.
    assert_eq!(
        check("x = 1", None, &["GET /works.list"]).status.code(),
        Some(1)
    );
    let rig = Rig::new("").await;
    for query in [
        "",
        "?request=x",
        "?request=GET%20/&caller=biling",
        "?nonsense=1",
    ] {
        assert_eq!(
            rig.admin(&format!("/explain{query}")).await.status,
            400,
            "{query}"
        );
    }
}

/// Callers that are known by their connection have names as well.
#[test]
fn a_caller_by_uid_is_explained_too() {
    let text = "[listen]\naddress = \"unix:/nowhere/revgate.sock\"\n[tokens.main]\nenv = \"DEVREV_TOKEN\"\n\
                [callers.batch]\nunix_uid = 7\n";
    let output = check(text, None, &["GET /works.list", "--caller", "batch"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{output:?}");
    let who = "the caller batch, by its uid on the unix socket";
    assert!(said.contains(who), "{said}");
}
