//! `upstream.proxy`: everything that goes through it, and what comes of a proxy that does not do its part.

use std::{
    collections::HashMap,
    net::SocketAddr,
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use revgate::{config, serve::Gateway};
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    http::{exchange, get},
    issuer::Issuer,
    jwt,
    process::Process,
    rig::{self, KEY, TOKEN, hash},
    wire::terminator_of,
};

const PASSWORD: &str = "proxy-password-0005";
/// `revgate:proxy-password-0005` in base64.
const BASIC: &str = "Basic cmV2Z2F0ZTpwcm94eS1wYXNzd29yZC0wMDA1";

/// What the proxy does with each request.
#[derive(Clone)]
enum Does {
    Tunnels,
    /// Tunnels for these credentials, else answers 407.
    Wants(&'static str),
    /// Answers with these bytes and closes.
    Says(&'static str),
    /// Answers with the first bytes, and then with the second ones again and again.
    Repeats(&'static str, &'static str),
    /// Sends a part of an answer and no more.
    Stalls,
}

/// An HTTP proxy that knows CONNECT alone.
struct Proxy {
    address: SocketAddr,
    /// The heads of all requests.
    asked: Arc<Mutex<Vec<String>>>,
    /// Where a host and a port lead, if not to themselves.
    names: Arc<Mutex<HashMap<String, SocketAddr>>>,
}

impl Proxy {
    async fn new(does: Does) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let proxy = Proxy {
            address: listener.local_addr().expect("bound"),
            asked: Arc::default(),
            names: Arc::default(),
        };
        let (asked, names) = (proxy.asked.clone(), proxy.names.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, does.clone(), asked.clone(), names.clone()));
            }
        });
        proxy
    }

    fn leads(&self, name: &str, address: SocketAddr) {
        let mut names = self.names.lock().unwrap();
        names.insert(name.to_owned(), address);
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    does: Does,
    asked: Arc<Mutex<Vec<String>>>,
    names: Arc<Mutex<HashMap<String, SocketAddr>>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else {
            return;
        };
        head.push(byte);
    }
    let head = String::from_utf8(head).expect("text");
    asked.lock().unwrap().push(head.clone());
    let is_welcome = match does {
        Does::Tunnels => true,
        Does::Wants(credentials) => {
            head.contains(&format!("\r\nproxy-authorization: {credentials}\r\n"))
        }
        // revgate may close before it has read all.
        Does::Says(bytes) => return drop(stream.write_all(bytes.as_bytes()).await),
        Does::Repeats(first, bytes) => {
            let _ = stream.write_all(first.as_bytes()).await;
            while stream.write_all(bytes.as_bytes()).await.is_ok() {}
            return;
        }
        Does::Stalls => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nProxy-").await;
            let _ = stream.read_u8().await;
            return;
        }
    };
    if !is_welcome {
        let refusal = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 3\r\n\r\nno\n";
        return drop(stream.write_all(refusal.as_bytes()).await);
    }
    let target = head.strip_prefix("CONNECT ").expect("CONNECT alone");
    let target = target.split(' ').next().unwrap_or_default().to_owned();
    let named = names.lock().unwrap().get(&target).copied();
    let upstream = match named {
        Some(address) => TcpStream::connect(address).await,
        None => TcpStream::connect(&target).await,
    };
    let Ok(mut upstream) = upstream else {
        return drop(stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await);
    };
    let established = b"HTTP/1.1 200 Connection established\r\n\r\n";
    if stream.write_all(established).await.is_ok() {
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut upstream).await;
    }
}

/// A gateway's configuration with this upstream, and more keys of `[upstream]`.
fn file(url: &str, proxy: SocketAddr, upstream: &str, more: &str) -> String {
    format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [upstream]\nurl = \"{url}\"\nproxy = \"http://{proxy}\"\n{upstream}\n\
         [retry]\nmax_attempts = 1\n[tokens.main]\nenv = \"DEVREV_TOKEN\"\n\
         [callers.billing]\nkey_sha256 = \"{}\"\nrate = \"1000/s\"\nburst = 1000\n{more}\n",
        hash(KEY)
    )
}

fn start(text: &str) -> Gateway {
    rig::start(text, &[("DEVREV_TOKEN", TOKEN)])
}

async fn call(gateway: &Gateway) -> crate::http::Answer {
    exchange(gateway.address().expect("TCP"), get("/works.list", KEY)).await
}

