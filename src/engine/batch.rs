//! A batch of a transform: reading documents in `_id` order, computing their edits, and writing them.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use mongodb::bson::raw::{CString, cstr};
use mongodb::bson::{
    Bson, Document, RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, doc, rawdoc,
};
use mongodb::error::Error;
use mongodb::{ClientSession, Database};

use crate::edit::{Counts, Edits, Inserts, MAX_DOCUMENT_SIZE};
use crate::engine::{Halt, failed, refused};
use crate::lookup::{Found, Keys, Lookup};
use crate::record::Done;
use crate::server;
use crate::upgrade::{StepError, Transform, Unit};

/// What one `update` or `insert` command may carry, in bytes; one statement alone may be larger.
const COMMAND_BYTES: usize = 12 * 1024 * 1024;

/// How many statements or documents the server takes in one command.
const COMMAND_ITEMS: usize = 100_000;

/// How many documents the server may send at once for a look-up; its default of 101 would ask twice.
const LOOK_UP_BATCH: i32 = 100_000;

/// For how long the author's code may compute edits before the run's other tasks get their turn.
const TURN: Duration = Duration::from_micros(300);

/// The field in which a look-ahead asks for the size of the whole document.
const SIZE: &str = "upgrade_gate_size";

/// How a batch is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be written in a transaction.
    Write,
    /// To find out beforehand whether it could be.
    Look,
    /// To be written outside transactions, or to find out whether it could be.
    Guarded,
}

/// Documents of a transform, read and computed together.
#[derive(Default)]
pub(crate) struct Batch {
    /// The documents that change, in `_id` order.
    pub(crate) edited: Vec<Edited>,
    /// How many documents were read.
    pub(crate) read: u64,
    /// The `_id` of the last document read; none at the end of the collection.
    pub(crate) last: Option<Bson>,
}

/// A document as it was read, and what its edits come to; nothing where there are none.
pub(crate) struct Edited {
    document: RawDocumentBuf,
    effect: Option<Effect>,
}

/// What the edits of one document come to.
struct Effect {
    counts: Counts,
    inserts: Inserts,
    /// What edits the document on the server; none where it is not itself to be written.
    statement: Option<RawDocumentBuf>,
    /// The bytes of the document, as far as its size was asked for, and of those that it adds.
    bytes: usize,
}

/// A batch that was read and computed before the transaction that writes it.
#[derive(Default)]
pub(crate) struct Ahead {
    /// Every document of it.
    pub(crate) documents: Vec<Edited>,
    pub(crate) sizes: Sizes,
}

impl Batch {
    /// The batch of these documents, which were read together.
    pub(crate) fn of(mut documents: Vec<Edited>) -> Result<Self, Error> {
        let (read, last) = (documents.len() as u64, last(documents.iter().map(|d| &d.document))?);
        documents.retain(|edited| edited.effect.is_some());
        Ok(Batch { edited: documents, read, last })
    }

    /// What writing the batch does.
    pub(crate) fn done(&self) -> Done {
        let mut done = Done::default();
        self.edited.iter().for_each(|edited| edited.count(&mut done));
        done
    }

    /// The documents that are changed themselves, not only the cause of others, and the statements that
    /// do so.
    fn statements<'a>(&'a self) -> (Vec<&'a Edited>, Vec<&'a RawDocumentBuf>) {
        let statement = |edited: &'a Edited| edited.effect.as_ref()?.statement.as_ref();
        self.edited.iter().filter_map(|edited| Some((edited, statement(edited)?))).unzip()
    }
}

impl Edited {
    pub(crate) fn count(&self, done: &mut Done) {
        let Some(effect) = &self.effect else { return };
        done.documents += 1;
        for (name, n) in &effect.counts {
            match done.counts.get_mut(*name) {
                Some(count) => *count += n,
                None => {
                    done.counts.insert((*name).to_owned(), *n);
                }
            }
        }
    }

    /// The bytes that its edits touch: of the document, as far as its size was asked for, and of those
    /// that it adds.
    pub(crate) fn bytes(&self) -> usize {
        self.effect.as_ref().map_or(0, |effect| effect.bytes)
    }

    pub(crate) fn id(&self) -> Option<RawBsonRef<'_>> {
        self.document.get("_id").ok().flatten()
    }
}

