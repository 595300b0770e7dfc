//! What the callers got, by their own clocks and by the record of the simulator or the model.

use std::time::Duration;

use super::{C, CALLERS, Settings};

/// A request, as seen by its caller.
#[derive(Clone, Copy, Debug)]
pub struct Issued {
    pub caller: usize,
    pub at: Duration,
    /// When it was answered or given up.
    pub left: Option<Duration>,
}

/// An attempt, as seen by the simulator or the model.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub at: Duration,
    /// Its index in the issued requests; `None` for outside traffic.
    pub request: Option<usize>,
    pub accepted: bool,
}

/// All times are since the same moment.
pub struct Observed<'a> {
    pub settings: &'a Settings,
    pub requests: &'a [Issued],
    pub arrivals: &'a [Arrival],
}

/// The figures over the measured windows.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    /// Units taken, including by outside traffic, divided by units available.
    pub utilisation: f64,
    /// 429s sent by upstream.
    pub throttled: usize,
    /// Fairness among interactive callers; `None` if no two ever waited together.
    pub jain: Option<f64>,
    /// Received divided by entitled, by interactive caller; the index is computed from these.
    pub shares: Vec<Option<f64>>,
    /// The longest time that an interactive caller had requests pending and none was accepted.
    pub starved: Duration,
    pub batch_starved: Duration,
    /// From issue to acceptance, of requests that were accepted.
    pub wait: Quantiles,
    pub batch_wait: Quantiles,
    /// From `c`'s first request in a window to its acceptance, in the worst window.
    pub first_wait: Option<Duration>,
    /// Requests of interactive callers, and of the batch caller, that ended without having been accepted.
    pub given_up: usize,
    pub batch_given_up: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quantiles {
    pub p50: Duration,
    pub p99: Duration,
}

/// A request younger than this is in flight and does not count as waiting.
const WAITING: Duration = Duration::from_millis(250);

/// A request from its issue until it was accepted or given up.
#[derive(Clone, Copy)]
struct Lifetime {
    caller: usize,
    from: Duration,
    until: Duration,
    /// Its index in the record of arrivals, if it was accepted. Many arrive at the same time, and their order matters.
    accepted: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    // In the order that applies to events at the same time.
    Begins,
    /// With its index in the record of arrivals.
    Accepted(usize),
    GivenUp,
}

impl Observed<'_> {
    /// `late` includes `c`'s first wait.
    pub fn figures(&self, late: bool) -> Figures {
        let starts = self.window_starts();
        let measured = &starts[1..self.settings.windows as usize];
        let last = measured[measured.len() - 1];
        let period = (measured[0], last + self.settings.window);
        let lifetimes = self.lifetimes();
        let shares = shares(&lifetimes, period);
        let starved = |batch: bool| {
            let callers = (0..CALLERS.len()).filter(|caller| CALLERS[*caller].batch == batch);
            callers
                .map(|caller| starved(&lifetimes, caller, period))
                .max()
        };
        let throttled = self.arrivals.iter().filter(|arrival| {
            !arrival.accepted && arrival.request.is_some() && within(arrival.at, period)
        });
        let given_up = |batch: bool| {
            let lifetimes = lifetimes.iter().filter(|lifetime| {
                lifetime.accepted.is_none()
                    && within(lifetime.until, period)
                    && CALLERS[lifetime.caller].batch == batch
            });
            lifetimes.count()
        };
        Figures {
            utilisation: self.utilisation(measured),
            throttled: throttled.count(),
            jain: jain(&shares),
            shares,
            starved: starved(false).unwrap_or_default(),
            batch_starved: starved(true).unwrap_or_default(),
            wait: waits(&lifetimes, false, period),
            batch_wait: waits(&lifetimes, true, period),
            first_wait: late.then(|| self.first_wait(&lifetimes, measured)),
            given_up: given_up(false),
            batch_given_up: given_up(true),
        }
    }

    /// A window opens with the first unit that is taken after the end of the one before.
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
        let simulated = self.settings.windows as usize;
        assert!(starts.len() >= simulated, "{} windows", starts.len());
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

    fn lifetimes(&self) -> Vec<Lifetime> {
        let mut lifetimes: Vec<Lifetime> = self
            .requests
            .iter()
            .map(|request| Lifetime {
                caller: request.caller,
                from: request.at,
                until: request.left.unwrap_or(Duration::MAX),
                accepted: None,
            })
            .collect();
        for (index, arrival) in self.arrivals.iter().enumerate() {
            let request = arrival.request.filter(|_| arrival.accepted);
            if let Some(lifetime) = request.and_then(|number| lifetimes.get_mut(number)) {
                lifetime.until = arrival.at;
                lifetime.accepted = Some(index);
            }
        }
        lifetimes
    }

    fn first_wait(&self, lifetimes: &[Lifetime], measured: &[Duration]) -> Duration {
        let wait = |start: &Duration| {
            let end = *start + self.settings.window;
            let mut of_c = lifetimes.iter().filter(|lifetime| lifetime.caller == C);
            let first = of_c.find(|lifetime| within(lifetime.from, (*start, end)));
            first.map_or(Duration::MAX, |lifetime| {
                let served = if lifetime.accepted.is_some() {
                    lifetime.until
                } else {
                    end
                };
                served.saturating_sub(lifetime.from)
            })
        };
        measured.iter().map(wait).max().unwrap_or_default()
    }
}

