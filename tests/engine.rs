//! What upgrades do through real processes on a real replica set: plans, atomicity, looking before
//! writing, conditions, look-ups, batches, late writers, and what a run says of it all.

mod apps;
mod support;

use std::time::Duration;

use apps::{
    Fault, METADATA, actions, assert_code, assert_frugal, count, counted, faulty, fill, history,
    ids, lock, record, record_old, scenario, suited, suits,
};
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, Document, Regex, doc};
use mongodb::options::{ClusteredIndex, Collation};
use mongodb::{Client, Database};
use serde_json::{Value, json};
use support::{Gate, Run, Server, db_hash, dump, mongod_version};

/// `{ _id, a, n }` for each number.
fn things(n: i32) -> impl Iterator<Item = Document> {
    (0..n).map(|i| doc! { "_id": i, "a": i, "n": i })
}

async fn fresh(documents: i32) -> support::Fresh {
    let database = Server::shared().await.database().await;
    for collection in ["things", "counters", "old"] {
        fill(&database, collection, things(documents)).await;
    }
    record_old(&database).await;
    database
}

/// Plans, upgrades, and returns both runs, once it is sure that the plan wrote nothing.
async fn plan_and_upgrade(database: &Database, gate: &Gate) -> (Run, Run) {
    let before = db_hash(database).await;
    let plan = gate.clone().mode("plan").run().await;
    assert_code(&plan, 10);
    assert_eq!(db_hash(database).await, before, "the plan wrote: {plan}");
    let upgrade = gate.run().await;
    assert_code(&upgrade, 0);
    (plan, upgrade)
}

fn exact(plan: &Run) -> Vec<bool> {
    let upgrades = plan.report["upgrades"].as_array().unwrap().iter();
    upgrades.map(|upgrade| upgrade["exact"].as_bool().unwrap()).collect()
}

// ---- plans ----

#[tokio::test]
async fn a_plan_lists_exactly_what_the_upgrade_then_does_and_writes_nothing() {
    let cases = [
        (10, 1000, "0.8.0=move_field"),
        (700, 50, "0.8.0=move_field"),
        (10, 1000, "0.8.0=move_field,increment,singleton"),
        (10, 1000, "0.8.0=move_field,twice,stubborn"),
        (30, 1000, "0.8.0=move_field;0.8.1=twice;0.9.0=index"),
        (90, 10, "0.8.0=move_field;0.8.1=twice;0.9.0=increment"),
        (30, 10, "0.8.0=index,move_field,validator;0.8.1=increment;0.9.0=drop"),
        (30, 10, "0.8.0=singleton,index;0.8.1=stubborn,rename;0.9.0=increment"),
        (30, 1000, "0.8.0=owners,clash,unique;0.9.0=move_field,grow,unvalidate"),
        (20, 1000, "0.8.0=text_index;0.9.0=increment"),
    ];
    for (documents, batch, upgrades) in cases {
        let database = fresh(documents).await;
        if !suits(&database, upgrades).await {
            continue;
        }
        fill(&database, "auxiliary", [doc! { "counts": true }, doc! { "counts": true }]).await;
        let gate = scenario(&database.uri, "0.9.0", upgrades)
            .set("GATE_BATCH_DOCUMENTS", batch.to_string());
        let (plan, upgrade) = plan_and_upgrade(&database, &gate).await;
        let (planned, done) = (actions(&plan), actions(&upgrade));
        for (version, exact) in exact(&plan).into_iter().enumerate() {
            assert!(exact, "{upgrades}: {plan}");
            assert_eq!(planned[version], done[version], "{upgrades}: {plan}\n{upgrade}");
        }
        assert_eq!(planned.len(), done.len());
    }
}

#[tokio::test]
async fn a_chain_too_large_to_rehearse_is_counted_document_by_document() {
    let database = fresh(150).await;
    let upgrades = "0.8.0=move_field;0.8.1=twice;0.9.0=increment";
    let gate = scenario(&database.uri, "0.9.0", upgrades).set("GATE_BATCH_DOCUMENTS", "10");
    let (plan, upgrade) = plan_and_upgrade(&database, &gate).await;
    assert_eq!(exact(&plan), [true, true, true], "{plan}");
    assert_eq!(actions(&plan), actions(&upgrade));
    assert_eq!(counted(&upgrade, "0.8.1", "doubled"), 150);
}

#[tokio::test]
async fn what_follows_a_rename_is_listed_without_counts() {
    let database = fresh(20).await;
    let upgrades = "0.8.0=rename;0.9.0=increment_new,increment";
    if !suits(&database, upgrades).await {
        return;
    }
    let gate = scenario(&database.uri, "0.9.0", upgrades);
    let (plan, upgrade) = plan_and_upgrade(&database, &gate).await;
    assert_eq!(exact(&plan), [true, false], "{plan}");
    let planned = actions(&plan);
    let inexact = &planned[1].1[0];
    assert_eq!(inexact["details"], json!({ "exact": false }), "{plan}");
    let description = inexact["description"].as_str().unwrap();
    assert!(!description.contains(|c: char| c.is_ascii_digit() || c == '{'), "{description}");
    assert_eq!(planned[1].1[1]["details"], json!({ "counted": 20 }), "{plan}");
    assert_eq!(counted(&upgrade, "0.9.0", "counted"), 40);
}

#[tokio::test]
async fn a_command_whose_probe_depends_on_an_earlier_step_is_never_listed_as_exact_and_wrong() {
    // each has something to do only because of what an earlier step left
    for upgrades in [
        "0.8.0=index;0.9.0=unindex",
        "0.8.0=extract;0.9.0=drop_blocks",
        "0.8.0=validator;0.9.0=unvalidate",
    ] {
        let database = fresh(3).await;
        if !suits(&database, upgrades).await {
            continue;
        }
        fill(&database, "things", [doc! { "_id": "block", "block": "text" }]).await;
        let gate = scenario(&database.uri, "0.9.0", upgrades);
        let (plan, upgrade) = plan_and_upgrade(&database, &gate).await;
        let (planned, done) = (actions(&plan), actions(&upgrade));
        for (version, exact) in exact(&plan).into_iter().enumerate() {
            assert!(!exact || planned[version] == done[version], "{plan}\n{upgrade}");
        }
        assert_eq!(done[1].1.as_array().unwrap().len(), 1, "{upgrade}");
    }
}

