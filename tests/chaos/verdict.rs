//! What must be so after a round, whatever happened in it.

use mongodb::Database;
use mongodb::bson::{Bson, Document, doc};

use super::plan::Plan;
use super::users::{entries_of, entry_of};

/// The documents of `counters` that are there from the beginning: `_id`s of several types, between
/// which users put others.
pub fn counter_ids(plan: &Plan) -> Vec<Bson> {
    let id = |n: i32| match n % 4 {
        0 => Bson::Int32(n),
        1 => Bson::String(n.to_string() + "x"),
        2 => Bson::Document(doc! { "n": n }),
        _ => Bson::Boolean(n % 8 == 3),
    };
    let mut ids: Vec<Bson> = Vec::new();
    for id in (0..plan.documents).map(id) {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids
}

/// Fills a database for the chain of upgrades.
pub async fn fill(plan: &Plan, database: &Database) {
    let counters = counter_ids(plan).into_iter().map(|id| doc! { "_id": id, "n": 0, "log": [] });
    let fields = (0..plan.documents).map(|n| doc! { "_id": n.to_string(), "a": n });
    let lists = (0..i64::from(plan.documents)).map(|id| {
        doc! { "_id": id, "list": entries_of(id).map(entry_of).to_vec() }
    });
    let one = |id: &str| vec![doc! { "_id": id }];
    for (name, documents) in [
        ("counters", counters.collect()),
        ("things", fields.chain(lists).collect()),
        ("people", vec![doc! { "_id": 1, "name": "ann" }]),
        ("auxiliary", vec![doc! { "_id": "counted", "counts": true, "n": 0 }]),
        ("old", one("first")),
        ("blocks", one("block")),
    ] {
        database.collection::<Document>(name).insert_many(documents).await.unwrap();
    }
}

/// All documents of a collection.
pub async fn documents(database: &Database, name: &str) -> Vec<Document> {
    let mut documents = Vec::new();
    let mut cursor = database.collection::<Document>(name).find(doc! {}).await.unwrap();
    while cursor.advance().await.unwrap() {
        documents.push(cursor.deserialize_current().unwrap());
    }
    documents
}

/// Compares the database with the chain of upgrades, each applied once; returns what is otherwise.
pub async fn verdict(plan: &Plan, database: &Database) -> Vec<String> {
    let mut wrong = record(plan, database).await;
    let mut expect = |holds: bool, what: String| {
        if !holds {
            wrong.push(what);
        }
    };
    let has = |name: &str| plan.times(name) > 0;
    let increments = plan.times("increment") + plan.times("increment_narrow");
    let n = |document: &Document| document.get_i32("n").unwrap_or_default();
    let counters = documents(database, "counters").await;
    for id in counter_ids(plan) {
        let times = counters.iter().find(|counter| counter.get("_id") == Some(&id)).map(n);
        expect(times == Some(increments), format!("counter {id} is {times:?}, not {increments}"));
    }
    let sum: i64 = counters.iter().map(|counter| i64::from(n(counter))).sum();
    let counted = reported(database, "counted", "counters").await;
    expect(sum == counted, format!("counters add up to {sum}, the reports to {counted}"));

    let auxiliary = documents(database, "auxiliary").await;
    let stubborn = auxiliary.iter().find(|d| d.contains_key("counts")).map(n);
    expect(
        stubborn == Some(plan.times("stubborn")),
        format!("the transaction ran {stubborn:?} times"),
    );
    let singletons = auxiliary.iter().filter(|d| d.contains_key("singleton")).count() as i32;
    expect(singletons == plan.times("singleton"), format!("{singletons} singletons"));

    for thing in documents(database, "things").await {
        if let Some(first) = thing.get_str("_id").ok().and_then(|id| id.parse::<i32>().ok()) {
            let as_upgraded = thing.get_i32("b").ok() == Some(first)
                && thing.get_i32("twice").ok() == Some(2 * first)
                && !thing.contains_key("a");
            expect(as_upgraded == has("move_field"), format!("thing {thing}"));
        }
        let early = |k: i64| k < i64::from(plan.documents) * 10;
        for entry in thing.get_array("list").into_iter().flatten().filter_map(Bson::as_document) {
            let pinned = entry.contains_key("ref");
            let right = if has("pin") {
                pinned || !early(entry.get_i64("k").unwrap_or(-1))
            } else {
                !pinned
            };
            expect(right, format!("entry {entry} of {:?}", thing.get("_id")));
        }
    }
    let names = database.list_collection_names().await.unwrap();
    let there = |name: &str| names.iter().any(|n| n == name);
    expect(there("new") == has("rename"), format!("new, of {names:?}"));
    expect(there("blocks") != has("drop_blocks"), format!("blocks, of {names:?}"));
    let moved = documents(database, if has("rename") { "new" } else { "old" }).await;
    let first = moved.iter().any(|document| document.get_str("_id").is_ok_and(|id| id == "first"));
    expect(first != has("drop"), format!("the first document of old: {first}"));
    let indexes = database.collection::<Document>("things").list_index_names().await.unwrap();
    expect(indexes.contains(&"by b".to_owned()) == has("index"), format!("indexes {indexes:?}"));
    wrong
}

/// One entry of history a version, in order, and no journal.
async fn record(plan: &Plan, database: &Database) -> Vec<String> {
    let record = stored_record(database).await;
    let text = |entry: &Document, key: &str| entry.get_str(key).unwrap_or("none").to_owned();
    let history: Vec<(String, String)> =
        entries(&record).map(|e| (text(e, "action"), text(e, "version"))).collect();
    let mut expected = vec![("initialise".to_owned(), "0.0.1".to_owned())];
    expected.extend(plan.versions().map(|version| ("upgrade".to_owned(), version)));
    let fine = history == expected
        && text(&record, "version") == plan.code()
        && !record.contains_key("journal");
    if fine { vec![] } else { vec![format!("the record is {record}")] }
}

async fn stored_record(database: &Database) -> Document {
    let metadata = database.collection::<Document>("database_metadata");
    let record = metadata.find_one(doc! { "_id": "scenario_schema_version" }).await.unwrap();
    record.unwrap_or_default()
}

fn entries(record: &Document) -> impl Iterator<Item = &Document> {
    record.get_array("history").into_iter().flatten().filter_map(Bson::as_document)
}

/// What the history says that all upgrades together counted in a collection.
async fn reported(database: &Database, counter: &str, collection: &str) -> i64 {
    let record = stored_record(database).await;
    let actions = entries(&record).flat_map(|e| e.get_array("actions").into_iter().flatten());
    actions
        .filter_map(Bson::as_document)
        .filter(|action| action.get_str("collection").is_ok_and(|name| name == collection))
        .filter_map(|action| action.get_document("details").ok()?.get_i64(counter).ok())
        .sum()
}
