//! The crash harness on datalab's upgrade and on the examples: whatever is killed, the database comes
//! out as if nothing had been.

mod support;

#[allow(dead_code)]
#[path = "../examples/blocks.rs"]
mod blocks;
#[allow(dead_code)]
#[path = "../examples/other_app.rs"]
mod other_app;
#[allow(dead_code)]
#[path = "../src/bin/datalab-upgrade/pin_item_references.rs"]
mod pin_item_references;

use mongodb::Database;
use mongodb::bson::{RawDocument, doc};
use support::{Server, fixture};
use upgrade_gate::harness::{Harness, Survived};
use upgrade_gate::{Edits, Found, Gate, StepError, Transform, Upgrade};

/// Seeded, so that a failure can be seen again.
const SEED: u64 = 20_261_123;

fn datalab() -> Gate {
    Gate::new("datalab", "0.8.0").upgrades([pin_item_references::upgrade()])
}

async fn real_datalab(database: &Database) -> Result<(), mongodb::error::Error> {
    fixture::load(database).await;
    Ok(())
}

fn harness(gate: Gate, uri: &str) -> Harness {
    Harness::new(gate, uri).set("GATE_FROM_VERSION", "0.0.1").seed(SEED)
}

fn tell(name: &str, survived: &Survived) {
    println!("{name}: {survived:?}");
    assert!(survived.kills > 0 && !survived.boundaries.is_empty());
}

#[tokio::test]
async fn datalabs_upgrade_survives_kills_on_a_replica_set() {
    let uri = Server::shared().await.uri("");
    let small = harness(datalab(), &uri).set("GATE_BATCH_DOCUMENTS", "1000").instants(5);
    tell("datalab at once", &small.run(real_datalab).await.unwrap());
    let large = harness(datalab(), &uri).set("GATE_BATCH_DOCUMENTS", "10").instants(5);
    tell("datalab in parts", &large.run(real_datalab).await.unwrap());
}

#[tokio::test]
async fn datalabs_upgrade_survives_kills_on_a_standalone() {
    let server = Server::standalone().await;
    let harness = harness(datalab(), &server.uri("")).set("GATE_BATCH_DOCUMENTS", "10").instants(5);
    tell("datalab on a standalone", &harness.run(real_datalab).await.unwrap());
}

#[tokio::test]
async fn moving_blocks_survives_kills_on_both_kinds_of_server() {
    let replica_set = Server::shared().await.uri("");
    let standalone = Server::standalone().await;
    for uri in [replica_set, standalone.uri("")] {
        let harness = harness(blocks::gate(), &uri)
            .set("GATE_BATCH_DOCUMENTS", "1")
            .boundaries(30)
            .instants(5);
        let survived = harness.run(async |database| {
            let payload = "x".repeat(200_000);
            let items = (0..6).map(|i| {
                let block = |n: i32| doc! { "block_id": format!("b{n}"), "blocktype": "test", "payload": &payload };
                doc! {
                    "_id": i,
                    "creator_ids": [i],
                    "blocks_obj": { "b0": block(0), "b1": block(1), "old": { "immutable_id": 7 } },
                }
            });
            database.collection("items").insert_many(items).await?;
            Ok(())
        });
        tell("blocks", &survived.await.unwrap());
    }
}

#[tokio::test]
async fn the_other_application_survives_kills() {
    let uri = Server::shared().await.uri("");
    let harness = harness(other_app::gate(), &uri).instants(5);
    let survived = harness.run(async |database| {
        let auxiliary =
            [doc! { "_id": 1, "next_id": 1 }, doc! { "_id": 2, "jobflow_remote_version": "0.1.4" }];
        database.collection("jf_auxiliary").insert_many(auxiliary).await?;
        Ok(())
    });
    tell("other application", &survived.await.unwrap());
}

/// The twin: an upgrade that breaks its promise is found out.
#[tokio::test]
async fn notices_an_upgrade_that_is_not_the_same_when_it_is_run_again() {
    fn stamp(_: &RawDocument, _: &Found, edits: &mut Edits) -> Result<(), StepError> {
        edits.set("stamp", fastrand_like());
        Ok(())
    }
    /// Different at every call.
    fn fastrand_like() -> i64 {
        use std::sync::atomic::{AtomicI64, Ordering};
        static CALLS: AtomicI64 = AtomicI64::new(0);
        CALLS.fetch_add(1, Ordering::SeqCst)
    }
    let gate = Gate::new("app", "0.1.0")
        .upgrades([Upgrade::new("0.1.0", "stamp").step(Transform::new("things", stamp))]);
    let uri = Server::shared().await.uri("");
    let result = harness(gate, &uri)
        .boundaries(1)
        .instants(0)
        .run(async |database| {
            database.collection("things").insert_one(doc! { "_id": 1 }).await?;
            Ok(())
        })
        .await;
    let deviation = result.unwrap_err().to_string();
    assert!(deviation.contains("document 1 of things: `stamp` is"), "{deviation}");
}

/// A step that is not the same at its second call for one document, and that no preflight sees through.
#[tokio::test]
async fn notices_a_sweep_that_changes_what_the_step_itself_made() {
    fn swept(thing: &RawDocument, _: &Found, edits: &mut Edits) -> Result<(), StepError> {
        match thing.get_i32("n") {
            Ok(n) if n < 2 => edits.set("n", n + 1),
            _ => {}
        }
        Ok(())
    }
    /// Refuses its own output as long as that is only tried.
    fn disguised(thing: &RawDocument, found: &Found, edits: &mut Edits) -> Result<(), StepError> {
        static TRIED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
        if thing.get_i32("n").is_ok_and(|n| n == 1)
            && !TRIED.swap(true, std::sync::atomic::Ordering::SeqCst)
        {
            return Err(StepError::refused("not now"));
        }
        swept(thing, found, edits)
    }
    let uri = Server::shared().await.uri("");
    for (step, says) in [
        (Transform::new("things", swept), &["given its own output it edits `n` again"][..]),
        // the sweep shows it, or the preflight of a later run
        (
            Transform::new("things", disguised),
            &["the sweep of convergent steps", "given its own output it edits `n` again"],
        ),
    ] {
        let upgrade = Upgrade::new("0.1.0", "count").step(step.convergent());
        let gate = Gate::new("app", "0.1.0").upgrades([upgrade]);
        let result = harness(gate, &uri)
            .boundaries(1)
            .instants(0)
            .run(async |database| {
                database.collection("things").insert_one(doc! { "_id": 1, "n": 0 }).await?;
                Ok(())
            })
            .await;
        let deviation = result.unwrap_err().to_string();
        assert!(says.iter().any(|said| deviation.contains(said)), "{deviation}");
    }
}
