//! Upgrades that are wrong, each in its own way: what is said of each, with which exit code, and that
//! nothing was written. Next to some, the upgrade that is right.

mod support;

#[path = "wrong_upgrades/chains.rs"]
mod chains;
#[path = "wrong_upgrades/documents.rs"]
mod documents;
#[path = "wrong_upgrades/names.rs"]
mod names;
#[path = "wrong_upgrades/steps.rs"]
mod steps;

use std::pin::Pin;
use std::sync::Mutex;
use std::time::Duration;

use mongodb::bson::{Document, RawDocument, doc, rawdoc};
use mongodb::{Database, IndexModel};
use support::{Fresh, Server, db_hash, dump};
use upgrade_gate::{
    ActionType, Command, Condition, Edits, Found, Gate, Handle, Keys, Lookup, Report, Settings,
    Step, StepError, Transaction, Transform, Upgrade, UpgradeAction, Version,
};

/// The contents of a document, which nothing may say.
const SECRET: &str = "s3cret";

/// After this time a run counts as one that does not end.
const LONG: Duration = Duration::from_secs(60);

/// On which servers an upgrade is tried.
#[derive(Clone, Copy, Debug, PartialEq)]
enum On {
    Both,
    ReplicaSet,
    Standalone,
}
use On::{Both, ReplicaSet, Standalone};

/// A wrong upgrade, and how it ends.
struct Wrong {
    name: &'static str,
    on: On,
    upgrades: Vec<Upgrade>,
    code: u8,
    /// What the message says, together with the remedy.
    says: &'static [&'static str],
}

fn wrong(
    name: &'static str,
    on: On,
    code: u8,
    steps: impl IntoIterator<Item = Step>,
    says: &'static [&'static str],
) -> Wrong {
    let mut upgrade = Upgrade::new("0.8.0", "an upgrade");
    for step in steps {
        upgrade = upgrade.step(step);
    }
    Wrong { name, on, upgrades: vec![upgrade], code, says }
}

type Code = fn(&RawDocument, &Found, &mut Edits) -> Result<(), StepError>;

/// A transform of all things.
fn things(code: Code) -> Transform {
    Transform::new("things", code)
}

/// A transform of all things that says that it is convergent.
fn convergent(code: Code) -> Transform {
    things(code).convergent()
}

fn n_of(document: &RawDocument) -> Result<i32, StepError> {
    Ok(document.get_i32("n")?)
}

fn increment(document: &RawDocument, _: &Found, edits: &mut Edits) -> Result<(), StepError> {
    edits.set("n", n_of(document)? + 1);
    Ok(())
}

/// Looks people up by the field `field` of a thing.
fn owner(field: &'static str) -> Lookup {
    Lookup::new("owner", "people", "name", move |document, keys: &mut Keys| {
        if let Ok(Some(name)) = document.get(field) {
            keys.add(name);
        }
    })
}

/// 30 things, of which the last are odd, and three people.
async fn database(server: &Server) -> Fresh {
    let database = server.database().await;
    let thing = |n: i32| doc! { "_id": n, "n": n, "name": format!("{SECRET} {n}"), "owner": format!("person {}", n % 3) };
    let mut all: Vec<Document> = (0..28).map(thing).collect();
    let odd = doc! { "_id": 28, "n": SECRET, "odd": SECRET, "owner": "person 0" };
    all.extend([odd, doc! { "_id": 29, "odd": true, "name": SECRET, "n": 29, "owner": "nobody" }]);
    database.collection("things").insert_many(all).await.unwrap();
    let person = |n: i32| doc! { "_id": n, "name": format!("person {n}"), "age": SECRET };
    database.collection("people").insert_many((0..3).map(person)).await.unwrap();
    let entry = doc! { "version": "0.7.0", "action": "initialise", "floor": null };
    let record = doc! { "_id": "lab_schema_version", "version": "0.7.0", "history": [entry] };
    database.collection("database_metadata").insert_one(record).await.unwrap();
    database
}

/// The run of a gate on a database that last ran 0.7.0.
async fn run(database: &Fresh, upgrades: Vec<Upgrade>, mode: &str, batch: &str) -> Report {
    let gate = Gate::new("lab", "0.9.0").upgrades(upgrades);
    let vars = [
        ("GATE_MONGODB_URI", database.uri.as_str()),
        ("GATE_MODE", mode),
        ("GATE_BATCH_DOCUMENTS", batch),
    ];
    let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let code: Version = Version::parse("0.9.0").unwrap();
    gate.run(&Settings::from_vars(vars, &code).unwrap()).await
}

