//! Copies as their author writes them: documents that a pipeline makes of others, inserted into another collection.

use std::borrow::Cow;
use std::sync::Arc;

use mongodb::bson::Document;

use crate::authoring::collections::Collections;
use crate::authoring::editor::Editor;
use crate::authoring::naming::Name;
use crate::authoring::pipeline::{Makes, Pipeline, Sources};
use crate::authoring::pipeline_mistakes::{of_copy, of_filter};
use crate::authoring::step_kind::StepKind;
use crate::authoring::transform::Transform;
use crate::process::action::{ActionType, UpgradeAction};
use crate::server::privileges::Need;

/// The counter of the documents that a copy makes.
pub(crate) const COPIED: &str = "copied";

/// Documents that a pipeline makes of each document of a collection, inserted into another collection.
///
/// The pipeline sees one document at a time: it has the stages `$match`, `$set`, `$unset`, `$project`, `$replaceWith`
/// and `$unwind`. Each document that comes out needs an `_id` that depends on its source alone. One that is there already
/// with the same contents is done; one with other contents ends the run with 14, before the first write as far as that
/// can be seen.
///
/// ```
/// # use upgrade_gate::{Copy, Upgrade, bson::doc};
/// Upgrade::new("1.3.0", "comments have a collection of their own").step(
///     Copy::new(
///         "cards",
///         doc! { "comments.0": { "$exists": true } },
///         [
///             doc! { "$unwind": "$comments" },
///             doc! { "$replaceWith": {
///                 "_id": "$comments.id", "card": "$_id", "text": "$comments.text",
///             } },
///         ],
///         "comments",
///     )
///     .report("Copy {n} comment(s)"),
/// );
/// ```
#[derive(Clone, derive_more::Debug)]
#[debug("Copy({} into {into})", transform.collection)]
pub struct Copy {
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) into: Name,
    pub(crate) transform: Transform,
}

impl Copy {
    /// What `pipeline` makes of the documents of `source` that match `filter`, inserted into the collection `into`.
    pub fn new(
        source: impl Into<Cow<'static, str>>,
        filter: Document,
        pipeline: impl IntoIterator<Item = Document>,
        into: impl Into<Cow<'static, str>>,
    ) -> Self {
        let (source, into) = (source.into(), into.into());
        let name = format!("copy {source} into {into}");
        let pipeline =
            Pipeline { stages: pipeline.into_iter().collect(), makes: made(Sources::Kept) };
        let pipeline = Arc::new(pipeline);
        let transform = Transform::by(source, Editor::Pipeline(pipeline.clone()))
            .filter(filter)
            .named(name)
            .inserts_into(into.clone());
        Copy { pipeline, into, transform }.report("Copy {n} document(s)")
    }

    /// Names the step, where a version has two copies of one collection into another.
    pub fn named(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.transform = self.transform.named(name);
        self
    }

    /// Describes what it did in the report; `{n}` becomes the number of documents that it made.
    pub fn report(mut self, description: impl Into<Cow<'static, str>>) -> Self {
        self.transform.counters.clear();
        self.transform = self.transform.action(ActionType::Insert, COPIED, description);
        self
    }

    /// Deletes each source in the same transaction as its copies; on a standalone server after them, if it is still as it
    /// was read. A source of which the pipeline makes nothing is 14 then: nothing would be left of it.
    pub fn then_delete(mut self) -> Self {
        let stages = self.pipeline.stages.clone();
        self.pipeline = Arc::new(Pipeline { stages, makes: made(Sources::Deleted) });
        self.transform.editor = Editor::Pipeline(self.pipeline.clone());
        self.transform = self.transform.deletes();
        self
    }
}

fn made(sources: Sources) -> Makes {
    Makes::Others { counter: COPIED, sources }
}

impl StepKind for Copy {
    fn name(&self) -> String {
        self.transform.name()
    }

    fn kind(&self) -> &'static str {
        "copy"
    }

    fn reads(&self) -> Vec<&str> {
        self.transform.reads()
    }

    fn writes(&self) -> Vec<&str> {
        match self.transform.deletes {
            true => self.transform.writes(),
            false => vec![&self.into],
        }
    }

    fn collections(&self) -> Vec<&str> {
        self.transform.writes()
    }

    fn own_mistake(&self) -> Option<String> {
        if self.into == self.transform.collection {
            return Some(format!(
                "it copies {} into itself: an update is meant, or another collection",
                self.into
            ));
        }
        if let Some(mistake) = of_filter(&self.transform.filter).first() {
            return Some(format!("its filter: {mistake}"));
        }
        if let Some(mistake) = of_copy(&self.pipeline.stages).first() {
            return Some(format!("its pipeline: {mistake}"));
        }
        self.transform.own_mistake()
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
