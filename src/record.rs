//! The record: the only file that knows the shape of the document that holds the version, its history
//! and the journal of an unfinished upgrade.

use std::collections::BTreeMap;

use mongodb::bson::{Bson, DateTime, Document, RawBsonRef, RawDocument, RawDocumentBuf, doc};
use serde::{Deserialize, Serialize};

use crate::upgrade::{Step, Unit, UpgradeAction, Upgrades};
use crate::version::Version;

/// How many entries of history are kept, where entries can be dropped.
const HISTORY_ENTRIES: usize = 500;
/// How many bytes of history are kept, where entries can be dropped.
const HISTORY_BYTES: usize = 2 * 1024 * 1024;

/// The names of the record and its fields, which are the application's to set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The collection of the record and the lock.
    pub collection: String,
    /// The record's `_id`.
    pub record: String,
    /// The field of a history entry that holds the version of the code that wrote it.
    pub code_version: String,
}

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
    pub history: Vec<Entry>,
    /// The unfinished upgrade, if there is one.
    pub journal: Option<Journal>,
}

/// One entry of the history.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The version that was reached.
    pub version: Version,
    /// How it was reached.
    pub action: Action,
    floor: EntryFloor,
    document: RawDocumentBuf,
}

/// How an entry's version was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// By the operator's word.
    Initialise,
    /// By an upgrade.
    Upgrade,
    /// Because nothing had to be done.
    AutoStamp,
    /// Something that this code does not know; it says nothing about the documents.
    Other,
}

#[derive(Clone, Debug, PartialEq)]
enum EntryFloor {
    /// The entry has no floor: Python wrote it.
    Unstated,
    /// The gate wrote the entry and stated the floor, or that there is none.
    Stated(Option<Version>),
}

/// The journal of an unfinished upgrade.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Journal {
    /// Names the journal to `GATE_DISCARD_JOURNAL`.
    pub id: String,
    /// The version that is being applied.
    pub version: String,
    /// The code that began it.
    pub code_version: String,
    /// When it began.
    pub started: DateTime,
    /// The state of the record from which it began.
    pub from: JournalFrom,
    /// Grows with every commit.
    pub seq: i64,
    /// The run that wrote last.
    pub run_id: String,
    /// The host that wrote last.
    pub host: String,
    /// The version's steps, in order, with what each did so far.
    pub steps: Vec<JournalStep>,
    /// The position in `steps` of the first step that is not finished.
    pub step: usize,
    /// Which pass over a transform's documents is under way.
    pub pass: Pass,
    /// The last document that the pass has dealt with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// The identities on which the command under way was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Document>,
}

/// The state of the record from which a journaled upgrade began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JournalFrom {
    /// The recorded version, as written.
    pub version: String,
    /// The length of the history.
    pub history: usize,
}

/// One step of a journaled upgrade.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JournalStep {
    /// The step's name.
    pub name: String,
    /// The step's kind.
    pub kind: String,
    /// What it did so far.
    #[serde(flatten)]
    pub done: Done,
}

/// What a step did so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Documents changed, late ones included.
    #[serde(default)]
    pub documents: u64,
    /// Documents changed by the pass that looks for late writers.
    #[serde(default)]
    pub late: u64,
    /// The author's counters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counts: BTreeMap<String, u64>,
    /// The actions of a transaction or a command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<UpgradeAction>,
}

impl Done {
    /// Adds what another part of the step did.
    pub(crate) fn add(&mut self, other: &Done) {
        self.documents += other.documents;
        self.late += other.late;
        for (name, n) in &other.counts {
            *self.counts.entry(name.clone()).or_default() += n;
        }
        self.actions.extend(other.actions.iter().cloned());
    }
}

/// Passes over a transform's documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pass {
    /// The pass that does the work.
    First,
    /// The pass that looks for what old code wrote meanwhile.
    Late,
}

/// A place in a collection, by `_id`. A document of its own, for an `_id` may be null.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// The last `_id` that was dealt with.
    pub after: Bson,
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
}

impl Unreadable {
    /// What names the stored journal to `GATE_DISCARD_JOURNAL`, if one is stored.
    pub fn journal_id(&self) -> Option<String> {
        journal_id(&self.document)
    }
}

