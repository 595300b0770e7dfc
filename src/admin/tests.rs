use super::*;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;

struct Fake {
    ready: bool,
    shared: Option<&'static str>,
}
impl Control for Fake {
    fn unready(&self) -> Vec<String> {
        if self.ready {
            vec![]
        } else {
            vec!["draining".into()]
        }
    }
    fn shared(&self) -> Option<&'static str> {
        self.shared
    }
    fn metrics(&self, form: Exposition) -> String {
        match form {
            Exposition::Text => "a 1\n".into(),
            Exposition::OpenMetrics => "# EOF\n".into(),
        }
    }
    fn config(&self) -> Value {
        json!({"c": 1})
    }
    fn status(&self) -> Value {
        json!({"s": 1})
    }
    fn quota(&self) -> Value {
        json!({})
    }
    fn callers(&self) -> Value {
        json!({})
    }
    fn deprecations(&self) -> Value {
        json!([])
    }
    fn explain(&self, query: &str) -> Result<Value, String> {
        match query {
            "" => Err("ask".into()),
            _ => Ok(json!({})),
        }
    }
    fn resume(&self, group: &str) -> bool {
        group == "a b"
    }
    fn level(&self) -> Result<String, String> {
        Ok("info".into())
    }
    fn set_level(&self, level: &str) -> Result<(), String> {
        if level == "debug" {
            Ok(())
        } else {
            Err("no".into())
        }
    }
    fn reload(&self) -> Result<Value, Value> {
        Err("not now".into())
    }
}

fn run(address: &str, ready: bool) -> Admin {
    let shared = None;
    run_with(address, Fake { ready, shared })
}

fn run_with(address: &str, control: Fake) -> Admin {
    let options = Options {
        listener: crate::bind::tcp(address.parse().unwrap()).unwrap(),
        max_connections: MAX_CONNECTIONS,
        key: Some("secret".to_owned().into()),
    };
    let runtime = ThreadRuntime::new().unwrap();
    start(options, Arc::new(control), runtime).unwrap()
}

fn send(admin: &Admin, line: &str, headers: &str, body: &str) -> String {
    let mut s = TcpStream::connect(("127.0.0.1", admin.addr().port())).unwrap();
    let host = if headers.contains("Host:") {
        ""
    } else {
        "Host: localhost:1\r\n"
    };
    let len = body.len();
    write!(
        s,
        "{line} HTTP/1.1\r\n{host}{headers}Connection: close\r\nContent-Length: {len}\r\n\r\n{body}"
    )
    .unwrap();
    let mut out = String::new();
    s.read_to_string(&mut out).unwrap();
    out
}

fn status(admin: &Admin, line: &str, headers: &str, body: &str) -> u16 {
    let answer = send(admin, line, headers, body);
    answer[9..12].parse().unwrap()
}

