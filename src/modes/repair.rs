//! Mode `record`: the repair of a record, from exactly what is stored.

use std::sync::Arc;
use std::time::Duration;

use mongodb::ClientSession;
use mongodb::bson::RawDocumentBuf;

use crate::engine::failing::closed;
use crate::modes::run::Run;
use crate::modes::upgrade::{LockedWork, Waiting};
use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::process::settings::Repair;
use crate::record::document::Recorded;
use crate::record::doubt::Sent;
use crate::record::moves::Move;
use crate::record::observed::Observed;
use crate::record::stamp::change::Change;
use crate::record::stamp::stamped::Stamping;
use crate::record::stored::journal_id;
use crate::server::errors;
use crate::server::stop::RunError;
use crate::visible::visible;

/// How often a repair that was not answered is tried again, and after which pause.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);

impl Run<'_> {
    /// Repairs the record as the operator says, and then judges as a check would.
    pub(crate) async fn record(&mut self) -> Result<String, Failure> {
        let Some(repair) = &self.settings.repair else {
            return Err(Failure::bug("mode record without its settings"));
        };
        self.stored_for(repair).await?;
        let before = self.report.to.clone();
        self.check_privileges(&[]).await?;
        let mut waiting = Waiting::new(self.settings.lock_wait, self.deadline);
        let ended = loop {
            match self.locked(&mut waiting, LockedWork::Repair(repair)).await {
                Ok(None) => {}
                Ok(Some(message)) => break Ok(message),
                Err(failure) => break Err(failure),
            }
        };
        self.report.from = before;
        ended
    }

    /// The stored record, if the repair is meant for it.
    async fn stored_for(&mut self, repair: &Repair) -> Result<RawDocumentBuf, Failure> {
        let stored = match self.ask("reading the record", || self.store.document()).await {
            Ok(stored) => stored,
            Err(error) => return Err(self.explain_reading(error).await),
        };
        let wrong =
            |message: String, next: &str| Err(Failure::new(Outcome::SettingWrong, message, next));
        let Some(document) = stored else {
            return wrong(
                "mode record repairs a record, and this database has none".to_owned(),
                "set GATE_FROM_VERSION or GATE_INITIALISE in mode upgrade instead",
            );
        };
        let recorded = Recorded::parse(Some(&document));
        self.note_recorded(&recorded);
        let text = match &recorded {
            Recorded::Readable(record) => record.text.clone(),
            Recorded::Unreadable(unreadable) => unreadable.text.clone(),
            Recorded::Absent => String::new(),
        };
        if text != repair.expect && visible(&text) != repair.expect {
            return wrong(
                format!("GATE_EXPECT_VERSION is something else, but {text} is stored"),
                "look at the database again, and set GATE_EXPECT_VERSION to what is stored if the \
                 repair is still right",
            );
        }
        let journal = journal_id(&document);
        match (&journal, &repair.discard_journal) {
            (None, None) => Ok(document),
            (Some(id), Some(discard)) if id == discard => Ok(document),
            (Some(id), _) => wrong(
                format!("an unfinished upgrade is journaled, as {id}"),
                "finish it by running the code that began it; to give it up, set \
                 GATE_DISCARD_JOURNAL to that id",
            ),
            (None, Some(_)) => wrong(
                "GATE_DISCARD_JOURNAL is set but no upgrade is unfinished".to_owned(),
                "remove GATE_DISCARD_JOURNAL",
            ),
        }
    }

    pub(super) async fn repair(
        &mut self,
        repair: &Repair,
        mut session: Option<&mut ClientSession>,
    ) -> Result<String, Failure> {
        let document = self.stored_for(repair).await?;
        let repairing = |error| closed(error, "repairing the record");
        let change = Move::repair(
            &document,
            &repair.version,
            self.upgrades,
            &self.writer,
            &self.store.names,
        )
        .map_err(|error| repairing(error.into()))?;
        let (stamp, stamping) = self.repair_stamp(repair).await?;
        let change = match session {
            None => change.stamping_along(stamping).map_err(|error| repairing(error.into()))?,
            Some(_) => change.stamping_along(None).map_err(|error| repairing(error.into()))?,
        };
        // a large one is not to be held any longer, nor twice
        drop(document);
        let change = Arc::new(change);
        let mut unanswered = 0;
        loop {
            self.stop.check().map_err(repairing)?;
            let sent = Sent::repair(repair.version.to_string(), &self.lock.run_id);
            // a command of its own is not ordered by the session, as the driver's retryable writes are
            let own = match (&*change, &stamp) {
                (Move::Replace { .. }, None) => None,
                _ => session.as_deref_mut(),
            };
            let sending = self.store.doubt.sending(match own {
                Some(_) => sent,
                None => sent.alone(&change),
            });
            let attempt = self.store.attempt_alone(&change, stamp.as_ref(), own);
            match self.store.doubt.answer(&self.stop, attempt).await {
                Ok(true) => {
                    sending.committed();
                    break;
                }
                Ok(false) if unanswered > 0 && self.is_repaired(repair).await? => {
                    sending.committed();
                    break;
                }
                Ok(false) => {
                    sending.refused();
                    return Err(repairing(RunError::RecordMoved));
                }
                Err(RunError::Driver(error))
                    if errors::is_transient(&error) && unanswered < ATTEMPTS =>
                {
                    unanswered += 1;
                }
                Err(error) => {
                    sending.ended_with(&error);
                    return Err(repairing(error));
                }
            }
            self.stop.sleep(PAUSE * unanswered).await.map_err(repairing)?;
        }
        tracing::info!(recorded = %repair.version, replaced = repair.expect, "record repaired");
        if let Some(record) = self.observe_record().await?.recorded.record() {
            let finish = self.store.finish_stamp(record, &self.lock.run_id, &self.stop);
            finish.await.map_err(repairing)?;
        }
        self.check().await
    }

    /// What the repair makes of the stamp, and how that is noted where it cannot be done at once.
    async fn repair_stamp(
        &self,
        repair: &Repair,
    ) -> Result<(Option<Change>, Option<Stamping>), Failure> {
        let Some(place) = &self.store.names.stamp else { return Ok((None, None)) };
        let doing = "reading the application's own version";
        let stamp = self.ask(doing, async || self.store.stamp(place, None).await).await;
        let stamp = stamp.map_err(|error| closed(error, doing))?;
        if let Some(reason) = stamp.unreadable().filter(|_| !stamp.is_repairable()) {
            return Err(Failure::new(
                Outcome::RecordUnreadable,
                format!(
                    "{place}, where the application keeps its version, cannot be written: {reason}"
                ),
                format!(
                    "make one document of {} have the field {}, with the application's version as text",
                    place.collection, place.field
                ),
            ));
        }
        let change = Change::repair(&repair.version);
        let stamping = change.write(&stamp).stamping();
        if let Some(Stamping { from, to }) = &stamping {
            tracing::info!(from, to, collection = place.collection, "the stamp is repaired, too");
        }
        Ok((Some(change), stamping))
    }

    async fn observe_record(&self) -> Result<Observed, Failure> {
        let observe = async || self.store.observe(&self.lock.run_id).await;
        let observed = self.ask("reading the record", observe).await;
        observed.map_err(|error| closed(error, "reading the record"))
    }

    /// Whether an attempt whose answer was lost did it.
    async fn is_repaired(&self, repair: &Repair) -> Result<bool, Failure> {
        let observed = self.observe_record().await?;
        let version = repair.version.to_string();
        Ok(matches!(
            observed.recorded,
            Recorded::Readable(record) if record.text == version && record.journal.is_none()
        ))
    }
}
