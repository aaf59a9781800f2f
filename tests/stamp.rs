//! An application that keeps its version itself: the stamp is read as what the database last ran, moves with
//! the record, and is never overwritten where something else moved it.

mod apps;
mod support;

use std::time::Duration;

use apps::{Fault, METADATA, assert_code, faulty, history, record};
use mongodb::Database;
use mongodb::bson::{Bson, Document, doc};
use support::{Fresh, Gate, Run, Server, db_hash, dump};
use tokio::sync::OnceCell;

const MOVE: &str = "0.8.0=move_field";
const READING: [&str; 3] = ["check", "plan", "wait"];

async fn standalone() -> &'static Server {
    static SERVER: OnceCell<Server> = OnceCell::const_new();
    SERVER.get_or_init(Server::standalone).await
}

async fn both() -> [&'static Server; 2] {
    [Server::shared().await, standalone().await]
}

/// A database with two things to upgrade, and the settings of the application that has them.
async fn with_settings(server: &Server, settings: impl IntoIterator<Item = Document>) -> Fresh {
    let database = server.database().await;
    let things = [doc! { "_id": 1, "a": 1 }, doc! { "_id": 2, "a": 2 }];
    database.collection("things").insert_many(things).await.unwrap();
    let other = doc! { "_id": "other", "name": "lab" };
    let settings = settings.into_iter().chain([other]);
    database.collection("settings").insert_many(settings).await.unwrap();
    database
}

async fn stamped(server: &Server, version: impl Into<Bson>) -> Fresh {
    let version: Bson = version.into();
    with_settings(server, [doc! { "_id": "app", "version": version, "theme": "dark" }]).await
}

fn gate(database: &Fresh, code: &str, upgrades: &str) -> Gate {
    apps::scenario(&faulty(database), code, upgrades)
        .unset("GATE_FROM_VERSION")
        .set("SCENARIO_STAMP", "settings/version")
        .set("GATE_LOCK_LEASE", "5s")
}

fn repair(database: &Fresh, stored: &str, version: &str) -> Gate {
    gate(database, "0.8.0", MOVE)
        .mode("record")
        .set("GATE_EXPECT_VERSION", stored)
        .set("GATE_RECORD_VERSION", version)
}

/// The application's own document.
async fn settings(database: &Database) -> Document {
    let settings = database.collection::<Document>("settings");
    settings.find_one(doc! { "_id": "app" }).await.unwrap().unwrap()
}

/// The application at its start, or its own upgrader, writes its version.
async fn application_stamps(database: &Database, version: &str) {
    let settings = database.collection::<Document>("settings");
    let set = doc! { "$set": { "version": version } };
    settings.update_one(doc! { "_id": "app" }, set).await.unwrap();
}

/// Recorded at `version`, and stamped with it.
async fn agreed(server: &Server, version: &str) -> Fresh {
    let database = stamped(server, version).await;
    let entry = doc! { "version": version, "action": "initialise", "floor": Bson::Null };
    let record = doc! { "_id": "scenario_schema_version", "version": version, "history": [entry] };
    database.collection(METADATA).insert_one(record).await.unwrap();
    database
}

#[track_caller]
fn says(run: &Run, parts: &[&str]) {
    let text = format!("{} | {}", run.report["message"], run.report["next"]);
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in {run}");
    }
}

/// Both say `version`, and nothing is left to be done.
async fn assert_both(database: &Fresh, version: &str, stamp: &str) {
    let record = record(database).await;
    assert_eq!(record.get_str("version").unwrap(), version, "{record}");
    assert!(!record.contains_key("stamping"), "{record}");
    let expected = doc! { "_id": "app", "version": stamp, "theme": "dark" };
    assert_eq!(settings(database).await, expected);
}

/// All modes that only read end so, and write nothing.
async fn assert_read(gate: &Gate, database: &Fresh, code: i32, parts: &[&str]) {
    let before = db_hash(database).await;
    for mode in READING {
        let run = gate.clone().mode(mode).set("GATE_TIMEOUT", "1s").run().await;
        assert_code(&run, code);
        says(&run, parts);
    }
    assert_eq!(db_hash(database).await, before);
}

