//! The story of an application whose upgrades are files, `examples/files/kanban`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use mongodb::Database;
use mongodb::bson::{Bson, Document, doc};
use serde_json::Value;

use crate::operator::{Operator, Unexpected, binary, same, tell};
use crate::support::folder::Folder;
use crate::support::{self, Server, db_hash};

const UPGRADES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/files/kanban");

/// A card that 1.0.0 could lose its board of, and no upgrade can find it again.
const LOST: &str = "lost";

/// Runs it; returns a line that sums it up.
pub async fn story() -> Result<String, Unexpected> {
    tell("A directory of files says what each release does to the data. Are they right?");
    validated()?;

    tell("A MongoDB standalone server of its own, with the database that kanban 1.0.0 left.");
    let server = Server::standalone().await;
    let database = server.client().await.database("kanban");
    let uri = server.uri("kanban");
    let script = Path::new(UPGRADES).join("old_database.py");
    let made = support::python().arg(script).arg(&uri).status();
    let made = made.map_err(|error| error.to_string())?;
    same("whether the old database was made", made.success(), true)?;
    let cards = database.collection::<Document>("cards");
    let lost = doc! { "_id": LOST, "title": "A card without a board" };
    cards.insert_one(lost).await.map_err(|error| error.to_string())?;
    let packages = packages()?;
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", packages.path().display());
    let kanban = Operator::of("upgrade-gate", |gate| {
        gate.uri(&uri).set("GATE_UPGRADES", UPGRADES).set("PATH", path)
    })?;
    println!("\n$ export GATE_MONGODB_URI='{uri}' GATE_UPGRADES=examples/files/kanban");
    let left = db_hash(&database).await;

    tell("It last ran 1.0.0. What would be done?");
    let from = ("GATE_FROM_VERSION", "1.0.0");
    kanban.runs(&[from], "plan", 13).await?;

    tell("One card is on no board. Nothing was written; it is one that nobody misses.");
    same("the database", db_hash(&database).await, left)?;
    cards.delete_one(doc! { "_id": LOST }).await.map_err(|error| error.to_string())?;
    let plan = kanban.runs(&[from], "plan", 10).await?;

    tell("Do it.");
    let before = card(&database).await?;
    let upgrade = kanban.runs(&[from], "upgrade", 0).await?;
    let versions = |report: &Value| report["upgrades"].as_array().map_or(0, Vec::len);
    same("the versions", versions(&upgrade), versions(&plan))?;

    tell("May the new code start? It need not ask how.");
    kanban.runs(&[], "check", 0).await?;

    tell("One of the cards, before and after.");
    println!("\n  before  {}", shown(&before));
    let after = cards.find_one(doc! { "_id": before.get("_id") }).await;
    let after = after.map_err(|error| error.to_string())?.ok_or("the card is gone")?;
    println!("  after   {}", shown(&after));
    Ok(format!("all as expected; {} versions applied", versions(&upgrade)))
}

/// `upgrade-gate validate`, which needs no server.
fn validated() -> Result<(), Unexpected> {
    println!("\n$ upgrade-gate validate examples/files/kanban");
    let validate = Command::new(binary("upgrade-gate")?).args(["validate", UPGRADES]).status();
    same("whether the files are right", validate.map_err(|e| e.to_string())?.success(), true)
}

/// A folder with a `python3` that has what an image of the application would have: pymongo and the helper.
fn packages() -> Result<Folder, Unexpected> {
    let folder = Folder::new("demo-python");
    let root = env!("CARGO_MANIFEST_DIR");
    let path = std::env::var("PATH").unwrap_or_default();
    let script = format!(
        "#!/bin/sh\nexport PATH='{path}' PYTHONPATH='{root}/.cache/python:{root}/clients/python'\n\
         exec python3 \"$@\"\n"
    );
    folder.write("python3", &script);
    let file = folder.path().join("python3");
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(file, executable).map_err(|error| error.to_string())?;
    Ok(folder)
}

/// A card with all that changes: no order, labels, an assignee, comments and a checklist.
async fn card(database: &Database) -> Result<Document, Unexpected> {
    let cards = database.collection::<Document>("cards");
    let all = doc! {
        "assignee": { "$exists": true }, "labels": { "$ne": "" }, "comments.1": { "$exists": true },
        "comments.2": { "$exists": false }, "text": { "$regex": "\\[x\\]" }, "archived": { "$exists": false },
    };
    let found = cards.find_one(all).sort(doc! { "_id": 1 }).await;
    found.map_err(|error| error.to_string())?.ok_or_else(|| "there is no such card".to_owned())
}

/// A document without its identity and its title.
fn shown(card: &Document) -> String {
    let rest = card.iter().filter(|(name, _)| !["_id", "board", "title"].contains(&name.as_str()));
    rest.map(|(name, value)| format!("{name}: {}", text(value))).collect::<Vec<_>>().join(", ")
}

fn text(value: &Bson) -> String {
    match value {
        Bson::Array(values) => format!("{} of them", values.len()),
        value => value.to_string(),
    }
}
