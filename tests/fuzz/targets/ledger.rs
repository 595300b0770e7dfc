//! The ledger as a state machine against a model of DevRev's window. However DevRev answers, no reservation leaks, and whoever waits as
//! told is granted in the end; what holds an interactive attempt holds those of batch; and as long as it tells the truth, no more is in
//! flight than it has left.
#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use revgate::policy::{
    fair::Standing,
    feedback::{Admitted, Feedback},
    ledger::{AttemptKind, Grant, Ledger, LedgerRules, Payload, Settlement},
    operation::Operation,
};

#[derive(Arbitrary, Debug)]
enum Step {
    Grant(u8),
    /// DevRev counts an attempt.
    Count(u8),
    Answer(u8, Answer),
    Cancel(u8, bool),
    /// No connection is found for an attempt.
    Unreachable(u8),
    /// Units taken by others.
    Outside(u8),
    Wait(u16),
    Resume,
}

#[derive(Arbitrary, Debug)]
enum Answer {
    True,
    /// From behind the limiter, or from in front of it.
    NoHeaders(bool),
    Throttled(Option<u8>),
    Unavailable(u8),
    Lie {
        limit: u64,
        remaining: u64,
        reset: u64,
        resets_in: u32,
    },
}

#[derive(Arbitrary, Debug)]
struct Run {
    limit: u8,
    length: u16,
    spread_above: u8,
    reserve: u8,
    steps: Vec<Step>,
}

/// DevRev's window. Times in milliseconds.
struct Upstream {
    limit: u64,
    length: u64,
    now: u64,
    ends: u64,
    used: u64,
}

const EPOCH: u64 = 1_800_000_000_370;

impl Upstream {
    fn take(&mut self, units: u64) -> (u64, u64) {
        if self.now >= self.ends {
            self.ends = self.now + self.length;
            self.used = 0;
        }
        self.used = (self.used + units).min(self.limit);
        (self.limit - self.used, (EPOCH + self.ends).div_ceil(1000))
    }

    fn now(&self) -> Duration {
        Duration::from_millis(self.now)
    }
}

fn answered(feedback: Feedback, admitted: Admitted) -> Settlement {
    Settlement::Answered { feedback, admitted }
}

fn after(seconds: Option<u8>) -> Feedback {
    let seconds = seconds.map(|seconds| Duration::from_secs(u64::from(seconds).max(1)));
    Feedback {
        retry_after: seconds,
        ..Feedback::default()
    }
}

