//! What is remembered of stopped workloads: the only file that knows the shape of that document.
//!
//! It lies next to the record, so that it survives any kill, and any cluster.

use mongodb::Database;
use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};

use crate::quiesce::workloads::Workload;
use crate::record::document::Record;
use crate::record::names::Names;
use crate::server::answer;
use crate::server::stop::RunError;

/// The `_id` of the document, next to the record `record`.
pub(crate) fn id(record: &str) -> String {
    format!("{record}.quiesced")
}

/// All that is remembered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Remembered {
    /// Grows with every change: the fence against a run that lost its lock. None is not stored yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seq: Option<i64>,
    pub(crate) workloads: Vec<Entry>,
}

/// One workload that was found running.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) namespace: String,
    pub(crate) uid: String,
    pub(crate) name: String,
    /// How many pods it had; above 0.
    pub(crate) replicas: u32,
    /// The recorded version of that moment, as it was written; `None` if there was none.
    pub(crate) version: Option<String>,
    pub(crate) at: DateTime,
    pub(crate) run_id: String,
}

impl Entry {
    /// Whether nothing was committed since: the record is where it was, with no journal.
    pub(crate) fn is_of(&self, record: Option<&Record>) -> bool {
        let version = record.map(|record| record.text.as_str());
        self.version.as_deref() == version && record.is_none_or(|record| record.journal.is_none())
    }

    fn is(&self, namespace: &str, uid: &str) -> bool {
        self.namespace == namespace && self.uid == uid
    }
}

impl Remembered {
    /// Remembers a workload's number, in place of an older one; says whether that changed anything.
    ///
    /// One that is found at 0 keeps what is remembered of it: an earlier run stopped it.
    pub(crate) fn note(
        &mut self,
        namespace: &str,
        found: &Workload,
        version: Option<&str>,
        run_id: &str,
    ) -> bool {
        if found.replicas == 0 {
            return false;
        }
        let entry = Entry {
            namespace: namespace.to_owned(),
            uid: found.uid.clone(),
            name: found.name.clone(),
            replicas: found.replicas,
            version: version.map(str::to_owned),
            at: DateTime::now(),
            run_id: run_id.to_owned(),
        };
        let same = |old: &Entry| old.replicas == entry.replicas && old.version == entry.version;
        match self.workloads.iter_mut().find(|entry| entry.is(namespace, &found.uid)) {
            Some(old) if same(old) => return false,
            Some(old) => *old = entry,
            None => self.workloads.push(entry),
        }
        true
    }

    /// What is remembered of the workloads of one namespace; of others, other runs know.
    pub(crate) fn of(&self, namespace: &str) -> impl Iterator<Item = &Entry> {
        self.workloads.iter().filter(move |entry| entry.namespace == namespace)
    }

    pub(crate) fn forget(&mut self, forgotten: &Entry) {
        self.workloads.retain(|entry| !entry.is(&forgotten.namespace, &forgotten.uid));
    }
}

/// Where it is remembered.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    database: Database,
    collection: String,
    id: String,
}

impl Memory {
    pub(crate) fn new(database: &Database, names: &Names) -> Self {
        Memory {
            database: database.clone(),
            collection: names.collection.clone(),
            id: id(&names.record),
        }
    }

    /// What is remembered, majority-committed.
    pub(crate) async fn read(&self) -> Result<Remembered, mongodb::error::Error> {
        let documents = self.database.collection::<Remembered>(&self.collection);
        Ok(documents.find_one(doc! { "_id": &self.id }).await?.unwrap_or_default())
    }

