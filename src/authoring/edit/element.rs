//! Elements of documents by their bytes.

use mongodb::bson::raw::cstr;
use mongodb::bson::spec::ElementType;
use mongodb::bson::{RawBsonRef, RawDocument, RawDocumentBuf};

use super::error::EditError;

/// The size that the server allows a document (BSONObjMaxUserSize).
pub(crate) const MAX_DOCUMENT_SIZE: usize = 16 * 1024 * 1024;

/// How many levels of documents and arrays the server stores.
pub(super) const MAX_STORED_DEPTH: usize = 180;

pub(super) const TOO_DEEP: &str = "what is set nests deeper than the server can store";

/// A value by its bytes.
#[derive(Clone, Copy)]
pub(super) struct Value<'a> {
    pub(super) kind: u8,
    pub(super) bytes: &'a [u8],
}

impl Value<'_> {
    /// Whether it is a document or an array.
    pub(super) fn nests(&self) -> bool {
        [ElementType::EmbeddedDocument as u8, ElementType::Array as u8].contains(&self.kind)
    }
}

/// Whether documents and arrays are nested deeper than the server can store.
pub(crate) fn is_too_deep(document: &RawDocument) -> bool {
    nests_beyond(MAX_STORED_DEPTH, document.as_bytes())
}

/// Whether documents and arrays are nested deeper than so many levels.
pub(super) fn nests_beyond(levels: usize, bytes: &[u8]) -> bool {
    let Ok(document) = RawDocument::from_bytes(bytes) else { return false };
    document.iter_elements().flatten().any(|element| match element.value() {
        Ok(RawBsonRef::Document(inner)) => {
            levels == 0 || nests_beyond(levels - 1, inner.as_bytes())
        }
        Ok(RawBsonRef::Array(inner)) => levels == 0 || nests_beyond(levels - 1, inner.as_bytes()),
        _ => false,
    })
}

/// What holds the elements that are being rewritten.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Inside {
    Document,
    Array,
}

/// One element of a document, by its bytes.
#[derive(Clone, Copy)]
pub(super) struct Element<'a> {
    pub(super) name: &'a str,
    pub(super) kind: ElementType,
    pub(super) value: &'a [u8],
}

impl<'a> Element<'a> {
    pub(super) fn null(name: &'a str) -> Self {
        Element { name, kind: ElementType::Null, value: &[] }
    }

    pub(super) fn push_to(&self, out: &mut Vec<u8>) {
        push_element(out, self.kind, self.name, self.value);
    }

    /// What holds further elements.
    pub(super) fn container(&self) -> Result<Option<(&'a RawDocument, Inside)>, EditError> {
        let inside = match self.kind {
            ElementType::EmbeddedDocument => Inside::Document,
            ElementType::Array => Inside::Array,
            _ => return Ok(None),
        };
        let inner = RawDocument::from_bytes(self.value).map_err(|_| EditError::malformed())?;
        Ok(Some((inner, inside)))
    }
}

impl Value<'_> {
    /// Whether it is a number that compares as equal to others of its type: a zero, or a decimal with its digits.
    pub(super) fn equals_others(self) -> bool {
        let is_zero =
            |bytes: &[u8]| bytes == 0.0_f64.to_le_bytes() || bytes == (-0.0_f64).to_le_bytes();
        self.kind == ElementType::Decimal128 as u8
            || self.kind == ElementType::Double as u8 && is_zero(self.bytes)
    }

    /// The expression that stands for it.
    pub(super) fn literal(self) -> RawDocumentBuf {
        let mut out = Vec::new();
        let filled = enclose(&mut out, |out| {
            self.push_to(out, "$literal");
            Ok(())
        });
        filled.ok().and_then(|()| RawDocumentBuf::from_bytes(out).ok()).unwrap_or_default()
    }

    pub(super) fn push_to(self, out: &mut Vec<u8>, name: &str) {
        push_name(out, self.kind, name);
        out.extend(self.bytes);
    }
}

pub(super) fn push_element(out: &mut Vec<u8>, kind: ElementType, name: &str, value: &[u8]) {
    push_name(out, kind as u8, name);
    out.extend(value);
}

pub(super) fn push_text(out: &mut Vec<u8>, name: &str, text: &str) {
    let text = RawDocumentBuf::from_iter([(cstr!(""), text)]);
    push_element(out, ElementType::String, name, &text.as_bytes()[6..text.as_bytes().len() - 1]);
}