fn within(at: Duration, (from, to): (Duration, Duration)) -> bool {
    from <= at && at < to
}

/// Events in order of time. Each lifetime begins `after` its issue, if it lasts that long.
fn events(
    lifetimes: impl Iterator<Item = Lifetime>,
    after: Duration,
) -> Vec<(Duration, Event, usize)> {
    let mut events = Vec::new();
    for lifetime in lifetimes.filter(|lifetime| lifetime.until >= lifetime.from + after) {
        let end = lifetime.accepted.map_or(Event::GivenUp, Event::Accepted);
        events.push((lifetime.from + after, Event::Begins, lifetime.caller));
        events.push((lifetime.until, end, lifetime.caller));
    }
    events.sort_unstable();
    events
}

/// Received divided by entitled, by interactive caller.
///
/// Fairness compares callers that wait at the same time, and that set changes. So it is measured unit by unit: whenever a unit
/// goes to an interactive caller that has waited while at least one other interactive caller waits too, each of them is entitled
/// to a part of that unit in proportion to its weight, and one of them receives it. Summed over all such units, received /
/// entitled is 1 for every caller if the sharing is exact, however often callers come and go.
///
/// A unit that goes to a request immediately does not count: its caller was below its share, or no caller had to wait.
/// The batch caller yields to the others by design and is not compared with them.
fn shares(lifetimes: &[Lifetime], period: (Duration, Duration)) -> Vec<Option<f64>> {
    let interactive = lifetimes
        .iter()
        .copied()
        .filter(|lifetime| !CALLERS[lifetime.caller].batch);
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

/// The fairness index of Jain, Chiu and Hawe: 1 if all are equal, 1/n if one has everything.
fn jain(shares: &[Option<f64>]) -> Option<f64> {
    let shares: Vec<f64> = shares.iter().copied().flatten().collect();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    let sum: f64 = shares.iter().sum();
    (shares.len() > 1 && squares > 0.0).then(|| sum * sum / (shares.len() as f64 * squares))
}

/// The longest time in which a caller had requests pending and none was accepted.
fn starved(lifetimes: &[Lifetime], caller: usize, period: (Duration, Duration)) -> Duration {
    let own = lifetimes
        .iter()
        .copied()
        .filter(|lifetime| lifetime.caller == caller);
    let (mut pending, mut starving_since, mut longest) = (0_usize, None, Duration::ZERO);
    let clip = |at: Duration| at.clamp(period.0, period.1);
    for (at, event, _) in events(own, Duration::ZERO) {
        match event {
            Event::Begins => {
                pending += 1;
                starving_since = starving_since.or(Some(at));
            }
            Event::Accepted(_) | Event::GivenUp => {
                pending -= 1;
                if let Some(since) = starving_since {
                    longest = longest.max(clip(at) - clip(since));
                }
                if matches!(event, Event::Accepted(_)) {
                    starving_since = Some(at);
                }
                starving_since = starving_since.filter(|_| pending > 0);
            }
        }
    }
    longest
}

fn waits(lifetimes: &[Lifetime], batch: bool, period: (Duration, Duration)) -> Quantiles {
    let served = lifetimes
        .iter()
        .filter(|lifetime| lifetime.accepted.is_some() && CALLERS[lifetime.caller].batch == batch);
    let mut waits: Vec<Duration> = served
        .filter(|lifetime| within(lifetime.until, period))
        .map(|lifetime| lifetime.until.saturating_sub(lifetime.from))
        .collect();
    waits.sort_unstable();
    // Nearest rank.
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
