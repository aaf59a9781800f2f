//! One step of an upgrade, of whatever kind.

use std::sync::Arc;

use derive_more::From;
use mongodb::bson::Document;

use crate::authoring::collections::Collections;
use crate::authoring::command::kind::CommandKind;
use crate::authoring::command::{Command, CreateIndex};
use crate::authoring::copy::Copy;
use crate::authoring::delete::Delete;
use crate::authoring::lookup::Lookup;
use crate::authoring::naming::collection_mistake;
use crate::authoring::program::Program;
use crate::authoring::seed::Seed;
use crate::authoring::step_kind::StepKind;
use crate::authoring::transaction::Transaction;
use crate::authoring::transform::Transform;
use crate::authoring::update::Update;
use crate::process::action::UpgradeAction;
use crate::server::privileges::Need;

/// One step of an upgrade.
#[derive(Clone, Debug, From)]
#[non_exhaustive]
pub enum Step {
    /// Documents of one collection become others.
    Transform(Transform),
    /// Documents of one collection become what a pipeline makes of them.
    Update(Update),
    /// Documents that a pipeline makes of those of another collection.
    Copy(Copy),
    /// Documents that are deleted.
    Delete(Delete),
    /// The same, by a program of any language.
    Program(Program),
    /// Documents that must be there.
    Seed(Seed),
    /// Free code in one transaction.
    Transaction(Transaction),
    /// An index, a validator, a rename or a drop, outside transactions.
    Command(Command),
}

impl From<CreateIndex> for Step {
    fn from(index: CreateIndex) -> Self {
        Step::Command(index.into())
    }
}

// What every kind of step says of itself.
impl Step {
    fn as_kind(&self) -> &dyn StepKind {
        match self {
            Step::Transform(step) => step,
            Step::Update(step) => step,
            Step::Copy(step) => step,
            Step::Delete(step) => step,
            Step::Program(step) => step,
            Step::Seed(step) => step,
            Step::Transaction(step) => step,
            Step::Command(step) => step,
        }
    }

    pub(crate) fn name(&self) -> String {
        self.as_kind().name()
    }

    pub(crate) fn kind(&self) -> &'static str {
        self.as_kind().kind()
    }

    pub(crate) fn reads(&self) -> Vec<&str> {
        self.as_kind().reads()
    }

    pub(crate) fn writes(&self) -> Vec<&str> {
        self.as_kind().writes()
    }

    pub(crate) fn changes(&self) -> Vec<&str> {
        self.as_kind().changes()
    }

    pub(crate) fn collections(&self) -> Vec<&str> {
        self.as_kind().collections()
    }

    pub(crate) fn privileges(&self) -> Vec<Need> {
        self.as_kind().privileges()
    }

    pub(crate) fn declare_collections<'a>(&'a self, collections: &mut Collections<'a, '_>) {
        self.as_kind().declare_collections(collections);
    }

    pub(crate) fn needs_transactions(&self) -> bool {
        self.as_kind().needs_transactions()
    }

    pub(crate) fn lookups(&self) -> &[Arc<Lookup>] {
        self.as_kind().lookups()
    }

    pub(crate) fn unestimated_actions(&self) -> Vec<UpgradeAction> {
        self.as_kind().unestimated_actions()
    }
}

impl Step {
    /// The step as a command.
    pub(crate) fn command(&self) -> Option<&dyn CommandKind> {
        match self {
            Step::Command(command) => Some(command.as_kind()),
            _ => None,
        }
    }

    /// Whether it has a name of its own: a command usually has that of what it does, and may do it twice with another
    /// one between.
    pub(crate) fn is_named(&self) -> bool {
        match self {
            Step::Command(command) => command.is_named(),
            _ => true,
        }
    }

    /// The step as a transform by a function or a program, which can be asked about documents that no collection holds yet.
    pub(crate) fn called(&self) -> Option<&Transform> {
        match self {
            Step::Transform(step) => Some(step),
            Step::Program(step) => Some(&step.transform),
            Step::Delete(step) => Some(&step.transform),
            _ => None,
        }
    }

    /// Whether the step may change a collection: its documents, indexes, validator or name.
    pub(crate) fn touches(&self, collection: &str) -> bool {
        self.changes().contains(&collection)
    }

    /// Whether it is plain that the step would write a field, or delete the document that has it: code of the author's may
    /// know better.
    pub(crate) fn may_write(&self, collection: &str, field: &str) -> bool {
        let top = field.split('.').next().unwrap_or(field);
        let everything = |filter: &Document| filter.is_empty();
        match self {
            Step::Update(update) if update.transform.collection == collection => {
                update.pipeline.writes().is_none_or(|written| written.contains(top))
            }
            Step::Delete(delete) if delete.transform.collection == collection => {
                everything(&delete.transform.filter)
            }
            Step::Copy(copy)
                if copy.transform.deletes && copy.transform.collection == collection =>
            {
                everything(&copy.transform.filter)
            }
            Step::Seed(seed) if seed.collection == collection => seed.holds(top),
            _ => false,
        }
    }

    /// The collection that the step takes away under its name.
    pub(crate) fn gone(&self) -> Option<&str> {
        self.command()?.gone()
    }

    /// Whether the step may take a collection away, or another one's place.
    pub(crate) fn removes(&self, collection: &str) -> bool {
        self.gone().is_some() && self.touches(collection)
    }

    /// Why it cannot be carried out on any database.
    pub(crate) fn mistake(&self) -> Option<String> {
        let name = self.name();
        if name.is_empty() {
            return Some("a step has an empty name: it needs a name, or none given".to_owned());
        }
        let named = self.collections().into_iter().find_map(collection_mistake);
        Some(format!("step \"{name}\": {}", named.or_else(|| self.as_kind().own_mistake())?))
    }
}
