//! Failovers in every phase of a run, on a replica set of three: the run opens the gate or ends with a
//! code after which it opens when it is run again, and every document is upgraded exactly once.

mod support;

#[allow(dead_code, reason = "the campaign uses all of it")]
#[path = "chaos/faults.rs"]
mod faults;

use faults::{Members, arm, disarm};
use mongodb::Collection;
use mongodb::bson::{DateTime, Document, doc};
use mongodb::options::{CollectionOptions, WriteConcern};
use support::{Gate, Run, Server, eventually, example};

const DOCUMENTS: i32 = 30;

/// How many milliseconds later the server begins with a command that it is told to delay.
const DELAY: i32 = 500;

/// Where a run is when the server fails.
struct Phase {
    name: &'static str,
    batch_documents: &'static str,
    /// The command that the server delays. The run is at one, or about to be, when the record is as
    /// it must be in this phase.
    delayed: &'static str,
    record: fn(&Document) -> bool,
}

/// Of an upgrade that goes in parts, or, where so many documents fit one transaction, at once.
const PHASES: &[Phase] = &[
    phase("waiting for the lock", "10", "", Document::is_empty),
    phase("taking the lock", "10", "findAndModify", Document::is_empty),
    phase("deciding under the lock", "10", "aggregate", Document::is_empty),
    phase("looking", "10", "find", Document::is_empty),
    phase("writing at once", "100", "update", Document::is_empty),
    phase("committing at once", "100", "commitTransaction", Document::is_empty),
    phase("journal begun", "10", "find", |record| place(record) == Some((0, false))),
    phase("between batches", "10", "find", |record| place(record) == Some((0, true))),
    phase("committing a batch", "10", "commitTransaction", |record| {
        place(record) == Some((0, true))
    }),
    phase("before the version moves", "10", "update", |record| place(record) == Some((1, false))),
    phase("releasing the lock", "10", "delete", |record| {
        record.get_str("version").is_ok_and(|version| version == "0.8.0")
    }),
];

const fn phase(
    name: &'static str,
    batch_documents: &'static str,
    delayed: &'static str,
    record: fn(&Document) -> bool,
) -> Phase {
    Phase { name, batch_documents, delayed, record }
}

/// The journal's step, and whether it has a place among its documents.
fn place(record: &Document) -> Option<(i64, bool)> {
    let journal = record.get_document("journal").ok()?;
    let step = journal.get_i64("step").or_else(|_| journal.get_i32("step").map(i64::from)).ok()?;
    Some((step, journal.contains_key("position")))
}

#[tokio::test]
async fn survives_a_step_down_in_every_phase() {
    let server = Server::three_members().await;
    for phase in PHASES {
        let scene = Scene::new(&server, phase).await;
        let run = scene.interrupted(async || {
            server.step_down().await;
        });
        scene.settle(run.await).await;
    }
}

#[tokio::test]
async fn survives_a_killed_primary_in_every_phase() {
    let server = Server::three_members().await;
    for phase in PHASES {
        let scene = Scene::new(&server, phase).await;
        let run = scene.interrupted(async || {
            let killed = server.primary().await;
            server.kill(killed);
            server.primary().await;
            server.restart(killed).await;
        });
        scene.settle(run.await).await;
    }
}

/// The former primary wakes when the work is done, and its client with it.
#[tokio::test]
async fn survives_a_frozen_primary_in_every_phase() {
    let server = Server::three_members().await;
    for phase in PHASES {
        let scene = Scene::new(&server, phase).await;
        let run = scene.interrupted(async || {
            let frozen = server.primary().await;
            server.freeze(frozen);
            server.primary().await;
            scene.free_lock().await;
            let other = scene.gate.run().await;
            assert_eq!(other.code, Some(0), "beside one frozen {}: {other}", phase.name);
            server.thaw(frozen);
        });
        scene.settle(run.await).await;
    }
}

