//! Lists, their filters and their pages.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::desk::Desk;

fn ids(page: &Value) -> Vec<String> {
    let works = page["works"].as_array().unwrap();
    works
        .iter()
        .map(|work| work["display_id"].as_str().unwrap().to_owned())
        .collect()
}

/// Works with titles that repeat, so that the order of equal ones matters.
fn desk(titles: &[u8]) -> Desk {
    let mut desk = Desk::empty();
    for title in titles {
        let kind = if title % 2 == 0 { "issue" } else { "ticket" };
        desk.good("works.create", &json!({
            "type": kind, "title": format!("title {}", title % 5), "applies_to_part": "PROD-1", "owned_by": ["DEVU-1"],
        }));
    }
    desk
}

/// All pages in one direction, each with the ids on it. `between` is done after each page.
fn walk(
    desk: &mut Desk,
    asked: &Value,
    back: bool,
    mut between: impl FnMut(&mut Desk),
) -> Vec<Vec<String>> {
    let (mode, next) = match back {
        false => ("after", "next_cursor"),
        true => ("before", "prev_cursor"),
    };
    let mut asked = asked.clone();
    asked["mode"] = mode.into();
    let mut pages = Vec::new();
    loop {
        let page = desk.good("works.list", &asked);
        pages.push(ids(&page));
        let Some(cursor) = page.get(next) else {
            return pages;
        };
        asked["cursor"] = cursor.clone();
        between(desk);
        assert!(pages.len() < 200, "it never ends");
    }
}

fn orders() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!([]),
        json!(["created_date:desc"]),
        json!(["title:asc"]),
        json!(["-title", "modified_date:asc"]),
        json!(["modified_date:desc"]),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn all_pages_give_each_object_once_in_both_directions(
        titles in prop::collection::vec(any::<u8>(), 0..40),
        limit in 1_u64..12,
        sort_by in orders(),
        filtered in any::<bool>(),
    ) {
        let mut desk = desk(&titles);
        let mut asked = json!({"limit": limit, "sort_by": sort_by});
        if filtered {
            asked["type"] = json!(["issue"]);
        }
        let mut whole = asked.clone();
        whole["limit"] = json!(100);
        let all = ids(&desk.good("works.list", &whole));
        let expected = titles.iter().filter(|title| !filtered || *title % 2 == 0).count();
        prop_assert_eq!(all.len(), expected);

        let forward = walk(&mut desk, &asked, false, |_| {});
        prop_assert_eq!(&forward.concat(), &all);
        let full = forward.iter().rev().skip(1).all(|page| page.len() as u64 == limit);
        prop_assert!(full, "only the last page is short: {forward:?}");

        let mut backward = walk(&mut desk, &asked, true, |_| {});
        backward.reverse();
        prop_assert_eq!(&backward.concat(), &all);
    }

    #[test]
    fn what_comes_and_goes_between_pages_shifts_nothing(
        titles in prop::collection::vec(any::<u8>(), 1..30),
        limit in 1_u64..6,
        back in any::<bool>(),
        steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..30),
    ) {
        let mut desk = desk(&titles);
        let before: BTreeSet<_> = ids(&desk.good("works.list", &json!({"limit": 100}))).into_iter().collect();
        let mut gone = BTreeSet::new();
        let mut steps = steps.into_iter();
        let all: Vec<_> = before.iter().cloned().collect();
        let pages = walk(&mut desk, &json!({"limit": limit, "sort_by": ["title:asc"]}), back, |desk| {
            let Some((create, index)) = steps.next() else { return };
            if create {
                desk.good("works.create", &json!({
                    "type": "issue", "title": "title 2", "applies_to_part": "PROD-1", "owned_by": [],
                }));
            } else if gone.insert(index.get(&all).clone()) {
                desk.good("works.delete", &json!({"id": index.get(&all)}));
            }
        });
        let seen = pages.concat();
        let once: BTreeSet<_> = seen.iter().cloned().collect();
        prop_assert_eq!(once.len(), seen.len(), "one twice: {:?}", pages);
        for id in before.difference(&gone) {
            prop_assert!(once.contains(id), "{} is missing: {:?}", id, pages);
        }
    }
}

