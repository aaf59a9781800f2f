//! `gate.yaml`: what the application is.

use crate::files::node::{Node, Span};
use crate::files::reader::Reader;
use crate::record::lock::LOCK_ID;
use crate::version::Version;

/// What `gate.yaml` says, as far as it was understood.
#[derive(Debug, Default)]
pub(crate) struct GateFile {
    pub(crate) app: Option<String>,
    pub(crate) version: Option<Version>,
    /// Whether it names a version, understood or not.
    pub(crate) has_version: bool,
    pub(crate) oldest: Option<(Version, Span)>,
    pub(crate) collection: Option<String>,
    pub(crate) id: Option<String>,
    /// The collection and the field where the application keeps its version.
    pub(crate) stamp: Option<(String, String)>,
}

/// More bytes than that in a name are a mistake.
const LONGEST: usize = 100;

pub(crate) fn read(reader: &mut Reader<'_, '_>, root: &Node) -> GateFile {
    let mut file = GateFile::default();
    let Some(mut fields) = reader.fields(root) else { return file };
    let start = root.span.start..root.span.start;
    let expected = "the application's name, which is also that of its record: `app: kanban`";
    if let Some(node) = fields.required(reader, "app", (&start, "gate.yaml"), expected) {
        file.app = name(reader, node);
    }
    if let Some(node) = fields.optional("version") {
        file.has_version = true;
        file.version = reader.version(node);
    }
    if let Some(node) = fields.optional("oldest") {
        file.oldest = reader.version(node).map(|version| (version, node.span.clone()));
    }
    if let Some(mut record) = fields.optional("record").and_then(|node| reader.fields(node)) {
        file.collection = record.optional("collection").and_then(|node| reader.collection(node));
        if let Some(node) = record.optional("id") {
            file.id = reader.line(node).map(str::to_owned);
            if file.id.as_deref() == Some(LOCK_ID) {
                reader.wrong(
                    &node.span,
                    "the gate's lock has this `_id`",
                    "another name is expected",
                );
            }
        }
        record.finish(reader);
    }
    if let Some(node) = fields.optional("stamp")
        && let Some(mut stamp) = reader.fields(node)
    {
        let of = (&node.span, "`stamp`");
        let collection = stamp.required(reader, "collection", of, "`collection: settings`");
        let field = stamp.required(reader, "field", of, "`field: version`");
        let collection = collection.and_then(|node| reader.collection(node));
        let field = field.and_then(|node| {
            let path = reader.path(node)?;
            if path.split('.').next() == Some("_id") {
                let expected = "the field that the application keeps its version in";
                reader.wrong(&node.span, "the `_id` cannot be the stamp", expected);
                return None;
            }
            Some(path)
        });
        file.stamp = collection.zip(field);
        stamp.finish(reader);
    }
    fields.finish(reader);
    file
}

/// A name that can begin the names of a document and of a field.
fn name(reader: &mut Reader<'_, '_>, node: &Node) -> Option<String> {
    let name = reader.line(node)?;
    let wrong = |c: char| c.is_control() || c.is_whitespace() || ".$\"".contains(c);
    if name.contains(wrong) || name.len() > LONGEST {
        let expected = "a name without spaces, dots, quotes and `$`, of at most 100 characters";
        reader.wrong(&node.span, "this cannot be an application's name", expected);
        return None;
    }
    Some(name.to_owned())
}
