//! What every pod of the gate has, and which settings reach which of them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::guide;
use crate::helm::{Release, Rendered, env, pod, render, text_at};

/// Settings that are not values, and why.
const NO_VALUE: [(&str, &str); 4] = [
    (
        "GATE_UPGRADES",
        "set with `upgrades`; in an image of one's own it has its default, or extraEnv",
    ),
    ("GATE_REPORT_FILE", "its default is where Kubernetes reads it; else extraEnv, with a volume"),
    ("GATE_REPORT_FORMAT", "text in Jobs, whose output helm prints, and else json; or extraEnv"),
    ("GATE_SETTING_NAMES", "names the values for the gate's messages"),
];

/// The variables that every Job of the chart has.
const EVERY: [&str; 2] = ["GATE_REPORT_FORMAT", "GATE_SETTING_NAMES"];

/// A value for each setting that is not its default, and the pods that it reaches: the Job, the Job that is
/// started by hand, and an init container in mode `wait`.
const VALUES: &[(&str, &str, &str)] = &[
    ("GATE_DATABASE", "settings: { database: other }", "job manual init"),
    ("GATE_INITIALISE", "settings: { initialise: fresh }", "job manual"),
    ("GATE_FROM_VERSION", "settings: { fromVersion: 0.6.0 }", "job manual"),
    ("GATE_APP_VERSION", "settings: { appVersion: '{{ .Release.Name }}' }", "job manual init"),
    ("GATE_SKIP_CONDITIONS", "settings: { skipConditions: true }", "job manual"),
    ("GATE_TARGET_VERSION", "manual: { targetVersion: 0.7.0 }", "manual"),
    ("GATE_TIMEOUT", "settings: { timeout: 1m }", "job manual"),
    ("GATE_CONNECT_TIMEOUT", "settings: { connectTimeout: 5s }", "job manual init"),
    ("GATE_LOCK_WAIT", "settings: { lockWait: 1m }", "job manual"),
    ("GATE_LOCK_LEASE", "settings: { lockLease: 10s }", "job manual"),
    ("GATE_BATCH_DOCUMENTS", "settings: { batchDocuments: 100000 }", "job manual"),
    ("GATE_LOG", "settings: { log: debug }", "job manual init"),
    ("GATE_LOG_FORMAT", "settings: { logFormat: text }", "job manual init"),
    ("GATE_RECORD_VERSION", "manual: { mode: record, record: { version: 0.7.5 } }", "manual"),
    ("GATE_EXPECT_VERSION", "manual: { mode: record, record: { expect: '0.8' } }", "manual"),
    ("GATE_DISCARD_JOURNAL", "manual: { mode: record, record: { discardJournal: x } }", "manual"),
    ("GATE_MODE", "manual: { mode: check }", "manual init"),
    ("GATE_EVENTS", "events: { enabled: true }", "job manual"),
    ("GATE_QUIESCE", "quiesce: { workloads: [deployment/a] }", "job manual"),
    ("GATE_QUIESCE_TIMEOUT", "quiesce: { workloads: [deployment/a], timeout: 1m }", "job manual"),
    ("GATE_RESUME", "quiesce: { workloads: [deployment/a] }", "manual"),
    ("GATE_NAMESPACE", "events: { enabled: true }", "job manual"),
    ("GATE_POD_NAME", "events: { enabled: true }", "job manual"),
    ("GATE_POD_UID", "events: { enabled: true, initContainerAccount: app }", "job manual init"),
    ("GATE_JOB_NAME", "events: { enabled: true }", "job manual"),
    ("GATE_JOB_UID", "events: { enabled: true }", "job manual"),
    ("GATE_MONGODB_URI", "", "job manual init"),
    ("GATE_MONGODB_URI_SOURCE", "", "job manual init"),
    ("GATE_MONGODB_URI_FILE", "mongodb: { uriFile: /etc/mongodb/uri }", "job manual init"),
];

/// The gate's settings, with the default of those that have one.
fn settings() -> BTreeMap<String, Option<String>> {
    let table = guide::generated("docs/settings.md", "settings");
    let rows = table.lines().skip(2).map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let default = cells[1].strip_prefix('`').and_then(|cell| cell.strip_suffix('`'));
        (cells[0].trim_matches('`').to_string(), default.map(String::from))
    });
    rows.collect()
}

