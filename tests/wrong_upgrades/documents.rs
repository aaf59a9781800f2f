//! Wrong upgrades, third part: what their code makes of documents.

use mongodb::bson::{Document, doc, rawdoc};
use upgrade_gate::{
    ActionType, Condition, Keys, Lookup, Seed, Transform, Upgrade, derived_object_id,
};

use crate::On::{Both, ReplicaSet};
use crate::{Code, SECRET, Wrong, convergent, wrong};

const HERE: &str = "upgrade 0.8.0: step \"transform things\": document 0 of things";

fn case(name: &'static str, code: Code, says: &'static [&'static str]) -> Wrong {
    wrong(name, Both, 14, [convergent(code).into()], says)
}

pub(crate) fn edits() -> Vec<Wrong> {
    vec![
        case(
            "edits below the _id",
            |_, _, edits| {
                edits.set("_id.part", 1);
                Ok(())
            },
            &[HERE, "`_id"],
        ),
        case(
            "removes the _id",
            |_, _, edits| {
                edits.unset("_id");
                Ok(())
            },
            &[HERE, "`_id` cannot be edited"],
        ),
        case(
            "edits all entries of an array at once",
            |_, _, edits| {
                edits.set("list.$[].name", 1);
                Ok(())
            },
            &[HERE, "list.$[].name", "`$`"],
        ),
        case(
            "edits without a path",
            |_, _, edits| {
                edits.set("", 1);
                Ok(())
            },
            &[HERE, "a part of the path is empty"],
        ),
        case(
            "nests deeper than the server can",
            |thing, _, edits| {
                let mut deep = rawdoc! { "end": true };
                for _ in 0..210 {
                    deep = rawdoc! { "a": deep };
                }
                if thing.get("deep")?.is_none() {
                    edits.set("deep", deep);
                }
                Ok(())
            },
            &[HERE, "nest"],
        ),
        case(
            "edits and deletes a document",
            |_, _, edits| {
                edits.set("n", 1);
                edits.delete();
                Ok(())
            },
            &[HERE],
        ),
        wrong(
            "edits and deletes a document that it may delete",
            Both,
            14,
            [convergent(|_, _, edits| {
                edits.set("n", 1);
                edits.delete();
                Ok(())
            })
            .deletes()
            .into()],
            &[HERE, "both edited and deleted"],
        ),
        case(
            "deletes without saying so",
            |_, _, edits| {
                edits.delete();
                Ok(())
            },
            &[HERE, "delete"],
        ),
        wrong(
            "deletes a document and adds it again",
            Both,
            14,
            [convergent(|thing, _, edits| {
                edits.delete();
                edits.insert("things", rawdoc! { "_id": thing.get_i32("_id")? });
                Ok(())
            })
            .deletes()
            .inserts_into("things")
            .into()],
            &[HERE],
        ),
        wrong(
            "counts more than can be counted",
            Both,
            14,
            [convergent(|thing, _, edits| {
                if thing.get("m")?.is_none() {
                    edits.set("m", 1);
                    edits.count("marked", u64::MAX);
                }
                Ok(())
            })
            .action(ActionType::Update, "marked", "Mark {n}")
            .into()],
            &["upgrade 0.8.0: step \"transform things\"", "\"marked\"", "more than"],
        ),
        wrong(
            "reads by an unknown operator",
            Both,
            18,
            [convergent(|_, _, _| Ok(())).filter(doc! { "n": { "$nope": 1 } }).into()],
            &["upgrade 0.8.0: step \"transform things\"", "unknown operator: $nope"],
        ),
        wrong(
            "marks by what changes from call to call",
            Both,
            14,
            [convergent(|_, _, edits| {
                edits.set("mark", mongodb::bson::oid::ObjectId::new());
                Ok(())
            })
            .into()],
            &[HERE, "convergent", "`mark`"],
        ),
        wrong(
            "panics while it says what to look up",
            Both,
            1,
            [convergent(|_, _, _| Ok(()))
                .lookup(Lookup::new("it", "people", "name", |thing, _: &mut Keys| {
                    assert!(thing.get("odd").unwrap().is_none(), "{thing:?}");
                }))
                .into()],
            &["upgrade 0.8.0: step \"transform things\": document 28 of things", "panicked"],
        ),
    ]
}

pub(crate) fn inserts() -> Vec<Wrong> {
    let add = |name, code: Code, says| {
        wrong(name, Both, 14, [convergent(code).inserts_into("audit").into()], says)
    };
    vec![
        add(
            "adds one _id with other contents for each document",
            |thing, _, edits| {
                let n = thing.get_i32("_id")?;
                if thing.get("m")?.is_none() {
                    edits.set("m", 1);
                    edits.insert("audit", rawdoc! { "_id": 1, "n": n });
                }
                Ok(())
            },
            &[
                "document 1 of things: it adds the document 1 to audit",
                "with other contents",
                "derived_object_id",
            ],
        ),
        add(
            "adds a document that is too large",
            |_, _, edits| {
                let load = "x".repeat(17 * 1024 * 1024);
                edits.insert("audit", rawdoc! { "_id": 1, "load": load });
                Ok(())
            },
            &[HERE, "16 MiB"],
        ),
        add(
            "adds a document whose _id is a pattern",
            |_, _, edits| {
                let id = mongodb::bson::Regex { pattern: "a".try_into()?, options: "".try_into()? };
                edits.insert("audit", rawdoc! { "_id": id });
                Ok(())
            },
            &[HERE, "`_id` of a wrong type"],
        ),
        wrong(
            "adds a document whose _id is there",
            Both,
            14,
            [convergent(|thing, _, edits| {
                if thing.get("owner")?.is_some() {
                    edits.unset("owner");
                    edits.insert("people", rawdoc! { "_id": thing.get_i32("_id")?, "name": "new" });
                }
                Ok(())
            })
            .inserts_into("people")
            .into()],
            &[HERE, "it adds the document 0 to people, which is there already with other contents"],
        ),
        wrong(
            "adds a document whose _id is there as another type of number",
            Both,
            14,
            [convergent(|thing, _, edits| {
                if thing.get("odd")?.is_none() && thing.get_i32("_id")? == 2 {
                    edits.set("odd", false);
                    edits.insert("people", rawdoc! { "_id": 2.0, "name": "new" });
                }
                Ok(())
            })
            .inserts_into("people")
            .into()],
            &["document 2 of things: it adds the document 2 to people, which is there already"],
        ),
    ]
}

/// Documents that a transform adds to its own collection, where it meets them.
pub(crate) fn descendants() -> Vec<Wrong> {
    const ENDLESS: &[&str] = &[
        HERE,
        "the documents it adds to things match its own filter, and add further ones",
        "give the documents that the step adds something that its filter leaves out",
    ];
    let add = |name, on, step: Transform, says| {
        wrong(name, on, 14, [step.inserts_into("things").into()], says)
    };
    let unmarked = doc! { "made": { "$exists": false } };
    let copies: Code = |thing, _, edits| {
        if let (Some(id), None) = (thing.get("_id")?, thing.get("made")?) {
            edits.insert("things", rawdoc! { "_id": derived_object_id("copy", [id]), "n": 1 });
            edits.set("made", true);
        }
        Ok(())
    };
    let twins: Code = |thing, _, edits| {
        if let (Some(id), None) = (thing.get("_id")?, thing.get("made")?) {
            for which in ["left", "right"] {
                edits.insert("things", rawdoc! { "_id": derived_object_id(which, [id]), "n": 1 });
            }
            edits.set("made", true);
        }
        Ok(())
    };
    vec![
        add(
            "adds a copy of each document, its own copies included",
            Both,
            convergent(copies).filter(unmarked.clone()),
            ENDLESS,
        ),
        add(
            "adds copies for ever, reading only a mark",
            Both,
            convergent(copies).filter(unmarked.clone()).fields(["made"]),
            ENDLESS,
        ),
        add(
            "adds copies for ever without being convergent",
            ReplicaSet,
            crate::things(copies).filter(unmarked.clone()),
            ENDLESS,
        ),
        add("adds two for each for ever", Both, convergent(twins), ENDLESS),
        add(
            "adds a document to its own collection that it refuses",
            Both,
            convergent(|thing, _, edits| {
                let owner = thing.get_str("owner")?;
                if thing.get("made")?.is_none() && owner == "person 1" {
                    edits.set("made", true);
                    edits.insert("things", rawdoc! { "_id": "added", "n": 1 });
                }
                Ok(())
            }),
            &[
                "document \"added\" of things: field `owner` is missing",
                "(the step adds that document itself, for document 1 of things)",
            ],
        ),
        add(
            "adds a document to its own collection and changes that again and again",
            Both,
            convergent(|thing, _, edits| match thing.get_i32("round") {
                Ok(round) => {
                    edits.set("round", round + 1);
                    Ok(())
                }
                Err(_) => {
                    if thing.get("made")?.is_none() {
                        edits.set("made", true);
                        edits
                            .insert("things", rawdoc! { "_id": "added", "made": true, "round": 0 });
                    }
                    Ok(())
                }
            }),
            &["document \"added\" of things: the step is declared convergent", "`round`"],
        ),
    ]
}

pub(crate) fn seeds() -> Vec<Wrong> {
    let seed = |name, code, documents: Vec<Document>, says| {
        wrong(name, Both, code, [Seed::new("people", documents).exact().into()], says)
    };
    vec![
        seed(
            "seeds two documents of one _id",
            1,
            vec![doc! { "_id": 7, "a": 1 }, doc! { "_id": 7, "a": 2 }],
            &["0.8.0", "_id"],
        ),
        seed("seeds without an _id", 1, vec![doc! { "name": "x" }], &["0.8.0", "_id"]),
        seed(
            "seeds what is there with other contents",
            14,
            vec![doc! { "_id": 1, "name": SECRET }],
            &["upgrade 0.8.0: step", "people", "document 1"],
        ),
        wrong(
            "panics while it computes a seed",
            Both,
            1,
            [Seed::computed("people", |_| -> Result<_, _> { panic!("no RawDocument") }).into()],
            &["upgrade 0.8.0: step", "people", "panicked"],
        ),
    ]
}

pub(crate) fn conditions() -> Vec<Wrong> {
    let of = |name, condition, code, says| Wrong {
        name,
        on: Both,
        upgrades: vec![
            Upgrade::new("0.8.0", "an upgrade")
                .condition(condition)
                .step(convergent(|_, _, _| Ok(()))),
        ],
        code,
        says,
    };
    vec![
        of(
            "asks for a document that is not there",
            Condition::some_document("people", doc! { "name": "nobody" }, "nobody is known"),
            13,
            &["condition \"nobody is known\" of 0.8.0 does not hold", "people"],
        ),
        of(
            "asks for a document of a collection that is not there",
            Condition::some_document("persons", doc! {}, "somebody is known"),
            13,
            &["condition \"somebody is known\" of 0.8.0 does not hold", "persons"],
        ),
        of(
            "asks whether what is shared is unique",
            Condition::unique("things", ["owner"], doc! {}, "each owns one thing"),
            13,
            &["condition \"each owns one thing\" of 0.8.0 does not hold", "things"],
        ),
        of(
            "asks whether no field is unique",
            Condition::unique("things", Vec::<&str>::new(), doc! {}, "nothing is shared"),
            1,
            &["condition \"nothing is shared\"", "names no field"],
        ),
    ]
}