#[tokio::test]
async fn does_not_notice_a_frozen_secondary_in_any_phase() {
    let server = Server::three_members().await;
    for phase in PHASES {
        let scene = Scene::new(&server, phase).await;
        let frozen = (server.primary().await + 1) % 3;
        let run = scene.interrupted(async || server.freeze(frozen)).await;
        assert_eq!(run.code, Some(0), "{}: {run}", phase.name);
        server.thaw(frozen);
        scene.settle(run).await;
    }
}

/// A member that lags behind knows only what once was.
#[tokio::test]
async fn a_secondary_that_is_reached_directly_opens_no_gate() {
    let server = Server::three_members().await;
    let scene = Scene::new(&server, &PHASES[0]).await;
    assert_eq!(scene.gate.run().await.code, Some(0));
    server.settled().await;
    let primary = server.primary().await;
    let (hosts, _) = scene.database.uri.trim_start_matches("mongodb://").split_once('/').unwrap();
    for (member, host) in hosts.split(',').enumerate() {
        let uri = format!("mongodb://{host}/{}?directConnection=true", scene.database.name());
        for mode in ["check", "wait", "plan", "upgrade"] {
            let gate = scene.gate.clone().uri(&uri).mode(mode).set("GATE_TIMEOUT", "1s");
            let run = gate.run().await;
            if member == primary {
                assert_eq!(run.code, Some(0), "{run}");
            } else {
                assert_eq!(run.code, Some(20), "{run}");
                let message = run.report["message"].as_str().unwrap();
                assert!(message.contains("is not the primary"), "{run}");
                assert!(run.report["next"].as_str().unwrap().contains("directConnection"), "{run}");
            }
        }
    }
}

/// The primary stays, for it hears of the others; but they do not take its writes over.
#[tokio::test]
async fn a_lock_that_no_majority_confirms_ends_the_run_in_time_and_is_given_up() {
    let server = Server::three_members().await;
    let scene = Scene::new(&server, &PHASES[0]).await;
    let stored = doc! { "_id": "scenario_schema_version", "version": "0.7", "history": [] };
    scene.metadata().insert_one(stored).await.unwrap();
    let members = Members::of(&server).await;
    members.replicate(false).await;
    let gate = scene.gate.clone().set("GATE_CONNECT_TIMEOUT", "2s");
    let repair = gate.clone().mode("record").unset("GATE_FROM_VERSION");
    let repair = repair.set("GATE_EXPECT_VERSION", "0.7").set("GATE_RECORD_VERSION", "0.7.0");
    for gate in [&gate, &repair] {
        let run = gate.run().await;
        assert_eq!(run.code, Some(20), "{run}");
        let message = run.report["message"].as_str().unwrap();
        assert!(message.contains("taking the lock: no answer within 2s"), "{run}");
        assert!(run.report["next"].as_str().unwrap().contains("majority"), "{run}");
    }
    members.replicate(true).await;
    server.settled().await;
    let lock = scene.metadata().find_one(doc! { "_id": "upgrade_lock" }).await.unwrap();
    assert_eq!(lock, None);
    assert_eq!(gate.run().await.code, Some(0));
}

/// No majority confirms either before the first lease is over, so both hear that the lock is theirs.
#[tokio::test]
async fn a_lock_that_is_confirmed_after_its_lease_is_asked_for_anew() {
    let server = Server::three_members().await;
    let scene = Scene::new(&server, &PHASES[0]).await;
    // a collection that no majority has yet cannot be read at all
    scene.metadata().insert_one(doc! { "_id": "something else" }).await.unwrap();
    server.settled().await;
    let members = Members::of(&server).await;
    members.replicate(false).await;
    let lock = doc! { "_id": "upgrade_lock" };
    let over = doc! { "_id": "upgrade_lock", "$expr": { "$lt": ["$expires", "$$NOW"] } };
    let first = scene.gate.clone().set("GATE_LOCK_LEASE", "1s").spawn();
    let waited = || async { scene.metadata().find_one(over.clone()).await.unwrap() };
    let held = eventually("a lease that is over", waited).await;
    let second = scene.gate.clone().set("GATE_LOCK_LEASE", "1m").spawn();
    let taken = || async {
        let now = scene.metadata().find_one(lock.clone()).await.unwrap()?;
        (now.get("run_id") != held.get("run_id")).then_some(())
    };
    eventually("a lock that was taken over", taken).await;
    members.replicate(true).await;
    for run in [first.wait().await, second.wait().await] {
        assert_eq!(run.code, Some(0), "{run}");
        scene.settle(run).await;
    }
    assert_eq!(scene.metadata().find_one(lock).await.unwrap(), None);
}

