//! Filters that hold only for the old values.

use mongodb::bson::spec::ElementType;
use mongodb::bson::{RawBson, rawdoc};

use super::element::{Element, Value, nested, push_element, push_text, type_name};

/// A field of which the old value decides what edits do.
pub(super) struct Guard<'a> {
    pub(super) path: &'a str,
    /// The path of the document that holds it; `None` at the top.
    pub(super) parent: Option<&'a str>,
    /// What is there.
    pub(super) element: Option<Element<'a>>,
    pub(super) strength: Strength,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Strength {
    /// The value is equal.
    Equal,
    /// It has as many bytes too.
    Same,
}

/// Conditions in an array, each under its position.
pub(super) struct Conditions<'a> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) count: usize,
}

impl Conditions<'_> {
    /// That a field is as it was.
    pub(super) fn guard(&mut self, guard: &Guard<'_>) {
        let field = format!("${}", guard.path);
        let kind = guard.element.as_ref().map(|element| element.kind);
        self.kind(&field, kind.map_or("missing", type_name));
        match &guard.element {
            // What `$type` alone decides.
            None | Some(Element { kind: ElementType::Null | ElementType::Undefined, .. }) => {}
            Some(element) => {
                let value = Value { kind: element.kind as u8, bytes: element.value };
                match guard.strength {
                    Strength::Equal => self.equal(&field, value),
                    Strength::Same => self.same(&field, value),
                }
                if value.equals_others() {
                    let kind = type_name(element.kind);
                    self.text(&field, kind, value.literal().into());
                }
            }
        }
        // A path reads as missing below a scalar, and as an array below an array.
        if let (Some(parent), None | Some(ElementType::Array)) = (guard.parent, kind) {
            self.kind(&format!("${parent}"), "object");
        }
    }

    pub(super) fn kind(&mut self, field: &str, name: &str) {
        self.push(rawdoc! { "$eq": [{ "$type": field }, name] }.as_bytes());
    }

    /// That a value is equal.
    pub(super) fn equal(&mut self, field: &str, value: Value<'_>) {
        let position = self.position();
        // what is written here is far smaller than any document may become
        let _ = nested(self.out, ElementType::EmbeddedDocument, &position, |out| {
            // `$eq` cannot compare a whole document before MongoDB 6.0
            nested(out, ElementType::Array, "$in", |out| {
                push_text(out, "0", field);
                nested(out, ElementType::Array, "1", |out| {
                    nested(out, ElementType::EmbeddedDocument, "0", |out| {
                        value.push_to(out, "$literal");
                        Ok(())
                    })
                })
            })
        });
    }

    /// That a number reads the same, if it has this type: other numbers compare as equal.
    pub(super) fn text(&mut self, field: &str, kind: &str, old: RawBson) {
        let old = rawdoc! { "$toString": old };
        // a value that is not a number may not be convertible to text
        let same = rawdoc! { "$cond": [
            { "$eq": [{ "$type": field }, kind] },
            { "$eq": [{ "$toString": field }, old] },
            false,
        ] };
        self.push(same.as_bytes());
    }

    /// Requires that a value is equal and has the same size, so that no number in it has another type. The server
    /// measures both, because its measure may differ from the size in the document.
    pub(super) fn same(&mut self, field: &str, value: Value<'_>) {
        let position = self.position();
        let size = |value: &str| rawdoc! { "$bsonSize": { "v": value } };
        let both = rawdoc! { "$and": [
            { "$eq": [field, "$$old"] },
            { "$eq": [size(field), size("$$old")] },
        ] };
        let _ = nested(self.out, ElementType::EmbeddedDocument, &position, |out| {
            nested(out, ElementType::EmbeddedDocument, "$let", |out| {
                nested(out, ElementType::EmbeddedDocument, "vars", |out| {
                    nested(out, ElementType::EmbeddedDocument, "old", |out| {
                        value.push_to(out, "$literal");
                        Ok(())
                    })
                })?;
                push_element(out, ElementType::EmbeddedDocument, "in", both.as_bytes());
                Ok(())
            })
        });
    }

    pub(super) fn push(&mut self, condition: &[u8]) {
        let position = self.position();
        push_element(self.out, ElementType::EmbeddedDocument, &position, condition);
    }

    pub(super) fn position(&mut self) -> String {
        self.count += 1;
        (self.count - 1).to_string()
    }
}
