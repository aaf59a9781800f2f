//! Conditions of an upgrade, as files write them.

use crate::authoring::condition::Condition;
use crate::authoring::pipeline_mistakes::of_condition;
use crate::files::language;
use crate::files::node::{Entry, Node};
use crate::files::reader::{Reader, quoted};

const KINDS: [&str; 3] = ["none", "some", "unique"];

pub(crate) fn read(reader: &mut Reader<'_, '_>, node: &Node) -> Option<Condition> {
    let mut fields = reader.fields(node)?;
    let start = node.span.start..node.span.start;
    let expected = "what must hold, in a line: `description: every card has a board`";
    let description = fields.required(reader, "description", (&start, "the condition"), expected);
    let description = description.and_then(|node| reader.line(node).map(str::to_owned));
    let mut kinds: Vec<&Entry> = vec![];
    for kind in KINDS {
        kinds.extend(fields.entry(kind));
    }
    kinds.sort_by_key(|entry| entry.at.start);
    let skippable = fields.optional("skippable").map(|node| reader.truth(node));
    let remedy = fields.optional("remedy").map(|node| reader.line(node).map(str::to_owned));
    fields.finish(reader);
    let kind = match kinds[..] {
        [kind] => kind,
        [] => {
            let expected = format!("one of {} says what is asked", quoted(&KINDS));
            reader.wrong(&start, "the condition asks nothing", expected);
            return None;
        }
        [_, second, ..] => {
            let expected = "write each as a condition of its own";
            reader.wrong(&second.at, "the condition asks two things", expected);
            return None;
        }
    };
    let mut asked = reader.fields(&kind.node)?;
    let quoted = format!("`{}`", kind.key);
    let of = (&kind.at, quoted.as_str());
    let collection = asked.required(reader, "collection", of, "`collection: cards`");
    let collection = collection.and_then(|node| reader.collection(node));
    let filter = asked.optional("match").map(|node| {
        language::filter(reader, node);
        let filter = reader.document(node)?;
        reader.of_server(node, of_condition(&filter)).map(|()| filter)
    });
    let fields = match kind.key.as_str() {
        "unique" => {
            let expected = "the fields that no two documents share: `fields: [board, position]`";
            let fields = asked.required(reader, "fields", of, expected);
            fields.and_then(|node| Some((reader.lines(node)?, node)))
        }
        _ => None,
    };
    asked.finish(reader);
    let (description, collection) = (description?, collection?);
    let filter = filter.unwrap_or(Some(Default::default()))?;
    let mut condition = match kind.key.as_str() {
        "none" => Condition::no_document(collection, filter, description),
        "some" => Condition::some_document(collection, filter, description),
        _ => {
            let (fields, node) = fields?;
            let condition = Condition::unique(collection, fields, filter, description);
            if let Some(mistake) = condition.mistake() {
                let named = format!("condition \"{}\" ", condition.description);
                let mistake = mistake.strip_prefix(&named).unwrap_or(&mistake);
                let expected =
                    "names of fields, without $ and positions: `fields: [ name, owner.id ]`";
                reader.wrong(&node.span, format!("the condition {mistake}"), expected);
                return None;
            }
            condition
        }
    };
    if let Some(mistake) = condition.mistake() {
        reader.wrong(&kind.at, mistake, "");
        return None;
    }
    if skippable.unwrap_or(Some(false))? {
        condition = condition.skippable();
    }
    match remedy {
        Some(remedy) => Some(condition.remedy(remedy?)),
        None => Some(condition),
    }
}
