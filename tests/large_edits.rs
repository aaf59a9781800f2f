//! Edits on a standalone server whose old and new value exceed what one statement may hold: they leave what a replica
//! set's transactions leave, whatever happens meanwhile; where the server cannot make them, nothing is written.

mod apps;
mod support;

use std::time::Duration;

use apps::{
    Fault, METADATA, assert_code, count, counted, faulty, fill, history, lock, record, record_old,
    scenario,
};
use mongodb::Database;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc, rawdoc};
use support::proxy::{Loss, Proxy};
use support::{Fresh, Gate, Run, Server, db_hash, dump, eventually, mongod_version};
use tokio::sync::OnceCell;

/// What the `_id` of a document says that holds old values.
const PURPOSE: &str = "old values of an edit under way";

/// How many entries the long list has; with what each holds they are more than 8 MiB.
const ENTRIES: i32 = 4000;

/// The standalone server that the tests of this file share.
async fn standalone() -> &'static Server {
    static SERVER: OnceCell<Server> = OnceCell::const_new();
    SERVER.get_or_init(Server::standalone).await
}

/// Whether the server can make such edits. Where it is too old, makes sure that they are refused beforehand.
async fn able(database: &Fresh, upgrades: &str) -> bool {
    if mongod_version() >= (5, 0) {
        return true;
    }
    assert_refused(database, upgrades, "MongoDB 5.0 or later").await;
    false
}

/// Neither plan nor run get through, for a reason that the report has, and nothing is written.
async fn assert_refused(database: &Fresh, upgrades: &str, reason: &str) {
    let before = documents(database).await;
    for mode in ["plan", "upgrade"] {
        let run = scenario(&database.uri, "0.8.0", upgrades).mode(mode).run().await;
        assert_code(&run, 14);
        let report = run.report.to_string();
        assert!(report.contains(reason) && report.contains("replica set"), "{run}");
        assert_eq!(documents(database).await, before, "{run}");
        assert!(!record(database).await.contains_key("journal"), "{run}");
    }
}

/// All documents but the gate's own.
async fn documents(database: &Database) -> Vec<(String, Vec<RawDocumentBuf>)> {
    let mut documents = dump(database).await;
    documents.remove(METADATA);
    documents.into_iter().collect()
}

/// A list of more than 8 MiB.
fn list() -> Vec<Document> {
    let pad = "y".repeat(2500);
    (0..ENTRIES).map(|i| doc! { "name": i % 10, "pad": &pad }).collect()
}

/// A thing with such a list, among small ones.
async fn with_list(server: &Server) -> Fresh {
    let database = server.database().await;
    fill(&database, "people", (0..10).map(|i| doc! { "_id": i, "name": i })).await;
    let small = |i: i32| doc! { "_id": i, "list": [{ "name": i }], "a": i };
    fill(&database, "things", (0..3).map(small)).await;
    let thing = doc! { "_id": 3, "first": 1, "list": list(), "last": { "x": [1] } };
    fill(&database, "things", [thing]).await;
    fill(&database, "things", (4..7).map(small)).await;
    record_old(&database).await;
    database
}

/// Every entry of every list was pinned, once.
async fn assert_pinned(database: &Fresh, entries: u64) {
    let pinned = vec![
        doc! { "$unwind": "$list" },
        doc! { "$match": { "$expr": { "$eq": ["$list.ref", "$list.name"] } } },
        doc! { "$count": "n" },
    ];
    let things = database.collection::<Document>("things");
    let mut found = things.aggregate(pinned).await.unwrap();
    assert!(found.advance().await.unwrap());
    assert_eq!(found.current().get_i32("n").unwrap() as u64, entries);
    assert_eq!(history(&record(database).await), ["initialise 0.7.0", "upgrade 0.8.0"]);
    assert_eq!(staged(database).await, 0);
    assert_eq!(lock(database).await, None);
}

/// How many documents with old values there are.
async fn staged(database: &Database) -> u64 {
    count(database, METADATA, doc! { "_id.upgrade_gate": PURPOSE }).await
}

fn pin(database: &Fresh) -> Gate {
    scenario(&database.uri, "0.8.0", "0.8.0=pin").unset("GATE_FROM_VERSION")
}

