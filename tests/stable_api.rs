//! What the gate sends, in one table, kept by hand: commands, options and operators, each tried with version 1
//! of the Stable API, strictly. Exactly what is marked as outside it is refused.

mod support;

use mongodb::Database;
use mongodb::bson::{Bson, Document, Timestamp, Uuid, doc};
use mongodb::error::ErrorKind;
use support::{Server, mongod_version};

/// The server's code for what is not in the declared API version.
const API_STRICT: i32 = 323;

/// Whether a command is in the Stable API.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Api {
    Stable,
    /// In it from MongoDB 6.0 on; `count`, since 5.0.9.
    Later,
    Outside,
}

/// The commands by what they are for.
fn sent() -> Vec<(&'static str, Api, Document)> {
    use Api::{Later, Outside, Stable};
    let lease = doc! { "$add": ["$$NOW", 1000_i64] };
    let majority = doc! { "w": "majority", "j": true };
    let edit = |q: Document, u: Bson| doc! { "q": q, "u": u };
    let update =
        |edit: Document| doc! { "update": "m", "updates": [edit], "writeConcern": &majority };
    let free = doc! { "$or": [
        { "$ne": [{ "$type": "$expires" }, "date"] },
        { "$lte": ["$expires", "$$NOW"] },
        { "$gt": ["$expires", &lease] },
    ]};
    let mine = doc! {
        "_id": "upgrade_lock",
        "session": { "$literal": Bson::Null },
        "former": { "$cond": [true, { "run_id": "$run_id" }, "$$REMOVE"] },
    };
    let renewed = doc! { "$mergeObjects": ["$$ROOT", { "expires": &lease }] };
    let taken = doc! { "$cond": [free, mine, renewed] };
    let find = |options: Document| {
        let mut find = doc! { "find": "y" };
        find.extend(options);
        find
    };
    vec![
        ("the server", Stable, doc! { "hello": 1 }),
        ("privileges", Outside, doc! { "connectionStatus": 1, "showPrivileges": true }),
        ("the latest write", Later, doc! {
            "count": "y", "query": {}, "limit": 1, "readConcern": { "level": "local" },
        }),
        ("record and lock", Stable, doc! {
            "aggregate": "m",
            "pipeline": [
                { "$match": { "_id": { "$in": ["record", "upgrade_lock"] } } },
                { "$replaceWith": { "document": "$$ROOT", "now": "$$NOW" } },
            ],
            "cursor": {},
            "readConcern": { "level": "majority" },
        }),
        ("conditions", Stable, doc! {
            "aggregate": "y",
            "pipeline": [
                { "$match": {} }, { "$limit": 1000 }, { "$group": { "_id": 1, "n": { "$sum": 1 } } },
            ],
            "cursor": {},
        }),
        ("the record", Stable, find(doc! {
            "filter": { "_id": "record" }, "projection": { "_id": 1 }, "limit": 1,
            "singleBatch": true,
            "readConcern": { "level": "majority", "afterClusterTime": Timestamp { time: 1, increment: 1 } },
        })),
        ("the first batch", Stable, find(doc! {
            "filter": {}, "sort": { "_id": 1 }, "hint": { "_id": 1 },
            "projection": { "a": 1, "size": { "$bsonSize": "$$ROOT" } },
            "limit": 5_i64, "batchSize": 5_i64, "singleBatch": true,
        })),
        ("batches", Outside, find(doc! {
            "filter": { "$and": [{ "_id": { "$ne": 1 } }, {}] },
            "sort": { "_id": 1 }, "hint": { "_id": 1 }, "min": { "_id": 1 },
        })),
        ("look-ups", Stable, find(doc! { "filter": { "a": { "$in": [1] } }, "batchSize": 100 })),
        ("look-ups in order", Outside, find(doc! {
            "filter": { "a": { "$in": [1] } }, "showRecordId": true,
        })),
        ("naming by UUID", Outside, find(doc! { "limit": 1, "collectionUUID": Uuid::new() })),
        ("taking the lock", Stable, doc! {
            "findAndModify": "m", "query": { "_id": "upgrade_lock" },
            "update": [{ "$replaceWith": taken }], "upsert": true, "new": true,
        }),
        ("renewing the lock", Stable, update(edit(
            doc! { "_id": "upgrade_lock" },
            vec![Bson::from(doc! { "$set": { "expires": &lease } })].into(),
        ))),
        ("moving the record", Stable, update(edit(
            doc! { "_id": 1, "version": { "$eq": "x" }, "history": { "$size": 1_i64 },
                   "journal": { "$exists": false } },
            doc! { "$push": { "history": { "$each": [1] } }, "$set": { "v": 1 }, "$unset": { "j": "" } }
                .into(),
        ))),
        ("repairing the record", Stable, update(edit(
            doc! { "$expr": { "$eq": [{ "$cmp": ["$$ROOT", { "$literal": {} }] }, 0] } },
            doc! { "$set": { "v": 1 } }.into(),
        ))),
        ("guarded edits", Stable, doc! {
            "update": "y", "ordered": false, "writeConcern": &majority,
            "updates": [{
                "q": { "_id": { "$eq": 9 }, "$expr": { "$and": [{ "$eq": [{ "$type": "$a" }, "int"] }] } },
                "u": { "$set": { "a": 1 } },
                "collation": { "locale": "simple" },
            }],
        }),
        ("edits guarded as a whole", Stable, doc! {
            "update": "y", "ordered": false, "writeConcern": &majority,
            "updates": [{
                "q": { "_id": { "$eq": 9 }, "$expr": { "$and": [
                    { "$in": ["$a", [{ "$literal": 1 }]] },
                    { "$let": { "vars": { "old": { "$literal": [1] } }, "in": { "$and": [
                        { "$eq": ["$a", "$$old"] },
                        { "$eq": [{ "$bsonSize": { "v": "$a" } }, { "$bsonSize": { "v": "$$old" } }] },
                    ] } } },
                ] } },
                "u": { "$set": { "a": [1] } },
                "collation": { "locale": "simple" },
            }],
        }),
        ("replacing a guarded document", Stable, doc! {
            "update": "y", "ordered": false, "writeConcern": &majority,
            "updates": [{
                "q": { "_id": { "$eq": 9 }, "$expr": { "$and": [
                    { "$in": ["$$ROOT", [{ "$literal": { "_id": 9 } }]] },
                    { "$eq": [{ "$bsonSize": "$$ROOT" }, 14_i64] },
                ] } },
                "u": { "_id": 9, "a": 1 },
                "collation": { "locale": "simple" },
            }],
        }),
        ("inserting", Stable, doc! { "insert": "y", "documents": [{ "_id": 7 }], "ordered": true }),
        ("releasing the lock", Stable, doc! {
            "delete": "m", "deletes": [{ "q": { "_id": 8 }, "limit": 1 }],
        }),
        ("collections", Stable, doc! {
            "listCollections": 1, "filter": { "type": { "$ne": "view" } }, "nameOnly": true,
            "authorizedCollections": true,
        }),
        ("indexes", Stable, doc! { "listIndexes": "y" }),
        ("making an index", Stable, doc! {
            "createIndexes": "y", "indexes": [{ "key": { "a": 1 }, "name": "a" }],
        }),
        ("making a text index", Outside, doc! {
            "createIndexes": "y", "indexes": [{ "key": { "t": "text" }, "name": "t" }],
        }),
        ("dropping an index", Stable, doc! { "dropIndexes": "y", "index": "a" }),
        ("setting a validator", Stable, doc! {
            "collMod": "y", "validator": { "a": { "$exists": true } }, "writeConcern": { "w": "majority" },
        }),
        ("making a collection", Stable, doc! { "create": "z", "validator": {} }),
        ("renaming", Outside, doc! { "renameCollection": "db.y", "to": "db.z", "collectionUUID": Uuid::new() }),
        ("dropping", Outside, doc! { "drop": "nothing", "collectionUUID": Uuid::new() }),
        ("ending a session", Outside, doc! { "killSessions": [] }),
        ("what the run does on the server", Outside, doc! {
            "aggregate": 1,
            "pipeline": [
                { "$currentOp": { "allUsers": false, "idleSessions": false, "truncateOps": true } },
                { "$match": { "active": true } },
                { "$project": { "opid": 1, "driver": "$clientMetadata.driver.name" } },
            ],
            "cursor": {},
        }),
        ("ending an operation", Outside, doc! { "killOp": 1, "op": 1 }),
        ("committing", Stable, doc! { "commitTransaction": 1 }),
        ("aborting", Stable, doc! { "abortTransaction": 1 }),
    ]
}

