//! The record is shared with Python: each reads what the other wrote, and nothing but mode `record`
//! replaces what cannot be read.

mod apps;
mod support;

use apps::{METADATA, assert_code, record};
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, DateTime, Document, doc};
use mongodb::{Database, IndexModel};
use serde::Deserialize;
use serde_json::Value;
use support::{Fresh, Gate, Run, Server, db_hash, dump, python};

const RECORD: &str = "scenario_schema_version";
const CHAIN: &str = "0.8.0=move_field;0.9.0=twice";
const MODES: [&str; 4] = ["upgrade", "check", "wait", "plan"];

fn scenario(database: &Fresh, code: &str, upgrades: &str) -> Gate {
    apps::scenario(&database.uri, code, upgrades).unset("GATE_FROM_VERSION")
}

/// Mode `record`, from what is stored to `version`.
fn repair(database: &Fresh, code: &str, upgrades: &str, stored: &str, version: &str) -> Gate {
    scenario(database, code, upgrades)
        .mode("record")
        .set("GATE_EXPECT_VERSION", stored)
        .set("GATE_RECORD_VERSION", version)
}

async fn database() -> Fresh {
    Server::shared().await.database().await
}

/// A database with things to upgrade and this record.
async fn with_record(mut record: Document) -> Fresh {
    let database = database().await;
    let things = [doc! { "_id": 1, "a": 1 }, doc! { "_id": 2, "a": 2 }];
    database.collection("things").insert_many(things).await.unwrap();
    record.insert("_id", RECORD);
    database.collection(METADATA).insert_one(record).await.unwrap();
    database
}

/// What Python makes of a record.
#[derive(Debug, Deserialize)]
struct Ancestor {
    version: String,
    history: Vec<AncestorEntry>,
}

#[derive(Debug, Deserialize)]
struct AncestorEntry {
    action: String,
    version: String,
    floor: Option<String>,
    age_s: f64,
    actions: Option<Vec<Value>>,
}

impl Ancestor {
    fn entries(&self) -> Vec<String> {
        self.history.iter().map(|entry| format!("{} {}", entry.action, entry.version)).collect()
    }
}

/// Stamps by Python, such as `initialise 0.7.0`, and what Python then reads.
fn python_stamps(database: &Fresh, stamps: &[&str]) -> Ancestor {
    let answer = python()
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/ancestor.py"))
        .args([&database.uri, RECORD, "scenario_version"])
        .args(stamps.iter().flat_map(|stamp| stamp.split(' ')))
        .output()
        .unwrap();
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    serde_json::from_slice(&answer.stdout).unwrap()
}

fn message(run: &Run) -> String {
    format!("{} | {}", run.report["message"], run.report["next"])
}

#[track_caller]
fn assert_says(run: &Run, parts: &[&str]) {
    for part in parts {
        let text = part.replace('"', "\\\"");
        assert!(message(run).contains(&text), "{part:?} is missing in {run}");
    }
}

