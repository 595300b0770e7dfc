//! Where callers connect, and what their connection must prove.

use std::path::PathBuf;

use super::{
    tls,
    tree::{Problem, Section},
    *,
};

/// `files` and `warnings` gain what TLS reads, and what is odd about it.
pub(super) fn listen(
    mut s: Section,
    files: &mut Vec<PathBuf>,
    warnings: &mut Vec<Problem>,
) -> Listen {
    let address = s.parse(
        "address",
        "an address such as \"127.0.0.1:8080\" or \"unix:/run/revgate.sock\"",
        |v| {
            let text = v.as_str()?;
            match text.strip_prefix("unix:") {
                Some(path) => (!path.is_empty()).then(|| Address::Unix(path.into())),
                None => text.parse().ok().map(Address::Tcp),
            }
        },
    );
    let workers = s.parse(
        "workers",
        "\"auto\" or a whole number from 1 to 1024",
        |v| match v.as_str() {
            Some("auto") => Some(std::thread::available_parallelism().map_or(1, usize::from)),
            Some(text) => text.parse().ok().filter(|n| (1..=1024).contains(n)),
            None => v
                .as_u64()
                .filter(|n| (1..=1024).contains(n))
                .map(|n| n as usize),
        },
    );
    let mode = s.parse(
        "mode",
        "three octal digits for owner, group and others as a string, such as \"0660\" or \"0666\"",
        |v| mode(v.as_str()?),
    );
    let tls = s
        .has("tls")
        .then(|| tls::tls(s.section("tls"), files, warnings));
    if tls.is_some() && matches!(address, Some(Address::Unix(_))) {
        s.problem(
            "tls",
            "is of no use on a unix socket, which never leaves the machine; remove it, or listen on an IP address",
        );
    }
    let listen = Listen {
        // A socket's path, so that a wrong address does not also complain about the anonymous caller.
        address: address.unwrap_or(Address::Unix("/".into())),
        tls: tls.flatten(),
        mode: mode.unwrap_or(0o660),
        workers: workers.unwrap_or(1),
        max_connections: s.count("max_connections"),
        header_timeout: s.timeout("header_timeout"),
        idle_timeout: s.timeout("idle_timeout"),
    };
    s.finish();
    listen
}

/// A string, as TOML would read the number 0660 as none at all and 660 as decimal.
fn mode(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let octal =
        (3..=4).contains(&digits.len()) && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let mode = u32::from_str_radix(digits, 8).ok()?;
    // Without the owner's right to write nobody but root could connect.
    (octal && mode <= 0o777 && mode & 0o200 != 0).then_some(mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        for (text, want) in [
            ("0660", Some(0o660)),
            ("660", Some(0o660)),
            ("0o666", Some(0o666)),
            ("0600", Some(0o600)),
            ("0777", Some(0o777)),
            ("0060", None),
            ("0440", None),
            ("4755", None),
            ("0680", None),
            ("66", None),
            ("00660", None),
            ("+660", None),
            ("rw-rw----", None),
            ("", None),
        ] {
            assert_eq!(mode(text), want, "{text}");
        }
    }
}
