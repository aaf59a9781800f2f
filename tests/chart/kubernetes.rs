//! Kubernetes' own description of its objects, from its Go module, read strictly: a field that it does not
//! know is an error, where the API server would only warn.

use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;

const MODULE: &str = "k8s.io/kubernetes@v1.37.2";

/// The definitions, by their long names.
static DEFINITIONS: LazyLock<Value> = LazyLock::new(|| {
    let go = Command::new("go").args(["mod", "download", "-json", MODULE]).output();
    let output =
        go.expect("Kubernetes' description of its objects is in its Go module: install go");
    let module: Value = serde_json::from_slice(&output.stdout).unwrap();
    let folder = module["Dir"].as_str().unwrap_or_else(|| panic!("go mod download: {module:#}"));
    let path = format!("{folder}/api/openapi-spec/swagger.json");
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_slice::<Value>(&text).unwrap()["definitions"].take()
});

/// Whether Kubernetes knows an object, field by field; else where it does not.
pub fn check(object: &Value) -> Result<(), String> {
    let (group, version) = match object["apiVersion"].as_str() {
        Some(text) => text.split_once('/').unwrap_or(("", text)),
        None => return Err("no apiVersion".into()),
    };
    let is_it = |kind: &Value| {
        kind["group"] == group && kind["version"] == version && kind["kind"] == object["kind"]
    };
    let definition = DEFINITIONS.as_object().unwrap().values().find(|definition| {
        let kinds = definition["x-kubernetes-group-version-kind"].as_array();
        kinds.is_some_and(|kinds| kinds.len() == 1 && is_it(&kinds[0]))
    });
    let definition = definition.ok_or_else(|| format!("no kind {}", object["kind"]))?;
    check_value(object, definition, "")
}

fn check_value(value: &Value, schema: &Value, at: &str) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.trim_start_matches("#/definitions/");
        return check_value(value, &DEFINITIONS[name], at);
    }
    let wrong = |what: String| Err(format!("{at}: {what}"));
    if let Some(choices) = schema["enum"].as_array().filter(|choices| !choices.contains(value)) {
        return wrong(format!("{value} is none of {choices:?}"));
    }
    match (schema["type"].as_str(), value) {
        (None | Some("object"), Value::Object(fields)) => {
            for required in schema["required"].as_array().into_iter().flatten() {
                if !fields.contains_key(required.as_str().unwrap()) {
                    return wrong(format!("no {required}"));
                }
            }
            fields.iter().try_for_each(|(name, value)| {
                let at = format!("{at}/{name}");
                let known = schema["properties"].get(name);
                match known.or(schema.get("additionalProperties")) {
                    Some(schema) => check_value(value, schema, &at),
                    None => Err(format!("{at}: no such field")),
                }
            })
        }
        (Some("array"), Value::Array(items)) => items
            .iter()
            .enumerate()
            .try_for_each(|(n, item)| check_value(item, &schema["items"], &format!("{at}/{n}"))),
        (Some("string"), Value::String(_)) | (Some("boolean"), Value::Bool(_)) => Ok(()),
        (Some("string"), Value::Number(_)) if schema["format"] == "int-or-string" => Ok(()),
        (Some("integer"), Value::Number(number)) if number.is_i64() => Ok(()),
        // a quantity, which may be written as a number
        (Some("string"), Value::Number(_)) if at.contains("/resources/") => Ok(()),
        (expected, _) => wrong(format!("{value} is no {}", expected.unwrap_or("object"))),
    }
}
