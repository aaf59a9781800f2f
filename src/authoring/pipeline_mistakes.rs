//! What no filter or pipeline of a step may hold, found without a server: each mistake with the path to its key.
//!
//! Aggregation, by which a preflight evaluates a pipeline, and update treat these differently, or their outcome
//! depends on more than the document.

use std::fmt;
use std::sync::Arc;

use mongodb::bson::{Bson, Document};

use crate::authoring::lookup::Lookup;
use crate::authoring::pipeline::{FOUND, Pipeline, fields_of_filter};
use crate::process::settings::slip_of;

/// A mistake in a filter or a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// The keys from the top down to the one that is wrong; the positions in arrays are numbers.
    pub(crate) path: Vec<String>,
    /// What is wrong with it, and what is expected.
    pub(crate) reason: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.is_empty() {
            true => f.write_str(&self.reason),
            false => write!(f, "{}: {}", self.path.join("."), self.reason),
        }
    }
}

/// Whether a pipeline has look-ups, whose documents are at hand under `$_found`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LookUps {
    Some,
    None,
}

/// What is wrong with a filter that says which documents have the old shape.
pub(crate) fn of_filter(filter: &Document) -> Vec<Mistake> {
    let mut mistakes = Mistakes::default();
    mistakes.filter(filter, Reading::Filter);
    mistakes.found
}

/// What is wrong with the filter of a condition, which an aggregation asks and which may depend on the time.
pub(crate) fn of_condition(filter: &Document) -> Vec<Mistake> {
    let mut mistakes = Mistakes { of: Of::Condition, ..Mistakes::default() };
    mistakes.filter(filter, Reading::Filter);
    mistakes.found
}

/// What is wrong with the filter of a validator.
pub(crate) fn of_validator(filter: &Document) -> Vec<Mistake> {
    let mut mistakes = Mistakes { of: Of::Validator, ..Mistakes::default() };
    mistakes.filter(filter, Reading::Filter);
    mistakes.found
}

/// What is wrong with the filter of an index over a part of the documents.
pub(crate) fn of_partial(filter: &Document) -> Vec<Mistake> {
    let mut mistakes = Mistakes::default();
    mistakes.partial(filter);
    mistakes.found
}

/// What is wrong with the filter of an update, which the update has to lead out of.
pub(crate) fn of_update_filter(filter: &Document) -> Vec<Mistake> {
    let mut mistakes = of_filter(filter);
    if filter.is_empty() {
        mistakes.push(Mistake {
            path: vec![],
            reason: "an empty filter matches every document, those that were updated too: name what only \
                     documents of the old shape have, as { position: { $exists: false } }"
                .to_owned(),
        });
    }
    mistakes
}

/// What is wrong with the pipeline of an update.
pub(crate) fn of_update(pipeline: &[Document], look_ups: LookUps) -> Vec<Mistake> {
    let mut mistakes = Mistakes::default();
    if pipeline.is_empty() {
        mistakes.note("the pipeline has no stage, so it changes nothing");
    }
    for (position, stage) in pipeline.iter().enumerate() {
        mistakes.at(position.to_string(), |mistakes| mistakes.update_stage(stage, look_ups));
    }
    mistakes.found
}

/// What is wrong with the pipeline of a copy.
pub(crate) fn of_copy(pipeline: &[Document]) -> Vec<Mistake> {
    let mut mistakes = Mistakes::default();
    for (position, stage) in pipeline.iter().enumerate() {
        mistakes.at(position.to_string(), |mistakes| mistakes.copy_stage(stage));
    }
    mistakes.found
}

/// Why nothing that the pipeline of an update makes of a document can leave its filter, as far as both show it.
pub(crate) fn of_staying(filter: &Document, pipeline: &Pipeline) -> Option<Mistake> {
    let asked = fields_of_filter(filter)?;
    let written = pipeline.writes()?;
    if asked.is_empty() || !asked.is_disjoint(&written) {
        return None;
    }
    let asked: Vec<String> = asked.iter().map(|field| format!("`{field}`")).collect();
    let reason = format!(
        "the update never leads out of its filter: it does not write {}, so that a document matches as before",
        asked.join(", ")
    );
    Some(Mistake { path: vec![], reason })
}

