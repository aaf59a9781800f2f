//! What the values give to one way of running the gate and not to the others, and what they add to pods.

use serde_json::{Value, json};

use crate::helm::{Release, env, pod, render, text_at, variables};

/// The gate's container of the upgrade's Job.
fn gate(job: &Value) -> &Value {
    &pod(job)["containers"][0]
}

#[test]
fn only_the_job_is_left_out_when_hooks_are_disabled() {
    for engine in ["helm", "argocd", "none"] {
        let on = render(&format!("hooks: {{ engine: {engine} }}"));
        let off = render(&format!("hooks: {{ engine: {engine}, enabled: false }}"));
        let gone: Vec<_> = on.names().difference(&off.names()).cloned().collect();
        assert_eq!(gone.len(), 1, "{gone:?}");
        assert_eq!(gone[0].0, "Job");
    }
    let notes = Release::of("hooks: { enabled: false }").notes();
    assert!(notes.contains("hooks.enabled is false") && !notes.contains("Before every"), "{notes}");
}

#[test]
fn each_way_has_a_connection_string_and_resources_of_its_own_on_request() {
    let own = |name: &str| {
        format!(
            "{{ mongodb: {{ existingSecret: {{ name: '{name}-{{{{ .Release.Name }}}}', key: k }} }}, \
             resources: {{ limits: {{ memory: 1Gi }} }} }}\n"
        )
    };
    let values = |group: &str| format!("{}{group}: {}", crate::helm::SECRET, own(group));
    let secrets = |values: &str| {
        let rendered = render(values);
        let of =
            |kind: &str, name: &str| env(pod(rendered.get(kind, name)))["GATE_MONGODB_URI"].clone();
        let init = crate::dependency::deployment(values);
        [
            of("Job", "r-upgrade-gate-helm"),
            of("CronJob", "r-upgrade-gate"),
            of("Pod", "r-upgrade-gate-helm-test"),
            env(pod(&init))["GATE_MONGODB_URI"].clone(),
        ]
    };
    let shared = "secret db uri";
    assert_eq!(secrets(""), [shared; 4]);
    for (at, group) in ["hooks", "manual", "test", "initContainer"].into_iter().enumerate() {
        let mut expected = [shared.to_string(), shared.into(), shared.into(), shared.into()];
        expected[at] = format!("secret {group}-r k");
        assert_eq!(secrets(&values(group)), expected);
    }
    let rendered = render(&values("hooks"));
    let source = &env(pod(rendered.job()))["GATE_MONGODB_URI_SOURCE"];
    assert_eq!(source, "key k of Secret hooks-r");
    let resources =
        json!({ "limits": { "memory": "1Gi" }, "requests": { "cpu": "10m", "memory": "32Mi" } });
    assert_eq!(gate(rendered.job())["resources"], resources, "the rest stays");
    let manual = rendered.get("CronJob", "r-upgrade-gate");
    assert_eq!(gate(manual)["resources"]["limits"]["memory"], "128Mi");

    let file = format!("{}hooks: {{ mongodb: {{ uriFile: /etc/uri }} }}", crate::helm::SECRET);
    let file = render(&file);
    let variables = env(pod(file.job()));
    assert_eq!(variables["GATE_MONGODB_URI_FILE"], "/etc/uri");
    assert!(!variables.contains_key("GATE_MONGODB_URI"));
}

#[test]
fn an_empty_text_removes_a_default_in_a_parents_values_too() {
    let values = "securityContext: { runAsUser: '', runAsGroup: '', seccompProfile: { type: '' } }
podSecurityContext: { fsGroup: '' }
resources: { limits: { memory: '' }, requests: { cpu: '' } }";
    let context = json!({
        "runAsNonRoot": true,
        "readOnlyRootFilesystem": true,
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
    });
    let parent = crate::dependency::deployment(values);
    let alone = render(values);
    for container in [&pod(&parent)["initContainers"][0], gate(alone.job())] {
        assert_eq!(container["securityContext"], context);
        assert_eq!(container["resources"], json!({ "requests": { "memory": "32Mi" } }));
    }
    assert_eq!(pod(alone.job()).get("securityContext"), None);
    let none = "resources: { limits: { memory: '' }, requests: { cpu: '', memory: '' } }";
    assert_eq!(gate(render(none).job()).get("resources"), None);
}

