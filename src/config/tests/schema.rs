//! The schema accepts exactly what the reader accepts.

use std::fs;

use jsonschema::Validator;
use serde_json::Map;

use super::*;
use crate::config::{
    reading::Context,
    reference::{schema, toml},
};

/// Two lines for each key: valid values, and after `!` invalid ones, separated by `|`. A quote before the key means that the values are text;
/// others are TOML. Each notation has at least one key.
const VALUES: &str = r#"
"callers.a.rate: 50/s|600/min|1000/h|1/m| 5 / s |+5/s|007/s|4294967295/s
!50/sec|50|0/s|/s|-1/s|1.5/s|4294967296/s|5/s/s|
"callers.a.priority: interactive|batch
!Batch| batch|urgent|
"callers.a.allow: *|works.*|works.get|Works.Get,a.b| works.* , *|,a,,b,|a/b|
!*.get|wo*|works.|/works|.*|works.*.*|a b| |a, ,b
"callers.a.enforce: true|false| true 
!yes|TRUE|1|
"callers.a.max_wait: 0s|250ms|30s|5m|5min|1h|30 s| 30s |00030s|8784h|527040m|31622400s|31622400000ms
!|30|s|-1s|1.5s|1 day|30S|8785h|9999999h|527041m|31622401s|31622400001ms|99999999999999999999s
"upstream.connect_timeout: 1ms|1s|001m
!0s|0ms|00h|-1s|30|
"limits.max_body: 0|7|64KiB|1 MiB|10MB|10kB|2GB|5B|999999999GiB
!|x|1XB|-1|1.5MiB|1mib|1000000000GiB|99999999999GiB
"callers.a.weight: 1|100| 7 |+7|007|900001|999999|1000000
!|0|00|-1|1.5|x|1e3|1000001|2000000
"callers.a.burst: 1|100|4294967289|4294967295
!0|4294967296|5000000000
"retry.max_attempts: 1|99|100
!0|101|110|1000
"retry.budget: 0|0.2|.5|1.|007.5|99.99|100|100.0
!100.01|101|-1|1e1|inf|nan|.|1.2.3|
"quota.reserve: 0|0.0|1|1.0|.5|0.999
!1.5|2|01.1|-0.1|NaN
"listen.workers: auto|1|1024
!Auto|0|1025|many|
"listen.address: 127.0.0.1:80|0.0.0.0:0|[::1]:8080|unix:/x|255.255.255.255:65535
!|localhost:80|127.0.0.1|:80|256.0.0.1:80|01.0.0.1:1|127.0.0.1:65536|127.0.0.1:80 |::1:80|unix:
"admin.address: 127.0.0.1:80|[::1]:8080
!unix:/x|127.0.0.1|x
"listen.hosts: devrev.internal|a|A_b-1.c| a , b |[::1]|10.0.0.1|
!a:80|a b|*.internal|a..b|.a|http://a|[x]
"listen.trusted_proxies: 10.0.0.7|10.0.0.0/8| 10.0.0.1/8 , fd00::/8|::1|127.0.0.1/32,::1/128|::ffff:10.0.0.1|
!10.0.0|10.0.0.0/33|10.0.0.0/0|::/0|10.0.0.0/08|10.0.0.0/+8|10.0.0.0/|[::1]|localhost|fd00::/129|10.0.0.1:80
"listen.client_field: x-forwarded-for|forwarded
!X-Forwarded-For|x-real-ip|
"listen.mode: 0660|660|0o666|0600|0777|220
!0060|0440|4755|0680|66|00660|+660|rw-rw----|
"upstream.url: https://x|HTTPS://x|http://x:80/|https://api.devrev.ai|http://[::1]:80|http://127.0.0.1
!x|ftp://x|https://|https://x/y|https://x?y|https://x#y|https://u:p@x|https://x:99999|https://a b
"upstream.proxy: http://proxy.example:3128|HTTP://x:1/|http://[::1]:3128|http://127.0.0.1:65535
!|x:3128|http://x|https://x:1|http://u@x:1|http://u:p@x:1|http://x:1/y|http://x:1?y|http://x:1#y|http://x:0|http://x:65536|socks5://x:1
"trace.otlp: http://127.0.0.1:4318|https://h/base/
!127.0.0.1:4318|http://user@h|http://h/?key=1|grpc://h:4317|http://h#x
"upstream.roots: bundled|system
!Bundled|none|
"upstream.http2: auto|never|always
!on|
"shared.prefix: revgate|a|A.b_c-d:1
!|a b|a{b}|a*|a?|[a]|a\\b|ä|0123456789012345678901234567890123456789012345678901234567890123x
"shared.timeout: 1ms|50ms|1000ms|1s| 01 s |999ms
!0ms|0s|1001ms|2s|1m|1h|50|
"trace.service_name: gate| 
!
"tokens.main.quota_group: main|007
!
"log.level: info|WARN|off|Trace|0|5|info,revgate=debug|revgate::access=info|warn,a=off| info , warn |info,[span]=debug|a[b{c=1}]=off|00
!loud|info,loud|revgate=loud|+5|warn, a=off|[a]:b|info,,warn|6| , |
"callers.b.anonymous: true| true 
!yes|
"callers.b.unix_uid: 0|1001|4294967294
!-1|4294967295|root|
"callers.b.jwt_subject: system:serviceaccount:a:b
!
"callers.b.mtls_san: spiffe://example.org/a/b|urn:service:b|https://b.internal/|billing.internal|billing
!spiffe://example.org|spiffe://example.org/a/|spiffe://Example.org/a|*.internal|10.0.0.1|b:8080|b..c|a b|x:|
callers.a.weight: 1|2.0
!0|-1|1.5|true|[1]
limits.max_body: 0|1024|5.0
!-1|1.5|true
quota.reserve: 0|1|0.5
!-1|1.5|2|true
callers.a.enforce: true|false
!1|[]
listen.hosts: []|['a', 'b.c']
![1]|['']|['a:1']|['a,b']|{}
callers.a.allow: []|['works.*', ' *']
![1]|['']|['wo*']|['a,b']|{}
callers.a.priority: 'batch'
!1|['batch']
callers.a.rate: '5/s'
!5|['5/s']
callers.a.max_wait: '5s'
!5|true
listen.trusted_proxies: []|['10.0.0.7', 'fd00::/8']
![1]|['']|['10.0.0.0/0']|{}
listen.mode: '660'
!660|0o660
callers.b.anonymous: true
!1|'yes'
callers.b.unix_uid: 0|4294967294
!-1|4294967295|1.5
callers.b.key_sha256: 'HASH'|['HASH']|['HASH', 'OTHER']|' HASH , OTHER '
!'12'|[]|['HASH', 'OTHER', 'THIRD']|'HASH,'|['HASH', 7]|7
callers.b.key: { env = 'T' }|[{ env = 'T' }]|[{ env = 'T' }, { env = 'U' }]
!'plain'|[]|['plain']|[{}]|{ env = '' }
upstream.roots: 'system'|{ file = 'src/config/tests/ca.pem' }
!{}|{ file = '' }|{ file = 'src/config/tests/ca.pem', x = 1 }|true
admin.key: { env = 'T' }
!'plain'|{}|{ env = '' }|{ env = 'T', file = 'x' }|{ nev = 'T' }|[{ env = 'T' }]
upstream.proxy_credentials: { env = 'P' }
!'plain'|{}|{ env = '' }|{ env = 'P', file = 'x' }|{ nev = 'P' }|[{ env = 'P' }]
tokens.two: { env = 'T' }|{ env = 'T', quota_group = 'main' }
!'plain'|{}|{ env = '' }|{ quota_group = 'x' }|{ env = 'T', file = 'x' }|{ env = 'T', nev = 1 }
trace.headers: {}|{ x-key = { env = 'T' } }
!'x'|{ x-key = 'x' }|{ Host = { env = 'T' } }|{ 'a b' = { env = 'T' } }
upstream.circuit: {}|{ failures = 3 }
!{ failures = 0 }|{ opne = '1s' }|1
auth.jwt: { issuer = 'i', audience = 'a', jwks = { url = 'https://i/k?x', roots = 'system' } }|{ issuer = 'i', audience = 'a', jwks = { url = 'http://127.0.0.1:9/', proxy = false } }
!{}|{ issuer = 'i', audience = 'a' }|{ issuer = 'i', audience = 'a', jwks = {} }|{ issuer = 'i', audience = 'a', jwks = { uri = 'https://i/k' } }|{ issuer = 'i', audience = 'a', jwks = { url = 'http://i/k' } }|{ issuer = 'i', audience = 'a', jwks = { url = 'https://u@i/k' } }|{ issuer = 'i', audience = 'a', jwks = { url = 'https://i:99999/k' } }|{ issuer = 'i', audience = 'a', jwks = { url = 'https://i/k', file = 'x' } }
rewrite: []|[{ operations = 'a.b,c.d', rename = { a = 'b' }, mode = 'off', link = 'https://x/y' }]
!{}|[1]|[{ operations = ['a.b'] }]|[{ rename = { a = 'b' } }]|[{ operations = [], rename = { a = 'b' } }]|[{ operations = ',', rename = { a = 'b' } }]|[{ operations = ['a.*'], rename = { a = 'b' } }]|[{ operations = ['a.b'], rename = {} }]|[{ operations = ['a.b'], rename = { a = '' } }]|[{ operations = ['a.b'], rename = { a = 'b' }, mode = 'Off' }]|[{ operations = ['a.b'], rename = { a = 'b' }, link = 'x' }]
shared.redis: { env = 'R' }
!'redis://h'|{}|{ env = '' }|{ env = 'R', file = 'x' }|{ nev = 'R' }|[{ env = 'R' }]
shared.name_key: { env = 'T' }
!'plain'|{}|{ env = '' }|{ nev = 'T' }|[{ env = 'T' }]
shared.roots: 'system'|{ file = 'src/config/tests/ca.pem' }
!{}|{ file = '' }|'none'
shared: { redis = { env = 'R' } }|{ redis = { env = 'R' }, prefix = 'x', timeout = '5ms', roots = 'bundled' }
!{}|{ prefix = 'x' }|{ redis = { env = 'R' }, mode = 'x' }|'x'
"#;

