//! A batch of a transform: reading documents in `_id` order, computing their edits, and writing them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mongodb::bson::raw::{CString, cstr};
use mongodb::bson::{
    Bson, DateTime, Document, RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, Timestamp, doc,
    rawdoc,
};
use mongodb::error::Error;
use mongodb::{ClientSession, Database};
use tokio::task::JoinError;

use crate::authoring::edit::{
    Counts, Edits, Extent, Inserts, MAX_DOCUMENT_SIZE, Touched, deletion, guarded_deletion,
};
use crate::authoring::lookup::{Found, Keys, Lookup};
use crate::authoring::step_error::StepError;
use crate::authoring::table::Unit;
use crate::authoring::transform::Transform;
use crate::engine::added::{by_collection, there};
use crate::engine::author::{self, about, refused};
use crate::engine::converge::{Verify, verify, verify_known};
use crate::engine::large::{self, Exchange};
use crate::engine::{Context, Halt, at, failed_step};
use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::record::journal::Done;
use crate::server::answer::{fail_on_write_concern, write_errors};
use crate::server::redact;

/// What one `update` or `insert` command may carry, in bytes; one statement alone may be larger.
const COMMAND_BYTES: usize = 12 * 1024 * 1024;

/// How many bytes of documents one transaction may change: far below what strains a small cache, and so few
/// that their `_id`s fit in one command.
pub(crate) const TRANSACTION_BYTES: usize = 12 * 1024 * 1024;

/// How many statements or documents the server takes in one command.
const COMMAND_ITEMS: usize = 100_000;

/// How many documents the server may send at once for a look-up; its default of 101 would ask twice.
pub(crate) const LOOK_UP_BATCH: i32 = 100_000;

/// For how long documents that were read may be looked through before the run's other tasks get their turn.
const TURN: Duration = Duration::from_millis(2);

/// How many bytes of edited documents and of their edits a batch may hold; one document may need more.
const HELD_BYTES: usize = 8 * 1024 * 1024;

/// How many bytes of documents may be found for a batch; what is found for one document may be more.
const FOUND_BYTES: usize = 8 * 1024 * 1024;

/// Under these names, which no author gives to a counter, it is counted what no counter counted:
/// documents changed, deleted and added.
pub(crate) const CHANGED: &str = "(changed)";
pub(crate) const DELETED: &str = "(deleted)";
pub(crate) const ADDED: &str = "(added)";

/// By how much one document may be counted: a sum over all documents must fit into an int64.
const MOST_COUNTED: u64 = 1 << 31;

/// The field in which a look-ahead asks for the size of the whole document.
const SIZE: &str = "upgrade_gate_size";

/// How a batch is read.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    /// To be written in a transaction.
    Write,
    /// To find out beforehand whether it could be.
    Look,
    /// To be written outside transactions, or to find out whether it could be.
    Guarded,
}

/// Documents of a transform, read and computed together.
pub(crate) struct Batch {
    /// The documents that change, in `_id` order.
    pub(crate) edited: Vec<Edited>,
    /// How many documents were read.
    pub(crate) read: u64,
    /// The `_id` of the last document read; none at the end of the collection.
    pub(crate) last: Option<Bson>,
    /// Whether the documents hold their sizes.
    pub(crate) sizes: Sizes,
    /// What the transform makes of documents, as far as it is to be given to it once more and asks for
    /// more than was looked up.
    pub(crate) outputs: Vec<RawDocumentBuf>,
}

/// A document as it was read, and what its edits come to.
pub(crate) struct Edited {
    pub(crate) document: RawDocumentBuf,
    effect: Effect,
}

/// What the edits of one document come to.
struct Effect {
    /// Whether the document itself is changed.
    changes: bool,
    /// Whether it is deleted.
    deletes: bool,
    counts: Counts,
    inserts: Inserts,
    /// What edits the document on the server; none where it is not itself to be written, or not by one
    /// statement.
    statement: Option<RawDocumentBuf>,
    /// What is to become of its fields, where one statement cannot hold that and what they are.
    large: Option<Touched>,
    /// What deletes it there; none where it stays.
    deletion: Option<RawDocumentBuf>,
    /// The bytes of the document before or after, whichever are more, as far as its size was asked for, and
    /// of those that it adds.
    bytes: usize,
    /// What the document becomes, where that is asked for.
    output: Option<RawDocumentBuf>,
}

impl Batch {
    /// The first documents of the batch, as many as one transaction may change that was tried so often
    /// before, and the `_id` after which the next batch begins then.
    pub(crate) fn part(&self, tried: u32) -> (&[Edited], Option<Bson>) {
        let most = self.edited.len().checked_shr(tried).unwrap_or_default();
        let mut bytes = 0;
        let fits = self.edited.iter().take(most).take_while(|edited| {
            bytes += edited.bytes();
            bytes <= TRANSACTION_BYTES
        });
        let part = &self.edited[..fits.count().max(1).min(self.edited.len())];
        match part.last() {
            Some(last) if part.len() < self.edited.len() => (part, last.id()),
            _ => (part, self.last.clone()),
        }
    }

