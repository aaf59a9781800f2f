//! Wrong upgrades, second part: names that nothing can have, and tables that contradict themselves.

use mongodb::bson::doc;
use upgrade_gate::{ActionType, Command, Condition, Keys, Lookup, Seed, Step, Upgrade};

use crate::{On::Both, Wrong, convergent, owner, things, version, wrong};

const NOTHING: crate::Code = |_, _, _| Ok(());

/// A case that `check()` refuses: exit 1, whatever the server is.
fn refused(
    name: &'static str,
    steps: impl IntoIterator<Item = Step>,
    says: &'static [&'static str],
) -> Wrong {
    wrong(name, Both, 1, steps, says)
}

fn of(collection: &'static str) -> Step {
    upgrade_gate::Transform::new(collection, NOTHING).convergent().into()
}

pub(crate) fn collections() -> Vec<Wrong> {
    vec![
        refused(
            "transforms a collection without a name",
            [of("")],
            &["0.8.0", "\"transform \"", "a collection needs a name"],
        ),
        refused(
            "transforms a collection with a dollar",
            [of("old$things")],
            &["0.8.0", "no collection can be called \"old$things\"", "`$`"],
        ),
        refused(
            "transforms a collection with a zero byte",
            [of("old\0things")],
            &["0.8.0", "no collection can be called", "zero byte"],
        ),
        refused(
            "transforms a collection of the server's own",
            [of("system.views")],
            &["0.8.0", "\"system.views\"", "the server's own"],
        ),
        refused(
            "transforms a collection whose name begins with a dot",
            [of(".things")],
            &["0.8.0", "no collection can be called \".things\""],
        ),
        refused(
            "renames to a collection with a dollar",
            [Command::rename("things", "$things").into()],
            &["0.8.0", "no collection can be called \"$things\""],
        ),
        refused(
            "renames a collection to itself",
            [Command::rename("things", "things").into()],
            &["0.8.0", "\"Rename things to things\"", "to itself"],
        ),
        refused(
            "drops a collection of the server's own",
            [Command::drop_collection("system.profile").into()],
            &["0.8.0", "\"system.profile\"", "the server's own"],
        ),
        refused(
            "seeds a collection of the server's own",
            [Seed::new("system.js", [doc! { "_id": 1 }]).into()],
            &["0.8.0", "\"system.js\"", "the server's own"],
        ),
        refused(
            "inserts into a collection without a name",
            [convergent(NOTHING).inserts_into("").into()],
            &["0.8.0", "a collection needs a name"],
        ),
        refused(
            "looks up in a collection without a name",
            [convergent(NOTHING).lookup(Lookup::new("it", "", "name", |_, _| {})).into()],
            &["0.8.0", "a collection needs a name"],
        ),
        Wrong {
            name: "asks a condition of a collection without a name",
            on: Both,
            upgrades: vec![
                Upgrade::new("0.8.0", "an upgrade")
                    .condition(Condition::no_document("", doc! {}, "nothing is there"))
                    .step(convergent(NOTHING)),
            ],
            code: 1,
            says: &["0.8.0", "condition \"nothing is there\"", "a collection needs a name"],
        },
        refused(
            "seeds the gate's collection",
            [Seed::new("database_metadata", [doc! { "_id": "lab_schema_version" }]).into()],
            &["0.8.0", "changes database_metadata, which is the gate's"],
        ),
        refused(
            "renames to the gate's collection",
            [Command::rename("things", "database_metadata").into()],
            &["0.8.0", "changes database_metadata, which is the gate's"],
        ),
    ]
}