fn validator(schema: &Value) -> Validator {
    jsonschema::options().build(schema).unwrap()
}

/// A file with this key, which loads if the value is valid.
fn with(path: &str, value: &str) -> String {
    let caller = match path.starts_with("callers.a") {
        true => "callers.a.key = { env = 'K' }",
        false => "callers.z = { key = { env = 'K' }, token = 'main' }",
    };
    let needs = match path {
        "callers.b.unix_uid" => "listen.address = 'unix:/x'",
        "upstream.proxy_credentials" => "upstream.proxy = 'http://x:1'",
        "shared.prefix" | "shared.timeout" | "shared.roots" | "shared.name_key" => {
            "shared.redis = { env = 'R' }"
        }
        "callers.b.jwt_subject" => {
            "auth.jwt = { issuer = 'i', audience = 'a', jwks = { url = 'https://i/k' } }"
        }
        _ => "",
    };
    let text = format!("{path} = {value}\ntokens.main.env = 'T'\n{caller}\n{needs}");
    let text = text.replace("HASH", &"a".repeat(64));
    text.replace("OTHER", &"b".repeat(64))
        .replace("THIRD", &"c".repeat(64))
}

/// Each value of the table in TOML, with its key and whether it is valid.
fn values() -> Vec<(&'static str, String, bool)> {
    let mut all = Vec::new();
    let lines: Vec<_> = VALUES.trim().lines().collect();
    for row in lines.chunks(2) {
        let (path, good) = row[0].split_once(": ").unwrap();
        let bad = row[1].strip_prefix('!').unwrap();
        for (values, is_good) in [(good, true), (bad, false)] {
            for value in values.split('|') {
                match path.strip_prefix('"') {
                    Some(path) => all.push((path, format!("{value:?}"), is_good)),
                    None if value.is_empty() => {}
                    None => all.push((path, value.to_owned(), is_good)),
                }
            }
        }
    }
    all
}

