//! Finding the documents of a transform, in the order of their `_id`s.

use std::time::Instant;

use mongodb::bson::raw::cstr;
use mongodb::bson::{
    Bson, Document, RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, Timestamp, doc, rawdoc,
};
use mongodb::error::Error;
use mongodb::{ClientSession, Database};

use crate::authoring::step_error::StepError;
use crate::authoring::transform::Transform;
use crate::engine::background::TURN;
use crate::engine::documents::edited::{Edited, Sizes};
use crate::server::stop::RunError;

/// How many documents the server may send at once for a look-up; its default of 101 would ask twice.
pub(crate) const LOOK_UP_BATCH: i32 = 100_000;

/// The field in which a read ahead asks for the size of the whole document.
pub(crate) const SIZE: &str = "upgrade_gate_size";

/// Where documents are read.
#[derive(Clone, Copy)]
pub(crate) enum In {
    /// In the transaction that writes them.
    Transaction,
    /// Outside, as a majority has them, once it has all that was written up to a time.
    Plain(Option<Timestamp>),
}

impl In {
    pub(crate) fn read_concern(self) -> Option<Document> {
        match self {
            In::Transaction => None,
            In::Plain(None) => Some(doc! { "level": "majority" }),
            In::Plain(Some(since)) => Some(doc! { "level": "majority", "afterClusterTime": since }),
        }
    }
}

/// Where a batch begins.
#[derive(Clone, Copy)]
enum Place<'a> {
    /// At the first document.
    Start,
    /// After the document with this `_id`.
    After(&'a Bson),
    /// At the document whose `_id` is the greatest of all keys, if there is one.
    Greatest,
}

/// The queries for the batch after `after`; each is sent only if those before it found nothing.
pub(crate) fn finds(
    transform: &Transform,
    after: Option<&Bson>,
    limit: usize,
    place: In,
    sizes: Sizes,
) -> Vec<Document> {
    let find = |from| find(transform, from, limit, place, sizes);
    match after {
        None => vec![find(Place::Start)],
        // nothing comes after it, and the server takes no such bound
        Some(Bson::MaxKey) => vec![],
        // a lower bound alone leaves out what has the greatest of all keys
        Some(after) => vec![find(Place::After(after)), find(Place::Greatest)],
    }
}

/// What the first of these queries that finds anything finds.
pub(crate) async fn documents(
    database: &Database,
    mut session: Option<&mut ClientSession>,
    finds: Vec<Document>,
) -> Result<Vec<RawDocumentBuf>, RunError> {
    for find in finds {
        let find = RawDocumentBuf::try_from(&find)?;
        let documents = query(database, session.as_deref_mut(), find).await?;
        if !documents.is_empty() {
            return Ok(documents);
        }
    }
    Ok(vec![])
}

/// Index bounds, not `$gt`, go on after a document: a comparison sees one BSON type only.
fn find(transform: &Transform, place: Place<'_>, limit: usize, read: In, sizes: Sizes) -> Document {
    let but = |id: Bson| doc! { "$and": [{ "_id": id }, transform.filter.clone()] };
    let filter = match place {
        Place::Start => transform.filter.clone(),
        // The lower bound is inclusive, but its document alone might fill the reply: the server excludes it.
        Place::After(after) => but(doc! { "$ne": after }.into()),
        Place::Greatest => but(Bson::MaxKey),
    };
    let mut find = find_in_order(transform, sizes);
    find.insert("filter", filter);
    find.insert("limit", limit as i64);
    find.insert("batchSize", limit as i64);
    find.insert("singleBatch", true);
    if let Place::After(after) = place {
        find.insert("min", doc! { "_id": after });
    }
    if let Some(concern) = read.read_concern() {
        find.insert("readConcern", concern);
    }
    find
}

/// The query, in a transaction, for documents that were read before, as far as they still match.
///
/// They are found by their `_id`s, in a moment however few of the collection's documents match: the server
/// ends a transaction after a minute.
pub(crate) fn find_again(
    transform: &Transform,
    documents: &[Edited],
    sizes: Sizes,
) -> Result<RawDocumentBuf, Error> {
    let mut ids = RawArrayBuf::new();
    for edited in documents {
        if let Some(id) = edited.document.get("_id")? {
            ids.push(id);
        }
    }
    let mut both = RawArrayBuf::new();
    both.push(rawdoc! { "_id": { "$in": ids } });
    both.push(RawDocumentBuf::try_from(&transform.filter)?);
    let mut find = RawDocumentBuf::try_from(&find_in_order(transform, sizes))?;
    find.append(cstr!("filter"), rawdoc! { "$and": both });
    // one more, or the server would wait to be asked for the end
    find.append(cstr!("batchSize"), documents.len() as i64 + 1);
    Ok(find)
}

