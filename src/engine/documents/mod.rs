//! The documents of a transform on their way: found and looked up (`find`, `look_up`), computed (`compute`), written
//! (`write`).
//!
//! - `reader`: reads batches ahead while others are written. `edited`: what a document is to become. `added`: the
//!   documents that it adds. `converge`: whether the output of a convergent transform stays as it is.
//! - `evaluate`: what the server makes of documents by a pipeline. `unfit`: those for which it cannot.
//! - `collation`: which strings are the same in a collection.
//! - `large`: arrays that are too large for one guarded update. `missing`: documents of a seed that are not there.

pub(crate) mod added;
pub(crate) mod collation;
pub(crate) mod compute;
pub(crate) mod converge;
pub(crate) mod edited;
pub(crate) mod evaluate;
pub(crate) mod find;
pub(crate) mod large;
pub(crate) mod look_up;
pub(crate) mod missing;
pub(crate) mod reader;
pub(crate) mod unfit;
pub(crate) mod write;
