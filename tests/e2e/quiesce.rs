//! Old pods stopped while their data changes.

use mongodb::ClientSession;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use super::apps;
use super::gate::merged;
use super::lab;
use super::middle;
use super::runner::{BOTH, FOUR, Scenario, scenario};
use super::world::{World, report};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(BOTH, nothing_of_the_old_shape_is_written_beside_an_upgrade_that_quiesces),
        scenario!(BOTH, without_quiesce_a_writer_leaves_the_old_shape_behind),
        scenario!(BOTH, nothing_is_stopped_where_nothing_is_pending_or_allowed),
        scenario!(BOTH, a_failing_upgrade_restores_and_leaves_no_conflict_behind),
        scenario!(BOTH, somebody_who_scales_up_in_the_middle_ends_the_run_and_the_next_finishes),
        scenario!(BOTH, a_hook_that_is_killed_at_any_phase_is_finished_by_the_next),
        scenario!(BOTH, pods_that_do_not_stop_end_the_run_in_time_and_are_restored),
        scenario!(BOTH, resume_brings_back_what_no_chart_sets),
        scenario!(BOTH, what_cannot_be_stopped_is_named_before_any_write),
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

/// The report of the newest hook.
pub async fn hook_report(world: &World) -> Value {
    let pods = world.hook_pods().await;
    report(pods.last().unwrap_or_else(|| panic!("no pod of a hook")))
}

async fn nothing_of_the_old_shape_is_written_beside_an_upgrade_that_quiesces(world: &World) {
    installed(world, &merged(old(2), json!({ "writes": true }))).await;
    world.until("a writer", async || (old_shaped(world).await > 20).then_some(())).await;
    world.upgrade_lab(&merged(new(3), json!({ "writes": true })), &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    assert_eq!(old_shaped(world).await, 0);
    assert_eq!(replicas(world).await, 3);
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
    let before = pods(world).await;
    // refused at the first look: a document that is marked
    let marked = doc! { "_id": "marked", "a": 1, "bad": true };
    apps::fill(&world.database, "things", [marked]).await;
    let refusing = json!({ "gate": { "extraEnv": [
        { "name": "SCENARIO_CODE", "value": "0.8.0" },
        { "name": "SCENARIO_UPGRADES", "value": "0.8.0=refuse" },
    ] } });
    world.upgrade_lab(&merged(new(1), refusing), &[]).await.failed();
    let report = hook_report(world).await;
    assert!([13, 14].contains(&report["exit_code"].as_i64().unwrap()), "{report}");
    assert!(report["workloads"].is_null(), "{report}");
    // nothing pending
    let nothing = json!({ "gate": { "quiesce": { "workloads": ["deployment/lab"] } } });
    world.upgrade_lab(&merged(old(1), nothing), &[]).await.ok();
    assert_eq!(pods(world).await, before);
    assert_eq!(remembered(world).await, None);
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

/// A user's open transaction: the batch that changes this thing alone waits for its end.
async fn held(world: &World, id: i32) -> ClientSession {
    let mut session = world.database.client().start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let things = world.database.collection::<Document>("things");
    let touch = doc! { "$set": { "user": "was here" } };
    things.update_one(doc! { "_id": id }, touch).session(&mut session).await.unwrap();
    session
}

async fn a_hook_that_is_killed_at_any_phase_is_finished_by_the_next(world: &World) {
    installed(world, &old(3)).await;
    fill(world, 40).await;
    // a retry of the Job would be the next run at once
    let settings = json!({ "batchDocuments": 10, "lockLease": "3s" });
    let once = json!({ "gate": { "settings": settings, "hooks": { "backoffLimit": 0 } } });
    let values = merged(new(3), once);
    let scaled = async || (replicas(world).await == 0).then_some(());
    let left = async |documents: u64| (old_shaped(world).await == documents).then_some(());
    // after scaling and before the first write, in the middle, and when nothing but the end is missing
    let mut first = held(world, 0).await;
    kill_when(world, &values, scaled).await;
    assert_eq!(old_shaped(world).await, 40);
    let (mut half, mut last) = (held(world, 10).await, held(world, 39).await);
    first.commit_transaction().await.unwrap();
    kill_when(world, &values, async || left(30).await).await;
    half.commit_transaction().await.unwrap();
    kill_when(world, &values, async || left(1).await).await;
    last.commit_transaction().await.unwrap();
    let remembered = remembered(world).await.unwrap();
    let entry = remembered.get_array("workloads").unwrap()[0].as_document().unwrap();
    assert_eq!(entry.get("replicas").unwrap().to_string(), "3", "{entry}");
    assert_eq!(replicas(world).await, 0);
    world.upgrade_lab(&values, &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    assert_eq!((replicas(world).await, old_shaped(world).await), (3, 0));
    let touched = doc! { "user": "was here", "b": { "$exists": true } };
    assert_eq!(apps::count(&world.database, "things", touched).await, 3);
}

/// Upgrades the lab, and deletes the hook's pod without grace at some moment.
async fn kill_when(world: &World, values: &Value, moment: impl AsyncFnMut() -> Option<()>) {
    let killer = async {
        world.until("the moment to kill", moment).await;
        let pods = world.hook_pods().await;
        let name = pods.last().unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
        world.kubectl(&["delete", "pod", &name, "--force", "--grace-period=0"]).await;
        let jobs = world.list("jobs", "app.kubernetes.io/component=upgrade-gate").await;
        for job in jobs {
            let name = job["metadata"]["name"].as_str().unwrap();
            world.kubectl(&["delete", "job", name, "--cascade=foreground"]).await;
        }
    };
    let (_, ()) = tokio::join!(world.upgrade_lab(values, &["--timeout=60s"]), killer);
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
    let both = quiesce(&["deployment/lab", "deployment/own"]);
    // what is given back is the former release, which does not get ready: that is not waited for long
    let resume = json!({ "gate": { "quiesce": { "resume": true, "timeout": "20s" } } });
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
