//! Runners beside one another, and signals at any moment.

mod apps;
mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use apps::{
    Fault, METADATA, assert_code, count, counted, faulty, fill, history, ids, lock, record,
    record_old, scenario,
};
use mongodb::Database;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::options::{Collation, CollationStrength};
use support::{Fresh, Gate, Run, Running, Server, db_hash, dump, eventually};
use tokio::sync::OnceCell;

/// How long a run may take to end after a signal, on a machine that is busy with other tests.
const IN_TIME: Duration = Duration::from_secs(3);

async fn standalone() -> &'static Server {
    static SERVER: OnceCell<Server> = OnceCell::const_new();
    SERVER.get_or_init(Server::standalone).await
}

async fn filled(server: &Server, documents: i32) -> Fresh {
    let database = server.database().await;
    for name in ["things", "counters"] {
        fill(&database, name, (0..documents).map(|i| doc! { "_id": i, "a": i })).await;
    }
    record_old(&database).await;
    database
}

/// Signals a run and waits for its end, which must come in time.
async fn interrupted(running: Running, signal: &str) -> Run {
    let sent = Instant::now();
    // it may have ended already
    let kill = format!("kill -{signal} {} 2>/dev/null || true", running.pid());
    std::process::Command::new("sh").args(["-c", &kill]).status().unwrap();
    let run = running.wait().await;
    assert!(sent.elapsed() < IN_TIME, "{:?}: {run}", sent.elapsed());
    run
}

/// What the history says that the upgrade to 0.8.0 did.
async fn recorded_count(database: &Database, name: &str) -> i64 {
    let record = record(database).await;
    let entries = record.get_array("history").unwrap().iter().filter_map(Bson::as_document);
    let mut upgrades = entries.filter(|entry| entry.get_str("action").unwrap() == "upgrade");
    let actions = upgrades.next().unwrap().get_array("actions").unwrap().iter();
    assert!(upgrades.next().is_none(), "{record}");
    let details = actions.map(|action| action.as_document().unwrap().get_document("details"));
    details.filter_map(|details| details.unwrap().get_i64(name).ok()).sum()
}

/// Everything but the lock.
async fn written(database: &Database) -> BTreeMap<String, Vec<RawDocumentBuf>> {
    let mut written = dump(database).await;
    let is_lock =
        |document: &RawDocumentBuf| document.get_str("_id").is_ok_and(|id| id == "upgrade_lock");
    written.get_mut(METADATA).unwrap().retain(|document| !is_lock(document));
    written
}

// ---- signals ----

/// Interrupts runs of an upgrade at random moments until one gets through, again and again.
async fn survives_interruptions(server: &Server, upgrades: &str, batch: &str, longest: u64) {
    const DOCUMENTS: i32 = 300;
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let counts = upgrades.contains("increment");
    let mut interruptions = 0;
    while interruptions < 15 {
        let database = filled(server, DOCUMENTS).await;
        let gate = scenario(&database.uri, "0.8.0", upgrades).set("GATE_BATCH_DOCUMENTS", batch);
        loop {
            let before = record(&database).await;
            let mut running = gate.spawn();
            running.logged("started").await;
            tokio::time::sleep(Duration::from_millis(random.u64(..longest))).await;
            let run = interrupted(running, if random.bool() { "TERM" } else { "INT" }).await;
            let context = format!("seed {seed}: {run}");
            assert_eq!(lock(&database).await, None, "{context}");
            if run.code == Some(0) {
                break;
            }
            interruptions += 1;
            assert_eq!(run.code, Some(22), "{context}");
            assert_eq!(run.last()["outcome"], "interrupted", "{context}");
            let journal = record(&database).await.get_document("journal").ok().cloned();
            // but for a run that was interrupted before it had read anything
            if run.report["to"].is_string() {
                let unfinished = run.report["unfinished"].is_object();
                assert_eq!(unfinished, journal.is_some(), "{context}");
            }
            if run.report["message"].as_str().unwrap().contains("nothing was written") {
                assert_eq!(record(&database).await, before, "{context}");
            }
            if let Some(journal) = journal {
                let steps = journal.get_array("steps").unwrap().iter();
                let documents =
                    steps.map(|step| step.as_document().unwrap().get_i64("documents").unwrap());
                let mut changed =
                    count(&database, "things", doc! { "b": { "$exists": true } }).await;
                changed += count(&database, "counters", doc! { "n": { "$exists": true } }).await;
                assert_eq!(documents.sum::<i64>(), changed as i64, "{context}");
            }
        }
        assert_eq!(history(&record(&database).await), ["initialise 0.7.0", "upgrade 0.8.0"]);
        let moved = count(&database, "things", doc! { "a": { "$exists": false } }).await;
        assert_eq!(moved, DOCUMENTS as u64, "seed {seed}");
        assert_eq!(recorded_count(&database, "moved").await, DOCUMENTS as i64, "seed {seed}");
        if counts {
            let once = count(&database, "counters", doc! { "n": 1 }).await;
            assert_eq!(once, DOCUMENTS as u64, "seed {seed}");
            assert_eq!(recorded_count(&database, "counted").await, DOCUMENTS as i64);
        }
    }
}

