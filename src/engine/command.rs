//! Commands: probing whether one is done, and carrying it out so that a late duplicate does no harm.

use std::collections::HashMap;

use mongodb::bson::{Bson, Document, doc};
use mongodb::error::Error;
use mongodb::{Database, IndexModel};

use crate::authoring::command::Command;
use crate::authoring::step::Step;
use crate::authoring::table::VersionUpgrade;
use crate::engine::context::Context;
use crate::engine::failing::{at, failed};
use crate::process::checkpoint::Point;
use crate::server::compatibility::NamingByUuid;
use crate::server::stop::RunError;
use crate::server::{answer, compatibility};

/// The key under which the journal holds the UUID that a rename or a drop was decided on.
const UUID: &str = "uuid";

/// The key under which it holds the keys of the index that is dropped.
const KEYS: &str = "keys";

/// What to do about collections that are in each other's way.
const IN_THE_WAY: &str = "look at the collections, move what is in the way, then run it again";

/// The key that says that what a command is to change is not there.
const MISSING: &str = "missing";

/// What a probe found.
pub(crate) enum Probe {
    /// There is nothing left to do.
    Done,
    /// It is to be done, on what these identities name.
    Todo(Document),
}

/// Looks whether a command is done; for one that was begun, by the identities that the journal holds.
pub(crate) async fn probe(
    database: &Database,
    upgrade: &VersionUpgrade,
    command: &Command,
    begun: Option<&Document>,
) -> Result<Probe, RunError> {
    match command {
        Command::CreateIndex { collection, index } => {
            match stored_index(database, collection, command.index_name()).await? {
                None => Ok(Probe::Todo(doc! {})),
                Some(stored) => {
                    // an index without a collation of its own has its collection's
                    let there = match stored.contains_key("collation") {
                        true => collections(database, &[collection]).await?,
                        false => HashMap::new(),
                    };
                    let inherited =
                        there.get(&**collection).and_then(|there| there.option("collation"));
                    match same_index(&stored, index, inherited) {
                        true => Ok(Probe::Done),
                        false => Err(conflict(
                            upgrade,
                            command,
                            "an index of that name with other keys or options is there",
                            "drop it, by hand or with a step before, or choose another name",
                        )),
                    }
                }
            }
        }
        Command::DropIndex { collection, name } => {
            let stored = stored_indexes(database, collection).await?;
            let named =
                |index: &&Document| index.get_str("name").is_ok_and(|stored| stored == *name);
            let keys = |index: &Document| index.get_document("key").cloned().unwrap_or_default();
            let Some(keys) = stored.iter().find(named).map(keys) else { return Ok(Probe::Done) };
            // an index that came after the one to be dropped, under its name, is another
            match begun.and_then(|begun| begun.get_document(KEYS).ok()) {
                Some(begun) if *begun != keys => return Ok(Probe::Done),
                _ => {}
            }
            // by its keys, where these name it alone: under its name there may be another one later, unless it is
            // one with these keys and another name
            let plain = keys.iter().all(|(_, kind)| !matches!(kind, Bson::String(_)));
            let same = |index: &&Document| index.get_document("key").is_ok_and(|key| *key == keys);
            let alone = stored.iter().filter(same).count();
            let renamed = upgrade.indexes_from_here(collection).any(|index| {
                let other = index.options.as_ref().and_then(|options| options.name.as_deref());
                index_keys(&index.keys).0 == index_keys(&keys).0 && other != Some(name)
            });
            Ok(Probe::Todo(if plain && alone == 1 && !renamed {
                doc! { KEYS: keys }
            } else {
                doc! {}
            }))
        }
        Command::SetValidator { collection, validator } => {
            let stored = collections(database, &[collection]).await?;
            // an empty validator is stored as none at all
            let done = stored.get(&**collection).is_some_and(|stored| {
                stored.option("validator").cloned().unwrap_or_default() == *validator
            });
            Ok(if done { Probe::Done } else { Probe::Todo(doc! {}) })
        }
        Command::SetOptions { collection, options } => {
            let stored = collections(database, &[collection]).await?;
            let done = stored.get(&**collection).is_some_and(|stored| {
                options.iter().all(|(name, value)| has_option(&stored.options, name, value))
            });
            Ok(if done { Probe::Done } else { Probe::Todo(doc! {}) })
        }
        Command::ModifyIndex { collection, name, options } => {
            Ok(match stored_index(database, collection, name).await? {
                // it may come to be by an earlier step
                None => Probe::Todo(doc! { MISSING: true }),
                Some(stored) if options.iter().all(|(n, value)| has_option(&stored, n, value)) => {
                    Probe::Done
                }
                Some(_) => Probe::Todo(doc! {}),
            })
        }
        Command::Drop { collection } => {
            let stored = collections(database, &[collection]).await?;
            Ok(match (stored.get(&**collection), begun.and_then(|begun| begun.get(UUID))) {
                (None, _) => Probe::Done,
                // a collection that came after the one to be dropped is the application's
                (Some(stored), Some(uuid)) if stored.uuid != *uuid => Probe::Done,
                (Some(stored), _) => Probe::Todo(doc! { UUID: stored.uuid.clone() }),
            })
        }
        Command::Rename { from, to } => {
            let stored = collections(database, &[from, to]).await?;
            let (source, target) = (stored.get(&**from), stored.get(&**to));
            let begun = begun.and_then(|begun| begun.get(UUID));
            match (source, target, begun) {
                (_, Some(target), Some(uuid)) if target.uuid == *uuid => Ok(Probe::Done),
                (Some(source), None, Some(uuid)) if source.uuid == *uuid => {
                    Ok(Probe::Todo(doc! { UUID: source.uuid.clone() }))
                }
                (_, _, Some(_)) => Err(conflict(
                    upgrade,
                    command,
                    &format!("{from} is not the collection it was, or {to} is another"),
                    IN_THE_WAY,
                )),
                (None, _, None) => Ok(Probe::Done),
                (Some(source), None, None) => Ok(Probe::Todo(doc! { UUID: source.uuid.clone() })),
                (Some(_), Some(_), None) => Err(conflict(
                    upgrade,
                    command,
                    &format!("{from} and {to} are both there"),
                    IN_THE_WAY,
                )),
            }
        }
    }
}

