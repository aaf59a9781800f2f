//! The report as text for people: the same facts as its JSON, the outcome and what to do next last.
//!
//! Lines are as long as what they say, whatever the terminal's width: commands and ids stay whole to be copied.

use std::fmt::{Display, Write};
use std::time::Duration;

use mongodb::bson::Bson;

use crate::authoring::action::UpgradeAction;
use crate::process::exit::Outcome;
use crate::process::report::{
    Report, Unfinished, UpgradeReport, UpgradeState, WorkloadReport, WorkloadState,
};
use crate::process::status::{
    HistoryEntry, LockStatus, Status, StepState, StoppedWorkload, UnfinishedStatus, Verdict,
};
use crate::visible::visible;

/// How many entries of the history fit on a screen with the rest.
const NEWEST: usize = 10;

/// What stands in the place of what there is none of.
const NONE: &str = "none";

impl Report {
    /// The report as text, in lines of which the last says what to do next.
    pub fn to_text(&self) -> String {
        let mut text = Text::default();
        text.line(0, self.heading());
        match &self.status {
            Some(status) => text.status(status),
            None => text.run(self),
        }
        if !self.warnings.is_empty() {
            text.blank();
            text.line(0, "warnings:");
            for warning in &self.warnings {
                text.line(1, format!("- {warning}"));
            }
        }
        text.blank();
        if !self.run_id.is_empty() {
            let took = duration(self.duration_ms);
            text.line(0, format!("run {} on {}, took {took}", self.run_id, self.host));
            text.blank();
        }
        let next = match &self.status {
            Some(status) => {
                let Verdict { exit_code, outcome, message, next } = &status.check;
                text.line(
                    0,
                    format!("{} (exit {}): {}", self.outcome, self.exit_code, self.message),
                );
                let check = ended(*exit_code, outcome, message);
                text.line(0, format!("mode check would say: {check}"));
                next
            }
            None => {
                text.line(0, ended(self.exit_code, &self.outcome, &self.message));
                &self.next
            }
        };
        let nothing = "nothing is left to do here: the application may start";
        text.line(0, format!("next: {}", next.as_deref().unwrap_or(nothing)));
        text.0
    }

    fn heading(&self) -> String {
        let Report { app, code_version, mode, database, .. } = self;
        let mut heading = format!("{app} {code_version}");
        if !mode.is_empty() {
            heading += &format!(", mode {mode}");
        }
        if let Some(database) = database {
            heading += &format!(", database {database}");
        }
        heading
    }

    /// The recorded version before and after, where a run came to read it.
    fn recorded(&self) -> Option<String> {
        let read = [
            Outcome::Open,
            Outcome::Pending,
            Outcome::Unrecorded,
            Outcome::ConditionFailed,
            Outcome::UpgradeFailed,
        ];
        match (&self.from, &self.to) {
            (None, None) if !read.iter().any(|it| it.code() == self.exit_code) => None,
            (from, to) if from == to => Some(or_none(to).to_owned()),
            (from, to) => Some(format!("{} before, {} now", or_none(from), or_none(to))),
        }
    }
}

/// A text in which modes are named as whoever sits at a terminal types them.
pub(crate) fn as_typed(text: &str, program: &str) -> String {
    let typed = [("run it with GATE_MODE=", "run "), ("(GATE_MODE=", "(")];
    typed.iter().fold(text.to_owned(), |text, (said, before)| {
        text.replace(said, &format!("{before}{program} "))
    })
}

/// How a run ended, or would end.
fn ended(code: u8, outcome: &str, message: &str) -> String {
    match code == Outcome::Open.code() {
        true => format!("open (exit {code}): {message}"),
        false => format!("closed (exit {code}, {outcome}): {message}"),
    }
}

fn or_none(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or(NONE)
}

fn duration(ms: u64) -> impl Display {
    humantime::format_duration(Duration::from_millis(ms))
}

