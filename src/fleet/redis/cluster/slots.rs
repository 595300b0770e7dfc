//! Which node of a cluster has which key, as the nodes say it.

use std::collections::BTreeMap;

use crc::{CRC_16_XMODEM, Crc};
use redis::Value;

use crate::fleet::redis::{address::Address, announced::announced, answer::Refusal};

/// Each key is in one of so many slots, and each slot belongs to one node.
const SLOTS: u16 = 16_384;

/// Nodes that are told of: as many as a cluster may have, by its makers. A server that names more is none of a cluster.
const MAX_NODES: usize = 1000;

/// The slot of a key: that of its hash tag, which stands between its first `{` and the next `}`, and of all of it if it has none.
pub(in crate::fleet::redis) fn slot_of(key: &str) -> u16 {
    const CRC: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);
    let tag = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'));
    let hashed = match tag {
        Some((tag, _)) if !tag.is_empty() => tag,
        _ => key,
    };
    CRC.checksum(hashed.as_bytes()) % SLOTS
}

/// Who has which slot.
#[derive(Clone, Debug, Default)]
pub(in crate::fleet::redis) struct SlotMap {
    /// By the last slot of a range: its first one, and the primary.
    ranges: BTreeMap<u16, (u16, Address)>,
    /// What single refusals have told since.
    moved: BTreeMap<u16, Address>,
    /// All nodes with slots and their replicas.
    nodes: Vec<Address>,
}

impl SlotMap {
    /// Reads the answer of CLUSTER SLOTS. `None` if it is none, or names no owner of any slot.
    pub(in crate::fleet::redis) fn read(answer: &Value, asked: &Address) -> Option<SlotMap> {
        let mut map = SlotMap::default();
        let Value::Array(ranges) = answer else {
            return None;
        };
        for range in ranges {
            let Value::Array(range) = range else {
                return None;
            };
            let [Value::Int(first), Value::Int(last), nodes @ ..] = range.as_slice() else {
                return None;
            };
            let (first, last) = (slot(*first)?, slot(*last)?);
            for (position, node) in nodes.iter().enumerate() {
                let Some(address) = node_of(node, asked) else {
                    continue;
                };
                // The primary comes first, then its replicas.
                if position == 0 {
                    map.ranges.insert(last, (first, address.clone()));
                }
                map.remember(address);
            }
        }
        (!map.ranges.is_empty()).then_some(map)
    }

    pub(in crate::fleet::redis) fn owner(&self, slot: u16) -> Option<&Address> {
        let ranged = || {
            let (_, (first, owner)) = self.ranges.range(slot..).next()?;
            (*first <= slot).then_some(owner)
        };
        self.moved.get(&slot).or_else(ranged)
    }

    /// A node has said that this one has the slot.
    pub(in crate::fleet::redis) fn moved(&mut self, slot: u16, to: Address) {
        self.remember(to.clone());
        self.moved.insert(slot, to);
    }

    fn remember(&mut self, node: Address) {
        if self.nodes.len() < MAX_NODES && !self.nodes.contains(&node) {
            self.nodes.push(node);
        }
    }

    /// All nodes that are known.
    pub(in crate::fleet::redis) fn nodes(&self) -> &[Address] {
        &self.nodes
    }
}

fn slot(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|slot| *slot < SLOTS)
}

/// A node in the answer of CLUSTER SLOTS: its host, its port, and more.
fn node_of(node: &Value, asked: &Address) -> Option<Address> {
    let Value::Array(node) = node else {
        return None;
    };
    let [host, Value::Int(port), ..] = node.as_slice() else {
        return None;
    };
    let host = match host {
        Value::Nil => "",
        Value::BulkString(host) => str::from_utf8(host).ok()?,
        Value::SimpleString(host) => host,
        _ => return None,
    };
    announced(host, u16::try_from(*port).ok()?, Some(asked))
}

/// Where a refusal sends us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::fleet::redis) enum Redirect {
    /// The slot belongs to this node.
    Moved(u16, Address),
    /// The slot is on its way to this node: this once, ask there, and say ASKING.
    Ask(Address),
}

