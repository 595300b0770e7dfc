//! `revgate check --connect`.

use std::{fs, path::Path, process::Command};

use crate::{
    redis::{Options, Server},
    rig::{TOKEN, file},
};

const PASSWORD: &str = "7d8f1c0b9e34a256f7013c8ae92b645d";

/// The exit status, standard output and standard error.
async fn check(file: &Path, url: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_revgate"));
    command
        .args(["check", "--connect", "-c"])
        .arg(file)
        .env("DEVREV_TOKEN", TOKEN)
        .env("REDIS_URL", url);
    // The server's harness goes on meanwhile.
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.expect("no panic").expect("runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[tokio::test]
async fn check_connect_tries_redis_and_says_what_it_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("revgate.toml");
    let shared = "[shared]\nredis = { env = \"REDIS_URL\" }\ntimeout = \"1s\"\n";
    fs::write(&path, file("127.0.0.1:1", shared)).expect("written");
    let user = format!("user gate on >{PASSWORD} ~* &* +@all");
    let mut server = Server::with(Options::new().line(user)).await;
    let at = server.address();
    let url = format!("redis://gate:{PASSWORD}@{at}");

    let (status, out, err) = check(&path, &url).await;
    assert_eq!((status, &*err), (Some(0), ""), "{out}");
    let lines: Vec<_> = out.lines().collect();
    assert!(
        lines[0].starts_with(&format!("shared: redis://{at} is Redis ")),
        "{out}"
    );
    assert_eq!(
        lines[1],
        "shared: values can be exchanged, and hints are heard"
    );
    assert!(lines[5].starts_with("ok: ") && lines.len() == 6, "{out}");

    server.call(&["CONFIG", "SET", "maxmemory", "64mb"]).await;
    server
        .call(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"])
        .await;
    let (status, out, err) = check(&path, &url).await;
    assert_eq!(status, Some(0), "{err}");
    let line = err.lines().last().unwrap_or("");
    assert!(
        line.starts_with(&path.display().to_string())
            && line
                .contains(": warning: shared.redis: the server's maxmemory-policy is allkeys-lru"),
        "{err}"
    );
    assert!(out.ends_with(", 1 warning"), "{out}");

    server.kill();
    let (status, out, err) = check(&path, &url).await;
    assert_eq!((status, &*out), (Some(1), ""), "{err}");
    assert!(
        err.starts_with(&path.display().to_string())
            && err.contains(&format!(": shared.redis: redis://{at} cannot be reached ("))
            && !err.contains(PASSWORD),
        "{err}"
    );

    fs::write(&path, file("127.0.0.1:1", "")).expect("written");
    let (status, out, err) = check(&path, &url).await;
    assert_eq!((status, &*err), (Some(0), ""));
    assert!(
        out.starts_with("shared: not configured, so no Redis is used\nok: "),
        "{out}"
    );
}
