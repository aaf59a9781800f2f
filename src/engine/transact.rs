//! Transactions that commit data together with the record exactly once, even if replies are lost.

use std::time::Duration;

use mongodb::ClientSession;
use mongodb::bson::RawDocumentBuf;
use mongodb::error::{Error, TRANSIENT_TRANSACTION_ERROR};
use tokio::time::Instant;

use crate::engine::context::Context;
use crate::process::checkpoint::Point;
use crate::record::document::{Record, Recorded};
use crate::record::doubt::Sent;
use crate::record::moves::Move;
use crate::server::retry::jittered;
use crate::server::stop::RunError;
use crate::server::{answer, errors};

/// How long a transaction that makes no progress is tried again. Longer than the minute for which the
/// server keeps a transaction that a killed run left open.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// How long ending a transaction may take; the server ends it by itself in the end.
const ABORT: Duration = Duration::from_millis(400);

/// How often a run says that it does not get at documents.
const SAY: Duration = Duration::from_secs(10);

/// How often a commit whose result is unknown is asked for again before the record is read.
const COMMIT_ATTEMPTS: u32 = 3;

/// What one attempt ended with.
enum Attempt<T> {
    Committed(T, Record),
    /// The commit may or may not have taken effect.
    InDoubt(T, Record, Error),
}

