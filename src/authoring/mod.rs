//! What upgrades are written with. Nothing here knows a server.
//!
//! - `table`: the upgrades of an application, by version. `upgrade`: one of them. `step`: one of its steps.
//! - `transform`, `seed`, `transaction`, `command`: one kind of step each. `condition`: what must hold before.
//! - `edit`: what a transform does to one document. `lookup`: what it looks up for it.
//! - `handle`: what the code of a transaction step may do.
//! - `action`: what is reported of a step. `step_error`: why one refused.
//! - `naming`: names that nothing can have. `derived`: ids that are the same at every run.

pub(crate) mod action;
pub(crate) mod command;
pub(crate) mod condition;
pub(crate) mod derived;
pub(crate) mod edit;
pub(crate) mod handle;
pub(crate) mod lookup;
pub(crate) mod naming;
pub(crate) mod seed;
pub(crate) mod step;
pub(crate) mod step_error;
pub(crate) mod table;
pub(crate) mod transaction;
pub(crate) mod transform;
pub(crate) mod upgrade;
