//! The chart as a dependency of an application's chart, under an alias.

use serde_json::Value;

use crate::folder::{Folder, copy};
use crate::helm::{CHART, Release, Rendered, env, pod, text_at};

/// A chart whose Deployment takes the init container of dependencies with these aliases.
fn parent(folder: &Folder, aliases: &[&str]) {
    let version = crate::values::chart()["version"].clone();
    let mut chart = "apiVersion: v2\nname: app\nversion: 1.0.0\ndependencies:\n".to_string();
    let mut containers = String::new();
    for alias in aliases {
        chart += &format!(
            "  - {{ name: upgrade-gate, alias: {alias}, version: {version}, condition: {alias}.enabled, \
             repository: 'file://charts/upgrade-gate' }}\n"
        );
        containers += &format!(
            "        {{{{- if (index .Values \"{alias}\").enabled }}}}\
             {{{{ include \"upgrade-gate.initContainer\" (index .Subcharts \"{alias}\") | nindent 8 }}}}\
             {{{{ end }}}}\n"
        );
    }
    folder.write("Chart.yaml", &chart);
    folder.write(
        "templates/deployment.yaml",
        &format!(
            "apiVersion: apps/v1
kind: Deployment
metadata: {{ name: app }}
spec:
  selector: {{ matchLabels: {{ app: app }} }}
  template:
    metadata: {{ labels: {{ app: app }} }}
    spec:
      initContainers:
{containers}        - name: other
          image: app
          {{{{- if (index .Values \"{first}\").enabled }}}}
          env: {{{{- include \"upgrade-gate.env\" (index .Subcharts \"{first}\") | nindent 12 }}}}
          {{{{- end }}}}
      containers: [{{ name: app, image: app }}]
      {{{{- with include \"upgrade-gate.volumes\" (index .Subcharts \"{first}\") }}}}
      volumes: {{{{- . | nindent 8 }}}}
      {{{{- end }}}}
",
            first = aliases[0]
        ),
    );
    copy(CHART.as_ref(), &folder.path().join("charts/upgrade-gate"));
}

/// The application's release, with these values for a gate called `gate`.
fn release(folder: &Folder, values: &str) -> Release {
    let gate: String = values.lines().map(|line| format!("  {line}\n")).collect();
    let secret = "  mongodb: { existingSecret: { name: db } }\n";
    let secret = if values.contains("mongodb:") { "" } else { secret };
    Release::of(&format!("gate:\n  enabled: true\n{secret}{gate}# mongodb:\n")).chart(folder.path())
}

/// The application's Deployment, with the init container of a gate with these values.
pub fn deployment(values: &str) -> Value {
    let name = format!("parent-{:?}", std::thread::current().id());
    let folder = Folder::new(&name.replace(['(', ')'], "-"));
    parent(&folder, &["gate"]);
    release(&folder, values).render().get("Deployment", "app").clone()
}

#[test]
fn an_application_gates_its_own_pods_with_one_line() {
    let folder = Folder::new("gated");
    parent(&folder, &["gate"]);
    let rendered = release(&folder, "initContainer: { timeout: 1h }").render();
    let app = pod(rendered.get("Deployment", "app"));
    let init = &app["initContainers"][0];
    assert_eq!(init["name"], "gate");
    assert_eq!((env(app)["GATE_MODE"].as_str(), env(app)["GATE_TIMEOUT"].as_str()), ("wait", "1h"));
    assert_eq!(init["env"], app["initContainers"][1]["env"], "the variables alone");
    let job = &pod(rendered.job())["containers"][0];
    for field in ["image", "resources", "securityContext", "terminationMessagePolicy"] {
        assert_eq!(init[field], job[field], "{field}");
    }
    assert_eq!(crate::helm::name(rendered.job()), "r-gate-helm");
}

#[test]
fn its_volumes_come_with_it() {
    let values = "mongodb: { uriFile: /etc/mongodb/uri }
extraVolumes: [{ name: uri, secret: { secretName: db } }]
extraVolumeMounts: [{ name: uri, mountPath: /etc/mongodb }]";
    let deployment = deployment(values);
    let app = pod(&deployment);
    assert_eq!(app["volumes"][0]["name"], "uri");
    assert_eq!(app["initContainers"][0]["volumeMounts"][0]["mountPath"], "/etc/mongodb");
    assert_eq!(env(app)["GATE_MONGODB_URI_FILE"], "/etc/mongodb/uri");
    assert_eq!(pod(&self::deployment("")).get("volumes"), None);
}

#[test]
fn a_disabled_gate_leaves_nothing() {
    let folder = Folder::new("disabled");
    parent(&folder, &["gate"]);
    // a disabled dependency's templates cannot be included: the parent asks first
    let template = folder.path().join("templates/deployment.yaml");
    let text = std::fs::read_to_string(&template).unwrap();
    let (before, _) = text.split_once("      {{- with include").unwrap();
    std::fs::write(&template, before).unwrap();
    let names = |enabled: bool| {
        let values = format!("gate: {{ enabled: {enabled}, mongodb: {{ uriFile: /uri }} }}");
        Release::of(&values).chart(folder.path()).render().names().len()
    };
    assert_eq!(names(false), 1);
    assert!(names(true) > 1);
}

#[test]
fn any_alias_will_do_and_two_of_them_do_not_meet() {
    let folder = Folder::new("aliases");
    parent(&folder, &["my-gate", "otherGate"]);
    let mongodb = "mongodb: { uri: mongodb://host/db }";
    let values = format!(
        "global: {{ any: thing }}\nmy-gate: {{ enabled: true, {mongodb} }}\n\
         otherGate: {{ enabled: true, {mongodb} }}\n"
    );
    let rendered: Rendered = Release::of(&values).chart(folder.path()).render();
    let count = rendered.0.len();
    assert_eq!(rendered.names().len(), count, "each name once: {:?}", rendered.names());
    for (alias, secret) in [(0, "my-gate"), (1, "othergate")] {
        let app = pod(rendered.get("Deployment", "app"));
        let init = &app["initContainers"][alias];
        assert_eq!(init["name"], secret);
        let secret = format!("r-{secret}-mongodb");
        assert_eq!(text_at(init, "/env/0/valueFrom/secretKeyRef/name"), secret);
        assert!(rendered.find("Secret", &secret).is_some());
    }
}

#[test]
fn a_release_with_the_alias_in_its_name_does_not_meet_its_application() {
    let folder = Folder::new("same-name");
    parent(&folder, &["gate"]);
    let rendered = release(&folder, "").named("gate").render();
    assert_eq!(crate::helm::name(rendered.job()), "gate-gate-helm");
}

#[test]
fn a_misspelt_value_of_a_dependency_is_refused_but_not_global_and_enabled() {
    let folder = Folder::new("misspelt");
    parent(&folder, &["gate"]);
    release(&folder, "global: { any: thing }").render();
    let refusal = release(&folder, "enabeld: true").refusal();
    assert!(refusal.contains("additional properties 'enabeld' not allowed"), "{refusal}");
}