/// What is wrong with the paths by which the pipeline of an update reads what was looked up: a wrong name would read as
/// a missing field.
pub(crate) fn of_found(pipeline: &[Document], look_ups: &[Arc<Lookup>]) -> Option<Mistake> {
    let mut found = Found { path: vec![], look_ups, mistake: None };
    for (position, stage) in pipeline.iter().enumerate() {
        found.read(position.to_string(), &Bson::Document(stage.clone()));
    }
    found.mistake
}

/// The search for the first path into what was looked up that leads nowhere.
struct Found<'a> {
    path: Vec<String>,
    look_ups: &'a [Arc<Lookup>],
    mistake: Option<Mistake>,
}

impl Found<'_> {
    fn read(&mut self, key: String, value: &Bson) {
        if self.mistake.is_some() {
            return;
        }
        self.path.push(key);
        match value {
            Bson::Document(document) => {
                for (key, value) in document.iter().filter(|(key, _)| *key != "$literal") {
                    self.read(key.clone(), value);
                }
            }
            Bson::Array(values) => {
                for (position, value) in values.iter().enumerate() {
                    self.read(position.to_string(), value);
                }
            }
            Bson::String(text) => {
                let reason = text.strip_prefix('$').and_then(|path| self.wrong(path));
                self.mistake = reason.map(|reason| Mistake { path: self.path.clone(), reason });
            }
            _ => {}
        }
        self.path.pop();
    }

    fn wrong(&self, path: &str) -> Option<String> {
        let mut parts = path.split('.');
        let (true, name) = (parts.next() == Some(FOUND), parts.next()?) else { return None };
        let Some(look_up) = self.look_ups.iter().find(|look_up| look_up.name == name) else {
            let names: Vec<&str> = self.look_ups.iter().map(|look_up| &*look_up.name).collect();
            return Some(format!(
                "the step has no look-up called `{name}`: it has {}",
                names.join(", ")
            ));
        };
        let field = parts.next()?;
        let reads = look_up.reads().is_none_or(|mut reads| reads.any(|known| known == field));
        let reason = || {
            format!("the look-up `{name}` does not read the field `{field}`: add it to its fields")
        };
        (!reads).then(reason)
    }
}

const UPDATE_STAGES: &str = "$set, $addFields, $unset, $project, $replaceWith or $replaceRoot";

/// Operators of updates without a pipeline, and what a pipeline has in their place.
const IN_A_PIPELINE: [(&str, &str); 10] = [
    ("$inc", "{ $set: { n: { $add: [ \"$n\", 1 ] } } }"),
    ("$mul", "{ $set: { n: { $multiply: [ \"$n\", 2 ] } } }"),
    ("$min", "{ $set: { n: { $min: [ \"$n\", 5 ] } } }"),
    ("$max", "{ $set: { n: { $max: [ \"$n\", 5 ] } } }"),
    ("$rename", "{ $set: { new: \"$old\" } }, then { $unset: \"old\" }"),
    ("$push", "{ $set: { list: { $concatArrays: [ \"$list\", [ 5 ] ] } } }"),
    ("$addToSet", "{ $set: { list: { $setUnion: [ \"$list\", [ 5 ] ] } } }"),
    ("$pull", "{ $set: { list: { $filter: { input: \"$list\", cond: … } } } }"),
    ("$pop", "{ $set: { list: { $slice: … } } }"),
    ("$currentDate", "{ $set: { at: \"$$NOW\" } }"),
];

