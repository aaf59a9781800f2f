//! Reading a transform's documents outside transactions, the next ones while the last are worked on.

use mongodb::bson::{Bson, RawDocumentBuf, Timestamp};
use tokio::task::JoinSet;

use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::background;
use crate::engine::context::Context;
use crate::engine::documents::compute::{self, Computed, How};
use crate::engine::documents::converge::Verify;
use crate::engine::documents::edited::{self, Batch, Edited, Purpose, Sizes};
use crate::engine::documents::find::{self, In};
use crate::engine::documents::look_up::{self, Gathered};
use crate::engine::editors::editor::Origin;
use crate::server::connection;
use crate::server::stop::RunError;

/// How many bytes a batch should have, at about the most. Several are held at a time, and a pod has little
/// memory: of large documents there are fewer in a batch.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// The most documents in a batch before it is known what comes with them.
const FIRST: usize = 250;

/// Reads batch after batch.
pub(crate) struct Reader<'a> {
    context: &'a Context,
    upgrade: &'a VersionUpgrade,
    transform: &'a Transform,
    purpose: Purpose,
    sizes: Sizes,
    promise: Verify,
    /// The time up to which it sees all that was written.
    since: Option<Timestamp>,
    /// The most documents that the next batch should have.
    limit: usize,
    /// The bytes that come with a document, in what it refers to and in its edits, as far as is known.
    besides: Option<usize>,
    /// Whether the last batch had far more bytes than it should.
    oversized: bool,
    /// The document after which the next batch begins; `None` at the first.
    after: Option<Bson>,
    /// The next batch, where it was read while the last one was computed.
    ready: Option<Gathered>,
    /// The document up to which was read.
    read_to: Option<Bson>,
    /// The batch after that, if its look-ups were sent already.
    looking_up: Option<LookUps>,
    /// The document up to which look-ups were sent.
    sent_to: Option<Bson>,
    /// The query for what comes after that, if it was sent already; given up with the reader.
    querying: JoinSet<Result<Vec<RawDocumentBuf>, RunError>>,
}

/// Documents that are being looked up.
struct LookUps {
    /// Whether there were any.
    any: bool,
    /// What they are computed from; given up with this.
    gathering: JoinSet<Result<Gathered, RunError>>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(
        context: &'a Context,
        upgrade: &'a VersionUpgrade,
        transform: &'a Transform,
        purpose: Purpose,
        after: Option<Bson>,
    ) -> Self {
        Reader {
            context,
            upgrade,
            transform,
            purpose,
            sizes: Sizes::Asked,
            promise: Verify::Nothing,
            since: None,
            limit: context.batch_documents.min(FIRST),
            besides: None,
            oversized: false,
            ready: None,
            read_to: after.clone(),
            looking_up: None,
            sent_to: after.clone(),
            querying: JoinSet::new(),
            after,
        }
    }

    /// Reads with sizes or without.
    pub(crate) fn sizes(mut self, sizes: Sizes) -> Self {
        self.sizes = sizes;
        self
    }

    /// Gives the transform its own output as well, where it promises to leave that alone.
    pub(crate) fn verifying(mut self) -> Self {
        self.promise = Verify::promise(self.transform);
        self
    }

    /// Sees at least all that was written up to a time.
    pub(crate) fn since(mut self, since: Option<Timestamp>) -> Self {
        self.since = since;
        self
    }

    /// The time up to which it sees all that was written.
    pub(crate) fn sees_up_to(&self) -> Option<Timestamp> {
        self.since
    }

    /// From here on sees at least all that is written now, also what a majority is still to get.
    pub(crate) async fn refresh(&mut self) -> Result<(), RunError> {
        let (context, collection) = (self.context, &*self.transform.collection);
        let asking =
            || context.stop.guard(connection::operation_time(context.database(), collection));
        self.since = context.retry(async || asking().await).await?;
        self.restart(self.after.clone());
        Ok(())
    }

    /// Goes on after another document.
    pub(crate) fn seek(&mut self, after: Option<Bson>) {
        if self.after != after {
            self.restart(after);
        }
    }

    /// Reads again what comes after a document, also where a reading was given up half-way.
    pub(crate) fn restart(&mut self, after: Option<Bson>) {
        self.read_to.clone_from(&after);
        self.after = after;
        self.ready = None;
        self.start_over();
    }

    /// Reads a batch of as many documents again.
    pub(crate) fn reread(&mut self, after: Option<Bson>, documents: u64) {
        self.restart(after);
        self.limit = (documents as usize).max(1);
    }

    /// Gives up what is on its way.
    fn start_over(&mut self) {
        self.sent_to.clone_from(&self.read_to);
        self.looking_up = None;
        self.querying = JoinSet::new();
    }

    /// The next batch; at the end one without documents.
    pub(crate) async fn next(&mut self) -> Result<Batch, RunError> {
        let gathered = match self.ready.take() {
            Some(ready) => ready,
            None => self.read().await?,
        };
        let (upgrade, transform, context) = (self.upgrade, self.transform, self.context);
        let how = self.how();
        let more = !gathered.documents.is_empty() && self.reads_ahead();
        // the query is on its way before the computing begins
        let (read, computed) = tokio::join!(
            biased;
            async { if more { self.read().await.map(Some) } else { Ok(None) } },
            context.stop.guard(compute::compute(context, None, upgrade, transform, gathered, how)),
        );
        let (batch, whole) = self.weighed(computed?).await?;
        if whole {
            self.ready = read?;
        }
        if batch.last.is_some() {
            self.after.clone_from(&batch.last);
        }
        if !whole {
            self.restart(batch.last.clone());
        }
        Ok(batch)
    }