/// Tries each wrong upgrade, planned and run, in one transaction and in several.
async fn try_all(server: &Server, kind: On, table: Vec<Wrong>) {
    // what a panic says would fill the screen
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.to_string();
        if !text.contains("RawDocument") {
            eprintln!("{text}");
        }
    }));
    let mut missed: Vec<String> = Vec::new();
    let mut rows = String::from("| an upgrade that | exit code | is told |\n| --- | --- | --- |\n");
    for wrong in table.into_iter().filter(|wrong| wrong.on == Both || wrong.on == kind) {
        let database = database(server).await;
        let before = db_hash(&database).await;
        for (mode, batch) in [("plan", "2000"), ("upgrade", "2000"), ("upgrade", "7")] {
            let running = run(&database, wrong.upgrades.clone(), mode, batch);
            let Ok(report) = tokio::time::timeout(LONG, running).await else {
                missed.push(format!("{}, {mode} by {batch}: it does not end", wrong.name));
                break;
            };
            let told = format!("{}, {mode} by {batch}: {}", wrong.name, report.to_json());
            if report.exit_code != wrong.code {
                missed.push(told);
                continue;
            }
            let next = report.next.unwrap_or_default();
            let said = format!("{} {next}", report.message);
            if mode == "plan" && (kind == ReplicaSet || wrong.on == Standalone) {
                let name = wrong.name;
                let told = format!("{}: {next}", report.message).replace('|', "\\|");
                rows += &format!("| {name} | {} | {told} |\n", wrong.code);
            }
            for words in wrong.says {
                if !said.contains(words) {
                    missed.push(format!("{words:?} is not said: {told}"));
                }
            }
            assert!(!told.contains(SECRET), "{told}");
            if db_hash(&database).await != before {
                missed.push(format!("something was written: {told}"));
                break;
            }
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    written_down(kind, &rows.replace('\0', "\\0"));
}

/// The page that shows all of them has these rows; with UPDATE=1 they are written there.
fn written_down(kind: On, rows: &str) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/wrong-upgrades.md");
    let mut page = std::fs::read_to_string(path).unwrap();
    let name = match kind {
        Standalone => "wrong upgrades on a standalone",
        _ => "wrong upgrades",
    };
    let (begin, end) = support::guide::part(&page, name);
    if std::env::var("UPDATE").is_ok_and(|update| update == "1") {
        page.replace_range(begin..end, rows);
        return std::fs::write(path, page).unwrap();
    }
    let differs = page[begin..end].lines().zip(rows.lines()).find(|(ours, its)| ours != its);
    assert!(
        page[begin..end] == *rows,
        "{path} is not what is said; UPDATE=1 cargo test --test wrong_upgrades each_wrong writes it.\n\
         the first line that differs (page, said): {differs:#?}"
    );
}

#[tokio::test]
async fn each_wrong_upgrade_is_told_on_a_replica_set_and_nothing_is_written() {
    try_all(Server::shared().await, ReplicaSet, table()).await;
}

#[tokio::test]
async fn each_wrong_upgrade_is_told_on_a_standalone_and_nothing_is_written() {
    try_all(&Server::standalone().await, Standalone, table()).await;
}

/// All of them.
fn table() -> Vec<Wrong> {
    let mut table = promises();
    table.extend(counters());
    table.extend(errors());
    table.extend(transactions());
    table.extend(edits());
    table.extend(look_ups());
    table.extend(commands());
    table.extend(conditions());
    table.extend(tables());
    table.extend(names::collections());
    table.extend(names::fields());
    table.extend(names::contradictions());
    table.extend(names::versions());
    table.extend(steps::updates());
    table.extend(steps::update_look_ups());
    table.extend(steps::copies());
    table.extend(steps::deletions());
    table.extend(steps::programs());
    table.extend(steps::reports());
    table.extend(documents::edits());
    table.extend(documents::inserts());
    table.extend(documents::descendants());
    table.extend(chains::chains());
    table.extend(documents::seeds());
    table.extend(documents::conditions());
    table
}

/// Steps that say that they are convergent, and are not.
fn promises() -> Vec<Wrong> {
    const SAYS: &[&str] = &["upgrade 0.8.0: step \"transform things\"", "convergent", "`n`"];
    let add_audit: Code = |thing, _, edits| {
        let id = thing.get_i32("_id")?;
        edits.insert("audit", rawdoc! { "_id": id });
        Ok(())
    };
    vec![
        wrong("counts up", Both, 14, [convergent(only_numbers).into()], SAYS),
        wrong(
            "counts up what matches still",
            Both,
            14,
            [convergent(only_numbers).filter(doc! { "n": { "$type": "int" } }).into()],
            SAYS,
        ),
        wrong(
            "counts up, reading n alone",
            Both,
            14,
            [convergent(only_numbers).fields(["n"]).into()],
            SAYS,
        ),
        wrong(
            "adds the same document again",
            Both,
            14,
            [convergent(add_audit).inserts_into("audit").into()],
            &["document 0 of things", "convergent", "adds or deletes documents again"],
        ),
        wrong(
            "appends for ever",
            Both,
            14,
            [convergent(|thing, _, edits| {
                let mut text = thing.get_str("list").unwrap_or_default().to_owned();
                text.push_str("more");
                edits.set("list", text);
                Ok(())
            })
            .into()],
            &["document 0 of things", "convergent", "`list`"],
        ),
        wrong(
            "moves to and fro",
            Both,
            14,
            [convergent(|thing, _, edits| {
                let (from, to) = if thing.get("owner")?.is_some() {
                    ("owner", "keeper")
                } else {
                    ("keeper", "owner")
                };
                if let Some(value) = thing.get(from)? {
                    edits.set(to, value);
                    edits.unset(from);
                }
                Ok(())
            })
            .into()],
            &["document 0 of things", "convergent", "`keeper`", "`owner`"],
        ),
        wrong(
            "follows what a look-up of its own output finds",
            Both,
            14,
            [convergent(|thing, found, edits| {
                let Some(owner) = thing.get("owner")? else { return Ok(()) };
                if let Some(person) = found.all("owner", owner)?.next_back() {
                    // asked for again with the new owner, it finds the next one
                    let id = person.get_i32("_id")?;
                    edits.set("owner", format!("person {}", (id + 1) % 3));
                }
                Ok(())
            })
            .lookup(owner("owner"))
            .into()],
            &["document 0 of things", "convergent", "`owner`"],
        ),
    ]
}

fn only_numbers(thing: &RawDocument, found: &Found, edits: &mut Edits) -> Result<(), StepError> {
    match thing.get_i32("n") {
        Ok(_) => increment(thing, found, edits),
        Err(_) => Ok(()),
    }
}

/// Counters that were not declared.
fn counters() -> Vec<Wrong> {
    let code: Code = |_, _, edits| {
        edits.set("marked", true);
        edits.count("makred", 1);
        Ok(())
    };
    vec![
        wrong(
            "counts by a misspelt counter",
            ReplicaSet,
            14,
            [things(code).action(ActionType::Update, "marked", "Mark {n}").into()],
            &[
                "step \"transform things\"",
                "document 0 of things",
                "\"makred\"",
                "it declares marked",
            ],
        ),
        wrong(
            "counts without a counter",
            Both,
            14,
            [convergent(code).into()],
            &["document 0 of things", "\"makred\"", "it declares none"],
        ),
    ]
}

