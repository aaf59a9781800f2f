//! Deletions as their author writes them: every document that matches a filter.

use std::borrow::Cow;

use mongodb::bson::Document;

use crate::authoring::collections::Collections;
use crate::authoring::pipeline::fields_of_filter;
use crate::authoring::pipeline_mistakes::of_filter;
use crate::authoring::step_kind::StepKind;
use crate::authoring::transform::Transform;
use crate::process::action::{ActionType, UpgradeAction};
use crate::server::privileges::Need;

/// The counter of the documents that are deleted.
const DELETED: &str = "deleted";

/// Every document of a collection that matches a filter is deleted.
///
/// A document is deleted only if what the filter asks about is still as it was read. Where the documents were copied
/// first, in the same version, use [`Copy::then_delete`](crate::Copy::then_delete) instead.
///
/// ```
/// # use upgrade_gate::{Delete, Upgrade, bson::doc};
/// Upgrade::new("1.4.0", "drafts are gone").step(
///     Delete::new("cards", doc! { "draft": true }).report("Delete {n} draft(s)"),
/// );
/// ```
#[derive(Clone, derive_more::Debug)]
#[debug("Delete({})", transform.collection)]
pub struct Delete {
    pub(crate) transform: Transform,
}

impl Delete {
    /// Deletes the documents of `collection` that match `filter`.
    pub fn new(collection: impl Into<Cow<'static, str>>, filter: Document) -> Self {
        let collection = collection.into();
        let name = format!("delete {collection}");
        let fields = fields_of_filter(&filter).map(|mut fields| {
            fields.insert("_id".to_owned());
            fields
        });
        let transform = Transform::new(collection, |_, _, edits| {
            edits.delete();
            edits.count(DELETED, 1);
            Ok(())
        });
        let transform = transform
            .filter(filter)
            .fields(fields.unwrap_or_default())
            .named(name)
            .deletes()
            .convergent();
        Delete { transform }.report("Delete {n} document(s)")
    }

    /// Names the step, where a version has two deletions of one collection.
    pub fn named(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.transform = self.transform.named(name);
        self
    }

    /// Describes what it did in the report; `{n}` becomes the number of deleted documents.
    pub fn report(mut self, description: impl Into<Cow<'static, str>>) -> Self {
        self.transform.counters.clear();
        self.transform = self.transform.action(ActionType::Delete, DELETED, description);
        self
    }
}

impl StepKind for Delete {
    fn name(&self) -> String {
        self.transform.name()
    }

    fn kind(&self) -> &'static str {
        "delete"
    }

    fn reads(&self) -> Vec<&str> {
        self.transform.reads()
    }

    fn writes(&self) -> Vec<&str> {
        self.transform.writes()
    }

    fn own_mistake(&self) -> Option<String> {
        match of_filter(&self.transform.filter).first() {
            Some(mistake) => Some(format!("its filter: {mistake}")),
            None => self.transform.own_mistake(),
        }
    }

    fn privileges(&self) -> Vec<Need> {
        self.transform.privileges().into_iter().filter(|need| need.action != "update").collect()
    }

    fn declare_collections<'a>(&'a self, collections: &mut Collections<'a, '_>) {
        self.transform.declare_collections(collections);
    }

    fn unestimated_actions(&self) -> Vec<UpgradeAction> {
        self.transform.unestimated_actions()
    }
}
