//! Servers that come up late, or never.

use serde_json::{Value, json};

use super::apps;
use super::gate::{merged, scenario};
use super::runner::{BOTH, Scenario, scenario};
use super::support::{Fresh, Server};
use super::world::{World, report};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(BOTH, the_hook_waits_for_a_server_that_comes_up_late),
        scenario!(BOTH, the_hook_is_repeated_until_the_server_is_up),
        scenario!(BOTH, a_server_that_stays_down_ends_the_release_with_20),
    ]
}

async fn the_hook_waits_for_a_server_that_comes_up_late(world: &World) {
    let (server, database) = down(world).await;
    let helm = world.start_gate(&gate(json!({})), &[]).await;
    let waits = async || {
        let pods = world.hook_pods().await;
        pods.first()?["status"]["containerStatuses"][0]["state"].get("running").map(|_| ())
    };
    world.until("the hook to wait", waits).await;
    server.restart(0).await;
    world.noted(helm).await.ok();
    assert_eq!(world.hook_pods().await.len(), 1);
    initialised(&database).await;
}

async fn the_hook_is_repeated_until_the_server_is_up(world: &World) {
    let (server, database) = down(world).await;
    let soon = json!({ "settings": { "connectTimeout": "1s" } });
    let helm = world.start_gate(&gate(soon), &[]).await;
    let gives_up = async || {
        let pods = world.hook_pods().await;
        pods.iter().any(|pod| report(pod)["exit_code"] == 20).then_some(())
    };
    world.until("the first pod to give up", gives_up).await;
    server.restart(0).await;
    world.noted(helm).await.ok();
    let codes = codes(world).await;
    assert_eq!((codes.first(), codes.last()), (Some(&json!(20)), Some(&json!(0))), "{codes:?}");
    initialised(&database).await;
}

async fn a_server_that_stays_down_ends_the_release_with_20(world: &World) {
    let (server, database) = down(world).await;
    let once = json!({ "settings": { "connectTimeout": "1s" }, "hooks": { "backoffLimit": 1 } });
    let refused = world.upgrade_gate(&gate(once.clone()), &[]).await.failed();
    refused
        .says("(exit 20")
        .says("no member of the replica set answers")
        .says("check hosts and ports");
    assert_eq!(codes(world).await, [20, 20]);
    for pod in world.hook_pods().await {
        // the setting's default is 30 s, and a run that heeded that one could not be faster
        let report = report(&pod);
        assert!(report["duration_ms"].as_u64().unwrap() < 30_000, "{report}");
    }
    let job = world.hook_job().await.unwrap();
    let job = world.object(&format!("job/{job}")).await;
    let reasons = job["status"]["conditions"].to_string();
    assert!(reasons.contains("BackoffLimitExceeded"), "{reasons}");

    server.restart(0).await;
    world.upgrade_gate(&gate(once), &[]).await.ok();
    initialised(&database).await;
}

/// A database whose server is not there.
async fn down(world: &World) -> (Server, Fresh) {
    let server = Server::replica_set().await;
    let database = server.database().await;
    world.secret("mongodb", "uri", &database.uri).await;
    server.kill(0);
    (server, database)
}

fn gate(over: Value) -> Value {
    let fresh = json!({ "settings": { "initialise": "fresh" } });
    merged(merged(scenario("0.8.0", "0.8.0=move_field"), fresh), over)
}

/// The exit codes of the newest Job's pods, oldest first.
async fn codes(world: &World) -> Vec<Value> {
    world.hook_pods().await.iter().map(|pod| report(pod)["exit_code"].clone()).collect()
}

async fn initialised(database: &Fresh) {
    assert_eq!(apps::history(&apps::record(database).await), ["initialise 0.8.0"]);
}
