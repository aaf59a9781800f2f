//! `hooks.engine: none`: an ordinary Job, for which the application's pods wait.

use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use super::apps;
use super::gate::{chart, merged, scenario};
use super::lab;
use super::manual::ended;
use super::runner::{BOTH, Scenario, scenario};
use super::support::db_hash;
use super::world::{World, report};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(BOTH, new_pods_wait_for_an_ordinary_job),
        scenario!(BOTH, rendered_manifests_are_applied_twice_and_run_once),
    ]
}

const JOBS: &str = "app.kubernetes.io/component=upgrade-gate";

async fn new_pods_wait_for_an_ordinary_job(world: &World) {
    let engine = json!({ "gate": { "hooks": { "engine": "none" } } });
    world.upgrade_lab(&merged(lab::old(), engine.clone()), &["--wait"]).await.ok();
    world.serves("0.7.0").await;
    apps::fill(&world.database, "things", (0..20).map(|n| doc! { "_id": n, "a": n })).await;
    let things = world.database.collection::<Document>("things");
    things.update_one(doc! { "_id": 7 }, doc! { "$set": { "bad": true } }).await.unwrap();

    // A Job that fails: the new pods stay in their init containers, and the old ones serve.
    let next = lab::lab("0.8.0", "b", "0.8.0", "0.8.0=move_field,refuse");
    let next = merged(next, engine);
    let before = db_hash(&world.database).await;
    world.upgrade_lab(&next, &["--wait", "--timeout=10s"]).await.failed();
    let job = name(jobs(world).await.last().unwrap());
    let refused = ended(world, &job).await;
    assert_eq!(refused["exit_code"], 14, "{refused}");
    assert_eq!(db_hash(&world.database).await, before);
    world.serves("0.7.0").await;
    let waits =
        |pod: &&Value| pod["status"]["initContainerStatuses"][0]["state"]["running"].is_object();
    let one_waits = async || {
        let pods = world.pods("app=lab").await;
        (pods.iter().filter(waits).count() == 1).then_some(())
    };
    world.until("one new pod that waits", one_waits).await;

    // Mended, the next revision has a Job of its own, and the pods that wait open.
    things.update_one(doc! { "_id": 7 }, doc! { "$unset": { "bad": "" } }).await.unwrap();
    world.upgrade_lab(&next, &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    let record = apps::record(&world.database).await;
    assert_eq!(apps::history(&record), ["auto_stamp 0.7.0", "upgrade 0.8.0"]);
    assert_eq!(apps::count(&world.database, "things", doc! { "marked": true }).await, 20);
    // What the release had before goes with it. Helm never removes what a failed revision made: the Job's
    // time to live does.
    let left: Vec<_> = jobs(world).await.iter().map(name).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert_eq!(left[0], job);
}

async fn rendered_manifests_are_applied_twice_and_run_once(world: &World) {
    let engine = json!({ "hooks": { "engine": "none" } });
    let gate = |code: &str, upgrades: &str| merged(scenario(code, upgrades), engine.clone());
    apply(world, &gate("0.7.0", "")).await;
    let first = jobs(world).await;
    assert_eq!(first.len(), 1);
    assert_eq!(ended(world, &name(&first[0])).await["exit_code"], 0);

    apply(world, &gate("0.7.0", "")).await;
    let again = jobs(world).await;
    assert_eq!(again.len(), 1);
    assert_eq!(again[0]["metadata"]["uid"], first[0]["metadata"]["uid"]);
    assert_eq!(world.pods_of(&name(&first[0])).await.len(), 1);

    // Another content is another Job. One that failed stays until it is deleted.
    let things = [doc! { "_id": 1, "a": 1 }, doc! { "_id": 2, "a": 2, "bad": true }];
    apps::fill(&world.database, "things", things).await;
    let next = gate("0.8.0", "0.8.0=move_field,refuse");
    let before = db_hash(&world.database).await;
    apply(world, &next).await;
    let all = jobs(world).await;
    assert_eq!(all.len(), 2);
    let second = name(all.iter().find(|job| name(job) != name(&first[0])).unwrap());
    assert_eq!(ended(world, &second).await["exit_code"], 14);
    assert_eq!(db_hash(&world.database).await, before);

    let things = world.database.collection::<Document>("things");
    things.update_one(doc! { "_id": 2 }, doc! { "$unset": { "bad": "" } }).await.unwrap();
    apply(world, &next).await;
    let pods = world.pods_of(&second).await;
    assert_eq!(pods.len(), 1);
    assert_eq!(report(&pods[0])["exit_code"], 14);
    world.kubectl(&["delete", "job", &second]).await;
    apply(world, &next).await;
    assert_eq!(ended(world, &second).await["exit_code"], 0);
    let record = apps::record(&world.database).await;
    assert_eq!(apps::history(&record), ["auto_stamp 0.7.0", "upgrade 0.8.0"]);
    assert_eq!(apps::count(&world.database, "things", doc! { "marked": true }).await, 2);
}

/// `helm template gate CHART --no-hooks | kubectl apply -f -`.
async fn apply(world: &World, values: &Value) {
    let values = world.file("gate.yaml", &values.to_string());
    let template = ["template", "gate", &chart(), "--no-hooks", "--values", &values];
    let manifests = world.helm(&template).await.ok().stdout;
    world.apply_yaml(&manifests).await;
}

/// The Jobs of the gate, oldest first.
async fn jobs(world: &World) -> Vec<Value> {
    let mut jobs = world.list("jobs", JOBS).await;
    jobs.sort_by_key(|job| job["metadata"]["creationTimestamp"].to_string());
    jobs
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}
