#![doc = include_str!("../README.md")]
//!
//! # The code, file by file
//!
//! Dependencies point downwards in this list; the decision knows no I/O, the engine knows no datalab.
//!
//! - `process`: arguments, environment, log, report and exit status around a run.
//! - `gate`: what an application says of itself. `run`: the modes; `run/upgrade` holds the lock and acts,
//!   `run/prepare` makes sure before anything is written, `run/repair` is mode `record`,
//!   `run/quiesce` stops old code and gives it back.
//! - `kubernetes`: the only folder that knows it. `workloads` and `observer` are the seams that it fills.
//! - `decision`: the pure function from what was read and what the operator said to what is to be done.
//! - `engine`: `look` finds out without a trace what each version would do; `apply` applies a version at
//!   once or through the journal; `transact` commits data and record together, exactly once; `batch`
//!   reads, computes and writes documents; `command` is for what has no transaction.
//! - `record`: the only file that knows the shape of the record. `store`: reads it and moves it. `lock`:
//!   the lease beside it. `remembered`: what was stopped, beside it too. `quiet`: whether it stays so.
//! - `upgrade`, `condition`, `command`, `seed`, `edit`, `lookup`, `handle`: what authors of upgrades write with.
//! - `server`: the connection, what server and user can do, and what errors mean.
//! - `settings`, `log`, `progress`, `report`, `exit`, `failure`, `version`, `stop`, `checkpoint`: one
//!   subject each. [`harness`] kills runs, for tests of upgrades.

mod activity;
mod allocator;
mod blocking;
mod checkpoint;
mod command;
mod compatibility;
mod condition;
mod decision;
mod derived;
mod diagnosis;
mod doubt;
mod edit;
mod engine;
mod exit;
mod failure;
mod gate;
mod handle;
pub mod harness;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod lock;
mod log;
mod lookup;
mod naming;
mod observer;
mod operations;
#[cfg(test)]
mod pages;
mod process;
mod progress;
mod quiet;
mod raw;
mod record;
mod redact;
mod remembered;
mod report;
mod run;
mod seed;
mod server;
mod server_errors;
mod settings;
mod stamp;
mod stamping;
mod stop;
mod store;
mod upgrade;
mod version;
mod visible;
mod workloads;

pub use command::{Command, CreateIndex};
pub use condition::Condition;
pub use derived::derived_object_id;
pub use edit::Edits;
pub use exit::Outcome;
pub use failure::Failure;
pub use gate::Gate;
pub use handle::{Find, Handle};
pub use lookup::{Found, Keys, Lookup};
pub use mongodb;
pub use mongodb::bson;
pub use observer::{Notice, Observer, Occasion, Tone};
pub use report::{Report, Unfinished, UpgradeReport, UpgradeState, WorkloadReport, WorkloadState};
pub use seed::Seed;
pub use settings::Settings;
pub use upgrade::{ActionType, Step, StepError, Transaction, Transform, Upgrade, UpgradeAction};
pub use version::{Version, VersionError};
pub use workloads::{Later, Scaled, Workload, Workloads};
