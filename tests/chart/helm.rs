//! Runs the real Helm 3 and Helm 4 on the chart, and reads what they render.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde::Deserialize;
use serde_json::Value;

use crate::kubernetes;

pub const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/upgrade-gate");
const BINARIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/.cache/cluster/bin");
/// Both, for they read a chart by code of their own.
pub const HELMS: [&str; 2] = ["helm3", "helm4"];
/// The least that the chart asks for.
pub const SECRET: &str = "mongodb: { existingSecret: { name: db } }\n";

/// Runs one Helm with values on stdin.
pub fn helm(name: &str, arguments: &[&str], values: &str) -> Output {
    let binary = Path::new(BINARIES).join(name);
    assert!(
        binary.exists(),
        "no {name} to test the chart with: bash tests/cluster/build.sh helm3 helm4"
    );
    let mut child = Command::new(binary)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(values.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// `helm lint --strict`: whether it passes with both, and what they say.
pub fn lint(chart: &Path, values: &str) -> Result<(), String> {
    for name in HELMS {
        let mut arguments = vec!["lint", "--strict", "--kube-version", "1.28.0"];
        arguments.extend(["--values", "-", chart.to_str().unwrap()]);
        let output = helm(name, &arguments, values);
        if !output.status.success() {
            return Err(format!("{name}: {}", String::from_utf8_lossy(&output.stdout)));
        }
    }
    Ok(())
}

/// A release to render.
#[derive(Clone)]
pub struct Release {
    chart: PathBuf,
    name: String,
    namespace: String,
    values: String,
    arguments: Vec<String>,
}

impl Release {
    /// The chart alone, as the release `r` with these values, and a Secret unless they tell of `mongodb`.
    pub fn of(values: &str) -> Release {
        let secret = if values.contains("mongodb:") { "" } else { SECRET };
        Release {
            chart: CHART.into(),
            name: "r".into(),
            namespace: "apps".into(),
            values: format!("{secret}{values}"),
            arguments: vec![],
        }
    }

    pub fn named(mut self, name: &str) -> Release {
        self.name = name.into();
        self
    }

    pub fn namespace(mut self, namespace: &str) -> Release {
        self.namespace = namespace.into();
        self
    }

    pub fn chart(mut self, chart: &Path) -> Release {
        self.chart = chart.into();
        self
    }

    pub fn argument(mut self, argument: &str) -> Release {
        self.arguments.push(argument.into());
        self
    }

    fn template(&self, helm_name: &str) -> Output {
        let chart = self.chart.to_str().unwrap();
        let mut arguments = vec!["template", &self.name, chart, "--namespace", &self.namespace];
        arguments.extend(["--kube-version", "1.37.2", "--values", "-"]);
        arguments.extend(self.arguments.iter().map(String::as_str));
        helm(helm_name, &arguments, &self.values)
    }

    /// What both Helms render alike; every object is one that Kubernetes accepts.
    #[track_caller]
    pub fn render(&self) -> Rendered {
        let rendered = HELMS.map(|name| {
            let output = self.template(name);
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{name} with {}: {error}", self.values);
            objects(&String::from_utf8(output.stdout).unwrap())
        });
        let [three, four] = rendered;
        assert_eq!(three.len(), four.len());
        for (object, its_twin) in three.iter().zip(&four) {
            assert_eq!(object, its_twin, "Helm 3 and 4 differ");
            kubernetes::check(object).unwrap_or_else(|error| panic!("{error}: {object:#}"));
        }
        Rendered(three)
    }

    /// What Helm 4 says after an installation; Helm 3 says it to a cluster only.
    #[track_caller]
    pub fn notes(&self) -> String {
        let chart = self.chart.to_str().unwrap();
        let arguments = ["install", &self.name, chart, "--dry-run=client", "--values", "-"];
        let output = helm("helm4", &arguments, &self.values);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_once("\nNOTES:\n").unwrap().1.into()
    }

    /// Why both refuse it.
    #[track_caller]
    pub fn refusal(&self) -> String {
        let errors = HELMS.map(|name| {
            let output = self.template(name);
            assert!(!output.status.success(), "{name} accepts {}", self.values);
            String::from_utf8(output.stderr).unwrap()
        });
        errors.concat()
    }
}

/// The chart alone with these values.
#[track_caller]
pub fn render(values: &str) -> Rendered {
    Release::of(values).render()
}

/// One YAML document; a key that is there twice is an error, as it is for server-side apply.
pub fn yaml(text: &str) -> Value {
    let value: serde_norway::Value = serde_norway::from_str(text).unwrap();
    serde_json::to_value(value).unwrap()
}

/// The objects of a stream of YAML documents, by kind and name.
fn objects(text: &str) -> Vec<Value> {
    let documents = serde_norway::Deserializer::from_str(text);
    let mut objects: Vec<Value> = documents
        .map(|document| serde_norway::Value::deserialize(document).unwrap())
        .filter(|value| !value.is_null())
        .map(|value| serde_json::to_value(value).unwrap())
        .collect();
    objects.sort_by_key(|object| (text_at(object, "/kind"), name(object)));
    objects
}

/// The text at a JSON pointer.
#[track_caller]
pub fn text_at(value: &Value, pointer: &str) -> String {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_else(|| panic!("no text at {pointer}: {value:#}")).into()
}

/// The name, or what Kubernetes makes one from.
pub fn name(object: &Value) -> String {
    let metadata = &object["metadata"];
    metadata["name"].as_str().or(metadata["generateName"].as_str()).unwrap_or_default().into()
}

/// The objects of a release.
#[derive(Clone, PartialEq)]
pub struct Rendered(pub Vec<Value>);

impl fmt::Debug for Rendered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|object| writeln!(f, "{object:#}"))
    }
}

