//! A pipeline that the server evaluates for one document at a time, and the fields that decide what comes out.

use std::collections::BTreeSet;

use mongodb::bson::{Bson, Document};

/// The field under which a pipeline finds what was looked up for its document.
pub(crate) const FOUND: &str = "_found";

/// A pipeline that the server evaluates for one document at a time.
#[derive(Clone, Debug)]
pub(crate) struct Pipeline {
    pub(crate) stages: Vec<Document>,
    pub(crate) makes: Makes,
}

/// What a pipeline makes of a document.
#[derive(Clone, Debug)]
pub(crate) enum Makes {
    /// What the document becomes.
    Itself {
        /// The counter of the documents that were changed.
        counter: &'static str,
    },
    /// Documents of another collection.
    Others {
        /// The counter of the documents that are made.
        counter: &'static str,
        sources: Sources,
    },
}

/// Whether a document stays of which others are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sources {
    Kept,
    Deleted,
}

impl Pipeline {
    /// The top-level fields that the pipeline reads or writes; `None` if that may be any.
    pub(crate) fn fields(&self) -> Option<BTreeSet<String>> {
        let mut fields = BTreeSet::new();
        for (operator, argument) in self.stages.iter().flatten() {
            fields.extend(written(operator, argument)?);
            if !referred(argument, operator == "$unset", &mut fields) {
                return None;
            }
        }
        fields.remove(FOUND);
        Some(fields)
    }

    /// The top-level fields that the pipeline may write; `None` if that may be any.
    pub(crate) fn writes(&self) -> Option<BTreeSet<String>> {
        if matches!(self.makes, Makes::Others { .. }) {
            return Some(BTreeSet::new());
        }
        let mut fields = BTreeSet::new();
        for (operator, argument) in self.stages.iter().flatten() {
            fields.extend(written(operator, argument)?);
        }
        Some(fields)
    }
}

/// The top-level fields that a stage writes; `None` if that may be any.
fn written(operator: &str, argument: &Bson) -> Option<Vec<String>> {
    match (operator, argument) {
        ("$set" | "$addFields", Bson::Document(set)) => {
            Some(set.keys().map(|path| top(path)).collect())
        }
        ("$unset", Bson::String(path)) => Some(vec![top(path)]),
        ("$unset", Bson::Array(paths)) => {
            Some(paths.iter().filter_map(Bson::as_str).map(top).collect())
        }
        _ => None,
    }
}

fn top(path: &str) -> String {
    path.split('.').next().unwrap_or(path).to_owned()
}

/// Collects the top-level fields that an expression refers to; false if it refers to the whole document.
fn referred(value: &Bson, is_path: bool, fields: &mut BTreeSet<String>) -> bool {
    match value {
        Bson::String(text) if !is_path => match text.strip_prefix('$') {
            Some(variable) if variable.starts_with('$') => {
                let name = variable[1..].split('.').next().unwrap_or_default();
                !matches!(name, "ROOT" | "CURRENT")
            }
            Some(path) => {
                fields.insert(top(path));
                true
            }
            None => true,
        },
        // a field by a name that may be computed
        Bson::Document(document) if document.keys().any(|key| key.starts_with("$getField")) => {
            false
        }
        Bson::Document(document) => document
            .iter()
            .all(|(key, value)| key == "$literal" || referred(value, is_path, fields)),
        Bson::Array(values) => values.iter().all(|value| referred(value, is_path, fields)),
        _ => true,
    }
}

/// The top-level fields that a filter asks about; `None` if that may be any.
pub(crate) fn fields_of_filter(filter: &Document) -> Option<BTreeSet<String>> {
    let mut fields = BTreeSet::new();
    for (key, value) in filter {
        match (key.as_str(), value) {
            ("$and" | "$or" | "$nor", Bson::Array(parts)) => {
                for part in parts {
                    fields.extend(fields_of_filter(part.as_document()?)?);
                }
            }
            ("$expr", value) if referred(value, false, &mut fields) => {}
            (operator, _) if operator.starts_with('$') => return None,
            (path, _) => {
                fields.insert(top(path));
            }
        }
    }
    Some(fields)
}

#[cfg(test)]
mod tests {
    use mongodb::bson::doc;

    use super::*;

    fn fields(stages: Vec<Document>) -> Option<Vec<String>> {
        let pipeline = Pipeline { stages, makes: Makes::Itself { counter: "n" } };
        Some(pipeline.fields()?.into_iter().collect())
    }

    #[test]
    fn the_fields_that_a_filter_asks_about_are_known_from_it() {
        let filter = doc! {
            "a.b": 1,
            "$or": [{ "c": { "$gt": 1 } }, { "$expr": { "$eq": ["$d.e", "$f"] } }],
        };
        let fields = fields_of_filter(&filter).unwrap();
        assert!(fields.iter().eq(["a", "c", "d", "f"]), "{fields:?}");
        assert_eq!(fields_of_filter(&doc! { "$expr": { "$eq": ["$$ROOT", 1] } }), None);
        assert_eq!(fields_of_filter(&doc! { "$jsonSchema": {} }), None);
    }

    #[test]
    fn the_fields_that_a_pipeline_reads_or_writes_are_known_from_it() {
        let some = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
        let stages = vec![
            doc! { "$set": { "position.x": { "$ifNull": ["$order.n", "$$NOW", { "$literal": "$no" }] } } },
            doc! { "$unset": ["old", "other.part"] },
            doc! { "$unset": "last" },
        ];
        assert_eq!(fields(stages), some(&["last", "old", "order", "other", "position"]));
        for whole in [
            doc! { "$set": { "copy": "$$ROOT" } },
            doc! { "$set": { "copy": { "$getField": { "$concat": ["a", "$b"] } } } },
            doc! { "$project": { "_id": 1, "a": 1 } },
            doc! { "$replaceWith": { "$mergeObjects": ["$a", { "_id": "$_id" }] } },
        ] {
            assert_eq!(fields(vec![whole]), None);
        }
    }
}
