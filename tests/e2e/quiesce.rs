//! Old pods stopped while their data changes.

use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use super::apps;
use super::events::told;
use super::gate::merged;
use super::lab;
use super::middle::{self, held};
use super::runner::{BOTH, FOUR, Scenario, THREE, scenario};
use super::world::{World, report};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(FOUR, nothing_of_the_old_shape_is_written_beside_an_upgrade_that_quiesces),
        scenario!(THREE, without_quiesce_a_writer_leaves_the_old_shape_behind),
        scenario!(BOTH, nothing_is_stopped_where_nothing_is_pending_or_allowed),
        scenario!(FOUR, a_condition_that_an_old_pod_breaks_as_it_stops_restores_it),
        scenario!(BOTH, a_failing_upgrade_restores_and_leaves_no_conflict_behind),
        scenario!(BOTH, an_upgrade_that_fails_half_way_keeps_the_pods_stopped_until_it_is_mended),
        scenario!(FOUR, somebody_who_scales_up_in_the_middle_ends_the_run_and_the_next_finishes),
        scenario!(BOTH, a_hook_that_is_killed_at_any_phase_is_finished_by_the_next),
        scenario!(THREE, pods_that_do_not_stop_end_the_run_in_time_and_are_restored),
        scenario!(BOTH, resume_brings_back_what_no_chart_sets),
        scenario!(FOUR, what_cannot_be_stopped_is_named_before_any_write),
        scenario!(FOUR, the_role_allows_what_is_needed_and_nothing_else),
    ]
}

/// The gate's values for these workloads.
pub fn quiesce(workloads: &[&str]) -> Value {
    json!({ "gate": { "quiesce": { "workloads": workloads }, "events": { "enabled": true } } })
}

/// Values of the lab's release 0.7.0, with so many pods.
pub fn old(replicas: u32) -> Value {
    let fresh = json!({ "replicas": replicas, "gate": { "settings": { "initialise": "fresh" } } });
    merged(lab::old(), fresh)
}

/// Values of the release 0.8.0, whose gate stops the pods of 0.7.0.
pub fn new(replicas: u32) -> Value {
    merged(lab::new(), merged(quiesce(&["deployment/lab"]), json!({ "replicas": replicas })))
}

pub async fn installed(world: &World, values: &Value) {
    world.upgrade_lab(values, &["--wait"]).await.ok();
    world.serves("0.7.0").await;
}

pub async fn fill(world: &World, documents: i32) {
    apps::fill(&world.database, "things", (0..documents).map(|n| doc! { "_id": n, "a": n })).await;
}

pub async fn old_shaped(world: &World) -> u64 {
    apps::count(&world.database, "things", doc! { "a": { "$exists": true } }).await
}

pub async fn replicas(world: &World) -> u64 {
    world.object("deployment/lab").await["spec"]["replicas"].as_u64().unwrap()
}

/// What is remembered of workloads.
pub async fn remembered(world: &World) -> Option<Document> {
    let id = doc! { "_id": "scenario_schema_version.quiesced" };
    world.database.collection::<Document>(apps::METADATA).find_one(id).await.unwrap()
}

/// The number that is remembered of the only one.
pub async fn remembered_replicas(world: &World) -> i64 {
    let remembered = remembered(world).await.unwrap_or_else(|| panic!("nothing is remembered"));
    let workloads = remembered.get_array("workloads").unwrap();
    assert_eq!(workloads.len(), 1, "{remembered}");
    let replicas = workloads[0].as_document().unwrap().get("replicas").unwrap();
    replicas.as_i64().or(replicas.as_i32().map(i64::from)).unwrap()
}

/// The report of the newest hook.
pub async fn hook_report(world: &World) -> Value {
    let pods = world.hook_pods().await;
    report(pods.last().unwrap_or_else(|| panic!("no pod of a hook")))
}

