//! Plans of faults: which request gets which fault.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::config::{self, Origin, Problem, excerpt};

/// Rules in order. The first that is due takes the request, and later rules neither see nor count it. A delay does not take the
/// request: it is added to what later rules do.
///
/// In a file: TOML `[[rule]]` tables, or a JSON array of rules, or JSON `{"rule": […]}`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultPlan {
    #[serde(default, rename = "rule", alias = "rules")]
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// An operation such as `rev-users.link`, or `*`.
    #[serde(default = "any")]
    pub operation: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The token of a request, without `Bearer`; any by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// How many matching requests pass before the rule applies.
    #[serde(default)]
    pub skip: u64,
    /// How many requests it takes then; all by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// Of the requests after those that pass, one in so many, beginning with the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<NonZeroU64>,
    pub fault: Fault,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Another answer than the operation's.
    Status(Status),
    /// A delay before the answer's head.
    Delay(TextDuration),
    /// A TCP reset in place of an answer.
    Reset,
    /// A TCP reset after half the body.
    ResetMidBody,
    /// Half of the announced body, then an orderly close.
    Truncate,
    /// No answer, and the connection stays open.
    Hang,
    /// The body a few bytes at a time.
    Drip(Drip),
    /// An orderly close in place of an answer.
    Close,
    /// Bytes that are not HTTP.
    Garbage,
    /// A 101 without an upgrade request.
    #[serde(rename = "unasked_101")]
    Unasked101,
    /// An answer with both Content-Length and Transfer-Encoding.
    BothLengths,
    /// A whole answer, then a close without `Connection: close`.
    CloseAfter,
    /// An answer before the request's body was read.
    EarlyAnswer,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    #[serde(deserialize_with = "final_status")]
    pub code: u16,
    #[serde(default, deserialize_with = "header_fields")]
    pub headers: BTreeMap<String, String>,
    /// A string is sent as text, anything else as JSON. By default an error in DevRev's shape.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<serde_json::Value>,
    /// Whole seconds, in the header and, unless `body` is given, in the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drip {
    #[serde(default = "one")]
    pub bytes: usize,
    pub pause: TextDuration,
}

/// A duration written `"250ms"`, `"2s"`, `"5m"` or `"1h"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextDuration(pub Duration);

impl Status {
    pub fn new(code: u16) -> Self {
        Self {
            code,
            headers: BTreeMap::new(),
            body: None,
            retry_after: None,
        }
    }
}

impl Rule {
    pub fn new(operation: &str, fault: Fault) -> Self {
        Self {
            operation: operation.to_owned(),
            method: None,
            token: None,
            skip: 0,
            times: None,
            every: None,
            fault,
        }
    }

    #[must_use]
    pub fn skip(mut self, skip: u64) -> Self {
        self.skip = skip;
        self
    }

    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// One request in `n`; every request for 0.
    #[must_use]
    pub fn every(mut self, n: u64) -> Self {
        self.every = NonZeroU64::new(n);
        self
    }

    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        self.method = Some(method.to_owned());
        self
    }

    /// Whether it applies to the request that is number `seen` of those that match, from 1.
    fn is_due(&self, seen: u64) -> bool {
        let Some(after) = seen.checked_sub(self.skip.saturating_add(1)) else {
            return false;
        };
        let every = self.every.map_or(1, NonZeroU64::get);
        after.is_multiple_of(every) && self.times.is_none_or(|times| after / every < times)
    }

    fn matches(&self, method: &str, operation: &str, token: Option<&[u8]>) -> bool {
        (self.operation == "*" || self.operation == operation)
            && self
                .token
                .as_ref()
                .is_none_or(|wanted| token == Some(wanted.as_bytes()))
            && self
                .method
                .as_ref()
                .is_none_or(|wanted| wanted.eq_ignore_ascii_case(method))
    }
}

impl FaultPlan {
    pub fn none() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn with(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// # Errors
    /// What is wrong, and where in the text.
    pub fn parse(text: &str) -> Result<Self, PlanError> {
        match text.trim_start().split_at_checked(1) {
            Some(("{", _)) => Ok(serde_json::from_str(text)?),
            // A TOML table begins with a bracket too, and a name or another bracket.
            Some(("[", rest)) if rest.trim_start().starts_with(['{', ']']) => {
                let rules = serde_json::from_str(text)?;
                Ok(Self { rules })
            }
            _ => toml::from_str(text).map_err(|error| PlanError::of_toml(text, &error)),
        }
    }

    /// # Errors
    /// What is wrong with the file, and where in it.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let file = path.display();
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("--plan {file} cannot be read"))?;
        Self::parse(&text).map_err(|error| anyhow::anyhow!("{}", error.within(&text, path)))
    }
}

/// What is wrong with a plan.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct PlanError {
    reason: String,
    /// Octets of the text.
    at: Option<Range<usize>>,
    /// As JSON's parser has it: both from 1.
    line_and_column: Option<(usize, usize)>,
}

