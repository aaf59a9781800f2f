//! An application with the gate's chart as a dependency: the chart `tests/e2e/lab` and the server
//! `tests/apps/lab.rs`.

use serde_json::{Value, json};

use super::command::{Output, Running, repository};
use super::gate::{image, merged, scenario};
use super::support::folder::copy;
use super::world::World;

/// Values of the lab's release 0.7.0, whose documents have the field `a`; its gate has no upgrade.
pub fn old() -> Value {
    lab("0.7.0", "a", "0.7.0", "")
}

/// Values of the lab's release 0.8.0, whose documents have the field `b`; its gate has the upgrade.
pub fn new() -> Value {
    lab("0.8.0", "b", "0.8.0", "0.8.0=move_field")
}

/// Values of the lab with a gate for this code and these upgrades.
pub fn lab(version: &str, field: &str, code: &str, upgrades: &str) -> Value {
    let lab = json!({ "version": version, "field": field, "gate": scenario(code, upgrades) });
    merged(lab, image("E2E_LAB_IMAGE"))
}

impl World {
    /// Installs the lab's release 0.7.0, and waits until it serves.
    pub async fn install_lab(&self) {
        self.upgrade_lab(&old(), &["--wait"]).await.ok();
        self.serves("0.7.0").await;
    }

    /// `helm upgrade --install lab` with these values and more arguments.
    pub async fn upgrade_lab(&self, values: &Value, arguments: &[&str]) -> Output {
        self.noted(self.start_lab(values, arguments).await).await
    }

    /// The same, left running.
    pub async fn start_lab(&self, values: &Value, arguments: &[&str]) -> Running {
        let chart = self.lab_chart().await;
        self.start_upgrade("lab", &chart, values, arguments).await
    }

    /// The lab's chart with its dependency built, away from the repository, which stays clean.
    pub async fn lab_chart(&self) -> String {
        let chart = self.folder("tests/e2e/lab");
        let path = chart.display().to_string();
        if !chart.exists() {
            copy(&repository("tests/e2e/lab"), &chart);
            let gate = "charts/upgrade-gate";
            copy(&repository(gate), &self.folder(gate));
            self.helm(&["dependency", "build", &path]).await.ok();
        }
        path
    }

    /// An address for a MongoDB of the release's own: not every cluster of the tests has names.
    pub async fn free_address(&self) -> Value {
        self.kubectl(&["create", "service", "clusterip", "probe", "--tcp=27017"]).await;
        let address = self.object("service/probe").await["spec"]["clusterIP"].clone();
        self.kubectl(&["delete", "service", "probe"]).await;
        address
    }

    /// Waits until the lab answers with this version.
    pub async fn serves(&self, version: &str) {
        let ask = async || self.fetch("lab").await.filter(|answer| answer == version);
        self.until(&format!("the lab to serve {version}"), ask).await;
    }
}
