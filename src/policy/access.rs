//! Which operations a caller may use: those that an `allow` pattern matches and no `deny` pattern does.
//!
//! ```
//! use revgate::policy::access::Access;
//!
//! let access = Access::new(&["works.*".into()], &["works.delete".into()]);
//! assert!(access.permits("works.list"));
//! assert!(!access.permits("works.delete"), "deny wins");
//! assert!(!access.permits("worksheets.list"), "the dot belongs to the pattern");
//! ```

use std::fmt;

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

    fn matches(&self, operation: &str) -> bool {
        match self {
            Pattern::Any => true,
            Pattern::Prefix(prefix) => operation.starts_with(prefix.as_str()),
            Pattern::Exact(name) => operation == name,
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
    /// No `allow` pattern matches it.
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

    /// Whether the operation, in its normalised spelling, may be called. `deny` wins. It also matches each segment of a path, so
    /// that a server which finds operations below another path, or at the start of one, is no way around it.
    pub fn permits(&self, operation: &str) -> bool {
        matches!(self.decide(operation), Decision::Allowed(_))
    }

    /// Like [`permits`](Self::permits), with the pattern that decides.
    pub fn decide(&self, operation: &str) -> Decision<'_> {
        let denies =
            |p: &Pattern| p.matches(operation) || operation.split('/').any(|s| p.matches(s));
        let denied = self.deny.iter().find(|p| denies(p));
        let allowed = self.allow.iter().find(|p| p.matches(operation));
        match (denied, allowed) {
            (Some(pattern), _) => Decision::Denied(pattern),
            (None, Some(pattern)) => Decision::Allowed(pattern),
            (None, None) => Decision::NotAllowed,
        }
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
    use super::*;

    fn access(allow: &[&str], deny: &[&str]) -> Access {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        Access::new(&owned(allow), &owned(deny))
    }

    #[test]
    fn deny_wins_over_allow() {
        let access = access(&["*"], &["auth-tokens.*"]);
        assert!(access.permits("works.list"));
        assert!(!access.permits("auth-tokens.create"));
    }

    #[test]
    fn deny_matches_every_segment_of_a_path_and_allow_the_whole() {
        let denied = access(&["*"], &["auth-tokens.create"]);
        assert!(!denied.permits("internal/auth-tokens.create"));
        assert!(!denied.permits("auth-tokens.create/x"));
        assert!(denied.permits("internal/auth-tokens.list"));
        assert!(!access(&["works.list"], &[]).permits("internal/works.list"));
    }

    #[test]
    fn a_prefix_ends_at_its_dot() {
        let access = access(&["works.*"], &[]);
        assert!(access.permits("works.list"));
        assert!(!access.permits("works"));
        assert!(!access.permits("worksheets.list"));
    }

    #[test]
    fn an_empty_list_allows_nothing() {
        assert!(!access(&[], &[]).permits("works.list"));
    }

    #[test]
    fn patterns_are_compared_in_lower_case() {
        assert!(!access(&["*"], &["Works.List"]).permits("works.list"));
    }
}
