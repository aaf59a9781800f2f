//! The decision: a pure function from what was read and what the operator said to what is to be done.

pub(crate) mod decide;