#[tokio::test]
async fn a_small_upgrade_interrupted_at_any_moment_is_done_once() {
    survives_interruptions(Server::shared().await, "0.8.0=increment,move_field", "1000", 150).await;
}

#[tokio::test]
async fn a_large_upgrade_interrupted_at_any_moment_is_done_once_and_counted_whole() {
    survives_interruptions(Server::shared().await, "0.8.0=increment,move_field", "10", 700).await;
}

#[tokio::test]
async fn an_upgrade_with_commands_interrupted_at_any_moment_is_done_once_and_counted_whole() {
    let upgrades = "0.8.0=increment,index,move_field,validator,unindex";
    survives_interruptions(Server::shared().await, upgrades, "50", 500).await;
}

#[tokio::test]
async fn an_upgrade_of_a_standalone_interrupted_at_any_moment_is_done_and_counted_whole() {
    survives_interruptions(standalone().await, "0.8.0=move_field,index", "20", 300).await;
}

#[tokio::test]
async fn a_signal_ends_a_wait_for_the_lock_the_server_or_an_open_gate() {
    let database = filled(Server::shared().await, 3).await;
    let soon = doc! { "$add": ["$$NOW", 600_000] };
    let held = doc! { "_id": "upgrade_lock", "run_id": "another", "host": "elsewhere" };
    let locks = database.collection::<Document>(METADATA);
    locks.insert_one(held).await.unwrap();
    let lease = vec![doc! { "$set": { "expires": soon } }];
    locks.update_one(doc! { "_id": "upgrade_lock" }, lease).await.unwrap();
    let before = db_hash(&database).await;

    let upgrade = scenario(&database.uri, "0.8.0", "0.8.0=increment");
    let nowhere = scenario("mongodb://127.0.0.1:1/lab", "0.8.0", "0.8.0=increment");
    for (gate, sign) in [
        (upgrade.clone(), "waiting for another run that holds the lock"),
        (upgrade.clone().mode("wait"), "waiting for the gate to open"),
        (nowhere.clone(), "started"),
        (nowhere.mode("wait"), "started"),
    ] {
        for signal in ["TERM", "INT"] {
            let mut running = gate.spawn();
            running.logged(sign).await;
            let run = interrupted(running, signal).await;
            assert_code(&run, 22);
            assert_eq!(run.last()["exit_code"], 22, "{run}");
        }
    }
    assert_eq!(db_hash(&database).await, before);
    locks.delete_one(doc! { "_id": "upgrade_lock" }).await.unwrap();
    assert_code(&upgrade.run().await, 0);
}

#[tokio::test]
async fn a_signal_ends_a_run_whose_server_does_not_answer() {
    let server = Server::replica_set().await;
    let database = filled(&server, 200).await;
    let gate = scenario(&database.uri, "0.8.0", "0.8.0=increment").set("GATE_BATCH_DOCUMENTS", "5");
    let running = gate.spawn();
    eventually("the journal", || async {
        record(&database).await.get("journal").is_some().then_some(())
    })
    .await;
    server.freeze(0);
    let run = interrupted(running, "TERM").await;
    server.thaw(0);
    assert_code(&run, 22);
    let run = gate.set("GATE_LOCK_WAIT", "60s").run().await;
    assert_code(&run, 0);
    assert_eq!(counted(&run, "0.8.0", "counted"), 200, "{run}");
    assert_eq!(count(&database, "counters", doc! { "n": 1 }).await, 200);
}

