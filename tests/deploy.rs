//! The manifests and the compose file, as the real tools read them, compared with the code.

mod support;

use std::path::Path;
use std::process::{Command, Output};

use serde::Deserialize;
use serde_json::{Value, json};
use support::folder::{Folder, copy};
use upgrade_gate::Outcome;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A tool that `tests/cluster` has built.
fn tool(name: &str) -> Command {
    let path = Path::new(ROOT).join(".cache/cluster/bin").join(name);
    assert!(path.exists(), "no {name}: tests/cluster/build.sh kube compose rules");
    let mut tool = Command::new(path);
    tool.current_dir(ROOT);
    tool
}

fn text(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8(all).unwrap()
}

/// What a kustomization makes.
fn kustomize(folder: &Path) -> Vec<Value> {
    let rendered = tool("kubectl").arg("kustomize").arg(folder).output().unwrap();
    assert!(rendered.status.success(), "{}", text(&rendered));
    let objects = serde_norway::Deserializer::from_slice(&rendered.stdout);
    objects.map(|object| Value::deserialize(object).unwrap()).collect()
}

/// What a kustomization in another folder makes, which is told the way to the manifests.
fn kustomized(name: &str, text: impl Fn(&str) -> String) -> Vec<Value> {
    let folder = Folder::new(name);
    let up = "../".repeat(folder.path().components().count() - 1);
    let deploy = format!("{up}{}/deploy/kubernetes", ROOT.trim_start_matches('/'));
    folder.write("kustomization.yaml", &text(&deploy));
    kustomize(folder.path())
}

fn manifests() -> Vec<Value> {
    kustomize(&Path::new(ROOT).join("deploy/kubernetes"))
}

fn object<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

/// The Job's, the CronJob's and the application's pods.
fn pods(objects: &[Value]) -> [&Value; 3] {
    [
        &object(objects, "Job")["spec"]["template"]["spec"],
        &object(objects, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"],
        &object(objects, "Deployment")["spec"]["template"]["spec"],
    ]
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers"].into_iter().filter_map(|list| pod[list].as_array()).flatten()
}

fn gate(pod: &Value) -> &Value {
    containers(pod).find(|container| container["name"] == "gate").unwrap()
}

fn setting<'a>(container: &'a Value, name: &str) -> &'a Value {
    let env = container["env"].as_array().unwrap();
    env.iter().find(|setting| setting["name"] == name).unwrap_or(&Value::Null)
}

/// What is wrong with the codes that end a Job at once.
fn wrong_codes(job: &Value) -> Option<String> {
    let final_code = |outcome: &Outcome| !outcome.retry_can_help() && *outcome != Outcome::Open;
    let mut codes: Vec<u8> =
        Outcome::ALL.iter().filter(|o| final_code(o)).map(|o| o.code()).collect();
    // a panic's
    codes.push(101);
    let rule = &job["spec"]["podFailurePolicy"]["rules"][1];
    let expected = json!({
        "action": "FailJob",
        "onExitCodes": { "containerName": "gate", "operator": "In", "values": codes },
    });
    (*rule != expected).then(|| format!("{rule}\nbut the code says\n{expected}"))
}

#[test]
fn a_job_ends_at_once_with_the_codes_that_no_retry_can_mend() {
    let objects = manifests();
    let mut job = object(&objects, "Job").clone();
    assert_eq!(wrong_codes(&job), None);
    assert_eq!(job["spec"]["podFailurePolicy"]["rules"][0]["action"], "Ignore");
    assert_eq!(job["spec"]["backoffLimit"], 3);
    assert_eq!(pods(&objects)[0]["restartPolicy"], "Never", "a pod failure policy asks for it");

    let codes = &mut job["spec"]["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"];
    codes.as_array_mut().unwrap().retain(|code| *code != json!(14));
    assert!(wrong_codes(&job).is_some());
}

