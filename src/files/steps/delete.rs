//! `delete`: documents that go.

use crate::authoring::pipeline_mistakes::of_filter;
use crate::authoring::step::Step;
use crate::authoring::transform::Transform;
use crate::files::reader::Reader;
use crate::files::steps::kind::{Kind, Written};
use crate::process::action::ActionType;

pub(super) const KIND: Kind = Kind { key: "delete", read };

/// The counter of the documents that were deleted.
const DELETED: &str = "deleted";

fn read(reader: &mut Reader<'_, '_>, step: &mut Written<'_>) -> Option<Step> {
    let collection = step.collection(reader);
    let expected = "which documents go: `where: { archived: true }`";
    let filter_node = step.required(reader, "where", expected);
    let filter = filter_node.and_then(|node| {
        let filter = reader.document(node)?;
        reader.of_server(node, of_filter(&filter)).map(|()| filter)
    });
    let report = step.fields.optional("report");
    let report = report.map(|node| reader.report(node, &["n"]).map(str::to_owned));
    let name = step.name(reader);
    let collection = collection?;
    let usual = || Some(format!("Delete {{n}} document(s) of {collection}"));
    let report = report.unwrap_or_else(usual)?;
    let delete = Transform::new(collection, |_, _, edits| {
        edits.delete();
        edits.count(DELETED, 1);
        Ok(())
    });
    let delete = delete.filter(filter?).deletes().convergent().named(name?);
    Some(delete.action(ActionType::Delete, DELETED, report).into())
}
