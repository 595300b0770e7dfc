//! Small types that travel with a request. No behaviour beyond making and showing them.

use std::{sync::Arc, time::SystemTime};

use http::HeaderValue;
use tokio::time::Instant;

use crate::policy::{access::Access, fair::Share, ledger, operation::Operation, san::San};

/// The id of a request: the caller's own if it was sane, else made here. Also in `X-Request-Id`.
#[derive(Clone, Debug)]
pub struct RequestId(pub HeaderValue);

impl RequestId {
    /// A new one. To be unique is all that is asked of it: it is shown to the caller and grants nothing, so it need not be hard
    /// to guess.
    pub fn random() -> RequestId {
        let id = format!("{:032x}", fastrand::u128(..));
        RequestId(HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("unknown")))
    }

    /// For logs and bodies; request ids are visible ASCII by construction.
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or("")
    }
}

/// The operation a request names.
#[derive(Clone, Debug)]
pub struct Named(pub Operation);

/// The end of the caller's maximum wait. No wait ends and no attempt starts after it.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(pub Instant);

/// When a request arrived; the same for all its attempts, so that a retry keeps its age in the queue.
#[derive(Clone, Copy, Debug)]
pub struct ArrivedAt(pub Instant);

/// Who calls, and what holds for it under the configuration this request sees.
#[derive(Debug)]
pub struct Caller {
    pub name: Arc<str>,
    /// The upstream credential used for it; `None` where it brings its own.
    pub token: Option<Arc<str>>,
    pub group: Arc<str>,
    /// Of that group's quota.
    pub share: Share,
    pub access: Access,
    pub max_wait: std::time::Duration,
    /// False while the operator tries a rule before it bites.
    pub enforce: bool,
}

/// What a connection proves about whoever is at its other end; the same for all its requests.
#[derive(Clone, Debug)]
pub enum Peer {
    /// Its chain was verified in the handshake.
    Certificate(Arc<Certificate>),
    /// Of the process that connected to a unix socket, as the kernel says.
    Uid(u32),
}

/// What counts of a client's certificate.
#[derive(Debug)]
pub struct Certificate {
    pub names: Vec<San>,
    /// The last moment at which it holds.
    pub not_after: SystemTime,
}

/// In mode "validate", the credential the caller brought: forwarded, and hashed to key its rate.
#[derive(Clone)]
pub struct OwnToken {
    pub header: HeaderValue,
    /// Of the token, or of its user where that is known.
    pub hash: [u8; 32],
}

/// How long upstream's answer says to wait. The quota layer reads it from the answer, and the layers above use it.
#[derive(Clone, Copy, Debug)]
pub struct RetryAfter(pub std::time::Duration);

/// Upstream refused the token that the gateway put on, with when to come back. The quota layer learns from the answer and
/// makes an error of it.
#[derive(Clone, Copy, Debug)]
pub struct TokenRefused(pub std::time::Duration);

/// The head had both Transfer-Encoding and Content-Length (RFC 9112 section 6.1); seen on the wire only.
#[derive(Clone, Copy, Debug)]
pub struct AmbiguousFraming;

/// How quota is shared, from the plan that a request sees.
#[derive(Clone, Copy, Debug)]
pub struct QuotaRules {
    pub ledger: ledger::LedgerRules,
    /// Upper bound of requests in the waiting room, over all groups.
    pub max_waiting: usize,
}

/// Upper bounds of a request's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    pub max_header_bytes: usize,
    pub max_headers: usize,
    pub max_body: u64,
}

/// The name of callers that have none of their own, and of groups likewise.
pub const OTHER: &str = "other";

/// The same as a label.
pub fn other() -> Arc<str> {
    Arc::from(OTHER)
}
