//! Wrong upgrades, fourth part: updates, copies, deletions and programs that are found wrong without a server.

use std::time::Duration;

use mongodb::bson::{Document, doc};
use upgrade_gate::{ActionType, Copy, Delete, Lookup, Program, Seed, Step, Update};

use crate::{On::Both, Wrong, convergent, wrong};

/// A case that `check()` refuses: exit 1, whatever the server is.
fn refused(
    name: &'static str,
    steps: impl IntoIterator<Item = Step>,
    says: &'static [&'static str],
) -> Wrong {
    wrong(name, Both, 1, steps, says)
}

/// What things of the old shape lack.
fn old() -> Document {
    doc! { "done": { "$exists": false } }
}

fn done() -> Document {
    doc! { "$set": { "done": true } }
}

fn update(stage: Document) -> Update {
    Update::new("things", old(), [stage])
}

fn owner() -> Lookup {
    Lookup::by_field("owner", "people", "name", "owner")
}

fn copy(stage: Document) -> Copy {
    Copy::new("things", doc! {}, [stage], "copies")
}

fn program() -> Program {
    Program::new("things", old(), ["python3", "/upgrades/done.py"])
}

pub(crate) fn updates() -> Vec<Wrong> {
    let of_filter =
        |name, filter, says| refused(name, [Update::new("things", filter, [done()]).into()], says);
    let of_stage = |name, stage, says| refused(name, [update(stage).into()], says);
    const STEP: &str = "step \"update things\"";
    vec![
        of_filter(
            "updates whatever there is",
            doc! {},
            &[STEP, "an empty filter matches every document, those that were updated too"],
        ),
        of_filter(
            "updates what a search finds",
            doc! { "done": null, "$text": { "$search": "x" } },
            &[STEP, "its filter: $text", "is not allowed"],
        ),
        of_filter(
            "updates what is near",
            doc! { "done": { "$near": [0, 0] } },
            &["its filter: done.$near", "is not allowed"],
        ),
        of_filter(
            "updates what JavaScript says",
            doc! { "done": null, "$where": "this.n" },
            &["its filter: $where", "JavaScript is not allowed"],
        ),
        of_filter(
            "updates a random part",
            doc! { "$and": [{ "done": null }, { "$sampleRate": 0.5 }] },
            &["its filter: $and.1.$sampleRate", "chance"],
        ),
        of_filter(
            "updates what is older than now",
            doc! { "done": null, "$expr": { "$lt": ["$at", "$$NOW"] } },
            &["its filter: $expr.$lt.1", "the time is not allowed here"],
        ),
        refused(
            "updates without a stage",
            [Update::new("things", old(), []).into()],
            &[STEP, "the pipeline has no stage, so it changes nothing"],
        ),
        of_stage("updates by an empty stage", doc! {}, &["its pipeline: 0", "the stage is empty"]),
        of_stage(
            "updates by two operators in one stage",
            doc! { "$set": { "done": true }, "$unset": "n" },
            &["its pipeline: 0.$unset", "a stage has one operator"],
        ),
        of_stage(
            "updates by an operator of updates without a pipeline",
            doc! { "$inc": { "done": 1 } },
            &["its pipeline: 0.$inc", "not a stage of a pipeline", "$add"],
        ),
        of_stage(
            "updates by a misspelt stage",
            doc! { "$sett": { "done": true } },
            &["its pipeline: 0.$sett", "did you mean `$set`?"],
        ),
        of_stage(
            "updates by a stage of queries",
            doc! { "$match": { "done": true } },
            &["its pipeline: 0.$match", "expected $set"],
        ),
        of_stage(
            "sets what is not a document",
            doc! { "$set": "done" },
            &["its pipeline: 0.$set", "needs a document"],
        ),
        of_stage(
            "updates the _id",
            doc! { "$set": { "_id.n": 1, "done": true } },
            &["its pipeline: 0.$set._id.n", "no update can change an `_id`"],
        ),
        of_stage(
            "removes the _id",
            doc! { "$unset": ["done", "_id"] },
            &["its pipeline: 0.$unset.1", "no update can change an `_id`"],
        ),
        of_stage(
            "removes what is not a name",
            doc! { "$unset": { "done": 1 } },
            &["its pipeline: 0.$unset", "the name of a field is expected"],
        ),
        of_stage(
            "projects the _id away",
            doc! { "$project": { "done": { "$literal": true } } },
            &["its pipeline: 0.$project", "needs `_id: 1`"],
        ),
        of_stage(
            "replaces the _id as well",
            doc! { "$replaceWith": { "done": true } },
            &["its pipeline: 0.$replaceWith", "the document must keep its _id"],
        ),
        of_stage(
            "sets what depends on chance",
            doc! { "$set": { "done": { "$rand": {} } } },
            &["its pipeline: 0.$set.done.$rand", "chance"],
        ),
        of_stage(
            "sets what JavaScript says",
            doc! { "$set": { "done": { "$function": { "body": "", "args": [], "lang": "js" } } } },
            &["its pipeline: 0.$set.done.$function", "JavaScript is not allowed"],
        ),
        of_stage(
            "updates without leading out of its filter",
            doc! { "$set": { "finished": "$done" } },
            &[STEP, "never leads out of its filter: it does not write `done`"],
        ),
        refused(
            "updates one collection by two steps of one name",
            [
                update(done()).into(),
                Update::new("things", doc! { "n": null }, [doc! { "$set": { "n": 1 } }]).into(),
            ],
            &["two steps of 0.8.0 are named \"update things\"", "name them apart"],
        ),
        refused(
            "updates the gate's collection",
            [Update::new("database_metadata", old(), [done()]).into()],
            &["changes database_metadata, which is the gate's"],
        ),
    ]
}

