//! An upgrade as its author writes it.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::authoring::condition::Condition;
use crate::authoring::naming::Name;
use crate::authoring::step::Step;

/// What the history knows of an upgrade that is a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UpgradeFile {
    /// Its name without the ending.
    pub(crate) name: String,
    /// The SHA-256 of what it says, in hexadecimal digits.
    pub(crate) sha256: String,
}

/// One registered upgrade: a version, a line that says what it does, conditions and steps.
///
/// One without steps changes no document. It is for a version whose code writes what older code cannot
/// read: once it is applied, the database is closed to older code.
#[derive(Clone, Debug)]
pub struct Upgrade {
    pub(crate) version: String,
    pub(crate) description: Name,
    /// The file that it was read from.
    pub(crate) file: Option<UpgradeFile>,
    pub(crate) formerly: BTreeSet<String>,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) steps: Vec<Step>,
}

impl Upgrade {
    /// An upgrade for the first version, pre-releases included, whose code needs it.
    pub fn new(version: impl Into<String>, description: impl Into<Cow<'static, str>>) -> Self {
        Upgrade {
            version: version.into(),
            description: description.into(),
            file: None,
            formerly: BTreeSet::new(),
            conditions: vec![],
            steps: vec![],
        }
    }

    /// The name by which a history entry knows that the upgrade was applied.
    pub(crate) fn name(&self) -> String {
        match &self.file {
            Some(file) => file.name.clone(),
            None => self.description.to_string(),
        }
    }

    /// Whether a history entry that names the upgrades applied names this one.
    pub(crate) fn is_among(&self, names: &[&str]) -> bool {
        let own = self.name();
        names.iter().any(|name| own == *name || self.formerly.contains(*name))
    }

    /// The upgrade as that of a file, which the history knows by the file's name.
    #[cfg(feature = "files")]
    pub(crate) fn of_file(mut self, file: UpgradeFile) -> Self {
        self.file = Some(file);
        self
    }

    /// A description that the upgrade had in an earlier release.
    ///
    /// The history knows by its description that an upgrade was applied: one that is worded differently
    /// later is taken for another one, which the database did not go through, unless it is named here.
    pub fn formerly(mut self, description: impl Into<String>) -> Self {
        self.formerly.insert(description.into());
        self
    }

    /// Adds a condition that must hold before the first write.
    pub fn condition(mut self, condition: Condition) -> Self {
        self.conditions.push(condition);
        self
    }

    /// Adds a step; steps run in the order written.
    pub fn step(mut self, step: impl Into<Step>) -> Self {
        self.steps.push(step.into());
        self
    }

    /// What is wrong with its conditions or steps.
    pub(crate) fn mistake(&self) -> Option<String> {
        let condition = self.conditions.iter().find_map(Condition::mistake);
        condition.or_else(|| self.steps.iter().find_map(Step::mistake))
    }
}
