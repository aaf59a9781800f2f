//! What one step does inside a transaction.

use mongodb::ClientSession;

use crate::authoring::handle::Handle;
use crate::authoring::step::Step;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transaction::Transaction;
use crate::engine::author::panicked;
use crate::engine::context::Context;
use crate::engine::edited::Edited;
use crate::engine::{author, seed, write};
use crate::process::failure::Failure;
use crate::record::journal::Done;
use crate::server::stop::{RunError, catch_panics};

/// What one step does in the session's transaction, all of it; none where it would change more than
/// `most` documents.
pub(crate) async fn in_transaction(
    context: &Context,
    session: &mut ClientSession,
    upgrade: &VersionUpgrade,
    step: &Step,
    most: u64,
) -> Result<Option<Done>, RunError> {
    match step {
        Step::Transform(transform) => {
            let (mut done, mut after, mut before) = (Done::default(), None, 0);
            let (database, limit) = (context.database(), context.batch_documents);
            loop {
                let place = after.as_ref();
                let mut batch =
                    write::read(database, &mut *session, upgrade, transform, place, limit).await?;
                batch.cut();
                let edited: Vec<&Edited> = batch.edited.iter().collect();
                write::write(database, &mut *session, upgrade, transform, &edited).await?;
                done.add(&batch.done());
                after = batch.last;
                if done.documents > most {
                    return Ok(None);
                }
                // what it added to its own collection may be behind it
                let again =
                    transform.convergent && transform.meets_its_own() && done.documents > before;
                if after.is_none() && !again {
                    return Ok(Some(done));
                }
                if after.is_none() {
                    before = done.documents;
                }
            }
        }
        Step::Seed(seed) => {
            let mut done = Done::default();
            for part in seed::parts(context, upgrade, seed)?.iter() {
                done.add(&seed::insert(context.database(), session, upgrade, seed, part).await?);
                if done.documents > most {
                    return Ok(None);
                }
            }
            Ok(Some(done))
        }
        Step::Transaction(transaction) => {
            free_code(context, session, upgrade, transaction).await.map(Some)
        }
        Step::Command(_) => Err(Failure::bug("a command inside a transaction").into()),
    }
}

async fn free_code(
    context: &Context,
    session: &mut ClientSession,
    upgrade: &VersionUpgrade,
    transaction: &Transaction,
) -> Result<Done, RunError> {
    let (started, collections) = (upgrade.started(), &transaction.collections);
    let mut handle = Handle::new(context.database(), session, collections, started);
    let place = format!("collection {}", collections.join(", "));
    let actions = catch_panics(async { (transaction.run)(&mut handle).await })
        .await
        .map_err(|_| panicked(upgrade, &transaction.name, &place))?
        .map_err(|error| author::refused(error, upgrade, &transaction.name, &place))?;
    Ok(Done { actions, ..Done::default() })
}