/// Whether what an earlier step does may change what a command finds to do, which is nothing so far
/// where it is `done`.
pub(crate) fn bears_on(earlier: &Step, command: &Command, done: bool) -> bool {
    let moves =
        |command: &Command| matches!(command, Command::Rename { .. } | Command::Drop { .. });
    let touches =
        |names: &[&str]| command.collections().iter().any(|collection| names.contains(collection));
    match earlier {
        Step::Command(earlier) if moves(earlier) => touches(&earlier.collections()),
        // a collection may come to be that is not there yet
        _ if moves(command) => {
            let mut written = earlier.writes();
            if let Step::Command(earlier) = earlier {
                written.extend(earlier.collections());
            }
            done && touches(&written)
        }
        Step::Command(earlier) => match (earlier, command) {
            (Command::SetValidator { .. }, Command::SetValidator { .. })
            | (Command::SetOptions { .. }, Command::SetOptions { .. }) => {
                touches(&earlier.collections())
            }
            _ => {
                touches(&earlier.collections())
                    && !earlier.index_name().is_empty()
                    && earlier.index_name() == command.index_name()
            }
        },
        _ => false,
    }
}

/// Whether a command has something to do, where an earlier step decides that alone: one that creates or
/// drops an index of the same name, or sets the same collection's validator.
///
/// # Errors
///
/// An earlier step creates an index of that name with other keys or options, and none drops it.
pub(crate) fn predicted<'a>(
    earlier: impl DoubleEndedIterator<Item = &'a Step>,
    upgrade: &VersionUpgrade,
    command: &Command,
) -> Result<Option<bool>, RunError> {
    let before = earlier.rev().find_map(|step| match step {
        Step::Command(before) if decides(before, command) => Some(before),
        _ => None,
    });
    Ok(match (before, command) {
        (Some(Command::DropIndex { .. }), Command::CreateIndex { .. })
        | (Some(Command::CreateIndex { .. }), Command::DropIndex { .. }) => Some(true),
        (Some(Command::DropIndex { .. }), Command::DropIndex { .. }) => Some(false),
        (Some(Command::CreateIndex { index: before, .. }), Command::CreateIndex { index, .. }) => {
            let plain = |index| mongodb::bson::serialize_to_document(index).unwrap_or_default();
            match plain(before) == plain(index) {
                true => Some(false),
                false => {
                    return Err(conflict(
                        upgrade,
                        command,
                        "an earlier step creates an index of that name with other keys or options",
                        "drop that one with a step between them",
                    ));
                }
            }
        }
        (
            Some(Command::SetValidator { validator: before, .. }),
            Command::SetValidator { validator, .. },
        ) => Some(before != validator),
        _ => None,
    })
}

