//! Copies and deletions.

use super::*;

/// Cards with comments in them: the n-th has n of them.
fn discussed(n: i32) -> Document {
    let comment = |i: i32| doc! { "id": format!("{n}.{i}"), "text": SECRET };
    doc! { "_id": n, "comments": (0..n).map(comment).collect::<Vec<_>>() }
}

fn commented() -> Document {
    doc! { "comments.0": { "$exists": true } }
}

fn to_comments() -> Vec<Document> {
    let comment = doc! { "_id": "$comments.id", "text": "$comments.text", "card": "$_id" };
    vec![doc! { "$unwind": "$comments" }, doc! { "$replaceWith": comment }]
}

fn copy(pipeline: Vec<Document>) -> Copy {
    Copy::new("cards", commented(), pipeline, "comments").report("Copy {n} comment(s)")
}

fn apart(step: impl Into<upgrade_gate::Step>) -> [Upgrade; 1] {
    [Upgrade::new("1.1.0", "comments apart").step(step)]
}

fn told(report: &Report) -> Vec<String> {
    let actions = report.upgrades.iter().flat_map(|upgrade| &upgrade.actions);
    actions.map(|action| action.description.clone()).collect()
}

async fn all(database: &Database, collection: &str) -> Vec<Document> {
    let all = dump(database).await.remove(collection).unwrap_or_default();
    all.iter().map(|document| Document::try_from(document).unwrap()).collect()
}

#[tokio::test]
async fn what_a_pipeline_makes_is_copied_and_its_sources_stay_or_go() {
    for server in both().await {
        for (batch, deletes) in [(2000, false), (3, false), (2000, true), (3, true)] {
            let database = database(server).await;
            fill(&database, (0..9).map(discussed)).await;
            // the same contents are there already
            let there = doc! { "_id": "8.1", "text": SECRET, "card": 8 };
            database.collection("comments").insert_one(there).await.unwrap();
            let step =
                if deletes { copy(to_comments()).then_delete() } else { copy(to_comments()) };
            let upgrades = apart(step);
            let plan = run(&database, &upgrades, "plan", batch).await;
            assert_eq!(plan.exit_code, 10, "{plan:?}");
            let report = run(&database, &upgrades, "upgrade", batch).await;
            assert_eq!(report.exit_code, 0, "{report:?}");
            assert_eq!(told(&plan), told(&report));
            assert_eq!(told(&report), ["Copy 36 comment(s)"]);
            let mut comments = all(&database, "comments").await;
            comments.sort_by_key(|comment| comment.get_str("_id").unwrap().to_owned());
            let expected = (1..9).flat_map(|n| {
                (0..n).map(move |i| {
                    doc! { "_id": format!("{n}.{i}"), "text": SECRET, "card": n }
                })
            });
            assert_eq!(comments, expected.collect::<Vec<_>>());
            let left = all(&database, "cards").await.len();
            assert_eq!(left, if deletes { 1 } else { 9 });
        }
    }
}

#[tokio::test]
async fn a_copy_that_would_lose_something_is_refused_before_the_first_write() {
    let with = |id: &str| {
        let comment = doc! { "_id": id, "text": "$comments.text", "card": "$_id" };
        vec![doc! { "$unwind": "$comments" }, doc! { "$replaceWith": comment }]
    };
    for server in both().await {
        let database = database(server).await;
        fill(&database, (0..9).map(discussed)).await;
        let other = doc! { "_id": "8.1", "text": "another" };
        database.collection("comments").insert_one(other).await.unwrap();
        let before = db_hash(&database).await;
        let none = vec![doc! { "$unset": "_id" }];
        let filtered =
            [vec![doc! { "$match": { "_id": { "$lt": 4 } } }], with("$comments.id")].concat();
        let built = vec![
            doc! { "$unwind": "$comments" },
            doc! { "$set": { "_id": { "$add": ["$_id", "$comments.id"] } } },
        ];
        for (step, says) in [
            (copy(none), "has no _id"),
            (copy(with("one for all")), "with other contents"),
            (copy(to_comments()), "which is there already with other contents"),
            (copy(filtered).then_delete(), "nothing would be left"),
            (copy(built), "the pipeline fails for it"),
        ] {
            for (mode, batch) in [("plan", 2000), ("upgrade", 2000), ("upgrade", 3)] {
                let report = run(&database, &apart(step.clone()), mode, batch).await;
                assert_told(&report, 14, &[says, " of cards"]);
                assert_eq!(db_hash(&database).await, before, "{says}");
            }
        }
    }
}