async fn nothing_of_the_old_shape_is_written_beside_an_upgrade_that_quiesces(world: &World) {
    let batches = json!({ "writes": true, "gate": { "settings": { "batchDocuments": 10 } } });
    installed(world, &merged(old(2), json!({ "writes": true }))).await;
    let things = world.database.collection::<Document>("things");
    let by_old = doc! { "lab": "0.7.0" };
    let writers = async || {
        let pods = things.distinct("pod", by_old.clone()).await.unwrap();
        (pods.len() == 2 && old_shaped(world).await > 40).then_some(())
    };
    world.until("two writers", writers).await;
    let third = things.find_one(doc! {}).sort(doc! { "_id": 1 }).skip(25).await.unwrap().unwrap();
    let mut user = held(world, "things", third.get_object_id("_id").unwrap()).await;

    // in the third batch, no pod is there, and none wrote since the upgrade began
    let helm = world.start_lab(&merged(new(3), batches), &["--wait"]).await;
    let moved = doc! { "b": { "$exists": true } };
    let half = async || {
        let moved = apps::count(&world.database, "things", moved.clone()).await;
        (moved >= 20).then_some(())
    };
    world.until("the middle of the upgrade", half).await;
    let alive = world.list("pods", "app=lab").await.into_iter().filter(is_alive);
    assert_eq!((replicas(world).await, alive.collect::<Vec<_>>()), (0, vec![]));
    let record = apps::record(&world.database).await;
    let began = *record.get_document("journal").unwrap().get_datetime("started").unwrap();
    let last = things.find_one(by_old.clone()).sort(doc! { "at": -1 }).await.unwrap().unwrap();
    assert!(*last.get_datetime("at").unwrap() < began, "{last} {began}");
    let written = apps::count(&world.database, "things", by_old.clone()).await;
    assert_eq!(apps::count(&world.database, "things", doc! {}).await, written);

    user.commit_transaction().await.unwrap();
    world.noted(helm).await.ok();
    world.serves("0.8.0").await;
    assert_eq!(apps::count(&world.database, "things", by_old).await, written);
    assert_eq!(old_shaped(world).await, 0);
    assert_eq!(replicas(world).await, 3);
    let events = told(world).await;
    let reasons: Vec<&str> = events.iter().map(|(reason, ..)| reason.as_str()).collect();
    assert_eq!(reasons, ["UpgradeStarted", "Quiesced", "UpgradeApplied", "GateOpen"], "{events:?}");
    assert!(events[1].2.starts_with("stopped deployment/lab (2) in "), "{events:?}");
    let described = world.kubectl(&["describe", "job", &world.hook_job().await.unwrap()]).await;
    assert!(described.contains(&events[1].2), "{described}");
    let report = hook_report(world).await;
    // with nobody beside it, nothing is found late, and nothing has to be said of it
    assert_eq!(report["upgrades"][0]["late"], 0, "{report}");
    assert!(report["warnings"].is_null(), "{report}");
    assert_eq!(report["workloads"][0]["state"], "stopped", "{report}");
}

/// The twin.
async fn without_quiesce_a_writer_leaves_the_old_shape_behind(world: &World) {
    installed(world, &merged(old(2), json!({ "writes": true }))).await;
    world.until("a writer", async || (old_shaped(world).await > 20).then_some(())).await;
    let values =
        merged(new(3), json!({ "writes": true, "gate": { "quiesce": { "workloads": [] } } }));
    world.upgrade_lab(&values, &[]).await.ok();
    world.until("the loss", async || (old_shaped(world).await > 0).then_some(())).await;
    assert!(hook_report(world).await["warnings"][0].as_str().unwrap().contains("still running"));
}

