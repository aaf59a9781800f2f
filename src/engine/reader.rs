//! Reading a transform's documents outside transactions, the next ones while the last are worked on.

use std::time::Duration;

use mongodb::bson::{Bson, RawDocumentBuf};
use mongodb::error::Error;
use tokio::task::JoinSet;

use crate::engine::batch::{self, Batch, In, Purpose};
use crate::engine::transact::jittered;
use crate::engine::{Context, Halt};
use crate::failure::Failure;
use crate::lookup::Found;
use crate::server;
use crate::upgrade::{Transform, Unit};

/// How often documents are read again after errors that may pass.
const TRIES: u32 = 5;

/// Reads batch after batch.
pub(crate) struct Reader<'a> {
    context: &'a Context,
    unit: &'a Unit,
    transform: &'a Transform,
    purpose: Purpose,
    /// The document after which the next batch begins; none at the first.
    after: Option<Bson>,
    /// The next batch, where it was read while the last one was computed.
    ready: Option<Material>,
    /// The document up to which was read.
    read_to: Option<Bson>,
    /// The query for what comes after that, if it was sent already; given up with the reader.
    ahead: JoinSet<Result<Vec<RawDocumentBuf>, Error>>,
}

/// What the edits of a batch are computed from.
struct Material {
    documents: Vec<RawDocumentBuf>,
    found: Found,
}

/// What the documents of a batch refer to, looked up before they are read to be written.
pub(crate) struct Ahead {
    /// The document after which the batch begins.
    pub(crate) after: Option<Bson>,
    pub(crate) found: Found,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(
        context: &'a Context,
        unit: &'a Unit,
        transform: &'a Transform,
        purpose: Purpose,
        after: Option<Bson>,
    ) -> Self {
        let (read_to, ready, ahead) = (after.clone(), None, JoinSet::new());
        Reader { context, unit, transform, purpose, after, ready, read_to, ahead }
    }

    /// Goes on after another document.
    pub(crate) fn seek(&mut self, after: Option<Bson>) {
        if self.after != after {
            self.read_to.clone_from(&after);
            self.after = after;
            self.ready = None;
            self.ahead = JoinSet::new();
        }
    }

    /// The next batch; at the end one without documents.
    pub(crate) async fn next(&mut self) -> Result<Batch, Halt> {
        let Material { documents, found } = match self.ready.take() {
            Some(ready) => ready,
            None => self.read().await?,
        };
        let (unit, transform, purpose) = (self.unit, self.transform, self.purpose);
        let more = !documents.is_empty() && self.reads_ahead();
        // the query is on its way before the computing begins
        let (read, batch) = tokio::join!(
            biased;
            async { if more { self.read().await.map(Some) } else { Ok(None) } },
            batch::computed(unit, transform, documents, &found, purpose),
        );
        let batch = batch?;
        self.ready = read?;
        if batch.last.is_some() {
            self.after.clone_from(&batch.last);
        }
        Ok(batch)
    }

    /// What the documents of the next batch refer to; moves on past them.
    pub(crate) async fn look_ahead(&mut self) -> Result<Ahead, Halt> {
        let after = self.after.clone();
        let Material { found, .. } = self.read().await?;
        self.after.clone_from(&self.read_to);
        Ok(Ahead { after, found })
    }

    /// A transform that adds documents to its own collection must meet them.
    fn reads_ahead(&self) -> bool {
        !self.transform.inserts_into.contains(&self.transform.collection)
    }

    /// Reads documents and what they refer to, again after errors that may pass, and moves on.
    async fn read(&mut self) -> Result<Material, Halt> {
        let stop = &self.context.stop;
        let mut tries = 0;
        loop {
            match stop.guard(self.try_to_read()).await {
                Err(Halt::Driver(error)) if server::passing(&error) && tries < TRIES => tries += 1,
                ended => return ended,
            }
            self.ahead = JoinSet::new();
            stop.sleep(jittered(Duration::from_millis(50) * tries)).await?;
        }
    }

    async fn try_to_read(&mut self) -> Result<Material, Halt> {
        let database = self.context.database();
        let documents = match self.ahead.join_next().await {
            Some(Ok(answer)) => answer?,
            Some(Err(_)) => return Err(Failure::bug("a query was given up on its way").into()),
            None => batch::documents(database, None, self.finds(self.read_to.as_ref())).await?,
        };
        let last = batch::last(&documents)?;
        if last.is_some() && self.reads_ahead() {
            let (database, finds) = (database.clone(), self.finds(last.as_ref()));
            self.ahead.spawn(async move { batch::documents(&database, None, finds).await });
        }
        let (unit, transform, found) = (self.unit, self.transform, Found::default());
        let found = batch::look_up(database, None, unit, transform, &documents, found).await?;
        if last.is_some() {
            self.read_to = last;
        }
        Ok(Material { documents, found })
    }

    fn finds(&self, after: Option<&Bson>) -> Vec<mongodb::bson::Document> {
        let limit = self.context.batch_documents;
        batch::finds(self.transform, after, limit, In::Plain)
    }
}
