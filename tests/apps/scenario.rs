//! An application whose code version and upgrades a test chooses: `SCENARIO_CODE=0.8.0` and
//! `SCENARIO_UPGRADES=0.7.0=increment;0.8.0=move_field,index`. With `SCENARIO_FIXED=true` the
//! functions that fail are those of the next release, which do not. `SCENARIO_OLDEST=0.6.0` is its
//! `oldest`, and `SCENARIO_STAMP=settings/version` where it keeps its version itself.

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

use upgrade_gate::bson::{Bson, Document, RawBsonRef, RawDocument, doc, rawdoc};
use upgrade_gate::mongodb::Client;
use upgrade_gate::{
    ActionType, Command, Condition, Copy, Delete, Edits, Found, Gate, Handle, Keys, Lookup,
    Program, Seed, StepError, Transaction, Transform, Update, Upgrade, UpgradeAction,
};

fn main() -> ExitCode {
    let setting = |name: &str| std::env::var(name).unwrap_or_default();
    let upgrades: Vec<Upgrade> = setting("SCENARIO_UPGRADES")
        .split(';')
        .filter(|unit| !unit.is_empty())
        .flat_map(|unit| {
            let (version, names) = unit.split_once('=').expect("VERSION=NAME,NAME");
            names.split(',').map(move |name| upgrade(version, name)).collect::<Vec<_>>()
        })
        .collect();
    let mut gate = Gate::new("scenario", setting("SCENARIO_CODE"))
        .version_from("SCENARIO_VERSION")
        .upgrades(upgrades);
    if let Ok(oldest) = std::env::var("SCENARIO_OLDEST") {
        gate = gate.oldest(oldest);
    }
    if let Some((collection, field)) = setting("SCENARIO_STAMP").split_once('/') {
        gate = gate.stamp(collection, field);
    }
    gate.main()
}