#[tokio::test]
async fn a_large_edit_leaves_what_a_replica_set_leaves() {
    let mut left = Vec::new();
    for server in [standalone().await, Server::shared().await] {
        let database = with_list(server).await;
        // a whole field moves, between others, and one that is there is overwritten
        let long = "y".repeat(9_000_000);
        for (id, b) in [("x", None), ("y", Some("short")), ("z", Some("y"))] {
            let mut thing = doc! { "_id": { "of": id }, "first": 1, "a": &long, "last": [1.0] };
            if let Some(b) = b {
                thing.insert("b", b);
                thing.insert("behind", Bson::Null);
            }
            fill(&database, "things", [thing]).await;
        }
        let upgrades = "0.8.0=move_field,pin";
        if left.is_empty() && !able(&database, upgrades).await {
            return;
        }
        let plan = scenario(&database.uri, "0.8.0", upgrades).mode("plan").run().await;
        assert_code(&plan, 10);
        let run = scenario(&database.uri, "0.8.0", upgrades).run().await;
        assert_code(&run, 0);
        assert_eq!(counted(&run, "0.8.0", "moved"), 9, "{run}");
        assert_eq!(counted(&run, "0.8.0", "resolved"), ENTRIES as u64 + 6, "{run}");
        assert_pinned(&database, ENTRIES as u64 + 6).await;
        left.push(documents(&database).await);
    }
    assert!(left[0] == left[1]);
}

/// The run of an upgrade during which something else happens while the old values are being stored.
async fn upgraded_during<T>(database: &Fresh, something: impl Future<Output = T>) -> Run {
    let fault = Fault::block(database, &["insert"], Duration::from_millis(700), 1).await;
    let running = scenario(&faulty(database), "0.8.0", "0.8.0=pin").spawn();
    fault.met(1).await;
    something.await;
    let run = running.wait().await;
    fault.end().await;
    assert_code(&run, 0);
    run
}

#[tokio::test]
async fn a_change_between_reading_and_a_large_edit_is_kept() {
    let database = with_list(standalone().await).await;
    if !able(&database, "0.8.0=pin").await {
        return;
    }
    let things = database.collection::<Document>("things");
    let changing = async {
        for change in [
            doc! { "$push": { "list": { "name": 7, "the user's": true } } },
            doc! { "$set": { "last.y": "the user's" } },
        ] {
            things.update_one(doc! { "_id": 3 }, change).await.unwrap();
        }
    };
    let run = upgraded_during(&database, changing).await;
    assert_eq!(counted(&run, "0.8.0", "resolved"), ENTRIES as u64 + 7, "{run}");
    assert_pinned(&database, ENTRIES as u64 + 7).await;
    let kept = doc! { "list.the user's": true, "last.y": "the user's" };
    assert_eq!(count(&database, "things", kept).await, 1, "{run}");
}

#[tokio::test]
async fn a_document_that_is_deleted_before_its_large_edit_stays_away() {
    let database = with_list(standalone().await).await;
    if !able(&database, "0.8.0=pin").await {
        return;
    }
    let things = database.collection::<Document>("things");
    let deleting = async { things.delete_one(doc! { "_id": 3 }).await.unwrap() };
    let run = upgraded_during(&database, deleting).await;
    assert_pinned(&database, 6).await;
    assert_eq!(count(&database, "things", doc! {}).await, 6, "{run}");
}

// ---- killed ----

/// The way to the database through a proxy that loses an answer.
async fn through(database: &Fresh, skip: usize, words: &str) -> (Proxy, String) {
    let uri = standalone().await.uri("");
    let (_, port) = uri.trim_end_matches('/').rsplit_once(':').unwrap();
    let port = port.parse().unwrap();
    let proxy = Proxy::after(skip, port, words.as_bytes(), Loss::Silence).await;
    let uri = format!("mongodb://127.0.0.1:{}/{}", proxy.port, database.name());
    (proxy, uri)
}

/// The next run goes on from what a killed one left, and leaves what one run leaves.
async fn assert_goes_on(database: &Fresh) {
    // as if the lease were over
    let past = doc! { "$set": { "expires": mongodb::bson::DateTime::from_millis(0) } };
    let locks = database.collection::<Document>(METADATA);
    locks.update_one(doc! { "_id": "upgrade_lock" }, past).await.unwrap();
    let run = pin(database).run().await;
    assert_code(&run, 0);
    assert_pinned(database, ENTRIES as u64 + 6).await;
    assert_code(&pin(database).mode("check").run().await, 0);
}

