//! Upgrades from files: the stock image, with the files in ConfigMaps that the chart makes of its values.

use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use super::apps;
use super::gate::{image, merged};
use super::lab;
use super::runner::{BOTH, FOUR, Scenario, scenario};
use super::support::db_hash;
use super::world::{World, report};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(BOTH, an_application_whose_upgrades_are_files_is_upgraded_refused_and_repaired),
        scenario!(BOTH, a_pod_of_a_release_that_was_rolled_back_never_sees_newer_files),
        scenario!(FOUR, argo_cd_upgrades_from_files_and_leaves_none_of_its_hook),
        scenario!(BOTH, an_image_of_python_with_files_and_a_program_is_refused_and_repaired),
        scenario!(FOUR, argo_cd_upgrades_with_an_image_of_python),
    ]
}

const FILE: &str = "0.8.0-move-field.yaml";

/// The lab at a release, with the stock image and these files besides `gate.yaml`.
fn release(version: &str, field: &str, files: &Value) -> Value {
    let gate = "app: lab\nrecord: { collection: database_metadata, id: scenario_schema_version }\n";
    let stock = json!({
        "upgrades": merged(json!({ "gate.yaml": gate }), files.clone()),
        "settings": { "appVersion": version },
        // the scenario application's, which this image does not know
        "extraEnv": [],
    });
    let stock = merged(stock, image("E2E_STOCK_IMAGE"));
    merged(lab::lab(version, field, version, ""), json!({ "gate": stock }))
}

fn old() -> Value {
    release("0.7.0", "a", &json!({}))
}

/// Release 0.8.0, whose one upgrade makes this of a document's `a`.
fn new(value: &str) -> Value {
    let file = format!(
        "version: 0.8.0
description: move a to b in things
steps:
- update: things
  where: {{ a: {{ $exists: true }} }}
  set:
  - $set: {{ b: {value} }}
  - $unset: a
  report: \"Move {{n}} field(s)\"
"
    );
    release("0.8.0", "b", &json!({ FILE: file }))
}

async fn fill(world: &World) {
    let things = (0..20).map(|n| doc! { "_id": n, "a": if n == 7 { "7" } else { "1" } });
    apps::fill(&world.database, "things", things).await;
}

async fn assert_moved(world: &World) {
    let moved = doc! { "a": { "$exists": false }, "b": { "$type": "string" } };
    assert_eq!(apps::count(&world.database, "things", moved).await, 20);
    let record = apps::record(&world.database).await;
    assert_eq!(apps::history(&record), ["auto_stamp 0.7.0", "upgrade 0.8.0"]);
}

