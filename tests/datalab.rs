//! datalab's upgrade, on a real datalab database and on every odd shape of item.

mod datalab {
    pub mod reference;
    pub mod shapes;
}
mod support;

use datalab::{reference, shapes};
use mongodb::Database;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, Document, RawArrayBuf, RawDocumentBuf, doc, rawbson, rawdoc};
use serde_json::{Value, json};
use support::{Fresh, Gate, Server, db_hash, fixture};

/// The gate for a database that last ran a release before the upgrade. Among the odd shapes are items without a
/// refcode, which the upgrade's condition would refuse.
fn lenient(database: &Fresh) -> Gate {
    gate(database).set("GATE_SKIP_CONDITIONS", "true")
}

/// The same, with the condition asked.
fn gate(database: &Fresh) -> Gate {
    Gate::new(env!("CARGO_BIN_EXE_datalab-upgrade"))
        .uri(&database.uri)
        .set("GATE_FROM_VERSION", "0.7.0")
}

#[tokio::test]
async fn a_real_datalab_database() {
    let database = Server::shared().await.database().await;
    fixture::load(&database).await;
    let server = Server::standalone().await;
    let alone = server.database().await;
    fixture::load(&alone).await;
    for database in [database, alone] {
        upgrades_by_the_rule(&database, &gate(&database)).await;
    }
}

#[tokio::test]
async fn every_odd_shape() {
    let database = Server::shared().await.database().await;
    insert_shapes(&database).await;
    upgrades_by_the_rule(&database, &lenient(&database)).await;
}

#[tokio::test]
async fn every_odd_shape_under_a_collation_that_ignores_case_and_punctuation() {
    let database = Server::shared().await.database().await;
    let collation = doc! { "locale": "en", "strength": 1, "alternate": "shifted" };
    let create = doc! { "create": "items", "collation": collation };
    database.run_command(create).await.unwrap();
    insert_shapes(&database).await;
    upgrades_by_the_rule(&database, &lenient(&database)).await;
}

#[tokio::test]
async fn every_odd_shape_with_an_index_that_brings_items_out_of_natural_order() {
    let database = Server::shared().await.database().await;
    insert_shapes(&database).await;
    let index = doc! { "key": { "item_id": 1, "refcode": -1 }, "name": "out of order" };
    let create = doc! { "createIndexes": "items", "indexes": [index] };
    database.run_command(create).await.unwrap();
    upgrades_by_the_rule(&database, &lenient(&database)).await;
}

#[tokio::test]
async fn every_odd_shape_in_a_clustered_collection() {
    let database = Server::shared().await.database().await;
    let clustered = doc! { "key": { "_id": 1 }, "unique": true };
    let create = doc! { "create": "items", "clusteredIndex": clustered };
    let created = database.run_command(create).await;
    if support::mongod_version() < (6, 0) {
        assert!(created.is_err(), "there are clustered collections: try them");
        return;
    }
    created.unwrap();
    insert_shapes(&database).await;
    upgrades_by_the_rule(&database, &lenient(&database)).await;
}

#[tokio::test]
async fn every_odd_shape_on_a_standalone_server() {
    let server = Server::standalone().await;
    let database = server.database().await;
    insert_shapes(&database).await;
    upgrades_by_the_rule(&database, &lenient(&database)).await;
}

#[tokio::test]
async fn items_at_random() {
    for seed in 0..25 {
        let database = Server::shared().await.database().await;
        println!("seed {seed}");
        insert(&database, shapes::random(seed)).await;
        upgrades_by_the_rule(&database, &lenient(&database)).await;
    }
}

#[tokio::test]
async fn no_items_at_all() {
    let database = Server::shared().await.database().await;
    database.collection("users").insert_one(doc! { "name": "Ada" }).await.unwrap();
    upgrades_by_the_rule(&database, &lenient(&database)).await;
}

