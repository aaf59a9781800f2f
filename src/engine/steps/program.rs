//! Programs: done as the transforms that they are, with answers in place of a function's edits.

use async_trait::async_trait;
use mongodb::ClientSession;

use crate::authoring::program::Program;
use crate::authoring::step::Step;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::context::Context;
use crate::engine::preflight::estimate::{Estimate, Known};
use crate::engine::steps::kind::{Extent, PreflightContext, StepWork};
use crate::engine::work::Work;
use crate::process::action::UpgradeAction;
use crate::record::journal::Done;
use crate::server::stop::RunError;

#[async_trait(?Send)]
impl StepWork for Program {
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
        self.transform.in_batches(work, upgrade, estimate).await
    }

    async fn sweep(&self, work: &mut Work<'_>, upgrade: &VersionUpgrade, later: &[&Step]) -> u64 {
        StepWork::sweep(&self.transform, work, upgrade, later).await
    }

    fn sweepable(&self) -> Result<&Transform, &'static str> {
        self.transform.sweepable()
    }

    fn actions(&self, done: &Done) -> Vec<UpgradeAction> {
        self.transform.actions(done)
    }
}
