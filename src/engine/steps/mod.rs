//! How each kind of step is done on a server: one file a kind.
//!
//! - `transform`, `update`, `seed`, `transaction`, `command`: the kinds. `kind`: what each of them does. `lifetime`: how long the
//!   server lets a transaction live.

mod command;
pub(crate) mod kind;
pub(crate) mod lifetime;
mod seed;
mod transaction;
pub(crate) mod transform;
pub(crate) mod update;

use crate::authoring::step::Step;
use crate::engine::steps::kind::StepWork;

/// How a step is done.
pub(crate) fn work_of(step: &Step) -> &dyn StepWork {
    match step {
        Step::Transform(step) => step,
        Step::Update(step) => step,
        Step::Seed(step) => step,
        Step::Transaction(step) => step,
        Step::Command(step) => step,
    }
}
