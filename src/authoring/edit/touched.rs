//! An edit that is too large for one guarded statement: the top-level fields that it touches, before and after, and the
//! commands that exchange one for the other.
//!
//! A statement holds what was there and what is to be there, in 16 MiB. Here the old values are stored as a document
//! of their own first, and the new ones come with the command that compares.

use std::collections::{BTreeSet, HashSet};

use mongodb::bson::oid::ObjectId;
use mongodb::bson::spec::ElementType;
use mongodb::bson::{RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};

use super::conditions::Conditions;
use super::element::{
    Element, Inside, MAX_DOCUMENT_SIZE, Value, elements, embedded_in, enclose, id, nested,
    push_element, push_text, type_name,
};
use super::error::EditError;

/// What the server lets a command have beyond a document's size, less what the driver adds to it.
const BEYOND: usize = 12 * 1024;

/// Why an edit cannot be made this way either.
const TOO_LARGE: &str = "what it edits is too large for a standalone server, which has no transactions: make it a \
                         replica set of one member (start it with --replSet, then run rs.initiate() once)";

/// What the `_id` of stored old values says that they are.
pub(crate) const PURPOSE: &str = "old values of an edit under way";

/// The `_id` of a document with old values: nothing but these two fields.
pub(crate) fn stored_id(token: ObjectId) -> RawDocumentBuf {
    rawdoc! { "upgrade_gate": PURPOSE, "id": token }
}

const NO_ID: &str = "is null: a standalone server takes so large an edit only for another _id";

const REPEATED: &str = "the document repeats the field, of which a standalone server cannot edit one in so large an \
                        edit: remove one of them";

const REPEATED_IN_IT: &str = "a document in it repeats a field, at which a standalone server crashes in so large an edit: \
                              remove one of the two";

/// What tells in the server's answer that a document is not what its edit was computed from.
pub(crate) const CHANGED: &str = "changed: ";

/// The top-level fields that an edit touches, and their new values.
pub(crate) struct Touched {
    /// Their names: first those that are there, in the document's order, then those that are added, in the order in
    /// which the server appends them.
    names: Vec<String>,
    set: HashSet<String>,
    /// Those that are there afterwards.
    after: RawDocumentBuf,
}

