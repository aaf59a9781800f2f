//! Kubernetes: the only folder that knows it. Nothing of it is made unless a setting asks for it.
//!
//! - `api_server`: what its answers mean; `connection`: how it is reached.
//! - `workloads`: Deployments and StatefulSets, stopped and started; `conflicts`: what somebody changed in
//!   them by hand. `events`: Events of the gate's Job.

pub(crate) mod api_server;
mod conflicts;
mod connection;
pub(crate) mod events;
pub(crate) mod workloads;
