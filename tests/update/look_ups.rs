//! Updates whose pipeline sees what was looked up.

use mongodb::IndexModel;
use upgrade_gate::Keys;

use super::*;

fn owner() -> Lookup {
    Lookup::by_field("owner", "people", "name", "owners").fields(["age"])
}

/// Gives each card the ages of its owners.
fn ages(lookup: Lookup) -> Update {
    Update::new(
        "cards",
        doc! { "ages": { "$exists": false } },
        [doc! { "$set": { "ages": "$_found.owner.age" } }],
    )
    .lookup(lookup)
}

async fn people(database: &Database) {
    let person =
        |(n, name): (i32, Bson)| doc! { "_id": n, "name": name, "age": n * 10, "secret": SECRET };
    let names = [
        Bson::from("a"),
        "b".into(),
        "a".into(),
        7.into(),
        7.5.into(),
        Bson::Null,
        vec!["a"].into(),
    ];
    // the higher _ids are first in natural order
    let people = (0..).zip(names).map(person).collect::<Vec<_>>().into_iter().rev();
    database.collection("people").insert_many(people).await.unwrap();
}

fn owned() -> Vec<Document> {
    let owners: [Bson; 8] = [
        "a".into(),
        vec!["b", "a", "a"].into(),
        7_i64.into(),
        Bson::Null,
        "nobody".into(),
        vec![Bson::Null, 7.5.into()].into(),
        doc! { "a": 1 }.into(),
        Bson::Array(vec![]),
    ];
    let mut cards: Vec<_> =
        (0..).zip(owners).map(|(n, owners)| doc! { "_id": n, "owners": owners }).collect();
    cards.push(doc! { "_id": 8 });
    cards
}

async fn found(database: &Database) -> Vec<Vec<i32>> {
    let ages = |card: &RawDocumentBuf| {
        let ages = card.get_array("ages").unwrap();
        ages.into_iter().map(|age| age.unwrap().as_i32().unwrap()).collect()
    };
    let cards = cards(database).await;
    assert!(cards.iter().all(|card| card.get("_found").unwrap().is_none()));
    cards.iter().map(ages).collect()
}

#[tokio::test]
async fn found_documents_are_at_hand_in_the_pipeline_and_never_stored() {
    for server in both().await {
        for batch in [2000, 2] {
            let sorted = [
                vec![0, 20],
                vec![0, 10, 20],
                vec![30],
                vec![],
                vec![],
                vec![40],
                vec![],
                vec![],
                vec![],
            ];
            let natural = [vec![20, 0], vec![10, 20, 0]];
            for (lookup, expected) in
                [(owner(), &sorted[..]), (owner().in_natural_order(), &natural[..1])]
            {
                let database = database(server).await;
                people(&database).await;
                fill(&database, owned()).await;
                let upgrades = [upgrade("1.1.0", [ages(lookup)])];
                let plan = run(&database, &upgrades, "plan", batch).await;
                let report = run(&database, &upgrades, "upgrade", batch).await;
                assert_eq!(report.exit_code, 0, "{report:?}");
                assert_eq!(details(&plan), details(&report));
                assert_eq!(details(&report), [("Update 9 document(s)".to_owned(), Some(9))]);
                assert_eq!(found(&database).await[..expected.len()], *expected);
            }
        }
    }
}

#[tokio::test]
async fn a_document_with_the_field_of_what_is_found_is_refused() {
    for server in both().await {
        let database = database(server).await;
        people(&database).await;
        fill(&database, [doc! { "_id": 1, "_found": SECRET }]).await;
        let before = db_hash(&database).await;
        for mode in ["plan", "upgrade"] {
            let report = run(&database, &[upgrade("1.1.0", [ages(owner())])], mode, 2000).await;
            assert_told(&report, 14, &["document 1 of cards", "a field `_found`"]);
        }
        assert_eq!(db_hash(&database).await, before);
    }
}

