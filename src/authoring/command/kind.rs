//! What every kind of command says of itself, and does.

use std::fmt::Debug;

use async_trait::async_trait;
use derive_more::From;
use mongodb::bson::Document;
use mongodb::error::Error;
use mongodb::{Database, IndexModel};

use crate::authoring::collections::Collections;
use crate::process::action::{ActionType, UpgradeAction};
use crate::server::privileges::Need;

/// A kind of command.
#[async_trait(?Send)]
pub(crate) trait CommandKind: Debug + Send + Sync {
    /// One line that says what the command does, and names it in the journal.
    fn describe(&self) -> String;

    /// The collections concerned, the one that is changed first.
    fn collections(&self) -> Vec<&str>;

    /// What it changes: commands of one subject bear on each other.
    fn subject(&self) -> Subject<'_>;

    /// What it leaves of its subject, where that alone decides what a later command of that subject finds.
    fn end_state(&self) -> Option<EndState<'_>> {
        None
    }

    /// Its kind and the details of what it reports.
    fn reports(&self) -> (ActionType, Document);

    /// Why the server could not carry it out on any database.
    fn mistake(&self) -> Option<String> {
        None
    }

    /// What it gives the server that has to be a filter.
    fn filter(&self) -> Option<&Document> {
        None
    }

    fn privileges(&self) -> Vec<Need>;

    /// Declares which collections it needs, adds and removes.
    fn declare_collections<'a>(&'a self, collections: &mut Collections<'a, '_>);

    /// Finds out whether it is done; for a command that was begun, by the identities that the journal holds.
    async fn probe(
        &self,
        on: &ProbeContext<'_>,
        begun: Option<&Document>,
    ) -> Result<Probe, ProbeError>;

    /// Carries it out on what `identity` names.
    async fn send(&self, database: &Database, identity: &Document) -> Result<(), Error>;

    /// Whether a probe calls it done while the server still works on it.
    fn may_be_in_progress(&self) -> bool {
        false
    }

    /// The name of an index that is there and keeps the server from creating this one.
    async fn conflicting_index(&self, _database: &Database) -> Result<Option<String>, Error> {
        Ok(None)
    }
}

/// What a command changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject<'a> {
    Index {
        collection: &'a str,
        name: &'a str,
    },
    Validator {
        collection: &'a str,
    },
    Options {
        collection: &'a str,
    },
    /// Which collections there are. Their UUIDs name them to the server.
    Collections {
        gone: &'a str,
    },
}

/// What a command leaves of its subject.
pub(crate) enum EndState<'a> {
    /// This index, or `None`.
    Index(Option<&'a IndexModel>),
    Validator(&'a Document),
}

/// Where a command is probed.
pub(crate) struct ProbeContext<'a> {
    pub(crate) database: &'a Database,
    /// The indexes of its collection that this version or a later one creates.
    pub(crate) indexes: Vec<&'a IndexModel>,
}

/// What a probe found.
pub(crate) enum Probe {
    /// There is nothing left to do.
    Done,
    /// It is to be done, on what these identities name.
    Todo(Document),
    /// What it is to change is not there. An earlier step may create it.
    Missing,
}

impl Probe {
    /// Done, or to be done on what nothing has to name.
    pub(crate) fn of(done: bool) -> Self {
        if done { Probe::Done } else { Probe::Todo(Document::new()) }
    }
}

/// Why a probe found nothing out.
#[derive(From)]
pub(crate) enum ProbeError {
    Driver(Error),
    /// What is there does not allow the command: why, and what to do next.
    #[from(skip)]
    Conflict {
        reason: String,
        next: &'static str,
    },
}

impl dyn CommandKind + '_ {
    /// What it reports when it was carried out.
    pub(crate) fn action(&self) -> UpgradeAction {
        let (action_type, details) = self.reports();
        let collection = self.collections()[0].to_owned();
        UpgradeAction { description: self.describe(), collection, action_type, details }
    }

    /// The collection that it takes away under its name.
    pub(crate) fn gone(&self) -> Option<&str> {
        match self.subject() {
            Subject::Collections { gone } => Some(gone),
            _ => None,
        }
    }

    /// The index that it creates, with its collection.
    pub(crate) fn index(&self) -> Option<(&str, &IndexModel)> {
        match (self.subject(), self.end_state()) {
            (Subject::Index { collection, .. }, Some(EndState::Index(Some(index)))) => {
                Some((collection, index))
            }
            _ => None,
        }
    }
}
