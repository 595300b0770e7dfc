//! A replica's side: what it holds, when it exchanges, and what it does alone.

mod calls;
mod exchange;
mod follow;
mod pace;

use std::{collections::VecDeque, time::Duration};

pub use self::exchange::Timing;
use self::pace::Pace;
use super::{Low, ReplicaId, doubt::is_far_below, member::Dealt, rhythm::Rhythm};
use crate::policy::{
    fair::Standing,
    feedback::Feedback,
    ledger::{End, Source},
    operation::OperationId,
};

/// Revisions of which it is remembered which attempts were sent later. Exchanges are at least milliseconds apart, so this is more than
/// the latency of most answers; of an older one nothing is said.
const MARKS: usize = 64;

/// Ends of attempts on dealt units that the pool has not heard of. More come from few exchanges that fail; then the oldest are left
/// out, and the fleet finds out by a timeout.
const UNHEARD: usize = 1024;

/// Alone, what answers told counts for so long: others spend meanwhile.
const FRESH: Duration = Duration::from_secs(1);

/// Alone, so few units for each replica may have been spent by the others before the next answer.
const FEW: u64 = 2;

/// See the module. Times are the replica's own.
#[derive(Clone, Debug)]
pub struct Lease {
    replica: ReplicaId,
    /// The number of the next statement.
    number: u64,
    known: Option<Heard>,
    rhythm: Rhythm,
    /// Since when the register is not there.
    alone: Option<Duration>,
    /// Units for interactive callers and for batch, and their end.
    held: [u64; 2],
    until: Duration,
    /// What was held after the last exchange: the next is due when most of it is gone.
    had: [u64; 2],
    dealt: VecDeque<(Dealt, Duration)>,
    highest_dealt: u64,
    /// With the number of the statement that said so first.
    ended: VecDeque<(u64, u64, End)>,
    sent: [u64; 2],
    rate: [Pace; 2],
    told: Option<WindowTold>,
    /// The revision that was known, and the number of the first attempt that was granted after it.
    marks: VecDeque<(u64, u64)>,
    told_at: Option<Duration>,
    /// The fleet's number of the last `resume`.
    pauses: u64,
    /// How often an operator has ended pauses here; how often the last statement said; and how often the fleet has heard.
    resumes: u64,
    resumes_said: u64,
    resumes_heard: u64,
    /// The end of a pause in the fleet's time, and in this replica's.
    group_pause: Option<(Duration, Duration)>,
    operation_pause: Option<(OperationId, Duration, Duration)>,
    external: u64,
    last_request: Option<Duration>,
    /// The last exchange began then.
    exchanged: Option<Duration>,
    /// Whether the last statement claimed units.
    claimed: bool,
    /// Requests that it said wait, and that no unit has been dealt to since.
    waited: u64,
    /// Something that others should know at once.
    news: bool,
    wanted: bool,
    /// A request has begun to wait since the last statement.
    newcomer: bool,
    /// When it exchanges because of something that concerns all replicas.
    in_turn: Option<Duration>,
    /// Exchanges in a row in which others were always faster.
    overtaken: u32,
    leaves: bool,
}

/// The last reply.
#[derive(Clone, Copy, Debug)]
struct Heard {
    revision: u64,
    number: u64,
    /// When its exchange began.
    at: Duration,
    /// The fleet's time then.
    fleet: Duration,
    /// When the next unit is due, if that is known.
    next: Option<Duration>,
    /// Nobody waited anywhere, and there were units for all.
    plenty: bool,
    awaits_ends: bool,
    others_rate: f64,
    share: f64,
}

/// What answers told of the window, or the pool.
#[derive(Clone, Copy, Debug)]
struct WindowTold {
    limit: Option<u64>,
    remaining: u64,
    reset: u64,
    ends: Duration,
    /// Whether that is by this replica's own answers.
    is_own_end: bool,
    /// The end in the fleet's time, as the pool told it.
    fleet_end: Option<Duration>,
    sent_after: u64,
    /// What the last answer told that was far lower, and the number of its attempt.
    low: Option<(Low, u64)>,
}

impl Lease {
    pub fn new(replica: ReplicaId) -> Lease {
        Lease {
            replica,
            number: 1,
            known: None,
            rhythm: Rhythm::of(replica),
            alone: None,
            held: [0; 2],
            until: Duration::ZERO,
            had: [0; 2],
            dealt: VecDeque::new(),
            highest_dealt: 0,
            ended: VecDeque::new(),
            sent: [0; 2],
            rate: Default::default(),
            told: None,
            marks: VecDeque::new(),
            told_at: None,
            pauses: 0,
            resumes: 0,
            resumes_said: 0,
            resumes_heard: 0,
            group_pause: None,
            operation_pause: None,
            external: 0,
            last_request: None,
            exchanged: None,
            claimed: false,
            waited: 0,
            news: false,
            wanted: false,
            newcomer: false,
            in_turn: None,
            overtaken: 0,
            leaves: false,
        }
    }

    /// Whether it goes by what it knows itself.
    pub fn is_alone(&self) -> bool {
        self.alone.is_some()
    }

    /// Whether nobody waits anywhere, and there are units for all; so it is until something else is heard.
    pub fn knows_plenty(&self) -> bool {
        self.known.is_none_or(|heard| heard.plenty)
    }

    /// Units that are not used.
    pub fn units(&self) -> u64 {
        self.held.iter().sum()
    }

    /// Whether it has ever heard of the fleet.
    pub fn is_member(&self) -> bool {
        self.known.is_some()
    }

