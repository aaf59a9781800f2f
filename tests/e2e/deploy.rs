//! The manifests without Helm, with the guide's own commands.

use mongodb::bson::doc;
use serde_json::json;

use super::command::{repository, required};
use super::guide::Operator;
use super::runner::{FOUR, Scenario, scenario};
use super::support::folder::copy;
use super::support::guide::{URI, commands};
use super::support::{Fresh, fixture};
use super::world::{World, report};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(FOUR, manifests_without_helm_upgrade_before_the_application_starts),
        scenario!(FOUR, manifests_with_quiesce_stop_the_pods_and_bring_them_back),
        scenario!(FOUR, manifests_name_the_missing_secret),
    ]
}

/// What the guide says to change in a copy of `deploy/`: images, and the application.
const CHANGES: &str = r#"
images:
  - { name: ghcr.io/datalab-org/datalab-upgrade, newName: GATE, newTag: "GATE_TAG" }
  - { name: datalab, newName: LAB, newTag: "LAB_TAG" }
replacements:
  - source: { kind: Job, name: upgrade-gate, fieldPath: "spec.template.spec.containers.[name=gate].image",
      options: { delimiter: ":", index: 1 } }
    targets:
      - { select: { kind: Job, name: upgrade-gate }, fieldPaths: [metadata.name],
          options: { delimiter: "-", index: 2 } }
patches:
  - target: { kind: Deployment }
    patch: |
      - { op: add, path: /spec/template/spec/containers/0/env/-, value: { name: LAB_VERSION, value: "0.8.0" } }
      - { op: add, path: /spec/template/spec/containers/0/env/-, value: { name: LAB_FIELD, value: b } }
      - { op: add, path: /spec/template/spec/containers/0/env/-, value: { name: LAB_MONGODB_URI,
          valueFrom: { secretKeyRef: { name: datalab-mongodb, key: uri } } } }
"#;

impl Operator<'_> {
    /// One who has made these changes in a copy of `deploy/`.
    fn with_manifests(world: &World) -> Operator<'_> {
        let operator = Operator::new(world);
        copy(&repository("deploy"), &operator.folder.join("deploy"));
        let mut changes = CHANGES.to_owned();
        for (setting, name) in [("E2E_IMAGE", "GATE"), ("E2E_LAB_IMAGE", "LAB")] {
            let image = required(setting);
            let (repository, tag) = image.rsplit_once(':').unwrap();
            changes = changes.replace(&format!("{name}_TAG"), tag);
            changes =
                changes.replace(&format!("newName: {name}"), &format!("newName: {repository}"));
        }
        operator.edit("deploy/kubernetes/kustomization.yaml", |text| {
            format!("{}{changes}", text.split("# One version").next().unwrap())
        });
        operator
    }

    /// The Job's name, which has the image's tag in it.
    fn job() -> String {
        format!("upgrade-gate-{}", required("E2E_IMAGE").rsplit_once(':').unwrap().1)
    }

    /// Commands of the guide, whose tag is that of an example.
    fn commands(&self, name: &str) -> String {
        commands(name).replace("upgrade-gate-0.8.0", &Self::job())
    }

    fn edit(&self, file: &str, edit: impl Fn(&str) -> String) {
        let path = self.folder.join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        let edited = edit(&text);
        assert_ne!(edited, text, "{file}");
        std::fs::write(path, edited).unwrap();
    }
}

async fn recorded(database: &Fresh) -> Option<String> {
    let records = database.collection::<mongodb::bson::Document>("database_metadata");
    let record = records.find_one(doc! { "_id": "datalab_schema_version" }).await.unwrap()?;
    Some(record.get_str("version").unwrap().to_owned())
}