#[tokio::test]
async fn items_with_nothing_to_upgrade_are_not_read() {
    let database = Server::shared().await.database().await;
    let entries = |entries| rawdoc! { "_id": ObjectId::new(), "relationships": entries };
    let pinned = rawbson!({ "item_id": "sample", "refcode": "there" });
    let collection = rawbson!({ "type": "collections", "item_id": null, "refcode": null });
    let bare = rawbson!({ "type": "collections" });
    let deprecated = rawbson!({ "item_id": "nobody", "refcode": null, "deprecated": true });
    let items = [
        rawdoc! { "item_id": "sample", "refcode": "there" },
        entries(RawArrayBuf::new()),
        entries(RawArrayBuf::from_iter([pinned, collection, bare])),
        entries(RawArrayBuf::from_iter([deprecated])),
    ];
    insert(&database, items).await;

    database.run_command(doc! { "profile": 2 }).await.unwrap();
    let run = lenient(&database).run().await;
    assert_eq!(run.code, Some(0), "{run}");
    let profile = database.collection::<Document>("system.profile");
    let reads =
        doc! { "command.find": "items", "command.filter.relationships": { "$exists": true } };
    let mut read = profile.find(reads).await.unwrap();
    let mut numbers = vec![];
    while read.advance().await.unwrap() {
        numbers.push(read.deserialize_current().unwrap().get_i32("nreturned").unwrap());
    }
    // The deprecated one may have become resolvable.
    assert!(!numbers.is_empty() && numbers.iter().all(|number| *number <= 1), "{numbers:?}");
}

#[tokio::test]
async fn an_item_id_that_is_no_text_matters_only_without_a_refcode() {
    for (refcode, code) in [("there", 0), ("", 14)] {
        let database = Server::shared().await.database().await;
        let id = ObjectId::new();
        let item = rawdoc! {
            "_id": id,
            "relationships": [{ "item_id": "sample" }, { "item_id": "odd!", "refcode": refcode }],
        };
        let mut bytes = item.into_bytes();
        let odd = bytes.windows(4).position(|four| four == b"odd!").unwrap();
        bytes[odd + 3] = 0xff; // in no text that is UTF-8
        let sample = rawdoc! { "_id": ObjectId::new(), "item_id": "sample", "refcode": "it" };
        insert(&database, [RawDocumentBuf::from_bytes(bytes).unwrap(), sample]).await;
        let before = items(&database).await;
        let run = lenient(&database).run().await;
        assert_eq!(run.code, Some(code), "{run}");
        if code == 0 {
            let entries = items(&database).await.swap_remove(0);
            let entries = entries.get_array("relationships").unwrap();
            let first = entries.get(0).unwrap().unwrap().as_document().unwrap();
            assert_eq!(first.get_str("refcode").unwrap(), "it");
            let second = entries.get(1).unwrap().unwrap().as_document().unwrap();
            assert_eq!(second.get_str("refcode").unwrap(), "there");
            assert!(second.get("item_id").is_err(), "what is no text stays as it is");
        } else {
            assert!(items(&database).await == before, "no item was written");
            assert!(run.report["message"].as_str().unwrap().contains(&id.to_hex()), "{run}");
        }
    }
}

#[tokio::test]
async fn an_item_without_a_refcode_closes_the_gate_until_it_has_one_or_the_operator_says_otherwise()
{
    let standalone = Server::standalone().await;
    for server in [Server::shared().await, &standalone] {
        let database = server.database().await;
        let old = |n: i32| rawdoc! { "_id": n, "item_id": format!("old-{n}"), "refcode": null };
        let mut items: Vec<RawDocumentBuf> = (10..20).map(old).collect();
        items.extend([
            rawdoc! { "_id": 20, "item_id": "older" },
            rawdoc! { "_id": 1, "item_id": "odd", "refcode": [null] },
            rawdoc! { "_id": 2, "item_id": "empty", "refcode": "" },
            rawdoc! { "_id": 3, "item_id": "new", "refcode": "grey:AAAA", "relationships": [
                { "item_id": "old-10" }, { "item_id": "older" }, { "item_id": "new" },
            ] },
        ]);
        insert(&database, items).await;
        let before = self::items(&database).await;
        for mode in ["plan", "upgrade"] {
            let run = gate(&database).mode(mode).run().await;
            assert_eq!(run.code, Some(13), "{run}");
            let said = |part: &str| {
                run.report["message"].as_str().unwrap().contains(part)
                    || run.report["next"].as_str().unwrap().contains(part)
            };
            for part in [
                "every item has a refcode",
                "11 documents in items",
                "_id 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, …",
                "`invoke migration.add-missing-refcodes`",
                "migration.add_missing_refcodes",
                "GATE_SKIP_CONDITIONS=true",
            ] {
                assert!(said(part), "{part}: {run}");
            }
            assert!(self::items(&database).await == before, "no item was written");
        }
        let mut metadata =
            database.collection::<Document>("database_metadata").find(doc! {}).await.unwrap();
        assert!(!metadata.advance().await.unwrap(), "and no record");

        // as the command does it
        let collection = database.collection::<Document>("items");
        for n in 10..21 {
            let given = doc! { "$set": { "refcode": format!("grey:{n}") } };
            let missing = doc! { "_id": n, "refcode": Bson::Null };
            assert_eq!(collection.update_one(missing, given).await.unwrap().modified_count, 1);
        }
        let run = gate(&database).run().await;
        assert_eq!(run.code, Some(0), "{run}");
        assert_counts(&run.report, 3, 0);
        let referrer = collection.find_one(doc! { "_id": 3 }).await.unwrap().unwrap();
        let entries = doc! { "relationships": [
            { "item_id": "old-10", "refcode": "grey:10" },
            { "item_id": "older", "refcode": "grey:20" },
            { "item_id": "new", "refcode": "grey:AAAA" },
        ] };
        assert_eq!(referrer.get("relationships"), entries.get("relationships"));
    }
}

