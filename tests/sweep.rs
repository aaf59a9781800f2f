//! Mode `sweep`: what old code has written since the upgrade is found and upgraded, by the guarantees of an upgrade.

mod apps;
mod support;

#[allow(dead_code)]
#[path = "../src/bin/datalab-upgrade/pin_item_references.rs"]
mod pin_item_references;

use std::time::Duration;

use apps::{
    Fault, METADATA, assert_code, count, faulty, fill, history, lock, record, scenario, unlocked,
};
use mongodb::Database;
use mongodb::bson::{Bson, DateTime, Document, RawDocumentBuf, doc};
use serde_json::{Value, json};
use support::{Fresh, Gate, Run, Server, db_hash, dump, eventually, fixture, python};
use tokio::sync::OnceCell;
use upgrade_gate::harness::Harness;

async fn standalone() -> &'static Server {
    static STANDALONE: OnceCell<Server> = OnceCell::const_new();
    STANDALONE.get_or_init(Server::standalone).await
}

async fn both() -> [&'static Server; 2] {
    [Server::shared().await, standalone().await]
}

/// The scenario application at 0.8.0, whose first upgrade moves a to b.
fn gate(database: &Fresh) -> Gate {
    scenario(&database.uri, "0.8.0", "0.8.0=move_field").mode("sweep")
}

/// A database that went through the upgrade to 0.8.0, and in which old code has written `n` documents since.
async fn written_since(server: &Server, n: i32) -> Fresh {
    let database = server.database().await;
    fill(&database, "things", (0..4).map(|i| doc! { "_id": i, "a": i })).await;
    assert_code(&gate(&database).mode("upgrade").run().await, 0);
    if n > 0 {
        fill(&database, "things", (0..n).map(|i| doc! { "_id": 100 + i, "a": i, "x": "y" })).await;
    }
    database
}

/// Lets a gate upgrade a database that holds nothing of what its upgrades change.
async fn upgrade_first(gate: &Gate, database: &Database) {
    fill(database, "others", [doc! { "_id": 1 }]).await;
    assert_code(&gate.run().await, 0);
}

async fn old(database: &Database) -> u64 {
    count(database, "things", doc! { "a": { "$exists": true } }).await
}

fn newest(record: &Document) -> &Document {
    record.get_array("history").unwrap().last().unwrap().as_document().unwrap()
}

const DONE: [&str; 2] = ["initialise 0.7.0", "upgrade 0.8.0"];
const SWEPT: [&str; 3] = ["initialise 0.7.0", "upgrade 0.8.0", "sweep 0.8.0"];

#[tokio::test]
async fn what_old_code_wrote_is_upgraded_and_counted_and_a_second_sweep_changes_nothing() {
    for server in both().await {
        let database = written_since(server, 7).await;
        assert_code(&gate(&database).mode("check").run().await, 0);
        let before = record(&database).await;
        let run = gate(&database).set("GATE_BATCH_DOCUMENTS", "2").run().await;
        assert_code(&run, 0);
        assert_eq!(old(&database).await, 0, "{run}");
        assert_eq!(
            count(&database, "things", doc! { "x": "y", "b": { "$exists": true } }).await,
            7
        );
        assert_eq!(run.report["swept"], 7, "{run}");
        let version = &run.report["upgrades"][0];
        assert_eq!((&version["version"], &version["state"]), (&json!("0.8.0"), &json!("swept")));
        assert_eq!(version["actions"][0]["details"], json!({ "moved": 7 }), "{run}");
        assert!(run.report["message"].as_str().unwrap().contains("swept 7 documents"), "{run}");

        let after = record(&database).await;
        assert_eq!(history(&after), SWEPT);
        let entry = newest(&after);
        assert_eq!(entry.get_i64("documents").unwrap(), 7);
        assert_eq!(entry.get_str("floor").unwrap(), "0.8.0");
        assert_eq!(entry.get_str("run_id").unwrap(), run.report["run_id"].as_str().unwrap());
        let action = entry.get_array("actions").unwrap()[0].as_document().unwrap();
        assert_eq!(action.get_document("details").unwrap(), &doc! { "moved": 7_i64 });
        let (mut bare, mut was) = (after.clone(), before);
        bare.get_array_mut("history").unwrap().pop();
        was.get_array_mut("history").unwrap().truncate(2);
        assert_eq!(bare, was, "nothing else of the record changed");
        assert_eq!(lock(&database).await, None);

        let hash = db_hash(&database).await;
        let again = gate(&database).run().await;
        assert_code(&again, 0);
        assert_eq!(again.report["swept"], 0, "{again}");
        assert_eq!(again.report["upgrades"][0]["actions"][0]["details"], json!({ "moved": 0 }));
        assert_eq!(db_hash(&database).await, hash, "{again}");
        assert_code(&gate(&database).mode("check").run().await, 0);
        assert_code(&gate(&database).mode("upgrade").run().await, 0);
    }
}