#[tokio::test]
async fn a_run_killed_while_it_stores_old_values_is_gone_on_from() {
    for stored in [false, true] {
        let database = with_list(standalone().await).await;
        if !able(&database, "0.8.0=pin").await {
            return;
        }
        // what looks for leftovers names them too
        let (proxy, uri) = through(&database, 1, PURPOSE).await;
        let running = pin(&database).uri(&uri).spawn();
        proxy.met().await;
        if stored {
            let staged = async || (staged(&database).await == 1).then_some(());
            eventually("the old values", staged).await;
        }
        running.signal("KILL");
        running.wait().await;
        let unchanged = doc! { "_id": 3, "list.ref": { "$exists": false } };
        assert_eq!(count(&database, "things", unchanged).await, 1);
        // nobody takes them for a document of the application
        assert_code(&pin(&database).mode("plan").run().await, 10);
        assert_goes_on(&database).await;
    }
}

#[tokio::test]
async fn a_run_killed_in_a_large_edit_or_right_after_it_is_gone_on_from() {
    for made in [false, true] {
        let database = with_list(standalone().await).await;
        if !able(&database, "0.8.0=pin").await {
            return;
        }
        let (proxy, uri) = through(&database, 0, "$merge\0").await;
        let running = pin(&database).uri(&uri).spawn();
        proxy.met().await;
        if made {
            let edited = doc! { "_id": 3, "list.ref": { "$exists": true } };
            let edited =
                async || (count(&database, "things", edited.clone()).await == 1).then_some(());
            eventually("the edit", edited).await;
        }
        running.signal("KILL");
        running.wait().await;
        assert_eq!(staged(&database).await, 1);
        assert_goes_on(&database).await;
    }
}

#[tokio::test]
async fn a_large_edit_whose_answer_is_lost_is_read_again() {
    let database = with_list(standalone().await).await;
    if !able(&database, "0.8.0=pin").await {
        return;
    }
    let close = doc! { "closeConnection": true };
    for commands in [&["insert"][..], &["delete"]] {
        let database = with_list(standalone().await).await;
        // the first deletion is that of leftovers
        let fault = match commands {
            ["delete"] => Fault::after(&database, 1, commands, close.clone()).await,
            _ => Fault::new(&database, commands, close.clone(), 1).await,
        };
        let mut running = scenario(&faulty(&database), "0.8.0", "0.8.0=pin").spawn();
        running.logged("upgrade applied").await;
        fault.end().await;
        let run = running.wait().await;
        assert_code(&run, 0);
        assert_goes_on(&database).await;
    }
}

#[tokio::test]
async fn a_signal_ends_a_large_edit_on_the_server_too() {
    let database = with_list(standalone().await).await;
    if !able(&database, "0.8.0=pin").await {
        return;
    }
    let things = database.collection::<Document>("things");
    let pad = "y".repeat(60);
    let many: Vec<Document> = (0..100_000).map(|i| doc! { "name": i % 10, "p": &pad }).collect();
    let long = doc! { "$set": { "list": many } };
    things.update_one(doc! { "_id": 3 }, long).await.unwrap();
    let running = pin(&database).spawn();
    let staged = async || (staged(&database).await == 1).then_some(());
    eventually("the old values", staged).await;
    let sent = std::time::Instant::now();
    running.signal("TERM");
    let run = running.wait().await;
    println!("ended {:?} after the signal", sent.elapsed());
    assert_code(&run, 22);
    assert_eq!(run.report["unfinished"]["version"], "0.8.0", "{run}");
    assert_eq!(lock(&database).await, None, "{run}");
    eventually("the end of the edit on the server", || merging(&database)).await;
    let run = pin(&database).run().await;
    assert_code(&run, 0);
    assert_pinned(&database, 100_006).await;
}

/// Whether the server has no large edit of the database under way any more.
async fn merging(database: &Database) -> Option<()> {
    let under_way = [
        doc! { "$currentOp": { "allUsers": true, "localOps": true } },
        doc! { "$match": { "ns": { "$regex": format!("^{}[.]", database.name()) }, "active": true } },
    ];
    let mut operations = database.client().database("admin").aggregate(under_way).await.unwrap();
    (!operations.advance().await.unwrap()).then_some(())
}

// ---- what is next to the record ----

fn of_ours(token: impl Into<Bson>) -> Document {
    doc! { "_id": { "upgrade_gate": PURPOSE, "id": token.into() }, "list": [1], "version": "9" }
}