#[tokio::test]
async fn the_applications_version_is_what_an_unrecorded_database_last_ran_and_moves_with_the_record()
 {
    for server in both().await {
        let database = stamped(server, "v0.7.0").await;
        let upgrade = gate(&database, "0.8.0", MOVE);
        assert_read(&upgrade, &database, 10, &["pending: 0.8.0"]).await;
        assert_code(&upgrade.run().await, 0);
        assert_eq!(history(&record(&database).await), ["initialise 0.7.0", "upgrade 0.8.0"]);
        assert_both(&database, "0.8.0", "v0.8.0").await;
        let things = dump(&database).await["things"].len();
        assert_eq!(things, 2);
        // an up-to-date database is left alone
        assert_read(&upgrade, &database, 0, &[]).await;
        let before = db_hash(&database).await;
        assert_code(&upgrade.run().await, 0);
        assert_eq!(db_hash(&database).await, before);
        // and so does a version with nothing to do
        assert_code(&gate(&database, "0.8.1", MOVE).run().await, 0);
        assert_both(&database, "0.8.1", "v0.8.1").await;
    }
}

#[tokio::test]
async fn a_chain_leaves_the_code_version_as_the_application_writes_it() {
    for server in both().await {
        for batch in ["1", "2000"] {
            let database = stamped(server, "0.7.0").await;
            let chain = gate(&database, "0.9.0rc1", "0.8.0=move_field;0.9.0-rc.1=twice");
            let chain = chain.set("GATE_BATCH_DOCUMENTS", batch);
            assert_code(&chain.run().await, 0);
            assert_both(&database, "0.9.0-rc.1", "0.9.0rc1").await;
        }
    }
}

#[tokio::test]
async fn a_target_is_where_both_stop() {
    let database = stamped(Server::shared().await, "0.7.0").await;
    let chain = gate(&database, "0.9.0", "0.8.0=move_field;0.9.0=twice");
    assert_code(&chain.set("GATE_TARGET_VERSION", "0.8.0").run().await, 10);
    assert_both(&database, "0.8.0", "0.8.0").await;
}

#[tokio::test]
async fn a_setting_beside_the_stamp_is_ignored_or_refused() {
    for (from, code) in [("0.6.0", 0), ("0.7.0", 0), ("0.7.5", 16)] {
        let database = stamped(Server::shared().await, "0.7.0").await;
        let before = db_hash(&database).await;
        let run = gate(&database, "0.8.0", MOVE).set("GATE_FROM_VERSION", from).run().await;
        assert_code(&run, code);
        match code {
            0 => assert_both(&database, "0.8.0", "0.8.0").await,
            _ => {
                says(&run, &["GATE_FROM_VERSION is 0.7.5", "version in settings", "says 0.7.0"]);
                assert_eq!(db_hash(&database).await, before);
            }
        }
    }
}

#[tokio::test]
async fn a_stamp_that_this_code_cannot_take_on_closes_and_writes_nothing() {
    for (version, oldest, parts) in [
        ("0.9.0", "0.1.0", ["version in settings", "deploy 0.9.0 or later"]),
        ("0.6.0", "0.7.0", ["version in settings", "deploy 0.7.x first"]),
    ] {
        let database = stamped(Server::shared().await, version).await;
        let before = db_hash(&database).await;
        let gate = gate(&database, "0.8.0", MOVE).set("SCENARIO_OLDEST", oldest);
        assert_read(&gate, &database, 12, &parts).await;
        assert_code(&gate.run().await, 12);
        assert_eq!(db_hash(&database).await, before);
    }
}

#[tokio::test]
async fn a_stamp_that_is_there_already_keeps_its_spelling() {
    for server in both().await {
        let database = stamped(server, "0.8").await;
        assert_code(&gate(&database, "0.8.0", MOVE).run().await, 0);
        assert_eq!(history(&record(&database).await), ["initialise 0.8.0"]);
        assert_both(&database, "0.8.0", "0.8").await;
    }
}

#[tokio::test]
async fn a_fresh_database_is_stamped_by_its_application() {
    for server in both().await {
        let database = server.database().await;
        let fresh = gate(&database, "0.8.0", MOVE).set("GATE_INITIALISE", "fresh");
        assert_code(&fresh.run().await, 0);
        assert!(!dump(&database).await.contains_key("settings"));
        let start = doc! { "_id": "app", "version": "0.8.0", "theme": "dark" };
        database.collection("settings").insert_one(start).await.unwrap();
        assert_read(&fresh, &database, 0, &[]).await;
        assert_code(&gate(&database, "0.8.1", MOVE).run().await, 0);
        assert_both(&database, "0.8.1", "0.8.1").await;
    }
}

