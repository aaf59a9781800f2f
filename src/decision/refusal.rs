//! Why the gate is closed, whoever holds the lock, and what to do about it.

use crate::decision::terms::Terms;
use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::record::document::{Record, Unreadable};
use crate::record::history::{Action, Entry};
use crate::record::journal::Journal;
use crate::record::observed::Observed;
use crate::record::stamp::stamped::Stamp;
use crate::version::Version;

/// What closes the gate to this code whatever the operator says and whoever holds the lock.
pub(super) fn contradiction(record: &Record, terms: &Terms) -> Option<Failure> {
    if let Some(journal) = &record.journal {
        if !journal.began_from(&record.start()) {
            return Some(moved_beneath(journal, record));
        }
        let known = Version::parse(&journal.version)
            .ok()
            .and_then(|version| terms.upgrades.of_version(&version))
            .is_some_and(|of_version| journal.belongs_to(of_version));
        if !known {
            return Some(unknown_journal(journal, record, terms));
        }
        let next = terms.upgrades.between(&record.version, terms.code);
        let earlier = next.first().map(|of_version| &of_version.version);
        if let Some(earlier) = earlier.filter(|earlier| earlier.to_string() != journal.version) {
            return Some(overtaken_journal(journal, record, earlier));
        }
    }
    if let Some(failure) = too_old(&record.version, "the database is at", terms) {
        return Some(failure);
    }
    if let Some(failure) = disagreement(record, terms) {
        return Some(failure);
    }
    let floor = record.floor().filter(|floor| floor > terms.code)?;
    // a version that was set back does not undo what newer code did to the documents
    let set_back = if record.version > *terms.code { String::new() } else { repair(record) };
    Some(Failure::new(
        Outcome::Incompatible,
        format!(
            "database is at {} but this binary is {} and the floor is {floor}",
            record.text, terms.code
        ),
        format!("deploy {floor} or restore a backup{set_back}"),
    ))
}

/// An unrecorded database that the operator says is older than what this code can upgrade from.
pub(super) fn declared_too_old(observed: &Observed, terms: &Terms) -> Option<Failure> {
    let from = terms.last_ran(observed).filter(|_| !terms.begins_fresh(observed))?;
    too_old(from, &says(observed), terms)
}

/// A version that this code cannot upgrade from, because the upgrades after it were removed.
fn too_old(version: &Version, says: &str, terms: &Terms) -> Option<Failure> {
    let oldest = terms.upgrades.oldest().filter(|oldest| version < *oldest)?;
    let code = terms.code;
    Some(Failure::new(
        Outcome::Incompatible,
        format!("{says} {version} but this binary, {code}, upgrades from {oldest} or later only"),
        format!(
            "deploy {} first ({oldest} or later), so that its gate upgrades the database, and then \
             {code}",
            oldest.series()
        ),
    ))
}

