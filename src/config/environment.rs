//! Variables of the environment that override the file (`REVGATE__SECTION__KEY`), and those that look as if they should.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{
    Problem,
    places::{Places, is_within},
    reading::join,
    section::{Defs, Key},
};

/// Between the parts of a variable's name, and after the prefix.
const SEPARATOR: &str = "__";
const PREFIX: &str = "REVGATE__";
/// The variable that names the file.
const FILE: &str = "REVGATE_CONFIG";

/// The variables of a process.
#[derive(Debug, Default)]
pub(super) struct Environment {
    pub variables: BTreeMap<String, String>,
    /// Those whose values are not UTF-8.
    pub unreadable: BTreeSet<String>,
}

impl Environment {
    pub(super) fn of_process() -> Environment {
        let mut all = Environment::default();
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else {
                continue;
            };
            match value.into_string() {
                Ok(value) => drop(all.variables.insert(name, value)),
                Err(_) => drop(all.unreadable.insert(name)),
            }
        }
        all
    }
}

/// What the variables override.
#[derive(Debug, Default)]
pub(super) struct Overrides {
    /// The values, as text: a layer above the file.
    pub table: toml::Table,
    /// Variables that cannot be used.
    pub problems: Vec<Problem>,
    set: Vec<Override>,
}

#[derive(Debug)]
struct Override {
    variable: String,
    /// The key.
    path: String,
    /// The table above it that the file does not have.
    made: Option<String>,
}

impl Overrides {
    /// Reads the variables. `file` has the defaults and the file: names that it has are found there, in whatever spelling.
    pub(super) fn read(env: &Environment, file: &Value) -> Overrides {
        let mut all = Overrides::default();
        let unreadable = env
            .unreadable
            .iter()
            .filter(|name| overriding(name).is_some());
        all.problems.extend(unreadable.map(|name| {
            Problem::new(
                name,
                "is not UTF-8 text, so it overrides nothing; correct its value, or unset it",
            )
        }));
        for (variable, value) in &env.variables {
            let Some(rest) = overriding(variable) else {
                continue;
            };
            let problem = match resolve(&rest.to_lowercase(), file) {
                Ok((path, known)) => {
                    let above = path.len().saturating_sub(1);
                    let made = (known < above).then(|| joined(&path[..=known]));
                    let is_set = insert(&mut all.table, &path, value);
                    all.set.push(Override {
                        variable: variable.clone(),
                        path: joined(&path),
                        made,
                    });
                    is_set.err().map(str::to_owned)
                }
                Err(message) => Some(message),
            };
            let problem = problem.map(|message| Problem::new(variable, message));
            all.problems.extend(problem);
        }
        all
    }

    /// Adds the variables to the places of the file's keys.
    pub(super) fn add_to(&self, places: &mut Places) {
        for Override { variable, path, .. } in &self.set {
            places.add_variable(path, variable);
        }
        for Override { variable, made, .. } in &self.set {
            if let Some(made) = made {
                places.add_variable(made, variable);
            }
        }
    }

    /// Says of each problem of a table that comes from variables alone which names the file has.
    pub(super) fn explain(&self, problems: &mut [Problem], keys: &[Key], file: &Value) {
        for problem in problems {
            let is_set = |set: &Override| is_within(&problem.path, &set.path);
            let made = |set: &&Override| {
                let made = set.made.as_deref();
                made.is_some_and(|made| is_within(&problem.path, made))
            };
            let Some(from) = self.set.iter().find(made) else {
                continue;
            };
            if self.set.iter().any(is_set) {
                continue;
            }
            problem.message += &format!("; it comes from {} alone", from.variable);
            let parent = problem.path.split('.').next().unwrap_or_default();
            if is_by_name(keys.iter().find(|key| key.name == parent)) {
                let names = file[parent].as_object().into_iter().flatten();
                let names: Vec<_> = names.map(|(name, _)| format!("`{name}`")).collect();
                let names = if names.is_empty() {
                    "none".into()
                } else {
                    names.join(", ")
                };
                problem.message += &format!(
                    " (the file has {names}; a variable has a name in capitals, with one _ for what is neither letter nor digit)"
                );
            }
        }
    }
}