#[tokio::test]
async fn where_no_document_has_it_an_upgrade_adds_one_and_the_operators_word_does_not() {
    for server in both().await {
        let database = with_settings(server, []).await;
        let at = gate(&database, "0.7.0", "0.7.0=increment").set("GATE_FROM_VERSION", "0.7.0");
        assert_code(&at.run().await, 0);
        let having = doc! { "version": { "$exists": true } };
        let settings = database.collection::<Document>("settings");
        assert_eq!(settings.count_documents(having.clone()).await.unwrap(), 0);
        assert_code(&gate(&database, "0.8.0", "0.7.0=increment;0.8.0=move_field").run().await, 0);
        let added = settings.find_one(having.clone()).await.unwrap().unwrap();
        assert_eq!(added.get_str("version").unwrap(), "0.8.0");
        assert_eq!(added.len(), 2, "{added}");
        let chain = "0.7.0=increment;0.8.0=move_field;0.9.0=twice";
        assert_code(&gate(&database, "0.9.0", chain).run().await, 0);
        assert_eq!(settings.count_documents(having.clone()).await.unwrap(), 1);
        let moved = settings.find_one(having).await.unwrap().unwrap();
        assert_eq!(moved.get_str("version").unwrap(), "0.9.0");
        assert_eq!(moved.get("_id"), added.get("_id"));
    }
}

#[tokio::test]
async fn a_record_and_a_stamp_that_differ_close_the_gate_until_mode_record_writes_both() {
    for server in both().await {
        for version in ["0.7.0", "0.8.0"] {
            let database = agreed(server, "0.7.0").await;
            application_stamps(&database, "0.8.0").await;
            let closed = gate(&database, "0.8.0", MOVE);
            let parts =
                ["recorded at 0.7.0", "version in settings", "says 0.8.0", "GATE_MODE=record"];
            assert_read(&closed, &database, 12, &parts).await;
            let before = db_hash(&database).await;
            assert_code(&closed.run().await, 12);
            // a repair that is meant for something else changes nothing
            assert_code(&repair(&database, "0.8.0", version).run().await, 16);
            assert_eq!(db_hash(&database).await, before);
            let code = if version == "0.8.0" { 0 } else { 10 };
            assert_code(&repair(&database, "0.7.0", version).run().await, code);
            assert_both(&database, version, version).await;
            assert_code(&closed.run().await, 0);
            assert_both(&database, "0.8.0", "0.8.0").await;
        }
    }
}

#[tokio::test]
async fn a_stamp_that_says_nothing_closes_the_gate_and_is_replaced_only_where_it_can_hold_a_version()
 {
    for (value, parts, repaired) in [
        (Bson::from("latest"), ["version in settings", "latest"], true),
        (Bson::Null, ["version in settings", "null"], true),
        (Bson::from(7), ["version in settings", "a number"], false),
    ] {
        for server in both().await {
            let database = agreed(server, "0.8.0").await;
            let settings = database.collection::<Document>("settings");
            let set = doc! { "$set": { "version": value.clone() } };
            settings.update_one(doc! { "_id": "app" }, set).await.unwrap();
            assert_read(&gate(&database, "0.8.0", MOVE), &database, 15, &parts).await;
            let before = db_hash(&database).await;
            let run = repair(&database, "0.8.0", "0.8.0").run().await;
            if repaired {
                assert_code(&run, 0);
                assert_both(&database, "0.8.0", "0.8.0").await;
            } else {
                assert_code(&run, 15);
                says(&run, &["as text"]);
                assert_eq!(db_hash(&database).await, before);
            }
        }
    }
    let two = [doc! { "version": "0.7.0" }, doc! { "version": "0.7.0" }];
    let database = with_settings(Server::shared().await, two).await;
    let gate = gate(&database, "0.8.0", MOVE);
    assert_read(&gate, &database, 15, &["more than one document"]).await;
    assert_code(&gate.run().await, 15);
}

#[tokio::test]
async fn with_transactions_neither_moves_without_the_other() {
    let server = Server::replica_set().await;
    for (code, upgrades) in [("0.8.0", MOVE), ("0.7.5", "")] {
        let database = agreed(&server, "0.7.0").await;
        let before = (record(&database).await, dump(&database).await["things"].clone());
        let stamp = format!("{}.settings", database.name());
        let refusal = doc! { "errorCode": 96, "namespace": stamp };
        let fault = Fault::new(&database, &["update"], refusal, 1).await;
        let run = gate(&database, code, upgrades).run().await;
        assert_ne!(run.code, Some(0), "{run}");
        fault.end().await;
        assert_eq!((record(&database).await, dump(&database).await["things"].clone()), before);
        assert_both(&database, "0.7.0", "0.7.0").await;
        assert_code(&gate(&database, code, upgrades).run().await, 0);
        assert_both(&database, code, code).await;
    }
}

