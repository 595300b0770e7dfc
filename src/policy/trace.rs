//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>): reads a caller's `traceparent` and writes our own.

use std::{
    fmt,
    num::{NonZeroU64, NonZeroU128},
};

use http::HeaderMap;

/// The field with the trace id and the sender's span id.
pub const TRACEPARENT: &str = "traceparent";
/// The field with vendors' data on the trace. Without `traceparent` it has no meaning.
pub const TRACESTATE: &str = "tracestate";

/// The id of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(NonZeroU128);

/// The id of a span in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanId(NonZeroU64);

impl TraceId {
    /// Zero is invalid, so 1 replaces it.
    pub fn from_random(random: u128) -> Self {
        TraceId(NonZeroU128::new(random).unwrap_or(NonZeroU128::MIN))
    }

    pub fn to_bytes(self) -> [u8; 16] {
        self.0.get().to_be_bytes()
    }
}

impl SpanId {
    /// Zero is invalid, so 1 replaces it.
    pub fn from_random(random: u64) -> Self {
        SpanId(NonZeroU64::new(random).unwrap_or(NonZeroU64::MIN))
    }

    pub fn to_bytes(self) -> [u8; 8] {
        self.0.get().to_be_bytes()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The last field of `traceparent`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u8);

const SAMPLED: u8 = 0b01;
/// Level 2: the last 56 bits of the trace id are random. Passed on, but never set here, because some parsers of version 00 reject
/// values above 2.
const RANDOM: u8 = 0b10;

impl Flags {
    pub fn new(sampled: bool) -> Self {
        Flags(if sampled { SAMPLED } else { 0 })
    }

    pub fn sampled(self) -> bool {
        self.0 & SAMPLED != 0
    }
}

/// The contents of `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    pub trace: TraceId,
    pub span: SpanId,
    pub flags: Flags,
}

/// `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const LENGTH: usize = 55;

impl Context {
    /// A caller's `traceparent`. `None` if it is missing, repeated or invalid; then a new trace begins (section 4.3 of the
    /// specification).
    pub fn of(headers: &HeaderMap) -> Option<Context> {
        let mut all = headers.get_all(TRACEPARENT).iter();
        let one = all.next()?;
        match all.next() {
            None => Context::parse(one.as_bytes()),
            Some(_) => None,
        }
    }

    pub fn parse(text: &[u8]) -> Option<Context> {
        let (known, more) = text.split_at_checked(LENGTH)?;
        let separated = [2, 35, 52].iter().all(|at| known[*at] == b'-');
        let version = hex(&known[..2])?;
        let extended = match version {
            0xff => return None,
            0 => !more.is_empty(),
            // A later version may have more fields, after another dash. They are ignored.
            _ => more.first().is_some_and(|first| *first != b'-'),
        };
        if !separated || extended {
            return None;
        }
        let flags = u8::try_from(hex(&known[53..])?).ok()?;
        // For later versions only the first flag is defined.
        let understood = if version == 0 {
            SAMPLED | RANDOM
        } else {
            SAMPLED
        };
        Some(Context {
            trace: TraceId(NonZeroU128::new(hex(&known[3..35])?)?),
            span: SpanId(NonZeroU64::new(u64::try_from(hex(&known[36..52])?).ok()?)?),
            flags: Flags(flags & understood),
        })
    }

    /// The value of `traceparent`, always in version 00.
    pub fn format(&self) -> [u8; LENGTH] {
        let mut out = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&mut out[3..35], &self.trace.to_bytes());
        write_hex(&mut out[36..52], &self.span.to_bytes());
        write_hex(&mut out[53..], &[self.flags.0]);
        out
    }
}

/// Whether a new trace belongs to the sampled `share`. Decided by the id's last 56 bits, as OpenTelemetry's samplers do, so that all
/// services with the same share sample the same traces.
pub fn sampled(trace: TraceId, share: f64) -> bool {
    const ALL: u64 = 1 << 56;
    let bytes = trace.to_bytes();
    let tail = bytes[9..]
        .iter()
        .fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
    // Exact: both are below 2^57, and a share of 1 samples all.
    tail >= ALL - (share.clamp(0.0, 1.0) * ALL as f64) as u64
}

