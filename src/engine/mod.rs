//! Doing what was decided: looking before writing, applying versions, and what both share.

mod absent;
mod added;
mod apply;
mod author;
mod batch;
mod chain;
mod command;
mod condition;
mod converge;
mod descendants;
mod large;
mod lifetime;
mod look;
mod reader;
mod seed;
mod transact;
mod unstored;

use std::sync::Arc;
use std::time::Duration;

use mongodb::Database;
use tokio::time::Instant;

pub(crate) use absent::{Absent, absent};
pub(crate) use apply::{Work, suits};
pub(crate) use command::names_by_uuid;
pub(crate) use condition::ask;
pub(crate) use look::{Estimate, Later, Look, look};

use crate::authoring::action::{ActionType, UpgradeAction};
use crate::authoring::step::Step;
use crate::authoring::table::Unit;
use crate::authoring::transform::Transform;
use crate::process::activity::Activity;
use crate::process::checkpoint::{Checkpoints, Point};
use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::quiesce::quiet::Quiet;
use crate::record::history::Writer;
use crate::record::journal::Done;
use crate::record::lock::Lock;
use crate::record::staged::Own;
use crate::record::store::Store;
use crate::server::answer;
use crate::server::connection::Server;
use crate::server::errors;
use crate::server::retry::Retry;
use crate::server::stop::{Halt, Stop};

/// How long something is tried again after errors that may pass.
const PATIENCE: Duration = Duration::from_secs(3);

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
    pub(crate) activity: Activity,
    /// What must not run when a version moves.
    pub(crate) quiet: Quiet,
    /// What this run has stored next to the record for as long as an edit takes.
    pub(crate) staged: Own,
}

impl Context {
    fn database(&self) -> &Database {
        &self.store.database
    }

    async fn reached(&self, point: Point) {
        self.checkpoints.reached(point).await;
    }

    /// Does something, and again after errors that may pass.
    async fn retry<T>(&self, attempt: impl AsyncFnMut() -> Result<T, Halt>) -> Result<T, Halt> {
        let until = Some(Instant::now() + PATIENCE);
        Retry { until, stop: Some(&self.stop), ..Retry::default() }.run(attempt).await
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
    match step {
        Step::Transform(transform) => counted(transform, done),
        Step::Seed(seed) => {
            let n = done.counts.get(seed::INSERTED).copied().unwrap_or_default();
            let description = seed.describe().replace("{n}", &n.to_string());
            let action = UpgradeAction::new(ActionType::Insert, &*seed.collection, description);
            vec![action.detail(seed::INSERTED, n as i64)]
        }
        Step::Transaction(_) | Step::Command(_) => done.actions.clone(),
    }
}

/// What a transform's counters came to, and what none of them counted.
fn counted(transform: &Transform, done: &Done) -> Vec<UpgradeAction> {
    let count = |name: &str| done.counts.get(name).copied().unwrap_or_default();
    let mut actions: Vec<UpgradeAction> = Vec::new();
    for counter in &transform.counters {
        let n = count(&counter.name);
        actions.push(UpgradeAction {
            description: counter.description.replace("{n}", &n.to_string()),
            collection: transform.collection.clone().into_owned(),
            action_type: counter.action_type,
            details: mongodb::bson::doc! { &*counter.name: n as i64 },
        });
    }
    let further = if actions.is_empty() { "" } else { "further " };
    for (name, verb, action_type, collection) in [
        (batch::CHANGED, "Change", ActionType::Update, transform.collection.to_string()),
        (batch::DELETED, "Delete", ActionType::Delete, transform.collection.to_string()),
        (batch::ADDED, "Add", ActionType::Insert, transform.inserts_into.join(", ")),
    ] {
        let n = count(name);
        if n > 0 {
            actions.push(UpgradeAction {
                description: format!("{verb} {n} {further}document(s)"),
                collection,
                action_type,
                details: mongodb::bson::doc! { "documents": n as i64 },
            });
        }
    }
    actions
}

/// The closed gate of a failed upgrade.
fn failed(what: impl Into<String>, next: impl Into<String>) -> Halt {
    Halt::Failure(Failure::new(Outcome::UpgradeFailed, what, next))
}

/// Where an upgrade's work failed: its version and its step.
fn at(unit: &Unit, step: &str) -> String {
    format!("upgrade {}: step \"{step}\"", unit.version)
}

/// The closed gate of a step that failed.
fn failed_step(unit: &Unit, step: &str, what: &str, next: &str) -> Halt {
    failed(format!("{}: {what}", at(unit, step)), next)
}

/// An error of the server in a step's own work, with version, step and collections; what may pass, what
/// others cause, and a missing privilege stay as they are.
pub(crate) fn in_step(halt: Halt, unit: &Unit, step: &Step) -> Halt {
    match halt {
        Halt::Driver(error)
            if answer::code(&error).is_some_and(|code| code != answer::UNAUTHORISED)
                && !errors::passing(&error)
                && !answer::too_large(&error) =>
        {
            let mut collections = step.writes();
            if let Step::Command(command) = step {
                collections = command.collections();
            }
            collections.dedup();
            let doing =
                format!("{}: collection {}", at(unit, &step.name()), collections.join(", "));
            errors::failure(&error, &doing, Outcome::UpgradeFailed).into()
        }
        halt => halt,
    }
}

/// An error that ends the run outside the upgrades' own work, in the words of what was being done.
pub(crate) fn closed(halt: Halt, doing: &str) -> Failure {
    closed_as(halt, doing, Outcome::NoServer)
}

/// The same while upgrades were looked at: an error of no known kind is theirs.
pub(crate) fn closed_looking(halt: Halt, doing: &str) -> Failure {
    closed_as(halt, doing, Outcome::UpgradeFailed)
}

/// The same while `units` were applied, where an error that passes was tried again for a long time.
pub(crate) fn closed_by(halt: Halt, doing: &str, units: &[&Unit]) -> Failure {
    match &halt {
        Halt::Driver(error) if answer::held_by_others(error) => {
            let mut collections: Vec<&str> =
                units.iter().flat_map(|unit| unit.steps()).flat_map(Step::writes).collect();
            collections.sort_unstable();
            collections.dedup();
            Failure::new(
                Outcome::UpgradeFailed,
                format!(
                    "{doing}: something else holds documents of {} ({})",
                    collections.join(", "),
                    answer::describe(error)
                ),
                "find the long transaction that holds them (db.currentOp() shows it) and end it, then \
                 run it again",
            )
        }
        _ => closed_looking(halt, doing),
    }
}

fn closed_as(halt: Halt, doing: &str, unknown: Outcome) -> Failure {
    match halt {
        Halt::Failure(failure) => failure,
        Halt::Driver(error) => errors::failure(&error, doing, unknown),
        Halt::Stopped(reason) => reason.failure(),
        Halt::RecordMoved => Failure::new(
            Outcome::Locked,
            "the record was changed by another run at the same time",
            "run it again: it reads the record and decides anew",
        ),
    }
}

#[cfg(test)]
mod tests {
    use mongodb::error::{CommandError, ErrorKind};

