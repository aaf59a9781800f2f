//! `update`: an update pipeline that the server evaluates.

use crate::authoring::pipeline_mistakes::{LookUps, of_filter, of_update, of_update_filter};
use crate::authoring::step::Step;
use crate::authoring::update::Update;
use crate::files::language;
use crate::files::lookup;
use crate::files::reader::Reader;
use crate::files::steps::kind::{Kind, Written};
use crate::files::steps::program;

pub(super) const KIND: Kind = Kind { key: "update", read };

fn read(reader: &mut Reader<'_, '_>, step: &mut Written<'_>) -> Option<Step> {
    let collection = step.collection(reader);
    let expected =
        "exactly the documents of the old shape: `where: { position: { $exists: false } }`";
    let filter_node = step.required(reader, "where", expected);
    let program = step.fields.entry("program");
    let filter = filter_node.and_then(|node| {
        let filter = reader.document(node)?;
        // a program may be asked about more than it changes
        let mistakes = match program {
            Some(_) => of_filter(&filter),
            None => of_update_filter(&filter),
        };
        let known = reader.mistakes.errors();
        language::filter(reader, node);
        reader.of_server(node, mistakes)?;
        (reader.mistakes.errors() == known).then_some(filter)
    });
    let lookup_node = step.fields.optional("lookup");
    let lookups = lookup_node.map(|node| lookup::read(reader, node));
    if let Some(entry) = program {
        if step.fields.optional("set").is_some() {
            let expected =
                "write one of them: what the server evaluates, or what a program computes";
            reader.wrong(&entry.at, "the step has both `set` and `program`", expected);
        }
        let lookups = lookups.unwrap_or(Some(vec![]));
        return program::read(reader, step, &entry.node, (collection, filter, lookups));
    }
    let look_ups = match &lookups {
        None => LookUps::None,
        Some(_) => LookUps::Some,
    };
    let expected = "an update pipeline: `set: [ { $set: { position: 0 } } ]`, or a `program`";
    let set_node = step.required(reader, "set", expected);
    let stages = set_node.and_then(|node| {
        let stages = reader.documents(node)?;
        let known = reader.mistakes.errors();
        language::pipeline(reader, node, Some(&language::look_ups(lookup_node)));
        reader.of_server(node, of_update(&stages, look_ups))?;
        (reader.mistakes.errors() == known).then_some(stages)
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
