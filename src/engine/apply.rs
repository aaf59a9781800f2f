//! Applying a version: at once, in one transaction with the record, or in parts, through the journal.

use crate::engine::edited::Sizes;
use crate::engine::scan::scan;
use crate::engine::step::in_transaction;
use std::collections::HashSet;
use std::convert::Infallible;
use std::time::Duration;

use mongodb::ClientSession;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, DateTime, RawDocumentBuf};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::authoring::command::Command;
use crate::authoring::seed::Seed;
use crate::authoring::step::Step;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::actions::actions;
use crate::engine::context::Context;
use crate::engine::edited::{Batch, Edited, Purpose};
use crate::engine::estimate::Estimate;
use crate::engine::failing::{at, closed, failed, in_step};
use crate::engine::large::Collation;
use crate::engine::lifetime::Lifetime;
use crate::engine::reader::Reader;
use crate::engine::transact::{PATIENCE, commit_with_record};
use crate::engine::{command, edited, large, seed, write};
use crate::process::checkpoint::Point;
use crate::process::failure::Failure;
use crate::process::progress::Progress;
use crate::record::document::Record;
use crate::record::history::Applied;
use crate::record::journal::{Done, Journal, Pass, Position};
use crate::server::connection::Deployment;
use crate::server::retry::jittered;
use crate::server::stop::RunError;
use crate::server::{answer, errors};

/// How long a version is tried at once before it is tried in parts.
const ONE_TRANSACTION: Duration = Duration::from_secs(15);

/// How many batches that were read and computed may wait for the one that is written.
const PREFETCHED: usize = 1;

/// How often a batch is read again on a standalone because its documents changed meanwhile.
const REREADS: u32 = 200;

/// The work of one run on one database, under the lock.
pub(crate) struct Work<'a> {
    context: &'a Context,
    /// The session of every transaction of the run; none on a standalone.
    session: Option<ClientSession>,
    /// The record as it is stored; none where there is none.
    stored: Option<Record>,
    /// The record that the first write begins with, where there is none.
    begin: Option<Record>,
    /// What the operator should know of versions that were applied all the same.
    warnings: Vec<String>,
}

impl<'a> Work<'a> {
    pub(crate) fn new(
        context: &'a Context,
        session: Option<ClientSession>,
        stored: Option<Record>,
        begin: Option<Record>,
    ) -> Self {
        Work { context, session, stored, begin, warnings: vec![] }
    }

    /// The record as it is stored.
    pub(crate) fn stored(&self) -> Option<&Record> {
        self.stored.as_ref()
    }

    /// What the report is to warn of; each once.
    pub(crate) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// The session of the run's transactions.
    pub(crate) fn session(&mut self) -> Option<&mut ClientSession> {
        self.session.as_mut()
    }

    /// Gives the session back.
    pub(crate) fn into_session(self) -> Option<ClientSession> {
        self.session
    }

    /// Moves the record to `to` by itself.
    async fn compare_and_set(&mut self, to: Record) -> Result<(), RunError> {
        let (context, session) = (self.context, self.session.as_mut());
        let (run_id, from) = (&context.lock.run_id, self.stored.as_ref());
        context.store.compare_and_set(from, &to, run_id, &context.stop, session).await?;
        self.stored = Some(to);
        Ok(())
    }

