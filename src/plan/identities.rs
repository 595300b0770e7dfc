//! Who may call, and how each caller proves itself.

use std::{collections::HashMap, sync::Arc};

use http::Uri;

use crate::{
    config::{Address, AuthMode, CallerCredential, CallerRules, Config, Jwks},
    policy::{
        access::Access,
        browser::BrowserRules,
        fair::Share,
        jwt::{Expected, KeySet},
        san::San,
        self_connection::is_on_loopback,
    },
    types::{Caller, OTHER, Roots},
};

/// How callers are identified.
#[derive(Clone, Debug)]
pub enum Identities {
    /// Callers prove themselves to revgate.
    Inject(Box<CallerCredentials>),
    /// Callers send a DevRev token of their own. This is the caller of every such token, but for its group.
    Validate(Arc<Caller>),
}

/// Callers by the credentials that prove them.
#[derive(Clone, Debug, Default)]
pub struct CallerCredentials {
    /// By the SHA-256 of the key. A caller that rotates its key has two.
    pub keys: HashMap<[u8; 32], Arc<Caller>>,
    pub signed: Option<SignedTokenPlan>,
    /// By the name in the client certificate.
    pub sans: Arc<HashMap<San, Arc<Caller>>>,
    /// By the uid of the client of a unix socket.
    pub uids: Arc<HashMap<u32, Arc<Caller>>>,
    pub anonymous: Option<Arc<Caller>>,
    /// What an anonymous request may name as its host, besides loopback.
    pub hosts: Arc<[Box<str>]>,
}

/// Callers by the `sub` of a signed token.
#[derive(Clone, Debug)]
pub struct SignedTokenPlan {
    pub expected: Arc<Expected>,
    pub subjects: Arc<HashMap<String, Arc<Caller>>>,
    pub source: KeySource,
}

/// Where the keys that verify signed tokens come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A file.
    Fixed(KeySet),
    /// An issuer that publishes them.
    Published {
        url: Uri,
        roots: Roots,
        /// Whether they are fetched through the proxy to DevRev, if there is one.
        proxy: bool,
    },
}

impl Identities {
    pub(super) fn of(config: &Config) -> Identities {
        if config.auth.mode == AuthMode::Validate {
            let caller = caller(OTHER, &config.defaults, None, OTHER.into());
            return Identities::Validate(Arc::new(caller));
        }
        let mut credentials = CallerCredentials::default();
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
                    credentials.keys.extend(keys);
                }
                CallerCredential::JwtSubject(subject) => {
                    drop(subjects.insert(subject.clone(), caller));
                }
                CallerCredential::San(san) => drop(sans.insert(san.clone(), caller)),
                CallerCredential::Uid(uid) => drop(uids.insert(*uid, caller)),
                CallerCredential::Anonymous => credentials.anonymous = Some(caller),
            }
        }
        let upstream = config.upstream.url.host().map(str::to_ascii_lowercase);
        let hosts = config.listen.hosts.iter().cloned().chain(upstream);
        credentials.hosts = hosts.map(String::into_boxed_str).collect();
        credentials.sans = Arc::new(sans);
        credentials.uids = Arc::new(uids);
        credentials.signed = config.auth.jwt.as_ref().map(|jwt| SignedTokenPlan {
            expected: Arc::new(Expected {
                issuer: jwt.issuer.clone(),
                audience: jwt.audience.clone(),
            }),
            subjects: Arc::new(subjects),
            source: match &jwt.jwks {
                Jwks::File { keys, .. } => KeySource::Fixed(keys.clone()),
                Jwks::Url { url, roots, proxy } => KeySource::Published {
                    url: url.clone(),
                    roots: roots.clone(),
                    proxy: proxy.unwrap_or(true) && !is_on_loopback(url),
                },
            },
        });
        Identities::Inject(Box::new(credentials))
    }

    /// The caller with this name: one of the file, or in mode "validate" the one of every token.
    pub fn find(&self, name: &str) -> Option<&Arc<Caller>> {
        let has_name = |caller: &&Arc<Caller>| *caller.name == *name;
        match self {
            Identities::Validate(template) => Some(template).filter(has_name),
            Identities::Inject(credentials) => credentials.callers().find(has_name),
        }
    }

    /// What requests of this caller obey so that no page can send them; `layer::authenticate` decides it by the connection.
    pub fn browser_rules(&self, config: &Config, name: &str) -> BrowserRules<'_> {
        let credential = config.callers.get(name).map(|caller| &caller.credential);
        let is_socket = matches!(config.listen.address, Address::Unix(_));
        match (credential, self) {
            (Some(CallerCredential::San(_)), _) => BrowserRules::Page,
            (Some(CallerCredential::Anonymous), _) if is_socket => BrowserRules::Page,
            (Some(CallerCredential::Anonymous), Identities::Inject(all)) => {
                BrowserRules::HostAndPage(&all.hosts)
            }
            _ => BrowserRules::None,
        }
    }
}

impl CallerCredentials {
    fn callers(&self) -> impl Iterator<Item = &Arc<Caller>> {
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
