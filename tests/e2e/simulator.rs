//! The simulator: what its guide says, and its objects through a gateway.

use std::{collections::BTreeSet, time::Duration};

use revgate::simulator::{self, Drip, Fault, FaultPlan, Rule, Simulator, Status, TextDuration};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    http::{Answer, Client, request},
    rig::{self, Rig},
};

const GUIDE: &str = include_str!("../../config/simulator.md");

/// The examples: each heading with its plan.
fn examples() -> Vec<(&'static str, &'static str)> {
    let (_, list) = GUIDE.split_once("\n### Examples\n").expect("examples");
    let (list, _) = list.split_once("\n## ").expect("an end");
    let each = list.split("\n#### ").skip(1);
    let example = each.map(|text| {
        let (heading, text) = text.split_once('\n').expect("a heading");
        let plan = text.split("```").nth(1).expect("a plan");
        let (_, plan) = plan.split_once('\n').expect("a language");
        (heading, plan)
    });
    example.collect()
}

/// The guide's example of this name, at a simulator.
async fn planned(heading: &str) -> Simulator {
    let plan = examples().into_iter().find(|(name, _)| *name == heading);
    let (_, plan) = plan.unwrap_or_else(|| panic!("no example {heading:?}"));
    let options = simulator::Options {
        plan: FaultPlan::parse(plan).unwrap_or_else(|error| panic!("{heading}: {error:#}")),
        ..simulator::Options::default()
    };
    simulator::start(options).await.expect("starts")
}

/// `None` when the connection ends without an answer.
async fn ask(devrev: &Simulator, operation: &str, token: &str) -> Option<Answer> {
    let authorization = format!("Bearer {token}");
    let headers = [("Authorization", authorization.as_str())];
    let mut client = Client::connect(devrev.addr()).await;
    client
        .send(request("POST", &format!("/{operation}"), &headers, "{}"))
        .await;
    client.answer().await
}

async fn statuses(devrev: &Simulator, operation: &str, calls: usize) -> Vec<u16> {
    let mut all = Vec::new();
    for _ in 0..calls {
        all.push(ask(devrev, operation, "t").await.expect("an answer").status);
    }
    all
}

#[tokio::test]
async fn every_example_of_a_plan_does_what_it_says() {
    let mut tried = BTreeSet::new();
    let mut example = async |heading: &'static str| {
        tried.insert(heading);
        planned(heading).await
    };

    let devrev = example("A 429 storm").await;
    for _ in 0..10 {
        let answer = ask(&devrev, "tags.list", "t").await.expect("an answer");
        assert_eq!(
            (answer.status, answer.header("retry-after")),
            (429, Some("2"))
        );
        assert_eq!(answer.json()["retry_after"], 2);
    }
    assert_eq!(statuses(&devrev, "tags.list", 1).await, [200]);

    let devrev = example("A slow operation").await;
    for (operation, least) in [("works.list", 330), ("tags.list", 30)] {
        let start = Instant::now();
        assert_eq!(statuses(&devrev, operation, 1).await, [200]);
        assert!(
            start.elapsed() >= Duration::from_millis(least),
            "{operation}"
        );
    }

    let devrev = example("A broken connection").await;
    for _ in 0..2 {
        let mut client = Client::connect(devrev.addr()).await;
        client
            .send(request("GET", "/tags.list", &[("Authorization", "t")], ""))
            .await;
        assert!(client.answer().await.is_none());
    }
    assert!(!ask(&devrev, "tags.list", "t").await.expect("a head").whole);
    assert!(
        ask(&devrev, "tags.list", "t")
            .await
            .expect("an answer")
            .whole
    );

    let devrev = example("An outage of one operation").await;
    // `{}` links nothing.
    let expected = [vec![400; 3], vec![503; 20], vec![400; 2]].concat();
    assert_eq!(statuses(&devrev, "rev-users.link", 25).await, expected);
    assert_eq!(statuses(&devrev, "works.list", 5).await, [200; 5]);

    let devrev = example("One call in ten fails").await;
    let all = statuses(&devrev, "tags.list", 30).await;
    let failed = all.iter().enumerate().filter(|(_, status)| **status == 500);
    assert_eq!(
        failed.map(|(number, _)| number).collect::<Vec<_>>(),
        [0, 10, 20]
    );

    let devrev = example("A token that is refused").await;
    for operation in ["tags.list", "auth-tokens.info", "dev-users.self"] {
        let refused = ask(&devrev, operation, "old-token")
            .await
            .expect("an answer");
        assert_eq!(
            (refused.status, &refused.json()["type"]),
            (401, &json!("token_revoked"))
        );
        assert_eq!(
            ask(&devrev, operation, "new-token")
                .await
                .expect("an answer")
                .status,
            200
        );
    }

    let devrev = example("An answer for another operation").await;
    let answer = ask(&devrev, "links.list", "t").await.expect("an answer");
    assert_eq!((answer.status, answer.json()), (200, json!({"links": []})));

    let all: BTreeSet<_> = examples().into_iter().map(|(heading, _)| heading).collect();
    assert_eq!(tried, all, "examples of config/simulator.md");
}

