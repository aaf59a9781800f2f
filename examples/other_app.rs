//! Another application's whole gate: its name, its version, its table of upgrades.
//!
//! It is that of jobflow-remote, whose queue database keeps the application's version in a document of its own.

use std::process::ExitCode;

use upgrade_gate::bson::{RawBsonRef, RawDocument, RawDocumentBuf, doc};
use upgrade_gate::{
    ActionType, Condition, Edits, Found, Gate, Seed, StepError, Transform, Upgrade,
};

/// The release that this binary belongs to.
const CODE_VERSION: &str = "1.0.1";

/// Where jobflow-remote keeps everything that is neither a job nor a flow, including its version.
const AUXILIARY: &str = "jf_auxiliary";

/// The `_id` of the document of the running runner.
const RUNNER: &str = "running_runner";

fn main() -> ExitCode {
    gate().main()
}

/// The gate of jobflow-remote, with the database upgrades of its releases.
pub fn gate() -> Gate {
    Gate::new("jobflow_remote", CODE_VERSION)
        .stamp(AUXILIARY, "jobflow_remote_version")
        .upgrades([remember_the_runner(), run_finished()])
}

/// There must be one document that says which runner runs. jobflow-remote finds it by its field, whatever its
/// `_id`: one that is there gets the `_id` by which the seed knows it.
fn remember_the_runner() -> Upgrade {
    Upgrade::new("0.1.5", "remember whether a runner runs")
        .step(
            Transform::new(AUXILIARY, rename_runner)
                .named("name the running runner")
                .filter(doc! { RUNNER: { "$exists": true }, "_id": { "$ne": RUNNER } })
                .inserts_into(AUXILIARY)
                .deletes()
                .action(ActionType::Update, "named", "Name {n} document(s) of a running runner")
                .convergent(),
        )
        .step(
            Seed::new(AUXILIARY, [doc! { "_id": RUNNER, RUNNER: null }])
                .report("Add {n} document(s) of the running runner"),
        )
}

fn rename_runner(runner: &RawDocument, _: &Found, edits: &mut Edits) -> Result<(), StepError> {
    let mut renamed = RawDocumentBuf::try_from(&doc! { "_id": RUNNER })?;
    for field in runner {
        let (name, value) = field?;
        if name != "_id" {
            renamed.append(name, value);
        }
    }
    edits.delete();
    edits.insert(AUXILIARY, renamed);
    edits.count("named", 1);
    Ok(())
}

/// A job that has run is `RUN_FINISHED`, and batches have a collection of their own. What workers with batches
/// have on their disks is not in the database: `jf` moves those folders.
fn run_finished() -> Upgrade {
    let batches = doc! { "$objectToArray": { "$ifNull": ["$batch_processes", {}] } };
    let processes = doc! { "$size": { "$objectToArray": "$$this.v" } };
    let running = doc! { "$sum": { "$map": { "input": batches, "in": processes } } };
    Upgrade::new("1.0.0", "call jobs that have run RUN_FINISHED, and forget the batches of old")
        .condition(
            Condition::no_document(
                AUXILIARY,
                doc! { "$expr": { "$gt": [running, 0] } },
                "no batch process of the old kind is left",
            )
            .skippable(),
        )
        .condition(Condition::no_document(
            "batches",
            doc! { "batch_state": { "$in": ["SUBMITTED", "RUNNING"] } },
            "no batch is submitted or running",
        ))
        .step(
            Transform::new("jobs", run_finished_job)
                .filter(
                    doc! { "$or": [{ "state": "TERMINATED" }, { "previous_state": "TERMINATED" }] },
                )
                .fields(["state", "previous_state"])
                .action(
                    ActionType::Update,
                    "states",
                    "Rename {n} state(s) TERMINATED to RUN_FINISHED",
                )
                .action(ActionType::Update, "previous", "Rename {n} previous state(s) the same way")
                .convergent(),
        )
        .step(
            Transform::new(AUXILIARY, forget)
                .named("forget the batches of old")
                .filter(doc! { "batch_processes": { "$exists": true } })
                .deletes()
                .action(
                    ActionType::Delete,
                    "forgotten",
                    "Delete {n} document(s) of batches of the old kind",
                )
                .convergent(),
        )
}

fn run_finished_job(job: &RawDocument, _: &Found, edits: &mut Edits) -> Result<(), StepError> {
    for (field, counter) in [("state", "states"), ("previous_state", "previous")] {
        if let Some(RawBsonRef::String("TERMINATED")) = job.get(field)? {
            edits.set(field, "RUN_FINISHED");
            edits.count(counter, 1);
        }
    }
    Ok(())
}

fn forget(_: &RawDocument, _: &Found, edits: &mut Edits) -> Result<(), StepError> {
    edits.delete();
    edits.count("forgotten", 1);
    Ok(())
}
