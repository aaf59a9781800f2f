//! The gate's chart, as its users install it.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::command::{Output, repository, required};
use super::world::World;

/// The chart itself.
pub fn chart() -> String {
    repository("charts/upgrade-gate").display().to_string()
}

/// Values of the chart for datalab's own image.
pub fn datalab() -> Value {
    merged(image("E2E_IMAGE"), json!({ "mongodb": { "existingSecret": { "name": "mongodb" } } }))
}

/// Values of the chart for an application whose code version and upgrades a test chooses, as in
/// `tests/apps/scenario.rs`.
pub fn scenario(code: &str, upgrades: &str) -> Value {
    let env = json!([
        { "name": "SCENARIO_CODE", "value": code },
        { "name": "SCENARIO_UPGRADES", "value": upgrades },
    ]);
    let values = merged(datalab(), image("E2E_SCENARIO_IMAGE"));
    merged(values, json!({ "extraEnv": env }))
}

/// The chart's `image` for an image that has this setting.
pub fn image(setting: &str) -> Value {
    let name = required(setting);
    let (repository, tag) = name.rsplit_once(':').expect("NAME:TAG");
    json!({ "image": { "repository": repository, "tag": tag, "pullPolicy": "IfNotPresent" } })
}

/// The values with others laid over them, as Helm lays one file of values over another.
pub fn merged(mut values: Value, over: Value) -> Value {
    merge(&mut values, over);
    values
}

fn merge(values: &mut Value, over: Value) {
    match (values, over) {
        (Value::Object(values), Value::Object(over)) => {
            for (key, value) in over {
                merge(values.entry(key).or_insert(Value::Null), value);
            }
        }
        (values, over) => *values = over,
    }
}

impl World {
    /// `helm upgrade --install gate` with these values and more arguments: the gate beside an application.
    pub async fn upgrade_gate(&self, values: &Value, arguments: &[&str]) -> Output {
        self.upgrade("gate", &chart(), values, arguments).await
    }

    /// `helm upgrade --install RELEASE CHART` with these values and more arguments.
    pub async fn upgrade(
        &self,
        release: &str,
        chart: &str,
        values: &Value,
        arguments: &[&str],
    ) -> Output {
        let values = self.file(&format!("{release}.yaml"), &values.to_string());
        let mut all = vec!["upgrade", "--install", release, chart, "--values", &values];
        all.extend(arguments);
        self.helm(&all).await
    }

    /// The pods of the newest Job of the gate that is a hook, by the label of its component.
    pub async fn hook_pods(&self) -> Vec<Value> {
        let jobs = self.list("jobs", "app.kubernetes.io/component=upgrade-gate").await;
        let newest = jobs.iter().max_by_key(|job| job["metadata"]["creationTimestamp"].to_string());
        let Some(job) = newest else { return vec![] };
        self.pods_of(job["metadata"]["name"].as_str().unwrap()).await
    }
}

/// Copies a folder.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}
