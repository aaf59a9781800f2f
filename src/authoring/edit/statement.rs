//! The statements that carry edits out on the server.

use mongodb::bson::spec::ElementType;
use mongodb::bson::{RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};

use super::assign::{Assigned, Assignments, Extent};
use super::conditions::{Guard, Strength};
use super::edits::Edits;
use super::element::{
    Inside, MAX_DOCUMENT_SIZE, MAX_STORED_DEPTH, TOO_DEEP, elements, embedded, embedded_in,
    enclose, id, nests_beyond, push_element,
};
use super::error::EditError;
use super::rewrite::rewrite;
use super::touched::Touched;
use super::tree::{Tree, Wholes, path_order};
use crate::authoring::naming::Name;

impl Edits {
    /// Whether the edits change nothing: the document stays as it is, and nothing is added or deleted.
    pub(crate) fn leave_as_it_is(&self, document: &RawDocument) -> bool {
        let same = |changes: Changes<'_>| {
            changes.apply(document).is_ok_and(|after| after == document.as_bytes())
        };
        !self.deleted
            && self.inserts.is_empty()
            && self.becomes().is_none_or(|becomes| becomes == document)
            && self.changes().is_ok_and(|changes| changes.is_none_or(same))
    }

    /// The changes of the document itself, if there are any; an error where a path is none.
    pub(crate) fn changes(&self) -> Result<Option<Changes<'_>>, EditError> {
        if self.changes.is_empty() {
            return Ok(None);
        }
        for (index, path) in self.paths().enumerate() {
            let refuse = |reason| Err(EditError::new(path, reason));
            let value = self.value(index).filter(|value| value.nests());
            if value.is_some_and(|value| nests_beyond(MAX_STORED_DEPTH, value.bytes)) {
                return refuse(TOO_DEEP);
            }
            if path.contains('\0') {
                return refuse("the path holds a zero byte");
            }
            for (depth, part) in path.split('.').enumerate() {
                if depth == 0 && part == "_id" {
                    return refuse("`_id` cannot be edited");
                }
                if part.is_empty() {
                    return refuse("a part of the path is empty");
                }
                if part.starts_with('$') {
                    return refuse("a part of the path begins with `$`");
                }
                if depth == MAX_DEPTH {
                    return refuse("the path goes deeper than the server allows");
                }
            }
        }
        let mut order: Vec<usize> = (0..self.changes.len()).collect();
        order.sort_unstable_by(|a, b| path_order(self.path(*a), self.path(*b)));
        // all that is inside a path comes right behind it
        for pair in order.windows(2) {
            let rest = self.path(pair[1]).strip_prefix(self.path(pair[0]));
            if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.')) {
                let later = self.path(pair[0].max(pair[1]));
                return Err(EditError::new(later, "another edit touches the same field"));
            }
        }
        Ok(Some(Changes { edits: self, order, wholes: Wholes::WhereCheaper }))
    }
}

/// How deep the server lets documents be nested.
pub(super) const MAX_DEPTH: usize = 200;

/// The changes of a document whose paths are right.
pub(crate) struct Changes<'a> {
    pub(super) edits: &'a Edits,
    /// Their positions, in the order in which the server carries them out.
    pub(super) order: Vec<usize>,
    pub(super) wholes: Wholes,
}

