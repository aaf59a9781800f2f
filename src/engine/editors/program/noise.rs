//! The last lines that a program writes to stderr: read for as long as it writes, and logged at level debug only, because
//! they may hold the contents of documents.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::process::ChildStderr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How many lines are kept, and how many bytes of each.
const LINES: usize = 20;
const LINE: usize = 500;

/// How long to wait for the rest of what a program wrote that has ended.
const REST: Duration = Duration::from_millis(100);

/// The last lines of a program.
pub(super) struct Noise {
    step: String,
    kept: Arc<Kept>,
}

#[derive(Default)]
struct Kept {
    lines: Mutex<Lines>,
    over: Condvar,
}

#[derive(Default)]
struct Lines {
    whole: VecDeque<Vec<u8>>,
    last: Vec<u8>,
    /// Whether nothing comes any more.
    over: bool,
}

impl Kept {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Noise {
    /// Reads what a program writes until it ends, in a thread of its own: a program that writes without end keeps nothing
    /// else from running.
    pub(super) fn read(mut stderr: ChildStderr, step: &str) -> io::Result<Self> {
        let noise = Noise { step: step.to_owned(), kept: Arc::default() };
        let kept = noise.kept.clone();
        thread::Builder::new().name("stderr of a program".to_owned()).spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            loop {
                match stderr.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(read) => kept.lines().take(&buffer[..read]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            kept.lines().over = true;
            kept.over.notify_all();
        })?;
        Ok(noise)
    }

    /// Logs the lines that are kept, once the program has ended.
    pub(super) fn log(self) {
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let waiting = self.kept.over.wait_timeout_while(self.kept.lines(), REST, |kept| !kept.over);
        let mut kept = waiting.unwrap_or_else(PoisonError::into_inner).0;
        let Lines { whole, last, .. } = std::mem::take(&mut *kept);
        for line in whole.into_iter().chain([last]).filter(|line| !line.is_empty()) {
            let line = String::from_utf8_lossy(&line);
            tracing::debug!(step = self.step, line = &*line, "stderr of the program");
        }
    }
}

impl Lines {
    fn take(&mut self, text: &[u8]) {
        let mut parts = text.split(|byte| *byte == b'\n');
        self.extend(parts.next().unwrap_or_default());
        for part in parts {
            if self.whole.len() == LINES {
                self.whole.pop_front();
            }
            self.whole.push_back(std::mem::take(&mut self.last));
            self.extend(part);
        }
    }

    fn extend(&mut self, part: &[u8]) {
        let room = LINE.saturating_sub(self.last.len());
        self.last.extend(&part[..part.len().min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_however_they_come() {
        let mut lines = Lines::default();
        for n in 0..100 {
            lines.take(format!("line {n}").as_bytes());
            lines.take(b"\nand ");
        }
        lines.take(&[b'x'; 10_000]);
        assert_eq!(lines.whole.len(), LINES);
        assert_eq!(lines.whole.back().unwrap(), b"and line 99");
        assert_eq!(lines.last.len(), LINE);
    }
}
