//! What the guide says of privileges: they are enough, and none of them can be spared.

mod apps;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Document, doc};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use support::{Gate, Run, Server, db_hash, fixture};

/// An action on a resource of MongoDB's.
type Privilege = (String, Document);

#[derive(Deserialize)]
struct Role {
    privileges: Vec<Actions>,
}

#[derive(Deserialize)]
struct Actions {
    resource: Document,
    actions: Vec<String>,
}

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/mongodb.md")).unwrap()
}

/// The argument, from `open` to `close`, of the call in the code that follows `<!-- name -->`.
fn argument<T: DeserializeOwned>(name: &str, open: char, close: char) -> T {
    let text = page();
    let (_, after) = text.split_once(&format!("<!-- {name} -->\n```js\n")).unwrap();
    let (code, _) = after.split_once("```").unwrap();
    serde_json::from_str(&code[code.find(open).unwrap()..=code.rfind(close).unwrap()]).unwrap()
}

fn each(privileges: Vec<Actions>) -> Vec<Privilege> {
    let each = privileges.into_iter().flat_map(|Actions { resource, actions }| {
        actions.into_iter().map(move |action| (action, resource.clone()))
    });
    each.collect()
}

fn least_role() -> Vec<Privilege> {
    each(argument::<Role>("role", '{', '}').privileges)
}

/// The connection string of a new user of `database` with exactly these privileges.
async fn user(server: &Server, database: &str, granted: &[Privilege]) -> String {
    let role = ObjectId::new().to_hex();
    let privilege =
        |(action, resource): &Privilege| doc! { "resource": resource.clone(), "actions": [action] };
    let privileges: Vec<Document> = granted.iter().map(privilege).collect();
    let create = doc! { "createRole": &role, "privileges": privileges, "roles": [] };
    server.client().await.database(database).run_command(create).await.unwrap();
    server.uri_with_roles(database, &[&role]).await
}

async fn datalab(server: &Server, granted: &[Privilege]) -> Gate {
    let uri = user(server, "datalabvue", granted).await;
    Gate::new(env!("CARGO_BIN_EXE_datalab-upgrade")).uri(&uri).set("GATE_FROM_VERSION", "0.6.0")
}

/// Closed for want of exactly this privilege, and says which.
#[track_caller]
fn lacks((action, resource): &Privilege, run: &Run) {
    assert_eq!(run.code, Some(17), "without {action} on {resource}: {run}");
    let message = run.report["message"].as_str().unwrap();
    let words: Vec<&str> = message.split([' ', '.', ';', ':']).collect();
    assert!(words.contains(&action.as_str()), "{action}: {message}");
    let collection = resource.get_str("collection").unwrap();
    assert!(collection.is_empty() || words.contains(&collection), "{collection}: {message}");
}

#[tokio::test]
async fn the_least_role_is_enough_in_every_mode_and_none_of_it_can_be_spared() {
    let server = Server::with_auth().await;
    let role = least_role();
    let database = server.client().await.database("datalabvue");
    fixture::load(&database).await;
    let untouched = db_hash(&database).await;
    for spared in 0..role.len() {
        let mut granted = role.clone();
        let missing = granted.remove(spared);
        let run = datalab(&server, &granted).await.run().await;
        lacks(&missing, &run);
        assert_eq!(db_hash(&database).await, untouched, "without {missing:?}");
    }
    let gate = datalab(&server, &role).await;
    for (mode, code) in
        [("check", 10), ("plan", 10), ("upgrade", 0), ("check", 0), ("wait", 0), ("sweep", 0)]
    {
        let run = gate.clone().mode(mode).run().await;
        assert_eq!(run.code, Some(code), "{mode}: {run}");
    }
    let record = gate.mode("record").unset("GATE_FROM_VERSION");
    let record = record.set("GATE_EXPECT_VERSION", "0.8.0").set("GATE_RECORD_VERSION", "0.7.0");
    let run = record.run().await;
    assert_eq!(run.code, Some(10), "{run}");
}

#[tokio::test]
async fn who_only_asks_needs_to_read_the_record_only() {
    let server = Server::with_auth().await;
    let role = least_role();
    assert_eq!(role[0].0, "find");
    fixture::load(&server.client().await.database("datalabvue")).await;
    let gate = datalab(&server, &role).await;
    assert_eq!(gate.run().await.code, Some(0));
    for mode in ["check", "wait", "status"] {
        let run = datalab(&server, &role[..1]).await.mode(mode).run().await;
        assert_eq!(run.code, Some(0), "{run}");
        if mode == "status" {
            assert_eq!(run.report["status"]["history"][0]["action"], "upgrade", "{run}");
            assert_eq!(run.report["status"]["check"]["exit_code"], 0, "{run}");
        }
        let run = datalab(&server, &[]).await.mode(mode).run().await;
        assert_eq!(run.code, Some(17), "{run}");
    }
}

#[tokio::test]
async fn a_sweep_needs_the_least_role_and_none_of_it_can_be_spared() {
    let server = Server::with_auth().await;
    let role = least_role();
    let database = server.client().await.database("datalabvue");
    fixture::load(&database).await;
    assert_eq!(datalab(&server, &role).await.run().await.code, Some(0));
    // as a user restores an old version
    let items = database.collection::<Document>("items");
    let unpinned = doc! { "$unset": { "relationships.$[].refcode": "" } };
    items
        .update_many(doc! { "relationships.refcode": { "$type": "string" } }, unpinned)
        .await
        .unwrap();
    let untouched = db_hash(&database).await;
    for spared in 0..role.len() {
        let mut granted = role.clone();
        let missing = granted.remove(spared);
        let run = datalab(&server, &granted).await.mode("sweep").run().await;
        lacks(&missing, &run);
        assert_eq!(db_hash(&database).await, untouched, "without {missing:?}");
    }
    let run = datalab(&server, &role).await.mode("sweep").run().await;
    assert_eq!(run.code, Some(0), "{run}");
    assert!(run.report["swept"].as_u64().unwrap() > 0, "{run}");
}

