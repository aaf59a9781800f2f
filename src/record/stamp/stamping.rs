//! The stamp's place in the database: reading it, and moving it along with the record.

use mongodb::ClientSession;
use mongodb::bson::{Document, RawDocument, RawDocumentBuf, doc};
use mongodb::error::Error;

use crate::record::document::{Record, Recorded};
use crate::record::moves::Move;
use crate::record::observed::Observed;
use crate::record::stamp::change::{Change, Write};
use crate::record::stamp::stamped::{Place, Stamp};
use crate::record::store::Store;
use crate::server::stop::{RunError, Stop};

impl Store {
    /// Reads the stamp, where the application keeps one, then record and lock in one query.
    ///
    /// A run may move both between the two: where they differ they are read again, until the record is twice
    /// the same.
    pub(crate) async fn observe_all(&self, run_id: &str) -> Result<Observed, RunError> {
        let Some(place) = &self.names.stamp else { return self.observe(run_id).await };
        let mut before: Option<Record> = None;
        loop {
            let stamp = self.stamp(place, None).await?;
            let observed = self.observe(run_id).await?;
            let differing = match &observed.recorded {
                Recorded::Readable(record) if record.disagrees_with(&stamp) => Some(record),
                _ => None,
            };
            let Some(record) = differing else {
                return Ok(Observed { stamp: Some(stamp), ..observed });
            };
            if before.as_ref().is_some_and(|before| before.is_version(record)) {
                return Ok(Observed { stamp: Some(stamp), ..observed });
            }
            before = Some(record.clone());
        }
    }

    /// What the application stamped, as a majority has it, or as the session's transaction sees it.
    pub(crate) async fn stamp(
        &self,
        place: &Place,
        session: Option<&mut ClientSession>,
    ) -> Result<Stamp, Error> {
        let stamps = self.database.collection::<RawDocumentBuf>(&place.collection);
        let find = stamps
            .find(place.filter(&self.own_ids_in(place)))
            .projection(doc! { "_id": 1, &place.field: 1 })
            .limit(2);
        let mut documents = Vec::new();
        match session {
            Some(session) => {
                let mut cursor = find.session(&mut *session).await?;
                while cursor.advance(session).await? {
                    documents.push(cursor.current().to_owned());
                }
            }
            None => {
                let mut cursor = find.await?;
                while cursor.advance().await? {
                    documents.push(cursor.current().to_owned());
                }
            }
        }
        let documents: Vec<&RawDocument> = documents.iter().map(|document| &**document).collect();
        place.read(&documents)
    }

    /// The gate's own documents, where the stamp's collection has them too.
    fn own_ids_in(&self, place: &Place) -> Vec<String> {
        match place.collection == self.names.collection {
            true => self.own_ids().to_vec(),
            false => vec![],
        }
    }

    /// What the move needs of the stamp, if it needs anything.
    pub(crate) fn stamps(&self, from: Option<&Record>, to: &Record) -> Option<Change> {
        self.names.stamp.as_ref()?;
        Change::between(from, to)
    }

    /// Moves the stamp in the session's transaction, in which the record moves.
    ///
    /// # Errors
    ///
    /// [`RunError::RecordMoved`] where the stamp is not what the move started from.
    pub(crate) async fn stamp_along(
        &self,
        change: Option<&Change>,
        session: &mut ClientSession,
    ) -> Result<(), RunError> {
        let (Some(change), Some(place)) = (change, &self.names.stamp) else { return Ok(()) };
        let stamp = self.stamp(place, Some(&mut *session)).await?;
        let write = change.write(&stamp);
        match self.write_stamp(place, &write, Some(session)).await? {
            true => Ok(()),
            false => Err(RunError::RecordMoved),
        }
    }

