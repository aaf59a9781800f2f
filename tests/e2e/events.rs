//! What the Events of a run tell, and what they cost where nobody takes them.

use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use super::apps;
use super::gate::{merged, scenario};
use super::lab;
use super::manual::{by_hand, ended};
use super::quiesce;
use super::runner::{BOTH, FOUR, Scenario, THREE, scenario};
use super::world::{World, report};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(FOUR, describe_job_tells_the_story_of_the_hook),
        scenario!(BOTH, a_workload_that_a_first_install_has_not_got_yet_is_told),
        scenario!(FOUR, an_init_container_tells_its_pod),
        scenario!(THREE, events_that_nobody_may_write_cost_one_warning),
    ]
}

fn behind() -> Value {
    let settings = json!({ "settings": { "fromVersion": "0.7.0" }, "events": { "enabled": true } });
    merged(scenario("0.8.0", "0.8.0=move_field"), settings)
}

/// The reason, type and note of each Event of the newest hook's Job, oldest first.
pub async fn told(world: &World) -> Vec<(String, String, String)> {
    let job = world.hook_pods().await[0]["metadata"]["ownerReferences"][0]["uid"].clone();
    told_of(world, &job).await
}

/// The same of an object that has this UID.
async fn told_of(world: &World, uid: &Value) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let event = |e: &Value| (text(&e["reason"]), text(&e["type"]), text(&e["note"]));
    events_of(world, uid).await.iter().map(event).collect()
}

/// The Events themselves.
async fn events_of(world: &World, uid: &Value) -> Vec<Value> {
    let mut events = world.list("events.events.k8s.io", "").await;
    events.retain(|event| {
        event["regarding"]["uid"] == *uid && event["reportingController"] == "upgrade-gate"
    });
    events.sort_by_key(|event| event["eventTime"].to_string());
    events
}

async fn describe_job_tells_the_story_of_the_hook(world: &World) {
    // two documents become equal in a unique field
    apps::fill(&world.database, "things", [doc! { "_id": 1, "a": 1 }, doc! { "_id": 2, "a": 1 }])
        .await;
    let partial = doc! { "b": { "$exists": true } };
    let unique = doc! { "createIndexes": "things", "indexes": [
        { "key": { "b": 1 }, "name": "b", "unique": true, "partialFilterExpression": partial },
    ] };
    world.database.run_command(unique).await.unwrap();
    world.upgrade_gate(&behind(), &[]).await.failed();
    let events = told(world).await;
    let kinds = events.iter().map(|(reason, kind, _)| format!("{kind} {reason}"));
    let failed = ["Normal UpgradeStarted", "Warning UpgradeFailed", "Warning GateClosed"];
    assert_eq!(kinds.collect::<Vec<_>>(), failed, "{events:?}");
    assert!(
        events[1].2.starts_with("upgrade 0.8.0: step \"transform things\": document 2 of things: "),
        "{events:?}"
    );
    assert!(events[2].2.contains(&events[1].2) && events[2].2.contains("exit 14"), "{events:?}");

    let things = world.database.collection::<Document>("things");
    things.update_one(doc! { "_id": 2 }, doc! { "$set": { "a": 2 } }).await.unwrap();
    world.upgrade_gate(&behind(), &[]).await.ok();
    let events = told(world).await;
    let reasons: Vec<&str> = events.iter().map(|(reason, ..)| reason.as_str()).collect();
    assert_eq!(reasons, ["UpgradeStarted", "UpgradeApplied", "GateOpen"], "{events:?}");
    let (time, done) = events[1].2.split_once(": ").unwrap();
    assert_eq!(done, "Move 2 field(s) a to b", "{events:?}");
    let seconds = time.strip_prefix("0.8.0 in ").and_then(|time| time.strip_suffix(" s"));
    seconds.and_then(|seconds| seconds.parse::<f64>().ok()).unwrap_or_else(|| panic!("{time}"));
    assert!(events.iter().all(|(_, kind, _)| kind == "Normal"), "{events:?}");
    let pods = world.hook_pods().await;
    let job = pods[0]["metadata"]["labels"]["batch.kubernetes.io/job-name"].as_str().unwrap();
    let described = world.kubectl(&["describe", "job", job]).await;
    for part in ["UpgradeStarted", "UpgradeApplied", time, done, "GateOpen", "exit 0"] {
        assert!(described.contains(part), "{part} is missing in {described}");
    }
    for (_, _, note) in &events {
        assert!(!note.contains("mongodb://"), "{note}");
    }

    // the twin: code of a version that the database is ahead of
    let older = json!({ "extraEnv": [
        { "name": "SCENARIO_CODE", "value": "0.7.0" },
        { "name": "SCENARIO_UPGRADES", "value": "" },
    ] });
    world.upgrade_gate(&merged(behind(), older), &[]).await.failed();
    let events = told(world).await;
    assert_eq!(events.len(), 1, "{events:?}");
    let (reason, kind, note) = &events[0];
    assert_eq!((reason.as_str(), kind.as_str()), ("GateClosed", "Warning"));
    assert!(note.contains("exit 12") && note.contains("deploy 0.8.0"), "{note}");
}

