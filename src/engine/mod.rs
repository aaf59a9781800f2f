//! Doing what was decided: looking before writing, applying versions, and what both share.

mod apply;
mod batch;
mod command;
mod look;
mod transact;

use std::sync::Arc;

use mongodb::Database;

pub(crate) use apply::{Work, suits};
pub(crate) use look::{Estimate, Look, look};
pub(crate) use transact::jittered;

use crate::checkpoint::{Checkpoints, Point};
use crate::exit::Outcome;
use crate::failure::Failure;
use crate::lock::Lock;
use crate::quiet::Quiet;
use crate::record::{Done, Writer};
use crate::server::{self, Server};
use crate::stop::{Halt, Stop};
use crate::store::Store;
use crate::upgrade::{Step, StepError, Unit, UpgradeAction};

/// What every part of the engine needs, and none changes.
pub(crate) struct Context {
    pub(crate) store: Store,
    pub(crate) lock: Lock,
    pub(crate) writer: Writer,
    pub(crate) server: Server,
    pub(crate) stop: Stop,
    /// How many documents one transaction may change.
    pub(crate) batch_documents: usize,
    pub(crate) checkpoints: Arc<dyn Checkpoints>,
    /// What must not run when a version moves.
    pub(crate) quiet: Quiet,
}

impl Context {
    fn database(&self) -> &Database {
        &self.store.database
    }

    async fn reached(&self, point: Point) {
        self.checkpoints.reached(point).await;
    }
}

/// The actions that a version's steps report, from what each did.
pub(crate) fn actions<'a>(
    unit: &Unit,
    done: impl IntoIterator<Item = &'a Done>,
) -> Vec<UpgradeAction> {
    unit.steps().zip(done).flat_map(|(step, done)| step_actions(step, done)).collect()
}

fn step_actions(step: &Step, done: &Done) -> Vec<UpgradeAction> {
    let Step::Transform(transform) = step else { return done.actions.clone() };
    transform
        .counters
        .iter()
        .filter_map(|counter| {
            let n = *done.counts.get(counter.name).filter(|n| **n > 0)?;
            Some(UpgradeAction {
                description: counter.description.replace("{n}", &n.to_string()),
                collection: transform.collection.to_owned(),
                action_type: counter.action_type,
                details: mongodb::bson::doc! { counter.name: n as i64 },
            })
        })
        .collect()
}

/// The closed gate of a failed upgrade.
fn failed(what: impl Into<String>, next: impl Into<String>) -> Halt {
    Halt::Failure(Failure::new(Outcome::UpgradeFailed, what, next))
}

/// What an author's code ended with, for the engine: a refusal closes the gate.
fn refused(error: StepError, unit: &Unit, place: &str) -> Halt {
    match error {
        StepError::Driver(error) => Halt::Driver(error),
        StepError::Refused(reason) => failed(
            format!("upgrade {}: {place}: {reason}", unit.version),
            "mend what it names, or deploy code whose upgrade can deal with it, then run it again",
        ),
    }
}

/// An error that ends the run, in the words of what was being done.
pub(crate) fn closed(halt: Halt, doing: &str) -> Failure {
    match halt {
        Halt::Failure(failure) => failure,
        Halt::Driver(error) => server::failure(&error, doing),
        Halt::Stopped(reason) => reason.failure(),
        Halt::RecordMoved => Failure::new(
            Outcome::Locked,
            "the record was changed by another run at the same time",
            "run it again: it reads the record and decides anew",
        ),
    }
}
