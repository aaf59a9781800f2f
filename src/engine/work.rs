//! The work of one run: its session, and the record as it is stored.

use mongodb::ClientSession;

use crate::engine::context::Context;
use crate::process::failure::Failure;
use crate::record::document::Record;
use crate::record::journal::Journal;
use crate::server::stop::RunError;

/// The work of one run on one database, under the lock.
pub(crate) struct Work<'a> {
    pub(crate) context: &'a Context,
    /// The session of every transaction of the run; `None` on a standalone.
    pub(crate) session: Option<ClientSession>,
    /// The record as it is stored; `None` if there is none.
    pub(crate) stored: Option<Record>,
    /// The record that the first write begins with, if none is stored.
    pub(crate) begin: Option<Record>,
    /// What the operator should know of versions that were applied all the same.
    pub(crate) warnings: Vec<String>,
}

impl<'a> Work<'a> {
    pub(crate) fn new(
        context: &'a Context,
        session: Option<ClientSession>,
        stored: Option<Record>,
        begin: Option<Record>,
    ) -> Self {
        Work { context, session, stored, begin, warnings: vec![] }
    }

    /// The warnings for the report; a second call returns none.
    pub(crate) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Moves the record to `to` by itself.
    pub(crate) async fn compare_and_set(&mut self, to: Record) -> Result<(), RunError> {
        let (context, session) = (self.context, self.session.as_mut());
        let (run_id, from) = (&context.lock.run_id, self.stored.as_ref());
        context.store.compare_and_set(from, &to, run_id, &context.stop, session).await?;
        self.stored = Some(to);
        Ok(())
    }

    /// Notes in the journal that this code's preflight of what is left of its version is done.
    pub(crate) async fn note_preflight(&mut self) -> Result<(), RunError> {
        let version = self.context.writer.code_version.clone();
        self.advance(|journal| journal.preflight = Some(version)).await
    }

    /// The journal of the version that is applied in batches.
    pub(crate) fn journal(&self) -> Result<&Journal, RunError> {
        self.stored
            .as_ref()
            .and_then(|record| record.journal.as_ref())
            .ok_or_else(|| Failure::bug("a journaled upgrade without a journal").into())
    }

    /// Moves the journal by itself.
    pub(crate) async fn advance(
        &mut self,
        change: impl FnOnce(&mut Journal),
    ) -> Result<(), RunError> {
        let to = base(self.stored.as_ref(), None)?.advanced(&self.context.writer, change);
        self.compare_and_set(to).await
    }
}

/// The record from which a write starts.
pub(crate) fn base(stored: Option<&Record>, begin: Option<&Record>) -> Result<Record, RunError> {
    stored.or(begin).cloned().ok_or_else(|| Failure::bug("an upgrade without a record").into())
}

/// The session of a run on a server that has transactions.
pub(crate) fn needed(session: &mut Option<ClientSession>) -> Result<&mut ClientSession, RunError> {
    session.as_mut().ok_or_else(|| Failure::bug("a transaction without a session").into())
}
