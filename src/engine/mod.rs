//! Doing what was decided.
//!
//! A version goes one way: its documents are found and looked up (`find`, `look_up`), what becomes of them is
//! computed (`compute`) and written (`write`), and the record moves with the last write (`transact`).
//!
//! - `preflight`: what each pending version would do, found without leaving a trace; a plan is nothing else. `estimate`:
//!   what it finds. `scan`: a transform computed and thrown away. `chain`, `unstored`, `descendants`: documents that
//!   only an earlier step, or the step itself, would make. `absent`: collections that are not there.
//! - `apply`: a version, in one transaction or through the journal. `transact`: a transaction that moves the record.
//!   `step`: one step inside it. `lifetime`: how long the server lets one live.
//! - `reader`: reads a transform's documents, the next ones while the last are worked on. `edited`: what becomes
//!   of them. `added`: what they add. `converge`: whether the output of a convergent transform stays as it is.
//!   `author`: what is said when the author's code refuses. `background`: work on other threads.
//! - `large`: arrays that are too large for one guarded update.
//! - `seed`, `command`, `condition`: seeds, commands and conditions on a server.
//! - `context`: what every part needs. `actions`: what steps report. `failing`: why an upgrade failed.

pub(crate) mod absent;
pub(crate) mod actions;
pub(crate) mod added;
pub(crate) mod apply;
pub(crate) mod author;
pub(crate) mod background;
pub(crate) mod chain;
pub(crate) mod command;
pub(crate) mod compute;
pub(crate) mod condition;
pub(crate) mod context;
pub(crate) mod converge;
pub(crate) mod descendants;
pub(crate) mod edited;
pub(crate) mod estimate;
pub(crate) mod failing;
pub(crate) mod find;
pub(crate) mod large;
pub(crate) mod lifetime;
pub(crate) mod look_up;
pub(crate) mod preflight;
pub(crate) mod reader;
pub(crate) mod scan;
pub(crate) mod seed;
pub(crate) mod step;
pub(crate) mod transact;
pub(crate) mod unstored;
pub(crate) mod write;
