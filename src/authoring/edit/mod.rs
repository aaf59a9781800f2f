//! What an author's transform does to one document, and the statements that do so on the server.
//!
//! - `edits`: the edits, as a transform collects them. `error`: why one cannot be made.
//! - `tree`: the edits by place. `element`: documents by their bytes. `rewrite`: what the server makes of a document.
//! - `statement`: the statements. `assign`: what they assign, and which old values that depends on. `conditions`: filters
//!   that hold only for these.
//! - `whole`: a document that becomes another one. `touched`: edits whose old and new values exceed one statement.

mod assign;
mod conditions;
mod edits;
mod element;
mod error;
mod rewrite;
mod statement;
#[cfg(test)]
mod tests;
mod touched;
mod tree;
mod whole;

pub(crate) use assign::Extent;
pub use edits::Edits;
pub(crate) use edits::{Counts, Inserts};
pub(crate) use element::{MAX_DOCUMENT_SIZE, is_too_deep};
pub(crate) use error::EditError;
pub(crate) use statement::{deletion, guarded_deletion};
pub(crate) use touched::{CHANGED, PURPOSE, Touched, stored_id};
pub(crate) use whole::{Whole, repeated};
