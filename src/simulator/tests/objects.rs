//! Operations on objects, without sockets.

use http::Method;
use serde_json::{Value, json};

use crate::simulator::answers::Content;
use crate::simulator::families::{Create, FAMILIES, Family, Shape, Update};
use crate::simulator::operations::{self, Call};
use crate::simulator::seed;
use crate::simulator::store::{OBJECTS, Store};

/// A store, and a clock that goes on with each call.
pub(super) struct Desk {
    store: Store,
    now: u64,
}

impl Desk {
    pub(super) fn empty() -> Desk {
        let mut store = Store::default();
        seed::own_user(&mut store);
        Desk {
            store,
            now: 1_800_000_000_000,
        }
    }

    pub(super) fn seeded() -> Desk {
        let mut desk = Desk::empty();
        seed::objects(&mut desk.store);
        desk
    }

    pub(super) fn raw(
        &mut self,
        method: &str,
        operation: &str,
        query: &str,
        body: &str,
    ) -> (u16, Value) {
        self.now += 1;
        let call = Call {
            method: &Method::from_bytes(method.as_bytes()).unwrap(),
            operation,
            query,
            body: body.as_bytes(),
            cut: false,
            user: None,
            now: self.now,
        };
        let answer = operations::answer(&mut self.store, &call);
        let Content::Whole(bytes) = answer.content else {
            panic!("not one piece");
        };
        (
            answer.status.as_u16(),
            serde_json::from_slice(&bytes).unwrap(),
        )
    }

    pub(super) fn post(&mut self, operation: &str, body: &Value) -> (u16, Value) {
        self.raw("POST", operation, "", &body.to_string())
    }

    pub(super) fn good(&mut self, operation: &str, body: &Value) -> Value {
        let (status, answer) = self.post(operation, body);
        assert_eq!(status, 200, "{operation} {body}: {answer}");
        answer
    }
}

/// A value of this shape that fits every field of it.
fn sample(shape: Shape) -> Value {
    match shape {
        Shape::Text(..) => json!("text"),
        Shape::Texts => json!(["text"]),
        Shape::Flag => json!(true),
        Shape::Number | Shape::Choice => json!(2),
        Shape::Date => json!("2026-01-02T03:04:05Z"),
        Shape::OneOf(allowed) => json!(allowed[0]),
        Shape::Id(leaves) => json!(id_of(leaves)),
        Shape::Ids(leaves) => json!([id_of(leaves)]),
        Shape::Object => json!("TKT-1"),
        Shape::Tags => json!([{"id": "TAG-1", "value": "v"}]),
        Shape::Stage => json!({"name": "in_development"}),
        Shape::Map => json!({"a": 1}),
        Shape::List => json!([1]),
    }
}

fn id_of(leaves: &[crate::simulator::ids::Leaf]) -> String {
    leaves.first().map_or_else(
        || "don:core:dvrv-us-1:devo/0:artifact/1".to_owned(),
        |leaf| crate::simulator::ids::Id::new(*leaf, 1).display(),
    )
}

/// A value that no field of this shape takes, as JSON has none of this type there.
fn ill_typed(shape: Shape) -> Value {
    match shape {
        Shape::Number | Shape::Choice => json!("2"),
        _ => json!(7),
    }
}

