//! Scripted statements to one pool.

use std::{collections::BTreeMap, time::Duration};

use super::{
    super::{
        DEAD, Ending, FORGOTTEN, Hinted, Known, Low, MAX_REPLICAS, ON_WIRE, Pauses, Pool,
        QUARANTINE, ReplicaId, Reply, Statement, TERM, Told, simulation,
    },
    LONG_KNOWN,
};

use crate::policy::operation::{Operation, OperationId};

const SECOND: Duration = Duration::from_secs(1);
const START: Duration = Duration::from_secs(1000);

/// Replicas, of which each knows what it was told last.
#[derive(Default)]
struct Script {
    pool: Pool,
    now: Duration,
    numbers: BTreeMap<u64, u64>,
    known: BTreeMap<u64, (Known, Duration)>,
    /// The number of the last `resume` that each has heard.
    heard: BTreeMap<u64, u64>,
    /// How often an operator has ended pauses there.
    resumes: BTreeMap<u64, u64>,
}

impl Script {
    fn new() -> Script {
        Script {
            now: START,
            ..Script::default()
        }
    }

    /// This replica states what is changed in a statement that says that nothing is held and nobody waits.
    fn says(&mut self, id: u64, change: impl FnOnce(&mut Statement)) -> Reply {
        let number = self.numbers.entry(id).or_insert(0);
        *number += 1;
        let mut statement = simulation::statement(ReplicaId(id), *number, 0);
        (statement.in_flight, statement.told, statement.rate) = (0, None, [0.0; 2]);
        statement.known = self.known.get(&id).map(|(known, at)| Known {
            age: self.now - *at,
            ..*known
        });
        change(&mut statement);
        let reply = self.pool.sync(&statement, self.now);
        let known = Known {
            revision: reply.revision,
            number: *number,
            dealt: 0,
            fleet: reply.now,
            age: Duration::ZERO,
        };
        if !reply.is_full {
            self.known.insert(id, (known, self.now));
        }
        self.now += Duration::from_millis(10);
        reply
    }

    /// An answer told this, after what the replica knows.
    fn told(&mut self, id: u64, remaining: u64, low: Option<u64>) -> Reply {
        let sent_after = self.known.get(&id).map_or(0, |(known, _)| known.revision);
        self.says(id, |statement| {
            statement.rate = [10.0, 0.0];
            statement.told = Some(told(remaining, low, sent_after));
        })
    }

    fn pauses(&mut self, id: u64, resumes: u64, pause: Option<Duration>) -> Reply {
        // As the lease does it, which keeps what it heard.
        let heard = self.heard.get(&id).copied().unwrap_or(0);
        let all = self.resumes.entry(id).or_insert(0);
        *all += resumes;
        let all = *all;
        let reply = self.says(id, |statement| {
            statement.pauses = Pauses {
                heard,
                resumes: all,
                unheard: resumes,
                group: pause.map(|left| Ending { told: None, left }),
                operation: None,
            };
        });
        self.heard.insert(id, heard.max(reply.pauses));
        reply
    }

    fn is_paused(&self) -> bool {
        self.pool.pause_left(self.now).is_some()
    }

    /// Units that nobody may take yet.
    fn free(&self) -> u64 {
        self.pool.free(2_000).expect("a window")
    }

    fn leased(&mut self) -> u64 {
        let pool = self.pool.clone();
        pool.members.values().map(|m| m.claims().leased).sum()
    }

    fn external(&mut self) -> u64 {
        let rules = simulation::statement(ReplicaId(0), 1, 0).rules;
        self.pool.ledger_mut().view(&rules, self.now).external.1
    }

    fn remaining(&self) -> u64 {
        self.pool.ledger().told().expect("a window").1
    }
}

fn told(remaining: u64, low: Option<u64>, sent_after: u64) -> Told {
    Told {
        limit: Some(1000),
        remaining,
        reset: 2_000,
        ends_in: Some(SECOND * 50),
        known_end: None,
        sent_after,
        low: low.map(|remaining| Low {
            remaining,
            sent_after,
        }),
    }
}

