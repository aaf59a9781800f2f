//! What a run holds, whatever the shape of the data: each in a memory cgroup of what the chart gives it, where the
//! machine lets one be made.

mod apps;
mod support;

use apps::{METADATA, assert_frugal, count, fill, frugal, record, record_old, scenario};
use mongodb::Database;
use mongodb::bson::{Bson, DateTime, Document, RawArrayBuf, RawBson, RawDocumentBuf, doc, rawdoc};
use support::{Fresh, Server, eventually};

/// An empty database of each kind of server, recorded as old.
async fn databases(standalone: &Server) -> [Fresh; 2] {
    let databases = [Server::shared().await.database().await, standalone.database().await];
    for database in &databases {
        record_old(database).await;
    }
    databases
}

async fn with_people(database: &Fresh) {
    fill(database, "people", (0..1000).map(|i| doc! { "_id": i, "name": i })).await;
    let index = doc! { "key": { "name": 1 }, "name": "name" };
    database.run_command(doc! { "createIndexes": "people", "indexes": [index] }).await.unwrap();
}

/// So many things with an `a`, each about as large as given.
async fn with_things(database: &Fresh, things: i32, bytes: usize) {
    let load = "y".repeat(bytes);
    for i in 0..things {
        fill(database, "things", [doc! { "_id": i, "a": i, "load": &load }]).await;
    }
}

#[tokio::test]
async fn one_document_has_very_many_references() {
    let standalone = Server::standalone().await;
    for database in databases(&standalone).await {
        with_people(&database).await;
        let things = database.collection::<Document>("things");
        for entries in [50_000, 300_000] {
            let list: Vec<Document> = (0..entries).map(|i| doc! { "name": i % 1000 }).collect();
            things.drop().await.unwrap();
            things.insert_one(doc! { "_id": 0, "list": list }).await.unwrap();
            let records = database.collection::<Document>(METADATA);
            records.drop().await.unwrap();
            record_old(&database).await;
            assert_frugal(&scenario(&database.uri, "0.8.0", "0.8.0=pin")).await;
            let last = format!("list.{}.ref", entries - 1);
            assert_eq!(count(&database, "things", doc! { last: (entries - 1) % 1000 }).await, 1);
        }
    }
}

#[tokio::test]
async fn very_many_documents_have_one_key() {
    let standalone = Server::standalone().await;
    for database in databases(&standalone).await {
        for part in 0..10 {
            let people = (0..10_000).map(|i| doc! { "_id": part * 10_000 + i, "name": "same" });
            fill(&database, "people", people).await;
        }
        fill(&database, "things", [doc! { "_id": 0, "owner": "same" }]).await;
        assert_frugal(&scenario(&database.uri, "0.8.0", "0.8.0=owners")).await;
        assert_eq!(count(&database, "things", doc! { "owner_id": 99_999 }).await, 1);
    }
}

#[tokio::test]
async fn documents_are_very_large() {
    let standalone = Server::standalone().await;
    for database in databases(&standalone).await {
        for (things, bytes) in [(12, 8_000_000), (4, 16 * 1024 * 1024 - 1000)] {
            database.collection::<Document>("things").drop().await.unwrap();
            database.collection::<Document>(METADATA).drop().await.unwrap();
            record_old(&database).await;
            with_things(&database, things, bytes).await;
            // that is all one command may carry
            assert_frugal(&scenario(&database.uri, "0.8.0", "0.8.0=move_field")).await;
            let moved = doc! { "a": { "$exists": false }, "b": { "$exists": true } };
            assert_eq!(count(&database, "things", moved).await, things as u64);
        }
    }
}

#[tokio::test]
async fn versions_that_depend_on_each_other_change_large_documents() {
    let database = Server::shared().await.database().await;
    record_old(&database).await;
    with_things(&database, 12, 8_000_000).await;
    let chain = "0.8.0=move_field;0.9.0=twice";
    frugal(&scenario(&database.uri, "0.9.0", chain).mode("plan"), 10, 110).await;
    assert_frugal(&scenario(&database.uri, "0.9.0", chain)).await;
    assert_eq!(count(&database, "things", doc! { "twice": { "$exists": true } }).await, 12);
}

#[tokio::test]
async fn large_parts_of_documents_move_into_others() {
    let standalone = Server::standalone().await;
    for database in databases(&standalone).await {
        let block = "y".repeat(7_000_000);
        for i in 0..12 {
            fill(&database, "things", [doc! { "_id": i, "block": &block }]).await;
        }
        assert_frugal(&scenario(&database.uri, "0.8.0", "0.8.0=extract")).await;
        assert_eq!(count(&database, "blocks", doc! {}).await, 12);
    }
}

