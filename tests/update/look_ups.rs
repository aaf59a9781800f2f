//! Updates whose pipeline sees what was looked up.

use upgrade_gate::Lookup;

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
        let set = doc! { "$set": { "title": "$_found.parent.board" } };
        Update::new("cards", doc! { "title": { "$exists": false } }, [set]).lookup(parent)
    };
    assert!(check(vec![own("board")]).is_ok());
    let told = check(vec![own("title")]).unwrap_err().to_string();
    assert!(told.contains("reads what the transform may change itself"), "{told}");
    let stored = Update::new("cards", old(), [doc! { "$set": { "_found": 1, "position": 1 } }]);
    assert!(check(vec![stored.lookup(owner())]).is_err());
}
