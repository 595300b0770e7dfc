//! Names of things outside the file: addresses, URLs, certificates, log levels.

use std::{net::SocketAddr, path::PathBuf};

use http::Uri;
use serde_json::{Value, json};
use tracing_subscriber::EnvFilter;

use super::{
    super::{
        Address,
        section::{Notation, View, shared_schema},
        tls::roots_problem,
    },
    integer_pattern, notation,
    operations::{bad_text, texts, texts_schema},
    padded, text,
};
use crate::{policy::san::San, types::Roots};

/// Names of hosts, or IP addresses, without a port.
pub struct Hosts;

const HOST: &str = r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\]";

/// In lower case, because names are compared in lower case.
fn host(text: &str) -> Option<String> {
    let in_brackets = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let is_label = |label: &str| {
        let fits = label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        fits && !label.is_empty()
    };
    let is_host = match in_brackets {
        Some(address) => {
            !address.is_empty()
                && address
                    .bytes()
                    .all(|b| b.is_ascii_hexdigit() || b":.".contains(&b))
        }
        None => text.split('.').all(is_label),
    };
    is_host.then(|| text.to_ascii_lowercase())
}

notation! {
    [] Hosts => Vec<String>,
    expected "a list of names of hosts such as \"devrev.internal\", without a port",
    parse |value| texts(value, host),
    bad_item |value| bad_text(value, host),
    show |out| out.as_slice(),
    schema |defs| texts_schema(text(&[HOST]), HOST),
}

/// A pattern for an IP address and a port. Checks only the characters of an IPv6 address.
fn socket() -> String {
    let octet = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
    let port = integer_pattern(0, u16::MAX.into());
    format!(r"(?:{octet}(?:\.{octet}){{3}}|\[[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%[0-9]+)?\]):{port}")
}

notation! {
    [] SocketAddr => SocketAddr,
    expected "an address such as \"127.0.0.1:9901\"",
    parse |value| value.as_str()?.parse().ok(),
    show |out| out.to_string(),
    schema |defs| text(&[&socket()]),
}

notation! {
    [] Address => Address,
    expected "an address such as \"127.0.0.1:8080\" or \"unix:/run/revgate.sock\"",
    parse |value| match value.as_str()?.strip_prefix("unix:") {
        Some(path) => (!path.is_empty()).then(|| Address::Unix(path.into())),
        None => SocketAddr::parse(value).map(Address::Tcp),
    },
    show |out| out.to_string(),
    schema |defs| text(&[r"unix:[\s\S]+", &socket()]),
}

/// Permissions in octal. A string, because TOML rejects the number 0660 and reads 660 as decimal.
pub struct Mode;

notation! {
    [] Mode => u32,
    expected "three octal digits for owner, group and others as a string, such as \"0660\" or \"0666\"",
    parse |value| {
        let text = value.as_str()?;
        let digits = text.strip_prefix("0o").unwrap_or(text);
        let octal = (3..=4).contains(&digits.len()) && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
        let mode = u32::from_str_radix(digits, 8).ok()?;
        // To connect takes write permission: without the owner's, only root could.
        (octal && mode <= 0o777 && mode & 0o200 != 0).then_some(mode)
    },
    show |out| format!("{out:04o}"),
    schema |defs| text(&["(?:0o)?0?[2367][0-7]{2}"]),
}

/// Whether the port fits into 16 bits. `Uri` parses one that does not, and then returns no port.
pub(crate) fn is_port_sound(uri: &Uri) -> bool {
    uri.authority().is_some_and(|a| {
        a.port_u16().is_some() || !a.as_str().contains(':') || a.as_str().ends_with(']')
    })
}

/// A pattern for the scheme `http`.
pub(crate) const HTTP: &str = "[Hh][Tt][Tt][Pp]";

fn host_pattern() -> &'static str {
    r"(?:[A-Za-z0-9._~!$&'()*+,;=-]+|\[[0-9A-Fa-f:.]+\])"
}

/// A pattern for a host and an optional port.
pub(crate) fn authority() -> String {
    let port = integer_pattern(0, u16::MAX.into());
    format!("{}(?::{port})?", host_pattern())
}

fn origin(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let http = matches!(uri.scheme_str(), Some("http" | "https"));
    let plain =
        matches!(uri.path(), "" | "/") && uri.query().is_none() && !text.contains(['#', '?', '@']);
    let host = uri.host().is_some_and(|h| !h.is_empty());
    (http && plain && host && is_port_sound(&uri)).then_some(uri)
}

/// Without the trailing slash that parsing adds.
fn without_slash(uri: &Uri) -> Value {
    uri.to_string().trim_end_matches('/').into()
}

/// A URL with a scheme, a host and a port only.
pub struct Origin;

notation! {
    [] Origin => Uri,
    expected "http:// or https:// with a host only: no path, query or user",
    parse |value| origin(value.as_str()?),
    show |out| without_slash(out),
    schema |shared| text(&[&format!("{HTTP}[Ss]?://{}/?", authority())]),
}

/// An HTTP proxy. Credentials in it are refused, and never shown.
pub struct ProxyUrl;

notation! {
    [] ProxyUrl => Uri,
    expected "http:// with the proxy's host and port, such as \"http://proxy.example:3128\"; connections to the proxy itself are without TLS",
    parse |value| {
        let text = value.as_str().filter(|text| !text.contains(['#', '?']))?;
        let uri: Uri = text.parse().ok()?;
        let authority = uri.authority()?.as_str();
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let origin = origin(&format!("{}://{host}{}", uri.scheme_str()?, uri.path_and_query()?))?;
        let has_port = origin.port_u16().is_some_and(|port| port != 0);
        (origin.scheme_str() == Some("http") && has_port).then_some(uri)
    },
    invalid |out| out.authority().is_some_and(|authority| authority.as_str().contains('@')).then(|| {
        "has a user or a password in it; store user:password in a file or a variable, and name that in upstream.proxy_credentials".into()
    }),
    show |out| without_slash(out),
    schema |shared| text(&[&format!("{HTTP}://{}:{}/?", host_pattern(), integer_pattern(1, u16::MAX.into()))]),
}