/// Reads the next batch after `after` in the session's transaction, with its edits: those of `ahead` for
/// the documents that are still what they were computed from.
pub(crate) async fn read(
    database: &Database,
    session: &mut ClientSession,
    unit: &Unit,
    transform: &Transform,
    after: Option<&Bson>,
    limit: usize,
    ahead: Ahead,
) -> Result<Batch, Halt> {
    let Ahead { documents: mut edited, sizes } = ahead;
    let finds = finds(transform, after, limit, In::Transaction, sizes);
    let mut read = documents(database, Some(&mut *session), finds).await?;
    let same =
        |(now, then): &(&RawDocumentBuf, &Edited)| now.as_bytes() == then.document.as_bytes();
    edited.truncate(read.iter().zip(&edited).take_while(same).count());
    let changed = read.split_off(edited.len());
    drop(read);
    let mut found = Found::default();
    for (position, find) in look_ups(transform, &changed, &mut found, In::Transaction)? {
        let answer = query(database, Some(&mut *session), find).await?;
        take(unit, transform, &mut found, position, answer)?;
    }
    take_in_order(database, Some(&mut *session), unit, transform, &mut found).await?;
    edited.extend(compute(unit, transform, changed, &found, Purpose::Write).await?);
    Ok(Batch::of(edited)?)
}

/// Computes the edits of documents that were read together.
pub(crate) async fn compute(
    unit: &Unit,
    transform: &Transform,
    documents: Vec<RawDocumentBuf>,
    found: &Found,
    purpose: Purpose,
) -> Result<Vec<Edited>, Halt> {
    for document in &documents {
        check_id(document).map_err(|e| refused(e, unit, &place(transform, document)))?;
    }
    let mut edited = Vec::with_capacity(documents.len());
    let mut began = Instant::now();
    for document in documents {
        // the lease is renewed, and a stop seen, only while this does not hold the thread
        if began.elapsed() > TURN {
            tokio::task::yield_now().await;
            began = Instant::now();
        }
        let effect = effect(unit, transform, &document, found, purpose)?;
        edited.push(Edited { document, effect });
    }
    Ok(edited)
}

/// The `_id` of the last of these documents.
pub(crate) fn last<'a>(
    mut documents: impl DoubleEndedIterator<Item = &'a RawDocumentBuf>,
) -> Result<Option<Bson>, Error> {
    match documents.next_back() {
        Some(document) => Ok(document.get("_id")?.map(Bson::try_from).transpose()?),
        None => Ok(None),
    }
}

/// Where documents are read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum In {
    /// In the transaction that writes them.
    Transaction,
    /// Outside, as a majority has them.
    Plain,
}

/// Whether the server is asked how large the documents are of which only some fields are read. It takes
/// the server a tenth of the reading.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Sizes {
    #[default]
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
) -> Result<Vec<RawDocumentBuf>, Error> {
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
    let limit = limit as i64;
    let mut find = doc! {
        "find": transform.collection,
        "filter": filter,
        "sort": { "_id": 1 },
        "hint": { "_id": 1 },
        "limit": limit,
        "batchSize": limit,
        "singleBatch": true,
    };
    if let Place::After(after) = place {
        find.insert("min", doc! { "_id": after });
    }
    let mut projection = doc! {};
    for field in &transform.fields {
        projection.insert(*field, 1);
    }
    if !projection.is_empty() {
        if sizes == Sizes::Asked {
            projection.insert(SIZE, doc! { "$bsonSize": "$$ROOT" });
        }
        find.insert("projection", projection);
    }
    if read == In::Plain {
        find.insert("readConcern", doc! { "level": "majority" });
    }
    find
}

/// Refuses an `_id` that repeats a field: a journal cannot hold it, and would lose its place.
fn check_id(document: &RawDocument) -> Result<(), StepError> {
    let Ok(Some(RawBsonRef::Document(id))) = document.get("_id") else { return Ok(()) };
    let held = Document::try_from(id).and_then(|id| RawDocumentBuf::try_from(&id));
    match held.is_ok_and(|held| held.as_bytes() == id.as_bytes()) {
        true => Ok(()),
        false => Err(StepError::refused("its _id repeats a field")),
    }
}

/// Runs a `find` to its end.
pub(crate) async fn query(
    database: &Database,
    session: Option<&mut ClientSession>,
    find: RawDocumentBuf,
) -> Result<Vec<RawDocumentBuf>, Error> {
    let mut documents = Vec::new();
    match session {
        Some(session) => {
            let mut cursor = database.run_raw_cursor_command(find).session(&mut *session).await?;
            while cursor.advance(session).await? {
                documents.push(cursor.current().to_owned());
            }
        }
        None => {
            let mut cursor = database.run_raw_cursor_command(find).await?;
            while cursor.advance().await? {
                documents.push(cursor.current().to_owned());
            }
        }
    }
    Ok(documents)
}

