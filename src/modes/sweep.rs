//! Mode `sweep`: what old code has written since the upgrade is upgraded too.

use std::collections::HashSet;

use mongodb::ClientSession;
use mongodb::bson::Timestamp;

use crate::authoring::table::VersionUpgrade;
use crate::decision::decide::Decision;
use crate::engine::context::Context;
use crate::engine::failing::{closed, closed_applying, closed_in_preflight};
use crate::engine::steps::work_of;
use crate::engine::sweep::{LeftOut, Selection, Totals, select};
use crate::engine::work::Work;
use crate::modes::run::{POLL, PREFLIGHT, Run};
use crate::modes::upgrade::{DECISIONS, LockedWork, Waiting};
use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::process::report::{NotSwept, UpgradeReport, UpgradeState};
use crate::process::text::documents;
use crate::record::document::Recorded;
use crate::record::observed::Observed;
use crate::server::connection::Deployment;
use crate::server::privileges::{Need, on};
use crate::server::retry::jittered;
use crate::server::stop::{Reason, RunError};

/// What a run is doing when it writes.
const SWEEPING: &str = "sweeping";

impl Run<'_> {
    pub(crate) async fn sweep(&mut self) -> Result<String, Failure> {
        self.report.swept = Some(0);
        match Box::pin(self.decide_and_sweep()).await {
            // it says so already
            Err(failure) if self.store.doubt.sent().is_some() => Err(failure),
            Err(mut failure) if self.took_lock => {
                failure.message += &format!("; {}", self.swept_so_far().await);
                Err(failure)
            }
            ended => ended,
        }
    }

    /// What a sweep that failed has changed, by the record if that can still be read.
    async fn swept_so_far(&mut self) -> String {
        let counted = self.report.swept.unwrap_or_default();
        let observed = self.standing_record().await;
        let (noted, entry) = match &observed {
            Some(Recorded::Readable(record)) => {
                let run_id = &self.writer.run_id;
                (record.swept_by(run_id), record.notes_sweep(&self.writer))
            }
            _ => (0, false),
        };
        let swept = counted.max(noted);
        self.report.swept = Some(swept);
        match (swept, entry) {
            (0, false) => "nothing was written".to_owned(),
            // the entry comes first there, and an edit may have been made that was not confirmed
            (n, _) if !self.transactions => format!("{} or more were swept", documents(n)),
            (n, _) => format!("{} swept before that stay so", documents(n)),
        }
    }

    async fn decide_and_sweep(&mut self) -> Result<String, Failure> {
        let selection = select(self.upgrades.versions());
        self.report.not_swept = selection.left_out.iter().map(not_swept).collect();
        let mut waiting = Waiting::new(self.settings.lock_wait, self.deadline);
        loop {
            let (observed, decision) = self.decide_unheld(&mut waiting).await?;
            if let Some(message) = self.nothing_to_sweep(&observed, decision)? {
                return Ok(message);
            }
            // it is read again under the lock, and may be large
            drop(observed);
            self.check_sweep_privileges(&selection).await?;
            if let Some(ended) = self.locked(&mut waiting, LockedWork::Sweep(&selection)).await? {
                return Ok(ended);
            }
        }
    }

    /// What a check says where the gate is open and no upgrade has a step to sweep; `None` if a sweep may start.
    ///
    /// # Errors
    ///
    /// What a check says, or that the database has no record yet.
    fn nothing_to_sweep(
        &mut self,
        observed: &Observed,
        decision: Decision,
    ) -> Result<Option<String>, Failure> {
        let message = self.judge(observed, decision)?;
        match observed.recorded.record() {
            Some(_) => Ok(None),
            None if self.upgrades.is_empty() => Ok(Some(message)),
            None => Err(Failure::new(
                Outcome::Pending,
                "the database has no record yet, and a sweep needs one",
                "run it with GATE_MODE=upgrade first: it records the version",
            )),
        }
    }

    /// Whether the connection's user may do what a sweep needs.
    async fn check_sweep_privileges(&self, selection: &Selection<'_>) -> Result<(), Failure> {
        let mut needs = on(&["find", "insert", "update", "remove"], &self.lock.collection);
        needs.extend(self.sweep_needs(selection));
        if let Some(place) = &self.store.names.stamp {
            needs.extend(on(&["find"], &place.collection));
        }
        self.require(&needs).await
    }

    fn sweep_needs(&self, selection: &Selection<'_>) -> Vec<Need> {
        let conditions = self.upgrades.versions().iter().flat_map(VersionUpgrade::conditions);
        let mut needs: Vec<Need> =
            conditions.flat_map(|condition| on(&["find"], &condition.collection)).collect();
        needs.extend(selection.steps.iter().flat_map(|it| it.step.privileges()));
        needs
    }

    /// Sweeps under the lock, until the gate is found open afterwards.
    pub(super) async fn sweep_locked(
        &mut self,
        context: &Context,
        session: &mut Option<ClientSession>,
        selection: &Selection<'_>,
    ) -> Result<String, Failure> {
        self.transactions = context.server.deployment == Deployment::WithTransactions;
        let mut totals = Totals::new(&selection.steps);
        for _ in 0..DECISIONS {
            let (observed, decision) = self.observe_and_decide().await?;
            if matches!(decision, Decision::Held(_)) {
                return Err(Reason::LeaseLost.failure());
            }
            if let Some(message) = self.nothing_to_sweep(&observed, decision)? {
                return Ok(message);
            }
            let record = observed.recorded.record().cloned();
            drop(observed);
            let mut work = Work::new(context, session.take(), record, None);
            let swept = Box::pin(self.sweep_all(&mut work, context, selection, &mut totals)).await;
            *session = work.session;
            match swept {
                Ok(()) => {
                    let (observed, decision) = self.observe_and_decide().await?;
                    let open = self.judge(&observed, decision)?;
                    return Ok(format!("{}; {open}", self.swept_message(selection)));
                }
                Err(RunError::RecordMoved) => {
                    tracing::warn!("the record was changed by something else; deciding again");
                    let pause = self.stop.sleep(jittered(POLL)).await;
                    pause.map_err(|error| closed(error, "waiting"))?;
                }
                Err(error) => return Err(closed(error, SWEEPING)),
            }
        }
        Err(closed(RunError::RecordMoved, SWEEPING))
    }

    async fn sweep_all(
        &mut self,
        work: &mut Work<'_>,
        context: &Context,
        selection: &Selection<'_>,
        totals: &mut Totals<'_>,
    ) -> Result<(), RunError> {
        let versions = self.upgrades.versions();
        let since = self.sweep_caught_up(selection).await?;
        for upgrade in versions {
            self.ask_conditions(context, upgrade, upgrade.conditions(), since).await?;
        }
        totals.begin();
        let swept = self.sweep_steps(work, selection, totals, since).await;
        let ended = work.end_sweep(totals, &swept).await;
        self.note_swept(totals);
        swept?;
        ended
    }

    /// Everything is computed and verified before the first write, but for what an earlier step of the sweep bears on.
    async fn sweep_steps(
        &self,
        work: &mut Work<'_>,
        selection: &Selection<'_>,
        totals: &mut Totals<'_>,
        since: Option<Timestamp>,
    ) -> Result<(), RunError> {
        let preflight_error =
            |error: RunError| error.or_closed(|error| closed_in_preflight(error, PREFLIGHT));
        let mut written = HashSet::<&str>::new();
        let mut expected: Vec<Option<u64>> = Vec::new();
        for it in &selection.steps {
            let alone = it.step.reads().iter().all(|name| !written.contains(name));
            let settled = |name: &str| !written.contains(name);
            expected.push(match alone {
                true => {
                    let found = work.preflight_sweep(*it, since, settled).await;
                    Some(found.map_err(preflight_error)?)
                }
                false => None,
            });
            if expected.last() != Some(&Some(0)) {
                written.extend(it.step.writes());
            }
        }
        for (index, (it, expected)) in selection.steps.iter().zip(expected).enumerate() {
            let expected = match expected {
                Some(expected) => expected,
                None => {
                    let since = self.sweep_caught_up(selection).await?;
                    let found = work.preflight_sweep(*it, since, |_| true).await;
                    found.map_err(preflight_error)?
                }
            };
            if expected > 0 {
                let swept = work.sweep_step(totals, index, expected).await;
                swept.map_err(|error| {
                    error.or_closed(|error| closed_applying(error, SWEEPING, &[it.upgrade]))
                })?;
            }
        }
        Ok(())
    }

    /// The time up to which every majority read has to see, once a majority has all that was written up to then.
    async fn sweep_caught_up(
        &self,
        selection: &Selection<'_>,
    ) -> Result<Option<Timestamp>, Failure> {
        let conditions = self.upgrades.versions().iter().flat_map(VersionUpgrade::conditions);
        let mut collections: Vec<&str> =
            conditions.map(|condition| &*condition.collection).collect();
        collections.extend(selection.steps.iter().flat_map(|it| it.step.reads()));
        self.collections_caught_up(collections, &self.sweep_needs(selection)).await
    }

    /// Keeps the report true to what a sweep has done.
    fn note_swept(&mut self, totals: &Totals<'_>) {
        self.report.swept = Some(totals.all().map(|(_, done)| done.documents).sum());
        self.report.upgrades.clear();
        for upgrade in self.upgrades.versions() {
            let own: Vec<_> =
                totals.all().filter(|(it, _)| it.upgrade.version == upgrade.version).collect();
            if own.is_empty() {
                continue;
            }
            let version = upgrade.version.to_string();
            let mut actions = Vec::new();
            for (it, done) in own {
                let of_step = work_of(it.step).actions(&done);
                tracing::info!(
                    version,
                    step = it.step.name(),
                    collection = &*it.transform.collection,
                    documents = done.documents,
                    "swept"
                );
                actions.extend(of_step);
            }
            let (state, description) = (UpgradeState::Swept, upgrade.description());
            self.report.upgrades.push(UpgradeReport::new(version, description, state, actions));
        }
    }

    fn swept_message(&self, selection: &Selection<'_>) -> String {
        let found = match self.report.swept.unwrap_or_default() {
            _ if selection.steps.is_empty() => "no step of these upgrades can be swept".to_owned(),
            0 => "no document of an old shape was found".to_owned(),
            n => format!("swept {} of an old shape", documents(n)),
        };
        match selection.left_out.len() {
            0 => found,
            1 => format!("{found}; 1 step was not swept (not_swept says why)"),
            n => format!("{found}; {n} steps were not swept (not_swept says why)"),
        }
    }
}

fn not_swept(left_out: &LeftOut<'_>) -> NotSwept {
    let LeftOut { upgrade, step, reason } = left_out;
    let mut collections = step.writes();
    if collections.is_empty() {
        collections = step.collections();
    }
    collections.dedup();
    NotSwept {
        version: upgrade.version.to_string(),
        step: step.name(),
        collection: collections.join(", "),
        reason: reason.clone(),
    }
}
