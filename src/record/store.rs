//! The record's place in the database: reading it with the lock in one query, and moving it from
//! exactly one state to another.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use mongodb::bson::raw::cstr;
use mongodb::bson::{DateTime, Document, RawArrayBuf, RawDocumentBuf, doc, rawdoc};
use mongodb::error::{CommandError, Error, ErrorKind};
use mongodb::options::{ReadConcern, ReadPreference, SelectionCriteria};
use mongodb::{ClientSession, Database};

use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::record::document::{Record, Recorded};
use crate::record::doubt::{Doubt, Sent};
use crate::record::lock::{self, LOCK_ID, live_holder};
use crate::record::moves::Move;
use crate::record::names::Names;
use crate::record::observed::{Holder, Observed};
use crate::record::remembered;
use crate::record::staged;
use crate::record::stamp::change::Change;
use crate::server::stop::{RunError, Stop};
use crate::server::{answer, connection, errors};

/// How often a move whose answer was lost is made again before the error is passed on.
const ATTEMPTS: u32 = 8;

/// Where the record and the lock live.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pub(crate) database: Database,
    /// Whether the driver reads from one member, whatever it is.
    pub(crate) direct: bool,
    pub(crate) names: Names,
    /// What was sent and not answered.
    pub(crate) doubt: Doubt,
}

impl Store {
    /// Reads record and lock in one query: majority-committed, from the primary, with the server's clock.
    ///
    /// A lease of `run_id` is not another run's.
    ///
    /// # Errors
    ///
    /// A closed gate where something else has the lock's name.
    pub(crate) async fn observe(&self, run_id: &str) -> Result<Observed, RunError> {
        let mut record: Option<RawDocumentBuf> = None;
        let mut holder: Option<Holder> = None;
        for (document, now) in self.own_documents(&[&self.names.record, LOCK_ID]).await? {
            if document.get_str("_id").is_ok_and(|id| id == LOCK_ID) {
                if lock::is_no_lock(&document) {
                    return Err(lock::foreign(self.database.name(), &self.names.collection).into());
                }
                holder = live_holder(&document, now);
            } else {
                record = Some(document);
            }
        }
        Ok(Observed {
            recorded: Recorded::parse(record.as_deref()),
            holder: holder.filter(|holder| holder.run_id != run_id),
            stamp: None,
            occupied: vec![],
        })
    }

    /// Those of the gate's documents that have these `_id`s, each with the server's clock, in one query:
    /// majority-committed, from the primary.
    pub(super) async fn own_documents(
        &self,
        ids: &[&str],
    ) -> Result<Vec<(RawDocumentBuf, DateTime)>, RunError> {
        self.ensure_primary().await?;
        let pipeline = vec![
            doc! { "$match": { "_id": { "$in": ids } } },
            doc! { "$replaceWith": { "document": "$$ROOT", "now": "$$NOW" } },
        ];
        let mut cursor = self
            .database
            .collection::<Document>(&self.names.collection)
            .aggregate(pipeline)
            .read_concern(ReadConcern::majority())
            .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
            .await?;
        let mut documents = Vec::new();
        while cursor.advance().await? {
            let row = cursor.current();
            documents.push((row.get_document("document")?.to_owned(), row.get_datetime("now")?));
        }
        Ok(documents)
    }

    /// The driver reads from the primary of a set that it knows; a direct connection may be to any member.
    pub(super) async fn ensure_primary(&self) -> Result<(), RunError> {
        if self.direct { connection::primary(&self.database).await } else { Ok(()) }
    }

    /// The record's document as it is stored.
    pub(crate) async fn document(&self) -> Result<Option<RawDocumentBuf>, RunError> {
        self.ensure_primary().await?;
        let records = self.database.collection(&self.names.collection);
        Ok(records.find_one(doc! { "_id": &self.names.record }).await?)
    }