#[tokio::test]
async fn a_signal_during_a_slow_commit_or_command_ends_the_run_and_nothing_is_done_twice() {
    for (upgrades, command) in [
        ("0.8.0=increment,move_field", "commitTransaction"),
        ("0.8.0=increment,index", "createIndexes"),
    ] {
        let database = filled(Server::shared().await, 20).await;
        let fault = Fault::block(&database, &[command], Duration::from_secs(5), 1).await;
        if command == "commitTransaction" {
            let running = scenario(&faulty(&database), "0.8.0", upgrades).spawn();
            fault.met(1).await;
            let run = interrupted(running, "TERM").await;
            assert_code(&run, 22);
            assert_eq!(lock(&database).await, None, "{run}");
        } else {
            let running = scenario(&faulty(&database), "0.8.0", upgrades).spawn();
            fault.met(1).await;
            let run = interrupted(running, "INT").await;
            assert_code(&run, 22);
            assert_eq!(lock(&database).await, None, "{run}");
            assert_eq!(run.report["unfinished"]["documents"], 20, "{run}");
        }
        let run = scenario(&database.uri, "0.8.0", upgrades).run().await;
        assert_code(&run, 0);
        fault.end().await;
        assert_eq!(count(&database, "counters", doc! { "n": 1 }).await, 20, "{run}");
        assert_eq!(recorded_count(&database, "counted").await, 20);
        assert_eq!(history(&record(&database).await).len(), 2, "{run}");
    }
}

#[tokio::test]
async fn a_place_at_an_id_of_any_type_survives_an_interruption() {
    for collation in [false, true] {
        let database = Server::shared().await.database().await;
        let create = database.create_collection("counters");
        let insensitive =
            Collation::builder().locale("en").strength(CollationStrength::Secondary).build();
        if collation { create.collation(insensitive).await } else { create.await }.unwrap();
        let documents = ids(collation).into_iter().map(|id| doc! { "_id": id, "n": 0 });
        fill(&database, "counters", documents).await;
        record_old(&database).await;
        let gate =
            scenario(&database.uri, "0.8.0", "0.8.0=increment").set("GATE_BATCH_DOCUMENTS", "1");
        let mut interruptions = 0;
        let run = loop {
            let seq = async || {
                let journal = record(&database).await.get_document("journal").ok().cloned();
                journal.map(|journal| journal.get_i64("seq").unwrap())
            };
            let before = seq().await;
            let mut running = gate.spawn();
            running.logged("started").await;
            eventually("another batch", || async {
                let ended = history(&record(&database).await).len() > 1;
                (ended || seq().await > before).then_some(())
            })
            .await;
            let run = interrupted(running, "TERM").await;
            if run.code == Some(0) {
                break run;
            }
            assert_code(&run, 22);
            interruptions += 1;
        };
        assert!(interruptions > 3, "{interruptions}");
        let all = ids(collation).len() as u64;
        assert_eq!(count(&database, "counters", doc! { "n": 1 }).await, all, "{run}");
        assert_eq!(recorded_count(&database, "counted").await, all as i64);
    }
}

// ---- many runners ----

#[tokio::test]
async fn of_fifty_runners_at_once_one_applies_the_upgrade_and_all_open() {
    let upgrades = [
        (Server::shared().await, "0.8.0=increment,move_field"),
        (standalone().await, "0.8.0=move_field,index"),
    ];
    for (server, upgrades) in upgrades {
        let database = filled(server, 50).await;
        let gate = scenario(&database.uri, "0.8.0", upgrades);
        let runners: Vec<Running> = (0..50).map(|_| gate.spawn()).collect();
        let mut applied = 0;
        for running in runners {
            let run = running.wait().await;
            assert_code(&run, 0);
            applied += run.report["upgrades"].as_array().unwrap().len();
        }
        assert_eq!(applied, 1);
        assert_eq!(history(&record(&database).await), ["initialise 0.7.0", "upgrade 0.8.0"]);
        assert_eq!(count(&database, "things", doc! { "a": { "$exists": false } }).await, 50);
        if upgrades.contains("increment") {
            assert_eq!(count(&database, "counters", doc! { "n": 1 }).await, 50);
        }
        assert_eq!(lock(&database).await, None);
    }
}

