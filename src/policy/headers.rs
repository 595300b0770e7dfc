//! Which header fields are not forwarded, and how the few fields that matter to revgate are read.

use std::time::Duration;

use http::HeaderValue;
use http::header::{CONNECTION, HeaderMap, HeaderName, TE, VIA};

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// What revgate does with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Of one connection (RFC 9110 section 7.6.1, and what older specifications counted among them): not forwarded, either way.
    Hop,
    /// Of a request, about its caller or this hop: not forwarded. `Trailer` goes with `TE`; `Expect` is answered by the gateway
    /// (RFC 9110 section 10.1.1).
    Private,
    /// Of a request: for some servers it says what is to be done, or where, instead of the request line and Host that were checked.
    /// Not forwarded.
    Command,
    /// End-to-end: revgate sets it, reads it or relies on it. It stays even if Connection lists it, which a sender must not do (RFC 9110
    /// section 7.6.1): otherwise a caller could remove a credential or a body's length.
    EndToEnd,
}

use Fate::{Command, EndToEnd, Hop, Private};

/// The fields that revgate strips, sets, reads or relies on, sorted by name. A name that ends with a dash stands for all names that begin
/// with it. All other fields are forwarded.
#[rustfmt::skip]
static TABLE: &[(&str, Fate)] = &[
    ("accept-encoding", EndToEnd), ("authorization", EndToEnd), ("cache-control", EndToEnd), ("connection", Hop),
    ("content-", EndToEnd), ("cookie", EndToEnd), ("date", EndToEnd), ("etag", EndToEnd), ("expect", Private),
    ("forwarded", Private), ("host", Private), ("http2-settings", Hop), ("idempotency-key", EndToEnd), ("keep-alive", Hop),
    ("location", EndToEnd), ("origin", EndToEnd), ("prefer", EndToEnd),
    // CGI makes `HTTP_PROXY` of it, which programs take for the proxy that they are to use (CVE-2016-5385 and its kin).
    ("proxy", Command),
    ("proxy-authenticate", Hop), ("proxy-authorization", Hop), ("proxy-connection", Hop), ("retry-after", EndToEnd),
    ("sec-fetch-", EndToEnd), ("set-cookie", EndToEnd), ("te", Hop), ("traceparent", EndToEnd), ("tracestate", EndToEnd),
    ("trailer", Private), ("transfer-encoding", Hop), ("upgrade", Hop), ("via", EndToEnd), ("www-authenticate", EndToEnd),
    // Of nginx and Rack: which file to send.
    ("x-accel-", Command),
    ("x-devrev-", EndToEnd),
    // Of Envoy: how to route, how often to try, and the path before a rewrite.
    ("x-envoy-", Command),
    ("x-forwarded", Private), ("x-forwarded-", Private), ("x-host", Command), ("x-http-destinationurl", Command),
    ("x-http-host-override", Command), ("x-http-method", Command), ("x-http-method-override", Command),
    ("x-http-path-override", Command), ("x-method-override", Command), ("x-original-host", Command),
    ("x-original-method", Command), ("x-original-path", Command), ("x-original-uri", Command), ("x-original-url", Command),
    ("x-override-method", Command), ("x-override-url", Command), ("x-proxy-url", Command), ("x-ratelimit-", EndToEnd),
    ("x-real-ip", Private), ("x-request-id", EndToEnd), ("x-rewrite-path", Command), ("x-rewrite-uri", Command),
    ("x-rewrite-url", Command), ("x-sendfile-type", Command),
];

/// The row of a field, if it has one.
fn fate(name: &str) -> Option<Fate> {
    let row = |name: &str| {
        let at = TABLE.binary_search_by(|row| row.0.cmp(name)).ok()?;
        Some(TABLE[at].1)
    };
    row(name).or_else(|| {
        let mut dashes = name.match_indices('-');
        dashes.find_map(|(at, _)| row(&name[..=at]))
    })
}

