//! Under Argo CD.

use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use super::apps;
use super::command::required;
use super::gate::merged;
use super::lab;
use super::manual::ended;
use super::middle;
use super::quiesce::{quiesce, remembered, replicas};
use super::runner::{FOUR, Scenario, scenario};
use super::support::db_hash;
use super::world::{World, report};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(FOUR, argo_cd_upgrades_in_its_syncs_and_mends_with_a_new_revision),
        scenario!(FOUR, argo_cd_brings_mongodb_up_before_the_gate),
        scenario!(FOUR, argo_cd_leaves_stopped_pods_alone_and_brings_them_back),
        scenario!(FOUR, the_default_engine_works_under_argo_cd_until_it_fails),
    ]
}

/// As long as Helm allows: Argo CD appends to the names of hooks.
const RELEASE: &str = "an-application-with-a-name-of-more-than-fifty-letters";

/// A release of the lab with this engine.
fn release(values: Value, engine: &str) -> Value {
    merged(values, json!({ "gate": { "hooks": { "engine": engine } } }))
}

/// Things for an upgrade, one of which a faulty one cannot deal with.
async fn filled(world: &World) {
    apps::fill(&world.database, "things", (0..20).map(|n| doc! { "_id": n, "a": n })).await;
    let things = world.database.collection::<Document>("things");
    things.update_one(doc! { "_id": 7 }, doc! { "$set": { "bad": true } }).await.unwrap();
}

const GATE: &str = "app.kubernetes.io/component=upgrade-gate";

async fn jobs(world: &World) -> Vec<Value> {
    world.list("jobs", GATE).await
}

async fn argo_cd_upgrades_in_its_syncs_and_mends_with_a_new_revision(world: &World) {
    let chart = world.lab_chart().await;
    let old = release(lab::old(), "argocd");
    let (application, first) = world.application(&chart, RELEASE, &old).await;
    assert_eq!(first["phase"], "Succeeded", "{first:#}");
    world.serves("0.7.0").await;
    assert_eq!(apps::history(&apps::record(&world.database).await), ["auto_stamp 0.7.0"]);
    assert_eq!(jobs(world).await.len(), 0, "a Job that succeeded goes");

    // An upgrade that fails: its Job stays, was run once for all tries, and the old pods serve.
    filled(world).await;
    let before = db_hash(&world.database).await;
    let wrong = lab::lab("0.8.0", "b", "0.8.0", "0.8.0=move_field,refuse");
    let failed = application.changed(&release(wrong, "argocd")).await;
    assert_eq!(failed["phase"], "Failed", "{failed:#}");
    let left = jobs(world).await;
    assert_eq!(left.len(), 1, "{left:#?}");
    let name = left[0]["metadata"]["name"].as_str().unwrap();
    assert!(name.len() <= 63, "{name}");
    let pods = world.pods_of(name).await;
    assert_eq!(pods.len(), 1, "{pods:#?}");
    assert_eq!(report(&pods[0])["exit_code"], 14);
    assert_eq!(db_hash(&world.database).await, before);
    world.serves("0.7.0").await;

    // A revision that can deal with it.
    let new = release(lab::new(), "argocd");
    let corrected = application.changed(&new).await;
    assert_eq!(corrected["phase"], "Succeeded", "{corrected:#}");
    world.serves("0.8.0").await;
    let record = apps::record(&world.database).await;
    assert_eq!(apps::history(&record), ["auto_stamp 0.7.0", "upgrade 0.8.0"]);
    assert_eq!(apps::count(&world.database, "things", doc! { "b": { "$exists": true } }).await, 20);
    assert_eq!(jobs(world).await.len(), 1, "the one that failed has its time to live");

    // Nothing to do.
    let before = (db_hash(&world.database).await, generation(world).await);
    let again = application.sync().await;
    assert_eq!(again["phase"], "Succeeded", "{again:#}");
    assert_eq!((db_hash(&world.database).await, generation(world).await), before);

    // What the chart no longer renders goes; what the hook needs is no part of that.
    let cronjobs = async || world.list("cronjobs", "").await.len();
    assert_eq!(cronjobs().await, 1);
    let less = merged(new, json!({ "gate": { "manual": { "enabled": false } } }));
    let pruned = application.changed(&less).await;
    assert_eq!(pruned["phase"], "Succeeded", "{pruned:#}");
    assert_eq!(cronjobs().await, 0);
    world.serves("0.8.0").await;

    application.delete().await;
    assert!(world.find("deployment/lab").await.is_none());
    // Unlike Helm, Argo CD takes along what hooks made, the Job that failed as well.
    let left = world.list("jobs,cronjobs,roles,rolebindings,serviceaccounts", GATE).await;
    assert!(left.is_empty(), "{left:#?}");
}

