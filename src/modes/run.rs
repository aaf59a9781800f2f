//! One run: what it knows, and the modes that only read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mongodb::bson::DateTime;
use tokio::time::Instant;

use crate::authoring::table::{Upgrades, VersionUpgrade};
use crate::decision::decide::{Decision, Declaration, decide};
use crate::decision::terms::Terms;
use crate::engine::failing::closed;
use crate::engine::preflight::estimate::{Estimate, Later};
use crate::engine::preflight::versions::{PreflightFor, preflight};
use crate::process::activity::Activity;
use crate::process::checkpoint::Checkpoints;
use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::process::report::{Report, Unfinished, UpgradeReport, UpgradeState};
use crate::process::settings::{Asking, Initialise, Mode, Settings};
use crate::process::text::counted;
use crate::quiesce::observer::{Notice, Observer, Occasion, Tone};
use crate::quiesce::quiesced::Quiesced;
use crate::quiesce::workloads::Workloads;
use crate::record::document::Recorded;
use crate::record::history::Writer;
use crate::record::lock::{LOCK_ID, Lock};
use crate::record::observed::{Holder, Observed};
use crate::record::remembered::Memory;
use crate::record::store::Store;
use crate::server::operations;
use crate::server::privileges::{self, Need};
use crate::server::retry::{Retry, jittered};
use crate::server::stop::{RunError, Stop, within};
use crate::version::Version;

/// How often a run that waits for another one reads again, give or take half of it.
pub(crate) const POLL: Duration = Duration::from_millis(400);

/// How often a run that waits says so.
pub(crate) const SAY: Duration = Duration::from_secs(10);

/// What a run is doing when it finds out what upgrades would do.
pub(super) const PREFLIGHT: &str = "the preflight";

/// How long an answer may be under way beyond the time that a run waits for a server: the driver's own
/// errors, which come then, say more.
const UNDER_WAY: Duration = Duration::from_millis(500);

/// How long a run that was told to stop tries to end its operations on the server.
const ENDING: Duration = Duration::from_millis(500);

/// The workloads that a run stops, and where they are remembered.
#[derive(Clone, Debug)]
pub(crate) struct Quiesce {
    pub(crate) workloads: Arc<dyn Workloads>,
    pub(crate) memory: Memory,
    pub(crate) quiesced: Quiesced,
}

/// Calls of a run that were not answered, by the workload's UID: they may still take effect.
#[derive(Debug, Default)]
pub(crate) struct Unanswered {
    /// The revision that was to be set to 0.
    pub(super) stopping: BTreeMap<String, String>,
    /// What was to be started.
    pub(super) starting: BTreeSet<String>,
    /// What the run sent that had the lock before, and whose session could not be ended.
    pub(super) former: bool,
}

/// One run.
pub(crate) struct Run<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) code: &'a Version,
    pub(crate) upgrades: &'a Upgrades,
    /// When the run began, as the author's code sees it.
    pub(crate) began: DateTime,
    pub(crate) store: Store,
    pub(crate) lock: Lock,
    pub(crate) writer: Writer,
    pub(crate) stop: Stop,
    pub(crate) checkpoints: Arc<dyn Checkpoints>,
    pub(crate) deadline: Option<Instant>,
    /// The workloads to stop while upgrades are applied.
    pub(crate) quiesce: Option<Quiesce>,
    pub(crate) unanswered: Unanswered,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) activity: Activity,
    /// Whether the run held the lock, and so may have written.
    pub(crate) took_lock: bool,
    /// Whether the server has transactions, once that is known.
    pub(crate) transactions: bool,
    /// Whether it began to apply upgrades.
    pub(crate) started: bool,
    pub(crate) report: &'a mut Report,
}

impl<'a> Run<'a> {
    /// Ends on the server what a run that was told to stop gave up.
    pub(crate) async fn end_operations(&self) {
        if self.stop.check().is_ok() {
            return;
        }
        let until = self.stop.time_left(ENDING, ENDING);
        let (database, own) = (&self.store.database, &self.store.names.collection);
        operations::end(database, &self.lock.run_id, own, until).await;
    }

