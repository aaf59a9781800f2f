//! The example kanban, an application whose upgrades are files: what its upgrades make of every document, on both kinds
//! of server, and under kills.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use mongodb::Database;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::error::Error;
use mongodb::options::IndexOptions;
use support::folder::{Folder, copy};
use support::{Fresh, Server, dump};
use tokio::sync::OnceCell;
use upgrade_gate::harness::Harness;
use upgrade_gate::{Gate, files};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Seeded, so that a failure can be seen again.
const SEED: u64 = 20_261_128;

/// The directory as it is, but for the packages of the tests, which an image of the application would have.
fn directory(name: &str) -> Folder {
    let folder = Folder::new(name);
    copy(&Path::new(ROOT).join("examples/files/kanban"), folder.path());
    let file = folder.path().join("2.0.0-checklists.yaml");
    let written = std::fs::read_to_string(&file).unwrap();
    let packages = format!("{ROOT}/.cache/python:{ROOT}/clients/python");
    std::fs::write(&file, format!("{written}  env: {{ PYTHONPATH: \"{packages}\" }}\n")).unwrap();
    folder
}

fn gate(folder: &Folder) -> Gate {
    files::read(folder.path(), None).gate().unwrap()
}

/// The documents of the old database, as the generator makes them.
async fn old() -> &'static BTreeMap<String, Vec<RawDocumentBuf>> {
    static OLD: OnceCell<BTreeMap<String, Vec<RawDocumentBuf>>> = OnceCell::const_new();
    OLD.get_or_init(|| async {
        let database = Server::shared().await.database().await;
        let script = format!("{ROOT}/examples/files/kanban/old_database.py");
        let made = support::python().args([&script, &database.uri]).status().unwrap();
        assert!(made.success());
        dump(&database).await.into_iter().collect()
    })
    .await
}

async fn fill(database: &Database) -> Result<(), Error> {
    for (name, documents) in old().await {
        database.collection::<RawDocumentBuf>(name).insert_many(documents).await?;
    }
    let options = IndexOptions::builder().name("board_order".to_owned()).build();
    let keys = doc! { "board": 1, "order": 1 };
    let index = mongodb::IndexModel::builder().keys(keys).options(options).build();
    database.collection::<Document>("cards").create_index(index).await?;
    Ok(())
}

/// A database that the program has upgraded from the old one.
async fn upgraded(server: &Server, folder: &Folder) -> Fresh {
    let database = server.database().await;
    fill(&database).await.unwrap();
    let gate = support::Gate::new(env!("CARGO_BIN_EXE_upgrade-gate")).uri(&database.uri);
    let gate = gate.set("GATE_UPGRADES", folder.path().to_string_lossy());
    let run = gate.set("GATE_FROM_VERSION", "1.0.0").mode("upgrade").run().await;
    assert_eq!(run.code, Some(0), "{run}");
    database
}

fn read<T: serde::de::DeserializeOwned>(documents: &[RawDocumentBuf]) -> Vec<T> {
    documents
        .iter()
        .map(|document| mongodb::bson::deserialize_from_slice(document.as_bytes()).unwrap())
        .collect()
}

/// What all upgrades make of a card, by a reading of their descriptions that has nothing to do with how they do it.
fn expected(mut card: Document, people: &BTreeMap<String, Bson>) -> Document {
    let position = card.remove("order").unwrap_or(Bson::Int32(0));
    card.insert("position", position);
    let labels: Vec<Bson> = card
        .get_str("labels")
        .unwrap()
        .split(',')
        .map(str::trim)
        .filter(|label| !label.is_empty())
        .map(Bson::from)
        .collect();
    card.insert("labels", labels);
    if let Ok(email) = card.get_str("assignee").map(str::to_owned) {
        card.insert("assignee", people.get(&email).cloned().unwrap_or(Bson::Null));
    }
    card.remove("comments");
    card
}

/// The same with what the program makes of its text.
fn with_checklist(mut card: Document) -> Document {
    let text = card.get_str("text").unwrap().to_owned();
    let (entries, rest): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.starts_with("- ["));
    let checklist: Vec<Document> = entries
        .iter()
        .map(|entry| {
            doc! { "what": &entry[6..], "done": entry.starts_with("- [x]") }
        })
        .collect();
    card.insert("text", rest.join("\n"));
    card.insert("checklist", checklist);
    card
}

fn by_id(documents: impl IntoIterator<Item = Document>) -> BTreeMap<String, Document> {
    documents
        .into_iter()
        .map(|document| (document.get("_id").unwrap().to_string(), document))
        .collect()
}

/// A document whose fields may stand in any order.
fn sorted(document: Document) -> BTreeMap<String, Bson> {
    document.into_iter().collect()
}

