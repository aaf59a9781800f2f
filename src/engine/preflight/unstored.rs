//! Documents that no collection holds yet: which of them a transform would read, and what it makes of them.

use mongodb::Database;
use mongodb::bson::{RawArrayBuf, RawDocument, RawDocumentBuf, Timestamp, doc, rawdoc};

use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::context::Context;
use crate::engine::documents::compute::{How, compute_in};
use crate::engine::documents::converge::Verify;
use crate::engine::documents::edited::{Edited, Purpose, Sizes};
use crate::engine::documents::find::{self, In};
use crate::engine::editors::editor::Origin;
use crate::server::stop::RunError;
use crate::server::{answer, errors};

/// How many bytes of documents the server is given at once. They come to it inside one document.
const BYTES: usize = 4 * 1024 * 1024;

/// How many bytes of edited documents and of what they become may be held.
const HELD_BYTES: usize = 12 * 1024 * 1024;

/// What a transform makes of documents.
pub(crate) enum Made {
    /// Of all of them: those that it changes.
    All(Vec<Edited>),
    /// It is too much to be held: of fewer it may not be.
    TooMuch,
    /// The server cannot judge the transform's filter outside a `find`, or a document is very large.
    Unknown,
}

/// What a transform makes of documents as if its collection held them.
pub(crate) async fn compute(
    context: &Context,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    documents: &[RawDocumentBuf],
    since: Option<Timestamp>,
    promise: Verify,
) -> Result<Made, RunError> {
    let (database, place) = (context.database(), In::Plain(since));
    let purpose = Purpose::of_preflight(context.server.deployment);
    let reading = async || context.stop.guard(read(database, transform, documents, place)).await;
    let Some(mut left) = context.retry(reading).await? else {
        return Ok(Made::Unknown);
    };
    let (mut all, mut held) = (Vec::new(), 0);
    while !left.is_empty() {
        let computing = async || {
            let how = How { purpose, promise, origin: Origin::Computed, place };
            let computing = compute_in(context, None, upgrade, transform, left.clone(), how);
            context.stop.guard(computing).await
        };
        let computed = context.retry(computing).await?;
        left = computed.rest;
        held += computed.batch.edited.iter().map(Edited::bytes_held).sum::<usize>();
        all.extend(computed.batch.edited);
        if held > HELD_BYTES && documents.len() > 1 {
            return Ok(Made::TooMuch);
        }
    }
    Ok(Made::All(all))
}

/// The documents among these that a transform would read, as it would read them: those that match its filter,
/// with the fields that it names. `None` if the server cannot tell.
async fn read(
    database: &Database,
    transform: &Transform,
    documents: &[RawDocumentBuf],
    place: In,
) -> Result<Option<Vec<RawDocumentBuf>>, RunError> {
    // several copies of it would be held
    if documents.iter().any(|document| document.as_bytes().len() > BYTES) {
        return Ok(None);
    }
    if transform.filter.is_empty() && transform.fields.is_empty() {
        return Ok(Some(documents.to_vec()));
    }
    let mut matching = Vec::new();
    for part in parts(documents) {
        let asked = aggregate(transform, part, place)?;
        match find::query(database, None, asked).await {
            Ok(found) => matching.extend(found),
            // a filter that only `find` knows
            Err(RunError::Driver(error))
                if answer::code(&error).is_some_and(|code| code != answer::UNAUTHORISED)
                    && !errors::is_transient(&error) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Some(matching))
}

/// Documents in parts that the server can be given at once.
fn parts(documents: &[RawDocumentBuf]) -> Vec<&[RawDocumentBuf]> {
    let mut bytes = 0;
    let mut parts = Vec::new();
    let mut begin = 0;
    for (position, document) in documents.iter().enumerate() {
        let size = document.as_bytes().len();
        if bytes + size > BYTES && position > begin {
            parts.push(&documents[begin..position]);
            (begin, bytes) = (position, 0);
        }
        bytes += size;
    }
    parts.push(&documents[begin..]);
    parts
}

/// The aggregation that applies a transform's filter and projection to these documents. It runs on the transform's own
/// collection, so that its collation applies, and replaces one document of it by these.
fn aggregate(
    transform: &Transform,
    documents: &[RawDocumentBuf],
    place: In,
) -> Result<RawDocumentBuf, RunError> {
    let given =
        RawArrayBuf::from_iter(documents.iter().map(|document| -> &RawDocument { document }));
    let filter = RawDocumentBuf::try_from(&transform.filter)?;
    let mut pipeline = RawArrayBuf::from_iter([
        rawdoc! { "$limit": 1 },
        rawdoc! { "$project": { "_id": 0, "d": { "$literal": given } } },
        rawdoc! { "$unwind": "$d" },
        rawdoc! { "$replaceRoot": { "newRoot": "$d" } },
        rawdoc! { "$match": filter },
    ]);
    let projection = find::projection(transform, Sizes::Asked);
    if !projection.is_empty() {
        pipeline.push(RawDocumentBuf::try_from(&doc! { "$project": projection })?);
    }
    Ok(find::aggregate(&transform.collection, pipeline, place)?)
}
