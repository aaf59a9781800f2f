//! What surrounds a run: settings, log, report, exit status.
//!
//! - `settings`: what the operator says.
//! - `exit`: the exit codes; the only file that knows their numbers. `failure`: a closed gate with its reason
//!   and remedy.
//! - `action`: what a step reports. `mistake`: what is wrong in a file of upgrades.
//! - `log`, `progress`, `activity`: what a run says while it works. `report`: what it says at its end; `status`: the
//!   part of it that is mode `status`'s; `text`: the report as people read it.
//! - `allocator`, `blocking`: memory of the process, and calls that may block it.
//! - `checkpoint`: where tests may stop a run.

pub(crate) mod action;
pub(crate) mod activity;
pub(crate) mod allocator;
pub(crate) mod blocking;
pub(crate) mod checkpoint;
pub(crate) mod exit;
pub(crate) mod failure;
pub(crate) mod log;
pub(crate) mod mistake;
pub(crate) mod progress;
pub(crate) mod report;
pub(crate) mod settings;
pub(crate) mod status;
pub(crate) mod text;
