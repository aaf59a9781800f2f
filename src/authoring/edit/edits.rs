//! The edits of one document, as a transform collects them.

use std::borrow::Cow;

use mongodb::bson::raw::{BindRawBsonRef, cstr};
use mongodb::bson::{DateTime, RawBsonRef, RawDocument, RawDocumentBuf};

use super::element::{MAX_DOCUMENT_SIZE, TOO_DEEP, Value, id, is_too_deep};
use super::error::EditError;
use crate::authoring::naming::Name;

/// The edits of one document, collected by a transform.
///
/// A path names fields from the top of the document, joined by dots, and elements of arrays by their
/// position: `relationships.0.refcode`. No two edits may touch the same path or a part of each other's,
/// `_id` stays, and no part of a path is empty or begins with `$`. What breaks this, or what the server
/// would refuse, is found before anything is written.
#[derive(Default)]
pub struct Edits {
    // one document may have hundreds of thousands of them: none takes memory of its own
    pub(super) paths: String,
    pub(super) values: Vec<u8>,
    pub(super) changes: Vec<Change>,
    pub(super) inserts: Inserts,
    pub(super) counts: Counts,
    pub(super) deleted: bool,
    pub(super) becomes: Option<RawDocumentBuf>,
    pub(super) started: Option<DateTime>,
}

/// Documents to add, each with its collection.
pub(crate) type Inserts = Vec<(Name, RawDocumentBuf)>;

/// Numbers by counter.
pub(crate) type Counts = Vec<(Name, u64)>;

/// Where the path and the value of a change end in their buffers; they begin where those of the previous change end. A
/// change without a value unsets its path.
#[derive(Clone, Copy, Default)]
pub(super) struct Change {
    pub(super) path: usize,
    pub(super) value: usize,
}

impl Edits {
    /// No edits yet, of a version that is applied by a run that began then.
    pub(crate) fn at(started: DateTime) -> Self {
        Edits { started: Some(started), ..Edits::default() }
    }

    /// When the run that applies the version began: the same for all its steps and documents, in every retry, and, if
    /// the version is journaled, in every run that resumes it.
    ///
    /// A plan sees its own start. Use this time, and never a clock, for any date that an upgrade writes.
    pub fn started(&self) -> DateTime {
        self.started.unwrap_or(DateTime::MIN)
    }

    /// Deletes the document, which the transform declares with
    /// [`deletes`](crate::Transform::deletes). Documents may be added together with it, but nothing else may
    /// be edited in it.
    ///
    /// It is deleted only if it is still as it was read. If the upgrade is not one transaction, documents to add are
    /// added before it is deleted.
    pub fn delete(&mut self) {
        self.deleted = true;
    }

    /// Sets a field as `$set` does: an existing field keeps its position, a new one is appended, missing parents become
    /// documents, and an array is padded with nulls.
    pub fn set(&mut self, path: impl Into<String>, value: impl BindRawBsonRef) {
        // its length, its type, an empty name, the value, and the end
        let value = RawDocumentBuf::from_iter([(cstr!(""), value)]);
        if let [_, _, _, _, kind, 0, bytes @ .., 0] = value.as_bytes() {
            self.values.push(*kind);
            self.values.extend(bytes);
        }
        self.push(&path.into());
    }

    /// Removes a field as `$unset` does: an element of an array becomes null.
    pub fn unset(&mut self, path: impl Into<String>) {
        self.push(&path.into());
    }

    pub(super) fn push(&mut self, path: &str) {
        self.paths.push_str(path);
        self.changes.push(Change { path: self.paths.len(), value: self.values.len() });
    }

    /// The change before this one, at which its path and value begin.
    pub(super) fn before(&self, index: usize) -> Change {
        match index {
            0 => Change::default(),
            _ => self.changes[index - 1],
        }
    }

    pub(super) fn path(&self, index: usize) -> &str {
        &self.paths[self.before(index).path..self.changes[index].path]
    }

