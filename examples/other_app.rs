//! Another application's whole gate: its name, its version, its table of upgrades.

use std::process::ExitCode;

use upgrade_gate::bson::{doc, rawdoc};
use upgrade_gate::{ActionType, Gate, Handle, StepError, Transaction, Upgrade, UpgradeAction};

/// The release that this binary belongs to.
const CODE_VERSION: &str = "0.1.5";

fn main() -> ExitCode {
    gate().main()
}

/// The gate of `jobflow-remote`, as its own upgrades of its database would be registered here.
pub fn gate() -> Gate {
    Gate::new("jobflow_remote", CODE_VERSION).record("jf_auxiliary", "database_version").upgrades([
        Upgrade::new("0.1.5", "remember whether a runner runs").step(Transaction::new(
            "running_runner",
            ["auxiliary"],
            |handle| Box::pin(running_runner(handle)),
        )),
    ])
}

/// The document that holds the lock of the runner, where there is none yet.
async fn running_runner(handle: &mut Handle<'_>) -> Result<Vec<UpgradeAction>, StepError> {
    let there = doc! { "running_runner": { "$exists": true } };
    if handle.find_one("auxiliary", there).await?.is_some() {
        return Ok(vec![]);
    }
    let runner = rawdoc! { "_id": "running_runner", "running_runner": null };
    handle.insert("auxiliary", vec![runner]).await?;
    Ok(vec![
        UpgradeAction::new(
            ActionType::Insert,
            "auxiliary",
            "Insert the document of the running runner",
        )
        .detail("inserted", 1),
    ])
}
