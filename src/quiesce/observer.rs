//! The interface of those who are notified, besides log and report, of a run's progress: Kubernetes, or an
//! application's own observer.

use std::fmt;

use derive_more::Display;
use futures_util::future::BoxFuture;

/// Is told how a run goes.
pub trait Observer: fmt::Debug + Send + Sync {
    /// Takes note, without waiting for anything.
    fn tell(&self, notice: Notice);

    /// Waits briefly until all notices are delivered; the last call of a run.
    fn finish(&self) -> BoxFuture<'_, ()>;
}

/// What an observer is told. Like all texts of a run, it holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Notice {
    /// What happened, in a word.
    pub reason: Occasion,
    /// Whether somebody should look at it.
    pub tone: Tone,
    /// What happened, in a sentence.
    pub note: String,
}

/// What an observer is told of.
#[derive(Clone, Copy, Debug, Display, PartialEq, Eq)]
#[non_exhaustive]
pub enum Occasion {
    /// Pending upgrades are about to be applied.
    UpgradeStarted,
    /// A version is applied.
    UpgradeApplied,
    /// Upgrades were begun and are not all applied.
    UpgradeFailed,
    /// The run ended, and the application may start.
    GateOpen,
    /// The run ended, and the application may not start.
    GateClosed,
    /// Workloads were stopped.
    Quiesced,
    /// Workloads were given back.
    Resumed,
}

/// How a notice is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tone {
    /// All is well.
    Normal,
    /// Somebody should look at it.
    Warning,
}
