//! Files that are wrong, each in its own way: what `validate` says of each. docs/wrong-files.md shows all of it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use upgrade_gate::Mistake;
use upgrade_gate::files;

use super::schema::{BEYOND, CHANGES, changed};
use crate::support::folder::Folder;
use crate::support::guide;

/// How many directories were written.
static COUNT: AtomicUsize = AtomicUsize::new(0);

const GATE: &str = "app: kanban\nversion: 1.4.0\n";
const EMPTY: &str = "version: 1.1.0\ndescription: nothing\nsteps: []\n";

/// The filters of an update.
const FILTERS: &[&str] = &[
    "null",
    "5",
    "{}",
    "{ $or: { a: 1 } }",
    "{ $and: [] }",
    "{ $foo: 1 }",
    "{ a: { $exist: true } }",
    "{ a: { $Exists: true } }",
    "{ a: { $exists: \"no\" } }",
    "{ $gt: { a: 1 } }",
    "{ a: { $in: 5 } }",
    "{ a: { $gt: 1, b: 2 } }",
    "{ a: { $not: 5 } }",
    "{ a: { $type: strng } }",
    "{ a: { $type: [ string, text ] } }",
    "{ a: { $elemMatch: 5 } }",
    "{ $expr: { $eqq: [ $a, 1 ] } }",
    "{ a: $b }",
    "{ at: { $lt: $$NOW } }",
    "{ $expr: { $lt: [ $at, $$NOW ] } }",
    "{ $text: { $search: x } }",
    "{ $where: this.a }",
    "{ a: { $near: [ 0, 0 ] } }",
    "{ $sampleRate: 0.5 }",
    "{ $expr: { $gt: [ { $rand: {} }, 0.5 ] } }",
    "{ a: 1, a: 2 }",
];

/// The pipelines of an update, without look-ups.
const PIPELINES: &[&str] = &[
    "null",
    "{ $set: { a: 1 } }",
    "[]",
    "[ 5 ]",
    "[ {} ]",
    "[ { $set: { a: 1, list.0.done: true } } ]",
    "[ { $sett: { a: 1 } } ]",
    "[ { set: { a: 1 } } ]",
    "[ { $inc: { a: 1 } } ]",
    "[ { $rename: { a: b } } ]",
    "[ { $push: { a: 1 } } ]",
    "[ { $lookup: { from: boards } } ]",
    "[ { $set: { a: 1 }, $unset: b } ]",
    "[ { $set: 5 } ]",
    "[ { $set: {} } ]",
    "[ { $set: { _id: 1 } } ]",
    "[ { $set: { $a: 1 } } ]",
    "[ { $set: { a..b: 1 } } ]",
    "[ { $set: { \"a.$[].b\": 1 } } ]",
    "[ { $set: { a: 1, a.b: 2 } } ]",
    "[ { $set: { a: { $ad: [ 1, 2 ] } } } ]",
    "[ { $set: { a: { $ifnull: [ $b, 0 ] } } } ]",
    "[ { $set: { a: { $lookup: x } } } ]",
    "[ { $set: { a: { $abs: 1, $add: [ 1, 2 ] } } } ]",
    "[ { $set: { a: $$NOWW } } ]",
    "[ { $set: { a: $$owner } } ]",
    "[ { $set: { a: \"$5.\" } } ]",
    "[ { $set: { a: $_found.owner } } ]",
    "[ { $set: { a: { $rand: {} } } } ]",
    "[ { $set: { a: { $function: { body: x, args: [], lang: js } } } } ]",
    "[ { $unset: $a } ]",
    "[ { $unset: { a: 1 } } ]",
    "[ { $unset: [] } ]",
    "[ { $unset: [ 5 ] } ]",
    "[ { $project: { a: 1 } } ]",
    "[ { $replaceWith: $a } ]",
    "[ { $replaceRoot: { newroot: { $mergeObjects: [ $a, { _id: $_id } ] } } } ]",
    "[ { $set: { b: $a } } ]",
];

