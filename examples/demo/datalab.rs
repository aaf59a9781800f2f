//! datalab's story, on the database that a real datalab 0.6.0 left.

use crate::operator::{Operator, Unexpected, same, tell};
use crate::support::{Server, db_hash, fixture};
use mongodb::Database;
use mongodb::bson::{Bson, Document, doc};
use serde_json::Value;

/// Entries of `relationships` to look at, by the item's `item_id` and their position.
const ENTRIES: [(&str, usize); 3] = [("x.y_z-1", 0), ("cell-002", 0), ("by-both", 0)];

/// Runs it; returns a line that sums it up.
pub async fn story() -> Result<String, Unexpected> {
    tell("A MongoDB replica set of its own, with the database that a real datalab 0.6.0 left.");
    let server = Server::replica_set().await;
    let database = server.client().await.database("datalabvue");
    fixture::load(&database).await;
    let uri = server.uri("datalabvue");
    let datalab = Operator::of("datalab-upgrade", |gate| gate.uri(&uri))?;
    let before = entries(&database).await?;
    let loaded = db_hash(&database).await;
    println!("\n$ export GATE_MONGODB_URI='{uri}'");

    tell("May the new code start? Nobody has said yet what this database is.");
    datalab.runs(&[], "check", 11).await?;

    tell("It last ran 0.6.0. The operator says so.");
    let from = ("GATE_FROM_VERSION", "0.6.0");
    datalab.runs(&[from], "check", 10).await?;

    tell("What would the upgrade do?");
    let plan = datalab.runs(&[from], "plan", 10).await?;
    same("the database after check and plan", db_hash(&database).await, loaded)?;

    tell("Do it.");
    let upgrade = datalab.runs(&[from], "upgrade", 0).await?;
    let actions = |report: &Value| report["upgrades"][0]["actions"].clone();
    same("what the upgrade reports", actions(&upgrade), actions(&plan))?;

    tell("May the new code start now? The database says itself where it is.");
    datalab.runs(&[], "check", 0).await?;

    tell("How did it get there?");
    let status = datalab.runs(&[], "status", 0).await?;
    same("what is recorded", status["status"]["recorded"].as_str(), Some("0.8.0"))?;

    tell("Three of the documents, before and after: found, gone, and named by refcode already.");
    let after = entries(&database).await?;
    for ((item, position), (before, after)) in ENTRIES.iter().zip(before.iter().zip(&after)) {
        println!("\n  {item}, relationships.{position}");
        println!("    before  {}", reference(before));
        println!("    after   {}", reference(after));
    }
    let [pinned, deprecated, kept] = [0, 1, 2].map(|at| (before[at].clone(), after[at].clone()));
    let refcode = item(&database, "sample-001").await?.get("refcode").cloned();
    same("the pinned entry", pinned.1, with(pinned.0, "refcode", refcode.unwrap_or(Bson::Null)))?;
    same("the deprecated entry", deprecated.1, with(deprecated.0, "deprecated", true.into()))?;
    same("the entry that needed nothing", kept.1, kept.0)?;

    let details = |action: usize, name| actions(&upgrade)[action]["details"][name].clone();
    Ok(format!(
        "all as expected; {} references pinned and {} deprecated",
        details(0, "pinned"),
        details(1, "deprecated")
    ))
}

async fn entries(database: &Database) -> Result<Vec<Document>, Unexpected> {
    let mut entries = Vec::new();
    for (item_id, position) in ENTRIES {
        let item = item(database, item_id).await?;
        let relationships = item.get_array("relationships").map_err(|error| error.to_string())?;
        let entry = relationships.get(position).and_then(Bson::as_document);
        entries.push(entry.cloned().ok_or(format!("{item_id} has no entry {position}"))?);
    }
    Ok(entries)
}

async fn item(database: &Database, item_id: &str) -> Result<Document, Unexpected> {
    let found = database.collection("items").find_one(doc! { "item_id": item_id }).await;
    found.map_err(|error| error.to_string())?.ok_or(format!("there is no item {item_id}"))
}

/// The fields of an entry that the upgrade reads or writes.
fn reference(entry: &Document) -> String {
    let fields = ["item_id", "refcode", "deprecated"].map(|name| (name, entry.get(name)));
    let shown = fields.iter().filter_map(|(name, value)| Some(format!("{name}: {}", (*value)?)));
    shown.collect::<Vec<_>>().join(", ")
}

/// The entry with one field changed, or added at its end.
fn with(mut entry: Document, field: &str, value: Bson) -> Document {
    entry.insert(field, value);
    entry
}