/// The variables of the Job, the Job by hand and an init container.
fn three_ways(values: &str) -> BTreeMap<&'static str, BTreeMap<String, String>> {
    let rendered = render(values);
    let manual = env(pod(rendered.get("CronJob", "r-upgrade-gate")));
    let init = env(pod(&crate::dependency::deployment(values)));
    BTreeMap::from([("job", env(pod(rendered.job()))), ("manual", manual), ("init", init)])
}

#[test]
fn every_setting_is_a_value_or_has_a_reason_not_to_be() {
    let known = settings();
    for name in known.keys() {
        let times = VALUES.iter().filter(|(setting, ..)| setting == name).count();
        let without = NO_VALUE.iter().filter(|(setting, _)| setting == name).count();
        assert_eq!(times + without, 1, "{name}");
    }
    let defaults = &crate::values::chart_values()["settings"];
    for (key, default) in defaults.as_object().unwrap() {
        let name = crate::values::setting_of(key);
        let shown = default.as_str().map_or(default.to_string(), String::from);
        assert_eq!(known[&name].clone().unwrap_or_default(), shown, "settings.{key}");
    }
}

#[test]
fn a_setting_reaches_the_pods_that_it_is_for_and_no_other() {
    let plain = three_ways("manual: { mode: upgrade }");
    for (name, values, reached) in VALUES {
        let ways = three_ways(values);
        for (way, variables) in &ways {
            let expected = reached.split(' ').any(|word| word == *way);
            assert_eq!(variables.contains_key(*name), expected, "{name} in {way} with {values}");
            let of_connection = name.starts_with("GATE_MONGODB_URI") || *name == "GATE_MODE";
            if !of_connection {
                assert_eq!(plain[way].get(*name), None, "{name} at its default");
            }
        }
    }
}

#[test]
fn what_is_at_its_default_is_not_rendered() {
    let values: Vec<String> = crate::values::chart_values()["settings"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, default)| format!("{key}: {default}"))
        .collect();
    let values = format!("settings: {{ {} }}", values.join(", "));
    let variables = three_ways(&values);
    let names = |way: &str| variables[way].keys().cloned().collect::<Vec<_>>();
    let uri = ["GATE_MONGODB_URI", "GATE_MONGODB_URI_SOURCE"];
    assert_eq!(names("job"), [&uri[..], &EVERY].concat());
    assert_eq!(names("manual"), [&["GATE_MODE"], &uri[..], &EVERY].concat());
    assert_eq!(names("init"), [&["GATE_MODE"], &uri[..], &EVERY[1..]].concat());
    let unquoted = three_ways("settings: { initialise: no }");
    assert_eq!(unquoted, variables, "YAML's no is a no");
}

#[test]
fn numbers_are_written_out() {
    let variables = three_ways("settings: { batchDocuments: 100000 }");
    assert_eq!(variables["job"]["GATE_BATCH_DOCUMENTS"], "100000");
}

#[test]
fn an_init_container_that_waits_takes_no_decision_and_one_that_upgrades_does() {
    let decisions = "settings: { initialise: fresh, fromVersion: 0.6.0, skipConditions: true }\n\
                     quiesce: { workloads: [deployment/a] }\nmanual: { mode: record, \
                     targetVersion: 0.7.0, record: { version: 0.7.5, expect: 0.8.0 } }\n";
    let none = three_ways("quiesce: { workloads: [deployment/a] }\nhooks: { engine: none }");
    assert_eq!(none["job"]["GATE_RESUME"], "true", "no release follows that would do it");
    let waits = &three_ways(decisions)["init"];
    let names: Vec<_> = waits.keys().collect();
    let expected =
        ["GATE_MODE", "GATE_MONGODB_URI", "GATE_MONGODB_URI_SOURCE", "GATE_SETTING_NAMES"];
    assert_eq!(names, expected);
    assert_eq!(waits["GATE_MODE"], "wait");
    let upgrades =
        three_ways(&format!("{decisions}initContainer: {{ mode: upgrade, timeout: 2m }}"));
    let names: Vec<_> = upgrades["init"].keys().map(|name| &name["GATE_".len()..]).collect();
    let expected = [
        "FROM_VERSION",
        "INITIALISE",
        "MONGODB_URI",
        "MONGODB_URI_SOURCE",
        "SETTING_NAMES",
        "SKIP_CONDITIONS",
        "TIMEOUT",
    ];
    assert_eq!(names, expected);
}

