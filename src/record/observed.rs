//! What was read of a database, for the decision.

use crate::record::document::Recorded;
use crate::record::stamp::stamped::Stamp;
use crate::version::Version;

/// What was read of a database.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The record.
    pub recorded: Recorded,
    /// Where the application keeps its version itself, what is there.
    pub stamp: Option<Stamp>,
    /// Another run's live lease.
    pub holder: Option<Holder>,
    /// The collections that hold documents; read only where the decision needs it.
    pub occupied: Vec<String>,
}

impl Observed {
    /// Whether an unrecorded database holds no documents, as far as was asked.
    pub(crate) fn is_empty(&self) -> bool {
        self.occupied.is_empty() && self.stamped().is_none()
    }

    /// The version that the application itself keeps, where it does.
    pub(crate) fn stamped(&self) -> Option<&Version> {
        self.stamp.as_ref()?.version()
    }
}

/// Another run that holds the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The run.
    pub run_id: String,
    /// The host that it runs on.
    pub host: String,
}
