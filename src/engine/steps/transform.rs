//! Transforms: documents found, looked up, computed and written, batch by batch.

use std::collections::HashSet;
use std::convert::Infallible;
use std::time::Duration;

use async_trait::async_trait;
use mongodb::ClientSession;
use mongodb::bson::Bson;
use tokio::sync::{mpsc, watch};

use crate::authoring::step::Step;
use crate::authoring::step_kind::StepKind;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::context::Context;
use crate::engine::documents::edited::{self, Batch, Edited, Purpose, Sizes};
use crate::engine::documents::evaluate::known_filter;
use crate::engine::documents::large;
use crate::engine::documents::large::Collation;
use crate::engine::documents::reader::Reader;
use crate::engine::documents::write;
use crate::engine::failing::{at, closed, failed, of_one_document};
use crate::engine::preflight::estimate::{Estimate, Known};
use crate::engine::preflight::scan::{all_of, scan};
use crate::engine::steps::kind::{Extent, PreflightContext, StepWork};
use crate::engine::transact::{PATIENCE, commit_with_record};
use crate::engine::work::{Work, base, needed};
use crate::process::action::{ActionType, UpgradeAction};
use crate::process::checkpoint::Point;
use crate::process::exit::Outcome;
use crate::process::progress::Progress;
use crate::record::document::Record;
use crate::record::journal::{Done, Pass, Passes};
use crate::server::retry::jittered;
use crate::server::stop::RunError;
use crate::server::{answer, errors};

/// How many batches that were read and computed may wait for the one that is written.
const PREFETCHED: usize = 1;

/// How often a batch is read again on a standalone because its documents changed meanwhile.
const REREADS: u32 = 200;

#[async_trait(?Send)]
impl StepWork for Transform {
    // what else an aggregation refuses, as `$near`, the query may take
    async fn understood(
        &self,
        context: &Context,
        upgrade: &VersionUpgrade,
    ) -> Result<(), RunError> {
        if self.filter.is_empty() {
            return Ok(());
        }
        let whose = at(upgrade, &self.name());
        match known_filter(context, &whose, &self.collection, &self.filter).await {
            Err(RunError::Failure(failure)) if failure.outcome != Outcome::ServerUnsuitable => {
                Ok(())
            }
            understood => understood,
        }
    }

    async fn preflight(&self, on: &PreflightContext<'_>) -> Result<Option<Known>, RunError> {
        let settled = |name: &str| !on.written.contains(name);
        let scanned = scan(on.context, on.upgrade, self, on.begun, on.since, settled).await?;
        // what it adds for itself to transform is not there yet
        Ok((!self.inserts_into_itself()).then_some(scanned))
    }

    async fn extent(
        &self,
        context: &Context,
        _upgrade: &VersionUpgrade,
    ) -> Result<Extent, RunError> {
        // which documents is not known yet: at most, all of them
        Ok(Extent { documents: all_of(context, self).await?, bytes: 0 })
    }

    async fn in_transaction(
        &self,
        context: &Context,
        session: &mut ClientSession,
        upgrade: &VersionUpgrade,
        most: u64,
    ) -> Result<Option<Done>, RunError> {
        let (mut done, mut after, mut before) = (Done::default(), None, 0);
        let (database, limit) = (context.database(), context.batch_documents);
        loop {
            let place = after.as_ref();
            let mut batch =
                write::read(context, &mut *session, upgrade, self, place, limit).await?;
            batch.cut();
            let edited: Vec<&Edited> = batch.edited.iter().collect();
            write::write(database, &mut *session, upgrade, self, &edited).await?;
            done.add(&batch.done());
            after = batch.last;
            if done.documents > most {
                return Ok(None);
            }
            // what it added to its own collection may be behind it
            let again = self.convergent && self.inserts_into_itself() && done.documents > before;
            if after.is_none() && !again {
                return Ok(Some(done));
            }
            if after.is_none() {
                before = done.documents;
            }
        }
    }

    async fn in_batches(
        &self,
        work: &mut Work<'_>,
        upgrade: &VersionUpgrade,
        estimate: &Estimate,
    ) -> Result<(), RunError> {
        in_batches(work, upgrade, self, estimate).await
    }

    async fn sweep(&self, work: &mut Work<'_>, upgrade: &VersionUpgrade, later: &[&Step]) -> u64 {
        sweep_or_warn(work, upgrade, self, later).await
    }

