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
    "given up",
];

pub fn row(scenario: &str, route: &str, figures: &Figures) -> Vec<String> {
    vec![
        scenario.to_owned(),
        route.to_owned(),
        format!("{:.1}", figures.utilisation * 100.0),
        figures.throttled.to_string(),
        figures
            .jain
            .map_or("-".to_owned(), |jain| format!("{jain:.4}")),
        figures
            .shares
            .iter()
            .map(share)
            .collect::<Vec<_>>()
            .join(" / "),
        seconds(figures.starved),
        seconds(figures.batch_starved),
        quantiles(figures.wait),
        quantiles(figures.batch_wait),
        figures.first_wait.map_or("-".to_owned(), seconds),
        figures.given_up.to_string(),
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

fn share(share: &Option<f64>) -> String {
    share.map_or("-".to_owned(), |share| format!("{share:.2}"))
}

fn seconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64())
}

fn quantiles(of: Quantiles) -> String {
    format!("{} / {}", seconds(of.p50), seconds(of.p99))
}
