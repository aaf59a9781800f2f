//! What ends a run without opening the gate.

use thiserror::Error;

use crate::process::exit::Outcome;

/// A closed gate: the outcome, what is the matter, and what to do next.
///
/// Texts are lower case, name the value and the remedy, and never hold a secret or a document's contents.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}: {next}")]
#[non_exhaustive]
pub struct Failure {
    /// Never [`Outcome::Open`].
    pub outcome: Outcome,
    /// What is the matter.
    pub message: String,
    /// What to do next.
    pub next: String,
}

impl Failure {
    /// A closed gate with its reason and its remedy.
    pub fn new(outcome: Outcome, message: impl Into<String>, next: impl Into<String>) -> Self {
        Failure { outcome, message: message.into(), next: next.into() }
    }

    /// A state that correct code never reaches.
    pub fn bug(message: impl Into<String>) -> Self {
        Failure::new(Outcome::Bug, message, "report this with the log of the run")
    }
}