/// Code that meets what it does not expect.
fn errors() -> Vec<Wrong> {
    vec![
        wrong(
            "reads a string as a number",
            Both,
            14,
            [convergent(|thing, _, edits| {
                if thing.get("m")?.is_none() {
                    edits.set("m", thing.get_i32("n")?);
                }
                Ok(())
            })
            .into()],
            &[
                "upgrade 0.8.0: step \"transform things\": document 28 of things",
                "field `n` is a string, expected an int32",
            ],
        ),
        wrong(
            "reads a field that is missing",
            Both,
            14,
            [convergent(|thing, _, edits| {
                if thing.get("m")?.is_none() {
                    edits.set("m", thing.get_str("name")?);
                }
                Ok(())
            })
            .into()],
            &["document 28 of things", "field `name` is missing"],
        ),
        wrong(
            "reads a string of a found document as a number",
            Both,
            14,
            [convergent(|thing, found, edits| {
                if let (Some(owner), None) = (thing.get("owner")?, thing.get("m")?)
                    && let Some(person) = found.all("owner", owner)?.next_back()
                {
                    edits.set("m", person.get_i32("age")?);
                }
                Ok(())
            })
            .lookup(owner("owner"))
            .into()],
            &[
                "document 0 of things",
                "in document 0 of people, found by look-up \"owner\": field `age` is a string, expected an int32",
            ],
        ),
        wrong(
            "panics",
            Both,
            1,
            [convergent(|thing, _, _| {
                if thing.get("odd")?.is_some() {
                    panic!("it is odd: {thing:?}");
                }
                Ok(())
            })
            .named("odd")
            .into()],
            &["upgrade 0.8.0: step \"odd\": document 28 of things", "panicked"],
        ),
        wrong(
            "panics in a transaction",
            ReplicaSet,
            1,
            [Transaction::new("free", ["things"], |handle| {
                Box::pin(async move {
                    let all = handle.find("things", doc! {}).await?;
                    assert!(all.is_empty(), "{all:?}");
                    Ok(vec![])
                })
            })
            .into()],
            &["upgrade 0.8.0: step \"free\": collection things", "panicked"],
        ),
    ]
}

type Free = for<'a> fn(&'a mut Handle<'_>) -> Later<'a>;
type Later<'a> = Pin<Box<dyn Future<Output = Result<Vec<UpgradeAction>, StepError>> + Send + 'a>>;

fn free(code: Free) -> Step {
    Transaction::new("free", ["things"], code).into()
}

/// Transaction steps: what the driver refuses, and what the server does.
fn transactions() -> Vec<Wrong> {
    let case = |name, code: Free, says| wrong(name, ReplicaSet, 14, [free(code)], says);
    vec![
        case(
            "inserts nothing",
            |handle| {
                Box::pin(async move {
                    handle.insert("things", vec![]).await?;
                    Ok(vec![])
                })
            },
            &["upgrade 0.8.0: step \"free\": collection things", "correct the code of the step"],
        ),
        case(
            "updates without operators",
            |handle| {
                Box::pin(async move {
                    handle.update("things", doc! {}, doc! { "n": 1 }).await?;
                    Ok(vec![])
                })
            },
            &["upgrade 0.8.0: step \"free\": collection things", "correct the code of the step"],
        ),
        case(
            "replaces by operators",
            |handle| {
                Box::pin(async move {
                    handle
                        .replace("things", doc! { "_id": 1 }, rawdoc! { "$set": { "n": 1 } })
                        .await?;
                    Ok(vec![])
                })
            },
            &["upgrade 0.8.0: step \"free\": collection things", "correct the code of the step"],
        ),
        case(
            "asks by an unknown operator",
            |handle| {
                Box::pin(async move {
                    handle.find("things", doc! { "n": { "$nope": 1 } }).await?;
                    Ok(vec![])
                })
            },
            &["step \"free\": collection things", "unknown operator: $nope"],
        ),
        case(
            "updates by an unknown operator",
            |handle| {
                Box::pin(async move {
                    handle.update("things", doc! {}, doc! { "$nope": { "n": SECRET } }).await?;
                    Ok(vec![])
                })
            },
            &["step \"free\": collection things", "Unknown modifier: $nope"],
        ),
        case(
            "counts a string up",
            |handle| {
                Box::pin(async move {
                    handle.update("things", doc! {}, doc! { "$inc": { "n": 1 } }).await?;
                    Ok(vec![])
                })
            },
            &[
                "step \"free\": collection things",
                "Cannot apply $inc",
                "the field 'n' of non-numeric type string",
            ],
        ),
        case(
            "writes below a string",
            |handle| {
                Box::pin(async move {
                    handle.update("things", doc! {}, doc! { "$set": { "owner.name": 1 } }).await?;
                    Ok(vec![])
                })
            },
            &["step \"free\": collection things", "Cannot create field 'name'"],
        ),
        case(
            "changes the _id",
            |handle| {
                Box::pin(async move {
                    handle
                        .update("things", doc! { "_id": 1 }, doc! { "$set": { "_id": 99 } })
                        .await?;
                    Ok(vec![])
                })
            },
            &["step \"free\": collection things", "_id"],
        ),
        case(
            "inserts an _id that is there",
            |handle| {
                Box::pin(async move {
                    handle.insert("things", vec![rawdoc! { "_id": 1, "name": SECRET }]).await?;
                    Ok(vec![])
                })
            },
            &["step \"free\": collection things", "duplicate key in index _id_ of things"],
        ),
        case(
            "aggregates by an unknown stage",
            |handle| {
                Box::pin(async move {
                    handle.aggregate("things", vec![doc! { "$nope": {} }]).await?;
                    Ok(vec![])
                })
            },
            &["step \"free\": collection things", "Unrecognized pipeline stage name: '$nope'"],
        ),
        case(
            "writes the results of an aggregation elsewhere",
            |handle| {
                Box::pin(async move {
                    handle.aggregate("things", vec![doc! { "$out": "elsewhere" }]).await?;
                    Ok(vec![])
                })
            },
            &["step \"free\": collection things", "transaction"],
        ),
        case(
            "divides by zero",
            |handle| {
                Box::pin(async move {
                    handle
                        .aggregate(
                            "things",
                            vec![doc! { "$project": { "x": { "$divide": [1, 0] } } }],
                        )
                        .await?;
                    Ok(vec![])
                })
            },
            &["step \"free\": collection things", "server error"],
        ),
        case(
            "converts what is no number",
            |handle| {
                Box::pin(async move {
                    handle
                        .aggregate(
                            "things",
                            vec![doc! { "$project": { "x": { "$toInt": "$owner" } } }],
                        )
                        .await?;
                    Ok(vec![])
                })
            },
            &["step \"free\": collection things", "server error 241"],
        ),
        case(
            "touches what it does not name",
            |handle| {
                Box::pin(async move {
                    handle.count("people", doc! {}).await?;
                    Ok(vec![])
                })
            },
            &["step \"free\": collection things", "touches people, which it does not name"],
        ),
        case(
            "refuses",
            |_| Box::pin(async move { Err(StepError::refused("the stars are wrong")) }),
            &["step \"free\": collection things", "the stars are wrong"],
        ),
        case(
            "reads a string as a number in free code",
            |handle| {
                Box::pin(async move {
                    if let Some(thing) = handle.find_one("things", doc! { "_id": 28 }).await? {
                        thing.get_i32("n")?;
                    }
                    Ok(vec![])
                })
            },
            &["step \"free\": collection things", "field `n` is a string, expected an int32"],
        ),
        wrong(
            "needs transactions",
            Standalone,
            18,
            [free(|_| Box::pin(async move { Ok(vec![]) }))],
            &["upgrade 0.8.0: \"free\" needs transactions"],
        ),
        wrong(
            "is not convergent",
            Standalone,
            18,
            [things(increment).into()],
            &["upgrade 0.8.0: \"transform things\" needs transactions"],
        ),
    ]
}

