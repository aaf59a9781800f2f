//! Why an edit cannot be made.

use std::fmt::Display;

use thiserror::Error;

use crate::authoring::step_error::StepError;

/// An edit that cannot be made. Says where and why, and nothing of what the document holds.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}{reason}", prefix(.path))]
pub(crate) struct EditError {
    /// The field's path; empty for the document as a whole.
    pub(crate) path: String,
    pub(crate) reason: &'static str,
}

pub(super) fn prefix(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("field `{path}`: ") }
}

impl EditError {
    pub(super) fn new(path: impl Into<String>, reason: &'static str) -> Self {
        EditError { path: path.into(), reason }
    }

    pub(super) fn at(place: &impl Display, reason: &'static str) -> Self {
        EditError::new(place.to_string(), reason)
    }

    pub(super) fn malformed() -> Self {
        EditError::new("", "the document is not valid BSON")
    }
}

impl From<EditError> for StepError {
    fn from(error: EditError) -> Self {
        StepError::refused(error.to_string())
    }
}
