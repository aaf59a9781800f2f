//! Users beside the upgrade: they write into what is being changed, and remember what was acknowledged.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use fastrand::Rng;
use mongodb::bson::{Bson, Document, doc};
use mongodb::error::Error;
use mongodb::{Collection, Database};

use super::plan::Plan;

/// What is known of something that a user wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    There,
    Gone,
    /// The answer was lost.
    Unknown,
}

impl Known {
    fn after<T>(written: Result<T, Error>, then: Known) -> Known {
        written.map_or(Known::Unknown, |_| then)
    }
}

/// The entries of documents, each with a number of its own.
#[derive(Default)]
pub struct Memory {
    entries: BTreeMap<i64, Known>,
    /// Documents that were deleted for sure.
    deleted: Vec<i64>,
    pub acknowledged: usize,
    pub violations: Vec<String>,
}

impl Memory {
    fn note(&mut self, entry: i64, known: Known) {
        self.acknowledged += usize::from(known != Known::Unknown);
        self.entries.insert(entry, known);
    }

    /// What the documents in `field` hold against what is remembered.
    async fn check(&mut self, found: &[Document], field: &str) {
        let mut there: HashMap<i64, usize> = HashMap::new();
        for entry in found.iter().flat_map(|d| d.get_array(field).into_iter().flatten()) {
            let number = entry.as_document().and_then(|entry| entry.get_i64("k").ok());
            *there.entry(number.unwrap_or(-1)).or_default() += 1;
        }
        for (entry, known) in &self.entries {
            let times = there.get(entry).copied().unwrap_or_default();
            if times > 1
                || (*known == Known::There && times == 0)
                || (*known == Known::Gone && times > 0)
            {
                self.violations
                    .push(format!("user's entry {entry} of {field}, {known:?}: {times} times"));
            }
        }
        for id in &self.deleted {
            if found.iter().any(|document| document.get_i64("_id").ok() == Some(*id)) {
                self.violations.push(format!("a deleted document is back: {id}"));
            }
        }
    }
}

async fn pause(rng: &mut Rng) {
    tokio::time::sleep(Duration::from_millis(rng.u64(1..25))).await;
}

/// Adds documents to `counters`, and entries to the logs of those that were there.
pub async fn count(plan: &Plan, database: &Database, ids: &[Bson], over: &Cell<bool>) -> Memory {
    let (mut rng, mut memory) = (plan.rng(1), Memory::default());
    let counters: Collection<Document> = database.collection("counters");
    for k in 0i64.. {
        if over.get() {
            break;
        }
        let entry = entry_of(k);
        let written = match rng.u8(..4) {
            0 => {
                let id: Bson =
                    if rng.bool() { k.to_string().into() } else { (k as f64 + 0.5).into() };
                counters.insert_one(doc! { "_id": id, "log": [entry] }).await.map(|_| 1)
            }
            _ => {
                let id = ids[rng.usize(..ids.len())].clone();
                let push = doc! { "$push": { "log": entry } };
                counters
                    .update_one(doc! { "_id": id }, push)
                    .await
                    .map(|result| result.matched_count)
            }
        };
        if matches!(written, Ok(0)) {
            memory.violations.push(format!("a document of counters is gone before entry {k}"));
        }
        memory.note(k, Known::after(written, Known::There));
        pause(&mut rng).await;
    }
    memory
}

