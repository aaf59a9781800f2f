//! The repair that mode `record` makes, of a record with any contents.

use std::borrow::Cow;

use mongodb::bson::{Bson, Document, RawBsonRef, RawDocument, RawDocumentBuf, doc};

use crate::authoring::edit::MAX_DOCUMENT_SIZE;
use crate::authoring::table::Upgrades;
use crate::record::document::Record;
use crate::record::history::{Action, Entry, HISTORY_BYTES, Writer, capped};
use crate::record::moves::Move;
use crate::record::names::Names;
use crate::record::raw::{self, Builder, Element};
use crate::record::stored::{named, stored_version};
use crate::version::Version;

impl Move {
    /// The repair that mode `record` makes: from exactly the document that is stored.
    pub(crate) fn repair(
        stored: &RawDocument,
        version: &Version,
        upgrades: &Upgrades,
        writer: &Writer,
        names: &Names,
    ) -> Result<Self, mongodb::error::Error> {
        if !is_ordinary(stored) {
            return Move::replace(stored, version, upgrades, writer, names);
        }
        let mut details = doc! { "repair": true, "replaced": stored_version(stored) };
        if let Some(journal) = stored.get("journal")? {
            details.insert("journal", Bson::try_from(journal)?);
        }
        let mut history = Vec::new();
        match stored.get("history")? {
            None => {}
            Some(RawBsonRef::Array(array)) => {
                let mut unreadable = Vec::new();
                for element in array {
                    let element = element?;
                    match element.as_document().map(Entry::parse) {
                        Some(Ok(entry)) => history.push(entry),
                        _ => unreadable.push(Bson::try_from(element)?),
                    }
                }
                if !unreadable.is_empty() {
                    details.insert("unreadable_history", unreadable);
                }
            }
            Some(other) => {
                details.insert("unreadable_history", Bson::try_from(other)?);
            }
        }
        let floor = upgrades.floor_at(version);
        let entry = Entry::new(version, Action::Initialise, floor, writer, details);
        let to = Record {
            version: version.clone(),
            text: version.to_string(),
            history: capped(&history, &entry),
            journal: None,
            stamping: None,
        };
        let mut document = Document::try_from(stored)?;
        document.insert("version", &to.text);
        document.insert(
            "history",
            to.history
                .iter()
                .filter_map(|e| Document::try_from(&e.document).ok())
                .collect::<Vec<_>>(),
        );
        document.remove("journal");
        let mut set = doc! { "version": &to.text };
        if let Some(history) = document.remove("history") {
            set.insert("history", history);
        }
        Ok(Move::Update {
            filter: doc! {
                "_id": &names.record,
                // compared in one value: before 6.0 the server fails where `$eq` has `$$ROOT` alone
                "$expr": { "$eq": [
                    { "$cmp": ["$$ROOT", { "$literal": Document::try_from(stored)? }] },
                    0,
                ]},
            },
            update: doc! { "$set": set, "$unset": { "journal": "" } },
        })
    }

