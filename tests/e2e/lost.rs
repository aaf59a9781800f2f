//! Gates that stopped pods and then lost what they need: time, their life, their rights, the API server.

use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use super::apps;
use super::command::required;
use super::gate::merged;
use super::guide::Operator;
use super::manual::{by_hand, ended};
use super::middle;
use super::quiesce::*;
use super::runner::{BOTH, FOUR, Scenario, THREE, scenario};
use super::world::{World, report};

pub fn scenarios() -> Vec<Scenario> {
    let stopped = scenario!(FOUR, a_run_ends_with_the_truth_while_the_api_server_stands_still);
    vec![
        scenario!(FOUR, a_gate_that_was_frozen_scales_nothing_when_it_wakes),
        scenario!(FOUR, a_gate_that_was_frozen_in_the_middle_scales_nothing_when_it_wakes),
        scenario!(BOTH, what_a_dead_gate_stopped_is_restored_by_the_next_that_fails),
        scenario!(FOUR, a_gate_whose_rights_are_gone_says_what_it_could_not_restore),
        scenario!(THREE, a_gate_whose_rights_go_in_the_middle_says_how_far_it_came),
        Scenario { alone: true, ..stopped },
    ]
}

/// Old pods take so many seconds to stop: time for what happens meanwhile.
fn slow(replicas: u32, seconds: u32) -> Value {
    let slow = json!({ "stopAfter": seconds });
    merged(merged(old(replicas), quiesce(&["deployment/lab"])), slow)
}

async fn scaled_down(world: &World) {
    world.until("0 pods", async || (replicas(world).await == 0).then_some(())).await;
}

async fn a_gate_that_was_frozen_scales_nothing_when_it_wakes(world: &World) {
    let lease = json!({ "gate": { "settings": { "lockLease": "3s" } } });
    installed(world, &merged(slow(2, 6), lease.clone())).await;
    fill(world, 3).await;
    let helm = world.start_lab(&merged(new(3), lease), &["--wait"]).await;
    scaled_down(world).await;
    let frozen = world.hook_pods().await.remove(0);
    world.signal(&frozen, "SIGSTOP").await;

    // Another takes over, finishes, and leaves the pods to its release.
    second(world, "move_field").await;
    assert_eq!(ended(world, "second").await["exit_code"], 0);
    assert_eq!(old_shaped(world).await, 0);
    wakes(world, &frozen).await;

    world.noted(helm).await.ok();
    world.serves("0.8.0").await;
    assert_eq!((replicas(world).await, old_shaped(world).await), (3, 0));
    let record = apps::record(&world.database).await;
    assert_eq!(apps::history(&record), ["auto_stamp 0.7.0", "upgrade 0.8.0"]);
}

/// Another run of this upgrade, which leaves the pods to its release.
async fn second(world: &World, upgrade: &str) {
    let upgrade = format!("SCENARIO_UPGRADES=0.8.0={upgrade}");
    let variables = ["SCENARIO_CODE=0.8.0", &upgrade, "GATE_MODE=upgrade", "GATE_RESUME=false"];
    by_hand(world, "lab-gate", "second", &variables).await;
}

/// A gate that was frozen goes on, and ends without a change of the lab, which is at 0.
async fn wakes(world: &World, frozen: &Value) {
    let generation =
        async || world.object("deployment/lab").await["metadata"]["generation"].clone();
    let before = generation().await;
    assert_eq!(replicas(world).await, 0);
    world.signal(frozen, "SIGCONT").await;
    let pod = format!("pod/{}", frozen["metadata"]["name"].as_str().unwrap());
    let ended = async || Some(report(&world.object(&pod).await)).filter(|report| !report.is_null());
    let woken = world.until("the end of the one that was frozen", ended).await;
    // it finds either the other's lock in place of its own, or its work done
    assert!(woken["exit_code"] == 21 || woken["exit_code"] == 0, "{woken}");
    assert_eq!((generation().await, replicas(world).await), (before, 0));
}

