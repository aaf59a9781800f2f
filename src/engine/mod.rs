//! Doing what was decided.
//!
//! A version goes one way: `preflight` finds out what each of its steps would do; `apply` does them, in one transaction
//! or in batches through the journal; and the record moves with the last write (`transact`).
//!
//! - `preflight`: what each pending version would do, found without leaving a trace. A plan is nothing else.
//! - `steps`: how each kind of step is done.
//! - `documents`: the documents of a transform on their way: found, looked up, computed, written.
//! - `editors`: where the edits of a transform come from, other than a function of the author's.
//! - `apply`: a version. `work`: the session and the stored record of a run. `transact`: a transaction that moves the
//!   record.
//! - `sweep`: convergent steps of applied versions, once more.
//! - `condition`: checks conditions. `context`: what every part needs. `author`: calls the author's code, and words its
//!   errors. `failing`: errors of upgrades. `background`: work on other threads.

pub(crate) mod apply;
pub(crate) mod author;
pub(crate) mod background;
pub(crate) mod condition;
pub(crate) mod context;
pub(crate) mod documents;
pub(crate) mod editors;
pub(crate) mod failing;
pub(crate) mod preflight;
pub(crate) mod steps;
pub(crate) mod sweep;
pub(crate) mod transact;
pub(crate) mod work;
