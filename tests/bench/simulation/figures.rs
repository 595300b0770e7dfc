//! What the callers got, from their own clocks and from the record of DevRev's double.

use std::time::Duration;

use super::{C, CALLERS, Settings};

/// A request as its caller saw it.
#[derive(Clone, Copy, Debug)]
pub struct Issued {
    pub caller: usize,
    pub at: Duration,
    /// When it was answered or given up.
    pub left: Option<Duration>,
}

/// An attempt as DevRev's double saw it.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub at: Duration,
    /// Its place among the issued requests; none for someone outside.
    pub request: Option<usize>,
    pub accepted: bool,
}

/// All times count from the same moment.
pub struct Observed<'a> {
    pub settings: &'a Settings,
    pub requests: &'a [Issued],
    pub arrivals: &'a [Arrival],
}

/// All of them over the measured windows.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    /// Units taken, by whomever, over units there were.
    pub utilisation: f64,
    /// 429s that came from upstream.
    pub throttled: usize,
    /// Fairness among interactive callers; none where no two ever waited together.
    pub jain: Option<f64>,
    /// Received over entitled, by interactive caller: what the index is made of.
    pub shares: Vec<Option<f64>>,
    /// The longest that an interactive caller had something to ask for and got nothing.
    pub starved: Duration,
    pub batch_starved: Duration,
    /// From issue to acceptance, of requests that were accepted.
    pub wait: Quantiles,
    pub batch_wait: Quantiles,
    /// From `c`'s first request in a window to its acceptance, in the worst window.
    pub first_wait: Option<Duration>,
    /// Requests that ended without having been accepted.
    pub given_up: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quantiles {
    pub p50: Duration,
    pub p99: Duration,
}

/// A request that is younger than this is on its way rather than waiting.
const WAITING: Duration = Duration::from_millis(250);

/// A request from its issue until it was accepted or given up.
#[derive(Clone, Copy)]
struct Life {
    caller: usize,
    from: Duration,
    until: Duration,
    /// Its place in the record of the double, if it was accepted: many are at one time, and their order counts.
    accepted: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    // In the order in which they count when they happen at one time.
    Begins,
    /// With its place in the record.
    Accepted(usize),
    GivenUp,
}

impl Observed<'_> {
    /// `late` asks for `c`'s first wait.
    pub fn figures(&self, late: bool) -> Figures {
        let starts = self.window_starts();
        let measured = &starts[1..self.settings.windows as usize];
        let period = (
            measured[0],
            measured[measured.len() - 1] + self.settings.window,
        );
        let lives = self.lives();
        let shares = shares(&lives, period);
        let starved = |batch: bool| {
            let callers = (0..CALLERS.len()).filter(|caller| CALLERS[*caller].batch == batch);
            callers.map(|caller| starved(&lives, caller, period)).max()
        };
        Figures {
            utilisation: self.utilisation(measured),
            throttled: self
                .arrivals
                .iter()
                .filter(|arrival| {
                    !arrival.accepted && arrival.request.is_some() && within(arrival.at, period)
                })
                .count(),
            jain: jain(&shares),
            shares,
            starved: starved(false).unwrap_or_default(),
            batch_starved: starved(true).unwrap_or_default(),
            wait: waits(&lives, false, period),
            batch_wait: waits(&lives, true, period),
            first_wait: late.then(|| self.first_wait(&lives, measured)),
            given_up: lives
                .iter()
                .filter(|life| life.accepted.is_none() && within(life.until, period))
                .count(),
        }
    }

    /// A window opens with the first unit taken after the one before has ended.
    fn window_starts(&self) -> Vec<Duration> {
        let mut starts: Vec<Duration> = Vec::new();
        for arrival in self.arrivals.iter().filter(|arrival| arrival.accepted) {
            let open = starts
                .last()
                .is_some_and(|start| arrival.at < *start + self.settings.window);
            if !open {
                starts.push(arrival.at);
            }
        }
        let played = self.settings.windows as usize;
        assert!(starts.len() >= played, "{} windows", starts.len());
        starts
    }

    fn utilisation(&self, measured: &[Duration]) -> f64 {
        let taken = |start: Duration| {
            let window = (start, start + self.settings.window);
            let arrivals = self.arrivals.iter();
            arrivals
                .filter(|arrival| arrival.accepted && within(arrival.at, window))
                .count()
        };
        let taken: usize = measured.iter().map(|start| taken(*start)).sum();
        taken as f64 / (self.settings.limit as f64 * measured.len() as f64)
    }

    fn lives(&self) -> Vec<Life> {
        let mut lives: Vec<Life> = self
            .requests
            .iter()
            .map(|request| Life {
                caller: request.caller,
                from: request.at,
                until: request.left.unwrap_or(Duration::MAX),
                accepted: None,
            })
            .collect();
        for (place, arrival) in self.arrivals.iter().enumerate() {
            let request = arrival.request.filter(|_| arrival.accepted);
            if let Some(life) = request.and_then(|number| lives.get_mut(number)) {
                life.until = arrival.at;
                life.accepted = Some(place);
            }
        }
        lives
    }

    fn first_wait(&self, lives: &[Life], measured: &[Duration]) -> Duration {
        let wait = |start: &Duration| {
            let end = *start + self.settings.window;
            let mut of_c = lives.iter().filter(|life| life.caller == C);
            let first = of_c.find(|life| within(life.from, (*start, end)));
            first.map_or(Duration::MAX, |life| {
                let served = if life.accepted.is_some() {
                    life.until
                } else {
                    end
                };
                served.saturating_sub(life.from)
            })
        };
        measured.iter().map(wait).max().unwrap_or_default()
    }
}

