//! Applying a version: in one transaction with the record, or in batches, through the journal.

use std::time::Duration;

use mongodb::bson::DateTime;
use mongodb::bson::oid::ObjectId;
use tokio::time::Instant;

use crate::authoring::step::Step;
use crate::authoring::table::VersionUpgrade;
use crate::engine::failing::{at, in_step};
use crate::engine::preflight::estimate::Estimate;
use crate::engine::steps::work_of;
use crate::engine::transact::{PATIENCE, commit_with_record};
use crate::engine::work::{Work, base, needed};
use crate::process::action::UpgradeAction;
use crate::process::checkpoint::Point;
use crate::record::history::Applied;
use crate::record::journal::{Done, Journal};
use crate::server::stop::RunError;
use crate::server::{answer, errors};

/// How long a version is tried in one transaction before it is tried in batches.
const ONE_TRANSACTION: Duration = Duration::from_secs(15);

impl Work<'_> {
    /// Applies a version of which nothing is applied yet.
    pub(crate) async fn apply(
        &mut self,
        upgrade: &VersionUpgrade,
        estimate: &Estimate,
    ) -> Result<Applied, RunError> {
        if estimate.fits_one_transaction && self.session.is_some() {
            let mut in_one_transaction = self.in_one_transaction(upgrade, ONE_TRANSACTION).await;
            if let Err(RunError::Driver(error)) = &in_one_transaction
                && errors::is_transient(error)
                && !answer::is_contention(error)
                && !answer::too_large(error)
            {
                // the server was unavailable, which is no reason to go in batches
                in_one_transaction = self.in_one_transaction(upgrade, PATIENCE).await;
            }
            match in_one_transaction {
                Ok(applied) => {
                    self.context.reached(Point::AfterVersion).await;
                    return Ok(Applied { late: self.sweep(upgrade).await, ..applied });
                }
                Err(RunError::Driver(error))
                    if answer::is_contention(&error) || answer::too_large(&error) =>
                {
                    tracing::warn!(
                        error = answer::describe(&error),
                        "one transaction does not get through; going on in batches"
                    );
                }
                ended => return ended,
            }
        }
        let base = base(self.stored.as_ref(), self.begin.as_ref())?;
        let id = ObjectId::new().to_hex();
        let mut journal = Journal::begin(id, upgrade, base.start(), &self.context.writer);
        for (position, step) in journal.steps.iter_mut().enumerate() {
            step.total = estimate.knows(position).then(|| estimate.documents_of(position));
        }
        self.compare_and_set(base.journaled(journal)).await?;
        self.context.reached(Point::Journaled).await;
        Box::pin(self.in_batches(upgrade, estimate)).await
    }

    /// Applies a version in one transaction, the record included.
    async fn in_one_transaction(
        &mut self,
        upgrade: &VersionUpgrade,
        patience: Duration,
    ) -> Result<Applied, RunError> {
        let session = needed(&mut self.session)?;
        let (context, begin) = (self.context, self.begin.as_ref());
        let began = Instant::now();
        commit_with_record(
            context,
            session,
            &mut self.stored,
            patience,
            async |session, stored, _| {
                let mut done = Vec::new();
                for step in upgrade.steps() {
                    let _doing = context.activity.doing(at(upgrade, &step.name()));
                    let ended =
                        work_of(step).in_transaction(context, session, upgrade, u64::MAX).await;
                    let ended = context.editors.ended(ended).await;
                    done.extend(ended.map_err(|error| in_step(error, upgrade, step))?);
                }
                context.quiesced.verify(&context.stop).await?;
                let applied = Applied {
                    actions: actions(upgrade, &done),
                    late: 0,
                    duration_ms: began.elapsed().as_millis() as i64,
                };
                let to = base(stored, begin)?.upgraded(upgrade, &context.writer, &applied);
                Ok((applied, to))
            },
        )
        .await
    }

    /// Sweeps for documents of the old shape, right after a version was applied in one transaction;
    /// returns how many it changed.
    ///
    /// The version is applied whether or not this succeeds: a failure is only a warning.
    async fn sweep(&mut self, upgrade: &VersionUpgrade) -> u64 {
        let steps: Vec<&Step> = upgrade.steps().collect();
        let mut late = 0;
        for (position, step) in steps.iter().enumerate() {
            late += work_of(step).sweep(self, upgrade, &steps[position + 1..]).await;
            // the version is applied: a failure to end changes nothing
            let _ = self.context.editors.end().await;
        }
        late
    }

    /// Goes on with the journaled version until its version moves.
    pub(crate) async fn in_batches(
        &mut self,
        upgrade: &VersionUpgrade,
        estimate: &Estimate,
    ) -> Result<Applied, RunError> {
        let steps: Vec<&Step> = upgrade.steps().collect();
        let mut proven = None;
        loop {
            let journal = self.journal()?;
            let position = journal.step;
            let Some(step) = steps.get(position) else { break };
            let _doing = self.context.activity.doing(at(upgrade, &step.name()));
            let ended = work_of(step).in_batches(self, upgrade, estimate).await;
            let ended = self.context.editors.ended(ended).await;
            ended.map_err(|error| in_step(error, upgrade, step))?;
            proven = Some(position);
        }
        for (position, step) in steps.iter().enumerate() {
            let writes = step.writes();
            let later = steps[position + 1..].iter().flat_map(|later| later.writes());
            // the last step has just proven it
            if later.into_iter().any(|name| writes.contains(&name))
                || proven == Some(position) && position + 1 == steps.len()
            {
                continue;
            }
            let left = work_of(step).prove(self, upgrade, position).await;
            let left = self.context.editors.ended(left).await;
            left.map_err(|error| in_step(error, upgrade, step))?;
        }
        self.context.reached(Point::BeforeVersion).await;
        self.context.quiesced.verify(&self.context.stop).await?;
        let journal = self.journal()?;
        let done: Vec<&Done> = journal.steps.iter().map(|step| &step.done).collect();
        let applied = Applied {
            actions: actions(upgrade, done.iter().copied()),
            late: done.iter().map(|done| done.late).sum(),
            duration_ms: (DateTime::now().timestamp_millis() - journal.started.timestamp_millis())
                .max(0),
        };
        let stored = base(self.stored.as_ref(), None)?;
        self.compare_and_set(stored.upgraded(upgrade, &self.context.writer, &applied)).await?;
        self.context.reached(Point::AfterVersion).await;
        Ok(applied)
    }
}

/// The actions that a version's steps report, from what each did.
fn actions<'a>(
    upgrade: &VersionUpgrade,
    done: impl IntoIterator<Item = &'a Done>,
) -> Vec<UpgradeAction> {
    upgrade.steps().zip(done).flat_map(|(step, done)| work_of(step).actions(done)).collect()
}
