//! The pool as the bytes that a register keeps.

use thiserror::Error;

use super::{Hinted, Pool, plausible::check};

/// The form of the bytes. Raised whenever a field is added, taken away or moved; it is in the name of the register's key too, so that
/// two releases never read each other's.
pub const FORM: u8 = 2;

/// The largest value that is read or written. A register stays fast with many times of that, but each replica reads it at each exchange.
pub const MAX_SIZE: usize = 256 * 1024;

/// Why a value is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ValueFault {
    #[error("it has {0} bytes, more than {MAX_SIZE}")]
    TooLarge(usize),
    #[error("it has the form {0}, and this release reads {FORM}")]
    OtherForm(u8),
    #[error("it cannot be read")]
    Unreadable,
}

impl Pool {
    /// # Errors
    /// It is too large to be kept, or has numbers that no pool has because it was made of a false one.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ValueFault> {
        // Others would not read it.
        check(self).map_err(|_| ValueFault::Unreadable)?;
        let bytes = postcard::to_allocvec(&(FORM, self)).map_err(|_| ValueFault::Unreadable)?;
        if bytes.len() > MAX_SIZE {
            return Err(ValueFault::TooLarge(bytes.len()));
        }
        Ok(bytes)
    }

    /// Nothing of a value is used unless all of it can be.
    ///
    /// # Errors
    /// It was not written by this release, is damaged, or has numbers that no pool has.
    pub fn from_bytes(bytes: &[u8]) -> Result<Pool, ValueFault> {
        if bytes.len() > MAX_SIZE {
            return Err(ValueFault::TooLarge(bytes.len()));
        }
        let (form, rest) = bytes.split_first().ok_or(ValueFault::Unreadable)?;
        if *form != FORM {
            return Err(ValueFault::OtherForm(*form));
        }
        match postcard::take_from_bytes(rest) {
            Ok((pool, [])) if check(&pool).is_ok() => Ok(pool),
            _ => Err(ValueFault::Unreadable),
        }
    }
}

impl Hinted {
    /// Empty if nobody should exchange.
    pub fn to_bytes(&self) -> Vec<u8> {
        if *self == Hinted::Nobody {
            return Vec::new();
        }
        postcard::to_allocvec(self).unwrap_or_default()
    }

    /// One that cannot be read concerns all.
    pub fn from_bytes(bytes: &[u8]) -> Hinted {
        postcard::from_bytes(bytes).unwrap_or(Hinted::All)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::policy::{
        fleet::{
            DEAD, Lease, MAX_REPLICAS, ReplicaId, Reply, Timing, plausible::MOST, simulation::crowd,
        },
        ledger::{Ledger, LedgerRules},
    };

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_is_read_as_it_was_written(replicas in 0..20_u64, callers in 0..4_u64) {
            let pool = crowd(replicas, callers, Duration::from_secs(1000));
            let bytes = pool.to_bytes().expect("small");
            let read = Pool::from_bytes(&bytes).expect("written by this release");
            prop_assert_eq!(format!("{read:?}"), format!("{pool:?}"));
            prop_assert_eq!(read.to_bytes(), Ok(bytes));
        }

        #[test]
        fn garbage_is_refused_whole(bytes in prop::collection::vec(any::<u8>(), 0..400), at in 0..4000_usize, to: u8) {
            let _ = Pool::from_bytes(&bytes);
            let mut bytes = crowd(3, 2, Duration::from_secs(1000)).to_bytes().expect("small");
            let at = at % bytes.len();
            bytes.truncate(at);
            prop_assert!(Pool::from_bytes(&bytes).is_err());
            bytes.push(to);
            let _ = Pool::from_bytes(&bytes);
        }
    }

    #[test]
    fn another_form_is_refused() {
        let mut bytes = Pool::default().to_bytes().expect("small");
        bytes[0] = FORM + 1;
        let other = ValueFault::OtherForm(FORM + 1);
        assert_eq!(Pool::from_bytes(&bytes).err(), Some(other));
        bytes[0] = FORM;
        bytes.push(0);
        assert_eq!(Pool::from_bytes(&bytes).err(), Some(ValueFault::Unreadable));
        let large = vec![FORM; MAX_SIZE + 1];
        let fault = ValueFault::TooLarge(large.len());
        assert_eq!(Pool::from_bytes(&large).err(), Some(fault));
    }

    #[test]
    fn as_many_replicas_as_there_may_be_fit() {
        let pool = crowd(MAX_REPLICAS as u64 + 10, 2, Duration::from_secs(1000));
        let bytes = pool.to_bytes().expect("it fits");
        assert!(bytes.len() > 10_000, "{}", bytes.len());
    }

    #[test]
    fn ten_thousand_dead_replicas_leave_nothing_behind() {
        let mut pool = Pool::default();
        let mut now = Duration::from_secs(1000);
        for n in 0..10_000 {
            let statement = simulation_statement(n, 1, 1);
            let _ = pool.sync(&statement, now);
            now += Duration::from_millis(10);
            if n % 500 == 0 {
                assert!(pool.to_bytes().is_ok());
            }
        }
        now += DEAD * 3;
        let _ = pool.sync(&simulation_statement(10_000, 1, 0), now);
        assert!(pool.to_bytes().expect("small").len() < 2000);
    }

