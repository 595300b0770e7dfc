//! What an operator reads about a mistake: from each command, and from a reload.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::{
    process::Process,
    rig::{self, TOKEN, hash},
};

const SECRET: &str = "7d8f1c0b9e34a256f7013c8ae92b645d";

fn revgate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_revgate"));
    command
        .args(arguments)
        .env("DEVREV_TOKEN", TOKEN)
        .stdin(Stdio::null());
    command
}

/// The exit status, standard output and standard error.
fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

fn check(file: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let file = file.to_str().expect("a path");
    let all = [&["check", "-c", file], arguments].concat();
    said(&revgate(&all).output().expect("runs"))
}

/// A valid file of seven lines, and what follows in it.
fn file(more: &str) -> String {
    format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n[tokens.main]\nenv = \"DEVREV_TOKEN\"\n[callers.billing]\nkey_sha256 = \"{}\"\nweight = 2\n{more}",
        hash("key")
    )
}

#[test]
fn a_good_file_is_one_line_and_the_whole_on_demand() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("revgate.toml");
    let at = path.display();
    fs::write(&path, file("")).expect("written");
    let ok = format!("ok: {at}, 1 caller, 0 warnings");
    assert_eq!(check(&path, &[]), (Some(0), ok, String::new()));

    fs::write(&path, file("deny = [\n  \"work.delete\",\n]\n")).expect("written");
    let ok = format!("ok: {at}, 1 caller, 1 warning");
    let warning = format!(
        "{at}:9:3: warning: callers.billing.deny[0]: \"work.delete\" matches no known operation of DevRev, so it may do nothing; did you mean `works.delete`?"
    );
    assert_eq!(check(&path, &[]), (Some(0), ok, warning.clone()));

    let (code, printed, errors) = check(&path, &["--print"]);
    assert_eq!((code, errors), (Some(0), warning));
    assert!(
        printed.contains("[callers.billing]") && !printed.contains("ok:"),
        "{printed}"
    );
    fs::write(&path, &printed).expect("written");
    assert_eq!(check(&path, &["--print"]).1, printed);

    let (code, _, errors) = check(&path, &["--print", "--explain", "GET /works.list"]);
    assert_eq!(code, Some(2), "{errors}");
}

#[test]
fn a_bad_file_is_all_its_problems_with_their_places() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("revgate.toml");
    let at = path.display();
    let token = folder.path().join("token");
    for (more, want) in [
        (
            format!("rate = \"50/x\"\nkye = \"{SECRET}\"\n[tokens.other]\nfile = {token:?}\n[limits]\nmax_body = \"1XB\"\n"),
            vec![
                "8:8: callers.billing.rate: \"50/x\" is not valid; write a rate such as \"50/s\", \"600/min\" or \"1000/h\", above zero".to_owned(),
                "9:1: callers.billing.kye: unknown key; did you mean `key`?".to_owned(),
                format!("11:8: tokens.other.file: {token:?} cannot be read (there is no such file); create it or correct the path"),
                "13:12: limits.max_body: \"1XB\" is not valid; write a size such as \"64KiB\", \"1MiB\" or \"10MB\", or a number of bytes".to_owned(),
            ],
        ),
        (
            "rate = \"50/s\nburst = 3\n".to_owned(),
            vec!["8:13: is not valid TOML: invalid basic string, expected `\"`\n  |\n8 | rate = \"50/s\n  |             ^".to_owned()],
        ),
        (
            format!("key = {SECRET}\n"),
            vec!["8:8: is not valid TOML: invalid float, expected nothing; write text in quotes\n  |\n8 | key = …\n  |       ^".to_owned()],
        ),
    ] {
        fs::write(&path, file(&more)).expect("written");
        let (code, printed, errors) = check(&path, &[]);
        let mut want: Vec<_> = want.iter().map(|problem| format!("{at}:{problem}")).collect();
        if more.contains("tokens.other") {
            // In the order of the file.
            want.insert(0, format!("{at}:5:10: callers.billing.token: is required because there are several tokens; write one of `main`, `other`"));
        }
        assert_eq!((code, printed, errors), (Some(1), String::new(), want.join("\n")), "{more}");
        let run = revgate(&["run", "-c", path.to_str().expect("a path")]).output();
        assert_eq!(said(&run.expect("runs")).2, want.join("\n"), "run says the same");
    }
}

