//! The editor that has the server evaluate a pipeline.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use mongodb::bson::{Bson, Document, RawArrayBuf, RawDocument, RawDocumentBuf, doc, rawdoc};
use mongodb::{ClientSession, Database};

use crate::authoring::editor::Answer;
use crate::authoring::lookup::Found;
use crate::authoring::pipeline::{FOUND, Makes, Pipeline, Sources};
use crate::authoring::step_kind::StepKind;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::documents::edited::{id_bytes, place as place_of};
use crate::engine::documents::find::{Flow, In, aggregate, each};
use crate::engine::documents::unfit::{check_names, is_refusal, still_matches, unevaluated};
use crate::engine::editors::editor::{Asked, AskedEditor, Origin};
use crate::engine::failing::failed_step;
use crate::process::failure::Failure;
use crate::server::stop::RunError;

/// The most documents that are evaluated at a time, and the most bytes of them, one document aside.
const MOST: usize = 500;
const BYTES: usize = 4 * 1024 * 1024;

/// How many bytes of what comes out for documents are held; what comes out for one may be more.
const HELD: usize = 8 * 1024 * 1024;

/// The most bytes that may come out for one document.
const MOST_MADE: usize = 32 * 1024 * 1024;

const TOO_MUCH_MADE: &str = "the pipeline makes more than 32 MiB of it";

/// The most bytes that may be looked up for one document: it has to fit into one command.
const MOST_FOUND: usize = 15 * 1024 * 1024;

const TOO_MUCH_FOUND: &str =
    "what was looked up for it is more than the 15 MiB that the server is given at once";

const NO_ID: &str = "the pipeline makes a document of it that has no _id: give it one that depends on its source alone";

const NOTHING_LEFT: &str = "the pipeline makes no document of it, so that nothing would be left once it is deleted: leave such \
                            documents out of the filter, or delete them by a step of its own";

/// Has the server evaluate a pipeline for stored documents, each as it is at that moment.
pub(crate) struct Evaluated {
    pipeline: Arc<Pipeline>,
}

/// What the server says of some documents.
#[derive(Default)]
struct Evaluation {
    /// The documents as they were.
    before: Vec<RawDocumentBuf>,
    /// What comes out for them, in order, each with how many documents came before it.
    after: Vec<(usize, RawDocumentBuf)>,
    /// One of them that would still match.
    still: Option<RawDocumentBuf>,
    /// Whether there are more of them, with which it would be too much.
    cut: bool,
    /// Whether more comes out for the last of them than is taken.
    too_much: bool,
}

impl Evaluated {
    pub(crate) fn new(pipeline: Arc<Pipeline>) -> Self {
        Evaluated { pipeline }
    }

    /// The pipeline, with what was looked up at hand in it.
    fn with_found(&self, at_hand: Option<&Document>) -> Vec<Document> {
        let mut stages: Vec<Document> = at_hand.cloned().into_iter().collect();
        stages.extend(self.pipeline.stages.iter().cloned());
        if at_hand.is_some() {
            stages.push(doc! { "$unset": FOUND });
        }
        stages
    }

    /// The stages that make of each document what it becomes.
    fn becomes(&self, transform: &Transform, at_hand: Option<&Document>) -> Vec<Document> {
        let with = |last: Vec<Document>| -> Vec<Document> {
            self.with_found(at_hand).into_iter().chain(last).collect()
        };
        let still = with(vec![
            doc! { "$match": transform.filter.clone() },
            doc! { "$limit": 1 },
            doc! { "$project": { "_id": 1 } },
        ]);
        let named = |name: &str| -> Document {
            doc! { "$map": { "input": format!("${name}"), "in": { name: "$$this" } } }
        };
        let all = ["before", "after", "still"].map(named).map(Bson::from).to_vec();
        vec![
            doc! { "$facet": { "before": [], "after": with(vec![]), "still": still } },
            doc! { "$project": { "all": { "$concatArrays": all } } },
        ]
    }

    /// The stages that follow each document with what is made of it.
    fn others(&self, transform: &Transform) -> Vec<Document> {
        let source = "upgrade_gate_source";
        let mut made = vec![doc! { "$limit": 1 }, doc! { "$replaceWith": format!("$${source}") }];
        made.extend(self.pipeline.stages.iter().cloned());
        let look_up = doc! {
            "from": &*transform.collection,
            "let": { source: "$before" },
            "pipeline": made,
            "as": "after",
        };
        let after = doc! { "$map": { "input": "$after", "in": { "after": "$$this" } } };
        vec![
            doc! { "$sort": { "_id": 1 } },
            doc! { "$replaceWith": { "before": "$$ROOT" } },
            doc! { "$lookup": look_up },
            doc! { "$project": { "all": { "$concatArrays": [[{ "before": "$before" }], after] } } },
        ]
    }

