//! The preflight of all pending versions: what each would do, found without leaving a trace. A plan is
//! nothing else.

use std::collections::HashSet;

use mongodb::ClientSession;
use mongodb::bson::Timestamp;

use crate::authoring::step::Step;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::context::Context;
use crate::engine::documents::edited::TRANSACTION_BYTES;
use crate::engine::failing::{at, in_step};
use crate::engine::preflight::chain::Chain;
use crate::engine::preflight::composed::Composed;
use crate::engine::preflight::estimate::{Estimate, Finding, Known, Later};
use crate::engine::preflight::kinds;
use crate::engine::preflight::rehearsal::rehearse_into;
use crate::engine::steps::kind::{Extent, PreflightContext};
use crate::engine::steps::work_of;
use crate::record::journal::Journal;
use crate::server::connection::Deployment;
use crate::server::stop::RunError;
use crate::version::Version;

/// What the preflight is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum PreflightFor {
    /// To tell the operator.
    Plan,
    /// To find out before the first write what would fail later.
    Upgrade,
}

/// Finds out what the steps of `upgrades` would do, in order; from the journal's place in the first one, where given. It
/// sees all that was written up to `since`.
///
/// # Errors
///
/// What would make the upgrade fail, as far as it can be told: a document that cannot be transformed, a
/// command in conflict, a transaction that refuses.
pub(crate) async fn preflight(
    context: &Context,
    session: Option<&mut ClientSession>,
    upgrades: &[&VersionUpgrade],
    journal: Option<&Journal>,
    since: Option<Timestamp>,
    purpose: PreflightFor,
) -> Result<Vec<Estimate>, RunError> {
    let steps: Vec<(&VersionUpgrade, &Step, usize)> = upgrades
        .iter()
        .flat_map(|upgrade| {
            upgrade.steps().enumerate().map(move |(position, step)| (*upgrade, step, position))
        })
        .collect();
    let finished = journal.map_or(0, |journal| journal.step);
    kinds::check(context, &steps[finished.min(steps.len())..]).await?;
    for (upgrade, step, _) in steps.iter().skip(finished) {
        let understood = work_of(step).understood(context, upgrade).await;
        understood.map_err(|error| in_step(error, upgrade, step))?;
    }
    let mut findings: Vec<Option<Known>> = Vec::new();
    // what earlier steps change, and what they move away
    let (mut written, mut moved) = (HashSet::<&str>::new(), HashSet::<&str>::new());
    for (index, (upgrade, step, position)) in steps.iter().enumerate() {
        if index < finished {
            findings.push(Some(Known::default()));
            continue;
        }
        let _doing = context.activity.doing(format!("{}: preflight", at(upgrade, &step.name())));
        let changed = if step.command().is_some() { &moved } else { &written };
        let alone = step.reads().iter().all(|name| !changed.contains(name));
        findings.push(match alone {
            true => {
                let begun =
                    journal.filter(|journal| index == *position && journal.step == *position);
                let earlier =
                    steps[finished..index].iter().map(|(_, earlier, _)| *earlier).collect();
                let written = &written;
                let on = PreflightContext { context, upgrade, begun, since, earlier, written };
                let known = work_of(step).preflight(&on).await;
                let known = context.editors.ended(known).await;
                known.map_err(|error| in_step(error, upgrade, step))?
            }
            false => None,
        });
        if step.command().is_some() {
            moved.extend(step.writes());
        }
        written.extend(step.writes());
    }
    // a step that would never stop adding documents must not be rehearsed
    let begun = journal.and_then(|_| steps.get(finished)).map(|(_, step, _)| *step);
    let left = &steps[finished..];
    follow_chains(context, left, begun, &mut findings[finished..], since, inserts_into_itself)
        .await?;
    let rehearse = match (purpose, upgrades) {
        (PreflightFor::Plan, _) => true,
        // the one transaction of a single version is a rehearsal itself
        (PreflightFor::Upgrade, [upgrade]) => {
            journal.is_none() && !fits_one_transaction(context, upgrade, &findings).await?
        }
        (PreflightFor::Upgrade, _) => true,
    };
    if rehearse
        && findings.iter().any(Option::is_none)
        && let Some(session) = session
    {
        rehearse_into(context, session, &steps, finished, &mut findings).await?;
    }
    // the one transaction of a single version verifies what it writes before it commits
    let verified = matches!((purpose, upgrades), (PreflightFor::Upgrade, [upgrade])
        if journal.is_none() && fits_one_transaction(context, upgrade, &findings).await?);
    if !verified {
        let others = |step: &Step| !inserts_into_itself(step);
        follow_chains(context, left, begun, &mut findings[finished..], since, others).await?;
    }
    let mut estimates = Vec::new();
    let mut findings = findings.as_slice();
    for (index, upgrade) in upgrades.iter().enumerate() {
        let (own, others) = findings.split_at(upgrade.steps().count());
        findings = others;
        let steps = upgrade.steps().zip(own).map(|(step, found)| match found {
            Some(known) => {
                Finding { actions: work_of(step).actions(&known.done), known: Some(known.clone()) }
            }
            None => Finding { actions: step.unestimated_actions(), known: None },
        });
        let fits_one_transaction = fits_one_transaction(context, upgrade, own).await?;
        let unknown = own.iter().any(Option::is_none);
        let depends_on = unknown.then(|| newest_before(&upgrades[..index], upgrade)).flatten();
        let later = later(upgrade, own);
        estimates.push(Estimate {
            steps: steps.collect(),
            fits_one_transaction,
            depends_on,
            later,
        });
    }
    Ok(estimates)
}

