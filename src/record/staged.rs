//! Old values of an edit that is under way on a standalone server: stored next to the record for as long as the edit takes,
//! and removed by the next holder of the lock where a run was killed meanwhile.

use std::sync::{Arc, Mutex, PoisonError};

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Document, doc, rawdoc};
use mongodb::error::Error;
use mongodb::options::Collation;
use mongodb::{Collection, Database};

use crate::authoring::edit::{PURPOSE, stored_id};

/// What finds all documents with such an `_id`, and no other, where strings are compared without any collation.
pub(crate) fn filter() -> Document {
    let size = rawdoc! { "v": stored_id(ObjectId::from_bytes([0; 12])) }.as_bytes().len();
    let mut filter = range();
    // in the range are also such with further fields
    filter.insert("$expr", doc! { "$eq": [{ "$bsonSize": { "v": "$_id" } }, size as i64] });
    filter
}

/// What finds them where a filter can have no `$expr`; it also finds documents whose `_id` has further fields.
pub(crate) fn range() -> Document {
    let bound = |byte| id(ObjectId::from_bytes([byte; 12]));
    doc! { "_id": { "$gte": bound(0), "$lte": bound(255) } }
}

fn simple() -> Collation {
    Collation::builder().locale("simple").build()
}

/// Removes what killed runs left; `records` is the record's collection. Only the holder of the lock may.
pub(crate) async fn remove_leftovers(database: &Database, records: &str) -> Result<u64, Error> {
    let records: Collection<Document> = database.collection(records);
    let removed = records.delete_many(filter()).collation(simple()).await?.deleted_count;
    if removed > 0 {
        tracing::info!(documents = removed, "removed old values that a killed run had left");
    }
    Ok(removed)
}

/// The document that this run has stored and not removed yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Own(Arc<Mutex<Option<ObjectId>>>);

impl Own {
    fn get(&self) -> Option<ObjectId> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, token: Option<ObjectId>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }

    /// A new one, about to be stored.
    pub(crate) fn begin(&self) -> ObjectId {
        let token = ObjectId::new();
        self.set(Some(token));
        token
    }

    /// Removes it, if there is one; false where it was gone already.
    pub(crate) async fn remove(&self, database: &Database, records: &str) -> Result<bool, Error> {
        let Some(token) = self.get() else { return Ok(true) };
        let records: Collection<Document> = database.collection(records);
        let deleted = records.delete_one(doc! { "_id": { "$eq": id(token) } }).collation(simple());
        let deleted = deleted.await?.deleted_count;
        self.set(None);
        Ok(deleted == 1)
    }
}

fn id(token: ObjectId) -> Document {
    doc! { "upgrade_gate": PURPOSE, "id": token }
}
