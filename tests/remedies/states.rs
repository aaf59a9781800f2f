//! Databases and upgrades that close the gate, and the way out of each.

use mongodb::bson::{Bson, doc};

use super::apps::METADATA;
use super::case::Do::{Admin, AsPrinted, Command, Run, Set, Told};
use super::case::On::{Both, ReplicaSet};
use super::case::{Case, Do, case, insert, old, recorded, up_to_date, update};

const CODE: &str = "SCENARIO_CODE";
const UPGRADES: &str = "SCENARIO_UPGRADES";
const STAMP: Do = Set("SCENARIO_STAMP", "settings/version");
const FROM: &str = "GATE_FROM_VERSION";
const TARGET: &str = "GATE_TARGET_VERSION";
const MODE: &str = "GATE_MODE";
const RECORD: &str = "GATE_RECORD_VERSION";
const EXPECT: &str = "GATE_EXPECT_VERSION";

pub fn cases() -> Vec<Case> {
    let cases = [settings(), versions(), stamps(), journals(), repairs(), upgrades(), commands()];
    cases.into_iter().flatten().collect()
}

/// What the application says of itself.
fn stamped(version: impl Into<Bson>) -> Do {
    insert("settings", doc! { "_id": "app", "version": version })
}

fn is_record() -> mongodb::bson::Document {
    doc! { "_id": "scenario_schema_version" }
}

/// An upgrade to 0.8.0 that stops after its first document, and what lets it go on.
fn unfinished() -> [Do; 6] {
    [
        old(),
        Set(UPGRADES, "0.8.0=clash"),
        Set("GATE_BATCH_DOCUMENTS", "1"),
        Command(doc! { "createIndexes": "things", "indexes": [
            { "key": { "unique_key": 1 }, "name": "k", "unique": true, "sparse": true },
        ] }),
        update("things", doc! { "_id": 2 }, doc! { "$set": { "clash": true } }),
        Run(14),
    ]
}

const FIXED: Do = Set("SCENARIO_FIXED", "true");

fn with(first: impl IntoIterator<Item = Do>, then: impl IntoIterator<Item = Do>) -> Vec<Do> {
    first.into_iter().chain(then).collect()
}