/// Whether a step adds documents to the collection that it transforms.
fn inserts_into_itself(step: &Step) -> bool {
    step.called().is_some_and(Transform::inserts_into_itself)
}

/// Computes the steps whose outcome is still unknown, if the documents that they will find can be computed from the
/// stored ones.
async fn follow_chains(
    context: &Context,
    steps: &[(&VersionUpgrade, &Step, usize)],
    begun: Option<&Step>,
    findings: &mut [Option<Known>],
    since: Option<Timestamp>,
    which: impl Fn(&Step) -> bool,
) -> Result<(), RunError> {
    let chained: Vec<(&VersionUpgrade, &Step)> =
        steps.iter().map(|(upgrade, step, _)| (*upgrade, *step)).collect();
    for (index, (upgrade, step)) in chained.iter().enumerate() {
        if findings[index].is_some() || !which(step) {
            continue;
        }
        if let Some(composed) = Composed::of(&chained[..=index]) {
            let doing = format!("{}: preflight", at(upgrade, &step.name()));
            let _doing = context.activity.doing(doing);
            let known = composed.follow(context, since).await;
            findings[index] = Some(known.map_err(|error| in_step(error, upgrade, step))?);
            continue;
        }
        let Some(chain) = Chain::of(&chained[..=index], begun) else { continue };
        let _doing = context.activity.doing(format!("{}: preflight", at(upgrade, &step.name())));
        let followed = context.editors.ended(chain.follow(context, since).await).await;
        findings[index] = followed.map_err(|error| in_step(error, upgrade, step))?;
    }
    Ok(())
}

/// The steps of a version whose outcome is unknown so far because an earlier step of the version changes what they
/// read, each with that earlier step.
fn later(upgrade: &VersionUpgrade, findings: &[Option<Known>]) -> Vec<Later> {
    let steps: Vec<&Step> = upgrade.steps().collect();
    let unknown = findings.iter().enumerate().filter(|(_, known)| known.is_none());
    let later = unknown.filter_map(|(position, _)| {
        let step = steps[position];
        // a command is probed just before it is sent, always
        let verified = step.command().is_none();
        let bears = |earlier: &&&Step| {
            verified && step.reads().iter().any(|name| earlier.writes().contains(name))
        };
        let earlier = steps[..position].iter().rev().find(bears)?;
        Some(Later { step: step.name(), after: earlier.name() })
    });
    later.collect()
}

/// The newest of some versions that changes what a later one reads.
fn newest_before(earlier: &[&VersionUpgrade], later: &VersionUpgrade) -> Option<Version> {
    let reads: HashSet<&str> = later.steps().flat_map(|step| step.reads()).collect();
    let changes = |upgrade: &&&VersionUpgrade| {
        upgrade.steps().any(|step| step.changes().iter().any(|name| reads.contains(name)))
    };
    earlier.iter().rev().find(changes).map(|upgrade| upgrade.version.clone())
}

async fn fits_one_transaction(
    context: &Context,
    upgrade: &VersionUpgrade,
    findings: &[Option<Known>],
) -> Result<bool, RunError> {
    if context.server.deployment == Deployment::Standalone {
        return Ok(false);
    }
    let (mut documents, mut bytes) = (0, 0);
    for (step, finding) in upgrade.steps().zip(findings) {
        if step.command().is_some() {
            return Ok(false);
        }
        let extent = match finding {
            Some(known) => Extent { documents: known.done.documents, bytes: known.bytes },
            None => work_of(step).extent(context, upgrade).await?,
        };
        documents += extent.documents;
        bytes += extent.bytes;
    }
    Ok(documents <= context.batch_documents as u64 && bytes <= TRANSACTION_BYTES)
}
