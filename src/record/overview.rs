//! All that is stored of a database's version, for people: read as far as the bytes tell, so that nothing in it keeps
//! the rest from being shown.

use mongodb::bson::{DateTime, Document, RawDocument, RawDocumentBuf};

use crate::process::status::{
    HistoryEntry, LockStatus, StepState, StepStatus, StoppedWorkload, UnfinishedStatus,
};
use crate::record::document::{Record, Recorded};
use crate::record::journal::{Journal, JournalStep};
use crate::record::lock::{self, LOCK_ID};
use crate::record::remembered::{self, Remembered};
use crate::record::store::Store;
use crate::record::stored::{as_text, named};
use crate::record::{names::Names, raw};
use crate::server::stop::RunError;

/// The gate's own documents of one moment, as they are stored.
#[derive(Debug, Default)]
pub(crate) struct Overview {
    record: Option<RawDocumentBuf>,
    lock: Option<(RawDocumentBuf, DateTime)>,
    stopped: Option<RawDocumentBuf>,
}

impl Store {
    /// Reads the gate's own documents in one query: majority-committed, from the primary, with the server's clock.
    pub(crate) async fn overview(&self) -> Result<Overview, RunError> {
        let stopped = remembered::id(&self.names.record);
        let mut overview = Overview::default();
        for (document, now) in self.own_documents(&[&self.names.record, LOCK_ID, &stopped]).await? {
            match document.get_str("_id") {
                Ok(LOCK_ID) => overview.lock = Some((document, now)),
                Ok(id) if id == stopped => overview.stopped = Some(document),
                _ => overview.record = Some(document),
            }
        }
        Ok(overview)
    }
}

impl Overview {
    /// The record, as decisions read it.
    pub(crate) fn recorded(&self) -> Recorded {
        Recorded::parse(self.record.as_deref())
    }

    /// Who has the lock; nobody where something else has its name.
    pub(crate) fn lock(&self) -> Option<LockStatus> {
        let (document, now) = self.lock.as_ref()?;
        if lock::is_no_lock(document) {
            return None;
        }
        let left = document.get_datetime("expires").ok();
        let left = left.map(|expires| expires.timestamp_millis() - now.timestamp_millis());
        Some(LockStatus {
            run_id: text(document, "run_id").unwrap_or_else(unknown),
            host: text(document, "host").unwrap_or_else(unknown),
            acquired: time(document, "acquired"),
            alive: lock::live_holder(document, *now).is_some(),
            lease_ms: left,
        })
    }

    /// The workloads that were stopped and not given back yet, or why that cannot be read.
    pub(crate) fn workloads(&self) -> Result<Vec<StoppedWorkload>, String> {
        let Some(document) = &self.stopped else { return Ok(vec![]) };
        let remembered: Remembered = mongodb::bson::deserialize_from_slice(document.as_bytes())
            .map_err(|error| error.to_string())?;
        let workload = |entry: remembered::Entry| StoppedWorkload {
            namespace: entry.namespace,
            name: entry.name,
            replicas: entry.replicas,
            version: entry.version,
            stopped: entry.at.try_to_rfc3339_string().ok(),
            run_id: entry.run_id,
        };
        Ok(remembered.workloads.into_iter().map(workload).collect())
    }

    /// The history, newest entry first; also that of a record that cannot be read, as far as it is there.
    pub(crate) fn history(&self, names: &Names) -> Vec<HistoryEntry> {
        let Some(record) = &self.record else { return vec![] };
        let histories = named(record, "history");
        let arrays = histories.iter().filter(|history| history.kind == raw::ARRAY);
        let entries = arrays.flat_map(|array| raw::elements(array.value).unwrap_or_default());
        let mut history: Vec<HistoryEntry> = entries
            .map(|entry| match entry.document() {
                Some(document) => history_entry(document, names),
                None => {
                    HistoryEntry { version: unknown(), action: unknown(), ..Default::default() }
                }
            })
            .collect();
        history.reverse();
        history
    }
}

/// The unfinished upgrade of a record, and how far it is.
pub(crate) fn unfinished(record: &Record) -> Option<UnfinishedStatus> {
    let journal = record.journal.as_ref()?;
    let steps = journal.steps.iter().enumerate();
    Some(UnfinishedStatus {
        version: journal.version.clone(),
        journal: journal.id.clone(),
        code_version: journal.code_version.clone(),
        started: journal.started.try_to_rfc3339_string().ok(),
        run_id: journal.run_id.clone(),
        host: journal.host.clone(),
        steps: steps.map(|(at, step)| step_status(journal, at, step)).collect(),
    })
}

fn step_status(journal: &Journal, at: usize, step: &JournalStep) -> StepStatus {
    let state = match at.cmp(&journal.step) {
        std::cmp::Ordering::Less => StepState::Done,
        std::cmp::Ordering::Equal => StepState::UnderWay,
        std::cmp::Ordering::Greater => StepState::Waiting,
    };
    let (name, documents, total) = (step.name.clone(), step.done.documents, step.total);
    StepStatus { name, state, documents, total }
}

fn history_entry(document: &RawDocument, names: &Names) -> HistoryEntry {
    let number = |name: &str| {
        let number = document.get_i64(name).or_else(|_| document.get_i32(name).map(i64::from));
        number.ok().and_then(|number| u64::try_from(number).ok())
    };
    let upgrades = document.get_array("upgrades").map(|upgrades| {
        let named = upgrades.into_iter().filter_map(|it| text(it.ok()?.as_document()?, "name"));
        named.collect()
    });
    let actions = document.get_array("actions").map(|actions| {
        let stored = actions.into_iter();
        stored.filter_map(|it| Document::try_from(it.ok()?.as_document()?).ok()).collect()
    });
    HistoryEntry {
        version: text(document, "version").unwrap_or_else(unknown),
        action: text(document, "action").unwrap_or_else(unknown),
        timestamp: time(document, "timestamp"),
        code_version: text(document, &names.code_version),
        floor: text(document, "floor"),
        upgrades: upgrades.unwrap_or_default(),
        actions: actions.unwrap_or_default(),
        late: number("late"),
        duration_ms: number("duration_ms"),
        run_id: text(document, "run_id"),
        host: text(document, "host"),
        replaced: text(document, "replaced"),
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

/// A field as text; `None` if it is missing or null.
fn text(document: &RawDocument, name: &str) -> Option<String> {
    let fields = named(document, name);
    let field = fields.first().filter(|field| field.kind != raw::NULL)?;
    Some(as_text(field))
}

fn time(document: &RawDocument, name: &str) -> Option<String> {
    match document.get_datetime(name) {
        Ok(time) => time.try_to_rfc3339_string().ok(),
        Err(_) => text(document, name),
    }
}