impl Changes<'_> {
    pub(super) fn tree(&self) -> Tree<'_> {
        Tree { edits: self.edits, order: &self.order, start: 0, wholes: self.wholes }
    }

    /// Exactly what the server makes of `document`, byte for byte.
    pub(crate) fn apply(&self, document: &RawDocument) -> Result<Vec<u8>, EditError> {
        let added = self.edits.values.len() + self.edits.paths.len();
        let mut out = Vec::with_capacity(document.as_bytes().len() + added + 256);
        rewrite(&mut out, document, self.tree(), Inside::Document, None)?;
        Ok(out)
    }

    /// An entry of the `update` command's `updates` that edits the document of this `_id`.
    pub(crate) fn statement(
        &self,
        document: &RawDocument,
        extent: Extent,
    ) -> Result<RawDocumentBuf, EditError> {
        let id = id(document)?;
        let q = match id {
            // a value that cannot be mistaken for an operator is given directly: the server finds it faster
            RawBsonRef::ObjectId(_)
            | RawBsonRef::String(_)
            | RawBsonRef::Int32(_)
            | RawBsonRef::Int64(_)
            | RawBsonRef::Double(_)
            | RawBsonRef::DateTime(_)
            | RawBsonRef::Binary(_) => rawdoc! { "_id": id },
            _ => rawdoc! { "_id": { "$eq": id } },
        };
        let assignments = Assignments::of(document, self.tree(), extent)?;
        embedded(|out| {
            push_element(out, ElementType::EmbeddedDocument, "q", q.as_bytes());
            assignments.push_to(out, document, self.tree())
        })
    }

    /// Like `statement`, but it matches only if every field that the edits touch still has the value that it has here.
    ///
    /// A path is compared down to its end, to where it is missing, or to the first array, which is compared as a whole;
    /// so is everything that is set as a whole. Values are the same if they have the same type and are equal without a
    /// collation. Inside arrays and documents the server treats 1 as 1.0 and a string as a symbol, if they have the
    /// same size or are not set as a whole. If a collection has a collation, a string `_id` is found without an index.
    ///
    /// `None` if it would exceed the size of a statement; `after` is the document after the edits.
    pub(crate) fn guarded_statement(
        &self,
        document: &RawDocument,
        extent: Extent,
        after: &RawDocument,
    ) -> Result<Option<RawDocumentBuf>, EditError> {
        let q = rawdoc! { "_id": { "$eq": id(document)? } };
        let assignments = Assignments::of(document, self.tree(), extent)?;
        // before it takes the memory
        let size = assignments.size(document, after, self.edits)?;
        if size > MAX_DOCUMENT_SIZE {
            return Ok(None);
        }
        let statement = embedded_in(size + size / 8, |out| {
            assignments.push_query_to(out, &q, document)?;
            assignments.push_to(out, document, self.tree())
        })?;
        Ok((statement.as_bytes().len() <= MAX_DOCUMENT_SIZE).then_some(statement))
    }

    /// The top-level fields that the edits touch, before and after.
    pub(crate) fn touched(
        &self,
        document: &RawDocument,
        after: &RawDocument,
    ) -> Result<Touched, EditError> {
        Touched::new(document, after, self.edits.fields())
    }
}

/// An entry of the `delete` command's `deletes` for the document of this `_id`.
pub(crate) fn deletion(document: &RawDocument) -> Result<RawDocumentBuf, EditError> {
    Ok(rawdoc! { "q": { "_id": { "$eq": id(document)? } }, "limit": 1 })
}

/// Like [`deletion`], but it matches only if everything that was read is unchanged: these top-level fields, or the
/// whole document if there are none.
pub(crate) fn guarded_deletion(
    document: &RawDocument,
    fields: &[Name],
) -> Result<RawDocumentBuf, EditError> {
    let mut all = Assignments::default();
    if fields.is_empty() {
        all.extent = Assigned::Document;
    }
    for field in fields {
        let mut elements = elements(document).filter_map(Result::ok);
        let element = elements.find(|element| *element.name == **field);
        let strength = Strength::Equal;
        all.guards.push(Guard { path: field, parent: None, element, strength });
    }
    let q = rawdoc! { "_id": { "$eq": id(document)? } };
    let mut out = Vec::new();
    enclose(&mut out, |out| {
        all.push_query_to(out, &q, document)?;
        push_element(out, ElementType::Int32, "limit", &1_i32.to_le_bytes());
        Ok(())
    })?;
    if out.len() > MAX_DOCUMENT_SIZE {
        let reason = "its deletion needs more than 16 MiB: name the `fields` that decide it";
        return Err(EditError::new("", reason));
    }
    RawDocumentBuf::from_bytes(out).map_err(|_| EditError::malformed())
}
