//! Reads an answer's body into memory while it is passed on, so that its connection is free as soon as it has come, whoever reads it.

use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use tokio::{sync::mpsc, task::AbortHandle};
use tower::BoxError;

use super::Body;

/// The other end of a body that a task reads.
pub(super) struct Pump {
    /// Without a bound: the body is small, and its memory is taken.
    frames: mpsc::UnboundedReceiver<Result<Frame<Bytes>, BoxError>>,
    /// Bytes that have not been passed on.
    left: u64,
    ended: bool,
    task: AbortHandle,
}

impl Pump {
    /// Reads this body, of so many bytes.
    pub(super) fn start(mut body: Body, left: u64) -> Pump {
        let (sender, frames) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            while let Some(frame) = body.frame().await {
                if sender.send(frame).is_err() || body.is_end_stream() {
                    return;
                }
            }
        });
        Pump {
            frames,
            left,
            ended: false,
            task: task.abort_handle(),
        }
    }

    pub(super) fn left(&self) -> u64 {
        self.left
    }

    pub(super) fn is_end(&self) -> bool {
        self.ended || (self.left == 0 && self.frames.is_empty() && self.frames.is_closed())
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = std::task::ready!(self.frames.poll_recv(cx));
        match &frame {
            Some(Ok(frame)) => {
                let size = frame.data_ref().map_or(0, Bytes::len) as u64;
                self.left = self.left.saturating_sub(size);
            }
            Some(Err(_)) | None => self.ended = true,
        }
        Poll::Ready(frame)
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.task.abort();
    }
}
