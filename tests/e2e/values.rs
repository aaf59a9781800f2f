//! What operators get wrong, what stands beside what, and what stays.

use mongodb::bson::{DateTime, Document, doc};
use serde_json::{Value, json};

use super::apps;
use super::gate::{merged, scenario};
use super::lab;
use super::runner::{BOTH, FOUR, Scenario, scenario};
use super::support::Server;
use super::world::{World, report};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(BOTH, values_that_are_wrong_are_refused_before_anything_is_made),
        scenario!(BOTH, helm_names_the_secret_and_the_key_that_are_missing),
        scenario!(BOTH, helm_test_says_whether_the_gate_is_open),
        scenario!(BOTH, an_uninstall_leaves_what_the_notes_remove),
        scenario!(BOTH, two_releases_in_one_namespace_do_not_meet),
        scenario!(BOTH, a_dependency_can_be_switched_off_and_lets_global_values_pass),
        scenario!(FOUR, a_restricted_namespace_takes_its_pods_and_no_laxer_ones),
    ]
}

/// Kinds of objects that the chart makes.
const KINDS: &str = "jobs,cronjobs,pods,secrets,serviceaccounts,roles,rolebindings,networkpolicies";
const OURS: &str = "app.kubernetes.io/component=upgrade-gate";

/// What there is of the gate: `Kind/name`, in order.
async fn ours(world: &World, labels: &str) -> Vec<String> {
    let name = |object: &Value| {
        let name = object["metadata"]["name"].as_str().unwrap();
        format!("{}/{name}", object["kind"].as_str().unwrap())
    };
    let mut names: Vec<_> = world.list(KINDS, labels).await.iter().map(name).collect();
    names.sort();
    names
}

async fn values_that_are_wrong_are_refused_before_anything_is_made(world: &World) {
    let gate = scenario("0.8.0", "");
    let variable = |name: &str| json!({ "name": name, "value": "x" });
    for (wrong, complaint) in [
        (json!({ "setings": {} }), "setings"),
        (json!({ "settings": { "fromVersoin": "0.7.0" } }), "fromVersoin"),
        (
            json!({ "extraEnv": [variable("GATE_FROM_VERSION")] }),
            "extraEnv: GATE_FROM_VERSION is set by the value settings.fromVersion",
        ),
        (json!({ "extraEnv": [variable("TZ"), variable("TZ")] }), "extraEnv: TZ is there twice"),
    ] {
        world.upgrade_gate(&merged(gate.clone(), wrong), &[]).await.failed().says(complaint);
    }
    assert_eq!(ours(world, OURS).await, [""; 0]);
    assert!(apps::record(&world.database).await.is_empty());

    let env = json!([&gate["extraEnv"][0], &gate["extraEnv"][1], variable("TZ")]);
    world.upgrade_gate(&merged(gate, json!({ "extraEnv": env })), &[]).await.ok();
    assert_eq!(apps::history(&apps::record(&world.database).await), ["auto_stamp 0.8.0"]);
}

async fn helm_names_the_secret_and_the_key_that_are_missing(world: &World) {
    let gate = scenario("0.8.0", "");
    let from = |name: &str, key: &str| {
        let secret = json!({ "existingSecret": { "name": name, "key": key } });
        merged(gate.clone(), json!({ "mongodb": secret }))
    };
    let once = json!({ "hooks": { "backoffLimit": 0 } });
    for (name, key) in [("absent", "uri"), ("mongodb", "url")] {
        let values = merged(from(name, key), once.clone());
        let refused = world.upgrade_gate(&values, &[]).await.failed();
        refused.says(&format!("key {key} of Secret {name}"));
        let pods = world.hook_pods().await;
        assert_eq!(pods.len(), 1, "{pods:?}");
        assert_eq!(report(&pods[0])["exit_code"], 20, "{pods:?}");
    }
    assert!(apps::record(&world.database).await.is_empty());

    // a controller fills it in while the Job tries again
    let late = world.start_gate(&from("late", "uri"), &[]).await;
    world
        .until("a pod that found no Secret", async || {
            let pods = world.hook_pods().await;
            pods.iter().any(|pod| failed_with(pod) == Some(20)).then_some(())
        })
        .await;
    world.secret("late", "uri", &world.database.uri).await;
    world.noted(late).await.ok();
    assert_eq!(apps::history(&apps::record(&world.database).await), ["auto_stamp 0.8.0"]);
}

/// The exit code of a pod's container, once it has ended.
fn failed_with(pod: &Value) -> Option<i64> {
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"].as_i64()
}

async fn helm_test_says_whether_the_gate_is_open(world: &World) {
    world.upgrade_gate(&scenario("0.8.0", ""), &[]).await.ok();
    world.helm(&["test", "gate"]).await.ok();

    // As newer code would have left it.
    let entry = doc! { "version": "0.9.0", "action": "upgrade", "timestamp": DateTime::now() };
    let newer = doc! { "$set": { "version": "0.9.0" }, "$push": { "history": entry } };
    let records = world.database.collection::<Document>(apps::METADATA);
    records.update_one(doc! { "_id": "scenario_schema_version" }, newer).await.unwrap();
    world.helm(&["test", "gate"]).await.failed();
    let pod = world.object("pod/gate-upgrade-gate-helm-test").await;
    assert_eq!(report(&pod)["exit_code"], 12, "{pod}");
}