pub(crate) fn update_look_ups() -> Vec<Wrong> {
    let take = |path: &str| update(doc! { "$set": { "done": path } });
    let named = |name: &'static str| Lookup::by_field(name, "people", "name", "owner");
    vec![
        refused(
            "reads a look-up that it has not",
            [take("$_found.owners.name").lookup(owner()).into()],
            &["its pipeline: 0.$set.done", "no look-up called `owners`: it has owner"],
        ),
        refused(
            "reads a field that its look-up does not read",
            [take("$_found.owner.age").lookup(owner().fields(["name"])).into()],
            &["its pipeline: 0.$set.done", "`owner` does not read the field `age`"],
        ),
        refused(
            "stores what was looked up",
            [update(doc! { "$set": { "_found": 1, "done": 1 } }).lookup(owner()).into()],
            &["its pipeline: 0.$set._found", "never stored"],
        ),
        refused(
            "names a look-up as no field can be called",
            [update(done()).lookup(named("its.owner")).into()],
            &["its lookup \"its.owner\"", "no field can be called so"],
        ),
        refused(
            "updates with two look-ups of one name",
            [update(done()).lookup(owner()).lookup(owner()).into()],
            &["two of its lookups are named \"owner\""],
        ),
        refused(
            "looks up by a position in an array in an update",
            [update(done()).lookup(Lookup::by_field("owner", "people", "names.0", "owner")).into()],
            &["its lookup \"owner\"", "names a position"],
        ),
        refused(
            "looks up what the update itself changes",
            [update(done()).lookup(Lookup::by_field("twin", "things", "n", "n")).into()],
            &["its lookup \"twin\" reads what the transform may change itself"],
        ),
        refused(
            "looks up for an update what another step changes",
            [
                take("$_found.owner.name").lookup(owner()).into(),
                Update::new("people", doc! { "name": null }, [doc! { "$set": { "name": "x" } }])
                    .into(),
            ],
            &[
                "step \"update things\" looks up in people what the step \"update people\"",
                "may change",
                "name with fields what it needs",
            ],
        ),
        refused(
            "looks up for a program what another step changes",
            [
                program().lookup(owner()).into(),
                Update::new("people", doc! { "name": null }, [doc! { "$set": { "name": "x" } }])
                    .into(),
            ],
            &["step \"program things\" looks up in people what the step \"update people\""],
        ),
    ]
}