/// A Job cannot be changed: the next tag's must be another one, or `kubectl apply -k` fails.
#[test]
fn each_tag_has_a_job_of_its_own_and_nothing_else_moves() {
    let shipped = manifests();
    let folder = Folder::new("next-tag");
    copy(&Path::new(ROOT).join("deploy/kubernetes"), folder.path());
    let file = "kustomization.yaml";
    let text = std::fs::read_to_string(folder.path().join(file)).unwrap();
    folder.write(file, &text.replace("newTag: \"0.8.0\"", "newTag: \"0.9.0\""));
    let next = kustomize(folder.path());
    let names = |objects: &[Value]| -> Vec<String> {
        let name = |object: &Value| {
            let [kind, name] = [&object["kind"], &object["metadata"]["name"]];
            format!("{}/{}", kind.as_str().unwrap(), name.as_str().unwrap())
        };
        objects.iter().map(name).collect()
    };
    let (before, after) = (names(&shipped), names(&next));
    let moved: Vec<_> = before.iter().zip(&after).filter(|(a, b)| a != b).collect();
    let expected = ("Job/upgrade-gate-0.8.0".to_owned(), "Job/upgrade-gate-0.9.0".to_owned());
    assert_eq!(moved, [(&expected.0, &expected.1)]);
}

/// What the page about manifests says to write in a copy of the folder, for upgrades from files.
fn of_the_guide(name: &str) -> String {
    let page = std::fs::read_to_string(Path::new(ROOT).join("docs/manifests.md")).unwrap();
    let (_, block) =
        page.split_once(&format!("<!-- kustomization: {name} -->\n```yaml\n")).unwrap();
    block.split("```").next().unwrap().to_owned()
}

/// The stock image has the same tag for every release of the application.
#[test]
fn each_release_of_an_application_with_files_has_a_job_of_its_own() {
    let release = |tag: &str| {
        let folder = Folder::new("files-release");
        copy(&Path::new(ROOT).join("deploy/kubernetes"), folder.path());
        let shipped = std::fs::read_to_string(folder.path().join("kustomization.yaml")).unwrap();
        let (before, rest) = shipped.split_once("images:\n").unwrap();
        let (_, after) = rest.split_once("replacements:\n").unwrap();
        let images = of_the_guide("images").replace("1.1.0", tag);
        let files = of_the_guide("files");
        let text = format!("{before}{images}replacements:\n{after}{files}");
        folder.write("kustomization.yaml", &text);
        folder.write("upgrades/gate.yaml", "app: kanban\n");
        folder.write("upgrades/1.1.0-card-positions.yaml", tag);
        kustomize(folder.path())
    };
    for tag in ["1.1.0", "1.2.0"] {
        let objects = release(tag);
        let stock = format!("ghcr.io/datalab-org/upgrade-gate:{}", env!("CARGO_PKG_VERSION"));
        for pod in pods(&objects) {
            assert_eq!(gate(pod)["image"], stock);
            assert_eq!(setting(gate(pod), "GATE_APP_VERSION")["value"], tag);
            let map = &object(&objects, "ConfigMap")["metadata"]["name"];
            assert_eq!(pod["volumes"][0]["configMap"]["name"], *map);
        }
        let job = format!("upgrade-gate-{tag}");
        assert_eq!(object(&objects, "Job")["metadata"]["name"], job);
        assert_eq!(object(&objects, "CronJob")["metadata"]["name"], "upgrade-gate");
    }
}

#[test]
fn the_applications_tag_is_what_the_gate_compares_itself_with() {
    let folder = Folder::new("app-tag");
    copy(&Path::new(ROOT).join("deploy/kubernetes"), folder.path());
    let file = "kustomization.yaml";
    let text = std::fs::read_to_string(folder.path().join(file)).unwrap();
    // somebody raises the application, and not its gate
    let raised = text
        .replace("name: datalab\n    newTag: \"0.8.0\"", "name: datalab\n    newTag: \"0.9.0\"");
    assert_ne!(raised, text);
    folder.write(file, &raised);
    for pod in pods(&kustomize(folder.path())) {
        assert!(gate(pod)["image"].as_str().unwrap().ends_with(":0.8.0"));
        assert_eq!(setting(gate(pod), "GATE_APP_VERSION")["value"], "0.9.0");
    }
}

