//! A step whose edits are computed by a program of the author's, in any language.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mongodb::bson::Document;

use crate::authoring::collections::Collections;
use crate::authoring::editor::{Editor, Run};
use crate::authoring::lookup::Lookup;
use crate::authoring::pipeline_mistakes::of_filter;
use crate::authoring::step_kind::StepKind;
use crate::authoring::transform::Transform;
use crate::process::action::{ActionType, UpgradeAction};
use crate::server::privileges::Need;

/// How long a program may take for one document, unless its step says otherwise.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A step whose edits are computed by a program of the author's, in any language: it is asked what each document that
/// matches a filter becomes, and the engine does everything else as for a [`Transform`].
///
/// The program is started for the preflight and again for the writing. It has no connection to the database: it reads
/// BSON messages from standard input and writes one answer for each to standard output, in order.
///
/// | message | answer |
/// | --- | --- |
/// | `{ gate: 1, version, step, collection }`, once | `{ ready: 1 }` |
/// | `{ document, found: { LOOKUP: [ … ] } }`, for each document | any of the following; empty if nothing changes |
///
/// | field of an answer | meaning |
/// | --- | --- |
/// | `set: { FIELD: value }`, `unset: [ FIELD ]` | what changes, by top-level fields; values are stored byte for byte |
/// | `insert: { COLLECTION: [ … ] }` | documents to add, each with an `_id` that follows from the input |
/// | `count: { NAME: n }` | what to count for the report |
/// | `delete: true` | the document is deleted |
/// | `refuse: "why"` | the upgrade cannot deal with it: the run ends with 14 |
///
/// At the end of its input the program must exit with 0. Helpers for Python and Node are in `clients/`.
///
/// The same input must always have the same answer, and the answer to a document as the program made it must be that
/// nothing changes: both are checked before anything is written. A program that dies, hangs, answers with something
/// else, or not as often as it is asked, ends the run with 14.
///
/// ```
/// # use upgrade_gate::{Program, Upgrade, bson::doc};
/// Upgrade::new("1.2.0", "give every card a position").step(
///     Program::new("cards", doc! { "position": { "$exists": false } }, ["python3", "/upgrades/position.py"])
///         .report("moved", "Give {n} card(s) a position"),
/// );
/// ```
#[derive(Clone, derive_more::Debug)]
#[debug("Program({})", transform.collection)]
pub struct Program {
    pub(crate) transform: Transform,
}

impl Program {
    /// The documents of `collection` that match `filter`, at least all those that are to change; and the program, with
    /// its arguments. No shell reads them.
    pub fn new(
        collection: impl Into<Cow<'static, str>>,
        filter: Document,
        command: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        let collection = collection.into();
        let command = command.into_iter().map(Into::into).collect();
        let run = Run { command, env: BTreeMap::new(), timeout: TIMEOUT };
        let name = format!("program {collection}");
        let editor = Editor::Program(Arc::new(run));
        Program {
            transform: Transform::by(collection, editor).filter(filter).named(name).convergent(),
        }
    }

    /// Names the step, where a version has two programs for one collection.
    pub fn named(self, name: impl Into<Cow<'static, str>>) -> Self {
        Program { transform: self.transform.named(name) }
    }

    /// Sets a variable for the program. Of the gate's own variables it has `PATH`, `HOME` and `LANG` only.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.run(|run| {
            run.env.insert(name.into(), value.into());
        });
        self
    }

    /// How long the program may take for one document; 30 seconds where this is not called. To start it has 30 seconds in
    /// any case.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.run(|run| run.timeout = timeout);
        self
    }

    /// Reports what the program counts under `name`; `{n}` in the description becomes the count.
    pub fn report(
        self,
        name: impl Into<Cow<'static, str>>,
        description: impl Into<Cow<'static, str>>,
    ) -> Self {
        Program { transform: self.transform.action(ActionType::Update, name, description) }
    }

    /// Looks up documents, which the program is given as `found`, under the look-up's name.
    ///
    /// A look-up may read the step's own collection if it names with [`Lookup::fields`] what it reads; an answer that
    /// then changes one of these fields ends the run with 14.
    pub fn lookup(self, lookup: Lookup) -> Self {
        Program { transform: self.transform.lookup(lookup) }
    }

    /// Names a collection that the program inserts into.
    pub fn inserts_into(self, collection: impl Into<Cow<'static, str>>) -> Self {
        Program { transform: self.transform.inserts_into(collection) }
    }

    /// Says that the program deletes documents.
    pub fn deletes(self) -> Self {
        Program { transform: self.transform.deletes() }
    }

    fn run(&mut self, change: impl FnOnce(&mut Run)) {
        if let Editor::Program(run) = &mut self.transform.editor {
            change(Arc::make_mut(run));
        }
    }
}

impl StepKind for Program {
    fn name(&self) -> String {
        self.transform.name()
    }

    fn kind(&self) -> &'static str {
        "program"
    }

    fn reads(&self) -> Vec<&str> {
        self.transform.reads()
    }

    fn writes(&self) -> Vec<&str> {
        self.transform.writes()
    }

    fn own_mistake(&self) -> Option<String> {
        let run = match &self.transform.editor {
            Editor::Program(run) => run.mistake(),
            Editor::Function(_) | Editor::Pipeline(_) => None,
        };
        let filter = || {
            let mistakes = of_filter(&self.transform.filter);
            mistakes.first().map(|mistake| format!("its filter: {mistake}"))
        };
        run.or_else(filter).or_else(|| self.transform.own_mistake())
    }

    fn privileges(&self) -> Vec<Need> {
        self.transform.privileges()
    }

    fn declare_collections<'a>(&'a self, collections: &mut Collections<'a, '_>) {
        self.transform.declare_collections(collections);
    }

    fn needs_transactions(&self) -> bool {
        self.transform.needs_transactions()
    }

    fn lookups(&self) -> &[Arc<Lookup>] {
        &self.transform.lookups
    }

    fn unestimated_actions(&self) -> Vec<UpgradeAction> {
        self.transform.unestimated_actions()
    }
}