pub(crate) fn copies() -> Vec<Wrong> {
    let of_stage = |name, stage, says| refused(name, [copy(stage).into()], says);
    let keep = || doc! { "$set": { "copied": true } };
    vec![
        refused(
            "copies a collection into itself",
            [Copy::new("things", doc! {}, [], "things").into()],
            &["step \"copy things into things\"", "copies things into itself"],
        ),
        refused(
            "copies what JavaScript says",
            [Copy::new("things", doc! { "$where": "this.n" }, [], "copies").into()],
            &["step \"copy things into copies\"", "its filter: $where", "JavaScript"],
        ),
        of_stage(
            "copies groups of documents",
            doc! { "$group": { "_id": "$owner" } },
            &["its pipeline: 0.$group", "sees one document at a time"],
        ),
        of_stage(
            "copies the time",
            doc! { "$set": { "at": "$$NOW" } },
            &["its pipeline: 0.$set.at", "the time is not allowed here"],
        ),
        of_stage(
            "copies by chance",
            doc! { "$match": { "$expr": { "$lt": [{ "$rand": {} }, 0.5] } } },
            &["its pipeline: 0.$match.$expr.$lt.0.$rand", "chance"],
        ),
        of_stage("copies by an empty stage", doc! {}, &["its pipeline: 0", "the stage is empty"]),
        of_stage(
            "copies by a condition that is not a document",
            doc! { "$match": 5 },
            &["its pipeline: 0.$match", "needs a document"],
        ),
        refused(
            "copies into a collection without a name",
            [Copy::new("things", doc! {}, [keep()], "").into()],
            &["a collection needs a name"],
        ),
        refused(
            "copies into the gate's collection",
            [Copy::new("things", doc! {}, [keep()], "database_metadata").into()],
            &["changes database_metadata, which is the gate's"],
        ),
        refused(
            "deletes what an earlier step copies",
            [copy(keep()).into(), Delete::new("things", doc! { "n": 1 }).into()],
            &[
                "step \"delete things\" deletes from things",
                "\"copy things into copies\" copies",
                "let the copy delete its sources",
            ],
        ),
    ]
}

pub(crate) fn deletions() -> Vec<Wrong> {
    vec![
        refused(
            "deletes what a search finds",
            [Delete::new("things", doc! { "$text": { "$search": "x" } }).into()],
            &["step \"delete things\"", "its filter: $text", "is not allowed"],
        ),
        refused(
            "deletes a random part",
            [Delete::new("things", doc! { "$expr": { "$lt": [{ "$rand": {} }, 0.5] } }).into()],
            &["step \"delete things\"", "its filter: $expr.$lt.0.$rand", "chance"],
        ),
        refused(
            "deletes from a collection of the server's own",
            [Delete::new("system.users", doc! {}).into()],
            &["\"system.users\"", "the server's own"],
        ),
        refused(
            "deletes from the gate's collection",
            [Delete::new("database_metadata", doc! {}).into()],
            &["changes database_metadata, which is the gate's"],
        ),
    ]
}

