//! Upgrades that are killed in their middle, in every way that a cluster has, go on and take effect once.

use serde_json::Value;

use super::middle;
use super::runner::{BOTH, FOUR, Scenario, THREE, scenario};
use super::world::{World, report};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(FOUR, an_upgrade_whose_pod_is_deleted_by_force_goes_on),
        scenario!(THREE, an_upgrade_whose_container_the_runtime_kills_goes_on),
        scenario!(BOTH, an_upgrade_that_the_deadline_ends_goes_on_with_the_same_command),
        scenario!(BOTH, an_upgrade_left_by_ctrl_c_goes_on_with_the_same_command),
    ]
}

async fn an_upgrade_whose_pod_is_deleted_by_force_goes_on(world: &World) {
    let delete = async |pod: &Value| {
        let name = pod["metadata"]["name"].as_str().unwrap();
        world.kubectl(&["delete", "pod", name, "--force", "--grace-period=0"]).await;
    };
    one_command_survives(world, delete).await;
}

async fn an_upgrade_whose_container_the_runtime_kills_goes_on(world: &World) {
    let kill = async |pod: &Value| world.signal(pod, "SIGKILL").await;
    one_command_survives(world, kill).await;
    let pods = world.hook_pods().await;
    let codes: Vec<_> = pods.iter().map(exit_code).collect();
    assert_eq!(codes, [137, 0]);
    assert_eq!(report(&pods[1])["exit_code"], 0);
}

/// `helm upgrade` succeeds although the run that it started is ended in its middle.
async fn one_command_survives(world: &World, kill: impl AsyncFnOnce(&Value)) {
    let middle = middle::prepare(world).await;
    let helm = world.start_lab(&middle::upgrade(), &["--wait"]).await;
    let run = middle.reached(world).await;
    kill(&world.hook_pods().await[0]).await;
    middle::taken_over(world, &run).await;
    assert!(middle::unfinished(world).await.is_some());
    middle.pass().await;
    world.noted(helm).await.ok();
    world.serves("0.8.0").await;
    middle::finished(world).await;
}

async fn an_upgrade_that_the_deadline_ends_goes_on_with_the_same_command(world: &World) {
    let middle = middle::prepare(world).await;
    let helm = world.start_lab(&middle::upgrade(), &["--wait"]).await;
    let run = middle.reached(world).await;
    // As if it had run for as long as `hooks.timeout` says.
    let job = world.hook_job().await.unwrap();
    let over = r#"{"spec":{"activeDeadlineSeconds":1}}"#;
    world.kubectl(&["patch", "job", &job, "--type=merge", "--patch", over]).await;
    world.noted(helm).await.failed();
    // Kubernetes deletes the pod, with what it said: Helm 4 has nothing to print.
    let conditions = world.object(&format!("job/{job}")).await["status"]["conditions"].to_string();
    assert!(conditions.contains("DeadlineExceeded"), "{conditions}");
    world.until("the run's end", async || world.unlocked().await).await;
    assert_eq!(middle::unfinished(world).await, Some(run), "what it committed stays");
    world.serves("0.7.0").await;
    middle.pass().await;
    world.upgrade_lab(&middle::upgrade(), &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    middle::finished(world).await;
}

async fn an_upgrade_left_by_ctrl_c_goes_on_with_the_same_command(world: &World) {
    let middle = middle::prepare(world).await;
    let helm = world.start_lab(&middle::upgrade(), &["--wait"]).await;
    let run = middle.reached(world).await;
    helm.signal("INT");
    world.noted(helm).await.failed();
    assert_eq!(world.release("lab").await, "failed");
    assert_eq!(middle::unfinished(world).await.as_ref(), Some(&run), "the Job outlives helm");

    let again = world.start_lab(&middle::upgrade(), &["--wait"]).await;
    middle::taken_over(world, &run).await;
    middle.pass().await;
    world.noted(again).await.ok();
    world.serves("0.8.0").await;
    middle::finished(world).await;
}

fn exit_code(pod: &Value) -> i64 {
    let state = &pod["status"]["containerStatuses"][0]["state"];
    state["terminated"]["exitCode"].as_i64().unwrap()
}
