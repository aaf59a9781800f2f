//! What a move of the record makes of the stamp. Pure.

use mongodb::bson::{Document, doc};

use crate::record::document::Record;
use crate::record::history::Action;
use crate::record::stamp::stamped::{Found, Place, Stamp, Stamping, Value};
use crate::version::Version;

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
    /// The operator's declaration settles it.
    Anything,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Adds {
    Document,
    /// What a database last ran, or begins with, is the operator's declaration: the application stamps it itself.
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
    /// What moving the record from one state to another makes of the stamp; `None` if the version stays.
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
