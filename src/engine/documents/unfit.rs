//! Documents for which a pipeline cannot be evaluated, and the message for each.

use mongodb::bson::RawDocument;
use mongodb::error::Error;

use crate::authoring::edit::repeated;
use crate::authoring::step_kind::StepKind;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::documents::edited::place;
use crate::engine::failing::failed_step;
use crate::process::exit::Outcome;
use crate::server::stop::RunError;
use crate::server::{answer, errors};

/// Why a document cannot become what it should.
pub(crate) const OUTGROWS: &str = "it would grow beyond the server's limit of 16 MiB";

/// The server's codes for a document that is too large to be built.
const TOO_LARGE: [i32; 4] = [10334, 17260, 17419, 17420];

const REPEATS: &str = "is repeated in the document, or in a document within it, which an update by a pipeline \
                                  may crash the server over: remove one of the two";

/// Whether the server refused a command for good: the same command would be refused again.
pub(crate) fn is_refusal(error: &Error) -> bool {
    answer::code(error).is_some_and(|code| code != answer::UNAUTHORISED)
        && !errors::is_transient(error)
        && errors::meaning(error, Outcome::UpgradeFailed).is_none()
}

/// The closed gate of an update that does not lead out of its filter.
pub(crate) fn still_matches(
    upgrade: &VersionUpgrade,
    transform: &Transform,
    document: &RawDocument,
) -> RunError {
    failed_step(
        upgrade,
        &transform.name(),
        &format!(
            "{}: what the pipeline makes of it still matches the filter, so that the step would never be \
             done with it",
            place(transform, document)
        ),
        "let the filter match documents of the old shape only, or let the pipeline give these what the \
         filter leaves out; deploy that, then run it again",
    )
}

/// What one document cannot be updated for.
pub(crate) fn unevaluated(
    upgrade: &VersionUpgrade,
    transform: &Transform,
    document: Option<&RawDocument>,
    error: &Error,
) -> RunError {
    let place = match document {
        Some(document) => place(transform, document),
        None => format!("a document of {}", transform.collection),
    };
    let reason = match answer::code(error) {
        Some(code) if TOO_LARGE.contains(&code) => OUTGROWS.to_owned(),
        _ => format!("the pipeline fails for it ({})", answer::describe(error)),
    };
    failed_step(
        upgrade,
        &transform.name(),
        &format!("{place}: {reason}"),
        "correct the document, or deploy code whose upgrade can deal with it, then run it again",
    )
}

/// Refuses a document that repeats one of these fields, at which the server may crash.
pub(crate) fn check_names(
    upgrade: &VersionUpgrade,
    transform: &Transform,
    document: &RawDocument,
    wanted: impl Fn(&str) -> bool,
) -> Result<(), RunError> {
    let repeats = match repeated(document, wanted) {
        Ok(None) => return Ok(()),
        Ok(Some(field)) => format!("{}: the field `{field}` {REPEATS}", place(transform, document)),
        Err(error) => format!("{}: {error}", place(transform, document)),
    };
    Err(failed_step(
        upgrade,
        &transform.name(),
        &repeats,
        "correct the document, then run it again",
    ))
}