    /// A unit of the lease for a request with this standing, if there is one.
    pub(in crate::policy) fn take(&mut self, standing: Standing, now: Duration) -> bool {
        self.last_request = Some(now);
        let class = class(standing);
        if now >= self.until || self.held[class] == 0 || standing == Standing::Aged {
            return false;
        }
        self.held[class] -= 1;
        // The next is asked for while the last are used.
        if self.held[class] == (self.had[class] / 8).max(1) {
            self.news = true;
        }
        true
    }

    /// A request waits for a unit.
    pub(in crate::policy) fn wants(&mut self, now: Duration) {
        self.last_request = Some(now);
        self.wanted = true;
    }

    /// An attempt was granted.
    pub(in crate::policy) fn sent(&mut self, source: Source, standing: Standing, now: Duration) {
        let class = class(standing);
        if !matches!(source, Source::Dealt(_)) {
            self.sent[class] += 1;
        }
        self.rate[class].add(now);
        self.last_request = Some(now);
    }

    /// An attempt has ended.
    pub(in crate::policy) fn ended(
        &mut self,
        source: Source,
        standing: Standing,
        end: End,
        now: Duration,
    ) {
        let is_unsent = matches!(end, End::Unsent | End::Unreachable);
        let class = class(standing);
        match source {
            Source::Dealt(number) => self.note_end(number, end),
            Source::Lease | Source::Own if is_unsent => {
                self.sent[class] = self.sent[class].saturating_sub(1);
                if source == Source::Lease && now < self.until {
                    self.held[class] += 1;
                }
            }
            Source::Lease | Source::Own => {}
        }
        if let End::Answered { refused: true, .. } = end {
            self.news = true;
        }
    }

    fn note_end(&mut self, number: u64, end: End) {
        if self.ended.len() >= UNHEARD {
            self.ended.pop_front();
        }
        self.ended.push_back((self.number, number, end));
        let is_awaited = self.known.is_none_or(|heard| heard.awaits_ends);
        // Otherwise the pool may hear it with the next statement.
        let is_returned = matches!(end, End::Unsent | End::Unreachable);
        self.news |= is_awaited || is_returned;
    }

    /// What an answer to the attempt `number` told.
    pub(in crate::policy) fn tell(&mut self, feedback: &Feedback, number: u64, now: Duration) {
        let (Some(remaining), Some(reset), Some(resets_in)) =
            (feedback.remaining, feedback.reset, feedback.resets_in)
        else {
            return;
        };
        self.told_at = Some(now);
        if resets_in.is_zero() {
            return;
        }
        let sent_after = self.marks.iter().rev().find(|(_, first)| number >= *first);
        let sent_after = sent_after.map_or(0, |(revision, _)| *revision);
        let ends = now.saturating_add(resets_in);
        match &mut self.told {
            Some(told)
                if told.reset.abs_diff(reset) <= 1
                    && told.ends > now
                    && is_far_below(remaining, told.remaining) =>
            {
                // The fleet judges it.
                self.news = true;
                let low = Low {
                    remaining,
                    sent_after,
                };
                told.low = Some((low, number));
            }
            Some(told) if told.reset.abs_diff(reset) <= 1 && told.ends > now => {
                told.low.take_if(|(_, before)| number > *before);
                told.limit = feedback.limit.or(told.limit);
                told.remaining = told.remaining.min(remaining);
                told.ends = if told.is_own_end {
                    told.ends.min(ends)
                } else {
                    ends
                };
                told.is_own_end = true;
                told.sent_after = told.sent_after.max(sent_after);
            }
            Some(told) if told.reset > reset && told.ends > now => {}
            told => {
                // A window that others may not know.
                self.news = true;
                *told = Some(WindowTold {
                    limit: feedback.limit,
                    remaining,
                    reset,
                    ends,
                    is_own_end: true,
                    fleet_end: None,
                    sent_after,
                    low: None,
                });
            }
        }
    }

    /// Alone: what the others spend, in units a second, and this replica's share of the whole, as it was known last.
    pub(in crate::policy) fn others(&self) -> (f64, f64) {
        self.known
            .map_or((0.0, 1.0), |heard| (heard.others_rate, heard.share))
    }

    /// Alone: whether others may have spent the `remaining` units that answers told.
    pub(in crate::policy) fn is_stale(&self, remaining: Option<u64>, now: Duration) -> bool {
        let is_old = self
            .told_at
            .is_none_or(|at| at.saturating_add(FRESH) <= now);
        let are_few = remaining.is_some_and(|units| units <= self.rhythm.active() * FEW);
        self.is_alone() && self.is_member() && (is_old || are_few)
    }

    /// An operator ends all pauses.
    pub(in crate::policy) fn resume(&mut self) {
        self.resumes += 1;
        (self.group_pause, self.operation_pause) = (None, None);
        self.told = None;
        self.news = true;
    }

    /// This replica ends. It returns what it holds.
    pub fn leave(&mut self) {
        self.leaves = true;
        self.held = [0; 2];
    }

    /// Units dealt to requests that wait. Each is taken once; what nobody takes goes back by [`Self::put_back`].
    pub fn take_dealt(&mut self, now: Duration) -> Vec<Dealt> {
        let dealt = std::mem::take(&mut self.dealt);
        let (good, late): (Vec<_>, Vec<_>) = dealt.into_iter().partition(|(_, until)| *until > now);
        for (dealt, _) in late {
            self.put_back(dealt.number());
        }
        good.into_iter().map(|(dealt, _)| dealt).collect()
    }

    /// Returns a dealt unit that nobody waits for any more.
    pub fn put_back(&mut self, number: u64) {
        self.note_end(number, End::Unsent);
    }
}

fn class(standing: Standing) -> usize {
    usize::from(standing != Standing::Interactive)
}