#[tokio::test]
async fn a_reader_may_plan_where_nothing_is_rehearsed_and_is_told_so_where_something_is() {
    let server = Server::with_auth().await;
    let database = server.database().await;
    fill(&database, "things", things(10)).await;
    fill(&database, "counters", things(10)).await;
    record_old(&database).await;
    let before = db_hash(&database).await;
    let reader = server.uri_with_roles(database.name(), &["read"]).await;

    let alone = &suited("0.8.0=move_field,index,drop;0.9.0=increment");
    let plan = scenario(&reader, "0.9.0", alone).mode("plan").run().await;
    assert_code(&plan, 10);
    assert_eq!(exact(&plan), [true, true], "{plan}");
    assert_eq!(counted(&plan, "0.8.0", "moved"), 10);
    let run = scenario(&reader, "0.9.0", alone).run().await;
    assert_code(&run, 17);

    for rehearsed in ["0.8.0=move_field;0.9.0=twice", "0.8.0=singleton"] {
        let plan = scenario(&reader, "0.9.0", rehearsed).mode("plan").run().await;
        assert_code(&plan, 17);
        let plan = scenario(&database.uri, "0.9.0", rehearsed).mode("plan").run().await;
        assert_code(&plan, 10);
    }
    assert_eq!(db_hash(&database).await, before);
}

#[tokio::test]
async fn a_plan_of_a_chain_that_cannot_be_rehearsed_now_counts_it_all_the_same() {
    let database = fresh(10).await;
    let mut session = database.client().start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let things = database.collection::<Document>("things");
    let update = things.update_one(doc! { "_id": 3 }, doc! { "$set": { "busy": true } });
    update.session(&mut session).await.unwrap();

    let gate = scenario(&database.uri, "0.9.0", "0.8.0=move_field;0.9.0=twice").mode("plan");
    let plan = gate.run().await;
    assert_code(&plan, 10);
    assert_eq!(exact(&plan), [true, true], "{plan}");
    session.abort_transaction().await.unwrap();
    let rehearsed = gate.run().await;
    assert_eq!(actions(&plan), actions(&rehearsed));
}

// ---- one version is one unit ----

#[tokio::test]
async fn the_upgrades_of_one_version_commit_as_one_or_not_at_all() {
    for recorded in [true, false] {
        let database = Server::shared().await.database().await;
        fill(&database, "things", things(20)).await;
        fill(&database, "auxiliary", [doc! { "_id": 1, "counts": true, "refuse": true }]).await;
        if recorded {
            record_old(&database).await;
        }
        let (before, mut documents) = (db_hash(&database).await, dump(&database).await);
        let gate = scenario(&database.uri, "0.9.0", "0.8.0=move_field,stubborn;0.9.0=twice");
        let run = gate.run().await;
        assert_code(&run, 14);
        assert!(run.report["message"].as_str().unwrap().contains("a document says no"), "{run}");
        assert_eq!(run.report["upgrades"], json!([]), "{run}");
        assert_eq!(run.report["to"].is_null(), !recorded, "{run}");
        if recorded {
            assert_eq!(db_hash(&database).await, before);
        }
        let mut left = dump(&database).await;
        assert!(documents.remove(METADATA) == left.remove(METADATA).filter(|d| !d.is_empty()));
        assert_eq!(left, documents);

        let auxiliary = database.collection::<Document>("auxiliary");
        auxiliary.update_one(doc! {}, doc! { "$set": { "refuse": false } }).await.unwrap();
        let run = gate.run().await;
        assert_code(&run, 0);
        assert_eq!(
            history(&record(&database).await),
            ["initialise 0.7.0", "upgrade 0.8.0", "upgrade 0.9.0"]
        );
        assert_eq!(count(&database, "things", doc! { "twice": { "$exists": true } }).await, 20);
        assert_eq!(count(&database, "auxiliary", doc! { "n": 1 }).await, 1);
        assert_eq!(lock(&database).await, None);
    }
}

#[tokio::test]
async fn what_the_server_refuses_leaves_no_trace_of_a_small_upgrade() {
    let database = fresh(20).await;
    let unique = doc! { "createIndexes": "things", "indexes": [
        { "key": { "unique_key": 1 }, "name": "unique key", "unique": true, "sparse": true },
    ] };
    database.run_command(unique).await.unwrap();
    let before = db_hash(&database).await;
    let gate = scenario(&database.uri, "0.9.0", "0.8.0=increment,clash;0.9.0=move_field");
    let things = database.collection::<Document>("things");
    things.update_one(doc! { "_id": 17 }, doc! { "$set": { "clash": true } }).await.unwrap();
    let clashing = db_hash(&database).await;
    assert_ne!(clashing, before);
    let run = gate.run().await;
    assert_code(&run, 14);
    let message = run.report["message"].as_str().unwrap();
    assert!(message.contains("document 17 of things: duplicate key in index unique key"), "{run}");
    assert!(message.ends_with("; nothing was written"), "{run}");
    assert_eq!(db_hash(&database).await, clashing);

    let run = gate.set("SCENARIO_FIXED", "true").run().await;
    assert_code(&run, 0);
    assert_eq!(
        count(&database, "counters", doc! { "$expr": { "$eq": ["$n", { "$add": ["$_id", 1] }] } })
            .await,
        20
    );
}

