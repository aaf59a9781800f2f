//! A commit whose outcome cannot be learnt: the primary carries it out, and no majority confirms it. The run
//! says that it is in doubt, and what a majority has afterwards is what counts.

mod apps;
mod support;

#[allow(dead_code, reason = "the campaign uses all of it")]
#[path = "chaos/faults.rs"]
mod faults;

use apps::{METADATA, history, record, record_old, scenario};
use faults::{Members, arm, disarm};
use mongodb::bson::{Document, doc};
use mongodb::options::{Acknowledgment, ReadConcern, SelectionCriteria, WriteConcern};
use serde_json::{Value, json};
use support::{Fresh, Gate, Run, Running, Server, eventually};

const DOCUMENTS: i32 = 30;

/// How many milliseconds the server delays the command at which replication stops.
const DELAY: i32 = 1000;

/// How a run is ended whose commit nobody confirms.
enum End {
    Signal,
    Lease,
    Timeout,
}

/// A database at 0.7.0, and the gate that upgrades it, while no majority confirms what it writes from some
/// command on.
struct Scene<'a> {
    server: &'a Server,
    members: Members,
    database: Fresh,
}

impl Scene<'_> {
    async fn new(server: &Server) -> Scene<'_> {
        server.settled().await;
        let database = server.database().await;
        record_old(&database).await;
        let documents = (0..DOCUMENTS).map(|id| doc! { "_id": id, "n": 0 });
        database.collection("counters").insert_many(documents).await.unwrap();
        Scene { server, members: Members::of(server).await, database }
    }

    fn gate(&self, code: &str, upgrades: &str) -> Gate {
        scenario(&self.database.uri, code, upgrades).unset("GATE_FROM_VERSION")
    }

    /// Runs the gate until it sends `command` for the time after `skip`, with the primary's record as given;
    /// replication has stopped when the server begins with it.
    async fn until(&self, gate: &Gate, command: &str, skip: i32) -> Running {
        self.until_at(gate, command, skip, |_| true).await
    }

    async fn until_at(
        &self,
        gate: &Gate,
        command: &str,
        skip: i32,
        there: impl Fn(&Document) -> bool,
    ) -> Running {
        let primary = self.members.primary().await.unwrap();
        let met = disarm(primary).await.unwrap();
        let delay =
            doc! { "failCommands": [command], "blockConnection": true, "blockTimeMS": DELAY };
        arm(primary, doc! { "skip": skip }, delay).await.unwrap();
        let run = gate.spawn();
        let entered = doc! {
            "waitForFailPoint": "failCommand",
            "timesEntered": met + 1,
            "maxTimeMS": 60_000,
        };
        primary.run_command(entered).await.unwrap();
        eventually("the primary's record", async || there(&self.local().await).then_some(())).await;
        self.members.replicate(false).await;
        run
    }

    /// The record as the primary alone has it.
    async fn local(&self) -> Document {
        let primary = self.members.primary().await.unwrap();
        let records: mongodb::Collection<Document> =
            primary.client().database(self.database.name()).collection(METADATA);
        let id = doc! { "_id": "scenario_schema_version" };
        let one = records.find_one(id).read_concern(ReadConcern::local());
        let nearest =
            SelectionCriteria::ReadPreference(mongodb::options::ReadPreference::Nearest {
                options: Default::default(),
            });
        one.selection_criteria(nearest).await.unwrap().unwrap_or_default()
    }

    /// Waits until the primary has carried out what no majority confirms.
    async fn carried_out(&self, there: impl Fn(&Document) -> bool) {
        // as soon as no command is held there
        disarm(self.members.primary().await.unwrap()).await.unwrap();
        eventually("the primary's record", async || there(&self.local().await).then_some(())).await;
    }

    async fn thaw(&self) {
        self.members.replicate(true).await;
        self.members.heal().await;
        self.server.settled().await;
        // a majority that has this has all that came before
        let everybody = self.server.client().await.database(self.database.name());
        let concern = WriteConcern::builder().w(Acknowledgment::Majority).build();
        let after = everybody.collection("after");
        after.insert_one(doc! {}).write_concern(concern).await.unwrap();
    }

    /// How many documents were counted up so often.
    async fn counted(&self, n: i32) -> i32 {
        apps::count(&self.database, "counters", doc! { "n": n }).await as i32
    }
}