#[tokio::test]
async fn an_update_with_a_look_up_survives_kills_on_both_kinds_of_server() {
    for server in both().await {
        let gate = Gate::new("kanban", "1.9.0").upgrades([upgrade("1.1.0", [ages(owner())])]);
        let harness = Harness::new(gate, server.uri("")).set("GATE_FROM_VERSION", "1.0.0");
        let harness = harness.boundaries(20).instants(4).within(Duration::from_secs(20)).quiet();
        let survived = harness.run(async |database| {
            people(database).await;
            database.collection("cards").insert_many(owned()).await?;
            Ok(())
        });
        assert!(survived.await.unwrap().kills > 3);
    }
}

#[test]
fn a_look_up_of_what_the_same_version_changes_is_a_mistake_unless_it_reads_other_fields() {
    let check = |steps: Vec<Update>| {
        Gate::new("kanban", "1.9.0").upgrades([upgrade("1.1.0", steps)]).check()
    };
    let older = |field: &str| {
        let set = doc! { "$set": { field: 1 } };
        Update::new("people", doc! { field: { "$exists": false } }, [set])
    };
    assert!(check(vec![ages(owner()), older("size")]).is_ok());
    let told = check(vec![ages(owner()), older("age")]).unwrap_err().to_string();
    assert!(told.contains("looks up in people what the step \"update people\""), "{told}");
    let whole = Lookup::by_field("owner", "people", "name", "owners");
    assert!(check(vec![older("size"), ages(whole)]).is_err());
    let own = |field: &'static str| {
        let parent = Lookup::by_field("parent", "cards", "_id", "parent").fields([field]);
        let set = doc! { "$set": { "title": format!("$_found.parent.{field}") } };
        Update::new("cards", doc! { "title": { "$exists": false } }, [set]).lookup(parent)
    };
    assert!(check(vec![own("board")]).is_ok());
    let told = check(vec![own("title")]).unwrap_err().to_string();
    assert!(told.contains("reads what the transform may change itself"), "{told}");
    let stored = Update::new("cards", old(), [doc! { "$set": { "_found": 1, "position": 1 } }]);
    assert!(check(vec![stored.lookup(owner())]).is_err());
}

/// Cards whose `names` are of people in a collection that ignores case, by `_id` and by another field.
async fn names_in_any_case(database: &Database) {
    let collation = doc! { "locale": "en", "strength": 2 };
    database.run_command(doc! { "create": "people", "collation": collation }).await.unwrap();
    let names = ["Ann", "ann", "Bo", "5"];
    let people = names.iter().enumerate().map(|(n, name)| {
        doc! { "_id": format!("Id{n}"), "age": n as i32 * 10, "all": [{ "name": *name }, { "name": "x" }] }
    });
    database.collection("people").insert_many(people.rev()).await.unwrap();
    let names: [Bson; 6] = [
        "ANN".into(),
        vec!["aNN", "ANN", "bo", "X"].into(),
        5.into(),
        "nobody".into(),
        "\u{e1}nn".into(),
        Bson::Null,
    ];
    let cards =
        (0..).zip(names).map(|(n, name)| doc! { "_id": n, "owners": name, "id": format!("ID{n}") });
    fill(database, cards).await;
}

#[tokio::test]
async fn strings_are_looked_up_under_the_collation_of_the_other_collection() {
    let by = |foreign: &'static str, local: &'static str| {
        Lookup::by_field("owner", "people", foreign, local).fields(["age"])
    };
    for server in both().await {
        for batch in [2000, 1] {
            let natural = by("all.name", "owners").in_natural_order();
            let one = [vec![0], vec![10], vec![20], vec![30], vec![], vec![]];
            for (lookup, expected) in [
                // each document once, however many spellings find it
                (
                    by("all.name", "owners"),
                    [vec![0, 10], vec![0, 10, 20, 30], vec![], vec![], vec![], vec![]],
                ),
                (natural, [vec![10, 0], vec![10, 0, 20, 30], vec![], vec![], vec![], vec![]]),
                (by("_id", "id"), one),
            ] {
                let database = database(server).await;
                names_in_any_case(&database).await;
                let upgrades = [upgrade("1.1.0", [ages(lookup)])];
                let plan = run(&database, &upgrades, "plan", batch).await;
                let report = run(&database, &upgrades, "upgrade", batch).await;
                assert_eq!(report.exit_code, 0, "{report:?}");
                assert_eq!(details(&plan), details(&report));
                assert_eq!(found(&database).await, expected);
            }
        }
    }
}

