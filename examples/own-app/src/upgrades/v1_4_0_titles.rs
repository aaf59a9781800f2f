//! The name of a note becomes its title.

use upgrade_gate::bson::{RawDocument, doc};
use upgrade_gate::{ActionType, Condition, Edits, Found, StepError, Transform, Upgrade};

pub fn upgrade() -> Upgrade {
    Upgrade::new("1.4.0", "call the name of a note its title")
        .condition(Condition::no_document(
            "notes",
            doc! { "name": { "$exists": true }, "title": { "$exists": true } },
            "no note has both a name and a title",
        ))
        .step(
            Transform::new("notes", name_to_title)
                .filter(doc! { "name": { "$exists": true } })
                .fields(["name", "title"])
                .action(ActionType::Update, "moved", "Move {n} name(s) to title")
                .convergent(),
        )
}

fn name_to_title(note: &RawDocument, _: &Found, edits: &mut Edits) -> Result<(), StepError> {
    if let Some(name) = note.get("name")? {
        edits.set("title", name);
        edits.unset("name");
        edits.count("moved", 1);
    }
    Ok(())
}