/// Edits that cannot be made.
fn edits() -> Vec<Wrong> {
    const HERE: &str = "upgrade 0.8.0: step \"transform things\": document 0 of things";
    let case = |name, code: Code, says| wrong(name, Both, 14, [convergent(code).into()], says);
    vec![
        case(
            "edits the _id",
            |_, _, edits| {
                edits.set("_id", 1);
                Ok(())
            },
            &[HERE, "`_id` cannot be edited"],
        ),
        case(
            "edits a path with an empty part",
            |_, _, edits| {
                edits.set("a..b", 1);
                Ok(())
            },
            &[HERE, "a part of the path is empty"],
        ),
        case(
            "edits by an operator",
            |_, _, edits| {
                edits.set("$inc", 1);
                Ok(())
            },
            &[HERE, "begins with `$`"],
        ),
        case(
            "edits a path with a zero byte",
            |_, _, edits| {
                edits.set("a\0b", 1);
                Ok(())
            },
            &[HERE, "zero byte"],
        ),
        case(
            "edits one field twice",
            |_, _, edits| {
                edits.set("a", 1);
                edits.unset("a");
                Ok(())
            },
            &[HERE, "another edit touches the same field"],
        ),
        case(
            "edits a field and a part of it",
            |_, _, edits| {
                edits.set("a", 1);
                edits.set("a.b", 1);
                Ok(())
            },
            &[HERE, "another edit touches the same field"],
        ),
        case(
            "sets below a string",
            |_, _, edits| {
                edits.set("owner.name", 1);
                Ok(())
            },
            &[HERE, "`owner`", "neither a document nor an array"],
        ),
        case(
            "grows beyond what a document may have",
            |_, _, edits| {
                edits.set("load", "x".repeat(17 * 1024 * 1024));
                Ok(())
            },
            &[HERE, "16 MiB"],
        ),
        case(
            "inserts where it does not say",
            |_, _, edits| {
                edits.insert("audit", rawdoc! { "_id": 1 });
                Ok(())
            },
            &[HERE, "inserts into audit, which the transform does not name"],
        ),
        wrong(
            "inserts without an _id",
            Both,
            14,
            [convergent(|_, _, edits| {
                edits.insert("audit", rawdoc! { "name": 1 });
                Ok(())
            })
            .inserts_into("audit")
            .into()],
            &[HERE, "_id", "missing"],
        ),
        wrong(
            "inserts an _id that is an array",
            Both,
            14,
            [convergent(|_, _, edits| {
                edits.insert("audit", rawdoc! { "_id": [1] });
                Ok(())
            })
            .inserts_into("audit")
            .into()],
            &[HERE, "`_id` of a wrong type"],
        ),
        wrong(
            "edits what it does not read",
            Both,
            14,
            [convergent(|_, _, edits| {
                edits.set("other", 1);
                Ok(())
            })
            .fields(["n"])
            .into()],
            &[HERE, "edits other, which the transform does not name among its fields"],
        ),
        case(
            "refuses a document",
            |thing, _, _| match thing.get("odd")? {
                Some(_) => Err(StepError::refused("it is odd")),
                None => Ok(()),
            },
            &["document 28 of things", "it is odd"],
        ),
    ]
}

