//! A mutex for state that outlives a panic.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Holds what threads share for a few lines, and never across an await. After a panic of its holder it is used as it is: one panic
/// must not end all service.
#[derive(Debug, Default)]
pub(crate) struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    pub(crate) fn new(value: T) -> Self {
        Lock(Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