/// Pushes, pulls and replaces entries in the lists of `things`; adds and deletes documents.
pub async fn edit(plan: &Plan, database: &Database, over: &Cell<bool>) -> Memory {
    let (mut rng, mut memory) = (plan.rng(2), Memory::default());
    let lists: Collection<Document> = database.collection("things");
    // of each document, the entries that are there for sure
    let mut documents: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for id in 0..i64::from(plan.documents) {
        documents.insert(id, entries_of(id).to_vec());
        entries_of(id).iter().for_each(|k| memory.note(*k, Known::There));
    }
    for k in 1_000_000i64.. {
        if over.get() {
            break;
        }
        pause(&mut rng).await;
        let at = rng.usize(..documents.len().max(1));
        let id = documents.keys().nth(at).copied();
        let (Some(id), false) = (id, rng.u8(..12) == 0) else {
            let list = doc! { "_id": k, "list": [entry_of(k)] };
            let known = Known::after(lists.insert_one(list).await, Known::There);
            memory.note(k, known);
            if known == Known::There {
                documents.insert(k, vec![k]);
            }
            continue;
        };
        let own = doc! { "_id": id };
        let entries = documents.entry(id).or_default();
        let some = (!entries.is_empty()).then(|| rng.usize(..entries.len()));
        let matched = match (rng.u8(..12), some) {
            (0, _) => {
                let known = Known::after(lists.delete_one(own).await, Known::Gone);
                for entry in documents.remove(&id).unwrap_or_default() {
                    memory.note(entry, known);
                }
                if known == Known::Gone {
                    memory.deleted.push(id);
                }
                continue;
            }
            (1..4, Some(some)) => {
                let entry = entries.remove(some);
                let pull = doc! { "$pull": { "list": { "k": entry } } };
                let pulled = lists.update_one(own, pull).await;
                let matched = pulled.as_ref().map_or(1, |result| result.modified_count);
                memory.note(entry, Known::after(pulled, Known::Gone));
                matched
            }
            (4..7, Some(some)) => {
                let entry = entries.remove(some);
                let set = doc! { "$set": { "list.$": entry_of(k) } };
                let replaced = lists.update_one(doc! { "_id": id, "list.k": entry }, set).await;
                let matched = replaced.as_ref().map_or(1, |result| result.modified_count);
                if replaced.is_ok() {
                    entries.push(k);
                }
                let known = Known::after(replaced, Known::There);
                memory.note(k, known);
                memory.note(entry, if known == Known::There { Known::Gone } else { known });
                matched
            }
            _ => {
                let push = doc! { "$push": { "list": entry_of(k) } };
                let pushed = lists.update_one(own, push).await;
                let matched = pushed.as_ref().map_or(1, |result| result.modified_count);
                if pushed.is_ok() {
                    entries.push(k);
                }
                memory.note(k, Known::after(pushed, Known::There));
                matched
            }
        };
        if matched == 0 {
            memory.violations.push(format!("what entry {k} was to change in list {id} is gone"));
        }
    }
    memory
}

/// An entry of a list, which `pin` resolves.
pub fn entry_of(k: i64) -> Document {
    doc! { "k": k, "name": "ann" }
}

/// The numbers of the entries that a list begins with.
pub fn entries_of(id: i64) -> [i64; 3] {
    [0, 1, 2].map(|n| id * 10 + n)
}

/// Writes into `old`: beside its rename all the time, and as soon as it is dropped, as code does that
/// has a new use for the name.
pub async fn write_old(plan: &Plan, database: &Database, over: &Cell<bool>) -> Memory {
    let (mut rng, mut memory) = (plan.rng(3), Memory::default());
    let old: Collection<Document> = database.collection("old");
    let dropped = plan.version_of("drop");
    for k in 0i64.. {
        if over.get() {
            break;
        }
        pause(&mut rng).await;
        let may = match &dropped {
            None => true,
            Some(version) => recorded(database).await.is_some_and(|now| now >= *version),
        };
        if may {
            let written = old.insert_one(doc! { "_id": k, "log": [entry_of(k)] }).await;
            memory.note(k, Known::after(written, Known::There));
        }
    }
    memory
}

/// The recorded version, where it can be read.
pub async fn recorded(database: &Database) -> Option<String> {
    let metadata: Collection<Document> = database.collection("database_metadata");
    let record = metadata.find_one(doc! { "_id": "scenario_schema_version" }).await.ok()??;
    record.get_str("version").ok().map(str::to_owned)
}

impl Memory {
    /// Compares with what is in the collections, and returns all violations.
    pub async fn verify(
        mut self,
        database: &Database,
        collections: &[&str],
        field: &str,
    ) -> Vec<String> {
        let mut found = Vec::new();
        for name in collections {
            found.extend(super::verdict::documents(database, name).await);
        }
        self.check(&found, field).await;
        self.violations
    }
}
