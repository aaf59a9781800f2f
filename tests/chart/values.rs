//! The values: described, refused when misspelt, and not needed to be there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::folder::{Folder, copy};
use crate::helm::{CHART, Release, SECRET, lint, render, yaml};

fn file(name: &str) -> String {
    fs::read_to_string(Path::new(CHART).join(name)).unwrap()
}

pub fn chart_values() -> Value {
    yaml(&file("values.yaml"))
}

pub fn chart() -> Value {
    yaml(&file("Chart.yaml"))
}

fn schema() -> Value {
    serde_json::from_str(&file("values.schema.json")).unwrap()
}

/// The setting of a value of `settings`: `fromVersion` is `GATE_FROM_VERSION`.
pub fn setting_of(key: &str) -> String {
    let words = key.chars().map(|c| if c.is_uppercase() { format!("_{c}") } else { c.to_string() });
    format!("GATE_{}", words.collect::<String>().to_uppercase())
}

#[test]
fn both_helms_find_nothing_to_complain_of_but_would() {
    lint(CHART.as_ref(), "").unwrap();
    lint(CHART.as_ref(), &format!("{SECRET}hooks: {{ engine: none }}")).unwrap();
    let argocd = lint(CHART.as_ref(), &format!("{SECRET}hooks: {{ engine: argocd }}")).unwrap_err();
    let complaints =
        argocd.lines().filter(|line| line.starts_with("[WARN") || line.starts_with("[ERR"));
    let complaints: Vec<_> = complaints.collect();
    assert_eq!(complaints.len(), 1, "of a name that Argo CD's hook must not have: {argocd}");
    assert!(complaints[0].contains("templates/job.yaml: object name does not conform"));
    let folder = Folder::new("lint");
    copy(CHART.as_ref(), folder.path());
    folder.write("templates/wrong.yaml", "kind: Job\n  name: wrong\n");
    assert!(lint(folder.path(), "").unwrap_err().contains("wrong.yaml"));
}

#[test]
fn versions_are_the_crates_and_the_codes() {
    assert_eq!(chart()["version"], env!("CARGO_PKG_VERSION"));
    let binary = std::process::Command::new(env!("CARGO_BIN_EXE_datalab-upgrade"));
    let output = { binary }.arg("--version").output().unwrap();
    let version = String::from_utf8(output.stdout).unwrap();
    assert_eq!(chart()["appVersion"], version.trim().rsplit(' ').next().unwrap());
}

/// One row of the README's table.
struct Row {
    path: String,
    default: String,
    comment: String,
}

/// The values as `values.yaml` writes them: each with its comment, a group's before those in it.
fn rows() -> Vec<Row> {
    let text = file("values.yaml");
    let lines: Vec<&str> = text.lines().collect();
    let (mut groups, mut comment, mut rows) = (Vec::<(usize, &str)>::new(), vec![], vec![]);
    for line in lines {
        let indent = line.len() - line.trim_start().len();
        if line.is_empty() {
            comment.clear();
        } else if let Some(words) = line.trim_start().strip_prefix("# ") {
            comment.push(words);
        } else {
            let (key, default) = line.trim_start().split_once(':').unwrap();
            groups.retain(|(outer, _)| *outer < indent);
            let names = groups.iter().map(|(_, name)| *name).chain([key]);
            let path = names.collect::<Vec<_>>().join(".");
            let comment = std::mem::take(&mut comment).join(" ");
            if default.is_empty() {
                groups.push((indent, key));
            }
            if !default.is_empty() || !comment.is_empty() {
                rows.push(Row { path, default: default.trim().into(), comment });
            }
        }
    }
    rows
}

fn table() -> String {
    let mut table = String::from("| value | default | meaning |\n| --- | --- | --- |\n");
    for Row { path, default, comment } in rows() {
        table += &match default.as_str() {
            "" => format!("| **`{path}`** | | {comment} |\n"),
            _ => format!("| `{path}` | `{default}` | {comment} |\n"),
        };
    }
    table
}

