//! What a client is told that speaks another protocol than this listener: HTTP/1.1 without TLS.

use serde_json::json;
use tokio::{net::TcpStream, time::timeout};

use super::READ_TIMEOUT;
use crate::policy::first_bytes::{Beginning, WrongProtocol, beginning, go_away};

/// The answer for such a client; `None` for any other, whose bytes are all still to be read.
pub(super) async fn answer_to_another(stream: &TcpStream) -> Option<Vec<u8>> {
    let mut first = [0; 24];
    // Both send so much in one go. What comes in pieces is left to the server.
    let read = timeout(READ_TIMEOUT, stream.peek(&mut first)).await;
    let read = read.ok()?.ok()?;
    match beginning(&first[..read])? {
        Beginning::Tls => {
            let body = json!({ "error": WrongProtocol::TlsOnPlain.message() });
            let body = format!("{body}\n");
            let length = body.len();
            let head = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n";
            Some(format!("{head}Content-Length: {length}\r\n\r\n{body}").into_bytes())
        }
        Beginning::Http2 => Some(go_away(WrongProtocol::Http1Alone)),
        Beginning::Http1 | Beginning::ProxyHeader | Beginning::Other => None,
    }
}
