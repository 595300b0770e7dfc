//! Whether a caller's key can be guessed. The file holds the key's SHA-256 without a salt, so that whoever reads the file can try very
//! many keys a second, and a key that a person thought of is found.
//!
//! An estimate: it is sure to refuse short, repeated and spelled-out keys, and to accept what a random generator makes. `zxcvbn` knows
//! passwords far better, but lists of names and passwords are not needed to tell those two apart.
//!
//! ```
//! use revgate::policy::key_strength::weakness;
//!
//! assert!(weakness("billing-service-secret-2026").is_some());
//! assert!(weakness("7d8f1c0b9e34a256f7013c8ae92b645d").is_none());
//! ```

use thiserror::Error;

/// Why a key can be guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Weakness {
    #[error("it has fewer than {MIN_LENGTH} characters")]
    Short,
    #[error("it has fewer than {MIN_DISTINCT} different characters")]
    Uniform,
    #[error("it is made of words, repetitions or sequences")]
    Predictable,
}

const MIN_LENGTH: usize = 20;
const MIN_DISTINCT: usize = 6;
/// Bits that take more guesses than anyone makes.
const MIN_BITS: f64 = 80.0;

/// What a repetition, a sequence or a word costs to guess, however long it is: which one, where, and how it is spelled.
const BITS_OF_PATTERN: f64 = 8.0;
/// Of a letter in a word of English that is not in the list.
const BITS_OF_WORD_LETTER: f64 = 2.3;

/// Words that keys are made of, with the most common passwords.
const WORDS: &[&str] = &[
    "1q2w3e4r",
    "access",
    "account",
    "admin",
    "api",
    "app",
    "auth",
    "bearer",
    "billing",
    "caller",
    "changeme",
    "client",
    "company",
    "customer",
    "default",
    "demo",
    "dev",
    "devrev",
    "dragon",
    "example",
    "foobar",
    "gateway",
    "hello",
    "iloveyou",
    "internal",
    "key",
    "letmein",
    "local",
    "login",
    "master",
    "monkey",
    "passphrase",
    "passw0rd",
    "password",
    "prod",
    "production",
    "public",
    "random",
    "report",
    "revgate",
    "root",
    "sample",
    "secret",
    "secure",
    "server",
    "service",
    "staging",
    "super",
    "support",
    "sync",
    "system",
    "team",
    "temp",
    "test",
    "token",
    "user",
    "value",
    "welcome",
    "work",
];

/// Rows of a keyboard.
const ROWS: [&str; 4] = ["1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm"];

/// The pairs of letters that make up most of English text. Of random letters, one pair in six is one of them.
const PAIRS: &str = "th he in er an re nd at on nt ha es st en ed to it ou ea hi is or ti as te et ng of al de se le sa si ar ve ra ld ur ro ri \
    ic ne me io li la el ma ta ce ll om us ec co di ho ch tr ge be ca ss il ns un pe lo no so ac wo wi mo em ul ir ut tt ot ct ow ol ai sh \
    rs ad oo ke po pr rt ni id im ee bi pl ck am ay";

/// Why the key can be guessed, if it can.
pub fn weakness(key: &str) -> Option<Weakness> {
    let mut distinct = key.as_bytes().to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    if key.len() < MIN_LENGTH {
        Some(Weakness::Short)
    } else if distinct.len() < MIN_DISTINCT {
        Some(Weakness::Uniform)
    } else if bits(key) < MIN_BITS {
        Some(Weakness::Predictable)
    } else {
        None
    }
}

/// Bits of randomness from which on a text is taken for a secret.
const SECRET_BITS: f64 = 44.0;
/// Shorter parts of a text are words, numbers or abbreviations.
const SECRET_PART: usize = 8;
/// Bits of a character from which on a part is none of words.
const SECRET_DENSITY: f64 = 2.75;

