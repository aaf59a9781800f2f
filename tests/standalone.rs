//! Upgrades where there are no transactions, and users who write beside the upgrade, there and on a
//! replica set.

mod apps;
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use apps::{
    Fault, METADATA, actions, assert_code, count, counted, faulty, fill, history, lock, record,
    record_old, scenario, suited,
};
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::UpdateModifications;
use mongodb::{Client, Database};
use support::{Fresh, Gate, Run, Server, db_hash, dump, eventually};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

/// The standalone server that all tests of this file share.
async fn standalone() -> &'static Server {
    static SERVER: OnceCell<Server> = OnceCell::const_new();
    SERVER.get_or_init(Server::standalone).await
}

async fn both() -> [&'static Server; 2] {
    [standalone().await, Server::shared().await]
}

/// Documents for every convergent upgrade of the scenario.
async fn filled(server: &Server, documents: i32) -> Fresh {
    let database = server.database().await;
    let thing = |i: i32| {
        let entries = (0..i % 4).map(|n| doc! { "uid": n, "name": format!("p{}", n * i % 7) });
        let mut thing = doc! { "_id": i, "a": i, "z": [i], "list": entries.collect::<Vec<_>>() };
        if i % 3 == 0 {
            thing.insert("owner", format!("p{}", i % 5));
        }
        if i % 5 == 0 {
            thing.insert("block", doc! { "text": format!("block of {i}") });
        }
        thing
    };
    fill(&database, "things", (0..documents).map(thing)).await;
    fill(&database, "people", people()).await;
    fill(&database, "old", (0..5).map(|i| doc! { "_id": i })).await;
    record_old(&database).await;
    database
}

fn people() -> impl Iterator<Item = Document> {
    (0..5).map(|i| doc! { "_id": 100 + i, "name": format!("p{i}") })
}

/// All documents but the gate's own.
async fn documents(database: &Database) -> BTreeMap<String, Vec<mongodb::bson::RawDocumentBuf>> {
    let mut documents = dump(database).await;
    documents.remove(METADATA);
    documents
}

const ALL: &str =
    "0.8.0=move_field,twice,pin;0.8.1=owners,index,extract;0.9.0=rename,validator,grow";

/// What the server can apply of [`ALL`].
fn all() -> String {
    suited(ALL)
}

// ---- what can be done ----

#[tokio::test]
async fn convergent_transforms_and_commands_leave_the_documents_that_they_leave_on_a_replica_set() {
    for batch in ["7", "1000"] {
        let mut left = Vec::new();
        for server in both().await {
            let database = filled(server, 60).await;
            let gate = scenario(&database.uri, "0.9.0", &all()).set("GATE_BATCH_DOCUMENTS", batch);
            let before = db_hash(&database).await;
            let plan = gate.clone().mode("plan").run().await;
            assert_code(&plan, 10);
            assert_eq!(db_hash(&database).await, before);
            let run = gate.run().await;
            assert_code(&run, 0);
            assert_code(&gate.clone().mode("check").run().await, 0);
            assert_eq!(lock(&database).await, None);
            assert_eq!(history(&record(&database).await).len(), 4);
            for (version, upgrade) in plan.report["upgrades"].as_array().unwrap().iter().enumerate()
            {
                let exact = upgrade["exact"].as_bool().unwrap();
                assert!(!exact || upgrade["actions"] == actions(&run)[version].1, "{plan}\n{run}");
            }
            left.push((actions(&run), documents(&database).await));
        }
        assert_eq!(left[0], left[1]);
    }
}

#[tokio::test]
async fn what_needs_transactions_is_refused_before_any_write() {
    for upgrades in ["0.8.0=move_field;0.9.0=increment", "0.8.0=index,singleton", "0.8.0=stubborn"]
    {
        for (server, codes) in both().await.into_iter().zip([[18, 18], [10, 0]]) {
            let database = filled(server, 10).await;
            let before = db_hash(&database).await;
            for (mode, code) in ["plan", "upgrade"].into_iter().zip(codes) {
                let run = scenario(&database.uri, "0.9.0", upgrades).mode(mode).run().await;
                assert_code(&run, code);
                if code == 18 {
                    assert_eq!(db_hash(&database).await, before, "{run}");
                    assert!(run.report["message"].as_str().unwrap().contains("needs transactions"));
                    assert!(run.report["next"].as_str().unwrap().contains("--replSet"), "{run}");
                }
            }
        }
    }
    // not even the lock's collection is made
    let database = standalone().await.database().await;
    fill(&database, "counters", [doc! { "_id": 1 }]).await;
    let run = scenario(&database.uri, "0.8.0", "0.8.0=increment").run().await;
    assert_code(&run, 18);
    assert!(run.report["message"].as_str().unwrap().ends_with("; nothing was written"), "{run}");
    assert_eq!(database.list_collection_names().await.unwrap(), ["counters"], "{run}");
}

