//! The allocator as a state machine: never more than there is, nothing lost, nobody stranded.
#![no_main]

use std::{net::IpAddr, time::Duration};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use revgate::policy::{
    allocator::{Allocator, Claim, Party, Ticket},
    fair::Priority,
};

#[derive(Arbitrary, Debug)]
enum Step {
    Take {
        who: u8,
        units: u8,
    },
    Wait {
        who: u8,
        units: u8,
        patience: u16,
    },
    Leave(u8),
    GiveBack(u8),
    /// A reload changes the capacity.
    Resize(u8),
    Pass(u16),
}

#[derive(Arbitrary, Debug)]
struct Run {
    capacity: u8,
    steps: Vec<Step>,
}

fn claim(who: u8) -> Claim {
    let who = who % 12;
    let batch = who % 3 == 0;
    let priority = if batch {
        Priority::Batch
    } else {
        Priority::Interactive
    };
    let party = match who {
        0..4 => Party::Unknown(Some(IpAddr::from([192, 0, 2, who / 2])).into()),
        4 => Party::Gateway,
        _ => Party::Caller {
            group: "main".into(),
            name: who.to_string().into(),
        },
    };
    Claim {
        party,
        weight: u32::from(who) * 3,
        priority,
    }
}

#[derive(Default)]
struct Model {
    allocator: Allocator,
    held: Vec<(Claim, u64)>,
    waits: Vec<(Ticket, Claim, u64)>,
}

impl Model {
    fn serve(&mut self, capacity: u64, now: Duration) {
        while let Some(ticket) = self.allocator.next(capacity, now) {
            let at = self.waits.iter().position(|(other, ..)| *other == ticket);
            let (_, claim, units) = self.waits.remove(at.expect("it waits"));
            self.held.push((claim, units));
            let used: u64 = self.held.iter().map(|(_, units)| units).sum();
            assert!(used <= capacity);
        }
    }

    fn check(&self) {
        let used: u64 = self.held.iter().map(|(_, units)| units).sum();
        assert_eq!(self.allocator.used(), used);
        assert_eq!(self.allocator.waiting(), self.waits.len());
    }
}

fuzz_target!(|run: Run| {
    let mut capacity = u64::from(run.capacity % 40) + 1;
    let mut model = Model::default();
    let mut now = Duration::from_secs(1);
    for step in run.steps {
        match step {
            Step::Take { who, units } => {
                let (claim, units) = (claim(who), u64::from(units % 5));
                let free = capacity.saturating_sub(model.allocator.used());
                if model.allocator.try_take(capacity, &claim, units) {
                    assert!(units <= free);
                    model.held.push((claim, units));
                }
            }
            Step::Wait {
                who,
                units,
                patience,
            } => {
                let (claim, units) = (claim(who), u64::from(units % 5).clamp(1, capacity));
                let until = now + Duration::from_millis(patience.into());
                let ticket = model.allocator.wait(&claim, units, (now, until));
                model.waits.push((ticket, claim, units));
            }
            Step::Leave(which) if !model.waits.is_empty() => {
                let (ticket, ..) = model.waits.remove(usize::from(which) % model.waits.len());
                assert!(model.allocator.leave(&ticket));
                assert!(!model.allocator.leave(&ticket));
            }
            Step::GiveBack(which) if !model.held.is_empty() => {
                let (claim, units) = model.held.remove(usize::from(which) % model.held.len());
                model.allocator.give_back(&claim.party, units);
            }
            Step::Leave(_) | Step::GiveBack(_) => {}
            // Whoever waits for more than there is then would never be served, so that is refused beforehand.
            Step::Resize(to) => capacity = (u64::from(to % 40) + 1).max(4),
            Step::Pass(ms) => now += Duration::from_millis(ms.into()),
        }
        model.serve(capacity, now);
        model.check();
    }
    capacity = capacity.max(4);
    while !model.held.is_empty() || !model.waits.is_empty() {
        assert!(!model.held.is_empty(), "stranded: {:?}", model.waits);
        let (claim, units) = model.held.remove(0);
        model.allocator.give_back(&claim.party, units);
        model.serve(capacity, now);
    }
    assert_eq!(model.allocator.used(), 0);
});
