//! `update` with `program`: a program of the author's computes what each document becomes.

use mongodb::bson::Document;

use crate::authoring::lookup::Lookup;
use crate::authoring::program::Program;
use crate::authoring::step::Step;
use crate::files::node::{Node, Value};
use crate::files::reader::Reader;
use crate::files::steps::kind::Written;

/// The rest of a step that has `program`.
pub(super) fn read(
    reader: &mut Reader<'_, '_>,
    step: &mut Written<'_>,
    node: &Node,
    (collection, filter, lookups): (Option<String>, Option<Document>, Option<Vec<Lookup>>),
) -> Option<Step> {
    let command = reader.lines(node).map(|words| reader.program(node, words));
    let env = step.fields.optional("env").map(|node| texts(reader, node));
    let timeout = step.fields.optional("timeout");
    let timeout = timeout.map(|node| {
        reader.duration(node, "a time for each document, with its unit: `30s` or `5m`")
    });
    let into = step.fields.optional("inserts_into").map(|node| {
        // each is judged, whatever is wrong with those before it
        let names: Vec<_> = node.items().iter().map(|item| reader.collection(item)).collect();
        names.into_iter().collect::<Option<Vec<String>>>()
    });
    let deletes = step.fields.optional("deletes").map(|node| reader.truth(node));
    let report = step.fields.optional("report").map(|node| counts(reader, node));
    let name = step.name(reader);
    let mut program = Program::new(collection?, filter?, command??).named(name?);
    for lookup in lookups? {
        program = program.lookup(lookup);
    }
    for (name, value) in env.unwrap_or(Some(vec![]))? {
        program = program.env(name, value);
    }
    if let Some(timeout) = timeout {
        program = program.timeout(timeout?);
    }
    for collection in into.unwrap_or(Some(vec![]))? {
        program = program.inserts_into(collection);
    }
    if deletes.unwrap_or(Some(false))? {
        program = program.deletes();
    }
    for (count, text) in report.unwrap_or(Some(vec![]))? {
        program = program.report(count, text);
    }
    Some(program.into())
}

/// The variables of a program.
fn texts(reader: &mut Reader<'_, '_>, node: &Node) -> Option<Vec<(String, String)>> {
    entries(reader, node, |reader, node| match &node.value {
        Value::Text(text) => Some(text.clone()),
        _ => reader.line(node).map(str::to_owned),
    })
}

/// What a program counts, each with the text of the report.
fn counts(reader: &mut Reader<'_, '_>, node: &Node) -> Option<Vec<(String, String)>> {
    if let Value::Text(_) = node.value {
        let expected = "a program names what it counts: `report: { moved: \"Move {n} card(s)\" }`";
        reader.wrong(&node.span, "expected a mapping, found a string", expected);
        return None;
    }
    entries(reader, node, |reader, node| reader.report(node, &["n"]).map(str::to_owned))
}

fn entries(
    reader: &mut Reader<'_, '_>,
    node: &Node,
    read: impl Fn(&mut Reader<'_, '_>, &Node) -> Option<String>,
) -> Option<Vec<(String, String)>> {
    // any key is a name of the author's
    reader.fields(node)?;
    let Value::Map(entries) = &node.value else { return None };
    let read: Vec<Option<(String, String)>> =
        entries.iter().map(|entry| Some((entry.key.clone(), read(reader, &entry.node)?))).collect();
    read.into_iter().collect()
}
