//! The first installation, with and without the operator's word.

use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use super::apps;
use super::gate::{merged, scenario};
use super::lab;
use super::runner::{BOTH, Scenario, scenario};
use super::world::{World, report};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(BOTH, a_fresh_installation_needs_the_operators_word),
        scenario!(BOTH, a_word_that_stays_in_the_values_does_no_harm),
        scenario!(BOTH, an_existing_database_begins_with_the_version_that_it_last_ran),
    ]
}

async fn a_fresh_installation_needs_the_operators_word(world: &World) {
    let gate = scenario("0.8.0", "0.8.0=move_field");
    let refused = world.upgrade_gate(&gate, &[]).await.failed();
    refused.says("settings.initialise=fresh").says("settings.fromVersion (GATE_FROM_VERSION)");
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

async fn a_word_that_stays_in_the_values_does_no_harm(world: &World) {
    let (old, new) = ("0.6.0=increment", "0.6.0=increment;0.8.0=move_field");
    let fresh = json!({ "gate": { "settings": { "initialise": "fresh" } } });
    let first = merged(lab::lab("0.7.0", "a", "0.7.0", old), fresh);
    world.upgrade_lab(&first, &["--wait"]).await.ok();
    world.serves("0.7.0").await;
    apps::fill(&world.database, "things", (0..20).map(|n| doc! { "_id": n, "a": n })).await;

    // Nothing of the next release's values says the word, and it is there still.
    let next = lab::lab("0.8.0", "b", "0.8.0", new);
    world.upgrade_lab(&next, &["--wait", "--reuse-values"]).await.ok();
    world.serves("0.8.0").await;
    assert_eq!(word(world, "initialise").await, "fresh");
    assert_eq!(apps::count(&world.database, "things", doc! { "b": { "$exists": true } }).await, 20);
    let record = apps::record(&world.database).await;
    assert_eq!(apps::history(&record), ["initialise 0.7.0", "upgrade 0.8.0"]);
    words_reach_the_hook_alone(world, "GATE_INITIALISE").await;

    // It is no word on a database that has documents and has lost its record.
    world.database.collection::<Document>(apps::METADATA).drop().await.unwrap();
    let refused = world.upgrade_lab(&next, &["--reuse-values"]).await.failed();
    refused.says("(exit 11").says("things");
    assert!(apps::record(&world.database).await.is_empty());
}

async fn an_existing_database_begins_with_the_version_that_it_last_ran(world: &World) {
    apps::fill(&world.database, "things", (0..20).map(|n| doc! { "_id": n, "a": n })).await;
    let first = lab::new();
    let fresh = json!({ "gate": { "settings": { "initialise": "fresh" } } });
    let refused = world.upgrade_lab(&merged(first.clone(), fresh), &[]).await.failed();
    refused.says("(exit 11").says("things").says("GATE_FROM_VERSION");
    assert!(apps::record(&world.database).await.is_empty());

    let from = json!({ "gate": { "settings": { "fromVersion": "0.7.0" } } });
    world.upgrade_lab(&merged(first, from), &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    let began = ["initialise 0.7.0", "upgrade 0.8.0"];
    assert_eq!(apps::history(&apps::record(&world.database).await), began);

    let next = lab::lab("0.9.0", "b", "0.9.0", "0.8.0=move_field;0.9.0=twice");
    world.upgrade_lab(&next, &["--wait", "--reuse-values"]).await.ok();
    world.serves("0.9.0").await;
    assert_eq!(word(world, "fromVersion").await, "0.7.0");
    let doubled = doc! { "$expr": { "$eq": ["$twice", { "$multiply": [2, "$b"] }] } };
    assert_eq!(apps::count(&world.database, "things", doubled).await, 20);
    let record = apps::record(&world.database).await;
    assert_eq!(apps::history(&record), [&began[..], &["upgrade 0.9.0"]].concat());
    words_reach_the_hook_alone(world, "GATE_FROM_VERSION").await;

    world.upgrade_lab(&next, &["--wait", "--reuse-values"]).await.ok();
    assert_eq!(apps::record(&world.database).await, record);
}

/// A setting of the gate among the values of the lab's release.
async fn word(world: &World, setting: &str) -> String {
    let values = world.helm(&["get", "values", "lab", "--output", "json"]).await.ok().stdout;
    let values: Value = serde_json::from_str(&values).unwrap();
    values["gate"]["settings"][setting].as_str().unwrap().to_owned()
}

async fn words_reach_the_hook_alone(world: &World, setting: &str) {
    let has = |container: &Value| {
        let mut env = container["env"].as_array().unwrap().iter();
        env.any(|variable| variable["name"] == setting)
    };
    assert!(has(&world.hook_pods().await[0]["spec"]["containers"][0]));
    let pods = world.pods("app=lab").await;
    let gates: Vec<_> = pods.iter().map(|pod| has(&pod["spec"]["initContainers"][0])).collect();
    assert_eq!(gates, [false]);
}