/// The history since the operator's last declaration disagrees with the table of upgrades.
fn disagreement(record: &Record, terms: &Terms) -> Option<Failure> {
    let history: Vec<&Entry> =
        record.history.iter().filter(|entry| entry.action != Action::Sweep).collect();
    let newest_initialise = history.iter().rposition(|entry| entry.action == Action::Initialise);
    let since = &history[newest_initialise.unwrap_or_default()..];
    let base = since.first()?;
    // of several the newest: an earlier one was undone by whoever set the version back
    let applied = |version: &Version| {
        let is = |entry: &&&Entry| entry.action == Action::Upgrade && entry.version == *version;
        since.iter().rev().find(is).copied()
    };
    let first = terms.upgrades.versions().first().map(|of_version| &of_version.version);
    let unknown = since.iter().find(|entry| {
        entry.action == Action::Upgrade
            && entry.is_the_gates()
            && terms.upgrades.oldest().or(first).is_some_and(|oldest| entry.version > *oldest)
            && entry.version <= *terms.code
            && terms.upgrades.of_version(&entry.version).is_none()
    });
    if let Some(entry) = unknown {
        let version = &entry.version;
        return Some(Failure::new(
            Outcome::Incompatible,
            format!(
                "the database went through the upgrade of {version}, which this code does not have"
            ),
            match record.version > *terms.code {
                // this code cannot record what it does not reach
                true => "deploy code that has it".to_owned(),
                false => format!("deploy code that has it{}", repair(record)),
            },
        ));
    }
    // a history may begin with an upgrade, which names what was applied as any other does
    let begun = terms.upgrades.of_version(&base.version).filter(|_| base.action == Action::Upgrade);
    let after = terms.upgrades.between(&base.version, &record.version);
    let (missing, what, renamed) = begun.into_iter().chain(after).find_map(|of_version| {
        let (missing, renamed) = match applied(&of_version.version) {
            None => (format!("the upgrade of {}", of_version.version), None),
            Some(entry) => {
                let named = entry.applied_names()?;
                let upgrade = of_version.upgrades.iter().find(|it| !it.is_among(&named))?;
                let renamed = upgrade.file.as_ref().and_then(|file| entry.applied_as(&file.sha256));
                let missing = format!(
                    "\"{}\" of {}, only through {}",
                    upgrade.name(),
                    of_version.version,
                    quoted(&named)
                );
                (missing, renamed)
            }
        };
        Some((&of_version.version, missing, renamed))
    })?;
    if let Some(name) = renamed {
        return Some(Failure::new(
            Outcome::Incompatible,
            format!(
                "the database is at {} but did not go through {what}; \"{name}\" said the same",
                record.text
            ),
            format!(
                "name the file {name} again, with its ending: the history knows by its name that it was applied"
            ),
        ));
    }
    let again: Vec<String> = since
        .iter()
        .filter(|entry| entry.action == Action::Upgrade && entry.version >= *missing)
        .map(|entry| entry.version.to_string())
        .collect();
    let again = match again.as_slice() {
        [] => String::new(),
        again => format!(" (and {} once more, on what it left)", again.join(", ")),
    };
    let as_it_is = match record.version > *terms.code {
        true => String::new(),
        false => format!(", or to {} where the documents need nothing", writable(&record.version)),
    };
    Some(Failure::new(
        Outcome::Incompatible,
        format!("the database is at {} but did not go through {what}", record.text),
        format!(
            "set GATE_MODE=record, GATE_EXPECT_VERSION={text}{discard}, and GATE_RECORD_VERSION to a \
             version before {missing}, so that it is applied{again}{as_it_is}",
            text = record.text,
            discard = discard(record.journal_id()),
        ),
    ))
}

fn quoted(names: &[&str]) -> String {
    match names {
        [] => "nothing".to_owned(),
        names => format!("\"{}\"", names.join("\", \"")),
    }
}

/// The way out where the documents are right and the record is not.
fn repair(record: &Record) -> String {
    format!(
        "; if the documents are as this code expects them, set GATE_MODE=record, \
         GATE_RECORD_VERSION to {}, GATE_EXPECT_VERSION={}{}",
        writable(&record.version),
        record.text,
        discard(record.journal_id())
    )
}

/// A recorded version as `GATE_RECORD_VERSION` takes it: Python stamps more than can be written.
fn writable(version: &Version) -> String {
    match Version::parse_code(&version.to_string()) {
        Ok(version) => version.to_string(),
        Err(_) => format!("the release before {version}"),
    }
}

/// A stamp that says nothing: neither what an unrecorded database last ran, nor that it agrees.
pub(super) fn unreadable_stamp(stamp: &Stamp, record: Option<&Record>) -> Option<Failure> {
    let reason = stamp.unreadable()?;
    let place = &stamp.place;
    let next = match record.filter(|_| stamp.is_repairable()) {
        Some(record) => format!(
            "if the recorded version, {}, is right, set GATE_MODE=record, GATE_RECORD_VERSION to {} and \
             GATE_EXPECT_VERSION={}{}: that writes it there too",
            record.text,
            writable(&record.version),
            record.text,
            discard(record.journal_id()),
        ),
        None => format!(
            "make one document of {} have the field {}, with the application's version as text",
            place.collection, place.field
        ),
    };
    Some(Failure::new(
        Outcome::RecordUnreadable,
        format!("{place}, where the application keeps its version, cannot be read: {reason}"),
        next,
    ))
}