/// The upgrades that tests can choose from.
fn upgrade(version: &str, name: &str) -> Upgrade {
    let new = |description| Upgrade::new(version, description);
    match name {
        // convergent: { a } becomes { b }
        "move_field" => new("move a to b in things").step(
            Transform::new("things", move_field)
                .filter(doc! { "a": { "$exists": true } })
                .action(ActionType::Update, "moved", "Move {n} field(s) a to b")
                .convergent(),
        ),
        // the same, by the Python program that SCENARIO_PROGRAM names
        "program" => new("move a to b in things").step(program()),
        // the same, by a program that is given the people of that name as well
        "program_found" => new("move a to b in things")
            .step(program().lookup(Lookup::by_field("people", "people", "name", "a"))),
        // the same, by a program that adds parts as well
        "program_spread" => new("move a to b in things").step(program().inserts_into("parts")),
        // the names of people by the server
        "evaluate_found" => new("write names into things").step(
            Update::new(
                "things",
                doc! { "a": { "$exists": true }, "names": { "$exists": false } },
                [doc! { "$set": { "names": "$_found.people.name" } }],
            )
            .lookup(Lookup::by_field("people", "people", "name", "a").fields(["name"])),
        ),
        "copy" => new("things are blocks as well").step(Copy::new("things", doc! {}, [doc! { "$set": { "from": "things" } }], "blocks")),
        // the same, by the server
        "evaluate" => new("move a to b in things").step(
            Update::new(
                "things",
                doc! { "a": { "$exists": true } },
                [doc! { "$set": { "b": "$a" } }, doc! { "$unset": "a" }],
            )
            .report("Move {n} field(s) a to b"),
        ),
        "move_out" => new("things become blocks").step(
            Copy::new("things", doc! {}, [doc! { "$set": { "from": "things" } }], "blocks")
                .then_delete(),
        ),
        "discard" => new("no things").step(Delete::new("things", doc! {})),
        // depends on the results of move_field
        "twice" => new("write twice b in things").step(
            Transform::new("things", twice)
                .named("twice")
                .filter(doc! { "b": { "$exists": true }, "twice": { "$exists": false } })
                .action(ActionType::Update, "doubled", "Write twice b into {n} thing(s)")
                .convergent(),
        ),
        // not convergent: shows every application
        "increment" => new("count every document of counters up").step(
            Transform::new("counters", increment).action(
                ActionType::Update,
                "counted",
                "Count {n} document(s) up",
            ),
        ),
        // the same from the new name
        "increment_new" => new("count every document of new up").step(
            Transform::new("new", increment)
                .named("new counters")
                .action(ActionType::Update, "counted", "Count {n} document(s) of new up"),
        ),
        // reads the top-level fields alone
        "increment_narrow" => new("count every document of counters up, reading n alone").step(
            Transform::new("counters", increment)
                .named("narrow")
                .fields(["n"])
                .action(ActionType::Update, "counted", "Count {n} document(s) up"),
        ),
        // somebody changes a document just after its edits were computed to be written
        "overtaken" => new("copy n to m in things").step(
            Transform::new("things", overtaken)
                .named("copy")
                .filter(doc! { "m": { "$exists": false } })
                .action(ActionType::Update, "copied", "Copy n to m in {n} thing(s)")
                .convergent(),
        ),
        // refuses documents that are marked
        "refuse" => new("mark things").step(
            Transform::new("things", |document, _, edits| {
                if get(document, "bad")?.is_some() && !is_fixed() {
                    return Err(StepError::refused("it is marked bad"));
                }
                edits.set("marked", true);
                Ok(())
            })
            .named("mark")
            .filter(doc! { "marked": { "$exists": false } })
            .convergent(),
        ),
        // panics at a document that is marked, and says what is in it
        "panic" => new("see that nothing is wrong").step(
            Transform::new("things", |document, _, _| match get(document, "bad")? {
                Some(bad) if !is_fixed() => panic!("a thing is bad: {bad:?}"),
                _ => Ok(()),
            })
            .named("panic")
            .convergent(),
        ),
        // refuses some of what move_field makes
        "refuse_moved" => new("inspect moved things").step(
            Transform::new("things", |document, _, edits| {
                if get(document, "b")? == Some(RawBsonRef::String("bad")) {
                    return Err(StepError::refused("its b is bad"));
                }
                edits.set("inspected", true);
                Ok(())
            })
            .named("inspect")
            .filter(doc! { "b": { "$exists": true }, "inspected": { "$exists": false } })
            .convergent(),
        ),
        // the server refuses the second document where unique_key is unique
        "same_key" => new("give all things one key").step(
            Transform::new("things", |_, _, edits| {
                edits.set("unique_key", 1);
                Ok(())
            })
            .named("same key")
            .filter(doc! { "unique_key": { "$exists": false } })
            .convergent(),
        ),
        // the server refuses a document that clashes, where unique_key is unique
        "clash" => new("give every thing a key").step(
            Transform::new("things", clash)
                .named("keys")
                .filter(doc! { "unique_key": { "$exists": false } })
                .action(ActionType::Update, "keyed", "Give {n} thing(s) a key")
                .convergent(),
        ),
        // makes documents as large as they say
        "grow" => new("let things grow").step(growing("grow")),
        "grow_narrow" => new("let things grow that are read in part")
            .step(growing("grow narrow").fields(["grow", "filler"])),
        // rewrites entries of arrays by a look-up, one by one
        "pin" => new("pin entries of lists").step(
            Transform::new("things", pin)
                .named("pin")
                .filter(doc! { "list": { "$elemMatch": { "name": { "$exists": true }, "ref": { "$exists": false } } } })
                .fields(["list"])
                .lookup(Lookup::new("person", "people", "name", |document, keys: &mut Keys| {
                    for (_, entry) in entries(document) {
                        if let Ok(Some(name)) = entry.get("name") {
                            keys.add(name);
                        }
                    }
                }))
                .action(ActionType::Update, "resolved", "Resolve {n} entries")
                .action(ActionType::Update, "lost", "Mark {n} entries as lost")
                .convergent(),
        ),
        // moves a part of a document into one of its own
        "extract" => new("move blocks out of things").step(
            Transform::new("things", extract)
                .named("extract")
                .filter(doc! { "block": { "$exists": true } })
                .inserts_into("blocks")
                .action(ActionType::Insert, "extracted", "Move {n} block(s) out of things")
                .convergent(),
        ),
        // adds documents to its own collection, which it is to transform in turn
        "spread" => new("let things have children").step(
            Transform::new("things", spread)
                .named("spread")
                .filter(doc! { "children": { "$gt": 0 } })
                .inserts_into("things")
                .action(ActionType::Insert, "born", "Add {n} child(ren)"),
        ),
        // takes the server longer to find than to write
        "rare" => new("move a to b in every twentieth thing").step(
            Transform::new("things", move_field)
                .named("rare")
                .filter(doc! { "$where": "sleep(50); return this.a % 20 == 0" })
                .action(ActionType::Update, "moved", "Move {n} field(s) a to b")
                .convergent(),
        ),
        // resolves owner names by a look-up
        "owners" => new("pin owners by id").step(
            Transform::new("things", pin_owner)
                .named("owners")
                .filter(doc! { "owner": { "$exists": true }, "owner_id": { "$exists": false } })
                .fields(["owner", "owner_id"])
                .lookup(Lookup::new("owner", "people", "name", |document, keys: &mut Keys| {
                    if let Ok(Some(owner)) = document.get("owner") {
                        keys.add(owner);
                    }
                }))
                .action(ActionType::Update, "pinned", "Pin {n} owner(s)")
                .convergent(),
        ),
        // renames a field of people, which owners are looked up by
        "same_people" => new("move old_name to name in people").step(
            Transform::new("people", |person, _, edits| {
                if let Some(name) = get(person, "old_name")? {
                    edits.set("name", name);
                    edits.unset("old_name");
                }
                Ok(())
            })
            .named("same people")
            .filter(doc! { "old_name": { "$exists": true } })
            .convergent(),
        ),
        // the other way round: what this leaves is the old shape to move_field
        "back" => new("move b back to a in things").step(
            Transform::new("things", |thing, _, edits| {
                if let Some(b) = get(thing, "b")? {
                    edits.set("a", b);
                    edits.unset("b");
                }
                Ok(())
            })
            .named("back")
            .filter(doc! { "b": { "$exists": true } })
            .convergent(),
        ),
        // an author's code that takes long for one document
        "ponder" => new("think about things").step(
            Transform::new("things", |_, _, edits| {
                eprintln!("pondering");
                std::thread::sleep(std::time::Duration::from_secs(600));
                edits.unset("a");
                Ok(())
            })
            .named("ponder")
            .convergent(),
        ),
        // free code that takes longer than a transaction may
        "linger" => new("count a thing up, slowly").step(Transaction::new(
            "linger",
            ["things"],
            |handle| Box::pin(linger(handle)),
        )),
        // free code whose write the server is busy with
        "scribble" => new("write to things, slowly").step(Transaction::new(
            "scribble",
            ["things"],
            |handle| Box::pin(scribble(handle)),
        )),
        "scrub" => new("delete things, slowly").step(Transaction::new(
            "scrub",
            ["things"],
            |handle| Box::pin(scrub(handle)),
        )),
        "singleton" => new("make sure of the singleton").step(Transaction::new(
            "singleton",
            ["auxiliary"],
            |handle| Box::pin(singleton(handle)),
        )),
        // free code that refuses while a document says so
        "stubborn" => {
            new("count the singleton").step(Transaction::new("stubborn", ["auxiliary"], |handle| {
                Box::pin(stubborn(handle))
            }))
        }
        "index" => new("index things").step(Command::create_index("things", "by b", doc! { "b": 1 })),
        "unique" => new("make keys unique").step(Command::create_index("things", "unique key", doc! { "unique_key": 1 }).unique()),
        "text_index" => new("search things").step(Command::create_index("things", "words", doc! { "b": 1, "title": "text", "body": "text" })),
        "unindex" => new("drop the index of things")
            .step(Command::drop_index("things", "by b")),
        "validator" => new("validate things").step(Command::set_validator("things", doc! { "b": { "$not": { "$type": "string" } } })),
        "unvalidate" => new("validate things no more")
            .step(Command::set_validator("things", doc! {})),
        "options" => new("warn of invalid things")
            .step(Command::set_options("things", doc! { "validationAction": "warn" })),
        "hide" => new("hide the index of things")
            .step(Command::modify_index("things", "by b", doc! { "hidden": true })),
        "seed" => new("add roles").step(Seed::new("roles", [doc! { "_id": "admin" }])),
        "seed_large" => new("add manuals").step(Seed::new("manuals", (0..6).map(manual))),
        "seed_computed" => new("add manuals").step(
            Seed::computed("manuals", |_| Ok((0..6).map(manual).collect())).exact(),
        ),
        "purge" => new("delete things with an a").step(
            Transform::new("things", |thing, _, edits| {
                if get(thing, "a")?.is_some() {
                    edits.delete();
                }
                Ok(())
            })
            .named("purge")
            .deletes()
            .convergent(),
        ),
        "rename_first" => new("rename first to second")
            .step(Command::rename("first", "second")),
        "rename" => new("rename old to new").step(Command::rename("old", "new")),
        "drop_blocks" => new("drop blocks").step(Command::drop_collection("blocks")),
        "drop" => new("drop old").step(Command::drop_collection("old")),
        "idle" => new("move a to b in things while no task runs")
            .condition(
                Condition::no_document("tasks", doc! { "running": true }, "no task is running")
                    .skippable(),
            )
            .step(
                Transform::new("things", move_field)
                    .named("idle")
                    .action(ActionType::Update, "moved", "Move {n} field(s) a to b")
                    .convergent(),
            ),
        // the server is busy with its condition
        "asked_slowly" => new("move nothing while no task is slow").condition(Condition::no_document(
            "tasks",
            doc! { "$expr": { "$function": {
                "body": "function() { sleep(1000); return false }", "args": [], "lang": "js",
            } } },
            "no task is slow",
        )),
        "strict" => new("move a to b in things while nothing is locked")
            .condition(Condition::no_document(
                "tasks",
                doc! { "locked": true },
                "nothing is locked",
            ))
            .step(
                Transform::new("things", move_field)
                    .named("strict")
                    .action(ActionType::Update, "moved", "Move {n} field(s) a to b")
                    .convergent(),
            ),
        // its condition holds only after move_field
        "moved" => new("mark moved things")
            .condition(
                Condition::no_document("things", doc! { "a": { "$exists": true } }, "no a is left")
                    .after_earlier_upgrades(),
            )
            .step(
                Transform::new("things", |document, _, edits| {
                    if document.get("moved").is_ok_and(|field| field.is_none()) {
                        edits.set("moved", true);
                    }
                    Ok(())
                })
                .named("moved")
                .convergent(),
            ),
        other => panic!("no upgrade is named {other}"),
    }
}

