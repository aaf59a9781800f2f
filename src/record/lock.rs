//! The lock: a lease in the database by the server's clock. It saves duplicate work; what keeps data
//! safe is the fence in the record.

use std::time::Duration;

use mongodb::bson::{Document, RawDocument, doc};
use mongodb::error::Error;
use mongodb::options::ReturnDocument;
use mongodb::{ClientSession, Database};
use tokio::time::Instant;

use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::record::observed::Holder;
use crate::server::answer;
use crate::server::stop::{Reason, RunError, Stop};

/// The `_id` of the lock, next to the record.
pub(crate) const LOCK_ID: &str = "upgrade_lock";

/// How long a run whose lease is over waits to hear who has the lock.
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// A lease that seems longer comes from a clock that was wrong, and is over: twice what may be set, as
/// the clocks of members differ.
const LONGEST_LEASE: Duration = Duration::from_secs(2 * 60 * 60);

/// This run's side of the lock.
#[derive(Clone, Debug)]
pub(crate) struct Lock {
    pub(crate) database: Database,
    pub(crate) collection: String,
    pub(crate) run_id: String,
    pub(crate) host: String,
    pub(crate) lease: Duration,
}

/// How an attempt to take the lock ended.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// It is this run's, perhaps after a holder whose lease was over.
    Taken { from: Option<Former> },
    /// Another run holds it.
    Held(Holder),
    /// What has its name is something else, which stays as it is.
    Foreign,
}

/// A holder whose lease was over.
#[derive(Debug)]
pub(crate) struct Former {
    pub(crate) holder: Holder,
    /// The id of the session in which it ran its transactions.
    pub(crate) session: Option<Document>,
}

/// What is read of a stored lock: its holder, if the lease is alive by the server's clock `now`.
///
/// A lock that cannot be understood is no lease: nothing can renew it, and nobody could wait it out.
pub(crate) fn live_holder(lock: &RawDocument, now: mongodb::bson::DateTime) -> Option<Holder> {
    let expires = lock.get_datetime("expires").ok()?;
    let longest = now.timestamp_millis() + LONGEST_LEASE.as_millis() as i64;
    let alive = expires > now && expires.timestamp_millis() <= longest;
    alive.then(|| Holder {
        run_id: lock.get_str("run_id").unwrap_or("unknown").to_owned(),
        host: lock.get_str("host").unwrap_or("unknown").to_owned(),
    })
}

/// The closed gate where something else has the lock's name.
pub(crate) fn foreign(database: &str, collection: &str) -> Failure {
    let place = format!("{database}.{collection}");
    Failure::new(
        Outcome::RecordUnreadable,
        format!("the document {LOCK_ID} of {place} is not this gate's lock: it names no run"),
        format!("rename or remove the document {LOCK_ID} of {place}, then run it again"),
    )
}

/// Whether a stored document that has the lock's name is something else.
pub(crate) fn is_no_lock(document: &RawDocument) -> bool {
    is_foreign(document.iter_elements().filter_map(|e| Some(e.ok()?.key().as_str().to_owned())))
}

/// Whether a document of these fields is no lock: it names no run, and something else.
fn is_foreign(keys: impl IntoIterator<Item = String>) -> bool {
    let keys: Vec<String> = keys.into_iter().collect();
    !keys.iter().any(|key| key == "run_id")
        && keys.iter().any(|key| !AMBIGUOUS_FIELDS.contains(&key.as_str()))
}

/// The fields of which alone nobody can tell whether they are a lock's.
const AMBIGUOUS_FIELDS: [&str; 2] = ["_id", "expires"];

impl Lock {
    fn documents(&self) -> mongodb::Collection<Document> {
        self.database.collection(&self.collection)
    }

    fn expires(&self) -> Document {
        doc! { "$add": ["$$NOW", self.lease.as_millis() as i64] }
    }

    /// Takes the lock if it is free, over, or already this run's.
    ///
    /// An attempt whose reply was lost may be repeated: it finds the lock to be this run's own. A reply that took long,
    /// for instance because of a slow majority, may be about a lease that has expired and a lock that another run has
    /// by now: it is asked for again.
    pub(crate) async fn attempt(&self, session: Option<&Document>) -> Result<Attempt, Error> {
        loop {
            let asked = Instant::now();
            let attempt = self.attempt_once(session).await?;
            if !matches!(attempt, Attempt::Taken { .. }) || asked.elapsed() < self.lease / 3 {
                return Ok(attempt);
            }
        }
    }

