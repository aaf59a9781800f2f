//! `create_index`.

use mongodb::bson::Document;
use mongodb::options::Collation;

use crate::authoring::command::Command;
use crate::authoring::pipeline_mistakes::of_partial;
use crate::authoring::step::Step;
use crate::files::language;
use crate::files::node::Node;
use crate::files::reader::Reader;
use crate::files::steps::kind::{Kind, Written};

pub(super) const KIND: Kind = Kind { key: "create_index", read };

fn read(reader: &mut Reader<'_, '_>, step: &mut Written<'_>) -> Option<Step> {
    let collection = step.collection(reader);
    let keys = step.required(reader, "keys", "the fields: `keys: { board: 1, position: 1 }`");
    let keys = keys.and_then(|node| reader.document(node).map(|keys| (keys, node)));
    let name = step.required(reader, "name", "the index's name: `name: board_position`");
    let name = name.and_then(|node| reader.line(node).map(str::to_owned));
    let unique = step.fields.optional("unique").map(|node| reader.truth(node));
    let sparse = step.fields.optional("sparse").map(|node| reader.truth(node));
    let partial = step.fields.optional("partial").map(|node| {
        language::filter(reader, node);
        let filter = reader.document(node)?;
        reader.of_server(node, of_partial(&filter)).map(|()| filter)
    });
    let expire = step.fields.optional("expire_after").map(|node| duration(reader, node));
    let collation = step.fields.optional("collation").map(|node| collation(reader, node));
    let ((keys, place), collection, name) = (keys?, collection?, name?);
    if keys.is_empty() {
        reader.wrong(&place.span, "an index needs keys", "`keys: { board: 1, position: 1 }`");
        return None;
    }
    let mut index = Command::create_index(collection, name, keys);
    if unique.unwrap_or(Some(false))? {
        index = index.unique();
    }
    if sparse.unwrap_or(Some(false))? {
        index = index.sparse();
    }
    if let Some(partial) = partial {
        index = index.partial(partial?);
    }
    if let Some(expire) = expire {
        index = index.expire_after(expire?);
    }
    if let Some(collation) = collation {
        index = index.collation(collation?);
    }
    Some(Command::from(index).named(step.default_name()).into())
}

/// A time like `30d`, as settings have it.
fn duration(reader: &mut Reader<'_, '_>, node: &Node) -> Option<std::time::Duration> {
    reader.duration(node, "a time with its unit: `90s`, `12h` or `30d`")
}

fn collation(reader: &mut Reader<'_, '_>, node: &Node) -> Option<Collation> {
    let document: Document = reader.document(node)?;
    let known = [
        "locale",
        "strength",
        "caseLevel",
        "caseFirst",
        "numericOrdering",
        "alternate",
        "maxVariable",
        "normalization",
        "backwards",
    ];
    let unknown = document.keys().find(|key| !known.contains(&key.as_str()));
    let read = mongodb::bson::deserialize_from_document(document.clone());
    match (unknown, read) {
        (None, Ok(collation)) => Some(collation),
        (unknown, _) => {
            let what = unknown.map(|key| format!(": `{key}` is not known")).unwrap_or_default();
            let expected = "a collation as { locale: en, strength: 2 } is expected";
            reader.wrong(&node.span, format!("this is not a collation{what}"), expected);
            None
        }
    }
}
