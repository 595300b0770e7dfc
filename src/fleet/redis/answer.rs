//! What a server's refusal means, and what is said of it.
//!
//! A server may repeat what it was sent, as with a command that it does not know: also a password. So only words of ours are said, and
//! the code that the refusal begins with.

use std::sync::Arc;

use redis::{ErrorKind, RedisError, ServerError};

use crate::fleet::register::{Failure, Fault};

/// Why a call has no result.
#[derive(Clone, Debug)]
pub(crate) enum CallError {
    /// The server said so. The connection can be used further.
    Refusal(Refusal),
    /// There is no connection any more.
    Broken(Arc<str>),
    TimedOut,
    /// There is none, for this reason.
    Down(Arc<str>),
}

/// An error that a server answered with.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub code: Arc<str>,
    /// The rest of it, which is never shown.
    pub detail: Arc<str>,
}

impl From<ServerError> for CallError {
    fn from(error: ServerError) -> Self {
        CallError::Refusal(Refusal {
            code: error.code().into(),
            detail: error.details().unwrap_or_default().into(),
        })
    }
}

/// The longest code that is said; Redis' own are shorter.
const MAX_CODE: usize = 20;

/// Codes of refusals, what each means, and what is said.
#[rustfmt::skip]
const CODES: &[(&str, Fault, &str)] = &[
    ("READONLY", Fault::NotWritable, "it is a replica and takes no writes"),
    ("LOADING", Fault::NotWritable, "it is still loading its data"),
    ("MASTERDOWN", Fault::NotWritable, "it is a replica that has lost its primary"),
    ("CLUSTERDOWN", Fault::NotWritable, "its cluster does not serve all slots"),
    ("TRYAGAIN", Fault::NotWritable, "the slot of the key is being moved to another node"),
    ("MOVED", Fault::NotWritable, "it is a node of a cluster and the key is on another; write redis+cluster:// in shared.redis"),
    ("ASK", Fault::NotWritable, "it is a node of a cluster and the key is on its way to another; write redis+cluster:// in shared.redis"),
    ("NOREPLICAS", Fault::NotWritable, "it has fewer replicas than min-replicas-to-write"),
    ("OOM", Fault::Refused, "its memory is used up (maxmemory)"),
    ("MISCONF", Fault::Refused, "it cannot save its data to disk and takes no writes meanwhile"),
    ("BUSY", Fault::Refused, "it is busy with a script of someone else"),
    ("NOSCRIPT", Fault::Refused, "it does not keep the script"),
    ("WRONGTYPE", Fault::Refused, "the key holds something else than a text"),
    (TOO_LARGE, Fault::Refused, "the key holds a value that is too large to be ours"),
    (FOREIGN, Fault::Refused, "the key holds a text that is none of ours"),
    ("NOPERM", Fault::Denied, "the user may not do this; see the rights that it needs"),
    ("NOAUTH", Fault::Denied, "it wants a user and a password"),
    ("WRONGPASS", Fault::Denied, "user or password is wrong, or the user is disabled"),
];

/// The code with which the script refuses a value that it does not want to read.
pub(super) const TOO_LARGE: &str = "REVGATE_TOO_LARGE";

/// What is said of a value without a tag.
pub(super) const FOREIGN: &str = "REVGATE_FOREIGN";

/// What concerns one key, while others may be in order.
const OF_ONE_KEY: &[&str] = &["WRONGTYPE", TOO_LARGE, FOREIGN];

fn known(code: &str) -> Option<&'static (&'static str, Fault, &'static str)> {
    CODES.iter().find(|(known, ..)| *known == code)
}

/// How servers say NOPERM where they have no code for it: in a script, by Redis 7 and by Redis 6; and when a library passes on no code.
const NO_RIGHT: &[&str] = &[
    "ACL failure in script",
    "The user executing the script can't",
    "has no permissions to",
];

fn lacks_a_right(detail: &str) -> bool {
    NO_RIGHT.iter().any(|words| detail.contains(words))
}