#[tokio::test]
async fn a_runner_waits_for_another_one_and_opens_as_soon_as_the_work_is_done() {
    let database = filled(Server::shared().await, 10).await;
    let time = Duration::from_secs(3);
    let fault = Fault::block(&database, &["commitTransaction"], time, 1).await;
    let first = scenario(&faulty(&database), "0.8.0", "0.8.0=increment").spawn();
    fault.met(1).await;
    let gate = scenario(&database.uri, "0.8.0", "0.8.0=increment");
    let mut second = gate.spawn();
    second.logged("waiting for another run that holds the lock").await;
    let mut patient = gate.clone().mode("wait").spawn();
    patient.logged("waiting for the gate to open").await;
    assert_code(&gate.clone().mode("check").run().await, 21);

    // whose patience is over sooner
    for setting in ["GATE_LOCK_WAIT", "GATE_TIMEOUT"] {
        let run = gate.clone().set(setting, "300ms").run().await;
        assert_code(&run, 21);
        assert!(run.elapsed < Duration::from_secs(2), "{run}");
        let holder = lock(&database).await.unwrap().get_str("run_id").unwrap().to_owned();
        assert!(run.report["message"].as_str().unwrap().contains(&holder), "{run}");
    }
    let first = first.wait().await;
    let done = Instant::now();
    let (second, patient) = (second.wait().await, patient.wait().await);
    assert!(done.elapsed() < Duration::from_millis(1500), "{:?}", done.elapsed());
    fault.end().await;
    for run in [&first, &second, &patient] {
        assert_code(run, 0);
    }
    assert_eq!(counted(&first, "0.8.0", "counted"), 10);
    assert_eq!(second.report["upgrades"].as_array().unwrap().len(), 0, "{second}");
    assert_eq!(count(&database, "counters", doc! { "n": 1 }).await, 10);
}

#[tokio::test]
async fn a_runner_stopped_beyond_its_lease_applies_nothing_when_it_wakes() {
    for (batch, command, n) in
        [("1000", "commitTransaction", 1), ("10", "commitTransaction", 4), ("10", "update", 3)]
    {
        let database = filled(Server::shared().await, 100).await;
        let gate = |uri: &str| -> Gate {
            scenario(uri, "0.8.0", "0.8.0=increment,move_field").set("GATE_BATCH_DOCUMENTS", batch)
        };
        let fault = Fault::block(&database, &[command], Duration::from_millis(200), n).await;
        let first = gate(&faulty(&database)).set("GATE_LOCK_LEASE", "1s").spawn();
        fault.met(n.into()).await;
        first.signal("STOP");
        fault.end().await;
        let second = gate(&database.uri).run().await;
        assert_code(&second, 0);
        let after = written(&database).await;
        first.signal("CONT");
        let first = first.wait().await;
        assert!([Some(0), Some(21)].contains(&first.code), "{first}");
        // what it is told
        assert_code(&gate(&database.uri).run().await, 0);
        assert_eq!(written(&database).await, after, "{first}\n{second}");
        assert_eq!(count(&database, "counters", doc! { "n": 1 }).await, 100, "{first}\n{second}");
        assert_eq!(history(&record(&database).await), ["initialise 0.7.0", "upgrade 0.8.0"]);
        assert_eq!(recorded_count(&database, "counted").await, 100);
    }
}

// ---- errors and panics ----

