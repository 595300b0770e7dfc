//! Addresses of listening sockets that the process was given. They are a layer above the file and the environment, so that every rule
//! about an address looks at the one that is in use.

use std::net::SocketAddr;

use serde_json::Value;

use super::{
    Address, Problem,
    places::{Part, Places},
};

/// The addresses, of those listeners for which there is a socket.
#[derive(Clone, Debug, Default)]
pub struct Given {
    pub listen: Option<Address>,
    pub admin: Option<SocketAddr>,
}

impl Given {
    fn keys(&self) -> impl Iterator<Item = (&'static str, String)> {
        let listen = self.listen.as_ref().map(ToString::to_string);
        let admin = self.admin.map(|address| address.to_string());
        let both = [("listen", listen), ("admin", admin)].into_iter();
        both.filter_map(|(section, address)| Some((section, address?)))
    }

    /// The layer.
    pub(super) fn table(&self) -> toml::Table {
        let section =
            |address: String| toml::Table::from_iter([("address".into(), address.into())]);
        self.keys()
            .map(|(key, address)| (key.to_owned(), section(address).into()))
            .collect()
    }

    /// A warning for each address of `written`, the other layers, that is another one; not for a default, which nobody has written.
    pub(super) fn warnings(
        &self,
        written: &Value,
        defaults: &Value,
        places: &Places,
    ) -> Vec<Problem> {
        let warning = |(section, given): (&str, String)| {
            let key = format!("/{section}/address");
            let wanted = written.pointer(&key).and_then(Value::as_str)?;
            let is_default = defaults.pointer(&key).and_then(Value::as_str) == Some(wanted);
            let path = format!("{section}.address");
            (!is_default && !is_same(wanted, &given)).then(|| Problem {
                origin: places.origin(&path, Part::Value),
                found: Some(format!("\"{wanted}\"")),
                ..Problem::new(
                    path,
                    format!(
                        "is not where the socket is that the service manager has passed and that is used, \"{given}\"; remove the key, or change the socket's unit"
                    ),
                )
            })
        };
        self.keys().filter_map(warning).collect()
    }

    /// Says of each problem that names an address from where the address comes, if it is a socket's.
    pub(super) fn explain(&self, problems: &mut [Problem]) {
        for (section, given) in self.keys() {
            let key = format!("{section}.address");
            let names =
                |problem: &&mut Problem| problem.path == key || problem.message.contains(&key);
            for problem in problems.iter_mut().filter(names) {
                problem.message += &format!(
                    "; {key} is that of the socket that the service manager has passed, \"{given}\""
                );
            }
        }
    }
}

/// Port 0 is any.
fn is_same(wanted: &str, given: &str) -> bool {
    let parse = |text: &str| text.parse::<SocketAddr>().ok();
    match (parse(wanted), parse(given)) {
        (Some(wanted), Some(given)) => {
            wanted.ip() == given.ip() && [0, given.port()].contains(&wanted.port())
        }
        _ => wanted == given,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{super::load::from_toml_given, *};

    const REST: &str = "[tokens.main]\nenv = \"T\"\n[callers.a]\n";
    const KEY: &str =
        "key_sha256 = \"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"\n";

    fn load(text: &str, listen: &str, admin: &str) -> Result<(String, Vec<String>), String> {
        let given = Given {
            listen: match listen.strip_prefix("unix:") {
                Some(path) => Some(Address::Unix(path.into())),
                None => listen.parse().ok().map(Address::Tcp),
            },
            admin: admin.parse().ok(),
        };
        let env = BTreeMap::from([("T".to_owned(), "token".to_owned())]);
        let config =
            from_toml_given(text, &env, &given).map_err(|problems| problems.to_string())?;
        let warnings = config.warnings.iter().map(ToString::to_string);
        let addresses = format!("{} {}", config.listen.address, config.admin.address);
        Ok((addresses, warnings.collect()))
    }

    #[test]
    fn a_given_socket_wins_over_what_is_written() {
        let keyed = format!("{REST}{KEY}");
        for (written, listen, admin, addresses, warns) in [
            ("", "", "", "127.0.0.1:8080 127.0.0.1:9901", &[][..]),
            (
                "",
                "127.0.0.1:1",
                "127.0.0.1:2",
                "127.0.0.1:1 127.0.0.1:2",
                &[],
            ),
            (
                "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:2\"\n",
                "127.0.0.1:1",
                "127.0.0.1:2",
                "127.0.0.1:1 127.0.0.1:2",
                &[],
            ),
            (
                "[listen]\naddress = \"127.0.0.1:3\"\n[admin]\naddress = \"127.0.0.2:0\"\n",
                "unix:/run/x",
                "127.0.0.1:2",
                "unix:/run/x 127.0.0.1:2",
                &[
                    "listen.address: \"127.0.0.1:3\" is not where the socket is that the service manager has passed and that is used, \"unix:/run/x\"",
                    "admin.address: \"127.0.0.2:0\" is",
                ],
            ),
        ] {
            let (found, warnings) = load(&format!("{written}{keyed}"), listen, admin).unwrap();
            assert_eq!(found, addresses, "{written}");
            assert_eq!(warnings.len(), warns.len(), "{warnings:?}");
            for (warning, begins) in warnings.iter().zip(warns) {
                assert!(warning.starts_with(begins), "{warning}");
            }
        }
    }

    /// Or a socket on all addresses would let anybody call.
    #[test]
    fn rules_about_addresses_look_at_the_given_ones() {
        let open = format!("{REST}anonymous = true\n");
        let keyed = format!("{REST}{KEY}");
        assert!(load(&open, "", "").is_ok());
        for (text, listen, admin, says) in [
            (&open, "0.0.0.0:80", "", "listen.address"),
            (&keyed, "", "0.0.0.0:90", "admin.key"),
            (&keyed, "127.0.0.1:90", "127.0.0.1:90", "admin.address"),
        ] {
            let problem = load(text, listen, admin).unwrap_err();
            assert!(problem.contains(says), "{problem}");
            assert!(
                problem.contains("the service manager has passed"),
                "{problem}"
            );
        }
        let by_uid = format!("{REST}unix_uid = 1\n");
        assert!(load(&by_uid, "", "").is_err());
        load(&by_uid, "unix:/run/x", "").unwrap();
    }
}
