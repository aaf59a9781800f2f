//! The decision: a pure function from what was read and what the operator said to what is to be done.
//!
//! - `decide`: the function, and its results. `terms`: what the operator and the code say.
//! - `refusal`: the sentences that explain why the gate is closed.

pub(crate) mod decide;
mod refusal;
pub(crate) mod terms;
