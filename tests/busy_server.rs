//! A server that is busy for long with one operation of a run: what is said meanwhile, and what a signal leaves.

mod apps;
mod support;

use std::time::Duration;

use apps::{Fault, assert_code, faulty, fill, lock, record_old, scenario};
use mongodb::Database;
use mongodb::bson::{Bson, Document, doc};
use support::{Fresh, Gate, Server, db_hash, eventually};

/// What the server is doing in a database, as far as a client asked for it.
async fn operations(database: &Database) -> Vec<Document> {
    let pipeline = vec![doc! { "$currentOp": { "allUsers": true, "truncateOps": true } }];
    let ask = doc! { "aggregate": 1, "pipeline": pipeline, "cursor": {} };
    let answer = database.client().database("admin").run_command(ask).await.unwrap();
    let found = answer.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
    let start = format!("{}.", database.name());
    let ours = |operation: &&Document| {
        operation.get_str("ns").is_ok_and(|ns| ns.starts_with(&start))
            && operation.get_bool("active").is_ok_and(|active| active)
    };
    found.iter().filter_map(Bson::as_document).filter(ours).cloned().collect()
}

/// Sends a signal while the server is busy with an operation, and makes sure that it is not any more.
async fn interrupt_at(database: &Fresh, gate: &Gate, op: &str, collection: &str) {
    let running = gate.spawn();
    let namespace = format!("{}.{collection}", database.name());
    let busy = async || {
        let found = operations(database).await;
        let is_it = |operation: &Document| {
            operation.get_str("op").is_ok_and(|found| found == op)
                && operation.get_str("ns").is_ok_and(|ns| ns == namespace)
        };
        found.iter().any(is_it).then_some(())
    };
    eventually(&format!("{op} of {collection}"), busy).await;
    running.signal("TERM");
    let run = running.wait().await;
    assert_code(&run, 22);
    assert_eq!(operations(database).await, [], "{run}");
    assert_eq!(lock(database).await, None, "{run}");
}

#[tokio::test]
async fn after_a_signal_the_server_is_not_busy_with_the_run_any_more() {
    let (standalone, asks_for_password) = (Server::standalone().await, Server::with_auth().await);
    for server in [Server::shared().await, &standalone, &asks_for_password] {
        let mut database = server.database().await;
        if database.uri.contains('@') {
            // no privilege beside those of the upgrade
            database.uri = server.uri_with_roles(database.name(), &["readWrite"]).await;
        }
        record_old(&database).await;
        fill(&database, "tasks", (0..100).map(|i| doc! { "_id": i })).await;
        fill(&database, "things", (0..2000).map(|i| doc! { "_id": i, "a": 1 })).await;
        let before = db_hash(&database).await;
        for mode in ["upgrade", "plan"] {
            // a condition
            let asking = scenario(&database.uri, "0.8.0", "0.8.0=asked_slowly").mode(mode);
            interrupt_at(&database, &asking, "command", "tasks").await;
            // a query of the preflight, of which twenty documents a second are read
            let looking = scenario(&database.uri, "0.8.0", "0.8.0=rare").mode(mode);
            interrupt_at(&database, &looking, "query", "things").await;
        }
        assert_eq!(db_hash(&database).await, before);
    }
}

#[tokio::test]
async fn after_a_signal_a_write_on_a_standalone_does_not_go_on() {
    let server = Server::standalone().await;
    let database = server.database().await;
    record_old(&database).await;
    fill(&database, "things", (0..500).map(|i| doc! { "_id": i, "a": 1 })).await;
    let admin = database.client().database("admin");
    let fail_point = |mode: &str| {
        let namespace = format!("{}.things", database.name());
        doc! {
            "configureFailPoint": "hangDuringBatchUpdate",
            "mode": mode,
            "data": { "nss": &namespace, "namespace": &namespace, "shouldCheckForInterrupt": true },
        }
    };
    admin.run_command(fail_point("alwaysOn")).await.unwrap();
    let gate = scenario(&database.uri, "0.8.0", "0.8.0=move_field");
    interrupt_at(&database, &gate, "update", "things").await;
    admin.run_command(fail_point("off")).await.unwrap();
    let things = |filter: Document| apps::count(&database, "things", filter);
    assert!(things(doc! { "a": 1 }).await > 0, "the write went on");
    assert_code(&gate.run().await, 0);
    assert_eq!(things(doc! { "b": 1, "a": { "$exists": false } }).await, 500);
}

#[tokio::test]
async fn after_a_signal_a_write_of_a_transaction_step_does_not_go_on() {
    let asks_for_password = Server::with_auth().await;
    for server in [Server::shared().await, &asks_for_password] {
        let mut database = server.database().await;
        if database.uri.contains('@') {
            database.uri = server.uri_with_roles(database.name(), &["readWrite"]).await;
        }
        record_old(&database).await;
        fill(&database, "things", (0..2000).map(|i| doc! { "_id": i, "a": 1 })).await;
        let before = db_hash(&database).await;
        // in one transaction with the version, and through the journal, as before a command
        for (step, op) in [("scribble", "update"), ("scrub", "remove")] {
            let gate = scenario(&database.uri, "0.8.0", &format!("0.8.0={step}"));
            interrupt_at(&database, &gate, op, "things").await;
            assert_eq!(db_hash(&database).await, before);
        }
        let gate = scenario(&database.uri, "0.8.0", "0.8.0=scribble,index");
        interrupt_at(&database, &gate, "update", "things").await;
        assert_eq!(apps::count(&database, "things", doc! { "scribbled": true }).await, 0);
        // nothing holds the documents any more
        let things = database.collection::<Document>("things");
        things.update_many(doc! {}, doc! { "$unset": { "a": 1 } }).await.unwrap();
    }
}

#[tokio::test]
async fn a_run_that_is_busy_with_one_thing_goes_on_saying_so() {
    let database = Server::shared().await.database().await;
    record_old(&database).await;
    fill(&database, "tasks", (0..100).map(|i| doc! { "_id": i })).await;
    fill(&database, "things", [doc! { "_id": 0, "a": 1 }]).await;
    // an author's code that takes ten minutes for one document
    let mut running = scenario(&database.uri, "0.8.0", "0.8.0=ponder").spawn();
    let line = running.logged("still at work").await;
    assert_eq!(line["doing"], "upgrade 0.8.0: step \"ponder\": preflight", "{line}");
    running.signal("TERM");
    assert_code(&running.wait().await, 22);

    // one aggregation
    let mut running = scenario(&database.uri, "0.8.0", "0.8.0=asked_slowly").spawn();
    let line = running.logged("still at work").await;
    assert_eq!(line["doing"], "asking condition \"no task is slow\" of 0.8.0", "{line}");
    running.signal("TERM");
    assert_code(&running.wait().await, 22);

    // one command of the server
    let fault = Fault::block(&database, &["createIndexes"], Duration::from_secs(20), 1).await;
    let mut running = scenario(&faulty(&database), "0.8.0", "0.8.0=index").spawn();
    let line = running.logged("still at work").await;
    assert!(line["doing"].as_str().unwrap().starts_with("upgrade 0.8.0: step"), "{line}");
    let run = running.wait().await;
    assert_code(&run, 0);
    fault.end().await;
}
