//! Logs what a run is doing, from a thread of its own, whenever nothing else was logged for some seconds.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a run may be silent.
const SILENCE: Duration = Duration::from_secs(8);

/// How often silence is checked for.
const INTERVAL: Duration = Duration::from_secs(1);

/// The work of a run, as far as it may take long: one document, one look-up, one command of the server or an
/// author's code may take longer than anybody wants to wait without a word.
#[derive(Clone, Debug, Default)]
pub(crate) struct Activity(Arc<Mutex<Now>>);

#[derive(Debug, Default)]
struct Now {
    /// What is done, the innermost last.
    works: Vec<Work>,
    next: u64,
    /// When something was said or finished.
    moved: Option<Instant>,
    /// Ends the thread that speaks when it is dropped.
    speaker: Option<Sender<()>>,
}

#[derive(Debug)]
struct Work {
    id: u64,
    what: String,
    began: Instant,
}

/// Work under way, until this is dropped.
#[derive(Debug)]
pub(crate) struct Doing {
    activity: Activity,
    id: u64,
}

impl Activity {
    /// Work begins that may take long.
    pub(crate) fn doing(&self, what: impl Into<String>) -> Doing {
        let mut now = self.now();
        let (id, began) = (now.next, Instant::now());
        now.next += 1;
        now.moved = Some(began);
        now.works.push(Work { id, what: what.into(), began });
        if now.speaker.is_none() {
            now.speaker = self.speaker();
        }
        Doing { activity: self.clone(), id }
    }

    /// A part of it is done, or something was said of it.
    pub(crate) fn moved(&self) {
        self.now().moved = Some(Instant::now());
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread that speaks, which no work can hold up; `None` if the system has none left.
    fn speaker(&self) -> Option<Sender<()>> {
        let (sender, ended) = channel::<()>();
        let now = Arc::downgrade(&self.0);
        let dispatch = tracing::dispatcher::get_default(Clone::clone);
        let speaking = move || {
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(INTERVAL) {
                let Some(now) = now.upgrade() else { return };
                tracing::dispatcher::with_default(&dispatch, || Activity(now).speak());
            }
        };
        let started = thread::Builder::new().name("activity".into()).stack_size(256 * 1024);
        started.spawn(speaking).ok().map(|_| sender)
    }

    fn speak(&self) {
        let mut now = self.now();
        let Some(Work { what, began, .. }) = now.works.last() else { return };
        if now.moved.is_some_and(|moved| moved.elapsed() >= SILENCE) {
            tracing::info!(doing = what, for_s = began.elapsed().as_secs(), "still at work");
            now.moved = Some(Instant::now());
        }
    }
}

impl Drop for Doing {
    fn drop(&mut self) {
        let mut now = self.activity.now();
        now.works.retain(|work| work.id != self.id);
        now.moved = Some(Instant::now());
        if now.works.is_empty() {
            now.speaker = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::log::tests::logged_as_json;

    #[test]
    fn only_what_is_silent_is_spoken_of() {
        let silent = |activity: &Activity| {
            let long = Instant::now().checked_sub(SILENCE);
            assert!(long.is_some());
            activity.now().moved = long;
            activity.speak();
        };
        let lines = logged_as_json(|| {
            let activity = Activity::default();
            silent(&activity);
            let outer = activity.doing("the whole");
            activity.speak();
            let inner = activity.doing("a part");
            silent(&activity);
            activity.speak();
            drop(inner);
            silent(&activity);
            drop(outer);
            silent(&activity);
        });
        let told: Vec<_> = lines.iter().map(|line| line["doing"].as_str()).collect();
        assert_eq!(told, [Some("a part"), Some("the whole")]);
    }
}
