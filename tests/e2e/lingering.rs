//! Old pods that stop late, never, or are over already.

use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use super::apps;
use super::command::required;
use super::gate::merged;
use super::guide::Operator;
use super::quiesce::*;
use super::runner::{BOTH, FOUR, Scenario, THREE, scenario};
use super::world::World;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(THREE, pods_that_are_over_do_not_count_however_long_they_stay),
        scenario!(FOUR, an_ordered_stateful_set_that_is_stuck_is_freed_by_what_the_report_says),
        scenario!(BOTH, a_stateful_set_is_stopped_and_comes_back),
    ]
}

/// A pod that the workload's selector matches, and that no node takes.
pub fn beside(lab: &str) -> Value {
    let container = json!({
        "name": "beside", "image": required("E2E_LAB_IMAGE"),
        "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
    });
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "beside", "labels": { "app": lab } },
        "spec": {
            "nodeSelector": { "no": "node" }, "restartPolicy": "Never", "containers": [container],
            "securityContext": {
                "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" },
            },
        },
    })
}

async fn pods_that_are_over_do_not_count_however_long_they_stay(world: &World) {
    installed(world, &old(2)).await;
    fill(world, 3).await;
    world.apply(beside("lab")).await;
    let impatient = json!({ "gate": { "quiesce": { "timeout": "15s" } } });
    let values = merged(new(2), impatient);
    let failed = world.upgrade_lab(&values, &[]).await.failed();
    failed.says("old pods did not stop within 15s (deployment/lab: beside)");
    let report = hook_report(world).await;
    assert_eq!(report["exit_code"], 23, "{report}");
    assert_eq!(report["workloads"][0]["state"], "restored", "{report}");
    assert_eq!((replicas(world).await, remembered(world).await), (2, None));
    assert_eq!(old_shaped(world).await, 3);
    world.serves("0.7.0").await;

    // Evicted: it stays, and is over. So is a pod that a finalizer keeps.
    let evicted = r#"{"status":{"phase":"Failed","reason":"Evicted"}}"#;
    let patch = ["patch", "pod", "beside", "--subresource=status", "--patch", evicted];
    world.kubectl(&patch).await;
    let pods = world.pods("app=lab,pod-template-hash").await;
    let kept = pods[0]["metadata"]["name"].as_str().unwrap();
    let finalizers = |list: Value| json!({ "metadata": { "finalizers": list } }).to_string();
    let keep = finalizers(json!(["example.org/keep"]));
    world.kubectl(&["patch", "pod", kept, "--type=merge", "--patch", &keep]).await;
    let upgraded = world.upgrade_lab(&values, &["--wait"]).await;
    let there = world.find(&format!("pod/{kept}")).await;
    let free = finalizers(Value::Null);
    world.kubectl(&["patch", "pod", kept, "--type=merge", "--patch", &free]).await;
    upgraded.ok();
    assert!(there.is_some(), "the finalizer kept it");
    world.serves("0.8.0").await;
    assert_eq!((replicas(world).await, old_shaped(world).await), (2, 0));
}

const SET: &str = "statefulset/lab";

/// Values of the release as a StatefulSet.
fn set(values: Value) -> Value {
    let gate = json!({ "quiesce": { "workloads": [SET], "timeout": "5s" } });
    merged(values, json!({ "kind": "StatefulSet", "gate": gate }))
}

async fn set_to(world: &World) -> Value {
    world.object(SET).await["spec"]["replicas"].clone()
}

async fn an_ordered_stateful_set_that_is_stuck_is_freed_by_what_the_report_says(world: &World) {
    installed(world, &set(old(2))).await;
    fill(world, 3).await;
    let ready = async |count: u64| {
        let ready = async || {
            let status = world.object(SET).await["status"].clone();
            (status["readyReplicas"].as_u64().unwrap_or(0) == count).then_some(())
        };
        world.until(&format!("{count} that are ready"), ready).await;
    };
    ready(2).await;
    // A document that the pods do not know: none is ready any more, and the set waits for its first.
    apps::fill(&world.database, "things", [doc! { "_id": "foreign" }]).await;
    ready(0).await;
    world.upgrade_lab(&set(new(2)), &[]).await.failed();
    let report = hook_report(world).await;
    assert_eq!(report["exit_code"], 23, "{report}");
    assert_eq!(report["workloads"][0]["state"], "restored", "{report}");
    assert_eq!((set_to(world).await, remembered(world).await), (json!(2), None));
    assert_eq!(old_shaped(world).await, 3);
    assert_eq!(apps::record(&world.database).await.get_str("version").unwrap(), "0.7.0");

    let next = report["next"].as_str().unwrap();
    let (_, free) = next.split_once("free it by: ").unwrap();
    let (free, _) = free.split_once(';').unwrap();
    assert!(free.ends_with("delete pod lab-0 lab-1"), "{free}");
    Operator::new(world).run(free).await.ok();
    world.upgrade_lab(&set(new(2)), &[]).await.ok();
    assert_eq!(old_shaped(world).await, 0);
    let things = world.database.collection::<Document>("things");
    things.delete_one(doc! { "_id": "foreign" }).await.unwrap();
    world.serves("0.8.0").await;
    ready(2).await;
}

async fn a_stateful_set_is_stopped_and_comes_back(world: &World) {
    installed(world, &merged(set(old(2)), json!({ "writes": true }))).await;
    let before = world.pods("app=lab").await;
    world.upgrade_lab(&merged(set(new(3)), json!({ "writes": true })), &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    assert_eq!((set_to(world).await, old_shaped(world).await), (json!(3), 0));
    let report = hook_report(world).await;
    assert_eq!(report["workloads"][0]["name"], SET, "{report}");
    assert_eq!(report["workloads"][0]["state"], "stopped", "{report}");
    let uids = |pods: Vec<Value>| pods.into_iter().map(|pod| pod["metadata"]["uid"].clone());
    let after: Vec<_> = uids(world.pods("app=lab").await).collect();
    assert!(uids(before).all(|uid| !after.contains(&uid)));
}
