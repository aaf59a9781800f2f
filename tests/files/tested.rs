//! `upgrade-gate test`: the tests that authors write for upgrades from files, and what it says of those that fail.

use serde_json::Value;

use crate::support::folder::Folder;
use crate::support::{Gate, Run, Server};

const UPGRADE: &str = "version: 1.1.0
description: give every card a position
steps:
- update: cards
  where: { position: { $exists: false } }
  set: [ { $set: { position: { $ifNull: [ $order, 0 ] }, at: $$NOW } }, { $unset: order } ]
- copy: cards
  where: { note: { $exists: true } }
  pipeline: [ { $project: { note: 1 } } ]
  into: notes
";

fn folder(name: &str) -> Folder {
    let folder = Folder::new(name);
    folder.write("gate.yaml", "app: kanban\nversion: 1.1.0\n");
    folder.write("1.1.0-cards.yaml", UPGRADE);
    let cards: String = (1..12).map(|n| format!("{{ \"_id\": {n}, \"order\": {n} }}\n")).collect();
    let before = format!("{cards}{{ \"_id\": 12, \"note\": \"late\" }}\n");
    folder.write("tests/1.0.0-cards/before/cards.json", &before);
    let now = "{ $date: \"1970-01-01T00:00:00Z\" }";
    let after: String =
        (1..12).map(|n| format!("- {{ _id: {n}, position: {n}, at: {now} }}\n")).collect();
    let after = format!("{after}- {{ _id: 12, position: 0, at: {now}, note: late }}\n");
    folder.write("tests/1.0.0-cards/after/cards.yaml", &after);
    folder.write("tests/1.0.0-cards/after/notes.yaml", "- { _id: 12, note: late }\n");
    folder
}

async fn test(folder: &Folder, uri: &str) -> Run {
    let gate = Gate::new(env!("CARGO_BIN_EXE_upgrade-gate")).uri(uri);
    gate.arg("test").arg(folder.path().to_str().unwrap()).run().await
}

#[track_caller]
fn ended(run: &Run, code: i32, says: &str) {
    assert_eq!(run.code, Some(code), "{run}");
    assert!(run.report["message"].as_str().unwrap().contains(says), "{says}: {run}");
}

/// The databases that tests make.
async fn left(server: &Server) -> Vec<String> {
    let names = server.database().await.client().list_database_names().await.unwrap();
    names.into_iter().filter(|name| name.starts_with("harness_")).collect()
}

#[tokio::test]
async fn tests_of_files_kill_runs_and_compare_on_both_kinds_of_server() {
    let folder = folder("tested-right");
    for server in [Server::replica_set().await, Server::standalone().await] {
        let run = test(&folder, &server.uri("")).await;
        ended(&run, 0, "1 test passed");
        assert_eq!(
            (&run.report["mode"], &run.report["outcome"]),
            (&"test".into(), &"passed".into())
        );
        assert!(run.stderr.contains("test 1.0.0-cards: passed; "), "{run}");
        assert_eq!(left(&server).await, [""; 0]);
    }
}

#[tokio::test]
async fn a_test_that_fails_says_what_differs_and_leaves_nothing() {
    let server = Server::replica_set().await;
    let uri = server.uri("");
    let wrong = |name: &str, file: &str, from: &str, to: &str| {
        let folder = folder(name);
        let path = folder.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        folder.write(file, &text.replace(from, to));
        folder
    };
    let after = "tests/1.0.0-cards/after/cards.yaml";
    for (folder, says) in [
        (
            wrong("tested-value", after, "position: 3,", "position: 4,"),
            "1.0.0-cards: document 3 of cards: `position` is 3, expected 4",
        ),
        (
            wrong("tested-type", after, "position: 3,", "position: 3.0,"),
            "`position` is Int32(3), expected Double(3.0)",
        ),
        (wrong("tested-surplus", after, "- { _id: 3, ", "- { _id: 33, "), "document 3 is in cards"),
        (
            wrong("tested-missing", after, "- { _id: 12,", "- { _id: 13 }\n- { _id: 12,"),
            "document 13 is missing in cards",
        ),
        // not convergent: what it makes of a document matches still
        (
            wrong(
                "tested-again",
                "1.1.0-cards.yaml",
                "{ $exists: false }",
                "{ $not: { $gt: 99 } }",
            ),
            "a run ends with 14: ",
        ),
        (
            wrong("tested-fails", "1.1.0-cards.yaml", "$ifNull: [ $order, 0 ]", "$toInt: $note"),
            "a run ends with 14: ",
        ),
    ] {
        let run = test(&folder, &uri).await;
        ended(&run, 14, says);
        assert!(run.stderr.contains("test 1.0.0-cards: FAILED: "), "{run}");
        assert_eq!(left(&server).await, [""; 0]);
    }
}

/// The program answers by what it was asked before, so that a run that goes on after a kill answers otherwise.
#[tokio::test]
async fn an_upgrade_that_leaves_something_else_after_a_kill_fails_its_test() {
    let folder = folder("tested-counts");
    crate::support::python();
    let root = env!("CARGO_MANIFEST_DIR");
    let program = "from upgrade_gate import transform\n\nseen = {}\n\n\n@transform\ndef number(card, found):\n    \
                   if 'number' not in card:\n        card['number'] = seen.setdefault(card['_id'], len(seen))\n    \
                   return card\n";
    folder.write("number.py", program);
    let upgrade = format!(
        "version: 1.1.0\ndescription: number the cards\nsteps:\n- update: cards\n  \
         where: {{ number: {{ $exists: false }} }}\n  program: [ python3, number.py ]\n  \
         env: {{ PYTHONPATH: \"{root}/.cache/python:{root}/clients/python\" }}\n"
    );
    folder.write("1.1.0-cards.yaml", &upgrade);
    std::fs::remove_dir_all(folder.path().join("tests/1.0.0-cards/after")).unwrap();
    let server = Server::shared().await;
    let run = test(&folder, &server.uri("")).await;
    ended(&run, 14, "1 of 1 test failed: 1.0.0-cards: killed ");
    ended(&run, 14, "`number` is ");
}

