//! In which of its two forms a scraper gets the metrics: Prometheus' text, unless it asks for OpenMetrics (RFC 9110 section 12.5.1).
//!
//! ```
//! use http::HeaderValue;
//! use revgate::policy::exposition::{Exposition, choose};
//!
//! let accept = HeaderValue::from_static("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1");
//! assert_eq!(choose([&accept]), Exposition::OpenMetrics);
//! assert_eq!(choose([&HeaderValue::from_static("*/*")]), Exposition::Text);
//! ```

use http::HeaderValue;

/// A form of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    /// Prometheus' text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Exposition {
    pub const fn content_type(self) -> &'static str {
        match self {
            Exposition::Text => "text/plain; version=0.0.4; charset=utf-8",
            Exposition::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Type, subtype and version.
    const fn parts(self) -> [&'static str; 3] {
        match self {
            Exposition::Text => ["text", "plain", "0.0.4"],
            Exposition::OpenMetrics => ["application", "openmetrics-text", "1.0.0"],
        }
    }
}

/// How a scraper weighs one form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Weight {
    /// In thousandths, from `q`.
    quality: u16,
    is_named: bool,
}

/// Chooses the form by the values of `Accept`. A scraper that accepts neither gets text, which it may well read.
pub fn choose<'a>(accept: impl IntoIterator<Item = &'a HeaderValue>) -> Exposition {
    let accept: Vec<_> = accept.into_iter().map(HeaderValue::as_bytes).collect();
    let ranges = accept.iter().flat_map(|value| value.split(|b| *b == b','));
    let ranges: Vec<_> = ranges.filter_map(Range::read).collect();
    let open = weigh(&ranges, Exposition::OpenMetrics);
    let text = weigh(&ranges, Exposition::Text);
    // OpenMetrics must be asked for: `*/*` alone does not.
    let is_asked_for = open.is_named || open.quality > text.quality;
    match open.quality > 0 && open.quality >= text.quality && is_asked_for {
        true => Exposition::OpenMetrics,
        false => Exposition::Text,
    }
}

