//! `revgate healthcheck`, and what else the program tells without a gateway of its own.

use std::{
    net::TcpListener,
    path::Path,
    process::{Command, Output},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    process::Process,
    rig::{self, TOKEN},
};

fn revgate(arguments: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_revgate"));
    command.args(arguments).envs(env.iter().copied());
    command.output().expect("runs")
}

fn check(file: &Path, env: &[(&str, &str)]) -> (Option<i32>, String) {
    let file = file.to_str().expect("a path");
    let output = revgate(&["healthcheck", "-c", file], env);
    assert!(output.stdout.is_empty());
    let said = String::from_utf8(output.stderr).expect("text");
    (output.status.code(), said)
}

/// A port that nobody has taken a moment ago: the check must know it from the file.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    listener.local_addr().expect("bound").port()
}

#[tokio::test]
async fn it_finds_the_admin_listener_by_file_and_environment() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("revgate.toml");
    let key = folder.path().join("key");
    std::fs::write(&key, "6b9f3a1c0d8e47b2a5c4f1e0d9b8a7c6").expect("written");
    for host in ["127.0.0.1", "0.0.0.0", "[::]"] {
        let port = free_port();
        let extra = "";
        let text = rig::file("127.0.0.1:1", extra);
        let admin = "[admin]\naddress = \"127.0.0.1:0\"\n";
        let own = format!(
            "[admin]\naddress = \"{host}:{port}\"\nkey = {{ file = \"{}\" }}\n",
            key.display()
        );
        let text = text.replace(admin, &own);
        std::fs::write(&file, &text).expect("written");
        let arguments = ["run", "-c", file.to_str().expect("a path")];
        let mut gateway = Process::start(&arguments, "info");
        gateway.bound("proxy");
        assert_eq!(check(&file, &[]), (Some(0), String::new()));
        // Whatever else becomes of the file, the gateway serves on with the old one.
        std::fs::write(&file, format!("{text}[limits]\nmax_body = \"much\"\n")).expect("written");
        assert_eq!(check(&file, &[]), (Some(0), String::new()));
        let address = format!("127.0.0.1:{port}");
        let env = [("REVGATE__ADMIN__ADDRESS", &*address)];
        std::fs::write(&file, "[admin\n").expect("written");
        assert_eq!(check(&file, &env), (Some(0), String::new()));
        let nowhere = folder.path().join("nowhere");
        assert_eq!(check(&nowhere, &env), (Some(0), String::new()));
        std::fs::write(&file, &text).expect("written");
        gateway.terminate();
        let (code, log) = gateway.end();
        assert_eq!(code, Some(0), "{log}");
        let (code, said) = check(&file, &[]);
        assert_eq!(code, Some(1), "{said}");
        assert!(
            said.contains("admin listener") && said.contains("refused"),
            "{said}"
        );
        std::fs::write(&file, "[admin\n").expect("written");
        let (code, said) = check(&file, &env);
        assert_eq!(code, Some(1));
        assert!(
            said.contains("not valid TOML") && said.contains(&address),
            "{said}"
        );
    }
}

/// Something else listens there, or nothing answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_does_not_answer_as_a_gateway_is_not_well() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("revgate.toml");
    for (answer, says) in [
        (None, "no answer within 3 s"),
        (Some(""), "closed"),
        (
            Some("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
            "another program",
        ),
        (
            Some("HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nok"),
            "503",
        ),
        (Some("+OK ready\r\n"), "not well"),
    ] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("binds");
        let address = listener.local_addr().expect("bound");
        std::fs::write(&file, format!("[admin]\naddress = \"{address}\"\n")).expect("written");
        let serving = tokio::spawn(async move {
            let mut held = Vec::<TcpStream>::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                if let Some(answer) = answer {
                    let _ = stream.read(&mut [0; 1024]).await;
                    let _ = stream.write_all(answer.as_bytes()).await;
                } else {
                    held.push(stream);
                }
            }
        });
        let asked = file.clone();
        let checked = tokio::task::spawn_blocking(move || check(&asked, &[])).await;
        let (code, said) = checked.expect("no panic");
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(says) && said.lines().count() == 1, "{said}");
        serving.abort();
    }
    std::fs::write(&file, "[admin]\naddress = \"127.0.0.1:0\"\n").expect("written");
    let (code, said) = check(&file, &[("DEVREV_TOKEN", TOKEN)]);
    assert_eq!(code, Some(1));
    assert!(said.contains("port 0"), "{said}");
}

#[test]
fn version_completions_and_manual_are_printed() {
    let printed = |arguments: &[&str]| {
        let output = revgate(arguments, &[]);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let version = printed(&["--version"]);
    let begins = format!("revgate {} (commit ", env!("CARGO_PKG_VERSION"));
    assert!(version.starts_with(&begins), "{version}");
    assert!(
        version.contains("rustls 0.") && version.contains("aws-lc-rs 1."),
        "{version}"
    );
    assert_eq!(printed(&["-V"]), version);
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = printed(&["completions", shell]);
        for word in ["healthcheck", "hash-key", "config"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
    }
    // bash itself reads it, and offers the command.
    let script = printed(&["completions", "bash"]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("revgate.bash");
    std::fs::write(&file, script).expect("written");
    let ask = ". \"$1\"; COMP_WORDS=(revgate hea); COMP_CWORD=1; _revgate revgate hea revgate; echo \"${COMPREPLY[@]}\"";
    let output = Command::new("bash")
        .args(["-c", ask, "bash", file.to_str().expect("a path")])
        .output();
    let output = output.expect("bash runs");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "healthcheck"
    );
    assert!(printed(&["man"]).starts_with(".ie \\n(.g"), "roff");
    let page = printed(&["man", "check"]);
    let title = format!(
        ".TH revgate-check 1  \"revgate {}\"",
        env!("CARGO_PKG_VERSION")
    );
    assert!(page.contains("explain") && page.contains(&title), "{page}");
}
