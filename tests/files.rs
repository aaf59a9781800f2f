//! Upgrades from files: what `upgrade-gate` does with a directory, and what it says where the files are wrong.

#[path = "files/schema.rs"]
mod schema;
mod support;
#[path = "files/tested.rs"]
mod tested;
#[path = "files/wrong.rs"]
mod wrong;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use mongodb::bson::{Document, doc};
use support::folder::Folder;
use support::{Gate, Run, Server, db_hash, dump};
use upgrade_gate::files;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn gate(directory: &Path) -> Gate {
    let gate = Gate::new(env!("CARGO_BIN_EXE_upgrade-gate"));
    gate.set("GATE_UPGRADES", directory.to_str().unwrap())
}

fn validate(directory: &Path) -> Gate {
    Gate::new(env!("CARGO_BIN_EXE_upgrade-gate")).arg("validate").arg(directory.to_str().unwrap())
}

/// An application with one upgrade of every kind of step that needs no look-up.
fn kanban(name: &str) -> Folder {
    let folder = Folder::new(name);
    folder.write("gate.yaml", "app: kanban\nversion: 1.2.0\n");
    folder.write(
        "1.1.0-roles.yaml",
        r#"version: 1.1.0
description: add the roles, drop what is archived
conditions:
- description: no two boards share a name
  unique: { collection: boards, fields: name }
  remedy: rename one of them
steps:
- seed: roles
  documents: [ { _id: reader }, { _id: admin, all: true } ]
  report: Add {n} role(s)
- delete: cards
  where: { archived: true }
  report: Delete {n} archived card(s)
- update: cards
  where: { position: { $exists: false } }
  set:
  - $set: { position: { $ifNull: [ "$order", 0 ] } }
  - $unset: order
  report: "Give {n} card(s) a position"
- create_index: cards
  keys: { board: 1, position: 1 }
  name: board_position
"#,
    );
    folder.write(
        "1.2.0-columns.json",
        r#"{
  "version": "1.2.0", "description": "lists are columns",
  "steps": [
    { "copy": "boards", "where": { "closed": true }, "pipeline": [ { "$unset": "closed" } ],
      "into": "closed_boards", "then": "delete", "report": "Move {n} closed board(s)" },
    { "rename": "lists", "to": "columns" },
    { "validator": "columns", "match": { "name": { "$type": "string" } } },
    { "drop": "old" }
  ]
}"#,
    );
    folder
}

async fn fill(database: &mongodb::Database) {
    for (collection, documents) in [
        (
            "boards",
            vec![doc! { "_id": 1, "name": "a" }, doc! { "_id": 2, "name": "b", "closed": true }],
        ),
        (
            "cards",
            vec![doc! { "_id": 1, "archived": true }, doc! { "_id": 2, "board": 1, "order": 5 }],
        ),
        ("roles", vec![doc! { "_id": "admin", "mine": 1 }]),
        ("lists", vec![doc! { "_id": 1, "name": "todo" }]),
        ("old", vec![doc! { "_id": 1 }]),
    ] {
        database.collection::<Document>(collection).insert_many(documents).await.unwrap();
    }
}

#[track_caller]
fn ended(run: &Run, code: i32) {
    assert_eq!(run.code, Some(code), "{run}");
}

fn descriptions(run: &Run) -> Vec<&str> {
    let upgrades = run.report["upgrades"].as_array().unwrap().iter();
    let actions = upgrades.flat_map(|upgrade| upgrade["actions"].as_array().unwrap());
    actions.map(|action| action["description"].as_str().unwrap()).collect()
}