#[test]
fn a_page_names_its_neighbours() {
    let mut desk = desk(&[0; 5]);
    let mut list = |asked: Value| desk.good("works.list", &asked);
    let first = list(json!({"limit": 2}));
    assert_eq!(ids(&first), ["ISS-1", "ISS-2"]);
    assert_eq!(first.get("prev_cursor"), None);
    let second = list(json!({"limit": 2, "cursor": first["next_cursor"]}));
    assert_eq!(ids(&second), ["ISS-3", "ISS-4"]);
    let back = list(json!({"limit": 2, "cursor": second["prev_cursor"], "mode": "before"}));
    assert_eq!(back, first);
    let last = list(json!({"limit": 2, "mode": "before"}));
    assert_eq!(ids(&last), ["ISS-4", "ISS-5"]);
    assert_eq!(last.get("next_cursor"), None);
    // A cursor is of one list in one order.
    for (operation, asked) in [
        ("accounts.list", json!({"cursor": first["next_cursor"]})),
        (
            "works.list",
            json!({"cursor": first["next_cursor"], "sort_by": ["title"]}),
        ),
    ] {
        let (status, said) = desk.post(operation, &asked);
        assert_eq!((status, &said["field_name"]), (400, &json!("cursor")));
    }
}

#[test]
fn lists_are_filtered_as_asked_in_both_forms() {
    let mut desk = Desk::seeded();
    let rows = [
        (json!({"type": ["issue"]}), "type=%22issue%22", 20),
        (
            json!({"owned_by": ["DEVU-1", "DEVU-2"]}),
            "owned_by=%22DEVU-1%22,%22DEVU-2%22",
            48,
        ),
        (json!({"owned_by": ["DEVU-99"]}), "owned_by=DEVU-99", 0),
        (json!({"owned_by": []}), "", 120),
        (
            json!({"type": ["ticket"], "tags": ["TAG-1"]}),
            "type=ticket&tags=TAG-1",
            12,
        ),
        // A filter of issues lets tickets pass.
        (
            json!({"issue": {"priority": ["p0"]}}),
            "issue.priority=p0",
            105,
        ),
        (
            json!({"ticket": {"severity": ["blocker"]}, "type": ["ticket"]}),
            "ticket.severity=blocker&type=ticket",
            25,
        ),
        (
            json!({"issue": {"rev_orgs": ["REV-1"]}, "type": ["issue"]}),
            "issue.rev_orgs=%22REV-1%22&type=issue",
            0,
        ),
        (
            json!({"stage": {"name": ["triage"]}}),
            "stage.name=triage",
            20,
        ),
        (json!({"state": ["closed"]}), "state=closed", 0),
        (json!({"created_by": ["DEVU-1"]}), "created_by=DEVU-1", 120),
        (
            json!({"ticket": {"is_spam": false}}),
            "ticket.is_spam=false",
            120,
        ),
        (
            json!({"ticket": {"is_spam": true}, "type": ["ticket"]}),
            "ticket.is_spam=true&type=ticket",
            0,
        ),
        (
            json!({"created_date": {"after": "2025-03-01T00:00:00Z"}}),
            "created_date.after=2025-03-01T00:00:00Z",
            120,
        ),
        (
            json!({"created_date": {"before": "2025-03-01T00:00:00Z"}}),
            "created_date.before=2025-03-01T00:00:00Z",
            0,
        ),
        (json!({"a_filter_that_is_not_known": 1}), "a=b", 120),
    ];
    for (body, query, expected) in rows {
        let count = desk.good("works.count", &body);
        assert_eq!(count, json!({"count": expected}), "{body}");
        let (_, count) = desk.raw("GET", "works.count", query, "");
        assert_eq!(count, json!({"count": expected}), "{query}");
    }
    let exported = desk.good("works.export", &json!({"first": 7, "type": ["issue"]}));
    assert_eq!(ids(&exported).len(), 7);
    let children = desk.good("parts.list", &json!({"parent_part": {"parts": ["PROD-1"]}}));
    assert_eq!(children["parts"].as_array().unwrap().len(), 3);
    let scanned = desk.good("rev-users.scan", &json!({"rev_org": ["REV-2"]}));
    assert_eq!(scanned["rev_users"].as_array().unwrap().len(), 2);
    let articles = desk.good("articles.list", &json!({"limit": 5}));
    assert_eq!(
        (
            &articles["total"],
            articles["articles"].as_array().unwrap().len()
        ),
        (&json!(12), 5)
    );
    let none = desk.good("timeline-entries.list", &json!({"object": "TKT-99"}));
    assert_eq!(none["timeline_entries"], json!([]));
}

#[test]
fn no_list_of_a_new_simulator_is_empty() {
    let mut desk = Desk::seeded();
    for name in crate::simulator::operations::names() {
        if !name.ends_with(".list") {
            continue;
        }
        let page = desk.good(&name, &json!({"object": "TKT-1"}));
        let lists = page
            .as_object()
            .unwrap()
            .values()
            .filter_map(Value::as_array);
        assert!(lists.map(Vec::len).sum::<usize>() > 0, "{name}: {page}");
    }
}
