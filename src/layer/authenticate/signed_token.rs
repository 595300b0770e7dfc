//! Callers with a JWT that the operator's issuer signed.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{Identified, Identity};
use crate::{
    error::{AuthFailure, Error},
    event::Event,
    policy::jwt::{Expected, Fault, Token},
    state::signing_keys::SigningKeys,
    telemetry::client_lines::{ClientLines, Topic},
    types::{Caller, PeerAddress},
};

/// How long a request waits for keys that may have been rotated. Issuers answer faster, and a caller is better off with a quick
/// refusal than with a long wait.
const MAX_KEY_WAIT: Duration = Duration::from_secs(2);

/// Callers by the `sub` of the tokens that `keys` verify.
pub(crate) struct SignedTokens {
    pub expected: Arc<Expected>,
    pub subjects: Arc<HashMap<String, Arc<Caller>>>,
    pub keys: Arc<SigningKeys>,
    pub client_lines: Arc<ClientLines>,
}

impl SignedTokens {
    /// Waits only for keys, and only when the token could be good with them, so that a token that is refused anyway causes no fetch.
    /// `prefer_wait` is the wait that the request asks for.
    pub(super) fn identify(
        self: &Arc<Self>,
        credential: &[u8],
        address: Option<PeerAddress>,
        now: SystemTime,
        prefer_wait: Option<Duration>,
    ) -> Result<Identified, Error> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let token = Token::parse(credential).map_err(|fault| self.refused(fault, None, address))?;
        let fault = match self.verify(&token, now) {
            Ok(caller) => return Ok(caller.into()),
            Err(fault) => fault,
        };
        let newer_keys_may_help = match fault {
            // A token without a `kid` would cause a fetch for every key set of more than one key.
            Fault::UnknownKid => token.kid().is_some(),
            Fault::NoKeys => true,
            _ => false,
        };
        if !newer_keys_may_help {
            return Err(self.refused(fault, Some(&token), address));
        }
        let caller = self
            .unverified_caller(&token, now)
            .map_err(|fault| self.refused(fault, Some(&token), address))?;
        let max_wait = MAX_KEY_WAIT
            .min(caller.max_wait)
            .min(prefer_wait.unwrap_or(Duration::MAX));
        let this = self.clone();
        Ok(Identified::Pending(Box::pin(async move {
            // Verify again even if there was no fetch: one that has just ended may have fetched the key.
            this.keys.wait_for_newer(max_wait).await;
            this.verify(&token, now)
                .map(Identity::from)
                .map_err(|fault| this.refused(fault, Some(&token), address))
        })))
    }

    fn verify(&self, token: &Token, now: Duration) -> Result<Arc<Caller>, Fault> {
        let keys = self.keys.current().ok_or(Fault::NoKeys)?;
        let subject = token.verify(&keys, &self.expected, now)?;
        self.caller(subject)
    }

    /// The caller that the token names if its signature is good.
    fn unverified_caller(&self, token: &Token, now: Duration) -> Result<Arc<Caller>, Fault> {
        let subject = token.unverified_subject(&self.expected, now)?;
        self.caller(subject)
    }

    fn caller(&self, subject: &str) -> Result<Arc<Caller>, Fault> {
        let caller = self.subjects.get(subject);
        caller.cloned().ok_or(Fault::UnknownSubject)
    }

    /// Logs the reason for the operator, with the token's `kid` and issuer and nothing else of it.
    fn refused(&self, fault: Fault, token: Option<&Token>, peer: Option<PeerAddress>) -> Error {
        let topic = Topic::Credential(AuthFailure::Token(fault));
        if !self
            .client_lines
            .try_pass(topic, peer.and_then(|peer| peer.ip()))
        {
            return Error::BadToken(fault);
        }
        let kid = token.and_then(Token::kid).unwrap_or_default();
        let issuer: String = token.map_or_else(String::new, |token| {
            token.issuer().chars().take(MAX_SHOWN).collect()
        });
        tracing::info!(
            event = Event::CredentialRefused.label(),
            peer = peer.as_ref().map(PeerAddress::shown),
            reason = fault.label(),
            kid,
            issuer,
            "signed token refused: {fault}"
        );
        Error::BadToken(fault)
    }
}

