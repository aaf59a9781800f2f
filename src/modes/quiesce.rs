//! Old code stopped while its data changes: when workloads are stopped, restored and given back.

use std::collections::BTreeSet;
use std::time::Duration;

use mongodb::bson::Document;
use tokio::time::{Instant, timeout_at};

use crate::decision::decide::Decision;
use crate::engine::failing::closed;
use crate::modes::run::{POLL, Quiesce, Run};
use crate::modes::upgrade::{LockedWork, Waiting};
use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::process::report::{WorkloadReport, WorkloadState};
use crate::process::settings::{Mode, Resume};
use crate::quiesce::observer::{Occasion, Tone};
use crate::quiesce::quiesced::{came_back, is_stopped, listed};
use crate::quiesce::workloads::{Scaled, Workload};
use crate::record::document::{Record, Recorded};
use crate::record::observed::Observed;
use crate::record::remembered::{Entry, Remembered};
use crate::server::retry::jittered;
use crate::server::stop::RunError;
use crate::server::{answer, errors};

/// How long restoring may take, also after a signal.
pub(super) const RESTORE: Duration = Duration::from_secs(10);

/// How often a wait for pods says so.
const SAY: Duration = Duration::from_secs(5);

/// How often a workload that changes all the time is read again.
const READS: u32 = 5;

/// How long a workload that could not be started is left alone before it is tried again.
const AGAIN: Duration = Duration::from_millis(300);

/// How starting a workload ended.
enum Started {
    /// It is at its number.
    Yes,
    /// Somebody did it already, or it is gone.
    NoNeed,
    /// Not yet, for this reason; trying again may help.
    NotYet(String),
    /// It cannot be, for this reason.
    No(String),
}

impl Started {
    fn failed(failure: Failure) -> Self {
        match failure.outcome {
            Outcome::NoServer => Started::NotYet(failure.message),
            _ => Started::No(failure.message),
        }
    }
}

