//! The report: what a run says at its end, as one JSON object.

use serde::Serialize;

use crate::process::action::UpgradeAction;
use crate::process::exit::Outcome;
use crate::process::mistake::Mistake;
use crate::process::status::Status;
use crate::visible::{self, cut};

/// What Kubernetes keeps of a container's termination message, in bytes.
const TERMINATION_MESSAGE: usize = 4096;

/// The mode of a run that only checked files of upgrades.
pub(crate) const VALIDATE: &str = "validate";

/// The argument that runs the tests of upgrades, as a report's mode.
pub(crate) const TEST: &str = "test";

/// What a run did and how it ended.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The application.
    pub app: String,
    /// The mode of the run.
    pub mode: String,
    /// How it ended, in a word.
    pub outcome: String,
    /// The process's exit status.
    pub exit_code: u8,
    /// What is the matter, or why the gate is open.
    pub message: String,
    /// For a closed gate: what to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The database.
    pub database: Option<String>,
    /// The version of the code.
    pub code_version: String,
    /// The recorded version before the run, as it was stored.
    pub from: Option<String>,
    /// The recorded version after the run, as a majority of the server has it. Where a version is in
    /// doubt, it is the last one that is known.
    pub to: Option<String>,
    /// The version whose commit was sent but not confirmed, so that its outcome is unknown. It is neither among the
    /// applied versions nor among those that remain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_doubt: Option<String>,
    /// Each version that was applied, or would be, in order.
    pub upgrades: Vec<UpgradeReport>,
    /// In mode `sweep`: how many documents were changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swept: Option<u64>,
    /// In mode `sweep`: the steps that were not run once more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_swept: Vec<NotSwept>,
    /// The versions whose upgrades remain.
    pub remaining: Vec<String>,
    /// The upgrade that is unfinished.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<Unfinished>,
    /// In mode `status`: what is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Box<Status>>,
    /// The workloads that were stopped or started.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub workloads: Vec<WorkloadReport>,
    /// In mode `validate`: what is wrong in the files of upgrades, or odd.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mistakes: Vec<Mistake>,
    /// What the operator should know all the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The run, as it signs history, journal and lock.
    pub run_id: String,
    /// The host it ran on.
    pub host: String,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// What a report says of one version.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct UpgradeReport {
    /// The version.
    pub version: String,
    /// What its upgrades do, in a line.
    pub description: String,
    /// Whether they were applied.
    pub state: UpgradeState,
    /// What they did, or would do.
    pub actions: Vec<UpgradeAction>,
    /// Whether the counts are those that a run reports on the same data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<bool>,
    /// Of a plan: the earlier version that this one depends on, so that not all of its preflight could be done
    /// yet; its preflight comes after that one, and before its own first write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preflight_after: Option<String>,
    /// Of a plan: the steps whose preflight comes later, because earlier steps of the same version change what
    /// they read; each has its preflight before its own first write.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preflight_later: Vec<String>,
    /// Documents that old code had written in the meantime, found and changed after the last write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late: Option<u64>,
    /// How long it took, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
}

impl UpgradeReport {
    pub(crate) fn new(
        version: String,
        description: String,
        state: UpgradeState,
        actions: Vec<UpgradeAction>,
    ) -> Self {
        UpgradeReport {
            version,
            description,
            state,
            actions,
            exact: None,
            preflight_after: None,
            preflight_later: vec![],
            late: None,
            duration_ms: None,
        }
    }
}

/// Whether a version's upgrades were applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum UpgradeState {
    /// Nothing of them is in the database yet.
    Planned,
    /// They are in the database, with the record.
    Applied,
    /// They were in the database before, and their convergent steps were run once more.
    Swept,
}

/// What a report says of a step that mode `sweep` does not run.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct NotSwept {
    /// The version of its upgrade.
    pub version: String,
    /// The step.
    pub step: String,
    /// The collections that it writes to.
    pub collection: String,
    /// Why it is not run.
    pub reason: String,
}

/// What a report says of an unfinished upgrade.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Unfinished {
    /// The version.
    pub version: String,
    /// The id of its journal.
    pub journal: String,
    /// The step that is under way.
    pub step: String,
    /// Documents changed so far.
    pub documents: u64,
}

/// What a report says of a workload that was stopped or started.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct WorkloadReport {
    /// What its users call it.
    pub name: String,
    /// How many pods it had, or has again.
    pub replicas: u32,
    /// How far it came.
    pub state: WorkloadState,
}

/// How a workload was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WorkloadState {
    /// It was stopped, and stays so for what comes next.
    Stopped,
    /// It was started again, because nothing was committed.
    Restored,
    /// It should have been started, and could not be.
    NotRestored,
    /// It was started after the upgrade.
    Resumed,
}

impl Report {
    pub(crate) fn end(&mut self, outcome: Outcome, message: String, next: Option<String>) {
        self.outcome = outcome.to_string();
        self.exit_code = outcome.code();
        self.message = message;
        self.next = next;
    }

