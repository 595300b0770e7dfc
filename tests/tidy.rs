//! Checks that the code has the structure that `src/ARCHITECTURE.md` describes, by reading the sources as text, and that the documents
//! have the program's names.

#[path = "docs/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};

use revgate::{
    error::{AuthFailure, Code},
    event::Event,
    telemetry::labels::{
        self, Decision, ExchangeResult, Introspection, Lost, RegisterState, Sharing, SpanDrop,
    },
};
use source::{is_word, layers_of, none, production, read};

const MAX_LINES: usize = 400;

/// A file under `src`: its path below `src`, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The text without tests and whole-line comments.
    fn code(&self) -> String {
        source::code(&self.path, &self.text)
    }

    fn named_below(&self, prefix: &str) -> Vec<String> {
        below(&self.code(), prefix)
    }
}

/// All paths in `code` that begin with `prefix` (`crate`, `super`, `std`), without it and with groups expanded: `use
/// super::{headers::ID, other}` gives `headers::ID` and `other`.
fn below(code: &str, prefix: &str) -> Vec<String> {
    let needle = format!("{prefix}::");
    let mut found = Vec::new();
    for (at, _) in code.match_indices(&needle) {
        if code[..at].ends_with(is_word) || code[..at].ends_with("::") {
            continue;
        }
        let rest = &code[at + needle.len()..];
        match rest.strip_prefix('{') {
            None => found.push(
                rest.split(|c: char| !is_word(c) && c != ':')
                    .next()
                    .unwrap_or("")
                    .to_owned(),
            ),
            Some(group) => found.extend(members(group)),
        }
    }
    found
}

/// The members of a group up to its closing brace. Nested groups are not split.
fn members(group: &str) -> Vec<String> {
    let (mut depth, mut all, mut member) = (0, Vec::new(), String::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                all.push(std::mem::take(&mut member));
                continue;
            }
            _ => {}
        }
        if !c.is_whitespace() {
            member.push(c);
        }
    }
    all.push(member);
    all.retain(|member| !member.is_empty());
    all
}

fn first(path: &str) -> &str {
    path.split(':').next().unwrap_or("")
}

fn sources() -> Vec<Source> {
    let files = source::sources("src").into_iter();
    let files: Vec<Source> = files
        .map(|(path, text)| Source {
            path: path.trim_start_matches("src/").to_owned(),
            text,
        })
        .collect();
    assert!(files.len() > 10, "the sources were not found");
    files
}

/// The files of all layers, without the parent module.
fn layers() -> Vec<Source> {
    sources()
        .into_iter()
        .filter(|file| file.path.starts_with("layer/") && file.path != "layer/mod.rs")
        .collect()
}

#[test]
fn policy_is_pure() {
    let mut faults = Vec::new();
    for file in sources()
        .iter()
        .filter(|file| file.path.starts_with("policy/"))
    {
        let code = file.code();
        for banned in ["tokio", "hyper", "tower", "tracing"] {
            if !below(&code, banned).is_empty() || code.contains(&format!("use {banned};")) {
                faults.push(format!(
                    "src/{}: uses {banned}; pass in what it is needed for",
                    file.path
                ));
            }
        }
        for path in file.named_below("std") {
            if matches!(first(&path), "fs" | "env") {
                faults.push(format!(
                    "src/{}: uses std::{path}; pass in what it is needed for",
                    file.path
                ));
            }
        }
    }
    none(&faults);
}

