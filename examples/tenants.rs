//! A gate whose table is built at run time: one collection for each tenant. Its oldest upgrades have been removed,
//! one was described in other words by earlier releases, and one has no steps.

use std::process::ExitCode;

use upgrade_gate::bson::{RawBsonRef, RawDocument, doc};
use upgrade_gate::{ActionType, Edits, Found, Gate, StepError, Transform, Upgrade};

fn main() -> ExitCode {
    let tenants = std::env::var("CLINIC_TENANTS").unwrap_or_default();
    let tenants: Vec<&str> = tenants.split(',').filter(|tenant| !tenant.is_empty()).collect();
    gate(&tenants).main()
}

/// The gate of clinic 3.2.0. Its table once began at 1.0.0; the upgrades up to 2.9.0 have been removed.
pub fn gate(tenants: &[&str]) -> Gate {
    Gate::new("clinic", "3.2.0")
        .oldest("2.9.0")
        .upgrades([count_visits(tenants), write_references()])
}

fn count_visits(tenants: &[&str]) -> Upgrade {
    let upgrade = Upgrade::new("3.0.0", "count the visits of each patient")
        // the description in the releases before 3.1.0
        .formerly("count visits");
    tenants.iter().fold(upgrade, |upgrade, tenant| upgrade.step(count_visits_of(tenant)))
}

fn count_visits_of(tenant: &str) -> Transform {
    Transform::new(format!("patients_{tenant}"), count)
        .filter(doc! { "visit_count": { "$exists": false } })
        .fields(["visits", "visit_count"])
        .action(
            ActionType::Update,
            "counted",
            format!("Count visits of {{n}} patient(s) of {tenant}"),
        )
        .convergent()
}

fn count(patient: &RawDocument, _: &Found, edits: &mut Edits) -> Result<(), StepError> {
    if patient.get("visit_count")?.is_none() {
        let visits = match patient.get("visits")? {
            Some(RawBsonRef::Array(visits)) => visits.into_iter().count(),
            _ => 0,
        };
        edits.set("visit_count", visits as i64);
        edits.count("counted", 1);
    }
    Ok(())
}

/// No document changes, but code before 3.2.0 cannot read what 3.2.0 writes.
fn write_references() -> Upgrade {
    Upgrade::new("3.2.0", "write visits as references")
}