// ---- datalab ----

fn datalab(database: &Fresh) -> Gate {
    Gate::new(env!("CARGO_BIN_EXE_datalab-upgrade")).uri(&database.uri)
}

/// Keeps every item as datalab keeps its versions.
async fn save_versions(database: &Database) -> u64 {
    let mut items = database.collection::<Document>("items").find(doc! {}).await.unwrap();
    let mut versions = Vec::new();
    while items.advance().await.unwrap() {
        let data = items.deserialize_current().unwrap();
        let refcode = data.get("refcode").cloned();
        versions.push(doc! { "refcode": refcode, "version": 1, "data": data });
    }
    let saved = versions.len() as u64;
    database.collection("item_versions").insert_many(versions).await.unwrap();
    saved
}

/// Restores every item as datalab does: by its refcode, everything but `_id` and `refcode`.
async fn restore_versions(database: &Database) {
    let mut versions =
        database.collection::<Document>("item_versions").find(doc! {}).await.unwrap();
    while versions.advance().await.unwrap() {
        let mut data =
            versions.deserialize_current().unwrap().get_document("data").unwrap().clone();
        let refcode = data.remove("refcode");
        data.remove("_id");
        let items = database.collection::<Document>("items");
        items.update_one(doc! { "refcode": refcode }, doc! { "$set": data }).await.unwrap();
    }
}

async fn items(database: &Database) -> Vec<RawDocumentBuf> {
    dump(database).await.remove("items").unwrap()
}

#[tokio::test]
async fn restored_versions_of_datalabs_items_bring_references_back_and_a_sweep_pins_them() {
    for server in both().await {
        let database = server.database().await;
        fixture::load(&database).await;
        let old = items(&database).await;
        assert!(save_versions(&database).await > 50);
        let first = datalab(&database).set("GATE_FROM_VERSION", "0.7.0").run().await;
        assert_code(&first, 0);
        let upgraded = items(&database).await;
        let counts = |run: &Run| -> Vec<Value> {
            let actions = run.report["upgrades"][0]["actions"].as_array().unwrap().iter();
            actions.map(|action| action["details"].clone()).collect()
        };

        restore_versions(&database).await;
        assert!(items(&database).await == old, "the references are as they were");
        assert_code(&datalab(&database).mode("check").run().await, 0);
        assert_code(&datalab(&database).run().await, 0);
        assert!(items(&database).await == old, "mode upgrade has nothing to do");
        let versions = dump(&database).await.remove("item_versions");

        let run = datalab(&database).mode("sweep").run().await;
        assert_code(&run, 0);
        assert!(items(&database).await == upgraded, "{run}");
        assert_eq!(counts(&run), counts(&first));
        assert_eq!(dump(&database).await.remove("item_versions"), versions, "they stay");
        reads_as_python(&database, "datalab_schema_version", "datalab_version");

        let hash = db_hash(&database).await;
        let again = datalab(&database).mode("sweep").run().await;
        assert_code(&again, 0);
        assert_eq!(counts(&again), [json!({ "pinned": 0 }), json!({ "deprecated": 0 })]);
        assert_eq!(db_hash(&database).await, hash);
    }
}

/// Python reads the record as before, whatever it makes of the entry, and stamps its own behind it.
fn reads_as_python(database: &Fresh, id: &str, field: &str) {
    let ancestor = |stamps: &[&str]| -> Value {
        let answer = python()
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/ancestor.py"))
            .args([&database.uri, id, field])
            .args(stamps)
            .output()
            .unwrap();
        assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
        serde_json::from_slice(&answer.stdout).unwrap()
    };
    let read = ancestor(&[]);
    assert_eq!(read["version"], "0.8.0", "{read}");
    let newest = read["history"].as_array().unwrap().last().unwrap();
    assert_eq!((&newest["action"], &newest["version"]), (&json!("sweep"), &json!("0.8.0")));
    assert_eq!(newest["floor"], "0.8.0");
    assert!((0.0..120.0).contains(&newest["age_s"].as_f64().unwrap()), "{read}");
}

