//! What the steps of a version report.

use crate::authoring::action::{ActionType, UpgradeAction};
use crate::authoring::step::Step;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::{edited, seed};
use crate::record::journal::Done;

/// The actions that a version's steps report, from what each did.
pub(crate) fn actions<'a>(
    upgrade: &VersionUpgrade,
    done: impl IntoIterator<Item = &'a Done>,
) -> Vec<UpgradeAction> {
    upgrade.steps().zip(done).flat_map(|(step, done)| step_actions(step, done)).collect()
}

pub(crate) fn step_actions(step: &Step, done: &Done) -> Vec<UpgradeAction> {
    match step {
        Step::Transform(transform) => counted(transform, done),
        Step::Seed(seed) => {
            let n = done.counts.get(seed::INSERTED).copied().unwrap_or_default();
            let description = seed.describe().replace("{n}", &n.to_string());
            let action = UpgradeAction::new(ActionType::Insert, &*seed.collection, description);
            vec![action.detail(seed::INSERTED, n as i64)]
        }
        Step::Transaction(_) | Step::Command(_) => done.actions.clone(),
    }
}

/// What a transform's counters came to, and what none of them counted.
fn counted(transform: &Transform, done: &Done) -> Vec<UpgradeAction> {
    let count = |name: &str| done.counts.get(name).copied().unwrap_or_default();
    let mut actions: Vec<UpgradeAction> = Vec::new();
    for counter in &transform.counters {
        let n = count(&counter.name);
        actions.push(UpgradeAction {
            description: counter.description.replace("{n}", &n.to_string()),
            collection: transform.collection.clone().into_owned(),
            action_type: counter.action_type,
            details: mongodb::bson::doc! { &*counter.name: n as i64 },
        });
    }
    let further = if actions.is_empty() { "" } else { "further " };
    for (name, verb, action_type, collection) in [
        (edited::CHANGED, "Change", ActionType::Update, transform.collection.to_string()),
        (edited::DELETED, "Delete", ActionType::Delete, transform.collection.to_string()),
        (edited::ADDED, "Add", ActionType::Insert, transform.inserts_into.join(", ")),
    ] {
        let n = count(name);
        if n > 0 {
            actions.push(UpgradeAction {
                description: format!("{verb} {n} {further}document(s)"),
                collection,
                action_type,
                details: mongodb::bson::doc! { "documents": n as i64 },
            });
        }
    }
    actions
}