async fn a_gate_that_was_frozen_in_the_middle_scales_nothing_when_it_wakes(world: &World) {
    let lease = json!({ "gate": { "settings": { "lockLease": "3s" } } });
    let quiet = merged(quiesce(&["deployment/lab"]), lease);
    world.upgrade_lab(&merged(super::lab::old(), quiet.clone()), &["--wait"]).await.ok();
    world.serves("0.7.0").await;
    let middle = middle::hold(world).await;
    let helm = world.start_lab(&merged(middle::upgrade(), quiet), &["--wait"]).await;
    let run = middle.reached(world).await;
    let frozen = world.hook_pods().await.remove(0);
    world.signal(&frozen, "SIGSTOP").await;
    second(world, "increment").await;
    middle::taken_over(world, &run).await;
    middle.pass().await;
    assert_eq!(ended(world, "second").await["exit_code"], 0);
    wakes(world, &frozen).await;
    world.noted(helm).await.ok();
    world.serves("0.8.0").await;
    assert_eq!(replicas(world).await, 1);
    middle::finished(world).await;
}

async fn what_a_dead_gate_stopped_is_restored_by_the_next_that_fails(world: &World) {
    installed(world, &slow(2, 3)).await;
    fill(world, 3).await;
    let lease = json!({ "lockLease": "3s" });
    let idle = json!({ "gate": { "settings": lease, "hooks": { "backoffLimit": 0 }, "extraEnv": [
        { "name": "SCENARIO_CODE", "value": "0.8.0" },
        { "name": "SCENARIO_UPGRADES", "value": "0.8.0=idle" },
    ] } });
    let values = merged(new(3), idle);
    let dead = async {
        scaled_down(world).await;
        world.kubectl(&["delete", "serviceaccount", "lab-gate-helm"]).await;
        world.signal(&world.hook_pods().await[0], "SIGKILL").await;
    };
    let (failed, ()) = tokio::join!(world.upgrade_lab(&values, &[]), dead);
    failed.failed();
    assert_eq!(replicas(world).await, 0);

    apps::fill(&world.database, "tasks", [doc! { "_id": 1, "running": true }]).await;
    world.upgrade_lab(&values, &[]).await.failed().says("no task is running");
    let report = hook_report(world).await;
    assert_eq!(report["exit_code"], 13, "{report}");
    assert_eq!(report["workloads"][0]["state"], "restored", "{report}");
    assert_eq!((replicas(world).await, remembered(world).await), (2, None));
    world.serves("0.7.0").await;
    assert_eq!(old_shaped(world).await, 3);

    // The chart's number is raised; what fails later knows the new one.
    world.upgrade_lab(&slow(4, 0), &["--wait"]).await.ok();
    world.database.collection::<Document>("tasks").drop().await.unwrap();
    let unique = doc! { "createIndexes": "things", "indexes": [
        { "key": { "same": 1 }, "name": "same", "unique": true,
          "partialFilterExpression": { "b": { "$exists": true } } },
    ] };
    world.database.run_command(unique).await.unwrap();
    world.upgrade_lab(&values, &[]).await.failed();
    let report = hook_report(world).await;
    assert_eq!(report["exit_code"], 14, "{report}");
    assert_eq!(report["workloads"][0]["replicas"], 4, "{report}");
    assert_eq!((replicas(world).await, remembered(world).await), (4, None));
    world.serves("0.7.0").await;
}

