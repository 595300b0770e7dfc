//! Makes a confirmation: a call of revgate's own that asks DevRev whether it accepts a token.
//!
//! It enters the stack below `retry` and `circuit`: it is one call, which takes one unit, and the state of the circuit does not
//! hold it. It runs in a task of its own, so that it ends whatever becomes of the request that started it.

use std::sync::Arc;

use http::{Request, Response};
use tokio::time::{Instant, timeout_at};
use tower::{Service, ServiceExt};

use super::{super::token_info_request, Confirms};
use crate::{
    body::{Body, read_up_to},
    error::Error,
    policy::{
        fair::{Priority, Share},
        operation::{Operation, TOKEN_INFO},
        token_health::{CONFIRMATION_TIME, Finding, finding},
    },
    state::tokens::Confirming,
    types::{ArrivedAt, Caller, Deadline, RequestId, other},
};

/// The documented answers are far smaller.
const MAX_ANSWER: usize = 8 * 1024;

/// Starts it. `attempts` is the part of the stack from `quota` down, and `caller` that of the request which started it: both
/// belong to the same group.
pub(super) fn start<S>(attempts: S, confirming: Confirming, caller: &Caller)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error> + Send + 'static,
    S::Future: Send,
{
    let (id, now) = (RequestId::random(), Instant::now());
    let deadline = now + CONFIRMATION_TIME;
    let mut request = token_info_request();
    let extensions = request.extensions_mut();
    extensions.insert::<RequestId>(id.clone());
    extensions.insert(Operation::from_path(TOKEN_INFO));
    extensions.insert::<Arc<Caller>>(revgate(caller));
    extensions.insert(Confirms(confirming.token().clone()));
    extensions.insert(ArrivedAt(now));
    extensions.insert(Deadline(deadline));
    tokio::spawn(async move {
        match timeout_at(deadline, attempts.oneshot(request)).await {
            Ok(Ok(response)) => {
                confirming.settle(finding(response.status()), id.as_str());
                // Read to its end, so that its connection can be used again.
                let mut body = response.into_body();
                let _ = timeout_at(deadline, read_up_to(&mut body, MAX_ANSWER, |_| true)).await;
            }
            Ok(Err(_)) | Err(_) => confirming.settle(Finding::Unknown, id.as_str()),
        }
    });
}

/// As whom a confirmation waits for quota: as no caller, so that it does not stand behind any caller's queue.
fn revgate(caller: &Caller) -> Arc<Caller> {
    Arc::new(Caller {
        name: other(),
        share: Share {
            caller: other(),
            weight: 1,
            priority: Priority::Interactive,
        },
        max_wait: CONFIRMATION_TIME,
        ..caller.clone()
    })
}
