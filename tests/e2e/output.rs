//! Standard output and standard error that nobody reads, because the reader has closed them.

use std::{
    collections::BTreeSet,
    io::{Read, pipe},
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::{
    http::{exchange, get},
    process::Process,
    rig::{self, KEY, TOKEN},
};

/// A pipe whose reader has gone.
fn closed() -> Stdio {
    let (reader, writer) = pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

fn revgate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_revgate"));
    command
        .args(arguments)
        .env("DEVREV_TOKEN", TOKEN)
        .stdin(Stdio::null());
    command
}

fn gateway_file(folder: &Path, extra: &str) -> String {
    let file = folder.join("revgate.toml");
    std::fs::write(&file, rig::file("127.0.0.1:1", extra)).expect("written");
    file.to_str().expect("a path").to_owned()
}

/// The names of all commands, as the help lists them.
fn commands() -> BTreeSet<String> {
    let help = revgate(&["--help"]).output().expect("runs").stdout;
    let help = String::from_utf8(help).expect("text");
    let (_, list) = help.split_once("Commands:\n").expect("a list of commands");
    let rows = list.lines().take_while(|line| line.starts_with("  "));
    let names = rows.filter_map(|row| row.split_whitespace().next());
    names.map(str::to_owned).collect()
}

/// Ends a command that serves once it says that it listens, and returns how it ended and what it said.
fn finish(mut child: Child, serves: bool) -> (Option<i32>, String) {
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        let mut part = [0; 4096];
        while serves && said.matches("\"listening\"").count() < 2 {
            let read = stderr.read(&mut part).expect("reads");
            assert!(read > 0, "ended: {said}");
            said += &String::from_utf8_lossy(&part[..read]);
        }
        if serves {
            terminate(&child);
        }
        stderr.read_to_string(&mut said).expect("reads");
    } else if let Some(mut stdout) = child.stdout.take() {
        let mut part = [0; 4096];
        // What serves says something on standard output, or nothing until it is told to end.
        if serves {
            let read = stdout.read(&mut part).expect("reads");
            said += &String::from_utf8_lossy(&part[..read]);
            terminate(&child);
        }
        stdout.read_to_string(&mut said).expect("reads");
    }
    (child.wait().expect("ends").code(), said)
}

fn terminate(child: &Child) {
    let kill = Command::new("kill").arg(child.id().to_string()).status();
    assert!(kill.expect("kill runs").success());
}

#[test]
fn no_command_panics_when_nobody_reads() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = gateway_file(folder.path(), "");
    // With a warning, which goes to standard error.
    let folder = tempfile::tempdir().expect("a folder");
    let warned = gateway_file(folder.path(), "[limits]\nmax_buffered = \"1KiB\"\n");
    let explain = "GET /works.list";
    let rows: &[(&[&str], i32)] = &[
        (&["--help"], 0),
        (&["--version"], 0),
        (&["help"], 0),
        (&["help", "check"], 0),
        (&["run", "--help"], 0),
        (&["run", "-c", "/nonexistent"], 1),
        (&["check", "-c", &good], 0),
        (&["check", "-c", &warned], 0),
        (&["check", "-c", "/nonexistent"], 1),
        (&["check", "-c", &good, "--explain", explain], 1),
        (
            &[
                "check",
                "-c",
                &good,
                "--explain",
                explain,
                "--caller",
                "billing",
            ],
            0,
        ),
        (&["check", "-c", &good, "--explain", explain, "--json"], 1),
        (&["check", "-c", &good, "--explain", "?"], 2),
        (&["schema"], 0),
        (&["hash-key"], 1),
        (&["healthcheck", "-c", &good], 1),
        (&["completions", "bash"], 0),
        (&["completions", "csh"], 2),
        (&["man"], 0),
        (&["man", "run"], 0),
        (&["man", "walk"], 2),
        (&["mock", "--listen", "192.0.2.1:0"], 1),
        (&["demo"], 0),
        (&["walk"], 2),
        (&[], 2),
    ];
    let tried: BTreeSet<_> = rows.iter().filter_map(|(row, _)| row.first()).collect();
    for command in commands() {
        assert!(tried.contains(&command.as_str()), "no row for {command}");
    }
    for (arguments, code) in rows {
        let serves = arguments == &["demo"];
        let child = revgate(arguments)
            .stdout(closed())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let (ended, said) = finish(child, serves);
        assert_eq!(ended, Some(*code), "{arguments:?} > closed: {said}");
        assert!(!said.contains("panicked"), "{arguments:?}: {said}");
        let child = revgate(arguments)
            .stdout(Stdio::piped())
            .stderr(closed())
            .spawn()
            .expect("starts");
        let (ended, said) = finish(child, serves);
        assert_eq!(ended, Some(*code), "{arguments:?} 2> closed: {said}");
    }
}

#[test]
fn what_cannot_be_written_for_another_reason_is_an_error() {
    let full = || std::fs::File::create("/dev/full").expect("a device");
    let output = revgate(&["schema"]).stdout(full()).output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("standard output cannot be written"), "{said}");
}

#[tokio::test]
async fn a_gateway_serves_on_when_nobody_reads() {
    let devrev = rig::simulator().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("revgate.toml");
    let text = rig::file(&devrev.addr().to_string(), "[log]\naccess = \"all\"\n");
    std::fs::write(&file, text).expect("written");
    let mut gateway = Process::start(&["run", "-c", file.to_str().expect("a path")], "debug");
    let (admin, address) = (gateway.bound("admin"), gateway.bound("proxy"));
    gateway.close();
    for _ in 0..3 {
        let answer = exchange(address, get("/dev-users.self", KEY)).await;
        assert_eq!(answer.status, 200);
        let answer = rig::admin(admin, "POST", "/reload", "").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let answer = exchange(admin, b"GET /readyz HTTP/1.0\r\n\r\n").await;
    assert_eq!(answer.status, 200);
    gateway.terminate();
    assert_eq!(gateway.child.wait().expect("ends").code(), Some(0));
}
