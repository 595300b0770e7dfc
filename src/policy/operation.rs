//! DevRev's operations: their names, and what follows from a name.
//!
//! Every operation can be called by POST, so the name and not the method decides whether it is a read or a write.
//!
//! ```
//! use http::Method;
//! use revgate::policy::operation::Operation;
//!
//! let list = Operation::from_path("/works.list");
//! assert!(list.is_read(&Method::POST));
//! assert_eq!(Operation::from_path("//Works%2ELIST/").name(), list.name(), "one spelling");
//! let invented = Operation::from_path("/invented");
//! assert_eq!(invented.label().label(), "other", "labels stay bounded");
//! ```

use std::{
    borrow::Cow,
    hash::{DefaultHasher, Hash, Hasher},
};

use http::Method;
use percent_encoding::percent_decode_str;
use serde::{Serialize, Serializer};

use crate::label::label_enum;

/// An OAuth callback. It takes no credential, and has side effects even when called by GET.
const CALLBACK: &str = "keyrings.authorize";

/// Last segments that mean a read, for operations that are not in the table.
const READING: &[&str] = &["get", "list", "count", "export", "info", "self", "fetch"];

/// The most rounds of percent-decoding. No server decodes this often, and each round reads the whole path.
const DECODINGS: usize = 8;

/// What the table says about an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Facts {
    beta: bool,
    reads: bool,
    deprecated: bool,
}

type Row = (&'static str, Facts);

#[derive(Clone, Debug)]
enum Name {
    Known(&'static Row),
    Unknown(String),
}

/// The operation that a request's path names.
#[derive(Clone, Debug)]
pub struct Operation(Name);

impl Operation {
    /// The operation of a path. Its name is normalised, so that no spelling avoids a rule: percent-decoded (RFC 3986
    /// section 2.1; nested escapes too), in lower case, without superfluous slashes, cut at a `;` (section 3.3).
    ///
    /// Allocates nothing for a known operation in its usual spelling.
    pub fn from_path(path: &str) -> Operation {
        let plain = path.strip_prefix('/').unwrap_or(path);
        if let Some(row) = find(plain) {
            return Operation(Name::Known(row));
        }
        let name = normalise(plain);
        match find(&name) {
            Some(row) => Operation(Name::Known(row)),
            None => Operation(Name::Unknown(name)),
        }
    }

    /// The name in its normalised spelling.
    pub fn name(&self) -> &str {
        match &self.0 {
            Name::Known(row) => row.0,
            Name::Unknown(name) => name,
        }
    }

    /// The name for a metric: one of a fixed set.
    pub fn label(&self) -> OperationLabel {
        match self.0 {
            Name::Known(row) => OperationLabel(row.0),
            Name::Unknown(_) => OperationLabel::OTHER,
        }
    }

    /// What tells it from other operations.
    pub fn id(&self) -> OperationId {
        let hash = match &self.0 {
            Name::Known(_) => 0,
            Name::Unknown(name) => {
                let mut hasher = DefaultHasher::new();
                name.hash(&mut hasher);
                hasher.finish()
            }
        };
        OperationId {
            label: self.label(),
            hash,
        }
    }

    /// Whether the table has it.
    pub fn is_known(&self) -> bool {
        matches!(self.0, Name::Known(_))
    }

    /// Whether the call only reads, so that it may be repeated.
    pub fn is_read(&self, method: &Method) -> bool {
        match &self.0 {
            Name::Known(row) => row.1.reads,
            Name::Unknown(name) => {
                let last = name.rsplit(['.', '/']).next().unwrap_or_default();
                method == Method::GET || method == Method::HEAD || READING.contains(&last)
            }
        }
    }

    /// Whether DevRev has deprecated the operation as a whole.
    pub fn is_deprecated(&self) -> bool {
        matches!(self.0, Name::Known(row) if row.1.deprecated)
    }

    /// Whether the operation is beta at DevRev, so that it needs `X-Devrev-Scope: beta`.
    pub fn is_beta(&self) -> bool {
        matches!(self.0, Name::Known(row) if row.1.beta)
    }

    /// Whether the call carries a DevRev token. One that does not takes no quota; see
    /// [`Caller::quota_group`](crate::types::Caller::quota_group).
    pub fn takes_credential(&self) -> bool {
        self.name() != CALLBACK
    }

    /// What kind of call it is, for a metric.
    pub fn class(&self, method: &Method) -> Class {
        if self.is_read(method) {
            Class::Read
        } else {
            Class::Write
        }
    }
}

/// The target of revgate's own calls about a token. Of the operations that only read and need no argument, it is the one that is
/// about the token itself: any token may ask it, whereas `dev-users.self` answers for developers alone.
pub const TOKEN_INFO: &str = "/auth-tokens.info";

/// Tells operations apart, in little memory however long a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationId {
    label: OperationLabel,
    /// Of an unknown operation's name.
    hash: u64,
}

impl OperationId {
    /// Whether it is one that DevRev documents.
    pub fn is_known(self) -> bool {
        self.label != OperationLabel::OTHER
    }

    /// The operation's name, or "other".
    pub fn label(self) -> OperationLabel {
        self.label
    }
}

/// An operation's name in metrics, the log and spans: one that the table has, or "other", so that labels stay bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationLabel(&'static str);

impl OperationLabel {
    /// Every operation that is not in the table.
    pub const OTHER: OperationLabel = OperationLabel("other");

    /// The name.
    pub const fn label(self) -> &'static str {
        self.0
    }

    /// The name, of an operation that the table has.
    pub fn known(self) -> Option<&'static str> {
        (self != OperationLabel::OTHER).then_some(self.0)
    }
}

