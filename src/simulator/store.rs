//! The objects of one simulator. They live as long as it does.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::families::{Family, family_of};
use super::ids::{Id, Leaf};

/// How many objects there may be, those of the beginning included, and how large they may be together, as JSON. A test of a team's makes
/// some; a service that makes them in a loop must not fill the memory of the machine.
pub(super) const OBJECTS: usize = 10_000;
pub(super) const BYTES: usize = 32 * 1024 * 1024;

#[derive(Debug, Clone)]
pub(super) struct Object {
    pub id: Id,
    /// By which objects are ordered: each has one of its own.
    pub number: u64,
    pub fields: Map<String, Value>,
    /// Milliseconds since the epoch.
    pub created: u64,
    pub modified: u64,
    /// Users, by their DONs.
    pub created_by: String,
    pub modified_by: String,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    /// By family, oldest first.
    objects: BTreeMap<(&'static str, u64), Object>,
    numbers: HashMap<Id, u64>,
    /// The latest number in ids of each kind. They are never used again.
    latest: HashMap<Leaf, u64>,
    next: u64,
    bytes: usize,
    /// Objects as answers show them, by number, until something changes: most calls read, and a page shows many.
    shown: RefCell<HashMap<u64, Arc<str>>>,
}

/// How many objects are kept as they are shown, so that a store that is full is not held twice.
const SHOWN: usize = 1024;

/// There is no room for another object, or for a larger one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// Who does something, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct By<'a> {
    pub user: &'a str,
    pub now: u64,
}

impl Store {
    /// # Errors
    /// When it is full; nothing has changed then.
    pub(super) fn insert(
        &mut self,
        family: &'static Family,
        leaf: Leaf,
        fields: Map<String, Value>,
        by: By<'_>,
    ) -> Result<&Object, Full> {
        let size = size(&fields);
        if self.objects.len() >= OBJECTS || self.bytes + size > BYTES {
            return Err(Full);
        }
        self.bytes += size;
        self.shown.get_mut().clear();
        let latest = self.latest.entry(leaf).or_default();
        *latest += 1;
        let id = Id::new(leaf, *latest);
        let number = self.next;
        self.next += 1;
        self.numbers.insert(id.clone(), number);
        let object = Object {
            id,
            number,
            fields,
            created: by.now,
            modified: by.now,
            created_by: by.user.to_owned(),
            modified_by: by.user.to_owned(),
        };
        Ok(self.objects.entry((family.name, number)).or_insert(object))
    }

    pub(super) fn get(&self, id: &Id) -> Option<&Object> {
        let family = family_of(id.leaf)?;
        self.objects.get(&(family.name, *self.numbers.get(id)?))
    }

