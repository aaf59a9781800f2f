//! What ends a run before its work is done: a signal, a lost lease, or old code that came back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::exit::Outcome;
use crate::failure::Failure;

/// How long an operation that had better be finished may go on after a stop.
pub(crate) const GRACE: Duration = Duration::from_millis(400);

/// Why a run ends early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// SIGTERM or SIGINT.
    Signal,
    /// Another run took over the lock.
    LeaseLost,
    /// Old code that was stopped runs again.
    CameBack(Arc<Failure>),
}

/// Why an operation of the engine did not finish.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The gate is closed for good.
    Failure(Failure),
    /// The driver's own error.
    Driver(mongodb::error::Error),
    /// The run was told to stop.
    Stopped(Reason),
    /// The record is no longer in the state that the work started from.
    RecordMoved,
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Self {
        Halt::Failure(failure)
    }
}

impl From<mongodb::error::Error> for Halt {
    fn from(error: mongodb::error::Error) -> Self {
        Halt::Driver(error)
    }
}

impl From<mongodb::bson::error::Error> for Halt {
    fn from(error: mongodb::bson::error::Error) -> Self {
        Halt::Driver(error.into())
    }
}

/// Told to all parts of a run at once; the first reason stays.
#[derive(Clone, Debug)]
pub(crate) struct Stop(watch::Sender<Option<Reason>>);

impl Stop {
    pub(crate) fn new() -> Self {
        Stop(watch::Sender::new(None))
    }

    pub(crate) fn raise(&self, reason: Reason) {
        self.0.send_if_modified(|raised| {
            let first = raised.is_none();
            raised.get_or_insert(reason);
            first
        });
    }

    pub(crate) fn check(&self) -> Result<(), Halt> {
        match &*self.0.borrow() {
            Some(reason) => Err(Halt::Stopped(reason.clone())),
            None => Ok(()),
        }
    }

    async fn raised(&self) -> Reason {
        let mut receiver = self.0.subscribe();
        loop {
            if let Some(reason) = &*receiver.borrow_and_update() {
                return reason.clone();
            }
            if receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Runs `operation`, giving it up as soon as the run is to stop.
    pub(crate) async fn guard<T, E: Into<Halt>>(
        &self,
        operation: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Halt> {
        tokio::select! {
            biased;
            reason = self.raised() => Err(Halt::Stopped(reason)),
            result = operation => result.map_err(Into::into),
        }
    }

    /// Runs `operation`, giving it up only some time after the run is to stop.
    pub(crate) async fn guard_with_grace<T, E: Into<Halt>>(
        &self,
        operation: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Halt> {
        let late = async {
            let reason = self.raised().await;
            tokio::time::sleep(GRACE).await;
            reason
        };
        tokio::select! {
            biased;
            result = operation => result.map_err(Into::into),
            reason = late => Err(Halt::Stopped(reason)),
        }
    }

    /// Sleeps, or ends early.
    pub(crate) async fn sleep(&self, time: Duration) -> Result<(), Halt> {
        self.guard(async {
            tokio::time::sleep(time).await;
            Ok::<(), Halt>(())
        })
        .await
    }

    /// Raises the stop at the first SIGTERM or SIGINT, also as the first process of a container, where
    /// signals without a handler are ignored.
    pub(crate) fn on_signals(&self) -> Result<(), Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let bug = |error| Failure::bug(format!("cannot listen for signals: {error}"));
        let mut terminate = signal(SignalKind::terminate()).map_err(bug)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(bug)?;
        let stop = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::warn!("stopping at a safe point: a signal came");
            stop.raise(Reason::Signal);
        });
        Ok(())
    }
}

impl Reason {
    /// The closed gate that this reason leads to.
    pub(crate) fn failure(self) -> Failure {
        match self {
            Reason::Signal => Failure::new(
                Outcome::Interrupted,
                "interrupted by a signal",
                "run it again: it goes on where this run stopped",
            ),
            Reason::LeaseLost => Failure::new(
                Outcome::Locked,
                "this run lost its lock to another one and stopped",
                "run it again: it waits for the other run and then decides anew",
            ),
            Reason::CameBack(failure) => (*failure).clone(),
        }
    }
}
