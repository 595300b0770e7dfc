//! Who may call, and how each proves it.

use std::{collections::HashMap, sync::Arc};

use http::Uri;

use crate::{
    config::{AuthMode, CallerCredential, CallerRules, Config, Jwks},
    policy::{
        access::Access,
        fair::Share,
        jwt::{Expected, KeySet},
        san::San,
    },
    types::{Caller, OTHER, Roots},
};

/// What tells one caller from another.
#[derive(Clone, Debug)]
pub enum Identities {
    /// Callers prove themselves to revgate.
    Inject(Methods),
    /// Callers bring a DevRev token of their own. What holds for each of them; its group is that of its token.
    Validate(Arc<Caller>),
}

/// The ways in which callers prove themselves.
#[derive(Clone, Debug, Default)]
pub struct Methods {
    /// By the SHA-256 of the key; a caller that rotates its key stands here twice.
    pub keys: HashMap<[u8; 32], Arc<Caller>>,
    pub signed: Option<SignedTokens>,
    /// By the name in the client certificate.
    pub sans: Arc<HashMap<San, Arc<Caller>>>,
    /// By the uid of the process at the other end of a unix socket.
    pub uids: Arc<HashMap<u32, Arc<Caller>>>,
    pub anonymous: Option<Arc<Caller>>,
}

/// Callers by the `sub` of a signed token.
#[derive(Clone, Debug)]
pub struct SignedTokens {
    pub expected: Arc<Expected>,
    pub subjects: Arc<HashMap<String, Arc<Caller>>>,
    pub source: KeySource,
}

/// Where the keys are from that verify signed tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// They are what they are until the file changes.
    Fixed(KeySet),
    /// An issuer publishes them.
    Published { url: Uri, roots: Roots },
}

impl Identities {
    pub(super) fn of(config: &Config) -> Identities {
        if config.auth.mode == AuthMode::Validate {
            let caller = caller(OTHER, &config.defaults, None, OTHER.into());
            return Identities::Validate(Arc::new(caller));
        }
        let mut methods = Methods::default();
        let (mut subjects, mut sans, mut uids) = (HashMap::new(), HashMap::new(), HashMap::new());
        for (name, configured) in &config.callers {
            let token = configured.token.as_deref();
            let group = token
                .and_then(|token| config.tokens.get(token))
                .map_or_else(|| OTHER.into(), |token| token.quota_group.clone());
            let caller = Arc::new(caller(name, &configured.rules, token, group));
            match &configured.credential {
                CallerCredential::Keys(hashes) => {
                    let keys = hashes.iter().map(|hash| (*hash, caller.clone()));
                    methods.keys.extend(keys);
                }
                CallerCredential::JwtSubject(subject) => {
                    drop(subjects.insert(subject.clone(), caller));
                }
                CallerCredential::San(san) => drop(sans.insert(san.clone(), caller)),
                CallerCredential::Uid(uid) => drop(uids.insert(*uid, caller)),
                CallerCredential::Anonymous => methods.anonymous = Some(caller),
            }
        }
        methods.sans = Arc::new(sans);
        methods.uids = Arc::new(uids);
        methods.signed = config.auth.jwt.as_ref().map(|jwt| SignedTokens {
            expected: Arc::new(Expected {
                issuer: jwt.issuer.clone(),
                audience: jwt.audience.clone(),
            }),
            subjects: Arc::new(subjects),
            source: match &jwt.jwks {
                Jwks::File { keys, .. } => KeySource::Fixed(keys.clone()),
                Jwks::Url { url, roots } => KeySource::Published {
                    url: url.clone(),
                    roots: roots.clone(),
                },
            },
        });
        Identities::Inject(methods)
    }

    /// The caller of the file with this name, or in mode "validate" what holds for each.
    pub fn find(&self, name: &str) -> Option<&Arc<Caller>> {
        match self {
            Identities::Validate(everyone) => Some(everyone).filter(|caller| *caller.name == *name),
            Identities::Inject(methods) => methods.all().find(|caller| *caller.name == *name),
        }
    }
}

impl Methods {
    fn all(&self) -> impl Iterator<Item = &Arc<Caller>> {
        let signed = self.signed.iter();
        let signed = signed.flat_map(|signed| signed.subjects.values());
        let connections = self.sans.values().chain(self.uids.values());
        let keys = self.keys.values();
        keys.chain(signed).chain(connections).chain(&self.anonymous)
    }
}

fn caller(name: &str, rules: &CallerRules, token: Option<&str>, group: Arc<str>) -> Caller {
    let name: Arc<str> = name.into();
    Caller {
        name: name.clone(),
        token: token.map(Arc::from),
        group,
        share: Share {
            caller: name,
            weight: rules.weight,
            priority: rules.priority,
        },
        access: Access::new(&rules.allow, &rules.deny),
        max_wait: rules.max_wait,
        enforce: rules.enforce,
    }
}
