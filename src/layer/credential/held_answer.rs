//! A 401 of DevRev's that waits until it is known what it means. A small one is taken in meanwhile, so that it holds no connection.

use bytes::Bytes;
use http::{Response, response};
use http_body::Frame;
use http_body_util::BodyExt;
use tower::BoxError;

use crate::body::Body;

/// DevRev's errors are far smaller. A larger one stays on its connection and is passed on all the same.
const MAX_TAKEN: usize = 8 * 1024;

pub(super) struct HeldAnswer {
    head: response::Parts,
    body: Body,
    seen: Vec<u8>,
    /// Trailers or an error, for the caller.
    last: Option<Result<Frame<Bytes>, BoxError>>,
    ended: bool,
}

impl HeldAnswer {
    pub(super) fn new(response: Response<Body>) -> Self {
        let (head, body) = response.into_parts();
        HeldAnswer {
            head,
            body,
            seen: Vec::new(),
            last: None,
            ended: false,
        }
    }

    /// Takes the body in. If this is dropped before it has ended, what was read is kept.
    pub(super) async fn take_in(&mut self) {
        while self.seen.len() < MAX_TAKEN {
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.seen.extend_from_slice(&data),
                    Err(trailers) => {
                        self.last = Some(Ok(trailers));
                        return;
                    }
                },
                Some(Err(error)) => {
                    self.last = Some(Err(error));
                    return;
                }
                None => {
                    self.ended = true;
                    return;
                }
            }
        }
    }

    /// The answer as it came.
    pub(super) fn into_response(self) -> Response<Body> {
        let seen = Bytes::from(self.seen);
        let body = if self.ended {
            Body::full(seen)
        } else {
            Body::resumed(seen, self.last, self.body)
        };
        Response::from_parts(self.head, body)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    /// The answer after its body was taken in: whether it holds a connection, and its bytes.
    async fn taken(body: Body) -> (bool, Bytes) {
        let mut answer = HeldAnswer::new(Response::new(body));
        answer.take_in().await;
        let body = answer.into_response().into_body();
        let held = !body.is_read();
        let bytes = body.collect().await.expect("a body").to_bytes();
        (held, bytes)
    }

    #[tokio::test]
    async fn a_small_answer_holds_no_connection_and_no_byte_is_lost() {
        for (size, held) in [(0, false), (300, false), (MAX_TAKEN + 1, true)] {
            let bytes = Bytes::from(vec![b'x'; size]);
            let rest = Bytes::from_static(b"rest");
            let body = Body::prefixed(bytes.clone(), Body::full(rest.clone()));
            let whole = Bytes::from([bytes, rest].concat());
            assert_eq!(taken(body).await, (held, whole), "{size}");
        }
    }
}