    /// Leaves what is too much for one transaction to the next batch.
    pub(crate) fn cut(&mut self) {
        let (part, last) = self.part(0);
        let keep = part.len();
        self.edited.truncate(keep);
        self.last = last;
    }

    /// Whether it takes so much memory that nothing else should beside it.
    pub(crate) fn is_large(&self) -> bool {
        let bytes = |edited: &Edited| edited.document.as_bytes().len() + edited.beside();
        self.edited.iter().map(bytes).sum::<usize>() > HELD_BYTES
    }

    /// What writing the batch does.
    pub(crate) fn done(&self) -> Done {
        done(&self.edited)
    }
}

/// What writing these does.
fn done<'a>(edited: impl IntoIterator<Item = &'a Edited>) -> Done {
    let mut done = Done::default();
    edited.into_iter().for_each(|edited| edited.count(&mut done));
    done
}

impl Edited {
    pub(crate) fn count(&self, done: &mut Done) {
        done.documents += 1;
        let mut count = |name: &str, n: u64| match done.counts.get_mut(name) {
            Some(count) => *count = count.saturating_add(n),
            None => {
                done.counts.insert(name.to_owned(), n);
            }
        };
        let Effect { counts, inserts, changes, deletes, .. } = &self.effect;
        counts.iter().for_each(|(name, n)| count(name, *n));
        if counts.iter().all(|(_, n)| *n == 0) {
            if *changes {
                count(CHANGED, 1);
            }
            if *deletes {
                count(DELETED, 1);
            }
            if !inserts.is_empty() {
                count(ADDED, inserts.len() as u64);
            }
        }
    }

    /// The bytes that are held of it beside the document.
    pub(crate) fn beside(&self) -> usize {
        let inserts = self.effect.inserts.iter().map(|(_, document)| document);
        let own = self.effect.statement.iter().chain(&self.effect.deletion);
        let bytes: usize = inserts.chain(own).map(|document| document.as_bytes().len()).sum();
        bytes + self.effect.large.as_ref().map_or(0, Touched::bytes)
    }

    /// What is to become of its fields, where that is too large for one statement.
    pub(crate) fn large(&self) -> Option<&Touched> {
        self.effect.large.as_ref()
    }

    /// The bytes that are held of it.
    pub(crate) fn held(&self) -> usize {
        let output = self.output().map_or(0, |output| output.as_bytes().len());
        self.document.as_bytes().len() + self.beside() + output
    }

    /// The bytes that are changed, at the most.
    pub(crate) fn bytes(&self) -> usize {
        self.effect.bytes
    }

    /// The documents that it adds, by collection.
    pub(crate) fn inserts(&self) -> impl Iterator<Item = (&str, &RawDocumentBuf)> {
        self.effect.inserts.iter().map(|(collection, document)| (&**collection, document))
    }

    /// What the document becomes, where that was to be kept and differs.
    pub(crate) fn output(&self) -> Option<&RawDocument> {
        self.effect.output.as_deref()
    }

    /// Whether the document is deleted.
    pub(crate) fn deletes(&self) -> bool {
        self.effect.deletes
    }

    fn id(&self) -> Option<Bson> {
        self.document.get("_id").ok().flatten()?.try_into().ok()
    }
}

/// Reads the next batch after `after` in the session's transaction, with its edits.
pub(crate) async fn read(
    database: &Database,
    session: &mut ClientSession,
    unit: &Unit,
    transform: &Transform,
    after: Option<&Bson>,
    limit: usize,
) -> Result<Batch, Halt> {
    let finds = finds(transform, after, limit, In::Transaction, Sizes::Asked);
    let documents = documents(database, Some(&mut *session), finds).await?;
    let promise = Verify::promise(transform);
    // what is too much is read again by the next call
    Ok(compute_in(database, session, unit, transform, documents, promise).await?.batch)
}

/// Writes, in the session's transaction, documents that were read and computed before it: where one is not
/// what it was, its edits are computed anew.
pub(crate) async fn write_foreseen(
    database: &Database,
    session: &mut ClientSession,
    unit: &Unit,
    transform: &Transform,
    foreseen: &[Edited],
    sizes: Sizes,
) -> Result<Done, Halt> {
    if foreseen.is_empty() {
        return Ok(Done::default());
    }
    let find = find_again(transform, foreseen, sizes)?;
    let (mut edited, mut changed) = (Vec::<&Edited>::with_capacity(foreseen.len()), Vec::new());
    let mut rest: Option<HashMap<&[u8], &Edited>> = None;
    each(database, Some(&mut *session), find, |document| {
        let next = foreseen.get(edited.len()).filter(|_| rest.is_none());
        if let Some(then) = next.filter(|then| *then.document == *document) {
            edited.push(then);
            return Ok(Flow::On);
        }
        // here one is gone, or not what it was; those behind it may all be
        let rest = rest.get_or_insert_with(|| {
            let later = foreseen[edited.len()..].iter();
            later.map(|then| (then.document.as_bytes(), then)).collect()
        });
        match rest.get(document.as_bytes()) {
            Some(then) => edited.push(then),
            None => changed.push(document.to_owned()),
        }
        Ok(Flow::On)
    })
    .await?;
    let mut anew = Vec::new();
    while !changed.is_empty() {
        let computed =
            compute_in(database, session, unit, transform, changed, Verify::Nothing).await?;
        anew.push(computed.batch);
        changed = computed.rest;
    }
    edited.extend(anew.iter().flat_map(|batch| &batch.edited));
    write(database, session, unit, transform, &edited).await?;
    Ok(done(edited))
}

