//! The history in the record: its entries, and what of them is kept.

use std::ops::Deref;
use std::sync::Arc;

use mongodb::bson::{Bson, DateTime, Document, RawBsonRef, RawDocument, RawDocumentBuf, doc};

use crate::process::action::UpgradeAction;
use crate::record::raw::{self, Builder};
use crate::record::stored::{ambiguous, stored_version};
use crate::version::Version;

/// How many entries of history are kept, where entries can be dropped.
pub(super) const HISTORY_ENTRIES: usize = 500;

/// How many bytes of history are kept, where entries can be dropped.
pub(super) const HISTORY_BYTES: usize = 2 * 1024 * 1024;

/// Entries of a history. Its clones share them: a record that other code wrote may hold very many.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History(pub(super) Arc<Vec<Entry>>);

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
    pub(super) floor: EntryFloor,
    pub(super) document: RawDocumentBuf,
}

/// How an entry's version was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// By the operator's declaration.
    Initialise,
    /// By an upgrade.
    Upgrade,
    /// Because nothing had to be done.
    AutoStamp,
    /// The version did not change: documents of the old shape, written since by old code, were upgraded.
    Sweep,
    /// Something that this code does not know; it says nothing about the documents.
    Other,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum EntryFloor {
    /// The entry has no floor: Python wrote it.
    Unstated,
    /// The gate wrote the entry and stated the floor, or that there is none.
    Stated(Option<Version>),
}

impl Entry {
    pub(super) fn parse(document: &RawDocument) -> Result<Self, String> {
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

    pub(super) fn new(
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

    /// The digest of an upgrade that was applied as this file, where the entry states it.
    pub(crate) fn applied_sha256(&self, file: &str) -> Option<&str> {
        let upgrades = self.document.get_array("upgrades").ok()?;
        upgrades.into_iter().find_map(|upgrade| {
            let upgrade = upgrade.ok()?.as_document()?;
            let is_it = upgrade.get_str("name").is_ok_and(|name| name == file);
            upgrade.get_str("sha256").ok().filter(|_| is_it)
        })
    }

    /// The name of the file that was applied with this digest.
    pub(crate) fn applied_as(&self, sha256: &str) -> Option<&str> {
        let upgrades = self.document.get_array("upgrades").ok()?;
        upgrades.into_iter().find_map(|upgrade| {
            let upgrade = upgrade.ok()?.as_document()?;
            let is_it = upgrade.get_str("sha256").is_ok_and(|applied| applied == sha256);
            upgrade.get_str("name").ok().filter(|_| is_it)
        })
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

pub(super) fn action_document(action: &UpgradeAction) -> Document {
    doc! {
        "description": &action.description,
        "collection": &action.collection,
        "action_type": action.action_type.as_str(),
        "details": action.details.clone(),
    }
}

/// What history can spare.
#[derive(Clone, Copy)]
enum Droppable {
    Sweeps,
    Stamps,
    BeforeNewestInitialise,
}

/// Drops what history can spare, so that the record never nears the server's limit: first sweeps, then
/// stamps, then what came before the newest initialisation, always keeping the oldest and the newest entry; and where
/// that is not enough, what the oldest upgrades did.
pub(super) fn capped(history: &[Entry], newest: &Entry) -> History {
    let all: Vec<&Entry> = history.iter().chain([newest]).collect();
    let mut bytes: usize = all.iter().map(|entry| entry.document.as_bytes().len()).sum();
    let mut entries = all.len();
    let last = all.len() - 1;
    let newest_initialise =
        all.iter().rposition(|entry| entry.action == Action::Initialise).unwrap_or_default();
    let mut keep = vec![true; all.len()];
    for spare in [Droppable::Sweeps, Droppable::Stamps, Droppable::BeforeNewestInitialise] {
        for (i, entry) in all.iter().enumerate() {
            if entries <= HISTORY_ENTRIES && bytes <= HISTORY_BYTES {
                break;
            }
            let spared = match spare {
                Droppable::Sweeps => i < last && entry.action == Action::Sweep,
                Droppable::Stamps => i < last && entry.action == Action::AutoStamp,
                Droppable::BeforeNewestInitialise => i < newest_initialise,
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
