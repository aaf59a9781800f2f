//! Verifies that a convergent transform leaves its own output alone, since it may run over documents again: to catch
//! late writers, and on servers without transactions.

use std::panic::{AssertUnwindSafe, catch_unwind};

use mongodb::bson::{DateTime, RawDocument, RawDocumentBuf};

use crate::authoring::edit::Edits;
use crate::authoring::editor::{Answer, Editor};
use crate::authoring::lookup::Found;
use crate::authoring::step_error::StepError;
use crate::authoring::step_kind::StepKind;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::documents::edited;
use crate::engine::failing::failed_step;
use crate::server::stop::RunError;

/// What is done with what a transform makes of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verify {
    /// It is given to the transform once more.
    Output,
    /// It is kept, for a later step.
    Kept,
    Nothing,
}

impl Verify {
    /// What there is to verify of a transform: the promise to be convergent, where it was made.
    pub(crate) fn promise(transform: &Transform) -> Self {
        if transform.convergent { Verify::Output } else { Verify::Nothing }
    }
}

/// Gives the transform its own output, as far as it is a function and `found` has all that the output asks
/// for; returns what has to be asked about.
pub(crate) fn verify_known(
    upgrade: &VersionUpgrade,
    transform: &Transform,
    output: RawDocumentBuf,
    found: &Found,
) -> Result<Option<RawDocumentBuf>, RunError> {
    let called = matches!(transform.editor, Editor::Function(_));
    if !called || !transform.lookups.iter().all(|lookup| found.answers(lookup, &output)) {
        return Ok(Some(output));
    }
    verify(upgrade, transform, &output, found, None)?;
    Ok(None)
}

/// The edits of a document: those that the function asks for, or the answer of another editor.
pub(crate) fn edits(
    started: DateTime,
    transform: &Transform,
    document: &RawDocument,
    found: &Found,
    answer: Option<Answer>,
) -> Result<Edits, StepError> {
    if let Some(answer) = answer {
        return answer.into_edits(started);
    }
    let mut edits = Edits::at(started);
    match &transform.editor {
        Editor::Function(edit) => edit(document, found, &mut edits)?,
        Editor::Pipeline(_) | Editor::Program(_) => {
            return Err(StepError::refused("its editor was not asked"));
        }
    }
    Ok(edits)
}

/// Gives the transform its own output.
///
/// # Errors
///
/// It would change it again, or add documents.
pub(crate) fn verify(
    upgrade: &VersionUpgrade,
    transform: &Transform,
    output: &RawDocument,
    found: &Found,
    answer: Option<Answer>,
) -> Result<(), RunError> {
    let calling = || edits(upgrade.started(), transform, output, found, answer);
    let called = catch_unwind(AssertUnwindSafe(calling));
    // What it refuses, it does not change. The filter may keep such documents from it.
    let Ok(Ok(edits)) = called else { return Ok(()) };
    if edits.is_empty() || edits.leave_as_it_is(output) {
        return Ok(());
    }
    let mut fields: Vec<String> = edits.fields().map(|field| format!("`{field}`")).collect();
    fields.sort_unstable();
    fields.dedup();
    let does = match fields.as_slice() {
        [] => "adds or deletes documents again".to_owned(),
        fields => format!("edits {} again", fields.join(", ")),
    };
    let (what, next) = match &transform.editor {
        Editor::Program(_) => (
            "the program must leave what it made of a document as it is, but given its own output it",
            "let the program answer nothing for documents that it has changed already, deploy it, then run it again",
        ),
        Editor::Function(_) | Editor::Pipeline(_) => (
            "the step is declared convergent, but given its own output it",
            "let the step's code leave documents alone that it has changed already, or remove \
             .convergent() from it (it then needs a replica set), and run it again",
        ),
    };
    let what = format!("{}: {what} {does}", edited::place(transform, output));
    Err(failed_step(upgrade, &transform.name(), &what, next))
}
