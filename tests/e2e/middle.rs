//! An upgrade that stands still in its middle for as long as a scenario wants.

use mongodb::ClientSession;
use mongodb::bson::{Bson, Document, doc};
use serde_json::{Value, json};

use super::apps;
use super::gate::merged;
use super::lab;
use super::world::World;

/// How many documents the upgrade changes, ten in a batch, and how many of them before it stands still.
const DOCUMENTS: i32 = 100;
const HALF: i64 = 50;

/// A user's open transaction, which holds the document in the middle: the batch that changes it conflicts,
/// and is tried again.
pub struct Middle {
    session: ClientSession,
}

/// The lab at 0.7.0, serving, and documents for [`upgrade`].
pub async fn prepare(world: &World) -> Middle {
    world.install_lab().await;
    hold(world).await
}

/// The documents, beside a lab that is there.
pub async fn hold(world: &World) -> Middle {
    apps::fill(&world.database, "counters", (0..DOCUMENTS).map(|n| doc! { "_id": n })).await;
    Middle { session: held(world, "counters", HALF).await }
}

/// A user's open transaction, which has changed one document: what else changes it waits for its end.
pub async fn held(world: &World, collection: &str, id: impl Into<Bson>) -> ClientSession {
    let client = world.database.client();
    // Longer than the minute that the server gives a transaction.
    let lifetime = doc! { "setParameter": 1, "transactionLifetimeLimitSeconds": 600 };
    client.database("admin").run_command(lifetime).await.unwrap();
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let documents = world.database.collection::<Document>(collection);
    let change = doc! { "$set": { "user": "was here" } };
    let one = doc! { "_id": id.into() };
    let changed = documents.update_one(one, change).session(&mut session).await.unwrap();
    assert_eq!(changed.matched_count, 1);
    session
}

/// Values of the lab's release 0.8.0, whose upgrade counts every document up: twice done would show.
pub fn upgrade() -> Value {
    let settings = json!({ "batchDocuments": 10, "lockLease": "10s" });
    let lab = lab::lab("0.8.0", "a", "0.8.0", "0.8.0=increment");
    merged(lab, json!({ "gate": { "settings": settings } }))
}

impl Middle {
    /// Waits until the upgrade is there, and returns the id of its run.
    pub async fn reached(&self, world: &World) -> String {
        world.until("the middle of the upgrade", async || unfinished(world).await).await
    }

    /// Lets the upgrade go on.
    pub async fn pass(mut self) {
        self.session.commit_transaction().await.unwrap();
    }
}

/// The run whose upgrade stands in its middle.
pub async fn unfinished(world: &World) -> Option<String> {
    let record = apps::record(&world.database).await;
    let journal = record.get_document("journal").ok()?;
    let step = journal.get_array("steps").unwrap()[0].as_document().unwrap().clone();
    let there = step.get_i64("documents").unwrap() == HALF;
    there.then(|| journal.get_str("run_id").unwrap().to_owned())
}

/// Waits until another run than this one works.
pub async fn taken_over(world: &World, run: &str) {
    let another = async || {
        let lock = apps::lock(&world.database).await?;
        (lock.get_str("run_id").unwrap() != run).then_some(())
    };
    world.until("another run", another).await;
}

/// Asserts that the upgrade took effect once on each document, and lost nobody's change.
#[track_caller]
pub fn finished(world: &World) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        let documents = u64::try_from(DOCUMENTS).unwrap();
        for (filter, expected) in [
            (doc! { "n": 1 }, documents),
            (doc! {}, documents),
            (doc! { "_id": HALF, "n": 1, "user": "was here" }, 1),
        ] {
            let counted = apps::count(&world.database, "counters", filter.clone()).await;
            assert_eq!(counted, expected, "{filter} at {place}");
        }
        let record = apps::record(&world.database).await;
        assert_eq!(apps::history(&record), ["auto_stamp 0.7.0", "upgrade 0.8.0"], "at {place}");
        assert!(!record.contains_key("journal"), "{record} at {place}");
        assert_eq!(apps::lock(&world.database).await, None, "at {place}");
    }
}