#[test]
fn a_certificate_authority_is_mounted_where_the_connection_string_names_it() {
    for (kind, volume) in [("secret", "secretName"), ("configMap", "name")] {
        let values = format!(
            "mongodb: {{ existingSecret: {{ name: db }}, ca: {{ {kind}: '{{{{ .Release.Name }}}}-ca' }} }}"
        );
        let parent = crate::dependency::deployment(&values);
        let alone = render(&values);
        for spec in [pod(&parent), pod(alone.job()), pod(alone.get("CronJob", "r-upgrade-gate"))] {
            let volumes = spec["volumes"].as_array().unwrap();
            let expected = json!({
                "name": "mongodb-ca",
                kind: { volume: "r-ca", "items": [{ "key": "ca.crt", "path": "ca.crt" }], "optional": true },
            });
            assert_eq!(*volumes, [expected]);
            let containers = spec.get("initContainers").unwrap_or(&spec["containers"]);
            let mount =
                json!({ "name": "mongodb-ca", "mountPath": "/etc/mongodb-ca", "readOnly": true });
            assert_eq!(containers[0]["volumeMounts"], json!([mount]));
        }
    }
    let other = "mongodb: { existingSecret: { name: db }, ca: { secret: ca, key: root.pem, path: /certs/mongo.pem } }";
    let rendered = render(other);
    let spec = pod(rendered.job());
    assert_eq!(
        spec["volumes"][0]["secret"]["items"][0],
        json!({ "key": "root.pem", "path": "mongo.pem" })
    );
    assert_eq!(spec["containers"][0]["volumeMounts"][0]["mountPath"], "/certs");
    let both = "mongodb: { existingSecret: { name: db }, ca: { secret: ca, configMap: ca } }";
    assert!(
        Release::of(both)
            .refusal()
            .contains("only one of mongodb.ca.secret and mongodb.ca.configMap")
    );
}

