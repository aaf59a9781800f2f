//! Deployments and StatefulSets, stopped and started through their `scale`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject};
use serde_json::{Value, json};

use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::process::settings::{Pod, Settings, WorkloadKind, WorkloadName};
use crate::quiesce::kubernetes::api_server::{Answer, MANAGER, Server, kind};
use crate::quiesce::kubernetes::conflicts;
use crate::quiesce::workloads::{Scaled, Workload, Workloads};

/// The most pods of a workload that are listed.
const PODS: u32 = 500;

/// The workloads of `GATE_QUIESCE`.
#[derive(Debug)]
pub(crate) struct Cluster {
    server: Server,
    workloads: Vec<WorkloadName>,
    own: Pod,
    /// The selectors that were seen, by the workload's name: pods may outlive what made them.
    selectors: Mutex<BTreeMap<String, String>>,
    /// What the last check found that is no reason to refuse.
    warnings: Mutex<Vec<String>>,
}

impl Cluster {
    pub(crate) fn new(settings: &Settings) -> Self {
        Cluster {
            server: Server::new(settings),
            workloads: settings.quiesce.clone(),
            own: settings.pod.clone(),
            selectors: Mutex::default(),
            warnings: Mutex::default(),
        }
    }

    fn selectors(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.selectors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn try_check(&self) -> Result<(), Failure> {
        if self.server.namespace.is_empty() {
            return Err(Failure::new(
                Outcome::SettingWrong,
                "GATE_QUIESCE is set, and nothing says which namespace the gate is in",
                "set GATE_NAMESPACE by the downward API (metadata.namespace)",
            ));
        }
        let mut warnings = Vec::new();
        for named in &self.workloads {
            let (kind, name) = (kind_of(named.kind), named.name.as_str());
            let objects = self.server.objects(&kind).await?;
            let (get, scale) = (format!("get {}", kind.plural), format!("{}/scale", kind.plural));
            let workload = self.server.call(&get, objects.get(name)).await?.value();
            warnings.extend(workload.and_then(|workload| conflicts::warning(named, &workload)));
            let found = self.server.call(&format!("get {scale}"), objects.get_scale(name)).await?;
            // carried out but for the last step: whether it is allowed shows, and whether it would work
            let dry = PatchParams { dry_run: true, ..changes() };
            let patch = Patch::Merge(json!({ "spec": { "replicas": 0 } }));
            let patching = objects.patch_scale(name, &dry, &patch);
            match self.server.call(&format!("patch {scale}"), patching).await {
                // a webhook that takes no dry runs: that is no missing right
                Err(failure) if failure.outcome == Outcome::NotQuiesced => {}
                answer => drop(answer?),
            }
            let selector = found.value().and_then(|scale| scale.status?.selector);
            // without a selector it is only asked whether it may be
            let limit = if selector.is_some() { PODS } else { 1 };
            let pods = self.pods(selector.as_deref(), limit).await?;
            if selector.is_some() && pods.iter().any(|pod| self.is_own(pod)) {
                return Err(Failure::new(
                    Outcome::SettingWrong,
                    format!(
                        "GATE_QUIESCE names {named}, whose selector matches the gate's own pod"
                    ),
                    "give the gate's pods labels that no workload selects, or correct GATE_QUIESCE",
                ));
            }
        }
        *self.warnings.lock().unwrap_or_else(PoisonError::into_inner) = warnings;
        Ok(())
    }

    async fn try_get(&self, name: &str) -> Result<Option<Workload>, Failure> {
        let Some(named) = parse(name) else { return Ok(None) };
        let kind = kind_of(named.kind);
        let objects = self.server.objects(&kind).await?;
        let get = format!("get {}/scale", kind.plural);
        let Some(scale) = self.server.call(&get, objects.get_scale(&named.name)).await?.value()
        else {
            return self.remains(name).await;
        };
        let Some(selector) = scale.status.and_then(|status| status.selector) else {
            return Err(Failure::new(
                Outcome::NotQuiesced,
                format!("{name} has no selector, so its pods cannot be found"),
                "see its scale, by kubectl get --subresource=scale",
            ));
        };
        let replicas = scale.spec.and_then(|spec| spec.replicas).unwrap_or_default();
        let pods = self.pods(Some(&selector), PODS).await?;
        self.selectors().insert(name.to_owned(), selector);
        let freed_by = match named.kind {
            WorkloadKind::StatefulSet if replicas == 0 => self.freed_by(&named, &pods).await,
            _ => None,
        };
        Ok(Some(Workload {
            name: name.to_owned(),
            uid: scale.metadata.uid.unwrap_or_default(),
            revision: scale.metadata.resource_version.unwrap_or_default(),
            replicas: replicas.max(0) as u32,
            ready: pods.iter().filter(|pod| is_ready(pod)).count() as u32,
            pods: pods.into_iter().filter_map(|pod| pod.metadata.name).collect(),
            freed_by,
        }))
    }

    /// What is left of a workload that is no more: pods that have not stopped yet.
    async fn remains(&self, name: &str) -> Result<Option<Workload>, Failure> {
        let selector = self.selectors().get(name).cloned();
        let Some(selector) = selector else { return Ok(None) };
        let pods = self.pods(Some(&selector), PODS).await?;
        Ok((!pods.is_empty()).then(|| Workload {
            name: name.to_owned(),
            // of none that could be scaled
            uid: String::new(),
            revision: String::new(),
            replicas: 0,
            ready: 0,
            pods: pods.into_iter().filter_map(|pod| pod.metadata.name).collect(),
            freed_by: None,
        }))
    }

    /// The pods that a selector matches and that are not over.
    async fn pods(
        &self,
        selector: Option<&str>,
        limit: u32,
    ) -> Result<Vec<DynamicObject>, Failure> {
        let pods = self.server.objects(&kind("", "v1", "Pod", "pods")).await?;
        let mut params = ListParams::default()
            .fields("status.phase!=Succeeded,status.phase!=Failed")
            .limit(limit);
        params.label_selector = selector.map(str::to_owned);
        let listed = self.server.call("list pods", pods.list(&params)).await?;
        Ok(listed.value().map(|list| list.items).unwrap_or_default())
    }

    fn is_own(&self, pod: &DynamicObject) -> bool {
        match &self.own.uid {
            Some(uid) => pod.metadata.uid.as_ref() == Some(uid),
            None => {
                let name = self.own.name.clone().or_else(|| std::env::var("HOSTNAME").ok());
                name.is_some() && pod.metadata.name == name
            }
        }
    }

    /// What frees an ordered StatefulSet that waits for a pod to be ready before it stops the next.
    async fn freed_by(&self, named: &WorkloadName, pods: &[DynamicObject]) -> Option<String> {
        let going = |pod: &&DynamicObject| pod.metadata.deletion_timestamp.is_some();
        let stuck = pods.iter().filter(|pod| !is_ready(pod) && !going(pod));
        let stuck: Vec<&str> = stuck.filter_map(|pod| pod.metadata.name.as_deref()).collect();
        if stuck.is_empty() {
            return None;
        }
        let sets = self.server.objects(&kind_of(WorkloadKind::StatefulSet)).await.ok()?;
        let set =
            self.server.call("get statefulsets", sets.get(&named.name)).await.ok()?.value()?;
        let ordered = set.data["spec"]["podManagementPolicy"] != "Parallel";
        ordered
            .then(|| format!("kubectl -n {} delete pod {}", self.server.namespace, stuck.join(" ")))
    }

    async fn try_scale(&self, workload: &Workload, replicas: u32) -> Result<Scaled, Failure> {
        let Some(named) = parse(&workload.name) else { return Ok(Scaled::Changed) };
        let kind = kind_of(named.kind);
        let objects = self.server.objects(&kind).await?;
        // what was read, and nothing else: a late request finds another revision
        let patch = Patch::Merge(json!({
            "metadata": { "uid": workload.uid, "resourceVersion": workload.revision },
            "spec": { "replicas": replicas },
        }));
        let params = changes();
        let patching = objects.patch_scale(&named.name, &params, &patch);
        match self.server.call(&format!("patch {}/scale", kind.plural), patching).await? {
            Answer::Value(_) => Ok(Scaled::Done),
            Answer::Missing | Answer::Conflict => Ok(Scaled::Changed),
        }
    }
}

impl Workloads for Cluster {
    fn namespace(&self) -> &str {
        &self.server.namespace
    }

