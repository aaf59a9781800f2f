//! The chart in other people's charts: versions that move together, umbrellas, accounts and long versions.

use serde_json::Value;

use crate::folder::{Folder, copy};
use crate::helm::{CHART, Release, env, name, pod, render, text_at};

/// A chart with these dependencies besides the gate, which is called `gate`.
pub fn chart(folder: &Folder, others: &str) {
    let version = crate::values::chart()["version"].clone();
    folder.write(
        "Chart.yaml",
        &format!(
            "apiVersion: v2\nname: app\nversion: 1.0.0\nappVersion: 9.9.9\ndependencies:\n  \
             - {{ name: upgrade-gate, alias: gate, version: {version}, repository: 'file://charts/upgrade-gate' }}\n{others}"
        ),
    );
    copy(CHART.as_ref(), &folder.path().join("charts/upgrade-gate"));
}

pub fn deployment(name: &str, tag: &str, init: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{ name: {name} }}
spec:
  selector: {{ matchLabels: {{ app: {name} }} }}
  template:
    metadata: {{ labels: {{ app: {name} }} }}
    spec:
      initContainers: {{{{- {init} | nindent 8 }}}}
      containers: [{{ name: app, image: 'app:{{{{ {tag} }}}}' }}]
"
    )
}

pub const MINE: &str = "include \"upgrade-gate.initContainer\" .Subcharts.gate";

/// What the guide shows under this name.
pub fn shown(name: &str) -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/helm.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mark = format!("<!-- chart: {name} -->\n```yaml\n");
    let (_, block) = page.split_once(&mark).unwrap_or_else(|| panic!("the guide shows no {name}"));
    block.split_once("```").unwrap().0.to_owned()
}

const IMAGE: &str = "registry.example.org/my-app-upgrade";

/// Image and GATE_APP_VERSION of a pod's gate.
fn versions(spec: &Value) -> (String, String) {
    let container = spec.pointer("/initContainers/0").or(spec.pointer("/containers/0")).unwrap();
    (text_at(container, "/image"), env(spec)["GATE_APP_VERSION"].clone())
}

#[test]
fn one_global_value_of_a_parent_moves_application_and_gate() {
    let folder = Folder::new("moves");
    chart(&folder, "");
    folder.write("templates/app.yaml", &deployment("app", ".Values.global.version", MINE));
    let release = |version: &str| {
        let values = shown("together").replace("version: 1.4.0", &format!("version: '{version}'"));
        Release::of(&values).chart(folder.path())
    };
    for version in ["1.4.0", "1.5.0"] {
        let rendered = release(version).render();
        let app = pod(rendered.get("Deployment", "app"));
        let expected = (format!("{IMAGE}:{version}"), version.to_string());
        assert_eq!(app["containers"][0]["image"], format!("app:{version}"));
        assert_eq!(versions(app), expected);
        let gates = rendered.pods();
        assert_eq!(gates.len(), 3);
        for (name, spec) in gates {
            assert_eq!(versions(spec), expected, "{name}");
        }
        let label = "/metadata/labels/app.kubernetes.io~1version";
        assert_eq!(text_at(rendered.job(), label), version);
    }
    // a global that nobody set must not turn into the chart's own version
    let refusal = release("").refusal();
    assert!(
        refusal.contains("image.tag: {{ .Values.global.version }} renders to nothing"),
        "{refusal}"
    );
}

#[test]
fn templates_see_the_gates_own_chart_and_never_the_parents() {
    let folder = Folder::new("sees");
    chart(&folder, "");
    let values = "gate:\n  image: { tag: '{{ .Chart.AppVersion }}-{{ .Release.Name }}-{{ .Values.settings.log }}' }\n  mongodb: { existingSecret: { name: db } }\n";
    let rendered = Release::of(values).chart(folder.path()).render();
    let image = text_at(pod(rendered.job()), "/containers/0/image");
    let own = crate::values::chart()["appVersion"].as_str().unwrap().to_string();
    assert!(image.ends_with(&format!(":{own}-r-info")), "{image}");
}

/// An umbrella with a gate, and next to it the application, whose chart has no gate of its own.
fn umbrella(folder: &Folder, init: &str) {
    chart(folder, "  - { name: web, version: 0.1.0, repository: 'file://charts/web' }\n");
    folder.write("charts/web/Chart.yaml", "apiVersion: v2\nname: web\nversion: 0.1.0\n");
    let app = deployment("web", ".Values.global.version", "INIT");
    let app = app.replace("      initContainers: {{- INIT | nindent 8 }}\n", init);
    folder.write("charts/web/templates/app.yaml", &app);
}

/// As one might think that it goes.
const AS_A_DEPENDENCY: &str = "      initContainers: {{- include \"upgrade-gate.initContainer\" .Subcharts.gate | nindent 8 }}\n";

