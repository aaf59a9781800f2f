//! A transform: what each document of a collection that matches a filter becomes.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use mongodb::bson::{Document, RawDocument, doc};

use crate::authoring::collections::Collections;
use crate::authoring::edit::Edits;
use crate::authoring::editor::Editor;
use crate::authoring::lookup::{Found, Lookup};
use crate::authoring::naming::{Name, no_number, unknown_number};
use crate::authoring::step_error::StepError;
use crate::authoring::step_kind::StepKind;
use crate::process::action::{ActionType, UpgradeAction};
use crate::server::privileges::{Need, on};

/// A transform: what each document of a collection that matches a filter becomes.
///
/// The engine reads, looks up, writes, checkpoints and counts; the author's function only says which
/// edits a document gets.
#[derive(Clone, derive_more::Debug)]
#[debug("Transform({collection})")]
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
    pub(crate) editor: Editor,
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
    /// `edit` must depend on nothing but its arguments: it is called for plans, preflights, retries
    /// and runs alike.
    pub fn new(
        collection: impl Into<Cow<'static, str>>,
        edit: impl Fn(&RawDocument, &Found, &mut Edits) -> Result<(), StepError> + Send + Sync + 'static,
    ) -> Self {
        Transform::by(collection.into(), Editor::Function(Arc::new(edit)))
    }

    /// A transform of all documents of `collection` by an editor.
    pub(crate) fn by(collection: Name, editor: Editor) -> Self {
        Transform {
            name: None,
            collection,
            filter: doc! {},
            fields: vec![],
            lookups: vec![],
            inserts_into: vec![],
            counters: vec![],
            deletes: false,
            convergent: false,
            editor,
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

    /// Whether what it inserts may be its own to transform.
    pub(crate) fn inserts_into_itself(&self) -> bool {
        self.inserts_into.contains(&self.collection)
    }

    /// Names a collection that `edit` inserts into.
    ///
    /// If that is its own collection, the transform also processes what it inserted: a convergent one all of it, in
    /// further passes if necessary; any other only what sorts after the documents of its batch, so choose such an
    /// `_id`. A transform that would never stop adding documents is refused before the first write.
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

    /// What is wrong with its names, of fields and counters.
    fn name_mistake(&self) -> Option<String> {
        let part = |part: &str| part.is_empty() || part.starts_with('$') || part.contains('\0');
        if let Some(field) = self.fields.iter().find(|field| field.split('.').any(part)) {
            return Some(format!("no field can be called {field:?}"));
        }
        let fields: HashSet<&str> = self.fields.iter().map(|field| &**field).collect();
        for field in &self.fields {
            let whole = field.match_indices('.').map(|(dot, _)| &field[..dot]);
            if let Some(whole) = whole.into_iter().find(|whole| fields.contains(whole)) {
                return Some(format!(
                    "it reads both `{whole}` and `{field}`, a part of it: name one of them"
                ));
            }
        }
        let mut counters = HashSet::new();
        for counter in &self.counters {
            if counter.name.is_empty() {
                return Some("a counter needs a name".to_owned());
            }
            if !counters.insert(&*counter.name) {
                return Some(format!("it declares the counter \"{}\" twice", counter.name));
            }
            if let Some(number) = unknown_number(&counter.description, &["n"]) {
                return Some(no_number(&counter.description, number));
            }
        }
        None
    }

    /// What is wrong with its look-ups.
    fn lookup_mistake(&self) -> Option<String> {
        let mut names: Vec<&str> = self.lookups.iter().map(|l| &*l.name).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Some(format!("two of its lookups are named \"{}\": name them apart", pair[0]));
        }
        let mistaken = |lookup: &Arc<Lookup>| Some((lookup.name.clone(), lookup.mistake()?));
        if let Some((name, mistake)) = self.lookups.iter().find_map(mistaken) {
            return Some(format!("its lookup \"{name}\": {mistake}"));
        }
        let changed = self.lookups.iter().find(|lookup| self.may_change(lookup))?;
        Some(format!(
            "its lookup \"{}\" reads what the transform may change itself, so that what it finds would \
             depend on the order: declare with fields what each of them needs",
            changed.name
        ))
    }

    /// The top-level fields that the transform may write; `None` if that may be any.
    fn written(&self) -> Option<BTreeSet<String>> {
        match &self.editor {
            Editor::Pipeline(pipeline) => pipeline.writes(),
            // each of its answers is checked instead
            Editor::Program(_) => Some(BTreeSet::new()),
            _ if self.fields.is_empty() => None,
            _ => Some(self.fields.iter().map(|field| field.clone().into_owned()).collect()),
        }
    }

    /// Whether the transform may change what one of its lookups reads.
    fn may_change(&self, lookup: &Lookup) -> bool {
        let inserts = self.inserts_into.contains(&lookup.collection);
        let edits = self.collection == lookup.collection
            && (self.deletes
                || self.written().is_none_or(|written| {
                    lookup.reads().is_none_or(|mut read| read.any(|f| written.contains(f)))
                }));
        inserts || edits
    }
}

impl StepKind for Transform {
    fn name(&self) -> String {
        match &self.name {
            Some(name) => name.clone().into_owned(),
            None => format!("transform {}", self.collection),
        }
    }

    fn kind(&self) -> &'static str {
        "transform"
    }

    fn reads(&self) -> Vec<&str> {
        let looked_up = self.lookups.iter().map(|lookup| &*lookup.collection);
        [&*self.collection].into_iter().chain(looked_up).collect()
    }

    fn writes(&self) -> Vec<&str> {
        [&self.collection].into_iter().chain(&self.inserts_into).map(|name| &**name).collect()
    }

    fn own_mistake(&self) -> Option<String> {
        self.name_mistake().or_else(|| self.lookup_mistake())
    }

    fn privileges(&self) -> Vec<Need> {
        let mut needs = on(&["find", "update"], &self.collection);
        if self.deletes {
            needs.extend(on(&["remove"], &self.collection));
        }
        needs.extend(self.lookups.iter().flat_map(|lookup| on(&["find"], &lookup.collection)));
        needs.extend(self.inserts_into.iter().flat_map(|name| on(&["find", "insert"], name)));
        needs
    }

    fn declare_collections<'a>(&'a self, collections: &mut Collections<'a, '_>) {
        collections.requires(&self.collection);
        for lookup in &self.lookups {
            collections.looks_up(&lookup.collection, &lookup.name);
        }
        self.inserts_into.iter().for_each(|name| collections.adds(name));
    }

    fn needs_transactions(&self) -> bool {
        !self.convergent
    }

    fn lookups(&self) -> &[Arc<Lookup>] {
        &self.lookups
    }

    fn unestimated_actions(&self) -> Vec<UpgradeAction> {
        let action = |action_type, description| {
            UpgradeAction::inexact(action_type, &*self.collection, description)
        };
        if self.counters.is_empty() {
            return vec![action(ActionType::Update, "Change documents")];
        }
        let counted = self.counters.iter().map(|c| action(c.action_type, &*c.description));
        counted.collect()
    }
}
