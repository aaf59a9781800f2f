//! The table that registers upgrades, by version.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use mongodb::IndexModel;
use mongodb::bson::DateTime;
use thiserror::Error;

use crate::authoring::command::Command;
use crate::authoring::condition::Condition;
use crate::authoring::naming::Name;
use crate::authoring::step::Step;
use crate::authoring::upgrade::Upgrade;
use crate::version::Version;

/// All upgrades registered under one version: what is applied and recorded as one.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    pub(crate) version: Version,
    pub(crate) upgrades: Vec<Upgrade>,
    started: Started,
    /// The indexes that later versions create.
    later_indexes: Arc<[(Name, IndexModel)]>,
}

/// When the run began that applies a version, in milliseconds: one time for all steps, retries and
/// resumptions of the version.
#[derive(Clone, Debug, Default)]
struct Started(Arc<AtomicI64>);

impl Unit {
    /// The steps of all upgrades of this version, in order.
    pub(crate) fn steps(&self) -> impl Iterator<Item = &Step> {
        self.upgrades.iter().flat_map(|upgrade| &upgrade.steps)
    }

    /// When the run began that applies the version: the one that began its journal, if there is one.
    pub(crate) fn started(&self) -> DateTime {
        DateTime::from_millis(self.started.0.load(Ordering::Relaxed))
    }

    pub(crate) fn conditions(&self) -> impl Iterator<Item = &Condition> {
        self.upgrades.iter().flat_map(|upgrade| &upgrade.conditions)
    }

    /// The indexes that this version's steps create.
    fn indexes(&self) -> impl Iterator<Item = (&Name, &IndexModel)> {
        self.steps().filter_map(|step| match step {
            Step::Command(Command::CreateIndex { collection, index }) => Some((collection, index)),
            _ => None,
        })
    }

    /// The indexes of a collection that this version or a later one creates.
    pub(crate) fn indexes_from_here<'a>(
        &'a self,
        collection: &'a str,
    ) -> impl Iterator<Item = &'a IndexModel> {
        let later = self.later_indexes.iter().map(|(name, index)| (name, index));
        let all = self.indexes().chain(later);
        all.filter(move |(name, _)| **name == collection).map(|(_, index)| index)
    }

    /// What the version's upgrades do, in a line.
    pub(crate) fn description(&self) -> String {
        self.upgrades.iter().map(|u| &*u.description).collect::<Vec<_>>().join("; ")
    }
}

/// The table of upgrades: every upgrade the code knows, by ascending version.
#[derive(Clone, Debug, Default)]
pub(crate) struct Upgrades {
    units: Vec<Unit>,
    /// The oldest recorded version from which they reach, where older ones were taken out.
    oldest: Option<Version>,
}

/// What is wrong with a table of upgrades.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub(crate) struct TableError(String);

