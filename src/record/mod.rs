//! What the gate stores in the database, and how it is read and moved.
//!
//! - `document`: the record. `history` and `journal` in it. `names`: its names, which are the application's to set.
//! - `moves`: one atomic change of the record. `repair`: that of mode `record`, of a record with any contents.
//!   `stored`, `raw`: what the bytes of a damaged record say.
//! - `store`: reads the record and moves it from one state to the next. `doubt`: the outcome of a move that
//!   was not answered.
//! - `lock`: the lease in the document next to the record.
//! - `swept`: the entry of mode `sweep`.
//! - `staged`: old values of an edit under way, where one statement cannot hold them.
//! - `remembered`: which workloads were stopped, and how many replicas each had.
//! - `stamp`: the version that an application keeps in a document of its own.
//! - `observed`: all that was read, for the decision. `overview`: all that is stored, for mode `status`.

pub(crate) mod document;
pub(crate) mod doubt;
pub(crate) mod history;
pub(crate) mod journal;
pub(crate) mod lock;
pub(crate) mod moves;
pub(crate) mod names;
pub(crate) mod observed;
pub(crate) mod overview;
pub(crate) mod raw;
pub(crate) mod remembered;
mod repair;
pub(crate) mod staged;
pub(crate) mod stamp;
pub(crate) mod store;
pub(crate) mod stored;
pub(crate) mod swept;
#[cfg(test)]
mod tests;
