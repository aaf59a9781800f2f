//! What may be told of a server's message: many repeat a document's contents, or the command that held them.
//!
//! Only what is known to hold none is passed on: whole messages of errors that are about the command alone,
//! and of others the part that names fields, indexes and rules.

use mongodb::bson::{Bson, Document};

/// What may be told of the message that the server gave for an error, with its additional information where
/// there is any; `None` if nothing may.
pub(crate) fn detail(code: i32, message: &str, info: Option<&Document>) -> Option<String> {
    match code {
        11000 => duplicate(message),
        121 => Some(match info.and_then(|info| info.get_document("details").ok()) {
            Some(details) => format!(
                "the collection's validator refuses the result ({})",
                rules(details).join("; ")
            ),
            None => "the collection's validator refuses the result".to_owned(),
        }),
        // connections, elections, users: nothing of documents
        18 | 20 | 64 | 91 | 13297 | 189 | 251 | 10107 | 11600 | 11602 | 13435 | 13436 => {
            whole(message)
        }
        // namespaces, indexes, options and features that the command itself names
        26 | 27 | 48 | 59 | 67 | 68 | 72 | 73 | 85 | 86 | 166 | 167 | 171 | 197 | 263 | 31249
        | 31250 | 31253 | 31254 | 40323 | 40324 => whole(message),
        // sizes
        10334 | 17419 | 17420 => whole(message),
        28 => until(message, &[" in element "]),
        66 if message.starts_with("Performing an update on the path ") => whole(message),
        66 => until(message, &[" was found to have been altered", ", the immutable"]),
        52 | 55 | 56 | 57 => until(message, &[" is not allowed", " is not valid"]),
        14 if message.starts_with("Cannot apply $") => {
            let (first, rest) = message.split_once(". {")?;
            let (_, field) = rest.rsplit_once(" has the field ")?;
            Some(format!("{first}: the field {field}"))
        }
        2 if message.starts_with("unknown operator: $")
            || message.starts_with("unknown top level operator: $") =>
        {
            until(message, &[". "]).or_else(|| whole(message))
        }
        9 if message.starts_with("Unknown modifier: $") => until(message, &[". "]),
        9 if message.starts_with("Modifiers operate on fields") => until(message, &[" instead"]),
        40 if message.starts_with("Updating the path ") => whole(message),
        241 => until(message, &["'", "\""]),
        _ => None,
    }
}

fn whole(message: &str) -> Option<String> {
    (!message.is_empty()).then(|| message.to_owned())
}

/// The message up to the first of these words; `None` if it has none of them.
fn until(message: &str, words: &[&str]) -> Option<String> {
    let end = words.iter().filter_map(|word| message.find(word)).min()?;
    let text = message[..end].trim_end_matches([' ', ':', ',', '.']);
    (!text.is_empty()).then(|| text.to_owned())
}

/// Index and collection of a duplicate key; the values come last, after `dup key`.
fn duplicate(message: &str) -> Option<String> {
    let (before, rest) = message.split_once("index: ")?;
    let index = rest.split(" dup key").next()?.split(" collation: {").next()?;
    let namespace = before.rsplit_once("collection: ").map(|(_, name)| name.trim());
    Some(match namespace.and_then(|name| name.split_once('.')) {
        Some((_, collection)) => format!("duplicate key in index {index} of {collection}"),
        None => format!("duplicate key in index {index}"),
    })
}

/// The rules of a validator that a document breaks: operators, names of properties and the types that were
/// met, never a value.
fn rules(details: &Document) -> Vec<String> {
    let text = |key: &str| details.get_str(key).unwrap_or_default().to_owned();
    let lists =
        ["schemaRulesNotSatisfied", "propertiesNotSatisfied", "clausesNotSatisfied", "details"];
    let name = match details.get_str("propertyName") {
        Ok(name) => Some(format!("property `{name}`")),
        Err(_) => None,
    };
    let mut inner: Vec<String> = Vec::new();
    for list in lists {
        match details.get(list) {
            Some(Bson::Array(entries)) => {
                inner.extend(entries.iter().filter_map(Bson::as_document).flat_map(rules))
            }
            Some(Bson::Document(entry)) => inner.extend(rules(entry)),
            _ => {}
        }
    }
    for list in ["missingProperties", "additionalProperties"] {
        if let Ok(names) = details.get_array(list) {
            let names: Vec<&str> = names.iter().filter_map(Bson::as_str).collect();
            let what = if list == "missingProperties" { "missing" } else { "additional" };
            inner.push(format!("{what} properties {}", names.join(", ")));
        }
    }
    if !inner.is_empty() {
        return match name {
            Some(name) => inner.into_iter().map(|rule| format!("{name}: {rule}")).collect(),
            None => inner,
        };
    }
    let mut rule = text("operatorName");
    if let Some(operator) = details.get("specifiedAs").filter(|_| !rule.is_empty()) {
        // only short ones
        let specified = without_values(operator).to_string();
        if specified.len() <= 120 {
            rule = specified;
        }
    }
    if let Ok(kind) = details.get_str("consideredType") {
        rule.push_str(&format!(", found type {kind}"));
    }
    vec![match name {
        Some(name) => format!("{name}: {rule}"),
        None => rule,
    }]
}

