//! Mode `upgrade`: waiting for the lock, and deciding and acting under it.

use std::time::Duration;

use mongodb::ClientSession;
use tokio::time::Instant;

use crate::authoring::table::VersionUpgrade;
use crate::decision::decide::Decision;
use crate::engine::context::Context;
use crate::engine::failing::{closed, closed_applying, closed_in_preflight};
use crate::engine::preflight::estimate::Estimate;
use crate::engine::preflight::versions::{PreflightFor, preflight};
use crate::engine::sweep::Selection;
use crate::engine::work::Work;
use crate::modes::run::{POLL, PREFLIGHT, Run, SAY, lock_held};
use crate::process::checkpoint::Point;
use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::process::report::{UpgradeReport, UpgradeState};
use crate::process::settings::Repair;
use crate::quiesce::observer::{Occasion, Tone};
use crate::record::document::{Record, Recorded};
use crate::record::history::Applied;
use crate::record::journal::Journal;
use crate::record::lock::{Attempt, foreign};
use crate::record::observed::{Holder, Observed};
use crate::record::staged;
use crate::server::retry::jittered;
use crate::server::stop::{Reason, RunError, catch_panics, within};
use crate::server::{answer, errors, operations};
use crate::version::Version;

/// How long releasing the lock may take; the lease ends by itself.
const RELEASE: Duration = Duration::from_secs(2);

/// How long it is waited for operations of a run whose lock was taken over.
const FORMER: Duration = Duration::from_secs(5);

/// How long a run that failed reads where that leaves the database.
const STANDING: Duration = Duration::from_millis(400);

/// How long after a stop it removes what it stored next to the record.
const STAGED: Duration = Duration::from_millis(700);

/// How often a run decides again because the record moved under it.
pub(super) const DECISIONS: u32 = 20;

/// What a run is doing when it applies upgrades.
const UPGRADING: &str = "upgrading";

/// The warning of a run with pending upgrades that does not stop old code.
const LATE_WRITERS: &str = "code of an earlier version that is still running may go on writing \
                            documents of the old shape: stop it during upgrades";