/// Whether the name is that of a row to a back end that does not tell `_`, `.`, `-` and other marks apart, such as one with CGI's variables
/// (RFC 3875 section 4.1.18).
fn folds(name: &str) -> bool {
    let mark = |c: char| !c.is_ascii_alphanumeric() && c != '-';
    name.contains(mark) && fate(&name.replace(mark, "-")).is_some()
}

/// The gateway's name in `Via`.
const PSEUDONYM: &str = "revgate";

/// Whether a request has been through a revgate already (RFC 9110 section 7.6.3). If it went on, it would loop for ever with its credential.
pub fn is_loop(headers: &HeaderMap) -> bool {
    let hops = headers.get_all(VIA).iter();
    hops.flat_map(|value| value.as_bytes().split(|&b| b == b','))
        .any(|hop| {
            let mut words = hop
                .split(u8::is_ascii_whitespace)
                .filter(|word| !word.is_empty());
            let received_by = words.nth(1).unwrap_or_default();
            received_by.eq_ignore_ascii_case(PSEUDONYM.as_bytes())
        })
}

/// Whether the sender says that it takes trailers (RFC 9110 section 10.1.4).
pub fn takes_trailers(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(TE).iter();
    codings
        .flat_map(|value| value.as_bytes().split(|&b| b == b','))
        .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// Strips from a request what must not reach DevRev: fields of this connection, fields about the caller and its path, fields that say what is
/// to be done, and names that a back end may take for one that revgate strips, sets or relies on. Returns those of the last two kinds:
/// whoever sends them expects that they have an effect.
pub fn strip_request(headers: &mut HeaderMap) -> Vec<HeaderName> {
    let mut ignored = Vec::new();
    strip(headers, |name| match fate(name.as_str()) {
        Some(EndToEnd) => false,
        Some(Hop | Private) => true,
        Some(Command) => {
            ignored.push(name.clone());
            true
        }
        None => {
            let folds = folds(name.as_str());
            if folds {
                ignored.push(name.clone());
            }
            folds
        }
    });
    ignored
}

/// Strips the fields of the upstream connection from an answer. `Trailer` stays, because trailers are passed on and HTTP/1.1 sends
/// only announced ones (RFC 9110 section 6.6.2: it is not a field of one connection).
pub fn strip_response(headers: &mut HeaderMap) {
    strip(headers, |name| fate(name.as_str()) == Some(Hop));
}

fn strip(headers: &mut HeaderMap, mut ends: impl FnMut(&HeaderName) -> bool) {
    let mut gone: Vec<HeaderName> = Vec::new();
    for value in headers.get_all(CONNECTION) {
        let nominated = value
            .as_bytes()
            .split(|&b| b == b',')
            .map(<[u8]>::trim_ascii);
        let nominated = nominated.filter_map(|name| HeaderName::from_bytes(name).ok());
        gone.extend(
            nominated
                .filter(|name| headers.contains_key(name) && fate(name.as_str()) != Some(EndToEnd)),
        );
    }
    gone.extend(headers.keys().filter(|name| ends(name)).cloned());
    for name in gone {
        headers.remove(name);
    }
}

/// Removes `Prefer: wait=SECONDS` (RFC 7240 section 4.3) and keeps the other preferences. The first valid one counts (section 2);
/// invalid ones are removed as well.
pub fn take_prefer_wait(headers: &mut HeaderMap) -> Option<Duration> {
    if !headers.contains_key(PREFER) {
        return None;
    }
    let mut wait = None;
    let mut kept = Vec::new();
    for value in headers.get_all(PREFER) {
        let parts = split(value.as_bytes(), b',');
        let others: Vec<&[u8]> = parts
            .iter()
            .copied()
            .filter(|preference| match wait_preference(preference) {
                Some(seconds) => {
                    wait = wait.or(seconds);
                    false
                }
                None => true,
            })
            .collect();
        if others.len() == parts.len() {
            kept.push(value.clone());
        } else if others.iter().any(|part| !part.is_empty()) {
            kept.extend(HeaderValue::from_bytes(&others.join(&b", "[..])).ok());
        }
    }
    headers.remove(PREFER);
    for value in kept {
        headers.append(PREFER, value);
    }
    wait
}

/// `None` for any other preference, `Some(None)` for a wait that is invalid.
fn wait_preference(preference: &[u8]) -> Option<Option<Duration>> {
    let preference = split(preference, b';').first().copied()?;
    let (name, value) = match preference.iter().position(|&b| b == b'=') {
        Some(at) => (&preference[..at], &preference[at + 1..]),
        None => (preference, &b""[..]),
    };
    if !name.trim_ascii().eq_ignore_ascii_case(b"wait") {
        return None;
    }
    let value = value.trim_ascii();
    let value = value
        .strip_prefix(b"\"")
        .and_then(|v| v.strip_suffix(b"\""))
        .unwrap_or(value);
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    // Larger numbers are cut to 2^31, as RFC 9111 section 1.2.2 suggests.
    let seconds = std::str::from_utf8(value).ok().filter(|_| digits);
    Some(seconds.map(|text| Duration::from_secs(text.parse().unwrap_or(1 << 31).min(1 << 31))))
}

/// Splits outside of quoted strings (RFC 9110 section 5.6.4) and trims the parts.
fn split(value: &[u8], by: u8) -> Vec<&[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = value.split(|&b| {
        if escaped {
            escaped = false;
        } else if quoted && b == b'\\' {
            escaped = true;
        } else if b == b'"' {
            quoted = !quoted;
        }
        !quoted && b == by
    });
    parts.map(<[u8]>::trim_ascii).collect()
}

/// The longest request id of a caller's that is kept.
pub const MAX_REQUEST_ID: usize = 128;

/// Whether a caller's request id can be kept: short visible ASCII, without characters that break lists or logs.
pub fn sane_request_id(value: &HeaderValue) -> bool {
    let id = value.as_bytes();
    (1..=MAX_REQUEST_ID).contains(&id.len())
        && id
            .iter()
            .all(|b| b.is_ascii_graphic() && !b"\"',`\\".contains(b))
}

/// The caller's key: `Bearer KEY` (RFC 6750 section 2.1, the scheme in any case) or, as DevRev's SDK sends it, the bare key.
pub fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let value = value.as_bytes().trim_ascii();
    let key = match value.split_at_checked(6) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"bearer") => match rest {
            [] => return None,
            [b' ', ..] => rest.trim_ascii_start(),
            _ => value,
        },
        _ => value,
    };
    (!key.is_empty() && !key.iter().any(u8::is_ascii_whitespace)).then_some(key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn only_revgate_in_via_is_a_loop() {
        for (via, want) in [
            ("1.1 revgate", true),
            ("1.0 fred, 1.1 revgate", true),
            ("HTTP/1.1\tRevGate (x)", true),
            ("1.1 revgate.internal", false),
            ("1.1 proxy (revgate)", false),
            ("revgate", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(VIA, HeaderValue::from_static("1.1 other"));
            headers.append(VIA, HeaderValue::from_static(via));
            assert_eq!(is_loop(&headers), want, "{via}");
        }
    }

    #[test]
    fn who_takes_trailers() {
        for (te, want) in [
            (&["trailers"][..], true),
            (&["gzip;q=0.5", "deflate, Trailers"], true),
            (&["gzip", "x-trailers, trailers-x"], false),
            (&[""], false),
            (&[], false),
        ] {
            let fields: Vec<_> = te.iter().map(|value| ("te", *value)).collect();
            assert_eq!(takes_trailers(&with(&fields)), want, "{te:?}");
        }
    }

    #[test]
    fn a_request_loses_the_fields_of_its_connection() {
        let mut headers = with(&[
            ("connection", "close, X-Mine, content-length, authorization"),
            ("x-mine", "1"),
            ("content-length", "5"),
            ("authorization", "k"),
            ("host", "a"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("proxy-connection", "x"),
            ("x-forwarded-for", "1"),
            ("x_forwarded_for", "1"),
            ("x-real.ip", "1"),
            ("content_length", "7"),
            ("transfer.encoding", "chunked"),
            ("expect", "100-continue"),
            ("x-devrev-scope", "beta"),
            ("my_own", "1"),
            ("http2-settings", "x"),
        ]);
        strip_request(&mut headers);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "authorization",
                "content-length",
                "my_own",
                "x-devrev-scope"
            ]
        );
    }

    #[test]
    fn the_table_is_sorted() {
        assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
        let plain = |name: &str| {
            name.bytes()
                .all(|b| b.is_ascii_lowercase() || b == b'-' || b == b'2')
        };
        assert!(TABLE.iter().all(|(name, _)| plain(name)));
    }

    /// The names that go on, of those sent.
    fn forwarded(names: &[&str]) -> Vec<String> {
        let fields: Vec<_> = names.iter().map(|name| (*name, "1")).collect();
        let mut headers = with(&fields);
        strip_request(&mut headers);
        let mut left: Vec<_> = headers.keys().map(ToString::to_string).collect();
        left.sort_unstable();
        left
    }

    #[test]
    fn what_says_what_is_to_be_done_is_not_forwarded() {
        #[rustfmt::skip]
        let commands = [
            "X-Original-URL", "X-Rewrite-URL", "X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Original-Method",
            "X-Forwarded-Uri", "X-Forwarded-Path", "X-Forwarded-Prefix", "X-Forwarded-Method", "X-Forwarded-Host", "X-Forwarded",
            "X-Original-Uri", "X-Original-Host", "X-Host", "X-Envoy-Original-Path", "X-Accel-Redirect", "X-Override-URL", "Proxy",
            "X-Http_Method-Override", "x.original.url", "X_Rewrite_Url", "x_envoy_original_path",
        ];
        assert_eq!(forwarded(&commands), [""; 0]);
        #[rustfmt::skip]
        let others = ["override", "x-http", "x-method", "x-original", "x-original-request", "x-rewrite", "x-url"];
        assert_eq!(forwarded(&others), others);
        let mut headers = with(&[
            ("x-original-url", "/"),
            ("x_request_id", "1"),
            ("te", "1"),
            ("a", "1"),
        ]);
        let mut ignored = strip_request(&mut headers);
        ignored.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        assert_eq!(ignored, ["x-original-url", "x_request_id"]);
    }

    #[test]
    fn no_name_is_taken_for_one_of_ours() {
        #[rustfmt::skip]
        let folded = [
            "x_request_id", "X.Request.Id", "X-Request_Id", "Transfer_Encoding", "transfer.encoding", "content_length", "content~type",
            "content_encoding", "keep_alive", "proxy_connection", "x_forwarded_for", "x-forwarded_for", "x.real.ip", "accept_encoding",
            "x+request+id", "http2.settings", "idempotency_key", "sec_fetch_site", "www_authenticate", "x_devrev_scope", "http2'settings",
        ];
        assert_eq!(forwarded(&folded), [""; 0]);
        #[rustfmt::skip]
        let others = ["authorization_", "my_own", "request_id", "trace_parent", "x__request_id"];
        assert_eq!(forwarded(&others), others);
    }

    #[test]
    fn a_response_keeps_its_trailers_announcement() {
        let mut headers = with(&[
            ("connection", "x-mine, x-ratelimit-reset"),
            ("x-mine", "1"),
            ("x-ratelimit-reset", "1"),
            ("trailer", "x-sum"),
            ("keep-alive", "1"),
            ("server_timing", "1"),
        ]);
        strip_response(&mut headers);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["server_timing", "trailer", "x-ratelimit-reset"]);
    }

    #[test]
    fn only_the_wait_is_taken_out() {
        for (given, wait, left) in [
            (&["wait=10"][..], Some(10), &[][..]),
            (
                &["respond-async, WAIT=\"5\" ;x=1, foo=\"a, wait=3\""],
                Some(5),
                &["respond-async, foo=\"a, wait=3\""],
            ),
            (&["wait=x, wait=4", "a ,b"], Some(4), &["a ,b"]),
            (&["wait", "wait=-1"], None, &[]),
            (&["waiting=3"], None, &["waiting=3"]),
            (&["wait=99999999999999999999999"], Some(1 << 31), &[]),
        ] {
            let fields: Vec<_> = given.iter().map(|value| ("prefer", *value)).collect();
            let mut headers = with(&fields);
            assert_eq!(
                take_prefer_wait(&mut headers),
                wait.map(Duration::from_secs),
                "{given:?}"
            );
            assert!(headers.get_all("prefer").iter().eq(left), "{given:?}");
        }
    }

    #[test]
    fn keys_come_with_or_without_a_scheme() {
        let key = |text: &str| bearer(&HeaderValue::from_str(text).unwrap()).map(<[u8]>::to_vec);
        for text in ["Bearer k1", "bearer   k1", "k1"] {
            assert_eq!(key(text), Some(b"k1".to_vec()), "{text}");
        }
        assert_eq!(key("BearerX"), Some(b"BearerX".to_vec()));
        for text in ["", "Bearer", "Bearer ", "Basic k1", "Bearer k 1"] {
            assert_eq!(key(text), None, "{text}");
        }
    }

    #[test]
    fn request_ids_and_secrets() {
        let sane = |text: &str| sane_request_id(&HeaderValue::from_str(text).unwrap());
        assert!(sane("0af7-651916cd") && sane(&"a".repeat(128)));
        assert!(
            !sane("") && !sane("a b") && !sane("a,b") && !sane("\"a\"") && !sane(&"a".repeat(129))
        );
    }

    proptest! {
        /// To a back end that folds names, in whatever way, no field of a request but our own has the name of one of ours.
        #[test]
        fn folding_gives_no_field_a_name_of_ours(
            row in prop::sample::select(TABLE.to_vec()),
            marks in prop::collection::vec(prop::sample::select(b"-_.!#$%&'*+^`|~".to_vec()), 40),
            rest in "[a-z]{1,3}",
        ) {
            let name = match row.0.strip_suffix('-') {
                Some(_) => format!("{}{rest}", row.0),
                None => row.0.to_owned(),
            };
            let mut marks = marks.into_iter().map(char::from);
            let spelled: String = name.chars().map(|c| if c == '-' { marks.next().unwrap_or(c) } else { c }).collect();
            let mut headers = with(&[(&spelled, "1")]);
            strip_request(&mut headers);
            let stays = spelled == name && row.1 == EndToEnd;
            prop_assert_eq!(headers.contains_key(&spelled), stays, "{}", spelled);
        }

        #[test]
        fn stripping_twice_strips_no_more(
            fields in prop::collection::vec(("(connection|te|x_forwarded_for|content-length|prefer|[a-c._-]{1,3})",
                "[a-c,=\" ]{0,8}|wait=[0-9]{1,3}|content-length, a|connection, te"), 0..10),
        ) {
            let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            for strip in [|headers: &mut HeaderMap| { strip_request(headers); }, strip_response, |headers: &mut HeaderMap| { take_prefer_wait(headers); }] {
                let mut once = with(&fields);
                strip(&mut once);
                let mut twice = once.clone();
                strip(&mut twice);
                prop_assert_eq!(&once, &twice);
                prop_assert_eq!(once.contains_key("content-length"), with(&fields).contains_key("content-length"));
            }
        }
    }
}