#[tokio::test]
async fn the_operator_may_deprecate_references_to_items_without_a_refcode() {
    let database = Server::shared().await.database().await;
    let items = [
        rawdoc! { "_id": 1, "item_id": "old" },
        rawdoc! { "_id": 2, "refcode": "it", "relationships": [{ "item_id": "old" }] },
    ];
    insert(&database, items).await;
    let run = lenient(&database).run().await;
    assert_eq!(run.code, Some(0), "{run}");
    let warnings = run.report["warnings"].to_string();
    assert!(warnings.contains("every item has a refcode") && warnings.contains("skipped"), "{run}");
    assert_counts(&run.report, 0, 1);
}

/// Upgrades the database, and compares every item with what the rule says, byte for byte; then once
/// more, as if it had never been done.
async fn upgrades_by_the_rule(database: &Fresh, gate: &Gate) {
    let before = items(database).await;
    let expected = reference::upgrade(&before);

    let hash = db_hash(database).await;
    let plan = gate.clone().mode("plan").run().await;
    assert_eq!(plan.code, Some(10), "{plan}");
    assert_eq!(db_hash(database).await, hash, "a plan writes nothing");

    let run = gate.run().await;
    assert_eq!(run.code, Some(0), "{run}");
    let after = items(database).await;
    assert_eq!(after.len(), before.len());
    for ((before, after), expected) in before.iter().zip(&after).zip(&expected.items) {
        let show = |item: &RawDocumentBuf| Document::try_from(item.clone()).unwrap();
        assert!(
            after == expected,
            "before   {}\nafter    {}\nexpected {}",
            show(before),
            show(after),
            show(expected),
        );
    }
    for report in [plan.report, run.report] {
        assert_counts(&report, expected.pinned, expected.deprecated);
    }

    let metadata = database.collection::<Document>("database_metadata");
    metadata.drop().await.unwrap();
    let again = gate.run().await;
    assert_eq!(again.code, Some(0), "{again}");
    assert!(items(database).await == after, "the upgrade has an edit for its own output");
}

/// Both actions, counts of 0 included.
#[track_caller]
fn assert_counts(report: &Value, pinned: u64, deprecated: u64) {
    let action = |description: String, details: Value| {
        json!({
            "description": description,
            "collection": "items",
            "action_type": "update",
            "details": details,
        })
    };
    let actions = json!([
        action(
            format!("Pin {pinned} item_id reference(s) to their refcode"),
            json!({ "pinned": pinned })
        ),
        action(
            format!("Deprecate {deprecated} unresolvable item_id reference(s)"),
            json!({ "deprecated": deprecated })
        ),
    ]);
    assert_eq!(report["upgrades"][0]["actions"], actions, "{report}");
}

async fn insert_shapes(database: &Database) {
    insert(database, shapes::items().into_iter().map(|(_, item)| item)).await;
}

/// Inserts items as they are, whatever the driver thinks of them.
async fn insert(database: &Database, items: impl IntoIterator<Item = RawDocumentBuf>) {
    let items = RawArrayBuf::from_iter(items);
    let insert = rawdoc! { "insert": "items", "documents": items };
    let answer = database.run_raw_command(insert).await.unwrap();
    assert!(!answer.contains_key("writeErrors"), "{answer}");
}

/// All items in natural order, as the server holds them: it fills in empty timestamps.
async fn items(database: &Database) -> Vec<RawDocumentBuf> {
    let items = database.collection::<RawDocumentBuf>("items");
    let mut cursor = items.find(doc! {}).sort(doc! { "$natural": 1 }).await.unwrap();
    let mut items = Vec::new();
    while cursor.advance().await.unwrap() {
        items.push(cursor.current().to_owned());
    }
    items
}
