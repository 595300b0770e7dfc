//! The attacks of slowhttptest, a program that others use to look for the faults that the rows are about.

use std::process::Stdio;

use tokio::process::Command;

use super::Scene;

/// Runs it with these options, again and again until it is stopped.
pub async fn attack(scene: Scene, options: &'static str) {
    let url = format!("http://{}/_blob?bytes=4000000", scene.proxy);
    loop {
        let child = Command::new("slowhttptest")
            .args(options.split_whitespace())
            .args(["-c", "1000", "-r", "500", "-i", "1", "-l", "60", "-u", &url])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let mut child = child.expect("slowhttptest runs; tests/run.sh installs it");
        scene.took_hold();
        let status = child.wait().await.expect("a process");
        assert!(status.success(), "slowhttptest: {status}");
    }
}
