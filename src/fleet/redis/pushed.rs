//! What a server sends by itself.

use std::sync::Arc;

use bytes::Bytes;
use redis::{PushInfo, PushKind, Value};

use super::connection::OnPush;
use crate::fleet::hints::Hints;

/// Passes on what was published.
pub(super) fn to(hints: &Arc<Hints>) -> OnPush {
    let hints = hints.clone();
    Arc::new(move |push| {
        if let Some((channel, text)) = message(push) {
            hints.hear(&channel, text);
        }
    })
}

/// The channel and the text of what was published. `None` of anything else, such as the confirmation that a channel is listened to.
pub(super) fn message(push: PushInfo) -> Option<(String, Bytes)> {
    if !matches!(push.kind, PushKind::Message | PushKind::SMessage) {
        return None;
    }
    let mut data = push.data.into_iter();
    match (data.next(), data.next()) {
        (Some(Value::BulkString(channel)), Some(Value::BulkString(text))) => {
            Some((String::from_utf8(channel).ok()?, text.into()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_published_is_a_message() {
        let text = |text: &[u8]| Value::BulkString(text.to_vec());
        let of = |kind, data| message(PushInfo { kind, data });
        let (channel, sent) = of(PushKind::Message, vec![text(b"a"), text(b"\xff")]).unwrap();
        assert_eq!((&*channel, &sent[..]), ("a", &b"\xff"[..]));
        for (kind, data) in [
            (PushKind::Subscribe, vec![text(b"a"), Value::Int(1)]),
            (PushKind::Message, vec![text(b"a"), Value::Int(1)]),
            (PushKind::Message, vec![text(b"\xff"), text(b"x")]),
            (PushKind::Message, vec![text(b"a")]),
        ] {
            assert_eq!(of(kind.clone(), data.clone()), None, "{kind:?} {data:?}");
        }
    }
}