#[tokio::test]
async fn a_failed_large_upgrade_goes_on_from_its_journal_with_a_mended_function() {
    let database = fresh(200).await;
    let unique = doc! { "createIndexes": "things", "indexes": [
        { "key": { "unique_key": 1 }, "name": "by_key", "unique": true, "sparse": true },
    ] };
    database.run_command(unique).await.unwrap();
    let things = database.collection::<Document>("things");
    things.update_one(doc! { "_id": 117 }, doc! { "$set": { "clash": true } }).await.unwrap();
    let gate = scenario(&database.uri, "0.9.0", "0.8.0=increment,clash;0.9.0=index")
        .set("GATE_BATCH_DOCUMENTS", "20");
    let run = gate.run().await;
    assert_code(&run, 14);
    let message = run.report["message"].as_str().unwrap();
    assert!(message.contains("document 117 of things: duplicate key in index by_key"), "{run}");
    let journal = record(&database).await.get_document("journal").unwrap().clone();
    let id = journal.get_str("id").unwrap();
    assert!(message.contains("0.8.0 is unfinished after 300 documents"), "{run}");
    assert!(message.contains("at step \"keys\"") && message.contains(id), "{run}");
    assert_eq!(run.report["unfinished"]["documents"], 300, "{run}");
    assert_eq!(count(&database, "things", doc! { "unique_key": { "$exists": true } }).await, 100);
    assert_eq!(lock(&database).await, None);
    assert_code(&gate.clone().mode("check").run().await, 10);

    let plan = gate.clone().set("SCENARIO_FIXED", "true").mode("plan").run().await;
    assert_code(&plan, 10);
    assert_eq!(counted(&plan, "0.8.0", "keyed"), 100, "{plan}");
    assert_eq!(actions(&plan)[1].1[0]["action_type"], "create_index", "{plan}");

    // the function that fails still fails, and loses nothing
    assert_code(&gate.run().await, 14);
    let run = gate.set("SCENARIO_FIXED", "true").run().await;
    assert_code(&run, 0);
    assert_eq!(counted(&run, "0.8.0", "counted"), 200, "{run}");
    assert_eq!(counted(&run, "0.8.0", "keyed"), 200, "{run}");
    let counted_once = doc! { "$expr": { "$eq": ["$n", { "$add": ["$_id", 1] }] } };
    assert_eq!(count(&database, "counters", counted_once).await, 200);
    assert_eq!(history(&record(&database).await).len(), 3);
}

// ---- looking before writing ----

#[tokio::test]
async fn a_document_that_cannot_be_transformed_is_found_before_the_first_write() {
    for (batch, upgrades) in [
        ("1000", "0.8.0=increment;0.9.0=refuse"),
        ("7", "0.8.0=increment;0.9.0=refuse"),
        ("7", "0.8.0=increment,refuse"),
        ("1000", "0.8.0=index,refuse"),
    ] {
        let database = fresh(100).await;
        fill(&database, "things", [doc! { "_id": "last", "bad": true }]).await;
        let before = db_hash(&database).await;
        let gate = scenario(&database.uri, "0.9.0", upgrades).set("GATE_BATCH_DOCUMENTS", batch);
        let run = gate.run().await;
        assert_code(&run, 14);
        let message = run.report["message"].as_str().unwrap();
        assert!(message.contains("document \"last\" of things: it is marked bad"), "{run}");
        assert!(message.ends_with("; nothing was written"), "{run}");
        assert_eq!(db_hash(&database).await, before);
        assert_code(&gate.set("SCENARIO_FIXED", "true").run().await, 0);
    }
}

#[tokio::test]
async fn a_document_that_only_an_earlier_step_spoils_is_found_before_the_first_write() {
    for upgrades in [
        "0.8.0=move_field,refuse_moved",
        "0.8.0=move_field;0.9.0=refuse_moved",
        "0.8.0=move_field,refuse_moved,index",
        "0.8.0=index,move_field;0.9.0=refuse_moved",
    ] {
        let database = fresh(20).await;
        fill(&database, "things", [doc! { "_id": "last", "a": "bad" }]).await;
        let before = db_hash(&database).await;
        let gate = scenario(&database.uri, "0.9.0", upgrades);
        let run = gate.run().await;
        assert_code(&run, 14);
        let message = run.report["message"].as_str().unwrap();
        assert!(message.contains("document \"last\" of things: its b is bad"), "{run}");
        assert_eq!(db_hash(&database).await, before, "{upgrades}: {run}");
    }
}

#[tokio::test]
async fn a_document_that_would_grow_beyond_16_mib_is_found_before_the_first_write() {
    const MIB: i32 = 1024 * 1024;
    for upgrades in ["0.8.0=increment,grow", "0.8.0=index;0.9.0=grow_narrow"] {
        let database = fresh(10).await;
        let large = doc! { "_id": "large", "grow": 7 * MIB, "kept": "y".repeat(9 * MIB as usize) };
        fill(&database, "things", [large]).await;
        let before = db_hash(&database).await;
        let gate = scenario(&database.uri, "0.9.0", upgrades);
        let run = gate.run().await;
        assert_code(&run, 14);
        let message = run.report["message"].as_str().unwrap();
        assert!(message.contains("document \"large\" of things"), "{run}");
        assert!(message.contains("16 MiB"), "{run}");
        assert_eq!(db_hash(&database).await, before);

        let smaller = doc! { "$set": { "grow": 7 * MIB - 200 } };
        let things = database.collection::<Document>("things");
        things.update_one(doc! { "_id": "large" }, smaller).await.unwrap();
        assert_code(&gate.run().await, 0);
    }
}

#[tokio::test]
async fn no_output_holds_what_documents_hold() {
    const SECRET: &str = "s3cret-of-a-document";
    let file = std::env::temp_dir().join(format!("report-{}", ObjectId::new()));
    for batch in ["1000", "4"] {
        for (upgrades, code) in [
            ("0.8.0=refuse", 14),
            ("0.8.0=increment,clash", 14),
            ("0.8.0=increment,move_field", 14),
            ("0.8.0=unique", 14),
            ("0.8.0=grow", 14),
            ("0.8.0=strict", 13),
            ("0.8.0=increment,owners", 0),
        ] {
            let database = Server::shared().await.database().await;
            let spoilt = |i: i32| match upgrades {
                "0.8.0=refuse" => doc! { "bad": SECRET },
                "0.8.0=grow" => doc! { "grow": 17 * 1024 * 1024 },
                "0.8.0=unique" => doc! { "unique_key": SECRET },
                "0.8.0=increment,clash" => doc! { "n": SECRET },
                "0.8.0=increment,owners" => doc! { "owner": SECRET },
                _ => doc! { "a": SECRET, "n": i },
            };
            let documents = (0..9).map(|i| {
                let mut document = doc! { "_id": i, "secret": SECRET };
                if i > 6 {
                    document.extend(spoilt(i));
                }
                document
            });
            fill(&database, "things", documents).await;
            fill(&database, "counters", things(9)).await;
            fill(&database, "tasks", [doc! { "locked": true, "secret": SECRET }]).await;
            let prepare = doc! { "collMod": "things", "validator": { "b": { "$ne": SECRET } } };
            database.run_command(prepare).await.unwrap();
            if upgrades.contains("clash") {
                let unique = doc! { "createIndexes": "things", "indexes": [
                    { "key": { "unique_key": 1 }, "name": "k", "unique": true, "sparse": true },
                ] };
                database.run_command(unique).await.unwrap();
            }
            let run = scenario(&database.uri, "0.9.0", upgrades)
                .set("GATE_BATCH_DOCUMENTS", batch)
                .set("GATE_LOG", "trace")
                .set("GATE_REPORT_FILE", file.to_str().unwrap())
                .run()
                .await;
            assert_code(&run, code);
            let report = std::fs::read_to_string(&file).unwrap();
            for text in [&run.stdout, &run.stderr, &report] {
                assert!(!text.contains(SECRET), "{upgrades}: {text}");
            }
            let named = ["document 7 of things", "document 8 of things", "make keys", "in tasks"];
            assert!(
                code == 0
                    || named.iter().any(|n| report.contains(n))
                    || upgrades.contains("unique"),
                "{report}"
            );
        }
    }
    std::fs::remove_file(file).unwrap();
}

