//! Deciding: from what was observed and what the operator said to what is to be done. Pure.

use crate::decision::refusal::{
    contradiction, declared_too_old, other_stamp, says, unreadable_record, unreadable_stamp,
    unrecorded,
};
use crate::decision::terms::Terms;
use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::process::settings::Initialise;
use crate::record::document::{Record, Recorded};
use crate::record::observed::{Holder, Observed};
use crate::record::stamp::stamped::Place;
use crate::version::Version;

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// The gate is open as it stands.
    Open {
        /// What the operator should know all the same.
        warning: Option<String>,
    },
    /// Nothing could apply: record `to`, after recording `begin` where that is given.
    Stamp {
        /// What `GATE_FROM_VERSION` says of an unrecorded database.
        begin: Option<Version>,
        /// The version to record.
        to: Version,
    },
    /// Record the version as the operator's declaration says.
    Initialise {
        /// The version to record.
        version: Version,
        /// The operator's declaration.
        declaration: Declaration,
    },
    /// Apply the pending versions, ascending, after recording `begin` where that is given.
    Upgrade {
        /// What `GATE_FROM_VERSION` says of an unrecorded database.
        begin: Option<Version>,
        /// The versions to apply.
        pending: Vec<Version>,
    },
    /// Go on with the journaled upgrade of this code.
    Resume {
        /// The version that the journal is of.
        version: Version,
    },
    /// The version has moved, and the application's own stamp is yet to follow.
    FinishStamp {
        /// The recorded version.
        version: Version,
        /// Where the stamp is.
        stamp: Place,
    },
    /// The target is reached, but the code's own version needs more.
    Reached {
        /// The recorded version.
        recorded: Version,
        /// The versions that remain.
        remaining: Vec<Version>,
    },
    /// Another run is at work.
    Held(Holder),
    /// The gate is closed.
    Closed(Failure),
}

/// The operator's declaration on an unrecorded database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declaration {
    /// It is fresh.
    Fresh,
    /// It is at the code version already.
    FromVersion,
}

/// Decides. The first rule that matches wins; their order is the contract's.
pub fn decide(observed: &Observed, terms: &Terms) -> Decision {
    let record = match &observed.recorded {
        Recorded::Unreadable(unreadable) => return Decision::Closed(unreadable_record(unreadable)),
        Recorded::Readable(record) => Some(record),
        Recorded::Absent => None,
    };
    if let Some(failure) = observed.stamp.as_ref().and_then(|it| unreadable_stamp(it, record)) {
        return Decision::Closed(failure);
    }
    let closed = match record {
        Some(record) => contradiction(record, terms)
            .or_else(|| other_stamp(record, observed.stamp.as_ref()?, terms)),
        None => declared_too_old(observed, terms),
    };
    if let Some(failure) = closed {
        return Decision::Closed(failure);
    }
    if let Some(holder) = &observed.holder {
        return Decision::Held(holder.clone());
    }
    match record {
        Some(record) => match (&observed.stamp, record.stamping()) {
            (Some(stamp), Some(_)) => Decision::FinishStamp {
                version: record.version.clone(),
                stamp: stamp.place.clone(),
            },
            _ => decide_recorded(record, terms),
        },
        None => decide_unrecorded(observed, terms),
    }
}

fn decide_recorded(record: &Record, terms: &Terms) -> Decision {
    let recorded = &record.version;
    if let Some(journal) = &record.journal {
        return match Version::parse(&journal.version) {
            Ok(version) => match terms.target.filter(|target| **target < version) {
                Some(target) => Decision::Closed(Failure::new(
                    Outcome::SettingWrong,
                    format!(
                        "GATE_TARGET_VERSION is {target} but the upgrade to {version} has begun \
                         (journal {})",
                        journal.id
                    ),
                    format!("remove GATE_TARGET_VERSION, or name {version} or a later version"),
                )),
                None => Decision::Resume { version },
            },
            Err(error) => Decision::Closed(Failure::bug(error.to_string())),
        };
    }
    if let Some(from) = terms.from.filter(|from| *from > recorded) {
        return Decision::Closed(Failure::new(
            Outcome::SettingWrong,
            format!("GATE_FROM_VERSION is {from} but the database is recorded at {}", record.text),
            "remove GATE_FROM_VERSION: a recorded database does not need it",
        ));
    }
    if let Some(target) = terms.target.filter(|target| *target < recorded) {
        return Decision::Closed(Failure::new(
            Outcome::SettingWrong,
            format!("GATE_TARGET_VERSION is {target} but the database is at {}", record.text),
            "remove GATE_TARGET_VERSION, or name a version above the recorded one",
        ));
    }
    if recorded > terms.code {
        let floor = record.floor().map_or("none".to_owned(), |floor| floor.to_string());
        return Decision::Open {
            warning: Some(format!(
                "the database is at {}, newer than this code's {}, whose floor is {floor}: this code can use it",
                record.text, terms.code
            )),
        };
    }
    ahead(recorded, None, terms)
}

