use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::json;

use super::{
    signer::{Signer, base64, header, hmac_token, key_set},
    *,
};
use crate::label::assert_labels;

const NOW: Duration = Duration::from_secs(1_700_000_000);
const GOOD: &str =
    r#"{"iss":"https://issuer","aud":"revgate","sub":"billing","exp":1700000100,"nbf":1699999900}"#;

static RSA: LazyLock<Signer> = LazyLock::new(Signer::rsa);
static OTHER: LazyLock<Signer> = LazyLock::new(Signer::rsa);
static EC: LazyLock<Signer> = LazyLock::new(|| Signer::ec("P-256"));

fn expected() -> Expected {
    Expected {
        issuer: "https://issuer".into(),
        audience: "revgate".into(),
    }
}

fn keys(keys: &[Value]) -> KeySet {
    KeySet::parse(key_set(keys).as_bytes()).unwrap()
}

/// The RSA key as "a", the EC key as "b".
fn two() -> KeySet {
    keys(&[RSA.jwk(json!({"kid": "a"})), EC.jwk(json!({"kid": "b"}))])
}

fn check(token: &str, keys: &KeySet) -> Result<String, Fault> {
    let token = Token::parse(token.as_bytes())?;
    let subject = token.verify(keys, &expected(), NOW)?;
    Ok(subject.to_owned())
}

/// A token of the RSA key with these claims.
fn rsa_token(claims: &str) -> String {
    RSA.token(&header("RS256", "a"), claims)
}

/// `GOOD` with a claim replaced, or taken out by `null`.
fn claims(name: &str, value: Value) -> String {
    let mut claims: Map<String, Value> = serde_json::from_str(GOOD).unwrap();
    claims.insert(name.to_owned(), value);
    claims.retain(|_, value| !value.is_null());
    Value::from(claims).to_string()
}

#[test]
fn faults_are_called_as_the_documents_call_them() {
    assert_labels!(Fault: "jwt_too_large" "jwt_malformed" "jwt_critical" "jwt_algorithm" "jwt_no_keys" "jwt_unknown_kid"
        "jwt_bad_signature" "jwt_wrong_issuer" "jwt_wrong_audience" "jwt_no_expiry" "jwt_expired" "jwt_not_yet_valid"
        "jwt_unknown_subject");
}

#[test]
fn a_good_token_gives_its_subject_for_every_algorithm() {
    for (signer, algorithms) in [
        (
            Signer::rsa(),
            &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"][..],
        ),
        (Signer::ec("P-256"), &["ES256"]),
        (Signer::ec("P-384"), &["ES384"]),
        (Signer::ec("P-521"), &["ES512"]),
        (Signer::ed25519(), &["EdDSA", "Ed25519"]),
    ] {
        let open = keys(&[signer.jwk(json!({"kid": "a"}))]);
        for alg in algorithms {
            let token = signer.token(&header(alg, "a"), GOOD);
            assert!(looks_like_jwt(token.as_bytes()));
            assert_eq!(check(&token, &open).as_deref(), Ok("billing"), "{alg}");
            // The key's own `alg` admits this one and no other.
            let pinned = keys(&[signer.jwk(json!({"kid": "a", "alg": alg, "use": "sig"}))]);
            assert_eq!(check(&token, &pinned).as_deref(), Ok("billing"), "{alg}");
            for other in algorithms.iter().filter(|other| *other != alg) {
                let token = signer.token(&header(other, "a"), GOOD);
                if *other != "Ed25519" && *other != "EdDSA" {
                    assert_eq!(check(&token, &pinned), Err(Fault::Algorithm), "{other}");
                }
            }
        }
    }
}