/// The queries for what the documents refer to, as far as `found` has not asked for it: each with the
/// position of its look-up.
pub(crate) fn look_ups(
    transform: &Transform,
    documents: &[RawDocumentBuf],
    found: &mut Found,
    place: In,
) -> Result<Vec<(usize, RawDocumentBuf)>, Error> {
    let mut finds = Vec::new();
    for (position, lookup) in transform.lookups.iter().enumerate() {
        let mut keys = Keys::default();
        for document in documents {
            lookup.wanted(document, &mut keys);
        }
        for filter in found.ask(lookup, keys)? {
            finds.push((position, look_up(lookup, filter, place)?));
        }
    }
    Ok(finds)
}

fn look_up(lookup: &Lookup, filter: RawDocumentBuf, place: In) -> Result<RawDocumentBuf, Error> {
    let mut find = rawdoc! {
        "find": lookup.collection,
        "filter": filter,
        "projection": lookup.projection()?,
        "batchSize": LOOK_UP_BATCH,
    };
    if place == In::Plain {
        find.append(cstr!("readConcern"), rawdoc! { "level": "majority" });
    }
    Ok(find)
}

/// Takes what a query of [`look_ups`] found.
pub(crate) fn take(
    unit: &Unit,
    transform: &Transform,
    found: &mut Found,
    position: usize,
    documents: Vec<RawDocumentBuf>,
) -> Result<(), Halt> {
    let Some(lookup) = transform.lookups.get(position) else { return Ok(()) };
    for document in documents {
        found.add(lookup, document).map_err(|error| refused(error, unit, lookup.name))?;
    }
    Ok(())
}

/// Reads what was found several times for one value again, in its order.
pub(crate) async fn take_in_order(
    database: &Database,
    mut session: Option<&mut ClientSession>,
    unit: &Unit,
    transform: &Transform,
    found: &mut Found,
) -> Result<(), Halt> {
    let place = if session.is_some() { In::Transaction } else { In::Plain };
    for (position, lookup) in transform.lookups.iter().enumerate() {
        for filter in found.ask_again(lookup)? {
            let mut find = look_up(lookup, filter, place)?;
            find.append(cstr!("showRecordId"), true);
            let documents = query(database, session.as_deref_mut(), find).await?;
            take(unit, transform, found, position, documents)?;
        }
    }
    Ok(())
}

fn effect(
    unit: &Unit,
    transform: &Transform,
    document: &RawDocument,
    found: &Found,
    purpose: Purpose,
) -> Result<Option<Effect>, Halt> {
    let effect = || {
        let mut edits = Edits::default();
        (transform.edit)(document, found, &mut edits)?;
        match edits.is_empty() {
            true => Ok(None),
            false => checked(transform, document, edits, purpose).map(Some),
        }
    };
    effect().map_err(|reason| refused(reason, unit, &place(transform, document)))
}

/// What the author's edits come to; an error where they do not keep to what they must, as far as it can
/// be told without the server.
fn checked(
    transform: &Transform,
    document: &RawDocument,
    edits: Edits,
    purpose: Purpose,
) -> Result<Effect, StepError> {
    let mut inserted = 0;
    for insert in edits.inserts() {
        let insert = insert?;
        if !transform.inserts_into.contains(&insert.collection) {
            return Err(StepError::refused(format!(
                "it inserts into {}, which the transform does not name with inserts_into",
                insert.collection
            )));
        }
        inserted += insert.document.as_bytes().len();
    }
    if !transform.fields.is_empty()
        && let Some(field) = edits.fields().find(|field| !transform.fields.contains(field))
    {
        return Err(StepError::refused(format!(
            "it edits {field}, which the transform does not name among its fields"
        )));
    }
    let read = document.as_bytes().len();
    // of which only some fields were read may have its size in a field of its own
    let (whole, field) = match document.get_i32(SIZE) {
        Ok(size) => (size.max(0) as usize, SIZE.len() + 6),
        Err(_) => (read, 0),
    };
    let statement = match edits.changes()? {
        Some(changes) => {
            let after = changes.apply(document)?.len();
            if whole + field + after > MAX_DOCUMENT_SIZE + read {
                let reason = "it would grow beyond the server's limit of 16 MiB";
                return Err(StepError::refused(reason));
            }
            match purpose {
                Purpose::Look => None,
                Purpose::Write => Some(changes.statement(document)?),
                Purpose::Guarded => Some(changes.guarded_statement(document)?),
            }
        }
        None => None,
    };
    let (counts, inserts) = edits.into_counts_and_inserts();
    Ok(Effect { counts, inserts, statement, bytes: whole + inserted })
}

