//! The day of a replica of a fleet whose Redis dies, and comes back with nothing.

use std::net::SocketAddr;

use serde_json::Value;

use super::{DOCUMENT, Day, FLEET, PATIENCE, compare, write};
use crate::{
    redis::{Data, Server},
    rig::{self, KEY, plan, status},
};

/// What is shown of a Redis that has ended. Whether the end of the connection is seen first, or that no other can be opened, differs from time to
/// time.
const ENDED: [&str; 2] = ["broken", "the server closed the connection"];

impl Day {
    /// Reads the log until it has this event since the last passage; it may have it already.
    fn until_told(&mut self, event: &str) {
        let has = |line: &str| {
            let line: Value = serde_json::from_str(line).expect("JSON");
            line["event"] == event
        };
        if !self.process.seen[self.told..].lines().any(has) {
            self.until(event);
        }
    }

    /// Waits until the fleet's part of the group is so.
    async fn until_fleet(&self, is_so: impl Fn(&Value) -> bool) {
        let asked = std::time::Instant::now();
        loop {
            let quota = rig::admin(self.admin, "GET", "/quota", "").await.json();
            let fleet = &quota["main"]["fleet"];
            if is_so(fleet) {
                return;
            }
            assert!(asked.elapsed() < PATIENCE, "{quota}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// What has been read of the log is told under this heading, of what concerns the fleet and the quota. The start of the other parts
    /// may come before it or between its lines.
    fn fleet_passage(&mut self, heading: &'static str, redis: SocketAddr) {
        let mut seen = String::new();
        for line in self.process.seen[self.told..].lines() {
            let mut line: Value = serde_json::from_str(line).expect("JSON");
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            let (event, reason) = (text("event"), text("reason"));
            if !event.starts_with("shared_") && !event.starts_with("quota_") {
                continue;
            }
            let mut message = text("message").replace(&redis.to_string(), "10.0.0.7:6379");
            if event == "shared_down" {
                let fault = line["fault"].as_str();
                assert!(matches!(fault, Some("broken" | "down")), "{line}");
                message = message.replace(&reason, ENDED[1]);
                line["fault"] = ENDED[0].into();
                line["reason"] = ENDED[1].into();
            }
            // How often it was tried depends on the machine.
            if let Some(failures) = line["failures"].as_u64().filter(|_| event == "shared_up") {
                message = message.replace(&format!("failures: {failures}"), "failures: …");
                line["failures"] = "…".into();
            }
            line["message"] = message.into();
            seen += &format!("{line}\n");
        }
        self.process.seen.replace_range(self.told.., &seen);
        self.passage(heading);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_log_of_a_fleets_day_is_that_of_the_document() {
    let mut redis = Server::start().await;
    let at: SocketAddr = redis.address().parse().expect("an address");
    let folder = tempfile::tempdir().expect("a folder");
    let url = folder.path().join("redis");
    write(&url, &format!("redis://{at}"));
    // Longer than the default, so that a machine which is busy is no slow Redis.
    let shared = format!(
        "[shared]\nredis = {{ file = \"{}\" }}\ntimeout = \"1s\"\n",
        url.display()
    );
    let mut day = Day::begin_in(folder, &shared).await;
    day.until_told("shared_up");
    assert_eq!(day.call(KEY).await.status, 200);
    day.until_fleet(|fleet| fleet["replicas"] == 1).await;
    day.fleet_passage("Redis is there", at);

    redis.kill();
    day.until_told("shared_down");
    assert_eq!(day.call(KEY).await.status, 200);
    day.until_fleet(|fleet| fleet["sharing"] == "alone").await;
    day.fleet_passage("Redis dies", at);

    day.devrev
        .set_plan(plan("works.list", status(429, Some(1)), 1));
    assert_eq!(day.call(KEY).await.status, 200);
    day.until_told("quota_resumed");
    day.fleet_passage("DevRev throttles meanwhile", at);

    redis.restart(Data::Lost).await;
    day.until_told("shared_lost_state");
    day.until_fleet(|fleet| fleet["sharing"] != "alone").await;
    day.fleet_passage("Redis comes back with nothing", at);
    assert_eq!(day.call(KEY).await.status, 200);

    compare(&day.passages, |document| {
        let begin = document.find(FLEET);
        begin.unwrap_or_else(|| panic!("{DOCUMENT} has no second day"))..document.len()
    });
}
