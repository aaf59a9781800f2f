//! The gate's story on a real database: closed, looked at, upgraded, open. Run it with `make demo`.

#[path = "../tests/support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::time::Instant;

use mongodb::Database;
use mongodb::bson::{Bson, Document, doc};
use serde_json::Value;
use support::{Gate, Server, db_hash, fixture};

/// Ends the demo: what was expected, and what happened.
type Unexpected = String;

/// Entries of `relationships` to look at, by the item's `item_id` and their position.
const ENTRIES: [(&str, usize); 3] = [("x.y_z-1", 0), ("cell-002", 0), ("by-both", 0)];

const WIDTH: usize = 78;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let began = Instant::now();
    match story().await {
        Ok(summary) => {
            println!("\ndemo: {summary}, in {:.1} s", began.elapsed().as_secs_f64());
            ExitCode::SUCCESS
        }
        Err(unexpected) => {
            eprintln!("\ndemo: {unexpected}");
            ExitCode::FAILURE
        }
    }
}

async fn story() -> Result<String, Unexpected> {
    tell("A MongoDB replica set of its own, with the database that a real datalab 0.6.0 left.");
    let server = Server::replica_set().await;
    let database = server.client().await.database("datalabvue");
    fixture::load(&database).await;
    let uri = server.uri("datalabvue");
    let datalab = Operator { gate: Gate::new(binary()?).uri(&uri) };
    let before = entries(&database).await?;
    let loaded = db_hash(&database).await;
    println!("\n$ export GATE_MONGODB_URI='{uri}'");

    tell("May the new code start? Nobody has said yet what this database is.");
    datalab.runs(&[("GATE_MODE", "check")], 11).await?;

    tell("It last ran 0.6.0. The operator says so.");
    let from = ("GATE_FROM_VERSION", "0.6.0");
    datalab.runs(&[("GATE_MODE", "check"), from], 10).await?;

    tell("What would the upgrade do?");
    let plan = datalab.runs(&[("GATE_MODE", "plan"), from], 10).await?;
    same("the database after check and plan", db_hash(&database).await, loaded)?;

    tell("Do it.");
    let upgrade = datalab.runs(&[("GATE_MODE", "upgrade"), from], 0).await?;
    let actions = |report: &Value| report["upgrades"][0]["actions"].clone();
    same("what the upgrade reports", actions(&upgrade), actions(&plan))?;

    tell("May the new code start now? The database says itself where it is.");
    datalab.runs(&[("GATE_MODE", "check")], 0).await?;

    tell("Three of the documents, before and after: found, gone, and named by refcode already.");
    let after = entries(&database).await?;
    for ((item, position), (before, after)) in ENTRIES.iter().zip(before.iter().zip(&after)) {
        println!("\n  {item}, relationships.{position}");
        println!("    before  {}", reference(before));
        println!("    after   {}", reference(after));
    }
    let [pinned, deprecated, kept] = [0, 1, 2].map(|at| (before[at].clone(), after[at].clone()));
    let refcode = item(&database, "sample-001").await?.get("refcode").cloned();
    same("the pinned entry", pinned.1, with(pinned.0, "refcode", refcode.unwrap_or(Bson::Null)))?;
    same("the deprecated entry", deprecated.1, with(deprecated.0, "deprecated", true.into()))?;
    same("the entry that needed nothing", kept.1, kept.0)?;

    let details = |action: usize, name| actions(&upgrade)[action]["details"][name].clone();
    Ok(format!(
        "all as expected; {} references pinned and {} deprecated",
        details(0, "pinned"),
        details(1, "deprecated")
    ))
}

/// Who types the commands.
struct Operator {
    gate: Gate,
}

impl Operator {
    /// Runs the gate, shows command and report, and returns the report of the expected exit code.
    async fn runs(&self, settings: &[(&str, &str)], code: i32) -> Result<Value, Unexpected> {
        let typed: Vec<_> =
            settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        println!("\n$ {} datalab-upgrade", typed.join(" "));
        let mut gate = self.gate.clone();
        for (name, value) in settings {
            gate = gate.set(name, *value);
        }
        let run = gate.run().await;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        show("  ", &text(&run.report["message"]));
        for upgrade in run.report["upgrades"].as_array().into_iter().flatten() {
            let (version, state) = (text(&upgrade["version"]), text(&upgrade["state"]));
            show("  ", &format!("{version} {state}: {}", text(&upgrade["description"])));
            for action in upgrade["actions"].as_array().into_iter().flatten() {
                show("    - ", &text(&action["description"]));
            }
        }
        for warning in run.report["warnings"].as_array().into_iter().flatten() {
            show("  warning: ", &text(warning));
        }
        if let Some(next) = run.report["next"].as_str() {
            show("  next: ", next);
        }
        println!("  exit {} ({})", run.code.unwrap_or(-1), text(&run.report["outcome"]));
        if run.code == Some(code) {
            Ok(run.report)
        } else {
            Err(format!("expected exit {code}, but the gate ended so:\n{run}"))
        }
    }
}

/// The gate's binary, which cargo puts into the folder above that of the examples.
fn binary() -> Result<std::path::PathBuf, Unexpected> {
    let demo = std::env::current_exe().map_err(|error| error.to_string())?;
    let binary = demo.ancestors().nth(2).unwrap_or(&demo).join("datalab-upgrade");
    if binary.exists() {
        Ok(binary)
    } else {
        Err("datalab-upgrade is not built: run make demo, which builds it".to_owned())
    }
}

async fn entries(database: &Database) -> Result<Vec<Document>, Unexpected> {
    let mut entries = Vec::new();
    for (item_id, position) in ENTRIES {
        let item = item(database, item_id).await?;
        let relationships = item.get_array("relationships").map_err(|error| error.to_string())?;
        let entry = relationships.get(position).and_then(Bson::as_document);
        entries.push(entry.cloned().ok_or(format!("{item_id} has no entry {position}"))?);
    }
    Ok(entries)
}

async fn item(database: &Database, item_id: &str) -> Result<Document, Unexpected> {
    let found = database.collection("items").find_one(doc! { "item_id": item_id }).await;
    found.map_err(|error| error.to_string())?.ok_or(format!("there is no item {item_id}"))
}

/// The fields of an entry that the upgrade reads or writes.
fn reference(entry: &Document) -> String {
    let fields = ["item_id", "refcode", "deprecated"].map(|name| (name, entry.get(name)));
    let shown = fields.iter().filter_map(|(name, value)| Some(format!("{name}: {}", (*value)?)));
    shown.collect::<Vec<_>>().join(", ")
}

/// The entry with one field changed, or added at its end.
fn with(mut entry: Document, field: &str, value: Bson) -> Document {
    entry.insert(field, value);
    entry
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, is: T, was: T) -> Result<(), Unexpected> {
    if is == was { Ok(()) } else { Err(format!("{what}: {is:?} instead of {was:?}")) }
}

fn tell(text: &str) {
    println!("\n# {text}");
}

/// Prints a text in lines that a terminal can hold; `head` stands before the first.
fn show(head: &str, text: &str) {
    let mut line = head.to_owned();
    let indent = " ".repeat(head.len());
    for word in text.split(' ') {
        if line.trim().len() > head.trim().len() && line.len() + word.len() > WIDTH {
            println!("{}", line.trim_end());
            line.clone_from(&indent);
        }
        line += &format!("{word} ");
    }
    println!("{}", line.trim_end());
}
