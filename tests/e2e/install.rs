//! The first installation, with and without the operator's word.

use serde_json::json;

use super::apps;
use super::gate::{merged, scenario};
use super::runner::{BOTH, Scenario, scenario};
use super::world::{World, report};

pub fn scenarios() -> Vec<Scenario> {
    vec![scenario!(BOTH, a_fresh_installation_needs_the_operators_word)]
}

async fn a_fresh_installation_needs_the_operators_word(world: &World) {
    let gate = scenario("0.8.0", "0.8.0=move_field");
    let refused = world.upgrade_gate(&gate, &[]).await.failed();
    refused.says("GATE_INITIALISE=fresh").says("GATE_FROM_VERSION");
    let pods = world.hook_pods().await;
    assert_eq!(pods.len(), 1, "{pods:?}");
    let report = report(&pods[0]);
    assert_eq!(report["exit_code"], 11, "{report}");
    assert!(apps::record(&world.database).await.is_empty());

    let fresh = merged(gate, json!({ "settings": { "initialise": "fresh" } }));
    world.upgrade_gate(&fresh, &[]).await.ok();
    let record = apps::record(&world.database).await;
    assert_eq!(apps::history(&record), ["initialise 0.8.0"]);

    // The word stays in the values, and changes nothing.
    world.upgrade_gate(&fresh, &[]).await.ok();
    assert_eq!(apps::record(&world.database).await, record);
}
