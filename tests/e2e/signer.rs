//! The issuer's side: keys, the key sets that publish them, and tokens signed with them.
#![allow(dead_code, reason = "each of those who share it uses a part")]

use aws_lc_rs::{
    hmac, rand,
    rand::SystemRandom,
    rsa,
    signature::{
        self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaEncoding, RsaKeyPair,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

pub(crate) enum Signer {
    Rsa(RsaKeyPair),
    Ec(&'static str, EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

pub(crate) fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    pub(crate) fn rsa() -> Signer {
        Signer::Rsa(RsaKeyPair::generate(rsa::KeySize::Rsa2048).expect("a key"))
    }

    /// `curve` is "P-256", "P-384" or "P-521".
    pub(crate) fn ec(curve: &'static str) -> Signer {
        let algorithm: &'static EcdsaSigningAlgorithm = match curve {
            "P-256" => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            "P-384" => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
            _ => &signature::ECDSA_P521_SHA512_FIXED_SIGNING,
        };
        Signer::Ec(curve, EcdsaKeyPair::generate(algorithm).expect("a key"))
    }

    pub(crate) fn ed25519() -> Signer {
        Signer::Ed(Ed25519KeyPair::generate().expect("a key"))
    }

    /// The public key, with the members of `more` added.
    pub(crate) fn jwk(&self, more: Value) -> Value {
        let mut jwk = match self {
            Signer::Rsa(pair) => {
                let public = pair.public_key();
                json!({
                    "kty": "RSA",
                    "n": base64(public.modulus().big_endian_without_leading_zero()),
                    "e": base64(public.exponent().big_endian_without_leading_zero()),
                })
            }
            Signer::Ec(curve, pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "crv": curve, "x": base64(x), "y": base64(y)})
            }
            Signer::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": base64(pair.public_key())})
            }
        };
        for (key, value) in more.as_object().into_iter().flatten() {
            jwk[key] = value.clone();
        }
        jwk
    }

    /// What a verifier that confuses RS with HS would use as the HMAC secret.
    pub(crate) fn public_bytes(&self) -> Vec<u8> {
        match self {
            Signer::Rsa(pair) => pair.public_key().as_ref().to_vec(),
            Signer::Ec(_, pair) => pair.public_key().as_ref().to_vec(),
            Signer::Ed(pair) => pair.public_key().as_ref().to_vec(),
        }
    }

    /// A token of these parts, unchecked. The header's `alg` chooses how an RSA key signs.
    pub(crate) fn token(&self, header: &Value, claims: &str) -> String {
        self.sign(
            &format!("{}.{}", base64(header.to_string()), base64(claims)),
            header,
        )
    }

    fn sign(&self, signed: &str, header: &Value) -> String {
        let random = SystemRandom::new();
        let bytes = signed.as_bytes();
        let signature = match self {
            Signer::Rsa(pair) => {
                let encoding: &'static dyn RsaEncoding = match header["alg"].as_str() {
                    Some("RS384") => &signature::RSA_PKCS1_SHA384,
                    Some("RS512") => &signature::RSA_PKCS1_SHA512,
                    Some("PS256") => &signature::RSA_PSS_SHA256,
                    Some("PS384") => &signature::RSA_PSS_SHA384,
                    Some("PS512") => &signature::RSA_PSS_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut out = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, bytes, &mut out)
                    .expect("signs");
                out
            }
            Signer::Ec(_, pair) => pair.sign(&random, bytes).expect("signs").as_ref().to_vec(),
            Signer::Ed(pair) => pair.sign(bytes).as_ref().to_vec(),
        };
        format!("{signed}.{}", base64(signature))
    }
}

/// `{"alg": alg, "kid": kid}`.
pub(crate) fn header(alg: &str, kid: &str) -> Value {
    json!({"alg": alg, "kid": kid, "typ": "JWT"})
}

pub(crate) fn key_set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// A token "signed" with an HMAC over a secret that is public.
pub(crate) fn hmac_token(secret: &[u8], header: &Value, claims: &str) -> String {
    let signed = format!("{}.{}", base64(header.to_string()), base64(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let tag = hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", base64(tag))
}

pub(crate) fn random_name() -> String {
    let mut bytes = [0; 12];
    rand::fill(&mut bytes).expect("random bytes");
    base64(bytes)
}
