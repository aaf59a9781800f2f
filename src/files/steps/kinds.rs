//! The kinds of steps that a file may have.

use crate::authoring::step::Step;
use crate::files::node::{Node, Span, Value};
use crate::files::reader::{Reader, quoted};
use crate::files::steps::kind::{Kind, Written};
use crate::files::steps::{
    copy, create_index, delete, drop, drop_index, rename, seed, update, validator,
};
use crate::process::settings::slip_of;

/// All kinds, in the order in which they are listed.
const KINDS: &[Kind] = &[
    update::KIND,
    copy::KIND,
    delete::KIND,
    seed::KIND,
    create_index::KIND,
    drop_index::KIND,
    validator::KIND,
    rename::KIND,
    drop::KIND,
];

/// The kind that does what is called so elsewhere.
fn meant(key: &str) -> Option<&'static str> {
    Some(match key {
        "upsert" | "insert" | "insertOne" | "insertMany" | "documents" => "seed",
        "updateOne" | "updateMany" | "set" | "program" | "transform" => "update",
        "deleteMany" | "remove" => "delete",
        "move" | "aggregate" | "pipeline" | "into" => "copy",
        "index" | "keys" | "ensureIndex" => "create_index",
        "collMod" | "schema" => "validator",
        _ => return None,
    })
}

/// Reads a step, the one of this number in its file, and says where its kind is written.
pub(crate) fn read(
    reader: &mut Reader<'_, '_>,
    node: &Node,
    (file, number): (&str, usize),
) -> Option<(Step, Span)> {
    let mut fields = reader.fields(node)?;
    let keys: Vec<&str> = KINDS.iter().map(|kind| kind.key).collect();
    let mut found = vec![];
    for kind in KINDS {
        if let Some(entry) = fields.entry(kind.key) {
            found.push((kind, entry));
        }
    }
    found.sort_by_key(|(_, entry)| entry.at.start);
    let (kind, entry) = match found[..] {
        [found] => found,
        [] => {
            let start = node.span.start..node.span.start;
            let others = |key: &str| ["name", "where", "report"].contains(&key);
            let all = format!("a step has one of {}", quoted(&keys));
            match fields.keys().find(|entry| !others(&entry.key)) {
                Some(entry) => {
                    let slip = slip_of(&entry.key, keys).or(meant(&entry.key));
                    let message = format!("`{}` is not a kind of step", entry.key);
                    let expected = slip.map(|kind| format!("did you mean `{kind}`?"));
                    reader.wrong(&entry.at, message, expected.unwrap_or(all));
                }
                None => reader.wrong(&start, "this step does not say what it does", all),
            }
            return None;
        }
        [(first, _), (_, second), ..] => {
            let message = format!("the step has both `{}` and `{}`", first.key, second.key);
            let expected = match (second.key.as_str(), &second.node.value) {
                ("delete", Value::Bool(_)) => "did you mean `deletes`?",
                _ => "write two steps",
            };
            reader.wrong(&second.at, message, expected);
            return None;
        }
    };
    fields.knows_only(kind.key);
    let at = entry.at.clone();
    let default_name = format!("{file}, step {number}: {}", kind.key);
    let mut written = Written { fields, at: at.clone(), subject: &entry.node, default_name };
    let step = (kind.read)(reader, &mut written);
    written.fields.finish(reader);
    let step = step?;
    if let Some(mistake) = step.mistake() {
        // the place says which step it is
        let named = format!("step \"{}\": ", step.name());
        reader.wrong(&at, mistake.strip_prefix(&named).unwrap_or(&mistake), "");
        return None;
    }
    Some((step, at))
}
