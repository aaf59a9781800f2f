//! The example's gate on queue databases of the real jobflow-remote, which its own library makes, upgrades and
//! judges.

mod apps;
mod support;

#[allow(dead_code)] // its main
#[path = "../examples/other_app.rs"]
mod other_app;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use apps::assert_code;
use mongodb::Database;
use mongodb::bson::{Document, RawDocumentBuf, doc};
use serde_json::Value;
use support::{Fresh, Gate, Server, db_hash, dump, example};
use upgrade_gate::harness::Harness;

const RECORD: &str = "jobflow_remote_schema_version";

/// jobflow-remote's library, in a process that lives as long as the test: it takes seconds to start.
struct Jobflow {
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Jobflow {
    fn new() -> Jobflow {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/jobflow_queue.py");
        let mut process = Command::new("python3")
            .args(["-W", "ignore", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs: it fetches jobflow-remote");
        let commands = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        Jobflow { process, commands, answers }
    }

    fn ask(&mut self, verb: &str, database: &Fresh) -> Value {
        writeln!(self.commands, "{verb} {} {}", database.uri, database.name()).unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{verb}: {error}: {answer:?}"))
    }

    /// A database as 0.1.4 left it.
    async fn old(&mut self, server: &Server) -> Fresh {
        let database = server.database().await;
        self.ask("reset", &database);
        self.ask("age", &database);
        let complaint = self.ask("check", &database);
        assert_eq!(complaint["database"], "0.1.4");
        assert!(!complaint["actions"].as_array().unwrap().is_empty(), "{complaint}");
        database
    }

    /// Its own check finds nothing to do, and what its runner needs is there once.
    fn accepts(&mut self, database: &Fresh) {
        let check = self.ask("check", database);
        assert_eq!(check["database"], check["code"], "{check}");
        assert_eq!(check["actions"], serde_json::json!([]), "{check}");
        assert_eq!(check["failed"], 0, "{check}");
        assert_eq!(check["runner"], Value::Null, "{check}");
        assert_eq!((&check["runners"], &check["next_id"]), (&1.into(), &1.into()), "{check}");
        assert_eq!(check["environment"], "", "the rest of its document is there: {check}");
    }
}

impl Drop for Jobflow {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn gate(database: &Fresh) -> Gate {
    Gate::new(example("other_app")).uri(&database.uri)
}

async fn record(database: &Database) -> Document {
    let metadata = database.collection::<Document>("database_metadata");
    metadata.find_one(doc! { "_id": RECORD }).await.unwrap().unwrap()
}

async fn stamp(database: &Database) -> String {
    let auxiliary = database.collection::<Document>("jf_auxiliary");
    let having = doc! { "jobflow_remote_version": { "$exists": true } };
    assert_eq!(auxiliary.count_documents(having.clone()).await.unwrap(), 1);
    let document = auxiliary.find_one(having).await.unwrap().unwrap();
    document.get_str("jobflow_remote_version").unwrap().to_owned()
}

async fn states(database: &Database) -> Vec<String> {
    let jobs = database.collection::<Document>("jobs");
    let mut jobs = jobs.find(doc! {}).sort(doc! { "db_id": 1 }).await.unwrap();
    let mut states = Vec::new();
    while jobs.advance().await.unwrap() {
        let job = jobs.deserialize_current().unwrap();
        let previous = job.get_str("previous_state").unwrap_or("none");
        states.push(format!("{} after {previous}", job.get_str("state").unwrap()));
    }
    states
}

#[tokio::test]
async fn a_queue_database_is_upgraded_as_its_own_check_wants_it() {
    let mut jobflow = Jobflow::new();
    let standalone = Server::standalone().await;
    for server in [Server::shared().await, &standalone] {
        let database = jobflow.old(server).await;
        let before = db_hash(&database).await;
        assert_code(&gate(&database).mode("check").run().await, 10);
        let plan = gate(&database).mode("plan").run().await;
        assert_code(&plan, 10);
        assert_eq!(db_hash(&database).await, before, "a plan writes nothing");
        let run = gate(&database).run().await;
        assert_code(&run, 0);
        // without transactions, a step whose documents an earlier one changes is planned without counts
        let actions = |report: &Value| {
            let upgrades = report["upgrades"].as_array().unwrap().iter();
            let actions = upgrades.flat_map(|upgrade| upgrade["actions"].as_array().unwrap());
            let what =
                |action: &Value| format!("{} {}", action["action_type"], action["collection"]);
            actions.map(what).collect::<Vec<_>>()
        };
        assert_eq!(actions(&plan.report), actions(&run.report));
        assert_eq!(stamp(&database).await, "1.0.1");
        assert_eq!(record(&database).await.get_str("version").unwrap(), "1.0.1");
        let run_finished = [
            "RUN_FINISHED after none",
            "COMPLETED after RUN_FINISHED",
            "REMOTE_ERROR after RUN_FINISHED",
            "RUN_FINISHED after none",
        ];
        assert_eq!(states(&database).await, run_finished);
        jobflow.accepts(&database);
        // and its own upgrader has nothing left to do
        assert_eq!(jobflow.ask("upgrade", &database)["upgraded"], false);
        assert_code(&gate(&database).mode("check").run().await, 0);
        // a database that was only set back has the document of the runner already
        let database = server.database().await;
        jobflow.ask("reset", &database);
        let auxiliary = database.collection::<Document>("jf_auxiliary");
        let having = doc! { "jobflow_remote_version": { "$exists": true } };
        let back = doc! { "$set": { "jobflow_remote_version": "0.1.4" } };
        auxiliary.update_one(having, back).await.unwrap();
        assert_code(&gate(&database).run().await, 0);
        jobflow.accepts(&database);
    }
}

#[tokio::test]
async fn a_database_that_its_own_upgrader_moved_is_closed_until_the_record_is_settled() {
    let mut jobflow = Jobflow::new();
    let standalone = Server::standalone().await;
    for server in [Server::shared().await, &standalone] {
        let database = jobflow.old(server).await;
        let first = gate(&database).set("GATE_TARGET_VERSION", "0.1.5").run().await;
        assert_code(&first, 10);
        assert_eq!(stamp(&database).await, "0.1.5");
        assert_eq!(jobflow.ask("check", &database)["database"], "0.1.5");
        assert_eq!(jobflow.ask("upgrade", &database)["upgraded"], true);
        let before = db_hash(&database).await;
        for mode in ["check", "plan", "wait", "upgrade"] {
            let run = gate(&database).mode(mode).run().await;
            assert_code(&run, 12);
            let message = run.report["message"].as_str().unwrap();
            assert!(message.contains("recorded at 0.1.5"), "{run}");
            assert!(message.contains("jobflow_remote_version in jf_auxiliary"), "{run}");
            assert!(message.contains("says 1.0.1"), "{run}");
        }
        assert_eq!(db_hash(&database).await, before);
        let settle = gate(&database)
            .mode("record")
            .set("GATE_EXPECT_VERSION", "0.1.5")
            .set("GATE_RECORD_VERSION", "1.0.1");
        assert_code(&settle.run().await, 0);
        assert_code(&gate(&database).mode("check").run().await, 0);
        assert_eq!(record(&database).await.get_str("version").unwrap(), "1.0.1");
        jobflow.accepts(&database);
    }
}

#[tokio::test]
async fn a_queue_database_survives_kills() {
    let standalone = Server::standalone().await;
    let old = Jobflow::new().old(&standalone).await;
    let contents = dump(&old).await;
    for uri in [Server::shared().await.uri(""), standalone.uri("")] {
        let harness = Harness::new(other_app::gate(), &uri).boundaries(30).instants(5);
        let survived = harness.run(async |database| {
            for (name, documents) in contents.clone() {
                if !documents.is_empty() {
                    database.collection::<RawDocumentBuf>(&name).insert_many(documents).await?;
                }
            }
            Ok(())
        });
        println!("{:?}", survived.await.unwrap());
    }
}
