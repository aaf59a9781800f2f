//! Events of the gate's Job, or else of its pod: what `kubectl describe` tells of a run.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;
use std::time::Duration;

use futures_util::future::BoxFuture;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use mongodb::bson::DateTime;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::process::settings::{Pod, Settings};
use crate::quiesce::kubernetes::api_server::{Answer, MANAGER, Server, kind};
use crate::quiesce::observer::{Notice, Observer, Tone};
use crate::visible::visible;

/// What all of it together may cost a run that gets no answer.
const BUDGET: Duration = Duration::from_secs(2);

/// How long the API server lets a note be, in bytes.
const NOTE: usize = 1000;

/// Tells the gate's Job by Events, while the run goes on; after the first failure it is silent.
#[derive(Debug)]
pub(crate) struct JobEvents(Mutex<Option<Telling>>);

#[derive(Debug)]
struct Telling {
    notices: UnboundedSender<Notice>,
    teller: JoinHandle<()>,
}

/// What the Events are about, and who tells them.
struct Teller {
    server: Server,
    regarding: Value,
    instance: String,
}

impl JobEvents {
    pub(crate) fn new(settings: &Settings) -> Self {
        let server = Server::new(settings);
        let Some(regarding) = regarding(&settings.pod, &server.namespace) else {
            warn(
                "neither GATE_JOB_NAME and GATE_JOB_UID nor GATE_POD_NAME and GATE_POD_UID are set",
            );
            return JobEvents(Mutex::new(None));
        };
        let own = &settings.pod;
        let instance = own.name.as_ref().or(own.job_name.as_ref()).cloned().unwrap_or_default();
        let (notices, told) = unbounded_channel();
        let teller = tokio::spawn(Teller { server, regarding, instance }.tell_all(told));
        JobEvents(Mutex::new(Some(Telling { notices, teller })))
    }

    fn telling(&self) -> std::sync::MutexGuard<'_, Option<Telling>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Observer for JobEvents {
    fn tell(&self, notice: Notice) {
        if let Some(telling) = &*self.telling() {
            // a teller that has given up hears nothing any more
            let _ = telling.notices.send(notice);
        }
    }

    fn finish(&self) -> BoxFuture<'_, ()> {
        let telling = self.telling().take();
        Box::pin(async move {
            let Some(Telling { notices, mut teller }) = telling else { return };
            drop(notices);
            if timeout(BUDGET, &mut teller).await.is_err() {
                teller.abort();
                warn("the API server was too slow");
            }
        })
    }
}

/// The one warning that failing Events cost.
fn warn(reason: &str) {
    tracing::warn!(reason, "the gate's Job is told nothing more by Events");
}

impl Teller {
    async fn tell_all(self, mut notices: UnboundedReceiver<Notice>) {
        while let Some(notice) = notices.recv().await {
            let told = timeout(BUDGET, self.tell(&notice)).await;
            let reason = match told {
                Ok(Ok(())) => continue,
                Ok(Err(failure)) => failure.message,
                Err(_) => format!("no answer within {} s", BUDGET.as_secs()),
            };
            return warn(&reason);
        }
    }

    async fn tell(&self, notice: &Notice) -> Result<(), Failure> {
        let resource = kind("events.k8s.io", "v1", "Event", "events");
        let events = self.server.objects(&resource).await?;
        let name = self.name(notice);
        let mut note = visible(&notice.note).into_owned();
        crate::visible::cut(&mut note, NOTE);
        let event = DynamicObject::new(&name, &resource).data(json!({
            "eventTime": now(),
            "reportingController": MANAGER,
            "reportingInstance": self.instance,
            "action": "Upgrade",
            "reason": notice.reason.to_string(),
            "regarding": self.regarding,
            "note": note,
            "type": match notice.tone { Tone::Normal => "Normal", Tone::Warning => "Warning" },
        }));
        let params = PostParams::default();
        match self.server.call("create events", events.create(&params, &event)).await? {
            Answer::Value(_) => return Ok(()),
            Answer::Missing => return Err(Failure::new(Outcome::Bug, "no events here", "")),
            // the same was told before, by a run of the same Job or pod: it is counted, not repeated
            Answer::Conflict => {}
        }
        let params = PatchParams::default();
        // a patch of nothing reads it, which needs no right to `get`
        let nothing = Patch::Merge(json!({}));
        let read = self.server.call("patch events", events.patch(&name, &params, &nothing)).await?;
        let before = read.value().and_then(|event| event.data["series"]["count"].as_u64());
        let count = before.unwrap_or(1) + 1;
        let series = json!({ "series": { "count": count, "lastObservedTime": now() } });
        let patch = Patch::Merge(series);
        self.server.call("patch events", events.patch(&name, &params, &patch)).await.map(|_| ())
    }

    /// The same for what says the same of the same object.
    fn name(&self, notice: &Notice) -> String {
        let mut hasher = DefaultHasher::new();
        (self.regarding["uid"].as_str(), notice.reason.to_string(), &notice.note).hash(&mut hasher);
        let object = self.regarding["name"].as_str().unwrap_or_default();
        let object: String = object.chars().take(200).collect();
        format!("{}.{:016x}", object.trim_end_matches(['.', '-']), hasher.finish())
    }
}

/// The Job, or else the pod; `None` if neither is known by name and UID.
fn regarding(own: &Pod, namespace: &str) -> Option<Value> {
    let object = |version: &str, kind: &str, name: &Option<String>, uid: &Option<String>| {
        let (name, uid) = (name.as_ref()?, uid.as_ref()?);
        Some(json!({
            "apiVersion": version,
            "kind": kind,
            "namespace": namespace,
            "name": name,
            "uid": uid,
        }))
    };
    object("batch/v1", "Job", &own.job_name, &own.job_uid)
        .or_else(|| object("v1", "Pod", &own.name, &own.uid))
}

/// The time as Events have it, to the microsecond.
fn now() -> String {
    let time = DateTime::now().try_to_rfc3339_string().unwrap_or_default();
    let seconds = time.trim_end_matches('Z');
    match seconds.split_once('.') {
        Some((seconds, fraction)) => format!("{seconds}.{fraction:0<6}Z"),
        None => format!("{seconds}.000000Z"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn events_are_about_the_job_or_else_the_pod_and_need_a_uid() {
        let pod = Pod { name: some("p"), uid: some("1"), ..Pod::default() };
        let job = Pod { job_name: some("j"), job_uid: some("2"), ..pod.clone() };
        let of = |own: &Pod| regarding(own, "lab").map(|r| (r["kind"].clone(), r["uid"].clone()));
        assert_eq!(of(&job), Some((json!("Job"), json!("2"))));
        assert_eq!(of(&Pod { job_uid: None, ..job }), Some((json!("Pod"), json!("1"))));
        assert_eq!(of(&Pod { uid: None, ..pod }), None);
    }

    #[test]
    fn a_time_has_microseconds() {
        let now = now();
        assert_eq!(now.len(), "2026-11-23T12:00:00.000000Z".len(), "{now}");
        assert!(now.ends_with('Z') && now.contains('T'), "{now}");
    }
}