#[test]
fn reads() {
    let a = run("127.0.0.1:0", true);
    for (path, want) in [
        ("/", 200),
        ("/healthz", 200),
        ("/livez", 200),
        ("/readyz", 200),
        ("/metrics", 200),
        ("/config", 200),
        ("/status", 200),
        ("/quota", 200),
        ("/callers", 200),
        ("/deprecations", 200),
        ("/explain?request=x", 200),
        ("/explain", 400),
        ("/log-level", 200),
        ("/nope", 404),
    ] {
        assert_eq!(status(&a, &format!("GET {path}"), "", ""), want, "{path}");
    }
    let page = send(&a, "GET /", "", "");
    assert!(page.contains("default-src 'none'; script-src 'sha256-") && page.contains("no-store"));
    let head = send(&a, "HEAD /config", "", "");
    assert!(
        head.contains("content-length: 8") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    assert!(send(&a, "POST /status", "", "").contains("allow: GET, HEAD"));
    assert!(send(&a, "GET /reload", "", "").contains("allow: POST"));
    let b = run("127.0.0.1:0", false);
    assert_eq!(status(&b, "GET /readyz", "", ""), 503);
    assert!(send(&b, "GET /readyz", "", "").contains("draining"));
}

/// Without the register each replica serves by itself, so nothing of it makes one unready.
#[test]
fn readiness_tells_of_the_register_and_does_not_depend_on_it() {
    for (ready, shared, want) in [
        (true, None, (200, "{\"ready\":true}\n")),
        (
            true,
            Some("down"),
            (200, "{\"ready\":true,\"shared\":\"down\"}\n"),
        ),
        (
            true,
            Some("up"),
            (200, "{\"ready\":true,\"shared\":\"up\"}\n"),
        ),
        (
            false,
            Some("down"),
            (
                503,
                "{\"ready\":false,\"reasons\":[\"draining\"],\"shared\":\"down\"}\n",
            ),
        ),
    ] {
        let admin = run_with("127.0.0.1:0", Fake { ready, shared });
        let answer = send(&admin, "GET /readyz", "", "");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!((answer[9..12].parse().unwrap(), body), want);
    }
}

#[test]
fn metrics_have_the_form_that_is_asked_for() {
    let a = run("127.0.0.1:0", true);
    let open = "Accept: application/openmetrics-text; version=1.0.0\r\n";
    for (accept, kind, length) in [
        ("", "text/plain; version=0.0.4; charset=utf-8", 4),
        (
            "Accept: */*\r\n",
            "text/plain; version=0.0.4; charset=utf-8",
            4,
        ),
        (
            open,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            6,
        ),
    ] {
        for line in ["GET /metrics", "HEAD /metrics"] {
            let answer = send(&a, line, accept, "");
            let says = format!("{line} {accept}: {answer}");
            assert!(
                answer.contains(&format!("content-type: {kind}\r\n")),
                "{says}"
            );
            assert!(
                answer.contains(&format!("content-length: {length}\r\n")),
                "{says}"
            );
            assert!(answer.contains("vary: Accept\r\n"), "{says}");
        }
    }
}

#[test]
fn acts() {
    let a = run("127.0.0.1:0", true);
    for (path, body, want) in [
        ("/quota/a%20b/resume", "", 200),
        ("/quota/b/resume", "", 404),
        ("/log-level", r#"{"level":"debug"}"#, 200),
        ("/log-level", r#"{"level":"x"}"#, 400),
        ("/log-level", "{", 400),
        ("/reload", "", 409),
    ] {
        let got = status(&a, &format!("POST {path}"), "", body);
        assert_eq!(got, want, "{path} {body}");
    }
}

/// A request from another site is 403 and does nothing. 409 is the answer of the fake reload.
#[test]
fn browsers_of_other_sites_are_refused() {
    let a = run("127.0.0.1:0", true);
    for (headers, want) in [
        ("Sec-Fetch-Site: cross-site\r\n", 403),
        // Another port of this machine is the same site and another origin.
        ("Sec-Fetch-Site: same-site\r\n", 403),
        ("Sec-Fetch-Site: same-origin\r\n", 409),
        ("Sec-Fetch-Site: none\r\n", 409),
        (
            "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Site: cross-site\r\n",
            403,
        ),
        ("Origin: http://evil.example\r\n", 403),
        ("Origin: http://localhost:2\r\n", 403),
        ("Origin: http://localhost:1.evil.example\r\n", 403),
        ("Origin: null\r\n", 403),
        (
            "Origin: http://localhost:1\r\nOrigin: http://evil.example\r\n",
            403,
        ),
        ("Origin: http://localhost:1\r\n", 409),
    ] {
        assert_eq!(status(&a, "POST /reload", headers, ""), want, "{headers}");
    }
}

/// A foreign name that points to this machine: the browser takes it for the same origin, and only `Host` shows the name.
#[test]
fn a_rebound_name_is_refused() {
    let a = run("127.0.0.1:0", true);
    for (host, ok) in [
        ("localhost:9", true),
        ("LOCALHOST", true),
        ("127.0.0.1", true),
        ("127.9.9.9:9", true),
        ("[::1]:9", true),
        ("[::ffff:127.0.0.1]", true),
        ("evil.example", false),
        ("127.0.0.1.evil.example", false),
        ("localhost.evil.example", false),
        ("localhost@evil.example", false),
        ("evil@localhost", false),
        ("0.0.0.0:9", false),
        ("10.0.0.1", false),
        ("", false),
        ("localhost\r\nHost: evil.example", false),
    ] {
        let host = format!("Host: {host}\r\n");
        for (line, done) in [
            ("GET /config", 200),
            ("GET /", 200),
            ("POST /reload", 409),
            ("POST /quota/a%20b/resume", 200),
        ] {
            let got = status(&a, line, &host, "");
            let refused = [400, 403].contains(&got);
            assert!(
                if ok { got == done } else { refused },
                "{line} {host} {got}"
            );
        }
    }
    let absolute = "GET http://evil.example/config";
    assert_eq!(status(&a, absolute, "", ""), 403);
}

/// The status of a request with exactly this head.
fn raw(admin: &Admin, head: &str) -> u16 {
    let mut stream = TcpStream::connect(("127.0.0.1", admin.addr().port())).unwrap();
    write!(stream, "{head}\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    std::str::from_utf8(&answer[9..]).unwrap().parse().unwrap()
}

/// Old load balancers probe with HTTP/1.0, which has no Host.
#[test]
fn http_1_0_needs_no_host_and_a_wrong_one_is_refused_all_the_same() {
    for address in ["127.0.0.1:0", "0.0.0.0:0"] {
        let a = run(address, true);
        let open = address.starts_with('0');
        let foreign = if open { 200 } else { 403 };
        let posted = if open { 401 } else { 409 };
        for (head, want) in [
            ("GET /readyz HTTP/1.0", 200),
            ("HEAD /livez HTTP/1.0", 200),
            ("GET /metrics HTTP/1.0", 200),
            ("GET /config HTTP/1.0\r\nHost: localhost", 200),
            ("POST /reload HTTP/1.0", posted),
            ("POST /reload HTTP/1.0\r\nOrigin: http://evil.example", 403),
            ("GET /readyz HTTP/1.0\r\nHost: evil.example", foreign),
            ("GET /readyz HTTP/1.0\r\nHost: a\r\nHost: a", 400),
            ("GET /readyz HTTP/1.0\r\nHost: a b", 400),
            ("GET http://evil.example/readyz HTTP/1.0", 400),
            ("GET /readyz HTTP/1.1", 400),
            ("GET /readyz HTTP/1.1\r\nHost: a\r\nHost: a", 400),
            ("GET /readyz HTTP/1.1\r\nHost: localhost", 200),
            ("GET /readyz HTTP/1.1\r\nHost: evil.example", foreign),
        ] {
            assert_eq!(raw(&a, head), want, "{address} {head:?}");
        }
    }
}

/// What a form or a beacon can send without a preflight, if the browser sends no origin.
#[test]
fn a_post_of_a_browser_takes_json_alone() {
    let a = run("127.0.0.1:0", true);
    for (kind, want) in [
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("text/plain;charset=UTF-8", 415),
        ("application/jsonp", 415),
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
    ] {
        let kind = format!("Content-Type: {kind}\r\n");
        let post = |more: &str| {
            let headers = format!("{kind}{more}");
            status(&a, "POST /log-level", &headers, r#"{"level":"debug"}"#)
        };
        assert_eq!(post("User-Agent: Mozilla/4.0 (old)\r\n"), want, "{kind}");
        assert_eq!(post("Sec-Fetch-Site: same-origin\r\n"), want, "{kind}");
        // `curl -d` says that it sends a form.
        assert_eq!(post("User-Agent: curl/8.0\r\n"), 200, "{kind}");
    }
}

#[test]
fn no_other_origin_is_let_in() {
    let a = run("127.0.0.1:0", true);
    let origin = "Origin: http://evil.example\r\nAccess-Control-Request-Method: POST\r\n";
    for line in [
        "OPTIONS /reload",
        "OPTIONS /quota/a%20b/resume",
        "OPTIONS /status",
        "GET /status",
        "GET /",
        "POST /reload",
    ] {
        let answer = send(&a, line, origin, "").to_ascii_lowercase();
        assert!(!answer.contains("access-control-"), "{line}: {answer}");
        assert!(
            answer.contains("cross-origin-resource-policy: same-origin"),
            "{line}"
        );
    }
    let page = send(&a, "GET /", "", "");
    assert!(page.contains("frame-ancestors 'none'") && page.contains("x-frame-options: DENY"));
    assert!(!page.contains("unsafe-") && !page.contains(" style="));
}

#[test]
fn on_other_addresses_a_post_needs_the_key_and_stop_closes() {
    let mut a = run("0.0.0.0:0", true);
    for (line, headers, want) in [
        ("GET /status", "Host: gw.internal\r\n", 200),
        ("POST /reload", "", 401),
        ("POST /reload", "Authorization: Bearer wrong\r\n", 401),
        ("POST /reload", "Authorization: Bearer secret\r\n", 409),
    ] {
        assert_eq!(status(&a, line, headers, ""), want, "{line} {headers}");
    }
    a.stop();
    assert!(TcpStream::connect(("127.0.0.1", a.addr().port())).is_err());
}

#[test]
fn idle_connections_block_no_health_probe() {
    let admin = run("127.0.0.1:0", true);
    let idle: Vec<_> = (0..2 * MAX_CONNECTIONS)
        .map(|_| TcpStream::connect(admin.addr()).unwrap())
        .collect();
    for _ in 0..3 {
        assert_eq!(status(&admin, "GET /livez", "", ""), 200);
    }
    drop(idle);
}