#[test]
fn every_bad_claim_has_its_fault() {
    let times = |name: &'static str, value: f64| (name, json!(value));
    let now = NOW.as_secs_f64();
    let table = [
        (("iss", json!("https://other")), Fault::WrongIssuer),
        (("iss", json!("https://issuer/")), Fault::WrongIssuer),
        (("iss", json!(null)), Fault::WrongIssuer),
        (("iss", json!(["https://issuer"])), Fault::Malformed),
        (("aud", json!("Revgate")), Fault::WrongAudience),
        (("aud", json!(["a", "b"])), Fault::WrongAudience),
        (("aud", json!([])), Fault::WrongAudience),
        (("aud", json!(null)), Fault::WrongAudience),
        (("aud", json!(["revgate", 7])), Fault::Malformed),
        (("aud", json!({"revgate": true})), Fault::Malformed),
        (times("exp", now - 30.0), Fault::Expired),
        (times("exp", now - 1e300), Fault::Expired),
        (times("exp", 0.0), Fault::Expired),
        (("exp", json!(-1)), Fault::Expired),
        (("exp", json!(i64::MIN)), Fault::Expired),
        (("exp", json!(null)), Fault::NoExpiry),
        (("exp", json!("1700000100")), Fault::Malformed),
        (("exp", json!({})), Fault::Malformed),
        (times("nbf", now + 30.5), Fault::NotYetValid),
        (times("nbf", 1e300), Fault::NotYetValid),
        (("nbf", json!(u64::MAX)), Fault::NotYetValid),
        (("nbf", json!("0")), Fault::Malformed),
        (("sub", json!(7)), Fault::Malformed),
    ];
    for ((name, value), want) in table {
        let claims = claims(name, value);
        let token = rsa_token(&claims);
        assert_eq!(check(&token, &two()), Err(want), "{claims}");
    }
}

#[test]
fn unusual_claims_are_accepted() {
    let now = NOW.as_secs_f64();
    for (name, value) in [
        ("aud", json!(["other", "revgate"])),
        ("aud", json!(["revgate"])),
        ("exp", json!(now - 29.5)),
        ("exp", json!(now + 0.5)),
        ("exp", json!(u64::MAX)),
        ("exp", json!(1e300)),
        ("nbf", json!(now + 29.5)),
        ("nbf", json!(null)),
        ("nbf", json!(-1e300)),
        ("groups", json!([{"deep": [1, 2]}])),
    ] {
        let claims = claims(name, value);
        let token = rsa_token(&claims);
        assert_eq!(check(&token, &two()).as_deref(), Ok("billing"), "{claims}");
    }
    // Too large for a float, so it is no number.
    let claims = GOOD.replace("1700000100", "1e999");
    let token = rsa_token(&claims);
    assert_eq!(check(&token, &two()), Err(Fault::Malformed));
    // A token without a subject is good, and its subject is empty.
    let claims = GOOD.replace("\"sub\":\"billing\",", "");
    let token = rsa_token(&claims);
    assert_eq!(check(&token, &two()).as_deref(), Ok(""));
}

