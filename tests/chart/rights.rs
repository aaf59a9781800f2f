//! ServiceAccount, Role, RoleBinding and NetworkPolicy: no more than the settings need.

use serde_json::{Value, json};

use crate::helm::{Rendered, env, pod, render, yaml};

const FEATURES: &str = "events: { enabled: true }\n\
    quiesce: { workloads: [deployment/web, deployment/api, 'statefulset/{{ .Release.Name }}-db'] }\n";

/// The rules of both Roles, which are the same.
fn rules(values: &str) -> Value {
    let rendered = render(values);
    let rules = &rendered.get("Role", "r-upgrade-gate")["rules"];
    assert_eq!(*rules, rendered.get("Role", "r-upgrade-gate-helm")["rules"]);
    rules.clone()
}

fn rule(group: &str, resource: &str, names: &[&str], verbs: &[&str]) -> Value {
    let mut rule = json!({ "apiGroups": [group], "resources": [resource], "verbs": verbs });
    if !names.is_empty() {
        rule["resourceNames"] = json!(names);
    }
    rule
}

#[test]
fn the_role_is_always_there_and_empty_unless_a_feature_needs_it() {
    assert_eq!(rules(""), json!([]));
    assert_eq!(rules("quiesce: { timeout: 1m, resume: true }"), json!([]));
    let events = rule("events.k8s.io", "events", &[], &["create", "patch"]);
    assert_eq!(rules("events: { enabled: true }"), json!([events]));
    let one = rules("quiesce: { workloads: [deployment/web] }");
    assert_eq!(
        one,
        json!([
            rule("apps", "deployments", &["web"], &["get"]),
            rule("apps", "deployments/scale", &["web"], &["get", "patch"]),
            rule("", "pods", &[], &["list"]),
        ])
    );
    assert_eq!(
        rules(FEATURES),
        json!([
            rule("apps", "deployments", &["web", "api"], &["get"]),
            rule("apps", "deployments/scale", &["web", "api"], &["get", "patch"]),
            rule("apps", "statefulsets", &["r-db"], &["get"]),
            rule("apps", "statefulsets/scale", &["r-db"], &["get", "patch"]),
            rule("", "pods", &[], &["list"]),
            events,
        ])
    );
}

/// What the guide tells those who write the Role themselves.
#[test]
fn the_guides_least_role_is_the_charts() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/old-pods.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, shown) = page.split_once("```yaml\n").unwrap();
    let shown = yaml(shown.split("```").next().unwrap());
    let both = "events: { enabled: true }\n\
        quiesce: { workloads: [deployment/web, statefulset/worker] }";
    assert_eq!(shown["rules"], rules(both));
}

#[test]
fn a_token_is_mounted_only_where_a_feature_needs_it() {
    let mounted = |rendered: &Rendered| -> Vec<String> {
        let pods = rendered.pods().into_iter();
        let with = pods.filter(|(_, pod)| pod["automountServiceAccountToken"] == true);
        with.map(|(name, _)| name).collect()
    };
    assert_eq!(mounted(&render("hooks: { onRollback: true }")), Vec::<String>::new());
    let events = render("events: { enabled: true }\nhooks: { onRollback: true }");
    assert_eq!(mounted(&events), ["r-upgrade-gate", "r-upgrade-gate-helm"]);
    let quiesce = render("quiesce: { workloads: [deployment/web] }");
    assert_eq!(mounted(&quiesce), ["r-upgrade-gate", "r-upgrade-gate-helm"]);
    let check = render("quiesce: { workloads: [deployment/web] }\nmanual: { mode: check }");
    assert_eq!(mounted(&check), ["r-upgrade-gate-helm"], "a check scales nothing");
    let resume = render("quiesce: { workloads: [deployment/web] }\nmanual: { mode: resume }");
    assert_eq!(mounted(&resume), ["r-upgrade-gate", "r-upgrade-gate-helm"]);
    let by_hand = pod(resume.get("CronJob", "r-upgrade-gate"));
    let variables = env(by_hand);
    assert_eq!(variables["GATE_MODE"], "resume");
    assert_eq!(variables["GATE_QUIESCE"], "deployment/web");
    assert_eq!(by_hand["serviceAccountName"], "r-upgrade-gate");
    for account in render(FEATURES).of_kind("ServiceAccount") {
        assert_eq!(account["automountServiceAccountToken"], false, "pods say so themselves");
    }
}

