//! What each pending version would do, found without leaving a trace.
//!
//! - `versions`: step after step of all pending versions. `estimate`: what is found out.
//! - `scan`: a transform computed and thrown away. `chain`, `composed`, `unstored`, `descendants`: documents that
//!   only an earlier step, or the step itself, would make. `rehearsal`: steps done in a transaction that is aborted.
//! - `kinds`: what is no ordinary collection. `absent`: collections that are not there. `unindexed`: look-ups that no
//!   index serves.

pub(crate) mod absent;
pub(crate) mod chain;
pub(crate) mod composed;
pub(crate) mod descendants;
pub(crate) mod estimate;
pub(crate) mod kinds;
pub(crate) mod rehearsal;
pub(crate) mod scan;
pub(crate) mod unindexed;
pub(crate) mod unstored;
pub(crate) mod versions;
