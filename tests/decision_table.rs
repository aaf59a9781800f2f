//! The contract's table of decisions, cell by cell, through real processes on a real server.

mod support;

use std::sync::Arc;

use mongodb::bson::{Bson, DateTime, Document, doc};
use mongodb::options::IndexOptions;
use mongodb::{Database, IndexModel};
use serde_json::{Value, json};
use support::{Fresh, Gate, Run, Server, db_hash, dump, example};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The table as the contract has it, a row for every state of the database that it names, and more than
/// one where the state has several shapes.
///
/// A state is what the database holds, the code that meets it (0.8.0 with one upgrade of that version,
/// unless the row says otherwise) and the settings. `opens` and `closes` write nothing unless `writes`
/// says what is added to the history. `waits` ends with its code when the patience of the row's mode is
/// over, and opens when somebody brings the database up to date meanwhile.
#[rustfmt::skip]
fn contract() -> Vec<Row> {
    let unmet = closes(13).left(&["0.8.0"]).says("\"nothing is locked\" of 0.8.0 does not hold: 1 document in tasks is in the way");
    vec![
    // the state of the database                          upgrade                                                           check        wait         plan
    row("recorded = code",
        at("0.8.0", &[INIT, "upgrade 0.8.0 floor 0.8.0"]),
                                                          opens(),                                                          opens(),     opens(),     opens()),
    row("recorded = code, by Python",
        at("0.8.0", &["initialise 0.7.0", "upgrade 0.8.0"]),
                                                          opens(),                                                          opens(),     opens(),     opens()),
    row("recorded = code, in another spelling",
        at("v0.8", &["initialise 0.8.0"]),                opens(),                                                          opens(),     opens(),     opens()),
    row("recorded = code, history empty",
        at("0.8.0", &[]),                                 opens(),                                                          opens(),     opens(),     opens()),
    row("recorded = code, no field history",
        at("0.8.0", &[]).without("history"),              opens(),                                                          opens(),     opens(),     opens()),
    row("recorded = code, settings left in the values",
        at("0.8.0", &["initialise 0.8.0"]).set("GATE_INITIALISE", "fresh").set("GATE_FROM_VERSION", "0.8.0"),
                                                          opens(),                                                          opens(),     opens(),     opens()),
    row("recorded = code, an earlier GATE_FROM_VERSION left in the values",
        at("0.8.0", &["initialise 0.8.0"]).set("GATE_FROM_VERSION", "v0.7.0rc1"),
                                                          opens(),                                                          opens(),     opens(),     opens()),

    row("behind, nothing pending",
        at("0.8.0", &["initialise 0.8.0 floor 0.8.0"]).code("0.8.1", UPGRADE),
                                                          opens().writes(&["auto_stamp 0.8.1 floor 0.8.0"]),                opens(),     opens(),     opens()),
    row("behind, nothing pending, by Python",
        at("0.8.0.post1", &["auto_stamp 0.7.9", "upgrade 0.8.0", "auto_stamp 0.8.0.post1"]).code("0.8.1", UPGRADE),
                                                          opens().writes(&["auto_stamp 0.8.1 floor 0.8.0"]),                opens(),     opens(),     opens()),
    row("behind, nothing pending, the upgrade's pre-release recorded",
        at("0.8.0rc1", &["initialise 0.8.0a3", "upgrade 0.8.0rc1"]).code("0.8.0", "0.8.0-rc.1=move_field"),
                                                          opens().writes(&["auto_stamp 0.8.0 floor 0.8.0-rc.1"]),           opens(),     opens(),     opens()),
    row("behind, no upgrades at all, history empty",
        at("0.7.0", &[]).code("0.8.0", ""),               opens().writes(&["auto_stamp 0.8.0 floor 0.7.0"]),                opens(),     opens(),     opens()),
    row("behind, nothing pending, a fresh setting left in the values",
        at("0.8.0", &["initialise 0.8.0 floor 0.8.0"]).code("0.8.1", UPGRADE).set("GATE_INITIALISE", "fresh"),
                                                          opens().writes(&["auto_stamp 0.8.1 floor 0.8.0"]),                opens(),     opens(),     opens()),

    row("behind, pending",
        at("0.7.0", &[INIT]),                             opens().writes(&["upgrade 0.8.0 floor 0.8.0"]).did(MOVED),        closes(10),  waits(10),   closes(10).did(MOVED)).left(&["0.8.0"]),
    row("behind, pending, a development version recorded",
        at("0.8.0.dev3+g12ab", &["auto_stamp 0.8.0.dev3+g12ab"]),
                                                          opens().writes(&["upgrade 0.8.0 floor 0.8.0"]).did(MOVED),        closes(10),  waits(10),   closes(10).did(MOVED)).left(&["0.8.0"]),
    row("behind, a chain pending",
        at("0.7.0", &[INIT]).code("0.9.1", CHAIN),
        opens().writes(&["upgrade 0.8.0 floor 0.8.0", "upgrade 0.9.0 floor 0.9.0", "auto_stamp 0.9.1 floor 0.9.0"]).did(BOTH),
                                                                                                                            closes(10),  waits(10),   closes(10).did(BOTH)).left(&["0.8.0", "0.9.0"]),
    row("behind, pending, history empty",
        at("0.7.0", &[]),                                 opens().writes(&["upgrade 0.8.0 floor 0.8.0"]).did(MOVED),        closes(10),  waits(10),   closes(10).did(MOVED)).left(&["0.8.0"]),
    row("behind, pending, settings left in the values",
        at("0.7.0", &[INIT]).set("GATE_INITIALISE", "fresh").set("GATE_FROM_VERSION", "0.6.0"),
                                                          opens().writes(&["upgrade 0.8.0 floor 0.8.0"]).did(MOVED),        closes(10),  waits(10),   closes(10).did(MOVED)).left(&["0.8.0"]),

    row("newer than code, floor <= code",
        at("0.8.5", &[INIT, "upgrade 0.8.0 floor 0.8.0", "auto_stamp 0.8.5 floor 0.8.0"]),
                                                          opens(),                                                          opens(),     opens(),     opens()).warns("newer than this code's 0.8.0").warns("floor is 0.8.0"),
    row("newer than code, floor <= code, by Python",
        at("0.9.0", &["initialise 0.8.0", "auto_stamp 0.9.0"]),
                                                          opens(),                                                          opens(),     opens(),     opens()).warns("newer than this code's 0.8.0").warns("floor is 0.8.0"),
    row("newer than code, no floor",
        at("0.9.0", &["initialise 0.7.0 floor none", "auto_stamp 0.9.0 floor none"]).code("0.8.0", ""),
                                                          opens(),                                                          opens(),     opens(),     opens()).warns("newer than this code's 0.8.0").warns("floor is none"),

    row("newer than code, floor > code",
        at("0.9.0", &[INIT, "upgrade 0.8.0 floor 0.8.0", "upgrade 0.9.0 floor 0.9.0"]),
                                                          closes(12),                                                       closes(12),  closes(12),  closes(12)).says("database is at 0.9.0 but this binary is 0.8.0 and the floor is 0.9.0"),
    row("newer than code, floor > code, by Python",
        at("0.8.1", &["initialise 0.8.0", "upgrade 0.8.1"]),
                                                          closes(12),                                                       closes(12),  closes(12),  closes(12)).says("the floor is 0.8.1"),
    row("newer than code, born there",
        at("0.9.0", &["auto_stamp 0.9.0"]),               closes(12),                                                       closes(12),  closes(12),  closes(12)).says("the floor is 0.9.0"),
    row("newer than code, history empty",
        at("0.9.0", &[]),                                 closes(12),                                                       closes(12),  closes(12),  closes(12)).says("the floor is 0.9.0"),
    row("recorded = code, floor > code",
        at("0.8.0", &["upgrade 0.9.0", "auto_stamp 0.8.0"]),
                                                          closes(12),                                                       closes(12),  closes(12),  closes(12)).says("the floor is 0.9.0"),

    row("unrecorded, no upgrade could apply",
        unrecorded().code("0.8.0", ""),                   opens().writes(&["auto_stamp 0.8.0 floor none"]),                 opens(),     opens(),     opens()),
    row("unrecorded and empty, no upgrade could apply",
        unrecorded().empty().code("0.8.0", ""),           opens().writes(&["auto_stamp 0.8.0 floor none"]),                 opens(),     opens(),     opens()),

    row("unrecorded, no upgrade could apply, settings left in the values",
        unrecorded().code("0.8.0", "").set("GATE_INITIALISE", "fresh").from("0.7.0"),
                                                          opens().writes(&["auto_stamp 0.8.0 floor none"]),                 opens(),     opens(),     opens()),

    row("unrecorded, every upgrade was removed, no flag",
        unrecorded().code("0.8.0", "").oldest("0.7.0"),   closes(11),                                                       closes(11),  waits(11),   closes(11)).says("GATE_FROM_VERSION").says("GATE_INITIALISE"),
    row("unrecorded, upgrades exist, no flag",
        unrecorded(),                                     closes(11),                                                       closes(11),  waits(11),   closes(11)).says("GATE_FROM_VERSION").says("GATE_INITIALISE"),
    row("unrecorded and empty, upgrades exist, no flag",
        unrecorded().empty(),                             closes(11),                                                       closes(11),  waits(11),   closes(11)).says("GATE_FROM_VERSION").says("GATE_INITIALISE"),
    row("unrecorded, an older upgrade exists, no flag",
        unrecorded().code("0.9.0", UPGRADE),              closes(11),                                                       closes(11),  waits(11),   closes(11)).says("GATE_FROM_VERSION").says("GATE_INITIALISE"),

    row("unrecorded, fresh, no documents",
        unrecorded().empty().set("GATE_INITIALISE", "fresh"),
                                                          opens().writes(&["initialise 0.8.0 floor 0.8.0"]),                closes(11),  waits(11),   closes(11).says("would initialise it at 0.8.0")),
    row("unrecorded, fresh, no documents, the upgrade is older than the code",
        unrecorded().empty().code("0.9.0", UPGRADE).set("GATE_INITIALISE", "fresh"),
                                                          opens().writes(&["initialise 0.9.0 floor 0.8.0"]),                closes(11),  waits(11),   closes(11).says("would initialise it at 0.9.0")),
    row("unrecorded, fresh, no documents, every upgrade was removed",
        unrecorded().empty().code("0.8.0", "").oldest("0.7.0").set("GATE_INITIALISE", "fresh"),
                                                          opens().writes(&["initialise 0.8.0 floor 0.7.0"]),                closes(11),  waits(11),   closes(11).says("would initialise it at 0.8.0")),
    row("unrecorded, fresh, documents",
        unrecorded().set("GATE_INITIALISE", "fresh"),     closes(11),                                                       closes(11),  waits(11),   closes(11)).says("holds documents in other, things"),

    row("unrecorded, fresh, documents beside the record",
        unrecorded().empty().foreign().set("GATE_INITIALISE", "fresh"),
                                                          closes(11),                                                       closes(11),  waits(11),   closes(11)).says("holds documents in database_metadata"),

    row("unrecorded, GATE_FROM_VERSION, pending",
        unrecorded().from("0.7.0"),                       opens().writes(&[INIT, "upgrade 0.8.0 floor 0.8.0"]).did(MOVED),  closes(10),  waits(10),   closes(10).did(MOVED)).left(&["0.8.0"]),
    row("unrecorded, GATE_FROM_VERSION between two upgrades",
        unrecorded().code("0.9.0", CHAIN).from("0.8.5"),
        opens().writes(&["initialise 0.8.5 floor 0.8.0", "upgrade 0.9.0 floor 0.9.0"]).did(TWICE_NONE),                    closes(10),  waits(10),   closes(10).did(TWICE_NONE)).left(&["0.9.0"]),
    row("unrecorded, GATE_FROM_VERSION, nothing pending",
        unrecorded().code("0.8.1", UPGRADE).from("0.8.0"),
        opens().writes(&["initialise 0.8.0 floor 0.8.0", "auto_stamp 0.8.1 floor 0.8.0"]),                                  opens(),     opens(),     opens()),
    row("unrecorded, GATE_FROM_VERSION is the code version",
        unrecorded().from("0.8.0"),                       opens().writes(&["initialise 0.8.0 floor 0.8.0"]),                opens(),     opens(),     opens()),
    row("unrecorded, GATE_FROM_VERSION above the code version",
        unrecorded().from("0.9.0"),                       closes(12),                                                       closes(12),  closes(12),  closes(12)).says("GATE_FROM_VERSION says 0.9.0 but this binary is 0.8.0"),
    row("unrecorded, fresh, GATE_FROM_VERSION, no documents",
        unrecorded().empty().from("0.7.0").set("GATE_INITIALISE", "fresh"),
                                                          opens().writes(&["initialise 0.8.0 floor 0.8.0"]),                closes(11),  waits(11),   closes(11).says("would initialise it at 0.8.0")),
    row("unrecorded, fresh, GATE_FROM_VERSION, documents",
        unrecorded().from("0.7.0").set("GATE_INITIALISE", "fresh"),
                                                          opens().writes(&[INIT, "upgrade 0.8.0 floor 0.8.0"]).did(MOVED),  closes(10),  waits(10),   closes(10).did(MOVED)).left(&["0.8.0"]),

    row("unrecorded, GATE_FROM_VERSION, no documents",
        unrecorded().empty().from("0.7.0"),               closes(11),                                                       closes(11),  waits(11),   closes(11)).says("holds no documents").says("GATE_DATABASE"),
    row("unrecorded, GATE_FROM_VERSION, no documents, no upgrade could apply",
        unrecorded().empty().code("0.8.0", "").from("0.7.0"),
                                                          closes(11),                                                       closes(11),  waits(11),   closes(11)).says("holds no documents"),
    row("unrecorded, GATE_FROM_VERSION below the oldest",
        unrecorded().oldest("0.7.5").from("0.7.0"),       closes(12),                                                       closes(12),  closes(12),  closes(12)).says("GATE_FROM_VERSION says 0.7.0").says("deploy 0.7.x first"),
    row("unrecorded, GATE_FROM_VERSION is the oldest",
        unrecorded().oldest("0.7.0").from("0.7.0"),       opens().writes(&["initialise 0.7.0 floor 0.7.0", "upgrade 0.8.0 floor 0.8.0"]).did(MOVED),
                                                                                                                            closes(10),  waits(10),   closes(10).did(MOVED)).left(&["0.8.0"]),
    row("below the oldest",
        at("0.7.0", &[INIT]).oldest("0.7.5"),             closes(12),                                                       closes(12),  closes(12),  closes(12)).says("the database is at 0.7.0").says("deploy 0.7.x first"),
    row("at the oldest",
        at("0.7.0", &[INIT]).oldest("0.7.0"),             opens().writes(&["upgrade 0.8.0 floor 0.8.0"]).did(MOVED),        closes(10),  waits(10),   closes(10).did(MOVED)).left(&["0.8.0"]),

    row("behind, pending, a condition does not hold",
        at("0.7.0", &[INIT]).code("0.8.0", "0.8.0=strict").locked_task(),
                                                          unmet.clone().says("nothing was written"),                        closes(10),  waits(10),   unmet).left(&["0.8.0"]),

    row("GATE_FROM_VERSION later than the record",
        at("0.7.0", &[INIT]).from("0.7.5"),               closes(16),                                                       closes(16),  closes(16),  closes(16)).says("GATE_FROM_VERSION is 0.7.5 but the database is recorded at 0.7.0"),

    row("an unfinished upgrade of this code is journaled",
        at("0.7.0", &[INIT]).journaled(),                 opens().writes(&["upgrade 0.8.0 floor 0.8.0"]).did(KEYED),  closes(10),  waits(10),   closes(10).did(KEY_LEFT)).left(&["0.8.0"]).says("unfinished"),
    row("an unfinished upgrade of this code is journaled, another one follows",
        at("0.7.0", &[INIT]).journaled().code("0.9.0", "0.8.0=same_key;0.9.0=index"),
        opens().writes(&["upgrade 0.8.0 floor 0.8.0", "upgrade 0.9.0 floor 0.9.0"]).did(INDEXED),                           closes(10),  waits(10),   closes(10).did(INDEX_LEFT)).left(&["0.8.0", "0.9.0"]).says("unfinished"),

    row("an unfinished upgrade with other steps in this code is journaled",
        at("0.7.0", &[INIT]).journaled().code("0.8.0", UPGRADE),
                                                          closes(12),                                                       closes(12),  closes(12),  closes(12)).says("an upgrade to 0.8.0 by code 0.8.0").says("GATE_DISCARD_JOURNAL="),
    row("an unfinished upgrade of newer code is journaled",
        at("0.7.0", &[INIT]).journaled().code("0.7.5", ""),
                                                          closes(12),                                                       closes(12),  closes(12),  closes(12)).says("an upgrade to 0.8.0 by code 0.8.0").says("GATE_DISCARD_JOURNAL="),
    row("an unfinished upgrade that was taken out of the code is journaled",
        at("0.7.0", &[INIT]).journaled().code("0.8.0", ""),
                                                          closes(12),                                                       closes(12),  closes(12),  closes(12)).says("an upgrade to 0.8.0 by code 0.8.0").says("GATE_DISCARD_JOURNAL="),

    row("another run holds the lock, lease alive: nothing to do",
        at("0.8.0", &["initialise 0.8.0"]).leased(),      waits(21),                                                        closes(21),  waits(21),   opens()),
    row("another run holds the lock, lease alive: to be stamped",
        at("0.8.0", &["initialise 0.8.0"]).code("0.8.1", UPGRADE).leased(),
                                                          waits(21).writes(&["auto_stamp 0.8.1 floor 0.8.0"]),              closes(21),  waits(21),   opens()),
    row("another run holds the lock, lease alive: upgrades pending",
        at("0.7.0", &[INIT]).leased(),                    waits(21).writes(&["upgrade 0.8.0 floor 0.8.0"]).did(MOVED),      closes(21),  waits(21),   closes(10).did(MOVED).left(&["0.8.0"])),
    row("another run holds the lock, lease alive: newer than code, floor <= code",
        at("0.8.5", &["initialise 0.8.0 floor 0.8.0", "auto_stamp 0.8.5 floor 0.8.0"]).leased(),
                                                          waits(21),                                                        closes(21),  waits(21),   opens()).warns("newer than this code's 0.8.0"),
    row("another run holds the lock, lease alive: unrecorded, to be begun",
        unrecorded().from("0.7.0").leased(),              waits(21).writes(&[INIT, "upgrade 0.8.0 floor 0.8.0"]).did(MOVED),
                                                                                                                            closes(21),  waits(21),   closes(10).did(MOVED).left(&["0.8.0"])),
    row("another run holds the lock, lease alive: unrecorded and fresh",
        unrecorded().empty().set("GATE_INITIALISE", "fresh").leased(),
                                                          waits(21).writes(&["initialise 0.8.0 floor 0.8.0"]),              closes(21),  waits(21),   closes(11)),
    row("another run holds the lock, lease alive: unrecorded, no flag",
        unrecorded().leased(),                            waits(21).then(11),                                               closes(21),  waits(21),   closes(11)),
    row("a lease that is over",
        at("0.7.0", &[INIT]).lease_over(),                opens().writes(&["upgrade 0.8.0 floor 0.8.0"]).did(MOVED),        closes(10),  waits(10),   closes(10).did(MOVED)).left(&["0.8.0"]),
    row("a lease that is over: nothing to do",
        at("0.8.0", &["initialise 0.8.0"]).lease_over(),  opens(),                                                          opens(),     opens(),     opens()),
    ]
}

