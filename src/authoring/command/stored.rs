//! What a server has of collections and indexes, and how they are changed.

use std::collections::HashMap;

use mongodb::bson::{Bson, Document, doc};
use mongodb::error::Error;
use mongodb::{Database, IndexModel};

use crate::server::answer;
use crate::server::privileges::{Need, everywhere, on};

/// The key under which the journal holds the UUID of the collection that a command was decided on.
pub(super) const UUID: &str = "uuid";

/// The UUID that a command was decided on.
pub(super) fn uuid(identity: &Document) -> Bson {
    identity.get(UUID).cloned().unwrap_or(Bson::Null)
}

/// A command that ends when a majority has it.
pub(super) fn majority(mut command: Document) -> Document {
    command.insert("writeConcern", doc! { "w": "majority" });
    command
}

/// Changes options of a collection, or creates it with them where it does not exist.
pub(super) async fn change_or_create(
    database: &Database,
    collection: &str,
    options: Document,
) -> Result<(), Error> {
    let with = |verb: &str| {
        let mut command = doc! { verb: collection };
        command.extend(options.clone());
        majority(command)
    };
    match database.run_command(with("collMod")).await {
        Err(error) if answer::code(&error) == Some(26) => {
            database.run_command(with("create")).await.map(drop)
        }
        ended => ended.map(drop),
    }
}

/// The privileges of [`change_or_create`], and of its probe.
pub(super) fn change_privileges(collection: &str) -> Vec<Need> {
    let mut needs = on(&["collMod", "createCollection"], collection);
    needs.push(everywhere("listCollections"));
    needs
}

/// Why these options cannot be changed, where `known` can.
pub(super) fn option_mistake(options: &Document, known: &[&str]) -> Option<String> {
    if options.is_empty() {
        return Some("it changes no option".to_owned());
    }
    let unknown = options.keys().find(|name| !known.contains(&name.as_str()))?;
    Some(format!("it changes {unknown}, and can change only {}", known.join(", ")))
}