#[test]
fn what_is_run_by_hand_is_the_job_in_mode_plan() {
    let objects = manifests();
    let cronjob = object(&objects, "CronJob");
    assert_eq!(cronjob["spec"]["suspend"], true);
    let mut by_hand = cronjob["spec"]["jobTemplate"]["spec"].clone();
    let env = &mut by_hand["template"]["spec"]["containers"][0]["env"][0];
    assert_eq!(*env, json!({ "name": "GATE_MODE", "value": "plan" }));
    assert_ne!(by_hand, object(&objects, "Job")["spec"]);
    let env = &mut by_hand["template"]["spec"]["containers"][0]["env"][0];
    env["value"] = "upgrade".into();
    assert_eq!(by_hand, object(&objects, "Job")["spec"]);
}

#[test]
fn the_init_container_is_the_jobs_container_in_mode_wait() {
    let objects = manifests();
    let [job, _, app] = pods(&objects);
    let mut waiting = gate(app).clone();
    assert_eq!(waiting["env"][0], json!({ "name": "GATE_MODE", "value": "wait" }));
    assert_eq!(app["initContainers"][0]["name"], "gate", "it is the first");
    waiting["env"][0]["value"] = "upgrade".into();
    assert_eq!(&waiting, gate(job));
}

#[test]
fn a_missing_secret_is_for_the_gate_to_tell() {
    let objects = manifests();
    for pod in pods(&objects) {
        let uri = &setting(gate(pod), "GATE_MONGODB_URI")["valueFrom"]["secretKeyRef"];
        assert_eq!(*uri, json!({ "name": "datalab-mongodb", "key": "uri", "optional": true }));
    }
}

/// What the restricted pod security standard, and this project, ask of a pod.
fn unsafe_parts(pod: &Value) -> Vec<String> {
    let mut parts = Vec::new();
    let mut ask = |at: &Value, path: &str, expected: Value| {
        if at.pointer(path) != Some(&expected) {
            parts.push(format!("{path} is {:?}, not {expected}", at.pointer(path)));
        }
    };
    ask(pod, "/securityContext/runAsNonRoot", json!(true));
    ask(pod, "/securityContext/seccompProfile/type", json!("RuntimeDefault"));
    ask(pod, "/automountServiceAccountToken", json!(false));
    ask(pod, "/enableServiceLinks", json!(false));
    for container in containers(pod) {
        ask(container, "/securityContext/allowPrivilegeEscalation", json!(false));
        ask(container, "/securityContext/capabilities/drop", json!(["ALL"]));
    }
    ask(gate(pod), "/securityContext/readOnlyRootFilesystem", json!(true));
    ask(gate(pod), "/terminationMessagePolicy", json!("FallbackToLogsOnError"));
    parts
}

#[test]
fn every_pod_is_restricted() {
    let objects = manifests();
    for pod in pods(&objects) {
        assert_eq!(unsafe_parts(pod), Vec::<String>::new());
        let mut loose = pod.clone();
        loose["securityContext"].as_object_mut().unwrap().remove("seccompProfile");
        assert_eq!(unsafe_parts(&loose).len(), 1);
    }
    // nothing needs a token, so the account may do nothing
    assert_eq!(object(&objects, "Role")["rules"], json!([]));
}

#[test]
fn a_tag_may_be_all_digits() {
    let folder = Folder::new("tag");
    copy(&Path::new(ROOT).join("deploy/kubernetes"), folder.path());
    let file = "kustomization.yaml";
    let shipped = std::fs::read_to_string(folder.path().join(file)).unwrap();
    folder.write(file, &shipped.replace("0.8.0", "20261126"));
    let objects = kustomize(folder.path());
    for pod in pods(&objects) {
        assert_eq!(gate(pod)["image"], "ghcr.io/datalab-org/datalab-upgrade:20261126");
    }
}

#[test]
fn another_kustomization_builds_on_the_gate_alone() {
    let objects = kustomized("overlay", |deploy| {
        format!(
            "resources: [{deploy}/gate]\nnamespace: lab\nimages: [{{name: \
             ghcr.io/datalab-org/datalab-upgrade, newName: mine, newTag: '1'}}]\n"
        )
    });
    let kinds: Vec<_> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["ServiceAccount", "Role", "RoleBinding", "CronJob", "Job"]);
    for object in &objects {
        assert_eq!(object["metadata"]["namespace"], "lab");
    }
    let cronjob = &object(&objects, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"];
    assert_eq!(gate(cronjob)["image"], "mine:1");
}

