//! Wrong upgrades, fourth part: what is wrong shows only in what an earlier step makes of the documents. And the
//! right ones, planned exactly.

use mongodb::bson::{doc, rawdoc};
use upgrade_gate::{ActionType, Command, Seed, Transform, Upgrade, derived_object_id};

use crate::On::Both;
use crate::support::{Server, db_hash};
use crate::{Wrong, actions, convergent, database, inspected, keepers, run, version, wrong};

/// Marks each thing, by a field that it alone reads.
fn mark() -> Transform {
    convergent(|_, _, edits| {
        edits.set("m", 1);
        edits.count("marked", 1);
        Ok(())
    })
    .named("mark")
    .filter(doc! { "m": { "$exists": false } })
    .fields(["m"])
    .action(ActionType::Update, "marked", "Mark {n} thing(s)")
}

/// Counts up what is marked, although it says that it is convergent.
fn count_up() -> Transform {
    convergent(|thing, _, edits| {
        if let Ok(m) = thing.get_i32("m") {
            edits.set("m", m + 1);
        }
        Ok(())
    })
    .named("m")
    .filter(doc! { "m": { "$exists": true } })
}

/// Takes the marked things away.
fn remove() -> Transform {
    convergent(|_, _, edits| {
        edits.delete();
        Ok(())
    })
    .named("remove")
    .filter(doc! { "m": 1 })
    .deletes()
}

pub(crate) fn chains() -> Vec<Wrong> {
    const SAYS: &[&str] = &[
        "upgrade 0.8.0: step \"m\"",
        "document 0 of things: the step is declared convergent",
        "`m`",
    ];
    let seeded = || Seed::new("things", [doc! { "_id": "seeded", "m": 0 }]);
    vec![
        wrong(
            "counts up what an earlier step leaves",
            Both,
            14,
            [mark().into(), count_up().into()],
            SAYS,
        ),
        wrong(
            "counts up what two earlier steps leave",
            Both,
            14,
            [
                keepers().into(),
                convergent(|_, _, edits| {
                    edits.set("m", 1);
                    Ok(())
                })
                .named("mark")
                .filter(doc! { "keeper.name": { "$type": "string" }, "m": { "$exists": false } })
                .into(),
                Command::create_index("things", "by mark", doc! { "m": 1 }).into(),
                count_up().into(),
            ],
            SAYS,
        ),
        wrong(
            "counts up what a seed leaves",
            Both,
            14,
            [seeded().into(), count_up().into()],
            &["step \"m\": document \"seeded\" of things: the step is declared convergent", "`m`"],
        ),
        Wrong {
            name: "counts up what an earlier version leaves",
            on: Both,
            upgrades: vec![version("0.8.0", mark()), version("0.9.0", count_up())],
            code: 14,
            says: &["upgrade 0.9.0: step \"m\": document 0 of things", "convergent", "`m`"],
        },
        Wrong {
            name: "refuses what an earlier version makes of one document",
            on: Both,
            upgrades: vec![version("0.8.0", keepers()), version("0.9.0", inspected())],
            code: 14,
            says: &[
                "upgrade 0.9.0: step \"transform things\": document 29 of things: nobody keeps it",
            ],
        },
        wrong(
            "adds copies for ever of what an earlier step marks",
            Both,
            14,
            [
                mark().into(),
                convergent(|thing, _, edits| {
                    if let (Some(id), Ok(1)) = (thing.get("_id")?, thing.get_i32("m")) {
                        let id = derived_object_id("copy", [id]);
                        edits.insert("things", rawdoc! { "_id": id, "m": 1 });
                        edits.set("m", 2);
                    }
                    Ok(())
                })
                .named("copy")
                .filter(doc! { "m": 1 })
                .inserts_into("things")
                .into(),
            ],
            &[
                "step \"copy\": document 0 of things: the documents it adds to things match its own filter",
            ],
        ),
        wrong(
            "adds what is there for what an earlier step marks",
            Both,
            14,
            [
                mark().into(),
                convergent(|thing, _, edits| {
                    if thing.get_i32("m")? == 1 {
                        edits.set("m", 2);
                        if thing.get_i32("_id")? == 1 {
                            edits.insert("people", rawdoc! { "_id": 1, "name": "new" });
                        }
                    }
                    Ok(())
                })
                .named("add")
                .filter(doc! { "m": 1 })
                .inserts_into("people")
                .into(),
            ],
            &[
                "step \"add\": document 1 of things: it adds the document 1 to people, which is there",
            ],
        ),
    ]
}