/// Whether what one command leaves is all that another one finds.
fn decides(before: &Command, command: &Command) -> bool {
    let same_collection = before.collections() == command.collections();
    match (before, command) {
        (Command::SetValidator { .. }, Command::SetValidator { .. }) => same_collection,
        (
            Command::CreateIndex { .. } | Command::DropIndex { .. },
            Command::CreateIndex { .. } | Command::DropIndex { .. },
        ) => same_collection && before.index_name() == command.index_name(),
        _ => false,
    }
}

/// Makes sure that the index to be created is not there under another name, unless an earlier step drops
/// that one: the server has one of them only.
pub(crate) async fn find_twin(
    context: &Context,
    upgrade: &VersionUpgrade,
    command: &Command,
    mut earlier: impl Iterator<Item = &Step>,
) -> Result<(), RunError> {
    let Command::CreateIndex { collection, index } = command else { return Ok(()) };
    let listing = async || stored_indexes(context.database(), collection).await;
    let stored = context.retry(async || context.stop.guard(listing()).await).await?;
    let twin = stored.iter().find(|stored| {
        !stored.contains_key("collation")
            && stored.get_str("name").is_ok_and(|name| name != command.index_name())
            && same_index(stored, index, None)
    });
    let Some(name) = twin.and_then(|twin| twin.get_str("name").ok()) else { return Ok(()) };
    let dropped = earlier.any(|step| match step {
        Step::Command(Command::DropIndex { collection: other, name: dropped }) => {
            other == collection && dropped == name
        }
        _ => false,
    });
    if dropped {
        return Ok(());
    }
    Err(conflict(
        upgrade,
        command,
        &format!("the same index is there under the name {name}"),
        "give the new one that name, or drop the other one with a step before",
    ))
}

/// Probes, again after errors that may pass.
pub(crate) async fn find_out(
    context: &Context,
    upgrade: &VersionUpgrade,
    command: &Command,
    identity: Option<&Document>,
) -> Result<Probe, RunError> {
    let probing = || context.stop.guard(probe(context.database(), upgrade, command, identity));
    context.retry(async || probing().await).await
}

/// Carries out a command that the journal names, unless it is done.
pub(crate) async fn redo(
    context: &Context,
    upgrade: &VersionUpgrade,
    command: &Command,
    identity: &Document,
) -> Result<(), RunError> {
    // an index that is being built is listed already: creating it again waits for it
    if !matches!(command, Command::CreateIndex { .. })
        && let Probe::Done = find_out(context, upgrade, command, Some(identity)).await?
    {
        return Ok(());
    }
    run(context, upgrade, command, identity).await
}

/// Carries out a command on what `identity` names, with the lease verified just before.
pub(crate) async fn run(
    context: &Context,
    upgrade: &VersionUpgrade,
    command: &Command,
    identity: &Document,
) -> Result<(), RunError> {
    let sending = async || {
        context.lock.verify(&context.stop).await?;
        context.reached(Point::BeforeCommand).await;
        context.stop.guard(send(context.database(), command, identity)).await
    };
    match context.retry(sending).await {
        Ok(()) => {}
        // the collection is not the one that was probed, or not there: the probe says what that means
        Err(RunError::Driver(error)) if matches!(answer::code(&error), Some(26 | 27 | 361)) => {}
        // it was lowered since the run began
        Err(RunError::Driver(error))
            if compatibility::is_refusal(&error) && names_by_uuid(command) =>
        {
            let what = format!("upgrade {}: {}", upgrade.version, command.describe());
            let lacking = NamingByUuid::CompatibilityTooLow.lacking(&what);
            return Err(lacking.map_or(RunError::Driver(error), RunError::Failure));
        }
        Err(error) => return Err(error),
    }
    match find_out(context, upgrade, command, Some(identity)).await? {
        Probe::Done => Ok(()),
        Probe::Todo(found) if found.contains_key(MISSING) => Err(missing(upgrade, command)),
        Probe::Todo(_) => Err(failed(
            format!("{}: it took no effect", at(upgrade, &command.describe())),
            "look at the server's log, then run it again",
        )),
    }
}

/// Whether a command names its collection by the UUID that was probed.
pub(crate) fn names_by_uuid(command: &Command) -> bool {
    matches!(command, Command::Rename { .. } | Command::Drop { .. })
}

