//! The Helm chart, rendered by the real Helm 3 and Helm 4: what each way of running the gate makes of the
//! values. Whatever is rendered here is also checked against Kubernetes' own description of its objects.

#[path = "chart/dependency.rs"]
mod dependency;
#[path = "support/folder.rs"]
mod folder;
#[allow(dead_code)]
#[path = "support/guide.rs"]
mod guide;
#[path = "chart/helm.rs"]
mod helm;
#[path = "chart/hooks.rs"]
mod hooks;
#[path = "chart/kubernetes.rs"]
mod kubernetes;
#[path = "chart/leftovers.rs"]
mod leftovers;
#[path = "chart/modes.rs"]
mod modes;
#[path = "chart/parents.rs"]
mod parents;
#[path = "chart/pods.rs"]
mod pods;
#[path = "chart/rights.rs"]
mod rights;
#[path = "chart/upgrades.rs"]
mod upgrades;
#[path = "chart/values.rs"]
mod values;