/// Computes the edits of documents that were read in the session's transaction.
async fn compute_in(
    database: &Database,
    session: &mut ClientSession,
    unit: &Unit,
    transform: &Transform,
    documents: Vec<RawDocumentBuf>,
    promise: Verify,
) -> Result<Computed, Halt> {
    let place = In::Transaction;
    let gathered = gather(database, Some(&mut *session), unit, transform, documents, place).await?;
    let Gathered { documents, found, rest } = gathered;
    let mut computed = compute(unit, transform, documents, found, Purpose::Write, promise).await?;
    computed.rest.extend(rest);
    let outputs = std::mem::take(&mut computed.batch.outputs);
    verify_all(database, Some(session), unit, transform, outputs, place).await?;
    Ok(computed)
}

/// Gives the transform those of its outputs that ask for more than was looked up.
pub(crate) async fn verify_all(
    database: &Database,
    mut session: Option<&mut ClientSession>,
    unit: &Unit,
    transform: &Transform,
    mut outputs: Vec<RawDocumentBuf>,
    place: In,
) -> Result<(), Halt> {
    while !outputs.is_empty() {
        let session = session.as_deref_mut();
        let gathered = gather(database, session, unit, transform, outputs, place).await?;
        let Gathered { documents, found, rest } = gathered;
        let (unit, transform) = (unit.clone(), transform.clone());
        let verifying = move |_: &Abandoned| {
            documents.iter().try_for_each(|output| verify(&unit, &transform, output, &found))
        };
        aside(verifying).await?;
        outputs = rest;
    }
    Ok(())
}

/// Documents, and what they refer to.
pub(crate) struct Gathered {
    pub(crate) documents: Vec<RawDocumentBuf>,
    pub(crate) found: Found,
    /// Those behind them, with which it would be too much.
    pub(crate) rest: Vec<RawDocumentBuf>,
}

/// Looks up what documents refer to; of fewer of them where that is too much to be held.
pub(crate) async fn gather(
    database: &Database,
    mut session: Option<&mut ClientSession>,
    unit: &Unit,
    transform: &Transform,
    mut documents: Vec<RawDocumentBuf>,
    place: In,
) -> Result<Gathered, Halt> {
    let mut rest = Vec::new();
    loop {
        let most = if documents.len() > 1 { FOUND_BYTES } else { usize::MAX };
        let own = transform.clone();
        let version = unit.clone();
        let asking = move |_: &Abandoned| {
            let mut found = Found::default();
            let finds = look_ups(&version, &own, &documents, &mut found, place)?;
            Ok((documents, found, finds))
        };
        let (asked, mut found, finds) = aside(asking).await?;
        documents = asked;
        let mut flow = Flow::On;
        for (position, find) in finds {
            let session = session.as_deref_mut();
            flow = take(database, session, unit, transform, &mut found, (position, find), most)
                .await?;
            if flow == Flow::Enough {
                break;
            }
        }
        if flow == Flow::On {
            let session = session.as_deref_mut();
            flow =
                take_in_order(database, session, unit, transform, &mut found, place, most).await?;
        }
        if flow == Flow::On {
            return Ok(Gathered { documents, found, rest });
        }
        let mut later = documents.split_off(documents.len() / 2);
        later.append(&mut rest);
        rest = later;
    }
}

/// Told by a piece of work that nobody waits for any more.
#[derive(Default)]
struct Abandoned(Arc<AtomicBool>);

impl Abandoned {
    fn check(&self) -> Result<(), Halt> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(given_up()),
            false => Ok(()),
        }
    }
}

