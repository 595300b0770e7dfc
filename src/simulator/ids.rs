//! DevRev's ids: what an id names, and its two forms, such as `don:core:dvrv-us-1:devo/0:ticket/7` and `TKT-7`.

/// What an id can name. The simulator has objects of each of these, except of the last two, which only own or write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Leaf {
    Issue,
    Ticket,
    Task,
    Opportunity,
    Product,
    Capability,
    Feature,
    Enhancement,
    Account,
    RevOrg,
    RevUser,
    DevUser,
    Tag,
    Comment,
    Conversation,
    Article,
    ServiceAccount,
    SysUser,
}

/// Its name in `type`, the service and the word of its DON, the prefix of its display id.
type Names = (Leaf, &'static str, &'static str, &'static str, &'static str);

const NAMES: &[Names] = &[
    (Leaf::Issue, "issue", "core", "issue", "ISS"),
    (Leaf::Ticket, "ticket", "core", "ticket", "TKT"),
    (Leaf::Task, "task", "core", "task", "TASK"),
    (
        Leaf::Opportunity,
        "opportunity",
        "core",
        "opportunity",
        "OPP",
    ),
    (Leaf::Product, "product", "core", "product", "PROD"),
    (Leaf::Capability, "capability", "core", "capability", "CAPL"),
    (Leaf::Feature, "feature", "core", "feature", "FEAT"),
    (
        Leaf::Enhancement,
        "enhancement",
        "core",
        "enhancement",
        "ENH",
    ),
    (Leaf::Account, "account", "identity", "account", "ACC"),
    (Leaf::RevOrg, "rev_org", "identity", "revo", "REV"),
    (Leaf::RevUser, "rev_user", "identity", "revu", "REVU"),
    (Leaf::DevUser, "dev_user", "identity", "devu", "DEVU"),
    (Leaf::Tag, "tag", "core", "tag", "TAG"),
    (
        Leaf::Comment,
        "timeline_comment",
        "core",
        "comment",
        "COMMENT",
    ),
    (
        Leaf::Conversation,
        "conversation",
        "core",
        "conversation",
        "CONV",
    ),
    (Leaf::Article, "article", "core", "article", "ART"),
    (
        Leaf::ServiceAccount,
        "service_account",
        "identity",
        "svcacc",
        "SVCACC",
    ),
    (Leaf::SysUser, "sys_user", "identity", "sysu", "SYSU"),
];

impl Leaf {
    fn names(self) -> &'static Names {
        // The table has a row for each, in this order; a test compares them.
        &NAMES[self as usize]
    }

    /// As in an object's `type`.
    pub(super) fn name(self) -> &'static str {
        self.names().1
    }

    pub(super) fn named(name: &str) -> Option<Leaf> {
        let row = NAMES.iter().find(|(_, kind, ..)| *kind == name)?;
        Some(row.0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Id {
    pub leaf: Leaf,
    /// What tells it from others of its kind: a number, if the simulator gave it.
    pub local: String,
}

/// What a text is as an id.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Id(Id),
    /// An id of something that the simulator does not have, such as an artifact.
    Other,
    /// No id at all.
    Malformed,
}

impl Id {
    pub(super) fn new(leaf: Leaf, number: u64) -> Id {
        Id {
            leaf,
            local: number.to_string(),
        }
    }

    #[cfg(test)]
    pub(super) fn number(&self) -> Option<u64> {
        self.local.parse().ok()
    }

    pub(super) fn don(&self) -> String {
        let (_, _, service, word, _) = self.leaf.names();
        format!("don:{service}:dvrv-us-1:devo/0:{word}/{}", self.local)
    }

    pub(super) fn display(&self) -> String {
        format!("{}-{}", self.leaf.names().4, self.local)
    }

    pub(super) fn read(text: &str) -> Reading {
        let plain = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        let row = if let Some(don) = text.strip_prefix("don:") {
            // What is named stands last; what it belongs to may stand before it.
            let Some((word, local)) = don.rsplit(':').next().and_then(|last| last.split_once('/'))
            else {
                return Reading::Malformed;
            };
            if don.split(':').count() < 4 || local.is_empty() {
                return Reading::Malformed;
            }
            let row = NAMES.iter().find(|row| row.3 == word);
            row.map(|row| (row.0, local))
        } else {
            match text.split_once('-') {
                Some((prefix, local)) if plain(prefix) && !local.is_empty() => {
                    let row = NAMES.iter().find(|row| row.4.eq_ignore_ascii_case(prefix));
                    row.map(|row| (row.0, local))
                }
                _ => return Reading::Malformed,
            }
        };
        match row {
            Some((leaf, local)) => Reading::Id(Id {
                leaf,
                local: local.to_owned(),
            }),
            None => Reading::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_an_id_name_the_same() {
        for (position, (leaf, name, ..)) in NAMES.iter().enumerate() {
            assert_eq!(*leaf as usize, position, "{name}");
            assert_eq!(Leaf::named(name), Some(*leaf));
            let id = Id::new(*leaf, 7);
            assert_eq!(Id::read(&id.don()), Reading::Id(id.clone()));
            assert_eq!(Id::read(&id.display()), Reading::Id(id));
        }
    }

    #[test]
    fn what_is_no_id_of_the_simulator_is_told_from_what_is_no_id() {
        let user = Id {
            leaf: Leaf::RevUser,
            local: "131".into(),
        };
        let nested = "don:identity:dvrv-us-1:devo/0:revo/6:revu/131";
        assert_eq!(Id::read(nested), Reading::Id(user));
        for other in [
            "don:core:dvrv-us-1:devo/0:artifact/1",
            "ARTIFACT-1",
            "GROUP-9",
        ] {
            assert_eq!(Id::read(other), Reading::Other, "{other}");
        }
        for bad in [
            "",
            "7",
            "TKT",
            "TKT-",
            "-7",
            "don:core",
            "don:ticket/7",
            "a b-1",
        ] {
            assert_eq!(Id::read(bad), Reading::Malformed, "{bad}");
        }
    }
}