fn program() -> Program {
    let script = std::env::var("SCENARIO_PROGRAM").unwrap_or_default();
    let modules = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/.cache/python:",
        env!("CARGO_MANIFEST_DIR"),
        "/clients/python"
    );
    Program::new("things", doc! { "a": { "$exists": true } }, ["python3", "-B", &script])
        .env("PYTHONPATH", modules)
        .report("moved", "Move {n} field(s) a to b")
}

fn move_field(document: &RawDocument, _: &Found, edits: &mut Edits) -> Result<(), StepError> {
    if let Some(a) = get(document, "a")? {
        edits.set("b", a);
        edits.unset("a");
        edits.count("moved", 1);
    }
    Ok(())
}

fn is_fixed() -> bool {
    std::env::var("SCENARIO_FIXED").is_ok_and(|fixed| fixed == "true")
}

fn clash(document: &RawDocument, _: &Found, edits: &mut Edits) -> Result<(), StepError> {
    let clashes = get(document, "clash")?.is_some() && !is_fixed();
    if let (Some(n), None) = (get(document, "n")?, get(document, "unique_key")?) {
        edits.set("unique_key", if clashes { RawBsonRef::Int32(0) } else { n });
        edits.count("keyed", 1);
    }
    Ok(())
}

fn growing(name: &'static str) -> Transform {
    Transform::new("things", |document, _, edits| {
        if let (Some(RawBsonRef::Int32(size)), None) =
            (get(document, "grow")?, get(document, "filler")?)
        {
            edits.set("filler", "x".repeat(size as usize));
        }
        Ok(())
    })
    .named(name)
    .convergent()
}

