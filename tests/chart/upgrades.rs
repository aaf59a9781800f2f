//! Upgrades from files, in ConfigMaps: one of the hooks, one of the release's own pods.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use crate::folder::Folder;
use crate::helm::{Release, Rendered, env, name, pod, render, text_at};

const FILES: &str = "
upgrades:
  gate.yaml: |
    app: kanban
    version: 1.1.0
  1.1.0-card-positions.yaml: |
    version: 1.1.0
    description: give every card a position {{ of its board }}
    steps: []
";

/// Kind, name and volume of each pod that has files, with the ConfigMap that they come from.
pub fn mounted(rendered: &Rendered) -> Vec<(String, String)> {
    let mut found = vec![];
    for (its_name, spec) in rendered.pods() {
        let volumes = spec["volumes"].as_array().cloned().unwrap_or_default();
        let Some(volume) = volumes.iter().find(|volume| volume["name"] == "gate-upgrades") else {
            continue;
        };
        assert_eq!(volume["configMap"]["optional"], true);
        let mount = &spec["containers"][0]["volumeMounts"][0];
        assert_eq!(
            *mount,
            json!({ "name": "gate-upgrades", "mountPath": "/upgrades", "readOnly": true })
        );
        assert_eq!(env(spec)["GATE_UPGRADES"], "/upgrades");
        found.push((its_name, text_at(volume, "/configMap/name")));
    }
    found
}

fn maps(rendered: &Rendered) -> Vec<(String, Value)> {
    let maps = rendered.of_kind("ConfigMap").into_iter();
    maps.map(|map| (name(map), map["metadata"]["annotations"].clone())).collect()
}

#[test]
fn without_files_there_is_no_config_map_and_nothing_is_mounted() {
    let rendered = render("");
    assert!(rendered.of_kind("ConfigMap").is_empty() && mounted(&rendered).is_empty());
    assert!(!env(pod(rendered.job())).contains_key("GATE_UPGRADES"));
}

#[test]
fn hooks_have_files_that_helm_makes_again_and_the_releases_pods_those_of_their_release() {
    let rendered = render(&format!("{FILES}hooks: {{ onRollback: true }}"));
    let [hook, own] = &maps(&rendered)[..] else { panic!("{rendered:?}") };
    assert_eq!(hook.0, "r-upgrade-gate-helm-upgrades");
    assert_eq!(
        hook.1,
        json!({
            "helm.sh/hook": "pre-install,pre-upgrade,pre-rollback",
            "helm.sh/hook-weight": "-10",
            "helm.sh/hook-delete-policy": "before-hook-creation",
        })
    );
    assert!(own.0.starts_with("r-upgrade-gate-upgrades-") && own.1.is_null(), "{own:?}");
    for map in rendered.of_kind("ConfigMap") {
        assert_eq!(map["immutable"], true);
        let files = map["data"].as_object().unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["1.1.0-card-positions.yaml", "gate.yaml"]);
        assert_eq!(files["gate.yaml"], "app: kanban\nversion: 1.1.0\n");
        // files are the author's, and no templates
        assert!(text_at(&files["1.1.0-card-positions.yaml"], "").contains("{{ of its board }}"));
    }
    let expected = [
        ("r-upgrade-gate", &own.0),
        ("r-upgrade-gate-helm", &hook.0),
        ("r-upgrade-gate-helm-rollback", &hook.0),
        ("r-upgrade-gate-helm-test", &own.0),
    ]
    .map(|(pod, map)| (pod.to_string(), map.clone()));
    assert_eq!(mounted(&rendered), expected);
}