#[tokio::test]
async fn calls_go_through_the_proxy_in_every_protocol() {
    for (host, alpn, keys, version) in [
        ("127.0.0.1", None, "", "HTTP/1.1"),
        ("127.0.0.1", None, "http2 = \"always\"", "HTTP/2.0"),
        // No resolver knows this name, so it is the proxy that looks it up. The certificate is verified for it.
        ("devrev.invalid", Some(&b"h2"[..]), "", "HTTP/2.0"),
        ("devrev.invalid", Some(b"http/1.1"), "", "HTTP/1.1"),
    ] {
        for workers in [1, 2] {
            let devrev = rig::simulator().await;
            let proxy = Proxy::new(Does::Tunnels).await;
            let more = format!("[listen]\nworkers = {workers}\n");
            let (scheme, port, roots) = match alpn {
                None => ("http", devrev.addr().port(), None),
                Some(alpn) => {
                    let (port, roots) = terminator_of(host, devrev.addr(), &[alpn]).await;
                    proxy.leads("devrev.invalid:443", ([127, 0, 0, 1], port).into());
                    ("https", 443, Some(roots))
                }
            };
            let roots = roots.as_ref().map(NamedTempFile::path);
            let roots = roots.map(|path| format!("\nroots = {{ file = {path:?} }}"));
            let keys = format!("{keys}{}", roots.unwrap_or_default());
            let url = format!("{scheme}://{host}:{port}");
            let text = file(&url, proxy.address, &keys, "");
            let text = text.replacen("[listen]\n", &more, 1);
            let gateway = start(&text);
            for _ in 0..5 {
                assert_eq!(call(&gateway).await.status, 200, "{url} {keys}");
            }
            let sent = devrev.received();
            assert_eq!(
                (sent.len(), sent[0].version.as_str()),
                (5, version),
                "{url}"
            );
            for one in &sent {
                assert_eq!(rig::header(one, "proxy-authorization"), None);
            }
            let asked = proxy.asked();
            // Tunnels are kept and used again.
            assert!((1..=workers).contains(&asked.len()), "{asked:?}");
            for head in asked {
                let target = format!("{host}:{port}");
                let want = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n");
                assert_eq!(head, want);
            }
        }
    }
}

#[tokio::test]
async fn the_proxys_credentials_are_those_of_the_latest_reload() {
    let devrev = rig::simulator().await;
    let proxy = Proxy::new(Does::Wants(BASIC)).await;
    let secret = NamedTempFile::new().expect("a file");
    let write = |password: &str| {
        std::fs::write(secret.path(), format!("revgate:{password}\n")).expect("written");
    };
    write("an-old-one");
    let keys = format!("proxy_credentials = {{ file = {:?} }}", secret.path());
    let url = format!("http://{}", devrev.addr());
    let text = file(&url, proxy.address, &keys, "");
    let text = text.replace("env = \"DEVREV_TOKEN\"", "file = \"TOKEN\"");
    let (config, token) = (
        NamedTempFile::new().expect("a file"),
        NamedTempFile::new().expect("a file"),
    );
    std::fs::write(token.path(), TOKEN).expect("written");
    let token = token.path().to_str().expect("a path");
    std::fs::write(config.path(), text.replace("TOKEN", token)).expect("written");
    let gateway = rig::watching(config.path());
    let answer = call(&gateway).await;
    assert_eq!(
        (answer.status, &*answer.code()),
        (502, "upstream_unreachable")
    );
    write(PASSWORD);
    let admin = gateway.admin_address();
    let report = rig::admin(admin, "POST", "/reload", "{}").await;
    assert_eq!(
        report.json()["changed"][0],
        "upstream.proxy_credentials",
        "{report:?}"
    );
    assert_eq!(call(&gateway).await.status, 200);
    let shown = rig::admin(admin, "GET", "/config", "").await.json();
    assert_eq!(
        shown["upstream"]["proxy"],
        format!("http://{}", proxy.address)
    );
    let path = secret.path().to_str().expect("a path");
    assert_eq!(shown["upstream"]["proxy_credentials"]["file"], path);
    assert!(!shown.to_string().contains(PASSWORD));
    let sent = devrev.received();
    assert!(
        sent.iter()
            .all(|one| rig::header(one, "proxy-authorization").is_none())
    );
    // Another proxy needs a restart. Its credentials must not go to this one meanwhile.
    let text = std::fs::read_to_string(config.path()).expect("text");
    let other = text.replace(&proxy.address.to_string(), "proxy.invalid:3128");
    std::fs::write(config.path(), other).expect("written");
    write("of-the-other-proxy");
    let report = rig::admin(admin, "POST", "/reload", "{}").await.json();
    let kept = ["upstream.proxy", "upstream.proxy_credentials"];
    assert_eq!(
        report["restart_needed"],
        serde_json::json!(kept),
        "{report}"
    );
    assert_eq!(call(&gateway).await.status, 200);
    let heads = proxy.asked();
    assert!(
        heads.last().is_some_and(|head| head.contains(BASIC)),
        "{heads:?}"
    );
}

