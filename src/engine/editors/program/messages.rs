//! The messages between the gate and a program.

use std::borrow::Cow;

use mongodb::bson::spec::ElementType;
use mongodb::bson::{RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};

use super::wrong::Wrong;
use crate::authoring::editor::Answer;
use crate::visible;

/// The protocol that this gate speaks.
const PROTOCOL: i32 = 1;

/// The most bytes that are shown of a program's reason.
const REASON: usize = 1000;

/// Parts of a document that are sent as they lie in memory, rather than copied, from this size on.
const LARGE: usize = 1 << 16;

/// The first message.
pub(super) fn greeting(version: &str, step: &str, collection: &str) -> RawDocumentBuf {
    rawdoc! { "gate": PROTOCOL, "version": version, "step": step, "collection": collection }
}

/// Whether an answer says that the program is ready.
///
/// # Errors
///
/// It says something else.
pub(super) fn ready(answer: &RawDocument) -> Result<(), Wrong> {
    match (answer.get("ready"), answer.get("refuse")) {
        (Ok(Some(ready)), Ok(None)) if number(ready) == Some(1) => Ok(()),
        (_, Ok(Some(RawBsonRef::String(why)))) => Err(Wrong::Refuses(shown(why))),
        _ => Err(Wrong::NoMessage("the answer to the greeting is not { ready: 1 }".to_owned())),
    }
}

/// What is asked of one document, in parts that follow each other.
pub(super) fn question<'a>(
    document: &'a RawDocument,
    found: &[(&str, Vec<&'a RawDocument>)],
) -> Vec<Cow<'a, [u8]>> {
    let mut parts = Parts::default();
    let message = parts.begin();
    parts.element(ElementType::EmbeddedDocument, "document");
    parts.extend(document.as_bytes());
    parts.element(ElementType::EmbeddedDocument, "found");
    let by_name = parts.begin();
    for (name, documents) in found {
        parts.element(ElementType::Array, name);
        let list = parts.begin();
        for (position, document) in documents.iter().enumerate() {
            parts.element(ElementType::EmbeddedDocument, &position.to_string());
            parts.extend(document.as_bytes());
        }
        parts.end(list);
    }
    parts.end(by_name);
    parts.end(message);
    parts.done
}

/// A message that is put together from parts.
#[derive(Default)]
struct Parts<'a> {
    done: Vec<Cow<'a, [u8]>>,
    bytes: usize,
}

/// A document that was begun: the part and the place in it that hold its length, and where in the message it begins.
struct Begun {
    part: usize,
    at: usize,
    start: usize,
}

impl<'a> Parts<'a> {
    fn own(&mut self) -> &mut Vec<u8> {
        if !matches!(self.done.last(), Some(Cow::Owned(_))) {
            self.done.push(Cow::Owned(Vec::new()));
        }
        let last = self.done.len() - 1;
        self.done[last].to_mut()
    }

    fn push(&mut self, bytes: &[u8]) {
        self.own().extend(bytes);
        self.bytes += bytes.len();
    }

    fn extend(&mut self, bytes: &'a [u8]) {
        if bytes.len() < LARGE {
            return self.push(bytes);
        }
        self.done.push(Cow::Borrowed(bytes));
        self.bytes += bytes.len();
    }

    fn element(&mut self, kind: ElementType, name: &str) {
        self.push(&[kind as u8]);
        self.push(name.as_bytes());
        self.push(&[0]);
    }

    fn begin(&mut self) -> Begun {
        let at = self.own().len();
        let begun = Begun { part: self.done.len() - 1, at, start: self.bytes };
        self.push(&[0; 4]);
        begun
    }

    fn end(&mut self, begun: Begun) {
        self.push(&[0]);
        // what is longer than any document is read again in parts before it comes here
        let length = i32::try_from(self.bytes - begun.start).unwrap_or(i32::MAX);
        if let Some(Cow::Owned(part)) = self.done.get_mut(begun.part) {
            part[begun.at..begun.at + 4].copy_from_slice(&length.to_le_bytes());
        }
    }
}

