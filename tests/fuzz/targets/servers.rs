//! Servers that misread paths, as the tests of `policy::operation` have them. Shares no code with revgate.
#![allow(dead_code, reason = "each target uses a part")]

/// How one server reads a path.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// How often it decodes before it splits.
    before: u8,
    /// And after.
    after: u8,
    /// Which of [`ENDS`] end its paths.
    ends: u8,
    /// It drops what begins with `;` in each segment.
    drops_parameters: bool,
    backslash_is_slash: bool,
    trims: bool,
    /// The one segment that it looks at, counted from the end.
    segment: Option<u8>,
}

const ENDS: [char; 6] = ['?', '#', ';', ' ', ':', '&'];

impl Server {
    /// The server with these bits.
    pub fn of([a, b, c]: [u8; 3]) -> Server {
        Server {
            before: a & 3,
            after: (a >> 2) % 3,
            ends: b & 63,
            drops_parameters: b & 64 > 0,
            backslash_is_slash: b & 128 > 0,
            trims: a & 128 > 0,
            segment: (c & 4 > 0).then_some(c & 3),
        }
    }

    /// One that looks at whole paths, and decodes.
    pub fn of_wholes(bits: [u8; 3]) -> Server {
        let server = Server::of(bits);
        Server {
            before: server.before.max(1),
            segment: None,
            ..server
        }
    }

    /// What it takes for the operation.
    pub fn read(&self, path: &str) -> Option<String> {
        let mut text = decoded(path, self.before);
        let ends = |c: char| ENDS.iter().position(|end| *end == c);
        let end = text.find(|c| ends(c).is_some_and(|bit| self.ends >> bit & 1 > 0));
        text.truncate(end.unwrap_or(text.len()));
        let mut segments: Vec<String> = Vec::new();
        for segment in text.split(|c| c == '/' || c == '\\' && self.backslash_is_slash) {
            let cut = segment.find(';').filter(|_| self.drops_parameters);
            let segment = &segment[..cut.unwrap_or(segment.len())];
            let segment = if self.trims { segment.trim() } else { segment };
            match segment {
                "" | "." => {}
                ".." => drop(segments.pop()),
                _ => segments.push(decoded(segment, self.after).to_lowercase()),
            }
        }
        match self.segment {
            None => (!segments.is_empty()).then(|| segments.join("/")),
            Some(from_end) => segments.iter().rev().nth(from_end.into()).cloned(),
        }
    }
}

fn decoded(text: &str, times: u8) -> String {
    (0..times).fold(text.to_owned(), |text, _| once(&text))
}

fn once(text: &str) -> String {
    let (mut bytes, mut out) = (text.as_bytes(), Vec::with_capacity(text.len()));
    let digit = |byte: u8| char::from(byte).to_digit(16);
    loop {
        match bytes {
            [] => return String::from_utf8_lossy(&out).into_owned(),
            [b'%', high, low, rest @ ..] if digit(*high).is_some() && digit(*low).is_some() => {
                let value = digit(*high)
                    .zip(digit(*low))
                    .map(|(high, low)| high << 4 | low);
                out.extend(value.and_then(|value| u8::try_from(value).ok()));
                bytes = rest;
            }
            [byte, rest @ ..] => {
                out.push(*byte);
                bytes = rest;
            }
        }
    }
}
