//! Updates: the server evaluates the pipeline in the update itself, batch by batch of `_id`s; without transactions, or
//! with look-ups, by an aggregation whose outcome is written like the edits of a transform.

use async_trait::async_trait;
use mongodb::ClientSession;
use mongodb::bson::{Bson, Document, RawArrayBuf, RawDocumentBuf, Timestamp, doc, rawdoc};

use crate::authoring::step::Step;
use crate::authoring::step_kind::StepKind;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::authoring::update::{UPDATED, Update};
use crate::engine::author::refused;
use crate::engine::context::Context;
use crate::engine::documents::edited::{Sizes, TRANSACTION_BYTES, last, place};
use crate::engine::documents::evaluate::{self, Source, Survey, survey};
use crate::engine::documents::find::{self, In, SIZE, check_id};
use crate::engine::documents::unfit::still_matches;
use crate::engine::failing::{at, closed, failed_step, outgrown, write_failure};
use crate::engine::preflight::estimate::{Estimate, Known};
use crate::engine::preflight::scan::all_of;
use crate::engine::steps::kind::{Extent, PreflightContext, StepWork};
use crate::engine::steps::passes::{Note, first, late, now, pass_as_transform};
use crate::engine::steps::transform::not_swept;
use crate::engine::transact::{PATIENCE, abort, commit_with_record};
use crate::engine::work::{Work, base, needed};
use crate::process::action::UpgradeAction;
use crate::process::progress::Progress;
use crate::record::document::Record;
use crate::record::journal::Done;
use crate::server::answer::write_errors;
use crate::server::connection::Deployment;
use crate::server::stop::RunError;

/// How often what matches again is updated again, before the step is given up.
const AGAIN: u32 = 3;

/// The size from which documents may be too large for the guarded edits of a standalone server, which is then found out
/// for each of them.
const LARGE: usize = 4 * 1024 * 1024;

#[async_trait(?Send)]
impl StepWork for Update {
    async fn understood(
        &self,
        context: &Context,
        upgrade: &VersionUpgrade,
    ) -> Result<(), RunError> {
        evaluate::known(context, upgrade, &self.transform, &self.pipeline).await
    }

    async fn preflight(&self, on: &PreflightContext<'_>) -> Result<Option<Known>, RunError> {
        let PreflightContext { context, upgrade, since, .. } = on;
        if !self.is_plain() {
            return self.transform.preflight(on).await;
        }
        let source = Source { filter: self.transform.filter.clone(), stages: vec![] };
        let place = In::Plain(*since);
        let surveyed =
            survey(context, upgrade, &self.transform, &self.pipeline, &source, place).await?;
        let standalone = context.server.deployment == Deployment::Standalone;
        if standalone && self.may_be_large(context, &surveyed, *since).await? {
            return self.transform.preflight(on).await;
        }
        Ok(Some(self.estimated(context, &surveyed)))
    }

    async fn extent(
        &self,
        context: &Context,
        _upgrade: &VersionUpgrade,
    ) -> Result<Extent, RunError> {
        Ok(Extent { documents: all_of(context, &self.transform).await?, bytes: 0 })
    }

    async fn in_transaction(
        &self,
        context: &Context,
        session: &mut ClientSession,
        upgrade: &VersionUpgrade,
        most: u64,
    ) -> Result<Option<Done>, RunError> {
        if !self.is_plain() {
            return self.transform.in_transaction(context, session, upgrade, most).await;
        }
        let ids = self.ids();
        let (mut done, mut after) = (Done::default(), None);
        loop {
            let limit = context.batch_documents;
            let finds = find::finds(&ids, after.as_ref(), limit, In::Transaction, Sizes::NotAsked);
            let batch = find::documents(context.database(), Some(&mut *session), finds).await?;
            after = last(&batch)?;
            if after.is_none() {
                break;
            }
            match self.write(context, session, &batch).await? {
                Ok(n) => done.add(&updated(n)),
                Err(error) if let Some(error) = outgrown(&error) => return Err(error),
                Err(error) => {
                    abort(context, session).await;
                    return Err(self.located(context, session, upgrade, &batch, &error).await);
                }
            }
            if done.documents > most {
                return Ok(None);
            }
        }
        let finds = find::finds(&ids, None, 1, In::Transaction, Sizes::NotAsked);
        let left = find::documents(context.database(), Some(&mut *session), finds).await?;
        match left.first() {
            Some(document) => Err(still_matches(upgrade, &self.transform, document)),
            None => Ok(Some(done)),
        }
    }

