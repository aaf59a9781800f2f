//! Edits on a standalone server that are too large for one guarded statement: what was read is stored next to the record,
//! the server compares and exchanges, and what was stored is removed.

use mongodb::bson::{Document, doc};
use mongodb::error::Error;

use crate::authoring::edit::{CHANGED, EditError, Touched};
use crate::authoring::step_kind::StepKind;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::context::Context;
use crate::engine::documents::collation;
use crate::engine::documents::edited::{Edited, place};
use crate::engine::documents::find::In;
use crate::engine::failing::{failed_step, write_failure};
use crate::process::checkpoint::Point;
use crate::process::failure::Failure;
use crate::server::answer::{self, fail_on_write_concern, write_errors};
use crate::server::errors;
use crate::server::stop::RunError;

/// The first version of the server's protocol in which an aggregation takes variables: MongoDB 5.0's.
const VARIABLES: i32 = 13;

/// The server's code where a comparison found other values.
const CONVERSION_FAILURE: i32 = 241;

/// Its code where the document is gone.
const NO_MATCHING_DOCUMENT: i32 = 13113;

/// What is known of a collection's collation.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Collation {
    #[default]
    Unknown,
    /// The collection was found to have none, or what it has shows when it is written.
    Checked,
}

/// How such an edit ended.
pub(crate) enum Exchange {
    Made,
    /// The document has changed since it was read, or it is unknown whether it has: it must be read again.
    Missed,
    /// The server refused it, and nothing was written.
    Refused(RunError),
}

/// Makes sure that the server can make the edits that are too large for one statement.
///
/// # Errors
///
/// The server is too old, or the collection has a collation.
pub(crate) async fn check(
    context: &Context,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    edited: &[Edited],
    known: Collation,
) -> Result<Collation, RunError> {
    let Some(edited) = edited.iter().find(|edited| edited.large().is_some()) else {
        return Ok(known);
    };
    let refuse = |what: &str, next: &str| {
        let place = place(transform, &edited.document);
        let what =
            format!("{place}: old and new value of what is edited exceed 16 MiB together, {what}");
        Err(failed_step(upgrade, &transform.name(), &what, next))
    };
    if context.server.wire_version < VARIABLES {
        return refuse(
            "which a standalone server takes from MongoDB 5.0 on",
            "use MongoDB 5.0 or later, or make the server a replica set of one member (start it with \
             --replSet, then run rs.initiate() once), then run it again",
        );
    }
    let has_collation = async || {
        let (database, plain) = (context.database(), In::Plain(None));
        let asking = collation::is_collated(database, None, &transform.collection, plain);
        context.stop.guard(asking).await
    };
    if known == Collation::Unknown && context.retry(has_collation).await? {
        return refuse(
            "which a standalone server does not take in a collection with a collation of its own",
            "make the server a replica set of one member (start it with --replSet, then run \
             rs.initiate() once), then run it again",
        );
    }
    Ok(Collation::Checked)
}

/// Makes one edit that is too large for one statement.
///
/// # Errors
///
/// It is not known whether it was made.
pub(crate) async fn write(
    context: &Context,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    edited: &Edited,
    touched: &Touched,
) -> Result<Exchange, RunError> {
    let (database, records) = (context.database(), &*context.lock.collection);
    let refuse = |error: &Document, place: &str| {
        Exchange::Refused(write_failure(error, upgrade, &transform.name(), place))
    };
    let at = || place(transform, &edited.document);
    let impossible = |error: EditError| Failure::bug(format!("{}: {error}", at()));
    // what an attempt left whose outcome is not known
    context.staged.remove(database, records).await?;
    let token = context.staged.begin();
    let stage = touched.stage(&edited.document, records, token).map_err(impossible)?;
    let answer = database.run_raw_command(stage).await?;
    if let Some(error) = write_errors(&answer).next() {
        return Ok(refuse(error, &format!("{}, kept in {records} meanwhile", at())));
    }
    fail_on_write_concern(&answer)?;
    context.reached(Point::Staged).await;

    let collection = &transform.collection;
    let exchange = touched.exchange(&edited.document, collection, records, token);
    let ended = database.run_raw_command(exchange.map_err(impossible)?).await;
    let ended = match ended {
        Ok(answer) => {
            fail_on_write_concern(&answer)?;
            Exchange::Made
        }
        Err(error) if missed(&error) => Exchange::Missed,
        Err(error) => match refusal(&error) {
            Some(refusal) => refuse(&refusal, &at()),
            None => return Err(error.into()),
        },
    };
    match context.staged.remove(database, records).await {
        // the next holder of the lock has removed it: before or after the exchange
        Ok(false) => Ok(Exchange::Missed),
        Err(error) if !errors::is_transient(&error) => Err(error.into()),
        Ok(true) | Err(_) => Ok(ended),
    }
}

/// Whether the document was found to be another one than was read.
fn missed(error: &Error) -> bool {
    let changed = || answer::message(error).is_some_and(|message| message.contains(CHANGED));
    match answer::code(error) {
        Some(NO_MATCHING_DOCUMENT) => true,
        Some(CONVERSION_FAILURE) => changed(),
        _ => false,
    }
}

/// The error of a write that the server refused, in the form of a write command's; `None` if it may have been made,
/// or is not about the document.
fn refusal(error: &Error) -> Option<Document> {
    let code = answer::code(error).filter(|code| *code != answer::UNAUTHORISED)?;
    if errors::is_transient(error) {
        return None;
    }
    let mut refusal = doc! { "code": code, "errmsg": answer::message(error).unwrap_or_default() };
    let info = error.server_response().and_then(|answer| answer.get_document("errInfo").ok());
    if let Some(info) = info.and_then(|info| Document::try_from(info).ok()) {
        refusal.insert("errInfo", info);
    }
    Some(refusal)
}
