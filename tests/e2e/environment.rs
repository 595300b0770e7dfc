//! What the program takes from its environment and its secrets' files, and what it warns of.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::rig::hash;

/// A folder that every user can enter, with a configuration and the file of its token.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path().display();
    let text = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[tokens.main]\nfile = \"{at}/token\"\n\
         [callers.\"Shop.EU\"]\nkey_sha256 = \"{}\"\n",
        hash("key"),
    );
    fs::write(folder.path().join("revgate.toml"), text).expect("written");
    fs::write(folder.path().join("token"), "devrev-token").expect("written");
    permit(folder.path(), 0o755);
    permit(&folder.path().join("token"), 0o644);
    folder
}

fn permit(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permitted");
}

fn revgate(command: &str, folder: &tempfile::TempDir, env: &[(&str, &str)]) -> Command {
    let mut revgate = Command::new(env!("CARGO_BIN_EXE_revgate"));
    revgate
        .args(command.split(' '))
        .arg("-c")
        .arg(folder.path().join("revgate.toml"));
    revgate.envs(env.iter().copied()).stderr(Stdio::piped());
    revgate
}

fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn variables_reach_callers_with_any_name_or_say_how() {
    let folder = folder();
    let rate = [("REVGATE__CALLERS__SHOP_EU__RATE", "7/min")];
    let output = revgate("check --print", &folder, &rate)
        .output()
        .expect("runs");
    let (shown, errors) = said(&output);
    assert!(output.status.success(), "{errors}");
    assert!(
        shown.contains("[callers.\"Shop.EU\"]") && shown.contains("rate = \"7/min\""),
        "{shown}"
    );

    let unknown = [("REVGATE__CALLERS__SHOP__RATE", "7/min")];
    let output = revgate("check", &folder, &unknown).output().expect("runs");
    let (_, errors) = said(&output);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(
        errors.contains("REVGATE__CALLERS__SHOP__RATE alone (the file has `Shop.EU`;"),
        "{errors}"
    );
}

#[test]
fn what_changes_nothing_and_what_others_can_read_is_a_warning() {
    let folder = folder();
    let env = [
        ("REVGATE_LISTEN__ADDRESS", "127.0.0.1:1"),
        ("REVGATE_CONFIG", "x"),
        ("RUST_BACKTRACE", "0"),
    ];
    let above = folder.path().ancestors().skip(1);
    let is_closed = |path: &Path| path.metadata().expect("a folder").permissions().mode() & 1 == 0;
    let is_reachable = !above.into_iter().any(is_closed);
    let stray = "REVGATE_LISTEN__ADDRESS: revgate uses no variable of this name; did you mean REVGATE__LISTEN__ADDRESS?";
    let file = "tokens.main.file: every user of the machine can read the file";
    for (mode, warns) in [(0o644, is_reachable), (0o640, false)] {
        permit(&folder.path().join("token"), mode);
        let output = revgate("check", &folder, &env).output().expect("runs");
        let (_, errors) = said(&output);
        assert!(output.status.success(), "{errors}");
        assert!(errors.contains(&format!("warning: {stray}")), "{errors}");
        assert!(!errors.contains("REVGATE_CONFIG"), "{errors}");
        assert_eq!(
            errors.contains(&format!("warning: {file}")),
            warns,
            "{errors}"
        );
    }
    // The log says so at the start.
    let mut running = revgate("run", &folder, &env).spawn().expect("starts");
    let stderr = BufReader::new(running.stderr.take().expect("piped"));
    let lines = stderr.lines().map(|line| line.expect("reads"));
    let mut lines = lines.inspect(|line| assert!(!line.contains("\"ERROR\""), "{line}"));
    let warning = lines.find(|line| line.contains("REVGATE_LISTEN__ADDRESS"));
    running.kill().expect("ends");
    running.wait().expect("ended");
    let warning: serde_json::Value =
        serde_json::from_str(&warning.expect("a warning")).expect("JSON");
    assert_eq!(
        (&warning["level"], &warning["key"]),
        (&"WARN".into(), &"REVGATE_LISTEN__ADDRESS".into())
    );
}

#[test]
fn hash_key_takes_only_what_cannot_be_guessed() {
    let good = "7d8f1c0b9e34a256f7013c8ae92b645d";
    for (arguments, key, status, out, err) in [
        (&[][..], good, 0, hash(good), ""),
        (
            &[],
            "correct-horse-battery-staple",
            1,
            String::new(),
            "make one of 256 random bits: openssl rand -hex 32",
        ),
        (
            &[],
            "short",
            1,
            String::new(),
            "the key can be guessed: it has fewer than 20 characters",
        ),
        (
            &[good],
            "",
            2,
            String::new(),
            "the key is read from standard input",
        ),
        (
            &["--key", good],
            "",
            2,
            String::new(),
            "the key is read from standard input",
        ),
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_revgate"))
            .arg("hash-key")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut input = child.stdin.take().expect("piped");
        // One that refuses an argument reads nothing.
        let _ = input.write_all(key.as_bytes());
        drop(input);
        let output = child.wait_with_output().expect("ends");
        let (printed, errors) = said(&output);
        assert_eq!(
            (output.status.code(), printed.trim()),
            (Some(status), out.as_str()),
            "{errors}"
        );
        assert!(errors.contains(err), "{errors}");
        assert!(
            !errors.contains(good) && (key.is_empty() || !errors.contains(key) || key == "short"),
            "{errors}"
        );
    }
}