    /// Notes in the journal that this code has looked at what is left of its version.
    pub(crate) async fn note_preflight(&mut self) -> Result<(), RunError> {
        let writer = &self.context.writer;
        let to = base(self.stored.as_ref(), None)?.advanced(writer, |journal| {
            journal.preflight = Some(writer.code_version.clone());
        });
        self.compare_and_set(to).await
    }

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
                && !answer::held_by_others(error)
                && !answer::too_large(error)
            {
                // there was no server: that is no reason to do it in parts
                in_one_transaction = self.in_one_transaction(upgrade, PATIENCE).await;
            }
            match in_one_transaction {
                Ok(applied) => {
                    self.context.reached(Point::AfterVersion).await;
                    return Ok(Applied { late: self.sweep(upgrade).await, ..applied });
                }
                Err(RunError::Driver(error))
                    if answer::held_by_others(&error) || answer::too_large(&error) =>
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
                    let ended = in_transaction(context, session, upgrade, step, u64::MAX).await;
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

    /// Looks once more for documents of the old shape, right after a version was applied at once;
    /// returns how many it changed.
    ///
    /// The version is applied whatever becomes of this: what goes wrong is a warning and no more.
    async fn sweep(&mut self, upgrade: &VersionUpgrade) -> u64 {
        let mut late = 0;
        let steps: Vec<&Step> = upgrade.steps().collect();
        for (position, step) in steps.iter().enumerate() {
            let Step::Transform(transform) = step else { continue };
            // what a later step made of the documents is not this step's output any more
            let changed_later = steps[position + 1..]
                .iter()
                .any(|later| later.writes().iter().any(|name| step.reads().contains(name)));
            if !sweeps(self.context, transform) {
                continue;
            }
            if changed_later {
                tracing::warn!(
                    version = %upgrade.version,
                    collection = &*transform.collection,
                    "documents written during the upgrade are not looked for: a later step changes them"
                );
                continue;
            }
            if let Err(error) = self.sweep_transform(upgrade, transform, &mut late).await {
                let reason = closed(error, "looking for them").message;
                tracing::warn!(
                    reason,
                    "documents written during the upgrade may be left as they were"
                );
                self.warnings.push(not_swept(upgrade, transform, &reason));
            }
        }
        late
    }

    async fn sweep_transform(
        &mut self,
        upgrade: &VersionUpgrade,
        transform: &Transform,
        late: &mut u64,
    ) -> Result<(), RunError> {
        let mut reader = Reader::new(self.context, upgrade, transform, Purpose::Write, None);
        let _doing =
            self.context.activity.doing(format!("{}: sweep", at(upgrade, &transform.step_name())));
        reader.refresh().await?;
        let (mut after, mut before) = (None, *late);
        loop {
            reader.seek(after.clone());
            let look = reader.next().await?;
            if look.edited.is_empty() {
                after = look.last;
            } else {
                let counted = |stored: &Record, done: &Done, _: Option<&Bson>| {
                    stored.found_late(done.documents)
                };
                let (changed, last) =
                    self.batch_in_transaction(upgrade, transform, &look, counted).await?;
                *late += changed;
                after = last;
            }
            if after.is_none() {
                if !transform.meets_its_own() || *late == before {
                    return Ok(());
                }
                // what it added to its own collection may be behind it
                before = *late;
                reader.refresh().await?;
            }
        }
    }

    /// Goes on with the journaled version until its version moves.
    pub(crate) async fn in_batches(
        &mut self,
        upgrade: &VersionUpgrade,
        estimate: &Estimate,
    ) -> Result<Applied, RunError> {
        loop {
            let journal = self.journal()?;
            let position = journal.step;
            let Some(step) = upgrade.steps().nth(position) else { break };
            let _doing = self.context.activity.doing(at(upgrade, &step.name()));
            let ended = match step {
                Step::Transform(transform) => {
                    Box::pin(self.transform(upgrade, transform, estimate)).await
                }
                Step::Seed(seed) => self.seed(upgrade, seed).await,
                Step::Transaction(_) => self.transaction(upgrade, step).await,
                Step::Command(command) => self.command(upgrade, command).await,
            };
            ended.map_err(|error| in_step(error, upgrade, step))?;
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

    fn journal(&self) -> Result<&Journal, RunError> {
        self.stored
            .as_ref()
            .and_then(|record| record.journal.as_ref())
            .ok_or_else(|| Failure::bug("a journaled upgrade without a journal").into())
    }

    async fn transaction(&mut self, upgrade: &VersionUpgrade, step: &Step) -> Result<(), RunError> {
        let context = self.context;
        let session = needed(&mut self.session)?;
        let mut lifetime = Lifetime::default();
        commit_with_record(
            context,
            session,
            &mut self.stored,
            PATIENCE,
            async |session, stored, _| {
                lifetime.begin(context, upgrade, step).await?;
                let done = in_transaction(context, session, upgrade, step, u64::MAX).await;
                lifetime.end();
                let done = done?.unwrap_or_default();
                let to = base(stored, None)?.advanced(&context.writer, |journal| {
                    journal.finish_step(&done);
                });
                Ok(((), to))
            },
        )
        .await
    }

    /// Inserts what is missing of a seed, part by part. A run that resumes begins again at the first part: what
    /// is there is left.
    async fn seed(&mut self, upgrade: &VersionUpgrade, seed: &Seed) -> Result<(), RunError> {
        let context = self.context;
        let parts = seed::parts(context, upgrade, seed)?;
        let mut parts = parts.iter();
        let last = parts.next_back().unwrap_or_default();
        for part in parts {
            self.seed_part(upgrade, seed, part, |journal, done| journal.count(done)).await?;
        }
        self.seed_part(upgrade, seed, last, |journal, done| journal.finish_step(done)).await
    }

    async fn seed_part(
        &mut self,
        upgrade: &VersionUpgrade,
        seed: &Seed,
        part: &[RawDocumentBuf],
        count: impl Fn(&mut Journal, &Done),
    ) -> Result<(), RunError> {
        let context = self.context;
        if let Some(session) = &mut self.session {
            return commit_with_record(
                context,
                session,
                &mut self.stored,
                PATIENCE,
                async |session, stored, _| {
                    let done =
                        seed::insert(context.database(), session, upgrade, seed, part).await?;
                    let to = base(stored, None)?
                        .advanced(&context.writer, |journal| count(journal, &done));
                    Ok(((), to))
                },
            )
            .await;
        }
        let inserting = async || {
            context.reached(Point::BeforeCommit).await;
            let inserting = seed::insert_guarded(context, upgrade, seed, part);
            context.stop.guard_with_grace(inserting).await
        };
        let done = context.retry(inserting).await?;
        context.reached(Point::Edited).await;
        let to = base(self.stored.as_ref(), None)?
            .advanced(&context.writer, |journal| count(journal, &done));
        self.compare_and_set(to).await?;
        context.reached(Point::Committed).await;
        Ok(())
    }

    /// Both passes of a transform, batch by batch, from where the journal is.
    async fn transform(
        &mut self,
        upgrade: &VersionUpgrade,
        transform: &Transform,
        estimate: &Estimate,
    ) -> Result<(), RunError> {
        let context = self.context;
        let journal = self.journal()?;
        let step = journal.step;
        let begins = journal.position.is_none() && journal.pass == Pass::First;
        let mut documents = match journal.steps.get(step).and_then(|step| step.total) {
            Some(total) => total.saturating_sub(journal.steps[step].done.documents),
            None => estimate.documents_of(step),
        };
        let mut pass = Pass::First;
        let mut after = journal.position.clone().map(|position| position.after);
        let (purpose, sizes) = match &self.session {
            // where all are small, they are written without being asked how large they are
            Some(_) if estimate.is_small(step) => (Purpose::Write, Sizes::NotAsked),
            Some(_) => (Purpose::Write, Sizes::Asked),
            None => (Purpose::Guarded, Sizes::Asked),
        };
        let reader = Reader::new(context, upgrade, transform, purpose, after.clone()).sizes(sizes);
        // what depends on earlier steps is computed and verified before its own first write; by a run that
        // resumes it, as it is written
        let known = estimate.knows(step);
        let verified = known || (begins && !transform.meets_its_own());
        let mut reader = if verified { reader } else { reader.verifying() };
        reader.refresh().await?;
        if !known && begins {
            let seen = reader.sees_up_to();
            documents =
                scan(context, upgrade, transform, None, seen, |_| true).await?.done.documents;
        }
        let mut progress = Progress::new(
            &upgrade.version,
            &upgrade.description(),
            &transform.collection,
            documents,
        );
        // what the pass under way changed so far; of one that is gone on with, perhaps something
        let mut changed_in_pass = u64::from(!begins);
        loop {
            let journal = self.journal()?;
            if journal.step != step {
                progress.finish();
                return Ok(());
            }
            if journal.pass != pass {
                pass = journal.pass;
                changed_in_pass = u64::from(journal.position.is_some());
                let name = &transform.collection;
                let late = Progress::new(&upgrade.version, "sweep", name, documents);
                std::mem::replace(&mut progress, late).finish();
                reader.refresh().await?;
            }
            let (changed, last) = match (&self.session, pass) {
                (Some(_), Pass::First) if !transform.meets_its_own() => {
                    after = self
                        .prefetched_batches(upgrade, transform, after, &mut reader, &mut progress)
                        .await?;
                    continue;
                }
                (None, Pass::First) => {
                    let place = (after.as_ref(), changed_in_pass);
                    self.batch_guarded(upgrade, transform, place, &mut reader).await?
                }
                (session, _) => {
                    if pass == Pass::First {
                        // what the last batch added is to be seen
                        reader.refresh().await?;
                    }
                    reader.seek(after.clone());
                    let look = reader.next().await?;
                    // past a batch without edits it goes on without a commit, but not past the end
                    if look.edited.is_empty() && look.last.is_some() {
                        progress.advance(look.read);
                        after = look.last;
                        continue;
                    }
                    if session.is_some() {
                        let moved = past(context, transform, changed_in_pass);
                        self.batch_in_transaction(upgrade, transform, &look, moved).await?
                    } else {
                        let place = (after.as_ref(), changed_in_pass);
                        self.batch_guarded(upgrade, transform, place, &mut reader).await?
                    }
                }
            };
            progress.advance(changed);
            context.activity.moved();
            changed_in_pass += changed;
            after = last;
            if after.is_none() && pass == Pass::Late && self.journal()?.step == step {
                // once more: it added to its own collection
                changed_in_pass = 0;
                reader.refresh().await?;
            }
        }
    }

    /// Batch after batch of the first pass, each in a transaction, while the next ones are read and
    /// computed. Returns where it ended: at the pass's end, or where only part of a batch got through.
    async fn prefetched_batches(
        &mut self,
        upgrade: &VersionUpgrade,
        transform: &Transform,
        mut after: Option<Bson>,
        reader: &mut Reader<'_>,
        progress: &mut Progress,
    ) -> Result<Option<Bson>, RunError> {
        let context = self.context;
        reader.restart(after.clone());
        let (sender, mut prefetched) = mpsc::channel(PREFETCHED);
        let (finished, mut written) = watch::channel(0);
        let reading = async move {
            let mut sent = 0;
            // not before the last one was taken: each takes memory
            while let Ok(place) = sender.reserve().await {
                let next = reader.prefetch().await;
                let more = next.as_ref().is_ok_and(|next| next.read > 0);
                let large = next.as_ref().is_ok_and(Batch::is_large);
                place.send(next);
                sent += 1;
                // nor, where it takes much, before it is written
                let over = large && written.wait_for(|written| *written >= sent).await.is_err();
                if !more || over {
                    break;
                }
            }
            // nothing more will come: the writing ends by itself
            drop(sender);
            std::future::pending::<Infallible>().await
        };
        let writing = async {
            while let Some(batch) = prefetched.recv().await {
                // what was wrong with this one comes after what is right before it
                let (batch, moved) = (batch?, past(context, transform, 0));
                let (changed, last) =
                    self.batch_in_transaction(upgrade, transform, &batch, moved).await?;
                progress.advance(changed);
                context.activity.moved();
                after = last;
                if after.is_none() || after != batch.last {
                    break;
                }
                drop(batch);
                finished.send_modify(|written| *written += 1);
            }
            Ok(after)
        };
        tokio::select! {
            biased;
            ended = writing => ended,
            never = reading => match never {},
        }
    }

    /// One batch, or as much of it as gets through, in one transaction, together with what that makes of the
    /// record. Returns how many documents were changed, and where it ended.
    async fn batch_in_transaction(
        &mut self,
        upgrade: &VersionUpgrade,
        transform: &Transform,
        batch: &Batch,
        record: impl Fn(&Record, &Done, Option<&Bson>) -> Record,
    ) -> Result<(u64, Option<Bson>), RunError> {
        let context = self.context;
        let session = needed(&mut self.session)?;
        commit_with_record(
            context,
            session,
            &mut self.stored,
            PATIENCE,
            async |session, stored, tried| {
                let (part, last) = batch.part(tried);
                let (database, sizes) = (context.database(), batch.sizes);
                let done =
                    write::write_prefetched(database, session, upgrade, transform, part, sizes)
                        .await?;
                let to = record(&base(stored, None)?, &done, last.as_ref());
                Ok(((done.documents, last), to))
            },
        )
        .await
    }

    /// One batch on a standalone: each edit onto what it was computed from, then its place in the journal; after
    /// so many documents that the pass changed.
    async fn batch_guarded(
        &mut self,
        upgrade: &VersionUpgrade,
        transform: &Transform,
        (after, changed): (Option<&Bson>, u64),
        reader: &mut Reader<'_>,
    ) -> Result<(u64, Option<Bson>), RunError> {
        let context = self.context;
        let mut done = Done::default();
        let ended = edit_guarded(context, upgrade, transform, after, reader, &mut done).await;
        context.reached(Point::Edited).await;
        let stored = base(self.stored.as_ref(), None)?;
        let last = match ended {
            Ok(last) => last,
            Err(error) => {
                // what was written all the same counts
                if done.documents > 0 {
                    let to = stored.advanced(&context.writer, |journal| journal.count(&done));
                    let _ = self.compare_and_set(to).await;
                }
                return Err(error);
            }
        };
        let to = stored.advanced(&context.writer, |journal| {
            journal.advance(&done, last.clone(), &passes(context, transform, changed));
        });
        self.compare_and_set(to).await?;
        context.reached(Point::Committed).await;
        Ok((done.documents, last))
    }

    async fn command(
        &mut self,
        upgrade: &VersionUpgrade,
        command: &Command,
    ) -> Result<(), RunError> {
        let context = self.context;
        let begun = self.journal()?.command.clone();
        let ours = match begun {
            Some(identity) => {
                command::redo(context, upgrade, command, &identity).await?;
                true
            }
            None => match command::find_out(context, upgrade, command, None).await? {
                command::Probe::Done => false,
                command::Probe::Todo(identity) => {
                    let to =
                        base(self.stored.as_ref(), None)?.advanced(&context.writer, |journal| {
                            journal.command = Some(identity.clone());
                        });
                    self.compare_and_set(to).await?;
                    context.reached(Point::Journaled).await;
                    command::run(context, upgrade, command, &identity).await?;
                    true
                }
            },
        };
        context.reached(Point::AfterCommand).await;
        let done = match ours {
            true => Done { actions: vec![command.action()], ..Done::default() },
            false => Done::default(),
        };
        let to = base(self.stored.as_ref(), None)?
            .advanced(&context.writer, |journal| journal.finish_step(&done));
        self.compare_and_set(to).await
    }
}

/// The record from which a write starts.
fn base(stored: Option<&Record>, begin: Option<&Record>) -> Result<Record, RunError> {
    stored.or(begin).cloned().ok_or_else(|| Failure::bug("an upgrade without a record").into())
}

/// The warning that not all documents written during the upgrade were looked for.
fn not_swept(upgrade: &VersionUpgrade, transform: &Transform, reason: &str) -> String {
    format!(
        "{}: documents of {} that old code wrote during the upgrade may be left as they were, and no later \
         run of the upgrade looks for them ({reason})",
        upgrade.version, transform.collection
    )
}

/// Whether a transform is run once more for late writers.
fn sweeps(context: &Context, transform: &Transform) -> bool {
    transform.convergent && (transform.meets_its_own() || context.checkpoints.sweeps())
}

/// What follows a pass of a transform.
struct Passes {
    sweeps: bool,
    meets_its_own: bool,
    /// How many documents the pass changed so far.
    changed: u64,
}

fn passes(context: &Context, transform: &Transform, changed: u64) -> Passes {
    Passes { sweeps: sweeps(context, transform), meets_its_own: transform.meets_its_own(), changed }
}

/// What a batch makes of the record: the journal moves past it, after so many documents that the pass changed.
fn past(
    context: &Context,
    transform: &Transform,
    changed: u64,
) -> impl Fn(&Record, &Done, Option<&Bson>) -> Record {
    move |stored, done, last| {
        stored.advanced(&context.writer, |journal| {
            journal.advance(done, last.cloned(), &passes(context, transform, changed));
        })
    }
}

fn needed(session: &mut Option<ClientSession>) -> Result<&mut ClientSession, RunError> {
    session.as_mut().ok_or_else(|| Failure::bug("a transaction without a session").into())
}

/// Edits one batch outside transactions, until no document of it needs an edit any more; `done` is what
/// was written, also where this fails.
async fn edit_guarded(
    context: &Context,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    after: Option<&Bson>,
    reader: &mut Reader<'_>,
    done: &mut Done,
) -> Result<Option<Bson>, RunError> {
    for rereads in 1..=REREADS {
        reader.seek(after.cloned());
        let mut batch = reader.next().await?;
        batch.cut();
        if batch.edited.is_empty() {
            return Ok(batch.last);
        }
        large::check(context, upgrade, transform, &batch.edited, Collation::Checked).await?;
        context.reached(Point::BeforeCommit).await;
        let writing = write::write_guarded(context, upgrade, transform, &batch);
        match context.stop.guard_with_grace(writing).await {
            Ok(written) if written.documents as usize == batch.edited.len() => {
                done.add(&batch.done());
                return Ok(batch.last);
            }
            Ok(written) => {
                reader.reread(after.cloned(), batch.read);
                let again = reader.next().await?;
                count_written(&batch, &again, written.documents, done);
                if let Some(refusal) = written.refusal {
                    return Err(refusal);
                }
            }
            Err(RunError::Driver(error)) if errors::is_transient(&error) => {
                tracing::warn!(
                    error = answer::describe(&error),
                    "a batch was not confirmed; reading it again"
                );
            }
            Err(error) => return Err(error),
        }
        context.stop.sleep(jittered(Duration::from_millis(5) * rereads)).await?;
    }
    Err(failed(
        format!(
            "upgrade {}: documents of {} change faster than they can be upgraded",
            upgrade.version, transform.collection
        ),
        "stop what writes to them, then run it again",
    ))
}

/// Counts, of a batch whose edits were not all written, those that were: as many as the server says, of
/// those that need no edit any more.
fn count_written(batch: &Batch, again: &Batch, written: u64, done: &mut Done) {
    let bytes = |edited: &Edited| edited::id_bytes(&edited.document);
    let left: HashSet<Vec<u8>> = again.edited.iter().map(bytes).collect();
    let gone = batch.edited.iter().filter(|edited| !left.contains(&bytes(edited)));
    gone.take(written as usize).for_each(|edited| edited.count(done));
}

impl Journal {
    /// Counts what a part of the step under way did.
    fn count(&mut self, done: &Done) {
        let late = if self.pass == Pass::Late { done.documents } else { 0 };
        if let Some(step) = self.steps.get_mut(self.step) {
            step.done.add(&Done { late, ..done.clone() });
        }
    }

    /// Counts a batch and moves on: to its end, to the next pass, or to the next step.
    fn advance(&mut self, done: &Done, last: Option<Bson>, passes: &Passes) {
        self.count(done);
        self.position = last.map(|after| Position { after });
        if self.position.is_none() {
            match self.pass {
                Pass::First if passes.sweeps => self.pass = Pass::Late,
                // what it added to its own collection may be behind it
                Pass::Late if passes.meets_its_own && passes.changed + done.documents > 0 => {}
                _ => self.next_step(),
            }
        }
    }

    fn finish_step(&mut self, done: &Done) {
        if let Some(step) = self.steps.get_mut(self.step) {
            step.done.add(done);
        }
        self.next_step();
    }

    fn next_step(&mut self) {
        self.step += 1;
        self.pass = Pass::First;
        self.position = None;
        self.command = None;
    }
}

/// Whether a server can apply a step at all.
pub(crate) fn is_supported(deployment: Deployment, step: &Step) -> bool {
    match step {
        Step::Transform(transform) => {
            deployment == Deployment::WithTransactions || transform.convergent
        }
        Step::Transaction(_) => deployment == Deployment::WithTransactions,
        Step::Seed(_) | Step::Command(_) => true,
    }
}