#[test]
fn a_component_gives_what_quiesce_and_events_need_to_the_gate_alone() {
    let objects = kustomized("quiesce", |deploy| {
        format!("resources: [{deploy}]\ncomponents: [{deploy}/quiesce]\n")
    });
    let rule = |group: &str, resource: &str, verbs: Value| {
        let mut rule = json!({ "apiGroups": [group], "resources": [resource], "verbs": verbs });
        if group == "apps" {
            rule["resourceNames"] = json!(["datalab"]);
        }
        rule
    };
    let rules = json!([
        rule("apps", "deployments", json!(["get"])),
        rule("apps", "deployments/scale", json!(["get", "patch"])),
        rule("", "pods", json!(["list"])),
        rule("events.k8s.io", "events", json!(["create", "patch"])),
    ]);
    assert_eq!(object(&objects, "Role")["rules"], rules);
    let [job, by_hand, app] = pods(&objects);
    for (pod, mode) in [(job, "upgrade"), (by_hand, "plan")] {
        assert_eq!(pod["automountServiceAccountToken"], true);
        assert_eq!(setting(gate(pod), "GATE_MODE")["value"], mode);
        assert_eq!(setting(gate(pod), "GATE_QUIESCE")["value"], "deployment/datalab");
        assert_eq!(setting(gate(pod), "GATE_RESUME")["value"], "true");
    }
    assert_eq!(app["automountServiceAccountToken"], false);
    assert_eq!(*setting(gate(app), "GATE_QUIESCE"), Value::Null);
    assert_eq!(
        *setting(gate(pods(&manifests())[0]), "GATE_QUIESCE"),
        Value::Null,
        "only on request"
    );
}

#[test]
fn a_component_mounts_upgrades_from_files_under_a_name_that_follows_their_contents() {
    let made = |contents: &str| {
        kustomized("files", |deploy| {
            format!(
                "resources: [{deploy}]\ncomponents: [{deploy}/files]\nconfigMapGenerator: [{{name: upgrades, \
                 literals: ['gate.yaml={contents}']}}]\n"
            )
        })
    };
    let mounted = |objects: &[Value]| {
        let name = &object(objects, "ConfigMap")["metadata"]["name"];
        for pod in pods(objects) {
            assert_eq!(pod["volumes"][0]["configMap"]["name"], *name);
            let mount = json!([{ "name": "upgrades", "mountPath": "/upgrades", "readOnly": true }]);
            assert_eq!(gate(pod)["volumeMounts"], mount);
        }
        name.as_str().unwrap().to_owned()
    };
    let first = made("app: kanban");
    assert_eq!(setting(gate(pods(&first)[1]), "GATE_MODE")["value"], "plan", "by hand");
    let names = [mounted(&first), mounted(&made("app: kanban")), mounted(&made("app: other"))];
    assert_eq!(names[0], names[1]);
    assert_ne!(names[0], names[2], "pods of an earlier release keep their own files");
    assert_eq!(pods(&manifests())[0]["volumes"], Value::Null, "only on request");
}

/// What kube-state-metrics 2.15 says of the metrics that the alerts use: their labels.
const METRICS: &[(&str, &[&str])] = &[
    ("kube_job_failed", &["job_name", "namespace", "condition"]),
    ("kube_job_labels", &["job_name", "namespace", "label_app_kubernetes_io_component"]),
    ("kube_job_owner", &["job_name", "namespace", "owner_kind"]),
    ("kube_job_status_active", &["job_name", "namespace"]),
    ("kube_job_status_failed", &["job_name", "namespace", "reason"]),
    ("kube_job_status_start_time", &["job_name", "namespace"]),
    ("kube_pod_container_status_waiting_reason", &["container", "pod", "namespace", "reason"]),
    ("kube_pod_init_container_status_restarts_total", &["container", "pod", "namespace"]),
    ("kube_pod_init_container_status_running", &["container", "pod", "namespace"]),
    ("kube_pod_init_container_status_waiting_reason", &["container", "pod", "namespace", "reason"]),
];

