//! Writing a batch: in a transaction, or edit by edit onto the old values.

use std::collections::HashMap;

use mongodb::bson::raw::{CString, cstr};
use mongodb::bson::{Bson, Document, RawArrayBuf, RawDocumentBuf, rawdoc};
use mongodb::{ClientSession, Database};

use crate::authoring::edit::Touched;
use crate::authoring::step_kind::StepKind;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::context::Context;
use crate::engine::documents::added::{by_collection, there};
use crate::engine::documents::compute::{How, compute_in};
use crate::engine::documents::converge::Verify;
use crate::engine::documents::edited::{Batch, Edited, Purpose, Sizes, done, id_bytes, place};
use crate::engine::documents::find::{Flow, In, documents, each, find_again, finds};
use crate::engine::documents::large::{self, Exchange};
use crate::engine::editors::editor::Origin;
use crate::engine::failing::{outgrown, write_failure};
use crate::record::journal::Done;
use crate::server::answer::{fail_on_write_concern, write_errors};
use crate::server::stop::RunError;

/// What one `update` or `insert` command may carry, in bytes; one statement alone may be larger.
const COMMAND_BYTES: usize = 12 * 1024 * 1024;

/// How many statements or documents the server takes in one command.
const COMMAND_ITEMS: usize = 100_000;

/// Reads the next batch after `after` in the session's transaction, with its edits.
pub(crate) async fn read(
    context: &Context,
    session: &mut ClientSession,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    after: Option<&Bson>,
    limit: usize,
) -> Result<Batch, RunError> {
    let finds = finds(transform, after, limit, In::Transaction, Sizes::Asked);
    let documents = documents(context.database(), Some(&mut *session), finds).await?;
    let how = in_transaction(Verify::promise(transform));
    // what is too much is read again by the next call
    let computed = compute_in(context, Some(session), upgrade, transform, documents, how);
    Ok(computed.await?.batch)
}

/// How documents are computed that were read in the transaction that writes them.
fn in_transaction(promise: Verify) -> How {
    How { purpose: Purpose::Write, promise, origin: Origin::Stored, place: In::Transaction }
}

/// Writes, in the session's transaction, documents that were read and computed before it: where one is not
/// what it was, its edits are computed again.
pub(crate) async fn write_prefetched(
    context: &Context,
    session: &mut ClientSession,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    prefetched: &[Edited],
    sizes: Sizes,
) -> Result<Done, RunError> {
    if prefetched.is_empty() {
        return Ok(Done::default());
    }
    let database = context.database();
    let find = find_again(transform, prefetched, sizes)?;
    let (mut edited, mut changed) = (Vec::<&Edited>::with_capacity(prefetched.len()), Vec::new());
    let mut rest: Option<HashMap<&[u8], &Edited>> = None;
    each(database, Some(&mut *session), find, |document| {
        let next = prefetched.get(edited.len()).filter(|_| rest.is_none());
        if let Some(then) = next.filter(|then| *then.document == *document) {
            edited.push(then);
            return Ok(Flow::On);
        }
        // one document is gone or has changed; all those after it may still be unchanged
        let rest = rest.get_or_insert_with(|| {
            let later = prefetched[edited.len()..].iter();
            later.map(|then| (then.document.as_bytes(), then)).collect()
        });
        match rest.get(document.as_bytes()) {
            Some(then) => edited.push(then),
            None => changed.push(document.to_owned()),
        }
        Ok(Flow::On)
    })
    .await?;
    let mut recomputed = Vec::new();
    while !changed.is_empty() {
        let (session, how) = (Some(&mut *session), in_transaction(Verify::Nothing));
        let computed = compute_in(context, session, upgrade, transform, changed, how).await?;
        recomputed.push(computed.batch);
        changed = computed.rest;
    }
    edited.extend(recomputed.iter().flat_map(|batch| &batch.edited));
    write(database, session, upgrade, transform, &edited).await?;
    Ok(done(edited))
}

