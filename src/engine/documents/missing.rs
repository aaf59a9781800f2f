//! Seeding: finding out which documents are missing, and inserting them.

use std::collections::HashMap;
use std::ops::Range;

use mongodb::bson::raw::cstr;
use mongodb::bson::{RawArrayBuf, RawDocument, RawDocumentBuf, rawdoc};
use mongodb::{ClientSession, Database};

use crate::authoring::seed::{Documents, Seed, id_text};
use crate::authoring::step_kind::StepKind;
use crate::authoring::table::VersionUpgrade;
use crate::engine::author;
use crate::engine::context::Context;
use crate::engine::documents::edited::{id_bytes, is_same};
use crate::engine::documents::find::{Flow, each, query};
use crate::engine::documents::write::commands;
use crate::engine::failing::{failed_step, outgrown, write_failure};
use crate::record::journal::Done;
use crate::server::answer::{fail_on_write_concern, write_errors};
use crate::server::stop::RunError;

/// The counter under which the journal holds how many documents were inserted.
pub(crate) const INSERTED: &str = "inserted";

/// How many bytes of documents are inserted in one transaction.
const BYTES: usize = 4 * 1024 * 1024;

/// The documents of a seed, in parts that one transaction can insert.
pub(crate) struct Parts {
    documents: Documents,
    ranges: Vec<Range<usize>>,
}

impl Parts {
    /// Part after part; an empty seed has none.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &[RawDocumentBuf]> {
        self.ranges.iter().map(|range| &self.documents[range.clone()])
    }
}

/// Cuts the documents of a seed into parts.
pub(crate) fn parts(
    context: &Context,
    upgrade: &VersionUpgrade,
    seed: &Seed,
) -> Result<Parts, RunError> {
    let (step, place) = (seed.name(), || place(seed));
    let documents = author::call(upgrade, &step, place, || seed.documents(upgrade.started()))?;
    let (mut ranges, mut bytes): (Vec<Range<usize>>, usize) = (vec![], 0);
    for (position, document) in documents.iter().enumerate() {
        let size = document.as_bytes().len();
        match ranges.last_mut() {
            Some(part) if part.len() < context.batch_documents && bytes + size <= BYTES => {
                bytes += size;
                part.end = position + 1;
            }
            _ => {
                bytes = size;
                ranges.push(position..position + 1);
            }
        }
    }
    Ok(Parts { documents, ranges })
}

/// What inserting these documents does.
pub(crate) fn done(inserted: u64) -> Done {
    let mut done = Done { documents: inserted, ..Done::default() };
    if inserted > 0 {
        done.counts.insert(INSERTED.to_owned(), inserted);
    }
    done
}

/// What a seed would do now, and the bytes that it would insert.
pub(crate) async fn scan(
    context: &Context,
    upgrade: &VersionUpgrade,
    seed: &Seed,
) -> Result<(Done, usize), RunError> {
    let (mut inserted, mut bytes) = (0, 0);
    for part in parts(context, upgrade, seed)?.iter() {
        let scanning = missing(context.database(), None, upgrade, seed, part);
        for document in context.stop.guard(scanning).await? {
            inserted += 1;
            bytes += document.as_bytes().len();
        }
    }
    Ok((done(inserted), bytes))
}

/// The documents of a part that are not there.
pub(crate) async fn missing_of(
    context: &Context,
    upgrade: &VersionUpgrade,
    seed: &Seed,
    part: &[RawDocumentBuf],
) -> Result<Vec<RawDocumentBuf>, RunError> {
    let scanning = missing(context.database(), None, upgrade, seed, part);
    Ok(context.stop.guard(scanning).await?.into_iter().cloned().collect())
}

/// Inserts what is missing of these documents in the session's transaction.
pub(crate) async fn insert(
    database: &Database,
    session: &mut ClientSession,
    upgrade: &VersionUpgrade,
    seed: &Seed,
    part: &[RawDocumentBuf],
) -> Result<Done, RunError> {
    let missing = missing(database, Some(&mut *session), upgrade, seed, part).await?;
    for (_, command) in
        commands("insert", &seed.collection, "documents", missing.iter().copied(), None)
    {
        let answer = database.run_raw_command(command).session(&mut *session).await?;
        if let Some(error) = write_errors(&answer).next() {
            let refused = || write_failure(error, upgrade, &seed.name(), &place(seed));
            return Err(outgrown(error).unwrap_or_else(refused));
        }
    }
    Ok(done(missing.len() as u64))
}