#[tokio::test]
async fn small_documents_grow_large() {
    let standalone = Server::standalone().await;
    for database in databases(&standalone).await {
        let things = (0..12).map(|i| doc! { "_id": i, "grow": 8_000_000 });
        fill(&database, "things", things).await;
        assert_frugal(&scenario(&database.uri, "0.8.0", "0.8.0=grow")).await;
        let grown = doc! { "filler": { "$exists": true } };
        assert_eq!(count(&database, "things", grown).await, 12);
    }
}

#[tokio::test]
async fn documents_are_deleted_that_are_very_large() {
    let standalone = Server::standalone().await;
    for database in databases(&standalone).await {
        with_things(&database, 12, 8_000_000).await;
        assert_frugal(&scenario(&database.uri, "0.8.0", "0.8.0=purge")).await;
        assert_eq!(count(&database, "things", doc! {}).await, 0);
    }
}

#[tokio::test]
async fn a_document_is_nested_as_deep_as_can_be() {
    let standalone = Server::standalone().await;
    for database in databases(&standalone).await {
        let things = (0..1000).map(|i| {
            let deep = (0..80).fold(Bson::Int32(1), |inner, _| doc! { "d": [inner] }.into());
            doc! { "_id": i, "a": deep }
        });
        fill(&database, "things", things).await;
        assert_frugal(&scenario(&database.uri, "0.8.0", "0.8.0=move_field")).await;
        assert_eq!(count(&database, "things", doc! { "b": { "$exists": true } }).await, 1000);
    }
}

#[tokio::test]
async fn the_record_itself_is_nearly_as_large_as_a_document_may_be() {
    let standalone = Server::standalone().await;
    for database in databases(&standalone).await {
        let set = doc! { "$set": { "note": "y".repeat(16_000_000), "version": "unreadable" } };
        let records = database.collection::<Document>(METADATA);
        // other tests may fill the server's cache at that moment
        let large = async || {
            let record = doc! { "_id": "scenario_schema_version" };
            records.update_one(record, set.clone()).await.ok()
        };
        eventually("a large record", large).await;
        let gate = scenario(&database.uri, "0.8.0", "0.8.0=move_field").unset("GATE_FROM_VERSION");
        frugal(&gate.mode("check"), 15, 110).await;
        let repair = scenario(&database.uri, "0.8.0", "0.8.0=move_field")
            .unset("GATE_FROM_VERSION")
            .mode("record")
            .set("GATE_RECORD_VERSION", "0.8.0")
            .set("GATE_EXPECT_VERSION", "unreadable");
        frugal(&repair, 0, 110).await;
        assert_eq!(count(&database, METADATA, doc! { "version": "0.8.0" }).await, 1);
    }
}

/// Puts another record in the place of the one that is there.
async fn put(database: &Database, fields: RawDocumentBuf) {
    let records = database.collection::<RawDocumentBuf>(METADATA);
    records.delete_many(doc! {}).await.unwrap();
    let mut record = rawdoc! { "_id": "scenario_schema_version", "version": "0.7.0" };
    fields.iter().map(Result::unwrap).for_each(|(name, value)| record.append(name, value));
    assert!(record.as_bytes().len() < 16 * 1024 * 1024);
    // other tests may fill the server's cache at that moment
    eventually("a large record", || async { records.insert_one(&record).await.ok() }).await;
}

#[tokio::test]
async fn the_history_is_as_long_as_a_document_may_be() {
    let standalone = Server::standalone().await;
    for database in databases(&standalone).await {
        fill(&database, "things", [doc! { "_id": 0, "a": 1 }]).await;
        let mut history = RawArrayBuf::new();
        for _ in 0..130_000 {
            history.push(rawdoc! {
                "version": "0.7.0", "action": "auto_stamp", "timestamp": DateTime::now(),
                "datalab_version": "0.7.0",
            });
        }
        let gate =
            || scenario(&database.uri, "0.8.0", "0.8.0=move_field").unset("GATE_FROM_VERSION");
        let repair = gate()
            .mode("record")
            .set("GATE_RECORD_VERSION", "0.7.1")
            .set("GATE_EXPECT_VERSION", "0.7.0");
        put(&database, rawdoc! { "history": history.clone() }).await;
        if database.uri.contains("replicaSet") {
            frugal(&gate().mode("check"), 10, 110).await;
        }
        frugal(&repair, 10, 110).await;
        assert_eq!(record(&database).await.get_array("history").unwrap().len(), 500);
        put(&database, rawdoc! { "history": history }).await;
        frugal(&gate(), 0, 110).await;
        assert_eq!(record(&database).await.get_array("history").unwrap().len(), 500);
        assert_eq!(count(&database, "things", doc! { "b": 1 }).await, 1);
    }
}

