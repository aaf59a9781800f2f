//! The real Argo CD, which `tests/cluster/argocd.sh` runs as long as this process lives.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::command::{repository, required, setting};
use super::world::World;

/// One for all scenarios of a run, started by the first that asks.
struct Argo {
    port: u32,
    charts: PathBuf,
    /// Ends when its standard input does, with this process at the latest.
    _script: Child,
}

impl Argo {
    fn shared() -> &'static Argo {
        static SHARED: OnceLock<Argo> = OnceLock::new();
        SHARED.get_or_init(Argo::start)
    }

    fn start() -> Argo {
        let port = 20_000 + std::process::id() % 2_000 * 5;
        let state = setting("E2E_STATE").map_or_else(std::env::temp_dir, PathBuf::from);
        let folder = state.join(format!("argocd-{port}"));
        let mut script = Command::new(repository("tests/cluster/argocd.sh"));
        script.arg(&folder).arg(port.to_string()).env("E2E_BIN", required("E2E_BIN"));
        script.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut script = script.spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(script.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n", "argocd.sh has said why, and its logs are in {folder:?}");
        Argo { port, charts: folder.join("charts"), _script: script }
    }
}

const KIND: &str = "application.argoproj.io";

/// An Application of one chart.
pub struct Application<'a> {
    world: &'a World,
    argo: &'static Argo,
    name: String,
}

impl World {
    /// An Application of this chart, with automated syncs that prune and heal, and its first sync.
    pub async fn application(
        &self,
        chart: &str,
        release: &str,
        values: &Value,
    ) -> (Application<'_>, Value) {
        let argo = Argo::shared();
        let charts = argo.charts.join(&self.namespace);
        fs::create_dir_all(&charts).unwrap();
        let folder = charts.display().to_string();
        self.helm(&["package", chart, "--destination", &folder]).await.ok();
        self.helm(&["repo", "index", &folder]).await.ok();
        let application = Application { world: self, argo, name: self.namespace.clone() };
        let source = json!({
            "repoURL": format!("http://127.0.0.1:{}/{}", argo.port, self.namespace),
            "chart": Path::new(chart).file_name().unwrap().to_str().unwrap(),
            "targetRevision": "*",
            "helm": { "releaseName": release, "valuesObject": values },
        });
        let object = json!({
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Application",
            "metadata": { "name": self.namespace, "namespace": application.namespace() },
            "spec": {
                "project": "default",
                "source": source,
                "destination": { "name": "here", "namespace": self.namespace },
                "syncPolicy": {
                    "automated": { "prune": true, "selfHeal": true },
                    // As many as by default, without its growing pauses of four minutes in all.
                    "retry": { "limit": 5, "backoff": { "duration": "1s", "maxDuration": "1s" } },
                },
            },
        });
        application.kubectl(&["apply", "--filename=-"], Some(&object.to_string())).await;
        let synced = application.synced("").await;
        (application, synced)
    }
}

impl Application<'_> {
    fn namespace(&self) -> String {
        format!("argocd-{}", self.argo.port)
    }

    async fn kubectl(&self, arguments: &[&str], input: Option<&str>) -> String {
        let namespace = ["--namespace", &self.namespace()].map(str::to_owned);
        let namespace: Vec<_> = namespace.iter().map(String::as_str).collect();
        self.world.try_kubectl(&[&namespace[..], arguments].concat(), input).await.ok().stdout
    }

    /// What the last sync did, and when.
    pub async fn operation(&self) -> Value {
        let get = ["get", KIND, &self.name, "--output=json"];
        let application: Value = serde_json::from_str(&self.kubectl(&get, None).await).unwrap();
        application["status"]["operationState"].clone()
    }

    /// Waits for the end of a sync that began after the one that began at `before`, and returns it.
    async fn synced(&self, before: &str) -> Value {
        let over = async || {
            let operation = self.operation().await;
            let began = operation["startedAt"].as_str()? != before;
            let phase = operation["phase"].as_str()?;
            (began && ["Succeeded", "Failed", "Error"].contains(&phase)).then_some(operation)
        };
        self.world.until("the end of a sync", over).await
    }

    /// Lays other values down, as a new revision of the Application does, and waits for their sync.
    pub async fn changed(&self, values: &Value) -> Value {
        let source = json!({ "helm": { "valuesObject": values } });
        self.patched(json!({ "spec": { "source": source } })).await
    }

    /// Syncs once more, as Argo CD's guide does it with kubectl.
    pub async fn sync(&self) -> Value {
        self.patched(json!({ "operation": { "sync": { "prune": true } } })).await
    }

    /// Has Argo CD compare what is there with what should be, and waits until it has.
    pub async fn refresh(&self) {
        let refresh = "argocd.argoproj.io/refresh=normal";
        self.kubectl(&["annotate", KIND, &self.name, refresh, "--overwrite"], None).await;
        let done = async || {
            let get = ["get", KIND, &self.name, "--output=jsonpath={.metadata.annotations}"];
            (!self.kubectl(&get, None).await.contains("argocd.argoproj.io/refresh")).then_some(())
        };
        self.world.until("the comparison", done).await;
    }

    /// When it last compared what is there with what should be.
    pub async fn compared(&self) -> String {
        let get = ["get", KIND, &self.name, "--output=jsonpath={.status.reconciledAt}"];
        self.kubectl(&get, None).await
    }

    /// Deletes the Application with all that is its own, and waits until that is gone.
    pub async fn delete(self) {
        let cascade =
            json!({ "metadata": { "finalizers": ["resources-finalizer.argocd.argoproj.io"] } });
        let patch = cascade.to_string();
        let patch = ["patch", KIND, &self.name, "--type=merge", "--patch", &patch];
        self.kubectl(&patch, None).await;
        self.kubectl(&["delete", KIND, &self.name, "--timeout=120s"], None).await;
    }

    async fn patched(&self, patch: Value) -> Value {
        let before = self.operation().await;
        let patch = patch.to_string();
        let merge = ["patch", KIND, &self.name, "--type=merge", "--patch", &patch];
        self.kubectl(&merge, None).await;
        self.synced(before["startedAt"].as_str().unwrap()).await
    }
}
