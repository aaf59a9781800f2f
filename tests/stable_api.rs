//! What the gate sends, in one table: commands, options and operators, compared with the log of servers on which
//! gates ran, and each tried with version 1
//! of the Stable API, strictly: exactly what is marked as outside it is refused.

mod apps;
mod support;

#[path = "stable_api/log.rs"]
mod log;

use apps::{fill, scenario};
use log::Parts;
use mongodb::Database;
use mongodb::bson::{Bson, Document, Timestamp, Uuid, doc};
use mongodb::error::ErrorKind;
use support::{Fresh, Run, Server, eventually, mongod_version};

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
    let keys = doc! { "$map": { "input": { "$objectToArray": "$$ROOT" }, "in": "$$this.k" } };
    let free = doc! { "$or": [
        { "$eq": [{ "$setDifference": [keys, ["_id"]] }, []] },
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
        ("databases", Stable, doc! {
            "listDatabases": 1, "nameOnly": true, "authorizedDatabases": true,
        }),
        ("a transaction's longest time", Outside, doc! {
            "getParameter": 1, "transactionLifetimeLimitSeconds": 1,
        }),
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
            "allowDiskUse": true,
        }),
        ("the count of a condition", Stable, doc! {
            "aggregate": "y", "cursor": {}, "pipeline": [{ "$limit": 1000 }, { "$count": "n" }],
        }),
        ("whether there are documents", Stable, find(doc! {
            "filter": { "_id": { "$nin": ["record"] } }, "limit": 1,
        })),
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
        ("look-ups", Stable, find(doc! {
            "filter": { "a": { "$in": [1] } }, "sort": { "_id": 1 }, "allowDiskUse": true,
            "batchSize": 100,
        })),
        ("what an update makes of all documents", Stable, doc! {
            "aggregate": "y",
            "pipeline": [
                { "$match": {} },
                { "$facet": {
                    "still": [{ "$match": {} }, { "$limit": 1 }, { "$project": { "_id": 1 } }],
                    "sizes": [{ "$group": { "_id": 1, "largest": { "$max": { "$bsonSize": "$$ROOT" } } } }],
                } },
            ],
            "cursor": {},
        }),
        ("what the server makes of each document", Stable, doc! {
            "aggregate": "y",
            "pipeline": [
                { "$match": { "_id": { "$in": [1] } } },
                { "$set": { "found": { "$arrayElemAt": [
                    { "$literal": [{}] }, { "$indexOfArray": [{ "$literal": [1] }, "$_id"] },
                ] } } },
                { "$sort": { "_id": 1 } },
                { "$replaceWith": { "before": "$$ROOT" } },
                { "$lookup": {
                    "from": "y", "let": { "source": "$before" },
                    "pipeline": [{ "$limit": 1 }, { "$replaceWith": "$$source" }], "as": "after",
                } },
                { "$project": { "all": { "$concatArrays": [
                    [{ "before": "$before" }],
                    { "$map": { "input": "$after", "in": { "after": "$$this" } } },
                ] } } },
                { "$unwind": "$all" }, { "$replaceRoot": { "newRoot": "$all" } },
            ],
            "cursor": {},
        }),
        ("an update that the server evaluates", Stable, doc! {
            "update": "y", "updates": [{
                "q": { "$and": [{ "_id": { "$in": [5] } }, {}] }, "u": [{ "$set": { "b": 1 } }],
                "multi": true, "hint": { "_id": 1 },
            }],
        }),
        ("documents that are not stored yet", Stable, doc! {
            "aggregate": "y",
            "pipeline": [
                { "$limit": 1 }, { "$project": { "_id": 0, "d": { "$literal": [{ "_id": 1 }] } } },
                { "$unwind": "$d" }, { "$replaceRoot": { "newRoot": "$d" } }, { "$match": {} },
                { "$project": { "a": 1, "size": { "$bsonSize": "$$ROOT" } } },
            ],
            "cursor": { "batchSize": 100 },
            "readConcern": { "level": "majority" },
        }),
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
                "q": { "_id": { "$eq": 9 }, "$expr": { "$and": [
                    { "$eq": [{ "$type": "$a" }, "int"] },
                    { "$eq": [{ "$toString": "$a" }, { "$toString": { "$literal": 1 } }] },
                ] } },
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
        ("removing old values that a killed run left", Stable, doc! {
            "delete": "m",
            "deletes": [{
                "q": {
                    "_id": { "$gte": 1, "$lte": 2 },
                    "$expr": { "$eq": [{ "$bsonSize": { "v": "$_id" } }, 9_i64] },
                },
                "limit": 0,
                "collation": { "locale": "simple" },
            }],
        }),
        ("whether leftovers are the only documents", Stable, find(doc! {
            "filter": { "$nor": [{ "_id": { "$gte": 1, "$lte": 2 } }] }, "limit": 1,
        })),
        ("whether a collection has a collation", Stable, doc! {
            "aggregate": "m",
            "pipeline": [
                { "$limit": 1 },
                { "$match": { "$expr": { "$eq": ["a", { "$cond": [false, "", "b"] }] } } },
                { "$project": { "_id": 1 } },
            ],
            "cursor": {}, "readConcern": { "level": "majority" },
        }),
        ("which strings are the same under a collation", Stable, doc! {
            "aggregate": "m",
            "pipeline": [
                { "$limit": 1 },
                { "$project": { "text": { "$literal": ["a", "A"] } } },
                { "$unwind": "$text" },
                { "$group": { "_id": "$text", "same": { "$push": "$text" } } },
            ],
            "cursor": {}, "readConcern": { "level": "majority" },
        }),
        ("whether an index serves a look-up", Stable, doc! {
            "explain": { "find": "m", "filter": { "n": { "$in": ["a"] } } }, "verbosity": "queryPlanner",
        }),
        ("an edit too large for one statement", Stable, doc! {
            "aggregate": "m",
            "pipeline": [
                { "$match": { "_id": { "$eq": 9 } } },
                { "$addFields": { "_id": { "$literal": 1 } } },
                { "$merge": {
                    "into": "y", "on": "_id", "let": { "old": "$$ROOT" }, "whenNotMatched": "fail",
                    "whenMatched": [{ "$set": {
                        "a": { "$cond": [
                            { "$and": [
                                { "$eq": [{ "$type": "$a" }, { "$type": "$$old.a" }] },
                                { "$eq": [{ "$bsonSize": { "v": "$a" } }, { "$bsonSize": { "v": "$$old.a" } }] },
                            ] },
                            "$$REMOVE",
                            { "$toInt": { "$concat": ["changed: ", { "$type": "$_id" }] } },
                        ] },
                        "b": "$$after.b",
                    } }],
                } },
            ],
            "cursor": {},
            "collation": { "locale": "simple" },
            "writeConcern": &majority,
            "let": { "after": { "$literal": { "b": 1 } } },
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
        ("the application's stamp", Stable, doc! {
            "update": "y", "updates": [{
                "q": { "_id": 4 }, "u": { "$setOnInsert": { "v": 1 } }, "upsert": true,
            }],
        }),
        ("inserting", Stable, doc! { "insert": "y", "documents": [{ "_id": 7 }], "ordered": true }),
        ("releasing the lock", Stable, doc! {
            "delete": "m", "deletes": [{ "q": { "_id": 8 }, "limit": 1 }], "ordered": true,
        }),
        ("guarded deletions", Stable, doc! {
            "delete": "y", "writeConcern": &majority,
            "deletes": [{ "q": { "_id": { "$eq": 9 } }, "limit": 1, "collation": { "locale": "simple" } }],
        }),
        ("collections", Stable, doc! {
            "listCollections": 1, "filter": { "type": { "$ne": "view" } }, "nameOnly": true,
            "authorizedCollections": true,
        }),
        ("indexes", Stable, doc! { "listIndexes": "y" }),
        ("an update of a transaction step", Stable, doc! {
            "update": "y", "updates": [{ "q": { "_id": 5 }, "u": { "$set": { "b": 1 } }, "multi": true }],
        }),
        ("making an index", Stable, doc! {
            "createIndexes": "y", "indexes": [{ "key": { "a": 1 }, "name": "a" }],
        }),
        ("making a text index", Outside, doc! {
            "createIndexes": "y", "indexes": [{ "key": { "t": "text" }, "name": "t" }],
        }),
        ("making a unique index", Stable, doc! {
            "createIndexes": "y", "indexes": [{ "key": { "u": 1 }, "name": "u", "unique": true }],
        }),
        ("hiding an index", Stable, doc! { "collMod": "y", "index": { "name": "a", "hidden": true } }),
        ("dropping an index", Stable, doc! { "dropIndexes": "y", "index": "a" }),
        ("setting a validator", Stable, doc! {
            "collMod": "y", "validator": { "a": { "$exists": true } }, "writeConcern": { "w": "majority" },
        }),
        ("setting options", Stable, doc! { "collMod": "y", "validationAction": "warn" }),
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
        ("the driver's greeting", Outside, doc! { "isMaster": 1 }),
        ("committing", Stable, doc! { "commitTransaction": 1 }),
        ("aborting", Stable, doc! { "abortTransaction": 1 }),
    ]
}

