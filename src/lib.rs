#![doc = include_str!("../README.md")]
//!
//! # The code, room by room
//!
//! Each folder is a room, and opens with a map of what is in it. A room knows only those below it in this list:
//!
//! - `program`: a run as a process: arguments, environment, and the one place where it ends.
//! - [`harness`] kills runs, for tests of upgrades.
//! - `files`: the front end that reads upgrades from YAML and JSON.
//! - `gate`: what an application says of itself, and a run from its beginning to its end.
//! - `modes`: what each mode does.
//! - `engine`: applies upgrades, or finds out without a trace what each would do.
//! - `decision`: the pure function from what was read and what the operator said to what is to be done.
//! - `record`: what is stored: record, journal, history, lock.
//! - `authoring`: what upgrades are written with.
//! - `quiesce`: stops old code while its data changes. All that knows Kubernetes is in it.
//! - `server`: the connection, and what a server's answers mean.
//! - `process`: settings, log, report, exit codes.
//! - `version`: versions and their order. `visible`: text of others, made safe to print.

mod authoring;
mod decision;
mod engine;
#[cfg(feature = "files")]
pub mod files;
mod gate;
pub mod harness;
mod modes;
#[cfg(test)]
mod pages;
mod process;
mod program;
mod quiesce;
mod record;
mod server;
mod version;
mod visible;

pub use authoring::command::{Command, CreateIndex};
pub use authoring::condition::Condition;
pub use authoring::copy::Copy;
pub use authoring::delete::Delete;
pub use authoring::derived::derived_object_id;
pub use authoring::edit::Edits;
pub use authoring::handle::{Find, Handle};
pub use authoring::lookup::{Found, Keys, Lookup};
pub use authoring::program::Program;
pub use authoring::seed::Seed;
pub use authoring::step::Step;
pub use authoring::step_error::StepError;
pub use authoring::transaction::Transaction;
pub use authoring::transform::Transform;
pub use authoring::update::Update;
pub use authoring::upgrade::Upgrade;
pub use futures_util::future::BoxFuture;
pub use gate::Gate;
pub use mongodb;
pub use mongodb::bson;
pub use process::action::{ActionType, UpgradeAction};
pub use process::exit::Outcome;
pub use process::failure::Failure;
pub use process::mistake::{Mistake, MistakeLevel};
pub use process::report::{
    NotSwept, Report, Unfinished, UpgradeReport, UpgradeState, WorkloadReport, WorkloadState,
};
pub use process::settings::Settings;
#[cfg(feature = "files")]
pub use program::run_files;
pub use quiesce::observer::{Notice, Observer, Occasion, Tone};
pub use quiesce::workloads::{Scaled, Workload, Workloads};
pub use version::{Version, VersionError};