/// Like [`insert`], outside transactions. A document that somebody else inserts in the meantime counts as present. An
/// insert has no fence, and a later version may have deleted the document, so the lease is verified just before.
pub(crate) async fn insert_guarded(
    context: &Context,
    upgrade: &VersionUpgrade,
    seed: &Seed,
    part: &[RawDocumentBuf],
) -> Result<Done, RunError> {
    let database = context.database();
    let concern = rawdoc! { "w": "majority", "j": true };
    let missing = missing(database, None, upgrade, seed, part).await?;
    let mut inserted = 0;
    let mut taken = false;
    for (_, command) in
        commands("insert", &seed.collection, "documents", missing.iter().copied(), Some(&concern))
    {
        context.lock.verify(&context.stop).await?;
        let answer = database.run_raw_command(command).await?;
        fail_on_write_concern(&answer)?;
        inserted += answer.get_i32("n").unwrap_or_default().max(0) as u64;
        for error in write_errors(&answer) {
            let by_id = error.get_document("keyPattern").is_ok_and(|key| key.contains_key("_id"));
            if !by_id || !error.get_i32("code").is_ok_and(|code| code == 11000) {
                return Err(write_failure(error, upgrade, &seed.name(), &place(seed)));
            }
            taken = true;
        }
    }
    if taken {
        self::missing(database, None, upgrade, seed, part).await?;
    }
    Ok(done(inserted))
}

/// The step, for messages.
fn place(seed: &Seed) -> String {
    format!("a document to seed into {}", seed.collection)
}

/// Which of these documents are not there.
///
/// # Errors
///
/// One is there with other contents, and the seed is exact.
async fn missing<'a>(
    database: &Database,
    mut session: Option<&mut ClientSession>,
    upgrade: &VersionUpgrade,
    seed: &Seed,
    part: &'a [RawDocumentBuf],
) -> Result<Vec<&'a RawDocumentBuf>, RunError> {
    let mut ids = RawArrayBuf::new();
    for document in part {
        if let Some(id) = document.get("_id")? {
            ids.push(id);
        }
    }
    let find = find(seed, rawdoc! { "_id": { "$in": ids } }, session.is_none());
    let mut missing: HashMap<Vec<u8>, &RawDocumentBuf> =
        part.iter().map(|document| (id_bytes(document), document)).collect();
    let mut others = false;
    // one by one: those that are there may be much larger than those that should be
    each(database, session.as_deref_mut(), find, |stored| {
        match missing.remove(&id_bytes(stored)) {
            Some(document) => same(upgrade, seed, document, stored)?,
            None => others = true,
        }
        Ok(Flow::On)
    })
    .await?;
    let missing = part.iter().filter(|document| missing.contains_key(&id_bytes(document)));
    let missing: Vec<&RawDocumentBuf> = missing.collect();
    if !others {
        return Ok(missing);
    }
    // the server took other `_id`s for these: 1 is 1.0, and under a collation "a" may be "A"
    let mut absent = Vec::new();
    for document in missing {
        let Some(id) = document.get("_id")? else { continue };
        let find = self::find(seed, rawdoc! { "_id": { "$eq": id } }, session.is_none());
        match query(database, session.as_deref_mut(), find).await?.first() {
            Some(stored) => same(upgrade, seed, document, stored)?,
            None => absent.push(document),
        }
    }
    Ok(absent)
}

fn find(seed: &Seed, filter: RawDocumentBuf, plain: bool) -> RawDocumentBuf {
    let mut find = rawdoc! { "find": &*seed.collection, "filter": filter };
    if !seed.exact {
        find.append(cstr!("projection"), rawdoc! { "_id": 1 });
    }
    if plain {
        find.append(cstr!("readConcern"), rawdoc! { "level": "majority" });
    }
    find
}

/// Refuses a stored document that is not exactly what an exact seed says.
fn same(
    upgrade: &VersionUpgrade,
    seed: &Seed,
    document: &RawDocument,
    stored: &RawDocument,
) -> Result<(), RunError> {
    if !seed.exact || (is_same(document, stored) && id_bytes(document) == id_bytes(stored)) {
        return Ok(());
    }
    Err(failed_step(
        upgrade,
        &seed.name(),
        &format!(
            "document {} of {} must have exactly the contents that the upgrade says, and is there with \
             other contents",
            id_text(stored),
            seed.collection
        ),
        "compare the two: change or remove the one that is there if it is wrong, or deploy code whose \
         upgrade accepts it, then run it again",
    ))
}
