//! Problems of the configuration: where, what was found, what to do about it.

use std::{fmt, path::Path, sync::Arc};

/// One problem of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problem {
    /// The key, such as `callers.billing.rate`, or a variable that means none; empty for the file as a whole.
    pub path: String,
    /// The value, if it may be shown: never one that may be a misplaced secret.
    pub found: Option<String>,
    /// What is wrong with it and what to do about it.
    pub message: String,
    pub origin: Origin,
    /// For an error of the syntax: the line, with a mark below. It has no values that may be secrets.
    pub excerpt: Option<String>,
}

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Origin {
    /// Neither in the file nor in a variable, such as a limit of the process.
    #[default]
    Elsewhere,
    File {
        /// `None` if the text did not come from a file.
        file: Option<Arc<Path>>,
        /// `None` for the file as a whole.
        position: Option<Position>,
    },
    /// The variable that overrides the file.
    Variable(String),
}

/// Line and column, each from 1. Columns are characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

/// All problems of the configuration; never empty when returned as an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problem {
    /// A problem of a key whose place is not known, or of no key.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Problem {
        Problem {
            path: path.into(),
            message: message.into(),
            ..Problem::default()
        }
    }

    /// A problem of a file as a whole.
    pub fn of_file(file: &Path, message: impl Into<String>) -> Problem {
        let origin = Origin::File {
            file: Some(file.into()),
            position: None,
        };
        Problem {
            origin,
            ..Problem::new("", message)
        }
    }

    /// What is wrong, with the value.
    pub fn text(&self) -> String {
        match &self.found {
            Some(found) => format!("{found} {}", self.message),
            None => self.message.clone(),
        }
    }

    /// The file and the position in it, if it is one of a file.
    pub fn place(&self) -> (Option<&Path>, Option<Position>) {
        match &self.origin {
            Origin::File { file, position } => (file.as_deref(), *position),
            Origin::Elsewhere | Origin::Variable(_) => (None, None),
        }
    }

    /// The variable from which the value comes.
    pub fn variable(&self) -> Option<&str> {
        match &self.origin {
            Origin::Variable(name) => Some(name),
            Origin::Elsewhere | Origin::File { .. } => None,
        }
    }

    /// As compilers write it, so that editors find the place: `FILE:LINE:COLUMN: KEY: …`, or `VARIABLE: KEY: …`. `kind` stands before
    /// the key.
    fn write(&self, f: &mut fmt::Formatter<'_>, kind: &str) -> fmt::Result {
        match &self.origin {
            Origin::File {
                file: Some(file),
                position,
            } => {
                write!(f, "{}", file.display())?;
                if let Some(Position { line, column }) = position {
                    write!(f, ":{line}:{column}")?;
                }
                f.write_str(": ")?;
            }
            Origin::Variable(name) => write!(f, "{name}: ")?,
            Origin::File { file: None, .. } | Origin::Elsewhere => {}
        }
        f.write_str(kind)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.text())?;
        match &self.excerpt {
            Some(excerpt) => write!(f, "\n{excerpt}"),
            None => Ok(()),
        }
    }

    /// As a warning, in the same form.
    pub fn warning(&self) -> impl fmt::Display {
        struct Warning<'a>(&'a Problem);

        impl fmt::Display for Warning<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.write(f, "warning: ")
            }
        }

        Warning(self)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, "")
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            let line = if i == 0 { "" } else { "\n" };
            write!(f, "{line}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Problems {
        Problems(vec![problem])
    }
}
