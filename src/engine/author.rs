//! Calling the code of an upgrade's author: its errors and its panics, with the document that they are about.

use std::panic::{AssertUnwindSafe, catch_unwind};

use mongodb::bson::error::{Error as BsonError, ErrorKind, ValueAccessErrorKind};
use mongodb::bson::spec::ElementType;
use mongodb::bson::{Bson, RawBsonRef, RawDocument};
use mongodb::error::ErrorKind as DriverErrorKind;

use crate::authoring::lookup::Found;
use crate::authoring::step_error::StepError;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::failing::{at, failed_step};
use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::server::stop::RunError;

/// Calls code of the step `step`; `place` names the document that it is called with.
///
/// # Errors
///
/// A refusal closes the gate with 14 and a panic with 1; both name version, step and document.
pub(crate) fn call<T>(
    upgrade: &VersionUpgrade,
    step: &str,
    place: impl FnOnce() -> String,
    code: impl FnOnce() -> Result<T, StepError>,
) -> Result<T, RunError> {
    // what a panic says may hold a document's contents, and is dropped
    match catch_unwind(AssertUnwindSafe(code)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(refused(error, upgrade, step, &place())),
        Err(_) => Err(panicked(upgrade, step, &place()).into()),
    }
}

/// What an author's code ended with: a refusal closes the gate.
pub(crate) fn refused(
    error: StepError,
    upgrade: &VersionUpgrade,
    step: &str,
    place: &str,
) -> RunError {
    let reason = match error {
        // no server has seen an invalid argument: an insert of nothing, an update without operators
        StepError::Driver(error) => match error.kind.as_ref() {
            DriverErrorKind::InvalidArgument { message, .. } => {
                return failed_step(
                    upgrade,
                    step,
                    &format!("{place}: the driver refuses what the step asks for: {message}"),
                    "correct the code of the step, deploy it, then run it again",
                );
            }
            _ => return RunError::Driver(error),
        },
        StepError::Refused(reason) => reason,
        StepError::Bson(error) => unreadable(&error),
    };
    failed_step(
        upgrade,
        step,
        &format!("{place}: {reason}"),
        "correct what it names, or deploy code whose upgrade can deal with it, then run it again",
    )
}

/// The closed gate of a panic.
pub(crate) fn panicked(upgrade: &VersionUpgrade, step: &str, place: &str) -> Failure {
    Failure::new(
        Outcome::Bug,
        format!("{}: {place}: the code of the upgrade panicked", at(upgrade, step)),
        "the log has the file and line of the panic: correct the code there, deploy it, then run it \
         again",
    )
}

/// An error of a transform's code, naming the document that it is about: the one that is transformed, or
/// one that a look-up found for it.
pub(crate) fn about(
    error: StepError,
    transform: &Transform,
    document: &RawDocument,
    found: &Found,
) -> StepError {
    let StepError::Bson(error) = error else { return error };
    let mut holders: Vec<String> = Vec::new();
    for lookup in &transform.lookups {
        for other in found.of(lookup, document).into_iter().filter(|other| concerns(&error, other))
        {
            let holder = match id(other) {
                Some(id) => format!("document {id} of {}", lookup.collection),
                None => format!("a document of {}", lookup.collection),
            };
            holders.push(format!("{holder}, found by look-up \"{}\"", lookup.name));
        }
    }
    holders.dedup();
    let reason = unreadable(&error);
    let own = concerns(&error, document);
    StepError::Refused(match (own, holders.as_slice()) {
        (_, []) => reason,
        (false, [one]) => format!("in {one}: {reason}"),
        (false, [one, ..]) => format!("in {one}, or in another that was found: {reason}"),
        (true, [one, ..]) => format!("{reason} (in it, or in {one})"),
    })
}

/// Whether an error of reading a field may be of this document.
fn concerns(error: &BsonError, document: &RawDocument) -> bool {
    let (ErrorKind::ValueAccess { kind, .. }, Some(key)) = (&error.kind, &error.key) else {
        return false;
    };
    match kind {
        ValueAccessErrorKind::UnexpectedType { actual, .. } => holds(document, key, *actual),
        ValueAccessErrorKind::NotPresent { .. } => {
            document.get(key).is_ok_and(|value| value.is_none())
        }
        _ => false,
    }
}

/// Whether a field of that name and type is anywhere in a document.
fn holds(document: &RawDocument, key: &str, kind: ElementType) -> bool {
    document.iter_elements().flatten().any(|element| {
        let value = || element.value();
        (element.key() == key && element.element_type() == kind) || match element.element_type() {
            ElementType::EmbeddedDocument => {
                matches!(value(), Ok(RawBsonRef::Document(inner)) if holds(inner, key, kind))
            }
            ElementType::Array => match value() {
                Ok(RawBsonRef::Array(array)) => array.into_iter().flatten().any(
                    |entry| matches!(entry, RawBsonRef::Document(inner) if holds(inner, key, kind)),
                ),
                _ => false,
            },
            _ => false,
        }
    })
}