/// A rule of a validator with its fields, operators and types; a value that it names may be a document's too.
fn without_values(rule: &Bson) -> Bson {
    match rule {
        Bson::Document(rule) => {
            let masked = rule.iter().map(|(key, value)| match key.as_str() {
                "bsonType" | "type" | "$type" => (key.clone(), value.clone()),
                _ => (key.clone(), without_values(value)),
            });
            Bson::Document(masked.collect())
        }
        Bson::Array(rules) => rules.iter().map(without_values).collect(),
        _ => Bson::String("…".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::doc;

    use super::*;

    /// Texts of MongoDB 6.0.5, and what is told of them.
    #[test]
    fn what_the_server_says_is_told_as_far_as_it_holds_no_contents() {
        let long = "E11000 duplicate key error collection: lab.things index: by key dup key: { key: \"s3cret index: x\" }";
        for (code, message, told) in [
            (11000, long, Some("duplicate key in index by key of things")),
            (
                11000,
                "E11000 duplicate key error collection: lab.a.b index: k collation: { locale: \"en\" } dup key: { k: \"0xs3cret\" }",
                Some("duplicate key in index k of a.b"),
            ),
            (
                11000,
                "Index build failed: f00: Collection lab.things ( beef ) :: caused by :: E11000 duplicate key error collection: lab.things index: unique key dup key: { unique_key: \"s3cret\" }",
                Some("duplicate key in index unique key of things"),
            ),
            (
                85,
                "Index already exists with a different name: by b",
                Some("Index already exists with a different name: by b"),
            ),
            (
                28,
                "Cannot create field 'b' in element {a: \"s3cret\"}",
                Some("Cannot create field 'b'"),
            ),
            (
                14,
                "Cannot apply $inc to a value of non-numeric type. {_id: \"s3cret\"} has the field 'n' of non-numeric type string",
                Some(
                    "Cannot apply $inc to a value of non-numeric type: the field 'n' of non-numeric type string",
                ),
            ),
            (2, "unknown operator: $foo", Some("unknown operator: $foo")),
            (
                2,
                "unknown top level operator: $foo. If you have a field name that starts with a '$' symbol, consider using $getField or $setField.",
                Some("unknown top level operator: $foo"),
            ),
            (
                9,
                "Unknown modifier: $foo. Expected a valid update modifier",
                Some("Unknown modifier: $foo"),
            ),
            (
                9,
                "Modifiers operate on fields but we found type string instead. For example: {$mod: {<field>: ...}} not {$set: \"s3cret\"}",
                Some("Modifiers operate on fields but we found type string"),
            ),
            (
                241,
                "Failed to parse number 's3cret' in $convert with no onError value: Bad digit \"s\" while parsing s3cret",
                Some("Failed to parse number"),
            ),
            (
                66,
                "After applying the update, the (immutable) field '_id' was found to have been altered to _id: \"s3cret\"",
                Some("After applying the update, the (immutable) field '_id'"),
            ),
            (16755, "Can't extract geo keys: { _id: \"s3cret\" }", None),
            (1, "s3cret", None),
        ] {
            let said = detail(code, message, None);
            assert!(!said.as_ref().is_some_and(|said| said.contains("s3cret")), "{said:?}");
            assert_eq!(said.as_deref(), told, "{message}");
        }
    }

    #[test]
    fn a_validator_is_told_by_its_rules() {
        let info = doc! { "failingDocumentId": 7, "details": {
            "operatorName": "$jsonSchema",
            "schemaRulesNotSatisfied": [
                { "operatorName": "properties", "propertiesNotSatisfied": [
                    { "propertyName": "n", "details": [ {
                        "operatorName": "bsonType",
                        "specifiedAs": { "bsonType": "int" },
                        "reason": "type did not match",
                        "consideredValue": "s3cret",
                        "consideredType": "string",
                    } ] },
                ] },
                { "operatorName": "required", "specifiedAs": { "required": ["m"] }, "missingProperties": ["m"] },
            ],
        } };
        let said = detail(121, "Document failed validation", Some(&info)).unwrap();
        assert_eq!(
            said,
            "the collection's validator refuses the result (property `n`: { \"bsonType\": \"int\" }, \
             found type string; missing properties m)"
        );
    }

    #[test]
    fn a_value_that_a_validator_names_is_not_told() {
        let info = doc! { "details": {
            "operatorName": "$ne", "specifiedAs": { "b": { "$ne": "s3cret" } }, "reason": "comparison failed",
        } };
        let said = detail(121, "Document failed validation", Some(&info)).unwrap();
        assert!(!said.contains("s3cret") && said.contains("\"$ne\""), "{said}");
    }
}