    /// Reads what the decision needs, and decides.
    pub(super) async fn observe_and_decide(&mut self) -> Result<(Observed, Decision), Failure> {
        let observe = async || {
            let mut observed = self.store.observe_all(&self.lock.run_id).await?;
            if observed.recorded == Recorded::Absent {
                observed.occupied = self.occupied().await?;
            }
            Ok::<_, RunError>(observed)
        };
        let mut observed = match self.ask("reading the record", observe).await {
            Ok(observed) => observed,
            Err(error) => return Err(self.explain_reading(error).await),
        };
        self.note_recorded(&observed.recorded);
        let journal = observed.recorded.journal();
        let journaled = journal.map(|journal| (journal.version.as_str(), journal.run_started()));
        self.upgrades.start(self.began, journaled);
        if observed.recorded == Recorded::Absent
            && let Some(failure) = self.misplaced().await
        {
            return Err(failure);
        }
        if self.settings.mode == Mode::Plan
            && let Some(holder) = observed.holder.take()
        {
            self.warn(format!("{} is at work now; this plan ignores its lock", named(&holder)));
        }
        if matches!(self.settings.mode, Mode::Plan | Mode::Upgrade | Mode::Sweep)
            && let Some(record) = observed.recorded.record()
        {
            self.warn_of_changed(record);
        }
        let decision = decide(&observed, &self.terms());
        let upgrades = self.upgrades_of(&observed, &decision);
        self.report.remaining =
            upgrades.iter().map(|upgrade| upgrade.version.to_string()).collect();
        Ok((observed, decision))
    }

    /// Why a record could never be stored in a database that has none.
    pub(super) async fn misplaced(&self) -> Option<Failure> {
        match self.stop.guard(self.store.misplaced()).await {
            Ok(misplaced) => misplaced,
            Err(error) => {
                // who may not ask hears it from the first write
                tracing::debug!(reason = closed(error, "listing databases").message, "not known");
                None
            }
        }
    }

    /// The collections that hold documents, as far as the decision on an unrecorded database asks for them.
    pub(super) async fn occupied(&self) -> Result<Vec<String>, RunError> {
        if self.settings.initialise == Initialise::Fresh {
            return Ok(self.store.occupied().await?);
        }
        if self.settings.from_version.is_none() {
            return Ok(vec![]);
        }
        let seen = self.store.seen_occupied().await?;
        if seen.is_none() {
            let need = Need { action: "listCollections", collection: None };
            let database = &self.store.database;
            if privileges::missing_privilege(database, std::slice::from_ref(&need)).await?.is_some()
            {
                return Err(sees_nothing(database.name()).into());
            }
        }
        Ok(seen.into_iter().collect())
    }

    /// Asks the server, again after errors that may pass, for as long as the run waits for a server.
    pub(super) async fn ask<T, E: Into<RunError>>(
        &self,
        doing: &str,
        ask: impl AsyncFn() -> Result<T, E>,
    ) -> Result<T, RunError> {
        self.stop.guard(self.retry_despite_stop(doing, ask)).await
    }

    /// The same, whatever a stop says.
    pub(super) async fn retry_despite_stop<T, E: Into<RunError>>(
        &self,
        doing: &str,
        ask: impl AsyncFn() -> Result<T, E>,
    ) -> Result<T, RunError> {
        let _doing = self.activity.doing(doing);
        let (now, patience) = (Instant::now(), self.settings.patience());
        // with the lock in hand it is work, which GATE_TIMEOUT does not bound
        let bound = self.deadline.filter(|_| !self.took_lock).map(|deadline| deadline.max(now));
        let until = bound.map_or(now + patience, |bound| bound.min(now + patience));
        // mode wait says why, and asks again by itself
        let again = self.settings.mode != Mode::Wait && self.settings.asking == Asking::Again;
        let mut retry = Retry { until: Some(if again { until } else { now }), ..Retry::default() };
        match within(Some(until + UNDER_WAY), retry.run(ask)).await {
            Some(ended) => ended,
            None => Err(retry.last.unwrap_or_else(|| no_answer(doing, patience).into())),
        }
    }

