//! Reloads when the file, or a secret that it refers to, has changed.
//!
//! Looks at them every second instead of asking the kernel to tell: that sees a ConfigMap's symlink swap, a file moved
//! into place and a network file system alike.

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

/// A handful of `stat` calls. A change is taken up when it has stayed the same from one look to the next, so that a file
/// which is still being written is not read half.
const INTERVAL: Duration = Duration::from_secs(1);

/// What `stat` says of each file; nothing of one that is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint(Vec<(PathBuf, Option<Stat>)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Also moves where a copy gave the file its old time of modification.
    changed: (i64, i64),
}

impl Fingerprint {
    /// Of a configuration's file, and of the files that it refers to.
    pub fn of(file: Option<&Path>, referred: &[PathBuf]) -> Fingerprint {
        let mut fingerprint = Fingerprint::default();
        if let Some(file) = file {
            fingerprint.extend(&[file.to_owned()]);
        }
        fingerprint.extend(referred);
        fingerprint
    }

    /// Adds the files that it does not know.
    pub fn extend(&mut self, files: &[PathBuf]) {
        for path in files {
            if !self.0.iter().any(|(known, _)| known == path) {
                self.0.push((path.to_owned(), stat(path)));
            }
        }
    }

    /// Whether this file is another than it was.
    pub fn differs(&self, before: &Fingerprint, path: &Path) -> bool {
        let of = |all: &Fingerprint| {
            let found = all.0.iter().find(|(known, _)| known == path);
            found.map(|(_, stat)| *stat)
        };
        of(self) != of(before)
    }

    /// The same files as they are now.
    fn again(&self) -> Fingerprint {
        let files = self.0.iter();
        Fingerprint(files.map(|(path, _)| (path.clone(), stat(path))).collect())
    }
}

fn stat(path: &Path) -> Option<Stat> {
    // Follows links: what counts is the file that would be read.
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
pub struct Watch(#[allow(dead_code, reason = "held, not read")] Sender<()>);

impl Watch {
    pub fn start(reloader: Arc<Reloader>) -> std::io::Result<Watch> {
        let (sender, stopped) = mpsc::channel::<()>();
        std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || {
                let mut before = None;
                while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    before = look(&reloader, before);
                }
            })?;
        Ok(Watch(sender))
    }
}

/// One look; returns a change that has still to settle.
fn look(reloader: &Reloader, before: Option<Fingerprint>) -> Option<Fingerprint> {
    reloader.tell_expiry();
    let now = reloader.read_last().again();
    if reloader.is_current(&now) {
        return None;
    }
    if before.as_ref() != Some(&now) {
        return Some(now);
    }
    reloader.reload();
    None
}