pub(crate) fn programs() -> Vec<Wrong> {
    let command = |words: &[&str]| Program::new("things", old(), words.iter().copied());
    const STEP: &str = "step \"program things\"";
    vec![
        refused("names no program", [command(&[]).into()], &[STEP, "names no program to start"]),
        refused(
            "names a program of no letters",
            [command(&["", "done.py"]).into()],
            &[STEP, "names no program to start"],
        ),
        refused(
            "gives a program an argument with a zero byte",
            [command(&["python3", "a\0b"]).into()],
            &[STEP, "the command of \"python3\" holds a zero byte"],
        ),
        refused(
            "gives a program a variable without a name",
            [program().env("", "1").into()],
            &[STEP, "no variable can be called \"\""],
        ),
        refused(
            "gives a program a variable with an equals sign",
            [program().env("A=B", "1").into()],
            &[STEP, "no variable can be called \"A=B\""],
        ),
        refused(
            "gives a program a value with a zero byte",
            [program().env("A", "1\x002").into()],
            &[STEP, "the value of its variable A holds a zero byte"],
        ),
        refused(
            "gives a program no time",
            [program().timeout(Duration::ZERO).into()],
            &[STEP, "its timeout is zero"],
        ),
        refused(
            "asks a program about what JavaScript finds",
            [Program::new("things", doc! { "$where": "this.n" }, ["python3"]).into()],
            &[STEP, "its filter: $where", "JavaScript is not allowed"],
        ),
        refused(
            "reports one count of a program twice",
            [program().report("done", "Do {n}").report("done", "Do {n} again").into()],
            &[STEP, "declares the counter \"done\" twice"],
        ),
        refused(
            "lets a program insert where nothing can be called so",
            [program().inserts_into("$words").into()],
            &["no collection can be called \"$words\""],
        ),
        refused(
            "lets a program insert into the gate's collection",
            [program().inserts_into("database_metadata").into()],
            &["changes database_metadata, which is the gate's"],
        ),
        refused(
            "asks a program with two look-ups of one name",
            [program().lookup(owner()).lookup(owner()).into()],
            &[STEP, "two of its lookups are named \"owner\""],
        ),
        refused(
            "lets a program look up what it inserts",
            [program().inserts_into("people").lookup(owner()).into()],
            &[STEP, "its lookup \"owner\" reads what the transform may change itself"],
        ),
        refused(
            "asks a program about what an earlier step drops",
            [upgrade_gate::Command::drop_collection("things").into(), program().into()],
            &["step \"program things\" reads things", "takes it away"],
        ),
        refused(
            "asks two programs under one name",
            [program().into(), program().into()],
            &["two steps of 0.8.0 are named \"program things\""],
        ),
    ]
}

/// Texts for the report with numbers that there are not.
pub(crate) fn reports() -> Vec<Wrong> {
    let of = |name, step: Step| {
        refused(name, [step], &["its report \"Do {m}\" has no number called {m}: it has {n}"])
    };
    vec![
        of("reports an update by a number that it has not", {
            update(done()).report("Do {m}").into()
        }),
        of("reports a copy by a number that it has not", {
            copy(doc! { "$set": { "copied": true } }).report("Do {m}").into()
        }),
        of("reports a deletion by a number that it has not", {
            Delete::new("things", doc! {}).report("Do {m}").into()
        }),
        of("reports a program by a number that it has not", {
            program().report("done", "Do {m}").into()
        }),
        of("reports a transform by a number that it has not", {
            convergent(|_, _, _| Ok(())).action(ActionType::Update, "done", "Do {m}").into()
        }),
        of("reports a seed by a number that it has not", {
            Seed::new("roles", [doc! { "_id": 1 }]).report("Do {m}").into()
        }),
    ]
}

/// What the right neighbours of these are.
pub(crate) fn right() -> Vec<Vec<Step>> {
    let owner = || Lookup::by_field("owner", "people", "name", "owner");
    let name = doc! { "$set": { "name": "x" } };
    vec![
        vec![update(done()).report("Do {n} thing(s)").into()],
        vec![update(doc! { "$set": { "done": "$_found.owner.age" } }).lookup(owner()).into()],
        vec![
            update(doc! { "$set": { "done": "$_found.owner.age" } })
                .lookup(owner().fields(["age"]))
                .into(),
            Update::new("people", doc! { "seen": null }, [doc! { "$set": { "seen": 1 } }]).into(),
        ],
        vec![Update::new("people", doc! { "name": null }, [name]).into(), copy(done()).into()],
        vec![copy(done()).then_delete().into(), Delete::new("copies", doc! { "n": -1 }).into()],
        vec![Delete::new("things", doc! {}).into()],
    ]
}
