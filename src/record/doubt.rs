//! Commits whose outcome is not known: what was sent, and what the stored record later says about it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::record::document::{Record, Recorded};
use crate::record::history::{Action, Entry};
use crate::record::journal::Journal;
use crate::record::moves::Move;
use crate::server::errors;
use crate::server::stop::{RunError, Stop, within};

/// The commit of a run that was sent last, while its outcome is not known.
///
/// A run sends one at a time, each from the state that the one before left. Once a later one is confirmed,
/// or a majority has a record that only one outcome explains, nothing is in doubt any more.
#[derive(Clone, Debug)]
pub(crate) struct Doubt {
    sent: Arc<Mutex<Option<Sent>>>,
    /// How long a commit may be without an answer once `deadline` is over.
    patience: Duration,
    deadline: Option<Instant>,
}

/// What a commit was to make of the record.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sent {
    /// The version that it applies, begins, goes on with or records.
    pub(crate) version: String,
    run_id: String,
    from: Option<Record>,
    change: Change,
    /// What was sent, if it was sent by itself and in no session of the run's.
    alone: Option<Arc<Move>>,
}

/// How a commit changes the record.
#[derive(Clone, Debug, PartialEq)]
enum Change {
    /// The version is applied, and the record moves to it.
    Apply,
    /// The record moves to the version, and no document changes.
    Record,
    /// A journal of the version begins.
    Begin(Journal),
    /// A part of the version is applied, and its journal moves on.
    Part(Journal),
    /// Documents of an applied version are swept; the version stays.
    Sweep(Record),
    /// The record notes that the application's own stamp has followed; the version stays.
    Stamped(Record),
}

/// What a stored record says about a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommitOutcome {
    /// It took effect.
    Committed,
    /// The record is where the commit started: it took no effect so far.
    NotYet,
    /// The record moved in another way: it took no effect, and never will.
    Overtaken,
}

/// A commit about to be sent.
#[must_use]
pub(crate) struct Sending<'a> {
    doubt: &'a Doubt,
    before: Option<Sent>,
}

impl Doubt {
    /// Nothing is in doubt. A commit may be without an answer until `deadline`, or else for `patience`.
    pub(crate) fn new(patience: Duration, deadline: Option<Instant>) -> Self {
        Doubt { sent: Arc::default(), patience, deadline }
    }

    /// To be called just before a commit is sent.
    pub(crate) fn sending(&self, sent: Sent) -> Sending<'_> {
        let before = self.replace(Some(sent));
        Sending { doubt: self, before }
    }

    /// The commit whose outcome is not known.
    pub(crate) fn sent(&self) -> Option<Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The outcome of everything that was sent is known.
    pub(crate) fn resolved(&self) {
        self.replace(None);
    }

    fn replace(&self, sent: Option<Sent>) -> Option<Sent> {
        std::mem::replace(&mut *self.sent.lock().unwrap_or_else(PoisonError::into_inner), sent)
    }

    /// Waits for the answer to a commit, and no longer than it may take.
    pub(crate) async fn answer<T, E: Into<RunError>>(
        &self,
        stop: &Stop,
        commit: impl Future<Output = Result<T, E>>,
    ) -> Result<T, RunError> {
        let until = self.deadline.map(|deadline| deadline.max(Instant::now() + self.patience));
        match within(until, stop.guard_with_grace(commit)).await {
            Some(answer) => answer,
            None => Err(self.unanswered()),
        }
    }

    /// How a run ends that waited for the answer to a commit in vain.
    pub(crate) fn unanswered(&self) -> RunError {
        let time = humantime::format_duration(self.patience);
        RunError::Failure(Failure::new(
            Outcome::NoServer,
            format!("a write was not confirmed within {time}"),
            "check that the server, or a majority of the replica set's members, answers, then run it again",
        ))
    }
}

impl Sending<'_> {
    /// It took effect, and so everything that was sent before is known, too.
    pub(crate) fn committed(self) {
        self.doubt.resolved();
    }

    /// It ended so: without effect, if the server refused it and did not merely fail to confirm it.
    pub(crate) fn ended_with(self, error: &RunError) {
        let refused = match error {
            RunError::Driver(error) => errors::refuses(error),
            RunError::Failure(failure) => failure.outcome != Outcome::NoServer,
            // the record was as it should be, and the application's stamp was not
            RunError::RecordMoved => true,
            RunError::Stopped(_) => false,
        };
        if refused {
            self.refused();
        }
    }

    /// It took no effect. What was sent before stays as it was.
    pub(crate) fn refused(self) {
        self.doubt.replace(self.before);
    }
}

