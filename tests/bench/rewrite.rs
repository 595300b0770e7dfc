//! Measures how much time of a core the rewriting of one body takes, and how much memory meanwhile, for bodies made to cost much.
//!
//! `cargo bench --bench rewrite`.

#![allow(
    unreachable_pub,
    clippy::print_stdout,
    reason = "a bench has no outside, and prints"
)]

use std::time::Duration;

use revgate::policy::rewrite::{Mode, Rule, rewrite};
use rustix::time::{ClockId, clock_gettime};

/// The default of `limits.max_rewrite_body`.
const SIZE: usize = 1 << 20;
const RUNS: usize = 25;

fn main() {
    let rule = Rule {
        rename: vec![("old".to_owned(), "new".to_owned())],
        mode: Mode::Rewrite,
        link: None,
    };
    println!("Rewriting a body of 1 MiB.\n");
    println!("| body | median ms | longest ms | memory MiB |");
    println!("| --- | --: | --: | --: |");
    for (name, body) in bodies() {
        assert!(body.len() <= SIZE, "{name}: {} bytes", body.len());
        assert!(body.len() > SIZE / 16 * 15, "{name}: {} bytes", body.len());
        let run = || rewrite(body.as_bytes(), &rule).expect("it can be rewritten");
        let memory = allocation_counter::measure(|| drop(run())).bytes_max;
        let mut times: Vec<Duration> = (0..RUNS)
            .map(|_| {
                let start = cpu_time();
                drop(run());
                cpu_time() - start
            })
            .collect();
        times.sort_unstable();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        println!(
            "| {name} | {:.1} | {:.1} | {:.1} |",
            ms(times[RUNS / 2]),
            ms(times[RUNS - 1]),
            memory as f64 / f64::from(1 << 20)
        );
    }
}

/// The time that this thread has had on a core, so that other programs do not count.
fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("a time since its start")
}

/// Bodies whose old and new value are equal, so that all of both is compared, and never by their bytes alone.
fn bodies() -> Vec<(&'static str, String)> {
    let half = SIZE / 2 - 64;
    let pair = |old: String, new: String| format!(r#"{{"old":{old},"new": {new} }}"#);
    let nested = |open: &str, core: &str, close: &str| {
        let times = half / (open.len() + close.len());
        format!("{}{core}{}", open.repeat(times), close.repeat(times))
    };
    let list = |part: &str, last: &str| format!("[{}{last}]", part.repeat(half / part.len()));
    let members = |part: &dyn Fn(usize) -> String, backwards: bool| {
        let count = half / (part(0).len() + 1);
        let mut parts: Vec<String> = (0..count).map(part).collect();
        if backwards {
            parts.reverse();
        }
        format!("{{{}}}", parts.join(","))
    };
    let short = |number: usize| format!("\"{number:05x}\":1");
    let escaped = |number: usize| format!("\"\\u0061\\u{number:04x}\":1");
    let long = |number: usize| format!("\"{}{number:04x}\":1", "p".repeat(200));
    let string = |part: &str, last: &str| format!("\"{}{last}\"", part.repeat(half / part.len()));
    let top = |number: usize| format!("\"{number:05x}\":1");
    let count = (SIZE - 64) / (top(0).len() + 1);
    let tops: Vec<String> = (0..count).map(top).collect();
    vec![
        (
            "one field",
            pair(string("a", ""), string("a", "")).replace("new", "x"),
        ),
        (
            "lists in lists",
            pair(nested("[", "1", "]"), nested("[", " 1", "]")),
        ),
        (
            "objects in objects",
            pair(nested(r#"{"":"#, "1", "}"), nested(r#"{"":"#, " 1", "}")),
        ),
        (
            "objects in objects, members in another order",
            pair(
                nested(r#"{"":1,"a":"#, "1", "}"),
                nested(r#"{"a":"#, "1", r#","":1}"#),
            ),
        ),
        ("a list of digits", pair(list("1,", "1"), list("1,", " 1"))),
        (
            "a list of small objects",
            pair(list(r#"{"":1},"#, "1"), list(r#"{"":1},"#, " 1")),
        ),
        (
            "an object of short names, backwards",
            pair(members(&short, false), members(&short, true)),
        ),
        (
            "an object of escaped names, backwards",
            pair(members(&escaped, false), members(&escaped, true)),
        ),
        (
            "an object of long names, backwards",
            pair(members(&long, false), members(&long, true)),
        ),
        (
            "a string of escapes",
            pair(string("\\u0061", "b"), string("\\u0061", "\\u0062")),
        ),
        (
            "short names beside the fields",
            format!(r#"{{"old":1,{}}}"#, tops.join(",")),
        ),
    ]
}