    fn names(&self) -> Vec<String> {
        self.workloads.iter().map(WorkloadName::to_string).collect()
    }

    fn check(&self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(self.try_check())
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Workload>, Failure>> {
        Box::pin(self.try_get(name))
    }

    fn scale<'a>(
        &'a self,
        workload: &'a Workload,
        replicas: u32,
    ) -> BoxFuture<'a, Result<Scaled, Failure>> {
        Box::pin(self.try_scale(workload, replicas))
    }

    fn by_hand(&self, name: &str, replicas: u32) -> String {
        format!("kubectl -n {} scale {name} --replicas={replicas}", self.server.namespace)
    }
}

fn changes() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }
}

fn kind_of(workload: WorkloadKind) -> ApiResource {
    match workload {
        WorkloadKind::Deployment => kind("apps", "v1", "Deployment", "deployments"),
        WorkloadKind::StatefulSet => kind("apps", "v1", "StatefulSet", "statefulsets"),
    }
}

/// A name as it was remembered, perhaps by another version of the gate.
fn parse(name: &str) -> Option<WorkloadName> {
    let (kind, name) = name.split_once('/')?;
    let kind = match kind {
        "deployment" => WorkloadKind::Deployment,
        "statefulset" => WorkloadKind::StatefulSet,
        _ => return None,
    };
    Some(WorkloadName { kind, name: name.to_owned() })
}

fn is_ready(pod: &DynamicObject) -> bool {
    let conditions = pod.data["status"]["conditions"].as_array();
    let ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    conditions.is_some_and(|conditions| conditions.iter().any(ready))
}