/// Counts the changes of the lab's Deployment.
async fn generation(world: &World) -> Value {
    world.object("deployment/lab").await["metadata"]["generation"].clone()
}

async fn argo_cd_brings_mongodb_up_before_the_gate(world: &World) {
    let address = world.free_address().await;
    let own = json!({
        "mongod": { "image": required("E2E_MONGOD_IMAGE"), "address": address },
        "secret": "own-mongodb",
        "annotations": { "argocd.argoproj.io/sync-wave": "2" },
        "gate": {
            "mongodb": { "existingSecret": { "name": "own-mongodb" } },
            "settings": { "initialise": "fresh" },
        },
    });
    let whole = |values: Value| merged(release(values, "argocd"), own.clone());
    let recorded = async |job: &str| {
        world.kubectl(&["create", "job", job, "--from=cronjob/lab-gate"]).await;
        let plan = ended(world, job).await;
        assert_eq!(plan["exit_code"], 0, "{plan}");
        plan["from"].as_str().unwrap().to_owned()
    };

    // Before all else there is no MongoDB yet, and not even the Secret.
    let chart = world.lab_chart().await;
    let once = json!({ "gate": { "hooks": { "backoffLimit": 0 } } });
    let before = merged(whole(lab::new()), once);
    let (application, first) = world.application(&chart, "lab", &before).await;
    assert_eq!(first["phase"], "Failed", "{first:#}");
    let failed = jobs(world).await;
    let pods = world.pods_of(failed[0]["metadata"]["name"].as_str().unwrap()).await;
    assert_eq!(report(&pods[0])["exit_code"], 20, "{pods:#?}");
    assert_eq!(world.find("deployment/mongod").await, None);

    let later = json!({ "gate": { "hooks": { "onInstall": false } } });
    let new = merged(whole(lab::new()), later.clone());
    let first = application.changed(&new).await;
    assert_eq!(first["phase"], "Succeeded", "{first:#}");
    world.serves("0.8.0").await;
    assert_eq!(recorded("first").await, "0.8.0");

    let next = lab::lab("0.9.0", "b", "0.9.0", "0.8.0=move_field;0.9.0=twice");
    let upgraded = application.changed(&merged(whole(next), later)).await;
    assert_eq!(upgraded["phase"], "Succeeded", "{upgraded:#}");
    world.serves("0.9.0").await;
    assert_eq!(recorded("next").await, "0.9.0");
    application.delete().await;
}