fn decide_unrecorded(observed: &Observed, terms: &Terms) -> Decision {
    if let (Some(stamped), Some(from)) = (observed.stamped(), terms.from)
        && from > stamped
    {
        return Decision::Closed(Failure::new(
            Outcome::SettingWrong,
            format!("GATE_FROM_VERSION is {from} but {} {stamped}", says(observed)),
            "remove GATE_FROM_VERSION: a database that has its application's version does not need it",
        ));
    }
    let last_ran = terms.last_ran(observed);
    if let Some(from) = last_ran.filter(|from| *from > terms.code) {
        let otherwise = match observed.stamped() {
            Some(_) => "restore a backup",
            None => "correct GATE_FROM_VERSION",
        };
        return Decision::Closed(Failure::new(
            Outcome::Incompatible,
            format!("{} {from} but this binary is {}", says(observed), terms.code),
            format!("deploy {from} or later, or {otherwise}"),
        ));
    }
    let target = terms.target.unwrap_or(terms.code);
    let fresh = terms.initialise == Initialise::Fresh;
    let begins_fresh = terms.begins_fresh(observed);
    let first = if begins_fresh { Some(terms.code) } else { last_ran };
    if let Some(first) = first.filter(|first| target < *first) {
        return Decision::Closed(Failure::new(
            Outcome::SettingWrong,
            format!("GATE_TARGET_VERSION is {target}, below {first}, which is recorded first"),
            "remove GATE_TARGET_VERSION, or name a version above the one the database last ran",
        ));
    }
    if let Some(from) = last_ran.filter(|_| !fresh && observed.is_empty()) {
        return Decision::Closed(Failure::new(
            Outcome::Unrecorded,
            format!(
                "GATE_FROM_VERSION is {from} but the database {} holds no documents",
                terms.database
            ),
            "correct the database's name in GATE_DATABASE or the connection string; for a new, empty \
             database set GATE_INITIALISE=fresh",
        ));
    }
    if terms.upgrades.is_empty() {
        return Decision::Stamp { begin: None, to: target.clone() };
    }
    match last_ran {
        _ if begins_fresh => {
            Decision::Initialise { version: terms.code.clone(), declaration: Declaration::Fresh }
        }
        Some(from) => ahead(from, Some(from), terms),
        None if fresh => Decision::Closed(Failure::new(
            Outcome::Unrecorded,
            format!(
                "GATE_INITIALISE is fresh but the database holds documents in {}",
                observed.occupied.join(", ")
            ),
            "set GATE_FROM_VERSION to the version that this database last ran, or name an empty \
             database",
        )),
        None => Decision::Closed(unrecorded()),
    }
}

