//! A document that becomes another one as a whole, in which the order of the fields counts as well.

use std::collections::{BTreeSet, HashMap, HashSet};

use mongodb::bson::spec::ElementType;
use mongodb::bson::{DateTime, RawDocument, RawDocumentBuf, rawdoc};

use super::assign::{Assigned, Assignments, Extent, is_replaceable};
use super::edits::Edits;
use super::element::{
    Element, MAX_DOCUMENT_SIZE, Value, elements, embedded_in, enclose, id, is_too_deep, nested,
    push_element,
};
use super::error::EditError;
use super::touched::{Touched, check_names};
use super::tree::{Tree, Wholes};

const TOO_DEEP: &str = "what it becomes nests deeper than the server can store";

const OTHER_ID: &str = "its _id would change";

const REPEATED: &str =
    "the document repeats the field, at which the server may crash: remove one of the two";

const REORDERED: &str = "the order of its fields changes, and it is too large for a standalone server to be told so: \
                         make it a replica set of one member (start it with --replSet, then run rs.initiate() once)";

/// A document, and what it becomes.
pub(crate) struct Whole<'a> {
    document: &'a RawDocument,
    becomes: &'a RawDocument,
}

/// How the server is told.
enum Told {
    /// By edits of single fields, which together make exactly that document.
    Edits(Edits),
    /// The document is replaced.
    Replaced,
    /// It is replaced by a pipeline: by itself, the server would change a part of it.
    Assigned,
}

impl<'a> Whole<'a> {
    /// # Errors
    ///
    /// The server could not store what the document becomes.
    pub(crate) fn new(
        document: &'a RawDocument,
        becomes: &'a RawDocument,
    ) -> Result<Self, EditError> {
        if id(document)? != id(becomes)? {
            return Err(EditError::new("_id", OTHER_ID));
        }
        if is_too_deep(becomes) {
            return Err(EditError::new("", TOO_DEEP));
        }
        Ok(Whole { document, becomes })
    }