/// Whoever compares a path by itself has one reading of it, and a server behind may have another.
#[test]
fn only_the_operation_looks_at_the_path() {
    // They make an operation of it.
    const ASK: &str = "Operation::from_path(";
    let mut faults = Vec::new();
    let others = |path: &str| {
        // The simulator is a server, the admin listener has paths of its own, and the configuration has URLs.
        ["simulator/", "admin/", "config/"]
            .iter()
            .any(|folder| path.starts_with(folder))
    };
    for file in sources().iter().filter(|file| !others(&file.path)) {
        let code: String = file.code().split_whitespace().collect();
        for call in ["uri.path()", "uri().path()"] {
            for (at, _) in code.match_indices(call) {
                let asks =
                    code[..at].ends_with(ASK) || code[..at].ends_with(&format!("{ASK}request."));
                // The form of a target: a slash or an asterisk.
                let form = file.path == "policy/target.rs";
                if !asks && !form {
                    faults.push(format!(
                        "src/{}: looks at the path; ask the operation",
                        file.path
                    ));
                }
            }
        }
    }
    none(&faults);
}

/// What is set, read or stripped must not be reached by another spelling, so all of it is in one table.
#[test]
fn every_field_that_is_used_is_in_the_table_of_fields() {
    const TABLE: &str = "policy/headers.rs";
    // `Accept` is of revgate's own calls, and `Link` of its answers.
    const OTHERS: [&str; 2] = ["ACCEPT", "LINK"];
    let all = sources();
    let table = all.iter().find(|file| file.path == TABLE);
    let table = table.expect("the table").code();
    let has = |name: &str| table.contains(&format!("(\"{name}\", "));
    let mut faults = Vec::new();
    let ours = |path: &str| path.starts_with("layer/") || path.starts_with("policy/");
    for file in all.iter().filter(|file| ours(&file.path)) {
        let code = file.code();
        let mut names = BTreeSet::new();
        for (at, needle) in code.match_indices("header::") {
            let rest = &code[at + needle.len()..];
            let end = match rest.starts_with('{') {
                true => rest.find('}'),
                false => rest.find(|c| !is_word(c)),
            };
            let words = rest[..end.unwrap_or(rest.len())].split(|c| !is_word(c));
            let constant = |word: &&str| word.len() > 1 && *word == word.to_uppercase();
            names.extend(words.filter(constant).filter(|word| !OTHERS.contains(word)));
        }
        for name in names {
            let name = name.to_lowercase().replace('_', "-");
            let mut dashes = name.match_indices('-');
            if !has(&name) && !dashes.any(|(at, _)| has(&name[..=at])) {
                faults.push(format!(
                    "src/{}: uses {name}; give it a row in src/{TABLE}",
                    file.path
                ));
            }
        }
    }
    none(&faults);
}

#[test]
fn files_are_short() {
    let mut faults = Vec::new();
    for file in sources() {
        let lines = production(&file.path, &file.text).lines().count();
        if lines > MAX_LINES {
            faults.push(format!(
                "src/{}: {lines} lines without its tests, at most {MAX_LINES}; split it",
                file.path
            ));
        }
    }
    none(&faults);
}

