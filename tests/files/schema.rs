//! The JSON schemas for editors take what the parser takes, and nothing else, as far as a schema can say it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use upgrade_gate::{MistakeLevel, files};

use super::wrong::mistakes;

const GATE: &str = r#"app: kanban
version: 1.4.0
oldest: 1.0.0-rc.1
record: { collection: versions, id: kanban }
stamp: { collection: settings, field: app.version }
"#;

const UPGRADE: &str = r#"version: 1.1.0
description: give every card a position
conditions:
- description: no card has both
  none: { collection: cards, match: { list: 1 } }
  skippable: true
- description: no two boards share a name
  unique: { collection: boards, fields: [ name, owner.id ], match: {} }
  remedy: rename one
- description: there is a board
  some: { collection: boards }
steps:
- update: cards
  where: { position: null }
  set:
  - $set: { position: 0 }
  - $unset: order
  report: Give {n} card(s) a position
  name: positions
- update: tasks
  where: { owner_name: null }
  lookup:
  - { from: people, local: owner.id, foreign: _id, as: owners, fields: [ name ], order: natural }
  set: [ { $set: { owner_name: { $first: $_found.owners.name } } } ]
- update: notes
  where: {}
  lookup: [ { from: people, local: by, foreign: _id, as: authors } ]
  program: [ python3, /upgrades/notes.py ]
  env: { MODE: fast }
  timeout: 10s
  inserts_into: [ words ]
  deletes: true
  report: { moved: "Move {n} note(s)" }
- copy: cards
  where: { comments: { $exists: true } }
  pipeline:
  - $unwind: $comments
  - $replaceWith: { _id: $comments.id, text: $comments.text }
  into: comments
  then: delete
- delete: boards
  where: { archived: true }
- seed: roles
  documents: [ { _id: reader } ]
  exact: true
- create_index: cards
  keys: { board: 1 }
  name: board
  unique: false
  expire_after: 30d
  collation: { locale: en, strength: 2 }
- drop_index: cards
  name: old
- validator: columns
  match: {}
- rename: lists
  to: pillars
- drop: gone
"#;