/// Writes a batch in the session's transaction, in which it was read.
pub(crate) async fn write(
    database: &Database,
    session: &mut ClientSession,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    edited: &[&Edited],
) -> Result<(), RunError> {
    // first, so that a document may take the place of one that it is computed from
    let (deleted, deletions) = deletions(edited);
    for (first, command) in commands("delete", &transform.collection, "deletes", deletions, None) {
        let answer = database.run_raw_command(command).session(&mut *session).await?;
        fail_on_write_error(&answer, upgrade, transform, &deleted[first..])?;
    }
    for (collection, documents) in by_collection(upgrade, transform, edited.iter().copied())? {
        let there =
            there(database, Some(&mut *session), upgrade, transform, collection, &documents, None)
                .await?;
        let new = documents.iter().map(|addition| addition.document);
        let new = new.filter(|document| !there.contains(&id_bytes(document)));
        for (_, command) in commands("insert", collection, "documents", new, None) {
            let answer = database.run_raw_command(command).session(&mut *session).await?;
            if let Some(error) = write_errors(&answer).next() {
                let refused = || refused_addition(error, upgrade, transform, collection);
                return Err(outgrown(error).unwrap_or_else(refused));
            }
        }
    }
    let (changed, statements) = statements(edited);
    for (first, command) in commands("update", &transform.collection, "updates", statements, None) {
        let answer = database.run_raw_command(command).session(&mut *session).await?;
        fail_on_write_error(&answer, upgrade, transform, &changed[first..])?;
    }
    Ok(())
}

/// Writes a batch that was read outside transactions: each edit only onto the document that it was
/// computed from. What it adds has no such guard, and a later version may have deleted it since: the lease is
/// verified just before.
pub(crate) async fn write_guarded(
    context: &Context,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    batch: &Batch,
) -> Result<Written, RunError> {
    let database = context.database();
    let concern = rawdoc! { "w": "majority", "j": true };
    let edited: Vec<&Edited> = batch.edited.iter().collect();
    for (collection, documents) in by_collection(upgrade, transform, &batch.edited)? {
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
                there(database, None, upgrade, transform, collection, &documents, None).await?;
            }
            if let Some(error) = write_errors(&answer).find(|error| !is_there(error)) {
                return Err(refused_addition(error, upgrade, transform, collection));
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
    for (verb, list, sent, items) in
        [("update", "updates", changed, statements), ("delete", "deletes", deleted, deletions)]
    {
        for (first, command) in commands(verb, &transform.collection, list, items, Some(&concern)) {
            let answer = database.run_raw_command(command).await?;
            fail_on_write_concern(&answer)?;
            written.documents += answer.get_i32("n").unwrap_or_default().max(0) as u64;
            if let Err(refusal) = fail_on_write_error(&answer, upgrade, transform, &sent[first..]) {
                written.refusal = Some(refusal);
                return Ok(written);
            }
        }
    }
    for (edited, touched) in large {
        match large::write(context, upgrade, transform, edited, touched).await? {
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

/// How a batch outside transactions ended.
pub(crate) struct Written {
    /// The documents that were still as they were read.
    pub(crate) documents: u64,
    /// The first edit that the server refused, after which others may have been made.
    pub(crate) refusal: Option<RunError>,
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
    upgrade: &VersionUpgrade,
    transform: &Transform,
    sent: &[&Edited],
) -> Result<(), RunError> {
    let Some(error) = write_errors(answer).next() else { return Ok(()) };
    let index = error.get_i32("index").unwrap_or_default().max(0) as usize;
    let place = match sent.get(index) {
        Some(edited) => place(transform, &edited.document),
        None => transform.collection.clone().into_owned(),
    };
    let refused = || write_failure(error, upgrade, &transform.name(), &place);
    Err(outgrown(error).unwrap_or_else(refused))
}

/// What the server says against a document that is added.
fn refused_addition(
    error: &Document,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    collection: &str,
) -> RunError {
    let place = format!("a document added to {collection}");
    write_failure(error, upgrade, &transform.name(), &place)
}
