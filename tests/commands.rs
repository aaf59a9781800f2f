//! Commands: each through plan, run and rerun, killed half-way, in conflict, and arriving late.

mod apps;
mod support;

use std::time::Duration;

use apps::{
    Fault, METADATA, actions, assert_code, blocking, count, faulty, fill, history, lock, record,
    record_old, scenario, suits,
};
use mongodb::Database;
use mongodb::bson::{Bson, Document, doc};
use mongodb::error::{Error, ErrorKind};
use serde_json::json;
use support::{Fresh, Gate, Server, db_hash, eventually, mongod_version};

async fn fresh() -> Fresh {
    let database = Server::shared().await.database().await;
    let things = (0..5).map(|i| doc! { "_id": i, "b": i, "unique_key": i, "title": "x" });
    fill(&database, "things", things).await;
    fill(&database, "old", (0..3).map(|i| doc! { "_id": i })).await;
    fill(&database, "first", (0..4).map(|i| doc! { "_id": i })).await;
    record_old(&database).await;
    database
}

fn short_lease(gate: Gate) -> Gate {
    gate.set("GATE_LOCK_LEASE", "1s")
}

/// Collections as `collection NAME UUID VALIDATOR`, indexes as `NAME KEYS`.
async fn schema(database: &Database) -> Vec<String> {
    let mut schema = Vec::new();
    let mut cursor = database.run_cursor_command(doc! { "listCollections": 1 }).await.unwrap();
    let mut names = Vec::new();
    while cursor.advance().await.unwrap() {
        let collection = Document::try_from(cursor.current()).unwrap();
        let name = collection.get_str("name").unwrap().to_owned();
        let uuid = collection.get_document("info").unwrap().get("uuid").unwrap().clone();
        if name != METADATA {
            let options = collection.get_document("options").unwrap();
            schema.push(format!("collection {name} {uuid} {:?}", options.get("validator")));
            names.push(name);
        }
    }
    for name in names {
        // unless it was dropped or renamed just now
        let list = database.run_cursor_command(doc! { "listIndexes": &name });
        let Ok(mut indexes) = list.await else { continue };
        while indexes.advance().await.unwrap() {
            let index = Document::try_from(indexes.current()).unwrap();
            schema.push(format!("{name} {}", index.get_document("key").unwrap()));
        }
    }
    schema.sort();
    schema
}

/// Whether the schema has an entry that contains `text`.
async fn has(database: &Database, text: &str) -> bool {
    schema(database).await.iter().any(|entry| entry.contains(text))
}

async fn uuid(database: &Database, name: &str) -> Option<Bson> {
    let list = doc! { "listCollections": 1, "filter": { "name": name } };
    let mut cursor = database.run_cursor_command(list).await.unwrap();
    if !cursor.advance().await.unwrap() {
        return None;
    }
    let collection = Document::try_from(cursor.current()).unwrap();
    collection.get_document("info").unwrap().get("uuid").cloned()
}

async fn create_index(database: &Database, index: Document) {
    let create = doc! { "createIndexes": "things", "indexes": [index] };
    database.run_command(create).await.unwrap();
}

/// A command of the scenario, and what it leaves: something present in the schema, or absent.
const COMMANDS: [(&str, &str, bool); 8] = [
    ("index", "things { \"b\": 1 }", true),
    ("unique", "things { \"unique_key\": 1 }", true),
    ("text_index", "things { \"b\": 1, \"_fts\"", true),
    ("unindex", "things { \"b\": 1 }", false),
    ("validator", "$not", true),
    ("unvalidate", "$lt", false),
    ("rename", "collection new ", true),
    ("drop", "collection old ", false),
];

/// A database on which every command has something to do.
async fn prepared(command: &str) -> Fresh {
    let database = fresh().await;
    match command {
        "unindex" => create_index(&database, doc! { "key": { "b": 1 }, "name": "by b" }).await,
        "unvalidate" => {
            let validator = doc! { "b": { "$lt": 100 } };
            let set = doc! { "collMod": "things", "validator": validator };
            database.run_command(set).await.unwrap();
        }
        _ => {}
    }
    database
}

fn action_count(run: &support::Run) -> usize {
    actions(run).iter().map(|(_, actions)| actions.as_array().unwrap().len()).sum()
}

/// Makes the database forget that it was upgraded.
async fn forget(database: &Database) {
    database.collection::<Document>(METADATA).delete_many(doc! {}).await.unwrap();
    record_old(database).await;
}

// ---- plan, run, rerun ----

