//! The example toolshed, an application with five hard upgrades: under kills, on both kinds of server, and
//! checked by a program that knows nothing of its code.

mod support;

#[allow(dead_code)]
#[path = "../examples/toolshed/main.rs"]
mod toolshed;

use std::time::Duration;

use mongodb::Database;
use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::options::IndexOptions;
use mongodb::{IndexModel, error::Error};
use serde_json::Value;
use support::{Fresh, Gate, Run, Server, db_hash, dump};
use tokio::sync::OnceCell;
use upgrade_gate::harness::Harness;

/// Seeded, so that a failure can be seen again.
const SEED: u64 = 20_261_127;

/// A database that a server without transactions can be upgraded to.
const WITHOUT_TRANSACTIONS: &str = "2.4.0";

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The documents of the old database, as the generator makes them.
async fn old() -> &'static [(String, Vec<RawDocumentBuf>)] {
    static OLD: OnceCell<Vec<(String, Vec<RawDocumentBuf>)>> = OnceCell::const_new();
    let generate = || async {
        let database = Server::shared().await.database().await;
        let script = format!("{ROOT}/examples/toolshed/old_database.py");
        let made = support::python().args([&script, &database.uri]).status().unwrap();
        assert!(made.success());
        dump(&database).await.into_iter().collect()
    };
    OLD.get_or_init(generate).await
}

async fn fill(database: &Database) -> Result<(), Error> {
    for (name, documents) in old().await {
        database.collection::<RawDocumentBuf>(name).insert_many(documents).await?;
    }
    let options = IndexOptions::builder().name("by_code".to_owned()).build();
    let index = IndexModel::builder().keys(doc! { "code": 1 }).options(options).build();
    database.collection::<Document>("loans").create_index(index).await?;
    Ok(())
}

async fn filled(server: &Server) -> Fresh {
    let database = server.database().await;
    fill(&database).await.unwrap();
    database
}

/// The example as a process.
fn process(uri: &str, target: &str) -> Gate {
    let gate = Gate::new(support::example("toolshed")).uri(uri).set("GATE_FROM_VERSION", "2.0.0");
    gate.set("GATE_TARGET_VERSION", target).set("GATE_LOCK_LEASE", "200ms")
}

/// What the independent program finds wrong; empty where all is as expected.
async fn differences(database: &Fresh, version: &str) -> String {
    let before = Server::shared().await.database().await;
    fill(&before).await.unwrap();
    let script = format!("{ROOT}/examples/toolshed/expected.py");
    let ran =
        support::python().args([&script, &before.uri, &database.uri, version]).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match ran.status.success() {
        true => String::new(),
        false => text(&ran.stdout) + &text(&ran.stderr),
    }
}

/// What a report says of each action: its description, and with it the count.
fn actions(run: &Run) -> Vec<Value> {
    let upgrades = run.report["upgrades"].as_array().unwrap();
    upgrades.iter().map(|upgrade| upgrade["actions"].clone()).collect()
}

#[tokio::test]
async fn the_upgrades_make_what_an_independent_program_expects() {
    let database = filled(Server::shared().await).await;
    let untouched = db_hash(&database).await;
    let planned = process(&database.uri, "2.5.0").mode("plan").run().await;
    assert_eq!(planned.code, Some(10), "{planned}");
    assert_eq!(db_hash(&database).await, untouched);

    let upgraded = process(&database.uri, "2.5.0").run().await;
    assert_eq!(upgraded.code, Some(0), "{upgraded}");
    assert_eq!(actions(&planned)[0], actions(&upgraded)[0], "{planned}\n{upgraded}");
    assert_eq!(differences(&database, "2.5.0").await, "");

    // the twin: one document that is not as it must be
    let wrong = doc! { "$set": { "title": "Hammer" } };
    database.collection::<Document>("loans").update_one(doc! {}, wrong).await.unwrap();
    assert!(differences(&database, "2.5.0").await.contains("loans, missing"));
}

#[tokio::test]
async fn each_version_is_a_state_of_its_own() {
    let database = filled(Server::shared().await).await;
    for version in ["2.1.0", "2.2.0", "2.3.0", "2.4.0"] {
        let run = process(&database.uri, version).run().await;
        assert_eq!(run.code, Some(10), "{run}");
        assert_eq!(differences(&database, version).await, "", "{version}");
    }
    let run = process(&database.uri, "2.5.0").run().await;
    assert_eq!(run.code, Some(0), "{run}");
    assert_eq!(differences(&database, "2.5.0").await, "");
}