#[tokio::test]
async fn a_document_that_cannot_be_transformed_is_found_before_the_first_write() {
    let database = filled(standalone().await, 30).await;
    fill(&database, "things", [doc! { "_id": "last", "bad": true }]).await;
    let before = db_hash(&database).await;
    let gate = scenario(&database.uri, "0.8.0", "0.8.0=index,refuse,move_field")
        .set("GATE_BATCH_DOCUMENTS", "5");
    let run = gate.run().await;
    assert_code(&run, 14);
    assert!(run.report["message"].as_str().unwrap().contains("document \"last\" of things"));
    assert_eq!(db_hash(&database).await, before, "{run}");
    assert_code(&gate.set("SCENARIO_FIXED", "true").run().await, 0);
}

#[tokio::test]
async fn what_the_server_refuses_ends_the_run_and_the_report_of_the_next_covers_everything() {
    let database = filled(standalone().await, 60).await;
    let unique = doc! { "createIndexes": "things", "indexes": [
        { "key": { "b": 1 }, "name": "b", "unique": true, "sparse": true },
    ] };
    database.run_command(unique).await.unwrap();
    let things = database.collection::<Document>("things");
    things.update_one(doc! { "_id": 31 }, doc! { "$set": { "a": 3 } }).await.unwrap();
    let gate = scenario(&database.uri, "0.8.0", "0.8.0=move_field,owners")
        .set("GATE_BATCH_DOCUMENTS", "20");
    let run = gate.run().await;
    assert_code(&run, 14);
    let message = run.report["message"].as_str().unwrap();
    assert!(message.contains("document 31 of things: duplicate key in index b"), "{run}");
    assert_eq!(lock(&database).await, None);
    assert_code(&gate.clone().mode("check").run().await, 10);
    let done = count(&database, "things", doc! { "b": { "$exists": true } }).await;
    assert_eq!(run.report["unfinished"]["documents"], done, "{run}");

    things.update_one(doc! { "_id": 31 }, doc! { "$set": { "a": 31 } }).await.unwrap();
    let run = gate.run().await;
    assert_code(&run, 0);
    assert_eq!(count(&database, "things", doc! { "a": { "$exists": true } }).await, 0);
    assert_eq!(counted(&run, "0.8.0", "moved"), 60, "{run}");
}

// ---- killed ----

#[tokio::test]
async fn runs_killed_at_any_instant_leave_what_one_run_leaves() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let reference = filled(standalone().await, 300).await;
    let undisturbed = scenario(&reference.uri, "0.9.0", &all()).run().await;
    assert_code(&undisturbed, 0);
    // as long as the last run to its end took, and longer with each that was killed: on a machine that becomes slower a
    // run must still get past its preflight, and on one that becomes faster it must still be killed
    let about = |run: &Run| run.elapsed.as_millis().max(600) as u64;
    let mut longest = about(&undisturbed);
    let reference = documents(&reference).await;
    for server in both().await {
        let mut kills = 0;
        while kills < 25 {
            let database = filled(server, 300).await;
            let gate = scenario(&database.uri, "0.9.0", &all())
                .set("GATE_BATCH_DOCUMENTS", "20")
                .set("GATE_LOCK_LEASE", "300ms");
            let run = loop {
                let running = gate.spawn();
                tokio::time::sleep(Duration::from_millis(random.u64(10..longest))).await;
                longest += longest / 10;
                // it may have ended
                let _ = std::process::Command::new("kill")
                    .args(["-KILL", &running.pid().to_string()])
                    .stderr(std::process::Stdio::null())
                    .status();
                let run = running.wait().await;
                if run.signal.is_none() {
                    break run;
                }
                kills += 1;
            };
            assert_code(&run, 0);
            longest = about(&run);
            assert_eq!(documents(&database).await, reference, "seed {seed}");
            let upgrades = ["initialise 0.7.0", "upgrade 0.8.0", "upgrade 0.8.1", "upgrade 0.9.0"];
            assert_eq!(history(&record(&database).await), upgrades, "seed {seed}");
        }
    }
}