/// What is said of a stage that no update has.
fn no_stage(operator: &str) -> String {
    if operator == "$lookup" {
        return "`$lookup` is not a stage of an update: write the step's `lookup`, whose documents are at hand as \
                `$_found.NAME`"
            .to_owned();
    }
    let like = |(known, _): &&(&str, &str)| *known == operator;
    if let Some((_, instead)) = IN_A_PIPELINE.iter().find(like) {
        return format!("`{operator}` is not a stage of a pipeline: write {instead}");
    }
    let stages = UPDATE_STAGES.split([',', ' ']).filter(|word| word.starts_with('$'));
    let slip = match operator.starts_with('$') {
        true => slip_of(operator, stages),
        false => stages.into_iter().find(|stage| stage[1..] == *operator),
    };
    match slip {
        Some(stage) => {
            format!("`{operator}` is not a stage of an update: did you mean `{stage}`?")
        }
        None => format!("`{operator}` is not a stage of an update: expected {UPDATE_STAGES}"),
    }
}

const COPY_STAGES: &str =
    "$match, $set, $addFields, $unset, $project, $replaceWith, $replaceRoot or $unwind";

const KEEPS_ID: &str =
    "the document must keep its _id: write { $mergeObjects: [ …, { _id: \"$_id\" } ] }";

const ID: &str = "no update can change an `_id`";

/// What a value is read as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// A filter: a string is a constant.
    Filter,
    /// An expression of an update: a string may be a field or a variable, and `$$NOW` is allowed.
    Update,
    /// Any other expression.
    Expression,
}

/// What a filter is of.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Of {
    #[default]
    Step,
    Condition,
    Validator,
}

/// What no version of the server takes in the filter of an index.
const NOT_PARTIAL: [&str; 12] = [
    "$ne",
    "$nin",
    "$not",
    "$nor",
    "$expr",
    "$where",
    "$text",
    "$regex",
    "$all",
    "$size",
    "$mod",
    "$elemMatch",
];

#[derive(Default)]
struct Mistakes {
    of: Of,
    path: Vec<String>,
    found: Vec<Mistake>,
}

impl Mistakes {
    fn note(&mut self, reason: impl Into<String>) {
        self.found.push(Mistake { path: self.path.clone(), reason: reason.into() });
    }

    fn at(&mut self, key: impl Into<String>, look: impl FnOnce(&mut Self)) {
        self.path.push(key.into());
        look(self);
        self.path.pop();
    }

    fn update_stage(&mut self, stage: &Document, look_ups: LookUps) {
        let Some((operator, argument)) = self.stage(stage) else { return };
        self.at(operator, |mistakes| match (operator, argument) {
            ("$set" | "$addFields", Bson::Document(set)) => {
                mistakes.names(set.keys().map(String::as_str), look_ups);
                mistakes.expressions(set, Reading::Update);
            }
            ("$unset", argument) => mistakes.unset(argument, look_ups),
            ("$project", Bson::Document(project)) => {
                if !is_true(project.get("_id")) {
                    mistakes.note(
                        "`$project` needs `_id: 1`: aggregation and update differ on it otherwise",
                    );
                }
                let names = project.keys().map(String::as_str).filter(|name| *name != "_id");
                mistakes.names(names, look_ups);
                mistakes.expressions(project, Reading::Update);
            }
            ("$replaceWith", root) => mistakes.root(root),
            ("$replaceRoot", Bson::Document(argument)) => {
                let root = argument.get("newRoot").unwrap_or(&Bson::Null);
                mistakes.at("newRoot", |mistakes| mistakes.root(root));
            }
            ("$set" | "$addFields" | "$project" | "$replaceRoot", _) => {
                mistakes.note(format!("`{operator}` needs a document"));
            }
            _ => mistakes.note(no_stage(operator)),
        });
    }

