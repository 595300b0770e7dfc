use super::*;
use crate::{
    config::from_toml,
    fleet::{
        here::Place,
        names::Names,
        register::{Exchanged, Tag, Write},
    },
    policy::{
        fleet::{
            Pauses, Pool, ReplicaId, Statement,
            tokens::{CallerKey, MAX_CALLERS, Rule, Want},
        },
        ledger::LedgerRules,
    },
    state::limiters::purses::Check,
    types::Caller,
};

const TIMEOUT: Duration = Duration::from_millis(50);
const EPOCH: Duration = Duration::from_secs(1_700_000_000);

const FILE: &str = "[tokens.main]\nenv = \"T\"\n[callers.app]\nanonymous = true\nrate = \"2/s\"\n";

/// A replica that deals with as many callers as there may be.
fn of_all_callers(replica: u64, rule: Rule) -> Statement {
    let want = |caller: usize| {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&(caller as u64).to_be_bytes());
        Want {
            caller: CallerKey(key),
            rule,
            purchase: 1,
            needed: 1,
            ahead: 0,
            long: 0,
            charge: 0,
            held: Vec::new(),
            settled: Vec::new(),
        }
    };
    Statement {
        replica: ReplicaId(replica),
        number: 1,
        known: None,
        held: [0; 2],
        in_flight: 1,
        streamed: 0,
        in_doubt: 0,
        sent: [1, 0],
        told: None,
        pauses: Pauses::default(),
        ended: Vec::new(),
        orders: Vec::new(),
        wants: (0..MAX_CALLERS).map(want).collect(),
        rate: [1.0, 0.0],
        leaves: false,
        rules: LedgerRules {
            spread_above: 0.5,
            reserve: 0.0,
            max_retry_after: Duration::from_secs(600),
        },
    }
}

/// Its caller goes by the replica's own limiter then, so its rate is as many times as high as there are replicas.
#[tokio::test(start_paused = true)]
async fn whoever_finds_no_room_for_a_limit_says_so() {
    let place = Place::new(Clock::start(), EPOCH);
    let names = Names::new("here", None);
    let config = from_toml(FILE, &[("T".into(), "t".into())].into()).unwrap();
    let plan = Plan::of(&config).unwrap();
    let caller = Caller::named("app");
    let key = names.of_group(&caller.group);

    let register = Arc::new(place.join(TIMEOUT, 2));
    let link = (register.clone() as Arc<dyn Register>, names);
    let state = state_of(&plan, Draining::new().1, link, TIMEOUT).unwrap();
    let limiters = state.limiters.of_plan();
    let limiter = limiters.of_caller("app").unwrap().clone();

    let mut pool = Pool::default();
    for replica in 1..=2 {
        let _ = pool.sync(&of_all_callers(replica, Rule::of(limiter.limit())), EPOCH);
    }
    let write = Write {
        over: None,
        tag: Tag(1),
        value: pool.to_bytes().unwrap().into(),
        keep: Duration::from_secs(60),
        hint: Default::default(),
    };
    let written = Register::exchange(&*register, &key, Some(write)).await;
    assert!(matches!(written, Ok(Exchanged::Written { .. })));

    // The group joins the fleet with its first use.
    let _group = state.groups.get(&caller.group);
    let Check::Asks(waiting) = limiters.check(&caller, None, &limiter) else {
        panic!("decided without the register");
    };
    assert!(waiting.verdict().await.allowed);
    let fleet = state.fleet.clone().unwrap();
    assert_eq!(fleet.without_room(), 1);
}

/// Its statements begin anew, and would be taken for old ones of the other.
#[tokio::test(start_paused = true)]
async fn a_group_that_is_dropped_and_made_again_is_another_replica() {
    let place = Place::new(Clock::start(), EPOCH);
    let config = from_toml(FILE, &[("T".into(), "t".into())].into()).unwrap();
    let plan = Plan::of(&config).unwrap();
    let register = Arc::new(place.join(TIMEOUT, 2)) as Arc<dyn Register>;
    let link = (register, Names::new("here", None));
    let state = state_of(&plan, Draining::new().1, link, TIMEOUT).unwrap();

    let name: Arc<str> = "of a token".into();
    let says = || {
        let (statement, _) = state.groups.get(&name).statement().unwrap();
        (statement.replica, statement.number)
    };
    let (first, one) = says();
    assert_eq!(says(), (first, one + 1));
    // Whoever looks at the groups drops those that nobody uses.
    let _ = state.groups.view();
    let (second, one_again) = says();
    assert_ne!(second, first);
    assert_eq!(one_again, one);
}
