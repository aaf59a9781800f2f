//! Passes over what the server evaluates, and what each part of one makes of the record.

use mongodb::bson::{Bson, Timestamp};

use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::context::Context;
use crate::engine::documents::edited::Purpose;
use crate::engine::documents::reader::Reader;
use crate::engine::steps::transform::{batch_in_transaction, edit_guarded};
use crate::engine::work::{Work, base};
use crate::process::checkpoint::Point;
use crate::process::progress::Progress;
use crate::record::document::Record;
use crate::record::history::Writer;
use crate::record::journal::{Done, Position};
use crate::server::connection;
use crate::server::stop::RunError;

/// What a part of a pass makes of the record: what was done, and the `_id` after which the next part begins.
pub(super) type Note<'a> = &'a dyn Fn(&Record, &Done, Option<&Bson>) -> Record;

/// The journal moves past each part, but not past the step.
pub(super) fn first(writer: &Writer) -> impl Fn(&Record, &Done, Option<&Bson>) -> Record {
    move |stored, done, last| {
        stored.advanced(writer, |journal| {
            journal.count(done);
            if let Some(after) = last.cloned() {
                journal.position = Some(Position { after });
            }
        })
    }
}

/// The journal counts what a step did after its documents had been dealt with.
pub(super) fn late(
    writer: &Writer,
    position: usize,
) -> impl Fn(&Record, &Done, Option<&Bson>) -> Record {
    move |stored, done, _| stored.advanced(writer, |journal| journal.count_late(position, done))
}

/// Deals once with every document that matches, in `_id` order from this one on; returns how many were changed. What the
/// server evaluates is written like the edits of a transform.
pub(super) async fn pass_as_transform(
    work: &mut Work<'_>,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    mut after: Option<Bson>,
    note: Note<'_>,
    progress: &mut Progress,
) -> Result<u64, RunError> {
    let context = work.context;
    let purpose = if work.session.is_some() { Purpose::Write } else { Purpose::Guarded };
    let mut reader = Reader::new(context, upgrade, transform, purpose, after.clone());
    reader.refresh().await?;
    let mut changed = 0;
    loop {
        reader.seek(after.clone());
        let n = if work.session.is_some() {
            let batch = reader.next().await?;
            after.clone_from(&batch.last);
            match batch.edited.is_empty() {
                true => 0,
                false => {
                    let (done, last) =
                        batch_in_transaction(work, upgrade, transform, &batch, note).await?;
                    after = last;
                    done.documents
                }
            }
        } else {
            let mut done = Done::default();
            let place = after.as_ref();
            let ended =
                edit_guarded(context, upgrade, transform, place, &mut reader, &mut done).await;
            context.reached(Point::Edited).await;
            let stored = base(work.stored.as_ref(), None)?;
            let last = match ended {
                Ok(last) => last,
                Err(error) => {
                    // what was written all the same counts
                    if done.documents > 0 {
                        let _ = work.compare_and_set(note(&stored, &done, None)).await;
                    }
                    return Err(error);
                }
            };
            if done.documents > 0 {
                work.compare_and_set(note(&stored, &done, last.as_ref())).await?;
                context.reached(Point::Committed).await;
            }
            after = last;
            done.documents
        };
        changed += n;
        progress.advance(n);
        context.activity.moved();
        if after.is_none() {
            return Ok(changed);
        }
    }
}

/// The time up to which a reading has to see all that was written, to see what is there now.
pub(super) async fn now(
    context: &Context,
    transform: &Transform,
) -> Result<Option<Timestamp>, RunError> {
    let asking = || {
        let time = connection::operation_time(context.database(), &transform.collection);
        context.stop.guard(time)
    };
    context.retry(async || asking().await).await
}