#[tokio::test]
async fn versions_that_python_stamps_are_ordered_as_python_orders_them() {
    // the last stamp | code | upgrades | exit code of a check
    for (stamps, code, upgrades, expected) in [
        (&["initialise 0.8.0"][..], "0.8.0", "0.8.0=move_field", 0),
        (&["initialise 0.8.0a3"], "0.8.0", "0.8.0=move_field", 10),
        (&["initialise 0.8.0rc1"], "0.8.0", "0.8.0=move_field", 10),
        (&["initialise 0.8.0rc1"], "0.8.0", "0.8.0-rc.1=move_field", 0),
        (&["initialise 0.8.0rc1"], "0.8.0-rc.1", "0.8.0-rc.1=move_field", 0),
        (&["initialise 0.8.0rc10"], "0.8.0-rc.2", "0.8.0-rc.2=move_field", 12),
        (&["initialise 0.8.0rc2"], "0.8.0-rc.10", "0.8.0-rc.10=move_field", 10),
        (&["initialise 0.7.0.post1"], "0.8.0", "0.8.0=move_field", 10),
        (&["initialise 0.7.0", "auto_stamp 0.7.0.post1"], "0.7.0", "0.7.0=move_field", 0),
        (&["initialise 0.7.0.post1"], "0.7.0", "0.7.0=move_field", 12),
        (&["initialise 0.8.0.dev3+g12ab"], "0.8.0", "0.8.0=move_field", 10),
        (&["initialise 0.8.0.dev3+g12ab"], "0.8.0-alpha.1", "0.8.0-alpha.1=move_field", 10),
        (&["initialise 0.8.0+g12ab"], "0.8.0", "0.8.0=move_field", 0),
        (&["initialise v0.7.5"], "0.8.0", "0.8.0=move_field", 10),
        (&["initialise v0.7.5"], "0.7.5", "0.7.5=move_field", 0),
        (&["initialise 0.8"], "0.8.0", "0.8.0=move_field", 0),
        (&["initialise 1!0.1.0"], "0.8.0", "0.8.0=move_field", 12),
        // a history that Python wrote through two upgrades, with its last stamp
        (&["initialise 0.7.0", "upgrade 0.8.0", "upgrade 0.8.1"], "0.8.1", CHAIN_TO_1, 0),
        (
            &["initialise 0.7.0", "upgrade 0.8.0", "upgrade 0.8.1", "upgrade 0.8.5"],
            "0.8.5",
            CHAIN_TO_1,
            0,
        ),
        (
            &["initialise 0.7.0", "upgrade 0.8.0", "upgrade 0.8.1", "upgrade 0.8.5"],
            "0.8.1",
            CHAIN_TO_1,
            12,
        ),
        (&["initialise 0.7.0", "upgrade 0.8.1"], "0.8.1", CHAIN_TO_1, 12),
        (&["auto_stamp 0.8.1", "auto_stamp 0.8.5"], "0.8.1", CHAIN_TO_1, 0),
    ] {
        let database = database().await;
        python_stamps(&database, stamps);
        let before = db_hash(&database).await;
        let run = scenario(&database, code, upgrades).mode("check").run().await;
        assert_eq!(run.code, Some(expected), "{stamps:?} by code {code}: {run}");
        let stamp = stamps.last().unwrap().split_once(' ').unwrap().1;
        assert_eq!(run.report["from"], stamp, "{run}");
        assert_eq!(before, db_hash(&database).await);
    }
}

const CHAIN_TO_1: &str = "0.8.0=move_field;0.8.1=twice";

/// A history as Python writes it, or with the gate's own fields in some of its entries.
fn long_history(entries: usize, ours: bool) -> Vec<Document> {
    let entry = |n: usize| {
        let (action, version) = match n {
            0 => ("initialise", "0.7.0".to_owned()),
            n => ("auto_stamp", format!("0.7.0.post{n}")),
        };
        let mut entry = doc! {
            "version": version, "action": action, "timestamp": DateTime::now(),
            "scenario_version": "0.7.0",
        };
        if ours && n.is_multiple_of(2) {
            entry.extend(doc! { "floor": Bson::Null, "run_id": ObjectId::new(), "host": "there" });
        }
        entry
    };
    (0..entries).map(entry).collect()
}

#[tokio::test]
async fn histories_of_any_length_are_read_and_go_on() {
    for ours in [false, true] {
        for entries in [0, 1, 2, 499, 500, 501, 10_000] {
            let history = long_history(entries, ours);
            let database =
                with_record(doc! { "version": "0.7.0.post1", "history": history.clone() }).await;
            let run = scenario(&database, "0.9.0", CHAIN).mode("check").run().await;
            assert_code(&run, 10);
            let run = scenario(&database, "0.9.0", CHAIN).run().await;
            assert_code(&run, 0);

            let after = record(&database).await;
            let written = after.get_array("history").unwrap();
            assert_eq!(written.len(), (entries + 2).min(500));
            let newest = |n: usize| written[written.len() - n].as_document().unwrap();
            assert_eq!(newest(2).get_str("version").unwrap(), "0.8.0");
            assert_eq!(newest(1).get_str("version").unwrap(), "0.9.0");
            let old = written.len() - 2;
            if entries > 0 {
                assert_eq!(written[0], Bson::from(history[0].clone()), "the oldest stays");
                let kept = &history[entries - old + 1..];
                let kept: Vec<Bson> = kept.iter().cloned().map(Bson::from).collect();
                assert_eq!(written[1..old], kept, "and the newest of the rest");
            }
            let python = python_stamps(&database, &["auto_stamp 0.9.0.post1"]);
            assert_eq!(python.version, "0.9.0.post1");
            assert_eq!(python.history.len(), written.len() + 1);
            let run = scenario(&database, "0.9.0", CHAIN).mode("check").run().await;
            assert_code(&run, 0);
        }
    }
}

