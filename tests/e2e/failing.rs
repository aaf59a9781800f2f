//! Upgrades that are refused, or fail: helm says why, the application goes on, and the same command
//! succeeds once the cause is gone.

use mongodb::bson::{DateTime, Document, doc};
use serde_json::{Value, json};

use super::apps;
use super::gate::merged;
use super::lab;
use super::runner::{BOTH, Scenario, scenario};
use super::support::db_hash;
use super::world::{World, report};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(BOTH, a_failing_condition_stops_the_release_until_it_holds),
        scenario!(BOTH, a_failing_upgrade_stops_the_release_until_its_document_is_mended),
        scenario!(BOTH, a_newer_database_stops_the_release_until_it_is_restored),
    ]
}

async fn a_failing_condition_stops_the_release_until_it_holds(world: &World) {
    begin(world).await;
    apps::fill(&world.database, "tasks", [doc! { "running": true }]).await;
    let new = lab::lab("0.8.0", "b", "0.8.0", "0.8.0=idle");
    let before = db_hash(&world.database).await;
    let reason = [
        r#"condition "no task is running" of 0.8.0 does not hold: 1 document in tasks is in the way"#,
        "correct these documents, then run it again, or set gate.settings.skipConditions=true",
    ];
    refused_twice(world, &new, 13, &reason).await;
    assert_eq!(db_hash(&world.database).await, before);

    world.database.collection::<Document>("tasks").drop().await.unwrap();
    succeeds(world, &new, doc! { "b": { "$exists": true } }).await;
}

async fn a_failing_upgrade_stops_the_release_until_its_document_is_mended(world: &World) {
    begin(world).await;
    // The server, and not the gate's look at the documents, refuses the one in the third batch.
    let things = world.database.collection::<Document>("things");
    let unique = doc! { "createIndexes": "things", "indexes": [{
        "key": { "unique_key": 1 }, "name": "key", "unique": true,
        "partialFilterExpression": { "unique_key": { "$exists": true } },
    }] };
    world.database.run_command(unique).await.unwrap();
    let set = |field: &str| doc! { "$set": { field: true } };
    things.update_one(doc! { "_id": 12 }, set("clash")).await.unwrap();
    let settings = json!({ "gate": { "settings": { "batchDocuments": 5 } } });
    let new = merged(lab::lab("0.8.0", "a", "0.8.0", "0.8.0=clash"), settings);
    let reason = [
        "document 12 of things: duplicate key in index key",
        "0.8.0 is unfinished after 10 documents",
        "correct the document, or deploy code whose upgrade can deal with it, then run it again",
    ];
    refused_twice(world, &new, 14, &reason).await;
    let done = apps::count(&world.database, "things", doc! { "unique_key": { "$exists": true } });
    assert_eq!(done.await, 10);

    things.update_one(doc! { "_id": 12 }, doc! { "$unset": { "clash": "" } }).await.unwrap();
    succeeds(world, &new, doc! { "$expr": { "$eq": ["$n", "$unique_key"] } }).await;
}

async fn a_newer_database_stops_the_release_until_it_is_restored(world: &World) {
    begin(world).await;
    let backup = apps::record(&world.database).await;
    let records = world.database.collection::<Document>(apps::METADATA);
    let id = doc! { "_id": backup.get_str("_id").unwrap() };
    let upgrades = ["0.8.0", "0.9.0"].map(|version| {
        let now = DateTime::now();
        doc! { "version": version, "action": "upgrade", "timestamp": now, "floor": version }
    });
    let history = doc! { "history": { "$each": upgrades.to_vec() } };
    let newer = doc! { "$set": { "version": "0.9.0" }, "$push": history };
    records.update_one(id.clone(), newer).await.unwrap();
    let before = db_hash(&world.database).await;
    let reason = [
        "database is at 0.9.0 but this binary is 0.8.0 and the floor is 0.9.0",
        "deploy 0.9.0 or restore a backup",
    ];
    refused_twice(world, &lab::new(), 12, &reason).await;
    assert_eq!(db_hash(&world.database).await, before);

    records.replace_one(id, backup).await.unwrap();
    succeeds(world, &lab::new(), doc! { "b": { "$exists": true } }).await;
}

const THINGS: i32 = 20;

/// The lab at 0.7.0, serving, with documents.
async fn begin(world: &World) {
    world.install_lab().await;
    let things = (0..THINGS).map(|n| doc! { "_id": n, "a": n, "n": n });
    apps::fill(&world.database, "things", things).await;
}

/// Without and with the flag that rolls back, helm fails, says these words, and leaves the lab as it was.
async fn refused_twice(world: &World, new: &Value, code: i32, words: &[&str]) {
    let old = world.pods("app=lab").await;
    let rollback = world.helm.rollback_flag();
    for (flag, release) in [("--wait", "failed"), (rollback, "deployed")] {
        let mut refused = world.upgrade_lab(new, &[flag]).await.failed();
        for word in words {
            refused = refused.says(word);
        }
        assert_eq!(world.release("lab").await, release, "{flag}");
        let pods = world.hook_pods().await;
        assert_eq!(pods.len(), 1, "{pods:?}");
        let report = report(&pods[0]);
        assert_eq!(report["exit_code"], code, "{report}");
        world.serves("0.7.0").await;
    }
    let uid = |pods: &[Value]| pods[0]["metadata"]["uid"].clone();
    assert_eq!(uid(&world.pods("app=lab").await), uid(&old), "the pod that served before");
}

/// The same command succeeds, and all documents match this filter afterwards.
async fn succeeds(world: &World, new: &Value, filter: Document) {
    world.upgrade_lab(new, &[world.helm.rollback_flag()]).await.ok();
    world.serves("0.8.0").await;
    let all = u64::try_from(THINGS).unwrap();
    assert_eq!(apps::count(&world.database, "things", filter).await, all);
    let record = apps::record(&world.database).await;
    assert_eq!(apps::history(&record), ["auto_stamp 0.7.0", "upgrade 0.8.0"]);
}
