//! Calls of one caller to one operation that used something deprecated.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value, json};

use crate::policy::operation::OperationLabel;

/// Calls that used something, and how many of them revgate refused.
#[derive(Clone, Copy, Debug, Default)]
struct Uses {
    calls: u64,
    refused: u64,
    /// Epoch seconds.
    last: u64,
    /// The last that was not refused.
    accepted: Option<u64>,
}

impl Uses {
    fn add(&mut self, refused: bool, now: u64) {
        self.calls += 1;
        self.refused += u64::from(refused);
        self.last = now;
        if !refused {
            self.accepted = Some(now);
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct DeprecatedCalls {
    all: Uses,
    /// Those that were deprecated as a whole.
    whole: Uses,
    fields: BTreeMap<Arc<str>, Uses>,
}

impl DeprecatedCalls {
    pub(super) fn add(&mut self, whole: bool, fields: &[Arc<str>], refused: bool, now: u64) {
        self.all.add(refused, now);
        if whole {
            self.whole.add(refused, now);
        }
        for field in fields {
            match self.fields.get_mut(field) {
                Some(uses) => uses.add(refused, now),
                None => self
                    .fields
                    .entry(field.clone())
                    .or_default()
                    .add(refused, now),
            }
        }
    }

    pub(super) fn last_accepted(&self) -> Option<u64> {
        self.all.accepted
    }

    /// A row for each field, and one without a field for the operation itself. `count` has the refused calls too.
    pub(super) fn by_field(
        &self,
        caller: &Arc<str>,
        operation: OperationLabel,
    ) -> impl Iterator<Item = Value> {
        let row = move |field: Option<&str>, uses: &Uses| {
            json!({
                "caller": **caller,
                "operation": operation,
                "field": field,
                "count": uses.calls,
                "refused": uses.refused,
                "last_seen": uses.last,
            })
        };
        let whole = (self.whole.calls > 0).then(|| row(None, &self.whole));
        let fields = self.fields.iter();
        whole
            .into_iter()
            .chain(fields.map(move |(field, uses)| row(Some(field), uses)))
    }

    /// One row for all. `calls` are those that were not refused; `fields` has the calls that used each.
    pub(super) fn as_call(&self, caller: &str, operation: OperationLabel) -> Value {
        let fields = self.fields.iter();
        let fields = fields.map(|(field, uses)| (field.to_string(), json!(uses.calls)));
        json!({
            "caller": caller,
            "operation": operation,
            "operation_deprecated": self.whole.calls > 0,
            "calls": self.all.calls - self.all.refused,
            "refused": self.all.refused,
            "fields": fields.collect::<Map<_, _>>(),
            "last_seen": self.all.last,
        })
    }
}
