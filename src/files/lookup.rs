//! Look-ups of a step, as files write them.

use crate::authoring::lookup::Lookup;
use crate::files::node::{Node, Value};
use crate::files::reader::Reader;

/// The list of a step's look-ups.
pub(crate) fn read(reader: &mut Reader<'_, '_>, node: &Node) -> Option<Vec<Lookup>> {
    let items = reader.list(node)?;
    let mut names = vec![];
    let mut lookups: Option<Vec<Lookup>> = Some(vec![]);
    for item in items {
        let lookup = one(reader, item, &mut names);
        match (lookup, &mut lookups) {
            (Some(lookup), Some(lookups)) => lookups.push(lookup),
            _ => lookups = None,
        }
    }
    lookups
}

fn one(reader: &mut Reader<'_, '_>, node: &Node, names: &mut Vec<String>) -> Option<Lookup> {
    let mut fields = reader.fields(node)?;
    let start = node.span.start..node.span.start;
    let of = (&start, "the look-up");
    let from = fields.required(reader, "from", of, "the collection: `from: boards`");
    let from = from.and_then(|node| reader.collection(node));
    let expected = "the field of the step's document that is looked up: `local: board`";
    let local = fields.required(reader, "local", of, expected);
    let local = local.and_then(|node| {
        let path = reader.path(node)?;
        if path.split('.').skip(1).any(|part| part.bytes().all(|byte| byte.is_ascii_digit())) {
            let message = format!("`{path}` names a field, and no position in an array");
            let expected = "without the number each element of the array is looked up";
            reader.mistakes.warn(&reader.source, &node.span, message, expected);
        }
        Some(path)
    });
    let expected = "the field that a found document has the value in: `foreign: _id`";
    let foreign = fields.required(reader, "foreign", of, expected);
    let foreign = foreign.and_then(|node| reader.path(node));
    let expected = "the name under which they are at hand: `as: board` is $_found.board";
    let name_node = fields.required(reader, "as", of, expected);
    let name = name_node.and_then(|node| reader.line(node).map(str::to_owned));
    let only = fields.optional("fields").map(|node| reader.lines(node));
    let natural = fields.optional("order").map(|node| order(reader, node));
    fields.finish(reader);
    if let Some((name, node)) = name.as_ref().zip(name_node) {
        if name.contains(['.', '$']) {
            reader.wrong(&node.span, "no look-up can be called so", "a name without dots and `$`");
            return None;
        }
        if names.contains(name) {
            let message = format!("two look-ups of the step are called \"{name}\"");
            reader.wrong(&node.span, message, "name them apart");
            return None;
        }
        names.push(name.clone());
    }
    let mut lookup = Lookup::by_field(name?, from?, foreign?, local?);
    if let Some(only) = only {
        lookup = lookup.fields(only?);
    }
    match natural {
        Some(Order::Natural) => Some(lookup.in_natural_order()),
        Some(Order::Wrong) => None,
        None => Some(lookup),
    }
}

/// What `order` says.
enum Order {
    Natural,
    Wrong,
}

fn order(reader: &mut Reader<'_, '_>, node: &Node) -> Order {
    if matches!(&node.value, Value::Text(text) if text == "natural") {
        return Order::Natural;
    }
    let expected = "`order: natural`; without it found documents come in the order of their _id";
    reader.wrong(&node.span, "this is not an order of documents", expected);
    Order::Wrong
}
