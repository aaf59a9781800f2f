//! `seed`: documents that must be there.

use mongodb::bson::Document;

use crate::authoring::seed::Seed;
use crate::authoring::step::Step;
use crate::files::language;
use crate::files::node::{Node, Value};
use crate::files::reader::Reader;
use crate::files::steps::kind::{Kind, Written};

pub(super) const KIND: Kind = Kind { key: "seed", read };

fn read(reader: &mut Reader<'_, '_>, step: &mut Written<'_>) -> Option<Step> {
    let collection = step.collection(reader);
    let expected = "the documents, each with its _id: `documents: [ { _id: reader } ]`";
    let node = step.required(reader, "documents", expected);
    let documents = node.and_then(|node| documents(reader, node));
    let exact = step.fields.optional("exact").map(|node| reader.truth(node));
    let report = step.fields.optional("report");
    let report = report.map(|node| reader.report(node, &["n"]).map(str::to_owned));
    let name = step.name(reader);
    let (collection, documents) = (collection?, documents?);
    let mut seed = Seed::new(collection, documents).named(name?);
    if exact.unwrap_or(Some(false))? {
        seed = seed.exact();
    }
    if let Some(report) = report {
        seed = seed.report(report?);
    }
    Some(seed.into())
}

/// The documents, each with an `_id`.
fn documents(reader: &mut Reader<'_, '_>, node: &Node) -> Option<Vec<Document>> {
    let mut all = true;
    for item in reader.list(node)? {
        if let Value::Map(entries) = &item.value
            && !entries.iter().any(|entry| entry.key == "_id")
        {
            let expected = "a seed knows by its _id whether a document is there";
            reader.wrong(&item.span, "this document has no _id", expected);
            all = false;
        }
    }
    language::document(reader, node);
    reader.documents(node).filter(|_| all)
}