/// A transform panics with what is in a document: the lock is released, the report written, and nothing
/// of the document is shown.
#[tokio::test]
async fn a_panic_in_an_upgrade_is_a_bug_that_is_reported_and_shows_no_document() {
    for mode in ["upgrade", "plan"] {
        let database = filled(Server::shared().await, 10).await;
        fill(&database, "things", [doc! { "_id": 99, "bad": "S3cret" }]).await;
        let gate = scenario(&database.uri, "0.8.0", "0.8.0=panic").mode(mode);
        let before = written(&database).await;
        let run = gate.run().await;
        assert_code(&run, 1);
        assert_eq!(run.last()["outcome"], "bug", "{run}");
        assert!(run.report["message"].as_str().unwrap().contains("panicked"), "{run}");
        assert!(!run.stdout.contains("S3cret") && !run.stderr.contains("S3cret"), "{run}");
        assert!(run.stderr.contains("scenario.rs:"), "{run}");
        assert_eq!(lock(&database).await, None, "{run}");
        assert_eq!(written(&database).await, before, "{run}");
        assert_code(&gate.mode("upgrade").set("SCENARIO_FIXED", "true").run().await, 0);
    }
}

/// What is no fault of an upgrade is none of its failures: it is 20, or passes when it is tried again.
#[tokio::test]
async fn an_odd_error_of_the_server_is_no_failed_upgrade_and_a_wait_goes_on() {
    let database = filled(Server::shared().await, 10).await;
    let gate = scenario(&faulty(&database), "0.8.0", "");
    assert_code(&gate.run().await, 0);
    for code in [1, 8, 43, 175, 202, 237, 279, 365, 384] {
        for mode in ["check", "wait"] {
            let fault = Fault::new(&database, &["aggregate"], doc! { "errorCode": code }, 2).await;
            let run = gate.clone().mode(mode).run().await;
            fault.end().await;
            let passes = mode == "wait" || code > 8;
            assert_eq!(run.code, Some(if passes { 0 } else { 20 }), "{code}: {run}");
        }
    }
    for (upgrades, command, mode) in [
        ("0.8.5=increment", "connectionStatus", "upgrade"),
        ("0.8.5=increment", "findAndModify", "upgrade"),
        ("", "find", "record"),
    ] {
        let gate = scenario(&faulty(&database), "0.8.5", upgrades).mode(mode);
        let gate = match mode {
            "record" => gate
                .unset("GATE_FROM_VERSION")
                .set("GATE_EXPECT_VERSION", "0.8.0")
                .set("GATE_RECORD_VERSION", "0.8.1"),
            _ => gate,
        };
        let fault = Fault::new(&database, &[command], doc! { "errorCode": 8 }, 2).await;
        let run = gate.run().await;
        fault.end().await;
        assert_eq!(run.code, Some(20), "{command}: {run}");
        assert_eq!(lock(&database).await, None, "{run}");
    }
    // but in an upgrade's own work it is
    let fault = Fault::new(&database, &["update"], doc! { "errorCode": 8 }, 9).await;
    let run = scenario(&faulty(&database), "0.8.5", "0.8.5=increment").run().await;
    fault.end().await;
    assert_code(&run, 14);
    assert_eq!(lock(&database).await, None, "{run}");
}

#[tokio::test]
async fn connections_that_close_are_no_answer_and_the_gate_asks_again() {
    let database = filled(Server::shared().await, 10).await;
    let gate = scenario(&faulty(&database), "0.8.0", "0.8.0=increment");
    assert_code(&gate.run().await, 0);
    for mode in ["check", "upgrade", "plan"] {
        let close = doc! { "closeConnection": true };
        let fault = Fault::new(&database, &["aggregate"], close, 5).await;
        let run = gate.clone().mode(mode).run().await;
        fault.end().await;
        assert_code(&run, 0);
    }
}

#[tokio::test]
async fn a_query_that_is_not_answered_is_20_in_time() {
    let database = filled(Server::shared().await, 10).await;
    let gate = scenario(&faulty(&database), "0.8.0", "0.8.0=increment");
    assert_code(&gate.run().await, 0);
    for mode in ["check", "upgrade", "plan"] {
        let fault = Fault::block(&database, &["aggregate"], Duration::from_secs(6), 1).await;
        let run = gate.clone().mode(mode).set("GATE_TIMEOUT", "1s").run().await;
        fault.end().await;
        assert_code(&run, 20);
        let message = run.report["message"].as_str().unwrap();
        assert!(message.contains("reading the record: no answer within 1s"), "{run}");
    }
}