/// What closes the gate before the table's rows are asked: each with the text that names it.
#[rustfmt::skip]
fn records_that_close() -> Vec<Row> {
    let closed = |code| [closes(code), closes(code), closes(code), closes(code)];
    vec![
    // the state of the database                                                                            all modes
    rows("the version is no version",          at("latest", &[INIT]),                                       closed(15)).says("latest").says("GATE_EXPECT_VERSION=latest"),
    rows("the version is ambiguous",           at("0.8.0-1", &[INIT]),                                      closed(15)).says("0.8.0-1").says("GATE_MODE=record"),
    rows("an entry is no version",             at("0.8.0", &[INIT, "upgrade soon"]),                        closed(15)).says("soon").says("GATE_EXPECT_VERSION=0.8.0"),
    rows("no version",                         at("0.8.0", &[INIT]).without("version"),                     closed(15)).says("missing"),
    rows("Python wrote beneath a journal",     at("0.7.0", &[INIT]).journaled().overtaken("0.7.5"),         closed(15)).says("something else wrote to it").says("GATE_DISCARD_JOURNAL="),

    rows("an upgrade that this code lacks was applied",
        at("0.8.0", &[INIT, "upgrade 0.7.5 floor 0.7.5", "upgrade 0.8.0 floor 0.8.0"]).code("0.8.0", "0.7.2=increment;0.8.0=move_field"),
                                                                                                            closed(12)).says("the upgrade of 0.7.5, which this code does not have").says("GATE_MODE=record"),
    rows("an upgrade was not applied, after the newest initialise",
        at("0.8.0", &["initialise 0.7.0", "initialise 0.7.5", "auto_stamp 0.8.0"]),                         closed(12)).says("did not go through the upgrade of 0.8.0").says("GATE_MODE=record"),
    rows("an upgrade was not applied, after the oldest entry",
        at("0.8.0", &["auto_stamp 0.7.0", "auto_stamp 0.8.0"]),                                             closed(12)).says("did not go through the upgrade of 0.8.0").says("GATE_RECORD_VERSION"),
    rows("the older of two upgrades was not applied",
        at("0.9.0", &[INIT, "upgrade 0.9.0 floor 0.9.0"]).code("0.9.0", CHAIN),                             closed(12)).says("did not go through the upgrade of 0.8.0"),

    row("an upgrade that Python recorded and nobody knows",
        at("0.8.0", &["initialise 0.7.0", "upgrade 0.7.9", "upgrade 0.8.0"]).code("0.8.0", "0.7.2=increment;0.8.0=move_field"),
                                                          closes(12),                                                       closes(12),  closes(12),  closes(12)).says("did not go through the upgrade of 0.7.2"),
    row("Python's last stamp is no unknown upgrade",
        at("0.8.0", &["initialise 0.7.0", "upgrade 0.7.9", "upgrade 0.8.0"]),
                                                          opens(),                                                          opens(),     opens(),     opens()),
    row("an upgrade older than the table's oldest is no unknown one",
        at("0.8.0", &["initialise 0.5.0 floor none", "upgrade 0.6.0 floor 0.6.0", "upgrade 0.8.0 floor 0.8.0"]),
                                                          opens(),                                                          opens(),     opens(),     opens()),
    row("an upgrade no newer than the oldest is no unknown one",
        at("0.8.0", &["initialise 0.7.0 floor none", "upgrade 0.7.5 floor 0.7.5", "upgrade 0.8.0 floor 0.8.0"]).oldest("0.7.5"),
                                                          opens(),                                                          opens(),     opens(),     opens()),
    row("an upgrade newer than the oldest is one",
        at("0.8.0", &["initialise 0.7.0 floor none", "upgrade 0.7.5 floor 0.7.5", "upgrade 0.8.0 floor 0.8.0"]).oldest("0.7.2"),
                                                          closes(12),                                                       closes(12),  closes(12),  closes(12)).says("the upgrade of 0.7.5, which this code does not have"),
    row("a sweep is no oldest entry, no floor and no upgrade",
        at("0.8.0", &["sweep 0.7.0 floor 0.9.0", "auto_stamp 0.8.0"]),
                                                          opens(),                                                          opens(),     opens(),     opens()),
    row("an operator's word ends a disagreement",
        at("0.8.0", &["auto_stamp 0.7.0", "auto_stamp 0.8.0", "initialise 0.8.0 floor 0.8.0"]),
                                                          opens(),                                                          opens(),     opens(),     opens()),
    ]
}

