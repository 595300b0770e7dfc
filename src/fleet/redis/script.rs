//! The exchange: the one script that runs on the server. It knows nothing of quotas.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use bytes::{Bytes, BytesMut};
use redis::{Cmd, Value, cmd, pipe};

use super::{
    answer::{CallError, FOREIGN, TOO_LARGE},
    connection::Connection,
};
use crate::{
    fleet::register::{Exchanged, Found, Key, MAX_VALUE, Tag, Write},
    hash::hex,
};

/// The tag in hexadecimal digits, which stands before the value.
const TAG: usize = 16;

/// Arguments: the largest size; and to write, the tag that is expected (empty if there is none), the new text, its time to live in
/// milliseconds, and the hint. It answers with the server's time, and with the text that is there if it has not written.
const SCRIPT: &str = r"
if redis.call('STRLEN', KEYS[1]) > tonumber(ARGV[1]) then
  return redis.error_reply('REVGATE_TOO_LARGE the value is none of revgate')
end
local now = redis.call('TIME')
if ARGV[2] and redis.call('GETRANGE', KEYS[1], 0, 15) == ARGV[2] then
  redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
  if ARGV[5] ~= '' then redis.call('PUBLISH', KEYS[1], ARGV[5]) end
  return {now[1], now[2], 1}
end
return {now[1], now[2], 0, redis.call('GET', KEYS[1])}
";

/// What the script and the connection do, as part of an ACL rule. The whole rule, with the prefix "revgate", is `~revgate:* resetchannels
/// &revgate:*` and this: Redis 6.2 lets a user listen to all channels, and refuses a pattern beside that. HELLO needs no right. A database
/// that is named needs `+select` too.
#[cfg(test)]
pub(crate) const RIGHTS: &str =
    "+evalsha +eval +strlen +time +getrange +get +set +publish +subscribe +unsubscribe";

/// Whether the server is asked by the script's hash, or gets the script.
#[derive(Clone, Copy)]
enum Form {
    Hash,
    Text,
}

/// By which the server knows the script. It is a name and protects nothing.
fn script_hash() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, SCRIPT.as_bytes()).as_ref()))
}

fn command(form: Form, key: &str, write: Option<&Write>) -> Cmd {
    let mut command = match form {
        Form::Hash => cmd("EVALSHA"),
        Form::Text => cmd("EVAL"),
    };
    command.arg(match form {
        Form::Hash => script_hash(),
        Form::Text => SCRIPT,
    });
    command.arg(1).arg(key).arg(MAX_VALUE + TAG);
    if let Some(write) = write {
        let expected = write.over.map_or_else(String::new, digits);
        let mut text = BytesMut::with_capacity(TAG + write.value.len());
        text.extend_from_slice(digits(write.tag).as_bytes());
        text.extend_from_slice(&write.value);
        // A time to live of zero is no time to live.
        let keep = u64::try_from(write.keep.as_millis())
            .unwrap_or(u64::MAX >> 1)
            .max(1);
        command
            .arg(expected)
            .arg(&text[..])
            .arg(keep)
            .arg(&write.hint[..]);
    }
    command
}

/// One exchange: one round trip, or two if the server does not have the script. With `asking`, a node takes it for a slot that it is about
/// to get.
///
/// # Errors
/// A refusal, or that the connection broke. It waits for as long as the connection lives.
pub(super) async fn exchange(
    connection: &Connection,
    key: &Key,
    write: Option<&Write>,
    asking: bool,
) -> Result<Exchanged, CallError> {
    if write.is_some_and(|write| write.value.len() > MAX_VALUE) {
        return Err(CallError::refusal(TOO_LARGE));
    }
    let once = async |form| {
        let command = command(form, key, write);
        if !asking {
            return connection.call(&command).await;
        }
        let mut both = pipe();
        both.cmd("ASKING").add_command(command);
        match connection.call_all(&both).await?.pop() {
            Some(Value::ServerError(error)) => Err(error.into()),
            Some(value) => Ok(value),
            None => Err(not_an_answer()),
        }
    };
    let value = match once(Form::Hash).await {
        Err(error) if error.lacks_script() => once(Form::Text).await?,
        other => other?,
    };
    read(value)
}

fn not_an_answer() -> CallError {
    CallError::Broken(Arc::from("what came is no answer of the script"))
}

fn digits(tag: Tag) -> String {
    format!("{:016x}", tag.0)
}

