//! Transactions: an author's own code.

use async_trait::async_trait;
use mongodb::ClientSession;

use crate::authoring::handle::Handle;
use crate::authoring::step_kind::StepKind;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transaction::Transaction;
use crate::authoring::transform::Transform;
use crate::engine::author::{panicked, refused};
use crate::engine::context::Context;
use crate::engine::preflight::estimate::{Estimate, Known};
use crate::engine::steps::kind::{PreflightContext, StepWork};
use crate::engine::steps::lifetime::Lifetime;
use crate::engine::transact::{PATIENCE, commit_with_record};
use crate::engine::work::{Work, base, needed};
use crate::record::journal::Done;
use crate::server::stop::{RunError, catch_panics};

#[async_trait(?Send)]
impl StepWork for Transaction {
    async fn preflight(&self, _on: &PreflightContext<'_>) -> Result<Option<Known>, RunError> {
        Ok(None)
    }

    async fn in_transaction(
        &self,
        context: &Context,
        session: &mut ClientSession,
        upgrade: &VersionUpgrade,
        _most: u64,
    ) -> Result<Option<Done>, RunError> {
        let (started, collections) = (upgrade.started(), &self.collections);
        let mut handle = Handle::new(context.database(), session, collections, started);
        let place = format!("collection {}", collections.join(", "));
        let actions = catch_panics(async { (self.run)(&mut handle).await })
            .await
            .map_err(|_| panicked(upgrade, &self.name, &place))?
            .map_err(|error| refused(error, upgrade, &self.name, &place))?;
        Ok(Some(Done { actions, ..Done::default() }))
    }

    async fn in_batches(
        &self,
        work: &mut Work<'_>,
        upgrade: &VersionUpgrade,
        _estimate: &Estimate,
    ) -> Result<(), RunError> {
        let (context, stored) = (work.context, &mut work.stored);
        let session = needed(&mut work.session)?;
        let mut lifetime = Lifetime::default();
        commit_with_record(context, session, stored, PATIENCE, async |session, stored, _| {
            lifetime.begin(context, upgrade, &self.name()).await?;
            let done = self.in_transaction(context, session, upgrade, u64::MAX).await;
            lifetime.end();
            let done = done?.unwrap_or_default();
            let to =
                base(stored, None)?.advanced(&context.writer, |journal| journal.finish_step(&done));
            Ok(((), to))
        })
        .await
    }

    fn sweepable(&self) -> Result<&Transform, &'static str> {
        Err("it is a transaction step")
    }
}