#[tokio::test]
async fn what_the_gate_writes_is_read_by_python() {
    let database = database().await;
    let things = [doc! { "_id": 1, "a": 1 }, doc! { "_id": 2, "a": 2 }];
    database.collection("things").insert_many(things).await.unwrap();
    let upgrades = "0.8.0-alpha.2=move_field;0.8.0=singleton;0.9.0-rc.1=twice;0.9.0=index";
    let run =
        scenario(&database, "0.9.1", upgrades).set("GATE_FROM_VERSION", "v0.7.0rc1").run().await;
    assert_code(&run, 0);

    let python = python_stamps(&database, &[]);
    assert_eq!(python.version, "0.9.1");
    assert_eq!(
        python.entries(),
        [
            "initialise 0.7.0rc1",
            "upgrade 0.8.0a2",
            "upgrade 0.8.0",
            "upgrade 0.9.0rc1",
            "upgrade 0.9.0",
            "auto_stamp 0.9.1",
        ]
    );
    let floors: Vec<_> = python.history.iter().map(|entry| entry.floor.as_deref()).collect();
    let expected =
        [None, Some("0.8.0a2"), Some("0.8.0"), Some("0.9.0rc1"), Some("0.9.0"), Some("0.9.0")];
    assert_eq!(floors, expected);
    for (entry, upgrade) in
        python.history[1..5].iter().zip(run.report["upgrades"].as_array().unwrap())
    {
        assert_eq!(Value::from(entry.actions.clone().unwrap()), upgrade["actions"]);
        assert!((-5.0..120.0).contains(&entry.age_s), "{entry:?}");
    }
    assert!(python.history[0].actions.is_none() && python.history[5].actions.is_none());

    // every field that Python has, in every entry
    for entry in record(&database).await.get_array("history").unwrap() {
        let entry = entry.as_document().unwrap();
        for field in ["version", "action", "scenario_version"] {
            assert!(!entry.get_str(field).unwrap().is_empty(), "{entry}");
        }
        entry.get_datetime("timestamp").unwrap();
    }
}

#[tokio::test]
async fn the_gate_and_python_take_turns() {
    let database = database().await;
    python_stamps(&database, &["initialise 0.7.0"]);
    assert_code(&scenario(&database, "0.8.0", CHAIN_TO_8).run().await, 0);
    python_stamps(&database, &["auto_stamp 0.8.0.post1"]);
    assert_code(&scenario(&database, "0.8.0", CHAIN_TO_8).run().await, 0);
    assert_code(&scenario(&database, "0.8.5", CHAIN_TO_8).run().await, 0);
    python_stamps(&database, &["upgrade 0.9.0"]);
    // Python's upgrade of 0.9.0 is the one that this code has too
    assert_code(&scenario(&database, "0.9.0", CHAIN).run().await, 0);
    // and what the code before it cannot use
    let run = scenario(&database, "0.8.5", CHAIN_TO_8).run().await;
    assert_code(&run, 12);
    assert_says(&run, &["the floor is 0.9.0"]);
    let python = python_stamps(&database, &[]);
    assert_eq!(
        python.entries(),
        [
            "initialise 0.7.0",
            "upgrade 0.8.0",
            "auto_stamp 0.8.0.post1",
            "auto_stamp 0.8.5",
            "upgrade 0.9.0",
        ]
    );
}

const CHAIN_TO_8: &str = "0.8.0=move_field";

/// Records that nobody can read, what is said of them, and the text that `GATE_EXPECT_VERSION` repeats.
fn unreadable_records() -> Vec<(Document, &'static str, &'static str)> {
    let entry = |entry: Bson| doc! { "version": "0.8.0", "history": [good_entry(), entry] };
    vec![
        (doc! {}, "its version is missing", "missing"),
        (doc! { "version": Bson::Null }, "its version is null", "null"),
        (doc! { "version": 8 }, "its version is 8", "8"),
        (doc! { "version": 0.8 }, "its version is 0.8", "0.8"),
        (doc! { "version": 8_i64 }, "its version is 8", "8"),
        (doc! { "version": true }, "its version is true", "true"),
        (doc! { "version": ["0.8.0"] }, "its version is [\"0.8.0\"]", "[\"0.8.0\"]"),
        (doc! { "version": { "major": 0 } }, "its version is {\"major\":0}", "{\"major\":0}"),
        (
            doc! { "version": DateTime::from_millis(0) },
            "its version is ",
            "{\"$date\":{\"$numberLong\":\"0\"}}",
        ),
        (doc! { "version": "" }, "version \"\" is neither", "empty"),
        (doc! { "version": "latest" }, "version \"latest\" is neither", "latest"),
        (doc! { "version": "0.8.0-1" }, "bare number", "0.8.0-1"),
        (doc! { "version": "0.8.0 beta" }, "\"0.8.0 beta\"", "0.8.0 beta"),
        (doc! { "version": "1.0.0-foo.1" }, "1.0.0-foo.1", "1.0.0-foo.1"),
        (doc! { "version": "0.8.ü$x" }, "0.8.ü$x", "0.8.ü$x"),
        (doc! { "version": "0.8.0", "history": "none" }, "its history is not an array", "0.8.0"),
        (doc! { "version": "0.8.0", "history": {} }, "its history is not an array", "0.8.0"),
        (
            doc! { "version": "0.8.0", "history": Bson::Null },
            "its history is not an array",
            "0.8.0",
        ),
        (entry(Bson::Null), "history entry 1: it is not a document", "0.8.0"),
        (entry("upgrade 0.8.0".into()), "history entry 1: it is not a document", "0.8.0"),
        (
            entry(doc! { "action": "upgrade" }.into()),
            "history entry 1: its version is missing",
            "0.8.0",
        ),
        (entry(doc! { "version": "x" }.into()), "history entry 1: version \"x\"", "0.8.0"),
        (
            entry(doc! { "version": "0.8.0", "floor": 8 }.into()),
            "its floor is not a version",
            "0.8.0",
        ),
    ]
}

