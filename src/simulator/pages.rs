//! Lists: which objects a request asks for, in which order, and which part of them.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answers::{self, Answer};
use super::asked::{Asked, Kind};
use super::families::{Family, Filter, Shape};
use super::fields;
use super::ids::Leaf;
use super::store::{Object, Store};

type Checked<T> = Result<T, Box<Answer>>;

/// Objects on a page, unless a request names another number, and the most that it may.
const LIMIT: u64 = 50;
const LIMIT_MAX: u64 = 100;

#[derive(Debug)]
pub(super) struct Page<'a> {
    pub objects: Vec<&'a Object>,
    /// For the page after this one, if there is one: with the mode "after".
    pub next: Option<String>,
    /// For the page before this one, with the mode "before".
    pub prev: Option<String>,
    /// How many objects all pages have together.
    pub total: usize,
}

/// All objects of a family that the request asks for, in its order.
pub(super) fn all<'a>(
    store: &'a Store,
    family: &'static Family,
    asked: &Asked<'_>,
) -> Checked<(Vec<&'a Object>, Order)> {
    let wanted = wanted(family, asked)?;
    let order = Order::asked(family, asked)?;
    let fits = |object: &&Object| {
        wanted
            .iter()
            .all(|(name, wanted)| wanted.fits(name, object))
    };
    let mut objects: Vec<_> = store.all(family).filter(fits).collect();
    if !order.0.is_empty() {
        objects.sort_by(|a, b| order.compare(&order.of(a), &order.of(b)));
    }
    Ok((objects, order))
}

/// # Errors
/// When the request is not as DevRev wants it.
pub(super) fn page<'a>(
    store: &'a Store,
    family: &'static Family,
    asked: &Asked<'_>,
) -> Checked<Page<'a>> {
    let (all, order) = all(store, family, asked)?;
    let limit = count("limit", asked, LIMIT)?.min(LIMIT_MAX);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let before = match asked.get("mode", Kind::Text) {
        None => false,
        Some(mode) => match fields::text("mode", &mode)? {
            "after" => false,
            "before" => true,
            other => return Err(fields::enum_value("mode", other, &["after", "before"])),
        },
    };
    let cursor = asked.get("cursor", Kind::Text);
    let cursor = cursor
        .as_ref()
        .map(|text| fields::text("cursor", text))
        .transpose()?;
    let cursor = cursor.filter(|text| !text.is_empty());
    let cursor = cursor.map(|text| order.read(family, text)).transpose()?;
    // A place between objects and not a number of them, so that what comes and goes meanwhile shifts nothing.
    let split = |at: &Position, past: bool| {
        all.partition_point(|object| {
            let order = order.compare(&order.of(object), at);
            order.is_lt() || (past && order.is_eq())
        })
    };
    let (start, end) = match (&cursor, before) {
        (None, false) => (0, limit.min(all.len())),
        (None, true) => (all.len().saturating_sub(limit), all.len()),
        (Some(at), false) => {
            let start = split(at, true);
            (start, start.saturating_add(limit).min(all.len()))
        }
        (Some(at), true) => {
            let end = split(at, false);
            (end.saturating_sub(limit), end)
        }
    };
    let objects = all[start..end].to_vec();
    let cursor = |object: Option<&&Object>| object.map(|object| order.write(family, object));
    Ok(Page {
        next: cursor(objects.last()).filter(|_| end < all.len()),
        prev: cursor(objects.first()).filter(|_| start > 0),
        total: all.len(),
        objects,
    })
}

/// A number of objects. A text with digits is taken too.
pub(super) fn count(name: &str, asked: &Asked<'_>, otherwise: u64) -> Checked<u64> {
    let number = match asked.get(name, Kind::Number) {
        None => return Ok(otherwise),
        Some(Value::String(text)) => text.parse().ok(),
        Some(value) => value.as_u64(),
    };
    number.filter(|number| *number > 0).ok_or_else(|| {
        let message = format!("{name} must be a positive number");
        Box::new(answers::field("invalid_field", name, &message))
    })
}