async fn argo_cd_leaves_stopped_pods_alone_and_brings_them_back(world: &World) {
    let chart = world.lab_chart().await;
    let old = release(merged(lab::old(), json!({ "replicas": 2 })), "argocd");
    let (application, first) = world.application(&chart, "lab", &old).await;
    assert_eq!(first["phase"], "Succeeded", "{first:#}");
    world.serves("0.7.0").await;

    // A hook that fails after it stopped them gives them back, and the tries that follow run no other.
    let things = (0..2).map(|n| doc! { "_id": n, "a": "same" });
    apps::fill(&world.database, "things", things).await;
    let partial = doc! { "b": { "$exists": true } };
    let unique = doc! { "createIndexes": "things", "indexes": [
        { "key": { "b": 1 }, "name": "b", "unique": true, "partialFilterExpression": partial },
    ] };
    world.database.run_command(unique).await.unwrap();
    let stopping = |values: Value| {
        let values = merged(values, quiesce(&["deployment/lab"]));
        release(merged(values, json!({ "replicas": 3 })), "argocd")
    };
    let failed = application.changed(&stopping(lab::new())).await;
    assert_eq!(
        (&failed["phase"], &failed["retryCount"]),
        (&json!("Failed"), &json!(5)),
        "{failed:#}"
    );
    let left = jobs(world).await;
    let pods = world.pods_of(left[0]["metadata"]["name"].as_str().unwrap()).await;
    let report = report(&pods[0]);
    assert_eq!((left.len(), &report["exit_code"]), (1, &json!(14)), "{report}");
    assert_eq!(report["workloads"][0]["state"], "restored", "{report}");
    assert_eq!((replicas(world).await, remembered(world).await), (2, None));
    let scaled = |event: &Value| {
        event["reason"] == "ScalingReplicaSet"
            && event["message"].as_str().is_some_and(|message| message.ends_with("from 2 to 0"))
    };
    let mut events = world.list("events", "").await;
    events.retain(scaled);
    let times = events.iter().filter_map(|event| event["count"].as_u64()).sum::<u64>();
    assert_eq!(times, 1, "{events:#?}");
    world.serves("0.7.0").await;
    world.database.collection::<Document>("things").drop().await.unwrap();

    // In the middle of a sync nobody heals what the gate stopped.
    let middle = middle::hold(world).await;
    let resume = json!({ "gate": { "quiesce": { "resume": true } } });
    let values = merged(stopping(middle::upgrade()), resume);
    let synced = application.changed(&values);
    let watched = async {
        middle.reached(world).await;
        assert_eq!(replicas(world).await, 0);
        application.refresh().await;
        assert_eq!(replicas(world).await, 0);
        // nor at the next look that it takes by itself
        let looked = application.compared().await;
        let again = async || (application.compared().await != looked).then_some(());
        world.until("another comparison", again).await;
        assert_eq!(replicas(world).await, 0);
        middle.pass().await;
    };
    let (synced, ()) = tokio::join!(synced, watched);
    assert_eq!(synced["phase"], "Succeeded", "{synced:#}");
    world.serves("0.8.0").await;
    assert_eq!(replicas(world).await, 3);
    middle::finished(world).await;
    // Mode resume ran after the sync: it found the pods back, and forgot them.
    let forgotten = async || remembered(world).await.is_none().then_some(());
    world.until("the hook after the sync", forgotten).await;
    application.delete().await;
}

async fn the_default_engine_works_under_argo_cd_until_it_fails(world: &World) {
    let chart = world.lab_chart().await;
    let (application, first) = world.application(&chart, "lab", &lab::old()).await;
    assert_eq!(first["phase"], "Succeeded", "{first:#}");
    world.serves("0.7.0").await;
    assert_eq!(apps::history(&apps::record(&world.database).await), ["auto_stamp 0.7.0"]);
    filled(world).await;
    let before = db_hash(&world.database).await;

    // Nothing is lost but the reason.
    let wrong = lab::lab("0.8.0", "b", "0.8.0", "0.8.0=move_field,refuse");
    let failed = application.changed(&wrong).await;
    assert_eq!(failed["phase"], "Failed", "{failed:#}");
    assert_eq!(db_hash(&world.database).await, before);
    world.serves("0.7.0").await;

    let corrected = application.changed(&lab::new()).await;
    assert_eq!(corrected["phase"], "Succeeded", "{corrected:#}");
    world.serves("0.8.0").await;
    // One name: the Job that failed is gone, and each second try of Argo CD's fails without a run.
    let left = jobs(world).await;
    assert_eq!(left.len(), 1, "{left:#?}");
    assert_eq!(left[0]["status"]["succeeded"], 1, "{left:#?}");
    let record = apps::record(&world.database).await;
    assert_eq!(apps::history(&record), ["auto_stamp 0.7.0", "upgrade 0.8.0"]);
    assert_eq!(apps::count(&world.database, "things", doc! { "b": { "$exists": true } }).await, 20);
    application.delete().await;
}
