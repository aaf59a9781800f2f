//! What every part of the engine needs.

use std::sync::Arc;
use std::time::Duration;

use mongodb::Database;
use tokio::time::Instant;

use crate::engine::editors::open::Editors;
use crate::process::activity::Activity;
use crate::process::checkpoint::{Checkpoints, Point};
use crate::quiesce::quiesced::Quiesced;
use crate::record::history::Writer;
use crate::record::lock::Lock;
use crate::record::staged::Own;
use crate::record::store::Store;
use crate::server::connection::Server;
use crate::server::retry::Retry;
use crate::server::stop::{RunError, Stop};

/// How long an operation is retried after transient errors.
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
    pub(crate) quiesced: Quiesced,
    /// What this run has stored next to the record for as long as an edit takes.
    pub(crate) staged: Own,
    /// The editors of transforms that are open.
    pub(crate) editors: Editors,
}

impl Context {
    pub(crate) fn database(&self) -> &Database {
        &self.store.database
    }

    pub(crate) async fn reached(&self, point: Point) {
        self.checkpoints.reached(point).await;
    }

    /// Runs an operation, and retries it after transient errors.
    pub(crate) async fn retry<T>(
        &self,
        attempt: impl AsyncFnMut() -> Result<T, RunError>,
    ) -> Result<T, RunError> {
        let until = Some(Instant::now() + PATIENCE);
        Retry { until, stop: Some(&self.stop), ..Retry::default() }.run(attempt).await
    }
}
