//! The tests of a directory: for each a database as old code left it, and what the upgrades are to make of it.

use std::fs;
use std::path::Path;

use mongodb::bson::{Bson, Document};

use crate::files::directory::{UpgradeName, contents};
use crate::files::mistakes::{Mistakes, Source};
use crate::files::{values, yaml};

/// The folder of the tests.
pub(crate) const TESTS: &str = "tests";
/// More bytes than that in the files of one folder are too much for a test.
const MOST: u64 = 16 * 1024 * 1024;

/// Documents by the collection they are in.
pub(crate) type Collections = Vec<(String, Vec<Document>)>;

/// One test.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// The version that the database last ran.
    pub(crate) from: String,
    pub(crate) before: Collections,
    /// What the collections named here are to hold afterwards.
    pub(crate) after: Collections,
}

/// Reads the tests of a directory, by their names.
pub(crate) fn cases(directory: &Path, mistakes: &mut Mistakes) -> Vec<Case> {
    let expected = "a test is a folder whose name begins with the version that its database last ran: \
                    tests/1.0.0-small/before/cards.json";
    let mut cases = vec![];
    for name in names(&directory.join(TESTS)) {
        let shown = format!("{TESTS}/{name}");
        let folder = directory.join(&shown);
        if !folder.is_dir() {
            continue;
        }
        // the name may be the version alone
        let version = UpgradeName::parse(&name, &name)
            .or_else(|| UpgradeName::parse(&name, &format!("{name}-test")));
        let Some(version) = version else {
            mistakes.of_file(&shown, "no version begins the name of this test", expected);
            continue;
        };
        let known = mistakes.errors();
        let before = collections(&folder, &format!("{shown}/before"), directory, mistakes);
        let none = before.iter().all(|(_, documents)| documents.is_empty());
        if none && mistakes.errors() == known {
            let expected = format!("write them into files as {shown}/before/cards.json");
            mistakes.of_file(&shown, "the test has no documents to begin with", &expected);
        }
        let after = collections(&folder, &format!("{shown}/after"), directory, mistakes);
        cases.push(Case { from: version.version(), name, before, after });
    }
    if cases.is_empty() && !mistakes.are_errors() {
        let shown = directory.join(TESTS).display().to_string();
        mistakes.of_file(&shown, "there are no tests", expected);
    }
    cases
}

/// The names in a folder, in order, without hidden ones.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

fn collections(
    folder: &Path,
    shown: &str,
    directory: &Path,
    mistakes: &mut Mistakes,
) -> Collections {
    let mut collections: Collections = vec![];
    let mut left = MOST;
    let folder = folder.join(shown.rsplit('/').next().unwrap_or_default());
    for file in names(&folder) {
        let Some((collection, ending)) = file.rsplit_once('.') else { continue };
        if !["json", "jsonl", "yaml", "yml"].contains(&ending) {
            continue;
        }
        let shown = format!("{shown}/{file}");
        let Some(text) = contents(&directory.join(&shown), &shown, &mut left, mistakes) else {
            continue;
        };
        if collections.iter().any(|(known, _)| known == collection) {
            mistakes.of_file(&shown, "another file is of this collection", "put both into one");
            continue;
        }
        if let Some(documents) = documents(&shown, &text, mistakes) {
            collections.push((collection.to_owned(), documents));
        }
    }
    collections
}

/// The documents of a file: a list of them, or one after the other as `mongoexport` writes them.
fn documents(name: &str, text: &str, mistakes: &mut Mistakes) -> Option<Vec<Document>> {
    let mut documents = vec![];
    for (start, part) in parts(name, text) {
        // a part is read at its own place
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let lines = "\n".repeat(before.matches('\n').count());
        let padded = format!("{lines}{}{part}", " ".repeat(before[line_start..].chars().count()));
        let source = Source { name, text: &padded };
        let root = yaml::parse(&source, mistakes)?;
        for item in root.items() {
            match values::bson((&source, mistakes), item)? {
                Bson::Document(document) if document.contains_key("_id") => {
                    documents.push(document);
                }
                Bson::Document(_) => {
                    let expected = "each needs one, so that runs can be compared";
                    mistakes.at(&source, &item.span, "this document has no _id", expected);
                    return None;
                }
                _ => {
                    let message = format!("expected a document, found {}", item.kind());
                    mistakes.at(&source, &item.span, message, "{ _id: 1, title: a card }");
                    return None;
                }
            }
        }
    }
    Some(documents)
}

/// The values that stand one after the other in a text, each with its place.
fn parts<'t>(name: &str, text: &'t str) -> Vec<(usize, &'t str)> {
    if text.trim().is_empty() {
        return vec![];
    }
    if name.ends_with(".yaml") || name.ends_with(".yml") {
        return vec![(0, text)];
    }
    let mut parts = vec![];
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
    let mut from = 0;
    while let Some(Ok(_)) = stream.next() {
        let end = stream.byte_offset();
        let start = end - text[from..end].trim_start().len();
        parts.push((start, &text[start..end]));
        from = end;
    }
    // what is not JSON is told by whoever reads it
    let rest = text[from..].trim_start();
    if !rest.is_empty() {
        parts.push((text.len() - rest.len(), rest));
    }
    parts
}