/// Changes of the two files, each a text and what stands in its place.
pub const CHANGES: &[(&str, &str)] = &[
    // right as well
    ("app: kanban", "app: my-app_2"),
    ("version: 1.4.0\n", ""),
    ("oldest: 1.0.0-rc.1\n", ""),
    (", id: kanban", ""),
    ("- description: there is a board\n  some: { collection: boards }\n", ""),
    ("fields: [ name, owner.id ]", "fields: name"),
    (
        "where: { position: null }",
        "where: { $or: [ { position: 1 }, { $expr: { $gt: [ $a, $b ] } } ] }",
    ),
    ("  name: positions\n", ""),
    ("  report: Give {n} card(s) a position\n", ""),
    ("report: Give {n} card(s) a position", "report: \"{n} {…} { }\""),
    ("[ { _id: reader } ]", "[]"),
    ("where: { archived: true }", "where: {}"),
    ("version: 1.1.0", "version: v1.1"),
    // right, and odd
    ("local: owner.id", "local: owners.0"),
    ("oldest: 1.0.0-rc.1", "oldest: 1.1.0"),
    // keys
    ("app: kanban", "name: kanban"),
    ("app: kanban", "app: kanban\nupgrades: []"),
    ("app: kanban\n", ""),
    ("app: kanban", "app: my app"),
    ("app: kanban", "app: a.b"),
    ("app: kanban", "app: \"\""),
    ("app: kanban", "app: 5"),
    ("version: 1.4.0", "version: latest"),
    ("version: 1.4.0", "version: 1.4"),
    ("version: 1.4.0", "version: [ 1, 4 ]"),
    ("oldest: 1.0.0-rc.1", "oldest: yesterday"),
    ("id: kanban", "id: upgrade_lock"),
    ("id: kanban", "name: kanban"),
    ("collection: versions", "collection: $versions"),
    (", field: app.version", ""),
    ("field: app.version", "field: _id.a"),
    ("field: app.version", "field: a..b"),
    ("field: app.version", "field: $a"),
    ("description: give every card a position", "descripton: give"),
    ("description: give every card a position", "description: true"),
    ("description: give every card a position", "description: \"a\\nb\""),
    ("description: give every card a position", "description: \" \""),
    ("version: 1.1.0\n", ""),
    ("steps:\n", "step:\n"),
    ("conditions:", "condition:"),
    // conditions
    ("  none: { collection: cards, match: { list: 1 } }\n", ""),
    ("  none: {", "  some: { collection: a }\n  none: {"),
    ("skippable: true", "skippable: maybe"),
    ("skippable: true", "skipable: true"),
    ("match: { list: 1 }", "match: []"),
    ("match: { list: 1 }", "filter: { list: 1 }"),
    ("collection: cards, match", "match"),
    ("fields: [ name, owner.id ], ", ""),
    ("fields: [ name, owner.id ]", "fields: []"),
    ("fields: [ name, owner.id ]", "fields: [ 1 ]"),
    ("fields: [ name, owner.id ]", "fields: [ $a ]"),
    ("fields: [ name, owner.id ]", "fields: [ a.0.b ]"),
    ("some: { collection: boards }", "some: { collection: boards, fields: [ a ] }"),
    ("some: { collection: boards }", "some: boards"),
    ("- description: there is a board\n  some", "- some"),
    ("remedy: rename one", "remedy: [ rename ]"),
    // steps
    ("update: cards", "upsert: cards"),
    ("update: cards", "update: [ cards ]"),
    ("update: cards", "update: system.views"),
    ("update: cards", "update: cards\n  delete: cards"),
    ("  where: { position: null }\n", ""),
    ("where: { position: null }", "where: {}"),
    ("where: { position: null }", "where: position"),
    ("  set:\n  - $set: { position: 0 }\n  - $unset: order\n", ""),
    ("  set:\n  - $set: { position: 0 }\n  - $unset: order\n", "  set: []\n"),
    ("- $unset: order", "- $lookup: { from: a }"),
    ("- $unset: order", "- { $unset: order, $set: { a: 1 } }"),
    ("- $unset: order", "- {}"),
    ("- $unset: order", "- unset"),
    ("report: Give {n} card(s) a position", "report: Give {count} cards"),
    ("report: Give {n} card(s) a position", "report: Give {n} and {} cards"),
    ("name: positions", "name: 5"),
    ("name: positions", "names: a"),
    ("[ python3, /upgrades/notes.py ]", "/upgrades/notes"),
    ("[ python3, /upgrades/notes.py ]", "[]"),
    ("[ python3, /upgrades/notes.py ]", "[ python3, 3 ]"),
    ("  program: [ python3, /upgrades/notes.py ]\n", ""),
    ("env: { MODE: fast }", "env: { MODE: 1 }"),
    ("env: { MODE: fast }", "env: [ MODE ]"),
    ("env: { MODE: fast }", "environment: {}"),
    ("timeout: 10s", "timeout: 10"),
    ("timeout: 10s", "timeout: soon"),
    ("inserts_into: [ words ]", "inserts_into: words"),
    ("inserts_into: [ words ]", "inserts_into: [ $words ]"),
    ("deletes: true", "deletes: words"),
    ("{ moved: \"Move {n} note(s)\" }", "\"Move {n} note(s)\""),
    ("{ moved: \"Move {n} note(s)\" }", "{ moved: \"Move {m} note(s)\" }"),
    (", order: natural", ""),
    (", fields: [ name ]", ""),
    (", fields: [ name ]", ", fields: name"),
    ("order: natural", "order: id"),
    ("as: owners, ", ""),
    ("as: owners", "as: a.b"),
    ("as: owners", "name: owners"),
    ("from: people", "from: $people"),
    ("local: owner.id", "local: $owner"),
    ("foreign: _id", "foreign: [ _id ]"),
    ("fields: [ name ], order", "fields: [], order"),
    ("  - { from: people", "  - people\n  - { from: people"),
    ("  then: delete\n", ""),
    ("then: delete", "then: keep"),
    ("then: delete", "then: true"),
    ("  into: comments\n", ""),
    ("into: comments", "into: $comments"),
    ("- $unwind: $comments", "- $group: { _id: $a }"),
    ("- $unwind: $comments", "- $match: { a: 1 }"),
    ("where: { comments: { $exists: true } }", "where: {}"),
    ("  where: { archived: true }\n", ""),
    ("where: { archived: true }", "where: { archived: true }\n  set: []"),
    ("[ { _id: reader } ]", "{ _id: reader }"),
    ("[ { _id: reader } ]", "[ { id: reader } ]"),
    ("[ { _id: reader } ]", "[ reader ]"),
    ("exact: true", "exact: 1"),
    ("keys: { board: 1 }", "keys: {}"),
    ("keys: { board: 1 }", "keys: [ board ]"),
    ("  name: board\n", ""),
    ("unique: false", "unique: 0"),
    ("expire_after: 30d", "expire_after: 5M"),
    ("expire_after: 30d", "expire_after: 30"),
    ("locale: en, ", ""),
    ("strength: 2", "strengh: 2"),
    ("strength: 2", "strength: 9"),
    ("name: old", "name: _id_"),
    ("  match: {}\n-", "-"),
    ("  to: pillars\n", ""),
    ("to: pillars", "to: $a"),
    ("- drop: gone", "- drop"),
    ("- drop: gone", "- {}"),
    ("- drop: gone", "- drop: gone\n  cascade: true"),
    ("- drop: gone", "- drop: [ gone, lost ]"),
    ("deletes: true", "delete: true"),
    ("unique: false", "partialFilterExpression: { a: 1 }"),
];

