//! What operations on objects do.

use http::Method;
use serde_json::{Value, json};

use super::desk::{Desk, sample, whole};
use crate::policy::operation::Operation;
use crate::simulator::families::{FAMILIES, Update};
use crate::simulator::operations;
use crate::simulator::store::OBJECTS;

#[test]
fn every_kind_is_created_read_listed_changed_and_deleted() {
    for family in FAMILIES {
        for leaf in family.leaves {
            let mut desk = Desk::empty();
            let operation = |action: &str| format!("{}.{action}", family.name);
            let body = whole(family, *leaf);
            let made = desk.good(&operation("create"), &body)[family.one].clone();
            let id = made["id"].clone();
            assert_eq!(made["type"], leaf.name(), "{made}");
            assert_eq!(made["created_by"]["display_id"], "DEVU-1");
            let read = desk.good(&operation("get"), &json!({"id": id}))[family.one].clone();
            assert_eq!(read, made);
            let query = format!("id={}", id.as_str().unwrap());
            let (status, read) = desk.raw("GET", &operation("get"), &query, "");
            assert_eq!((status, &read[family.one]), (200, &made));
            let listed = desk.good(&operation("list"), &json!({"object": "TKT-1"}));
            let listed = listed[family.many].as_array().unwrap().clone();
            assert_eq!(
                listed.iter().filter(|one| **one == made).count(),
                1,
                "{listed:?}"
            );
            for field in family
                .fields
                .iter()
                .filter(|field| field.update != Update::Never)
            {
                if !field.only.is_empty() && !field.only.contains(leaf) {
                    continue;
                }
                let value = match field.update {
                    Update::Set => json!({"set": sample(field.shape)}),
                    _ => sample(field.shape),
                };
                let changed =
                    desk.good(&operation("update"), &json!({"id": id, field.name: value}));
                let changed = &changed[family.one];
                assert_eq!(changed["id"], id);
                assert_ne!(
                    changed["modified_date"], made["modified_date"],
                    "{}",
                    field.name
                );
            }
            if !family.actions.contains(&"delete") {
                continue;
            }
            assert_eq!(
                desk.good(&operation("delete"), &json!({"id": id})),
                json!({})
            );
            for gone in ["get", "update", "delete"] {
                let (status, said) = desk.post(&operation(gone), &json!({"id": id}));
                assert_eq!(
                    (status, &said["type"]),
                    (404, &json!("not_found")),
                    "{said}"
                );
            }
        }
    }
}

#[test]
fn operations_are_called_as_devrev_has_them() {
    let mut desk = Desk::seeded();
    for name in operations::names() {
        let reads = Operation::from_path(&format!("/{name}"));
        assert!(reads.is_known(), "DevRev has no {name}");
        let reads = reads.is_read(&Method::POST);
        let (status, said) = desk.raw("GET", &name, "", "");
        assert_eq!(status == 405, !reads, "{name}: {said}");
        for method in ["PUT", "DELETE", "PATCH"] {
            assert_eq!(desk.raw(method, &name, "", "").0, 405, "{method} {name}");
        }
    }
    let row = |desk: &mut Desk, operation: &str| {
        let (status, said) = desk.post(operation, &json!({}));
        (status, said["type"].clone(), said["message"].clone())
    };
    let route = json!("route not found");
    for unknown in ["works.paint", "works", "no.such", "works.get.more", ""] {
        assert_eq!(
            row(&mut desk, unknown),
            (404, Value::Null, route.clone()),
            "{unknown}"
        );
    }
    let (status, kind, message) = row(&mut desk, "links.list");
    assert_eq!((status, kind), (404, json!("not_found")));
    assert!(message.as_str().unwrap().contains("--plan"), "{message}");
}