fn good_entry() -> Document {
    doc! { "version": "0.7.0", "action": "initialise", "timestamp": DateTime::from_millis(0), "note": "ours" }
}

#[tokio::test]
async fn an_unreadable_record_closes_every_mode_and_is_mended_exactly_once() {
    for (mut document, reason, text) in unreadable_records() {
        document.insert("by", "somebody else");
        let database = with_record(document.clone()).await;
        document.insert("_id", RECORD);
        let before = db_hash(&database).await;
        for mode in MODES {
            let from = ["GATE_FROM_VERSION", "GATE_INITIALISE"];
            let gate = scenario(&database, "0.8.0", CHAIN_TO_8).mode(mode);
            let run = gate.set(from[0], "0.7.0").set(from[1], "fresh").run().await;
            assert_code(&run, 15);
            let remedy = format!("GATE_EXPECT_VERSION={text}");
            assert_says(&run, &[reason, "GATE_MODE=record", "GATE_RECORD_VERSION", &remedy]);
            assert!(!message(&run).contains("GATE_DISCARD_JOURNAL"), "{run}");
        }
        // not on a guess
        for wrong in ["0.7.0", "something", &format!("{text} ")] {
            let run = repair(&database, "0.8.0", CHAIN_TO_8, wrong, "0.8.0").run().await;
            assert_code(&run, 16);
            assert_says(&run, &["GATE_EXPECT_VERSION", text]);
        }
        assert_eq!(before, db_hash(&database).await, "{document}");

        let run = repair(&database, "0.8.0", CHAIN_TO_8, text, "0.8.0").run().await;
        assert_code(&run, 0);
        assert_eq!(run.report["from"], text, "{run}");
        assert_eq!(run.report["to"], "0.8.0", "{run}");
        assert_mended(&document, record(&database).await, text, "0.8.0");
        assert_eq!(dump(&database).await[METADATA].len(), 1, "the lock is given up");
        let python = python_stamps(&database, &[]);
        assert_eq!(python.version, "0.8.0");

        // exactly once
        let before = db_hash(&database).await;
        if text != "0.8.0" {
            let run = repair(&database, "0.8.0", CHAIN_TO_8, text, "0.8.0").run().await;
            assert_code(&run, 16);
            assert_says(&run, &["but 0.8.0 is stored"]);
        }
        assert_code(&scenario(&database, "0.8.0", CHAIN_TO_8).mode("check").run().await, 0);
        assert_eq!(before, db_hash(&database).await);
    }
}

/// The record as it was stored, but for its version, the journal, and one more entry in a readable history.
fn assert_mended(before: &Document, mut after: Document, replaced: &str, version: &str) {
    assert_eq!(after.get_str("version").unwrap(), version);
    let mut history = after.get_array("history").unwrap().clone();
    let newest = history.pop().unwrap();
    let newest = newest.as_document().unwrap();
    assert_eq!(newest.get_str("version").unwrap(), version);
    assert_eq!(newest.get_str("action").unwrap(), "initialise");
    assert!(newest.get_bool("repair").unwrap());
    assert_eq!(newest.get_str("replaced").unwrap(), replaced);
    assert_eq!(newest.get("journal"), before.get("journal"));
    let kept: Vec<_> = match before.get_array("history") {
        Ok(entries) => entries.iter().filter(|entry| **entry == good_entry().into()).collect(),
        Err(_) => vec![],
    };
    assert_eq!(history.iter().collect::<Vec<_>>(), kept);
    // what could not be read is not lost
    match (before.get("history"), newest.get("unreadable_history")) {
        (None, None) => {}
        (Some(Bson::Array(entries)), None) => assert_eq!(entries.len(), kept.len()),
        (Some(Bson::Array(entries)), Some(Bson::Array(odd))) => {
            assert_eq!(entries.len(), kept.len() + odd.len());
            assert!(odd.iter().all(|entry| entries.contains(entry)));
        }
        (Some(other), Some(moved)) => assert_eq!(other, moved),
        other => panic!("{other:?}"),
    }
    let mut rest = before.clone();
    for field in ["version", "history", "journal"] {
        after.remove(field);
        rest.remove(field);
    }
    assert_eq!(after, rest, "nothing else changes");
}

