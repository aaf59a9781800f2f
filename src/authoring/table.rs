//! The table that registers upgrades, by version.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use mongodb::IndexModel;
use mongodb::bson::DateTime;
use thiserror::Error;

use crate::authoring::condition::Condition;
use crate::authoring::lookup::Lookup;
use crate::authoring::step::Step;
use crate::authoring::upgrade::Upgrade;
use crate::version::Version;

/// All upgrades registered under one version: what is applied and recorded as one.
#[derive(Clone, Debug)]
pub(crate) struct VersionUpgrade {
    pub(crate) version: Version,
    pub(crate) upgrades: Vec<Upgrade>,
    started: Started,
    /// The indexes that later versions create.
    later_indexes: Arc<[(String, IndexModel)]>,
}

/// When the run began that applies a version, in milliseconds: one time for all steps, retries and
/// resumptions of the version.
#[derive(Clone, Debug, Default)]
struct Started(Arc<AtomicI64>);

impl VersionUpgrade {
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
    fn indexes(&self) -> impl Iterator<Item = (&str, &IndexModel)> {
        self.steps().filter_map(|step| step.command()?.index())
    }

    /// The indexes of a collection that this version or a later one creates.
    pub(crate) fn indexes_from_here<'a>(
        &'a self,
        collection: &'a str,
    ) -> impl Iterator<Item = &'a IndexModel> {
        let later = self.later_indexes.iter().map(|(name, index)| (name.as_str(), index));
        let all = self.indexes().chain(later);
        all.filter(move |(name, _)| *name == collection).map(|(_, index)| index)
    }

    /// What the version's upgrades do, in a line.
    pub(crate) fn description(&self) -> String {
        self.upgrades.iter().map(|u| &*u.description).collect::<Vec<_>>().join("; ")
    }
}

/// The table of upgrades: every upgrade the code knows, by ascending version.
#[derive(Clone, Debug, Default)]
pub(crate) struct Upgrades {
    versions: Vec<VersionUpgrade>,
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
        let mut versions: Vec<VersionUpgrade> = Vec::new();
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
            match versions.last_mut() {
                Some(of_version) if of_version.version == version => {
                    if of_version.upgrades.iter().any(|other| other.name() == upgrade.name()) {
                        return Err(TableError(format!("{label} is registered twice")));
                    }
                    of_version.upgrades.push(upgrade);
                }
                Some(of_version) if of_version.version > version => {
                    let before = of_version.description();
                    return Err(TableError(format!(
                        "{label} is registered after {} \"{before}\": order the table by version",
                        of_version.version
                    )));
                }
                _ => versions.push(VersionUpgrade {
                    version,
                    upgrades: vec![upgrade],
                    started: Started::default(),
                    later_indexes: Arc::new([]),
                }),
            }
        }
        for of_version in &versions {
            if let Some((_, mistake)) = missing_mistake(of_version.steps()) {
                return Err(TableError(format!("upgrade {}: {mistake}", of_version.version)));
            }
            let named = of_version.steps().filter(|step| step.is_named());
            let mut names: Vec<String> = named.map(|step| step.name()).collect();
            names.sort();
            if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
                return Err(TableError(format!(
                    "two steps of {} are named \"{}\": name them apart",
                    of_version.version, pair[0]
                )));
            }
        }
        let mut later: Vec<(String, IndexModel)> = Vec::new();
        for of_version in versions.iter_mut().rev() {
            of_version.later_indexes = later.clone().into();
            later
                .extend(of_version.indexes().map(|(name, index)| (name.to_owned(), index.clone())));
        }
        Ok(Upgrades { versions, oldest: None })
    }

    /// Sets when the run that applies the versions began; for a journaled version, when the run that began its journal
    /// did.
    pub(crate) fn start(&self, began: DateTime, journaled: Option<(&str, DateTime)>) {
        for of_version in &self.versions {
            let version = of_version.version.to_string();
            let began = match journaled {
                Some((journaled, earlier)) if journaled == version => earlier,
                _ => began,
            };
            of_version.started.0.store(began.timestamp_millis(), Ordering::Relaxed);
        }
    }

    /// The versions that have upgrades, ascending.
    pub fn versions(&self) -> &[VersionUpgrade] {
        &self.versions
    }

    /// The upgrades registered for exactly this version.
    pub(crate) fn of_version(&self, version: &Version) -> Option<&VersionUpgrade> {
        self.versions.iter().find(|of_version| of_version.version == *version)
    }

    /// The versions in (`after`, `upto`], ascending.
    pub(crate) fn between(&self, after: &Version, upto: &Version) -> Vec<&VersionUpgrade> {
        self.versions.iter().filter(|u| u.version > *after && u.version <= *upto).collect()
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
        let versions = self.versions.iter().rev().map(|of_version| &of_version.version);
        versions.chain(&self.oldest).find(|v| *v <= version)
    }

    /// Whether no upgrade could apply to any database: there are none, and there were none.
    pub(crate) fn is_empty(&self) -> bool {
        self.versions.is_empty() && self.oldest.is_none()
    }
}