/// By the most specific range that includes the form, whichever comes first.
fn weigh(ranges: &[Range<'_>], form: Exposition) -> Weight {
    let matching = ranges.iter().filter_map(|range| {
        let specificity = range.includes(form)?;
        Some((specificity, range.quality))
    });
    let (specificity, quality) = matching.max().unwrap_or_default();
    let is_named = specificity >= NAMED;
    Weight { quality, is_named }
}

/// The specificity of a range with type and subtype.
const NAMED: u8 = 3;

/// A media range of `Accept`.
struct Range<'a> {
    kind: [&'a str; 2],
    version: Option<&'a str>,
    quality: u16,
}

impl<'a> Range<'a> {
    /// `None` for what is malformed, which counts as if it were not there.
    fn read(bytes: &'a [u8]) -> Option<Range<'a>> {
        let mut parts = std::str::from_utf8(bytes).ok()?.split(';').map(str::trim);
        let (kind, subtype) = parts.next()?.split_once('/')?;
        let mut range = Range {
            kind: [kind, subtype],
            version: None,
            quality: 1000,
        };
        // Other parameters, such as `charset` and `escaping`, change nothing: both forms are UTF-8 with plain names.
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim();
            match name.trim() {
                "q" | "Q" => range.quality = quality(value)?,
                name if name.eq_ignore_ascii_case("version") => {
                    range.version = Some(value.trim_matches('"'));
                }
                _ => {}
            }
        }
        Some(range)
    }

    /// How specifically; `None` if it does not.
    fn includes(&self, form: Exposition) -> Option<u8> {
        let [kind, subtype, version] = form.parts();
        match self.kind {
            ["*", "*"] => Some(1),
            [k, "*"] if k.eq_ignore_ascii_case(kind) => Some(2),
            [k, s] if k.eq_ignore_ascii_case(kind) && s.eq_ignore_ascii_case(subtype) => {
                match self.version {
                    None => Some(NAMED),
                    Some(wanted) if wanted == version => Some(NAMED + 1),
                    Some(_) => None,
                }
            }
            _ => None,
        }
    }
}

/// Reads 0 to 1 with up to three decimals, in thousandths.
fn quality(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let is_number = decimals.bytes().all(|b| b.is_ascii_digit()) && decimals.len() <= 3;
    let thousandths: u16 = format!("{decimals:0<3}").parse().ok()?;
    match whole {
        "0" if is_number => Some(thousandths),
        "1" if is_number && thousandths == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chosen(values: &[&str]) -> Exposition {
        let values: Vec<_> = values
            .iter()
            .map(|value| HeaderValue::from_str(value).unwrap())
            .collect();
        choose(&values)
    }

    #[test]
    fn forms() {
        use Exposition::{OpenMetrics, Text};
        #[rustfmt::skip]
        let table = [
            (&[][..], Text),
            (&[""], Text),
            (&["*/*"], Text),
            (&["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"], Text),
            (&["text/plain"], Text),
            (&["text/plain;version=0.0.4"], Text),
            (&["application/openmetrics-text"], OpenMetrics),
            (&["application/openmetrics-text; version=1.0.0"], OpenMetrics),
            (&["Application/OpenMetrics-Text; Version=\"1.0.0\"; charset=utf-8"], OpenMetrics),
            // Prometheus 2.42 and 3.0.
            (&["application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"], OpenMetrics),
            (&["application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"], OpenMetrics),
            (&["application/vnd.google.protobuf;q=0.9,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"], Text),
            // A version that is not written here is not this form.
            (&["application/openmetrics-text;version=0.0.1"], Text),
            (&["application/openmetrics-text;version=0.0.1, */*;q=0.1"], Text),
            // q-values, whatever the order; with equal ones, whoever names OpenMetrics gets it.
            (&["text/plain, application/openmetrics-text;q=0.9"], Text),
            (&["text/plain;q=0.9, application/openmetrics-text"], OpenMetrics),
            (&["text/plain, application/openmetrics-text"], OpenMetrics),
            (&["application/openmetrics-text, */*"], OpenMetrics),
            (&["application/openmetrics-text;q=0.1"], OpenMetrics),
            (&["application/openmetrics-text;q=0.1, */*"], Text),
            (&["application/openmetrics-text;q=0"], Text),
            (&["application/openmetrics-text;q=0, */*"], Text),
            (&["application/openmetrics-text;version=1.0.0;q=0, application/openmetrics-text"], Text),
            (&["text/plain;q=0, */*"], OpenMetrics),
            (&["application/*"], OpenMetrics),
            (&["text/*, application/*"], Text),
            (&["text/plain;q=0.5", "application/openmetrics-text;q=0.6"], OpenMetrics),
            (&["application/openmetrics-text;q=2, text/plain;q=0.1"], Text),
            (&["application/openmetrics-text;q=x"], Text),
            (&["application/openmetrics-text;q=0.0001"], Text),
            (&["nonsense", "/", ";;q=", ",,,"], Text),
        ];
        for (values, want) in table {
            assert_eq!(chosen(values), want, "{values:?}");
        }
    }

    proptest! {
        /// Nothing panics, and what does not contain the name of OpenMetrics or a wildcard gets text.
        #[test]
        fn text_unless_it_is_asked_for(value in "[ -~]{0,60}") {
            let form = chosen(&[&value]);
            let asks = value.to_ascii_lowercase().contains("openmetrics-text") || value.contains('*');
            prop_assert!(asks || form == Exposition::Text);
        }

        #[test]
        fn the_higher_quality_wins(open in 0..=1000_u16, text in 0..=1000_u16) {
            let q = |thousandths: u16| format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
            let value = format!("text/plain;q={},application/openmetrics-text;q={}", q(text), q(open));
            let want = open > 0 && open >= text;
            prop_assert_eq!(chosen(&[&value]) == Exposition::OpenMetrics, want);
        }
    }
}
