//! datalab 0.8.0: a relationship that names its item by `item_id`, which may change, gets its refcode.

use upgrade_gate::bson::error::Error;
use upgrade_gate::bson::raw::RawElement;
use upgrade_gate::bson::{RawBsonRef, RawDocument, doc};
use upgrade_gate::{
    ActionType, Condition, Edits, Found, Keys, Lookup, StepError, Transform, Upgrade,
};

/// For every entry of an item's `relationships` that has an `item_id` and no `refcode`: sets the refcode
/// of the item with that `item_id`, or `deprecated: true` where there is none.
pub fn upgrade() -> Upgrade {
    // At least the documents that change, and not those whose entries are all pinned or name no item:
    // `$type` sees into arrays, `""` may match more under a collation, neither may match less.
    let no_refcode =
        doc! { "$or": [{ "refcode": { "$not": { "$type": "string" } } }, { "refcode": "" }] };
    let an_item_id = doc! {
        "$or": [
            { "item_id": { "$exists": true, "$not": { "$type": "null" } } },
            { "item_id": { "$type": "array" } },
        ],
    };
    Upgrade::new("0.8.0", "pin item_id references to refcodes").condition(every_item_has_a_refcode()).step(
        Transform::new("items", pin)
            .filter(
                doc! { "relationships": { "$elemMatch": { "$and": [no_refcode, an_item_id] } } },
            )
            .fields(["relationships"])
            .lookup(Lookup::new("refcode", "items", "item_id", wanted).fields(["refcode"]))
            .action(ActionType::Update, "pinned", "Pin {n} item_id reference(s) to their refcode")
            .action(
                ActionType::Update,
                "deprecated",
                "Deprecate {n} unresolvable item_id reference(s)",
            )
            .convergent(),
    )
}

/// A reference to an item without a refcode would be deprecated for good.
fn every_item_has_a_refcode() -> Condition {
    // Null or missing as `pin` has it: not an array that holds a null, which the first two match as well.
    let none = doc! {
        "$or": [{ "refcode": null }, { "refcode": { "$type": "undefined" } }],
        "$expr": { "$in": [{ "$type": "$refcode" }, ["missing", "null", "undefined"]] },
    };
    Condition::no_document("items", none, "every item has a refcode")
        .remedy(
            "give these items refcodes with datalab's task migration.add_missing_refcodes (in the server's \
             container: `invoke migration.add-missing-refcodes`)",
        )
        .skippable()
}

/// An entry of `relationships` with an `item_id` and no `refcode`.
struct Reference<'a> {
    position: usize,
    entry: &'a RawDocument,
    item_id: RawBsonRef<'a>,
}

fn references(item: &RawDocument) -> Result<Vec<Reference<'_>>, Error> {
    let mut references = vec![];
    let Some(RawBsonRef::Array(entries)) = item.get("relationships")? else {
        return Ok(references);
    };
    for (position, entry) in entries.into_iter().enumerate() {
        let RawBsonRef::Document(entry) = entry? else { continue };
        let [refcode, item_id] = elements(entry, ["refcode", "item_id"])?;
        let truthy = |element: Option<RawElement<'_>>| match element {
            Some(element) => element.value().map(is_truthy),
            None => Ok(false),
        };
        // an `item_id` next to a refcode is ignored
        if !truthy(refcode)?
            && let Some(item_id) = item_id
        {
            let item_id = item_id.value()?;
            if is_truthy(item_id) {
                references.push(Reference { position, entry, item_id });
            }
        }
    }
    Ok(references)
}

/// The first element of each name, found on one way through the document.
fn elements<'a, const N: usize>(
    document: &'a RawDocument,
    names: [&str; N],
) -> Result<[Option<RawElement<'a>>; N], Error> {
    let mut found = [const { None }; N];
    for element in document.iter_elements() {
        let element = element?;
        if let Some(at) = names.iter().position(|name| element.key() == *name) {
            found[at].get_or_insert(element);
        }
    }
    Ok(found)
}

/// Truth as Python has it, for the values that its driver reads.
fn is_truthy(value: RawBsonRef<'_>) -> bool {
    match value {
        RawBsonRef::Null | RawBsonRef::Undefined => false,
        RawBsonRef::Boolean(value) => value,
        RawBsonRef::Int32(value) => value != 0,
        RawBsonRef::Int64(value) => value != 0,
        RawBsonRef::Double(value) => value != 0.0,
        RawBsonRef::String(value)
        | RawBsonRef::Symbol(value)
        | RawBsonRef::JavaScriptCode(value) => !value.is_empty(),
        RawBsonRef::JavaScriptCodeWithScope(value) => !value.code.is_empty(),
        RawBsonRef::Binary(value) => !value.bytes.is_empty(),
        RawBsonRef::Array(value) => !value.is_empty(),
        RawBsonRef::Document(value) => !value.is_empty(),
        _ => true,
    }
}

/// The `item_id`s to look up; a document that cannot be read is left to [`pin`].
fn wanted(item: &RawDocument, keys: &mut Keys) {
    for reference in references(item).unwrap_or_default() {
        keys.add(reference.item_id);
    }
}

fn pin(item: &RawDocument, found: &Found, edits: &mut Edits) -> Result<(), StepError> {
    for Reference { position, entry, item_id } in references(item)? {
        // Of several items with one item_id the last counts, as in the dictionary of the Python code.
        let refcode = found
            .all("refcode", item_id)?
            .rev()
            .filter_map(|item| item.get("refcode").ok().flatten())
            .find(|refcode| !matches!(refcode, RawBsonRef::Null | RawBsonRef::Undefined));
        // What is there already is no edit: a refcode may itself be empty.
        let (field, value, counter) = match refcode {
            Some(refcode) => ("refcode", refcode, "pinned"),
            None => ("deprecated", RawBsonRef::Boolean(true), "deprecated"),
        };
        if entry.get(field)? != Some(value) {
            edits.set(format!("relationships.{position}.{field}"), value);
            edits.count(counter, 1);
        }
    }
    Ok(())
}
