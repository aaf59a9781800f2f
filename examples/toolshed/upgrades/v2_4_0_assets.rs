//! One collection of two kinds of thing becomes two. The workshop's settings get a document.

use upgrade_gate::bson::{RawDocument, RawDocumentBuf, doc};
use upgrade_gate::{
    ActionType, Command, Condition, Edits, Found, Seed, StepError, Transform, Upgrade,
};

pub fn upgrade(currency: &str) -> Upgrade {
    Upgrade::new("2.4.0", "keep tools and books apart")
        .condition(Condition::no_document(
            "assets",
            doc! { "kind": { "$nin": ["tool", "book"] } },
            "every asset is a tool or a book",
        ))
        // what the unique indexes below would refuse is found before anything is written
        .condition(Condition::unique(
            "assets",
            ["code", "revision"],
            doc! {},
            "no two assets share code and revision",
        ))
        .step(
            Transform::new("assets", split)
                .inserts_into("tools")
                .inserts_into("books")
                .deletes()
                .action(ActionType::Insert, "tools", "Move {n} tool(s) to a collection of their own")
                .action(ActionType::Insert, "books", "Move {n} book(s) to a collection of their own")
                .convergent(),
        )
        .step(Command::create_index("tools", "by_code", doc! { "code": 1, "revision": 1 }).unique())
        .step(Command::create_index("books", "by_code", doc! { "code": 1, "revision": 1 }).unique())
        .step(
            Seed::new(
                "settings",
                [doc! { "_id": "lending", "days": { "tool": 7, "book": 21 }, "currency": currency }],
            )
            .report("Add {n} document(s) of settings"),
        )
}

fn split(asset: &RawDocument, _: &Found, edits: &mut Edits) -> Result<(), StepError> {
    let collection = match asset.get_str("kind")? {
        "tool" => "tools",
        "book" => "books",
        _ => return Err(StepError::refused("kind is neither tool nor book")),
    };
    let mut document = RawDocumentBuf::new();
    for field in asset {
        let (name, value) = field?;
        if name != "kind" {
            document.append(name, value);
        }
    }
    edits.insert(collection, document);
    edits.delete();
    edits.count(collection, 1);
    Ok(())
}