/// More documents than a rehearsal takes, on the servers that rehearse.
#[tokio::test]
async fn what_is_wrong_after_an_earlier_step_is_found_before_the_first_write_of_all() {
    let standalone = Server::standalone().await;
    for server in [Server::shared().await, &standalone] {
        for case in chains() {
            let database = database(server).await;
            let before = db_hash(&database).await;
            for mode in ["plan", "upgrade"] {
                let report = run(&database, case.upgrades.clone(), mode, "2").await;
                let told = format!("{}, {mode}: {}", case.name, report.to_json());
                assert_eq!(report.exit_code, 14, "{told}");
                assert!(report.message.contains(case.says[0]), "{told}");
                assert_eq!(db_hash(&database).await, before, "{told}");
            }
        }
    }
}

#[tokio::test]
async fn a_chain_of_any_length_is_planned_as_it_is_then_done() {
    let standalone = Server::standalone().await;
    for server in [Server::shared().await, &standalone] {
        let right: [fn() -> Vec<Upgrade>; 3] = [
            || {
                let follow = convergent(|thing, _, edits| {
                    if thing.get_i32("m")? == 1 {
                        edits.set("m", 2);
                        edits.count("followed", 1);
                    }
                    Ok(())
                });
                let follow = follow
                    .named("follow")
                    .filter(doc! { "m": 1, "keeper.name": { "$ne": "nobody" } })
                    .fields(["m"])
                    .action(ActionType::Update, "followed", "Follow {n} thing(s)");
                vec![version("0.8.0", keepers()).step(mark()), version("0.9.0", follow)]
            },
            // those that are deleted are not met any more, one that is seeded is
            || {
                let seed = Seed::new("things", [doc! { "_id": "seeded", "owner": "person 0" }]);
                vec![version("0.8.0", seed).step(mark()).step(remove()).step(keepers())]
            },
            || {
                let add = convergent(|thing, _, edits| {
                    if let Some(keeper) = thing.get("keeper")? {
                        let id = derived_object_id("audit", [keeper]);
                        edits.insert("audit", rawdoc! { "_id": id, "keeper": keeper });
                        edits.unset("keeper");
                    }
                    Ok(())
                });
                let add = add.named("add").inserts_into("audit").fields(["keeper"]);
                vec![version("0.8.0", keepers()).step(add)]
            },
        ];
        for upgrades in right {
            for batch in ["2", "7", "2000"] {
                let database = database(server).await;
                let before = db_hash(&database).await;
                let plan = run(&database, upgrades(), "plan", batch).await;
                assert_eq!(plan.exit_code, 10, "{}", plan.to_json());
                assert!(
                    plan.upgrades.iter().all(|upgrade| upgrade.exact == Some(true)),
                    "{}",
                    plan.to_json()
                );
                assert_eq!(db_hash(&database).await, before);
                let report = run(&database, upgrades(), "upgrade", batch).await;
                assert_eq!(report.exit_code, 0, "{}", report.to_json());
                assert_eq!(actions(&plan), actions(&report));
            }
        }
    }
}