/// Every field that a kind can be created with.
fn whole(family: &Family, leaf: crate::simulator::ids::Leaf) -> Value {
    let mut body = json!({});
    if family.typed {
        body["type"] = leaf.name().into();
    }
    let here = |only: &[_]| only.is_empty() || only.contains(&leaf);
    for field in family.fields.iter().filter(|field| here(field.only)) {
        if field.create != Create::Never {
            body[field.name] = sample(field.shape);
        }
    }
    body
}

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
fn every_field_is_judged() {
    for family in FAMILIES {
        for leaf in family.leaves {
            let mut desk = Desk::empty();
            let create = format!("{}.create", family.name);
            let update = format!("{}.update", family.name);
            let good = whole(family, *leaf);
            let id = desk.good(&create, &good)[family.one]["id"].clone();
            let mut refused = |operation: &str, body: &Value, kind: &[&str], name: &str| {
                let (status, said) = desk.post(operation, body);
                assert_eq!(status, 400, "{operation} {body}: {said}");
                assert_eq!(said["field_name"], name, "{operation} {body}: {said}");
                assert!(kind.iter().any(|kind| said["type"] == *kind), "{said}");
                assert!(said["message"].is_string(), "{said}");
            };
            for field in family.fields {
                if !field.only.is_empty() && !field.only.contains(leaf) {
                    let mut body = good.clone();
                    body[field.name] = sample(field.shape);
                    refused(&create, &body, &["bad_request"], field.name);
                    continue;
                }
                if field.create == Create::Required {
                    for value in [None, Some(Value::Null)] {
                        let mut body = good.clone();
                        body.as_object_mut().unwrap().remove(field.name);
                        if let Some(value) = value {
                            body[field.name] = value;
                        }
                        refused(&create, &body, &["missing_required_field"], field.name);
                    }
                }
                if field.create != Create::Never {
                    let mut body = good.clone();
                    body[field.name] = ill_typed(field.shape);
                    refused(&create, &body, &["unexpected_json_type"], field.name);
                }
                let wrong = match field.update {
                    Update::Never => (sample(field.shape), "bad_request"),
                    Update::Plain => (ill_typed(field.shape), "unexpected_json_type"),
                    Update::Set => (
                        json!({"set": ill_typed(field.shape)}),
                        "unexpected_json_type",
                    ),
                };
                refused(
                    &update,
                    &json!({"id": id, field.name: wrong.0}),
                    &[wrong.1],
                    field.name,
                );
            }
            let mut body = good.clone();
            body["nope"] = json!(1);
            refused(&create, &body, &["bad_request"], "nope");
            refused(
                &update,
                &json!({"id": id, "nope": 1}),
                &["bad_request"],
                "nope",
            );
            if family.typed {
                let mut body = good.clone();
                body["type"] = json!("no_such_kind");
                refused(&create, &body, &["invalid_enum_value"], "type");
            }
        }
    }
}

