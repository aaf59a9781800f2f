//! What mode `status` says of a database, as a part of the report.

use mongodb::bson::Document;
use serde::Serialize;

use crate::visible::cut;

/// All that is stored of a database's version, and what mode `check` would make of it.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// What mode `check` would say with the same settings.
    pub check: Verdict,
    /// The recorded version, as it is stored.
    pub recorded: Option<String>,
    /// Why the record cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
    /// The oldest code that can use the data, where the record states one.
    pub floor: Option<String>,
    /// What the application itself keeps of its version, where it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stamp: Option<StampStatus>,
    /// The upgrades between the recorded version and the code's.
    pub pending: Vec<PendingUpgrade>,
    /// The upgrade that is unfinished.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<UnfinishedStatus>,
    /// The lock, if a run has it, or died with it.
    pub lock: Option<LockStatus>,
    /// The workloads that runs stopped and that were not given back yet.
    pub workloads: Vec<StoppedWorkload>,
    /// How many entries the history has.
    pub history_entries: usize,
    /// The entries, newest first.
    pub history: Vec<HistoryEntry>,
}

/// What mode `check` would say.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Verdict {
    /// Its exit status.
    pub exit_code: u8,
    /// The same in a word.
    pub outcome: String,
    /// Why.
    pub message: String,
    /// What to do next, where it is closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The version that the application keeps itself.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct StampStatus {
    /// The field and its collection.
    pub place: String,
    /// The version, if there is one that can be read.
    pub version: Option<String>,
}

/// An upgrade that is pending.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PendingUpgrade {
    /// Its version.
    pub version: String,
    /// What it does, in a line.
    pub description: String,
}

/// An unfinished upgrade, and how far it is.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct UnfinishedStatus {
    /// Its version.
    pub version: String,
    /// The id of its journal.
    pub journal: String,
    /// The version of the code that began it.
    pub code_version: String,
    /// When that was.
    pub started: Option<String>,
    /// The run that wrote last.
    pub run_id: String,
    /// The host of that run.
    pub host: String,
    /// Its steps, in order.
    pub steps: Vec<StepStatus>,
}

/// One step of an unfinished upgrade.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct StepStatus {
    /// Its name.
    pub name: String,
    /// How far it is.
    pub state: StepState,
    /// How many documents it has changed.
    pub documents: u64,
    /// How many it was to change, as far as that was known before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

/// How far a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StepState {
    /// It is finished.
    Done,
    /// It is the one under way.
    UnderWay,
    /// It has not begun.
    Waiting,
}

/// Who has the lock.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct LockStatus {
    /// The run.
    pub run_id: String,
    /// Its host.
    pub host: String,
    /// When the run took it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acquired: Option<String>,
    /// Whether the lease is alive by the server's clock; else the next run takes the lock over.
    pub alive: bool,
    /// How long the lease lasts, in milliseconds; below 0 for how long it has been over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<i64>,
}

/// A workload that a run stopped and that was not given back yet.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct StoppedWorkload {
    /// Its namespace.
    pub namespace: String,
    /// Its name, as in `deployment/web`.
    pub name: String,
    /// How many pods it had.
    pub replicas: u32,
    /// The recorded version of that moment.
    pub version: Option<String>,
    /// When it was stopped.
    pub stopped: Option<String>,
    /// The run that stopped it.
    pub run_id: String,
}

/// One entry of the history. What other programs wrote may lack most of it.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct HistoryEntry {
    /// The version that was reached, as it is stored.
    pub version: String,
    /// How it was reached.
    pub action: String,
    /// When.
    pub timestamp: Option<String>,
    /// The version of the code that wrote the entry.
    pub code_version: Option<String>,
    /// The floor that the entry states.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<String>,
    /// What was applied.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub upgrades: Vec<String>,
    /// What that did, as it is stored: other code may know other kinds of actions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<Document>,
    /// How many documents were found after the last write, because old code had written them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late: Option<u64>,
    /// How long it took, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// The run that did it.
    pub run_id: Option<String>,
    /// The host of that run.
    pub host: Option<String>,
    /// The stored value that mode `record` replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced: Option<String>,
}

impl Status {
    /// The most entries of history that a short report has, by how short it is to be.
    const KEPT: [usize; 3] = [20, 5, 1];

    /// Leaves out what matters less, from stage to stage; false where nothing is left to leave out.
    pub(super) fn shorten(&mut self, stage: usize) -> bool {
        let Some(kept) = Self::KEPT.get(stage) else { return false };
        for entry in &mut self.history {
            entry.actions.clear();
        }
        self.history.truncate(*kept);
        true
    }

    /// Leaves out all but what mode `check` would say.
    pub(super) fn keep_verdict(&mut self) {
        *self = Status { check: self.check.clone(), ..Status::default() };
    }

    /// Cuts every text that may be long, the fewer bytes the greater `share` is.
    pub(super) fn cut(&mut self, share: usize) {
        self.history.clear();
        self.pending.truncate(8 / share);
        self.workloads.truncate(8 / share);
        cut(&mut self.check.message, 800 / share);
        self.check.next.iter_mut().for_each(|next| cut(next, 600 / share));
        self.unreadable.iter_mut().for_each(|reason| cut(reason, 200 / share));
        if let Some(unfinished) = &mut self.unfinished {
            let steps = &mut unfinished.steps;
            // the one under way says most
            steps.retain(|step| step.state == StepState::UnderWay);
            steps.truncate(1);
        }
        let pending = self.pending.iter_mut();
        let names = [&mut self.recorded, &mut self.floor].into_iter().flatten();
        names
            .chain(pending.flat_map(|it| [&mut it.version, &mut it.description]))
            .chain(self.workloads.iter_mut().flat_map(StoppedWorkload::texts))
            .chain(self.lock.iter_mut().flat_map(LockStatus::texts))
            .chain(self.unfinished.iter_mut().flat_map(UnfinishedStatus::texts))
            .chain(self.stamp.iter_mut().flat_map(StampStatus::texts))
            .for_each(|text| cut(text, 100 / share));
    }
}

impl StoppedWorkload {
    fn texts(&mut self) -> impl Iterator<Item = &mut String> {
        let StoppedWorkload { namespace, name, version, run_id, .. } = self;
        [namespace, name, run_id].into_iter().chain(version)
    }
}

impl LockStatus {
    fn texts(&mut self) -> impl Iterator<Item = &mut String> {
        let LockStatus { run_id, host, acquired, .. } = self;
        [run_id, host].into_iter().chain(acquired)
    }
}

impl UnfinishedStatus {
    fn texts(&mut self) -> impl Iterator<Item = &mut String> {
        let UnfinishedStatus { version, journal, code_version, run_id, host, steps, .. } = self;
        let names = steps.iter_mut().map(|step| &mut step.name);
        [version, journal, code_version, run_id, host].into_iter().chain(names)
    }
}

impl StampStatus {
    fn texts(&mut self) -> impl Iterator<Item = &mut String> {
        [&mut self.place].into_iter().chain(&mut self.version)
    }
}