/// Whether the text may be a secret that a generator made, so that it is not quoted where a person has misplaced it.
///
/// ```
/// use revgate::policy::key_strength::looks_random;
///
/// assert!(looks_random("f47ac10b-58cc-4372-a567-0e02b2c3d479"));
/// assert!(!looks_random("spiffe://example.org/ns/production/sa/billing-service"));
/// ```
pub fn looks_random(text: &str) -> bool {
    let parts = text.split(|c: char| !c.is_ascii_alphanumeric());
    let parts = parts.filter(|part| part.len() >= SECRET_PART);
    let of_part = |part: &str| {
        // A number with its unit has only digits.
        let number = part.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let is_number =
            part.len() - number.len() <= 3 && number.bytes().all(|b| b.is_ascii_digit());
        let part = if is_number { number } else { part };
        Some(bits(part)).filter(|bits| *bits >= SECRET_DENSITY * part.len().min(LOOKED_AT) as f64)
    };
    parts.filter_map(of_part).sum::<f64>() >= SECRET_BITS
}

/// Characters that are looked at. A good key needs a tenth of them.
const LOOKED_AT: usize = 256;

/// About how many bits of randomness the key has: those of its cheapest description. A part can be told as a pattern, as English or by its
/// characters, and the longest pattern is not always the best one to begin with.
fn bits(key: &str) -> f64 {
    let key = &key.as_bytes()[..key.len().min(LOOKED_AT)];
    let lower = key.to_ascii_lowercase();
    let each = bits_of_character(key);
    // Of what stands before each place.
    let mut least = vec![f64::INFINITY; key.len() + 1];
    least[0] = 0.0;
    let mut english_until = 0;
    for at in 0..key.len() {
        if at >= english_until {
            english_until = at + english(&key[at..]);
        }
        let single = if at < english_until {
            BITS_OF_WORD_LETTER
        } else if key[at].is_ascii_alphanumeric() {
            each
        } else {
            // Most of them only separate.
            1.0
        };
        let rest = &lower[at..];
        let patterns = [
            repetition(&lower, at),
            sequence(rest),
            row(rest),
            word(rest),
        ];
        let patterns = patterns.into_iter().filter(|length| *length > 0);
        let patterns = patterns.map(|length| (length, BITS_OF_PATTERN.min(each * length as f64)));
        for (length, cost) in patterns.chain([(1, single)]) {
            let end = at + length;
            least[end] = least[end].min(least[at] + cost);
        }
    }
    least[key.len()]
}

/// The bits of a random letter or digit among those that the key is made of.
fn bits_of_character(key: &[u8]) -> f64 {
    let has = |class: fn(&u8) -> bool| key.iter().any(class);
    let is_hex = |digits: fn(&u8) -> bool| {
        let mut all = key.iter().filter(|b| b.is_ascii_alphanumeric());
        all.all(|b| b.is_ascii_hexdigit() && digits(b))
    };
    let size = if !has(u8::is_ascii_alphabetic) {
        10
    } else if is_hex(|b| !b.is_ascii_uppercase()) || is_hex(|b| !b.is_ascii_lowercase()) {
        16
    } else {
        let size_of = |class: fn(&u8) -> bool, size| if has(class) { size } else { 0 };
        size_of(u8::is_ascii_lowercase, 26)
            + size_of(u8::is_ascii_uppercase, 26)
            + size_of(u8::is_ascii_digit, 10)
    };
    f64::from(size).log2()
}

/// How much of what follows stands earlier in the key; 0 for less than three characters.
fn repetition(key: &[u8], at: usize) -> usize {
    let same = |from: usize| {
        key[from..]
            .iter()
            .zip(&key[at..])
            .take_while(|(a, b)| a == b)
            .count()
    };
    let longest = (0..at).map(same).max().unwrap_or(0);
    if longest < 3 { 0 } else { longest }
}

/// The length of a run such as `aaa`, `abc` or `321`.
fn sequence(rest: &[u8]) -> usize {
    let step = |pair: &[u8]| i16::from(pair[1]) - i16::from(pair[0]);
    let Some(first) = rest
        .windows(2)
        .next()
        .map(step)
        .filter(|step| step.abs() <= 1)
    else {
        return 0;
    };
    let length = 1 + rest
        .windows(2)
        .take_while(|pair| step(pair) == first)
        .count();
    if length < 3 { 0 } else { length }
}

