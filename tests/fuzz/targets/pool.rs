//! A register whose value others write: any bytes, or a true value with some of its bytes changed, and any time on its clock. Whatever it says, a
//! replica goes on: nothing panics or takes long, what is told it stays within bounds, and a lease ends.
#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use revgate::policy::{
    fair::{Priority, Share, Standing},
    feedback::{Admitted, Feedback},
    fleet::{Hinted, MAX_SIZE, Pool, Statement, TERM, fuzzing::Replica},
    ledger::{AttemptKind, Grant, LedgerRules, Payload, Settlement},
    operation::Operation,
};

#[derive(Arbitrary, Debug)]
enum Step {
    Request {
        replica: bool,
        caller: u8,
        count: u8,
        payload: bool,
    },
    Exchange {
        replica: bool,
        /// Nothing is heard of the answer, though it is written.
        lost: bool,
    },
    Value(Vec<u8>),
    Patch {
        at: u16,
        remove: u8,
        put: Put,
    },
    Forget,
    Clock {
        seconds: u64,
        nanos: u32,
    },
    Fail(bool),
    Answer {
        limit: u64,
        remaining: u64,
        reset: u64,
        resets_in: u16,
        retry_after: Option<u8>,
        admitted: bool,
    },
    Cancel(bool),
    Wait(u16),
    Hint(Vec<u8>),
    Leave(bool),
}

#[derive(Arbitrary, Debug)]
enum Put {
    Bytes([u8; 3]),
    /// As large as a number can be.
    Number,
    /// As large as a number may be.
    Plausible,
    Float(f64),
    Again(u8),
}