impl Sent {
    /// The commit of `run_id` that moves the record between two states.
    pub(crate) fn between(from: Option<&Record>, to: &Record, run_id: &str) -> Self {
        let begun = from.and_then(|from| from.journal.as_ref());
        let moves = from.is_none_or(|from| from.history.len() < to.history.len());
        let newest = to.history.last();
        let applies = newest.is_some_and(|entry| entry.action == Action::Upgrade);
        let (version, change) = match (begun, &to.journal) {
            (None, Some(journal)) => (&journal.version, Change::Begin(journal.clone())),
            (Some(_), Some(journal)) => (&journal.version, Change::Part(journal.clone())),
            (Some(_), None) => (&to.text, Change::Apply),
            (None, None) if from.is_some_and(|from| sweeps(from, to)) => {
                (&to.text, Change::Sweep(to.clone()))
            }
            (None, None) if from.is_some_and(|from| from.stamping().is_some()) && !moves => {
                (&to.text, Change::Stamped(to.clone()))
            }
            // a capped history does not grow
            (None, None) if from.is_some_and(|from| from.text == to.text) && !moves => {
                (&to.text, Change::Sweep(to.clone()))
            }
            (None, None) if applies => (&to.text, Change::Apply),
            (None, None) => (&to.text, Change::Record),
        };
        let (version, run_id) = (version.clone(), run_id.to_owned());
        Sent { version, run_id, from: from.cloned(), change, alone: None }
    }

    /// The repair of `run_id` that records `version`, from whatever is stored.
    pub(crate) fn repair(version: String, run_id: &str) -> Self {
        let run_id = run_id.to_owned();
        Sent { version, run_id, from: None, change: Change::Record, alone: None }
    }

    /// The same, sent by itself and in no session of the run's.
    pub(crate) fn alone(self, change: &Arc<Move>) -> Self {
        Sent { alone: Some(change.clone()), ..self }
    }

    /// What may be sent again to learn the outcome, if no session can be asked for it. That is safe: it takes effect at
    /// most once, because it starts from a state that it leaves.
    pub(crate) fn again(&self) -> Option<&Move> {
        self.alone.as_deref()
    }

    /// What a record, as a majority has it, says about the commit.
    pub(crate) fn commit_outcome(&self, recorded: &Recorded) -> CommitOutcome {
        let record = recorded.record();
        if record.is_some_and(|record| self.shows(record)) {
            return CommitOutcome::Committed;
        }
        match (recorded, &self.from) {
            // the repair of what cannot be read starts from there
            (Recorded::Absent | Recorded::Unreadable(_), None) => CommitOutcome::NotYet,
            (Recorded::Readable(record), Some(from)) if record.is_state(from) => {
                CommitOutcome::NotYet
            }
            // a repair says nothing of where it started
            (Recorded::Readable(_), None) if self.change == Change::Record => CommitOutcome::NotYet,
            _ => CommitOutcome::Overtaken,
        }
    }

    /// Whether the record went through the commit.
    fn shows(&self, record: &Record) -> bool {
        match &self.change {
            Change::Apply | Change::Record => self.entry(record).is_some(),
            Change::Begin(journal) => {
                record.journal_id() == Some(&journal.id) || self.finished(record)
            }
            Change::Part(journal) => match &record.journal {
                Some(stored) if stored.id == journal.id => {
                    stored.seq > journal.seq
                        || (stored.seq == journal.seq && stored.run_id == self.run_id)
                }
                _ => self.finished(record),
            },
            Change::Sweep(to) | Change::Stamped(to) => record.is_state(to),
        }
    }

    /// This run's entry for the version.
    pub(crate) fn entry<'a>(&self, record: &'a Record) -> Option<&'a Entry> {
        let own = |entry: &&Entry| {
            entry.version.to_string() == self.version && entry.run_id() == Some(&self.run_id)
        };
        record.history.iter().rev().find(own)
    }

    /// Whether the version that was journaled was applied meanwhile, by whichever run.
    fn finished(&self, record: &Record) -> bool {
        let before = self.from.as_ref().map_or(0, |from| from.history.len());
        let since = record.history.iter().skip(before);
        let mut applied = since.filter(|entry| entry.action == Action::Upgrade);
        record.journal.is_none() && applied.any(|entry| entry.version.to_string() == self.version)
    }

    /// Whether the commit leaves it open if the version is applied or recorded.
    pub(crate) fn concerns_version(&self) -> bool {
        !matches!(self.change, Change::Sweep(_) | Change::Stamped(_))
    }

    /// Whether it is known that the version is unfinished.
    pub(crate) fn is_part(&self) -> bool {
        matches!(self.change, Change::Part(_))
    }

    /// What is in doubt.
    pub(crate) fn question(&self) -> String {
        let version = &self.version;
        match self.change {
            Change::Apply => format!("whether {version} was applied"),
            Change::Record => format!("whether {version} was recorded"),
            Change::Begin(_) => format!("whether the upgrade to {version} has begun"),
            Change::Part(_) => format!("whether the last batch or step of {version} was applied"),
            Change::Sweep(ref to) if is_sweep(to) => {
                "whether the last documents of the sweep were changed".to_owned()
            }
            Change::Sweep(_) => {
                format!(
                    "whether documents written during the upgrade to {version} were upgraded too"
                )
            }
            Change::Stamped(_) => {
                format!(
                    "whether the record of {version} notes that the application's own stamp follows"
                )
            }
        }
    }
}

/// Whether a record's newest entry is of mode `sweep`.
fn is_sweep(record: &Record) -> bool {
    record.history.last().is_some_and(|entry| entry.action == Action::Sweep)
}

/// Whether mode `sweep` moves the record between two states.
fn sweeps(from: &Record, to: &Record) -> bool {
    let changes = from.text == to.text && from.history != to.history;
    changes && (is_sweep(to) || is_sweep(from))
}
