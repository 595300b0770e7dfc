//! The longest line of the log, and how a longer one is cut.

use serde_json::{Map, Value, json};

/// Container runtimes split a line at 16 KiB; this leaves room for what they add. Ordinary lines have some 500 bytes.
pub(super) const MAX_LINE: usize = 8 * 1024;

/// What each text of a line is cut to, until the line fits.
const TEXT_LIMITS: [usize; 3] = [1024, 256, 64];

/// The fields that are left when even short texts do not fit. With the last of [`TEXT_LIMITS`] they always do.
const ESSENTIAL: [&str; 4] = ["timestamp", "level", "message", "target"];

/// A line that is too long, cut to at most [`MAX_LINE`] bytes. JSON stays JSON and has the field `cut`.
pub(super) fn cut(line: &[u8], json: bool) -> Vec<u8> {
    if json {
        return cut_json(line);
    }
    const MARK: &str = "… (cut)\n";
    let text = String::from_utf8_lossy(line);
    let end = text.floor_char_boundary(MAX_LINE - MARK.len());
    let text = text[..end].trim_end_matches('\n');
    format!("{text}{MARK}").into_bytes()
}

fn cut_json(line: &[u8]) -> Vec<u8> {
    // Anything but an object would be a fault of the formatter. Its text is kept as a message.
    let fields: Map<String, Value> = serde_json::from_slice(line).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(line);
        Map::from_iter([("message".to_owned(), json!(text))])
    });
    let mut shown = Vec::new();
    for limit in TEXT_LIMITS {
        shown = shorten(&fields, limit);
        if shown.len() <= MAX_LINE {
            return shown;
        }
    }
    let mut essential = fields;
    essential.retain(|name, _| ESSENTIAL.contains(&name.as_str()));
    for limit in TEXT_LIMITS {
        shown = shorten(&essential, limit);
        if shown.len() <= MAX_LINE {
            break;
        }
    }
    shown
}

fn shorten(fields: &Map<String, Value>, limit: usize) -> Vec<u8> {
    let mut fields = fields.clone();
    for value in fields.values_mut() {
        if let Value::String(text) = value
            && text.len() > limit
        {
            text.truncate(text.floor_char_boundary(limit));
            text.push('…');
        }
    }
    fields.insert("cut".to_owned(), Value::Bool(true));
    let mut line = Value::Object(fields).to_string().into_bytes();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_long_line_is_cut_and_stays_what_it_was() {
        let long = "ä".repeat(9000);
        let text = cut(format!("a {long}\n").as_bytes(), false);
        assert!(text.len() <= MAX_LINE && text.ends_with("… (cut)\n".as_bytes()));

        let line = json!({"level": "INFO", "message": "m", "target": "t", "why": long, "n": 7});
        let shown = cut(format!("{line}\n").as_bytes(), true);
        assert!(shown.len() <= MAX_LINE && shown.ends_with(b"}\n"));
        let shown: Value = serde_json::from_slice(&shown).unwrap();
        assert_eq!(
            (&shown["message"], &shown["n"], &shown["cut"]),
            (&json!("m"), &json!(7), &json!(true))
        );
        let why = shown["why"].as_str().unwrap();
        assert!(why.starts_with("ää") && why.ends_with('…') && why.len() > 1000);

        // Not an object.
        let shown: Value = serde_json::from_slice(&cut(long.as_bytes(), true)).unwrap();
        assert!(shown["message"].as_str().unwrap().starts_with('ä'));
    }

    proptest! {
        // Each case has many texts, so a few cases try many.
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn any_line_fits_and_stays_json(
            texts in prop::collection::vec("\\PC{0,40}|[\\x00-\\x1f\"]{0,40}", 1..32),
            times in 1usize..500,
        ) {
            let fields = texts.iter().enumerate();
            let fields = fields.map(|(n, text)| (format!("field_{n}"), json!(text.repeat(times))));
            let mut line: Map<String, Value> = fields.collect();
            line.insert("message".to_owned(), json!(texts[0].repeat(times)));
            let line = Value::Object(line).to_string();
            let shown = cut(line.as_bytes(), true);
            prop_assert!(shown.len() <= MAX_LINE, "{}", shown.len());
            prop_assert_eq!(shown.iter().filter(|byte| **byte == b'\n').count(), 1);
            let shown: Value = serde_json::from_slice(&shown).unwrap();
            prop_assert_eq!(&shown["cut"], &json!(true));
            let text = cut(line.as_bytes(), false);
            prop_assert!(text.len() <= MAX_LINE && std::str::from_utf8(&text).is_ok());
        }
    }
}