    async fn in_batches(
        &self,
        work: &mut Work<'_>,
        upgrade: &VersionUpgrade,
        estimate: &Estimate,
    ) -> Result<(), RunError> {
        let context = work.context;
        let journal = work.journal()?;
        let (step, after) = (journal.step, journal.position.clone().map(|place| place.after));
        let documents = estimate.left(journal);
        if !estimate.knows(step) && after.is_none() {
            // what depends on earlier steps is evaluated before its own first write
            let since = now(context, &self.transform).await?;
            if self.is_plain() {
                let source = Source { filter: self.transform.filter.clone(), stages: vec![] };
                let (transform, pipeline) = (&self.transform, &self.pipeline);
                survey(context, upgrade, transform, pipeline, &source, In::Plain(since)).await?;
            } else {
                let (transform, settled) = (&self.transform, |_: &str| true);
                crate::engine::preflight::scan::scan(
                    context, upgrade, transform, None, since, settled,
                )
                .await?;
            }
        }
        let collection = &self.transform.collection;
        let mut progress =
            Progress::new(&upgrade.version, &upgrade.description(), collection, documents);
        let first = first(&context.writer);
        self.pass(work, upgrade, after, &first, &mut progress).await?;
        progress.finish();
        self.prove(work, upgrade, step).await?;
        work.advance(|journal| journal.finish_step(&Done::default())).await
    }

    async fn prove(
        &self,
        work: &mut Work<'_>,
        upgrade: &VersionUpgrade,
        position: usize,
    ) -> Result<(), RunError> {
        let late = late(&work.context.writer, position);
        self.take_again(work, upgrade, &late).await.map(drop)
    }

    async fn sweep(&self, work: &mut Work<'_>, upgrade: &VersionUpgrade, later: &[&Step]) -> u64 {
        let collection = &*self.transform.collection;
        if later.iter().any(|step| step.writes().contains(&collection)) {
            tracing::warn!(
                version = %upgrade.version,
                collection,
                "documents written during the upgrade are not looked for: a later step changes them"
            );
            return 0;
        }
        let _doing = work.context.activity.doing(format!("{}: sweep", at(upgrade, &self.name())));
        let noted = |stored: &Record, done: &Done, _: Option<&Bson>| match done.documents {
            0 => stored.clone(),
            n => stored.found_late(n),
        };
        match self.take_again(work, upgrade, &noted).await {
            Ok(late) => late,
            Err(error) => {
                let reason = closed(error, "looking for them").message;
                tracing::warn!(
                    reason,
                    "documents written during the upgrade may be left as they were"
                );
                work.warnings.push(not_swept(upgrade, &self.transform, &reason));
                0
            }
        }
    }

    fn sweepable(&self) -> Result<&Transform, &'static str> {
        Ok(&self.transform)
    }

    fn actions(&self, done: &Done) -> Vec<UpgradeAction> {
        self.transform.actions(done)
    }
}

impl Update {
    /// Whether the server can evaluate it in the update itself.
    pub(crate) fn is_plain(&self) -> bool {
        self.transform.lookups.is_empty()
    }

    /// The same documents, of which nothing but the `_id` is read.
    fn ids(&self) -> Transform {
        Transform { fields: vec!["_id".into()], ..self.transform.clone() }
    }

    /// What is known of the step, from what was surveyed.
    pub(crate) fn estimated(&self, context: &Context, surveyed: &Survey) -> Known {
        let Survey { documents, bytes, largest } = *surveyed;
        let small = largest.saturating_mul(context.batch_documents) <= TRANSACTION_BYTES;
        Known { done: updated(documents), bytes, small }
    }

    /// Whether a document that is updated may be too large, before or after, for one guarded edit.
    async fn may_be_large(
        &self,
        context: &Context,
        surveyed: &Survey,
        since: Option<Timestamp>,
    ) -> Result<bool, RunError> {
        if surveyed.largest > LARGE {
            return Ok(true);
        }
        let size = doc! {
            "$expr": { "$gt": [{ "$bsonSize": "$$ROOT" }, LARGE as i64] },
        };
        let large = Transform {
            filter: doc! { "$and": [self.transform.filter.clone(), size] },
            ..self.ids()
        };
        let finding = async || {
            let finds = find::finds(&large, None, 1, In::Plain(since), Sizes::NotAsked);
            context.stop.guard(find::documents(context.database(), None, finds)).await
        };
        Ok(!context.retry(finding).await?.is_empty())
    }

