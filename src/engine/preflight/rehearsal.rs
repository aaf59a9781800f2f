//! Steps that depend on one another, done in a transaction that is aborted.

use std::collections::HashSet;
use std::time::Duration;

use mongodb::ClientSession;

use crate::authoring::step::Step;
use crate::authoring::table::VersionUpgrade;
use crate::engine::context::Context;
use crate::engine::failing::{at, in_step};
use crate::engine::preflight::estimate::Known;
use crate::engine::steps::work_of;
use crate::engine::transact::abort;
use crate::record::journal::Done;
use crate::server::stop::RunError;
use crate::server::{answer, errors};

/// How many documents each step of a rehearsal may change, as a multiple of one transaction's.
const REHEARSAL: u64 = 10;

/// Runs the steps that depend on one another in a transaction that is aborted, and notes what they did.
pub(super) async fn rehearse_into(
    context: &Context,
    session: &mut ClientSession,
    steps: &[(&VersionUpgrade, &Step, usize)],
    finished: usize,
    findings: &mut [Option<Known>],
) -> Result<(), RunError> {
    let parts = rehearsed(steps, finished, findings);
    let known: u64 =
        parts.iter().filter_map(|i| findings[*i].as_ref()).map(|known| known.done.documents).sum();
    if known > REHEARSAL * context.batch_documents as u64 {
        return Ok(());
    }
    let mut tries = 0;
    loop {
        let rehearsal = context.stop.guard(rehearse(context, session, steps, &parts)).await;
        abort(context, session).await;
        match rehearsal {
            Ok(None) => return Ok(()),
            Ok(Some(done)) => {
                for (index, done) in parts.iter().zip(done) {
                    findings[*index] = Some(Known { done, ..Known::default() });
                }
                return Ok(());
            }
            Err(RunError::Driver(error)) if answer::too_large(&error) => return Ok(()),
            Err(RunError::Driver(error)) if errors::is_transient(&error) && tries < 5 => tries += 1,
            // others write to these documents all the time: nothing is known of the steps, then
            Err(RunError::Driver(error)) if answer::is_contention(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
        context.stop.sleep(Duration::from_millis(50) * tries).await?;
    }
}

/// The steps to rehearse: those whose outcome is unknown, and those whose results they read; none that depends on a
/// rename or a drop, which cannot run in a transaction.
fn rehearsed(
    steps: &[(&VersionUpgrade, &Step, usize)],
    finished: usize,
    findings: &[Option<Known>],
) -> Vec<usize> {
    let mut out_of_reach: HashSet<&str> = HashSet::new();
    let mut wanted = Vec::new();
    for (index, (_, step, _)) in steps.iter().enumerate().skip(finished) {
        let reachable = step.reads().iter().all(|name| !out_of_reach.contains(name));
        // a command writes what it renames or drops
        match step.command().is_some() || !reachable {
            true => out_of_reach.extend(step.writes()),
            false => wanted.push(index),
        }
    }
    let mut read: HashSet<&str> = HashSet::new();
    let mut parts: Vec<usize> = Vec::new();
    for index in wanted.into_iter().rev() {
        let step = steps[index].1;
        if findings[index].is_none() || step.writes().iter().any(|name| read.contains(name)) {
            read.extend(step.reads());
            parts.push(index);
        }
    }
    parts.reverse();
    parts
}

/// What the steps do, one after another; `None` if that is more than a rehearsal may change.
async fn rehearse(
    context: &Context,
    session: &mut ClientSession,
    steps: &[(&VersionUpgrade, &Step, usize)],
    parts: &[usize],
) -> Result<Option<Vec<Done>>, RunError> {
    session.start_transaction().await?;
    let most = REHEARSAL * context.batch_documents as u64;
    let mut all = Vec::new();
    for index in parts {
        let (upgrade, step, _) = steps[*index];
        let _doing = context.activity.doing(format!("{}: rehearsing", at(upgrade, &step.name())));
        let ended = work_of(step).in_transaction(context, session, upgrade, most).await;
        let ended = context.editors.ended(ended).await;
        context.activity.moved();
        let Some(done) = ended.map_err(|error| in_step(error, upgrade, step))? else {
            return Ok(None);
        };
        all.push(done);
    }
    Ok(Some(all))
}
