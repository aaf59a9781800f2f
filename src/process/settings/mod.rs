//! The settings: read from the environment once, checked together, and typed.
//!
//! - `choices`: what can be chosen. `table`: each setting with its default and its help, in one table. `read`: what was
//!   chosen. `value`: texts to values.
//! - `uri`, `uri_options`, `file`: the connection string, its options, and the file that may hold it.
//! - `names`: how the deployment calls the settings. `help`: the command line and `--help`.

mod choices;
mod file;
mod help;
mod names;
mod read;
mod table;
mod uri;
mod uri_options;
mod value;

pub use choices::*;
pub(crate) use help::help;
pub use help::{Arguments, arguments};

pub(crate) use names::SettingNames;
pub(crate) use read::Unread;
#[cfg(test)]
pub(crate) use table::markdown_table;
pub(crate) use table::slip_of;
#[cfg(feature = "files")]
pub(crate) use table::{UPGRADES, UPGRADES_DIRECTORY};
pub use uri::Origin;
#[cfg(test)]
pub(crate) use uri_options::markdown_uri_options;
#[cfg(feature = "files")]
pub(crate) use value::parse_duration;
#[cfg(feature = "kubernetes")]
pub use value::{WorkloadKind, WorkloadName};