/// What a run leaves that dies after the record moved and before the stamp did.
#[tokio::test]
async fn without_transactions_the_next_run_finishes_what_one_left_between_the_two() {
    let server = Server::standalone().await;
    type Moving = fn(&Fresh) -> Gate;
    let moves: [(&str, Moving); 3] = [
        ("0.8.0", |database| gate(database, "0.8.0", MOVE)),
        ("0.7.5", |database| gate(database, "0.7.5", "")),
        ("0.7.9", |database| repair(database, "0.7.0", "0.7.9")),
    ];
    for (to, moving) in moves {
        for follows in [false, true] {
            let database = agreed(&server, "0.7.0").await;
            let stamp = format!("{}.settings", database.name());
            let refusal = doc! { "errorCode": 96, "namespace": stamp };
            let fault = Fault::new(&database, &["update"], refusal, 1).await;
            let run = moving(&database).run().await;
            assert_ne!(run.code, Some(0), "{run}");
            fault.end().await;
            let half = record(&database).await;
            assert_eq!(half.get_str("version").unwrap(), to, "{run}");
            let stamping = doc! { "from": "0.7.0", "to": to };
            assert_eq!(half.get_document("stamping").unwrap(), &stamping);
            assert_eq!(settings(&database).await.get_str("version").unwrap(), "0.7.0");
            if follows {
                // it died a moment later
                application_stamps(&database, to).await;
            }
            let next = gate(&database, "0.8.0", MOVE);
            assert_read(&next, &database, 10, &["version in settings", "GATE_MODE=upgrade"]).await;
            assert_code(&next.run().await, 0);
            assert_both(&database, "0.8.0", "0.8.0").await;
            let ended = history(&record(&database).await);
            assert_eq!(ended.iter().filter(|entry| *entry == "upgrade 0.8.0").count(), 1);
        }
    }
}

/// The record has moved, and the write of the stamp is held up on its way when the run is killed.
#[tokio::test]
async fn without_transactions_a_run_killed_between_the_two_never_closes_the_gate_for_good() {
    let server = Server::standalone().await;
    type Next = fn(&Fresh) -> Gate;
    let nexts: [(&str, Next); 4] = [
        ("the same code", |database| gate(database, "0.8.0", MOVE)),
        ("newer code, nothing pending", |database| gate(database, "0.8.5", MOVE)),
        ("newer code, an upgrade pending", |database| {
            gate(database, "0.9.0", "0.8.0=move_field;0.9.0=index")
        }),
        ("mode record", |database| repair(database, "0.8.0", "0.8.0")),
    ];
    for (how, next) in nexts {
        let database = agreed(&server, "0.7.0").await;
        let namespace = format!("{}.settings", database.name());
        let held = doc! { "namespace": namespace, "blockConnection": true, "blockTimeMS": 5_000 };
        let fault = Fault::new(&database, &["update"], held, 1).await;
        let running = gate(&database, "0.8.0", MOVE).spawn();
        while !database
            .collection::<Document>(METADATA)
            .find_one(doc! { "stamping": { "$exists": true } })
            .await
            .unwrap()
            .is_some_and(|record| record.get_str("version").is_ok_and(|it| it == "0.8.0"))
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        running.signal("KILL");
        running.wait().await;
        fault.end().await;
        let next = next(&database).set("GATE_LOCK_LEASE", "1s");
        let run = next.run().await;
        assert_eq!(run.code, Some(0), "{how}: {run}");
        let version = record(&database).await.get_str("version").unwrap().to_owned();
        assert_both(&database, &version, &version).await;
        let ended = history(&record(&database).await);
        assert_eq!(ended.iter().filter(|entry| *entry == "upgrade 0.8.0").count(), 1, "{how}");
    }
}