#[test]
fn init_containers_and_sidecars_come_before_the_gate() {
    let values = "
extraInitContainers:
  - { name: proxy, image: 'proxy:{{ .Release.Name }}', restartPolicy: Always }
hooks:
  reportStatus: true
  initContainers: |
    - name: backup
      image: mongo
      volumeMounts: [{ name: gate-status, mountPath: /gate-status }]
      env:
        {{- include \"upgrade-gate.connection\" (dict \"root\" . \"way\" \"job\" \"set\" \"hook\") | nindent 8 }}
  volumes: [{ name: backup, emptyDir: {} }]
";
    let rendered = render(values);
    let names = |spec: &Value| -> Vec<String> {
        let lists = ["initContainers", "containers"];
        let containers = lists.iter().filter_map(|list| spec[*list].as_array()).flatten();
        containers.map(|container| text_at(container, "/name")).collect()
    };
    let job = pod(rendered.job());
    assert_eq!(names(job), ["proxy", "upgrade-gate-status", "backup", "upgrade-gate"]);
    assert_eq!(job["initContainers"][0]["image"], "proxy:r");
    let volumes = job["volumes"].as_array().unwrap().iter();
    let volumes: Vec<_> = volumes.map(|volume| volume["name"].as_str().unwrap()).collect();
    assert_eq!(volumes, ["gate-status", "backup"]);
    let status = variables(&job["initContainers"][1]);
    assert_eq!(status["GATE_MODE"], "status");
    assert_eq!(status["GATE_REPORT_FILE"], "/gate-status/report.json");
    assert_eq!(variables(&job["initContainers"][2])["GATE_MONGODB_URI"], "secret db uri");
    let codes = &rendered.job()["spec"]["podFailurePolicy"]["rules"];
    assert_eq!(codes[1]["onExitCodes"]["containerName"], "upgrade-gate");
    assert_eq!(codes[2]["onExitCodes"]["containerName"], "upgrade-gate-status");
    assert_eq!(codes[1]["onExitCodes"]["values"], codes[2]["onExitCodes"]["values"]);
    for (kind, name) in [("CronJob", "r-upgrade-gate"), ("Pod", "r-upgrade-gate-helm-test")] {
        assert_eq!(names(pod(rendered.get(kind, name))), ["proxy", "upgrade-gate"], "{kind}");
    }
    let init = crate::dependency::deployment("extraInitContainers: [{ name: proxy, image: p }]");
    assert_eq!(names(pod(&init)), ["gate", "other", "app"], "the application has its own");
}

#[test]
fn the_rest_of_a_pods_spec_can_be_set_but_not_what_values_set() {
    let values = "extraPodSpec: { hostAliases: [{ ip: 10.0.0.1, hostnames: ['{{ .Release.Name }}'] }], dnsPolicy: None, dnsConfig: { nameservers: [10.0.0.2] } }\nterminationGracePeriodSeconds: 60";
    let rendered = render(values);
    for (name, spec) in rendered.pods() {
        assert_eq!(spec["hostAliases"][0]["hostnames"][0], "r", "{name}");
        assert_eq!(spec["dnsPolicy"], "None");
        assert_eq!(spec["terminationGracePeriodSeconds"], 60, "{name}");
        assert_eq!(spec["restartPolicy"], "Never");
    }
    for field in ["containers", "restartPolicy", "volumes", "serviceAccountName", "securityContext"]
    {
        let refusal = Release::of(&format!("extraPodSpec: {{ {field}: x }}")).refusal();
        assert!(refusal.contains(&format!("at '/extraPodSpec/{field}'")), "{refusal}");
    }
}

#[test]
fn labels_and_annotations_for_every_object_yield_to_the_charts_own() {
    let values = "
commonLabels: { team: data, app.kubernetes.io/instance: other }
commonAnnotations: { owner: me, helm.sh/hook-weight: '7' }
hooks: { onRollback: true, weight: 3, annotations: { extra: hook, helm.sh/hook: none } }
mongodb: { uri: mongodb://host/db }
networkPolicy: { enabled: true }
events: { enabled: true, initContainerAccount: app }
quiesce: { workloads: [deployment/a], resume: true }
";
    let rendered = render(values);
    assert!(rendered.0.len() > 15);
    for object in &rendered.0 {
        let metadata = &object["metadata"];
        assert_eq!(metadata["labels"]["team"], "data", "{object:#}");
        assert_eq!(metadata["labels"]["app.kubernetes.io/instance"], "r");
        assert_eq!(metadata["annotations"]["owner"], "me", "{object:#}");
        let is_hook = metadata["labels"]["upgrade-gate/hooks"] == "helm";
        assert_eq!(metadata["annotations"]["extra"] == "hook", is_hook, "{object:#}");
        assert_ne!(metadata["annotations"]["helm.sh/hook"], "none");
        if let Some(template) = object.pointer("/spec/template/metadata") {
            assert_eq!(template["labels"]["team"], "data");
            assert_eq!(template["annotations"]["owner"], "me");
        }
    }
    let weight = |kind: &str, name: &str| {
        text_at(rendered.get(kind, name), "/metadata/annotations/helm.sh~1hook-weight")
    };
    assert_eq!(weight("Job", "r-upgrade-gate-helm"), "3");
    assert_eq!(weight("Role", "r-upgrade-gate-helm"), "-7");
    let argocd = render("hooks: { engine: argocd, weight: 3 }");
    let wave = "/metadata/annotations/argocd.argoproj.io~1sync-wave";
    assert_eq!(text_at(argocd.job(), wave), "3");
    assert_eq!(text_at(argocd.get("Role", "r-upgrade-gate-argocd"), wave), "-7");
    assert!(Release::of("commonLabels: { a: 'not a label' }").refusal().contains("commonLabels/a"));
}

#[test]
fn env_from_reaches_hooks_and_jobs_by_hand_and_nothing_that_waits() {
    let from = "envFrom: [{ secretRef: { name: '{{ .Release.Name }}-extra' } }]";
    let expected = json!([{ "secretRef": { "name": "r-extra" } }]);
    let hooks = render(&format!("hooks: {{ onRollback: true, {from} }}"));
    assert_eq!(gate(hooks.job())["envFrom"], expected);
    assert_eq!(gate(hooks.get("Job", "r-upgrade-gate-helm-rollback"))["envFrom"], expected);
    assert_eq!(gate(hooks.get("CronJob", "r-upgrade-gate")).get("envFrom"), None);
    for (mode, has) in [("plan", true), ("wait", false)] {
        let manual = render(&format!("manual: {{ mode: {mode}, {from} }}"));
        let container = gate(manual.get("CronJob", "r-upgrade-gate")).clone();
        assert_eq!(container.get("envFrom").is_some(), has, "{mode}");
    }
    let init = crate::dependency::deployment(&format!("hooks: {{ {from} }}\nmanual: {{ {from} }}"));
    assert_eq!(pod(&init)["initContainers"][0].get("envFrom"), None);
}

#[test]
fn a_job_by_hand_may_tell_the_status_or_sweep() {
    let of = |values: &str| env(pod(render(values).get("CronJob", "r-upgrade-gate")));
    let more = "settings: { lockWait: 1m, skipConditions: true, fromVersion: 0.6.0 }\n\
        quiesce: { workloads: [deployment/a] }\nmanual: ";
    let status = of(&format!("{more}{{ mode: status }}"));
    assert_eq!(status["GATE_MODE"], "status");
    let sweep = of(&format!("{more}{{ mode: sweep }}"));
    assert_eq!(sweep["GATE_MODE"], "sweep");
    assert_eq!(
        (sweep["GATE_LOCK_WAIT"].as_str(), sweep["GATE_SKIP_CONDITIONS"].as_str()),
        ("1m", "true")
    );
    for variables in [&status, &sweep] {
        for never in ["GATE_QUIESCE", "GATE_RESUME"] {
            assert!(!variables.contains_key(never), "{never}");
        }
    }
    // what check would say depends on it
    assert_eq!(status["GATE_FROM_VERSION"], "0.6.0");
    assert!(!sweep.contains_key("GATE_FROM_VERSION"));
}
