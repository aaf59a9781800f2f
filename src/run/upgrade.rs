//! Mode `upgrade`: waiting for the lock, and deciding and acting under it.

use std::time::Duration;

use mongodb::ClientSession;
use mongodb::bson::Document;
use tokio::time::Instant;

use crate::checkpoint::Point;
use crate::decision::{Decision, Holder};
use crate::engine::{Context, Look, Work, closed, jittered, look};
use crate::exit::Outcome;
use crate::failure::Failure;
use crate::lock::Attempt;
use crate::observer::{Occasion, Tone};
use crate::record::{Applied, Record, Recorded};
use crate::report::{UpgradeReport, UpgradeState};
use crate::run::{POLL, Run, SAY, held};
use crate::server;
use crate::settings::Repair;
use crate::stop::{GRACE, Halt, Reason};
use crate::upgrade::{Asked, Unit};
use crate::version::Version;

/// How long releasing the lock may take; the lease ends by itself.
const RELEASE: Duration = Duration::from_millis(300);

/// How often a run decides anew because the record moved under it.
const DECISIONS: u32 = 20;

/// What every run with pending upgrades says, for nothing stops old code meanwhile.
const LATE_WRITERS: &str = "code of an earlier version that is still running may go on writing \
                            documents of the old shape: stop it during upgrades";

/// What is done under the lock.
#[derive(Clone, Copy)]
pub(super) enum Under<'a> {
    Upgrade,
    Repair(&'a Repair),
    Resume,
}

/// A wait for the lock.
pub(super) struct Waiting {
    until: Option<Instant>,
    said: Option<Instant>,
}