#[tokio::test]
async fn both_kinds_of_server_end_with_what_the_files_describe() {
    let folder = directory("kanban");
    let standalone = Server::standalone().await;
    let database = upgraded(Server::shared().await, &folder).await;
    let on_standalone = upgraded(&standalone, &folder).await;
    let after = documents(&database).await;
    assert_eq!(after, documents(&on_standalone).await, "byte for byte");

    let old = old().await;
    let people: Vec<Document> = read(&old["people"]);
    let people = people
        .iter()
        .map(|person| {
            (person.get_str("email").unwrap().to_owned(), person.get("_id").unwrap().clone())
        })
        .collect();
    let (archived, cards): (Vec<Document>, Vec<Document>) = read(&old["cards"])
        .into_iter()
        .partition(|card: &Document| card.get_bool("archived").unwrap_or(false));
    let comments: usize = cards
        .iter()
        .chain(&archived)
        .filter_map(|card| card.get_array("comments").ok())
        .map(Vec::len)
        .sum();
    assert_eq!(after["comments"].len(), comments);
    let expected_cards = cards.into_iter().map(|card| with_checklist(expected(card, &people)));
    let expected_archive = archived.into_iter().map(|card| {
        let mut card = expected(card, &people);
        card.remove("archived");
        card
    });
    for (name, expected) in [("cards", by_id(expected_cards)), ("archive", by_id(expected_archive))]
    {
        let stored = by_id(read::<Document>(&after[name]));
        assert_eq!(stored.len(), expected.len(), "{name}");
        for (id, card) in expected {
            assert_eq!(sorted(stored[&id].clone()), sorted(card), "{name}");
        }
    }
    assert_eq!(after["members"], old["people"]);
    assert_eq!(after["boards"], old["boards"]);
    assert_eq!(after["roles"].len(), 3);
    assert!(!after.contains_key("logins") && !after.contains_key("people"));
}

/// All documents but the gate's own.
async fn documents(database: &Database) -> BTreeMap<String, Vec<RawDocumentBuf>> {
    let mut all: BTreeMap<_, _> = dump(database).await.into_iter().collect();
    all.remove("database_metadata");
    all
}

#[tokio::test]
async fn the_upgrades_survive_kills_on_both_kinds_of_server() {
    let folder = directory("kanban-killed");
    let standalone = Server::standalone().await;
    for uri in [Server::shared().await.uri(""), standalone.uri("")] {
        let harness = Harness::new(gate(&folder), &uri)
            .set("GATE_FROM_VERSION", "1.0.0")
            .set("GATE_BATCH_DOCUMENTS", "200")
            .seed(SEED)
            .boundaries(8)
            .instants(2)
            .within(Duration::from_secs(15));
        let survived = harness.run(async |database| fill(database).await).await.unwrap();
        println!("kanban: {survived:?}");
        assert!(survived.kills > 0 && !survived.boundaries.is_empty());
    }
}

/// Its own tests, which stand next to its files.
#[tokio::test]
async fn kanbans_own_tests_pass_and_one_that_expects_something_else_fails() {
    let folder = directory("kanban-tests");
    let server = Server::shared().await;
    let gate = support::Gate::new(env!("CARGO_BIN_EXE_upgrade-gate")).uri(&server.uri(""));
    let test = gate.arg("test").arg(folder.path().to_str().unwrap());
    let run = test.run().await;
    assert_eq!(run.code, Some(0), "{run}");
    assert_eq!(run.report["message"], "1 test passed", "{run}");
    let members = "tests/1.0.0-small/after/members.yaml";
    folder.write(members, "- { _id: 5, email: ada@example.org, name: Bob }\n");
    let run = test.run().await;
    assert_eq!(run.code, Some(14), "{run}");
    let said = run.report["message"].as_str().unwrap();
    assert!(said.ends_with("document 5 of members: `name` is \"Ada\", expected \"Bob\""), "{run}");
}

/// With a `python3` that has what the first of them installs.
#[tokio::test]
async fn the_commands_of_its_page_upgrade_the_old_database_and_test_the_files() {
    support::python();
    let page = std::fs::read_to_string(format!("{ROOT}/examples/files/kanban/README.md")).unwrap();
    let [(_, commands)] = &support::guide::blocks(&page)[..] else { panic!("{page}") };
    let (install, commands) = commands.split_once('\n').unwrap();
    assert_eq!(install, "pip install ./clients/python");
    let server = Server::shared().await;
    let database = server.database().await;
    let commands = commands
        .replace("mongodb://127.0.0.1:27017/kanban", &database.uri)
        .replace("mongodb://127.0.0.1:27017/", &server.uri(""));
    let folder = Folder::new("kanban-page");
    let python = format!(
        "#!/bin/sh\nPATH='{}' PYTHONPATH={ROOT}/.cache/python:{ROOT}/clients/python\n\
         export PATH PYTHONPATH\nexec python3 \"$@\"\n",
        std::env::var("PATH").unwrap()
    );
    folder.write("python3", &python);
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path().join("python3"), executable).unwrap();
    let programs = Path::new(env!("CARGO_BIN_EXE_upgrade-gate")).parent().unwrap();
    let path = format!("{}:{}:/usr/bin:/bin", folder.path().display(), programs.display());
    let done = std::process::Command::new("bash")
        .args(["-ec", &commands])
        .current_dir(ROOT)
        .env_clear()
        .env("PATH", path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    assert!(done.status.success(), "{said}");
    assert!(said.contains("7 upgrades, no mistakes") && said.contains("1 test passed"), "{said}");
    let recorded = database.collection::<Document>("database_metadata");
    let recorded = recorded.find_one(doc! { "_id": "kanban_schema_version" }).await.unwrap();
    assert_eq!(recorded.unwrap().get_str("version").unwrap(), "2.0.0");
}