impl Serialize for OperationLabel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0)
    }
}

label_enum! {
    /// Whether repeating a call changes anything.
    pub enum Class {
        Read = "read",
        Write = "write",
    }
}

fn find(name: &str) -> Option<&'static Row> {
    TABLE
        .binary_search_by(|row| row.0.cmp(name))
        .ok()
        .map(|at| &TABLE[at])
}

fn normalise(path: &str) -> String {
    let mut text = Cow::Borrowed(path);
    for _ in 0..DECODINGS {
        if !text.contains('%') {
            break;
        }
        let decoded = percent_decode_str(&text).decode_utf8_lossy().into_owned();
        if decoded == *text {
            break;
        }
        text = Cow::Owned(decoded);
    }
    // A server that decodes before it splits ends the path at an encoded `?` or `#`.
    let path = text.split(['?', '#']).next().unwrap_or_default();
    let mut name = String::with_capacity(path.len());
    // Parameters end with their segment: a server that drops them reads on behind them.
    for segment in path.split(['/', '\\']) {
        let segment = segment.split(';').next().unwrap_or_default();
        let segment = segment.trim_matches(|c: char| c.is_whitespace() || c.is_control());
        if segment.is_empty() {
            continue;
        }
        if !name.is_empty() {
            name.push('/');
        }
        name.push_str(&segment.to_ascii_lowercase());
    }
    name
}

const fn facts(beta: bool, reads: bool, deprecated: bool) -> Facts {
    Facts {
        beta,
        reads,
        deprecated,
    }
}

const READ: Facts = facts(false, true, false);
const WRITE: Facts = facts(false, false, false);
const BETA_READ: Facts = facts(true, true, false);
const BETA_WRITE: Facts = facts(true, false, false);
/// Both deprecated operations write and are beta (beta changelog of 2025-03-27).
const OLD_WRITE: Facts = facts(true, false, true);

