//! Targets of requests, against servers that read them in ways of their own: none finds an operation that its caller may not use, nor a
//! callback with a token, nor a write that would be repeated. The first three bytes choose the server. In what follows, a byte beyond
//! ASCII stands for a piece of a path.
#![no_main]

mod servers;

use std::sync::LazyLock;

use http::{HeaderMap, HeaderValue, Method, Uri, Version, header::HOST};
use libfuzzer_sys::fuzz_target;
use revgate::policy::{access::Access, operation::Operation, target};

use self::servers::Server;

const PIECES: &[&str] = &[
    "auth-tokens.create",
    "keyrings.authorize",
    "works.create",
    "works.list",
    "internal",
    "accounts.delete",
    "/",
    "%2f",
    "%252f",
    "%25252f",
    "%5c",
    "%255c",
    "\\",
    "%3f",
    "%253f",
    "%23",
    "%2523",
    ";",
    "%3b",
    "%253b",
    "%2e",
    "%252e",
    ".",
    "%20",
    "%2520",
    "%3a",
    ":",
    "%26",
    "&",
    "%25",
    "%61",
    "%2561",
    "%252561",
    "A",
    "%41",
    "auth-tokens",
    "%2ecreate",
    "\u{212a}",
    "%e2%84%aa",
    "%ef%bc%8e",
    "%c0%af",
    "%u002f",
    "%0a",
    "%00",
    "%7f",
    "..",
    "a=b",
    "works.",
    "list",
    "_",
    "-",
    "%5f",
    "%2d",
    "%c4%b0",
    "%c5%bf",
    "%ef%bc%8f",
    "%e2%88%95",
];

static DENY: LazyLock<Access> =
    LazyLock::new(|| Access::new(&["*".into()], &["auth-tokens.create".into()]));

static ALLOW: LazyLock<Access> = LazyLock::new(|| Access::new(&["works.*".into()], &[]));

fn spelled(bytes: &[u8]) -> Vec<u8> {
    let spell = |byte: &u8| match byte.checked_sub(128) {
        Some(piece) => PIECES
            .get(usize::from(piece))
            .map_or(vec![*byte], |piece| piece.as_bytes().to_vec()),
        None => vec![*byte],
    };
    bytes.iter().flat_map(spell).collect()
}

fuzz_target!(|input: &[u8]| {
    let Some((bits, path)) = input.split_first_chunk() else {
        return;
    };
    let Ok(uri) = Uri::try_from([b"/", &*spelled(path)].concat()) else {
        return;
    };
    let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("gateway"))]);
    if target::check(&Method::POST, &uri, Version::HTTP_11, &headers).is_err() {
        return;
    }
    let path = uri.path();
    let operation = Operation::from_path(path);
    if operation.fault().is_some() {
        assert!(!operation.takes_credential() && !operation.is_read(&Method::GET));
        assert!(!DENY.permits(&operation) && !ALLOW.permits(&operation));
        return;
    }
    let server = Server::of(*bits);
    let read = server.read(path);
    match read.as_deref() {
        Some("auth-tokens.create") => assert!(!DENY.permits(&operation), "{path} {server:?}"),
        Some("keyrings.authorize") => {
            assert!(!operation.takes_credential(), "{path} {server:?}");
            assert!(!operation.is_read(&Method::GET), "{path} {server:?}");
        }
        Some("works.create") => {
            assert!(operation.id().is_known(), "{path} {server:?}");
            assert!(!operation.is_read(&Method::GET), "{path} {server:?}");
        }
        _ => {}
    }
    // An operator writes a path as a whole, so a server that looks at one segment alone is no fault of `allow`.
    if ALLOW.permits(&operation) {
        let server = Server::of_wholes(*bits);
        let read = server.read(path).expect("it is not empty");
        assert!(
            read.starts_with("works.") && !read.trim_matches('/').contains('/'),
            "{path} {server:?}"
        );
    }
    // The name is one spelling: its operation is the same.
    let again = Operation::from_path(operation.name());
    if again.fault().is_none() {
        assert_eq!(again.name(), operation.name());
    }
});