/// The id of a stored journal, or `unreadable` where it has none.
pub(crate) fn journal_id(document: &RawDocument) -> Option<String> {
    let journal = document.get("journal").ok()??;
    let id = journal.as_document().and_then(|journal| journal.get_str("id").ok());
    Some(id.unwrap_or("unreadable").to_owned())
}

/// The stored version as text: a string as it is, anything else as JSON, or `missing`.
fn stored_version(document: &RawDocument) -> String {
    match document.get("version") {
        Ok(Some(RawBsonRef::String(text))) => text.to_owned(),
        Ok(Some(other)) => Bson::try_from(other)
            .ok()
            .and_then(|value| serde_json::to_string(&value).ok())
            .unwrap_or_else(|| "invalid".to_owned()),
        Ok(None) => "missing".to_owned(),
        Err(_) => "invalid".to_owned(),
    }
}

impl Record {
    fn parse(document: &RawDocument) -> Result<Self, String> {
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
        Ok(Record { version, text, history, journal })
    }

    /// The record of a database that an operator's word begins: `version` as `initialise`.
    pub(crate) fn begin(version: &Version, upgrades: &Upgrades, writer: &Writer) -> Self {
        let floor = upgrades.newest_upto(version);
        let entry = Entry::new(version, Action::Initialise, floor, writer, doc! {});
        Record {
            version: version.clone(),
            text: version.to_string(),
            history: vec![entry],
            journal: None,
        }
    }

    /// The record of a database that nothing could apply to.
    pub(crate) fn stamp_new(version: &Version, writer: &Writer) -> Self {
        let entry = Entry::new(version, Action::AutoStamp, None, writer, doc! {});
        Record {
            version: version.clone(),
            text: version.to_string(),
            history: vec![entry],
            journal: None,
        }
    }

    /// The oldest code that can use the data, or none where any can.
    pub fn floor(&self) -> Option<Version> {
        let Some(oldest) = self.history.first() else { return Some(self.version.clone()) };
        let mut floor = None;
        let mut stated = false;
        for entry in &self.history {
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

    /// The record after an upgrade to `version`; a journal ends here.
    pub(crate) fn upgraded(&self, version: &Version, writer: &Writer, applied: &Applied) -> Self {
        let mut details = doc! {
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
        if let Some(entry) = record.history.last_mut()
            && let Ok(mut document) = Document::try_from(&entry.document)
        {
            let before = document.get_i64("late").unwrap_or_default();
            document.insert("late", before + documents as i64);
            entry.document = RawDocumentBuf::try_from(&document).unwrap_or_default();
        }
        record
    }

    fn with_entry(&self, version: &Version, entry: Entry) -> Self {
        let mut history = self.history.clone();
        history.push(entry);
        cap(&mut history);
        Record {
            version: version.clone(),
            text: version.to_string(),
            history,
            journal: self.journal.clone(),
        }
    }

    /// The record with this journal.
    pub(crate) fn journaled(&self, journal: Journal) -> Self {
        Record { journal: Some(journal), ..self.clone() }
    }

    /// Whether both are one stored state: the same version, history and place in the journal.
    pub(crate) fn is_state(&self, other: &Record) -> bool {
        let place = |record: &Record| {
            record.journal.as_ref().map(|j| (j.id.clone(), j.seq, j.run_id.clone()))
        };
        let newest = |record: &Record| record.history.last().map(|entry| entry.document.clone());
        self.text == other.text
            && self.history.len() == other.history.len()
            && newest(self) == newest(other)
            && place(self) == place(other)
    }

    /// The filter that matches the record in this state and in no other.
    fn fence(&self, names: &Names) -> Document {
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
        filter
    }
}

/// One atomic change of the record that succeeds only from the state it was computed from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Move {
    /// From no record at all.
    Insert(RawDocumentBuf),
    /// From the state that `filter` matches.
    Update { filter: Document, update: Document },
}

impl Move {
    /// The change from one state of the record to another.
    pub(crate) fn between(
        from: Option<&Record>,
        to: &Record,
        names: &Names,
    ) -> Result<Self, mongodb::error::Error> {
        let journal = to.journal.as_ref().map(mongodb::bson::serialize_to_document).transpose()?;
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
            return Ok(Move::Insert(RawDocumentBuf::try_from(&document)?));
        };
        let mut set = doc! {};
        let mut update = doc! {};
        if from.text != to.text {
            set.insert("version", &to.text);
        }
        match to.history.strip_prefix(from.history.as_slice()) {
            Some([]) => {}
            Some(new) => {
                update.insert("$push", doc! { "history": { "$each": entries(new) } });
            }
            None => {
                set.insert("history", entries(&to.history));
            }
        }
        match (&from.journal, journal) {
            (_, Some(journal)) => {
                set.insert("journal", journal);
            }
            (Some(_), None) => {
                update.insert("$unset", doc! { "journal": "" });
            }
            (None, None) => {}
        }
        if !set.is_empty() {
            update.insert("$set", set);
        }
        Ok(Move::Update { filter: from.fence(names), update })
    }

    /// The repair that mode `record` makes: from exactly the document that is stored.
    pub(crate) fn repair(
        stored: &RawDocument,
        version: &Version,
        upgrades: &Upgrades,
        writer: &Writer,
        names: &Names,
    ) -> Result<Self, mongodb::error::Error> {
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
        let floor = upgrades.newest_upto(version);
        history.push(Entry::new(version, Action::Initialise, floor, writer, details));
        cap(&mut history);
        let to =
            Record { version: version.clone(), text: version.to_string(), history, journal: None };
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
                "$expr": { "$eq": ["$$ROOT", { "$literal": Document::try_from(stored)? }] },
            },
            update: doc! { "$set": set, "$unset": { "journal": "" } },
        })
    }
}

