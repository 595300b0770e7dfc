//! Checks that the documents agree with the code and with each other, by reading both as text.

mod architecture;
mod extensions;
mod links;
mod source;

use source::{none, read};

/// All documents, as paths from the repository's root.
const DOCUMENTS: [&str; 11] = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "config/README.md",
    "config/reference.md",
    "config/simulator.md",
    "deploy/A-DAY.md",
    "deploy/README.md",
    "tests/bench/README.md",
    "src/ARCHITECTURE.md",
];

/// The section of this heading, up to the next heading of the same or a higher level.
fn section<'a>(document: &'a str, heading: &str) -> &'a str {
    let start = document
        .find(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("no heading {heading:?}"));
    let body = &document[start + heading.len() + 2..];
    let level = heading.chars().take_while(|&c| c == '#').count();
    let ends = (1..=level).filter_map(|n| body.find(&format!("\n{} ", "#".repeat(n))));
    &body[..ends.min().unwrap_or(body.len())]
}

/// The cells of each row of the tables in a text, without heads and rules.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let lines: Vec<&str> = text.lines().collect();
    let is_rule = |line: &&str| line.starts_with("|--") || line.starts_with("| --");
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let head = lines.get(at + 1).is_some_and(is_rule);
        if line.starts_with('|') && !head && !is_rule(line) {
            let cells = line.trim_matches('|').split(" | ");
            found.push(cells.map(str::trim).collect());
        }
    }
    found
}

/// The words in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The fenced blocks of one language.
fn blocks<'a>(document: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("\n```{language}\n");
    let starts = document
        .match_indices(&fence)
        .map(|(at, _)| at + fence.len());
    starts
        .map(|at| {
            let end = document[at..].find("```").expect("the block ends");
            &document[at..at + end]
        })
        .collect()
}

#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(
        lines <= 200,
        "README.md: {lines} lines, at most 200; move details to config/README.md or deploy/README.md"
    );
}

/// Another test loads the examples, so this one loads as well.
#[test]
fn the_readmes_configuration_is_an_example() {
    let readme = read("README.md");
    let example = read("config/examples/three-callers.toml");
    assert!(
        blocks(&readme, "toml").contains(&example.as_str()),
        "README.md: no block is config/examples/three-callers.toml"
    );
}

/// The README has every command of the program.
#[test]
fn every_command_is_in_the_readme() {
    let cli = read("src/cli.rs");
    let (_, from) = cli.split_once("\nenum Command {\n").expect("the commands");
    let body = from.split("\n}\n").next().unwrap_or(from);
    let names: Vec<String> = body
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
        .map(|line| {
            let name = line.split(|c: char| !c.is_alphanumeric()).next();
            let mut kebab = String::new();
            for c in name.unwrap_or_default().chars() {
                if c.is_ascii_uppercase() && !kebab.is_empty() {
                    kebab.push('-');
                }
                kebab.push(c.to_ascii_lowercase());
            }
            kebab
        })
        .collect();
    assert!(names.len() > 4, "the commands were not found: {names:?}");
    let readme = read("README.md");
    let missing = names
        .iter()
        .filter(|name| !readme.contains(&format!("`revgate {name}")));
    none(
        &missing
            .map(|name| format!("README.md: `revgate {name}` is missing"))
            .collect::<Vec<_>>(),
    );
}

/// `.ci/run` compares the toolchain with `rust-version`, so the version that documents name is the one that is tested.
#[test]
fn all_documents_name_the_same_rust_version() {
    let manifest = read("Cargo.toml");
    let (_, rest) = manifest
        .split_once("rust-version = \"")
        .expect("rust-version");
    let version = rest.split('"').next().unwrap_or_default();
    let readme = read("README.md");
    assert!(
        readme.contains(&format!("Rust {version}")),
        "README.md does not say Rust {version}, as Cargo.toml does"
    );
}

#[test]
fn sections_rows_and_blocks_are_found() {
    let text = "# A\n\n## B\n\n| x | y |\n|---|---|\n| `a` | 1 |\n\n### C\n\n```toml\nk = 1\n```\n\n## D\n";
    assert_eq!(section(text, "## D"), "");
    let b = section(text, "## B");
    assert!(b.contains("### C") && !b.contains("## D"), "{b}");
    assert_eq!(rows(b), [["`a`", "1"]]);
    assert_eq!(quoted("a `b` and `c`").collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(blocks(text, "toml"), ["k = 1\n"]);
}
