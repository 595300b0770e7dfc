//! What a test asks of the simulator itself, and not of DevRev: which requests it has received, the plan in use, and to begin again. None
//! of it needs a token or costs quota.

use http::{Method, StatusCode};
use serde_json::json;

use super::answers::{self, Answer};
use super::plan::{FaultPlan, Progress};
use super::{SimulatorState, first_objects, lock};

/// Whether a path is one of these.
pub(super) fn is_control(operation: &str) -> bool {
    matches!(operation, "_requests" | "_plan" | "_objects")
}

pub(super) fn answer(
    state: &SimulatorState,
    method: &Method,
    operation: &str,
    query: &str,
    body: &[u8],
) -> Answer {
    match (operation, method.as_str()) {
        ("_requests", "GET") => {
            let mut all = lock(&state.requests).all();
            if let Some(text) = answers::param(query, "contains") {
                all.retain(|one| one.target.contains(&*text) || one.body.contains(&*text));
            }
            Answer::ok(&serde_json::to_value(all).unwrap_or_default())
        }
        ("_requests", "DELETE") => {
            lock(&state.requests).clear();
            Answer::ok(&json!({}))
        }
        ("_requests", _) => answers::method_not_allowed("GET, DELETE"),
        ("_plan", "GET") => {
            let plan = lock(&state.progress).plan();
            Answer::ok(&serde_json::to_value(plan).unwrap_or_default())
        }
        ("_plan", "PUT") => match FaultPlan::parse(&String::from_utf8_lossy(body)) {
            Ok(plan) => {
                *lock(&state.progress) = Progress::new(plan);
                Answer::ok(&json!({}))
            }
            Err(error) => {
                let message =
                    format!("the plan cannot be used, and the old one goes on: {error:#}");
                Answer::error(StatusCode::BAD_REQUEST, "bad_request", &message)
            }
        },
        ("_plan", "DELETE") => {
            *lock(&state.progress) = Progress::default();
            Answer::ok(&json!({}))
        }
        ("_plan", _) => answers::method_not_allowed("GET, PUT, DELETE"),
        (_, "DELETE") => {
            *lock(&state.store) = first_objects(state.empty);
            Answer::ok(&json!({}))
        }
        _ => answers::method_not_allowed("DELETE"),
    }
}
