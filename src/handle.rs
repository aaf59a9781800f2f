//! The handle through which a transaction step reaches the database: bound to the session, so that an
//! operation outside the transaction does not compile.

use mongodb::bson::{Document, RawDocumentBuf};
use mongodb::{ClientSession, Database, SessionCursor};

use crate::upgrade::{Name, StepError};

/// A transaction in progress, seen by the code of one step.
///
/// Every operation belongs to the transaction. Errors of the driver are to be passed on unchanged
/// (with `?`): the engine decides from them what is tried again.
pub struct Handle<'a> {
    database: &'a Database,
    session: &'a mut ClientSession,
    collections: &'a [Name],
}

impl<'a> Handle<'a> {
    pub(crate) fn new(
        database: &'a Database,
        session: &'a mut ClientSession,
        collections: &'a [Name],
    ) -> Self {
        Handle { database, session, collections }
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

    /// The first document that matches, in natural order.
    pub async fn find_one(
        &mut self,
        collection: &str,
        filter: Document,
    ) -> Result<Option<RawDocumentBuf>, StepError> {
        let collection = self.collection(collection)?;
        Ok(collection.find_one(filter).session(&mut *self.session).await?)
    }

    /// All documents that match; keep the filter narrow, for they are all held in memory.
    pub async fn find(
        &mut self,
        collection: &str,
        filter: Document,
    ) -> Result<Vec<RawDocumentBuf>, StepError> {
        let collection = self.collection(collection)?;
        let cursor = collection.find(filter).session(&mut *self.session).await?;
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
