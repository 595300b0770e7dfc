//! Reads documents and sources as text.
#![allow(dead_code, reason = "each test that shares it uses a part")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub(crate) fn none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// The files and folders directly in a folder, sorted. Folders end with a slash.
pub(crate) fn entries(folder: &str) -> BTreeSet<String> {
    let all = fs::read_dir(root().join(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
    all.map(|entry| {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy();
        match path.is_dir() {
            true => format!("{name}/"),
            false => name.into_owned(),
        }
    })
    .collect()
}

/// All Rust sources below a folder: the path from the root, and the text.
pub(crate) fn sources(folder: &str) -> Vec<(String, String)> {
    let (mut folders, mut found) = (vec![PathBuf::from(folder)], Vec::new());
    while let Some(folder) = folders.pop() {
        for name in entries(&folder.to_string_lossy()) {
            let path = folder.join(&name);
            if name.ends_with('/') {
                folders.push(path);
            } else if name.ends_with(".rs") {
                let path = path.to_string_lossy().into_owned();
                let text = read(&path);
                found.push((path, text));
            }
        }
    }
    found.sort();
    found
}

/// A source without its module of tests. Empty for a file of tests.
pub(crate) fn production<'a>(path: &str, text: &'a str) -> &'a str {
    if path.ends_with("/tests.rs") {
        return "";
    }
    let end = text.match_indices("#[cfg(test)]").find(|(at, mark)| {
        let next = text[at + mark.len()..].trim_start();
        next.starts_with("mod tests {")
    });
    end.map_or(text, |(at, _)| &text[..at])
}

/// A source without its module of tests and without whole-line comments.
pub(crate) fn code(path: &str, text: &str) -> String {
    let lines = production(path, text).lines();
    let lines = lines.filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The modules of the layers in `src/stack.rs`, outermost first.
pub(crate) fn layers_of(stack: &str) -> impl Iterator<Item = &str> {
    stack.split(".layer_fn(").skip(1).map(|layer| {
        let layer = layer.trim_start_matches("|inner|").trim_start();
        let layer = layer.trim_start_matches('{').trim_start();
        layer.split("::").next().unwrap_or("")
    })
}