pub(super) fn option_names(options: &Document) -> String {
    options.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// What a command needs to know of a collection.
pub(super) struct Stored {
    pub(super) uuid: Bson,
    pub(super) options: Document,
}

impl Stored {
    pub(super) fn option(&self, name: &str) -> Option<&Document> {
        self.options.get_document(name).ok()
    }
}

pub(super) async fn collections(
    database: &Database,
    names: &[&str],
) -> Result<HashMap<String, Stored>, Error> {
    let list = doc! { "listCollections": 1, "filter": { "name": { "$in": names } } };
    let mut cursor = database.run_cursor_command(list).await?;
    let mut stored = HashMap::new();
    while cursor.advance().await? {
        let entry = Document::try_from(cursor.current())?;
        let uuid = entry.get_document("info").ok().and_then(|info| info.get("uuid")).cloned();
        let options = entry.get_document("options").cloned().unwrap_or_default();
        if let Ok(name) = entry.get_str("name") {
            let uuid = uuid.unwrap_or(Bson::Null);
            stored.insert(name.to_owned(), Stored { uuid, options });
        }
    }
    Ok(stored)
}

/// One collection, where it exists.
pub(super) async fn collection(database: &Database, name: &str) -> Result<Option<Stored>, Error> {
    Ok(collections(database, &[name]).await?.remove(name))
}

pub(super) async fn index(
    database: &Database,
    collection: &str,
    name: &str,
) -> Result<Option<Document>, Error> {
    let indexes = indexes(database, collection).await?;
    Ok(indexes.into_iter().find(|index| index.get_str("name").is_ok_and(|stored| stored == name)))
}

/// The indexes of a collection; empty if it does not exist.
pub(super) async fn indexes(database: &Database, collection: &str) -> Result<Vec<Document>, Error> {
    let mut cursor = match database.run_cursor_command(doc! { "listIndexes": collection }).await {
        Ok(cursor) => cursor,
        Err(error) if answer::code(&error) == Some(26) => return Ok(vec![]),
        Err(error) => return Err(error),
    };
    let mut indexes = Vec::new();
    while cursor.advance().await? {
        indexes.push(Document::try_from(cursor.current())?);
    }
    Ok(indexes)
}

/// Whether a stored index has the keys and all options that are asked for.
pub(super) fn is_same_index(
    stored: &Document,
    wanted: &IndexModel,
    inherited: Option<&Document>,
) -> bool {
    let Ok(wanted) = mongodb::bson::serialize_to_document(wanted) else { return false };
    let plain = |document: &Document, key: &str| document.get_bool(key).unwrap_or(false);
    let (keys, words) = index_keys(&wanted.get_document("key").cloned().unwrap_or_default());
    let stored_keys = stored.get_document("key").cloned().unwrap_or_default();
    let stored_words = stored.get_document("weights").cloned().unwrap_or_default();
    let mut stored_words: Vec<&String> = stored_words.keys().collect();
    stored_words.sort();
    index_keys(&stored_keys).0 == keys
        && stored_words.into_iter().eq(&words)
        && ["unique", "sparse", "hidden"]
            .iter()
            .all(|key| plain(stored, key) == plain(&wanted, key))
        && stored.get("partialFilterExpression") == wanted.get("partialFilterExpression")
        && ["expireAfterSeconds", "wildcardProjection"]
            .iter()
            .all(|key| stored.get(key).map(number) == wanted.get(key).map(number))
        && ["weights", "default_language", "language_override"]
            .iter()
            .all(|key| wanted.get(key).is_none_or(|option| holds(stored.get(key), option)))
        && match wanted.get_document("collation") {
            Ok(wanted) => {
                let mut whole =
                    doc! { "strength": 3, "numericOrdering": false, "caseLevel": false };
                whole.extend(wanted.clone());
                holds(stored.get("collation"), &whole.into())
            }
            Err(_) => stored.get_document("collation").ok() == inherited,
        }
}

/// Whether a collection or an index has all these options.
pub(super) fn has_options(stored: &Document, options: &Document) -> bool {
    options.iter().all(|(name, value)| has_option(stored, name, value))
}

/// Whether a collection or an index has an option, explicitly or by default.
fn has_option(stored: &Document, name: &str, wanted: &Bson) -> bool {
    let usual = match name {
        "validationLevel" => Bson::from("strict"),
        "validationAction" => Bson::from("error"),
        "changeStreamPreAndPostImages" => Bson::from(doc! { "enabled": false }),
        "hidden" => Bson::from(false),
        _ => Bson::from("off"),
    };
    holds(Some(stored.get(name).unwrap_or(&usual)), wanted)
}

/// Whether a stored option is what was wanted; the server adds what it takes for granted.
fn holds(stored: Option<&Bson>, wanted: &Bson) -> bool {
    match (stored, wanted) {
        (Some(Bson::Document(stored)), Bson::Document(wanted)) => {
            wanted.iter().all(|(key, value)| holds(stored.get(key), value))
        }
        (Some(stored), wanted) => number(stored) == number(wanted),
        (None, _) => false,
    }
}

/// The keys of an index as the server stores them, and the fields of its text, sorted.
pub(super) fn index_keys(keys: &Document) -> (Vec<(String, Bson)>, Vec<String>) {
    let (mut stored, mut words) = (Vec::new(), Vec::new());
    for (field, kind) in keys {
        if kind.as_str() != Some("text") || field == "_fts" {
            stored.push((field.clone(), number(kind)));
            continue;
        }
        if words.is_empty() {
            stored.push(("_fts".to_owned(), kind.clone()));
            stored.push(("_ftsx".to_owned(), Bson::Double(1.0)));
        }
        words.push(field.clone());
    }
    words.sort();
    (stored, words)
}

/// Numbers of an index by value, whatever their type; other kinds (`text`, `hashed`) as they are.
fn number(value: &Bson) -> Bson {
    match value {
        Bson::Int32(n) => Bson::Double(f64::from(*n)),
        Bson::Int64(n) => Bson::Double(*n as f64),
        other => other.clone(),
    }
}
