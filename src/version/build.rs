//! Tells the compiler which commit a release is built from, if it is built in a work tree of Git.

use std::{
    env,
    io::{Write, stdout},
    process::Command,
};

/// What Git prints, if it succeeds.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn main() -> std::io::Result<()> {
    let mut out = stdout();
    writeln!(out, "cargo::rerun-if-env-changed=REVGATE_COMMIT")?;
    writeln!(out, "cargo::rerun-if-changed=src/version/build.rs")?;
    // Whoever develops builds often, and not anew because of a commit.
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if env::var_os("REVGATE_COMMIT").is_some() || !is_release {
        return Ok(());
    }
    // The work tree may be a part of another project's.
    let root = git(&["rev-parse", "--show-toplevel"]);
    if root.is_none() || root != env::var("CARGO_MANIFEST_DIR").ok() {
        return Ok(());
    }
    // A commit changes the file of the branch, or that of all branches when Git packs them; a checkout changes HEAD.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        if let Some(path) = git(&["rev-parse", "--git-path", name]) {
            // Cargo runs this anew each time if there is no such file.
            if std::path::Path::new(&path).exists() {
                writeln!(out, "cargo::rerun-if-changed={path}")?;
            }
        }
    }
    match git(&["rev-parse", "--short=12", "HEAD"]) {
        Some(commit) => writeln!(out, "cargo::rustc-env=REVGATE_COMMIT={commit}"),
        None => Ok(()),
    }
}
