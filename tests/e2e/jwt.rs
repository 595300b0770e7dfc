//! Callers with a signed token: an issuer on loopback, the gateway and the simulator.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use revgate::{serve::Gateway, simulator::Simulator};
use serde_json::{Value, json};

use crate::{
    http::{Answer, Client, request},
    issuer::{Issuer, answer},
    process::Process,
    rig::{self, KEY, Rig, TOKEN, hash, header as sent},
    signer::{Signer, base64, header, hmac_token, key_set, random_name},
};

static RSA: LazyLock<Signer> = LazyLock::new(Signer::rsa);
static NEXT: LazyLock<Signer> = LazyLock::new(|| Signer::ec("P-256"));

const PATIENCE: Duration = Duration::from_secs(20);

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("after 1970").as_secs()
}

/// Claims that are good for a few minutes, with `others` added or replaced.
fn claims(others: Value) -> String {
    let mut claims = json!({
        "iss": "https://issuer.example", "aud": "revgate", "sub": "shop",
        "iat": now(), "nbf": now(), "exp": now() + 300,
    });
    for (name, value) in others.as_object().into_iter().flatten() {
        claims[name] = value.clone();
    }
    claims.to_string()
}

pub fn one() -> String {
    key_set(&[RSA.jwk(json!({"kid": "one", "alg": "RS256", "use": "sig"}))])
}

fn both() -> String {
    key_set(&[
        RSA.jwk(json!({"kid": "one"})),
        NEXT.jwk(json!({"kid": "two"})),
    ])
}

pub fn good() -> String {
    RSA.token(&header("RS256", "one"), &claims(json!({})))
}

fn next() -> String {
    NEXT.token(&header("ES256", "two"), &claims(json!({})))
}

/// The part of a configuration that is about signed tokens.
pub fn signed(jwks: &str) -> String {
    format!(
        "[callers.shop]\njwt_subject = \"shop\"\nrate = \"1000/s\"\nburst = 1000\n\
         [callers.anyone]\nanonymous = true\n\
         [auth]\njwt = {{ issuer = \"https://issuer.example\", audience = \"revgate\", jwks = {{ {jwks} }} }}\n"
    )
}

fn at(issuer: &Issuer) -> String {
    signed(&format!("url = \"http://{}/keys?of=mine\"", issuer.address))
}

async fn call(rig: &Rig, credential: &str) -> Answer {
    let headers = [("Authorization", credential)];
    rig.send(request("GET", "/dev-users.self", &headers, ""))
        .await
}

/// A gateway that has fetched its issuer's keys.
async fn ready(extra: &str) -> Rig {
    let rig = Rig::new(extra).await;
    until_ready(&rig, 200).await;
    rig
}

