//! The stamp: the version that the application keeps itself, in a document of its own. What is stored, what a
//! move of the record makes of it, and where the two disagree. Pure.

use mongodb::bson::{Bson, Document, RawBsonRef, RawDocument, doc};
use serde::{Deserialize, Serialize};

use crate::record::document::{Action, Record};
use crate::version::Version;

/// No version is longer; what is longer is cut where it is shown.
const LONGEST: usize = 100;

/// Where the application keeps its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The collection.
    pub collection: String,
    /// The field of the one document that has it; dotted for a field of an embedded document.
    pub field: String,
    /// The code version as the application writes it.
    pub(crate) code_version: String,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in {}", self.field, self.collection)
    }
}

/// What the database holds where the application keeps its version.
#[derive(Clone, Debug, PartialEq)]
pub struct Stamp {
    /// Where that is.
    pub place: Place,
    /// What is there.
    pub value: Value,
}

/// What a stamp may be.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// No document has the field.
    Missing,
    /// One document has it, and its value is a version.
    Version(Version, Found),
    /// One document has it, and its value is not a version.
    Unreadable(String, Found),
    /// More than one document has it.
    Ambiguous,
}

/// The document that has the field, and its value there.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    id: Bson,
    value: Bson,
}

impl Found {
    /// The value as text, if it is one.
    fn text(&self) -> Option<&str> {
        self.value.as_str()
    }

    /// Whether `record` may put a version in its place: a text, or nothing yet.
    fn is_replaceable(&self) -> bool {
        matches!(self.value, Bson::String(_) | Bson::Null)
    }
}

/// Stored in the record: the version has moved, and the stamp is to follow. Only a server without
/// transactions ever shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamping {
    /// What the stamp was; none where there was none.
    pub(crate) from: Option<String>,
    /// What it becomes.
    pub(crate) to: String,
}

impl Place {
    /// Why no stamp can be kept there.
    pub(crate) fn mistake(&self) -> Option<String> {
        let part = |part: &str| part.is_empty() || part.starts_with('$') || part.contains('\0');
        let wrong = self.field.split('.').any(part) || self.field.split('.').next() == Some("_id");
        match (self.collection.is_empty(), wrong) {
            (true, _) => Some("the stamp's collection has no name".to_owned()),
            (_, true) => Some(format!("the stamp cannot be the field {:?}", self.field)),
            _ => None,
        }
    }

    /// The documents that have the field; `own` are the gate's, where they lie in the same collection.
    pub(crate) fn filter(&self, own: &[String]) -> Document {
        let mut filter = doc! { &self.field: { "$exists": true } };
        if !own.is_empty() {
            filter.insert("_id", doc! { "$nin": own });
        }
        filter
    }

    /// What is stored, from the first two documents that have the field.
    pub(crate) fn read(&self, documents: &[&RawDocument]) -> Result<Stamp, mongodb::error::Error> {
        let value = match documents {
            [] => Value::Missing,
            [document] => {
                let id = document.get("_id")?.map(Bson::try_from).transpose()?;
                let value = self.value_in(document)?;
                read_value(Found { id: id.unwrap_or(Bson::Null), value })
            }
            _ => Value::Ambiguous,
        };
        Ok(Stamp { place: self.clone(), value })
    }

    /// The value of the field; a path that leads through an array has none that could be set.
    fn value_in(&self, document: &RawDocument) -> Result<Bson, mongodb::error::Error> {
        let mut parts = self.field.split('.');
        let mut value = document.get(parts.next().unwrap_or_default())?;
        for part in parts {
            value = match value {
                Some(RawBsonRef::Document(inner)) => inner.get(part)?,
                _ => None,
            };
        }
        Ok(value.map(Bson::try_from).transpose()?.unwrap_or(Bson::Undefined))
    }

    /// A version as the application writes it: the code's own as it was built in, others in the manner of
    /// what is stored, with or without a leading `v`.
    pub(crate) fn spelled(&self, version: &Version, stored: Option<&str>) -> String {
        let prefix =
            stored.filter(|text| text.starts_with(['v', 'V'])).map_or("", |text| &text[..1]);
        let own = self.code_version.trim();
        let own = own.strip_prefix(['v', 'V']).unwrap_or(own);
        let text = match Version::parse(own) {
            Ok(code) if code == *version => own.to_owned(),
            _ => {
                let pep440 = |text: &str| {
                    Version::parse(text).is_ok() && text.contains(is_stage) && !text.contains('-')
                };
                let written = version.to_string();
                match stored.is_some_and(pep440) || pep440(own) {
                    true => {
                        written.replace("-alpha.", "a").replace("-beta.", "b").replace("-rc.", "rc")
                    }
                    false => written,
                }
            }
        };
        format!("{prefix}{text}")
    }
}

/// A letter by which a version tells its stage, after the `v`.
fn is_stage(character: char) -> bool {
    matches!(character, 'a' | 'b' | 'c')
}

fn read_value(found: Found) -> Value {
    let reason = match found.text() {
        Some(text) if text.len() <= LONGEST => match Version::parse(text) {
            Ok(version) => return Value::Version(version, found),
            Err(error) => error.to_string(),
        },
        Some(text) => {
            let start: String = text.chars().take(20).collect();
            format!("it is a text of {} bytes, {start:?}…", text.len())
        }
        None => match &found.value {
            Bson::Undefined => "it lies inside an array".to_owned(),
            value => format!("it is not a text but {}", kind(value)),
        },
    };
    Value::Unreadable(reason, found)
}

fn kind(value: &Bson) -> &'static str {
    match value {
        Bson::Null => "null",
        Bson::Int32(_) | Bson::Int64(_) | Bson::Double(_) | Bson::Decimal128(_) => "a number",
        Bson::Document(_) => "a document",
        Bson::Array(_) => "an array",
        _ => "of another type",
    }
}

