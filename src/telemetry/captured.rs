//! Log lines kept in memory, for tests.

use std::{
    io::{self, Write},
    sync::Arc,
};

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;

use crate::lock::Lock;

#[derive(Clone, Default)]
pub(crate) struct Captured(Arc<Lock<Vec<u8>>>);

impl Captured {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }

    /// Writes lines here in the form of the log, at INFO and above.
    pub(crate) fn subscriber(&self) -> impl Subscriber + use<> {
        tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_writer(self.clone())
            .finish()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Captured {
    type Writer = Captured;

    fn make_writer(&'a self) -> Captured {
        self.clone()
    }
}