/// What follows the prefix in the name of a variable that overrides a key.
fn overriding(variable: &str) -> Option<&str> {
    let (prefix, rest) = variable.split_at_checked(PREFIX.len())?;
    prefix.eq_ignore_ascii_case(PREFIX).then_some(rest)
}

/// The path that a variable means, and how many of its parts there are already.
///
/// # Errors
/// What is wrong with its name.
fn resolve(rest: &str, file: &Value) -> Result<(Vec<String>, usize), String> {
    let (mut path, mut known, mut level) = (Vec::new(), 0, Some(file));
    for part in rest.split(SEPARATOR) {
        if part.is_empty() {
            return Err(format!(
                "has an empty part; write {PREFIX}SECTION{SEPARATOR}KEY"
            ));
        }
        let names = level.and_then(Value::as_object).into_iter().flatten();
        let mut meant =
            names.filter(|(name, _)| name.to_lowercase() == part || folded(name) == part);
        match (meant.next(), meant.next()) {
            (Some((one, _)), Some((other, _))) => {
                let table = joined(&path);
                return Err(format!(
                    "means both `{one}` and `{other}` in {table}; rename one of them, or write the value in the file"
                ));
            }
            (Some((name, value)), None) => {
                path.push(name.clone());
                known += 1;
                level = Some(value);
            }
            (None, _) => {
                path.push(part.to_owned());
                level = None;
            }
        }
    }
    Ok((path, known))
}

/// A name as the environment can have it, in lower case: one `_` for each run of what is neither letter nor digit, none at its ends.
fn folded(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    words.join("_").to_ascii_lowercase()
}

fn joined(path: &[String]) -> String {
    path.iter()
        .fold(String::new(), |path, name| join(&path, name))
}

/// # Errors
/// If another variable sets a value above or below.
fn insert(table: &mut toml::Table, path: &[String], value: &str) -> Result<(), &'static str> {
    const CONTRADICTION: &str =
        "another variable sets the same key, or one above or below it; remove one of them";
    let Some((name, above)) = path.split_last() else {
        return Ok(());
    };
    let mut table = table;
    for name in above {
        let entry = table
            .entry(name)
            .or_insert_with(|| toml::Table::new().into());
        table = entry.as_table_mut().ok_or(CONTRADICTION)?;
    }
    match table.insert(name.clone(), value.into()) {
        None => Ok(()),
        Some(_) => Err(CONTRADICTION),
    }
}

/// Whether a key is a table by names that the operator chooses.
pub(super) fn is_by_name(key: Option<&Key>) -> bool {
    key.is_some_and(|key| (key.schema)(&mut Defs::new())["additionalProperties"].is_object())
}

/// A warning for each variable that begins as ours do and changes nothing, most often for one underscore too few.
pub(super) fn strays(env: &BTreeMap<String, String>, keys: &[Key], tree: &Value) -> Vec<Problem> {
    let mut used = BTreeSet::from([FILE.to_owned()]);
    references(tree, &mut used);
    let strays = env.keys().filter(|name| {
        let begins = name.get(.."REVGATE_".len());
        begins.is_some_and(|begins| begins.eq_ignore_ascii_case("REVGATE_"))
            && overriding(name).is_none()
            && !used.contains(*name)
            && !is_of_a_kubernetes_service(name, env)
    });
    let strays: Vec<_> = strays.collect();
    if strays.is_empty() {
        return Vec::new();
    }
    let mut ours = vec![FILE.to_owned()];
    variables(keys, tree, "REVGATE", &mut ours);
    let warning = |name: &&String| {
        let hint = match nearest(name, &ours) {
            Some(best) => format!("did you mean {best}?"),
            None => format!(
                "one that overrides the file has two underscores between its parts, such as {PREFIX}LISTEN{SEPARATOR}ADDRESS"
            ),
        };
        Problem::new(
            *name,
            format!("revgate uses no variable of this name; {hint}"),
        )
    };
    strays.iter().map(warning).collect()
}

/// The variables to which the file refers.
fn references(tree: &Value, names: &mut BTreeSet<String>) {
    match tree {
        Value::Object(map) => map.iter().for_each(|(key, value)| match value {
            Value::String(name) if key == "env" => drop(names.insert(name.clone())),
            value => references(value, names),
        }),
        Value::Array(list) => list.iter().for_each(|value| references(value, names)),
        _ => {}
    }
}

