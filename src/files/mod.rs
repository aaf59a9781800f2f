//! Upgrades from files, for applications in any language: a directory of YAML or JSON becomes a
//! [`Gate`](crate::Gate), with all that the engine promises.
//!
//! [`read`](fn@read) reads a directory, and says everything that is wrong with it, without a server.
//!
//! - `read`: a directory becomes a gate. `directory`: its files and their names. `gate_file`, `upgrade_file`,
//!   `condition`, `steps`, `lookup`: what they say.
//! - `yaml`, `scalar`, `node`: YAML to a tree that knows where everything is. `reader`, `values`: what the tree says. `language`:
//!   what no server would understand in filters and pipelines.
//! - `cases`: the tests of a directory.
//! - `mistakes`: what is wrong, and where.

pub(crate) mod cases;
mod condition;
mod directory;
mod gate_file;
mod language;
mod lookup;
mod mistakes;
mod node;
mod read;
mod reader;
mod scalar;
mod steps;
#[cfg(test)]
mod tests;
mod upgrade_file;
mod values;
mod yaml;

pub(crate) use read::read_with_cases;
pub use read::{Files, read};
