//! Documents that a transform adds to other collections: two of one `_id` must be the same document.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};

use mongodb::bson::{RawDocument, RawDocumentBuf};

use crate::authoring::table::Unit;
use crate::authoring::transform::Transform;
use crate::engine::batch::{Edited, id_bytes, is_same, place};
use crate::engine::{author, failed_step};
use crate::server::stop::Halt;

/// How many added documents a preflight remembers, in some 40 bytes each. What is beyond is compared when it
/// is written.
const REMEMBERED: usize = 500_000;

/// What a preflight remembers of the documents that a step adds.
#[derive(Default)]
pub(crate) struct Added {
    hasher: RandomState,
    /// By collection and `_id`, what the document holds; by their hashes, for there may be very many.
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
        unit: &Unit,
        transform: &Transform,
        edited: &Edited,
    ) -> Result<(), Halt> {
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
                    return Err(two_of_one_id(unit, transform, edited, collection, document));
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

/// The documents to add, by collection; each once.
///
/// # Errors
///
/// Two of them have one `_id` and other contents.
pub(crate) fn by_collection<'a>(
    unit: &Unit,
    transform: &Transform,
    edited: &[&'a Edited],
) -> Result<Vec<(&'a str, Vec<&'a RawDocumentBuf>)>, Halt> {
    let mut collections: Vec<(&'a str, Vec<&'a RawDocumentBuf>)> = Vec::new();
    let mut seen: HashMap<(&'a str, Vec<u8>), &'a RawDocumentBuf> = HashMap::new();
    for edited in edited {
        for (name, document) in edited.inserts() {
            match seen.entry((name, id_bytes(document))) {
                Entry::Occupied(other) if is_same(document, other.get()) => continue,
                Entry::Occupied(_) => {
                    return Err(two_of_one_id(unit, transform, edited, name, document));
                }
                Entry::Vacant(vacant) => vacant.insert(document),
            };
            match collections.iter_mut().find(|(other, _)| *other == name) {
                Some((_, documents)) => documents.push(document),
                None => collections.push((name, vec![document])),
            }
        }
    }
    Ok(collections)
}

fn two_of_one_id(
    unit: &Unit,
    transform: &Transform,
    edited: &Edited,
    collection: &str,
    document: &RawDocument,
) -> Halt {
    let id = author::id(document).unwrap_or_default();
    failed_step(
        unit,
        &transform.step_name(),
        &format!(
            "{}: it adds the document {id} to {collection}, which the step adds for an earlier document \
             with other contents",
            place(transform, &edited.document)
        ),
        "give documents of different contents different _ids (derived_object_id makes them from what \
         tells them apart), or count and group them in a transaction step, then run it again",
    )
}
