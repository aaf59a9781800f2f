//! The chart as the guide tells of it, with the guide's own lines and commands.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};

use super::command::{Output, Running, repository, required};
use super::gate::{chart, datalab, image, merged, scenario};
use super::runner::{BOTH, FOUR, Scenario, scenario};
use super::support::fixture;
use super::support::guide::{URI, commands};
use super::world::World;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(BOTH, an_application_is_gated_as_the_guide_shows),
        scenario!(BOTH, a_release_beside_datalab_upgrades_it),
        scenario!(BOTH, a_job_of_the_chart_is_ended_by_its_label),
        scenario!(FOUR, what_keeps_the_gate_from_starting_is_shown_by_one_command),
    ]
}

/// Somebody at a terminal, with the programs that the guide has, in a scenario's namespace.
pub struct Operator<'a> {
    pub world: &'a World,
    pub folder: PathBuf,
}

impl Operator<'_> {
    pub fn new(world: &World) -> Operator<'_> {
        let folder = world.folder("operator");
        fs::create_dir_all(folder.join("bin")).unwrap();
        let helm = PathBuf::from(required("E2E_BIN")).join(world.helm.program());
        std::os::unix::fs::symlink(helm, folder.join("bin/helm")).unwrap();
        let config = fs::read_to_string(required("KUBECONFIG")).unwrap();
        fs::write(folder.join("kubeconfig"), config).unwrap();
        Operator { world, folder }
    }

    /// Runs commands, in the folder that has the copy, as the operator of this scenario's namespace.
    pub async fn run(&self, commands: &str) -> Output {
        let bin = self.folder.join("bin");
        let path = format!("{}:{}:{}", bin.display(), required("E2E_BIN"), required("PATH"));
        let own =
            format!("kubectl config set-context --current --namespace={}", self.world.namespace);
        let commands = format!("{own} >/dev/null\n{commands}");
        let mut bash = tokio::process::Command::new("bash");
        bash.args(["-e", "-o", "pipefail", "-c", &commands]).current_dir(&self.folder);
        bash.env("PATH", path).env("KUBECONFIG", self.folder.join("kubeconfig")).kill_on_drop(true);
        bash.env("HELM_CACHE_HOME", self.folder.join("helm"));
        bash.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.world.noted(Running::start(bash, None).await).await
    }

    /// The Job's condition once it has ended: `Complete` or `Failed`.
    pub async fn ended(&self, job: &str) -> String {
        let ended = async || {
            let job = self.world.find(&format!("job/{job}")).await?;
            let conditions = job["status"]["conditions"].as_array()?.clone();
            let is = |kind: &Value| kind == "Complete" || kind == "Failed";
            let kinds = conditions.into_iter().map(|condition| condition["type"].clone());
            kinds.filter(is).map(|kind| kind.as_str().unwrap().to_owned()).next()
        };
        self.world.until(job, ended).await
    }
}

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: { name: my-app }
spec:
  selector: { matchLabels: { app: my-app } }
  template:
    metadata: { labels: { app: my-app } }
    spec:
      securityContext: { runAsNonRoot: true, seccompProfile: { type: RuntimeDefault } }
INIT
      containers:
        - name: app
          image: LAB
          env:
            - { name: LAB_VERSION, value: "1" }
            - { name: LAB_FIELD, value: b }
            - name: LAB_MONGODB_URI
              valueFrom: { secretKeyRef: { name: my-app-mongodb, key: uri } }
          securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: [ALL] } }
"#;

/// Makes the chart `my-app` of the lines that the guide shows.
fn write_chart(operator: &Operator) {
    let page = fs::read_to_string(repository("docs/own-app.md")).unwrap();
    let block = |at: usize| {
        let (lines, _) = page.split("```yaml\n").nth(at).unwrap().split_once("```").unwrap();
        lines.to_owned()
    };
    let folder = operator.folder.join("my-app");
    fs::create_dir_all(folder.join("templates")).unwrap();
    let dependency = block(1).replace("../upgrade-gate/charts/upgrade-gate", &chart());
    let chart = format!("apiVersion: v2\nname: my-app\nversion: 0.1.0\n{dependency}");
    fs::write(folder.join("Chart.yaml"), chart).unwrap();
    fs::write(folder.join("values.yaml"), block(2)).unwrap();
    let deployment = DEPLOYMENT.replace("INIT", &block(3));
    let deployment = deployment.replace("LAB\n", &format!("{}\n", required("E2E_LAB_IMAGE")));
    fs::write(folder.join("templates/deployment.yaml"), deployment).unwrap();
}

