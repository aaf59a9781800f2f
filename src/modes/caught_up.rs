//! Waiting until a majority has what was written before the preflight: its majority reads then see what the
//! run that follows will see.

use mongodb::bson::{Timestamp, doc};

use crate::authoring::table::VersionUpgrade;
use crate::modes::run::Run;
use crate::process::failure::Failure;
use crate::server::connection;
use crate::server::privileges::Need;
use crate::server::stop::RunError;

/// What a run is doing that waits so.
const WAITING: &str = "waiting until a majority of the servers has the latest writes";

impl Run<'_> {
    /// Waits until everything written so far to the collections of `upgrades` is majority-committed; returns the time
    /// that every later majority read of them must include, or `None` on a standalone.
    ///
    /// A write with the write concern 1, the default before MongoDB 5.0, is there before a majority has it.
    pub(super) async fn documents_caught_up(
        &self,
        upgrades: &[&VersionUpgrade],
    ) -> Result<Option<Timestamp>, Failure> {
        let mut collections: Vec<&str> = Vec::new();
        for upgrade in upgrades {
            collections.extend(upgrade.conditions().map(|condition| &*condition.collection));
            // a command reads no documents, and its author may have no privilege to
            let steps = upgrade.steps().filter(|step| step.command().is_none());
            collections.extend(steps.flat_map(|step| step.reads()));
        }
        self.collections_caught_up(collections, &self.plan_needs(upgrades)).await
    }

    /// The same for the documents of these collections, which take these privileges to read.
    pub(super) async fn collections_caught_up(
        &self,
        mut collections: Vec<&str>,
        needs: &[Need],
    ) -> Result<Option<Timestamp>, Failure> {
        collections.sort_unstable();
        collections.dedup();
        match self.caught_up(&collections).await {
            Ok(since) => Ok(since),
            Err(error) => Err(self.explain(error, WAITING, needs).await),
        }
    }

    /// The same for the record.
    pub(super) async fn record_caught_up(&self) -> Result<(), Failure> {
        match self.caught_up(&[&self.lock.collection]).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.explain_reading(error).await),
        }
    }

    async fn caught_up(&self, collections: &[&str]) -> Result<Option<Timestamp>, RunError> {
        let database = &self.store.database;
        let mut since: Option<Timestamp> = None;
        for collection in collections {
            let time =
                self.ask(WAITING, || connection::operation_time(database, collection)).await?;
            since = since.max(time);
        }
        let Some(time) = since else { return Ok(None) };
        // each collection may be on other shards
        for collection in collections {
            let read = doc! {
                "find": *collection,
                "projection": { "_id": 1 },
                "limit": 1,
                "singleBatch": true,
                "readConcern": { "level": "majority", "afterClusterTime": time },
            };
            self.ask(WAITING, || database.run_command(read.clone()).into_future()).await?;
        }
        Ok(since)
    }
}