    /// The aggregation for these documents. Before and after come from one reading of each.
    fn command(
        &self,
        transform: &Transform,
        documents: &[RawDocumentBuf],
        at_hand: Option<&Document>,
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
        let mut evaluated = match self.pipeline.makes {
            Makes::Itself { .. } => self.becomes(transform, at_hand),
            Makes::Others { .. } => self.others(transform),
        };
        evaluated.push(doc! { "$unwind": "$all" });
        evaluated.push(doc! { "$replaceRoot": { "newRoot": "$all" } });
        for stage in evaluated {
            stages.push(RawDocumentBuf::try_from(&stage)?);
        }
        Ok(aggregate(&transform.collection, stages, place)?)
    }

    async fn evaluate(
        &self,
        database: &Database,
        session: Option<&mut ClientSession>,
        transform: &Transform,
        documents: &[RawDocumentBuf],
        found: &Found,
        place: In,
    ) -> Result<Evaluation, RunError> {
        let at_hand = at_hand(transform, documents, found)?;
        let command = self.command(transform, documents, at_hand.as_ref(), place)?;
        let mut evaluation = Evaluation::default();
        let (mut held, mut own) = (0, 0);
        each(database, session, command, |answer| {
            let field = answer.into_iter().next().transpose()?;
            let Some((name, document)) =
                field.and_then(|(name, value)| Some((name, value.as_document()?)))
            else {
                return Ok(Flow::On);
            };
            match name.as_str() {
                "before" => {
                    // what comes out for those before this one is enough to be held
                    if matches!(self.pipeline.makes, Makes::Others { .. }) && held > HELD {
                        evaluation.cut = true;
                        return Ok(Flow::Enough);
                    }
                    own = 0;
                    evaluation.before.push(document.to_owned());
                }
                "after" => {
                    own += document.as_bytes().len();
                    held += document.as_bytes().len();
                    evaluation.after.push((evaluation.before.len(), document.to_owned()));
                    if own > MOST_MADE {
                        evaluation.too_much = true;
                        return Ok(Flow::Enough);
                    }
                }
                _ => evaluation.still = Some(document.to_owned()),
            }
            Ok(Flow::On)
        })
        .await?;
        Ok(evaluation)
    }

