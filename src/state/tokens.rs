//! The configured DevRev tokens: each as its header value, with its health and the confirmation that is under way.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use http::HeaderValue;
use tokio::{sync::watch, time::timeout};

use super::Clock;
use crate::{
    event::Event,
    lock::Lock,
    plan::TokenValue,
    policy::{
        duration_words::duration_words,
        operation::OperationLabel,
        token_health::{Change, Confirmation, Doubt, Finding, LOST_AFTER, Pass, TokenHealth},
        trouble::{Over, Trouble},
    },
    telemetry::{
        client_lines::{ClientLines, StateLine},
        metrics::Metrics,
    },
};

type ByName = HashMap<Arc<str>, Arc<Token>>;

/// The tokens of the plan that was reconciled last.
pub struct Tokens {
    clock: Clock,
    metrics: Arc<Metrics>,
    lines: Arc<ClientLines>,
    current: ArcSwap<ByName>,
}

/// One value of a token. A new value is a new `Token`, so that it starts with its own health.
pub struct Token {
    name: Arc<str>,
    value: TokenValue,
    clock: Clock,
    known: Lock<Known>,
}

#[derive(Default)]
struct Known {
    health: TokenHealth,
    /// While it is refused.
    trouble: Trouble,
    /// Of the confirmation that was begun last.
    result: Option<FindingReceiver>,
}

/// Holds the finding as soon as it is known.
type FindingReceiver = watch::Receiver<Option<Finding>>;

/// A new value has replaced the refused one already, so a retry may follow soon.
pub(crate) const REPLACED: Duration = Duration::from_secs(1);

impl Tokens {
    /// All of them count as good.
    pub fn new(
        values: &BTreeMap<Arc<str>, TokenValue>,
        clock: Clock,
        metrics: Arc<Metrics>,
        lines: Arc<ClientLines>,
    ) -> Self {
        let tokens = Tokens {
            clock,
            metrics,
            lines,
            current: ArcSwap::default(),
        };
        tokens.reconcile(values);
        tokens
    }

    /// A token whose value stays the same keeps its health.
    pub fn reconcile(&self, values: &BTreeMap<Arc<str>, TokenValue>) {
        let old = self.current.load();
        let next = values.iter().map(|(name, value)| {
            let kept = old.get(name).filter(|old| old.value == *value);
            let token = kept.cloned().unwrap_or_else(|| {
                self.metrics.token_refused(name, false);
                if let Some(old) = old.get(name) {
                    old.log_replaced();
                }
                Arc::new(Token {
                    name: name.clone(),
                    value: value.clone(),
                    clock: self.clock,
                    known: Lock::default(),
                })
            });
            (name.clone(), token)
        });
        self.current.store(Arc::new(next.collect()));
    }

    /// For the requests of the plan that was reconciled last.
    pub fn of_plan(self: &Arc<Self>) -> PlanTokens {
        PlanTokens {
            tokens: self.clone(),
            planned: self.current.load_full(),
        }
    }

    /// The time until a probe of this token may go, zero when one may go now; `None` while the token is not refused.
    pub fn refused_for(&self, name: &str) -> Option<Duration> {
        self.current.load().get(name)?.refused_for()
    }

    /// Ends the pause of this token, because its file was written again with the same value: the next request may probe.
    pub fn end_pause(&self, name: &str) {
        if let Some(token) = self.current.load().get(name) {
            token.known.lock().health.end_pause(self.clock.now());
        }
    }

    /// Whether this is still the value that attempts are sent with.
    fn is_current(&self, token: &Arc<Token>) -> bool {
        let tokens = self.current.load();
        tokens
            .get(&token.name)
            .is_some_and(|current| Arc::ptr_eq(current, token))
    }
}

/// The tokens as the requests of one plan see them.
#[derive(Clone)]
pub struct PlanTokens {
    tokens: Arc<Tokens>,
    planned: Arc<ByName>,
}

