//! The status page, one document that loads nothing else.
use std::sync::LazyLock;

use sha2::{Digest, Sha256};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

pub static HTML: LazyLock<String> = LazyLock::new(|| {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>revgate</title>\
         <style>{STYLE}</style></head><body><header><h1>revgate</h1><span id=\"state\" class=\"dim\">…</span>\
         <input id=\"key\" type=\"password\" autocomplete=\"off\" placeholder=\"admin key, if asked for\">\
         </header><p id=\"note\" class=\"dim\"></p><main></main><script>{SCRIPT}</script></body></html>"
    )
});

/// Names the page's own script and style by hash, so that nothing slipped into the page would run.
pub static POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        base64(&Sha256::digest(SCRIPT)),
        base64(&Sha256::digest(STYLE)),
    )
});

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = (0..3).fold(0u32, |w, i| {
            w << 8 | u32::from(chunk.get(i).copied().unwrap_or(0))
        });
        for i in 0..4 {
            let six = (word >> (18 - 6 * i)) & 63;
            out.push(if i <= chunk.len() {
                char::from(ALPHABET[six as usize])
            } else {
                '='
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_pads() {
        assert_eq!(
            [&b"M"[..], b"Ma", b"Man"].map(super::base64),
            ["TQ==", "TWE=", "TWFu"]
        );
    }
}
