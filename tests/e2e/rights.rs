//! What the gate may do, and what it says where it may not.

use serde_json::{Value, json};

use super::gate::merged;
use super::manual::ended;
use super::quiesce::*;
use super::runner::{BOTH, FOUR, Scenario, scenario};
use super::world::World;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(FOUR, each_right_that_is_missing_is_named_before_anything_is_stopped),
        scenario!(BOTH, two_applications_in_one_namespace_keep_out_of_each_others_way),
    ]
}

/// All that quiesce needs: verb, group, resource.
const NEEDED: [(&str, &str, &str); 4] = [
    ("get", "apps", "deployments"),
    ("get", "apps", "deployments/scale"),
    ("patch", "apps", "deployments/scale"),
    ("list", "", "pods"),
];

async fn each_right_that_is_missing_is_named_before_anything_is_stopped(world: &World) {
    let quiet = merged(quiesce(&["deployment/lab"]), json!({ "gate": { "events": null } }));
    installed(world, &merged(old(1), quiet)).await;
    fill(world, 3).await;
    let before = world.pods("app=lab").await[0]["metadata"]["uid"].clone();
    let generation =
        async || world.object("deployment/lab").await["metadata"]["generation"].clone();
    let untouched = generation().await;
    // One Job for each right that is missing, and one without a token.
    for missing in 0..=NEEDED.len() {
        let name = format!("without-{missing}");
        let rights = NEEDED.iter().enumerate().filter(|(at, _)| *at != missing);
        let rule = |(_, (verb, group, resource)): (usize, &(&str, &str, &str))| json!({ "apiGroups": [group], "resources": [resource], "verbs": [verb] });
        let rules: Vec<Value> = rights.map(rule).collect();
        allow(world, &name, &rules).await;
        job(world, &name, missing < NEEDED.len()).await;
    }
    for (missing, (verb, _, resource)) in NEEDED.iter().enumerate() {
        let report = ended(world, &format!("without-{missing}")).await;
        assert_eq!(report["exit_code"], 17, "{report}");
        let message = report["message"].as_str().unwrap();
        assert!(message.contains(&format!("may not {verb} {resource} in namespace")), "{report}");
    }
    let report = ended(world, &format!("without-{}", NEEDED.len())).await;
    assert_eq!(report["exit_code"], 17, "{report}");
    assert!(report["message"].as_str().unwrap().contains("no service-account token"), "{report}");
    assert_eq!((generation().await, old_shaped(world).await), (untouched, 3));
    assert_eq!(world.pods("app=lab").await[0]["metadata"]["uid"], before);
    assert_eq!(remembered(world).await, None);

    // With all of them it works.
    let rule = |(verb, group, resource): &(&str, &str, &str)| json!({ "apiGroups": [group], "resources": [resource], "verbs": [verb] });
    allow(world, "with-all", &NEEDED.iter().map(rule).collect::<Vec<_>>()).await;
    job(world, "with-all", true).await;
    let report = ended(world, "with-all").await;
    assert_eq!(report["exit_code"], 0, "{report}");
    assert_eq!(old_shaped(world).await, 0);
}

/// A ServiceAccount with these rules.
async fn allow(world: &World, name: &str, rules: &[Value]) {
    let metadata = json!({ "name": name });
    let group = "rbac.authorization.k8s.io";
    let version = format!("{group}/v1");
    let account = json!({ "kind": "ServiceAccount", "name": name });
    let items = json!([
        { "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata },
        { "apiVersion": version, "kind": "Role", "metadata": metadata, "rules": rules },
        { "apiVersion": version, "kind": "RoleBinding", "metadata": metadata, "subjects": [account],
          "roleRef": { "apiGroup": group, "kind": "Role", "name": name } },
    ]);
    world.apply(json!({ "apiVersion": "v1", "kind": "List", "items": items })).await;
}

/// A Job by hand that upgrades as this account, with a token or without.
async fn job(world: &World, account: &str, token: bool) {
    let cronjob = world.object("cronjob/lab-gate").await;
    let mut spec = cronjob["spec"]["jobTemplate"]["spec"].clone();
    let pod = &mut spec["template"]["spec"];
    pod["serviceAccountName"] = json!(account);
    pod["serviceAccount"] = json!(account);
    pod["automountServiceAccountToken"] = json!(token);
    let env = pod["containers"][0]["env"].as_array_mut().unwrap();
    for (name, value) in [
        ("GATE_MODE", "upgrade"),
        ("GATE_QUIESCE_TIMEOUT", "5s"),
        ("SCENARIO_CODE", "0.8.0"),
        ("SCENARIO_UPGRADES", "0.8.0=move_field"),
    ] {
        env.retain(|variable| variable["name"] != name);
        env.push(json!({ "name": name, "value": value }));
    }
    let metadata = json!({ "name": account });
    let job =
        json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec });
    world.apply(job).await;
}

async fn two_applications_in_one_namespace_keep_out_of_each_others_way(world: &World) {
    let database = world.database_of_another("other").await;
    let other = |values: Value| {
        let own = json!({ "mongodb": { "existingSecret": { "name": "other" } },
            "quiesce": { "workloads": ["deployment/other"] } });
        merged(values, json!({ "name": "other", "secret": "other", "gate": own }))
    };
    let chart = world.lab_chart().await;
    let install = ["--wait"];
    installed(world, &old(2)).await;
    let fresh = json!({ "gate": { "settings": { "initialise": "fresh" } } });
    let first = other(merged(old(2), fresh));
    world.upgrade("other", &chart, &first, &install).await.ok();

    // While one stands in the middle of its upgrade, the other is upgraded, and both have their own.
    let middle = super::middle::hold(world).await;
    let values = merged(super::middle::upgrade(), quiesce(&["deployment/lab"]));
    let values = merged(values, json!({ "replicas": 2 }));
    let helm = world.start_lab(&values, &["--wait"]).await;
    middle.reached(world).await;
    let of_other = async || world.object("deployment/other").await["spec"]["replicas"].clone();
    let pods = world.pods("app=other").await;
    assert_eq!((replicas(world).await, of_other().await, pods.len()), (0, json!(2), 2));
    assert!(pods.iter().all(|pod| pod["status"]["containerStatuses"][0]["ready"] == true));
    world.upgrade("other", &chart, &other(new(3)), &install).await.ok();
    assert_eq!((replicas(world).await, of_other().await), (0, json!(3)));
    let served = async || world.fetch("other").await.filter(|answer| answer == "0.8.0");
    world.until("the other to serve 0.8.0", served).await;
    let record = super::apps::record(&database).await;
    assert_eq!(super::apps::history(&record), ["auto_stamp 0.7.0", "upgrade 0.8.0"]);

    middle.pass().await;
    world.noted(helm).await.ok();
    world.serves("0.8.0").await;
    assert_eq!((replicas(world).await, of_other().await), (2, json!(3)));
}