/// A document's `_id` as text, if it can be read.
pub(crate) fn id(document: &RawDocument) -> Option<String> {
    let id = Bson::try_from(document.get("_id").ok()??).ok()?;
    serde_json::to_string(&id).ok()
}

/// An error of reading a document, in words that hold nothing of its contents.
fn unreadable(error: &BsonError) -> String {
    let what = match (&error.key, error.index) {
        (Some(key), _) => Some(format!("field `{key}`")),
        (None, Some(index)) => Some(format!("array entry {index}")),
        (None, None) => None,
    };
    let message = error.message.as_deref().unwrap_or_default();
    match (&error.kind, what) {
        (ErrorKind::ValueAccess { kind, .. }, Some(what)) => match kind {
            ValueAccessErrorKind::NotPresent { .. } => format!("{what} is missing"),
            ValueAccessErrorKind::UnexpectedType { actual, expected, .. } => {
                format!("{what} is {}, expected {}", a(*actual), a(*expected))
            }
            _ => format!("{what} is not valid BSON"),
        },
        (ErrorKind::Deserialization { .. }, what) => {
            let reason = deserialization(message)
                .unwrap_or_else(|| "cannot be read as the type that the code asks for".to_owned());
            format!("{} {reason}", what.unwrap_or_else(|| "a document".to_owned()))
        }
        (_, Some(what)) => format!("{what} is not valid BSON"),
        (_, None) => "it is not valid BSON".to_owned(),
    }
}

/// What serde says of a value that it cannot read, without the value.
fn deserialization(message: &str) -> Option<String> {
    if let Some(rest) = message.strip_prefix("missing field ") {
        return Some(format!("lacks the field {}", rest.split(" at ").next()?));
    }
    let rest = message.strip_prefix("invalid type: ")?;
    let kind = rest.split(['`', '"', ',']).next()?.trim();
    let (_, expected) = rest.rsplit_once(", expected ")?;
    Some(format!("holds a value of type {kind}, expected {expected}"))
}

/// A type as people call it.
fn a(kind: ElementType) -> &'static str {
    match kind {
        ElementType::Double => "a double",
        ElementType::String => "a string",
        ElementType::EmbeddedDocument => "a document",
        ElementType::Array => "an array",
        ElementType::Binary => "binary data",
        ElementType::Undefined => "undefined",
        ElementType::ObjectId => "an ObjectId",
        ElementType::Boolean => "a boolean",
        ElementType::DateTime => "a date",
        ElementType::Null => "null",
        ElementType::RegularExpression => "a regular expression",
        ElementType::DbPointer => "a DBPointer",
        ElementType::JavaScriptCode => "JavaScript code",
        ElementType::Symbol => "a symbol",
        ElementType::JavaScriptCodeWithScope => "JavaScript code with scope",
        ElementType::Int32 => "an int32",
        ElementType::Timestamp => "a timestamp",
        ElementType::Int64 => "an int64",
        ElementType::Decimal128 => "a decimal128",
        ElementType::MinKey => "MinKey",
        ElementType::MaxKey => "MaxKey",
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::rawdoc;
    use serde::Deserialize;

    use super::*;

    #[test]
    fn an_error_of_reading_names_key_and_types_and_no_value() {
        let document = rawdoc! { "name": "s3cret", "list": ["s3cret"], "n": 1 };
        let of = |error: BsonError| unreadable(&error);
        assert_eq!(
            of(document.get_i32("name").unwrap_err()),
            "field `name` is a string, expected an int32"
        );
        assert_eq!(of(document.get_i32("size").unwrap_err()), "field `size` is missing");
        let list = document.get_array("list").unwrap();
        assert_eq!(
            of(list.get_document(0).unwrap_err()),
            "array entry 0 is a string, expected a document"
        );
        assert_eq!(of(list.get_str(3).unwrap_err()), "array entry 3 is missing");
    }

    #[test]
    fn an_error_of_serde_is_told_without_the_value() {
        #[derive(Debug, Deserialize)]
        struct Thing {
            #[expect(dead_code, reason = "it is only read")]
            n: i32,
        }
        let read = |document| {
            let bytes: mongodb::bson::RawDocumentBuf = document;
            unreadable(
                &mongodb::bson::deserialize_from_slice::<Thing>(bytes.as_bytes()).unwrap_err(),
            )
        };
        let text = read(rawdoc! { "n": "s3cret, expected s3cret" });
        assert!(text.contains("string, expected i32") && !text.contains("s3cret"), "{text}");
        let text = read(rawdoc! { "m": "s3cret" });
        assert!(text.contains("lacks the field `n`"), "{text}");
    }
}