#[test]
fn the_connection_string_comes_from_exactly_one_place() {
    let from = |values: &str| env(pod(render(values).job()));
    let existing =
        from("mongodb: { existingSecret: { name: \"{{ .Release.Name }}-db\", key: url } }");
    assert_eq!(existing["GATE_MONGODB_URI"], "secret r-db url");
    assert_eq!(existing["GATE_MONGODB_URI_SOURCE"], "key url of Secret r-db");
    let file = from("mongodb: { uriFile: /etc/mongodb/uri }");
    assert_eq!(file["GATE_MONGODB_URI_FILE"], "/etc/mongodb/uri");
    assert_eq!(file.len(), 1 + EVERY.len());

    let rendered = render("mongodb: { uri: mongodb://u:s3cret@host/db }");
    let secrets = rendered.of_kind("Secret");
    assert_eq!(secrets.len(), 2, "the hook's, and the release's for all else");
    for secret in &secrets {
        assert_eq!(secret["stringData"]["uri"], "mongodb://u:s3cret@host/db");
    }
    let others = rendered.0.iter().filter(|object| object["kind"] != "Secret");
    assert!(others.into_iter().all(|object| !object.to_string().contains("s3cret")));
    let ours = env(pod(rendered.get("CronJob", "r-upgrade-gate")));
    assert_eq!(ours["GATE_MONGODB_URI"], "secret r-upgrade-gate-mongodb uri");

    let none = "mongodb: {}";
    let two = "mongodb: { uri: mongodb://host/db, uriFile: /uri }";
    let all = "mongodb: { uri: mongodb://host/db, uriFile: /uri, existingSecret: { name: db } }";
    for values in [none, two, all] {
        let refusal = Release::of(values).refusal();
        let expected =
            "set exactly one of mongodb.existingSecret.name, mongodb.uri and mongodb.uriFile";
        assert!(refusal.contains(expected), "{refusal}");
    }
    assert!(Release::of("mongodb: { uri: host/db }").refusal().contains("mongodb/uri"));
}

#[test]
fn more_variables_are_added_but_none_that_a_value_has_and_none_twice() {
    let variables = three_ways(
        "extraEnv: [{ name: SSL_CERT_FILE, value: /ca }, { name: GATE_REPORT_FILE, value: /r }]",
    );
    for way in variables.values() {
        assert_eq!(
            (way["SSL_CERT_FILE"].as_str(), way["GATE_REPORT_FILE"].as_str()),
            ("/ca", "/r")
        );
    }
    for (name, ..) in VALUES {
        let refusal = Release::of(&format!("extraEnv: [{{ name: {name}, value: x }}]")).refusal();
        assert!(refusal.contains(&format!("extraEnv: {name} is set by the value ")), "{refusal}");
    }
    let twice = "extraEnv: [{ name: A, value: one }, { name: A, value: two }]";
    assert!(Release::of(twice).refusal().contains("extraEnv: A is there twice"));
}

#[test]
fn every_pod_is_restricted() {
    let restricted = |rendered: &Rendered| {
        let pods = rendered.pods();
        assert!(pods.len() >= 3);
        for (name, pod) in pods {
            let context = &pod["containers"][0]["securityContext"];
            let expected = json!({
                "runAsNonRoot": true,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "readOnlyRootFilesystem": true,
                "allowPrivilegeEscalation": false,
                "capabilities": { "drop": ["ALL"] },
                "seccompProfile": { "type": "RuntimeDefault" },
            });
            assert_eq!(*context, expected, "{name}");
            assert_eq!(pod["enableServiceLinks"], false, "{name}");
            assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
            assert_eq!(pod["terminationGracePeriodSeconds"], 30, "{name}");
            let container = &pod["containers"][0];
            assert_eq!(container["terminationMessagePolicy"], "FallbackToLogsOnError");
            assert_eq!(container["resources"]["limits"], json!({ "memory": "128Mi" }), "{name}");
            assert_eq!(
                container["resources"]["requests"],
                json!({ "cpu": "10m", "memory": "32Mi" })
            );
            for argument in ["command", "args"] {
                assert_eq!(container.get(argument), None, "the gate takes no arguments");
            }
        }
    };
    restricted(&render(""));
    restricted(&render("hooks: { onRollback: true }"));
    let open = render("securityContext: { runAsUser: null, runAsGroup: null }");
    let context = &pod(open.job())["containers"][0]["securityContext"];
    assert_eq!(context.get("runAsUser").or(context.get("runAsGroup")), None);
    assert_eq!(context["runAsNonRoot"], true);
}

