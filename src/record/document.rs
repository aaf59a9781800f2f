//! The record: the only file that knows the shape of the document that holds the version, its history
//! and the journal of an unfinished upgrade.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use mongodb::bson::raw::cstr;
use mongodb::bson::{Bson, DateTime, Document, RawBsonRef, RawDocument, RawDocumentBuf, doc};
use serde::{Deserialize, Serialize};

use crate::authoring::action::UpgradeAction;
use crate::authoring::edit::MAX_DOCUMENT_SIZE;
use crate::authoring::step::Step;
use crate::authoring::table::{Unit, Upgrades};
use crate::authoring::upgrade::Upgrade;
use crate::record::raw::{self, Builder, Element};
use crate::record::stamp::{Place, Stamp, Stamping};
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
    /// Where the application keeps its version itself, if it does.
    pub stamp: Option<Place>,
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
    pub history: History,
    /// The unfinished upgrade, if there is one.
    pub journal: Option<Journal>,
    /// How the application's own stamp is to follow, where the version has moved before it.
    stamping: Option<Stamping>,
}

/// Entries of a history. Its clones share them: a record that other code wrote may hold very many.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History(Arc<Vec<Entry>>);

impl From<Vec<Entry>> for History {
    fn from(entries: Vec<Entry>) -> Self {
        History(Arc::new(entries))
    }
}

impl Deref for History {
    type Target = [Entry];

    fn deref(&self) -> &[Entry] {
        &self.0
    }
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
    /// Not at all: documents of the old shape were upgraded that old code had written since.
    Sweep,
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
    /// When the run began that began it: the time that the author's code sees, in every run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_started: Option<DateTime>,
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
    /// The version of the code whose preflight of this version is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preflight: Option<String>,
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
    /// How many documents it changes, as far as that was known before its version began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
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
    let mut journals = named(document, "journal").into_iter();
    let (journal, more) = (journals.next()?, journals.next());
    let journal = journal.document().filter(|_| more.is_none());
    let id = journal.and_then(|journal| journal.get_str("id").ok());
    Some(id.unwrap_or("unreadable").to_owned())
}

/// The fields of this name, however many.
fn named<'a>(document: &'a RawDocument, name: &str) -> Vec<Element<'a>> {
    let elements = raw::elements(document.as_bytes()).unwrap_or_default();
    elements.into_iter().filter(|element| element.name == name.as_bytes()).collect()
}

/// The stored version as text: a string as it is, anything else as JSON, or `missing`; all of them where there
/// are several.
fn stored_version(document: &RawDocument) -> String {
    let texts: Vec<String> = named(document, "version").iter().map(version_text).collect();
    if texts.is_empty() { "missing".to_owned() } else { short(&texts.join("|")) }
}

fn version_text(element: &Element<'_>) -> String {
    let json = || {
        let mut document = Builder::new();
        document.push(element.kind, b"version", element.value);
        let document = document.document()?;
        let value = Bson::try_from(document.get("version").ok()??).ok()?;
        serde_json::to_string(&value).ok()
    };
    match element.text() {
        // no setting can be empty, or hold a NUL
        Some(b"") => "empty".to_owned(),
        Some(text) if text.contains(&0) && std::str::from_utf8(text).is_ok() => {
            json().unwrap_or_else(|| raw::readable(text))
        }
        Some(text) => raw::readable(text),
        None => json().unwrap_or_else(|| "invalid".to_owned()),
    }
}

/// What keeps a document from being read that has these fields: one that is repeated, of which others may read
/// another one, or a name that nobody can write.
fn ambiguous(document: &RawDocument, fields: &[&str]) -> Option<String> {
    let Some(elements) = raw::elements(document.as_bytes()) else {
        return Some("its bytes cannot be read".to_owned());
    };
    let repeated = |name: &&&str| {
        elements.iter().filter(|element| element.name == name.as_bytes()).count() > 1
    };
    if let Some(name) = fields.iter().find(repeated) {
        return Some(format!("it has the field {name} more than once"));
    }
    let unnameable = elements.iter().any(|element| !element.has_name());
    unnameable.then(|| "it has a field whose name is not UTF-8".to_owned())
}

/// A text that an operator can repeat: a long one by its beginning, its length and a number made of all of
/// it (FNV-1a).
fn short(text: &str) -> String {
    if text.len() <= LONGEST_TEXT {
        return text.to_owned();
    }
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut start = text.to_owned();
    crate::visible::cut(&mut start, 60);
    format!("{start} ({} bytes, {hash:016x})", text.len())
}