    /// The repair of a record that only its bytes tell all of, or of a very large one: what can be read of its
    /// history stays there, the rest is kept in the new entry, and every other field stays as it is.
    fn replace(
        stored: &RawDocument,
        version: &Version,
        upgrades: &Upgrades,
        writer: &Writer,
        names: &Names,
    ) -> Result<Self, mongodb::error::Error> {
        let invalid = || std::io::Error::other("the record's bytes cannot be read");
        let elements = raw::elements(stored.as_bytes()).ok_or_else(invalid)?;
        let (mut history, mut unreadable) = (Vec::new(), Vec::<(u8, Cow<'_, [u8]>)>::new());
        for element in named(stored, "history") {
            let entries = match element.kind {
                raw::ARRAY => raw::elements(element.value).ok_or_else(invalid)?,
                _ => vec![element],
            };
            for entry in entries {
                match entry.document().filter(|_| element.kind == raw::ARRAY).map(Entry::parse) {
                    Some(Ok(entry)) => history.push(entry),
                    _ => unreadable.push(entry.decodable()),
                }
            }
        }
        let details = doc! { "repair": true, "replaced": stored_version(stored) };
        let floor = upgrades.floor_at(version);
        let entry = Entry::new(version, Action::Initialise, floor, writer, details);
        let kept = capped(&history, &entry);
        // what is not kept may be very much
        drop(history);
        let history = &kept[..kept.len() - 1];
        loop {
            let mut newest = Builder::new();
            for element in raw::elements(entry.document.as_bytes()).ok_or_else(invalid)? {
                newest.push(element.kind, element.name, element.value);
            }
            for (n, journal) in named(stored, "journal").iter().enumerate() {
                let name = if n == 0 { "journal".to_owned() } else { format!("journal_{}", n + 1) };
                let (kind, value) = journal.decodable();
                newest.push(kind, name.as_bytes(), &value);
            }
            if !unreadable.is_empty() {
                let kept = raw::array(unreadable.iter().map(|(kind, value)| (*kind, &**value)));
                newest.push(raw::ARRAY, b"unreadable_history", &kept);
            }
            let unnameable = elements.iter().filter(|element| !element.has_name());
            let unnameable: Vec<_> = unnameable.map(Element::decodable).collect();
            if !unnameable.is_empty() {
                let kept = raw::array(unnameable.iter().map(|(kind, value)| (*kind, &**value)));
                newest.push(raw::ARRAY, b"unreadable_fields", &kept);
            }
            let newest = newest.bytes();
            let entries = history.iter().map(|entry| (raw::DOCUMENT, entry.document.as_bytes()));
            let history = raw::array(entries.chain([(raw::DOCUMENT, newest.as_slice())]));
            let by = replaced(&elements, version, &history).document().ok_or_else(invalid)?;
            if by.as_bytes().len() > MAX_DOCUMENT_SIZE && !unreadable.is_empty() {
                // the oldest go where not all can stay
                unreadable.drain(..unreadable.len().div_ceil(4));
                continue;
            }
            let filter = same_bytes(stored, by.as_bytes().len(), names).ok_or_else(invalid)?;
            return Ok(Move::Replace { filter, by });
        }
    }
}

/// The record with another version and history, and without a journal.
fn replaced(elements: &[Element<'_>], version: &Version, history: &[u8]) -> Builder {
    let (mut by, mut has_version, mut has_history) = (Builder::new(), false, false);
    for element in elements {
        match element.name {
            b"version" if !std::mem::replace(&mut has_version, true) => {
                by.string(b"version", &version.to_string());
            }
            b"history" if !std::mem::replace(&mut has_history, true) => {
                by.push(raw::ARRAY, b"history", history);
            }
            b"version" | b"history" | b"journal" | b"stamping" => {}
            _ if !element.has_name() => {}
            name => by.push(element.kind, name, element.value),
        }
    }
    if !has_version {
        by.string(b"version", &version.to_string());
    }
    if !has_history {
        by.push(raw::ARRAY, b"history", history);
    }
    by
}

/// The filter that matches the stored record, and no other as far as one command can hold it: of a very large
/// one its size and its version.
fn same_bytes(stored: &RawDocument, by: usize, names: &Names) -> Option<RawDocumentBuf> {
    let wrap = |kind, name: &str, value: &[u8]| {
        let mut document = Builder::new();
        document.push(kind, name.as_bytes(), value);
        document.bytes()
    };
    let (compared, expected) = if stored.as_bytes().len() + by < MAX_DOCUMENT_SIZE {
        let literal = wrap(raw::DOCUMENT, "$literal", stored.as_bytes());
        let mut compared = Builder::new();
        compared.string(b"0", "$$ROOT");
        compared.push(raw::DOCUMENT, b"1", &literal);
        // compared in one value: before 6.0 the server fails where `$eq` has `$$ROOT` alone
        (wrap(raw::ARRAY, "$cmp", &compared.bytes()), 0)
    } else {
        let mut size = Builder::new();
        size.string(b"$bsonSize", "$$ROOT");
        (size.bytes(), i32::try_from(stored.as_bytes().len()).ok()?)
    };
    let mut equal = Builder::new();
    equal.push(raw::DOCUMENT, b"0", &compared);
    equal.push(raw::INT32, b"1", &expected.to_le_bytes());
    let mut filter = Builder::new();
    filter.string(b"_id", &names.record);
    if let [version] = named(stored, "version").as_slice() {
        filter.push(raw::DOCUMENT, b"version", &wrap(version.kind, "$eq", version.value));
    }
    filter.push(raw::DOCUMENT, b"$expr", &wrap(raw::ARRAY, "$eq", &equal.bytes()));
    filter.document()
}

/// Whether decoding and encoding leaves a record as it is, so that an update may name all of it. Decoded, one of
/// very many small parts takes ten times its bytes.
fn is_ordinary(stored: &RawDocument) -> bool {
    if stored.as_bytes().len() > 2 * HISTORY_BYTES {
        return false;
    }
    let again = Document::try_from(stored).and_then(|decoded| RawDocumentBuf::try_from(&decoded));
    again.is_ok_and(|again| again.as_bytes() == stored.as_bytes())
}