#[test]
fn every_pod_takes_what_the_operator_says_of_pods() {
    let values = "
imagePullSecrets: [{ name: registry }]
nodeSelector: { disk: ssd }
tolerations: [{ key: db, operator: Exists, effect: NoSchedule }]
affinity: { nodeAffinity: { requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: [{ matchExpressions: [{ key: a, operator: Exists }] }] } } }
priorityClassName: high
runtimeClassName: gvisor
podSecurityContext: { fsGroup: 65532 }
extraVolumes: [{ name: ca, secret: { secretName: ca } }]
extraVolumeMounts: [{ name: ca, mountPath: /ca, readOnly: true }]
podLabels: { team: data, app.kubernetes.io/name: other }
podAnnotations: { sidecar.istio.io/inject: 'false' }
jobLabels: { cost: low }
jobAnnotations: { note: mine, helm.sh/hook-weight: '7' }
resources: { limits: { memory: 1Gi } }
image: { repository: registry.example/gate, tag: 1.2.3, pullPolicy: Never }
hooks: { onRollback: true }
";
    let rendered = render(values);
    assert_eq!(rendered.pods().len(), 4);
    for (name, pod) in rendered.pods() {
        for (field, expected) in [
            ("imagePullSecrets", json!([{ "name": "registry" }])),
            ("nodeSelector", json!({ "disk": "ssd" })),
            ("priorityClassName", json!("high")),
            ("runtimeClassName", json!("gvisor")),
            ("securityContext", json!({ "fsGroup": 65532 })),
            ("volumes", json!([{ "name": "ca", "secret": { "secretName": "ca" } }])),
        ] {
            assert_eq!(pod[field], expected, "{name}");
        }
        assert_eq!(pod["tolerations"][0]["key"], "db", "{name}");
        assert!(pod["affinity"]["nodeAffinity"].is_object(), "{name}");
        let container = &pod["containers"][0];
        assert_eq!(container["volumeMounts"][0]["mountPath"], "/ca");
        assert_eq!(container["resources"]["limits"]["memory"], "1Gi");
        assert_eq!(container["image"], "registry.example/gate:1.2.3");
        assert_eq!(container["imagePullPolicy"], "Never");
    }
    let cronjob = rendered.get("CronJob", "r-upgrade-gate");
    let jobs = rendered.of_kind("Job").into_iter().chain([&cronjob["spec"]["jobTemplate"]]);
    for job in jobs {
        assert_eq!(job["metadata"]["labels"]["cost"], "low");
        assert_eq!(job["metadata"]["annotations"]["note"], "mine");
        let template = &job["spec"]["template"]["metadata"];
        assert_eq!(template["labels"]["team"], "data");
        assert_eq!(template["labels"]["app.kubernetes.io/name"], "upgrade-gate", "a selector's");
        assert_eq!(template["annotations"]["sidecar.istio.io/inject"], "false");
    }
    let weight = &rendered.job()["metadata"]["annotations"]["helm.sh/hook-weight"];
    assert_eq!(weight, "0", "the chart's own annotations are its own");

    let bare = render("");
    let fields = pod(bare.job()).as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert!(!fields.iter().any(|field| ["volumes", "tolerations", "affinity"].contains(&&**field)));
}

