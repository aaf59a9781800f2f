//! The server: how it is reached, what it can do, and what its answers mean.
//!
//! - `connection`: the connection, and what kind of server it is. `privileges`: what its user may do.
//!   `compatibility`: what an old server, or a lower feature compatibility version, lacks.
//! - `answer`: what an answer says. `redact`: what may be shown of its message. `errors`: which exit code,
//!   cause and remedy each error code has. `diagnosis`: why no server is reached.
//! - `retry`: trying again after errors that may pass.
//! - `stop`: what ends a run before its work is done. `operations`: ends what a server is still busy with.

pub(crate) mod answer;
pub(crate) mod compatibility;
pub(crate) mod connection;
pub(crate) mod diagnosis;
pub(crate) mod errors;
pub(crate) mod operations;
pub(crate) mod privileges;
pub(crate) mod redact;
pub(crate) mod retry;
pub(crate) mod stop;
