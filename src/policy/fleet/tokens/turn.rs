//! Whose turn it is while a bucket has less than the replicas ask for.
//!
//! Start-time fair queueing. What a replica was refused it has a claim to, and what it got beyond the turn is its lead. The next token goes to the claim
//! with the least lead, of equal ones to that which was first. A claim lasts until [`GRACE`] after its replica may ask again. A token is kept for claims as
//! long: then whoever asks may have it, however many claims there are. So one that does not come back holds up no other for longer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{CREDIT, Rule, Sold, Want, nanos};

/// Time for a request to come, and for its exchange. Well below [`CREDIT`], so that the bucket has room for what comes meanwhile.
pub(super) const GRACE: Duration = Duration::from_millis(400);

/// Between two purchases of a replica that finds the bucket short are 5 ms for each replica that deals with the caller, within these bounds. So a
/// flood costs the register as much from a few replicas as from many, however high the rate; the bucket's credit keeps what comes meanwhile.
const PAUSE: Duration = Duration::from_millis(5);
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(800);

/// Of one replica.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Turn {
    /// Tokens that it got beyond the turn.
    pub lead: u32,
    pub claim: Option<Claim>,
}

impl Turn {
    /// What was sold is its lead, and what was not is its claim. Returns whether that lasts anew.
    pub(super) fn count(&mut self, want: &Want, sold: Sold, plenty: bool, now: u64) -> bool {
        let got = sold.needed.saturating_add(sold.ahead);
        self.lead = self.lead.saturating_add(got);
        let before = self.claim.take();
        let claimed = before.as_ref().map_or(0, |claim| claim.needed);
        let needed = match want.needed {
            0 => claimed.saturating_sub(got),
            needed => needed.saturating_sub(sold.needed),
        };
        let ahead = match plenty {
            true => 0,
            false => want.ahead.min(want.rule.most()).saturating_sub(sold.ahead),
        };
        // No request has come again since: it lasts as long as before.
        let before = before.filter(|_| want.needed == 0 && needed > 0);
        let until = before.as_ref().map_or(now, |claim| claim.until);
        self.claim = ((needed, ahead) != (0, 0)).then_some(Claim {
            needed,
            ahead,
            until,
        });
        before.is_none()
    }

    /// The turn has come so far.
    pub(super) fn advance(&mut self, by: u32, rule: Rule) {
        // Nobody waits long for those that had less.
        let longest = (nanos(CREDIT) / rule.interval.max(1)).max(1);
        let longest = u32::try_from(longest).unwrap_or(u32::MAX);
        self.lead = self.lead.saturating_sub(by).min(longest);
    }
}

/// What a replica was refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Claim {
    /// To requests that waited.
    pub needed: u32,
    pub ahead: u32,
    pub until: u64,
}

/// Another replica's claim, as one that asks sees it.
pub(super) struct Other {
    lead: u32,
    claim: u32,
    /// Whether it goes before one with an equal lead.
    is_first: bool,
}

impl Other {
    /// Tokens that it gets before one with this lead gets the next.
    fn before(&self, lead: u32) -> u32 {
        let turns = lead.saturating_add(u32::from(self.is_first));
        self.claim.min(turns.saturating_sub(self.lead))
    }
}

/// The least lead of a claim: the turn is there. Where there is no claim, all begin anew.
pub(super) fn least<'a>(turns: impl Iterator<Item = &'a Turn>) -> u32 {
    let claims = turns.filter(|turn| turn.claim.is_some());
    claims.map(|turn| turn.lead).min().unwrap_or(u32::MAX)
}

/// The others' claims, or a part of them that is served after another part of so many tokens, as the one at this place sees it.
pub(super) fn others<'a>(
    turns: impl Iterator<Item = &'a Turn> + Clone,
    at: usize,
    part: impl Fn(&Claim) -> (u32, u32),
) -> Vec<Other> {
    let has_claim = turns
        .clone()
        .nth(at)
        .is_some_and(|turn| turn.claim.is_some());
    let others = turns.enumerate().filter(|(place, _)| *place != at);
    let others = others.filter_map(|(place, turn)| {
        let (served, claim) = part(turn.claim.as_ref()?);
        Some(Other {
            lead: turn.lead.saturating_add(served),
            claim,
            is_first: place < at || !has_claim,
        })
    });
    others.collect()
}

/// All that they claim.
pub(super) fn total(others: &[Other]) -> u32 {
    let claims = others.iter().map(|other| other.claim);
    claims.fold(0, u32::saturating_add)
}

/// Tokens that go to others before one with this lead gets the next.
pub(super) fn before(lead: u32, others: &[Other]) -> u32 {
    let before = others.iter().map(|other| other.before(lead));
    before.fold(0, u32::saturating_add)
}

/// How many of these tokens one with this lead gets that would have so many.
pub(super) fn share(tokens: u32, lead: u32, most: u32, others: &[Other]) -> u32 {
    let (mut share, mut most) = (0, most.min(tokens));
    while share < most {
        let more = most - (most - share) / 2;
        let first = before(lead.saturating_add(more - 1), others);
        match first.saturating_add(more) <= tokens {
            true => share = more,
            false => most = more - 1,
        }
    }
    share
}

/// The least time between two purchases in need of one of so many replicas.
pub(super) fn pause(dealing: u32) -> u64 {
    let pause = PAUSE.saturating_mul(dealing);
    nanos(pause.clamp(SHORTEST_PAUSE, LONGEST_PAUSE))
}