/// What a schema cannot say, and the parser alone refuses: what values are to each other, what filters and pipelines
/// mean, and how YAML is written. Other tests are about these.
pub const BEYOND: &[(&str, &str)] = &[
    // the file's name, and the code version
    ("version: 1.1.0", "version: 1.2.0"),
    ("oldest: 1.0.0-rc.1", "oldest: 9.0.0"),
    // a program as a line for a shell
    ("[ python3, /upgrades/notes.py ]", "python3 notes.py"),
    // what is to be read as one of MongoDB's types, or as its language
    ("{ position: 0 }", "{ position: { $oid: x } }"),
    ("{ position: 0 }", "{ _id: 0 }"),
    ("{ position: null }", "{ $where: x }"),
    ("- $unset: order", "- $replaceWith: $a"),
    ("as: owners", "as: owners }\n  - { from: a, local: a, foreign: a, as: owners"),
    (
        "from: people, local: owner.id, foreign: _id, as: owners, fields: [ name ]",
        "from: tasks, local: owner.id, foreign: _id, as: owners",
    ),
    ("into: comments", "into: cards"),
    ("- $unwind: $comments", "- $set: { at: $$NOW }"),
    // collections of others
    ("rename: lists", "rename: pillars"),
    ("update: cards", "update: versions"),
    ("collection: settings, field: app.version", "collection: cards, field: position"),
    ("collection: settings", "collection: gone"),
    // what no server takes, wherever an operator is known
    ("{ board: 1 }", "{ board: 0 }"),
    ("{ board: 1 }", "{ board: descending }"),
    ("{ board: 1 }", "{ a..b: 1 }"),
    ("{ board: 1 }", "{ board: 1, list: 1 }"),
    ("name: board", "name: \"*\""),
    ("unique: false", "sparse: true\n  partial: { a: 1 }"),
    ("unique: false", "partial: { a: { $exists: false } }"),
    ("unique: false", "partial: { $and: [ { a: { $ne: null } } ] }"),
    (
        "{ board: 1 }\n  name: board\n  unique: false\n  expire_after: 30d",
        "{ a: hashed }\n  name: a\n  unique: true",
    ),
    ("expire_after: 30d", "expire_after: 30000d"),
    ("match: {}\n-", "match: { a: { $near: [ 0, 0 ] } }\n-"),
    ("match: {}\n-", "match: { $where: x }\n-"),
    ("match: { list: 1 }", "match: { $where: x }"),
    ("match: { list: 1 }", "match: { a: { $near: [ 0, 0 ] } }"),
    ("match: { list: 1 }", "match: { $sampleRate: 0.5 }"),
    ("{ _id: reader }", "{ _id: { $a: 1 } }"),
    ("- drop: gone", "- drop: gone\n- drop: gone"),
    // how it is written
    ("{ list: 1 }", "{ list: &a 1 }"),
    ("{ list: 1 }", "{ list: 1, list: 2 }"),
    ("{ list: 1 }", "{ list: 007 }"),
];