#[test]
fn what_is_no_text_or_no_file_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("revgate.toml");
    let at = path.display();
    let (code, _, errors) = check(&path, &[]);
    let want = format!(
        "{at}: cannot be read: No such file or directory (os error 2); name the file with -c or in REVGATE_CONFIG"
    );
    assert_eq!((code, errors), (Some(1), want));
    let (code, _, errors) = check(folder.path(), &[]);
    assert!(
        errors.contains("cannot be read: Is a directory"),
        "{errors}"
    );
    assert_eq!(code, Some(1));
    let mut bytes = file("# ").into_bytes();
    bytes.extend(b"\xff\n");
    fs::write(&path, bytes).expect("written");
    let want = format!("{at}:8:3: is not UTF-8 text from here on; store the file in this encoding");
    assert_eq!(check(&path, &[]).2, want);
    let (code, _, errors) = check(Path::new("/dev/zero"), &[]);
    assert_eq!(
        (code, errors.as_str()),
        (
            Some(1),
            "/dev/zero: is larger than 8 MiB; name the configuration file"
        )
    );

    // Variables: one that overrides, and one that is referred to.
    fs::write(
        &path,
        file("[callers.sync]\nkey = { env = \"SYNC_KEY\" }\n"),
    )
    .expect("written");
    let mut command = revgate(&["check", "-c", path.to_str().expect("a path")]);
    command
        .env("SYNC_KEY", OsStr::from_bytes(b"\xff"))
        .env("REVGATE__CALLERS__BILLING__RATE", "fast")
        .env("REVGATE__RETRY__BUDGET", OsStr::from_bytes(b"1\xff"));
    let (code, _, errors) = said(&command.output().expect("runs"));
    let want = [
        "REVGATE__CALLERS__BILLING__RATE: callers.billing.rate: \"fast\" is not valid; write a rate such as \"50/s\", \"600/min\" or \"1000/h\", above zero".to_owned(),
        format!("{at}:9:7: callers.sync.key: SYNC_KEY is not text; store the secret in it as it is"),
        "REVGATE__RETRY__BUDGET: is not UTF-8 text, so it overrides nothing; correct its value, or unset it".to_owned(),
    ];
    assert_eq!((code, errors), (Some(1), want.join("\n")));
}