#[tokio::test]
async fn a_lock_whose_release_fails_at_first_is_released_all_the_same() {
    let database = filled(Server::shared().await, 10).await;
    let fault = Fault::new(&database, &["delete"], doc! { "errorCode": 8 }, 2).await;
    let run = scenario(&faulty(&database), "0.8.0", "0.8.0=increment").run().await;
    fault.end().await;
    assert_code(&run, 0);
    assert_eq!(lock(&database).await, None, "{run}");
}

#[tokio::test]
async fn a_server_that_is_gone_is_20_and_no_other_run() {
    let server = Server::standalone().await;
    for gone in ["frozen", "killed"] {
        let database = filled(&server, 200).await;
        let gate = scenario(&database.uri, "0.8.0", "0.8.0=move_field")
            .set("GATE_BATCH_DOCUMENTS", "1")
            .set("GATE_LOCK_LEASE", "1s");
        let running = gate.spawn();
        eventually("the journal", || async {
            record(&database).await.get("journal").is_some().then_some(())
        })
        .await;
        match gone {
            "frozen" => server.freeze(0),
            _ => server.kill(0),
        }
        let run = running.wait().await;
        match gone {
            "frozen" => server.thaw(0),
            _ => server.restart(0).await,
        }
        assert_eq!(run.code, Some(20), "{gone}: {run}");
        assert_code(&gate.set("GATE_LOCK_WAIT", "60s").run().await, 0);
    }
}

#[tokio::test]
async fn documents_that_another_transaction_holds_are_waited_for_and_told_of() {
    let database = filled(Server::shared().await, 10).await;
    let mut session = database.client().start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let counters = database.collection::<Document>("counters");
    let touch = doc! { "$set": { "touched": true } };
    counters.update_one(doc! { "_id": 3 }, touch).session(&mut session).await.unwrap();
    let mut running = scenario(&database.uri, "0.8.0", "0.8.0=increment").spawn();
    let warning = running.logged("a transaction does not get through").await;
    assert_eq!(warning["level"], "WARN", "{warning}");
    session.abort_transaction().await.unwrap();
    let run = running.wait().await;
    assert_code(&run, 0);
    assert_eq!(count(&database, "counters", doc! { "n": 1 }).await, 10);
}

#[tokio::test]
async fn a_signal_while_a_lock_is_taken_over_leaves_none_behind() {
    let database = filled(Server::shared().await, 10).await;
    let session = doc! { "id": Bson::Binary(mongodb::bson::uuid::Uuid::new().into()) };
    let former = doc! {
        "_id": "upgrade_lock", "run_id": "former", "host": "h", "session": session,
        "expires": mongodb::bson::DateTime::from_millis(0),
    };
    fill(&database, METADATA, [former]).await;
    let fault = Fault::block(&database, &["killSessions"], Duration::from_secs(3), 1).await;
    let running = scenario(&faulty(&database), "0.8.0", "0.8.0=increment").spawn();
    fault.met(1).await;
    let run = interrupted(running, "TERM").await;
    fault.end().await;
    assert_code(&run, 22);
    assert_eq!(lock(&database).await, None, "{run}");
}

/// As early as a process can be told apart from one that has not begun: while it reads its settings.
#[tokio::test]
async fn a_signal_while_settings_are_read_is_22_too() {
    let fifo = std::env::temp_dir().join(format!("upgrade-gate-{}", ObjectId::new()));
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let gate = scenario("", "0.8.0", "").unset("GATE_MONGODB_URI");
    let running = gate.set("GATE_MONGODB_URI_FILE", fifo.to_str().unwrap()).spawn();
    // opens when the other side does
    let mut uri = std::fs::File::options().write(true).open(&fifo).unwrap();
    running.signal("TERM");
    uri.write_all(b"mongodb://127.0.0.1:1/nobody").unwrap();
    drop(uri);
    let run = running.wait().await;
    std::fs::remove_file(&fifo).unwrap();
    assert_code(&run, 22);
}
