//! Files in memory: what is read, what is refused and where, and that no text whatever ends in a panic.

use mongodb::bson::{Bson, doc};

use super::directory::{Directory, UpgradeName};
use super::mistakes::{Mistakes, Source};
use super::node::Value;
use super::read::{Files, judge};
use super::{values, yaml};

const GATE: &str = "app: kanban\nversion: 1.4.0\noldest: 1.0.0\n";

const UPGRADE: &str = r#"version: 1.1.0
description: give every card a position
conditions:
- description: no card has both a list and a column
  none: { collection: cards, match: { list: { $exists: true }, column: { $exists: true } } }
  skippable: true
- description: no two boards share a name
  unique:
    collection: boards
    fields: [ name, owner.id ]
    match: { archived: false, created: { $lt: { $date: "2026-11-28T00:00:00Z" } } }
  remedy: rename one of them
- description: there is a board
  some: { collection: boards }
steps:
- update: cards
  where: { position: { $exists: false } }          # exactly the documents of the old shape
  set:                                             # an update pipeline; the server evaluates it
  - $set: { position: { $ifNull: [ "$order", 0 ] } }
  - $unset: order
  report: "Give {n} card(s) a position"
- update: tasks
  where: { owner_name: { $exists: false } }
  lookup:
  - { from: people, local: owner.id, foreign: _id, as: owners, fields: [ name ], order: natural }
  set:
  - $set: { owner_name: { $first: $_found.owners.name } }
- update: notes
  where: {}
  program: [ python3, /upgrades/notes.py ]
  env: { MODE: fast }
  timeout: 10s
  inserts_into: [ words ]
  deletes: true
  report: { moved: "Move {n} note(s)" }
- copy: cards
  where: { comments: { $exists: true } }
  pipeline:
  - $unwind: { path: $comments, includeArrayIndex: n }
  - $replaceWith: { _id: { card: $_id, n: $n }, text: $comments.text }
  into: comments
  then: delete
- seed: roles
  documents:
  - { _id: reader, level: 1, quota: 5000000000, share: 0.5, "on": true, none: null }
  - _id: { $oid: "64a1f0c2e4b0a1b2c3d4e5f6" }
    text: |
      several
        lines
    folded: >-
      one
      line
    'quoted ''key''': "\u00e9\n"
  report: 'Add {n} role(s)'
- create_index: cards
  keys: { board: 1, position: 1 }
  name: board_position
  unique: true
  partial: { archived: false }
- drop_index: cards
  name: old
- validator: cards
  match: { $jsonSchema: { required: [ board ] } }
- rename: lists
  to: columns
- drop: größe  # größer
- delete: boards
  where: { archived: true, age: { $gt: 5 } }
  report: "Delete {n} archived card(s)"
"#;

const JSON: &str = r#"{
  "version": "1.2.0", "description": "in JSON",
	"steps": [ { "seed": "a", "documents": [ { "_id": 1, "x": [ 1, 2.0, "\u00e9", null, true ] } ] } ]
}
"#;

fn directory(gate: &str, upgrades: &[(&str, &str)]) -> Directory {
    let upgrade = |(file, text): &(&str, &str)| {
        let (stem, _) = file.rsplit_once('.').unwrap();
        (UpgradeName::parse(file, stem).unwrap(), (*text).to_owned())
    };
    let upgrades = upgrades.iter().map(upgrade).collect();
    Directory { path: None, gate: Some(gate.to_owned()), upgrades }
}

fn files(gate: &str, upgrades: &[(&str, &str)]) -> Files {
    judge(&directory(gate, upgrades), None, Mistakes::default())
}

fn said(files: &Files) -> Vec<String> {
    files.mistakes.iter().map(|mistake| mistake.in_a_line()).collect()
}

#[test]
fn what_is_right_becomes_a_gate() {
    let files = files(GATE, &[("1.1.0-positions.yaml", UPGRADE), ("1.2.0-json.json", JSON)]);
    assert_eq!(said(&files), [""; 0]);
    assert_eq!((files.upgrades, files.errors), (2, 0));
    let (code, upgrades) = files.gate().unwrap().checked().unwrap();
    assert_eq!(code.to_string(), "1.4.0");
    let names: Vec<_> = upgrades.versions()[0].steps().map(|step| step.name()).collect();
    assert_eq!(names[0], "1.1.0-positions, step 1: update");
    assert_eq!(names[9], "1.1.0-positions, step 10: drop");
    assert_eq!(upgrades.versions()[0].conditions().count(), 3);
}

