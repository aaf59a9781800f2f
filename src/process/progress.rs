//! Progress of long work: a bar on a terminal, elsewhere a log line every few seconds.

use std::time::{Duration, Instant};

use tracing::{Level, enabled, info, trace};

use crate::process::log::BAR;
use crate::version::Version;

const BAR_WIDTH: usize = 30;

/// How far one step's work on a collection is. Work that ends soon says nothing.
///
/// Speaks only from within its own calls: dropped, it takes its bar away.
#[derive(Debug)]
pub struct Progress {
    version: String,
    step: String,
    collection: String,
    documents: u64,
    total: u64,
    medium: Medium,
    started: Instant,
    spoke: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Medium {
    Bar,
    Log,
}

impl Medium {
    fn interval(self) -> Duration {
        match self {
            Medium::Bar => Duration::from_millis(100),
            Medium::Log => Duration::from_secs(3),
        }
    }
}

impl Progress {
    /// Work on `total` documents that begins now; the total may turn out to be wrong.
    pub fn new(version: &Version, step: &str, collection: &str, total: u64) -> Self {
        Progress {
            version: version.to_string(),
            step: step.into(),
            collection: collection.into(),
            documents: 0,
            total,
            medium: if enabled!(target: BAR, Level::TRACE) { Medium::Bar } else { Medium::Log },
            started: Instant::now(),
            spoke: None,
        }
    }

    /// So many more documents are done.
    pub fn advance(&mut self, documents: u64) {
        self.advance_at(documents, Instant::now());
    }

    /// The work is done; said only if something was said before.
    pub fn finish(self) {
        self.finish_at(Instant::now());
    }

    fn advance_at(&mut self, documents: u64, now: Instant) {
        self.documents += documents;
        let silence = now.saturating_duration_since(self.spoke.unwrap_or(self.started));
        if silence >= self.medium.interval() {
            self.spoke = Some(now);
            self.speak(now);
        }
    }

    fn finish_at(self, now: Instant) {
        if self.spoke.is_some() {
            self.speak(now);
        }
    }

    fn speak(&self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.started).as_secs_f64();
        let per_second = self.documents as f64 / elapsed;
        let remaining = self.total.saturating_sub(self.documents);
        let rate = per_second.round() as u64;
        let eta_s = (self.documents > 0).then(|| (remaining as f64 / per_second).ceil() as u64);
        match self.medium {
            Medium::Bar => trace!(target: BAR, "{}", self.bar(rate, eta_s)),
            Medium::Log => info!(
                version = self.version,
                step = self.step,
                collection = self.collection,
                documents = self.documents,
                total = self.total,
                rate,
                eta_s,
                "progress"
            ),
        }
    }

    /// What matters most comes first, because a narrow terminal cuts off the rest.
    fn bar(&self, rate: u64, eta_s: Option<u64>) -> String {
        let Progress { version, step, collection, documents, total, .. } = self;
        let done = (*documents as f64 / (*total).max(1) as f64).min(1.0);
        let filled = "=".repeat((done * BAR_WIDTH as f64) as usize);
        let left = eta_s.map_or(String::new(), |seconds| {
            format!(", {} left", humantime::format_duration(Duration::from_secs(seconds)))
        });
        format!(
            "[{filled:BAR_WIDTH$}] {:3.0}% {documents}/{total} {collection}, {rate}/s{left} \
             ({version} {step})",
            (done * 100.0).floor(),
        )
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.medium == Medium::Bar && self.spoke.is_some() {
            trace!(target: BAR, "");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::process::log::tests::{logged_as_json, logged_on_terminal};

    const BAR_CLEARED: &str = "\r\x1b[K\x1b[?7l\x1b[?7h";

    fn progress(total: u64) -> Progress {
        Progress::new(&Version::parse("0.8.0").unwrap(), "pin references", "items", total)
    }

    /// Advances at each time in ms, in one go of so many documents.
    fn advance(progress: &mut Progress, steps: &[(u64, u64)]) {
        for (ms, documents) in steps {
            progress.advance_at(*documents, progress.started + Duration::from_millis(*ms));
        }
    }

    fn without_timestamp(mut line: Value) -> Value {
        line.as_object_mut().unwrap().shift_remove("timestamp");
        line
    }

    #[test]
    fn long_work_is_logged_every_few_seconds() {
        let lines = logged_as_json(|| {
            let mut progress = progress(100_000);
            let end = progress.started + Duration::from_secs(40);
            let steps = [(1000, 2500), (2999, 4500), (3001, 500), (3002, 500), (6000, 2000)];
            advance(&mut progress, &steps);
            advance(&mut progress, &[(6001, 5000), (39_000, 85_000)]);
            progress.finish_at(end);
        });
        let documents: Vec<_> = lines.iter().map(|line| line["documents"].as_u64()).collect();
        assert_eq!(documents, [Some(7500), Some(15_000), Some(100_000), Some(100_000)]);
        assert_eq!(
            without_timestamp(lines[0].clone()),
            json!({
                "level": "INFO", "message": "progress", "version": "0.8.0",
                "step": "pin references", "collection": "items", "documents": 7500,
                "total": 100_000, "rate": 2499, "eta_s": 38,
            })
        );
        assert_eq!((&lines[3]["rate"], &lines[3]["eta_s"]), (&json!(2500), &json!(0)));
    }

    #[test]
    fn short_work_says_nothing() {
        let work = |ms| {
            move || {
                let mut progress = progress(10);
                advance(&mut progress, &[(0, 5), (ms, 5)]);
                progress.finish();
            }
        };
        assert!(logged_as_json(work(2999)).is_empty());
        assert_eq!(logged_as_json(work(3000)).len(), 2);
        assert_eq!(logged_on_terminal(work(99)), "");
        assert!(logged_on_terminal(work(100)).starts_with("\r\x1b[K"));
    }

    #[test]
    fn a_terminal_shows_a_bar_and_no_lines() {
        let text = logged_on_terminal(|| {
            let mut progress = progress(200);
            advance(&mut progress, &[(10, 50), (1000, 50), (1050, 10), (4000, 190)]);
            progress.finish();
        });
        let half = "[===============               ]  50% 100/200 items, 100/s, 1s left (0.8.0 pin \
                    references)";
        assert!(text.contains(half), "{text}");
        assert!(text.contains("] 100% 300/200 items, 75/s, 0s left"), "{text}");
        assert_eq!(text.matches("100/200").count(), 1);
        assert!(text.ends_with(BAR_CLEARED) && !text.contains('\n'), "{text:?}");
    }

    #[test]
    fn a_bar_goes_when_its_work_is_given_up() {
        let text = logged_on_terminal(|| advance(&mut progress(200), &[(1000, 50)]));
        assert!(text.ends_with(BAR_CLEARED), "{text:?}");
    }

    #[test]
    fn no_progress_and_nothing_to_do_have_no_time_left_to_tell() {
        let lines = logged_as_json(|| {
            advance(&mut progress(10), &[(5000, 0)]);
            advance(&mut progress(0), &[(5000, 0)]);
        });
        for line in &lines {
            assert_eq!((&line["rate"], &line["eta_s"]), (&json!(0), &Value::Null));
        }
        assert_eq!(lines.len(), 2);
        assert!(progress(0).bar(0, None).contains("]   0% 0/0 items, 0/s ("));
    }
}
