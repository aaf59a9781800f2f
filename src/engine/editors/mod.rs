//! Editors of transforms that are asked about a batch at a time, other than functions in the gate itself.
//!
//! - `editor`: what each of them is, and what it is asked. `open`: those that are open.
//! - `pipeline`: the server evaluates a pipeline. `program`: a program of the author's.

pub(crate) mod editor;
pub(crate) mod open;
mod pipeline;
mod program;
