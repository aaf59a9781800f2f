//! An upgrade of the application whose database is behind.

use mongodb::bson::doc;
use serde_json::json;

use super::apps;
use super::gate::merged;
use super::lab;
use super::runner::{BOTH, Scenario, scenario};
use super::support::db_hash;
use super::world::{World, report};

pub fn scenarios() -> Vec<Scenario> {
    vec![scenario!(BOTH, the_hook_upgrades_before_ten_replicas_open_without_writing)]
}

async fn the_hook_upgrades_before_ten_replicas_open_without_writing(world: &World) {
    let fresh = json!({ "gate": { "settings": { "initialise": "fresh" } } });
    world.upgrade_lab(&merged(lab::old(), fresh), &["--wait"]).await.ok();
    world.serves("0.7.0").await;
    apps::fill(&world.database, "things", (0..50).map(|n| doc! { "_id": n, "a": n })).await;

    let ten = merged(lab::new(), json!({ "replicas": 10 }));
    world.upgrade_lab(&ten, &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    opened(world, 10).await;
    assert_eq!(apps::count(&world.database, "things", doc! { "b": { "$exists": true } }).await, 50);
    let record = apps::record(&world.database).await;
    assert_eq!(apps::history(&record), ["auto_stamp 0.7.0", "upgrade 0.8.0"]);

    let before = db_hash(&world.database).await;
    world.kubectl(&["delete", "pods", "--selector", "app=lab"]).await;
    opened(world, 10).await;
    assert_eq!(db_hash(&world.database).await, before);
}

/// Waits until the gates of so many of the lab's pods have opened.
async fn opened(world: &World, number: usize) {
    let open = async || {
        let pods = world.pods("app=lab").await;
        let open = pods.iter().filter(|pod| report(pod)["exit_code"] == 0);
        (open.count() == number).then_some(())
    };
    world.until("the gates of all pods to open", open).await;
}
