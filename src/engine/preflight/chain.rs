//! A transform of documents that earlier steps change: computed and verified, before the first of them writes, on
//! what these make of each document.

use std::collections::HashMap;

use mongodb::bson::{Bson, RawDocument, RawDocumentBuf, Timestamp};

use crate::authoring::seed::Seed;
use crate::authoring::step::Step;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::context::Context;
use crate::engine::documents::converge::Verify;
use crate::engine::documents::edited::{self, Edited, Sizes, id_bytes};
use crate::engine::documents::find::{self, In};
use crate::engine::documents::missing;
use crate::engine::preflight::estimate::Known;
use crate::engine::preflight::scan::{EstimateBuilder, all_of};
use crate::engine::preflight::unstored::{self, Made};
use crate::process::progress::Progress;
use crate::server::stop::RunError;

/// How many bytes of documents are taken through the chain at a time, and how many documents.
const BYTES: usize = 4 * 1024 * 1024;
const DOCUMENTS: usize = 1000;

/// An earlier step whose outcome can be computed document by document.
#[derive(Clone, Copy)]
enum Link<'a> {
    Transform(&'a VersionUpgrade, &'a Transform),
    Seed(&'a VersionUpgrade, &'a Seed),
}

/// A transform, and the earlier steps that change what it reads.
pub(crate) struct Chain<'a> {
    links: Vec<Link<'a>>,
    upgrade: &'a VersionUpgrade,
    transform: &'a Transform,
    /// All earlier steps: they may write the collections into which it adds documents.
    earlier: Vec<&'a Step>,
}

impl<'a> Chain<'a> {
    /// The chain of the last of these steps. `None` if what it reads does not come from its own documents alone:
    /// from a look-up of what an earlier step changes, a transaction, a rename, documents moved here from another
    /// collection; or from a step that may be half done and is not convergent.
    pub(crate) fn of(
        steps: &[(&'a VersionUpgrade, &'a Step)],
        begun: Option<&Step>,
    ) -> Option<Self> {
        let ((upgrade, last), earlier) = steps.split_last()?;
        let transform = last.called()?;
        let own = &*transform.collection;
        let mut links = Vec::new();
        for (position, (upgrade, step)) in earlier.iter().enumerate() {
            let writes = step.writes();
            if looks_up(transform, &writes) {
                return None;
            }
            if !writes.contains(&own) {
                continue;
            }
            links.push(match (step, step.called()) {
                (_, Some(link))
                    if link.collection == own
                        && !link.inserts_into_itself()
                        && (link.convergent
                            || !begun.is_some_and(|begun| std::ptr::eq(*step, begun)))
                        && !earlier[..position]
                            .iter()
                            .any(|(_, step)| looks_up(link, &step.writes())) =>
                {
                    Link::Transform(upgrade, link)
                }
                // which of its documents are missing can be read from the database only if no earlier step deletes any
                (Step::Seed(seed), _) if !links.iter().any(deletes) => Link::Seed(upgrade, seed),
                _ => return None,
            });
        }
        let earlier = earlier.iter().map(|(_, step)| *step).collect();
        (!links.is_empty()).then_some(Chain { links, upgrade, transform, earlier })
    }

    /// Computes and verifies all that the transform would do. `None` if the server cannot tell which documents it
    /// would read.
    pub(crate) async fn follow(
        &self,
        context: &Context,
        since: Option<Timestamp>,
    ) -> Result<Option<Known>, RunError> {
        let collection = &self.transform.collection;
        let all = all_of(context, self.transform).await?;
        let mut progress = Progress::new(&self.upgrade.version, "preflight", collection, all);
        let mut tally = EstimateBuilder::default();
        // as whole documents: each step reads other fields
        let whole = Transform::new(collection.clone(), |_, _, _| Ok(()));
        let (mut after, mut limit) = (None, DOCUMENTS / 10);
        loop {
            let documents = read(context, &whole, after.as_ref(), limit, since).await?;
            after = edited::last(&documents)?;
            if after.is_none() {
                break;
            }
            let bytes: usize = documents.iter().map(|document| document.as_bytes().len()).sum();
            limit = (documents.len() * BYTES / bytes.max(1)).clamp(1, DOCUMENTS);
            progress.advance(documents.len() as u64);
            if self.through(context, documents, 0, since, &mut tally).await?.is_none() {
                return Ok(None);
            }
        }
        for (position, link) in self.links.iter().enumerate() {
            let Link::Seed(upgrade, seed) = link else { continue };
            for part in missing::parts(context, upgrade, seed)?.iter() {
                let documents = missing::missing_of(context, upgrade, seed, part).await?;
                let through = self.through(context, documents, position + 1, since, &mut tally);
                if through.await?.is_none() {
                    return Ok(None);
                }
            }
        }
        progress.finish();
        // what it adds for itself to transform is verified, but not counted
        Ok((!self.transform.inserts_into_itself()).then(|| tally.known(context)))
    }