async fn an_application_is_gated_as_the_guide_shows(world: &World) {
    let operator = Operator::new(world);
    world.secret("my-app-mongodb", "uri", &world.database.uri).await;
    write_chart(&operator);
    // what the guide cannot know: the image that is tested
    let mut values = scenario("1.4.0", "1.4.0=move_field");
    values.as_object_mut().unwrap().remove("mongodb");
    let values = world.file("tested.yaml", &json!({ "gate": values }).to_string());
    let tested =
        |name: &str| commands(name).replace(" --timeout", &format!(" --values {values} --timeout"));
    let update = "helm dependency update my-app\n";
    let refused = operator.run(&format!("{update}{}", tested("helm-upgrade"))).await.failed();
    refused.says("gate.settings.initialise=fresh");
    assert!(world.list("deployments", "").await.is_empty());

    operator.run(&tested("helm-install")).await.ok();
    operator.run("kubectl rollout status deployment/my-app --timeout=2m").await.ok();
    operator.run(&tested("helm-upgrade")).await.ok();
    operator.run(&commands("helm-plan")).await.ok().says("\"exit_code\":0");

    // the next version's image may plan, from today's CronJob
    let today = "kubectl set image cronjob/my-app-gate gate=localhost/today:1";
    let next = commands("helm-plan-next");
    let next =
        next.replace("registry.example.org/my-app-upgrade:1.5.0", &required("E2E_SCENARIO_IMAGE"));
    let planned = operator.run(&format!("{today}\n{next}")).await.ok();
    planned.says("\"exit_code\":0").says("\"mode\":\"plan\"");
}

async fn a_release_beside_datalab_upgrades_it(world: &World) {
    let operator = Operator::new(world);
    fixture::load(&world.database).await;
    let secret = commands("secret").replace(URI, &world.database.uri);
    operator.run(&secret).await.ok();
    let image = world.file("image.yaml", &image("E2E_IMAGE").to_string());
    let install = commands("helm-beside").replace("charts/upgrade-gate", &chart());
    let install = install.replace(" --timeout", &format!(" --values {image} --timeout"));
    // without the word it does nothing
    let without = install.replace("--set settings.fromVersion=0.7.5", "");
    operator.run(&without).await.failed().says("GATE_FROM_VERSION");
    operator.run(&install).await.ok().says("Pin 101 item_id reference(s)");
}

async fn a_job_of_the_chart_is_ended_by_its_label(world: &World) {
    let operator = Operator::new(world);
    // nobody has said what the database is: it fails, and its Job stays to be read
    for release in ["my-app", "another"] {
        world.upgrade(release, &chart(), &datalab(), &[]).await.failed();
    }
    let jobs = async || {
        let jobs = world.list("jobs", "").await.into_iter();
        let of = jobs.map(|job| job["metadata"]["labels"]["app.kubernetes.io/instance"].clone());
        of.collect::<Vec<_>>()
    };
    assert_eq!(jobs().await.len(), 2);
    let closed = operator.run(&commands("why-closed")).await.ok();
    closed.says("my-app-").says("closed (exit 11").says("the database has no recorded version");
    operator.run(&commands("end-the-job")).await.ok();
    assert_eq!(jobs().await, ["another"]);
}

/// A Job without a pod, and one whose container does not start: helm only says that the Job failed.
async fn what_keeps_the_gate_from_starting_is_shown_by_one_command(world: &World) {
    let operator = Operator::new(world);
    let soon = merged(datalab(), json!({ "hooks": { "timeout": "15s" } }));
    let shown = async |values: Value, reason: &str| {
        world.upgrade("my-app", &chart(), &merged(soon.clone(), values), &[]).await.failed();
        operator.run(&commands("why-no-pod")).await.ok().says(reason);
    };
    world.kubectl(&["create", "quota", "none", "--hard=pods=0"]).await;
    shown(json!({}), "exceeded quota").await;
    world.kubectl(&["delete", "quota", "none"]).await;
    let account = json!({ "create": false, "name": "nowhere" });
    let account = json!({ "hooks": { "serviceAccount": account } });
    shown(account, "serviceaccount \"nowhere\" not found").await;
    let image = json!({ "image": { "repository": "127.0.0.1:1/nothing", "pullPolicy": "Always" } });
    shown(image, "Failed to pull image").await;
    // the gate runs again, and says for itself why it is closed
    world.upgrade("my-app", &chart(), &datalab(), &[]).await.failed().says(r#""exit_code":11"#);
}
