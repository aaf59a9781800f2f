//! Errors of the server, and what its operator does about each. An error that only its surroundings can cause
//! (a full disk, a network that fails) is made by a fail point, and ends with it.

use mongodb::bson::{Document, doc};

use super::apps::METADATA;
use super::case::Do::{Admin, Command, Run, Set, Told};
use super::case::On::ReplicaSet;
use super::case::{Case, case, fault, insert, no_fault, old};

pub fn cases() -> Vec<Case> {
    errors().into_iter().chain(states()).collect()
}

/// The gate meets an error until it has passed, or somebody has corrected its cause.
fn meets(remedy: &'static str, code: i32, command: &str, how: Document) -> Case {
    let begin = [old(), Set("GATE_TIMEOUT", "100ms")].into_iter().chain(fault(command, how));
    let end = [Told(code), no_fault(), Set("GATE_TIMEOUT", ""), Run(0)];
    case(remedy, ReplicaSet, begin.chain(end))
}

fn errors() -> Vec<Case> {
    let error = |remedy, code, number: i32| {
        meets(remedy, code, "findAndModify", doc! { "errorCode": number })
    };
    vec![
        error("correct the database's name in GATE_DATABASE or the connection string", 16, 73),
        error(
            "write the database's name in GATE_DATABASE or the connection string as the server has it",
            16,
            13297,
        ),
        error(
            "check user, password, authSource and authMechanism in the connection string",
            17,
            18,
        ),
        error(
            "start the server without enableMajorityReadConcern=false, then run it again",
            18,
            148,
        ),
        error("free space on the server's disk or enlarge it, then run it again", 18, 14031),
        error("use MongoDB 4.4 or later, and not a server that only resembles it", 18, 59),
        error("check the network between the servers, then run it again", 20, 6),
        error(
            "check rs.status(); if the set is new, run rs.initiate() once; then run it again",
            20,
            94,
        ),
        error("run it again once the replica set has a primary", 20, 189),
        error(
            "check that a majority of the set's members that hold data runs, then run it again",
            20,
            64,
        ),
        error("run it again; db.currentOp() shows what keeps the server busy", 20, 50),
        error("correct what the server objects to, then run it again", 20, 8),
        meets(
            "run it again once the server has a primary",
            20,
            "findAndModify",
            doc! {
                "errorCode": 8, "errorLabels": ["RetryableWriteError"],
            },
        ),
        meets(
            "check that the server runs and is a MongoDB, then run it again",
            20,
            "aggregate",
            doc! { "closeConnection": true },
        ),
        meets(
            "check host and port in the connection string, the network, that the server runs, and that a majority of \
             its replica set does, without which no write is confirmed",
            20,
            "aggregate",
            doc! { "blockConnection": true, "blockTimeMS": 3000 },
        ),
    ]
}

fn states() -> Vec<Case> {
    let is_there = |remedy, create: Document, removed: Document| {
        let fresh = Set("GATE_INITIALISE", "fresh");
        let empty = Command(doc! { "drop": "things" });
        case(
            remedy,
            ReplicaSet,
            [empty, fresh, Command(create), Told(18), Command(removed), Run(0)],
        )
    };
    let dropped = || doc! { "drop": METADATA };
    let no_view = "drop or rename what is there under that name, so that an ordinary collection takes its place";
    vec![
        is_there(
            no_view,
            doc! { "create": METADATA, "viewOn": "things", "pipeline": [] },
            dropped(),
        ),
        is_there(
            no_view,
            doc! { "create": METADATA, "timeseries": { "timeField": "t" } },
            dropped(),
        ),
        is_there(
            "remove the validator of that collection (collMod with validator: {}), then run it again",
            doc! { "create": METADATA, "validator": { "zz": { "$exists": true } } },
            doc! { "collMod": METADATA, "validator": {} },
        ),
        is_there(
            "drop that index, then run it again",
            doc! { "createIndexes": METADATA, "indexes": [{ "key": { "zz": 1 }, "name": "zz", "unique": true }] },
            doc! { "dropIndexes": METADATA, "index": "zz" },
        ),
        case(
            "replace the capped collection by an ordinary one with the same documents, or start the server for writing",
            ReplicaSet,
            [
                Command(doc! { "create": METADATA, "capped": true, "size": 1_000_000 }),
                old(),
                Told(18),
                Command(
                    doc! { "aggregate": METADATA, "pipeline": [{ "$out": "copy" }], "cursor": {} },
                ),
                Admin(
                    doc! { "renameCollection": "{database}.copy", "to": format!("{{database}}.{METADATA}"), "dropTarget": true },
                ),
                Run(0),
            ],
        ),
        case(
            "set the server's parameter requireApiVersion to false, then run it again",
            ReplicaSet,
            [
                old(),
                insert("more", doc! { "_id": 1 }),
                Admin(doc! { "setParameter": 1, "requireApiVersion": true }),
                Told(18),
                Admin(doc! { "setParameter": 1, "requireApiVersion": false }),
                Run(0),
            ],
        ),
    ]
}