#[tokio::test]
async fn an_application_that_moves_its_version_meanwhile_is_not_overwritten() {
    for (server, recorded) in
        [(Server::replica_set().await, "0.7.0"), (Server::standalone().await, "0.8.0")]
    {
        let database = agreed(&server, "0.7.0").await;
        let before = dump(&database).await["things"].clone();
        let mut how = apps::blocking(Duration::from_secs(2));
        how.insert("namespace", format!("{}.settings", database.name()));
        let fault = Fault::new(&database, &["update"], how, 1).await;
        let running = gate(&database, "0.8.0", MOVE).spawn();
        fault.met(1).await;
        // its own upgrader is faster
        let direct = server.client().await.database(database.name());
        let set = doc! { "$set": { "version": "0.8.5" } };
        let settings = direct.collection::<Document>("settings");
        settings.update_one(doc! { "_id": "app" }, set).await.unwrap();
        let run = running.wait().await;
        fault.end().await;
        assert_code(&run, 12);
        says(&run, &["says 0.8.5"]);
        let after = record(&database).await;
        assert_eq!(after.get_str("version").unwrap(), recorded);
        let stamp = self::settings(&database).await;
        assert_eq!(stamp.get_str("version").unwrap(), "0.8.5");
        if recorded == "0.7.0" {
            assert_eq!(dump(&database).await["things"], before, "nothing was committed");
        }
    }
}

#[tokio::test]
async fn of_two_pods_one_moves_both() {
    for server in both().await {
        let database = stamped(server, "0.7.0").await;
        let pod = || gate(&database, "0.8.0", MOVE).set("GATE_LOCK_WAIT", "60s").spawn();
        let (first, second) = (pod(), pod());
        assert_code(&first.wait().await, 0);
        assert_code(&second.wait().await, 0);
        assert_eq!(history(&record(&database).await), ["initialise 0.7.0", "upgrade 0.8.0"]);
        assert_both(&database, "0.8.0", "0.8.0").await;
    }
}

#[tokio::test]
async fn the_stamp_may_lie_deep_in_a_document_and_beside_the_record() {
    for server in both().await {
        let database = with_settings(server, []).await;
        let own = doc! { "_id": "app", "about": { "version": "0.7.0", "name": "lab" } };
        database.collection(METADATA).insert_one(own).await.unwrap();
        let deep =
            gate(&database, "0.8.0", MOVE).set("SCENARIO_STAMP", "database_metadata/about.version");
        assert_code(&deep.run().await, 0);
        let metadata = database.collection::<Document>(METADATA);
        let own = metadata.find_one(doc! { "_id": "app" }).await.unwrap().unwrap();
        assert_eq!(own, doc! { "_id": "app", "about": { "version": "0.8.0", "name": "lab" } });
        assert_code(&deep.mode("check").run().await, 0);
    }
    // the gate's own documents have a field of that name, too
    let database = with_settings(Server::shared().await, []).await;
    let own = doc! { "_id": "app", "version": "0.7.0" };
    database.collection(METADATA).insert_one(own).await.unwrap();
    let beside = gate(&database, "0.8.0", MOVE).set("SCENARIO_STAMP", "database_metadata/version");
    assert_code(&beside.run().await, 0);
    assert_code(&beside.mode("check").run().await, 0);
}

#[tokio::test]
async fn a_user_who_may_not_write_the_stamp_is_told_so_before_anything_is_written() {
    let server = Server::with_auth().await;
    let database = server.client().await.database("lab");
    database
        .collection("settings")
        .insert_one(doc! { "_id": "app", "version": "0.7.0" })
        .await
        .unwrap();
    database.collection("things").insert_one(doc! { "_id": 1, "a": 1 }).await.unwrap();
    let privileges = |stamp: &[&str]| {
        let on = |collection: &str, actions: &[&str]| {
            doc! { "resource": { "db": "lab", "collection": collection }, "actions": actions }
        };
        vec![
            on(METADATA, &["find", "insert", "update", "remove"]),
            on("things", &["find", "update"]),
            on("settings", stamp),
        ]
    };
    let all = ["find", "insert", "update"];
    for (role, granted, missing) in [
        ("reads", &all[..1], Some("insert on lab.settings")),
        ("adds", &all[..2], Some("update on lab.settings")),
        ("writes", &all[..], None),
    ] {
        let create = doc! { "createRole": role, "privileges": privileges(granted), "roles": [] };
        database.run_command(create).await.unwrap();
        let uri = server.uri_with_roles("lab", &[role]).await;
        let gate = apps::scenario(&uri, "0.8.0", MOVE)
            .unset("GATE_FROM_VERSION")
            .set("SCENARIO_STAMP", "settings/version");
        // who only asks needs to read it
        let asked = gate.clone().mode("check").run().await;
        assert_code(&asked, 10);
        let before = db_hash(&database).await;
        let run = gate.run().await;
        match missing {
            Some(missing) => {
                assert_code(&run, 17);
                says(&run, &[missing]);
                assert_eq!(db_hash(&database).await, before);
            }
            None => assert_code(&run, 0),
        }
    }
}