impl PlanError {
    fn of_toml(text: &str, error: &toml::de::Error) -> PlanError {
        PlanError {
            reason: error.message().to_owned(),
            at: excerpt::within(text, error.span()),
            line_and_column: None,
        }
    }

    /// In the same form as a problem of the configuration. A plan holds no secrets, so that the line is shown as it is.
    fn within(&self, text: &str, file: &Path) -> Problem {
        let at = self.at.clone().or_else(|| {
            let (line, column) = self.line_and_column?;
            let before = text.split_inclusive('\n').take(line.checked_sub(1)?);
            let start = before.map(str::len).sum::<usize>() + column.saturating_sub(1);
            excerpt::within(text, Some(start..start + 1))
        });
        let position = at.as_ref().map(|at| excerpt::position(text, at.start));
        Problem {
            origin: Origin::File {
                file: Some(file.into()),
                position,
            },
            excerpt: at.and_then(|at| excerpt::plain(text, &at)),
            ..Problem::new("", &self.reason)
        }
    }
}

impl From<serde_json::Error> for PlanError {
    fn from(error: serde_json::Error) -> PlanError {
        let (line, column) = (error.line(), error.column());
        let text = error.to_string();
        let place = format!(" at line {line} column {column}");
        PlanError {
            reason: text.strip_suffix(&place).unwrap_or(&text).to_owned(),
            at: None,
            line_and_column: (line > 0).then_some((line, column)),
        }
    }
}

/// A plan and how many requests each of its rules has seen.
#[derive(Debug, Default)]
pub(super) struct Progress {
    rules: Vec<(Rule, u64)>,
}

impl Progress {
    pub(super) fn new(plan: FaultPlan) -> Self {
        Self {
            rules: plan.rules.into_iter().map(|rule| (rule, 0)).collect(),
        }
    }

    pub(super) fn plan(&self) -> FaultPlan {
        FaultPlan {
            rules: self.rules.iter().map(|(rule, _)| rule.clone()).collect(),
        }
    }

    /// The delay and the fault that are due for this request.
    pub(super) fn next(
        &mut self,
        method: &str,
        operation: &str,
        token: Option<&[u8]>,
    ) -> (Duration, Option<Fault>) {
        let mut delay = Duration::ZERO;
        for (rule, seen) in &mut self.rules {
            if !rule.matches(method, operation, token) {
                continue;
            }
            *seen += 1;
            if !rule.is_due(*seen) {
                continue;
            }
            match &rule.fault {
                Fault::Delay(span) => delay += span.0,
                fault => return (delay, Some(fault.clone())),
            }
        }
        (delay, None)
    }
}

fn final_status<'de, D: Deserializer<'de>>(input: D) -> Result<u16, D::Error> {
    let code = u16::deserialize(input)?;
    match code {
        200..=599 => Ok(code),
        _ => Err(D::Error::custom(format!(
            "{code} is not a final status; write 200 to 599"
        ))),
    }
}

fn header_fields<'de, D: Deserializer<'de>>(
    input: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let fields = BTreeMap::<String, String>::deserialize(input)?;
    let is_bad = |(name, value): &(&String, &String)| {
        name.parse::<http::HeaderName>().is_err() || value.parse::<http::HeaderValue>().is_err()
    };
    match fields.iter().find(is_bad) {
        Some((name, value)) => Err(D::Error::custom(format!(
            "{name:?} with {value:?} cannot be sent as a header"
        ))),
        None => Ok(fields),
    }
}

fn any() -> String {
    "*".to_owned()
}

fn one() -> usize {
    1
}

impl Serialize for TextDuration {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(&format_args!("{}ms", self.0.as_millis()))
    }
}