/// As the message says that tells of it.
#[tokio::test]
async fn what_a_program_writes_to_stderr_is_shown_where_the_log_is_asked_for() {
    let folder = folder("tested-stderr");
    folder.write("broken.py", "import no_such_module\n");
    let upgrade = "version: 1.1.0\ndescription: x\nsteps:\n- update: cards\n  where: { a: { $exists: false } }\n  \
                   program: [ python3, broken.py ]\n";
    folder.write("1.1.0-cards.yaml", upgrade);
    let server = Server::shared().await;
    let gate = Gate::new(env!("CARGO_BIN_EXE_upgrade-gate")).uri(&server.uri(""));
    let gate = gate.set("PATH", std::env::var("PATH").unwrap());
    let gate = gate.arg("test").arg(folder.path().to_str().unwrap());
    let quiet = gate.run().await;
    ended(&quiet, 14, "GATE_LOG=debug shows the last lines of its stderr");
    assert!(!quiet.stderr.contains("no_such_module"), "{quiet}");
    let told = gate.clone().set("GATE_LOG", "debug").run().await;
    ended(&told, 14, "before it answered");
    assert!(told.stderr.contains("No module named 'no_such_module'"), "{told}");
    let wrong = gate.set("GATE_LOG", "loud").run().await;
    ended(&wrong, 16, "GATE_LOG");
}

#[tokio::test]
async fn tests_that_are_wrong_are_told_before_anything_is_connected_to() {
    let nowhere = "mongodb://127.0.0.1:1/";
    let told = async |folder: &Folder| {
        let run = test(folder, nowhere).await;
        ended(&run, 16, "the files of upgrades and tests are wrong: 1 mistake");
        let mistake = &run.report["mistakes"][0];
        let place = |key: &str| mistake[key].as_u64().map(|n| format!(":{n}")).unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        format!(
            "{}{}{}: {}",
            text(&mistake["file"]),
            place("line"),
            place("column"),
            text(&mistake["message"])
        )
    };
    let before = "tests/1.0.0-cards/before/cards.json";
    let card = "- { _id: 1 }\n";
    for (name, file, text, says) in [
        ("a", before, "{ \"_id\": 1 }\n{ \"a\": 1 }\n", ":2:1: this document has no _id"),
        ("b", before, "[ 5 ]", ":1:3: expected a document, found a number"),
        ("c", before, "{ \"_id\": 1 }\n\n  { '_id': 2 }", ":3:5: this is not JSON: a single quote"),
        ("d", before, "[]", "the test has no documents to begin with"),
        ("e", "tests/small/before/cards.json", "[]", "no version begins the name of this test"),
        ("g", "tests/1.0.0-cards/afetr/cards.yaml", card, "1.0.0-cards/afetr: this is not read"),
        ("h", "tests/1.0.0-cards/cards.yaml", card, "1.0.0-cards/cards.yaml: this is not read"),
        ("i", "tests/1.0.0-cards/after/lists.YAML", card, "after/lists.YAML: this is not read"),
        ("j", "tests/1.0.0-cards/after/lists.csv", "a;b", "after/lists.csv: this is not read"),
        ("k", "tests/1.0.0-cards/after/system.js.yaml", card, "one of the server's own"),
        ("l", "tests/1.0.0-cards/after", "a", "the folder cannot be read: Not a directory"),
        ("f", "1.1.0-cards.yaml", "version: 1.1.0\ndescription: x\nsteps: 5\n", "expected a list"),
    ] {
        let folder = folder(&format!("tested-wrong-{name}"));
        if folder.path().join(file).is_dir() {
            std::fs::remove_dir_all(folder.path().join(file)).unwrap();
        }
        folder.write(file, text);
        let told = told(&folder).await;
        assert!(told.contains(says), "{told}");
    }
    let empty = folder("tested-none");
    std::fs::remove_dir_all(empty.path().join("tests")).unwrap();
    assert!(told(&empty).await.contains("there are no tests"));
}

#[tokio::test]
async fn a_database_that_is_in_use_is_not_tested_on() {
    let folder = folder("tested-in-use");
    let server = Server::shared().await;
    let database = server.database().await;
    let things = database.collection("things");
    things.insert_one(mongodb::bson::doc! { "_id": 1 }).await.unwrap();
    let run = test(&folder, &database.uri).await;
    ended(&run, 16, "which holds collections");
    let gate = || Gate::new(env!("CARGO_BIN_EXE_upgrade-gate")).arg("test");
    let none = gate().arg(folder.path().to_str().unwrap()).run().await;
    ended(&none, 16, "GATE_MONGODB_URI");
    let more = gate().arg("a").arg("b").run().await;
    ended(&more, 16, "test takes one argument at most");
    let closed = "mongodb://127.0.0.1:1/";
    let closed = Gate::new(env!("CARGO_BIN_EXE_upgrade-gate"))
        .uri(closed)
        .set("GATE_CONNECT_TIMEOUT", "200ms")
        .arg("test")
        .arg(folder.path().to_str().unwrap())
        .run()
        .await;
    ended(&closed, 20, "the server to test on cannot be used");
}