#[test]
fn a_single_answer_that_is_far_too_low_stops_nobody() {
    let mut script = Script::new();
    assert!(script.told(1, 900, None).keeps[0]);
    script.told(2, 890, None);
    let doubts = script.told(1, 890, Some(3));
    assert_eq!(script.remaining(), 890);
    // Until it is clear, units are dealt one by one.
    assert!(!doubts.keeps[0] && doubts.leased.is_empty() && doubts.awaits_ends);
    // The same answer said again, and one whose attempt was sent before, say nothing new.
    script.says(1, |statement| statement.told = Some(told(890, Some(3), 0)));
    script.says(2, |statement| statement.told = Some(told(889, None, 0)));
    assert!(!script.says(3, |_| {}).keeps[0]);
    // A later one is as ever.
    assert!(script.told(2, 888, None).keeps[0]);
    assert_eq!(script.remaining(), 888);
}

#[test]
fn a_second_answer_is_believed() {
    // Of another replica, or of the same one to an attempt that was sent later.
    for second in [2, 1] {
        let mut script = Script::new();
        script.told(1, 900, None);
        script.told(2, 890, None);
        script.told(1, 890, Some(3));
        assert_eq!(script.remaining(), 890);
        script.told(second, 890, Some(2));
        assert_eq!(script.remaining(), 2, "{second}");
    }
}

#[test]
fn what_the_fleet_can_have_spent_is_believed_at_once() {
    let mut script = Script::new();
    script.told(1, 100, None);
    script.says(2, |statement| statement.in_flight = 60);
    script.told(1, 100, Some(40));
    assert_eq!(script.remaining(), 40);
}

#[test]
fn a_doubt_ends_with_its_window() {
    let mut script = Script::new();
    script.told(1, 900, None);
    script.told(1, 900, Some(3));
    assert!(!script.says(2, |_| {}).keeps[0]);
    script.now += SECOND * 51;
    let next = script.says(2, |statement| {
        statement.rate = [10.0, 0.0];
        statement.told = Some(Told {
            reset: 3_000,
            ..told(999, None, 0)
        });
    });
    assert!(next.keeps[0]);
}

#[test]
fn one_too_many_is_turned_away_and_nobody_takes_the_record_for_lost() {
    let mut script = Script::new();
    let most = MAX_REPLICAS as u64;
    let holds = |statement: &mut Statement| statement.in_flight = 1;
    for id in 0..most {
        assert!(!script.says(id, holds).is_full);
    }
    for id in most..most + 20 {
        assert!(script.says(id, holds).is_full);
    }
    for id in 0..most {
        let reply = script.says(id, holds);
        assert!(!reply.is_full && reply.lost.is_none() && reply.replicas == most);
    }
    // Those that hold nothing make room once they would not be missed.
    for id in 0..10 {
        script.says(id, |_| {});
    }
    assert!(script.says(most, holds).is_full);
    script.now += LONG_KNOWN;
    for id in most..most + 10 {
        assert!(!script.says(id, holds).is_full);
    }
    assert!(script.says(0, holds).is_full);
    // And those that died.
    script.now += DEAD;
    assert!(!script.says(0, holds).is_full);
}

#[test]
fn one_that_was_forgotten_is_not_a_loss() {
    let mut script = Script::new();
    script.says(1, |_| {});
    script.says(2, |_| {});
    script.now += FORGOTTEN;
    script.says(2, |_| {});
    assert!(script.says(1, |_| {}).lost.is_none());
}

#[test]
fn resume_ends_a_pause_however_long_a_replica_was_silent() {
    let mut script = Script::new();
    script.pauses(1, 0, Some(SECOND * 300));
    script.pauses(2, 0, None);
    assert!(script.is_paused());
    script.now += FORGOTTEN;
    assert!(script.is_paused());
    let reply = script.pauses(2, 1, None);
    assert_eq!((script.is_paused(), reply.hint), (false, Hinted::All));
    // The pause that it ended is not taken up again.
    script.pauses(1, 0, Some(SECOND * 200));
    assert!(!script.is_paused());
    script.pauses(1, 0, Some(SECOND * 10));
    assert!(script.is_paused());
}

