//! A step that takes longer than the server lets a transaction live, which no further try can change.

use std::time::Duration;

use mongodb::bson::{Bson, doc};
use tokio::time::Instant;

use crate::authoring::table::VersionUpgrade;
use crate::engine::context::Context;
use crate::engine::failing::failed_step;
use crate::server::stop::RunError;

/// How many transactions may live too long before the step is given up: one may have waited for others.
const TRIES: usize = 2;

/// The ages of the transactions in which one step was tried.
#[derive(Default)]
pub(crate) struct Lifetime {
    began: Option<Instant>,
    ages: Vec<Duration>,
}

impl Lifetime {
    /// Notes that the step is tried in a transaction that has just begun.
    ///
    /// # Errors
    ///
    /// Those before it lived longer than the server allows.
    pub(crate) async fn begin(
        &mut self,
        context: &Context,
        upgrade: &VersionUpgrade,
        step: &str,
    ) -> Result<(), RunError> {
        if self.ages.len() >= TRIES
            && let Some(limit) = limit(context).await
        {
            let too_old: Vec<&Duration> = self.ages.iter().filter(|age| **age >= limit).collect();
            if let [.., last] = too_old.as_slice()
                && too_old.len() >= TRIES
            {
                return Err(failed_step(
                    upgrade,
                    step,
                    &format!(
                        "it takes longer than the server lets a transaction live ({} s): {} \
                         transactions were ended, the last one after {} s",
                        limit.as_secs(),
                        too_old.len(),
                        last.as_secs()
                    ),
                    "raise transactionLifetimeLimitSeconds on all members of the set \
                     (db.adminCommand({ setParameter: 1, transactionLifetimeLimitSeconds: … })) for the \
                     time of the upgrade, or deploy code that writes the step as a transform, which goes \
                     in batches, then run it again",
                ));
            }
        }
        self.began = Some(Instant::now());
        Ok(())
    }

    /// Notes that the step's code has ended, however it did.
    pub(crate) fn end(&mut self) {
        self.ages.extend(self.began.take().map(|began| began.elapsed()));
    }
}

/// How long the server lets a transaction live; its default if it does not say.
async fn limit(context: &Context) -> Option<Duration> {
    let name = "transactionLifetimeLimitSeconds";
    let ask = doc! { "getParameter": 1, name: 1 };
    let asked = context.database().client().database("admin").run_command(ask).await;
    let seconds = match asked.as_ref().map(|answer| answer.get(name)) {
        Ok(Some(Bson::Int32(seconds))) => i64::from(*seconds),
        Ok(Some(Bson::Int64(seconds))) => *seconds,
        _ => 60,
    };
    u64::try_from(seconds).ok().map(Duration::from_secs)
}
