//! Which connections stay, as a state machine: never more than there may be, none chosen twice, and a place is made where one can be.
#![no_main]

use std::{net::IpAddr, time::Duration};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use revgate::policy::{
    allocator::{Claim, Party},
    connections::{Connections, GiveWay},
    fair::Priority,
};

#[derive(Arbitrary, Debug)]
enum Step {
    Open(u8),
    Prove(u8, u8),
    Begin(u8),
    End(u8),
    Pend(u8),
    Settle(u8),
    Close(u8),
    Pass(u8),
}

const MAX: usize = 9;

struct Open {
    id: u64,
    opened: Duration,
    proven: bool,
    pending: usize,
    chosen: bool,
}

fn caller(who: u8) -> Claim {
    Claim {
        party: Party::Caller {
            group: "main".into(),
            name: (who % 4).to_string().into(),
        },
        weight: u32::from(who % 4),
        priority: Priority::Interactive,
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let mut connections = Connections::default();
    let mut all: Vec<Open> = Vec::new();
    let mut now = Duration::from_secs(1);
    for step in steps {
        let which = match step {
            Step::Prove(which, _)
            | Step::Begin(which)
            | Step::End(which)
            | Step::Pend(which)
            | Step::Settle(which)
            | Step::Close(which)
                if !all.is_empty() =>
            {
                usize::from(which) % all.len()
            }
            Step::Open(_) | Step::Pass(_) => 0,
            _ => continue,
        };
        match step {
            Step::Open(from) => {
                let claim = Claim::unknown(Some(IpAddr::from([192, 0, 2, from % 3])));
                match connections.open(MAX, claim, now) {
                    Some(id) => all.push(Open {
                        id,
                        opened: now,
                        proven: false,
                        pending: 0,
                        chosen: false,
                    }),
                    None => {
                        assert_eq!(all.len(), MAX);
                        let unproven =
                            |open: &&Open| !open.proven && open.pending == 0 && !open.chosen;
                        let could = all.iter().any(|open| unproven(&open));
                        match connections.give_way(now) {
                            GiveWay::Chosen(id) => {
                                let chosen = all.iter_mut().find(|open| open.id == id);
                                let chosen = chosen.expect("it is open");
                                assert!(!std::mem::replace(&mut chosen.chosen, true));
                                assert!(chosen.proven != could, "an unproven one goes first");
                            }
                            GiveWay::NotBefore(time) => {
                                assert!(could && time > now);
                                assert!(
                                    all.iter()
                                        .filter(unproven)
                                        .any(|open| { open.opened < time })
                                );
                            }
                            GiveWay::None => assert!(!could),
                        }
                    }
                }
            }
            Step::Prove(_, who) => {
                let id = all[which].id;
                if let Ok(Some(other)) = connections.prove(MAX, id, &caller(who)) {
                    let other = all.iter_mut().find(|open| open.id == other);
                    let other = other.expect("it is open");
                    assert!(other.id != id && !std::mem::replace(&mut other.chosen, true));
                }
                all[which].proven = true;
            }
            Step::Begin(_) => connections.begin(all[which].id),
            Step::End(_) => drop(connections.end(all[which].id)),
            Step::Pend(_) => {
                all[which].pending += 1;
                connections.pend(all[which].id);
            }
            Step::Settle(_) => {
                all[which].pending = all[which].pending.saturating_sub(1);
                connections.settle(all[which].id);
            }
            Step::Close(_) => connections.close(all.remove(which).id),
            Step::Pass(ms) => now += Duration::from_millis(ms.into()),
        }
        assert!(all.len() <= MAX);
    }
    for open in all {
        connections.close(open.id);
    }
    assert!(!connections.is_making_room());
    assert!(connections.open(MAX, caller(0), now).is_some());
});
