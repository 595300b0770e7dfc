//! Cookies over HTTP/2.

use http::{HeaderMap, HeaderValue, header::COOKIE};

/// Joins several `Cookie` fields into one. A client may split it over HTTP/2, and an origin reads only one (RFC 9113 section 8.2.3,
/// RFC 6265 section 5.4).
pub fn join(headers: &mut HeaderMap) {
    let mut fields = headers.get_all(COOKIE).iter();
    let (Some(first), Some(_)) = (fields.next(), fields.next()) else {
        return;
    };
    let mut joined = first.as_bytes().to_vec();
    for field in headers.get_all(COOKIE).iter().skip(1) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(field.as_bytes());
    }
    // Always one, since each of its parts is.
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_become_one_in_their_order() {
        for (fields, want) in [
            (&[][..], &[][..]),
            (&["a=b; c=d"], &["a=b; c=d"]),
            (&["a=b", "c=d; e=f", "a=g"], &["a=b; c=d; e=f; a=g"]),
        ] {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(COOKIE, HeaderValue::from_static(field));
            }
            join(&mut headers);
            let got: Vec<_> = headers.get_all(COOKIE).iter().collect();
            assert_eq!(got, want);
        }
    }
}