/// `GATE_TARGET_VERSION`, which only `upgrade` and `plan` know, with code 0.9.0.
#[rustfmt::skip]
fn targets() -> Vec<Row> {
    let target = |state: State, version: &'static str| state.set("GATE_TARGET_VERSION", version);
    let chain = |state: State, version| target(state.code("0.9.0", CHAIN), version);
    let rest = closes(10).left(&["0.9.0"]);
    let wrong = || closes(16).says("GATE_TARGET_VERSION");
    let nobody = || wrong().says("only in modes upgrade and plan");
    vec![
    // the state of the database                          upgrade                                                           check        wait         plan
    row("a target with upgrades left",
        chain(at("0.7.0", &[INIT]), "0.8.0"),             rest.clone().writes(&["upgrade 0.8.0 floor 0.8.0"]).did(MOVED).says("reached 0.8.0, 1 upgrade remains"),
                                                                                                                            nobody(),    nobody(),    closes(10).did(MOVED).left(&["0.8.0"])),
    row("a target that is reached, with upgrades left",
        chain(at("0.8.0", &["initialise 0.8.0"]), "0.8.0"),
                                                          rest.clone().says("reached 0.8.0, 1 upgrade remains"),            nobody(),    nobody(),    rest.clone().says("reached 0.8.0, 1 upgrade remains")),
    row("a target without upgrades before it, with upgrades left",
        chain(at("0.8.0", &["initialise 0.8.0"]), "0.8.5"),
                                                          rest.clone().writes(&["auto_stamp 0.8.5 floor 0.8.0"]).says("reached 0.8.5, 1 upgrade remains"),
                                                                                                                            nobody(),    nobody(),    rest.clone()),
    row("a target without any upgrade left",
        target(at("0.8.0", &["initialise 0.8.0"]).code("0.9.0", UPGRADE), "0.8.5"),
                                                          opens().writes(&["auto_stamp 0.8.5 floor 0.8.0"]),                nobody(),    nobody(),    opens()),
    row("a target that is the code version",
        chain(at("0.7.0", &[INIT]), "0.9.0"),             opens().writes(&["upgrade 0.8.0 floor 0.8.0", "upgrade 0.9.0 floor 0.9.0"]).did(BOTH),
                                                                                                                            nobody(),    nobody(),    closes(10).did(BOTH).left(&["0.8.0", "0.9.0"])),
    row("a target above the code version",
        chain(at("0.7.0", &[INIT]), "0.9.1"),             wrong(),                                                          nobody(),    nobody(),    wrong()),
    row("a target below the recorded version",
        chain(at("0.8.0", &["initialise 0.8.0"]), "0.7.5"),
                                                          wrong().says("0.8.0"),                                            nobody(),    nobody(),    wrong().says("0.8.0")),
    row("a target below the recorded version, which is the code's",
        chain(at("0.9.0", &["initialise 0.9.0"]), "0.8.0"),
                                                          wrong(),                                                          nobody(),    nobody(),    wrong()),
    row("unrecorded, no upgrade could apply, a target",
        target(unrecorded().code("0.9.0", ""), "0.8.5"),  opens().writes(&["auto_stamp 0.8.5 floor none"]),                 nobody(),    nobody(),    opens()),
    row("unrecorded, no flag, a target before every upgrade",
        target(unrecorded().code("0.9.0", UPGRADE), "0.7.5"),
                                                          closes(11),                                                       nobody(),    nobody(),    closes(11)),
    row("unrecorded, GATE_FROM_VERSION, a target with upgrades left",
        chain(unrecorded().from("0.7.0"), "0.8.0"),       rest.clone().writes(&[INIT, "upgrade 0.8.0 floor 0.8.0"]).did(MOVED).says("reached 0.8.0, 1 upgrade remains"),
                                                                                                                            nobody(),    nobody(),    closes(10).did(MOVED).left(&["0.8.0"])),
    row("unrecorded, GATE_FROM_VERSION is the target, with upgrades left",
        chain(unrecorded().from("0.8.0"), "0.8.0"),       rest.clone().writes(&["initialise 0.8.0 floor 0.8.0"]).says("reached 0.8.0, 1 upgrade remains"),
                                                                                                                            nobody(),    nobody(),    rest.clone()),
    row("unrecorded, GATE_FROM_VERSION above the target",
        chain(unrecorded().from("0.8.5"), "0.8.0"),       wrong(),                                                          nobody(),    nobody(),    wrong()),
    row("unrecorded, GATE_FROM_VERSION is the code version, a target below it",
        chain(unrecorded().from("0.9.0"), "0.8.0"),       wrong(),                                                          nobody(),    nobody(),    wrong()),
    row("unrecorded and fresh, a target below the code version",
        chain(unrecorded().empty().set("GATE_INITIALISE", "fresh"), "0.8.0"),
                                                          wrong(),                                                          nobody(),    nobody(),    wrong()),
    row("a target below a journaled upgrade",
        target(at("0.7.0", &[INIT]).journaled().code("0.9.0", "0.8.0=same_key;0.9.0=index"), "0.7.5"),
                                                          wrong().says("has begun"),                                        nobody(),    nobody(),    wrong().says("has begun")),
    row("a target that is a journaled upgrade",
        target(at("0.7.0", &[INIT]).journaled().code("0.9.0", "0.8.0=same_key;0.9.0=index"), "0.8.0"),
                                                          rest.clone().writes(&["upgrade 0.8.0 floor 0.8.0"]).did(KEYED).says("reached 0.8.0, 1 upgrade remains"),
                                                                                                                            nobody(),    nobody(),    closes(10).did(KEY_LEFT).left(&["0.8.0", "0.9.0"])),
    ]
}

