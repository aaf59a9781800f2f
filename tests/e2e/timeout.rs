//! helm gives up, or goes back, while the Job that it started runs on.

use serde_json::Value;

use super::gate::merged;
use super::guide::Operator;
use super::middle::{self, Middle};
use super::quiesce::{hook_report, quiesce, replicas};
use super::runner::{BOTH, Scenario, scenario};
use super::support::guide::commands;
use super::world::{World, report};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(BOTH, a_timeout_of_helm_leaves_the_upgrade_running),
        scenario!(BOTH, a_timeout_of_helm_with_the_rollback_flag_keeps_old_pods_out),
        scenario!(BOTH, a_timeout_of_helm_leaves_the_pods_stopped_until_the_next_command),
        scenario!(BOTH, pods_that_a_rollback_flag_brings_back_beside_the_upgrade_end_it_and_wait),
        scenario!(BOTH, the_job_is_ended_before_a_rollback),
        scenario!(BOTH, a_rollback_leaves_the_job_to_whoever_deletes_it),
    ]
}

/// helm gives up while the upgrade stands in its middle: after a time that is enough to get there, and
/// says so. Returns the id of the run that runs on.
async fn times_out(world: &World, middle: &Middle, values: &Value, flag: &str) -> String {
    let helm = world.start_lab(values, &[flag, "--timeout", "12s"]).await;
    let run = middle.reached(world).await;
    let text = world.noted(helm).await.failed().text();
    let says = ["timed out", "context deadline exceeded"];
    assert!(says.iter().any(|words| text.contains(words)), "{text}");
    run
}