/// Whether each of the schemas takes these texts.
fn schemas_take(texts: &[(&str, String)]) -> Vec<bool> {
    const CHECK: &str = "
import json, sys, jsonschema
schemas = {name: json.load(open(f'schema/{name}.json')) for name in ('gate', 'upgrade')}
for schema in schemas.values():
    jsonschema.Draft202012Validator.check_schema(schema)
checks = {name: jsonschema.Draft202012Validator(schema) for name, schema in schemas.items()}
for name, value in json.load(sys.stdin):
    print(json.dumps(checks[name].is_valid(value)))
";
    let root = env!("CARGO_MANIFEST_DIR");
    let found = Command::new("python3")
        .args(["tests/tools/setup", "schema"])
        .current_dir(root)
        .output()
        .unwrap();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    let packages = String::from_utf8(found.stdout).unwrap();
    let values: Vec<(&str, Value)> = texts
        .iter()
        .map(|(name, text)| {
            (
                *name,
                serde_norway::from_str(text).unwrap_or_else(|error| panic!("{error} in\n{text}")),
            )
        })
        .collect();
    let mut python = Command::new("python3")
        .args(["-c", CHECK])
        .current_dir(root)
        .env("PYTHONPATH", packages.trim())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(&serde_json::to_vec(&values).unwrap()).unwrap();
    let said = String::from_utf8(python.wait_with_output().unwrap().stdout).unwrap();
    let taken: Vec<bool> = said.lines().map(|line| line == "true").collect();
    assert_eq!(taken.len(), texts.len(), "{said}");
    taken
}

/// Whether the parser takes both files.
fn parser_takes(gate: &str, upgrade: &str) -> Result<(), String> {
    let told = mistakes(&[("gate.yaml", gate), ("1.1.0-a.yaml", upgrade)]).into_iter();
    let wrong = told.filter(|mistake| mistake.level == MistakeLevel::Error);
    let wrong: Vec<String> = wrong.map(|mistake| mistake.in_a_line()).collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// The two files with one of the changes, and which of them it is in.
pub fn changed((from, to): &(&str, &str)) -> (&'static str, String, String) {
    match (GATE.contains(from), UPGRADE.contains(from)) {
        (true, false) => ("gate", GATE.replacen(from, to, 1), UPGRADE.to_owned()),
        (false, true) => ("upgrade", GATE.to_owned(), UPGRADE.replacen(from, to, 1)),
        found => panic!("{from} is in {found:?}"),
    }
}

#[test]
fn a_schema_takes_what_the_parser_takes() {
    assert_eq!(parser_takes(GATE, UPGRADE), Ok(()));
    let of_file = |change| {
        let (name, gate, upgrade) = changed(change);
        (name, if name == "gate" { gate } else { upgrade })
    };
    let mut texts = vec![("gate", GATE.to_owned()), ("upgrade", UPGRADE.to_owned())];
    texts.extend(CHANGES.iter().map(of_file));
    let taken = schemas_take(&texts);
    assert_eq!(taken[..2], [true, true]);
    let (mut right, mut differ) = (0, vec![]);
    for (change, schema) in CHANGES.iter().zip(&taken[2..]) {
        let (_, gate, upgrade) = changed(change);
        let parser = parser_takes(&gate, &upgrade);
        if parser.is_ok() != *schema {
            differ.push(format!("{change:?}: {parser:?}"));
        }
        right += usize::from(*schema);
    }
    assert_eq!(differ, [""; 0]);
    assert!(right > 10 && CHANGES.len() - right > 50, "{right} are right");
    for change in BEYOND {
        let (_, gate, upgrade) = changed(change);
        let taken = parser_takes(&gate, &upgrade);
        assert!(taken.is_err(), "{change:?}");
    }
}

/// The examples are right for both.
#[test]
fn the_examples_are_taken_by_parser_and_schema() {
    let mut texts = vec![];
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/files");
    let Ok(folders) = std::fs::read_dir(examples) else { return };
    for folder in
        folders.map(|folder| folder.unwrap().path()).filter(|path| path.join("gate.yaml").is_file())
    {
        let files = files::read(&folder, Some("99.0.0"));
        assert_eq!(files.mistakes, [], "{}", folder.display());
        for file in std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()) {
            let name = file.file_name().unwrap().to_str().unwrap();
            if file.extension().is_some_and(|ending| ending == "yaml" || ending == "json") {
                let schema = if name == "gate.yaml" { "gate" } else { "upgrade" };
                texts.push((schema, std::fs::read_to_string(&file).unwrap()));
            }
        }
    }
    let taken = schemas_take(&texts);
    for ((_, text), taken) in texts.iter().zip(taken) {
        assert!(taken, "{text}");
    }
}
