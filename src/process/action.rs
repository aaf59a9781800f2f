//! What an upgrade did, or would do, as it is reported.

use mongodb::bson::{Bson, Document};
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

/// What an upgrade did, or would do: the same from a plan as from a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct UpgradeAction {
    /// One line for people.
    pub description: String,
    /// The collection it concerns.
    pub collection: String,
    /// What kind of change it is.
    pub action_type: ActionType,
    /// Counts and names.
    pub details: Document,
}

impl UpgradeAction {
    /// An action without details.
    pub fn new(
        action_type: ActionType,
        collection: impl Into<String>,
        description: impl Into<String>,
    ) -> Self {
        UpgradeAction {
            description: description.into(),
            collection: collection.into(),
            action_type,
            details: Document::new(),
        }
    }

    /// What a plan says of an action whose count depends on what earlier steps leave.
    pub(crate) fn inexact(
        action_type: ActionType,
        collection: impl Into<String>,
        description: impl AsRef<str>,
    ) -> Self {
        let description = description.as_ref().replace("{n} ", "");
        UpgradeAction::new(action_type, collection, description).detail("exact", false)
    }

    /// Adds a count or a name to the details.
    pub fn detail(mut self, name: impl Into<String>, value: impl Into<Bson>) -> Self {
        self.details.insert(name.into(), value);
        self
    }
}

/// The kinds of change that an [`UpgradeAction`] reports.
#[derive(Clone, Copy, Debug, IntoStaticStr, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum ActionType {
    /// Documents are changed.
    Update,
    /// Documents are added.
    Insert,
    /// Documents are removed.
    Delete,
    /// An index is created.
    CreateIndex,
    /// An index is dropped.
    DropIndex,
    /// A collection's validator is set.
    SetValidator,
    /// Options of a collection are changed.
    SetOptions,
    /// Options of an index are changed.
    ModifyIndex,
    /// A collection is renamed.
    Rename,
    /// A collection is dropped.
    Drop,
}

impl ActionType {
    /// The word used in reports and in the record.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}