/// The server's code for a command with a declared API version.
async fn strictly(database: &Database, mut command: Document) -> Option<i32> {
    command.insert("apiVersion", "1");
    command.insert("apiStrict", true);
    let on_admin = ["renameCollection", "commitTransaction", "abortTransaction", "killOp"];
    let admin = database.client().database("admin");
    let of_all = command.get_i32("aggregate").is_ok();
    let on = match of_all || on_admin.iter().any(|name| command.contains_key(name)) {
        true => &admin,
        false => database,
    };
    let error = on.run_command(command).await.err()?;
    match *error.kind {
        ErrorKind::Command(error) => Some(error.code),
        ref other => panic!("{other}"),
    }
}

#[tokio::test]
async fn exactly_what_is_marked_is_outside_the_stable_api() {
    if mongod_version() < (5, 0) {
        return; // it came with 5.0
    }
    let database = Server::shared().await.database().await;
    for name in ["m", "y"] {
        database.collection(name).insert_one(doc! { "_id": 1, "a": 1 }).await.unwrap();
    }
    for (what, api, command) in sent() {
        let later = mongod_version() < (6, 0);
        if later && command.contains_key("collectionUUID") {
            continue; // an option that 5.0 does not know
        }
        let code = strictly(&database, command).await;
        let refused = api == Api::Outside || api == Api::Later && later;
        assert_eq!(code == Some(API_STRICT), refused, "{what}: {code:?}");
    }
}
