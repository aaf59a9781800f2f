//! What a round begins with, and what must be so in the end, whatever happened in it.

use mongodb::Database;
use mongodb::bson::{Bson, Document, doc};

use super::plan::Plan;
use super::users::{entry, first_entries, number};
use crate::apps::{fill, history, record};

/// Fills a database for the chain of upgrades.
pub async fn begin(plan: &Plan, database: &Database) {
    let counters = plan.counters().into_iter().map(|id| doc! { "_id": id, "n": 0, "log": [] });
    fill(database, "counters", counters).await;
    let fields = (0..plan.documents).map(|n| doc! { "_id": n.to_string(), "a": n });
    fill(database, "things", fields).await;
    let list = |id| first_entries(id).into_iter().map(entry).collect::<Vec<_>>();
    let lists = (0..plan.documents.into()).map(|id: i64| doc! { "_id": id, "list": list(id) });
    fill(database, "things", lists).await;
    fill(database, "people", [doc! { "_id": 1, "name": "ann" }]).await;
    fill(database, "auxiliary", [doc! { "_id": "counted", "counts": true, "n": 0 }]).await;
    fill(database, "old", [doc! { "_id": "first" }]).await;
    fill(database, "blocks", [doc! { "_id": "first" }]).await;
}

/// All documents of a collection.
pub async fn documents(database: &Database, name: &str) -> Vec<Document> {
    let mut documents = Vec::new();
    let mut cursor = database.collection(name).find(doc! {}).await.unwrap();
    while cursor.advance().await.unwrap() {
        documents.push(cursor.deserialize_current().unwrap());
    }
    documents
}

/// Compares the database with the chain of upgrades, each applied once; returns what is otherwise.
pub async fn verdict(plan: &Plan, database: &Database) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut expect = |holds: bool, otherwise: String| {
        if !holds {
            wrong.push(otherwise);
        }
    };
    let has = |name: &str| plan.times(name) > 0;
    let n = |document: &Document| document.get_i32("n").unwrap_or_default();

    let record = record(database).await;
    let upgrades = plan.versions().map(|version| format!("upgrade {version}"));
    let expected: Vec<String> = ["initialise 0.7.0".into()].into_iter().chain(upgrades).collect();
    let at_code = record.get_str("version").is_ok_and(|version| version == plan.code());
    let done = history(&record) == expected && at_code && !record.contains_key("journal");
    expect(done, format!("the record is {record}"));

    let increments = plan.times("increment") + plan.times("increment_narrow");
    let counters = documents(database, "counters").await;
    for id in plan.counters() {
        let times = counters.iter().find(|counter| counter.get("_id") == Some(&id)).map(n);
        expect(times == Some(increments), format!("counter {id} is {times:?}, not {increments}"));
    }
    let sum: i64 = counters.iter().map(|counter| i64::from(n(counter))).sum();
    let told = reported(&record, "counters", "counted");
    expect(sum == told, format!("counters add up to {sum}, the reports to {told}"));

    let auxiliary = documents(database, "auxiliary").await;
    let times = auxiliary.iter().find(|d| d.contains_key("counts")).map(n);
    expect(times == Some(plan.times("stubborn")), format!("the transaction ran {times:?} times"));
    let singletons = auxiliary.iter().filter(|d| d.contains_key("singleton")).count() as i32;
    expect(singletons == plan.times("singleton"), format!("{singletons} singletons"));

    for thing in documents(database, "things").await {
        if let Some(a) = thing.get_str("_id").ok().and_then(|id| id.parse::<i32>().ok()) {
            let (b, twice) = (thing.get_i32("b").ok(), thing.get_i32("twice").ok());
            let moved = b == Some(a) && twice == Some(2 * a) && !thing.contains_key("a");
            expect(moved == plan.moves(), format!("a thing is {thing}"));
        }
        for entry in thing.get_array("list").into_iter().flatten() {
            let pinned = entry.as_document().is_some_and(|entry| entry.contains_key("ref"));
            // users add others after the upgrade, too
            let of_old = number(entry) < i64::from(plan.documents) * 10;
            let right = if has("pin") { pinned || !of_old } else { !pinned };
            expect(right, format!("an entry of a thing is {entry}"));
        }
    }

    let names = database.list_collection_names().await.unwrap();
    let there = |name: &str| names.iter().any(|n| n == name);
    expect(there("new") == has("rename"), format!("new, of {names:?}"));
    expect(there("blocks") != has("drop_blocks"), format!("blocks, of {names:?}"));
    let kept = documents(database, if has("rename") { "new" } else { "old" }).await;
    let first = kept.iter().any(|document| document.get_str("_id").is_ok_and(|id| id == "first"));
    expect(first != has("drop"), format!("the first document of old: {first}"));
    let indexes = database.collection::<Document>("things").list_index_names().await.unwrap();
    expect(indexes.contains(&"by b".to_owned()) == has("index"), format!("indexes {indexes:?}"));
    wrong
}

/// What the history says that all upgrades together counted in a collection.
fn reported(record: &Document, collection: &str, counter: &str) -> i64 {
    let within = |document: &Bson, list: &str| {
        let document = document.as_document().unwrap();
        document.get_array(list).cloned().unwrap_or_default()
    };
    let entries = within(&record.clone().into(), "history");
    let actions = entries.iter().flat_map(|entry| within(entry, "actions"));
    let counts = actions.filter_map(|action| {
        let action = action.as_document()?;
        let here = action.get_str("collection").ok()? == collection;
        let details = action.get_document("details").ok().filter(|_| here)?;
        details.get_i64(counter).ok()
    });
    counts.sum()
}
