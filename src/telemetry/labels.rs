//! The values of labels that name what happened, where no other module has an enum for it.

use crate::policy::retry;

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttemptOutcome {
    /// Upstream gave an answer that is passed on.
    Success,
    /// It was sent, and revgate made the answer.
    Refused,
    /// Another attempt may be the answer.
    Failed(retry::Reason),
}

impl AttemptOutcome {
    /// Its name in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            AttemptOutcome::Success => "success",
            AttemptOutcome::Refused => "refused",
            AttemptOutcome::Failed(reason) => reason.label(),
        }
    }
}
