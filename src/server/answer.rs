//! What an answer of the server says: codes, and words that hold no document's contents.

use mongodb::bson::{Bson, Document};
use mongodb::error::{Error, ErrorKind, WriteFailure};

use crate::server::redact;

/// The server's code for a missing privilege.
pub(crate) const UNAUTHORISED: i32 = 13;

/// The server's code of an error, wherever the driver keeps it.
pub(crate) fn code(error: &Error) -> Option<i32> {
    match error.kind.as_ref() {
        ErrorKind::Command(command) => Some(command.code),
        ErrorKind::Write(WriteFailure::WriteError(write)) => Some(write.code),
        ErrorKind::Write(WriteFailure::WriteConcernError(concern)) => Some(concern.code),
        ErrorKind::InsertMany(many) => many
            .write_errors
            .as_ref()
            .and_then(|errors| errors.first().map(|write| write.code))
            .or(many.write_concern_error.as_ref().map(|concern| concern.code)),
        _ => None,
    }
}

/// What the server says of an error; it may hold a document's contents.
pub(crate) fn message(error: &Error) -> Option<&str> {
    match error.kind.as_ref() {
        ErrorKind::Command(command) => Some(&command.message),
        ErrorKind::Write(WriteFailure::WriteError(write)) => Some(&write.message),
        ErrorKind::Write(WriteFailure::WriteConcernError(concern)) => Some(&concern.message),
        _ => None,
    }
}

/// Whether a document could not be inserted because its `_id` exists already, and not because of another unique index.
pub(crate) fn is_taken(error: &Error) -> bool {
    code(error) == Some(11000)
        && message(error).is_none_or(|message| message.contains("index: _id_"))
}

/// Whether a transaction failed because of others: another one has changed a document, or the server ended this one
/// because it took too long.
pub(crate) fn is_contention(error: &Error) -> bool {
    matches!(code(error), Some(112 | 251))
}

/// Whether a transaction was too large or too long for the server.
pub(crate) fn too_large(error: &Error) -> bool {
    matches!(code(error), Some(146 | 257 | 290 | 388 | 10334))
}

/// Whether an error of such a code says that the server cannot hold what a transaction writes.
pub(crate) fn outgrows_server(code: i32) -> bool {
    matches!(code, 257 | 388)
}

/// An error in words that hold no document's contents and no secret.
pub(crate) fn describe(error: &Error) -> String {
    let server = |code: i32, name: &str, message: &str| match safe_detail(code, message) {
        Some(detail) => format!("server error {code} {name}: {detail}"),
        None => format!("server error {code} {name}").trim_end().to_owned(),
    };
    match error.kind.as_ref() {
        ErrorKind::Command(command) => server(command.code, &command.code_name, &command.message),
        ErrorKind::Write(WriteFailure::WriteError(write)) => {
            server(write.code, write.code_name.as_deref().unwrap_or_default(), &write.message)
        }
        ErrorKind::Write(WriteFailure::WriteConcernError(concern)) => {
            server(concern.code, &concern.code_name, &concern.message)
        }
        ErrorKind::InsertMany(many) => match many.write_errors.as_ref().and_then(|e| e.first()) {
            Some(write) => {
                server(write.code, write.code_name.as_deref().unwrap_or_default(), &write.message)
            }
            None => "the server did not confirm an insert".to_owned(),
        },
        ErrorKind::Write(_) | ErrorKind::BulkWrite(_) => "a write failed".to_owned(),
        ErrorKind::Bson(_) => "a document cannot be encoded or decoded".to_owned(),
        other => other.to_string(),
    }
}

/// What may be told of a server's message: many repeat the document or the command.
pub(crate) fn safe_detail(code: i32, message: &str) -> Option<String> {
    redact::detail(code, message, None)
}

/// The errors of the single writes in the answer to a write command.
pub(crate) fn write_errors(answer: &Document) -> impl Iterator<Item = &Document> {
    answer
        .get_array("writeErrors")
        .map(|errors| errors.as_slice())
        .unwrap_or_default()
        .iter()
        .filter_map(Bson::as_document)
}

/// Fails if a write was not confirmed, and so may be lost; the error is one of those that are retried.
pub(crate) fn fail_on_write_concern(answer: &Document) -> Result<(), Error> {
    match answer.get_document("writeConcernError") {
        Ok(_) => {
            Err(std::io::Error::other("the server did not confirm a write to a majority").into())
        }
        Err(_) => Ok(()),
    }
}