/// A document by its collection and `_id`, and nothing of its contents.
pub(crate) fn place(transform: &Transform, document: &RawDocument) -> String {
    let id = match document.get("_id") {
        Ok(Some(id)) => match Bson::try_from(id) {
            Ok(id) => serde_json::to_string(&id).unwrap_or_else(|_| "unreadable".to_owned()),
            Err(_) => "unreadable".to_owned(),
        },
        _ => "missing".to_owned(),
    };
    format!("document {id} of {}", transform.collection)
}

/// Writes a batch in the session's transaction, in which it was read.
pub(crate) async fn write(
    database: &Database,
    session: &mut ClientSession,
    unit: &Unit,
    transform: &Transform,
    batch: &Batch,
) -> Result<(), Halt> {
    for (collection, documents) in inserts(batch) {
        let there = there(database, Some(&mut *session), unit, collection, &documents).await?;
        let new = documents.iter().filter(|d| !there.contains(&id_bytes(d)));
        for (_, command) in commands("insert", collection, "documents", new, None) {
            let answer = database.run_raw_command(command).session(&mut *session).await?;
            if let Some(error) = write_errors(&answer).next() {
                return Err(write_failure(
                    error,
                    unit,
                    &format!("a document added to {collection}"),
                ));
            }
        }
    }
    let (changed, statements) = batch.statements();
    for (first, command) in commands("update", transform.collection, "updates", statements, None) {
        let answer = database.run_raw_command(command).session(&mut *session).await?;
        fail_on_write_error(&answer, unit, transform, &changed[first..])?;
    }
    Ok(())
}