    /// The next batch, for a task that reads while others write; at the end one without documents.
    pub(crate) async fn prefetch(&mut self) -> Result<Batch, RunError> {
        let gathered = self.read().await?;
        self.after.clone_from(&self.read_to);
        let (upgrade, transform, context) = (self.upgrade, self.transform, self.context);
        let computing = compute::compute(context, None, upgrade, transform, gathered, self.how());
        let computed = context.stop.guard(computing).await?;
        let (batch, whole) = self.weighed(computed).await?;
        if !whole {
            self.restart(batch.last.clone());
        }
        Ok(batch)
    }

    fn how(&self) -> How {
        let (purpose, promise) = (self.purpose, self.promise);
        How { purpose, promise, origin: Origin::Stored, place: In::Plain(self.since) }
    }

    /// Whether the next batch is read ahead: not if the transform adds documents to its own collection, which it must
    /// see, nor after a batch that was far too large, before that is taken.
    fn reads_ahead(&self) -> bool {
        !self.oversized && self.besides.is_some() && !self.transform.inserts_into_itself()
    }

    /// Verifies the outputs that need further look-ups and updates how many bytes come with a document; returns the
    /// batch, and whether it has all documents.
    async fn weighed(&mut self, computed: Computed) -> Result<(Batch, bool), RunError> {
        let Computed { mut batch, rest, found } = computed;
        let outputs = std::mem::take(&mut batch.outputs);
        let (context, upgrade, transform) = (self.context, self.upgrade, self.transform);
        let place = In::Plain(self.since);
        let verifying = async || {
            let outputs = outputs.clone();
            let all = compute::verify_all(context, None, upgrade, transform, outputs, place);
            context.stop.guard(all).await
        };
        context.retry(verifying).await?;
        self.besides = (batch.edited.iter().map(Edited::bytes_besides).sum::<usize>() + found)
            .checked_div(batch.read as usize)
            .or(self.besides);
        if !rest.is_empty() {
            self.limit = (batch.read as usize).max(1);
        }
        Ok((Batch { sizes: self.sizes, ..batch }, rest.is_empty()))
    }

    /// Makes the next batches as small as these documents, and what comes with them, are large.
    fn adapt(&mut self, documents: &[RawDocumentBuf]) {
        let besides = self.besides.unwrap_or_default();
        let bytes: usize =
            documents.iter().map(|document| document.as_bytes().len() + besides).sum();
        self.oversized = bytes > 2 * BATCH_BYTES;
        let most = if self.besides.is_some() { usize::MAX } else { FIRST };
        if let Some(limit) = (documents.len() * BATCH_BYTES).checked_div(bytes) {
            self.limit = limit.clamp(1, self.context.batch_documents.min(most));
        }
    }

    /// Reads documents and what they refer to, again after errors that may pass, and moves on.
    async fn read(&mut self) -> Result<Gathered, RunError> {
        let context = self.context;
        let reading = async || {
            let read = context.stop.guard(self.try_to_read()).await;
            if read.is_err() {
                self.start_over();
            }
            read
        };
        context.retry(reading).await
    }

    async fn try_to_read(&mut self) -> Result<Gathered, RunError> {
        let mut looking_up = match self.looking_up.take() {
            Some(looking_up) => looking_up,
            None => self.look_up().await?,
        };
        if looking_up.any && self.reads_ahead() {
            // the next look-ups are on their way before the answers to these are read
            self.looking_up = Some(self.look_up().await?);
        }
        let gathered = background::joined(looking_up.gathering.join_next().await)?;
        if let Some(last) = edited::last(&gathered.documents)? {
            self.read_to = Some(last);
        }
        if !gathered.rest.is_empty() {
            // the rest is read again, in smaller batches
            self.limit = gathered.documents.len();
            self.start_over();
        }
        Ok(gathered)
    }

    /// Reads documents and sends their look-ups.
    async fn look_up(&mut self) -> Result<LookUps, RunError> {
        let database = self.context.database();
        let documents = match self.querying.join_next().await {
            found @ Some(_) => background::joined(found)?,
            None => find::documents(database, None, self.finds(self.sent_to.as_ref())).await?,
        };
        self.adapt(&documents);
        let last = edited::last(&documents)?;
        let any = last.is_some();
        if any {
            self.sent_to.clone_from(&last);
        }
        if any && self.reads_ahead() {
            let (database, finds) = (database.clone(), self.finds(last.as_ref()));
            self.querying.spawn(async move { find::documents(&database, None, finds).await });
        }
        let (database, upgrade, transform) =
            (database.clone(), self.upgrade.clone(), self.transform.clone());
        let (place, mut gathering) = (In::Plain(self.since), JoinSet::new());
        gathering.spawn(async move {
            look_up::gather(&database, None, &upgrade, &transform, documents, place).await
        });
        Ok(LookUps { any, gathering })
    }

    fn finds(&self, after: Option<&Bson>) -> Vec<mongodb::bson::Document> {
        find::finds(self.transform, after, self.limit, In::Plain(self.since), self.sizes)
    }
}