/// Pipelines of an update that looks the `name` of an `owner` up.
const FOUND: &[&str] = &[
    "[ { $set: { a: $_found.owners } } ]",
    "[ { $set: { a: $_found.owner.age } } ]",
    "[ { $set: { _found: 1 } } ]",
];

/// The pipelines of a copy.
const COPIES: &[&str] = &[
    "[ { $group: { _id: $a } } ]",
    "[ { $unwind: comments } ]",
    "[ { $set: { at: $$NOW } } ]",
    "[ { $match: { a: { $gt: $b } } } ]",
];

/// Filters and pipelines of which nothing is said.
const RIGHT: &[(&str, &str)] = &[
    ("{ a: { $gt: 1, $lt: { $date: \"2026-11-28T00:00:00Z\" } } }", "[ { $set: { a: $$NOW } } ]"),
    ("{ a: { $not: { $in: [ 1, null ] } }, b.0: { $exists: 0 } }", "[ { $unset: [ a, b.c ] } ]"),
    ("{ a: { $not: { $regularExpression: { pattern: a, options: i } } } }", "[ { $unset: a } ]"),
    (
        "{ l: { $elemMatch: { $or: [ { a: 1 }, { b: { $type: [ int, 2 ] } } ] } } }",
        "[ { $unset: l } ]",
    ),
    ("{ l: { $elemMatch: { $gt: 1 } } }", "[ { $set: { l: { $literal: $$any. } } } ]"),
    (
        "{ price: $5, l: { $size: 1 }, d: { $ref: a, $id: 1 } }",
        "[ { $set: { price: \"5$\", b: [ $c ] } } ]",
    ),
    (
        "{ $expr: { $anyElementTrue: { $map: { input: $l, as: one, in: { $eq: [ $$one.a, 1 ] } } } } }",
        "[ { $set: { l: { $map: { input: $l, in: { $mergeObjects: [ $$this, { a: 1 } ] } } } } } ]",
    ),
    (
        "{ a: { b: 1, c: 2 } }",
        "[ { $set: { a: { $let: { vars: { x: $b }, in: $$x } }, c: { d: { $toInt: $c } }, e: $$REMOVE } } ]",
    ),
    (
        "{ a: { $oid: \"64a1f0c2e4b0a1b2c3d4e5f6\" } }",
        "[ { $set: { a: { $switch: { branches: [ { case: $b, then: 1 } ], default: $$ROOT.c } } } } ]",
    ),
    ("{ a: 1, $comment: x }", "[ { $project: { _id: 1, b.c: 1, d: { $numberLong: \"1\" } } } ]"),
];

/// Values of a document.
const VALUES: &[&str] = &[
    "{ $oid: \"123\" }",
    "{ $date: \"2026-11-28\" }",
    "{ $date: 2026-11-28 }",
    "{ $date: 1764288000 }",
    "{ $numberLong: 5 }",
    "{ $numberlong: \"5\" }",
    "{ $numberDecimal: 0.1 }",
    "{ $binary: AAEC }",
    "{ $uuid: x }",
    "{ $oid: \"64a1f0c2e4b0a1b2c3d4e5f6\", more: 1 }",
    "ISODate(\"2026-11-28\")",
    "ObjectId(\"64a1f0c2e4b0a1b2c3d4e5f6\")",
    "NumberLong(5)",
    "/^a/",
    "None",
    "NaN",
    "${DEFAULT_BOARD}",
    "{{ board }}",
    "yes",
    "2026-11-28",
    "007",
    "1_000",
    "12:30",
    "0x1F",
    "99999999999999999999",
    "1e400",
    "&a 1",
    "*a",
    "!!str a",
    "Fix #5 of it",
];