async fn a_workload_that_a_first_install_has_not_got_yet_is_told(world: &World) {
    apps::fill(&world.database, "things", [doc! { "_id": 1, "a": 1 }]).await;
    let known = json!({ "gate": { "settings": { "fromVersion": "0.7.0" } } });
    world.upgrade_lab(&merged(quiesce::new(2), known), &["--wait"]).await.ok();
    let events = told(world).await;
    let reasons: Vec<&str> = events.iter().map(|(reason, ..)| reason.as_str()).collect();
    assert_eq!(reasons, ["UpgradeStarted", "Quiesced", "UpgradeApplied", "GateOpen"], "{events:?}");
    let missing = "deployment/lab does not exist (yet): there is nothing to stop";
    assert_eq!((events[1].1.as_str(), events[1].2.as_str()), ("Warning", missing));
    world.serves("0.8.0").await;
    assert_eq!(quiesce::replicas(world).await, 2);
}

async fn an_init_container_tells_its_pod(world: &World) {
    world.kubectl(&["create", "serviceaccount", "app"]).await;
    let events = json!({ "enabled": true, "initContainerAccount": "app" });
    let telling = json!({ "account": "app", "gate": { "events": events } });
    world.upgrade_lab(&merged(lab::old(), telling), &["--wait"]).await.ok();
    let pods = world.pods("app=lab").await;
    let events = told_of(world, &pods[0]["metadata"]["uid"]).await;
    let reasons: Vec<&str> = events.iter().map(|(reason, ..)| reason.as_str()).collect();
    assert_eq!(reasons, ["GateOpen"], "{events:?}");
    let name = pods[0]["metadata"]["name"].as_str().unwrap();
    let described = world.kubectl(&["describe", "pod", name]).await;
    assert!(described.contains("GateOpen"), "{described}");

    // The twin: an old pod beside a database that is ahead of it. It is told once, however often it starts.
    let variables = ["SCENARIO_CODE=0.8.0", "SCENARIO_UPGRADES=0.8.0=move_field"];
    by_hand(world, "lab-gate", "ahead", &[variables[0], variables[1], "GATE_MODE=upgrade"]).await;
    assert_eq!(ended(world, "ahead").await["exit_code"], 0);
    world.kubectl(&["delete", "pod", name]).await;
    let refused = world.refused_pod("app=lab").await;
    let uid = &refused["metadata"]["uid"];
    let again = async || {
        let events = events_of(world, uid).await;
        events.iter().any(|event| event["series"]["count"].as_u64() >= Some(2)).then_some(())
    };
    world.until("another start", again).await;
    let events = told_of(world, uid).await;
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!((events[0].0.as_str(), events[0].1.as_str()), ("GateClosed", "Warning"));
}

async fn events_that_nobody_may_write_cost_one_warning(world: &World) {
    let forbidden = merged(behind(), json!({ "rbac": { "create": false } }));
    apps::fill(&world.database, "things", [doc! { "_id": 1, "a": 1 }]).await;
    world.upgrade_gate(&forbidden, &[]).await.ok();
    let pods = world.hook_pods().await;
    assert_eq!(report(&pods[0])["exit_code"], 0, "{pods:?}");
    let log = world.kubectl(&["logs", pods[0]["metadata"]["name"].as_str().unwrap()]).await;
    let lines: Vec<Value> =
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let loud =
        |line: &&Value| matches!(line["level"].as_str(), Some("warn" | "WARN" | "error" | "ERROR"));
    let warnings: Vec<&Value> = lines.iter().filter(loud).collect();
    let said = |words: &str| {
        let says = |line: &&&Value| line.to_string().contains(words);
        warnings.iter().filter(says).count()
    };
    assert_eq!((said("by Events"), said("documents of the old shape")), (1, 1), "{log}");
    assert_eq!(warnings.len(), 2, "{log}");
    assert!(log.contains("create events") && told(world).await.is_empty(), "{log}");
}