#[test]
fn argo_cd_removes_the_hooks_files_after_each_sync_and_an_ordinary_job_has_the_releases() {
    let argocd = render(&format!("{FILES}hooks: {{ engine: argocd }}"));
    let [hook, own] = &maps(&argocd)[..] else { panic!("{argocd:?}") };
    assert_eq!(hook.0, "r-upgrade-gate-argocd-upgrades");
    assert_eq!(
        hook.1,
        json!({
            "argocd.argoproj.io/hook": "PreSync",
            "argocd.argoproj.io/hook-delete-policy": "BeforeHookCreation,HookSucceeded,HookFailed",
            "argocd.argoproj.io/sync-wave": "-10",
        })
    );
    // those of the release before go when the rollout is over
    assert_eq!(own.1, json!({ "argocd.argoproj.io/sync-options": "PruneLast=true" }));
    assert_eq!(mounted(&argocd)[1].1, hook.0);

    let none = render(&format!("{FILES}hooks: {{ engine: none }}"));
    let [own] = &maps(&none)[..] else { panic!("{none:?}") };
    assert!(mounted(&none).iter().all(|(_, map)| *map == own.0));
    assert_eq!(mounted(&none).len(), 3);
}

#[test]
fn other_contents_have_another_name_and_the_same_the_same() {
    let of = |values: &str| maps(&render(values))[1].0.clone();
    let first = of(FILES);
    assert_eq!(of(&format!("{FILES}settings: {{ log: debug }}")), first);
    assert_ne!(of(&FILES.replace("1.1.0\n    desc", "1.2.0\n    desc")), first);
    assert_ne!(of(&FILES.replace("card-positions", "positions")), first);
    let long = Release::of(FILES).named("a-release-with-a-name-that-is-long-enough-to-be-cut");
    let names: Vec<_> = maps(&long.render()).into_iter().map(|(name, _)| name).collect();
    assert!(names.iter().all(|name| name.len() <= 52) && names[0] != names[1], "{names:?}");
}

#[test]
fn files_are_read_by_the_stock_image_unless_another_is_named() {
    let image = |values: &str| {
        let rendered = render(values);
        text_at(pod(rendered.job()), "/containers/0/image")
    };
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(image(FILES), format!("ghcr.io/datalab-org/upgrade-gate:{version}"));
    assert_eq!(image(&format!("{FILES}image: {{ repository: 'r/stock', tag: '1' }}")), "r/stock:1");
    assert_eq!(
        image(&format!("{FILES}image: {{ repository: r/stock }}")),
        format!("r/stock:{version}")
    );
    // the stock image's version is not the application's
    let label = |values: &str| {
        render(values).job()["metadata"]["labels"]["app.kubernetes.io/version"].clone()
    };
    assert_eq!(label(FILES), Value::Null);
    assert_eq!(label(&format!("{FILES}settings: {{ appVersion: 1.1.0 }}")), "1.1.0");
}

#[test]
fn an_applications_own_pods_get_their_releases_files() {
    let folder = Folder::new("files");
    crate::parents::chart(&folder, "");
    let volumes = "{{- include \"upgrade-gate.volumes\" .Subcharts.gate | nindent 8 }}";
    let app = crate::parents::deployment("app", ".Values.global.version", crate::parents::MINE);
    folder.write("templates/app.yaml", &format!("{app}      volumes: {volumes}\n"));
    let files = FILES.replace('\n', "\n  ");
    let values = format!(
        "global: {{ version: '1.1.0' }}\ngate:\n  mongodb: {{ existingSecret: {{ name: db }} }}{files}"
    );
    let rendered = Release::of(&values).chart(folder.path()).render();
    let [_, own] = &maps(&rendered)[..] else { panic!("{rendered:?}") };
    let spec = pod(rendered.get("Deployment", "app"));
    assert_eq!(spec["volumes"][0]["configMap"]["name"], own.0);
    assert_eq!(spec["initContainers"][0]["volumeMounts"][0]["mountPath"], "/upgrades");
    let names = &env(spec)["GATE_SETTING_NAMES"];
    assert!(names.contains("GATE_UPGRADES=gate.upgrades"), "{names}");
}