/// More bytes of a stored version are not repeated.
const LONGEST_TEXT: usize = 200;

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

    /// The record of a database that an operator's word begins: `version` as `initialise`.
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

    /// The oldest code that can use the data, or none where any can.
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

    /// The record after the upgrades of `unit`; a journal ends here.
    pub(crate) fn upgraded(&self, unit: &Unit, writer: &Writer, applied: &Applied) -> Self {
        let version = &unit.version;
        let name = |upgrade: &Upgrade| doc! { "name": upgrade.name() };
        let mut details = doc! {
            "upgrades": unit.upgrades.iter().map(name).collect::<Vec<_>>(),
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

    /// The record with this journal.
    pub(crate) fn journaled(&self, journal: Journal) -> Self {
        Record { journal: Some(journal), ..self.clone() }
    }

    /// Whether the stamp says another version than this record. One that is to follow the record may be where it
    /// was or where it goes.
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
        if let Some(stamping) = &self.stamping {
            filter.insert("stamping.to", &stamping.to);
        } else if names.stamp.is_some() {
            filter.insert("stamping", doc! { "$exists": false });
        }
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
            None => {
                set.insert("history", entries(&to.history));
            }
        }
        match (&from.journal, journal) {
            (_, Some(journal)) => {
                set.insert("journal", journal);
            }
            (Some(_), None) => {
                unset.insert("journal", "");
            }
            (None, None) => {}
        }
        match (&from.stamping, stamping) {
            (_, Some(stamping)) => {
                set.insert("stamping", stamping);
            }
            (Some(_), None) => {
                unset.insert("stamping", "");
            }
            (None, None) => {}
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

    /// A repair after which the stamp is to follow so; none where it need not, or follows at once.
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

impl Entry {
    fn parse(document: &RawDocument) -> Result<Self, String> {
        if let Some(reason) = ambiguous(document, &["version", "action", "floor"]) {
            return Err(reason);
        }
        if !raw::is_decodable(document) {
            return Err("it holds text that is not UTF-8".to_owned());
        }
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
            Ok(Some(RawBsonRef::String("sweep"))) => Action::Sweep,
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
            Action::Sweep => "sweep",
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
        let bare = document.clone();
        document.extend(details);
        Entry {
            version: version.clone(),
            action,
            floor: EntryFloor::Stated(floor.cloned()),
            // what an author's actions say may be no BSON: a NUL in a field's name
            document: RawDocumentBuf::try_from(&document)
                .or_else(|_| RawDocumentBuf::try_from(&bare))
                .unwrap_or_default(),
        }
    }

    /// Drops what an upgrade did, and returns how many bytes that spares.
    fn forget_actions(&mut self) -> usize {
        let before = self.document.as_bytes().len();
        if matches!(self.document.get("actions"), Ok(Some(_))) {
            let elements = raw::elements(self.document.as_bytes()).unwrap_or_default();
            let mut shorter = Builder::new();
            for element in elements.iter().filter(|element| element.name != b"actions") {
                shorter.push(element.kind, element.name, element.value);
            }
            self.document = shorter.document().unwrap_or_else(|| self.document.clone());
        }
        before - self.document.as_bytes().len()
    }

    /// The run that wrote the entry, if it is the gate's.
    pub(crate) fn run_id(&self) -> Option<&str> {
        self.document.get_str("run_id").ok()
    }

    /// What an upgrade of the gate did, as far as the entry says it.
    pub(crate) fn applied(&self) -> Applied {
        let number = |name| self.document.get_i64(name).unwrap_or_default();
        let actions = self.document.get("actions").ok().flatten();
        let actions = actions.and_then(|actions| Bson::try_from(actions).ok());
        Applied {
            actions: actions
                .and_then(|actions| mongodb::bson::deserialize_from_bson(actions).ok())
                .unwrap_or_default(),
            late: number("late").max(0) as u64,
            duration_ms: number("duration_ms"),
        }
    }

    /// The names of the upgrades that were applied, where the entry states them: Python's do not, nor did
    /// the gate's at first.
    pub(crate) fn applied_names(&self) -> Option<Vec<&str>> {
        let upgrades = self.document.get_array("upgrades").ok()?;
        upgrades.into_iter().map(|it| it.ok()?.as_document()?.get_str("name").ok()).collect()
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
    Sweeps,
    Stamps,
    BeforeNewestInitialise,
}

/// Drops what history can spare, so that the record never nears the server's limit: first sweeps, then
/// stamps, then what came before the newest initialisation, always keeping the oldest and the newest entry; and where
/// that is not enough, what the oldest upgrades did.
fn capped(history: &[Entry], newest: &Entry) -> History {
    let all: Vec<&Entry> = history.iter().chain([newest]).collect();
    let mut bytes: usize = all.iter().map(|entry| entry.document.as_bytes().len()).sum();
    let mut entries = all.len();
    let last = all.len() - 1;
    let newest_initialise =
        all.iter().rposition(|entry| entry.action == Action::Initialise).unwrap_or_default();
    let mut keep = vec![true; all.len()];
    for spare in [Spare::Sweeps, Spare::Stamps, Spare::BeforeNewestInitialise] {
        for (i, entry) in all.iter().enumerate() {
            if entries <= HISTORY_ENTRIES && bytes <= HISTORY_BYTES {
                break;
            }
            let spared = match spare {
                Spare::Sweeps => i < last && entry.action == Action::Sweep,
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
    // of very many entries only those that stay are copied
    let kept = all.into_iter().zip(keep).filter_map(|(entry, keep)| keep.then_some(entry));
    let mut history: Vec<Entry> = kept.cloned().collect();
    for entry in history.iter_mut().filter(|entry| entry.is_the_gates()) {
        if bytes <= HISTORY_BYTES {
            break;
        }
        bytes -= entry.forget_actions();
    }
    history.into()
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
            run_started: Some(unit.started()),
            from: JournalFrom { version: start.text.clone(), history: start.history.len() },
            seq: 0,
            run_id: writer.run_id.clone(),
            host: writer.host.clone(),
            steps: steps_of(unit)
                .into_iter()
                .map(|(name, kind)| JournalStep {
                    name,
                    kind: kind.to_owned(),
                    total: None,
                    done: Done::default(),
                })
                .collect(),
            step: 0,
            pass: Pass::First,
            position: None,
            command: None,
            preflight: Some(writer.code_version.clone()),
        }
    }

    /// The time that the author's code sees.
    pub(crate) fn run_started(&self) -> DateTime {
        self.run_started.unwrap_or(self.started)
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

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use mongodb::bson::oid::ObjectId;
    use mongodb::bson::spec::BinarySubtype;
    use mongodb::bson::{
        Binary, Decimal128, JavaScriptCodeWithScope, RawArrayBuf, Regex, Timestamp, cstr, rawdoc,
    };

    use super::*;
    use crate::authoring::action::ActionType;
    use crate::authoring::command::Command;
    use crate::authoring::upgrade::Upgrade;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    fn names() -> Names {
        Names {
            collection: "database_metadata".to_owned(),
            record: "app_schema_version".to_owned(),
            code_version: "app_version".to_owned(),
            stamp: None,
        }
    }

    fn writer() -> Writer {
        Writer {
            run_id: "run".to_owned(),
            host: "host".to_owned(),
            code_version: "0.9.0".to_owned(),
            code_version_field: "app_version".to_owned(),
        }
    }

    fn upgrades() -> Upgrades {
        let upgrade = |version: &str, collection| {
            Upgrade::new(version, "drop it").step(Command::drop_collection(collection))
        };
        Upgrades::new([upgrade("0.8.0", "old"), upgrade("0.9.0", "older")], &version("0.9.0"))
            .unwrap()
    }

    fn unit(text: &str) -> Unit {
        let upgrade = Upgrade::new(text, "drop it").step(Command::drop_collection("old"));
        let upgrades = Upgrades::new([upgrade], &version(text)).unwrap();
        upgrades.units()[0].clone()
    }

    fn applied(bytes: usize) -> Applied {
        let action = UpgradeAction {
            description: "do it".to_owned(),
            collection: "things".to_owned(),
            action_type: ActionType::Update,
            details: doc! { "text": "x".repeat(bytes) },
        };
        Applied { actions: vec![action], late: 0, duration_ms: 1 }
    }

    /// An entry like `upgrade 0.8.0` (Python's) or `upgrade 0.8.0 floor 0.8.0` (the gate's).
    fn entry(text: &str) -> Document {
        let mut words = text.split(' ');
        let (action, version) = (words.next(), words.next());
        let mut entry = doc! { "version": version, "action": action, "timestamp": DateTime::MIN };
        if words.next() == Some("floor") {
            entry.insert("floor", words.next().filter(|floor| *floor != "none"));
        }
        entry
    }

    fn stored(version: &str, history: &[&str]) -> Document {
        let history: Vec<_> = history.iter().map(|text| entry(text)).collect();
        doc! { "_id": "app_schema_version", "version": version, "history": history }
    }

    fn parsed(document: &Document) -> Recorded {
        Recorded::parse(Some(&RawDocumentBuf::try_from(document).unwrap()))
    }

    #[track_caller]
    fn readable(document: &Document) -> Record {
        match parsed(document) {
            Recorded::Readable(record) => record,
            other => panic!("not readable: {other:?}"),
        }
    }

    #[track_caller]
    fn unreadable(document: &Document) -> Unreadable {
        match parsed(document) {
            Recorded::Unreadable(unreadable) => unreadable,
            other => panic!("not unreadable: {other:?}"),
        }
    }

    fn texts(record: &Record) -> Vec<String> {
        record.history.iter().map(|e| format!("{:?} {}", e.action, e.version)).collect()
    }

    #[test]
    fn the_floor_is_that_of_the_newest_upgrade_or_birth() {
        for (recorded, history, floor) in [
            // the gate's entries state it
            (
                "0.9.0",
                &["initialise 0.7.0 floor none", "upgrade 0.9.0 floor 0.9.0"][..],
                Some("0.9.0"),
            ),
            (
                "0.9.5",
                &["upgrade 0.9.0 floor 0.9.0", "auto_stamp 0.9.5 floor 0.9.0"],
                Some("0.9.0"),
            ),
            ("0.9.0", &["initialise 0.9.0 floor 0.8.0"], Some("0.8.0")),
            ("0.9.0", &["initialise 0.9.0 floor none", "auto_stamp 0.9.0 floor none"], None),
            // the operator's word lowers it
            (
                "0.8.0",
                &["upgrade 0.9.0 floor 0.9.0", "initialise 0.8.0 floor 0.8.0"],
                Some("0.8.0"),
            ),
            ("0.7.0", &["upgrade 0.9.0", "initialise 0.7.0 floor none"], None),
            // Python's raise it to their version
            ("0.9.0", &["initialise 0.7.0", "upgrade 0.9.0"], Some("0.9.0")),
            ("0.7.0", &["initialise 0.7.0"], Some("0.7.0")),
            ("0.8.0", &["upgrade 0.9.0", "initialise 0.8.0"], Some("0.9.0")),
            ("0.9.5", &["initialise 0.7.0", "upgrade 0.9.0", "auto_stamp 0.9.5"], Some("0.9.0")),
            ("0.9.0", &["upgrade 0.8.0 floor 0.8.0", "upgrade 0.9.0"], Some("0.9.0")),
            ("0.8.1", &["initialise 0.9.0 floor none", "upgrade 0.8.1"], Some("0.8.1")),
            ("0.8.1", &["initialise 0.9.0 floor 0.8.5", "upgrade 0.8.1"], Some("0.8.5")),
            // with entries of neither kind it is the oldest
            ("0.9.0", &["auto_stamp 0.7.0", "auto_stamp 0.9.0"], Some("0.7.0")),
            ("0.9.0", &["auto_stamp 0.9.0"], Some("0.9.0")),
            ("0.9.0", &["backup 0.6.0", "auto_stamp 0.9.0"], Some("0.6.0")),
            // but a sweep says nothing
            ("0.9.0", &["sweep 0.6.0", "auto_stamp 0.9.0"], Some("0.9.0")),
            ("0.9.0", &["upgrade 0.9.0", "sweep 0.9.0 floor 0.8.0"], Some("0.9.0")),
            ("0.9.0", &["sweep 0.9.0"], Some("0.9.0")),
            // the gate's own stamps know better
            ("0.9.0", &["auto_stamp 0.7.0", "auto_stamp 0.9.0 floor 0.7.0"], Some("0.7.0")),
            ("0.9.0", &["auto_stamp 0.7.0 floor none", "auto_stamp 0.9.0"], None),
            // nothing better is known
            ("0.9.0", &[], Some("0.9.0")),
            ("0.9.0rc1", &[], Some("0.9.0-rc.1")),
        ] {
            let record = readable(&stored(recorded, history));
            assert_eq!(record.floor(), floor.map(version), "{history:?}");
        }
        let record = readable(&doc! { "version": "0.9.0" });
        assert_eq!(record.floor(), Some(version("0.9.0")), "no field history");
    }

    #[test]
    fn what_is_written_states_the_floor_it_leaves() {
        let (upgrades, writer) = (upgrades(), writer());
        let floor = |record: &Record| {
            let newest = Document::try_from(&record.history.last().unwrap().document).unwrap();
            assert_eq!(newest.get_str("run_id").unwrap(), "run");
            assert_eq!(newest.get_str("app_version").unwrap(), "0.9.0");
            let stated = newest.get_str("floor").ok().map(version);
            assert!(newest.contains_key("floor"));
            assert_eq!(stated, record.floor());
            stated
        };
        let begin = |text| Record::begin(&version(text), &upgrades, &writer);
        assert_eq!(floor(&begin("0.7.0")), None);
        assert_eq!(floor(&begin("0.8.0")), Some(version("0.8.0")));
        assert_eq!(floor(&begin("0.8.9")), Some(version("0.8.0")));
        assert_eq!(floor(&Record::stamp_new(&version("0.9.0"), &writer)), None);
        let upgraded = begin("0.7.0").upgraded(&unit("0.8.0"), &writer, &applied(1));
        assert_eq!(floor(&upgraded), Some(version("0.8.0")));
        assert_eq!(floor(&upgraded.stamped(&version("0.8.9"), &writer)), Some(version("0.8.0")));
        let python = readable(&stored("0.8.5", &["auto_stamp 0.6.0", "auto_stamp 0.8.5"]));
        assert_eq!(floor(&python.stamped(&version("0.9.0"), &writer)), Some(version("0.6.0")));
    }

    #[test]
    fn a_record_names_what_in_it_cannot_be_read() {
        let entry = |entry: Bson| doc! { "version": "0.8.0", "history": [entry] };
        let good = || doc! { "version": "0.8.0", "action": "upgrade" };
        let with = |name: &str, value: Bson| {
            let mut entry = good();
            entry.insert(name, value);
            entry
        };
        for (document, reason, text) in [
            (doc! {}, "its version is missing", "missing"),
            (doc! { "version": "latest" }, "\"latest\"", "latest"),
            (doc! { "version": "" }, "\"\"", "empty"),
            (doc! { "version": " " }, "\" \"", " "),
            (doc! { "version": "0.8.0\0" }, "0.8.0", "\"0.8.0\\u0000\""),
            (doc! { "version": "0.8.0-1" }, "bare number", "0.8.0-1"),
            (doc! { "version": Bson::Null }, "its version is null", "null"),
            (doc! { "version": 1 }, "its version is 1", "1"),
            (doc! { "version": 0.8 }, "its version is 0.8", "0.8"),
            (doc! { "version": true }, "its version is true", "true"),
            (doc! { "version": ["0.8.0"] }, "its version is [\"0.8.0\"]", "[\"0.8.0\"]"),
            (doc! { "version": { "a": 1 } }, "its version is {\"a\":1}", "{\"a\":1}"),
            (doc! { "version": "0.8.0", "history": {} }, "its history is not an array", "0.8.0"),
            (
                doc! { "version": "0.8.0", "history": Bson::Null },
                "its history is not an array",
                "0.8.0",
            ),
            (entry(1.into()), "history entry 0: it is not a document", "0.8.0"),
            (entry(doc! {}.into()), "history entry 0: its version is missing", "0.8.0"),
            (entry(with("version", 1.into()).into()), "history entry 0: its version is 1", "0.8.0"),
            (entry(with("version", "x".into()).into()), "history entry 0: version \"x\"", "0.8.0"),
            (entry(with("floor", 1.into()).into()), "history entry 0: its floor is not", "0.8.0"),
            (
                entry(with("floor", "x".into()).into()),
                "history entry 0: its floor: version",
                "0.8.0",
            ),
            (doc! { "version": "0.8.0", "journal": 1 }, "its journal is not a document", "0.8.0"),
            (doc! { "version": "0.8.0", "journal": Bson::Null }, "its journal is not", "0.8.0"),
            (doc! { "version": "0.8.0", "journal": {} }, "its journal cannot be read", "0.8.0"),
        ] {
            let unreadable = unreadable(&document);
            assert!(unreadable.reason.contains(reason), "{document}: {}", unreadable.reason);
            assert_eq!(unreadable.text, text, "{document}");
            assert_eq!(unreadable.journal_id().is_some(), document.contains_key("journal"));
        }
        for odd in [Bson::Null, 1.into(), "rollback".into()] {
            let record = readable(&entry(with("action", odd).into()));
            assert_eq!(record.history[0].action, Action::Other);
        }
        assert_eq!(Recorded::parse(None), Recorded::Absent);
    }

    #[test]
    fn a_text_that_is_not_utf8_is_unreadable() {
        let mut bytes = rawdoc! { "version": "0.8.?" }.into_bytes();
        let odd = bytes.iter().position(|byte| *byte == b'?').unwrap();
        bytes[odd] = 0xFF;
        let document = RawDocumentBuf::from_bytes(bytes).unwrap();
        assert!(matches!(Recorded::parse(Some(&document)), Recorded::Unreadable(_)));
    }

    #[test]
    fn a_journal_is_unreadable_where_it_names_no_step_or_version() {
        let record = readable(&stored("0.7.0", &["initialise 0.7.0"]));
        let journal = Journal::begin("j".to_owned(), &upgrades().units()[0], &record, &writer());
        let document = |change: &dyn Fn(&mut Document)| {
            let mut journal = mongodb::bson::serialize_to_document(&journal).unwrap();
            change(&mut journal);
            let mut document = stored("0.7.0", &["initialise 0.7.0"]);
            document.insert("journal", journal);
            document
        };
        assert_eq!(readable(&document(&|_| {})).journal, Some(journal.clone()));
        let more = document(&|journal| drop(journal.insert("of a later gate", true)));
        assert_eq!(readable(&more).journal, Some(journal.clone()));
        for (field, value) in [
            ("step", Bson::from(2)),
            ("step", Bson::from(-1)),
            ("version", "latest".into()),
            ("steps", Bson::from(doc! {})),
            ("pass", "third".into()),
            ("started", "now".into()),
            ("id", Bson::Null),
        ] {
            let unreadable = unreadable(&document(&|j| drop(j.insert(field, value.clone()))));
            assert!(unreadable.reason.contains("its journal"), "{field}: {}", unreadable.reason);
            let id = if field == "id" { "unreadable" } else { "j" };
            assert_eq!(unreadable.journal_id().unwrap(), id);
        }
        for field in ["id", "version", "from", "steps", "step", "pass", "seq", "run_id"] {
            unreadable(&document(&|journal| drop(journal.remove(field))));
        }
    }

    /// A value of every type that a document may have, and so a detail of an action.
    fn every_value() -> Vec<Bson> {
        let mut values = every_id();
        values.extend([
            Bson::Array(vec![1.into(), Bson::Null]),
            Bson::RegularExpression(Regex {
                pattern: cstr!("^a").to_owned(),
                options: cstr!("i").to_owned(),
            }),
        ]);
        values
    }

    /// A value of every type that an `_id` may have.
    fn every_id() -> Vec<Bson> {
        let binary = |subtype| Bson::Binary(Binary { subtype, bytes: vec![0, 255, 7, 8] });
        vec![
            Bson::Null,
            Bson::MinKey,
            Bson::MaxKey,
            Bson::Undefined,
            Bson::Boolean(false),
            Bson::Int32(i32::MIN),
            Bson::Int64(1),
            Bson::Int64(i64::MAX),
            Bson::Double(1.0),
            Bson::Double(-0.0),
            Bson::Double(f64::INFINITY),
            Bson::Decimal128(Decimal128::from_str("1.10").unwrap()),
            Bson::String(String::new()),
            Bson::String("a\0b".to_owned()),
            Bson::Symbol("symbol".to_owned()),
            Bson::JavaScriptCode("f()".to_owned()),
            Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
                code: "f()".to_owned(),
                scope: doc! { "a": 1 },
            }),
            Bson::ObjectId(ObjectId::from_bytes([7; 12])),
            Bson::DateTime(DateTime::MIN),
            Bson::DateTime(DateTime::from_millis(-1)),
            Bson::Timestamp(Timestamp { time: u32::MAX, increment: 0 }),
            binary(BinarySubtype::Generic),
            binary(BinarySubtype::Uuid),
            binary(BinarySubtype::UserDefined(0x80)),
            Bson::Document(doc! {}),
            Bson::Document(doc! { "b": 1, "a": { "c": Bson::Null, "d": [1_i64, 1.0] } }),
            Bson::Document(doc! { "oid": "no extended JSON", "numberLong": "5", "date": 1 }),
        ]
    }

    #[test]
    fn a_journal_survives_storage_with_a_position_of_every_type() {
        let base = readable(&stored("0.7.0", &["initialise 0.7.0"]));
        let journal = Journal::begin("j".to_owned(), &upgrades().units()[0], &base, &writer());
        for after in every_id() {
            for position in [None, Some(Position { after: after.clone() })] {
                let advanced = base.journaled(journal.clone()).advanced(&writer(), |journal| {
                    journal.position = position.clone();
                    journal.pass = Pass::Late;
                    journal.command = Some(doc! { "uuid": after.clone() });
                    journal.step = 1;
                    journal.steps[0].done.documents = u64::from(u32::MAX) + 1;
                    journal.steps[0].done.counts.insert("pinned".to_owned(), 3);
                });
                let Move::Insert(document) = Move::between(None, &advanced, &names()).unwrap()
                else {
                    panic!("not an insert")
                };
                let Recorded::Readable(reread) = Recorded::parse(Some(&document)) else {
                    panic!("not readable: {after:?}")
                };
                assert_eq!(reread.journal, advanced.journal, "{after:?}");
                assert_eq!(reread.journal.as_ref().unwrap().seq, 1);
                assert!(reread.is_state(&advanced));
            }
        }
    }

    #[test]
    fn a_journal_keeps_what_the_authors_actions_say_whatever_their_types() {
        let base = readable(&stored("0.7.0", &["initialise 0.7.0"]));
        let journal = Journal::begin("j".to_owned(), &upgrades().units()[0], &base, &writer());
        for value in every_value() {
            let advanced = base.journaled(journal.clone()).advanced(&writer(), |journal| {
                let mut applied = applied(1);
                applied.actions[0].details = doc! { "value": value.clone() };
                journal.steps[0].done.actions = applied.actions;
            });
            let document = mongodb::bson::serialize_to_document(&advanced.journal).unwrap();
            let raw = RawDocumentBuf::try_from(&document).unwrap();
            assert_eq!(Journal::parse(&raw).ok(), advanced.journal, "{value:?}");
        }
    }

    #[test]
    fn a_first_record_is_inserted_whole() {
        let record = Record::begin(&version("0.8.0"), &upgrades(), &writer());
        let Move::Insert(document) = Move::between(None, &record, &names()).unwrap() else {
            panic!("not an insert")
        };
        let document = Document::try_from(&document).unwrap();
        assert_eq!(document.keys().collect::<Vec<_>>(), ["_id", "version", "history"]);
        assert_eq!(document.get_str("_id").unwrap(), "app_schema_version");
        assert!(readable(&document).is_state(&record));
    }

    #[track_caller]
    fn update(from: &Record, to: &Record) -> (Document, Document) {
        match Move::between(Some(from), to, &names()).unwrap() {
            Move::Update { filter, update } => (filter, update),
            Move::Insert(_) | Move::Replace { .. } => panic!("not an update"),
        }
    }

    #[test]
    fn an_entry_is_pushed_and_leaves_the_others_untouched() {
        let from = readable(&stored("0.8.0", &["initialise 0.7.0", "upgrade 0.8.0"]));
        let to = from.upgraded(&unit("0.9.0"), &writer(), &applied(1));
        let (filter, update) = update(&from, &to);
        assert_eq!(filter.get_str("_id").unwrap(), "app_schema_version");
        assert_eq!(filter.get_document("version").unwrap(), &doc! { "$eq": "0.8.0" });
        assert_eq!(filter.get_document("history").unwrap(), &doc! { "$size": 2_i64 });
        assert_eq!(filter.get_document("journal").unwrap(), &doc! { "$exists": false });
        assert_eq!(update.keys().collect::<Vec<_>>(), ["$push", "$set"]);
        assert_eq!(update.get_document("$set").unwrap(), &doc! { "version": "0.9.0" });
        let pushed = update.get_document("$push").unwrap().get_document("history").unwrap();
        let pushed = pushed.get_array("$each").unwrap();
        assert_eq!(pushed.len(), 1);
        assert_eq!(pushed[0].as_document().unwrap().get_str("version").unwrap(), "0.9.0");
    }

    #[test]
    fn the_same_version_once_more_sets_no_version() {
        let from = readable(&stored("0.8.0", &[]));
        let (filter, update) = update(&from, &from.stamped(&version("0.8.0"), &writer()));
        assert_eq!(filter.get_document("history.0").unwrap(), &doc! { "$exists": false });
        assert_eq!(update.keys().collect::<Vec<_>>(), ["$push"]);
    }

    #[test]
    fn a_record_that_stays_is_an_update_all_the_same() {
        let from = readable(&stored("0.8.0", &["stamp 0.8.0"]));
        let (_, update) = self::update(&from, &from);
        assert_eq!(update, doc! { "$set": { "version": "0.8.0" } });
    }

    #[test]
    fn a_capped_history_is_set_whole() {
        let entries = vec!["auto_stamp 0.8.0"; HISTORY_ENTRIES];
        let from = readable(&stored("0.8.0", &entries));
        let to = from.stamped(&version("0.9.0"), &writer());
        let (filter, update) = update(&from, &to);
        assert_eq!(filter.get_document("history").unwrap(), &doc! { "$size": 500_i64 });
        assert_eq!(update.keys().collect::<Vec<_>>(), ["$set"]);
        let set = update.get_document("$set").unwrap();
        assert_eq!(set.get_array("history").unwrap().len(), HISTORY_ENTRIES);
        assert_eq!(set.get_str("version").unwrap(), "0.9.0");
        // one fewer, and it is pushed
        let from = readable(&stored("0.8.0", &entries[1..]));
        let (_, update) = self::update(&from, &from.stamped(&version("0.9.0"), &writer()));
        assert!(update.contains_key("$push"));
    }

    #[test]
    fn two_states_of_a_capped_history_have_two_fences() {
        let from = readable(&stored("0.8.0", &vec!["auto_stamp 0.8.0"; HISTORY_ENTRIES]));
        let to = from.stamped(&version("0.8.0"), &writer());
        assert_eq!(from.history.len(), to.history.len());
        assert_ne!(from.fence(&names()), to.fence(&names()));
        assert!(!from.is_state(&to));
    }

    #[test]
    fn a_journal_is_set_and_at_last_unset_and_fences_by_its_place() {
        let from = readable(&stored("0.7.0", &["initialise 0.7.0"]));
        let journal = Journal::begin("j".to_owned(), &upgrades().units()[0], &from, &writer());
        let begun = from.journaled(journal);
        let (_, set) = update(&from, &begun);
        assert_eq!(set.keys().collect::<Vec<_>>(), ["$set"]);
        assert_eq!(set.get_document("$set").unwrap().keys().collect::<Vec<_>>(), ["journal"]);

        let on = begun.advanced(&Writer { run_id: "other".to_owned(), ..writer() }, |_| {});
        let (fence, _) = update(&begun, &on);
        assert_eq!(fence.get_str("journal.id").unwrap(), "j");
        assert_eq!(fence.get_i64("journal.seq").unwrap(), 0);
        assert_eq!(fence.get_str("journal.run_id").unwrap(), "run");
        assert!(!begun.is_state(&on));

        let (fence, done) = update(&on, &on.upgraded(&unit("0.8.0"), &writer(), &applied(1)));
        assert_eq!(fence.get_i64("journal.seq").unwrap(), 1);
        assert_eq!(fence.get_str("journal.run_id").unwrap(), "other");
        assert_eq!(done.get_document("$unset").unwrap(), &doc! { "journal": "" });
        assert!(done.contains_key("$push"));
    }

    fn size(record: &Record) -> usize {
        record.history.iter().map(|entry| entry.document.as_bytes().len()).sum()
    }

    #[test]
    fn capping_drops_stamps_first_and_keeps_the_oldest_and_the_newest() {
        let mut history = vec!["auto_stamp 0.1.0", "initialise 0.7.0", "upgrade 0.8.0"];
        history.resize(HISTORY_ENTRIES - 1, "auto_stamp 0.8.1");
        history.push("auto_stamp 0.8.2");
        let record = readable(&stored("0.8.2", &history)).stamped(&version("0.8.3"), &writer());
        let kept = texts(&record);
        assert_eq!(kept.len(), HISTORY_ENTRIES);
        assert_eq!(kept[..3], ["AutoStamp 0.1.0", "Initialise 0.7.0", "Upgrade 0.8.0"]);
        assert_eq!(kept[HISTORY_ENTRIES - 2..], ["AutoStamp 0.8.2", "AutoStamp 0.8.3"]);

        // any number from Python at once
        history.splice(3..3, vec!["auto_stamp 0.8.0.post1"; 10_000]);
        let record = readable(&stored("0.8.2", &history)).stamped(&version("0.8.3"), &writer());
        let kept = texts(&record);
        assert_eq!(kept.len(), HISTORY_ENTRIES);
        assert_eq!(kept[..3], ["AutoStamp 0.1.0", "Initialise 0.7.0", "Upgrade 0.8.0"]);
        assert_eq!(kept[HISTORY_ENTRIES - 1], "AutoStamp 0.8.3");
        assert_eq!(record.floor(), Some(version("0.8.0")));
    }

    #[test]
    fn capping_drops_sweeps_before_stamps() {
        let mut history = vec!["initialise 0.8.0", "auto_stamp 0.8.1"];
        history.resize(HISTORY_ENTRIES - 1, "sweep 0.8.1 floor 0.8.0");
        history.extend(["auto_stamp 0.8.2", "sweep 0.8.2 floor 0.8.0"]);
        let record = readable(&stored("0.8.2", &history)).stamped(&version("0.8.3"), &writer());
        let kept = texts(&record);
        assert_eq!(kept.len(), HISTORY_ENTRIES);
        assert_eq!(kept[..3], ["Initialise 0.8.0", "AutoStamp 0.8.1", "Sweep 0.8.1"]);
        assert_eq!(
            kept[HISTORY_ENTRIES - 3..],
            ["AutoStamp 0.8.2", "Sweep 0.8.2", "AutoStamp 0.8.3"]
        );
    }

    #[test]
    fn a_first_record_has_the_floor_of_its_table() {
        let floor = |upgrades: Upgrades, text: &str| {
            Record::begin(&version(text), &upgrades, &writer()).floor()
        };
        let oldest = || upgrades().reaching_from(Some(version("0.7.5")));
        assert_eq!(floor(oldest(), "0.8.5"), Some(version("0.8.0")));
        assert_eq!(floor(oldest(), "0.7.9"), Some(version("0.7.5")));
        assert_eq!(floor(oldest(), "0.7.0"), None);
        assert_eq!(floor(upgrades(), "0.7.9"), None);
    }

    #[test]
    fn an_upgrades_entry_names_what_was_applied() {
        let record = Record::begin(&version("0.7.0"), &upgrades(), &writer());
        assert_eq!(record.history[0].applied_names(), None);
        let record = record.upgraded(&unit("0.8.0"), &writer(), &applied(1));
        assert_eq!(record.history[1].applied_names(), Some(vec!["drop it"]));
        // a later gate may say more of each, and what is of another shape says nothing
        let mut entry = entry("upgrade 0.8.0 floor 0.8.0");
        entry.insert("upgrades", vec![doc! { "name": "a", "sha256": "0" }]);
        let named = |entry: &Document| {
            readable(&doc! { "version": "0.8.0", "history": [entry.clone()] }).history[0]
                .applied_names()
                .map(|names| names.len())
        };
        assert_eq!(named(&entry), Some(1));
        entry.insert("upgrades", vec!["a"]);
        assert_eq!(named(&entry), None);
    }

    #[test]
    fn a_stamp_that_is_to_follow_is_stored_with_the_version_and_fences() {
        let names = Names {
            stamp: Some(Place {
                collection: "settings".to_owned(),
                field: "version".to_owned(),
                code_version: "0.9.0".to_owned(),
            }),
            ..names()
        };
        let from = readable(&stored("0.8.0", &["initialise 0.8.0"]));
        let stamping = Stamping { from: Some("0.8.0".to_owned()), to: "0.9.0".to_owned() };
        let moved =
            from.stamped(&version("0.9.0"), &writer()).stamping_along(Some(stamping.clone()));
        let change =
            |from: &Record, to: &Record| match Move::between(Some(from), to, &names).unwrap() {
                Move::Update { filter, update } => (filter, update),
                Move::Insert(_) | Move::Replace { .. } => panic!("not an update"),
            };
        let (fence, update) = change(&from, &moved);
        assert_eq!(fence.get_document("stamping").unwrap(), &doc! { "$exists": false });
        let set = update.get_document("$set").unwrap();
        assert_eq!(set.get_document("stamping").unwrap(), &doc! { "from": "0.8.0", "to": "0.9.0" });
        let (fence, update) = change(&moved, &moved.stamping_along(None));
        assert_eq!(fence.get_str("stamping.to").unwrap(), "0.9.0");
        assert_eq!(update, doc! { "$unset": { "stamping": "" } });
        assert!(!moved.is_state(&moved.stamping_along(None)));
        // it is read again, and whatever moves the version on ends it
        let mut document = stored("0.9.0", &["initialise 0.8.0", "auto_stamp 0.9.0"]);
        document.insert("stamping", doc! { "from": "0.8.0", "to": "0.9.0" });
        let reread = readable(&document);
        assert_eq!(reread.stamping(), Some(&stamping));
        assert_eq!(reread.stamped(&version("0.9.1"), &writer()).stamping(), None);
        document.insert("version", "0.9.1");
        assert_eq!(readable(&document).stamping(), None);
        document.insert("stamping", 1);
        assert!(unreadable(&document).reason.contains("its stamping"));
    }

    #[test]
    fn capping_then_drops_what_came_before_the_newest_initialise() {
        let mut history = vec!["upgrade 0.1.0"; 400];
        history.push("initialise 0.7.0");
        history.extend(vec!["upgrade 0.8.0"; 100]);
        let record = readable(&stored("0.8.0", &history)).stamped(&version("0.8.3"), &writer());
        let kept = texts(&record);
        assert_eq!(kept.len(), HISTORY_ENTRIES);
        assert_eq!(kept[0], "Upgrade 0.1.0");
        assert_eq!(kept.iter().filter(|text| **text == "Upgrade 0.8.0").count(), 100);
        assert_eq!(kept.iter().filter(|text| **text == "Initialise 0.7.0").count(), 1);
        assert_eq!(kept.last().unwrap(), "AutoStamp 0.8.3");
    }

    #[test]
    fn capping_never_drops_what_tells_the_floor_or_a_disagreement() {
        // no word of an operator, and more upgrades than are kept: each was applied
        let versions: Vec<String> = (0..700).map(|n| format!("upgrade 0.{n}.0")).collect();
        let mut history = vec!["auto_stamp 0.0.0"];
        history.extend(versions.iter().map(String::as_str));
        let record = readable(&stored("0.699.0", &history));
        let after = record.stamped(&version("0.700.0"), &writer());
        assert_eq!(texts(&after)[..701], texts(&record));
        assert_eq!(after.floor(), record.floor());
    }

    #[test]
    fn a_history_is_bounded_in_bytes_by_what_the_oldest_upgrades_did() {
        let mut record = Record::begin(&version("0.0.0"), &upgrades(), &writer());
        let mut largest = 0;
        for n in 1..=60 {
            let next = version(&format!("0.{n}.0"));
            record = record.upgraded(&unit(&next.to_string()), &writer(), &applied(100_000));
            largest = largest.max(size(&record));
            assert_eq!(record.history.len(), n + 1);
            assert_eq!(record.floor(), Some(next));
        }
        assert!(largest <= HISTORY_BYTES, "{largest}");
        assert!(size(&record) > HISTORY_BYTES / 2, "no more is forgotten than must be");
        let newest = Document::try_from(&record.history[60].document).unwrap();
        assert_eq!(newest.get_array("actions").unwrap().len(), 1);
        let oldest = Document::try_from(&record.history[1].document).unwrap();
        assert!(!oldest.contains_key("actions"));
        assert_eq!(oldest.get_str("action").unwrap(), "upgrade");
        assert_eq!(oldest.get_i64("duration_ms").unwrap(), 1);
        let reread = Move::between(None, &record, &names()).unwrap();
        let Move::Insert(document) = reread else { panic!("not an insert") };
        assert_eq!(Recorded::parse(Some(&document)), Recorded::Readable(record));
    }

    #[test]
    fn what_python_wrote_is_not_shortened() {
        let mut large = entry("upgrade 0.8.0");
        large.insert("actions", "x".repeat(HISTORY_BYTES));
        let document = doc! { "version": "0.8.0", "history": [large.clone()] };
        let record = readable(&document).upgraded(&unit("0.9.0"), &writer(), &applied(1));
        assert_eq!(Document::try_from(&record.history[0].document).unwrap(), large);
    }

    #[test]
    fn actions_that_are_no_bson_leave_the_entry_whole_without_them() {
        let mut applied = applied(1);
        applied.actions[0].details = doc! { "a\0b": 1 };
        let record = Record::begin(&version("0.7.0"), &upgrades(), &writer());
        let record = record.upgraded(&unit("0.8.0"), &writer(), &applied);
        let newest = Document::try_from(&record.history[1].document).unwrap();
        assert_eq!(newest.get_str("version").unwrap(), "0.8.0");
        assert!(!newest.contains_key("actions"));
    }

    #[test]
    fn late_documents_are_added_to_the_newest_entry() {
        let record = Record::begin(&version("0.7.0"), &upgrades(), &writer());
        let record = record.upgraded(&unit("0.8.0"), &writer(), &applied(1));
        let late = record.found_late(2).found_late(3);
        let newest = Document::try_from(&late.history[1].document).unwrap();
        assert_eq!(newest.get_i64("late").unwrap(), 5);
        assert_eq!(late.history[0], record.history[0]);
        let (_, update) = update(&record, &late);
        assert!(update.get_document("$set").unwrap().contains_key("history"));
    }

    #[test]
    fn a_repair_starts_from_exactly_what_is_stored_and_keeps_it() {
        let mut stored = stored("latest", &["initialise 0.7.0", "upgrade 0.8.0"]);
        stored.get_array_mut("history").unwrap().push(Bson::Int32(7));
        stored.insert("journal", doc! { "odd": true });
        stored.insert("another field", 1);
        let raw = RawDocumentBuf::try_from(&stored).unwrap();
        let change =
            Move::repair(&raw, &version("0.8.0"), &upgrades(), &writer(), &names()).unwrap();
        let Move::Update { filter, update } = change else { panic!("an insert") };
        let same = doc! { "$cmp": ["$$ROOT", { "$literal": stored.clone() }] };
        assert_eq!(filter.get_document("$expr").unwrap(), &doc! { "$eq": [same, 0] });
        assert_eq!(update.get_document("$unset").unwrap(), &doc! { "journal": "" });
        let set = update.get_document("$set").unwrap();
        assert_eq!(set.keys().collect::<Vec<_>>(), ["version", "history"]);
        let history = set.get_array("history").unwrap();
        assert_eq!(history[..2], stored.get_array("history").unwrap()[..2]);
        let newest = history[2].as_document().unwrap();
        assert_eq!(newest.get_str("action").unwrap(), "initialise");
        assert!(newest.get_bool("repair").unwrap());
        assert_eq!(newest.get_str("replaced").unwrap(), "latest");
        assert_eq!(newest.get_str("floor").unwrap(), "0.8.0");
        assert_eq!(newest.get_document("journal").unwrap(), &doc! { "odd": true });
        assert_eq!(newest.get_array("unreadable_history").unwrap(), &[Bson::Int32(7)]);
    }

    #[test]
    fn an_entry_with_an_array_of_any_length_is_read() {
        let mut history = RawArrayBuf::new();
        for _ in 0..10_000 {
            history.push(rawdoc! { "version": "0.8.0", "action": "auto_stamp" });
        }
        let document = rawdoc! { "version": "0.8.0", "history": history };
        let Recorded::Readable(record) = Recorded::parse(Some(&document)) else {
            panic!("not readable")
        };
        assert_eq!(record.history.len(), 10_000);
    }
}
