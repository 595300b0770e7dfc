//! An issuer's public keys (RFC 7517, RFC 7518 section 6, RFC 8037), each with the algorithms that it may be used with.
//!
//! A key holds one verifier per algorithm and there is no other way to verify. So no token can have an RSA key used as an HMAC
//! secret, nor any key used in a way that its type and its `alg` do not allow.

use std::sync::Arc;

use aws_lc_rs::signature::{self, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::Fault;
use crate::{hash::sha256, label::label_enum};

/// Issuers publish two or three. Bounds memory, and the time that a hostile set takes to parse.
pub const MAX_KEYS: usize = 64;

label_enum! {
    /// The algorithms of RFC 7518 and RFC 8037 that have a public key.
    pub enum Algorithm {
        Rs256 = "RS256",
        Rs384 = "RS384",
        Rs512 = "RS512",
        Ps256 = "PS256",
        Ps384 = "PS384",
        Ps512 = "PS512",
        Es256 = "ES256",
        Es384 = "ES384",
        Es512 = "ES512",
        EdDsa = "EdDSA",
    }
}

impl Algorithm {
    pub(super) fn from_name(name: &str) -> Option<Algorithm> {
        // RFC 9864 names it by its curve.
        if name == "Ed25519" {
            return Some(Algorithm::EdDsa);
        }
        let mut all = Algorithm::ALL.iter().copied();
        all.find(|algorithm| algorithm.label() == name)
    }
}

/// Keys of at least 2048 bits: shorter ones can be factored.
const RSA: [(Algorithm, &RsaParameters); 6] = [
    (Algorithm::Rs256, &signature::RSA_PKCS1_2048_8192_SHA256),
    (Algorithm::Rs384, &signature::RSA_PKCS1_2048_8192_SHA384),
    (Algorithm::Rs512, &signature::RSA_PKCS1_2048_8192_SHA512),
    (Algorithm::Ps256, &signature::RSA_PSS_2048_8192_SHA256),
    (Algorithm::Ps384, &signature::RSA_PSS_2048_8192_SHA384),
    (Algorithm::Ps512, &signature::RSA_PSS_2048_8192_SHA512),
];

/// Why a document is not a usable key set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetFault {
    #[error("it is not a JSON object with a list `keys`")]
    Malformed,
    #[error("it holds more than {MAX_KEYS} keys")]
    TooMany,
    /// Also when the list is empty: that is far more often an issuer's mistake than a revocation of all keys.
    #[error(
        "it holds no public key that can verify (RSA of 2048 to 8192 bits, P-256, P-384, P-521, Ed25519)"
    )]
    NoneUsable,
}

/// An issuer's keys. Cheap to clone.
#[derive(Clone, Debug)]
pub struct KeySet {
    keys: Arc<[Key]>,
    /// SHA-256 of the document, for comparison.
    hash: [u8; 32],
    unusable: usize,
}

impl PartialEq for KeySet {
    fn eq(&self, other: &KeySet) -> bool {
        self.hash == other.hash
    }
}

impl Eq for KeySet {}

#[derive(Debug)]
struct Key {
    kid: Option<String>,
    verifiers: Vec<(Algorithm, ParsedPublicKey)>,
}

impl KeySet {
    /// Parses a JWK set. Unusable keys are left out (RFC 7517 section 5).
    ///
    /// # Errors
    /// When the document is no JWK set, or no key of it is usable.
    pub fn parse(document: &[u8]) -> Result<KeySet, KeySetFault> {
        let tree: Map<String, Value> =
            serde_json::from_slice(document).map_err(|_| KeySetFault::Malformed)?;
        let all = tree
            .get("keys")
            .and_then(Value::as_array)
            .ok_or(KeySetFault::Malformed)?;
        if all.len() > MAX_KEYS {
            return Err(KeySetFault::TooMany);
        }
        let keys: Arc<[Key]> = all.iter().filter_map(Key::from_jwk).collect();
        if keys.is_empty() {
            return Err(KeySetFault::NoneUsable);
        }
        Ok(KeySet {
            unusable: all.len() - keys.len(),
            keys,
            hash: sha256(document),
        })
    }

    /// How many keys it has.
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// Keys of the document that were left out.
    pub fn unusable(&self) -> usize {
        self.unusable
    }

    pub(super) fn verify(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
        signed: &[u8],
        signature: &[u8],
    ) -> Result<(), Fault> {
        let verifier = self.verifier(kid, algorithm)?;
        verifier
            .verify_sig(signed, signature)
            .map_err(|_| Fault::BadSignature)
    }

