//! Jobs that somebody starts by hand, from the suspended CronJob.

use mongodb::bson::{Document, doc};
use serde_json::Value;

use super::apps;
use super::gate::scenario;
use super::runner::{Scenario, THREE, scenario};
use super::support::db_hash;
use super::world::{World, report};

pub fn scenarios() -> Vec<Scenario> {
    vec![scenario!(THREE, a_job_by_hand_plans_what_the_next_one_does)]
}

/// The release's CronJob.
const GATE: &str = "gate-upgrade-gate";

/// The next version's image in place of today's.
const NEXT: [&str; 2] = ["SCENARIO_CODE=0.8.0", "SCENARIO_UPGRADES=0.8.0=move_field,refuse"];

async fn a_job_by_hand_plans_what_the_next_one_does(world: &World) {
    world.upgrade_gate(&scenario("0.7.0", ""), &[]).await.ok();
    let things = (0..30).map(|n| doc! { "_id": n, "a": n });
    apps::fill(&world.database, "things", things).await;
    apps::fill(&world.database, "things", [doc! { "a": 99, "bad": true }]).await;

    // As it is: the version that runs has nothing to do.
    world.kubectl(&["create", "job", "today", "--from=cronjob/gate-upgrade-gate"]).await;
    assert_eq!(ended(world, "today").await["exit_code"], 0);

    // The next version finds what it could not change before it changes anything.
    let before = db_hash(&world.database).await;
    by_hand(world, GATE, "refused-plan", &NEXT).await;
    by_hand(world, GATE, "refused", &[NEXT[0], NEXT[1], "GATE_MODE=upgrade"]).await;
    let refused = ended(world, "refused-plan").await;
    assert_eq!(refused["exit_code"], 14, "{refused}");
    let refused = ended(world, "refused").await;
    assert_eq!(refused["exit_code"], 14, "{refused}");
    assert_eq!(db_hash(&world.database).await, before);
    assert_eq!(world.pods_of("refused").await.len(), 1);

    let things = world.database.collection::<Document>("things");
    things.delete_one(doc! { "bad": true }).await.unwrap();
    let before = db_hash(&world.database).await;
    by_hand(world, GATE, "plan", &NEXT).await;
    let plan = ended(world, "plan").await;
    assert_eq!(plan["exit_code"], 10, "{plan}");
    assert_eq!(db_hash(&world.database).await, before);

    by_hand(world, GATE, "upgrade", &[NEXT[0], NEXT[1], "GATE_MODE=upgrade"]).await;
    let upgrade = ended(world, "upgrade").await;
    assert_eq!(upgrade["exit_code"], 0, "{upgrade}");
    assert_eq!(actions(&plan), actions(&upgrade));
    assert_eq!(apps::count(&world.database, "things", doc! { "b": { "$exists": true } }).await, 30);
    let record = apps::record(&world.database).await;
    assert_eq!(apps::history(&record), ["auto_stamp 0.7.0", "upgrade 0.8.0"]);
}

/// A Job with other variables than the CronJob's.
pub async fn by_hand(world: &World, cronjob: &str, name: &str, variables: &[&str]) {
    let create = ["create", "job", name, &format!("--from=cronjob/{cronjob}")];
    let job = world.kubectl(&[&create[..], &["--dry-run=client", "--output=yaml"]].concat()).await;
    let set = [&["set", "env", "--local", "--filename=-", "--output=yaml"], variables].concat();
    let job = world.try_kubectl(&set, Some(&job)).await.ok().stdout;
    world.apply_yaml(&job).await;
}

/// Waits for the end of a Job, and reads the report of its last pod.
pub async fn ended(world: &World, job: &str) -> Value {
    let over = async || {
        let job = world.find(&format!("job/{job}")).await?;
        let conditions = job["status"]["conditions"].as_array()?;
        let over = |condition: &Value| {
            ["Complete", "Failed"].contains(&condition["type"].as_str().unwrap())
        };
        conditions.iter().any(over).then_some(())
    };
    world.until(&format!("the end of job/{job}"), over).await;
    world.pods_of(job).await.last().map_or(Value::Null, report)
}

/// What each upgrade of a report does.
fn actions(report: &Value) -> Vec<&Value> {
    let upgrades = report["upgrades"].as_array().unwrap_or_else(|| panic!("{report}"));
    upgrades.iter().map(|upgrade| &upgrade["actions"]).collect()
}