/// The code of a refusal. A script's refusals are wrapped by old servers: the code then stands in their text.
fn code_of(refusal: &Refusal) -> &str {
    if known(&refusal.code).is_some() {
        return &refusal.code;
    }
    if lacks_a_right(&refusal.detail) {
        return "NOPERM";
    }
    let mut words = refusal.detail.split([' ', '-', ':']);
    words
        .find(|word| known(word).is_some())
        .unwrap_or(&refusal.code)
}

/// Only what a code looks like: anything else may be part of what was sent.
fn shown(code: &str) -> &str {
    let looks = |c: char| c.is_ascii_uppercase() || c == '_';
    match code.len() <= MAX_CODE && code.chars().all(looks) {
        true => code,
        false => "no code",
    }
}

impl CallError {
    /// Whether only this key is concerned, so that others may go on.
    pub(super) fn concerns_one_key(&self) -> bool {
        matches!(self, CallError::Refusal(refusal) if OF_ONE_KEY.contains(&code_of(refusal)))
    }

    /// Whether another node of a cluster is to be asked.
    pub(super) fn is_redirection(&self) -> bool {
        let codes = ["MOVED", "ASK", "TRYAGAIN"];
        matches!(self, CallError::Refusal(refusal) if codes.contains(&code_of(refusal)))
    }

    /// A refusal of our own.
    pub(super) fn refusal(code: &str) -> CallError {
        CallError::Refusal(Refusal {
            code: code.into(),
            detail: Arc::default(),
        })
    }

    /// Whether the server does not have the script.
    pub(super) fn lacks_script(&self) -> bool {
        matches!(self, CallError::Refusal(refusal) if &*refusal.code == "NOSCRIPT")
    }

    pub(super) fn failure(&self) -> Failure {
        match self {
            CallError::TimedOut => Failure::new(Fault::TimedOut, "no answer within shared.timeout"),
            CallError::Broken(reason) => Failure::new(Fault::Broken, reason.clone()),
            CallError::Down(reason) => Failure::new(Fault::Down, reason.clone()),
            CallError::Refusal(refusal) => {
                let code = code_of(refusal);
                match known(code) {
                    Some((code, fault, meaning)) => {
                        Failure::new(*fault, format!("{meaning} ({code})"))
                    }
                    None => Failure::new(
                        Fault::Refused,
                        format!("it refused the command ({})", shown(code)),
                    ),
                }
            }
        }
    }
}

impl From<RedisError> for CallError {
    fn from(error: RedisError) -> Self {
        match error.code() {
            Some(code) => CallError::Refusal(Refusal {
                code: code.into(),
                detail: error.detail().unwrap_or_default().into(),
            }),
            None => CallError::Broken(broken(&error).into()),
        }
    }
}

/// What is said of a connection that broke. The text of an error of the parser quotes what came, which may be a value or a password.
pub(super) fn broken(error: &RedisError) -> String {
    match error.kind() {
        ErrorKind::Io => format!("the connection broke: {error}"),
        ErrorKind::Parse => "what came is no answer of Redis, or half of one".to_owned(),
        _ => "the connection broke".to_owned(),
    }
}

/// What is said when the server did not take HELLO with user and password, or SELECT.
pub(super) fn of_login(error: &RedisError) -> Failure {
    let kind = error.kind();
    if matches!(kind, ErrorKind::Io | ErrorKind::Parse) {
        return Failure::new(Fault::Broken, broken(error));
    }
    if kind == ErrorKind::RESP3NotSupported {
        let text = "it does not know RESP3 (HELLO 3); Redis 6.2 or Valkey is needed";
        return Failure::new(Fault::Refused, text);
    }
    if kind == ErrorKind::AuthenticationFailed {
        return Failure::new(Fault::Denied, "it does not accept user and password");
    }
    let code = match lacks_a_right(error.detail().unwrap_or_default()) {
        true => Some("NOPERM"),
        false => error.code(),
    };
    match code.and_then(known) {
        Some((code, fault, meaning)) => Failure::new(*fault, format!("{meaning} ({code})")),
        None => Failure::new(Fault::Refused, "it refused the login (HELLO, SELECT)"),
    }
}

