//! Work that may never come back, like opening a named pipe that has no other end: given up after a time.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// What `work` comes to; none where that takes longer than `time`. Its thread is then left behind.
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
