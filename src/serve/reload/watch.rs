//! Reloads when the file, or a secret that it refers to, has changed.
//!
//! It polls them every second instead of using inotify, because that works for a ConfigMap's symlink swap, for a file moved into place
//! and on a network file system.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    time::Duration,
};

use super::Reloader;

/// Between two polls, each a few `stat` calls. A change counts once two polls see the same files, so that a file is not read while it is
/// being written.
const INTERVAL: Duration = Duration::from_secs(1);

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

    /// Of the same files now.
    fn refreshed(&self) -> Fingerprint {
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
                let mut before = None;
                while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    before = check_files(&reloader, before);
                }
            })?;
        Ok(FileWatcher(sender))
    }
}

/// One poll. Returns a change that the next poll has to confirm.
fn check_files(reloader: &Reloader, before: Option<Fingerprint>) -> Option<Fingerprint> {
    reloader.report_expiry();
    let now = reloader.last_fingerprint().refreshed();
    if reloader.is_current(&now) {
        return None;
    }
    if before.as_ref() != Some(&now) {
        return Some(now);
    }
    reloader.reload();
    None
}
