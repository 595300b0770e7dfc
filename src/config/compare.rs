//! What differs between two configurations, by key path; never a value.

use secrecy::ExposeSecret;
use serde_json::Value;

use super::{CallerCredential, Config, Jwks};

impl Config {
    /// The keys whose values differ from those of `old`, in the order of their names.
    pub fn differences(&self, old: &Config) -> Vec<String> {
        let mut keys = Vec::new();
        differ("", &old.redacted(), &self.redacted(), &mut keys);
        // What is not shown is compared by itself.
        for (name, token) in &self.tokens {
            let before = old.tokens.get(name);
            let value = token.value.expose_secret();
            if before.is_some_and(|before| before.value.expose_secret() != value) {
                keys.push(format!("tokens.{name}"));
            }
        }
        for (name, caller) in &self.callers {
            // Told below, and of the whole hash.
            let ids = format!("callers.{name}.key_ids");
            keys.retain(|key| *key != ids);
            let before = old.callers.get(name).map(|caller| &caller.credential);
            let changed = match (before, &caller.credential) {
                (Some(CallerCredential::Keys(old)), CallerCredential::Keys(new)) => old != new,
                _ => false,
            };
            if changed {
                keys.push(format!("callers.{name}.key"));
            }
        }
        if let (Some(old), Some(new)) = (&old.listen.tls, &self.listen.tls) {
            if old.digests.0 != new.digests.0 {
                keys.push("listen.tls.cert".into());
            }
            if old.digests.1 != new.digests.1 {
                keys.push("listen.tls.client_ca".into());
            }
        }
        if let (Some(before), Some(key)) = (&old.admin.key, &self.admin.key)
            && before.expose_secret() != key.expose_secret()
        {
            keys.push("admin.key".into());
        }
        for (name, _, value) in &self.trace.headers {
            let mut before = old.trace.headers.iter();
            let before = before.find(|(before, ..)| before == name);
            if before.is_some_and(|(.., before)| before.expose_secret() != value.expose_secret()) {
                keys.push(format!("trace.headers.{name}"));
            }
        }
        let set = |config: &Config| match &config.auth.jwt.as_ref()?.jwks {
            Jwks::File { keys, .. } => Some(keys.clone()),
            Jwks::Url { .. } => None,
        };
        if set(old).is_some() && set(self).is_some() && set(old) != set(self) {
            keys.push("auth.jwt.jwks".into());
        }
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

fn differ(path: &str, old: &Value, new: &Value, keys: &mut Vec<String>) {
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        if old != new {
            keys.push(path.to_owned());
        }
        return;
    };
    let names = before.keys().chain(after.keys());
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        let (before, after) = (before.get(name), after.get(name));
        match (before, after) {
            (Some(before), Some(after)) => differ(&path, before, after, keys),
            _ => keys.push(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::from_toml;

    fn config(text: &str, token: &str) -> Config {
        let env = BTreeMap::from([("T".to_owned(), token.to_owned())]);
        from_toml(text, &env).unwrap()
    }

    #[test]
    fn keys_are_named_and_values_never() {
        let base = format!(
            "[tokens.main]\nenv = \"T\"\n[callers.a]\nkey_sha256 = \"{}\"\n",
            "a".repeat(64)
        );
        let old = config(&base, "secret-1");
        assert!(config(&base, "secret-1").differences(&old).is_empty());
        assert_eq!(config(&base, "secret-2").differences(&old), ["tokens.main"]);
        let other = base.replace(&"a".repeat(64), &"b".repeat(64));
        assert_eq!(
            config(&other, "secret-1").differences(&old),
            ["callers.a.key"]
        );
        let more = format!(
            "{base}weight = 3\n[callers.b]\nkey_sha256 = \"{}\"\n[listen]\naddress = \"127.0.0.1:1\"\n",
            "c".repeat(64)
        );
        assert_eq!(
            config(&more, "secret-1").differences(&old),
            ["callers.a.weight", "callers.b", "listen.address"]
        );
    }

    #[test]
    fn every_credential_that_changes_is_seen() {
        let with = |caller: &str| {
            format!(
                "listen.address = \"unix:/run/x\"\nauth.jwt = {{ issuer = \"i\", audience = \"a\", jwks = {{ url = \"http://127.0.0.1:9/\" }} }}\n\
                 tokens.main.env = \"T\"\ncallers.b.{caller}\n"
            )
        };
        let (one, two) = ("a".repeat(64), "b".repeat(64));
        for (before, after, want) in [
            (
                format!("key_sha256 = \"{one}\""),
                format!("key_sha256 = [\"{one}\", \"{two}\"]"),
                "callers.b.key",
            ),
            (
                format!("key_sha256 = [\"{one}\", \"{two}\"]"),
                format!("key_sha256 = \"{two}\""),
                "callers.b.key",
            ),
            (
                "jwt_subject = \"s\"".into(),
                "jwt_subject = \"t\"".into(),
                "callers.b.jwt_subject",
            ),
            (
                "unix_uid = 1".into(),
                "unix_uid = 2".into(),
                "callers.b.unix_uid",
            ),
        ] {
            let old = config(&with(&before), "secret");
            let differences = config(&with(&after), "secret").differences(&old);
            assert!(differences.contains(&want.to_owned()), "{differences:?}");
        }
        let traced = with("unix_uid = 1") + "[trace]\nheaders = { x-key = { env = \"T\" } }\n";
        let differences = config(&traced, "secret-2").differences(&config(&traced, "secret-1"));
        assert_eq!(differences, ["tokens.main", "trace.headers.x-key"]);
    }
}