async fn an_uninstall_leaves_what_the_notes_remove(world: &World) {
    let values = json!({
        "networkPolicy": { "enabled": true },
        "mongodb": { "existingSecret": { "name": "" }, "uri": world.database.uri },
    });
    world.upgrade_gate(&merged(scenario("0.8.0", ""), values), &[]).await.ok();
    world.helm(&["test", "gate"]).await.ok();
    assert!(ours(world, OURS).await.contains(&"NetworkPolicy/gate-upgrade-gate".to_owned()));
    let notes = world.helm(&["get", "notes", "gate"]).await.ok().stdout;

    world.helm(&["uninstall", "gate", "--wait"]).await.ok();
    let mut left = ours(world, OURS).await;
    let jobs_pod = |name: &String| name.starts_with("Pod/") && !name.ends_with("-test");
    assert_eq!(left.extract_if(.., |name| jobs_pod(name)).count(), 1);
    let expected = [
        "Job/gate-upgrade-gate-helm",
        "NetworkPolicy/gate-upgrade-gate-helm",
        "Pod/gate-upgrade-gate-helm-test",
        "Role/gate-upgrade-gate-helm",
        "RoleBinding/gate-upgrade-gate-helm",
        "ServiceAccount/gate-upgrade-gate-helm",
    ];
    assert_eq!(left, expected);

    let (_, removal) = notes.split_once("kubectl delete ").expect("a command in the notes");
    let words = removal.split_whitespace().filter(|word| *word != "\\");
    world.kubectl(&["delete"].into_iter().chain(words).collect::<Vec<_>>()).await;
    // A Job's pods go a moment after it.
    world
        .until("everything to be gone", async || ours(world, OURS).await.is_empty().then_some(()))
        .await;
}

async fn two_releases_in_one_namespace_do_not_meet(world: &World) {
    let other = Server::shared().await.database().await;
    world.secret("other", "uri", &other.uri).await;
    let gate = scenario("0.8.0", "");
    let second = json!({ "mongodb": { "existingSecret": { "name": "other" } } });
    let second = merged(scenario("0.9.0", ""), second);
    world.upgrade_gate(&gate, &[]).await.ok();
    world.upgrade("other", &super::gate::chart(), &second, &[]).await.ok();
    assert_eq!(apps::history(&apps::record(&world.database).await), ["auto_stamp 0.8.0"]);
    assert_eq!(apps::history(&apps::record(&other).await), ["auto_stamp 0.9.0"]);

    let of = |release: &str| format!("{OURS},app.kubernetes.io/instance={release}");
    let before = ours(world, &of("gate")).await;
    assert!(!before.is_empty());
    world.helm(&["uninstall", "other", "--wait"]).await.ok();
    world.kubectl(&["delete", KINDS, "--selector", &of("other")]).await;
    assert_eq!(ours(world, &of("gate")).await, before);
    world.upgrade_gate(&gate, &[]).await.ok();
}

async fn a_dependency_can_be_switched_off_and_lets_global_values_pass(world: &World) {
    let off = json!({ "global": { "team": "x" }, "gate": { "enabled": false } });
    world.upgrade_lab(&merged(lab::old(), off), &["--wait"]).await.ok();
    world.serves("0.7.0").await;
    assert_eq!(ours(world, OURS).await, [""; 0]);
    assert!(apps::record(&world.database).await.is_empty());

    let on = json!({ "global": { "team": "x" } });
    world.upgrade_lab(&merged(lab::old(), on), &["--wait"]).await.ok();
    world.serves("0.7.0").await;
    let pods = world.pods("app=lab").await;
    assert!(pods.iter().any(|pod| report(pod)["exit_code"] == 0), "{pods:?}");
    assert_eq!(apps::history(&apps::record(&world.database).await), ["auto_stamp 0.7.0"]);
}

async fn a_restricted_namespace_takes_its_pods_and_no_laxer_ones(world: &World) {
    world.upgrade_gate(&scenario("0.8.0", ""), &[]).await.ok();
    world.helm(&["test", "gate"]).await.ok();
    let pods = world.list("pods", OURS).await;
    assert_eq!(pods.len(), 2, "{pods:?}");
    for mut pod in pods {
        pod["metadata"] = json!({ "name": "again" });
        pod["spec"]["nodeName"] = Value::Null;
        let create = ["create", "--dry-run=server", "--filename=-"];
        world.try_kubectl(&create, Some(&pod.to_string())).await.ok();
        pod["spec"]["containers"][0]["securityContext"]["capabilities"] = Value::Null;
        let refused = world.try_kubectl(&create, Some(&pod.to_string())).await.failed();
        refused.says("violates PodSecurity");
    }
}
