//! Commands: each is probed, and carried out so that a late duplicate does no harm.

use async_trait::async_trait;
use mongodb::ClientSession;
use mongodb::bson::{Document, serialize_to_document};

use crate::authoring::command::Command;
use crate::authoring::command::kind::{
    CommandKind, EndState, Probe, ProbeContext, ProbeError, Subject,
};
use crate::authoring::step::Step;
use crate::authoring::step_kind::StepKind;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::context::Context;
use crate::engine::documents::evaluate;
use crate::engine::failing::{at, failed};
use crate::engine::preflight::estimate::{Estimate, Known};
use crate::engine::steps::kind::{PreflightContext, StepWork};
use crate::engine::work::Work;
use crate::process::checkpoint::Point;
use crate::process::failure::Failure;
use crate::record::journal::Done;
use crate::server::compatibility::NamingByUuid;
use crate::server::stop::RunError;
use crate::server::{answer, compatibility};

#[async_trait(?Send)]
impl StepWork for Command {
    async fn understood(
        &self,
        context: &Context,
        upgrade: &VersionUpgrade,
    ) -> Result<(), RunError> {
        let command = self.as_kind();
        let Some(filter) = command.filter() else { return Ok(()) };
        let whose = at(upgrade, &self.name());
        evaluate::known_filter(context, &whose, command.collections()[0], filter).await
    }

    async fn preflight(&self, on: &PreflightContext<'_>) -> Result<Option<Known>, RunError> {
        let command = self.as_kind();
        let identity = on.begun.and_then(|journal| journal.command.as_ref());
        let todo = match outcome_of_earlier(on, command)? {
            Some(todo) => Some(todo),
            None => {
                let probe = probe(on.context, on.upgrade, command, identity).await?;
                let done = matches!(probe, Probe::Done);
                let depends = on.earlier.iter().any(|step| may_affect(step, command, done));
                if !depends && matches!(probe, Probe::Missing) {
                    return Err(missing(on.upgrade, command));
                }
                (!depends).then_some(!done)
            }
        };
        if todo == Some(true) && identity.is_none() {
            check_conflicting_index(on, command).await?;
        }
        Ok(todo.map(|todo| Known { done: done(command, todo), ..Known::default() }))
    }

    async fn in_transaction(
        &self,
        _context: &Context,
        _session: &mut ClientSession,
        _upgrade: &VersionUpgrade,
        _most: u64,
    ) -> Result<Option<Done>, RunError> {
        Err(Failure::bug("a command inside a transaction").into())
    }

    async fn in_batches(
        &self,
        work: &mut Work<'_>,
        upgrade: &VersionUpgrade,
        _estimate: &Estimate,
    ) -> Result<(), RunError> {
        let command = self.as_kind();
        let context = work.context;
        let begun = work.journal()?.command.clone();
        let ours = match begun {
            Some(identity) => {
                redo(context, upgrade, command, &identity).await?;
                true
            }
            None => match probe(context, upgrade, command, None).await? {
                Probe::Done => false,
                Probe::Missing => return Err(missing(upgrade, command)),
                Probe::Todo(identity) => {
                    work.advance(|journal| journal.command = Some(identity.clone())).await?;
                    context.reached(Point::Journaled).await;
                    send(context, upgrade, command, &identity).await?;
                    true
                }
            },
        };
        context.reached(Point::AfterCommand).await;
        work.advance(|journal| journal.finish_step(&done(command, ours))).await
    }

    fn sweepable(&self) -> Result<&Transform, &'static str> {
        Err("it is a command")
    }
}

/// What a command did, or found done.
fn done(command: &dyn CommandKind, ours: bool) -> Done {
    let actions = if ours { vec![command.action()] } else { vec![] };
    Done { actions, ..Done::default() }
}

/// Whether an earlier step may change what a command has to do; `done` says that so far there is nothing to do.
fn may_affect(earlier: &Step, command: &dyn CommandKind, done: bool) -> bool {
    let touches = |names: &[&str]| command.collections().iter().any(|name| names.contains(name));
    if earlier.gone().is_some() {
        return touches(&earlier.changes());
    }
    // an earlier step may create the collection
    if command.gone().is_some() {
        return done && touches(&earlier.changes());
    }
    earlier.command().is_some_and(|earlier| earlier.subject() == command.subject())
}

