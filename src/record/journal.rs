//! The journal in the record: an unfinished upgrade, and how far it is.

use std::collections::BTreeMap;

use mongodb::bson::{Bson, DateTime, Document, RawDocument};
use serde::{Deserialize, Serialize};

use crate::authoring::step::Step;
use crate::authoring::table::VersionUpgrade;
use crate::process::action::UpgradeAction;
use crate::record::history::Writer;
use crate::version::Version;

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
    /// When the run that began it started: the time that the author's code sees, in every run.
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
    /// Documents changed by the sweep.
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
    /// The sweep: for what old code wrote meanwhile.
    Late,
}

/// What follows a pass of a transform.
pub(crate) struct Passes {
    pub(crate) sweeps: bool,
    pub(crate) inserts_into_itself: bool,
    /// How many documents the pass changed so far.
    pub(crate) changed: u64,
}

/// A place in a collection, by `_id`; wrapped in a document, because an `_id` may be null.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// The last `_id` that was dealt with.
    pub after: Bson,
}

impl Journal {
    pub(super) fn parse(document: &RawDocument) -> Result<Self, String> {
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

    /// The journal of a version about to be applied in batches.
    pub(crate) fn begin(
        id: String,
        upgrade: &VersionUpgrade,
        from: JournalFrom,
        writer: &Writer,
    ) -> Self {
        Journal {
            id,
            version: upgrade.version.to_string(),
            code_version: writer.code_version.clone(),
            started: DateTime::now(),
            run_started: Some(upgrade.started()),
            from,
            seq: 0,
            run_id: writer.run_id.clone(),
            host: writer.host.clone(),
            steps: steps_of(upgrade)
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

    /// Counts what a part of the step under way did.
    pub(crate) fn count(&mut self, done: &Done) {
        let late = if self.pass == Pass::Late { done.documents } else { 0 };
        if let Some(step) = self.steps.get_mut(self.step) {
            step.done.add(&Done { late, ..done.clone() });
        }
    }

    /// Counts what was done of a step, whether it is under way or finished, after its documents had been dealt with.
    pub(crate) fn count_late(&mut self, step: usize, done: &Done) {
        if let Some(step) = self.steps.get_mut(step) {
            step.done.add(&Done { late: done.documents, ..done.clone() });
        }
    }

    /// Counts a batch and moves on: to its end, to the next pass, or to the next step.
    pub(crate) fn advance(&mut self, done: &Done, last: Option<Bson>, passes: &Passes) {
        self.count(done);
        self.position = last.map(|after| Position { after });
        if self.position.is_none() {
            match self.pass {
                Pass::First if passes.sweeps => self.pass = Pass::Late,
                // what it added to its own collection may be behind it
                Pass::Late if passes.inserts_into_itself && passes.changed + done.documents > 0 => {
                }
                _ => self.next_step(),
            }
        }
    }

    /// Counts what the step under way did, and goes on to the next one.
    pub(crate) fn finish_step(&mut self, done: &Done) {
        if let Some(step) = self.steps.get_mut(self.step) {
            step.done.add(done);
        }
        self.next_step();
    }

    fn next_step(&mut self) {
        self.step += 1;
        self.pass = Pass::First;
        self.position = None;
        self.command = None;
    }

    /// The time that the author's code sees.
    pub(crate) fn run_started(&self) -> DateTime {
        self.run_started.unwrap_or(self.started)
    }

    /// The first step in which `upgrade` differs from the journal: its number, and its name in each.
    pub(crate) fn first_difference(
        &self,
        upgrade: &VersionUpgrade,
    ) -> Option<(usize, [String; 2])> {
        let (steps, none) = (steps_of(upgrade), || "none".to_owned());
        (0..steps.len().max(self.steps.len())).find_map(|at| {
            let own = self.steps.get(at).map(|step| (step.name.as_str(), step.kind.as_str()));
            let other = steps.get(at).map(|(name, kind)| (name.as_str(), *kind));
            let quoted = |step: Option<(&str, &str)>| {
                step.map_or_else(none, |(name, kind)| format!("\"{name}\" ({kind})"))
            };
            (own != other).then(|| (at + 1, [quoted(own), quoted(other)]))
        })
    }

    /// Whether `upgrade` has exactly the steps that the journal names.
    pub(crate) fn belongs_to(&self, upgrade: &VersionUpgrade) -> bool {
        let steps = steps_of(upgrade);
        steps.len() == self.steps.len()
            && steps
                .iter()
                .zip(&self.steps)
                .all(|((name, kind), j)| *name == j.name && *kind == j.kind)
    }

    /// Whether the journaled upgrade began from this state.
    pub(crate) fn began_from(&self, state: &JournalFrom) -> bool {
        self.from == *state
    }
}

fn steps_of(upgrade: &VersionUpgrade) -> Vec<(String, &'static str)> {
    upgrade.steps().map(|step: &Step| (step.name(), step.kind())).collect()
}
