//! Checks that every link in the documents leads to an existing file or heading.

use std::{collections::BTreeSet, path::Path};

use super::{
    DOCUMENTS, quoted,
    source::{entries, none, read, root},
};

/// A document without fenced blocks and code in backticks, which hold no links.
fn prose(document: &str) -> String {
    let mut fenced = false;
    let mut kept = String::new();
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            let plain: String = line.split('`').step_by(2).collect::<Vec<_>>().join("``");
            kept.push_str(&plain);
            kept.push('\n');
        }
    }
    kept
}

/// The targets of `[text](target)`.
fn targets(document: &str) -> Vec<String> {
    let prose = prose(document);
    let ends = prose.match_indices("](").map(|(at, mark)| at + mark.len());
    ends.map(|at| prose[at..].split(')').next().unwrap_or("").to_owned())
        .collect()
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(document: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let mut found = BTreeSet::new();
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        let heading = line.trim_start_matches('#');
        if fenced || heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let mut anchor = String::new();
        for c in heading.trim().to_lowercase().chars() {
            match c {
                ' ' => anchor.push('-'),
                c if c.is_alphanumeric() || c == '-' || c == '_' => anchor.push(c),
                _ => {}
            }
        }
        found.insert(anchor);
    }
    found
}

#[test]
fn every_link_leads_somewhere() {
    let mut faults = Vec::new();
    let mut count = 0;
    for document in DOCUMENTS {
        let text = read(document);
        let folder = Path::new(document).parent().unwrap_or(Path::new(""));
        for target in targets(&text) {
            if target.starts_with("https://") {
                continue;
            }
            count += 1;
            let (file, anchor) = match target.split_once('#') {
                Some((file, anchor)) => (file, Some(anchor)),
                None => (target.as_str(), None),
            };
            let path = match file {
                "" => Path::new(document).to_owned(),
                file => folder.join(file),
            };
            if !root().join(&path).exists() {
                faults.push(format!("{document}: {target}: there is no such file"));
            } else if let Some(anchor) = anchor
                && !anchors(&read(&path.to_string_lossy())).contains(anchor)
            {
                faults.push(format!("{document}: {target}: there is no such heading"));
            }
        }
    }
    assert!(count > 20, "only {count} links were found");
    none(&faults);
}

/// rustdoc shows this document as well, where links to files do not work.
#[test]
fn the_architecture_links_to_itself_and_the_web_alone() {
    let faults: Vec<String> = targets(&read("src/ARCHITECTURE.md"))
        .into_iter()
        .filter(|target| !target.starts_with('#') && !target.starts_with("https://"))
        .map(|target| format!("src/ARCHITECTURE.md: {target}: write the path in backticks"))
        .collect();
    none(&faults);
}

/// Paths in backticks must exist as well, except in the changelog, which also names removed files.
#[test]
fn every_path_that_is_named_exists() {
    let is_path = |word: &&str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_./-".contains(c);
        word.contains('/') && word.chars().all(plain)
    };
    let (of_root, of_src) = (entries("."), entries("src"));
    let mut faults = Vec::new();
    let mut count = 0;
    for document in DOCUMENTS.iter().filter(|name| **name != "CHANGELOG.md") {
        let text = read(document);
        for path in quoted(&text).filter(is_path) {
            let folder = format!("{}/", path.split('/').next().unwrap_or(""));
            if !of_root.contains(&folder) && !of_src.contains(&folder) {
                continue;
            }
            count += 1;
            let may_be = [
                path.to_owned(),
                format!("src/{path}"),
                format!("src/{path}.rs"),
            ];
            if !may_be.iter().any(|path| root().join(path).exists()) {
                faults.push(format!("{document}: `{path}`: there is no such file"));
            }
        }
    }
    assert!(count > 50, "only {count} paths were found");
    none(&faults);
}

/// Every document can be found from the README.
#[test]
fn every_document_is_linked_from_the_readme() {
    let linked = targets(&read("README.md"));
    let faults: Vec<String> = DOCUMENTS
        .iter()
        .filter(|document| **document != "README.md")
        .filter(|document| {
            !linked
                .iter()
                .any(|link| link.split('#').next() == Some(document))
        })
        .map(|document| format!("README.md: no link to {document}"))
        .collect();
    none(&faults);
}

#[test]
fn links_and_anchors_are_found() {
    let text =
        "# One: `two`\n[a](b.md#c) and `[no](link)`\n```\n[no](link)\n# no heading\n```\n[d](#e)\n";
    assert_eq!(targets(text), ["b.md#c", "#e"]);
    assert_eq!(anchors(text).into_iter().collect::<Vec<_>>(), ["one-two"]);
}
