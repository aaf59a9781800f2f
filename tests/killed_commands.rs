//! Commands and seeds that are killed at every boundary and at random instants: the documents, the indexes and the
//! options of the collections are those of a run that nobody killed.

mod support;

use std::time::Duration;

use mongodb::Database;
use mongodb::bson::{Document, doc};
use support::Server;
use upgrade_gate::harness::{Harness, Survived};
use upgrade_gate::{
    Command, Edits, Found, Gate, Report, Seed, Settings, StepError, Transform, Upgrade,
};

async fn things(database: &Database) -> Result<(), mongodb::error::Error> {
    let thing = |n: i32| doc! { "_id": n, "n": n, "at": mongodb::bson::DateTime::from_millis(0) };
    database.collection("things").insert_many((0..12).map(thing)).await?;
    database.collection("people").insert_many((0..6).map(thing)).await?;
    let index = doc! { "key": { "n": 1 }, "name": "by n" };
    database.run_command(doc! { "createIndexes": "things", "indexes": [index] }).await?;
    let index = doc! { "key": { "at": 1 }, "name": "by time", "expireAfterSeconds": 2_000_000_000 };
    database.run_command(doc! { "createIndexes": "people", "indexes": [index] }).await?;
    Ok(())
}

/// Marks things, with or without a chain around it.
fn mark(collection: &'static str, mark: &'static str) -> Transform {
    let code = move |_: &_, _: &Found, edits: &mut Edits| -> Result<(), StepError> {
        edits.set(mark, true);
        Ok(())
    };
    Transform::new(collection, code).named(mark).convergent()
}

fn by_n(keys: Document) -> Command {
    Command::create_index("things", "by n", keys).into()
}

fn drop_by_n() -> Command {
    Command::drop_index("things", "by n")
}

fn upgrade(version: &str) -> Upgrade {
    Upgrade::new(version, format!("upgrade to {version}"))
}

/// Runs a table under kills, on both kinds of server.
async fn survives(upgrades: &[Upgrade]) {
    let standalone = Server::standalone().await;
    for server in [Server::shared().await, &standalone] {
        let gate = Gate::new("lab", "0.9.0").upgrades(upgrades.to_vec());
        let harness = Harness::new(gate, server.uri("")).set("GATE_FROM_VERSION", "0.7.0");
        let harness = harness.boundaries(60).instants(8).within(Duration::from_secs(40)).quiet();
        let Survived { kills, .. } = harness.run(things).await.unwrap();
        assert!(kills > 5, "{kills}");
    }
}

#[tokio::test]
async fn an_index_made_again_under_its_name_in_one_version() {
    let other = doc! { "n": -1, "at": 1 };
    survives(&[upgrade("0.8.0").step(mark("things", "a")).step(drop_by_n()).step(by_n(other))])
        .await;
}

#[tokio::test]
async fn an_index_made_again_under_its_name_in_two_versions() {
    survives(&[
        upgrade("0.8.0").step(drop_by_n()).step(mark("things", "a")),
        upgrade("0.8.5").step(by_n(doc! { "n": -1 })),
        upgrade("0.9.0").step(drop_by_n()).step(by_n(doc! { "at": 1 })).step(mark("things", "b")),
    ])
    .await;
}

#[tokio::test]
async fn options_of_an_index_and_of_a_collection() {
    let schema = doc! { "$jsonSchema": { "required": ["n"] } };
    let moderate = doc! { "validationLevel": "moderate", "validationAction": "warn" };
    survives(&[
        upgrade("0.8.0")
            .step(Command::modify_index(
                "people",
                "by time",
                doc! { "expireAfterSeconds": 2_100_000_000 },
            ))
            .step(Command::set_validator("things", schema))
            .step(mark("things", "a"))
            .step(Command::set_options("things", moderate)),
        upgrade("0.9.0").step(Command::modify_index("things", "by n", doc! { "hidden": true })),
    ])
    .await;
}