fn at(version: &'static str) -> impl Fn(&Document) -> bool {
    move |record| record.get_str("version").ok() == Some(version)
}

fn is_in_doubt(run: &Run, code: i32, version: &str) {
    assert_eq!(run.code, Some(code), "{run}");
    let Run { report, .. } = run;
    assert_eq!(report["in_doubt"], version, "{run}");
    assert!(!report["remaining"].as_array().unwrap().contains(&json!(version)), "{run}");
    let applied = report["upgrades"].as_array().unwrap();
    assert!(applied.iter().all(|upgrade| upgrade["version"] != version), "{run}");
    let message = report["message"].as_str().unwrap();
    assert!(message.contains("in doubt: whether"), "{run}");
    assert!(message.contains(version), "{run}");
    assert!(!message.contains("nothing was written"), "{run}");
    let next = report["next"].as_str().unwrap();
    assert!(next.contains("majority") && next.contains("GATE_MODE=check"), "{run}");
    assert!(run.last().to_string().contains("in doubt"), "{run}");
}

#[tokio::test]
async fn a_version_that_no_majority_confirms_is_in_doubt_however_the_run_ends() {
    let server = Server::three_members().await;
    for end in [End::Signal, End::Lease, End::Timeout] {
        let scene = Scene::new(&server).await;
        let gate = scene.gate("0.8.0", "0.8.0=increment");
        let ending = match end {
            End::Signal => gate.clone(),
            End::Lease => gate.clone().set("GATE_LOCK_LEASE", "3s"),
            End::Timeout => gate
                .clone()
                .set("GATE_TIMEOUT", "3s")
                .set("GATE_CONNECT_TIMEOUT", "3s")
                .set("GATE_LOCK_LEASE", "5m"),
        };
        let run = scene.until(&ending, "commitTransaction", 0).await;
        scene.carried_out(at("0.8.0")).await;
        let code = match end {
            End::Signal => {
                run.signal("TERM");
                22
            }
            End::Lease | End::Timeout => 20,
        };
        let run = run.wait().await;
        is_in_doubt(&run, code, "0.8.0");
        assert_eq!(run.report["from"], "0.7.0", "{run}");
        assert_eq!(run.report["to"], "0.7.0", "{run}");
        // what a majority has, it does not have yet
        let check = gate.clone().mode("check").run().await;
        assert!(matches!(check.code, Some(10 | 21)), "{check}");
        scene.thaw().await;
        let check = eventually("no lease", async || {
            let check = gate.clone().mode("check").run().await;
            (check.code != Some(21)).then_some(check)
        });
        let check = check.await;
        assert_eq!(check.code, Some(0), "{check}");
        assert_eq!(gate.run().await.code, Some(0));
        assert_eq!(scene.counted(1).await, DOCUMENTS);
        let stored = record(&scene.database).await;
        assert_eq!(history(&stored), ["initialise 0.7.0", "upgrade 0.8.0"]);
    }
}

#[tokio::test]
async fn a_run_that_ends_before_its_commit_is_sent_says_that_nothing_was_written() {
    let server = Server::three_members().await;
    let scene = Scene::new(&server).await;
    let gate = scene.gate("0.8.0", "0.8.0=increment");
    let run = scene.until(&gate, "update", 0).await;
    run.signal("TERM");
    let run = run.wait().await;
    assert_eq!(run.code, Some(22), "{run}");
    let message = run.report["message"].as_str().unwrap();
    assert!(message.contains("nothing was written"), "{run}");
    assert_eq!(run.report.get("in_doubt"), None, "{run}");
    assert_eq!(run.report["remaining"], json!(["0.8.0"]), "{run}");
    scene.thaw().await;
    assert_eq!(scene.counted(0).await, DOCUMENTS);
    assert_eq!(history(&record(&scene.database).await), ["initialise 0.7.0"]);
    assert_eq!(gate.run().await.code, Some(0));
    assert_eq!(scene.counted(1).await, DOCUMENTS);
}

