//! Compares the table of extensions in the documentation of `src/stack.rs` with the code: who writes and who reads each type in the
//! extensions of a request or an answer.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    quoted, rows,
    source::{self, is_word, none, read, sources},
};

/// Who writes a type, and who reads it.
#[derive(Debug, Default, PartialEq)]
struct Use {
    writers: BTreeSet<String>,
    readers: BTreeSet<String>,
}

type Uses = BTreeMap<String, Use>;

fn last_word(text: &str) -> &str {
    let end = text.trim_end_matches(|c| !is_word(c));
    end.rsplit(|c| !is_word(c)).next().unwrap_or("")
}

/// The table. A row may name several types.
fn documented(stack: &str) -> Uses {
    let doc: String = stack
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .map(|line| format!("{}\n", line.trim_start_matches("//!").trim_start()))
        .collect();
    let mut all = Uses::new();
    for row in rows(&doc) {
        let names = |cell: &str| {
            quoted(cell)
                .map(str::to_owned)
                .collect::<BTreeSet<String>>()
        };
        for kind in quoted(row[0]) {
            let found = all.entry(kind.to_owned()).or_default();
            found.writers.extend(names(row[1]));
            found.readers.extend(names(row[2]));
        }
    }
    all
}

/// The name of a source in the table: the layer, or else the folder or file under `src`.
fn place(path: &str) -> Option<&str> {
    let path = path.strip_prefix("src/")?;
    let path = path.strip_prefix("layer/").unwrap_or(path);
    path.split(['/', '.']).next()
}

/// Adds the extensions that one source reads and writes. `types` are the candidates where the code names no type.
fn touched(path: &str, code: &str, types: &[&str], uses: &mut Uses, faults: &mut Vec<String>) {
    let Some(place) = place(path) else { return };
    for (at, _) in code.match_indices("extensions") {
        if code[..at].ends_with(is_word) {
            continue;
        }
        let behind = &code[at + "extensions".len()..];
        let behind = behind.strip_prefix("_mut").unwrap_or(behind);
        let call = behind.strip_prefix("()");
        let behind = call.unwrap_or(behind).trim_start();
        let Some(method) = behind.strip_prefix('.') else {
            // This test cannot follow them under another name.
            let bound = code[..at].rfind("let ").is_some_and(|start| {
                code[start..at].starts_with("let extensions =") && !code[start..at].contains(';')
            });
            if call.is_some() && !bound {
                faults.push(format!(
                    "{path}: extensions() is bound to another name than `extensions`"
                ));
            }
            continue;
        };
        let name: &str = method.split(|c| !is_word(c)).next().unwrap_or("");
        let rest = &method[name.len()..];
        let start = code[..at].rfind([';', '{', '}']).map_or(0, |end| end + 1);
        let statement = &code[start..at + code[at..].find(';').unwrap_or(code.len() - at)];
        let kind = match rest.strip_prefix("::<") {
            Some(generic) => Some(last_word(generic.split('(').next().unwrap_or(""))),
            None if name == "insert" => written(rest, types),
            None => types.iter().copied().find(|kind| {
                let pattern = format!("{kind}(");
                statement
                    .match_indices(&pattern)
                    .any(|(at, _)| !statement[..at].ends_with(is_word))
            }),
        };
        let Some(kind) = kind else {
            let line = statement.trim();
            faults.push(format!(
                "{path}: say which type this is, as in {name}::<Type>: {line}"
            ));
            continue;
        };
        let found = uses.entry(kind.to_owned()).or_default();
        let places = match name {
            "insert" => &mut found.writers,
            _ => &mut found.readers,
        };
        places.insert(place.to_owned());
    }
}