// ---- conditions ----

#[tokio::test]
async fn a_condition_that_does_not_hold_ends_the_run_before_the_first_write() {
    let database = fresh(10).await;
    fill(&database, "tasks", [doc! { "running": true }, doc! { "running": true }]).await;
    let before = db_hash(&database).await;
    let skip = |gate: &Gate| gate.clone().set("GATE_SKIP_CONDITIONS", "true");

    // of the second pending version
    let gate = scenario(&database.uri, "0.9.0", "0.8.0=increment;0.9.0=idle");
    for mode in ["upgrade", "plan"] {
        let run = gate.clone().mode(mode).run().await;
        assert_code(&run, 13);
        let message = run.report["message"].as_str().unwrap();
        assert!(message.contains("condition \"no task is running\" of 0.9.0"), "{run}");
        assert!(message.contains("2 documents in tasks are in the way"), "{run}");
        assert!(run.report["next"].as_str().unwrap().contains("GATE_SKIP_CONDITIONS"), "{run}");
        assert_eq!(db_hash(&database).await, before);
    }
    // nor is what GATE_FROM_VERSION says recorded
    let unrecorded = Server::shared().await.database().await;
    fill(&unrecorded, "tasks", [doc! { "running": true }]).await;
    let run = scenario(&unrecorded.uri, "0.8.0", "0.8.0=idle").run().await;
    assert_code(&run, 13);
    assert!(run.report["message"].as_str().unwrap().ends_with("; nothing was written"), "{run}");
    assert_eq!(record(&unrecorded).await, doc! {}, "{run}");
    // not every condition can be skipped
    fill(&database, "tasks", [doc! { "locked": true }]).await;
    let before = db_hash(&database).await;
    let strict = scenario(&database.uri, "0.9.0", "0.8.0=increment;0.9.0=strict");
    let run = skip(&strict).run().await;
    assert_code(&run, 13);
    assert!(!run.report["next"].as_str().unwrap().contains("GATE_SKIP_CONDITIONS"), "{run}");
    assert_eq!(db_hash(&database).await, before);

    let run = skip(&gate).run().await;
    assert_code(&run, 0);
    assert!(run.report["warnings"].to_string().contains("was skipped"), "{run}");
    assert_eq!(count(&database, "things", doc! { "b": { "$exists": true } }).await, 10);
}

#[tokio::test]
async fn a_condition_that_an_earlier_upgrade_fulfils_is_asked_just_before_its_own() {
    let database = fresh(10).await;
    let gate = scenario(&database.uri, "0.9.0", "0.8.0=move_field;0.9.0=moved");
    assert_code(&gate.clone().mode("plan").run().await, 10);
    assert_code(&gate.run().await, 0);

    // without the earlier upgrade it does not hold
    let database = fresh(10).await;
    let before = db_hash(&database).await;
    let alone = scenario(&database.uri, "0.9.0", "0.9.0=moved").run().await;
    assert_code(&alone, 13);
    assert_eq!(db_hash(&database).await, before);
    // nor after one that does something else, which stays
    let other = scenario(&database.uri, "0.9.0", "0.8.0=increment;0.9.0=moved").run().await;
    assert_code(&other, 13);
    assert!(other.report["message"].as_str().unwrap().contains("; applied: 0.8.0"), "{other}");
    assert_eq!(other.report["to"], "0.8.0");
    assert_eq!(history(&record(&database).await), ["initialise 0.7.0", "upgrade 0.8.0"]);
}

#[tokio::test]
async fn the_conditions_of_a_journaled_upgrade_are_not_asked_again() {
    let database = fresh(30).await;
    let things = database.collection::<Document>("things");
    things.update_one(doc! { "_id": 20 }, doc! { "$set": { "b": 0 } }).await.unwrap();
    let unique = doc! { "createIndexes": "things", "indexes": [
        { "key": { "b": 1 }, "name": "b", "unique": true, "sparse": true },
    ] };
    database.run_command(unique).await.unwrap();
    things
        .update_one(doc! { "_id": 20 }, doc! { "$set": { "a": 0 }, "$unset": { "b": 1 } })
        .await
        .unwrap();
    let gate = scenario(&database.uri, "0.9.0", "0.8.0=idle").set("GATE_BATCH_DOCUMENTS", "5");
    assert_code(&gate.run().await, 14);
    fill(&database, "tasks", [doc! { "running": true }]).await;
    things.update_one(doc! { "_id": 20 }, doc! { "$set": { "a": 20 } }).await.unwrap();
    assert_code(&gate.run().await, 0);
    assert_eq!(count(&database, "things", doc! { "a": { "$exists": true } }).await, 0);

    let database = fresh(30).await;
    fill(&database, "tasks", [doc! { "running": true }]).await;
    let gate = scenario(&database.uri, "0.9.0", "0.8.0=idle").set("GATE_BATCH_DOCUMENTS", "5");
    assert_code(&gate.run().await, 13);
}

// ---- the table ----

