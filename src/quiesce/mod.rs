//! Old code: how it is stopped while its data changes, and told of what happens.
//!
//! - `workloads`: what can be stopped, as a trait. `quiesced`: whether it stays stopped.
//! - `observer`: who is told of a run's progress, as a trait.
//! - `kubernetes`: both traits for Kubernetes; the only folder that knows it, behind a cargo feature.

#[cfg(feature = "kubernetes")]
pub(crate) mod kubernetes;
pub(crate) mod observer;
pub(crate) mod quiesced;
pub(crate) mod workloads;
