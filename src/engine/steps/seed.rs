//! Seeds: what is missing of them is inserted, part by part.

use async_trait::async_trait;
use mongodb::ClientSession;
use mongodb::bson::RawDocumentBuf;

use crate::authoring::seed::Seed;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::context::Context;
use crate::engine::documents::missing::{INSERTED, insert, insert_guarded, parts, scan};
use crate::engine::preflight::estimate::{Estimate, Known};
use crate::engine::steps::kind::{Extent, PreflightContext, StepWork};
use crate::engine::transact::{PATIENCE, commit_with_record};
use crate::engine::work::{Work, base};
use crate::process::action::{ActionType, UpgradeAction};
use crate::process::checkpoint::Point;
use crate::record::journal::{Done, Journal};
use crate::server::stop::RunError;

#[async_trait(?Send)]
impl StepWork for Seed {
    async fn preflight(&self, on: &PreflightContext<'_>) -> Result<Option<Known>, RunError> {
        let (done, bytes) = scan(on.context, on.upgrade, self).await?;
        Ok(Some(Known { done, bytes, small: false }))
    }

    async fn extent(
        &self,
        context: &Context,
        upgrade: &VersionUpgrade,
    ) -> Result<Extent, RunError> {
        let mut extent = Extent::default();
        for part in parts(context, upgrade, self)?.iter() {
            extent.documents += part.len() as u64;
            extent.bytes += part.iter().map(|document| document.as_bytes().len()).sum::<usize>();
        }
        Ok(extent)
    }

    async fn in_transaction(
        &self,
        context: &Context,
        session: &mut ClientSession,
        upgrade: &VersionUpgrade,
        most: u64,
    ) -> Result<Option<Done>, RunError> {
        let mut done = Done::default();
        for part in parts(context, upgrade, self)?.iter() {
            done.add(&insert(context.database(), session, upgrade, self, part).await?);
            if done.documents > most {
                return Ok(None);
            }
        }
        Ok(Some(done))
    }

    // a run that resumes begins again at the first part: what is there is left
    async fn in_batches(
        &self,
        work: &mut Work<'_>,
        upgrade: &VersionUpgrade,
        _estimate: &Estimate,
    ) -> Result<(), RunError> {
        let parts = parts(work.context, upgrade, self)?;
        let mut parts = parts.iter();
        let last = parts.next_back().unwrap_or_default();
        for part in parts {
            insert_part(work, upgrade, self, part, |journal, done| journal.count(done)).await?;
        }
        insert_part(work, upgrade, self, last, |journal, done| journal.finish_step(done)).await
    }

    fn actions(&self, done: &Done) -> Vec<UpgradeAction> {
        let n = done.counts.get(INSERTED).copied().unwrap_or_default();
        let description = self.describe().replace("{n}", &n.to_string());
        let action = UpgradeAction::new(ActionType::Insert, &*self.collection, description);
        vec![action.detail(INSERTED, n as i64)]
    }

    fn sweepable(&self) -> Result<&Transform, &'static str> {
        Err("it is a seed")
    }
}

async fn insert_part(
    work: &mut Work<'_>,
    upgrade: &VersionUpgrade,
    seed: &Seed,
    part: &[RawDocumentBuf],
    count: impl Fn(&mut Journal, &Done),
) -> Result<(), RunError> {
    let context = work.context;
    if let Some(session) = &mut work.session {
        let stored = &mut work.stored;
        return commit_with_record(
            context,
            session,
            stored,
            PATIENCE,
            async |session, stored, _| {
                let done = insert(context.database(), session, upgrade, seed, part).await?;
                let to =
                    base(stored, None)?.advanced(&context.writer, |journal| count(journal, &done));
                Ok(((), to))
            },
        )
        .await;
    }
    let inserting = async || {
        context.reached(Point::BeforeCommit).await;
        let inserting = insert_guarded(context, upgrade, seed, part);
        context.stop.guard_with_grace(inserting).await
    };
    let done = context.retry(inserting).await?;
    context.reached(Point::Edited).await;
    work.advance(|journal| count(journal, &done)).await?;
    context.reached(Point::Committed).await;
    Ok(())
}
