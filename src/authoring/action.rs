//! What an upgrade did, or would do, as it is reported.

use mongodb::bson::{Bson, Document};
use serde::{Deserialize, Serialize};

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

    /// Adds a count or a name to the details.
    pub fn detail(mut self, name: impl Into<String>, value: impl Into<Bson>) -> Self {
        self.details.insert(name.into(), value);
        self
    }
}

/// The kinds of change that an [`UpgradeAction`] reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
        match self {
            ActionType::Update => "update",
            ActionType::Insert => "insert",
            ActionType::Delete => "delete",
            ActionType::CreateIndex => "create_index",
            ActionType::DropIndex => "drop_index",
            ActionType::SetValidator => "set_validator",
            ActionType::SetOptions => "set_options",
            ActionType::ModifyIndex => "modify_index",
            ActionType::Rename => "rename",
            ActionType::Drop => "drop",
        }
    }
}
