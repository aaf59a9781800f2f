//! The editor that has the server evaluate a pipeline.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use mongodb::bson::raw::CString;
use mongodb::bson::{Bson, Document, RawArrayBuf, RawDocument, RawDocumentBuf, doc, rawdoc};
use mongodb::error::Error;
use mongodb::{ClientSession, Database};

use crate::authoring::edit::repeated;
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
use crate::server::answer;
use crate::server::stop::RunError;

/// The most documents that are evaluated at a time, and the most bytes of them, one document aside.
const MOST: usize = 500;
const BYTES: usize = 4 * 1024 * 1024;

/// What part of the documents is evaluated where all of them become too large.
const LESS: usize = 4;

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

/// The server's codes for what is too large to be built, which of fewer documents it may not be.
const TOO_LARGE_AT_ONCE: [i32; 5] = [10334, 13548, 17419, 17420, 4_031_700];

/// Has the server evaluate a pipeline for stored documents, each as it is at that moment.
pub(crate) struct Evaluated {
    pipeline: Arc<Pipeline>,
    /// The most documents that are evaluated at a time, as large as they become.
    most: usize,
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
    /// The bytes of what comes out.
    held: usize,
}

impl Evaluated {
    pub(crate) fn new(pipeline: Arc<Pipeline>) -> Self {
        Evaluated { pipeline, most: MOST }
    }

    /// The stages that make of each document what it becomes. What was looked up is at hand in it, and is not stored.
    fn becomes(&self, transform: &Transform) -> Result<Vec<RawDocumentBuf>, RunError> {
        let unset = (!transform.lookups.is_empty()).then(|| doc! { "$unset": FOUND });
        let with = |last: &[Document]| -> Vec<Document> {
            self.pipeline.stages.iter().chain(&unset).chain(last).cloned().collect()
        };
        let still = [
            doc! { "$match": transform.filter.clone() },
            doc! { "$limit": 1 },
            doc! { "$project": { "_id": 1 } },
        ];
        let named = |name: &str| -> Document {
            doc! { "$map": { "input": format!("${name}"), "in": { name: "$$this" } } }
        };
        let all = ["before", "after", "still"].map(named).map(Bson::from).to_vec();
        let before: Vec<Document> = unset.iter().cloned().collect();
        let stages = [
            doc! { "$facet": { "before": before, "after": with(&[]), "still": with(&still) } },
            doc! { "$project": { "all": { "$concatArrays": all } } },
        ];
        Ok(stages.iter().map(RawDocumentBuf::try_from).collect::<Result<_, _>>()?)
    }

    /// The stages that follow each document with what is made of it.
    fn others(&self, transform: &Transform) -> Result<Vec<RawDocumentBuf>, RunError> {
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
        let stages = [
            doc! { "$sort": { "_id": 1 } },
            doc! { "$replaceWith": { "before": "$$ROOT" } },
            doc! { "$lookup": look_up },
            doc! { "$project": { "all": { "$concatArrays": [[{ "before": "$before" }], after] } } },
        ];
        Ok(stages.iter().map(RawDocumentBuf::try_from).collect::<Result<_, _>>()?)
    }

    /// The aggregation for these documents. Before and after come from one reading of each.
    fn command(
        &self,
        transform: &Transform,
        documents: &[RawDocumentBuf],
        at_hand: Option<&RawDocument>,
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
        // once: it may be nearly as large as a command
        if let Some(at_hand) = at_hand {
            stages.push(at_hand);
        }
        let evaluated = match self.pipeline.makes {
            Makes::Itself { .. } => self.becomes(transform)?,
            Makes::Others { .. } => self.others(transform)?,
        };
        evaluated.into_iter().for_each(|stage| stages.push(stage));
        stages.push(rawdoc! { "$unwind": "$all" });
        stages.push(rawdoc! { "$replaceRoot": { "newRoot": "$all" } });
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
        let command = self.command(transform, documents, at_hand.as_deref(), place)?;
        drop(at_hand);
        let mut evaluation = Evaluation::default();
        let mut own = 0;
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
                    if matches!(self.pipeline.makes, Makes::Others { .. }) && evaluation.held > HELD
                    {
                        evaluation.cut = true;
                        return Ok(Flow::Enough);
                    }
                    own = 0;
                    evaluation.before.push(document.to_owned());
                }
                "after" => {
                    own += document.as_bytes().len();
                    evaluation.held += document.as_bytes().len();
                    // whether one still matches comes behind all of them
                    if matches!(self.pipeline.makes, Makes::Itself { .. })
                        && evaluation.held > HELD
                        && documents.len() > 1
                    {
                        evaluation.cut = true;
                        return Ok(Flow::Enough);
                    }
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
        mut error: Error,
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
        let Asked { database, mut session, place, upgrade, transform, documents, found, origin } =
            asked;
        if origin == Origin::Computed {
            return Err(Failure::bug("the server evaluates stored documents only").into());
        }
        let mut bytes = 0;
        let fits = documents.iter().take(self.most).take_while(|document| {
            bytes += document.as_bytes().len() + found_bytes(transform, document, found);
            bytes <= BYTES
        });
        let mut documents = &documents[..fits.count().max(1).min(documents.len())];
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
        let itself = matches!(self.pipeline.makes, Makes::Itself { .. });
        let evaluation = loop {
            let evaluating =
                self.evaluate(database, session.as_deref_mut(), transform, documents, found, place);
            let is_one = documents.len() == 1;
            match evaluating.await {
                // a transaction has ended with the error, and begins again
                Err(RunError::Driver(error)) if is_too_large_at_once(&error) && !is_one => {}
                Err(RunError::Driver(error)) if is_refusal(&error) => {
                    let failing =
                        self.failing(database, upgrade, transform, documents, found, error);
                    return Err(failing.await?);
                }
                Ok(evaluation) if itself && evaluation.cut && !is_one => {}
                evaluation => break evaluation?,
            }
            self.most = documents.len().div_ceil(LESS);
            documents = &documents[..self.most];
        };
        if itself && evaluation.held < HELD / (2 * LESS) {
            self.most = (self.most * 2).min(MOST);
        }
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

/// Whether the server could not build what fewer documents may allow.
fn is_too_large_at_once(error: &Error) -> bool {
    answer::code(error).is_some_and(|code| TOO_LARGE_AT_ONCE.contains(&code))
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
) -> Result<Option<RawDocumentBuf>, RunError> {
    if transform.lookups.is_empty() {
        return Ok(None);
    }
    let (mut ids, mut all) = (RawArrayBuf::new(), RawArrayBuf::new());
    for document in documents {
        if let Some(id) = document.get("_id")? {
            ids.push(id);
        }
        let mut of_document = RawDocumentBuf::new();
        for lookup in &transform.lookups {
            let mut of_lookup = RawArrayBuf::new();
            for found in found.of(lookup, document) {
                // the server may take either of a field that is there twice
                match repeated(found, |_| true) {
                    Ok(None) => of_lookup.push(found),
                    _ => of_lookup.push(RawDocumentBuf::try_from(&Document::try_from(found)?)?),
                }
            }
            of_document.append(CString::try_from(&*lookup.name)?, of_lookup);
        }
        all.push(of_document);
    }
    let position = rawdoc! { "$indexOfArray": [{ "$literal": ids }, "$_id"] };
    let own = rawdoc! { "$arrayElemAt": [{ "$literal": all }, position] };
    let found = RawDocumentBuf::from_iter([(CString::try_from(FOUND)?, own)]);
    Ok(Some(rawdoc! { "$set": found }))
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