/// The query for all documents in `_id` order, with the fields that the transform reads.
fn find_in_order(transform: &Transform, sizes: Sizes) -> Document {
    let mut find = doc! {
        "find": &*transform.collection,
        "sort": { "_id": 1 },
        "hint": { "_id": 1 },
    };
    let projection = projection(transform, sizes);
    if !projection.is_empty() {
        find.insert("projection", projection);
    }
    find
}

/// The fields that the transform reads; empty where it reads whole documents.
pub(crate) fn projection(transform: &Transform, sizes: Sizes) -> Document {
    let mut projection = doc! {};
    for field in &transform.fields {
        projection.insert(&**field, 1);
    }
    if !projection.is_empty() && sizes == Sizes::Asked {
        projection.insert(SIZE, doc! { "$bsonSize": "$$ROOT" });
    }
    projection
}

/// Refuses an `_id` that repeats a field, or cannot be read: a journal cannot hold it, and would lose its
/// place.
pub(crate) fn check_id(document: &RawDocument) -> Result<(), StepError> {
    let id = document.get("_id").ok().flatten().filter(|id| Bson::try_from(*id).is_ok());
    let Some(id) = id else { return Err(StepError::refused("its _id cannot be read")) };
    let RawBsonRef::Document(id) = id else { return Ok(()) };
    let held = Document::try_from(id).and_then(|id| RawDocumentBuf::try_from(&id));
    match held.is_ok_and(|held| held.as_bytes() == id.as_bytes()) {
        true => Ok(()),
        false => Err(StepError::refused("its _id repeats a field")),
    }
}

/// Whether more documents are wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    On,
    Enough,
}

/// Runs a `find` or an aggregation, and hands over its documents one by one, until its end or enough.
pub(crate) async fn each(
    database: &Database,
    session: Option<&mut ClientSession>,
    find: RawDocumentBuf,
    mut take: impl FnMut(&RawDocument) -> Result<Flow, RunError>,
) -> Result<Flow, RunError> {
    let mut began = Instant::now();
    let mut turn = async || {
        if began.elapsed() > TURN {
            tokio::task::yield_now().await;
            began = Instant::now();
        }
    };
    match session {
        Some(session) => {
            let mut cursor = database.run_raw_cursor_command(find).session(&mut *session).await?;
            while cursor.advance(session).await? {
                if take(cursor.current())? == Flow::Enough {
                    return Ok(Flow::Enough);
                }
                turn().await;
            }
        }
        None => {
            let mut cursor = database.run_raw_cursor_command(find).await?;
            while cursor.advance().await? {
                if take(cursor.current())? == Flow::Enough {
                    return Ok(Flow::Enough);
                }
                turn().await;
            }
        }
    }
    Ok(Flow::On)
}

/// The command of an aggregation over a collection.
pub(crate) fn aggregate(
    collection: &str,
    pipeline: RawArrayBuf,
    place: In,
) -> Result<RawDocumentBuf, Error> {
    let mut command = rawdoc! {
        "aggregate": collection,
        "pipeline": pipeline,
        "cursor": { "batchSize": LOOK_UP_BATCH },
    };
    if let Some(concern) = place.read_concern() {
        command.append(cstr!("readConcern"), RawDocumentBuf::try_from(&concern)?);
    }
    Ok(command)
}

/// Runs a `find` or an aggregation to its end.
pub(crate) async fn query(
    database: &Database,
    session: Option<&mut ClientSession>,
    find: RawDocumentBuf,
) -> Result<Vec<RawDocumentBuf>, RunError> {
    let mut documents = Vec::new();
    let keep = |document: &RawDocument| {
        documents.push(document.to_owned());
        Ok(Flow::On)
    };
    each(database, session, find, keep).await?;
    Ok(documents)
}
