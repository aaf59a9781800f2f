//! The gate's chart, as its users install it.

use serde_json::{Value, json};

use super::apps;
use super::command::{Output, Running, repository, required};
use super::world::{World, report};

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

    /// The same, left running.
    pub async fn start_gate(&self, values: &Value, arguments: &[&str]) -> Running {
        self.start_upgrade("gate", &chart(), values, arguments).await
    }

    /// `helm upgrade --install RELEASE CHART` with these values and more arguments.
    pub async fn upgrade(
        &self,
        release: &str,
        chart: &str,
        values: &Value,
        arguments: &[&str],
    ) -> Output {
        self.noted(self.start_upgrade(release, chart, values, arguments).await).await
    }

    /// The same, left running.
    pub async fn start_upgrade(
        &self,
        release: &str,
        chart: &str,
        values: &Value,
        arguments: &[&str],
    ) -> Running {
        let values = self.file(&format!("{release}.yaml"), &values.to_string());
        let mut all = vec!["upgrade", "--install", release, chart, "--values", &values];
        all.extend(arguments);
        self.start_helm(&all).await
    }

    /// The state of a release, as `helm status` says it.
    pub async fn release(&self, release: &str) -> String {
        let status = self.helm(&["status", release, "--output", "json"]).await.ok().stdout;
        let status: Value = serde_json::from_str(&status).unwrap();
        status["info"]["status"].as_str().unwrap().to_owned()
    }

    /// The newest Job of the gate that is a hook, by the label of its component.
    pub async fn hook_job(&self) -> Option<String> {
        let jobs = self.list("jobs", "app.kubernetes.io/component=upgrade-gate").await;
        let newest = jobs.iter().max_by_key(|job| job["metadata"]["creationTimestamp"].to_string());
        newest.map(|job| job["metadata"]["name"].as_str().unwrap().to_owned())
    }

    /// Its pods, oldest first.
    pub async fn hook_pods(&self) -> Vec<Value> {
        match self.hook_job().await {
            Some(job) => self.pods_of(&job).await,
            None => vec![],
        }
    }

    /// Waits until that Job is over.
    pub async fn job_ends(&self) {
        let over = async || {
            let job = self.find(&format!("job/{}", self.hook_job().await?)).await?;
            let conditions = job["status"]["conditions"].as_array()?.iter();
            let mut types = conditions.map(|condition| &condition["type"]);
            types.any(|kind| kind == "Complete" || kind == "Failed").then_some(())
        };
        self.until("the hook's Job to end", over).await;
    }

    /// A pod with these labels whose gate has ended with 12: waits for one.
    pub async fn refused_pod(&self, labels: &str) -> Value {
        let refused = async || {
            let mut pods = self.pods(labels).await.into_iter();
            pods.find(|pod| report(pod)["exit_code"] == 12)
        };
        self.until("a pod that the gate keeps out", refused).await
    }

    /// Something where nobody has the lock.
    pub async fn unlocked(&self) -> Option<()> {
        apps::lock(&self.database).await.is_none().then_some(())
    }
}
