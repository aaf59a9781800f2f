//! Documents that a transform adds: two of one `_id` must be the same document, also where one of them is stored.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use mongodb::bson::raw::cstr;
use mongodb::bson::{Document, RawArrayBuf, RawDocument, RawDocumentBuf, Timestamp, rawdoc};
use mongodb::{ClientSession, Database};

use crate::authoring::step_kind::StepKind;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::author;
use crate::engine::context::Context;
use crate::engine::documents::edited::{Edited, id_bytes, is_same, place};
use crate::engine::documents::find::{Flow, In, each};
use crate::engine::failing::failed_step;
use crate::server::stop::RunError;

/// How many added documents a preflight remembers, in some 40 bytes each. What is beyond is compared when it
/// is written.
const REMEMBERED: usize = 500_000;

/// How many bytes of `_id`s one query holds; one alone may have more.
const IDS_BYTES: usize = 8 * 1024 * 1024;

/// What a preflight remembers of the documents that a step adds.
#[derive(Default)]
pub(crate) struct Added {
    hasher: RandomState,
    /// The hash of each document's contents, by hashes of its collection and `_id`: there may be very many.
    seen: HashMap<[u64; 2], u64>,
}

impl Added {
    /// Takes what one document adds.
    ///
    /// # Errors
    ///
    /// An earlier one adds a document of that `_id` with other contents: one of the two would be lost.
    pub(crate) fn take(
        &mut self,
        upgrade: &VersionUpgrade,
        transform: &Transform,
        edited: &Edited,
    ) -> Result<(), RunError> {
        for (collection, document) in edited.inserts() {
            let id = id_bytes(document);
            let key = [
                self.hasher.hash_one((0, collection, &id)),
                self.hasher.hash_one((1, &id, collection)),
            ];
            let contents = self.hasher.hash_one(document.as_bytes());
            let full = self.seen.len() >= REMEMBERED;
            match self.seen.entry(key) {
                Entry::Occupied(seen) if *seen.get() != contents => {
                    return Err(two_of_one_id(upgrade, transform, edited, collection, document));
                }
                Entry::Vacant(vacant) if !full => {
                    vacant.insert(contents);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A document to add, and the one that it is computed from.
#[derive(Clone, Copy)]
pub(crate) struct Addition<'a> {
    pub(crate) document: &'a RawDocumentBuf,
    source: &'a Edited,
}

/// The documents to add, by collection; each once.
///
/// # Errors
///
/// Two of them have one `_id` and other contents.
pub(crate) fn by_collection<'a>(
    upgrade: &VersionUpgrade,
    transform: &Transform,
    edited: impl IntoIterator<Item = &'a Edited>,
) -> Result<Vec<(&'a str, Vec<Addition<'a>>)>, RunError> {
    let mut collections: Vec<(&'a str, Vec<Addition<'a>>)> = Vec::new();
    let mut seen: HashMap<(&'a str, Vec<u8>), &'a RawDocumentBuf> = HashMap::new();
    for source in edited {
        for (name, document) in source.inserts() {
            match seen.entry((name, id_bytes(document))) {
                Entry::Occupied(other) if is_same(document, other.get()) => continue,
                Entry::Occupied(_) => {
                    return Err(two_of_one_id(upgrade, transform, source, name, document));
                }
                Entry::Vacant(vacant) => vacant.insert(document),
            };
            let addition = Addition { document, source };
            match collections.iter_mut().find(|(other, _)| *other == name) {
                Some((_, additions)) => additions.push(addition),
                None => collections.push((name, vec![addition])),
            }
        }
    }
    Ok(collections)
}

/// Makes sure, before anything is written, that what is to be added to these collections is not there with other
/// contents.
pub(crate) async fn find_taken(
    context: &Context,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    edited: &[Edited],
    since: Option<Timestamp>,
    collections: impl Fn(&str) -> bool,
) -> Result<(), RunError> {
    for (collection, additions) in by_collection(upgrade, transform, edited)? {
        // if the transform also deletes, an existing document may be about to be deleted
        if !collections(collection) || (collection == transform.collection && transform.deletes) {
            continue;
        }
        let (database, concern) = (context.database(), In::Plain(since).read_concern());
        let asking = async || {
            let there =
                there(database, None, upgrade, transform, collection, &additions, concern.as_ref());
            context.stop.guard(there).await
        };
        context.retry(asking).await?;
    }
    Ok(())
}

/// Which of the documents to add are there already, by their `_id`.
///
/// # Errors
///
/// One of them is there with other contents: what is to be added would be lost.
pub(crate) async fn there(
    database: &Database,
    mut session: Option<&mut ClientSession>,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    collection: &str,
    additions: &[Addition<'_>],
    concern: Option<&Document>,
) -> Result<HashSet<Vec<u8>>, RunError> {
    let sent: HashMap<Vec<u8>, &Addition<'_>> =
        additions.iter().map(|addition| (id_bytes(addition.document), addition)).collect();
    let mut there = HashSet::new();
    let mut rest = additions;
    // what one document adds may have more `_id`s than one query may hold
    while !rest.is_empty() {
        let mut ids = RawArrayBuf::new();
        let mut asked = 0;
        while let Some(addition) = rest.get(asked)
            && ids.as_bytes().len() < IDS_BYTES
        {
            if let Some(id) = addition.document.get("_id")? {
                ids.push(id);
            }
            asked += 1;
        }
        rest = &rest[asked..];
        let mut find = rawdoc! { "find": collection, "filter": { "_id": { "$in": ids } } };
        if let Some(concern) = concern {
            find.append(cstr!("readConcern"), RawDocumentBuf::try_from(concern)?);
        }
        // one by one: those that are there may be much larger than those that are to be added
        each(database, session.as_deref_mut(), find, |stored| {
            let id = id_bytes(stored);
            let same = match sent.get(&id) {
                Some(addition) if is_same(addition.document, stored) => true,
                // or the server takes this one's `_id` for one of those: 1 is 1.0, and under a collation "a" may be "A"
                Some(_) | None => false,
            };
            let source = sent.get(&id).copied().or(additions.first());
            if !same && let Some(Addition { source, .. }) = source {
                let id = author::id(stored).unwrap_or_default();
                return Err(taken(upgrade, transform, source, collection, &id));
            }
            there.insert(id);
            Ok(Flow::On)
        })
        .await?;
    }
    Ok(there)
}

fn taken(
    upgrade: &VersionUpgrade,
    transform: &Transform,
    source: &Edited,
    collection: &str,
    id: &str,
) -> RunError {
    failed_step(
        upgrade,
        &transform.name(),
        &format!(
            "{}: it adds the document {id} to {collection}, which is there already with other contents",
            place(transform, &source.document)
        ),
        "see which of the two is right: move the one that is there out of the way if it is not, or deploy \
         code that gives the added one another _id, then run it again",
    )
}

fn two_of_one_id(
    upgrade: &VersionUpgrade,
    transform: &Transform,
    edited: &Edited,
    collection: &str,
    document: &RawDocument,
) -> RunError {
    let id = author::id(document).unwrap_or_default();
    failed_step(
        upgrade,
        &transform.name(),
        &format!(
            "{}: it adds the document {id} to {collection}, which the step adds for an earlier document \
             with other contents",
            place(transform, &edited.document)
        ),
        "give documents of different contents different _ids (derived_object_id makes them from what \
         tells them apart), or count and group them in a transaction step, then run it again",
    )
}
