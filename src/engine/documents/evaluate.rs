//! Pipelines that the server evaluates read-only: whether it knows them, and what they make of all documents of a
//! collection that match a filter.

use std::time::Instant;

use mongodb::bson::{Bson, Document, RawArrayBuf, RawDocumentBuf, doc};
use mongodb::error::Error;

use crate::authoring::edit::MAX_DOCUMENT_SIZE;
use crate::authoring::pipeline::Pipeline;
use crate::authoring::step_kind::StepKind;
use crate::authoring::table::VersionUpgrade;
use crate::authoring::transform::Transform;
use crate::engine::background::TURN;
use crate::engine::context::Context;
use crate::engine::documents::edited::place;
use crate::engine::documents::find::{self, In, query};
use crate::engine::documents::unfit::{
    OUTGROWS, check_names, is_refusal, still_matches, unevaluated,
};
use crate::engine::failing::{at, failed, failed_step};
use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::server::answer;
use crate::server::stop::RunError;

/// The codes for an operator or a stage that the server does not know, where the message does not tell.
const UNKNOWN: [i32; 3] = [168, 40324, 31325];

/// The code for what only a validator may hold.
const NOT_IN_A_QUERY: i32 = 224;

/// How many documents come with one answer of the server.
const BATCH: u32 = 1000;

/// Documents as they come before a pipeline: those that match a filter, and what earlier steps would make of them.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) filter: Document,
    pub(crate) stages: Vec<Document>,
}

/// What a pipeline makes of documents.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Survey {
    pub(crate) documents: u64,
    /// Their bytes afterwards.
    pub(crate) bytes: usize,
    pub(crate) largest: usize,
}

/// Makes sure that the server knows all that a filter and a pipeline hold. Nothing is read.
///
/// # Errors
///
/// It knows an operator not at all: 18. It refuses another part: 14.
pub(crate) async fn known(
    context: &Context,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    pipeline: &Pipeline,
) -> Result<(), RunError> {
    let collection = &*transform.collection;
    match refusal(context, collection, &transform.filter, &pipeline.stages).await? {
        Some(error) => Err(not_known(&at(upgrade, &transform.name()), collection, &error)),
        None => Ok(()),
    }
}