    fn copy_stage(&mut self, stage: &Document) {
        let Some((operator, argument)) = self.stage(stage) else { return };
        self.at(operator, |mistakes| match (operator, argument) {
            ("$match", Bson::Document(filter)) => mistakes.filter(filter, Reading::Filter),
            ("$set" | "$addFields" | "$project", Bson::Document(fields)) => {
                mistakes.expressions(fields, Reading::Expression);
            }
            ("$replaceWith" | "$replaceRoot", root) => {
                mistakes.expression(root, Reading::Expression);
            }
            ("$unset" | "$unwind", _) => {}
            ("$match" | "$set" | "$addFields" | "$project", _) => {
                mistakes.note(format!("`{operator}` needs a document"));
            }
            _ => mistakes
                .note(format!("`{operator}` is not a stage of a copy, which sees one document at a time: expected {COPY_STAGES}")),
        });
    }

    /// The one operator of a stage, with its argument.
    fn stage<'a>(&mut self, stage: &'a Document) -> Option<(&'a str, &'a Bson)> {
        let mut keys = stage.iter();
        match (keys.next(), keys.next()) {
            (Some((operator, argument)), None) => Some((operator, argument)),
            (Some(_), Some((second, _))) => {
                let (second, reason) =
                    (second.clone(), "a stage has one operator: make this one a stage of its own");
                self.at(second, |mistakes| mistakes.note(reason));
                None
            }
            (None, _) => {
                self.note("the stage is empty: it is an operator with what it takes, as { $set: { a: 1 } }");
                None
            }
        }
    }

    /// Top-level names that an update sets or keeps.
    fn names<'a>(&mut self, names: impl Iterator<Item = &'a str>, look_ups: LookUps) {
        for name in names {
            self.name(name, name, look_ups);
        }
    }

    fn name(&mut self, key: &str, path: &str, look_ups: LookUps) {
        match path.split('.').next() {
            Some("_id") => self.at(key, |mistakes| mistakes.note(ID)),
            Some(FOUND) if look_ups == LookUps::Some => self.at(key, |mistakes| {
                mistakes.note("`$_found` is there to be read, and never stored");
            }),
            _ => {}
        }
    }

    fn unset(&mut self, argument: &Bson, look_ups: LookUps) {
        match argument {
            Bson::String(path) => match path.split('.').next() {
                Some("_id") => self.note(ID),
                Some(FOUND) if look_ups == LookUps::Some => {
                    self.note("`$_found` is there to be read, and never stored");
                }
                _ => {}
            },
            Bson::Array(paths) => {
                for (position, path) in paths.iter().enumerate() {
                    match path {
                        Bson::String(path) => self.name(&position.to_string(), path, look_ups),
                        _ => self.at(position.to_string(), |m| {
                            m.note("the name of a field is expected")
                        }),
                    }
                }
            }
            _ => self.note("the name of a field is expected, or a list of names"),
        }
    }

    /// A root of the one form that keeps the `_id`.
    fn root(&mut self, root: &Bson) {
        let merged = match root {
            Bson::Document(root) if root.len() == 1 => root.get_array("$mergeObjects").ok(),
            _ => None,
        };
        let keeps = |last: &Bson| {
            last.as_document().is_some_and(|last| {
                last.len() == 1 && last.get_str("_id").is_ok_and(|id| id == "$_id")
            })
        };
        match merged.and_then(|merged| merged.split_last()) {
            Some((last, _)) if keeps(last) => self.expression(root, Reading::Update),
            _ => self.note(KEEPS_ID),
        }
    }

    fn expressions(&mut self, fields: &Document, reading: Reading) {
        for (key, value) in fields {
            self.at(key, |mistakes| mistakes.expression(value, reading));
        }
    }

    fn expression(&mut self, value: &Bson, reading: Reading) {
        match value {
            Bson::Document(document) => {
                for (key, value) in document {
                    self.at(key, |mistakes| {
                        match key.as_str() {
                            "$literal" => return,
                            "$rand" => {
                                mistakes.note("what depends on chance is not allowed: a second evaluation would differ from the first")
                            }
                            "$function" | "$accumulator" | "$where" => {
                                mistakes.note(
                                    "JavaScript is not allowed: write it with the server's operators, or as a program",
                                );
                            }
                            _ => {}
                        }
                        mistakes.expression(value, reading);
                    });
                }
            }
            Bson::Array(values) => {
                for (position, value) in values.iter().enumerate() {
                    self.at(position.to_string(), |mistakes| mistakes.expression(value, reading));
                }
            }
            Bson::String(text) if reading == Reading::Expression => {
                let variable = text.strip_prefix("$$").and_then(|rest| rest.split('.').next());
                if let Some("NOW" | "CLUSTER_TIME") = variable {
                    self.note("the time is not allowed here: a second evaluation would differ from the first");
                }
            }
            _ => {}
        }
    }

    fn filter(&mut self, filter: &Document, reading: Reading) {
        for (key, value) in filter {
            self.at(key, |mistakes| match (key.as_str(), mistakes.of) {
                ("$expr", Of::Step) => mistakes.expression(value, Reading::Expression),
                ("$expr", Of::Validator) => mistakes.expression(value, Reading::Update),
                ("$expr" | "$text", Of::Condition) => {}
                ("$text" | "$near" | "$nearSphere" | "$geoNear", Of::Validator) => {
                    mistakes.note(format!("the server takes `{key}` in no validator"));
                }
                ("$near" | "$nearSphere" | "$geoNear", Of::Condition) => {
                    mistakes.note(format!("`{key}` is not allowed: a condition is asked by an aggregation, which does not take it"));
                }
                ("$text" | "$near" | "$nearSphere" | "$geoNear", Of::Step) => {
                    mistakes.note(format!("`{key}` is not allowed: the gate needs the filter in an aggregation as well, which does not take it"));
                }
                ("$where" | "$function", _) => {
                    mistakes.note("JavaScript is not allowed: write it with the server's operators, or as a program");
                }
                ("$rand" | "$sampleRate", _) => {
                    mistakes.note("what depends on chance is not allowed: a second evaluation would differ from the first");
                }
                ("$comment" | "$jsonSchema", _) => {}
                _ => mistakes.filter_value(value, reading),
            });
        }
    }

    fn partial(&mut self, filter: &Document) {
        for (key, value) in filter {
            self.at(key, |mistakes| match value {
                _ if NOT_PARTIAL.contains(&key.as_str()) => mistakes.note(format!(
                    "the server takes `{key}` in no index: it takes values, $exists: true, $gt, $gte, $lt, \
                     $lte, $type, $and, and from MongoDB 6.0 $or and $in"
                )),
                value if key == "$exists" && !is_true(Some(value)) => mistakes.note(
                    "the server takes `$exists` in an index only where it is true: leave such documents out \
                     by the value of another field",
                ),
                Bson::Document(inner) if !key.starts_with('$') => mistakes.partial(inner),
                Bson::Array(parts) => {
                    for (position, part) in parts.iter().enumerate() {
                        if let Bson::Document(part) = part {
                            mistakes.at(position.to_string(), |mistakes| mistakes.partial(part));
                        }
                    }
                }
                _ => {}
            });
        }
    }

    fn filter_value(&mut self, value: &Bson, reading: Reading) {
        match value {
            Bson::Document(document) => self.filter(document, reading),
            Bson::Array(values) => {
                for (position, value) in values.iter().enumerate() {
                    self.at(position.to_string(), |mistakes| mistakes.filter_value(value, reading));
                }
            }
            _ => {}
        }
    }
}

