//! The record: what is stored of a database's version.

use std::sync::Arc;

use mongodb::bson::{Document, RawBsonRef, RawDocument, RawDocumentBuf, doc};

use crate::authoring::table::{Upgrades, VersionUpgrade};
use crate::authoring::upgrade::Upgrade;
use crate::record::history::{
    Action, Applied, Entry, EntryFloor, History, Writer, action_document, capped,
};
use crate::record::journal::{Journal, JournalFrom};
use crate::record::names::Names;
use crate::record::stamp::stamped::{Stamp, Stamping};
use crate::record::stored::{ambiguous, journal_id, stored_version};
use crate::version::Version;

/// What the database holds where the record belongs.
#[expect(clippy::large_enum_variant, reason = "a process holds a handful of them")]
#[derive(Clone, Debug, PartialEq)]
pub enum Recorded {
    /// Nothing: the database is unrecorded.
    Absent,
    /// A record that was understood.
    Readable(Record),
    /// A document that cannot be understood.
    Unreadable(Unreadable),
}

/// A record that cannot be understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Unreadable {
    /// What cannot be read, and its value.
    pub reason: String,
    /// The stored version as text, which `GATE_EXPECT_VERSION` must repeat.
    pub text: String,
    /// The document as it is stored.
    pub document: RawDocumentBuf,
}

/// A record that was understood, or one about to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The recorded version.
    pub version: Version,
    /// The recorded version as it is written.
    pub text: String,
    /// What happened to the database, oldest first.
    pub history: History,
    /// The unfinished upgrade, if there is one.
    pub journal: Option<Journal>,
    /// How the application's own stamp is to follow, where the version has moved before it.
    pub(super) stamping: Option<Stamping>,
}

impl Recorded {
    /// Reads what is stored.
    pub fn parse(document: Option<&RawDocument>) -> Self {
        let Some(document) = document else { return Recorded::Absent };
        match Record::parse(document) {
            Ok(record) => Recorded::Readable(record),
            Err(reason) => Recorded::Unreadable(Unreadable {
                reason,
                text: stored_version(document),
                document: document.to_owned(),
            }),
        }
    }

    /// The record, if it can be read.
    pub(crate) fn record(&self) -> Option<&Record> {
        match self {
            Recorded::Readable(record) => Some(record),
            Recorded::Absent | Recorded::Unreadable(_) => None,
        }
    }

    /// The journal of an unfinished upgrade.
    pub(crate) fn journal(&self) -> Option<&Journal> {
        self.record()?.journal.as_ref()
    }
}

impl Unreadable {
    /// What names the stored journal to `GATE_DISCARD_JOURNAL`, if one is stored.
    pub fn journal_id(&self) -> Option<String> {
        journal_id(&self.document)
    }
}

impl Record {
    fn parse(document: &RawDocument) -> Result<Self, String> {
        let fields = ["version", "history", "journal", "stamping"];
        if let Some(reason) = ambiguous(document, &fields) {
            return Err(reason);
        }
        let text = match document.get("version") {
            Ok(Some(RawBsonRef::String(text))) => text.to_owned(),
            _ => return Err(format!("its version is {}", stored_version(document))),
        };
        let version = Version::parse(&text).map_err(|error| error.to_string())?;
        let mut history = Vec::new();
        match document.get("history").map_err(|error| error.to_string())? {
            None => {}
            Some(RawBsonRef::Array(array)) => {
                for (position, element) in array.into_iter().enumerate() {
                    let entry = match element {
                        Ok(RawBsonRef::Document(entry)) => Entry::parse(entry),
                        _ => Err("it is not a document".to_owned()),
                    };
                    let entry =
                        entry.map_err(|reason| format!("history entry {position}: {reason}"))?;
                    history.push(entry);
                }
            }
            Some(_) => return Err("its history is not an array".to_owned()),
        }
        let journal = match document.get("journal").map_err(|error| error.to_string())? {
            None => None,
            Some(RawBsonRef::Document(journal)) => Some(Journal::parse(journal)?),
            Some(_) => return Err("its journal is not a document".to_owned()),
        };
        let stamping = match document.get("stamping").map_err(|error| error.to_string())? {
            None => None,
            Some(RawBsonRef::Document(stamping)) => Some(
                mongodb::bson::deserialize_from_slice(stamping.as_bytes())
                    .map_err(|error| format!("its stamping cannot be read ({error})"))?,
            ),
            Some(_) => return Err("its stamping is not a document".to_owned()),
        };
        Ok(Record { version, text, history: history.into(), journal, stamping })
    }

