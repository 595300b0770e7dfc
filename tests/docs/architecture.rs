//! Compares the lists in `src/ARCHITECTURE.md` with the code: modules, invariants and their tests, dependencies.

use std::collections::BTreeSet;

use super::{
    quoted, rows, section,
    source::{entries, layers_of, none, read, root},
};

const PATH: &str = "src/ARCHITECTURE.md";

/// The paths in the first cell of a row of the code map, below `src`: `config/`, or `cli.rs`.
fn named_in(cell: &str) -> Vec<&str> {
    quoted(cell).collect()
}

#[test]
fn the_code_map_names_everything_in_src() {
    let document = read(PATH);
    let rows = rows(section(&document, "## Code map"));
    let mut faults = Vec::new();
    let mut named = BTreeSet::new();
    for name in rows.iter().flat_map(|row| named_in(row[0])) {
        if !named.insert(name.to_owned()) {
            faults.push(format!("{PATH}: {name} has two rows in the code map"));
        }
    }
    let mut there = entries("src");
    there.remove("ARCHITECTURE.md");
    for name in there.difference(&named) {
        faults.push(format!("{PATH}: src/{name} is not in the code map"));
    }
    for name in named.difference(&there) {
        faults.push(format!(
            "{PATH}: the code map names src/{name}, which does not exist"
        ));
    }
    none(&faults);
}

