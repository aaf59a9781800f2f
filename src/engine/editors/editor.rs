//! What an editor is that is asked about a whole batch of documents, and what it is asked.

use async_trait::async_trait;
use mongodb::bson::RawDocumentBuf;
use mongodb::{ClientSession, Database};

use crate::authoring::editor::Answer;
use crate::authoring::lookup::Found;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::documents::find::In;
use crate::server::stop::RunError;

/// An editor that is asked about a whole batch of documents: the server, or a program.
///
/// One is opened when the first batch of a step needs it, and is used for all batches of the step after that: those of
/// a transaction, of the passes through the journal, and of the verification of outputs alike. The preflight of a step
/// has one of its own. It is never asked twice at the same time.
#[async_trait]
pub(crate) trait AskedEditor: Send {
    /// What the editor says of these documents: one answer for each, in order; of fewer, but at least of one, where
    /// all answers together would be too much to be held. The rest is asked about again.
    ///
    /// It may be asked about the same documents again: after a transient error, after a transaction that was given up,
    /// by the run that resumes. The future may also be dropped half-way, where the batch is not needed any more or the
    /// run is told to stop; the editor must then still give the right answers when it is asked next.
    ///
    /// # Errors
    ///
    /// A failure ends the run; a transient error of the driver is tried again. Neither text holds a document's
    /// contents.
    async fn answers(&mut self, asked: Asked<'_>) -> Result<Vec<Answer>, RunError>;

    /// Ends the editor, after the last batch of its step and before the version moves. Where a run ends early, the
    /// editor is dropped instead, and must then leave nothing behind either.
    ///
    /// # Errors
    ///
    /// It did not end as it should.
    async fn end(self: Box<Self>) -> Result<(), RunError>;
}

/// What an editor is asked.
pub(crate) struct Asked<'a> {
    pub(crate) database: &'a Database,
    /// The session in whose transaction the documents were read; `None` outside transactions.
    pub(crate) session: Option<&'a mut ClientSession>,
    /// With which read concern an editor that reads from the database reads.
    pub(crate) place: In,
    pub(crate) upgrade: &'a VersionUpgrade,
    pub(crate) transform: &'a Transform,
    /// The documents as they were read: those that match the transform's filter, with the fields that it names.
    pub(crate) documents: &'a [RawDocumentBuf],
    /// What the transform's look-ups found for them.
    pub(crate) found: &'a Found,
    pub(crate) origin: Origin,
}

/// Where documents come from that an editor is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The transform's collection holds them.
    Stored,
    /// They are what this step or an earlier one would make of stored ones.
    Computed,
}