/// Settings that do not fit the database.
fn settings() -> Vec<Case> {
    let unrecorded = "for an existing database set GATE_FROM_VERSION to the version that it last ran; for a new, \
                      empty one set GATE_INITIALISE=fresh";
    let chain = || [old(), Set(CODE, "0.9.0"), Set(UPGRADES, "0.8.0=move_field;0.9.0=twice")];
    let empty = || Command(doc! { "drop": "things" });
    vec![
        case(unrecorded, Both, [Told(11), Set(FROM, "0.7.0"), Run(0)]),
        case(unrecorded, Both, [empty(), Told(11), AsPrinted, Run(0)]),
        case(
            "correct the database's name in GATE_DATABASE or the connection string; for a new, empty database set \
             GATE_INITIALISE=fresh",
            Both,
            [
                Set(FROM, "0.7.0"),
                Set("GATE_DATABASE", "{database}_"),
                Told(11),
                Set("GATE_DATABASE", "{database}"),
                Run(0),
            ],
        ),
        case(
            "correct the database's name in GATE_DATABASE or the connection string; for a new, empty database set \
             GATE_INITIALISE=fresh",
            Both,
            [empty(), Set(FROM, "0.7.0"), Told(11), AsPrinted, Run(0)],
        ),
        case(
            "set GATE_FROM_VERSION to the version that this database last ran, or name an empty database",
            Both,
            [Set("GATE_INITIALISE", "fresh"), Told(11), Set(FROM, "0.7.0"), Run(0)],
        ),
        case(
            "deploy {from} or later, or {otherwise}",
            Both,
            [Set(FROM, "0.9.0"), Told(12), Set(CODE, "0.9.0"), Run(0)],
        ),
        case(
            "correct GATE_FROM_VERSION",
            Both,
            [Set(FROM, "0.9.0"), Told(12), Set(FROM, "0.7.0"), Run(0)],
        ),
        case(
            "restore a backup",
            Both,
            [
                STAMP,
                stamped("0.9.0"),
                Told(12),
                update("settings", doc! {}, doc! { "$set": { "version": "0.7.0" } }),
                Run(0),
            ],
        ),
        case(
            "remove GATE_FROM_VERSION: a recorded database does not need it",
            Both,
            [old(), Set(FROM, "0.8.0"), Told(16), Set(FROM, ""), Run(0)],
        ),
        case(
            "remove GATE_FROM_VERSION: a database that has its application's version does not need it",
            Both,
            [STAMP, stamped("0.7.0"), Set(FROM, "0.8.0"), Told(16), Set(FROM, ""), Run(0)],
        ),
        case(
            "remove GATE_TARGET_VERSION, or name a version above the recorded one",
            Both,
            [up_to_date(), Set(TARGET, "0.7.5"), Told(16), Set(TARGET, ""), Run(0)],
        ),
        case(
            "remove GATE_TARGET_VERSION, or name a version above the one the database last ran",
            Both,
            [Set(FROM, "0.7.5"), Set(TARGET, "0.7.0"), Told(16), Set(TARGET, ""), Run(0)],
        ),
        case(
            "remove GATE_TARGET_VERSION, or name {version} or a later version",
            Both,
            with(
                unfinished(),
                [FIXED, Set(TARGET, "0.7.5"), Told(16), Set(TARGET, "0.8.0"), Run(0)],
            ),
        ),
        case(
            "run it without GATE_TARGET_VERSION when the rest may be applied",
            Both,
            with(chain(), [Set(TARGET, "0.8.0"), Told(10), Set(TARGET, ""), Run(0)]),
        ),
        case(
            "run it with GATE_MODE=upgrade (GATE_MODE=plan shows what that would do)",
            Both,
            with(
                chain(),
                [
                    Set(MODE, "check"),
                    Told(10),
                    Set(MODE, "plan"),
                    Run(10),
                    Set(MODE, "upgrade"),
                    Run(0),
                ],
            ),
        ),
        case(
            "run it with GATE_MODE=upgrade to apply what is listed here",
            Both,
            with(chain(), [Set(MODE, "plan"), Told(10), AsPrinted, Run(0)]),
        ),
        case(
            "run it with GATE_MODE=upgrade first: it records the version",
            Both,
            [
                Set(FROM, "0.8.0"),
                Set(MODE, "sweep"),
                Told(10),
                AsPrinted,
                Run(0),
                Set(MODE, "sweep"),
                Run(0),
            ],
        ),
        case(
            "run it with GATE_INITIALISE=fresh and GATE_MODE=upgrade",
            Both,
            [
                empty(),
                Set("GATE_INITIALISE", "fresh"),
                Set(MODE, "check"),
                Told(11),
                AsPrinted,
                Run(0),
            ],
        ),
        case(
            "run it with GATE_MODE=upgrade: it goes on where the last run stopped",
            Both,
            with(unfinished(), [FIXED, Set(MODE, "check"), Told(10), AsPrinted, Run(0)]),
        ),
        case(
            "write {stored} in GATE_DATABASE or the connection string",
            Both,
            [
                old(),
                Set("GATE_DATABASE", "{DATABASE}"),
                Set("GATE_INITIALISE", "fresh"),
                Told(16),
                Set("GATE_DATABASE", "{database}"),
                Run(0),
            ],
        ),
        case(
            "wait until it is finished, then run it again; if it was killed, its lease ends by itself",
            Both,
            [
                old(),
                update_lock(2000),
                Set("GATE_LOCK_WAIT", "0s"),
                Told(21),
                Set("GATE_LOCK_WAIT", ""),
                Run(0),
            ],
        ),
        case(
            "rename or remove the document {LOCK_ID} of {place}, then run it again",
            Both,
            [
                old(),
                insert(METADATA, doc! { "_id": "upgrade_lock", "note": "ours" }),
                Told(15),
                Command(
                    doc! { "delete": METADATA, "deletes": [{ "q": { "_id": "upgrade_lock" }, "limit": 1 }] },
                ),
                Run(0),
            ],
        ),
    ]
}

/// A lock that another run holds for so many milliseconds.
fn update_lock(left: i32) -> Do {
    let lock = doc! { "run_id": "other", "host": "h", "expires": { "$add": ["$$NOW", left] } };
    Command(doc! { "update": METADATA, "updates": [
        { "q": { "_id": "upgrade_lock" }, "u": [{ "$set": lock }], "upsert": true },
    ] })
}

