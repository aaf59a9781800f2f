//! Locks and journals that are not what they should be: recovery, or an error with a way out.

mod apps;
mod support;

use std::time::Duration;

use apps::{METADATA, assert_code, count, fill, history, lock, record, record_old, scenario};
use mongodb::Database;
use mongodb::bson::{Bson, DateTime, Document, Timestamp, doc};
use support::{Fresh, Gate, Server, db_hash};

async fn filled() -> Fresh {
    let database = Server::shared().await.database().await;
    for name in ["things", "counters"] {
        fill(&database, name, (0..60).map(|i| doc! { "_id": i, "a": i, "n": i })).await;
    }
    record_old(&database).await;
    database
}

fn in_minutes(minutes: i64) -> Bson {
    let now = DateTime::now().timestamp_millis();
    DateTime::from_millis(now + minutes * 60_000).into()
}

async fn put_lock(database: &Database, lock: Document) {
    let mut stored = doc! { "_id": "upgrade_lock" };
    stored.extend(lock);
    database.collection(METADATA).insert_one(stored).await.unwrap();
}

// ---- locks ----

#[tokio::test]
async fn a_lock_that_nobody_can_hold_is_taken_over() {
    let holder = doc! { "run_id": "another", "host": "elsewhere" };
    let with = |expires: Bson| {
        let mut lock = holder.clone();
        lock.insert("expires", expires);
        lock
    };
    for damaged in [
        doc! {},
        holder.clone(),
        with(Bson::Null),
        with("tomorrow".into()),
        with(i64::MAX.into()),
        with(f64::NAN.into()),
        with(true.into()),
        with(vec![in_minutes(5)].into()),
        with(doc! { "at": in_minutes(5) }.into()),
        with(Timestamp { time: u32::MAX, increment: 1 }.into()),
        with(Bson::MaxKey),
        with(in_minutes(-1)),
        with(DateTime::MIN.into()),
        // clocks far apart
        with(in_minutes(121)),
        with(in_minutes(60 * 24 * 365 * 1000)),
        with(DateTime::MAX.into()),
        doc! { "run_id": 5, "expires": in_minutes(-1) },
        doc! { "run_id": Bson::Null, "host": [1], "expires": in_minutes(150), "session": "x" },
        doc! { "run_id": "another", "session": { "id": 5 }, "expires": in_minutes(-1), "former": 7 },
        doc! { "run_id": "another", "session": doc! {}, "former": { "run_id": 1 }, "more": [1, 2] },
        doc! { "run_id": "$host", "host": "$$NOW", "expires": in_minutes(-1) },
    ] {
        let database = filled().await;
        put_lock(&database, damaged.clone()).await;
        let gate =
            scenario(&database.uri, "0.8.0", "0.8.0=increment").set("GATE_LOCK_WAIT", "200ms");
        let check = gate.clone().mode("check").run().await;
        assert_eq!(check.code, Some(10), "{damaged}: {check}");
        let run = gate.run().await;
        assert_eq!(run.code, Some(0), "{damaged}: {run}");
        assert_eq!(lock(&database).await, None, "{damaged}");
        assert_eq!(history(&record(&database).await).len(), 2);
    }
}

#[tokio::test]
async fn a_lock_that_somebody_may_hold_is_waited_for() {
    for live in [
        doc! { "run_id": "another", "host": "elsewhere", "expires": in_minutes(1) },
        doc! { "run_id": "another", "host": "elsewhere", "expires": in_minutes(58) },
        doc! { "run_id": 5, "expires": in_minutes(5) },
        doc! { "run_id": ["x"], "host": 1, "expires": in_minutes(5), "more": doc! { "x": 1 } },
        doc! { "expires": in_minutes(5) },
    ] {
        let database = filled().await;
        put_lock(&database, live.clone()).await;
        let before = db_hash(&database).await;
        let gate =
            scenario(&database.uri, "0.8.0", "0.8.0=increment").set("GATE_LOCK_WAIT", "200ms");
        assert_code(&gate.clone().mode("check").run().await, 21);
        let plan = gate.clone().mode("plan").run().await;
        assert_code(&plan, 10);
        assert!(plan.report["warnings"].to_string().contains("ignores its lock"), "{plan}");
        let run = gate.run().await;
        assert_eq!(run.code, Some(21), "{live}: {run}");
        assert!(run.elapsed >= Duration::from_millis(200), "{run}");
        assert!(run.report["message"].as_str().unwrap().contains("upgrade_lock"), "{run}");
        assert_eq!(db_hash(&database).await, before);

        let locks = database.collection::<Document>(METADATA);
        locks.delete_one(doc! { "_id": "upgrade_lock" }).await.unwrap();
        assert_code(&gate.run().await, 0);
    }
}