fuzz_target!(|run: Run| {
    let rules = LedgerRules {
        spread_above: f64::from(run.spread_above % 101) / 100.0,
        reserve: f64::from(run.reserve % 90) / 100.0,
        max_retry_after: Duration::from_secs(600),
    };
    let mut upstream = Upstream {
        limit: u64::from(run.limit).max(1),
        length: u64::from(run.length).max(2000),
        now: 0,
        ends: 0,
        used: 0,
    };
    let mut ledger = Ledger::default();
    let mut out: Vec<(Grant, Option<(u64, u64)>)> = Vec::new();
    let mut honest = true;
    for step in run.steps {
        let now = upstream.now();
        match step {
            Step::Grant(what) => {
                let operation = ["/works.list", "/works.get", "/accounts.get", "/invented"];
                let operation = Operation::from_path(operation[usize::from(what / 2) % 4]).id();
                let payload = if what % 2 == 0 {
                    Payload::Whole
                } else {
                    Payload::Streamed
                };
                let of = |standing| AttemptKind {
                    operation,
                    payload,
                    standing,
                };
                let standings = [Standing::Interactive, Standing::Aged, Standing::Batch];
                let standing = standings[usize::from(what / 8) % 3];
                let behind = (standing, what.into());
                let wait = ledger.predict_wait(Some(operation), behind, &rules, now);
                assert!(wait < Duration::from_secs(1 << 40), "{wait:?}");
                match ledger.grant(of(standing), &rules, now) {
                    Ok(grant) => out.push((grant, None)),
                    Err(hold) => {
                        assert!(hold.until.is_none_or(|until| until > now));
                        // Whatever comes after it in the order of turns is held too.
                        for after in standings.into_iter().filter(|after| *after > standing) {
                            assert!(ledger.grant(of(after), &rules, now).is_err(), "{after:?}");
                        }
                        continue;
                    }
                }
                let view = ledger.view(&rules, now);
                if let (Some(remaining), Some(_)) = (view.remaining, view.resets_in)
                    && honest
                {
                    assert!(
                        out.len() as u64 <= remaining,
                        "{} of {remaining}",
                        out.len()
                    );
                }
            }
            Step::Count(which) => {
                let mut waiting = out.iter_mut().filter(|(_, counted)| counted.is_none());
                if let Some((_, counted)) = waiting.nth(usize::from(which) % 8) {
                    *counted = Some(upstream.take(1));
                }
            }
            Step::Answer(which, answer) if !out.is_empty() => {
                let which = usize::from(which) % out.len();
                let Some((remaining, reset)) = out[which].1 else {
                    continue;
                };
                let date = (EPOCH + upstream.now) / 1000;
                let settlement = match answer {
                    Answer::True => answered(
                        Feedback {
                            limit: Some(upstream.limit),
                            remaining: Some(remaining),
                            reset: Some(reset),
                            resets_in: Some(Duration::from_secs(reset.saturating_sub(date))),
                            retry_after: None,
                        },
                        Admitted::Yes,
                    ),
                    Answer::NoHeaders(true) => answered(Feedback::default(), Admitted::Yes),
                    Answer::NoHeaders(false) => answered(Feedback::default(), Admitted::Unknown),
                    Answer::Throttled(seconds) => answered(after(seconds), Admitted::No),
                    Answer::Unavailable(seconds) => {
                        answered(after(Some(seconds)), Admitted::Unknown)
                    }
                    Answer::Lie {
                        limit,
                        remaining,
                        reset,
                        resets_in,
                    } => {
                        honest = false;
                        let feedback = Feedback {
                            limit: Some(limit),
                            remaining: Some(remaining),
                            reset: Some(reset),
                            resets_in: Some(Duration::from_secs(resets_in.into())),
                            retry_after: None,
                        };
                        answered(feedback, Admitted::Yes)
                    }
                };
                let _ = ledger.settle(out.remove(which).0, settlement, &rules, now);
            }
            Step::Cancel(which, sent) if !out.is_empty() => {
                let (grant, counted) = out.remove(usize::from(which) % out.len());
                let settlement = match sent || counted.is_some() {
                    true => Settlement::InDoubt,
                    false => Settlement::Unsent,
                };
                let _ = ledger.settle(grant, settlement, &rules, now);
            }
            Step::Unreachable(which) if !out.is_empty() => {
                let which = usize::from(which) % out.len();
                if out[which].1.is_none() {
                    let (grant, _) = out.remove(which);
                    let _ = ledger.settle(grant, Settlement::Unreachable, &rules, now);
                }
            }
            Step::Answer(..) | Step::Cancel(..) | Step::Unreachable(..) => {}
            Step::Outside(units) => drop(upstream.take(u64::from(units % 4))),
            Step::Wait(time) => upstream.now += u64::from(time),
            Step::Resume => {
                ledger.resume();
                honest = false;
            }
        }
        let view = ledger.view(&rules, upstream.now());
        assert_eq!(view.in_flight, out.len() as u64, "reservations leak");
    }
    let mut now = upstream.now();
    for (grant, _) in out {
        let _ = ledger.settle(grant, Settlement::InDoubt, &rules, now);
    }
    let kind = AttemptKind {
        operation: Operation::from_path("/works.list").id(),
        payload: Payload::Whole,
        standing: Standing::Batch,
    };
    for _ in 0..100 {
        match ledger.grant(kind, &rules, now) {
            Ok(_) => return,
            Err(hold) => {
                let until = hold
                    .until
                    .expect("with nothing in flight only time releases units");
                assert!(until > now);
                now = until;
            }
        }
    }
    panic!("held a hundred times");
});
