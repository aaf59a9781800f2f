//! An upgrade that writes two collections together: the blocks embedded in datalab's items become
//! documents of their own (datalab's issue 48). An example; datalab itself has no such upgrade yet.

use std::process::ExitCode;

use upgrade_gate::bson::{RawArray, RawArrayBuf, RawBsonRef, RawDocument, doc, rawdoc};
use upgrade_gate::{
    ActionType, Edits, Found, Gate, StepError, Transform, Upgrade, derived_object_id,
};

fn main() -> ExitCode {
    gate().main()
}

/// The gate of an application that keeps blocks in a collection of their own from 0.9.0 on.
pub fn gate() -> Gate {
    Gate::new("datalab", "0.9.0").upgrades([Upgrade::new("0.9.0", "move blocks out of items")
        .step(
            Transform::new("items", move_blocks)
                .filter(doc! { "blocks_obj": { "$exists": true, "$ne": {} } })
                .fields(["blocks_obj", "creator_ids"])
                .inserts_into("blocks")
                .action(ActionType::Update, "moved", "Move {n} block(s) out of their items")
                .convergent(),
        )])
}

fn move_blocks(item: &RawDocument, _: &Found, edits: &mut Edits) -> Result<(), StepError> {
    let Some(RawBsonRef::Document(blocks)) = item.get("blocks_obj")? else {
        return Ok(());
    };
    let no_creators = RawArrayBuf::new();
    let creators: &RawArray = match item.get("creator_ids")? {
        Some(RawBsonRef::Array(creators)) => creators,
        _ => &no_creators,
    };
    for block in blocks {
        let (key, block) = block?;
        let RawBsonRef::Document(data) = block else { continue };
        // an entry without a type is a reference already
        let (Ok(block_type), Ok(block_id)) = (data.get_str("blocktype"), data.get_str("block_id"))
        else {
            continue;
        };
        // The same for the same block whenever it is computed: a block that was written before a crash is
        // found again, and not written twice.
        let Some(item_id) = item.get("_id")? else { continue };
        let parts = [item_id, RawBsonRef::String(key.as_str()), RawBsonRef::Document(data)];
        let id = derived_object_id("blocks", parts);
        edits.insert(
            "blocks",
            rawdoc! {
                "_id": id,
                "type": "blocks",
                "block_id": block_id,
                "blocktype": block_type,
                "data": data.to_owned(),
                "creator_ids": creators.to_owned(),
                "version": 0,
            },
        );
        edits.set(format!("blocks_obj.{key}"), rawdoc! { "immutable_id": id });
        edits.count("moved", 1);
    }
    Ok(())
}