#[tokio::test]
async fn the_journal_is_as_large_as_a_document_may_be() {
    let standalone = Server::standalone().await;
    for database in databases(&standalone).await {
        let mut steps = RawArrayBuf::new();
        for step in 0..150_000 {
            steps.push(rawdoc! {
                "name": format!("step {step}"), "kind": "transform", "documents": 1_i64, "late": 0_i64,
            });
        }
        let journal = rawdoc! {
            "id": "large", "version": "0.8.0", "code_version": "0.8.0", "started": DateTime::now(),
            "from": { "version": "0.7.0", "history": 0_i64 }, "seq": 1_i64, "run_id": "run", "host": "host",
            "steps": steps, "step": 1_i64, "pass": "first",
        };
        put(&database, rawdoc! { "journal": journal }).await;
        let gate =
            || scenario(&database.uri, "0.8.0", "0.8.0=move_field").unset("GATE_FROM_VERSION");
        frugal(&gate().mode("check"), 12, 110).await;
        frugal(&gate(), 12, 110).await;
        let repair = gate()
            .mode("record")
            .set("GATE_RECORD_VERSION", "0.7.0")
            .set("GATE_EXPECT_VERSION", "0.7.0")
            .set("GATE_DISCARD_JOURNAL", "large");
        frugal(&repair, 10, 110).await;
        let kept = doc! { "history.0.journal.id": "large", "journal": { "$exists": false } };
        assert_eq!(count(&database, METADATA, kept.clone()).await, 1);
        // which stays there
        frugal(&gate(), 0, 110).await;
        assert_eq!(count(&database, METADATA, kept).await, 1);
        assert_eq!(record(&database).await.get_str("version").unwrap(), "0.8.0");
    }
}

#[tokio::test]
async fn the_documents_of_a_seed_are_very_large() {
    let standalone = Server::standalone().await;
    for database in databases(&standalone).await {
        for name in ["seed_large", "seed_computed"] {
            let gate = scenario(&database.uri, "0.8.0", &format!("0.8.0={name}"));
            frugal(&gate.clone().mode("plan"), 10, 110).await;
            assert_frugal(&gate).await;
            let documents = count(&database, "manuals", doc! {}).await;
            assert_eq!(documents, 6);
            database.collection::<Document>("manuals").drop().await.unwrap();
            database.collection::<Document>(METADATA).drop().await.unwrap();
            record_old(&database).await;
        }
    }
}

/// So many things with so many references each, no two the same.
async fn with_references(database: &Database, things: i32, references: i32) {
    let name = |thing: i32, n: i32| format!("a name of forty characters {thing:06} {n:06}");
    for first in (0..things).step_by(200) {
        let some = first..things.min(first + 200);
        let thing = |i| {
            let list = (0..references).map(|n| rawdoc! { "name": name(i, n) });
            rawdoc! { "_id": i, "list": RawArrayBuf::from_iter(list.map(RawBson::from)), "owner": name(i, 0) }
        };
        let person = |(i, n)| rawdoc! { "_id": i * references + n, "name": name(i, n) };
        let people = some.clone().flat_map(|i| (0..references).map(move |n| (i, n))).map(person);
        database.collection::<RawDocumentBuf>("people").insert_many(people).await.unwrap();
        database.collection::<RawDocumentBuf>("things").insert_many(some.map(thing)).await.unwrap();
    }
    let index = doc! { "key": { "name": 1 }, "name": "name" };
    database.run_command(doc! { "createIndexes": "people", "indexes": [index] }).await.unwrap();
}

#[tokio::test]
async fn one_transaction_looks_very_much_up() {
    let database = Server::shared().await.database().await;
    record_old(&database).await;
    with_references(&database, 1000, 80).await;
    let gate = scenario(&database.uri, "0.8.0", "0.8.0=pin,owners");
    assert_frugal(&gate).await;
    let last = doc! { "list.79.ref": { "$type": "int" }, "owner_id": { "$type": "int" } };
    assert_eq!(count(&database, "things", last).await, 1000);
}

#[tokio::test]
async fn a_version_has_very_many_small_edits() {
    let standalone = Server::standalone().await;
    for database in databases(&standalone).await {
        // many in each document
        with_references(&database, 600, 150).await;
        assert_frugal(&scenario(&database.uri, "0.8.0", "0.8.0=pin")).await;
        assert_eq!(
            count(&database, "things", doc! { "list.149.ref": { "$type": "int" } }).await,
            600
        );
        // many documents
        database.collection::<Document>("things").drop().await.unwrap();
        for part in 0..6 {
            let things = (0..10_000).map(|i| doc! { "_id": part * 10_000 + i, "a": i });
            fill(&database, "things", things).await;
        }
        let gate = scenario(&database.uri, "0.9.0", "0.8.0=pin;0.9.0=move_field");
        assert_frugal(&gate.set("GATE_BATCH_DOCUMENTS", "60000")).await;
        assert_eq!(count(&database, "things", doc! { "b": { "$exists": true } }).await, 60_000);
    }
}