    /// The collections that hold documents, the gate's own aside.
    pub(crate) async fn occupied(&self) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        let mut collections =
            self.database.list_collections().filter(doc! { "type": { "$ne": "view" } }).await?;
        while collections.advance().await? {
            let name = collections.current().get_str("name")?.to_owned();
            if !name.starts_with("system.") {
                names.push(name);
            }
        }
        names.sort();
        let mut occupied = Vec::new();
        for name in names {
            if self.holds_documents(&name).await? {
                occupied.push(name);
            }
        }
        Ok(occupied)
    }

    /// What is wrong with the place of the record in a database that has none.
    pub(crate) async fn misplaced(&self) -> Result<Option<Failure>, Error> {
        let (database, collection) = (self.database.name(), &self.names.collection);
        let list = doc! {
            "listCollections": 1,
            "nameOnly": true,
            "authorizedCollections": true,
            "filter": { "name": collection },
        };
        let mut found = self.database.run_cursor_command(list).await?;
        while found.advance().await? {
            let kind = found.current().get_str("type").unwrap_or_default();
            if matches!(kind, "view" | "timeseries") {
                let name = format!("{database}.{collection}");
                return Ok(Some(errors::no_collection(&name, kind)));
            }
        }
        let client = self.database.client();
        let names = client.list_database_names().authorized_databases(true).await?;
        let other =
            |name: &&String| *name != database && name.to_lowercase() == database.to_lowercase();
        let stored = names.iter().find(other);
        Ok(stored.map(|stored| errors::differs_in_case(database, stored)))
    }

    /// A collection that holds documents, the gate's own aside, among those that the user may see.
    pub(crate) async fn seen_occupied(&self) -> Result<Option<String>, Error> {
        // names alone: what more is told needs a privilege
        let list = doc! { "listCollections": 1, "nameOnly": true, "authorizedCollections": true };
        let mut collections = self.database.run_cursor_command(list).await?;
        while collections.advance().await? {
            let collection = collections.current();
            let name = collection.get_str("name")?;
            if collection.get_str("type").is_ok_and(|kind| kind == "view")
                || name.starts_with("system.")
            {
                continue;
            }
            match self.holds_documents(name).await {
                Ok(true) => return Ok(Some(name.to_owned())),
                Ok(false) => {}
                // it is there, which a misspelt database's would not be; what the run needs of it is asked later
                Err(error) if answer::code(&error) == Some(answer::UNAUTHORISED) => {
                    return Ok(Some(name.to_owned()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The names of all collections and views that the user may see.
    pub(crate) async fn seen_collections(&self) -> Result<HashSet<String>, Error> {
        Ok(self.seen_kinds().await?.into_keys().collect())
    }

    /// What all collections that the user may see are, by their names: `collection`, `view`, `timeseries`.
    pub(crate) async fn seen_kinds(&self) -> Result<HashMap<String, String>, Error> {
        let list = doc! { "listCollections": 1, "nameOnly": true, "authorizedCollections": true };
        let mut found = self.database.run_cursor_command(list).await?;
        let mut kinds = HashMap::new();
        while found.advance().await? {
            let collection = found.current();
            let kind = collection.get_str("type")?.to_owned();
            kinds.insert(collection.get_str("name")?.to_owned(), kind);
        }
        Ok(kinds)
    }

    /// The `_id`s of the gate's own documents.
    pub(crate) fn own_ids(&self) -> [String; 3] {
        let record = &self.names.record;
        [LOCK_ID.to_owned(), record.clone(), remembered::id(record)]
    }

    /// Whether a collection holds documents, the gate's own aside.
    async fn holds_documents(&self, name: &str) -> Result<bool, Error> {
        let filter = if name == self.names.collection {
            let own = self.own_ids().to_vec();
            doc! { "_id": { "$nin": own }, "$nor": [staged::filter()] }
        } else {
            doc! {}
        };
        let documents = self.database.collection::<RawDocumentBuf>(name);
        // also what a majority is still to get
        let find = documents.find_one(filter).read_concern(ReadConcern::local());
        Ok(find.projection(doc! { "_id": 1 }).await?.is_some())
    }

    /// Tries to move the record once, in the session's transaction where one is given; false where the
    /// record is not, or no longer, in the state that the move starts from.
    pub(crate) async fn attempt(
        &self,
        change: &Move,
        session: Option<&mut ClientSession>,
    ) -> Result<bool, RunError> {
        let records = self.database.collection::<RawDocumentBuf>(&self.names.collection);
        match change {
            Move::Insert(document) => {
                let insert = records.insert_one(document);
                let result = match session {
                    Some(session) => insert.session(session).await,
                    None => insert.await,
                };
                match result {
                    Ok(_) => Ok(true),
                    Err(error) if answer::is_taken(&error) => Ok(false),
                    Err(error) => Err(unwritable(error)),
                }
            }
            Move::Update { filter, update } => {
                let update = records.update_one(filter.clone(), update.clone());
                let result = match session {
                    Some(session) => update.session(session).await,
                    None => update.await,
                };
                Ok(result.map_err(unwritable)?.matched_count == 1)
            }
            Move::Replace { filter, by } => self.replace(filter, by, session).await,
        }
    }

    /// Replaces the record by a command of its own: the driver takes only what it can decode.
    async fn replace(
        &self,
        filter: &RawDocumentBuf,
        by: &RawDocumentBuf,
        session: Option<&mut ClientSession>,
    ) -> Result<bool, RunError> {
        let mut update = RawDocumentBuf::new();
        update.append(cstr!("q"), filter.clone());
        update.append(cstr!("u"), by.clone());
        let mut command = RawDocumentBuf::new();
        command.append(cstr!("update"), self.names.collection.as_str());
        command.append(cstr!("updates"), RawArrayBuf::from_iter([update]));
        // in a transaction its commit has the write concern
        if session.is_none() {
            command.append(cstr!("writeConcern"), rawdoc! { "w": "majority", "j": true });
        }
        let command = self.database.run_raw_command(command);
        let answer = match session {
            Some(session) => command.session(session).await?,
            None => command.await?,
        };
        if let Some(error) = answer::write_errors(&answer).next() {
            let error: CommandError = mongodb::bson::deserialize_from_document(doc! {
                "code": error.get_i32("code").unwrap_or_default(),
                "codeName": "",
                "errmsg": error.get_str("errmsg").unwrap_or_default(),
            })?;
            return Err(unwritable(ErrorKind::Command(error).into()));
        }
        answer::fail_on_write_concern(&answer)?;
        Ok(answer.get_i32("n").is_ok_and(|n| n == 1))
    }

    /// Moves the record from one state to another by itself, whatever happens to the answers; in the session,
    /// where one is given, together with the stamp.
    ///
    /// It is sent in the run's session where there is one, so that what the session does later comes after it
    /// on the server, too.
    ///
    /// # Errors
    ///
    /// [`RunError::RecordMoved`] where the record is in neither state.
    pub(crate) async fn compare_and_set_record(
        &self,
        from: Option<&Record>,
        to: &Record,
        run_id: &str,
        stop: &Stop,
        stamp: Option<&Change>,
        mut session: Option<&mut ClientSession>,
    ) -> Result<(), RunError> {
        let change = Arc::new(Move::between(from, to, &self.names)?);
        let mut attempts = 0;
        loop {
            // on a standalone what was written just before is counted here: a stop does not come between
            if attempts > 0 || session.is_some() {
                stop.check()?;
            }
            let sent = Sent::between(from, to, run_id);
            let sending = self.doubt.sending(match session {
                Some(_) => sent,
                None => sent.alone(&change),
            });
            let attempt = self.attempt_alone(&change, stamp, session.as_deref_mut());
            let error = match self.doubt.answer(stop, attempt).await {
                Ok(true) => {
                    sending.committed();
                    return Ok(());
                }
                Ok(false) => {
                    sending.refused();
                    None
                }
                Err(RunError::Driver(error))
                    if errors::is_transient(&error) && attempts < ATTEMPTS =>
                {
                    Some(error)
                }
                Err(error) => {
                    sending.ended_with(&error);
                    return Err(error);
                }
            };
            // the change may have been made all the same, by an attempt whose answer was lost
            let observed = match stop.guard_with_grace(self.observe(run_id)).await {
                Ok(observed) => observed,
                Err(error) if error.is_transient() && attempts < ATTEMPTS => {
                    attempts += 1;
                    stop.sleep(Duration::from_millis(50) * attempts).await?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            match (&observed.recorded, from) {
                (Recorded::Readable(record), _) if record.is_state(to) => {
                    self.doubt.resolved();
                    return Ok(());
                }
                (Recorded::Readable(record), Some(from)) if record.is_state(from) => {}
                (Recorded::Absent, None) => {}
                _ => return Err(RunError::RecordMoved),
            }
            if attempts > ATTEMPTS {
                return Err(RunError::RecordMoved);
            }
            if let Some(error) = error {
                tracing::warn!(
                    error = answer::describe(&error),
                    "the record could not be written; trying again"
                );
            }
            attempts += 1;
            stop.sleep(Duration::from_millis(50) * attempts).await?;
        }
    }
}

/// What keeps the record from being written: what the server says of its collection, if it says so.
fn unwritable(error: Error) -> RunError {
    let meaning = errors::meaning(&error, Outcome::NoServer);
    match meaning.filter(|meaning| meaning.outcome == Outcome::ServerUnsuitable) {
        Some(_) => {
            RunError::Failure(errors::failure(&error, "writing the record", Outcome::NoServer))
        }
        None => RunError::Driver(error),
    }
}