impl Upgrades {
    /// Checks and groups the upgrades of an application whose code has the version `code`.
    ///
    /// # Errors
    ///
    /// A version that cannot be parsed or is above `code`, an upgrade registered after one of a later
    /// version, two of one version and description, two steps of one version and name, two
    /// lookups of one step and name, a lookup into what its transform may change, an index without a name, a
    /// name that nothing can have, a step that needs what an earlier one took away: each named with its
    /// upgrade.
    pub fn new(
        upgrades: impl IntoIterator<Item = Upgrade>,
        code: &Version,
    ) -> Result<Self, TableError> {
        let mut units: Vec<Unit> = Vec::new();
        for upgrade in upgrades {
            let label = format!("upgrade {} \"{}\"", upgrade.version, upgrade.description);
            let version = Version::parse_code(&upgrade.version)
                .map_err(|error| TableError(format!("{label}: {error}")))?;
            if version > *code {
                return Err(TableError(format!(
                    "{label} is above the code version {code}, with which this was built"
                )));
            }
            if let Some(mistake) = upgrade.mistake() {
                return Err(TableError(format!("{label}: {mistake}")));
            }
            match units.last_mut() {
                Some(unit) if unit.version == version => {
                    if unit.upgrades.iter().any(|u| u.description == upgrade.description) {
                        return Err(TableError(format!("{label} is registered twice")));
                    }
                    unit.upgrades.push(upgrade);
                }
                Some(unit) if unit.version > version => {
                    let before = unit.description();
                    return Err(TableError(format!(
                        "{label} is registered after {} \"{before}\": order the table by version",
                        unit.version
                    )));
                }
                _ => units.push(Unit {
                    version,
                    upgrades: vec![upgrade],
                    started: Started::default(),
                    later_indexes: Arc::new([]),
                }),
            }
        }
        for unit in &units {
            if let Some(mistake) = missing_mistake(unit.steps()) {
                return Err(TableError(format!("upgrade {}: {mistake}", unit.version)));
            }
            // a command has the name of what it does, and may do it twice with another one between
            let named = unit.steps().filter(|step| !matches!(step, Step::Command(_)));
            let mut names: Vec<String> = named.map(Step::name).collect();
            names.sort();
            if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
                return Err(TableError(format!(
                    "two steps of {} are named \"{}\": name them apart",
                    unit.version, pair[0]
                )));
            }
        }
        let mut later: Vec<(Name, IndexModel)> = Vec::new();
        for unit in units.iter_mut().rev() {
            unit.later_indexes = later.clone().into();
            later.extend(unit.indexes().map(|(name, index)| (name.clone(), index.clone())));
        }
        Ok(Upgrades { units, oldest: None })
    }

    /// Tells all versions when the run began that applies them; a journaled one, when the run began that
    /// began the journal.
    pub(crate) fn start(&self, began: DateTime, journaled: Option<(&str, DateTime)>) {
        for unit in &self.units {
            let version = unit.version.to_string();
            let began = match journaled {
                Some((journaled, earlier)) if journaled == version => earlier,
                _ => began,
            };
            unit.started.0.store(began.timestamp_millis(), Ordering::Relaxed);
        }
    }

    /// The versions that have upgrades, ascending.
    pub fn units(&self) -> &[Unit] {
        &self.units
    }

    /// The unit of exactly this version.
    pub(crate) fn unit(&self, version: &Version) -> Option<&Unit> {
        self.units.iter().find(|unit| unit.version == *version)
    }

    /// The units in (`after`, `upto`], ascending.
    pub(crate) fn between(&self, after: &Version, upto: &Version) -> Vec<&Unit> {
        self.units.iter().filter(|u| u.version > *after && u.version <= *upto).collect()
    }

    /// The table from which all upgrades of databases older than `oldest` were taken out.
    pub(crate) fn reaching_from(self, oldest: Option<Version>) -> Self {
        Upgrades { oldest, ..self }
    }

    /// The oldest recorded version that the table can upgrade from, or `None` if it can upgrade from every version.
    pub(crate) fn oldest(&self) -> Option<&Version> {
        self.oldest.as_ref()
    }

    /// The floor of data born at `version`: the newest version with an upgrade at or below it, else the
    /// oldest from which the table reaches.
    pub(crate) fn floor_at(&self, version: &Version) -> Option<&Version> {
        let versions = self.units.iter().rev().map(|unit| &unit.version);
        versions.chain(&self.oldest).find(|v| *v <= version)
    }

    /// Whether no upgrade could apply to any database: there are none, and there were none.
    pub(crate) fn is_empty(&self) -> bool {
        self.units.is_empty() && self.oldest.is_none()
    }
}

/// A step that needs a collection which an earlier step of its version took away, and none brought back.
fn missing_mistake<'a>(steps: impl Iterator<Item = &'a Step>) -> Option<String> {
    let mut gone: HashMap<String, String> = HashMap::new();
    for step in steps {
        let (needs, verb) = match step {
            Step::Transform(_) => (step.reads(), "reads"),
            Step::Command(Command::Rename { from, .. }) => (vec![&**from], "renames"),
            Step::Command(Command::Drop { collection }) => (vec![&**collection], "drops"),
            _ => (vec![], ""),
        };
        if let Some((name, by)) = needs.iter().find_map(|name| gone.get_key_value(*name)) {
            return Some(format!(
                "step \"{}\" {verb} {name}, but the earlier step \"{by}\" takes it away: change their \
                 order, or the collection",
                step.name()
            ));
        }
        for name in step.collections() {
            gone.remove(name);
        }
        if let Step::Command(
            Command::Rename { from: name, .. } | Command::Drop { collection: name },
        ) = step
        {
            gone.insert(name.to_string(), step.name());
        }
    }
    None
}