/// Records that this code cannot take on.
fn versions() -> Vec<Case> {
    let mode_record = "; if the documents are as this code expects them, set GATE_MODE=record, GATE_RECORD_VERSION \
                       to {}, GATE_EXPECT_VERSION={}{}";
    let missing = "set GATE_MODE=record, GATE_EXPECT_VERSION={text}{discard}, and GATE_RECORD_VERSION to a version \
                   before {missing}, so that it is applied{again}{as_it_is}";
    let newer = || {
        recorded(
            "0.9.0",
            &["initialise 0.7.0", "upgrade 0.8.0 floor 0.8.0", "upgrade 0.9.0 floor 0.9.0"],
        )
    };
    let set_back =
        || recorded("0.8.0", &["upgrade 0.9.0 floor 0.9.0", "auto_stamp 0.8.0 floor 0.9.0"]);
    let applied =
        ["initialise 0.7.0 floor none", "upgrade 0.7.5 floor 0.7.5", "upgrade 0.8.0 floor 0.8.0"];
    let after = [&applied[..], &["auto_stamp 0.9.0 floor 0.8.0"]].concat();
    let disagrees = || recorded("0.8.0", &["auto_stamp 0.7.0", "auto_stamp 0.8.0"]);
    vec![
        case(
            "deploy {floor} or restore a backup{set_back}",
            Both,
            [
                newer(),
                Told(12),
                Set(CODE, "0.9.0"),
                Set(UPGRADES, "0.8.0=move_field;0.9.0=twice"),
                Run(0),
            ],
        ),
        case(
            "deploy {floor} or restore a backup{set_back}",
            Both,
            [
                newer(),
                Told(12),
                update(
                    METADATA,
                    is_record(),
                    doc! { "$set": { "version": "0.7.0", "history": [] } },
                ),
                Run(0),
            ],
        ),
        case(mode_record, Both, [set_back(), Told(12), AsPrinted, Set(RECORD, "0.8.0"), Run(0)]),
        case(
            "deploy {} first ({oldest} or later), so that its gate upgrades the database, and then {code}",
            Both,
            [
                old(),
                Set("SCENARIO_OLDEST", "0.7.5"),
                Told(12),
                Set("SCENARIO_OLDEST", ""),
                Set(CODE, "0.7.9"),
                Set(UPGRADES, "0.7.5=move_field"),
                Run(0),
                Set("SCENARIO_OLDEST", "0.7.5"),
                Set(CODE, "0.8.0"),
                Set(UPGRADES, "0.8.0=twice"),
                Run(0),
            ],
        ),
        case(
            "deploy code that has it{}",
            Both,
            [
                recorded("0.8.0", &applied),
                Set("SCENARIO_OLDEST", "0.7.2"),
                Told(12),
                Set(UPGRADES, "0.7.5=twice;0.8.0=move_field"),
                Run(0),
            ],
        ),
        case(
            "deploy code that has it",
            Both,
            [
                recorded("0.9.0", &after),
                Set("SCENARIO_OLDEST", "0.7.2"),
                Told(12),
                Set(UPGRADES, "0.7.5=twice;0.8.0=move_field"),
                Run(0),
            ],
        ),
        case(
            missing,
            Both,
            [
                disagrees(),
                Told(12),
                AsPrinted,
                Set(RECORD, "0.7.0"),
                Run(10),
                Set(MODE, "upgrade"),
                Set(RECORD, ""),
                Set(EXPECT, ""),
                Run(0),
            ],
        ),
        case(missing, Both, [disagrees(), Told(12), AsPrinted, Set(RECORD, "0.8.0"), Run(0)]),
        case(
            "find out which version the database is at, then set GATE_MODE=record, GATE_RECORD_VERSION to it and GATE_EXPECT_VERSION={}{}",
            Both,
            [recorded("latest", &[]), Told(15), AsPrinted, Set(RECORD, "0.8.0"), Run(0)],
        ),
    ]
}

/// Applications that keep their version themselves.
fn stamps() -> Vec<Case> {
    let settles = "find out which of the two the documents are at{deploy}, then set GATE_MODE=record, \
                   GATE_RECORD_VERSION to it and GATE_EXPECT_VERSION={}{}: that writes both";
    vec![
        case(
            "if the recorded version, {}, is right, set GATE_MODE=record, GATE_RECORD_VERSION to {} and GATE_EXPECT_VERSION={}{}: that writes it there too",
            Both,
            [
                up_to_date(),
                STAMP,
                stamped("latest"),
                Told(15),
                AsPrinted,
                Set(RECORD, "0.8.0"),
                Run(0),
            ],
        ),
        case(
            "make one document of {} have the field {}, with the application's version as text",
            Both,
            [
                up_to_date(),
                STAMP,
                stamped(9),
                Told(15),
                update("settings", doc! {}, doc! { "$set": { "version": "0.8.0" } }),
                Run(0),
            ],
        ),
        case(
            settles,
            Both,
            [
                up_to_date(),
                STAMP,
                stamped("0.7.0"),
                Told(12),
                AsPrinted,
                Set(RECORD, "0.8.0"),
                Run(0),
            ],
        ),
        case(
            " (if it is {stamped}, deploy {stamped} or later first)",
            Both,
            [
                up_to_date(),
                STAMP,
                stamped("0.9.0"),
                Told(12),
                Set(CODE, "0.9.0"),
                AsPrinted,
                Set(RECORD, "0.9.0"),
                Run(0),
            ],
        ),
    ]
}

