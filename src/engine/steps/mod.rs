//! How each kind of step is done on a server: one file a kind.
//!
//! - `transform` (programs and deletions too), `update`, `copy`, `seed`, `transaction`, `command`: the kinds. `passes`: over what
//!   the server evaluates. `kind`: what each of them does. `lifetime`: how long the server lets a transaction live.

mod command;
mod copy;
pub(crate) mod kind;
pub(crate) mod lifetime;
mod passes;
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
        Step::Copy(step) => step,
        // these are done as the transforms that they are: one that deletes all that it reads, and one with a program's
        // answers in place of a function's edits
        Step::Delete(step) => &step.transform,
        Step::Program(step) => &step.transform,
        Step::Seed(step) => step,
        Step::Transaction(step) => step,
        Step::Command(step) => step,
    }
}
