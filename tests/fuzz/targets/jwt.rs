//! Signed tokens and key sets. Their private keys are kept nowhere, so nobody can sign anything that the seeds do not hold.
#![no_main]

use std::{sync::LazyLock, time::Duration};

use libfuzzer_sys::fuzz_target;
use revgate::policy::jwt::{Expected, KeySet, Token, looks_like_jwt};

const SIGNED: [&str; 3] = [
    include_str!("../seeds/jwt/rs256"),
    include_str!("../seeds/jwt/es256"),
    include_str!("../seeds/jwt/eddsa"),
];

static KEYS: LazyLock<KeySet> =
    LazyLock::new(|| KeySet::parse(include_bytes!("jwt_keys.json")).expect("a key set"));

static EXPECTED: LazyLock<Expected> = LazyLock::new(|| Expected {
    issuer: "https://issuer.example".to_owned(),
    audience: "revgate".to_owned(),
});

/// What of a token its signature covers.
fn signed(token: &[u8]) -> Option<&[u8]> {
    let end = token.iter().rposition(|byte| *byte == b'.')?;
    token.get(..end)
}

fuzz_target!(|input: &[u8]| {
    // A key set is fetched from an issuer, which is trusted, and yet may answer anything.
    if let Ok(keys) = KeySet::parse(input) {
        assert!(keys.count() > 0);
    }
    let Ok(token) = Token::parse(input) else {
        return;
    };
    assert!(looks_like_jwt(input));
    for now in [
        Duration::ZERO,
        Duration::from_secs(1_800_000_000),
        Duration::MAX,
    ] {
        let subject = token.verify(&KEYS, &EXPECTED, now);
        let is_one_of_ours = SIGNED
            .iter()
            .any(|own| signed(own.as_bytes()) == signed(input));
        match subject {
            Ok(subject) => {
                assert!(
                    is_one_of_ours,
                    "verified: {}",
                    String::from_utf8_lossy(input)
                );
                assert_eq!(subject, "billing");
                assert!(now < Duration::from_secs(4_102_444_900));
            }
            Err(_) => {
                let is_exact = SIGNED.iter().any(|own| own.as_bytes() == input);
                assert!(!is_exact || now == Duration::MAX);
            }
        }
    }
});
