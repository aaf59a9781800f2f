//! The stamp: the version that the application keeps itself, in a document of its own. What is stored. Pure.

use derive_more::Display;
use mongodb::bson::{Bson, Document, RawBsonRef, RawDocument, doc};
use serde::{Deserialize, Serialize};

use crate::record::staged;
use crate::version::Version;

/// No version is longer; what is longer is cut where it is shown.
const LONGEST: usize = 100;

/// Where the application keeps its version.
#[derive(Clone, Debug, PartialEq, Eq, Display)]
#[display("{field} in {collection}")]
pub struct Place {
    /// The collection.
    pub collection: String,
    /// The field of the one document that has it; dotted for a field of an embedded document.
    pub field: String,
    /// The code version as the application writes it.
    pub(crate) code_version: String,
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
    pub(crate) id: Bson,
    pub(crate) value: Bson,
}

impl Found {
    /// The value as text, if it is one.
    pub(crate) fn text(&self) -> Option<&str> {
        self.value.as_str()
    }

    /// Whether `record` may put a version in its place: a text, or nothing yet.
    pub(crate) fn is_replaceable(&self) -> bool {
        matches!(self.value, Bson::String(_) | Bson::Null)
    }
}

/// Stored in the record: the version has moved, and the stamp is to follow. Only a server without
/// transactions ever shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamping {
    /// What the stamp was; `None` if there was none.
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
            filter.insert("$nor", vec![staged::range()]);
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
}