    /// The names of the top-level fields that differ.
    fn changed(&self) -> Result<BTreeSet<&'a str>, EditError> {
        type Field<'a> = (&'a str, u8, &'a [u8]);
        let of = |document: &'a RawDocument| -> Result<HashSet<Field<'a>>, EditError> {
            elements(document)
                .map(|element| element.map(|e| (e.name, e.kind as u8, e.value)))
                .collect()
        };
        let (before, after) = (of(self.document)?, of(self.becomes)?);
        Ok(before.symmetric_difference(&after).map(|(name, ..)| *name).collect())
    }

    /// The fields of what the document becomes, by their names.
    fn fields(&self) -> Result<HashMap<&'a str, Element<'a>>, EditError> {
        elements(self.becomes).map(|element| element.map(|e| (e.name, e))).collect()
    }

    /// How the server is told to make the one of the other.
    fn told(&self) -> Result<Told, EditError> {
        let mut edits = Edits::at(DateTime::MIN);
        let nameable =
            |name: &&str| !name.contains(['.', '\0']) && !name.starts_with('$') && !name.is_empty();
        let (changed, fields) = (self.changed()?, self.fields()?);
        if changed.iter().all(nameable) {
            for name in changed {
                match fields.get(name) {
                    Some(Element { kind, value, .. }) => {
                        edits.values.push(*kind as u8);
                        edits.values.extend(*value);
                        edits.push(name);
                    }
                    None => edits.unset(name),
                }
            }
            let exact = match edits.changes()? {
                Some(changes) => changes.apply(self.document)? == self.becomes.as_bytes(),
                None => false,
            };
            if exact {
                return Ok(Told::Edits(edits));
            }
        }
        let none = Edits::at(DateTime::MIN);
        let tree = Tree { edits: &none, order: &[], start: 0, wholes: Wholes::WhereCheaper };
        if is_replaceable(self.becomes, tree) {
            return Ok(Told::Replaced);
        }
        // a pipeline that stores a repeated name ends the server
        let mut names = HashSet::new();
        for element in elements(self.becomes) {
            let element = element?;
            check_names(&element)?;
            if !names.insert(element.name) {
                return Err(EditError::new(element.name, REPEATED));
            }
        }
        Ok(Told::Assigned)
    }

    fn push_to(&self, out: &mut Vec<u8>) -> Result<(), EditError> {
        match self.told()? {
            Told::Edits(edits) => match edits.changes()? {
                Some(changes) => {
                    let tree = changes.tree();
                    let all = Assignments::of(self.document, tree, Extent::Fields)?;
                    all.push_to(out, self.document, tree)
                }
                None => Ok(()),
            },
            Told::Replaced => {
                push_element(out, ElementType::EmbeddedDocument, "u", self.becomes.as_bytes());
                Ok(())
            }
            Told::Assigned => nested(out, ElementType::Array, "u", |out| {
                nested(out, ElementType::EmbeddedDocument, "0", |out| {
                    nested(out, ElementType::EmbeddedDocument, "$replaceWith", |out| {
                        let bytes = self.becomes.as_bytes();
                        Value { kind: ElementType::EmbeddedDocument as u8, bytes }
                            .push_to(out, "$literal");
                        Ok(())
                    })
                })
            }),
        }
    }

    /// An entry of the `update` command's `updates` that makes the one of the other.
    pub(crate) fn statement(&self) -> Result<RawDocumentBuf, EditError> {
        let q = rawdoc! { "_id": { "$eq": id(self.document)? } };
        embedded_in(self.becomes.as_bytes().len() + 256, |out| {
            push_element(out, ElementType::EmbeddedDocument, "q", q.as_bytes());
            self.push_to(out)
        })
    }

    /// Like [`statement`](Self::statement), but it matches only if the whole document is as it was. `None` if it would
    /// exceed the size of a statement.
    pub(crate) fn guarded_statement(&self) -> Result<Option<RawDocumentBuf>, EditError> {
        let all = Assignments { extent: Assigned::Document, ..Assignments::default() };
        let q = rawdoc! { "_id": { "$eq": id(self.document)? } };
        // before it takes the memory
        if self.document.as_bytes().len() > MAX_DOCUMENT_SIZE - 4096 {
            return Ok(None);
        }
        let statement = embedded_in(self.document.as_bytes().len() + 1024, |out| {
            all.push_query_to(out, &q, self.document)?;
            self.push_to(out)
        })?;
        Ok((statement.as_bytes().len() <= MAX_DOCUMENT_SIZE).then_some(statement))
    }

    /// The fields to exchange where one statement cannot hold both: all, or those that change where all are too much.
    pub(crate) fn touched(&self) -> Result<Touched, EditError> {
        let mut after = Vec::with_capacity(self.becomes.as_bytes().len());
        let mut left = self.fields()?;
        enclose(&mut after, |out| {
            for element in elements(self.document) {
                if let Some(element) = left.remove(element?.name) {
                    element.push_to(out);
                }
            }
            for element in elements(self.becomes) {
                if let Some(element) = left.remove(element?.name) {
                    element.push_to(out);
                }
            }
            Ok(())
        })?;
        if after != self.becomes.as_bytes() {
            return Err(EditError::new("", REORDERED));
        }
        let names = |document: &'a RawDocument| {
            elements(document).flatten().map(|element| element.name).filter(|name| *name != "_id")
        };
        let all = names(self.document).chain(names(self.becomes));
        Touched::new(self.document, self.becomes, all)
            .or_else(|_| Touched::new(self.document, self.becomes, self.changed()?.into_iter()))
    }
}

/// A top-level field that a document repeats, or in which a document does, among those that `wanted` names.
pub(crate) fn repeated(
    document: &RawDocument,
    wanted: impl Fn(&str) -> bool,
) -> Result<Option<String>, EditError> {
    let mut names = HashSet::new();
    for element in elements(document) {
        let element = element?;
        if wanted(element.name) && (!names.insert(element.name) || check_names(&element).is_err()) {
            return Ok(Some(element.name.to_owned()));
        }
    }
    Ok(None)
}