pub(crate) fn fields() -> Vec<Wrong> {
    let reads = |field: &'static str| refused_fields(field);
    vec![
        reads(""),
        reads("$n"),
        reads("a..b"),
        refused(
            "reads a field and a part of it",
            [convergent(NOTHING).fields(["a", "a.b"]).into()],
            &["0.8.0", "step \"transform things\"", "`a` and `a.b`", "one of them"],
        ),
        refused(
            "finds documents by a field without a name",
            [convergent(NOTHING).lookup(Lookup::new("it", "people", "", |_, _| {})).into()],
            &["0.8.0", "its lookup \"it\"", "no field can be called \"\""],
        ),
        refused(
            "finds documents by a position in an array",
            [convergent(NOTHING).lookup(Lookup::new("it", "people", "tags.0", |_, _| {})).into()],
            &["0.8.0", "its lookup \"it\"", "names a position"],
        ),
        refused(
            "declares one counter twice",
            [convergent(NOTHING)
                .action(ActionType::Update, "marked", "Mark {n}")
                .action(ActionType::Update, "marked", "Mark {n} again")
                .into()],
            &["0.8.0", "step \"transform things\"", "declares the counter \"marked\" twice"],
        ),
        refused(
            "names a step with nothing",
            [convergent(NOTHING).named("").into()],
            &["0.8.0", "a step", "needs a name"],
        ),
        refused(
            "creates an index without keys",
            [Command::create_index("things", "none", doc! {}).into()],
            &["0.8.0", "\"Create index none on things\"", "keys"],
        ),
        refused(
            "drops the index of _id",
            [Command::drop_index("things", "_id_").into()],
            &["0.8.0", "\"Drop index _id_ on things\"", "_id"],
        ),
        refused(
            "drops all indexes",
            [Command::drop_index("things", "*").into()],
            &["0.8.0", "\"Drop index * on things\"", "one by one"],
        ),
    ]
}

fn refused_fields(field: &'static str) -> Wrong {
    refused(
        match field {
            "" => "reads a field without a name",
            "$n" => "reads a field that is an operator",
            _ => "reads a field with an empty part",
        },
        [convergent(NOTHING).fields([field]).into()],
        &["0.8.0", "step \"transform things\"", "no field can be called"],
    )
}

pub(crate) fn contradictions() -> Vec<Wrong> {
    let people = || Command::drop_collection("people");
    vec![
        refused(
            "looks up what an earlier step drops",
            [people().into(), convergent(NOTHING).lookup(owner("owner")).into()],
            &["0.8.0", "step \"transform things\" reads people", "\"Drop people\" takes it away"],
        ),
        refused(
            "transforms what an earlier step renames",
            [Command::rename("things", "stuff").into(), of("things")],
            &[
                "0.8.0",
                "step \"transform things\" reads things",
                "\"Rename things to stuff\" takes it away",
            ],
        ),
        refused(
            "drops what it renamed already",
            [Command::rename("people", "persons").into(), people().into()],
            &["0.8.0", "\"Drop people\"", "takes it away"],
        ),
    ]
}

pub(crate) fn versions() -> Vec<Wrong> {
    let of = |name, text: &'static str, says| Wrong {
        name,
        on: Both,
        upgrades: vec![version(text, things(NOTHING).convergent())],
        code: 1,
        says,
    };
    vec![
        of("has a bare number after a hyphen", "0.8.0-1", &["0.8.0-1", "bare number"]),
        of("has an empty version", "", &["\"\""]),
        of("has a local version", "0.8.0+local", &["0.8.0+local"]),
        of("has a post release", "0.8.0.post1", &["0.8.0.post1"]),
        of("has a version that is a range", ">=0.8.0", &[">=0.8.0"]),
        of("has a pre-release that PEP 440 cannot read", "0.8.0-nightly.1", &["0.8.0-nightly.1"]),
    ]
}

/// What the right neighbours of these are.
pub(crate) fn right() -> Vec<Vec<Step>> {
    let keys = |_: &mongodb::bson::RawDocument, _: &mut Keys| {};
    vec![
        vec![of("things.old"), of("a system.of.things")],
        vec![
            Command::drop_collection("people").into(),
            Seed::new("people", [doc! { "_id": 1 }]).into(),
        ],
        vec![
            Command::rename("people", "persons").into(),
            of("persons"),
            Command::rename("persons", "people").into(),
            of("people"),
        ],
        vec![convergent(NOTHING).fields(["n", "list.name"]).into()],
        vec![convergent(NOTHING).lookup(Lookup::new("it", "people", "a.b", keys)).into()],
    ]
}