#[tokio::test]
async fn python_stamps_behind_a_sweep_and_the_gate_goes_on_from_there() {
    let database = written_since(Server::shared().await, 1).await;
    assert_code(&gate(&database).run().await, 0);
    reads_as_python(&database, "scenario_schema_version", "scenario_version");
    let records = database.collection::<Document>(METADATA);
    let entry = doc! { "version": "0.8.1", "action": "auto_stamp", "timestamp": DateTime::now(), "scenario_version": "0.8.1" };
    let stamp = doc! { "$set": { "version": "0.8.1" }, "$push": { "history": entry } };
    records.update_one(doc! { "_id": "scenario_schema_version" }, stamp).await.unwrap();
    // the floor is still that of the upgrade, so that older code may run
    assert_code(&gate(&database).mode("check").run().await, 0);
    fill(&database, "things", [doc! { "_id": 200, "a": 1 }]).await;
    // and this code may sweep, though the record is above it
    let run = gate(&database).run().await;
    assert_code(&run, 0);
    assert_eq!((old(&database).await, &run.report["swept"]), (0, &json!(1)), "{run}");
    let record = record(&database).await;
    assert_eq!(history(&record)[2..], ["sweep 0.8.0", "auto_stamp 0.8.1", "sweep 0.8.1"]);
    assert_eq!(record.get_str("version").unwrap(), "0.8.1");
}

#[tokio::test]
async fn a_killed_sweep_is_finished_by_the_next_one() {
    for server in both().await {
        let datalab =
            upgrade_gate::Gate::new("datalab", "0.8.0").upgrades([pin_item_references::upgrade()]);
        let harness = Harness::new(datalab, server.uri(""))
            .set("GATE_MODE", "sweep")
            .set("GATE_BATCH_DOCUMENTS", "25")
            .seed(20_261_127)
            .boundaries(9)
            .instants(2);
        let survived = harness.run(async |database| {
            fixture::load(database).await;
            let entry = doc! { "version": "0.8.0", "action": "upgrade", "floor": "0.8.0" };
            let record =
                doc! { "_id": "datalab_schema_version", "version": "0.8.0", "history": [entry] };
            database.collection(METADATA).insert_one(record).await?;
            Ok(())
        });
        let survived = survived.await.unwrap();
        assert!(survived.kills >= 8, "{survived}");
    }
}

// ---- what is not swept ----

#[tokio::test]
async fn what_a_later_step_or_version_changes_is_not_swept_and_listed() {
    for (code, upgrades, swept, not_swept) in [
        // a later step of the same version, a later version
        (
            "0.8.0",
            "0.8.0=move_field,twice",
            &["twice"][..],
            &["transform things: twice of 0.8.0 things"][..],
        ),
        (
            "0.9.0",
            "0.8.0=move_field;0.9.0=twice",
            &["twice"],
            &["transform things: twice of 0.9.0 things"],
        ),
        // its indexes and its validator are the collection's too
        (
            "0.9.0",
            "0.8.0=move_field;0.9.0=index",
            &[],
            &[
                "transform things: Create index by b on things of 0.9.0 things",
                "Create index by b on things: command",
            ],
        ),
        // what it looks up
        (
            "0.9.0",
            "0.8.0=owners;0.9.0=same_people",
            &["same people"],
            &["owners: same people of 0.9.0 people"],
        ),
        // what cannot be run over documents again
        (
            "0.8.0",
            "0.8.0=increment,seed,purge,singleton",
            &[],
            &[
                "transform counters: not convergent",
                "seed roles: seed",
                "purge: delete",
                "singleton: transaction",
            ],
        ),
        (
            "0.9.0",
            "0.8.0=extract;0.9.0=drop_blocks",
            &[],
            &["extract: Drop blocks of 0.9.0 blocks", "Drop blocks: command"],
        ),
    ] {
        let database = Server::shared().await.database().await;
        if !apps::suits(&database, upgrades).await {
            continue;
        }
        fill(&database, "blocks", [doc! { "_id": "there" }]).await;
        let gate = scenario(&database.uri, code, upgrades);
        let upgraded = gate.run().await;
        assert_code(&upgraded, 0);
        fill(&database, "things", [doc! { "_id": 1, "a": 1 }, doc! { "_id": 2, "b": 2 }]).await;
        fill(&database, "counters", [doc! { "_id": 1, "n": 1 }]).await;
        let run = gate.mode("sweep").run().await;
        assert_code(&run, 0);
        let listed = run.report["not_swept"].as_array().cloned().unwrap_or_default();
        let listed: Vec<String> = listed
            .iter()
            .map(|it| {
                format!("{} | {}", it["step"].as_str().unwrap(), it["reason"].as_str().unwrap())
            })
            .collect();
        assert_eq!(listed.len(), not_swept.len(), "{run}");
        for (listed, expected) in listed.iter().zip(not_swept) {
            let (step, words) = expected.split_once(": ").unwrap();
            assert!(listed.starts_with(&format!("{step} | ")), "{listed} instead of {expected}");
            assert!(words.split(' ').all(|word| listed.contains(word)), "{listed} lacks {words}");
        }
        assert_eq!(old(&database).await, 1, "a is left to who knows both versions");
        assert_eq!(count(&database, "counters", doc! { "n": 1 }).await, 1);
        let doubled = count(&database, "things", doc! { "twice": 4 }).await;
        assert_eq!(doubled, u64::from(swept == ["twice"]), "{run}");
        let entries = history(&record(&database).await);
        let swept_entry = entries.last().unwrap().starts_with("sweep");
        assert_eq!(swept_entry, doubled > 0, "{entries:?}");
    }
}