    /// False where the stamp is not, or no longer, what the write was computed from.
    async fn write_stamp(
        &self,
        place: &Place,
        write: &Write,
        session: Option<&mut ClientSession>,
    ) -> Result<bool, Error> {
        let stamps = self.database.collection::<Document>(&place.collection);
        let (update, adds) = match write {
            Write::Nothing => return Ok(true),
            Write::Refused => return Ok(false),
            Write::Add(to) => {
                let set = doc! { "$setOnInsert": { &place.field: to } };
                let filter = place.filter(&self.own_ids_in(place));
                (stamps.update_one(filter, set).upsert(true), true)
            }
            Write::Replace { found, to } => {
                let (filter, set) = Write::replacing(place, found, to);
                (stamps.update_one(filter, set), false)
            }
        };
        let result = match session {
            Some(session) => update.session(session).await?,
            None => update.await?,
        };
        Ok(if adds { result.upserted_id.is_some() } else { result.matched_count == 1 })
    }

    /// Makes a move of the record by itself once; in a transaction of its own where the stamp moves along.
    pub(crate) async fn attempt_alone(
        &self,
        change: &Move,
        stamp: Option<&Change>,
        session: Option<&mut ClientSession>,
    ) -> Result<bool, RunError> {
        let (stamp, session) = match (stamp, session) {
            (Some(stamp), Some(session)) => (stamp, session),
            (_, session) => return self.attempt(change, session).await,
        };
        session.start_transaction().await?;
        let moved = async {
            let moved = self.attempt(change, Some(&mut *session)).await?;
            if moved {
                self.stamp_along(Some(stamp), &mut *session).await?;
            }
            Ok::<_, RunError>(moved)
        };
        let moved = moved.await;
        match moved {
            Ok(true) => session.commit_transaction().await?,
            // the error, or that the record is elsewhere, says more
            _ => drop(session.abort_transaction().await),
        }
        moved
    }

    /// Moves the record from one state to another by itself, and the stamp along with its version.
    ///
    /// # Errors
    ///
    /// [`RunError::RecordMoved`] where the record is in neither state, or the stamp is not at the version that the
    /// move starts from.
    pub(crate) async fn compare_and_set(
        &self,
        from: Option<&Record>,
        to: &Record,
        run_id: &str,
        stop: &Stop,
        session: Option<&mut ClientSession>,
    ) -> Result<(), RunError> {
        match (self.stamps(from, to), session) {
            (Some(change), None) => {
                self.compare_and_set_in_steps(from, to, &change, run_id, stop).await
            }
            (stamp, session) => {
                self.compare_and_set_record(from, to, run_id, stop, stamp.as_ref(), session).await
            }
        }
    }

    /// Moves the record and then the stamp, on a server without transactions: the record says that the stamp is
    /// to follow, so that whoever comes next can tell, and finish it.
    async fn compare_and_set_in_steps(
        &self,
        from: Option<&Record>,
        to: &Record,
        change: &Change,
        run_id: &str,
        stop: &Stop,
    ) -> Result<(), RunError> {
        let Some(place) = &self.names.stamp else { return Ok(()) };
        let stamp = stop.guard(self.stamp(place, None)).await?;
        let write = change.write(&stamp);
        if write == Write::Refused {
            return Err(RunError::RecordMoved);
        }
        let moved = to.stamping_along(write.stamping());
        self.compare_and_set_record(from, &moved, run_id, stop, None, None).await?;
        self.finish_stamp(&moved, run_id, stop).await
    }

    /// Writes the stamp that is to follow the record, and notes in the record that it did.
    ///
    /// # Errors
    ///
    /// [`RunError::RecordMoved`] where it is neither what it was nor what it becomes.
    pub(crate) async fn finish_stamp(
        &self,
        record: &Record,
        run_id: &str,
        stop: &Stop,
    ) -> Result<(), RunError> {
        let (Some(stamping), Some(place)) = (record.stamping(), &self.names.stamp) else {
            return Ok(());
        };
        let stamp = stop.guard(self.stamp(place, None)).await?;
        let write = Write::rest(stamping, &stamp);
        if !stop.guard_with_grace(self.write_stamp(place, &write, None)).await? {
            return Err(RunError::RecordMoved);
        }
        tracing::info!(stamp = stamping.to, collection = place.collection, "stamp written");
        let done = record.stamping_along(None);
        self.compare_and_set_record(Some(record), &done, run_id, stop, None, None).await
    }
}
