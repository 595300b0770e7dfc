//! DevRev's objects as the simulator has them: the fields of each kind, and by which of them lists are filtered.

mod people;
mod talk;
mod work;

use super::ids::Leaf;

/// Objects with operations of their own: `works.create`, `works.get` and so on.
#[derive(Debug)]
pub(super) struct Family {
    /// As in the operations' names.
    pub name: &'static str,
    /// The key of one object in an answer, and of several.
    pub one: &'static str,
    pub many: &'static str,
    /// Its kinds. With more than one, `type` says which.
    pub leaves: &'static [Leaf],
    /// Whether a request to create one has a `type`.
    pub typed: bool,
    /// Beside `get` and `list`.
    pub actions: &'static [&'static str],
    pub fields: &'static [Field],
    pub filters: &'static [(&'static str, Filter)],
    /// The field whose values no two objects may have in common.
    pub unique: Option<&'static str>,
}

#[derive(Debug)]
pub(super) struct Field {
    pub name: &'static str,
    pub shape: Shape,
    pub create: Create,
    pub update: Update,
    /// The kinds that have it; all if it is empty.
    pub only: &'static [Leaf],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Create {
    Required,
    Optional,
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Update {
    Plain,
    /// As `{"set": value}`.
    Set,
    Never,
}

/// What a value must be, and how it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Of so many characters.
    Text(usize, usize),
    Texts,
    Flag,
    Number,
    /// A number in requests, and an object with a label in answers.
    Choice,
    /// RFC 3339.
    Date,
    OneOf(&'static [&'static str]),
    /// The id of an object of these kinds, shown as a summary. Of any kind if there is none.
    Id(&'static [Leaf]),
    Ids(&'static [Leaf]),
    /// An id that is shown as it is, with the object's display id and type beside it.
    Object,
    /// `[{"id": tag, "value"?: text}]`.
    Tags,
    /// `{"name": text}`.
    Stage,
    /// Any object or list; kept as it is.
    Map,
    List,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filter {
    Ids,
    Texts,
    Flag,
    Numbers,
    /// `NAME.after` and `NAME.before`.
    Date,
    /// One id, which must be there.
    Object,
}

pub(super) const USERS: &[Leaf] = &[
    Leaf::DevUser,
    Leaf::RevUser,
    Leaf::ServiceAccount,
    Leaf::SysUser,
];
const WORK: &[Leaf] = &[Leaf::Issue, Leaf::Ticket, Leaf::Task, Leaf::Opportunity];
const PART: &[Leaf] = &[
    Leaf::Product,
    Leaf::Capability,
    Leaf::Feature,
    Leaf::Enhancement,
];
const CHILDREN: &[Leaf] = &[Leaf::Capability, Leaf::Feature, Leaf::Enhancement];
const ISSUE: &[Leaf] = &[Leaf::Issue];
const TICKET: &[Leaf] = &[Leaf::Ticket];
const ANY: &[Leaf] = &[];

const TEXT: Shape = Shape::Text(0, 65_536);
const NAME: Shape = Shape::Text(1, 256);
const CRUD: &[&str] = &["create", "update", "delete"];

const fn optional(name: &'static str, shape: Shape) -> Field {
    Field {
        name,
        shape,
        create: Create::Optional,
        update: Update::Plain,
        only: ANY,
    }
}

const fn required(name: &'static str, shape: Shape) -> Field {
    Field {
        create: Create::Required,
        ..optional(name, shape)
    }
}

/// An update replaces the whole list, as `{"set": […]}`.
const fn set(field: Field) -> Field {
    Field {
        update: Update::Set,
        ..field
    }
}

/// Given when it is created, and then fixed.
const fn fixed(field: Field) -> Field {
    Field {
        update: Update::Never,
        ..field
    }
}

/// Only changed.
const fn later(field: Field) -> Field {
    Field {
        create: Create::Never,
        ..field
    }
}

const fn of(only: &'static [Leaf], field: Field) -> Field {
    Field { only, ..field }
}

pub(super) const FAMILIES: &[Family] = &[
    work::WORKS,
    work::PARTS,
    work::TAGS,
    people::ACCOUNTS,
    people::REV_ORGS,
    people::REV_USERS,
    people::DEV_USERS,
    talk::TIMELINE_ENTRIES,
    talk::CONVERSATIONS,
    talk::ARTICLES,
];

pub(super) fn family(name: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.name == name)
}

pub(super) fn family_of(leaf: Leaf) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.leaves.contains(&leaf))
}
