//! Kinds of steps, as files write them. A kind is one file; to add one, add its file, and its line in `kinds`.
//!
//! - `kinds`: the kinds, and how a step is told to be of one. `kind`: what each of them has.
//! - `update`: a pipeline that the server evaluates, or a `program`. `copy`: documents that it makes of
//!   others. `delete`: documents that go. `seed`: documents that must be there. `create_index`, `drop_index`, `validator`, `rename`, `drop`: commands.

mod copy;
mod create_index;
mod delete;
mod drop;
mod drop_index;
mod kind;
pub(crate) mod kinds;
mod program;
mod rename;
mod seed;
mod update;
mod validator;