#[test]
fn its_generated_table_is_that_of_the_values() {
    let (opening, closing) =
        ("<!-- values: written by make readme -->\n", "<!-- end of values -->");
    let readme = file("README.md");
    let (before, rest) = readme.split_once(opening).unwrap();
    let (written, after) = rest.split_once(closing).unwrap();
    if std::env::var("UPDATE").is_ok_and(|update| update == "1") {
        let text = format!("{before}{opening}{}{closing}{after}", table());
        fs::write(Path::new(CHART).join("README.md"), text).unwrap();
        return;
    }
    assert!(written == table(), "the chart's README is stale: make readme writes it anew");
}

/// The paths of all values that hold no others.
fn leaves(values: &Value, path: &str) -> Vec<String> {
    let object = values.as_object().filter(|object| !object.is_empty() && path != "resources");
    let Some(object) = object else { return vec![path.to_string()] };
    let dot = if path.is_empty() { "" } else { "." };
    object.iter().flat_map(|(key, value)| leaves(value, &format!("{path}{dot}{key}"))).collect()
}

#[test]
fn every_value_has_a_comment() {
    let described: Vec<_> = rows().into_iter().filter(|row| !row.comment.is_empty()).collect();
    let described: BTreeSet<_> = described.into_iter().map(|row| row.path).collect();
    let leaves = leaves(&chart_values(), "");
    assert!(leaves.len() > 50);
    let bare: Vec<_> = leaves.iter().filter(|leaf| !described.contains(*leaf)).collect();
    assert!(bare.is_empty(), "values.yaml does not describe {bare:?}");
}

/// A schema, or the one that it refers to.
fn resolved(part: &Value) -> Value {
    let name = part["$ref"].as_str().and_then(|name| name.strip_prefix("#/definitions/"));
    name.map_or_else(|| part.clone(), |name| schema()["definitions"][name].clone())
}

/// A value in which every property of a schema's object is misspelt, on every level; and the misspelt names.
fn misspelt(schema: &Value, path: &str, found: &mut Vec<(String, String)>) -> Option<Value> {
    let schema = &resolved(schema);
    if schema["type"] == "array" {
        return Some(json!([misspelt(&schema["items"], &format!("{path}/0"), found)?]));
    }
    let properties = schema["properties"].as_object()?;
    let mut value = Map::new();
    for (name, inner) in properties {
        if let Some(inner) = misspelt(inner, &format!("{path}/{name}"), found) {
            value.insert(name.clone(), inner);
        }
        let wrong = format!("{name}x");
        found.push((path.to_string(), wrong.clone()));
        value.insert(wrong, json!("x"));
    }
    Some(value.into())
}

#[test]
fn every_value_misspelt_is_refused() {
    let mut found = vec![];
    let values = misspelt(&schema(), "", &mut found).unwrap();
    assert!(found.len() > 100, "{found:?}");
    let refusal = Release::of(&format!("{values}# mongodb:")).refusal();
    for (path, name) in found {
        let line = format!("at '{path}': additional properties ");
        let lines: Vec<_> = refusal.lines().filter(|text| text.contains(&line)).collect();
        assert_eq!(lines.len(), 2, "{path}: {refusal}");
        assert!(
            lines.iter().all(|line| line.contains(&format!("'{name}'"))),
            "{path}/{name}: {lines:?}"
        );
    }
}