/// Lower-case digits only, as the specification requires.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |sum, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some((sum << 4) | u128::from(value))
    })
}

fn write_hex(out: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in out.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn read(text: &str) -> Option<String> {
        let context = Context::parse(text.as_bytes())?;
        Some(String::from_utf8(context.format().to_vec()).unwrap())
    }

    #[test]
    fn what_the_specification_calls_valid_is_continued() {
        let later = |version| GOOD.replacen("00", version, 1);
        let flags = |flags| GOOD.replace("-01", flags);
        for (given, passed_on) in [
            (GOOD.into(), GOOD.into()),
            (flags("-00"), flags("-00")),
            // Level 2's random flag is passed on, unknown ones are set to zero.
            (flags("-03"), flags("-03")),
            (flags("-ff"), flags("-03")),
            // A later version: its known fields are read, and version 00 is written.
            (later("cc"), GOOD.into()),
            (later("cc") + "-what-the-future-will-be-like", GOOD.into()),
            (later("01") + "-", GOOD.into()),
            (later("01").replace("-01", "-ff"), GOOD.into()),
        ] {
            assert_eq!(read(&given), Some(passed_on), "{given}");
        }
    }

    #[test]
    fn anything_else_begins_a_new_trace() {
        for given in [
            String::new(),
            "00".into(),
            GOOD.to_uppercase(),
            GOOD.replacen("00", "ff", 1),
            GOOD.replacen("00", "0x", 1),
            GOOD.replace("4bf9", "4BF9"),
            GOOD.replace("4bf9", "4bg9"),
            GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            GOOD.replace('-', "_"),
            GOOD.replace("-01", "-0"),
            GOOD.replace("-01", "-0g"),
            format!("{GOOD}-"),
            format!("{GOOD}-00"),
            format!("{GOOD} "),
            GOOD.replacen("00", "cc", 1) + ".what",
            GOOD.replacen("00", "cc", 1) + "0",
        ] {
            assert_eq!(read(&given), None, "{given}");
        }
    }

    #[test]
    fn a_repeated_traceparent_is_invalid() {
        let mut headers = HeaderMap::new();
        assert_eq!(Context::of(&headers), None);
        headers.append(TRACEPARENT, GOOD.parse().unwrap());
        assert!(Context::of(&headers).is_some());
        headers.append(TRACEPARENT, GOOD.parse().unwrap());
        assert_eq!(Context::of(&headers), None);
    }

    #[test]
    #[expect(clippy::disallowed_types, reason = "seeded")]
    fn the_share_of_new_traces_is_sampled() {
        let mut random = fastrand::Rng::with_seed(7);
        let ids: Vec<_> = (0..20_000)
            .map(|_| TraceId::from_random(random.u128(..)))
            .collect();
        let count = |share| ids.iter().filter(|id| sampled(**id, share)).count();
        assert_eq!((count(0.0), count(1.0)), (0, ids.len()));
        assert!((1_800..2_200).contains(&count(0.1)), "{}", count(0.1));
        for id in &ids {
            assert!(!sampled(*id, 0.1) || sampled(*id, 0.5), "shares nest");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(trace: u128, span: u64, yes: bool) {
            let context = Context {
                trace: TraceId::from_random(trace),
                span: SpanId::from_random(span),
                flags: Flags::new(yes),
            };
            prop_assert_eq!(Context::parse(&context.format()), Some(context));
            let text = String::from_utf8(context.format().to_vec()).unwrap();
            prop_assert_eq!(text, format!("00-{}-{}-0{}", context.trace, context.span, u8::from(yes)));
        }

        #[test]
        fn nothing_panics_and_what_is_read_is_canonical(text in "([0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}.{0,5})|.{0,80}") {
            if let Some(context) = Context::parse(text.as_bytes()) {
                prop_assert_eq!(&context.format()[2..53], &text.as_bytes()[2..53]);
                let last = char::from(text.as_bytes()[54]).to_digit(16).unwrap();
                prop_assert_eq!(context.flags.sampled(), last % 2 == 1);
            }
        }
    }
}
