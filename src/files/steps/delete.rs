//! `delete`: documents that go.

use crate::authoring::delete::Delete;
use crate::authoring::pipeline_mistakes::of_filter;
use crate::authoring::step::Step;
use crate::files::language;
use crate::files::reader::Reader;
use crate::files::steps::kind::{Kind, Written};

pub(super) const KIND: Kind = Kind { key: "delete", read };

fn read(reader: &mut Reader<'_, '_>, step: &mut Written<'_>) -> Option<Step> {
    let collection = step.collection(reader);
    let expected = "which documents go: `where: { archived: true }`";
    let filter_node = step.required(reader, "where", expected);
    let filter = filter_node.and_then(|node| {
        let filter = reader.document(node)?;
        language::filter(reader, node);
        reader.of_server(node, of_filter(&filter)).map(|()| filter)
    });
    let report = step.fields.optional("report");
    let report = report.map(|node| reader.report(node, &["n"]).map(str::to_owned));
    let name = step.name(reader);
    let delete = Delete::new(collection?, filter?).named(name?);
    match report {
        Some(report) => Some(delete.report(report?).into()),
        None => Some(delete.into()),
    }
}
