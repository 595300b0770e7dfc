//! Label values of metrics and logs that no other module has an enum for.

use crate::{label::label_enum, policy::retry};

label_enum! {
    /// Who made an answer.
    pub enum Source {
        Upstream = "upstream",
        Gateway = "gateway",
    }
}

label_enum! {
    /// What the gateway did with a request. A request that both waited and was retried is "retried".
    pub enum Decision {
        Forwarded = "forwarded",
        /// Waited for quota, a pause or a backoff, and was forwarded then.
        Waited = "waited",
        Retried = "retried",
        Refused = "refused",
        /// The client left before there was an answer.
        Left = "left",
    }
}

label_enum! {
    /// What a request waited for.
    pub enum WaitReason {
        /// The end of a pause of its group.
        Pause = "pause",
        /// Its turn in its group's queue.
        Quota = "quota",
        /// The backoff before its next attempt.
        Retry = "retry",
        /// A connection to DevRev, or a stream on one.
        Connection = "connection",
        /// An exchange with the register that replicas share, although there may be plenty.
        Shared = "shared",
    }
}

/// The result of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttemptOutcome {
    /// DevRev gave an answer that is passed on.
    Success,
    /// It was sent, but revgate made the answer.
    Refused,
    /// It failed for a reason for which requests are retried.
    Failed(retry::Reason),
}

impl AttemptOutcome {
    /// All values.
    pub fn all() -> impl Iterator<Item = AttemptOutcome> {
        let failed = retry::Reason::ALL.iter().copied();
        [AttemptOutcome::Success, AttemptOutcome::Refused]
            .into_iter()
            .chain(failed.map(AttemptOutcome::Failed))
    }

    /// Its name in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            AttemptOutcome::Success => "success",
            AttemptOutcome::Refused => "refused",
            AttemptOutcome::Failed(reason) => reason.label(),
        }
    }
}

label_enum! {
    /// The result of fetching the issuer's keys.
    pub enum KeyFetch {
        Ok = "ok",
        Failed = "failed",
    }
}

label_enum! {
    /// The result of an introspection.
    pub enum Introspection {
        Good = "good",
        Bad = "bad",
        /// DevRev gave no verdict, and there was no earlier one.
        Failed = "failed",
        /// DevRev gave no verdict, and an earlier one still counts.
        Stale = "stale",
    }
}

label_enum! {
    /// Why a TLS handshake with a client failed.
    pub enum HandshakeFailure {
        Closed = "closed",
        Timeout = "timeout",
        NotTls = "not_tls",
        /// It was HTTP, and was told so.
        PlainHttp = "plain_http",
        /// It came to a port without TLS.
        NoTlsHere = "no_tls_here",
        /// No version, cipher or protocol in common.
        Incompatible = "incompatible",
        NoCertificate = "no_certificate",
        BadCertificate = "bad_certificate",
        CertificateExpired = "certificate_expired",
        CertificateNotYetValid = "certificate_not_yet_valid",
        UnknownAuthority = "unknown_authority",
        RefusedByClient = "refused_by_client",
        Other = "other",
    }
}

label_enum! {
    /// Why revgate ended a client's connection.
    pub enum ConnectionEnd {
        /// It brought no good credential in time.
        Unproven = "unproven",
        /// It made room for another one.
        GaveWay = "gave_way",
        /// There was no room for its incomplete head.
        HeadsFull = "heads_full",
        /// Its client did not read an answer.
        Unread = "unread",
        /// A PROXY header was missing, malformed or not expected.
        ProxyHeader = "proxy_header",
    }
}

label_enum! {
    /// Why spans were dropped.
    pub enum SpanDrop {
        QueueFull = "queue_full",
        ExportFailed = "export_failed",
        /// The receiver took the export without these.
        Rejected = "rejected",
    }
}

label_enum! {
    /// The result of a reload.
    pub enum ReloadResult {
        Applied = "applied",
        Unchanged = "unchanged",
        Refused = "refused",
    }
}

label_enum! {
    /// The result of an exchange with the register of a fleet.
    pub enum ExchangeResult {
        /// The value was written.
        Ok = "ok",
        /// Another replica had written in between. Counted on top of the exchange's own result, each time.
        Conflict = "conflict",
        /// It took longer than `shared.timeout`.
        TimedOut = "timeout",
        /// There was no connection.
        Down = "down",
        /// The connection broke, or what came was no answer.
        Broken = "broken",
        /// Other replicas were always faster, until the timeout.
        Overtaken = "overtaken",
        /// As many replicas share the group as may.
        Full = "full",
        /// The register takes no writes: a replica, or one that loads its data.
        NotWritable = "not_writable",
        /// The register refused the command: no memory left, or another reason of its own.
        Refused = "refused",
        /// The user may not.
        Denied = "denied",
    }
}

label_enum! {
    /// How a replica shares a group's quota with the others.
    pub enum Sharing {
        /// Units are leased in advance.
        Plenty = "plenty",
        /// Units are dealt one by one, over all who wait in the fleet.
        Scarce = "scarce",
        /// Without the register: by the rest of a lease, then by DevRev's answers.
        Alone = "alone",
    }
}

label_enum! {
    /// How the value that a replica knew was missing in the register.
    pub enum Lost {
        /// There was none: flushed, evicted, or restarted without its data.
        Gone = "gone",
        /// There was an older one: a failover or a restore lost the last writes.
        Older = "older",
    }
}

label_enum! {
    /// Whether the register can be used.
    pub enum RegisterState {
        /// Not tried yet.
        Unknown = "unknown",
        Up = "up",
        Down = "down",
    }
}

label_enum! {
    /// What the register of the fleet is.
    pub enum RegisterKind {
        Redis = "redis",
        /// Of this process: a demo has one.
        Memory = "memory",
    }
}

impl RegisterKind {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            RegisterKind::Redis => "Redis",
            RegisterKind::Memory => "the register in memory",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label::assert_labels;

    /// Dashboards, alerts and log queries rely on these to the letter.
    #[test]
    fn names_are_those_that_others_read() {
        assert_labels!(Source: "upstream" "gateway");
        assert_labels!(Decision: "forwarded" "waited" "retried" "refused" "left");
        assert_labels!(WaitReason: "pause" "quota" "retry" "connection" "shared");
        assert_labels!(KeyFetch: "ok" "failed");
        assert_labels!(Introspection: "good" "bad" "failed" "stale");
        assert_labels!(HandshakeFailure: "closed" "timeout" "not_tls" "plain_http" "no_tls_here" "incompatible" "no_certificate" "bad_certificate" "certificate_expired" "certificate_not_yet_valid" "unknown_authority" "refused_by_client" "other");
        assert_labels!(ConnectionEnd: "unproven" "gave_way" "heads_full" "unread" "proxy_header");
        assert_labels!(SpanDrop: "queue_full" "export_failed" "rejected");
        assert_labels!(ReloadResult: "applied" "unchanged" "refused");
        assert_labels!(ExchangeResult: "ok" "conflict" "timeout" "down" "broken" "overtaken" "full" "not_writable" "refused" "denied");
        assert_labels!(Sharing: "plenty" "scarce" "alone");
        assert_labels!(Lost: "gone" "older");
        assert_labels!(RegisterState: "unknown" "up" "down");
        assert_labels!(RegisterKind: "redis" "memory");
        let outcomes: Vec<_> = AttemptOutcome::all().map(AttemptOutcome::label).collect();
        assert_eq!(outcomes[..2], ["success", "refused"]);
        assert_eq!(outcomes.len(), 2 + retry::Reason::ALL.len());
    }
}
