//! What every kind of step says of itself.

use std::fmt::Debug;
use std::sync::Arc;

use crate::authoring::collections::Collections;
use crate::authoring::lookup::Lookup;
use crate::process::action::UpgradeAction;
use crate::server::privileges::Need;

/// A kind of step: what is known of it without a server.
pub(crate) trait StepKind: Debug {
    /// The name under which the journal knows the step; unique within a version.
    fn name(&self) -> String;

    /// The kind under which the journal knows the step.
    fn kind(&self) -> &'static str;

    /// The collections whose documents decide what the step does.
    fn reads(&self) -> Vec<&str>;

    /// The collections whose documents the step may change.
    fn writes(&self) -> Vec<&str>;

    /// The collections of which it may change anything: documents, indexes, validator or name.
    fn changes(&self) -> Vec<&str> {
        self.writes()
    }

    /// Every collection that the step names.
    fn collections(&self) -> Vec<&str> {
        [self.reads(), self.writes()].concat()
    }

    /// What keeps it from being carried out on any database, the names of its collections aside.
    fn own_mistake(&self) -> Option<String> {
        None
    }

    fn privileges(&self) -> Vec<Need>;

    /// Declares which collections it needs, adds and removes.
    fn declare_collections<'a>(&'a self, collections: &mut Collections<'a, '_>);

    /// Whether it can be applied in a transaction only.
    fn needs_transactions(&self) -> bool {
        false
    }

    /// The documents that it looks up.
    fn lookups(&self) -> &[Arc<Lookup>] {
        &[]
    }

    /// What a plan says of it where its counts depend on what earlier steps leave.
    fn unestimated_actions(&self) -> Vec<UpgradeAction>;
}
