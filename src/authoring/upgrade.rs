//! Upgrades as their author writes them, and the table that registers them.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use mongodb::bson::{Bson, DateTime, Document, RawDocument, doc};
use mongodb::error::Error as DriverError;
use serde::{Deserialize, Serialize};

use crate::authoring::command::Command;
use crate::authoring::condition::Condition;
use crate::authoring::edit::{EditError, Edits};
use crate::authoring::handle::Handle;
use crate::authoring::lookup::{Found, Lookup};
use crate::authoring::naming;
use crate::authoring::seed::Seed;
use crate::version::Version;

/// A name or a text that the author gives: a literal, or one that is known only at run time.
pub(crate) type Name = Cow<'static, str>;

/// What the code of a transaction step returns: its future, boxed.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

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

/// Why a step refused: a reason in the author's words, or the driver's own error.
///
/// A reason is printed; it must not hold a document's contents.
#[derive(Debug)]
#[non_exhaustive]
pub enum StepError {
    /// The step cannot be carried out on this data.
    Refused(String),
    /// The driver's own error, unchanged, so that the engine knows what may be tried again.
    Driver(DriverError),
    /// A document that does not hold what the step reads from it: the error of `document.get_i32("n")?`
    /// and its like, unchanged, so that the engine can say which document it was.
    Bson(mongodb::bson::error::Error),
}

impl StepError {
    /// A refusal with its reason.
    pub fn refused(reason: impl Into<String>) -> Self {
        StepError::Refused(reason.into())
    }
}

impl From<DriverError> for StepError {
    fn from(error: DriverError) -> Self {
        StepError::Driver(error)
    }
}

impl From<EditError> for StepError {
    fn from(error: EditError) -> Self {
        StepError::refused(error.to_string())
    }
}

impl From<mongodb::bson::error::Error> for StepError {
    fn from(error: mongodb::bson::error::Error) -> Self {
        StepError::Bson(error)
    }
}

/// One registered upgrade: a version, a line that says what it does, conditions and steps.
///
/// One without steps changes no document. It is for a version whose code writes what older code cannot
/// read: once it is applied, the database is closed to older code.
#[derive(Clone, Debug)]
pub struct Upgrade {
    pub(crate) version: String,
    pub(crate) description: Name,
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
            formerly: BTreeSet::new(),
            conditions: vec![],
            steps: vec![],
        }
    }

    /// The name by which a history entry knows that the upgrade was applied.
    pub(crate) fn name(&self) -> String {
        self.description.to_string()
    }

    /// Whether a history entry that names the upgrades applied names this one.
    pub(crate) fn is_among(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.description == *name || self.formerly.contains(*name))
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
}

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
}

type Edit = dyn Fn(&RawDocument, &Found, &mut Edits) -> Result<(), StepError> + Send + Sync;

/// A transform: what each document of a collection that matches a filter becomes.
///
/// The engine reads, looks up, writes, checkpoints and counts; the author's function only says which
/// edits a document gets.
#[derive(Clone)]
pub struct Transform {
    pub(crate) name: Option<Name>,
    pub(crate) collection: Name,
    pub(crate) filter: Document,
    pub(crate) fields: Vec<Name>,
    pub(crate) lookups: Vec<Arc<Lookup>>,
    pub(crate) inserts_into: Vec<Name>,
    pub(crate) counters: Vec<Counter>,
    pub(crate) deletes: bool,
    pub(crate) convergent: bool,
    pub(crate) edit: Arc<Edit>,
}

/// One counted action of a transform.
#[derive(Clone, Debug)]
pub(crate) struct Counter {
    pub(crate) action_type: ActionType,
    pub(crate) name: Name,
    pub(crate) description: Name,
}

impl Transform {
    /// A transform of all documents of `collection`, until [`filter`](Self::filter) narrows it.
    ///
    /// `edit` must depend on nothing but its arguments: it is called for plans, look-aheads, retries
    /// and runs alike.
    pub fn new(
        collection: impl Into<Cow<'static, str>>,
        edit: impl Fn(&RawDocument, &Found, &mut Edits) -> Result<(), StepError> + Send + Sync + 'static,
    ) -> Self {
        Transform {
            name: None,
            collection: collection.into(),
            filter: doc! {},
            fields: vec![],
            lookups: vec![],
            inserts_into: vec![],
            counters: vec![],
            deletes: false,
            convergent: false,
            edit: Arc::new(edit),
        }
    }