#[derive(Debug)]
enum Wanted {
    /// One of these.
    Any(Vec<String>),
    /// Milliseconds since the epoch, both inclusive.
    After(i128),
    Before(i128),
}

fn wanted(family: &Family, asked: &Asked<'_>) -> Checked<Vec<(&'static str, Wanted)>> {
    let mut all = Vec::new();
    for (name, filter) in family.filters {
        let kind = match filter {
            Filter::Flag => Kind::Flag,
            Filter::Numbers => Kind::Numbers,
            Filter::Object => Kind::Text,
            Filter::Ids | Filter::Texts | Filter::Date => Kind::Texts,
        };
        if *filter == Filter::Date {
            for (bound, wanted) in [
                ("after", Wanted::After as fn(i128) -> Wanted),
                ("before", Wanted::Before),
            ] {
                let bound = format!("{name}.{bound}");
                if let Some(value) = asked.get(&bound, Kind::Text) {
                    let at = fields::date(&bound, &value)?.unix_timestamp_nanos() / 1_000_000;
                    all.push((*name, wanted(at)));
                }
            }
            continue;
        }
        let Some(value) = asked.get(name, kind) else {
            if *filter == Filter::Object {
                return Err(fields::missing(name));
            }
            continue;
        };
        let each = |read: &dyn Fn(&Value) -> Checked<String>| {
            fields::list(name, &value)?
                .iter()
                .map(read)
                .collect::<Checked<Vec<_>>>()
        };
        let any = match filter {
            Filter::Ids => each(&|id| fields::id(name, id, &[]))?,
            Filter::Texts => each(&|text| fields::text(name, text).map(str::to_owned))?,
            Filter::Numbers => each(&|number| match number.is_number() {
                true => Ok(number.to_string()),
                false => Err(fields::json_type(name, "number", number)),
            })?,
            Filter::Flag if value.is_boolean() => vec![value.to_string()],
            Filter::Flag => return Err(fields::json_type(name, "bool", &value)),
            Filter::Object => vec![fields::id(name, &value, &[])?],
            Filter::Date => continue,
        };
        // DevRev takes an empty list for none.
        if !any.is_empty() {
            all.push((*name, Wanted::Any(any)));
        }
    }
    Ok(all)
}

impl Wanted {
    fn fits(&self, name: &str, object: &Object) -> bool {
        // Such a filter speaks of works of one kind, and says nothing of the others.
        let name = match name.split_once('.') {
            Some(("issue", _)) if object.id.leaf != Leaf::Issue => return true,
            Some(("ticket", _)) if object.id.leaf != Leaf::Ticket => return true,
            Some(("issue" | "ticket", name)) => name,
            _ => name,
        };
        match self {
            Wanted::Any(any) => values(object, name)
                .iter()
                .any(|value| any.iter().any(|one| one == value)),
            Wanted::After(at) => time(object, name).is_some_and(|time| time >= *at),
            Wanted::Before(at) => time(object, name).is_some_and(|time| time <= *at),
        }
    }
}

fn time(object: &Object, name: &str) -> Option<i128> {
    match name {
        "created_date" => Some(object.created.into()),
        "modified_date" => Some(object.modified.into()),
        _ => {
            let at = fields::date(name, object.fields.get(name)?).ok()?;
            Some(at.unix_timestamp_nanos() / 1_000_000)
        }
    }
}

/// What an object has in the place that a filter names.
fn values(object: &Object, name: &str) -> Vec<String> {
    let plain = |value: &Value| match value {
        Value::String(text) => text.clone(),
        // Of a tag.
        Value::Object(map) => map
            .get("id")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .into(),
        other => other.to_string(),
    };
    let name = match name {
        "type" => return vec![object.id.leaf.name().to_owned()],
        "created_by" => return vec![object.created_by.clone()],
        "modified_by" => return vec![object.modified_by.clone()],
        "stage.name" => {
            let name = object
                .fields
                .get("stage")
                .and_then(|stage| stage.get("name"));
            return name.map(plain).into_iter().collect();
        }
        "parent_part.parts" => "parent_part",
        "brands" => "brand",
        name => name,
    };
    match object.fields.get(name) {
        Some(Value::Array(values)) => values.iter().map(plain).collect(),
        Some(value) => vec![plain(value)],
        // What was never set is not so.
        None if name.starts_with("is_") || name == "needs_response" => vec!["false".to_owned()],
        None => Vec::new(),
    }
}