#[tokio::test]
async fn a_server_without_transactions_gets_as_far_as_it_can() {
    let server = Server::standalone().await;
    let database = filled(&server).await;
    let untouched = db_hash(&database).await;
    let run = process(&database.uri, "2.5.0").run().await;
    assert_eq!(run.code, Some(18), "{run}");
    assert_eq!(db_hash(&database).await, untouched);

    let run = process(&database.uri, WITHOUT_TRANSACTIONS).run().await;
    assert_eq!(run.code, Some(10), "{run}");
    assert_eq!(differences(&database, WITHOUT_TRANSACTIONS).await, "");
}

/// Runs, kills by SIGKILL after a random time and runs again, until a run ends by itself.
async fn survives_kills(server: &Server, target: &str, code: i32) {
    let mut random = fastrand::Rng::with_seed(SEED);
    let undisturbed = filled(server).await;
    let run = process(&undisturbed.uri, target).set("GATE_BATCH_DOCUMENTS", "40").run().await;
    assert_eq!(run.code, Some(code), "{run}");
    let longest = run.elapsed.as_millis() as u64;
    let mut kills = 0;
    while kills < 8 {
        let database = filled(server).await;
        let gate = process(&database.uri, target).set("GATE_BATCH_DOCUMENTS", "40");
        let mut killed_here = 0;
        loop {
            let running = gate.spawn();
            if killed_here < 4 {
                tokio::time::sleep(Duration::from_millis(random.u64(..longest))).await;
                running.signal("KILL");
            }
            let run = running.wait().await;
            if run.signal.is_none() {
                assert_eq!(run.code, Some(code), "{run}");
                break;
            }
            killed_here += 1;
        }
        kills += killed_here;
        assert_eq!(differences(&database, target).await, "", "seed {SEED}");
    }
}

#[tokio::test]
async fn the_upgrades_survive_real_kills_on_a_replica_set() {
    survives_kills(Server::shared().await, "2.5.0", 0).await;
}

#[tokio::test]
async fn the_upgrades_survive_real_kills_on_a_standalone() {
    survives_kills(&Server::standalone().await, WITHOUT_TRANSACTIONS, 10).await;
}

#[tokio::test]
async fn the_upgrades_survive_the_harness_on_a_replica_set() {
    let harness = Harness::new(toolshed::gate("EUR"), Server::shared().await.uri(""));
    let survived = harness.set("GATE_FROM_VERSION", "2.0.0").seed(SEED).run(fill).await.unwrap();
    assert!(survived.boundaries.len() > 5, "{survived}");
}

#[tokio::test]
async fn the_upgrades_survive_the_harness_on_a_standalone() {
    let server = Server::standalone().await;
    let upgrades = toolshed::upgrades::all("EUR").into_iter().take(4);
    let gate = upgrade_gate::Gate::new("toolshed", WITHOUT_TRANSACTIONS).upgrades(upgrades);
    let harness = Harness::new(gate, server.uri(""));
    let survived = harness.set("GATE_FROM_VERSION", "2.0.0").seed(SEED).run(fill).await.unwrap();
    assert!(survived.boundaries.len() > 3, "{survived}");
}

/// Changes one thing of the old data, runs, and asserts that the run refuses and leaves all documents alone.
async fn refused(spoil: impl AsyncFn(&Database), code: i32, says: &str) {
    let database = filled(Server::shared().await).await;
    spoil(&database).await;
    let untouched = dump(&database).await;
    let run = process(&database.uri, "2.5.0").run().await;
    assert_eq!(run.code, Some(code), "{run}");
    assert!(run.report["message"].as_str().unwrap().contains(says), "{run}");
    let mut found = dump(&database).await;
    found.remove("database_metadata");
    assert_eq!(found, untouched);
}

#[tokio::test]
async fn what_the_upgrades_cannot_take_is_found_before_the_first_write() {
    refused(
        async |database| {
            let no_email = doc! { "$unset": { "email": "" } };
            let members = database.collection::<Document>("members");
            members.update_one(doc! {}, no_email).await.unwrap();
        },
        13,
        "every member has an e-mail address",
    )
    .await;
    refused(
        async |database| {
            let assets = database.collection::<Document>("assets");
            let toy = doc! { "$set": { "kind": "toy" } };
            assets.update_one(doc! {}, toy).await.unwrap();
        },
        13,
        "every asset is a tool or a book",
    )
    .await;
    refused(
        async |database| {
            let assets = database.collection::<Document>("assets");
            let mut asset = assets.find_one(doc! {}).await.unwrap().unwrap();
            asset.insert("_id", "another");
            assets.insert_one(asset).await.unwrap();
        },
        13,
        "no two assets share code and revision",
    )
    .await;
    refused(
        async |database| {
            let wrong = doc! { "$set": { "events": [1] } };
            let loans = database.collection::<Document>("loans");
            loans.update_one(doc! {}, wrong).await.unwrap();
        },
        14,
        "events.0 is not a document",
    )
    .await;
}
