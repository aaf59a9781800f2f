//! What the operator and the code say.

use crate::authoring::table::Upgrades;
use crate::process::settings::Initialise;
use crate::record::observed::Observed;
use crate::version::Version;

/// What the operator and the code say.
#[derive(Clone, Debug)]
pub struct Terms<'a> {
    /// The code version.
    pub code: &'a Version,
    /// The code's upgrades.
    pub upgrades: &'a Upgrades,
    /// The database's name.
    pub database: &'a str,
    /// `GATE_INITIALISE`.
    pub initialise: Initialise,
    /// `GATE_FROM_VERSION`.
    pub from: Option<&'a Version>,
    /// `GATE_TARGET_VERSION`.
    pub target: Option<&'a Version>,
}

impl Terms<'_> {
    /// Whether the operator's declaration makes this database a fresh one.
    pub(super) fn begins_fresh(&self, observed: &Observed) -> bool {
        self.initialise == Initialise::Fresh && observed.is_empty()
    }

    /// What an unrecorded database last ran, if anybody says so: its own stamp, else the operator.
    pub(super) fn last_ran<'b>(&'b self, observed: &'b Observed) -> Option<&'b Version> {
        observed.stamped().or(self.from)
    }
}