#[tokio::test]
async fn a_wrong_table_of_upgrades_ends_the_run_at_its_start_and_names_the_culprits() {
    let nowhere = "mongodb://127.0.0.1:1/lab";
    for (upgrades, names) in [
        ("0.8.0=increment,increment", vec!["upgrade 0.8.0 \"count every document", "twice"]),
        ("0.9.0=increment;0.8.0=move_field", vec!["0.9.0 \"count", "0.8.0 \"move a to b"]),
        ("0.8.0=move_field;0.9.1=increment", vec!["0.9.1 \"count", "0.9.0"]),
        ("0.8.0=increment;next=move_field", vec!["next \"move a to b"]),
    ] {
        let run = scenario(nowhere, "0.9.0", upgrades).run().await;
        assert_code(&run, 1);
        let message = run.report["message"].as_str().unwrap();
        assert!(names.iter().all(|name| message.contains(name)), "{upgrades}: {run}");
        assert_eq!(run.last()["outcome"], "bug", "{run}");
        assert!(run.elapsed < Duration::from_secs(1), "{run}");
    }
    let database = fresh(1).await;
    assert_code(
        &scenario(&database.uri, "0.9.0", "0.8.0=increment;0.9.0=move_field").run().await,
        0,
    );
}

// ---- look-ups ----

fn pattern(text: &str) -> Bson {
    let pattern = text.try_into().unwrap();
    Bson::RegularExpression(Regex { pattern, options: "".try_into().unwrap() })
}

#[tokio::test]
async fn a_look_up_finds_the_last_of_its_name_and_never_by_pattern_or_membership() {
    for batch in ["1000", "2"] {
        let database = Server::shared().await.database().await;
        let people = [
            doc! { "_id": "z", "name": "twin" },
            doc! { "_id": "a", "name": "twin" },
            doc! { "_id": 1, "name": ["listed"] },
            doc! { "_id": 2, "name": 5_i64 },
            doc! { "_id": 3, "name": "5" },
            doc! { "_id": 4, "name": pattern("^tw") },
            doc! { "_id": 5, "name": { "first": "x" } },
            doc! { "_id": 6, "name": Bson::Null },
            doc! { "_id": 7, "name": f64::NAN },
            doc! { "_id": 8, "name": Bson::MinKey },
            doc! { "_id": 9 },
        ];
        fill(&database, "people", people).await;
        let cases = [
            (Bson::from("twin"), Bson::from("a")),
            ("Twin".into(), Bson::Null),
            ("listed".into(), Bson::Null),
            (vec!["listed"].into(), Bson::Null),
            (5.into(), 2.into()),
            (5.0.into(), 2.into()),
            ("5".into(), 3.into()),
            (pattern("^tw"), Bson::Null),
            (doc! { "first": "x" }.into(), Bson::Null),
            (doc! { "$gt": "" }.into(), Bson::Null),
            (f64::NAN.into(), Bson::Null),
            (Bson::MinKey, 8.into()),
            (true.into(), Bson::Null),
        ];
        let owner = |(i, (owner, _)): (usize, &(Bson, Bson))| {
            doc! { "_id": i as i32, "owner": owner.clone() }
        };
        let things: Vec<Document> = cases.iter().enumerate().map(owner).collect();
        // a name that begins with a dollar cannot be inserted everywhere
        fill(&database, "things", things).await;
        let run = scenario(&database.uri, "0.8.0", "0.8.0=owners")
            .set("GATE_BATCH_DOCUMENTS", batch)
            .run()
            .await;
        assert_code(&run, 0);
        assert_eq!(counted(&run, "0.8.0", "pinned"), 5, "{run}");
        let things = database.collection::<Document>("things");
        for (i, (owner, id)) in cases.iter().enumerate() {
            let thing = things.find_one(doc! { "_id": i as i32 }).await.unwrap().unwrap();
            assert_eq!(thing.get("owner_id").unwrap_or(&Bson::Null), id, "{owner}");
        }
    }
}

// ---- batches ----

#[tokio::test]
async fn every_document_is_done_exactly_once_whatever_its_id() {
    for batch in ["1", "2", "7", "1000"] {
        for (kind, convergent) in
            [("plain", "move_field"), ("collation", "move_field"), ("clustered", "move_field")]
        {
            let database = Server::shared().await.database().await;
            if kind == "clustered" && mongod_version() < (6, 0) {
                let clustered = ClusteredIndex::default();
                let create = database.create_collection("things").clustered_index(clustered);
                assert!(create.await.is_err(), "there are clustered collections: try them");
                continue;
            }
            for name in ["counters", "things"] {
                let create = database.create_collection(name);
                let insensitive = Collation::builder()
                    .locale("en")
                    .strength(mongodb::options::CollationStrength::Secondary)
                    .build();
                match kind {
                    "collation" => create.collation(insensitive).await.unwrap(),
                    "clustered" => create.clustered_index(ClusteredIndex::default()).await.unwrap(),
                    _ => create.await.unwrap(),
                }
                let documents = ids(kind == "collation")
                    .into_iter()
                    .map(|id| doc! { "_id": id, "a": 1, "n": 0 });
                fill(&database, name, documents).await;
            }
            let upgrades = format!("0.8.0=increment,{convergent}");
            let gate =
                scenario(&database.uri, "0.8.0", &upgrades).set("GATE_BATCH_DOCUMENTS", batch);
            let (plan, run) = plan_and_upgrade(&database, &gate).await;
            assert_eq!(actions(&plan), actions(&run), "{kind} {batch}");
            let all = ids(kind == "collation").len() as u64;
            assert_eq!(counted(&run, "0.8.0", "counted"), all, "{kind} {batch}: {run}");
            assert_eq!(counted(&run, "0.8.0", "moved"), all, "{kind} {batch}: {run}");
            assert_eq!(count(&database, "counters", doc! { "n": 1 }).await, all, "{kind} {batch}");
            assert_eq!(count(&database, "things", doc! { "b": 1 }).await, all, "{kind} {batch}");
        }
    }
}

