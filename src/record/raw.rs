//! BSON documents as bytes, so that what no decoder takes (text that is not UTF-8, repeated fields) can be named
//! and kept as it is.

use std::borrow::Cow;

use mongodb::bson::{RawBsonRef, RawDocument, RawDocumentBuf};

/// The kinds of elements that are told apart here.
pub(crate) const STRING: u8 = 0x02;
pub(crate) const DOCUMENT: u8 = 0x03;
pub(crate) const ARRAY: u8 = 0x04;
pub(crate) const BINARY: u8 = 0x05;
pub(crate) const NULL: u8 = 0x0A;
pub(crate) const INT32: u8 = 0x10;

/// A field of a document, or an element of an array.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Element<'a> {
    pub(crate) kind: u8,
    pub(crate) name: &'a [u8],
    pub(crate) value: &'a [u8],
}

impl<'a> Element<'a> {
    /// Whether its name is one that drivers can decode.
    pub(crate) fn has_name(&self) -> bool {
        std::str::from_utf8(self.name).is_ok()
    }

    /// The bytes of a string.
    pub(crate) fn text(&self) -> Option<&'a [u8]> {
        if self.kind != STRING {
            return None;
        }
        self.value.get(4..self.value.len().checked_sub(1)?)
    }

    /// Its kind and value, so that every driver can decode them: binary data, a document of this one
    /// element, where its text is not UTF-8.
    pub(crate) fn decodable(&self) -> (u8, Cow<'a, [u8]>) {
        let mut alone = Builder::new();
        alone.push(self.kind, self.name, self.value);
        let alone = alone.bytes();
        if RawDocument::from_bytes(&alone).is_ok_and(is_decodable) {
            return (self.kind, self.value.into());
        }
        let length = i32::try_from(alone.len()).unwrap_or(i32::MAX);
        (BINARY, [&length.to_le_bytes()[..], &[0], &alone].concat().into())
    }

    /// An embedded document.
    pub(crate) fn document(&self) -> Option<&'a RawDocument> {
        if self.kind == DOCUMENT { RawDocument::from_bytes(self.value).ok() } else { None }
    }
}

/// Whether every driver can decode a document. It is not decoded for that: very many small values would take ten
/// times their bytes.
pub(crate) fn is_decodable(document: &RawDocument) -> bool {
    document.iter_elements().all(|element| {
        let value = element.and_then(|element| element.value());
        match value {
            Ok(RawBsonRef::Document(inner)) => is_decodable(inner),
            Ok(RawBsonRef::Array(inner)) => {
                RawDocument::from_bytes(inner.as_bytes()).is_ok_and(is_decodable)
            }
            Ok(RawBsonRef::JavaScriptCodeWithScope(code)) => is_decodable(code.scope),
            Ok(_) => true,
            Err(_) => false,
        }
    })
}

/// The elements of a document or an array; `None` if its bytes are not one.
pub(crate) fn elements(document: &[u8]) -> Option<Vec<Element<'_>>> {
    let mut rest = document.get(4..document.len().checked_sub(1)?)?;
    let mut elements = Vec::new();
    while let Some((&kind, after)) = rest.split_first() {
        let (name, after) = cstring(after)?;
        let size = size(kind, after)?;
        let (value, after) = (after.get(..size)?, after.get(size..)?);
        elements.push(Element { kind, name, value });
        rest = after;
    }
    Some(elements)
}