#[tokio::test]
async fn a_proxy_that_does_not_do_its_part_is_named_in_the_log() {
    const REFUSED: &str = "HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nno way";
    for (does, want) in [
        (Does::Wants(BASIC), "it answered 407: it wants credentials"),
        (Does::Says(REFUSED), "it answered 403 Forbidden"),
        (
            Does::Says("HTTP/1.1 502 Bad Gateway\r\n\r\n"),
            "it answered 502",
        ),
        (
            Does::Says("220 smtp.example ESMTP\r\n"),
            "its answer is not HTTP",
        ),
        (Does::Says(""), "it closed the connection without an answer"),
        (
            Does::Says("HTTP/1.1 200 OK\r\n\r\n"),
            "TLS with devrev.invalid:443 failed",
        ),
        (
            Does::Says("HTTP/1.1 200 OK\r\n\r\nnot TLS"),
            "TLS with devrev.invalid:443 failed",
        ),
        (
            Does::Repeats("HTTP/1.1 200 OK\r\n", "X-Filler: yes\r\n"),
            "its answer is longer than 8192 bytes",
        ),
        (
            Does::Repeats("", "HTTP/1.1 102 Processing\r\n\r\n"),
            "took too long",
        ),
        (Does::Stalls, "took too long"),
    ] {
        let proxy = Proxy::new(does).await;
        let text = file(
            "https://devrev.invalid",
            proxy.address,
            "connect_timeout = \"500ms\"",
            "",
        );
        let config = NamedTempFile::new().expect("a file");
        std::fs::write(config.path(), text).expect("written");
        let path = config.path().to_str().expect("a path");
        let mut gateway = Process::start(&["run", "-c", path], "info");
        let address = gateway.bound("proxy");
        let start = Instant::now();
        let answer = exchange(address, get("/works.list", KEY)).await;
        // connect_timeout, and plenty for a busy machine.
        assert!(start.elapsed() < Duration::from_secs(5), "{want}");
        assert_eq!(
            (answer.status, &*answer.code()),
            (502, "upstream_unreachable"),
            "{want}"
        );
        let line = gateway.says("DevRev cannot be reached");
        let error = line["error"].as_str().expect("an error");
        assert!(error.contains(want), "{want}: {error}");
        let step = error.starts_with("TLS with ")
            || error.contains(&format!("through the proxy http://{} ", proxy.address));
        assert!(step, "{error}");
        assert_eq!(line["level"], "WARN");
        let asked = proxy.asked();
        assert!(asked.len() == 1 && !asked[0].contains(TOKEN), "{asked:?}");
    }
}

#[tokio::test]
async fn at_trace_level_the_proxys_credentials_are_not_shown() {
    let devrev = rig::simulator().await;
    let proxy = Proxy::new(Does::Wants(BASIC)).await;
    let secret = NamedTempFile::new().expect("a file");
    std::fs::write(secret.path(), format!("revgate:{PASSWORD}")).expect("written");
    let keys = format!("proxy_credentials = {{ file = {:?} }}", secret.path());
    let url = format!("http://{}", devrev.addr());
    let config = NamedTempFile::new().expect("a file");
    std::fs::write(config.path(), file(&url, proxy.address, &keys, "")).expect("written");
    let path = config.path().to_str().expect("a path");
    let mut gateway = Process::start(&["run", "-c", path], "trace");
    let admin = gateway.bound("admin");
    let address = gateway.bound("proxy");
    assert_eq!(exchange(address, get("/works.list", KEY)).await.status, 200);
    let mut seen = String::new();
    for path in [
        "/config",
        "/status",
        "/metrics",
        "/explain?method=GET&path=/works.list&caller=billing",
    ] {
        seen += &rig::admin(admin, "GET", path, "").await.text();
    }
    gateway.terminate();
    let (code, log) = gateway.end();
    assert_eq!(code, Some(0), "{log}");
    seen += &log;
    assert!(
        seen.contains(&format!("http://{}", proxy.address)),
        "{seen}"
    );
    for secret in [PASSWORD, &BASIC["Basic ".len()..]] {
        assert!(!seen.contains(secret), "shows {secret}");
    }
}