    /// One atomic update.
    async fn attempt_once(&self, session: Option<&Document>) -> Result<Attempt, Error> {
        let own = doc! { "$eq": ["$run_id", &self.run_id] };
        let free = doc! { "$or": [
            { "$ne": [{ "$type": "$expires" }, "date"] },
            { "$lte": ["$expires", "$$NOW"] },
            { "$gt": ["$expires", { "$add": ["$$NOW", LONGEST_LEASE.as_millis() as i64] }] },
        ]};
        let mine = doc! {
            "_id": LOCK_ID,
            "run_id": &self.run_id,
            "host": &self.host,
            "acquired": "$$NOW",
            "expires": self.expires(),
            "session": session.cloned().map_or(doc! { "$literal": null }, |s| doc! { "$literal": s }),
            "former": { "$cond": [
                { "$eq": [{ "$type": "$run_id" }, "string"] },
                { "run_id": "$run_id", "host": "$host", "session": "$session" },
                "$$REMOVE",
            ]},
        };
        let renewed = doc! { "$mergeObjects": ["$$ROOT", { "expires": self.expires() }] };
        let keys = doc! { "$map": { "input": { "$objectToArray": "$$ROOT" }, "in": "$$this.k" } };
        let others = doc! { "$setDifference": [keys, AMBIGUOUS_FIELDS.to_vec()] };
        let foreign = doc! { "$and": [
            { "$eq": [{ "$type": "$run_id" }, "missing"] },
            { "$ne": [others, []] },
        ]};
        let free = doc! { "$and": [{ "$not": [foreign] }, free] };
        let taken = doc! { "$cond": [own, renewed, { "$cond": [free, mine, "$$ROOT"] }] };
        let lock = self
            .documents()
            .find_one_and_update(doc! { "_id": LOCK_ID }, vec![doc! { "$replaceWith": taken }])
            .upsert(true)
            .return_document(ReturnDocument::After)
            .await;
        let lock = match lock {
            Ok(lock) => lock.unwrap_or_default(),
            // two runs created the lock at once: ask again who won
            Err(error) if answer::is_taken(&error) => doc! {},
            Err(error) => return Err(error),
        };
        let text =
            |document: &Document, key: &str| document.get_str(key).unwrap_or("unknown").to_owned();
        let holder = |document: &Document| Holder {
            run_id: text(document, "run_id"),
            host: text(document, "host"),
        };
        if lock.get_str("run_id").is_ok_and(|run_id| run_id == self.run_id) {
            let from = lock.get_document("former").ok().map(|former| Former {
                holder: holder(former),
                session: former.get_document("session").ok().cloned(),
            });
            Ok(Attempt::Taken { from })
        } else if is_foreign(lock.keys().cloned()) {
            Ok(Attempt::Foreign)
        } else {
            Ok(Attempt::Held(holder(&lock)))
        }
    }

    /// Ends what a session has under way. A transaction that it left open would otherwise hold its
    /// documents for up to a minute, and could still be committed.
    pub(crate) async fn end_session(&self, session: Option<&Document>) -> Result<(), Error> {
        if let Some(session) = session {
            self.database.run_command(doc! { "killSessions": [session.clone()] }).await?;
        }
        Ok(())
    }

    /// Extends the lease; false where the lock is no longer this run's.
    pub(crate) async fn renew(&self) -> Result<bool, Error> {
        let own = doc! { "_id": LOCK_ID, "run_id": &self.run_id };
        let renewal = vec![doc! { "$set": { "expires": self.expires() } }];
        Ok(self.documents().update_one(own, renewal).await?.matched_count == 1)
    }

    /// Extends the lease in `session`, whether it is still this run's or not.
    ///
    /// An answer means that whatever the session sent before is decided: the server does not carry out what
    /// comes late, and a majority has what it carried out.
    pub(crate) async fn renew_after(&self, session: &mut ClientSession) -> Result<(), Error> {
        let own = doc! { "_id": LOCK_ID, "run_id": &self.run_id };
        let renewal = vec![doc! { "$set": { "expires": self.expires() } }];
        self.documents().update_one(own, renewal).session(session).await.map(|_| ())
    }

    /// Gives the lock up, if it is still this run's: after all that `session` sent before, so that nobody
    /// has the lock while that is not decided.
    pub(crate) async fn release(&self, session: Option<&mut ClientSession>) -> Result<(), Error> {
        let own = doc! { "_id": LOCK_ID, "run_id": &self.run_id };
        let documents = self.documents();
        let delete = documents.delete_one(own);
        match session {
            Some(session) => delete.session(session).await.map(|_| ()),
            None => delete.await.map(|_| ()),
        }
    }

    /// Renews the lease until the returned guard is dropped, and stops the run where it is lost: taken
    /// over, or not renewed for as long as it lasts.
    pub(crate) fn keep(&self, stop: &Stop) -> Keeper {
        let (lock, stop) = (self.clone(), stop.clone());
        let mut renewed = Instant::now();
        Keeper(tokio::spawn(async move {
            loop {
                tokio::time::sleep(lock.lease / 3).await;
                let (mut asked, over) = (Instant::now(), renewed + lock.lease);
                let mut answer = tokio::time::timeout_at(over, lock.renew()).await;
                if !matches!(answer, Ok(Ok(_))) && Instant::now() >= over {
                    // perhaps it is this run that stood still, and another one has the lock
                    asked = Instant::now();
                    answer = tokio::time::timeout(LAST_ANSWER, lock.renew()).await;
                }
                match answer {
                    Ok(Ok(true)) => renewed = asked,
                    Ok(Ok(false)) => {
                        tracing::error!("the lock is lost; stopping");
                        return stop.raise(Reason::LeaseLost);
                    }
                    Ok(Err(error)) if asked < over => {
                        tracing::warn!(
                            error = answer::describe(&error),
                            "the lock could not be renewed; trying again"
                        );
                    }
                    Ok(Err(_)) | Err(_) => {
                        tracing::error!("the lock could not be renewed in time; stopping");
                        return stop.raise(Reason::NotRenewed);
                    }
                }
            }
        }))
    }

    /// Verifies the lease just before something without a fence is sent. A reply that took long, for instance because
    /// this run was paused, may be about a lease that has expired since: it is asked for again.
    pub(crate) async fn verify(&self, stop: &Stop) -> Result<(), RunError> {
        loop {
            let asked = Instant::now();
            if !stop.guard(self.renew()).await? {
                stop.raise(Reason::LeaseLost);
                return stop.check();
            }
            if asked.elapsed() < self.lease * 3 / 4 {
                return Ok(());
            }
        }
    }
}

/// Keeps a lease alive; dropping it ends that.
pub(crate) struct Keeper(tokio::task::JoinHandle<()>);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}