/// The twins of those that never end: what is added is edited to a state that stays.
#[tokio::test]
async fn a_transform_may_add_to_its_own_collection_what_it_then_leaves_alone() {
    let standalone = Server::standalone().await;
    for server in [Server::shared().await, &standalone] {
        // each entry of a path becomes a thing of its own, one level at a time
        let unroll = convergent(|thing, _, edits| {
            if let (Some(id), Ok(depth)) = (thing.get("_id")?, thing.get_i32("depth")) {
                edits.unset("depth");
                if depth > 0 {
                    let child = derived_object_id("child", [id]);
                    edits.insert("things", rawdoc! { "_id": child, "depth": depth - 1 });
                    edits.count("children", 1);
                }
            }
            Ok(())
        });
        let unroll = unroll
            .filter(doc! { "depth": { "$exists": true } })
            .inserts_into("things")
            .action(ActionType::Insert, "children", "Add {n} child(ren)");
        // all add the same one, which is met, and adds itself
        let common = convergent(|thing, _, edits| {
            if thing.get("common")?.is_none() {
                edits.set("common", true);
                edits.insert("things", rawdoc! { "_id": "common", "common": true });
            }
            Ok(())
        });
        let common = common.named("common").inserts_into("things");
        for (step, more) in [(unroll, 40 + 7), (common, 1)] {
            let database = database(server).await;
            let things = database.collection::<mongodb::bson::Document>("things");
            for (id, depth) in [(3, 40), (29, 7)] {
                let set = doc! { "$set": { "depth": depth } };
                things.update_one(doc! { "_id": id }, set).await.unwrap();
            }
            let upgrades = || vec![version("0.8.0", step.clone())];
            let plan = run(&database, upgrades(), "plan", "7").await;
            assert_eq!(plan.exit_code, 10, "{}", plan.to_json());
            let report = run(&database, upgrades(), "upgrade", "7").await;
            assert_eq!(report.exit_code, 0, "{}", report.to_json());
            assert_eq!(things.count_documents(doc! {}).await.unwrap(), 30 + more);
        }
    }
}

/// What is to be added may be there already, where it is the same.
#[tokio::test]
async fn what_is_added_and_there_with_the_same_contents_is_no_mistake() {
    let standalone = Server::standalone().await;
    for server in [Server::shared().await, &standalone] {
        let database = database(server).await;
        let add = convergent(|thing, _, edits| {
            if thing.get("owner")?.is_some() {
                edits.unset("owner");
                edits.insert("audit", rawdoc! { "_id": thing.get_i32("_id")?, "seen": true });
            }
            Ok(())
        });
        let add = add.inserts_into("audit");
        let audit = database.collection::<mongodb::bson::Document>("audit");
        audit.insert_one(doc! { "_id": 4, "seen": true }).await.unwrap();
        let report = run(&database, vec![version("0.8.0", add)], "upgrade", "7").await;
        assert_eq!(report.exit_code, 0, "{}", report.to_json());
        assert_eq!(audit.count_documents(doc! {}).await.unwrap(), 30);
    }
}

/// A name that is misspelt is shown in a plan; a run goes on, because the database may never have had it.
#[tokio::test]
async fn a_plan_names_collections_that_do_not_exist() {
    let standalone = Server::standalone().await;
    for server in [Server::shared().await, &standalone] {
        let database = database(server).await;
        let upgrades = || {
            let step = Transform::new("thigns", |_, _, _| Ok(())).convergent();
            vec![version("0.8.0", step).step(mark())]
        };
        let says = "0.8.0: step \"transform thigns\": collection thigns does not exist: nothing to do there";
        let plan = run(&database, upgrades(), "plan", "7").await;
        assert_eq!(plan.exit_code, 10, "{}", plan.to_json());
        assert!(plan.warnings.contains(&says.to_owned()), "{}", plan.to_json());
        assert!(!plan.to_json().contains("collection things does"), "{}", plan.to_json());
        let report = run(&database, upgrades(), "upgrade", "7").await;
        assert_eq!(report.exit_code, 0, "{}", report.to_json());
        assert!(!report.warnings.contains(&says.to_owned()), "{}", report.to_json());
        // twin
        let right = run(&database, vec![version("0.9.0", mark())], "plan", "7").await;
        assert!(!right.to_json().contains("does not exist"), "{}", right.to_json());
    }
}