    /// Takes documents through the links from this position on, and through the transform: fewer at a time where
    /// they grow.
    async fn through(
        &self,
        context: &Context,
        documents: Vec<RawDocumentBuf>,
        position: usize,
        since: Option<Timestamp>,
        tally: &mut EstimateBuilder,
    ) -> Result<Option<()>, RunError> {
        let mut left = vec![(position, documents)];
        while let Some((position, mut documents)) = left.pop() {
            if documents.is_empty() {
                continue;
            }
            let (upgrade, transform, promise) = match self.links.get(position) {
                Some(Link::Transform(upgrade, transform)) => (*upgrade, *transform, Verify::Kept),
                Some(Link::Seed(..)) => {
                    left.push((position + 1, documents));
                    continue;
                }
                None => (self.upgrade, self.transform, Verify::promise(self.transform)),
            };
            let computing =
                unstored::compute(context, upgrade, transform, &documents, since, promise);
            let edited = match computing.await? {
                Made::All(edited) => edited,
                Made::TooMuch => {
                    let later = documents.split_off(documents.len() / 2);
                    left.extend([(position, later), (position, documents)]);
                    continue;
                }
                Made::Unknown => return Ok(None),
            };
            context.activity.moved();
            if position < self.links.len() {
                left.push((position + 1, after(transform, documents, edited)?));
                continue;
            }
            let settled =
                |name: &str| !self.earlier.iter().any(|step| step.writes().contains(&name));
            tally.take(context, upgrade, transform, &edited, since, settled).await?;
        }
        Ok(Some(()))
    }
}

/// Whole documents after a transform made this of some of them.
fn after(
    transform: &Transform,
    documents: Vec<RawDocumentBuf>,
    edited: Vec<Edited>,
) -> Result<Vec<RawDocumentBuf>, RunError> {
    let mut edited: HashMap<Vec<u8>, Edited> =
        edited.into_iter().map(|edited| (id_bytes(&edited.document), edited)).collect();
    let mut left = Vec::with_capacity(documents.len());
    for document in documents {
        match edited.remove(&id_bytes(&document)) {
            Some(edited) if edited.deletes() => {}
            Some(edited) => left.push(match edited.output() {
                Some(output) => merged(transform, &document, output)?,
                None => document,
            }),
            None => left.push(document),
        }
    }
    Ok(left)
}

/// Whether a transform has a look-up into one of these collections.
fn looks_up(transform: &Transform, collections: &[&str]) -> bool {
    transform.lookups.iter().any(|lookup| collections.contains(&&*lookup.collection))
}

fn deletes(link: &Link<'_>) -> bool {
    matches!(link, Link::Transform(_, transform) if transform.deletes)
}

/// The next whole documents of a collection.
async fn read(
    context: &Context,
    whole: &Transform,
    after: Option<&Bson>,
    limit: usize,
    since: Option<Timestamp>,
) -> Result<Vec<RawDocumentBuf>, RunError> {
    let reading = async || {
        let finds = find::finds(whole, after, limit, In::Plain(since), Sizes::NotAsked);
        context.stop.guard(find::documents(context.database(), None, finds)).await
    };
    context.retry(reading).await
}

/// A whole document after a transform made this of the fields that it reads.
fn merged(
    transform: &Transform,
    document: &RawDocument,
    output: &RawDocument,
) -> Result<RawDocumentBuf, RunError> {
    if transform.fields.is_empty() {
        return Ok(output.to_owned());
    }
    let mut merged = RawDocumentBuf::new();
    for field in document {
        let (name, value) = field?;
        if !transform.fields.iter().any(|own| name == &**own) {
            merged.append(name, value);
        } else if let Some(value) = output.get(name)? {
            merged.append(name, value);
        }
    }
    for field in output {
        let (name, value) = field?;
        if transform.fields.iter().any(|own| name == &**own) && document.get(name)?.is_none() {
            merged.append(name, value);
        }
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use mongodb::bson::rawdoc;

    use super::*;

    #[test]
    fn a_whole_document_keeps_its_order_and_gets_what_is_new_at_its_end() {
        let transform = Transform::new("things", |_, _, _| Ok(())).fields(["a", "b", "new"]);
        let document = rawdoc! { "_id": 1, "x": 1, "a": 1, "y": 2, "b": 2, "z": 3 };
        let output = rawdoc! { "_id": 1, "a": 7, "upgrade_gate_size": 60, "new": true };
        let expected = rawdoc! { "_id": 1, "x": 1, "a": 7, "y": 2, "z": 3, "new": true };
        assert_eq!(merged(&transform, &document, &output).unwrap(), expected);
        let transform = Transform::new("things", |_, _, _| Ok(()));
        assert_eq!(merged(&transform, &document, &expected).unwrap(), expected);
    }
}