/// Where something else moved the record or the stamp, and not the other.
pub(super) fn other_stamp(record: &Record, stamp: &Stamp, terms: &Terms) -> Option<Failure> {
    let stamped = stamp.version().filter(|_| record.disagrees_with(stamp))?;
    // this code cannot record what it does not reach
    let deploy = match stamped > terms.code {
        true => format!(" (if it is {stamped}, deploy {stamped} or later first)"),
        false => String::new(),
    };
    Some(Failure::new(
        Outcome::Incompatible,
        format!(
            "the database is recorded at {} but {}, where the application keeps its version, says \
             {stamped}: something other than this gate moved one of them",
            record.text, stamp.place
        ),
        format!(
            "find out which of the two the documents are at{deploy}, then set GATE_MODE=record, \
             GATE_RECORD_VERSION to it and GATE_EXPECT_VERSION={}{}: that writes both",
            record.text,
            discard(record.journal_id())
        ),
    ))
}

pub(super) fn unrecorded() -> Failure {
    Failure::new(
        Outcome::Unrecorded,
        "the database has no recorded version, and only you can know what it is",
        "for an existing database set GATE_FROM_VERSION to the version that it last ran; for a new, \
         empty one set GATE_INITIALISE=fresh",
    )
}

pub(super) fn unreadable_record(unreadable: &Unreadable) -> Failure {
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
            "find out which version the documents are at, then set GATE_MODE=record, \
             GATE_RECORD_VERSION to it, GATE_EXPECT_VERSION={}{}",
            record.text,
            discard(Some(&journal.id))
        ),
    )
}

fn unknown_journal(journal: &Journal, record: &Record, terms: &Terms) -> Failure {
    let upgrade = Version::parse(&journal.version).ok();
    let upgrade = upgrade.and_then(|version| terms.upgrades.of_version(&version));
    let (began, code) = (&journal.code_version, terms.code.to_string());
    let first = upgrade.and_then(|upgrade| journal.first_difference(upgrade));
    let differs = match &first {
        None => String::new(),
        Some((step, [there, here])) => {
            format!(": its step {step} was {there} there, and is {here} here")
        }
    };
    Failure::new(
        Outcome::Incompatible,
        format!(
            "an upgrade to {} by code {began} on {} is unfinished, and this binary, {code}, does not know it{differs}",
            journal.version, journal.host
        ),
        match first.is_some() && code == *began {
            true => format!(
                "give the steps their names, kinds and order again, then run it again; or set GATE_MODE=record, \
                 GATE_RECORD_VERSION to the version that the documents are at, GATE_EXPECT_VERSION={}{}",
                record.text,
                discard(Some(&journal.id))
            ),
            false => format!(
                "run {} again to finish it, or restore a backup; to give it up set GATE_MODE=record, \
                 GATE_RECORD_VERSION to the version that the documents are at, GATE_EXPECT_VERSION={}{}",
                began,
                record.text,
                discard(Some(&journal.id))
            ),
        },
    )
}

/// The code has an upgrade of an earlier version than the one begun: upgrades must be applied in version order.
fn overtaken_journal(journal: &Journal, record: &Record, earlier: &Version) -> Failure {
    Failure::new(
        Outcome::Incompatible,
        format!(
            "the upgrade to {} is unfinished, and this code has an upgrade of {earlier}, which would \
             have come before it",
            journal.version
        ),
        format!(
            "deploy code whose first upgrade after {} is that of {}, to finish it; to give it up set \
             GATE_MODE=record, GATE_RECORD_VERSION to the version that the documents are at, \
             GATE_EXPECT_VERSION={}{}",
            record.text,
            journal.version,
            record.text,
            discard(Some(&journal.id))
        ),
    )
}

fn discard(journal: Option<&str>) -> String {
    journal.map_or(String::new(), |id| format!(" and GATE_DISCARD_JOURNAL={id}"))
}

/// The source of the version that a database last ran, with its verb.
pub(super) fn says(observed: &Observed) -> String {
    match &observed.stamp {
        Some(stamp) if stamp.version().is_some() => {
            format!("{}, where the application keeps its version, says", stamp.place)
        }
        _ => "GATE_FROM_VERSION says".to_owned(),
    }
}
