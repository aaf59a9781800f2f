//! The tests of a directory: for each a database as old code left it, and what the upgrades are to make of it.

use std::path::Path;
use std::{fs, io};

use mongodb::bson::{Bson, Document};

use crate::authoring::naming::collection_mistake;
use crate::files::directory::{UpgradeName, contents};
use crate::files::mistakes::{Mistakes, Source};
use crate::files::{values, yaml};
use crate::process::settings::slip_of;

/// The folder of the tests.
pub(crate) const TESTS: &str = "tests";
/// The folders of a test.
const PARTS: [&str; 2] = ["before", "after"];
/// How the names of files with documents end.
const ENDINGS: [&str; 4] = ["json", "jsonl", "yaml", "yml"];
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
    for name in names(&directory.join(TESTS), mistakes) {
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
        for other in names(&folder, mistakes) {
            if !PARTS.contains(&&*other) && !is_readme(&other) {
                let file = format!("{shown}/{other}");
                let expected = match slip_of(&other, PARTS) {
                    Some(part) => format!("rename it to {part}"),
                    None => "a test has the folders `before` and `after`".to_owned(),
                };
                mistakes.of_file(&file, "this is not read", &expected);
            }
        }
        let before = collections(&folder, &format!("{shown}/before"), directory, mistakes);
        let none = before.iter().all(|(_, documents)| documents.is_empty());
        if none && mistakes.errors() == known {
            let expected = format!("write them into files as {shown}/before/cards.json");
            mistakes.of_file(&shown, "the test has no documents to begin with", &expected);
        }
        let after = collections(&folder, &format!("{shown}/after"), directory, mistakes);
        if after.is_empty() && mistakes.errors() == known {
            let message = "the test says of no collection what it is to hold in the end";
            let expected = format!("write that into files as {shown}/after/cards.json");
            mistakes.warn_of_file(&shown, message, &expected);
        }
        cases.push(Case { from: version.version(), name, before, after });
    }
    if cases.is_empty() && !mistakes.are_errors() {
        let shown = directory.join(TESTS).display().to_string();
        mistakes.of_file(&shown, "there are no tests", expected);
    }
    cases
}

/// The names in a folder, in order, without hidden ones. A folder that does not exist has none.
fn names(folder: &Path, mistakes: &mut Mistakes) -> Vec<String> {
    let listed = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = match listed {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return vec![],
        Err(error) => {
            let expected = "a folder that the user who runs the tests may read is expected";
            let message = format!("the folder cannot be read: {error}");
            mistakes.of_file(&folder.display().to_string(), message, expected);
            return vec![];
        }
    };
    let names = entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

/// Whether a file is for people.
fn is_readme(name: &str) -> bool {
    name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("readme"))
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
    for file in names(&folder, mistakes) {
        let (collection, ending) = file.rsplit_once('.').unwrap_or((&file, ""));
        let shown = format!("{shown}/{file}");
        if !ENDINGS.contains(&ending) {
            if !is_readme(&file) {
                let expected = "the documents of a collection are in a file called as the collection, \
                                whose name ends in .json, .jsonl, .yaml or .yml";
                mistakes.of_file(&shown, "this is not read", expected);
            }
            continue;
        }
        if let Some(mistake) = collection_mistake(collection) {
            mistakes.of_file(&shown, mistake, "name the file as the collection is called");
            continue;
        }
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
        let mut own = Mistakes::default();
        let read = of_part(&Source { name, text: part }, &mut own);
        if let Some(read) = read.filter(|_| own.is_empty()) {
            documents.extend(read);
            continue;
        }
        // what is wrong is told at its place in the file
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let lines = "\n".repeat(before.matches('\n').count());
        let padded = format!("{lines}{}{part}", " ".repeat(before[line_start..].chars().count()));
        documents.extend(of_part(&Source { name, text: &padded }, mistakes)?);
    }
    Some(documents)
}

/// The documents of a value: it is one, or a list of them.
fn of_part(source: &Source<'_>, mistakes: &mut Mistakes) -> Option<Vec<Document>> {
    let mut documents = vec![];
    let root = yaml::parse(source, mistakes)?;
    for item in root.items() {
        match values::bson((source, mistakes), item)? {
            Bson::Document(document) if document.contains_key("_id") => documents.push(document),
            Bson::Document(_) => {
                let expected = "each needs one, so that runs can be compared";
                mistakes.at(source, &item.span, "this document has no _id", expected);
                return None;
            }
            _ => {
                let message = format!("expected a document, found {}", item.kind());
                mistakes.at(source, &item.span, message, "{ _id: 1, title: a card }");
                return None;
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