#[test]
fn an_umbrella_gates_a_chart_next_to_the_gate() {
    let folder = Folder::new("umbrella");
    umbrella(&folder, &shown("sibling"));
    let more = "gate: { settings: { fromVersion: 1.3.0, connectTimeout: 7s } }\n";
    let values =
        shown("umbrella").replace("settings: { ", "settings: { connectTimeout: 9s, ") + more;
    let rendered = Release::of(&values).chart(folder.path()).render();
    let expected = (format!("{IMAGE}:1.4.0"), "1.4.0".to_string());
    let web = pod(rendered.get("Deployment", "web"));
    assert_eq!(versions(web), expected);
    assert_eq!(web["initContainers"][0]["name"], "gate");
    let job = pod(rendered.job());
    assert_eq!(versions(job), expected, "the gate's own chart reads the same values");
    for (spec, from) in [(web, None), (job, Some("1.3.0"))] {
        let variables = env(spec);
        assert_eq!(variables["GATE_MONGODB_URI"], "secret r-mongodb uri");
        assert_eq!(variables["GATE_CONNECT_TIMEOUT"], "9s");
        assert_eq!(variables.get("GATE_FROM_VERSION").map(String::as_str), from);
    }
    for field in ["resources", "securityContext", "terminationMessagePolicy"] {
        assert_eq!(web["initContainers"][0][field], job["containers"][0][field], "{field}");
    }
}

#[test]
fn a_chart_next_to_the_gate_is_told_what_to_write() {
    let folder = Folder::new("nil");
    umbrella(&folder, AS_A_DEPENDENCY);
    let refusal = Release::of(&shown("umbrella")).chart(folder.path()).refusal();
    assert!(refusal.contains("writes (list . \"gate\") instead"), "{refusal}");
    assert!(!refusal.contains("nil pointer"), "{refusal}");

    let folder = Folder::new("unset");
    let sibling = shown("sibling");
    let asks = |line: &&str| !line.contains("if ") && !line.contains("end }}");
    let unasked: Vec<_> = sibling.lines().filter(asks).collect();
    umbrella(&folder, &format!("{}\n", unasked.join("\n")));
    let values =
        "gate: { mongodb: { existingSecret: { name: db } } }\nglobal: { version: 1.4.0 }\n";
    let refusal = Release::of(values).chart(folder.path()).refusal();
    assert!(
        refusal.contains("set the values of the gate \"gate\" in global.upgradeGate.gate"),
        "{refusal}"
    );
    let untagged = "global: { version: 1.4.0, upgradeGate: { gate: { mongodb: { existingSecret: { name: db } } } } }\n";
    let refusal = Release::of(untagged).chart(folder.path()).refusal();
    assert!(
        refusal.contains("set image.tag or image.digest in global.upgradeGate.gate"),
        "{refusal}"
    );
    let misspelt = shown("umbrella").replace("settings:", "setings:");
    let refusal = Release::of(&misspelt).chart(folder.path()).refusal();
    assert!(refusal.contains("additional properties 'setings' not allowed"), "{refusal}");
}