#[test]
fn the_guides_files_are_rendered_and_its_command_makes_such_values_of_a_folder() {
    let rendered = render(&crate::parents::shown("upgrades"));
    let data = rendered.of_kind("ConfigMap")[0]["data"].clone();
    assert_eq!(env(pod(rendered.job()))["GATE_APP_VERSION"], "1.1.0");
    let folder = Folder::new("values");
    for (name, text) in data.as_object().unwrap() {
        folder.write(&format!("upgrades/{name}"), text.as_str().unwrap());
    }
    let bin = concat!(env!("CARGO_MANIFEST_DIR"), "/.cache/cluster/bin");
    let command = crate::guide::commands("upgrades-values");
    let run = |program: &str| {
        let mut shell = std::process::Command::new("bash");
        shell.args(["-ec", program]).current_dir(folder.path());
        shell.env("PATH", format!("{bin}:/usr/bin:/bin")).output().unwrap()
    };
    let made = run(&format!("{command}\ncat upgrades-values.yaml"));
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let values = String::from_utf8(made.stdout).unwrap();
    assert_eq!(render(&values).of_kind("ConfigMap")[0]["data"], data);
    // and they are files that the gate takes
    let validated = std::process::Command::new(env!("CARGO_BIN_EXE_upgrade-gate"))
        .arg("validate")
        .env("GATE_UPGRADES", folder.path().join("upgrades"))
        .env("GATE_APP_VERSION", "1.1.0")
        .output()
        .unwrap();
    assert!(validated.status.success(), "{validated:?}");
}