#[tokio::test]
async fn an_id_with_a_repeated_field_is_refused_before_the_first_write() {
    use mongodb::bson::{RawDocumentBuf, cstr};
    let repeated = |one: i32, two: i32| {
        let mut id = RawDocumentBuf::new();
        id.append(cstr!("a"), one);
        id.append(cstr!("a"), two);
        let mut document = RawDocumentBuf::new();
        document.append(cstr!("_id"), id);
        document.append(cstr!("n"), 0);
        document
    };
    let database = Server::shared().await.database().await;
    let documents = [(1, 2), (2, 1), (2, 3), (3, 0), (1, 9)].map(|(one, two)| repeated(one, two));
    database.collection::<RawDocumentBuf>("counters").insert_many(documents).await.unwrap();
    let run = scenario(&database.uri, "0.8.0", "0.8.0=increment")
        .set("GATE_BATCH_DOCUMENTS", "1")
        .run()
        .await;
    assert_code(&run, 14);
    assert!(run.report["message"].as_str().unwrap().contains("repeats a field"), "{run}");
    assert_eq!(count(&database, "counters", doc! { "n": 0 }).await, 5, "{run}");
}

#[tokio::test]
async fn documents_of_which_no_two_fit_one_answer_are_all_done() {
    const LARGE: usize = 9 * 1024 * 1024;
    let database = Server::shared().await.database().await;
    let load = "y".repeat(LARGE);
    for i in 0..4 {
        fill(&database, "counters", [doc! { "_id": i, "n": 0, "load": &load }]).await;
    }
    fill(&database, "counters", [doc! { "_id": 4, "n": 0 }]).await;
    let gate = scenario(&database.uri, "0.8.0", "0.8.0=increment");
    let (plan, run) = plan_and_upgrade(&database, &gate).await;
    assert_eq!(actions(&plan), actions(&run));
    assert_eq!(counted(&run, "0.8.0", "counted"), 5, "{run}");
    assert_eq!(count(&database, "counters", doc! { "n": 1 }).await, 5);
}

#[tokio::test]
async fn large_documents_are_upgraded_in_the_memory_that_the_chart_allows() {
    for (size, n) in [(500_000, 120), (8_000_000, 12), (15_000_000, 6_u32)] {
        let database = Server::shared().await.database().await;
        let load = "y".repeat(size);
        for i in 0..n {
            fill(&database, "counters", [doc! { "_id": i, "n": 0, "load": &load }]).await;
        }
        assert_frugal(&scenario(&database.uri, "0.8.0", "0.8.0=increment")).await;
        assert_eq!(count(&database, "counters", doc! { "n": 1 }).await, u64::from(n), "{size}");
    }
}

#[tokio::test]
async fn documents_that_grow_or_refer_to_large_ones_are_upgraded_in_the_memory_that_the_chart_allows()
 {
    let database = Server::shared().await.database().await;
    fill(&database, "things", (0..3000).map(|i| doc! { "_id": i, "grow": 50_000 })).await;
    record_old(&database).await;
    assert_frugal(&scenario(&database.uri, "0.8.0", "0.8.0=grow")).await;
    assert_eq!(count(&database, "things", doc! { "filler": { "$exists": true } }).await, 3000);

    let database = Server::shared().await.database().await;
    let load = "y".repeat(80_000);
    for i in 0..30 {
        let people =
            (0..100).map(|n| doc! { "_id": n + 100 * i, "name": n + 100 * i, "load": &load });
        fill(&database, "people", people).await;
    }
    fill(&database, "things", (0..3000).map(|i| doc! { "_id": i, "owner": i })).await;
    let by_name =
        doc! { "createIndexes": "people", "indexes": [{ "key": { "name": 1 }, "name": "name" }] };
    database.run_command(by_name).await.unwrap();
    record_old(&database).await;
    assert_frugal(&scenario(&database.uri, "0.8.0", "0.8.0=owners")).await;
    assert_eq!(
        count(&database, "things", doc! { "$expr": { "$eq": ["$_id", "$owner_id"] } }).await,
        3000
    );
}

#[tokio::test]
async fn chains_over_documents_that_grow_or_are_large_are_upgraded_in_the_memory_that_the_chart_allows()
 {
    let server = Server::standalone().await;
    let database = server.database().await;
    fill(&database, "things", (0..1500).map(|i| doc! { "_id": i, "a": i, "grow": 50_000 })).await;
    record_old(&database).await;
    assert_frugal(&scenario(&database.uri, "0.9.0", "0.8.0=grow;0.9.0=move_field")).await;
    assert_eq!(count(&database, "things", doc! { "b": { "$exists": true } }).await, 1500);

    for (size, n) in [(500_000, 60), (3_500_000, 12), (15_000_000, 3)] {
        let database = server.database().await;
        let load = "y".repeat(size);
        for i in 0..n {
            fill(&database, "things", [doc! { "_id": i, "a": i, "load": &load }]).await;
        }
        record_old(&database).await;
        assert_frugal(&scenario(&database.uri, "0.9.0", "0.8.0=move_field;0.9.0=twice")).await;
        let twice = doc! { "twice": { "$exists": true } };
        assert_eq!(count(&database, "things", twice).await, n as u64, "{size}");
    }
}

/// The transactions in which the documents of a collection were changed, by the oplog.
async fn transactions(client: &Client, namespace: &str) -> usize {
    let pipeline = [
        doc! { "$match": { "op": "c", "o.applyOps": { "$elemMatch": { "ns": namespace, "op": "u" } } } },
        doc! { "$group": { "_id": { "session": "$lsid", "number": "$txnNumber" } } },
    ];
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let mut cursor = oplog.aggregate(pipeline).await.unwrap();
    let mut transactions = 0;
    while cursor.advance().await.unwrap() {
        transactions += 1;
    }
    transactions
}

#[tokio::test]
async fn a_hundred_documents_of_a_megabyte_go_in_several_transactions() {
    let database = Server::shared().await.database().await;
    for (name, load) in [("counters", "y".repeat(1024 * 1024)), ("things", "y".into())] {
        for i in 0..100 {
            fill(&database, name, [doc! { "_id": i, "n": 0, "a": i, "load": &load }]).await;
        }
    }
    let gate = scenario(&database.uri, "0.9.0", "0.8.0=increment;0.9.0=move_field");
    let run = gate.run().await;
    assert_code(&run, 0);
    assert_eq!(counted(&run, "0.8.0", "counted"), 100);
    assert_eq!(count(&database, "counters", doc! { "n": 1 }).await, 100);
    let client = database.client();
    let large = transactions(client, &format!("{}.counters", database.name())).await;
    assert!((25..=35).contains(&large), "{large}");
    assert_eq!(transactions(client, &format!("{}.things", database.name())).await, 1);
}

// ---- late writers ----

