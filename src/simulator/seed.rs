//! The objects that a simulator begins with, so that no list is empty. They are always the same.

use serde_json::{Value, json};

use super::families::family_of;
use super::ids::Leaf;
use super::objects::complete;
use super::operations::SELF;
use super::store::{By, Store};

/// 2025-03-01T09:30:00Z; each object a minute later.
const FIRST: u64 = 1_740_821_400_000;
const MINUTE: u64 = 60_000;

/// How many of each kind, at most.
const TICKETS: u64 = 100;
const ISSUES: u64 = 20;
const ACCOUNTS: u64 = 120;
const REV_ORGS: u64 = 30;
const REV_USERS: u64 = 40;

/// The user that every token without a user of its own is of.
pub(super) fn own_user(store: &mut Store) {
    let own = json!({"full_name": "Grace Hopper", "display_name": "Grace Hopper", "email": "grace@example.com", "state": "active"});
    Seed { store, at: FIRST }.add(Leaf::DevUser, own);
}

pub(super) fn objects(store: &mut Store) {
    let mut seed = Seed { store, at: FIRST };
    for name in [
        "Ada Lovelace",
        "Alan Turing",
        "Mary Kenneth Keller",
        "Barbara Liskov",
    ] {
        let first = name.split(' ').next().unwrap_or(name).to_lowercase();
        let email = format!("{first}@example.com");
        seed.add(
            Leaf::DevUser,
            json!({"full_name": name, "display_name": name, "email": email, "state": "active"}),
        );
    }
    for name in [
        "bug",
        "billing",
        "onboarding",
        "performance",
        "security",
        "question",
        "feedback",
        "vip",
    ] {
        seed.add(Leaf::Tag, json!({"name": name}));
    }
    seed.add(
        Leaf::Product,
        json!({"name": "Analytical Engine", "owned_by": [SELF]}),
    );
    for (number, name) in ["Mill", "Store", "Printer"].iter().enumerate() {
        seed.add(
            Leaf::Capability,
            json!({"name": name, "owned_by": [user(number)], "parent_part": [part("product", 1)]}),
        );
    }
    for number in 0..5 {
        let parent = part("capability", number % 3 + 1);
        seed.add(Leaf::Feature, json!({"name": format!("Feature {}", number + 1), "owned_by": [SELF], "parent_part": [parent]}));
    }
    seed.add(
        Leaf::Enhancement,
        json!({"name": "Faster carry", "owned_by": [SELF], "parent_part": [part("feature", 1)]}),
    );
    for number in 1..=ACCOUNTS {
        seed.add(Leaf::Account, json!({
            "display_name": format!("Account {number}"), "owned_by": [SELF],
            "external_refs": [format!("crm-{number}")], "tier": format!("tier_{}", number % 3 + 1),
        }));
    }
    for number in 1..=REV_ORGS {
        let account = format!("don:identity:dvrv-us-1:devo/0:account/{number}");
        seed.add(Leaf::RevOrg, json!({"display_name": format!("Org {number}"), "account": account, "external_ref": format!("org-{number}")}));
    }
    for number in 1..=REV_USERS {
        let org = format!(
            "don:identity:dvrv-us-1:devo/0:revo/{}",
            number % REV_ORGS + 1
        );
        seed.add(Leaf::RevUser, json!({
            "display_name": format!("Customer {number}"), "email": format!("customer-{number}@example.com"),
            "external_ref": format!("customer-{number}"), "rev_org": org,
        }));
    }
    for number in 1..=TICKETS {
        let tag = format!("don:core:dvrv-us-1:devo/0:tag/{}", number % 8 + 1);
        let tags = if number % 4 == 0 {
            json!([{"id": tag}])
        } else {
            json!([])
        };
        let severity = ["low", "medium", "high", "blocker"][index(number, 4)];
        seed.add(
            Leaf::Ticket,
            json!({
                "title": format!("Ticket {number}"), "owned_by": [user(index(number, 5))],
                "applies_to_part": part("feature", number % 5 + 1), "severity": severity,
                "rev_org": format!("don:identity:dvrv-us-1:devo/0:revo/{}", number % REV_ORGS + 1),
                "tags": tags,
            }),
        );
    }
    for number in 1..=ISSUES {
        let priority = ["p0", "p1", "p2", "p3"][index(number, 4)];
        seed.add(
            Leaf::Issue,
            json!({
                "title": format!("Issue {number}"), "owned_by": [user(index(number, 5))],
                "applies_to_part": part("capability", number % 3 + 1), "priority": priority,
            }),
        );
    }
    for number in 0..12 {
        seed.add(Leaf::Conversation, json!({"title": format!("Conversation {}", number + 1), "owned_by": [user(index(number, 5))]}));
        seed.add(Leaf::Article, json!({
            "title": format!("Article {}", number + 1), "owned_by": [SELF], "status": "published",
            "resource": {"url": format!("https://docs.example.com/{}", number + 1)},
            "applies_to_parts": [part("feature", number % 5 + 1)],
        }));
        let object = format!("don:core:dvrv-us-1:devo/0:ticket/{}", number % 3 + 1);
        seed.add(
            Leaf::Comment,
            json!({"object": object, "body": format!("Comment {}", number + 1)}),
        );
    }
}

fn index(number: u64, of: usize) -> usize {
    usize::try_from(number).unwrap_or_default() % of
}

fn user(index: usize) -> String {
    format!("don:identity:dvrv-us-1:devo/0:devu/{}", index + 1)
}

fn part(word: &str, number: u64) -> String {
    format!("don:core:dvrv-us-1:devo/0:{word}/{number}")
}

struct Seed<'a> {
    store: &'a mut Store,
    at: u64,
}

impl Seed<'_> {
    fn add(&mut self, leaf: Leaf, fields: Value) {
        let Value::Object(mut fields) = fields else {
            return;
        };
        let Some(family) = family_of(leaf) else {
            return;
        };
        let by = By {
            user: SELF,
            now: self.at,
        };
        self.at += MINUTE;
        complete(leaf, &mut fields, by);
        // They are far fewer than what fits.
        let _ = self.store.insert(family, leaf, fields, by);
    }
}