/// Bounds the issuer's name in the log. Real ones are shorter.
const MAX_SHOWN: usize = 256;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::time::Instant;

    use super::{super::tests::caller, *};
    use crate::{
        policy::jwt::{
            KeySet,
            signer::{Signer, header, key_set},
        },
        state::{Clock, signing_keys::FetchRequests},
    };

    fn tokens(keys: Arc<SigningKeys>) -> Arc<SignedTokens> {
        Arc::new(SignedTokens {
            expected: Arc::new(Expected {
                issuer: "i".into(),
                audience: "a".into(),
            }),
            subjects: Arc::new(HashMap::from([("s".to_owned(), caller("billing"))])),
            keys,
            client_lines: Arc::default(),
        })
    }

    fn set(signer: &Signer, kid: &str) -> KeySet {
        let jwk: Value = signer.jwk(json!({ "kid": kid }));
        KeySet::parse(key_set(&[jwk]).as_bytes()).unwrap()
    }

    const CLAIMS: &str = r#"{"iss":"i","aud":"a","sub":"s","exp":4102444800}"#;

    async fn answer(tokens: &Arc<SignedTokens>, token: &str) -> Result<(), Fault> {
        let identified = tokens.identify(token.as_bytes(), None, crate::wall_clock::now(), None);
        let result = match identified {
            Ok(Identified::Pending(pending)) => pending.await.map(drop),
            known => known.map(drop),
        };
        result.map_err(|error| match error {
            Error::BadToken(fault) => fault,
            other => panic!("{other}"),
        })
    }

    /// Ends one fetch after another, each after a second, with the next of `results`. Returns how many it ended.
    async fn serve(
        keys: Arc<SigningKeys>,
        mut fetch_requests: FetchRequests,
        results: Vec<Option<KeySet>>,
    ) -> usize {
        let mut count = 0;
        for set in results {
            if count > 0 && fetch_requests.recv().await.is_none() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            count += 1;
            keys.finish_fetch(set, Duration::from_secs(300));
        }
        count
    }

    #[tokio::test(start_paused = true)]
    async fn a_known_key_waits_for_nothing() {
        let signer = Signer::ed25519();
        let tokens = tokens(SigningKeys::fixed(set(&signer, "k"), Clock::start()));
        let good = signer.token(&header("EdDSA", "k"), CLAIMS);
        for (token, good) in [(&good[..], true), ("eyJhbGciOiJub25lIn0.e30.", false)] {
            let identified =
                tokens.identify(token.as_bytes(), None, crate::wall_clock::now(), None);
            assert!(!matches!(identified, Ok(Identified::Pending(_))));
            assert_eq!(identified.is_ok(), good);
        }
        // Keys of a file are not fetched, so nothing waits for them.
        let start = Instant::now();
        let other = signer.token(&header("EdDSA", "other"), CLAIMS);
        assert_eq!(answer(&tokens, &other).await, Err(Fault::UnknownKid));
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_key_is_fetched_once_for_all_and_not_again_soon() {
        let (old, new) = (Signer::ed25519(), Signer::ed25519());
        let (keys, fetch_requests) = SigningKeys::fetched(Clock::start());
        let results = vec![Some(set(&old, "old")), Some(set(&new, "new")), None];
        let served = tokio::spawn(serve(keys.clone(), fetch_requests, results));
        let tokens = tokens(keys);
        let first = old.token(&header("EdDSA", "old"), CLAIMS);
        assert_eq!(answer(&tokens, &first).await, Ok(()), "waits for the first");
        let second = new.token(&header("EdDSA", "new"), CLAIMS);
        let all = (0..100).map(|_| answer(&tokens, &second));
        let all = futures_util::future::join_all(all).await;
        assert!(all.iter().all(Result::is_ok));
        // Made-up key ids cause no fetch and no wait.
        let start = Instant::now();
        for number in 0..100 {
            let made_up = new.token(&header("EdDSA", &number.to_string()), CLAIMS);
            assert_eq!(answer(&tokens, &made_up).await, Err(Fault::UnknownKid));
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(10)).await;
        // This one fails, and the keys stay.
        let made_up = new.token(&header("EdDSA", "x"), CLAIMS);
        assert_eq!(answer(&tokens, &made_up).await, Err(Fault::UnknownKid));
        assert_eq!(answer(&tokens, &second).await, Ok(()));
        assert_eq!(served.await.unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_is_short_and_a_token_that_is_bad_anyway_does_not_wait() {
        let signer = Signer::ed25519();
        let (keys, _fetch_requests) = SigningKeys::fetched(Clock::start());
        let tokens = tokens(keys);
        let start = Instant::now();
        let good = signer.token(&header("EdDSA", "k"), CLAIMS);
        assert_eq!(answer(&tokens, &good).await, Err(Fault::NoKeys));
        assert_eq!(start.elapsed(), MAX_KEY_WAIT);
        let start = Instant::now();
        for (claims, want) in [
            (CLAIMS.replace("4102444800", "1"), Fault::Expired),
            (CLAIMS.replace(r#""s""#, r#""t""#), Fault::UnknownSubject),
            (CLAIMS.replace(r#""i""#, r#""j""#), Fault::WrongIssuer),
        ] {
            let token = signer.token(&header("EdDSA", "k"), &claims);
            assert_eq!(answer(&tokens, &token).await, Err(want));
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        let prefer_wait = Some(Duration::from_millis(10));
        let identified =
            tokens.identify(good.as_bytes(), None, crate::wall_clock::now(), prefer_wait);
        let Ok(Identified::Pending(pending)) = identified else {
            panic!("it does not wait");
        };
        assert!(pending.await.is_err());
        assert_eq!(start.elapsed(), Duration::from_millis(10));
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_unknown_kid_causes_a_fetch() {
        let (signer, other) = (Signer::ed25519(), Signer::ed25519());
        let (keys, mut fetch_requests) = SigningKeys::fetched(Clock::start());
        let both = [
            signer.jwk(json!({"kid": "k"})),
            other.jwk(json!({"kid": "l"})),
        ];
        let both = KeySet::parse(key_set(&both).as_bytes()).unwrap();
        keys.finish_fetch(Some(both), Duration::from_secs(300));
        let tokens = tokens(keys);
        let start = Instant::now();
        for (header, want) in [
            (header("EdDSA", "k"), Fault::BadSignature),
            (header("ES256", "k"), Fault::Algorithm),
            (json!({"alg": "EdDSA"}), Fault::UnknownKid),
        ] {
            let token = other.token(&header, CLAIMS);
            assert_eq!(answer(&tokens, &token).await, Err(want));
        }
        assert!(fetch_requests.try_recv().is_err());
        assert_eq!(start.elapsed(), Duration::ZERO);
        let token = other.token(&header("EdDSA", "m"), CLAIMS);
        assert_eq!(answer(&tokens, &token).await, Err(Fault::UnknownKid));
        assert_eq!(fetch_requests.try_recv(), Ok(()));
        assert_eq!(start.elapsed(), MAX_KEY_WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_waiting_requests_is_bounded() {
        let signer = Signer::ed25519();
        let (keys, _fetch_requests) = SigningKeys::fetched(Clock::start());
        let tokens = tokens(keys);
        let good = signer.token(&header("EdDSA", "k"), CLAIMS);
        let start = Instant::now();
        let all = (0..300).map(async |_| {
            assert_eq!(answer(&tokens, &good).await, Err(Fault::NoKeys));
            start.elapsed()
        });
        let all = futures_util::future::join_all(all).await;
        let waited = all.iter().filter(|time| **time == MAX_KEY_WAIT).count();
        assert_eq!(waited, 256);
    }
}