#[tokio::test]
async fn look_ups_see_what_an_earlier_step_of_the_sweep_has_written() {
    // people are renamed first, things refer to them by the new name
    let database = Server::shared().await.database().await;
    let gate = scenario(&database.uri, "0.9.0", "0.8.0=same_people;0.9.0=owners");
    fill(&database, "people", [doc! { "_id": 1, "old_name": "Ada" }]).await;
    assert_code(&gate.run().await, 0);
    fill(&database, "people", [doc! { "_id": 2, "old_name": "Bob" }]).await;
    let things = ["Ada", "Bob", "nobody"].map(|owner| doc! { "_id": owner, "owner": owner });
    fill(&database, "things", things).await;
    let run = gate.mode("sweep").run().await;
    assert_code(&run, 0);
    assert_eq!(run.report["swept"], 3, "{run}");
    for (owner, id) in [("Ada", 1), ("Bob", 2)] {
        assert_eq!(count(&database, "things", doc! { "_id": owner, "owner_id": id }).await, 1);
    }
}

#[tokio::test]
async fn what_a_step_adds_to_its_own_collection_or_another_is_there_afterwards() {
    for server in both().await {
        let database = server.database().await;
        let gate = scenario(&database.uri, "0.8.0", "0.8.0=extract");
        upgrade_first(&gate, &database).await;
        let things = (0..3).map(|i| doc! { "_id": i, "block": format!("of {i}") });
        fill(&database, "things", things).await;
        let run = gate.clone().mode("sweep").run().await;
        assert_code(&run, 0);
        assert_eq!(count(&database, "blocks", doc! {}).await, 3, "{run}");
        assert_eq!(count(&database, "things", doc! { "block_id": { "$exists": true } }).await, 3);

        // the twin: a block of another content is there, and nothing is written
        fill(&database, "things", [doc! { "_id": 7, "block": "mine" }]).await;
        fill(&database, "blocks", [doc! { "_id": 7, "block": "other" }]).await;
        let before = dump(&database).await;
        assert_code(&gate.mode("sweep").run().await, 14);
        assert_eq!(without_lock(dump(&database).await), without_lock(before));
    }
}

fn without_lock(mut contents: std::collections::BTreeMap<String, Vec<RawDocumentBuf>>) -> Value {
    let metadata = contents.get_mut(METADATA).into_iter().flatten();
    let kept: Vec<String> = metadata
        .filter(|document| !document.get_str("_id").is_ok_and(|id| id == "upgrade_lock"))
        .map(|document| format!("{document:?}"))
        .collect();
    contents.remove(METADATA);
    json!([kept, format!("{contents:?}")])
}

// ---- when it does not run ----

