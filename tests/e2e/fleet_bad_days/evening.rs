//! What a day has cost, beside what it may cost.

use std::time::Duration;

use serde_json::Value;

use super::{
    BUSY, Replica, TIGHT, TIMEOUT,
    devrev::{Quota, Windows},
    load::Call,
};

/// What a row may cost in any window.
pub struct Bounds {
    /// 429s.
    over: u64,
    /// The same, if a replica was alone for a moment: on a busy machine an exchange may take too long where nothing is wrong.
    over_alone: u64,
    /// Units.
    unused: u64,
    /// Beside [`BUSY`]; not where somebody waits for what is frozen.
    pub delay: Option<Duration>,
}

impl Bounds {
    pub fn plenty() -> Bounds {
        Bounds {
            over: 0,
            over_alone: 0,
            unused: u64::MAX,
            delay: Some(TIMEOUT),
        }
    }

    pub fn tight(over: u64, unused: u64) -> Bounds {
        Bounds {
            over,
            over_alone: over,
            unused,
            // Its turn comes within a few windows, whatever becomes of Redis.
            delay: Some(Duration::from_secs(4 * TIGHT.window)),
        }
    }

    pub fn if_alone(mut self, over: u64) -> Bounds {
        self.over_alone = over.max(self.over);
        self
    }
}

pub struct Evening {
    row: &'static str,
    requests: usize,
    failed: Vec<Call>,
    longest: Duration,
    /// Those of which the use is known from end to end, and that the machine did not disturb.
    windows: usize,
    /// In the worst window.
    over: u64,
    unused: u64,
    /// What each replica told of the fleet, and how long it was alone. None of those that were killed.
    pub stories: Vec<Vec<Value>>,
    pub alone: Vec<f64>,
}