/// The server's code for a command with a declared API version.
async fn strictly(database: &Database, mut command: Document) -> Option<i32> {
    command.insert("apiVersion", "1");
    command.insert("apiStrict", true);
    let on_admin = [
        "renameCollection",
        "commitTransaction",
        "abortTransaction",
        "listDatabases",
        "getParameter",
        "killOp",
    ];
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
    let database = Server::shared().await.database().await;
    if mongod_version() < (5, 0) {
        // the Stable API came with 5.0: an older server does not know how to declare one
        for (what, _, command) in
            sent().into_iter().filter(|(_, _, sent)| sent.contains_key("find"))
        {
            assert_eq!(strictly(&database, command).await, Some(9), "{what}");
        }
        return;
    }
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

/// Operators of the scenario's own filters and pipelines, which are its author's.
const AUTHORS: &[&str] = &["$elemMatch", "$inc", "$lt", "$not", "$where"];

/// What only renames and drops need, which no gate sends to servers before MongoDB 6.0.
const BY_UUID: &[&str] = &[
    "drop",
    "drop.collectionUUID",
    "find.collectionUUID",
    "renameCollection",
    "renameCollection.collectionUUID",
    "renameCollection.to",
];

/// What only edits need that are too large for one statement, which no gate sends to servers before MongoDB 5.0.
const LARGE: &[&str] = &[
    "$addFields",
    "$concat",
    "$merge",
    "$toInt",
    "aggregate.collation",
    "aggregate.let",
    "aggregate.writeConcern",
];

/// Upgrades with every kind of step, condition and edit.
const UPGRADES: &[&str] = &[
    "0.7.1=move_field,twice,pin,owners;0.7.2=extract,seed,grow;0.8.0=increment,singleton",
    "0.7.1=increment_narrow;0.8.0=spread,overtaken,grow_narrow",
    "0.8.0=purge",
    "0.8.0=index,unique,text_index,validator,options,hide;0.9.0=unindex,unvalidate",
    "0.8.0=idle;0.9.0=strict",
    "0.8.0=rename",
    "0.8.0=drop",
    // what the server evaluates, deletions, exact seeds and programs
    "0.7.1=evaluate_found;0.8.0=evaluate",
    "0.7.1=copy;0.8.0=discard",
    "0.8.0=move_out",
    "0.8.0=seed_computed",
    "0.8.0=program_found",
];

/// Moves `a` to `b`.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chaos/move_field.py");

/// The database, whose gates are known to the server by this name.
fn named(mut database: Fresh, app: &str) -> Fresh {
    let mark = if database.uri.contains('?') { '&' } else { '?' };
    database.uri = format!("{}{mark}appName={app}", database.uri);
    database
}

async fn filled(server: &Server, app: &str) -> Fresh {
    let database = named(server.database().await, app);
    let thing = |i: i32| {
        doc! {
            "_id": i, "a": i, "n": i, "unique_key": i, "block": "text", "owner": i, "children": i % 2,
            "grow": 10, "list": [{ "name": i }, { "name": "nobody" }],
        }
    };
    fill(&database, "things", (0..20).map(thing)).await;
    // a number that compares as equal to another one
    fill(&database, "things", [doc! { "_id": 21, "a": 0.0, "unique_key": 21 }]).await;
    // an array that is guarded as a whole, and a key of several documents
    let long: Vec<Document> = (0..350).map(|i| doc! { "name": i % 20 }).collect();
    fill(&database, "things", [doc! { "_id": 20, "list": long }]).await;
    fill(&database, "people", (0..40).map(|i| doc! { "_id": i, "name": i % 20 })).await;
    fill(&database, "counters", (0..20).map(|i| doc! { "_id": i })).await;
    fill(&database, "old", [doc! { "_id": 1 }]).await;
    database
}

/// The steps of these upgrades that a standalone server can do.
fn without_transactions(upgrades: &str) -> String {
    let needing = ["increment", "increment_narrow", "singleton", "spread"];
    let kept = upgrades.split(';').filter_map(|unit| {
        let (version, names) = unit.split_once('=')?;
        let names: Vec<&str> = names.split(',').filter(|name| !needing.contains(name)).collect();
        (!names.is_empty()).then(|| format!("{version}={}", names.join(",")))
    });
    kept.collect::<Vec<_>>().join(";")
}

/// Goes through all modes and all upgrades.
async fn everything(server: &Server, app: &str, transactions: bool) {
    for upgrades in UPGRADES {
        let upgrades = match transactions {
            true => (*upgrades).to_owned(),
            false => without_transactions(upgrades),
        };
        let gate = |database: &Fresh, batch| {
            scenario(&database.uri, "0.9.0", &upgrades)
                .set("GATE_BATCH_DOCUMENTS", batch)
                .set("GATE_TIMEOUT", "0s")
                .set("SCENARIO_PROGRAM", PROGRAM)
                .set("PATH", std::env::var("PATH").unwrap())
        };
        let database = filled(server, app).await;
        assert_ran(&gate(&database, "2000").run().await);
        let database = filled(server, app).await;
        let gate = gate(&database, "7").set("SCENARIO_STAMP", "settings/version");
        for mode in ["plan", "upgrade"] {
            assert_ran(&gate.clone().mode(mode).run().await);
        }
    }
    let database = filled(server, app).await;
    let gate = scenario(&database.uri, "0.8.0", "0.8.0=move_field").set("GATE_TIMEOUT", "0s");
    for mode in ["check", "wait", "status", "upgrade"] {
        assert_ran(&gate.clone().mode(mode).run().await);
    }
    let repair = gate.mode("record").set("GATE_EXPECT_VERSION", "0.8.0");
    assert_ran(&repair.set("GATE_RECORD_VERSION", "0.7.0").run().await);
    let fresh = named(server.database().await, app);
    let gate = scenario(&fresh.uri, "0.9.0", "0.8.0=move_field").unset("GATE_FROM_VERSION");
    assert_ran(&gate.set("GATE_INITIALISE", "fresh").run().await);
    // a validator of a collection that is not there
    let database = named(server.database().await, app);
    fill(&database, "others", [doc! { "_id": 1 }]).await;
    assert_ran(&scenario(&database.uri, "0.8.0", "0.8.0=validator").run().await);
    if !transactions && mongod_version() >= (5, 0) {
        // old and new value are too large for one statement
        let database = named(server.database().await, app);
        fill(&database, "things", [doc! { "_id": 1, "a": "y".repeat(8_500_000) }]).await;
        assert_ran(&scenario(&database.uri, "0.8.0", "0.8.0=move_field").run().await);
    }
    // a read that the server has under way when the run is told to stop
    let database = filled(server, app).await;
    let running = scenario(&database.uri, "0.8.0", "0.8.0=rare").spawn();
    eventually("a slow read", || reading(&database)).await;
    running.signal("TERM");
    running.wait().await;
    if transactions {
        // a transaction that outlives the run that began it, and one that outlives the server's patience
        let database = filled(server, app).await;
        let mut running = scenario(&database.uri, "0.8.0", "0.8.0=linger").spawn();
        running.logged("upgrade started").await;
        running.signal("TERM");
        running.wait().await;
        let second = doc! { "setParameter": 1, "transactionLifetimeLimitSeconds": 1 };
        database.client().database("admin").run_command(second).await.unwrap();
        let run = scenario(&database.uri, "0.8.0", "0.8.0=linger").run().await;
        assert_eq!(run.code, Some(14), "{run}");
    }
}

/// Whether the server looks for documents of the database by a function.
async fn reading(database: &Database) -> Option<()> {
    let under_way = [
        doc! { "$currentOp": { "allUsers": true, "localOps": true } },
        doc! { "$match": { "command.$db": database.name(), "command.filter": { "$exists": true } } },
    ];
    let mut operations = database.client().database("admin").aggregate(under_way).await.unwrap();
    operations.advance().await.unwrap().then_some(())
}

#[track_caller]
fn assert_ran(run: &Run) {
    let suited = mongod_version() >= (6, 0);
    assert!(matches!(run.code, Some(0 | 10)) || !suited && run.code == Some(18), "{run}");
}

#[tokio::test]
async fn what_is_listed_is_what_gates_send() {
    let app = "listed_gate";
    let mut sent = Parts::new();
    for (server, transactions) in
        [(Server::replica_set().await, true), (Server::standalone().await, false)]
    {
        log::verbose(&server).await;
        everything(&server, app, transactions).await;
        sent.extend(log::logged(&server, app).await);
    }
    sent.retain(|part| !AUTHORS.contains(&part.as_str()));
    let commands = self::sent();
    let mut listed = log::listed(commands.iter().map(|(_, _, command)| command));
    if mongod_version() < (6, 0) {
        listed.retain(|part| !BY_UUID.contains(&part.as_str()));
    }
    if mongod_version() < (5, 0) {
        listed.retain(|part| !LARGE.contains(&part.as_str()));
    }
    let unlisted: Vec<&String> = sent.difference(&listed).collect();
    let never: Vec<&String> = listed.difference(&sent).collect();
    assert!(unlisted.is_empty(), "gates send what the list does not have: {unlisted:#?}");
    assert!(never.is_empty(), "the list has what no gate sent: {never:#?}");
}