/// Whole texts of an upgrade.
const TEXTS: &[&str] = &[
    "",
    "# nothing\n",
    "- drop: cards\n",
    "drop the cards\n",
    "description:fix cards\nsteps: []\n",
    "version: 1.1.0\n description: x\nsteps: []\n",
    "version: 1.1.0\ndescription: x\nsteps:\n- drop: a\n - drop: b\n",
    "version: 1.1.0\ndescription: x\nsteps:\n  drop: a\n",
    "version: 1.1.0\ndescription: x\nsteps:\n\t- drop: a\n",
    "version: 1.1.0\ndescription:\tx\nsteps: []\n",
    "version: 1.1.0\ndescription: x\nsteps:\n- drop: a\n\tname: old\n",
    "version: 1.1.0\ndescription: {n} cards\nsteps: []\n",
    "version: 1.1.0\ndescription: first: cards\nsteps: []\n",
    "version: 1.1.0\ndescription: @cards\nsteps: []\n",
    "version: 1.1.0\ndescription: \"cards\nsteps: []\n",
    "version: 1.1.0\ndescription: 'don't'\nsteps: []\n",
    "version: 1.1.0\ndescription: \"\\d\"\nsteps: []\n",
    "version: 1.1.0\ndescription: |\n  one\n  two\nsteps: []\n",
    "version: >=1.1.0\ndescription: x\nsteps: []\n",
    "version: 1.1.0\ndescription: ? x\nsteps: []\n",
    "version: 1.1.0\ndescription: x\nsteps: [\n",
    "version: 1.1.0\ndescription: x\nsteps: []\n}\n",
    "version: 1.1.0\ndescription: x\nsteps: [ { drop: a[0] } ]\n",
    "version: 1.1.0\ndescription: x\nsteps: []\n---\nversion: 1.2.0\n",
    "%YAML 1.1\n---\nversion: 1.1.0\ndescription: x\nsteps: []\n",
    "{{- if .Values.cards }}\nversion: 1.1.0\n{{- end }}\n",
    "<<<<<<< HEAD\nversion: 1.1.0\n=======\nversion: 1.1.1\n>>>>>>> other\n",
    "version: 1.1.0\ndescription:\u{a0}x\nsteps: []\n",
    "version: 1.1.0\ndescription: x\u{200b}y\nsteps: []\n",
    "version: 1.1.0\ndescription: a\0b\nsteps: []\n",
    "version: 1.1.0\ndescription: x\nsteps: []\n<<: { a: 1 }\n",
    "version: 1.1.0\ndescription: x\nsteps: []\n5: 1\n",
    "version: 1.1.0\ndescription: x\ndescription: y\nsteps: []\n",
    "version: 1.1\ndescription: x\nsteps: []\n",
    "version: latest\ndescription: x\nsteps: []\n",
    "version: 1.1.0.dev1\ndescription: x\nsteps: []\n",
    "version: 1.1.0-1\ndescription: x\nsteps: []\n",
];

/// Whole texts of an upgrade in JSON.
const JSON: &[&str] = &[
    "{ \"version\": \"1.1.0\", \"description\": \"x\", \"steps\": [], }",
    "{ 'version': '1.1.0' }",
    "// comment\n{}",
    "{ \"version\": \"1.1.0\",",
    "{ \"version\": 1.1.0 }",
    "version: 1.1.0\n",
    "{ \"version\": \"1.1.0\", \"description\": \"half \\ud83d of it\", \"steps\": [] }",
    // the column that the reader of JSON gives is within the letter
    "{ \"version\": \"1.1.0\", \"description\": \"an escape \\u0\u{105d}0e9\" }",
];

/// Names of files that are not read as upgrades, or that are refused.
const NAMES: &[&str] = &[
    "1.1.0.yaml",
    "1.1.0_cards.yaml",
    "cards.yaml",
    "cards-1.1.0.yaml",
    "1.1.0-cards.YAML",
    "1.1.0-cards.yaml.txt",
    "1.1.0-cards.toml",
    "1.2.0-cards.yaml",
    "Gate.yaml",
];

/// Names that are let be without a word: what editors, tools and volumes leave in a directory.
const LET_BE: &[&str] = &[
    "1.1.0-cards.yaml~",
    ".1.1.0-cards.yaml.swp",
    "#1.1.0-cards.yaml#",
    "1.1.0-cards.yaml.bak",
    "1.1.0-cards.yaml.orig",
    ".hidden.yaml",
    "..data/1.1.0-cards.yaml",
    "README.md",
    "1.1.0-cards.py",
    "old/0.9.0-cards.yaml",
];

