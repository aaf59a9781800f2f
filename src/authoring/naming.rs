//! What a table of upgrades names: names that nothing can have, and what an earlier step took away.

use std::collections::{HashMap, HashSet};

use crate::authoring::command::Command;
use crate::authoring::condition::Condition;
use crate::authoring::upgrade::{Step, Transform};

/// What is wrong with the names of one step.
pub(crate) fn step_mistake(step: &Step) -> Option<String> {
    let name = step.name();
    if name.is_empty() {
        return Some("a step has an empty name: it needs a name, or none given".to_owned());
    }
    let in_step = |mistake: String| format!("step \"{name}\": {mistake}");
    let names = collections(step);
    if let Some(mistake) = names.iter().find_map(|name| collection_mistake(name)) {
        return Some(in_step(mistake));
    }
    match step {
        Step::Transform(transform) => transform_mistake(transform).map(in_step),
        Step::Command(command) => command_mistake(command).map(in_step),
        Step::Seed(_) | Step::Transaction(_) => None,
    }
}

/// What is wrong with the collection of a condition.
pub(crate) fn condition_mistake(condition: &Condition) -> Option<String> {
    let mistake = collection_mistake(&condition.collection)?;
    Some(format!("condition \"{}\": {mistake}", condition.description))
}

/// Every collection that a step names.
fn collections(step: &Step) -> Vec<&str> {
    match step {
        Step::Command(command) => command.collections(),
        _ => [step.reads(), step.writes()].concat(),
    }
}

/// Why no collection of an application can have this name.
fn collection_mistake(name: &str) -> Option<String> {
    let why = match name {
        "" => return Some("a collection needs a name".to_owned()),
        _ if name.contains('$') => "it holds `$`",
        _ if name.contains('\0') => "it holds a zero byte",
        _ if name.starts_with('.') => "it begins with a dot",
        _ if name.starts_with("system.") => {
            return Some(format!("\"{name}\" is one of the server's own collections"));
        }
        _ => return None,
    };
    Some(format!("no collection can be called {name:?}: {why}"))
}

fn transform_mistake(transform: &Transform) -> Option<String> {
    let part = |part: &str| part.is_empty() || part.starts_with('$') || part.contains('\0');
    if let Some(field) = transform.fields.iter().find(|field| field.split('.').any(part)) {
        return Some(format!("no field can be called {field:?}"));
    }
    let fields: HashSet<&str> = transform.fields.iter().map(|field| &**field).collect();
    for field in &transform.fields {
        let whole = field.match_indices('.').map(|(dot, _)| &field[..dot]);
        if let Some(whole) = whole.into_iter().find(|whole| fields.contains(whole)) {
            return Some(format!(
                "it reads both `{whole}` and `{field}`, a part of it: name one of them"
            ));
        }
    }
    let mut counters = HashSet::new();
    for counter in &transform.counters {
        if counter.name.is_empty() {
            return Some("a counter needs a name".to_owned());
        }
        if !counters.insert(&*counter.name) {
            return Some(format!("it declares the counter \"{}\" twice", counter.name));
        }
    }
    None
}

fn command_mistake(command: &Command) -> Option<String> {
    let mistake = match command {
        Command::CreateIndex { index, .. } if index.keys.is_empty() => "an index needs keys",
        Command::DropIndex { name, .. } if name == "_id_" => "the index of _id cannot be dropped",
        Command::DropIndex { name, .. } if name == "*" => "drop indexes one by one, by their names",
        Command::DropIndex { name, .. } if name.is_empty() => "an index needs a name",
        Command::Rename { from, to } if from == to => "a collection cannot be renamed to itself",
        _ => return None,
    };
    Some(mistake.to_owned())
}

/// A step that needs a collection which an earlier step of its version took away, and none brought back.
pub(crate) fn missing_mistake<'a>(steps: impl Iterator<Item = &'a Step>) -> Option<String> {
    let mut gone: HashMap<String, String> = HashMap::new();
    for step in steps {
        let (needs, verb) = match step {
            Step::Transform(_) => (step.reads(), "reads"),
            Step::Command(Command::Rename { from, .. }) => (vec![&**from], "renames"),
            Step::Command(Command::Drop { collection }) => (vec![&**collection], "drops"),
            _ => (vec![], ""),
        };
        if let Some((name, by)) = needs.iter().find_map(|name| gone.get_key_value(*name)) {
            return Some(format!(
                "step \"{}\" {verb} {name}, but the earlier step \"{by}\" takes it away: change their \
                 order, or the collection",
                step.name()
            ));
        }
        for name in collections(step) {
            gone.remove(name);
        }
        if let Step::Command(
            Command::Rename { from: name, .. } | Command::Drop { collection: name },
        ) = step
        {
            gone.insert(name.to_string(), step.name());
        }
    }
    None
}