#[tokio::test]
async fn of_a_chain_the_versions_before_the_one_in_doubt_are_applied() {
    let server = Server::three_members().await;
    let scene = Scene::new(&server).await;
    let gate = scene.gate("0.9.1", "0.8.0=increment;0.9.0=increment;0.9.1=increment");
    let run = scene.until(&gate, "commitTransaction", 1).await;
    scene.carried_out(at("0.9.0")).await;
    run.signal("TERM");
    let run = run.wait().await;
    is_in_doubt(&run, 22, "0.9.0");
    assert_eq!(run.report["upgrades"][0]["version"], "0.8.0", "{run}");
    assert_eq!(run.report["remaining"], json!(["0.9.1"]), "{run}");
    assert_eq!(run.report["to"], "0.8.0", "{run}");
    assert!(run.report["message"].as_str().unwrap().contains("applied: 0.8.0"), "{run}");
    scene.thaw().await;
    assert_eq!(gate.run().await.code, Some(0));
    assert_eq!(scene.counted(3).await, DOCUMENTS);
}

#[tokio::test]
async fn a_journal_or_a_batch_that_no_majority_confirms_is_in_doubt() {
    let server = Server::three_members().await;
    let journaled = |record: &Document| record.contains_key("journal");
    let second = |record: &Document| {
        let journal = record.get_document("journal").unwrap();
        journal.get_i64("seq").unwrap() == 2
    };
    let last = at("0.8.0");
    // the journal begins; the second batch; the version moves
    let finished = |record: &Document| {
        let journal = record.get_document("journal");
        journal.is_ok_and(|journal| journal.get_i64("step").unwrap() == 1)
    };
    type Place<'a> = &'a dyn Fn(&Document) -> bool;
    let phases: [(&str, i32, Place, Place); 3] = [
        ("update", 0, &|_| true, &journaled),
        ("commitTransaction", 1, &|_| true, &second),
        ("update", 0, &finished, &last),
    ];
    for (command, skip, from, there) in phases {
        let scene = Scene::new(&server).await;
        let gate = scene.gate("0.8.0", "0.8.0=increment").set("GATE_BATCH_DOCUMENTS", "10");
        let run = scene.until_at(&gate, command, skip, from).await;
        scene.carried_out(there).await;
        run.signal("TERM");
        let run = run.wait().await;
        is_in_doubt(&run, 22, "0.8.0");
        let unfinished = &run.report["unfinished"];
        match command {
            "commitTransaction" => {
                assert_eq!(unfinished["version"], "0.8.0", "{run}");
                assert_eq!(unfinished["documents"], 10, "{run}");
            }
            _ => assert_eq!(*unfinished, Value::Null, "{run}"),
        }
        scene.thaw().await;
        assert_eq!(gate.run().await.code, Some(0));
        assert_eq!(scene.counted(1).await, DOCUMENTS);
        let stored = record(&scene.database).await;
        assert_eq!(history(&stored), ["initialise 0.7.0", "upgrade 0.8.0"]);
    }
}