/// The base URL of a receiver of spans: an origin and an optional path.
pub struct Receiver;

notation! {
    [] Receiver => Uri,
    expected "http:// or https:// with a host, such as \"http://127.0.0.1:4318\"; revgate appends /v1/traces",
    parse |value| {
        let text = value.as_str()?;
        let uri: Uri = text.parse().ok()?;
        origin(&format!("{}://{}", uri.scheme_str()?, uri.authority()?))?;
        (uri.query().is_none() && !text.contains(['#', '?'])).then_some(uri)
    },
    show |out| without_slash(out),
    schema |shared| text(&[&format!(r"{HTTP}[Ss]?://{}(?:/[^\s?#]*)?", authority())]),
}

/// The URL of a page, which must fit between the angle brackets of a `Link` (RFC 8288 section 3).
pub struct Page;

notation! {
    [] Page => String,
    expected "a URL such as \"https://developer.devrev.ai/changelog\"",
    parse |value| {
        let text = value.as_str()?;
        let uri: Uri = text.parse().ok()?;
        let web = matches!(uri.scheme_str(), Some("http" | "https"));
        let fits = text.bytes().all(|b| b.is_ascii_graphic() && !b"<>\"".contains(&b));
        (web && uri.host().is_some_and(|host| !host.is_empty()) && fits).then(|| text.to_owned())
    },
    show |out| out.as_str(),
    schema |shared| text(&[&format!(r#"{HTTP}[Ss]?://[!#-;=?-~]+"#)]),
}

notation! {
    [] Roots => Roots,
    expected "\"bundled\", \"system\" or { file = \"ca.pem\" }",
    parse |value| match value {
        Value::String(text) if text == "bundled" => Some(Roots::Bundled),
        Value::String(text) if text == "system" => Some(Roots::System),
        Value::Object(map) if map.len() == 1 => PathBuf::parse(map.get("file")?).map(Roots::File),
        _ => None,
    },
    invalid |out| roots_problem(out),
    show |out| match out {
        Roots::Bundled => "bundled".into(),
        Roots::System => "system".into(),
        Roots::File(path) => json!({ "file": path.display().to_string() }),
    },
    schema |defs| shared_schema(defs, "roots", |defs| {
        let file = json!({ "file": String::schema(defs) });
        let file = json!({ "type": "object", "properties": file, "required": ["file"], "additionalProperties": false });
        json!({ "anyOf": [{ "enum": ["bundled", "system"] }, file] })
    }),
}

notation! {
    [] San => San,
    expected "a complete name from the certificate: a URI such as \"spiffe://example.org/billing\", or a DNS name such as \"billing.internal\", without *",
    parse |value| San::read(value.as_str()?),
    show |out| out.to_string(),
    schema |defs| {
        let id = r"spiffe://[a-z0-9._-]+(?:/[A-Za-z0-9._-]+)+";
        let label = "[A-Za-z0-9_-]{1,63}";
        let mut schema = text(&[id, r"[A-Za-z][A-Za-z0-9+.-]*:[!-)+-~]+", &format!(r"{label}(?:\.{label})*")]);
        // An IP address, a host with a port, and a malformed SPIFFE id.
        schema["not"] = json!({ "anyOf": [
            text(&[r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}", "[^:]*:[0-9]+"]),
            json!({ "pattern": "^spiffe://", "not": text(&[id]) }),
        ]});
        schema
    },
}

/// A level, or directives such as "info,revgate=debug".
///
/// # Errors
/// What is wrong, and which values are valid.
pub(crate) fn log_directives(text: &str) -> Result<EnvFilter, String> {
    let text = text.trim();
    // EnvFilter takes a word without a level for a target, so a misspelt level would silence everything else.
    let mut words = text.split(',').map(str::trim);
    let bad = words.find(|word| {
        let level = word.parse::<tracing::level_filters::LevelFilter>();
        !word.contains(['=', '[']) && (word.is_empty() || level.is_err())
    });
    if let Some(word) = bad {
        return Err(format!(
            "{word:?} is not a log level; use error, warn, info, debug, trace or off, or directives such as \"info,revgate=debug\""
        ));
    }
    EnvFilter::try_new(text).map_err(|e| format!("cannot read the log directives: {e}"))
}

/// A pattern for a word in any case.
pub(crate) fn any_case(word: &str) -> String {
    let letters = word.chars().map(|c| match c.is_ascii_lowercase() {
        true => format!("[{}{c}]", c.to_ascii_uppercase()),
        false => c.to_string(),
    });
    letters.collect()
}

/// A log level, or directives for `EnvFilter`.
pub struct Directives;

notation! {
    [] Directives => String,
    expected "a level such as \"info\", or directives such as \"info,revgate=debug\"",
    parse |value| {
        let text = value.as_str()?;
        log_directives(text).ok().map(|_| text.to_owned())
    },
    show |out| out.as_str(),
    schema |defs| {
        let names = ["error", "warn", "info", "debug", "trace", "off"].map(any_case).join("|");
        let level = format!(r"(?:{names}|0*[0-5])");
        // The pattern does not check the fields of a span.
        let word = format!(r"\s*{level}\s*|[^\s,=\[\]]+={level}|[^\s,=\[\]]*\[[^\]]*\](?:={level})?");
        padded(&format!("(?:{word})(?:,(?:{word}))*"))
    },
}