/// The length of a part of a keyboard's row, in either direction.
fn row(rest: &[u8]) -> usize {
    let length = |row: &[u8]| {
        let starts = (0..row.len()).map(|from| {
            row[from..]
                .iter()
                .zip(rest)
                .take_while(|(a, b)| a == b)
                .count()
        });
        starts.max().unwrap_or(0)
    };
    let both = ROWS.iter().flat_map(|row| {
        let back: Vec<u8> = row.bytes().rev().collect();
        [length(row.as_bytes()), length(&back)]
    });
    both.max().filter(|length| *length >= 4).unwrap_or(0)
}

/// The length of the longest word of the list that begins here, also if digits stand for letters.
fn word(rest: &[u8]) -> usize {
    let letter = |b: &u8| match b {
        b'0' => b'o',
        b'1' => b'i',
        b'3' => b'e',
        b'4' | b'@' => b'a',
        b'5' | b'$' => b's',
        b'7' => b't',
        b => *b,
    };
    let is_here = |word: &&&str| {
        let begins = rest.get(..word.len());
        begins.is_some_and(|begins| {
            begins == word.as_bytes() || begins.iter().map(letter).eq(word.bytes())
        })
    };
    WORDS
        .iter()
        .filter(is_here)
        .map(|word| word.len())
        .max()
        .unwrap_or(0)
}

