//! A register in the memory of one process, for several gateways in it: the demo, simulations and tests.
//!
//! It keeps the promises of the real one and no others. A line to it can delay, lose and repeat what goes over it.

use std::{
    collections::HashMap,
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use super::{
    hints::Hints,
    register::{
        Answer, Exchanged, Failure, Fault, Found, Hint, Key, Link, MAX_VALUE, Register, Tag, Write,
    },
};
use crate::{lock::Lock, random, state::Clock};

/// As with the real one: so many exchanges in a row without an answer in time, and there is no connection for a moment.
const TIMEOUTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(250);

/// The place where the values are. A clone is the same place.
#[derive(Clone)]
pub struct Place(Arc<Lock<Values>>);

struct Values {
    clock: Clock,
    /// What the register's clock shows when `clock` shows zero. It may be set.
    epoch: Duration,
    values: HashMap<Key, Value>,
    replicas: Vec<Arc<Replica>>,
}

#[derive(Clone)]
struct Value {
    tag: Tag,
    value: Bytes,
    until: Duration,
}

/// The values at one time, to which a place can be rolled back.
pub struct Saved(HashMap<Key, Value>);

/// What a line does. The default is a perfect one. Chances are from 0 to 1.
#[derive(Clone, Debug)]
pub struct Line {
    /// Each way takes as long as this, evenly distributed.
    pub delay: RangeInclusive<Duration>,
    /// The chance that an exchange is lost before it arrives.
    pub lost: f64,
    /// The chance that an answer is lost: what was asked has been done.
    pub answer_lost: f64,
    /// The chance that an exchange arrives once more, after some delay.
    pub repeated: f64,
    /// The chance that a hint is lost.
    pub hint_lost: f64,
}

impl Default for Line {
    fn default() -> Self {
        Line {
            delay: Duration::ZERO..=Duration::ZERO,
            lost: 0.0,
            answer_lost: 0.0,
            repeated: 0.0,
            hint_lost: 0.0,
        }
    }
}

/// One replica's way to the place.
pub struct Here {
    place: Place,
    replica: Arc<Replica>,
    timeout: Duration,
    /// Runs [`Hints::pay`].
    paying: JoinHandle<()>,
}

struct Replica {
    line: Lock<Line>,
    chance: Lock<fastrand::Rng>,
    link: watch::Sender<Link>,
    hints: Hints,
    /// In a row.
    timeouts: AtomicU32,
    /// How often it was cut.
    cuts: AtomicU32,
}

impl Place {
    /// Its clock shows `epoch`, since the epoch, when `clock` shows zero.
    pub fn new(clock: Clock, epoch: Duration) -> Place {
        Place(Arc::new(Lock::new(Values {
            clock,
            epoch,
            values: HashMap::new(),
            replicas: Vec::new(),
        })))
    }

    /// A replica's way to it, over a perfect line at first. Each exchange ends within `timeout`. What happens by chance depends on the seed.
    /// Needs a runtime.
    pub fn join(&self, timeout: Duration, seed: u64) -> Here {
        let replica = Arc::new(Replica {
            line: Lock::default(),
            chance: Lock::new(random::seeded(seed)),
            link: watch::Sender::new(Link::Up),
            hints: Hints::new(),
            timeouts: AtomicU32::new(0),
            cuts: AtomicU32::new(0),
        });
        replica.hints.miss();
        self.0.lock().replicas.push(replica.clone());
        let paid = replica.clone();
        let paying = tokio::spawn(async move { paid.hints.pay().await });
        Here {
            place: self.clone(),
            replica,
            timeout,
            paying,
        }
    }

    /// Forgets all values, as a server that starts empty.
    pub fn flush(&self) {
        self.0.lock().values.clear();
    }

    pub fn save(&self) -> Saved {
        Saved(self.0.lock().values.clone())
    }

    /// What was written since is lost, as after a failover.
    pub fn roll_back(&self, saved: Saved) {
        self.0.lock().values = saved.0;
    }

    /// Sets its clock.
    pub fn set_time(&self, now: Duration) {
        let mut place = self.0.lock();
        place.epoch = now.saturating_sub(place.clock.now());
    }

    fn exchange(&self, key: &Key, write: Option<&Write>) -> Exchanged {
        let (written, told) = {
            let mut place = self.0.lock();
            let at = place.clock.now();
            let now = place.epoch + at;
            let current = place.values.get(key).filter(|value| value.until > at);
            let current = current.map(|value| (value.tag, value.value.clone()));
            let is = current.as_ref().map(|(tag, _)| *tag);
            let write = match write {
                Some(write) if write.over == is => write,
                _ => return Exchanged::Found(Found { current, now }),
            };
            if is.is_none() {
                // So that those whose time is over do not pile up.
                place.values.retain(|_, value| value.until > at);
            }
            let value = Value {
                tag: write.tag,
                value: write.value.clone(),
                until: at + write.keep,
            };
            place.values.insert(key.clone(), value);
            let told = match write.hint.is_empty() {
                true => Vec::new(),
                false => place.replicas.clone(),
            };
            (Exchanged::Written { now }, told)
        };
        if let Some(write) = write {
            for replica in told {
                replica.tell(key, &write.hint);
            }
        }
        written
    }
}

impl Replica {
    fn happens(&self, of: impl Fn(&Line) -> f64) -> bool {
        let chance = of(&self.line.lock());
        chance > 0.0 && self.chance.lock().f64() < chance
    }

    /// Of one way.
    fn delay(&self) -> Duration {
        let delay = self.line.lock().delay.clone();
        let more = delay.end().saturating_sub(*delay.start());
        *delay.start() + more.mul_f64(self.chance.lock().f64())
    }

    fn is_up(&self) -> bool {
        matches!(&*self.link.borrow(), Link::Up)
    }

    fn cut(&self, failure: Failure) {
        self.cuts.fetch_add(1, SeqCst);
        self.link.send_replace(Link::Down(failure));
    }

    fn mend(&self) {
        self.timeouts.store(0, SeqCst);
        self.link.send_replace(Link::Up);
        self.hints.miss();
    }

    /// A hint goes over the line too.
    fn tell(self: Arc<Self>, key: &Key, hint: &Bytes) {
        if !self.hints.wants(key) || !self.is_up() || self.happens(|line| line.hint_lost) {
            return;
        }
        let (delay, hint) = (self.delay(), Hint::Told(key.clone(), hint.clone()));
        if delay.is_zero() {
            return self.hints.tell(hint);
        }
        let cuts = self.cuts.load(SeqCst);
        tokio::spawn(async move {
            sleep(delay).await;
            if self.cuts.load(SeqCst) == cuts {
                self.hints.tell(hint);
            }
        });
    }

    fn timed_out(self: &Arc<Self>) -> Failure {
        let failure = Failure::new(Fault::TimedOut, "no answer in time");
        if self.timeouts.fetch_add(1, SeqCst) + 1 >= TIMEOUTS && self.is_up() {
            self.cut(failure.clone());
            let (replica, cuts) = (self.clone(), self.cuts.load(SeqCst));
            tokio::spawn(async move {
                sleep(PAUSE).await;
                // Unless it was cut for longer meanwhile.
                if replica.cuts.load(SeqCst) == cuts {
                    replica.mend();
                }
            });
        }
        failure
    }
}

impl Here {
    pub fn set_line(&self, line: Line) {
        *self.replica.line.lock() = line;
    }

    /// There is no connection until [`Here::mend`].
    pub fn cut(&self) {
        self.replica.cut(Failure::new(Fault::Broken, "it was cut"));
    }

    pub fn mend(&self) {
        self.replica.mend();
    }

    async fn exchange(&self, key: &Key, write: Option<Write>) -> Result<Exchanged, Failure> {
        let replica = &self.replica;
        if let Link::Down(failure) = &*replica.link.borrow() {
            return Err(Failure::new(Fault::Down, failure.reason.clone()));
        }
        if write
            .as_ref()
            .is_some_and(|write| write.value.len() > MAX_VALUE)
        {
            return Err(Failure::new(Fault::Refused, "the value is too large"));
        }
        let (begun, cuts) = (Instant::now(), replica.cuts.load(SeqCst));
        let (there, back) = (replica.delay(), replica.delay());
        let (lost, answer_lost) = (
            replica.happens(|line| line.lost),
            replica.happens(|line| line.answer_lost),
        );
        if replica.happens(|line| line.repeated) {
            self.arrives_later(there + replica.delay(), key, write.clone());
        }
        let in_time = there + back < self.timeout && !lost && !answer_lost;
        let result = if in_time {
            if !there.is_zero() {
                sleep(there).await;
            }
            let exchanged = self.place.exchange(key, write.as_ref());
            if !back.is_zero() {
                sleep_until(begun + there + back).await;
            }
            Some(exchanged)
        } else {
            if !lost {
                self.arrives_later(there, key, write);
            }
            sleep_until(begun + self.timeout).await;
            None
        };
        if replica.cuts.load(SeqCst) != cuts {
            return Err(Failure::new(Fault::Broken, "it was cut"));
        }
        match result {
            Some(exchanged) => {
                replica.timeouts.store(0, SeqCst);
                Ok(exchanged)
            }
            None => Err(replica.timed_out()),
        }
    }

    /// Whether or not anybody waits for it.
    fn arrives_later(&self, delay: Duration, key: &Key, write: Option<Write>) {
        let (place, key) = (self.place.clone(), key.clone());
        tokio::spawn(async move {
            sleep(delay).await;
            place.exchange(&key, write.as_ref());
        });
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        self.paying.abort();
        let mut place = self.place.0.lock();
        place
            .replicas
            .retain(|one| !Arc::ptr_eq(one, &self.replica));
    }
}

impl Register for Here {
    fn exchange<'a>(&'a self, key: &'a Key, write: Option<Write>) -> Answer<'a> {
        Box::pin(self.exchange(key, write))
    }

    fn listen(&self, key: &Key) {
        self.replica.hints.want(key, true);
        // There is no connection that would have to be told.
        self.replica.hints.all();
        self.replica
            .hints
            .tell(Hint::Told(key.clone(), Bytes::new()));
    }

    fn forget(&self, key: &Key) {
        self.replica.hints.want(key, false);
        self.replica.hints.all();
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.replica.link.subscribe()
    }

    fn hints(&self) -> Option<mpsc::Receiver<Hint>> {
        self.replica.hints.take()
    }
}

#[cfg(test)]
mod tests;