/// Documents that resemble what the gate stores and are somebody's own.
fn of_others() -> Vec<Document> {
    let mut more = of_ours(ObjectId::new());
    more.get_document_mut("_id").unwrap().insert("more", 1);
    vec![
        of_ours("not an ObjectId"),
        of_ours(Bson::Null),
        more,
        doc! { "_id": { "id": ObjectId::new(), "upgrade_gate": PURPOSE } },
        doc! { "_id": { "upgrade_gate": "old values", "id": ObjectId::new() } },
        doc! { "_id": PURPOSE },
        doc! { "_id": "upgrade_gate" },
        doc! { "_id": { "upgrade_gate": PURPOSE } },
    ]
}

#[tokio::test]
async fn leftovers_are_removed_by_the_next_run_and_what_resembles_them_is_left_alone() {
    for server in [standalone().await, Server::shared().await] {
        for mode in ["upgrade", "record"] {
            let database = server.database().await;
            fill(&database, "things", [doc! { "_id": 0, "a": 0 }]).await;
            record_old(&database).await;
            let leftovers = [of_ours(ObjectId::new()), of_ours(ObjectId::from_bytes([0xff; 12]))];
            fill(&database, METADATA, leftovers).await;
            let others = of_others();
            fill(&database, METADATA, others.clone()).await;
            let mut gate = scenario(&database.uri, "0.8.0", "0.8.0=move_field").mode(mode);
            if mode == "record" {
                gate = gate.unset("GATE_FROM_VERSION").set("GATE_RECORD_VERSION", "0.8.0");
                gate = gate.set("GATE_EXPECT_VERSION", "0.7.0");
            }
            assert_code(&gate.run().await, 0);
            let records = database.collection::<Document>(METADATA);
            let own = doc! { "_id": { "$ne": "scenario_schema_version" } };
            let mut left: Vec<String> = Vec::new();
            let mut cursor = records.find(own).await.unwrap();
            while cursor.advance().await.unwrap() {
                left.push(Document::try_from(cursor.current()).unwrap().to_string());
            }
            let mut expected: Vec<String> = others.iter().map(Document::to_string).collect();
            left.sort();
            expected.sort();
            assert_eq!(left, expected);
        }
    }
}

#[tokio::test]
async fn leftovers_are_no_documents_of_the_application() {
    let fresh = |database: &Fresh| {
        let gate = scenario(&database.uri, "0.8.0", "0.8.0=move_field");
        gate.unset("GATE_FROM_VERSION").set("GATE_INITIALISE", "fresh")
    };
    let database = standalone().await.database().await;
    fill(&database, METADATA, [of_ours(ObjectId::new())]).await;
    // a version that is recorded nowhere, for the application's stamp either
    let stamped = fresh(&database).set("SCENARIO_STAMP", format!("{METADATA}/version"));
    assert_code(&stamped.mode("check").run().await, 11);
    assert_code(&fresh(&database).run().await, 0);
    assert_eq!(staged(&database).await, 0);

    for other in of_others() {
        let database = standalone().await.database().await;
        fill(&database, METADATA, [other]).await;
        assert_code(&fresh(&database).run().await, 11);
    }
}

// ---- what the server does not take ----

#[tokio::test]
async fn what_a_standalone_cannot_edit_is_refused_before_any_write() {
    let long = "y".repeat(9_000_000);
    // a collation of the collection's own
    let database = standalone().await.database().await;
    let collation = doc! { "locale": "en", "strength": 2 };
    let create = doc! { "create": "things", "collation": collation };
    database.run_command(create).await.unwrap();
    fill(&database, "things", [doc! { "_id": 0, "a": 1 }, doc! { "_id": 1, "a": &long }]).await;
    record_old(&database).await;
    let reason = if mongod_version() >= (5, 0) { "a collation of its own" } else { "MongoDB 5.0" };
    assert_refused(&database, "0.8.0=move_field", reason).await;
    // an edit of what is small goes on there
    database.collection::<Document>("things").delete_one(doc! { "_id": 1 }).await.unwrap();
    let run = scenario(&database.uri, "0.8.0", "0.8.0=move_field").run().await;
    assert_code(&run, 0);

    let twice = rawdoc! { "x": 1, "long": long.as_str(), "x": 2 };
    for (thing, says) in [
        (rawdoc! { "_id": null, "a": long.as_str() }, ["document null of things", "`_id`"]),
        // what would end the server
        (rawdoc! { "_id": 1, "a": [1, twice] }, ["document 1 of things", "repeats a field"]),
    ] {
        let database = standalone().await.database().await;
        let things = database.collection::<RawDocumentBuf>("things");
        things.insert_one(thing).await.unwrap();
        record_old(&database).await;
        let before = documents(&database).await;
        for mode in ["plan", "upgrade"] {
            let run = scenario(&database.uri, "0.8.0", "0.8.0=move_field").mode(mode).run().await;
            assert_code(&run, 14);
            let message = run.report["message"].as_str().unwrap();
            assert!(says.iter().all(|says| message.contains(says)), "{run}");
            assert_eq!(documents(&database).await, before);
        }
    }
}

