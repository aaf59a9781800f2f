//! Retrying after transient errors: one policy for all server operations.

use std::time::Duration;

use tokio::time::Instant;

use crate::server::stop::{RunError, Stop};

/// The first pause; each later one is twice as long as the one before.
const FIRST: Duration = Duration::from_millis(50);

/// No pause is longer.
const LONGEST: Duration = Duration::from_millis(400);

/// Between half and one and a half times a pause, so that runs do not stay in step.
pub(crate) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64())
}

/// One thing that is tried until it succeeds, fails for good, or its time is over.
#[derive(Default)]
pub(crate) struct Retry<'a> {
    /// After this time nothing is tried again; `None` is without end.
    pub(crate) until: Option<Instant>,
    /// What ends a pause, where the caller does not end the whole.
    pub(crate) stop: Option<&'a Stop>,
    /// Why the last attempt failed, for a caller that gives up an attempt under way.
    pub(crate) last: Option<RunError>,
}

impl Retry<'_> {
    pub(crate) async fn run<T, E: Into<RunError>>(
        &mut self,
        mut attempt: impl AsyncFnMut() -> Result<T, E>,
    ) -> Result<T, RunError> {
        let mut pause = FIRST;
        loop {
            match attempt().await.map_err(Into::into) {
                Err(error)
                    if error.is_transient()
                        && self.until.is_none_or(|until| Instant::now() < until) =>
                {
                    self.last = Some(error);
                }
                ended => return ended,
            }
            match self.stop {
                Some(stop) => stop.sleep(jittered(pause)).await?,
                None => tokio::time::sleep(jittered(pause)).await,
            }
            pause = (pause * 2).min(LONGEST);
        }
    }
}