impl Run<'_> {
    /// Makes sure, before the lock is taken, that the workloads can be stopped.
    pub(super) async fn check_workloads(&self) -> Result<(), Failure> {
        let Some(quiesce) = &self.quiesce else { return Ok(()) };
        let check = self.stop.guard(quiesce.workloads.check()).await;
        check.map_err(|error| closed(error, "reading the workloads"))
    }

    /// Says, before anything is written, what that check found that is no reason to refuse.
    pub(super) fn warn_of_workloads(&mut self) {
        let Some(quiesce) = &self.quiesce else { return };
        for text in quiesce.workloads.warnings() {
            if !self.report.warnings.contains(&text) {
                self.tell(Occasion::Quiesced, Tone::Warning, text.clone());
                self.warn(text);
            }
        }
    }

    /// Remembers and stops the workloads, and waits until nothing of them runs.
    pub(super) async fn stop_workloads(&mut self, stored: Option<&Record>) -> Result<(), RunError> {
        let Some(quiesce) = self.quiesce.clone() else { return Ok(()) };
        let began = Instant::now();
        let deadline = began + self.settings.quiesce_timeout;
        let version = stored.map(|record| record.text.as_str());
        let mut remembered = self.stop.guard(quiesce.memory.read()).await?;
        let (mut stopped, mut said) = (BTreeSet::new(), began);
        loop {
            let left = match self.stop_once(&quiesce, &mut remembered, version, &mut stopped).await
            {
                Ok(left) if left.is_empty() => break,
                Ok(left) => left,
                Err(RunError::Failure(failure))
                    if failure.outcome == Outcome::NoServer && Instant::now() < deadline =>
                {
                    tracing::warn!(
                        reason = failure.message,
                        "the workloads do not answer; asking again"
                    );
                    vec![]
                }
                Err(error) => return Err(error),
            };
            if Instant::now() >= deadline {
                return Err(not_stopped(&left, self.settings.quiesce_timeout).into());
            }
            if said.elapsed() >= SAY {
                let pods: Vec<String> = left.iter().flat_map(|w| w.pods.clone()).collect();
                tracing::info!(
                    pods = pods.len(),
                    names = listed(&pods),
                    "waiting for pods to stop"
                );
                said = Instant::now();
            }
            self.stop.sleep(jittered(POLL)).await?;
        }
        quiesce.quiesced.hold();
        let entries = remembered.of(quiesce.workloads.namespace());
        let entries: Vec<Entry> = entries.filter(|e| stopped.contains(&e.uid)).cloned().collect();
        let names: Vec<String> = entries.iter().map(described).collect();
        let duration_ms = began.elapsed().as_millis() as u64;
        tracing::info!(workloads = names.join(", "), duration_ms, "quiesced");
        if !names.is_empty() {
            let seconds = began.elapsed().as_secs();
            let note = format!("stopped {} in {seconds} s", names.join(", "));
            self.tell(Occasion::Quiesced, Tone::Normal, note);
        }
        Ok(())
    }

    /// Reads every workload, and stops those that are to run; returns those of which something is left.
    async fn stop_once(
        &mut self,
        quiesce: &Quiesce,
        remembered: &mut Remembered,
        version: Option<&str>,
        stopped: &mut BTreeSet<String>,
    ) -> Result<Vec<Workload>, RunError> {
        let workloads = &quiesce.workloads;
        let mut found = Vec::new();
        for name in workloads.names() {
            match self.stop.guard(workloads.get(&name)).await? {
                Some(workload) => found.push(workload),
                None => self.note_missing(&name),
            }
        }
        // who starts it again while this run waits will do so later, too
        if let Some(back) = found.iter().find(|w| w.replicas > 0 && stopped.contains(&w.uid)) {
            return Err(came_back(back).into());
        }
        let mut changed = false;
        for workload in &found {
            let run_id = &self.lock.run_id;
            changed |= remembered.note(workloads.namespace(), workload, version, run_id);
        }
        if changed {
            self.stop.guard_with_grace(quiesce.memory.write(remembered)).await?;
        }
        for workload in found.iter().filter(|workload| workload.replicas > 0) {
            self.lock.verify(&self.stop).await?;
            let (uid, revision) = (workload.uid.clone(), workload.revision.clone());
            self.unanswered.stopping.insert(uid, revision);
            let scaled = self.stop.guard_with_grace(workloads.scale(workload, 0)).await;
            let lost = match &scaled {
                Ok(_) => false,
                Err(RunError::Failure(failure)) => failure.outcome == Outcome::NoServer,
                Err(_) => true,
            };
            if !lost {
                self.unanswered.stopping.remove(&workload.uid);
            }
            // an answer that was lost may have been a yes
            self.note_workload(&workload.name, workload.replicas, WorkloadState::Stopped);
            if scaled? == Scaled::Done {
                tracing::info!(
                    workload = workload.name,
                    replicas = workload.replicas,
                    "scaled to 0"
                );
                stopped.insert(workload.uid.clone());
            }
        }
        Ok(found.into_iter().filter(|workload| !is_stopped(workload)).collect())
    }

    fn note_missing(&mut self, name: &str) {
        let text = format!("{name} does not exist (yet): there is nothing to stop");
        if !self.report.warnings.contains(&text) {
            self.tell(Occasion::Quiesced, Tone::Warning, text.clone());
            self.warn(text);
        }
    }

    fn note_workload(&mut self, name: &str, replicas: u32, state: WorkloadState) {
        self.report.workloads.retain(|workload| workload.name != name);
        self.report.workloads.push(WorkloadReport { name: name.to_owned(), replicas, state });
    }

    /// Whether an earlier run left workloads stopped that this one should start.
    pub(super) async fn has_stopped_workloads(
        &self,
        observed: &Observed,
        decision: &Decision,
    ) -> bool {
        let Some(quiesce) = &self.quiesce else { return false };
        let Some(record) = readable(&observed.recorded) else { return false };
        let reading = self.ask("reading what was stopped", || quiesce.memory.read()).await;
        let remembered = match reading {
            Ok(remembered) => remembered,
            Err(error) => {
                let reason = closed(error, "reading what was stopped").message;
                tracing::warn!(reason, "what an earlier run stopped is left as it is");
                return false;
            }
        };
        let all = matches!(decision, Decision::Open { .. }) && self.resumes();
        remembered.of(quiesce.workloads.namespace()).any(|entry| all || entry.is_of(record))
    }

    /// Whether this run, where it opens the gate, gives the workloads back.
    fn resumes(&self) -> bool {
        self.settings.mode == Mode::Resume || self.settings.resume == Resume::AtEnd
    }

    /// Starts what was stopped at the state `record`, before that moves for another reason.
    pub(super) async fn restore_first(&mut self, record: Option<&Record>) -> Result<(), RunError> {
        let Some(quiesce) = self.quiesce.clone() else { return Ok(()) };
        if self.unanswered.former {
            return Ok(());
        }
        let mut remembered = self.stop.guard(quiesce.memory.read()).await?;
        let deadline = Instant::now() + RESTORE;
        let to_start = to_start(&quiesce, &remembered, |entry| entry.is_of(record));
        for (entry, reason) in self
            .start_all(&quiesce, &mut remembered, to_start, WorkloadState::Restored, deadline)
            .await
        {
            let by_hand = quiesce.workloads.by_hand(&entry.name, entry.replicas);
            self.warn(format!("{} could not be restored: {reason}; {by_hand}", described(&entry)));
        }
        Ok(())
    }

    /// Starts workloads as the run ends, while it still holds the lock: restores them if nothing was committed, and
    /// gives them back if that is this run's job.
    pub(super) async fn start_workloads(
        &mut self,
        ended: Result<String, Failure>,
        session: Option<&Document>,
    ) -> Result<String, Failure> {
        let Some(quiesce) = self.quiesce.clone() else { return ended };
        quiesce.quiesced.release();
        let sent = self.store.doubt.sent();
        if sent.is_some_and(|sent| sent.concerns_version()) {
            return self.unknown(ended, "a commit was not confirmed");
        }
        if ended.is_err() && self.unanswered.former {
            return self.unknown(ended, "a transaction of the run before could not be ended");
        }
        let deadline = Instant::now() + RESTORE;
        let standing = async {
            if ended.is_err() {
                // no commit of this run, given up half-way, may still take effect
                self.lock.end_session(session).await?;
            }
            // another run that took the lock over also takes care of the workloads
            if !self.lock.renew().await? {
                return Ok(None);
            }
            let observed = self.store.observe(&self.lock.run_id).await?;
            Ok::<_, RunError>(Some((observed, quiesce.memory.read().await?)))
        };
        let (observed, mut remembered) = match timeout_at(deadline, standing).await {
            Ok(Ok(Some(standing))) => standing,
            Ok(Ok(None)) => return ended,
            Ok(Err(error)) => return self.unknown(ended, &closed(error, "reading it").message),
            Err(_) => return self.unknown(ended, "no answer in time"),
        };
        let Some(record) = readable(&observed.recorded) else {
            return self.unknown(ended, "the record cannot be read");
        };
        let all = ended.is_ok() && self.resumes();
        let state = if all { WorkloadState::Resumed } else { WorkloadState::Restored };
        let to_start = to_start(&quiesce, &remembered, |entry| all || entry.is_of(record));
        let failed = self.start_all(&quiesce, &mut remembered, to_start, state, deadline).await;
        // without an unfinished upgrade, what an earlier run stopped was given back by the release, and does not count
        let unfinished = record.is_some_and(|record| record.journal.is_some());
        let is_stopped = |entry: &Entry| {
            let mut stopped = self.report.workloads.iter();
            stopped.any(|w| w.name == entry.name && w.state == WorkloadState::Stopped)
        };
        let kept: Vec<String> = remembered
            .of(quiesce.workloads.namespace())
            .filter(|entry| !failed.iter().any(|(other, _)| other.uid == entry.uid))
            .filter(|entry| unfinished || is_stopped(entry))
            .map(|entry| entry.name.clone())
            .collect();
        let mut ended = match ended {
            Err(mut failure) if !kept.is_empty() => {
                failure.next += &format!(
                    "; {} must stay at 0 until a run has finished the upgrade, and then gets its pods \
                     from the release or by GATE_MODE=resume",
                    listed(&kept)
                );
                Err(failure)
            }
            ended => ended,
        };
        for (entry, reason) in failed {
            let text = format!("{} could not be restored: {reason}", described(&entry));
            let by_hand = quiesce.workloads.by_hand(&entry.name, entry.replicas);
            match &mut ended {
                Ok(_) => self.warn(format!("{text}; {by_hand}")),
                Err(failure) => {
                    failure.message += &format!("; {text}");
                    failure.next += &format!("; to start it by hand: {by_hand}");
                }
            }
        }
        ended
    }

    /// What a run says that cannot find out whether something was committed.
    fn unknown(&mut self, ended: Result<String, Failure>, reason: &str) -> Result<String, Failure> {
        let stopped = self.report.workloads.iter();
        let names: Vec<String> = stopped
            .filter(|workload| workload.state == WorkloadState::Stopped)
            .map(|workload| format!("{} ({})", workload.name, workload.replicas))
            .collect();
        if names.is_empty() {
            return ended;
        }
        let text = format!(
            "{} left at 0 replicas: could not determine whether anything was committed ({reason})",
            names.join(", ")
        );
        match ended {
            Ok(message) => {
                self.warn(text);
                Ok(message)
            }
            Err(mut failure) => {
                failure.message += &format!("; {text}");
                failure.next += "; the next run restores it, or finishes the upgrade";
                Err(failure)
            }
        }
    }

    /// Starts workloads and forgets them; returns those that could not be started, with the reason.
    async fn start_all(
        &mut self,
        quiesce: &Quiesce,
        remembered: &mut Remembered,
        entries: Vec<Entry>,
        state: WorkloadState,
        deadline: Instant,
    ) -> Vec<(Entry, String)> {
        let (mut started, mut failed) = (Vec::new(), Vec::new());
        let (before, mut left) = (remembered.clone(), entries);
        loop {
            let mut again = Vec::new();
            for entry in left {
                let starting = timeout_at(deadline, self.start(quiesce, &entry));
                let no_answer = |_| Started::No("no answer in time".to_owned());
                match starting.await.unwrap_or_else(no_answer) {
                    Started::Yes => {
                        tracing::info!(
                            workload = entry.name,
                            replicas = entry.replicas,
                            "scaled up again"
                        );
                        self.note_workload(&entry.name, entry.replicas, state);
                        started.push(described(&entry));
                        remembered.forget(&entry);
                    }
                    Started::NoNeed => {
                        self.report.workloads.retain(|workload| workload.name != entry.name);
                        remembered.forget(&entry);
                    }
                    Started::NotYet(reason) if Instant::now() + AGAIN < deadline => {
                        tracing::debug!(reason, workload = entry.name, "to be started again");
                        again.push(entry);
                    }
                    Started::NotYet(reason) | Started::No(reason) => {
                        let not = WorkloadState::NotRestored;
                        self.note_workload(&entry.name, entry.replicas, not);
                        failed.push((entry, reason));
                    }
                }
            }
            if again.is_empty() {
                break;
            }
            left = again;
            tokio::time::sleep(AGAIN).await;
        }
        if !started.is_empty() {
            let note = format!("gave back {}", started.join(", "));
            self.tell(Occasion::Resumed, Tone::Normal, note);
        }
        if *remembered != before {
            let forgetting = timeout_at(deadline, quiesce.memory.write(remembered)).await;
            if !matches!(forgetting, Ok(Ok(()))) {
                tracing::warn!("what is remembered of started workloads could not be removed");
            }
        }
        failed
    }

    /// Starts one workload, if it is still at 0 and this run still holds the lock.
    async fn start(&mut self, quiesce: &Quiesce, entry: &Entry) -> Started {
        for _ in 0..READS {
            let workload = match quiesce.workloads.get(&entry.name).await {
                Ok(Some(workload)) if workload.uid == entry.uid => workload,
                Ok(_) => return Started::NoNeed,
                Err(failure) => return Started::failed(failure),
            };
            if workload.replicas > 0 {
                let asked = self.unanswered.starting.contains(&entry.uid);
                return match self.unanswered.stopping.get(&entry.uid) {
                    // still the revision that it names
                    Some(revision) if *revision == workload.revision => Started::NotYet(
                        "the call that was to stop it may still take effect".to_owned(),
                    ),
                    _ if asked && workload.replicas == entry.replicas => Started::Yes,
                    _ => Started::NoNeed,
                };
            }
            let asked = Instant::now();
            match self.lock.renew().await {
                Ok(true) => {}
                Ok(false) => return Started::No("another run took over the lock".to_owned()),
                Err(error) if errors::is_transient(&error) => {
                    return Started::NotYet(answer::describe(&error));
                }
                Err(error) => return Started::No(answer::describe(&error)),
            }
            self.unanswered.starting.insert(entry.uid.clone());
            let scaled = tokio::select! {
                biased;
                // a run that stood still meanwhile may have lost its lock
                () = tokio::time::sleep_until(asked + self.lock.lease / 2) => {
                    return Started::NotYet("it took too long".to_owned());
                }
                scaled = quiesce.workloads.scale(&workload, entry.replicas) => scaled,
            };
            match scaled {
                Ok(Scaled::Done) => return Started::Yes,
                Ok(Scaled::Changed) => {}
                Err(failure) => return Started::failed(failure),
            }
        }
        Started::No("it changes all the time".to_owned())
    }

    /// Mode `resume`: gives back what was stopped, once the gate is open.
    pub(crate) async fn resume_workloads(&mut self) -> Result<String, Failure> {
        let Some(quiesce) = self.quiesce.clone() else {
            return Err(Failure::new(
                Outcome::SettingWrong,
                "mode resume restores the replicas of workloads, and GATE_QUIESCE names none",
                "set GATE_QUIESCE to the workloads that the upgrade stopped; if it stopped none, mode resume is not needed",
            ));
        };
        let mut waiting = Waiting::new(self.settings.lock_wait, self.deadline);
        loop {
            let (observed, decision) = self.decide_unheld(&mut waiting).await?;
            let has_stopped_workloads = self.has_stopped_workloads(&observed, &decision).await;
            let message = self.judge(&observed, decision)?;
            let remembered = self.stop.guard(quiesce.memory.read()).await;
            let remembered =
                remembered.map_err(|error| closed(error, "reading what was stopped"))?;
            if !has_stopped_workloads
                && remembered.of(quiesce.workloads.namespace()).next().is_none()
            {
                return Ok(message);
            }
            self.check_workloads().await?;
            self.check_privileges(&[]).await?;
            if let Some(message) = self.locked(&mut waiting, LockedWork::Resume).await? {
                self.wait_until_ready().await;
                return Ok(message);
            }
        }
    }

    /// Waits, a bounded time, until the pods of what was given back are ready.
    pub(super) async fn wait_until_ready(&mut self) {
        let Some(quiesce) = self.quiesce.clone() else { return };
        let resumed = self.report.workloads.iter();
        let resumed = resumed.filter(|workload| workload.state == WorkloadState::Resumed);
        let names: Vec<String> = resumed.map(|workload| workload.name.clone()).collect();
        let mut said = Instant::now();
        let deadline = said + self.settings.quiesce_timeout;
        loop {
            let mut unready = Vec::new();
            for name in &names {
                match self.stop.guard(quiesce.workloads.get(name)).await {
                    Ok(Some(found)) if found.ready < found.replicas => {
                        unready.push(format!("{name} ({} of {})", found.ready, found.replicas));
                    }
                    Ok(_) => {}
                    Err(_) => unready.push(name.clone()),
                }
            }
            if unready.is_empty() {
                return;
            }
            let stopped = self.stop.sleep(jittered(POLL)).await.is_err();
            if stopped || Instant::now() >= deadline {
                let time = humantime::format_duration(self.settings.quiesce_timeout);
                let text = format!("not all pods were ready within {time}: {}", listed(&unready));
                return self.warn(text);
            }
            if said.elapsed() >= SAY {
                tracing::info!(workloads = listed(&unready), "waiting for pods to be ready");
                said = Instant::now();
            }
        }
    }
}

