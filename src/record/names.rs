//! The names of the record and its fields.

use crate::record::stamp::stamped::Place;

/// The names of the record and its fields, which are the application's to set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The collection of the record and the lock.
    pub collection: String,
    /// The record's `_id`.
    pub record: String,
    /// The field of a history entry that holds the version of the code that wrote it.
    pub code_version: String,
    /// Where the application keeps its version itself, if it does.
    pub stamp: Option<Place>,
}
