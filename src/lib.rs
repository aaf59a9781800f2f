//! Decides whether an application may start on its MongoDB database, and brings the database up to date
//! first when told to.

#![warn(missing_docs)]

mod checkpoint;
mod decision;
mod edit;
mod engine;
mod exit;
mod failure;
mod gate;
mod handle;
pub mod harness;
mod lock;
mod log;
mod lookup;
mod process;
mod progress;
mod record;
mod report;
mod run;
mod server;
mod settings;
mod stop;
mod store;
mod upgrade;
mod version;

pub use edit::Edits;
pub use exit::Outcome;
pub use failure::Failure;
pub use gate::Gate;
pub use handle::Handle;
pub use lookup::{Found, Keys, Lookup};
pub use mongodb;
pub use mongodb::bson;
pub use report::{Report, Unfinished, UpgradeReport, UpgradeState};
pub use settings::{Settings, markdown_table};
pub use upgrade::{
    ActionType, Command, Condition, Step, StepError, TableError, Transaction, Transform, Unit,
    Upgrade, UpgradeAction, Upgrades,
};
pub use version::{Version, VersionError};
