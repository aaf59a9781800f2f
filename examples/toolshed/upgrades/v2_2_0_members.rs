//! Members who signed up twice, under spellings of one e-mail address, become one.

use upgrade_gate::bson::{RawDocument, doc};
use upgrade_gate::{
    ActionType, Command, Condition, Edits, Found, Keys, Lookup, StepError, Transform, Upgrade,
};

pub fn upgrade() -> Upgrade {
    Upgrade::new("2.2.0", "make members with one e-mail address one member")
        .condition(Condition::no_document(
            "members",
            doc! { "email": { "$not": { "$type": "string" } } },
            "every member has an e-mail address",
        ))
        .step(
            Transform::new("members", normalise)
                .named("normalise")
                .filter(doc! { "email_key": { "$exists": false } })
                .fields(["email", "email_key"])
                .action(ActionType::Update, "normalised", "Normalise {n} e-mail address(es)")
                .convergent(),
        )
        // for the look-up of the next step
        .step(Command::create_index("members", "for_merging", doc! { "email_key": 1 }))
        .step(
            Transform::new("members", choose)
                .named("choose")
                .filter(doc! { "merged_into": { "$exists": false } })
                .fields(["email", "merged_into"])
                .lookup(Lookup::new("same", "members", "email_key", own_key).fields(["joined"]))
                .action(ActionType::Update, "duplicates", "Mark {n} duplicate(s)")
                .convergent(),
        )
        .step(
            Transform::new("loans", follow)
                .named("follow")
                .fields(["member"])
                .lookup(Lookup::new("member", "members", "_id", member).fields(["merged_into"]))
                .action(ActionType::Update, "loans", "Move {n} loan(s) to the member who stays")
                .convergent(),
        )
        .step(
            Transform::new("members", remove)
                .named("remove")
                .filter(doc! { "merged_into": { "$exists": true } })
                .fields(["merged_into"])
                .deletes()
                .action(ActionType::Delete, "deleted", "Delete {n} duplicate(s)")
                .convergent(),
        )
        .step(Command::drop_index("members", "for_merging"))
        .step(Command::create_index("members", "by_email_key", doc! { "email_key": 1 }).unique())
}

fn email_key(member: &RawDocument) -> Result<String, StepError> {
    Ok(member.get_str("email")?.trim().to_lowercase())
}

fn normalise(member: &RawDocument, _: &Found, edits: &mut Edits) -> Result<(), StepError> {
    if member.get("email_key")?.is_none() {
        edits.set("email_key", email_key(member)?);
        edits.count("normalised", 1);
    }
    Ok(())
}

/// A key is computed, not read: the step that looks up `email_key` must not list it among its fields.
fn own_key(member: &RawDocument, keys: &mut Keys) {
    if let Ok(key) = email_key(member) {
        keys.add(key.as_str());
    }
}

/// Of all members with the same address, the first to join stays; on a tie, the one with the lowest `_id`.
fn choose(member: &RawDocument, found: &Found, edits: &mut Edits) -> Result<(), StepError> {
    if member.get("merged_into")?.is_some() {
        return Ok(());
    }
    let mut first = None;
    for same in found.all("same", email_key(member)?.as_str().into())? {
        let candidate = (same.get_datetime("joined")?, same.get_object_id("_id")?);
        if first.is_none_or(|first| candidate < first) {
            first = Some(candidate);
        }
    }
    if let Some((_, stays)) = first
        && stays != member.get_object_id("_id")?
    {
        edits.set("merged_into", stays);
        edits.count("duplicates", 1);
    }
    Ok(())
}

fn member(loan: &RawDocument, keys: &mut Keys) {
    if let Ok(Some(member)) = loan.get("member") {
        keys.add(member);
    }
}

fn follow(loan: &RawDocument, found: &Found, edits: &mut Edits) -> Result<(), StepError> {
    let Some(id) = loan.get("member")? else { return Ok(()) };
    if let Some(member) = found.all("member", id)?.next()
        && let Some(stays) = member.get("merged_into")?
    {
        edits.set("member", stays);
        edits.count("loans", 1);
    }
    Ok(())
}

fn remove(member: &RawDocument, _: &Found, edits: &mut Edits) -> Result<(), StepError> {
    if member.get("merged_into")?.is_some() {
        edits.delete();
        edits.count("deleted", 1);
    }
    Ok(())
}
