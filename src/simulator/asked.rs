//! What a request asks for, in its body or in its query.

use serde_json::{Map, Value};

use super::answers::decoded;

/// The parameters of a request. DevRev has most of what reads in two forms: POST with a body, GET with a query.
#[derive(Debug)]
pub(super) enum Asked<'a> {
    Body(Map<String, Value>),
    Query(&'a str),
}

/// What a parameter of a query is: there all is text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Texts,
    Flag,
    Number,
    Numbers,
}

impl Asked<'_> {
    /// A parameter's value; `None` if it is not there or null. A name such as `issue.priority` is in a body within the object `issue`.
    pub(super) fn get(&self, name: &str, kind: Kind) -> Option<Value> {
        let found = match self {
            Asked::Body(body) => match name.split_once('.') {
                Some((outer, inner)) => body.get(outer)?.get(inner)?.clone(),
                None => body.get(name)?.clone(),
            },
            Asked::Query(query) => from_query(query, name, kind)?,
        };
        (!found.is_null()).then_some(found)
    }
}

/// Repeated parameters are one list, and so is a text with commas: `"DEVU-1","DEVU-2"`.
fn from_query(query: &str, name: &str, kind: Kind) -> Option<Value> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let values = pairs.filter(|(key, _)| {
        let key = decoded(key);
        key == name || key.strip_suffix("[]") == Some(name)
    });
    let mut values = values.map(|(_, value)| decoded(value)).peekable();
    values.peek()?;
    let number = |text: &str| {
        text.parse::<i64>()
            .map_or_else(|_| Value::from(text), Value::from)
    };
    Some(match kind {
        Kind::Text => values.next()?.into(),
        Kind::Number => number(&values.next()?),
        Kind::Flag => match &*values.next()? {
            "true" => true.into(),
            "false" => false.into(),
            other => other.into(),
        },
        Kind::Texts => values
            .flat_map(|text| split(&text))
            .map(Value::from)
            .collect(),
        Kind::Numbers => values
            .flat_map(|text| split(&text))
            .map(|text| number(&text))
            .collect(),
    })
}

/// At the commas outside quotes.
fn split(text: &str) -> Vec<String> {
    let (mut parts, mut quoted) = (vec![String::new()], false);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => parts.push(String::new()),
            _ => {
                if let Some(part) = parts.last_mut() {
                    part.push(c);
                }
            }
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_query_says_the_same_as_a_body() {
        let body = json!({"owned_by": ["DEVU-1", "DEVU-2"], "issue": {"priority": ["p0"]}, "limit": 2, "is_spam": true, "x": null});
        let body = Asked::Body(body.as_object().unwrap().clone());
        for query in [
            "limit=2&owned_by=%22DEVU-1%22,%22DEVU-2%22&issue.priority=p0&is_spam=true",
            "owned_by=DEVU-1&owned_by=DEVU-2&issue.priority=%22p0%22&limit=2&is_spam=true",
            "owned_by[]=DEVU-1&owned_by%5B%5D=DEVU-2&limit=2&issue.priority=p0,&is_spam=true",
        ] {
            let query = Asked::Query(query);
            for (name, kind) in [
                ("owned_by", Kind::Texts),
                ("issue.priority", Kind::Texts),
                ("limit", Kind::Number),
                ("is_spam", Kind::Flag),
                ("x", Kind::Text),
                ("issue.other", Kind::Text),
            ] {
                assert_eq!(
                    query.get(name, kind),
                    body.get(name, kind),
                    "{query:?} {name}"
                );
            }
        }
        let query = Asked::Query("name=%22a,b%22,c&limit=many");
        assert_eq!(query.get("name", Kind::Texts), Some(json!(["a,b", "c"])));
        assert_eq!(query.get("limit", Kind::Number), Some(json!("many")));
    }
}
