//! Compares the reading, order and writing of versions with Python's `packaging`.

use std::cmp::Ordering;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;
use upgrade_gate::{Version, VersionError};

/// What `packaging` makes of a text.
#[derive(Deserialize)]
struct Python {
    /// Its place among all versions asked about, without the local part.
    rank: usize,
    bare_number: bool,
    development: bool,
    beyond_semver: bool,
}

#[test]
fn reads_what_packaging_reads() {
    for (text, python) in ask_packaging(texts()) {
        match (Version::parse(&text), python) {
            (Ok(_), Some(python)) => assert!(!python.bare_number, "{text:?} is ambiguous"),
            (Err(VersionError::BareNumber(_)), Some(python)) => {
                assert!(python.bare_number, "{text:?} is not ambiguous")
            }
            (Err(_), None) => {}
            (ours, python) => {
                panic!("{text:?} is {ours:?}, in Python {:?}", python.map(|p| p.rank))
            }
        }
    }
}

#[test]
fn orders_as_packaging_does() {
    let versions = readable(texts());
    assert!(versions.len() > 2000, "only {} versions to compare", versions.len());
    let order = |a: &str, b: &str| version(a).cmp(&version(b));
    assert_eq!(first_difference(versions, order), None);
}

#[test]
fn notices_an_order_that_is_not_that_of_packaging() {
    let semver = |a: &str, b: &str| {
        let parse = |text| semver::Version::parse(text).unwrap();
        parse(a).cmp_precedence(&parse(b))
    };
    let same = ["1.0.0-alpha.1", "1.0.0-beta.1", "1.0.0"].map(String::from);
    assert_eq!(first_difference(readable(same.to_vec()), semver), None);
    let other = ["1.0.0-dev.1", "1.0.0-alpha.1"].map(String::from);
    assert!(first_difference(readable(other.to_vec()), semver).is_some());
}

#[test]
fn accepts_for_writing_what_is_neither_development_nor_beyond_semver() {
    for (text, python) in readable(texts()) {
        let expected = match (python.development, python.beyond_semver) {
            (true, _) => Err(VersionError::Development(text.clone())),
            (false, true) => Err(VersionError::Unwritable(text.clone())),
            (false, false) => Ok(version(&text)),
        };
        assert_eq!(Version::parse_code(&text), expected);
    }
}

#[test]
fn writes_what_packaging_and_semver_read_as_the_same_version() {
    let mut texts = texts();
    texts.retain(|text| Version::parse(text).is_ok());
    let written: Vec<_> = texts.iter().map(|text| version(text).to_string()).collect();
    let answers = ask_packaging([texts, written].concat());
    let (given, written) = answers.split_at(answers.len() / 2);
    for ((text, given), (written, reread)) in given.iter().zip(written) {
        let rank = |python: &Option<Python>| python.as_ref().map(|python| python.rank);
        assert_eq!(rank(given), rank(reread), "{text:?} is written {written:?}");
        if Version::parse_code(text).is_ok() {
            assert!(semver::Version::parse(written).is_ok(), "{written:?} is not semver");
        }
    }
}

fn version(text: &str) -> Version {
    Version::parse(text).unwrap()
}

/// The first neighbours in `packaging`'s order that `order` orders otherwise.
fn first_difference(
    mut versions: Vec<(String, Python)>,
    order: impl Fn(&str, &str) -> Ordering,
) -> Option<(String, String)> {
    versions.sort_by_key(|(_, python)| python.rank);
    versions
        .array_windows()
        .find(|[(a, left), (b, right)]| order(a, b) != left.rank.cmp(&right.rank))
        .map(|[(a, _), (b, _)]| (a.clone(), b.clone()))
}

/// Those of `texts` that both sides read, with what Python makes of them.
fn readable(texts: Vec<String>) -> Vec<(String, Python)> {
    ask_packaging(texts)
        .into_iter()
        .filter_map(|(text, python)| Some((text, python?)))
        .filter(|(_, python)| !python.bare_number)
        .collect()
}

fn texts() -> Vec<String> {
    [combinations(), spellings(), short_sequences()].concat()
}

fn combinations() -> Vec<String> {
    product(&[
        &["", "1!"],
        &["0", "0.8", "0.8.0", "0.8.0.1", "0.10.0", "1.0.0.0"],
        &["", "a1", "-alpha.3", "b2", "-rc.1", "rc10"],
        &["", ".post1", "-r2", "-3"],
        &["", ".dev0", ".dev4"],
        &["", "+local.1"],
    ])
}

fn spellings() -> Vec<String> {
    let words =
        ["alpha", "a", "BETA", "b", "Preview", "pre", "c", "rc", "post", "rev", "R", "dev", "foo"];
    let separators = ["", ".", "-", "_"];
    product(&[&["1.0.0", " v1.0"], &separators, &words, &separators, &["", "1", "02", "1.2", "x"]])
}

/// Every way to go on from `1` by up to four pieces of a version, sense or not.
fn short_sequences() -> Vec<String> {
    let pieces = ["", "0", "1", ".", "-", "_", "+", "!", "v", "a", "rc", "r", "post", "dev"];
    product(&[&["1"], &pieces, &pieces, &pieces, &pieces])
}

fn product(parts: &[&[&str]]) -> Vec<String> {
    parts.iter().fold(vec![String::new()], |starts, ends| {
        starts
            .iter()
            .flat_map(|start| ends.iter().map(move |end| format!("{start}{end}")))
            .collect()
    })
}

fn ask_packaging(texts: Vec<String>) -> Vec<(String, Option<Python>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packages = root.join(".cache/python");
    if !packages.join("packaging").exists() {
        let setup = root.join("tests/tools/setup");
        let status =
            Command::new("python3").arg(&setup).status().expect("python3 must be installed");
        assert!(status.success(), "{} failed ({status}): see above", setup.display());
    }
    let mut python = Command::new("python3")
        .arg(root.join("tests/tools/ranks.py"))
        .env("PYTHONPATH", packages)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 must be installed");
    // Dropped at the end of the statement, so that Python sees the end of its input.
    python.stdin.take().unwrap().write_all(&serde_json::to_vec(&texts).unwrap()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "ranks.py failed ({}): see above", output.status);
    let answers: Vec<Option<Python>> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answers.len(), texts.len());
    texts.into_iter().zip(answers).collect()
}