impl Redirect {
    pub(in crate::fleet::redis) fn of(refusal: &Refusal, asked: &Address) -> Option<Redirect> {
        let moved = match &*refusal.code {
            "MOVED" => true,
            "ASK" => false,
            _ => return None,
        };
        let mut words = refusal.detail.split_ascii_whitespace();
        let slot = slot(words.next()?.parse().ok()?)?;
        // An IPv6 address has colons too, and no brackets.
        let (host, port) = words.next()?.rsplit_once(':')?;
        let address = announced(host, port.parse().ok()?, Some(asked))?;
        Some(match moved {
            true => Redirect::Moved(slot, address),
            false => Redirect::Ask(address),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, port: u16) -> Address {
        Address::Tcp {
            host: host.into(),
            port,
        }
    }

    fn node(host: Value, port: i64) -> Value {
        let name = Value::BulkString(b"name".to_vec());
        Value::Array(vec![host, Value::Int(port), name, Value::Array(Vec::new())])
    }

    fn host(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn range(first: i64, last: i64, nodes: Vec<Value>) -> Value {
        let mut range = vec![Value::Int(first), Value::Int(last)];
        range.extend(nodes);
        Value::Array(range)
    }

    #[test]
    fn slots_of_keys() {
        // The check value of the specification, and keys with and without a tag.
        for (key, like) in [
            ("123456789", "{123456789}"),
            ("revgate:v1:{abc}", "abc"),
            ("revgate:v1:{abc}:more", "{abc}{def}"),
        ] {
            assert_eq!(slot_of(key), slot_of(like), "{key}");
        }
        assert_eq!(slot_of("123456789"), 0x31c3 % SLOTS);
        assert_ne!(slot_of("{}abc"), slot_of("abc"));
        assert_ne!(slot_of("{abc"), slot_of("abc"));
    }

    #[test]
    fn owners() {
        let asked = at("seed", 1);
        let answer = Value::Array(vec![
            range(
                0,
                99,
                vec![node(host("10.0.0.1"), 7), node(host("10.0.0.2"), 7)],
            ),
            range(100, 100, vec![node(host(""), 8), node(host("?"), 8)]),
            range(
                200,
                16_383,
                vec![node(Value::Nil, 9), node(host("0.0.0.0"), 10)],
            ),
            // Nobody knows where its primary is.
            range(
                150,
                160,
                vec![node(host("?"), 7), node(host("10.0.0.3"), 7)],
            ),
        ]);
        let mut map = SlotMap::read(&answer, &asked).expect("a map");
        for (slot, owner) in [
            (0, Some(at("10.0.0.1", 7))),
            (99, Some(at("10.0.0.1", 7))),
            (100, Some(at("seed", 8))),
            (101, None),
            (155, None),
            (199, None),
            (200, Some(at("seed", 9))),
            (16_383, Some(at("seed", 9))),
        ] {
            assert_eq!(map.owner(slot), owner.as_ref(), "{slot}");
        }
        assert_eq!(map.nodes().len(), 6);
        map.moved(99, at("new", 7));
        assert_eq!(map.owner(99), Some(&at("new", 7)));
        assert_eq!(map.owner(98), Some(&at("10.0.0.1", 7)));
        assert_eq!(map.nodes().len(), 7);
    }

    #[test]
    fn nodes_are_bounded() {
        let asked = at("seed", 1);
        let nodes = (1..2000).map(|port| node(host("a"), port)).collect();
        let answer = Value::Array(vec![range(0, 1, nodes)]);
        let mut map = SlotMap::read(&answer, &asked).expect("a map");
        map.moved(1, at("b", 1));
        assert_eq!(map.nodes().len(), MAX_NODES);
        assert_eq!(map.owner(1), Some(&at("b", 1)));
    }

    #[test]
    fn what_is_no_map() {
        let asked = at("seed", 1);
        for answer in [
            Value::Nil,
            Value::Array(Vec::new()),
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![range(0, 16_384, vec![node(host("a"), 1)])]),
            Value::Array(vec![range(-1, 1, vec![node(host("a"), 1)])]),
            Value::Array(vec![range(0, 1, Vec::new())]),
            Value::Array(vec![range(0, 1, vec![node(host("a"), 0)])]),
            Value::Array(vec![range(0, 1, vec![node(host("a"), 65_536)])]),
            Value::Array(vec![range(0, 1, vec![node(host("a b"), 1)])]),
        ] {
            assert!(SlotMap::read(&answer, &asked).is_none(), "{answer:?}");
        }
    }

    #[test]
    fn redirects() {
        let asked = at("seed", 1);
        for (text, want) in [
            (
                "MOVED 3999 127.0.0.1:6381",
                Some(Redirect::Moved(3999, at("127.0.0.1", 6381))),
            ),
            (
                "ASK 3999 127.0.0.1:6381",
                Some(Redirect::Ask(at("127.0.0.1", 6381))),
            ),
            (
                "MOVED 1 ::1:6381",
                Some(Redirect::Moved(1, at("::1", 6381))),
            ),
            (
                "MOVED 1 node-1.example.com:6381",
                Some(Redirect::Moved(1, at("node-1.example.com", 6381))),
            ),
            ("MOVED 1 :6381", Some(Redirect::Moved(1, at("seed", 6381)))),
            ("MOVED 1 ?:6381", None),
            ("MOVED 16384 a:6381", None),
            ("MOVED 1 a:0", None),
            ("MOVED 1 a", None),
            ("MOVED 1", None),
            ("MOVED", None),
            ("TRYAGAIN 1 a:1", None),
        ] {
            let (code, detail) = text.split_once(' ').unwrap_or((text, ""));
            let refusal = Refusal {
                code: code.into(),
                detail: detail.into(),
            };
            assert_eq!(Redirect::of(&refusal, &asked), want, "{text}");
        }
    }
}