/// Runs code beside the run's thread: an author's code may take long for one document, and the lease is renewed,
/// and a stop obeyed, only while it does not hold that thread.
async fn aside<T: Send + 'static>(
    code: impl FnOnce(&Abandoned) -> Result<T, Halt> + Send + 'static,
) -> Result<T, Halt> {
    /// Tells the code when nobody waits for it.
    struct Waiting(Arc<AtomicBool>);
    impl Drop for Waiting {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let abandoned = Abandoned::default();
    let waiting = Waiting(abandoned.0.clone());
    let span = tracing::Span::current();
    let dispatch = tracing::dispatcher::get_default(Clone::clone);
    let running = tokio::task::spawn_blocking(move || {
        tracing::dispatcher::with_default(&dispatch, || span.in_scope(|| code(&abandoned)))
    });
    let ended = running.await;
    drop(waiting);
    joined(Some(ended))
}

/// What a task ended with; its panic is that of whoever waits for it.
pub(crate) fn joined<T>(ended: Option<Result<Result<T, Halt>, JoinError>>) -> Result<T, Halt> {
    match ended.map(|ended| ended.map_err(JoinError::try_into_panic)) {
        Some(Ok(ended)) => ended,
        Some(Err(Ok(panic))) => std::panic::resume_unwind(panic),
        Some(Err(Err(_))) | None => Err(given_up()),
    }
}

fn given_up() -> Halt {
    Failure::bug("a query was given up on its way").into()
}

/// A batch, and what was too much for it.
pub(crate) struct Computed {
    pub(crate) batch: Batch,
    /// The documents behind those of the batch.
    pub(crate) rest: Vec<RawDocumentBuf>,
    /// The bytes of what was found for the batch.
    pub(crate) found: usize,
}

/// Computes the edits of documents that were read together; of fewer of them where that is too much to be
/// held.
pub(crate) async fn compute(
    unit: &Unit,
    transform: &Transform,
    documents: Vec<RawDocumentBuf>,
    found: Found,
    purpose: Purpose,
    promise: Verify,
) -> Result<Computed, Halt> {
    let (unit, transform) = (unit.clone(), transform.clone());
    aside(move |abandoned| {
        computed(&unit, &transform, documents, &found, (purpose, promise), abandoned)
    })
    .await
}

fn computed(
    unit: &Unit,
    transform: &Transform,
    documents: Vec<RawDocumentBuf>,
    found: &Found,
    (purpose, promise): (Purpose, Verify),
    abandoned: &Abandoned,
) -> Result<Computed, Halt> {
    let step = &transform.step_name();
    for document in &documents {
        check_id(document).map_err(|e| refused(e, unit, step, &place(transform, document)))?;
    }
    let (mut read, mut end, mut held) = (0, last(&documents)?, 0);
    let (mut edited, mut outputs) = (Vec::new(), Vec::new());
    let mut documents = documents.into_iter();
    while let Some(document) = documents.next() {
        abandoned.check()?;
        read += 1;
        let effect = author::call(
            unit,
            step,
            || place(transform, &document),
            || effect(unit.started(), transform, &document, found, purpose, promise),
        )?;
        let Some(mut effect) = effect else { continue };
        if promise == Verify::Output
            && let Some(output) = effect.output.take()
            && let Some(output) = verify_known(unit, transform, output, found)?
        {
            held += output.as_bytes().len();
            outputs.push(output);
        }
        let one = Edited { document, effect };
        held += one.document.as_bytes().len() + one.beside();
        edited.push(one);
        if held > HELD_BYTES && !documents.as_slice().is_empty() {
            end = edited.last().and_then(Edited::id);
            break;
        }
    }
    let batch = Batch { edited, read, last: end, sizes: Sizes::Asked, outputs };
    Ok(Computed { batch, rest: documents.collect(), found: found.bytes() })
}

/// The `_id` of the last of these documents.
pub(crate) fn last(documents: &[RawDocumentBuf]) -> Result<Option<Bson>, Error> {
    match documents.last() {
        Some(document) => Ok(document.get("_id")?.map(Bson::try_from).transpose()?),
        None => Ok(None),
    }
}

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

/// Whether the server is asked how large the documents are of which only some fields are read. It takes
/// the server a tenth of the reading.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sizes {
    Asked,
    NotAsked,
}

