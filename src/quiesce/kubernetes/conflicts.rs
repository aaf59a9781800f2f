//! What somebody changed in a workload by hand: Helm 4 refuses to change it back, and does so after the upgrade.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::core::DynamicObject;
use serde_json::{Map, Value};

use crate::process::settings::WorkloadName;
use crate::quiesce::kubernetes::api_server::MANAGER;
use crate::quiesce::quiesced::first;

/// The manager under which Helm sets fields; Helm 4 applies them, Helm 3 updates them.
const HELM: &str = "helm";

/// Controllers: no release sets the fields that they set.
const CONTROLLERS: [&str; 2] = [MANAGER, "kube-controller-manager"];

/// The most fields that are named.
const NAMED: usize = 3;

/// What to say of a workload before the upgrade: who set which fields that the release may want to set.
pub(super) fn warning(workload: &WorkloadName, object: &DynamicObject) -> Option<String> {
    let entries = object.metadata.managed_fields.as_deref().unwrap_or_default();
    let applied = |entry: &_| named(entry) == HELM && operation(entry) == "Apply";
    if !entries.iter().any(applied) {
        return None;
    }
    let mut found = Vec::new();
    for entry in entries {
        let manager = named(entry);
        let status = entry.subresource.as_deref() == Some("status");
        if manager == HELM || status || CONTROLLERS.contains(&manager) {
            continue;
        }
        let fields = entry.fields_v1.as_ref().and_then(|fields| fields.0.get("f:spec"));
        let mut paths = Vec::new();
        if let Some(fields) = fields.and_then(Value::as_object) {
            leaves(fields, ".spec", &mut paths);
        }
        // who sets the number to 0 owns it from then on, and gives it up by that
        paths.retain(|path| path != ".spec.replicas");
        if !paths.is_empty() {
            found.push(format!("{manager} set {}", first(&paths, NAMED)));
        }
    }
    (!found.is_empty()).then(|| {
        format!(
            "{workload} was changed by hand: {}. If the release sets these fields to something else, Helm 4 fails \
             with a conflict after this upgrade, and the old pods stay: run helm upgrade with --force-conflicts",
            found.join("; ")
        )
    })
}

fn named(entry: &ManagedFieldsEntry) -> &str {
    entry.manager.as_deref().unwrap_or_default()
}

fn operation(entry: &ManagedFieldsEntry) -> &str {
    entry.operation.as_deref().unwrap_or_default()
}

/// The paths of a set of fields, as the API server writes them in its conflicts. Left out is what no chart sets
/// back: annotations, of which `kubectl rollout restart` sets one, and elements that somebody added to a list.
fn leaves(fields: &Map<String, Value>, path: &str, paths: &mut Vec<String>) {
    if fields.contains_key(".") && path.ends_with(']') {
        return;
    }
    if fields.is_empty() {
        paths.push(path.to_owned());
    }
    for (key, inner) in fields {
        let Some((kind, name)) = key.split_once(':') else { continue };
        let inner_path = match kind {
            "f" if name == "annotations" => continue,
            "f" => format!("{path}.{name}"),
            "k" => format!("{path}[{}]", keys(name)),
            _ => format!("{path}[{name}]"),
        };
        if let Some(inner) = inner.as_object() {
            leaves(inner, &inner_path, paths);
        }
    }
}

/// `{"name":"app"}` as `name="app"`.
fn keys(json: &str) -> String {
    let keys = serde_json::from_str::<Map<String, Value>>(json).unwrap_or_default();
    let keys: Vec<_> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
    keys.join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::process::settings::WorkloadKind;

    fn told(entries: Value) -> Option<String> {
        let object = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": { "name": "app", "managedFields": entries },
        });
        let workload = WorkloadName { kind: WorkloadKind::Deployment, name: "app".into() };
        warning(&workload, &serde_json::from_value(object).unwrap())
    }

    fn entry(manager: &str, operation: &str, subresource: &str, fields: Value) -> Value {
        let subresource = if subresource.is_empty() { Value::Null } else { subresource.into() };
        json!({
            "manager": manager,
            "operation": operation,
            "subresource": subresource,
            "fieldsV1": fields,
        })
    }

    fn helm() -> Value {
        entry("helm", "Apply", "", json!({ "f:spec": { "f:template": {} } }))
    }

    fn image() -> Value {
        let container = json!({ "k:{\"name\":\"app\"}": { "f:image": {} } });
        json!({ "f:spec": { "f:template": { "f:spec": { "f:containers": container } } } })
    }

    #[test]
    fn what_kubectl_set_is_named_as_the_conflict_would_name_it() {
        let variable = json!({ "k:{\"name\":\"app\"}": { "f:env": {
            "k:{\"name\":\"A\"}": { "f:value": {} },
            "k:{\"name\":\"ADDED\"}": { ".": {}, "f:name": {}, "f:value": {} },
        } } });
        let variable =
            json!({ "f:spec": { "f:template": { "f:spec": { "f:containers": variable } } } });
        let told = told(json!([
            helm(),
            entry("kubectl-set", "Update", "", image()),
            entry("kubectl-edit", "Update", "", variable),
        ]))
        .unwrap();
        for part in [
            "deployment/app was changed by hand: kubectl-set set \
             .spec.template.spec.containers[name=\"app\"].image; kubectl-edit set \
             .spec.template.spec.containers[name=\"app\"].env[name=\"A\"].value. If",
            "--force-conflicts",
        ] {
            assert!(told.contains(part), "{told}");
        }
        let fields = ["f:a", "f:b", "f:c", "f:d"].map(|field| (field.to_owned(), json!({})));
        let fields = json!({ "f:spec": Map::from_iter(fields) });
        let many = super::tests::told(json!([helm(), entry("me", "Apply", "", fields)])).unwrap();
        assert!(many.contains("me set .spec.a, .spec.b, .spec.c and 1 more"), "{many}");
    }

    #[test]
    fn what_helm_does_not_stumble_over_is_not_told() {
        let replicas = json!({ "f:spec": { "f:replicas": {} } });
        let restarted = json!({ "f:spec": { "f:template": { "f:metadata": { "f:annotations": {
            ".": {}, "f:kubectl.kubernetes.io/restartedAt": {},
        } } } } });
        for entries in [
            json!([]),
            json!([helm()]),
            // the gate sets it to 0, and so takes it away from them
            json!([helm(), entry("kubectl", "Update", "scale", replicas)]),
            json!([helm(), entry("kubectl-rollout", "Update", "", restarted)]),
            json!([helm(), entry("kube-controller-manager", "Update", "status", image())]),
            json!([helm(), entry("kube-controller-manager", "Update", "", image())]),
            json!([helm(), entry("other", "Update", "status", image())]),
            // Helm 3 overwrites
            json!([
                entry("helm", "Update", "", image()),
                entry("kubectl-set", "Update", "", image())
            ]),
        ] {
            assert_eq!(told(entries.clone()), None, "{entries}");
        }
    }
}
