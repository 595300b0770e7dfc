//! Renders a table that is aligned in a terminal and valid Markdown.

use std::time::Duration;

use super::figures::{Figures, Quantiles};

pub const HEADINGS: [&str; 12] = [
    "scenario",
    "route",
    "used %",
    "429s",
    "Jain",
    "a / b / c",
    "starved s",
    "batch s",
    "wait p50 / p99 s",
    "batch p50 / p99 s",
    "c first s",
    "given up / batch",
];

pub fn row(scenario: &str, route: &str, figures: &Figures) -> Vec<String> {
    let shares = figures.shares.iter();
    let shares: Vec<_> = shares
        .map(|share| or_dash(*share, |share| format!("{share:.2}")))
        .collect();
    vec![
        scenario.to_owned(),
        route.to_owned(),
        format!("{:.1}", figures.utilisation * 100.0),
        figures.throttled.to_string(),
        or_dash(figures.jain, |jain| format!("{jain:.4}")),
        shares.join(" / "),
        seconds(figures.starved),
        seconds(figures.batch_starved),
        quantiles(figures.wait),
        quantiles(figures.batch_wait),
        or_dash(figures.first_wait, seconds),
        format!("{} / {}", figures.given_up, figures.batch_given_up),
    ]
}

/// The first row holds the headings. The first `words` columns are aligned left, the others right.
pub fn render(rows: &[Vec<String>], words: usize) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0).max(3)
    };
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        line(&mut text, row, &widths, words);
        if number == 0 {
            let rule = |(column, width): (usize, &usize)| match column < words {
                true => "-".repeat(*width),
                false => format!("{}:", "-".repeat(width - 1)),
            };
            let rules: Vec<String> = widths.iter().enumerate().map(rule).collect();
            line(&mut text, &rules, &widths, words);
        }
    }
    text
}

fn line(text: &mut String, row: &[String], widths: &[usize], words: usize) {
    for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
        *text += &match column < words {
            true => format!("| {cell:<width$} "),
            false => format!("| {cell:>width$} "),
        };
    }
    *text += "|\n";
}

fn or_dash<T>(value: Option<T>, show: impl Fn(T) -> String) -> String {
    value.map_or("-".to_owned(), show)
}

fn seconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64())
}

fn quantiles(of: Quantiles) -> String {
    format!("{} / {}", seconds(of.p50), seconds(of.p99))
}
