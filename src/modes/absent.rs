//! What pending upgrades need and the database does not have. Collections: a plan reports them as warnings, because a
//! name may be misspelt; a run only in its log, because a database may never have had them. Indexes for look-ups: both
//! report them.

use std::collections::HashSet;

use crate::authoring::table::VersionUpgrade;
use crate::engine::context::Context;
use crate::engine::preflight::absent::{Absent, absent};
use crate::engine::preflight::unindexed::{Unindexed, unindexed};
use crate::modes::run::Run;
use crate::record::journal::Journal;

impl Run<'_> {
    pub(super) async fn warn_of_absent(
        &mut self,
        context: &Context,
        upgrades: &[&VersionUpgrade],
        journal: Option<&Journal>,
    ) {
        for Absent { version, by, collection, so } in self.absent(context, upgrades, journal).await
        {
            self.warn(format!("{version}: {by}: collection {collection} does not exist: {so}"));
        }
    }

    pub(super) async fn log_absent(
        &self,
        context: &Context,
        upgrades: &[&VersionUpgrade],
        journal: Option<&Journal>,
    ) {
        for Absent { version, by, collection, so } in self.absent(context, upgrades, journal).await
        {
            tracing::info!(%version, by, collection, so, "a collection does not exist");
        }
    }

    /// Best effort: nothing but time depends on it.
    pub(super) async fn warn_of_unindexed(
        &mut self,
        context: &Context,
        upgrades: &[&VersionUpgrade],
        journal: Option<&Journal>,
    ) {
        let finished = journal.map_or(0, |journal| journal.step);
        let Ok(unindexed) = unindexed(context, upgrades, finished).await else { return };
        for Unindexed { version, step, collection, field, documents } in unindexed {
            self.warn(format!(
                "{version}: step \"{step}\": no index of {collection} begins with {field}: its look-up reads all \
                 {documents} document(s) for each batch; an earlier step may create the index"
            ));
        }
    }

    /// Best effort: nothing depends on it.
    async fn absent(
        &self,
        context: &Context,
        upgrades: &[&VersionUpgrade],
        journal: Option<&Journal>,
    ) -> Vec<Absent> {
        let finished = journal.map_or(0, |journal| journal.step);
        let listing = context.store.seen_collections();
        let existing: HashSet<String> = match context.stop.guard(listing).await {
            Ok(existing) => existing,
            Err(_) => return vec![],
        };
        absent(upgrades, finished, &existing)
    }
}