#[test]
fn strings_of_json_are_what_any_reader_of_json_makes_of_them() {
    for written in [
        r#""\ud83d\ude00""#,
        r#""\uD83D\uDE00 \ud83d\ude00""#,
        r#""\\ud83d \\\ud83d\ude00""#,
        r#""\/ \b\f\n\r\t \" \u0000 \u00e9 \ue83d 😀""#,
        r#""""#,
    ] {
        // no field's name holds a zero byte
        let key = written.replace("\\u0000", "");
        let text = format!("{{ {key}: [ {written}, {{ \"a\": {written} }} ], \"é\": {written} }}");
        let source = Source { name: "a.json", text: &text };
        let mut mistakes = Mistakes::default();
        let root = yaml::parse(&source, &mut mistakes).unwrap();
        let read = values::bson((&source, &mut mistakes), &root).unwrap();
        let expected: Bson = serde_json::from_str(&text).unwrap();
        assert_eq!(read, expected);
        assert!(mistakes.is_empty());
    }
}

/// A document as the files read it.
fn read(text: &str) -> Result<Bson, Vec<String>> {
    let source = Source { name: "a.yaml", text };
    let mut mistakes = Mistakes::default();
    let value = yaml::parse(&source, &mut mistakes)
        .and_then(|node| values::bson((&source, &mut mistakes), &node));
    let errors = mistakes.are_errors();
    let list = mistakes.into_list();
    match value {
        Some(value) if !errors => Ok(value),
        _ => Err(list.iter().map(|mistake| mistake.in_a_line()).collect()),
    }
}

#[test]
fn values_have_the_types_of_extended_json_and_keep_their_order() {
    let oid = "64a1f0c2e4b0a1b2c3d4e5f6";
    let long = i64::from(i32::MAX) + 1;
    let text = format!(
        "{{ z: 1, a: {long}, d: 1.0, o: {{ $oid: \"{oid}\" }}, l: {{ $numberLong: \"1\" }}, \
         t: [ {{ $date: \"1970-01-01T00:00:01Z\" }}, {{ $numberDecimal: \"0.10\" }} ], \
         f: {{ $regex: \"^a\", $options: i }}, m: {{ $minKey: 1 }}, \
         u: {{ $numberInt: \"7\" }}, e: {{}}, n: {{ $numberDouble: \"-0.0\" }} }}"
    );
    let document = doc! {
        "z": 1,
        "a": long,
        "d": 1.0,
        "o": mongodb::bson::oid::ObjectId::parse_str(oid).unwrap(),
        "l": 1_i64,
        "t": [
            mongodb::bson::DateTime::from_millis(1000),
            "0.10".parse::<mongodb::bson::Decimal128>().unwrap(),
        ],
        "f": { "$regex": "^a", "$options": "i" },
        "m": Bson::MinKey,
        "u": 7,
        "e": {},
        "n": -0.0,
    };
    assert_eq!(read(&text), Ok(Bson::Document(document.clone())));
    let Ok(Bson::Document(read)) = read(&text) else { panic!() };
    assert!(read.keys().eq(document.keys()));
}

#[test]
fn a_type_that_is_not_written_as_extended_json_has_it_is_refused() {
    for text in [
        "{ $oid: x }",
        "{ $oid: \"64a1f0c2e4b0a1b2c3d4e5f6\", more: 1 }",
        "{ $date: 5 }",
        "{ $date: today }",
        "{ $numberLong: 5 }",
        "{ $numberLong: x }",
        "{ $numberInt: \"5000000000\" }",
        "{ $binary: AAEC }",
        "{ $uuid: x }",
        "{ $timestamp: 1 }",
        "{ more: 1, $minKey: 1 }",
        "{ $numberDecimal: .nan }",
    ] {
        let told = read(&format!("a: {text}")).unwrap_err().join(";");
        assert!(told.contains("in MongoDB's Extended JSON") && told.contains("write {"), "{told}");
    }
}

#[test]
fn the_digest_is_of_what_a_file_says_and_not_of_how() {
    let content = |text: &str| {
        let mut content = String::new();
        yaml::parse(&Source { name: "a.yaml", text }, &mut Mistakes::default())
            .unwrap()
            .canonical(&mut content);
        content
    };
    let one = content("a: [1, \"x\"]\nb: { c: 1.0 } # so\n");
    assert_eq!(one, content("{\"a\": [1, 'x'],\n \"b\": {\"c\": 1.0}}"));
    for other in
        ["a: [1, x]\nb: { c: 1 }", "b: { c: 1.0 }\na: [1, x]", "a: [\"1\", x]\nb: { c: 1.0 }"]
    {
        assert_ne!(one, content(other), "{other}");
    }
    assert_ne!(content("[\"a\",\"b\"]"), content("['a\",\"b']"));
}

