//! What was written just before a run, and what a majority does not have yet: a plan counts it as the run
//! does, or says that it cannot.

mod apps;
mod support;

use apps::{assert_code, counted, fill, record_old, scenario};
use mongodb::bson::{Document, doc};
use mongodb::options::{Acknowledgment, ClientOptions, DatabaseOptions, WriteConcern};
use mongodb::{Client, Database};
use support::{Fresh, Server, eventually};

/// The same database, where a write is acknowledged by the primary alone.
fn hasty(database: &Fresh) -> Database {
    let one = WriteConcern::builder().w(Acknowledgment::Nodes(1)).build();
    let options = DatabaseOptions::builder().write_concern(one).build();
    database.client().database_with_options(database.name(), options)
}

/// Keeps the secondaries from copying writes, or lets them go on.
async fn hold_secondaries(server: &Server, mode: &str) {
    let primary = server.primary().await;
    for member in (0..3).filter(|member| *member != primary) {
        let mut options = ClientOptions::parse(server.uri("")).await.unwrap();
        options.hosts = vec![options.hosts[member].clone()];
        options.direct_connection = Some(true);
        options.repl_set_name = None;
        let admin = Client::with_options(options).unwrap().database("admin");
        let set = doc! { "configureFailPoint": "stopReplProducer", "mode": mode };
        admin.run_command(set).await.unwrap();
    }
}

/// Whether a gate's read waits for a majority.
async fn held_up(database: &Fresh) -> Option<()> {
    let under_way = [
        doc! { "$currentOp": { "allUsers": true, "localOps": true } },
        doc! { "$match": {
            "command.$db": database.name(),
            "command.readConcern.afterClusterTime": { "$exists": true },
        } },
    ];
    let admin = database.client().database("admin");
    let mut operations = admin.aggregate(under_way).await.unwrap();
    operations.advance().await.unwrap().then_some(())
}

#[tokio::test]
async fn a_plan_counts_what_was_written_just_before_it() {
    let database = Server::shared().await.database().await;
    record_old(&database).await;
    let hasty = hasty(&database);
    for n in 1..=20 {
        fill(&hasty, "things", [doc! { "_id": n, "a": n }]).await;
        let gate = scenario(&database.uri, "0.8.0", "0.8.0=move_field");
        let plan = gate.mode("plan").run().await;
        assert_code(&plan, 10);
        assert_eq!(counted(&plan, "0.8.0", "moved"), n as u64, "{plan}");
    }
}

#[tokio::test]
async fn a_plan_and_a_run_wait_for_a_majority_and_say_so_when_it_does_not_come() {
    let server = Server::three_members().await;
    let database = server.database().await;
    let durable = WriteConcern::builder().w(Acknowledgment::Majority).build();
    let durable = DatabaseOptions::builder().write_concern(durable).build();
    let durable = database.client().database_with_options(database.name(), durable);
    fill(&durable, "things", (0..10).map(|i| doc! { "_id": i, "a": i })).await;
    record_old(&durable).await;
    durable.create_collection("tasks").await.unwrap();
    let gate = scenario(&database.uri, "0.8.0", "0.8.0=move_field;0.9.0=idle")
        .set("SCENARIO_CODE", "0.9.0")
        .set("GATE_CONNECT_TIMEOUT", "2s");

    hold_secondaries(&server, "alwaysOn").await;
    fill(&hasty(&database), "things", (10..15).map(|i| doc! { "_id": i, "a": i })).await;
    let plan = gate.clone().mode("plan").run().await;
    assert_code(&plan, 20);
    let message = plan.report["message"].as_str().unwrap();
    assert!(message.contains("waiting until a majority"), "{plan}");
    assert!(plan.report["next"].as_str().unwrap().contains("majority"), "{plan}");
    // what only reads the record waits for nothing
    assert_code(&gate.clone().mode("check").run().await, 10);

    hold_secondaries(&server, "off").await;
    let plan = gate.clone().mode("plan").run().await;
    assert_code(&plan, 10);
    assert_eq!(counted(&plan, "0.8.0", "moved"), 15, "{plan}");

    // a condition that is broken by a write that a majority does not have yet
    hold_secondaries(&server, "alwaysOn").await;
    fill(&hasty(&database), "tasks", [doc! { "_id": 1, "running": true }]).await;
    let waiting = gate.clone().set("GATE_CONNECT_TIMEOUT", "60s").mode("plan").spawn();
    eventually("a read that waits for the latest writes", || held_up(&database)).await;
    hold_secondaries(&server, "off").await;
    assert_code(&waiting.wait().await, 13);
    assert_code(&gate.run().await, 13);
    database.collection::<Document>("tasks").delete_many(doc! {}).await.unwrap();
    let run = gate.run().await;
    assert_code(&run, 0);
    assert_eq!(counted(&run, "0.8.0", "moved"), 15, "{run}");
}
