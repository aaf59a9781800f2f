//! Transactions: an author's own code.

use futures_util::future::LocalBoxFuture;
use mongodb::ClientSession;

use crate::authoring::handle::Handle;
use crate::authoring::step_kind::StepKind;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transaction::Transaction;
use crate::engine::author::{panicked, refused};
use crate::engine::context::Context;
use crate::engine::preflight::estimate::{Estimate, Known};
use crate::engine::steps::kind::{Extent, Scouting, StepWork};
use crate::engine::steps::lifetime::Lifetime;
use crate::engine::transact::{PATIENCE, commit_with_record};
use crate::engine::work::{Work, base, needed};
use crate::record::journal::Done;
use crate::server::stop::{RunError, catch_panics};

impl StepWork for Transaction {
    fn preflight<'a>(
        &'a self,
        _on: &'a Scouting<'a>,
    ) -> LocalBoxFuture<'a, Result<Option<Known>, RunError>> {
        Box::pin(async { Ok(None) })
    }

    fn extent<'a>(
        &'a self,
        _context: &'a Context,
        _upgrade: &'a VersionUpgrade,
    ) -> LocalBoxFuture<'a, Result<Extent, RunError>> {
        Box::pin(async { Ok(Extent::default()) })
    }

    fn in_transaction<'a>(
        &'a self,
        context: &'a Context,
        session: &'a mut ClientSession,
        upgrade: &'a VersionUpgrade,
        _most: u64,
    ) -> LocalBoxFuture<'a, Result<Option<Done>, RunError>> {
        Box::pin(async move {
            let (started, collections) = (upgrade.started(), &self.collections);
            let mut handle = Handle::new(context.database(), session, collections, started);
            let place = format!("collection {}", collections.join(", "));
            let actions = catch_panics(async { (self.run)(&mut handle).await })
                .await
                .map_err(|_| panicked(upgrade, &self.name, &place))?
                .map_err(|error| refused(error, upgrade, &self.name, &place))?;
            Ok(Some(Done { actions, ..Done::default() }))
        })
    }

    fn in_batches<'a, 'w: 'a>(
        &'a self,
        work: &'a mut Work<'w>,
        upgrade: &'a VersionUpgrade,
        _estimate: &'a Estimate,
    ) -> LocalBoxFuture<'a, Result<(), RunError>> {
        Box::pin(async move {
            let (context, stored) = (work.context, &mut work.stored);
            let session = needed(&mut work.session)?;
            let mut lifetime = Lifetime::default();
            commit_with_record(context, session, stored, PATIENCE, async |session, stored, _| {
                lifetime.begin(context, upgrade, &self.name()).await?;
                let done = self.in_transaction(context, session, upgrade, u64::MAX).await;
                lifetime.end();
                let done = done?.unwrap_or_default();
                let to = base(stored, None)?
                    .advanced(&context.writer, |journal| journal.finish_step(&done));
                Ok(((), to))
            })
            .await
        })
    }
}
