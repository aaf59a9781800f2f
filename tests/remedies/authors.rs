//! Mistakes of those who write upgrades, in the library itself: the author corrects the upgrade as the gate says.

use mongodb::bson::{Document, RawDocument, doc, rawdoc};
use upgrade_gate::{
    BoxFuture, Command, Condition, Edits, Found, Gate, Handle, Report, Seed, Settings, Step,
    StepError, Transaction, Transform, Upgrade, UpgradeAction, Version,
};

use super::apps::record_old;
use super::case::tells;
use super::support::{Fresh, Server};

type Code = fn(&RawDocument, &Found, &mut Edits) -> Result<(), StepError>;

/// What is done about a mistake.
enum Then {
    Upgrade(Vec<Upgrade>),
    /// A command on the database.
    Command(Document),
}

fn upgrade(steps: impl IntoIterator<Item = Step>) -> Vec<Upgrade> {
    vec![steps.into_iter().fold(Upgrade::new("0.8.0", "an upgrade"), Upgrade::step)]
}

type Free = for<'a> fn(&'a mut Handle<'_>) -> BoxFuture<'a, Result<Vec<UpgradeAction>, StepError>>;

fn free(code: Free) -> Step {
    Transaction::new("free", ["things"], code).into()
}

fn transform(code: Code) -> Transform {
    Transform::new("things", code).inserts_into("audit")
}

/// Each with its remedy, the exit code, the wrong upgrade, and what is done.
fn cases() -> Vec<(&'static str, u8, Vec<Upgrade>, Then)> {
    let same: Code = |_, _, edits| {
        edits.insert("audit", rawdoc! { "_id": "a", "n": 1 });
        Ok(())
    };
    let of_each: Code = |thing, _, edits| {
        edits.insert("audit", rawdoc! { "_id": "a", "n": thing.get_i32("n")? });
        Ok(())
    };
    let by_id: Code = |thing, _, edits| {
        edits.insert("audit", rawdoc! { "_id": thing.get_i32("_id")?, "n": thing.get_i32("n")? });
        Ok(())
    };
    let count: Code = |thing, _, edits| {
        edits.set("n", thing.get_i32("n")? + 1);
        Ok(())
    };
    let set: Code = |_, _, edits| {
        edits.set("n", 7);
        Ok(())
    };
    let copies: Code = |thing, _, edits| {
        if thing.get("made")?.is_none() {
            edits.insert("things", rawdoc! { "_id": thing.get_i32("_id")? + 100, "n": 1 });
            edits.set("made", true);
        }
        Ok(())
    };
    let marked: Code = |thing, _, edits| {
        if thing.get("made")?.is_none() {
            edits.insert(
                "things",
                rawdoc! { "_id": thing.get_i32("_id")? + 100, "n": 1, "made": true },
            );
            edits.set("made", true);
        }
        Ok(())
    };
    let copied = |code: Code| {
        let unmarked = doc! { "made": { "$exists": false } };
        let step = Transform::new("things", code).filter(unmarked).inserts_into("things");
        upgrade([step.convergent().into()])
    };
    let index = |name: &str, field: &str| {
        Step::from(Command::create_index("things", name, doc! { field: 1 }))
    };
    let with =
        |condition: Condition| vec![Upgrade::new("0.8.0", "an upgrade").condition(condition)];
    let unique = || with(Condition::unique("things", ["n"], doc! {}, "no two share"));
    let admin =
        || with(Condition::some_document("people", doc! { "role": "admin" }, "there is an admin"));
    vec![
        (
            "give documents of different contents different _ids (derived_object_id makes them from what tells them \
             apart), or count and group them in a transaction step, then run it again",
            14,
            upgrade([transform(of_each).into()]),
            Then::Upgrade(upgrade([transform(by_id).into()])),
        ),
        (
            "see which of the two is right: move the one that is there out of the way if it is not, or deploy code that \
             gives the added one another _id, then run it again",
            14,
            upgrade([
                Seed::new("audit", [doc! { "_id": "a", "n": 2 }]).into(),
                transform(same).into(),
            ]),
            Then::Upgrade(upgrade([
                Seed::new("audit", [doc! { "_id": "b", "n": 2 }]).into(),
                transform(same).into(),
            ])),
        ),
        (
            "let the step's code leave documents alone that it has changed already, or remove .convergent() from it (it \
             then needs a replica set), and run it again",
            14,
            upgrade([Transform::new("things", count).convergent().into()]),
            Then::Upgrade(upgrade([Transform::new("things", count).into()])),
        ),
        (
            "let the step's code leave documents alone that it has changed already, or remove .convergent() from it (it \
             then needs a replica set), and run it again",
            14,
            upgrade([Transform::new("things", count).convergent().into()]),
            Then::Upgrade(upgrade([Transform::new("things", set).convergent().into()])),
        ),
        (
            "give the documents that the step adds something that its filter leaves out, or let its code leave them \
             alone, then run it again",
            14,
            copied(copies),
            Then::Upgrade(copied(marked)),
        ),
        (
            "compare the two: change or remove the one that is there if it is wrong, or deploy code whose upgrade accepts \
             it, then run it again",
            14,
            upgrade([Seed::new("things", [doc! { "_id": 1, "n": 9 }]).exact().into()]),
            Then::Upgrade(upgrade([Seed::new("things", [doc! { "_id": 1, "n": 9 }]).into()])),
        ),
        (
            "compare the two: change or remove the one that is there if it is wrong, or deploy code whose upgrade accepts \
             it, then run it again",
            14,
            upgrade([Seed::new("things", [doc! { "_id": 1, "n": 9 }]).exact().into()]),
            Then::Command(
                doc! { "delete": "things", "deletes": [{ "q": { "_id": 1 }, "limit": 1 }] },
            ),
        ),
        (
            "drop that one with a step between them",
            14,
            upgrade([index("one", "n"), index("one", "m")]),
            Then::Upgrade(upgrade([
                index("one", "n"),
                Command::drop_index("things", "one").into(),
                index("one", "m"),
            ])),
        ),
        (
            "give each of them {fields} of its own, or remove one of each pair",
            13,
            unique(),
            Then::Command(
                doc! { "update": "things", "updates": [{ "q": { "_id": 2 }, "u": { "$set": { "n": 2 } } }] },
            ),
        ),
        (
            "add such a document to {name}",
            13,
            admin(),
            Then::Command(
                doc! { "insert": "people", "documents": [{ "_id": 1, "role": "admin" }] },
            ),
        ),
        (
            "correct the code of the step, deploy it, then run it again",
            14,
            upgrade([free(|handle| {
                Box::pin(async move {
                    handle.insert("things", vec![]).await?;
                    Ok(vec![])
                })
            })]),
            Then::Upgrade(upgrade([free(|_| Box::pin(async move { Ok(vec![]) }))])),
        ),
    ]
}

