use super::*;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;

struct Fake {
    ready: bool,
}
impl Control for Fake {
    fn unready(&self) -> Vec<String> {
        if self.ready {
            vec![]
        } else {
            vec!["draining".into()]
        }
    }
    fn metrics(&self) -> String {
        "# EOF\n".into()
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
    let options = Options {
        address: address.parse().unwrap(),
        key: Some("secret".to_owned().into()),
    };
    start(options, Arc::new(Fake { ready })).unwrap()
}

fn ask(admin: &Admin, line: &str, headers: &str, body: &str) -> String {
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

fn code(answer: &str) -> u16 {
    answer[9..12].parse().unwrap()
}

#[test]
fn reads() {
    let a = run("127.0.0.1:0", true);
    for path in [
        "/",
        "/healthz",
        "/livez",
        "/readyz",
        "/metrics",
        "/config",
        "/status",
        "/quota",
        "/callers",
        "/deprecations",
    ] {
        assert_eq!(
            code(&ask(&a, &format!("GET {path}"), "", "")),
            200,
            "{path}"
        );
    }
    let page = ask(&a, "GET /", "", "");
    assert!(page.contains("default-src 'none'; script-src 'sha256-") && page.contains("no-store"));
    let head = ask(&a, "HEAD /config", "", "");
    assert!(
        head.contains("content-length: 7") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    assert_eq!(code(&ask(&a, "GET /explain?request=x", "", "")), 200);
    assert_eq!(code(&ask(&a, "GET /explain", "", "")), 400);
    assert_eq!(code(&ask(&a, "GET /nope", "", "")), 404);
    assert!(ask(&a, "POST /status", "", "").contains("allow: GET, HEAD"));
    assert!(ask(&a, "GET /reload", "", "").contains("allow: POST"));
    let b = run("127.0.0.1:0", false);
    let unready = ask(&b, "GET /readyz", "", "");
    assert!(code(&unready) == 503 && unready.contains("draining"));
}

#[test]
fn acts() {
    let a = run("127.0.0.1:0", true);
    assert_eq!(code(&ask(&a, "POST /quota/a%20b/resume", "", "")), 200);
    assert_eq!(code(&ask(&a, "POST /quota/b/resume", "", "")), 404);
    assert_eq!(
        code(&ask(&a, "POST /log-level", "", r#"{"level":"debug"}"#)),
        200
    );
    assert_eq!(
        code(&ask(&a, "POST /log-level", "", r#"{"level":"x"}"#)),
        400
    );
    assert_eq!(code(&ask(&a, "POST /log-level", "", "{")), 400);
    assert_eq!(code(&ask(&a, "POST /reload", "", "")), 409);
}

#[test]
fn browsers_of_other_sites_are_refused() {
    let a = run("127.0.0.1:0", true);
    for (headers, want) in [
        ("Host: evil.example\r\n", 403),
        ("Host: [::1]:9\r\n", 409),
        ("Sec-Fetch-Site: cross-site\r\n", 403),
        ("Sec-Fetch-Site: same-origin\r\n", 409),
        ("Origin: http://evil.example\r\n", 403),
        ("Origin: null\r\n", 403),
        ("Origin: http://localhost:1\r\n", 409),
    ] {
        assert_eq!(
            code(&ask(&a, "POST /reload", headers, "")),
            want,
            "{headers}"
        );
    }
    assert_eq!(
        code(&ask(&a, "GET /config", "Host: evil.example\r\n", "")),
        403
    );
}

#[test]
fn elsewhere_a_post_needs_the_key_and_stop_closes() {
    let mut a = run("0.0.0.0:0", true);
    assert_eq!(
        code(&ask(&a, "GET /status", "Host: gw.internal\r\n", "")),
        200
    );
    assert_eq!(code(&ask(&a, "POST /reload", "", "")), 401);
    assert_eq!(
        code(&ask(
            &a,
            "POST /reload",
            "Authorization: Bearer wrong\r\n",
            ""
        )),
        401
    );
    assert_eq!(
        code(&ask(
            &a,
            "POST /reload",
            "Authorization: Bearer secret\r\n",
            ""
        )),
        409
    );
    a.stop();
    assert!(TcpStream::connect(("127.0.0.1", a.addr().port())).is_err());
}