/// The order of a list: by these, and then by age.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order(Vec<By>);

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct By {
    name: String,
    descending: bool,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
enum Key {
    Number(u64),
    Text(String),
}

/// Where an object stands.
#[derive(Debug, Serialize, Deserialize)]
struct Position {
    keys: Vec<Key>,
    number: u64,
}

/// What a cursor holds. Clients must not look into it.
#[derive(Debug, Serialize, Deserialize)]
struct Cursor {
    list: String,
    order: Vec<By>,
    at: Position,
}

impl Order {
    fn asked(family: &Family, asked: &Asked<'_>) -> Checked<Order> {
        let Some(value) = asked.get("sort_by", Kind::Texts) else {
            return Ok(Order(Vec::new()));
        };
        let texts = fields::list("sort_by", &value)?.iter();
        let order = texts.map(|value| {
            let text = fields::text("sort_by", value)?;
            let (name, descending) = match (text.strip_prefix('-'), text.rsplit_once(':')) {
                (Some(name), _) => (name, true),
                (None, Some((name, "asc"))) => (name, false),
                (None, Some((name, "desc"))) => (name, true),
                _ => (text, false),
            };
            let of_family = |name: &str| {
                let mut fields = family.fields.iter();
                let texts = |shape| matches!(shape, Shape::Text(..) | Shape::OneOf(_) | Shape::Date);
                fields.any(|field| field.name == name && texts(field.shape))
            };
            if !["created_date", "modified_date"].contains(&name) && !of_family(name) {
                let message = format!("{text:?}: write a field that this list can be sorted by, such as \"created_date:desc\"");
                return Err(Box::new(answers::field("invalid_field", "sort_by", &message)));
            }
            let name = name.to_owned();
            Ok(By { name, descending })
        });
        order.collect::<Checked<_>>().map(Order)
    }

    fn of(&self, object: &Object) -> Position {
        let key = |by: &By| match by.name.as_str() {
            "created_date" => Key::Number(object.created),
            "modified_date" => Key::Number(object.modified),
            name => {
                let text = object.fields.get(name).and_then(Value::as_str);
                Key::Text(text.unwrap_or_default().to_owned())
            }
        };
        Position {
            keys: self.0.iter().map(key).collect(),
            number: object.number,
        }
    }

    fn compare(&self, a: &Position, b: &Position) -> std::cmp::Ordering {
        let pairs = self.0.iter().zip(a.keys.iter().zip(&b.keys));
        let mut orders = pairs.map(|(by, (a, b))| match by.descending {
            true => b.cmp(a),
            false => a.cmp(b),
        });
        let first = orders.find(|order| order.is_ne());
        first.unwrap_or_else(|| a.number.cmp(&b.number))
    }

    fn write(&self, family: &Family, object: &Object) -> String {
        let cursor =
            serde_json::json!({"list": family.name, "order": self.0, "at": self.of(object)});
        URL_SAFE_NO_PAD.encode(cursor.to_string())
    }

    fn read(&self, family: &Family, text: &str) -> Checked<Position> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        let cursor = bytes.and_then(|bytes| serde_json::from_slice::<Cursor>(&bytes).ok());
        let fits = |cursor: &Cursor| {
            cursor.list == family.name
                && cursor.order == self.0
                && cursor.at.keys.len() == self.0.len()
        };
        match cursor.filter(fits) {
            Some(cursor) => Ok(cursor.at),
            None => Err(Box::new(answers::field(
                "invalid_field",
                "cursor",
                "not a cursor of this list in this order",
            ))),
        }
    }
}
