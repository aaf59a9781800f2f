//! Loans show the title that the newest revision of a thing has. Loans of things that are no longer in the
//! catalogue go, with their events, unless they are still out.

use upgrade_gate::bson::{RawDocument, doc};
use upgrade_gate::{
    ActionType, Command, Edits, Found, Keys, Lookup, StepError, Transform, Upgrade,
};

pub fn upgrade() -> Upgrade {
    Upgrade::new("2.3.0", "show today's titles, and delete loans of what is gone")
        // without it the server would read all assets for every batch of loans
        .step(Command::create_index("assets", "by_code", doc! { "code": 1 }))
        .step(
            Transform::new("loans", refresh)
                .fields(["code", "title", "back", "gone"])
                .lookup(
                    Lookup::new("revisions", "assets", "code", code).fields(["title", "revision"]),
                )
                .deletes()
                .action(ActionType::Update, "refreshed", "Refresh the title of {n} loan(s)")
                .action(ActionType::Update, "gone", "Mark {n} loan(s) of things that are gone")
                .action(ActionType::Delete, "deleted", "Delete {n} loan(s) of things that are gone")
                .convergent(),
        )
        .step(
            Transform::new("loan_events", remove_orphan)
                .fields(["loan"])
                .lookup(Lookup::new("loan", "loans", "_id", loan).fields(["_id"]))
                .deletes()
                .action(ActionType::Delete, "deleted", "Delete {n} event(s) of loans that are gone")
                .convergent(),
        )
        // created again under the same name, with another key
        .step(Command::drop_index("loans", "by_code"))
        .step(Command::create_index("loans", "by_code", doc! { "code": 1, "out": -1 }))
}

fn code(loan: &RawDocument, keys: &mut Keys) {
    if let Ok(code) = loan.get_str("code") {
        keys.add(code);
    }
}

fn refresh(loan: &RawDocument, found: &Found, edits: &mut Edits) -> Result<(), StepError> {
    let mut newest: Option<(i32, &str)> = None;
    for asset in found.all("revisions", loan.get_str("code")?.into())? {
        let revision = asset.get_i32("revision")?;
        if newest.is_none_or(|(other, _)| revision > other) {
            newest = Some((revision, asset.get_str("title")?));
        }
    }
    match newest {
        Some((_, title)) if loan.get_str("title")? != title => {
            edits.set("title", title);
            edits.count("refreshed", 1);
        }
        Some(_) => {}
        None if loan.get_datetime("back").is_ok() => {
            edits.delete();
            edits.count("deleted", 1);
        }
        None if loan.get("gone")?.is_none() => {
            // one time for the whole upgrade, also when it is killed and resumed
            edits.set("gone", edits.started());
            edits.count("gone", 1);
        }
        None => {}
    }
    Ok(())
}

fn loan(event: &RawDocument, keys: &mut Keys) {
    if let Ok(Some(loan)) = event.get("loan") {
        keys.add(loan);
    }
}

fn remove_orphan(event: &RawDocument, found: &Found, edits: &mut Edits) -> Result<(), StepError> {
    let Some(loan) = event.get("loan")? else { return Ok(()) };
    if found.all("loan", loan)?.next().is_none() {
        edits.delete();
        edits.count("deleted", 1);
    }
    Ok(())
}
