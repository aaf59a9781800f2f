//! Running the scenario application, and looking at what it left.

// Each test binary compiles this module for itself, and uses a part of it.
#![allow(dead_code)]

use std::time::Duration;

use mongodb::bson::oid::ObjectId;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{
    Binary, Bson, DateTime, Decimal128, Document, JavaScriptCodeWithScope, Timestamp, doc,
};
use mongodb::{Client, Database};
use serde_json::Value;
use tokio::sync::MutexGuard;

use super::support::{Cgroup, Fresh, Gate, Run, db_hash, eventually, example, mongod_version};

/// The record's collection.
pub const METADATA: &str = "database_metadata";

/// The scenario application on a database that last ran 0.7.0.
pub fn scenario(uri: &str, code: &str, upgrades: &str) -> Gate {
    Gate::new(example("scenario"))
        .uri(uri)
        .set("SCENARIO_CODE", code)
        .set("SCENARIO_UPGRADES", upgrades)
        .set("GATE_FROM_VERSION", "0.7.0")
}

/// The memory that the chart gives the gate, in KiB.
const MEMORY: u64 = 128 * 1024;

/// Runs a gate in the memory that the chart gives it: in a cgroup of 128 MiB, where the machine lets one be made.
/// It ends with `code`, and never holds more than `most` MiB.
pub async fn frugal(gate: &Gate, code: i32, most: u64) {
    let measure = example("measure");
    let cgroup = Cgroup::new(MEMORY * 1024);
    let started = Gate::new("/bin/sh").with_settings_of(gate).arg("-c");
    let started = match &cgroup {
        Some(cgroup) => started.arg(&format!("{} && exec \"$@\"", cgroup.enter())),
        None => {
            println!("no memory cgroup can be made here: only the program's peak is asserted");
            started.arg("exec \"$@\"")
        }
    };
    let started = started.arg("sh").arg(measure.to_str().unwrap());
    let run = started.arg(gate.binary().to_str().unwrap()).run().await;
    let whole = cgroup.as_ref().and_then(Cgroup::peak).map(|bytes| bytes >> 10);
    println!("{}; KiB in the cgroup: {whole:?}", run.report);
    assert_eq!(run.report["code"], code, "{run}");
    // the pages of a large program for tests count among its own
    let (held, most) = match whole {
        Some(whole) => (whole, most * 1024),
        None => (run.report["kib"].as_u64().unwrap(), MEMORY),
    };
    assert!(held <= most, "{held} KiB of {most}\n{run}");
}

/// Upgrades, in the memory that the chart gives the gate, with some to spare.
pub async fn assert_frugal(gate: &Gate) {
    frugal(gate, 0, 110).await;
}

/// Records a database as one that last ran 0.7.0.
pub async fn record_old(database: &Database) {
    let entry = doc! { "version": "0.7.0", "action": "initialise", "floor": Bson::Null };
    let record = doc! { "_id": "scenario_schema_version", "version": "0.7.0", "history": [entry] };
    database.collection(METADATA).insert_one(record).await.unwrap();
}

/// The record, or else an empty document.
pub async fn record(database: &Database) -> Document {
    let records = database.collection::<Document>(METADATA);
    let id = doc! { "_id": "scenario_schema_version" };
    records.find_one(id).await.unwrap().unwrap_or_default()
}

/// The lock, if anybody has it.
pub async fn lock(database: &Database) -> Option<Document> {
    let locks = database.collection::<Document>(METADATA);
    locks.find_one(doc! { "_id": "upgrade_lock" }).await.unwrap()
}

/// The history as `action version`.
pub fn history(record: &Document) -> Vec<String> {
    let Ok(entries) = record.get_array("history") else { return vec![] };
    let text = |entry: &Bson| {
        let entry = entry.as_document().unwrap();
        format!("{} {}", entry.get_str("action").unwrap(), entry.get_str("version").unwrap())
    };
    entries.iter().map(text).collect()
}