/// Makes sure that the server knows all that a filter of a command or a condition holds, as far as the user may ask;
/// `whose` names that in messages. Nothing is read.
///
/// # Errors
///
/// As [`known`].
pub(crate) async fn known_filter(
    context: &Context,
    whose: &str,
    collection: &str,
    filter: &Document,
) -> Result<(), RunError> {
    match refusal(context, collection, filter, &[]).await {
        Ok(None) => Ok(()),
        // a validator may hold what no query does
        Ok(Some(error)) if answer::code(&error) == Some(NOT_IN_A_QUERY) => Ok(()),
        Ok(Some(error)) => Err(not_known(whose, collection, &error)),
        // the step itself does not need to read
        Err(RunError::Driver(error)) if answer::code(&error) == Some(answer::UNAUTHORISED) => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Why the server refuses a filter and a pipeline, on whatever documents.
async fn refusal(
    context: &Context,
    collection: &str,
    filter: &Document,
    pipeline: &[Document],
) -> Result<Option<Error>, RunError> {
    let nothing = doc! { "$and": [{ "_id": { "$in": [] } }, filter.clone()] };
    let mut stages = vec![doc! { "$match": nothing }];
    stages.extend(pipeline.iter().cloned());
    let command = aggregate(collection, stages, In::Plain(None))?;
    let asking =
        async || context.stop.guard(query(context.database(), None, command.clone())).await;
    match context.retry(asking).await {
        Ok(_) => Ok(None),
        Err(RunError::Driver(error)) if is_refusal(&error) => Ok(Some(error)),
        Err(error) => Err(error),
    }
}

/// The closed gate of a step or a condition that the server does not understand.
fn not_known(whose: &str, collection: &str, error: &Error) -> RunError {
    // nothing was read: what the message holds is the step's own
    let message = answer::message(error).unwrap_or_default();
    let unknown = ["unknown operator", "unknown top level operator", "Unrecognized", "Unknown"];
    let code = answer::code(error);
    if code.is_some_and(|code| UNKNOWN.contains(&code))
        || unknown.iter().any(|text| message.contains(text))
    {
        return RunError::Failure(Failure::new(
            Outcome::ServerUnsuitable,
            format!("{whose}: this server does not know an operator that it has ({message})"),
            "upgrade the server to a version that has it, or deploy code whose upgrade does without it, then \
             run it again",
        ));
    }
    failed(
        format!(
            "{whose}: collection {collection}: the server refuses its filter or pipeline ({message})"
        ),
        "correct what it names, deploy that, then run it again",
    )
}

/// Evaluates a pipeline for all documents of a source.
///
/// # Errors
///
/// It fails for one of them, would leave it matching the transform's filter, or would make it larger than 16 MiB; or one
/// repeats a field.
pub(crate) async fn survey(
    context: &Context,
    upgrade: &VersionUpgrade,
    transform: &Transform,
    pipeline: &Pipeline,
    source: &Source,
    place: In,
) -> Result<Survey, RunError> {
    let on = On { context, upgrade, transform, pipeline, place };
    let (measured, checked) = tokio::join!(on.measure(source), on.check_names(source));
    checked?;
    let measured = match measured {
        Err(RunError::Driver(error)) if is_refusal(&error) => {
            return Err(on.failing(source, &error).await?);
        }
        measured => measured?,
    };
    if let Some(still) = measured.still {
        return Err(still_matches(upgrade, transform, &still));
    }
    if measured.survey.largest > MAX_DOCUMENT_SIZE {
        return Err(on.too_large(source).await?);
    }
    Ok(measured.survey)
}

/// An aggregation over a collection.
fn aggregate(
    collection: &str,
    stages: Vec<Document>,
    place: In,
) -> Result<RawDocumentBuf, RunError> {
    let mut pipeline = RawArrayBuf::new();
    for stage in &stages {
        pipeline.push(RawDocumentBuf::try_from(stage)?);
    }
    Ok(find::aggregate(collection, pipeline, place)?)
}

struct On<'a> {
    context: &'a Context,
    upgrade: &'a VersionUpgrade,
    transform: &'a Transform,
    pipeline: &'a Pipeline,
    place: In,
}

struct Measured {
    survey: Survey,
    /// A document that would still match.
    still: Option<RawDocumentBuf>,
}

impl On<'_> {
    async fn ask(&self, stages: Vec<Document>) -> Result<Vec<RawDocumentBuf>, RunError> {
        let command = aggregate(&self.transform.collection, stages, self.place)?;
        self.run(command).await
    }

    async fn run(&self, command: RawDocumentBuf) -> Result<Vec<RawDocumentBuf>, RunError> {
        let context = self.context;
        let asking =
            async || context.stop.guard(query(context.database(), None, command.clone())).await;
        context.retry(asking).await
    }

    /// The stages from the collection to what the pipeline makes; of some of the documents, by position in `_id` order.
    fn stages(&self, source: &Source, part: Option<(u64, u64)>) -> Vec<Document> {
        let mut stages = vec![doc! { "$match": source.filter.clone() }];
        if let Some((skip, limit)) = part {
            stages.push(doc! { "$sort": { "_id": 1 } });
            stages.push(doc! { "$skip": skip as i64 });
            stages.push(doc! { "$limit": limit as i64 });
        }
        stages.extend(source.stages.iter().cloned());
        stages.extend(self.pipeline.stages.iter().cloned());
        stages
    }

    async fn measure(&self, source: &Source) -> Result<Measured, RunError> {
        let size = doc! { "$bsonSize": "$$ROOT" };
        let sizes = doc! {
            "$group": {
                "_id": null,
                "documents": { "$sum": 1 },
                "bytes": { "$sum": size.clone() },
                "largest": { "$max": size },
            },
        };
        let mut stages = self.stages(source, None);
        // the server cannot measure what it cannot build, so whether it still matches is asked first
        stages.push(doc! { "$facet": {
            "still": [
                { "$match": self.transform.filter.clone() },
                { "$limit": 1 },
                { "$project": { "_id": 1 } },
            ],
            "sizes": [sizes],
        } });
        let answered = self.ask(stages).await?;
        let mut measured = Measured { survey: Survey::default(), still: None };
        for answer in answered {
            let answer = Document::try_from(&*answer)?;
            let first = |name: &str| answer.get_array(name).ok()?.first()?.as_document().cloned();
            if let Some(still) = first("still") {
                measured.still = Some(RawDocumentBuf::try_from(&still)?);
            }
            if let Some(sizes) = first("sizes") {
                measured.survey = Survey {
                    documents: number(sizes.get("documents")),
                    bytes: number(sizes.get("bytes")) as usize,
                    largest: number(sizes.get("largest")) as usize,
                };
            }
        }
        Ok(measured)
    }

    /// Makes sure that no document repeats a field which the pipeline reads or writes.
    async fn check_names(&self, source: &Source) -> Result<(), RunError> {
        let fields = self.pipeline.fields();
        let mut find = doc! {
            "find": &*self.transform.collection,
            "filter": source.filter.clone(),
            "batchSize": BATCH,
        };
        if let Some(fields) = &fields {
            let mut projection = doc! { "_id": 1 };
            projection.extend(fields.iter().map(|field| (field.clone(), Bson::Int32(1))));
            find.insert("projection", projection);
        }
        if let Some(concern) = self.place.read_concern() {
            find.insert("readConcern", concern);
        }
        let find = RawDocumentBuf::try_from(&find)?;
        let (context, transform) = (self.context, self.transform);
        let reading = async || {
            let checking = async {
                let asking = context.database().run_raw_cursor_command(find.clone());
                // else the server would send 16 MiB at a time
                let mut cursor = asking.batch_size(BATCH).await?;
                let mut began = Instant::now();
                while cursor.advance().await? {
                    check_names(self.upgrade, transform, cursor.current(), |_| true)?;
                    if began.elapsed() > TURN {
                        tokio::task::yield_now().await;
                        began = Instant::now();
                    }
                }
                Ok::<(), RunError>(())
            };
            context.stop.guard(checking).await
        };
        context.retry(reading).await
    }

    /// The closed gate of a document for which the pipeline fails, found by halving.
    async fn failing(&self, source: &Source, error: &Error) -> Result<RunError, RunError> {
        let mut counting = vec![doc! { "$match": source.filter.clone() }];
        counting.push(doc! { "$count": "documents" });
        let counted = self.ask(counting).await?;
        let counted = counted.first().and_then(|counted| counted.get("documents").ok().flatten());
        let (mut skip, mut left) = (0, number(counted.and_then(|n| n.try_into().ok()).as_ref()));
        let mut last = None;
        while left > 0 {
            let half = left.div_ceil(2);
            let mut stages = self.stages(source, Some((skip, half)));
            // what is computed must be needed
            stages.push(
                doc! { "$group": { "_id": null, "bytes": { "$sum": { "$bsonSize": "$$ROOT" } } } },
            );
            match self.ask(stages).await {
                Ok(_) if left == 1 => break,
                Ok(_) => (skip, left) = (skip + half, left - half),
                Err(RunError::Driver(error)) if is_refusal(&error) => {
                    last = Some(error);
                    if left == 1 {
                        break;
                    }
                    left = half;
                }
                Err(error) => return Err(error),
            }
            self.context.activity.moved();
        }
        let found = match last.is_some() {
            true => {
                let stages = vec![
                    doc! { "$match": source.filter.clone() },
                    doc! { "$sort": { "_id": 1 } },
                    doc! { "$skip": skip as i64 },
                    doc! { "$limit": 1 },
                    doc! { "$project": { "_id": 1 } },
                ];
                self.ask(stages).await?
            }
            false => vec![],
        };
        let document = found.first().map(|document| &**document);
        let error = last.as_ref().unwrap_or(error);
        Ok(unevaluated(self.upgrade, self.transform, document, error))
    }

    /// The closed gate of a document that would become too large.
    async fn too_large(&self, source: &Source) -> Result<RunError, RunError> {
        let mut stages = self.stages(source, None);
        let size = doc! { "$gt": [{ "$bsonSize": "$$ROOT" }, MAX_DOCUMENT_SIZE as i64] };
        stages.push(doc! { "$match": { "$expr": size } });
        stages.push(doc! { "$limit": 1 });
        stages.push(doc! { "$project": { "_id": 1 } });
        let found = self.ask(stages).await?;
        let place = match found.first() {
            Some(document) => place(self.transform, document),
            None => format!("a document of {}", self.transform.collection),
        };
        Ok(failed_step(
            self.upgrade,
            &self.transform.name(),
            &format!("{place}: {OUTGROWS}"),
            "correct the document, or deploy code whose upgrade can deal with it, then run it again",
        ))
    }
}

fn number(value: Option<&Bson>) -> u64 {
    match value {
        Some(Bson::Int32(n)) => u64::try_from(*n).unwrap_or_default(),
        Some(Bson::Int64(n)) => u64::try_from(*n).unwrap_or_default(),
        Some(Bson::Double(n)) => *n as u64,
        _ => 0,
    }
}