async fn manifests_without_helm_upgrade_before_the_application_starts(world: &World) {
    let operator = Operator::with_manifests(world);
    fixture::load(&world.database).await;
    let secret = commands("secret").replace(URI, &world.database.uri);
    operator.run(&secret).await.ok();

    // nobody has said what the database is: the application waits
    operator.run(&operator.commands("manifests-apply")).await.ok();
    assert_eq!(operator.ended(&Operator::job()).await, "Failed");
    assert_eq!(world.pods_of(&Operator::job()).await.len(), 1);
    operator.run(&operator.commands("manifests-log")).await.ok().says("GATE_FROM_VERSION");
    let waits = async || {
        let pods = world.pods("app.kubernetes.io/name=datalab").await;
        let status = &pods.first()?["status"];
        status["initContainerStatuses"][0]["state"]["running"].as_object()?;
        Some(status["containerStatuses"][0].clone())
    };
    let app = world.until("the application's pod to wait in its init container", waits).await;
    assert_eq!(app["started"], false, "{app}");
    assert_eq!((&app["restartCount"], app.get("containerID")), (&json!(0), None), "{app}");
    assert_eq!(recorded(&world.database).await, None);

    let word = |text: &str| {
        text.replace("# - name: GATE_FROM_VERSION", "- name: GATE_FROM_VERSION")
            .replace("#   value: 0.7.5", "  value: 0.7.5")
    };
    operator.edit("deploy/kubernetes/gate/job.yaml", word);
    let plan = commands("manifests-plan");
    // without deleting the Job first, its environment cannot be changed; all else is
    let applied = operator.run("kubectl apply -k deploy/kubernetes").await.failed();
    applied.says("The Job \"upgrade-gate-").says("field is immutable");
    operator.run(&plan).await.ok().says("Pin 101 item_id reference(s)").says("\"exit_code\":10");
    assert_eq!(recorded(&world.database).await, None);

    operator.run(&operator.commands("manifests-again")).await.ok();
    operator.run(&commands("manifests-rollout")).await.ok();
    assert_eq!(operator.ended(&Operator::job()).await, "Complete");
    assert_eq!(recorded(&world.database).await.as_deref(), Some("0.8.0"));
    operator.run(&operator.commands("manifests-log")).await.ok().says("gate open");

    // the next time there is nothing to do, and pods that were stopped come back
    operator.run(&commands("stop-the-app")).await.ok();
    operator.run(&operator.commands("manifests-again")).await.ok();
    operator.run(&commands("manifests-rollout")).await.ok();
    assert_eq!(operator.ended(&Operator::job()).await, "Complete");
    operator.run(&plan).await.ok().says("\"exit_code\":0");

    // another image may plan, from the same CronJob
    let image = required("E2E_IMAGE");
    let next = commands("manifests-plan-next");
    let next = next.replace("ghcr.io/datalab-org/datalab-upgrade:0.9.0", &image);
    let today = "kubectl set image cronjob/upgrade-gate gate=localhost/today:1";
    operator.run(&format!("{today}\n{next}")).await.ok();
    assert_eq!(operator.ended("plan-next").await, "Complete");
    let pods = world.pods_of("plan-next").await;
    assert_eq!(report(&pods[0])["mode"], "plan", "{pods:?}");

    // another tag is another Job: it is applied with the first one still there
    let next = required("E2E_SCENARIO_IMAGE");
    let (repository, tag) = next.rsplit_once(':').unwrap();
    operator.edit("deploy/kubernetes/kustomization.yaml", |text| {
        let (before, tagged) = image.rsplit_once(':').unwrap();
        let text = text.replace(&format!("newName: {before}"), &format!("newName: {repository}"));
        let text = text.replace(&format!("newTag: \"{tagged}\""), &format!("newTag: \"{tag}\""));
        text.replace("patches:\n", NEXT_CODE)
    });
    operator.run(&operator.commands("manifests-apply")).await.ok();
    assert_eq!(operator.ended(&format!("upgrade-gate-{tag}")).await, "Complete");
    assert_eq!(operator.ended(&Operator::job()).await, "Complete");
}

/// The image of another release has to be told which one it is.
const NEXT_CODE: &str = r#"patches:
  - target: { kind: Job }
    patch: |
      - { op: add, path: /spec/template/spec/containers/0/env/-, value: { name: SCENARIO_CODE, value: "0.9.0" } }
"#;

async fn manifests_with_quiesce_stop_the_pods_and_bring_them_back(world: &World) {
    let operator = Operator::with_manifests(world);
    fixture::load(&world.database).await;
    let secret = commands("secret").replace(URI, &world.database.uri);
    operator.run(&secret).await.ok();
    operator.edit("deploy/kubernetes/kustomization.yaml", |text| {
        format!("{text}components: [quiesce]\n")
    });
    operator.edit("deploy/kubernetes/gate/job.yaml", |text| {
        text.replace("# - name: GATE_FROM_VERSION", "- name: GATE_FROM_VERSION")
            .replace("#   value: 0.7.5", "  value: 0.7.5")
    });
    // the pods that wait in their init containers are those of the same release
    operator.run(&operator.commands("manifests-apply")).await.ok();
    assert_eq!(operator.ended(&Operator::job()).await, "Complete");
    let pods = world.pods_of(&Operator::job()).await;
    let report = report(pods.last().unwrap());
    assert_eq!(report["workloads"][0]["state"], "resumed", "{report}");
    operator.run(&commands("manifests-rollout")).await.ok();
    assert_eq!(recorded(&world.database).await.as_deref(), Some("0.8.0"));
    let described = world.kubectl(&["describe", "job", &Operator::job()]).await;
    for reason in ["Quiesced", "UpgradeApplied", "Resumed", "GateOpen"] {
        assert!(described.contains(reason), "{reason} is missing in {described}");
    }
}

async fn manifests_name_the_missing_secret(world: &World) {
    let operator = Operator::with_manifests(world);
    operator.run(&operator.commands("manifests-apply")).await.ok();
    assert_eq!(operator.ended(&Operator::job()).await, "Failed");
    let pods = world.pods_of(&Operator::job()).await;
    let report = report(&pods[0]);
    assert_eq!((pods.len(), &report["exit_code"]), (4, &json!(20)), "{report}");
    assert!(report.to_string().contains("key uri of Secret datalab-mongodb"), "{report}");
}
