//! The version that an application keeps in a document of its own.
//!
//! - `stamped`: what is stored there. `change`: what a move of the record makes of it. `stamping`: reads and writes it.

pub(crate) mod change;
pub(crate) mod stamped;
pub(crate) mod stamping;