/// What is done under the lock.
#[derive(Clone, Copy)]
pub(super) enum LockedWork<'a> {
    Upgrade,
    Sweep(&'a Selection<'a>),
    Repair(&'a Repair),
    Resume,
    /// Nothing but giving back what an earlier run stopped: this one ends with a failure.
    Refused(&'a Failure),
}

/// A wait for the lock.
pub(super) struct Waiting {
    patience: Duration,
    deadline: Option<Instant>,
    /// When the lock was first found to be another run's.
    began: Option<Instant>,
    said: Option<Instant>,
}

impl Waiting {
    pub(super) fn new(patience: Duration, deadline: Option<Instant>) -> Self {
        Waiting { patience, deadline, began: None, said: None }
    }

    fn is_over(&mut self) -> bool {
        let now = Instant::now();
        let waited = now - *self.began.get_or_insert(now);
        waited >= self.patience || self.deadline.is_some_and(|deadline| now >= deadline)
    }

    /// Whether it is time to say that the run waits.
    fn is_due(&mut self) -> bool {
        let due = self.said.is_none_or(|said| said.elapsed() >= SAY);
        if due {
            self.said = Some(Instant::now());
        }
        due
    }
}

impl Run<'_> {
    pub(crate) async fn upgrade(&mut self) -> Result<String, Failure> {
        match Box::pin(self.decide_and_upgrade()).await {
            // it says so already
            Err(failure) if self.store.doubt.sent().is_some() => Err(failure),
            Err(mut failure) if ends_early(failure.outcome) => {
                let standing = match self.took_lock {
                    true => self.standing().await,
                    false => "nothing was written".to_owned(),
                };
                failure.message = format!("{}; {standing}", failure.message);
                Err(failure)
            }
            Ok(message) => {
                self.wait_until_ready().await;
                Ok(message)
            }
            ended => ended,
        }
    }

    /// Where the database stands, read once more: another run may have taken over.
    async fn standing(&mut self) -> String {
        // without an answer, what the run knows stands: every commit was answered
        self.standing_record().await;
        self.report.standing()
    }

    /// What is recorded, read once more as a run fails; none without an answer.
    pub(super) async fn standing_record(&mut self) -> Option<Recorded> {
        let until = self.stop.time_left(Duration::from_secs(1), STANDING);
        let observing = self.store.observe(&self.lock.run_id);
        let observed = within(Some(until), observing).await?.ok()?;
        self.note_recorded(&observed.recorded);
        Some(observed.recorded)
    }

    async fn decide_and_upgrade(&mut self) -> Result<String, Failure> {
        let mut waiting = Waiting::new(self.settings.lock_wait, self.deadline);
        loop {
            let (observed, decision) = self.observe_and_decide().await?;
            self.report.from.clone_from(&self.report.to);
            match decision {
                Decision::Held(holder) => self.wait_for_lock(&holder, &mut waiting).await?,
                Decision::Open { .. } | Decision::Reached { .. } | Decision::Closed(_) => {
                    if !self.has_stopped_workloads(&observed, &decision).await {
                        return self.judge(&observed, decision);
                    }
                    // it is read again under the lock, and may be large
                    drop(observed);
                    if let Some(ended) = self.locked(&mut waiting, LockedWork::Upgrade).await? {
                        return Ok(ended);
                    }
                }
                Decision::Stamp { .. }
                | Decision::Initialise { .. }
                | Decision::FinishStamp { .. }
                | Decision::Upgrade { .. }
                | Decision::Resume { .. } => {
                    let upgrades = self.upgrades_of(&observed, &decision);
                    if let Err(failure) = self.check_before_lock(&upgrades).await {
                        return Err(self
                            .refused(failure, &observed, &decision, &mut waiting)
                            .await);
                    }
                    drop(observed);
                    self.warn_of_workloads();
                    if let Some(ended) = self.locked(&mut waiting, LockedWork::Upgrade).await? {
                        return Ok(ended);
                    }
                }
            }
        }
    }

    /// What can be found out before the lock is taken.
    async fn check_before_lock(&self, upgrades: &[&VersionUpgrade]) -> Result<(), Failure> {
        self.check_privileges(upgrades).await?;
        if upgrades.is_empty() {
            return Ok(());
        }
        self.check_server(&self.context().await?, upgrades).await?;
        self.check_workloads().await
    }

    /// Ends a run that is refused before it takes the lock; what an earlier one stopped is restored first.
    async fn refused(
        &mut self,
        failure: Failure,
        observed: &Observed,
        decision: &Decision,
        waiting: &mut Waiting,
    ) -> Failure {
        if !self.has_stopped_workloads(observed, decision).await {
            return failure;
        }
        match self.locked(waiting, LockedWork::Refused(&failure)).await {
            Err(told) if told.outcome == failure.outcome => told,
            // whoever holds the lock takes care of the workloads
            Ok(_) | Err(_) => failure,
        }
    }

    /// Decides, as soon as no other run holds the lock.
    pub(super) async fn decide_unheld(
        &mut self,
        waiting: &mut Waiting,
    ) -> Result<(Observed, Decision), Failure> {
        loop {
            let (observed, decision) = self.observe_and_decide().await?;
            self.report.from.clone_from(&self.report.to);
            let Decision::Held(holder) = &decision else { return Ok((observed, decision)) };
            self.wait_for_lock(holder, waiting).await?;
        }
    }

    pub(super) async fn wait_for_lock(
        &mut self,
        holder: &Holder,
        waiting: &mut Waiting,
    ) -> Result<(), Failure> {
        if waiting.is_over() {
            return Err(lock_held(holder));
        }
        if waiting.is_due() {
            tracing::info!(
                holder = holder.run_id,
                holder_host = holder.host,
                documents = self.report.unfinished.as_ref().map(|u| u.documents),
                "waiting for another run that holds the lock"
            );
        }
        self.pause().await
    }

    /// Takes the lock, works, and gives it up on every ending; `None` if another run was faster.
    pub(super) async fn locked(
        &mut self,
        waiting: &mut Waiting,
        under: LockedWork<'_>,
    ) -> Result<Option<String>, Failure> {
        let context = self.context().await?;
        let mut session = self.session(&context).await?;
        let id = session.as_ref().map(|session| session.id().clone());
        let taking = "taking the lock";
        let take = self.retry_despite_stop(taking, || self.lock.attempt(id.as_ref()));
        let former = match self.stop.guard_with_grace(take).await {
            Ok(Attempt::Held(holder)) => {
                self.wait_for_lock(&holder, waiting).await?;
                return Ok(None);
            }
            Ok(Attempt::Taken { from }) => from,
            Ok(Attempt::Foreign) => {
                return Err(foreign(self.store.database.name(), &self.lock.collection));
            }
            Err(error) => {
                // an answer may have been lost on the way: leave no lock behind
                self.release(session).await;
                return Err(closed(error, taking));
            }
        };
        self.took_lock = true;
        let keeper = self.lock.keep(&self.stop);
        if let Some(former) = former {
            tracing::warn!(
                holder = former.holder.run_id,
                holder_host = former.holder.host,
                "took over the lock of a run whose lease was over"
            );
            let ending = async || self.lock.end_session(former.session.as_ref()).await;
            // a stop meanwhile is met again below, with the lock in hand
            if let Err(error) = self.ask(taking, ending).await {
                let reason = closed(error, "ending its transaction").message;
                tracing::warn!(reason, "what that run sent may still take effect");
                self.unanswered.former = true;
            }
            let until = self.stop.time_left(Duration::from_secs(1), FORMER);
            let (database, own) = (&self.store.database, &self.store.names.collection);
            operations::end_former(database, &former.holder.run_id, own, until).await;
        }
        context.checkpoints.reached(Point::Locked).await;
        let watch = context.quiesced.watch(self.lock.lease / 3, &self.stop);
        let ended = catch_panics(async {
            if let LockedWork::Upgrade | LockedWork::Sweep(_) | LockedWork::Repair(_) = under {
                self.remove_leftovers().await?;
            }
            match under {
                LockedWork::Upgrade => Box::pin(self.work(&context, &mut session)).await,
                LockedWork::Sweep(selection) => {
                    Box::pin(self.sweep_locked(&context, &mut session, selection)).await
                }
                LockedWork::Repair(repair) => self.repair(repair, session.as_mut()).await,
                LockedWork::Resume => self.check().await,
                LockedWork::Refused(failure) => Err(failure.clone()),
            }
        });
        let ended = match ended.await {
            Ok(ended) => ended,
            Err(panicked) => {
                let end = self.lock.end_session(id.as_ref());
                within(Some(Instant::now() + STANDING), end).await;
                Err(panicked)
            }
        };
        drop(watch);
        self.end_operations().await;
        self.remove_staged(&context).await;
        self.find_out(id.as_ref(), session.as_mut()).await;
        let ended = ended.map_err(|failure| self.in_doubt(failure, context.server.deployment));
        let ended = self.start_workloads(ended, id.as_ref()).await;
        context.checkpoints.reached(Point::BeforeRelease).await;
        drop(keeper);
        self.release(session).await;
        ended.map(Some)
    }

    /// Removes what killed runs left next to the record.
    async fn remove_leftovers(&self) -> Result<(), Failure> {
        let doing = "removing what a killed run left";
        let (database, records) = (&self.store.database, &self.lock.collection);
        let removing = || staged::remove_leftovers(database, records);
        match self.ask(doing, removing).await {
            Ok(_) => Ok(()),
            // nothing depends on it, and the next run tries it again
            Err(RunError::Driver(error)) if !errors::is_transient(&error) => {
                let error = answer::describe(&error);
                tracing::warn!(error, "old values that a killed run left stay until the next run");
                Ok(())
            }
            Err(error) => Err(closed(error, doing)),
        }
    }

    /// Removes what this run left there, best effort: the next one does too.
    async fn remove_staged(&self, context: &Context) {
        let until = self.stop.time_left(STAGED, RELEASE);
        let (database, records) = (&self.store.database, &self.lock.collection);
        let removing = async {
            while let Err(error) = context.staged.remove(database, records).await {
                tracing::debug!(error = answer::describe(&error), "old values are removed again");
                tokio::time::sleep(jittered(Duration::from_millis(50))).await;
            }
        };
        if within(Some(until), removing).await.is_none() {
            tracing::warn!("old values stay next to the record until the next run removes them");
        }
    }

    /// Releases the lock; retries after any error, because nothing else is left to do.
    async fn release(&self, mut session: Option<ClientSession>) {
        let until = self.stop.time_left(Duration::from_millis(800), RELEASE);
        let released = within(Some(until), async {
            while let Err(error) = self.lock.release(session.as_mut()).await {
                tracing::debug!(error = answer::describe(&error), "the lock is released again");
                tokio::time::sleep(jittered(Duration::from_millis(50))).await;
            }
        });
        if released.await.is_none() {
            tracing::warn!("the lock was not released; its lease will end");
        }
    }

    /// Decides and acts, under the lock, until the gate is open or closed for good.
    async fn work(
        &mut self,
        context: &Context,
        session: &mut Option<ClientSession>,
    ) -> Result<String, Failure> {
        for _ in 0..DECISIONS {
            let (observed, decision) = self.observe_and_decide().await?;
            if let Some(sent) = self.store.doubt.sent() {
                self.learn(&sent, &observed.recorded);
            }
            let stored = observed.recorded.record().cloned();
            let upgrades = self.upgrades_of(&observed, &decision);
            if matches!(decision, Decision::Stamp { .. } | Decision::Initialise { .. }) {
                let restoring = self.restore_first(stored.as_ref()).await;
                restoring.map_err(|error| closed(error, "restoring workloads"))?;
            }
            let acted = match decision {
                Decision::Held(_) => return Err(Reason::LeaseLost.failure()),
                Decision::Open { .. } | Decision::Reached { .. } | Decision::Closed(_) => {
                    return self.judge(&observed, decision);
                }
                Decision::Stamp { begin, to } => {
                    let base = stored.clone().or_else(|| self.begin(begin));
                    let to = match base {
                        Some(base) => base.stamped(&to, &self.writer),
                        None => Record::stamp_new(&to, &self.writer),
                    };
                    self.compare_and_set(stored.as_ref(), &to, session.as_mut()).await
                }
                Decision::Initialise { version, .. } => {
                    let to = Record::begin(&version, self.upgrades, &self.writer);
                    self.compare_and_set(None, &to, session.as_mut()).await
                }
                Decision::FinishStamp { .. } => match &stored {
                    Some(record) => {
                        self.store.finish_stamp(record, &self.lock.run_id, &self.stop).await
                    }
                    None => Err(Failure::bug("a stamp that follows no record").into()),
                },
                Decision::Upgrade { begin, .. } => {
                    let begin = self.begin(begin);
                    let mut work = Work::new(context, session.take(), stored, begin);
                    let acted = Box::pin(self.apply(context, &mut work, &upgrades)).await;
                    *session = work.session;
                    acted
                }
                Decision::Resume { .. } => {
                    let mut work = Work::new(context, session.take(), stored, None);
                    let acted = Box::pin(self.resume(context, &mut work, &upgrades)).await;
                    *session = work.session;
                    acted
                }
            };
            match acted {
                Ok(()) => {}
                Err(RunError::RecordMoved) => {
                    tracing::warn!("the record was changed by something else; deciding again");
                    self.stop
                        .sleep(jittered(POLL))
                        .await
                        .map_err(|error| closed(error, "waiting"))?;
                }
                Err(error) => return Err(closed(error, UPGRADING)),
            }
        }
        Err(closed(RunError::RecordMoved, UPGRADING))
    }

    /// The record that the operator's declaration on an unrecorded database begins.
    fn begin(&mut self, version: Option<Version>) -> Option<Record> {
        let record = Record::begin(&version?, self.upgrades, &self.writer);
        self.report.from = Some(record.text.clone());
        Some(record)
    }

    async fn compare_and_set(
        &mut self,
        from: Option<&Record>,
        to: &Record,
        session: Option<&mut ClientSession>,
    ) -> Result<(), RunError> {
        self.store.compare_and_set(from, to, &self.lock.run_id, &self.stop, session).await?;
        self.note_recorded(&Recorded::Readable(to.clone()));
        tracing::info!(recorded = to.text, "recorded");
        Ok(())
    }

    /// The preflight of everything, then version after version.
    async fn apply(
        &mut self,
        context: &Context,
        work: &mut Work<'_>,
        upgrades: &[&VersionUpgrade],
    ) -> Result<(), RunError> {
        let estimates = Box::pin(self.prepare(context, work, upgrades)).await?;
        for (index, (upgrade, mut estimate)) in upgrades.iter().zip(estimates).enumerate() {
            if index > 0 {
                let since = self.documents_caught_up(&[upgrade]).await?;
                self.ask_later_conditions(context, upgrade, &upgrades[..index], since).await?;
            }
            if estimate.depends_on.is_some() {
                // now that the earlier versions are applied
                let own = &upgrades[index..=index];
                let found = Box::pin(self.preflight(context, work, own, None)).await?;
                estimate = found.into_iter().next().unwrap_or_default();
            }
            tracing::info!(
                version = %upgrade.version,
                description = upgrade.description(),
                "upgrade started"
            );
            let applied = Box::pin(work.apply(upgrade, &estimate)).await;
            self.note_applied(upgrade, work, applied)?;
        }
        Ok(())
    }

    /// Everything that comes before the first write; what old code wrote until it stopped counts as well.
    async fn prepare(
        &mut self,
        context: &Context,
        work: &mut Work<'_>,
        upgrades: &[&VersionUpgrade],
    ) -> Result<Vec<Estimate>, RunError> {
        self.check_server(context, upgrades).await?;
        self.check_privileges(upgrades).await?;
        let journal = work.stored.as_ref().and_then(|record| record.journal.as_ref());
        self.log_absent(context, upgrades, journal).await;
        self.warn_of_unindexed(context, upgrades, journal).await;
        let estimates = self.ask_and_preflight(context, work, upgrades).await?;
        self.begin_applying(upgrades, work.stored.as_ref()).await?;
        match self.quiesce {
            Some(_) => self.ask_and_preflight(context, work, upgrades).await,
            None => Ok(estimates),
        }
    }

    /// Asks the conditions, but not of a version that is journaled, and does the preflight.
    async fn ask_and_preflight(
        &mut self,
        context: &Context,
        work: &mut Work<'_>,
        upgrades: &[&VersionUpgrade],
    ) -> Result<Vec<Estimate>, RunError> {
        let journal = work.stored.as_ref().and_then(|record| record.journal.clone());
        let begun = usize::from(journal.is_some());
        let since = self.documents_caught_up(upgrades).await?;
        self.ask_first_conditions(context, upgrades, begun, since).await?;
        self.preflight(context, work, upgrades, journal.as_ref()).await
    }

    async fn preflight(
        &self,
        context: &Context,
        work: &mut Work<'_>,
        upgrades: &[&VersionUpgrade],
        journal: Option<&Journal>,
    ) -> Result<Vec<Estimate>, RunError> {
        let since = self.documents_caught_up(upgrades).await?;
        let finding = preflight(
            context,
            work.session.as_mut(),
            upgrades,
            journal,
            since,
            PreflightFor::Upgrade,
        );
        let found = Box::pin(finding).await;
        found.map_err(|error| error.or_closed(|error| closed_in_preflight(error, PREFLIGHT)))
    }

    /// What comes between the preflight and the first write: old code is stopped, or warned of.
    async fn begin_applying(
        &mut self,
        upgrades: &[&VersionUpgrade],
        stored: Option<&Record>,
    ) -> Result<(), RunError> {
        let versions: Vec<String> =
            upgrades.iter().map(|upgrade| upgrade.version.to_string()).collect();
        let from = self.report.from.as_deref().unwrap_or("no recorded version");
        let database = self.store.database.name();
        let note = format!("upgrading {database} from {from} to {}", versions.join(", then "));
        self.started = true;
        self.tell(Occasion::UpgradeStarted, Tone::Normal, note);
        match self.quiesce {
            Some(_) => self.stop_workloads(stored).await,
            None => {
                self.warn(LATE_WRITERS.to_owned());
                Ok(())
            }
        }
    }

    /// Finishes the version that is journaled, the first of `upgrades`.
    async fn resume(
        &mut self,
        context: &Context,
        work: &mut Work<'_>,
        upgrades: &[&VersionUpgrade],
    ) -> Result<(), RunError> {
        let journaled = work.stored.as_ref().and_then(|record| record.journal.as_ref());
        let version = journaled.map(|journal| journal.version.clone()).unwrap_or_default();
        let Some(upgrade) =
            upgrades.first().filter(|upgrade| upgrade.version.to_string() == version)
        else {
            return Err(Failure::bug("a journal of an unknown version").into());
        };
        let passed =
            work.stored.as_ref().and_then(|record| record.journal.as_ref()?.preflight.clone());
        let estimates = if passed.as_ref() == Some(&self.writer.code_version) {
            // by the run that began it, or one that resumed it
            self.check_server(context, upgrades).await?;
            self.check_privileges(upgrades).await?;
            let since = self.documents_caught_up(upgrades).await?;
            self.ask_first_conditions(context, upgrades, 1, since).await?;
            self.begin_applying(upgrades, work.stored.as_ref()).await?;
            vec![]
        } else {
            let estimates = Box::pin(self.prepare(context, work, upgrades)).await?;
            work.note_preflight().await?;
            estimates
        };
        tracing::info!(
            version = %upgrade.version,
            description = upgrade.description(),
            documents = self.report.unfinished.as_ref().map(|u| u.documents),
            "upgrade resumed"
        );
        let estimate = estimates.into_iter().next().unwrap_or_default();
        let applied = Box::pin(work.in_batches(upgrade, &estimate)).await;
        self.note_applied(upgrade, work, applied)
    }

    /// Keeps the report true to what applying a version came to.
    fn note_applied(
        &mut self,
        upgrade: &VersionUpgrade,
        work: &mut Work<'_>,
        applied: Result<Applied, RunError>,
    ) -> Result<(), RunError> {
        // the log has them already
        self.report.warnings.extend(work.take_warnings());
        if let Some(record) = work.stored.as_ref() {
            self.note_recorded(&Recorded::Readable(record.clone()));
        }
        let applied = applied.map_err(|error| by(error, upgrade))?;
        let version = upgrade.version.to_string();
        for action in &applied.actions {
            tracing::info!(
                version,
                collection = action.collection,
                action = action.description,
                "upgrade action"
            );
        }
        self.note_done(version, upgrade, applied);
        Ok(())
    }

    /// Says that a version is applied.
    pub(super) fn note_done(
        &mut self,
        version: String,
        upgrade: &VersionUpgrade,
        applied: Applied,
    ) {
        tracing::info!(
            version,
            duration_ms = applied.duration_ms,
            late = applied.late,
            "upgrade applied"
        );
        let actions: Vec<&str> = applied.actions.iter().map(|a| a.description.as_str()).collect();
        let seconds = applied.duration_ms as f64 / 1000.0;
        let note = match actions.is_empty() {
            true => format!("{version} in {seconds:.1} s: nothing had to be changed"),
            false => format!("{version} in {seconds:.1} s: {}", actions.join("; ")),
        };
        self.tell(Occasion::UpgradeApplied, Tone::Normal, note);
        self.report.remaining.retain(|remaining| *remaining != version);
        let (state, description) = (UpgradeState::Applied, upgrade.description());
        self.report.upgrades.push(UpgradeReport {
            late: Some(applied.late),
            duration_ms: Some(applied.duration_ms.max(0) as u64),
            ..UpgradeReport::new(version, description, state, applied.actions)
        });
    }
}

/// Whether a run that ends so may have written something, or must say that it did not.
fn ends_early(outcome: Outcome) -> bool {
    matches!(
        outcome,
        Outcome::UpgradeFailed
            | Outcome::ConditionFailed
            | Outcome::NoServer
            | Outcome::Locked
            | Outcome::Interrupted
            | Outcome::NotAuthorised
            | Outcome::ServerUnsuitable
            | Outcome::Bug
            | Outcome::NotQuiesced
    )
}

/// What an error in an upgrade's own work means.
fn by(error: RunError, upgrade: &VersionUpgrade) -> RunError {
    error.or_closed(|error| closed_applying(error, UPGRADING, &[upgrade]))
}