/// Commits what `body` writes in the session's transaction together with the record that it returns,
/// and returns its value.
///
/// `body` is given the stored record and how many attempts have failed so far; it may run several times. The
/// record is moved from exactly the state in `stored`, so that of all attempts, of this run and of others,
/// one at most takes effect.
///
/// # Errors
///
/// [`RunError::RecordMoved`] where the record is in another state, the driver's error where `patience` is
/// over, and whatever `body` ends with; the transaction is aborted then.
pub(crate) async fn commit_with_record<T>(
    context: &Context,
    session: &mut ClientSession,
    stored: &mut Option<Record>,
    patience: Duration,
    mut body: impl AsyncFnMut(&mut ClientSession, Option<&Record>, u32) -> Result<(T, Record), RunError>,
) -> Result<T, RunError> {
    let deadline = Instant::now() + patience;
    let mut in_doubt: Option<(T, Record)> = None;
    let mut pause = Duration::from_millis(4);
    let mut said = Instant::now();
    let mut tried = 0;
    loop {
        let from = stored.as_ref();
        let check = in_doubt.is_some();
        match attempt(context, session, from, check, tried, &mut body).await {
            Ok(Attempt::Committed(value, to)) => {
                *stored = Some(to);
                context.reached(Point::Committed).await;
                return Ok(value);
            }
            Ok(Attempt::InDoubt(value, to, error)) => {
                let too_large = answer::too_large(&error);
                if !(errors::is_transient(&error) || too_large) || Instant::now() >= deadline {
                    return Err(RunError::Driver(error));
                }
                tried += u32::from(too_large);
                tracing::warn!("the result of a commit is unknown; reading the record");
                in_doubt = Some((value, to));
            }
            Err(RunError::RecordMoved) => {
                abort(context, session).await;
                let Some((value, to)) = in_doubt else { return Err(RunError::RecordMoved) };
                confirm(context, from, &to, deadline).await?;
                context.store.doubt.resolved();
                *stored = Some(to);
                return Ok(value);
            }
            Err(RunError::Driver(error))
                if (errors::is_transient(&error) || answer::too_large(&error))
                    && Instant::now() < deadline =>
            {
                abort(context, session).await;
                let error = answer::describe(&error);
                if said.elapsed() >= SAY {
                    tracing::warn!(error, "a transaction does not get through; trying again");
                    said = Instant::now();
                } else {
                    tracing::debug!(error, "a transaction is tried again");
                }
                tried += 1;
            }
            Err(error) => {
                abort(context, session).await;
                return Err(error);
            }
        }
        context.stop.sleep(jittered(pause)).await?;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

async fn attempt<T>(
    context: &Context,
    session: &mut ClientSession,
    from: Option<&Record>,
    check: bool,
    tried: u32,
    body: &mut impl AsyncFnMut(
        &mut ClientSession,
        Option<&Record>,
        u32,
    ) -> Result<(T, Record), RunError>,
) -> Result<Attempt<T>, RunError> {
    let (value, to) = context
        .stop
        .guard(async {
            session.start_transaction().await?;
            if check {
                still_at(context, session, from).await?;
            }
            let (value, to) = body(session, from, tried).await?;
            let change = Move::between(from, &to, &context.store.names)?;
            if !context.store.attempt(&change, Some(&mut *session)).await? {
                return Err(RunError::RecordMoved);
            }
            let stamp = context.store.stamps(from, &to);
            context.store.stamp_along(stamp.as_ref(), session).await?;
            Ok((value, to))
        })
        .await?;
    context.reached(Point::BeforeCommit).await;
    // once it is sent, only its answer says whether it took effect
    context.stop.check()?;
    let sending = context.store.doubt.sending(Sent::between(from, &to, &context.lock.run_id));
    let mut tries = 0;
    loop {
        let commit = session.commit_transaction().into_future();
        let error = match context.store.doubt.answer(&context.stop, commit).await {
            Ok(()) => {
                sending.committed();
                return Ok(Attempt::Committed(value, to));
            }
            Err(RunError::Driver(error)) => error,
            Err(error) => return Err(error),
        };
        tries += 1;
        if tries == 1 && is_refusal(&error) {
            sending.refused();
            return Err(RunError::Driver(error));
        }
        if tries == COMMIT_ATTEMPTS || !errors::is_transient(&error) {
            return Ok(Attempt::InDoubt(value, to, error));
        }
    }
}

/// Whether the server says that the first attempt to commit took no effect. Any other error leaves that open: an unmet
/// write concern, for example, says nothing about the primary.
fn is_refusal(error: &Error) -> bool {
    error.contains_label(TRANSIENT_TRANSACTION_ERROR)
}

/// Makes sure, inside the transaction, that an earlier attempt did not commit after all.
async fn still_at(
    context: &Context,
    session: &mut ClientSession,
    from: Option<&Record>,
) -> Result<(), RunError> {
    let names = &context.store.names;
    let stored = context
        .database()
        .collection::<RawDocumentBuf>(&names.collection)
        .find_one(mongodb::bson::doc! { "_id": &names.record })
        .session(session)
        .await?;
    match (Recorded::parse(stored.as_deref()), from) {
        (Recorded::Absent, None) => Ok(()),
        (Recorded::Readable(record), Some(from)) if record.is_state(from) => Ok(()),
        _ => Err(RunError::RecordMoved),
    }
}

/// Waits until a majority has the record, and finds out whether it is the one in doubt.
async fn confirm(
    context: &Context,
    from: Option<&Record>,
    to: &Record,
    deadline: Instant,
) -> Result<(), RunError> {
    loop {
        let observing = context.stop.guard(context.store.observe(&context.lock.run_id));
        let observed = match observing.await {
            Ok(observed) => observed,
            Err(error) if error.is_transient() && Instant::now() < deadline => {
                context.stop.sleep(jittered(Duration::from_millis(50))).await?;
                continue;
            }
            Err(error) => return Err(error),
        };
        let not_yet = match (&observed.recorded, from) {
            (Recorded::Readable(record), _) if record.is_state(to) => return Ok(()),
            // the majority does not have it yet
            (Recorded::Absent, None) => true,
            (Recorded::Readable(record), Some(from)) => record.is_state(from),
            _ => false,
        };
        if !not_yet {
            return Err(RunError::RecordMoved);
        }
        if Instant::now() >= deadline {
            return Err(context.store.doubt.unanswered());
        }
        context.stop.sleep(jittered(Duration::from_millis(50))).await?;
    }
}

/// Aborts the session's transaction, so that it holds no document until the server ends it by itself.
///
/// Best effort and short: the run may be on its way out.
pub(crate) async fn abort(context: &Context, session: &mut ClientSession) {
    let id = session.id().clone();
    let until = context.stop.time_left(Duration::from_millis(500), ABORT);
    let aborted = tokio::time::timeout_at(until, session.abort_transaction()).await;
    if context.stop.check().is_err() || aborted.is_err() {
        // an operation that was given up half-way may have left the driver behind the server
        let end = mongodb::bson::doc! { "killSessions": [id] };
        let until = context.stop.time_left(Duration::from_millis(600), ABORT);
        let _ = tokio::time::timeout_at(until, context.database().run_command(end)).await;
    }
}
