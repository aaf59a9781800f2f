//! Deciding: from what was observed and what the operator said to what is to be done. Pure.

use crate::exit::Outcome;
use crate::failure::Failure;
use crate::record::{Action, Journal, Record, Recorded, Unreadable};
use crate::settings::Initialise;
use crate::upgrade::Upgrades;
use crate::version::Version;

/// What was read of a database.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The record.
    pub recorded: Recorded,
    /// Another run's live lease.
    pub holder: Option<Holder>,
    /// The collections that hold documents; read only where the decision needs it.
    pub occupied: Vec<String>,
}

/// Another run that holds the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The run.
    pub run_id: String,
    /// The host that it runs on.
    pub host: String,
}

/// What the operator and the code say.
#[derive(Clone, Debug)]
pub struct Terms<'a> {
    /// The code version.
    pub code: &'a Version,
    /// The code's upgrades.
    pub upgrades: &'a Upgrades,
    /// `GATE_INITIALISE`.
    pub initialise: Initialise,
    /// `GATE_FROM_VERSION`.
    pub from: Option<&'a Version>,
    /// `GATE_TARGET_VERSION`.
    pub target: Option<&'a Version>,
}

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
    /// Record the version as the operator's word says.
    Initialise {
        /// The version to record.
        version: Version,
        /// The operator's word.
        word: Word,
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

/// The operator's word on an unrecorded database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
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
    if let Some(failure) = record.and_then(|record| contradiction(record, terms)) {
        return Decision::Closed(failure);
    }
    if let Some(holder) = &observed.holder {
        return Decision::Held(holder.clone());
    }
    match record {
        Some(record) => decide_recorded(record, terms),
        None => decide_unrecorded(&observed.occupied, terms),
    }
}

