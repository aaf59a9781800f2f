//! The report as text for people: the same facts as its JSON, the outcome and what to do next last.
//!
//! Lines are as long as what they say, whatever the terminal's width: commands and ids stay whole to be copied.

use std::fmt::{Display, Write};
use std::time::Duration;

use mongodb::bson::Bson;

use crate::process::action::UpgradeAction;
use crate::process::exit::Outcome;
use crate::process::report::{
    NotSwept, Report, TEST, Unfinished, UpgradeReport, UpgradeState, VALIDATE, WorkloadReport,
    WorkloadState,
};
use crate::process::status::{
    HistoryEntry, LockStatus, Status, StepState, StoppedWorkload, UnfinishedStatus, Verdict,
};
use crate::visible::visible;

/// Whether the report is about files, and not about a database.
fn is_of_files(report: &Report) -> bool {
    [VALIDATE, TEST].contains(&report.mode.as_str())
}

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
            None if is_of_files(self) && self.exit_code == Outcome::Open.code() => {
                text.line(0, format!("{} (exit 0): {}", self.outcome, self.message));
                return text.0;
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
            // what an unrecorded database last ran is declared, not recorded
            (Some(from), None) => Some(format!("{NONE}; the database last ran {from}")),
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

/// A number with its noun.
pub(crate) fn counted(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

pub(crate) fn documents(n: u64) -> String {
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
        for mistake in &report.mistakes {
            self.blank();
            for line in mistake.shown().lines() {
                self.line(0, line);
            }
        }
        if let Some(recorded) = report.recorded().filter(|_| !is_of_files(report)) {
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
        if !report.not_swept.is_empty() {
            self.line(0, "not swept:");
        }
        for NotSwept { version, step, collection, reason } in &report.not_swept {
            self.line(1, format!("- {version}, step \"{step}\" ({collection}): {reason}"));
        }
        if let Some(n) = report.swept {
            self.line(0, format!("swept: {}", documents(n)));
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
            (UpgradeState::Swept, None) => "swept".to_owned(),
            (UpgradeState::Swept, Some(ms)) => format!("swept in {}", duration(ms)),
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
            self.late(1, late);
        }
    }

    fn late(&mut self, depth: usize, late: u64) {
        self.line(depth, format!("written meanwhile by old code: {}", documents(late)));
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
        let did: Vec<&str> =
            entry.actions.iter().filter_map(|it| it.get_str("description").ok()).collect();
        match (entry.upgrades.join("; "), did.join("; ")) {
            (upgrades, did) if upgrades.is_empty() && did.is_empty() => {}
            (upgrades, did) if did.is_empty() => self.line(2, upgrades),
            (upgrades, did) if upgrades.is_empty() => self.line(2, did),
            (upgrades, did) => self.line(2, format!("{upgrades}: {did}")),
        }
        if let Some(late) = entry.late {
            self.late(2, late);
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

#[cfg(test)]
mod tests {
    use mongodb::bson::doc;
    use serde_json::Value;

    use super::*;
    use crate::process::action::ActionType;
    use crate::process::mistake::{Mistake, MistakeLevel};
    use crate::process::status::{PendingUpgrade, StampStatus, StepStatus};

    /// Texts and numbers that are all different, so that each can be found.
    #[derive(Default)]
    struct Facts(u64);

    impl Facts {
        fn number(&mut self) -> u64 {
            self.0 += 1;
            7_000_000 + self.0 * 1013
        }

        fn text(&mut self) -> String {
            format!("text {}", self.number())
        }

        fn some(&mut self) -> Option<String> {
            Some(self.text())
        }

        fn action(&mut self) -> UpgradeAction {
            UpgradeAction::new(ActionType::CreateIndex, self.text(), self.text())
                .detail(self.text(), self.number() as i64)
                .detail(self.text(), self.text())
        }

        fn upgrade(&mut self, state: UpgradeState) -> UpgradeReport {
            UpgradeReport {
                version: self.text(),
                description: self.text(),
                state,
                actions: vec![self.action(), self.action()],
                exact: Some(state == UpgradeState::Applied),
                preflight_after: self.some(),
                preflight_later: vec![self.text(), self.text()],
                late: Some(self.number()),
                duration_ms: Some(self.number()),
            }
        }

        fn report(&mut self) -> Report {
            let workload = |facts: &mut Facts, state| WorkloadReport {
                name: facts.text(),
                replicas: facts.number() as u32,
                state,
            };
            Report {
                app: self.text(),
                mode: self.text(),
                outcome: self.text(),
                exit_code: 14,
                message: self.text(),
                next: self.some(),
                database: self.some(),
                code_version: self.text(),
                from: self.some(),
                to: self.some(),
                in_doubt: self.some(),
                upgrades: vec![
                    self.upgrade(UpgradeState::Applied),
                    self.upgrade(UpgradeState::Planned),
                    self.upgrade(UpgradeState::Swept),
                ],
                remaining: vec![self.text(), self.text()],
                unfinished: Some(Unfinished {
                    version: self.text(),
                    journal: self.text(),
                    step: self.text(),
                    documents: self.number(),
                }),
                workloads: vec![
                    workload(self, WorkloadState::Stopped),
                    workload(self, WorkloadState::Restored),
                    workload(self, WorkloadState::NotRestored),
                    workload(self, WorkloadState::Resumed),
                ],
                warnings: vec![self.text(), self.text()],
                run_id: self.text(),
                host: self.text(),
                duration_ms: self.number(),
                swept: Some(self.number()),
                not_swept: vec![NotSwept {
                    version: self.text(),
                    step: self.text(),
                    collection: self.text(),
                    reason: self.text(),
                }],
                mistakes: vec![Mistake {
                    level: MistakeLevel::Warning,
                    file: self.text(),
                    line: Some(self.number() as usize),
                    column: Some(self.number() as usize),
                    message: self.text(),
                    expected: self.some(),
                    excerpt: String::new(),
                }],
                status: None,
            }
        }

        fn status(&mut self) -> Status {
            let step = |facts: &mut Facts, state| StepStatus {
                name: facts.text(),
                state,
                documents: facts.number(),
                total: Some(facts.number()),
            };
            Status {
                check: Verdict {
                    exit_code: 12,
                    outcome: self.text(),
                    message: self.text(),
                    next: self.some(),
                },
                recorded: self.some(),
                unreadable: self.some(),
                floor: self.some(),
                stamp: Some(StampStatus { place: self.text(), version: self.some() }),
                pending: vec![
                    PendingUpgrade { version: self.text(), description: self.text() },
                    PendingUpgrade { version: self.text(), description: self.text() },
                ],
                unfinished: Some(UnfinishedStatus {
                    version: self.text(),
                    journal: self.text(),
                    code_version: self.text(),
                    started: self.some(),
                    run_id: self.text(),
                    host: self.text(),
                    steps: vec![
                        step(self, StepState::Done),
                        step(self, StepState::UnderWay),
                        step(self, StepState::Waiting),
                    ],
                }),
                lock: Some(LockStatus {
                    run_id: self.text(),
                    host: self.text(),
                    acquired: self.some(),
                    alive: true,
                    lease_ms: Some(self.number() as i64),
                }),
                workloads: vec![StoppedWorkload {
                    namespace: self.text(),
                    name: self.text(),
                    replicas: self.number() as u32,
                    version: self.some(),
                    stopped: self.some(),
                    run_id: self.text(),
                }],
                history_entries: self.number() as usize,
                history: (0..NEWEST).map(|_| self.entry()).collect(),
            }
        }

        fn entry(&mut self) -> HistoryEntry {
            HistoryEntry {
                version: self.text(),
                action: self.text(),
                timestamp: self.some(),
                code_version: self.some(),
                floor: self.some(),
                upgrades: vec![self.text(), self.text()],
                // the details are in the JSON alone: ten entries are to fit on a screen
                actions: vec![doc! { "description": self.text() }],
                late: Some(self.number()),
                duration_ms: Some(self.number()),
                run_id: self.some(),
                host: self.some(),
                replaced: self.some(),
            }
        }
    }

    /// Every fact of the JSON with its path; a name that is a fact itself, as of a detail, is one too.
    fn leaves(path: &str, value: &Value, found: &mut Vec<(String, Value)>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    if name.starts_with("text ") {
                        found.push((path.to_owned(), name.as_str().into()));
                    }
                    leaves(&format!("{path}/{name}"), value, found);
                }
            }
            Value::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    leaves(&format!("{path}/{at}"), item, found);
                }
            }
            Value::Null => {}
            leaf => found.push((path.to_owned(), leaf.clone())),
        }
    }

    /// What a text has to say for a fact.
    fn said(path: &str, value: &Value) -> String {
        match value {
            Value::String(text) => match (path.rsplit('/').next(), text.as_str()) {
                (Some("state"), "planned") => "would be applied".to_owned(),
                (Some("state"), "applied" | "swept") => format!("{text} in"),
                (Some("state"), "done") => "done,".to_owned(),
                (Some("state"), "waiting") => "not begun".to_owned(),
                (Some("state"), "restored") => "started again, as nothing".to_owned(),
                (Some("state"), "not_restored") => "could not be started again".to_owned(),
                (Some("state"), "resumed") => "started after the upgrade".to_owned(),
                (Some("state"), text) => text.replace('_', " "),
                (_, text) => text.to_owned(),
            },
            Value::Number(n) if path.ends_with("_ms") => duration(n.as_u64().unwrap()).to_string(),
            Value::Number(n) => n.to_string(),
            Value::Bool(exact) if path.ends_with("exact") => {
                if *exact { "counts: exact" } else { "counts: not exact" }.to_owned()
            }
            Value::Bool(_) => "alive".to_owned(),
            other => panic!("{path} is {other}"),
        }
    }

    fn assert_same_facts(report: &Report) {
        let json: Value = serde_json::from_str(&report.to_json()).unwrap();
        let mut facts = Vec::new();
        leaves("", &json, &mut facts);
        let text = report.to_text();
        for (path, value) in &facts {
            // mode `status` says the versions itself
            let said_by_status =
                json.get("status").is_some() && ["/from", "/to"].contains(&path.as_str());
            let said = said(path, value);
            assert!(
                said_by_status || said.is_empty() || text.contains(&said),
                "{path}: {said:?}\n{text}"
            );
        }
        assert!(facts.len() > 30, "{json:#}");
    }

    #[test]
    fn text_and_json_state_the_same_facts() {
        assert_same_facts(&Facts::default().report());
        let mut facts = Facts::default();
        let report = Report {
            app: facts.text(),
            mode: "status".to_owned(),
            outcome: facts.text(),
            message: facts.text(),
            database: facts.some(),
            code_version: facts.text(),
            status: Some(Box::new(facts.status())),
            warnings: vec![facts.text()],
            run_id: facts.text(),
            host: facts.text(),
            ..Report::default()
        };
        assert_same_facts(&report);
    }

    #[test]
    fn the_outcome_and_what_to_do_next_come_last_for_every_outcome() {
        for &outcome in Outcome::ALL {
            let mut report = Report { app: "lab".to_owned(), ..Report::default() };
            let next = (outcome != Outcome::Open).then(|| "do this".to_owned());
            report.end(outcome, "it is so".to_owned(), next);
            let text = report.to_text();
            let lines: Vec<&str> = text.lines().collect();
            let [.., ended, next] = lines.as_slice() else { panic!("{text}") };
            match outcome {
                Outcome::Open => {
                    assert_eq!(*ended, "open (exit 0): it is so");
                    assert!(next.starts_with("next: nothing"), "{text}");
                }
                _ => {
                    let code = outcome.code();
                    assert_eq!(*ended, format!("closed (exit {code}, {outcome}): it is so"));
                    assert_eq!(*next, "next: do this");
                }
            }
            assert!(text.ends_with('\n') && !text.contains("\n\n\n"), "{text:?}");
        }
    }

    #[test]
    fn what_comes_from_elsewhere_cannot_deceive_a_terminal() {
        let evil = "a\u{1b}[2J\u{202e}b\nopen (exit 0)";
        let mut facts = Facts::default();
        let mut report = Report { to: Some(evil.to_owned()), ..facts.report() };
        report.upgrades[0].actions[0].description = evil.to_owned();
        report.upgrades[0].actions[0].details.insert("name", evil);
        report.warnings.push(evil.to_owned());
        let mut status = facts.status();
        status.history[0].host = Some(evil.to_owned());
        for report in [report.clone(), Report { status: Some(Box::new(status)), ..report }] {
            let text = report.to_text();
            let hidden = |c: char| c != '\n' && crate::visible::is_hidden(c);
            assert!(!text.contains(hidden), "{text:?}");
            assert!(!text.lines().any(|line| line.starts_with("open (exit 0)")), "{text}");
        }
    }

    #[test]
    fn a_long_history_is_cut_to_a_screen_and_says_how_much_is_left() {
        let mut facts = Facts::default();
        let mut status = facts.status();
        status.history = (0..500).map(|_| facts.entry()).collect();
        status.history_entries = 500;
        let report = Report { status: Some(Box::new(status)), ..facts.report() };
        let text = report.to_text();
        assert!(text.contains("and 490 older entries (500 in all"), "{text}");
        assert!(text.lines().count() < 60, "{text}");
        assert!(report.to_termination_message().len() <= 4096);
        assert_eq!(report.to_json().matches("\"timestamp\"").count(), 500);
    }

    #[test]
    fn a_status_fits_the_termination_message_whatever_its_texts_hold() {
        for text in ["x", "\u{1}", "é", "\u{202e}"] {
            let mut facts = Facts::default();
            let mut status = facts.status();
            let long = || text.repeat(6000);
            for history in &mut status.history {
                history.host = Some(long());
            }
            let (pending, workload) = (status.pending[0].clone(), status.workloads[0].clone());
            status.pending = vec![PendingUpgrade { description: long(), ..pending }; 30];
            status.workloads = vec![StoppedWorkload { name: long(), ..workload }; 30];
            status.unreadable = Some(long());
            status.recorded = Some(long());
            status.check.message = long();
            status.check.next = Some(long());
            if let (Some(lock), Some(unfinished)) = (&mut status.lock, &mut status.unfinished) {
                (lock.host, lock.acquired) = (long(), Some(long()));
                (unfinished.host, unfinished.steps[1].name) = (long(), long());
            }
            let report = Report { message: long(), to: Some(long()), ..facts.report() };
            let report = Report { status: Some(Box::new(status)), ..report };
            let message = report.to_termination_message();
            assert!(message.len() <= 4096, "{} bytes", message.len());
            let read: Value = serde_json::from_str(&message).unwrap();
            assert_eq!(read["status"]["check"]["exit_code"], 12, "{read}");
            assert_eq!(read["status"]["unfinished"]["steps"][0]["state"], "under_way", "{read}");
        }
    }

    #[test]
    fn at_a_terminal_modes_are_named_as_they_are_typed() {
        let text =
            "next: run it with GATE_MODE=upgrade (GATE_MODE=plan shows what that would do)\n";
        let typed = "next: run gate upgrade (gate plan shows what that would do)\n";
        assert_eq!(as_typed(text, "gate"), typed);
        let other = "next: set GATE_MODE=record, GATE_RECORD_VERSION\n";
        assert_eq!(as_typed(other, "gate"), other);
    }
}