/// Kubernetes gives each pod variables of every service in its namespace: of one named `revgate`, `REVGATE_SERVICE_HOST`, `REVGATE_PORT`,
/// `REVGATE_PORT_8080_TCP` and more.
fn is_of_a_kubernetes_service(name: &str, env: &BTreeMap<String, String>) -> bool {
    ["_SERVICE_", "_PORT"].iter().any(|part| {
        let mut service = name.match_indices(part).map(|(at, _)| &name[..at]);
        service.any(|service| env.contains_key(&format!("{service}_SERVICE_HOST")))
    })
}

/// The name of each variable that can override something.
fn variables(keys: &[Key], tree: &Value, above: &str, all: &mut Vec<String>) {
    for key in keys {
        let name = format!("{above}{SEPARATOR}{}", key.name.to_uppercase());
        let value = &tree[key.name];
        if is_by_name(Some(key)) {
            for (entry, value) in value.as_object().into_iter().flatten() {
                let entry = folded(entry).to_uppercase();
                variables(&key.keys, value, &format!("{name}{SEPARATOR}{entry}"), all);
            }
        } else if key.keys.is_empty() {
            all.push(name);
        } else {
            variables(&key.keys, value, &name, all);
        }
    }
}

fn nearest<'a>(stray: &str, ours: &'a [String]) -> Option<&'a String> {
    let words = folded(stray);
    let distance = |name: &&String| strsim::damerau_levenshtein(&folded(name), &words);
    let best = ours.iter().min_by_key(distance)?;
    // Of the part that is not the same in all.
    let length = words.len().saturating_sub("revgate_".len());
    (distance(&best) <= 1 + length / 6).then_some(best)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{Config, from_toml, section::Notation},
        *,
    };

    const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015a";

    fn env(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
        let given = variables
            .iter()
            .chain(&[("T", "token"), ("REVGATE_TOKEN", "token")]);
        given
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    /// A file with these callers, and two tokens.
    fn file(callers: &[&str]) -> String {
        let mut text =
            "[tokens.\"Main.EU\"]\nenv = \"T\"\n[tokens.two]\nenv = \"REVGATE_TOKEN\"\n".to_owned();
        for (number, name) in callers.iter().enumerate() {
            text +=
                &format!("[callers.{name:?}]\nkey_sha256 = \"{HASH}{number}\"\ntoken = \"two\"\n");
        }
        text
    }

    /// The weights of all callers that are not 1, or the problems.
    fn weights(callers: &[&str], variables: &[(&str, &str)]) -> Result<Vec<(String, u32)>, String> {
        let config = from_toml(&file(callers), &env(variables)).map_err(|e| e.to_string())?;
        let callers = config.callers.into_iter();
        let changed = callers.filter(|(_, caller)| caller.rules.weight != 1);
        Ok(changed
            .map(|(name, caller)| (name, caller.rules.weight))
            .collect())
    }

    #[test]
    fn a_variable_finds_names_in_any_spelling() {
        for (callers, variable, want) in [
            (
                &["billing"][..],
                "REVGATE__CALLERS__BILLING__WEIGHT",
                "billing",
            ),
            (&["Billing"], "REVGATE__CALLERS__BILLING__WEIGHT", "Billing"),
            (&["Billing"], "revgate__callers__billing__weight", "Billing"),
            (
                &["shop.eu", "shop.us"],
                "REVGATE__CALLERS__SHOP_EU__WEIGHT",
                "shop.eu",
            ),
            (&["shop-eu"], "REVGATE__CALLERS__SHOP_EU__WEIGHT", "shop-eu"),
            (&["shop-eu"], "REVGATE__CALLERS__shop-eu__WEIGHT", "shop-eu"),
            (
                &["Shop--EU: 1"],
                "REVGATE__CALLERS__SHOP_EU_1__WEIGHT",
                "Shop--EU: 1",
            ),
            (&["-a-"], "REVGATE__CALLERS__A__WEIGHT", "-a-"),
            (&["büro"], "REVGATE__CALLERS__B_RO__WEIGHT", "büro"),
            (&["Büro"], "REVGATE__CALLERS__BÜRO__WEIGHT", "Büro"),
            (&["計"], "REVGATE__CALLERS__計__WEIGHT", "計"),
            (&["a_b", "ab"], "REVGATE__CALLERS__A_B__WEIGHT", "a_b"),
        ] {
            let got = weights(callers, &[(variable, "7")]);
            assert_eq!(
                got,
                Ok(vec![(want.to_owned(), 7)]),
                "{callers:?} {variable}"
            );
        }
        let group = ("REVGATE__TOKENS__MAIN_EU__QUOTA_GROUP", "007");
        let config = from_toml(&file(&["a"]), &env(&[group])).unwrap();
        assert_eq!(&*config.tokens["Main.EU"].quota_group, "007");
        let headers =
            "[trace]\notlp = \"http://127.0.0.1:1\"\nheaders = { X-Api-Key = { env = \"T\" } }\n";
        let variable = ("REVGATE__TRACE__HEADERS__X_API_KEY__ENV", "REVGATE_TOKEN");
        let config = from_toml(&(file(&["a"]) + headers), &env(&[variable])).unwrap();
        assert!(
            config.redacted()["trace"]
                .to_string()
                .contains("REVGATE_TOKEN")
        );
    }

    /// The beginning of the problem, a part of it, and never the value.
    #[test]
    fn what_cannot_be_found_says_how() {
        let made = "it comes from REVGATE__CALLERS__NEW__WEIGHT alone (the file has `Shop.EU`, `b`, `new`; a variable has a name in capitals";
        for (callers, variables, begins, says) in [
            (
                &["shop-eu", "Shop.EU"][..],
                &[("REVGATE__CALLERS__SHOP_EU__WEIGHT", "77")][..],
                "REVGATE__CALLERS__SHOP_EU__WEIGHT: means both `Shop.EU` and `shop-eu` in callers",
                "rename one",
            ),
            (
                &["Billing", "billing"],
                &[("REVGATE__CALLERS__BILLING__WEIGHT", "77")],
                "REVGATE__CALLERS__BILLING__WEIGHT: means both `Billing` and `billing` in callers",
                "",
            ),
            (
                &["b", "Shop.EU"],
                &[("REVGATE__CALLERS__NEW__WEIGHT", "77")],
                "REVGATE__CALLERS__NEW__WEIGHT: callers.new: has no credential",
                &made.replace(", `new`", ""),
            ),
            (
                &["b"],
                &[("REVGATE__CALLERS__B__WEIGHT", "0")],
                "REVGATE__CALLERS__B__WEIGHT: callers.b.weight: \"0\" is not valid; write",
                "",
            ),
            (
                &["b"],
                &[("REVGATE__CALLERS__B__WIEGHT", "77")],
                "REVGATE__CALLERS__B__WIEGHT: callers.b.wieght: unknown key; did you mean `weight`?",
                "",
            ),
            (
                &["b"],
                &[("REVGATE__LISTNE__ADDRESS", "77")],
                "REVGATE__LISTNE__ADDRESS: listne: unknown key; did you mean `listen`?",
                "; it comes from REVGATE__LISTNE__ADDRESS alone",
            ),
            (
                &["b"],
                &[("REVGATE__LISTEN____ADDRESS", "77")],
                "REVGATE__LISTEN____ADDRESS: has an empty part",
                "",
            ),
            (
                &["b"],
                &[("REVGATE__", "77")],
                "REVGATE__: has an empty part",
                "",
            ),
            (
                &["b"],
                &[("REVGATE__RETRY", "77"), ("REVGATE__RETRY__BUDGET", "77")],
                "REVGATE__RETRY: retry: a string must be a table",
                "REVGATE__RETRY__BUDGET: another variable sets",
            ),
        ] {
            let problems = weights(callers, variables).unwrap_err();
            assert!(problems.starts_with(begins), "{variables:?}: {problems}");
            assert!(problems.contains(says), "{variables:?}: {problems}");
            assert!(!problems.contains("77"), "{problems}");
        }
    }

    #[test]
    fn a_caller_may_come_from_variables_alone() {
        let hash = format!("{HASH}f");
        let variables = [
            ("REVGATE__CALLERS__NEW_ONE__KEY_SHA256", hash.as_str()),
            ("REVGATE__CALLERS__NEW_ONE__TOKEN", "two"),
            ("REVGATE__CALLERS__NEW_ONE__WEIGHT", "7"),
        ];
        assert_eq!(
            weights(&["b"], &variables),
            Ok(vec![("new_one".to_owned(), 7)])
        );
    }

    #[test]
    fn a_variable_that_changes_nothing_is_a_warning() {
        let other = "two underscores between its parts, such as REVGATE__LISTEN__ADDRESS";
        for (variable, says) in [
            (
                "REVGATE_LISTEN__ADDRESS",
                "did you mean REVGATE__LISTEN__ADDRESS?",
            ),
            (
                "REVGATE_LISTEN_ADDRESS",
                "did you mean REVGATE__LISTEN__ADDRESS?",
            ),
            (
                "REVGATE_LISTEN_ADRESS",
                "did you mean REVGATE__LISTEN__ADDRESS?",
            ),
            (
                "REVGATE_RETRY__BACKOFF__MIN",
                "did you mean REVGATE__RETRY__BACKOFF__MIN?",
            ),
            (
                "REVGATE_CALLERS_SHOP_EU_RATE",
                "did you mean REVGATE__CALLERS__SHOP_EU__RATE?",
            ),
            ("REVGATE_CONFG", "did you mean REVGATE_CONFIG?"),
            ("Revgate_log_level", "did you mean REVGATE__LOG__LEVEL?"),
            ("REVGATE_SOMETHING_ELSE", other),
            ("REVGATE_X", other),
            ("REVGATE_PORT", other),
            ("REVGATE_CONFIG", ""),
            ("REVGATE_TOKEN", ""),
            ("REVGATE", ""),
            ("REVGATES", ""),
            ("OTHER_REVGATE_X", ""),
        ] {
            let config = from_toml(&file(&["Shop.EU"]), &env(&[(variable, "77")])).unwrap();
            let warnings: Vec<_> = config
                .warnings
                .iter()
                .map(|w| format!("{}: {}", w.path, w.message))
                .collect();
            assert_eq!(
                warnings.len(),
                usize::from(!says.is_empty()),
                "{variable}: {warnings:?}"
            );
            for warning in warnings {
                assert!(warning.starts_with(&format!("{variable}: ")), "{warning}");
                assert!(
                    warning.contains(says) && !warning.contains("77"),
                    "{warning}"
                );
            }
        }
    }

    /// A service named `revgate` gives its own pods such variables.
    #[test]
    fn variables_of_kubernetes_services_are_no_warning() {
        let service = [
            ("REVGATE_SERVICE_HOST", "10.0.0.1"),
            ("REVGATE_SERVICE_PORT", "8080"),
            ("REVGATE_SERVICE_PORT_HTTP", "8080"),
            ("REVGATE_PORT", "tcp://10.0.0.1:8080"),
            ("REVGATE_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("REVGATE_PORT_8080_TCP_ADDR", "10.0.0.1"),
            ("REVGATE_ADMIN_SERVICE_HOST", "10.0.0.2"),
            ("REVGATE_ADMIN_PORT_9901_TCP_PROTO", "tcp"),
        ];
        let config = from_toml(&file(&["a"]), &env(&service)).unwrap();
        assert_eq!(config.warnings, []);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Every caller of a file is reached by the variable with its folded name, or the file has two such, and both are named.
        #[test]
        fn every_name_is_reached_or_ambiguous(names in proptest::collection::btree_set("[a-zA-Z0-9._ -]{0,4}[a-zA-Z0-9]", 1..4), value in 2..9_u32) {
            let names: Vec<&str> = names.iter().map(String::as_str).filter(|name| *name != "other").collect();
            for name in &names {
                let variable = format!("REVGATE__CALLERS__{}__WEIGHT", folded(name).to_uppercase());
                let same: Vec<_> = names.iter().filter(|other| folded(other) == folded(name)).collect();
                let got = weights(&names, &[(&variable, &value.to_string())]);
                match (got, same.len()) {
                    (Ok(weights), 1) => prop_assert_eq!(weights, vec![((*name).to_owned(), value)]),
                    (Err(problems), 2..) => prop_assert!(problems.contains("means both")),
                    (got, count) => prop_assert!(false, "{got:?} {count}"),
                }
            }
        }
    }

    /// Tables by name are known from their declarations.
    #[test]
    fn tables_by_name_are_found() {
        let keys = Config::keys();
        let by_name = keys.iter().filter(|key| is_by_name(Some(key)));
        let by_name: Vec<_> = by_name.map(|key| key.name).collect();
        assert_eq!(by_name, ["tokens", "callers"]);
    }
}
