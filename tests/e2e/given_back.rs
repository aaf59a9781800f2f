//! Pods that no release brings back: the gate does.

use serde_json::{Value, json};

use super::gate::merged;
use super::lingering::beside;
use super::manual::{by_hand, ended};
use super::quiesce::*;
use super::runner::{BOTH, FOUR, Scenario, scenario};
use super::world::{World, report};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(BOTH, an_autoscaler_has_its_pods_back_after_the_release),
        scenario!(BOTH, a_rollback_gives_back_what_a_dead_gate_stopped),
        scenario!(BOTH, resume_leaves_what_somebody_set_meanwhile),
        scenario!(BOTH, an_ordinary_job_that_upgraded_brings_the_pods_back),
        scenario!(FOUR, a_job_by_hand_that_upgraded_brings_the_pods_back),
    ]
}

/// Values of the release without its number of pods.
fn without_number(values: Value) -> Value {
    merged(values, json!({ "replicas": null }))
}

async fn scaled(world: &World, number: u64) {
    let there = async || (replicas(world).await == number).then_some(());
    world.until(&format!("{number} pods"), there).await;
}

async fn an_autoscaler_has_its_pods_back_after_the_release(world: &World) {
    installed(world, &without_number(old(1))).await;
    fill(world, 3).await;
    let autoscale = ["autoscale", "deployment/lab", "--min=3", "--max=5", "--cpu=80%"];
    world.kubectl(&autoscale).await;
    scaled(world, 3).await;
    // Without resume a release without a number leaves them at 0, and so does the autoscaler.
    world.upgrade_lab(&without_number(new(1)), &["--wait"]).await.ok();
    assert_eq!((replicas(world).await, old_shaped(world).await), (0, 0));

    let resume = json!({ "gate": { "quiesce": { "resume": true } } });
    let values = without_number(merged(new(1), resume));
    world.upgrade_lab(&values, &["--wait"]).await.ok();
    assert_eq!((replicas(world).await, remembered(world).await), (3, None));
    world.serves("0.8.0").await;
    let deployment = world.object("deployment/lab").await;
    assert_eq!(deployment["status"]["readyReplicas"], 3, "resume waits until they are ready");
}

async fn a_rollback_gives_back_what_a_dead_gate_stopped(world: &World) {
    let resume = json!({ "gate": { "quiesce": { "resume": true } } });
    installed(world, &without_number(old(1))).await;
    world.kubectl(&["scale", "deployment/lab", "--replicas=2"]).await;
    fill(world, 3).await;
    world.upgrade_lab(&without_number(merged(new(1), resume)), &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    assert_eq!((replicas(world).await, remembered(world).await), (2, None));

    // the next release's gate dies while it waits for pods that do not stop
    let dying = json!({ "gate": {
        "settings": { "lockLease": "3s" }, "hooks": { "backoffLimit": 0 },
        "extraEnv": [
            { "name": "SCENARIO_CODE", "value": "0.9.0" },
            { "name": "SCENARIO_UPGRADES", "value": "0.8.0=move_field;0.9.0=twice" },
        ],
    } });
    world.apply(beside("lab")).await;
    let dead = async {
        scaled(world, 0).await;
        world.signal(&world.hook_pods().await[0], "SIGKILL").await;
    };
    let next = merged(without_number(new(1)), dying);
    let (failed, ()) = tokio::join!(world.upgrade_lab(&next, &[]), dead);
    failed.failed();
    world.kubectl(&["delete", "pod", "beside"]).await;
    assert_eq!((replicas(world).await, remembered_replicas(world).await), (0, 2));

    // back to code that can read the data, whose chart knows no number
    world.helm(&["rollback", "lab", "2", "--wait"]).await.ok();
    let report = hook_report(world).await;
    assert_eq!(report["mode"], "resume", "{report}");
    assert_eq!(report["workloads"][0]["state"], "resumed", "{report}");
    assert_eq!((replicas(world).await, remembered(world).await), (2, None));
    world.serves("0.8.0").await;
    let deployment = world.object("deployment/lab").await;
    assert_eq!(deployment["status"]["readyReplicas"], 2, "resume waits until they are ready");
}

async fn resume_leaves_what_somebody_set_meanwhile(world: &World) {
    installed(world, &without_number(old(1))).await;
    fill(world, 3).await;
    world.kubectl(&["scale", "deployment/lab", "--replicas=3"]).await;
    world.upgrade_lab(&without_number(new(1)), &["--wait"]).await.ok();
    assert_eq!(replicas(world).await, 0);
    world.kubectl(&["scale", "deployment/lab", "--replicas=1"]).await;
    let resume = json!({ "gate": { "quiesce": { "resume": true } } });
    world.upgrade_lab(&without_number(merged(new(1), resume)), &["--wait"]).await.ok();
    assert_eq!((replicas(world).await, remembered(world).await), (1, None));
    world.serves("0.8.0").await;
}

async fn an_ordinary_job_that_upgraded_brings_the_pods_back(world: &World) {
    let engine = json!({ "gate": { "hooks": { "engine": "none" } } });
    installed(world, &merged(old(2), engine.clone())).await;
    fill(world, 3).await;
    world.upgrade_lab(&merged(new(2), engine), &[]).await.ok();
    let mut jobs = world.list("jobs", "app.kubernetes.io/component=upgrade-gate").await;
    jobs.sort_by_key(|job| job["metadata"]["creationTimestamp"].to_string());
    let job = jobs.last().unwrap()["metadata"]["name"].as_str().unwrap();
    let report = ended(world, job).await;
    assert_eq!(report["exit_code"], 0, "{report}");
    assert_eq!(report["workloads"][0]["state"], "resumed", "{report}");
    world.serves("0.8.0").await;
    assert_eq!((replicas(world).await, remembered(world).await), (2, None));
    assert_eq!(old_shaped(world).await, 0);
}

async fn a_job_by_hand_that_upgraded_brings_the_pods_back(world: &World) {
    let patience = json!({ "gate": { "quiesce": { "timeout": "5s" } } });
    let quiet = merged(quiesce(&["deployment/lab"]), patience);
    installed(world, &merged(old(2), quiet)).await;
    fill(world, 3).await;
    let variables = ["SCENARIO_CODE=0.8.0", "SCENARIO_UPGRADES=0.8.0=move_field"];
    by_hand(world, "lab-gate", "now", &[variables[0], variables[1], "GATE_MODE=upgrade"]).await;
    let ended = ended(world, "now").await;
    assert_eq!(ended["exit_code"], 0, "{ended}");
    assert_eq!(ended["workloads"][0]["state"], "resumed", "{ended}");
    // They are those of the former release, which the gate in their init container keeps out.
    assert!(ended["warnings"].to_string().contains("not all pods were ready within 5s"), "{ended}");
    assert_eq!((replicas(world).await, remembered(world).await), (2, None));
    assert_eq!(report(&world.refused_pod("app=lab").await)["exit_code"], 12);
    world.upgrade_lab(&new(2), &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    assert_eq!((replicas(world).await, old_shaped(world).await), (2, 0));
}