    pub(super) fn terms(&self) -> Terms<'_> {
        Terms {
            code: self.code,
            upgrades: self.upgrades,
            database: &self.settings.database,
            initialise: self.settings.initialise,
            from: self.settings.from_version.as_ref(),
            target: self.settings.target_version.as_ref(),
        }
    }

    /// Keeps the report true to what is stored.
    pub(super) fn note_recorded(&mut self, recorded: &Recorded) {
        let text = match recorded {
            Recorded::Absent => None,
            Recorded::Readable(record) => Some(record.text.clone()),
            Recorded::Unreadable(unreadable) => Some(unreadable.text.clone()),
        };
        self.report.to = text;
        let journal = recorded.journal();
        self.report.unfinished = journal.map(|journal| Unfinished {
            version: journal.version.clone(),
            journal: journal.id.clone(),
            step: journal.steps.get(journal.step).map_or("recording it", |s| &s.name).to_owned(),
            documents: journal.steps.iter().map(|step| step.done.documents).sum(),
        });
    }

    pub(super) fn warn(&mut self, text: String) {
        let text = self.settings.names.named(&text);
        tracing::warn!(reason = text, "warning");
        if !self.report.warnings.contains(&text) {
            self.report.warnings.push(text);
        }
    }

    /// Notifies the observer, if there is one.
    pub(crate) fn tell(&self, reason: Occasion, tone: Tone, note: String) {
        if let Some(observer) = &self.observer {
            observer.tell(Notice { reason, tone, note });
        }
    }

    /// What a decision means to a mode that only reads: why the gate is open, or why not.
    pub(super) fn judge(
        &mut self,
        observed: &Observed,
        decision: Decision,
    ) -> Result<String, Failure> {
        let pending = |versions: &[Version]| {
            let list: Vec<String> = versions.iter().map(Version::to_string).collect();
            Failure::new(
                Outcome::Pending,
                format!(
                    "{} pending: {}",
                    counted(versions.len() as u64, "upgrade is", "upgrades are"),
                    list.join(", ")
                ),
                match self.settings.mode {
                    Mode::Plan => "run it with GATE_MODE=upgrade to apply what is listed here",
                    _ => "run it with GATE_MODE=upgrade (GATE_MODE=plan shows what that would do)",
                },
            )
        };
        // A mode that waits has judged before.
        self.report.remaining.clear();
        match decision {
            Decision::Open { warning } => {
                let message = self.open_message(observed);
                warning.into_iter().for_each(|warning| self.warn(warning));
                Ok(message)
            }
            Decision::Stamp { to, .. }
            | Decision::Initialise { version: to, declaration: Declaration::FromVersion } => {
                let remaining: Vec<Version> = self
                    .upgrades
                    .between(&to, self.code)
                    .iter()
                    .map(|u| u.version.clone())
                    .collect();
                if !remaining.is_empty() {
                    return Err(self.reached(&to, &remaining));
                }
                Ok(match self.report.to.clone() {
                    Some(recorded) => {
                        format!(
                            "database is at {recorded} and nothing is pending for {}",
                            self.code
                        )
                    }
                    None => format!("nothing could apply to this database for {}", self.code),
                })
            }
            Decision::Initialise { version, declaration: Declaration::Fresh } => Err(Failure::new(
                Outcome::Unrecorded,
                format!(
                    "the database holds no documents and no record: mode upgrade would initialise it \
                     at {version}"
                ),
                "run it with GATE_INITIALISE=fresh and GATE_MODE=upgrade",
            )),
            Decision::Upgrade { pending: versions, .. } => {
                self.report.remaining = versions.iter().map(Version::to_string).collect();
                Err(pending(&versions))
            }
            Decision::Resume { version } => {
                let recorded = observed
                    .recorded
                    .record()
                    .map_or(version.clone(), |record| record.version.clone());
                let rest = self.upgrades.between(&recorded, self.code);
                self.report.remaining =
                    rest.iter().map(|upgrade| upgrade.version.to_string()).collect();
                let left = self.report.unfinished.as_ref().map_or(String::new(), |unfinished| {
                    format!(
                        ": {} documents are done, it is at step \"{}\" (journal {})",
                        unfinished.documents, unfinished.step, unfinished.journal
                    )
                });
                Err(Failure::new(
                    Outcome::Pending,
                    format!("the upgrade to {version} is unfinished{left}"),
                    "run it with GATE_MODE=upgrade: it goes on where the last run stopped",
                ))
            }
            Decision::FinishStamp { version, stamp } => Err(Failure::new(
                Outcome::Pending,
                format!(
                    "the database is at {version}, but {stamp}, where the application keeps its version, \
                     does not say so yet"
                ),
                "run it with GATE_MODE=upgrade: it goes on where the last run stopped",
            )),
            Decision::Reached { recorded, remaining } => Err(self.reached(&recorded, &remaining)),
            Decision::Held(holder) => Err(lock_held(&holder)),
            Decision::Closed(failure) => Err(failure),
        }
    }

    pub(super) fn reached(&mut self, recorded: &Version, remaining: &[Version]) -> Failure {
        self.report.remaining = remaining.iter().map(Version::to_string).collect();
        Failure::new(
            Outcome::Pending,
            format!(
                "reached {recorded}, {}",
                counted(remaining.len() as u64, "upgrade remains", "upgrades remain")
            ),
            "run it without GATE_TARGET_VERSION when the rest may be applied",
        )
    }

    pub(super) fn open_message(&self, observed: &Observed) -> String {
        match &observed.recorded {
            Recorded::Readable(record) => {
                format!("database is at {}, which {} can use", record.text, self.code)
            }
            _ => format!("nothing could apply to this database for {}", self.code),
        }
    }

    pub(crate) async fn check(&mut self) -> Result<String, Failure> {
        let (observed, decision) = self.observe_and_decide().await?;
        self.report.from.clone_from(&self.report.to);
        self.judge(&observed, decision)
    }

    /// Checks until the gate opens, the wait is over, or waiting cannot help.
    pub(crate) async fn wait(&mut self) -> Result<String, Failure> {
        let (mut said, mut last): (Option<Instant>, Option<Failure>) = (None, None);
        loop {
            // the driver's own errors come when the time is over, and say more
            let until = self.deadline.map(|deadline| deadline + UNDER_WAY);
            let failure = match within(until, self.check()).await {
                Some(Ok(message)) => return Ok(message),
                // what an earlier attempt learnt says more
                Some(Err(failure)) if is_silence(&failure) => last.unwrap_or(failure),
                Some(Err(failure)) => failure,
                None => last.unwrap_or_else(|| {
                    no_answer("reading the record", self.settings.timeout.unwrap_or_default())
                }),
            };
            let over = self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
                || self.settings.asking == Asking::Once;
            if over || !failure.outcome.waiting_can_help() {
                return Err(failure);
            }
            if said.is_none_or(|said| said.elapsed() >= SAY) {
                tracing::info!(
                    reason = self.settings.names.named(&failure.message),
                    documents = self.report.unfinished.as_ref().map(|u| u.documents),
                    "waiting for the gate to open"
                );
                said = Some(Instant::now());
            }
            last = Some(failure);
            self.pause().await?;
        }
    }

    /// A little while, and no longer than the run may wait.
    pub(super) async fn pause(&self) -> Result<(), Failure> {
        let mut time = jittered(POLL);
        if let Some(deadline) = self.deadline {
            time = time.min(deadline.saturating_duration_since(Instant::now()));
        }
        self.stop.sleep(time).await.map_err(|error| closed(error, "waiting"))
    }

    pub(crate) async fn plan(&mut self) -> Result<String, Failure> {
        self.record_caught_up().await?;
        let (observed, decision) = self.observe_and_decide().await?;
        self.report.from.clone_from(&self.report.to);
        let upgrades = self.upgrades_of(&observed, &decision);
        let journal = observed.recorded.journal().cloned();
        if !upgrades.is_empty() {
            let context = self.context().await?;
            let begun = usize::from(journal.is_some());
            self.check_server(&context, &upgrades).await?;
            let since = self.documents_caught_up(&upgrades).await?;
            self.ask_first_conditions(&context, &upgrades, begun, since).await?;
            self.warn_of_absent(&context, &upgrades, journal.as_ref()).await;
            self.warn_of_unindexed(&context, &upgrades, journal.as_ref()).await;
            let mut session = self.session(&context).await?;
            let found = preflight(
                &context,
                session.as_mut(),
                &upgrades,
                journal.as_ref(),
                since,
                PreflightFor::Plan,
            )
            .await;
            let estimates = match found {
                Ok(estimates) => estimates,
                Err(error) => {
                    let needs = self.plan_needs(&upgrades);
                    return Err(self.explain(error, PREFLIGHT, &needs).await);
                }
            };
            self.report.upgrades = upgrades
                .iter()
                .zip(&estimates)
                .map(|(upgrade, estimate)| planned(upgrade, estimate))
                .collect();
            for (upgrade, estimate) in upgrades.iter().zip(&estimates) {
                if let Some(earlier) = &estimate.depends_on {
                    self.warn(format!(
                        "{} has its preflight after {earlier}, which changes what it reads, and before its own \
                         first write",
                        upgrade.version
                    ));
                }
                for Later { step, after } in &estimate.later {
                    self.warn(format!(
                        "{}: step \"{step}\" has its preflight after step \"{after}\", which changes what it \
                         reads, and before its own first write",
                        upgrade.version
                    ));
                }
            }
        }
        self.judge(&observed, decision)
    }

    /// The upgrades that a decision is to apply, in order; a journaled one comes first.
    pub(super) fn upgrades_of(
        &self,
        observed: &Observed,
        decision: &Decision,
    ) -> Vec<&'a VersionUpgrade> {
        let upgrades = self.upgrades;
        match (decision, &observed.recorded) {
            (Decision::Upgrade { pending, .. }, _) => {
                pending.iter().filter_map(|version| upgrades.of_version(version)).collect()
            }
            (Decision::Resume { .. }, Recorded::Readable(record)) => {
                let upto = self.settings.target_version.as_ref().unwrap_or(self.code);
                upgrades.between(&record.version, upto)
            }
            _ => vec![],
        }
    }
}

