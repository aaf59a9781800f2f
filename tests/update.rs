//! Updates that the server evaluates: the same documents on both kinds of server as one `updateMany` leaves, and what is
//! refused before anything is written.

mod support;

#[path = "update/copies.rs"]
mod copies;
#[path = "update/corrected.rs"]
mod corrected;
#[path = "update/look_ups.rs"]
mod look_ups;

use std::time::Duration;

use mongodb::Database;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::raw::cstr;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{
    Binary, Bson, DateTime, Document, RawDocument, RawDocumentBuf, Timestamp, doc, rawdoc,
};
use support::{Fresh, Server, db_hash, dump};
use tokio::sync::OnceCell;
use upgrade_gate::harness::Harness;
use upgrade_gate::{
    Command, Condition, Copy, Delete, Edits, Found, Gate, Lookup, NotSwept, Report, Seed, Settings,
    Step, Transform, Update, Upgrade, Version,
};

/// The contents of a document, which nothing may say.
const SECRET: &str = "s3cret";

async fn standalone() -> &'static Server {
    static STANDALONE: OnceCell<Server> = OnceCell::const_new();
    STANDALONE.get_or_init(Server::standalone).await
}

async fn both() -> [&'static Server; 2] {
    [Server::shared().await, standalone().await]
}

/// A database that last ran 1.0.0.
async fn database(server: &Server) -> Fresh {
    let database = server.database().await;
    let entry = doc! { "version": "1.0.0", "action": "initialise", "floor": null };
    let record = doc! { "_id": "kanban_schema_version", "version": "1.0.0", "history": [entry] };
    database.collection("database_metadata").insert_one(record).await.unwrap();
    database
}

async fn run(database: &Fresh, upgrades: &[Upgrade], mode: &str, batch: usize) -> Report {
    let vars = [
        ("GATE_MONGODB_URI", database.uri.clone()),
        ("GATE_MODE", mode.to_owned()),
        ("GATE_BATCH_DOCUMENTS", batch.to_string()),
    ];
    let code = Version::parse("1.9.0").unwrap();
    let settings = Settings::from_vars(vars.map(|(name, value)| (name.to_owned(), value)), &code);
    Gate::new("kanban", "1.9.0").upgrades(upgrades.to_vec()).run(&settings.unwrap()).await
}

fn upgrade(version: &str, steps: impl IntoIterator<Item = Update>) -> Upgrade {
    let upgrade = Upgrade::new(version, format!("upgrade to {version}"));
    steps.into_iter().fold(upgrade, Upgrade::step)
}

fn old() -> Document {
    doc! { "position": { "$exists": false } }
}

fn to_position() -> Vec<Document> {
    vec![doc! { "$set": { "position": { "$ifNull": ["$order", 0] } } }, doc! { "$unset": "order" }]
}

fn positions() -> Update {
    Update::new(
        "cards",
        doc! { "position": { "$exists": false } },
        [doc! { "$set": { "position": { "$ifNull": ["$order", 0] } } }, doc! { "$unset": "order" }],
    )
    .report("Give {n} card(s) a position")
}

fn card(n: i32) -> Document {
    doc! { "_id": n, "title": SECRET, "order": n }
}

async fn fill(database: &Database, documents: impl IntoIterator<Item = Document>) {
    database.collection("cards").insert_many(documents).await.unwrap();
}

/// The cards of a database, byte for byte.
async fn cards(database: &Database) -> Vec<RawDocumentBuf> {
    dump(database).await.remove("cards").unwrap_or_default()
}

fn details(report: &Report) -> Vec<(String, Option<i64>)> {
    let actions = report.upgrades.iter().flat_map(|upgrade| &upgrade.actions);
    actions
        .map(|action| (action.description.clone(), action.details.get_i64("updated").ok()))
        .collect()
}