#[test]
fn every_mistake_of_every_file_is_told_where_it_is() {
    let first = "version: 1.1.0\ndescription: yes\nsteps:\n- drop: $a\n- drop: b\n  to: c\n";
    let second = "version: 1.2.0\ndescription: x\nsteps: [ { drop: database_metadata }, { drop: a }, { rename: a, to: b } ]\n";
    let files =
        files("app: k b\nversion: 1.1\n", &[("1.1.0-a.yaml", first), ("1.2.0-b.yaml", second)]);
    let places: Vec<_> = files
        .mistakes
        .iter()
        .map(|it| (it.file.as_str(), it.line.unwrap(), it.column.unwrap()))
        .collect();
    assert_eq!(
        places,
        [
            ("1.1.0-a.yaml", 2, 14),
            ("1.1.0-a.yaml", 4, 9),
            ("1.1.0-a.yaml", 6, 3),
            ("gate.yaml", 1, 6),
            ("gate.yaml", 2, 10),
        ],
        "{:?}",
        said(&files)
    );
    // what steps are to each other is told where an application has a name
    let files = self::files(GATE, &[("1.2.0-b.yaml", second)]);
    let told = said(&files);
    assert!(
        told[0].starts_with("1.2.0-b.yaml:3:12: the step changes database_metadata"),
        "{told:?}"
    );
    assert!(told[1].starts_with("1.2.0-b.yaml:3:54: "), "{told:?}");
    assert!(told[1].contains("takes it away"), "{told:?}");
    assert_eq!(told.len(), 2, "{told:?}");
}

/// What the library finds in filters and pipelines.
#[test]
fn what_the_server_would_not_take_is_told_at_its_key() {
    let update = |filter: &str, set: &str| {
        let text = format!(
            "version: 1.1.0\ndescription: x\nsteps:\n- update: cards\n  where: {filter}\n  set: {set}\n"
        );
        let told = said(&files(GATE, &[("1.1.0-a.yaml", &text)]));
        told.into_iter()
            .map(|told| told.split(':').take(3).collect::<Vec<_>>().join(":"))
            .collect::<Vec<String>>()
    };
    let old = "{ a: 1 }";
    let new = "[ { $set: { a: 2 } } ]";
    let none: [&str; 0] = [];
    assert_eq!(update(old, new), none);
    for (filter, set, place) in [
        (old, "[ { $set: { _id: 1 } } ]", "6:20"),
        (old, "[ { $unset: [ a, _id ] } ]", "6:25"),
        (old, "[ { $set: { a: { $add: [ 1, { $rand: {} } ] } } } ]", "6:38"),
        (old, "[ { $replaceWith: $b } ]", "6:12"),
        (old, "[ { $project: { a: 1 } } ]", "6:12"),
        (old, "[ { $lookup: { from: b } } ]", "6:12"),
        (old, "[ { $set: 1 } ]", "6:12"),
        (old, "[]", "6:8"),
        (old, "{ $set: { a: 1 } }", "6:8"),
        ("{}", new, "5:10"),
        ("{ $and: [ { a: 1 }, { $where: x } ] }", new, "5:32"),
        ("{ a: { $near: [ 0, 0 ] } }", new, "5:17"),
        ("{ $expr: { $lt: [ $at, $$NOW ] } }", new, "5:33"),
    ] {
        let file = format!("1.1.0-a.yaml:{place}");
        assert_eq!(update(filter, set), [file], "{filter} {set}");
    }
}

#[test]
fn places_count_characters_and_lines_of_any_ending() {
    for (text, place) in [
        ("ä: ö\nb: yes\n", (2, 4)),
        ("ä: ö\r\nb: yes\r\n", (2, 4)),
        ("ä: [ öö, yes ]\n", (1, 10)),
        ("\u{1f600}: yes", (1, 4)),
    ] {
        let source = Source { name: "a.yaml", text };
        let mut mistakes = Mistakes::default();
        yaml::parse(&source, &mut mistakes);
        let list = mistakes.into_list();
        assert_eq!((list[0].line.unwrap(), list[0].column.unwrap()), place, "{text:?}");
        assert!(list[0].excerpt.contains("^^^"), "{}", list[0].excerpt);
    }
}