/// Writes a batch that was read outside transactions: each edit only onto the document that it was
/// computed from.
pub(crate) async fn write_guarded(
    database: &Database,
    unit: &Unit,
    transform: &Transform,
    batch: &Batch,
) -> Result<Written, Halt> {
    let concern = rawdoc! { "w": "majority", "j": true };
    for (collection, documents) in inserts(batch) {
        for (_, command) in commands("insert", collection, "documents", &documents, Some(&concern))
        {
            let answer = database.run_raw_command(command).await?;
            // a document that is there already was added by an earlier try, if it is the same
            let is_there = |error: &Document| {
                error.get_i32("code").is_ok_and(|code| code == 11000)
                    && error.get_document("keyPattern").is_ok_and(|key| key.contains_key("_id"))
            };
            if write_errors(&answer).any(is_there) {
                there(database, None, unit, collection, &documents).await?;
            }
            if let Some(error) = write_errors(&answer).find(|error| !is_there(error)) {
                return Err(write_failure(
                    error,
                    unit,
                    &format!("a document added to {collection}"),
                ));
            }
            fail_on_write_concern(&answer)?;
        }
    }
    let (changed, statements) = batch.statements();
    let unchanged = (batch.edited.len() - changed.len()) as u64;
    let mut written = Written { documents: unchanged, refusal: None };
    for (first, command) in
        commands("update", transform.collection, "updates", statements, Some(&concern))
    {
        let answer = database.run_raw_command(command).await?;
        fail_on_write_concern(&answer)?;
        written.documents += answer.get_i32("n").unwrap_or_default().max(0) as u64;
        if let Err(refusal) = fail_on_write_error(&answer, unit, transform, &changed[first..]) {
            written.refusal = Some(refusal);
            break;
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

fn id_bytes(document: &RawDocument) -> Vec<u8> {
    match document.get("_id") {
        Ok(Some(id)) => rawdoc! { "_id": id }.into_bytes(),
        _ => vec![],
    }
}

/// Which of the documents to add are there already, by their `_id`.
///
/// # Errors
///
/// One of them is there with other contents: what is to be added would be lost.
async fn there(
    database: &Database,
    session: Option<&mut ClientSession>,
    unit: &Unit,
    collection: &str,
    documents: &[RawDocumentBuf],
) -> Result<HashSet<Vec<u8>>, Halt> {
    let ids: Vec<Bson> = documents
        .iter()
        .filter_map(|document| document.get("_id").ok().flatten())
        .map(Bson::try_from)
        .collect::<Result<_, _>>()?;
    let find = doc! { "find": collection, "filter": { "_id": { "$in": ids } } };
    let find = RawDocumentBuf::try_from(&find)?;
    let mut there = HashMap::new();
    for document in query(database, session, find).await? {
        there.insert(id_bytes(&document), document);
    }
    for document in documents {
        let Some(stored) = there.get(&id_bytes(document)) else { continue };
        if !is_same(document, stored) {
            let id = document.get("_id")?.map(Bson::try_from).transpose()?;
            let id = id.and_then(|id| serde_json::to_string(&id).ok()).unwrap_or_default();
            return Err(failed(
                format!(
                    "upgrade {}: document {id} of {collection} is to be added, and is there already \
                     with other contents",
                    unit.version
                ),
                "see which of the two is right, move the one that is there out of the way if it is not, \
                 then run it again",
            ));
        }
    }
    Ok(there.into_keys().collect())
}

/// Whether a document is the one that was sent, byte for byte: the server moves the `_id` to the front.
fn is_same(sent: &RawDocument, stored: &RawDocument) -> bool {
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

/// The documents to add, by collection; of several with one `_id`, the first.
fn inserts(batch: &Batch) -> Vec<(&'static str, Vec<RawDocumentBuf>)> {
    let mut collections: Vec<(&'static str, Vec<RawDocumentBuf>)> = Vec::new();
    let effects = batch.edited.iter().filter_map(|edited| edited.effect.as_ref());
    for (name, document) in effects.flat_map(|effect| &effect.inserts) {
        let at = match collections.iter().position(|(other, _)| other == name) {
            Some(at) => at,
            None => {
                collections.push((name, vec![]));
                collections.len() - 1
            }
        };
        collections[at].1.push(document.clone());
    }
    for (_, documents) in &mut collections {
        let mut seen = HashSet::new();
        documents.retain(|document| seen.insert(id_bytes(document)));
    }
    collections
}

/// The commands that carry `items`, each within what one command may carry, with the position of the
/// first item that each carries.
///
/// Ordered inside a transaction, which the first error ends; unordered outside, where a failed item
/// must not keep the others back.
fn commands<'a>(
    verb: &str,
    collection: &str,
    list: &str,
    items: impl IntoIterator<Item = &'a RawDocumentBuf>,
    write_concern: Option<&RawDocumentBuf>,
) -> Vec<(usize, RawDocumentBuf)> {
    let mut groups: Vec<(usize, usize, RawArrayBuf)> = Vec::new();
    for (position, item) in items.into_iter().enumerate() {
        let size = item.as_bytes().len();
        match groups.last_mut() {
            Some((first, bytes, array))
                if *bytes + size <= COMMAND_BYTES && position - *first < COMMAND_ITEMS =>
            {
                *bytes += size;
                array.push(&**item);
            }
            _ => groups.push((position, size, RawArrayBuf::from_iter([&**item]))),
        }
    }
    let name = |text: &str| CString::try_from(text).unwrap_or(cstr!("").to_owned());
    let command = |array| {
        let mut command = RawDocumentBuf::new();
        command.append(name(verb), collection);
        command.append(name(list), array);
        command.append(cstr!("ordered"), write_concern.is_none());
        if let Some(concern) = write_concern {
            command.append(cstr!("writeConcern"), concern.clone());
        }
        command
    };
    groups.into_iter().map(|(first, _, array)| (first, command(array))).collect()
}

fn write_errors(answer: &Document) -> impl Iterator<Item = &Document> {
    answer
        .get_array("writeErrors")
        .map(|errors| errors.as_slice())
        .unwrap_or_default()
        .iter()
        .filter_map(Bson::as_document)
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
        None => transform.collection.to_owned(),
    };
    Err(write_failure(error, unit, &place))
}

/// An unconfirmed write is one that may be lost: the driver's error for it can be tried again.
fn fail_on_write_concern(answer: &Document) -> Result<(), Halt> {
    match answer.get_document("writeConcernError") {
        Ok(_) => Err(Halt::Driver(
            std::io::Error::other("the server did not confirm a write to a majority").into(),
        )),
        Err(_) => Ok(()),
    }
}

/// What only the server knows: a unique key, a validator.
fn write_failure(error: &Document, unit: &Unit, place: &str) -> Halt {
    let code = error.get_i32("code").unwrap_or_default();
    let detail = server::safe_detail(code, error.get_str("errmsg").unwrap_or_default());
    let reason = match (code, detail) {
        (_, Some(detail)) => detail,
        (121, None) => "the collection's validator refuses the result".to_owned(),
        (code, None) => format!("server error {code}"),
    };
    failed(
        format!("upgrade {}: {place}: {reason}", unit.version),
        "mend the document, or deploy code whose upgrade can deal with it, then run it again",
    )
}
