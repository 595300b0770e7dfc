//! What a connection begins with, so that a client which speaks another protocol than the port does gets a sentence in its own.
//!
//! ```
//! use revgate::policy::first_bytes::{Beginning, beginning};
//!
//! assert_eq!(beginning(b"\x16\x03\x01"), Some(Beginning::Tls));
//! assert_eq!(beginning(b"GET / HTTP/1.1\r\n"), Some(Beginning::Http1));
//! assert_eq!(beginning(b"GET / HT"), None);
//! ```

use super::http1::MAX_METHOD;

/// A protocol, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    Tls,
    /// HTTP/1.1 or HTTP/1.0, as far as the first line shows.
    Http1,
    Http2,
    /// A header of the PROXY protocol, of either version.
    ProxyHeader,
    Other,
}

/// The start of version 2 of the PROXY protocol. No other protocol begins like this, which is its purpose.
pub const PROXY_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// As much of HTTP/2's preface as no line of HTTP/1.1 has.
const HTTP2: &[u8] = b"PRI * HTTP/2";

/// The starts of version 1.
const PROXY_V1: [&[u8]; 3] = [b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN"];

/// What begins with these bytes; `None` if more of them are needed to tell.
pub fn beginning(bytes: &[u8]) -> Option<Beginning> {
    // A record of a handshake, of any version since SSL 3.0 (RFC 8446 section 5.1).
    if let [0x16, rest @ ..] = bytes {
        let is_tls = rest.first().is_none_or(|major| *major == 3);
        return Some(if is_tls {
            Beginning::Tls
        } else {
            Beginning::Other
        });
    }
    let is_or_may_become = |whole: &[u8]| whole.starts_with(bytes) || bytes.starts_with(whole);
    let proxy = PROXY_V1.iter().copied().chain([PROXY_V2]);
    let mut named = proxy
        .map(|start| (start, Beginning::ProxyHeader))
        .chain([(HTTP2, Beginning::Http2)]);
    if let Some((start, beginning)) = named.find(|(start, _)| is_or_may_become(start)) {
        return (bytes.len() >= start.len()).then_some(beginning);
    }
    let is_method = |byte: &u8| byte.is_ascii_uppercase() || *byte == b'-' || *byte == b'_';
    let method = bytes.iter().take_while(|byte| is_method(byte)).count();
    match bytes.get(method) {
        _ if method > MAX_METHOD => Some(Beginning::Other),
        None => None,
        Some(b' ') if method > 0 => {
            let line = bytes.iter().position(|byte| *byte == b'\n')?;
            let line = bytes[..line].trim_ascii_end();
            let is_http = line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0");
            Some(if is_http {
                Beginning::Http1
            } else {
                Beginning::Other
            })
        }
        Some(_) => Some(Beginning::Other),
    }
}

/// A client speaks another protocol than the port does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrongProtocol {
    PlainOnTls,
    TlsOnPlain,
    /// HTTP/2 over TLS, on which ALPN has not agreed.
    NotAgreedOn,
    UnexpectedProxyHeader,
    NoProxyHeader,
    /// HTTP/2 on the admin listener.
    Http1Alone,
}

impl WrongProtocol {
    /// What the client can do.
    pub const fn message(self) -> &'static str {
        match self {
            WrongProtocol::Http1Alone => "This is the admin listener, which speaks HTTP/1.1 alone.",
            WrongProtocol::PlainOnTls => "This port speaks TLS: use https://.",
            WrongProtocol::TlsOnPlain => {
                "This port speaks HTTP without TLS, and the connection began with a TLS handshake: use http://."
            }
            WrongProtocol::NotAgreedOn => {
                "Over TLS this port speaks HTTP/2 only if ALPN agreed on h2: offer it, or use HTTP/1.1."
            }
            WrongProtocol::UnexpectedProxyHeader => {
                "A PROXY header is not expected on this connection: its sender must be in listen.trusted_proxies, with listen.proxy_protocol."
            }
            WrongProtocol::NoProxyHeader => {
                "From this address a connection must begin with a PROXY header: turn it on in the load balancer, or listen.proxy_protocol off."
            }
        }
    }
}

impl std::fmt::Display for WrongProtocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            WrongProtocol::Http1Alone => "HTTP/2 where HTTP/1.1 alone is spoken",
            WrongProtocol::PlainOnTls => "plain HTTP on a port for TLS",
            WrongProtocol::TlsOnPlain => "a TLS handshake on a port for plain HTTP",
            WrongProtocol::NotAgreedOn => "HTTP/2 over TLS without ALPN",
            WrongProtocol::UnexpectedProxyHeader => "a PROXY header that is not expected",
            WrongProtocol::NoProxyHeader => "no PROXY header from a trusted proxy",
        })
    }
}

/// How HTTP/2 ends a connection (RFC 9113 section 6.8): SETTINGS, then GOAWAY with the sentence.
pub fn go_away(wrong: WrongProtocol) -> Vec<u8> {
    /// HTTP_1_1_REQUIRED (section 7), and INADEQUATE_SECURITY.
    const REQUIRED: u32 = 0xd;
    const SECURITY: u32 = 0xc;
    let code = match wrong {
        WrongProtocol::NotAgreedOn | WrongProtocol::Http1Alone => REQUIRED,
        _ => SECURITY,
    };
    let text = wrong.message().as_bytes();
    let mut out = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    let length = u32::try_from(8 + text.len()).unwrap_or(8).to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[7, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&0_u32.to_be_bytes());
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(text);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_connections_begin_with() {
        use Beginning::{Http1, Http2, Other, ProxyHeader, Tls};
        for (bytes, want) in [
            (&b""[..], None),
            (b"\x16", Some(Tls)),
            (b"\x16\x03\x01\x02\x00\x01", Some(Tls)),
            (b"\x16\x02", Some(Other)),
            (b"\0\0\0", Some(Other)),
            (b"G", None),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Some(Http1)),
            (b"GET / HTTP/1.0\n", Some(Http1)),
            (b"M-SEARCH * HTTP/1.1\r\n", Some(Http1)),
            (b"GET / HTTP/2.0\r\n", Some(Other)),
            (b"GET /\r\n", Some(Other)),
            (b"SSH-2.0-OpenSSH_9.6\r\n", Some(Other)),
            (b"get / HTTP/1.1\r\n", Some(Other)),
            (b" / HTTP/1.1\r\n", Some(Other)),
            (b"PRI", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Http2)),
            (b"PRI * HTTP/1.1\r\n", Some(Http1)),
            (b"PROXY", None),
            (b"PROXY TCP4 1", Some(ProxyHeader)),
            (b"PROXY TCP6 ::1", Some(ProxyHeader)),
            (b"PROXY UNKNOWN\r\n", Some(ProxyHeader)),
            (b"PROXY /a HTTP/1.1\r\n", Some(Http1)),
            (PROXY_V2, Some(ProxyHeader)),
            (&PROXY_V2[..11], None),
            (b"\r\nGET", Some(Other)),
        ] {
            assert_eq!(
                beginning(bytes),
                want,
                "{:?}",
                bytes.escape_ascii().to_string()
            );
        }
        assert_eq!(beginning(&[b'A'; 100]), Some(Other));
    }

    /// What is known early stays.
    #[test]
    fn more_bytes_change_no_verdict() {
        for whole in [
            &b"\x16\x03\x01\x02\x00"[..],
            b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11",
        ] {
            let last = beginning(whole).expect("known");
            for end in 0..whole.len() {
                assert!(beginning(&whole[..end]).is_none_or(|one| one == last));
            }
        }
    }
}
