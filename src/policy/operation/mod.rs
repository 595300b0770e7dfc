//! DevRev's operations: their names, and what follows from a name.
//!
//! Every operation can be called by POST, so the name and not the method decides whether it is a read or a write.
//!
//! Servers read paths in different ways, so a path may name several operations (see [`Readings`]). Each question has the reading that
//! is safe for it:
//!
//! | question | decided by |
//! |---|---|
//! | may the caller use it (`allow`)? | all readings |
//! | may it not (`deny`)? | any reading |
//! | does it go without a token? | any reading: `keyrings.authorize` in any of them takes none |
//! | does it only read, so that it may be repeated? | all readings |
//! | which pauses and circuits hold it ([`Operation::id`])? | the known operation that any reading has, the last one of several |
//! | what is it called: in metrics, rules of `[[rewrite]]`, as beta or deprecated? | [`Operation::name`], one reading: these protect nothing |
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
//! let hidden = Operation::from_path("/internal%3f/keyrings.authorize");
//! assert!(!hidden.takes_credential(), "some server finds the callback there");
//! ```

mod readings;
#[cfg(test)]
pub(crate) mod spellings;
mod table;

use std::hash::{DefaultHasher, Hash, Hasher};

use http::Method;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use self::table::{Row, find};
pub use self::{
    readings::{Readings, Whole},
    table::unknown,
};
use super::target::TargetFault;
use crate::label::label_enum;

/// An OAuth callback. It takes no credential, and has side effects even when called by GET.
const CALLBACK: &str = "keyrings.authorize";

/// Last words that mean a read, for operations that are not in the table.
const READING: &[&str] = &["get", "list", "count", "export", "info", "self", "fetch"];

#[derive(Clone, Debug)]
enum Name {
    Known(&'static Row),
    Unknown(String),
}

/// The operation that a request's path names. Whatever is decided by the path is asked of it.
#[derive(Clone, Debug)]
pub struct Operation {
    name: Name,
    /// The path, unless the name is its only reading.
    path: Option<Box<str>>,
    fault: Option<TargetFault>,
    /// The known operation that some reading has.
    known: OperationLabel,
    /// Some reading is the callback.
    callback: bool,
    /// Some reading is known to write.
    writes: bool,
    /// Every reading reads by its name.
    reads: bool,
}

impl Operation {
    /// The operation of a path. Its name is normalised: percent-decoded (RFC 3986 section 2.1; nested escapes too), in lower case,
    /// without superfluous slashes, cut at `?`, `#` and `;` (section 3.3).
    ///
    /// A path with a [`fault`](Self::fault) has no name and no rights.
    ///
    /// Allocates nothing for a known operation in its usual spelling.
    pub fn from_path(path: &str) -> Operation {
        let usual = path.strip_prefix('/').unwrap_or(path);
        if let Some(row) = find(usual) {
            return Operation::known(row);
        }
        let readings = match Readings::of(path) {
            Ok(readings) => readings,
            Err(fault) => return Operation::faulty(fault),
        };
        let name = readings.name();
        let name = find(&name).map_or(Name::Unknown(name), Name::Known);
        let mut operation = Operation {
            name,
            path: None,
            fault: None,
            known: OperationLabel::OTHER,
            callback: false,
            writes: false,
            reads: true,
        };
        let mut last_reads = false;
        for segment in readings.segments() {
            let row = find(segment);
            last_reads = match row {
                Some(row) => row.1.reads,
                None => READING.contains(&segment.rsplit('.').next().unwrap_or_default()),
            };
            // A segment without a dot is no operation, unless it is the last one.
            operation.reads &= last_reads || !segment.contains('.');
            operation.callback |= segment == CALLBACK;
            if let Some(row) = row {
                operation.known = OperationLabel(row.0);
                operation.writes |= !row.1.reads;
            }
        }
        operation.reads &= last_reads;
        if let Name::Known(row) = operation.name {
            operation.known = OperationLabel(row.0);
        }
        let name = operation.name().split('/');
        let only = readings
            .wholes()
            .all(|whole| whole.segments().eq(name.clone().filter(|s| !s.is_empty())));
        operation.path = (!only).then(|| path.into());
        operation
    }

