//! Values of documents: BSON, its types written as MongoDB Extended JSON (version 2).

use mongodb::bson::{Bson, Document};

use crate::files::mistakes::{Mistakes, Source};
use crate::files::node::{Entry, Node, Value};

/// The keys that name a type, each with an example.
pub(crate) const TYPES: &[(&str, &str)] = &[
    ("$oid", "{ $oid: \"64a1f0c2e4b0a1b2c3d4e5f6\" }"),
    ("$date", "{ $date: \"2026-11-28T00:00:00Z\" }"),
    ("$numberInt", "{ $numberInt: \"5\" }"),
    ("$numberLong", "{ $numberLong: \"5\" }"),
    ("$numberDouble", "{ $numberDouble: \"0.5\" }"),
    ("$numberDecimal", "{ $numberDecimal: \"0.1\" }"),
    ("$binary", "{ $binary: { base64: \"AAEC\", subType: \"00\" } }"),
    ("$uuid", "{ $uuid: \"c8edabc3-f738-4ca3-b68d-ab92a91478a3\" }"),
    ("$regularExpression", "{ $regularExpression: { pattern: \"^a\", options: \"i\" } }"),
    ("$timestamp", "{ $timestamp: { t: 1, i: 1 } }"),
    ("$minKey", "{ $minKey: 1 }"),
    ("$maxKey", "{ $maxKey: 1 }"),
    ("$symbol", "{ $symbol: \"a\" }"),
    ("$code", "{ $code: \"function() {}\" }"),
    ("$scope", "{ $code: \"function() {}\", $scope: {} }"),
    ("$undefined", "{ $undefined: true }"),
    ("$dbPointer", "{ $dbPointer: { $ref: \"a\", $id: { $oid: \"64a1f0c2e4b0a1b2c3d4e5f6\" } } }"),
];

pub(crate) fn bson((source, mistakes): In<'_, '_>, node: &Node) -> Option<Bson> {
    Some(match &node.value {
        Value::Refused => return None,
        Value::Null => Bson::Null,
        Value::Bool(value) => Bson::Boolean(*value),
        Value::Int(value) => match i32::try_from(*value) {
            Ok(value) => Bson::Int32(value),
            Err(_) => Bson::Int64(*value),
        },
        Value::Double(value) => Bson::Double(*value),
        Value::Text(text) => Bson::String(text.clone()),
        Value::List(items) => {
            let items: Vec<Option<Bson>> =
                items.iter().map(|item| bson((source, mistakes), item)).collect();
            Bson::Array(items.into_iter().collect::<Option<_>>()?)
        }
        Value::Map(entries) => match typed(entries) {
            Some((entry, example)) => extended((source, mistakes), node, entries, entry, example)?,
            None => Bson::Document(of_entries((source, mistakes), entries)?),
        },
    })
}

/// Where values are read, and their mistakes noted.
pub(crate) type In<'a, 'b> = (&'a Source<'a>, &'b mut Mistakes);

/// A document; a mapping that stands for a value of another type is a mistake.
pub(crate) fn document((source, mistakes): In<'_, '_>, node: &Node) -> Option<Document> {
    match bson((source, mistakes), node)? {
        Bson::Document(document) => Some(document),
        _ => {
            mistakes.at(
                source,
                &node.span,
                "expected a document, found a value of another type",
                "this is MongoDB Extended JSON for one value; write a document around it",
            );
            None
        }
    }
}

fn of_entries((source, mistakes): In<'_, '_>, entries: &[Entry]) -> Option<Document> {
    let mut document = Some(Document::new());
    for entry in entries {
        let value = bson((source, mistakes), &entry.node);
        if entry.key.contains('\0') {
            mistakes.at(
                source,
                &entry.at,
                "this key holds a zero byte",
                "no field can be called so",
            );
            document = None;
        }
        match (value, &mut document) {
            (Some(value), Some(document)) => {
                document.insert(entry.key.clone(), value);
            }
            _ => document = None,
        }
    }
    document
}

/// The key of a mapping that names a type, with the example of that type.
pub(crate) fn typed(entries: &[Entry]) -> Option<(&Entry, &'static str)> {
    entries.iter().find_map(|entry| {
        let (_, example) = TYPES.iter().find(|(key, _)| *key == entry.key)?;
        Some((entry, *example))
    })
}

fn extended(
    (source, mistakes): In<'_, '_>,
    node: &Node,
    entries: &[Entry],
    entry: &Entry,
    example: &str,
) -> Option<Bson> {
    let value = json(node).and_then(|json| serde_json::from_value::<Bson>(json).ok());
    let keys: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
    // an older form, whose unit nobody sees
    let bare = matches!(entry.node.value, Value::Int(_)) && entry.key == "$date";
    match value {
        Some(Bson::Document(_)) | None => {}
        Some(_) if bare => {}
        Some(value) if keys.len() == 1 || matches!(keys[..], ["$code", "$scope"]) => {
            return Some(value);
        }
        Some(_) => {}
    }
    let message = format!("`{}` is not written like this in MongoDB's Extended JSON", entry.key);
    mistakes.at(source, &entry.at, message, format!("write {example}"));
    None
}

/// The node as JSON, if it can be that.
fn json(node: &Node) -> Option<serde_json::Value> {
    Some(match &node.value {
        Value::Refused => return None,
        Value::Null => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Int(value) => (*value).into(),
        Value::Double(value) => serde_json::Number::from_f64(*value)?.into(),
        Value::Text(text) => text.clone().into(),
        Value::List(items) => items.iter().map(json).collect::<Option<Vec<_>>>()?.into(),
        Value::Map(entries) => {
            let fields = entries.iter().map(|entry| Some((entry.key.clone(), json(&entry.node)?)));
            serde_json::Value::Object(fields.collect::<Option<_>>()?)
        }
    })
}
