//! Large documents, arrays and look-ups: what they cost in time and memory, and how a run ends meanwhile.

mod apps;
mod support;

use std::time::{Duration, Instant};

use apps::{assert_code, assert_frugal, count, counted, fill, record_old, scenario};
use mongodb::Database;
use mongodb::bson::{Document, doc};
use support::{Fresh, Server};

/// An empty database of each kind of server, recorded as old.
async fn databases(standalone: &Server) -> [Fresh; 2] {
    let databases = [Server::shared().await.database().await, standalone.database().await];
    for database in &databases {
        record_old(database).await;
    }
    databases
}

async fn index_names(database: &Database) {
    let index = doc! { "key": { "name": 1 }, "name": "name" };
    database.run_command(doc! { "createIndexes": "people", "indexes": [index] }).await.unwrap();
}

#[tokio::test]
async fn a_document_with_a_hundred_thousand_references_is_upgraded_as_one() {
    let standalone = Server::standalone().await;
    for database in databases(&standalone).await {
        fill(&database, "people", (0..1000).map(|i| doc! { "_id": i, "name": i })).await;
        index_names(&database).await;
        let list: Vec<Document> = (0..100_000).map(|i| doc! { "name": i % 1000 }).collect();
        fill(&database, "things", [doc! { "_id": 0, "list": list }]).await;
        assert_frugal(&scenario(&database.uri, "0.8.0", "0.8.0=pin")).await;
        let done = doc! { "list.99999.ref": 999, "list.0.ref": 0, "list.ref": { "$not": { "$exists": false } } };
        assert_eq!(count(&database, "things", done).await, 1);
    }
}

#[tokio::test]
async fn a_value_with_very_many_documents_is_looked_up() {
    let standalone = Server::standalone().await;
    for database in databases(&standalone).await {
        for part in 0..10 {
            let people = (0..5000).map(|i| doc! { "_id": part * 5000 + i, "name": "same" });
            fill(&database, "people", people).await;
        }
        fill(&database, "things", [doc! { "_id": 0, "owner": "same" }]).await;
        assert_frugal(&scenario(&database.uri, "0.8.0", "0.8.0=owners")).await;
        // the last in natural order
        assert_eq!(count(&database, "things", doc! { "owner_id": 49_999 }).await, 1);
    }
}

#[tokio::test]
async fn small_documents_whose_edits_are_large_go_in_batches_that_memory_allows() {
    let standalone = Server::standalone().await;
    for database in databases(&standalone).await {
        let long = "y".repeat(20_000);
        let people = (0..260).map(|i| doc! { "_id": format!("{i} {long}"), "name": i });
        fill(&database, "people", people).await;
        index_names(&database).await;
        let list =
            |i| -> Vec<Document> { (0..20).map(|n| doc! { "name": (i * 20 + n) % 260 }).collect() };
        fill(&database, "things", (0..260).map(|i| doc! { "_id": i, "list": list(i) })).await;
        assert_frugal(&scenario(&database.uri, "0.8.0", "0.8.0=pin")).await;
        let done = doc! { "list.ref": { "$regex": "^[0-9]+ y" } };
        assert_eq!(count(&database, "things", done).await, 260);
    }
}

#[tokio::test]
async fn small_documents_that_find_large_ones_are_upgraded_in_one_transaction() {
    let database = Server::shared().await.database().await;
    record_old(&database).await;
    let load = "y".repeat(1_000_000);
    for i in 0..120 {
        fill(&database, "people", [doc! { "_id": i, "name": i, "load": &load }]).await;
    }
    index_names(&database).await;
    fill(&database, "things", (0..120).map(|i| doc! { "_id": i, "owner": i })).await;
    assert_frugal(&scenario(&database.uri, "0.8.0", "0.8.0=owners")).await;
    let same = doc! { "$expr": { "$eq": ["$_id", "$owner_id"] } };
    assert_eq!(count(&database, "things", same).await, 120);
}

#[tokio::test]
async fn a_signal_ends_a_run_whose_upgrade_is_busy_with_one_document() {
    let standalone = Server::standalone().await;
    for database in databases(&standalone).await {
        fill(&database, "things", [doc! { "_id": 0, "a": 0 }]).await;
        let mut running = scenario(&database.uri, "0.8.0", "0.8.0=ponder").spawn();
        running.logged("pondering").await;
        let sent = Instant::now();
        running.signal("TERM");
        let run = running.wait().await;
        assert_code(&run, 22);
        // it would take ten minutes
        assert!(sent.elapsed() < Duration::from_secs(30), "{run}");
        assert_eq!(count(&database, "things", doc! { "a": 0 }).await, 1);
        assert_eq!(apps::lock(&database).await, None, "{run}");
    }
}

#[tokio::test]
async fn a_transaction_step_that_outlives_its_transaction_says_so() {
    let server = Server::replica_set().await;
    let admin = server.client().await.database("admin");
    let second = doc! { "setParameter": 1, "transactionLifetimeLimitSeconds": 1 };
    admin.run_command(second).await.unwrap();
    let database = server.database().await;
    record_old(&database).await;
    fill(&database, "things", [doc! { "_id": 0, "a": 0 }]).await;
    let gate = scenario(&database.uri, "0.8.0", "0.8.0=linger");
    let run = gate.run().await;
    assert_code(&run, 14);
    let report = run.report.to_string();
    assert!(report.contains("longer than the server lets a transaction live (1 s)"), "{run}");
    assert!(report.contains("transactionLifetimeLimitSeconds"), "{run}");
    assert_eq!(count(&database, "things", doc! { "a": 0 }).await, 1);

    let longer = doc! { "setParameter": 1, "transactionLifetimeLimitSeconds": 60 };
    admin.run_command(longer).await.unwrap();
    let run = gate.run().await;
    assert_code(&run, 0);
    assert_eq!(count(&database, "things", doc! { "a": 1 }).await, 1);
    assert_eq!(counted(&run, "0.8.0", "lingered"), 1, "{run}");
}
