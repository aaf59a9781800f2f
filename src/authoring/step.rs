//! One step of an upgrade, of whatever kind.

use crate::authoring::command::{Command, CreateIndex};
use crate::authoring::naming::collection_mistake;
use crate::authoring::seed::Seed;
use crate::authoring::transaction::Transaction;
use crate::authoring::transform::Transform;

/// One step of an upgrade.
#[expect(clippy::large_enum_variant, reason = "a process holds a handful of them")]
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Step {
    /// Documents of one collection become others.
    Transform(Transform),
    /// Documents that must be there.
    Seed(Seed),
    /// Free code in one transaction.
    Transaction(Transaction),
    /// An index, a validator, a rename or a drop, outside transactions.
    Command(Command),
}

impl From<Transform> for Step {
    fn from(step: Transform) -> Self {
        Step::Transform(step)
    }
}

impl From<Seed> for Step {
    fn from(step: Seed) -> Self {
        Step::Seed(step)
    }
}

impl From<Transaction> for Step {
    fn from(step: Transaction) -> Self {
        Step::Transaction(step)
    }
}

impl From<Command> for Step {
    fn from(step: Command) -> Self {
        Step::Command(step)
    }
}

impl From<CreateIndex> for Step {
    fn from(index: CreateIndex) -> Self {
        Step::Command(index.into())
    }
}

impl Step {
    /// The name under which the journal knows the step; unique within a version.
    pub(crate) fn name(&self) -> String {
        match self {
            Step::Transform(step) => step.step_name(),
            Step::Seed(step) => step.step_name(),
            Step::Transaction(step) => step.name.clone().into_owned(),
            Step::Command(step) => step.describe(),
        }
    }

    /// The kind under which the journal knows the step.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Step::Transform(_) => "transform",
            Step::Seed(_) => "seed",
            Step::Transaction(_) => "transaction",
            Step::Command(_) => "command",
        }
    }

    /// The collections whose documents the step may change.
    pub(crate) fn writes(&self) -> Vec<&str> {
        match self {
            Step::Transform(step) => [&step.collection]
                .into_iter()
                .chain(&step.inserts_into)
                .map(|name| &**name)
                .collect(),
            Step::Seed(step) => vec![&step.collection],
            Step::Transaction(step) => step.collections.iter().map(|name| &**name).collect(),
            Step::Command(Command::Rename { from, to }) => vec![from, to],
            Step::Command(Command::Drop { collection }) => vec![collection],
            Step::Command(_) => vec![],
        }
    }

    /// Whether the step may change a collection: its documents, indexes, validator or name.
    pub(crate) fn touches(&self, collection: &str) -> bool {
        match self {
            Step::Command(command) => command.collections().contains(&collection),
            _ => self.writes().contains(&collection),
        }
    }

    /// Whether the step may take a collection away, or another one's place.
    pub(crate) fn removes(&self, collection: &str) -> bool {
        let removing = matches!(self, Step::Command(Command::Rename { .. } | Command::Drop { .. }));
        removing && self.touches(collection)
    }

    /// The collections whose documents decide what the step does.
    pub(crate) fn reads(&self) -> Vec<&str> {
        match self {
            Step::Transform(step) => [&step.collection]
                .into_iter()
                .chain(step.lookups.iter().map(|l| &l.collection))
                .map(|name| &**name)
                .collect(),
            Step::Seed(step) => vec![&step.collection],
            Step::Transaction(step) => step.collections.iter().map(|name| &**name).collect(),
            Step::Command(command) => command.collections(),
        }
    }

    /// Every collection that the step names.
    pub(crate) fn collections(&self) -> Vec<&str> {
        match self {
            Step::Command(command) => command.collections(),
            _ => [self.reads(), self.writes()].concat(),
        }
    }

    /// Why it cannot be carried out on any database.
    pub(crate) fn mistake(&self) -> Option<String> {
        let name = self.name();
        if name.is_empty() {
            return Some("a step has an empty name: it needs a name, or none given".to_owned());
        }
        let named =
            self.collections().into_iter().find_map(collection_mistake).or_else(|| match self {
                Step::Transform(transform) => transform.name_mistake(),
                Step::Command(command) => command.name_mistake(),
                Step::Seed(_) | Step::Transaction(_) => None,
            });
        if let Some(mistake) = named {
            return Some(format!("step \"{name}\": {mistake}"));
        }
        match self {
            Step::Transform(transform) => transform.lookup_mistake(),
            Step::Seed(seed) => seed.mistake(),
            Step::Command(command) => command.option_mistake(),
            Step::Transaction(_) => None,
        }
    }
}