    fn simulation_statement(n: u64, number: u64, callers: u64) -> crate::policy::fleet::Statement {
        crate::policy::fleet::simulation::statement(ReplicaId(n), number, callers)
    }

    const RULES: LedgerRules = LedgerRules {
        spread_above: 0.5,
        reserve: 0.0,
        max_retry_after: Duration::from_secs(600),
    };
    const SECOND: Duration = Duration::from_secs(1);

    fn replica() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.join(Lease::new(ReplicaId(1)));
        ledger
    }

    /// One exchange, by which the replica knows what is in the pool.
    fn exchange(replica: &mut Ledger, pool: &mut Pool, now: Duration) -> Reply {
        let statement = replica.state(Vec::new(), RULES, now).expect("in a fleet");
        let reply = pool.sync(&statement, now);
        replica.hear(
            &reply,
            pool,
            Timing {
                began: now,
                round_trip: Duration::ZERO,
            },
            now,
        );
        reply
    }

    #[test]
    fn a_pause_that_a_false_value_says_lasts_no_longer_than_one_of_devrevs() {
        let (mut ours, mut pool) = (replica(), Pool::default());
        exchange(&mut ours, &mut pool, SECOND);
        pool.ledger_mut().pause_until(SECOND * 1_000_000, SECOND);
        let mut read = Pool::from_bytes(&pool.to_bytes().expect("small")).expect("it is a pool");
        exchange(&mut ours, &mut read, SECOND * 2);
        assert_eq!(ours.paused_until(SECOND * 2), Some(SECOND * 602));
        // The value is lost, and the replica states what it knows: not longer again.
        let mut mended = Pool::default();
        exchange(&mut ours, &mut mended, SECOND * 302);
        assert_eq!(
            mended.ledger().paused_until(SECOND * 302),
            Some(SECOND * 602)
        );
    }

    /// It may end before its last attempts do.
    #[test]
    fn what_one_that_leaves_has_in_flight_is_not_given_away() {
        let (mut ours, mut pool) = (replica(), Pool::default());
        let mut statement = ours.state(Vec::new(), RULES, SECOND).expect("in a fleet");
        statement.in_flight = 3;
        let reply = pool.sync(&statement, SECOND);
        assert_eq!((reply.claimed, reply.limbo), (3, 0));
        statement.number += 1;
        statement.leaves = true;
        let _ = pool.sync(&statement, SECOND * 2);
        let reply = exchange(&mut replica(), &mut pool, SECOND * 3);
        assert_eq!((reply.replicas, reply.limbo), (1, 3));
    }

    #[test]
    fn a_false_time_is_forgotten_with_its_value() {
        for at in [1 << 33, (1 << 40) - 2] {
            let (mut ours, mut others) = (replica(), replica());
            let mut pool = Pool::default();
            // As if it were that late; the register's clock then says the truth.
            exchange(&mut ours, &mut pool, Duration::from_secs(at));
            exchange(&mut ours, &mut pool, Duration::from_secs(at + 1));
            let mut mended = Pool::default();
            for second in 1..10 {
                for replica in [&mut ours, &mut others] {
                    let reply = exchange(replica, &mut mended, SECOND * (1000 + second));
                    assert!(reply.now < SECOND * 1020, "{:?}", reply.now);
                    assert!(mended.to_bytes().is_ok());
                }
            }
        }
    }

    /// Other builds of this release read the same. Whoever changes it raises [`FORM`].
    #[test]
    fn its_form_is_known() {
        let pool = crowd(3, 2, Duration::from_secs(1000));
        let bytes = pool.to_bytes().expect("small");
        let sum = bytes.iter().fold(0xCBF2_9CE4_8422_2325_u64, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
        });
        assert_eq!((FORM, bytes.len(), sum), (2, 586, 14414575685368638413));
    }

    #[test]
    fn a_false_revision_is_forgotten_with_its_value() {
        let (mut ours, mut pool) = (replica(), Pool::default());
        exchange(&mut ours, &mut pool, SECOND);
        pool.set_revision(MOST - 1);
        exchange(&mut ours, &mut pool, SECOND * 2);
        exchange(&mut ours, &mut pool, SECOND * 3);
        // Nobody could read it, so it is not written.
        assert_eq!(pool.to_bytes().err(), Some(ValueFault::Unreadable));
        let mut mended = Pool::default();
        let reply = exchange(&mut ours, &mut mended, SECOND * 4);
        assert_eq!(reply.lost, Some(true));
        for second in 5..10 {
            let reply = exchange(&mut ours, &mut mended, SECOND * second);
            assert_eq!(reply.lost, None);
            assert!(Pool::from_bytes(&mended.to_bytes().expect("small")).is_ok());
        }
    }
}
