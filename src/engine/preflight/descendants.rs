//! Documents that a transform adds to its own collection. It processes them in turn, so they are checked
//! before anything is written: it must be able to transform them, and must stop adding new ones at some point.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;

use mongodb::bson::{RawDocumentBuf, Timestamp};

use crate::authoring::step_kind::StepKind;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::context::Context;
use crate::engine::documents::converge::Verify;
use crate::engine::documents::edited::{Edited, id_bytes, place};
use crate::engine::failing::failed_step;
use crate::engine::preflight::unstored::{self, Made};
use crate::server::stop::RunError;

/// How many times over added documents may add further ones. Where a document's levels are unrolled one by one,
/// there are no more than a hundred.
const GENERATIONS: usize = 300;

/// How many added documents are processed at a time: many in the first generation and few in later ones, so that
/// endless branching is followed depth first.
const AT_A_TIME: (usize, usize) = (512, 4);

/// Added documents that are to be followed.
struct Generation {
    /// How many times over documents were added before these.
    age: usize,
    documents: Vec<RawDocumentBuf>,
    /// The document that the first of them was added for, for messages.
    origin: Rc<str>,
}

/// Follows what these documents add to their own collection.
///
/// # Errors
///
/// A convergent transform refuses one of these documents, or would change it again: it reaches them in the last pass at
/// the latest. Any transform: it would never stop adding documents.
pub(crate) async fn follow(
    context: &Context,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    edited: &[Edited],
    since: Option<Timestamp>,
) -> Result<(), RunError> {
    let hasher = RandomState::new();
    let mut met = HashSet::new();
    let mut own = |edited: &Edited| -> Vec<RawDocumentBuf> {
        let own = edited.inserts().filter(|(collection, _)| *collection == transform.collection);
        let own = own.map(|(_, document)| document);
        // one that was met already is there
        own.filter(|document| met.insert(hasher.hash_one(id_bytes(document)))).cloned().collect()
    };
    for edited in edited {
        let origin: Rc<str> = place(transform, &edited.document).into();
        let mut left = vec![Generation { age: 1, documents: own(edited), origin }];
        while let Some(Generation { age, mut documents, origin }) = left.pop() {
            if documents.is_empty() {
                continue;
            }
            if age > GENERATIONS {
                return Err(endless(upgrade, transform, &origin));
            }
            let (many, few) = AT_A_TIME;
            let taken = many.checked_shr(age as u32 - 1).unwrap_or_default().max(few);
            let later = documents.split_off(taken.min(documents.len()));
            left.push(Generation { age, documents: later, origin: origin.clone() });
            let computing = unstored::compute(
                context,
                upgrade,
                transform,
                &documents,
                since,
                Verify::promise(transform),
            );
            let computed = match computing.await {
                Ok(Made::All(computed)) => computed,
                Ok(Made::TooMuch) => {
                    let later = documents.split_off(documents.len() / 2);
                    for documents in [later, documents] {
                        left.push(Generation { age, documents, origin: origin.clone() });
                    }
                    continue;
                }
                Ok(Made::Unknown) => continue,
                Err(RunError::Failure(mut failure)) if transform.convergent => {
                    failure.message +=
                        &format!(" (the step adds that document itself, for {origin})");
                    return Err(RunError::Failure(failure));
                }
                // it may never meet that one, which may come before those that it is at
                Err(RunError::Failure(_)) => continue,
                Err(error) => return Err(error),
            };
            context.activity.moved();
            let documents = computed.iter().flat_map(&mut own).collect();
            left.push(Generation { age: age + 1, documents, origin });
        }
    }
    Ok(())
}

fn endless(upgrade: &VersionUpgrade, transform: &Transform, origin: &str) -> RunError {
    failed_step(
        upgrade,
        &transform.name(),
        &format!(
            "{origin}: the documents it adds to {} match its own filter, and add further ones that do: \
             after {GENERATIONS} times over there is no end to it",
            transform.collection
        ),
        "give the documents that the step adds something that its filter leaves out, or let its code leave \
         them alone, then run it again",
    )
}
