//! `helm rollback`, and pods that start without a hook.

use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use super::apps;
use super::gate::merged;
use super::lab;
use super::runner::{BOTH, FOUR, Scenario, THREE, scenario};
use super::support::db_hash;
use super::world::{World, report};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(BOTH, a_rollback_to_code_that_can_read_the_data_serves),
        scenario!(BOTH, a_rollback_below_the_floor_keeps_old_pods_out),
        scenario!(BOTH, a_check_on_request_refuses_a_rollback_below_the_floor),
        scenario!(FOUR, without_a_gate_a_rollback_starts_pods_that_cannot_read_the_data),
        scenario!(THREE, a_pod_that_restarts_long_after_the_hook_opens_at_once),
    ]
}

async fn a_rollback_to_code_that_can_read_the_data_serves(world: &World) {
    begin(world).await;
    world.upgrade_lab(&lab::new(), &["--wait"]).await.ok();
    let newer = lab::lab("0.9.0", "b", "0.9.0", "0.8.0=move_field");
    world.upgrade_lab(&newer, &["--wait"]).await.ok();
    world.serves("0.9.0").await;
    let before = db_hash(&world.database).await;

    world.helm(&["rollback", "lab", "2", "--wait"]).await.ok();
    world.serves("0.8.0").await;
    let report = report(&world.pods("app=lab").await[0]);
    assert_eq!(report["exit_code"], 0, "{report}");
    assert_eq!(report["from"], "0.9.0", "{report}");
    assert_eq!(db_hash(&world.database).await, before);

    // A release that is behind the database, and above its floor, is one like any other.
    world.upgrade_lab(&lab::new(), &["--wait"]).await.ok();
    assert_eq!(db_hash(&world.database).await, before);
}

async fn a_rollback_below_the_floor_keeps_old_pods_out(world: &World) {
    begin(world).await;
    world.upgrade_lab(&lab::new(), &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    let before = db_hash(&world.database).await;

    world.helm(&["rollback", "lab", "1"]).await.ok();
    let refused = report(&world.refused_pod("app=lab").await);
    assert_eq!(
        refused["message"],
        "database is at 0.8.0 but this binary is 0.7.0 and the floor is 0.8.0"
    );
    assert_eq!(refused["next"], "deploy 0.8.0 or restore a backup");
    assert_eq!(db_hash(&world.database).await, before);
    // The new pod stays until an old one is ready.
    world.serves("0.8.0").await;

    world.helm(&["rollback", "lab", "2", "--wait"]).await.ok();
    world.serves("0.8.0").await;
    assert_eq!(db_hash(&world.database).await, before);
}

async fn a_check_on_request_refuses_a_rollback_below_the_floor(world: &World) {
    let check = |lab| merged(lab, json!({ "gate": { "hooks": { "onRollback": true } } }));
    world.upgrade_lab(&check(lab::old()), &["--wait"]).await.ok();
    world.upgrade_lab(&check(lab::new()), &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    let before = db_hash(&world.database).await;

    let refused = world.helm(&["rollback", "lab", "1"]).await.failed();
    refused.says("the floor is 0.8.0").says("deploy 0.8.0 or restore a backup");
    let pods = world.pods("app=lab").await;
    let labs: Vec<_> = pods.iter().map(lab_version).collect();
    assert_eq!(labs, ["0.8.0"]);
    world.serves("0.8.0").await;
    assert_eq!(db_hash(&world.database).await, before);

    // The price of it.
    assert_eq!(world.release("lab").await, "pending-rollback");
    let refused = world.upgrade_lab(&check(lab::new()), &[]).await.failed();
    refused.says("another operation (install/upgrade/rollback) is in progress");
    world.helm(&["rollback", "lab", "2", "--wait"]).await.ok();
    world.upgrade_lab(&check(lab::new()), &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    assert_eq!(db_hash(&world.database).await, before);
}

async fn without_a_gate_a_rollback_starts_pods_that_cannot_read_the_data(world: &World) {
    let ungated = merged(lab::old(), json!({ "gate": { "enabled": false } }));
    world.upgrade_lab(&ungated, &["--wait"]).await.ok();
    world.serves("0.7.0").await;
    apps::fill(&world.database, "things", (0..20).map(|n| doc! { "_id": n, "a": n })).await;
    let from = json!({ "gate": { "settings": { "fromVersion": "0.7.0" } } });
    world.upgrade_lab(&merged(lab::new(), from), &["--wait"]).await.ok();
    world.serves("0.8.0").await;

    world.helm(&["rollback", "lab", "1"]).await.ok();
    let starts = async || {
        let pods = world.pods("app=lab").await;
        let old = pods.iter().find(|pod| lab_version(pod) == "0.7.0")?;
        let name = old["metadata"]["name"].as_str()?;
        let log = world.try_kubectl(&["logs", name, "--container=lab"], None).await;
        log.text().contains("0.7.0 does not know this shape").then_some(())
    };
    world.until("an old pod that starts", starts).await;
}

/// The release of the lab that runs in a pod.
fn lab_version(pod: &Value) -> &str {
    let mut env = pod["spec"]["containers"][0]["env"].as_array().unwrap().iter();
    let version = env.find(|variable| variable["name"] == "LAB_VERSION").unwrap();
    version["value"].as_str().unwrap()
}

async fn a_pod_that_restarts_long_after_the_hook_opens_at_once(world: &World) {
    begin(world).await;
    world.upgrade_lab(&lab::new(), &["--wait"]).await.ok();
    let before = db_hash(&world.database).await;
    world.kubectl(&["delete", "job", "--all"]).await;

    world.kubectl(&["delete", "pod", "--selector=app=lab"]).await;
    world.serves("0.8.0").await;
    assert_eq!(report(&world.pods("app=lab").await[0])["exit_code"], 0);
    assert_eq!(db_hash(&world.database).await, before);

    // Without a record there is nothing that could open it.
    world.database.collection::<Document>(apps::METADATA).drop().await.unwrap();
    world.kubectl(&["delete", "pod", "--selector=app=lab"]).await;
    let waits = async || {
        let pods = world.pods("app=lab").await;
        let name = pods.first()?["metadata"]["name"].as_str()?;
        let log = world.try_kubectl(&["logs", name, "--container=gate"], None).await;
        log.text().contains("no recorded version").then_some(())
    };
    world.until("a pod that waits for a record", waits).await;
    assert_eq!(world.fetch("lab").await, None);
}

/// The lab at 0.7.0, serving, with documents.
async fn begin(world: &World) {
    world.install_lab().await;
    apps::fill(&world.database, "things", (0..20).map(|n| doc! { "_id": n, "a": n })).await;
}