    /// Names the step, where a version has two transforms of one collection.
    pub fn named(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The documents concerned: at least all those that `edit` changes.
    pub fn filter(mut self, filter: Document) -> Self {
        self.filter = filter;
        self
    }

    /// The top-level fields that `edit` reads or changes; the whole document where this is not called.
    pub fn fields(
        mut self,
        fields: impl IntoIterator<Item = impl Into<Cow<'static, str>>>,
    ) -> Self {
        self.fields = fields.into_iter().map(Into::into).collect();
        self
    }

    /// Looks up documents of a collection for each batch.
    pub fn lookup(mut self, lookup: Lookup) -> Self {
        self.lookups.push(Arc::new(lookup));
        self
    }

    /// The name under which the journal knows the step.
    pub(crate) fn step_name(&self) -> String {
        match &self.name {
            Some(name) => name.clone().into_owned(),
            None => format!("transform {}", self.collection),
        }
    }

    /// Whether what it inserts may be its own to transform.
    pub(crate) fn meets_its_own(&self) -> bool {
        self.inserts_into.contains(&self.collection)
    }

    /// Names a collection that `edit` inserts into.
    ///
    /// In the transform's own collection it meets what it inserted, where that sorts behind all documents
    /// of the batch; give it an `_id` that does.
    pub fn inserts_into(mut self, collection: impl Into<Cow<'static, str>>) -> Self {
        self.inserts_into.push(collection.into());
        self
    }

    /// Says that `edit` deletes documents, with [`Edits::delete`].
    pub fn deletes(mut self) -> Self {
        self.deletes = true;
        self
    }

    /// Reports the counter `name` as an action; `{n}` in the description becomes the count.
    pub fn action(
        mut self,
        action_type: ActionType,
        name: impl Into<Cow<'static, str>>,
        description: impl Into<Cow<'static, str>>,
    ) -> Self {
        let (name, description) = (name.into(), description.into());
        self.counters.push(Counter { action_type, name, description });
        self
    }

    /// Promises that `edit` makes no edit for its own output, so that the transform may be run over
    /// documents again: for late writers, and on servers without transactions.
    pub fn convergent(mut self) -> Self {
        self.convergent = true;
        self
    }

    /// Whether the transform may change what one of its lookups reads.
    fn may_change(&self, lookup: &Lookup) -> bool {
        let inserts = self.inserts_into.contains(&lookup.collection);
        let edits = self.collection == lookup.collection
            && (self.deletes
                || self.fields.is_empty()
                || lookup
                    .reads()
                    .is_none_or(|mut read| read.any(|f| self.fields.iter().any(|own| own == f))));
        inserts || edits
    }
}

impl fmt::Debug for Transform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transform").field("collection", &self.collection).finish_non_exhaustive()
    }
}

type Run = dyn for<'a> Fn(&'a mut Handle<'_>) -> BoxFuture<'a, Result<Vec<UpgradeAction>, StepError>>
    + Send
    + Sync;

/// Free code that runs inside one transaction, through a [`Handle`] that reaches nothing else.
///
/// It may be run several times before one run is committed, and once more for a plan.
#[derive(Clone)]
pub struct Transaction {
    pub(crate) name: Name,
    pub(crate) collections: Vec<Name>,
    pub(crate) run: Arc<Run>,
}

impl Transaction {
    /// A step that touches the named collections and no other.
    pub fn new(
        name: impl Into<Cow<'static, str>>,
        collections: impl IntoIterator<Item = impl Into<Cow<'static, str>>>,
        run: impl for<'a> Fn(&'a mut Handle<'_>) -> BoxFuture<'a, Result<Vec<UpgradeAction>, StepError>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let collections = collections.into_iter().map(Into::into).collect();
        Transaction { name: name.into(), collections, run: Arc::new(run) }
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All upgrades registered under one version: what is applied and recorded as one.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    pub(crate) version: Version,
    pub(crate) upgrades: Vec<Upgrade>,
    started: Started,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableError(String);

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TableError {}

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
            check_steps(&upgrade).map_err(|reason| TableError(format!("{label}: {reason}")))?;
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
                }),
            }
        }
        for unit in &units {
            if let Some(mistake) = naming::missing_mistake(unit.steps()) {
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

    /// The oldest recorded version from which the table reaches; none where it reaches from every version.
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

fn check_steps(upgrade: &Upgrade) -> Result<(), String> {
    if let Some(mistake) = upgrade.conditions.iter().find_map(Condition::mistake) {
        return Err(mistake);
    }
    if let Some(mistake) = upgrade.conditions.iter().find_map(naming::condition_mistake) {
        return Err(mistake);
    }
    for step in &upgrade.steps {
        if let Some(mistake) = naming::step_mistake(step) {
            return Err(mistake);
        }
        if let Step::Command(command @ Command::CreateIndex { .. }) = step
            && command.index_name().is_empty()
        {
            return Err(format!("{} needs a name in its options", command.describe()));
        }
        if let Step::Command(command) = step
            && let Some(mistake) = command.mistake()
        {
            return Err(mistake);
        }
        if let Step::Seed(seed) = step
            && let Some(mistake) = seed.mistake()
        {
            return Err(mistake);
        }
        if let Step::Transform(transform) = step {
            let mut names: Vec<&str> = transform.lookups.iter().map(|l| &*l.name).collect();
            names.sort_unstable();
            if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
                return Err(format!(
                    "two of its lookups are named \"{}\": name them apart",
                    pair[0]
                ));
            }
            if let Some((lookup, mistake)) =
                transform.lookups.iter().find_map(|lookup| Some((lookup, lookup.mistake()?)))
            {
                return Err(format!("its lookup \"{}\": {mistake}", lookup.name));
            }
            if let Some(lookup) = transform.lookups.iter().find(|l| transform.may_change(l)) {
                return Err(format!(
                    "its lookup \"{}\" reads what the transform may change itself, so that what it \
                     finds would depend on the order: declare with fields what each of them needs",
                    lookup.name
                ));
            }
        }
    }
    Ok(())
}
