//! Whole calls, in numbers or of a kind that fails.

use std::{future::Future, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::{task::JoinSet, time::sleep};

use super::{KEY, Scene};
use crate::client::{Call, Client};

/// How long a lane waits after a refusal, so that a row that is about something else does not keep the machine busy with them.
const REFUSED: Duration = Duration::from_millis(500);

/// Between the starts of lanes, if they are many, so that what counts is what they do and not that many clients connect at once. A few dozen
/// do begin at once, as their failures must follow each other.
const START: Duration = Duration::from_millis(3);
const MANY: usize = 50;

/// Keeps `lanes` calls in progress; each lane pauses between its calls, and longer where revgate refuses them.
pub async fn repeated(
    scene: Scene,
    lanes: usize,
    pause: Duration,
    next: impl Fn(u64) -> Call + Send + Sync + 'static,
) {
    made(scene, lanes, [pause, REFUSED], next).await;
}

/// The pauses are those after an answer of upstream and after one of revgate.
async fn made(
    scene: Scene,
    lanes: usize,
    pauses: [Duration; 2],
    next: impl Fn(u64) -> Call + Send + Sync + 'static,
) {
    let next = Arc::new(next);
    // Until there is an answer nothing says that the calls arrive, and there may be none for long.
    scene.took_hold();
    each(lanes, |lane| {
        let (scene, next) = (scene.clone(), next.clone());
        async move {
            if lanes > MANY {
                sleep(START * u32::try_from(lane).expect("few")).await;
            }
            let mut client = None;
            for number in 0.. {
                if client.is_none() {
                    client = Client::connect(scene.proxy, scene.protocol).await.ok();
                }
                let mut refused = true;
                if let Some(connected) = &mut client {
                    match connected.call(&next(lane + number * lanes as u64)).await {
                        Ok(answer) => refused = answer.is_refusal(),
                        Err(_) => client = None,
                    }
                }
                sleep(pauses[usize::from(refused)]).await;
            }
        }
    })
    .await;
}

/// Runs lanes until they are dropped.
async fn each<F: Future<Output = ()> + Send + 'static>(lanes: usize, lane: impl Fn(u64) -> F) {
    let mut all = JoinSet::new();
    for number in 0..lanes as u64 {
        all.spawn(lane(number));
    }
    while all.join_next().await.is_some() {}
}

/// Calls of one operation with a's key.
pub async fn of(
    scene: Scene,
    method: &'static str,
    operation: &str,
    lanes: usize,
    pause: Duration,
) {
    let call = Call::new(method, &format!("/{operation}"), Some(KEY));
    repeated(scene, lanes, pause, move |_| call.clone()).await;
}

/// The same, after one call whose answer pauses the group.
pub async fn into_a_pause(scene: Scene, operation: &str, lanes: usize) {
    let call = Call::new("GET", &format!("/{operation}"), Some(KEY));
    let client = Client::connect(scene.proxy, scene.protocol).await;
    let first = client
        .expect("connects")
        .call(&call)
        .await
        .expect("an answer");
    assert_eq!(first.status, 429);
    repeated(scene, lanes, Duration::ZERO, move |_| call.clone()).await;
}

/// The same, refused or not as fast as they go.
pub async fn as_fast_as_they_go(scene: Scene, operation: &str, lanes: usize) {
    let call = Call::new("GET", &format!("/{operation}"), Some(KEY));
    made(scene, lanes, [Duration::ZERO; 2], move |_| call.clone()).await;
}

/// Calls without a key, or with a wrong one.
pub async fn of_strangers(scene: Scene, lanes: usize, credential: Option<&'static str>) {
    let call = Call::new("POST", "/works.get", credential).body(r#"{"id":"TKT-1"}"#);
    made(scene, lanes, [Duration::ZERO; 2], move |_| call.clone()).await;
}

/// Each call has a token of its own, which DevRev refuses.
pub async fn with_made_up_tokens(scene: Scene, lanes: usize) {
    // A lane must not spend the machine on tokens that it already knows to be refused at once.
    let pauses = [Duration::ZERO, Duration::from_millis(50)];
    made(scene, lanes, pauses, |number| {
        let claims = format!("{{\"refused\":true,\"jti\":\"{number}\"}}");
        let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        Call::new("GET", "/works.list", Some(&token))
    })
    .await;
}

/// Calls whose client leaves at once.
pub async fn abandoned(scene: Scene, lanes: usize) {
    each(lanes, |_| {
        let scene = scene.clone();
        async move {
            let call = Call::new("GET", "/works.list", Some(KEY));
            loop {
                if let Ok(mut client) = Client::connect(scene.proxy, scene.protocol).await {
                    let wait = Duration::from_millis(50);
                    let _ = tokio::time::timeout(wait, client.call(&call)).await;
                }
                scene.took_hold();
            }
        }
    })
    .await;
}

/// One call on each of many connections, which stay open.
pub async fn on_connections_that_stay(scene: Scene, number: usize) {
    each(number, |_| {
        let scene = scene.clone();
        async move {
            let call = Call::new("GET", "/works.list", Some(KEY));
            if let Ok(mut client) = Client::connect(scene.proxy, scene.protocol).await {
                let answered = client.call(&call).await;
                scene.hold((client, answered)).await;
            }
        }
    })
    .await;
}