/// What `kanban` makes of what `fill` made.
async fn is_upgraded(database: &mongodb::Database) {
    let names = |mut names: Vec<String>| {
        names.sort();
        names
    };
    let collections = names(database.list_collection_names().await.unwrap());
    let kept = ["boards", "cards", "closed_boards", "columns", "database_metadata", "roles"];
    assert_eq!(collections, kept);
    let stored = dump(database).await;
    let documents = |collection: &str| {
        let stored = stored[collection].iter();
        stored.map(|raw| Document::try_from(raw).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(documents("cards"), [doc! { "_id": 2, "board": 1, "position": 5 }]);
    assert_eq!(documents("boards"), [doc! { "_id": 1, "name": "a" }]);
    assert_eq!(documents("closed_boards"), [doc! { "_id": 2, "name": "b" }]);
    // what was there is as it was
    let roles = [doc! { "_id": "admin", "mine": 1 }, doc! { "_id": "reader" }];
    assert_eq!(documents("roles"), roles);
    let cards = database.collection::<Document>("cards");
    assert!(cards.list_index_names().await.unwrap().contains(&"board_position".to_owned()));
    let wrong = database.collection("columns").insert_one(doc! { "name": 1 }).await;
    assert!(wrong.unwrap_err().to_string().contains("validation"));
}

async fn history(database: &mongodb::Database) -> Vec<Document> {
    let records = database.collection::<Document>("database_metadata");
    let record = records.find_one(doc! { "_id": "kanban_schema_version" }).await.unwrap().unwrap();
    let history = record.get_array("history").unwrap().iter();
    history.map(|entry| entry.as_document().unwrap().clone()).collect()
}

#[tokio::test]
async fn files_are_planned_and_applied_on_every_kind_of_server() {
    let folder = kanban("files-applied");
    for server in [Server::replica_set().await, Server::standalone().await] {
        let database = server.database().await;
        fill(&database).await;
        let gate = gate(folder.path()).uri(&database.uri).set("GATE_FROM_VERSION", "1.0.0");
        let before = db_hash(&database).await;
        let plan = gate.clone().mode("plan").run().await;
        ended(&plan, 10);
        assert_eq!(db_hash(&database).await, before);
        ended(&gate.clone().mode("check").run().await, 10);

        let run = gate.run().await;
        ended(&run, 0);
        let said = ["Add 1 role(s)", "Delete 1 archived card(s)", "Give 1 card(s) a position"];
        assert_eq!(descriptions(&run)[..3], said);
        assert_eq!(descriptions(&plan)[..2], said[..2]);
        is_upgraded(&database).await;
        let after = db_hash(&database).await;
        ended(&gate.run().await, 0);
        ended(&gate.clone().mode("check").run().await, 0);
        assert_eq!(db_hash(&database).await, after);

        let entries = history(&database).await;
        assert_eq!(entries[0].get_str("kanban_version").unwrap(), "1.2.0");
        for (entry, name) in entries[1..].iter().zip(["1.1.0-roles", "1.2.0-columns"]) {
            let upgrade = entry.get_array("upgrades").unwrap()[0].as_document().unwrap();
            assert_eq!(upgrade.get_str("name").unwrap(), name);
            assert_eq!(upgrade.get_str("sha256").unwrap().len(), 64);
        }
    }
}

#[tokio::test]
async fn files_are_applied_in_the_order_of_their_versions_and_then_of_their_names() {
    let folder = Folder::new("files-order");
    folder.write("gate.yaml", "app: kanban\nversion: 1.10.0\n");
    let names = ["1.9.0-b", "1.9.0-c", "1.10.0-a"];
    // written the other way round
    for (n, name) in names.iter().enumerate().rev() {
        let version = name.split('-').next().unwrap();
        let file = format!(
            "version: {version}\ndescription: step {n}\nsteps:\n- update: cards\n  where: {{ n: {n} }}\n  \
             set: [ {{ $set: {{ n: {} }} }} ]\n",
            n + 1
        );
        folder.write(&format!("{name}.yaml"), &file);
    }
    let server = Server::shared().await;
    let database = server.database().await;
    database.collection("cards").insert_one(doc! { "_id": 1, "n": 0 }).await.unwrap();
    let gate = gate(folder.path()).uri(&database.uri).set("GATE_FROM_VERSION", "1.0.0");
    ended(&gate.run().await, 0);
    // in any other order it would have stopped on the way
    let card = Document::try_from(&dump(&database).await["cards"][0]).unwrap();
    assert_eq!(card, doc! { "_id": 1, "n": 3 });
    let entries = history(&database).await;
    let applied: Vec<&str> = entries[1..]
        .iter()
        .flat_map(|entry| entry.get_array("upgrades").unwrap())
        .map(|upgrade| upgrade.as_document().unwrap().get_str("name").unwrap())
        .collect();
    assert_eq!(applied, names);
}

/// One file of every kind of step, each about collections of its own.
const SWEPT: &str = r#"version: 1.1.0
description: a step of every kind
steps:
- update: cards
  where: { position: { $exists: false } }
  set: [ { $set: { position: 0 } } ]
  report: "Give {n} card(s) a position"
- update: notes
  where: { by: { $exists: false } }
  lookup: [ { from: people, local: mail, foreign: mail, as: people, fields: [ _id ] } ]
  set: [ { $set: { by: { $ifNull: [ { $first: $_found.people._id }, null ] } } } ]
  report: "Name the author of {n} note(s)"
- update: tasks
  where: { tags: { $exists: false } }
  program: [ python3, tags.py ]
  env: { PYTHONPATH: "PACKAGES" }
  report: { tagged: "Tag {n} task(s)" }
- copy: boards
  where: { closed: true }
  pipeline: [ { $unset: closed } ]
  into: closed_boards
- delete: logins
  where: { ended: true }
- seed: roles
  documents: [ { _id: reader } ]
"#;

#[tokio::test]
async fn a_sweep_runs_the_updates_of_files_and_lists_the_other_steps() {
    support::python();
    let folder = Folder::new("files-swept");
    folder.write("gate.yaml", "app: kanban\nversion: 1.1.0\n");
    let packages = format!("{ROOT}/.cache/python:{ROOT}/clients/python");
    folder.write("1.1.0-all.yaml", &SWEPT.replace("PACKAGES", &packages));
    let program = "from upgrade_gate import count, transform\n\n\n@transform\ndef tags(task, found):\n    \
                   if 'tags' not in task:\n        task['tags'] = task['text'].split()\n        \
                   count('tagged')\n    return task\n";
    folder.write("tags.py", program);
    for server in [Server::replica_set().await, Server::standalone().await] {
        let database = server.database().await;
        let write = async |n: i32| {
            let person = doc! { "_id": n, "mail": format!("{n}@a") };
            for (collection, document) in [
                ("people", person),
                ("cards", doc! { "_id": n }),
                ("notes", doc! { "_id": n, "mail": format!("{n}@a") }),
                ("tasks", doc! { "_id": n, "text": "a b" }),
                ("boards", doc! { "_id": n, "closed": true }),
                ("logins", doc! { "_id": n, "ended": true }),
            ] {
                database.collection(collection).insert_one(document).await.unwrap();
            }
        };
        write(1).await;
        let gate = gate(folder.path()).uri(&database.uri).set("GATE_FROM_VERSION", "1.0.0");
        let gate = gate.set("PATH", std::env::var("PATH").unwrap());
        ended(&gate.run().await, 0);
        // old code
        write(2).await;
        database.collection::<Document>("roles").drop().await.unwrap();
        let swept = gate.clone().mode("sweep").run().await;
        ended(&swept, 0);
        assert_eq!(swept.report["swept"], 3, "{swept}");
        let said = ["Give 1 card(s) a position", "Name the author of 1 note(s)", "Tag 1 task(s)"];
        assert_eq!(descriptions(&swept), said);
        let not_swept: Vec<&str> = swept.report["not_swept"]
            .as_array()
            .unwrap()
            .iter()
            .map(|step| step["step"].as_str().unwrap())
            .collect();
        assert_eq!(
            not_swept,
            ["1.1.0-all, step 4: copy", "1.1.0-all, step 5: delete", "1.1.0-all, step 6: seed"],
            "{swept}"
        );
        let stored = dump(&database).await;
        let second = |collection: &str| Document::try_from(&stored[collection][1]).unwrap();
        assert_eq!(second("cards"), doc! { "_id": 2, "position": 0 });
        assert_eq!(second("notes"), doc! { "_id": 2, "mail": "2@a", "by": 2 });
        assert_eq!(second("tasks"), doc! { "_id": 2, "text": "a b", "tags": ["a", "b"] });
        assert_eq!(stored["logins"].len(), 1);
        assert_eq!((stored["closed_boards"].len(), stored["boards"].len()), (1, 2));
        assert!(!stored.contains_key("roles"));
        // and a second one finds nothing
        let again = gate.clone().mode("sweep").run().await;
        ended(&again, 0);
        assert_eq!(again.report["swept"], 0, "{again}");
    }
}

/// What a program writes to stderr may hold the contents of documents.
#[tokio::test]
async fn the_last_lines_of_a_programs_stderr_are_logged_at_level_debug_only() {
    support::python();
    let folder = Folder::new("files-stderr");
    folder.write("gate.yaml", "app: kanban\nversion: 1.1.0\n");
    let packages = format!("{ROOT}/.cache/python:{ROOT}/clients/python");
    let upgrade = format!(
        "version: 1.1.0\ndescription: x\nsteps:\n- update: cards\n  where: {{ a: {{ $exists: true }} }}\n  \
         program: [ python3, loud.py ]\n  env: {{ PYTHONPATH: \"{packages}\" }}\n"
    );
    folder.write("1.1.0-loud.yaml", &upgrade);
    let program = "from upgrade_gate import transform\n\n\n@transform\ndef loud(card, found):\n    \
                   raise ValueError('s3cret')\n";
    folder.write("loud.py", program);
    let database = Server::shared().await.database().await;
    database.collection("cards").insert_one(doc! { "_id": 1, "a": 1 }).await.unwrap();
    let gate = gate(folder.path()).uri(&database.uri).set("GATE_FROM_VERSION", "1.0.0");
    let gate = gate.set("PATH", std::env::var("PATH").unwrap());
    for (level, logged) in [("info", false), ("debug", true)] {
        let run = gate.clone().set("GATE_LOG", level).run().await;
        ended(&run, 14);
        assert!(
            run.report["message"].to_string().contains("ValueError in loud.py, line 6"),
            "{run}"
        );
        assert_eq!(run.stderr.contains("s3cret"), logged, "{run}");
        assert!(!run.stdout.contains("s3cret"), "{run}");
    }
}

#[tokio::test]
async fn the_record_the_stamp_and_the_oldest_version_are_those_that_gate_yaml_names() {
    let folder = Folder::new("files-names");
    folder.write(
        "gate.yaml",
        "app: kanban\nversion: 1.1.0\noldest: 1.0.0\nrecord: { collection: versions, id: kanban }\n\
         stamp: { collection: settings, field: app.version }\n",
    );
    let upgrade = "version: 1.1.0\ndescription: x\nsteps:\n- update: cards\n  where: { a: { $exists: true } }\n  \
                   set: [ { $unset: a } ]\n";
    folder.write("1.1.0-a.yaml", upgrade);
    let server = Server::shared().await;
    for (stamped, code) in [("1.0.0", 0), ("0.9.0", 12)] {
        let database = server.database().await;
        database.collection("cards").insert_one(doc! { "_id": 1, "a": 1 }).await.unwrap();
        let settings = doc! { "_id": 1, "app": { "version": stamped } };
        database.collection("settings").insert_one(settings).await.unwrap();
        let run = gate(folder.path()).uri(&database.uri).run().await;
        ended(&run, code);
        let first = async |collection: &str| {
            let collection = database.collection::<Document>(collection);
            collection.find_one(doc! { "_id": { "$ne": "upgrade_lock" } }).await.unwrap()
        };
        let settings = first("settings").await.unwrap();
        let version = settings.get_document("app").unwrap().get_str("version").unwrap();
        if code == 0 {
            let record = first("versions").await.unwrap();
            assert_eq!(record.get_str("_id").unwrap(), "kanban");
            assert_eq!((record.get_str("version").unwrap(), version), ("1.1.0", "1.1.0"));
            assert_eq!(first("cards").await, Some(doc! { "_id": 1 }));
        } else {
            assert!(run.report["next"].to_string().contains("1.0"), "{run}");
            assert_eq!((first("versions").await, version), (None, "0.9.0"));
            assert_eq!(first("cards").await, Some(doc! { "_id": 1, "a": 1 }));
        }
        assert_eq!(first("database_metadata").await, None);
    }
}

#[tokio::test]
async fn a_condition_of_a_file_closes_the_gate_and_says_its_remedy() {
    let folder = kanban("files-condition");
    let server = Server::shared().await;
    let database = server.database().await;
    fill(&database).await;
    let boards = database.collection::<Document>("boards");
    boards.insert_one(doc! { "_id": 3, "name": "b" }).await.unwrap();
    let before = dump(&database).await;
    let run = gate(folder.path()).uri(&database.uri).set("GATE_FROM_VERSION", "1.0.0").run().await;
    ended(&run, 13);
    assert!(
        run.report["message"].as_str().unwrap().contains("no two boards share a name"),
        "{run}"
    );
    assert!(run.report["next"].as_str().unwrap().contains("rename one of them"), "{run}");
    let mut after = dump(&database).await;
    // where the lock was
    assert!(after.remove("database_metadata").is_none_or(|left| left.is_empty()));
    assert_eq!(after, before);
}

#[tokio::test]
async fn a_file_that_is_added_under_an_applied_version_is_12_and_a_changed_one_a_warning() {
    let folder = kanban("files-later");
    let server = Server::shared().await;
    let database = server.database().await;
    fill(&database).await;
    let gate = gate(folder.path()).uri(&database.uri).set("GATE_FROM_VERSION", "1.0.0");
    ended(&gate.run().await, 0);

    // comments and layout are not what a file says
    let path = folder.path().join("1.1.0-roles.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("# a comment\n\n{text}")).unwrap();
    for mode in ["status", "plan", "upgrade", "sweep"] {
        let run = gate.clone().mode(mode).run().await;
        ended(&run, 0);
        assert_eq!(run.report["warnings"].as_array(), None, "{run}");
    }

    fs::write(&path, text.replace("all: true", "all: false")).unwrap();
    let status = gate.clone().mode("status").run().await;
    ended(&status, 0);
    let warning = status.report["warnings"][0].as_str().unwrap();
    assert!(warning.starts_with("1.1.0-roles was changed after it was applied"), "{warning}");
    for mode in ["plan", "upgrade", "sweep"] {
        let run = gate.clone().mode(mode).run().await;
        ended(&run, 0);
        assert_eq!(run.report["warnings"][0].as_str(), Some(warning), "{run}");
        let logged = run.log.iter().filter(|line| line["reason"].as_str() == Some(warning));
        assert_eq!(logged.count(), 1, "{run}");
    }
    // a pod that starts is not told again
    let check = gate.clone().mode("check").run().await;
    ended(&check, 0);
    assert_eq!(check.report["warnings"].as_array(), None, "{check}");
    // a database that is still to be upgraded knows nothing of it
    let other = server.database().await;
    let before = gate.clone().uri(&other.uri).mode("status").run().await;
    assert_eq!(before.report["warnings"].as_array(), None, "{before}");

    // under another name it is another file to the history
    fs::write(&path, &text).unwrap();
    let renamed = folder.path().join("1.1.0-the-roles.yaml");
    fs::rename(&path, &renamed).unwrap();
    for mode in ["check", "plan", "upgrade"] {
        let run = gate.clone().mode(mode).run().await;
        ended(&run, 12);
        let next = run.report["next"].as_str().unwrap();
        assert!(next.starts_with("name the file 1.1.0-roles again"), "{run}");
    }
    fs::rename(&renamed, &path).unwrap();
    ended(&gate.run().await, 0);

    let added = "version: 1.1.0\ndescription: of another branch\nsteps:\n- drop: lists\n";
    folder.write("1.1.0-other.yaml", added);
    for mode in ["check", "plan", "upgrade"] {
        let run = gate.clone().mode(mode).run().await;
        ended(&run, 12);
        let message = run.report["message"].as_str().unwrap();
        assert!(
            message.contains("\"1.1.0-other\" of 1.1.0, only through \"1.1.0-roles\""),
            "{run}"
        );
    }
}

#[tokio::test]
async fn an_unfinished_upgrade_whose_steps_were_renamed_says_which_and_goes_on_under_their_names() {
    let folder = kanban("files-unfinished");
    let database = Server::shared().await.database().await;
    fill(&database).await;
    // the index cannot be made over these
    let path = folder.path().join("1.1.0-roles.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("  name: board_position\n", "  name: b\n  unique: true\n"))
        .unwrap();
    let same = |n: i32| doc! { "_id": n, "board": 7, "position": 7 };
    database.collection("cards").insert_many([same(10), same(11)]).await.unwrap();
    let gate = gate(folder.path()).uri(&database.uri).set("GATE_FROM_VERSION", "1.0.0");
    ended(&gate.run().await, 14);

    let renamed = folder.path().join("1.1.0-the-roles.yaml");
    fs::write(&path, &text).unwrap();
    fs::rename(&path, &renamed).unwrap();
    let run = gate.run().await;
    ended(&run, 12);
    let message = run.report["message"].as_str().unwrap();
    let says = "its step 1 was \"1.1.0-roles, step 1: seed\" (seed) there, and is \"1.1.0-the-roles, step 1: seed\"";
    assert!(message.contains(says), "{run}");
    let next = run.report["next"].as_str().unwrap();
    assert!(next.starts_with("give the steps their names, kinds and order again"), "{run}");
    fs::rename(&renamed, &path).unwrap();
    ended(&gate.run().await, 0);
}

#[tokio::test]
async fn the_code_version_is_that_of_gate_yaml_or_else_of_the_application() {
    let folder = kanban("files-version");
    let server = Server::shared().await;
    let database = server.database().await;
    fill(&database).await;
    let gate = gate(folder.path()).uri(&database.uri).set("GATE_FROM_VERSION", "1.0.0");
    let other = gate.clone().set("GATE_APP_VERSION", "1.3.0").run().await;
    ended(&other, 16);
    assert!(other.report["message"].as_str().unwrap().contains("the application is 1.3.0"));

    folder.write("gate.yaml", "app: kanban\n");
    for (wrong, says) in [
        (gate.clone(), "GATE_APP_VERSION"),
        (gate.clone().set("GATE_APP_VERSION", "latest"), "GATE_APP_VERSION"),
        (
            gate.clone().set("GATE_APP_VERSION", "1.1.0"),
            "above the code version, 1.1.0 (GATE_APP_VERSION)",
        ),
    ] {
        let run = wrong.run().await;
        ended(&run, 16);
        assert!(run.report["message"].as_str().unwrap().contains(says), "{run}");
    }
    // without a version the files are checked all the same
    ended(&validate(folder.path()).run().await, 0);
    let run = gate.set("GATE_APP_VERSION", "v1.2.5+build").run().await;
    ended(&run, 0);
    assert_eq!(
        (&run.report["code_version"], &run.report["to"]),
        (&"1.2.5".into(), &"1.2.5".into())
    );
    is_upgraded(&database).await;
}

#[tokio::test]
async fn files_are_judged_before_settings_and_without_a_server() {
    let folder = kanban("files-judged");
    folder.write("1.2.0-wrong.yaml", "version: 1.2.0\ndescription: x\nsteps:\n- dorp: lists\n");
    let said = "1.2.0-wrong.yaml:4:3: `dorp` is not a kind of step; did you mean `drop`?";
    for gate in [
        // no setting is right, and nothing is there to connect to
        gate(folder.path()).set("GATE_NONSENSE", "1"),
        gate(folder.path()).uri("mongodb://127.0.0.1:1/kanban"),
    ] {
        for mode in ["upgrade", "check", "wait", "plan", "status", "sweep", "resume"] {
            let run = gate.clone().mode(mode).run().await;
            ended(&run, 16);
            assert!(run.report["message"].as_str().unwrap().ends_with(said), "{run}");
            assert!(
                run.report["next"].as_str().unwrap().contains("upgrade-gate validate"),
                "{run}"
            );
        }
    }
    let run = validate(folder.path()).run().await;
    ended(&run, 16);
    assert_eq!(run.report["mode"], "validate");
    let mistake = &run.report["mistakes"][0];
    assert_eq!(mistake["level"], "error");
    assert_eq!((&mistake["line"], &mistake["column"]), (&4.into(), &3.into()));
    assert_eq!(mistake["expected"], "did you mean `drop`?");

    let text = validate(folder.path()).set("GATE_REPORT_FORMAT", "text").run().await;
    ended(&text, 16);
    let drawn = "error: `dorp` is not a kind of step\n \
                 --> 1.2.0-wrong.yaml:4:3\n  |\n4 | - dorp: lists\n  |   ^^^^\n  |\n  = help: did you mean `drop`?\n";
    assert!(text.stdout.contains(drawn), "{text}");
    assert!(text.stdout.trim_end().ends_with("next: correct what is shown, then validate again"));
    folder.write("1.2.0-wrong.yaml", "version: 1.2.0\ndescription: x\nsteps:\n- drop: gone\n");
    ended(&validate(folder.path()).run().await, 0);
}

#[tokio::test]
async fn validate_is_an_argument_or_the_mode_and_takes_the_directory() {
    let folder = kanban("files-validate");
    let upgrade_gate = || Gate::new(env!("CARGO_BIN_EXE_upgrade-gate"));
    for run in [
        validate(folder.path()),
        gate(folder.path()).arg("validate"),
        gate(folder.path()).mode("validate"),
        gate(folder.path()).mode("validate").arg("validate"),
        // the argument says more than the variable
        validate(folder.path()).set("GATE_UPGRADES", "/nowhere"),
    ] {
        let run = run.run().await;
        ended(&run, 0);
        assert_eq!(run.report["outcome"], "valid");
        assert_eq!(run.report["message"], "2 upgrades, no mistakes");
        assert_eq!(run.report["code_version"], "1.2.0");
    }
    for (run, says) in [
        (validate(folder.path()).mode("plan"), "GATE_MODE is set to another mode"),
        (validate(folder.path()).arg("more"), "one argument at most"),
        (upgrade_gate().arg("validate").arg("--strict"), "one argument at most"),
        (gate(folder.path()).arg("nonsense"), "or validate or test with a directory"),
        (upgrade_gate().arg("validate"), "/upgrades: the directory cannot be read"),
    ] {
        let run = run.run().await;
        ended(&run, 16);
        let mut said = run.report["message"].as_str().unwrap().to_owned();
        if let Some(mistakes) = run.report["mistakes"].as_array() {
            said += &format!(
                "{}: {}",
                mistakes[0]["file"].as_str().unwrap(),
                mistakes[0]["message"].as_str().unwrap()
            );
        }
        assert!(said.contains(says), "{run}");
    }
    let help = upgrade_gate().arg("--help").run().await;
    ended(&help, 0);
    assert!(
        help.stdout.contains("validate [DIRECTORY]") && help.stdout.contains("\n  GATE_UPGRADES ")
    );
    let version = gate(folder.path()).arg("--version").run().await;
    assert_eq!(version.stdout.lines().last(), Some("kanban 1.2.0"));
    // another program has its upgrades in itself
    let run = Gate::new(env!("CARGO_BIN_EXE_datalab-upgrade"))
        .set("GATE_UPGRADES", "/upgrades")
        .run()
        .await;
    ended(&run, 16);
    assert!(
        run.report["message"]
            .as_str()
            .unwrap()
            .contains("GATE_UPGRADES is a setting of upgrade-gate")
    );
}

/// A ConfigMap is mounted as links into a hidden folder.
#[tokio::test]
async fn a_configmap_is_read_as_it_is_mounted_and_other_files_are_let_be() {
    let source = kanban("files-source");
    let folder = Folder::new("files-mounted");
    support::folder::copy(source.path(), &folder.path().join("..2026_11_28"));
    symlink("..2026_11_28", folder.path().join("..data")).unwrap();
    for file in ["gate.yaml", "1.1.0-roles.yaml", "1.2.0-columns.json"] {
        symlink(format!("..data/{file}"), folder.path().join(file)).unwrap();
    }
    for other in ["README.md", "pin.py", ".hidden.yaml", "package.json", "package-lock.json"] {
        folder.write(other, "}: no YAML\n");
    }
    folder.write("node_modules/a/1.0.0-a.yaml", "}");
    folder.write("2.0.0-folder.yaml/gate.yaml", "}");
    let files = files::read(folder.path(), None);
    assert_eq!((files.upgrades, &files.mistakes[..]), (2, &[][..]));
}

#[test]
fn a_directory_without_files_that_can_be_read_says_why() {
    let told = |folder: &Path| {
        let files = files::read(folder, None);
        assert!(files.gate().is_err());
        files.mistakes.iter().map(|mistake| mistake.in_a_line()).collect::<Vec<_>>().join("\n")
    };
    let folder = Folder::new("files-none");
    let path = folder.path();
    assert!(told(&path.join("nowhere")).contains("cannot be read: No such file"));
    assert!(told(path).contains("has no file of upgrades"));
    folder.write("README.md", "");
    assert!(told(path).contains("has no file of upgrades"));
    folder.write("1.0.0-a.yaml", "version: 1.0.0\ndescription: x\nsteps: []\n");
    assert!(told(path).contains("there is no gate.yaml"));
    assert!(told(&path.join("README.md")).contains("cannot be read: Not a directory"));
    folder.write("gate.yml", "app: a\nversion: 1.0.0\n");
    assert!(
        told(path)
            .contains("gate.yml: this is not read: the file is to be called gate.yaml; rename it")
    );
    folder.write("gate.yaml", "app: a\nversion: 1.0.0\n");
    assert!(
        told(path)
            .contains("gate.yml: this is not read: the file is to be called gate.yaml; remove it")
    );
    fs::remove_file(path.join("gate.yml")).unwrap();
    assert_eq!(files::read(path, None).errors, 0);

    // a pipe would never end, and a link may lead nowhere
    let pipe = path.join("1.0.0-pipe.yaml");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(told(path).contains("1.0.0-pipe.yaml: this is not a file"));
    fs::remove_file(&pipe).unwrap();
    symlink("nowhere", path.join("1.0.0-link.yaml")).unwrap();
    assert!(told(path).contains("1.0.0-link.yaml: the file cannot be read: No such file"));
    fs::remove_file(path.join("1.0.0-link.yaml")).unwrap();

    let large = fs::File::create(path.join("1.0.0-large.yaml")).unwrap();
    large.set_len(50 * 1024 * 1024).unwrap();
    assert!(told(path).contains("1.0.0-large.yaml: the file is larger than 4 MiB"));
    fs::remove_file(path.join("1.0.0-large.yaml")).unwrap();
    for n in 0..5 {
        let comment = "#".repeat(4 * 1024 * 1024 - 1);
        folder.write(&format!("1.0.0-{n}.yaml"), &comment);
    }
    assert!(told(path).contains("1.0.0-4.yaml: with this file, all files together are larger"));
}

/// The files that the guide shows, each under the name in its first line.
fn of_the_guide(name: &str) -> Folder {
    let folder = Folder::new(name);
    support::python();
    let page = fs::read_to_string(format!("{ROOT}/docs/files.md")).unwrap();
    for block in page.split("```yaml\n# ").skip(1) {
        let (name, rest) = block.split_once('\n').unwrap();
        let text = rest.split("```").next().unwrap();
        // where an image has the helper installed
        let env =
            format!("  env: {{ PYTHONPATH: \"{ROOT}/.cache/python:{ROOT}/clients/python\" }}\n");
        let helped = text.replace("tags.py ]\n", &format!("tags.py ]\n{env}"));
        folder.write(&format!("upgrades/{name}"), &helped);
    }
    let program = page.split("```python\n# tags.py\n").nth(1).unwrap();
    folder.write("upgrades/tags.py", program.split("```").next().unwrap());
    folder
}

/// How commands of the guide end in a folder, and what they print.
fn run_commands(commands: &str, folder: &Path) -> (Option<i32>, String) {
    let programs = Path::new(env!("CARGO_BIN_EXE_upgrade-gate")).parent().unwrap();
    let done = Command::new("bash")
        .args(["-ec", commands])
        .current_dir(folder)
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", programs.display()))
        .output()
        .unwrap();
    (done.status.code(), String::from_utf8_lossy(&done.stdout).into_owned())
}

#[tokio::test]
async fn the_guides_files_are_right_and_do_what_it_says() {
    let folder = of_the_guide("files-guide");
    let server = Server::shared().await;
    let database = server.database().await;
    let insert = async |collection: &str, documents: Vec<Document>| {
        database.collection::<Document>(collection).insert_many(documents).await.unwrap();
    };
    let comments = vec![doc! { "text": "one" }, doc! { "text": "two" }];
    insert(
        "cards",
        vec![
            doc! { "_id": 1, "order": 7, "owner": 5, "text": "do #this #now", "comments": comments },
            doc! { "_id": 2, "archived": true },
        ],
    )
    .await;
    insert("lists", vec![doc! { "_id": 1, "name": "todo" }]).await;
    insert("people", vec![doc! { "_id": 5, "name": "Ada" }]).await;
    insert("logins", vec![doc! { "_id": 1 }]).await;
    let run = |name: &str| {
        let shown = "mongodb://user:password@host:27017/kanban";
        let commands = support::guide::commands(name).replace(shown, &database.uri);
        run_commands(&commands, folder.path())
    };
    // run by commands("files-validate") and commands("files-run")
    let (code, said) = run("files-validate");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("6 upgrades, no mistakes"), "{said}");
    let (code, said) = run("files-run");
    assert_eq!(code, Some(0), "{said}");
    for reported in ["Give 2 card(s) a position", "Copy 2 comment(s)", "Delete 1 archived card(s)"]
    {
        assert!(said.contains(reported), "{reported} is not in {said}");
    }
    // run by commands("files-test")
    let test = support::guide::commands("files-test");
    let test = test.replace("mongodb://127.0.0.1:27017/", &server.uri(""));
    let (code, said) = run_commands(&test, folder.path());
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("1 test passed"), "{said}");
    let stored = dump(&database).await;
    let first = |collection: &str| Document::try_from(&stored[collection][0]).unwrap();
    let card = doc! {
        "_id": 1,
        "owner": 5,
        "text": "do #this #now",
        "position": 7,
        "owner_name": "Ada",
        "tags": ["this", "now"],
    };
    assert_eq!(first("cards"), card);
    assert_eq!(first("comments").get_str("text").unwrap(), "one");
    assert_eq!(first("comments").get_i32("card").unwrap(), 1);
    assert_eq!((stored["comments"].len(), stored["roles"].len()), (2, 2));
    assert_eq!(first("columns"), doc! { "_id": 1, "name": "todo" });
    assert!(!stored.contains_key("logins") && !stored.contains_key("lists"));

    // a program is part of what its file says
    let status = gate(&folder.path().join("upgrades")).uri(&database.uri).mode("status");
    let unchanged = status.run().await;
    assert_eq!(unchanged.report["warnings"].as_array(), None, "{unchanged}");
    let program = fs::read_to_string(folder.path().join("upgrades/tags.py")).unwrap();
    folder.write("upgrades/tags.py", &format!("{program}# changed\n"));
    let changed = status.run().await;
    let warning = changed.report["warnings"][0].as_str().unwrap();
    assert!(warning.starts_with("1.3.2-tags was changed after it was applied"), "{changed}");
    fs::remove_file(folder.path().join("upgrades/tags.py")).unwrap();
    let (code, said) = run("files-validate");
    assert_eq!(code, Some(16), "{said}");
    assert!(said.contains("tags.py is not in the directory"), "{said}");
}
