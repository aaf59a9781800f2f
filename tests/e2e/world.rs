//! What a scenario has for itself: a namespace, a database, a folder, and helpers to use them.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mongodb::bson::oid::ObjectId;
use serde_json::{Value, json};

use super::command::{Helm, Output, Running, command, required};
use super::support::{Fresh, Server};

/// More than anything takes that is waited for here, on a slow machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// The world as one scenario sees it.
pub struct World {
    pub helm: Helm,
    /// Enforces the restricted standard of pod security.
    pub namespace: String,
    /// On the shared replica set; the Secret `mongodb` has its connection string under `uri`.
    pub database: Fresh,
    folder: PathBuf,
    transcript: RefCell<Vec<String>>,
}

impl World {
    pub async fn new(helm: Helm) -> World {
        let id = ObjectId::new().to_hex();
        let namespace = format!("gate-{}", &id[12..]);
        let folder = std::env::temp_dir().join(format!("upgrade-gate-{id}"));
        fs::create_dir(&folder).unwrap();
        let database = Server::shared().await.database().await;
        let transcript = RefCell::default();
        let world = World { helm, namespace, database, folder, transcript };
        world
            .apply(json!({
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {
                    "name": world.namespace,
                    "labels": { "pod-security.kubernetes.io/enforce": "restricted" },
                },
            }))
            .await;
        world.secret("mongodb", "uri", &world.database.uri).await;
        // Pods are refused until it is there.
        world.object("serviceaccount/default").await;
        world
    }

    /// A file of this scenario's own.
    pub fn file(&self, name: &str, contents: &str) -> String {
        let path = self.folder.join(name);
        fs::write(&path, contents).unwrap();
        path.display().to_string()
    }

    /// A folder of this scenario's own, which may not be there yet.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Runs this scenario's Helm to its end.
    pub async fn helm(&self, arguments: &[&str]) -> Output {
        self.noted(self.start_helm(arguments).await).await
    }