    /// The document among some for which the server refuses the pipeline, found by halving.
    async fn failing(
        &self,
        database: &Database,
        upgrade: &VersionUpgrade,
        transform: &Transform,
        mut documents: &[RawDocumentBuf],
        found: &Found,
        mut error: mongodb::error::Error,
    ) -> Result<RunError, RunError> {
        while documents.len() > 1 {
            let (first, second) = documents.split_at(documents.len() / 2);
            // outside the transaction, which the error has ended
            let place = In::Plain(None);
            documents = match self.evaluate(database, None, transform, first, found, place).await {
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
        let Asked { database, session, place, upgrade, transform, documents, found, origin } =
            asked;
        if origin == Origin::Computed {
            return Err(Failure::bug("the server evaluates stored documents only").into());
        }
        let mut bytes = 0;
        let fits = documents.iter().take(MOST).take_while(|document| {
            bytes += document.as_bytes().len() + found_bytes(transform, document, found);
            bytes <= BYTES
        });
        let documents = &documents[..fits.count().max(1).min(documents.len())];
        let fields = self.pipeline.fields();
        let looks_up = !transform.lookups.is_empty();
        for document in documents {
            if looks_up && document.get(FOUND)?.is_some() {
                let place = place_of(transform, document);
                return Err(failed_step(
                    upgrade,
                    &transform.name(),
                    &format!(
                        "{place}: it has a field `{FOUND}`, under which the pipeline finds what was looked up"
                    ),
                    "rename the field, or deploy code that does so in an earlier version, then run it again",
                ));
            }
            if found_bytes(transform, document, found) > MOST_FOUND {
                let place = place_of(transform, document);
                return Err(failed_step(
                    upgrade,
                    &transform.name(),
                    &format!("{place}: {TOO_MUCH_FOUND}"),
                    "name with fields what the pipeline needs of them, deploy that, then run it again",
                ));
            }
            let wanted = |name: &str| fields.as_ref().is_none_or(|fields| fields.contains(name));
            check_names(upgrade, transform, document, wanted)?;
        }
        let evaluation =
            match self.evaluate(database, session, transform, documents, found, place).await {
                Err(RunError::Driver(error)) if is_refusal(&error) => {
                    let failing =
                        self.failing(database, upgrade, transform, documents, found, error);
                    return Err(failing.await?);
                }
                evaluation => evaluation?,
            };
        if let (true, Some(source)) = (evaluation.too_much, evaluation.before.last()) {
            return Err(failed_step(
                upgrade,
                &transform.name(),
                &format!("{}: {TOO_MUCH_MADE}", place_of(transform, source)),
                "let the pipeline keep less of each, or deploy code that deals with the document, then run it again",
            ));
        }
        if let Some(still) = evaluation.still {
            return Err(still_matches(upgrade, transform, &still));
        }
        let (asked, last) = (documents.len(), evaluation.before.last().map(|d| id_bytes(d)));
        let documents = match (self.pipeline.makes.clone(), evaluation.cut, last) {
            (Makes::Others { .. }, true, Some(last)) => {
                let end = documents.iter().position(|document| id_bytes(document) == last);
                &documents[..end.map_or(asked, |end| end + 1)]
            }
            _ => documents,
        };
        let mut made = match self.pipeline.makes {
            Makes::Itself { counter } => becomes(evaluation, counter)?,
            Makes::Others { counter, sources } => others(evaluation, transform, counter, sources),
        };
        let answers = documents.iter().map(|document| match made.remove(&id_bytes(document)) {
            // what was looked up belongs to what it was; that it still matches is found at the end of the step
            Some((before, _)) if looks_up && before != *document => {
                Answer { verified: true, ..Answer::default() }
            }
            Some((before, answer)) => {
                Answer { onto: (before != *document).then_some(before), verified: true, ..answer }
            }
            // it is gone, or does not match any more
            None => Answer { verified: true, ..Answer::default() },
        });
        Ok(answers.collect())
    }

    async fn end(self: Box<Self>) -> Result<(), RunError> {
        Ok(())
    }
}

/// The bytes of what was looked up for a document.
fn found_bytes(transform: &Transform, document: &RawDocument, found: &Found) -> usize {
    let found = transform.lookups.iter().flat_map(|lookup| found.of(lookup, document));
    found.map(|found| found.as_bytes().len()).sum()
}

/// The stage that lays what was looked up for each of these documents at its hand.
fn at_hand(
    transform: &Transform,
    documents: &[RawDocumentBuf],
    found: &Found,
) -> Result<Option<Document>, RunError> {
    if transform.lookups.is_empty() {
        return Ok(None);
    }
    let (mut ids, mut all) = (Vec::new(), Vec::new());
    for document in documents {
        if let Some(id) = document.get("_id")? {
            ids.push(Bson::try_from(id)?);
        }
        let mut of_document = Document::new();
        for lookup in &transform.lookups {
            let found = found.of(lookup, document).into_iter().map(Document::try_from);
            let found = found.collect::<Result<Vec<_>, _>>()?;
            of_document.insert(&*lookup.name, found);
        }
        all.push(of_document);
    }
    let position = doc! { "$indexOfArray": [{ "$literal": ids }, "$_id"] };
    let own = doc! { "$arrayElemAt": [{ "$literal": all }, position] };
    Ok(Some(doc! { "$set": { FOUND: own } }))
}

/// The answers by the `_id` of their documents, each with its document as it was.
type Made = HashMap<Vec<u8>, (RawDocumentBuf, Answer)>;

/// Each document becomes what came out for it.
fn becomes(evaluation: Evaluation, counter: &'static str) -> Result<Made, RunError> {
    let Evaluation { before, after, .. } = evaluation;
    if before.len() != after.len() {
        return Err(Failure::bug("the server answered other documents than it read").into());
    }
    let answers = before.into_iter().zip(after).map(|(before, (_, after))| {
        let counts = vec![(counter.into(), 1)];
        let answer = Answer { becomes: Some(after), counts, ..Answer::default() };
        (id_bytes(&before), (before, answer))
    });
    Ok(answers.collect())
}

/// What came out for each document is added to the other collection.
fn others(
    evaluation: Evaluation,
    transform: &Transform,
    counter: &'static str,
    sources: Sources,
) -> Made {
    let Evaluation { before, after, .. } = evaluation;
    let into = transform.inserts_into.first().cloned().unwrap_or_default();
    let mut after = after.into_iter().peekable();
    let mut made = Made::new();
    for (position, before) in before.into_iter().enumerate() {
        let mut answer = Answer::default();
        while let Some((_, document)) = after.next_if(|(after, _)| *after == position + 1) {
            if !matches!(document.get("_id"), Ok(Some(_))) {
                answer.refuse = Some(NO_ID.to_owned());
            }
            answer.inserts.push((into.clone(), document));
        }
        answer.counts = vec![(counter.into(), answer.inserts.len() as u64)];
        if sources == Sources::Deleted {
            answer.delete = true;
            if answer.inserts.is_empty() {
                answer.refuse = Some(NOTHING_LEFT.to_owned());
            }
        }
        made.insert(id_bytes(&before), (before, answer));
    }
    made
}
