//! Look-ups that no index serves: each of their queries reads the whole collection.

use std::collections::HashSet;

use mongodb::bson::{Document, doc};

use crate::authoring::command::kind::{EndState, Subject};
use crate::authoring::table::VersionUpgrade;
use crate::engine::context::Context;
use crate::server::stop::RunError;
use crate::version::Version;

/// A look-up that no index serves.
pub(crate) struct Unindexed {
    pub(crate) version: Version,
    pub(crate) step: String,
    pub(crate) collection: String,
    pub(crate) field: String,
    /// How many documents the collection has, about.
    pub(crate) documents: u64,
}

/// The look-ups of `upgrades`, without their first `finished` steps, that no index serves, and for which no earlier step
/// creates one. Each field is listed once.
pub(crate) async fn unindexed(
    context: &Context,
    upgrades: &[&VersionUpgrade],
    finished: usize,
) -> Result<Vec<Unindexed>, RunError> {
    let mut unindexed = Vec::new();
    let mut served = HashSet::new();
    let steps =
        upgrades.iter().flat_map(|upgrade| upgrade.steps().map(move |step| (upgrade, step)));
    for (upgrade, step) in steps.skip(finished) {
        if let Some(command) = step.command()
            && let Subject::Index { collection, .. } = command.subject()
            && let Some(EndState::Index(Some(index))) = command.end_state()
        {
            served.extend(index.keys.keys().next().map(|first| (collection, first.as_str())));
        }
        for lookup in step.lookups() {
            // served, or asked about already
            if !served.insert((&*lookup.collection, lookup.path())) {
                continue;
            }
            let documents = context
                .retry(async || scanned(context, &lookup.collection, lookup.path()).await)
                .await?;
            if documents > 0 {
                unindexed.push(Unindexed {
                    version: upgrade.version.clone(),
                    step: step.name(),
                    collection: lookup.collection.to_string(),
                    field: lookup.path().to_owned(),
                    documents,
                });
            }
        }
    }
    Ok(unindexed)
}

/// How many documents the server reads to find some by this field; 0 where it uses an index.
async fn scanned(context: &Context, collection: &str, field: &str) -> Result<u64, RunError> {
    let database = context.database();
    // without the look-up's order: where that is the order of `_id`s, the server says that it uses their index
    let find = doc! { "find": collection, "filter": { field: { "$in": ["a"] } } };
    let explain = doc! { "explain": find, "verbosity": "queryPlanner" };
    let explained = context.stop.guard(database.run_command(explain).into_future()).await?;
    if !explained.to_string().contains("\"COLLSCAN\"") {
        return Ok(0);
    }
    let all = database.collection::<Document>(collection);
    context.stop.guard(all.estimated_document_count().into_future()).await
}