#[test]
fn what_cannot_work_is_refused_with_the_way_that_does() {
    let refusal = |values: &str| Release::of(values).refusal();
    let large = |bytes: usize| format!("{FILES}  1.1.0-large.yaml: {}\n", "x".repeat(bytes));
    let refused = refusal(&large(1024 * 1024));
    assert!(refused.contains("a ConfigMap holds at most 1048576 (1 MiB)"), "{refused}");
    assert!(refused.contains("COPY upgrades /upgrades"), "{refused}");
    render(&large(1024 * 1024 - 500));
    let refused = refusal("upgrades: { 1.1.0-a.yaml: 'version: 1.1.0' }");
    assert!(refused.contains("there is no gate.yaml"), "{refused}");
    for (values, problem) in [
        ("{ gate.yaml: { app: kanban } }", r#"what is under "gate.yaml" is a map"#),
        ("{ gate.yaml: { app: kanban } }", "write the text after `gate.yaml: |`"),
        ("{ gate: { yaml: text } }", r"put a backslash before each dot of the name"),
        ("{ gate.yaml: [ app ] }", r#"what is under "gate.yaml" is a list"#),
        ("{ gate.yaml: 1 }", r#"what is under "gate.yaml" is a number"#),
        ("{ gate.yaml: a, upgrades/1.1.0-a.yaml: a }", "give the file's name alone"),
        (r"{ gate.yaml: a, upgrades\1.1.0-a.yaml: a }", "give the file's name alone"),
        ("{ gate.yaml: a, 1.1.0 a.yaml: a }", "cannot be the name of a file in a ConfigMap"),
        ("{ gate.yaml: a, 1.1.0-ä.yaml: a }", "cannot be the name of a file in a ConfigMap"),
        ("{ gate.yaml: a, ..a.yaml: a }", "cannot be the name of a file in a ConfigMap"),
        ("{ gate.yml: a }", "there is no gate.yaml"),
        ("{ gate.yaml: '' }", "there is no gate.yaml"),
        ("[ gate.yaml ]", "this is a list. Give each file's text under its name"),
        ("text", "this is a string. Give each file's text under its name"),
    ] {
        let refused = refusal(&format!("upgrades: {values}"));
        assert_eq!(refused.matches(problem).count(), 2, "{values}: {refused}");
    }
    let refused = refusal(&format!("{FILES}extraEnv: [{{ name: GATE_UPGRADES, value: /a }}]"));
    assert!(refused.contains("GATE_UPGRADES is set by the value upgrades"), "{refused}");
    render("extraEnv: [{ name: GATE_UPGRADES, value: /a }]");
}

#[test]
fn files_on_the_command_line_are_taken_as_they_are() {
    let folder = Folder::new("set-file");
    folder.write("gate.yaml", "app: kanban\r\nversion: 1.1.0");
    let text = "version: 1.1.0\r\ndescription: '{{ .Values }} \\ufffd'\r\nsteps: []\r\n\r\n";
    folder.write("1.1.0-a.yaml", text);
    fs::write(folder.path().join("1.1.0-b.yaml"), b"version: 1.1.0 # \xe4").unwrap();
    let set = |release: Release, name: &str| {
        let file = folder.path().join(name);
        let name = name.replace('.', "\\.");
        release.argument(&format!("--set-file=upgrades.{name}={}", file.display()))
    };
    let release = set(set(Release::of(""), "gate.yaml"), "1.1.0-a.yaml");
    let rendered = release.render();
    for map in rendered.of_kind("ConfigMap") {
        let expected =
            json!({ "1.1.0-a.yaml": text, "gate.yaml": "app: kanban\r\nversion: 1.1.0" });
        assert_eq!(map["data"], expected);
    }
    // Helm would put other characters in their place
    let refused = set(release, "1.1.0-b.yaml").refusal();
    assert!(refused.contains(r#""1.1.0-b.yaml" is not text in UTF-8"#), "{refused}");
}

#[test]
fn null_and_an_empty_text_remove_a_file_that_other_values_have() {
    let data = |values: &str| render(values).of_kind("ConfigMap")[0]["data"].clone();
    let first = data(FILES);
    assert_eq!(data(&format!("{FILES}  1.1.0-more.yaml: ''\n  1.1.0-other.yaml: null\n")), first);
    // no files at all: the image has them in it
    for values in ["upgrades: null", "upgrades: {}"] {
        assert!(mounted(&render(values)).is_empty());
    }
}

#[test]
fn two_gates_of_one_umbrella_have_files_of_their_own() {
    let folder = Folder::new("two-gates");
    let version = crate::values::chart()["version"].clone();
    let second = format!(
        "  - {{ name: upgrade-gate, alias: second, version: {version}, repository: 'file://charts/upgrade-gate' }}\n"
    );
    crate::parents::chart(&folder, &second);
    let files =
        |app: &str| format!("{{ gate.yaml: 'app: {app}', 1.1.0-a.yaml: 'version: 1.1.0' }}");
    let secret = "mongodb: { existingSecret: { name: db } }";
    let values = format!(
        "gate: {{ {secret}, upgrades: {} }}\nsecond: {{ {secret}, upgrades: {} }}",
        files("one"),
        files("two")
    );
    let rendered = Release::of(&values).chart(folder.path()).render();
    let maps: BTreeMap<_, _> = rendered
        .of_kind("ConfigMap")
        .into_iter()
        .map(|map| (name(map), text_at(map, "/data/gate.yaml")))
        .collect();
    assert_eq!(maps.len(), 4, "{maps:?}");
    for (pod, map) in mounted(&rendered) {
        let app = if pod.contains("second") { "app: two" } else { "app: one" };
        assert_eq!(maps[&map], app, "{pod}");
    }
    assert_eq!(mounted(&rendered).len(), 6);
}

#[test]
fn every_way_to_run_the_gate_has_the_files() {
    let more = "
hooks: { reportStatus: true, onRollback: true }
quiesce: { workloads: [deployment/app], resume: true }
manual: { mode: status }
";
    let rendered = render(&format!("{FILES}{more}"));
    let pods = rendered.pods();
    assert_eq!(mounted(&rendered).len(), pods.len(), "{pods:?}");
    let status = &pod(rendered.job())["initContainers"][0];
    assert_eq!(status["volumeMounts"][0]["mountPath"], "/upgrades", "{status}");
}