fn within(at: Duration, (from, to): (Duration, Duration)) -> bool {
    from <= at && at < to
}

/// In the order of time; each life begins `after` its issue, if it lasts that long.
fn events(lives: impl Iterator<Item = Life>, after: Duration) -> Vec<(Duration, Event, usize)> {
    let mut events = Vec::new();
    for life in lives.filter(|life| life.until >= life.from + after) {
        let end = life.accepted.map_or(Event::GivenUp, Event::Accepted);
        events.push((life.from + after, Event::Begins, life.caller));
        events.push((life.until, end, life.caller));
    }
    events.sort_unstable();
    events
}

/// What each interactive caller received of what it was entitled to.
///
/// Fairness is a matter of those who wait at the same time, and that set changes. So it is taken unit by unit: whenever a unit
/// goes to an interactive caller that has waited, and at least one other interactive caller is waiting as well, each caller that waits is
/// entitled to its weight's part of that unit, and one of them received it. Summed over all such units, received over
/// entitled is 1 for everyone where the dealing was exact, however often callers came and went.
///
/// A unit that goes to a request as soon as it comes does not count: its caller was below its share, or nobody had to wait.
/// The batch caller stands behind the others by its own choice and is not compared with them.
fn shares(lives: &[Life], period: (Duration, Duration)) -> Vec<Option<f64>> {
    let interactive = lives
        .iter()
        .copied()
        .filter(|life| !CALLERS[life.caller].batch);
    let (mut waiting, mut received, mut entitled) = ([0_usize; 4], [0.0; 4], [0.0; 4]);
    for (at, event, caller) in events(interactive, WAITING) {
        if event == Event::Begins {
            waiting[caller] += 1;
            continue;
        }
        let together = || (0..CALLERS.len()).filter(|caller| waiting[*caller] > 0);
        if matches!(event, Event::Accepted(_)) && within(at, period) && together().count() > 1 {
            let weights: f64 = together().map(|caller| CALLERS[caller].weight).sum();
            for other in together() {
                entitled[other] += CALLERS[other].weight / weights;
            }
            received[caller] += 1.0;
        }
        waiting[caller] -= 1;
    }
    let interactive = (0..CALLERS.len()).filter(|caller| !CALLERS[*caller].batch);
    interactive
        .map(|caller| (entitled[caller] > 0.0).then(|| received[caller] / entitled[caller]))
        .collect()
}

/// Jain, Chiu and Hawe's index: 1 when all are equal, 1/n when one has everything.
fn jain(shares: &[Option<f64>]) -> Option<f64> {
    let shares: Vec<f64> = shares.iter().copied().flatten().collect();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    let sum: f64 = shares.iter().sum();
    (shares.len() > 1 && squares > 0.0).then(|| sum * sum / (shares.len() as f64 * squares))
}

/// The longest stretch in which a caller had a request pending and none was accepted.
fn starved(lives: &[Life], caller: usize, period: (Duration, Duration)) -> Duration {
    let own = lives.iter().copied().filter(|life| life.caller == caller);
    let (mut pending, mut hungry_since, mut longest) = (0_usize, None, Duration::ZERO);
    let clip = |at: Duration| at.clamp(period.0, period.1);
    for (at, event, _) in events(own, Duration::ZERO) {
        match event {
            Event::Begins => {
                pending += 1;
                hungry_since = hungry_since.or(Some(at));
            }
            Event::Accepted(_) | Event::GivenUp => {
                pending -= 1;
                if let Some(since) = hungry_since {
                    longest = longest.max(clip(at) - clip(since));
                }
                if matches!(event, Event::Accepted(_)) {
                    hungry_since = Some(at);
                }
                hungry_since = hungry_since.filter(|_| pending > 0);
            }
        }
    }
    longest
}

fn waits(lives: &[Life], batch: bool, period: (Duration, Duration)) -> Quantiles {
    let served = lives
        .iter()
        .filter(|life| life.accepted.is_some() && CALLERS[life.caller].batch == batch);
    let mut waits: Vec<Duration> = served
        .filter(|life| within(life.until, period))
        .map(|life| life.until.saturating_sub(life.from))
        .collect();
    waits.sort_unstable();
    // The nearest rank.
    let quantile = |part: f64| {
        let rank = (waits.len() as f64 * part).ceil() as usize;
        waits
            .get(rank.saturating_sub(1))
            .copied()
            .unwrap_or_default()
    };
    Quantiles {
        p50: quantile(0.5),
        p99: quantile(0.99),
    }
}