#[tokio::test]
async fn a_version_that_is_only_recorded_is_in_doubt_too() {
    let server = Server::three_members().await;
    // nothing is pending; nothing could apply; the operator's declaration; the repair
    for case in ["stamp", "initialise", "record"] {
        let scene = Scene::new(&server).await;
        let metadata = scene.database.collection::<Document>(METADATA);
        let (gate, command) = match case {
            "stamp" => (scene.gate("0.8.1", "0.7.0=increment"), "update"),
            "record" => {
                let gate = scene.gate("0.8.1", "0.9.0=increment").set("SCENARIO_CODE", "0.9.0");
                let gate = gate.mode("record").set("GATE_EXPECT_VERSION", "0.7.0");
                (gate.set("GATE_RECORD_VERSION", "0.8.1"), "update")
            }
            _ => {
                metadata.delete_many(doc! {}).await.unwrap();
                let gate = scene.gate("0.8.1", "0.8.0=increment");
                (gate.set("GATE_FROM_VERSION", "0.8.1"), "insert")
            }
        };
        server.settled().await;
        let run = scene.until(&gate, command, 0).await;
        scene.carried_out(at("0.8.1")).await;
        run.signal("TERM");
        let run = run.wait().await;
        is_in_doubt(&run, 22, "0.8.1");
        let message = run.report["message"].as_str().unwrap();
        assert!(message.contains("whether 0.8.1 was recorded"), "{run}");
        scene.thaw().await;
        let stored = record(&scene.database).await;
        assert_eq!(stored.get_str("version").ok(), Some("0.8.1"), "{case}: {run}");
        assert_eq!(scene.counted(0).await, DOCUMENTS, "{case}");
        let check = gate.clone().mode("check").unset("GATE_RECORD_VERSION");
        let check = check.unset("GATE_EXPECT_VERSION").run().await;
        assert_eq!(check.code, Some(if case == "record" { 10 } else { 0 }), "{case}: {check}");
    }
}

/// The secondaries are frozen, and the primary steps down for want of them.
#[tokio::test]
async fn a_commit_that_frozen_members_do_not_confirm_is_in_doubt_and_takes_effect_once_at_most() {
    let server = Server::three_members().await;
    let scene = Scene::new(&server).await;
    let gate = scene.gate("0.8.0", "0.8.0=increment");
    let primary = server.primary().await;
    let run = scene.until(&gate, "commitTransaction", 0).await;
    for member in (0..3).filter(|&member| member != primary) {
        server.freeze(member);
    }
    run.signal("TERM");
    let run = run.wait().await;
    is_in_doubt(&run, 22, "0.8.0");
    for member in (0..3).filter(|&member| member != primary) {
        server.thaw(member);
    }
    scene.thaw().await;
    assert_eq!(gate.run().await.code, Some(0));
    assert_eq!(scene.counted(1).await, DOCUMENTS);
    assert_eq!(history(&record(&scene.database).await), ["initialise 0.7.0", "upgrade 0.8.0"]);
}

/// A majority is there: the run finds out what became of a commit whose answer it did not wait for.
#[tokio::test]
async fn what_a_majority_says_of_a_commit_that_was_not_answered_is_not_in_doubt() {
    let server = Server::three_members().await;
    let scene = Scene::new(&server).await;
    let gate = scene.gate("0.8.0", "0.8.0=increment");
    let primary = scene.members.primary().await.unwrap();
    let met = disarm(primary).await.unwrap();
    // not begun when the run gives it up, and ended by it
    let delay = doc! {
        "failCommands": ["commitTransaction"],
        "blockConnection": true,
        "blockTimeMS": 10 * DELAY,
    };
    arm(primary, "alwaysOn", delay).await.unwrap();
    let run = gate.spawn();
    let there = doc! {
        "waitForFailPoint": "failCommand",
        "timesEntered": met + 1,
        "maxTimeMS": 60_000,
    };
    primary.run_command(there).await.unwrap();
    run.signal("TERM");
    let run = run.wait().await;
    assert_eq!(run.code, Some(22), "{run}");
    assert_eq!(run.report.get("in_doubt"), None, "{run}");
    assert!(run.report["message"].as_str().unwrap().contains("nothing was written"), "{run}");
    scene.members.heal().await;
    assert_eq!(scene.counted(0).await, DOCUMENTS, "{run}");
    // carried out each time, and each time said not to be confirmed
    let concern = doc! { "code": 100, "errmsg": "not enough members" };
    let unconfirmed = doc! { "failCommands": ["commitTransaction"], "writeConcernError": concern };
    arm(primary, doc! { "times": 4 }, unconfirmed).await.unwrap();
    let run = gate.run().await;
    assert_eq!(run.code, Some(0), "{run}");
    assert_eq!(run.report["upgrades"][0]["version"], "0.8.0", "{run}");
    assert_eq!(scene.counted(1).await, DOCUMENTS, "{run}");
    scene.members.heal().await;
}