impl Stamp {
    /// The version that is stamped, if there is one.
    pub(crate) fn version(&self) -> Option<&Version> {
        match &self.value {
            Value::Version(version, _) => Some(version),
            _ => None,
        }
    }

    /// The stored text, if it is one.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Version(_, found) | Value::Unreadable(_, found) => found.text(),
            Value::Missing | Value::Ambiguous => None,
        }
    }

    /// Why it cannot be read, if so.
    pub(crate) fn unreadable(&self) -> Option<String> {
        match &self.value {
            Value::Missing | Value::Version(..) => None,
            Value::Unreadable(reason, _) => Some(reason.clone()),
            Value::Ambiguous => Some("more than one document has the field".to_owned()),
        }
    }

    /// Whether mode `record` can write a version there.
    pub(crate) fn is_repairable(&self) -> bool {
        match &self.value {
            Value::Missing | Value::Version(..) => true,
            Value::Unreadable(_, found) => found.is_replaceable(),
            Value::Ambiguous => false,
        }
    }

    /// Whether it says another version than the record. One that is to follow the record may be where it was
    /// or where it goes.
    pub(crate) fn differs(&self, record: &Record) -> bool {
        let Some(version) = self.version() else { return false };
        let follows =
            record.stamping().is_some_and(|stamping| stamping.from.as_deref() == self.text());
        *version != record.version && !follows
    }
}

/// What a move of the record makes of the stamp.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    /// What the stamp must be: something else that moved it meanwhile is not overwritten.
    expected: Expected,
    /// The version that it becomes.
    to: Version,
    /// Whether a document is added where none has the field.
    adds: Adds,
}

#[derive(Clone, Debug, PartialEq)]
enum Expected {
    Exactly(Version),
    /// Nothing could apply, so any earlier one will do.
    AtMost(Version),
    /// The operator's word settles it.
    Anything,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Adds {
    Document,
    /// What a database last ran, or begins with, is the operator's word: the application stamps it itself.
    Nothing,
}

/// One write of the stamp.
#[expect(clippy::large_enum_variant, reason = "a move has one of them")]
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Write {
    /// It says so already, or is left to the application.
    Nothing,
    /// A document with the field, where none has it.
    Add(String),
    /// Another value, where the field still has the old one.
    Replace { found: Found, to: String },
    /// It is not what the move started from.
    Refused,
}

impl Change {
    /// What moving the record from one state to another makes of the stamp; none where the version stays.
    pub(crate) fn between(from: Option<&Record>, to: &Record) -> Option<Change> {
        let (expected, begins) = match (from, to.history.first()) {
            (Some(from), _) if from.version == to.version => return None,
            (Some(from), _) => (Expected::Exactly(from.version.clone()), false),
            (None, Some(first)) if first.action == Action::Initialise => {
                (Expected::Exactly(first.version.clone()), to.history.len() == 1)
            }
            (None, _) => (Expected::AtMost(to.version.clone()), false),
        };
        let adds = if begins { Adds::Nothing } else { Adds::Document };
        Some(Change { expected, to: to.version.clone(), adds })
    }

    /// The repair by mode `record`.
    pub(crate) fn repair(to: &Version) -> Change {
        Change { expected: Expected::Anything, to: to.clone(), adds: Adds::Document }
    }

    /// The write that it takes, given what is stored.
    pub(crate) fn write(&self, stamp: &Stamp) -> Write {
        let spelled = || stamp.place.spelled(&self.to, stamp.text());
        match &stamp.value {
            Value::Missing => match self.adds {
                Adds::Document => Write::Add(spelled()),
                Adds::Nothing => Write::Nothing,
            },
            Value::Version(version, found) => match &self.expected {
                Expected::Exactly(expected) if version != expected => Write::Refused,
                Expected::AtMost(most) if version > most => Write::Refused,
                _ if *version == self.to => Write::Nothing,
                _ => Write::Replace { found: found.clone(), to: spelled() },
            },
            Value::Unreadable(_, found)
                if self.expected == Expected::Anything && found.is_replaceable() =>
            {
                Write::Replace { found: found.clone(), to: spelled() }
            }
            Value::Unreadable(..) | Value::Ambiguous => Write::Refused,
        }
    }
}

impl Write {
    /// What is to be remembered of it while the record has moved and the stamp has not.
    pub(crate) fn stamping(&self) -> Option<Stamping> {
        match self {
            Write::Nothing | Write::Refused => None,
            Write::Add(to) => Some(Stamping { from: None, to: to.clone() }),
            Write::Replace { found, to } => {
                Some(Stamping { from: found.text().map(str::to_owned), to: to.clone() })
            }
        }
    }

    /// The rest of a write that was begun, given what is stored now.
    pub(crate) fn rest(stamping: &Stamping, stamp: &Stamp) -> Write {
        match &stamp.value {
            Value::Missing => Write::Add(stamping.to.clone()),
            Value::Version(_, found) | Value::Unreadable(_, found) => match found.text() {
                text if text == Some(&stamping.to) => Write::Nothing,
                text if text == stamping.from.as_deref() => {
                    Write::Replace { found: found.clone(), to: stamping.to.clone() }
                }
                _ => Write::Refused,
            },
            Value::Ambiguous => Write::Refused,
        }
    }

    /// The update that replaces the value: filter and change.
    pub(crate) fn replacing(place: &Place, found: &Found, to: &str) -> (Document, Document) {
        let filter = doc! { "_id": { "$eq": &found.id }, &place.field: { "$eq": &found.value } };
        (filter, doc! { "$set": { &place.field: to } })
    }
}

#[cfg(test)]
mod tests;