#[tokio::test]
async fn copies_and_deletions_survive_kills_on_both_kinds_of_server() {
    let upgrades = [
        apart(copy(to_comments()).then_delete())[0].clone(),
        Upgrade::new("1.2.0", "no empty ones").step(Delete::new("cards", doc! { "comments": [] })),
    ];
    for server in both().await {
        let gate = Gate::new("kanban", "1.9.0").upgrades(upgrades.clone());
        let harness = Harness::new(gate, server.uri("")).set("GATE_FROM_VERSION", "1.0.0");
        let harness = harness.boundaries(40).instants(6).within(Duration::from_secs(40)).quiet();
        let survived = harness.run(async |database| {
            let cards = (0..12).map(|n| discussed(n % 4)).zip(0..).map(|(mut card, n)| {
                card.insert("_id", n);
                let comments = card.get_array_mut("comments").unwrap();
                for (position, comment) in comments.iter_mut().enumerate() {
                    let comment = comment.as_document_mut().unwrap();
                    comment.insert("id", format!("{n}.{position}"));
                }
                card
            });
            database.collection("cards").insert_many(cards).await?;
            Ok(())
        });
        assert!(survived.await.unwrap().kills > 5);
    }
}

#[tokio::test]
async fn what_matches_is_deleted_and_what_a_user_keeps_meanwhile_is_not() {
    let drafts = || doc! { "draft": true, "$or": [{ "order": { "$lt": 900 } }, { "order": 950 }] };
    for server in both().await {
        let database = database(server).await;
        let draft = |n: i32| doc! { "_id": n, "order": n, "draft": true, "title": SECRET };
        fill(&database, (0..1000).map(draft)).await;
        let upgrades = apart(Delete::new("cards", drafts()).report("Delete {n} draft(s)"));
        let plan = run(&database, &upgrades, "plan", 10).await;
        assert_eq!(told(&plan), ["Delete 901 draft(s)"]);

        let cards = database.collection::<Document>("cards");
        let keeping = async {
            let mut kept = Vec::new();
            for n in (0..900).rev().step_by(3) {
                let keep = doc! { "$set": { "draft": false } };
                let kept_one =
                    cards.update_one(doc! { "_id": n, "draft": true }, keep).await.unwrap();
                kept.extend((kept_one.modified_count == 1).then_some(n));
            }
            kept
        };
        let (report, kept) = tokio::join!(run(&database, &upgrades, "upgrade", 10), keeping);
        assert_eq!(report.exit_code, 0, "{report:?}");
        assert!(!kept.is_empty());
        let left: Vec<i32> =
            all(&database, "cards").await.iter().map(|card| card.get_i32("_id").unwrap()).collect();
        let expected = (900..1000).filter(|n| *n != 950).chain(kept.iter().copied());
        let mut expected: Vec<i32> = expected.collect();
        let mut sorted = left.clone();
        sorted.sort_unstable();
        expected.sort_unstable();
        assert_eq!(sorted, expected);
    }
}

#[tokio::test]
async fn an_operator_that_the_server_does_not_know_is_18_in_copies_and_deletions_too() {
    let unknown = || doc! { "order": { "$noSuch": 1 } };
    let copy = |filter, stages| Step::from(Copy::new("cards", filter, stages, "others"));
    for server in both().await {
        let database = database(server).await;
        let before = db_hash(&database).await;
        for step in [
            copy(doc! {}, vec![doc! { "$set": unknown() }]),
            copy(unknown(), to_comments()),
            Delete::new("cards", unknown()).into(),
            Transform::new("cards", |_, _, _| Ok(())).filter(unknown()).convergent().into(),
        ] {
            for mode in ["plan", "upgrade"] {
                let report = run(&database, &apart(step.clone()), mode, 2000).await;
                assert_told(&report, 18, &["1.1.0", "$noSuch"]);
                assert_eq!(db_hash(&database).await, before);
            }
        }
    }
}