#[tokio::test]
async fn what_old_code_writes_beside_a_small_upgrade_is_found_after_it() {
    let database = fresh(10).await;
    let gate = scenario(&faulty(&database), "0.8.0", "0.8.0=increment,move_field");
    let fault =
        Fault::block(&database, &["commitTransaction"], Duration::from_millis(700), 1).await;
    let running = gate.spawn();
    fault.met(1).await;
    fill(&database, "things", (100..103).map(|i| doc! { "_id": i, "a": i })).await;
    let run = running.wait().await;
    fault.end().await;
    assert_code(&run, 0);
    assert_eq!(run.report["upgrades"][0]["late"], 3, "{run}");
    assert_eq!(count(&database, "things", doc! { "a": { "$exists": true } }).await, 0);
    assert_eq!(count(&database, "things", doc! { "b": { "$exists": true } }).await, 13);
    let entry = record(&database).await.get_array("history").unwrap()[1].clone();
    assert_eq!(entry.as_document().unwrap().get_i64("late").unwrap(), 3);
    assert!(run.report["warnings"].to_string().contains("old shape"), "{run}");

    // whoever writes later is not seen
    fill(&database, "things", [doc! { "_id": 200, "a": 1 }]).await;
    assert_code(&gate.run().await, 0);
    assert_eq!(count(&database, "things", doc! { "a": { "$exists": true } }).await, 1);
}

#[tokio::test]
async fn what_old_code_writes_behind_a_large_upgrade_is_found_before_the_version_moves() {
    let database = fresh(100).await;
    let gate = scenario(&faulty(&database), "0.8.0", "0.8.0=move_field,increment")
        .set("GATE_BATCH_DOCUMENTS", "10");
    // the fifth batch waits, with the first four behind it
    let fault =
        Fault::block(&database, &["commitTransaction"], Duration::from_millis(100), 5).await;
    let running = gate.spawn();
    fault.met(5).await;
    let behind = (0..5).map(|i| doc! { "_id": f64::from(i) + 0.5, "a": i });
    let ahead = (0..3).map(|i| doc! { "_id": 1000 + i, "a": i });
    fill(&database, "things", behind.chain(ahead)).await;
    let run = running.wait().await;
    fault.end().await;
    assert_code(&run, 0);
    assert_eq!(run.report["upgrades"][0]["late"], 5, "{run}");
    assert_eq!(counted(&run, "0.8.0", "moved"), 108, "{run}");
    assert_eq!(count(&database, "things", doc! { "a": { "$exists": true } }).await, 0);
}

#[tokio::test]
async fn what_is_added_after_the_end_was_foreseen_is_written() {
    let database = fresh(40).await;
    let gate =
        scenario(&faulty(&database), "0.8.0", "0.8.0=move_field").set("GATE_BATCH_DOCUMENTS", "10");
    // the last batch waits, and the end behind it was read
    let fault =
        Fault::block(&database, &["commitTransaction"], Duration::from_millis(500), 4).await;
    let running = gate.spawn();
    fault.met(4).await;
    fill(&database, "things", (0..25).map(|i| doc! { "_id": 1000 + i, "a": i })).await;
    let run = running.wait().await;
    fault.end().await;
    assert_code(&run, 0);
    assert_eq!(counted(&run, "0.8.0", "moved"), 65, "{run}");
    assert_eq!(count(&database, "things", doc! { "b": { "$exists": true } }).await, 65);
}

#[tokio::test]
async fn a_transform_meets_what_it_adds_to_its_own_collection() {
    for batch in ["1", "3", "1000"] {
        let database = Server::shared().await.database().await;
        let last = |i| doc! { "_id": i, "children": if i == 9 { 4 } else { 1 } };
        fill(&database, "things", (0..10).map(last)).await;
        record_old(&database).await;
        let gate = scenario(&database.uri, "0.8.0", "0.8.0=spread");
        let gate = gate.set("GATE_BATCH_DOCUMENTS", batch);
        let (plan, run) = plan_and_upgrade(&database, &gate).await;
        match exact(&plan)[..] {
            [true] => assert_eq!(actions(&plan), actions(&run)),
            _ => assert_eq!(batch, "1", "more than a rehearsal may change: {plan}"),
        }
        assert_eq!(counted(&run, "0.8.0", "born"), 13, "{run}");
        assert_eq!(count(&database, "things", doc! {}).await, 23);
        assert_eq!(count(&database, "things", doc! { "children": { "$gt": 0 } }).await, 0);
    }
}

#[tokio::test]
async fn documents_that_take_longer_to_find_than_a_transaction_may_are_upgraded() {
    let server = Server::replica_set().await;
    let admin = server.client().await.database("admin");
    let second = doc! { "setParameter": 1, "transactionLifetimeLimitSeconds": 1 };
    admin.run_command(second).await.unwrap();
    let mut running = Vec::new();
    // the second is tried in one transaction first
    for batch in ["3", "1000"] {
        let database = server.database().await;
        fill(&database, "things", things(80)).await;
        record_old(&database).await;
        let gate = scenario(&database.uri, "0.8.0", "0.8.0=rare");
        running.push((database, gate.set("GATE_BATCH_DOCUMENTS", batch).spawn()));
    }
    for (database, run) in running {
        let run = run.wait().await;
        assert_code(&run, 0);
        assert_eq!(counted(&run, "0.8.0", "moved"), 4, "{run}");
        assert_eq!(count(&database, "things", doc! { "b": { "$in": [0, 20, 40, 60] } }).await, 4);
        assert_eq!(count(&database, "things", doc! { "a": { "$exists": true } }).await, 76);
    }
}

#[tokio::test]
async fn a_document_that_changes_after_it_was_computed_is_computed_again() {
    for batch in ["10", "1000"] {
        let database = fresh(40).await;
        let gate = scenario(&database.uri, "0.8.0", "0.8.0=overtaken");
        let run = gate.set("GATE_BATCH_DOCUMENTS", batch).run().await;
        assert_code(&run, 0);
        assert_eq!(counted(&run, "0.8.0", "copied"), 40, "{run}");
        assert_eq!(count(&database, "things", doc! { "_id": 15, "n": 1000 }).await, 1, "{run}");
        let copied = doc! { "$expr": { "$eq": ["$m", "$n"] } };
        assert_eq!(count(&database, "things", copied).await, 40, "{run}");
    }
}

