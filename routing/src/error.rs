//! What is wrong with a Route, told so that its author can mend it.
//! Never stops at the first problem.

use std::fmt;

/// More would not be read, and a condition's message is bounded.
const PROBLEMS_SHOWN_MAX: usize = 20;
/// Text that comes from a document is cut here, so that a hostile one cannot fill a status.
const QUOTED_CHARS_MAX: usize = 120;

/// One thing to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A field of the Route (`spec.basePath`) or a JSON pointer into its document (`document#/paths/~1a/get`).
    pub at: String,
    /// What is wrong there.
    pub what: String,
    /// What to do about it.
    pub fix: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.at, self.what, self.fix)
    }
}

/// Why a Route could not be compiled: every problem at once, of which twenty are kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct CompileError {
    problems: Vec<Problem>,
    total: usize,
}

impl CompileError {
    /// The first twenty problems, in the order of the document.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// How many problems there are in all.
    pub fn total(&self) -> usize {
        self.total
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        match self.total - self.problems.len() {
            0 => Ok(()),
            more => write!(f, "\n… and {more} more"),
        }
    }
}

/// Collects problems while compiling goes on.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    kept: Vec<Problem>,
    total: usize,
}

impl Problems {
    pub(crate) fn add(&mut self, at: impl AsRef<str>, what: impl AsRef<str>, fix: impl AsRef<str>) {
        self.total += 1;
        if self.kept.len() < PROBLEMS_SHOWN_MAX {
            let [at, what, fix] = [at.as_ref(), what.as_ref(), fix.as_ref()].map(shortened);
            self.kept.push(Problem { at, what, fix });
        }
    }

    /// `value`, unless there was a problem.
    pub(crate) fn into_result<T>(self, value: T) -> Result<T, CompileError> {
        match self.total {
            0 => Ok(value),
            total => Err(CompileError { problems: self.kept, total }),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.total == 0
    }
}

/// The whole of a problem's sentence, which may quote several names.
fn shortened(text: &str) -> String {
    cut(text, 4 * QUOTED_CHARS_MAX)
}

/// A name out of a document in backticks, cut, its control characters escaped.
pub(crate) fn quoted(text: &str) -> String {
    format!("`{}`", cut(text, QUOTED_CHARS_MAX).escape_debug())
}

fn cut(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