/// See [`Doubt`].
pub enum Doubted {
    /// Holds the time until a retry makes sense.
    Refused(Duration),
    Confirm(Confirming),
    Wait(Outcome),
    Settled,
}

impl PlanTokens {
    /// The current value, so that an attempt after a change uses the new one. For a token that was removed from the file after
    /// this plan, the plan's value.
    pub fn get(&self, name: &str) -> Option<Arc<Token>> {
        let current = self.tokens.current.load();
        let token = current.get(name).or_else(|| self.planned.get(name));
        token.cloned()
    }

    /// Whether this value has been replaced or removed.
    pub fn is_replaced(&self, token: &Arc<Token>) -> bool {
        !self.tokens.is_current(token)
    }

    /// The probe that the caller must make before its attempt with this token, if one is due. See [`TokenHealth::try_pass`].
    ///
    /// # Errors
    /// The time until the next probe may go.
    pub fn try_pass(&self, token: &Arc<Token>) -> Result<Option<Confirming>, Duration> {
        let mut known = token.known.lock();
        Ok(match known.health.try_pass(self.tokens.clock.now())? {
            Pass::Free => None,
            Pass::Probe(number) => Some(self.begin(&mut known, token, number, None)),
        })
    }

    /// What follows from a 401 to an attempt of `operation` with this token. See [`TokenHealth::doubt`].
    pub fn doubt(&self, token: &Arc<Token>, operation: OperationLabel) -> Doubted {
        // A replaced value is not confirmed, because the next attempt uses the new one.
        if self.is_replaced(token) {
            return Doubted::Refused(REPLACED);
        }
        let mut known = token.known.lock();
        match known.health.doubt(operation, self.tokens.clock.now()) {
            Doubt::Refused => {
                drop(known);
                Doubted::Refused(self.retry_after(token))
            }
            Doubt::Confirm(number) => {
                Doubted::Confirm(self.begin(&mut known, token, number, Some(operation)))
            }
            Doubt::Wait => match &known.result {
                Some(result) => Doubted::Wait(Outcome(result.clone())),
                None => Doubted::Settled,
            },
            Doubt::Settled => Doubted::Settled,
        }
    }

    /// The time until a retry of a request makes sense that was refused because of this token.
    pub fn retry_after(&self, token: &Arc<Token>) -> Duration {
        let refused_for = token.refused_for().filter(|_| !self.is_replaced(token));
        refused_for.unwrap_or(REPLACED)
    }

    fn begin(
        &self,
        known: &mut Known,
        token: &Arc<Token>,
        number: Confirmation,
        operation: Option<OperationLabel>,
    ) -> Confirming {
        let (sender, result) = watch::channel(None);
        known.result = Some(result);
        Confirming {
            tokens: self.tokens.clone(),
            token: token.clone(),
            number,
            operation,
            result: sender,
        }
    }
}

impl Token {
    /// See [`Tokens::refused_for`].
    pub fn refused_for(&self) -> Option<Duration> {
        self.known.lock().health.refused_for(self.clock.now())
    }

    /// `Bearer TOKEN`, marked sensitive.
    pub fn header(&self) -> HeaderValue {
        self.value.header().clone()
    }

    /// A new value takes the place of this one.
    fn log_replaced(&self) {
        let over = self.known.lock().trouble.end(self.clock.now());
        if let Some(Over { lasted, .. }) = over {
            let token = &*self.name;
            tracing::info!(
                event = Event::TokenReplaced.label(),
                token,
                refused_seconds = lasted.as_secs_f64(),
                "the token {token}, which DevRev refused for {}, has a new value; callers are served with it",
                duration_words(lasted)
            );
        }
    }

    /// See [`TokenHealth::try_send`].
    ///
    /// # Errors
    /// The time until the next probe may go.
    pub fn try_send(&self) -> Result<(), Duration> {
        self.known.lock().health.try_send(self.clock.now())
    }
}