/// The first match wins: for every two neighbours in the contract's list a state that is both, and closes
/// (or opens) as the first of them.
#[rustfmt::skip]
fn order() -> Vec<Row> {
    let unreadable = || at("latest", &["upgrade 0.9.0"]);
    let unknown = || at("0.7.0", &[INIT]).journaled().code("0.8.0", UPGRADE);
    let disagrees = || at("0.8.0", &["auto_stamp 0.7.0", "auto_stamp 0.8.0"]);
    let too_new = || at("0.9.0", &["upgrade 0.9.0"]);
    let own = || at("0.7.0", &[INIT]).journaled();
    let closed = |code| [closes(code), closes(code), closes(code), closes(code)];
    let wrong = |state: State, name, value| rows(name, state.set(name, value), [closes(16), closes(16), closes(16), closes(16)]).says(name);
    vec![
    // a wrong setting, before an unreadable record
    wrong(unreadable(), "GATE_TIMEOUT", "soon"),
    wrong(unreadable(), "GATE_INITIALIZE", "fresh"),
    wrong(unreadable(), "GATE_TARGET_VERSION", "0.9.0"),
    // an unreadable record, before an unknown journal, a disagreement, a floor above the code
    rows("unreadable, an unknown journal",     unknown().version("latest"),                                 closed(15)).says("latest").says("GATE_DISCARD_JOURNAL="),
    rows("unreadable, a disagreement",         disagrees().version("latest"),                               closed(15)).says("latest"),
    rows("unreadable, floor > code",           too_new().version("latest"),                                 closed(15)).says("latest"),
    rows("an entry unreadable, floor > code",  at("0.9.0", &["upgrade 0.9.0", "auto_stamp x"]),             closed(15)).says("entry 1"),
    rows("overtaken journal, floor > code",    own().overtaken("0.9.0"),                                    closed(15)).says("something else wrote"),
    // each of these three, before a live lease
    row("an unknown journal, a live lease",    unknown().leased(),          closes(12), closes(12), closes(12), closes(12)).says("does not know it"),
    row("a disagreement, a live lease",        disagrees().leased(),        closes(12), closes(12), closes(12), closes(12)).says("did not go through"),
    row("below the oldest, a live lease",      at("0.7.0", &[INIT]).oldest("0.7.5").leased(),
                                                closes(12), closes(12), closes(12), closes(12)).says("deploy 0.7.x first"),
    row("floor > code, a live lease",          too_new().leased(),          closes(12), closes(12), closes(12), closes(12)).says("the floor is 0.9.0"),
    // and before a journal of this code
    rows("a disagreement, a journal of this code",
        at("0.7.5", &["auto_stamp 0.7.0", "auto_stamp 0.7.5"]).journaled().code("0.8.0", "0.7.2=increment;0.8.0=same_key"),
                                                                                                            closed(12)).says("did not go through the upgrade of 0.7.2").says("GATE_DISCARD_JOURNAL="),
    // a live lease, before a journal of this code
    row("a live lease, a journal of this code", own().leased(),
        waits(21).writes(&["upgrade 0.8.0 floor 0.8.0"]).did(KEYED),  closes(21), waits(21),  closes(10).did(KEY_LEFT).left(&["0.8.0"])),
    // a live lease, before a later GATE_FROM_VERSION
    row("a live lease, a later GATE_FROM_VERSION", at("0.7.0", &[INIT]).from("0.7.5").leased(),
        waits(21).then(16),                                                 closes(21), waits(21).then(16), closes(16)),
    // a journal of this code, before a later GATE_FROM_VERSION
    row("a journal of this code, a later GATE_FROM_VERSION", own().from("0.8.0"),
        opens().writes(&["upgrade 0.8.0 floor 0.8.0"]).did(KEYED),    closes(10), waits(10),  closes(10).did(KEY_LEFT)).left(&["0.8.0"]),
    // a later GATE_FROM_VERSION, before the rest
    rows("a later GATE_FROM_VERSION, pending",               at("0.7.0", &[INIT]).from("0.8.0"),            closed(16)).says("GATE_FROM_VERSION"),
    rows("a later GATE_FROM_VERSION, above the code",        at("0.7.0", &[INIT]).from("0.9.0"),            closed(16)).says("GATE_FROM_VERSION"),
    rows("a later GATE_FROM_VERSION, recorded = code",       at("0.8.0", &["upgrade 0.8.0"]).from("0.9.0"), closed(16)).says("GATE_FROM_VERSION"),
    rows("a later GATE_FROM_VERSION, nothing pending",       at("0.8.0", &["upgrade 0.8.0"]).code("0.9.0", UPGRADE).from("0.8.1"),
                                                                                                            closed(16)).says("GATE_FROM_VERSION"),
    rows("a later GATE_FROM_VERSION, newer, floor <= code",  at("0.8.5", &["initialise 0.8.0", "auto_stamp 0.8.5"]).from("0.9.0"),
                                                                                                            closed(16)).says("GATE_FROM_VERSION"),
    ]
}