#[test]
fn the_account_is_made_named_or_another_one() {
    let of = |values: &str| {
        let rendered = render(values);
        let job = pod(rendered.job())["serviceAccountName"].as_str().unwrap().to_string();
        let made = rendered.of_kind("ServiceAccount").into_iter().map(crate::helm::name).collect();
        let bound = rendered.of_kind("RoleBinding").into_iter();
        let bound = bound.map(|binding| binding["subjects"][0]["name"].as_str().unwrap().into());
        (job, made, bound.collect::<Vec<String>>())
    };
    let (job, made, bound): (_, Vec<String>, _) = of("");
    assert_eq!(job, "r-upgrade-gate-helm");
    assert_eq!(made, ["r-upgrade-gate", "r-upgrade-gate-helm"]);
    assert_eq!(bound, made);
    let (job, made, bound) = of("serviceAccount: { name: mine }");
    assert_eq!((job.as_str(), made), ("mine-helm", vec!["mine".to_string(), "mine-helm".into()]));
    assert_eq!(bound, ["mine", "mine-helm"]);
    for (name, expected) in [("", "default"), ("theirs", "theirs")] {
        let (job, made, bound) =
            of(&format!("serviceAccount: {{ create: false, name: '{name}' }}"));
        assert_eq!((job.as_str(), made), (expected, vec![]));
        assert_eq!(bound, [expected, expected]);
    }
    let annotated = render("serviceAccount: { annotations: { iam: role } }");
    for account in annotated.of_kind("ServiceAccount") {
        assert_eq!(account["metadata"]["annotations"]["iam"], "role");
    }
    let without = render(&format!("{FEATURES}rbac: {{ create: false }}"));
    assert!(without.of_kind("Role").is_empty() && without.of_kind("RoleBinding").is_empty());
}

#[test]
fn an_init_container_may_tell_by_events_and_nothing_else() {
    let values = format!("{FEATURES}events: {{ enabled: true, initContainerAccount: app }}");
    let values = values.replacen("events: { enabled: true }\n", "", 1);
    let rendered = render(&values);
    let expected = json!([rule("events.k8s.io", "events", &[], &["create", "patch"])]);
    assert_eq!(rendered.get("Role", "r-upgrade-gate-init")["rules"], expected);
    let binding = rendered.get("RoleBinding", "r-upgrade-gate-init");
    assert_eq!(binding["subjects"][0]["name"], "app");
    assert_eq!(binding["subjects"][0]["namespace"], "apps");
    assert_eq!(render(FEATURES).find("Role", "r-upgrade-gate-init"), None);
    assert_eq!(
        render("events: { initContainerAccount: app }").find("Role", "r-upgrade-gate-init"),
        None
    );
}

#[test]
fn a_network_policy_lets_out_to_dns_mongodb_and_where_needed_the_api_server() {
    let ports = |values: &str| -> Vec<u64> {
        let rendered = render(values);
        let policies = rendered.of_kind("NetworkPolicy");
        assert_eq!(policies.len(), 2);
        assert_eq!(policies[0]["spec"]["egress"], policies[1]["spec"]["egress"]);
        let spec = &rendered.get("NetworkPolicy", "r-upgrade-gate-helm")["spec"];
        assert_eq!(spec["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(spec["ingress"], json!([]));
        let labels = spec["podSelector"]["matchLabels"].as_object().unwrap();
        let job = &rendered.job()["spec"]["template"]["metadata"]["labels"];
        assert!(labels.iter().all(|(name, value)| job[name] == *value));
        let rules = spec["egress"].as_array().unwrap().iter();
        let ports = rules.flat_map(|rule| rule["ports"].as_array().unwrap());
        ports.map(|port| port["port"].as_u64().unwrap()).collect()
    };
    assert_eq!(ports("networkPolicy: { enabled: true }"), [53, 53, 27017]);
    let all = format!("networkPolicy: {{ enabled: true }}\n{FEATURES}");
    assert_eq!(ports(&all), [53, 53, 443, 6443, 27017]);
    let own = "networkPolicy: { enabled: true, egress: [{ ports: [{ port: 27018 }] }] }";
    assert_eq!(ports(own), [53, 53, 27018]);
}
