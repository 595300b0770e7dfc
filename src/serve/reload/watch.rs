//! Reloads when the file, or a secret that it refers to, has changed.
//!
//! It polls them every second instead of using inotify, because that works for a ConfigMap's symlink swap, for a file moved into place
//! and on a network file system.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    time::Duration,
};

use super::{ReloadCause, Reloader};
use crate::{
    policy::file_changes::{Changes, Verdict},
    state::Clock,
    telemetry::labels::ReloadResult,
};

/// Between two polls, each a few `stat` calls.
const INTERVAL: Duration = Duration::from_secs(1);

/// While files keep changing, they are read after so long without a change, as they are probably whole then.
const QUIET: Duration = Duration::from_millis(100);

/// How often such a moment is looked for.
const TRIES: usize = 10;

/// The result of `stat` for each file; `None` for a missing one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fingerprint(Vec<(PathBuf, Option<Stat>)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Changes even if a copy restores the old time of modification.
    changed: (i64, i64),
}

impl Fingerprint {
    /// Of a configuration file and the files to which it refers.
    pub(crate) fn of(file: Option<&Path>, referred: &[PathBuf]) -> Fingerprint {
        let mut fingerprint = Fingerprint::default();
        if let Some(file) = file {
            fingerprint.extend(&[file.to_owned()]);
        }
        fingerprint.extend(referred);
        fingerprint
    }

    /// Adds the files that are not in it.
    pub(crate) fn extend(&mut self, files: &[PathBuf]) {
        for path in files {
            if !self.0.iter().any(|(known, _)| known == path) {
                self.0.push((path.to_owned(), stat(path)));
            }
        }
    }

    /// Whether this file has changed since `before`.
    pub(crate) fn differs(&self, before: &Fingerprint, path: &Path) -> bool {
        let of = |all: &Fingerprint| {
            let found = all.0.iter().find(|(known, _)| known == path);
            found.map(|(_, stat)| *stat)
        };
        of(self) != of(before)
    }

    /// The files that differ from what they were, as they are now.
    fn changed_since(&self, before: &Fingerprint) -> Vec<(PathBuf, Option<Stat>)> {
        let files = self.0.iter();
        let changed = files.filter(|(path, _)| self.differs(before, path));
        changed.cloned().collect()
    }

    /// Of the same files now.
    pub(crate) fn refreshed(&self) -> Fingerprint {
        let files = self.0.iter();
        Fingerprint(files.map(|(path, _)| (path.clone(), stat(path))).collect())
    }
}

fn stat(path: &Path) -> Option<Stat> {
    // Follows links, as reading the file does.
    let metadata = std::fs::metadata(path).ok()?;
    Some(Stat {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

/// Watches until it is dropped.
pub(crate) struct FileWatcher(#[allow(dead_code, reason = "held, not read")] Sender<()>);

impl FileWatcher {
    pub(crate) fn start(reloader: Arc<Reloader>) -> std::io::Result<FileWatcher> {
        let (sender, stopped) = mpsc::channel::<()>();
        std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || {
                let (clock, mut changes) = (Clock::start(), Changes::default());
                while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    check_files(&reloader, &mut changes, clock.now(), &stopped);
                }
            })?;
        Ok(FileWatcher(sender))
    }
}

/// One poll.
fn check_files(
    reloader: &Reloader,
    changes: &mut Changes<PathBuf, Option<Stat>>,
    now: Duration,
    stopped: &Receiver<()>,
) {
    reloader.report_expiry();
    let last = reloader.last_fingerprint();
    let current = last.refreshed();
    let Verdict::Read { restless } = changes.poll(now, current.changed_since(&last)) else {
        return;
    };
    if restless && !await_quiet(current, stopped) {
        return;
    }
    if reloader.reload(ReloadCause::File).result == ReloadResult::Refused && restless {
        changes.was_not_whole();
    }
}

/// Waits a moment for one in which no file changes. False if the watch has ended meanwhile.
fn await_quiet(mut before: Fingerprint, stopped: &Receiver<()>) -> bool {
    for _ in 0..TRIES {
        if stopped.recv_timeout(QUIET) != Err(RecvTimeoutError::Timeout) {
            return false;
        }
        let now = before.refreshed();
        if now == before {
            break;
        }
        before = now;
    }
    true
}
