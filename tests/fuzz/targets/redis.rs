//! What a Redis server sends, or whoever pretends to be one, is read as the answer to all that is asked: the exchange, Sentinel, a cluster's map and
//! redirections, INFO, HELLO, hints. Whatever comes, what is said of it is short and plain, and does not repeat it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use revgate::{fuzzing::texts, policy::redis_address::Address};

/// A host, its port and what is around them.
const LONGEST: usize = 400;

fuzz_target!(|bytes: &[u8]| {
    let asked = Address::Tcp {
        host: "10.0.0.1".into(),
        port: 6379,
    };
    for text in texts(bytes, &asked) {
        assert!(text.len() <= LONGEST, "{text}");
        assert!(
            text.chars().all(|c| c.is_ascii_graphic() || c == ' '),
            "{text:?}"
        );
    }
    // A server may repeat what it was sent.
    let refusal = [b"-ERR unknown command 's3cr3t', ", bytes, b"\r\n"].concat();
    for text in texts(&refusal, &asked) {
        assert!(!text.contains("s3cr3t"), "{text}");
    }
});