async fn a_timeout_of_helm_leaves_the_upgrade_running(world: &World) {
    let middle = middle::prepare(world).await;
    let run = times_out(world, &middle, &middle::upgrade(), "--wait").await;
    assert_eq!(world.release("lab").await, "failed");
    assert_eq!(middle::unfinished(world).await, Some(run), "it runs on");
    middle.pass().await;
    world.job_ends().await;
    assert_eq!(report(&world.hook_pods().await[0])["exit_code"], 0);
    middle::finished(world).await;
    // The old pods were not touched, and what they know has not changed.
    world.serves("0.7.0").await;

    world.upgrade_lab(&middle::upgrade(), &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    middle::finished(world).await;
}

async fn a_timeout_of_helm_with_the_rollback_flag_keeps_old_pods_out(world: &World) {
    let middle = middle::prepare(world).await;
    let run = times_out(world, &middle, &middle::upgrade(), world.helm.rollback_flag()).await;
    assert_eq!(world.release("lab").await, "deployed");
    assert_eq!(middle::unfinished(world).await, Some(run), "it runs on");

    // An old pod that starts beside the Job stays out: now, and after the upgrade.
    world.kubectl(&["delete", "pod", "--selector=app=lab"]).await;
    let refused = report(&world.refused_pod("app=lab").await);
    let message = refused["message"].as_str().unwrap();
    assert!(message.starts_with("an upgrade to 0.8.0 by code 0.8.0 on "), "{refused}");
    assert!(
        message.ends_with(" is unfinished, and this binary, 0.7.0, does not know it"),
        "{refused}"
    );
    middle.pass().await;
    world.job_ends().await;
    middle::finished(world).await;
    world.kubectl(&["delete", "pod", "--selector=app=lab"]).await;
    let refused = report(&world.refused_pod("app=lab").await);
    assert!(refused["message"].as_str().unwrap().contains("the floor is 0.8.0"), "{refused}");
    assert_eq!(world.fetch("lab").await, None);

    world.upgrade_lab(&middle::upgrade(), &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    middle::finished(world).await;
}

/// The same upgrade with the old pods stopped.
fn stopping() -> Value {
    merged(middle::upgrade(), quiesce(&["deployment/lab"]))
}

async fn a_timeout_of_helm_leaves_the_pods_stopped_until_the_next_command(world: &World) {
    let middle = middle::prepare(world).await;
    let run = times_out(world, &middle, &stopping(), "--wait").await;
    assert_eq!(world.release("lab").await, "failed");
    assert_eq!(middle::unfinished(world).await, Some(run), "it runs on");
    assert_eq!(replicas(world).await, 0);
    middle.pass().await;
    world.job_ends().await;
    assert_eq!(report(&world.hook_pods().await[0])["exit_code"], 0);
    middle::finished(world).await;
    assert_eq!(replicas(world).await, 0, "only the release that waits for them brings pods");

    world.upgrade_lab(&stopping(), &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    assert_eq!(replicas(world).await, 1);
    middle::finished(world).await;
}

async fn pods_that_a_rollback_flag_brings_back_beside_the_upgrade_end_it_and_wait(world: &World) {
    let middle = middle::prepare(world).await;
    let run = times_out(world, &middle, &stopping(), world.helm.rollback_flag()).await;
    // The rollback has its pods again, and waits for them in vain.
    assert_eq!((world.release("lab").await.as_str(), replicas(world).await), ("failed", 1));

    // The Job that runs on ends at a safe point, and the old pods stay out.
    world.job_ends().await;
    let ended = hook_report(world).await;
    assert_eq!(ended["exit_code"], 23, "{ended}");
    assert!(ended["message"].as_str().unwrap().contains("was started again"), "{ended}");
    assert_eq!(ended["unfinished"]["documents"], 50, "{ended}");
    let refused = report(&world.refused_pod("app=lab").await);
    let message = refused["message"].as_str().unwrap();
    assert!(message.ends_with("this binary, 0.7.0, does not know it"), "{refused}");
    assert_eq!(middle::unfinished(world).await, Some(run));
    assert_eq!(world.fetch("lab").await, None);

    middle.pass().await;
    world.upgrade_lab(&stopping(), &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    assert_eq!(replicas(world).await, 1);
    middle::finished(world).await;
}

/// The machine that helm runs on is lost in the middle of an upgrade: only a rollback frees the release.
async fn helm_is_lost(world: &World) -> (Middle, String) {
    let middle = middle::prepare(world).await;
    let helm = world.start_lab(&middle::upgrade(), &["--wait"]).await;
    let run = middle.reached(world).await;
    helm.signal("KILL");
    world.noted(helm).await.failed();
    let refused = world.upgrade_lab(&middle::upgrade(), &[]).await.failed();
    refused.says("another operation (install/upgrade/rollback) is in progress");
    (middle, run)
}

/// As the guide has it.
async fn the_job_is_ended_before_a_rollback(world: &World) {
    let (middle, run) = helm_is_lost(world).await;
    let end = commands("end-the-job").replace("=my-app", "=lab");
    Operator::new(world).run(&end).await.ok();
    world.until("the run's end", async || world.unlocked().await).await;
    world.helm(&["rollback", "lab", "1", "--wait"]).await.ok();
    world.serves("0.7.0").await;
    middle.pass().await;
    assert_eq!(middle::unfinished(world).await, Some(run), "what it committed stays");
    world.upgrade_lab(&middle::upgrade(), &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    middle::finished(world).await;
}

/// What the guide warns of.
async fn a_rollback_leaves_the_job_to_whoever_deletes_it(world: &World) {
    let (middle, run) = helm_is_lost(world).await;
    world.helm(&["rollback", "lab", "1", "--wait"]).await.ok();
    world.serves("0.7.0").await;
    assert_eq!(middle::unfinished(world).await.as_ref(), Some(&run), "it runs on");
    let gate = "--selector=app.kubernetes.io/component=upgrade-gate";
    world.kubectl(&["delete", "job", gate]).await;
    world.until("the run's end", async || world.unlocked().await).await;
    middle.pass().await;
    assert_eq!(middle::unfinished(world).await, Some(run), "what it committed stays");

    world.upgrade_lab(&middle::upgrade(), &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    middle::finished(world).await;
}
