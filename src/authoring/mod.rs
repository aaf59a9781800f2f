//! What upgrades are written with.
//!
//! - `table`: the upgrades of an application, by version. `upgrade`: one of them. `step`: one of its steps; `step_kind`:
//!   what every kind of step says of itself.
//! - `transform`, `update`, `program`, `copy`, `delete`, `seed`, `transaction`, `command`: one kind of step each.
//!   `condition`: what must hold before.
//! - `editor`: where a transform's edits come from. `edit`: what it does to one document. `lookup`: what it looks up
//!   for it.
//! - `pipeline`: what the server evaluates of one document. `pipeline_mistakes`: what it must not hold.
//! - `handle`: what the code of a transaction step may do.
//! - `collections`: which collections a step needs and leaves. `step_error`: why a step refused.
//! - `naming`: names that nothing can have. `derived`: ids that are the same at every run.

pub(crate) mod collections;
pub(crate) mod command;
pub(crate) mod condition;
pub(crate) mod copy;
pub(crate) mod delete;
pub(crate) mod derived;
pub(crate) mod edit;
pub(crate) mod editor;
pub(crate) mod handle;
pub(crate) mod lookup;
pub(crate) mod naming;
pub(crate) mod pipeline;
pub(crate) mod pipeline_mistakes;
pub(crate) mod program;
pub(crate) mod seed;
pub(crate) mod step;
pub(crate) mod step_error;
pub(crate) mod step_kind;
pub(crate) mod table;
pub(crate) mod transaction;
pub(crate) mod transform;
pub(crate) mod update;
pub(crate) mod upgrade;