#[tokio::test]
async fn a_fault_after_the_commit_never_applies_a_version_twice() {
    let server = Server::replica_set().await;
    let database = server.database().await;
    for collection in ["things", "counters"] {
        fill(&database, collection, things(10)).await;
    }
    record_old(&database).await;
    let admin = database.client().database("admin");
    let hang = |mode| doc! { "configureFailPoint": "hangBeforeCommitingTxn", "mode": mode };
    admin.run_command(hang("alwaysOn")).await.unwrap();
    let upgrades = "0.8.0=increment,move_field";
    let running = scenario(&faulty(&database), "0.8.0", upgrades).spawn();
    let waiting = |times: i64| {
        doc! {
            "waitForFailPoint": "hangBeforeCommitingTxn", "timesEntered": times, "maxTimeMS": 20_000,
        }
    };
    admin.run_command(waiting(1)).await.unwrap();
    // the look for late writers meets errors until it gives up
    fill(&database, "things", [doc! { "_id": "late", "a": 1 }]).await;
    let fault = Fault::new(&database, &["find"], doc! { "errorCode": 112 }, 1000).await;
    admin.run_command(hang("off")).await.unwrap();
    let run = running.wait().await;
    fault.end().await;
    let counted_once = doc! { "$expr": { "$eq": ["$n", { "$add": ["$_id", 1] }] } };
    assert_eq!(count(&database, "counters", counted_once.clone()).await, 10, "{run}");
    assert_eq!(history(&record(&database).await), ["initialise 0.7.0", "upgrade 0.8.0"], "{run}");
    assert_eq!(counted(&run, "0.8.0", "counted"), 10, "{run}");
    let unseen = "documents written during the upgrade may be left as they were";
    assert!(run.log.iter().any(|line| line["message"] == unseen), "{run}");
    assert!(run.report["warnings"].to_string().contains("things that old code wrote"), "{run}");
    assert_code(&run, 0);
    assert_code(&scenario(&database.uri, "0.8.0", upgrades).run().await, 0);
    assert_eq!(count(&database, "counters", counted_once).await, 10);

    // a signal ends the look for late writers
    let upgrades = "0.8.0=increment,move_field;0.9.0=move_field";
    fill(&database, "things", [doc! { "_id": "later", "a": 1 }]).await;
    let before = admin.run_command(hang("alwaysOn")).await.unwrap();
    let before = before.get("count").unwrap();
    let before = before.as_i64().or(before.as_i32().map(i64::from)).unwrap();
    let running = scenario(&faulty(&database), "0.9.0", upgrades).spawn();
    admin.run_command(waiting(before + 1)).await.unwrap();
    fill(&database, "things", [doc! { "_id": "latest", "a": 1 }]).await;
    let fault = Fault::block(&database, &["find"], Duration::from_secs(20), 1).await;
    admin.run_command(hang("off")).await.unwrap();
    fault.met(1).await;
    running.signal("TERM");
    let run = running.wait().await;
    fault.end().await;
    assert_code(&run, 22);
    assert_eq!(run.report["upgrades"][0]["version"], "0.9.0", "{run}");
    assert_eq!(run.report["to"], "0.9.0", "{run}");
    let warnings = run.report["warnings"].to_string();
    assert!(warnings.contains("things that old code wrote"), "{run}");
    assert!(warnings.contains("interrupted by a signal"), "{run}");
    let left = doc! { "_id": "latest", "a": 1 };
    assert_eq!(count(&database, "things", left).await, 1);
}

// ---- what a run says ----

#[tokio::test]
async fn a_run_says_fixed_messages_and_ends_with_its_outcome() {
    let file = std::env::temp_dir().join(format!("report-{}", ObjectId::new()));
    let database = fresh(50).await;
    fill(&database, "tasks", [doc! { "locked": true }]).await;
    let open = scenario(&database.uri, "0.9.0", "0.8.0=increment;0.9.0=move_field,index");
    let closed =
        scenario(&database.uri, "1.0.0", "0.8.0=increment;0.9.0=move_field,index;1.0.0=strict");
    for (gate, code, message) in [(open, 0, "gate open"), (closed, 13, "gate closed")] {
        let run = gate.set("GATE_REPORT_FILE", file.to_str().unwrap()).run().await;
        assert_code(&run, code);
        let report: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(report, run.report);
        assert_eq!(run.stdout.lines().count(), 1, "{run}");
        let last = run.last();
        assert_eq!(last["message"], message, "{run}");
        assert_eq!(last["exit_code"], code);
        assert_eq!(last["outcome"], run.report["outcome"]);
        assert_eq!(last["app"], "scenario");
        assert_eq!(last["database"], database.name());
        for line in &run.log {
            let said = line["message"].as_str().unwrap_or_else(|| panic!("{run}"));
            assert!(!said.contains(|c: char| c.is_ascii_digit()), "{said}");
        }
        if code == 0 {
            let applied = run.log.iter().filter(|line| line["message"] == "upgrade applied");
            let versions: Vec<&Value> = applied.map(|line| &line["version"]).collect();
            assert_eq!(versions, ["0.8.0", "0.9.0"], "{run}");
        }
    }
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn long_work_tells_its_progress() {
    let database = fresh(40).await;
    let fault =
        Fault::block(&database, &["commitTransaction"], Duration::from_millis(200), 20).await;
    let run = scenario(&faulty(&database), "0.8.0", "0.8.0=increment")
        .set("GATE_BATCH_DOCUMENTS", "2")
        .run()
        .await;
    fault.end().await;
    assert_code(&run, 0);
    let progress: Vec<_> = run.log.iter().filter(|line| line["message"] == "progress").collect();
    assert!((1..=3).contains(&progress.len()), "{run}");
    let line = progress[0];
    assert_eq!(line["version"], "0.8.0", "{run}");
    assert_eq!(line["collection"], "counters");
    assert_eq!(line["total"], 40);
    let documents = line["documents"].as_u64().unwrap();
    assert!((10..40).contains(&documents), "{line}");
    assert!(line["rate"].is_u64() && line["eta_s"].is_u64() && line["step"].is_string(), "{line}");

    let run = scenario(&database.uri, "0.8.0", "0.8.0=increment").run().await;
    assert!(run.log.iter().all(|line| line["message"] != "progress"), "{run}");
}