/// Look-ups that are asked wrongly.
fn look_ups() -> Vec<Wrong> {
    vec![
        wrong(
            "asks for a look-up that it has not",
            Both,
            14,
            [convergent(|thing, found, _| {
                if let Some(owner) = thing.get("owner")? {
                    found.all("owners", owner)?.count();
                }
                Ok(())
            })
            .lookup(owner("owner"))
            .into()],
            &["document 0 of things", "no look-up has the name `owners`"],
        ),
        wrong(
            "asks for a value that it did not want",
            Both,
            14,
            [convergent(|thing, found, _| {
                if let Some(name) = thing.get("name")? {
                    found.all("owner", name)?.count();
                }
                Ok(())
            })
            .lookup(owner("owner"))
            .into()],
            &["document 0 of things", "look-up `owner` was not asked for this value"],
        ),
        wrong(
            "looks up what it changes",
            Both,
            1,
            [convergent(|_, _, _| Ok(()))
                .lookup(Lookup::new("thing", "things", "name", |_, _| {}))
                .into()],
            &["its lookup \"thing\" reads what the transform may change itself"],
        ),
        wrong(
            "has two look-ups of one name",
            Both,
            1,
            [convergent(|_, _, _| Ok(())).lookup(owner("owner")).lookup(owner("name")).into()],
            &["two of its lookups are named \"owner\""],
        ),
        wrong(
            "panics over a found document",
            Both,
            1,
            [convergent(|thing, found, _| {
                if let Some(owner) = thing.get("owner")? {
                    let people: Vec<_> = found.all("owner", owner)?.collect();
                    assert!(people.is_empty(), "{people:?}");
                }
                Ok(())
            })
            .lookup(owner("owner"))
            .into()],
            &["document 0 of things", "panicked"],
        ),
    ]
}

/// Commands in conflict, of the kinds that `an_index_may_be_made_anew_…` does not try.
fn commands() -> Vec<Wrong> {
    vec![
        wrong(
            "creates an index without a name",
            Both,
            1,
            [Command::create_index_model(
                "things",
                IndexModel::builder().keys(doc! { "n": 1 }).build(),
            )
            .into()],
            &["needs a name in its options"],
        ),
        wrong(
            "renames onto a collection that is there",
            Both,
            14,
            [Command::rename("things", "people").into()],
            &[
                "upgrade 0.8.0: step \"Rename things to people\"",
                "things and people are both there",
            ],
        ),
        wrong(
            "creates one index in two ways",
            Both,
            14,
            [by_n(doc! { "n": 1 }).into(), by_n(doc! { "n": -1 }).into()],
            &[
                "step \"Create index by n on things\"",
                "an earlier step creates an index of that name",
            ],
        ),
        wrong(
            "drops the gate's collection",
            Both,
            1,
            [Command::drop_collection("database_metadata").into()],
            &["changes database_metadata, which is the gate's"],
        ),
    ]
}

/// Conditions that do not hold, and one that cannot be asked.
fn conditions() -> Vec<Wrong> {
    let of = |name, filter, code, says| {
        let condition = Condition::no_document("things", filter, "no thing is odd");
        let step = convergent(|_, _, _| Ok(()));
        let upgrade = Upgrade::new("0.8.0", "an upgrade").condition(condition).step(step);
        Wrong { name, on: Both, upgrades: vec![upgrade], code, says }
    };
    vec![
        of(
            "a condition that does not hold",
            doc! { "odd": { "$exists": true } },
            13,
            &["condition \"no thing is odd\" of 0.8.0 does not hold", "2 documents in things"],
        ),
        of(
            "a condition with an unknown operator",
            doc! { "odd": { "$nope": 1 } },
            18,
            &["condition \"no thing is odd\" of 0.8.0", "unknown operator: $nope"],
        ),
    ]
}

/// Tables that are wrong in themselves.
fn tables() -> Vec<Wrong> {
    let plain = |version: &str, description: &'static str| {
        Upgrade::new(version, description).step(convergent(|_, _, _| Ok(())))
    };
    let of = |name, upgrades, says| Wrong { name, on: Both, upgrades, code: 1, says };
    vec![
        of(
            "is registered twice",
            vec![plain("0.8.0", "a"), plain("0.8.0", "a")],
            &["0.8.0", "twice"],
        ),
        of(
            "is out of order",
            vec![plain("0.9.0", "a"), plain("0.8.0", "b")],
            &["order the table by version"],
        ),
        of("is newer than the code", vec![plain("1.0.0", "a")], &["above the code version 0.9.0"]),
        of("has no version", vec![plain("next", "a")], &["next"]),
        of("has a development version", vec![plain("0.8.0.dev1", "a")], &["0.8.0.dev1"]),
        of(
            "has two steps of one name",
            vec![plain("0.8.0", "a"), plain("0.8.0", "b")],
            &["name them apart"],
        ),
        of(
            "changes the gate's collection",
            vec![version("0.8.0", Transform::new("database_metadata", |_, _, _| Ok(())))],
            &["which is the gate's"],
        ),
        of(
            "adds to the gate's collection",
            vec![version("0.8.0", convergent(|_, _, _| Ok(())).inserts_into("database_metadata"))],
            &["which is the gate's"],
        ),
    ]
}

#[test]
fn names_that_look_odd_and_what_is_brought_back_are_no_mistakes() {
    for steps in names::right().into_iter().chain(steps::right()) {
        let upgrade = steps.into_iter().fold(Upgrade::new("0.8.0", "an upgrade"), Upgrade::step);
        Gate::new("lab", "0.9.0").upgrades([upgrade]).check().unwrap();
    }
}

#[tokio::test]
async fn a_code_version_that_cannot_be_recorded_names_what_its_author_can_change() {
    for (gate, says) in [
        (Gate::new("x", "2.0.0-dev"), "give Gate::new a released version"),
        (Gate::new("x", "2.0.0.dev1").version_from("LAB_VERSION"), "build it with LAB_VERSION set"),
    ] {
        let failure = gate.check().unwrap_err();
        assert_eq!(failure.outcome.code(), 16, "{failure}");
        assert!(failure.next.contains(says), "{failure}");
        assert!(!failure.next.contains("X_VERSION"), "{failure}");
    }
    Gate::new("x", "2.0.0-rc.1").check().unwrap();
}

