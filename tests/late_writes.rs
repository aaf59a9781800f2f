//! What no fence keeps back, of a run that was paused for longer than its lease or killed: a drop of an index, and on
//! a standalone what is seeded or added. It must not undo what came after the run that took over.

mod apps;
mod support;

use std::time::Duration;

use apps::{Fault, assert_code, count, faulty, fill, record, record_old, scenario};
use mongodb::Database;
use mongodb::bson::{Document, doc};
use support::{Fresh, Run, Running, Server};

const TOOK_OVER: &str = "took over the lock of a run whose lease was over";

async fn filled(server: &Server) -> Fresh {
    let database = server.database().await;
    let things = (0..5).map(|i| doc! { "_id": i, "b": i, "block": { "text": format!("of {i}") } });
    fill(&database, "things", things).await;
    create_index(&database, doc! { "key": { "b": 1 }, "name": "by b" }).await;
    record_old(&database).await;
    database
}

async fn create_index(database: &Database, index: Document) {
    let create = doc! { "createIndexes": "things", "indexes": [index] };
    database.run_command(create).await.unwrap();
}

/// Whether the index is there, and only the unique one that came later.
async fn unique(database: &Database) -> Option<bool> {
    let mut found = database.collection::<Document>("things").list_indexes().await.unwrap();
    while found.advance().await.unwrap() {
        let index = found.deserialize_current().unwrap();
        let options = index.options.unwrap_or_default();
        if options.name.as_deref() == Some("by b") {
            return Some(options.unique == Some(true));
        }
    }
    None
}

/// The index made again under its name and with its keys, unique now.
async fn made_again(database: &Database) {
    create_index(database, doc! { "key": { "b": 1 }, "name": "by b", "unique": true }).await;
}

/// A run that stands still while its last question about the lease is answered, before its write.
async fn stopped(database: &Fresh, upgrades: &str, updates: i64) -> Running {
    let fault =
        Fault::block(database, &["update"], Duration::from_millis(100), updates as i32).await;
    let gate = scenario(&faulty(database), "0.8.0", upgrades);
    let running = gate.set("GATE_LOCK_LEASE", "1500ms").spawn();
    fault.met(updates).await;
    running.signal("STOP");
    fault.end().await;
    assert!(record(database).await.contains_key("journal"));
    running
}

/// The run that takes over.
async fn next(database: &Fresh, upgrades: &str) -> Run {
    let run = scenario(&database.uri, "0.8.0", upgrades).run().await;
    assert_code(&run, 0);
    assert!(run.log.iter().any(|line| line["message"] == TOOK_OVER), "{run}");
    run
}

#[tokio::test]
async fn a_run_stopped_before_it_drops_an_index_spares_the_one_made_again() {
    let standalone = Server::standalone().await;
    for server in [Server::shared().await, &standalone] {
        let database = filled(server).await;
        // the journal, the keys that were found, the lease
        let first = stopped(&database, "0.8.0=unindex", 3).await;
        assert_eq!(unique(&database).await, Some(false), "it was stopped too late");
        next(&database, "0.8.0=unindex").await;
        assert_eq!(unique(&database).await, None);
        made_again(&database).await;
        first.signal("CONT");
        let woken = first.wait().await;
        assert_code(&woken, 21);
        assert_eq!(unique(&database).await, Some(true), "{woken}");

        // the twin: awake in time, it goes on
        let database = filled(server).await;
        let first = stopped(&database, "0.8.0=unindex", 3).await;
        first.signal("CONT");
        assert_code(&first.wait().await, 0);
        assert_eq!(unique(&database).await, None);
    }
}

#[tokio::test]
async fn a_drop_of_an_index_that_the_server_has_under_way_is_ended_by_the_run_that_takes_over() {
    let standalone = Server::standalone().await;
    for server in [Server::shared().await, &standalone] {
        let database = filled(server).await;
        let fault = Fault::block(&database, &["dropIndexes"], Duration::from_secs(20), 1).await;
        let gate = scenario(&faulty(&database), "0.8.0", "0.8.0=unindex");
        let first = gate.set("GATE_LOCK_LEASE", "1s").spawn();
        fault.met(1).await;
        first.signal("KILL");
        first.wait().await;
        assert!(under_way(&database).await);
        let run = next(&database, "0.8.0=unindex").await;
        assert!(!under_way(&database).await, "{run}");
        made_again(&database).await;
        assert_eq!(unique(&database).await, Some(true), "{run}");
        fault.end().await;
    }
}

/// Whether the server has a gate's drop of an index under way.
async fn under_way(database: &Database) -> bool {
    let admin = database.client().database("admin");
    let pipeline = vec![
        doc! { "$currentOp": { "allUsers": true, "localOps": true } },
        doc! { "$match": { "appName": database.name(), "command.dropIndexes": { "$exists": true } } },
    ];
    let mut operations = admin.aggregate(pipeline).await.unwrap();
    operations.advance().await.unwrap()
}

#[tokio::test]
async fn a_run_stopped_before_it_seeds_or_adds_brings_nothing_back_on_a_standalone() {
    let standalone = Server::standalone().await;
    for (upgrades, collection) in [("0.8.0=seed", "roles"), ("0.8.0=extract", "blocks")] {
        let database = filled(&standalone).await;
        // the journal, the lease
        let first = stopped(&database, upgrades, 2).await;
        assert_eq!(count(&database, collection, doc! {}).await, 0, "it was stopped too late");
        next(&database, upgrades).await;
        assert!(count(&database, collection, doc! {}).await > 0);
        // as a later version may
        database.collection::<Document>(collection).delete_many(doc! {}).await.unwrap();
        first.signal("CONT");
        let woken = first.wait().await;
        assert_code(&woken, 21);
        assert_eq!(count(&database, collection, doc! {}).await, 0, "{woken}");

        // the twin: awake in time, it goes on
        let database = filled(&standalone).await;
        let first = stopped(&database, upgrades, 2).await;
        first.signal("CONT");
        assert_code(&first.wait().await, 0);
        assert!(count(&database, collection, doc! {}).await > 0);
    }
}