fn is_true(value: Option<&Bson>) -> bool {
    match value {
        Some(Bson::Boolean(value)) => *value,
        Some(Bson::Int32(value)) => *value != 0,
        Some(Bson::Int64(value)) => *value != 0,
        Some(Bson::Double(value)) => *value != 0.0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::doc;

    use super::*;
    use crate::authoring::pipeline::Makes;

    fn paths(mistakes: &[Mistake]) -> Vec<String> {
        mistakes.iter().map(|mistake| mistake.path.join(".")).collect()
    }

    #[test]
    fn an_update_that_keeps_the_id_and_depends_on_its_document_alone_is_taken() {
        let pipeline = [
            doc! { "$set": { "position": { "$ifNull": ["$order", 0] }, "at": "$$NOW", "a._id": 1 } },
            doc! { "$addFields": { "text": { "$literal": { "$rand": {} } } } },
            doc! { "$unset": "order" },
            doc! { "$unset": ["a", "b.c"] },
            doc! { "$project": { "_id": 1, "a": 1 } },
            doc! { "$project": { "_id": true, "a": 0 } },
            doc! { "$replaceWith": { "$mergeObjects": ["$$ROOT", { "a": 1 }, { "_id": "$_id" }] } },
            doc! { "$replaceRoot": { "newRoot": { "$mergeObjects": ["$a", { "_id": "$_id" }] } } },
        ];
        assert_eq!(of_update(&pipeline, LookUps::None), []);
        let filter = doc! { "$or": [{ "a": "$$NOW" }, { "$expr": { "$eq": ["$a", { "$literal": "$$NOW" }] } }] };
        assert_eq!(of_update_filter(&filter), []);
    }

    #[test]
    fn what_an_update_must_not_hold_is_named_by_its_path() {
        for (stage, path) in [
            (doc! { "$set": { "_id": 1 } }, "0.$set._id"),
            (doc! { "$set": { "_id.x": 1 } }, "0.$set._id.x"),
            (doc! { "$addFields": { "_id": 1 } }, "0.$addFields._id"),
            (doc! { "$unset": "_id" }, "0.$unset"),
            (doc! { "$unset": ["a", "_id.x"] }, "0.$unset.1"),
            (doc! { "$project": { "a": 1 } }, "0.$project"),
            (doc! { "$project": { "_id": 0, "a": 1 } }, "0.$project"),
            (doc! { "$project": { "_id": "$a" } }, "0.$project"),
            (doc! { "$replaceWith": "$a" }, "0.$replaceWith"),
            (
                doc! { "$replaceWith": { "$mergeObjects": [{ "_id": "$_id" }, "$a"] } },
                "0.$replaceWith",
            ),
            (doc! { "$replaceRoot": { "newRoot": "$a" } }, "0.$replaceRoot.newRoot"),
            (doc! { "$set": { "a": { "$add": [1, { "$rand": {} }] } } }, "0.$set.a.$add.1.$rand"),
            (doc! { "$set": { "a": { "$function": { "body": "" } } } }, "0.$set.a.$function"),
            (doc! { "$match": { "a": 1 } }, "0.$match"),
            (doc! { "$lookup": { "from": "a" } }, "0.$lookup"),
            (doc! { "$set": { "a": 1 }, "$unset": "b" }, "0.$unset"),
            (doc! { "$set": 1 }, "0.$set"),
            (doc! {}, "0"),
        ] {
            assert_eq!(
                paths(&of_update(std::slice::from_ref(&stage), LookUps::None)),
                [path],
                "{stage}"
            );
        }
        assert_eq!(paths(&of_update(&[], LookUps::None)), [""]);
        let found = [doc! { "$set": { "_found": 1 } }];
        assert_eq!(paths(&of_update(&found, LookUps::Some)), ["0.$set._found"]);
        assert_eq!(of_update(&found, LookUps::None), []);
    }

    #[test]
    fn what_a_filter_must_not_hold_is_named_by_its_path() {
        for (filter, path) in [
            (doc! { "$text": { "$search": "a" } }, "$text"),
            (doc! { "$where": "true" }, "$where"),
            (doc! { "a": { "$near": [0, 0] } }, "a.$near"),
            (doc! { "a": { "$nearSphere": [0, 0] } }, "a.$nearSphere"),
            (doc! { "$and": [{ "b": 1 }, { "$sampleRate": 0.5 }] }, "$and.1.$sampleRate"),
            (doc! { "$expr": { "$lt": ["$at", "$$NOW"] } }, "$expr.$lt.1"),
            (doc! { "$expr": { "$lt": [{ "$rand": {} }, 1] } }, "$expr.$lt.0.$rand"),
            (
                doc! { "$nor": [{ "$expr": { "$function": { "body": "" } } }] },
                "$nor.0.$expr.$function",
            ),
        ] {
            assert_eq!(paths(&of_update_filter(&filter)), [path], "{filter}");
        }
        assert_eq!(paths(&of_update_filter(&doc! {})), [""]);
        assert_eq!(of_filter(&doc! {}), []);
    }

    #[test]
    fn an_update_that_writes_nothing_of_its_filter_never_leads_out_of_it() {
        let stays = |filter: Document, stage: Document| {
            let makes = Makes::Itself { counter: "n" };
            of_staying(&filter, &Pipeline { stages: vec![stage], makes })
        };
        let set = doc! { "$set": { "a.b": 1, "c": "$d" } };
        for filter in [doc! { "d": 1 }, doc! { "_id": 1 }, doc! { "$or": [{ "d": 1 }, { "e": 1 }] }]
        {
            let mistake = stays(filter.clone(), set.clone()).unwrap();
            assert!(mistake.reason.contains("does not write `"), "{filter}: {mistake}");
        }
        let whole = doc! { "$expr": { "$eq": ["$$ROOT", 1] } };
        for filter in [doc! { "a": 1 }, doc! { "d": 1, "c": 1 }, whole, doc! { "$comment": "x" }] {
            assert_eq!(stays(filter.clone(), set.clone()), None, "{filter}");
        }
        assert_eq!(stays(doc! { "d": 1 }, doc! { "$project": { "_id": 1 } }), None);
        assert_eq!(stays(doc! { "d.x": 1 }, doc! { "$unset": ["d.y"] }), None);
    }

    #[test]
    fn a_path_into_what_was_looked_up_names_a_look_up_and_a_field_that_it_reads() {
        let look_ups = |fields: &[&'static str]| {
            let look_up = Lookup::by_field("owner", "people", "key.id", "by");
            [Arc::new(look_up.fields(fields.to_vec()))]
        };
        let found = |path: &str, fields: &[&'static str]| {
            let stage =
                doc! { "$set": { "a": { "$first": [{ "$literal": "$_found.none" }, path] } } };
            of_found(&[stage], &look_ups(fields)).map(|mistake| mistake.to_string())
        };
        for path in
            ["$_found", "$_found.owner", "$_found.owner.name", "$_foundling.x", "$a", "_found.x"]
        {
            assert_eq!(found(path, &[]), None, "{path}");
        }
        for path in ["$_found.owner.name.first", "$_found.owner._id", "$_found.owner.key.id"] {
            assert_eq!(found(path, &["name"]), None, "{path}");
        }
        let wrong = found("$_found.owners.name", &[]).unwrap();
        assert_eq!(
            wrong,
            "0.$set.a.$first.1: the step has no look-up called `owners`: it has owner"
        );
        assert!(found("$_found.owner.age", &["name"]).unwrap().contains("read the field `age`"));
    }

    #[test]
    fn a_copy_takes_the_stages_that_see_one_document() {
        let pipeline = [
            doc! { "$match": { "a": 1 } },
            doc! { "$unwind": "$entries" },
            doc! { "$replaceWith": { "_id": { "$concat": ["$a", "$entries.b"] } } },
            doc! { "$unset": "_id" },
        ];
        assert_eq!(of_copy(&pipeline), []);
        for (stage, path) in [
            (doc! { "$group": { "_id": "$a" } }, "0.$group"),
            (doc! { "$facet": { "a": [] } }, "0.$facet"),
            (doc! { "$set": { "at": "$$NOW" } }, "0.$set.at"),
            (doc! { "$match": { "$expr": { "$rand": {} } } }, "0.$match.$expr.$rand"),
        ] {
            assert_eq!(paths(&of_copy(std::slice::from_ref(&stage))), [path], "{stage}");
        }
    }
}