/// What a database at `recorded`, at or below the code version, needs.
fn ahead(recorded: &Version, begin: Option<&Version>, terms: &Terms) -> Decision {
    let target = terms.target.unwrap_or(terms.code);
    let versions = |after: &Version, upto: &Version| -> Vec<Version> {
        terms.upgrades.between(after, upto).iter().map(|upgrade| upgrade.version.clone()).collect()
    };
    let pending = versions(recorded, target);
    if !pending.is_empty() {
        return Decision::Upgrade { begin: begin.cloned(), pending };
    }
    if recorded < target {
        return Decision::Stamp { begin: begin.cloned(), to: target.clone() };
    }
    let remaining = versions(recorded, terms.code);
    match (begin, remaining.is_empty()) {
        // the target is what the unrecorded database last ran: its record is all there is to write
        (Some(version), _) => {
            Decision::Initialise { version: version.clone(), declaration: Declaration::FromVersion }
        }
        (None, true) => Decision::Open { warning: None },
        (None, false) => Decision::Reached { recorded: recorded.clone(), remaining },
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{Bson, DateTime, Document, RawDocumentBuf, doc};

    use super::*;
    use crate::authoring::command::Command;
    use crate::authoring::table::Upgrades;
    use crate::authoring::upgrade::Upgrade;
    use crate::record::history::Writer;
    use crate::record::journal::Journal;
    use crate::record::stamp::stamped::Stamping;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    fn table(versions: &[&str], code: &Version) -> Upgrades {
        let upgrades = versions
            .iter()
            .map(|version| Upgrade::new(*version, "drop it").step(Command::drop_collection("it")));
        Upgrades::new(upgrades, code).unwrap()
    }

    /// A record with entries like `upgrade 0.8.0` (Python's) or `upgrade 0.8.0 floor 0.8.0` (the gate's, which
    /// may go on with `named drop_it`).
    fn stored(version: &str, history: &[&str]) -> Document {
        let entry = |text: &&str| {
            let mut words = text.split(' ');
            let (action, version) = (words.next(), words.next());
            let mut entry =
                doc! { "version": version, "action": action, "timestamp": DateTime::MIN };
            if words.next() == Some("floor") {
                entry.insert("floor", words.next().filter(|floor| *floor != "none"));
            }
            if words.next() == Some("named") {
                let name = |name: &str| doc! { "name": name.replace('_', " ") };
                entry.insert("upgrades", words.map(name).collect::<Vec<_>>());
            }
            entry
        };
        let history: Vec<_> = history.iter().map(entry).collect();
        doc! { "_id": "app_schema_version", "version": version, "history": history }
    }

    fn observed(document: Option<Document>) -> Observed {
        let document = document.map(|document| RawDocumentBuf::try_from(&document).unwrap());
        let recorded = Recorded::parse(document.as_deref());
        Observed { recorded, stamp: None, holder: None, occupied: vec!["things".to_owned()] }
    }

    fn place() -> Place {
        let (collection, field) = ("settings".to_owned(), "version".to_owned());
        Place { collection, field, code_version: "0.9.0".to_owned() }
    }

    /// A case: code 0.9.0 with upgrades of 0.8.0 and 0.9.0, unless it says otherwise.
    struct Case {
        observed: Observed,
        code: &'static str,
        upgrades: &'static [&'static str],
        oldest: Option<&'static str>,
        initialise: Initialise,
        from: Option<Version>,
        target: Option<Version>,
    }

    fn unrecorded() -> Case {
        Case {
            observed: observed(None),
            code: "0.9.0",
            upgrades: &["0.8.0", "0.9.0"],
            oldest: None,
            initialise: Initialise::No,
            from: None,
            target: None,
        }
    }

    fn at(version: &str, history: &[&str]) -> Case {
        Case { observed: observed(Some(stored(version, history))), ..unrecorded() }
    }

    impl Case {
        fn code(self, code: &'static str, upgrades: &'static [&'static str]) -> Case {
            Case { code, upgrades, ..self }
        }

        fn oldest(self, oldest: &'static str) -> Case {
            Case { oldest: Some(oldest), ..self }
        }

        /// With a document of the application's that has its version.
        fn stamped(mut self, value: impl Into<Bson>) -> Case {
            let document = doc! { "_id": 1, "version": value.into() };
            let document = RawDocumentBuf::try_from(&document).unwrap();
            self.observed.stamp = Some(place().read(&[&document]).unwrap());
            self
        }

        /// Where the application could have one, and has none.
        fn unstamped(mut self) -> Case {
            self.observed.stamp = Some(place().read(&[]).unwrap());
            self
        }

        /// The version moved, and the stamp is to follow.
        fn stamping(mut self, from: &str, to: &str) -> Case {
            if let Recorded::Readable(record) = &self.observed.recorded {
                let stamping = Stamping { from: Some(from.to_owned()), to: to.to_owned() };
                let record = record.stamping_along(Some(stamping));
                self.observed.recorded = Recorded::Readable(record);
            }
            self
        }

        fn fresh(self) -> Case {
            Case { initialise: Initialise::Fresh, ..self }
        }

        fn empty(mut self) -> Case {
            self.observed.occupied.clear();
            self
        }

        fn from(self, text: &str) -> Case {
            Case { from: Some(version(text)), ..self }
        }

        fn target(self, text: &str) -> Case {
            Case { target: Some(version(text)), ..self }
        }

        fn held(mut self) -> Case {
            let holder = Holder { run_id: "other".to_owned(), host: "there".to_owned() };
            self.observed.holder = Some(holder);
            self
        }

        /// With an unfinished upgrade to `version` that code with one such step began.
        fn journaled(mut self, to: &str) -> Case {
            let Recorded::Readable(record) = &mut self.observed.recorded else {
                panic!("only a readable record has a journal")
            };
            let writer = Writer {
                run_id: "run".to_owned(),
                host: "host".to_owned(),
                code_version: "0.9.9".to_owned(),
                code_version_field: "app_version".to_owned(),
            };
            let upgrades = table(&[to], &version(to));
            let journal =
                Journal::begin("j1".to_owned(), &upgrades.versions()[0], record.start(), &writer);
            record.journal = Some(journal);
            self
        }

        /// Something else writes to the record.
        fn overtaken(mut self) -> Case {
            if let Recorded::Readable(record) = &mut self.observed.recorded {
                let first = record.history[..1].to_vec();
                record.history = [record.history.to_vec(), first].concat().into();
            }
            self
        }

        fn decision(&self) -> Decision {
            let code = version(self.code);
            let upgrades = table(self.upgrades, &code).reaching_from(self.oldest.map(version));
            let (from, target) = (self.from.as_ref(), self.target.as_ref());
            let terms = Terms {
                code: &code,
                upgrades: &upgrades,
                database: "lab",
                initialise: self.initialise,
                from,
                target,
            };
            decide(&self.observed, &terms)
        }

        /// The decision in a few words.
        #[track_caller]
        fn decides(&self, expected: &str) {
            assert_eq!(words(self.decision()), expected);
        }

        /// Closed with this outcome, and a text that has all of these parts.
        #[track_caller]
        fn closes(&self, outcome: Outcome, says: &[&str]) {
            let Decision::Closed(failure) = self.decision() else {
                panic!("not closed: {:?}", self.decision())
            };
            assert_eq!(failure.outcome, outcome, "{failure}");
            for part in says {
                assert!(failure.to_string().contains(part), "{failure} lacks {part:?}");
            }
        }
    }

    fn words(decision: Decision) -> String {
        let list = |versions: Vec<Version>| {
            versions.iter().map(Version::to_string).collect::<Vec<_>>().join(", ")
        };
        let after =
            |begin: Option<Version>| begin.map_or(String::new(), |v| format!("begin {v}, "));
        match decision {
            Decision::Open { warning: None } => "open".to_owned(),
            Decision::Open { warning: Some(_) } => "open with a warning".to_owned(),
            Decision::Stamp { begin, to } => format!("{}stamp {to}", after(begin)),
            Decision::Initialise { version, declaration } => {
                format!("initialise {version} {declaration:?}")
            }
            Decision::Upgrade { begin, pending } => {
                format!("{}upgrade {}", after(begin), list(pending))
            }
            Decision::Resume { version } => format!("resume {version}"),
            Decision::FinishStamp { version, .. } => format!("finish the stamp of {version}"),
            Decision::Reached { recorded, remaining } => {
                format!("reached {recorded}, left {}", list(remaining))
            }
            Decision::Held(holder) => format!("held by {}", holder.run_id),
            Decision::Closed(failure) => format!("closed {}", failure.outcome.code()),
        }
    }

    const DONE: &[&str] = &["initialise 0.7.0", "upgrade 0.8.0", "upgrade 0.9.0"];

    #[test]
    fn a_recorded_database_is_brought_to_the_code_version() {
        at("0.9.0", DONE).decides("open");
        at("0.7.0", &["initialise 0.7.0"]).decides("upgrade 0.8.0, 0.9.0");
        at("0.8.0", &["initialise 0.7.0", "upgrade 0.8.0"]).decides("upgrade 0.9.0");
        at("0.8.9", &["initialise 0.8.0", "auto_stamp 0.8.9"]).decides("upgrade 0.9.0");
        at("0.9.0", DONE).code("0.9.1", &["0.8.0", "0.9.0"]).decides("stamp 0.9.1");
        at("0.7.0", &[]).code("0.9.0", &[]).decides("stamp 0.9.0");
    }

    #[test]
    fn an_unrecorded_database_waits_for_the_operators_word() {
        unrecorded().closes(Outcome::Unrecorded, &["GATE_FROM_VERSION", "GATE_INITIALISE=fresh"]);
        unrecorded().code("0.9.0", &[]).decides("stamp 0.9.0");
        unrecorded().fresh().closes(Outcome::Unrecorded, &["holds documents in things"]);
        unrecorded().fresh().empty().decides("initialise 0.9.0 Fresh");
        unrecorded().from("0.7.0").decides("begin 0.7.0, upgrade 0.8.0, 0.9.0");
        unrecorded().from("0.9.0").decides("initialise 0.9.0 FromVersion");
        unrecorded().from("0.9.0").code("0.9.1", &["0.9.0"]).decides("begin 0.9.0, stamp 0.9.1");
        unrecorded().from("0.9.1").closes(Outcome::Incompatible, &["GATE_FROM_VERSION says 0.9.1"]);
        unrecorded().from("0.9.1").code("0.9.0", &[]).decides("closed 12");
        unrecorded().fresh().empty().from("0.7.0").decides("initialise 0.9.0 Fresh");
        unrecorded().fresh().from("0.7.0").decides("begin 0.7.0, upgrade 0.8.0, 0.9.0");
        unrecorded().fresh().empty().from("0.9.1").decides("closed 12");
        let misspelt = ["GATE_FROM_VERSION is 0.7.0", "database lab holds no documents"];
        unrecorded().empty().from("0.7.0").closes(Outcome::Unrecorded, &misspelt);
        unrecorded().empty().code("0.9.0", &[]).from("0.7.0").decides("closed 11");
        unrecorded().empty().from("0.9.1").decides("closed 12");
    }

    #[test]
    fn newer_data_is_used_down_to_its_floor_and_no_further() {
        let newer = |history| at("0.9.5", history).code("0.8.0", &["0.8.0"]);
        newer(&["initialise 0.8.0", "auto_stamp 0.9.5"]).decides("open with a warning");
        newer(&["auto_stamp 0.8.0", "auto_stamp 0.9.5"]).decides("open with a warning");
        newer(&["initialise 0.9.5 floor 0.8.0"]).decides("open with a warning");
        newer(&["initialise 0.9.5 floor none"]).decides("open with a warning");
        for history in [
            &["initialise 0.7.0", "upgrade 0.8.0", "upgrade 0.8.1", "auto_stamp 0.9.5"][..],
            &["initialise 0.9.5"],
            &["initialise 0.8.0", "auto_stamp 0.9.5 floor 0.8.1"],
            &["auto_stamp 0.8.1", "auto_stamp 0.9.5"],
            &[],
        ] {
            newer(history).closes(
                Outcome::Incompatible,
                &["database is at 0.9.5 but this binary is 0.8.0 and the floor is 0."],
            );
        }
    }

    #[test]
    fn setting_a_version_back_does_not_lower_the_floor() {
        let set_back = at("0.8.0", &["initialise 0.8.0", "upgrade 0.9.0", "auto_stamp 0.8.0"]);
        let set_back = set_back.code("0.8.0", &["0.8.0"]);
        set_back.closes(
            Outcome::Incompatible,
            &["the floor is 0.9.0", "deploy 0.9.0", "GATE_RECORD_VERSION to 0.8.0"],
        );
        // the operator's declaration does
        let repaired = ["upgrade 0.9.0", "auto_stamp 0.8.0", "initialise 0.8.0 floor 0.8.0"];
        at("0.8.0", &repaired).code("0.8.0", &["0.8.0"]).decides("open");
    }

    #[test]
    fn an_applied_upgrade_that_the_code_lacks_is_a_disagreement() {
        let applied =
            ["initialise 0.7.0", "upgrade 0.8.0", "upgrade 0.8.5 floor 0.8.5", "upgrade 0.9.0"];
        at("0.9.0", &applied).closes(
            Outcome::Incompatible,
            &[
                "went through the upgrade of 0.8.5, which this code does not have",
                "GATE_MODE=record",
                "GATE_RECORD_VERSION to 0.9.0",
                "GATE_EXPECT_VERSION=0.9.0",
            ],
        );
        at("0.9.0", &applied).code("0.9.0", &["0.8.0", "0.8.5", "0.9.0"]).decides("open");
        // Python writes `upgrade` for its last stamp too
        let python = applied.map(|entry| entry.trim_end_matches(" floor 0.8.5"));
        at("0.9.0", &python).decides("open");
        // what is older than the table's oldest was taken out of it
        at("0.9.0", &applied).code("0.9.0", &["0.9.0"]).decides("open");
        at("0.9.0", &applied).code("0.9.0", &[]).decides("open");
        // the operator's declaration since then ends it
        at("0.9.0", &[&applied[..], &["initialise 0.9.0 floor 0.9.0"]].concat()).decides("open");
    }

    #[test]
    fn a_registered_upgrade_that_was_not_applied_is_a_disagreement() {
        let missing = "did not go through the upgrade of 0.8.0";
        for history in [
            &["initialise 0.7.0", "upgrade 0.9.0"][..],
            &["initialise 0.8.0", "initialise 0.7.0", "upgrade 0.9.0"],
            &["auto_stamp 0.7.0", "upgrade 0.9.0"],
            &["auto_stamp 0.7.0", "auto_stamp 0.8.0", "upgrade 0.9.0"],
            &[
                "initialise 0.7.0 floor none",
                "auto_stamp 0.8.0 floor none",
                "upgrade 0.9.0 floor 0.9.0",
            ],
        ] {
            at("0.9.0", history).closes(
                Outcome::Incompatible,
                &[
                    missing,
                    "GATE_MODE=record",
                    "GATE_EXPECT_VERSION=0.9.0",
                    "GATE_RECORD_VERSION to a version before 0.8.0, so that it is applied (and 0.9.0 \
                     once more, on what it left)",
                    "or to 0.9.0",
                ],
            );
        }
        for history in [
            &["initialise 0.7.0", "upgrade 0.8.0", "upgrade 0.9.0"][..],
            &["auto_stamp 0.7.0", "upgrade 0.8.0", "upgrade 0.9.0"],
            &["auto_stamp 0.8.0", "upgrade 0.9.0"],
            &["auto_stamp 0.7.0", "initialise 0.9.0"],
            &["auto_stamp 0.9.0"],
            &[],
        ] {
            at("0.9.0", history).decides("open");
        }
    }

    #[test]
    fn a_remedy_names_only_versions_that_can_be_recorded() {
        let history = ["auto_stamp 0.7.0", "auto_stamp 0.9.0.post1"];
        let stamped = at("0.9.0.post1", &history).code("0.9.1", &["0.8.0"]);
        stamped.closes(
            Outcome::Incompatible,
            &["GATE_EXPECT_VERSION=0.9.0.post1", "or to the release before 0.9.0.post1"],
        );
    }

    #[test]
    fn python_histories_are_read_as_python_means_them() {
        at("0.8.0.dev3+g12ab", &["auto_stamp 0.8.0.dev3+g12ab"]).decides("upgrade 0.8.0, 0.9.0");
        at("0.8.0a3", &["initialise 0.8.0a3"]).decides("upgrade 0.8.0, 0.9.0");
        let rc = || at("0.9.0rc1", &["initialise 0.8.0", "upgrade 0.9.0rc1"]);
        rc().decides("upgrade 0.9.0");
        rc().code("0.9.0", &["0.9.0-rc.1"]).decides("stamp 0.9.0");
        at("0.9.0.post1", &["upgrade 0.9.0"]).decides("open with a warning");
        at("v0.9", &["initialise 0.9.0"]).decides("open");
        // an action of a kind to come says nothing
        at("0.9.0", &["initialise 0.8.0", "rollback 0.7.0", "upgrade 0.9.0"]).decides("open");
    }

    #[test]
    fn a_target_stops_and_never_opens_with_upgrades_left() {
        let old = || at("0.7.0", &["initialise 0.7.0"]);
        old().target("0.8.0").decides("upgrade 0.8.0");
        old().target("0.8.5").decides("upgrade 0.8.0");
        old().target("0.9.0").decides("upgrade 0.8.0, 0.9.0");
        old().target("0.7.0").decides("reached 0.7.0, left 0.8.0, 0.9.0");
        old().target("0.7.5").decides("stamp 0.7.5");
        old()
            .target("0.6.0")
            .closes(Outcome::SettingWrong, &["GATE_TARGET_VERSION is 0.6.0", "0.7.0"]);
        let half = || at("0.8.0", &["initialise 0.8.0"]);
        half().target("0.8.0").decides("reached 0.8.0, left 0.9.0");
        half().target("0.8.0").code("0.9.0", &["0.8.0"]).decides("open");
        half().target("0.7.9").decides("closed 16");
        at("0.9.5", &["initialise 0.9.0", "auto_stamp 0.9.5"]).target("0.9.0").decides("closed 16");
    }

    #[test]
    fn a_target_below_what_would_be_recorded_first_is_refused_before_that_is_written() {
        unrecorded().from("0.8.5").target("0.8.0").decides("closed 16");
        unrecorded().from("0.9.0").target("0.8.0").decides("closed 16");
        unrecorded().fresh().empty().target("0.8.0").decides("closed 16");
        unrecorded().code("0.9.0", &[]).from("0.8.5").target("0.8.0").decides("closed 16");

        unrecorded().from("0.8.0").target("0.8.0").decides("initialise 0.8.0 FromVersion");
        unrecorded().from("0.7.0").target("0.8.0").decides("begin 0.7.0, upgrade 0.8.0");
        unrecorded().from("0.8.0").target("0.8.5").decides("begin 0.8.0, stamp 0.8.5");
        unrecorded().fresh().empty().target("0.9.0").decides("initialise 0.9.0 Fresh");
        unrecorded().code("0.9.0", &[]).target("0.8.0").decides("stamp 0.8.0");
        unrecorded().target("0.8.0").decides("closed 11");
        unrecorded().fresh().target("0.8.0").decides("closed 11");
    }

    #[test]
    fn a_journal_of_this_code_is_resumed() {
        let old = || at("0.7.0", &["initialise 0.7.0"]);
        old().journaled("0.8.0").decides("resume 0.8.0");
        old().journaled("0.8.0").target("0.8.0").decides("resume 0.8.0");
        let beyond = ["GATE_TARGET_VERSION is 0.7.5", "the upgrade to 0.8.0 has begun", "j1"];
        old().journaled("0.8.0").target("0.7.5").closes(Outcome::SettingWrong, &beyond);
        let reason = &["to 0.8.5 by code 0.9.9", "does not know it", "GATE_DISCARD_JOURNAL=j1"];
        old().journaled("0.8.5").closes(Outcome::Incompatible, reason);
        let too_old = old().journaled("0.8.5").code("0.7.0", &[]);
        too_old.closes(Outcome::Incompatible, &["run 0.9.9 again"]);
        // what the code has before it was not there when it began
        let between = old().journaled("0.8.0").code("0.9.0", &["0.7.5", "0.8.0", "0.9.0"]);
        let parts = ["0.8.0 is unfinished", "an upgrade of 0.7.5", "GATE_DISCARD_JOURNAL=j1"];
        between.closes(Outcome::Incompatible, &parts);
        old()
            .journaled("0.8.0")
            .code("0.9.0", &["0.7.0", "0.8.0", "0.9.0"])
            .decides("resume 0.8.0");
        let overtaken = old().journaled("0.8.0").overtaken();
        overtaken.closes(Outcome::RecordUnreadable, &["something else", "GATE_DISCARD_JOURNAL=j1"]);
    }

    #[test]
    fn the_first_match_wins() {
        let unreadable = || at("latest", &["upgrade 0.9.9 floor 0.9.9"]);
        let disagrees = || at("0.9.0", &["auto_stamp 0.7.0", "auto_stamp 0.9.0"]);
        let too_new = || at("0.9.9", &["upgrade 0.9.9"]);
        let old = || at("0.7.0", &["initialise 0.7.0"]);
        // unreadable, before the lease and all settings
        unreadable().closes(Outcome::RecordUnreadable, &["latest", "GATE_EXPECT_VERSION=latest"]);
        unreadable().held().from("0.9.9").target("0.1.0").decides("closed 15");
        old().journaled("0.8.0").overtaken().held().decides("closed 15");
        // what this code cannot use, before a live lease
        for incompatible in [old().journaled("0.8.5"), disagrees(), too_new()] {
            incompatible.held().decides("closed 12");
        }
        for incompatible in [old().journaled("0.8.5"), disagrees(), too_new()] {
            incompatible.from("0.9.99").target("0.1.0").decides("closed 12");
        }
        // a disagreement, before a journal of this code
        let both = at("0.8.0", &["auto_stamp 0.7.0", "auto_stamp 0.8.0"]).journaled("0.9.0");
        both.closes(Outcome::Incompatible, &["the upgrade of 0.8.0", "GATE_DISCARD_JOURNAL=j1"]);
        // a live lease, before everything else
        for other in
            [old(), old().journaled("0.8.0"), old().from("0.8.0"), at("0.9.0", DONE), unrecorded()]
        {
            other.held().decides("held by other");
        }
        unrecorded().from("0.9.9").held().decides("held by other");
        // a journal of this code, before a GATE_FROM_VERSION that the record makes wrong
        old().journaled("0.8.0").from("0.8.0").decides("resume 0.8.0");
        // a later GATE_FROM_VERSION, before the rest
        let later = ["GATE_FROM_VERSION is 0.8.0 but the database is recorded at 0.7.0"];
        old().from("0.8.0").closes(Outcome::SettingWrong, &later);
        at("0.9.0", DONE).from("0.9.1").decides("closed 16");
        at("0.9.5", &["initialise 0.9.0", "auto_stamp 0.9.5"]).from("0.9.6").decides("closed 16");
        at("0.9.5", &["initialise 0.9.0", "auto_stamp 0.9.5"])
            .from("0.9.5")
            .decides("open with a warning");
    }

    #[test]
    fn settings_left_in_the_values_do_no_harm() {
        for from in ["0.5.0", "0.7.0rc1", "0.9.0"] {
            at("0.9.0", DONE).from(from).fresh().decides("open");
        }
        at("0.7.0", &["initialise 0.7.0"]).from("0.7.0").fresh().decides("upgrade 0.8.0, 0.9.0");
    }

    #[test]
    fn a_journal_is_unknown_to_code_with_other_steps() {
        let mut case = at("0.7.0", &["initialise 0.7.0"]).journaled("0.8.0");
        let Recorded::Readable(record) = &mut case.observed.recorded else { unreachable!() };
        let journal = record.journal.as_mut().unwrap();
        journal.steps[0].name = "another".to_owned();
        case.decides("closed 12");
        let Recorded::Readable(record) = &mut case.observed.recorded else { unreachable!() };
        let journal = record.journal.as_mut().unwrap();
        journal.steps.clear();
        case.decides("closed 12");
    }

    #[test]
    fn a_database_that_holds_no_documents_is_not_from_any_version() {
        let empty = || unrecorded().empty().from("0.7.0");
        empty().closes(Outcome::Unrecorded, &["database lab holds no documents", "GATE_DATABASE"]);
        // before "no upgrade could apply", and after what is wrong with the version
        empty().code("0.9.0", &[]).decides("closed 11");
        unrecorded().empty().code("0.9.0", &[]).decides("stamp 0.9.0");
        unrecorded().empty().from("0.9.1").decides("closed 12");
        empty().oldest("0.7.5").decides("closed 12");
        empty().target("0.6.0").decides("closed 16");
        // whoever holds the lock may be filling it
        empty().held().decides("held by other");
        empty().fresh().decides("initialise 0.9.0 Fresh");
    }

    #[test]
    fn a_table_reaches_from_its_oldest_version_only() {
        let old = |version: &str| at(version, &[]).oldest("0.7.5");
        let too_old = ["the database is at 0.7.4", "from 0.7.5", "deploy 0.7.x first"];
        old("0.7.4").closes(Outcome::Incompatible, &too_old);
        old("0.7.5rc1").decides("closed 12");
        old("0.7.5").decides("upgrade 0.8.0, 0.9.0");
        at("0.7.4", &[]).decides("upgrade 0.8.0, 0.9.0");
        let from = |version| unrecorded().from(version).oldest("0.7.5");
        let says = ["GATE_FROM_VERSION says 0.7.4", "deploy 0.7.x first"];
        from("0.7.4").closes(Outcome::Incompatible, &says);
        from("0.7.5").decides("begin 0.7.5, upgrade 0.8.0, 0.9.0");
        from("0.7.4").fresh().decides("closed 12");
        from("0.7.4").fresh().empty().decides("initialise 0.9.0 Fresh");
        // what was removed could have applied
        unrecorded().code("0.9.0", &[]).oldest("0.8.0").decides("closed 11");
        at("0.7.9", &[]).code("0.9.0", &[]).oldest("0.8.0").decides("closed 12");
        at("0.8.0", &[]).code("0.9.0", &[]).oldest("0.8.0").decides("stamp 0.9.0");
        // before the lease and the rest
        old("0.7.4").held().from("0.9.0").decides("closed 12");
        from("0.7.4").held().decides("closed 12");
        // an unfinished upgrade names the code that can finish it
        let journaled = at("0.7.4", &["initialise 0.7.0"]).journaled("0.7.5").oldest("0.7.5");
        journaled.closes(Outcome::Incompatible, &["run 0.9.9 again"]);
    }

    #[test]
    fn an_applied_upgrade_that_the_code_lacks_is_unknown_only_where_it_is_newer_than_the_oldest() {
        let applied =
            ["initialise 0.7.0", "upgrade 0.8.5 floor 0.8.5", "auto_stamp 0.9.0 floor 0.8.5"];
        let case = || at("0.9.0", &applied).code("0.9.0", &["0.9.0"]);
        let repaired = [&applied[..2], &["upgrade 0.9.0"]].concat();
        let other = |oldest| at("0.9.0", &repaired).code("0.9.0", &["0.9.0"]).oldest(oldest);
        other("0.8.5").decides("open");
        let lacks = ["went through the upgrade of 0.8.5, which this code does not have"];
        other("0.8.0").closes(Outcome::Incompatible, &lacks);
        case().code("0.9.0", &[]).oldest("0.8.0").closes(Outcome::Incompatible, &lacks);
        case().code("0.9.0", &[]).oldest("0.8.5").decides("open");
        case().code("0.9.0", &[]).decides("open");
    }

    #[test]
    fn a_sweep_is_no_oldest_entry_and_no_upgrade() {
        let swept = ["sweep 0.6.0 floor none", "auto_stamp 0.8.0", "upgrade 0.9.0"];
        at("0.9.0", &swept).decides("open");
        at("0.8.5", &["sweep 0.8.5", "auto_stamp 0.8.0"]).code("0.8.5", &["0.8.0"]).decides("open");
        let missing = ["initialise 0.7.0", "sweep 0.8.0 floor none", "upgrade 0.9.0"];
        at("0.9.0", &missing).closes(Outcome::Incompatible, &["the upgrade of 0.8.0"]);
    }

    #[test]
    fn an_upgrade_that_its_versions_entry_does_not_name_is_a_disagreement() {
        let begin = "initialise 0.8.0";
        at("0.9.0", &[begin, "upgrade 0.9.0 floor 0.9.0 named drop_it"]).decides("open");
        at("0.9.0", &[begin, "upgrade 0.9.0 floor 0.9.0 named another drop_it"]).decides("open");
        let says = [
            "did not go through \"drop it\" of 0.9.0, only through \"another\"",
            "GATE_RECORD_VERSION to a version before 0.9.0",
            "0.9.0 once more",
        ];
        let other = at("0.9.0", &[begin, "upgrade 0.9.0 floor 0.9.0 named another"]);
        other.closes(Outcome::Incompatible, &says);
        at("0.9.0", &[begin, "upgrade 0.9.0 floor 0.9.0 named"]).decides("closed 12");
        at("0.9.0", &["upgrade 0.9.0 floor 0.9.0 named another"]).decides("closed 12");
        at("0.9.0", &["upgrade 0.9.0 floor 0.9.0 named drop_it"]).decides("open");
        at("0.9.0", &["upgrade 0.9.0"]).decides("open");
        // an entry that names nothing says nothing, nor does what the operator's declaration ended
        at("0.9.0", &[begin, "upgrade 0.9.0 floor 0.9.0"]).decides("open");
        let ended =
            [begin, "upgrade 0.9.0 floor 0.9.0 named another", "initialise 0.9.0 floor 0.9.0"];
        at("0.9.0", &ended).decides("open");
        // the newest entry of a version counts
        let again = [
            begin,
            "upgrade 0.9.0 floor 0.9.0 named another",
            "upgrade 0.9.0 floor 0.9.0 named drop_it",
        ];
        at("0.9.0", &again).decides("open");
    }

    #[test]
    fn without_a_record_the_applications_own_version_is_what_the_database_last_ran() {
        unrecorded().stamped("0.7.0").decides("begin 0.7.0, upgrade 0.8.0, 0.9.0");
        unrecorded().stamped("v0.9.0").decides("initialise 0.9.0 FromVersion");
        unrecorded().stamped("0.9.0").code("0.9.1", &["0.9.0"]).decides("begin 0.9.0, stamp 0.9.1");
        unrecorded().stamped("0.7.0").code("0.9.0", &[]).decides("stamp 0.9.0");
        unrecorded().unstamped().decides("closed 11");
        unrecorded().unstamped().from("0.7.0").decides("begin 0.7.0, upgrade 0.8.0, 0.9.0");
        // a database that has it is not fresh
        unrecorded().stamped("0.7.0").fresh().decides("begin 0.7.0, upgrade 0.8.0, 0.9.0");
        unrecorded().stamped("0.7.0").fresh().empty().decides("begin 0.7.0, upgrade 0.8.0, 0.9.0");
        unrecorded().unstamped().fresh().empty().decides("initialise 0.9.0 Fresh");
        // the setting beside it
        for earlier in ["0.6.0", "0.7.0"] {
            let both = unrecorded().stamped("0.7.0").from(earlier);
            both.decides("begin 0.7.0, upgrade 0.8.0, 0.9.0");
        }
        let later = unrecorded().stamped("0.7.0").from("0.8.0");
        let says = ["GATE_FROM_VERSION is 0.8.0 but version in settings", "says 0.7.0"];
        later.closes(Outcome::SettingWrong, &says);
        let newer = unrecorded().stamped("0.9.1");
        newer.closes(Outcome::Incompatible, &["version in settings", "says 0.9.1", "deploy 0.9.1"]);
        let too_old = unrecorded().stamped("0.7.4").oldest("0.7.5");
        too_old.closes(Outcome::Incompatible, &["version in settings", "deploy 0.7.x first"]);
        unrecorded().stamped("0.7.0").held().decides("held by other");
        unrecorded().stamped("0.8.5").target("0.8.0").decides("closed 16");
    }

    #[test]
    fn a_record_and_the_applications_own_version_must_agree() {
        at("0.9.0", DONE).stamped("v0.9").decides("open");
        at("0.9.0", DONE).unstamped().decides("open");
        at("0.7.0", &["initialise 0.7.0"]).stamped("0.7.0").decides("upgrade 0.8.0, 0.9.0");
        let says = [
            "recorded at 0.9.0",
            "version in settings",
            "says 0.8.0",
            "GATE_MODE=record",
            "GATE_EXPECT_VERSION=0.9.0",
            "writes both",
        ];
        at("0.9.0", DONE).stamped("0.8.0").closes(Outcome::Incompatible, &says);
        at("0.9.0", DONE)
            .stamped("0.9.1")
            .closes(Outcome::Incompatible, &["deploy 0.9.1 or later"]);
        let journaled = at("0.7.0", &["initialise 0.7.0"]).journaled("0.8.0");
        let says = ["recorded at 0.7.0", "says 0.8.0", "GATE_DISCARD_JOURNAL=j1"];
        journaled.stamped("0.8.0").closes(Outcome::Incompatible, &says);
        // before the lease and the rest, and after what cannot be read
        at("0.9.0", DONE).stamped("0.8.0").held().from("0.9.9").decides("closed 12");
        let says = ["version in settings", "cannot be read", "GATE_RECORD_VERSION to 0.9.0"];
        at("0.9.0", DONE).stamped("latest").closes(Outcome::RecordUnreadable, &says);
        at("0.9.0", DONE).stamped(9).closes(Outcome::RecordUnreadable, &["a number", "as text"]);
        unrecorded().stamped("latest").held().decides("closed 15");
    }

    #[test]
    fn a_stamp_that_is_to_follow_is_no_disagreement() {
        let half = || at("0.9.0", DONE).stamping("0.8.0", "0.9.0");
        half().stamped("0.8.0").decides("finish the stamp of 0.9.0");
        half().stamped("0.9.0").decides("finish the stamp of 0.9.0");
        half().unstamped().decides("finish the stamp of 0.9.0");
        half().stamped("0.8.5").decides("closed 12");
        half().stamped("0.8.0").held().decides("held by other");
        // older code finishes it too, and newer code does before anything else
        half()
            .stamped("0.8.0")
            .code("0.9.1", &["0.8.0", "0.9.0", "0.9.1"])
            .decides("finish the stamp of 0.9.0");
        // code that knows no stamp goes its way
        half().decides("open");
        // something else has moved the version on since
        let moved = at("0.9.0", DONE).stamping("0.7.0", "0.8.0");
        moved.stamped("0.7.0").decides("closed 12");
    }
}