impl Touched {
    /// What the edits of these fields make of a document, `after` being what it becomes.
    ///
    /// # Errors
    ///
    /// The server cannot be told to do this, whatever its version.
    pub(crate) fn new<'a>(
        document: &RawDocument,
        after: &RawDocument,
        fields: impl Iterator<Item = &'a str>,
    ) -> Result<Self, EditError> {
        if let RawBsonRef::Null | RawBsonRef::Undefined = id(document)? {
            return Err(EditError::new("_id", NO_ID));
        }
        let mut set = HashSet::new();
        for field in fields {
            if !set.contains(field) {
                set.insert(field.to_owned());
            }
        }
        let mut rest: BTreeSet<&str> = set.iter().map(String::as_str).collect();
        let mut names = Vec::new();
        let (mut old, mut bytes) = (0, Vec::with_capacity(after.as_bytes().len()));
        for element in elements(document) {
            let element = element?;
            if rest.remove(element.name) {
                names.push(element.name.to_owned());
                check_names(&element)?;
                old += element.name.len() + element.value.len() + 2;
            } else if set.contains(element.name) {
                return Err(EditError::new(element.name, REPEATED));
            }
        }
        enclose(&mut bytes, |out| {
            for element in elements(after) {
                let element = element?;
                if set.contains(element.name) {
                    check_names(&element)?;
                    element.push_to(out);
                }
                if rest.remove(element.name) {
                    names.push(element.name.to_owned());
                }
            }
            Ok(())
        })?;
        // what is removed although it is missing has to be missing still
        names.extend(rest.into_iter().map(str::to_owned));
        let after = RawDocumentBuf::from_bytes(bytes).map_err(|_| EditError::malformed())?;
        let touched = Touched { names, set, after };
        let staged = old + stored_id(ObjectId::new()).as_bytes().len() + 16;
        let command = touched.bytes() + touched.exchange_size(document)?;
        match staged > MAX_DOCUMENT_SIZE || command > MAX_DOCUMENT_SIZE + BEYOND {
            true => Err(EditError::new("", TOO_LARGE)),
            false => Ok(touched),
        }
    }

    /// The bytes that it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.after.as_bytes().len()
    }

    /// What is there of the fields.
    fn before<'a>(
        &self,
        document: &'a RawDocument,
    ) -> impl Iterator<Item = Result<Element<'a>, EditError>> {
        elements(document)
            .filter(|element| element.as_ref().map_or(true, |e| self.set.contains(e.name)))
    }

    /// The command that stores, next to the record, what was read.
    pub(crate) fn stage(
        &self,
        document: &RawDocument,
        records: &str,
        token: ObjectId,
    ) -> Result<RawDocumentBuf, EditError> {
        embedded_in(document.as_bytes().len() + 1024, |out| {
            push_text(out, "insert", records);
            nested(out, ElementType::Array, "documents", |out| {
                nested(out, ElementType::EmbeddedDocument, "0", |out| {
                    let id = stored_id(token);
                    push_element(out, ElementType::EmbeddedDocument, "_id", id.as_bytes());
                    self.before(document).try_for_each(|element| {
                        element?.push_to(out);
                        Ok(())
                    })
                })
            })?;
            push_concern(out);
            Ok(())
        })
    }

    /// The command that puts the new values into the document, if it still has those that were stored under `token`.
    ///
    /// Types, values and sizes are compared, without any collation. Every other field stays as it is, also one that
    /// the document repeats.
    pub(crate) fn exchange(
        &self,
        document: &RawDocument,
        collection: &str,
        records: &str,
        token: ObjectId,
    ) -> Result<RawDocumentBuf, EditError> {
        embedded_in(self.bytes() + 16 * 1024, |out| {
            self.push_exchange_to(out, document, collection, records, token)?;
            nested(out, ElementType::EmbeddedDocument, "let", |out| {
                nested(out, ElementType::EmbeddedDocument, "after", |out| {
                    push_element(
                        out,
                        ElementType::EmbeddedDocument,
                        "$literal",
                        self.after.as_bytes(),
                    );
                    Ok(())
                })
            })
        })
    }

    /// The size of that command without the new values.
    fn exchange_size(&self, document: &RawDocument) -> Result<usize, EditError> {
        // no collection has a longer name
        let (mut out, name) = (Vec::new(), "x".repeat(255));
        self.push_exchange_to(&mut out, document, &name, &name, ObjectId::new())?;
        Ok(out.len() + 64)
    }

    fn push_exchange_to(
        &self,
        out: &mut Vec<u8>,
        document: &RawDocument,
        collection: &str,
        records: &str,
        token: ObjectId,
    ) -> Result<(), EditError> {
        push_text(out, "aggregate", records);
        let token = rawdoc! { "$match": { "_id": { "$eq": stored_id(token) } } };
        let id = rawdoc! { "$addFields": { "_id": { "$literal": id(document)? } } };
        nested(out, ElementType::Array, "pipeline", |out| {
            push_element(out, ElementType::EmbeddedDocument, "0", token.as_bytes());
            push_element(out, ElementType::EmbeddedDocument, "1", id.as_bytes());
            nested(out, ElementType::EmbeddedDocument, "2", |out| {
                nested(out, ElementType::EmbeddedDocument, "$merge", |out| {
                    push_text(out, "into", collection);
                    push_text(out, "on", "_id");
                    let old = rawdoc! { "old": "$$ROOT" };
                    push_element(out, ElementType::EmbeddedDocument, "let", old.as_bytes());
                    push_text(out, "whenNotMatched", "fail");
                    nested(out, ElementType::Array, "whenMatched", |out| {
                        nested(out, ElementType::EmbeddedDocument, "0", |out| {
                            nested(out, ElementType::EmbeddedDocument, "$set", |out| {
                                self.push_sets_to(out, document)
                            })
                        })
                    })
                })
            })
        })?;
        push_element(
            out,
            ElementType::EmbeddedDocument,
            "cursor",
            RawDocumentBuf::new().as_bytes(),
        );
        let simple = rawdoc! { "locale": "simple" };
        push_element(out, ElementType::EmbeddedDocument, "collation", simple.as_bytes());
        push_concern(out);
        Ok(())
    }

    /// Appends what each field is set to; where the document has changed, the first one is an error.
    fn push_sets_to(&self, out: &mut Vec<u8>, document: &RawDocument) -> Result<(), EditError> {
        for (position, name) in self.names.iter().enumerate() {
            let value = match self.after.get(name) {
                Ok(Some(_)) => format!("$$after.{name}"),
                Ok(None) => "$$REMOVE".to_owned(),
                Err(_) => return Err(EditError::malformed()),
            };
            if position > 0 {
                push_text(out, name, &value);
                continue;
            }
            nested(out, ElementType::EmbeddedDocument, name, |out| {
                nested(out, ElementType::Array, "$cond", |out| {
                    nested(out, ElementType::EmbeddedDocument, "0", |out| {
                        nested(out, ElementType::Array, "$and", |out| {
                            self.push_guards_to(out, document);
                            Ok(())
                        })
                    })?;
                    push_text(out, "1", &value);
                    // an error that depends on the document, so that the server does not raise it already while it parses
                    let changed =
                        rawdoc! { "$toInt": { "$concat": [CHANGED, { "$type": "$_id" }] } };
                    push_element(out, ElementType::EmbeddedDocument, "2", changed.as_bytes());
                    Ok(())
                })
            })?;
        }
        Ok(())
    }

    fn push_guards_to(&self, out: &mut Vec<u8>, document: &RawDocument) {
        let mut conditions = Conditions { out, count: 0 };
        for name in &self.names {
            let (now, old) = (format!("${name}"), format!("$$old.{name}"));
            let (now, old) = (now.as_str(), old.as_str());
            for same in [
                rawdoc! { "$eq": [{ "$type": now }, { "$type": old }] },
                rawdoc! { "$eq": [now, old] },
                rawdoc! { "$eq": [{ "$bsonSize": { "v": now } }, { "$bsonSize": { "v": old } }] },
            ] {
                conditions.push(same.as_bytes());
            }
        }
        for element in self.before(document).flatten() {
            let value = Value { kind: element.kind as u8, bytes: element.value };
            if value.equals_others() {
                let (now, old) = (format!("${}", element.name), format!("$$old.{}", element.name));
                conditions.text(&now, type_name(element.kind), old.into());
            }
        }
    }
}

/// Refuses a value in which a document repeats a name. An update by a pipeline that adds such a one ends the whole
/// server, by a failed invariant of `document_diff_serialization.cpp` (seen on 5.0.4 and 6.0.5).
pub(super) fn check_names(element: &Element<'_>) -> Result<(), EditError> {
    let Some((inner, inside)) = element.container()? else { return Ok(()) };
    let mut names = Vec::new();
    for inner in elements(inner) {
        let inner = inner?;
        check_names(&inner).map_err(|_| EditError::new(element.name, REPEATED_IN_IT))?;
        if inside == Inside::Document {
            names.push(inner.name);
        }
    }
    names.sort_unstable();
    match names.windows(2).any(|pair| pair[0] == pair[1]) {
        true => Err(EditError::new(element.name, REPEATED_IN_IT)),
        false => Ok(()),
    }
}

fn push_concern(out: &mut Vec<u8>) {
    let concern = rawdoc! { "w": "majority", "j": true };
    push_element(out, ElementType::EmbeddedDocument, "writeConcern", concern.as_bytes());
}
