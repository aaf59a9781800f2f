//! What Helm leaves when a value changes: a hook object stays as it was, and must have no effect any more.

use serde_json::Value;

use crate::helm::{Rendered, name, render, text_at};

/// The labels of all pods that the chart starts.
fn pod_labels(rendered: &Rendered) -> Vec<(String, Value)> {
    let labels = |object: &Value| {
        let pointers = [
            "/spec/jobTemplate/spec/template/metadata/labels",
            "/spec/template/metadata/labels",
            "/metadata/labels",
        ];
        let found = pointers.iter().find_map(|pointer| object.pointer(pointer)).unwrap();
        (name(object), found.clone())
    };
    let pods = rendered
        .0
        .iter()
        .filter(|object| ["Job", "CronJob", "Pod"].contains(&object["kind"].as_str().unwrap()));
    pods.map(labels).collect()
}

/// The pods that a NetworkPolicy applies to.
fn selected(policy: &Value, rendered: &Rendered) -> Vec<String> {
    let selector = policy["spec"]["podSelector"]["matchLabels"].as_object().unwrap();
    assert!(!selector.is_empty(), "an empty selector selects every pod of the namespace");
    let pods = pod_labels(rendered).into_iter();
    let matching =
        pods.filter(|(_, labels)| selector.iter().all(|(key, value)| labels[key] == *value));
    matching.map(|(name, _)| name).collect()
}

const ON: &str = "networkPolicy: { enabled: true }\n";

#[test]
fn a_network_policy_applies_to_the_pods_of_its_own_set_only() {
    let rendered = render(&format!("{ON}hooks: {{ onRollback: true }}"));
    let of = |policy: &str| selected(rendered.get("NetworkPolicy", policy), &rendered);
    assert_eq!(of("r-upgrade-gate-helm"), ["r-upgrade-gate-helm", "r-upgrade-gate-helm-rollback"]);
    assert_eq!(of("r-upgrade-gate"), ["r-upgrade-gate", "r-upgrade-gate-helm-test"]);
}

#[test]
fn a_network_policy_that_was_switched_off_applies_to_no_pod() {
    let before = render(ON);
    for after in [
        "",
        "networkPolicy: { create: false }",
        "fullnameOverride: other",
        "nameOverride: other",
        "hooks: { engine: argocd }",
        "hooks: { engine: none }",
    ] {
        let after = render(after);
        for policy in before.of_kind("NetworkPolicy") {
            assert_eq!(selected(policy, &after), [""; 0], "{policy:#}");
        }
    }
    // one of another engine, or of another name, does not apply either where policies are still wanted
    let hook = before.get("NetworkPolicy", "r-upgrade-gate-helm");
    for other in ["hooks: { engine: argocd }", "hooks: { engine: none }", "fullnameOverride: other"]
    {
        assert_eq!(selected(hook, &render(&format!("{ON}{other}"))), [""; 0], "{other}");
    }
}

#[test]
fn a_hooks_network_policy_is_always_rendered_so_that_the_next_upgrade_replaces_it() {
    let off = render("");
    let policies: Vec<_> = off.of_kind("NetworkPolicy").into_iter().map(name).collect();
    assert_eq!(policies, ["r-upgrade-gate-helm"]);
    assert_eq!(selected(off.get("NetworkPolicy", "r-upgrade-gate-helm"), &off), [""; 0]);
    for values in ["networkPolicy: { create: false }", "hooks: { engine: none }"] {
        assert!(render(values).of_kind("NetworkPolicy").is_empty(), "{values}");
    }
}

#[test]
fn every_hook_object_is_rendered_again_or_goes_by_itself_whatever_is_switched_off() {
    // what the next release no longer renders must have removed itself, or do nothing without its pod
    let all = "mongodb: { uri: mongodb://host/db }\nnetworkPolicy: { enabled: true }\n\
        events: { enabled: true }\nquiesce: { workloads: [deployment/a], resume: true }\n\
        hooks: { onRollback: true }\nupgrades: { gate.yaml: 'app: a' }\n";
    let hooks = |rendered: &Rendered| -> Vec<(String, String, String)> {
        let is_hook =
            |object: &&Value| object["metadata"]["labels"]["upgrade-gate/hooks"] == "helm";
        let policy = |object: &Value| {
            let pointer = "/metadata/annotations/helm.sh~1hook-delete-policy";
            (text_at(object, "/kind"), name(object), text_at(object, pointer))
        };
        rendered.0.iter().filter(is_hook).map(policy).collect()
    };
    let switched_off = render("hooks: { enabled: false }\ntest: { enabled: false }");
    let after = hooks(&switched_off);
    for (kind, name, policy) in hooks(&render(all)) {
        let again = after.iter().any(|(a, b, _)| (a, b) == (&kind, &name));
        let goes = policy.contains("hook-succeeded") && policy.contains("hook-failed");
        // a Job or a pod that is over
        let over = ["Job", "Pod"].contains(&kind.as_str());
        // files that no pod reads
        let idle = kind == "ConfigMap" && crate::upgrades::mounted(&switched_off).is_empty();
        assert!(again || goes || over || idle, "{kind} {name}");
    }
    let role = render("").get("Role", "r-upgrade-gate-helm").clone();
    assert_eq!(role["rules"], serde_json::json!([]), "without rules");
}
