//! The metrics in the form that a scraper asks for. `prometheus_client` writes OpenMetrics text and has no encoder for Prometheus' own.

use super::Metrics;
use crate::policy::exposition::Exposition;

impl Metrics {
    /// The metrics as text.
    pub fn expose(&self, form: Exposition) -> String {
        let open_metrics = self.encode();
        match form {
            Exposition::OpenMetrics => open_metrics,
            Exposition::Text => text_of(&open_metrics),
        }
    }
}

/// The two differ in comments alone: here HELP and TYPE have the name of a counter's samples, with `_total`, and there is neither UNIT nor
/// EOF. Types that the metrics here do not have (`info`, `stateset`, `unknown`) differ in more.
fn text_of(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len() + 1024);
    let mut help = "";
    for line in open_metrics.lines() {
        let Some(comment) = line.strip_prefix("# ") else {
            out.extend([line, "\n"]);
            continue;
        };
        // The type, which comes second, says how the help begins.
        let mut words = comment.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("HELP"), Some(_), text) => help = text.unwrap_or_default(),
            (Some("TYPE"), Some(name), Some(kind)) => {
                let suffix = if kind == "counter" { "_total" } else { "" };
                out.extend(["# HELP ", name, suffix, " ", help, "\n"]);
                out.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
            }
            _ => {}
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "runs the tools of scrapers")]
mod tests {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    use super::*;
    use crate::telemetry::metrics::tests::every_metric;

    #[test]
    fn comments_have_the_names_of_samples() {
        let open_metrics = "# HELP a Counts a.\n# TYPE a counter\na_total{b=\"# HELP\"} 1\n\
             # HELP c_seconds Times c.\n# TYPE c_seconds histogram\n# UNIT c_seconds seconds\n\
             c_seconds_sum 0.5\nc_seconds_count 1\nc_seconds_bucket{le=\"+Inf\"} 1\n\
             # HELP d \n# TYPE d gauge\nd 2\n# EOF\n";
        let text = "# HELP a_total Counts a.\n# TYPE a_total counter\na_total{b=\"# HELP\"} 1\n\
             # HELP c_seconds Times c.\n# TYPE c_seconds histogram\n\
             c_seconds_sum 0.5\nc_seconds_count 1\nc_seconds_bucket{le=\"+Inf\"} 1\n\
             # HELP d \n# TYPE d gauge\nd 2\n";
        assert_eq!(text_of(open_metrics), text);
    }

    /// What a tool says of the metrics in this form, and whether it accepts them.
    fn judged(form: Exposition, command: &mut Command) -> (bool, String) {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut tool = command.stderr(Stdio::piped()).spawn().expect("the tool");
        let mut input = tool.stdin.take().expect("a pipe");
        let text = every_metric().expose(form);
        input.write_all(text.as_bytes()).expect("it reads");
        drop(input);
        let output = tool.wait_with_output().expect("it ends");
        let says = [output.stdout, output.stderr].concat();
        let says = String::from_utf8(says).expect("text");
        (output.status.success(), says)
    }

    fn tool(variable: &str) -> Command {
        Command::new(std::env::var_os(variable).expect(variable))
    }

    #[test]
    #[ignore = "needs promtool, named by PROMTOOL; tests/deploy/run.sh runs it"]
    fn promtool_accepts_the_text() {
        let (is_accepted, says) = judged(
            Exposition::Text,
            tool("PROMTOOL").args(["check", "metrics"]),
        );
        assert!(is_accepted && says.is_empty(), "{says}");
        // It tells a fault.
        let (is_accepted, _) = judged(
            Exposition::OpenMetrics,
            tool("PROMTOOL").args(["check", "metrics"]),
        );
        assert!(!is_accepted);
    }

    #[test]
    #[ignore = "needs Python with prometheus_client, named by PYTHON; tests/deploy/run.sh runs it"]
    fn an_openmetrics_parser_accepts_the_other_form() {
        let parse = "import sys; from prometheus_client.openmetrics.parser import text_string_to_metric_families as p; \
             print(len([s for f in p(sys.stdin.read()) for s in f.samples]))";
        let (is_accepted, says) =
            judged(Exposition::OpenMetrics, tool("PYTHON").args(["-c", parse]));
        assert!(is_accepted, "{says}");
        let text = every_metric().expose(Exposition::Text);
        let samples = text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(says.trim(), samples.to_string());
        let (is_accepted, _) = judged(Exposition::Text, tool("PYTHON").args(["-c", parse]));
        assert!(!is_accepted);
    }
}
