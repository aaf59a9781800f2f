//! `update`: an update pipeline that the server evaluates.

use crate::authoring::pipeline_mistakes::{LookUps, of_update, of_update_filter};
use crate::authoring::step::Step;
use crate::authoring::update::Update;
use crate::files::lookup;
use crate::files::reader::Reader;
use crate::files::steps::kind::{Kind, Written};

pub(super) const KIND: Kind = Kind { key: "update", read };

fn read(reader: &mut Reader<'_, '_>, step: &mut Written<'_>) -> Option<Step> {
    let collection = step.collection(reader);
    let expected =
        "exactly the documents of the old shape: `where: { position: { $exists: false } }`";
    let filter_node = step.required(reader, "where", expected);
    let filter = filter_node.and_then(|node| {
        let filter = reader.document(node)?;
        reader.of_server(node, of_update_filter(&filter)).map(|()| filter)
    });
    let lookups = step.fields.optional("lookup").map(|node| lookup::read(reader, node));
    let look_ups = match &lookups {
        None => LookUps::None,
        Some(_) => LookUps::Some,
    };
    let expected = "an update pipeline: `set: [ { $set: { position: 0 } } ]`";
    let set_node = step.required(reader, "set", expected);
    let stages = set_node.and_then(|node| {
        let stages = reader.documents(node)?;
        reader.of_server(node, of_update(&stages, look_ups)).map(|()| stages)
    });
    let report = step.fields.optional("report");
    let report = report.map(|node| reader.report(node, &["n"]).map(str::to_owned));
    let name = step.name(reader);
    let mut update = Update::new(collection?, filter?, stages?).named(name?);
    for lookup in lookups.unwrap_or(Some(vec![]))? {
        update = update.lookup(lookup);
    }
    match report {
        Some(report) => Some(update.report(report?).into()),
        None => Some(update.into()),
    }
}
