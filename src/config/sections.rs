//! The smaller sections of the file, each turned into its type.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

use serde_json::Value;

use super::{
    parse::resolve,
    tree::{Problem, Section},
    *,
};

pub(super) fn auth(mut s: Section) -> Auth {
    let mode = s.choice(
        "mode",
        &[
            ("inject", AuthMode::Inject),
            ("validate", AuthMode::Validate),
        ],
    );
    let introspect = s.bool("introspect").unwrap_or(false);
    s.unsupported("jwt");
    let introspect_ttl = s.timeout("introspect_ttl");
    s.finish();
    Auth {
        mode: mode.unwrap_or(AuthMode::Inject),
        introspect,
        introspect_ttl,
    }
}

pub(super) fn token(name: String, mut s: Section, env: &BTreeMap<String, String>) -> Option<Token> {
    let source = s.source();
    let quota_group: Arc<str> = s.string("quota_group").unwrap_or(name).into();
    let value = source.as_ref().and_then(|source| {
        let key = if matches!(source, TokenSource::Env(_)) {
            "env"
        } else {
            "file"
        };
        resolve(&s, key, source, env)
    });
    s.finish();
    Some(Token {
        source: source?,
        value: value?,
        quota_group,
    })
}

pub(super) fn limits(mut s: Section) -> Limits {
    let limits = Limits {
        max_in_flight: s.count("max_in_flight"),
        max_body: s.size("max_body"),
        max_header_bytes: s.size("max_header_bytes") as usize,
        max_headers: s.count("max_headers"),
    };
    s.finish();
    limits
}

pub(super) fn retry(mut s: Section) -> Retry {
    let max_attempts = s.number("max_attempts", 1, 100).unwrap_or(1) as u32;
    let mut b = s.section("backoff");
    let (min, max) = (b.duration("min"), b.duration("max"));
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        b.problem("", "min is above max; raise max or lower min");
    }
    b.finish();
    let retry = Retry {
        max_attempts,
        backoff_min: min.unwrap_or_default(),
        backoff_max: max.unwrap_or_default(),
        budget: s.share("budget", 100.0),
        max_replay_body: s.size("max_replay_body") as usize,
        max_retry_after: s.timeout("max_retry_after"),
    };
    s.finish();
    retry
}

pub(super) fn quota(mut s: Section) -> Quota {
    let quota = Quota {
        spread_above: s.share("spread_above", 1.0),
        reserve: s.share("reserve", 1.0),
        max_waiting: s.count("max_waiting"),
    };
    s.finish();
    quota
}

pub(super) fn log(mut s: Section) -> Log {
    let level = s.parse(
        "level",
        "a level such as \"info\", or directives such as \"info,revgate=debug\"",
        |v| {
            let text = v.as_str().filter(|t| !t.is_empty())?;
            tracing_subscriber::EnvFilter::try_new(text)
                .ok()
                .map(|_| text.to_owned())
        },
    );
    let format = s.choice(
        "format",
        &[
            ("auto", LogFormat::Auto),
            ("json", LogFormat::Json),
            ("text", LogFormat::Text),
        ],
    );
    let access = s.choice(
        "access",
        &[
            ("all", LogAccess::All),
            ("refused", LogAccess::Refused),
            ("none", LogAccess::None),
        ],
    );
    s.finish();
    Log {
        level: level.unwrap_or_default(),
        format: format.unwrap_or(LogFormat::Auto),
        access: access.unwrap_or(LogAccess::Refused),
    }
}

pub(super) fn drain(mut s: Section) -> Drain {
    let drain = Drain {
        delay: s.duration("delay").unwrap_or_default(),
        timeout: s.duration("timeout").unwrap_or_default(),
    };
    s.finish();
    drain
}

pub(super) fn rewrite(root: &mut Section, sink: &RefCell<Vec<Problem>>) -> Vec<Rewrite> {
    let items = root
        .parse("rewrite", "rules as [[rewrite]] tables", |v| {
            v.as_array().cloned()
        })
        .unwrap_or_default();
    let mut built_in: Vec<String> = vec!["rev-users.link".into(), "rev-users.unlink".into()];
    let mut seen: Vec<String> = Vec::new();
    let mut own = Vec::new();
    for (i, item) in items.into_iter().enumerate() {
        let mut s = Section::new(
            format!("rewrite[{i}]"),
            Some(item),
            "write it as a [[rewrite]] table",
            sink,
        );
        let want = "a list of whole operations such as \"rev-users.link\"";
        let name = |t: &str| units::operation(t).then(|| t.to_ascii_lowercase());
        let given = s.has("operations");
        let operations = s.list("operations", want, name);
        if operations.as_ref().map_or(!given, Vec::is_empty) {
            s.problem(
                "operations",
                "is empty, so the rule does nothing; name at least one operation",
            );
        }
        let operations = operations.unwrap_or_default();
        for operation in &operations {
            if seen.contains(operation) {
                s.problem(
                    "operations",
                    format!("`{operation}` has a rule already; put both renames in one rule"),
                );
            }
            seen.push(operation.clone());
        }
        built_in.retain(|operation| !operations.contains(operation));
        let given = s.has("rename");
        let rename = s.parse(
            "rename",
            "a table of old = \"new\" names, at least one, no name to itself",
            |v| {
                let pair = |(old, new): (&String, &Value)| {
                    let new = new.as_str().filter(|new| !new.is_empty() && new != old)?;
                    (!old.is_empty()).then(|| (old.clone(), new.to_owned()))
                };
                v.as_object()
                    .filter(|m| !m.is_empty())?
                    .iter()
                    .map(pair)
                    .collect::<Option<BTreeMap<_, _>>>()
            },
        );
        if !given {
            s.problem("rename", "is missing; write { old = \"new\" }");
        }
        let modes = [
            ("off", RewriteMode::Off),
            ("report", RewriteMode::Report),
            ("rewrite", RewriteMode::Rewrite),
            ("refuse", RewriteMode::Refuse),
        ];
        let mode = s.choice("mode", &modes).unwrap_or(RewriteMode::Rewrite);
        s.finish();
        own.push(Rewrite {
            operations,
            rename: rename.unwrap_or_default(),
            mode,
        });
    }
    let mut all = Vec::new();
    if !built_in.is_empty() {
        let rename = [("rev_org_don", "rev_org"), ("user_don", "id")]
            .map(|(a, b)| (a.to_owned(), b.to_owned()));
        all.push(Rewrite {
            operations: built_in,
            rename: rename.into(),
            mode: RewriteMode::Rewrite,
        });
    }
    all.extend(own);
    all
}
