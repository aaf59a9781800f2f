//! Whether old code that was stopped stays stopped: asked at every renewal of the lease, and before a
//! version moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::quiesce::workloads::{Workload, Workloads};
use crate::server::stop::{Reason, RunError, Stop};

/// How often workloads are read again, where nothing answers, before a version moves.
const ATTEMPTS: u32 = 3;

/// The workloads of a run, and whether they are held stopped.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quiesced {
    workloads: Option<Arc<dyn Workloads>>,
    held: Arc<AtomicBool>,
}

impl Quiesced {
    pub(crate) fn new(workloads: Arc<dyn Workloads>) -> Self {
        Quiesced { workloads: Some(workloads), held: Arc::default() }
    }

    /// From now on they have to stay stopped.
    pub(crate) fn hold(&self) {
        self.held.store(true, Ordering::Relaxed);
    }

    /// From now on they may run.
    pub(crate) fn release(&self) {
        self.held.store(false, Ordering::Relaxed);
    }

    fn held(&self) -> Option<&dyn Workloads> {
        self.workloads.as_deref().filter(|_| self.held.load(Ordering::Relaxed))
    }

    /// Makes sure, before a version moves, that nothing runs that was stopped.
    pub(crate) async fn verify(&self, stop: &Stop) -> Result<(), RunError> {
        let Some(workloads) = self.held() else { return Ok(()) };
        let mut attempt = 1;
        loop {
            match stop.guard(check_stopped(workloads)).await {
                Err(RunError::Failure(failure))
                    if failure.outcome == Outcome::NoServer && attempt < ATTEMPTS =>
                {
                    tracing::warn!(reason = failure.message, "asking again whether old code runs");
                }
                ended => return ended,
            }
            attempt += 1;
            stop.sleep(Duration::from_millis(500)).await?;
        }
    }

    /// Checks every `period`, until the returned guard is dropped, and stops the run if something runs.
    pub(crate) fn watch(&self, period: Duration, stop: &Stop) -> Watch {
        let (quiesced, stop) = (self.clone(), stop.clone());
        if quiesced.workloads.is_none() {
            return Watch(None);
        }
        Watch(Some(tokio::spawn(async move {
            loop {
                tokio::time::sleep(period).await;
                let Some(workloads) = quiesced.held() else { continue };
                match check_stopped(workloads).await {
                    Ok(()) => {}
                    Err(failure) if failure.outcome == Outcome::NotQuiesced => {
                        if quiesced.held().is_some() {
                            tracing::error!(reason = failure.message, "stopping");
                            stop.raise(Reason::CameBack(Arc::new(failure)));
                        }
                        return;
                    }
                    // while nothing answers, nothing can be started either; but before a version moves there must be an
                    // answer
                    Err(failure) => tracing::warn!(
                        reason = failure.message,
                        "whether old code runs could not be asked; asking again"
                    ),
                }
            }
        })))
    }
}

/// Checks workloads for as long as it lives.
pub(crate) struct Watch(Option<tokio::task::JoinHandle<()>>);

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

async fn check_stopped(workloads: &dyn Workloads) -> Result<(), Failure> {
    for name in workloads.names() {
        if let Some(found) = workloads.get(&name).await?
            && !is_stopped(&found)
        {
            return Err(came_back(&found));
        }
    }
    Ok(())
}

/// Whether nothing of a workload runs, nor is to run.
pub(crate) fn is_stopped(workload: &Workload) -> bool {
    workload.replicas == 0 && workload.pods.is_empty()
}

/// The closed gate where something was started that had been stopped.
pub(crate) fn came_back(workload: &Workload) -> Failure {
    let pods = match workload.pods.as_slice() {
        [] => String::new(),
        pods => format!(", and {} run", listed(pods)),
    };
    Failure::new(
        Outcome::NotQuiesced,
        format!(
            "{} was started again during the upgrade: it is set to {} pods{pods}",
            workload.name, workload.replicas
        ),
        "find out who starts it (an autoscaler, a release, a rollback, a person) and stop that, then \
         run it again",
    )
}

/// The first of some names, and how many more there are.
pub(crate) fn listed(names: &[String]) -> String {
    first(names, 5)
}

/// The first `most` of some names, and how many more there are.
pub(crate) fn first(names: &[String], most: usize) -> String {
    match names.get(..most) {
        Some(shown) if names.len() > most => {
            format!("{} and {} more", shown.join(", "), names.len() - most)
        }
        _ => names.join(", "),
    }
}