/// A database whose upgrade to 0.8.0 failed at its second document, and the journal's id.
async fn interrupted() -> (Fresh, String) {
    let database = with_record(doc! { "version": "0.7.0", "history": [good_entry()] }).await;
    let options = mongodb::options::IndexOptions::builder().unique(true).sparse(true).build();
    let index = IndexModel::builder().keys(doc! { "unique_key": 1 }).options(options).build();
    database.collection::<Document>("things").create_index(index).await.unwrap();
    let gate = scenario(&database, "0.8.0", "0.8.0=same_key").set("GATE_BATCH_DOCUMENTS", "1");
    let run = gate.run().await;
    assert_code(&run, 14);
    let id = journal(&database).await.get_str("id").unwrap().to_owned();
    assert_says(&run, &[&id]);
    (database, id)
}

async fn journal(database: &Database) -> Document {
    record(database).await.get_document("journal").unwrap().clone()
}

#[tokio::test]
async fn an_unfinished_upgrade_is_given_up_only_by_its_name() {
    let (database, id) = interrupted().await;
    let stored = record(&database).await;
    let before = db_hash(&database).await;
    let unknown = || scenario(&database, "0.8.0", CHAIN_TO_8);
    for mode in MODES {
        let run = unknown().mode(mode).run().await;
        assert_code(&run, 12);
        assert_says(&run, &["GATE_EXPECT_VERSION=0.7.0", &format!("GATE_DISCARD_JOURNAL={id}")]);
    }
    let repair = || repair(&database, "0.8.0", CHAIN_TO_8, "0.7.0", "0.7.0");
    for wrong in [repair(), repair().set("GATE_DISCARD_JOURNAL", "0123456789")] {
        let run = wrong.run().await;
        assert_code(&run, 16);
        assert_says(&run, &[&id, "GATE_DISCARD_JOURNAL"]);
    }
    let run =
        repair().set("GATE_EXPECT_VERSION", "0.8.0").set("GATE_DISCARD_JOURNAL", &id).run().await;
    assert_code(&run, 16);
    assert_eq!(before, db_hash(&database).await);

    let run = repair().set("GATE_DISCARD_JOURNAL", &id).run().await;
    assert_code(&run, 10);
    assert_says(&run, &["1 upgrade is pending: 0.8.0"]);
    assert!(run.report["unfinished"].is_null(), "{run}");
    assert_mended(&stored, record(&database).await, "0.7.0", "0.7.0");

    // it is gone: its name means nothing any more
    let before = db_hash(&database).await;
    let run = repair().set("GATE_DISCARD_JOURNAL", &id).run().await;
    assert_code(&run, 16);
    assert_says(&run, &["no upgrade is unfinished"]);
    assert_eq!(before, db_hash(&database).await);
    assert_code(&unknown().run().await, 0);
}

/// As `docs/exit-codes.md` tells it: what it does, and the way out of it.
#[tokio::test]
async fn an_older_python_server_that_restarts_over_an_unfinished_upgrade_is_15_and_repaired() {
    // a server of the recorded version stamps as well as one between it and the upgrade
    for stamped in ["0.7.0", "0.7.5"] {
        let (database, id) = interrupted().await;
        python_stamps(&database, &[&format!("auto_stamp {stamped}")]);
        let before = db_hash(&database).await;
        for mode in MODES {
            let run = scenario(&database, "0.8.0", "0.8.0=same_key").mode(mode).run().await;
            assert_code(&run, 15);
            let expect = format!("GATE_EXPECT_VERSION={stamped}");
            let discard = format!("GATE_DISCARD_JOURNAL={id}");
            assert_says(&run, &["something else wrote to it", &expect, &discard]);
        }
        assert_eq!(before, db_hash(&database).await);

        let repair = repair(&database, "0.8.0", "0.8.0=same_key", stamped, "0.7.0");
        assert_code(&repair.set("GATE_DISCARD_JOURNAL", &id).run().await, 10);
        database.collection::<Document>("things").drop_index("unique_key_1").await.unwrap();
        assert_code(&scenario(&database, "0.8.0", "0.8.0=same_key").run().await, 0);
        assert_eq!(python_stamps(&database, &[]).version, "0.8.0");
    }
}