/// Whether a step may change what a look-up reads.
fn may_change(step: &Step, lookup: &Lookup) -> bool {
    if !step.writes().contains(&&*lookup.collection) {
        return false;
    }
    let Step::Update(update) = step else { return true };
    update.pipeline.writes().is_none_or(|written| {
        lookup.reads().is_none_or(|mut read| read.any(|field| written.contains(field)))
    })
}

/// A step that cannot come after an earlier one of its version: its position, and what is wrong. It needs a collection
/// which that took away, and none brought back; or it deletes from one that a copy reads, and would delete what is not
/// copied where old code still writes.
pub(crate) fn missing_mistake<'a>(
    steps: impl Iterator<Item = &'a Step>,
) -> Option<(usize, String)> {
    let steps: Vec<&Step> = steps.collect();
    for (position, step) in steps.iter().enumerate() {
        let lookups = match step {
            Step::Update(update) => &update.transform.lookups,
            Step::Program(program) => &program.transform.lookups,
            _ => continue,
        };
        for lookup in lookups {
            let others = steps.iter().enumerate().filter(|(other, _)| *other != position);
            let mut changing = others.filter(|(_, other)| may_change(other, lookup));
            if let Some((_, other)) = changing.next() {
                let mistake = format!(
                    "step \"{}\" looks up in {} what the step \"{}\" of the same version may change: name with \
                     fields what it needs that is not changed, or change it in another version",
                    step.name(),
                    lookup.collection,
                    other.name()
                );
                return Some((position, mistake));
            }
        }
    }
    let mut gone: HashMap<String, String> = HashMap::new();
    let mut copied: HashMap<&str, String> = HashMap::new();
    for (position, step) in steps.into_iter().enumerate() {
        let (needs, verb) = match step {
            Step::Transform(_)
            | Step::Update(_)
            | Step::Program(_)
            | Step::Copy(_)
            | Step::Delete(_) => (step.reads(), "reads"),
            _ => (step.gone().into_iter().collect(), "needs"),
        };
        if let Some((name, by)) = needs.iter().find_map(|name| gone.get_key_value(*name)) {
            let mistake = format!(
                "step \"{}\" {verb} {name}, but the earlier step \"{by}\" takes it away: change their \
                 order, or the collection",
                step.name()
            );
            return Some((position, mistake));
        }
        match step {
            Step::Copy(copy) => {
                copied.insert(&copy.transform.collection, step.name());
            }
            Step::Delete(delete) => {
                let collection = &*delete.transform.collection;
                if let Some(copy) = copied.get(collection) {
                    let mistake = format!(
                        "step \"{}\" deletes from {collection}, which the earlier step \"{copy}\" copies: let \
                         the copy delete its sources, or delete them in a later version",
                        step.name()
                    );
                    return Some((position, mistake));
                }
            }
            _ => {}
        }
        for name in step.collections() {
            gone.remove(name);
        }
        if let Some(name) = step.gone() {
            gone.insert(name.to_owned(), step.name());
        }
    }
    None
}