#[test]
fn the_code_map_names_every_module_of_a_folder() {
    let document = read(PATH);
    let is_module = |word: &&str| {
        word.starts_with(|c: char| c.is_ascii_lowercase())
            && word
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let mut faults = Vec::new();
    for row in rows(section(&document, "## Code map")) {
        let folders: Vec<&str> = named_in(row[0])
            .into_iter()
            .filter(|name| name.ends_with('/') && root().join("src").join(name).is_dir())
            .collect();
        if folders.is_empty() {
            continue;
        }
        let mut there = BTreeSet::new();
        // Modules of nested folders may be named too, but need not be.
        let mut deeper = BTreeSet::new();
        for folder in &folders {
            for name in entries(&format!("src/{folder}")) {
                if let Some(folder_within) = name.strip_suffix('/') {
                    there.insert(folder_within.to_owned());
                    let within = entries(&format!("src/{folder}{name}"));
                    deeper.extend(within.iter().map(|n| stem(n).to_owned()));
                } else if name.ends_with(".rs") && !matches!(name.as_str(), "mod.rs" | "tests.rs") {
                    there.insert(stem(&name).to_owned());
                }
            }
        }
        let named: BTreeSet<String> = quoted(row[1])
            .filter(is_module)
            .map(str::to_owned)
            .collect();
        let folders = folders.join(", ");
        for name in there.difference(&named) {
            faults.push(format!(
                "{PATH}: the code map's row of {folders} does not name `{name}`"
            ));
        }
        for name in named
            .iter()
            .filter(|n| !there.contains(*n) && !deeper.contains(*n))
        {
            faults.push(format!(
                "{PATH}: the code map's row of {folders} names `{name}`, which does not exist"
            ));
        }
    }
    none(&faults);
}

fn stem(name: &str) -> &str {
    name.trim_end_matches('/').split('.').next().unwrap_or(name)
}

/// The invariants: each number with its text.
fn invariants(document: &str) -> Vec<(u32, String)> {
    let mut found: Vec<(u32, String)> = Vec::new();
    for line in section(document, "## Invariants").lines() {
        let number = line.split_once(". ").and_then(|(n, _)| n.parse().ok());
        match (number, found.last_mut()) {
            (Some(number), _) => found.push((number, line.to_owned())),
            (None, Some((_, text))) => {
                text.push(' ');
                text.push_str(line.trim());
            }
            (None, None) => {}
        }
    }
    found
}

/// The tests behind `Held by` of an invariant: files, each with its functions.
fn holders(text: &str) -> Vec<(String, Vec<String>)> {
    let Some((_, list)) = text.rsplit_once("Held by ") else {
        return Vec::new();
    };
    let of_file = list.split(';').map(|part| {
        let mut names = quoted(part).map(str::to_owned);
        (names.next().unwrap_or_default(), names.collect())
    });
    of_file.collect()
}

#[test]
fn invariants_are_numbered_once_and_each_names_its_tests() {
    let document = read(PATH);
    // A numbered list elsewhere would be mistaken for invariants.
    let numbered = document.lines().filter(|line| {
        line.split_once(". ")
            .is_some_and(|(n, _)| n.parse::<u32>().is_ok())
    });
    let all = invariants(&document);
    assert_eq!(
        numbered.count(),
        all.len(),
        "{PATH}: only invariants are numbered"
    );
    assert!(all.len() > 30, "only {} invariants were found", all.len());

    let mut faults = Vec::new();
    for ((number, text), expected) in all.iter().zip(1..) {
        if *number != expected {
            faults.push(format!(
                "{PATH}: invariant {number} stands where {expected} should"
            ));
        }
        let holders = holders(text);
        if !holders.iter().any(|(_, tests)| !tests.is_empty()) {
            faults.push(format!("{PATH}: invariant {number} names no test"));
        }
        for (file, tests) in holders {
            if !root().join(&file).is_file() {
                faults.push(format!(
                    "{PATH}: invariant {number}: there is no file {file}"
                ));
                continue;
            }
            let source = read(&file);
            if tests.is_empty() {
                faults.push(format!(
                    "{PATH}: invariant {number}: names no test of {file}"
                ));
            }
            for test in tests.iter().filter(|test| !is_test(&source, test)) {
                faults.push(format!(
                    "{PATH}: invariant {number}: {file} has no test {test}"
                ));
            }
        }
    }
    none(&faults);
}

/// Whether the source has a test of this name.
fn is_test(source: &str, name: &str) -> bool {
    let Some(at) = source.find(&format!("fn {name}(")) else {
        return false;
    };
    // Its attributes: the text after the item before it.
    let before = &source[..at];
    let attributes = before
        .rfind(['}', ';', '{'])
        .map_or(before, |end| &before[end..]);
    attributes.contains("#[test]")
        || attributes.contains("::test]")
        || attributes.contains("::test(")
}

#[test]
fn the_dependency_table_is_that_of_the_manifest() {
    let manifest: toml::Table = read("Cargo.toml").parse().expect("TOML");
    let crates = |section: &str| -> BTreeSet<String> {
        let table = manifest[section].as_table().expect("a table");
        table.keys().cloned().collect()
    };
    let mut wanted = crates("dependencies");
    wanted.extend(crates("dev-dependencies"));

    let document = read(PATH);
    let mut faults = Vec::new();
    let mut named = BTreeSet::new();
    for row in rows(section(&document, "## Dependencies")) {
        for name in quoted(row[0]) {
            if !named.insert(name.to_owned()) {
                faults.push(format!("{PATH}: the dependency {name} stands twice"));
            }
        }
        if row.get(1).is_none_or(|reason| reason.is_empty()) {
            faults.push(format!("{PATH}: {} has no reason", row[0]));
        }
    }
    for name in wanted.difference(&named) {
        faults.push(format!("{PATH}: the dependency {name} has no row"));
    }
    for name in named.difference(&wanted) {
        faults.push(format!("{PATH}: {name} is no dependency of Cargo.toml"));
    }
    none(&faults);
}

#[test]
fn the_way_of_a_request_is_the_order_of_the_stack() {
    let stack = read("src/stack.rs");
    let built: Vec<&str> = layers_of(&stack).chain(["upstream"]).collect();
    let document = read(PATH);
    let documented: Vec<&str> = rows(section(&document, "## The way of a request"))
        .iter()
        .map(|row| row[1].trim_matches('`'))
        .collect();
    assert_eq!(documented, built, "{PATH}, src/stack.rs");
}

#[test]
fn invariants_and_tests_are_found() {
    let text = "\n## Invariants\n\n1. One.\n   Held by `a.rs`: `x`, `y`; `b.rs`: `z`.\n2. Two.\n";
    let all = invariants(text);
    assert_eq!(all.len(), 2);
    let expected = [("a.rs", vec!["x", "y"]), ("b.rs", vec!["z"])]
        .map(|(f, t)| (f.to_owned(), t.into_iter().map(str::to_owned).collect()));
    assert_eq!(holders(&all[0].1), expected);
    assert!(holders(&all[1].1).is_empty());
    let source = "fn helper() {}\n#[tokio::test(start_paused = true)]\nasync fn waits() {}\n#[test]\nfn t() {}";
    assert!(is_test(source, "waits") && is_test(source, "t"));
    assert!(!is_test(source, "helper") && !is_test(source, "gone"));
}
