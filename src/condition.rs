//! Conditions: what must hold before the first write of an upgrade.

use std::borrow::Cow;

use mongodb::bson::Document;

use crate::upgrade::Name;

/// "No document in a collection matches a filter", asked before anything is written.
#[derive(Clone, Debug)]
pub struct Condition {
    pub(crate) description: Name,
    pub(crate) collection: Name,
    pub(crate) filter: Document,
    pub(crate) skippable: bool,
    pub(crate) asked: Asked,
}

/// When a condition is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    BeforeAnyWrite,
    BeforeItsUpgrade,
}

impl Condition {
    /// Holds while no document of `collection` matches `filter`; `description` says so in a line.
    pub fn no_document(
        collection: impl Into<Cow<'static, str>>,
        filter: Document,
        description: impl Into<Cow<'static, str>>,
    ) -> Self {
        Condition {
            description: description.into(),
            collection: collection.into(),
            filter,
            skippable: false,
            asked: Asked::BeforeAnyWrite,
        }
    }

    /// The operator may skip it with `GATE_SKIP_CONDITIONS`.
    pub fn skippable(mut self) -> Self {
        self.skippable = true;
        self
    }

    /// An earlier upgrade may change its outcome: asked just before its own upgrade, not at the start.
    pub fn after_earlier_upgrades(mut self) -> Self {
        self.asked = Asked::BeforeItsUpgrade;
        self
    }
}
