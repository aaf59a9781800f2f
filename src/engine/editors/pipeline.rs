//! The editor that has the server evaluate a pipeline.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use mongodb::bson::raw::cstr;
use mongodb::bson::{Bson, Document, RawArrayBuf, RawDocument, RawDocumentBuf, doc, rawdoc};
use mongodb::{ClientSession, Database};

use crate::authoring::editor::Answer;
use crate::authoring::pipeline::{Makes, Pipeline};
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::documents::edited::id_bytes;
use crate::engine::documents::find::{In, LOOK_UP_BATCH, query};
use crate::engine::documents::unfit::{check_names, is_refusal, still_matches, unevaluated};
use crate::engine::editors::editor::{Asked, AskedEditor, Origin};
use crate::process::failure::Failure;
use crate::server::stop::RunError;

/// The most documents that are evaluated at a time, and the most bytes of them, one document aside.
const MOST: usize = 500;
const BYTES: usize = 4 * 1024 * 1024;

/// Has the server evaluate a pipeline for stored documents, each as it is at that moment.
pub(crate) struct Evaluated {
    pipeline: Arc<Pipeline>,
}

/// What the server says of some documents.
struct Evaluation {
    /// The documents as they were.
    before: Vec<RawDocumentBuf>,
    /// What comes out for them, in order.
    after: Vec<RawDocumentBuf>,
    /// One of them that would still match.
    still: Option<RawDocumentBuf>,
}

impl Evaluated {
    pub(crate) fn new(pipeline: Arc<Pipeline>) -> Self {
        Evaluated { pipeline }
    }

    /// The aggregation for these documents. Before and after come from one reading of each.
    fn command(
        &self,
        transform: &Transform,
        documents: &[RawDocumentBuf],
        place: In,
    ) -> Result<RawDocumentBuf, RunError> {
        let mut ids = RawArrayBuf::new();
        for document in documents {
            if let Some(id) = document.get("_id")? {
                ids.push(id);
            }
        }
        let filter = RawDocumentBuf::try_from(&transform.filter)?;
        let both = RawArrayBuf::from_iter([rawdoc! { "_id": { "$in": ids } }, filter]);
        let mut stages = RawArrayBuf::new();
        stages.push(rawdoc! { "$match": { "$and": both } });
        let with = |last: Vec<Document>| -> Vec<Document> {
            self.pipeline.stages.iter().cloned().chain(last).collect()
        };
        let still = with(vec![
            doc! { "$match": transform.filter.clone() },
            doc! { "$limit": 1 },
            doc! { "$project": { "_id": 1 } },
        ]);
        let facets = doc! { "before": [], "after": with(vec![]), "still": still };
        let named = |name: &str| -> Document {
            doc! { "$map": { "input": format!("${name}"), "in": { name: "$$this" } } }
        };
        let all = ["before", "after", "still"].map(named).map(Bson::from).to_vec();
        for stage in [
            doc! { "$facet": facets },
            doc! { "$project": { "all": { "$concatArrays": all } } },
            doc! { "$unwind": "$all" },
            doc! { "$replaceRoot": { "newRoot": "$all" } },
        ] {
            stages.push(RawDocumentBuf::try_from(&stage)?);
        }
        let mut command = rawdoc! {
            "aggregate": &*transform.collection,
            "pipeline": stages,
            "cursor": { "batchSize": LOOK_UP_BATCH },
        };
        if let Some(concern) = place.read_concern() {
            command.append(cstr!("readConcern"), RawDocumentBuf::try_from(&concern)?);
        }
        Ok(command)
    }

    async fn evaluate(
        &self,
        database: &Database,
        session: Option<&mut ClientSession>,
        transform: &Transform,
        documents: &[RawDocumentBuf],
        place: In,
    ) -> Result<Evaluation, RunError> {
        let command = self.command(transform, documents, place)?;
        let mut evaluation = Evaluation { before: vec![], after: vec![], still: None };
        for answer in query(database, session, command).await? {
            for field in &answer {
                let (name, value) = field?;
                let Some(document) = value.as_document() else { continue };
                match name.as_str() {
                    "before" => evaluation.before.push(document.to_owned()),
                    "after" => evaluation.after.push(document.to_owned()),
                    _ => evaluation.still = Some(document.to_owned()),
                }
            }
        }
        Ok(evaluation)
    }

    /// The document among some for which the server refuses the pipeline, found by halving.
    async fn failing(
        &self,
        database: &Database,
        upgrade: &VersionUpgrade,
        transform: &Transform,
        mut documents: &[RawDocumentBuf],
        mut error: mongodb::error::Error,
    ) -> Result<RunError, RunError> {
        while documents.len() > 1 {
            let (first, second) = documents.split_at(documents.len() / 2);
            // outside the transaction, which the error has ended
            let place = In::Plain(None);
            documents = match self.evaluate(database, None, transform, first, place).await {
                Ok(_) => second,
                Err(RunError::Driver(of_first)) if is_refusal(&of_first) => {
                    error = of_first;
                    first
                }
                Err(error) => return Err(error),
            };
        }
        let document = documents.first().map(|document| -> &RawDocument { document });
        Ok(unevaluated(upgrade, transform, document, &error))
    }
}

#[async_trait]
impl AskedEditor for Evaluated {
    async fn answers(&mut self, asked: Asked<'_>) -> Result<Vec<Answer>, RunError> {
        let Asked { database, session, place, upgrade, transform, documents, origin, .. } = asked;
        if origin == Origin::Computed {
            return Err(Failure::bug("the server evaluates stored documents only").into());
        }
        let mut bytes = 0;
        let fits = documents.iter().take(MOST).take_while(|document| {
            bytes += document.as_bytes().len();
            bytes <= BYTES
        });
        let documents = &documents[..fits.count().max(1).min(documents.len())];
        let fields = self.pipeline.fields();
        for document in documents {
            let wanted = |name: &str| fields.as_ref().is_none_or(|fields| fields.contains(name));
            check_names(upgrade, transform, document, wanted)?;
        }
        let evaluation = match self.evaluate(database, session, transform, documents, place).await {
            Err(RunError::Driver(error)) if is_refusal(&error) => {
                let failing = self.failing(database, upgrade, transform, documents, error);
                return Err(failing.await?);
            }
            evaluation => evaluation?,
        };
        if let Some(still) = evaluation.still {
            return Err(still_matches(upgrade, transform, &still));
        }
        let Evaluation { before, after, .. } = evaluation;
        if before.len() != after.len() {
            return Err(Failure::bug("the server answered fewer documents than it read").into());
        }
        let mut made: HashMap<Vec<u8>, (RawDocumentBuf, RawDocumentBuf)> = HashMap::new();
        for pair in before.into_iter().zip(after) {
            made.insert(id_bytes(&pair.0), pair);
        }
        let Makes::Itself { counter } = self.pipeline.makes;
        let answers = documents.iter().map(|document| match made.remove(&id_bytes(document)) {
            Some((before, after)) => Answer {
                onto: (before != *document).then_some(before),
                becomes: Some(after),
                counts: vec![(counter.into(), 1)],
                verified: true,
                ..Answer::default()
            },
            // it is gone, or does not match any more
            None => Answer { verified: true, ..Answer::default() },
        });
        Ok(answers.collect())
    }

    async fn end(self: Box<Self>) -> Result<(), RunError> {
        Ok(())
    }
}
