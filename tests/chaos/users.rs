//! Users beside the upgrade: they write into what is being changed, and remember what was acknowledged.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use fastrand::Rng;
use mongodb::bson::{Bson, Document, doc};
use mongodb::{Collection, Database};

use super::plan::Plan;
use crate::apps::METADATA;

/// What is known of an entry, each of which has a number of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    There,
    Gone,
    /// An answer was lost.
    Unknown,
}

enum Write {
    Insert(Document),
    Update(Document, Document),
    Delete(Document),
}

/// What a user remembers.
#[derive(Default)]
pub struct Memory {
    entries: BTreeMap<i64, Known>,
    deleted: Vec<i64>,
    pub acknowledged: usize,
    violations: Vec<String>,
}

impl Memory {
    /// Writes, and remembers which entries came and went with it; false where the answer was lost.
    async fn write(
        &mut self,
        collection: &Collection<Document>,
        write: Write,
        comes: Option<i64>,
        goes: &[i64],
    ) -> bool {
        let written = match write {
            Write::Insert(document) => collection.insert_one(document).await.map(|_| 1),
            Write::Update(filter, update) => {
                collection.update_one(filter, update).await.map(|result| result.modified_count)
            }
            Write::Delete(filter) => {
                collection.delete_one(filter).await.map(|result| result.deleted_count)
            }
        };
        if let Ok(0) = written {
            self.violations
                .push(format!("what {comes:?} comes to and {goes:?} go from is missing"));
        }
        let known = |then| if written.is_ok() { then } else { Known::Unknown };
        self.entries.extend(comes.map(|entry| (entry, known(Known::There))));
        self.entries.extend(goes.iter().map(|entry| (*entry, known(Known::Gone))));
        self.acknowledged += usize::from(written.is_ok());
        written.is_ok()
    }

    /// Compares with the entries in `field` of all documents; returns what is otherwise.
    pub fn verify(self, documents: &[Document], field: &str) -> Vec<String> {
        let Memory { entries, deleted, mut violations, .. } = self;
        let mut there: HashMap<i64, usize> = HashMap::new();
        for entry in documents.iter().flat_map(|d| d.get_array(field).into_iter().flatten()) {
            *there.entry(number(entry)).or_default() += 1;
        }
        for (entry, known) in entries {
            let times = there.get(&entry).copied().unwrap_or_default();
            let fine = match known {
                Known::There => times == 1,
                Known::Gone => times == 0,
                Known::Unknown => times <= 1,
            };
            if !fine {
                violations
                    .push(format!("entry {entry} of {field}, {known:?}, is there {times} times"));
            }
        }
        let ids: Vec<i64> = documents.iter().filter_map(|d| d.get_i64("_id").ok()).collect();
        let back = deleted.iter().filter(|id| ids.contains(id));
        violations.extend(back.map(|id| format!("document {id} was deleted and is back")));
        violations
    }
}

/// An entry, which `pin` resolves.
pub fn entry(k: i64) -> Document {
    doc! { "k": k, "name": "ann" }
}

/// The number of an entry.
pub fn number(entry: &Bson) -> i64 {
    entry.as_document().and_then(|entry| entry.get_i64("k").ok()).unwrap_or(-1)
}

/// The entries with which a list of `things` begins.
pub fn first_entries(id: i64) -> Vec<i64> {
    (0..3).map(|n| id * 10 + n).collect()
}

async fn pause(rng: &mut Rng) {
    tokio::time::sleep(Duration::from_millis(rng.u64(1..25))).await;
}

/// Adds documents to `counters`, and entries to the logs of those that were there.
pub async fn count(plan: &Plan, database: &Database, over: &Cell<bool>) -> Memory {
    let (mut rng, mut memory) = (plan.rng(1), Memory::default());
    let (counters, ids) = (database.collection("counters"), plan.counters());
    for k in 0.. {
        if over.get() {
            break;
        }
        let write = match rng.u8(..4) {
            0 => Write::Insert(doc! { "_id": k as f64 + 0.5, "log": [entry(k)] }),
            _ => {
                let id = ids[rng.usize(..ids.len())].clone();
                Write::Update(doc! { "_id": id }, doc! { "$push": { "log": entry(k) } })
            }
        };
        memory.write(&counters, write, Some(k), &[]).await;
        pause(&mut rng).await;
    }
    memory
}

/// Pushes, pulls and replaces entries in the lists of `things`; adds and deletes documents.
pub async fn edit(plan: &Plan, database: &Database, over: &Cell<bool>) -> Memory {
    let (mut rng, mut memory) = (plan.rng(2), Memory::default());
    let things = database.collection("things");
    // the entries of each document that are there for sure
    let mut lists: BTreeMap<i64, Vec<i64>> =
        (0..plan.documents.into()).map(|id| (id, first_entries(id))).collect();
    memory.entries.extend(lists.values().flatten().map(|entry| (*entry, Known::There)));
    for k in 1_000_000.. {
        if over.get() {
            break;
        }
        pause(&mut rng).await;
        let at = rng.usize(..lists.len().max(1));
        let (dice, id) = (rng.u8(..12), lists.keys().nth(at).copied().unwrap_or_default());
        if dice == 0 || lists.is_empty() {
            let new = Write::Insert(doc! { "_id": k, "list": [entry(k)] });
            if memory.write(&things, new, Some(k), &[]).await {
                lists.insert(k, vec![k]);
            }
            continue;
        }
        let (own, list) = (doc! { "_id": id }, lists.entry(id).or_default());
        if dice == 1 {
            let goes = std::mem::take(list);
            lists.remove(&id);
            if memory.write(&things, Write::Delete(own), None, &goes).await {
                memory.deleted.push(id);
            }
            continue;
        }
        let some =
            (dice < 8 && !list.is_empty()).then(|| list.swap_remove(rng.usize(..list.len())));
        let (write, comes) = match some {
            Some(old) if dice < 5 => {
                (Write::Update(own, doc! { "$pull": { "list": { "k": old } } }), None)
            }
            Some(old) => {
                let there = doc! { "_id": id, "list.k": old };
                (Write::Update(there, doc! { "$set": { "list.$": entry(k) } }), Some(k))
            }
            None => (Write::Update(own, doc! { "$push": { "list": entry(k) } }), Some(k)),
        };
        if memory.write(&things, write, comes, some.as_slice()).await {
            list.extend(comes);
        }
    }
    memory
}

/// Writes into `old`: beside its rename all the time, and as soon as it is dropped, as code does that
/// has a new use for the name.
pub async fn write_old(plan: &Plan, database: &Database, over: &Cell<bool>) -> Memory {
    let (mut rng, mut memory) = (plan.rng(3), Memory::default());
    let (old, dropped) = (database.collection("old"), plan.version_of("drop"));
    for k in 0.. {
        if over.get() {
            break;
        }
        pause(&mut rng).await;
        if dropped.is_none() || recorded(database).await >= dropped {
            let new = Write::Insert(doc! { "_id": k, "log": [entry(k)] });
            memory.write(&old, new, Some(k), &[]).await;
        }
    }
    memory
}

/// The recorded version, where it can be read.
pub async fn recorded(database: &Database) -> Option<String> {
    let metadata: Collection<Document> = database.collection(METADATA);
    let record = metadata.find_one(doc! { "_id": "scenario_schema_version" }).await.ok()??;
    record.get_str("version").ok().map(str::to_owned)
}
