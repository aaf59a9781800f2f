//! What each mode does.
//!
//! - `run`: one run, what it knows, and the modes that only read: `check`, `wait`, `plan`.
//! - `upgrade`: mode `upgrade`; `prepare` makes sure of everything before its first write, `absent` warns of collections
//!   that are not there, `caught_up` waits until a majority has what was written before. `doubt`: what is said of a
//!   commit that was not answered.
//! - `sweep`: mode `sweep`.
//! - `status`: mode `status`. `repair`: mode `record`. `quiesce`: stopping workloads and giving them back, and mode `resume`.

mod absent;
mod caught_up;
mod doubt;
mod prepare;
mod quiesce;
mod repair;
pub(crate) mod run;
mod status;
mod sweep;
mod upgrade;