impl Entry {
    fn parse(document: &RawDocument) -> Result<Self, String> {
        let version = match document.get("version") {
            Ok(Some(RawBsonRef::String(text))) => {
                Version::parse(text).map_err(|error| error.to_string())?
            }
            _ => return Err(format!("its version is {}", stored_version(document))),
        };
        let action = match document.get("action") {
            Ok(Some(RawBsonRef::String("initialise"))) => Action::Initialise,
            Ok(Some(RawBsonRef::String("upgrade"))) => Action::Upgrade,
            Ok(Some(RawBsonRef::String("auto_stamp"))) => Action::AutoStamp,
            _ => Action::Other,
        };
        let floor = match document.get("floor").map_err(|error| error.to_string())? {
            None => EntryFloor::Unstated,
            Some(RawBsonRef::Null) => EntryFloor::Stated(None),
            Some(RawBsonRef::String(text)) => EntryFloor::Stated(Some(
                Version::parse(text).map_err(|error| format!("its floor: {error}"))?,
            )),
            Some(_) => return Err("its floor is not a version".to_owned()),
        };
        Ok(Entry { version, action, floor, document: document.to_owned() })
    }

    fn new(
        version: &Version,
        action: Action,
        floor: Option<&Version>,
        writer: &Writer,
        details: Document,
    ) -> Self {
        let word = match action {
            Action::Initialise => "initialise",
            Action::Upgrade => "upgrade",
            Action::AutoStamp | Action::Other => "auto_stamp",
        };
        let mut document = doc! {
            "version": version.to_string(),
            "action": word,
            "timestamp": DateTime::now(),
            &writer.code_version_field: &writer.code_version,
            "floor": floor.map(Version::to_string),
            "run_id": &writer.run_id,
            "host": &writer.host,
        };
        document.extend(details);
        Entry {
            version: version.clone(),
            action,
            floor: EntryFloor::Stated(floor.cloned()),
            document: RawDocumentBuf::try_from(&document).unwrap_or_default(),
        }
    }

    /// Whether the gate wrote the entry.
    pub(crate) fn is_the_gates(&self) -> bool {
        self.floor != EntryFloor::Unstated
    }
}

/// Who writes: what every entry says of its writer.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    pub(crate) run_id: String,
    pub(crate) host: String,
    pub(crate) code_version: String,
    pub(crate) code_version_field: String,
}