    /// The record of a database that an operator's declaration begins: `version` as `initialise`.
    pub(crate) fn begin(version: &Version, upgrades: &Upgrades, writer: &Writer) -> Self {
        let floor = upgrades.floor_at(version);
        let entry = Entry::new(version, Action::Initialise, floor, writer, doc! {});
        Record::of(version, entry)
    }

    /// The record of a database that nothing could apply to.
    pub(crate) fn stamp_new(version: &Version, writer: &Writer) -> Self {
        let entry = Entry::new(version, Action::AutoStamp, None, writer, doc! {});
        Record::of(version, entry)
    }

    /// A record whose history begins with `entry`.
    fn of(version: &Version, entry: Entry) -> Self {
        Record {
            version: version.clone(),
            text: version.to_string(),
            history: vec![entry].into(),
            journal: None,
            stamping: None,
        }
    }

    /// What names the journal to `GATE_DISCARD_JOURNAL`, if there is one.
    pub fn journal_id(&self) -> Option<&str> {
        self.journal.as_ref().map(|journal| journal.id.as_str())
    }

    /// The oldest code that can use the data; `None` if any can.
    pub fn floor(&self) -> Option<Version> {
        let mut entries =
            self.history.iter().filter(|entry| entry.action != Action::Sweep).peekable();
        let Some(oldest) = entries.peek().copied() else { return Some(self.version.clone()) };
        let mut floor = None;
        let mut stated = false;
        for entry in entries {
            match (&entry.floor, entry.action) {
                (EntryFloor::Stated(own), _) => {
                    floor = own.clone();
                    stated = true;
                }
                (EntryFloor::Unstated, Action::Initialise | Action::Upgrade) => {
                    floor = floor.max(Some(entry.version.clone()));
                    stated = true;
                }
                (EntryFloor::Unstated, _) => {}
            }
        }
        if stated { floor } else { Some(oldest.version.clone()) }
    }

    /// The record after stamping `version`, with nothing done to the documents.
    pub(crate) fn stamped(&self, version: &Version, writer: &Writer) -> Self {
        let floor = self.floor();
        let entry = Entry::new(version, Action::AutoStamp, floor.as_ref(), writer, doc! {});
        self.with_entry(version, entry)
    }

    /// The record after the upgrades of `upgrade`; a journal ends here.
    pub(crate) fn upgraded(
        &self,
        upgrade: &VersionUpgrade,
        writer: &Writer,
        applied: &Applied,
    ) -> Self {
        let version = &upgrade.version;
        let name = |upgrade: &Upgrade| match &upgrade.file {
            Some(file) => doc! { "name": &file.name, "sha256": &file.sha256 },
            None => doc! { "name": upgrade.name() },
        };
        let mut details = doc! {
            "upgrades": upgrade.upgrades.iter().map(name).collect::<Vec<_>>(),
            "actions": applied.actions.iter().map(action_document).collect::<Vec<_>>(),
            "duration_ms": applied.duration_ms,
        };
        if applied.late > 0 {
            details.insert("late", applied.late as i64);
        }
        let entry = Entry::new(version, Action::Upgrade, Some(version), writer, details);
        Record { journal: None, ..self.with_entry(version, entry) }
    }

    /// The record with its journal moved on by one commit of this run.
    pub(crate) fn advanced(&self, writer: &Writer, change: impl FnOnce(&mut Journal)) -> Self {
        let mut record = self.clone();
        if let Some(journal) = &mut record.journal {
            journal.seq += 1;
            journal.run_id.clone_from(&writer.run_id);
            journal.host.clone_from(&writer.host);
            change(journal);
        }
        record
    }