#[tokio::test]
async fn it_needs_an_open_gate_and_says_what_check_would() {
    let database = written_since(Server::shared().await, 2).await;
    let later = |code: &str, upgrades: &str| scenario(&database.uri, code, upgrades).mode("sweep");
    let before = db_hash(&database).await;
    let run = later("0.9.0", "0.8.0=move_field;0.9.0=twice").run().await;
    assert_code(&run, 10);
    assert!(run.report["message"].as_str().unwrap().contains("0.9.0"), "{run}");
    assert_code(&later("0.7.0", "").run().await, 12);
    assert_code(&gate(&database).set("GATE_FROM_VERSION", "0.8.1").run().await, 16);
    for (name, value) in [
        ("GATE_TARGET_VERSION", "0.8.0"),
        ("GATE_QUIESCE", "deployment/web"),
        ("GATE_RECORD_VERSION", "0.8.0"),
    ] {
        let run = gate(&database).set(name, value).run().await;
        assert_code(&run, 16);
        let message = run.report["message"].as_str().unwrap();
        assert!(message.contains(name) && message.contains("mode sweep"), "{run}");
    }
    assert_eq!(db_hash(&database).await, before);
    // newer code without upgrades of its own may
    let run = later("0.8.5", "0.8.0=move_field").run().await;
    assert_code(&run, 0);
    assert_eq!(run.report["swept"], 2, "{run}");
    assert_eq!(record(&database).await.get_str("version").unwrap(), "0.8.0", "the version stays");

    let empty = Server::shared().await.database().await;
    assert_code(
        &scenario(&empty.uri, "0.8.0", "").unset("GATE_FROM_VERSION").mode("sweep").run().await,
        0,
    );
    assert_code(&gate(&empty).unset("GATE_FROM_VERSION").run().await, 11);
    fill(&empty, "things", [doc! { "_id": 1, "a": 1 }]).await;
    assert_code(&gate(&empty).run().await, 10);
    let run = gate(&empty).set("GATE_FROM_VERSION", "0.8.0").run().await;
    assert_code(&run, 10);
    assert!(run.report["next"].as_str().unwrap().contains("GATE_MODE=upgrade"), "{run}");
    assert_eq!(old(&empty).await, 1);
    assert_eq!(record(&empty).await, doc! {});
}

#[tokio::test]
async fn an_unfinished_upgrade_comes_first() {
    let database = Server::shared().await.database().await;
    fill(&database, "things", (0..30).map(|i| doc! { "_id": i, "a": i })).await;
    let upgrade = scenario(&faulty(&database), "0.8.0", "0.8.0=move_field,index")
        .set("GATE_BATCH_DOCUMENTS", "3");
    let fault = Fault::block(&database, &["commitTransaction"], Duration::from_secs(20), 1).await;
    let running = upgrade.spawn();
    fault.met(1).await;
    running.signal("TERM");
    assert_code(&running.wait().await, 22);
    fault.end().await;
    unlocked(&database).await;
    let gate = upgrade.mode("sweep");
    let run = gate.run().await;
    assert_code(&run, 10);
    assert!(run.report["message"].as_str().unwrap().contains("unfinished"), "{run}");
    assert!(record(&database).await.contains_key("journal"));
}

#[tokio::test]
async fn the_conditions_of_every_version_are_asked_first() {
    for server in both().await {
        let database = server.database().await;
        let gate = scenario(&database.uri, "0.9.0", "0.8.0=idle;0.9.0=extract");
        upgrade_first(&gate, &database).await;
        fill(&database, "things", [doc! { "_id": 1, "block": 1 }]).await;
        fill(&database, "tasks", [doc! { "_id": "t", "running": true }]).await;
        let sweep = gate.mode("sweep");
        let run = sweep.run().await;
        assert_code(&run, 13);
        let message = run.report["message"].as_str().unwrap();
        assert!(message.contains("no task is running") && message.contains("nothing was written"));
        assert_eq!(count(&database, "blocks", doc! {}).await, 0);
        assert_eq!(history(&record(&database).await).len(), 3);
        let run = sweep.set("GATE_SKIP_CONDITIONS", "true").run().await;
        assert_code(&run, 0);
        assert_eq!(count(&database, "blocks", doc! {}).await, 1);
    }
}

