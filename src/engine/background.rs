//! Work on other threads that is abandoned when its caller is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinError;

use crate::process::failure::Failure;
use crate::server::stop::RunError;

/// Tells a piece of work that nobody is waiting for it any more.
#[derive(Default)]
pub(crate) struct Abandoned(Arc<AtomicBool>);

impl Abandoned {
    pub(crate) fn check(&self) -> Result<(), RunError> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(given_up()),
            false => Ok(()),
        }
    }
}

/// Runs code on a blocking thread: an author's code may take long for one document, and the run's own thread must stay
/// free to renew the lease and to obey a stop.
pub(crate) async fn aside<T: Send + 'static>(
    code: impl FnOnce(&Abandoned) -> Result<T, RunError> + Send + 'static,
) -> Result<T, RunError> {
    /// Tells the code when nobody waits for it.
    struct Waiting(Arc<AtomicBool>);
    impl Drop for Waiting {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let abandoned = Abandoned::default();
    let waiting = Waiting(abandoned.0.clone());
    let span = tracing::Span::current();
    let dispatch = tracing::dispatcher::get_default(Clone::clone);
    let running = tokio::task::spawn_blocking(move || {
        tracing::dispatcher::with_default(&dispatch, || span.in_scope(|| code(&abandoned)))
    });
    let ended = running.await;
    drop(waiting);
    joined(Some(ended))
}

/// The result of a task; a panic in it is resumed in the caller.
pub(crate) fn joined<T>(
    ended: Option<Result<Result<T, RunError>, JoinError>>,
) -> Result<T, RunError> {
    match ended.map(|ended| ended.map_err(JoinError::try_into_panic)) {
        Some(Ok(ended)) => ended,
        Some(Err(Ok(panic))) => std::panic::resume_unwind(panic),
        Some(Err(Err(_))) | None => Err(given_up()),
    }
}

fn given_up() -> RunError {
    Failure::bug("a query was given up on its way").into()
}

/// How long going through documents that were read may take before the run's other tasks get their turn.
pub(crate) const TURN: Duration = Duration::from_millis(2);