fn cstring(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

fn size(kind: u8, value: &[u8]) -> Option<usize> {
    let length = || {
        let bytes: [u8; 4] = value.get(..4)?.try_into().ok()?;
        usize::try_from(i32::from_le_bytes(bytes)).ok()
    };
    Some(match kind {
        0x01 | 0x09 | 0x11 | 0x12 => 8,
        STRING | 0x0D | 0x0E => 4 + length()?,
        DOCUMENT | ARRAY | 0x0F => length()?,
        BINARY => 5 + length()?,
        0x06 | NULL | 0xFF | 0x7F => 0,
        0x07 => 12,
        0x08 => 1,
        0x0B => {
            let (_, options) = cstring(value)?;
            value.len() - cstring(options)?.1.len()
        }
        0x0C => 16 + length()?,
        INT32 => 4,
        0x13 => 16,
        _ => return None,
    })
}

/// A document or an array that is put together.
#[derive(Debug)]
pub(crate) struct Builder(Vec<u8>);

impl Builder {
    pub(crate) fn new() -> Self {
        Builder(vec![0; 4])
    }

    pub(crate) fn push(&mut self, kind: u8, name: &[u8], value: &[u8]) {
        self.0.push(kind);
        self.0.extend_from_slice(name);
        self.0.push(0);
        self.0.extend_from_slice(value);
    }

    pub(crate) fn string(&mut self, name: &[u8], text: &str) {
        let length = i32::try_from(text.len() + 1).unwrap_or(i32::MAX);
        let value = [&length.to_le_bytes(), text.as_bytes(), &[0]].concat();
        self.push(STRING, name, &value);
    }

    pub(crate) fn bytes(mut self) -> Vec<u8> {
        self.0.push(0);
        let length = i32::try_from(self.0.len()).unwrap_or(i32::MAX);
        self.0[..4].copy_from_slice(&length.to_le_bytes());
        self.0
    }

    pub(crate) fn document(self) -> Option<RawDocumentBuf> {
        RawDocumentBuf::from_bytes(self.bytes()).ok()
    }
}

/// An array of these kinds and values.
pub(crate) fn array<'a>(items: impl IntoIterator<Item = (u8, &'a [u8])>) -> Vec<u8> {
    let mut array = Builder::new();
    for (position, (kind, value)) in items.into_iter().enumerate() {
        array.push(kind, position.to_string().as_bytes(), value);
    }
    array.bytes()
}

/// Text that may not be UTF-8, with what is not written as `\xff`.
pub(crate) fn readable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text.replace('\0', "\\x00")
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{Bson, DateTime, Regex, Timestamp, doc, oid::ObjectId};

    use super::*;

    #[test]
    fn a_document_is_taken_apart_and_put_together_byte_for_byte() {
        let document = doc! {
            "a": 1.5, "b": "text", "c": { "d": [1, "x", {}] }, "e": [], "f": Bson::Null, "g": true,
            "h": ObjectId::new(), "i": DateTime::now(), "j": 7, "k": 8_i64, "l": Bson::MaxKey,
            "m": Bson::MinKey, "n": Bson::Undefined, "o": Timestamp { time: 1, increment: 2 },
            "p": Bson::RegularExpression(Regex { pattern: "x".try_into().unwrap(), options: "i".try_into().unwrap() }),
            "q": Bson::JavaScriptCode("f".into()), "r": Bson::Symbol("s".into()),
            "s": Bson::JavaScriptCodeWithScope(mongodb::bson::JavaScriptCodeWithScope { code: "f".into(), scope: doc! { "x": 1 } }),
            "t": Bson::Decimal128("1.5".parse().unwrap()),
            "u": mongodb::bson::Binary { subtype: mongodb::bson::spec::BinarySubtype::Generic, bytes: vec![1, 2] },
            "v": "the end",
        };
        let document = RawDocumentBuf::try_from(&document).unwrap();
        let mut again = Builder::new();
        for element in elements(document.as_bytes()).unwrap() {
            again.push(element.kind, element.name, element.value);
        }
        assert_eq!(again.bytes(), document.as_bytes());
        assert_eq!(elements(&[5, 0, 0, 0, 0]), Some(vec![]));
        for broken in [&b""[..], b"\x05", b"\x08\0\0\0\x10a\0\0", b"\x08\0\0\0\x77a\0\0"] {
            assert_eq!(elements(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn what_is_not_utf8_is_shown_by_its_bytes() {
        assert_eq!(readable(b"0.8.\xff\xfe0"), "0.8.\\xff\\xfe0");
        assert_eq!(readable("0.8.ü".as_bytes()), "0.8.ü");
        assert_eq!(readable(b"a\0b"), "a\\x00b");
    }
}