#[tokio::test]
async fn a_document_that_is_refused_is_found_before_the_first_write() {
    for server in both().await {
        let database = server.database().await;
        let gate = scenario(&database.uri, "0.8.0", "0.8.0=refuse");
        upgrade_first(&gate, &database).await;
        let things = (0..9).map(|i| {
            if i == 8 {
                doc! { "_id": i, "bad": 1 }
            } else {
                doc! { "_id": i }
            }
        });
        fill(&database, "things", things).await;
        let sweep = gate.mode("sweep").set("GATE_BATCH_DOCUMENTS", "2");
        let run = sweep.run().await;
        assert_code(&run, 14);
        let message = run.report["message"].as_str().unwrap();
        for part in ["upgrade 0.8.0", "\"mark\"", "it is marked bad", "nothing was written"] {
            assert!(message.contains(part), "{part}: {run}");
        }
        assert_eq!(count(&database, "things", doc! { "marked": true }).await, 0);
        assert_eq!(history(&record(&database).await), DONE);
        assert_code(&sweep.set("SCENARIO_FIXED", "true").run().await, 0);
        assert_eq!(count(&database, "things", doc! { "marked": true }).await, 9);
    }
}

#[tokio::test]
async fn what_only_the_server_refuses_leaves_what_was_swept_before_counted() {
    for server in both().await {
        let database = server.database().await;
        let gate = scenario(&database.uri, "0.8.0", "0.8.0=clash");
        upgrade_first(&gate, &database).await;
        let index =
            doc! { "key": { "unique_key": 1 }, "name": "k", "unique": true, "sparse": true };
        database.run_command(doc! { "createIndexes": "things", "indexes": [index] }).await.unwrap();
        let things = (0..6).map(|i| match i {
            5 => doc! { "_id": i, "n": i, "clash": true },
            _ => doc! { "_id": i, "n": i },
        });
        fill(&database, "things", things).await;
        let sweep = gate.mode("sweep").set("GATE_BATCH_DOCUMENTS", "2");
        let run = sweep.run().await;
        assert_code(&run, 14);
        let keyed = count(&database, "things", doc! { "unique_key": { "$exists": true } }).await;
        assert!((4..=5).contains(&keyed), "{run}");
        assert_eq!(run.report["swept"], keyed, "{run}");
        assert!(
            run.report["message"].as_str().unwrap().contains(&format!("{keyed} documents")),
            "{run}"
        );
        let swept = record(&database).await;
        assert_eq!(history(&swept), SWEPT);
        assert_eq!(newest(&swept).get_i64("documents").unwrap(), keyed as i64);

        // alone it leaves no entry
        let entries = history(&swept);
        assert_code(&sweep.run().await, 14);
        assert_eq!(history(&record(&database).await), entries);
    }
}

// ---- others at the same time ----

#[tokio::test]
async fn of_two_sweeps_at_once_one_does_the_work() {
    for server in both().await {
        let database = written_since(server, 200).await;
        let gate = gate(&database).set("GATE_BATCH_DOCUMENTS", "10");
        let both = [gate.spawn(), gate.spawn()];
        let mut swept = 0;
        for running in both {
            let run = running.wait().await;
            assert_code(&run, 0);
            swept += run.report["swept"].as_u64().unwrap();
        }
        assert_eq!((swept, old(&database).await), (200, 0));
        assert_eq!(history(&record(&database).await), SWEPT);
    }
}

#[tokio::test]
async fn a_sweep_that_lost_its_lock_to_an_upgrade_of_newer_code_cannot_commit() {
    let database = written_since(Server::shared().await, 6).await;
    let fault =
        Fault::block(&database, &["commitTransaction"], Duration::from_millis(100), 1).await;
    let sweep = scenario(&faulty(&database), "0.8.0", "0.8.0=move_field").mode("sweep");
    let first = sweep.set("GATE_LOCK_LEASE", "1500ms").set("GATE_BATCH_DOCUMENTS", "2").spawn();
    fault.met(1).await;
    first.signal("STOP");
    fault.end().await;
    // one batch may be through; the next upgrade is of a version whose documents look like the old shape
    let newer = scenario(&database.uri, "0.9.0", "0.8.0=move_field;0.9.0=back").run().await;
    assert_code(&newer, 0);
    let after = dump(&database).await;
    first.signal("CONT");
    let woken = first.wait().await;
    assert_code(&woken, 21);
    assert_eq!(without_lock(dump(&database).await), without_lock(after), "{woken}");
    assert_eq!(count(&database, "things", doc! { "a": { "$exists": true } }).await, 10);
}

