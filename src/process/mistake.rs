//! A mistake in a file of upgrades, as a report tells it.

use std::borrow::Cow;

use serde::Serialize;

/// What is wrong in a file of upgrades, or odd, and where.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mistake {
    /// Whether it keeps the file from being used.
    pub level: MistakeLevel,
    /// The file, or the directory.
    pub file: String,
    /// The line, counted from 1; `None` if it concerns the whole file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The column, counted in characters from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What is expected there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// All of that as text, with the line and the place in it.
    #[serde(skip)]
    pub excerpt: String,
}

/// Whether a mistake keeps a file from being used.
#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum MistakeLevel {
    /// It does.
    Error,
    /// It does not: what is written there may not be what was meant.
    Warning,
}

impl Mistake {
    /// The mistake as people read it: drawn, if its file was at hand.
    pub(crate) fn shown(&self) -> Cow<'_, str> {
        match (self.level, self.excerpt.as_str()) {
            (MistakeLevel::Error, "") => format!("error: {}", self.in_a_line()).into(),
            (MistakeLevel::Warning, "") => format!("warning: {}", self.in_a_line()).into(),
            (_, excerpt) => excerpt.into(),
        }
    }

    /// The mistake in a line: `gate.yaml:3:10: …`.
    pub fn in_a_line(&self) -> String {
        let place = [self.line, self.column].into_iter().flatten();
        let place: String = place.map(|number| format!(":{number}")).collect();
        let expected = self.expected.as_ref().map(|it| format!("; {it}")).unwrap_or_default();
        format!("{}{place}: {}{expected}", self.file, self.message)
    }
}