fn counted(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

fn documents(n: u64) -> String {
    counted(n, "document", "documents")
}

/// Lines, each with its indentation, and nothing hidden in them.
#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, depth: usize, text: impl AsRef<str>) {
        let indent = "  ".repeat(depth);
        // a String takes whatever is written to it
        let _ = writeln!(self.0, "{indent}{}", visible(text.as_ref()));
    }

    fn blank(&mut self) {
        if !self.0.ends_with("\n\n") {
            self.0.push('\n');
        }
    }

    /// What a run did to the database, or would do.
    fn run(&mut self, report: &Report) {
        if let Some(recorded) = report.recorded() {
            self.line(0, format!("recorded version: {recorded}"));
        }
        if let Some(version) = &report.in_doubt {
            self.line(
                0,
                format!("in doubt: {version}; it is not known whether its commit took effect"),
            );
        }
        for upgrade in &report.upgrades {
            self.blank();
            self.upgrade(upgrade);
        }
        if !report.upgrades.is_empty() {
            self.blank();
        }
        if !report.remaining.is_empty() {
            self.line(0, format!("remaining: {}", report.remaining.join(", ")));
        }
        if let Some(Unfinished { version, journal, step, documents: n }) = &report.unfinished {
            self.line(
                0,
                format!(
                    "unfinished: {version}, at step \"{step}\", {} changed so far (journal {journal})",
                    documents(*n)
                ),
            );
        }
        if !report.workloads.is_empty() {
            self.line(0, "workloads:");
        }
        for WorkloadReport { name, replicas, state } in &report.workloads {
            let state = match state {
                WorkloadState::Stopped => "stopped",
                WorkloadState::Restored => "started again, as nothing was committed",
                WorkloadState::NotRestored => "stopped, and could not be started again",
                WorkloadState::Resumed => "started after the upgrade",
            };
            let replicas = counted(u64::from(*replicas), "replica", "replicas");
            self.line(1, format!("- {name}, {replicas}: {state}"));
        }
    }

    fn upgrade(&mut self, upgrade: &UpgradeReport) {
        let UpgradeReport { version, description, actions, .. } = upgrade;
        let state = match (upgrade.state, upgrade.duration_ms) {
            (UpgradeState::Planned, None) => "would be applied".to_owned(),
            (UpgradeState::Planned, Some(ms)) => {
                format!("would be applied, after {}", duration(ms))
            }
            (UpgradeState::Applied, None) => "applied".to_owned(),
            (UpgradeState::Applied, Some(ms)) => format!("applied in {}", duration(ms)),
        };
        self.line(0, format!("{version} {state}: {description}"));
        self.actions(1, actions);
        let counts = match upgrade.exact {
            Some(true) => Some("counts: exact, those that the upgrade reports on the same data"),
            Some(false) => {
                Some("counts: not exact, as they depend on what is applied before (what has none)")
            }
            None => None,
        };
        counts.into_iter().for_each(|counts| self.line(1, counts));
        if let Some(earlier) = &upgrade.preflight_after {
            self.line(1, format!("preflight: after {earlier}, and before its own first write"));
        }
        for step in &upgrade.preflight_later {
            self.line(
                1,
                format!("preflight of step \"{step}\": later, before its own first write"),
            );
        }
        if let Some(late) = upgrade.late {
            self.line(1, format!("late: {} that old code had written meanwhile", documents(late)));
        }
    }

    fn actions(&mut self, depth: usize, actions: &[UpgradeAction]) {
        for UpgradeAction { description, collection, action_type, details } in actions {
            let mut about = format!("{collection}, {}", action_type.as_str());
            for (name, value) in details {
                about += &format!(", {name} {}", detail(value));
            }
            self.line(depth, format!("- {description} ({about})"));
        }
        if actions.is_empty() {
            self.line(depth, "- no actions");
        }
    }

    /// What is stored of a database.
    fn status(&mut self, status: &Status) {
        let recorded = or_none(&status.recorded);
        match &status.unreadable {
            Some(reason) => {
                self.line(
                    0,
                    format!("recorded version: {recorded}, which cannot be read: {reason}"),
                );
            }
            None => self.line(0, format!("recorded version: {recorded}")),
        }
        self.line(0, format!("floor: {}", or_none(&status.floor)));
        if let Some(stamp) = &status.stamp {
            let version = or_none(&stamp.version);
            self.line(0, format!("the application's own version: {version} ({})", stamp.place));
        }
        self.list("pending", &status.pending, |text, upgrade| {
            text.line(1, format!("- {}: {}", upgrade.version, upgrade.description));
        });
        match &status.unfinished {
            None => self.line(0, format!("unfinished: {NONE}")),
            Some(unfinished) => self.unfinished(unfinished),
        }
        self.lock(status.lock.as_ref());
        self.list("stopped workloads", &status.workloads, |text, workload| {
            let StoppedWorkload { namespace, name, replicas, version, stopped, run_id } = workload;
            let replicas = counted(u64::from(*replicas), "replica", "replicas");
            let at = stopped.as_ref().map_or(String::new(), |at| format!(" {at}"));
            let version =
                version.as_ref().map_or("without a record".to_owned(), |v| format!("at {v}"));
            text.line(
                1,
                format!(
                    "- {name} in {namespace}: {replicas}; stopped{at}, {version}, by run {run_id}"
                ),
            );
        });
        let shown = NEWEST.min(status.history.len());
        self.list("history, newest first", &status.history[..shown], Text::entry);
        let older = status.history_entries.saturating_sub(shown);
        if older > 0 {
            self.line(
                1,
                format!(
                    "and {} ({} in all; GATE_REPORT_FORMAT=json shows them)",
                    counted(older as u64, "older entry", "older entries"),
                    status.history_entries
                ),
            );
        }
    }

    fn list<T>(&mut self, name: &str, items: &[T], write: impl Fn(&mut Text, &T)) {
        if items.is_empty() {
            return self.line(0, format!("{name}: {NONE}"));
        }
        self.line(0, format!("{name}:"));
        items.iter().for_each(|item| write(self, item));
    }

    fn unfinished(&mut self, unfinished: &UnfinishedStatus) {
        let UnfinishedStatus { version, journal, code_version, started, run_id, host, steps } =
            unfinished;
        let started = started.as_ref().map_or(String::new(), |at| format!(" {at}"));
        self.line(
            0,
            format!(
                "unfinished: {version}, begun{started} by code {code_version}, last written by run {run_id} \
                 on {host} (journal {journal})"
            ),
        );
        for step in steps {
            let state = match step.state {
                StepState::Done => "done",
                StepState::UnderWay => "under way",
                StepState::Waiting => "not begun",
            };
            let of = step.total.map_or(String::new(), |total| format!(" of {total}"));
            let changed = format!("{}{of} changed", documents(step.documents));
            self.line(1, format!("- {}: {state}, {changed}", step.name));
        }
    }

    fn lock(&mut self, lock: Option<&LockStatus>) {
        let Some(LockStatus { run_id, host, acquired, alive, lease_ms }) = lock else {
            return self.line(0, "lock: free");
        };
        let acquired = acquired.as_ref().map_or(String::new(), |at| format!(" since {at}"));
        let lease = match (alive, lease_ms) {
            (true, Some(ms)) => format!("alive, for {}", duration(ms.unsigned_abs())),
            (true, None) => "alive".to_owned(),
            (false, Some(ms)) if *ms <= 0 => {
                format!("over, since {}", duration(ms.unsigned_abs()))
            }
            // longer than any lease
            (false, Some(ms)) => format!("over, as no lease lasts {}", duration(ms.unsigned_abs())),
            (false, None) => "over".to_owned(),
        };
        let then = if *alive { "" } else { ": the next run takes it over" };
        self.line(0, format!("lock: run {run_id} on {host}{acquired}; its lease is {lease}{then}"));
    }

    fn entry(&mut self, entry: &HistoryEntry) {
        let HistoryEntry { version, action, timestamp, .. } = entry;
        let mut line = format!("- {} {action} {version}", or_none(timestamp));
        if let Some(ms) = entry.duration_ms {
            line += &format!(" in {}", duration(ms));
        }
        if let Some(code) = &entry.code_version {
            line += &format!(", by code {code}");
        }
        if let Some(run_id) = &entry.run_id {
            line += &format!(", run {run_id}");
        }
        if let Some(host) = &entry.host {
            line += &format!(" on {host}");
        }
        if let Some(floor) = &entry.floor {
            line += &format!(", floor {floor}");
        }
        if let Some(replaced) = &entry.replaced {
            line += &format!(", a repair that replaced {replaced}");
        }
        self.line(1, line);
        let did: Vec<&str> = entry.actions.iter().map(|it| it.description.as_str()).collect();
        match (entry.upgrades.join("; "), did.join("; ")) {
            (upgrades, did) if upgrades.is_empty() && did.is_empty() => {}
            (upgrades, did) if did.is_empty() => self.line(2, upgrades),
            (upgrades, did) if upgrades.is_empty() => self.line(2, did),
            (upgrades, did) => self.line(2, format!("{upgrades}: {did}")),
        }
        if let Some(late) = entry.late {
            self.line(2, format!("late: {} that old code had written meanwhile", documents(late)));
        }
    }
}

/// A value of an action's details.
fn detail(value: &Bson) -> String {
    match value {
        Bson::String(text) => format!("{text:?}"),
        Bson::Int32(n) => n.to_string(),
        Bson::Int64(n) => n.to_string(),
        // as the JSON has it
        value => serde_json::to_string(value).unwrap_or_else(|_| value.to_string()),
    }
}
