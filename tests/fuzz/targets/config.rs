//! Configuration files and environment variables, to the plan that is made of them.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use revgate::{config::from_toml, plan::Plan};

/// Lines before it are variables, as `NAME=value`.
const FILE: &str = "\n---\n";

fuzz_target!(|input: &str| {
    let (variables, text) = input.split_once(FILE).unwrap_or(("", input));
    let variables = variables.lines().filter_map(|line| line.split_once('='));
    let variables: BTreeMap<String, String> = variables
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let problems = match from_toml(text, &variables) {
        Ok(config) => {
            config.redacted();
            config.effective();
            assert!(config.differences(&config).is_empty());
            match Plan::of(&config) {
                Ok(_) => return,
                Err(problems) => problems,
            }
        }
        Err(problems) => problems,
    };
    assert!(!problems.0.is_empty());
    for problem in &problems.0 {
        assert!(!problem.message.trim().is_empty(), "{}", problem.path);
    }
});