#[test]
fn faults_have_the_types_of_devrev() {
    let part = "FEAT-1";
    let work = |name: &str, value: Value| {
        let mut body = json!({"type": "ticket", "title": "t", "applies_to_part": part, "owned_by": ["DEVU-1"]});
        body[name] = value;
        body
    };
    let long = "x".repeat(257);
    let rows = [
        ("works.get", json!({}), "missing_required_field", "id"),
        (
            "works.get",
            json!({"id": null}),
            "missing_required_field",
            "id",
        ),
        ("works.get", json!({"id": 7}), "unexpected_json_type", "id"),
        ("works.get", json!({"id": "seven"}), "invalid_id", "id"),
        (
            "works.get",
            json!({"id": "ACC-1"}),
            "unexpected_id_type",
            "id",
        ),
        (
            "works.get",
            json!({"id": "don:core:dvrv-us-1:devo/0:artifact/1"}),
            "unexpected_id_type",
            "id",
        ),
        (
            "works.delete",
            json!({"id": "REVU-1"}),
            "unexpected_id_type",
            "id",
        ),
        (
            "works.delete",
            json!({"id": "TKT-1", "force": true}),
            "bad_request",
            "force",
        ),
        (
            "works.update",
            json!({"id": "TKT-1", "type": "issue"}),
            "invalid_field",
            "type",
        ),
        (
            "works.update",
            json!({"id": "TKT-1", "owned_by": ["DEVU-1"]}),
            "unexpected_json_type",
            "owned_by",
        ),
        (
            "works.update",
            json!({"id": "TKT-1", "owned_by": {"add": []}}),
            "bad_request",
            "owned_by.add",
        ),
        (
            "works.create",
            work("title", json!("")),
            "invalid_field",
            "title",
        ),
        (
            "works.create",
            work("title", json!(long)),
            "invalid_field",
            "title",
        ),
        (
            "works.create",
            work("applies_to_part", json!("DEVU-1")),
            "unexpected_id_type",
            "applies_to_part",
        ),
        (
            "works.create",
            work("owned_by", json!(["ACC-1"])),
            "unexpected_id_type",
            "owned_by",
        ),
        (
            "works.create",
            work("owned_by", json!("DEVU-1")),
            "unexpected_json_type",
            "owned_by",
        ),
        (
            "works.create",
            work("severity", json!("huge")),
            "invalid_enum_value",
            "severity",
        ),
        (
            "works.create",
            work("priority", json!("p0")),
            "bad_request",
            "priority",
        ),
        (
            "works.create",
            work("target_close_date", json!("soon")),
            "invalid_field",
            "target_close_date",
        ),
        (
            "works.create",
            work("tags", json!([{"value": "v"}])),
            "missing_required_field",
            "tags.id",
        ),
        (
            "works.create",
            work("tags", json!([{"id": "TKT-1"}])),
            "unexpected_id_type",
            "tags.id",
        ),
        (
            "works.create",
            work("stage", json!({"name": 1})),
            "unexpected_json_type",
            "stage.name",
        ),
        ("works.list", json!({"limit": 0}), "invalid_field", "limit"),
        ("works.list", json!({"limit": -1}), "invalid_field", "limit"),
        (
            "works.list",
            json!({"cursor": "what"}),
            "invalid_field",
            "cursor",
        ),
        (
            "works.list",
            json!({"cursor": 7}),
            "unexpected_json_type",
            "cursor",
        ),
        (
            "works.list",
            json!({"mode": "sideways"}),
            "invalid_enum_value",
            "mode",
        ),
        (
            "works.list",
            json!({"sort_by": ["colour:asc"]}),
            "invalid_field",
            "sort_by",
        ),
        (
            "works.list",
            json!({"owned_by": "DEVU-1"}),
            "unexpected_json_type",
            "owned_by",
        ),
        (
            "works.list",
            json!({"owned_by": ["x"]}),
            "invalid_id",
            "owned_by",
        ),
        (
            "works.list",
            json!({"created_date": {"after": "x"}}),
            "invalid_field",
            "created_date.after",
        ),
        (
            "works.list",
            json!({"ticket": {"is_spam": "no"}}),
            "unexpected_json_type",
            "ticket.is_spam",
        ),
        (
            "works.export",
            json!({"first": 0}),
            "invalid_field",
            "first",
        ),
        (
            "timeline-entries.list",
            json!({}),
            "missing_required_field",
            "object",
        ),
        (
            "timeline-entries.create",
            json!({"type": "timeline_comment"}),
            "missing_required_field",
            "object",
        ),
        (
            "parts.create",
            json!({"type": "feature", "name": "n", "owned_by": []}),
            "missing_required_field",
            "parent_part",
        ),
        (
            "rev-orgs.get",
            json!({"account": "REV-1"}),
            "unexpected_id_type",
            "account",
        ),
        (
            "dev-users.create",
            json!({"email": "e", "state": "active"}),
            "invalid_enum_value",
            "state",
        ),
        (
            "dev-users.self.update",
            json!({"id": "DEVU-2"}),
            "bad_request",
            "id",
        ),
    ];
    let mut desk = Desk::seeded();
    for (operation, body, kind, name) in rows {
        let (status, said) = desk.post(operation, &body);
        assert_eq!(status, 400, "{operation} {body}: {said}");
        assert_eq!(
            (&said["type"], &said["field_name"]),
            (&json!(kind), &json!(name)),
            "{operation} {body}"
        );
    }
    let (_, said) = desk.post("works.create", &work("severity", json!("huge")));
    assert_eq!(
        said["allowed_values"],
        json!(["blocker", "high", "low", "medium"])
    );
    assert_eq!(said["value"], "huge");
    let (_, said) = desk.post("works.get", &json!({"id": 7}));
    assert_eq!(
        (&said["expected"], &said["actual"]),
        (&json!("string"), &json!("number"))
    );
    for (body, kind) in [
        ("", "parse_error"),
        ("{", "parse_error"),
        ("[]", "bad_request"),
    ] {
        let (status, said) = desk.raw("POST", "works.create", "", body);
        assert_eq!((status, &said["type"]), (400, &json!(kind)), "{body}");
    }
    for body in [
        json!({"id": "TKT-5000"}),
        json!({"id": "TKT-x1"}),
        json!({"id": "ISS-999"}),
    ] {
        let (status, said) = desk.post("works.get", &body);
        assert_eq!(
            (status, &said["type"]),
            (404, &json!("not_found")),
            "{body}"
        );
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

use crate::policy::operation::Operation;

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
