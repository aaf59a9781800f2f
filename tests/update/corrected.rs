//! What keeps an update or a copy from being applied is corrected as the gate says, and the next run opens.

use super::*;

/// One that is closed at first, and what is done about it.
struct Case {
    documents: Vec<RawDocumentBuf>,
    step: Step,
    code: u8,
    /// A part of what the report says to do.
    next: &'static str,
    corrected: Corrected,
}

enum Corrected {
    /// This code is deployed.
    Deployed(Box<Step>),
    /// These documents take the place of the others.
    Documents(RawDocumentBuf),
}

fn deployed(step: Step) -> Corrected {
    Corrected::Deployed(Box::new(step))
}

fn card_with(load: usize) -> RawDocumentBuf {
    rawdoc! { "_id": 1, "order": 1, "load": "x".repeat(load), "owners": "a" }
}

/// A step that reads what `cases` put into cards and people.
fn update(pipeline: Vec<Document>) -> Update {
    Update::new("cards", old(), pipeline)
}

fn ages(lookup: Lookup) -> Step {
    let size = doc! { "$size": "$_found.owner" };
    update(vec![doc! { "$set": { "position": size } }]).lookup(lookup).into()
}

fn cases() -> Vec<Case> {
    let owner = || Lookup::by_field("owner", "people", "name", "owners");
    let unwound = |rest: Vec<Document>| {
        let id = doc! { "$concat": [{ "$toString": "$_id" }, ".", { "$toString": "$parts" }] };
        let first = vec![doc! { "$unwind": "$parts" }, doc! { "$set": { "_id": id } }];
        Copy::new("cards", doc! {}, [rest, first].concat(), "parts").into()
    };
    let parts = mongodb::bson::RawArrayBuf::from_iter(0..200);
    let positioned = || Step::from(positions());
    vec![
        Case {
            documents: vec![rawdoc! { "_id": 1, "order": 1, "order": 2 }],
            step: positioned(),
            code: 14,
            next: "correct the document, then run it again",
            corrected: Corrected::Documents(rawdoc! { "_id": 1, "order": 1 }),
        },
        Case {
            documents: vec![card_with(1)],
            step: update(vec![doc! { "$set": { "position": { "$eq": [1] } } }]).into(),
            code: 14,
            next: "correct what it names, deploy that",
            corrected: deployed(positioned()),
        },
        Case {
            documents: vec![card_with(1)],
            step: update(vec![doc! { "$set": { "position": "$nothing" } }]).into(),
            code: 14,
            next: "let the filter match documents of the old shape only",
            corrected: deployed(positioned()),
        },
        Case {
            documents: vec![rawdoc! { "_id": 1, "load": "x".repeat(200_000), "parts": parts }],
            step: unwound(vec![]),
            code: 14,
            next: "let the pipeline keep less of each",
            corrected: deployed(unwound(vec![doc! { "$unset": "load" }])),
        },
        Case {
            documents: vec![card_with(9 << 20)],
            step: update(vec![doc! { "$set": { "position": "$load" } }]).into(),
            code: 14,
            next: "correct the document, or deploy code whose upgrade can deal with it",
            corrected: Corrected::Documents(card_with(1)),
        },
        Case {
            documents: vec![card_with(1)],
            step: ages(owner()),
            code: 14,
            next: "name with fields what the pipeline needs",
            corrected: deployed(ages(owner().fields(["age"]))),
        },
        Case {
            documents: vec![rawdoc! { "_id": 1, "_found": SECRET }],
            step: ages(owner().fields(["age"])),
            code: 14,
            next: "rename the field",
            corrected: Corrected::Documents(rawdoc! { "_id": 1, "found": SECRET }),
        },
        Case {
            documents: vec![card_with(1)],
            step: update(vec![doc! { "$set": { "position": { "$noSuch": 1 } } }]).into(),
            code: 18,
            next: "upgrade the server to a version that has it, or deploy code",
            corrected: deployed(positioned()),
        },
    ]
}

#[tokio::test]
async fn what_is_corrected_as_the_gate_says_is_applied_by_the_next_run() {
    for server in both().await {
        for case in cases() {
            let database = database(server).await;
            let large = |n: i32| doc! { "_id": n, "name": "a", "load": "x".repeat(8 << 20) };
            database.collection("people").insert_many((0..2).map(large)).await.unwrap();
            let cards = database.collection::<RawDocumentBuf>("cards");
            cards.insert_many(&case.documents).await.unwrap();
            let before = db_hash(&database).await;
            let apply = async |step: Step| {
                let upgrades = [Upgrade::new("1.1.0", "an upgrade").step(step)];
                run(&database, &upgrades, "upgrade", 2000).await
            };
            let report = apply(case.step.clone()).await;
            assert_told(&report, case.code, &[case.next]);
            assert_eq!(db_hash(&database).await, before, "{}", case.next);
            let report = match case.corrected {
                Corrected::Deployed(step) => apply(*step).await,
                Corrected::Documents(document) => {
                    cards.delete_many(doc! {}).await.unwrap();
                    cards.insert_one(document).await.unwrap();
                    apply(case.step).await
                }
            };
            assert_eq!(report.exit_code, 0, "{}: {report:?}", case.next);
        }
    }
}
