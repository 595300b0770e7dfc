//! Bodies that do not come, or come too slowly.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use super::{
    KEY, Scene,
    stream::{Caller, Head, Reading, Upload},
};

/// More than `retry.max_replay_body`, so that it is streamed.
pub const STREAMED: usize = 100 * 1024;

/// A write that creates something, so that nothing of it is retried.
pub const OPERATION: &str = "works.create";

/// Sends heads, each with the first bytes of its body.
async fn begun(caller: &mut Caller, number: usize, head: &Head, sent: usize) -> Vec<Upload> {
    let mut uploads = Vec::new();
    for _ in 0..number {
        // Where the gateway refuses to go on, there is one upload less.
        let Ok(mut upload) = caller.send(head).await else {
            continue;
        };
        if sent > 0 {
            let _ = upload.write(Bytes::from(vec![b' '; sent])).await;
        }
        uploads.push(upload);
    }
    uploads
}

/// Uploads of this declared length that stop after `sent` bytes.
pub async fn stopped(scene: Scene, number: usize, length: impl Into<Option<usize>>, sent: usize) {
    let mut caller = Caller::new(&scene, Reading::All);
    let head = Head::post(OPERATION, Some(KEY), length);
    let uploads = begun(&mut caller, number, &head, sent).await;
    scene.hold((caller, uploads)).await;
}

/// Heads with a small body that never comes, at a's own rate.
pub async fn heads_at_a_rate(scene: Scene, number: usize, a_second: u32) {
    let mut caller = Caller::new(&scene, Reading::All);
    let head = Head::post(OPERATION, Some(KEY), 100);
    let mut uploads = Vec::new();
    for _ in 0..number {
        uploads.extend(begun(&mut caller, 1, &head, 0).await);
        sleep(Duration::from_secs(1) / a_second).await;
    }
    scene.hold((caller, uploads)).await;
}

/// Uploads that go on with one byte, often enough never to look idle.
pub async fn trickled(scene: Scene, number: usize, length: impl Into<Option<usize>>, sent: usize) {
    let mut caller = Caller::new(&scene, Reading::All);
    let head = Head::post(OPERATION, Some(KEY), length);
    let mut uploads = begun(&mut caller, number, &head, sent).await;
    scene.took_hold();
    loop {
        for upload in &mut uploads {
            let _ = upload.write(Bytes::from_static(b" ")).await;
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// A refused token, and then nothing but stopped uploads to prove it with.
pub async fn stopped_as_probes(scene: Scene) {
    let mut caller = Caller::new(&scene, Reading::All);
    let refused = Head::post("works.delete", Some(KEY), 0);
    let mut uploads = vec![caller.send(&refused).await.expect("sends")];
    let head = Head::post(OPERATION, Some(KEY), 1 << 20);
    loop {
        uploads.extend(begun(&mut caller, 1, &head, STREAMED).await);
        scene.took_hold();
        sleep(Duration::from_millis(50)).await;
    }
}

/// Bodies for an operation with a rewrite rule.
pub async fn rewritten(scene: Scene, number: usize, length: usize, sent: usize) {
    let mut caller = Caller::new(&scene, Reading::All);
    let head = Head::post("rev-users.link", Some(KEY), length);
    let uploads = begun(&mut caller, number, &head, sent).await;
    scene.hold((caller, uploads)).await;
}

/// Calls that are given up so long after they were sent, over and over.
pub async fn given_up(scene: Scene, number: usize, after: Duration) {
    let head = Head::get("/works.list", Some(KEY));
    loop {
        let mut caller = Caller::new(&scene, Reading::All);
        let begun = begun(&mut caller, number, &head, 0).await;
        scene.took_hold();
        sleep(after).await;
        begun.into_iter().for_each(Upload::reset);
        sleep(Duration::from_millis(100)).await;
    }
}