#[tokio::test]
async fn a_journal_that_cannot_be_read_is_given_up_too() {
    let interrupted = interrupted().await.0;
    let good = journal(&interrupted).await;
    let changed = |field: &str, value: Option<Bson>| {
        let mut journal = good.clone();
        match value {
            Some(value) => journal.insert(field, value),
            None => journal.remove(field),
        };
        Bson::from(journal)
    };
    let id = good.get_str("id").unwrap();
    for (journal, reason, id) in [
        (Bson::Null, "its journal is not a document", "unreadable"),
        ("0.8.0".into(), "its journal is not a document", "unreadable"),
        (Bson::Array(vec![]), "its journal is not a document", "unreadable"),
        (doc! {}.into(), "its journal cannot be read", "unreadable"),
        (doc! { "id": "x y" }.into(), "its journal cannot be read", "x y"),
        (changed("id", Some(7.into())), "its journal cannot be read", "unreadable"),
        (changed("id", None), "its journal cannot be read", "unreadable"),
        (changed("step", Some(9.into())), "its journal is at step 9 of 1", id),
        (changed("step", Some((-1).into())), "its journal cannot be read", id),
        (changed("version", Some("soon".into())), "its journal: version \"soon\"", id),
        (changed("steps", Some(Bson::Null)), "its journal cannot be read", id),
        (changed("from", None), "its journal cannot be read", id),
        (
            changed("from", Some(doc! { "version": "0.6.0", "history": 1 }.into())),
            "began at 0.6.0",
            id,
        ),
        (
            changed("from", Some(doc! { "version": "0.7.0", "history": 7 }.into())),
            "with 7 entries",
            id,
        ),
    ] {
        let document = doc! { "version": "0.7.0", "history": [good_entry()], "journal": journal };
        let database = with_record(document.clone()).await;
        let before = db_hash(&database).await;
        for mode in MODES {
            let run = scenario(&database, "0.8.0", "0.8.0=same_key").mode(mode).run().await;
            assert_code(&run, 15);
            let discard = format!("GATE_DISCARD_JOURNAL={id}");
            assert_says(&run, &[reason, "GATE_MODE=record", "GATE_EXPECT_VERSION=0.7.0", &discard]);
        }
        let repair = || repair(&database, "0.8.0", "0.8.0=same_key", "0.7.0", "0.7.0");
        assert_code(&repair().run().await, 16);
        assert_code(&repair().set("GATE_DISCARD_JOURNAL", "another").run().await, 16);
        assert_eq!(before, db_hash(&database).await);
        let run = repair().set("GATE_DISCARD_JOURNAL", id).run().await;
        assert_code(&run, 10);
        let mut stored = document;
        stored.insert("_id", RECORD);
        assert_mended(&stored, record(&database).await, "0.7.0", "0.7.0");
        assert_code(&scenario(&database, "0.8.0", "0.8.0=same_key").run().await, 0);
    }
}

#[tokio::test]
async fn a_disagreement_ends_by_either_way_out() {
    let disagreeing = || async {
        let database = with_record(doc! { "version": "0.7.0", "history": [] }).await;
        python_stamps(&database, &["auto_stamp 0.7.0", "auto_stamp 0.8.0"]);
        let run = scenario(&database, "0.8.0", CHAIN_TO_8).run().await;
        assert_code(&run, 12);
        assert_says(
            &run,
            &["did not go through the upgrade of 0.8.0", "GATE_EXPECT_VERSION=0.8.0"],
        );
        database
    };
    let things = |database: &Fresh| database.collection::<Document>("things");

    // to a version before it, so that it is applied
    let database = disagreeing().await;
    assert_code(&repair(&database, "0.8.0", CHAIN_TO_8, "0.8.0", "0.7.0").run().await, 10);
    assert_code(&scenario(&database, "0.8.0", CHAIN_TO_8).run().await, 0);
    assert_eq!(
        things(&database).count_documents(doc! { "b": { "$exists": true } }).await.unwrap(),
        2
    );

    // to the same one, where the documents need nothing
    let database = disagreeing().await;
    assert_code(&repair(&database, "0.8.0", CHAIN_TO_8, "0.8.0", "0.8.0").run().await, 0);
    assert_code(&scenario(&database, "0.8.0", CHAIN_TO_8).run().await, 0);
    assert_eq!(
        things(&database).count_documents(doc! { "b": { "$exists": true } }).await.unwrap(),
        0
    );
    let history = apps::history(&record(&database).await);
    assert_eq!(history, ["auto_stamp 0.7.0", "auto_stamp 0.8.0", "initialise 0.8.0"]);
}

