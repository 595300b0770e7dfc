//! For fuzzing: all that is read of what a server sends.

use redis::{PushInfo, PushKind, Value, parse_redis_value};

use super::{
    address::Address,
    answer::CallError,
    cluster::slots::{Redirect, SlotMap, slot_of},
    facts::{Memory, Server, text},
    pushed, script, sentinel,
};
use crate::fleet::hints::Hints;

/// Reads this as the answer to everything that is asked of a server. Gives all texts that could get into a log or to a terminal by it.
pub fn texts(bytes: &[u8], asked: &Address) -> Vec<String> {
    let value = match parse_redis_value(bytes) {
        Ok(value) => value,
        Err(error) => return vec![CallError::from(error).failure().to_string()],
    };
    let mut texts = Vec::new();
    if let Value::ServerError(error) = &value {
        let error = CallError::from(error.clone());
        texts.push(error.failure().to_string());
        if let CallError::Refusal(refusal) = &error {
            match Redirect::of(refusal, asked) {
                Some(Redirect::Moved(slot, to)) => {
                    let mut map = SlotMap::default();
                    map.moved(slot, to.clone());
                    assert_eq!(map.owner(slot), Some(&to));
                    texts.push(to.to_string());
                }
                Some(Redirect::Ask(to)) => texts.push(to.to_string()),
                None => {}
            }
        }
    }
    if let Err(error) = script::read(value.clone()) {
        texts.push(error.failure().to_string());
    }
    if let Some(map) = SlotMap::read(&value, asked) {
        let slot = slot_of("revgate:v1:{main}");
        texts.extend(map.owner(slot).map(ToString::to_string));
        texts.extend(map.nodes().iter().map(ToString::to_string));
    }
    texts.extend(sentinel::named(&value).map(|address| address.to_string()));
    let _ = sentinel::is_primary(&value);
    let server = Server::of(&value);
    let _ = server.is_old();
    texts.push(server.to_string());
    if let Some(Memory::Bounded { policy, .. }) = text(&value).map(Memory::of) {
        texts.push(policy);
    }
    if let Value::Array(data) | Value::Push { data, .. } = value {
        let hints = Hints::new();
        hints.want(&"revgate:v1:{main}".into(), true);
        let kind = PushKind::Message;
        if let Some((channel, text)) = pushed::message(PushInfo { kind, data }) {
            hints.hear(&channel, text);
        }
    }
    texts
}