async fn linger(handle: &mut Handle<'_>) -> Result<Vec<UpgradeAction>, StepError> {
    let n = handle.update("things", doc! { "_id": 0 }, doc! { "$inc": { "a": 1 } }).await?;
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    handle.update("things", doc! { "_id": 1 }, doc! { "$inc": { "a": 1 } }).await?;
    let action = UpgradeAction::new(ActionType::Update, "things", format!("Count {n} thing(s) up"));
    Ok(vec![action.detail("lingered", n as i64)])
}

/// Matches every document, after a while.
fn slowly() -> Document {
    doc! { "$where": "sleep(50); return true" }
}

async fn scribble(handle: &mut Handle<'_>) -> Result<Vec<UpgradeAction>, StepError> {
    let n = handle.update("things", slowly(), doc! { "$set": { "scribbled": true } }).await?;
    let action = UpgradeAction::new(ActionType::Update, "things", format!("Write to {n} thing(s)"));
    Ok(vec![action.detail("written", n as i64)])
}

async fn scrub(handle: &mut Handle<'_>) -> Result<Vec<UpgradeAction>, StepError> {
    let n = handle.delete("things", slowly()).await?;
    let action = UpgradeAction::new(ActionType::Delete, "things", format!("Delete {n} thing(s)"));
    Ok(vec![action.detail("deleted", n as i64)])
}