fn assert_told(report: &Report, code: u8, says: &[&str]) {
    let text = format!("{report:?}");
    assert_eq!(report.exit_code, code, "{text}");
    for said in says {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert!(!text.contains(SECRET), "{text}");
}

/// Documents of many shapes and orders of fields.
fn odd_cards() -> Vec<RawDocumentBuf> {
    let mut cards = vec![
        rawdoc! { "_id": 1, "order": 1, "title": "a" },
        rawdoc! { "_id": "text", "title": "a", "order": 2.5, "z": 1 },
        rawdoc! { "_id": 7_i64, "order": null },
        rawdoc! { "_id": { "a": 1, "b": 2 }, "order": [1, { "n": 1 }] },
        rawdoc! { "_id": null, "zeta": 1, "alpha": 2 },
        rawdoc! { "_id": true, "order": { "c": 1, "b": 2, "a": 3 }, "at": DateTime::from_millis(7) },
        rawdoc! { "_id": Timestamp { time: 1, increment: 2 }, "order": Timestamp { time: 5, increment: 1 } },
        rawdoc! { "_id": 2, "position": 9, "order": 3 },
        // what is repeated and not touched stays
        rawdoc! { "_id": 3, "order": 3, "twice": 1, "twice": 2 },
        rawdoc! { "_id": 4, "order": 4, "inner": rawdoc! { "twice": 1, "twice": 2 } },
        rawdoc! { "_id": 5, "order": 4, "dot.ted": 1, "$dollar": 2 },
    ];
    let mut many = RawDocumentBuf::new();
    many.append(cstr!("_id"), ObjectId::from_bytes([3; 12]));
    for n in 0..300 {
        many.append(mongodb::bson::raw::CString::try_from(format!("f{n}")).unwrap(), n);
    }
    cards.push(many);
    cards
}

/// Pipelines that lead out of their filters, each in its own way.
fn pipelines() -> Vec<(Document, Vec<Document>)> {
    let keep = doc! { "_id": "$_id" };
    vec![
        (old(), to_position()),
        // new fields in an order of their own
        (old(), vec![doc! { "$set": { "zz": 1, "position": 1, "aa": { "y": 1, "x": 2 } } }]),
        // another order of the old ones
        (
            old(),
            vec![doc! { "$replaceWith": { "$mergeObjects": [
                { "position": { "$type": "$order" } }, { "title": "$title" }, keep,
            ] } }],
        ),
        (
            doc! { "order": { "$exists": true } },
            vec![doc! { "$project": { "_id": 1, "title": 1, "at": 1 } }],
        ),
        (
            doc! { "order": { "$type": "number" } },
            vec![
                doc! { "$set": { "order": { "was": "$order", "at": Timestamp { time: 0, increment: 0 } } } },
            ],
        ),
        (
            doc! { "order": { "$type": "number" } },
            vec![
                doc! { "$set": { "stamp": Timestamp { time: 0, increment: 0 }, "order": "$$REMOVE" } },
            ],
        ),
        (
            doc! { "order.n": { "$exists": true } },
            vec![
                doc! { "$set": { "order": { "$map": { "input": "$order", "in": { "$toString": { "$type": "$$this" } } } } } },
            ],
        ),
    ]
}

#[tokio::test]
async fn leaves_what_one_update_many_leaves_byte_for_byte_on_both_kinds_of_server() {
    for (position, (filter, pipeline)) in pipelines().into_iter().enumerate() {
        // a document that repeats a field is refused where any field may be touched
        let any =
            pipeline.iter().any(|s| s.contains_key("$project") || s.contains_key("$replaceWith"));
        let repeats = |card: &RawDocumentBuf| {
            [3, 4].iter().any(|id| card.get("_id").unwrap().unwrap().as_i32() == Some(*id))
        };
        let documents: Vec<_> =
            odd_cards().into_iter().filter(|card| !any || !repeats(card)).collect();
        let reference = database(Server::shared().await).await;
        reference.collection::<RawDocumentBuf>("cards").insert_many(&documents).await.unwrap();
        let all = reference.collection::<RawDocumentBuf>("cards");
        let updated = all.update_many(filter.clone(), pipeline.clone()).await.unwrap();
        let expected = cards(&reference).await;
        for server in both().await {
            for batch in [2000, 2] {
                let database = database(server).await;
                database
                    .collection::<RawDocumentBuf>("cards")
                    .insert_many(&documents)
                    .await
                    .unwrap();
                let step = Update::new("cards", filter.clone(), pipeline.clone());
                let upgrades = [upgrade("1.1.0", [step])];
                let plan = run(&database, &upgrades, "plan", batch).await;
                assert_eq!(plan.exit_code, 10, "{plan:?}");
                let report = run(&database, &upgrades, "upgrade", batch).await;
                assert_eq!(report.exit_code, 0, "pipeline {position}: {report:?}");
                assert_eq!(details(&plan), details(&report));
                let n = updated.matched_count as i64;
                let told = (format!("Update {n} document(s)"), Some(n));
                assert_eq!(details(&report), [told]);
                let after = cards(&database).await;
                for (after, expected) in after.iter().zip(&expected) {
                    assert_eq!(after, expected, "pipeline {position}, by {batch}");
                }
                assert_eq!(after.len(), expected.len());
            }
        }
    }
}

#[tokio::test]
async fn what_would_fail_still_match_or_outgrow_is_refused_before_the_first_write_and_named() {
    let fails = || vec![doc! { "$set": { "position": { "$add": ["$order", 1] } } }];
    let stays = || {
        vec![
            doc! { "$set": { "position": { "$cond": [{ "$eq": ["$order", 17] }, "$$REMOVE", 1] } } },
        ]
    };
    let grows = || vec![doc! { "$set": { "position": "$load" } }];
    let odd = doc! { "_id": "odd", "order": SECRET };
    let large = doc! { "_id": "large", "order": 1, "load": "x".repeat(9 << 20) };
    for server in both().await {
        for (odd, pipeline, says) in [
            (
                Some(odd.clone()),
                fails(),
                vec!["document \\\"odd\\\" of cards", "the pipeline fails for it"],
            ),
            (None, stays(), vec!["document 17 of cards", "still matches the filter"]),
            (Some(large.clone()), grows(), vec!["document \\\"large\\\" of cards", "16 MiB"]),
        ] {
            let database = database(server).await;
            fill(&database, (0..40).map(card).chain(odd)).await;
            let before = db_hash(&database).await;
            for (mode, batch) in [("plan", 2000), ("upgrade", 2000), ("upgrade", 7)] {
                let upgrades = [upgrade("1.1.0", [Update::new("cards", old(), pipeline.clone())])];
                let report = run(&database, &upgrades, mode, batch).await;
                assert_told(&report, 14, &says);
                assert_eq!(db_hash(&database).await, before, "{mode}");
            }
        }
    }
}

#[tokio::test]
async fn a_document_that_repeats_a_field_which_is_touched_is_refused_and_the_server_lives() {
    for server in both().await {
        let database = database(server).await;
        let all = database.collection::<RawDocumentBuf>("cards");
        all.insert_one(rawdoc! { "_id": 1, "order": 1, "order": 2 }).await.unwrap();
        let before = db_hash(&database).await;
        for batch in [2000, 1] {
            let report = run(&database, &[upgrade("1.1.0", [positions()])], "upgrade", batch).await;
            assert_told(&report, 14, &["document 1 of cards", "the field `order` is repeated"]);
        }
        let inner = rawdoc! { "_id": 1, "order": rawdoc! { "a": 1, "a": 2 } };
        assert_eq!(db_hash(&database).await, before);
        all.delete_many(doc! {}).await.unwrap();
        all.insert_one(inner).await.unwrap();
        let report = run(&database, &[upgrade("1.1.0", [positions()])], "upgrade", 1).await;
        assert_told(&report, 14, &["the field `order` is repeated"]);
    }
}

#[tokio::test]
async fn an_operator_that_the_server_does_not_know_is_18_on_an_empty_collection_too() {
    for server in both().await {
        let database = database(server).await;
        let before = db_hash(&database).await;
        let pipelines = [
            (old(), vec![doc! { "$set": { "position": { "$noSuch": 1 } } }]),
            (doc! { "order": { "$noSuch": 1 } }, to_position()),
        ];
        for (filter, pipeline) in pipelines {
            // behind one that changes the collection
            let wrong = Update::new("cards", filter, pipeline).named("wrong");
            let upgrades = [upgrade("1.1.0", [positions()]), upgrade("1.2.0", [wrong])];
            for mode in ["plan", "upgrade"] {
                let report = run(&database, &upgrades, mode, 2000).await;
                assert_told(&report, 18, &["1.2.0", "wrong", "$noSuch"]);
            }
        }
        let arity = vec![doc! { "$set": { "position": { "$eq": [1] } } }];
        let upgrades = [upgrade("1.1.0", [Update::new("cards", old(), arity)])];
        assert_told(&run(&database, &upgrades, "plan", 2000).await, 14, &["$eq", "2 arguments"]);
        assert_eq!(db_hash(&database).await, before);
    }
}

/// A server answers reads of a view like those of a collection: what is to be copied into one seems to be there.
#[tokio::test]
async fn what_is_no_ordinary_collection_is_refused_before_the_first_write() {
    let set = || [doc! { "$set": { "position": 0 } }];
    let upgrades = |step: Step| {
        let first = Step::from(Seed::new("roles", [doc! { "_id": "reader" }]));
        [Upgrade::new("1.1.0", "an upgrade").step(first).step(step)]
    };
    for server in both().await {
        let database = database(server).await;
        fill(&database, (0..5).map(card)).await;
        let shown = doc! { "create": "shown", "viewOn": "cards", "pipeline": [] };
        database.run_command(shown).await.unwrap();
        let series = doc! { "create": "series", "timeseries": { "timeField": "at" } };
        database.run_command(series).await.unwrap();
        let before = db_hash(&database).await;
        let of = |name: &'static str| -> Vec<Step> {
            vec![
                Copy::new("cards", doc! {}, [], name).then_delete().into(),
                Copy::new(name, doc! {}, [], "copies").into(),
                Update::new(name, old(), set()).into(),
                Delete::new(name, doc! { "order": 1 }).into(),
                Seed::new(name, [doc! { "_id": 99, "at": DateTime::from_millis(7) }]).into(),
                Command::rename(name, "other").into(),
                Command::set_validator(name, doc! { "order": 1 }).into(),
            ]
        };
        let index = |name: &'static str| Command::create_index(name, "by_at", doc! { "at": 1 });
        let views = of("shown").into_iter().chain([index("shown").into()]);
        for (step, says) in views.map(|step| (step, "shown is a view")).chain(
            of("series").into_iter().map(|step| (step, "series is a time-series collection")),
        ) {
            for mode in ["plan", "upgrade"] {
                let report = run(&database, &upgrades(step.clone()), mode, 2000).await;
                assert_told(&report, 14, &[says, "step"]);
                assert_eq!(db_hash(&database).await, before, "{step:?}");
            }
        }
        // what the server allows is done, and where a step takes it away there is nothing left of it
        let allowed = Upgrade::new("1.1.0", "an upgrade")
            .step(index("series"))
            .step(Command::drop_collection("shown"))
            .step(Seed::new("shown", [doc! { "_id": 1 }]))
            .step(Command::drop_collection("series"));
        let report = run(&database, &[allowed], "upgrade", 2000).await;
        assert_eq!(report.exit_code, 0, "{report:?}");
        let shown = database.collection::<Document>("shown");
        assert_eq!(shown.count_documents(doc! {}).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn a_filter_that_the_server_refuses_is_told_before_the_first_write() {
    let validator = |filter: Document| Step::from(Command::set_validator("cards", filter));
    let partial = |filter: Document| {
        let index = Command::create_index("cards", "by_order", doc! { "order": 1 });
        Step::from(index.partial(filter))
    };
    let schema = |key: &str| doc! { "$jsonSchema": { key: "object" } };
    for server in both().await {
        let database = database(server).await;
        fill(&database, (0..5).map(card)).await;
        let before = db_hash(&database).await;
        for (step, code, says) in [
            (validator(schema("bsonTyp")), 18, "Unknown $jsonSchema keyword: bsonTyp"),
            (validator(doc! { "a": { "$noSuch": 1 } }), 18, "unknown operator: $noSuch"),
            (
                validator(doc! { "$jsonSchema": { "required": "a" } }),
                14,
                "'required' must be an array",
            ),
            (partial(doc! { "a": { "$noSuch": 1 } }), 18, "unknown operator: $noSuch"),
        ] {
            let upgrade = Upgrade::new("1.1.0", "an upgrade").step(positions()).step(step);
            for mode in ["plan", "upgrade"] {
                let report = run(&database, std::slice::from_ref(&upgrade), mode, 2000).await;
                assert_told(&report, code, &[says]);
                assert_eq!(db_hash(&database).await, before, "{says}");
            }
        }
        for (filter, code, says) in [
            (schema("bsonTyp"), 18, "Unknown $jsonSchema keyword: bsonTyp"),
            (doc! { "title": { "$regex": "(" } }, 14, "Regular expression is invalid"),
            // what depends on the documents is not told
            (doc! { "$expr": { "$divide": [1, "$order"] } }, 14, "server error 2"),
        ] {
            let condition = Condition::no_document("cards", filter, "there is none");
            let upgrade =
                Upgrade::new("1.1.0", "an upgrade").condition(condition).step(positions());
            let report = run(&database, &[upgrade], "upgrade", 2000).await;
            assert_told(&report, code, &["there is none", says]);
            assert_eq!(db_hash(&database).await, before, "{says}");
        }
        // what only a validator may hold is no query's
        let right = Upgrade::new("1.1.0", "an upgrade")
            .step(positions())
            .step(validator(schema("bsonType")));
        let report = run(&database, &[right], "upgrade", 2000).await;
        assert_eq!(report.exit_code, 0, "{report:?}");
    }
}

#[tokio::test]
async fn a_filter_or_a_pipeline_that_no_update_may_have_is_a_mistake_of_the_table() {
    let refused = |filter, pipeline| {
        let upgrades = [upgrade("1.1.0", [Update::new("cards", filter, pipeline)])];
        let gate = Gate::new("kanban", "1.9.0").upgrades(upgrades);
        gate.check().unwrap_err().to_string()
    };
    let told = refused(doc! {}, to_position());
    assert!(told.contains("update cards") && told.contains("matches every document"), "{told}");
    let told = refused(old(), vec![doc! { "$set": { "_id": 1 } }]);
    assert!(told.contains("0.$set._id"), "{told}");
    let told = refused(doc! { "$where": "true" }, to_position());
    assert!(told.contains("$where"), "{told}");
}

#[tokio::test]
async fn what_an_index_or_a_validator_refuses_is_named() {
    for server in both().await {
        for batch in [2000, 7] {
            let unique = database(server).await;
            let index = doc! { "key": { "position": 1 }, "name": "by position", "unique": true, "sparse": true };
            let create = doc! { "createIndexes": "cards", "indexes": [index] };
            unique.run_command(create).await.unwrap();
            fill(&unique, (0..20).map(card)).await;
            fill(&unique, [doc! { "_id": 100, "order": 17, "title": SECRET }]).await;
            let report = run(&unique, &[upgrade("1.1.0", [positions()])], "upgrade", batch).await;
            assert_told(
                &report,
                14,
                &["document 100 of cards", "duplicate key in index by position"],
            );

            let strict = database(server).await;
            fill(&strict, (0..20).map(card)).await;
            let validator = doc! { "position": { "$not": { "$gt": 17 } } };
            let validated = doc! { "collMod": "cards", "validator": validator };
            strict.run_command(validated).await.unwrap();
            let report = run(&strict, &[upgrade("1.1.0", [positions()])], "upgrade", batch).await;
            assert_told(&report, 14, &["document 18 of cards", "validator"]);
        }
    }
}

#[tokio::test]
async fn a_chain_of_four_updates_is_counted_exactly_and_a_longer_one_is_not() {
    let step = |n: i32| {
        let filter = doc! { "v": n, "stop": { "$ne": n } };
        Update::new("cards", filter, [doc! { "$set": { "v": n + 1 } }]).named(format!("to {n}"))
    };
    for server in both().await {
        let database = database(server).await;
        let documents = (0..3000).map(|i| doc! { "_id": i, "v": i % 3, "stop": i % 7 });
        fill(&database, documents).await;
        let upgrades: Vec<Upgrade> =
            (0..5).map(|n| upgrade(&format!("1.{}.0", n + 1), [step(n)])).collect();
        let plan = run(&database, &upgrades, "plan", 100).await;
        let report = run(&database, &upgrades, "upgrade", 100).await;
        assert_eq!(report.exit_code, 0, "{report:?}");
        let (plan, report) = (details(&plan), details(&report));
        assert_eq!(plan[..4], report[..4]);
        assert!(plan[4].1.is_none() && report[4].1.is_some(), "{plan:?} {report:?}");
    }
}

#[tokio::test]
async fn survives_kills_on_both_kinds_of_server() {
    let upgrades = [
        upgrade("1.1.0", [positions()]),
        Upgrade::new("1.2.0", "boards")
            .step(Seed::new("boards", [doc! { "_id": "default" }]))
            .step(Update::new(
                "cards",
                doc! { "board": { "$exists": false } },
                [doc! { "$set": { "board": "default" } }],
            ))
            .step(Command::create_index("cards", "by board", doc! { "board": 1 })),
    ];
    for server in both().await {
        let gate = Gate::new("kanban", "1.9.0").upgrades(upgrades.clone());
        let harness = Harness::new(gate, server.uri("")).set("GATE_FROM_VERSION", "1.0.0");
        let harness = harness.boundaries(40).instants(6).within(Duration::from_secs(40)).quiet();
        let survived = harness.run(async |database| {
            database.collection("cards").insert_many((0..20).map(card)).await?;
            Ok(())
        });
        assert!(survived.await.unwrap().kills > 5);
    }
}

/// Keeps writing documents of the old shape while a gate runs, each before all others in the order of their `_id`s, so
/// that none takes the place of another and no pass meets it on its way.
async fn beside(database: &Fresh, upgrades: &[Upgrade], most: i32) -> Report {
    let writing = async {
        for n in 0..most {
            let all = database.collection::<Document>("cards");
            all.insert_one(card(-1 - n)).await.unwrap();
        }
        std::future::pending::<()>().await
    };
    tokio::select! {
        report = run(database, upgrades, "upgrade", 5) => report,
        () = writing => unreachable!(),
    }
}

/// A user gives cards another order while they get a position of it.
#[tokio::test]
async fn what_a_user_changes_meanwhile_is_what_the_pipeline_works_on() {
    // what is looked up is evaluated before it is written
    let looking = Lookup::by_field("owner", "people", "_id", "owner");
    let ways = [positions(), positions().lookup(looking)];
    for (server, step) in both().await.into_iter().flat_map(|it| ways.clone().map(|way| (it, way)))
    {
        let database = database(server).await;
        fill(&database, (0..600).map(card)).await;
        let all = database.collection::<Document>("cards");
        let changing = async {
            let mut changed = Vec::new();
            for n in (0..600).rev().step_by(3) {
                let old = doc! { "_id": n, "order": n };
                let change = doc! { "$set": { "order": n + 1000 } };
                let done = all.update_one(old, change).await.unwrap();
                changed.extend((done.modified_count == 1).then_some(n));
            }
            changed
        };
        let upgrades = [upgrade("1.1.0", [step])];
        let (report, changed) = tokio::join!(run(&database, &upgrades, "upgrade", 10), changing);
        assert_eq!(report.exit_code, 0, "{report:?}");
        assert!(!changed.is_empty());
        let expected = (0..600).map(|n| {
            let order = if changed.contains(&n) { n + 1000 } else { n };
            rawdoc! { "_id": n, "title": SECRET, "position": order }
        });
        let mut after = cards(&database).await;
        after.sort_by_key(|card| card.get_i32("_id").unwrap());
        assert_eq!(after, expected.collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn what_old_code_writes_meanwhile_is_taken_again_until_it_never_stops() {
    for server in both().await {
        let database = database(server).await;
        fill(&database, (0..200).map(card)).await;
        let report = beside(&database, &[upgrade("1.1.0", [positions()])], 20).await;
        assert_eq!(report.exit_code, 0, "{report:?}");
        let left = database.collection::<Document>("cards").count_documents(old()).await.unwrap();
        assert_eq!(left, 0);

        let database = self::database(server).await;
        fill(&database, (0..200).map(card)).await;
        let report = beside(&database, &[upgrade("1.1.0", [positions()])], i32::MAX).await;
        assert_told(&report, 14, &["old code still writes them"]);
        // once it has stopped, a run goes on
        let report = run(&database, &[upgrade("1.1.0", [positions()])], "upgrade", 50).await;
        assert_eq!(report.exit_code, 0, "{report:?}");
        let left = database.collection::<Document>("cards").count_documents(old()).await.unwrap();
        assert_eq!(left, 0);
    }
}

#[tokio::test]
async fn a_sweep_runs_it_again_unless_something_later_changes_the_collection() {
    fn nothing(_: &RawDocument, _: &Found, _: &mut Edits) -> Result<(), upgrade_gate::StepError> {
        Ok(())
    }
    for server in both().await {
        let upgrades = [upgrade("1.1.0", [positions()])];
        let database = database(server).await;
        fill(&database, (0..3).map(card)).await;
        assert_eq!(run(&database, &upgrades, "upgrade", 2000).await.exit_code, 0);
        fill(&database, (10..14).map(card)).await;
        let report = run(&database, &upgrades, "sweep", 3).await;
        assert_eq!((report.exit_code, report.swept), (0, Some(4)), "{report:?}");
        let left = database.collection::<Document>("cards").count_documents(old()).await.unwrap();
        assert_eq!(left, 0);
        assert_eq!(details(&report), [("Give 4 card(s) a position".to_owned(), Some(4))]);

        let later =
            Upgrade::new("1.2.0", "later").step(Transform::new("cards", nothing).convergent());
        let upgrades = [upgrades[0].clone(), later];
        let database = self::database(server).await;
        assert_eq!(run(&database, &upgrades, "upgrade", 2000).await.exit_code, 0);
        let report = run(&database, &upgrades, "sweep", 3).await;
        let not_swept: Vec<&str> = report.not_swept.iter().map(|it: &NotSwept| &*it.step).collect();
        assert_eq!(not_swept, ["update cards"], "{report:?}");
    }
}

/// An expression for a text of 256 KiB.
fn large_text() -> Document {
    doc! { "$reduce": {
        "input": { "$range": [0, 15] },
        "initialValue": "8 bytes.",
        "in": { "$concat": ["$$value", "$$value"] },
    } }
}

/// Whether so many cards have that text, and all of them.
async fn are_large(database: &Database, cards: u64) {
    let large = doc! { "$expr": { "$eq": [{ "$strLenBytes": "$large" }, 256 * 1024] } };
    let collection = database.collection::<Document>("cards");
    assert_eq!(collection.count_documents(large).await.unwrap(), cards);
    assert_eq!(collection.count_documents(doc! {}).await.unwrap(), cards);
}

/// As many as a batch has are more than a transaction can hold once they are updated, or than are evaluated at once.
#[tokio::test]
async fn small_documents_that_grow_large_are_updated() {
    for server in both().await {
        let database = database(server).await;
        fill(&database, (0..250).map(card)).await;
        let set = doc! { "$set": { "position": 0, "large": large_text() } };
        let upgrades = [upgrade("1.1.0", [Update::new("cards", old(), [set])])];
        let report = run(&database, &upgrades, "upgrade", 2000).await;
        assert_eq!(report.exit_code, 0, "{report:?}");
        assert_eq!(details(&report), [("Update 250 document(s)".to_owned(), Some(250))]);
        are_large(&database, 250).await;
    }
}

#[tokio::test]
async fn documents_of_16_mib_are_updated() {
    for server in both().await {
        let database = database(server).await;
        let load = "x".repeat((16 << 20) - 200);
        fill(&database, (0..2).map(|n| doc! { "_id": n, "order": n, "load": &load })).await;
        let report = run(&database, &[upgrade("1.1.0", [positions()])], "upgrade", 2000).await;
        assert_eq!(report.exit_code, 0, "{report:?}");
        for (n, card) in cards(&database).await.iter().enumerate() {
            let expected = rawdoc! { "_id": n as i32, "load": load.as_str(), "position": n as i32 };
            assert!(*card == expected);
            assert_eq!(
                card.get("position").unwrap().map(Bson::try_from).unwrap().unwrap(),
                Bson::Int32(n as i32)
            );
        }
    }
}
