//! Reads the files to which the configuration refers, up to a bound, and looks at who else can read them.

use std::{fs::File, io::Read, os::unix::fs::MetadataExt, path::Path};

use zeroize::Zeroizing;

use super::{quote, reading::Location};

/// Reports a problem of a file, by its name if that may be shown.
pub(super) fn report_file(
    at: &Location<'_>,
    key: &'static str,
    file: Option<String>,
    message: &str,
) {
    match file {
        Some(file) => at.report_found(key, Some(file), message),
        None => at.report_found(key, None, format!("the file {message}")),
    }
}

/// Warns if any user of the machine can read the secret in this file, or write another one there. That its group can is often on purpose, as
/// with an `fsGroup` in Kubernetes.
pub(super) fn warn_if_exposed(path: &Path, at: &Location<'_>, key: &'static str) {
    let named = quote::path(path).unwrap_or_default();
    let file = named.trim_matches('"');
    // Where a link leads, as in a volume of Kubernetes, is what counts: a link has no permissions of its own.
    let Ok(path) = std::fs::canonicalize(path) else {
        return;
    };
    let mode = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.mode());
    let folders = path.ancestors().skip(1).flat_map(mode);
    let Some(can) = exposure(mode(&path).unwrap_or(0), folders) else {
        return;
    };
    let (space, argument) = match file {
        "" => ("", "FILE"),
        file => (" ", file),
    };
    let message = format!(
        "every user of the machine can {can} the file{space}{file}; `chmod o= {argument}`, or defaultMode: 0440 for a volume in Kubernetes"
    );
    at.warn_found(key, None, message);
}

/// What others can do with a file, by its permissions and those of the folders above it.
fn exposure(mode: u32, folders: impl IntoIterator<Item = u32>) -> Option<&'static str> {
    // Nobody gets at a file in a folder that they may not enter.
    if folders.into_iter().any(|folder| folder & 0o001 == 0) {
        return None;
    }
    match (mode & 0o004 != 0, mode & 0o002 != 0) {
        (true, true) => Some("read and write"),
        (true, false) => Some("read"),
        (false, true) => Some("write"),
        (false, false) => None,
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> String {
    let why = match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".into(),
        other => other.to_string(),
    };
    let from = match std::env::current_dir() {
        Ok(folder) if path.is_relative() => {
            format!(" (a relative one begins in {})", folder.display())
        }
        _ => String::new(),
    };
    format!("cannot be read ({why}); create it or correct the path{from}")
}

/// Reads a file that should hold `what`, up to `limit` KiB.
pub(super) fn read_bytes(
    path: &Path,
    limit: u64,
    what: &str,
) -> Result<Zeroizing<Vec<u8>>, String> {
    let unreadable = |error| unreadable(path, &error);
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    // Reading a pipe without a writer would block for ever.
    if !metadata.is_file() {
        return Err(format!(
            "is not a regular file; point it at a file that holds only {what}"
        ));
    }
    // Allocated in full at once: a growing buffer leaves copies behind that are never wiped.
    let most = limit << 10;
    let size = metadata.len().min(most + 1) as usize;
    let mut bytes = Zeroizing::new(Vec::with_capacity(size + 1));
    File::open(path)
        .map_err(unreadable)?
        .take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > most {
        return Err(format!(
            "is larger than {limit} KiB; point it at a file that holds only {what}"
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::{super::from_toml, *};

    #[test]
    fn exposed_is_what_others_can_open() {
        for (mode, folders, want) in [
            (0o400, &[0o755, 0o755][..], None),
            (0o600, &[0o755], None),
            // A group is chosen on purpose: `fsGroup` gives it the files.
            (0o440, &[0o755], None),
            (0o660, &[0o755], None),
            (0o644, &[0o755, 0o755], Some("read")),
            (0o100_644, &[0o1777, 0o755], Some("read")),
            (0o604, &[0o711], Some("read")),
            (0o602, &[0o755], Some("write")),
            (0o666, &[0o755], Some("read and write")),
            (0o777, &[], Some("read and write")),
            // A folder that they cannot enter, at any height.
            (0o644, &[0o700, 0o755], None),
            (0o644, &[0o755, 0o750, 0o755], None),
            (0o666, &[0o744], None),
        ] {
            let folders = folders.iter().copied();
            assert_eq!(
                exposure(mode, folders.clone()),
                want,
                "{mode:o} {folders:?}"
            );
        }
    }

    /// Every file that the configuration names as a secret, behind links as in a volume of Kubernetes.
    #[test]
    fn every_file_of_a_secret_that_others_can_read_is_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        let open = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let root = folder.path();
        let is_reachable = root
            .ancestors()
            .skip(1)
            .all(|above| fs::metadata(above).unwrap().mode() & 0o001 != 0);
        let data = root.join("..2026_11_26");
        fs::create_dir(&data).unwrap();
        symlink("..2026_11_26", root.join("..data")).unwrap();
        let pair = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
        for (name, content) in [
            ("token", "token-value".to_owned()),
            ("key", "7d8f1c0b9e34a256f7013c8ae92b645d".to_owned()),
            ("admin", "admin-key".to_owned()),
            ("header", "header-value".to_owned()),
            ("cert.pem", pair.cert.pem()),
            ("key.pem", pair.signing_key.serialize_pem()),
        ] {
            fs::write(data.join(name), content).unwrap();
            symlink(format!("..data/{name}"), root.join(name)).unwrap();
        }
        let at = root.display();
        let text = format!(
            "[listen]\ntls = {{ cert = \"{at}/cert.pem\", key = \"{at}/key.pem\" }}\n[admin]\nkey = {{ file = \"{at}/admin\" }}\n\
             [tokens.main]\nfile = \"{at}/token\"\n[callers.a]\nkey = {{ file = \"{at}/key\" }}\n\
             [trace]\notlp = \"http://127.0.0.1:1\"\nheaders = {{ x-key = {{ file = \"{at}/header\" }} }}\n"
        );
        let secrets = ["token", "key", "admin", "header", "key.pem"];
        for (mode, folder_mode, warns) in [
            (0o644, 0o755, true),
            (0o440, 0o755, false),
            (0o644, 0o750, false),
        ] {
            open(root, folder_mode);
            open(&data, 0o755);
            open(&data.join("cert.pem"), 0o644);
            for name in secrets {
                open(&data.join(name), mode);
            }
            let config = from_toml(&text, &Default::default())
                .unwrap_or_else(|problems| panic!("{problems}"));
            let mut paths: Vec<_> = config
                .warnings
                .iter()
                .map(|warning| warning.path.as_str())
                .collect();
            paths.sort_unstable();
            let all = [
                "admin.key",
                "callers.a.key",
                "listen.tls.key",
                "tokens.main.file",
                "trace.headers.x-key",
            ];
            let want = if warns && is_reachable { &all[..] } else { &[] };
            assert_eq!(paths, want, "{mode:o} {folder_mode:o}");
            for warning in &config.warnings {
                assert!(
                    warning
                        .message
                        .starts_with("every user of the machine can read the file"),
                    "{warning:?}"
                );
            }
        }
    }
}
