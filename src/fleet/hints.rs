//! Hints on their way from connections to the driver, and whose hints are wanted.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use crate::{
    fleet::register::{Hint, Key},
    lock::Lock,
};

/// Hints that wait for the driver. It takes them at once, and loses nothing but time if some are summed up.
const WAITING: usize = 1024;

/// The longest hint that is passed on. It names who shall look, so a longer one says no more than that everyone shall.
const MAX_HINT: usize = 4096;

pub(super) struct Hints {
    sender: mpsc::Sender<Hint>,
    receiver: Lock<Option<mpsc::Receiver<Hint>>>,
    /// [`Hint::Missed`] is owed.
    missed: AtomicBool,
    owed: Notify,
    wanted: Lock<Wanted>,
    changed: Notify,
}

#[derive(Default)]
struct Wanted {
    keys: HashSet<Key>,
    /// Those that came or went since a connection was last told.
    changes: HashSet<Key>,
}

/// What a connection is to be told.
#[derive(Default)]
pub(super) struct Changes {
    pub listen: Vec<Key>,
    pub forget: Vec<Key>,
}

impl Hints {
    pub(super) fn new() -> Hints {
        let (sender, receiver) = mpsc::channel(WAITING);
        Hints {
            sender,
            receiver: Lock::new(Some(receiver)),
            missed: AtomicBool::new(false),
            owed: Notify::new(),
            wanted: Lock::default(),
            changed: Notify::new(),
        }
    }

    pub(super) fn take(&self) -> Option<mpsc::Receiver<Hint>> {
        self.receiver.lock().take()
    }

    pub(super) fn tell(&self, hint: Hint) {
        // If nobody takes hints any more, none is missed.
        if let Err(mpsc::error::TrySendError::Full(_)) = self.sender.try_send(hint) {
            self.miss();
        }
    }

    /// Hints may have been lost.
    pub(super) fn miss(&self) {
        self.missed.store(true, SeqCst);
        self.owed.notify_one();
    }

    /// Tells that hints were missed once there is room, again and again. Runs until it is dropped.
    pub(super) async fn pay(&self) {
        loop {
            while !self.missed.load(SeqCst) {
                self.owed.notified().await;
            }
            match self.sender.reserve().await {
                Ok(room) => {
                    self.missed.store(false, SeqCst);
                    room.send(Hint::Missed);
                }
                Err(_nobody) => std::future::pending().await,
            }
        }
    }

    pub(super) fn want(&self, key: &Key, wanted: bool) {
        let mut all = self.wanted.lock();
        let changed = match wanted {
            true => all.keys.insert(key.clone()),
            false => all.keys.remove(key),
        };
        if changed {
            all.changes.insert(key.clone());
            self.changed.notify_one();
        }
    }

    pub(super) fn wants(&self, key: &Key) -> bool {
        self.wanted.lock().keys.contains(key)
    }

    /// What a new connection is to listen to.
    pub(super) fn all(&self) -> Vec<Key> {
        let mut all = self.wanted.lock();
        all.changes.clear();
        all.keys.iter().cloned().collect()
    }

    /// What has changed since; waits until something has.
    pub(super) async fn changes(&self) -> Changes {
        loop {
            {
                let mut all = self.wanted.lock();
                let Wanted { keys, changes } = &mut *all;
                if !changes.is_empty() {
                    let (listen, forget) = changes.drain().partition(|key| keys.contains(key));
                    return Changes { listen, forget };
                }
            }
            self.changed.notified().await;
        }
    }

    /// Takes what has come on a channel, which has the name of a key.
    pub(super) fn hear(&self, channel: &str, text: Bytes) {
        let key = self.wanted.lock().keys.get(channel).cloned();
        if let Some(key) = key {
            let text = match text.len() <= MAX_HINT {
                true => text,
                false => Bytes::new(),
            };
            self.tell(Hint::Told(key, text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(hint: Option<Hint>) -> String {
        match hint {
            Some(Hint::Told(key, text)) => format!("{key} {}", text.len()),
            Some(Hint::Missed) => "missed".to_owned(),
            None => "end".to_owned(),
        }
    }

    #[tokio::test]
    async fn only_what_is_wanted_is_passed_on() {
        let hints = Hints::new();
        let mut told = hints.take().unwrap();
        assert!(hints.take().is_none());
        hints.want(&"a".into(), true);
        hints.want(&"b".into(), true);
        hints.want(&"b".into(), false);
        hints.hear("b", Bytes::from_static(b"x"));
        hints.hear("c", Bytes::from_static(b"x"));
        hints.hear("a", Bytes::from_static(b"xyz"));
        hints.hear("a", Bytes::from_static(&[0; MAX_HINT + 1]));
        assert_eq!(shown(told.recv().await), "a 3");
        assert_eq!(shown(told.recv().await), "a 0");
        drop(hints);
        assert_eq!(shown(told.recv().await), "end");
    }

    #[tokio::test]
    async fn changes_are_told_once() {
        let hints = Hints::new();
        hints.want(&"a".into(), true);
        hints.want(&"a".into(), true);
        assert_eq!(hints.all(), [Key::from("a")]);
        hints.want(&"a".into(), false);
        hints.want(&"b".into(), true);
        let changes = hints.changes().await;
        assert_eq!(changes.listen, [Key::from("b")]);
        assert_eq!(changes.forget, [Key::from("a")]);
        assert!(hints.wanted.lock().changes.is_empty());
    }

    #[tokio::test]
    async fn what_finds_no_room_is_summed_up() {
        let hints = Hints::new();
        let mut told = hints.take().unwrap();
        for _ in 0..WAITING + 5 {
            hints.tell(Hint::Told("a".into(), Bytes::new()));
        }
        let taking = async {
            let mut words = Vec::new();
            for _ in 0..=WAITING {
                words.push(shown(told.recv().await));
            }
            words
        };
        let words = tokio::select! {
            words = taking => words,
            () = hints.pay() => panic!("it never ends"),
        };
        assert_eq!(words.iter().filter(|word| *word == "missed").count(), 1);
        assert_eq!(words.last().unwrap(), "missed");
        assert!(told.try_recv().is_err());
    }
}