/// Every operation of DevRev's OpenAPI documents, sorted by name for the binary search.
#[rustfmt::skip]
static TABLE: &[Row] = &[
    ("accounts.create", WRITE), ("accounts.delete", WRITE), ("accounts.export", READ), ("accounts.get", READ),
    ("accounts.list", READ), ("accounts.merge", WRITE), ("accounts.update", WRITE),
    ("ai-agents.events.execute-async", BETA_WRITE), ("airdrop.sync-units.get", BETA_READ),
    ("airdrop.sync-units.history", BETA_READ), ("articles.count", BETA_READ), ("articles.create", WRITE),
    ("articles.delete", WRITE), ("articles.get", READ), ("articles.list", READ), ("articles.update", WRITE),
    ("artifacts.get", READ), ("artifacts.list", READ), ("artifacts.locate", READ), ("artifacts.prepare", WRITE),
    ("artifacts.versions.delete", WRITE), ("artifacts.versions.prepare", WRITE), ("atoms.get", READ),
    ("audit-logs.fetch", BETA_READ), ("auth-tokens.create", WRITE), ("auth-tokens.delete", WRITE),
    ("auth-tokens.get", READ), ("auth-tokens.info", READ), ("auth-tokens.list", READ),
    ("auth-tokens.self.delete", WRITE), ("auth-tokens.update", WRITE), ("brands.create", BETA_WRITE),
    ("brands.delete", BETA_WRITE), ("brands.get", BETA_READ), ("brands.list", BETA_READ),
    ("brands.update", BETA_WRITE), ("chats.create", WRITE), ("chats.get", READ), ("chats.update", WRITE),
    ("code-changes.create", WRITE), ("code-changes.delete", WRITE), ("code-changes.get", READ),
    ("code-changes.list", READ), ("code-changes.update", WRITE), ("commands.create", WRITE), ("commands.get", READ),
    ("commands.list", READ), ("commands.update", WRITE), ("content-template.create", BETA_WRITE),
    ("content-template.get", BETA_READ), ("content-template.list", BETA_READ), ("conversations.create", WRITE),
    ("conversations.delete", WRITE), ("conversations.export", BETA_READ), ("conversations.get", READ),
    ("conversations.list", READ), ("conversations.update", WRITE), ("custom-objects.count", READ),
    ("custom-objects.create", WRITE), ("custom-objects.delete", WRITE), ("custom-objects.get", READ),
    ("custom-objects.list", READ), ("custom-objects.update", WRITE), ("dev-orgs.auth-connections.create", WRITE),
    ("dev-orgs.auth-connections.delete", WRITE), ("dev-orgs.auth-connections.get", READ),
    ("dev-orgs.auth-connections.list", READ), ("dev-orgs.auth-connections.toggle", WRITE),
    ("dev-orgs.auth-connections.update", WRITE), ("dev-orgs.get", READ), ("dev-users.activate", WRITE),
    ("dev-users.create", WRITE), ("dev-users.deactivate", WRITE), ("dev-users.get", READ),
    ("dev-users.identities.link", WRITE), ("dev-users.identities.unlink", WRITE), ("dev-users.list", READ),
    ("dev-users.merge", WRITE), ("dev-users.self", READ), ("dev-users.self.update", WRITE),
    ("dev-users.update", WRITE), ("directories.count", READ), ("directories.create", WRITE),
    ("directories.delete", WRITE), ("directories.get", READ), ("directories.list", READ),
    ("directories.update", WRITE), ("engagements.count", BETA_READ), ("engagements.create", BETA_WRITE),
    ("engagements.delete", BETA_WRITE), ("engagements.get", BETA_READ), ("engagements.list", BETA_READ),
    ("engagements.update", BETA_WRITE), ("event-sources.get", BETA_READ), ("event-sources.schedule", BETA_WRITE),
    ("event-sources.unschedule", BETA_WRITE), ("groups.create", WRITE), ("groups.get", READ), ("groups.list", READ),
    ("groups.members.add", WRITE), ("groups.members.count", BETA_READ), ("groups.members.list", READ),
    ("groups.members.remove", WRITE), ("groups.update", WRITE), ("incidents.create", BETA_WRITE),
    ("incidents.delete", BETA_WRITE), ("incidents.get", BETA_READ), ("incidents.group", BETA_READ),
    ("incidents.list", BETA_READ), ("incidents.update", BETA_WRITE), ("jobs.get", READ), ("jobs.list", READ),
    ("keyrings.authorize", WRITE), ("link-types.custom.create", BETA_WRITE), ("link-types.custom.get", BETA_READ),
    ("link-types.custom.list", BETA_READ), ("link-types.custom.update", BETA_WRITE), ("links.create", WRITE),
    ("links.delete", WRITE), ("links.get", READ), ("links.list", READ), ("links.replace", WRITE),
    ("meetings.count", READ), ("meetings.create", WRITE), ("meetings.delete", WRITE), ("meetings.get", READ),
    ("meetings.list", READ), ("meetings.update", WRITE), ("metric-action.execute", WRITE),
    ("metric-definitions.create", WRITE), ("metric-definitions.delete", WRITE), ("metric-definitions.get", READ),
    ("metric-definitions.list", READ), ("metric-definitions.update", WRITE), ("metric-trackers.get", READ),
    ("metrics.devrev.ingest", BETA_WRITE), ("notifications.send", BETA_WRITE),
    ("observability.sessions.data.get", READ), ("observability.sessions.get", READ),
    ("observability.sessions.list", READ), ("org-schedule-fragments.create", WRITE),
    ("org-schedule-fragments.get", READ), ("org-schedule-fragments.transition", WRITE),
    ("org-schedules.create", WRITE), ("org-schedules.evaluate", READ), ("org-schedules.get", READ),
    ("org-schedules.list", READ), ("org-schedules.set-future", WRITE), ("org-schedules.transition", WRITE),
    ("org-schedules.update", WRITE), ("parts.create", WRITE), ("parts.delete", WRITE), ("parts.get", READ),
    ("parts.list", READ), ("parts.update", WRITE), ("ping", READ), ("preferences.get", BETA_READ),
    ("preferences.update", BETA_WRITE), ("question-answers.create", BETA_WRITE),
    ("question-answers.delete", BETA_WRITE), ("question-answers.get", BETA_READ),
    ("question-answers.list", BETA_READ), ("question-answers.update", BETA_WRITE), ("reactions.list", READ),
    ("reactions.update", WRITE), ("recommendations.chat.completions", BETA_WRITE),
    ("recommendations.get-reply", BETA_WRITE), ("record-templates.get", BETA_READ), ("rev-orgs.create", WRITE),
    ("rev-orgs.delete", WRITE), ("rev-orgs.get", READ), ("rev-orgs.list", READ), ("rev-orgs.update", WRITE),
    ("rev-users.associations.add", BETA_WRITE), ("rev-users.associations.list", BETA_READ),
    ("rev-users.associations.remove", BETA_WRITE), ("rev-users.create", WRITE), ("rev-users.delete", WRITE),
    ("rev-users.delete-personal-data", BETA_WRITE), ("rev-users.get", READ), ("rev-users.link", OLD_WRITE),
    ("rev-users.list", READ), ("rev-users.merge", WRITE), ("rev-users.personal-data", BETA_WRITE),
    ("rev-users.scan", READ), ("rev-users.unlink", OLD_WRITE), ("rev-users.update", WRITE),
    ("roles.apply", BETA_WRITE), ("roles.create", BETA_WRITE), ("schemas.aggregated.get", READ),
    ("schemas.custom.get", READ), ("schemas.custom.list", READ), ("schemas.custom.set", WRITE),
    ("schemas.stock.get", READ), ("schemas.stock.list", READ), ("schemas.subtypes.list", BETA_READ),
    ("schemas.subtypes.prepare-update", WRITE), ("search.core", BETA_READ), ("search.hybrid", BETA_READ),
    ("service-accounts.create", WRITE), ("service-accounts.get", READ), ("service-accounts.update", BETA_WRITE),
    ("sla-trackers.get", READ), ("sla-trackers.list", READ), ("sla-trackers.remove-metric", BETA_WRITE),
    ("slas.assign", WRITE), ("slas.create", WRITE), ("slas.get", READ), ("slas.list", READ),
    ("slas.transition", WRITE), ("slas.update", WRITE), ("snap-ins.resources", BETA_READ),
    ("snap-ins.update", BETA_WRITE), ("snap-kit-action.execute.deferred", WRITE), ("snap-widgets.create", WRITE),
    ("stage-diagrams.create", WRITE), ("stage-diagrams.get", READ), ("stage-diagrams.list", READ),
    ("stage-diagrams.update", WRITE), ("stages.custom.create", WRITE), ("stages.custom.get", READ),
    ("stages.custom.list", READ), ("stages.custom.update", WRITE), ("states.custom.create", WRITE),
    ("states.custom.get", READ), ("states.custom.list", READ), ("states.custom.update", WRITE),
    ("subscribers.get", BETA_READ), ("subscribers.list", BETA_READ), ("subscribers.update", BETA_WRITE),
    ("surveys.create", WRITE), ("surveys.delete", WRITE), ("surveys.get", READ), ("surveys.list", READ),
    ("surveys.responses.list", READ), ("surveys.responses.update", WRITE), ("surveys.send", WRITE),
    ("surveys.submit", WRITE), ("surveys.update", WRITE), ("sys-users.list", READ), ("sys-users.update", WRITE),
    ("tags.create", WRITE), ("tags.delete", WRITE), ("tags.get", READ), ("tags.list", READ), ("tags.update", WRITE),
    ("timeline-entries.create", WRITE), ("timeline-entries.delete", WRITE), ("timeline-entries.get", READ),
    ("timeline-entries.list", READ), ("timeline-entries.update", WRITE), ("track-events.publish", BETA_WRITE),
    ("uoms.count", BETA_READ), ("uoms.create", BETA_WRITE), ("uoms.delete", BETA_WRITE), ("uoms.get", BETA_READ),
    ("uoms.list", BETA_READ), ("uoms.update", BETA_WRITE), ("vistas.create", BETA_WRITE), ("vistas.delete", WRITE),
    ("vistas.get", READ), ("vistas.groups.delete", WRITE), ("vistas.groups.get", READ), ("vistas.groups.list", READ),
    ("vistas.list", READ), ("web-crawler-jobs.control", WRITE), ("web-crawler-jobs.create", WRITE),
    ("web-crawler-jobs.get", READ), ("web-crawler-jobs.list", READ), ("webhooks.create", WRITE),
    ("webhooks.delete", WRITE), ("webhooks.fetch", BETA_READ), ("webhooks.get", READ), ("webhooks.list", READ),
    ("webhooks.update", WRITE), ("widgets.get", BETA_READ), ("works.count", READ), ("works.create", WRITE),
    ("works.delete", WRITE), ("works.export", READ), ("works.get", READ), ("works.list", READ),
    ("works.update", WRITE),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label::assert_labels;

    #[test]
    fn classes_are_called_as_the_metrics_call_them() {
        assert_labels!(Class: "read" "write");
    }

    #[test]
    fn the_table_is_sorted_and_complete() {
        assert_eq!(TABLE.len(), 283);
        assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn no_spelling_avoids_a_rule() {
        #[rustfmt::skip]
        let spellings = [
            "/works.list", "works.list", "//works.list/", "/Works.LIST", "/works%2elist", "/works%2Elist;v=1",
            "/%77orks.list", "/works%252elist", "/works.list/;x", "/works.list%3Fx", "/%2fworks.list",
        ];
        for path in spellings {
            let operation = Operation::from_path(path);
            assert_eq!(operation.name(), "works.list", "{path}");
            assert_eq!(operation.label().label(), "works.list");
        }
    }

    #[test]
    fn unknown_operations_share_a_label() {
        let operation = Operation::from_path("/internal//Things.get/");
        assert_eq!(operation.name(), "internal/things.get");
        assert_eq!(operation.label(), OperationLabel::OTHER);
        assert!(operation.is_read(&Method::POST));
        assert!(!Operation::from_path("/mcp/v1").is_read(&Method::POST));
        assert!(Operation::from_path("/mcp/v1").is_read(&Method::GET));
    }

    #[test]
    fn the_name_decides_what_is_a_read() {
        let class = |path, method| Operation::from_path(path).class(&method);
        assert_eq!(class("/works.list", Method::POST), Class::Read);
        assert_eq!(class("/audit-logs.fetch", Method::POST), Class::Read);
        assert_eq!(class("/works.create", Method::GET), Class::Write);
        assert_eq!(class("/works.create", Method::POST), Class::Write);
    }

    #[test]
    fn the_callback_takes_no_credential_and_never_reads() {
        let callback = Operation::from_path("/Keyrings.authorize");
        assert!(!callback.takes_credential());
        assert!(!callback.is_read(&Method::GET));
        assert!(Operation::from_path("/works.list").takes_credential());
    }

    #[test]
    fn deprecated_and_beta() {
        assert!(Operation::from_path("/rev-users.link").is_deprecated());
        assert!(Operation::from_path("/rev-users.unlink").is_beta());
        assert!(!Operation::from_path("/rev-users.get").is_deprecated());
    }
}
