//! Which operations a caller may use: those that `allow` patterns match in every reading of the path, and no `deny` pattern in any.
//!
//! ```
//! use revgate::policy::{access::Access, operation::Operation};
//!
//! let access = Access::new(&["works.*".into()], &["works.delete".into()]);
//! let permits = |path: &str| access.permits(&Operation::from_path(path));
//! assert!(permits("/works.list"));
//! assert!(!permits("/works.delete"), "deny wins");
//! assert!(!permits("/worksheets.list"), "the dot belongs to the pattern");
//! assert!(!permits("/works.x/accounts.delete"), "a pattern ends with its segment");
//! assert!(!permits("/works.list%23/accounts.delete"), "some server does not end the path there");
//! ```

use std::fmt;

use super::operation::Operation;

/// One pattern of an `allow` or `deny` list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// `*`
    Any,
    /// `works.*`, kept with its dot, so that it does not match `worksheets.list`.
    Prefix(String),
    /// `works.list`
    Exact(String),
}

impl Pattern {
    fn parse(text: &str) -> Pattern {
        // Operations are compared in lower case. A `deny` pattern in upper case would never match.
        let text = text.trim().trim_matches('/').to_ascii_lowercase();
        if text == "*" {
            return Pattern::Any;
        }
        match text.strip_suffix('*') {
            Some(prefix) if prefix.ends_with('.') => Pattern::Prefix(prefix.to_owned()),
            _ => Pattern::Exact(text),
        }
    }

    /// Whether these segments begin with it; if so, what follows. It has as many segments as it is written with: `works.*` does not
    /// reach beyond a slash.
    fn strip<'a, I: Iterator<Item = &'a str>>(&self, mut segments: I) -> Option<I> {
        let (text, prefix) = match self {
            Pattern::Any => return Some(segments),
            Pattern::Prefix(text) => (text, true),
            Pattern::Exact(text) => (text, false),
        };
        let mut parts = text.split('/').peekable();
        while let Some(part) = parts.next() {
            let segment = segments.next()?;
            let fits = match prefix && parts.peek().is_none() {
                true => segment.starts_with(part),
                false => segment == part,
            };
            if !fits {
                return None;
            }
        }
        Some(segments)
    }

    /// Whether it names all of these segments.
    fn matches<'a>(&self, segments: impl Iterator<Item = &'a str>) -> bool {
        let rest = self.strip(segments);
        rest.is_some_and(|mut rest| *self == Pattern::Any || rest.next().is_none())
    }

    /// Whether it names some of them, one after another.
    fn is_within<'a>(&self, mut segments: impl Iterator<Item = &'a str> + Clone) -> bool {
        if *self == Pattern::Any {
            return true;
        }
        loop {
            if self.strip(segments.clone()).is_some() {
                return true;
            }
            if segments.next().is_none() {
                return false;
            }
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::Any => f.write_str("*"),
            Pattern::Prefix(prefix) => write!(f, "{prefix}*"),
            Pattern::Exact(name) => f.write_str(name),
        }
    }
}

/// What decided whether an operation may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    Allowed(&'a Pattern),
    Denied(&'a Pattern),
    /// No `allow` pattern matches it, or some reading of it.
    NotAllowed,
}

/// The `allow` and `deny` patterns of a caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    allow: Vec<Pattern>,
    deny: Vec<Pattern>,
}

impl Access {
    /// Patterns are `*`, `works.*` (a prefix, its dot included) or a whole name.
    pub fn new(allow: &[String], deny: &[String]) -> Access {
        let parse = |patterns: &[String]| patterns.iter().map(|p| Pattern::parse(p)).collect();
        Access {
            allow: parse(allow),
            deny: parse(deny),
        }
    }

    /// Whether the operation may be called. `deny` wins. It matches in any reading of the path, and within it, so that
    /// a server which finds operations below another path, or at the start of one, is no way around it. `allow` must match each
    /// reading as a whole.
    pub fn permits(&self, operation: &Operation) -> bool {
        matches!(self.decide(operation), Decision::Allowed(_))
    }