    /// Updates what matches again, until nothing does; returns how many documents that were.
    ///
    /// # Errors
    ///
    /// Something always does.
    async fn take_again(
        &self,
        work: &mut Work<'_>,
        upgrade: &VersionUpgrade,
        note: Note<'_>,
    ) -> Result<u64, RunError> {
        let (context, collection) = (work.context, &self.transform.collection);
        let (ids, mut late) = (self.ids(), 0);
        for _ in 0..AGAIN {
            let since = now(context, &self.transform).await?;
            if self.read(context, &ids, None, 1, since).await?.is_empty() {
                return Ok(late);
            }
            let mut progress = Progress::new(&upgrade.version, "sweep", collection, 0);
            late += self.pass(work, upgrade, None, note, &mut progress).await?;
            progress.finish();
        }
        let since = now(context, &self.transform).await?;
        let left = self.read(context, &ids, None, 1, since).await?;
        let Some(document) = left.first() else { return Ok(late) };
        Err(failed_step(
            upgrade,
            &self.name(),
            &format!(
                "{}: it still has the old shape, although all such documents of {collection} were updated \
                 {} times: old code still writes them",
                place(&self.transform, document),
                AGAIN + 1
            ),
            "stop the old code (GATE_QUIESCE does so in Kubernetes), then run it again",
        ))
    }

    /// Updates, once, every document that matches, in `_id` order from this one on; returns how many.
    async fn pass(
        &self,
        work: &mut Work<'_>,
        upgrade: &VersionUpgrade,
        after: Option<Bson>,
        note: Note<'_>,
        progress: &mut Progress,
    ) -> Result<u64, RunError> {
        match work.session.is_some() && self.is_plain() {
            true => self.pass_by_ids(work, upgrade, after, note, progress).await,
            false => pass_as_transform(work, upgrade, &self.transform, after, note, progress).await,
        }
    }

    /// Updates batches of `_id`s in transactions, the next ones being read meanwhile.
    async fn pass_by_ids(
        &self,
        work: &mut Work<'_>,
        upgrade: &VersionUpgrade,
        after: Option<Bson>,
        note: Note<'_>,
        progress: &mut Progress,
    ) -> Result<u64, RunError> {
        let (context, ids) = (work.context, self.ids());
        let (limit, since) = (context.batch_documents, now(context, &self.transform).await?);
        let mut batch = self.read(context, &ids, after.as_ref(), limit, since).await?;
        let (mut changed, mut most) = (0, usize::MAX);
        while let Some(end) = last(&batch)? {
            let offered = &batch[..batch.len().min(most)];
            for document in &batch {
                check_id(document).map_err(|error| {
                    refused(error, upgrade, &self.name(), &place(&self.transform, document))
                })?;
            }
            let (written, next) = tokio::join!(
                self.batch(work, upgrade, offered, note),
                self.read(context, &ids, Some(&end), limit, since),
            );
            let (n, taken) = written?;
            // documents may become larger than they are: as many as went through are tried first
            most = match taken < offered.len() {
                true => taken,
                false => most.saturating_mul(2),
            };
            changed += n;
            progress.advance(n);
            context.activity.moved();
            batch = match taken < batch.len() {
                true => batch.split_off(taken),
                false => next?,
            };
        }
        Ok(changed)
    }

    /// One batch, or as much of it as gets through, in one transaction with the record. Returns how many documents were
    /// updated, and how many of the batch it took.
    async fn batch(
        &self,
        work: &mut Work<'_>,
        upgrade: &VersionUpgrade,
        batch: &[RawDocumentBuf],
        note: Note<'_>,
    ) -> Result<(u64, usize), RunError> {
        let context = work.context;
        let session = needed(&mut work.session)?;
        let mut refused: Option<(Document, usize)> = None;
        let committed = commit_with_record(
            context,
            session,
            &mut work.stored,
            PATIENCE,
            async |session, stored, tried| {
                let part = &batch[..part(batch, tried)];
                let n = match self.write(context, session, part).await? {
                    Ok(n) => n,
                    Err(error)
                        if part.len() > 1
                            && let Some(error) = outgrown(&error) =>
                    {
                        return Err(error);
                    }
                    Err(error) => {
                        let failure = write_failure(
                            &error,
                            upgrade,
                            &self.name(),
                            &self.transform.collection,
                        );
                        refused = Some((error, part.len()));
                        return Err(failure);
                    }
                };
                let to = note(&base(stored, None)?, &updated(n), last(part)?.as_ref());
                Ok(((n, part.len()), to))
            },
        )
        .await;
        match (committed, refused) {
            (Err(RunError::Failure(_)), Some((error, taken))) => {
                let session = needed(&mut work.session)?;
                Err(self.located(context, session, upgrade, &batch[..taken], &error).await)
            }
            (committed, _) => committed,
        }
    }