    fn sweepable(&self) -> Result<&Transform, &'static str> {
        match self {
            Transform { deletes: true, .. } => Err("it may delete documents"),
            Transform { convergent: false, .. } => Err("it is not convergent"),
            _ => Ok(self),
        }
    }

    // what its counters came to, and what none of them counted
    fn actions(&self, done: &Done) -> Vec<UpgradeAction> {
        let count = |name: &str| done.counts.get(name).copied().unwrap_or_default();
        let mut actions: Vec<UpgradeAction> = Vec::new();
        for counter in &self.counters {
            let n = count(&counter.name);
            actions.push(UpgradeAction {
                description: counter.description.replace("{n}", &n.to_string()),
                collection: self.collection.clone().into_owned(),
                action_type: counter.action_type,
                details: mongodb::bson::doc! { &*counter.name: n as i64 },
            });
        }
        let further = if actions.is_empty() { "" } else { "further " };
        for (name, verb, action_type, collection) in [
            (edited::CHANGED, "Change", ActionType::Update, self.collection.to_string()),
            (edited::DELETED, "Delete", ActionType::Delete, self.collection.to_string()),
            (edited::ADDED, "Add", ActionType::Insert, self.inserts_into.join(", ")),
        ] {
            let n = count(name);
            if n > 0 {
                actions.push(UpgradeAction {
                    description: format!("{verb} {n} {further}document(s)"),
                    collection,
                    action_type,
                    details: mongodb::bson::doc! { "documents": n as i64 },
                });
            }
        }
        actions
    }
}

/// Sweeps right after the version was applied in one transaction; returns how many documents it changed.
///
/// The version is applied whether or not this succeeds: a failure is only a warning.
async fn sweep_or_warn(
    work: &mut Work<'_>,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    later: &[&Step],
) -> u64 {
    if !sweeps(work.context, transform) {
        return 0;
    }
    // what a later step made of the documents is not this step's output any more
    let reads = transform.reads();
    if later.iter().any(|step| step.writes().iter().any(|name| reads.contains(name))) {
        tracing::warn!(
            version = %upgrade.version,
            collection = &*transform.collection,
            "documents written during the upgrade are not looked for: a later step changes them"
        );
        return 0;
    }
    let mut late = 0;
    if let Err(error) = sweep(work, upgrade, transform, &mut late).await {
        let reason = closed(error, "looking for them").message;
        tracing::warn!(reason, "documents written during the upgrade may be left as they were");
        work.warnings.push(not_swept(upgrade, transform, &reason));
    }
    late
}

/// Once more over the documents; counts in `late` what it changed, also where it fails.
async fn sweep(
    work: &mut Work<'_>,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    late: &mut u64,
) -> Result<(), RunError> {
    let mut reader = Reader::new(work.context, upgrade, transform, Purpose::Write, None);
    let _doing = work.context.activity.doing(format!("{}: sweep", at(upgrade, &transform.name())));
    reader.refresh().await?;
    let (mut after, mut before) = (None, *late);
    loop {
        reader.seek(after.clone());
        let batch = reader.next().await?;
        if batch.edited.is_empty() {
            after = batch.last;
        } else {
            let counted =
                |stored: &Record, done: &Done, _: Option<&Bson>| stored.found_late(done.documents);
            let (done, last) =
                batch_in_transaction(work, upgrade, transform, &batch, counted).await?;
            *late += done.documents;
            after = last;
        }
        if after.is_none() {
            if !transform.inserts_into_itself() || *late == before {
                return Ok(());
            }
            // what it added to its own collection may be behind it
            before = *late;
            reader.refresh().await?;
        }
    }
}

/// Both passes of a transform, batch by batch, from where the journal is.
async fn in_batches(
    work: &mut Work<'_>,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    estimate: &Estimate,
) -> Result<(), RunError> {
    let context = work.context;
    let journal = work.journal()?;
    let step = journal.step;
    let begins = journal.position.is_none() && journal.pass == Pass::First;
    let mut documents = estimate.left(journal);
    let mut pass = Pass::First;
    let mut after = journal.position.clone().map(|position| position.after);
    let (purpose, sizes) = match &work.session {
        // where all are small, they are written without being asked how large they are
        Some(_) if estimate.is_small(step) => (Purpose::Write, Sizes::NotAsked),
        Some(_) => (Purpose::Write, Sizes::Asked),
        None => (Purpose::Guarded, Sizes::Asked),
    };
    let reader = Reader::new(context, upgrade, transform, purpose, after.clone()).sizes(sizes);
    // what depends on earlier steps is computed and verified before its own first write; by a run that
    // resumes it, as it is written
    let known = estimate.knows(step);
    let verified = known || (begins && !transform.inserts_into_itself());
    let mut reader = if verified { reader } else { reader.verifying() };
    reader.refresh().await?;
    if !known && begins {
        let seen = reader.sees_up_to();
        documents = scan(context, upgrade, transform, None, seen, |_| true).await?.done.documents;
    }
    let mut progress =
        Progress::new(&upgrade.version, &upgrade.description(), &transform.collection, documents);
    // what the current pass has changed so far; a resumed pass may have changed something already
    let mut changed_in_pass = u64::from(!begins);
    loop {
        let journal = work.journal()?;
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
        let (changed, last) = match (&work.session, pass) {
            (Some(_), Pass::First) if !transform.inserts_into_itself() => {
                after =
                    prefetched_batches(work, upgrade, transform, after, &mut reader, &mut progress)
                        .await?;
                continue;
            }
            (None, Pass::First) => {
                let place = (after.as_ref(), changed_in_pass);
                batch_guarded(work, upgrade, transform, place, &mut reader).await?
            }
            (session, _) => {
                if pass == Pass::First {
                    // what the last batch added is to be seen
                    reader.refresh().await?;
                }
                reader.seek(after.clone());
                let batch = reader.next().await?;
                // past a batch without edits it goes on without a commit, but not past the end
                if batch.edited.is_empty() && batch.last.is_some() {
                    progress.advance(batch.read);
                    after = batch.last;
                    continue;
                }
                if session.is_some() {
                    let moved = past(context, transform, changed_in_pass);
                    let (done, last) =
                        batch_in_transaction(work, upgrade, transform, &batch, moved).await?;
                    (done.documents, last)
                } else {
                    let place = (after.as_ref(), changed_in_pass);
                    batch_guarded(work, upgrade, transform, place, &mut reader).await?
                }
            }
        };
        progress.advance(changed);
        context.activity.moved();
        changed_in_pass += changed;
        after = last;
        if after.is_none() && pass == Pass::Late && work.journal()?.step == step {
            // once more: it added to its own collection
            changed_in_pass = 0;
            reader.refresh().await?;
        }
    }
}

