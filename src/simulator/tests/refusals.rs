//! What of a request is refused, and how.

use serde_json::{Value, json};

use super::desk::{Desk, ill_typed, sample, whole};
use crate::simulator::families::{Create, FAMILIES, Update};

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