    /// Changes an object; `None` removes a field.
    ///
    /// # Errors
    /// When it is full; nothing has changed then.
    pub(super) fn update(
        &mut self,
        id: &Id,
        changes: Vec<(&'static str, Option<Value>)>,
        by: By<'_>,
    ) -> Result<Option<&Object>, Full> {
        let place = family_of(id.leaf).zip(self.numbers.get(id));
        let place = place.map(|(family, number)| (family.name, *number));
        let Some(object) = place.and_then(|place| self.objects.get_mut(&place)) else {
            return Ok(None);
        };
        let mut fields = object.fields.clone();
        for (name, value) in changes {
            match value {
                Some(value) => fields.insert(name.to_owned(), value),
                None => fields.remove(name),
            };
        }
        let bytes = self.bytes - size(&object.fields) + size(&fields);
        if bytes > BYTES {
            return Err(Full);
        }
        self.bytes = bytes;
        self.shown.get_mut().clear();
        object.fields = fields;
        object.modified = by.now;
        by.user.clone_into(&mut object.modified_by);
        Ok(Some(object))
    }

    /// Removes an object, with the timeline entries that belong to it.
    pub(super) fn remove(&mut self, id: &Id) -> bool {
        let Some(family) = family_of(id.leaf) else {
            return false;
        };
        let Some(number) = self.numbers.remove(id) else {
            return false;
        };
        self.shown.get_mut().clear();
        if let Some(object) = self.objects.remove(&(family.name, number)) {
            self.bytes -= size(&object.fields);
        }
        if id.leaf != Leaf::Comment {
            let don = Value::from(id.don());
            let of_it = |object: &&Object| object.fields.get("object") == Some(&don);
            let entries = family_of(Leaf::Comment).into_iter();
            let entries = entries.flat_map(|family| self.all(family).filter(of_it));
            let entries: Vec<Id> = entries.map(|entry| entry.id.clone()).collect();
            for entry in &entries {
                self.remove(entry);
            }
        }
        true
    }

    /// An object as `show` writes it, which is asked once until something changes.
    pub(super) fn shown(&self, object: &Object, show: impl FnOnce() -> String) -> Arc<str> {
        if let Some(text) = self.shown.borrow().get(&object.number) {
            return Arc::clone(text);
        }
        let text: Arc<str> = show().into();
        let mut shown = self.shown.borrow_mut();
        if shown.len() >= SHOWN {
            shown.clear();
        }
        shown.insert(object.number, Arc::clone(&text));
        text
    }

    /// All objects of a family, oldest first.
    pub(super) fn all(&self, family: &Family) -> impl Iterator<Item = &Object> {
        let range = (family.name, 0)..=(family.name, u64::MAX);
        self.objects.range(range).map(|(_, object)| object)
    }
}

fn size(fields: &Map<String, Value>) -> usize {
    let text = |value: &Value| match value {
        Value::String(text) => text.len(),
        other => other.to_string().len(),
    };
    fields
        .iter()
        .map(|(name, value)| name.len() + text(value))
        .sum()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const BY: By<'static> = By {
        user: "don:identity:dvrv-us-1:devo/0:devu/1",
        now: 1,
    };

    fn tag(store: &mut Store, text: &str) -> Result<Id, Full> {
        let family = family_of(Leaf::Tag).unwrap();
        let fields = json!({"name": text}).as_object().unwrap().clone();
        store
            .insert(family, Leaf::Tag, fields, BY)
            .map(|tag| tag.id.clone())
    }

    #[test]
    fn it_holds_so_many_objects_and_so_many_bytes() {
        let mut store = Store::default();
        let mut ids = Vec::new();
        for _ in 0..OBJECTS {
            ids.push(tag(&mut store, "x").unwrap());
        }
        assert_eq!(tag(&mut store, "x"), Err(Full));
        assert!(store.remove(&ids[0]) && !store.remove(&ids[0]));
        let next = tag(&mut store, "x").unwrap();
        assert_eq!(
            next.number(),
            Some(OBJECTS as u64 + 1),
            "no id is used again"
        );

        let mut store = Store::default();
        let large = "x".repeat(BYTES / 2);
        let first = tag(&mut store, &large).unwrap();
        assert_eq!(tag(&mut store, &large), Err(Full));
        let second = tag(&mut store, "x").unwrap();
        let grow = |store: &mut Store| {
            let change = vec![("name", Some(Value::from(large.clone())))];
            store.update(&second, change, BY).is_ok()
        };
        assert!(!grow(&mut store));
        assert_eq!(store.get(&second).unwrap().fields["name"], "x");
        assert!(store.remove(&first) && grow(&mut store));
        assert!(store.remove(&second));
        assert_eq!((store.bytes, store.numbers.len()), (0, 0));
    }

    #[test]
    fn an_objects_timeline_goes_with_it() {
        let mut store = Store::default();
        let of = tag(&mut store, "x").unwrap();
        let other = tag(&mut store, "y").unwrap();
        let timeline = family_of(Leaf::Comment).unwrap();
        for object in [&of, &of, &other] {
            let fields = json!({"object": object.don()}).as_object().unwrap().clone();
            store.insert(timeline, Leaf::Comment, fields, BY).unwrap();
        }
        assert!(store.remove(&of));
        let left: Vec<_> = store
            .all(timeline)
            .map(|entry| entry.id.display())
            .collect();
        assert_eq!(left, ["COMMENT-3"]);
    }
}
