//! What the gate's work costs without the gate, by the bare driver:
//!
//! - `direct URI scan` reads every item with the fields that the upgrade reads.
//! - `direct URI rewrite BATCH WRITERS` does datalab's upgrade with the same reads and the same update
//!   commands, and without lock, journal, transactions and checks. Killed half-way, run twice at once or
//!   beside a user's writes, it would lose or repeat work. That is the difference to be measured.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;

use mongodb::bson::{Bson, Document, RawBsonRef, RawDocument, RawDocumentBuf, doc, rawdoc};
use mongodb::options::{ReadConcern, WriteConcern};
use mongodb::{Client, Collection, Database};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

type Failed = Box<dyn Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failed> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [uri, work @ ..] = arguments.as_slice() else { return Err("no connection string".into()) };
    let client = Client::with_uri_str(uri).await?;
    let database = client.default_database().ok_or("no database")?;
    match work {
        ["scan"] => scan(&database).await,
        ["rewrite", batch, writers] => rewrite(&database, batch.parse()?, writers.parse()?).await,
        _ => Err("direct URI scan | rewrite BATCH WRITERS".into()),
    }
}

fn items(database: &Database) -> Collection<RawDocumentBuf> {
    database.collection("items")
}

async fn scan(database: &Database) -> Result<(), Failed> {
    let mut cursor = items(database).find(doc! {}).projection(doc! { "relationships": 1 }).await?;
    let mut bytes = 0;
    while cursor.advance().await? {
        bytes += cursor.current().as_bytes().len();
    }
    println!("{bytes}");
    Ok(())
}

async fn rewrite(database: &Database, batch: i64, writers: usize) -> Result<(), Failed> {
    let no_refcode =
        doc! { "$or": [{ "refcode": { "$not": { "$type": "string" } } }, { "refcode": "" }] };
    let an_item_id = doc! {
        "$or": [
            { "item_id": { "$exists": true, "$not": { "$type": "null" } } },
            { "item_id": { "$type": "array" } },
        ],
    };
    let old = doc! { "relationships": { "$elemMatch": { "$and": [no_refcode, an_item_id] } } };
    let free = Arc::new(Semaphore::new(writers));
    // once, and once more for what was written meanwhile, as the gate does
    for _ in 0..2 {
        let mut writing = JoinSet::new();
        let mut after = None;
        loop {
            let permit = free.clone().acquire_owned().await?;
            let documents = read(database, &old, after.as_ref(), batch).await?;
            let Some(last) = documents.last() else { break };
            after = last.get("_id")?.map(Bson::try_from).transpose()?;
            let database = database.clone();
            writing.spawn(async move {
                let written = write(&database, &documents).await;
                drop(permit);
                written
            });
            while let Some(written) = writing.try_join_next() {
                written??;
            }
        }
        while let Some(written) = writing.join_next().await {
            written??;
        }
    }
    Ok(())
}

async fn read(
    database: &Database,
    old: &Document,
    after: Option<&Bson>,
    batch: i64,
) -> Result<Vec<RawDocumentBuf>, Failed> {
    let filter = match after {
        Some(after) => doc! { "$and": [{ "_id": { "$ne": after } }, old.clone()] },
        None => old.clone(),
    };
    let mut find = doc! {
        "find": "items",
        "filter": filter,
        "sort": { "_id": 1 },
        "hint": { "_id": 1 },
        "limit": batch,
        "batchSize": batch,
        "singleBatch": true,
        "projection": { "relationships": 1 },
        "readConcern": { "level": "majority" },
    };
    if let Some(after) = after {
        find.insert("min", doc! { "_id": after });
    }
    let mut cursor = database.run_cursor_command(find).await?;
    let mut documents = Vec::new();
    while cursor.advance().await? {
        documents.push(cursor.current().to_owned());
    }
    Ok(documents)
}

async fn write(database: &Database, documents: &[RawDocumentBuf]) -> Result<(), Failed> {
    let mut wanted: Vec<&str> =
        documents.iter().flat_map(|d| references(d)).map(|(_, item_id, _)| item_id).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let mut refcodes = HashMap::new();
    let mut cursor = items(database)
        .find(doc! { "item_id": { "$in": wanted } })
        .projection(doc! { "item_id": 1, "refcode": 1 })
        .read_concern(ReadConcern::majority())
        .await?;
    while cursor.advance().await? {
        let item = cursor.current();
        refcodes.insert(item.get_str("item_id")?.to_owned(), item.get_str("refcode")?.to_owned());
    }
    let mut updates = mongodb::bson::RawArrayBuf::new();
    for document in documents {
        let mut set = RawDocumentBuf::new();
        for (position, item_id, deprecated) in references(document) {
            let field = |name| {
                mongodb::bson::raw::CString::try_from(format!("relationships.{position}.{name}"))
            };
            match refcodes.get(item_id) {
                Some(refcode) => set.append(field("refcode")?, refcode.as_str()),
                None if deprecated => {}
                None => set.append(field("deprecated")?, true),
            }
        }
        if let (false, Some(id)) = (set.is_empty(), document.get("_id")?) {
            updates.push(rawdoc! { "q": { "_id": id }, "u": { "$set": set } });
        }
    }
    if updates.is_empty() {
        return Ok(());
    }
    let majority = mongodb::bson::serialize_to_raw_document_buf(&WriteConcern::majority())?;
    let update = rawdoc! { "update": "items", "updates": updates, "writeConcern": majority };
    let answer = database.run_raw_command(update).await?;
    match answer.get("writeErrors") {
        Some(errors) => Err(format!("an update failed: {errors}").into()),
        None => Ok(()),
    }
}

/// Position, `item_id` and whether it is deprecated, of each entry of `relationships` that names its
/// item by `item_id` only.
fn references(item: &RawDocument) -> impl Iterator<Item = (usize, &str, bool)> {
    let entries = item.get_array("relationships").into_iter().flatten().enumerate();
    entries.filter_map(|(position, entry)| {
        let Ok(RawBsonRef::Document(entry)) = entry else { return None };
        let item_id = entry.get_str("item_id").ok()?;
        let deprecated = entry.get_bool("deprecated").unwrap_or(false);
        entry.get_str("refcode").is_err().then_some((position, item_id, deprecated))
    })
}