#[test]
fn the_example_alerts_are_rules_that_prometheus_reads() {
    let path = Path::new(ROOT).join("deploy/alerts/rules.yaml");
    let read = tool("rules").arg(&path).output().unwrap();
    assert!(read.status.success(), "{}", text(&read));
    let selectors: Vec<Value> = serde_json::from_slice(&read.stdout).unwrap();
    assert!(selectors.len() > 8, "{selectors:?}");
    for selector in &selectors {
        let metric = selector["metric"].as_str().unwrap();
        let known = METRICS.iter().find(|(name, _)| *name == metric);
        let (_, labels) = known.unwrap_or_else(|| panic!("no metric {metric}"));
        for label in selector["labels"].as_array().unwrap() {
            assert!(labels.contains(&label.as_str().unwrap()), "{metric} has no label {label}");
        }
    }
    let rules = std::fs::read_to_string(&path).unwrap();
    let folder = Folder::new("rules");
    folder.write("wrong.yaml", &rules.replace("== 1\n        for: 15m", "== 1)\n        for: 15m"));
    let wrong = tool("rules").arg(folder.path().join("wrong.yaml")).output().unwrap();
    assert!(!wrong.status.success() && text(&wrong).contains("parse"), "{}", text(&wrong));
    // the label by which they find the gate's Jobs is that of the manifests and of the chart
    let objects = manifests();
    let labels = &object(&objects, "Job")["metadata"]["labels"];
    assert_eq!(labels["app.kubernetes.io/component"], "upgrade-gate");
}

fn compose(files: &[&Path]) -> Output {
    let files = files.iter().flat_map(|file| [Path::new("--file"), file]);
    tool("docker-compose").args(files).args(["config", "--format=json"]).output().unwrap()
}

#[test]
fn the_api_starts_after_the_upgrade_has_succeeded() {
    let file = Path::new(ROOT).join("deploy/compose.yaml");
    let output = compose(&[&file]);
    assert!(output.status.success(), "{}", text(&output));
    let services = &serde_json::from_slice::<Value>(&output.stdout).unwrap()["services"];
    let condition = &services["api"]["depends_on"]["upgrade"]["condition"];
    assert_eq!(condition, "service_completed_successfully");
    let upgrade = &services["upgrade"];
    assert_eq!(upgrade["restart"], "no");
    assert_eq!(
        upgrade["environment"]["GATE_MONGODB_URI"],
        services["api"]["environment"]["PYDATALAB_MONGO_URI"]
    );
    // empty is not set
    assert_eq!(upgrade["environment"]["GATE_FROM_VERSION"], "");
}

#[test]
fn compose_refuses_a_misspelt_condition() {
    let right = std::fs::read_to_string(Path::new(ROOT).join("deploy/compose.yaml")).unwrap();
    let misspelt = right.replace("completed_successfully", "completed_sucessfully");
    assert_ne!(misspelt, right);
    let name = format!("upgrade-gate-compose-{}.yaml", std::process::id());
    let file = std::env::temp_dir().join(name);
    std::fs::write(&file, misspelt).unwrap();
    let output = compose(&[&file]);
    std::fs::remove_file(&file).unwrap();
    assert!(!output.status.success());
    assert!(text(&output).contains("depends_on.upgrade.condition"), "{}", text(&output));
}

#[test]
fn a_second_compose_file_mounts_upgrades_from_files_into_the_stock_image() {
    let deploy = Path::new(ROOT).join("deploy");
    let output = compose(&[&deploy.join("compose.yaml"), &deploy.join("compose.files.yaml")]);
    assert!(output.status.success(), "{}", text(&output));
    let upgrade = &serde_json::from_slice::<Value>(&output.stdout).unwrap()["services"]["upgrade"];
    let image = format!("ghcr.io/datalab-org/upgrade-gate:{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(upgrade["image"], image);
    let mount = &upgrade["volumes"][0];
    assert_eq!([&mount["target"], &mount["read_only"]], [&json!("/upgrades"), &json!(true)]);
    assert_eq!(mount["source"], *deploy.join("upgrades").to_string_lossy());
    assert_eq!(upgrade["environment"]["GATE_MODE"], "upgrade", "the rest is as it was");
}