#[tokio::test]
async fn fields_that_a_document_repeats_are_all_kept_by_a_large_edit() {
    let long = "y".repeat(9_000_000);
    let mut left = Vec::new();
    for server in [standalone().await, Server::shared().await] {
        let database = server.database().await;
        let mut thing = rawdoc! { "_id": 1, "c": 1, "a": long.as_str(), "c": 2, "d": 3 };
        thing.append(mongodb::bson::raw::cstr!("c"), 4);
        let insert = rawdoc! { "insert": "things", "documents": [thing] };
        database.run_raw_command(insert).await.unwrap();
        record_old(&database).await;
        if left.is_empty() && !able(&database, "0.8.0=move_field").await {
            return;
        }
        let run = scenario(&database.uri, "0.8.0", "0.8.0=move_field").run().await;
        assert_code(&run, 0);
        left.push(documents(&database).await);
    }
    assert!(left[0] == left[1]);
}

#[tokio::test]
async fn what_the_server_refuses_of_a_large_edit_ends_the_run_and_leaves_no_old_values() {
    let unique = doc! { "createIndexes": "things", "indexes": [
        { "key": { "n": 1 }, "name": "by n", "unique": true,
          "partialFilterExpression": { "b": { "$exists": true } } },
    ] };
    let validator = doc! { "collMod": "things", "validator": { "a": { "$exists": true } } };
    let lift = doc! { "collMod": "things", "validator": {} };
    for (setup, says, lift) in [
        (validator, "validator refuses the result", lift),
        (unique, "duplicate key in index by n", doc! { "dropIndexes": "things", "index": "by n" }),
    ] {
        let database = standalone().await.database().await;
        let long = "secret".repeat(1_600_000);
        let things = [doc! { "_id": 0, "a": &long, "n": 1 }, doc! { "_id": 1, "b": 1, "n": 1 }];
        fill(&database, "things", things).await;
        record_old(&database).await;
        if !able(&database, "0.8.0=move_field").await {
            return;
        }
        database.run_command(setup).await.unwrap();
        let gate = scenario(&database.uri, "0.8.0", "0.8.0=move_field");
        let run = gate.run().await;
        assert_code(&run, 14);
        let message = run.report["message"].as_str().unwrap();
        assert!(message.contains("document 0 of things"), "{run}");
        assert!(message.contains(says) && !run.to_string().contains("secret"), "{run}");
        assert_eq!(staged(&database).await, 0, "{run}");
        let old = doc! { "_id": 0, "a": { "$exists": true }, "b": { "$exists": false } };
        assert_eq!(count(&database, "things", old).await, 1);
        database.run_command(lift).await.unwrap();
        assert_code(&gate.run().await, 0);
        assert_eq!(count(&database, "things", doc! { "b": { "$exists": true } }).await, 2);
    }
}

#[tokio::test]
async fn a_large_edit_needs_no_privilege_that_others_do_not() {
    let server = Server::standalone_with_auth().await;
    let database = server.database().await;
    let name = database.name();
    fill(&database, "things", [doc! { "_id": 0, "a": "y".repeat(9_000_000) }]).await;
    record_old(&database).await;
    let actions = |collection: &str, actions: &[&str]| {
        doc! { "resource": { "db": name, "collection": collection }, "actions": actions }
    };
    let privileges = [
        actions(METADATA, &["find", "insert", "update", "remove"]),
        actions("things", &["find", "update"]),
    ];
    let create = doc! { "createRole": "upgrade", "privileges": privileges.to_vec(), "roles": [] };
    database.run_command(create).await.unwrap();
    let uri = server.uri_with_roles(name, &["upgrade"]).await;
    let run: Run = scenario(&uri, "0.8.0", "0.8.0=move_field").run().await;
    assert_code(&run, if mongod_version() >= (5, 0) { 0 } else { 14 });
    let before = db_hash(&database).await;
    assert_code(
        &scenario(&uri, "0.8.0", "0.8.0=move_field").mode("check").run().await,
        if mongod_version() >= (5, 0) { 0 } else { 10 },
    );
    assert_eq!(db_hash(&database).await, before);
}