#[test]
fn references_are_shown_with_what_is_known_of_them() {
    let mut desk = Desk::seeded();
    let body = json!({
        "type": "ticket", "title": "t", "applies_to_part": "PROD-1", "owned_by": ["DEVU-2", "DEVU-77"],
        "rev_org": "REV-1", "tags": [{"id": "TAG-1", "value": "v"}, {"id": "TAG-99"}], "group": "GROUP-4",
    });
    let work = desk.good("works.create", &body)["work"].clone();
    assert_eq!(work["display_id"], "TKT-101");
    assert_eq!(work["id"], "don:core:dvrv-us-1:devo/0:ticket/101");
    assert_eq!(work["applies_to_part"]["name"], "Analytical Engine");
    assert_eq!(work["owned_by"][0]["full_name"], "Ada Lovelace");
    assert_eq!(
        work["owned_by"][1],
        json!({"type": "dev_user", "id": "don:identity:dvrv-us-1:devo/0:devu/77", "display_id": "DEVU-77"})
    );
    assert_eq!(work["rev_org"]["display_name"], "Org 1");
    assert_eq!(work["tags"][0]["tag"]["name"], "bug");
    assert_eq!(work["tags"][0]["value"], "v");
    assert_eq!(work["tags"][1]["tag"]["name"], "TAG-99");
    assert_eq!(work["group"], json!({"id": "GROUP-4"}));
    assert_eq!(
        (&work["stage"]["name"], &work["state"]),
        (&json!("queued"), &json!("open"))
    );
    let change =
        json!({"id": "TKT-101", "stage": {"name": "resolved"}, "rev_org": null, "title": null});
    let work = desk.good("works.update", &change)["work"].clone();
    assert_eq!(work["state"], "closed");
    assert_eq!(
        (&work["rev_org"], &work["title"]),
        (&Value::Null, &json!("t"))
    );

    let entry = json!({"type": "timeline_comment", "object": "TKT-101", "body": "b"});
    let entry = desk.good("timeline-entries.create", &entry)["timeline_entry"].clone();
    assert_eq!(entry["object_display_id"], "TKT-101");
    assert!(
        entry["id"]
            .as_str()
            .unwrap()
            .starts_with("don:core:dvrv-us-1:devo/0:ticket/101:comment/")
    );
    let of = json!({"object": "don:core:dvrv-us-1:devo/0:ticket/101"});
    let entries =
        |desk: &mut Desk| desk.good("timeline-entries.list", &of)["timeline_entries"].clone();
    assert_eq!(entries(&mut desk), json!([entry]));
    desk.good("works.delete", &json!({"id": "TKT-101"}));
    assert_eq!(entries(&mut desk), json!([]), "they go with their object");
}

#[test]
fn no_two_objects_have_the_same_external_reference() {
    let mut desk = Desk::empty();
    let account = |name: &str, reference: &str| json!({"display_name": name, "external_refs": [reference, "own-".to_owned() + name]});
    desk.good("accounts.create", &account("a", "x"));
    desk.good("accounts.create", &account("b", "y"));
    for (operation, body) in [
        ("accounts.create", account("c", "x")),
        (
            "accounts.update",
            json!({"id": "ACC-2", "external_refs": ["x"]}),
        ),
    ] {
        let (status, said) = desk.post(operation, &body);
        assert_eq!((status, &said["type"]), (409, &json!("conflict")), "{said}");
    }
    desk.good(
        "accounts.update",
        &json!({"id": "ACC-1", "external_refs": ["x"], "tier": "1"}),
    );
    let org = desk.good(
        "rev-orgs.create",
        &json!({"display_name": "o", "account": "ACC-1"}),
    );
    let found = desk.good("rev-orgs.get", &json!({"account": "ACC-1"}));
    assert_eq!(found, org);
    assert_eq!(
        desk.post("rev-orgs.get", &json!({"account": "ACC-2"})).0,
        404
    );
}

#[test]
fn users_are_invited_and_leave() {
    let mut desk = Desk::empty();
    let user = json!({"email": "new@example.com", "state": "shadow", "full_name": "New"});
    let id = desk.good("dev-users.create", &user)["dev_user"]["id"].clone();
    let state = |desk: &mut Desk| {
        desk.good("dev-users.get", &json!({"id": id}))["dev_user"]["state"].clone()
    };
    assert_eq!(state(&mut desk), "shadow");
    assert_eq!(
        desk.good("dev-users.activate", &json!({"id": id})),
        json!({"invite_sent": true})
    );
    assert_eq!(state(&mut desk), "active");
    assert_eq!(
        desk.good("dev-users.deactivate", &json!({"id": id})),
        json!({})
    );
    assert_eq!(state(&mut desk), "deactivated");
    let own = desk.good("dev-users.self.update", &json!({"display_name": "Me"}));
    assert_eq!(own["dev_user"]["display_id"], "DEVU-1");
    assert_eq!(
        desk.good("dev-users.self", &json!({}))["dev_user"]["display_name"],
        "Me"
    );
}

#[test]
fn a_full_simulator_says_so_and_goes_on() {
    let mut desk = Desk::empty();
    let tag = json!({"name": "t"});
    for _ in 1..OBJECTS {
        desk.good("tags.create", &tag);
    }
    let (status, said) = desk.post("tags.create", &tag);
    assert_eq!((status, &said["type"]), (400, &json!("bad_request")));
    assert!(
        said["message"].as_str().unwrap().contains("delete some"),
        "{said}"
    );
    desk.good("tags.update", &json!({"id": "TAG-7", "name": "other"}));
    desk.good("tags.delete", &json!({"id": "TAG-7"}));
    desk.good("tags.create", &tag);
}
