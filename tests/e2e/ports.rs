//! Ports and paths that another process has.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    http::{exchange, get},
    process::Process,
    rig::{self, KEY, TOKEN},
};

struct Files {
    folder: tempfile::TempDir,
    text: String,
}

impl Files {
    fn new(upstream: SocketAddr) -> Files {
        Files {
            folder: tempfile::tempdir().expect("a folder"),
            text: rig::file(&upstream.to_string(), ""),
        }
    }

    /// A file with these addresses and workers.
    fn write(&self, listen: &str, admin: &str, workers: usize) -> PathBuf {
        let of = |section: &str, address: &str| format!("[{section}]\naddress = \"{address}\"");
        let any = "127.0.0.1:0";
        let listen = format!("{}\nworkers = {workers}", of("listen", listen));
        let text = self.text.replace(&of("listen", any), &listen);
        let text = text.replace(&of("admin", any), &of("admin", admin));
        let path = self.folder.path().join("revgate.toml");
        std::fs::write(&path, text).expect("written");
        path
    }
}

fn run(file: &Path) -> Process {
    Process::start(&["run", "-c", file.to_str().expect("a path")], "info")
}

/// It ends with 1, and says so.
fn refused(file: &Path, says: &[&str]) {
    let (code, log) = run(file).end();
    assert_eq!(code, Some(1), "{log}");
    for part in says {
        assert!(log.contains(part), "no {part:?} in {log}");
    }
    assert!(!log.contains("panicked"), "{log}");
}

#[tokio::test]
async fn a_port_of_another_process_ends_the_start_with_its_name() {
    let devrev = rig::simulator().await;
    let files = Files::new(devrev.addr());
    let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = taken.local_addr().expect("an address").to_string();
    let any = "127.0.0.1:0";
    let stop = "another process listens there; stop it";
    for workers in [1, 2] {
        refused(
            &files.write(&address, any, workers),
            &["listen.address", &address, stop],
        );
        refused(
            &files.write(any, &address, workers),
            &["admin.address", &address, stop],
        );
    }
    let (code, log) = Process::start(&["mock", "--listen", &address], "info").end();
    assert_eq!(code, Some(1), "{log}");
    assert!(
        log.contains("--listen") && log.contains(&address) && log.contains(stop),
        "{log}"
    );
}

#[tokio::test]
async fn a_second_gateway_on_the_port_ends_and_the_first_serves_on() {
    let devrev = rig::simulator().await;
    let files = Files::new(devrev.addr());
    let socket = files.folder.path().join("revgate.sock");
    let socket = format!("unix:{}", socket.display());
    for workers in [1, 2] {
        let mut first = run(&files.write("127.0.0.1:0", "127.0.0.1:0", workers));
        let address = first.bound("proxy");
        for second in [1, 2] {
            let everywhere = format!("0.0.0.0:{}", address.port());
            for taken in [address.to_string(), everywhere] {
                let file = files.write(&taken, "127.0.0.1:0", second);
                refused(&file, &["listen.address", &taken]);
            }
        }
        for _ in 0..10 {
            let answer = exchange(address, get("/dev-users.self", KEY)).await;
            assert_eq!(answer.status, 200);
        }
        // The same for a unix socket.
        let mut first = run(&files.write(&socket, "127.0.0.1:0", workers));
        first.line(|line| line["message"] == "listening" && line["listener"] == "proxy");
        let file = files.write(&socket, "127.0.0.1:0", workers);
        refused(&file, &["listen.address", &socket, "another process"]);
    }
}

#[tokio::test]
async fn one_port_for_both_listeners_is_a_problem_of_the_file() {
    let devrev = rig::simulator().await;
    let files = Files::new(devrev.addr());
    for (listen, admin) in [
        ("127.0.0.1:18080", "127.0.0.1:18080"),
        ("0.0.0.0:18080", "127.0.0.1:18080"),
        ("[::]:18080", "127.0.0.1:18080"),
    ] {
        let file = files.write(listen, admin, 1);
        let problem = format!("admin.address: \"{admin}\" takes the port of listen.address");
        refused(&file, &[&problem]);
        let check = Command::new(env!("CARGO_BIN_EXE_revgate"))
            .args(["check", "-c", file.to_str().expect("a path")])
            .env("DEVREV_TOKEN", TOKEN)
            .output()
            .expect("runs");
        let said = String::from_utf8_lossy(&check.stderr).into_owned();
        assert_eq!(check.status.code(), Some(1), "{said}");
        assert!(said.contains(&problem), "{said}");
    }
}