#[tokio::test]
async fn a_command_is_planned_carried_out_once_and_found_done() {
    for (name, sign, present) in COMMANDS {
        let database = prepared(name).await;
        let before = (db_hash(&database).await, schema(&database).await);
        assert_ne!(has(&database, sign).await, present, "{name}");
        let upgrades = format!("0.8.0={name}");
        if !suits(&database, &upgrades).await {
            continue;
        }
        let gate = scenario(&database.uri, "0.8.0", &upgrades);

        let plan = gate.clone().mode("plan").run().await;
        assert_code(&plan, 10);
        assert_eq!(action_count(&plan), 1, "{plan}");
        assert_eq!((db_hash(&database).await, schema(&database).await), before, "{name}");

        let run = gate.run().await;
        assert_code(&run, 0);
        assert_eq!(actions(&run), actions(&plan), "{run}");
        assert_eq!(has(&database, sign).await, present, "{name}: {run}");
        let after = schema(&database).await;

        forget(&database).await;
        let plan = gate.clone().mode("plan").run().await;
        assert_eq!(action_count(&plan), 0, "{plan}");
        let run = gate.run().await;
        assert_code(&run, 0);
        assert_eq!(action_count(&run), 0, "{run}");
        assert_eq!(schema(&database).await, after, "{name}");
        assert_eq!(history(&record(&database).await), ["initialise 0.7.0", "upgrade 0.8.0"]);
    }
}

#[tokio::test]
async fn commands_on_what_is_not_there_create_it_or_have_nothing_to_do() {
    for (name, actions, sign) in [
        ("index", 1, "things { \"b\": 1 }"),
        ("validator", 1, "$not"),
        ("unindex", 0, "things"),
        ("rename", 0, "new"),
        ("drop", 0, "old"),
    ] {
        let database = Server::shared().await.database().await;
        fill(&database, "others", [doc! { "_id": 1 }]).await;
        let upgrades = format!("0.8.0={name}");
        if !suits(&database, &upgrades).await {
            continue;
        }
        let gate = scenario(&database.uri, "0.8.0", &upgrades);
        let plan = gate.clone().mode("plan").run().await;
        assert_eq!(action_count(&plan), actions, "{plan}");
        let run = gate.run().await;
        assert_code(&run, 0);
        assert_eq!(action_count(&run), actions, "{run}");
        assert_eq!(has(&database, sign).await, actions == 1, "{name}");
        if actions == 0 {
            let untouched =
                schema(&database).await.into_iter().all(|entry| entry.contains("others"));
            assert!(untouched, "{name}");
        }
    }
}

// ---- killed half-way ----

/// A gate is killed when the server has carried its command out and the journal does not know.
async fn killed_after(database: &Fresh, upgrades: &str, sign: &str, present: bool) {
    let mut lost = blocking(Duration::from_secs(1));
    lost.insert("closeConnection", true);
    // the journal, the command's identity and the lease before the command go through
    let fault = Fault::after(database, 3, &["update"], lost).await;
    let running = scenario(&faulty(database), "0.8.0", upgrades).spawn();
    eventually("the command", || async { (has(database, sign).await == present).then_some(()) })
        .await;
    fault.met(1).await;
    running.signal("KILL");
    let killed = running.wait().await;
    assert_eq!(killed.signal, Some(9), "{killed}");
    fault.end().await;
    let journal = record(database).await.get_document("journal").unwrap().clone();
    assert!(journal.contains_key("command") && journal.get_i32("step").unwrap_or(0) == 0);
    // its lease is over
    let locks = database.collection::<Document>(METADATA);
    locks.delete_one(doc! { "_id": "upgrade_lock" }).await.unwrap();
}

