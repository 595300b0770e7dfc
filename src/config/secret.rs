//! Secrets are only ever referred to; here a reference becomes a value. No message here holds a value.

use std::{collections::BTreeMap, fs::File, io::Read, path::Path};

use secrecy::SecretString;
use zeroize::Zeroizing;

use super::TokenSource;

/// No credential is larger; a reference to a device or a wrong file must not fill the memory.
const LIMIT: u64 = 64 << 10;

/// Reads and trims what `source` refers to.
pub fn read(source: &TokenSource, env: &BTreeMap<String, String>) -> Result<SecretString, String> {
    follow(source, env, TOKEN)
}

/// The whole value of a header field, which may be several words: "Basic …".
pub fn read_field(
    source: &TokenSource,
    env: &BTreeMap<String, String>,
) -> Result<SecretString, String> {
    follow(source, env, |b| b.is_ascii_graphic() || b == b' ')
}

type Allowed = fn(u8) -> bool;
const TOKEN: Allowed = |b| b.is_ascii_graphic();

fn follow(
    source: &TokenSource,
    env: &BTreeMap<String, String>,
    allowed: Allowed,
) -> Result<SecretString, String> {
    match source {
        TokenSource::Env(name) => match env.get(name) {
            Some(value) => clean(value, allowed),
            None => Err(
                "the environment variable it names is not set; set it, or use { file = ... }"
                    .into(),
            ),
        },
        TokenSource::File(path) => open(path, allowed),
    }
}

fn open(path: &Path, allowed: Allowed) -> Result<SecretString, String> {
    let bytes = read_bytes(path, "the secret")?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => clean(text, allowed),
        Err(_) => Err("the file is not text; point it at a file that holds only the secret".into()),
    }
}

/// Reads a file that holds `what` and no more than a secret or a few certificates take.
pub fn read_bytes(path: &Path, what: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let fail = |e: std::io::Error| {
        format!(
            "the file cannot be read ({}); create it or correct the path",
            e.kind()
        )
    };
    let metadata = std::fs::metadata(path).map_err(fail)?;
    // A pipe without a writer would hang the start for ever.
    if !metadata.is_file() {
        return Err(format!(
            "the path is not a regular file; point it at a file that holds only {what}"
        ));
    }
    // As large as it will be: what grows leaves copies behind that nobody wipes.
    let size = metadata.len().min(LIMIT + 1) as usize;
    let mut bytes = Zeroizing::new(Vec::with_capacity(size + 1));
    File::open(path)
        .map_err(fail)?
        .take(LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    if bytes.len() as u64 > LIMIT {
        return Err(format!(
            "the file is larger than 64 KiB; point it at a file that holds only {what}"
        ));
    }
    Ok(bytes)
}

fn clean(text: &str, allowed: Allowed) -> Result<SecretString, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("the secret is empty; store a value there".into());
    }
    // It goes into a header, where anything else would be refused or, worse, split it.
    if !text.bytes().all(allowed) {
        return Err(
            "the secret holds characters that a header cannot; store visible ASCII on one line"
                .into(),
        );
    }
    Ok(SecretString::from(text.to_owned()))
}