/// The document comes when the upgrade has begun to look, and before it reads.
#[tokio::test]
async fn what_no_majority_has_yet_when_the_writing_begins_is_upgraded() {
    let server = Server::three_members().await;
    let scene = Scene::new(&server, &PHASES[1]).await;
    let members = Members::of(&server).await;
    let primary = members.primary().await.unwrap();
    let met = disarm(primary).await.unwrap();
    let hold =
        doc! { "failCommands": ["count"], "blockConnection": true, "blockTimeMS": 4 * DELAY };
    // the first belongs to the look before
    arm(primary, doc! { "skip": 1 }, hold).await.unwrap();
    let run = scene.gate.clone().set("GATE_LOCK_LEASE", "1m").spawn();
    let held = doc! {
        "waitForFailPoint": "failCommand",
        "timesEntered": met + 1,
        "maxTimeMS": 60_000,
    };
    primary.run_command(held).await.unwrap();
    members.replicate(false).await;
    let options = CollectionOptions::builder().write_concern(WriteConcern::nodes(1)).build();
    let counters: Collection<Document> =
        scene.database.collection_with_options("counters", options);
    counters.insert_one(doc! { "_id": 1000, "n": 0 }).await.unwrap();
    disarm(primary).await.unwrap();
    // it waits for a majority now, to read or, if it does not, to commit
    let waits = doc! {
        "appName": "upgrade-gate",
        "microsecs_running": { "$gt": 300_000 },
        "$or": [{ "command.find": "counters" }, { "command.commitTransaction": 1 }],
    };
    let operations = [doc! { "$currentOp": { "localOps": true } }, doc! { "$match": waits }];
    eventually("a command that waits for a majority", async || {
        primary.aggregate(operations.clone()).await.unwrap().advance().await.unwrap().then_some(())
    })
    .await;
    members.replicate(true).await;
    let run = run.wait().await;
    assert_eq!(run.code, Some(0), "{run}");
    let once = counters.count_documents(doc! { "n": 1 }).await.unwrap();
    assert_eq!(once, DOCUMENTS as u64 + 1, "{run}");
}

/// A database with an upgrade to come, and the gate that is to do it.
struct Scene<'a> {
    server: &'a Server,
    phase: &'a Phase,
    database: support::Fresh,
    gate: Gate,
}