const UPGRADE: &str = "0.8.0=move_field";
const CHAIN: &str = "0.8.0=move_field;0.9.0=twice";
const INIT: &str = "initialise 0.7.0 floor none";
const MOVED: &[&str] = &["0.8.0: Move 2 field(s) a to b"];
const BOTH: &[&str] = &["0.8.0: Move 2 field(s) a to b", "0.9.0: Write twice b into 2 thing(s)"];
const TWICE_NONE: &[&str] = &["0.9.0: Write twice b into 0 thing(s)"];
/// The upgrade that was journaled after one of two documents, and what is left of it.
const KEYED: &[&str] = &["0.8.0: Change 2 document(s)"];
const KEY_LEFT: &[&str] = &["0.8.0: Change 1 document(s)"];
const INDEXED: &[&str] = &[KEYED[0], "0.9.0: Create index by b on things"];
const INDEX_LEFT: &[&str] = &[KEY_LEFT[0], INDEXED[1]];
/// What the rows with a journal run: a step that fails at its second document, and is mended.
const JOURNALED: &str = "0.8.0=same_key";

/// How long mode `wait` does so, where the table says that it ends without having been helped.
const PATIENCE: &str = "2s";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_cell_of_the_contracts_table_is_as_it_says() {
    assert_cells("the contract's table", contract()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_record_that_cannot_be_used_closes_every_mode_and_names_the_way_out() {
    assert_cells("records that close", records_that_close()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_earlier_target_never_opens_while_upgrades_remain() {
    assert_cells("targets", targets()).await;
}

/// Codes that `plan` has and `check` has not: 13 is a row of the table, 18 needs another server.
#[tokio::test]
async fn a_plan_also_tells_what_the_server_cannot_do() {
    let server = Server::standalone().await;
    let unsuitable = || closes(18).left(&["0.8.0"]).says("make the server a replica set");
    let state = at("0.7.0", &[INIT]).code("0.8.0", "0.8.0=increment");
    let pending = closes(10).left(&["0.8.0"]);
    assert_cell(&server, &state, "upgrade", &unsuitable().says("nothing was written")).await;
    assert_cell(&server, &state, "check", &pending).await;
    assert_cell(&server, &state, "wait", &Cell { waits: true, ..pending }).await;
    assert_cell(&server, &state, "plan", &unsuitable()).await;

    let suitable = state.code("0.8.0", UPGRADE);
    assert_cell(&server, &suitable, "plan", &closes(10).left(&["0.8.0"]).did(MOVED)).await;
}

/// Between two queries a run could begin and end, and the record and the lock would not be of one moment.
#[tokio::test]
async fn record_and_lock_are_read_by_one_query() {
    let server = Server::replica_set().await;
    let state = at("0.8.0", &["initialise 0.8.0"]);
    let database = state.prepare(&server).await;
    database.run_command(doc! { "profile": 2 }).await.unwrap();
    let run = state.gate(&database, "check").run().await;
    assert_eq!(run.code, Some(0), "{run}");
    let of_metadata = doc! { "ns": format!("{}.database_metadata", database.name()) };
    let profile = database.collection::<Document>("system.profile");
    let mut queries = profile.find(of_metadata).await.unwrap();
    assert!(queries.advance().await.unwrap(), "the check read nothing");
    let command = queries.current().get_document("command").unwrap();
    assert!(command.get_str("aggregate").is_ok(), "{command:?}");
    assert_eq!(command.get_document("readConcern").unwrap().get_str("level").unwrap(), "majority");
    assert!(!queries.advance().await.unwrap(), "the check read twice: {:?}", queries.current());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_first_match_wins_in_the_contracts_order() {
    assert_cells("order", order()).await;
}

/// What a database holds, the code that meets it, and the settings.
#[derive(Clone)]
struct State {
    record: Option<Document>,
    documents: bool,
    journaled: bool,
    /// A document elsewhere.
    extra: Option<(&'static str, Document)>,
    /// What happens to the record after all that.
    then: Vec<Document>,
    lease_ms: Option<i64>,
    code: &'static str,
    upgrades: &'static str,
    settings: Vec<(&'static str, &'static str)>,
}

fn unrecorded() -> State {
    State {
        record: None,
        documents: true,
        journaled: false,
        extra: None,
        then: vec![],
        lease_ms: None,
        code: "0.8.0",
        upgrades: UPGRADE,
        settings: vec![],
    }
}

/// Recorded at `version`, with entries like `upgrade 0.8.0` (Python's) or `upgrade 0.8.0 floor 0.8.0`.
fn at(version: &str, history: &[&str]) -> State {
    let history: Vec<_> = history.iter().map(|text| entry(text)).collect();
    let record = doc! { "_id": RECORD, "version": version, "history": history };
    State { record: Some(record), ..unrecorded() }
}

fn entry(text: &str) -> Document {
    let mut entry = doc! { "version": "", "action": "", "timestamp": DateTime::from_millis(0) };
    match text.split(' ').collect::<Vec<_>>()[..] {
        [action, version] => entry.extend(doc! {
            "version": version, "action": action, "scenario_version": version,
        }),
        [action, version, "floor", floor] => entry.extend(doc! {
            "version": version,
            "action": action,
            "scenario_version": version,
            "floor": (floor != "none").then_some(floor),
            "run_id": "an earlier run",
            "host": "an earlier host",
        }),
        _ => panic!("no entry: {text}"),
    }
    entry
}

impl State {
    fn code(self, code: &'static str, upgrades: &'static str) -> State {
        State { code, upgrades, ..self }
    }

    fn set(mut self, name: &'static str, value: &'static str) -> State {
        self.settings.push((name, value));
        self
    }

    fn from(self, version: &'static str) -> State {
        self.set("GATE_FROM_VERSION", version)
    }

    fn oldest(self, version: &'static str) -> State {
        self.set("SCENARIO_OLDEST", version)
    }

    /// No documents, but an empty collection and a view of it.
    fn empty(self) -> State {
        State { documents: false, ..self }
    }

    /// Somebody else's document beside the record.
    fn foreign(self) -> State {
        State { extra: Some(("database_metadata", doc! { "_id": "other" })), ..self }
    }

    /// A document that is in the way of the upgrade `strict`.
    fn locked_task(self) -> State {
        State { extra: Some(("tasks", doc! { "locked": true })), ..self }
    }

    /// A run of this code failed in the middle of the upgrade to 0.8.0, for a reason that is gone.
    fn journaled(self) -> State {
        State { journaled: true, upgrades: JOURNALED, ..self }
    }

    /// Another run holds the lock.
    fn leased(self) -> State {
        State { lease_ms: Some(60_000), ..self }
    }

    /// Another run held the lock, and did not give it up.
    fn lease_over(self) -> State {
        State { lease_ms: Some(-1), ..self }
    }

    fn then(mut self, change: Document) -> State {
        self.then.push(change);
        self
    }

    fn version(self, version: &str) -> State {
        self.then(doc! { "$set": { "version": version } })
    }

    fn without(self, field: &str) -> State {
        self.then(doc! { "$unset": { field: "" } })
    }

    /// Python writes to the record, which knows of no journal.
    fn overtaken(self, version: &str) -> State {
        let entry = entry(&format!("upgrade {version}"));
        self.then(doc! { "$set": { "version": version }, "$push": { "history": entry } })
    }

    fn is_leased(&self) -> bool {
        self.lease_ms.is_some_and(|time| time > 0)
    }

    fn gate(&self, database: &Fresh, mode: &str) -> Gate {
        let gate = scenario(&database.uri, self.code, self.upgrades).mode(mode);
        self.settings.iter().fold(gate, |gate, (name, value)| gate.set(name, *value))
    }

    async fn prepare(&self, server: &Server) -> Fresh {
        let database = server.database().await;
        let things = database.collection::<Document>("things");
        if self.documents {
            let documents = [doc! { "_id": 1, "a": 1 }, doc! { "_id": 2, "a": 2 }];
            things.insert_many(documents).await.unwrap();
            database.collection("other").insert_one(doc! { "_id": "other" }).await.unwrap();
        } else {
            let view = doc! { "create": "view", "viewOn": "things", "pipeline": [] };
            database.create_collection("things").await.unwrap();
            database.run_command(view).await.unwrap();
        }
        let metadata = database.collection::<Document>("database_metadata");
        if let Some((collection, document)) = &self.extra {
            database.collection::<Document>(collection).insert_one(document).await.unwrap();
        }
        if let Some(record) = &self.record {
            metadata.insert_one(record).await.unwrap();
        }
        if self.journaled {
            let sparse = IndexOptions::builder().name("obstacle".to_owned());
            let sparse = sparse.unique(true).sparse(true).build();
            let index = IndexModel::builder().keys(doc! { "unique_key": 1 }).options(sparse);
            things.create_index(index.build()).await.unwrap();
            let gate = scenario(&database.uri, "0.8.0", JOURNALED);
            let run = gate.set("GATE_BATCH_DOCUMENTS", "1").run().await;
            assert_eq!(run.code, Some(14), "{run}");
            things.drop_index("obstacle").await.unwrap();
            let journal =
                stored(&database).await.unwrap().get_document("journal").cloned().unwrap();
            assert_eq!(journal.get_document("position").unwrap(), &doc! { "after": 1 });
        }
        for change in &self.then {
            metadata.update_one(doc! { "_id": RECORD }, change.clone()).await.unwrap();
        }
        if let Some(time) = self.lease_ms {
            let lock = doc! {
                "run_id": HOLDER, "host": "its-host", "expires": { "$add": ["$$NOW", time] },
            };
            let lock = vec![doc! { "$set": lock }];
            metadata.update_one(doc! { "_id": LOCK }, lock).upsert(true).await.unwrap();
        }
        database
    }
}

/// What a mode does with a state.
#[derive(Clone)]
struct Cell {
    code: i32,
    waits: bool,
    /// The code after the wait was helped.
    helped: i32,
    writes: &'static [&'static str],
    did: &'static [&'static str],
    left: &'static [&'static str],
    says: Vec<&'static str>,
    warns: Vec<&'static str>,
}

fn closes(code: i32) -> Cell {
    let (says, warns) = (vec![], vec![]);
    Cell { code, waits: false, helped: 0, writes: &[], did: &[], left: &[], says, warns }
}

fn opens() -> Cell {
    closes(0)
}

/// Ends so when its patience is over; with help it opens.
fn waits(code: i32) -> Cell {
    Cell { waits: true, ..closes(code) }
}

impl Cell {
    /// With help it ends so.
    fn then(self, helped: i32) -> Cell {
        Cell { helped, ..self }
    }

    /// The entries that are added to the history, the last of which has the recorded version.
    fn writes(self, writes: &'static [&'static str]) -> Cell {
        Cell { writes, ..self }
    }

    /// The versions with their actions, as the report has them.
    fn did(self, did: &'static [&'static str]) -> Cell {
        Cell { did, ..self }
    }

    /// What remains.
    fn left(self, left: &'static [&'static str]) -> Cell {
        Cell { left, ..self }
    }

    /// The message, or what to do next, has this.
    fn says(mut self, text: &'static str) -> Cell {
        self.says.push(text);
        self
    }
}