/// Whether a command has something to do, where an earlier step decides that alone: one that creates or
/// drops an index of the same name, or sets the same collection's validator.
///
/// # Errors
///
/// An earlier step creates an index of that name with other keys or options, and none drops it.
fn outcome_of_earlier(
    on: &PreflightContext<'_>,
    command: &dyn CommandKind,
) -> Result<Option<bool>, RunError> {
    let Some(wanted) = command.end_state() else { return Ok(None) };
    let before = on.earlier.iter().rev().find_map(|step| {
        let before = step.command().filter(|before| before.subject() == command.subject())?;
        before.end_state()
    });
    let same = |one, other| {
        let plain = |index| serialize_to_document(index).unwrap_or_default();
        plain(one) == plain(other)
    };
    Ok(Some(match (before, wanted) {
        (None, _) => return Ok(None),
        (Some(EndState::Index(Some(before))), EndState::Index(Some(index)))
            if !same(before, index) =>
        {
            return Err(conflict(
                on.upgrade,
                command,
                "an earlier step creates an index of that name with other keys or options",
                "drop that one with a step between them",
            ));
        }
        (Some(EndState::Index(before)), EndState::Index(index)) => {
            before.is_some() != index.is_some()
        }
        (Some(EndState::Validator(before)), EndState::Validator(validator)) => before != validator,
        _ => return Ok(None),
    }))
}

/// Makes sure that the index to be created is not there under another name, unless an earlier step drops
/// that one.
async fn check_conflicting_index(
    on: &PreflightContext<'_>,
    command: &dyn CommandKind,
) -> Result<(), RunError> {
    let (context, collection) = (on.context, command.collections()[0]);
    let asking = || context.stop.guard(command.conflicting_index(context.database()));
    let Some(twin) = context.retry(async || asking().await).await? else { return Ok(()) };
    let subject = Subject::Index { collection, name: &twin };
    let drops = |step: &&Step| {
        step.command().is_some_and(|earlier| {
            earlier.subject() == subject
                && matches!(earlier.end_state(), Some(EndState::Index(None)))
        })
    };
    if on.earlier.iter().any(drops) {
        return Ok(());
    }
    Err(conflict(
        on.upgrade,
        command,
        &format!("the same index is there under the name {twin}"),
        "give the new one that name, or drop the other one with a step before",
    ))
}

/// Finds out whether a command is done; again after errors that may pass.
async fn probe(
    context: &Context,
    upgrade: &VersionUpgrade,
    command: &dyn CommandKind,
    identity: Option<&Document>,
) -> Result<Probe, RunError> {
    let indexes = upgrade.indexes_from_here(command.collections()[0]).collect();
    let on = ProbeContext { database: context.database(), indexes };
    let probing = async || {
        command.probe(&on, identity).await.map_err(|unprobed| match unprobed {
            ProbeError::Driver(error) => RunError::Driver(error),
            ProbeError::Conflict { reason, next } => conflict(upgrade, command, &reason, next),
        })
    };
    context.retry(async || context.stop.guard(probing()).await).await
}

/// Carries out a command that the journal names, unless it is done.
async fn redo(
    context: &Context,
    upgrade: &VersionUpgrade,
    command: &dyn CommandKind,
    identity: &Document,
) -> Result<(), RunError> {
    if !command.may_be_in_progress()
        && let Probe::Done = probe(context, upgrade, command, Some(identity)).await?
    {
        return Ok(());
    }
    send(context, upgrade, command, identity).await
}

/// Carries out a command on what `identity` names, with the lease verified just before.
async fn send(
    context: &Context,
    upgrade: &VersionUpgrade,
    command: &dyn CommandKind,
    identity: &Document,
) -> Result<(), RunError> {
    let sending = async || {
        context.lock.verify(&context.stop).await?;
        context.reached(Point::BeforeCommand).await;
        context.stop.guard(command.send(context.database(), identity)).await
    };
    match context.retry(sending).await {
        Ok(()) => {}
        // the collection is not the one that was probed, or not there: the probe says what that means
        Err(RunError::Driver(error)) if matches!(answer::code(&error), Some(26 | 27 | 361)) => {}
        // it was lowered since the run began
        Err(RunError::Driver(error))
            if compatibility::is_refusal(&error) && command.gone().is_some() =>
        {
            let what = format!("upgrade {}: {}", upgrade.version, command.describe());
            let lacking = NamingByUuid::CompatibilityTooLow.lacking(&what);
            return Err(lacking.map_or(RunError::Driver(error), RunError::Failure));
        }
        Err(error) => return Err(error),
    }
    match probe(context, upgrade, command, Some(identity)).await? {
        Probe::Done => Ok(()),
        Probe::Missing => Err(missing(upgrade, command)),
        Probe::Todo(_) => Err(failed(
            format!("{}: it took no effect", at(upgrade, &command.describe())),
            "read the server's log, which says why, then run it again",
        )),
    }
}

/// The failure of a command whose probe found nothing to change.
fn missing(upgrade: &VersionUpgrade, command: &dyn CommandKind) -> RunError {
    conflict(
        upgrade,
        command,
        "there is no index of that name",
        "create the index, or deploy code whose upgrade creates it first, then run it again",
    )
}

/// The closed gate of a command that what is there does not allow.
fn conflict(
    upgrade: &VersionUpgrade,
    command: &dyn CommandKind,
    reason: &str,
    next: &str,
) -> RunError {
    failed(format!("{}: {reason}", at(upgrade, &command.describe())), next)
}
