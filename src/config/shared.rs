//! `[shared]`: the replicas of a fleet that share one quota, and where they keep what they share.

use std::time::Duration;

use secrecy::ExposeSecret;
use serde_json::Value;

use super::{
    AuthMode, Config, Secret,
    notation::{duration_within, notation, text},
    reading::Location,
    secret::{MAKE_A_KEY, PlainSecret},
    section::{Notation, View, section},
};
use crate::{
    policy::{
        key_strength,
        redis_address::{Endpoint, parse},
    },
    types::Roots,
};

section! {
    /// One quota for many replicas, through Redis or Valkey. Without this section no Redis is used, and each replica shares only what it sees.
    pub struct Shared: Debug, Clone {
        /// The URL of Redis, as a reference, because it may hold a password: redis:// or rediss:// (TLS), unix:/path; redis+sentinel:// and redis+cluster:// with several addresses. Every replica names the same one. It is read at the start only.
        redis: PlainSecret, restart, required("is missing; store the URL of Redis, such as redis://user:password@redis.internal:6379, and name it with { file = ... } or { env = ... }"), example({ "env": "REVGATE_REDIS_URL" });
        /// What the names of all keys and channels in Redis begin with; gateways of different DevRev users or stages that use one Redis need different ones. Up to 64 letters, digits and . _ - : so that it can stand in the rules of a Redis user. The name of the program by default.
        prefix: Prefix = "revgate", restart;
        /// Time for one exchange with Redis, from 1ms to 1s. A request waits for one only if its replica holds no lease, as one with less than a call in 5 s, or no token of the caller's rate. A group whose exchange took longer goes by DevRev's answers alone until one succeeds; after three in a row, all groups until Redis is back. A hundred round trips of a data centre by default, and too little for a caller to notice.
        timeout: ExchangeTime = "50ms", restart;
        /// A secret of the fleet, the same on every replica, by which names in Redis are hashed, of groups and of callers. Required in mode "validate": there a group is a DevRev user, whom somebody who may list the keys of Redis could guess otherwise. None by default, because in mode "inject" names are those of the file.
        name_key: Option<PlainSecret>, restart, example({ "file": "/run/secrets/redis-name-key" });
        /// Certificate authorities for rediss://, as in upstream.roots. Bundled by default, which works in an empty image; a Redis of your own usually has your own CA: { file = "ca.pem" }.
        roots: Roots = "bundled", restart;
    }
    then endpoint(redis) -> {
        /// What `redis` says.
        endpoint: Endpoint,
    }
}

/// Parsed when it is read, so that a mistake in it is reported with all others. No problem quotes it.
fn endpoint(at: &Location<'_>, redis: &mut Option<Secret>) -> Option<(Endpoint,)> {
    match parse(redis.as_ref()?.value.expose_secret()) {
        Ok(endpoint) => Some((endpoint,)),
        Err(problem) => {
            let message = format!("the URL in it {problem}; correct it where it is stored");
            at.report("redis", message);
            None
        }
    }
}

/// The beginning of names in Redis: no braces, which choose a Cluster's slot, and nothing that is special in a pattern of an ACL.
pub struct Prefix;

/// Longer ones would only make each message longer.
const LONGEST_PREFIX: usize = 64;

notation! {
    [] Prefix => String,
    expected format!("1 to {LONGEST_PREFIX} letters, digits and . _ - : such as \"revgate\""),
    parse |value| {
        let text = value.as_str()?;
        let fits = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b));
        (fits && (1..=LONGEST_PREFIX).contains(&text.len())).then(|| text.to_owned())
    },
    show |out| out.as_str(),
    schema |defs| text(&[&format!("[A-Za-z0-9._:-]{{1,{LONGEST_PREFIX}}}")]),
}

/// The time of an exchange. Below a millisecond no network answers, and after a second a request had better not have asked.
pub struct ExchangeTime;

const MOST: Duration = Duration::from_secs(1);

notation! {
    [] ExchangeTime => Duration,
    expected "a duration from \"1ms\" to \"1s\"",
    parse |value| Duration::parse(value).filter(|time| !time.is_zero() && *time <= MOST),
    show |out| Duration::show(out, View::Effective),
    schema |defs| duration_within(1, 1000),
}

/// Reports a fleet whose users' names could be guessed.
pub(super) fn check(config: &Config, at: &Location<'_>) {
    let lacks_key = (config.shared.as_ref()).is_some_and(|shared| shared.name_key.is_none());
    let is_validate = config.auth.mode == AuthMode::Validate;
    if lacks_key && is_validate && !at.has_problem("shared.name_key") {
        at.report(
            "shared.name_key",
            "is required in mode \"validate\", where names in Redis are those of users; make one of 256 random bits (openssl rand -hex 32), the same for all replicas",
        );
    }
}