/// What an applied version leaves in its entry.
#[derive(Clone, Debug)]
pub(crate) struct Applied {
    pub(crate) actions: Vec<UpgradeAction>,
    pub(crate) late: u64,
    pub(crate) duration_ms: i64,
}

fn action_document(action: &UpgradeAction) -> Document {
    doc! {
        "description": &action.description,
        "collection": &action.collection,
        "action_type": action.action_type.as_str(),
        "details": action.details.clone(),
    }
}

/// What history can spare.
#[derive(Clone, Copy)]
enum Spare {
    Stamps,
    BeforeNewestInitialise,
}

/// Drops what history can spare, so that the record never nears the server's limit: first stamps, then
/// what came before the newest initialisation, always keeping the oldest and the newest entry.
fn cap(history: &mut Vec<Entry>) {
    let fits = |history: &[Entry]| {
        history.len() <= HISTORY_ENTRIES
            && history.iter().map(|e| e.document.as_bytes().len()).sum::<usize>() <= HISTORY_BYTES
    };
    if fits(history) {
        return;
    }
    let mut bytes: usize = history.iter().map(|e| e.document.as_bytes().len()).sum();
    let mut entries = history.len();
    let last = history.len() - 1;
    let newest_initialise =
        history.iter().rposition(|e| e.action == Action::Initialise).unwrap_or_default();
    let mut keep = vec![true; history.len()];
    for spare in [Spare::Stamps, Spare::BeforeNewestInitialise] {
        for (i, entry) in history.iter().enumerate() {
            if entries <= HISTORY_ENTRIES && bytes <= HISTORY_BYTES {
                break;
            }
            let spared = match spare {
                Spare::Stamps => i < last && entry.action == Action::AutoStamp,
                Spare::BeforeNewestInitialise => i < newest_initialise,
            };
            if keep[i] && i > 0 && spared {
                keep[i] = false;
                entries -= 1;
                bytes -= entry.document.as_bytes().len();
            }
        }
    }
    let mut kept = keep.iter();
    history.retain(|_| *kept.next().unwrap_or(&true));
}

impl Journal {
    fn parse(document: &RawDocument) -> Result<Self, String> {
        let journal: Journal = mongodb::bson::deserialize_from_slice(document.as_bytes())
            .map_err(|error| format!("its journal cannot be read ({error})"))?;
        if journal.step > journal.steps.len() {
            return Err(format!(
                "its journal is at step {} of {}",
                journal.step,
                journal.steps.len()
            ));
        }
        Version::parse(&journal.version).map_err(|error| format!("its journal: {error}"))?;
        Ok(journal)
    }

    /// The journal of a version about to be applied in parts.
    pub(crate) fn begin(id: String, unit: &Unit, start: &Record, writer: &Writer) -> Self {
        Journal {
            id,
            version: unit.version.to_string(),
            code_version: writer.code_version.clone(),
            started: DateTime::now(),
            from: JournalFrom { version: start.text.clone(), history: start.history.len() },
            seq: 0,
            run_id: writer.run_id.clone(),
            host: writer.host.clone(),
            steps: steps_of(unit)
                .into_iter()
                .map(|(name, kind)| JournalStep {
                    name,
                    kind: kind.to_owned(),
                    done: Done::default(),
                })
                .collect(),
            step: 0,
            pass: Pass::First,
            position: None,
            command: None,
        }
    }

    /// Whether `unit` has exactly the steps that the journal names.
    pub(crate) fn belongs_to(&self, unit: &Unit) -> bool {
        let steps = steps_of(unit);
        steps.len() == self.steps.len()
            && steps
                .iter()
                .zip(&self.steps)
                .all(|((name, kind), j)| *name == j.name && *kind == j.kind)
    }

    /// Whether the record is still in the state from which the journaled upgrade began.
    pub(crate) fn began_from(&self, record: &Record) -> bool {
        self.from.version == record.text && self.from.history == record.history.len()
    }
}

fn steps_of(unit: &Unit) -> Vec<(String, &'static str)> {
    unit.steps().map(|step: &Step| (step.name(), step.kind())).collect()
}