fn manual(n: i32) -> Document {
    doc! { "_id": n, "text": "m".repeat(8_000_000) }
}

/// The entries of `list` that are documents, with their positions.
fn entries(document: &RawDocument) -> Vec<(usize, &RawDocument)> {
    let Ok(list) = document.get_array("list") else { return vec![] };
    let entries = list.into_iter().enumerate();
    entries.filter_map(|(at, entry)| Some((at, entry.ok()?.as_document()?))).collect()
}

fn pin(document: &RawDocument, found: &Found, edits: &mut Edits) -> Result<(), StepError> {
    for (at, entry) in entries(document) {
        if let (Some(name), None) = (get(entry, "name")?, get(entry, "ref")?) {
            match found.all("person", name)?.next_back() {
                Some(person) => {
                    let id = get(person, "_id")?.ok_or_else(|| StepError::refused("no _id"))?;
                    edits.set(format!("list.{at}.ref"), id);
                    edits.count("resolved", 1);
                }
                None => {
                    edits.set(format!("list.{at}.ref"), "lost");
                    edits.count("lost", 1);
                }
            }
        }
    }
    Ok(())
}

fn extract(document: &RawDocument, _: &Found, edits: &mut Edits) -> Result<(), StepError> {
    if let (Some(id), Some(block)) = (get(document, "_id")?, get(document, "block")?) {
        edits.insert("blocks", rawdoc! { "_id": id, "block": block });
        edits.set("block_id", id);
        edits.unset("block");
        edits.count("extracted", 1);
    }
    Ok(())
}