#[test]
fn a_value_of_the_wrong_kind_is_refused() {
    for (values, at) in [
        ("hooks: { engine: flux }", "hooks/engine"),
        ("hooks: { onInstall: 'no' }", "hooks/onInstall"),
        ("hooks: { backoffLimit: -1 }", "hooks/backoffLimit"),
        ("initContainer: { mode: plan }", "initContainer/mode"),
        ("settings: { initialise: yes }", "settings/initialise"),
        ("settings: { fromVersion: 0.8 }", "settings/fromVersion"),
        ("settings: { lockWait: 90 }", "settings/lockWait"),
        ("settings: { timeout: '90' }", "settings/timeout"),
        ("settings: { batchDocuments: 100001 }", "settings/batchDocuments"),
        ("settings: { logFormat: xml }", "settings/logFormat"),
        ("quiesce: { workloads: [daemonset/app] }", "quiesce/workloads/0"),
        ("mongodb: { uriFile: uri }", "mongodb/uriFile"),
        ("extraEnv: [{ name: A, value: 1 }]", "extraEnv/0/value"),
        ("extraEnv: [{ value: a }]", "extraEnv/0"),
        ("extraEnv: [{ name: A, valueFrom: { secretRef: {} } }]", "extraEnv/0/valueFrom"),
        ("nameOverride: My_App", "nameOverride"),
        ("fullnameOverride: my.app", "fullnameOverride"),
        ("fullnameOverride: my-app-", "fullnameOverride"),
        ("podLabels: { a: 1 }", "podLabels/a"),
    ] {
        let refusal = Release::of(values).refusal();
        let lines = refusal.lines().filter(|line| line.contains(&format!("- at '/{at}'")));
        assert!(lines.count() >= 2, "{values}: {refusal}");
    }
    render("settings: { lockWait: 1m 30s, connectTimeout: 500ms, timeout: 1.5h }");
}

#[test]
fn the_schema_knows_the_values_and_no_others() {
    fn compare(schema: &Value, values: &Value, path: &str) {
        let schema = resolved(schema);
        let Some(properties) = schema["properties"].as_object() else { return };
        let open = ["securityContext", "podSecurityContext", "affinity"];
        if path.ends_with("/resources") || open.contains(&path.trim_start_matches('/')) {
            return;
        }
        let known: BTreeSet<_> = properties.keys().cloned().collect();
        let mut there: BTreeSet<_> = values.as_object().unwrap().keys().cloned().collect();
        if path.is_empty() {
            there.extend(["global".into(), "enabled".into()]);
        }
        assert_eq!(known, there, "{path}");
        for (name, schema) in properties {
            compare(schema, &values[name], &format!("{path}/{name}"));
        }
    }
    compare(&schema(), &chart_values(), "");
    render("global: { any: thing }\nenabled: true");
}

/// Every top-level value absent, as after an update of the chart with `--reuse-values`, or every value in
/// the groups.
fn absent(depth: usize) -> String {
    fn nulls(values: &Value, depth: usize) -> Value {
        match values.as_object() {
            Some(object) if depth > 0 && !object.is_empty() => {
                object.iter().map(|(key, value)| (key.clone(), nulls(value, depth - 1))).collect()
            }
            _ => Value::Null,
        }
    }
    let mut values = nulls(&chart_values(), depth);
    values["mongodb"] = json!({
        "existingSecret": { "name": "db", "key": null },
        "uri": null,
        "uriFile": null,
        "ca": null,
    });
    // one value, for Kubernetes has no defaults for parts of it
    values["resources"] = Value::Null;
    format!("{values}# mongodb:")
}

#[test]
fn absent_values_mean_the_defaults() {
    let defaults = render("image: { pullPolicy: '' }");
    for depth in [1, 2, 3] {
        assert_eq!(render(&absent(depth)), defaults, "{depth}");
    }
    for engine in ["argocd", "none"] {
        let hooks = format!("hooks: {{ engine: {engine} }}");
        let without =
            absent(1).replace("\"hooks\":null", &format!("\"hooks\":{{\"engine\":\"{engine}\"}}"));
        let defaults = render(&format!("{hooks}\nimage: {{ pullPolicy: '' }}"));
        assert_eq!(render(&without), defaults, "{engine}");
    }
}

#[test]
fn the_notes_are_those_of_the_engine() {
    for (engine, says) in [
        ("helm", "by the Job r-upgrade-gate-helm."),
        ("argocd", "by a Job r-upgrade-gate-argocd-…"),
        ("none", "by a Job r-upgrade-gate-none-…"),
    ] {
        let notes = Release::of(&format!("hooks: {{ engine: {engine} }}")).notes();
        assert!(notes.contains(says) && notes.contains("cronjob/r-upgrade-gate"), "{notes}");
        assert_eq!(notes.contains("kubectl delete"), engine == "helm");
    }
    assert!(!Release::of("manual: { enabled: false }").notes().contains("cronjob"));
    Release::of(&absent(1)).notes();
}

