//! The handle through which a transaction step reaches the database: bound to the session, so that an
//! operation outside the transaction does not compile.

use mongodb::bson::{DateTime, Document, RawDocumentBuf};
use mongodb::options::FindOptions;
use mongodb::{ClientSession, Database, SessionCursor};

use crate::authoring::naming::Name;
use crate::authoring::step_error::StepError;

/// A transaction in progress, seen by the code of one step.
///
/// Every operation belongs to the transaction. Errors of the driver are to be passed on unchanged
/// (with `?`): the engine decides from them what is tried again.
pub struct Handle<'a> {
    database: &'a Database,
    session: &'a mut ClientSession,
    collections: &'a [Name],
    started: DateTime,
}

/// What is read of documents that match, and in which order; see [`Handle::find_with`].
#[derive(Clone, Debug, Default)]
pub struct Find {
    projection: Option<Document>,
    sort: Option<Document>,
    limit: Option<u32>,
}

impl Find {
    /// All documents, whole and in natural order.
    pub fn new() -> Self {
        Find::default()
    }

    /// Reads only some fields, as in `{ name: 1 }`.
    pub fn projection(mut self, projection: Document) -> Self {
        self.projection = Some(projection);
        self
    }

    /// Sorts, as in `{ name: 1 }`.
    pub fn sort(mut self, sort: Document) -> Self {
        self.sort = Some(sort);
        self
    }

    /// Reads so many documents at most.
    pub fn limit(mut self, documents: u32) -> Self {
        self.limit = Some(documents);
        self
    }
}

impl<'a> Handle<'a> {
    pub(crate) fn new(
        database: &'a Database,
        session: &'a mut ClientSession,
        collections: &'a [Name],
        started: DateTime,
    ) -> Self {
        Handle { database, session, collections, started }
    }

    fn collection(&self, name: &str) -> Result<mongodb::Collection<RawDocumentBuf>, StepError> {
        if self.collections.iter().any(|known| known == name) {
            Ok(self.database.collection(name))
        } else {
            Err(StepError::refused(format!(
                "the step touches {name}, which it does not name among its collections"
            )))
        }
    }

    /// When the run that applies the version began: the same for all its steps and in every retry, and, if the version
    /// is journaled, in every run that resumes it.
    pub fn started(&self) -> DateTime {
        self.started
    }

    /// The first document that matches, in natural order.
    pub async fn find_one(
        &mut self,
        collection: &str,
        filter: Document,
    ) -> Result<Option<RawDocumentBuf>, StepError> {
        let collection = self.collection(collection)?;
        Ok(collection.find_one(filter).session(&mut *self.session).await?)
    }

    /// All documents that match; keep the filter narrow, because they are all held in memory.
    pub async fn find(
        &mut self,
        collection: &str,
        filter: Document,
    ) -> Result<Vec<RawDocumentBuf>, StepError> {
        let collection = self.collection(collection)?;
        let cursor = collection.find(filter).session(&mut *self.session).await?;
        self.all(cursor).await
    }

    /// The documents that match, as `find` says; all that it asks for are held in memory.
    pub async fn find_with(
        &mut self,
        collection: &str,
        filter: Document,
        find: Find,
    ) -> Result<Vec<RawDocumentBuf>, StepError> {
        let Find { projection, sort, limit } = find;
        if limit == Some(0) {
            // the server takes 0 for no limit
            return Ok(vec![]);
        }
        let mut options = FindOptions::default();
        (options.projection, options.sort, options.limit) =
            (projection, sort, limit.map(i64::from));
        let collection = self.collection(collection)?;
        let found = collection.find(filter).with_options(options);
        let cursor = found.session(&mut *self.session).await?;
        self.all(cursor).await
    }

    /// The results of an aggregation, all held in memory. `$out` and `$merge` are refused by the server.
    pub async fn aggregate(
        &mut self,
        collection: &str,
        pipeline: Vec<Document>,
    ) -> Result<Vec<RawDocumentBuf>, StepError> {
        let collection = self.collection(collection)?;
        let cursor = collection.aggregate(pipeline).session(&mut *self.session).await?;
        self.all(cursor).await
    }

    async fn all<T>(
        &mut self,
        mut cursor: SessionCursor<T>,
    ) -> Result<Vec<RawDocumentBuf>, StepError> {
        let mut documents = Vec::new();
        while cursor.advance(self.session).await? {
            documents.push(cursor.current().to_owned());
        }
        Ok(documents)
    }

    /// How many documents match.
    pub async fn count(&mut self, collection: &str, filter: Document) -> Result<u64, StepError> {
        let collection = self.collection(collection)?;
        Ok(collection.count_documents(filter).session(&mut *self.session).await?)
    }

    /// Inserts documents.
    pub async fn insert(
        &mut self,
        collection: &str,
        documents: Vec<RawDocumentBuf>,
    ) -> Result<(), StepError> {
        let collection = self.collection(collection)?;
        collection.insert_many(documents).session(&mut *self.session).await?;
        Ok(())
    }

    /// Updates every document that matches; returns how many were changed.
    pub async fn update(
        &mut self,
        collection: &str,
        filter: Document,
        update: impl Into<mongodb::options::UpdateModifications>,
    ) -> Result<u64, StepError> {
        let collection = self.collection(collection)?;
        let result = collection.update_many(filter, update).session(&mut *self.session).await?;
        Ok(result.modified_count)
    }

    /// Updates one document that matches, or inserts one where none does, as the server's `upsert` says;
    /// returns how many were changed or inserted (0 or 1).
    pub async fn upsert(
        &mut self,
        collection: &str,
        filter: Document,
        update: impl Into<mongodb::options::UpdateModifications>,
    ) -> Result<u64, StepError> {
        let collection = self.collection(collection)?;
        let upsert = collection.update_one(filter, update).upsert(true);
        let result = upsert.session(&mut *self.session).await?;
        Ok(result.modified_count + u64::from(result.upserted_id.is_some()))
    }

    /// Replaces one document that matches by another; returns how many were changed (0 or 1).
    pub async fn replace(
        &mut self,
        collection: &str,
        filter: Document,
        document: RawDocumentBuf,
    ) -> Result<u64, StepError> {
        let collection = self.collection(collection)?;
        let result = collection.replace_one(filter, document).session(&mut *self.session).await?;
        Ok(result.modified_count)
    }

    /// Deletes every document that matches; returns how many there were.
    pub async fn delete(&mut self, collection: &str, filter: Document) -> Result<u64, StepError> {
        let collection = self.collection(collection)?;
        Ok(collection.delete_many(filter).session(&mut *self.session).await?.deleted_count)
    }
}