#[test]
fn the_guide_has_every_field_and_every_fault() {
    let pause = TextDuration(Duration::from_millis(1));
    let status = Status {
        code: 503,
        headers: [("a".to_owned(), "b".to_owned())].into(),
        body: Some(json!({})),
        retry_after: Some(1),
    };
    let faults = [
        Fault::Status(status),
        Fault::Delay(pause),
        Fault::Reset,
        Fault::ResetMidBody,
        Fault::Truncate,
        Fault::Hang,
        Fault::Drip(Drip { bytes: 1, pause }),
        Fault::Close,
        Fault::Garbage,
        Fault::Unasked101,
        Fault::BothLengths,
        Fault::CloseAfter,
        Fault::EarlyAnswer,
    ];
    let (_, guide) = GUIDE
        .split_once("\n## Plans of faults\n")
        .expect("a section");
    let (guide, _) = guide.split_once("\n### Examples\n").expect("an end");
    for fault in faults {
        // So that a new fault is added above.
        match fault {
            Fault::Status(_) | Fault::Delay(_) | Fault::Reset | Fault::ResetMidBody => {}
            Fault::Truncate | Fault::Hang | Fault::Drip(_) | Fault::Close | Fault::Garbage => {}
            Fault::Unasked101 | Fault::BothLengths | Fault::CloseAfter | Fault::EarlyAnswer => {}
        }
        let names = match serde_json::to_value(&fault).expect("serializes") {
            Value::String(name) => vec![format!("`\"{name}\"`")],
            Value::Object(map) => {
                let (name, value) = map.into_iter().next().expect("a fault");
                let inner = value.as_object().cloned().unwrap_or_default();
                let inner = inner.keys().map(|name| format!("{name} "));
                std::iter::once(format!("{{ {name} = "))
                    .chain(inner)
                    .collect()
            }
            other => panic!("{other}"),
        };
        for name in names {
            let name = name.trim_end();
            assert!(guide.contains(name), "no {name} in config/simulator.md");
        }
    }
    let rule = Rule {
        method: Some(String::new()),
        token: Some(String::new()),
        ..Rule::new("*", Fault::Reset).times(1).every(2).skip(1)
    };
    let rule = serde_json::to_value(rule).expect("serializes");
    for name in rule.as_object().expect("an object").keys() {
        assert!(
            guide.contains(&format!("\n| `{name}` | ")),
            "no row for {name}"
        );
    }
}

/// The operations that the guide lists, and only those.
#[tokio::test]
async fn the_guide_lists_the_operations() {
    let (_, guide) = GUIDE
        .split_once("\n## What it answers\n")
        .expect("a section");
    let row = |begins: &str| {
        let rows = guide.lines().filter_map(|line| line.strip_prefix("| "));
        let mut rows = rows.filter(|row| row.contains(begins));
        rows.next()
            .unwrap_or_else(|| panic!("no row with {begins}"))
            .to_owned()
    };
    let quoted = |text: &str| -> Vec<String> {
        text.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    };
    let mut all = Vec::new();
    for begins in ["`works` (", "`dev-users` |"] {
        let row = row(begins);
        let (families, _) = row.split_once(" |").expect("two cells");
        let mut actions: Vec<_> = ["create", "get", "list", "update", "delete"]
            .map(str::to_owned)
            .into();
        if begins.contains("dev-users") {
            actions.pop();
            actions.extend(["activate", "deactivate", "self", "self.update"].map(str::to_owned));
        }
        for family in quoted(families) {
            all.extend(actions.iter().map(|action| format!("{family}.{action}")));
        }
    }
    for begins in ["`works.count`", "`rev-users.link`", "`auth-tokens.info`"] {
        let row = row(begins);
        let (operations, _) = row.split_once(" |").expect("two cells");
        all.extend(quoted(operations));
    }
    let devrev = rig::simulator().await;
    assert!(all.len() > 60, "{all:?}");
    for operation in all {
        let answer = ask(&devrev, &operation, "t").await.expect("an answer");
        let known = [200, 400].contains(&answer.status);
        assert!(known, "{operation}: {}", answer.text());
    }
}

#[tokio::test]
async fn objects_are_made_and_paged_through_a_gateway() {
    let rig = Rig::new("").await;
    let call = async |operation: &str, body: Value| {
        let answer = rig
            .call("POST", &format!("/{operation}"), &body.to_string())
            .await;
        (answer.status, answer.json())
    };
    let work = json!({"type": "issue", "title": "Mine", "applies_to_part": "PROD-1", "owned_by": ["DEVU-1"], "priority": "p1"});
    let (status, made) = call("works.create", work).await;
    assert_eq!(
        (status, &made["work"]["display_id"]),
        (200, &json!("ISS-21"))
    );
    let (_, changed) = call("works.update", json!({"id": "ISS-21", "title": "Ours"})).await;
    assert_eq!(changed["work"]["title"], "Ours");
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let target = format!("/works.list?limit=50&cursor={cursor}");
        let page = rig.call("GET", &target, "").await.json();
        let works = page["works"].as_array().expect("works");
        seen.extend(
            works
                .iter()
                .map(|work| work["id"].as_str().expect("an id").to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => break,
        }
    }
    let once: BTreeSet<_> = seen.iter().collect();
    assert_eq!((once.len(), seen.len()), (121, 121));
    assert_eq!(
        call("works.delete", json!({"id": "ISS-21"})).await,
        (200, json!({}))
    );
    let (status, gone) = call("works.get", json!({"id": "ISS-21"})).await;
    assert_eq!((status, &gone["type"]), (404, &json!("not_found")));
    let (status, refused) = call("works.create", json!({"type": "issue"})).await;
    assert_eq!((status, &refused["field_name"]), (400, &json!("title")));
}