#[test]
fn the_schema_is_as_strict_and_as_lenient_as_the_reader() {
    let validator = validator(&schema());
    for (path, value, want) in values() {
        let text = with(path, &value);
        let message = match from_toml(&text, &env()) {
            Ok(_) => String::new(),
            Err(problems) => problems.to_string(),
        };
        // The file has no client_ca, so the name never matches.
        let reads = message.is_empty()
            || message.contains(" never matches, because clients present no certificates");
        assert_eq!(reads, want, "the reader: {path} = {value}\n{message}");
        let file: toml::Table = toml::from_str(&text).unwrap();
        let passes = validator.is_valid(&json!(file));
        assert_eq!(passes, want, "the schema: {path} = {value}");
    }
}

/// Tries each value of the table with every key.
#[test]
fn reader_and_schema_agree_on_any_value_of_any_key() {
    let folder = tempfile::tempdir().unwrap();
    let word = folder.path().join("word");
    fs::write(&word, "word").unwrap();
    let table = values().into_iter().map(|(_, value, _)| {
        let table: toml::Table = toml::from_str(&format!("x = {value}")).unwrap();
        json!(table)["x"].clone()
    });
    let more = [
        json!({ "file": word }),
        json!(1e300),
        json!(u64::MAX),
        json!(10_u64.pow(18)),
    ];
    let values: Vec<Value> = table.chain(more).collect();
    let environment = env();
    let context = Context {
        env: Some(&environment),
        ..Context::default()
    };
    let (mut compared, mut faults) = (0, Vec::new());
    let mut keys = Config::keys();
    while let Some(mut key) = keys.pop() {
        let name = key.name;
        let mut shared = Map::new();
        let mut schema = (key.schema)(&mut shared);
        schema["$defs"] = shared.into();
        let validator = validator(&schema);
        for value in &values {
            // A schema cannot tell whether a file exists and what it contains.
            let is_word = value["file"] == json!(word) && !matches!(name, "jwks" | "roots");
            if is_word || !value.to_string().contains("\"file\"") {
                let (reads, passes) = ((key.accepts)(value, &context), validator.is_valid(value));
                if reads != passes {
                    faults.push(format!("{name} = {value}: reader {reads}, schema {passes}"));
                }
                compared += 1;
            }
        }
        let shown = key.sample();
        let is_valid = |value| validator.is_valid(value);
        assert!(shown.is_none_or(is_valid), "{name}");
        keys.append(&mut key.keys);
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(compared > 10_000, "{compared}");
}

#[test]
fn examples_and_the_template_load_and_pass() {
    let validator = validator(&schema());
    let mut env: BTreeMap<_, _> = ["DEVREV_TOKEN", "BILLING_KEY", "SYNC_KEY"]
        .map(|n| (n.to_owned(), format!("value-of-{n}")))
        .into();
    env.insert("REVGATE_REDIS_URL".into(), "redis://127.0.0.1".into());
    let root = env!("CARGO_MANIFEST_DIR");
    let files = fs::read_dir(format!("{root}/config/examples")).unwrap();
    let mut texts: Vec<_> = files
        .map(|file| fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    assert!(texts.len() >= 3);
    texts.push(
        toml()
            + "[tokens.main]\nenv = \"DEVREV_TOKEN\"\n[callers.a]\nkey = { env = \"SYNC_KEY\" }\n",
    );
    for text in texts {
        // Outside a cluster, any authority serves as its CA.
        let cluster = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
        let text = text.replace(cluster, &format!("{root}/src/config/tests/ca.pem"));
        from_toml(&text, &env).unwrap();
        let file: toml::Table = toml::from_str(&text).unwrap();
        let faults: Vec<_> = validator
            .iter_errors(&json!(file))
            .map(|fault| fault.to_string())
            .collect();
        assert!(faults.is_empty(), "{faults:?}\n{text}");
    }
}