#[tokio::test]
async fn a_command_that_a_killed_run_carried_out_is_found_done_and_reported_once() {
    for (name, sign, present) in COMMANDS {
        let database = prepared(name).await;
        let upgrades = format!("0.8.0={name}");
        if !suits(&database, &upgrades).await {
            continue;
        }
        killed_after(&database, &upgrades, sign, present).await;
        let after = schema(&database).await;
        let gate = scenario(&database.uri, "0.8.0", &upgrades);
        assert_code(&gate.clone().mode("check").run().await, 10);
        let run = gate.run().await;
        assert_code(&run, 0);
        assert_eq!(action_count(&run), 1, "{run}");
        assert_eq!(schema(&database).await, after, "{name}");
        let entry = record(&database).await.get_array("history").unwrap()[1].clone();
        assert_eq!(entry.as_document().unwrap().get_array("actions").unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_run_killed_in_one_command_is_gone_on_with_whatever_commands_follow() {
    let database = fresh().await;
    let upgrades = "0.8.0=drop,rename_first,index";
    if !suits(&database, upgrades).await {
        return;
    }
    let fault = Fault::new(&database, &["drop"], doc! { "closeConnection": true }, 1000).await;
    let mut running = short_lease(scenario(&faulty(&database), "0.8.0", upgrades)).spawn();
    running.logged("upgrade started").await;
    fault.met(1).await;
    running.signal("KILL");
    running.wait().await;
    fault.end().await;
    let journal = record(&database).await.get_document("journal").unwrap().clone();
    assert!(journal.get_document("command").unwrap().contains_key("uuid"), "{journal}");

    let gate = short_lease(scenario(&database.uri, "0.8.0", upgrades));
    let plan = gate.clone().mode("plan").run().await;
    assert_code(&plan, 10);
    assert_eq!(action_count(&plan), 3, "{plan}");
    let run = gate.run().await;
    assert_code(&run, 0);
    assert_eq!(action_count(&run), 3, "{run}");
    assert!(uuid(&database, "old").await.is_none() && uuid(&database, "second").await.is_some());
}

#[tokio::test]
async fn what_the_application_made_after_a_killed_drop_or_rename_is_left_alone() {
    for (name, sign, present) in
        [("drop", "collection old ", false), ("rename", "collection new ", true)]
    {
        let database = fresh().await;
        let upgrades = format!("0.8.0={name}");
        if !suits(&database, &upgrades).await {
            continue;
        }
        killed_after(&database, &upgrades, sign, present).await;
        fill(&database, "old", [doc! { "_id": "the application's" }]).await;
        let made = uuid(&database, "old").await;
        let run = scenario(&database.uri, "0.8.0", &upgrades).run().await;
        assert_code(&run, 0);
        assert_eq!(uuid(&database, "old").await, made, "{run}");
        assert_eq!(count(&database, "old", doc! {}).await, 1);
        let renamed = if name == "rename" { 3 } else { 0 };
        assert_eq!(count(&database, "new", doc! {}).await, renamed);
    }
}

// ---- conflicts ----

#[tokio::test]
async fn a_command_in_conflict_ends_the_run_before_the_first_write() {
    let index = doc! { "key": { "b": -1 }, "name": "by b" };
    let not_unique = doc! { "key": { "unique_key": 1 }, "name": "unique key" };
    for (upgrades, mending) in [
        ("0.8.0=increment,rename", doc! { "drop": "new" }),
        ("0.8.0=increment;0.9.0=index", doc! { "dropIndexes": "things", "index": "by b" }),
        ("0.8.0=increment;0.9.0=unique", doc! { "dropIndexes": "things", "index": "unique key" }),
    ] {
        let database = fresh().await;
        fill(&database, "counters", [doc! { "_id": 1 }]).await;
        fill(&database, "new", [doc! { "_id": "the application's" }]).await;
        if !suits(&database, upgrades).await {
            continue;
        }
        create_index(&database, index.clone()).await;
        create_index(&database, not_unique.clone()).await;
        let before = db_hash(&database).await;
        let gate = scenario(&database.uri, "0.9.0", upgrades);
        for mode in ["plan", "upgrade"] {
            let run = gate.clone().mode(mode).run().await;
            assert_code(&run, 14);
            let message = run.report["message"].as_str().unwrap();
            let names = ["old and new are both there", "an index of that name with other keys"];
            assert!(names.iter().any(|name| message.contains(name)), "{run}");
            assert_eq!(db_hash(&database).await, before, "{upgrades} {mode}");
        }
        database.run_command(mending).await.unwrap();
        assert_code(&gate.run().await, 0);
        assert_eq!(count(&database, "counters", doc! { "n": 1 }).await, 1);
    }
}

#[tokio::test]
async fn a_target_that_came_after_the_journal_stops_a_rename_until_it_is_moved_away() {
    let database = fresh().await;
    if !suits(&database, "0.8.0=rename").await {
        return;
    }
    let fault =
        Fault::new(&database, &["renameCollection"], doc! { "closeConnection": true }, 1000).await;
    let running = short_lease(scenario(&faulty(&database), "0.8.0", "0.8.0=rename")).spawn();
    fault.met(1).await;
    running.signal("KILL");
    running.wait().await;
    fault.end().await;
    fill(&database, "new", [doc! { "_id": "the application's" }]).await;
    let gate = short_lease(scenario(&database.uri, "0.8.0", "0.8.0=rename"));
    let run = gate.run().await;
    assert_code(&run, 14);
    assert!(run.report["message"].as_str().unwrap().contains("Rename old to new"), "{run}");
    assert_eq!(count(&database, "new", doc! {}).await, 1);
    assert_eq!(count(&database, "old", doc! {}).await, 3);
    database.run_command(doc! { "drop": "new" }).await.unwrap();
    assert_code(&gate.run().await, 0);
    assert_eq!(count(&database, "new", doc! {}).await, 3);
}

#[tokio::test]
async fn a_unique_index_over_duplicates_ends_the_run_until_the_documents_are_mended() {
    let database = fresh().await;
    fill(&database, "counters", (0..3).map(|i| doc! { "_id": i })).await;
    fill(&database, "things", [doc! { "_id": 9, "unique_key": 1 }]).await;
    let gate = scenario(&database.uri, "0.8.0", "0.8.0=increment,unique");
    for _ in 0..2 {
        let run = gate.run().await;
        assert_code(&run, 14);
        let message = run.report["message"].as_str().unwrap();
        assert!(message.contains("duplicate key in index unique"), "{run}");
        assert!(message.contains("at step \"Create index unique key on things\""), "{run}");
        assert!(!has(&database, "unique_key").await);
        assert_eq!(lock(&database).await, None);
    }
    let things = database.collection::<Document>("things");
    things.delete_one(doc! { "_id": 9 }).await.unwrap();
    let run = gate.run().await;
    assert_code(&run, 0);
    assert!(has(&database, "unique_key").await);
    assert_eq!(action_count(&run), 2, "{run}");
    assert_eq!(count(&database, "counters", doc! { "n": 1 }).await, 3);
}

// ---- late ----

/// What the server says of a command, by its number.
async fn code(database: &Database, command: Document) -> i32 {
    let error: Error = database.run_command(command).await.unwrap_err();
    match *error.kind {
        ErrorKind::Command(error) => error.code,
        ref other => panic!("{other}"),
    }
}

#[tokio::test]
async fn the_server_drops_and_renames_only_the_collection_of_the_uuid() {
    let database = fresh().await;
    let (old, first) = (uuid(&database, "old").await, uuid(&database, "first").await);
    let drop = |uuid: &Option<Bson>| doc! { "drop": "old", "collectionUUID": uuid.clone() };
    let name = database.name();
    let rename = |uuid: &Option<Bson>| {
        doc! {
            "renameCollection": format!("{name}.old"),
            "to": format!("{name}.new"),
            "collectionUUID": uuid.clone(),
        }
    };
    let admin = database.client().database("admin");
    // 4.4 even drops the collection whatever the UUID says: the gate must not ask it to
    for upgrades in ["0.8.0=drop", "0.8.0=rename"] {
        assert_eq!(suits(&database, upgrades).await, mongod_version() >= (6, 0));
    }
    if mongod_version() < (6, 0) {
        return;
    }
    assert_eq!(code(&database, drop(&first)).await, 361);
    assert_eq!(code(&admin, rename(&first)).await, 361);
    assert_eq!(uuid(&database, "old").await, old);
    admin.run_command(rename(&old)).await.unwrap();
    assert_eq!(uuid(&database, "new").await, old);
    fill(&database, "old", [doc! { "_id": "another" }]).await;
    assert_eq!(code(&database, drop(&old)).await, 361);
    assert_eq!(count(&database, "old", doc! {}).await, 1);
    database.run_command(drop(&uuid(&database, "old").await)).await.unwrap();
}

/// Waits until the server has nothing more of this gate under way.
async fn server_done(database: &Database, command: &str) {
    let admin = database.client().database("admin");
    let under_way = vec![
        doc! { "$currentOp": { "allUsers": true, "localOps": true } },
        doc! { "$match": { "appName": database.name(), format!("command.{command}"): { "$exists": true } } },
    ];
    eventually("the late command", || async {
        let mut operations = admin.aggregate(under_way.clone()).await.unwrap();
        (!operations.advance().await.unwrap()).then_some(())
    })
    .await;
}

/// The application's own collection, once the upgrade is done.
async fn made_by_the_application(database: &Database) -> Option<Bson> {
    fill(database, "old", (0..7).map(|i| doc! { "_id": format!("new {i}") })).await;
    uuid(database, "old").await
}

#[tokio::test]
async fn a_holder_stopped_before_a_drop_or_rename_destroys_nothing_when_it_wakes() {
    for name in ["drop", "rename"] {
        let database = fresh().await;
        let upgrades = format!("0.8.0={name}");
        if !suits(&database, &upgrades).await {
            continue;
        }
        // the journal, the command's identity, and the lease just before the command
        // long enough that it is stopped in the third, and over before the lease is renewed
        let fault = Fault::block(&database, &["update"], Duration::from_millis(600), 3).await;
        let first =
            scenario(&faulty(&database), "0.8.0", &upgrades).set("GATE_LOCK_LEASE", "8s").spawn();
        fault.met(3).await;
        first.signal("STOP");
        fault.end().await;
        let journal = record(&database).await.get_document("journal").unwrap().clone();
        assert!(journal.contains_key("command"), "{journal}");
        assert!(uuid(&database, "old").await.is_some(), "it was stopped too late");

        let run = scenario(&database.uri, "0.8.0", &upgrades).run().await;
        assert_code(&run, 0);
        let took_over = "took over the lock of a run whose lease was over";
        assert!(run.log.iter().any(|line| line["message"] == took_over), "{run}");
        let (made, after) = (made_by_the_application(&database).await, record(&database).await);

        first.signal("CONT");
        let woken = first.wait().await;
        assert!([Some(0), Some(21)].contains(&woken.code), "{woken}");
        assert_eq!(uuid(&database, "old").await, made, "{woken}");
        assert_eq!(count(&database, "old", doc! {}).await, 7);
        assert_eq!(count(&database, "new", doc! {}).await, if name == "drop" { 0 } else { 3 });
        assert_eq!(record(&database).await, after);
        assert_eq!(action_count(&woken), 0, "{woken}");
    }
}

#[tokio::test]
async fn a_drop_or_rename_that_the_server_carries_out_late_destroys_nothing() {
    for (name, command) in [("drop", "drop"), ("rename", "renameCollection")] {
        let database = fresh().await;
        let upgrades = format!("0.8.0={name}");
        if !suits(&database, &upgrades).await {
            continue;
        }
        let fault = Fault::block(&database, &[command], Duration::from_secs(4), 1).await;
        let first = short_lease(scenario(&faulty(&database), "0.8.0", &upgrades)).spawn();
        fault.met(1).await;
        first.signal("KILL");
        first.wait().await;
        assert_code(&scenario(&database.uri, "0.8.0", &upgrades).run().await, 0);
        let made = made_by_the_application(&database).await;
        server_done(&database, command).await;
        assert_eq!(uuid(&database, "old").await, made);
        assert_eq!(count(&database, "old", doc! {}).await, 7);
        fault.end().await;
    }
}

#[tokio::test]
async fn a_command_that_takes_longer_than_the_lease_keeps_it() {
    let database = fresh().await;
    let time = Duration::from_millis(2500);
    let fault = Fault::block(&database, &["createIndexes"], time, 1).await;
    let first = short_lease(scenario(&faulty(&database), "0.8.0", "0.8.0=index")).spawn();
    fault.met(1).await;
    let mut second = scenario(&database.uri, "0.8.0", "0.8.0=index").spawn();
    second.logged("waiting for another run that holds the lock").await;
    let (first, second) = (first.wait().await, second.wait().await);
    fault.end().await;
    assert_code(&first, 0);
    assert_code(&second, 0);
    assert_eq!((action_count(&first), action_count(&second)), (1, 0), "{first}\n{second}");
}

#[tokio::test]
async fn a_holder_that_lost_its_lease_before_a_command_does_not_send_it() {
    let database = fresh().await;
    if !suits(&database, "0.8.0=drop").await {
        return;
    }
    let fault = Fault::block(&database, &["update"], Duration::from_millis(100), 3).await;
    let first = short_lease(scenario(&faulty(&database), "0.8.0", "0.8.0=drop")).spawn();
    fault.met(2).await;
    // somebody else has it now
    let locks = database.collection::<Document>(METADATA);
    let taken = doc! { "$set": { "run_id": "another", "host": "elsewhere" } };
    locks.update_one(doc! { "_id": "upgrade_lock" }, taken).await.unwrap();
    let run = first.wait().await;
    fault.end().await;
    assert_code(&run, 21);
    assert!(uuid(&database, "old").await.is_some(), "{run}");
    assert_eq!(lock(&database).await.unwrap().get_str("run_id").unwrap(), "another");
    assert_eq!(run.report["unfinished"]["step"], json!("Drop old"), "{run}");
}

#[tokio::test]
async fn a_lease_that_cannot_be_verified_at_once_is_asked_for_again() {
    let database = fresh().await;
    if !suits(&database, "0.8.0=drop").await {
        return;
    }
    // the record's two updates pass
    let passing = doc! { "errorCode": 251, "errorLabels": [] };
    let fault = Fault::after(&database, 2, &["update"], passing).await;
    let running = scenario(&faulty(&database), "0.8.0", "0.8.0=drop").spawn();
    fault.met(1).await;
    fault.end().await;
    assert_code(&running.wait().await, 0);
    assert_eq!(uuid(&database, "old").await, None);
}