async fn until_ready(rig: &Rig, status: u16) -> Answer {
    let ends = tokio::time::Instant::now() + PATIENCE;
    loop {
        let answer = rig.admin("/readyz").await;
        if answer.status == status {
            return answer;
        }
        assert!(tokio::time::Instant::now() < ends, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_good_token_goes_in_and_the_devrev_token_goes_out() {
    let issuer = Issuer::new(&one()).await;
    let rig = ready(&at(&issuer)).await;
    let token = good();
    for credential in [format!("Bearer {token}"), token.clone()] {
        let answer = call(&rig, &credential).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let last = rig.last();
        let bearer = format!("Bearer {TOKEN}");
        assert_eq!(sent(&last, "authorization"), Some(bearer.as_str()));
        let signature = token.rsplit('.').next().unwrap();
        assert!(last.headers.iter().all(|(_, v)| !v.contains(signature)));
    }
    let callers = rig.admin("/callers").await.json();
    assert_eq!(callers["shop"]["requests"], 2);
    // Keys and requests without a credential work as before.
    assert_eq!(rig.call("GET", "/dev-users.self", "").await.status, 200);
    let head = request("GET", "/dev-users.self", &[], "");
    assert_eq!(rig.send(head).await.status, 200);
    assert_eq!(issuer.asked(), 1);
    let asked = issuer.request().to_ascii_lowercase();
    assert!(
        asked.starts_with("get /keys?of=mine http/1.1\r\n"),
        "{asked}"
    );
    let host = format!("host: {}\r\n", issuer.address);
    assert!(
        asked.contains(&host) && !asked.contains("authorization"),
        "{asked}"
    );
}

#[tokio::test]
async fn a_bad_token_is_401_and_tells_its_sender_nothing() {
    let issuer = Issuer::new(&one()).await;
    let rig = ready(&at(&issuer)).await;
    let rs = |others: Value| RSA.token(&header("RS256", "one"), &claims(others));
    let unsigned = format!(
        "{}.{}.",
        base64(header("none", "one").to_string()),
        base64(claims(json!({})))
    );
    let confused = hmac_token(
        &RSA.public_bytes(),
        &header("HS256", "one"),
        &claims(json!({})),
    );
    let (signed, _) = good()
        .rsplit_once('.')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    let table = [
        (rs(json!({"exp": now() - 60})), "jwt_expired"),
        (rs(json!({"exp": null})), "jwt_malformed"),
        (rs(json!({"nbf": now() + 120})), "jwt_not_yet_valid"),
        (rs(json!({"aud": "another"})), "jwt_wrong_audience"),
        (
            rs(json!({"iss": "https://evil.example"})),
            "jwt_wrong_issuer",
        ),
        (rs(json!({"sub": "nobody"})), "jwt_unknown_subject"),
        (unsigned, "jwt_algorithm"),
        (confused, "jwt_algorithm"),
        (format!("{signed}.AAAA"), "jwt_bad_signature"),
        (
            NEXT.token(&header("RS256", "one"), &claims(json!({}))),
            "jwt_bad_signature",
        ),
        (
            RSA.token(
                &header("RS256", "../../../etc/passwd"),
                &claims(json!({"sub": "nobody"})),
            ),
            "jwt_unknown_subject",
        ),
        (
            RSA.token(&header("RS256", "' OR 1=1 --"), &claims(json!({}))),
            "jwt_unknown_kid",
        ),
        (
            RSA.token(
                &json!({"alg": "RS256", "kid": "one", "crit": ["exp"]}),
                &claims(json!({})),
            ),
            "jwt_critical",
        ),
        (rs(json!({"groups": "x".repeat(13_000)})), "jwt_too_large"),
        ("a-key-that-nobody-has".into(), "unknown_credential"),
    ];
    let mut counts = BTreeMap::new();
    let mut bodies = Vec::new();
    for (token, reason) in table {
        let answer = call(&rig, &format!("Bearer {token}")).await;
        assert_eq!(
            (answer.status, answer.code()),
            (401, "unauthenticated".into()),
            "{reason}"
        );
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        bodies.push(answer.body);
        *counts.entry(reason).or_insert(0) += 1;
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "one answer for all");
    assert!(rig.devrev.received().is_empty(), "none of them is anyone");
    let metrics = String::from_utf8(rig.admin("/metrics").await.body).unwrap();
    for (reason, count) in counts {
        let line = format!("revgate_auth_failures_total{{reason=\"{reason}\"}} {count}\n");
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_is_fetched_once_for_all_and_made_up_names_cause_no_flood() {
    let issuer = Issuer::new(&one()).await;
    let rig = ready(&(at(&issuer) + "[limits]\nmax_in_flight = 2000\n")).await;
    assert_eq!(call(&rig, &good()).await.status, 200);
    issuer.publish(&both());
    let token = next();
    let all = (0..100).map(|_| call(&rig, &token));
    let all = futures_util::future::join_all(all).await;
    assert!(
        all.iter().all(|answer| answer.status == 200),
        "{:?}",
        all[0]
    );
    assert_eq!(issuer.asked(), 2, "the first, and one for all");
    // A token whose request waited for the key is not forwarded either.
    let received = rig.devrev.received();
    assert_eq!(received.len(), 101);
    for call in &received {
        assert!(!format!("{call:?}").contains(&token));
        let sent = call.headers.iter().filter(|(n, _)| n == "authorization");
        let sent: Vec<_> = sent.map(|(_, value)| value.as_str()).collect();
        assert_eq!(sent, [format!("Bearer {TOKEN}")]);
    }
    assert_eq!(
        call(&rig, &good()).await.status,
        200,
        "the old key is still there"
    );
    let start = std::time::Instant::now();
    let flood = (0..300).map(|_| {
        let token = NEXT.token(&header("ES256", &random_name()), &claims(json!({})));
        let rig = &rig;
        async move { call(rig, &token).await.status }
    });
    let flood = futures_util::future::join_all(flood).await;
    assert!(flood.iter().all(|status| *status == 401));
    // At most one more, in case ten seconds have passed.
    let more = usize::from(start.elapsed() > Duration::from_secs(9));
    assert!(issuer.asked() <= 2 + more, "{}", issuer.asked());
    assert_eq!(call(&rig, &token).await.status, 200);
}

#[tokio::test]
async fn keys_stay_when_the_issuer_is_down_or_talks_nonsense() {
    let long = format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(1 << 20));
    let many = key_set(&vec![NEXT.jwk(json!({"kid": "two"})); 65]);
    let secret = key_set(&[json!({"kty": "oct", "kid": "two", "k": "AAAA"})]);
    for bytes in [
        Vec::new(),
        b"nonsense\r\n\r\n".to_vec(),
        answer("500 Oops", "", &both()),
        answer("404 Not Found", "", ""),
        answer("302 Found", "Location: /elsewhere\r\n", &both()),
        answer("200 OK", "", "<html>maintenance</html>"),
        answer("200 OK", "", "{\"keys\":[]}"),
        answer("200 OK", "", &secret),
        answer("200 OK", "", &many),
        answer("200 OK", "", &long),
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"keys\":[".to_vec(),
    ] {
        let issuer = Issuer::new(&one()).await;
        let rig = ready(&at(&issuer)).await;
        issuer.say(bytes.clone());
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        assert_eq!(call(&rig, &next()).await.status, 401, "{shown}");
        assert_eq!(call(&rig, &good()).await.status, 200, "{shown}");
        assert_eq!(rig.admin("/readyz").await.status, 200);
        assert_eq!(issuer.asked(), 2, "{shown}");
        let metrics = String::from_utf8(rig.admin("/metrics").await.body).unwrap();
        assert!(metrics.contains("revgate_jwks_fetches_total{result=\"failed\"} 1"));
    }
}

#[tokio::test]
async fn a_gateway_starts_without_its_issuer_and_says_that_it_is_not_ready() {
    let issuer = Issuer::new("").await;
    let rig = Rig::new(&at(&issuer)).await;
    let ends = tokio::time::Instant::now() + PATIENCE;
    while issuer.asked() == 0 {
        assert!(tokio::time::Instant::now() < ends);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let unready = until_ready(&rig, 503).await;
    assert!(unready.text().contains("auth.jwt"), "{unready:?}");
    assert_eq!(call(&rig, KEY).await.status, 200, "keys need no issuer");
    issuer.publish(&one());
    // The gateway fetches the keys by itself.
    assert_eq!(call(&rig, &good()).await.status, 200);
    assert_eq!(rig.admin("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_key_may_look_like_a_token_and_wins() {
    let key = "eyJhbGciOiJub25lIn0.e30.";
    let issuer = Issuer::new(&one()).await;
    let more = format!("[callers.odd]\nkey_sha256 = \"{}\"\n", hash(key));
    let rig = ready(&(at(&issuer) + &more)).await;
    assert_eq!(call(&rig, key).await.status, 200);
    assert_eq!(rig.admin("/callers").await.json()["odd"]["requests"], 1);
    assert_eq!(call(&rig, "eyJhbGciOiJub25lIn0.e31.").await.status, 401);
}

#[tokio::test]
async fn keys_are_fetched_over_tls_if_the_roots_verify_the_issuer() {
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("made");
    let key = rustls_pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key.expect("a key"))
        .expect("fits");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let issuer = Issuer::over(&one(), Some(acceptor)).await;
    let ca = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(ca.path(), own.cert.pem()).expect("written");
    let url = format!("url = \"https://{}/keys\"", issuer.address);
    let rig = ready(&signed(&format!(
        "{url}, roots = {{ file = {:?} }}",
        ca.path()
    )))
    .await;
    assert_eq!(call(&rig, &good()).await.status, 200);
    // No other root verifies the certificate.
    let rig = Rig::new(&signed(&url)).await;
    assert_eq!(call(&rig, &good()).await.status, 401);
    assert_eq!(rig.admin("/readyz").await.status, 503);
    assert_eq!(issuer.asked(), 1);
}

/// A gateway that was started from a file.
struct Watched {
    gateway: Gateway,
    devrev: Simulator,
    folder: tempfile::TempDir,
}

impl Watched {
    async fn new(jwks: impl Fn(&Path) -> String) -> Watched {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("jwks.json"), one()).expect("written");
        std::fs::write(folder.path().join("token"), TOKEN).expect("written");
        let devrev = rig::simulator().await;
        let file = folder.path().join("revgate.toml");
        let text = text(&devrev, folder.path(), &jwks(folder.path()));
        std::fs::write(&file, text).expect("written");
        let gateway = rig::watching(&file);
        Watched {
            gateway,
            devrev,
            folder,
        }
    }

    async fn send(&self, credential: String) -> u16 {
        let mut client = Client::connect(self.gateway.address().expect("TCP")).await;
        let headers = [("Authorization", credential.as_str())];
        let bytes = request("GET", "/dev-users.self", &headers, "");
        client.send(bytes).await;
        client.answer().await.expect("an answer").status
    }

    async fn reload(&self) -> Answer {
        rig::admin(self.gateway.admin_address(), "POST", "/reload", "").await
    }
}

fn text(devrev: &Simulator, folder: &Path, jwks: &str) -> String {
    let token = format!("file = {:?}", folder.join("token"));
    rig::file(&devrev.addr().to_string(), &signed(jwks)).replace("env = \"DEVREV_TOKEN\"", &token)
}

#[tokio::test]
async fn keys_of_a_file_are_taken_up_when_it_changes() {
    let rig = Watched::new(|folder| format!("file = {:?}", folder.join("jwks.json"))).await;
    let jwks = rig.folder.path().join("jwks.json");
    assert_eq!((rig.send(good()).await, rig.send(next()).await), (200, 401));
    for bad in ["", "{}", "{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"}]}"] {
        std::fs::write(&jwks, bad).expect("written");
        let answer = rig.reload().await;
        let report = answer.json();
        assert_eq!((answer.status, &report["result"]), (409, &"refused".into()));
        assert_eq!(report["problems"][0]["path"], "auth.jwt.jwks.file");
        assert_eq!((rig.send(good()).await, rig.send(next()).await), (200, 401));
    }
    std::fs::write(&jwks, key_set(&[NEXT.jwk(json!({"kid": "two"}))])).expect("written");
    let report = rig.reload().await.json();
    // The gateway may have seen the change by itself.
    assert_ne!(report["result"], "refused", "{report}");
    assert_eq!((rig.send(good()).await, rig.send(next()).await), (401, 200));
}

#[tokio::test]
async fn another_issuer_is_taken_up_by_a_reload_and_the_same_is_not_asked_again() {
    let old = Issuer::new(&one()).await;
    let new = Issuer::new(&key_set(&[NEXT.jwk(json!({"kid": "two"}))])).await;
    let at = |issuer: &Issuer| format!("url = \"http://{}/keys\"", issuer.address);
    let rig = Watched::new(|_| at(&old)).await;
    assert_eq!(rig.send(good()).await, 200, "waits for the first keys");
    let file = rig.folder.path().join("revgate.toml");
    let write = |issuer: &Issuer, more: &str| {
        let text = text(&rig.devrev, rig.folder.path(), &at(issuer)) + more;
        std::fs::write(&file, text).expect("written");
    };
    write(&old, "[quota]\nreserve = 0.25\n");
    assert_ne!(rig.reload().await.json()["result"], "refused");
    assert_eq!((rig.send(good()).await, old.asked()), (200, 1));
    write(&new, "");
    assert_ne!(rig.reload().await.json()["result"], "refused");
    assert_eq!((rig.send(next()).await, rig.send(good()).await), (200, 401));
    assert_eq!(old.asked(), 1);
    // The old keys are gone with the old issuer; `one` is not a key of the new one.
    assert!((1..=2).contains(&new.asked()));
}

/// A token as the kubelet writes it into a pod for `serviceAccountToken: { audience: revgate }`.
fn service_account(namespace: &str, name: &str) -> String {
    let claims = json!({
        "aud": ["revgate"], "exp": now() + 3607, "iat": now(), "nbf": now(),
        "iss": "https://kubernetes.default.svc", "jti": "5a5d1cd1-6d9d-4a1c-8a9e-000000000001",
        "kubernetes.io": {
            "namespace": namespace,
            "node": {"name": "node-1", "uid": "7c9cd1a1-0000-4000-8000-000000000001"},
            "pod": {"name": format!("{name}-5f7c9"), "uid": "7c9cd1a1-0000-4000-8000-000000000002"},
            "serviceaccount": {"name": name, "uid": "7c9cd1a1-0000-4000-8000-000000000003"},
        },
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
    });
    let header = json!({"alg": "RS256", "kid": "Wq3XyE5pS8"});
    RSA.token(&header, &claims.to_string())
}

#[tokio::test]
async fn kubernetes_service_accounts_call_as_the_example_says() {
    let jwk = RSA.jwk(json!({"use": "sig", "kid": "Wq3XyE5pS8", "alg": "RS256"}));
    let issuer = Issuer::new(&key_set(&[jwk])).await;
    let devrev: Simulator = rig::simulator().await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    let text = std::fs::read_to_string(folder.join("kubernetes-jwt.toml")).expect("it is there");
    let url = format!("http://{}/openid/v1/jwks", issuer.address);
    let text = text
        .replace("https://kubernetes.default.svc/openid/v1/jwks", &url)
        .replace(
            "{ file = \"/var/run/secrets/kubernetes.io/serviceaccount/ca.crt\" }",
            "\"bundled\"",
        )
        .replace("0.0.0.0:8080", "127.0.0.1:0");
    let text = format!(
        "{text}\n[admin]\naddress = \"127.0.0.1:0\"\n[upstream]\nurl = \"http://{}\"\n",
        devrev.addr()
    );
    let gateway = rig::start(&text, &[("DEVREV_TOKEN", TOKEN)]);
    let address = gateway.address().expect("TCP");
    let rig = Rig {
        devrev,
        gateway,
        address,
    };
    until_ready(&rig, 200).await;
    for (namespace, name, status) in [
        ("shop", "billing", 200),
        ("shop", "reports", 200),
        ("shop", "default", 401),
        ("evil", "billing", 401),
    ] {
        let token = service_account(namespace, name);
        let answer = call(&rig, &format!("Bearer {token}")).await;
        assert_eq!(answer.status, status, "{namespace}/{name}");
    }
    let bearer = format!("Bearer {TOKEN}");
    assert_eq!(sent(&rig.last(), "authorization"), Some(bearer.as_str()));
    assert_eq!(rig.admin("/callers").await.json()["billing"]["requests"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_reads_why_and_never_the_token() {
    let issuer = Issuer::new(&one()).await;
    let devrev = rig::simulator().await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    let text = rig::file(&devrev.addr().to_string(), &at(&issuer));
    std::fs::write(file.path(), text).expect("written");
    let path = file.path().to_str().expect("a path");
    let mut gateway = Process::start(&["run", "-c", path], "trace");
    let mut proxy = None;
    while proxy.is_none() {
        let line = gateway.line(|line| line["message"] == "listening");
        if line["listener"] == "proxy" {
            proxy = line["address"].as_str().map(str::to_owned);
        }
    }
    gateway.line(|line| line["message"] == "the issuer's keys have been fetched");
    let proxy = proxy.and_then(|a| a.parse().ok()).expect("bound");
    let expired = RSA.token(&header("RS256", "one"), &claims(json!({"exp": now() - 60})));
    let stranger = RSA.token(
        &header("RS256", "one"),
        &claims(json!({"iss": "https://o\u{1b}[31m"})),
    );
    for (token, reason, issuer) in [
        (&expired, "jwt_expired", "https://issuer.example"),
        (&stranger, "jwt_wrong_issuer", "https://o\u{1b}[31m"),
        (&good(), "", ""),
    ] {
        let mut client = Client::connect(proxy).await;
        let headers = [("Authorization", token.as_str())];
        client
            .send(request("GET", "/dev-users.self", &headers, ""))
            .await;
        let status = client.answer().await.expect("an answer").status;
        assert_eq!(status == 200, reason.is_empty());
        if !reason.is_empty() {
            let line = gateway.line(|line| line["reason"] == reason);
            assert_eq!(
                (&line["kid"], &line["level"]),
                (&"one".into(), &"INFO".into())
            );
            assert_eq!(line["issuer"], issuer);
            assert_eq!(line["peer"], "127.0.0.1");
        }
        for part in token.split('.') {
            assert!(!gateway.seen.contains(part), "{part}");
        }
    }
}
