//! What `--version` says: the version, the commit and the TLS library.

use std::sync::LazyLock;

/// Which commit this was built from. `REVGATE_COMMIT` says so at the build: whoever builds sets it, else `build.rs` asks Git for a release in a
/// work tree. An archive made by Git has it in a file.
fn commit() -> Option<&'static str> {
    let archived = include_str!("commit.txt").trim();
    let archived = Some(archived).filter(|commit| !commit.starts_with('$'));
    let built = option_env!("REVGATE_COMMIT").map(str::trim);
    built.filter(|commit| !commit.is_empty()).or(archived)
}

/// The version of a dependency, as it was locked.
fn locked(name: &str) -> Option<&'static str> {
    let lock = include_str!("../../Cargo.lock");
    let (_, rest) = lock.split_once(&format!("\nname = \"{name}\"\nversion = \""))?;
    rest.split('"').next()
}

/// `0.1.0 (commit 1a2b3c4d, TLS by rustls 0.23.1 and aws-lc-rs 1.2.3)`
pub(crate) static DETAILS: LazyLock<String> = LazyLock::new(|| {
    let commit = commit().unwrap_or("unknown");
    let [rustls, aws_lc] = ["rustls", "aws-lc-rs"].map(|name| locked(name).unwrap_or("unknown"));
    format!(
        "{} (commit {commit}, TLS by rustls {rustls} and aws-lc-rs {aws_lc})",
        env!("CARGO_PKG_VERSION")
    )
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tls_library_is_the_locked_one() {
        for name in ["rustls", "aws-lc-rs"] {
            let version = locked(name).unwrap();
            let mut parts = version.split('.').map(str::parse::<u32>);
            assert!(parts.all(|part| part.is_ok()), "{name} {version}");
            assert!(
                DETAILS.contains(&format!("{name} {version}")),
                "{}",
                *DETAILS
            );
        }
        assert_eq!(locked("none-of-ours"), None);
        assert!(!DETAILS.contains('$') && DETAILS.lines().count() == 1);
    }
}