impl<'de> Deserialize<'de> for TextDuration {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        config::duration(&text).map(Self).ok_or_else(|| {
            let why = format!("{text:?} is not a duration; write it as \"250ms\" or \"2s\"");
            D::Error::custom(why)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_and_json_say_the_same() {
        let toml = r#"
            [[rule]]
            operation = "rev-users.link"
            times = 2
            fault = { status = { code = 503, retry_after = 1 } }
            [[rule]]
            fault = { delay = "250ms" }
            [[rule]]
            skip = 1
            fault = "reset_mid_body"
        "#;
        let json = r#"[
            {"operation":"rev-users.link","times":2,"fault":{"status":{"code":503,"retry_after":1}}},
            {"fault":{"delay":"250ms"}},
            {"skip":1,"fault":"reset_mid_body"}]"#;
        let plan = FaultPlan::parse(toml).unwrap();
        assert_eq!(plan, FaultPlan::parse(json).unwrap());
        let again = serde_json::to_string(&plan).unwrap();
        assert_eq!(plan, FaultPlan::parse(&again).unwrap());
        for bad in [
            r#"[{"fault":"no_such"}]"#,
            r#"[{"fault":{"delay":"soon"}}]"#,
            r#"[{"fault":"reset","tims":1}]"#,
            r#"[{"fault":{"status":{"code":42}}}]"#,
            r#"[{"fault":{"status":{"code":503,"headers":{"a b":"c"}}}}]"#,
        ] {
            assert!(FaultPlan::parse(bad).is_err(), "{bad}");
        }
    }

    /// The beginning of what is said, and the line with the mark.
    #[test]
    fn a_plan_that_cannot_be_used_says_where() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plan");
        for (text, place, says, mark) in [
            (
                "[[rule]]\nfault = \"reset\n",
                ":2:15: ",
                "invalid basic string",
                "2 | fault = \"reset\n  |               ^",
            ),
            (
                "[[rule]]\nfault = \"reset\"\ntims = 1\n",
                ":3:1: ",
                "unknown field `tims`, expected one of",
                "3 | tims = 1\n  | ^^^^",
            ),
            (
                "[[rule]]\nfault = \"rest\"\n",
                ":2:9: ",
                "unknown variant `rest`, expected one of",
                "^",
            ),
            (
                "[[rule]]\nfault = { delay = \"soon\" }\n",
                ":2:9: ",
                "\"soon\" is not a duration; write",
                "^",
            ),
            (
                "[[rule]]\nfault = { status = { code = 42 } }\n",
                ":2:29: ",
                "42 is not a final status; write 200 to 599",
                "^^",
            ),
            ("[[rules]\n", ":1:9: ", "unclosed array table", "^"),
            (
                "[rule]\nskip = 1\n",
                ":1:1: ",
                "invalid type: map, expected a sequence",
                "^",
            ),
            (
                "[\n {\"fault\": \"reset\", \"tims\": 1}\n]",
                ":2:26: ",
                "unknown field `tims`",
                "^",
            ),
            (
                "[{\"fault\": {\"status\": {\"code\": 42}}}]",
                ":1:",
                "42 is not a final status",
                "^",
            ),
            ("{\"rule\": [", ":1:10: ", "EOF while parsing a list", "^"),
        ] {
            std::fs::write(&file, text).unwrap();
            let said = format!("{:#}", FaultPlan::load(&file).unwrap_err());
            let begins = format!("{}{place}", file.display());
            assert!(said.starts_with(&begins), "{text}\n{said}");
            assert!(
                said.contains(says) && said.ends_with(mark),
                "{text}\n{said}"
            );
        }
        let missing = FaultPlan::load(&folder.path().join("none")).unwrap_err();
        assert!(
            format!("{missing:#}").contains("none cannot be read: No such file"),
            "{missing:#}"
        );
        std::fs::write(&file, b"\xff").unwrap();
        let text = FaultPlan::load(&file).unwrap_err();
        assert!(format!("{text:#}").contains("UTF-8"), "{text:#}");
    }

    #[test]
    fn rules_are_taken_in_order_skipping_and_counting() {
        let second = TextDuration(Duration::from_secs(1));
        let mut progress = Progress::new(
            FaultPlan::none()
                .with(Rule::new("*", Fault::Delay(second)).times(1))
                .with(Rule::new("works.list", Fault::Reset).skip(1).times(1))
                .with(Rule::new("works.list", Fault::Hang).method("post")),
        );
        let zero = Duration::ZERO;
        assert_eq!(progress.next("GET", "works.list", None), (second.0, None));
        assert_eq!(
            progress.next("GET", "works.list", None),
            (zero, Some(Fault::Reset))
        );
        assert_eq!(progress.next("GET", "works.list", None), (zero, None));
        assert_eq!(
            progress.next("POST", "works.list", None),
            (zero, Some(Fault::Hang))
        );
        assert_eq!(progress.next("POST", "other", None), (zero, None));
    }
    #[test]
    fn a_rule_takes_so_many_one_in_so_many_and_those_of_one_token() {
        let taken = |rule: Rule| {
            let mut progress = Progress::new(FaultPlan::none().with(rule));
            let tokens = ["a", "b"].into_iter().cycle().take(10);
            let taken = tokens.enumerate().filter_map(|(number, token)| {
                let (_, fault) = progress.next("GET", "works.list", Some(token.as_bytes()));
                fault.map(|_| number)
            });
            taken.collect::<Vec<_>>()
        };
        let reset = || Rule::new("*", Fault::Reset);
        assert_eq!(taken(reset().every(3)), [0, 3, 6, 9]);
        assert_eq!(taken(reset().every(3).times(2)), [0, 3]);
        assert_eq!(taken(reset().every(3).skip(2)), [2, 5, 8]);
        assert_eq!(taken(reset().skip(4).times(2)), [4, 5]);
        assert_eq!(taken(reset().every(0).times(0)), [0; 0]);
        assert_eq!(
            taken(Rule {
                token: Some("b".into()),
                ..reset().every(2)
            }),
            [1, 5, 9]
        );
        let far = reset().skip(u64::MAX).times(u64::MAX);
        assert_eq!(taken(far), [0; 0]);
    }
}