fn update(filter: &str, rest: &str) -> String {
    format!("version: 1.1.0\ndescription: x\nsteps:\n- update: cards\n  where: {filter}\n{rest}")
}

fn copied(pipeline: &str) -> String {
    format!(
        "version: 1.1.0\ndescription: x\nsteps:\n- copy: cards\n  where: {{ a: 1 }}\n  pipeline: {pipeline}\n  into: b\n"
    )
}

/// What is said of these files, which stand alone in a directory.
pub fn mistakes<B: AsRef<[u8]>>(written: &[(&str, B)]) -> Vec<Mistake> {
    let name = format!("wrong-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    said(Folder::of(&name, written).path())
}

fn said(directory: &Path) -> Vec<Mistake> {
    let shown = directory.display().to_string();
    let found = files::read(directory, None).mistakes.into_iter();
    found
        .map(|mut mistake| {
            mistake.excerpt = mistake.excerpt.replace(&shown, "upgrades");
            mistake
        })
        .collect()
}

fn upgrade(text: impl AsRef<[u8]>) -> Vec<Mistake> {
    mistakes(&[("gate.yaml", GATE.as_bytes()), ("1.1.0-cards.yaml", text.as_ref())])
}

/// A part of the page, of which each case is wrong.
fn part<'c, C: std::fmt::Debug + 'c>(
    cases: impl IntoIterator<Item = C>,
    told: impl Fn(&C) -> Vec<Mistake>,
) -> Vec<Mistake> {
    let mut all = vec![];
    for case in cases {
        let told = told(&case);
        assert!(!told.is_empty(), "nothing is said of {case:?}");
        all.extend(told);
    }
    all
}

fn directories() -> Vec<Mistake> {
    let mut all = said(Path::new("/nowhere/upgrades"));
    let folder = Folder::new("wrong-directory");
    all.extend(said(folder.path()));
    folder.write("README.md", "");
    all.extend(said(&folder.path().join("README.md")));
    folder.write("mine/gate.yaml", GATE);
    all.extend(said(folder.path()));
    all.extend(mistakes(&[("1.1.0-cards.yaml", EMPTY)]));
    all.extend(mistakes(&[("gate.yml", GATE), ("1.1.0-cards.yaml", EMPTY)]));
    all.extend(part(NAMES, |name| {
        let text = EMPTY;
        mistakes(&[("gate.yaml", GATE), (name, text)])
    }));
    let folder = Folder::new("wrong-links");
    folder.write("gate.yaml", GATE);
    symlink("nowhere.yaml", folder.path().join("1.1.0-cards.yaml")).unwrap();
    all.extend(said(folder.path()));
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    all.extend(upgrade(utf16(&format!("\u{feff}{EMPTY}"))));
    all.extend(upgrade(b"version: 1.1.0\ndescription: gr\xf6\xdfe\nsteps: []\n"));
    all.extend(upgrade("#".repeat(4 * 1024 * 1024 + 1)));
    all
}

fn others() -> Vec<Mistake> {
    let same =
        |one: (&str, &str), other: (&str, &str)| mistakes(&[("gate.yaml", GATE), one, other]);
    let dropping = |description: &str, rest: &str| {
        format!("version: 1.1.0\ndescription: {description}\nsteps:\n{rest}")
    };
    let newer = EMPTY.replace("1.1.0", "2.0.0");
    let (one, other) =
        (dropping("a", "- drop: a\n"), dropping("b", "- { drop: a, name: other }\n"));
    let named = dropping("c", "- { drop: b, name: old }\n- { drop: c, name: old }\n");
    [
        same(("1.1.0-a.yaml", EMPTY), ("1.1.0-a.yml", EMPTY)),
        same(("1.1.0-a.yaml", EMPTY), ("1.1.0-b.yaml", EMPTY)),
        same(("1.1.0-a.yaml", EMPTY), ("1.1.0-b.yaml", &EMPTY.replace("[]", "[ { drop: a } ]"))),
        same(("1.1.0-a.yaml", &one), ("1.1.0-b.yaml", &other)),
        same(("1.1.0-a.yaml", EMPTY), ("1.1.0-c.yaml", &named)),
        same(("1.1.0-a.yaml", EMPTY), ("2.0.0-b.yaml", &newer)),
    ]
    .concat()
}

#[test]
fn every_wrong_file_is_told_and_the_page_shows_how() {
    let of_change = |change: &&(&str, &str)| {
        let (_, gate, upgrade) = changed(change);
        mistakes(&[("gate.yaml", gate), ("1.1.0-a.yaml", upgrade)])
    };
    let changes = CHANGES.iter().chain(BEYOND).filter(|change| !of_change(change).is_empty());
    let set = "  set: [ { $set: { a: 1 } } ]\n";
    let look_up =
        "  lookup: [ { from: people, local: by, foreign: _id, as: owner, fields: [ name ] } ]\n";
    let old = "{ a: { $exists: false } }";
    let json = |text: &&&str| mistakes(&[("gate.yaml", GATE), ("1.1.0-cards.json", text)]);
    let seed = |value: &&&str| {
        upgrade(format!(
            "version: 1.1.0\ndescription: x\nsteps:\n- seed: boards\n  documents:\n  - _id: 1\n    board: {value}\n"
        ))
    };
    let parts = [
        ("The directory and its files", directories()),
        (
            "YAML and JSON",
            [part(TEXTS, |text| upgrade(text.as_bytes())), part(JSON, json)].concat(),
        ),
        ("Values", part(VALUES, seed)),
        ("Keys, conditions and steps", part(changes, of_change)),
        ("Filters", part(FILTERS, |filter| upgrade(update(filter, set)))),
        (
            "Pipelines",
            [
                part(PIPELINES, |set| upgrade(update(old, &format!("  set: {set}\n")))),
                part(FOUND, |set| upgrade(update(old, &format!("{look_up}  set: {set}\n")))),
                part(COPIES, |pipeline| upgrade(copied(pipeline))),
            ]
            .concat(),
        ),
        ("Several files", others()),
    ];
    let mut rows = String::new();
    let mut shown = BTreeSet::new();
    for (heading, told) in parts {
        let new = |told: &&Mistake| shown.insert((told.message.clone(), told.expected.clone()));
        let excerpts: Vec<&str> =
            told.iter().filter(new).map(|told| told.excerpt.trim_end()).collect();
        rows += &format!("\n## {heading}\n\n```text\n{}\n```\n", excerpts.join("\n\n"));
    }
    written_down(&rows.lines().map(|line| format!("{}\n", line.trim_end())).collect::<String>());
}

/// The page that shows all of them; with UPDATE=1 they are written there.
fn written_down(rows: &str) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/wrong-files.md");
    let mut page = fs::read_to_string(path).unwrap();
    let (begin, end) = guide::part(&page, "wrong files");
    if std::env::var("UPDATE").is_ok_and(|update| update == "1") {
        page.replace_range(begin..end, rows);
        return fs::write(path, page).unwrap();
    }
    let differs = page[begin..end].lines().zip(rows.lines()).find(|(ours, its)| ours != its);
    assert!(
        page[begin..end] == *rows,
        "{path} is not what is said; UPDATE=1 cargo test --test files every_wrong writes it.\n\
         the first line that differs (page, said): {differs:#?}"
    );
}

#[test]
fn nothing_is_said_of_what_is_right() {
    for (filter, set) in RIGHT {
        let told = upgrade(update(filter, &format!("  set: {set}\n")));
        assert_eq!(told, [], "{filter} {set}");
    }
    for name in LET_BE {
        let told = mistakes(&[("gate.yaml", GATE), (name, "}: no YAML")]);
        assert_eq!(told, [], "{name}");
    }
    for text in [format!("\u{feff}{EMPTY}"), EMPTY.replace('\n', "\r\n"), format!("{EMPTY}...\n")] {
        assert_eq!(upgrade(&text), [], "{text:?}");
    }
    for name in ["1.1.0-a b.yml", "v1.1.0-ä.yaml", "1.1-a.yaml"] {
        assert_eq!(mistakes(&[("gate.yaml", GATE), (name, EMPTY)]), [], "{name}");
    }
}
