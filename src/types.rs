//! Small types that travel with a request, or that several modules share with the configuration. They carry values and decide
//! nothing.

use std::{
    fmt,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderName, HeaderValue};
use tokio::time::Instant;
use tracing::field::DisplayValue;

#[cfg(test)]
use crate::policy::fair::Priority;
use crate::{
    hash::hex,
    label::label_enum,
    policy::{
        access::Access, client_address::Client, fair::Share, ledger::LedgerRules,
        operation::Operation, progress::ProgressRules, san::San,
    },
    random,
};

label_enum! {
    /// Which requests get a line in the access log.
    pub enum AccessLog {
        All = "all",
        /// Made by revgate, or failed, or let pass only because rules are not enforced for the caller.
        Refused = "refused",
        None = "none",
    }
}

/// The certificate authorities that a server is verified by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// Mozilla's list, as compiled in: the same on every machine, and there in an empty container.
    Bundled,
    /// The machine's own list.
    System,
    /// Certificates of a PEM file, and no others.
    File(PathBuf),
}

/// Identifies a key to an operator: the first 8 digits of what `revgate hash-key` prints.
pub fn key_id(hash: &[u8; 32]) -> String {
    hex(&hash[..4])
}

/// The id of a request: the one that the client sent if it is well-formed, else a random one.
#[derive(Clone, Debug)]
pub struct RequestId(pub HeaderValue);

impl RequestId {
    /// The field that carries it, to DevRev and to the caller.
    pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

    /// A new id. It only has to be unique: the caller sees it and it grants nothing, so it may be guessable.
    pub fn random() -> RequestId {
        let id = format!("{:032x}", random::id128());
        RequestId(HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("unknown")))
    }

    /// For logs and bodies; request ids are visible ASCII by construction.
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or("")
    }
}

/// The end of the caller's maximum wait. No wait ends and no attempt starts after it.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(pub Instant);

/// When a request arrived; the same for all its attempts, so that a retry keeps its age in the queue.
#[derive(Clone, Copy, Debug)]
pub struct ArrivedAt(pub Instant);

/// Who calls, and the rules that apply to it under the configuration of this request.
#[derive(Clone, Debug)]
pub struct Caller {
    pub name: Arc<str>,
    /// The configured DevRev token that its requests are sent with; `None` in mode "validate", where it sends its own.
    pub token: Option<Arc<str>>,
    pub group: Arc<str>,
    /// Its share of the group's quota.
    pub share: Share,
    pub access: Access,
    pub max_wait: Duration,
    /// False while the operator tries out its rules: what they would refuse passes and is counted.
    pub enforce: bool,
}

impl Caller {
    /// The group whose quota an attempt of this caller takes: the one of the token that it carries. An attempt that carries no token
    /// is no user's at DevRev: it takes no unit, waits for none, and its answer says nothing about any group.
    pub fn quota_group(&self, operation: &Operation) -> Option<&Arc<str>> {
        operation.takes_credential().then_some(&self.group)
    }
}

#[cfg(test)]
impl Caller {
    /// A caller of the group "main" that may use every operation.
    pub(crate) fn named(name: &str) -> Caller {
        let name: Arc<str> = name.into();
        Caller {
            name: name.clone(),
            token: Some("main".into()),
            group: "main".into(),
            share: Share {
                caller: name,
                weight: 1,
                priority: Priority::Interactive,
            },
            access: Access::new(&["*".into()], &[]),
            max_wait: Duration::from_secs(30),
            enforce: true,
        }
    }
}

/// What a connection proves about its client. The same for all its requests.
#[derive(Clone, Debug)]
pub enum Peer {
    /// A client certificate. The handshake verified its chain.
    Certificate(Arc<Certificate>),
    /// The uid of the process that connected to a unix socket, as the kernel reports it.
    Uid(u32),
}

/// Where a request comes from, for logs and for what unknown clients share. It identifies nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAddress {
    /// At the other end of the connection, or in front of trusted proxies.
    Client(Client),
    /// The process that connected to a unix socket, as the kernel reports it.
    Process { uid: u32, pid: Option<i32> },
}

impl PeerAddress {
    /// A process has none.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            PeerAddress::Client(client) => Some(client.ip),
            PeerAddress::Process { .. } => None,
        }
    }

    /// See [`Client::is_elsewhere`].
    pub fn is_elsewhere(&self) -> bool {
        matches!(self, PeerAddress::Client(client) if client.is_elsewhere)
    }

    /// As a field of a log line.
    pub fn shown(&self) -> DisplayValue<&PeerAddress> {
        tracing::field::display(self)
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerAddress::Client(client) => client.fmt(f),
            PeerAddress::Process { uid, pid: None } => write!(f, "uid {uid}"),
            PeerAddress::Process {
                uid,
                pid: Some(pid),
            } => write!(f, "uid {uid} pid {pid}"),
        }
    }
}

/// The parts of a client certificate that identify a caller.
#[derive(Debug)]
pub struct Certificate {
    pub names: Vec<San>,
    /// The end of its validity.
    pub not_after: SystemTime,
}

/// The DevRev token that the caller sent, in mode "validate". It is forwarded, and its hash keys the rate limit.
#[derive(Clone)]
pub struct CallerToken {
    pub header: HeaderValue,
    /// SHA-256 of the token, or of its user's id where that is known.
    pub hash: [u8; 32],
}

/// It is not known yet whose token this request carries. All such requests count as one caller, because made-up tokens cost nothing.
#[derive(Clone, Copy, Debug)]
pub struct UnknownUser;

/// How long upstream's answer says to wait. The quota layer reads it from the answer, and the layers above use it.
#[derive(Clone, Copy, Debug)]
pub struct RetryAfter(pub Duration);

/// How quota is shared, from the plan that a request sees.
#[derive(Clone, Copy, Debug)]
pub struct QuotaRules {
    pub ledger: LedgerRules,
    /// Upper bound of requests in the waiting room, over all groups.
    pub max_waiting: usize,
}

/// Upper bounds of a request's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    pub max_header_bytes: usize,
    pub max_headers: usize,
    pub max_body: u64,
    /// How fast a body must arrive.
    pub progress: ProgressRules,
}

/// The name of callers and groups that the configuration does not name.
pub const OTHER: &str = "other";

/// [`OTHER`] as a label.
pub fn other() -> Arc<str> {
    Arc::from(OTHER)
}
