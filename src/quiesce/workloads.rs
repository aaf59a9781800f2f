//! The seam to what runs the application's old code: it can be stopped while upgrades are applied, and
//! given back. Kubernetes is one such thing; an application may plug in its own.

use std::fmt;

use futures_util::future::BoxFuture;

use crate::process::failure::Failure;

/// What runs the application's old code, and how it is stopped and started.
///
/// The run decides when to stop and start them, and stores their replica counts in the database. Each call must return
/// within seconds, even if nothing answers, and may be cancelled at any point.
///
/// # Errors
///
/// [`Outcome::NoServer`](crate::Outcome::NoServer) where asking again may help,
/// [`Outcome::NotAuthorised`](crate::Outcome::NotAuthorised) where a permission is missing,
/// [`Outcome::SettingWrong`](crate::Outcome::SettingWrong) for a workload that cannot be stopped.
pub trait Workloads: fmt::Debug + Send + Sync {
    /// The namespace of the workloads; with a workload's UID it tells it from all others.
    fn namespace(&self) -> &str;

    /// The workloads to stop, as their users call them.
    fn names(&self) -> Vec<String>;

    /// Makes sure that all the rest can be done, and changes nothing: before the lock is taken.
    fn check(&self) -> BoxFuture<'_, Result<(), Failure>>;

    /// What [`check`](Self::check) found that somebody should know before the upgrade, and that is no reason to
    /// refuse it.
    fn warnings(&self) -> Vec<String> {
        vec![]
    }

    /// A workload as it is now; `None` if there is none of that name.
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Workload>, Failure>>;

    /// Sets the number of a workload, unless it changed since it was read.
    fn scale<'a>(
        &'a self,
        workload: &'a Workload,
        replicas: u32,
    ) -> BoxFuture<'a, Result<Scaled, Failure>>;

    /// The command that sets a workload's number by hand.
    fn by_hand(&self, name: &str, replicas: u32) -> String;
}

/// A workload as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Workload {
    /// What its users call it.
    pub name: String,
    /// What tells it from another one of that name.
    pub uid: String,
    /// Changes with every change of the workload.
    pub revision: String,
    /// How many pods it is to have.
    pub replicas: u32,
    /// The pods that it has and that are not over, by name.
    pub pods: Vec<String>,
    /// How many of them are ready.
    pub ready: u32,
    /// The command that frees it, where its pods do not stop by themselves.
    pub freed_by: Option<String>,
}

impl Workload {
    /// A workload that has no pods and is to have none; its fields say otherwise.
    pub fn new(
        name: impl Into<String>,
        uid: impl Into<String>,
        revision: impl Into<String>,
    ) -> Self {
        Workload {
            name: name.into(),
            uid: uid.into(),
            revision: revision.into(),
            replicas: 0,
            pods: vec![],
            ready: 0,
            freed_by: None,
        }
    }
}

/// How setting a number ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scaled {
    /// It is set.
    Done,
    /// The workload changed since it was read: nothing was changed.
    Changed,
}