    /// Remembers `remembered` from now on, majority-committed, unless another run did so meanwhile.
    ///
    /// # Errors
    ///
    /// [`RunError::RecordMoved`] in that case.
    pub(crate) async fn write(&self, remembered: &mut Remembered) -> Result<(), RunError> {
        let documents = self.database.collection::<Remembered>(&self.collection);
        let seq = remembered.seq;
        let stored = match seq {
            Some(seq) => doc! { "_id": &self.id, "seq": seq },
            None => doc! { "_id": &self.id, "seq": { "$exists": false } },
        };
        if remembered.workloads.is_empty() {
            documents.delete_one(stored).await?;
            remembered.seq = None;
            return Ok(());
        }
        remembered.seq = Some(seq.unwrap_or_default() + 1);
        let replace = documents.replace_one(stored, &*remembered).upsert(seq.is_none());
        match replace.await {
            Ok(replaced) if seq.is_none() || replaced.matched_count == 1 => Ok(()),
            Ok(_) => Err(RunError::RecordMoved),
            Err(error) if answer::is_taken(&error) => Err(RunError::RecordMoved),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(uid: &str, replicas: u32) -> Workload {
        Workload {
            name: "deployment/web".to_owned(),
            uid: uid.to_owned(),
            revision: "1".to_owned(),
            replicas,
            pods: vec![],
            ready: 0,
            freed_by: None,
        }
    }

    fn noted(notes: &[(&str, &str, u32, Option<&str>)]) -> Vec<(String, u32, Option<String>)> {
        let mut remembered = Remembered::default();
        for (namespace, uid, replicas, version) in notes {
            remembered.note(namespace, &found(uid, *replicas), *version, "run");
        }
        let entries = remembered.workloads.into_iter();
        entries.map(|e| (format!("{}/{}", e.namespace, e.uid), e.replicas, e.version)).collect()
    }

    fn entry(
        workload: &str,
        replicas: u32,
        version: Option<&str>,
    ) -> (String, u32, Option<String>) {
        (workload.to_owned(), replicas, version.map(str::to_owned))
    }

    #[test]
    fn a_number_above_0_overwrites_an_older_one_and_0_does_not() {
        assert_eq!(
            noted(&[("lab", "a", 3, Some("0.7.0")), ("lab", "a", 0, Some("0.7.0"))]),
            [entry("lab/a", 3, Some("0.7.0"))]
        );
        assert_eq!(
            noted(&[("lab", "a", 3, Some("0.7.0")), ("lab", "a", 5, Some("0.8.0"))]),
            [entry("lab/a", 5, Some("0.8.0"))]
        );
        // its version is of the moment in which it was found running
        assert_eq!(
            noted(&[("lab", "a", 3, None), ("lab", "a", 0, Some("0.8.0"))]),
            [entry("lab/a", 3, None)]
        );
        assert_eq!(noted(&[("lab", "a", 0, Some("0.7.0"))]), []);
    }

    #[test]
    fn a_workload_is_known_by_namespace_and_uid() {
        let two = noted(&[("lab", "a", 3, None), ("lab", "b", 1, None), ("other", "a", 2, None)]);
        assert_eq!(
            two,
            [entry("lab/a", 3, None), entry("lab/b", 1, None), entry("other/a", 2, None)]
        );
    }

    #[test]
    fn what_is_unchanged_need_not_be_written() {
        let mut remembered = Remembered::default();
        assert!(remembered.note("lab", &found("a", 3), None, "one"));
        assert!(!remembered.note("lab", &found("a", 3), None, "two"));
        assert!(!remembered.note("lab", &found("a", 0), None, "two"));
        assert!(remembered.note("lab", &found("a", 3), Some("0.7.0"), "two"));
        remembered.forget(&remembered.workloads[0].clone());
        assert_eq!(remembered, Remembered::default());
    }

    #[test]
    fn only_a_record_at_the_same_version_and_without_a_journal_is_of_that_moment() {
        let at =
            |version: &str, journal: bool| {
                let mut record = doc! { "_id": "r", "version": version, "history": [] };
                if journal {
                    record.insert("journal", doc! {
                    "id": "j", "version": "0.8.0", "code_version": "0.8.0",
                    "started": DateTime::MIN, "from": { "version": version, "history": 0_i64 },
                    "seq": 1_i64, "run_id": "r", "host": "h", "steps": [], "step": 0_i64,
                    "pass": "first",
                });
                }
                let raw = mongodb::bson::RawDocumentBuf::try_from(&record).unwrap();
                match crate::record::document::Recorded::parse(Some(&raw)) {
                    crate::record::document::Recorded::Readable(record) => record,
                    other => panic!("{other:?}"),
                }
            };
        let remembered = |version: Option<&str>| {
            let mut remembered = Remembered::default();
            remembered.note("lab", &found("a", 3), version, "run");
            remembered.workloads.remove(0)
        };
        assert!(remembered(Some("0.7.0")).is_of(Some(&at("0.7.0", false))));
        assert!(!remembered(Some("0.7.0")).is_of(Some(&at("0.7.0", true))));
        assert!(!remembered(Some("0.7.0")).is_of(Some(&at("0.8.0", false))));
        assert!(!remembered(Some("0.7.0")).is_of(None));
        assert!(remembered(None).is_of(None));
        assert!(!remembered(None).is_of(Some(&at("0.7.0", false))));
    }
}