impl Evening {
    pub async fn new(
        (row, quota): (&'static str, Quota),
        calls: &[Call],
        windows: &Windows,
        replicas: &[Replica],
    ) -> Evening {
        let whole = windows.len().saturating_sub(1);
        let inner = windows.values().take(whole).skip(1);
        let inner = inner.filter(|spent| !spent.is_disturbed);
        let count = inner.clone().count();
        let mut evening = Evening {
            row,
            requests: calls.len(),
            failed: calls
                .iter()
                .filter(|call| call.status != 200)
                .cloned()
                .collect(),
            longest: calls.iter().map(|call| call.took).max().unwrap_or_default(),
            windows: count,
            over: windows
                .values()
                .map(|spent| spent.refused)
                .max()
                .unwrap_or(0),
            unused: inner
                .map(|spent| quota.limit - spent.used)
                .max()
                .unwrap_or(0),
            stories: Vec::new(),
            alone: Vec::new(),
        };
        for replica in replicas
            .iter()
            .filter(|replica| !*replica.given_up.borrow())
        {
            let gateway = &replica.gateway;
            assert_eq!(gateway.errors(), Vec::<Value>::new(), "{row}");
            assert_eq!(gateway.get("/readyz").await.0, 200, "{row}");
            evening.stories.push(gateway.story());
            let alone = gateway.metric("revgate_shared_alone_seconds_total").await;
            evening.alone.push(alone);
        }
        evening
    }

    #[allow(
        clippy::print_stdout,
        reason = "for the table of the docs, and captured otherwise"
    )]
    pub fn report(&self, bounds: &Bounds) {
        let alone = self.longest_alone();
        let unused = match bounds.unused {
            u64::MAX => "-".to_owned(),
            bound => format!("{} of at most {bound}", self.unused),
        };
        println!(
            "bad day | {} | requests {} | failed {} | longest {} ms | alone {:.1} s | windows {} | 429s in a window {} of at most {} | unused in a window {unused}",
            self.row,
            self.requests,
            self.failed.len(),
            self.longest.as_millis(),
            alone,
            self.windows,
            self.over,
            self.may_go_over(bounds),
        );
    }

    fn longest_alone(&self) -> f64 {
        self.alone.iter().copied().fold(0.0, f64::max)
    }

    fn may_go_over(&self, bounds: &Bounds) -> u64 {
        match self.longest_alone() > 0.0 {
            true => bounds.over_alone,
            false => bounds.over,
        }
    }

    pub fn judge(&self, bounds: &Bounds) {
        let row = self.row;
        if let Some(call) = self.failed.first() {
            panic!("{row}: {call:?}: {}", call.told);
        }
        assert!(
            self.over <= self.may_go_over(bounds),
            "{row}: {} 429s",
            self.over
        );
        assert!(
            self.unused <= bounds.unused,
            "{row}: {} units are left",
            self.unused
        );
        if let Some(delay) = bounds.delay {
            assert!(self.longest < delay + BUSY, "{row}: {:?}", self.longest);
        }
    }

    /// Each replica told that it could use Redis, once that it could not, with this fault, and once that it could again; and was alone
    /// meanwhile.
    pub fn is_told_in_order(&self, faults: &[&str]) -> &Evening {
        for (story, alone) in self.stories.iter().zip(&self.alone) {
            self.is_one_outage(story, faults);
            assert!(*alone > 0.0, "{}: {story:?}", self.row);
        }
        self
    }

    /// Of one replica.
    pub fn is_one_outage(&self, story: &[Value], faults: &[&str]) {
        let row = self.row;
        // Lines of one group have a name of it.
        let mut lines = story
            .iter()
            .filter(|line| line.get("group").is_none())
            .peekable();
        lines.next_if(|line| is_up(line) && line.get("after_seconds").is_none());
        let begins = lines
            .next()
            .unwrap_or_else(|| panic!("{row}: no outage in {story:?}"));
        assert!(
            is_down(begins) && begins.get("failures").is_none(),
            "{row}: {story:?}"
        );
        let fault = begins["fault"].as_str().unwrap_or_default();
        assert!(faults.contains(&fault), "{row}: {story:?}");
        assert_ne!(
            begins["reason"].as_str().unwrap_or_default(),
            "",
            "{row}: {story:?}"
        );
        // It goes on: seldom, and ever more seldom.
        let mut more = 0;
        while lines
            .next_if(|line| is_down(line) && line.get("failures").is_some())
            .is_some()
        {
            more += 1;
        }
        let ends = lines
            .next()
            .unwrap_or_else(|| panic!("{row}: no end in {story:?}"));
        let lasted = ends["after_seconds"].as_f64().filter(|_| is_up(ends));
        let lasted = lasted.unwrap_or_else(|| panic!("{row}: {story:?}"));
        assert!(
            f64::from(more) <= lasted.max(1.0).log2() + 2.0,
            "{row}: {more} lines in {lasted} s: {story:?}"
        );
        assert_eq!(lines.next(), None, "{row}: {story:?}");
    }

    /// Nobody noticed anything of it.
    pub fn is_told_as_nothing(&self) -> &Evening {
        self.stories.iter().for_each(|story| self.is_calm(story));
        self
    }

    /// Of one replica. On a busy machine a group may be alone for a moment; that Redis cannot be used is another thing.
    pub fn is_calm(&self, story: &[Value]) {
        let mut lines = story.iter().filter(|line| line.get("group").is_none());
        assert!(!lines.any(is_down), "{}: {story:?}", self.row);
    }

    /// Whether each replica told of a loss, once at most.
    pub fn losses(&self) -> u64 {
        let mut losses = 0;
        for story in &self.stories {
            let lost = story
                .iter()
                .filter(|line| line["event"] == "shared_lost_state");
            let lost = lost.count() as u64;
            assert!(lost <= 1, "{}: {story:?}", self.row);
            losses += lost;
        }
        losses
    }
}

fn is_up(line: &Value) -> bool {
    line["event"] == "shared_up"
}

fn is_down(line: &Value) -> bool {
    line["event"] == "shared_down" || line["event"] == "shared_denied"
}