fn spread(thing: &RawDocument, _: &Found, edits: &mut Edits) -> Result<(), StepError> {
    if let (Some(RawBsonRef::Int32(id)), Some(RawBsonRef::Int32(children))) =
        (get(thing, "_id")?, get(thing, "children")?)
    {
        edits.insert("things", rawdoc! { "_id": id + 100, "children": children - 1 });
        edits.unset("children");
        edits.count("born", 1);
    }
    Ok(())
}

fn overtaken(thing: &RawDocument, _: &Found, edits: &mut Edits) -> Result<(), StepError> {
    static COMPUTED: AtomicUsize = AtomicUsize::new(0);
    let (Some(n), None) = (get(thing, "n")?, get(thing, "m")?) else { return Ok(()) };
    edits.set("m", n);
    edits.count("copied", 1);
    // the first time it is only looked at
    if get(thing, "_id")? == Some(RawBsonRef::Int32(15))
        && COMPUTED.fetch_add(1, Ordering::Relaxed) == 1
    {
        std::thread::spawn(change).join().expect("the change is made");
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn change() {
    let uri = std::env::var("GATE_MONGODB_URI").expect("a connection string");
    let database = Client::with_uri_str(uri).await.expect("a client").default_database();
    let things = database.expect("a database").collection::<Document>("things");
    let change = things.update_one(doc! { "_id": 15 }, doc! { "$set": { "n": 1000 } });
    assert_eq!(change.await.expect("an answer").matched_count, 1);
}

fn twice(document: &RawDocument, _: &Found, edits: &mut Edits) -> Result<(), StepError> {
    if let (Some(RawBsonRef::Int32(b)), None) = (get(document, "b")?, get(document, "twice")?) {
        edits.set("twice", 2 * b);
        edits.count("doubled", 1);
    }
    Ok(())
}

fn increment(document: &RawDocument, _: &Found, edits: &mut Edits) -> Result<(), StepError> {
    let n = match get(document, "n")? {
        Some(RawBsonRef::Int32(n)) => n,
        _ => 0,
    };
    edits.set("n", n + 1);
    edits.count("counted", 1);
    Ok(())
}

fn pin_owner(document: &RawDocument, found: &Found, edits: &mut Edits) -> Result<(), StepError> {
    if let (Some(owner), None) = (get(document, "owner")?, get(document, "owner_id")?)
        && let Some(person) = found.all("owner", owner)?.next_back()
        && let Some(id) = get(person, "_id")?
    {
        edits.set("owner_id", id);
        edits.count("pinned", 1);
    }
    Ok(())
}

async fn singleton(handle: &mut Handle<'_>) -> Result<Vec<UpgradeAction>, StepError> {
    let there = doc! { "singleton": { "$exists": true } };
    if handle.count("auxiliary", there).await? > 0 {
        return Ok(vec![]);
    }
    let document =
        upgrade_gate::bson::rawdoc! { "_id": "one", "singleton": Bson::Null.to_string() };
    handle.insert("auxiliary", vec![document]).await?;
    Ok(vec![
        UpgradeAction::new(ActionType::Insert, "auxiliary", "Insert the singleton")
            .detail("inserted", 1),
    ])
}

async fn stubborn(handle: &mut Handle<'_>) -> Result<Vec<UpgradeAction>, StepError> {
    if handle.find_one("auxiliary", doc! { "refuse": true }).await?.is_some() {
        return Err(StepError::refused("a document says no"));
    }
    let update = doc! { "$inc": { "n": 1 } };
    let n = handle.update("auxiliary", doc! { "counts": true }, update).await?;
    Ok(vec![
        UpgradeAction::new(ActionType::Update, "auxiliary", format!("Count {n} document(s)"))
            .detail("counted", n as i64),
    ])
}

fn get<'a>(document: &'a RawDocument, field: &str) -> Result<Option<RawBsonRef<'a>>, StepError> {
    document.get(field).map_err(|_| StepError::refused("it is not valid BSON"))
}