/// Unfinished upgrades that this code cannot finish.
fn journals() -> Vec<Case> {
    let ends = || {
        [Set(MODE, "upgrade"), Set(RECORD, ""), Set(EXPECT, ""), Set("GATE_DISCARD_JOURNAL", "")]
    };
    let other = || with([Set(UPGRADES, "0.8.0=move_field")], [Set(CODE, "0.8.1")]);
    let given_up = "run {} again to finish it, or restore a backup; to give it up set GATE_MODE=record, \
                    GATE_RECORD_VERSION to the version that the documents are at, GATE_EXPECT_VERSION={}{}";
    let overtaken = "deploy code whose first upgrade after {} is that of {}, to finish it; to give it up set \
                     GATE_MODE=record, GATE_RECORD_VERSION to the version that the documents are at, \
                     GATE_EXPECT_VERSION={}{}";
    let earlier = || Set(UPGRADES, "0.7.5=move_field;0.8.0=clash");
    vec![
        case(
            "find out which version the documents are at, then set GATE_MODE=record, GATE_RECORD_VERSION to it, GATE_EXPECT_VERSION={}{}",
            Both,
            with(
                with(
                    unfinished(),
                    [
                        FIXED,
                        update(METADATA, is_record(), doc! { "$set": { "version": "0.7.1" } }),
                        Told(15),
                        AsPrinted,
                        Set(RECORD, "0.7.1"),
                        Run(10),
                    ],
                ),
                with(ends(), [Run(0)]),
            ),
        ),
        case(
            given_up,
            Both,
            with(
                with(unfinished(), other()),
                [Told(12), Set(UPGRADES, "0.8.0=clash"), Set(CODE, "0.8.0"), FIXED, Run(0)],
            ),
        ),
        case(
            given_up,
            Both,
            with(
                with(
                    with(unfinished(), other()),
                    [Told(12), AsPrinted, Set(RECORD, "0.7.0"), Run(10)],
                ),
                with(ends(), [Run(0)]),
            ),
        ),
        case(
            overtaken,
            Both,
            with(unfinished(), [FIXED, earlier(), Told(12), Set(UPGRADES, "0.8.0=clash"), Run(0)]),
        ),
        case(
            overtaken,
            Both,
            with(
                with(
                    unfinished(),
                    [FIXED, earlier(), Told(12), AsPrinted, Set(RECORD, "0.7.0"), Run(10)],
                ),
                with(ends(), [Run(0)]),
            ),
        ),
    ]
}

/// Mode `record`, used in a wrong way.
fn repairs() -> Vec<Case> {
    let repair = |expect| [Set(MODE, "record"), Set(EXPECT, expect), Set(RECORD, "0.8.0")];
    vec![
        case(
            "set GATE_FROM_VERSION or GATE_INITIALISE in mode upgrade instead",
            Both,
            with(
                repair("0.7.0"),
                [
                    Told(16),
                    Set(MODE, "upgrade"),
                    Set(EXPECT, ""),
                    Set(RECORD, ""),
                    Set(FROM, "0.7.0"),
                    Run(0),
                ],
            ),
        ),
        case(
            "look at the database again, and set GATE_EXPECT_VERSION to what is stored if the repair is still right",
            Both,
            with(with([old()], repair("0.7.1")), [Told(16), Set(EXPECT, "0.7.0"), Run(0)]),
        ),
        case(
            "remove GATE_DISCARD_JOURNAL",
            Both,
            with(
                with([old()], repair("0.7.0")),
                [
                    Set("GATE_DISCARD_JOURNAL", "j1"),
                    Told(16),
                    Set("GATE_DISCARD_JOURNAL", ""),
                    Run(0),
                ],
            ),
        ),
    ]
}

