//! Programs of an author's, which say what documents become (contract of the messages: `Program` in `authoring`).
//!
//! - `editor`: asks a program about batches. `conversation`: the messages between it and the gate. `process`: starts it,
//!   ends it, and leaves no process behind. `output`: what it writes, cut into messages. `messages`: the contents of
//!   messages. `answered`: whether it answers the same input alike. `wrong`: what a program can do wrong, and what to do
//!   then. `noise`: the last lines of its stderr.

pub(crate) mod answered;
mod conversation;
pub(crate) mod editor;
mod messages;
mod noise;
mod output;
mod process;
#[cfg(test)]
mod tests;
mod wrong;
