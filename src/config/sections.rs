//! The smaller sections of the file, each turned into its type.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

use serde_json::Value;

use super::{
    jwt::jwt,
    parse::{origin, resolve, roots},
    tree::{Problem, Section},
    *,
};

pub(super) fn auth(mut s: Section, upstream: &Roots) -> Auth {
    let mode = s.choice(
        "mode",
        &[
            ("inject", AuthMode::Inject),
            ("validate", AuthMode::Validate),
        ],
    );
    let introspect = s.bool("introspect").unwrap_or(false);
    let jwt = s.has("jwt").then(|| jwt(s.section("jwt"), upstream));
    if mode == Some(AuthMode::Validate) && jwt.is_some() {
        s.problem(
            "jwt",
            "is for mode \"inject\"; in mode \"validate\" callers bring DevRev tokens: remove one of the two",
        );
    }
    let introspect_ttl = s.timeout("introspect_ttl");
    s.finish();
    Auth {
        mode: mode.unwrap_or(AuthMode::Inject),
        introspect,
        introspect_ttl,
        jwt: jwt.flatten(),
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
            let text = v.as_str()?;
            log_directives(text).ok().map(|_| text.to_owned())
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
            ("all", AccessLog::All),
            ("refused", AccessLog::Refused),
            ("none", AccessLog::None),
        ],
    );
    s.finish();
    Log {
        level: level.unwrap_or_default(),
        format: format.unwrap_or(LogFormat::Auto),
        access: access.unwrap_or(AccessLog::Refused),
    }
}

pub(super) fn trace(mut s: Section, env: &BTreeMap<String, String>) -> Trace {
    let otlp = s.parse(
        "otlp",
        "http:// or https:// with a host, such as \"http://127.0.0.1:4318\"; /v1/traces is added",
        |v| receiver(v.as_str()?),
    );
    let mut headers = Vec::new();
    let hint = "write { file = ... } or { env = ... }, never the value itself";
    for (name, mut field) in s.named("headers", hint) {
        let source = field.source();
        let value = source.map(|source| (secret::read_field(&source, env), source));
        match (HeaderName::from_bytes(name.as_bytes()), value) {
            (Err(_), _) => field.problem("", "is not the name of a header field; correct it"),
            (Ok(name), _) if OURS.contains(&name.as_str()) => {
                field.problem("", "is set by revgate itself; remove it");
            }
            (Ok(name), Some((Ok(value), source))) => headers.push((name, source, value)),
            (Ok(_), Some((Err(message), _))) => field.problem("", message),
            (Ok(_), None) => {}
        }
        field.finish();
    }
    let trace = Trace {
        otlp,
        sample: s.share("sample", 1.0),
        timeout: s.timeout("timeout"),
        headers,
        service_name: s.string("service_name").unwrap_or_default(),
        roots: roots(&mut s).unwrap_or(Roots::Bundled),
    };
    s.finish();
    trace
}

/// What belongs to the message itself.
const OURS: [&str; 5] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "transfer-encoding",
];

/// The base URL of a receiver: what an upstream's may be, and a path.
fn receiver(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let base = format!("{}://{}", uri.scheme_str()?, uri.authority()?);
    origin(&base)?;
    (uri.query().is_none() && !text.contains(['#', '?'])).then_some(uri)
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
        let link = s.parse(
            "link",
            "an address such as \"https://developer.devrev.ai/changelog\"",
            |v| page(v.as_str()?),
        );
        s.finish();
        own.push(Rewrite {
            operations,
            rename: rename.unwrap_or_default(),
            mode,
            link,
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
            link: Some(CHANGELOG.to_owned()),
        });
    }
    all.extend(own);
    all
}

/// Where DevRev announced the built-in renames. The page of all its changes: addresses of single entries move.
const CHANGELOG: &str = "https://developer.devrev.ai/changelog";

/// An address of the web that fits between the angle brackets of a `Link` (RFC 8288 section 3).
fn page(text: &str) -> Option<String> {
    let uri: Uri = text.parse().ok()?;
    let web = matches!(uri.scheme_str(), Some("http" | "https"));
    let fits = text
        .bytes()
        .all(|b| b.is_ascii_graphic() && !b"<>\"".contains(&b));
    (web && uri.host().is_some_and(|host| !host.is_empty()) && fits).then(|| text.to_owned())
}