struct Row {
    name: &'static str,
    state: State,
    cells: [Cell; 4],
}

const MODES: [&str; 4] = ["upgrade", "check", "wait", "plan"];

fn row(
    name: &'static str,
    state: State,
    upgrade: Cell,
    check: Cell,
    wait: Cell,
    plan: Cell,
) -> Row {
    Row { name, state, cells: [upgrade, check, wait, plan] }
}

fn rows(name: &'static str, state: State, cells: [Cell; 4]) -> Row {
    Row { name, state, cells }
}

impl Row {
    /// Every cell that closes with 10 says that this remains.
    fn left(mut self, left: &'static [&'static str]) -> Row {
        self.cells.iter_mut().filter(|cell| cell.code == 10).for_each(|cell| cell.left = left);
        self
    }

    /// Every closed cell says this.
    fn says(mut self, text: &'static str) -> Row {
        self.cells.iter_mut().filter(|cell| cell.code != 0).for_each(|cell| cell.says.push(text));
        self
    }

    fn warns(mut self, text: &'static str) -> Row {
        self.cells.iter_mut().for_each(|cell| cell.warns.push(text));
        self
    }
}

const RECORD: &str = "scenario_schema_version";
const LOCK: &str = "upgrade_lock";
const HOLDER: &str = "another-run";

