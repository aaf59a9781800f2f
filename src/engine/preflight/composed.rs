//! An update of documents that earlier updates change: evaluated, before the first of them writes, on what these make of
//! each document, by an aggregation that composes their filters and pipelines.

use mongodb::bson::{Document, Timestamp, doc};

use crate::authoring::step::Step;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::update::Update;
use crate::engine::context::Context;
use crate::engine::documents::evaluate::{Source, Survey, survey};
use crate::engine::documents::find::In;
use crate::engine::preflight::estimate::Known;
use crate::server::stop::RunError;

/// The most updates that are composed, the last one included: each of them doubles the ways that a document may take.
const MOST: usize = 4;

/// An update, and the earlier ones that change what it reads.
pub(crate) struct Composed<'a> {
    earlier: Vec<&'a Update>,
    upgrade: &'a VersionUpgrade,
    update: &'a Update,
}

impl<'a> Composed<'a> {
    /// The last of these steps with those before it. `None` if it is no update of its own documents alone, or if
    /// anything but a few such updates changes them.
    pub(crate) fn of(steps: &[(&'a VersionUpgrade, &'a Step)]) -> Option<Self> {
        let ((upgrade, Step::Update(update)), earlier) = steps.split_last()? else { return None };
        let own = &*update.transform.collection;
        let mut links = Vec::new();
        for (_, step) in earlier.iter().filter(|(_, step)| step.writes().contains(&own)) {
            match step {
                Step::Update(link) if link.is_plain() => links.push(link),
                _ => return None,
            }
        }
        (update.is_plain() && links.len() < MOST).then_some(Composed {
            earlier: links,
            upgrade,
            update,
        })
    }

    /// What the update would do.
    pub(crate) async fn follow(
        &self,
        context: &Context,
        since: Option<Timestamp>,
    ) -> Result<Known, RunError> {
        let Update { transform, pipeline, .. } = self.update;
        let mut all = Survey::default();
        for source in self.sources() {
            let place = In::Plain(since);
            let part = survey(context, self.upgrade, transform, pipeline, &source, place).await?;
            all.documents += part.documents;
            all.bytes += part.bytes;
            all.largest = all.largest.max(part.largest);
            context.activity.moved();
        }
        Ok(self.update.estimated(context, &all))
    }

    /// The ways that documents take: through each earlier update, or past it.
    fn sources(&self) -> Vec<Source> {
        let mut ways: Vec<Vec<Document>> = vec![vec![]];
        for link in &self.earlier {
            let filter = &link.transform.filter;
            ways = ways
                .into_iter()
                .flat_map(|way| {
                    let mut past = way.clone();
                    past.push(doc! { "$match": { "$nor": [filter.clone()] } });
                    let mut through = way;
                    through.push(doc! { "$match": filter.clone() });
                    through.extend(link.pipeline.stages.iter().cloned());
                    [past, through]
                })
                .collect();
        }
        let ends = doc! { "$match": self.update.transform.filter.clone() };
        let source = |mut way: Vec<Document>| {
            way.push(ends.clone());
            let first = way.remove(0);
            let filter = first.get_document("$match").cloned().unwrap_or_default();
            Source { filter, stages: way }
        };
        ways.into_iter().map(source).collect()
    }
}
