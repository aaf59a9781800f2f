//! The least that a program can do with the driver: connect, find the record, exit.

use mongodb::bson::{Document, doc};
use mongodb::{Client, error::Result};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let uri = std::env::args().nth(1).unwrap_or_default();
    let client = Client::with_uri_str(uri).await?;
    let Some(database) = client.default_database() else { return Ok(()) };
    let records = database.collection::<Document>("database_metadata");
    let record = records.find_one(doc! { "_id": "datalab_schema_version" }).await?;
    println!("{record:?}");
    Ok(())
}