/// A look-up of a transform, whose values its code compares itself, stays exact.
#[tokio::test]
async fn a_look_up_in_code_finds_the_same_bytes_only() {
    for server in both().await {
        let database = database(server).await;
        names_in_any_case(&database).await;
        let wanted = |document: &RawDocument, keys: &mut Keys| {
            if let Ok(name) = document.get_str("owners") {
                keys.add(name);
            }
            keys.add("ann");
        };
        let transform =
            Transform::new("cards", |document: &RawDocument, found: &Found, edits: &mut Edits| {
                let exact = found.all("owner", "ann".into())?.count();
                let other = match document.get_str("owners") {
                    Ok(name) => found.all("owner", name.into())?.count(),
                    Err(_) => 0,
                };
                edits.set("n", (exact * 10 + other) as i32);
                Ok(())
            });
        let transform = transform
            .filter(doc! { "n": { "$exists": false } })
            .convergent()
            .lookup(Lookup::new("owner", "people", "all.name", wanted));
        let report =
            run(&database, &[Upgrade::new("1.1.0", "a").step(transform)], "upgrade", 2000).await;
        assert_eq!(report.exit_code, 0, "{report:?}");
        for card in cards(&database).await {
            assert_eq!(card.get_i32("n").unwrap(), 10, "{card:?}");
        }
    }
}

#[tokio::test]
async fn a_look_up_without_an_index_is_a_warning_with_the_number_of_documents() {
    let told = |report: &Report| {
        let warnings = report.warnings.iter();
        warnings.filter(|text| text.contains("begins with name")).cloned().collect::<Vec<_>>()
    };
    let index = || Command::create_index("people", "by name", doc! { "name": 1, "age": 1 });
    for server in both().await {
        for mode in ["plan", "upgrade"] {
            // without an index; with one under another name and place; with one that comes too late
            for (there, first, later, warned) in [
                (None, None, None, true),
                (Some(doc! { "name": 1 }), None, None, false),
                (Some(doc! { "age": 1, "name": 1 }), None, None, true),
                (None, Some(index()), None, false),
                (None, None, Some(index()), true),
            ] {
                let database = database(server).await;
                people(&database).await;
                fill(&database, owned()).await;
                if let Some(keys) = there {
                    let model = IndexModel::builder().keys(keys).build();
                    database.collection::<Document>("people").create_index(model).await.unwrap();
                }
                let mut upgrades = vec![upgrade("1.2.0", [ages(owner())])];
                if let Some(index) = first {
                    upgrades.insert(0, Upgrade::new("1.1.0", "an index").step(index));
                }
                if let Some(index) = later {
                    upgrades.push(Upgrade::new("1.3.0", "an index").step(index));
                }
                let report = run(&database, &upgrades, mode, 2000).await;
                let said = told(&report);
                assert_eq!(!said.is_empty(), warned, "{report:?}");
                if warned {
                    assert!(
                        said[0].contains(
                            "people begins with name: its look-up reads all 7 document(s)"
                        ),
                        "{said:?}"
                    );
                }
            }
        }
    }
}

/// A batch asks for more values than one query is given, so that those of a document may be asked for apart.
#[tokio::test]
async fn what_a_document_finds_comes_in_order_however_many_values_its_batch_looks_up() {
    const CARDS: i32 = 1000;
    const OWNERS: i32 = 25;
    for server in both().await {
        let database = database(server).await;
        let people = database.collection::<Document>("people");
        let person = |n: i32| doc! { "_id": n, "name": n, "age": n };
        people.insert_many((0..CARDS * OWNERS).map(person)).await.unwrap();
        people.create_index(IndexModel::builder().keys(doc! { "name": 1 }).build()).await.unwrap();
        // the last of each card's owners is the first by its `_id`
        let owned = |card: i32| (0..OWNERS).rev().map(move |n| card * OWNERS + n);
        let cards = (0..CARDS).map(|n| doc! { "_id": n, "owners": owned(n).collect::<Vec<i32>>() });
        fill(&database, cards).await;
        let upgrades = [upgrade("1.1.0", [ages(owner())])];
        let report = run(&database, &upgrades, "upgrade", 2000).await;
        assert_eq!(report.exit_code, 0, "{report:?}");
        let mut cards = database.collection::<Document>("cards").find(doc! {}).await.unwrap();
        while cards.advance().await.unwrap() {
            let card = cards.deserialize_current().unwrap();
            let n = card.get_i32("_id").unwrap();
            let expected: Vec<Bson> = owned(n).rev().map(Bson::from).collect();
            assert_eq!(card.get_array("ages").unwrap(), &expected, "card {n}");
        }
    }
}