#[test]
fn every_code_is_in_the_readme() {
    let readme = read("README.md");
    let rows: Vec<&str> = readme
        .lines()
        .filter(|line| line.starts_with('|'))
        .collect();
    let codes = Code::ALL.iter().map(|code| code.label());
    let missing = codes.filter(|code| {
        !rows
            .iter()
            .any(|row| row.starts_with(&format!("| `{code}` |")))
    });
    none(
        &missing
            .map(|code| format!("README.md: no row for the code `{code}`"))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn every_reason_is_documented() {
    let documents = ["README.md", "config/README.md", "deploy/README.md"];
    let text: String = documents.map(read).concat();
    let labels = AuthFailure::all()
        .map(AuthFailure::label)
        .chain(Introspection::ALL.iter().map(|result| result.label()))
        .chain(SpanDrop::ALL.iter().map(|reason| reason.label()))
        .chain(ExchangeResult::ALL.iter().map(|result| result.label()))
        .chain(Sharing::ALL.iter().map(|sharing| sharing.label()))
        .chain(Lost::ALL.iter().map(|lost| lost.label()))
        .chain(RegisterState::ALL.iter().map(|state| state.label()))
        .chain(labels::Source::ALL.iter().map(|source| source.label()))
        .chain(Decision::ALL.iter().map(|decision| decision.label()));
    let missing = labels.filter(|label| !text.contains(&format!("`{label}`")));
    none(
        &missing
            .map(|label| format!("no document says what `{label}` means"))
            .collect::<Vec<_>>(),
    );
}

/// Operators alert on events, so none is without an explanation, and nothing that is worth a warning is without an event.
#[test]
fn every_event_is_documented_and_used() {
    let document = read("deploy/README.md");
    let rows = document.lines().filter(|line| line.starts_with("| `"));
    let rows: String = rows
        .map(|row| row.split('|').nth(1).unwrap_or(""))
        .collect();
    let code: Vec<_> = sources()
        .iter()
        .map(|file| (file.path.clone(), file.code()))
        .collect();
    let mut faults = Vec::new();
    for event in Event::ALL {
        let label = event.label();
        if !rows.contains(&format!("`{label}`")) {
            faults.push(format!("deploy/README.md: no row for `{label}`"));
        }
        let named = format!("Event::{event:?}");
        if !code.iter().any(|(_, code)| code.contains(&named)) {
            faults.push(format!("no line has the event `{label}`"));
        }
    }
    let mut count = 0;
    for (path, code) in &code {
        for level in ["warn!(", "error!("] {
            for (at, _) in code.match_indices(level) {
                let line: String = code[at..].chars().take(200).collect();
                let fields = line.split('"').next().unwrap_or("");
                count += 1;
                if !fields.contains("event") {
                    faults.push(format!("src/{path}: no `event = Event::…` in {fields}"));
                }
            }
        }
    }
    assert!(count > 20, "only {count} lines were found");
    none(&faults);
}

/// The macros of the standard library panic if nobody reads. Clippy forbids them, unless somebody allows them again.
#[test]
fn only_one_module_prints() {
    let mut faults = Vec::new();
    for file in sources() {
        let code = file.code();
        for banned in ["println!", "print!", "eprintln!", "eprint!", "dbg!"] {
            let mut found = code.match_indices(banned);
            if found.any(|(at, _)| !code[..at].ends_with(is_word)) {
                faults.push(format!("src/{}: {banned}; use src/output.rs", file.path));
            }
        }
        let writes = ["stdout()", "stderr()"];
        // The build script is no part of the program; it speaks to Cargo.
        let may = ["output.rs", "telemetry/log.rs", "version/build.rs"];
        let may = may.contains(&file.path.as_str());
        if !may && writes.iter().any(|out| code.contains(out)) {
            faults.push(format!(
                "src/{}: writes to the standard streams; use src/output.rs",
                file.path
            ));
        }
    }
    none(&faults);
}

#[test]
fn layers_do_not_know_each_other() {
    let layers = layers();
    let names: Vec<&str> = layers
        .iter()
        .map(|file| {
            file.path
                .trim_start_matches("layer/")
                .trim_end_matches(".rs")
        })
        .collect();
    let mut faults = Vec::new();
    for file in &layers {
        for path in file.named_below("super") {
            if names.contains(&first(&path)) {
                faults.push(format!(
                    "src/{}: imports super::{path}; what two share goes to layer/mod.rs",
                    file.path
                ));
            }
        }
        for path in file.named_below("crate") {
            if first(&path) == "layer" {
                faults.push(format!(
                    "src/{}: imports crate::{path}; write super:: so that this test sees it",
                    file.path
                ));
            }
        }
    }
    none(&faults);
}

/// Who imports whom, of the modules directly under src, each below those that import it. Every arrow is there; no other is.
const IMPORTS: &[(&str, &[&str])] = &[
    ("hash", &[]),
    ("label", &[]),
    ("event", &["label"]),
    ("lock", &[]),
    ("output", &[]),
    ("random", &[]),
    ("bind", &[]),
    ("runtime", &[]),
    ("tcp", &[]),
    ("version", &[]),
    ("wall_clock", &[]),
    ("policy", &["hash", "label"]),
    ("body", &["policy"]),
    ("types", &["hash", "label", "policy", "random"]),
    (
        "config",
        &["hash", "label", "policy", "types", "wall_clock"],
    ),
    ("healthcheck", &["config", "runtime"]),
    ("error", &["body", "label", "policy", "types"]),
    ("allocation", &["body", "error", "lock", "policy"]),
    (
        "upstream",
        &[
            "allocation",
            "body",
            "error",
            "event",
            "lock",
            "policy",
            "random",
            "tcp",
            "types",
        ],
    ),
    (
        "telemetry",
        &[
            "config",
            "error",
            "event",
            "label",
            "lock",
            "policy",
            "random",
            "runtime",
            "upstream",
            "wall_clock",
        ],
    ),
    ("record", &["error", "lock", "policy", "telemetry"]),
    ("plan", &["config", "hash", "policy", "types", "upstream"]),
    (
        "state",
        &[
            "allocation",
            "body",
            "error",
            "event",
            "hash",
            "lock",
            "plan",
            "policy",
            "telemetry",
            "types",
            "upstream",
            "wall_clock",
        ],
    ),
    (
        "fleet",
        &[
            "hash",
            "label",
            "lock",
            "plan",
            "policy",
            "random",
            "runtime",
            "state",
            "telemetry",
            "upstream",
            "wall_clock",
        ],
    ),
    (
        "layer",
        &[
            "allocation",
            "body",
            "error",
            "event",
            "hash",
            "policy",
            "random",
            "record",
            "state",
            "telemetry",
            "types",
            "upstream",
            "wall_clock",
        ],
    ),
    (
        "stack",
        &[
            "allocation",
            "body",
            "error",
            "layer",
            "plan",
            "state",
            "upstream",
        ],
    ),
    ("admin", &["event", "hash", "policy", "runtime", "tcp"]),
    (
        "simulator",
        &["bind", "config", "event", "policy", "runtime", "wall_clock"],
    ),
    (
        "serve",
        &[
            "admin",
            "allocation",
            "bind",
            "body",
            "config",
            "error",
            "event",
            "fleet",
            "hash",
            "label",
            "lock",
            "plan",
            "policy",
            "random",
            "runtime",
            "simulator",
            "stack",
            "state",
            "tcp",
            "telemetry",
            "types",
            "upstream",
            "wall_clock",
        ],
    ),
    (
        "cli",
        &[
            "config",
            "fleet",
            "hash",
            "healthcheck",
            "output",
            "plan",
            "policy",
            "runtime",
            "serve",
            "simulator",
            "telemetry",
            "version",
        ],
    ),
    ("fuzzing", &["serve", "upstream"]),
];

#[test]
fn modules_import_only_what_stands_below_them() {
    let mut imports = BTreeMap::<String, BTreeSet<String>>::new();
    for file in sources() {
        let module = file.path.split('/').next().unwrap_or("");
        let module = module.trim_end_matches(".rs").to_owned();
        if matches!(module.as_str(), "lib" | "main") {
            continue;
        }
        let of_module = imports.entry(module.clone()).or_default();
        let named = file.named_below("crate");
        let named = named.iter().map(|path| first(path).to_owned());
        // Macros are named by their module too.
        of_module.extend(named.filter(|name| *name != module));
    }
    let mut below = BTreeSet::new();
    for (module, wanted) in IMPORTS {
        for import in *wanted {
            assert!(below.contains(import), "{module} stands above {import}");
        }
        below.insert(*module);
        let found = imports.remove(*module).unwrap_or_default();
        let wanted: BTreeSet<String> = wanted.iter().map(ToString::to_string).collect();
        assert_eq!(found, wanted, "what src/{module} imports");
    }
    assert!(imports.is_empty(), "not in the table: {:?}", imports.keys());
}

/// A layer that is not ready would be a queue without a bound: hyper clones the stack for each request.
#[test]
fn readiness_is_only_delegated() {
    let (mut faults, mut count) = (Vec::new(), 0);
    for file in layers() {
        let code = file.code();
        for from in code.split("fn poll_ready(").skip(1) {
            count += 1;
            let (_, body) = from.split_once(" {\n").expect("a body");
            let body = body.split('}').next().unwrap_or(body).trim();
            if !matches!(body, "self.inner.poll_ready(cx)" | "Poll::Ready(Ok(()))") {
                faults.push(format!("src/{}: poll_ready does more: {body}", file.path));
            }
        }
    }
    assert!(count > 10, "the layers were not found");
    none(&faults);
}

/// It is locked by itself, and with a file that is out of date nothing would be fuzzed.
#[test]
fn the_lock_file_of_fuzzing_has_all_dependencies() {
    let parse = |path: &str| -> toml::Table { toml::from_str(&read(path)).expect("TOML") };
    let lock = parse("tests/fuzz/Cargo.lock");
    let package = |name: &str| {
        let packages = lock["package"].as_array().into_iter().flatten();
        let found = packages.filter(|package| package["name"].as_str() == Some(name));
        found.cloned().collect::<Vec<_>>()
    };
    let revgate = package("revgate").pop().expect("the crate itself");
    let locked = revgate["dependencies"].as_array().expect("a list");
    let locked: Vec<_> = locked
        .iter()
        .filter_map(|entry| entry.as_str()?.split(' ').next())
        .collect();
    let manifest = parse("Cargo.toml");
    let wanted = manifest["dependencies"].as_table().expect("a table");
    let missing = wanted
        .keys()
        .filter(|name| !locked.contains(&name.as_str()));
    let missing = missing.map(|name| {
        format!("tests/fuzz/Cargo.lock: {name} is missing; run cargo metadata --manifest-path tests/fuzz/Cargo.toml")
    });
    none(&missing.collect::<Vec<_>>());
}

#[test]
fn unsafe_code_is_forbidden() {
    let manifest = read("Cargo.toml");
    let lint = manifest.split_once("\n[lints.rust]\n").map(|(_, l)| l);
    let lints = lint.and_then(|l| l.split("\n[").next()).unwrap_or("");
    assert!(
        lints.lines().any(|l| l == "unsafe_code = \"forbid\""),
        "Cargo.toml: the lint unsafe_code is not \"forbid\""
    );
}

#[test]
fn explain_has_the_layers_of_the_stack_in_order() {
    let names = |path: &str, mark: &str| -> Vec<String> {
        let text = read(path);
        let found = text.match_indices(mark).map(|(at, _)| {
            let rest = &text[at + mark.len()..];
            rest.split(|c| !is_word(c)).next().unwrap_or("").to_owned()
        });
        found.collect()
    };
    let stack = read("src/stack.rs");
    // They decide nothing about a request.
    let silent = [
        "telemetry",
        "rescue",
        "collect",
        "lane",
        "headers",
        "attempt",
    ];
    let deciding = layers_of(&stack).filter(|layer| !silent.contains(layer));
    let explained = names("src/policy/explain/steps.rs", "            Steps::");
    assert!(explained.len() > 5, "the steps were not found");
    assert_eq!(
        explained,
        deciding.collect::<Vec<_>>(),
        "src/policy/explain/steps.rs, src/stack.rs"
    );
}

#[test]
fn imports_are_read_as_the_compiler_reads_them() {
    let code = "use super::{headers::ID, other};\nuse crate::{\n    body::{Body, Guard},\n    stack::{self, Shared},\n};\nlet x = crate::config::load();";
    assert_eq!(below(code, "super"), ["headers::ID", "other"]);
    assert_eq!(
        below(code, "crate"),
        ["body::{Body,Guard}", "stack::{self,Shared}", "config::load"]
    );
    assert!(below("use hyper_util::rt;", "hyper").is_empty());
}