fn scenario(uri: &str, code: &str, upgrades: &str) -> Gate {
    Gate::new(example("scenario"))
        .uri(uri)
        .set("SCENARIO_CODE", code)
        .set("SCENARIO_UPGRADES", upgrades)
}

async fn stored(database: &Database) -> Option<Document> {
    database.collection("database_metadata").find_one(doc! { "_id": RECORD }).await.unwrap()
}

/// Runs every cell of `table`, tells how many there are, and panics with all that are not as they should.
async fn assert_cells(name: &str, table: Vec<Row>) {
    let server = Server::shared().await;
    let at_once = Arc::new(Semaphore::new(12));
    let mut tests = JoinSet::new();
    for row in table {
        for (mode, cell) in MODES.into_iter().zip(row.cells) {
            let mut tasks = vec![false];
            tasks.extend(cell.waits.then_some(true));
            for helped in tasks {
                let (state, cell, at_once) = (row.state.clone(), cell.clone(), at_once.clone());
                let how = if helped { ", helped" } else { "" };
                let name = format!("{} | {mode}{how}", row.name);
                tests.spawn(async move {
                    let _permit = at_once.acquire().await.unwrap();
                    let ended = tokio::spawn(async move {
                        match helped {
                            false => assert_cell(server, &state, mode, &cell).await,
                            true => assert_helped(server, &state, mode, &cell).await,
                        }
                    });
                    (name, ended.await)
                });
            }
        }
    }
    let ended = tests.join_all().await;
    println!("{name}: {} cells", ended.len());
    let failed: Vec<_> = ended.into_iter().filter(|(_, ended)| ended.is_err()).collect();
    for (name, ended) in &failed {
        println!("not as it says: {name}: {}", ended.as_ref().unwrap_err());
    }
    assert!(failed.is_empty(), "{} cells are not as the table says", failed.len());
}

/// A cell without help.
async fn assert_cell(server: &Server, state: &State, mode: &str, cell: &Cell) {
    let database = state.prepare(server).await;
    let gate = state.gate(&database, mode);
    let gate = match (cell.waits, mode) {
        (true, "wait") => gate.set("GATE_TIMEOUT", PATIENCE),
        (true, _) => gate.set("GATE_LOCK_WAIT", "300ms"),
        (false, _) => gate,
    };
    let unhelped = Cell { writes: &[], did: &[], ..cell.clone() };
    let cell = if cell.waits { &unhelped } else { cell };
    let before = Before::of(&database).await;
    let run = gate.run().await;
    assert_run(state, &database, &before, mode, cell, &run).await;
    let waited =
        run.log.iter().any(|line| line["message"].as_str().unwrap().starts_with("waiting"));
    assert_eq!(waited, cell.waits, "{run}");
}

/// A cell that waits, until the lock is free and, for `wait`, the database is up to date.
async fn assert_helped(server: &Server, state: &State, mode: &str, cell: &Cell) {
    let database = state.prepare(server).await;
    let before = Before::of(&database).await;
    let mut running = state.gate(&database, mode).spawn();
    running.logged("waiting for").await;
    let metadata = database.collection::<Document>("database_metadata");
    assert_eq!(before.hash, db_hash(&database).await);
    metadata.delete_one(doc! { "_id": LOCK }).await.unwrap();
    database.collection::<Document>("tasks").drop().await.unwrap();
    if mode == "wait" {
        if cell.helped == 0 {
            let mut helper = state.gate(&database, "upgrade");
            let declared = state.settings.iter().any(|s| s.0 == "GATE_FROM_VERSION");
            if state.record.is_none() && (!declared || !state.documents) {
                helper = match state.documents || state.extra.is_some() {
                    true => helper.set("GATE_FROM_VERSION", "0.7.0"),
                    false => helper.set("GATE_INITIALISE", "fresh"),
                };
            }
            let helped = helper.run().await;
            assert_eq!(helped.code, Some(0), "{helped}");
        }
        let before = Before::of(&database).await;
        let run = running.wait().await;
        assert_eq!(run.code, Some(cell.helped), "{run}");
        assert_eq!(run.last()["exit_code"], cell.helped, "{run}");
        assert_eq!(run.report["exit_code"], cell.helped, "{run}");
        assert_eq!(before.hash, db_hash(&database).await, "{run}");
    } else {
        let run = running.wait().await;
        let cell = Cell { code: cell.helped, says: vec![], ..cell.clone() };
        let after = Before::of(&database).await;
        if cell.writes.is_empty() {
            assert_eq!(
                (&before.record, &before.documents),
                (&after.record, &after.documents),
                "{run}"
            );
        }
        let before = Before { hash: after.hash, ..before };
        assert_run(state, &database, &before, mode, &cell, &run).await;
    }
}

/// The database before a run.
struct Before {
    hash: String,
    record: Option<Document>,
    documents: Value,
}

impl Before {
    async fn of(database: &Database) -> Before {
        Before {
            hash: db_hash(database).await,
            record: stored(database).await,
            documents: documents(database).await,
        }
    }
}

/// Everything but the record and the lock.
async fn documents(database: &Database) -> Value {
    let mut dump = dump(database).await;
    dump.remove("database_metadata");
    serde_json::to_value(dump).unwrap()
}

async fn assert_run(
    state: &State,
    database: &Database,
    before: &Before,
    mode: &str,
    cell: &Cell,
    run: &Run,
) {
    assert_eq!(run.code, Some(cell.code), "{run}");
    let after = stored(database).await;
    assert_report(state, before, after.as_ref(), mode, cell, run);
    assert_last_line(run);
    if cell.writes.is_empty() {
        assert_eq!(db_hash(database).await, before.hash, "something was written: {run}");
        return;
    }
    let record = expected_record(state, before, cell, run);
    assert_eq!(after.map(|after| comparable(after, run)), Some(record), "{run}");
    let locks = database.collection::<Document>("database_metadata").count_documents(doc! {}).await;
    assert_eq!(locks.unwrap(), 1, "the lock is left: {run}");
    assert_eq!(documents(database).await, expected_documents(state, before, cell), "{run}");
}

