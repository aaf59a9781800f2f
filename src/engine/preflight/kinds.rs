//! What is stored under the names that steps change: only an ordinary collection is written as the engine writes.

use std::collections::HashSet;

use crate::authoring::command::kind::{CommandKind, Subject};
use crate::authoring::step::Step;
use crate::authoring::table::VersionUpgrade;
use crate::engine::context::Context;
use crate::engine::failing::failed_step;
use crate::server::stop::RunError;

/// Makes sure that no step changes what is no ordinary collection, unless an earlier step takes that away.
///
/// # Errors
///
/// One does: a server answers reads of a view like those of a collection, so that documents would seem to be there that
/// were never written.
pub(crate) async fn check(
    context: &Context,
    steps: &[(&VersionUpgrade, &Step, usize)],
) -> Result<(), RunError> {
    let asking = || context.stop.guard(context.store.seen_kinds());
    let kinds = context.retry(async || asking().await).await?;
    let mut gone: HashSet<&str> = HashSet::new();
    for (upgrade, step, _) in steps {
        for name in changed(step) {
            let Some(kind) = kinds.get(name).filter(|_| !gone.contains(name)) else { continue };
            let (what, next) = match (kind.as_str(), step.command()) {
                ("view", Some(command)) if !is_drop(command) => (
                    "is a view",
                    "name the collection that it shows, deploy that, then run it again",
                ),
                ("view", None) => (
                    "is a view, and a step reads and changes the documents of collections",
                    "name the collection that it shows, deploy that, then run it again",
                ),
                ("timeseries", Some(command)) if !is_of_time_series(command) => (
                    "is a time-series collection, of which the server does not allow that",
                    "leave it out, deploy that, then run it again",
                ),
                ("timeseries", None) => (
                    "is a time-series collection, in which the server neither finds nor changes documents by their \
                     _id",
                    "leave it to the application, deploy that, then run it again",
                ),
                _ => continue,
            };
            return Err(failed_step(upgrade, &step.name(), &format!("{name} {what}"), next));
        }
        gone.extend(step.gone());
    }
    Ok(())
}

/// The collections that the step changes, and the one whose documents it copies.
fn changed(step: &Step) -> Vec<&str> {
    match step {
        // free code may know what it does
        Step::Transaction(_) => vec![],
        Step::Copy(copy) => {
            [&*copy.transform.collection].into_iter().chain(step.changes()).collect()
        }
        _ => step.changes(),
    }
}

fn is_drop(command: &dyn CommandKind) -> bool {
    matches!(command.subject(), Subject::Collections { .. }) && command.collections().len() == 1
}

fn is_of_time_series(command: &dyn CommandKind) -> bool {
    is_drop(command) || matches!(command.subject(), Subject::Index { .. } | Subject::Options { .. })
}