pub async fn fill(
    database: &Database,
    collection: &str,
    documents: impl IntoIterator<Item = Document>,
) {
    database.collection(collection).insert_many(documents).await.unwrap();
}

pub async fn count(database: &Database, collection: &str, filter: Document) -> u64 {
    database.collection::<Document>(collection).count_documents(filter).await.unwrap()
}

/// Each version of the report with its actions.
pub fn actions(run: &Run) -> Vec<(String, Value)> {
    let upgrades = run.report["upgrades"].as_array().unwrap_or_else(|| panic!("{run}"));
    let actions = |upgrade: &Value| {
        (upgrade["version"].as_str().unwrap().to_owned(), upgrade["actions"].clone())
    };
    upgrades.iter().map(actions).collect()
}

/// A number that an action of the report has among its details.
pub fn counted(run: &Run, version: &str, name: &str) -> u64 {
    let upgrades = run.report["upgrades"].as_array().unwrap();
    let upgrade = upgrades.iter().find(|upgrade| upgrade["version"] == version);
    let actions = upgrade.unwrap_or_else(|| panic!("{version}: {run}"))["actions"].as_array();
    let details = actions.unwrap().iter().filter_map(|action| action["details"].get(name));
    details.filter_map(Value::as_u64).sum()
}

/// The upgrades that the server can apply: without renames and drops before MongoDB 6.0.
pub fn suited(upgrades: &str) -> String {
    if mongod_version() >= (6, 0) {
        return upgrades.to_owned();
    }
    let moves = ["rename", "rename_first", "drop", "drop_blocks"];
    let kept = upgrades.split(';').filter_map(|unit| {
        let (version, names) = unit.split_once('=').unwrap();
        let names: Vec<&str> = names.split(',').filter(|name| !moves.contains(name)).collect();
        (!names.is_empty()).then(|| format!("{version}={}", names.join(",")))
    });
    kept.collect::<Vec<_>>().join(";")
}

/// Whether the server can apply the upgrades. Where it is too old, makes sure that they are refused
/// beforehand, and that nothing is written.
pub async fn suits(database: &Fresh, upgrades: &str) -> bool {
    if suited(upgrades) == upgrades {
        return true;
    }
    let before = db_hash(database).await;
    for mode in ["plan", "upgrade"] {
        let run = scenario(&database.uri, "0.9.0", upgrades).mode(mode).run().await;
        assert_code(&run, 18);
        let message = run.report["message"].as_str().unwrap();
        assert!(message.contains("needs MongoDB 6.0 or later"), "{run}");
        assert_eq!(db_hash(database).await, before, "{run}");
    }
    false
}

#[track_caller]
pub fn assert_code(run: &Run, code: i32) {
    assert_eq!(run.code, Some(code), "{run}");
}

/// A fault that the server makes in the commands of gates that [`faulty`] sends to one database.
///
/// A server has one such fault at a time: who wants another one waits.
pub struct Fault {
    client: Client,
    entered: i64,
    _one: MutexGuard<'static, ()>,
}

/// The connection string of a gate that meets the faults of its database.
pub fn faulty(database: &Fresh) -> String {
    let mark = if database.uri.contains('?') { '&' } else { '?' };
    format!("{}{mark}appName={}", database.uri, database.name())
}

impl Fault {
    /// Makes the `times` next `commands` fail as `how` says.
    pub async fn new(database: &Database, commands: &[&str], how: Document, times: i32) -> Fault {
        Fault::set(database, commands, how, doc! { "times": times }).await
    }

    /// Makes all `commands` fail as `how` says, after so many that do not.
    pub async fn after(database: &Database, skip: i32, commands: &[&str], how: Document) -> Fault {
        Fault::set(database, commands, how, doc! { "skip": skip }).await
    }