#[tokio::test]
async fn a_fresh_database_needs_what_it_says_besides() {
    let server = Server::with_auth().await;
    let besides = each(argument("role for fresh", '[', ']'));
    for spared in 0..besides.len() {
        let mut granted = besides.clone();
        let missing = granted.remove(spared);
        // there is something to look into
        server.client().await.database("datalabvue").create_collection("tags").await.ok();
        let gate = datalab(&server, &[least_role(), granted].concat()).await;
        let run = gate.unset("GATE_FROM_VERSION").set("GATE_INITIALISE", "fresh").run().await;
        assert_eq!(run.code, Some(17), "without {missing:?}: {run}");
        let message = run.report["message"].as_str().unwrap();
        assert!(message.contains(&missing.0), "{missing:?}: {message}");
    }
    let gate = datalab(&server, &[least_role(), besides].concat()).await;
    let run = gate.unset("GATE_FROM_VERSION").set("GATE_INITIALISE", "fresh").run().await;
    assert_eq!(run.code, Some(0), "{run}");
}

/// The guide's table: each kind of step with its actions on its collection, and on the database.
fn table() -> BTreeMap<String, [Vec<String>; 2]> {
    let text = page();
    let (_, rows) = text.split_once("<!-- privileges -->\n").unwrap();
    let rows = rows.lines().skip(2).take_while(|row| row.starts_with('|'));
    let actions = |cell: &str| {
        let words = cell.split('`').skip(1).step_by(2);
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    let row = |row: &str| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        (cells[0].replace('`', ""), [actions(cells[1]), actions(cells[2])])
    };
    rows.map(row).collect()
}

/// An upgrade of the scenario application, with the kinds of its steps and their collections.
const STEPS: [(&str, &[(&str, &str)]); 16] = [
    ("strict", &[("condition", "tasks"), ("transform", "things")]),
    ("evaluate", &[("update", "things")]),
    (
        "move_out",
        &[("copy", "things"), ("into of a copy", "blocks"), ("then_delete of a copy", "things")],
    ),
    ("discard", &[("delete", "things")]),
    ("pin", &[("transform", "things"), ("look-up of a transform", "people")]),
    ("extract", &[("transform", "things"), ("inserts_into of a transform", "blocks")]),
    ("singleton", &[("transaction", "auxiliary")]),
    ("index", &[("command: make an index", "things")]),
    ("unindex", &[("command: drop an index", "things")]),
    ("validator", &[("command: set a validator or options", "things")]),
    ("options", &[("command: set a validator or options", "things")]),
    ("hide", &[("command: change an index", "things")]),
    ("seed", &[("seed", "roles")]),
    ("purge", &[("transform", "things"), ("deletes of a transform", "things")]),
    ("rename", &[("command: rename", "old")]),
    ("drop", &[("command: drop", "old")]),
];

#[tokio::test]
async fn each_kind_of_step_needs_what_the_table_says() {
    let server = Server::with_auth().await;
    let table = table();
    let mut used: Vec<&str> = STEPS.iter().flat_map(|(_, kinds)| *kinds).map(|(k, _)| *k).collect();
    used.sort_unstable();
    used.dedup();
    assert_eq!(used, table.keys().map(String::as_str).collect::<Vec<_>>(), "every row is tried");

    for (upgrade, kinds) in STEPS {
        let database = format!("test_{upgrade}");
        let client = server.client().await.database(&database);
        apps::fill(&client, "things", [doc! { "_id": 1, "a": 1 }]).await;
        apps::fill(&client, "old", [doc! { "_id": 1 }]).await;
        let index = doc! { "key": { "b": 1 }, "name": "by b" };
        if ["unindex", "hide"].contains(&upgrade) {
            let create = doc! { "createIndexes": "things", "indexes": [index] };
            client.run_command(create).await.unwrap();
        }
        let on = |collection: &str| doc! { "db": &database, "collection": collection };
        let record = ["find", "insert", "update", "remove"];
        let record = record.map(|action| (action.to_owned(), on(apps::METADATA)));
        // a user who sees no collection of the application cannot say what the database last ran
        apps::fill(&client, "seen", [doc! { "_id": 1 }]).await;
        let record = [&record[..], &[("find".to_owned(), on("seen"))]].concat();
        let mut step = Vec::new();
        for (kind, collection) in kinds {
            let [own, everywhere] = &table[*kind];
            step.extend(own.iter().map(|action| (action.clone(), on(collection))));
            step.extend(everywhere.iter().map(|action| (action.clone(), on(""))));
        }
        let run = async |step: &[Privilege]| {
            let uri = user(&server, &database, &[&record[..], step].concat()).await;
            apps::scenario(&uri, "0.8.0", &format!("0.8.0={upgrade}")).run().await
        };
        for spared in 0..step.len() {
            let mut granted = step.clone();
            let missing = granted.remove(spared);
            lacks(&missing, &run(&granted).await);
        }
        let applied = run(&step).await;
        // renames and drops need MongoDB 6.0
        let suited = !apps::suited(&format!("0.8.0={upgrade}")).is_empty();
        assert_eq!(applied.code, Some(if suited { 0 } else { 18 }), "{upgrade}: {applied}");
    }
}