#[test]
fn labels_hold_in_63_characters() {
    let folder = Folder::new("long");
    copy(CHART.as_ref(), folder.path());
    let chart = std::fs::read_to_string(folder.path().join("Chart.yaml")).unwrap();
    let long = format!("0.0.0-main.20261127.{}+build.7", "0123456789abcdef".repeat(3));
    let version = crate::values::chart()["version"].as_str().unwrap().to_string();
    folder.write(
        "Chart.yaml",
        &chart.replace(&format!("version: {version}\n"), &format!("version: {long}\n")),
    );
    let tag = format!("image: {{ repository: gate, tag: 'v1_{}' }}", "x".repeat(120));
    let rendered = Release::of(&tag).chart(folder.path()).render();
    let is_label = |text: &str| {
        let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
        text.len() <= 63
            && edge(text.chars().next())
            && edge(text.chars().last())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    for object in &rendered.0 {
        for (key, value) in object["metadata"]["labels"].as_object().unwrap() {
            assert!(is_label(value.as_str().unwrap()), "{key}: {value}");
        }
        let chart = text_at(object, "/metadata/labels/helm.sh~1chart");
        assert!(chart.starts_with("upgrade-gate-0.0.0-main.20261127."), "{chart}");
    }
}

#[test]
fn the_version_label_is_that_of_the_image() {
    let label = |values: &str| {
        let rendered = render(values);
        rendered.job()["metadata"]["labels"]["app.kubernetes.io/version"].clone()
    };
    let digest = format!("sha256:{}", "0a".repeat(32));
    assert_eq!(label(""), crate::values::chart()["appVersion"]);
    assert_eq!(label("image: { repository: mine, tag: '1.4' }"), "1.4");
    assert_eq!(label(&format!("image: {{ repository: mine, digest: '{digest}' }}")), Value::Null);
    assert_eq!(
        label(&format!("image: {{ repository: mine, tag: 2.0.0, digest: '{digest}' }}")),
        "2.0.0"
    );
}

#[test]
fn an_account_of_the_parent_chart_does_not_hold_up_the_first_hook() {
    let folder = Folder::new("account");
    chart(&folder, "");
    let release = |account: &str| {
        let values =
            format!("gate:\n  mongodb: {{ existingSecret: {{ name: db }} }}\n  {account}\n");
        Release::of(&values).chart(folder.path()).render()
    };
    let account = |spec: &Value| text_at(spec, "/serviceAccountName");
    let rendered = release("serviceAccount: { create: false, name: parents }");
    let made: Vec<_> = rendered.of_kind("ServiceAccount").into_iter().map(name).collect();
    assert_eq!(made, ["r-gate-helm"], "the hook's own");
    assert_eq!(account(pod(rendered.job())), "r-gate-helm");
    assert_eq!(account(pod(rendered.get("CronJob", "r-gate"))), "parents");
    let bound = |name: &str| rendered.get("RoleBinding", name)["subjects"][0]["name"].clone();
    assert_eq!((bound("r-gate-helm"), bound("r-gate")), ("r-gate-helm".into(), "parents".into()));

    let there = release(
        "serviceAccount: { create: false, name: parents }\n  hooks: { serviceAccount: { create: false } }",
    );
    assert_eq!(account(pod(there.job())), "parents");
    assert!(there.of_kind("ServiceAccount").is_empty());
    let other =
        release("hooks: { serviceAccount: { create: false, name: '{{ .Release.Name }}-x' } }");
    assert_eq!(account(pod(other.job())), "r-x");
    assert_eq!(other.of_kind("ServiceAccount").len(), 1);
    let alone =
        render("serviceAccount: { create: false }\nhooks: { serviceAccount: { create: true } }");
    assert_eq!(account(pod(alone.job())), "r-upgrade-gate-helm");
}

#[test]
fn a_secret_of_the_application_can_be_a_hook_next_to_the_job() {
    let folder = Folder::new("secret");
    chart(&folder, "");
    folder.write("templates/secret.yaml", &shown("secrets"));
    let annotations = |engine: &str| {
        let more = format!("engine: {engine}, onRollback: {},", engine == "helm");
        let values = shown("secret-values").replace("hooks: {", &format!("hooks: {{ {more}"));
        let values = format!("mongodbUri: mongodb://host/my_app\n{values}");
        let rendered = Release::of(&values).chart(folder.path()).render();
        assert_eq!(env(pod(rendered.job()))["GATE_MONGODB_URI"], "secret my-app-mongodb-hook uri");
        let manual = rendered.of_kind("CronJob")[0];
        assert_eq!(env(pod(manual))["GATE_MONGODB_URI"], "secret my-app-mongodb uri");
        let own = rendered.get("Secret", "my-app-mongodb");
        assert_eq!(own["metadata"].get("annotations"), None);
        let copy = rendered.get("Secret", "my-app-mongodb-hook");
        assert_eq!(own["stringData"], copy["stringData"]);
        copy["metadata"]["annotations"].clone()
    };
    let helm = annotations("helm");
    assert_eq!(helm["helm.sh/hook"], "pre-install,pre-upgrade,pre-rollback");
    assert_eq!(helm["helm.sh/hook-weight"], "-10");
    assert_eq!(
        helm["helm.sh/hook-delete-policy"],
        "before-hook-creation,hook-succeeded,hook-failed"
    );
    assert_eq!(annotations("argocd")["argocd.argoproj.io/hook"], "PreSync");
}

#[test]
fn a_backup_comes_between_the_status_and_the_upgrade() {
    let folder = Folder::new("backup");
    chart(&folder, "");
    let values = format!("{}  mongodb: {{ existingSecret: {{ name: db }} }}\n", shown("backup"));
    let rendered = Release::of(&values).chart(folder.path()).render();
    let spec = pod(rendered.job());
    let lists = ["initContainers", "containers"];
    let containers = lists.iter().flat_map(|list| spec[*list].as_array().unwrap());
    let names: Vec<_> = containers.map(|container| text_at(container, "/name")).collect();
    assert_eq!(names, ["gate-status", "backup", "gate"]);
    let mounts = |container: &Value| -> Vec<String> {
        let mounts = container["volumeMounts"].as_array().into_iter().flatten();
        mounts.map(|mount| text_at(mount, "/mountPath")).collect()
    };
    assert_eq!(mounts(&spec["initContainers"][0]), ["/gate-status"]);
    assert_eq!(mounts(&spec["initContainers"][1]), ["/gate-status", "/backup"]);
    assert_eq!(mounts(&spec["containers"][0]), [""; 0]);
    assert_eq!(rendered.job()["spec"]["activeDeadlineSeconds"], 1800);
}