/// A text that fuzzing makes of others.
fn mutated(random: &mut fastrand::Rng, corpus: &[&str]) -> String {
    const PARTS: &[&str] = &[
        "{",
        "}",
        "[",
        "]",
        ":",
        ": ",
        ",",
        "- ",
        "-",
        "\n",
        "\n  ",
        "\t",
        "#",
        " #",
        "'",
        "\"",
        "|\n",
        ">-\n",
        "&a ",
        "*a",
        "!x ",
        "!!str ",
        "%YAML 1.1\n",
        "---\n",
        "...\n",
        "? ",
        "<<: ",
        "\\",
        "\\u12",
        "\u{feff}",
        "\0",
        "\u{85}",
        "\u{2028}",
        "ä",
        "\u{1f600}",
        "yes",
        "0o7",
        "1e999",
        "99999999999999999999",
        "2026-11-28",
        "$date",
        "$oid",
        "_id",
        "{n}",
        "version",
        "steps",
        "seed",
        "update",
        "copy",
        "delete",
        "where",
        "set",
        "lookup",
        "program",
        "documents",
        "null",
        "~",
        "\r",
        "\r\n",
        "@",
        "`",
        "$",
        ".",
        "..",
        "1.1.0",
        "[[[[[[[[[[[[[[[[",
        "{a: {a: {a: {a: ",
    ];
    let mut text = corpus[random.usize(..corpus.len())].to_owned();
    let place = |random: &mut fastrand::Rng, text: &str| {
        let at = random.usize(..=text.len());
        (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap()
    };
    for _ in 0..random.usize(1..8) {
        let (one, other) = (place(random, &text), place(random, &text));
        let (from, to) = (one.min(other), one.max(other));
        match random.u8(..6) {
            0 => text.insert_str(from, PARTS[random.usize(..PARTS.len())]),
            1 => text.replace_range(from..to.min(place(random, &text[..to]).max(from)), ""),
            2 => {
                let piece: String = text[from..to].chars().take(200).collect();
                text.insert_str(from, &piece);
            }
            3 => {
                let other = corpus[random.usize(..corpus.len())];
                let (start, end) = (place(random, other), place(random, other));
                text.insert_str(from, &other[start.min(end)..start.max(end)]);
            }
            4 => {
                let character = char::from_u32(random.u32(..0x3000)).unwrap_or('x');
                text.insert(from, character);
            }
            _ => text
                .insert_str(from, &PARTS[random.usize(..PARTS.len())].repeat(random.usize(1..5))),
        }
    }
    text
}

/// `FUZZ_INPUTS` says how many, and `FUZZ_SEED` from where on.
#[test]
fn no_text_whatever_ends_in_a_panic() {
    let number = |name: &str, usual: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
    };
    let corpus = [GATE, UPGRADE, JSON];
    let first = number("FUZZ_SEED", 1);
    let (mut right, mut most) = (0, 0);
    for seed in first..first + number("FUZZ_INPUTS", 1500) {
        let mut random = fastrand::Rng::with_seed(seed);
        let text = mutated(&mut random, &corpus);
        let (gate, upgrade) = match random.u8(..4) {
            0 => (text.as_str(), UPGRADE),
            _ => (GATE, text.as_str()),
        };
        let name = if random.bool() { "1.1.0-a.yaml" } else { "1.1.0-a.json" };
        let judged = std::panic::catch_unwind(|| files(gate, &[(name, upgrade)]));
        let files = judged.unwrap_or_else(|_| panic!("seed {seed}:\n{text}"));
        most = most.max(files.mistakes.len());
        for mistake in &files.mistakes {
            let of = if mistake.file == "gate.yaml" { gate } else { upgrade };
            assert!(
                mistake.line.is_none_or(|line| line <= of.split(['\n', '\r']).count()),
                "seed {seed}"
            );
            assert!(!mistake.excerpt.contains('\u{2028}'), "seed {seed}");
        }
        match files.errors {
            0 if files.version.is_none() => assert!(files.gate().is_err(), "seed {seed}"),
            0 => {
                files.gate().unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
                right += 1;
            }
            _ => assert!(files.gate().is_err(), "seed {seed}"),
        }
    }
    eprintln!("{right} of the texts were right, and one had {most} mistakes");
    assert!(right > 0 && most > 3);
}

#[test]
fn a_text_as_deep_or_as_long_as_may_be_is_refused_in_no_time() {
    let deep = "[".repeat(100_000);
    let long = format!("a: [ {} ]", "1,".repeat(300_000));
    let blocks: String = (0..400).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    for (text, what) in
        [(&deep, "nests deeper"), (&long, "more than 250000"), (&blocks, "nests deeper")]
    {
        let told = read(text).unwrap_err();
        assert!(told.len() == 1 && told[0].contains(what), "{told:?}");
    }
    assert!(matches!(
        yaml::parse(&Source { name: "a.yaml", text: "a" }, &mut Mistakes::default()).unwrap().value,
        Value::Text(_)
    ));
}
