//! Copies: the server evaluates the pipeline for each document by an aggregation; what comes out is inserted like what a
//! transform adds.

use async_trait::async_trait;
use mongodb::ClientSession;

use crate::authoring::copy::Copy;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::context::Context;
use crate::engine::documents::evaluate;
use crate::engine::preflight::estimate::{Estimate, Known};
use crate::engine::preflight::scan::scan;
use crate::engine::steps::kind::{Extent, PreflightContext, StepWork};
use crate::engine::steps::passes::{first, late, now, pass_as_transform};
use crate::engine::work::Work;
use crate::process::action::UpgradeAction;
use crate::process::progress::Progress;
use crate::record::journal::Done;
use crate::server::stop::RunError;

#[async_trait(?Send)]
impl StepWork for Copy {
    async fn understood(
        &self,
        context: &Context,
        upgrade: &VersionUpgrade,
    ) -> Result<(), RunError> {
        evaluate::known(context, upgrade, &self.transform, &self.pipeline).await
    }

    async fn preflight(&self, on: &PreflightContext<'_>) -> Result<Option<Known>, RunError> {
        self.transform.preflight(on).await
    }

    async fn extent(
        &self,
        context: &Context,
        upgrade: &VersionUpgrade,
    ) -> Result<Extent, RunError> {
        self.transform.extent(context, upgrade).await
    }

    async fn in_transaction(
        &self,
        context: &Context,
        session: &mut ClientSession,
        upgrade: &VersionUpgrade,
        most: u64,
    ) -> Result<Option<Done>, RunError> {
        self.transform.in_transaction(context, session, upgrade, most).await
    }

    async fn in_batches(
        &self,
        work: &mut Work<'_>,
        upgrade: &VersionUpgrade,
        estimate: &Estimate,
    ) -> Result<(), RunError> {
        let (context, transform) = (work.context, &self.transform);
        let journal = work.journal()?;
        let (step, after) = (journal.step, journal.position.clone().map(|place| place.after));
        let documents = estimate.left(journal);
        if !estimate.knows(step) && after.is_none() {
            // what depends on earlier steps is evaluated before its own first write
            let since = now(context, transform).await?;
            scan(context, upgrade, transform, None, since, |_| true).await?;
        }
        let describes = upgrade.description();
        let mut progress =
            Progress::new(&upgrade.version, &describes, &transform.collection, documents);
        let note = first(&context.writer);
        pass_as_transform(work, upgrade, transform, after, &note, &mut progress).await?;
        progress.finish();
        if transform.deletes {
            let mut progress =
                Progress::new(&upgrade.version, "sweep", &transform.collection, documents);
            let note = late(&context.writer, step);
            pass_as_transform(work, upgrade, transform, None, &note, &mut progress).await?;
            progress.finish();
        }
        work.advance(|journal| journal.finish_step(&Done::default())).await
    }

    fn sweepable(&self) -> Result<&Transform, &'static str> {
        Err("it copies documents")
    }

    fn actions(&self, done: &Done) -> Vec<UpgradeAction> {
        let mut actions = self.transform.actions(done);
        actions.iter_mut().for_each(|action| action.collection = self.into.clone().into_owned());
        actions
    }
}
