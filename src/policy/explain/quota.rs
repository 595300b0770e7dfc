//! What the quota layer would do with a request.

use std::fmt::Write;

use serde_json::json;

use super::{
    super::duration_words::duration_words,
    Refusal, Step,
    steps::{Steps, step},
};
use crate::policy::fair::Priority;

impl Steps<'_> {
    pub(super) fn quota(&self) -> Option<Step> {
        if !self.operation.takes_credential() {
            let says = "no group, as it goes without a token: it takes no unit and waits for none";
            return Some(step("quota", json!({ "group": null })).passes(says));
        }
        let caller = self.context.caller.as_ref()?;
        let priority = caller.share.priority.label();
        let weight = caller.share.weight;
        let dealt = match caller.share.priority {
            Priority::Interactive => "",
            Priority::Batch => ", dealt evenly over the whole window",
        };
        let mut says = format!(
            "the group {}, weight {weight}, {priority}{dealt}; waits {} at most",
            caller.group,
            duration_words(self.max_wait)
        );
        let mut facts = json!({
            "group": caller.group, "weight": weight, "priority": priority, "max_wait_seconds": self.max_wait.as_secs_f64(),
        });
        let Some((view, wait)) = self.context.live.as_ref().and_then(|live| live.group) else {
            return Some(step("quota", facts).passes(says));
        };
        facts["state"] = json!(view.state);
        facts["remaining"] = json!(view.remaining);
        facts["paused_seconds"] = json!(view.paused_for.map(|left| left.as_secs_f64()));
        facts["wait_seconds"] = wait.as_secs_f64().into();
        let own = view.paused_operation;
        if let Some((_, left)) = own.filter(|(id, _)| *id == self.operation.id()) {
            facts["operation_paused_seconds"] = left.as_secs_f64().into();
            let _ = write!(
                says,
                "; this operation is paused for {}",
                duration_words(left)
            );
        }
        let _ = write!(
            says,
            "; now {}, a wait of {}",
            view.state.label(),
            duration_words(wait)
        );
        let step = step("quota", facts);
        Some(if wait > self.max_wait {
            step.refused(Refusal::Quota(wait), says)
        } else {
            step.passes(says)
        })
    }
}