    /// What a run that may have written has left in the database, for its final message.
    pub(crate) fn standing(&self) -> String {
        match self.swept {
            Some(0) => return String::new(),
            Some(n) => return format!("{n} document(s) swept before that stay so"),
            None => {}
        }
        let applied: Vec<&str> = self
            .upgrades
            .iter()
            .filter(|upgrade| upgrade.state == UpgradeState::Applied)
            .map(|upgrade| upgrade.version.as_str())
            .collect();
        let mut words = match applied.as_slice() {
            [] if self.unfinished.is_some() => String::new(),
            [] if self.in_doubt.is_some() => String::new(),
            // nothing is recorded, or what was
            [] if self.to.is_none() || self.from == self.to => {
                return "nothing was written".to_owned();
            }
            [] => format!("recorded: {}", self.to.as_deref().unwrap_or("nothing")),
            applied => format!("applied: {}", applied.join(", ")),
        };
        if let Some(unfinished) = &self.unfinished {
            if !words.is_empty() {
                words += "; ";
            }
            words += &format!(
                "{} is unfinished after {} documents, at step \"{}\" (journal {})",
                unfinished.version, unfinished.documents, unfinished.step, unfinished.journal
            );
        }
        words
    }

    /// The report as JSON.
    pub fn to_json(&self) -> String {
        visible::to_json(self).unwrap_or_else(|error| {
            format!(r#"{{"outcome":"bug","exit_code":1,"message":"no report: {error}"}}"#)
        })
    }

    /// The report as JSON of at most 4 KiB, which Kubernetes keeps whole: what matters least goes first.
    pub fn to_termination_message(&self) -> String {
        let fits = |text: &String| text.len() <= TERMINATION_MESSAGE;
        let whole = self.to_json();
        if fits(&whole) {
            return whole;
        }
        let mut short = self.clone();
        for upgrade in &mut short.upgrades {
            upgrade.actions.clear();
        }
        short.warnings.clear();
        short.not_swept.clear();
        short.mistakes.truncate(5);
        let keeps_upgrades = short.to_json();
        if fits(&keeps_upgrades) {
            return keeps_upgrades;
        }
        short.upgrades.clear();
        short.mistakes.clear();
        let mut stage = 0;
        while short.status.as_mut().is_some_and(|status| status.shorten(stage)) {
            let message = short.to_json();
            if fits(&message) {
                return message;
            }
            stage += 1;
        }
        // escaped, a byte may take six
        for share in [1, 2, 4, 8] {
            short.cut(share);
            let message = short.to_json();
            if fits(&message) {
                return message;
            }
        }
        if let Some(status) = &mut short.status {
            status.keep_verdict();
        }
        short.to_json()
    }

    /// Cuts every text that may be long, the fewer bytes the greater `share` is.
    fn cut(&mut self, share: usize) {
        self.remaining.truncate(20 / share);
        self.workloads.truncate(8 / share);
        if let Some(status) = &mut self.status {
            status.cut(share);
            cut(&mut self.message, 400 / share);
        }
        cut(&mut self.message, 1200 / share);
        self.next.iter_mut().for_each(|next| cut(next, 800 / share));
        let unfinished = self.unfinished.iter_mut();
        let names = [&mut self.app, &mut self.code_version, &mut self.host, &mut self.run_id];
        names
            .into_iter()
            .chain(self.workloads.iter_mut().map(|workload| &mut workload.name))
            .chain(unfinished.flat_map(|u| [&mut u.version, &mut u.journal, &mut u.step]))
            .chain(
                [&mut self.database, &mut self.from, &mut self.to, &mut self.in_doubt]
                    .into_iter()
                    .flatten(),
            )
            .chain(&mut self.remaining)
            .for_each(|name| cut(name, 200 / share));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_termination_message_is_json_that_fits_whatever_a_text_holds() {
        for text in ["x", "\u{1}", "é", "\"", "\u{9b}", "\u{202e}", "\u{e0041}"] {
            let long = text.repeat(6000);
            let (version, journal) = ("0.8.0".to_owned(), long.clone());
            let unfinished = Unfinished { version, journal, step: long.clone(), documents: 1 };
            let report = Report {
                message: long.clone(),
                next: Some(long.clone()),
                database: Some(long.clone()),
                from: Some(long.clone()),
                to: Some(long.clone()),
                in_doubt: Some(long.clone()),
                host: long.clone(),
                remaining: vec![long.clone(); 30],
                unfinished: Some(unfinished),
                workloads: vec![
                    WorkloadReport {
                        name: long.clone(),
                        replicas: u32::MAX,
                        state: WorkloadState::NotRestored,
                    };
                    30
                ],
                warnings: vec![long.clone(); 30],
                app: long.clone(),
                code_version: long.clone(),
                exit_code: 15,
                ..Report::default()
            };
            let message = report.to_termination_message();
            assert!(message.len() <= TERMINATION_MESSAGE, "{} bytes", message.len());
            let read: serde_json::Value = serde_json::from_str(&message).unwrap();
            assert_eq!(read["exit_code"], 15);
            assert!(read["message"].as_str().unwrap().starts_with(&text.repeat(12)));
        }
    }

    #[test]
    fn a_termination_message_that_fits_is_the_report() {
        let report = Report { message: "x".repeat(1300), ..Report::default() };
        assert_eq!(report.to_termination_message(), report.to_json());
    }
}
