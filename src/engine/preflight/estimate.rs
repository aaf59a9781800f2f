//! What was found out about a version before anything is written.

use crate::process::action::UpgradeAction;
use crate::record::journal::{Done, Journal};
use crate::version::Version;

/// What was found out about one version.
#[derive(Debug, Default)]
pub(crate) struct Estimate {
    pub(crate) steps: Vec<Finding>,
    /// Whether one transaction can do it all.
    pub(crate) fits_one_transaction: bool,
    /// The earlier version that the rest depends on, where not all is known: the rest of the preflight comes
    /// after that one.
    pub(crate) depends_on: Option<Version>,
    /// The steps whose preflight comes after earlier steps of the same version.
    pub(crate) later: Vec<Later>,
}

/// A step whose preflight comes later.
#[derive(Debug)]
pub(crate) struct Later {
    pub(crate) step: String,
    /// The earlier step of its version that changes what it reads.
    pub(crate) after: String,
}

/// What was found out about one step.
#[derive(Debug)]
pub(crate) struct Finding {
    /// What it would do; `None` if that depends on what earlier steps leave.
    pub(crate) known: Option<Known>,
    /// What a plan says of it.
    pub(crate) actions: Vec<UpgradeAction>,
}

/// What a step would do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) done: Done,
    /// The bytes of the documents that it changes or adds.
    pub(crate) bytes: usize,
    /// Whether as many of them as a batch can hold, each as large as the largest, are small enough for
    /// one transaction.
    pub(crate) small: bool,
}

impl Estimate {
    /// How many documents a step changes, as far as is known.
    pub(crate) fn documents_of(&self, step: usize) -> u64 {
        self.known(step).map_or(0, |known| known.done.documents)
    }

    /// How many documents the step at which the journal stands is still to change, as far as is known.
    pub(crate) fn left(&self, journal: &Journal) -> u64 {
        let begun = journal.steps.get(journal.step);
        match begun.and_then(|step| Some((step.total?, step.done.documents))) {
            Some((total, done)) => total.saturating_sub(done),
            None => self.documents_of(journal.step),
        }
    }

    /// Whether no batch of a step's documents is too large for a transaction, as far as is known.
    pub(crate) fn is_small(&self, step: usize) -> bool {
        self.known(step).is_some_and(|known| known.small)
    }

    /// Whether it is known what a step does.
    pub(crate) fn knows(&self, step: usize) -> bool {
        self.known(step).is_some()
    }

    fn known(&self, step: usize) -> Option<&Known> {
        self.steps.get(step)?.known.as_ref()
    }

    /// Whether the counts are those that a run would report.
    pub(crate) fn is_exact(&self) -> bool {
        self.steps.iter().all(|finding| finding.known.is_some())
    }

    /// What a plan lists.
    pub(crate) fn actions(&self) -> Vec<UpgradeAction> {
        self.steps.iter().flat_map(|finding| finding.actions.clone()).collect()
    }
}