async fn an_application_whose_upgrades_are_files_is_upgraded_refused_and_repaired(world: &World) {
    world.upgrade_lab(&old(), &["--wait"]).await.ok();
    world.serves("0.7.0").await;
    fill(world).await;
    let before = db_hash(&world.database).await;

    // a mistake in a file, and one that only the data shows: nothing is written, the old pods serve
    let misspelt = release("0.8.0", "b", &json!({ FILE: "version: 0.8.0\nstep: []\n" }));
    let refused = world.upgrade_lab(&misspelt, &[]).await.failed();
    refused.says("(exit 16").says(FILE);
    let fails = new("{ $divide: [ 1, { $subtract: [ { $toInt: $a }, 7 ] } ] }");
    let refused = world.upgrade_lab(&fails, &[]).await.failed();
    refused.says("(exit 14").says("document 7 of things");
    let pods = world.hook_pods().await;
    assert_eq!((pods.len(), &report(&pods[0])["exit_code"]), (1, &json!(14)), "{pods:?}");
    assert_eq!(db_hash(&world.database).await, before);
    world.serves("0.7.0").await;

    world.upgrade_lab(&new("$a"), &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    assert_moved(world).await;
    world.helm(&["test", "lab"]).await.ok();
}

/// The name of the ConfigMap that a pod's gate reads, and the files in it.
async fn files(world: &World, pod: &Value) -> (String, Vec<String>) {
    let mut volumes = pod["spec"]["volumes"].as_array().unwrap().iter();
    let volume = volumes.find(|volume| volume["name"] == "gate-upgrades").unwrap();
    let name = volume["configMap"]["name"].as_str().unwrap().to_owned();
    let map = world.object(&format!("configmap/{name}")).await;
    (name, map["data"].as_object().unwrap().keys().cloned().collect())
}

async fn a_pod_of_a_release_that_was_rolled_back_never_sees_newer_files(world: &World) {
    world.upgrade_lab(&old(), &["--wait"]).await.ok();
    world.serves("0.7.0").await;
    let first = files(world, &world.pods("app=lab").await[0]).await;
    assert_eq!(first.1, ["gate.yaml"]);
    fill(world).await;
    world.upgrade_lab(&new("$a"), &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    let second = files(world, &world.pods("app=lab").await[0]).await;
    assert_eq!(second.1, [FILE, "gate.yaml"]);
    assert_ne!(first.0, second.0);
    let hook = files(world, &world.hook_pods().await[0]).await;
    assert_eq!((&hook.0[..], hook.1), ("lab-gate-helm-upgrades", second.1.clone()));

    // with the newer file, whose version is above its own, it would end with 16
    world.helm(&["rollback", "lab", "1"]).await.ok();
    let refused = world.refused_pod("app=lab").await;
    assert_eq!(report(&refused)["next"], "deploy 0.8.0 or restore a backup");
    assert_eq!(files(world, &refused).await, first);
    world.helm(&["rollback", "lab", "2", "--wait"]).await.ok();
    world.serves("0.8.0").await;
    assert_eq!(files(world, &world.pods("app=lab").await[0]).await, second);
    assert_moved(world).await;
}

async fn argo_cd_upgrades_from_files_and_leaves_none_of_its_hook(world: &World) {
    let argocd = |values| merged(values, json!({ "gate": { "hooks": { "engine": "argocd" } } }));
    let chart = world.lab_chart().await;
    let (application, first) = world.application(&chart, "lab", &argocd(old())).await;
    assert_eq!(first["phase"], "Succeeded", "{first:#}");
    world.serves("0.7.0").await;
    fill(world).await;
    let before = db_hash(&world.database).await;

    let failed = application.changed(&argocd(new("{ $toInt: x }"))).await;
    assert_eq!(failed["phase"], "Failed", "{failed:#}");
    assert_eq!(db_hash(&world.database).await, before);
    world.serves("0.7.0").await;
    let corrected = application.changed(&argocd(new("$a"))).await;
    assert_eq!(corrected["phase"], "Succeeded", "{corrected:#}");
    world.serves("0.8.0").await;
    assert_moved(world).await;
    // those of the release before were there until the rollout was over
    let maps = world.list("configmaps", "app.kubernetes.io/component=upgrade-gate").await;
    let own = files(world, &world.pods("app=lab").await[0]).await;
    assert_eq!(maps.len(), 1, "{maps:#?}");
    assert_eq!(maps[0]["metadata"]["name"], own.0);
    let things = world.database.collection::<Document>("things");
    assert_eq!(
        things.find_one(doc! { "_id": 7 }).await.unwrap().unwrap(),
        doc! { "_id": 7, "b": "7" }
    );
    application.delete().await;
}

/// The lab at a release, with the image of `tests/e2e/python`, which has the files of both.
fn python(version: &str, field: &str, upgrades: &str) -> Value {
    let of_the_image = json!({
        "settings": { "appVersion": version },
        "extraEnv": [{ "name": "GATE_UPGRADES", "value": upgrades }],
    });
    let gate = merged(of_the_image, image("E2E_PYTHON_IMAGE"));
    merged(lab::lab(version, field, version, ""), json!({ "gate": gate }))
}

fn old_python() -> Value {
    python("0.7.0", "a", "/upgrades/before")
}

fn new_python() -> Value {
    python("0.8.0", "b", "/upgrades")
}

/// From release 0.7.0 on: refused because of one document, and upgraded once that is corrected. `deploy` and `again` say
/// whether release 0.8.0 succeeded.
async fn refused_and_repaired(
    world: &World,
    deploy: impl AsyncFn() -> bool,
    again: impl AsyncFn() -> bool,
) {
    world.serves("0.7.0").await;
    fill(world).await;
    let things = world.database.collection::<Document>("things");
    let seventh = async |a: &str| {
        things.update_one(doc! { "_id": 7 }, doc! { "$set": { "a": a } }).await.unwrap();
    };
    seventh("seven").await;
    let before = db_hash(&world.database).await;

    assert!(!deploy().await);
    let pods = world.hook_pods().await;
    let refused = report(&pods[0]);
    assert_eq!((pods.len(), &refused["exit_code"]), (1, &json!(14)), "{pods:?}");
    assert!(refused["message"].to_string().contains("a thing is not a number"), "{refused}");
    assert_eq!(db_hash(&world.database).await, before);
    world.serves("0.7.0").await;

    seventh("7").await;
    assert!(again().await);
    world.serves("0.8.0").await;
    assert_moved(world).await;
    assert_eq!(things.list_index_names().await.unwrap(), ["_id_", "by_b"]);
    let record = apps::record(&world.database).await;
    let entries = record.get_array("history").unwrap();
    let actions = entries[1].as_document().unwrap().get_array("actions").unwrap();
    assert!(format!("{actions:?}").contains("Move 20 field(s)"), "{record}");
}

async fn an_image_of_python_with_files_and_a_program_is_refused_and_repaired(world: &World) {
    world.upgrade_lab(&old_python(), &["--wait"]).await.ok();
    let new = new_python();
    let deploy = async || world.upgrade_lab(&new, &["--wait"]).await.code == Some(0);
    refused_and_repaired(world, deploy, deploy).await;
    world.helm(&["test", "lab"]).await.ok();
}

async fn argo_cd_upgrades_with_an_image_of_python(world: &World) {
    let argocd = |values| merged(values, json!({ "gate": { "hooks": { "engine": "argocd" } } }));
    let chart = world.lab_chart().await;
    let (application, first) = world.application(&chart, "lab", &argocd(old_python())).await;
    assert_eq!(first["phase"], "Succeeded", "{first:#}");
    let new = argocd(new_python());
    let deploy = async || application.changed(&new).await["phase"] == "Succeeded";
    let again = async || application.sync().await["phase"] == "Succeeded";
    refused_and_repaired(world, deploy, again).await;
    application.delete().await;
}