/// The type of `(value)`: that of a constructor, or that which the variable is named after: `caller_token` or `token` for
/// `CallerToken`.
fn written<'a>(argument: &'a str, types: &[&'a str]) -> Option<&'a str> {
    let value = argument.strip_prefix('(')?.trim_start();
    let value = value.strip_prefix("Arc::new(").unwrap_or(value);
    let end = value.find(|c: char| !is_word(c) && c != '.' && c != ':')?;
    let path = value[..end].trim_end_matches(".clone");
    let mut segments = path.rsplit("::");
    if let Some(kind) = segments.find(|name| name.starts_with(|c: char| c.is_ascii_uppercase())) {
        return Some(kind);
    }
    let word = last_word(path);
    if let Some(kind) = types.iter().find(|kind| words_of(kind).join("_") == word) {
        return Some(kind);
    }
    let mut fitting = types
        .iter()
        .copied()
        .filter(|kind| words_of(kind).iter().any(|part| part == word));
    let kind = fitting.next()?;
    fitting.next().is_none().then_some(kind)
}

/// `CallerToken` is `caller` and `token`.
fn words_of(kind: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for c in kind.chars() {
        if c.is_ascii_uppercase() || words.is_empty() {
            words.push(String::new());
        }
        let word = words.last_mut().expect("a word");
        word.push(c.to_ascii_lowercase());
    }
    words
}

/// What layers read through a function of `src/layer/mod.rs`.
fn through_shared(layers: &[(String, String)], types: &[&str], uses: &mut Uses) {
    let shared = source::code("src/layer/mod.rs", &read("src/layer/mod.rs"));
    for function in shared.split("\npub(crate) fn ").skip(1) {
        let name = function.split(|c| !is_word(c)).next().unwrap_or("");
        let mut read = Uses::new();
        let body = function.split("\n}\n").next().unwrap_or(function);
        touched("src/layer/mod.rs", body, types, &mut read, &mut Vec::new());
        for (path, code) in layers {
            let calls = code.match_indices(&format!("{name}(")).any(|(at, _)| {
                !code[..at].ends_with(|c| is_word(c) || c == '.') && !code[..at].ends_with("fn ")
            });
            if !calls {
                continue;
            }
            for kind in read.keys() {
                let found = uses.entry(kind.clone()).or_default();
                found.readers.extend(place(path).map(str::to_owned));
            }
        }
    }
}

#[test]
fn the_table_of_extensions_is_what_the_code_does() {
    let documented = documented(&read("src/stack.rs"));
    assert!(documented.len() > 5, "the table was not found");
    let types: Vec<&str> = documented.keys().map(String::as_str).collect();
    let all: Vec<(String, String)> = sources("src")
        .into_iter()
        .map(|(path, text)| (path.clone(), source::code(&path, &text)))
        .collect();
    let (mut uses, mut faults) = (Uses::new(), Vec::new());
    for (path, code) in all.iter().filter(|(path, _)| path != "src/layer/mod.rs") {
        touched(path, code, &types, &mut uses, &mut faults);
    }
    let layers: Vec<(String, String)> = all
        .iter()
        .filter(|(path, _)| path.starts_with("src/layer/") && path != "src/layer/mod.rs")
        .cloned()
        .collect();
    through_shared(&layers, &types, &mut uses);
    let kinds: BTreeSet<&String> = documented.keys().chain(uses.keys()).collect();
    for kind in kinds {
        let none = Use::default();
        let (says, does) = (
            documented.get(kind).unwrap_or(&none),
            uses.get(kind).unwrap_or(&none),
        );
        if says.writers != does.writers {
            faults.push(format!(
                "src/stack.rs: {kind} is written by {:?}, the table says {:?}",
                does.writers, says.writers
            ));
        }
        if says.readers != does.readers {
            faults.push(format!(
                "src/stack.rs: {kind} is read by {:?}, the table says {:?}",
                does.readers, says.readers
            ));
        }
    }
    none(&faults);
}

#[test]
fn uses_are_found_in_code() {
    let code = "
        let extensions = request.extensions_mut();
        extensions.insert(unknown.caller_token.clone());
        extensions.insert(Operation::from_path(path));
        extensions.insert(Arrived(at));
        extensions.insert(Arc::new(Caller { name }));
        let operation = request.extensions().get::<Operation>()?;
        let time = head.extensions.get().map(|Demand(time)| *time);
        let caller = head
            .extensions
            .get::<Arc<Caller>>();
        let other = request.extensions();
        use_it(extensions.get());
    ";
    let types = ["Arrived", "Caller", "CallerToken", "Demand", "Operation"];
    let (mut uses, mut faults) = (Uses::new(), Vec::new());
    touched(
        "src/layer/quota/mod.rs",
        code,
        &types,
        &mut uses,
        &mut faults,
    );
    let of = |kind: &str| (uses[kind].writers.len(), uses[kind].readers.len());
    assert_eq!(of("CallerToken"), (1, 0));
    assert_eq!(of("Arrived"), (1, 0));
    assert_eq!(of("Caller"), (1, 1));
    assert_eq!(of("Operation"), (1, 1));
    assert_eq!(of("Demand"), (0, 1));
    assert_eq!(faults.len(), 2, "{faults:?}");
}