    /// Like [`permits`](Self::permits), with the pattern that decides.
    pub fn decide(&self, operation: &Operation) -> Decision<'_> {
        let Ok(readings) = operation.readings() else {
            return Decision::NotAllowed;
        };
        let denied = self
            .deny
            .iter()
            .find(|pattern| pattern.is_within(readings.segments()));
        if let Some(pattern) = denied {
            return Decision::Denied(pattern);
        }
        let mut first = None;
        for whole in readings.wholes() {
            let mut allow = self.allow.iter();
            match allow.find(|pattern| pattern.matches(whole.segments())) {
                None => return Decision::NotAllowed,
                Some(pattern) => first = first.or(Some(pattern)),
            }
        }
        first.map_or(Decision::NotAllowed, Decision::Allowed)
    }

    /// Whether the pattern that decided is in these lists too.
    pub fn shares(&self, decision: Decision<'_>) -> bool {
        match decision {
            Decision::Allowed(pattern) => self.allow.contains(pattern),
            Decision::Denied(pattern) => self.deny.contains(pattern),
            Decision::NotAllowed => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::operation::spellings::{path, server};

    fn access(allow: &[&str], deny: &[&str]) -> Access {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        Access::new(&owned(allow), &owned(deny))
    }

    impl Access {
        fn permits_path(&self, path: &str) -> bool {
            self.permits(&Operation::from_path(path))
        }
    }

    #[test]
    fn deny_wins_over_allow() {
        let access = access(&["*"], &["auth-tokens.*"]);
        assert!(access.permits_path("/works.list"));
        assert!(!access.permits_path("/auth-tokens.create"));
    }

    #[test]
    fn deny_matches_every_segment_of_a_path_and_allow_the_whole() {
        let denied = access(&["*"], &["auth-tokens.create"]);
        assert!(!denied.permits_path("/internal/auth-tokens.create"));
        assert!(!denied.permits_path("/auth-tokens.create/x"));
        assert!(denied.permits_path("/internal/auth-tokens.list"));
        assert!(!access(&["works.list"], &[]).permits_path("/internal/works.list"));
    }

    #[test]
    fn a_prefix_ends_at_its_dot() {
        let access = access(&["works.*"], &[]);
        assert!(access.permits_path("/works.list"));
        assert!(!access.permits_path("/works"));
        assert!(!access.permits_path("/worksheets.list"));
    }

    #[test]
    fn an_empty_list_allows_nothing() {
        assert!(!access(&[], &[]).permits_path("/works.list"));
    }

    #[test]
    fn patterns_are_compared_in_lower_case() {
        assert!(!access(&["*"], &["Works.List"]).permits_path("/works.list"));
    }

    #[test]
    fn a_path_is_denied_in_any_reading() {
        let access = access(
            &["*"],
            &["auth-tokens.create", "snap-ins.*", "v2/works.get"],
        );
        #[rustfmt::skip]
        let denied = [
            "/internal%3f/auth-tokens.create", "/works.list%23/auth-tokens.create", "/works.list%2523/auth-tokens.create",
            "/works.list%253f%2fauth-tokens.create", "/works.list;/auth-tokens.create", "/works.list%3b%2fauth-tokens.create",
            "/x\\auth-tokens.create", "/x%5cauth-tokens.create", "/auth-tokens.create%3fx", "/auth-tokens.create%23",
            "/auth-tokens.create;a=b/c", "/auth-tokens.create%20/", "/auth-tokens.create.", "/a%3fb/auth-tokens.create%23c",
            "/auth-to%e2%84%aaens.create", "/auth-tokens%ef%bc%8ecreate", "/%41uth-tokens.create", "/%25252541",
            "/auth-tokens.create%20HTTP/1.1", "/x=auth-tokens.create&y", "/(auth-tokens.create)", "/internal/snap-ins.update", "/v2/works.get", "/x/v2//works.get", "/v2%2fworks.get;x", "/x;v2;works.get",
        ];
        for path in denied {
            assert!(!access.permits_path(path), "{path}");
        }
        #[rustfmt::skip]
        let permitted = [
            "/works.list", "/internal/works.list", "/auth-tokens.info", "/auth-tokens.creates", "/x-auth-tokens.create", "/works.get",
            "/v2/works.list", "/snap-ins", "/rev-users.link",
        ];
        for path in permitted {
            assert!(access.permits_path(path), "{path}");
        }
    }

    #[test]
    fn all_is_all_in_any_reading() {
        assert!(access(&["*"], &[]).permits_path("/works.x/y%3fz"));
        assert!(!access(&["*"], &["*"]).permits_path("/works.list"));
    }

    #[test]
    fn a_path_is_allowed_in_all_readings_only() {
        let access = access(
            &[
                "works.*",
                "parts.get",
                "internal/search.hybrid",
                "v2/parts.*",
            ],
            &[],
        );
        #[rustfmt::skip]
        let allowed = [
            "/works.list", "/works.list/", "//works.list", "/Works.LIST", "/works%2elist", "/works.list;v=1", "/works.a%20b", "/parts.get",
            "/%70arts.get", "/internal/search.hybrid", "/internal%2fsearch.hybrid", "/v2/parts.list",
        ];
        for path in allowed {
            assert!(access.permits_path(path), "{path}");
        }
        #[rustfmt::skip]
        let refused = [
            "/works.x/accounts.delete", "/works.x%2faccounts.delete", "/works.x\\accounts.delete", "/works.x%5caccounts.delete",
            "/works.x%3f/accounts.delete", "/works.x%23/accounts.delete", "/works.x;/accounts.delete", "/accounts.delete%3fworks.x",
            "/accounts.delete/works.x", "/works.x%253f/accounts.delete", "/parts.get;v=1", "/parts.get%3fx", "/parts.get%20x", "/parts.get:x", "/parts%252eget",
            "/internal/search.hybrid/x", "/internal;x/search.hybrid", "/v2/parts.x/accounts.delete", "/works", "/", "",
            // Not every server takes them for a slash, a full stop and a k.
            "/%ef%bc%8fworks.list", "/works%ef%bc%8elist", "/wor%e2%84%aas.list", "/%25ef%25bc%258fworks.list",
        ];
        for path in refused {
            assert!(!access.permits_path(path), "{path}");
        }
    }

    proptest! {
        /// Whatever server reads whatever path: what it takes for the operation is not a denied one, and is one that is allowed.
        #[test]
        fn no_server_finds_what_is_not_permitted(path in path("auth-tokens.create"), server in server()) {
            let Some(read) = server.read(&path) else { return Ok(()) };
            let deny = access(&["*"], &["auth-tokens.create"]);
            if deny.permits_path(&path) {
                prop_assert_ne!(&read, "auth-tokens.create", "{:?} {:?}", path, server);
            }
        }

        #[test]
        fn every_server_finds_what_is_allowed(path in path("works.list"), server in server()) {
            // A server that looks at one segment alone is told from the path by the operator, who writes it as a whole.
            let mut server = server;
            server.segment = None;
            // And an escape that is not decoded is no letter of another operation.
            server.before = server.before.max(1);
            let Some(read) = server.read(&path) else { return Ok(()) };
            if access(&["works.*"], &[]).permits_path(&path) {
                let read = read.trim_matches('/');
                prop_assert!(read.starts_with("works.") && !read.contains('/'), "{read:?} {:?} {:?}", path, server);
            }
        }
    }
}