// ---- users ----

/// A user's work on documents of its own: what was acknowledged is known exactly.
struct User {
    database: Database,
    random: fastrand::Rng,
    number: i32,
    uid: i32,
    /// By `_id`, as it must be at the end, without what the upgrade adds.
    documents: BTreeMap<i32, Vec<(i32, String)>>,
    writes: usize,
}

const USERS: i32 = 3;

impl User {
    async fn new(uri: &str, number: i32, documents: i32, seed: u64) -> User {
        let database = Client::with_uri_str(uri).await.unwrap().default_database().unwrap();
        let own = (0..documents).filter(|id| id % USERS == number);
        let documents = own.map(|id| (id, entries(id))).collect();
        let random = fastrand::Rng::with_seed(seed + number as u64);
        User { database, random, number, uid: 1000, documents, writes: 0 }
    }

    async fn update(&self, id: i32, update: impl Into<UpdateModifications>, filters: &[Document]) {
        let things = self.database.collection::<Document>("things");
        let update = things.update_one(doc! { "_id": id }, update);
        let update = match filters {
            [] => update.await,
            filters => update.array_filters(filters.to_vec()).await,
        };
        assert_eq!(update.unwrap().matched_count, 1);
    }

    /// One write of one kind, acknowledged.
    async fn write(&mut self) {
        let ids: Vec<i32> = self.documents.keys().copied().collect();
        let id = ids[self.random.usize(..ids.len())];
        self.uid += 1;
        let (uid, name) = (self.uid, format!("p{}", self.random.u8(..8)));
        let entry = doc! { "uid": uid, "name": &name };
        let entries = self.documents.get_mut(&id).unwrap();
        match self.random.u8(..10) {
            0..4 => {
                entries.push((uid, name));
                self.update(id, doc! { "$push": { "list": entry } }, &[]).await;
            }
            4..6 if !entries.is_empty() => {
                let (uid, _) = entries.remove(self.random.usize(..entries.len()));
                self.update(id, doc! { "$pull": { "list": { "uid": uid } } }, &[]).await;
            }
            6..8 if !entries.is_empty() => {
                let at = self.random.usize(..entries.len());
                let before = std::mem::replace(&mut entries[at], (uid, name)).0;
                let replace = doc! { "$set": { "list.$[entry]": entry } };
                self.update(id, replace, &[doc! { "entry.uid": before }]).await;
            }
            8 => {
                let id = 1_000_000 + uid * USERS + self.number;
                self.documents.insert(id, vec![(uid, name)]);
                fill(&self.database, "things", [doc! { "_id": id, "list": [entry] }]).await;
            }
            _ => {
                self.documents.remove(&id);
                let things = self.database.collection::<Document>("things");
                let deleted = things.delete_one(doc! { "_id": id }).await.unwrap();
                assert_eq!(deleted.deleted_count, 1);
            }
        }
        self.writes += 1;
    }
}

/// The entries that a thing has at first, as `(uid, name)`.
fn entries(id: i32) -> Vec<(i32, String)> {
    (0..id % 5).map(|n| (n, format!("p{}", (id + n) % 8))).collect()
}

struct Users {
    stop: Arc<AtomicBool>,
    work: Vec<JoinHandle<User>>,
}

impl Users {
    async fn start(uri: &str, documents: i32, seed: u64) -> Users {
        let stop = Arc::new(AtomicBool::new(false));
        let mut work = Vec::new();
        for number in 0..USERS {
            let (stop, mut user) = (stop.clone(), User::new(uri, number, documents, seed).await);
            work.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    user.write().await;
                }
                user
            }));
        }
        Users { stop, work }
    }

    /// Ends their work, and returns what must be there, and how many writes made it so.
    async fn stop(self) -> (BTreeMap<i32, Vec<(i32, String)>>, usize) {
        self.stop.store(true, Ordering::Relaxed);
        let (mut expected, mut writes) = (BTreeMap::new(), 0);
        for user in self.work {
            let user = user.await.unwrap();
            writes += user.writes;
            expected.extend(user.documents);
        }
        (expected, writes)
    }
}

