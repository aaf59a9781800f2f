//! What upgrades are written with. Nothing here knows a server.
//!
//! - `upgrade`: an upgrade, its steps, and the table that registers them.
//! - `command`, `seed`, `condition`: one kind of step, or of condition, each.
//! - `edit`: what a transform does to one document. `lookup`: what it looks up for it.
//! - `handle`: what the code of a transaction step may do.
//! - `naming`: names that nothing can have, and steps that need what an earlier one took away.
//! - `derived`: ids that are the same at every run.

pub(crate) mod command;
pub(crate) mod condition;
pub(crate) mod derived;
pub(crate) mod edit;
pub(crate) mod handle;
pub(crate) mod lookup;
pub(crate) mod naming;
pub(crate) mod seed;
pub(crate) mod upgrade;