/// The failure of a command whose probe found nothing to change.
fn missing(upgrade: &VersionUpgrade, command: &Command) -> RunError {
    failed(
        format!("{}: there is no index of that name", at(upgrade, &command.describe())),
        "create the index, or deploy code whose upgrade creates it first, then run it again",
    )
}

/// Refuses what a probe found before any write, where no earlier step may still change it.
pub(crate) fn check_found(
    upgrade: &VersionUpgrade,
    command: &Command,
    found: &Probe,
) -> Result<(), RunError> {
    match found {
        Probe::Todo(identity) if identity.contains_key(MISSING) => Err(missing(upgrade, command)),
        _ => Ok(()),
    }
}

async fn send(database: &Database, command: &Command, identity: &Document) -> Result<(), Error> {
    let concern = doc! { "w": "majority" };
    let uuid = identity.get(UUID).cloned().unwrap_or(Bson::Null);
    let name = database.name();
    match command {
        Command::CreateIndex { collection, index } => {
            database.collection::<Document>(collection).create_index(index.clone()).await?;
        }
        Command::DropIndex { collection, name } => {
            let index = match identity.get_document(KEYS) {
                Ok(keys) => Bson::from(keys.clone()),
                Err(_) => Bson::from(&**name),
            };
            let drop =
                doc! { "dropIndexes": &**collection, "index": index, "writeConcern": concern };
            database.run_command(drop).await?;
        }
        Command::SetValidator { collection, validator } => {
            let set = doc! { "collMod": &**collection, "validator": validator.clone(), "writeConcern": concern.clone() };
            match database.run_command(set).await {
                Err(error) if answer::code(&error) == Some(26) => {
                    let create = doc! { "create": &**collection, "validator": validator.clone(), "writeConcern": concern };
                    database.run_command(create).await?;
                }
                ended => {
                    ended?;
                }
            }
        }
        Command::SetOptions { collection, options } => {
            let mut set = doc! { "collMod": &**collection };
            set.extend(options.clone());
            set.insert("writeConcern", concern.clone());
            match database.run_command(set).await {
                Err(error) if answer::code(&error) == Some(26) => {
                    let mut create = doc! { "create": &**collection };
                    create.extend(options.clone());
                    create.insert("writeConcern", concern);
                    database.run_command(create).await?;
                }
                ended => {
                    ended?;
                }
            }
        }
        Command::ModifyIndex { collection, name, options } => {
            let mut index = doc! { "name": &**name };
            index.extend(options.clone());
            let set = doc! { "collMod": &**collection, "index": index, "writeConcern": concern };
            database.run_command(set).await?;
        }
        Command::Rename { from, to } => {
            let rename = doc! {
                "renameCollection": format!("{name}.{from}"),
                "to": format!("{name}.{to}"),
                "collectionUUID": uuid,
                "writeConcern": concern,
            };
            database.client().database("admin").run_command(rename).await?;
        }
        Command::Drop { collection } => {
            let drop =
                doc! { "drop": &**collection, "collectionUUID": uuid, "writeConcern": concern };
            database.run_command(drop).await?;
        }
    }
    Ok(())
}

/// What a command needs to know of a collection.
struct Stored {
    uuid: Bson,
    options: Document,
}

impl Stored {
    fn option(&self, name: &str) -> Option<&Document> {
        self.options.get_document(name).ok()
    }
}

async fn collections(
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

async fn stored_index(
    database: &Database,
    collection: &str,
    name: &str,
) -> Result<Option<Document>, Error> {
    let indexes = stored_indexes(database, collection).await?;
    Ok(indexes.into_iter().find(|index| index.get_str("name").is_ok_and(|stored| stored == name)))
}

/// The indexes of a collection; none where it does not exist.
async fn stored_indexes(database: &Database, collection: &str) -> Result<Vec<Document>, Error> {
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

/// The closed gate of a command that what is there does not allow.
fn conflict(upgrade: &VersionUpgrade, command: &Command, reason: &str, next: &str) -> RunError {
    failed(format!("{}: {reason}", at(upgrade, &command.describe())), next)
}

/// Whether a stored index has the keys and all options that are asked for.
fn same_index(stored: &Document, wanted: &IndexModel, inherited: Option<&Document>) -> bool {
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

/// Whether a collection or an index has an option, also where that goes without saying.
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
fn index_keys(keys: &Document) -> (Vec<(String, Bson)>, Vec<String>) {
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
