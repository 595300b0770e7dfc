//! Deprecated fields and operations: the modes of a rule, the headers of the answer, and the counts.

use revgate::simulator::{Fault, Status};

use crate::{
    http::Answer,
    rig::{Rig, plan},
};

const OLD: &str = r#"{"user_don":"REVU-1"}"#;
const PAGE: &str = "<https://developer.devrev.ai/changelog>; rel=\"deprecation\"";

/// A rule of the operator's for an operation that is not deprecated itself.
fn rule(mode: &str) -> String {
    format!(
        "[[rewrite]]\noperations = [\"works.list\"]\nrename = {{ user_don = \"id\" }}\nmode = \"{mode}\"\n\
         link = \"https://wiki.example/old-fields#user_don\""
    )
}

fn all<'a>(answer: &'a Answer, name: &str) -> Vec<&'a str> {
    let named = answer.headers.iter().filter(|(n, _)| n == name);
    named.map(|(_, value)| value.as_str()).collect()
}

async fn counted(rig: &Rig) -> u64 {
    let text = String::from_utf8(rig.admin("/metrics").await.body).expect("text");
    let row =
        "revgate_deprecated_total{caller=\"billing\",operation=\"works.list\",field=\"user_don\"} ";
    text.lines()
        .find_map(|line| line.strip_prefix(row))
        .map_or(0, |count| count.parse().expect("a number"))
}

#[tokio::test]
async fn every_mode_does_what_it_says() {
    let own = "<https://wiki.example/old-fields#user_don>; rel=\"deprecation\"";
    for (mode, status, sent, count) in [
        ("off", 200, Some(OLD), 0),
        ("report", 200, Some(OLD), 1),
        ("rewrite", 200, Some(r#"{"id":"REVU-1"}"#), 1),
        ("refuse", 400, None, 1),
    ] {
        let rig = Rig::new(&rule(mode)).await;
        let answer = rig.call("POST", "/works.list", OLD).await;
        assert_eq!(answer.status, status, "{mode}: {answer:?}");
        let received = rig.devrev.received();
        assert_eq!(received.last().map(|r| r.body.as_str()), sent, "{mode}");
        assert_eq!(counted(&rig).await, count, "{mode}");
        let rows = rig.admin("/deprecations").await.json();
        if count == 0 {
            assert_eq!(answer.header("deprecation"), None);
            assert_eq!(answer.header("link"), None);
            assert_eq!(rows, serde_json::json!([]));
            continue;
        }
        assert_eq!(answer.header("deprecation"), Some("@1743033600"), "{mode}");
        assert_eq!(all(&answer, "link"), [own], "{mode}");
        assert_eq!(rows[0]["caller"], "billing", "{mode}");
        assert_eq!(rows[0]["operation"], "works.list", "{mode}");
        assert_eq!(rows[0]["field"], "user_don", "{mode}");
        assert_eq!(rows[0]["count"], 1, "{mode}");
        assert!(rows[0]["last_seen"].as_u64() > Some(1_700_000_000));
        if mode == "refuse" {
            assert_eq!(answer.code(), "deprecated_field");
            assert_eq!(answer.json()["type"], "invalid_field");
            assert_eq!(answer.json()["field_name"], "user_don");
        }
    }
}

#[tokio::test]
async fn a_deprecated_operation_is_counted_with_or_without_an_old_field() {
    let rig = Rig::new("").await;
    let new = rig
        .call("POST", "/rev-users.link", r#"{"id":"REVU-1"}"#)
        .await;
    // The header is about fields only.
    assert_eq!(new.header("deprecation"), None);
    assert_eq!(new.header("link"), None);
    let old = rig.call("POST", "/rev-users.link", OLD).await;
    assert_eq!(all(&old, "link"), [PAGE]);
    // A repeated key is a parse error, so no field is counted, but the operation is.
    rig.call("POST", "/rev-users.unlink", r#"{"id":"a","id":"b"}"#)
        .await;
    let rows = rig.admin("/deprecations").await.json();
    let seen: Vec<_> = rows
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| {
            (
                row["operation"].as_str(),
                row["field"].as_str(),
                row["count"].as_u64(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (Some("rev-users.link"), None, Some(2)),
            (Some("rev-users.link"), Some("user_don"), Some(1)),
            (Some("rev-users.unlink"), None, Some(1)),
        ]
    );
    let text = String::from_utf8(rig.admin("/metrics").await.body).expect("text");
    for line in [
        "revgate_deprecated_total{caller=\"billing\",operation=\"rev-users.link\",field=\"\"} 2",
        "revgate_deprecated_total{caller=\"billing\",operation=\"rev-users.link\",field=\"user_don\"} 1",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn what_upstream_says_of_a_deprecation_stays() {
    let rig = Rig::new("").await;
    let mut status = Status::new(200);
    let next = "</v2/rev-users.link>; rel=\"successor-version\"";
    for (name, value) in [("Deprecation", "@1700000000"), ("Link", next)] {
        status.headers.insert(name.into(), value.into());
    }
    rig.devrev
        .set_plan(plan("rev-users.link", Fault::Status(status), 1));
    let answer = rig.call("POST", "/rev-users.link", OLD).await;
    assert_eq!(all(&answer, "deprecation"), ["@1700000000"]);
    assert_eq!(all(&answer, "link"), [next, PAGE]);
}