    /// The record whose newest entry also counts documents that late writers had left.
    pub(crate) fn found_late(&self, documents: u64) -> Self {
        let mut record = self.clone();
        if let Some(entry) = Arc::make_mut(&mut record.history.0).last_mut()
            && let Ok(mut document) = Document::try_from(&entry.document)
        {
            let before = document.get_i64("late").unwrap_or_default();
            document.insert("late", before + documents as i64);
            entry.document = RawDocumentBuf::try_from(&document).unwrap_or_default();
        }
        record
    }

    fn with_entry(&self, version: &Version, entry: Entry) -> Self {
        Record {
            version: version.clone(),
            text: version.to_string(),
            history: capped(&self.history, &entry),
            journal: self.journal.clone(),
            stamping: None,
        }
    }

    /// The state from which a journaled upgrade begins.
    pub(crate) fn start(&self) -> JournalFrom {
        JournalFrom { version: self.text.clone(), history: self.history.len() }
    }

    /// The record with this journal.
    pub(crate) fn journaled(&self, journal: Journal) -> Self {
        Record { journal: Some(journal), ..self.clone() }
    }

    /// Whether the stamp has another version than this record. If its write is pending, it may have the old value or
    /// the new one.
    pub(crate) fn disagrees_with(&self, stamp: &Stamp) -> bool {
        let Some(version) = stamp.version() else { return false };
        let follows =
            self.stamping().is_some_and(|stamping| stamping.from.as_deref() == stamp.text());
        *version != self.version && !follows
    }

    /// How the stamp is to follow, unless something else has moved the version on since.
    pub(crate) fn stamping(&self) -> Option<&Stamping> {
        let stamping = self.stamping.as_ref()?;
        let to = Version::parse(&stamping.to).ok()?;
        (to == self.version).then_some(stamping)
    }

    /// The record from which the stamp is to follow so, or has followed.
    pub(crate) fn stamping_along(&self, stamping: Option<Stamping>) -> Self {
        Record { stamping, ..self.clone() }
    }

    /// Whether the version was moved by the same entry of the history, wherever the journal is.
    pub(crate) fn is_version(&self, other: &Record) -> bool {
        let newest = |record: &Record| record.history.last().map(|entry| entry.document.clone());
        self.text == other.text
            && self.stamping == other.stamping
            && self.history.len() == other.history.len()
            && newest(self) == newest(other)
    }

    /// Whether both are one stored state: the same version, history and place in the journal.
    pub(crate) fn is_state(&self, other: &Record) -> bool {
        let place = |record: &Record| {
            record.journal.as_ref().map(|j| (j.id.clone(), j.seq, j.run_id.clone()))
        };
        self.is_version(other) && place(self) == place(other)
    }

    /// The filter that matches the record in this state and in no other.
    pub(super) fn fence(&self, names: &Names) -> Document {
        let mut filter = doc! { "_id": &names.record, "version": { "$eq": &self.text } };
        if self.history.is_empty() {
            // a record without the field counts as one with an empty history
            filter.insert("history.0", doc! { "$exists": false });
        } else {
            filter.insert("history", doc! { "$size": self.history.len() as i64 });
        }
        // a capped history keeps its length: its newest entry tells one state from another
        if let Some(newest) = self.history.last()
            && let Ok(timestamp) = newest.document.get_datetime("timestamp")
        {
            filter.insert(format!("history.{}.timestamp", self.history.len() - 1), timestamp);
        }
        match &self.journal {
            None => filter.insert("journal", doc! { "$exists": false }),
            Some(journal) => {
                filter.insert("journal.run_id", &journal.run_id);
                filter.insert("journal.id", &journal.id);
                filter.insert("journal.seq", journal.seq)
            }
        };
        if let Some(stamping) = &self.stamping {
            filter.insert("stamping.to", &stamping.to);
        } else if names.stamp.is_some() {
            filter.insert("stamping", doc! { "$exists": false });
        }
        filter
    }
}