#[test]
fn a_claim_given_twice_counts_once_and_the_same_for_every_check() {
    let claims = GOOD.replace("{", r#"{"sub":"admin","exp":9999999999,"#);
    let token = rsa_token(&claims);
    assert_eq!(check(&token, &two()).as_deref(), Ok("billing"));
    let claims = GOOD.replace("}", r#","exp":1}"#);
    let token = rsa_token(&claims);
    assert_eq!(check(&token, &two()), Err(Fault::Expired));
}

#[test]
fn an_algorithm_that_is_not_the_keys_is_refused() {
    let (rsa, both) = (keys(&[RSA.jwk(json!({"kid": "a"}))]), two());
    let unsigned = |alg: &str| {
        let header = header(alg, "a").to_string();
        format!("{}.{}.", base64(header), base64(GOOD))
    };
    for alg in [
        "none", "None", "NONE", "nOnE", "", "HS256", "rs256", "ES256K",
    ] {
        assert!(looks_like_jwt(unsigned(alg).as_bytes()));
        assert_eq!(check(&unsigned(alg), &rsa), Err(Fault::Algorithm), "{alg}");
        let signed = RSA.token(&header(alg, "a"), GOOD);
        assert_eq!(check(&signed, &both), Err(Fault::Algorithm), "{alg}");
    }
    // The public key, in every form that an attacker may have, as the secret of an HMAC.
    let jwk = RSA.jwk(json!({"kid": "a"}));
    let n = URL_SAFE_NO_PAD.decode(jwk["n"].as_str().unwrap()).unwrap();
    for secret in [
        RSA.public_bytes(),
        n,
        jwk.to_string().into_bytes(),
        key_set(&[jwk]).into_bytes(),
    ] {
        for alg in ["HS256", "HS384", "HS512"] {
            let token = hmac_token(&secret, &header(alg, "a"), GOOD);
            assert_eq!(check(&token, &rsa), Err(Fault::Algorithm));
        }
        let token = hmac_token(&secret, &header("RS256", "a"), GOOD);
        assert_eq!(check(&token, &rsa), Err(Fault::BadSignature));
    }
    // Another type's algorithm, another type's key.
    for (signer, alg, kid, want) in [
        (&EC, "ES256", "a", Fault::Algorithm),
        (&EC, "RS256", "a", Fault::BadSignature),
        (&RSA, "RS256", "b", Fault::Algorithm),
        (&RSA, "ES256", "b", Fault::BadSignature),
        (&EC, "ES384", "b", Fault::Algorithm),
        (&EC, "EdDSA", "b", Fault::Algorithm),
        (&OTHER, "RS256", "a", Fault::BadSignature),
    ] {
        let token = signer.token(&header(alg, kid), GOOD);
        assert_eq!(check(&token, &both), Err(want), "{alg} {kid}");
    }
}

#[test]
fn a_kid_is_a_name_to_look_up_and_nothing_else() {
    for kid in [
        "../../../../etc/passwd",
        "/dev/null",
        "' OR 1=1 --",
        "https://evil.example/jwks.json",
        "a\0",
        "A",
        " a",
        "a%00",
        "\u{1b}[31m",
    ] {
        let token = RSA.token(&header("RS256", kid), GOOD);
        assert_eq!(check(&token, &two()), Err(Fault::UnknownKid), "{kid:?}");
    }
    let long = RSA.token(&header("RS256", &"a".repeat(257)), GOOD);
    assert_eq!(check(&long, &two()), Err(Fault::Malformed));
    for kid in [json!(7), json!(null), json!(["a"]), json!({"a": 1})] {
        let token = RSA.token(&json!({"alg": "RS256", "kid": kid}), GOOD);
        assert_eq!(check(&token, &two()), Err(Fault::Malformed), "{kid}");
    }
    // Keys that the token carries or links to are not used.
    let brought = json!({"alg": "RS256", "kid": "a", "jwk": OTHER.jwk(json!({"kid": "a"})),
        "jku": "https://evil.example/jwks", "x5u": "https://evil.example/x", "x5c": ["AAAA"]});
    let token = OTHER.token(&brought, GOOD);
    assert_eq!(check(&token, &two()), Err(Fault::BadSignature));
    let token = RSA.token(&brought, GOOD);
    assert_eq!(check(&token, &two()).as_deref(), Ok("billing"));
}

#[test]
fn without_a_kid_there_must_be_one_key() {
    let one = keys(&[RSA.jwk(json!({"kid": "a"}))]);
    let nameless = keys(&[RSA.jwk(json!({}))]);
    for header in [json!({"alg": "RS256"}), json!({"alg": "RS256", "kid": ""})] {
        let token = RSA.token(&header, GOOD);
        assert_eq!(check(&token, &one).as_deref(), Ok("billing"));
        assert_eq!(check(&token, &nameless).as_deref(), Ok("billing"));
        assert_eq!(check(&token, &two()), Err(Fault::UnknownKid));
        let token = OTHER.token(&header, GOOD);
        assert_eq!(check(&token, &one), Err(Fault::BadSignature));
    }
    let token = rsa_token(GOOD);
    assert_eq!(check(&token, &nameless), Err(Fault::UnknownKid));
    // One name for a key of each type (RFC 7517 section 4.5).
    let shared = keys(&[RSA.jwk(json!({"kid": "a"})), EC.jwk(json!({"kid": "a"}))]);
    for (signer, alg) in [(&RSA, "RS256"), (&EC, "ES256")] {
        let token = signer.token(&header(alg, "a"), GOOD);
        assert_eq!(check(&token, &shared).as_deref(), Ok("billing"));
    }
}

#[test]
fn extensions_and_malformed_tokens_are_refused() {
    for crit in [json!(["exp"]), json!(["b64"]), json!([]), json!(null)] {
        let header = json!({"alg": "RS256", "kid": "a", "crit": crit, "b64": false});
        let token = RSA.token(&header, GOOD);
        assert_eq!(check(&token, &two()), Err(Fault::Critical), "{crit}");
    }
    let good = rsa_token(GOOD);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (head, body) = signed.split_once('.').unwrap();
    for (bad, want) in [
        (format!("{good}="), Fault::Malformed),
        (format!("{signed}."), Fault::BadSignature),
        (format!("{signed}.{}", &signature[2..]), Fault::BadSignature),
        (
            format!("{head}.{}.{signature}", base64("[]")),
            Fault::Malformed,
        ),
        (
            format!("{head}.{}.{signature}", base64("{")),
            Fault::Malformed,
        ),
        (format!("{head}..{signature}"), Fault::Malformed),
        (format!(".{body}.{signature}"), Fault::Malformed),
        (format!("{head}.{body}.{signature}.x"), Fault::Malformed),
        (
            format!("{}.{body}.{signature}", base64("{\"alg\":7}")),
            Fault::Malformed,
        ),
        (
            format!("{}.{body}.{signature}", base64("7")),
            Fault::Malformed,
        ),
        (rsa_token(&"[".repeat(5000)), Fault::Malformed),
        (
            rsa_token(&claims("x", json!("y".repeat(MAX_TOKEN)))),
            Fault::TooLarge,
        ),
    ] {
        assert_eq!(check(&bad, &two()), Err(want), "{bad:.80}");
    }
    // Other claims under the same signature.
    let forged = format!(
        "{head}.{}.{signature}",
        base64(claims("sub", json!("admin")))
    );
    assert_eq!(check(&forged, &two()), Err(Fault::BadSignature));
}

#[test]
fn only_what_looks_like_a_token_is_one() {
    for key in [
        "",
        ".",
        "..",
        "...",
        "key",
        "a.b.c",
        "billing-key-0001",
        "e30.e30.",
        "e30.e30.c2ln",
        "eyJhbGciOiJub25lIn0.e30",
        "eyJhbGciOiJub25lIn0.e30.x.y",
        "eyJhbGciOiJub25lIn0.e3+.x",
    ] {
        assert!(!looks_like_jwt(key.as_bytes()), "{key}");
    }
    assert!(looks_like_jwt(b"eyJhbGciOiJub25lIn0.e30."));
    assert!(looks_like_jwt(
        format!("{}.a.b", "x".repeat(MAX_TOKEN)).as_bytes()
    ));
    assert!(!looks_like_jwt(&[b'x'; MAX_TOKEN + 1]));
}

#[test]
fn keys_that_are_of_no_use_are_left_out() {
    let (jwk, ec) = (|more| RSA.jwk(more), |more| EC.jwk(more));
    let bad = [
        json!({"kty": "oct", "kid": "a", "k": base64("secret")}),
        jwk(json!({"kid": "a", "kty": "oct"})),
        jwk(json!({"kid": "a", "d": "AQAB"})),
        jwk(json!({"kid": "a", "use": "enc"})),
        jwk(json!({"kid": "a", "use": 7})),
        jwk(json!({"kid": "a", "key_ops": ["encrypt"]})),
        jwk(json!({"kid": "a", "key_ops": "verify"})),
        jwk(json!({"kid": "a", "alg": "HS256"})),
        jwk(json!({"kid": "a", "alg": "none"})),
        jwk(json!({"kid": "a", "alg": "RSA-OAEP"})),
        jwk(json!({"kid": "a", "alg": "ES256"})),
        jwk(json!({"kid": "a", "alg": null})),
        // 1024 bits.
        jwk(json!({"kid": "a", "n": base64([0xff; 128])})),
        jwk(json!({"kid": "a", "n": base64([0xff; 2000])})),
        jwk(json!({"kid": "a", "n": ""})),
        jwk(json!({"kid": "a", "n": "!"})),
        jwk(json!({"kid": "a", "e": ""})),
        jwk(json!({"kid": "a", "e": "AQ"})),
        jwk(json!({"kid": "a", "e": "AQAA"})),
        ec(json!({"kid": "a", "crv": "P-384"})),
        ec(json!({"kid": "a", "crv": "secp256k1"})),
        ec(json!({"kid": "a", "x": base64([1; 32])})),
        ec(json!({"kid": "a", "x": base64([0; 31])})),
        ec(json!({"kid": "a", "alg": "ES384"})),
        json!({"kty": "OKP", "crv": "X25519", "x": base64([9; 32])}),
        json!({"kty": "OKP", "crv": "Ed25519", "x": base64([9; 31])}),
        json!("RSA"),
        json!(null),
        json!({}),
    ];
    for bad in bad {
        let alone = KeySet::parse(key_set(std::slice::from_ref(&bad)).as_bytes());
        assert_eq!(alone, Err(KeySetFault::NoneUsable), "{bad}");
        let set = keys(&[bad, EC.jwk(json!({"kid": "b"}))]);
        assert_eq!((set.count(), set.unusable()), (1, 1));
    }
    let good = [
        jwk(json!({"kid": "a", "key_ops": ["sign", "verify"], "x5c": ["?"], "extra": [1]})),
        jwk(json!({"kid": 7, "use": "sig"})),
    ];
    assert_eq!(keys(&good).count(), 2);
    for (text, want) in [
        ("", KeySetFault::Malformed),
        ("<html>", KeySetFault::Malformed),
        ("[]", KeySetFault::Malformed),
        ("{}", KeySetFault::Malformed),
        ("{\"keys\":{}}", KeySetFault::Malformed),
        ("{\"keys\":[]}", KeySetFault::NoneUsable),
    ] {
        assert_eq!(KeySet::parse(text.as_bytes()), Err(want), "{text}");
    }
    let many = vec![json!({}); MAX_KEYS + 1];
    let many = KeySet::parse(key_set(&many).as_bytes());
    assert_eq!(many, Err(KeySetFault::TooMany));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = looks_like_jwt(&bytes);
        let _ = Token::parse(&bytes).map(|token| token.verify(&two(), &expected(), NOW).is_ok());
        let _ = KeySet::parse(&bytes);
    }

    #[test]
    fn no_header_or_claims_pass_unsigned(
        header in "\\{(\"(alg|kid|crit|typ)\":(\"[ -~]{0,8}\"|[0-9]{1,400}|null|\\[\\]),?){0,4}\\}",
        claims in "\\{(\"(iss|aud|exp|nbf|sub)\":(\"[ -~]{0,8}\"|-?[0-9]{1,400}|null|\\[\\]),?){0,5}\\}",
        signature in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        let token = format!("{}.{}.{}", base64(header), base64(claims), base64(signature));
        prop_assert!(check(&token, &two()).is_err());
    }

    #[test]
    fn no_changed_byte_passes(at in 0usize..1000, bit in 0u8..7) {
        let mut token = rsa_token(GOOD).into_bytes();
        let at = at % token.len();
        token[at] ^= 1 << bit;
        let passes = Token::parse(&token).is_ok_and(|t| t.verify(&two(), &expected(), NOW).is_ok());
        prop_assert!(!passes);
    }

    #[test]
    fn no_key_document_panics(text in "\\{\"keys\":\\[(\\{(\"(kty|crv|n|e|x|y|alg|use)\":\"(RSA|EC|OKP|P-256|Ed25519|sig|[A-Za-z0-9_-]{0,90})\",?){0,6}\\},?){0,3}\\]\\}") {
        let _ = KeySet::parse(text.as_bytes());
    }
}