fn decide_recorded(record: &Record, terms: &Terms) -> Decision {
    let recorded = &record.version;
    if let Some(journal) = &record.journal {
        return match Version::parse(&journal.version) {
            Ok(version) => Decision::Resume { version },
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

fn decide_unrecorded(occupied: &[String], terms: &Terms) -> Decision {
    if let Some(from) = terms.from.filter(|from| *from > terms.code) {
        return Decision::Closed(Failure::new(
            Outcome::Incompatible,
            format!("GATE_FROM_VERSION says {from} but this binary is {}", terms.code),
            format!("deploy {from} or later, or correct GATE_FROM_VERSION"),
        ));
    }
    if terms.upgrades.newest_upto(terms.code).is_none() {
        return Decision::Stamp { begin: None, to: terms.code.clone() };
    }
    let fresh = terms.initialise == Initialise::Fresh;
    match terms.from {
        _ if fresh && occupied.is_empty() => {
            Decision::Initialise { version: terms.code.clone(), word: Word::Fresh }
        }
        Some(from) if from == terms.code => {
            Decision::Initialise { version: from.clone(), word: Word::FromVersion }
        }
        Some(from) => match terms.target.filter(|target| *target < from) {
            Some(target) => Decision::Closed(Failure::new(
                Outcome::SettingWrong,
                format!("GATE_TARGET_VERSION is {target}, below GATE_FROM_VERSION {from}"),
                "remove GATE_TARGET_VERSION, or name a version above the one the database last ran",
            )),
            None => ahead(from, Some(from), terms),
        },
        None if fresh => Decision::Closed(Failure::new(
            Outcome::Unrecorded,
            format!(
                "GATE_INITIALISE is fresh but the database holds documents in {}",
                occupied.join(", ")
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
        terms.upgrades.between(after, upto).iter().map(|unit| unit.version.clone()).collect()
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
            Decision::Initialise { version: version.clone(), word: Word::FromVersion }
        }
        (None, true) => Decision::Open { warning: None },
        (None, false) => Decision::Reached { recorded: recorded.clone(), remaining },
    }
}

/// What closes the gate to this code whatever the operator says and whoever holds the lock.
fn contradiction(record: &Record, terms: &Terms) -> Option<Failure> {
    if let Some(journal) = &record.journal {
        if !journal.began_from(record) {
            return Some(moved_beneath(journal, record));
        }
        let known = Version::parse(&journal.version)
            .ok()
            .and_then(|version| terms.upgrades.unit(&version))
            .is_some_and(|unit| journal.belongs_to(unit));
        if !known {
            return Some(unknown_journal(journal, record, terms));
        }
    }
    if let Some(failure) = disagreement(record, terms) {
        return Some(failure);
    }
    let floor = record.floor()?;
    (record.version > *terms.code && floor > *terms.code).then(|| {
        Failure::new(
            Outcome::Incompatible,
            format!(
                "database is at {} but this binary is {} and the floor is {floor}",
                record.text, terms.code
            ),
            format!("deploy {floor} or restore a backup"),
        )
    })
}

/// Where the history since the last word of the operator disagrees with the table of upgrades.
fn disagreement(record: &Record, terms: &Terms) -> Option<Failure> {
    let newest_initialise =
        record.history.iter().rposition(|entry| entry.action == Action::Initialise);
    let since = &record.history[newest_initialise.unwrap_or_default()..];
    let (base, oldest) = (since.first()?, terms.upgrades.units().first()?);
    let applied = |version: &Version| {
        since.iter().any(|entry| entry.action == Action::Upgrade && entry.version == *version)
    };
    let unknown = since.iter().find(|entry| {
        entry.action == Action::Upgrade
            && entry.is_the_gates()
            && entry.version > oldest.version
            && entry.version <= *terms.code
            && terms.upgrades.unit(&entry.version).is_none()
    });
    if let Some(entry) = unknown {
        let version = &entry.version;
        return Some(Failure::new(
            Outcome::Incompatible,
            format!(
                "the database went through the upgrade of {version}, which this code does not have"
            ),
            format!(
                "deploy code that has it; if the documents are as this code expects them, set \
                 GATE_MODE=record, GATE_RECORD_VERSION={recorded} and GATE_EXPECT_VERSION={text}",
                recorded = record.version,
                text = record.text
            ),
        ));
    }
    let missing = terms
        .upgrades
        .between(&base.version, &record.version)
        .into_iter()
        .map(|unit| &unit.version)
        .find(|version| !applied(version))?;
    Some(Failure::new(
        Outcome::Incompatible,
        format!(
            "the database is at {} but did not go through the upgrade of {missing}",
            record.text
        ),
        format!(
            "set GATE_MODE=record, GATE_EXPECT_VERSION={text} and GATE_RECORD_VERSION to a version \
             before {missing}, so that it is applied, or to {recorded} where the documents need nothing",
            text = record.text,
            recorded = record.version
        ),
    ))
}

fn unrecorded() -> Failure {
    Failure::new(
        Outcome::Unrecorded,
        "the database has no recorded version, and only you can know what it is",
        "for an existing database set GATE_FROM_VERSION to the version that it last ran; for a new, \
         empty one set GATE_INITIALISE=fresh",
    )
}

fn unreadable_record(unreadable: &Unreadable) -> Failure {
    Failure::new(
        Outcome::RecordUnreadable,
        format!("the record cannot be read: {}", unreadable.reason),
        format!(
            "find out which version the database is at, then set GATE_MODE=record, \
             GATE_RECORD_VERSION to it and GATE_EXPECT_VERSION={}{}",
            unreadable.text,
            discard(unreadable.journal_id().as_deref())
        ),
    )
}

fn moved_beneath(journal: &Journal, record: &Record) -> Failure {
    Failure::new(
        Outcome::RecordUnreadable,
        format!(
            "an unfinished upgrade to {} began at {} with {} entries of history, but the record is \
             now at {} with {}: something else wrote to it",
            journal.version,
            journal.from.version,
            journal.from.history,
            record.text,
            record.history.len()
        ),
        format!(
            "find out what the documents are like, then set GATE_MODE=record, GATE_RECORD_VERSION, \
             GATE_EXPECT_VERSION={}{}",
            record.text,
            discard(Some(&journal.id))
        ),
    )
}

fn unknown_journal(journal: &Journal, record: &Record, terms: &Terms) -> Failure {
    Failure::new(
        Outcome::Incompatible,
        format!(
            "an upgrade to {} by code {} on {} is unfinished, and this binary, {}, does not know it",
            journal.version, journal.code_version, journal.host, terms.code
        ),
        format!(
            "run {} again to finish it, or restore a backup; to give it up set GATE_MODE=record, \
             GATE_RECORD_VERSION, GATE_EXPECT_VERSION={}{}",
            journal.code_version,
            record.text,
            discard(Some(&journal.id))
        ),
    )
}

fn discard(journal: Option<&str>) -> String {
    journal.map_or(String::new(), |id| format!(" and GATE_DISCARD_JOURNAL={id}"))
}
