//! Answers that are not read, or too slowly.

use super::{
    KEY, Scene,
    stream::{Caller, Head, Reading},
};

/// Asks for answers of `bytes`, and reads them like this.
pub async fn asked(scene: Scene, number: usize, bytes: usize, reading: Reading) {
    let mut caller = Caller::new(&scene, reading);
    let head = Head::get(&format!("/_blob?bytes={bytes}"), Some(KEY));
    let mut asked = Vec::new();
    for _ in 0..number {
        asked.extend(caller.send(&head).await);
    }
    scene.hold((caller, asked)).await;
}
