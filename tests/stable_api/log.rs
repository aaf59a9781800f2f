//! What gates have sent to a server, by the server's own log: names of commands, options and operators.

use std::collections::BTreeSet;
use std::fs;

use mongodb::bson::{Document, doc};
use serde_json::Value;

use crate::support::{Server, eventually};

/// What a command consists of: its name, `name.option`, operators, system variables.
pub type Parts = BTreeSet<String>;

/// Fields that every driver adds to its commands.
const DRIVERS: &[&str] = &[
    "$db",
    "$clusterTime",
    "$readPreference",
    "lsid",
    "txnNumber",
    "autocommit",
    "startTransaction",
];

/// The types of Extended JSON, as which the log shows values.
const TYPES: &[&str] =
    &["$oid", "$date", "$uuid", "$timestamp", "$binary", "$numberLong", "$minKey", "$maxKey"];

/// Lets a server of one member log every command.
pub async fn verbose(server: &Server) {
    let level = doc! { "verbosity": 1 };
    let verbosity = doc! { "setParameter": 1, "maxLogSizeKB": 40_000, "logComponentVerbosity": { "command": &level, "write": &level } };
    server.client().await.database("admin").run_command(verbosity).await.unwrap();
}

/// The parts of all commands that clients named `app` have sent to a server of one member.
pub async fn logged(server: &Server, app: &str) -> Parts {
    // the log is written after the answer: a last command of the test's own is behind all others
    let client = server.client().await;
    let last = format!("last_{app}");
    client.database("admin").run_command(doc! { "ping": 1, "comment": &last }).await.unwrap();
    let path = format!("/proc/{}/cwd/log", server.pid(0).unwrap());
    let log = eventually("the end of the log", || async {
        let log = fs::read_to_string(&path).unwrap();
        log.contains(&last).then_some(log)
    })
    .await;
    let mut parts = Parts::new();
    for line in log.lines().filter(|line| line.contains(app)) {
        let line: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let attributes = &line["attr"];
        if attributes["appName"] != app || line["msg"] != "Slow query" {
            continue;
        }
        let own = &attributes["command"];
        if own["$db"] == "config" || own["c"].is_object() {
            continue; // the server's own, on behalf of a command
        }
        assert!(line.get("truncated").is_none(), "the log has only a part of {line:?}");
        match attributes["type"].as_str() {
            // the statements of a command have lines of their own
            Some("update") => statement("update.updates", &attributes["command"], &mut parts),
            Some("remove") => statement("delete.deletes", &attributes["command"], &mut parts),
            _ => command(&attributes["command"], &mut parts),
        }
    }
    parts
}

/// The parts of these commands.
pub fn listed<'a>(commands: impl IntoIterator<Item = &'a Document>) -> Parts {
    let mut parts = Parts::new();
    for document in commands {
        command(&serde_json::to_value(document).unwrap(), &mut parts);
    }
    parts
}

fn command(document: &Value, parts: &mut Parts) {
    let Some(fields) = document.as_object() else { return };
    let Some(name) = fields.keys().next() else { return };
    parts.insert(name.clone());
    if ["hello", "isMaster"].contains(&name.as_str()) {
        return; // the driver's greeting
    }
    for (option, value) in fields.iter().skip(1) {
        if DRIVERS.contains(&option.as_str()) {
            continue;
        }
        let option_name = format!("{name}.{option}");
        match option.as_str() {
            "documents" => {}
            "updates" | "deletes" | "indexes" => {
                let statements = value.as_array().into_iter().flatten();
                statements.for_each(|each| statement(&option_name, each, parts));
            }
            "writeConcern" | "readConcern" => {
                // the log also says where a concern comes from
                let fields = value.as_object().into_iter().flatten();
                let fields = fields.filter(|(field, _)| *field != "provenance");
                parts.extend(fields.map(|(field, value)| match value {
                    Value::String(text) => format!("{option}.{field}: {text}"),
                    _ => format!("{option}.{field}"),
                }));
                continue;
            }
            _ => operators(value, parts),
        }
        parts.insert(option_name);
    }
}

/// One of several statements of a command.
fn statement(list: &str, document: &Value, parts: &mut Parts) {
    let defaults = [("multi", Value::Bool(false)), ("upsert", Value::Bool(false))];
    for (field, value) in document.as_object().into_iter().flatten() {
        let is_default = defaults.iter().any(|(name, default)| name == field && default == value);
        if is_default {
            continue; // the log has it, sent or not
        }
        parts.insert(format!("{list}.{field}"));
        match field.as_str() {
            "key" => {
                let kinds = value.as_object().into_iter().flatten();
                parts.extend(
                    kinds.filter_map(|(_, kind)| Some(format!("index {}", kind.as_str()?))),
                );
            }
            _ => operators(value, parts),
        }
    }
}

fn operators(value: &Value, parts: &mut Parts) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| operators(value, parts)),
        Value::Object(fields) => {
            for (name, value) in fields.iter().filter(|(name, _)| !TYPES.contains(&name.as_str())) {
                if name.starts_with('$') {
                    parts.insert(name.clone());
                }
                if name != "$literal" {
                    operators(value, parts);
                }
            }
        }
        Value::String(text) if text.starts_with("$$") => {
            let name = text.split('.').next().unwrap_or(text);
            // variables of the gate's own are in lower case
            if name.chars().skip(2).all(|c| c.is_ascii_uppercase() || c == '_') {
                parts.insert(name.to_owned());
            }
        }
        _ => {}
    }
}