impl Waiting {
    pub(super) fn new(patience: Duration, deadline: Option<Instant>) -> Self {
        let until = Instant::now().checked_add(patience);
        Waiting { until: until.into_iter().chain(deadline).min(), said: None }
    }

    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
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
        match self.decide_and_upgrade().await {
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

    /// Where the database stands, read once more: the last commit may have taken effect although its
    /// answer was lost.
    async fn standing(&mut self) -> String {
        match tokio::time::timeout(GRACE, self.store.observe(&self.lock.run_id)).await {
            Ok(Ok(observed)) => {
                self.note_recorded(&observed.recorded);
                self.report.standing()
            }
            Ok(Err(_)) | Err(_) => {
                "where it stands could not be read back: the next run finds out".to_owned()
            }
        }
    }

    async fn decide_and_upgrade(&mut self) -> Result<String, Failure> {
        let mut waiting = Waiting::new(self.settings.lock_wait, self.deadline);
        loop {
            let (observed, decision) = self.look_and_decide().await?;
            self.report.from.clone_from(&self.report.to);
            match decision {
                Decision::Held(holder) => self.wait_for_lock(&holder, &mut waiting).await?,
                Decision::Open { .. } | Decision::Reached { .. } | Decision::Closed(_) => {
                    if !self.owes(&observed, &decision).await {
                        return self.judge(&observed, decision);
                    }
                    if let Some(ended) = self.locked(&mut waiting, Under::Upgrade).await? {
                        return Ok(ended);
                    }
                }
                Decision::Stamp { .. }
                | Decision::Initialise { .. }
                | Decision::Upgrade { .. }
                | Decision::Resume { .. } => {
                    let units = self.units(&versions_of(&decision));
                    self.check_privileges(&units).await?;
                    if !units.is_empty() {
                        self.check_workloads().await?;
                    }
                    if let Some(ended) = self.locked(&mut waiting, Under::Upgrade).await? {
                        return Ok(ended);
                    }
                }
            }
        }
    }

    pub(super) async fn wait_for_lock(
        &mut self,
        holder: &Holder,
        waiting: &mut Waiting,
    ) -> Result<(), Failure> {
        if waiting.is_over() {
            return Err(held(holder));
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

    /// Takes the lock, works, and gives it up on every ending; none where another run was faster.
    pub(super) async fn locked(
        &mut self,
        waiting: &mut Waiting,
        under: Under<'_>,
    ) -> Result<Option<String>, Failure> {
        let context = self.context().await?;
        let session = self.session(&context).await?;
        let id = session.as_ref().map(|session| session.id().clone());
        let taking = |halt| closed(halt, "taking the lock");
        match self.stop.guard_with_grace(self.take(id.as_ref())).await {
            Ok(Attempt::Held(holder)) => {
                self.wait_for_lock(&holder, waiting).await?;
                return Ok(None);
            }
            Ok(Attempt::Taken { from: None }) => {}
            Ok(Attempt::Taken { from: Some(former) }) => {
                tracing::warn!(
                    holder = former.holder.run_id,
                    holder_host = former.holder.host,
                    "took over the lock of a run whose lease was over"
                );
                self.stop
                    .guard(async {
                        self.lock.end_session(&former).await;
                        Ok::<_, Halt>(())
                    })
                    .await
                    .map_err(taking)?;
            }
            Err(halt) => {
                // an answer may have been lost on the way: leave no lock behind
                let _ = tokio::time::timeout(RELEASE, self.lock.release()).await;
                return Err(taking(halt));
            }
        }
        self.took_lock = true;
        context.checkpoints.reached(Point::Locked).await;
        let keeper = self.lock.keep(&self.stop);
        let watch = context.quiet.watch(self.lock.lease / 3, &self.stop);
        let ended = match under {
            Under::Upgrade => self.work(&context, session).await,
            Under::Repair(repair) => self.repair(repair).await,
            Under::Resume => self.check().await,
        };
        drop(watch);
        let ended = self.start_workloads(ended, id.as_ref()).await;
        context.checkpoints.reached(Point::BeforeRelease).await;
        drop(keeper);
        match tokio::time::timeout(RELEASE, self.lock.release()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => tracing::warn!("the lock was not released; its lease will end"),
        }
        ended.map(Some)
    }

    async fn take(&self, session: Option<&Document>) -> Result<Attempt, mongodb::error::Error> {
        let mut tries = 0;
        loop {
            match self.lock.attempt(session).await {
                Err(error) if server::passing(&error) && tries < 5 => tries += 1,
                ended => return ended,
            }
            tokio::time::sleep(jittered(Duration::from_millis(50) * tries)).await;
        }
    }

    /// Decides and acts, under the lock, until the gate is open or closed for good.
    async fn work(
        &mut self,
        context: &Context,
        mut session: Option<ClientSession>,
    ) -> Result<String, Failure> {
        for _ in 0..DECISIONS {
            let (observed, decision) = self.look_and_decide().await?;
            let stored = match &observed.recorded {
                Recorded::Readable(record) => Some(record.clone()),
                _ => None,
            };
            if matches!(decision, Decision::Stamp { .. } | Decision::Initialise { .. }) {
                let restoring = self.restore_first(stored.as_ref()).await;
                restoring.map_err(|halt| closed(halt, "restoring workloads"))?;
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
                    self.settle(stored.as_ref(), &to).await
                }
                Decision::Initialise { version, .. } => {
                    let to = Record::begin(&version, self.upgrades, &self.writer);
                    self.settle(None, &to).await
                }
                Decision::Upgrade { begin, pending } => {
                    let begin = self.begin(begin);
                    let units = self.units(&pending);
                    let mut work = Work::new(context, session.take(), stored, begin);
                    let acted = self.apply(context, &mut work, &units).await;
                    session = work.into_session();
                    acted
                }
                Decision::Resume { version } => {
                    let units = self.units(&[version]);
                    let mut work = Work::new(context, session.take(), stored, None);
                    let acted = self.resume(context, &mut work, &units).await;
                    session = work.into_session();
                    acted
                }
            };
            match acted {
                Ok(()) => {}
                Err(Halt::RecordMoved) => {
                    tracing::warn!("the record was changed by something else; deciding anew");
                    self.stop
                        .sleep(jittered(POLL))
                        .await
                        .map_err(|halt| closed(halt, "waiting"))?;
                }
                Err(halt) => return Err(closed(halt, "upgrading")),
            }
        }
        Err(closed(Halt::RecordMoved, "upgrading"))
    }

    /// The record that the operator's word on an unrecorded database begins.
    fn begin(&mut self, version: Option<Version>) -> Option<Record> {
        let record = Record::begin(&version?, self.upgrades, &self.writer);
        self.report.from = Some(record.text.clone());
        Some(record)
    }

    async fn settle(&self, from: Option<&Record>, to: &Record) -> Result<(), Halt> {
        self.store.settle(from, to, &self.lock.run_id, &self.stop).await?;
        tracing::info!(recorded = to.text, "recorded");
        Ok(())
    }

    /// Looks at everything, then applies version after version.
    async fn apply(
        &mut self,
        context: &Context,
        work: &mut Work<'_>,
        units: &[&Unit],
    ) -> Result<(), Halt> {
        self.report.remaining = units.iter().map(|unit| unit.version.to_string()).collect();
        self.check_server(context, units)?;
        self.check_privileges(units).await?;
        self.ask_conditions(context, units, Asked::BeforeAnyWrite).await?;
        let mut estimates = look(context, work.session(), units, None, Look::Upgrade).await?;
        self.begin_applying(units, work.stored()).await?;
        if self.quiesce.is_some() {
            // what the old code wrote until it stopped counts as well
            self.ask_conditions(context, units, Asked::BeforeAnyWrite).await?;
            estimates = look(context, work.session(), units, None, Look::Upgrade).await?;
        }
        for (unit, estimate) in units.iter().zip(&estimates) {
            self.ask_conditions(context, &[unit], Asked::BeforeItsUpgrade).await?;
            tracing::info!(
                version = %unit.version,
                description = unit.description(),
                "upgrade started"
            );
            let applied = work.apply(unit, estimate).await;
            self.note_stored(work);
            self.note_applied(unit, applied?);
        }
        Ok(())
    }

    /// What comes between looking and the first write: old code is stopped, or warned of.
    async fn begin_applying(
        &mut self,
        units: &[&Unit],
        stored: Option<&Record>,
    ) -> Result<(), Halt> {
        let versions: Vec<String> = units.iter().map(|unit| unit.version.to_string()).collect();
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

    async fn resume(
        &mut self,
        context: &Context,
        work: &mut Work<'_>,
        units: &[&Unit],
    ) -> Result<(), Halt> {
        let Some(unit) = units.first() else {
            return Err(Failure::bug("a journal of an unknown version").into());
        };
        self.report.remaining = vec![unit.version.to_string()];
        self.check_server(context, units)?;
        self.check_privileges(units).await?;
        let journal = work.stored().and_then(|record| record.journal.clone());
        let mut estimates =
            look(context, work.session(), units, journal.as_ref(), Look::Upgrade).await?;
        self.begin_applying(units, work.stored()).await?;
        if self.quiesce.is_some() {
            estimates =
                look(context, work.session(), units, journal.as_ref(), Look::Upgrade).await?;
        }
        tracing::info!(
            version = %unit.version,
            description = unit.description(),
            documents = self.report.unfinished.as_ref().map(|u| u.documents),
            "upgrade resumed"
        );
        let estimate = estimates.into_iter().next().unwrap_or_default();
        let applied = work.in_parts(unit, &estimate).await;
        self.note_stored(work);
        self.note_applied(unit, applied?);
        Ok(())
    }

    fn note_stored(&mut self, work: &Work<'_>) {
        if let Some(record) = work.stored() {
            self.note_recorded(&Recorded::Readable(record.clone()));
        }
    }

    fn note_applied(&mut self, unit: &Unit, applied: Applied) {
        let version = unit.version.to_string();
        for action in &applied.actions {
            tracing::info!(
                version,
                collection = action.collection,
                action = action.description,
                "upgrade action"
            );
        }
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
        self.report.upgrades.push(UpgradeReport {
            version,
            description: unit.description(),
            state: UpgradeState::Applied,
            actions: applied.actions,
            exact: None,
            late: Some(applied.late),
            duration_ms: Some(applied.duration_ms.max(0) as u64),
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
            | Outcome::NotQuiesced
    )
}

fn versions_of(decision: &Decision) -> Vec<Version> {
    match decision {
        Decision::Upgrade { pending, .. } => pending.clone(),
        Decision::Resume { version } => vec![version.clone()],
        _ => vec![],
    }
}