async fn used(server: &Server, documents: i32) -> Fresh {
    let database = server.database().await;
    let thing = |id: i32| {
        let list = entries(id).into_iter().map(|(uid, name)| doc! { "uid": uid, "name": name });
        doc! { "_id": id, "list": list.collect::<Vec<_>>() }
    };
    fill(&database, "things", (0..documents).map(thing)).await;
    fill(&database, "people", people()).await;
    record_old(&database).await;
    database
}

/// Waits until the journaled upgrade has dealt with so many documents.
async fn progressed(database: &Database, documents: i64) {
    eventually("progress", || async {
        let record = record(database).await;
        let Ok(journal) = record.get_document("journal") else {
            return history(&record).contains(&"upgrade 0.8.0".to_owned()).then_some(());
        };
        let step = journal.get_array("steps").unwrap()[0].as_document().unwrap();
        (step.get_i64("documents").unwrap_or_default() >= documents).then_some(())
    })
    .await;
}

/// Every acknowledged write is there, and every entry has the reference of its own name.
async fn assert_as_users_left_it(
    database: &Database,
    expected: &BTreeMap<i32, Vec<(i32, String)>>,
    context: &str,
) {
    let things = database.collection::<Document>("things");
    let mut found = BTreeMap::new();
    let mut cursor = things.find(doc! {}).await.unwrap();
    while cursor.advance().await.unwrap() {
        let thing = Document::try_from(cursor.current()).unwrap();
        let mut left = Vec::new();
        for entry in thing.get_array("list").unwrap() {
            let entry = entry.as_document().unwrap();
            let name = entry.get_str("name").unwrap();
            let number: i32 = name[1..].parse().unwrap();
            let reference = if number < 5 { Bson::Int32(100 + number) } else { "lost".into() };
            assert_eq!(entry.get("ref"), Some(&reference), "{thing}: {context}");
            left.push((entry.get_i32("uid").unwrap(), name.to_owned()));
        }
        found.insert(thing.get_i32("_id").unwrap(), left);
    }
    assert_eq!(found.len(), expected.len(), "{context}");
    for (id, entries) in expected {
        assert_eq!(found.get(id), Some(entries), "document {id}: {context}");
    }
}

fn beside(database: &Fresh, batch: &str) -> Gate {
    scenario(&database.uri, "0.8.0", "0.8.0=pin").set("GATE_BATCH_DOCUMENTS", batch)
}

#[tokio::test]
async fn users_who_write_beside_a_large_upgrade_lose_nothing() {
    let seed = fastrand::u64(..1 << 40);
    for server in both().await {
        let database = used(server, 3000).await;
        let users = Users::start(&database.uri, 3000, seed).await;
        let running = beside(&database, "50").spawn();
        progressed(&database, 1500).await;
        let (expected, writes) = users.stop().await;
        let run = running.wait().await;
        assert_code(&run, 0);
        assert!(writes > 20, "{writes} writes");
        assert_as_users_left_it(&database, &expected, &format!("seed {seed}: {run}")).await;
        assert!(counted(&run, "0.8.0", "resolved") > 3000, "{run}");
    }
}

#[tokio::test]
async fn users_who_write_beside_a_small_upgrade_lose_nothing() {
    let seed = fastrand::u64(..1 << 40);
    for server in both().await {
        let database = used(server, 200).await;
        let users = Users::start(&database.uri, 200, seed).await;
        let mut running = beside(&database, "1000").spawn();
        running.logged("upgrade started").await;
        let (expected, _) = users.stop().await;
        let run = running.wait().await;
        assert_code(&run, 0);
        // what they wrote while they stopped, after the last look, is of the old shape
        let old = doc! { "list": { "$elemMatch": { "ref": { "$exists": false } } } };
        if count(&database, "things", old).await == 0 {
            assert_as_users_left_it(&database, &expected, &format!("seed {seed}: {run}")).await;
        }
    }
}

