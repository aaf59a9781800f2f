//! Servers whose feature compatibility version is the one before their own, as after an update of the
//! server: what needs the newer one is refused beforehand, and all else works.

mod apps;
mod support;

use apps::{assert_code, count, fill, history, record, record_old, scenario};
use mongodb::bson::{Document, doc};
use serde_json::Value;
use support::{Fresh, Run, Server, db_hash, mongod_version};

/// The version before the server's own.
fn lower() -> &'static str {
    match mongod_version() {
        (4, 4) => "4.2",
        (5, 0) => "4.4",
        (6, 0) => "5.0",
        (7, 0) => "6.0",
        (8, 0) => "7.0",
        other => panic!("MongoDB {other:?} is not known here: which one came before it?"),
    }
}

async fn set(server: &Server, version: &str) {
    let mut set = doc! { "setFeatureCompatibilityVersion": version };
    if mongod_version() >= (7, 0) {
        set.insert("confirm", true);
    }
    server.client().await.database("admin").run_command(set).await.unwrap();
}

async fn filled(server: &Server) -> Fresh {
    let database = server.database().await;
    fill(&database, "things", (0..20).map(|i| doc! { "_id": i, "a": i, "block": "text" })).await;
    fill(&database, "counters", (0..20).map(|i| doc! { "_id": i })).await;
    fill(&database, "old", [doc! { "_id": 1 }]).await;
    record_old(&database).await;
    database
}

/// Asserts that renames and drops are refused for what the server is, before anything is written.
async fn assert_refused(database: &Fresh, needs: &str, remedy: &str) {
    for upgrades in ["0.8.0=rename", "0.8.0=drop", "0.8.0=move_field;0.9.0=index,rename"] {
        let before = db_hash(database).await;
        for mode in ["plan", "upgrade"] {
            let run = scenario(&database.uri, "0.9.0", upgrades).mode(mode).run().await;
            assert_code(&run, 18);
            let text = |run: &Run, field: &str| run.report[field].as_str().unwrap().to_owned();
            assert!(text(&run, "message").contains(needs), "{run}");
            assert!(text(&run, "next").contains(remedy), "{run}");
            assert_eq!(run.report["unfinished"], Value::Null, "{run}");
            assert_eq!(db_hash(database).await, before, "{run}");
        }
    }
}

#[tokio::test]
async fn renames_and_drops_are_refused_until_the_feature_compatibility_version_is_raised() {
    let (needs, remedy) = match mongod_version() >= (6, 0) {
        true => ("needs the feature compatibility version 6.0", "setFeatureCompatibilityVersion"),
        false => ("needs MongoDB 6.0 or later", "update the server to MongoDB 6.0"),
    };
    for server in [Server::replica_set().await, Server::standalone().await] {
        set(&server, lower()).await;
        let database = filled(&server).await;
        if mongod_version() < (7, 0) {
            assert_refused(&database, needs, remedy).await;
        }
        let (major, minor) = mongod_version();
        set(&server, &format!("{major}.{minor}")).await;
        let run = scenario(&database.uri, "0.8.0", "0.8.0=rename").run().await;
        assert_code(&run, if mongod_version() >= (6, 0) { 0 } else { 18 });
        let there = |name| count(&database, name, doc! {});
        let (old, new) = (there("old").await, there("new").await);
        assert_eq!((old, new), if mongod_version() >= (6, 0) { (0, 1) } else { (1, 0) });
    }
}

async fn assert_refused_in_a_transaction(database: &Fresh, upgrades: &str) {
    let before = db_hash(database).await;
    let plan = scenario(&database.uri, "0.9.0", upgrades).mode("plan").run().await;
    assert_code(&plan, 18);
    let message = plan.report["message"].as_str().unwrap();
    assert!(message.contains("cannot write that in a transaction"), "{plan}");
    assert!(plan.report["next"].as_str().unwrap().contains("4.4"), "{plan}");
    assert_eq!(db_hash(database).await, before, "{plan}");
}

