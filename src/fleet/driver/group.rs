//! The task of one group: when it exchanges, and what it does without the register.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{Driver, exchange::Exchanges};
use crate::{
    fleet::register::{Failure, Fault, Link},
    random,
    state::quota::Group,
    telemetry::{labels::ExchangeResult, shared::GroupStatus},
};

/// After an exchange that failed the next comes after so long, and twice that each time up to the longest; with jitter, so that replicas
/// which failed together do not come back together.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// Nothing is due, so only a wake-up ends the sleep. This bounds it all the same.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// While exchanges fail.
#[derive(Default)]
struct Retry {
    at: Option<Instant>,
    after: Duration,
}

impl Retry {
    fn failed(&mut self) {
        self.after = (self.after * 2).clamp(FIRST_RETRY, LONGEST_RETRY);
        let jitter = self.after.mul_f64(0.5 * random::jitter());
        self.at = Some(Instant::now() + self.after / 2 + jitter);
    }

    /// The register can be used again.
    fn soon(&mut self) {
        if self.at.is_some() {
            self.after = Duration::ZERO;
            self.at = Some(Instant::now() + FIRST_RETRY.mul_f64(random::jitter()));
        }
    }
}

/// Runs until the group is dropped or this replica leaves.
pub(super) async fn run(
    driver: Arc<Driver>,
    group: Weak<Group>,
    name: Arc<str>,
    wake: Arc<Notify>,
) {
    let held = group.clone();
    let held = move || held.upgrade().map_or(0, |group| group.held());
    let status = driver.parts.status.group(&name, held);
    let mut exchanges = Exchanges::new(&driver, &name);
    let mut retry = Retry::default();
    let mut link = driver.parts.register.link();
    let mut leaving = driver.leaving.subscribe();
    // A process that has just started is about to connect. Until then nothing is known of the others, and nothing is wrong either.
    let tried = link.wait_for(|link| !matches!(link, Link::Unknown));
    let _ = timeout(driver.parts.timeout, tried).await;
    loop {
        let is_down = match &*link.borrow_and_update() {
            Link::Down(failure) => Some(failure.clone()),
            Link::Up | Link::Unknown => None,
        };
        let Some(due) = group.upgrade().map(|group| match (&is_down, retry.at) {
            (Some(failure), None) => {
                alone(&driver, &group, &name, (&status, failure));
                retry.failed();
                None
            }
            (Some(_), Some(_)) => None,
            (None, Some(at)) => Some(at),
            (None, None) => driver.due(&group, &name),
        }) else {
            break;
        };
        if due.is_none() {
            exchanges.rest();
        }
        let until = due.unwrap_or_else(|| Instant::now() + LONGEST_SLEEP);
        tokio::select! {
            biased;
            () = left(&mut leaving) => {
                if let Some(group) = group.upgrade().filter(|_| is_down.is_none()) {
                    group.leave();
                    let _ = exchanges.exchange(&group, &status).await;
                }
                break;
            }
            changed = link.changed() => {
                if changed.is_err() {
                    break;
                }
                if matches!(&*link.borrow(), Link::Up) {
                    retry.soon();
                }
                continue;
            }
            () = wake.notified(), if retry.at.is_none() && Instant::now() < until => continue,
            () = sleep_until(until) => {}
        }
        let Some(group) = group.upgrade().filter(|_| due.is_some()) else {
            continue;
        };
        match exchanges.exchange(&group, &status).await {
            Ok(()) => retry = Retry::default(),
            // The register is there.
            Err(failure) if failure.fault == Fault::Overtaken && group.bears_being_overtaken() => {}
            Err(failure) => {
                alone(&driver, &group, &name, (&status, &failure));
                retry.failed();
            }
        }
    }
    exchanges.forget();
}

/// Until this replica leaves.
async fn left(leaving: &mut watch::Receiver<bool>) {
    let _ = leaving.wait_for(|leaving| *leaving).await;
}

impl Driver {
    /// When the group has something to say.
    fn due(&self, group: &Group, name: &str) -> Option<Instant> {
        let limits = self.purses.get().and_then(|purses| purses.due(name));
        let due = [group.exchange_due(), limits].into_iter().flatten().min();
        due.map(|due| self.parts.clock.instant(due))
    }
}

fn alone(
    driver: &Driver,
    group: &Arc<Group>,
    name: &Arc<str>,
    (status, failure): (&GroupStatus, &Failure),
) {
    group.go_alone();
    if let Some(purses) = driver.purses.get() {
        purses.set_alone(name, true);
    }
    status.alone(ExchangeResult::from(failure.fault), &failure.reason);
}