    fn known(row: &'static Row) -> Operation {
        Operation {
            name: Name::Known(row),
            path: None,
            fault: None,
            known: OperationLabel(row.0),
            callback: row.0 == CALLBACK,
            writes: !row.1.reads,
            reads: row.1.reads,
        }
    }

    fn faulty(fault: TargetFault) -> Operation {
        Operation {
            name: Name::Unknown(String::new()),
            path: None,
            fault: Some(fault),
            known: OperationLabel::OTHER,
            callback: true,
            writes: true,
            reads: false,
        }
    }

    /// Why a request with this path is refused.
    pub fn fault(&self) -> Option<TargetFault> {
        self.fault
    }

    /// Every way to read the path.
    ///
    /// # Errors
    /// Its [`fault`](Self::fault).
    pub fn readings(&self) -> Result<Readings<'_>, TargetFault> {
        match (self.fault, &self.path) {
            (Some(fault), _) => Err(fault),
            (None, Some(path)) => Readings::of(path),
            (None, None) => Ok(Readings::of_name(self.name())),
        }
    }

    /// Whether servers may read the path in different ways.
    pub fn is_ambiguous(&self) -> bool {
        self.path.is_some()
    }

    /// The name in its normalised spelling.
    pub fn name(&self) -> &str {
        match &self.name {
            Name::Known(row) => row.0,
            Name::Unknown(name) => name,
        }
    }

    /// The name for a metric: one of a fixed set.
    pub fn label(&self) -> OperationLabel {
        match self.name {
            Name::Known(row) => OperationLabel(row.0),
            Name::Unknown(_) => OperationLabel::OTHER,
        }
    }

    /// What tells it from other operations. A known one that is hidden in some reading counts as that one, so that no path avoids
    /// what holds it.
    pub fn id(&self) -> OperationId {
        let hash = match self.known.known() {
            Some(_) => 0,
            None => {
                let mut hasher = DefaultHasher::new();
                self.name().hash(&mut hasher);
                hasher.finish()
            }
        };
        OperationId {
            label: self.known,
            hash,
        }
    }

    /// Whether the table has it.
    pub fn is_known(&self) -> bool {
        matches!(self.name, Name::Known(_))
    }

    /// Whether the path is one of the admin listener's, and none of DevRev's.
    pub fn is_of_admin(&self) -> bool {
        const PATHS: [&str; 13] = [
            "",
            "callers",
            "config",
            "deprecations",
            "explain",
            "healthz",
            "livez",
            "log-level",
            "metrics",
            "quota",
            "readyz",
            "reload",
            "status",
        ];
        !self.is_known() && PATHS.contains(&self.name())
    }

    /// Whether the call only reads, so that it may be repeated.
    pub fn is_read(&self, method: &Method) -> bool {
        !self.writes && (self.reads || method == Method::GET || method == Method::HEAD)
    }

    /// Whether DevRev has deprecated the operation as a whole.
    pub fn is_deprecated(&self) -> bool {
        matches!(self.name, Name::Known(row) if row.1.deprecated)
    }

    /// Whether the operation is beta at DevRev, so that it needs `X-Devrev-Scope: beta`.
    pub fn is_beta(&self) -> bool {
        matches!(self.name, Name::Known(row) if row.1.beta)
    }