impl Scene<'_> {
    async fn new<'a>(server: &'a Server, phase: &'a Phase) -> Scene<'a> {
        server.settled().await;
        let database = server.database().await;
        let documents = (0..DOCUMENTS).map(|id| doc! { "_id": id, "n": 0 });
        database.collection("counters").insert_many(documents).await.unwrap();
        let gate = Gate::new(example("scenario"))
            .uri(&database.uri)
            .set("SCENARIO_CODE", "0.8.0")
            .set("SCENARIO_UPGRADES", "0.8.0=increment")
            .set("GATE_FROM_VERSION", "0.7.0")
            .set("GATE_LOCK_LEASE", "2s")
            .set("GATE_BATCH_DOCUMENTS", phase.batch_documents);
        Scene { server, phase, database, gate }
    }

    fn metadata(&self) -> Collection<Document> {
        self.database.collection("database_metadata")
    }

    async fn record(&self) -> Document {
        let record = self.metadata().find_one(doc! { "_id": "scenario_schema_version" }).await;
        record.unwrap().unwrap_or_default()
    }

    /// Runs the gate, and lets something happen while it is in the phase.
    async fn interrupted(&self, happen: impl AsyncFnOnce()) -> Run {
        if self.phase.delayed.is_empty() {
            self.take_lock().await;
            let mut run = self.gate.spawn();
            run.logged("waiting for another run").await;
            happen().await;
            self.free_lock().await;
            return run.wait().await;
        }
        let members = Members::of(self.server).await;
        let primary = members.primary().await.unwrap();
        let met = disarm(primary).await.unwrap();
        let delay = doc! {
            "failCommands": [self.phase.delayed],
            "blockConnection": true,
            "blockTimeMS": DELAY,
        };
        arm(primary, "alwaysOn", delay).await.unwrap();
        let run = self.gate.spawn();
        let first = doc! {
            "waitForFailPoint": "failCommand",
            "timesEntered": met + 1,
            "maxTimeMS": 60_000,
        };
        primary.run_command(first).await.unwrap();
        let there = || async { (self.phase.record)(&self.record().await).then_some(()) };
        eventually(self.phase.name, there).await;
        // what is delayed already stays so until its time is over
        tokio::join!(happen(), disarm(primary));
        run.wait().await
    }

    /// Another run has the lock, for longer than this test lasts.
    async fn take_lock(&self) {
        let later = DateTime::now().timestamp_millis() + 600_000;
        let expires = DateTime::from_millis(later);
        let lock =
            doc! { "_id": "upgrade_lock", "run_id": "another", "host": "h", "expires": expires };
        self.metadata().insert_one(lock).await.unwrap();
    }

    /// By a client that knows nothing of a primary that was.
    async fn free_lock(&self) {
        if !self.phase.delayed.is_empty() {
            return;
        }
        let client = self.server.client().await;
        let metadata =
            client.database(self.database.name()).collection::<Document>("database_metadata");
        let others = doc! { "_id": "upgrade_lock", "run_id": "another" };
        metadata.delete_one(others).await.unwrap();
    }

    /// What must be so in the end, whatever became of the first run.
    async fn settle(&self, run: Run) {
        let name = self.phase.name;
        println!("{name}: exit status {:?} after {:?}", run.code, run.elapsed);
        assert!(matches!(run.code, Some(0 | 20 | 21)), "{name}: {run}");
        if run.code == Some(0) {
            assert_eq!(run.report["to"], "0.8.0", "{name}: {run}");
        }
        self.server.settled().await;
        Members::of(self.server).await.heal().await;
        let last = self.gate.run().await;
        assert_eq!(last.code, Some(0), "{name}: {last}");

        let counters: Collection<Document> = self.database.collection("counters");
        let once = counters.count_documents(doc! { "n": 1 }).await.unwrap();
        assert_eq!(once, DOCUMENTS as u64, "{name}: {run}");
        let record = self.record().await;
        assert_eq!(place(&record), None, "{name}: {record}");
        let history = record.get_array("history").unwrap();
        let entries: Vec<&Document> = history.iter().map(|e| e.as_document().unwrap()).collect();
        let actions: Vec<&str> = entries.iter().map(|e| e.get_str("action").unwrap()).collect();
        assert_eq!(actions, ["initialise", "upgrade"], "{name}: {record}");
        let counted = entries[1].get_array("actions").unwrap()[0].as_document().unwrap();
        let counted = counted.get_document("details").unwrap().get_i64("counted").unwrap();
        assert_eq!(counted, i64::from(DOCUMENTS), "{name}: {record}");
        if let Some(upgrade) = run.report["upgrades"].get(0) {
            assert_eq!(upgrade["actions"][0]["details"]["counted"], DOCUMENTS, "{name}: {run}");
        }
    }
}