#[test]
fn nothing_is_looked_up_or_taken_from_the_kind_of_operation() {
    for entry in fs::read_dir(Path::new(CHART).join("templates")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        // files of an application come from one, settings never
        let files = path.file_name().unwrap().to_str().unwrap().contains("upgrades");
        for word in ["lookup ", "IsInstall", "IsUpgrade", "ConfigMap", "randAlpha", "now "] {
            assert!(
                !text.contains(word) || (files && word == "ConfigMap"),
                "{}: {word}",
                path.display()
            );
        }
    }
}

#[test]
fn a_field_that_kubernetes_does_not_know_is_found() {
    let job = render("").job().clone();
    crate::kubernetes::check(&job).unwrap();
    for (pointer, field, value, expected) in [
        ("/spec", "backofLimit", json!(3), "/spec/backofLimit: no such field"),
        ("/spec", "backoffLimit", json!("3"), "/spec/backoffLimit: \"3\" is no integer"),
        ("/spec/template/spec/containers/0", "imagePulPolicy", json!("Never"), "no such field"),
        ("/spec/template/spec/containers/0", "env", json!({}), "/env: {} is no array"),
        ("/spec/podFailurePolicy/rules/1", "action", Value::Null, "/action: null is no string"),
        ("", "kind", json!("Jobb"), "no kind \"Jobb\""),
    ] {
        let mut wrong = job.clone();
        wrong.pointer_mut(pointer).unwrap()[field] = value;
        let error = crate::kubernetes::check(&wrong).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let mut without = job.clone();
    without["spec"].as_object_mut().unwrap().remove("template");
    assert_eq!(crate::kubernetes::check(&without).unwrap_err(), "/spec: no \"template\"");
}

/// What `ct lint` asks of a chart, and what Artifact Hub reads.
#[test]
fn the_package_says_who_makes_it_and_under_which_licence() {
    let chart = chart();
    for field in ["home", "icon", "description", "version"] {
        assert!(chart[field].as_str().is_some_and(|text| !text.is_empty()), "{field}");
    }
    assert!(!chart["sources"].as_array().unwrap().is_empty());
    for maintainer in chart["maintainers"].as_array().unwrap() {
        assert!(maintainer["name"].is_string() && maintainer["url"].is_string(), "{maintainer}");
    }
    let annotation = |name: &str| {
        let text = chart["annotations"][format!("artifacthub.io/{name}")].as_str().unwrap();
        yaml(text)
    };
    assert_eq!(annotation("license"), "MIT");
    let image = annotation("images")[0]["image"].clone();
    let values = chart_values();
    let repository = values["image"]["repository"].as_str().unwrap();
    assert_eq!(image, format!("{repository}:{}", chart["appVersion"].as_str().unwrap()));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for link in annotation("links").as_array().unwrap() {
        let url = link["url"].as_str().unwrap();
        let path = url.rsplit_once("/main/").map(|(_, path)| path);
        assert!(path.is_some_and(|path| root.join(path).exists()), "{url}");
    }
    let licence = fs::read_to_string(root.join("LICENSE")).unwrap();
    assert_eq!(
        file("LICENSE"),
        licence,
        "a copy, because a package holds nothing outside its folder"
    );

    let folder = Folder::new("package");
    let folder = folder.path().to_str().unwrap();
    for helm in crate::helm::HELMS {
        let output = crate::helm::helm(helm, &["package", CHART, "--destination", folder], "");
        assert!(output.status.success(), "{helm}");
    }
    let package = format!("{folder}/upgrade-gate-{}.tgz", env!("CARGO_PKG_VERSION"));
    let listed = std::process::Command::new("tar").args(["-tzf", &package]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for name in ["LICENSE", "README.md", "values.schema.json", "templates/_context.tpl"] {
        assert!(listed.lines().any(|line| line == format!("upgrade-gate/{name}")), "{listed}");
    }
}