// ---- the right ones next to them ----

/// What the report says of each action: its description and its details.
fn actions(report: &Report) -> Vec<(String, String)> {
    let actions = report.upgrades.iter().flat_map(|upgrade| &upgrade.actions);
    actions.map(|action| (action.description.clone(), action.details.to_string())).collect()
}

#[tokio::test]
async fn steps_that_leave_their_output_alone_are_applied_as_planned_and_reported() {
    let standalone = Server::standalone().await;
    for server in [Server::shared().await, &standalone] {
        let right: Vec<(Transform, &[(&str, &str)])> = vec![
            // the same value again is no edit
            (
                convergent(|_, _, edits| {
                    edits.set("marked", true);
                    Ok(())
                }),
                &[("Change 30 document(s)", r#"{ "documents": 30 }"#)],
            ),
            // what the filter keeps from it is not called an edit where the code refuses it
            (
                convergent(|thing, _, edits| {
                    edits.set("owner", rawdoc! { "name": thing.get_str("owner")? });
                    Ok(())
                })
                .filter(doc! { "owner": { "$type": "string" } })
                .action(ActionType::Update, "owners", "Change {n} owner(s)"),
                &[
                    ("Change 0 owner(s)", r#"{ "owners": 0 }"#),
                    ("Change 30 further document(s)", r#"{ "documents": 30 }"#),
                ],
            ),
            // some are counted, some are not, and others only add
            (
                convergent(|thing, _, edits| {
                    let (Ok(n), None) = (thing.get_i32("n"), thing.get("seen")?) else {
                        return Ok(());
                    };
                    edits.set("seen", true);
                    edits.insert("audit", rawdoc! { "_id": n });
                    edits.count("counted", u64::from(n < 5));
                    Ok(())
                })
                .inserts_into("audit")
                .action(ActionType::Update, "counted", "Count {n} thing(s)")
                .action(ActionType::Update, "never", "Never count {n}"),
                &[
                    ("Count 5 thing(s)", r#"{ "counted": 5 }"#),
                    ("Never count 0", r#"{ "never": 0 }"#),
                    ("Change 24 further document(s)", r#"{ "documents": 24 }"#),
                    ("Add 24 further document(s)", r#"{ "documents": 24 }"#),
                ],
            ),
            // its own output asks for another owner, and the code is content with that one
            (
                convergent(|thing, found, edits| {
                    if let Some(owner) = thing.get("owner")?
                        && found.all("owner", owner)?.next_back().is_none()
                    {
                        edits.set("owner", "person 2");
                    }
                    Ok(())
                })
                .lookup(owner("owner")),
                &[("Change 1 document(s)", r#"{ "documents": 1 }"#)],
            ),
        ];
        for (step, expected) in right {
            let mut told = Vec::new();
            for batch in ["2000", "7"] {
                let database = database(server).await;
                let upgrade = || vec![Upgrade::new("0.8.0", "an upgrade").step(step.clone())];
                let plan = run(&database, upgrade(), "plan", batch).await;
                assert_eq!(plan.exit_code, 10, "{}", plan.to_json());
                let report = run(&database, upgrade(), "upgrade", batch).await;
                assert_eq!(report.exit_code, 0, "{}", report.to_json());
                assert_eq!(report.upgrades[0].late, Some(0), "{}", report.to_json());
                told.extend([actions(&plan), actions(&report)]);
            }
            for told in told {
                let told: Vec<(&str, &str)> =
                    told.iter().map(|(text, details)| (text.as_str(), details.as_str())).collect();
                assert_eq!(told, expected);
            }
        }
    }
}

// ---- chains ----

/// Moves the owner of each thing to `keeper`, as a document.
fn keepers() -> Transform {
    convergent(|thing, _, edits| {
        if let Some(owner) = thing.get("owner")? {
            edits.set("keeper", rawdoc! { "name": owner });
            edits.unset("owner");
        }
        Ok(())
    })
    .filter(doc! { "owner": { "$exists": true } })
}

/// Refuses what `keepers` makes of one thing.
fn inspected() -> Transform {
    convergent(|thing, _, edits| {
        let keeper = thing.get_document("keeper")?;
        if keeper.get_str("name")? == "nobody" {
            return Err(StepError::refused("nobody keeps it"));
        }
        edits.set("inspected", true);
        Ok(())
    })
    .filter(doc! { "keeper": { "$exists": true }, "inspected": { "$exists": false } })
}

/// Marks all people.
fn people() -> Transform {
    let mark = |_: &RawDocument, _: &Found, edits: &mut Edits| {
        edits.set("good", true);
        Ok(())
    };
    Transform::new("people", mark).convergent()
}

fn version(version: &str, step: impl Into<Step>) -> Upgrade {
    Upgrade::new(version, "an upgrade").step(step)
}

async fn record(database: &Database) -> Document {
    let records = database.collection::<Document>("database_metadata");
    records.find_one(doc! { "_id": "lab_schema_version" }).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_version_that_depends_on_an_earlier_one_is_looked_at_before_its_own_first_write() {
    let standalone = Server::standalone().await;
    for server in [Server::shared().await, &standalone] {
        let database = database(server).await;
        // what a look-up finds is not known before the version that changes it
        let inspected = || inspected().lookup(owner("owner"));
        let upgrades =
            || vec![version("0.8.0", keepers()).step(people()), version("0.9.0", inspected())];
        // more documents than a rehearsal takes
        let before = db_hash(&database).await;
        let plan = run(&database, upgrades(), "plan", "2").await;
        assert_eq!(plan.exit_code, 10, "{}", plan.to_json());
        assert_eq!(plan.upgrades[0].preflight_after, None, "{}", plan.to_json());
        assert_eq!(plan.upgrades[1].preflight_after.as_deref(), Some("0.8.0"));
        let said = "0.9.0 has its preflight after 0.8.0";
        assert!(plan.warnings.iter().any(|warning| warning.contains(said)), "{}", plan.to_json());
        assert_eq!(db_hash(&database).await, before);

        let report = run(&database, upgrades(), "upgrade", "2").await;
        assert_eq!(report.exit_code, 14, "{}", report.to_json());
        let said =
            "upgrade 0.9.0: step \"transform things\": document 29 of things: nobody keeps it";
        assert!(report.message.contains(said), "{}", report.to_json());
        assert!(report.message.contains("; applied: 0.8.0"), "{}", report.to_json());
        assert_eq!(record(&database).await.get("journal"), None, "{}", report.to_json());
        let things = database.collection::<Document>("things");
        let changed = doc! { "inspected": { "$exists": true } };
        assert_eq!(things.count_documents(changed.clone()).await.unwrap(), 0);

        let keeper = doc! { "$set": { "keeper.name": "somebody" } };
        things.update_one(doc! { "_id": 29 }, keeper).await.unwrap();
        let report = run(&database, upgrades(), "upgrade", "2").await;
        assert_eq!(report.exit_code, 0, "{}", report.to_json());
        assert_eq!(things.count_documents(changed).await.unwrap(), 30);
    }
}

/// More documents than a rehearsal takes, and only the last one shows that the promise is false.
#[tokio::test]
async fn a_step_that_depends_on_an_earlier_one_is_verified_before_its_own_first_write() {
    let standalone = Server::standalone().await;
    for server in [Server::shared().await, &standalone] {
        let database = database(server).await;
        let counts = convergent(|thing, _, edits| {
            let last = thing.get_i32("_id")? == 29;
            let seen = thing.get_i32("seen").unwrap_or_default();
            if seen == 0 || last {
                edits.set("seen", seen + 1);
            }
            Ok(())
        });
        let counts = counts.named("count").filter(doc! { "keeper": { "$exists": true } });
        // what a look-up finds is not known before the step that changes it
        let counts = counts.lookup(owner("owner"));
        let upgrades = || vec![version("0.8.0", keepers()).step(people()).step(counts.clone())];
        let plan = run(&database, upgrades(), "plan", "2").await;
        assert_eq!(plan.exit_code, 10, "{}", plan.to_json());
        assert_eq!(plan.upgrades[0].preflight_later, ["count"], "{}", plan.to_json());
        let said = "0.8.0: step \"count\" has its preflight after step \
                    \"transform people\"";
        assert!(plan.warnings.iter().any(|warning| warning.contains(said)), "{}", plan.to_json());
        let report = run(&database, upgrades(), "upgrade", "2").await;
        assert_eq!(report.exit_code, 14, "{}", report.to_json());
        let said = "upgrade 0.8.0: step \"count\": document 29 of things: the step is declared \
                    convergent";
        assert!(report.message.contains(said), "{}", report.to_json());
        let things = database.collection::<Document>("things");
        let of = async |field: &str| {
            things.count_documents(doc! { field: { "$exists": true } }).await.unwrap()
        };
        assert_eq!((of("keeper").await, of("seen").await), (30, 0), "{}", report.to_json());
    }
}

#[tokio::test]
async fn a_condition_that_an_earlier_version_may_fulfil_is_asked_just_before_its_own() {
    let standalone = Server::standalone().await;
    for server in [Server::shared().await, &standalone] {
        let owned = doc! { "owner": { "$exists": true } };
        let mark = |version| {
            let condition = Condition::no_document("things", owned.clone(), "nothing has an owner");
            let step = convergent(|_, _, edits| {
                edits.set("marked", true);
                Ok(())
            });
            Upgrade::new(version, "mark what has no owner").condition(condition).step(step)
        };
        let people = Transform::new("people", |_, _, edits| {
            edits.set("marked", true);
            Ok(())
        });
        for batch in ["2000", "2"] {
            let database = database(server).await;
            let before = db_hash(&database).await;
            // nothing before it changes things
            for upgrades in [
                vec![mark("0.9.0")],
                vec![version("0.8.0", people.clone().convergent()), mark("0.9.0")],
            ] {
                for mode in ["plan", "upgrade"] {
                    let report = run(&database, upgrades.clone(), mode, batch).await;
                    assert_eq!(report.exit_code, 13, "{}", report.to_json());
                    assert_eq!(db_hash(&database).await, before, "{}", report.to_json());
                }
            }
            let upgrades = || vec![version("0.8.0", keepers()), mark("0.9.0")];
            let plan = run(&database, upgrades(), "plan", batch).await;
            assert_eq!(plan.exit_code, 10, "{}", plan.to_json());
            let report = run(&database, upgrades(), "upgrade", batch).await;
            assert_eq!(report.exit_code, 0, "{}", report.to_json());

            // an earlier version that changes them, and does not fulfil it
            let database = self::database(server).await;
            let other = convergent(|_, _, edits| {
                edits.set("other", true);
                Ok(())
            });
            let upgrades = || vec![version("0.8.0", other.clone()), mark("0.9.0")];
            assert_eq!(run(&database, upgrades(), "plan", batch).await.exit_code, 10);
            let report = run(&database, upgrades(), "upgrade", batch).await;
            assert_eq!(report.exit_code, 13, "{}", report.to_json());
            assert!(report.message.contains("; applied: 0.8.0"), "{}", report.to_json());
            assert_eq!(record(&database).await.get("journal"), None);
        }
    }
}

#[tokio::test]
async fn a_resumed_run_does_not_look_again_at_what_was_looked_at() {
    let standalone = Server::standalone().await;
    for server in [Server::shared().await, &standalone] {
        let database = database(server).await;
        let unique = doc! { "createIndexes": "things", "indexes": [
            { "key": { "key": 1 }, "name": "key", "unique": true, "sparse": true },
        ] };
        database.run_command(unique).await.unwrap();
        let keys = convergent(|thing, _, edits| {
            let id = thing.get_i32("_id")?;
            edits.set("key", if thing.get("clash")?.is_some() { 0 } else { id });
            Ok(())
        })
        .filter(doc! { "key": { "$exists": false } });
        let people = Transform::new("people", |person, _, edits| {
            if person.get("bad")?.is_some() {
                return Err(StepError::refused("it is bad"));
            }
            edits.set("good", true);
            Ok(())
        })
        .convergent();
        let upgrades = || vec![version("0.8.0", keys.clone()), version("0.9.0", people.clone())];
        let things = database.collection::<Document>("things");
        let clash = |clash: bool| match clash {
            true => doc! { "$set": { "clash": true } },
            false => doc! { "$unset": { "clash": true } },
        };
        things.update_one(doc! { "_id": 15 }, clash(true)).await.unwrap();
        let report = run(&database, upgrades(), "upgrade", "4").await;
        assert_eq!(report.exit_code, 14, "{}", report.to_json());
        assert!(report.message.contains("duplicate key in index key"), "{}", report.to_json());
        assert!(record(&database).await.contains_key("journal"));

        things.update_one(doc! { "_id": 15 }, clash(false)).await.unwrap();
        let bad = doc! { "_id": "bad", "bad": true };
        database.collection("people").insert_one(bad).await.unwrap();
        let report = run(&database, upgrades(), "upgrade", "4").await;
        assert_eq!(report.exit_code, 14, "{}", report.to_json());
        assert!(
            report.message.contains("document \"bad\" of people: it is bad"),
            "{}",
            report.to_json()
        );
        assert!(report.message.contains("; applied: 0.8.0"), "{}", report.to_json());
        assert_eq!(things.count_documents(doc! { "key": { "$exists": true } }).await.unwrap(), 30);
    }
}

// ---- indexes under one name ----

fn by_n(keys: Document) -> Command {
    Command::create_index("things", "by n", keys).into()
}

fn drop_by_n() -> Command {
    Command::drop_index("things", "by n")
}

async fn indexes(database: &Database) -> Vec<String> {
    let list = doc! { "listIndexes": "things" };
    let mut cursor = database.run_cursor_command(list).await.unwrap();
    let mut indexes = Vec::new();
    while cursor.advance().await.unwrap() {
        let index = Document::try_from(cursor.current()).unwrap();
        let (name, keys) = (index.get_str("name").unwrap(), index.get_document("key").unwrap());
        indexes.push(format!("{name} {keys}"));
    }
    indexes.sort();
    indexes
}

#[tokio::test]
async fn an_index_may_be_made_anew_under_its_name_in_one_version_or_in_several() {
    let standalone = Server::standalone().await;
    for server in [Server::shared().await, &standalone] {
        let (a, b) = (doc! { "n": 1 }, doc! { "n": -1, "owner": 1 });
        let chains: [(bool, Vec<Upgrade>); 4] = [
            (true, vec![version("0.8.0", drop_by_n()).step(by_n(b.clone()))]),
            (true, vec![version("0.8.0", drop_by_n()), version("0.9.0", by_n(b.clone()))]),
            (
                false,
                vec![
                    version("0.8.0", by_n(a.clone())),
                    version("0.9.0", drop_by_n()).step(by_n(b.clone())),
                ],
            ),
            (
                false,
                vec![version("0.8.0", by_n(a.clone())).step(drop_by_n()).step(by_n(b.clone()))],
            ),
        ];
        for (there, upgrades) in chains {
            let database = database(server).await;
            if there {
                let index = doc! { "key": a.clone(), "name": "by n" };
                let create = doc! { "createIndexes": "things", "indexes": [index] };
                database.run_command(create).await.unwrap();
            }
            let before = dump(&database).await;
            let plan = run(&database, upgrades.clone(), "plan", "2000").await;
            assert_eq!(plan.exit_code, 10, "{}", plan.to_json());
            assert!(plan.upgrades.iter().all(|upgrade| upgrade.exact == Some(true)));
            assert_eq!(dump(&database).await, before);
            let report = run(&database, upgrades.clone(), "upgrade", "2000").await;
            assert_eq!(report.exit_code, 0, "{}", report.to_json());
            assert_eq!(actions(&report), actions(&plan));
            assert_eq!(
                indexes(&database).await,
                [format!("_id_ {}", doc! { "_id": 1 }), format!("by n {b}"),]
            );
        }
        // twins: nothing drops it
        for (there, upgrades, says) in [
            (
                true,
                vec![version("0.8.0", by_n(b.clone()))],
                "an index of that name with other keys",
            ),
            (
                false,
                vec![version("0.8.0", by_n(a.clone())), version("0.9.0", by_n(b.clone()))],
                "an earlier step creates an index of that name",
            ),
            (
                true,
                vec![version("0.8.0", Command::create_index("things", "other", a.clone()))],
                "the same index is there under the name by n",
            ),
        ] {
            let database = database(server).await;
            if there {
                let index = doc! { "key": a.clone(), "name": "by n" };
                let create = doc! { "createIndexes": "things", "indexes": [index] };
                database.run_command(create).await.unwrap();
            }
            let before = db_hash(&database).await;
            for mode in ["plan", "upgrade"] {
                let report = run(&database, upgrades.clone(), mode, "2000").await;
                assert_eq!(report.exit_code, 14, "{}", report.to_json());
                assert!(report.message.contains(says), "{}", report.to_json());
                assert_eq!(db_hash(&database).await, before);
            }
        }
    }
}