#[tokio::test]
async fn what_is_no_lock_closes_every_mode_and_stays_as_it_is() {
    for foreign in [
        doc! { "note": "ours" },
        doc! { "expires": in_minutes(-1), "owner": "another application" },
        doc! { "expires": in_minutes(5), "host": "elsewhere" },
        doc! { "RUN_ID": "x", "locked": true },
    ] {
        let database = filled().await;
        put_lock(&database, foreign.clone()).await;
        let before = db_hash(&database).await;
        let repair = [("GATE_RECORD_VERSION", "0.7.1"), ("GATE_EXPECT_VERSION", "0.7.0")];
        for mode in ["check", "wait", "plan", "upgrade", "record"] {
            // nothing pending, and an upgrade
            for upgrades in ["", "0.8.0=increment"] {
                let gate = scenario(&database.uri, "0.8.0", upgrades).mode(mode);
                let gate = match mode {
                    "record" => {
                        repair.iter().fold(gate, |gate, (name, value)| gate.set(name, *value))
                    }
                    _ => gate,
                };
                let run = gate.unset("GATE_FROM_VERSION").run().await;
                assert_eq!(run.code, Some(15), "{foreign}: {run}");
                let text = format!("{} {}", run.report["message"], run.report["next"]);
                let place = format!("the document upgrade_lock of {}.{METADATA}", database.name());
                assert!(text.contains(&place) && text.contains("rename or remove"), "{run}");
                assert!(!text.contains("ours") && !text.contains("another application"), "{run}");
            }
        }
        assert_eq!(db_hash(&database).await, before, "{foreign}");
        let locks = database.collection::<Document>(METADATA);
        locks.delete_one(doc! { "_id": "upgrade_lock" }).await.unwrap();
        assert_code(&scenario(&database.uri, "0.8.0", "0.8.0=increment").run().await, 0);
    }
}

// ---- journals ----

/// A database with an unfinished upgrade, and the gate that began it.
async fn unfinished() -> (Fresh, Gate) {
    let database = filled().await;
    let unique = doc! { "createIndexes": "things", "indexes": [
        { "key": { "unique_key": 1 }, "name": "k", "unique": true, "sparse": true },
    ] };
    database.run_command(unique).await.unwrap();
    let things = database.collection::<Document>("things");
    things.update_one(doc! { "_id": 37 }, doc! { "$set": { "clash": true } }).await.unwrap();
    let gate =
        scenario(&database.uri, "0.8.0", "0.8.0=increment,clash").set("GATE_BATCH_DOCUMENTS", "10");
    assert_code(&gate.run().await, 14);
    (database, gate.set("SCENARIO_FIXED", "true"))
}

async fn change(database: &Database, change: Document) {
    let records = database.collection::<Document>(METADATA);
    let id = doc! { "_id": "scenario_schema_version" };
    assert_eq!(records.update_one(id, change).await.unwrap().modified_count, 1);
}

/// The word that follows `name=` in a text.
fn setting<'a>(text: &'a str, name: &str) -> &'a str {
    let (_, after) = text.split_once(&format!("{name}=")).unwrap_or_else(|| panic!("{text}"));
    after.split([' ', ',', ';', ':']).next().unwrap()
}

/// Every mode closes with this code and writes nothing, and the way out that it names leads out.
async fn closes(database: &Database, gate: &Gate, code: i32, damage: &str) {
    let before = db_hash(database).await;
    let mut next = String::new();
    for mode in ["upgrade", "check", "wait", "plan"] {
        let run = gate.clone().mode(mode).run().await;
        assert_eq!(run.code, Some(code), "{damage}: {run}");
        next = run.report["next"].as_str().unwrap().to_owned();
        assert!(next.contains("GATE_MODE=record"), "{damage}: {run}");
    }
    assert_eq!(db_hash(database).await, before, "{damage}");

    let repair = gate
        .clone()
        .unset("GATE_FROM_VERSION")
        .mode("record")
        .set("GATE_RECORD_VERSION", "0.7.0")
        .set("GATE_EXPECT_VERSION", setting(&next, "GATE_EXPECT_VERSION"));
    let refused = repair.run().await;
    assert_eq!(refused.code, Some(16), "{damage}: {refused}");
    assert_eq!(db_hash(database).await, before, "{damage}");
    let journal = setting(&next, "GATE_DISCARD_JOURNAL");
    let repaired = repair.set("GATE_DISCARD_JOURNAL", journal).run().await;
    assert_eq!(repaired.code, Some(10), "{damage}: {repaired}");
    assert!(!record(database).await.contains_key("journal"), "{damage}");
    let run = gate.run().await;
    assert_eq!(run.code, Some(0), "{damage}: {run}");
}

#[tokio::test]
async fn a_whole_journal_is_gone_on_with() {
    let (database, gate) = unfinished().await;
    assert_code(&gate.clone().mode("check").run().await, 10);
    assert_code(&gate.run().await, 0);
    let once = doc! { "$expr": { "$eq": ["$n", { "$add": ["$_id", 1] }] } };
    assert_eq!(count(&database, "counters", once).await, 60);
}