/// What an answer says.
///
/// # Errors
///
/// It is none, with the reason, which holds nothing of its contents but names.
pub(super) fn answer(message: &RawDocument) -> Result<Answer, String> {
    let mut answer = Answer::default();
    let mut seen: Vec<&str> = Vec::new();
    for field in message {
        let (name, value) = field.map_err(|_| "one of its fields is not valid BSON".to_owned())?;
        let name = name.as_str();
        if seen.contains(&name) {
            return Err(format!("it has the field `{}` twice", shown(name)));
        }
        seen.push(name);
        let wrong = |expected: &str| format!("its `{name}` is not {expected}");
        match (name, value) {
            ("set", RawBsonRef::Document(fields)) => answer.set = fields.to_owned(),
            ("set", _) => return Err(wrong("a document of fields")),
            ("unset", RawBsonRef::Array(fields)) => {
                for field in fields {
                    match field {
                        Ok(RawBsonRef::String(field)) => answer.unset.push(field.to_owned()),
                        _ => return Err(wrong("an array of names")),
                    }
                }
            }
            ("unset", _) => return Err(wrong("an array of names")),
            ("insert", RawBsonRef::Document(collections)) => {
                for collection in collections {
                    let Ok((collection, RawBsonRef::Array(documents))) = collection else {
                        return Err(wrong("a document of arrays of documents"));
                    };
                    for document in documents {
                        let Ok(RawBsonRef::Document(document)) = document else {
                            return Err(wrong("a document of arrays of documents"));
                        };
                        let into = Cow::Owned(collection.as_str().to_owned());
                        answer.inserts.push((into, document.to_owned()));
                    }
                }
            }
            ("insert", _) => return Err(wrong("a document of arrays of documents")),
            ("count", RawBsonRef::Document(counters)) => {
                for counter in counters {
                    let (counter, n) = counter
                        .ok()
                        .and_then(|(counter, n)| Some((counter, number(n)?)))
                        .ok_or_else(|| wrong("a document of whole numbers from 0 on"))?;
                    answer.counts.push((Cow::Owned(counter.as_str().to_owned()), n));
                }
            }
            ("count", _) => return Err(wrong("a document of whole numbers from 0 on")),
            ("delete", RawBsonRef::Boolean(delete)) => answer.delete = delete,
            ("delete", _) => return Err(wrong("true or false")),
            ("refuse", RawBsonRef::String(why)) => answer.refuse = Some(shown(why)),
            ("refuse", _) => return Err(wrong("a text")),
            (other, _) => {
                return Err(format!(
                    "no answer has a field `{}`: there are set, unset, insert, count, delete and refuse",
                    shown(other)
                ));
            }
        }
    }
    Ok(answer)
}

/// A count, in whatever type the program's language sends whole numbers.
fn number(value: RawBsonRef<'_>) -> Option<u64> {
    match value {
        RawBsonRef::Int32(n) => n.try_into().ok(),
        RawBsonRef::Int64(n) => n.try_into().ok(),
        RawBsonRef::Double(n) if n.trunc() == n && (0.0..9.0e15).contains(&n) => Some(n as u64),
        _ => None,
    }
}

/// A text of a program's, made short.
fn shown(text: &str) -> String {
    let mut text = text.to_owned();
    visible::cut(&mut text, REASON);
    text
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{RawArrayBuf, RawBson};

    use super::*;

    #[test]
    fn a_question_is_one_document_however_it_is_cut() {
        for load in [10, LARGE, 3 * LARGE] {
            let document = rawdoc! { "_id": 1, "load": "x".repeat(load) };
            let other = rawdoc! { "_id": 2, "load": "y".repeat(load) };
            let found = [("a", vec![&*other, &*document]), ("b", vec![])];
            let parts = question(&document, &found);
            assert_eq!(parts.len() == 1, load < LARGE);
            let message = RawDocumentBuf::from_bytes(parts.concat()).unwrap();
            let list = RawArrayBuf::from_iter([other.clone(), document.clone()]);
            let found = rawdoc! { "a": list, "b": RawArrayBuf::new() };
            assert_eq!(message, rawdoc! { "document": document.clone(), "found": found });
        }
    }

    #[test]
    fn an_answer_is_what_the_contract_says_and_nothing_else() {
        let good = [
            rawdoc! {},
            rawdoc! { "set": { "a": 1 }, "unset": ["b"], "insert": { "c": [{ "_id": 1 }] }, "count": { "n": 1.0 } },
            rawdoc! { "delete": true, "count": { "n": 5_i64 } },
            rawdoc! { "refuse": "why" },
        ];
        for message in &good {
            assert!(answer(message).is_ok(), "{message:?}");
        }
        let bad = [
            rawdoc! { "sets": {} },
            rawdoc! { "set": [] },
            rawdoc! { "unset": "a" },
            rawdoc! { "unset": [1] },
            rawdoc! { "insert": [] },
            rawdoc! { "insert": { "c": { "_id": 1 } } },
            rawdoc! { "insert": { "c": [1] } },
            rawdoc! { "count": { "n": -1 } },
            rawdoc! { "count": { "n": 0.5 } },
            rawdoc! { "count": 1 },
            rawdoc! { "delete": 1 },
            rawdoc! { "refuse": RawBson::Null },
            rawdoc! { "set": { "a": 1 }, "set": { "a": 2 } },
            rawdoc! { "ready": 1 },
        ];
        for message in &bad {
            assert!(answer(message).is_err(), "{message:?}");
        }
        assert!(ready(&rawdoc! { "ready": 1 }).is_ok());
        for message in [rawdoc! {}, rawdoc! { "ready": 2 }, rawdoc! { "refuse": "no" }] {
            assert!(ready(&message).is_err());
        }
    }
}
