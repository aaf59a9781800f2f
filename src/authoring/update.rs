//! Updates as their author writes them: a filter for the old shape, and a pipeline that the server evaluates.

use std::borrow::Cow;
use std::sync::Arc;

use mongodb::bson::Document;

use crate::authoring::collections::Collections;
use crate::authoring::editor::Editor;
use crate::authoring::lookup::Lookup;
use crate::authoring::pipeline::{Makes, Pipeline};
use crate::authoring::pipeline_mistakes::{
    LookUps, of_found, of_staying, of_update, of_update_filter,
};
use crate::authoring::step_kind::StepKind;
use crate::authoring::transform::Transform;
use crate::process::action::{ActionType, UpgradeAction};
use crate::server::privileges::Need;

/// The counter of the documents that an update changed.
pub(crate) const UPDATED: &str = "updated";

/// An update that the server evaluates: an [update pipeline], for every document of a collection that matches a filter.
///
/// The filter matches exactly the documents of the old shape, and the pipeline must lead out of it: what it makes of a
/// document no longer matches. Before the first write the pipeline is evaluated for every document that matches; one for
/// which it fails, that would still match, or would outgrow 16 MiB ends the run with 14. When the step ends nothing
/// may match the filter.
///
/// It works on standalone servers as well, and mode `sweep` runs it again where no later step changes the collection.
///
/// A pipeline keeps the `_id`: it has the stages `$set`, `$unset`, `$project` with `_id: 1`, and `$replaceWith` with
/// `{ $mergeObjects: [ …, { _id: "$_id" } ] }`.
///
/// ```
/// # use upgrade_gate::{Update, Upgrade, bson::doc};
/// Upgrade::new("1.1.0", "give every card a position").step(
///     Update::new(
///         "cards",
///         doc! { "position": { "$exists": false } },
///         [
///             doc! { "$set": { "position": { "$ifNull": ["$order", 0] } } },
///             doc! { "$unset": "order" },
///         ],
///     )
///     .report("Give {n} card(s) a position"),
/// );
/// ```
///
/// [update pipeline]: https://www.mongodb.com/docs/manual/tutorial/update-documents-with-aggregation-pipeline/
#[derive(Clone, derive_more::Debug)]
#[debug("Update({})", transform.collection)]
pub struct Update {
    pub(crate) pipeline: Arc<Pipeline>,
    /// The same as a transform, for servers without transactions.
    pub(crate) transform: Transform,
}

impl Update {
    /// An update by `pipeline` of the documents of `collection` that match `filter`.
    pub fn new(
        collection: impl Into<Cow<'static, str>>,
        filter: Document,
        pipeline: impl IntoIterator<Item = Document>,
    ) -> Self {
        let collection = collection.into();
        let makes = Makes::Itself { counter: UPDATED };
        let pipeline = Arc::new(Pipeline { stages: pipeline.into_iter().collect(), makes });
        let editor = Editor::Pipeline(pipeline.clone());
        let name = format!("update {collection}");
        let transform = Transform::by(collection, editor).filter(filter).named(name).convergent();
        Update { pipeline, transform }.report("Update {n} document(s)")
    }

    /// Names the step, where a version has two updates of one collection.
    pub fn named(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.transform = self.transform.named(name);
        self
    }

    /// Describes what it did in the report; `{n}` becomes the number of updated documents.
    pub fn report(mut self, description: impl Into<Cow<'static, str>>) -> Self {
        self.transform.counters.clear();
        self.transform = self.transform.action(ActionType::Update, UPDATED, description);
        self
    }

    /// Looks up documents of another collection. The pipeline finds them as `$_found.NAME`, an array of documents, which
    /// is never stored; see [`Lookup::by_field`].
    ///
    /// The server evaluates the pipeline by an aggregation then, and its outcome is written onto the document if that is
    /// still the same. A document that has a field `_found` itself is 14.
    pub fn lookup(mut self, lookup: Lookup) -> Self {
        self.transform = self.transform.lookup(lookup);
        self
    }

    /// Whether the pipeline sees what was looked up.
    pub(crate) fn look_ups(&self) -> LookUps {
        if self.transform.lookups.is_empty() { LookUps::None } else { LookUps::Some }
    }
}

impl StepKind for Update {
    fn name(&self) -> String {
        self.transform.name()
    }

    fn kind(&self) -> &'static str {
        "update"
    }

    fn reads(&self) -> Vec<&str> {
        self.transform.reads()
    }

    fn writes(&self) -> Vec<&str> {
        self.transform.writes()
    }

    fn own_mistake(&self) -> Option<String> {
        let filter = of_update_filter(&self.transform.filter);
        if let Some(mistake) = filter.first() {
            return Some(format!("its filter: {mistake}"));
        }
        let unusable = |name: &str| name.is_empty() || name.contains(['.', '$', '\0']);
        if let Some(lookup) = self.transform.lookups.iter().find(|lookup| unusable(&lookup.name)) {
            return Some(format!("its lookup \"{}\": no field can be called so", lookup.name));
        }
        if let Some(mistake) = of_update(&self.pipeline.stages, self.look_ups()).first() {
            return Some(format!("its pipeline: {mistake}"));
        }
        // without look-ups the field is one like any other
        if !self.transform.lookups.is_empty()
            && let Some(mistake) = of_found(&self.pipeline.stages, &self.transform.lookups)
        {
            return Some(format!("its pipeline: {mistake}"));
        }
        if let Some(mistake) = of_staying(&self.transform.filter, &self.pipeline) {
            return Some(mistake.to_string());
        }
        self.transform.own_mistake()
    }

    fn privileges(&self) -> Vec<Need> {
        self.transform.privileges()
    }

    fn declare_collections<'a>(&'a self, collections: &mut Collections<'a, '_>) {
        self.transform.declare_collections(collections);
    }

    fn lookups(&self) -> &[Arc<Lookup>] {
        &self.transform.lookups
    }

    fn unestimated_actions(&self) -> Vec<UpgradeAction> {
        self.transform.unestimated_actions()
    }
}