#[tokio::test]
async fn an_issuers_keys_come_through_the_proxy() {
    let devrev = rig::simulator().await;
    let issuer = Issuer::new(&jwt::one()).await;
    let (port, roots) = terminator_of("issuer.invalid", issuer.address, &[b"http/1.1"]).await;
    let proxy = Proxy::new(Does::Tunnels).await;
    proxy.leads("issuer.invalid:443", ([127, 0, 0, 1], port).into());
    let jwks = format!(
        "url = \"https://issuer.invalid/keys\", roots = {{ file = {:?} }}",
        roots.path()
    );
    let url = format!("http://{}", devrev.addr());
    let gateway = start(&file(&url, proxy.address, "", &jwt::signed(&jwks)));
    let answer = exchange(
        gateway.address().expect("TCP"),
        get("/works.list", &jwt::good()),
    )
    .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let asked = proxy.asked();
    assert!(
        asked
            .iter()
            .any(|head| head.starts_with("CONNECT issuer.invalid:443 ")),
        "{asked:?}"
    );
    // One on loopback is fetched directly.
    let proxy = Proxy::new(Does::Tunnels).await;
    let jwks = format!("url = \"http://{}/keys\"", issuer.address);
    let gateway = start(&file(&url, proxy.address, "", &jwt::signed(&jwks)));
    let answer = exchange(
        gateway.address().expect("TCP"),
        get("/works.list", &jwt::good()),
    )
    .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let asked = proxy.asked();
    assert!(
        asked
            .iter()
            .all(|head| head.starts_with(&format!("CONNECT {} ", devrev.addr()))),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_proxy_that_is_the_gateway_itself_gets_nothing() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        listener.local_addr().expect("bound").port()
    };
    let text = file(
        "http://devrev.invalid",
        ([127, 0, 0, 1], port).into(),
        "",
        "",
    );
    let text = text.replacen("127.0.0.1:0", &format!("127.0.0.1:{port}"), 1);
    let env = [("DEVREV_TOKEN".to_owned(), TOKEN.to_owned())].into();
    let problems = config::from_toml(&text, &env).unwrap_err();
    assert_eq!(problems.0[0].path, "upstream.proxy", "{problems}");
    // A name that needs a look-up.
    let proxy = format!("proxy = \"http://127.0.0.1:{port}\"");
    let text = text.replace(&proxy, &format!("proxy = \"http://127.1:{port}\""));
    let gateway = start(&text);
    let answer = call(&gateway).await;
    assert_eq!(
        (answer.status, &*answer.code()),
        (502, "upstream_unreachable")
    );
    let metrics = rig::admin(gateway.admin_address(), "GET", "/metrics", "")
        .await
        .text();
    let requests = metrics
        .lines()
        .filter(|line| line.starts_with("revgate_requests_total{"));
    assert_eq!(requests.count(), 1, "it did not come back in: {metrics}");
}

#[test]
fn a_proxy_in_the_environment_is_warned_of_and_not_used() {
    let config = NamedTempFile::new().expect("a file");
    let text = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [tokens.main]\nenv = \"DEVREV_TOKEN\"\n[callers.billing]\nkey_sha256 = \"{}\"\n",
        hash(KEY)
    );
    std::fs::write(config.path(), &text).expect("written");
    let path = config.path().to_str().expect("a path");
    let with_proxy = text + "[upstream]\nproxy = \"http://127.0.0.1:3128\"\n";
    let check = |more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_revgate"))
            .args(["check", "-c", path])
            .args(more)
            .env("DEVREV_TOKEN", TOKEN)
            .env(
                "HTTPS_PROXY",
                format!("http://u:{PASSWORD}@proxy.invalid:1"),
            )
            .output()
            .expect("runs");
        assert!(output.status.success());
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (text(output.stdout), text(output.stderr))
    };
    let (stdout, stderr) = check(&[]);
    let warning =
        "warning: upstream.proxy: the environment has HTTPS_PROXY, which revgate does not use";
    assert!(stderr.contains(warning), "{stderr}");
    assert!(!(stdout + &stderr).contains(PASSWORD));
    std::fs::write(config.path(), with_proxy).expect("written");
    let (stdout, stderr) = check(&["--print"]);
    assert!(!stderr.contains("HTTPS_PROXY"), "{stderr}");
    assert!(
        stdout.contains("proxy = \"http://127.0.0.1:3128\""),
        "{stdout}"
    );
    let (stdout, _) = check(&["--explain", "GET /works.list", "--caller", "billing"]);
    let want = "to https://api.devrev.ai/works.list through the proxy http://127.0.0.1:3128\n";
    assert!(stdout.contains(want), "{stdout}");
}