pub(super) fn read(value: Value) -> Result<Exchanged, CallError> {
    let (now, current) = parts(value).ok_or_else(not_an_answer)?;
    let current = match current {
        None => return Ok(Exchanged::Written { now }),
        Some(None) => None,
        Some(Some(text)) => Some(split(text).ok_or_else(|| CallError::refusal(FOREIGN))?),
    };
    Ok(Exchanged::Found(Found { current, now }))
}

/// The time, and if nothing was written, what is there.
fn parts(value: Value) -> Option<(Duration, Option<Option<Bytes>>)> {
    let Value::Array(parts) = value else {
        return None;
    };
    let mut parts = parts.into_iter();
    let (seconds, micros) = (number(parts.next()?)?, number(parts.next()?)?);
    let now = Duration::from_secs(seconds).checked_add(Duration::from_micros(micros))?;
    let current = match (parts.next()?, parts.next()) {
        (Value::Int(1), None) => None,
        (Value::Int(0), None | Some(Value::Nil)) => Some(None),
        (Value::Int(0), Some(Value::BulkString(text))) => Some(Some(text.into())),
        _ => return None,
    };
    Some((now, current))
}

fn number(value: Value) -> Option<u64> {
    match value {
        Value::BulkString(digits) => std::str::from_utf8(&digits).ok()?.parse().ok(),
        _ => None,
    }
}

/// The tag and the value.
fn split(mut text: Bytes) -> Option<(Tag, Bytes)> {
    if text.len() < TAG {
        return None;
    }
    let value = text.split_off(TAG);
    let digits = std::str::from_utf8(&text).ok()?;
    // `from_str_radix` takes a sign too, and upper case, which would not compare as equal.
    if !digits
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    {
        return None;
    }
    Some((Tag(u64::from_str_radix(digits, 16).ok()?), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(parts: Vec<Value>) -> Value {
        let mut all = vec![
            Value::BulkString(b"1700000000".to_vec()),
            Value::BulkString(b"250000".to_vec()),
        ];
        all.extend(parts);
        Value::Array(all)
    }

    const NOW: Duration = Duration::from_micros(1_700_000_000_250_000);

    #[test]
    fn answers() {
        let written = read(answer(vec![Value::Int(1)]));
        assert!(matches!(written, Ok(Exchanged::Written { now }) if now == NOW));
        for nothing in [vec![Value::Int(0), Value::Nil], vec![Value::Int(0)]] {
            let Ok(Exchanged::Found(found)) = read(answer(nothing)) else {
                panic!("not found");
            };
            assert_eq!((found.current, found.now), (None, NOW));
        }
        let text = b"00000000000000ff\x00\r\n\xff".to_vec();
        let found = read(answer(vec![Value::Int(0), Value::BulkString(text)]));
        let Ok(Exchanged::Found(found)) = found else {
            panic!("{found:?}");
        };
        let value = Bytes::from_static(b"\x00\r\n\xff");
        assert_eq!(found.current, Some((Tag(255), value)));
    }

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn what_is_no_answer() {
        for value in [
            Value::Nil,
            Value::Okay,
            Value::Array(Vec::new()),
            Value::Array(vec![Value::Int(1), Value::Int(2), Value::Int(1)]),
            Value::Array(vec![text("-1"), text("2"), Value::Int(1)]),
            Value::Array(vec![
                text("18446744073709551615"),
                text("1000000"),
                Value::Int(1),
            ]),
            answer(vec![]),
            answer(vec![Value::Int(2)]),
            answer(vec![Value::Int(1), text("x")]),
            answer(vec![Value::Int(0), Value::Okay]),
        ] {
            let error = read(value.clone()).unwrap_err();
            assert!(
                matches!(error, CallError::Broken(_)),
                "{value:?}: {error:?}"
            );
        }
    }

    #[test]
    fn a_value_of_others() {
        for foreign in [
            "",
            "short",
            "+000000000000000",
            "00000000000000FF",
            "ääääääää",
        ] {
            let error = read(answer(vec![Value::Int(0), text(foreign)])).unwrap_err();
            assert!(error.concerns_one_key(), "{foreign}: {error:?}");
        }
    }

    #[test]
    fn a_tag_has_as_many_digits_as_the_script_compares() {
        assert_eq!(digits(Tag(0)).len(), TAG);
        assert_eq!(digits(Tag(u64::MAX)).len(), TAG);
        assert!(SCRIPT.contains(&format!("0, {}", TAG - 1)));
        assert!(SCRIPT.contains(TOO_LARGE));
    }
}
