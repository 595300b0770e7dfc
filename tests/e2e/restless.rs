//! A file that changes all the time, beside one that changes once.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use revgate::{serve::Gateway, simulator::Simulator};
use tokio::time::Instant;

use crate::{
    http::{exchange, get},
    rig::{self, KEY, OTHER_KEY, header},
};

/// How a token is written anew.
#[derive(Clone, Copy, Debug)]
enum Writer {
    /// Another file takes its place.
    Renames,
    /// Into the same file at once.
    InPlace,
    /// Into the same file in two parts.
    InParts,
}

impl Writer {
    fn write(self, path: &Path, value: &str) {
        match self {
            Writer::Renames => {
                let new = path.with_extension("new");
                fs::write(&new, value).expect("written");
                fs::rename(new, path).expect("renamed");
            }
            Writer::InPlace => fs::write(path, value).expect("written"),
            Writer::InParts => {
                let mut file = fs::File::create(path).expect("truncated");
                let (first, second) = value.split_at(value.len() / 2);
                file.write_all(first.as_bytes()).expect("written");
                std::thread::sleep(Duration::from_millis(20));
                file.write_all(second.as_bytes()).expect("written");
            }
        }
    }
}

struct Rig {
    devrev: Simulator,
    gateway: Gateway,
    restless: PathBuf,
    other: PathBuf,
    _folder: tempfile::TempDir,
}

impl Rig {
    async fn new() -> Rig {
        let devrev = rig::simulator().await;
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let (restless, other, file) = (path("restless"), path("other"), path("revgate.toml"));
        fs::write(&restless, "restless-0-whole").expect("written");
        fs::write(&other, "before").expect("written");
        let text = rig::file(&devrev.addr().to_string(), "token = \"other\"\n");
        let tokens = format!(
            "[tokens.main]\nfile = \"{}\"\n[tokens.other]\nfile = \"{}\"",
            restless.display(),
            other.display()
        );
        let text = text.replace("[tokens.main]\nenv = \"DEVREV_TOKEN\"", &tokens);
        let text = text.replace("burst = 1000\n", "burst = 1000\ntoken = \"main\"\n");
        let text = text.replace(
            "rate = \"1/min\"\nburst = 2",
            "rate = \"1000/s\"\nburst = 1000",
        );
        fs::write(&file, text).expect("written");
        Rig {
            gateway: rig::watching(&file),
            devrev,
            restless,
            other,
            _folder: folder,
        }
    }

    /// The token with which a call of this caller goes out.
    async fn token(&self, key: &str) -> String {
        let address = self.gateway.address().expect("TCP");
        let answer = exchange(address, get("/dev-users.self", key)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let received = self.devrev.received();
        let last = received.last().expect("a request");
        let value = header(last, "authorization").expect("a token");
        value.trim_start_matches("Bearer ").to_owned()
    }
}

#[tokio::test]
async fn a_file_that_changes_all_the_time_holds_up_no_other_and_is_read_itself() {
    let runs = [
        (Writer::Renames, 400),
        (Writer::InPlace, 400),
        (Writer::InParts, 400),
        (Writer::Renames, 100),
        (Writer::InPlace, 100),
    ];
    let runs = runs.map(|(writer, pause)| run(writer, Duration::from_millis(pause)));
    let [a, b, c, d, e] = runs;
    tokio::join!(a, b, c, d, e);
}

async fn run(writer: Writer, pause: Duration) {
    let what = format!("{writer:?} each {pause:?}");
    let rig = Rig::new().await;
    let stop = std::sync::Arc::new(AtomicBool::new(false));
    let (path, stopped) = (rig.restless.clone(), stop.clone());
    let writing = std::thread::spawn(move || {
        let mut number = 0;
        while !stopped.load(Ordering::Relaxed) {
            std::thread::sleep(pause);
            number += 1;
            writer.write(&path, &format!("restless-{number}-whole"));
        }
    });
    // Once it is on its way.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    fs::write(&rig.other, "after").expect("written");
    let changed = Instant::now();
    // Two polls, and a second at most for a moment without a change.
    let bound = Duration::from_secs(6);
    let (mut other, mut itself) = (false, false);
    while !(other && itself) {
        other |= rig.token(OTHER_KEY).await == "after";
        let value = rig.token(KEY).await;
        assert!(value.ends_with("-whole"), "{what}: half of {value}");
        itself |= value != "restless-0-whole";
        assert!(changed.elapsed() < bound, "{what}: {other} {itself}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.store(true, Ordering::Relaxed);
    writing.join().expect("no panic");
}