    /// The value that is set; `None` if the field is removed.
    pub(super) fn value(&self, index: usize) -> Option<Value<'_>> {
        let (kind, bytes) =
            self.values[self.before(index).value..self.changes[index].value].split_first()?;
        Some(Value { kind: *kind, bytes })
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        (0..self.changes.len()).map(|index| self.path(index))
    }

    /// Adds a document to a collection, together with the edits of this one.
    ///
    /// The document must have an `_id` that is the same whenever it is computed from the same input, because it may be
    /// computed more than once: an identical document that already exists is left alone. One with that `_id` and other
    /// contents ends the run. If users may change the input in the meantime, derive the `_id` from everything that is
    /// inserted.
    pub fn insert(&mut self, collection: impl Into<Cow<'static, str>>, document: RawDocumentBuf) {
        self.inserts.push((collection.into(), document));
    }

    /// Counts for the report; ignored where nothing is edited.
    pub fn count(&mut self, counter: impl Into<Cow<'static, str>>, n: u64) {
        let counter = counter.into();
        match self.counts.iter_mut().find(|(other, _)| *other == counter) {
            Some((_, count)) => *count = count.saturating_add(n),
            None => self.counts.push((counter, n)),
        }
    }

    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
            && self.inserts.is_empty()
            && !self.deleted
            && self.becomes.is_none()
    }

    /// Makes the document another one as a whole, with the same `_id`.
    pub(crate) fn become_whole(&mut self, document: RawDocumentBuf) {
        self.becomes = Some(document);
    }

    /// What the document becomes as a whole, where that was said.
    pub(crate) fn becomes(&self) -> Option<&RawDocument> {
        self.becomes.as_deref()
    }

    /// What was counted, by counter.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&str, u64)> {
        self.counts.iter().map(|(counter, n)| (&**counter, *n))
    }

    /// The counters that were counted.
    pub(crate) fn counters(&self) -> impl Iterator<Item = &str> {
        self.counts.iter().map(|(counter, _)| &**counter)
    }

    /// The top-level fields that the edits touch, repeated where several do.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &str> {
        self.paths().map(|path| path.split('.').next().unwrap_or(path))
    }

    /// The documents to add, each found to be one that the server can take.
    pub(crate) fn inserts(&self) -> impl Iterator<Item = Result<Insert<'_>, EditError>> {
        self.inserts.iter().map(|(collection, document)| Insert::new(collection, document))
    }

    /// What was counted, and the documents to add.
    pub(crate) fn into_counts_and_inserts(self) -> (Counts, Inserts) {
        (self.counts, self.inserts)
    }

    /// Whether the document is to be deleted.
    ///
    /// # Errors
    ///
    /// It is to be edited as well, or to be added again.
    pub(crate) fn deletes(
        &self,
        collection: &str,
        document: &RawDocument,
    ) -> Result<bool, EditError> {
        if !self.deleted {
            return Ok(false);
        }
        if let Some(path) = self.paths().next() {
            return Err(EditError::new(path, "the document is both edited and deleted"));
        }
        for (into, added) in &self.inserts {
            if into == collection && id(added)? == id(document)? {
                let reason = "the document is both deleted and added: edit it instead";
                return Err(EditError::new("_id", reason));
            }
        }
        Ok(true)
    }
}

/// A document to add.
pub(crate) struct Insert<'a> {
    pub(crate) collection: &'a Name,
    pub(crate) document: &'a RawDocument,
}

impl<'a> Insert<'a> {
    pub(super) fn new(collection: &'a Name, document: &'a RawDocument) -> Result<Self, EditError> {
        if matches!(
            id(document)?,
            RawBsonRef::Array(_) | RawBsonRef::RegularExpression(_) | RawBsonRef::Undefined
        ) {
            return Err(EditError::new("_id", "an inserted document has an `_id` of a wrong type"));
        }
        if document.as_bytes().len() > MAX_DOCUMENT_SIZE {
            return Err(EditError::new("", "an inserted document exceeds 16 MiB"));
        }
        if is_too_deep(document) {
            return Err(EditError::new("", TOO_DEEP));
        }
        Ok(Insert { collection, document })
    }
}