    /// Whether the call carries a DevRev token. One that does not takes no quota; see
    /// [`Caller::quota_group`](crate::types::Caller::quota_group).
    pub fn takes_credential(&self) -> bool {
        !self.callback
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

/// The path of revgate's own calls about a token. Of the operations that only read and need no argument, it is the one that is
/// about the token itself: any token may ask it, whereas `dev-users.self` answers for developers alone.
pub const TOKEN_INFO: &str = "/auth-tokens.info";

/// Tells operations apart, in little memory however long a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OperationId {
    label: OperationLabel,
    /// Of an unknown operation's name.
    hash: u64,
}

impl OperationId {
    /// Of requests whose operation is not known.
    pub const NONE: OperationId = OperationId {
        label: OperationLabel::OTHER,
        hash: 0,
    };

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

impl<'de> Deserialize<'de> for OperationLabel {
    /// A name that the table does not have is "other".
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = <&str>::deserialize(deserializer)?;
        Ok(find(name).map_or(OperationLabel::OTHER, |row| OperationLabel(row.0)))
    }
}

label_enum! {
    /// Whether repeating a call changes anything.
    pub enum Class {
        Read = "read",
        Write = "write",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        spellings::{path, server},
        *,
    };
    use crate::label::assert_labels;

    #[test]
    fn classes_are_called_as_the_metrics_call_them() {
        assert_labels!(Class: "read" "write");
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

    /// What each spelling decides, beside `allow` and `deny`.
    #[test]
    fn the_strictest_reading_decides() {
        // The path, its name, what holds it, whether it takes a token, and whether it only reads by GET and by POST.
        type Row = (&'static str, &'static str, &'static str, bool, bool, bool);
        #[rustfmt::skip]
        let table: [Row; 17] = [
            ("/works.list", "works.list", "works.list", true, true, true),
            ("/internal/works.list", "internal/works.list", "works.list", true, true, true),
            ("/internal/search.hybrid", "internal/search.hybrid", "search.hybrid", true, true, true),
            ("/internal/things.get", "internal/things.get", "other", true, true, true),
            ("/mcp/v1", "mcp/v1", "other", true, true, false),
            ("/", "", "other", true, true, false),
            ("/internal/keyrings.authorize", "internal/keyrings.authorize", "keyrings.authorize", false, false, false),
            ("/keyrings.authorize;x", "keyrings.authorize", "keyrings.authorize", false, false, false),
            ("/internal%3f/keyrings.authorize", "internal", "keyrings.authorize", false, false, false),
            ("/works.list%23/keyrings.authorize", "works.list", "works.list", false, false, false),
            ("/works.list%2523/works.create", "works.list", "works.list", true, false, false),
            ("/internal/works.create", "internal/works.create", "works.create", true, false, false),
            ("/works.create/x.list", "works.create/x.list", "works.create", true, false, false),
            ("/x.create%3f/y.list", "x.create", "other", true, true, false),
            ("/x.list%3f/y.create", "x.list", "other", true, true, false),
            ("/x%3f/works.list", "x", "works.list", true, true, true),
            ("/x%5cworks.list", "x/works.list", "works.list", true, true, true),
        ];
        for (path, name, held_as, takes, by_get, by_post) in table {
            let operation = Operation::from_path(path);
            assert_eq!(operation.fault(), None, "{path}");
            assert_eq!(operation.name(), name, "{path}");
            assert_eq!(operation.id().label().label(), held_as, "{path}");
            assert_eq!(operation.takes_credential(), takes, "{path}");
            assert_eq!(operation.is_read(&Method::GET), by_get, "{path}");
            assert_eq!(operation.is_read(&Method::POST), by_post, "{path}");
        }
    }

    #[test]
    fn a_path_with_a_fault_has_no_rights() {
        let operation = Operation::from_path("/works.list%00");
        assert!(operation.fault().is_some() && operation.readings().is_err());
        assert!(!operation.takes_credential() && !operation.is_read(&Method::GET));
        assert_eq!(operation.label(), OperationLabel::OTHER);
    }

    #[test]
    fn deprecated_and_beta() {
        assert!(Operation::from_path("/rev-users.link").is_deprecated());
        assert!(Operation::from_path("/rev-users.unlink").is_beta());
        assert!(!Operation::from_path("/rev-users.get").is_deprecated());
    }

    proptest! {
        /// Whatever server reads whatever path: it finds no token where it takes a callback to be, and nothing is repeated
        /// that it takes for a write.
        #[test]
        fn no_server_finds_a_callback_with_a_token(path in path("keyrings.authorize"), server in server()) {
            let operation = Operation::from_path(&path);
            if server.read(&path).is_some_and(|read| read == CALLBACK) {
                prop_assert!(!operation.takes_credential(), "{path:?} {server:?}");
                prop_assert!(!operation.is_read(&Method::GET), "{path:?} {server:?}");
            }
        }

        #[test]
        fn what_holds_an_operation_holds_it_in_every_spelling(path in path("works.create"), server in server()) {
            let operation = Operation::from_path(&path);
            if operation.fault().is_none() && server.read(&path).is_some_and(|read| read == "works.create") {
                prop_assert!(operation.id().is_known(), "{path:?} {server:?}");
                prop_assert!(!operation.is_read(&Method::GET), "{path:?} {server:?}");
            }
        }
    }
}