/// A confirmation that must be made. If it is dropped without a result, the next one may begin at once, and all who wait for it learn
/// that nothing is known.
pub struct Confirming {
    tokens: Arc<Tokens>,
    token: Arc<Token>,
    number: Confirmation,
    /// The operation whose 401 asked for it; `None` if it is a probe.
    operation: Option<OperationLabel>,
    result: watch::Sender<Option<Finding>>,
}

impl Confirming {
    pub fn token(&self) -> &Arc<Token> {
        &self.token
    }

    /// For those who wait for the result.
    pub fn outcome(&self) -> Outcome {
        Outcome(self.result.subscribe())
    }

    /// Applies the result and tells it to all who wait for it. `request_id` is that of the call.
    pub fn settle(self, finding: Finding, request_id: &str) {
        let Tokens { clock, metrics, .. } = &*self.tokens;
        metrics.token_confirmation(finding);
        let (change, over) = {
            let mut known = self.token.known.lock();
            let change = known.health.settle(self.number, finding, clock.now());
            // Set under the lock, so that changes by two workers reach the metric in order. The metric is about the current
            // value, so a change of a replaced one is left out.
            if let Some(change) = change.filter(|_| self.tokens.is_current(&self.token)) {
                metrics.token_refused(&self.token.name, change == Change::Refused);
            }
            let now = clock.now();
            let over = match change {
                Some(Change::Refused) => {
                    known.trouble.sign(now);
                    None
                }
                Some(Change::Accepted) => known.trouble.end(now),
                None => None,
            };
            (change, over)
        };
        self.log(change, over, finding, request_id);
        self.result.send_replace(Some(finding));
    }

    /// At most one line for each confirmation, however many callers get a 401.
    fn log(&self, change: Option<Change>, over: Option<Over>, finding: Finding, request_id: &str) {
        let token = &*self.token.name;
        let operation = self.operation.map(OperationLabel::label);
        match (change, finding) {
            (Some(Change::Refused), _) => tracing::error!(
                event = Event::TokenRefused.label(),
                token,
                operation,
                request_id,
                "DevRev refused the token {token}, and a call of revgate's own confirmed it; callers get token_unavailable until a \
                 probe succeeds or the token changes"
            ),
            (Some(Change::Accepted), _) => {
                let lasted = over.map(|over| over.lasted).unwrap_or_default();
                tracing::info!(
                    event = Event::TokenAccepted.label(),
                    token,
                    request_id,
                    after_seconds = lasted.as_secs_f64(),
                    "DevRev accepts the token {token} again, after {}",
                    duration_words(lasted)
                );
            }
            (None, Finding::Refused) => {
                tracing::debug!(token, request_id, "DevRev still refuses the token");
            }
            (None, Finding::Good | Finding::Unknown) => {
                let lines = &self.tokens.lines;
                if lines.try_pass_state(StateLine::Doubt(self.token.name.clone())) {
                    let before = match operation {
                        Some(operation) => format!("DevRev answered {operation} with 401, but"),
                        None => "DevRev was asked, but".to_owned(),
                    };
                    let says = match finding {
                        Finding::Good => "accepts",
                        _ => "did not say whether it accepts",
                    };
                    tracing::info!(
                        event = Event::TokenDoubted.label(),
                        token,
                        operation,
                        request_id,
                        "{before} {says} the token {token}"
                    );
                }
            }
        }
    }
}

impl Drop for Confirming {
    fn drop(&mut self) {
        // Changes nothing after a result.
        self.token.known.lock().health.abandon(self.number);
    }
}

/// The result of a confirmation, when it is there.
pub struct Outcome(FindingReceiver);

impl Outcome {
    /// Waits for it, no longer than until it counts as lost.
    pub async fn finding(mut self) -> Finding {
        let result = timeout(LOST_AFTER, self.0.wait_for(Option::is_some)).await;
        // Without a result the confirmation was dropped or lost.
        let finding = result.ok().and_then(|result| *result.ok()?);
        finding.unwrap_or(Finding::Unknown)
    }
}
