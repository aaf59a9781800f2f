//! Conditions that ask for uniqueness and for existence, judged as the server's own unique indexes judge.

mod apps;
mod support;

use apps::fill;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::{Collation, CollationStrength};
use support::{Fresh, Server, db_hash};
use upgrade_gate::{Command, Condition, Gate, Report, Settings, Step, Upgrade, Version};

/// A gate whose version 1.1.0 has this condition and drops a collection.
fn gate(condition: Condition) -> Gate {
    let upgrade = Upgrade::new("1.1.0", "an upgrade").condition(condition);
    Gate::new("app", "1.1.0").upgrades([upgrade.step(Command::drop_collection("gone"))])
}

async fn run(gate: &Gate, database: &Fresh, more: &[(&str, &str)]) -> Report {
    let settings = [("GATE_MONGODB_URI", &*database.uri), ("GATE_FROM_VERSION", "1.0.0")];
    let settings =
        settings.iter().chain(more).map(|(name, value)| (name.to_string(), value.to_string()));
    let code = Version::parse("9.0.0").unwrap();
    gate.run(&Settings::from_vars(settings, &code).unwrap()).await
}

async fn plan(condition: Condition, database: &Fresh) -> Report {
    run(&gate(condition), database, &[("GATE_MODE", "plan")]).await
}

async fn with_things(things: impl IntoIterator<Item = Document>) -> Fresh {
    let database = Server::shared().await.database().await;
    fill(&database, "other", [doc! { "_id": 1 }]).await;
    let things: Vec<Document> = things.into_iter().collect();
    if !things.is_empty() {
        fill(&database, "things", things).await;
    }
    database
}