/// Warns of what is probably a mistake.
pub(super) fn warn(config: &Config, at: &Location<'_>) {
    let Some(shared) = &config.shared else {
        return;
    };
    let at_shared = at.key("shared");
    let endpoint = &shared.endpoint;
    let is_remote = endpoint.addresses.iter().any(|address| !address.is_local());
    if endpoint.has_password() && !endpoint.tls && is_remote {
        at_shared.warn(
            "redis",
            "the URL in it has a password and is without TLS to another host, so whoever is on the way reads the password; write rediss:// in place of redis://",
        );
    }
    if shared.roots != Roots::Bundled && !endpoint.tls {
        at_shared.warn(
            "roots",
            "is for rediss://, but the URL in shared.redis is without TLS; write rediss:// there, or remove this",
        );
    }
    let weakness = shared.name_key.as_ref();
    let weakness = weakness.and_then(|key| key_strength::weakness(key.value.expose_secret()));
    if let Some(weakness) = weakness {
        let message = format!("the key can be guessed: {weakness}; {MAKE_A_KEY}");
        at_shared.warn("name_key", message);
    }
    let wait = "is not longer than shared.timeout, so a request that has to ask Redis first may be refused because of a slow one; raise it, or lower that";
    if config.defaults.max_wait <= shared.timeout {
        at.warn("defaults.max_wait", wait);
    }
    let callers = at.key("callers");
    for (name, caller) in &config.callers {
        // One that inherits it needs no warning of its own.
        let own = caller.rules.max_wait;
        if own <= shared.timeout && own != config.defaults.max_wait {
            callers.key(name).warn("max_wait", wait);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        config::{Problems, from_toml},
        plan::Plan,
        policy::redis_address::Kind,
    };

    const REST: &str = "[tokens.main]\nenv = \"T\"\n[callers.a]\nkey = { env = \"K\" }\n";

    const SECRET: &str = "s3cr3t-value-007";

    fn load(url: &str, more: &str) -> Result<Config, Problems> {
        let env = [
            ("T", "token"),
            ("K", "7d8f1c0b9e34a256f7013c8ae92b645d"),
            ("REDIS_URL", url),
        ];
        let env: BTreeMap<_, _> = env.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let section = "[shared]\nredis = { env = \"REDIS_URL\" }\n";
        from_toml(&format!("{REST}{section}{more}"), &env)
    }

    fn loaded(url: &str, more: &str) -> Config {
        load(url, more).unwrap_or_else(|problems| panic!("{problems}"))
    }

    #[test]
    fn without_the_section_there_is_nothing_of_it() {
        let env: BTreeMap<_, _> = [("T", "token"), ("K", "7d8f1c0b9e34a256f7013c8ae92b645d")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        let config = from_toml(REST, &env).unwrap();
        assert!(config.shared.is_none() && Plan::of(&config).unwrap().shared.is_none());
        for shown in [config.effective(), config.redacted()] {
            assert!(shown.get("shared").is_none(), "{shown}");
        }
    }

    #[test]
    fn the_plan_has_what_the_section_says() {
        let plan = |url: &str, more: &str| Plan::of(&loaded(url, more)).unwrap().shared.unwrap();
        let plain = plan("redis://h/2", "");
        assert_eq!(
            (
                plain.endpoint.to_string(),
                &*plain.prefix,
                plain.timeout,
                plain.roots
            ),
            (
                "redis://h:6379/2".to_owned(),
                "revgate",
                Duration::from_millis(50),
                Roots::Bundled
            )
        );
        let whole = plan(
            "rediss+sentinel://u:p@a,b/main",
            "prefix = \"stage:1\"\ntimeout = \"20ms\"\nroots = \"system\"\n",
        );
        assert!(matches!(whole.endpoint.kind, Kind::Sentinel { .. }) && whole.endpoint.tls);
        assert_eq!(
            (&*whole.prefix, whole.timeout, whole.roots),
            ("stage:1", Duration::from_millis(20), Roots::System)
        );
    }

    #[test]
    fn the_url_is_never_shown() {
        let config = loaded(&format!("redis://gate:{SECRET}@127.0.0.1/1"), "");
        let plan = Plan::of(&config).unwrap();
        let shown = format!(
            "{} {} {config:?} {plan:?} {:?}",
            config.redacted(),
            config.effective(),
            config.warnings
        );
        assert!(
            shown.contains("REDIS_URL") && !shown.contains(SECRET),
            "{shown}"
        );
        for bad in [
            format!("redis://gate:{SECRET}/x@h"),
            format!("redis://{SECRET}@h"),
            format!("redis://h:{SECRET}"),
            format!("redis://h/{SECRET}"),
            format!("redis:gate:{SECRET}@h"),
            format!("redis+sentinel://h/main?password={SECRET}"),
            format!("redis://gate:{SECRET} @h"),
            SECRET.to_owned(),
        ] {
            let Problems(all) = load(&bad, "").unwrap_err();
            let said: Vec<_> = all.iter().map(ToString::to_string).collect();
            assert_eq!(said.len(), 1, "{said:?}");
            assert!(said[0].starts_with("shared.redis"), "{said:?}");
            assert!(!format!("{said:?} {all:?}").contains(SECRET), "{said:?}");
        }
    }

    #[test]
    fn users_have_no_name_that_can_be_guessed() {
        let load = |key: &str| {
            let env = [
                ("R", "redis://127.0.0.1"),
                ("GOOD", "7d8f1c0b9e34a256f7013c8ae92b645d"),
                ("BAD", "the-name-key-of-the-fleet"),
            ];
            let env: BTreeMap<_, _> = env.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
            let file = "[auth]\nmode = \"validate\"\n[shared]\nredis = { env = \"R\" }\n";
            from_toml(&format!("{file}{key}"), &env)
        };
        let missing = load("").unwrap_err().to_string();
        assert!(
            missing.starts_with("shared.name_key: is required in mode \"validate\""),
            "{missing}"
        );
        let unset = load("name_key = { env = \"GONE\" }").unwrap_err();
        assert_eq!(
            unset.to_string(),
            "shared.name_key: GONE is not set in the environment; set it, or use { file = ... }"
        );
        let config = load("name_key = { env = \"GOOD\" }").unwrap();
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        let plan = Plan::of(&config).unwrap();
        let key = plan.shared.as_ref().unwrap().name_key.as_ref().unwrap();
        let key = key.expose_secret().to_owned();
        assert_eq!(key, "7d8f1c0b9e34a256f7013c8ae92b645d");
        let shown = format!("{} {config:?} {plan:?}", config.effective());
        assert!(!shown.contains(&key), "{shown}");
        let weak = load("name_key = { env = \"BAD\" }").unwrap();
        let said = weak.warnings[0].to_string();
        assert!(
            said.starts_with("shared.name_key: the key can be guessed"),
            "{said}"
        );
        assert!(!said.contains("fleet"), "{said}");
        // In mode "inject" it may be left out.
        let inject = Plan::of(&loaded("redis://127.0.0.1", "")).unwrap();
        assert!(inject.shared.unwrap().name_key.is_none());
    }

    #[test]
    fn each_change_of_it_is_named_and_waits_for_a_restart() {
        let url = format!("redis://gate:{SECRET}@127.0.0.1");
        let old = loaded(&url, "");
        for (other, more, want) in [
            (&*url, "", ""),
            ("redis://gate:other@127.0.0.1", "", "shared.redis"),
            (&url, "prefix = \"x\"", "shared.prefix"),
            (&url, "name_key = { env = \"K\" }", "shared.name_key"),
            (&url, "timeout = \"49ms\"", "shared.timeout"),
            (&url, "roots = \"system\"", "shared.roots"),
        ] {
            let mut new = loaded(other, more);
            assert_eq!(new.differences(&old).join(" "), want);
            assert_eq!(new.keep_restart_only(&old).join(" "), want);
            assert!(new.differences(&old).is_empty(), "{want}");
            let kept = Plan::of(&new).unwrap().shared.unwrap();
            let was = Plan::of(&old).unwrap().shared.unwrap();
            assert_eq!(kept.prefix, was.prefix);
            assert_eq!(kept.timeout, was.timeout);
        }
    }

    #[test]
    fn each_probable_mistake_is_a_warning() {
        let plain = "shared.redis: the URL in it has a password and is without TLS to another host, so whoever is on the way reads the password; write rediss:// in place of redis://";
        let roots = "shared.roots: \"system\" is for rediss://, but the URL in shared.redis is without TLS; write rediss:// there, or remove this";
        let wait = "is not longer than shared.timeout, so a request that has to ask Redis first may be refused because of a slow one; raise it, or lower that";
        for (url, more, want) in [
            ("redis://u:p@127.0.0.1", "", String::new()),
            ("redis://u:p@localhost", "", String::new()),
            ("unix://u:p@/run/redis.sock", "", String::new()),
            ("redis://redis.internal", "", String::new()),
            ("rediss://u:p@redis.internal", "", String::new()),
            ("redis://u:p@redis.internal", "", plain.to_owned()),
            ("redis://u:p@10.0.0.1", "", plain.to_owned()),
            (
                "redis+cluster://u:p@127.0.0.1,10.0.0.1",
                "",
                plain.to_owned(),
            ),
            (
                "redis+sentinel://a/main?sentinel_password=p",
                "",
                plain.to_owned(),
            ),
            ("redis://127.0.0.1", "roots = \"system\"", roots.to_owned()),
            ("rediss://127.0.0.1", "roots = \"system\"", String::new()),
            (
                "redis://127.0.0.1",
                "timeout = \"1s\"\n[defaults]\nmax_wait = \"1s\"",
                format!("defaults.max_wait: \"1s\" {wait}"),
            ),
            (
                "redis://127.0.0.1",
                "[callers.b]\nkey_sha256 = \"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\"\nmax_wait = \"20ms\"",
                format!("callers.b.max_wait: \"20ms\" {wait}"),
            ),
        ] {
            let warnings = loaded(url, more).warnings;
            let said: Vec<_> = warnings.iter().map(ToString::to_string).collect();
            assert_eq!(said.join("\n"), want, "{url} {more}");
        }
    }
}
