//! The gate as a release of its own, beside that of an application.

use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use super::apps;
use super::gate::{merged, scenario};
use super::lab;
use super::runner::{BOTH, Scenario, scenario};
use super::support::db_hash;
use super::world::{World, report};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(BOTH, a_release_beside_an_application_upgrades_for_it),
        scenario!(BOTH, a_connection_string_given_for_a_trial_does_not_stay),
    ]
}

async fn a_release_beside_an_application_upgrades_for_it(world: &World) {
    let without = |values: Value| merged(values, json!({ "gate": { "enabled": false } }));
    world.upgrade_gate(&scenario("0.7.0", ""), &[]).await.ok();
    world.upgrade_lab(&without(lab::old()), &["--wait"]).await.ok();
    world.serves("0.7.0").await;
    let things = (0..20).map(|n| doc! { "_id": n, "a": n });
    apps::fill(&world.database, "things", things).await;
    let things = world.database.collection::<Document>("things");
    things.update_one(doc! { "_id": 7 }, doc! { "$set": { "bad": true } }).await.unwrap();

    // Who types `helm upgrade gate && helm upgrade app` keeps the old application.
    let next = scenario("0.8.0", "0.8.0=move_field,refuse");
    let before = db_hash(&world.database).await;
    world.upgrade_gate(&next, &[]).await.failed().says("it is marked bad");
    assert_eq!(report(&world.hook_pods().await[0])["exit_code"], 14);
    assert_eq!(db_hash(&world.database).await, before);
    world.serves("0.7.0").await;

    things.update_one(doc! { "_id": 7 }, doc! { "$unset": { "bad": "" } }).await.unwrap();
    world.upgrade_gate(&next, &[]).await.ok();
    world.upgrade_lab(&without(lab::new()), &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    let record = apps::record(&world.database).await;
    assert_eq!(apps::history(&record), ["auto_stamp 0.7.0", "upgrade 0.8.0"]);
    assert_eq!(apps::count(&world.database, "things", doc! { "marked": true }).await, 20);
}

async fn a_connection_string_given_for_a_trial_does_not_stay(world: &World) {
    let trial = |code: &str, upgrades: &str| {
        let uri = json!({ "existingSecret": { "name": "" }, "uri": world.database.uri });
        merged(scenario(code, upgrades), json!({ "mongodb": uri }))
    };
    // After a run that failed, nor after one that did not.
    world.upgrade_gate(&trial("0.8.0", "0.8.0=move_field"), &[]).await.failed();
    assert_eq!(report(&world.hook_pods().await[0])["exit_code"], 11);
    assert_eq!(secrets(world).await, [""; 0]);
    world.upgrade_gate(&trial("0.8.0", ""), &[]).await.ok();
    // That of the release is for the Jobs by hand.
    assert_eq!(secrets(world).await, ["gate-upgrade-gate-mongodb"]);
    world.kubectl(&["create", "job", "plan", "--from=cronjob/gate-upgrade-gate"]).await;
    assert_eq!(super::manual::ended(world, "plan").await["exit_code"], 0);
    world.helm(&["uninstall", "gate", "--wait"]).await.ok();
    assert_eq!(secrets(world).await, [""; 0]);
}

/// The names of the gate's Secrets.
async fn secrets(world: &World) -> Vec<String> {
    let secrets = world.list("secrets", "app.kubernetes.io/component=upgrade-gate").await;
    let name = |secret: &Value| secret["metadata"]["name"].as_str().unwrap().to_owned();
    secrets.iter().map(name).collect()
}