    use super::*;
    use crate::authoring::table::Upgrades;
    use crate::authoring::transform::Transform;
    use crate::authoring::upgrade::Upgrade;
    use crate::version::Version;

    fn error(code: i32) -> Halt {
        let error = serde_json::json!({ "code": code, "codeName": "Name", "errmsg": "a text" });
        let error: CommandError = serde_json::from_value(error).unwrap();
        Halt::Driver(ErrorKind::Command(error).into())
    }

    #[test]
    fn an_error_of_no_known_kind_is_the_upgrades_only_in_their_own_work() {
        let step = Transform::new("things", |_, _, _| Ok(()));
        let code = Version::parse_code("0.8.0").unwrap();
        let upgrades = Upgrades::new([Upgrade::new("0.8.0", "an upgrade").step(step)], &code);
        let upgrades = upgrades.unwrap();
        let units: Vec<&Unit> = upgrades.units().iter().collect();
        let outcomes = |code| {
            let by = closed_by(error(code), "upgrading", &units);
            (closed(error(code), "asking").outcome, by.outcome)
        };
        assert_eq!(outcomes(8), (Outcome::NoServer, Outcome::UpgradeFailed));
        assert_eq!(outcomes(121), (Outcome::ServerUnsuitable, Outcome::UpgradeFailed));
        // there is no primary, whatever was being done
        assert_eq!(outcomes(10107), (Outcome::NoServer, Outcome::NoServer));
        // another transaction holds documents: a primary is there
        assert_eq!(outcomes(112), (Outcome::NoServer, Outcome::UpgradeFailed));
        let held = closed_by(error(251), "upgrading", &units);
        assert_eq!(held.outcome, Outcome::UpgradeFailed);
        assert!(held.message.contains("something else holds documents of things"), "{held}");
        assert_eq!(closed_looking(error(251), "looking").outcome, Outcome::NoServer);
        assert_eq!(closed_looking(error(121), "looking").outcome, Outcome::UpgradeFailed);
        // what the driver itself cannot do, or what no server should answer
        let odd = || Halt::Driver(mongodb::error::Error::from(ErrorKind::Bson(bson_error())));
        assert_eq!(closed(odd(), "asking").outcome, Outcome::Bug);
        assert_eq!(closed_by(odd(), "upgrading", &units).outcome, Outcome::UpgradeFailed);
    }

    fn bson_error() -> mongodb::bson::error::Error {
        mongodb::bson::RawDocumentBuf::from_bytes(vec![1, 2, 3]).unwrap_err()
    }
}
