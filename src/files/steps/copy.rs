//! `copy`: documents that a pipeline makes of others.

use crate::authoring::copy::Copy;
use crate::authoring::pipeline_mistakes::{of_copy, of_filter};
use crate::authoring::step::Step;
use crate::files::language;
use crate::files::node::{Node, Value};
use crate::files::reader::Reader;
use crate::files::steps::kind::{Kind, Written};

pub(super) const KIND: Kind = Kind { key: "copy", read };

fn read(reader: &mut Reader<'_, '_>, step: &mut Written<'_>) -> Option<Step> {
    let collection = step.collection(reader);
    let expected = "which documents are copied: `where: { comments: { $exists: true } }`";
    let filter_node = step.required(reader, "where", expected);
    let filter = filter_node.and_then(|node| {
        let filter = reader.document(node)?;
        language::filter(reader, node);
        reader.of_server(node, of_filter(&filter)).map(|()| filter)
    });
    let expected = "what is made of each document: `pipeline: [ { $unwind: $comments } ]`; [] copies it as it is";
    let pipeline_node = step.required(reader, "pipeline", expected);
    let stages = pipeline_node.and_then(|node| {
        let stages = reader.documents(node)?;
        language::pipeline(reader, node, None);
        reader.of_server(node, of_copy(&stages)).map(|()| stages)
    });
    let into_node = step.required(reader, "into", "another collection: `into: comments`");
    let into = into_node.and_then(|node| {
        let into = reader.collection(node)?;
        let itself = collection.as_ref() == Some(&into);
        if itself {
            let expected =
                "another collection is expected; an update changes documents where they are";
            reader.wrong(&node.span, "a collection is not copied into itself", expected);
        }
        Some(into).filter(|_| !itself)
    });
    let then = step.fields.optional("then").map(|node| then(reader, node));
    let report = step.fields.optional("report");
    let report = report.map(|node| reader.report(node, &["n"]).map(str::to_owned));
    let name = step.name(reader);
    let mut copy = Copy::new(collection?, filter?, stages?, into?).named(name?);
    if let Some(then) = then {
        then?;
        copy = copy.then_delete();
    }
    match report {
        Some(report) => Some(copy.report(report?).into()),
        None => Some(copy.into()),
    }
}

/// `then: delete`, and nothing else.
fn then(reader: &mut Reader<'_, '_>, node: &Node) -> Option<()> {
    if matches!(&node.value, Value::Text(text) if text == "delete") {
        return Some(());
    }
    let expected = "`then: delete` deletes each source with its copies; without it they stay";
    reader.wrong(&node.span, "the sources of a copy stay, or are deleted", expected);
    None
}
