//! The header of the PROXY protocol, by which a load balancer that passes TCP on names the client.
//!
//! ```
//! use revgate::policy::proxy_header::{For, Read, read};
//!
//! let bytes = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\nGET /";
//! let client = For::Client("203.0.113.7".parse().unwrap());
//! assert_eq!(read(bytes), Ok(Read::Whole { length: 43, speaks: client }));
//! assert_eq!(read(&bytes[..9]), Ok(Read::Incomplete));
//! ```

use std::net::IpAddr;

use proxy_header::{Error, ParseConfig, Protocol, ProxyHeader};
use thiserror::Error;

use super::first_bytes::PROXY_V2;

/// The longest header of version 1, by its specification.
const MAX_V1: usize = 107;

/// The longest of version 2 that is read. Addresses take 52 bytes; the rest is what a load balancer adds, such as the client's certificate.
pub const MAX: usize = 4096;

/// Version 2, and its command by which the proxy speaks for itself. Version 1 has none.
const LOCAL: u8 = 0x20;

const PROXY_V1: &[u8] = b"PROXY ";

/// Of version 2: its start, two bytes, and the length of the rest.
const FIXED: usize = PROXY_V2.len() + 4;

/// How far a header has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    Incomplete,
    Whole { length: usize, speaks: For },
}

/// For whom the proxy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// As in a health check.
    Itself,
    /// A client that it does not name.
    Somebody,
    Client(IpAddr),
}

/// Why a connection has no usable header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProxyFault {
    #[error("it does not begin with a PROXY header")]
    Missing,
    #[error("its PROXY header is malformed")]
    Malformed,
    #[error("its PROXY header is longer than {MAX} bytes")]
    TooLong,
}

/// Reads the header at the start of these bytes.
///
/// # Errors
/// If it is not one.
pub fn read(bytes: &[u8]) -> Result<Read, ProxyFault> {
    let is_or_may_become = |whole: &[u8]| whole.starts_with(bytes) || bytes.starts_with(whole);
    // So many bytes are enough.
    let enough = if is_or_may_become(PROXY_V1) {
        MAX_V1
    } else if is_or_may_become(PROXY_V2) {
        let length = match bytes.get(FIXED - 2..FIXED) {
            Some(length) => FIXED + usize::from(length[0]) * 256 + usize::from(length[1]),
            None => return Ok(Read::Incomplete),
        };
        if length > MAX {
            return Err(ProxyFault::TooLong);
        }
        length
    } else {
        return Err(ProxyFault::Missing);
    };
    let config = ParseConfig {
        include_tlvs: false,
        ..ParseConfig::default()
    };
    match ProxyHeader::parse(&bytes[..bytes.len().min(enough)], config) {
        Ok((header, length)) => match header.proxied_address() {
            Some(address) if address.protocol != Protocol::Stream => Err(ProxyFault::Malformed),
            address => Ok(Read::Whole {
                length,
                speaks: match address {
                    Some(address) => For::Client(address.source.ip()),
                    None if bytes.starts_with(PROXY_V2) && bytes[PROXY_V2.len()] == LOCAL => {
                        For::Itself
                    }
                    None => For::Somebody,
                },
            }),
        },
        Err(Error::BufferTooShort) if bytes.len() < enough => Ok(Read::Incomplete),
        Err(_) => Err(ProxyFault::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [PROXY_V2, &[command, family], &length, rest].concat()
    }

    const IPV4: [u8; 12] = [203, 0, 113, 7, 192, 0, 2, 1, 0x12, 0x67, 1, 0xbb];

    #[test]
    fn headers_of_both_versions() {
        let ipv6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[7], &[0; 20]].concat();
        let tlvs = [&IPV4[..], &[4; 1000]].concat();
        let client = |text: &str| For::Client(text.parse().unwrap());
        for (header, want) in [
            (
                b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n".to_vec(),
                client("203.0.113.7"),
            ),
            (
                b"PROXY TCP6 2001:db8::7 ::1 4711 443\r\n".to_vec(),
                client("2001:db8::7"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), For::Somebody),
            (
                b"PROXY UNKNOWN ffff:f::1 ffff::2 65535 65535\r\n".to_vec(),
                For::Somebody,
            ),
            (v2(0x21, 0x11, &IPV4), client("203.0.113.7")),
            (v2(0x21, 0x11, &tlvs), client("203.0.113.7")),
            (v2(0x21, 0x21, &ipv6), client("2001:db8::7")),
            // LOCAL, no address, and that of a unix socket.
            (v2(0x20, 0x00, &[]), For::Itself),
            (v2(0x20, 0x11, &IPV4), For::Itself),
            (v2(0x21, 0x00, &[]), For::Somebody),
            (v2(0x21, 0x31, &[0; 216]), For::Somebody),
        ] {
            let length = header.len();
            let shown = header.escape_ascii().to_string();
            let whole = Read::Whole {
                length,
                speaks: want,
            };
            let followed = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(read(&followed), Ok(whole), "{shown}");
            for end in 0..length {
                assert_eq!(
                    read(&header[..end]),
                    Ok(Read::Incomplete),
                    "{end} of {shown}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_header_is_told_at_once() {
        use ProxyFault::{Malformed, Missing, TooLong};
        for (bytes, want) in [
            (b"GET / HTTP/1.1\r\n".to_vec(), Missing),
            (b"P\x16".to_vec(), Missing),
            (b"\x16\x03\x01".to_vec(), Missing),
            (b"\r\n\r\nGET /".to_vec(), Missing),
            (b"PROXY TCP4 a b 1 2\r\n".to_vec(), Malformed),
            (b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n".to_vec(), Malformed),
            (
                [&b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n"[..], &[b'x'; 100]].concat(),
                Malformed,
            ),
            ([&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat(), Malformed),
            (v2(0x11, 0x11, &IPV4), Malformed),
            (v2(0x21, 0x11, &IPV4[..8]), Malformed),
            // UDP.
            (v2(0x21, 0x12, &IPV4), Malformed),
            (v2(0x21, 0x11, &[0; 5000])[..16].to_vec(), TooLong),
        ] {
            assert_eq!(read(&bytes), Err(want), "{}", bytes.escape_ascii());
        }
    }

    proptest! {
        /// Nothing panics, and what is complete stays so whatever follows.
        #[test]
        fn any_bytes(
            start in prop::sample::select(vec![&b""[..], b"PROXY ", b"PROXY TCP4 ", PROXY_V2, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0"]),
            rest in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes = [start, &rest].concat();
            if let Ok(Read::Whole { length, .. }) = read(&bytes) {
                prop_assert!(length <= bytes.len());
                prop_assert_eq!(read(&bytes[..length]), read(&bytes));
            }
        }
    }
}