pub(super) fn push_name(out: &mut Vec<u8>, kind: u8, name: &str) {
    out.push(kind);
    out.extend(name.as_bytes());
    out.push(0);
}

/// Appends a document or an array whose elements `fill` appends.
pub(super) fn enclose(
    out: &mut Vec<u8>,
    fill: impl FnOnce(&mut Vec<u8>) -> Result<(), EditError>,
) -> Result<(), EditError> {
    let start = out.len();
    out.extend([0; 4]);
    fill(out)?;
    out.push(0);
    let size = i32::try_from(out.len() - start)
        .map_err(|_| EditError::new("", "it would exceed the size of any document"))?;
    out[start..start + 4].copy_from_slice(&size.to_le_bytes());
    Ok(())
}

/// The same as an element.
pub(super) fn nested(
    out: &mut Vec<u8>,
    kind: ElementType,
    name: &str,
    fill: impl FnOnce(&mut Vec<u8>) -> Result<(), EditError>,
) -> Result<(), EditError> {
    push_name(out, kind as u8, name);
    enclose(out, fill)
}

/// A statement, by what fills it.
pub(super) fn embedded(
    fill: impl FnOnce(&mut Vec<u8>) -> Result<(), EditError>,
) -> Result<RawDocumentBuf, EditError> {
    let statement = embedded_in(0, fill)?;
    match statement.as_bytes().len() > MAX_DOCUMENT_SIZE {
        true => Err(EditError::new("", "the update needs more than 16 MiB")),
        false => Ok(statement),
    }
}

/// A document of about so many bytes, by what fills it.
pub(super) fn embedded_in(
    capacity: usize,
    fill: impl FnOnce(&mut Vec<u8>) -> Result<(), EditError>,
) -> Result<RawDocumentBuf, EditError> {
    let mut out = Vec::with_capacity(capacity);
    enclose(&mut out, fill)?;
    RawDocumentBuf::from_bytes(out).map_err(|_| EditError::malformed())
}

/// The elements of a document or array, whatever their values hold.
pub(super) fn elements(
    document: &RawDocument,
) -> impl Iterator<Item = Result<Element<'_>, EditError>> {
    let mut end = 4;
    document.iter_elements().map(move |element| {
        let element = element.map_err(|_| EditError::malformed())?;
        let start = end + 1 + element.key().len() + 1;
        end = start + element.size();
        let value = document.as_bytes().get(start..end).ok_or_else(EditError::malformed)?;
        Ok(Element { name: element.key().as_str(), kind: element.element_type(), value })
    })
}

pub(super) fn id(document: &RawDocument) -> Result<RawBsonRef<'_>, EditError> {
    document
        .get("_id")
        .map_err(|_| EditError::malformed())?
        .ok_or_else(|| EditError::new("_id", "is missing"))
}

/// The bytes of the value at a path.
pub(super) fn size_at(document: &RawDocument, path: &str) -> Result<usize, EditError> {
    let (name, rest) = match path.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (path, None),
    };
    for element in elements(document) {
        let element = element?;
        if element.name == name {
            return match (rest, element.container()?) {
                (Some(rest), Some((inner, _))) => size_at(inner, rest),
                (Some(_), None) => Ok(0),
                (None, _) => Ok(element.value.len()),
            };
        }
    }
    Ok(0)
}

/// The name by which the server's `$type` knows a value's type.
pub(super) fn type_name(kind: ElementType) -> &'static str {
    match kind {
        ElementType::Double => "double",
        ElementType::String => "string",
        ElementType::EmbeddedDocument => "object",
        ElementType::Array => "array",
        ElementType::Binary => "binData",
        ElementType::Undefined => "undefined",
        ElementType::ObjectId => "objectId",
        ElementType::Boolean => "bool",
        ElementType::DateTime => "date",
        ElementType::Null => "null",
        ElementType::RegularExpression => "regex",
        ElementType::DbPointer => "dbPointer",
        ElementType::JavaScriptCode => "javascript",
        ElementType::Symbol => "symbol",
        ElementType::JavaScriptCodeWithScope => "javascriptWithScope",
        ElementType::Int32 => "int",
        ElementType::Timestamp => "timestamp",
        ElementType::Int64 => "long",
        ElementType::Decimal128 => "decimal",
        ElementType::MinKey => "minKey",
        ElementType::MaxKey => "maxKey",
    }
}