/// On a standalone server a copy may be there before its source is changed: then the run says so, and the change stays.
#[tokio::test]
async fn what_a_user_changes_meanwhile_is_copied_or_its_source_stays() {
    for (server, codes) in both().await.into_iter().zip([&[0][..], &[0, 14]]) {
        let database = database(server).await;
        fill(&database, (0..600).map(card)).await;
        let cards = database.collection::<Document>("cards");
        let changing = async {
            let mut changed = Vec::new();
            for n in (0..600).rev().step_by(3) {
                let change = doc! { "$set": { "order": n + 1000 } };
                let done = cards.update_one(doc! { "_id": n, "order": n }, change).await.unwrap();
                changed.extend((done.modified_count == 1).then_some(n));
            }
            changed
        };
        let kept = vec![doc! { "$project": { "order": 1 } }];
        let step = Copy::new("cards", doc! { "order": { "$exists": true } }, kept, "archive");
        let upgrades = apart(step.then_delete());
        let (report, changed) = tokio::join!(run(&database, &upgrades, "upgrade", 10), changing);
        assert!(codes.contains(&report.exit_code), "{report:?}");
        assert!(!changed.is_empty());
        let (archive, left) = (all(&database, "archive").await, all(&database, "cards").await);
        let order = |documents: &[Document], n: i32| {
            let found = documents.iter().find(|it| it.get_i32("_id").unwrap() == n);
            found.map(|it| it.get_i32("order").unwrap())
        };
        for n in 0..600 {
            let expected = if changed.contains(&n) { n + 1000 } else { n };
            // what is still there is the user's, and what is gone was copied as it was in the end
            let last = order(&left, n).or(order(&archive, n));
            assert_eq!(last, Some(expected), "card {n}: {report:?}");
        }
        assert!(report.exit_code != 0 || left.is_empty(), "{report:?}");
    }
}

#[test]
fn a_deletion_of_what_an_earlier_copy_reads_and_a_copy_into_itself_are_mistakes() {
    let refused = |steps: Upgrade| {
        Gate::new("kanban", "1.9.0").upgrades([steps]).check().unwrap_err().to_string()
    };
    let new = || Upgrade::new("1.1.0", "apart");
    let told = refused(new().step(copy(to_comments())).step(Delete::new("cards", commented())));
    assert!(told.contains("let the copy delete its sources"), "{told}");
    let told = refused(new().step(Copy::new("cards", doc! {}, to_comments(), "cards")));
    assert!(told.contains("copies cards into itself"), "{told}");
    let dated = vec![doc! { "$set": { "at": "$$NOW" } }];
    let told = refused(new().step(Copy::new("cards", doc! {}, dated, "others")));
    assert!(told.contains("0.$set.at"), "{told}");
    let told = refused(new().step(Delete::new("cards", doc! { "$where": "true" })));
    assert!(told.contains("$where"), "{told}");
}

/// What comes out for a batch is far more than the batch, and for one document too much.
#[tokio::test]
async fn what_unwinds_into_much_more_is_copied_in_parts_and_one_document_of_too_much_is_refused() {
    let unwound = || {
        let id = doc! { "$concat": [{ "$toString": "$_id" }, ".", { "$toString": "$parts" }] };
        vec![doc! { "$unwind": "$parts" }, doc! { "$set": { "_id": id } }]
    };
    let card = |n: i32, parts: i32| {
        doc! { "_id": n, "load": "x".repeat(200_000), "parts": (0..parts).collect::<Vec<_>>() }
    };
    for server in both().await {
        let database = database(server).await;
        fill(&database, (0..10).map(|n| card(n, 20))).await;
        let step = || Copy::new("cards", doc! {}, unwound(), "parts");
        let report = run(&database, &apart(step()), "upgrade", 2000).await;
        assert_eq!(report.exit_code, 0, "{report:?}");
        assert_eq!(told(&report), ["Copy 200 document(s)"]);
        let parts = database.collection::<Document>("parts");
        assert_eq!(parts.count_documents(doc! {}).await.unwrap(), 200);

        let database = self::database(server).await;
        fill(&database, [card(1, 2), card(2, 200)]).await;
        let report = run(&database, &apart(step()), "upgrade", 2000).await;
        assert_told(&report, 14, &["document 2 of cards", "more than 32 MiB"]);
        let parts = database.collection::<Document>("parts");
        assert_eq!(parts.count_documents(doc! {}).await.unwrap(), 0);
    }
}