impl Rendered {
    pub fn of_kind(&self, kind: &str) -> Vec<&Value> {
        self.0.iter().filter(|object| object["kind"] == kind).collect()
    }

    pub fn find(&self, kind: &str, its_name: &str) -> Option<&Value> {
        self.of_kind(kind).into_iter().find(|object| name(object) == its_name)
    }

    #[track_caller]
    pub fn get(&self, kind: &str, its_name: &str) -> &Value {
        let names: Vec<_> = self.of_kind(kind).into_iter().map(name).collect();
        self.find(kind, its_name).unwrap_or_else(|| panic!("no {its_name} among {names:?}"))
    }

    /// Kind and name of every object.
    pub fn names(&self) -> BTreeSet<(String, String)> {
        self.0.iter().map(|object| (text_at(object, "/kind"), name(object))).collect()
    }

    /// The upgrade's Job, whatever the engine.
    #[track_caller]
    pub fn job(&self) -> &Value {
        let is_it = |job: &&Value| env(pod(job)).contains_key("GATE_MODE");
        let jobs: Vec<_> = self.of_kind("Job").into_iter().filter(|job| !is_it(job)).collect();
        assert_eq!(jobs.len(), 1, "{self:?}");
        jobs[0]
    }

    /// Every pod's spec, with the name of what it belongs to.
    pub fn pods(&self) -> Vec<(String, &Value)> {
        let with_pods = |kind: &str| ["Job", "CronJob", "Pod"].contains(&kind);
        let objects = self.0.iter().filter(|object| with_pods(object["kind"].as_str().unwrap()));
        objects.map(|object| (name(object), pod(object))).collect()
    }
}

/// The pod's spec of an object.
#[track_caller]
pub fn pod(object: &Value) -> &Value {
    let pointers = ["/spec/jobTemplate/spec/template/spec", "/spec/template/spec", "/spec"];
    pointers.iter().find_map(|pointer| object.pointer(pointer)).unwrap()
}

/// The variables of a pod's gate, which may be an init container; each is there once.
#[track_caller]
pub fn env(pod: &Value) -> BTreeMap<String, String> {
    let lists = ["containers", "initContainers"];
    let mut containers = lists.iter().filter_map(|list| pod[*list].as_array()).flatten();
    let is_gate = |container: &&Value| {
        let mut names = container["env"].as_array().into_iter().flatten();
        names.any(|v| v["name"].as_str().is_some_and(|n| n.starts_with("GATE_MONGODB_URI")))
    };
    variables(containers.find(is_gate).expect("a gate in the pod"))
}

/// The variables of a container; each is there once.
#[track_caller]
pub fn variables(container: &Value) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for variable in container["env"].as_array().unwrap() {
        let from = &variable["valueFrom"];
        let value = match (variable["value"].as_str(), from["fieldRef"]["fieldPath"].as_str()) {
            (Some(value), _) => value.to_string(),
            (_, Some(path)) => format!("field {path}"),
            _ => {
                let key = &from["secretKeyRef"];
                assert_eq!(key["optional"], true, "a pod that cannot start says nothing: {key}");
                format!("secret {} {}", text_at(key, "/name"), text_at(key, "/key"))
            }
        };
        let twice = variables.insert(text_at(variable, "/name"), value);
        assert_eq!(twice, None, "{variable}");
    }
    variables
}