fn unique(fields: &[&'static str]) -> Condition {
    Condition::unique("things", fields.to_vec(), doc! {}, "no two share")
}

/// Every pair of these documents, and each alone.
fn contents() -> Vec<Document> {
    vec![
        doc! {},
        doc! { "a": Bson::Null },
        doc! { "a": 1 },
        doc! { "a": 1.0 },
        doc! { "a": 2_i64 },
        doc! { "a": "x" },
        doc! { "a": "X" },
        doc! { "a": [] },
        doc! { "a": [1] },
        doc! { "a": [1, 1] },
        doc! { "a": [2, "x"] },
        doc! { "a": [[]] },
        doc! { "a": [[1, 2]] },
        doc! { "a": [Bson::Null] },
        doc! { "a": {} },
        doc! { "a": { "b": 1 } },
        doc! { "a": { "b": [] } },
        doc! { "a": { "b": [1, 2] } },
        doc! { "a": [{ "b": 1 }, { "c": 1 }] },
        doc! { "a": [{ "b": 2 }, { "b": 2 }] },
        doc! { "a": [{ "b": [] }] },
        doc! { "a": [{ "b": [1] }, 7] },
        doc! { "a": [[{ "b": 1 }]] },
        doc! { "a": { "b": 1, "c": 2 } },
        doc! { "a": [{ "b": 1, "c": 1 }, { "b": 2, "c": 2 }] },
        doc! { "a": [{ "b": 1, "c": 2 }] },
    ]
}

#[tokio::test]
async fn uniqueness_is_what_a_unique_index_over_the_same_fields_judges() {
    let mut judged = [0, 0];
    for (fields, range) in
        [(&["a"][..], 0..14), (&["a.b"], 12..23), (&["a.b", "a.c"], 14..26), (&["z", "a"], 3..11)]
    {
        let database = Server::shared().await.database().await;
        fill(&database, "other", [doc! { "_id": 1 }]).await;
        let things = database.collection::<Document>("things");
        let contents = &contents()[range];
        for (at, first) in contents.iter().enumerate() {
            for second in &contents[at..] {
                let pair = [(0, first), (1, second)].map(|(id, content)| {
                    let mut thing = doc! { "_id": id };
                    thing.extend(content.clone());
                    thing
                });
                things.drop().await.unwrap();
                things.insert_many(&pair).await.unwrap();
                let report = plan(unique(fields), &database).await;
                let keys: Document =
                    fields.iter().map(|f| (f.to_string(), Bson::Int32(1))).collect();
                let index = doc! { "createIndexes": "things", "indexes": [
                    { "key": keys, "name": "unique", "unique": true },
                ] };
                let holds = match database.run_command(index).await {
                    Ok(_) => true,
                    Err(error) => {
                        assert!(error.to_string().contains("E11000"), "{error}");
                        false
                    }
                };
                judged[usize::from(holds)] += 1;
                let expected = if holds { 10 } else { 13 };
                assert_eq!(report.exit_code, expected, "{fields:?} {pair:?} {}", report.message);
            }
        }
    }
    assert!(judged.iter().all(|n| *n > 30), "{judged:?}");
}

#[tokio::test]
async fn uniqueness_is_judged_by_the_collections_collation_and_among_what_matches() {
    let database = with_things([]).await;
    let ignoring_case =
        Collation::builder().locale("en").strength(CollationStrength::Secondary).build();
    database.create_collection("things").collation(ignoring_case).await.unwrap();
    fill(
        &database,
        "things",
        [doc! { "_id": 1, "a": "x" }, doc! { "_id": 2, "a": "X", "old": true }],
    )
    .await;
    let report = plan(unique(&["a"]), &database).await;
    assert_eq!(report.exit_code, 13, "{}", report.message);
    assert!(report.message.contains("_id 1 and 2"), "{}", report.message);
    let matching = doc! { "old": { "$exists": false } };
    let condition = Condition::unique("things", ["a"], matching, "no two new ones share");
    assert_eq!(plan(condition, &database).await.exit_code, 10);
}

#[tokio::test]
async fn a_failed_condition_names_up_to_ten_documents_and_nothing_of_their_contents() {
    let things = (0..30).map(|i| doc! { "_id": i, "a": format!("secret {}", i / 2) });
    let database = with_things(things).await;
    let before = db_hash(&database).await;
    let report = plan(unique(&["a"]), &database).await;
    assert_eq!(report.exit_code, 13);
    let expected = "in things, documents share a: _id 0 and 1; 2 and 3; 4 and 5; 6 and 7; 8 and 9, and \
                    perhaps others";
    assert!(report.message.contains(expected), "{}", report.message);
    assert!(!report.to_json().contains("secret"));

    let none = Condition::no_document("things", doc! { "a": { "$exists": true } }, "no a");
    let report = plan(none, &database).await;
    assert_eq!(report.exit_code, 13);
    let expected =
        "30 documents in things are in the way, with _id 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …";
    assert!(report.message.contains(expected), "{}", report.message);
    assert!(!report.to_json().contains("secret"));
    assert_eq!(db_hash(&database).await, before);
}

#[tokio::test]
async fn a_document_must_exist_where_a_condition_says_so() {
    let some = || Condition::some_document("things", doc! { "role": "admin" }, "there is an admin");
    let database = with_things([doc! { "_id": 1, "role": "guest" }]).await;
    let report = plan(some(), &database).await;
    assert_eq!(report.exit_code, 13, "{}", report.message);
    assert!(report.message.contains("no document in things is as it asks"), "{}", report.message);
    let report = run(&gate(some()), &database, &[]).await;
    assert_eq!(report.exit_code, 13);
    assert!(report.message.contains("nothing was written"), "{}", report.message);
    let missing = Condition::some_document("nowhere", doc! {}, "there is anything");
    let report = plan(missing, &database).await;
    assert!(report.message.contains("nowhere holds no document"), "{}", report.message);
    // skippable only where it says so
    let skip = [("GATE_SKIP_CONDITIONS", "true")];
    assert_eq!(run(&gate(some()), &database, &skip).await.exit_code, 13);
    assert_eq!(run(&gate(some().skippable()), &database, &skip).await.exit_code, 0);

    let database = with_things([doc! { "_id": 1, "role": "admin" }]).await;
    assert_eq!(run(&gate(some()), &database, &[]).await.exit_code, 0);
}

#[test]
fn fields_that_no_index_has_are_a_mistake_of_the_table() {
    for fields in [&[][..], &[""], &["a."], &["$a"], &["a.0"]] {
        let checked = gate(unique(fields)).check();
        assert!(checked.unwrap_err().message.contains("no two share"), "{fields:?}");
    }
    gate(unique(&["a", "b.c"])).check().unwrap();
}

// ---- options of collections and indexes ----

async fn options(database: &Fresh) -> Document {
    let list = doc! { "listCollections": 1, "filter": { "name": "things" } };
    let mut cursor = database.run_cursor_command(list).await.unwrap();
    assert!(cursor.advance().await.unwrap());
    cursor.deserialize_current().unwrap().get_document("options").unwrap().clone()
}

fn commands(commands: impl IntoIterator<Item = Step>) -> Gate {
    let upgrade = commands.into_iter().fold(Upgrade::new("1.1.0", "options"), Upgrade::step);
    Gate::new("app", "1.1.0").upgrades([upgrade])
}

#[tokio::test]
async fn options_of_a_collection_and_an_index_are_changed_once_and_found_done() {
    let standalone = Server::standalone().await;
    for server in [Server::shared().await, &standalone] {
        let database = server.database().await;
        fill(&database, "things", [doc! { "_id": 1 }]).await;
        let gate = commands([
            Command::create_index("things", "age", doc! { "at": 1 }).into(),
            Command::set_options(
                "things",
                doc! { "validationLevel": "moderate", "validationAction": "warn" },
            )
            .into(),
            Command::modify_index(
                "things",
                "age",
                doc! { "expireAfterSeconds": 3600, "hidden": true },
            )
            .into(),
        ]);
        let plan = run(&gate, &database, &[("GATE_MODE", "plan")]).await;
        assert_eq!(plan.exit_code, 10, "{}", plan.to_json());
        let done = run(&gate, &database, &[]).await;
        assert_eq!(done.exit_code, 0, "{}", done.to_json());
        assert_eq!(done.upgrades[0].actions.len(), 3, "{}", done.to_json());
        let stored = options(&database).await;
        assert_eq!(stored.get_str("validationLevel").unwrap(), "moderate");
        assert_eq!(stored.get_str("validationAction").unwrap(), "warn");
        let mut indexes = database.collection::<Document>("things").list_indexes().await.unwrap();
        let mut found = false;
        while indexes.advance().await.unwrap() {
            let index = Document::try_from(indexes.current()).unwrap();
            if index.get_str("name").unwrap() == "age" {
                found = true;
                assert!(index.get_bool("hidden").unwrap());
                assert_eq!(index.get("expireAfterSeconds").unwrap().as_i32().unwrap(), 3600);
            }
        }
        assert!(found);

        // there is nothing left to do for the next one that asks for the same
        let again = Gate::new("app", "1.2.0").upgrades([
            Upgrade::new("1.1.0", "options").step(Command::create_index(
                "things",
                "age",
                doc! { "at": 1 },
            )),
            Upgrade::new("1.2.0", "once more")
                .step(Command::set_options("things", doc! { "validationLevel": "moderate" }))
                .step(Command::modify_index("things", "age", doc! { "hidden": true })),
        ]);
        let done = run(&again, &database, &[]).await;
        assert_eq!(done.exit_code, 0, "{}", done.to_json());
        assert!(done.upgrades[0].actions.is_empty(), "{}", done.to_json());
    }
}

#[tokio::test]
async fn options_that_go_without_saying_are_there_and_others_are_refused() {
    let database = with_things([doc! { "_id": 1 }]).await;
    let gate =
        commands([Command::set_options("things", doc! { "validationAction": "error" }).into()]);
    let plan = run(&gate, &database, &[("GATE_MODE", "plan")]).await;
    assert!(plan.upgrades[0].actions.is_empty(), "{}", plan.to_json());

    let unknown = commands([Command::set_options("things", doc! { "capped": true }).into()]);
    assert!(unknown.check().unwrap_err().message.contains("changes capped"));
    let none = commands([Command::modify_index("things", "age", doc! {}).into()]);
    assert!(none.check().unwrap_err().message.contains("changes no option"));
    let before = db_hash(&database).await;
    let missing =
        commands([Command::modify_index("things", "age", doc! { "hidden": true }).into()]);
    let report = run(&missing, &database, &[("GATE_MODE", "plan")]).await;
    assert_eq!(report.exit_code, 14, "{}", report.to_json());
    assert!(report.message.contains("no index of that name"), "{}", report.message);
    assert_eq!(db_hash(&database).await, before);
}
