//! Who wants how much, and when: drawn beforehand, so that both ways meet the same demand.

use std::time::Duration;

use fastrand::Rng;

use super::{C, Scenario, Settings};

pub struct Demand {
    /// Times of arrival by caller, in the order of `CALLERS`.
    pub callers: [Vec<Duration>; 4],
    /// When someone outside takes a unit.
    pub outside: Vec<Duration>,
}

impl Demand {
    pub fn draw(scenario: Scenario, settings: &Settings, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ ((scenario as u64 + 1) << 32));
        let mut callers: [Vec<Duration>; 4] = Default::default();
        for (index, times) in callers.iter_mut().enumerate() {
            *times = arrivals(scenario, settings, index, &mut rng);
        }
        let outside = match scenario {
            Scenario::Outside => (0..settings.windows)
                .flat_map(|number| outside(settings, number, &mut rng))
                .collect(),
            _ => Vec::new(),
        };
        Demand { callers, outside }
    }
}

/// Times the quota, by caller: more than its share for each, twice the quota in all, and out of proportion to the weights, for
/// otherwise first come, first served would look fair.
const MUCH: [f64; 4] = [0.6, 0.4, 0.6, 0.4];

fn arrivals(
    scenario: Scenario,
    settings: &Settings,
    caller: usize,
    rng: &mut Rng,
) -> Vec<Duration> {
    let quota = settings.limit as f64 / settings.window.as_secs_f64();
    let whole = (Duration::ZERO, settings.span());
    let much = quota * MUCH[caller];
    match scenario {
        Scenario::Steady | Scenario::Outside => poisson(much, whole, rng),
        Scenario::Bursty => {
            let size = settings.limit / 10;
            poisson(much / size as f64, whole, rng)
                .into_iter()
                .flat_map(|at| std::iter::repeat_n(at, size as usize))
                .collect()
        }
        Scenario::Late if caller == C => (0..settings.windows)
            .flat_map(|number| {
                let middle = settings.window * number + settings.window / 2;
                poisson(quota * 0.6, (middle, middle + settings.window / 5), rng)
            })
            .collect(),
        Scenario::Late => poisson(quota * 0.6, whole, rng),
        Scenario::Greedy if caller == 0 => poisson(quota * 3.0, whole, rng),
        Scenario::Greedy => poisson(quota * 0.3, whole, rng),
    }
}

/// Arrivals that know nothing of each other, `rate` of them a second on average.
fn poisson(rate: f64, (from, to): (Duration, Duration), rng: &mut Rng) -> Vec<Duration> {
    let mut times = Vec::new();
    let mut at = from;
    loop {
        // 1 - u, because f64() may be 0 and is never 1.
        at += Duration::from_secs_f64(-(1.0 - rng.f64()).ln() / rate);
        if at >= to {
            return times;
        }
        times.push(at);
    }
}

/// A twentieth of one window's units, at any time in it.
fn outside(settings: &Settings, number: u32, rng: &mut Rng) -> Vec<Duration> {
    let mut times: Vec<Duration> = (0..settings.limit / 20)
        .map(|_| settings.window * number + settings.window.mul_f64(rng.f64()))
        .collect();
    times.sort_unstable();
    times
}