    /// Holds the `times` next `commands` up for so long.
    pub async fn block(
        database: &Database,
        commands: &[&str],
        time: Duration,
        times: i32,
    ) -> Fault {
        Fault::new(database, commands, blocking(time), times).await
    }

    async fn set(database: &Database, commands: &[&str], how: Document, mode: Document) -> Fault {
        static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let one = ONE.lock().await;
        let client = database.client().clone();
        let mut data = doc! { "failCommands": commands, "appName": database.name() };
        data.extend(how);
        let set = doc! { "configureFailPoint": "failCommand", "mode": mode, "data": data };
        let answer = client.database("admin").run_command(set).await.unwrap();
        let entered = answer.get("count").unwrap();
        let entered = entered.as_i64().or(entered.as_i32().map(i64::from)).unwrap();
        Fault { client, entered, _one: one }
    }

    /// Waits until it met so many commands.
    pub async fn met(&self, commands: i64) {
        let wait = doc! {
            "waitForFailPoint": "failCommand",
            "timesEntered": self.entered + commands,
            "maxTimeMS": 20_000,
        };
        self.client.database("admin").run_command(wait).await.unwrap();
    }

    pub async fn end(self) {
        let off = doc! { "configureFailPoint": "failCommand", "mode": "off" };
        self.client.database("admin").run_command(off).await.unwrap();
    }
}

pub fn blocking(time: Duration) -> Document {
    doc! { "blockConnection": true, "blockTimeMS": time.as_millis() as i64 }
}

/// Waits until nobody has the lock.
pub async fn unlocked(database: &Database) {
    eventually("the lock's end", || async { lock(database).await.is_none().then_some(()) }).await;
}

/// An `_id` of every type that the server allows in one, of a collection with a collation or without.
pub fn ids(collation: bool) -> Vec<Bson> {
    let binary = |subtype, bytes: &[u8]| Bson::Binary(Binary { subtype, bytes: bytes.to_vec() });
    let mut ids = vec![
        Bson::MinKey,
        Bson::MaxKey,
        Bson::Null,
        f64::NAN.into(),
        f64::NEG_INFINITY.into(),
        f64::INFINITY.into(),
        (-1.5).into(),
        0.into(),
        7.into(),
        8_i64.into(),
        9.5.into(),
        i64::MAX.into(),
        Bson::Decimal128("10.5".parse::<Decimal128>().unwrap()),
        Bson::Decimal128("1E+6000".parse::<Decimal128>().unwrap()),
        "".into(),
        "Ab".into(),
        "aC".into(),
        "b".into(),
        "ä".into(),
        doc! {}.into(),
        doc! { "a": 1 }.into(),
        doc! { "a": 1, "b": "x" }.into(),
        doc! { "b": 1, "a": 1 }.into(),
        doc! { "a": [1, { "c": Bson::Null }] }.into(),
        binary(BinarySubtype::Generic, b""),
        binary(BinarySubtype::Generic, b"bytes"),
        binary(BinarySubtype::Uuid, &[7; 16]),
        binary(BinarySubtype::UserDefined(200), b"bytes"),
        ObjectId::new().into(),
        ObjectId::from_bytes([0; 12]).into(),
        false.into(),
        true.into(),
        DateTime::from_millis(-1).into(),
        DateTime::MAX.into(),
        Timestamp { time: 1, increment: 2 }.into(),
        Bson::JavaScriptCode("x".into()),
        Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
            code: "x".into(),
            scope: doc! { "y": 1 },
        }),
    ];
    if !collation {
        ids.push(Bson::Symbol("symbol".into()));
    }
    ids.extend((100..120).map(Bson::from));
    ids.extend((100..120).map(|i| Bson::from(format!("{i}"))));
    ids
}

/// The same run, with the program started by `starter` instead of by itself.
pub fn as_first_process(gate: Gate, starter: impl Fn(&str) -> Gate) -> Gate {
    starter(&gate.binary().display().to_string()).with_settings_of(&gate)
}