fn put(value: &mut Vec<u8>, at: u16, remove: u8, put: &Put) {
    let at = usize::from(at) % (value.len() + 1);
    let end = (at + usize::from(remove % 12)).min(value.len());
    let bytes = match put {
        Put::Bytes(bytes) => bytes.to_vec(),
        Put::Number => vec![255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
        Put::Plausible => vec![128, 128, 128, 128, 128, 128, 4],
        Put::Float(float) => float.to_le_bytes().to_vec(),
        Put::Again(count) => value[at..end].repeat(usize::from(*count)),
    };
    value.splice(at..end, bytes);
}

const RULES: LedgerRules = LedgerRules {
    spread_above: 0.5,
    reserve: 0.1,
    max_retry_after: Duration::from_secs(600),
};

/// The register, as the driver uses it.
struct Register {
    value: Option<Vec<u8>>,
    clock: Duration,
}

impl Register {
    /// True if it was written.
    fn exchange(&mut self, statement: &Statement) -> Option<(revgate::policy::fleet::Reply, Pool)> {
        let value = self.value.as_deref();
        let read = value.map_or_else(|| Ok(Pool::default()), Pool::from_bytes);
        let mut pool = read.unwrap_or_default();
        let reply = pool.sync(statement, self.clock);
        assert!((0.0..=1.0).contains(&reply.share), "{}", reply.share);
        assert!(reply.others_rate >= 0.0 && reply.others_rate.is_finite());
        assert!(reply.active <= reply.replicas);
        assert!(reply.until <= reply.now.saturating_add(TERM));
        assert!(pool.kept_for(reply.now) < Duration::from_secs(1 << 41));
        let hint = reply.hint.to_bytes();
        if !hint.is_empty() {
            assert_eq!(Hinted::from_bytes(&hint), reply.hint);
        }
        let bytes = pool.to_bytes().ok()?;
        assert!(bytes.len() <= MAX_SIZE);
        self.value = Some(bytes);
        Some((reply, pool))
    }
}

fn kind(caller: u8, payload: bool) -> (Share, AttemptKind) {
    let priority = match caller % 2 {
        0 => Priority::Interactive,
        _ => Priority::Batch,
    };
    let share = Share {
        caller: format!("caller-{}", caller % 6).into(),
        weight: u32::from(caller % 3) + 1,
        priority,
    };
    let operations = ["/works.list", "/accounts.get", "/invented"];
    let kind = AttemptKind {
        operation: Operation::from_path(operations[usize::from(caller / 6) % 3]).id(),
        payload: if payload {
            Payload::Streamed
        } else {
            Payload::Whole
        },
        standing: Standing::from(priority),
    };
    (share, kind)
}

fuzz_target!(|steps: Vec<Step>| {
    let mut now = Duration::from_secs(1_000);
    let mut register = Register {
        value: None,
        clock: Duration::from_secs(1_800_000_000),
    };
    let mut replicas = [Replica::new(1, RULES), Replica::new(2, RULES)];
    // What each has in flight.
    let mut out: [Vec<Grant>; 2] = [Vec::new(), Vec::new()];
    let mut heard = [now; 2];
    for step in steps {
        match step {
            Step::Request {
                replica,
                caller,
                count,
                payload,
            } => {
                let (share, kind) = kind(caller, payload);
                let wait = Duration::from_secs(30);
                for _ in 0..count % 8 {
                    replicas[usize::from(replica)].request(&share, kind, wait, now);
                }
            }
            Step::Exchange { replica, lost } => {
                let which = usize::from(replica);
                let replica = &mut replicas[which];
                let statement = replica.state(now);
                match register.exchange(&statement) {
                    Some((reply, pool)) if !lost => {
                        replica.hear(&reply, &pool, now, now);
                        heard[which] = now;
                    }
                    _ => replica.fail(now),
                }
            }
            Step::Value(bytes) => register.value = Some(bytes),
            Step::Patch {
                at,
                remove,
                put: what,
            } => {
                if let Some(value) = &mut register.value {
                    put(value, at, remove, &what);
                    value.truncate(MAX_SIZE + 1);
                }
            }
            Step::Forget => register.value = None,
            Step::Clock { seconds, nanos } => {
                register.clock =
                    Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos.into()));
            }
            Step::Fail(replica) => replicas[usize::from(replica)].fail(now),
            Step::Answer {
                limit,
                remaining,
                reset,
                resets_in,
                retry_after,
                admitted,
            } => {
                for (replica, out) in replicas.iter_mut().zip(&mut out) {
                    let Some(grant) = out.pop() else {
                        continue;
                    };
                    let feedback = Feedback {
                        limit: Some(limit),
                        remaining: Some(remaining),
                        reset: Some(reset),
                        resets_in: Some(Duration::from_secs(resets_in.into())),
                        retry_after: retry_after.map(|after| Duration::from_secs(after.into())),
                    };
                    let admitted = if admitted {
                        Admitted::Yes
                    } else {
                        Admitted::No
                    };
                    let settlement = Settlement::Answered { feedback, admitted };
                    replica.settle(grant, settlement, now);
                }
            }
            Step::Cancel(sent) => {
                for (replica, out) in replicas.iter_mut().zip(&mut out) {
                    if let Some(grant) = out.pop() {
                        let settlement = match sent {
                            true => Settlement::InDoubt,
                            false => Settlement::Unsent,
                        };
                        replica.settle(grant, settlement, now);
                    }
                }
            }
            Step::Wait(time) => {
                let time = Duration::from_millis(time.into());
                now = now.saturating_add(time);
                register.clock = register.clock.saturating_add(time);
            }
            Step::Hint(bytes) => {
                let hint = Hinted::from_bytes(&bytes);
                replicas[0].hint(&hint, now);
            }
            Step::Leave(replica) => replicas[usize::from(replica)].leave(),
        }
        for (index, replica) in replicas.iter_mut().enumerate() {
            let held = replica.held();
            let grants = replica.serve(now);
            if now >= heard[index].saturating_add(TERM) {
                assert_eq!(replica.held(), held, "a lease is used after its end");
            }
            out[index].extend(grants);
            let standing = (Standing::Batch, 3);
            let _ = replica.ledger.predict_wait(None, standing, &RULES, now);
            let _ = replica.ledger.view(&RULES, now);
            let _ = replica.is_due(now);
        }
    }
});