async fn a_gate_whose_rights_are_gone_says_what_it_could_not_restore(world: &World) {
    installed(world, &slow(2, 4)).await;
    fill(world, 3).await;
    let rights = async {
        scaled_down(world).await;
        world.kubectl(&["delete", "rolebinding", "lab-gate-helm"]).await;
    };
    let values = new(3);
    let (failed, ()) = tokio::join!(world.upgrade_lab(&values, &[]), rights);
    failed.failed().says("deployment/lab (2) could not be restored");
    let report = hook_report(world).await;
    assert_eq!(report["exit_code"], 17, "{report}");
    assert_eq!(report["workloads"][0]["state"], "not_restored", "{report}");
    let record = apps::record(&world.database).await;
    assert_eq!(record.get_str("version").unwrap(), "0.7.0");
    assert!(!record.contains_key("journal") && report["unfinished"].is_null(), "{report}");
    assert_eq!(old_shaped(world).await, 3);
    assert_eq!(replicas(world).await, 0);

    // The command that the report gives.
    let next = report["next"].as_str().unwrap();
    let (_, by_hand) = next.split_once("to start it by hand: ").unwrap();
    Operator::new(world).run(by_hand).await.ok();
    world.serves("0.7.0").await;
    assert_eq!(replicas(world).await, 2);

    world.upgrade_lab(&new(3), &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    assert_eq!((replicas(world).await, old_shaped(world).await), (3, 0));
}

async fn a_gate_whose_rights_go_in_the_middle_says_how_far_it_came(world: &World) {
    let middle = middle::prepare(world).await;
    let values = merged(middle::upgrade(), quiesce(&["deployment/lab"]));
    let helm = world.start_lab(&values, &[]).await;
    middle.reached(world).await;
    world.kubectl(&["delete", "rolebinding", "lab-gate-helm"]).await;
    middle.pass().await;
    world.noted(helm).await.failed().says("must stay at 0 until a run has finished the upgrade");
    let report = hook_report(world).await;
    assert_eq!(report["exit_code"], 17, "{report}");
    assert!(report["unfinished"]["documents"].as_u64().unwrap() > 0, "{report}");
    assert!(apps::record(&world.database).await.contains_key("journal"));
    assert_eq!(replicas(world).await, 0);

    world.upgrade_lab(&values, &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    assert_eq!(replicas(world).await, 1);
    middle::finished(world).await;
}

/// The API server, which answers nobody while this lives.
struct Still;

impl Still {
    fn new() -> Still {
        signal("STOP");
        Still
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        signal("CONT");
    }
}

fn signal(signal: &str) {
    let line = format!("{} {signal}", required("E2E_API_SERVER"));
    let sent = std::process::Command::new("sh").args(["-c", &line]).status().unwrap();
    assert!(sent.success(), "{line}");
}

async fn a_run_ends_with_the_truth_while_the_api_server_stands_still(world: &World) {
    let slow = json!({ "stopAfter": 4 });
    world.upgrade_lab(&merged(super::lab::old(), slow), &["--wait"]).await.ok();
    world.serves("0.7.0").await;
    let middle = middle::hold(world).await;
    let quick =
        json!({ "gate": { "quiesce": { "timeout": "6s" }, "hooks": { "backoffLimit": 0 } } });
    let values = merged(merged(middle::upgrade(), quiesce(&["deployment/lab"])), quick);

    // Before the first write: nobody stops nor starts anything, and the report says so.
    let helm = world.start_lab(&values, &[]).await;
    scaled_down(world).await;
    let still = Still::new();
    world.until("the run's end", async || world.unlocked().await).await;
    drop(still);
    world.noted(helm).await.failed();
    let report = hook_report(world).await;
    assert_eq!(report["exit_code"], 20, "{report}");
    let message = report["message"].as_str().unwrap();
    assert!(message.contains("the API server of Kubernetes could not be asked"), "{report}");
    assert!(message.contains("deployment/lab (1) could not be restored"), "{report}");
    assert!(!apps::record(&world.database).await.contains_key("journal"), "{report}");

    // In the middle: the version does not move while nobody knows what runs.
    let helm = world.start_lab(&values, &[]).await;
    middle.reached(world).await;
    let still = Still::new();
    middle.pass().await;
    world.until("the run's end", async || world.unlocked().await).await;
    drop(still);
    world.noted(helm).await.failed();
    let report = hook_report(world).await;
    assert_eq!(report["exit_code"], 20, "{report}");
    assert!(report["unfinished"]["documents"].as_u64().unwrap() > 0, "{report}");
    let next = report["next"].as_str().unwrap();
    assert!(next.contains("deployment/lab must stay at 0"), "{report}");
    let record = apps::record(&world.database).await;
    assert_eq!(record.get_str("version").unwrap(), "0.7.0");

    world.upgrade_lab(&values, &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    assert_eq!(replicas(world).await, 1);
    middle::finished(world).await;
}
