//! The database that a real datalab 0.6.0 left, as `tests/fixtures/make_datalab.py` wrote it down.

use mongodb::Database;
use mongodb::bson::{Document, doc};
use serde::Deserialize;

#[derive(Deserialize)]
pub struct Fixture {
    /// `dbHash` of the database itself: a loaded copy has the same.
    pub md5: String,
    collections: Vec<Collection>,
}

#[derive(Deserialize)]
struct Collection {
    name: String,
    indexes: Vec<Document>,
    documents: Vec<Document>,
}

/// Reads the fixture, with the documents' exact types and order of fields.
pub fn read() -> Fixture {
    serde_json::from_str(include_str!("../fixtures/datalab-0.6.0.json")).unwrap()
}

/// Fills an empty database with the fixture: all collections, documents in their order, indexes.
pub async fn load(database: &Database) {
    for Collection { name, indexes, documents } in read().collections {
        database.collection(&name).insert_many(documents).await.unwrap();
        let create = doc! { "createIndexes": &name, "indexes": indexes };
        database.run_command(create).await.unwrap();
    }
}
