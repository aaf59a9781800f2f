//! datalab's upgrade, on a real datalab database and on every odd shape of item.

mod datalab {
    pub mod reference;
    pub mod shapes;
}
mod support;

use datalab::{reference, shapes};
use mongodb::Database;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Document, RawArrayBuf, RawDocumentBuf, doc, rawbson, rawdoc};
use support::{Fresh, Gate, Server, db_hash, fixture};

/// The gate for a database that last ran a release before the upgrade.
fn gate(database: &Fresh) -> Gate {
    Gate::new(env!("CARGO_BIN_EXE_datalab-upgrade"))
        .uri(&database.uri)
        .set("GATE_FROM_VERSION", "0.7.0")
}

#[tokio::test]
async fn a_real_datalab_database() {
    let database = Server::shared().await.database().await;
    fixture::load(&database).await;
    upgrades_by_the_rule(&database).await;
}

#[tokio::test]
async fn every_odd_shape() {
    let database = Server::shared().await.database().await;
    insert_shapes(&database).await;
    upgrades_by_the_rule(&database).await;
}

#[tokio::test]
async fn every_odd_shape_under_a_collation_that_ignores_case_and_punctuation() {
    let database = Server::shared().await.database().await;
    let collation = doc! { "locale": "en", "strength": 1, "alternate": "shifted" };
    let create = doc! { "create": "items", "collation": collation };
    database.run_command(create).await.unwrap();
    insert_shapes(&database).await;
    upgrades_by_the_rule(&database).await;
}

#[tokio::test]
async fn every_odd_shape_with_an_index_that_brings_items_out_of_natural_order() {
    let database = Server::shared().await.database().await;
    insert_shapes(&database).await;
    let index = doc! { "key": { "item_id": 1, "refcode": -1 }, "name": "out of order" };
    let create = doc! { "createIndexes": "items", "indexes": [index] };
    database.run_command(create).await.unwrap();
    upgrades_by_the_rule(&database).await;
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
    upgrades_by_the_rule(&database).await;
}

#[tokio::test]
async fn every_odd_shape_on_a_standalone_server() {
    let server = Server::standalone().await;
    let database = server.database().await;
    insert_shapes(&database).await;
    upgrades_by_the_rule(&database).await;
}

#[tokio::test]
async fn items_at_random() {
    for seed in 0..25 {
        let database = Server::shared().await.database().await;
        println!("seed {seed}");
        insert(&database, shapes::random(seed)).await;
        upgrades_by_the_rule(&database).await;
    }
}

#[tokio::test]
async fn no_items_at_all() {
    let database = Server::shared().await.database().await;
    database.collection("users").insert_one(doc! { "name": "Ada" }).await.unwrap();
    upgrades_by_the_rule(&database).await;
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
    let run = gate(&database).run().await;
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
        let run = gate(&database).run().await;
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

/// Upgrades the database, and compares every item with what the rule says, byte for byte; then once
/// more, as if it had never been done.
async fn upgrades_by_the_rule(database: &Fresh) {
    let before = items(database).await;
    let expected = reference::upgrade(&before);

    let hash = db_hash(database).await;
    let plan = gate(database).mode("plan").run().await;
    assert_eq!(plan.code, Some(10), "{plan}");
    assert_eq!(db_hash(database).await, hash, "a plan writes nothing");

    let run = gate(database).run().await;
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
        let counted = |name| {
            let actions = report["upgrades"][0]["actions"].as_array().cloned().unwrap_or_default();
            actions.iter().find_map(|action| action["details"][name].as_u64()).unwrap_or_default()
        };
        let counts = (counted("pinned"), counted("deprecated"));
        assert_eq!(counts, (expected.pinned, expected.deprecated), "{report}");
    }

    let metadata = database.collection::<Document>("database_metadata");
    metadata.drop().await.unwrap();
    let again = gate(database).run().await;
    assert_eq!(again.code, Some(0), "{again}");
    assert!(items(database).await == after, "the upgrade has an edit for its own output");
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