/// Which remedies are followed here.
pub fn followed() -> Vec<&'static str> {
    let mut followed: Vec<_> = cases().into_iter().map(|(remedy, ..)| remedy).collect();
    followed.push(RELEASED);
    followed
}

const RELEASED: &str = "give Gate::new a released version, as X.Y.Z or X.Y.Z-rc.1";

async fn run(database: &Fresh, code: &str, upgrades: Vec<Upgrade>) -> Report {
    let vars = [("GATE_MONGODB_URI".to_owned(), database.uri.clone())];
    let settings = Settings::from_vars(vars, &Version::parse("0.8.0").unwrap()).unwrap();
    Gate::new("scenario", code).upgrades(upgrades).run(&settings).await
}

#[track_caller]
fn told(report: &Report, code: u8, remedy: &str) {
    let json = report.to_json();
    assert_eq!(report.exit_code, code, "{remedy}: {json}");
    assert!(tells(report.next.as_deref().unwrap(), remedy), "{remedy}: {json}");
}

async fn database() -> Fresh {
    let database = Server::shared().await.database().await;
    record_old(&database).await;
    let things = [doc! { "_id": 1, "n": 1 }, doc! { "_id": 2, "n": 1 }, doc! { "_id": 3, "n": 3 }];
    database.collection("things").insert_many(things).await.unwrap();
    database
}

#[tokio::test]
async fn an_author_corrects_what_the_gate_says() {
    for (remedy, code, upgrades, then) in cases() {
        let database = database().await;
        told(&run(&database, "0.8.0", upgrades.clone()).await, code, remedy);
        let upgrades = match then {
            Then::Upgrade(corrected) => corrected,
            Then::Command(command) => {
                database.run_command(command).await.unwrap();
                upgrades
            }
        };
        let report = run(&database, "0.8.0", upgrades).await;
        assert_eq!(report.exit_code, 0, "{remedy}: {}", report.to_json());
    }
    let database = database().await;
    told(&run(&database, "0.8.0.dev1", vec![]).await, 16, RELEASED);
    assert_eq!(run(&database, "0.8.0", vec![]).await.exit_code, 0);
}