/// Batch after batch of the first pass, each in a transaction, while the next ones are read and
/// computed. Returns where it ended: at the pass's end, or where only part of a batch got through.
async fn prefetched_batches(
    work: &mut Work<'_>,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    mut after: Option<Bson>,
    reader: &mut Reader<'_>,
    progress: &mut Progress,
) -> Result<Option<Bson>, RunError> {
    let context = work.context;
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
            // the batches before a failed one are written first
            let (batch, moved) = (batch?, past(context, transform, 0));
            let (done, last) =
                batch_in_transaction(work, upgrade, transform, &batch, moved).await?;
            progress.advance(done.documents);
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
/// record. Returns what was done, and where it ended.
pub(crate) async fn batch_in_transaction(
    work: &mut Work<'_>,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    batch: &Batch,
    record: impl Fn(&Record, &Done, Option<&Bson>) -> Record,
) -> Result<(Done, Option<Bson>), RunError> {
    let context = work.context;
    let session = needed(&mut work.session)?;
    commit_with_record(
        context,
        session,
        &mut work.stored,
        PATIENCE,
        async |session, stored, tried| {
            let (part, last) = batch.part(tried);
            let sizes = batch.sizes;
            let written =
                write::write_prefetched(context, session, upgrade, transform, part, sizes).await;
            let done = match part {
                [one] => written.map_err(|error| {
                    let place = || edited::place(transform, &one.document);
                    of_one_document(error, upgrade, &transform.name(), place)
                })?,
                _ => written?,
            };
            let to = record(&base(stored, None)?, &done, last.as_ref());
            Ok(((done, last), to))
        },
    )
    .await
}

/// One batch on a standalone: makes each edit only on the document that it was computed from, then moves the journal.
/// `changed` is how many documents the pass has changed so far.
async fn batch_guarded(
    work: &mut Work<'_>,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    (after, changed): (Option<&Bson>, u64),
    reader: &mut Reader<'_>,
) -> Result<(u64, Option<Bson>), RunError> {
    let context = work.context;
    let mut done = Done::default();
    let ended = edit_guarded(context, upgrade, transform, after, reader, &mut done).await;
    context.reached(Point::Edited).await;
    let stored = base(work.stored.as_ref(), None)?;
    let last = match ended {
        Ok(last) => last,
        Err(error) => {
            // what was written all the same counts
            if done.documents > 0 {
                let to = stored.advanced(&context.writer, |journal| journal.count(&done));
                let _ = work.compare_and_set(to).await;
            }
            return Err(error);
        }
    };
    let to = stored.advanced(&context.writer, |journal| {
        journal.advance(&done, last.clone(), &passes(context, transform, changed));
    });
    work.compare_and_set(to).await?;
    context.reached(Point::Committed).await;
    Ok((done.documents, last))
}

/// The warning that the sweep did not get to its end.
pub(crate) fn not_swept(upgrade: &VersionUpgrade, transform: &Transform, reason: &str) -> String {
    format!(
        "{}: documents of {} that old code wrote during the upgrade may be left as they were, and no later \
         run of the upgrade looks for them ({reason})",
        upgrade.version, transform.collection
    )
}

/// Whether a transform is run once more for late writers.
fn sweeps(context: &Context, transform: &Transform) -> bool {
    transform.convergent && (transform.inserts_into_itself() || context.checkpoints.sweeps())
}

fn passes(context: &Context, transform: &Transform, changed: u64) -> Passes {
    Passes {
        sweeps: sweeps(context, transform),
        inserts_into_itself: transform.inserts_into_itself(),
        changed,
    }
}

/// The record after a batch: its journal moves past it. `changed` is how many documents the pass has changed so far.
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

/// Edits one batch outside transactions, until no document of it needs an edit any more; `done` is what
/// was written, also where this fails.
pub(crate) async fn edit_guarded(
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