#[tokio::test]
async fn a_document_that_refers_to_too_much_for_one_order_is_refused_until_the_order_is_natural() {
    for server in both().await {
        let database = database(server).await;
        let people = database.collection::<Document>("people");
        people.insert_one(doc! { "_id": 1, "name": "1".repeat(900_000), "age": 1 }).await.unwrap();
        // a query has 4 MiB of values
        let card = |owners: i32| {
            let owners: Vec<String> = (0..owners).map(|n| format!("{n}").repeat(900_000)).collect();
            doc! { "_id": owners.len() as i32, "owners": owners }
        };
        fill(&database, [card(4), card(5)]).await;
        let before = db_hash(&database).await;
        let apply = async |lookup: Lookup| {
            run(&database, &[upgrade("1.1.0", [ages(lookup)])], "upgrade", 2000).await
        };
        let report = apply(owner()).await;
        let says = ["document 5 of cards", "let the look-up find them in natural order"];
        assert_told(&report, 14, &says);
        assert_eq!(db_hash(&database).await, before);
        let report = apply(owner().in_natural_order()).await;
        assert_eq!(report.exit_code, 0, "{report:?}");
        assert_eq!(found(&database).await, [[1], [1]]);
    }
}

/// What is found for the second of these is more than a command may hold, and for the third more than is held at all.
#[tokio::test]
async fn what_is_found_for_one_document_may_nearly_fill_a_command_and_no_more() {
    const MIB: usize = 1 << 20;
    for server in both().await {
        for (found_bytes, says) in [
            (14 * MIB, None),
            (16 * MIB, Some("the 15 MiB that the server is given at once")),
            (22 * MIB, Some("the 20 MiB that are held for one document")),
        ] {
            let database = database(server).await;
            let load = Binary { subtype: BinarySubtype::Generic, bytes: vec![7; found_bytes / 4] };
            let person = |n: i32| doc! { "_id": n, "name": "a", "age": n, "load": &load };
            let people = database.collection("people");
            people.insert_many((0..4).map(person)).await.unwrap();
            fill(&database, [doc! { "_id": 1, "owners": "a" }]).await;
            let before = db_hash(&database).await;
            let whole = || Lookup::by_field("owner", "people", "name", "owners");
            let apply = async |lookup: Lookup| {
                run(&database, &[upgrade("1.1.0", [ages(lookup)])], "upgrade", 2000).await
            };
            let report = apply(whole()).await;
            if let Some(says) = says {
                assert_told(&report, 14, &["document 1 of cards", says]);
                assert_eq!(db_hash(&database).await, before);
                assert_eq!(apply(whole().fields(["age"])).await.exit_code, 0);
            } else {
                assert_eq!(report.exit_code, 0, "{report:?}");
            }
            assert_eq!(found(&database).await, [[0, 1, 2, 3]]);
        }
    }
}

/// Each is small and becomes large: all that are evaluated at a time are more than the server builds at once.
#[tokio::test]
async fn small_documents_that_grow_large_by_what_they_find_are_updated() {
    for server in both().await {
        let database = database(server).await;
        people(&database).await;
        fill(&database, (0..200).map(|n| doc! { "_id": n, "owners": "b" })).await;
        let set = doc! { "$set": { "ages": "$_found.owner.age", "large": large_text() } };
        let update = Update::new("cards", doc! { "ages": { "$exists": false } }, [set]);
        let upgrades = [upgrade("1.1.0", [update.lookup(owner())])];
        let report = run(&database, &upgrades, "upgrade", 2000).await;
        assert_eq!(report.exit_code, 0, "{report:?}");
        assert_eq!(found(&database).await, vec![vec![10]; 200]);
        are_large(&database, 200).await;
    }
}