#[tokio::test]
async fn a_reload_logs_the_same_facts() {
    let devrev = rig::simulator().await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("revgate.toml");
    let at = path.to_str().expect("a path");
    let text = |more: &str| rig::file(&devrev.addr().to_string(), more);
    fs::write(&path, text("")).expect("written");
    let lines = text("").trim_end().lines().count();
    let mut gateway = Process::start(&["run", "-c", at], "info");
    let admin = gateway.bound("admin");
    gateway.bound("proxy");
    for (more, key, found, line, column, problem) in [
        (
            "[limits]\nmax_body = \"1XB\"\n",
            "limits.max_body",
            "\"1XB\"",
            2,
            12,
            "\"1XB\" is not valid; write a size",
        ),
        (
            "[tokens.x]\nenv = \"NO_SUCH\"\n",
            "tokens.x.env",
            "NO_SUCH",
            2,
            7,
            "NO_SUCH is not set in the environment; set it",
        ),
    ] {
        fs::write(&path, text(more)).expect("written");
        gateway.signal("-HUP");
        let said =
            gateway.line(|line| line["message"] == "configuration refused" && line["key"] == key);
        assert_eq!(
            (&said["level"], &said["file"], &said["found"]),
            (&"ERROR".into(), &at.into(), &found.into()),
            "{said}"
        );
        assert_eq!(
            (&said["line"], &said["column"]),
            (&(lines + line).into(), &column.into()),
            "{said}"
        );
        assert!(
            said["problem"].as_str().expect("text").starts_with(problem),
            "{said}"
        );
    }
    fs::write(&path, text("[limits]\nmax_body = 1XB\n")).expect("written");
    gateway.signal("-HUP");
    let said = gateway
        .line(|line| line["message"] == "configuration refused" && line["excerpt"].is_string());
    assert_eq!(
        (&said["line"], &said["column"]),
        (&(lines + 2).into(), &12.into()),
        "{said}"
    );
    assert!(
        said["excerpt"]
            .as_str()
            .expect("text")
            .contains("max_body = 1XB"),
        "{said}"
    );
    let report = rig::admin(admin, "GET", "/status", "").await.json()["reload"].clone();
    assert_eq!(report["problems"][0]["line"], lines + 2, "{report}");
    // A warning has the same form.
    fs::write(&path, text("[retry]\nbackoff = { max = \"1h\" }\n")).expect("written");
    gateway.signal("-HUP");
    let said = gateway.line(|line| line["key"] == "retry.backoff.max");
    assert_eq!(
        (&said["level"], &said["line"], &said["found"]),
        (&"WARN".into(), &(lines + 2).into(), &"\"1h\"".into()),
        "{said}"
    );
    assert!(
        said["message"]
            .as_str()
            .expect("text")
            .starts_with("\"1h\" is longer than DevRev's window"),
        "{said}"
    );
    gateway.terminate();
    assert_eq!(gateway.end().0, Some(0));
}

#[test]
fn mock_and_hash_key_fail_as_clearly() {
    let folder = tempfile::tempdir().expect("a folder");
    let plan = folder.path().join("plan.toml");
    let at = plan.to_str().expect("a path");
    for (listen, says) in [
        (
            "8081",
            "write an IP address and a port, such as 127.0.0.1:8081",
        ),
        ("localhost:8081", "write an IP address and a port"),
        ("127.0.0.1:70000", "write an IP address and a port"),
    ] {
        let (code, _, errors) = said(
            &revgate(&["mock", "--listen", listen])
                .output()
                .expect("runs"),
        );
        assert_eq!(code, Some(2), "{errors}");
        assert!(
            errors.contains("--listen") && errors.contains(listen) && errors.contains(says),
            "{errors}"
        );
    }
    for (text, says) in [
        (
            "[[rule]]\nfault = \"reset\"\ntims = 1\n",
            ":3:1: unknown field `tims`, expected one of ",
        ),
        ("[[rule]\n", ":1:8: unclosed array table"),
    ] {
        fs::write(&plan, text).expect("written");
        let (code, _, errors) = said(&revgate(&["mock", "--plan", at]).output().expect("runs"));
        assert_eq!(code, Some(1), "{errors}");
        assert!(errors.contains(&format!("{at}{says}")), "{errors}");
    }
    let missing = revgate(&["mock", "--plan", "/nonexistent/plan"]).output();
    let (code, _, errors) = said(&missing.expect("runs"));
    assert_eq!(code, Some(1), "{errors}");
    assert!(
        errors.contains("--plan /nonexistent/plan cannot be read: No such file"),
        "{errors}"
    );

    // The near end of a pseudo-terminal is one too.
    let terminal = fs::File::options().read(true).write(true).open("/dev/ptmx");
    let output = revgate(&["hash-key"])
        .stdin(terminal.expect("opens"))
        .output();
    let (code, _, errors) = said(&output.expect("runs"));
    assert_eq!(code, Some(2), "{errors}");
    assert!(
        errors.contains("which is a terminal") && errors.contains("pipe it in"),
        "{errors}"
    );
    let output = revgate(&["hash-key"]).output();
    let (code, _, errors) = said(&output.expect("runs"));
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("the key is empty; pipe it in"), "{errors}");
}