#[test]
fn the_image_is_that_of_the_charts_version_or_the_digest() {
    let image = |values: &str| text_at(pod(render(values).job()), "/containers/0/image");
    let digest = format!("sha256:{}", "0a".repeat(32));
    let repository = "ghcr.io/datalab-org/datalab-upgrade";
    assert_eq!(
        image(""),
        format!("{repository}:{}", crate::values::chart()["appVersion"].as_str().unwrap())
    );
    assert_eq!(image("image: { tag: 0.9.0 }"), format!("{repository}:0.9.0"));
    let both = format!("image: {{ tag: 0.9.0, digest: '{digest}' }}");
    assert_eq!(image(&both), format!("{repository}@{digest}"));
    assert!(Release::of("image: { digest: 0a0a }").refusal().contains("image/digest"));
}

#[test]
fn a_run_by_hand_is_suspended_and_can_be_left_out() {
    let cronjob = render("manual: { mode: upgrade, targetVersion: 0.7.0 }");
    let cronjob = cronjob.get("CronJob", "r-upgrade-gate");
    assert_eq!(cronjob["spec"]["suspend"], true);
    assert_eq!(env(pod(cronjob))["GATE_TARGET_VERSION"], "0.7.0");
    assert!(!env(pod(cronjob)).contains_key("GATE_MODE"), "upgrade is the default");
    for mode in ["plan", "check", "wait", "record", "resume"] {
        let rendered = render(&format!("manual: {{ mode: {mode}, targetVersion: 0.7.0 }}"));
        let variables = env(pod(rendered.get("CronJob", "r-upgrade-gate")));
        assert_eq!(variables["GATE_MODE"], mode);
        assert_eq!(variables.contains_key("GATE_TARGET_VERSION"), mode == "plan", "{mode}");
    }
    assert!(render("manual: { enabled: false }").of_kind("CronJob").is_empty());
    assert!(Release::of("manual: { mode: repair }").refusal().contains("manual/mode"));
}

#[test]
fn helm_test_runs_check() {
    let rendered = render("settings: { fromVersion: 0.6.0 }");
    let test = rendered.get("Pod", "r-upgrade-gate-helm-test");
    assert_eq!(test["metadata"]["annotations"]["helm.sh/hook"], "test");
    assert_eq!(env(pod(test))["GATE_MODE"], "check");
    assert!(!env(pod(test)).contains_key("GATE_FROM_VERSION"));
    assert!(render("test: { enabled: false }").of_kind("Pod").is_empty());
    let labels: &Value = &test["metadata"]["labels"];
    assert_eq!(labels["app.kubernetes.io/component"], "upgrade-gate");
}

#[test]
fn messages_name_the_values_that_an_operator_sets() {
    let names = |text: &str| -> BTreeMap<String, String> {
        let pairs = text.split(',').map(|pair| pair.split_once('=').unwrap());
        pairs.map(|(variable, value)| (variable.to_owned(), value.to_owned())).collect()
    };
    let alone = names(&env(pod(render("").job()))["GATE_SETTING_NAMES"]);
    let init = names(&env(pod(&crate::dependency::deployment("")))["GATE_SETTING_NAMES"]);
    assert_eq!(alone["GATE_FROM_VERSION"], "settings.fromVersion");
    assert_eq!(init["GATE_FROM_VERSION"], "gate.settings.fromVersion");
    assert_eq!(alone["GATE_TIMEOUT"], "settings.timeout");
    assert_eq!(init["GATE_TIMEOUT"], "gate.initContainer.timeout");
    let known = settings();
    let values = crate::values::chart_values();
    for (variable, value) in &alone {
        assert!(known.contains_key(variable), "{variable} is no setting");
        let pointer = format!("/{}", value.replace('.', "/"));
        assert!(values.pointer(&pointer).is_some(), "{value} is no value");
    }
    let one_value = |name: &str| VALUES.iter().any(|(variable, ..)| *variable == name);
    for key in values["settings"].as_object().unwrap().keys() {
        let variable = crate::values::setting_of(key);
        assert!(one_value(&variable) && alone.contains_key(&variable), "{variable}");
    }
    // whoever reads the report by a machine says so
    let json = render("extraEnv: [{ name: GATE_REPORT_FORMAT, value: json }]");
    assert_eq!(env(pod(json.job()))["GATE_REPORT_FORMAT"], "json");
}
