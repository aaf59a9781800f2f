//! What ends a run before its work is done: a signal, a lost lease, or old code that came back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::server::errors;

/// How long an operation that should be finished may go on after a stop.
const GRACE: Duration = Duration::from_millis(400);

/// The least time that each operation on the way out gets.
const MOMENT: Duration = Duration::from_millis(150);

/// Why a run ends early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// SIGTERM or SIGINT.
    Signal,
    /// Another run took over the lock.
    LeaseLost,
    /// The server did not answer for as long as a lease lasts.
    NotRenewed,
    /// Old code that was stopped runs again.
    CameBack(Arc<Failure>),
}

/// Why an operation of the engine did not finish.
#[derive(Debug)]
pub(crate) enum RunError {
    /// The gate is closed for good.
    Failure(Failure),
    /// The driver's own error.
    Driver(mongodb::error::Error),
    /// The run was told to stop.
    Stopped(Reason),
    /// The record is no longer in the state that the work started from.
    RecordMoved,
}

impl From<Failure> for RunError {
    fn from(failure: Failure) -> Self {
        RunError::Failure(failure)
    }
}

impl From<mongodb::error::Error> for RunError {
    fn from(error: mongodb::error::Error) -> Self {
        RunError::Driver(error)
    }
}

impl From<mongodb::bson::error::Error> for RunError {
    fn from(error: mongodb::bson::error::Error) -> Self {
        RunError::Driver(error.into())
    }
}

impl RunError {
    /// The closed gate that an error of the driver means; any other error stays what it is.
    pub(crate) fn or_closed(self, closed: impl FnOnce(Self) -> Failure) -> Self {
        match self {
            RunError::Driver(_) => RunError::Failure(closed(self)),
            error => error,
        }
    }

    /// Whether what was tried may succeed when it is simply tried again.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            RunError::Failure(failure) => failure.outcome == Outcome::NoServer,
            RunError::Driver(error) => errors::is_transient(error),
            RunError::Stopped(_) | RunError::RecordMoved => false,
        }
    }
}

/// Told to all parts of a run at once; the first reason stays.
#[derive(Clone, Debug)]
pub(crate) struct Stop(watch::Sender<Option<(Reason, Instant)>>);

impl Stop {
    pub(crate) fn new() -> Self {
        Stop(watch::Sender::new(None))
    }

    pub(crate) fn raise(&self, reason: Reason) {
        self.0.send_if_modified(|raised| {
            let first = raised.is_none();
            raised.get_or_insert((reason, Instant::now()));
            first
        });
    }

    pub(crate) fn check(&self) -> Result<(), RunError> {
        match &*self.0.borrow() {
            Some((reason, _)) => Err(RunError::Stopped(reason.clone())),
            None => Ok(()),
        }
    }

    async fn raised(&self) -> Reason {
        let mut receiver = self.0.subscribe();
        loop {
            if let Some((reason, _)) = &*receiver.borrow_and_update() {
                return reason.clone();
            }
            if receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Runs `operation`, giving it up as soon as the run is to stop.
    pub(crate) async fn guard<T, E: Into<RunError>>(
        &self,
        operation: impl Future<Output = Result<T, E>>,
    ) -> Result<T, RunError> {
        tokio::select! {
            biased;
            reason = self.raised() => Err(RunError::Stopped(reason)),
            result = operation => result.map_err(Into::into),
        }
    }

    /// Runs `operation`, giving it up only some time after the run is to stop.
    pub(crate) async fn guard_with_grace<T, E: Into<RunError>>(
        &self,
        operation: impl Future<Output = Result<T, E>>,
    ) -> Result<T, RunError> {
        let late = async {
            let reason = self.raised().await;
            tokio::time::sleep_until(self.time_left(GRACE, GRACE)).await;
            reason
        };
        tokio::select! {
            biased;
            result = operation => result.map_err(Into::into),
            reason = late => Err(RunError::Stopped(reason)),
        }
    }

    /// The deadline of an operation with which a run cleans up: `usual` from now, but after a stop no later than
    /// `since_stop` after that. All of them share this budget, however slow each is.
    pub(crate) fn time_left(&self, since_stop: Duration, usual: Duration) -> Instant {
        let now = Instant::now();
        match *self.0.borrow() {
            Some((_, raised)) => (raised + since_stop).max(now + MOMENT),
            None => now + usual,
        }
    }

    /// The same of what is worth more time where no signal hurries the run.
    pub(crate) fn way_out(&self, since_signal: Duration, usual: Duration) -> Instant {
        match &*self.0.borrow() {
            Some((Reason::Signal, _)) => {}
            _ => return Instant::now() + usual,
        }
        self.time_left(since_signal, usual)
    }

    /// Sleeps, or ends early.
    pub(crate) async fn sleep(&self, time: Duration) -> Result<(), RunError> {
        self.guard(async {
            tokio::time::sleep(time).await;
            Ok::<(), RunError>(())
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

/// What an operation ends with; `None` if it takes longer than until then.
pub(crate) async fn within<T>(
    until: Option<Instant>,
    operation: impl Future<Output = T>,
) -> Option<T> {
    match until {
        Some(until) => tokio::time::timeout_at(until, operation).await.ok(),
        None => Some(operation.await),
    }
}

/// Turns a panic, which only an upgrade's own code should come to, into a closed gate. What it says may
/// hold a document's contents, and is dropped.
pub(crate) async fn catch_panics<T>(operation: impl Future<Output = T>) -> Result<T, Failure> {
    // a run is large, and what calls it has perhaps a small stack
    let mut operation = Box::pin(operation);
    let poll = |context: &mut Context<'_>| {
        let polled = catch_unwind(AssertUnwindSafe(|| operation.as_mut().poll(context)));
        match polled {
            Ok(polled) => polled.map(Ok),
            Err(_) => Poll::Ready(Err(Failure::bug(
                "the code of an upgrade, or the gate's own, panicked",
            ))),
        }
    };
    std::future::poll_fn(poll).await
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
                "run it again: it waits for the other run, and then does what is left to do",
            ),
            Reason::NotRenewed => Failure::new(
                Outcome::NoServer,
                "the server did not answer for as long as this run's lock lives",
                "run it again once the server answers and has a primary: it goes on where this run \
                 stopped",
            ),
            Reason::CameBack(failure) => (*failure).clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_out_has_one_budget_and_each_of_its_operations_a_moment() {
        let (stop, second) = (Stop::new(), Duration::from_secs(1));
        let before = Instant::now();
        assert!(stop.time_left(GRACE, second) >= before + second);
        stop.raise(Reason::Signal);
        let raised = Instant::now();
        assert!(stop.time_left(GRACE, second) <= raised + GRACE);
        // whatever came before took it all
        assert!(stop.time_left(Duration::ZERO, second) >= raised + MOMENT);
    }
}