    /// The one key that may have signed a token, so that a token costs one verification, however many keys there are.
    fn verifier(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<&ParsedPublicKey, Fault> {
        let Some(kid) = kid else {
            // A token must not leave open which of several keys signed it.
            return match &*self.keys {
                [only] => only.verifier(algorithm).ok_or(Fault::Algorithm),
                _ => Err(Fault::UnknownKid),
            };
        };
        let named = || {
            self.keys
                .iter()
                .filter(|key| key.kid.as_deref() == Some(kid))
        };
        if named().next().is_none() {
            return Err(Fault::UnknownKid);
        }
        // RFC 7517 section 4.5: keys of different types may share a name.
        named()
            .find_map(|key| key.verifier(algorithm))
            .ok_or(Fault::Algorithm)
    }
}

impl Key {
    /// `None` when it is unusable: of another type, for another use, or not to be trusted.
    fn from_jwk(jwk: &Value) -> Option<Key> {
        let jwk = jwk.as_object()?;
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        // A public document with a private key in it: every reader can sign.
        if jwk.contains_key("d") || jwk.contains_key("k") {
            return None;
        }
        if jwk.contains_key("use") && text("use") != Some("sig") {
            return None;
        }
        if let Some(operations) = jwk.get("key_ops") {
            let mut operations = operations.as_array()?.iter();
            operations.find(|operation| operation.as_str() == Some("verify"))?;
        }
        let mut verifiers = match (text("kty")?, text("crv")) {
            ("RSA", _) => rsa(&bytes(text("n"))?, &bytes(text("e"))?)?,
            ("EC", Some(curve)) => ec(curve, &bytes(text("x"))?, &bytes(text("y"))?)?,
            ("OKP", Some("Ed25519")) => {
                let key = ParsedPublicKey::new(&signature::ED25519, bytes(text("x"))?).ok()?;
                vec![(Algorithm::EdDsa, key)]
            }
            // Symmetric keys ("oct") are unusable too: a service that verifies with them can also sign.
            _ => return None,
        };
        if jwk.contains_key("alg") {
            let pinned = Algorithm::from_name(text("alg")?)?;
            verifiers.retain(|(algorithm, _)| *algorithm == pinned);
        }
        let kid = text("kid").filter(|kid| !kid.is_empty()).map(str::to_owned);
        (!verifiers.is_empty()).then_some(Key { kid, verifiers })
    }

    fn verifier(&self, algorithm: Algorithm) -> Option<&ParsedPublicKey> {
        let mut all = self.verifiers.iter();
        all.find(|(own, _)| *own == algorithm).map(|(_, key)| key)
    }
}

fn bytes(text: Option<&str>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text?).ok()
}

fn rsa(n: &[u8], e: &[u8]) -> Option<Vec<(Algorithm, ParsedPublicKey)>> {
    // Some issuers keep the leading zero byte of a signed integer.
    let n = n.strip_prefix(&[0]).unwrap_or(n);
    let bits = n.len() * 8 - n.first()?.leading_zeros() as usize;
    if !(2048..=8192).contains(&bits) {
        return None;
    }
    // With an exponent of 1 the padded message is its own signature, so forging one takes no key.
    let exponent = e
        .iter()
        .fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    if e.len() > 8 || exponent < 3 || exponent % 2 == 0 {
        return None;
    }
    let parsed = RSA.iter().map(|(algorithm, parameters)| {
        let components = RsaPublicKeyComponents { n, e };
        let key = components.to_parsed_public_key(parameters).ok()?;
        Some((*algorithm, key))
    });
    parsed.collect()
}

fn ec(curve: &str, x: &[u8], y: &[u8]) -> Option<Vec<(Algorithm, ParsedPublicKey)>> {
    let (algorithm, parameters, width) = match curve {
        "P-256" => (Algorithm::Es256, &signature::ECDSA_P256_SHA256_FIXED, 32),
        "P-384" => (Algorithm::Es384, &signature::ECDSA_P384_SHA384_FIXED, 48),
        "P-521" => (Algorithm::Es512, &signature::ECDSA_P521_SHA512_FIXED, 66),
        _ => return None,
    };
    // RFC 7518 section 6.2.1.2: of the curve's full width. That the point is on the curve is checked below.
    if x.len() != width || y.len() != width {
        return None;
    }
    let point = [&[4], x, y].concat();
    let key = ParsedPublicKey::new(parameters, point).ok()?;
    Some(vec![(algorithm, key)])
}
