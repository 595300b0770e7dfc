//! Which operations a caller may use: what some `allow` pattern covers and no `deny` pattern does.
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
    /// `works.*`, kept with its dot, so that `works.*` does not take in `worksheets.list`.
    Prefix(String),
    /// `works.list`
    Exact(String),
}

impl Pattern {
    fn parse(text: &str) -> Pattern {
        // Operations are compared in lower case, so a pattern must be too, or a deny would never bite.
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
    /// No `allow` pattern takes it in.
    NotAllowed,
}

/// What a caller may do: everything some `allow` pattern takes in and no `deny` pattern does.
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

    /// Whether the operation, in its normalised spelling, may be called. `deny` wins, and holds for each segment of a path
    /// too: what serves an operation under a further path, or looks at the start of one, must not be a way round it.
    pub fn permits(&self, operation: &str) -> bool {
        matches!(self.decide(operation), Decision::Allowed(_))
    }

    /// The same, and by which pattern.
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

    /// Whether the pattern that decided stands in this one's list as well.
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
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        Access::new(&own(allow), &own(deny))
    }

    #[test]
    fn deny_wins_over_allow() {
        let access = access(&["*"], &["auth-tokens.*"]);
        assert!(access.permits("works.list"));
        assert!(!access.permits("auth-tokens.create"));
    }

    #[test]
    fn deny_holds_under_further_paths_and_allow_does_not() {
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
    fn nothing_is_allowed_by_an_empty_list() {
        assert!(!access(&[], &[]).permits("works.list"));
    }

    #[test]
    fn patterns_are_compared_in_lower_case() {
        assert!(!access(&["*"], &["Works.List"]).permits("works.list"));
    }
}
