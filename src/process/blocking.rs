//! Work that may never come back, like opening a named pipe that has no other end: given up after a time.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// The result of `work`, or `None` if it takes longer than `time`; its thread then runs on, detached.
pub(crate) fn within<T: Send + 'static>(
    time: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = channel();
    let started = thread::Builder::new().spawn(move || {
        // whoever waited may be gone
        let _ = sender.send(work());
    });
    if started.is_err() {
        return None;
    }
    receiver.recv_timeout(time).ok()
}