#[tokio::test]
async fn a_runner_stopped_beyond_its_lease_and_woken_beside_users_spoils_nothing() {
    let seed = fastrand::u64(..1 << 40);
    for server in both().await {
        let database = used(server, 3000).await;
        let users = Users::start(&database.uri, 3000, seed).await;
        let gate = beside(&database, "50").set("GATE_LOCK_LEASE", "1s");
        let first = gate.spawn();
        progressed(&database, 300).await;
        first.signal("STOP");
        let mut second = gate.spawn();
        second.logged("took over the lock of a run whose lease was over").await;
        progressed(&database, 900).await;
        first.signal("CONT");
        progressed(&database, 1500).await;
        let (expected, writes) = users.stop().await;
        let (first, second) = (first.wait().await, second.wait().await);
        assert!([Some(0), Some(21)].contains(&first.code), "{first}");
        assert_code(&second, 0);
        assert!(writes > 20, "{writes} writes");
        assert_as_users_left_it(&database, &expected, &format!("seed {seed}: {second}")).await;
        assert_eq!(history(&record(&database).await), ["initialise 0.7.0", "upgrade 0.8.0"]);
        assert_eq!(lock(&database).await, None);
    }
}

#[tokio::test]
async fn a_change_made_between_reading_and_writing_a_document_is_kept() {
    for server in both().await {
        let database = used(server, 10).await;
        let fault = Fault::block(&database, &["update"], Duration::from_millis(300), 4).await;
        let gate = scenario(&faulty(&database), "0.8.0", "0.8.0=index,pin");
        let running = gate.spawn();
        progressed(&database, 0).await;
        let things = database.collection::<Document>("things");
        let change = doc! { "$push": { "list": { "uid": 77, "name": "p1" } } };
        eventually("the index", || async {
            let names = things.list_index_names().await.unwrap();
            names.contains(&"by b".to_owned()).then_some(())
        })
        .await;
        for id in 0..10 {
            things.update_one(doc! { "_id": id }, change.clone()).await.unwrap();
        }
        let run = running.wait().await;
        fault.end().await;
        assert_code(&run, 0);
        let expected = (0..10).map(|id| {
            let mut entries = entries(id);
            entries.push((77, "p1".to_owned()));
            (id, entries)
        });
        assert_as_users_left_it(&database, &expected.collect(), &format!("{run}")).await;
    }
}

#[tokio::test]
async fn a_change_of_what_is_moved_to_another_collection_is_kept() {
    let (database, run) = changed_while_moved(Server::shared().await).await;
    assert_code(&run, 0);
    assert_eq!(count(&database, "blocks", doc! {}).await, 5);
    let kept = doc! { "_id": 3, "block.text": "the user's" };
    assert_eq!(count(&database, "blocks", kept).await, 1, "{run}");
}

/// Without transactions the old block may be there already, under the `_id` of the new one.
#[tokio::test]
async fn a_change_of_what_was_moved_on_a_standalone_ends_the_run_before_it_is_lost() {
    let (database, run) = changed_while_moved(standalone().await).await;
    assert_code(&run, 14);
    let message = run.report["message"].as_str().unwrap();
    assert!(message.contains("document 3 of things: it adds the document 3 to blocks"), "{run}");
    let kept = doc! { "_id": 3, "block.text": "the user's" };
    assert_eq!(count(&database, "things", kept).await, 1, "{run}");
    // out of the way, as the report says
    database.collection::<Document>("blocks").delete_one(doc! { "_id": 3 }).await.unwrap();
    let run = scenario(&database.uri, "0.8.0", "0.8.0=extract,index").run().await;
    assert_code(&run, 0);
    let kept = doc! { "_id": 3, "block.text": "the user's" };
    assert_eq!(count(&database, "blocks", kept).await, 1, "{run}");
}

/// Blocks are moved out of things, and a user changes one after it was read.
async fn changed_while_moved(server: &Server) -> (Fresh, Run) {
    let database = server.database().await;
    let blocks = (0..5).map(|i| doc! { "_id": i, "block": { "text": "old" } });
    fill(&database, "things", blocks).await;
    record_old(&database).await;
    let fault = Fault::block(&database, &["insert"], Duration::from_millis(500), 1).await;
    let running = scenario(&faulty(&database), "0.8.0", "0.8.0=extract,index").spawn();
    fault.met(1).await;
    let things = database.collection::<Document>("things");
    let change = doc! { "$set": { "block.text": "the user's" } };
    let change = things.update_one(doc! { "_id": 3, "block": { "$exists": true } }, change);
    assert_eq!(change.await.unwrap().matched_count, 1);
    let run = running.wait().await;
    fault.end().await;
    (database, run)
}