async fn nothing_is_stopped_where_nothing_is_pending_or_allowed(world: &World) {
    installed(world, &old(1)).await;
    fill(world, 3).await;
    let scaled = async || world.object("deployment/lab").await["metadata"]["generation"].clone();
    let before = (pods(world).await, scaled().await);
    // refused at the first look: by a condition, or for a document that is marked
    apps::fill(&world.database, "tasks", [doc! { "running": true }]).await;
    let marked = doc! { "_id": "marked", "a": 1, "bad": true };
    apps::fill(&world.database, "things", [marked]).await;
    for (upgrade, code) in [("idle", 13), ("refuse", 14)] {
        world.upgrade_lab(&merged(new(1), upgrading(upgrade)), &[]).await.failed();
        let report = hook_report(world).await;
        assert_eq!(report["exit_code"], code, "{report}");
        assert!(report["workloads"].is_null(), "{report}");
        assert_eq!((pods(world).await, scaled().await), before);
    }
    // nothing pending
    let nothing = json!({ "gate": { "quiesce": { "workloads": ["deployment/lab"] } } });
    world.upgrade_lab(&merged(old(1), nothing), &[]).await.ok();
    assert_eq!(pods(world).await, before.0);
    assert_eq!(remembered(world).await, None);
}

/// Values with this upgrade to 0.8.0 in place of another.
fn upgrading(upgrade: &str) -> Value {
    json!({ "gate": { "extraEnv": [
        { "name": "SCENARIO_CODE", "value": "0.8.0" },
        { "name": "SCENARIO_UPGRADES", "value": format!("0.8.0={upgrade}") },
    ] } })
}