#[tokio::test]
async fn a_signal_ends_it_between_batches_and_the_next_one_goes_on() {
    for server in both().await {
        let database = written_since(server, 40).await;
        let command =
            if server.uri("").contains("replicaSet") { "commitTransaction" } else { "update" };
        let gate = scenario(&faulty(&database), "0.8.0", "0.8.0=move_field")
            .mode("sweep")
            .set("GATE_BATCH_DOCUMENTS", "5");
        let fault = Fault::block(&database, &[command], Duration::from_millis(60), 1000).await;
        let running = gate.spawn();
        eventually("a batch", || async { (old(&database).await < 40).then_some(()) }).await;
        running.signal("TERM");
        let run = running.wait().await;
        fault.end().await;
        assert_code(&run, 22);
        assert_eq!(lock(&database).await, None, "{run}");
        let left = old(&database).await;
        assert!((1..40).contains(&left), "{left}");
        let swept = record(&database).await;
        assert_eq!(history(&swept), SWEPT);
        let counted = newest(&swept).get_i64("documents").unwrap() as u64;
        assert!(counted <= 40 - left && counted + 5 >= 40 - left, "{counted} of {}", 40 - left);
        assert_eq!(run.report["swept"], counted, "{run}");
        let again = gate.run().await;
        assert_code(&again, 0);
        assert_eq!((&again.report["swept"], old(&database).await), (&json!(left), 0));
    }
}

#[tokio::test]
async fn a_users_change_meanwhile_is_not_lost() {
    for server in both().await {
        let database = server.database().await;
        let gate = scenario(&database.uri, "0.8.0", "0.8.0=overtaken");
        upgrade_first(&gate, &database).await;
        fill(&database, "things", (0..20).map(|i| doc! { "_id": i, "n": i })).await;
        let run = gate.mode("sweep").run().await;
        assert_code(&run, 0);
        assert_eq!(
            count(&database, "things", doc! { "_id": 15, "n": 1000, "m": 1000 }).await,
            1,
            "{run}"
        );
        assert_eq!(run.report["swept"], 20, "{run}");
    }
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_counted_once() {
    let database = written_since(Server::shared().await, 6).await;
    let how = doc! { "writeConcernError": { "code": 64, "errmsg": "waiting" } };
    let fault = Fault::new(&database, &["commitTransaction"], how, 1).await;
    let sweep = scenario(&faulty(&database), "0.8.0", "0.8.0=move_field").mode("sweep");
    let run = sweep.set("GATE_BATCH_DOCUMENTS", "2").run().await;
    fault.end().await;
    assert_code(&run, 0);
    assert_eq!((&run.report["swept"], old(&database).await), (&json!(6), 0), "{run}");
    assert_eq!(newest(&record(&database).await).get_i64("documents").unwrap(), 6);
}

#[tokio::test]
async fn the_stamp_of_the_application_stays_as_it_is() {
    for server in both().await {
        let database = server.database().await;
        fill(&database, "settings", [doc! { "_id": 1, "version": "v0.8.0", "other": Bson::Null }])
            .await;
        let gate = scenario(&database.uri, "0.8.0", "0.8.0=move_field")
            .unset("GATE_FROM_VERSION")
            .set("SCENARIO_STAMP", "settings/version");
        assert_code(&gate.run().await, 0);
        let before = dump(&database).await.remove("settings");
        fill(&database, "things", [doc! { "_id": 1, "a": 1 }]).await;
        let run = gate.clone().mode("sweep").run().await;
        assert_code(&run, 0);
        assert_eq!((&run.report["swept"], old(&database).await), (&json!(1), 0), "{run}");
        assert_eq!(dump(&database).await.remove("settings"), before);
        assert_code(&gate.mode("check").run().await, 0);
    }
}

#[tokio::test]
async fn a_full_history_makes_room_for_the_newest_sweep_only() {
    let database = written_since(Server::shared().await, 1).await;
    let records = database.collection::<Document>(METADATA);
    let sweeps = vec![
        doc! { "version": "0.8.0", "action": "sweep", "floor": "0.8.0", "timestamp": DateTime::now() };
        498
    ];
    let push = doc! { "$push": { "history": { "$each": sweeps } } };
    records.update_one(doc! { "_id": "scenario_schema_version" }, push).await.unwrap();
    assert_code(&gate(&database).run().await, 0);
    let entries = history(&record(&database).await);
    assert_eq!((entries.len(), &entries[..2]), (500, &DONE.map(str::to_owned)[..]));
    assert_eq!(newest(&record(&database).await).get_i64("documents").unwrap(), 1);
    assert_code(&gate(&database).mode("check").run().await, 0);
}
