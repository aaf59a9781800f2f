//! How every kind of step is done on a server.

use std::collections::HashSet;

use async_trait::async_trait;
use mongodb::ClientSession;
use mongodb::bson::Timestamp;

use crate::authoring::step::Step;
use crate::authoring::step_kind::StepKind;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::context::Context;
use crate::engine::preflight::estimate::{Estimate, Known};
use crate::engine::work::Work;
use crate::process::action::UpgradeAction;
use crate::record::journal::{Done, Journal};
use crate::server::stop::RunError;

/// How a kind of step is done.
#[async_trait(?Send)]
pub(crate) trait StepWork: StepKind {
    /// Makes sure that the server knows what the step is to send, whatever it holds.
    ///
    /// # Errors
    ///
    /// It does not: 18, or 14 where the step is wrong.
    async fn understood(
        &self,
        _context: &Context,
        _upgrade: &VersionUpgrade,
    ) -> Result<(), RunError> {
        Ok(())
    }

    /// Determines what the step would do, given that no earlier step changes what it reads. `None` if only running it
    /// can tell.
    ///
    /// # Errors
    ///
    /// What would make the step fail, as far as it can be told before any write.
    async fn preflight(&self, on: &PreflightContext<'_>) -> Result<Option<Known>, RunError>;

    /// How much it changes at most, where its preflight did not tell.
    async fn extent(
        &self,
        _context: &Context,
        _upgrade: &VersionUpgrade,
    ) -> Result<Extent, RunError> {
        Ok(Extent::default())
    }

    /// Does all of it in the session's transaction; `None` if it would change more than `most` documents.
    async fn in_transaction(
        &self,
        context: &Context,
        session: &mut ClientSession,
        upgrade: &VersionUpgrade,
        most: u64,
    ) -> Result<Option<Done>, RunError>;

    /// Does it from where the journal is, until the journal is past it.
    async fn in_batches(
        &self,
        work: &mut Work<'_>,
        upgrade: &VersionUpgrade,
        estimate: &Estimate,
    ) -> Result<(), RunError>;

    /// Makes sure, before the version moves, that nothing is left for the step to do, where it promises that; `position`
    /// is its place in the journal. No later step of the version changes what it changes.
    ///
    /// # Errors
    ///
    /// Something always is.
    async fn prove(
        &self,
        _work: &mut Work<'_>,
        _upgrade: &VersionUpgrade,
        _position: usize,
    ) -> Result<(), RunError> {
        Ok(())
    }

    /// Runs the step again right after its version was applied in one transaction, to catch what old code wrote in the
    /// meantime; `later` are the steps after it. Returns how many documents it changed.
    async fn sweep(
        &self,
        _work: &mut Work<'_>,
        _upgrade: &VersionUpgrade,
        _later: &[&Step],
    ) -> u64 {
        0
    }

    /// The transform that mode `sweep` can run over documents again, or why there is none.
    fn sweepable(&self) -> Result<&Transform, &'static str>;

    /// What it reports, from what it did.
    fn actions(&self, done: &Done) -> Vec<UpgradeAction> {
        done.actions.clone()
    }
}

/// What the preflight of a step knows.
pub(crate) struct PreflightContext<'a> {
    pub(crate) context: &'a Context,
    pub(crate) upgrade: &'a VersionUpgrade,
    /// The journal, where it stands at this step.
    pub(crate) begun: Option<&'a Journal>,
    /// All that was written up to this time is seen.
    pub(crate) since: Option<Timestamp>,
    /// The earlier steps that are still to be done, of all versions.
    pub(crate) earlier: Vec<&'a Step>,
    /// The collections whose documents they change.
    pub(crate) written: &'a HashSet<&'a str>,
}

/// How much a step changes at most.
#[derive(Default)]
pub(crate) struct Extent {
    pub(crate) documents: u64,
    pub(crate) bytes: usize,
}
