//! One atomic change of the record.

use mongodb::bson::{Bson, Document, RawDocumentBuf, cstr, doc};

use crate::record::document::Record;
use crate::record::history::Entry;
use crate::record::names::Names;
use crate::record::stamp::stamped::Stamping;

/// One atomic change of the record that succeeds only from the state it was computed from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Move {
    /// From no record at all.
    Insert(RawDocumentBuf),
    /// From the state that `filter` matches.
    Update { filter: Document, update: Document },
    /// From the state that `filter` matches to another document, of which no decoder takes all.
    Replace { filter: RawDocumentBuf, by: RawDocumentBuf },
}

impl Move {
    /// The change from one state of the record to another.
    pub(crate) fn between(
        from: Option<&Record>,
        to: &Record,
        names: &Names,
    ) -> Result<Self, mongodb::error::Error> {
        let journal = to.journal.as_ref().map(mongodb::bson::serialize_to_document).transpose()?;
        let stamping =
            to.stamping.as_ref().map(mongodb::bson::serialize_to_document).transpose()?;
        let entries = |entries: &[Entry]| -> Vec<Bson> {
            entries
                .iter()
                .filter_map(|e| Document::try_from(&e.document).ok())
                .map(Bson::from)
                .collect()
        };
        let Some(from) = from else {
            let mut document = doc! {
                "_id": &names.record,
                "version": &to.text,
                "history": entries(&to.history),
            };
            if let Some(journal) = journal {
                document.insert("journal", journal);
            }
            if let Some(stamping) = stamping {
                document.insert("stamping", stamping);
            }
            return Ok(Move::Insert(RawDocumentBuf::try_from(&document)?));
        };
        let (mut set, mut unset) = (doc! {}, doc! {});
        let mut update = doc! {};
        if from.text != to.text {
            set.insert("version", &to.text);
        }
        match to.history.strip_prefix(&*from.history) {
            Some([]) => {}
            Some(new) => {
                update.insert("$push", doc! { "history": { "$each": entries(new) } });
            }
            None => match (from.history.split_last(), to.history.split_last()) {
                (Some((_, before)), Some((newest, rest))) if before == rest => {
                    let newest = entries(std::slice::from_ref(newest));
                    let place = format!("history.{}", rest.len());
                    newest.into_iter().for_each(|newest| _ = set.insert(&place, newest));
                }
                _ => {
                    set.insert("history", entries(&to.history));
                }
            },
        }
        for (name, was, now) in [
            ("journal", from.journal.is_some(), journal),
            ("stamping", from.stamping.is_some(), stamping),
        ] {
            match now {
                Some(now) => _ = set.insert(name, now),
                None if was => _ = unset.insert(name, ""),
                None => {}
            }
        }
        if !unset.is_empty() {
            update.insert("$unset", unset);
        }
        if set.is_empty() && update.is_empty() {
            // the server takes no update that changes nothing
            set.insert("version", &to.text);
        }
        if !set.is_empty() {
            update.insert("$set", set);
        }
        Ok(Move::Update { filter: from.fence(names), update })
    }

    /// A repair after which the stamp is to follow like this; `None` if it need not, or follows at once.
    pub(crate) fn stamping_along(
        self,
        stamping: Option<Stamping>,
    ) -> Result<Self, mongodb::error::Error> {
        let (filter, mut update) = match (self, &stamping) {
            (Move::Update { filter, update }, _) => (filter, update),
            (Move::Replace { filter, mut by }, Some(stamping)) => {
                let stamping = mongodb::bson::serialize_to_raw_document_buf(stamping)?;
                by.append(cstr!("stamping"), stamping);
                return Ok(Move::Replace { filter, by });
            }
            (other, _) => return Ok(other),
        };
        let field = |update: &mut Document, operator: &str, value: Bson| {
            if let Ok(fields) = update.get_document_mut(operator) {
                fields.insert("stamping", value);
            }
        };
        match stamping.as_ref().map(mongodb::bson::serialize_to_document).transpose()? {
            Some(stamping) => field(&mut update, "$set", stamping.into()),
            None => field(&mut update, "$unset", "".into()),
        }
        Ok(Move::Update { filter, update })
    }
}