fn named(holder: &Holder) -> String {
    format!("run {} on {}", holder.run_id, holder.host)
}

/// The closed gate of a run that waited so long for an answer.
pub(crate) fn no_answer(doing: &str, time: Duration) -> Failure {
    Failure::new(
        Outcome::NoServer,
        format!("{doing}{SILENCE}{}", humantime::format_duration(time)),
        "check host and port in the connection string, the network, that the server runs, and that a \
         majority of its replica set does, without which no write is confirmed",
    )
}

/// Whether a run only waited in vain.
fn is_silence(failure: &Failure) -> bool {
    failure.outcome == Outcome::NoServer && failure.message.contains(SILENCE)
}

const SILENCE: &str = ": no answer within ";

/// The closed gate of a user who cannot tell an empty database from one that others see.
fn sees_nothing(database: &str) -> Failure {
    Failure::new(
        Outcome::NotAuthorised,
        format!(
            "the user of the connection string sees no documents in {database} but the gate's, and may not \
             list its collections"
        ),
        format!(
            "grant it find on the application's collections in {database}; docs/mongodb.md has the least \
             role. Where the database is meant to be empty, set GATE_INITIALISE=fresh in place of \
             GATE_FROM_VERSION, and grant it listCollections"
        ),
    )
}

pub(super) fn lock_held(holder: &Holder) -> Failure {
    Failure::new(
        Outcome::Locked,
        format!("{} holds the lock ({LOCK_ID})", named(holder)),
        "wait until it is finished, then run it again; if it was killed, its lease ends by itself",
    )
}

fn planned(upgrade: &VersionUpgrade, estimate: &Estimate) -> UpgradeReport {
    let (version, description) = (upgrade.version.to_string(), upgrade.description());
    UpgradeReport {
        exact: Some(estimate.is_exact()),
        preflight_after: estimate.depends_on.as_ref().map(ToString::to_string),
        preflight_later: estimate.later.iter().map(|later| later.step.clone()).collect(),
        ..UpgradeReport::new(version, description, UpgradeState::Planned, estimate.actions())
    }
}