#[cfg(test)]
mod tests {
    use redis::{Value, parse_redis_value};

    use super::*;

    fn refusal(text: &str) -> CallError {
        match parse_redis_value(format!("-{text}\r\n").as_bytes()) {
            Ok(Value::ServerError(error)) => error.into(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn refusals() {
        for (text, fault, shown) in [
            (
                "READONLY You can't write against a read only replica.",
                Fault::NotWritable,
                "READONLY",
            ),
            (
                "LOADING Redis is loading the dataset in memory",
                Fault::NotWritable,
                "LOADING",
            ),
            (
                "MASTERDOWN Link with MASTER is down",
                Fault::NotWritable,
                "MASTERDOWN",
            ),
            (
                "CLUSTERDOWN The cluster is down",
                Fault::NotWritable,
                "CLUSTERDOWN",
            ),
            ("TRYAGAIN Multiple keys", Fault::NotWritable, "TRYAGAIN"),
            (
                "MOVED 3999 127.0.0.1:6381",
                Fault::NotWritable,
                "redis+cluster",
            ),
            (
                "ASK 3999 127.0.0.1:6381",
                Fault::NotWritable,
                "redis+cluster",
            ),
            (
                "NOREPLICAS Not enough good replicas to write.",
                Fault::NotWritable,
                "min-replicas",
            ),
            (
                "OOM command not allowed when used memory > 'maxmemory'.",
                Fault::Refused,
                "maxmemory",
            ),
            (
                "MISCONF Redis is configured to save RDB snapshots",
                Fault::Refused,
                "MISCONF",
            ),
            (
                "BUSY Redis is busy running a script.",
                Fault::Refused,
                "BUSY",
            ),
            ("NOSCRIPT No matching script.", Fault::Refused, "NOSCRIPT"),
            (
                "WRONGTYPE Operation against a key",
                Fault::Refused,
                "WRONGTYPE",
            ),
            (
                "NOPERM User x has no permissions to run the 'eval' command",
                Fault::Denied,
                "NOPERM",
            ),
            ("NOAUTH Authentication required.", Fault::Denied, "NOAUTH"),
            (
                "WRONGPASS invalid username-password pair or user is disabled.",
                Fault::Denied,
                "WRONGPASS",
            ),
            (
                "ERR ACL failure in script: User x has no permissions to run the 'set' command",
                Fault::Denied,
                "NOPERM",
            ),
            (
                "ERR Error running script (call to f_1): @user_script:2: The user executing the script can't run this command or subcommand",
                Fault::Denied,
                "NOPERM",
            ),
            // As Redis 6 wraps what a script's commands refuse.
            (
                "ERR Error running script (call to f_1): @user_script:2: -OOM command not allowed",
                Fault::Refused,
                "OOM",
            ),
            (
                "ERR Error running script (call to f_1): @user_script:2: -READONLY You can't",
                Fault::NotWritable,
                "READONLY",
            ),
            ("ERR something new", Fault::Refused, "(ERR)"),
            ("NEWCODE something new", Fault::Refused, "(NEWCODE)"),
        ] {
            let failure = refusal(text).failure();
            assert_eq!(failure.fault, fault, "{text}");
            assert!(failure.reason.contains(shown), "{text}: {failure}");
        }
    }

    #[test]
    fn what_was_sent_is_never_said() {
        for text in [
            "ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'u' 's3cr3t'",
            "s3cr3t",
            "S3CR3TS3CR3TS3CR3TS3CR3TS3CR3T",
        ] {
            let failure = refusal(text).failure();
            assert!(
                !failure.reason.to_lowercase().contains("s3cr3t"),
                "{failure}"
            );
        }
    }

    #[test]
    fn one_key_is_not_the_register() {
        for (text, want) in [
            ("WRONGTYPE x", true),
            ("REVGATE_TOO_LARGE x", true),
            ("OOM x", false),
        ] {
            assert_eq!(refusal(text).concerns_one_key(), want, "{text}");
        }
        assert!(refusal("NOSCRIPT x").lacks_script());
        assert!(!CallError::TimedOut.concerns_one_key());
    }
}
