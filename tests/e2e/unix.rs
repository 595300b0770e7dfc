//! Unix sockets: the uid of the client, who may connect, and files at the path that the gateway did not make.

use std::{
    collections::BTreeMap,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::PathBuf,
};

use revgate::{config, serve::Gateway, simulator::Simulator};
use tokio::net::UnixStream;

use crate::{
    http::{Answer, Client, request},
    rig::{self, KEY, hash, header},
};

struct Rig {
    devrev: Simulator,
    folder: tempfile::TempDir,
}

impl Rig {
    async fn new() -> Rig {
        let devrev = rig::simulator().await;
        let folder = tempfile::tempdir().expect("a folder");
        Rig { devrev, folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("revgate.sock")
    }

    /// The uid of this process, which made the folder.
    fn uid(&self) -> u32 {
        self.folder.path().metadata().expect("it is there").uid()
    }

    fn start(&self, listen: &str, callers: &str) -> anyhow::Result<Gateway> {
        let text = format!(
            "[listen]\naddress = \"unix:{}\"\n{listen}\n[admin]\naddress = \"127.0.0.1:0\"\n\
             [upstream]\nurl = \"http://{}\"\n[tokens.user]\nenv = \"USER_TOKEN\"\n\
             [tokens.key]\nenv = \"KEY_TOKEN\"\n[tokens.any]\nenv = \"ANY_TOKEN\"\n\
             [callers.key]\nkey_sha256 = \"{}\"\ntoken = \"key\"\n{callers}\n",
            self.path().display(),
            self.devrev.addr(),
            hash(KEY),
        );
        let env = [
            ("USER_TOKEN", "user"),
            ("KEY_TOKEN", "key"),
            ("ANY_TOKEN", "any"),
        ];
        let env: BTreeMap<_, _> = env.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let config = config::from_toml(&text, &env).unwrap_or_else(|problems| panic!("{problems}"));
        Gateway::start(config, None)
    }

    async fn call(&self, key: Option<&str>) -> Answer {
        let headers: Vec<_> = key.into_iter().map(|key| ("Authorization", key)).collect();
        self.send(&headers).await
    }

    /// A client of a unix socket sends any Host.
    async fn send(&self, headers: &[(&str, &str)]) -> Answer {
        let stream = UnixStream::connect(self.path()).await.expect("connects");
        let mut client = Client::over(stream);
        let request = request("GET", "/dev-users.self", headers, "");
        let request = String::from_utf8(request).expect("text");
        client
            .send(request.replace("localhost", "any.example"))
            .await;
        client.answer().await.expect("an answer")
    }

    /// The token of the last request at the simulator.
    fn last(&self) -> Option<String> {
        let last = self.devrev.received().last().cloned()?;
        header(&last, "authorization").map(|value| value.replace("Bearer ", ""))
    }
}

#[tokio::test]
async fn a_caller_is_known_by_its_uid() {
    let rig = Rig::new().await;
    let (own, other) = (rig.uid(), rig.uid() + 1);
    let by = |uid: u32| format!("[callers.user]\nunix_uid = {uid}\ntoken = \"user\"\n");
    let anonymous = "[callers.any]\nanonymous = true\ntoken = \"any\"\n";
    for (callers, unnamed) in [
        (by(own), Ok("user")),
        (by(own) + anonymous, Ok("user")),
        (by(other), Err("unauthenticated")),
        // An unknown uid isn't a wrong credential, so the anonymous caller is next.
        (by(other) + anonymous, Ok("any")),
    ] {
        let gateway = rig.start("", &callers).expect("starts");
        let answer = rig.call(None).await;
        match unnamed {
            Ok(token) => {
                assert_eq!(answer.status, 200, "{callers}: {answer:?}");
                assert_eq!(rig.last().as_deref(), Some(token), "{callers}");
            }
            Err(code) => {
                assert_eq!((answer.status, answer.code().as_str()), (401, code));
                assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            }
        }
        // A key is checked before the uid, and a wrong key is refused whatever the uid.
        assert_eq!(rig.call(Some(KEY)).await.status, 200);
        assert_eq!(rig.last().as_deref(), Some("key"), "{callers}");
        assert_eq!(rig.call(Some("wrong")).await.status, 401, "{callers}");
        gateway.drain().await;
    }
}

#[tokio::test]
async fn a_page_behind_a_proxy_is_no_anonymous_client() {
    let rig = Rig::new().await;
    let anonymous = "[callers.any]\nanonymous = true\ntoken = \"any\"\n";
    let by_uid = format!(
        "[callers.user]\nunix_uid = {}\ntoken = \"user\"\n",
        rig.uid()
    );
    for (caller, callers, of_page) in [("any", anonymous, 403), ("user", &by_uid, 200)] {
        let gateway = rig.start("", callers).expect("starts");
        for (fields, want) in [
            (&[][..], 200),
            (&[("Origin", "http://evil.example")], of_page),
            (&[("Sec-Fetch-Site", "cross-site")], of_page),
        ] {
            let answer = rig.send(fields).await;
            assert_eq!(answer.status, want, "{callers} {fields:?}: {answer:?}");
            let fields = fields
                .iter()
                .map(|(n, value)| format!("&header={n}:{value}"));
            let question = format!(
                "/explain?request=GET+/dev-users.self&caller={caller}{}",
                fields.collect::<String>()
            );
            let explained = rig::admin(gateway.admin_address(), "GET", &question, "").await;
            let code = (want == 403).then_some("forbidden");
            assert_eq!(explained.json()["code"].as_str(), code, "{question}");
        }
        gateway.drain().await;
    }
}

#[tokio::test]
async fn the_sockets_file_has_its_mode_and_goes_with_the_gateway() {
    let rig = Rig::new().await;
    for (listen, mode) in [
        ("", 0o660),
        ("mode = \"0600\"", 0o600),
        ("workers = 2\nmode = \"0666\"", 0o666),
    ] {
        let gateway = rig.start(listen, "").expect("starts");
        let permissions = rig.path().metadata().expect("a socket").permissions();
        assert_eq!(permissions.mode() & 0o777, mode, "{listen}");
        assert_eq!(rig.call(Some(KEY)).await.status, 200);
        gateway.drain().await;
        assert!(!rig.path().exists());
    }
}

#[tokio::test]
async fn only_a_dead_socket_is_replaced() {
    let rig = Rig::new().await;
    let refused = |why: &str| {
        let error = rig.start("", "").map(drop).expect_err("refused");
        let error = format!("{error:#}");
        assert!(
            error.contains("revgate.sock") && error.contains(why),
            "{error}"
        );
    };
    std::fs::write(rig.path(), "precious").expect("written");
    refused("no socket");
    assert_eq!(std::fs::read(rig.path()).expect("there"), b"precious");
    std::fs::remove_file(rig.path()).expect("removed");
    drop(std::os::unix::net::UnixListener::bind(rig.path()).expect("bound"));
    let first = rig.start("", "").expect("a dead socket is in nobody's way");
    refused("another process serves it");
    // The refused gateway did not remove the other's socket.
    assert_eq!(rig.call(Some(KEY)).await.status, 200);
    first.drain().await;
}