#[tokio::test]
async fn a_chain_of_renames_and_drops() {
    survives(&[
        upgrade("0.8.0")
            .step(Command::rename("things", "stuff"))
            .step(Command::rename("people", "things"))
            .step(mark("things", "a"))
            .step(Command::rename("stuff", "people")),
        upgrade("0.9.0")
            .step(Command::drop_collection("things"))
            .step(Command::rename("people", "things"))
            .step(mark("things", "b")),
    ])
    .await;
}

#[tokio::test]
async fn seeds_of_one_collection_beside_each_other() {
    let roles = |name: &'static str, ids: std::ops::Range<i32>| {
        Seed::new("roles", ids.map(|n| doc! { "_id": n, "by": name })).named(name)
    };
    survives(&[
        upgrade("0.8.0").step(roles("first", 0..20)).step(roles("second", 10..40)),
        upgrade("0.9.0").step(roles("third", 35..50)).step(mark("roles", "a")),
    ])
    .await;
}

async fn run(database: &support::Fresh, upgrades: &[Upgrade], mode: &str) -> Report {
    let gate = Gate::new("lab", "0.9.0").upgrades(upgrades.to_vec());
    let vars =
        [("GATE_MONGODB_URI", &*database.uri), ("GATE_MODE", mode), ("GATE_FROM_VERSION", "0.7.0")];
    let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned()));
    gate.run(&Settings::from_vars(vars, &gate.check().unwrap()).unwrap()).await
}

async fn indexes(database: &Database) -> Vec<String> {
    database.collection::<Document>("things").list_index_names().await.unwrap()
}

/// What a run sent that was stopped in the middle of a drop, carried out after another one has finished.
#[tokio::test]
async fn a_drop_that_arrives_late_leaves_the_index_that_was_made_again() {
    let standalone = Server::standalone().await;
    for server in [Server::shared().await, &standalone] {
        let database = server.database().await;
        things(&database).await.unwrap();
        let again = [upgrade("0.8.0").step(drop_by_n()).step(by_n(doc! { "n": -1 }))];
        let report = run(&database, &again, "upgrade").await;
        assert_eq!(report.exit_code, 0, "{}", report.to_json());
        let after = indexes(&database).await;
        assert!(after.contains(&"by n".to_owned()), "{after:?}");
        let late = doc! { "dropIndexes": "things", "index": { "n": 1 } };
        let error = database.run_command(late).await.unwrap_err();
        let mongodb::error::ErrorKind::Command(error) = *error.kind else { panic!("{error}") };
        assert_eq!(error.code_name, "IndexNotFound");
        assert_eq!(indexes(&database).await, after);
    }
}

#[tokio::test]
async fn what_depends_on_an_earlier_seed_is_counted_right_or_not_at_all() {
    let standalone = Server::standalone().await;
    for server in [Server::shared().await, &standalone] {
        let database = server.database().await;
        things(&database).await.unwrap();
        let roles = |name: &'static str, ids: std::ops::Range<i32>| {
            Seed::new("roles", ids.map(|n| doc! { "_id": n })).named(name).report("Add {n}")
        };
        let both = [upgrade("0.8.0").step(roles("first", 0..5)).step(roles("second", 3..8))];
        let plan = run(&database, &both, "plan").await;
        assert_eq!(plan.exit_code, 10, "{}", plan.to_json());
        let report = run(&database, &both, "upgrade").await;
        assert_eq!(report.exit_code, 0, "{}", report.to_json());
        let counts = |report: &Report| -> Vec<Option<i64>> {
            let actions = report.upgrades.iter().flat_map(|upgrade| &upgrade.actions);
            actions.map(|action| action.details.get_i64("inserted").ok()).collect()
        };
        assert_eq!(counts(&report), [Some(5), Some(3)], "{}", report.to_json());
        match plan.upgrades[0].exact {
            Some(true) => assert_eq!(counts(&plan), counts(&report)),
            _ => assert_eq!(counts(&plan), [Some(5), None], "{}", plan.to_json()),
        }
    }
}
