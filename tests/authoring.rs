//! What authors of upgrades write with, on a replica set and on a standalone: seeds, deletions, the start
//! time of a run, upgrades without steps, conditions, look-ups by paths, and the handle of a transaction.

mod apps;
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use apps::{METADATA, count, fill};
use mongodb::bson::{Bson, DateTime, Document, RawArrayBuf, RawDocumentBuf, doc, rawdoc};
use mongodb::options::{Collation, CollationStrength};
use mongodb::{Client, Database};
use serde_json::{Value, json};
use support::{Server, db_hash, dump};
use tokio::sync::OnceCell;
use upgrade_gate::harness::Harness;
use upgrade_gate::{
    ActionType, Find, Found, Gate, Keys, Lookup, Report, Seed, Settings, Step, StepError,
    Transaction, Transform, Upgrade, Version,
};

async fn standalone() -> &'static Server {
    static SERVER: OnceCell<Server> = OnceCell::const_new();
    SERVER.get_or_init(Server::standalone).await
}

async fn both() -> [&'static Server; 2] {
    [Server::shared().await, standalone().await]
}

/// A gate whose version 1.1.0 has these steps.
fn gate(steps: impl IntoIterator<Item = Step>) -> Gate {
    let upgrade = Upgrade::new("1.1.0", "an upgrade");
    Gate::new("app", "1.1.0").upgrades([steps.into_iter().fold(upgrade, Upgrade::step)])
}