    /// Updates these documents in the session's transaction, as far as they still match; returns how many, or why the
    /// server refused one.
    async fn write(
        &self,
        context: &Context,
        session: &mut ClientSession,
        documents: &[RawDocumentBuf],
    ) -> Result<Result<u64, Document>, RunError> {
        let mut ids = RawArrayBuf::new();
        for document in documents {
            if let Some(id) = document.get("_id")? {
                ids.push(id);
            }
        }
        let filter = RawDocumentBuf::try_from(&self.transform.filter)?;
        let both = RawArrayBuf::from_iter([rawdoc! { "_id": { "$in": ids } }, filter]);
        let mut stages = RawArrayBuf::new();
        for stage in &self.pipeline.stages {
            stages.push(RawDocumentBuf::try_from(stage)?);
        }
        let statement = rawdoc! {
            "q": { "$and": both },
            "u": stages,
            "multi": true,
            "hint": { "_id": 1 },
        };
        let command = rawdoc! { "update": &*self.transform.collection, "updates": [statement] };
        let answer = context.database().run_raw_command(command).session(session).await?;
        Ok(match write_errors(&answer).next() {
            Some(error) => Err(error.clone()),
            None => Ok(answer.get_i32("n").unwrap_or_default().max(0) as u64),
        })
    }

    /// The closed gate of what the server refused, with the document that it refused: the last one of the shortest part
    /// of the batch that is refused. The server does not say which it was.
    async fn located(
        &self,
        context: &Context,
        session: &mut ClientSession,
        upgrade: &VersionUpgrade,
        batch: &[RawDocumentBuf],
        error: &Document,
    ) -> RunError {
        let (mut fine, mut refused) = (0, batch.len());
        let mut found = None;
        while fine < refused {
            let middle = fine + (refused - fine) / 2;
            let tried = async {
                session.start_transaction().await?;
                self.write(context, session, &batch[..=middle]).await
            };
            let tried = context.stop.guard(tried).await;
            abort(context, session).await;
            match tried {
                Ok(Ok(_)) => fine = middle + 1,
                Ok(Err(error)) => {
                    found = Some((middle, error));
                    refused = middle;
                }
                Err(RunError::Stopped(reason)) => return RunError::Stopped(reason),
                Err(_) => break,
            }
        }
        let (place, error) = match &found {
            Some((position, error)) if *position == refused => {
                (place(&self.transform, &batch[*position]), error)
            }
            _ => (self.transform.collection.to_string(), error),
        };
        write_failure(error, upgrade, &self.name(), &place)
    }

    /// The next documents that match, by their `_id`s, with their sizes.
    async fn read(
        &self,
        context: &Context,
        ids: &Transform,
        after: Option<&Bson>,
        limit: usize,
        since: Option<Timestamp>,
    ) -> Result<Vec<RawDocumentBuf>, RunError> {
        let reading = async || {
            let finds = find::finds(ids, after, limit, In::Plain(since), Sizes::Asked);
            context.stop.guard(find::documents(context.database(), None, finds)).await
        };
        context.retry(reading).await
    }
}

/// What the journal counts for this many updated documents.
fn updated(n: u64) -> Done {
    Done { documents: n, counts: [(UPDATED.to_owned(), n)].into(), ..Done::default() }
}

/// How many of these documents one transaction may change, after so many attempts that failed.
fn part(documents: &[RawDocumentBuf], tried: u32) -> usize {
    let most = documents.len().checked_shr(tried).unwrap_or_default();
    let mut bytes = 0;
    let fits = documents.iter().take(most).take_while(|document| {
        bytes += document.get_i32(SIZE).unwrap_or_default().max(0) as usize;
        bytes <= TRANSACTION_BYTES
    });
    fits.count().max(1).min(documents.len())
}
