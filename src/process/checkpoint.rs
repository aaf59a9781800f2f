//! Places of a run at which a crash matters: a seam for the harness that kills runs there.

use futures_util::future::BoxFuture;

/// A place of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Point {
    /// The lock is taken.
    Locked,
    /// The journal names the upgrade; none of its data is written.
    Journaled,
    /// A transaction's data is written, but not committed; on a standalone, not yet sent.
    BeforeCommit,
    /// The old values of an edit that is too large for one statement are stored next to the record on a standalone,
    /// and the edit is not sent.
    Staged,
    /// A transaction is committed; on a standalone, its edits are written.
    Committed,
    /// The entry of mode `sweep` is stored on a standalone, and nothing that it is to count is written.
    SweepNoted,
    /// A batch's edits are written on a standalone, and its place in the journal is not.
    Edited,
    /// A command is about to be sent.
    BeforeCommand,
    /// A command has been carried out, and the journal does not know it.
    AfterCommand,
    /// All steps of a version are finished; the version has not moved.
    BeforeVersion,
    /// The version has moved.
    AfterVersion,
    /// The lock is about to be released.
    BeforeRelease,
}

/// Told of every [`Point`] that a run reaches, and waited for.
pub(crate) trait Checkpoints: Send + Sync {
    fn reached(&self, point: Point) -> BoxFuture<'_, ()>;

    /// Whether convergent transforms are swept once more, as in every run but one of the harness.
    fn sweeps(&self) -> bool {
        true
    }
}

/// Lets every run pass.
pub(crate) struct NoCheckpoints;

impl Checkpoints for NoCheckpoints {
    fn reached(&self, _: Point) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}