/// The length of a run of letters that looks like English; 0 for less than four letters. A capital begins a new one.
fn english(rest: &[u8]) -> usize {
    let letters = rest.iter().take_while(|b| b.is_ascii_alphabetic()).count();
    let is_lower = |b: &u8| b.is_ascii_lowercase();
    let length = match rest[..letters]
        .iter()
        .skip(1)
        .take_while(|b| is_lower(b))
        .count()
    {
        // In capitals as a whole.
        0 => rest[..letters].iter().take_while(|b| !is_lower(b)).count(),
        lower => 1 + lower,
    };
    if length < 4 {
        return 0;
    }
    let run = String::from_utf8_lossy(&rest[..length]).to_ascii_lowercase();
    let is_common = |from: &usize| PAIRS.split(' ').any(|pair| pair == &run[*from..from + 2]);
    let common = (0..length - 1).filter(is_common).count();
    if 2 * common >= length - 1 { length } else { 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_people_think_of_is_refused() {
        use Weakness::{Predictable, Short, Uniform};
        for (key, want) in [
            ("", Short),
            ("abc", Short),
            ("password", Short),
            ("P@ssw0rd123!", Short),
            ("billing-key-0001", Short),
            ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", Uniform),
            ("abababababababababababab", Uniform),
            ("11111111112222222222", Uniform),
            ("00000000-0000-0000-0000-000000000000", Uniform),
            ("deadbeefdeadbeefdeadbeefdeadbeef", Uniform),
            ("0123456789012345678901234567890123456789", Predictable),
            ("0123456789abcdef0123456789abcdef", Predictable),
            ("abcdefghijklmnopqrstuvwxyz", Predictable),
            ("zyxwvutsrqponmlkjihgfedcba9876543210", Predictable),
            ("qwertyuiopasdfghjklzxcvbnm1234567890", Predictable),
            ("1q2w3e4r5t6y7u8i9o0p", Predictable),
            ("secret-key-for-the-billing-service", Predictable),
            ("S3cr3t-K3y-F0r-B1ll1ng-2026!", Predictable),
            ("devrev-token-devrev-token-devrev-token", Predictable),
            ("correct-horse-battery-staple", Predictable),
            ("CorrectHorseBatteryStaple1", Predictable),
            ("passwordpasswordpassword1", Predictable),
            ("this-is-not-a-very-good-key", Predictable),
            ("a-secret-of-the-test-number-1", Predictable),
            ("kT9x-kT9x-kT9x-kT9x-kT9x-kT9x", Uniform),
            ("kT9xM-kT9xM-kT9xM-kT9xM-kT9xM", Predictable),
        ] {
            assert_eq!(weakness(key), Some(want), "{key}: {}", bits(key));
        }
    }

    #[test]
    fn what_generators_make_is_accepted() {
        for key in [
            // openssl rand -hex 32, -hex 16, -base64 24; uuidgen; pwgen -s 24; base32.
            "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "7d8f1c0b9e34a256f7013c8ae92b645d",
            "q3Zr8VtN1yLk0sXhB7mWfJ2pUe5GcD9a",
            "f47ac10b-58cc-4372-a567-0e02b2c3d479",
            "Xu7ohth1EeSh9quahk6Aijo0",
            "mfrggzdfmztwq2lknnwg23tpoa",
            "83917462058391047265193846",
        ] {
            assert_eq!(weakness(key), None, "{key}: {}", bits(key));
        }
    }

    #[test]
    fn words_are_found_at_any_place() {
        for key in [
            "devproductionaccessiloveyou1001",
            "productiondevkey9999x",
            "xdevproductionapikey77",
        ] {
            assert_eq!(
                weakness(key),
                Some(Weakness::Predictable),
                "{key}: {}",
                bits(key)
            );
        }
    }

    #[test]
    fn what_people_write_in_a_file_does_not_look_random() {
        for text in [
            "",
            "50/s",
            "127.0.0.1:65536",
            "0.0.0.0:99999",
            "[fe80::1234:5678:9abc:def0]:8080",
            "https://otlp-gateway.eu-west-1.example:4318/otlp/v1",
            "system:serviceaccount:production:billing-service",
            "spiffe://cluster.local/ns/shop/sa/checkout-worker",
            "/var/run/secrets/kubernetes.io/serviceaccount/token",
            "/run/credentials/revgate.service/devrev-token",
            "DEVREV_TOKEN",
            "BILLING_SERVICE_API_KEY_PRODUCTION",
            "rev-users.delete-personal-data",
            "info,revgate::layer=debug,hyper=warn",
            "31622400001ms",
        ] {
            assert!(!looks_random(text), "{text}");
        }
        for text in [
            "f47ac10b-58cc-4372-a567-0e02b2c3d479",
            "00000000-58cc-4372-a567-0e02b2c3d479",
            "AKIAIOSFODNN7XQZPLMW",
            "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln",
            "token = q3Zr8VtN1yLk0sXhB7mWfJ2p",
        ] {
            assert!(looks_random(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_a_generator_makes_looks_random(
            hex in "[0-9a-f]{32}", base64 in "[A-Za-z0-9+/]{32}", url in "[A-Za-z0-9_-]{32}", base32 in "[A-Z2-7]{32}",
        ) {
            for key in [hex, base32] {
                prop_assert!(looks_random(&key), "{}", key);
            }
            // Some have a separator every few characters.
            for key in [base64, url] {
                let longest = key.split(|c: char| !c.is_ascii_alphanumeric()).map(str::len).max();
                prop_assert!(looks_random(&key) || longest < Some(16), "{}", key);
            }
        }

        #[test]
        fn random_keys_are_accepted(
            hex in "[0-9a-f]{48}", capitals in "[0-9A-F]{48}", base64 in "[A-Za-z0-9+/]{32}", url in "[A-Za-z0-9_-]{32}", base32 in "[a-z2-7]{40}",
        ) {
            for key in [hex, capitals, base64, url, base32] {
                prop_assert_eq!(weakness(&key), None, "{}: {}", key, bits(&key));
            }
        }

        #[test]
        fn words_and_repetitions_are_refused(
            words in proptest::collection::vec(proptest::sample::select(WORDS), 1..5), number in 0..9999_u32, part in "[!-~]{1,6}", times in 4..40_usize,
        ) {
            for key in [words.join("-"), format!("{}{number}", words.concat()), part.repeat(times)] {
                prop_assert!(weakness(&key).is_some(), "{}: {}", key, bits(&key));
            }
        }
    }
}