/// Documents and code that stand in an upgrade's way.
fn upgrades() -> Vec<Case> {
    let with_upgrade = |upgrade| [old(), Set(UPGRADES, upgrade)];
    let mark = || update("things", doc! { "_id": 2 }, doc! { "$set": { "bad": true } });
    let unmark = || update("things", doc! { "_id": 2 }, doc! { "$unset": { "bad": true } });
    let refused =
        "correct what it names, or deploy code whose upgrade can deal with it, then run it again";
    let by_server =
        "correct the document, or deploy code whose upgrade can deal with it, then run it again";
    let task = |field: &str| insert("tasks", doc! { "_id": 1, field: true });
    let done = || update("tasks", doc! {}, doc! { "$set": { "locked": false, "running": false } });
    vec![
        case(
            refused,
            Both,
            with(with_upgrade("0.8.0=refuse"), [mark(), Told(14), unmark(), Run(0)]),
        ),
        case(refused, Both, with(with_upgrade("0.8.0=refuse"), [mark(), Told(14), FIXED, Run(0)])),
        case(
            "the log has the file and line of the panic: correct the code there, deploy it, then run it again",
            Both,
            with(with_upgrade("0.8.0=panic"), [mark(), Told(1), FIXED, Run(0)]),
        ),
        case(by_server, Both, with(with(unfinished(), [Told(14), FIXED]), [Run(0)])),
        case(
            by_server,
            Both,
            with(
                unfinished(),
                [
                    Told(14),
                    update("things", doc! { "_id": 2 }, doc! { "$unset": { "clash": true } }),
                    Run(0),
                ],
            ),
        ),
        case(
            "{remedy}, then run it again{skip}",
            Both,
            with(with_upgrade("0.8.0=strict"), [task("locked"), Told(13), done(), Run(0)]),
        ),
        case(
            "correct these documents",
            Both,
            with(with_upgrade("0.8.0=strict"), [task("locked"), Told(13), done(), Run(0)]),
        ),
        case(
            ", or set GATE_SKIP_CONDITIONS=true",
            Both,
            with(with_upgrade("0.8.0=idle"), [task("running"), Told(13), AsPrinted, Run(0)]),
        ),
        case(
            "if the collection is missing, raise the feature compatibility version to 4.4 or later (setFeatureCompatibilityVersion) or create the collection; if it is capped, make it an ordinary one; then run it again",
            ReplicaSet,
            with(
                with_upgrade("0.8.0=move_field"),
                [
                    Command(doc! { "convertToCapped": "things", "size": 100_000 }),
                    Told(18),
                    Command(
                        doc! { "aggregate": "things", "pipeline": [{ "$out": "copy" }], "cursor": {} },
                    ),
                    Admin(
                        doc! { "renameCollection": "{database}.copy", "to": "{database}.things", "dropTarget": true },
                    ),
                    Run(0),
                ],
            ),
        ),
    ]
}

/// Collections and indexes that are in a command's way.
fn commands() -> Vec<Case> {
    let with_upgrade = |upgrade| [old(), Set(UPGRADES, upgrade)];
    let index = |key: mongodb::bson::Document, name: &str| {
        Command(doc! { "createIndexes": "things", "indexes": [{ "key": key, "name": name }] })
    };
    let drop = |name: &str| Command(doc! { "dropIndexes": "things", "index": name });
    vec![
        case(
            "create the index, or deploy code whose upgrade creates it first, then run it again",
            Both,
            with(with_upgrade("0.8.0=hide"), [Told(14), index(doc! { "b": 1 }, "by b"), Run(0)]),
        ),
        case(
            "drop it, by hand or with a step before, or choose another name",
            Both,
            with(
                with_upgrade("0.8.0=index"),
                [index(doc! { "c": 1 }, "by b"), Told(14), drop("by b"), Run(0)],
            ),
        ),
        case(
            "give the new one that name, or drop the other one with a step before",
            Both,
            with(
                with_upgrade("0.8.0=index"),
                [index(doc! { "b": 1 }, "another"), Told(14), drop("another"), Run(0)],
            ),
        ),
        case(
            "compare the two collections, move the one that is in the way, then run it again",
            Both,
            with(
                with_upgrade("0.8.0=rename"),
                [
                    insert("old", doc! { "_id": 1 }),
                    insert("new", doc! { "_id": 1 }),
                    Told(14),
                    Admin(doc! { "renameCollection": "{database}.new", "to": "{database}.aside" }),
                    Run(0),
                ],
            ),
        ),
    ]
}