fn assert_report(
    state: &State,
    before: &Before,
    after: Option<&Document>,
    mode: &str,
    cell: &Cell,
    run: &Run,
) {
    let report = &run.report;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    assert_eq!(report["app"], "scenario", "{run}");
    assert_eq!(report["code_version"], state.code, "{run}");
    assert_eq!(report["exit_code"], cell.code, "{run}");
    assert_eq!(report["outcome"], outcome(cell.code), "{run}");
    assert_eq!(text(&report["run_id"]).len(), 24, "{run}");
    assert!(!text(&report["host"]).is_empty() && report["duration_ms"].is_u64(), "{run}");
    let says = text(&report["message"]) + &text(&report["next"]);
    assert!(!text(&report["message"]).is_empty(), "{run}");
    assert_eq!(report["next"].is_string(), cell.code != 0, "a closed gate has a remedy: {run}");
    for expected in &cell.says {
        assert!(says.contains(expected), "the report lacks {expected:?}: {run}");
    }
    assert_eq!(report["remaining"], json!(cell.left), "{run}");
    let actions = |upgrade: &Value| -> String {
        let actions = upgrade["actions"].as_array().unwrap().iter();
        let actions = actions.map(|action| text(&action["description"])).collect::<Vec<_>>();
        format!("{}: {}", text(&upgrade["version"]), actions.join(", ")).trim_end().to_owned()
    };
    let did: Vec<_> = report["upgrades"].as_array().unwrap().iter().map(actions).collect();
    assert_eq!(did, cell.did, "{run}");
    for upgrade in report["upgrades"].as_array().unwrap() {
        let planned = mode == "plan";
        assert_eq!(upgrade["state"], if planned { "planned" } else { "applied" }, "{run}");
        assert_eq!(upgrade["exact"], if planned { json!(true) } else { json!(null) }, "{run}");
        assert_eq!(upgrade["duration_ms"].is_u64(), !planned, "{run}");
    }
    if report["database"].is_null() {
        // a wrong setting ended it before it connected
        assert_eq!(cell.code, 16, "{run}");
        assert!(!run.stderr.contains("started"), "{run}");
        return;
    }
    assert_eq!(report["mode"], mode, "{run}");
    assert!(text(&report["database"]).starts_with("test_"), "{run}");
    assert_eq!(report["from"], expected_from(state, before, cell), "{run}");
    assert_eq!(report["to"], shown_version(after), "{run}");
    let journal = after.and_then(|record| record.get_document("journal").ok());
    let readable = cell.code != 15 || report["unfinished"].is_object();
    if let (Some(journal), true) = (journal, readable) {
        assert_eq!(report["unfinished"]["version"], "0.8.0", "{run}");
        assert_eq!(report["unfinished"]["journal"], journal.get_str("id").unwrap(), "{run}");
        assert_eq!(report["unfinished"]["step"], "same key", "{run}");
        assert_eq!(report["unfinished"]["documents"], 1, "{run}");
    } else {
        assert!(report["unfinished"].is_null(), "{run}");
    }
    let mut warns = if cell.code == 21 { vec![] } else { cell.warns.clone() };
    if mode == "plan" && state.is_leased() {
        warns.push("ignores its lock");
    }
    if mode == "upgrade" && !cell.did.is_empty() {
        warns.push("still running");
    }
    let warnings = report["warnings"].as_array().cloned().unwrap_or_default();
    assert_eq!(warnings.is_empty(), warns.is_empty(), "{run}");
    for warning in warns {
        assert!(warnings.iter().any(|w| text(w).contains(warning)), "no {warning:?}: {run}");
        assert!(run.log.iter().any(|line| text(&line["reason"]).contains(warning)), "{run}");
    }
    if cell.code == 21 {
        assert!(says.contains(HOLDER) && says.contains("its-host"), "{run}");
    }
    if state.lease_ms == Some(-1) && !cell.writes.is_empty() {
        let took = run.log.iter().find(|line| text(&line["message"]).contains("took over"));
        assert_eq!(took.unwrap()["holder"], HOLDER, "{run}");
    }
}

/// The recorded version before the run, or what `GATE_FROM_VERSION` said that it was.
fn expected_from(state: &State, before: &Before, cell: &Cell) -> Value {
    match (cell.writes, state.settings.iter().find(|(name, _)| *name == "GATE_FROM_VERSION")) {
        ([_, _, ..], Some((_, from))) if before.record.is_none() => (*from).into(),
        _ => shown_version(before.record.as_ref()),
    }
}

/// The stored version as reports show it.
fn shown_version(record: Option<&Document>) -> Value {
    let Some(record) = record else { return Value::Null };
    record.get_str("version").unwrap_or("missing").into()
}

fn assert_last_line(run: &Run) {
    let (last, report) = (run.last(), &run.report);
    let open = report["exit_code"] == 0;
    assert_eq!(last["message"], if open { "gate open" } else { "gate closed" }, "{run}");
    assert_eq!(last["level"], if open { "INFO" } else { "ERROR" }, "{run}");
    for (field, same) in [
        ("app", "app"),
        ("outcome", "outcome"),
        ("exit_code", "exit_code"),
        ("database", "database"),
        ("from", "from"),
        ("recorded", "to"),
        ("reason", "message"),
        ("next", "next"),
    ] {
        assert_eq!(last[field], report[same], "{field}: {run}");
    }
}

fn outcome(code: i32) -> &'static str {
    match code {
        0 => "open",
        10 => "pending",
        11 => "unrecorded",
        12 => "incompatible",
        13 => "condition_failed",
        15 => "record_unreadable",
        16 => "setting_wrong",
        18 => "server_unsuitable",
        21 => "locked",
        other => panic!("no cell ends with {other}"),
    }
}

/// The record before with the new entries, but for what differs between runs.
fn expected_record(state: &State, before: &Before, cell: &Cell, run: &Run) -> Document {
    let empty = doc! { "_id": RECORD, "version": "", "history": [] };
    let mut record = before.record.clone().unwrap_or(empty);
    let mut history: Vec<Bson> = record.get_array("history").cloned().unwrap_or_default();
    for text in cell.writes {
        let mut entry = entry(text);
        record.insert("version", entry.get_str("version").unwrap());
        entry.insert("scenario_version", state.code);
        entry.insert("run_id", run.report["run_id"].as_str().unwrap());
        entry.insert("host", run.report["host"].as_str().unwrap());
        entry.remove("timestamp");
        if text.starts_with("upgrade") {
            let version = entry.get_str("version").unwrap().to_owned();
            let upgrades = run.report["upgrades"].as_array().unwrap();
            let upgrade = upgrades.iter().find(|upgrade| upgrade["version"] == *version).unwrap();
            // each version of the table has one upgrade
            let name = upgrade["description"].as_str().unwrap();
            entry.insert("upgrades", vec![doc! { "name": name }]);
            entry.insert("actions", upgrade["actions"].to_string());
        }
        history.push(entry.into());
    }
    record.insert("history", history);
    record.remove("journal");
    record
}

/// Without the times of the entries that the run wrote.
fn comparable(mut record: Document, run: &Run) -> Document {
    let run_id = run.report["run_id"].as_str().unwrap();
    for entry in record.get_array_mut("history").unwrap() {
        let entry = entry.as_document_mut().unwrap();
        if entry.get_str("run_id").is_ok_and(|id| id == run_id) {
            let age = DateTime::now().timestamp_millis()
                - entry.get_datetime("timestamp").unwrap().timestamp_millis();
            assert!((0..120_000).contains(&age), "{run}");
            entry.remove("timestamp");
            if let Some(actions) = entry.remove("actions") {
                entry.insert("actions", serde_json::to_string(&actions).unwrap());
                assert!(entry.remove("duration_ms").unwrap().as_i64().unwrap() >= 0);
            }
        }
    }
    record
}

fn expected_documents(state: &State, before: &Before, cell: &Cell) -> Value {
    let mut documents = before.documents.clone();
    let did = |text| cell.did.iter().any(|did: &&str| did.contains(text));
    for thing in documents["things"].as_array_mut().unwrap() {
        let thing = thing.as_object_mut().unwrap();
        if did("Move 2") {
            let a = thing.shift_remove("a").unwrap();
            thing.insert("b".to_owned(), a);
        }
        if did("Write twice b into 2") {
            thing.insert("twice".to_owned(), json!(2 * thing["b"].as_i64().unwrap()));
        }
        if state.journaled {
            thing.insert("unique_key".to_owned(), json!(1));
        }
    }
    documents
}