/// The queries for the batch after `after`; each is for where those before it found nothing.
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
) -> Result<Vec<RawDocumentBuf>, Halt> {
    for find in finds {
        let find = RawDocumentBuf::try_from(&find)?;
        let documents = query(database, session.as_deref_mut(), find).await?;
        if !documents.is_empty() {
            return Ok(documents);
        }
    }
    Ok(vec![])
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

/// Index bounds, not `$gt`, go on after a document: a comparison sees one BSON type only.
fn find(transform: &Transform, place: Place<'_>, limit: usize, read: In, sizes: Sizes) -> Document {
    let but = |id: Bson| doc! { "$and": [{ "_id": id }, transform.filter.clone()] };
    let filter = match place {
        Place::Start => transform.filter.clone(),
        // The lower bound is inclusive. The server leaves its document out, for it alone might fill
        // the answer.
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
fn find_again(
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
fn check_id(document: &RawDocument) -> Result<(), StepError> {
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

/// Runs a `find`, and hands over its documents one by one, until its end or enough.
pub(crate) async fn each(
    database: &Database,
    session: Option<&mut ClientSession>,
    find: RawDocumentBuf,
    mut take: impl FnMut(&RawDocument) -> Result<Flow, Halt>,
) -> Result<Flow, Halt> {
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

/// Runs a `find` to its end.
pub(crate) async fn query(
    database: &Database,
    session: Option<&mut ClientSession>,
    find: RawDocumentBuf,
) -> Result<Vec<RawDocumentBuf>, Halt> {
    let mut documents = Vec::new();
    let keep = |document: &RawDocument| {
        documents.push(document.to_owned());
        Ok(Flow::On)
    };
    each(database, session, find, keep).await?;
    Ok(documents)
}

/// The queries for what the documents refer to, as far as `found` has not asked for it: each with the
/// position of its look-up.
fn look_ups(
    unit: &Unit,
    transform: &Transform,
    documents: &[RawDocumentBuf],
    found: &mut Found,
    place: In,
) -> Result<Vec<(usize, RawDocumentBuf)>, Halt> {
    let step = transform.step_name();
    let mut finds = Vec::new();
    for (position, lookup) in transform.lookups.iter().enumerate() {
        let mut keys = Keys::default();
        for document in documents {
            author::call(
                unit,
                &step,
                || self::place(transform, document),
                || {
                    lookup.wanted(document, &mut keys);
                    Ok(())
                },
            )?;
        }
        for filter in found.ask(lookup, keys)? {
            finds.push((position, look_up(lookup, filter, place)?));
        }
    }
    Ok(finds)
}

fn look_up(lookup: &Lookup, filter: RawDocumentBuf, place: In) -> Result<RawDocumentBuf, Error> {
    let mut find = rawdoc! {
        "find": &*lookup.collection,
        "filter": filter,
        "projection": lookup.projection()?,
        "batchSize": LOOK_UP_BATCH,
    };
    if let Some(concern) = place.read_concern() {
        find.append(cstr!("readConcern"), RawDocumentBuf::try_from(&concern)?);
    }
    Ok(find)
}

/// Takes what a query of [`look_ups`] finds, until that is more than `most` bytes.
async fn take(
    database: &Database,
    session: Option<&mut ClientSession>,
    unit: &Unit,
    transform: &Transform,
    found: &mut Found,
    (position, find): (usize, RawDocumentBuf),
    most: usize,
) -> Result<Flow, Halt> {
    let Some(lookup) = transform.lookups.get(position) else { return Ok(Flow::On) };
    let place =
        || format!("a document of {} that look-up \"{}\" found", lookup.collection, lookup.name);
    each(database, session, find, |document| {
        found
            .add(lookup, document)
            .map_err(|error| refused(error, unit, &transform.step_name(), &place()))?;
        Ok(if found.bytes() > most { Flow::Enough } else { Flow::On })
    })
    .await
}

/// Reads what was found several times for one value again, in its order.
async fn take_in_order(
    database: &Database,
    mut session: Option<&mut ClientSession>,
    unit: &Unit,
    transform: &Transform,
    found: &mut Found,
    place: In,
    most: usize,
) -> Result<Flow, Halt> {
    for (position, lookup) in transform.lookups.iter().enumerate() {
        for filter in found.ask_again(lookup)? {
            let mut find = look_up(lookup, filter, place)?;
            find.append(cstr!("showRecordId"), true);
            let session = session.as_deref_mut();
            let flow =
                take(database, session, unit, transform, found, (position, find), most).await?;
            if flow == Flow::Enough {
                return Ok(flow);
            }
        }
        found.put_in_order(lookup);
    }
    Ok(Flow::On)
}

fn effect(
    started: DateTime,
    transform: &Transform,
    document: &RawDocument,
    found: &Found,
    purpose: Purpose,
    promise: Verify,
) -> Result<Option<Effect>, StepError> {
    let mut edits = Edits::at(started);
    (transform.edit)(document, found, &mut edits)
        .map_err(|error| about(error, transform, document, found))?;
    let declared = |name: &str| transform.counters.iter().any(|counter| counter.name == name);
    if let Some(name) = edits.counters().find(|name| !declared(name)) {
        return Err(StepError::refused(undeclared(transform, name)));
    }
    if let Some(name) = edits.counts().find(|(_, n)| *n > MOST_COUNTED).map(|(name, _)| name) {
        return Err(StepError::refused(format!(
            "it counts \"{name}\" by more than {MOST_COUNTED} for one document"
        )));
    }
    match edits.is_empty() {
        true => Ok(None),
        false => checked(transform, document, edits, purpose, promise),
    }
}

fn undeclared(transform: &Transform, name: &str) -> String {
    let names: Vec<&str> = transform.counters.iter().map(|counter| &*counter.name).collect();
    let declared = match names.as_slice() {
        [] => "declares none".to_owned(),
        names => format!("declares {}", names.join(", ")),
    };
    format!(
        "it counts \"{name}\", a counter that the step does not declare with action() (it {declared})"
    )
}

/// What the author's edits come to; none where they leave all as it is. An error where they do not keep to what they must, as far as it can
/// be told without the server.
fn checked(
    transform: &Transform,
    document: &RawDocument,
    edits: Edits,
    purpose: Purpose,
    promise: Verify,
) -> Result<Option<Effect>, StepError> {
    let mut inserted = 0;
    for insert in edits.inserts() {
        let insert = insert?;
        if !transform.inserts_into.contains(insert.collection) {
            return Err(StepError::refused(format!(
                "it inserts into {}, which the transform does not name with inserts_into",
                insert.collection
            )));
        }
        inserted += insert.document.as_bytes().len();
    }
    if !transform.fields.is_empty()
        && let Some(field) =
            edits.fields().find(|field| !transform.fields.iter().any(|own| own == field))
    {
        return Err(StepError::refused(format!(
            "it edits {field}, which the transform does not name among its fields"
        )));
    }
    let read = document.as_bytes().len();
    // where only some fields were read, the size of the whole document may be among them
    let before = document.get_i32(SIZE).map_or(read, |size| size.max(0) as usize);
    let (mut after, mut output) = (before, None);
    let deletes = edits.deletes(&transform.collection, document)?;
    let deletion = match (deletes, purpose) {
        (false, _) => None,
        (true, _) if !transform.deletes => {
            let reason = "it deletes the document, which the transform does not say with deletes()";
            return Err(StepError::refused(reason));
        }
        (true, Purpose::Look) => None,
        (true, Purpose::Write) => Some(deletion(document)?),
        (true, Purpose::Guarded) => Some(guarded_deletion(document, &transform.fields)?),
    };
    let changes = edits.changes()?;
    let extent = if transform.fields.is_empty() { Extent::Whole } else { Extent::Fields };
    let mut large = None;
    let statement = match &changes {
        Some(changes) => {
            let bytes = changes.apply(document)?;
            if bytes == document.as_bytes() && inserted == 0 {
                return Ok(None);
            }
            after = (before + bytes.len()).saturating_sub(read);
            if after > MAX_DOCUMENT_SIZE {
                let reason = "it would grow beyond the server's limit of 16 MiB";
                return Err(StepError::refused(reason));
            }
            let becomes = RawDocumentBuf::from_bytes(bytes)?;
            let statement = match purpose {
                Purpose::Look => None,
                Purpose::Write => Some(changes.statement(document, extent)?),
                Purpose::Guarded => {
                    let statement = changes.guarded_statement(document, extent, &becomes)?;
                    if statement.is_none() {
                        large = Some(changes.touched(document, &becomes)?);
                    }
                    statement
                }
            };
            if promise != Verify::Nothing {
                output = Some(becomes);
            }
            statement
        }
        None => {
            // what only adds others is its own output
            if promise == Verify::Output && !deletes {
                output = Some(document.to_owned());
            }
            None
        }
    };
    let changes = changes.is_some();
    let (counts, inserts) = edits.into_counts_and_inserts();
    let bytes = before.max(after) + inserted;
    Ok(Some(Effect {
        changes,
        deletes,
        counts,
        inserts,
        statement,
        large,
        deletion,
        bytes,
        output,
    }))
}

/// A document by its collection and `_id`, and nothing of its contents.
pub(crate) fn place(transform: &Transform, document: &RawDocument) -> String {
    let id = author::id(document).unwrap_or_else(|| "without a readable _id".to_owned());
    format!("document {id} of {}", transform.collection)
}

/// Writes a batch in the session's transaction, in which it was read.
pub(crate) async fn write(
    database: &Database,
    session: &mut ClientSession,
    unit: &Unit,
    transform: &Transform,
    edited: &[&Edited],
) -> Result<(), Halt> {
    // first, so that a document may take the place of one that it is computed from
    let (deleted, deletions) = deletions(edited);
    for (first, command) in commands("delete", &transform.collection, "deletes", deletions, None) {
        let answer = database.run_raw_command(command).session(&mut *session).await?;
        fail_on_write_error(&answer, unit, transform, &deleted[first..])?;
    }
    for (collection, documents) in by_collection(unit, transform, edited.iter().copied())? {
        let there =
            there(database, Some(&mut *session), unit, transform, collection, &documents, None)
                .await?;
        let new = documents.iter().map(|addition| addition.document);
        let new = new.filter(|document| !there.contains(&id_bytes(document)));
        for (_, command) in commands("insert", collection, "documents", new, None) {
            let answer = database.run_raw_command(command).session(&mut *session).await?;
            if let Some(error) = write_errors(&answer).next() {
                return Err(write_failure(
                    error,
                    unit,
                    &transform.step_name(),
                    &format!("a document added to {collection}"),
                ));
            }
        }
    }
    let (changed, statements) = statements(edited);
    for (first, command) in commands("update", &transform.collection, "updates", statements, None) {
        let answer = database.run_raw_command(command).session(&mut *session).await?;
        fail_on_write_error(&answer, unit, transform, &changed[first..])?;
    }
    Ok(())
}

/// Writes a batch that was read outside transactions: each edit only onto the document that it was
/// computed from. What it adds has no such guard, and a later version may have deleted it since: the lease is
/// verified just before.
pub(crate) async fn write_guarded(
    context: &Context,
    unit: &Unit,
    transform: &Transform,
    batch: &Batch,
) -> Result<Written, Halt> {
    let database = context.database();
    let concern = rawdoc! { "w": "majority", "j": true };
    let edited: Vec<&Edited> = batch.edited.iter().collect();
    for (collection, documents) in by_collection(unit, transform, &batch.edited)? {
        let all = documents.iter().map(|addition| addition.document);
        for (_, command) in commands("insert", collection, "documents", all, Some(&concern)) {
            context.lock.verify(&context.stop).await?;
            let answer = database.run_raw_command(command).await?;
            // a document that is there already was added by an earlier try, if it is the same
            let is_there = |error: &Document| {
                error.get_i32("code").is_ok_and(|code| code == 11000)
                    && error.get_document("keyPattern").is_ok_and(|key| key.contains_key("_id"))
            };
            if write_errors(&answer).any(is_there) {
                there(database, None, unit, transform, collection, &documents, None).await?;
            }
            if let Some(error) = write_errors(&answer).find(|error| !is_there(error)) {
                return Err(write_failure(
                    error,
                    unit,
                    &transform.step_name(),
                    &format!("a document added to {collection}"),
                ));
            }
            fail_on_write_concern(&answer)?;
        }
    }
    let (changed, statements) = statements(&edited);
    let (deleted, deletions) = deletions(&edited);
    let large: Vec<(&Edited, &Touched)> =
        edited.iter().filter_map(|edited| Some((*edited, edited.large()?))).collect();
    let unchanged = (edited.len() - changed.len() - deleted.len() - large.len()) as u64;
    let mut written = Written { documents: unchanged, refusal: None };
    for (first, command) in
        commands("update", &transform.collection, "updates", statements, Some(&concern))
    {
        let answer = database.run_raw_command(command).await?;
        fail_on_write_concern(&answer)?;
        written.documents += answer.get_i32("n").unwrap_or_default().max(0) as u64;
        if let Err(refusal) = fail_on_write_error(&answer, unit, transform, &changed[first..]) {
            written.refusal = Some(refusal);
            return Ok(written);
        }
    }
    for (first, command) in
        commands("delete", &transform.collection, "deletes", deletions, Some(&concern))
    {
        let answer = database.run_raw_command(command).await?;
        fail_on_write_concern(&answer)?;
        written.documents += answer.get_i32("n").unwrap_or_default().max(0) as u64;
        if let Err(refusal) = fail_on_write_error(&answer, unit, transform, &deleted[first..]) {
            written.refusal = Some(refusal);
            return Ok(written);
        }
    }
    for (edited, touched) in large {
        match large::write(context, unit, transform, edited, touched).await? {
            Exchange::Made => written.documents += 1,
            Exchange::Missed => {}
            Exchange::Refused(refusal) => {
                written.refusal = Some(refusal);
                return Ok(written);
            }
        }
    }
    Ok(written)
}

/// What became of a batch outside transactions.
pub(crate) struct Written {
    /// The documents that were still as they were read.
    pub(crate) documents: u64,
    /// The first edit that the server refused, after which others may have been made.
    pub(crate) refusal: Option<Halt>,
}

pub(crate) fn id_bytes(document: &RawDocument) -> Vec<u8> {
    match document.get("_id") {
        Ok(Some(id)) => rawdoc! { "_id": id }.into_bytes(),
        _ => vec![],
    }
}

/// Whether a document is the one that was sent, byte for byte: the server moves the `_id` to the front.
pub(crate) fn is_same(sent: &RawDocument, stored: &RawDocument) -> bool {
    let rest = |document: &RawDocument| -> Result<RawDocumentBuf, Error> {
        let mut rest = RawDocumentBuf::new();
        for field in document {
            let (name, value) = field?;
            if name.as_str() != "_id" {
                rest.append(name, value);
            }
        }
        Ok(rest)
    };
    matches!((rest(sent), rest(stored)), (Ok(sent), Ok(stored)) if sent.as_bytes() == stored.as_bytes())
}

/// The documents that are changed themselves, not only the cause of others, and the statements that do so.
fn statements<'a>(edited: &[&'a Edited]) -> (Vec<&'a Edited>, Vec<&'a RawDocumentBuf>) {
    edited.iter().filter_map(|edited| Some((edited, edited.effect.statement.as_ref()?))).unzip()
}

/// The documents that are deleted, and the statements that do so.
fn deletions<'a>(edited: &[&'a Edited]) -> (Vec<&'a Edited>, Vec<&'a RawDocumentBuf>) {
    edited.iter().filter_map(|edited| Some((edited, edited.effect.deletion.as_ref()?))).unzip()
}

/// The commands that carry `items`, each within what one command may carry, with the position of the
/// first item that each carries. One is built when it is asked for: each holds a copy of its items.
///
/// Ordered inside a transaction, which the first error ends; unordered outside, where a failed item
/// must not keep the others back.
pub(crate) fn commands<'a>(
    verb: &str,
    collection: &str,
    list: &str,
    items: impl IntoIterator<Item = &'a RawDocumentBuf>,
    write_concern: Option<&RawDocumentBuf>,
) -> impl Iterator<Item = (usize, RawDocumentBuf)> {
    let name = |text: &str| CString::try_from(text).unwrap_or(cstr!("").to_owned());
    let mut start = RawDocumentBuf::new();
    start.append(name(verb), collection);
    start.append(cstr!("ordered"), write_concern.is_none());
    if let Some(concern) = write_concern {
        start.append(cstr!("writeConcern"), concern.clone());
    }
    let list = name(list);
    let mut items = items.into_iter().enumerate().peekable();
    std::iter::from_fn(move || {
        let (first, item) = items.next()?;
        let mut bytes = item.as_bytes().len();
        let mut array = RawArrayBuf::from_iter([&**item]);
        let fits = |position: usize, bytes: usize| {
            bytes <= COMMAND_BYTES && position - first < COMMAND_ITEMS
        };
        while let Some((_, item)) =
            items.next_if(|(position, item)| fits(*position, bytes + item.as_bytes().len()))
        {
            bytes += item.as_bytes().len();
            array.push(&**item);
        }
        let mut command = start.clone();
        command.append(&list, array);
        Some((first, command))
    })
}

fn fail_on_write_error(
    answer: &Document,
    unit: &Unit,
    transform: &Transform,
    sent: &[&Edited],
) -> Result<(), Halt> {
    let Some(error) = write_errors(answer).next() else { return Ok(()) };
    let index = error.get_i32("index").unwrap_or_default().max(0) as usize;
    let place = match sent.get(index) {
        Some(edited) => place(transform, &edited.document),
        None => transform.collection.clone().into_owned(),
    };
    Err(write_failure(error, unit, &transform.step_name(), &place))
}

/// The server's code for a write that it does not make in transactions: into a capped collection, and into
/// a missing one where the feature compatibility version is below 4.4.
const NOT_IN_A_TRANSACTION: i32 = 263;

/// What only the server knows: a unique key, a validator.
pub(crate) fn write_failure(error: &Document, unit: &Unit, step: &str, place: &str) -> Halt {
    let code = error.get_i32("code").unwrap_or_default();
    if code == NOT_IN_A_TRANSACTION {
        return Halt::Failure(Failure::new(
            Outcome::ServerUnsuitable,
            format!("{}: {place}: the server cannot write that in a transaction", at(unit, step)),
            "if the collection is missing, raise the feature compatibility version to 4.4 or later \
             (setFeatureCompatibilityVersion) or create the collection; if it is capped, make it an \
             ordinary one; then run it again",
        ));
    }
    let message = error.get_str("errmsg").unwrap_or_default();
    let detail = redact::detail(code, message, error.get_document("errInfo").ok());
    let reason = match (code, detail) {
        (_, Some(detail)) => detail,
        (code, None) => format!("server error {code}"),
    };
    failed_step(
        unit,
        step,
        &format!("{place}: {reason}"),
        "correct the document, or deploy code whose upgrade can deal with it, then run it again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authoring::action::ActionType;
    use crate::authoring::table::Upgrades;
    use crate::authoring::upgrade::Upgrade;
    use crate::version::Version;

    /// What a transform makes of `{ _id, n }` for each number.
    async fn computed(n: i32, transform: &Transform) -> Batch {
        let code = Version::parse_code("0.8.0").unwrap();
        let step = Transform::new("things", |_, _, _| Ok(()));
        let upgrades = Upgrades::new([Upgrade::new("0.8.0", "an upgrade").step(step)], &code);
        let documents = (0..n).map(|n| rawdoc! { "_id": n, "n": n }).collect();
        let unit = &upgrades.unwrap();
        let unit = &unit.units()[0];
        compute(unit, transform, documents, Found::default(), Purpose::Write, Verify::Nothing)
            .await
            .unwrap()
            .batch
    }

    #[tokio::test]
    async fn what_is_only_counted_is_no_edit() {
        let transform = Transform::new("things", |document, _, edits| {
            edits.count("seen", 1);
            if document.get_i32("n").is_ok_and(|n| n == 2) {
                edits.set("n", 0);
            }
            Ok(())
        })
        .action(ActionType::Update, "seen", "See {n}");
        let batch = computed(4, &transform).await;
        assert_eq!((batch.read, batch.last.clone()), (4, Some(Bson::Int32(3))));
        assert_eq!(batch.done().documents, 1);
        assert_eq!(batch.done().counts.get("seen"), Some(&1));
    }

    #[tokio::test]
    async fn a_part_of_a_batch_ends_at_its_last_edit() {
        let transform = Transform::new("things", |document, _, edits| {
            match document.get_i32("n") {
                Ok(9) => {}
                _ => edits.set("n", -1),
            }
            Ok(())
        });
        let batch = computed(10, &transform).await;
        let part = |tried| {
            let (part, last) = batch.part(tried);
            (part.len(), last)
        };
        assert_eq!(part(0), (9, Some(Bson::Int32(9))), "all, and the document behind them");
        assert_eq!(part(1), (4, Some(Bson::Int32(3))));
        assert_eq!(part(3), (1, Some(Bson::Int32(0))));
        assert_eq!(part(64), (1, Some(Bson::Int32(0))));
        assert_eq!(computed(0, &transform).await.part(1).1, None);

        let transform = Transform::new("things", |_, _, edits| {
            edits.set("load", "x".repeat(TRANSACTION_BYTES / 3));
            Ok(())
        });
        let mut batch = computed(4, &transform).await;
        batch.cut();
        assert_eq!((batch.edited.len(), batch.last), (2, Some(Bson::Int32(1))));
    }
}
