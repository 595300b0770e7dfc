//! A fleet in virtual time: the ledgers, queues and leases of its replicas, the pool in its register, and DevRev. All that decides is the
//! production code. Messages take time, get lost, come late and twice; registers forget, go back, stop and split; replicas
//! freeze, die and are cut off; clocks differ and step; others use the quota too.
//!
//! After each step it is checked that no more is called free than there is, that nothing was handed out twice, that no pause is
//! overrun, and that nobody waits who could be served.

mod bad_days;
mod checks;
mod crowd;
mod exchange;
mod good_days;
mod pauses;
mod register;
mod replica;
mod run;
mod turns;
mod upstream;

use std::time::Duration;

use proptest::{prelude::ProptestConfig, test_runner::RngSeed};

pub(super) use self::crowd::{crowd, statement};
use self::run::Fleet;
use crate::policy::{
    fair::{Priority, Share},
    ledger::LedgerRules,
};

const RULES: LedgerRules = LedgerRules {
    spread_above: 0.5,
    reserve: 0.0,
    max_retry_after: Duration::from_secs(600),
};

/// How long a replica waits for the register.
const TIMEOUT: Duration = Duration::from_millis(50);

const SECOND: Duration = Duration::from_secs(1);

/// What proptest runs if nobody asks for another number.
const USUAL_CASES: u32 = 256;

/// So many cases of each property, the same each time, so that a change is not blamed for what another made. By hand more, and others each
/// time: with `PROPTEST_CASES`.
fn cases() -> ProptestConfig {
    // It reads the environment.
    let default = ProptestConfig::default();
    let is_usual = default.cases == USUAL_CASES;
    ProptestConfig {
        failure_persistence: None,
        cases: if is_usual { 100 } else { default.cases },
        rng_seed: match is_usual {
            true => RngSeed::Fixed(1),
            false => default.rng_seed,
        },
        ..default
    }
}

/// Numbers that look random and are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, most: u64) -> u64 {
        (self.next() >> 16) % most.max(1)
    }

    fn chance(&mut self, of: f64) -> bool {
        of > 0.0 && (self.below(1_000_000) as f64) < of * 1e6
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        Duration::from_nanos(self.below(u64::try_from(most.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// What a simulated fleet is like.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    seed: u64,
    replicas: u64,
    limit: u64,
    window: Duration,
    /// The longest way of a message to the register, and of a request to DevRev or its answer.
    delay: Duration,
    latency: Duration,
    /// How often a message to or from the register is lost, comes up to half a second late, and comes twice.
    loss: f64,
    late: f64,
    twice: f64,
    /// How often an answer of DevRev's does not arrive.
    silence: f64,
}

impl Scenario {
    /// A fleet without faults.
    fn new(seed: u64, replicas: u64) -> Scenario {
        Scenario {
            seed,
            replicas,
            limit: 100,
            window: SECOND * 10,
            delay: Duration::from_millis(1),
            latency: Duration::from_millis(100),
            loss: 0.0,
            late: 0.0,
            twice: 0.0,
            silence: 0.0,
        }
    }
}

fn share(caller: &str, weight: u32, priority: Priority) -> Share {
    Share {
        caller: caller.into(),
        weight,
        priority,
    }
}

fn interactive(caller: &str) -> Share {
    share(caller, 1, Priority::Interactive)
}
