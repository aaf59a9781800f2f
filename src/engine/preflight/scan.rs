//! Computing what a transform would do, and throwing it away.

use mongodb::bson::{Bson, RawDocumentBuf, Timestamp};

use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::context::Context;
use crate::engine::documents::added::{Added, find_taken};
use crate::engine::documents::edited::{Edited, Purpose, TRANSACTION_BYTES};
use crate::engine::documents::large;
use crate::engine::documents::large::Collation;
use crate::engine::documents::reader::Reader;
use crate::engine::preflight::descendants;
use crate::engine::preflight::estimate::Known;
use crate::process::progress::Progress;
use crate::record::journal::{Journal, Pass};
use crate::server::stop::RunError;

/// How many documents the collection of a transform holds, about.
pub(crate) async fn all_of(context: &Context, transform: &Transform) -> Result<u64, RunError> {
    let collection = context.database().collection::<RawDocumentBuf>(&transform.collection);
    context.stop.guard(collection.estimated_document_count().into_future()).await
}

/// Computes every edit of a transform and throws it away. What it adds is compared with what is stored in the
/// collections that no earlier step changes: `settled` says which.
pub(crate) async fn scan(
    context: &Context,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    journal: Option<&Journal>,
    since: Option<Timestamp>,
    settled: impl Fn(&str) -> bool,
) -> Result<Known, RunError> {
    // the late pass of a journaled step starts over from the first document
    let from = journal.filter(|journal| journal.pass == Pass::First);
    let after: Option<Bson> = from.and_then(|j| j.position.clone()).map(|place| place.after);
    let purpose = Purpose::of_preflight(context.server.deployment);
    let mut reader =
        Reader::new(context, upgrade, transform, purpose, after).since(since).verifying();
    let mut tally = EstimateBuilder::default();
    let all = all_of(context, transform).await?;
    let mut progress = Progress::new(&upgrade.version, "preflight", &transform.collection, all);
    loop {
        let batch = reader.next().await?;
        tally.take(context, upgrade, transform, &batch.edited, since, &settled).await?;
        progress.advance(batch.read);
        context.activity.moved();
        if batch.last.is_none() {
            progress.finish();
            return Ok(tally.known(context));
        }
    }
}

/// What a preflight of a transform has found so far.
#[derive(Default)]
pub(crate) struct EstimateBuilder {
    known: Known,
    largest: usize,
    added: Added,
    collation: Collation,
}

impl EstimateBuilder {
    /// Takes what was computed of some documents.
    ///
    /// # Errors
    ///
    /// What they add cannot be added: to the collections that are `settled`, which no earlier step changes, it is
    /// compared with what is stored.
    pub(crate) async fn take(
        &mut self,
        context: &Context,
        upgrade: &VersionUpgrade,
        transform: &Transform,
        edited: &[Edited],
        since: Option<Timestamp>,
        settled: impl Fn(&str) -> bool,
    ) -> Result<(), RunError> {
        self.collation = large::check(context, upgrade, transform, edited, self.collation).await?;
        for edited in edited {
            self.added.take(upgrade, transform, edited)?;
            edited.count(&mut self.known.done);
            self.known.bytes += edited.bytes();
            self.largest = self.largest.max(edited.bytes());
        }
        find_taken(context, upgrade, transform, edited, since, settled).await?;
        match transform.inserts_into_itself() {
            true => descendants::follow(context, upgrade, transform, edited, since).await,
            false => Ok(()),
        }
    }

    pub(crate) fn known(self, context: &Context) -> Known {
        let small = self.largest.saturating_mul(context.batch_documents) <= TRANSACTION_BYTES;
        Known { small, ..self.known }
    }
}
