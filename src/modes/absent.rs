//! Reports collections that pending upgrades name but that do not exist: a plan as warnings, because a name may be
//! misspelt; a run only in its log, because a database may never have had them.

use std::collections::HashSet;

use crate::authoring::table::VersionUpgrade;
use crate::engine::context::Context;
use crate::engine::preflight::absent::{Absent, absent};
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
