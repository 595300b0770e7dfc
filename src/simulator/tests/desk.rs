//! Operations on objects, without sockets, and values for every field.

use http::Method;
use serde_json::{Value, json};

use crate::simulator::answers::Content;
use crate::simulator::families::{Create, Family, Shape};
use crate::simulator::ids::{Id, Leaf};
use crate::simulator::operations::{self, Call};
use crate::simulator::seed;
use crate::simulator::store::Store;

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
pub(super) fn sample(shape: Shape) -> Value {
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

fn id_of(leaves: &[Leaf]) -> String {
    leaves.first().map_or_else(
        || "don:core:dvrv-us-1:devo/0:artifact/1".to_owned(),
        |leaf| Id::new(*leaf, 1).display(),
    )
}

/// A value that no field of this shape takes, as JSON has none of this type there.
pub(super) fn ill_typed(shape: Shape) -> Value {
    match shape {
        Shape::Number | Shape::Choice => json!("2"),
        _ => json!(7),
    }
}

/// Every field that a kind can be created with.
pub(super) fn whole(family: &Family, leaf: Leaf) -> Value {
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