#[tokio::test]
async fn what_later_upgrades_need_is_looked_at_before_a_journal_is_gone_on_with() {
    for (later, code) in [("strict", 13), ("refuse", 14)] {
        let (database, gate) = unfinished().await;
        fill(&database, "tasks", [doc! { "_id": 1, "locked": true }]).await;
        let things = database.collection::<Document>("things");
        things.update_one(doc! { "_id": 59 }, doc! { "$set": { "bad": true } }).await.unwrap();
        let upgrades = format!("0.8.0=increment,clash;0.9.0={later}");
        let gate = gate.set("SCENARIO_CODE", "0.9.0").set("SCENARIO_UPGRADES", upgrades);
        // the function that failed is mended; the newer one is not
        let gate = gate.set("SCENARIO_FIXED", if later == "strict" { "true" } else { "false" });
        things.update_one(doc! { "_id": 37 }, doc! { "$unset": { "clash": 1 } }).await.unwrap();
        let before = db_hash(&database).await;
        for mode in ["plan", "upgrade"] {
            let run = gate.clone().mode(mode).run().await;
            assert_code(&run, code);
            assert_eq!(run.report["remaining"], serde_json::json!(["0.8.0", "0.9.0"]), "{run}");
        }
        assert_eq!(db_hash(&database).await, before, "{later}");

        database.collection::<Document>("tasks").delete_many(doc! {}).await.unwrap();
        things.update_one(doc! { "_id": 59 }, doc! { "$unset": { "bad": 1 } }).await.unwrap();
        assert_code(&gate.run().await, 0);
        assert_eq!(history(&record(&database).await).len(), 3);
    }
}

#[tokio::test]
async fn a_journal_that_lacks_a_field_closes_the_gate_with_a_way_out() {
    for field in [
        "id",
        "version",
        "code_version",
        "started",
        "from",
        "from.version",
        "from.history",
        "seq",
        "run_id",
        "host",
        "steps",
        "step",
        "pass",
    ] {
        let (database, gate) = unfinished().await;
        change(&database, doc! { "$unset": { format!("journal.{field}"): 1 } }).await;
        closes(&database, &gate, 15, field).await;
    }
    // whatever it is that is left
    for journal in [Bson::Null, 5.into(), doc! {}.into(), Vec::<Bson>::new().into(), "x".into()] {
        let (database, gate) = unfinished().await;
        change(&database, doc! { "$set": { "journal": &journal } }).await;
        closes(&database, &gate, 15, &journal.to_string()).await;
    }
}

#[tokio::test]
async fn a_journal_with_a_field_of_another_kind_closes_the_gate_with_a_way_out() {
    let fields: [(&str, Bson); 30] = [
        ("id", 5.into()),
        ("version", 0.8.into()),
        ("version", "next".into()),
        ("code_version", Bson::Null),
        ("started", "yesterday".into()),
        ("from", "0.7.0".into()),
        ("from.version", 7.into()),
        ("from.history", "one".into()),
        ("from.history", (-1).into()),
        ("seq", "3".into()),
        ("seq", Bson::Null),
        ("run_id", 5.into()),
        ("host", doc! {}.into()),
        ("steps", "increment".into()),
        ("steps", doc! {}.into()),
        ("steps.0", "increment".into()),
        ("steps.0.name", 1.into()),
        ("steps.0.kind", Bson::Null),
        ("steps.0.documents", "x".into()),
        ("steps.0.documents", (-5).into()),
        ("steps.0.counts", 7.into()),
        ("steps.0.actions", "none".into()),
        ("step", "1".into()),
        ("step", (-1).into()),
        ("step", 3.into()),
        ("step", i64::MAX.into()),
        ("pass", "middle".into()),
        ("pass", 1.into()),
        ("position", 7.into()),
        ("position", doc! {}.into()),
    ];
    for (field, value) in fields {
        let (database, gate) = unfinished().await;
        change(&database, doc! { "$set": { format!("journal.{field}"): &value } }).await;
        closes(&database, &gate, 15, &format!("{field}: {value}")).await;
    }
}

#[tokio::test]
async fn a_journal_of_other_steps_or_another_record_closes_the_gate_with_a_way_out() {
    for (changed, code) in [
        (doc! { "$set": { "journal.steps.0.name": "something else" } }, 12),
        (doc! { "$set": { "journal.steps.0.kind": "command" } }, 12),
        (doc! { "$pop": { "journal.steps": 1 } }, 12),
        (doc! { "$set": { "journal.version": "0.9.0" } }, 12),
        (doc! { "$set": { "journal.from.version": "0.6.0" } }, 15),
        (doc! { "$set": { "journal.from.history": 7 } }, 15),
        (doc! { "$push": { "history": { "version": "0.7.0", "action": "auto_stamp" } } }, 15),
        (doc! { "$set": { "version": "0.7.1" } }, 15),
    ] {
        let (database, gate) = unfinished().await;
        change(&database, changed.clone()).await;
        closes(&database, &gate, code, &changed.to_string()).await;
    }
}

#[tokio::test]
async fn a_journal_with_more_in_it_is_gone_on_with() {
    let (database, gate) = unfinished().await;
    let more = doc! { "journal.more": [1], "journal.steps.1.more": "x", "journal.from.more": 1 };
    change(&database, doc! { "$set": more }).await;
    assert_code(&gate.run().await, 0);
    assert_eq!(count(&database, "things", doc! { "unique_key": { "$exists": true } }).await, 60);
}
