//! Bodies that callers send. serde_json, which parses them in another way, is the oracle.
#![no_main]

use std::{collections::BTreeSet, fmt};

use libfuzzer_sys::fuzz_target;
use revgate::policy::rewrite::{Mode, RewriteFault, Rewritten, Rule, rewrite};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;

const RENAMES: [(&str, &str); 2] = [("user_don", "id"), ("rev_org_don", "rev_org")];

/// The members of an object in their order, repeated ones too.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(InOrder)
    }
}

fn replacement(name: &str) -> Option<&'static str> {
    let found = RENAMES.iter().find(|(old, _)| *old == name);
    found.map(|(_, new)| *new)
}

/// What the members become: of an old and a new key with one value each, one is left, and null is no value.
fn renamed(members: &[(String, Value)]) -> serde_json::Map<String, Value> {
    let mut all = serde_json::Map::new();
    for (name, value) in members {
        let name = replacement(name).unwrap_or(name);
        if !value.is_null() || !all.contains_key(name) {
            all.insert(name.to_owned(), value.clone());
        }
    }
    all
}

fuzz_target!(|body: &[u8]| {
    let rename = RENAMES.map(|(old, new)| (old.to_owned(), new.to_owned()));
    let rule = |mode| Rule {
        rename: rename.to_vec(),
        mode,
        link: None,
    };
    let result = rewrite(body, &rule(Mode::Rewrite));
    let text = std::str::from_utf8(body).ok();
    let is_json = text.is_some_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
    if !is_json {
        assert!(matches!(
            result,
            Err(RewriteFault::Malformed | RewriteFault::NotAnObject)
        ));
    }
    // It fails for what is nested too deeply for a parser that recurses, and for half a surrogate pair.
    let Ok(Members(members)) = serde_json::from_slice(body) else {
        return;
    };
    let names: BTreeSet<&str> = members.iter().map(|(name, _)| &**name).collect();
    let repeated = names.len() < members.len();
    let deprecated = names.iter().any(|name| replacement(name).is_some());
    match result {
        Err(RewriteFault::RepeatedKey(name)) => {
            let times = members.iter().filter(|(other, _)| *other == name).count();
            assert!(times > 1, "{name}");
        }
        Err(RewriteFault::Conflict { old, new }) => {
            let value = |wanted: &str| members.iter().find(|(name, _)| name == wanted);
            let (old, new) = (value(&old).expect("it is there"), value(&new).expect("too"));
            assert!(!old.1.is_null() && !new.1.is_null());
        }
        Err(other) => panic!("{other}"),
        Ok(Rewritten::Seen { .. }) => panic!("the mode is not report"),
        Ok(Rewritten::Unchanged) => assert!(!deprecated && !repeated),
        Ok(Rewritten::Changed { body: new, fields }) => {
            assert!(deprecated && !repeated);
            let found = members.iter().map(|(name, _)| &**name);
            let found: Vec<&str> = found.filter(|name| replacement(name).is_some()).collect();
            assert_eq!(fields, found);
            let got: serde_json::Map<String, Value> =
                serde_json::from_slice(&new).expect("still an object");
            assert_eq!(got, renamed(&members));
            assert_eq!(
                rewrite(&new, &rule(Mode::Rewrite)),
                Ok(Rewritten::Unchanged)
            );
        }
    }
    // The other modes see the same fields.
    if let Ok(Rewritten::Seen { fields }) = rewrite(body, &rule(Mode::Report)) {
        assert!(deprecated);
        assert!(fields.iter().all(|field| replacement(field).is_some()));
    }
    if let Err(RewriteFault::Deprecated { field }) = rewrite(body, &rule(Mode::Refuse)) {
        assert!(replacement(&field).is_some());
    }
});
