//! How many requests each caller sends, and when. Drawn beforehand, so that both routes face the same demand.

use std::time::Duration;

use fastrand::Rng;

use super::{C, CALLERS, Scenario, Settings};

pub struct Demand {
    /// Times of arrival by caller, in the order of `CALLERS`.
    pub callers: [Vec<Duration>; 4],
    /// When outside traffic takes a unit.
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

/// Each caller's demand as a multiple of the quota: more than its share, twice the quota in total, and not in proportion to the
/// weights; otherwise first come, first served would look fair.
const LOAD: [f64; 4] = [0.6, 0.4, 0.6, 0.4];

/// Of that demand, in plenty: three tenths of the quota.
const PLENTY: f64 = 0.15;

fn arrivals(
    scenario: Scenario,
    settings: &Settings,
    caller: usize,
    rng: &mut Rng,
) -> Vec<Duration> {
    let quota = settings.limit as f64 / settings.window.as_secs_f64();
    let whole = (Duration::ZERO, settings.span());
    let rate = quota * LOAD[caller];
    match scenario {
        Scenario::Steady | Scenario::Outside => poisson(rate, whole, rng),
        Scenario::Plenty => poisson(rate * PLENTY, whole, rng),
        Scenario::Backlog if CALLERS[caller].batch => poisson(quota * 0.9, whole, rng),
        Scenario::Backlog => poisson(quota * 0.3, whole, rng),
        Scenario::Bursty => {
            let size = settings.limit / 10;
            poisson(rate / size as f64, whole, rng)
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

/// Independent arrivals, `rate` per second on average.
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

/// A twentieth of one window's units, at random times within it.
fn outside(settings: &Settings, number: u32, rng: &mut Rng) -> Vec<Duration> {
    let mut times: Vec<Duration> = (0..settings.limit / 20)
        .map(|_| settings.window * number + settings.window.mul_f64(rng.f64()))
        .collect();
    times.sort_unstable();
    times
}