    /// Starts it, and leaves it running.
    pub async fn start_helm(&self, arguments: &[&str]) -> Running {
        let mut command = command(self.helm.program(), arguments);
        for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(name, self.folder.join("helm"));
        }
        command.env("HELM_NAMESPACE", &self.namespace).current_dir(&self.folder);
        Running::start(command, None).await
    }

    /// Waits for the end of a program, and remembers what it said for the story of a failure.
    pub async fn noted(&self, running: Running) -> Output {
        let output = running.end().await;
        self.transcript.borrow_mut().push(output.to_string());
        output
    }

    /// Runs kubectl, which may fail.
    pub async fn try_kubectl(&self, arguments: &[&str], input: Option<&str>) -> Output {
        let mut all = vec!["--namespace", &self.namespace];
        all.extend(arguments);
        Running::start(command("kubectl", &all), input).await.end().await
    }

    /// Runs kubectl and returns what it printed.
    pub async fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments, None).await.ok().stdout
    }

    /// Applies an object.
    pub async fn apply(&self, object: Value) {
        self.apply_yaml(&object.to_string()).await;
    }

    /// Applies objects that are written down as YAML.
    pub async fn apply_yaml(&self, yaml: &str) {
        self.try_kubectl(&["apply", "--filename", "-"], Some(yaml)).await.ok();
    }

    /// Makes a Secret of one key, or replaces it.
    pub async fn secret(&self, name: &str, key: &str, value: &str) {
        self.apply(json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": name },
            "stringData": { key: value },
        }))
        .await;
    }

    /// The database of another application, whose connection string is in the Secret of this name.
    pub async fn database_of_another(&self, secret: &str) -> Fresh {
        let database = Server::shared().await.database().await;
        self.secret(secret, "uri", &database.uri).await;
        database
    }

    /// An object as `kubectl get KIND/NAME -o json` shows it: waits until it is there.
    pub async fn object(&self, name: &str) -> Value {
        self.until(name, async || self.find(name).await).await
    }

    /// The same, or nothing where it is not there.
    pub async fn find(&self, name: &str) -> Option<Value> {
        let arguments = ["get", name, "--output", "json", "--ignore-not-found"];
        serde_json::from_str(&self.kubectl(&arguments).await).ok()
    }

    /// All objects of a kind that have these labels (an empty text: all of them).
    pub async fn list(&self, kind: &str, labels: &str) -> Vec<Value> {
        let arguments = ["get", kind, "--output", "json", "--selector", labels];
        let list: Value = serde_json::from_str(&self.kubectl(&arguments).await).unwrap();
        list["items"].as_array().unwrap().clone()
    }

    /// The pods with these labels that nobody is deleting.
    pub async fn pods(&self, labels: &str) -> Vec<Value> {
        let mut pods = self.list("pods", labels).await;
        pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        pods
    }

    /// The pods of a Job, oldest first.
    pub async fn pods_of(&self, job: &str) -> Vec<Value> {
        let mut pods = self.list("pods", &format!("batch.kubernetes.io/job-name={job}")).await;
        pods.sort_by_key(|pod| pod["metadata"]["creationTimestamp"].to_string());
        pods
    }

    /// Asks until there is an answer. Panics after three minutes, naming `what`.
    pub async fn until<T>(&self, what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
        let asked = Instant::now();
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            assert!(asked.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What a Service of this namespace answers to `GET /`, or nothing while it does not.
    pub async fn fetch(&self, service: &str) -> Option<String> {
        let namespace = &self.namespace;
        let path = format!("/api/v1/namespaces/{namespace}/services/http:{service}:80/proxy/");
        let output = self.try_kubectl(&["get", "--raw", &path], None).await;
        (output.code == Some(0)).then_some(output.stdout)
    }

    /// Sends a signal to the container of a pod, past Kubernetes.
    pub async fn signal(&self, pod: &Value, signal: &str) {
        let pod = format!("pod/{}", pod["metadata"]["name"].as_str().unwrap());
        // The container may be faster than the report of it.
        let id = async || {
            let status = self.object(&pod).await["status"].clone();
            let (_, id) =
                status["containerStatuses"][0]["containerID"].as_str()?.split_once("://")?;
            Some(id.to_owned())
        };
        let id = self.until("the container's id", id).await;
        let kill = required("E2E_KILL").replace("SIGKILL", signal);
        let line = format!("{kill} {id}");
        let sent = tokio::process::Command::new("sh").args(["-c", &line]).output().await.unwrap();
        assert!(sent.status.success(), "{line}: {sent:?}");
    }

    /// The story of a failure: what Helm said, how pods are, what their containers logged.
    pub async fn tell(&self, problem: &str) -> String {
        let mut transcript = self.transcript.borrow().clone();
        transcript.retain(|output| !problem.contains(output));
        let mut story = transcript.join("\n");
        let ask = |line: &str| {
            let words = line.split(' ').map(str::to_owned).collect::<Vec<_>>();
            async move {
                let words: Vec<_> = words.iter().map(String::as_str).collect();
                self.try_kubectl(&words, None).await.to_string()
            }
        };
        for line in [
            "get jobs,pods,deployments --output wide",
            "get events --sort-by=.lastTimestamp --output custom-columns=:.involvedObject.name,:.reason,:.message",
        ] {
            story += &format!("\n{}", ask(line).await);
        }
        for pod in self.list("pods", "").await {
            let name = pod["metadata"]["name"].as_str().unwrap();
            let line = format!("logs {name} --all-containers --prefix --tail=40");
            story += &format!("\n{}", ask(&line).await);
        }
        story
    }

    /// Leaves nothing. The namespace's contents go on their own.
    pub async fn end(&self) {
        let arguments = ["delete", "namespace", &self.namespace, "--wait=false"];
        self.try_kubectl(&arguments, None).await;
        // The system's folder for temporary files is where it is.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The report of the gate in a pod, which is its container's last termination message. Null where no gate
/// has ended there.
pub fn report(pod: &Value) -> Value {
    let kinds = ["initContainerStatuses", "containerStatuses"];
    let statuses = kinds.iter().filter_map(|kind| pod["status"][*kind].as_array()).flatten();
    let messages = statuses.flat_map(|status| {
        ["state", "lastState"].map(|state| &status[state]["terminated"]["message"])
    });
    let mut reports = messages.filter_map(|message| serde_json::from_str(message.as_str()?).ok());
    reports.find(|report: &Value| report["exit_code"].is_number()).unwrap_or(Value::Null)
}