async fn run_with(gate: &Gate, mode: &str, uri: &str, batch: &str) -> Report {
    let settings = [
        ("GATE_MONGODB_URI", uri),
        ("GATE_MODE", mode),
        ("GATE_FROM_VERSION", "1.0.0"),
        ("GATE_BATCH_DOCUMENTS", batch),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let code = Version::parse("9.0.0").unwrap();
    gate.run(&Settings::from_vars(settings, &code).unwrap()).await
}

async fn run(gate: &Gate, mode: &str, uri: &str) -> Report {
    run_with(gate, mode, uri, "1000").await
}

#[track_caller]
fn assert_code(report: &Report, code: u8) {
    assert_eq!(report.exit_code, code, "{}", report.to_json());
}

/// What each upgrade of a report did.
fn actions(report: &Report) -> Vec<Value> {
    let actions = report.upgrades.iter().map(|upgrade| json!(upgrade.actions));
    actions.collect()
}

/// Plans, sees that nothing was written, upgrades, and sees that the plan told what was done.
async fn planned_and_done(gate: &Gate, database: &support::Fresh, batch: &str) -> Report {
    let before = db_hash(database).await;
    let plan = run_with(gate, "plan", &database.uri, batch).await;
    assert_code(&plan, 10);
    assert_eq!(db_hash(database).await, before, "the plan wrote");
    let done = run_with(gate, "upgrade", &database.uri, batch).await;
    assert_code(&done, 0);
    let exact = plan.upgrades.iter().all(|upgrade| upgrade.exact == Some(true));
    assert!(exact, "{}", plan.to_json());
    assert_eq!(actions(&plan), actions(&done));
    assert_code(&run(gate, "check", &database.uri).await, 0);
    done
}

/// All documents but the gate's own.
async fn documents(database: &Database) -> BTreeMap<String, Vec<RawDocumentBuf>> {
    let mut documents = dump(database).await;
    documents.remove(METADATA);
    documents
}

async fn all(database: &Database, collection: &str) -> Vec<Document> {
    let mut cursor = database
        .collection::<Document>(collection)
        .find(doc! {})
        .sort(doc! { "_id": 1 })
        .await
        .unwrap();
    let mut documents = Vec::new();
    while cursor.advance().await.unwrap() {
        documents.push(cursor.deserialize_current().unwrap());
    }
    documents
}

fn survives(gate: Gate, uri: &str) -> Harness {
    Harness::new(gate, uri)
        .set("GATE_FROM_VERSION", "1.0.0")
        .set("GATE_BATCH_DOCUMENTS", "2")
        .boundaries(25)
        .instants(4)
        .seed(20_261_127)
}

// ---- seeds ----

fn roles() -> Seed {
    let roles = ["admin", "guest", "owner", "reader", "writer"];
    Seed::new("roles", roles.map(|id| doc! { "_id": id, "rights": [id] })).report("Add {n} role(s)")
}

#[tokio::test]
async fn a_seed_inserts_what_is_missing_and_leaves_what_is_there() {
    for server in both().await {
        for batch in ["1000", "2"] {
            let database = server.database().await;
            fill(&database, "roles", [doc! { "_id": "guest", "rights": "mine" }]).await;
            let done = planned_and_done(&gate([roles().into()]), &database, batch).await;
            let expected = json!([[{
                "description": "Add 4 role(s)", "collection": "roles", "action_type": "insert",
                "details": { "inserted": 4 },
            }]]);
            assert_eq!(json!(actions(&done)), expected);
            let roles = all(&database, "roles").await;
            assert_eq!(roles.len(), 5);
            assert_eq!(roles[1], doc! { "_id": "guest", "rights": "mine" });
            assert_eq!(roles[0], doc! { "_id": "admin", "rights": ["admin"] });
        }
    }
}

#[tokio::test]
async fn a_seed_with_nothing_to_do_reports_nothing() {
    for server in both().await {
        let database = server.database().await;
        fill(&database, "roles", all_roles()).await;
        let before = documents(&database).await;
        let done = planned_and_done(&gate([roles().exact().into()]), &database, "2").await;
        assert_eq!(json!(actions(&done))[0][0]["details"], json!({ "inserted": 0 }));
        assert_eq!(documents(&database).await, before);
    }
}

fn all_roles() -> Vec<Document> {
    ["admin", "guest", "owner", "reader", "writer"]
        .map(|id| doc! { "_id": id, "rights": [id] })
        .to_vec()
}

#[tokio::test]
async fn an_exact_seed_refuses_other_contents_before_the_first_write() {
    let marked = Transform::new("things", |_, _, edits| {
        edits.set("marked", true);
        Ok(())
    });
    let marked = marked.filter(doc! { "marked": { "$exists": false } }).convergent();
    for server in both().await {
        let database = server.database().await;
        fill(&database, "roles", [doc! { "_id": "writer", "rights": ["secret"] }]).await;
        fill(&database, "things", [doc! { "_id": 1 }]).await;
        let gate = gate([marked.clone().into(), roles().exact().into()]);
        let before = documents(&database).await;
        for mode in ["plan", "upgrade"] {
            let refused = run_with(&gate, mode, &database.uri, "2").await;
            assert_code(&refused, 14);
            assert_eq!(documents(&database).await, before);
            let message = &refused.message;
            assert!(message.contains("document \"writer\" of roles"), "{message}");
            assert!(!refused.to_json().contains("secret"), "{message}");
        }
        // once it is right, the same upgrade goes through
        let roles = database.collection::<Document>("roles");
        roles.delete_one(doc! { "_id": "writer" }).await.unwrap();
        assert_code(&run(&gate, "upgrade", &database.uri).await, 0);
        assert_eq!(all(&database, "roles").await, all_roles());
    }
}

#[tokio::test]
async fn a_document_that_the_server_takes_for_the_same_id_is_there() {
    let seed = Seed::new("ids", [doc! { "_id": 1 }, doc! { "_id": "a" }, doc! { "_id": "b" }]);
    for server in both().await {
        let database = server.database().await;
        let ignoring_case =
            Collation::builder().locale("en").strength(CollationStrength::Secondary).build();
        database.create_collection("ids").collation(ignoring_case).await.unwrap();
        fill(&database, "ids", [doc! { "_id": 1.0 }, doc! { "_id": "A" }]).await;
        let done = planned_and_done(&gate([seed.clone().into()]), &database, "1000").await;
        assert_eq!(json!(actions(&done))[0][0]["details"], json!({ "inserted": 1 }));
        assert_eq!(count(&database, "ids", doc! {}).await, 3);
    }
}

#[tokio::test]
async fn a_seed_of_what_an_earlier_step_adds_inserts_only_the_rest() {
    let copy = Transform::new("things", |thing, _, edits| {
        if let (Some(id), None) = (thing.get("_id")?, thing.get("copied")?) {
            edits.insert("roles", rawdoc! { "_id": id });
            edits.set("copied", true);
            edits.count("copied", 1);
        }
        Ok(())
    });
    let copy = copy
        .filter(doc! { "copied": { "$exists": false } })
        .inserts_into("roles")
        .action(ActionType::Insert, "copied", "Copy {n}")
        .convergent();
    let gate = gate([copy.into(), roles().into()]);
    let fill_things = async |database: &Database| {
        fill(database, "things", [doc! { "_id": "admin" }, doc! { "_id": "other" }]).await;
    };
    for (server, exact) in both().await.into_iter().zip([true, false]) {
        let database = server.database().await;
        fill_things(&database).await;
        let plan = run(&gate, "plan", &database.uri).await;
        assert_eq!(plan.upgrades[0].exact, Some(exact), "{}", plan.to_json());
        let done = run(&gate, "upgrade", &database.uri).await;
        assert_code(&done, 0);
        assert!(!exact || actions(&plan) == actions(&done));
        assert_eq!(json!(actions(&done))[0][1]["details"], json!({ "inserted": 4 }));
        assert_eq!(count(&database, "roles", doc! {}).await, 6);
    }
}

#[tokio::test]
async fn seeds_survive_kills_on_both_kinds_of_server() {
    for server in both().await {
        let harness = survives(gate([roles().exact().into()]), &server.uri(""));
        let survived = harness.run(async |database| {
            fill(database, "roles", [doc! { "_id": "guest", "rights": ["guest"] }]).await;
            Ok(())
        });
        let survived = survived.await.unwrap();
        assert!(survived.kills > 10, "{survived:?}");
    }
}

// ---- deletions ----

/// Deletes things without a value, and remembers each in another collection.
fn delete_empty() -> Transform {
    Transform::new("things", |thing, _, edits| {
        if let (None, Some(id)) = (thing.get("value")?, thing.get("_id")?) {
            edits.insert("deleted", rawdoc! { "_id": id });
            edits.delete();
            edits.count("deleted", 1);
        }
        Ok(())
    })
    .filter(doc! { "value": { "$exists": false } })
    .inserts_into("deleted")
    .deletes()
    .action(ActionType::Delete, "deleted", "Delete {n} empty thing(s)")
    .convergent()
}

fn some_empty() -> impl Iterator<Item = Document> {
    (0..9).map(|i| match i % 3 {
        0 => doc! { "_id": i, "note": i },
        _ => doc! { "_id": i, "value": i },
    })
}

#[tokio::test]
async fn documents_are_deleted_as_planned_whole_or_in_batches() {
    for server in both().await {
        for (batch, step) in [
            ("1000", delete_empty()),
            ("2", delete_empty()),
            ("2", delete_empty().fields(["value"])),
        ] {
            let database = server.database().await;
            fill(&database, "things", some_empty()).await;
            let done = planned_and_done(&gate([step.into()]), &database, batch).await;
            assert_eq!(json!(actions(&done))[0][0]["details"], json!({ "deleted": 3 }));
            assert_eq!(count(&database, "things", doc! {}).await, 6);
            assert_eq!(count(&database, "things", doc! { "value": { "$exists": true } }).await, 6);
            assert_eq!(count(&database, "deleted", doc! {}).await, 3);
        }
    }
}

#[tokio::test]
async fn a_document_that_changes_meanwhile_is_not_deleted() {
    for server in both().await {
        for narrow in [false, true] {
            let database = server.database().await;
            fill(&database, "things", some_empty()).await;
            let (uri, changed) = (database.uri.clone(), Arc::new(AtomicBool::new(false)));
            let writes = Arc::new(AtomicBool::new(false));
            let go = writes.clone();
            let step = Transform::new("things", move |thing, _, edits| {
                if thing.get("value")?.is_none() {
                    // just after it was read to be deleted, a user fills it
                    if go.load(Ordering::SeqCst)
                        && thing.get_i32("_id").is_ok_and(|id| id == 3)
                        && !changed.swap(true, Ordering::SeqCst)
                    {
                        let uri = uri.clone();
                        std::thread::spawn(move || set_value(&uri)).join().unwrap();
                    }
                    edits.delete();
                }
                Ok(())
            });
            let step = step.filter(doc! { "value": { "$exists": false } }).deletes().convergent();
            let step = if narrow { step.fields(["value", "note"]) } else { step };
            let gate = gate([step.into()]);
            writes.store(true, Ordering::SeqCst);
            assert_code(&run_with(&gate, "upgrade", &database.uri, "4").await, 0);
            let left = all(&database, "things").await;
            let ids: Vec<i32> = left.iter().map(|thing| thing.get_i32("_id").unwrap()).collect();
            assert_eq!(ids, [1, 2, 3, 4, 5, 7, 8]);
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn set_value(uri: &str) {
    let database = Client::with_uri_str(uri).await.unwrap().default_database().unwrap();
    let things = database.collection::<Document>("things");
    things.update_one(doc! { "_id": 3 }, doc! { "$set": { "value": "a user's" } }).await.unwrap();
}

#[tokio::test]
async fn a_deletion_that_contradicts_itself_or_its_step_is_refused_before_any_write() {
    type Wrong = fn(
        &upgrade_gate::bson::RawDocument,
        &Found,
        &mut upgrade_gate::Edits,
    ) -> Result<(), StepError>;
    let cases: [(Wrong, bool, &str); 3] = [
        (
            |_, _, edits| {
                edits.delete();
                Ok(())
            },
            false,
            "deletes()",
        ),
        (
            |_, _, edits| {
                edits.set("note", 1);
                edits.delete();
                Ok(())
            },
            true,
            "both edited and deleted",
        ),
        (
            |thing, _, edits| {
                edits.delete();
                edits.insert("things", thing.to_owned());
                Ok(())
            },
            true,
            "both deleted and added",
        ),
    ];
    for (edit, deletes, what) in cases {
        for server in both().await {
            let database = server.database().await;
            fill(&database, "things", some_empty()).await;
            let step = Transform::new("things", edit).inserts_into("things").convergent();
            let step = if deletes { step.deletes() } else { step };
            let before = documents(&database).await;
            for mode in ["plan", "upgrade"] {
                let refused = run(&gate([step.clone().into()]), mode, &database.uri).await;
                assert_code(&refused, 14);
                assert!(refused.message.contains(what), "{}", refused.message);
                assert_eq!(documents(&database).await, before);
            }
        }
    }
}

#[tokio::test]
async fn documents_can_change_their_ids_in_a_collection_with_a_unique_key() {
    let step = Transform::new("things", |thing, _, edits| {
        if let (Ok(id), Some(key)) = (thing.get_i32("_id"), thing.get("key")?) {
            edits.delete();
            edits.insert("things", rawdoc! { "_id": format!("thing {id}"), "key": key });
            edits.count("renamed", 1);
        }
        Ok(())
    });
    let step = step
        .filter(doc! { "_id": { "$type": "number" } })
        .inserts_into("things")
        .deletes()
        .action(ActionType::Update, "renamed", "Rename {n}");
    for batch in ["1000", "2"] {
        let database = Server::shared().await.database().await;
        let unique = doc! { "createIndexes": "things", "indexes": [
            { "key": { "key": 1 }, "name": "key", "unique": true },
        ] };
        database.run_command(unique).await.unwrap();
        fill(&database, "things", (0..5).map(|i| doc! { "_id": i, "key": i })).await;
        assert_code(
            &run_with(&gate([step.clone().into()]), "upgrade", &database.uri, batch).await,
            0,
        );
        let expected: Vec<_> =
            (0..5).map(|i| doc! { "_id": format!("thing {i}"), "key": i }).collect();
        assert_eq!(all(&database, "things").await, expected);
    }
}

#[tokio::test]
async fn deletions_survive_kills_on_both_kinds_of_server() {
    for server in both().await {
        let harness = survives(gate([delete_empty().into()]), &server.uri(""));
        let survived = harness.run(async |database| {
            fill(database, "things", some_empty()).await;
            Ok(())
        });
        assert!(survived.await.unwrap().kills > 10);
    }
}

// ---- the start of a run ----

#[tokio::test]
async fn every_step_retry_and_resumed_run_sees_one_start_time() {
    for server in both().await {
        let database = server.database().await;
        fill(&database, "things", (0..9).map(|i| doc! { "_id": i })).await;
        let fixed = Arc::new(AtomicBool::new(false));
        let now = fixed.clone();
        let date = Transform::new("things", move |thing, _, edits| {
            edits.set("dated", edits.started());
            // found out by the server alone, so that a journal with some of the documents is left
            let key = if now.load(Ordering::SeqCst) {
                100 + thing.get_i32("_id").unwrap_or(0)
            } else {
                1
            };
            edits.set("key", key);
            Ok(())
        });
        let date = date.filter(doc! { "dated": { "$exists": false } });
        let dated =
            Seed::computed("seeded", |started| Ok(vec![doc! { "_id": 1, "dated": started }]));
        let unique = doc! { "createIndexes": "things", "indexes": [
            { "key": { "key": 1 }, "name": "key", "unique": true,
              "partialFilterExpression": { "key": { "$exists": true } } },
        ] };
        database.run_command(unique).await.unwrap();
        let gate = gate([date.convergent().into(), dated.into()]);
        let before = DateTime::now();
        let failed = run_with(&gate, "upgrade", &database.uri, "1").await;
        let after = DateTime::now();
        assert_code(&failed, 14);
        assert_eq!(count(&database, "things", doc! { "dated": { "$exists": true } }).await, 1);
        fixed.store(true, Ordering::SeqCst);
        let done = run_with(&gate, "upgrade", &database.uri, "1").await;
        assert_code(&done, 0);
        let mut times: Vec<DateTime> = all(&database, "things")
            .await
            .iter()
            .chain(&all(&database, "seeded").await)
            .map(|thing| *thing.get_datetime("dated").unwrap())
            .collect();
        assert_eq!(times.len(), 10);
        times.dedup();
        let [time] = times.as_slice() else { panic!("{times:?}") };
        assert!(before <= *time && *time <= after, "{before} {time} {after}");
    }
}

#[tokio::test]
async fn the_steps_of_one_transaction_see_one_start_time() {
    let database = Server::shared().await.database().await;
    fill(&database, "things", (0..3).map(|i| doc! { "_id": i })).await;
    let date = Transform::new("things", |_, _, edits| {
        edits.set("dated", edits.started());
        Ok(())
    });
    let date = date.filter(doc! { "dated": { "$exists": false } });
    let transaction = Transaction::new("date", ["dates"], |handle| {
        Box::pin(async move {
            let date = doc! { "$setOnInsert": { "dated": handle.started() } };
            handle.upsert("dates", doc! { "_id": 1 }, date).await?;
            Ok(vec![])
        })
    });
    let gate = gate([date.into(), transaction.into()]);
    assert_code(&run(&gate, "upgrade", &database.uri).await, 0);
    let mut times: Vec<DateTime> = all(&database, "things")
        .await
        .iter()
        .chain(&all(&database, "dates").await)
        .map(|thing| *thing.get_datetime("dated").unwrap())
        .collect();
    assert_eq!(times.len(), 4);
    times.dedup();
    assert_eq!(times.len(), 1);
}

// ---- upgrades without steps ----

#[tokio::test]
async fn an_upgrade_without_steps_closes_the_database_to_older_code() {
    for server in both().await {
        let database = server.database().await;
        fill(&database, "things", [doc! { "_id": 1 }]).await;
        let gate = gate([]);
        let before = documents(&database).await;
        let done = planned_and_done(&gate, &database, "1000").await;
        assert_eq!(json!(actions(&done)), json!([[]]));
        assert_eq!(done.to.as_deref(), Some("1.1.0"));
        assert_eq!(documents(&database).await, before);
        let older = Gate::new("app", "1.0.1");
        assert_code(&run(&older, "check", &database.uri).await, 12);
        // the twin: a stamp alone closes nothing
        let database = server.database().await;
        fill(&database, "things", [doc! { "_id": 1 }]).await;
        let stamped = Gate::new("app", "1.1.0").upgrades([Upgrade::new("1.0.0", "earlier")]);
        assert_code(&run(&stamped, "upgrade", &database.uri).await, 0);
        assert_code(&run(&Gate::new("app", "1.0.1"), "check", &database.uri).await, 0);
    }
}

#[tokio::test]
async fn an_upgrade_without_steps_survives_kills_and_keeps_its_place_in_a_chain() {
    let chain = || {
        Gate::new("app", "1.3.0").upgrades([
            Upgrade::new("1.1.0", "write references"),
            Upgrade::new("1.2.0", "delete").step(delete_empty()),
            Upgrade::new("1.3.0", "write more references"),
        ])
    };
    for server in both().await {
        let harness = survives(chain(), &server.uri("")).boundaries(12).instants(2);
        let survived = harness.run(async |database| {
            fill(database, "things", some_empty()).await;
            Ok(())
        });
        assert!(survived.await.unwrap().kills > 5);
        let database = server.database().await;
        fill(&database, "things", some_empty()).await;
        let done = planned_and_done(&chain(), &database, "2").await;
        let versions: Vec<&str> = done.upgrades.iter().map(|u| u.version.as_str()).collect();
        assert_eq!(versions, ["1.1.0", "1.2.0", "1.3.0"]);
    }
}

// ---- the handle ----

#[tokio::test]
async fn a_handle_upserts_and_reads_sorted_limited_and_in_part() {
    let step = Transaction::new("order", ["things", "order"], |handle| {
        Box::pin(async move {
            let find = Find::new().sort(doc! { "n": -1 }).limit(2).projection(doc! { "n": 1 });
            let things = handle.find_with("things", doc! {}, find).await?;
            let none = handle.find_with("things", doc! {}, Find::new().limit(0)).await?;
            assert!(none.is_empty());
            let things: Vec<Bson> =
                things.iter().map(|t| Document::try_from(t).unwrap().into()).collect();
            for inserted in [1, 0] {
                let changed = handle
                    .upsert("order", doc! { "_id": 1 }, doc! { "$set": { "first": &things } })
                    .await?;
                assert_eq!(changed, inserted);
            }
            Ok(vec![])
        })
    });
    let database = Server::shared().await.database().await;
    fill(&database, "things", (0..5).map(|i| doc! { "_id": i, "n": i, "x": "x" })).await;
    assert_code(&run(&gate([step.into()]), "upgrade", &database.uri).await, 0);
    let first = vec![doc! { "_id": 4, "n": 4 }, doc! { "_id": 3, "n": 3 }];
    assert_eq!(all(&database, "order").await, [doc! { "_id": 1, "first": first }]);
}

// ---- look-ups by paths ----

#[tokio::test]
async fn documents_are_looked_up_by_a_path_through_documents_and_arrays() {
    let lookup = || {
        Lookup::new("books", "books", "authors.name", |thing, keys: &mut Keys| {
            if let Ok(Some(author)) = thing.get("author") {
                keys.add(author);
            }
        })
    };
    let step = |lookup: Lookup| {
        Transform::new("things", |thing, found: &Found, edits| {
            let Some(author) = thing.get("author")? else { return Ok(()) };
            let mut books = RawArrayBuf::new();
            for book in found.all("books", author)? {
                if let Some(id) = book.get("_id")? {
                    books.push(id);
                }
            }
            edits.set("books", books);
            Ok(())
        })
        .filter(doc! { "books": { "$exists": false } })
        .lookup(lookup)
        .convergent()
    };
    for server in both().await {
        for lookup in [lookup(), lookup().fields(["title"]), lookup().fields(["_id", "authors"])] {
            let database = server.database().await;
            fill(
                &database,
                "things",
                ["a", "b", "c"].map(|author| doc! { "_id": author, "author": author }),
            )
            .await;
            fill(
                &database,
                "books",
                [
                    doc! { "_id": 1, "authors": { "name": "a" } },
                    doc! { "_id": 2, "authors": [{ "name": "a" }, { "name": "b" }] },
                    doc! { "_id": 3, "authors": "a" },
                ],
            )
            .await;
            assert_code(&run(&gate([step(lookup).into()]), "upgrade", &database.uri).await, 0);
            let books: Vec<Bson> = all(&database, "things")
                .await
                .iter()
                .map(|t| t.get("books").unwrap().clone())
                .collect();
            let expected = [vec![1, 2], vec![2], vec![]];
            assert_eq!(books, expected.map(Bson::from));
        }
    }
}
