//! The events embedded in loans become documents of a collection of their own.

use upgrade_gate::bson::{RawBsonRef, RawDocument, doc, rawdoc};
use upgrade_gate::{
    ActionType, Command, Edits, Found, StepError, Transform, Upgrade, derived_object_id,
};

pub fn upgrade() -> Upgrade {
    Upgrade::new("2.1.0", "keep the events of loans in a collection of their own")
        .step(
            Transform::new("loans", move_events)
                .filter(doc! { "events": { "$exists": true } })
                .fields(["events"])
                .inserts_into("loan_events")
                .action(ActionType::Insert, "events", "Move {n} event(s) out of their loans")
                .action(ActionType::Update, "loans", "Remove the list of events from {n} loan(s)")
                .convergent(),
        )
        .step(Command::create_index("loan_events", "by_loan", doc! { "loan": 1, "at": 1 }))
}

fn move_events(loan: &RawDocument, _: &Found, edits: &mut Edits) -> Result<(), StepError> {
    let Some(RawBsonRef::Array(events)) = loan.get("events")? else {
        return Err(StepError::refused("events is not an array"));
    };
    let Some(id) = loan.get("_id")? else { return Ok(()) };
    for (position, event) in events.into_iter().enumerate() {
        let RawBsonRef::Document(event) = event? else {
            return Err(StepError::refused(format!("events.{position} is not a document")));
        };
        // The same _id whenever it is computed: a batch that is tried again inserts nothing twice.
        let parts = [id, RawBsonRef::Int64(position as i64), RawBsonRef::Document(event)];
        let mut document = rawdoc! { "_id": derived_object_id("loan_events", parts), "loan": id };
        for field in event {
            let (name, value) = field?;
            document.append(name, value);
        }
        edits.insert("loan_events", document);
        edits.count("events", 1);
    }
    edits.unset("events");
    edits.count("loans", 1);
    Ok(())
}