/// What `wanted` says is to be started, of this namespace.
fn to_start(
    quiesce: &Quiesce,
    remembered: &Remembered,
    wanted: impl Fn(&Entry) -> bool,
) -> Vec<Entry> {
    remembered.of(quiesce.workloads.namespace()).filter(|entry| wanted(entry)).cloned().collect()
}

fn described(entry: &Entry) -> String {
    format!("{} ({})", entry.name, entry.replicas)
}

/// The record, or that there is none; nothing where it cannot be read.
fn readable(recorded: &Recorded) -> Option<Option<&Record>> {
    match recorded {
        Recorded::Absent => Some(None),
        Recorded::Readable(record) => Some(Some(record)),
        Recorded::Unreadable(_) => None,
    }
}

fn not_stopped(left: &[Workload], timeout: Duration) -> Failure {
    let time = humantime::format_duration(timeout);
    let left_of = |workload: &Workload| format!("{}: {}", workload.name, listed(&workload.pods));
    let pods: Vec<String> = left.iter().map(left_of).collect();
    let freed: Vec<&str> = left.iter().filter_map(|w| w.freed_by.as_deref()).collect();
    let next = match freed.as_slice() {
        [] => "kubectl describe pod shows what keeps these pods from stopping: delete them, or increase \
               GATE_QUIESCE_TIMEOUT, then run it again"
            .to_owned(),
        freed => format!("free it by: {}; then run it again", freed.join("; ")),
    };
    Failure::new(
        Outcome::NotQuiesced,
        format!("old pods did not stop within {time} ({})", pods.join("; ")),
        next,
    )
}
