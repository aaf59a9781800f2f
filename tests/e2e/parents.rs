//! The gate in other people's charts: their versions, their Secrets and accounts, and what `kubectl` did.

use mongodb::bson::doc;
use serde_json::{Value, json};

use super::apps;
use super::gate::{merged, scenario};
use super::lab;
use super::quiesce::{fill, hook_report, installed, old_shaped, quiesce, replicas};
use super::runner::{BOTH, FOUR, Scenario, scenario};
use super::support::Server;
use super::world::{World, report};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(BOTH, an_application_that_is_raised_without_its_gate_is_refused),
        scenario!(
            BOTH,
            a_secret_of_the_applications_own_chart_is_installed_rotated_and_rolled_back
        ),
        scenario!(BOTH, what_is_switched_off_has_no_effect_after_the_next_upgrade),
        scenario!(FOUR, a_scale_by_hand_is_told_before_helm_stumbles_over_it),
        scenario!(FOUR, a_private_certificate_authority_is_mounted_for_hook_and_pods),
    ]
}

async fn an_application_that_is_raised_without_its_gate_is_refused(world: &World) {
    // one value moves both, as the guide says
    let moves = |values: Value, version: &str| {
        let template = json!({ "settings": { "appVersion": "{{ .Values.global.version }}" } });
        merged(values, json!({ "global": { "version": version }, "gate": template }))
    };
    world.upgrade_lab(&moves(lab::old(), "0.7.0"), &["--wait"]).await.ok();
    world.serves("0.7.0").await;
    fill(world, 20).await;

    // the application is raised, its gate is not
    let raised = merged(lab::lab("0.8.0", "b", "0.7.0", ""), json!({ "replicas": 1 }));
    let raised = moves(raised, "0.8.0");
    let refused = world.upgrade_lab(&raised, &[]).await.failed();
    refused.says("(exit 16").says("0.7.0").says("0.8.0");
    let pods = world.hook_pods().await;
    assert_eq!((pods.len(), &report(&pods[0])["exit_code"]), (1, &json!(16)), "{pods:?}");
    assert_eq!(old_shaped(world).await, 20);
    world.serves("0.7.0").await;
    // nor does it get past its init container where there is no hook
    let without = json!({ "gate": { "hooks": { "enabled": false } } });
    world.upgrade_lab(&merged(raised, without), &[]).await.ok();
    let refused = async || {
        let mut pods = world.pods("app=lab").await.into_iter();
        pods.find(|pod| report(pod)["exit_code"] == 16)
    };
    world.until("a pod that the gate keeps out", refused).await;
    world.serves("0.7.0").await;

    world.upgrade_lab(&moves(lab::new(), "0.8.0"), &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    let record = apps::record(&world.database).await;
    assert_eq!(apps::history(&record), ["auto_stamp 0.7.0", "upgrade 0.8.0"]);
}

/// The lab whose own chart makes its Secret, and the ServiceAccount of its pods.
fn own(values: Value, uri: &str) -> Value {
    let own = json!({
        "uri": uri,
        "secret": "lab-mongodb",
        "account": "lab",
        "makesAccount": true,
        "gate": {
            "mongodb": { "existingSecret": { "name": "lab-mongodb" } },
            "hooks": {
                "mongodb": { "existingSecret": { "name": "lab-mongodb-hook" } },
                "backoffLimit": 0,
            },
            "serviceAccount": { "create": false, "name": "lab" },
        },
    });
    merged(values, own)
}

async fn a_secret_of_the_applications_own_chart_is_installed_rotated_and_rolled_back(
    world: &World,
) {
    let server = Server::with_auth().await;
    let before = server.uri_with_roles("lab", &["readWrite"]).await;
    let after = server.uri_with_roles("lab", &["readWrite"]).await;
    let client = server.client().await;
    let database = client.database("lab");
    world.upgrade_lab(&own(lab::old(), &before), &["--wait"]).await.ok();
    world.serves("0.7.0").await;
    let things = (0..20).map(|n| doc! { "_id": n, "a": n });
    apps::fill(&database, "things", things).await;

    // without the hook's own copy the first user's password is asked for, which is no more
    let user = before.split_once("://").unwrap().1.split_once(':').unwrap().0;
    client.database("admin").run_command(doc! { "dropUser": user }).await.unwrap();
    let stale = json!({ "gate": { "hooks": { "mongodb": { "existingSecret": { "name": "" } } } } });
    let rotated = own(lab::new(), &after);
    let refused = world.upgrade_lab(&merged(rotated.clone(), stale), &[]).await.failed();
    refused.says("(exit 17");
    world.upgrade_lab(&rotated, &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    let record = apps::record(&database).await;
    assert_eq!(apps::history(&record), ["auto_stamp 0.7.0", "upgrade 0.8.0"]);
    assert_eq!(world.find("secret/lab-mongodb-hook").await, None, "it goes with the hook");

    // a later rotation, and back again while both users are there
    let third = server.uri_with_roles("lab", &["readWrite"]).await;
    world.upgrade_lab(&own(lab::new(), &third), &["--wait"]).await.ok();
    let uri = async || {
        let secret = world.object("secret/lab-mongodb").await;
        secret["data"]["uri"].as_str().unwrap().to_owned()
    };
    let now = uri().await;
    world.helm(&["rollback", "lab", "--wait"]).await.ok();
    assert_ne!(uri().await, now);
    world.serves("0.8.0").await;
}

/// The NetworkPolicies that apply to a pod.
async fn policies(world: &World, pod: &Value) -> Vec<String> {
    let labels = &pod["metadata"]["labels"];
    let mut policies = world.list("networkpolicies", "").await;
    policies.retain(|policy| {
        let selector = policy["spec"]["podSelector"]["matchLabels"].as_object().unwrap();
        selector.iter().all(|(key, value)| labels[key] == *value)
    });
    policies.iter().map(|p| p["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

async fn what_is_switched_off_has_no_effect_after_the_next_upgrade(world: &World) {
    let gate = scenario("0.8.0", "");
    let on = json!({
        "networkPolicy": { "enabled": true },
        "events": { "enabled": true },
        "hooks": { "onRollback": true },
    });
    world.upgrade_gate(&merged(gate.clone(), on.clone()), &[]).await.ok();
    let pod = &world.hook_pods().await[0];
    assert_eq!(policies(world, pod).await, ["gate-upgrade-gate-helm"]);
    let rules = async || world.object("role/gate-upgrade-gate-helm").await["rules"].clone();
    assert_ne!(rules().await, Value::Null);

    world.upgrade_gate(&gate, &[]).await.ok();
    let pod = &world.hook_pods().await[0];
    assert_eq!(policies(world, pod).await, [""; 0]);
    assert_eq!(rules().await, Value::Null, "a Role without rules");

    // another engine: the objects of the former stay, and apply to nothing
    world.upgrade_gate(&merged(gate.clone(), on), &[]).await.ok();
    let none = json!({ "hooks": { "engine": "none" } });
    world.upgrade_gate(&merged(gate.clone(), none), &[]).await.ok();
    let job = async || {
        let jobs = world.list("jobs", "app.kubernetes.io/component=upgrade-gate").await;
        let name = |job: &Value| job["metadata"]["name"].as_str().unwrap().to_owned();
        let name = jobs.iter().map(name).find(|name| name.contains("-none-"))?;
        world.pods_of(&name).await.into_iter().next()
    };
    let pod = world.until("the ordinary Job's pod", job).await;
    assert_eq!(policies(world, &pod).await, [""; 0]);
    let hooks = "upgrade-gate/hooks=helm,app.kubernetes.io/instance=gate";
    let kinds = "job,networkpolicy,pod,role,rolebinding,secret,serviceaccount";
    assert!(!world.list(kinds, hooks).await.is_empty());
    world.kubectl(&["delete", kinds, "--selector", hooks]).await;
    // and back
    world.upgrade_gate(&gate, &[]).await.ok();
    assert_eq!(apps::history(&apps::record(&world.database).await), ["auto_stamp 0.8.0"]);
}

async fn a_scale_by_hand_is_told_before_helm_stumbles_over_it(world: &World) {
    let values = |values: Value, replicas: u32| merged(values, json!({ "replicas": replicas }));
    installed(world, &values(lab::old(), 1)).await;
    fill(world, 20).await;
    world.kubectl(&["scale", "deployment", "lab", "--replicas=2"]).await;

    // without rights nobody sees it: the database is upgraded, and the old pods run on
    let new = values(lab::new(), 1);
    let refused = world.upgrade_lab(&new, &[]).await.failed();
    refused.says("conflict").says(".spec.replicas");
    assert_eq!((old_shaped(world).await, replicas(world).await), (0, 2));
    // what the guide says: the release takes the field back
    world.upgrade_lab(&new, &["--wait", "--force-conflicts"]).await.ok();
    world.serves("0.8.0").await;
    assert_eq!(replicas(world).await, 1);

    // a gate that stops the pods takes the number away from whoever set it; what else was changed it tells
    world.kubectl(&["scale", "deployment", "lab", "--replicas=2"]).await;
    let variable = ["set", "env", "deployment/lab", "LAB_STOP_AFTER=1"];
    world.kubectl(&variable).await;
    let next = lab::lab("0.9.0", "b", "0.9.0", "0.8.0=move_field;0.9.0=twice");
    let next = merged(values(next, 1), quiesce(&["deployment/lab"]));
    let refused = world.upgrade_lab(&next, &[]).await.failed();
    refused.says("conflict").says("LAB_STOP_AFTER");
    let told = hook_report(world).await;
    let warnings = told["warnings"].to_string();
    assert!(warnings.contains("kubectl-set") && warnings.contains("LAB_STOP_AFTER"), "{told}");
    assert!(warnings.contains("--force-conflicts"), "{told}");
    assert!(!warnings.contains(".spec.replicas"), "{told}");
    world.upgrade_lab(&next, &["--wait", "--force-conflicts"]).await.ok();
    world.serves("0.9.0").await;
    assert_eq!(replicas(world).await, 1);

    // and where nothing was changed by hand, nothing is told
    let last = lab::lab("1.0.0", "b", "1.0.0", "0.8.0=move_field;0.9.0=twice;1.0.0=increment");
    let last = merged(values(last, 1), quiesce(&["deployment/lab"]));
    world.upgrade_lab(&last, &["--wait"]).await.ok();
    let told = hook_report(world).await;
    assert!(!told["warnings"].to_string().contains("force-conflicts"), "{told}");
}

async fn a_private_certificate_authority_is_mounted_for_hook_and_pods(world: &World) {
    let server = Server::with_tls().await;
    let uri = server.uri("lab");
    let (before, rest) = uri.split_once("tlsCAFile=").unwrap();
    let (file, after) = rest.split_once('&').unwrap_or((rest, ""));
    let authority = std::fs::read_to_string(file).unwrap();
    let uri = format!("{before}tlsCAFile=/etc/mongodb-ca/ca.crt&{after}");
    world.secret("tls", "uri", uri.trim_end_matches('&')).await;
    let ca = json!({ "mongodb": { "existingSecret": { "name": "tls" }, "ca": { "configMap": "mongodb-ca" } },
        "hooks": { "backoffLimit": 0 } });
    let gate = merged(scenario("0.8.0", ""), ca);
    // the file is not there: the gate says so, where a pod that cannot start would say nothing
    world.upgrade_gate(&gate, &[]).await.failed().says("(exit 16").says("/etc/mongodb-ca/ca.crt");
    world
        .apply(json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": "mongodb-ca" },
            "data": { "ca.crt": authority },
        }))
        .await;
    // the status comes first, in the volume that an init container for backups would read
    let status = json!({ "hooks": { "reportStatus": true } });
    world.upgrade_gate(&merged(gate, status), &[]).await.ok();
    let pod = &world.hook_pods().await[0];
    let first = &pod["status"]["initContainerStatuses"][0];
    assert_eq!(first["name"], "upgrade-gate-status", "{pod}");
    assert_eq!(first["state"]["terminated"]["exitCode"], 0, "{pod}");
    world.helm(&["test", "gate"]).await.ok();
}