#[tokio::test]
async fn everything_else_works_at_the_lower_feature_compatibility_version() {
    // a collection that a transaction makes, `blocks` and `auxiliary`, among them
    let large =
        "0.8.0=move_field,twice,pin;0.8.1=owners,index,validator,extract;0.9.0=singleton,increment";
    let convergent = "0.8.0=move_field,twice,pin;0.8.1=owners,index,validator,extract;0.9.0=grow";
    for (server, upgrades) in
        [(Server::replica_set().await, large), (Server::standalone().await, convergent)]
    {
        set(&server, lower()).await;
        for batch in ["7", "1000"] {
            let database = filled(&server).await;
            if mongod_version() < (5, 0) && upgrades == large {
                // at 4.2, the lowest of all, a transaction makes no collection
                assert_refused_in_a_transaction(&database, large).await;
                for collection in ["blocks", "auxiliary"] {
                    database.create_collection(collection).await.unwrap();
                }
            }
            let gate =
                scenario(&database.uri, "0.9.0", upgrades).set("GATE_BATCH_DOCUMENTS", batch);
            assert_code(&gate.clone().mode("check").run().await, 10);
            assert_code(&gate.clone().mode("plan").run().await, 10);
            let run = gate.run().await;
            assert_code(&run, 0);
            assert_eq!(history(&record(&database).await).len(), 4, "{run}");
            assert_eq!(count(&database, "things", doc! { "a": { "$exists": true } }).await, 0);
        }
        let database = server.database().await;
        fill(&database, "things", [doc! { "_id": 1 }]).await;
        database
            .collection::<Document>(apps::METADATA)
            .insert_one(
                doc! { "_id": "scenario_schema_version", "version": "latest", "history": [] },
            )
            .await
            .unwrap();
        let repair = scenario(&database.uri, "0.9.0", upgrades)
            .unset("GATE_FROM_VERSION")
            .set("GATE_EXPECT_VERSION", "latest")
            .set("GATE_RECORD_VERSION", "0.9.0")
            .mode("record");
        assert_code(&repair.run().await, 0);
        assert_eq!(history(&record(&database).await), ["initialise 0.9.0"]);
    }
}

#[tokio::test]
async fn a_feature_compatibility_version_lowered_under_a_run_is_named_and_nothing_is_lost() {
    let server = Server::replica_set().await;
    let database = filled(&server).await;
    if mongod_version() < (6, 0) || mongod_version() >= (7, 0) {
        // only between 5.0 and 6.0 does it decide
        let expected = if mongod_version() < (6, 0) { 18 } else { 0 };
        set(&server, lower()).await;
        let run = scenario(&database.uri, "0.8.0", "0.8.0=index,rename").run().await;
        assert_code(&run, expected);
        assert_eq!(count(&database, "old", doc! {}).await, u64::from(expected == 18), "{run}");
        assert_eq!(run.report["unfinished"], Value::Null, "{run}");
        return;
    }
    // the rename comes after a step that is held up
    let time = std::time::Duration::from_secs(3);
    let fault = apps::Fault::block(&database, &["createIndexes"], time, 1).await;
    let gate = scenario(&apps::faulty(&database), "0.8.0", "0.8.0=index,rename");
    let running = gate.spawn();
    fault.met(1).await;
    set(&server, lower()).await;
    let run = running.wait().await;
    fault.end().await;
    assert_code(&run, 18);
    let message = run.report["message"].as_str().unwrap();
    assert!(message.contains("needs the feature compatibility version 6.0"), "{run}");
    assert_eq!(run.report["unfinished"]["version"], "0.8.0", "{run}");
    assert_eq!(count(&database, "old", doc! {}).await, 1);
    set(&server, "6.0").await;
    assert_code(&scenario(&database.uri, "0.8.0", "0.8.0=index,rename").run().await, 0);
    assert_eq!(count(&database, "new", doc! {}).await, 1);
}