async fn a_condition_that_an_old_pod_breaks_as_it_stops_restores_it(world: &World) {
    installed(world, &merged(old(2), json!({ "leaves": "tasks" }))).await;
    fill(world, 3).await;
    let values = merged(new(3), upgrading("idle"));
    world.upgrade_lab(&values, &[]).await.failed().says("no task is running");
    let report = hook_report(world).await;
    assert_eq!(report["exit_code"], 13, "{report}");
    assert_eq!(report["workloads"][0]["state"], "restored", "{report}");
    let reasons: Vec<String> = told(world).await.into_iter().map(|(reason, ..)| reason).collect();
    let stopped = ["UpgradeStarted", "Quiesced", "Resumed", "UpgradeFailed", "GateClosed"];
    assert_eq!(reasons, stopped);
    assert_eq!((replicas(world).await, remembered(world).await), (2, None));
    assert_eq!(apps::count(&world.database, "tasks", doc! {}).await, 2);
    let record = apps::record(&world.database).await;
    assert_eq!(apps::history(&record), ["auto_stamp 0.7.0"]);
    assert!(!record.contains_key("journal"), "{record}");
    assert_eq!(old_shaped(world).await, 3);
    world.serves("0.7.0").await;

    // somebody stops them, ends what they left, and goes on
    world.kubectl(&["scale", "deployment/lab", "--replicas=0"]).await;
    let over = async || (!world.list("pods", "app=lab").await.iter().any(is_alive)).then_some(());
    world.until("the end of the pods", over).await;
    world.database.collection::<Document>("tasks").drop().await.unwrap();
    world.upgrade_lab(&values, &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    assert_eq!((replicas(world).await, old_shaped(world).await), (3, 0));
}

/// Whether a pod still runs, or may do so.
fn is_alive(pod: &Value) -> bool {
    let phase = &pod["status"]["phase"];
    phase != "Succeeded" && phase != "Failed"
}

/// The UIDs of the lab's pods.
async fn pods(world: &World) -> Vec<String> {
    let pods = world.pods("app=lab").await;
    let mut uids: Vec<String> = pods.iter().map(|pod| pod["metadata"]["uid"].to_string()).collect();
    uids.sort();
    uids
}

async fn a_failing_upgrade_restores_and_leaves_no_conflict_behind(world: &World) {
    installed(world, &old(2)).await;
    fill(world, 2).await;
    // what only the server knows: two documents become equal in a unique field
    apps::fill(&world.database, "things", [doc! { "_id": "same", "a": 1 }]).await;
    let partial = doc! { "b": { "$exists": true } };
    let unique = doc! { "createIndexes": "things", "indexes": [
        { "key": { "b": 1 }, "name": "b", "unique": true, "partialFilterExpression": partial },
    ] };
    world.database.run_command(unique).await.unwrap();
    let failed = world.upgrade_lab(&new(2), &[]).await.failed();
    let report = hook_report(world).await;
    assert_eq!(report["exit_code"], 14, "{report}");
    assert_eq!(report["workloads"][0]["state"], "restored", "{report} {failed}");
    assert_eq!((replicas(world).await, remembered(world).await), (2, None));
    assert_eq!(old_shaped(world).await, 3);
    world.serves("0.7.0").await;
    let things = world.database.collection::<Document>("things");
    things.delete_one(doc! { "_id": "same" }).await.unwrap();
    // an ordinary upgrade that changes the number
    world.upgrade_lab(&new(4), &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    assert_eq!((replicas(world).await, old_shaped(world).await), (4, 0));
    let deployment =
        world.kubectl(&["get", "deployment/lab", "--show-managed-fields", "-o", "json"]).await;
    assert!(!deployment.contains("upgrade-gate"), "{deployment}");
}

async fn an_upgrade_that_fails_half_way_keeps_the_pods_stopped_until_it_is_mended(world: &World) {
    installed(world, &old(2)).await;
    apps::fill(&world.database, "things", (0..20).map(|n| doc! { "_id": n, "a": n, "n": n })).await;
    // what only the server knows: the key of the one in the third batch is taken
    let things = world.database.collection::<Document>("things");
    let partial = doc! { "unique_key": { "$exists": true } };
    let unique = doc! { "createIndexes": "things", "indexes": [
        { "key": { "unique_key": 1 }, "name": "key", "unique": true, "partialFilterExpression": partial },
    ] };
    world.database.run_command(unique).await.unwrap();
    let clash = doc! { "$set": { "clash": true } };
    things.update_one(doc! { "_id": 12 }, clash).await.unwrap();
    let batches = json!({ "field": "a", "gate": { "settings": { "batchDocuments": 5 } } });
    let values = merged(merged(new(3), upgrading("clash")), batches);
    let keyed = async || {
        let keyed = doc! { "unique_key": { "$exists": true } };
        apps::count(&world.database, "things", keyed).await
    };
    // however often the same is tried
    for flags in [&[][..], &["--wait"]] {
        let failed = world.upgrade_lab(&values, flags).await.failed();
        failed
            .says("document 12 of things: duplicate key")
            .says("0.8.0 is unfinished after 10 documents")
            .says("correct the document, or deploy code whose upgrade can deal with it, then run it again")
            .says("deployment/lab must stay at 0 until a run has finished the upgrade");
        let report = hook_report(world).await;
        assert_eq!(report["exit_code"], 14, "{report}");
        assert_eq!(report["unfinished"]["documents"], 10, "{report}");
        assert_eq!((replicas(world).await, remembered_replicas(world).await), (0, 2));
        assert!(apps::record(&world.database).await.contains_key("journal"));
        assert_eq!(keyed().await, 10);
    }

    things.update_one(doc! { "_id": 12 }, doc! { "$unset": { "clash": "" } }).await.unwrap();
    world.upgrade_lab(&values, &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    assert_eq!((replicas(world).await, keyed().await), (3, 20));
    let record = apps::record(&world.database).await;
    assert_eq!(apps::history(&record), ["auto_stamp 0.7.0", "upgrade 0.8.0"]);
    assert!(!record.contains_key("journal"), "{record}");
}

async fn somebody_who_scales_up_in_the_middle_ends_the_run_and_the_next_finishes(world: &World) {
    let middle = middle::prepare(world).await;
    let values = merged(middle::upgrade(), quiesce(&["deployment/lab"]));
    let values = merged(values, json!({ "replicas": 3 }));
    let somebody = async {
        let run = middle.reached(world).await;
        world.kubectl(&["scale", "deployment/lab", "--replicas=2"]).await;
        run
    };
    let (failed, run) = tokio::join!(world.upgrade_lab(&values, &[]), somebody);
    failed.failed().says("started again").says("must stay at 0");
    let report = hook_report(world).await;
    assert_eq!(report["exit_code"], 23, "{report}");
    assert!(report["unfinished"]["documents"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(middle::unfinished(world).await, Some(run));
    // what somebody set is left as it is: the old pods wait behind the floor
    assert_eq!(replicas(world).await, 2);
    middle.pass().await;
    world.upgrade_lab(&values, &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    assert_eq!(replicas(world).await, 3);
    middle::finished(world).await;
}

async fn a_hook_that_is_killed_at_any_phase_is_finished_by_the_next(world: &World) {
    // they stop so late that the first hook is killed while it waits for them
    installed(world, &merged(old(3), json!({ "stopAfter": 10 }))).await;
    fill(world, 40).await;
    // a retry of the Job would be the next run at once
    let settings = json!({ "batchDocuments": 10, "lockLease": "3s" });
    let once = json!({ "gate": { "settings": settings, "hooks": { "backoffLimit": 0 } } });
    let values = merged(new(3), once);
    let scaled = async || (replicas(world).await == 0).then_some(());
    let left = async |documents: u64| (old_shaped(world).await == documents).then_some(());
    let stays = async |documents: u64, journal: bool| {
        assert_eq!((replicas(world).await, remembered_replicas(world).await), (0, 3));
        assert_eq!(old_shaped(world).await, documents);
        let record = apps::record(&world.database).await;
        assert_eq!(record.contains_key("journal"), journal, "{record}");
        assert_eq!(record.get_str("version").unwrap(), "0.7.0");
    };
    // after scaling and before the first write, in the middle, and when nothing but the end is missing
    kill_when(world, &values, scaled).await;
    stays(40, false).await;
    let mut half = held(world, "things", 10).await;
    let mut last = held(world, "things", 39).await;
    kill_when(world, &values, async || left(30).await).await;
    stays(30, true).await;
    half.commit_transaction().await.unwrap();
    kill_when(world, &values, async || left(1).await).await;
    stays(1, true).await;
    last.commit_transaction().await.unwrap();
    world.upgrade_lab(&values, &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    assert_eq!((replicas(world).await, old_shaped(world).await), (3, 0));
    let touched = doc! { "user": "was here", "b": { "$exists": true } };
    assert_eq!(apps::count(&world.database, "things", touched).await, 2);
}

/// Upgrades the lab, and kills the only run of its hook at some moment.
async fn kill_when(world: &World, values: &Value, moment: impl AsyncFnMut() -> Option<()>) {
    let killer = async {
        world.until("the moment to kill", moment).await;
        world.signal(&world.hook_pods().await[0], "SIGKILL").await;
    };
    let (failed, ()) = tokio::join!(world.upgrade_lab(values, &[]), killer);
    failed.failed();
    let pods = world.hook_pods().await;
    let state = |pod: &Value| pod["status"]["containerStatuses"][0]["state"].clone();
    let codes: Vec<_> =
        pods.iter().map(|pod| state(pod)["terminated"]["exitCode"].clone()).collect();
    assert_eq!(codes, [137], "{pods:?}");
}

async fn pods_that_do_not_stop_end_the_run_in_time_and_are_restored(world: &World) {
    installed(world, &merged(old(2), json!({ "writes": true, "stopAfter": 25 }))).await;
    let impatient = json!({ "gate": { "quiesce": { "timeout": "3s" } } });
    world
        .upgrade_lab(&merged(new(2), impatient), &[])
        .await
        .failed()
        .says("did not stop within 3s");
    let report = hook_report(world).await;
    assert_eq!(report["exit_code"], 23, "{report}");
    assert_eq!(report["workloads"][0]["state"], "restored", "{report}");
    assert_eq!((replicas(world).await, remembered(world).await), (2, None));
    assert_eq!(apps::record(&world.database).await.get_str("version").unwrap(), "0.7.0");
    world.serves("0.7.0").await;
}

async fn resume_brings_back_what_no_chart_sets(world: &World) {
    installed(world, &old(1)).await;
    fill(world, 3).await;
    // a Deployment of which no chart knows the number
    let template = &world.object("deployment/lab").await["spec"]["template"]["spec"]["containers"];
    let mut labels = json!({ "app": "own" });
    world.apply(json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "own" },
        "spec": {
            "replicas": 2, "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels.take() }, "spec": {
                "containers": template,
                "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
            } },
        },
    }))
    .await;
    world.kubectl(&["rollout", "status", "deployment/own", "--timeout=2m"]).await;
    let both = quiesce(&["deployment/lab", "deployment/own"]);
    // what is given back is the former release, which does not get ready: that is not waited for long
    let resume = json!({ "gate": { "quiesce": { "resume": true, "timeout": "30s" } } });
    let values = merged(merged(new(1), both), resume);
    world.upgrade_lab(&values, &["--timeout=4m"]).await.ok();
    world.serves("0.8.0").await;
    let own = world.object("deployment/own").await;
    assert_eq!(own["spec"]["replicas"], 2, "{own}");
    assert_eq!((replicas(world).await, remembered(world).await), (1, None));
}

async fn what_cannot_be_stopped_is_named_before_any_write(world: &World) {
    installed(world, &old(1)).await;
    fill(world, 3).await;
    let refused = async |workloads: &[&str], more: Value, code: i64, says: &[&str]| {
        let values = merged(merged(new(1), quiesce(workloads)), more);
        let output = world.upgrade_lab(&values, &[]).await.failed();
        let report = hook_report(world).await;
        assert_eq!(report["exit_code"], code, "{report} {output}");
        for part in says {
            assert!(report.to_string().contains(part), "{part} is missing in {report}");
        }
        assert_eq!((replicas(world).await, old_shaped(world).await), (1, 3));
        assert_eq!(remembered(world).await, None);
    };
    let without_role = json!({ "gate": { "rbac": { "create": false } } });
    refused(&["deployment/lab"], without_role, 17, &["get deployments", "deployment"]).await;
    // the gate's own pod
    let own = json!({ "gate": { "podLabels": { "app": "lab" } } });
    refused(&["deployment/lab"], own, 16, &["the gate's own pod"]).await;
    // a missing one is a warning, and the lab's own pods are not named
    let values = merged(new(1), quiesce(&["deployment/nowhere"]));
    world.upgrade_lab(&values, &["--wait"]).await.ok();
    let report = hook_report(world).await;
    assert!(report["warnings"][0].as_str().unwrap().contains("deployment/nowhere"), "{report}");
}

async fn the_role_allows_what_is_needed_and_nothing_else(world: &World) {
    installed(world, &old(1)).await;
    fill(world, 1).await;
    world.upgrade_lab(&new(1), &["--wait"]).await.ok();
    let account =
        world.hook_pods().await[0]["spec"]["serviceAccountName"].as_str().unwrap().to_owned();
    let account = format!("--as=system:serviceaccount:{}:{account}", world.namespace);
    let can = async |verb: &str, resource: &str, sub: &str| {
        let mut line = vec!["auth", "can-i", verb, resource, &account];
        let sub = format!("--subresource={sub}");
        if sub != "--subresource=" {
            line.push(&sub);
        }
        world.try_kubectl(&line, None).await.code == Some(0)
    };
    for (verb, resource, sub) in [
        ("get", "deployments.apps/lab", ""),
        ("get", "deployments.apps/lab", "scale"),
        ("patch", "deployments.apps/lab", "scale"),
        ("list", "pods", ""),
        ("create", "events.events.k8s.io", ""),
        ("patch", "events.events.k8s.io", ""),
    ] {
        assert!(can(verb, resource, sub).await, "may not {verb} {resource} {sub}");
    }
    for (verb, resource, sub) in [
        ("patch", "deployments.apps/lab", ""),
        ("update", "deployments.apps/lab", "scale"),
        ("get", "deployments.apps/other", ""),
        ("patch", "deployments.apps/other", "scale"),
        ("list", "deployments.apps", ""),
        ("get", "statefulsets.apps/lab", ""),
        ("get", "pods", ""),
        ("delete", "pods", ""),
        ("get", "secrets", ""),
        ("list", "secrets", ""),
        ("get", "events.events.k8s.io", ""),
        ("create", "events", ""),
        ("create", "pods", "exec"),
    ] {
        assert!(!can(verb, resource, sub).await, "may {verb} {resource} {sub}");
    }
}