#[test]
fn a_newcomers_pause_holds_however_often_pauses_were_ended() {
    let mut script = Script::new();
    script.pauses(1, 1, None);
    script.pauses(2, 0, Some(SECOND * 10));
    assert!(script.is_paused());
    script.pauses(1, 0, None);
    assert!(script.is_paused());
}

#[test]
fn after_a_loss_what_was_resumed_before_ends_no_pause() {
    let mut script = Script::new();
    for id in [1, 2, 3] {
        script.pauses(id, u64::from(id == 1), None);
    }
    for id in [2, 3] {
        script.pauses(id, 0, None);
    }
    script.pool = Pool::default();
    // Newcomers know nothing of it, and say what holds now.
    script.pauses(4, 0, Some(SECOND * 100));
    script.pauses(4, 0, Some(SECOND * 100));
    assert!(script.pauses(1, 0, None).lost.is_some());
    assert!(script.is_paused());
    // One that has not been heard of for a while is no other.
    script.now += LONG_KNOWN + QUARANTINE;
    assert!(script.pauses(2, 0, None).lost.is_none());
    assert!(script.is_paused());
    script.pauses(3, 1, None);
    assert!(!script.is_paused());
}

/// Each order's first request has its place however many there are.
#[test]
fn many_orders_are_served() {
    let mut script = Script::new();
    script.told(1, 900, None);
    for id in 2..40 {
        script.says(id, |statement| {
            let callers = simulation::statement(ReplicaId(id), 1, 40);
            statement.orders = callers.orders;
            statement
                .orders
                .iter_mut()
                .for_each(|order| order.count = 100);
        });
    }
    let dealt = script.says(2, |_| {}).dealt;
    assert!(!dealt.is_empty());
}

#[test]
fn a_register_that_began_anew_is_told_from_one_that_went_back() {
    let mut script = Script::new();
    for id in [1, 2] {
        script.says(id, |_| {});
    }
    let older = script.pool.clone();
    for id in [1, 2] {
        script.says(id, |_| {});
    }
    script.pool = older;
    for id in [1, 2] {
        assert_eq!(script.says(id, |_| {}).lost, Some(false));
    }
    script.pool = Pool::default();
    for id in [1, 2] {
        assert_eq!(script.says(id, |_| {}).lost, Some(true));
    }
    assert_eq!(script.says(1, |_| {}).lost, None);
}

/// With so many requests of one caller on this operation.
fn wait_for(statement: &mut Statement, operation: OperationId, count: u32) {
    let replica = statement.replica;
    statement.orders = simulation::statement(replica, 1, 1).orders;
    for order in &mut statement.orders {
        (order.operation, order.count) = (operation, count);
    }
}

#[test]
fn who_waits_for_a_paused_operation_makes_nothing_scarce() {
    let mut script = Script::new();
    let operation = Operation::from_path("/works.get").id();
    assert!(script.told(1, 900, None).keeps[0]);
    script.says(2, |statement| {
        statement.pauses.operation = Some((
            operation,
            Ending {
                told: None,
                left: SECOND * 40,
            },
        ));
        wait_for(statement, operation, 3);
    });
    let reply = script.told(1, 890, None);
    assert_eq!(reply.keeps, [true; 2]);
    assert!(!reply.leased.is_empty());
    // But who waits for a unit does.
    script.now += SECOND * 11;
    let scarce = script.says(3, |statement| {
        statement.told = Some(told(2, None, reply.revision));
        wait_for(statement, OperationId::NONE, 300);
    });
    assert!(!scarce.keeps[0]);
}

#[test]
fn a_lease_that_was_not_stated_yet_is_called_back() {
    let mut script = Script::new();
    assert!(!script.told(1, 900, None).leased.is_empty());
    let reply = script.says(2, |statement| {
        statement.told = Some(told(2, None, 0));
        wait_for(statement, OperationId::NONE, 300);
    });
    assert_eq!(reply.hint, Hinted::These(vec![ReplicaId(1)]));
}