#[tokio::test]
async fn of_two_repairs_at_once_one_takes_effect() {
    for _ in 0..5 {
        let database = with_record(doc! { "version": "latest" }).await;
        let repair = repair(&database, "0.8.0", CHAIN_TO_8, "latest", "0.8.0");
        let running: Vec<_> = (0..4).map(|_| repair.spawn()).collect();
        let mut codes = Vec::new();
        for gate in running {
            codes.push(gate.wait().await.code.unwrap());
        }
        codes.sort_unstable();
        assert_eq!(codes, [0, 16, 16, 16]);
        assert_eq!(record(&database).await.get_array("history").unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_repair_waits_for_the_lock() {
    let database = with_record(doc! { "version": "latest" }).await;
    let lock = doc! { "run_id": "other", "host": "h", "expires": { "$add": ["$$NOW", 60_000] } };
    let metadata = database.collection::<Document>(METADATA);
    let by_id = doc! { "_id": "upgrade_lock" };
    metadata.update_one(by_id.clone(), vec![doc! { "$set": lock }]).upsert(true).await.unwrap();
    let before = db_hash(&database).await;
    let repair = repair(&database, "0.8.0", CHAIN_TO_8, "latest", "0.8.0");
    let run = repair.clone().set("GATE_LOCK_WAIT", "200ms").run().await;
    assert_code(&run, 21);
    assert_eq!(before, db_hash(&database).await);

    let mut waiting = repair.spawn();
    waiting.logged("waiting for another run").await;
    metadata.delete_one(by_id).await.unwrap();
    assert_code(&waiting.wait().await, 0);
    assert_eq!(record(&database).await.get_str("version").unwrap(), "0.8.0");
}

#[tokio::test]
async fn an_unrecorded_database_is_not_repaired() {
    let database = database().await;
    let before = db_hash(&database).await;
    let run = repair(&database, "0.8.0", CHAIN_TO_8, "missing", "0.8.0").run().await;
    assert_code(&run, 16);
    assert_says(&run, &["this database has none", "GATE_FROM_VERSION"]);
    assert_eq!(before, db_hash(&database).await);
}

#[tokio::test]
async fn no_persistent_setting_overwrites_a_recorded_version() {
    for from in [None, Some("0.1.0"), Some("0.7.0"), Some("0.8.0"), Some("0.9.0"), Some("1.0.0")] {
        for initialise in ["no", "fresh"] {
            for target in [None, Some("0.7.0"), Some("0.7.5"), Some("0.9.0")] {
                for documents in [true, false] {
                    let record = doc! { "version": "0.8.0", "history": [good_entry(), upgraded()] };
                    let database = with_record(record).await;
                    if !documents {
                        database.collection::<Document>("things").drop().await.unwrap();
                    }
                    let mut gate =
                        scenario(&database, "0.9.0", CHAIN_TO_8).set("GATE_INITIALISE", initialise);
                    for (name, value) in
                        [("GATE_FROM_VERSION", from), ("GATE_TARGET_VERSION", target)]
                    {
                        if let Some(value) = value {
                            gate = gate.set(name, value);
                        }
                    }
                    let run = gate.run().await;
                    let after = self::record(&database).await;
                    let history = apps::history(&after);
                    assert_eq!(history[..2], ["initialise 0.7.0", "upgrade 0.8.0"], "{run}");
                    let stamped = run.code == Some(0);
                    let version = if stamped { "0.9.0" } else { "0.8.0" };
                    assert_eq!(after.get_str("version").unwrap(), version, "{run}");
                    assert_eq!(history.len(), if stamped { 3 } else { 2 }, "{run}");
                    let later = matches!(from, Some("0.9.0" | "1.0.0"));
                    let below = matches!(target, Some("0.7.0" | "0.7.5"));
                    assert_code(&run, if later || below { 16 } else { 0 });
                }
            }
        }
    }
    // and those that do are no settings of any other mode
    let database = with_record(doc! { "version": "0.8.0", "history": [] }).await;
    let before = db_hash(&database).await;
    for mode in MODES {
        let run = repair(&database, "0.9.0", CHAIN_TO_8, "0.8.0", "0.7.0").mode(mode).run().await;
        assert_code(&run, 16);
        assert_says(&run, &["GATE_RECORD_VERSION has no meaning in mode", "only in mode record"]);
    }
    assert_eq!(before, db_hash(&database).await);
}

fn upgraded() -> Document {
    doc! { "version": "0.8.0", "action": "upgrade", "timestamp": DateTime::from_millis(0) }
}

async fn size(database: &Database) -> u64 {
    let size = [
        doc! { "$match": { "_id": RECORD } },
        doc! { "$project": { "n": { "$bsonSize": "$$ROOT" } } },
    ];
    let mut sizes = database.collection::<Document>(METADATA).aggregate(size).await.unwrap();
    assert!(sizes.advance().await.unwrap());
    let size = sizes.deserialize_current().unwrap();
    u64::try_from(size.get_i32("n").unwrap()).unwrap()
}

const MIB: u64 = 1024 * 1024;

#[tokio::test]
async fn the_record_stays_small_through_many_upgrades() {
    let database = with_record(doc! { "version": "0.0.0", "history": [good_entry()] }).await;
    let unit = |n: u32| format!("1.{n}.0=move_field");
    let table = (0..200).map(unit).collect::<Vec<_>>().join(";");
    let run = scenario(&database, "1.200.0", &table).run().await;
    assert_code(&run, 0);
    assert_eq!(record(&database).await.get_array("history").unwrap().len(), 202);
    assert!(size(&database).await < MIB, "{}", size(&database).await);
    assert_code(&scenario(&database, "1.200.0", &table).mode("check").run().await, 0);
    // what was capped would be missed here: none of them is unknown or missing
    let python = python_stamps(&database, &[]);
    assert_eq!(python.history.len(), 202);
}

/// A record that nears the server's limit by what others wrote is mended, not broken, by the next write.
#[tokio::test]
async fn a_record_that_others_made_large_is_made_small() {
    let note = "x".repeat(1000);
    let entry = |n: usize| {
        doc! { "version": "0.7.0", "action": "auto_stamp", "timestamp": DateTime::from_millis(0), "n": n as i64, "note": &note }
    };
    let history: Vec<_> = (0..13_000).map(entry).collect();
    let database = with_record(doc! { "version": "0.7.0", "history": history }).await;
    assert!(size(&database).await > 12 * MIB);
    assert_code(&scenario(&database, "0.8.0", CHAIN_TO_8).mode("check").run().await, 10);
    assert_code(&scenario(&database, "0.8.0", CHAIN_TO_8).run().await, 0);
    assert!(size(&database).await < 3 * MIB, "{}", size(&database).await);
    assert_code(&scenario(&database, "0.8.0", CHAIN_TO_8).mode("check").run().await, 0);
}

#[tokio::test]
async fn a_large_record_that_cannot_be_read_is_mended() {
    let note = "x".repeat(1000);
    let entry = |n: usize| {
        doc! { "version": "0.7.0", "action": "auto_stamp", "timestamp": DateTime::from_millis(0), "n": n as i64, "note": &note }
    };
    let history: Vec<_> = (0..13_000).map(entry).collect();
    let database = with_record(doc! { "version": "latest", "history": history }).await;
    assert_code(&scenario(&database, "0.8.0", CHAIN_TO_8).mode("check").run().await, 15);
    assert_code(&repair(&database, "0.8.0", CHAIN_TO_8, "latest", "0.7.0").run().await, 10);
    assert!(size(&database).await < 3 * MIB, "{}", size(&database).await);
}

/// Two branches that each add an upgrade under one version.
#[tokio::test]
async fn an_upgrade_that_joined_an_applied_version_is_not_skipped_in_silence() {
    let database = with_record(doc! { "version": "0.7.0", "history": [] }).await;
    let one = scenario(&database, "0.8.0", "0.8.0=move_field");
    assert_code(&one.run().await, 0);
    let entry = record(&database).await.get_array("history").unwrap()[0].clone();
    let upgrades = entry.as_document().unwrap().get_array("upgrades").unwrap().clone();
    assert_eq!(upgrades, [Bson::from(doc! { "name": "move a to b in things" })]);

    let both = "0.8.0=move_field,index";
    let before = db_hash(&database).await;
    for mode in MODES {
        let run = scenario(&database, "0.8.0", both).mode(mode).run().await;
        assert_code(&run, 12);
        assert_says(
            &run,
            &["did not go through", "of 0.8.0, only through \"move a to b in things\""],
        );
    }
    assert_eq!(db_hash(&database).await, before);
    // the way out: the version is applied once more
    assert_code(&repair(&database, "0.8.0", both, "0.8.0", "0.7.0").run().await, 10);
    assert_code(&scenario(&database, "0.8.0", both).run().await, 0);
    assert_code(&scenario(&database, "0.8.0", both).mode("check").run().await, 0);
    // code that has fewer still knows the version
    assert_code(&one.mode("check").run().await, 0);
}