#[test]
fn what_a_dead_replica_had_leased_ends_with_the_lease_and_with_the_window() {
    let mut script = Script::new();
    let leased = script.told(1, 900, None);
    assert!(leased.claimed > 0);
    let reply = script.says(2, |_| {});
    assert_eq!((reply.leased_in_all, reply.limbo), (leased.claimed, 0));
    // Its lease has ended; what it spent of it is not known.
    script.now += TERM + ON_WIRE + SECOND * 3;
    let reply = script.says(2, |_| {});
    assert_eq!((reply.leased_in_all, reply.limbo), (0, leased.claimed));
    script.told(2, 880, None);
    assert_eq!(script.says(2, |_| {}).limbo, 0);
    // Another has died before the end of its window. The next answer tells what it sent at its end.
    script.told(3, 880, None);
    script.now += SECOND * 30;
    let told_anew = |sent_after| Told {
        reset: 3_000,
        ..told(999, None, sent_after)
    };
    let reply = script.says(2, |statement| statement.told = Some(told_anew(0)));
    assert_eq!(reply.leased_in_all, 0);
    let reply = script.says(2, |statement| {
        statement.told = Some(told_anew(reply.revision));
    });
    assert_eq!((reply.leased_in_all, reply.limbo), (0, 0));
}

#[test]
fn what_is_in_doubt_on_one_is_told_by_anothers_answer() {
    let mut script = Script::new();
    script.told(1, 900, None);
    script.says(2, |statement| statement.in_doubt = 30);
    assert_eq!(script.free(), 900 - 30 - script.leased());
    script.told(1, 870, None);
    assert_eq!(script.free(), 870 - 30 - script.leased());
    // Sent after that was known.
    script.told(1, 865, None);
    assert_eq!(script.free(), 865 - script.leased());
    script.says(2, |statement| statement.in_doubt = 30);
    assert_eq!(script.free(), 865 - script.leased());
    // There are others since.
    script.says(2, |statement| statement.in_doubt = 31);
    assert_eq!(script.free(), 865 - 1 - script.leased());
}

#[test]
fn a_resume_that_is_said_again_ends_no_later_pause() {
    let mut script = Script::new();
    script.pauses(1, 0, Some(SECOND * 300));
    script.pauses(2, 0, None);
    let said_again = |statement: &mut Statement| {
        (statement.pauses.resumes, statement.pauses.unheard) = (1, 1);
    };
    script.says(2, said_again);
    assert!(!script.is_paused());
    // Its answer was lost. Meanwhile another pause begins.
    script.heard.insert(1, 1);
    script.pauses(1, 0, Some(SECOND * 60));
    script.says(2, said_again);
    assert!(script.is_paused());
}

#[test]
fn after_a_loss_half_of_what_is_left_is_given_at_once() {
    let mut script = Script::new();
    for id in [1, 2, 3] {
        script.told(id, 900, None);
    }
    script.pool = Pool::default();
    let first = script.told(1, 900, None);
    assert!(first.lost.is_some() && first.keeps[0]);
    assert!(script.pool.free(2_000).is_some());
    let waits = script.says(2, |statement| {
        statement.told = Some(told(880, None, 0));
        wait_for(statement, OperationId::NONE, 40);
    });
    assert_eq!(waits.dealt.len(), 40);
    // What others have spent that are not back yet is not outside.
    assert_eq!(script.external(), 0);
    script.told(3, 800, None);
    assert_eq!(script.external(), 0);
}

#[test]
fn what_is_stated_after_a_loss_is_leased() {
    let mut script = Script::new();
    script.told(1, 900, None);
    script.pool = Pool::default();
    let reply = script.says(1, |statement| statement.held = [20, 4]);
    assert_eq!(
        (reply.leased_in_all, reply.limbo, reply.claimed),
        (24, 0, 24)
    );
    // Until it ends.
    script.now += TERM + ON_WIRE + SECOND * 3;
    let reply = script.says(2, |_| {});
    assert_eq!((reply.leased_in_all, reply.limbo), (0, 24));
}
